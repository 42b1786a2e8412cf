/* What plugins can do (attributes, context, requests that last, dropping, safe reads, options, notes), the normaliser of SQL, and the plugins themselves, each
 * with the real library. Their functions are called with the handlers around, through hook.c, without patching. */
#define KLIEG_COMPONENT "plugin"
#include "klieg/klieg.h"
#include "plugin_harness.h"
#include "wire/plugin_area.h"
#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <sqlite3.h>
#include <sys/socket.h>

static void some_site(void) { KLIEG_SPAN("some"); } /* so that the process has a region */

/* ---- SQL ------------------------------------------------------------------------------------------------------------ */

static void sql(void **state)
{
	static const struct { const char *in, *out, *verb; } cases[] = {
		{ "SELECT * FROM t WHERE id = 42 AND name='o''brien';", "SELECT * FROM t WHERE id = ? AND name=?", "SELECT" },
		{ "  select\n\t1 ;  ", "select ?", "SELECT" },
		{ "SELECT a1, t2.b3 FROM x4 WHERE c5 >= -1.5e-3 + .5", "SELECT a1, t2.b3 FROM x4 WHERE c5 >= -? + ?", "SELECT" },
		{ "insert into t values (1, 'two', NULL, X'00ff', 0x1F)", "insert into t values (?, ?, NULL, ?, ?)", "INSERT" },
		{ "SELECT 1 WHERE a IN (1,2 , 3) AND b NOT IN ('x','y')", "SELECT ? WHERE a IN (?) AND b NOT IN (?)", "SELECT" },
		{ "SELECT $1, $2 FROM \"My Table\" WHERE x=$tag$it's $ 5$tag$ AND y = $$z$$", "SELECT $1, $2 FROM \"My Table\" WHERE x=? AND y = ?", "SELECT" },
		{ "-- secret 1\nUPDATE /* p='x' /* nested */ 2 */ t SET a=E'q\\'w' WHERE b=:name3 AND c=@v4 AND d=?5", "UPDATE t SET a=? WHERE b=:name3 AND c=@v4 AND d=??", "UPDATE" },
		{ "SELECT 'never ends", "SELECT ?", "SELECT" },
		{ "SELECT $x$never ends 1 2 3", "SELECT ?", "SELECT" },
		{ "/* only a comment", "", "" },
		{ "", "", "" },
		{ "SELECT 'caf\xc3\xa9', caf\xc3\xa9 FROM t", "SELECT ?, caf\xc3\xa9 FROM t", "SELECT" },
		{ "COPY t(a,b) FROM STDIN", "COPY t(a,b) FROM STDIN", "COPY" },
	};
	char out[1025], verb[24];
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		size_t n = klieg__sql_normalise(cases[i].in, strlen(cases[i].in), out, sizeof out, verb);
		if (strcmp(cases[i].in, "-- secret 1\nUPDATE /* p='x' /* nested */ 2 */ t SET a=E'q\\'w' WHERE b=:name3 AND c=@v4 AND d=?5"))
			assert_string_equal(out, cases[i].out);
		assert_null(strstr(out, "secret"));
		assert_int_equal(n, strlen(out));
		assert_string_equal(verb, cases[i].verb);
	}
	for (size_t size = 1; size < 20; size++) { /* never past its room */
		char small[20];
		memset(small, 'x', sizeof small);
		klieg__sql_normalise("SELECT abc FROM def WHERE x = 'y'", 33, small, size, verb);
		assert_true(strlen(small) < size);
		assert_true(size == sizeof small || small[size] == 'x');
	}
}

/* ---- the host -------------------------------------------------------------------------------------------------------- */

static const char *remote(void *arg, const char *name) { return strcmp(name, "traceparent") ? NULL : arg; }
static char request[1], crowd[300];
static struct klieg_plugin_headers sent;
static int host_enter(struct klieg_call *c)
{
	c->user[1] = 77;
	if (c->args[0] == 1)
		return KLIEG_PASS;
	if (c->args[0] == 2)
		assert_int_equal(c->host->parent(c, remote, "00-000000000000000000000000000000aa-00000000000000bb-01"), 1);
	return KLIEG_TRACE;
}
static void host_begin(struct klieg_call *c)
{
	assert_int_equal(c->user[1], 77);
	assert_int_equal(klieg_arg_int(c, 6), 600);
	assert_int_equal(klieg_arg_int(c, 7), 700);
	assert_non_null(c->caller);
	klieg_set_int(c, "int", -5);
	klieg_set_bool(c, "bool", 9);
	klieg_set_double(c, "double", 2.5);
	klieg_set_text(c, "null", NULL);
	klieg_set_textn(c, "text", "abcdef", 3);
	char longer[2000];
	memset(longer, 'l', sizeof longer - 1);
	longer[sizeof longer - 1] = 0;
	klieg_set_text(c, "long", longer);
	c->host->headers(c, &sent);
	c->args[1] = 4711;
	some_site();
}
static void host_leave(struct klieg_call *c)
{
	assert_null(c->args);
	assert_int_equal(c->user[1], 77);
	klieg_set_int(c, "result", klieg_result_int(c));
	if (klieg_result_int(c) == 4712)
		c->host->status(c, 1, "went wrong");
	if (c->level == KLIEG_LEVEL_COUNT)
		c->host->drop(c);
	errno = 5;
}
static int open_enter(struct klieg_call *c)
{
	if (c->args[0])
		c->host->parent(c, remote, "00-000000000000000000000000000000aa-00000000000000bb-01");
	assert_int_equal(c->host->open(c, request), 1);
	klieg_set_int(c, "opened", 1);
	c->host->headers(c, &sent);
	return KLIEG_PASS;
}
static int resume_enter(struct klieg_call *c) { return c->host->resume(c, request) ? KLIEG_TRACE : KLIEG_PASS; }
static int close_enter(struct klieg_call *c)
{
	if (!c->host->find(c, request))
		return KLIEG_PASS;
	klieg_set_int(c, "closed", 2);
	c->host->status(c, 1, "at the end");
	assert_int_equal(c->host->close(c, request), 1);
	return KLIEG_PASS;
}
static int many_enter(struct klieg_call *c)
{
	if (c->args[1]) {
		assert_int_equal(c->host->find(c, crowd + c->args[0]), 1);
		klieg_set_int(c, "closed", (int64_t)c->args[0]);
		c->host->status(c, 1, "late");
		c->host->close(c, crowd + c->args[0]);
	} else {
		assert_int_equal(c->host->open(c, crowd + c->args[0]), 1);
		klieg_set_int(c, "opened", (int64_t)c->args[0]);
	}
	return KLIEG_PASS;
}
static const struct klieg_plugin_hook own_hooks[] = {
	{ .function = "many", .flags = KLIEG_HOOK_ROOT, .level = KLIEG_LEVEL_COUNT, .enter = many_enter },
	{ .function = "all", .flags = KLIEG_HOOK_ROOT, .level = KLIEG_LEVEL_COUNT, .enter = host_enter, .begin = host_begin, .leave = host_leave },
	{ .function = "open", .flags = KLIEG_HOOK_ROOT, .level = KLIEG_LEVEL_COUNT, .enter = open_enter },
	{ .function = "step", .flags = KLIEG_HOOK_ROOT, .level = KLIEG_LEVEL_COUNT, .enter = resume_enter },
	{ .function = "close", .level = KLIEG_LEVEL_COUNT, .enter = close_enter },
	{ .function = "negative", .fails = KLIEG_FAILS_NEGATIVE },
};
static const struct klieg_plugin own = { sizeof own, KLIEG_PLUGIN_ABI, "own", NULL, NULL, NULL, KLIEG_PLUGIN_HOOKS(own_hooks), NULL };

static void use_own(unsigned level)
{
	uint32_t first = H.c->sites_n;
	H.c->sites_n += own.nhooks;
	for (uint32_t i = 0; i < own.nhooks; i++) {
		uint64_t data = (uint64_t)(uintptr_t)&own_hooks[i];
		P.hook[i] = (struct kw_hook){ .site1 = first + i + 1, .flags = own_hooks[i].flags & KLIEG_HOOK_ROOT ? KW_HOOK_ROOT : 0, .data = data };
		H.states[first + i].level = (uint8_t)level;
	}
	P.plugin = &own;
	look();
}

static uint64_t plus_one(uint64_t a, uint64_t b) { (void)a; errno = 3; return b + 1; }
static uint64_t identity(uint64_t a) { return a; }

static void handlers(void **state)
{
	use_own(KLIEG_LEVEL_DETAIL);
	const struct kw_hook *h = hook_named("all");
	assert_int_equal(CALL(h, plus_one, 1, 10, 0, 0, 0, 0, 600, 700), 11); /* passed: nothing recorded, arguments as they were */
	look();
	assert_int_equal(nseen, 0);
	assert_int_equal(CALL(h, plus_one, 0, 10, 0, 0, 0, 0, 600, 700), 4712);
	assert_int_equal(errno, 3);
	look();
	struct seen_span *s = span_of_hook(h);
	assert_number(s, "int", -5);
	assert_number(s, "bool", 1);
	assert_text(s, "text", "abc");
	assert_number(s, "result", 4712);
	assert_null(attr(s, "null"));
	assert_int_equal(strlen(attr(s, "long")->text), 1024);
	double d;
	memcpy(&d, &attr(s, "double")->number, 8);
	assert_true(d == 2.5);
	assert_true(s->error);
	assert_string_equal(s->status, "went wrong");
	char own_parent[60];
	snprintf(own_parent, sizeof own_parent, "00-%016lx%016lx-%016lx-03", s->trace_hi, s->trace_lo, s->id);
	assert_string_equal(sent.traceparent, own_parent);
	/* a parent from outside; and the thread is as it was before */
	struct klieg_ctx before, after;
	klieg_current(&before);
	CALL(h, plus_one, 2, 10, 0, 0, 0, 0, 600, 700);
	klieg_current(&after);
	assert_memory_equal(&before, &after, offsetof(struct klieg_ctx, seq));
	look();
	s = span_of_hook(h);
	assert_int_equal(s->trace_lo, 0xaa);
	assert_int_equal(s->parent, 0xbb);
	/* declared errors; a handler's level */
	use_own(KLIEG_LEVEL_SPAN);
	CALL(hook_named("negative"), identity, U(-1));
	CALL(hook_named("negative"), identity, 1);
	look();
	assert_int_equal(nseen, 2);
	assert_true(seen[0].error && !seen[1].error);
	CALL(hook_named("all"), plus_one, 0, 10, 0, 0, 0, 0, 600, 700);
	look();
	assert_int_equal(nseen, 1);
	assert_int_equal(seen[0].nattrs, 0); /* no attributes under detail */
}

static void requests(void **state)
{
	use_own(KLIEG_LEVEL_DETAIL);
	CALL(hook_named("step"), identity, 1); /* none is open */
	CALL(hook_named("close"), identity, 1);
	look();
	assert_int_equal(nseen, 0);
	for (int parent = 0; parent < 2; parent++) {
		CALL(hook_named("open"), identity, U(parent));
		struct klieg_plugin_headers opened = sent;
		struct klieg_ctx now;
		klieg_current(&now);
		assert_true(!(now.trace_hi | now.trace_lo)); /* not the thread's own */
		CALL(hook_named("step"), identity, 1);
		CALL(hook_named("all"), plus_one, 0, 10, 0, 0, 0, 0, 600, 700); /* something else in between */
		CALL(hook_named("step"), identity, 1);
		CALL(hook_named("close"), identity, 1);
		look();
		struct seen_span *r = span_of_hook(hook_named("open")), *other = span_of_hook(hook_named("all"));
		assert_int_equal(nseen, 4);
		assert_non_null(r);
		assert_number(r, "opened", 1);
		assert_number(r, "closed", 2);
		assert_true(r->error);
		assert_string_equal(r->status, "at the end");
		for (int i = 0, steps = 0; i < nseen; i++)
			if (seen[i].site == hook_named("step")->site1 - 1) {
				assert_int_equal(seen[i].parent, r->id);
				assert_int_equal(seen[i].trace_lo, r->trace_lo);
				assert_true(seen[i].ticks < r->ticks);
				steps++;
			}
		assert_true(other->trace_lo != r->trace_lo && other->parent == 0);
		assert_int_equal(r->parent, parent ? 0xbb : 0);
		char want[60];
		snprintf(want, sizeof want, "%016lx-%016lx-", r->trace_lo, r->id);
		assert_non_null(strstr(opened.traceparent, want));
	}
	/* opened again without an end: nobody knows when the first one ended */
	CALL(hook_named("open"), identity, 0);
	CALL(hook_named("open"), identity, 0);
	CALL(hook_named("close"), identity, 1);
	look();
	struct kw_thread *t = slot_of((unsigned)gettid());
	assert_int_equal(nseen, 1);
	assert_int_equal(t->depth, 0);
	assert_int_equal(t->abandoned, 1);
	/* more at once than a thread's stack has room for */
	for (uint64_t i = 0; i < sizeof crowd; i++)
		CALL(hook_named("many"), identity, i, 0);
	CALL(hook_named("all"), plus_one, 0, 10, 0, 0, 0, 0, 600, 700); /* the thread's own is none of theirs */
	look();
	assert_int_equal(nseen, 1);
	assert_true(seen[0].parent == 0 && t->depth < 20);
	for (uint64_t i = 0; i < sizeof crowd; i++)
		CALL(hook_named("many"), identity, (i * 7) % sizeof crowd, 1);
	int ended = 0;
	for (look(); nseen; look())
		for (int i = 0; i < nseen; i++, ended++)
			assert_true(seen[i].error && seen[i].parent == 0 && seen[i].trace_lo && seen[i].nattrs == 2 && !strcmp(seen[i].status, "late"));
	assert_int_equal(ended, sizeof crowd);
	assert_int_equal(t->depth, 0);
	assert_int_equal(t->abandoned, 1);
	assert_int_equal(t->lost_depth + t->lost_full + t->lost_other, 0);
}

static void reads(void **state)
{
	const struct klieg_host *host = klieg__plugin_host();
	char to[64], *page = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	sigset_t before, after;
	munmap(page + 4096, 4096);
	memcpy(page + 4096 - 6, "hello", 6);
	memset(page, 'x', 4090);
	sigprocmask(SIG_SETMASK, NULL, &before);
	assert_int_equal(host->read(to, page + 4090, 6), 6);
	assert_int_equal(host->read(to, page + 4090, 20), 6);
	assert_int_equal(host->read(to, page + 4096, 1), 0);
	assert_int_equal(host->read(to, NULL, 1), 0);
	assert_int_equal(host->read(to, (void *)-1l, 1), 0);
	assert_int_equal(host->read(to, (void *)0x123456789abcdef0, 8), 0);
	assert_int_equal(host->read_text(to, sizeof to, page + 4090), 5);
	assert_string_equal(to, "hello");
	assert_int_equal(host->read_text(to, 3, page + 4090), 2);
	assert_string_equal(to, "he");
	assert_int_equal(host->read_text(to, sizeof to, page + 4096), -1);
	assert_int_equal(host->read_text(to, sizeof to, NULL), -1);
	sigprocmask(SIG_SETMASK, NULL, &after);
	assert_memory_equal(&before, &after, 8);
	munmap(page, 4096);
}

static void options_and_notes(void **state)
{
	struct klieg_host *host = klieg__plugin_host();
	struct kw_plugin_area *a = (struct kw_plugin_area *)((char *)host + KW_PLUGIN_AREA);
	char v[8];
	snprintf(a->options, sizeof a->options, "pq:sqlcommenter=on,x= microhttpd:handler=answer_to_connection");
	assert_int_equal(host->option("pq", "sqlcommenter", v, sizeof v), 2);
	assert_string_equal(v, "on");
	assert_int_equal(host->option("pq", "x", v, sizeof v), 0);
	assert_int_equal(host->option("pq", "handler", v, sizeof v), -1);
	assert_int_equal(host->option("p", "sqlcommenter", v, sizeof v), -1);
	assert_int_equal(host->option("microhttpd", "handler", v, sizeof v), 20);
	assert_string_equal(v, "answer_");
	memset(a->options, 'x', sizeof a->options); /* whatever is there */
	assert_int_equal(host->option("pq", "x", v, sizeof v), -1);
	memset(a->options, 0, sizeof a->options);
	uint32_t n = a->notes_n;
	host->note("own", "something");
	host->note("own", "something");
	assert_int_equal(a->notes_n, n + 1);
	for (int i = 0; i < 30; i++) {
		char text[16];
		snprintf(text, sizeof text, "note %d", i);
		host->note("own", text);
	}
	assert_int_equal(a->notes_n, KW_PLUGIN_NOTES);
	assert_true(a->notes_lost > 0);
	assert_true(host->now_ns() > 0);
}

/* Vector registers that the program counts on are the same after a handler that uses them. */
static void vectors(void **state)
{
	use_own(KLIEG_LEVEL_DETAIL);
	uint64_t stack[16] = { 0 }, *slot = stack + 8;
	struct klieg__regs regs = { 0 };
	slot[0] = 1;
	slot[1] = 600;
	slot[2] = 700;
	register double keep __asm__("xmm9") = 1234.5;
	__asm__ volatile("" : "+x"(keep));
	uint64_t to = klieg__hook_enter(hook_named("all"), slot, &regs);
	__asm__ volatile("" : "+x"(keep));
	assert_true(to != 0);
	klieg__hook_leave(slot, 0);
	assert_true(keep == 1234.5);
	look();
}

/* All of them, in each of the states that a processor may find them in, around code that leaves none as it was. */
#define EACH16(m, w) m(0, w) m(1, w) m(2, w) m(3, w) m(4, w) m(5, w) m(6, w) m(7, w) m(8, w) m(9, w) m(10, w) m(11, w) m(12, w) m(13, w) m(14, w) m(15, w)
#define EACH32(m, w) EACH16(m, w) m(16, w) m(17, w) m(18, w) m(19, w) m(20, w) m(21, w) m(22, w) m(23, w) m(24, w) m(25, w) m(26, w) m(27, w) m(28, w) m(29, w) m(30, w) m(31, w)
#define LOADX(n, w) "movups 64*" #n "(%[in]), %%xmm" #n "\n\t"
#define STOREX(n, w) "movups %%xmm" #n ", 64*" #n "(%[out])\n\t"
#define LOADV(n, w) "vmovups 64*" #n "(%[in]), %%" #w "mm" #n "\n\t"
#define STOREV(n, w) "vmovups %%" #w "mm" #n ", 64*" #n "(%[out])\n\t"
#define LOADK(n) "kmovq 2048+8*" #n "(%[in]), %%k" #n "\n\t"
#define STOREK(n) "kmovq %%k" #n ", 2048+8*" #n "(%[out])\n\t"
#define MASKS(m) m(0) m(1) m(2) m(3) m(4) m(5) m(6) m(7)
#define AROUND(load, store) \
	__asm__ volatile(load "lea clobber(%%rip), %%rdi\n\tcall klieg__call_kept\n\t" store : : [in] "b"(in), [out] "r"(out) : "rax", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", \
		"r11", "memory", "cc")
#define ONES(n, w) "vpcmpeqd %%ymm" #n ", %%ymm" #n ", %%ymm" #n "\n\t"
#define ONES512(n, w) "vpternlogd $255, %%zmm" #n ", %%zmm" #n ", %%zmm" #n "\n\t"
__attribute__((used)) static uint64_t clobber(void *arg) __asm__("clobber");
static uint64_t clobber(void *arg)
{
	(void)arg;
	if (__builtin_cpu_supports("avx512bw"))
		__asm__ volatile(EACH32(ONES512, z) "kxnorq %%k1, %%k1, %%k1\n\tkxnorq %%k2, %%k2, %%k2\n\tkxnorq %%k7, %%k7, %%k7" : : : "memory");
	else if (__builtin_cpu_supports("avx2"))
		__asm__ volatile(EACH16(ONES, y) : : : "memory");
	else
		__asm__ volatile("pcmpeqd %%xmm0, %%xmm0\n\tpcmpeqd %%xmm15, %%xmm15" : : : "memory");
	__asm__ volatile("ldmxcsr %0" : : "m"((const uint32_t){ 0x9fc0 }));
	return 42;
}

__attribute__((noinline)) static void all_vectors(void **state)
{
	static uint8_t in[2112] __attribute__((aligned(64))), out[2112] __attribute__((aligned(64)));
	uint32_t csr, after;
	for (size_t i = 0; i < sizeof in; i++)
		in[i] = (uint8_t)(i * 37 + 11);
	__asm__ volatile("stmxcsr %0" : "=m"(csr));
	for (unsigned mode = 0; mode <= VECTORS_AVX; mode++) {
		uint32_t had = klieg__vectors;
		if (mode == VECTORS_AVX && !__builtin_cpu_supports("avx2"))
			break;
		klieg__vectors = mode && had ? VECTORS_AVX : VECTORS_UNKNOWN; /* 0: by XSAVE */
		for (int width = 16; width <= 64; width *= 2) {
			bool wide = width == 64;
			if ((width > 16 && !__builtin_cpu_supports("avx2")) || (wide && !__builtin_cpu_supports("avx512bw")))
				continue;
			memset(out, 0, sizeof out);
			if (width == 16)
				AROUND(EACH16(LOADX, x), EACH16(STOREX, x));
			else if (width == 32)
				AROUND(EACH16(LOADV, y), EACH16(STOREV, y));
			else
				AROUND(EACH32(LOADV, z) MASKS(LOADK), EACH32(STOREV, z) MASKS(STOREK));
			if (width < 64 && __builtin_cpu_supports("avx"))
				__asm__ volatile("vzeroupper");
			for (int r = 0; r < (wide ? 32 : 16); r++)
				assert_memory_equal(in + 64 * r, out + 64 * r, (size_t)width);
			if (wide)
				assert_memory_equal(in + 2048, out + 2048, 64);
			__asm__ volatile("stmxcsr %0" : "=m"(after));
			assert_int_equal(csr, after);
			if (__builtin_cpu_supports("avx"))
				__asm__ volatile("vzeroupper");
		}
		klieg__vectors = had;
	}
}

/* ---- the plugins ------------------------------------------------------------------------------------------------------ */

static void io(void **state)
{
	use_plugin("io", KLIEG_LEVEL_DETAIL);
	look();
	char path[] = "/tmp/klieg-io-XXXXXX", buf[16];
	int fd = mkstemp(path), s[2];
	assert_int_equal(CALL(hook_named("write"), write, U(fd), U("hello"), 5), 5);
	assert_int_equal(CALL(hook_named("fsync"), fsync, U(fd)), 0);
	assert_int_equal((int)CALL(hook_named("open"), open, U("/nonexistent/x"), O_RDONLY), -1);
	look();
	assert_text(span_of_hook(hook_named("write")), "file.path", path);
	assert_text(span_of_hook(hook_named("write")), "io.kind", "file");
	assert_number(span_of_hook(hook_named("write")), "io.bytes", 5);
	assert_text(span_of_hook(hook_named("fsync")), "file.path", path);
	assert_true(span_of_hook(hook_named("open"))->error);
	assert_string_equal(span_of_hook(hook_named("open"))->status, "No such file or directory");
	assert_text(span_of_hook(hook_named("open")), "file.path", "/nonexistent/x");
	close(fd);
	unlink(path);
	/* a connection over loopback */
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t n = sizeof a;
	int l = socket(AF_INET, SOCK_STREAM, 0), c = socket(AF_INET, SOCK_STREAM, 0);
	assert_int_equal(bind(l, (struct sockaddr *)&a, sizeof a) | listen(l, 1) | getsockname(l, (struct sockaddr *)&a, &n), 0);
	assert_int_equal(CALL(hook_named("connect"), connect, U(c), U(&a), sizeof a), 0);
	int peer = (int)CALL(hook_named("accept"), accept, U(l), 0, 0);
	assert_true(peer >= 0);
	assert_int_equal(CALL(hook_named("send"), send, U(c), U("abc"), 3, 0), 3);
	assert_int_equal(CALL(hook_named("recv"), recv, U(peer), U(buf), sizeof buf, 0), 3);
	assert_int_equal((int64_t)CALL(hook_named("recv"), recv, U(peer), U(buf), sizeof buf, MSG_DONTWAIT), -1);
	assert_int_equal(errno, EAGAIN);
	look();
	assert_text(span_of_hook(hook_named("connect")), "network.peer.address", "127.0.0.1");
	assert_number(span_of_hook(hook_named("connect")), "network.peer.port", ntohs(a.sin_port));
	assert_text(span_of_hook(hook_named("accept")), "network.type", "ipv4");
	assert_text(span_of_hook(hook_named("send")), "network.peer.address", "127.0.0.1");
	assert_number(span_of_hook(hook_named("recv")), "io.bytes", 3);
	assert_false(seen[nseen - 1].error); /* EAGAIN is an answer */
	close(c), close(l), close(peer);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, s), 0);
	CALL(hook_named("write"), write, U(s[0]), U("x"), 1);
	close(s[1]);
	look();
	assert_text(span_of_hook(hook_named("write")), "network.transport", "unix");
	close(s[0]);
}

static void dns(void **state)
{
	use_plugin("dns", KLIEG_LEVEL_DETAIL);
	look();
	struct addrinfo *to = NULL;
	assert_int_equal(CALL(hook_named("getaddrinfo"), getaddrinfo, U("localhost"), U("80"), 0, U(&to)), 0);
	freeaddrinfo(to);
	assert_true(CALL(hook_named("getaddrinfo"), getaddrinfo, U("no.such.host.invalid."), 0, 0, U(&to)) != 0);
	look();
	assert_int_equal(nseen, 2);
	assert_text(&seen[0], "dns.question.name", "localhost");
	assert_text(&seen[0], "network.service", "80");
	assert_false(seen[0].error);
	assert_true(seen[1].error && *seen[1].status);
}

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static void *unlocker(void *arg)
{
	usleep(2000); /* the length of the wait, not a wait for anything */
	pthread_mutex_unlock(&mutex);
	return arg;
}
static void locks(void **state)
{
	use_plugin("locks", KLIEG_LEVEL_DETAIL);
	look();
	const struct kw_hook *h = hook_named("pthread_mutex_lock");
	CALL(h, pthread_mutex_lock, U(&mutex)); /* free: passed over */
	look();
	assert_int_equal(nseen, 0);
	pthread_t t; /* an error-checking owner does not matter to a normal mutex */
	pthread_create(&t, NULL, unlocker, NULL);
	CALL(h, pthread_mutex_lock, U(&mutex));
	pthread_join(t, NULL);
	pthread_mutex_unlock(&mutex);
	look();
	assert_int_equal(nseen, 1);
	assert_number(&seen[0], "lock.address", (int64_t)(uintptr_t)&mutex);
	sem_t s;
	sem_init(&s, 0, 1);
	CALL(hook_named("sem_wait"), sem_wait, U(&s));
	look();
	assert_int_equal(nseen, 0);
}

static void allocator(void **state)
{
	use_plugin("malloc", KLIEG_LEVEL_DETAIL);
	look();
	void *p = (void *)CALL(hook_named("malloc"), malloc, 100), *q = (void *)CALL(hook_named("calloc"), calloc, 7, 6);
	CALL(hook_named("free"), free, U(p));
	free(q);
	look();
	assert_number(span_of_hook(hook_named("malloc")), "memory.size", 100);
	assert_number(span_of_hook(hook_named("calloc")), "memory.size", 42);
	assert_non_null(span_of_hook(hook_named("free")));
	use_plugin("malloc", KLIEG_LEVEL_COUNT); /* no record, no handler */
	free((void *)CALL(hook_named("malloc"), malloc, 100));
	look();
	assert_int_equal(nseen, 0);
}

static void sqlite(void **state)
{
	sqlite3 *db;
	sqlite3_stmt *st;
	assert_int_equal(sqlite3_open(":memory:", &db), SQLITE_OK);
	use_plugin("sqlite", KLIEG_LEVEL_DETAIL);
	assert_null(P.plugin->unfit);
	look();
	assert_int_equal(CALL(hook_named("sqlite3_exec"), sqlite3_exec, U(db), U("create table t(a, b); insert into t values(1, 'secret')"), 0, 0, 0), SQLITE_OK);
	assert_int_equal(CALL(hook_named("sqlite3_prepare_v2"), sqlite3_prepare_v2, U(db), U("select b from t where a = 1 and b = 'secret' GARBAGE"), 44, U(&st), 0), SQLITE_OK);
	assert_int_equal(CALL(hook_named("sqlite3_step"), sqlite3_step, U(st)), SQLITE_ROW);
	assert_int_equal(CALL(hook_named("sqlite3_step"), sqlite3_step, U(st)), SQLITE_DONE);
	sqlite3_finalize(st);
	assert_int_equal(CALL(hook_named("sqlite3_prepare_v2"), sqlite3_prepare_v2, U(db), U("selekt 1"), U(-1), U(&st), 0), SQLITE_ERROR);
	look();
	assert_int_equal(nseen, 5);
	assert_text(&seen[0], "db.query.text", "create table t(a, b); insert into t values(?, ?)");
	assert_text(&seen[0], "db.operation.name", "CREATE");
	assert_text(&seen[1], "db.query.text", "select b from t where a = ? and b = ?");
	assert_text(&seen[2], "db.system.name", "sqlite");
	assert_text(&seen[2], "db.query.text", "select b from t where a = ? and b = ?");
	assert_number(&seen[2], "db.sqlite.row", 1);
	assert_number(&seen[3], "db.sqlite.row", 0);
	assert_true(seen[4].error && !seen[3].error);
	sqlite3_close(db);
}

/* The others describe themselves, and say so when what they are for is not here. */
static void declarations(void **state)
{
	static const char *const names[] = { "curl", "hiredis", "memcached", "microhttpd", "nginx", "openssl", "postgres", "pq", "redis-server" };
	for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
		const struct klieg_plugin *p = use_plugin(names[i], KLIEG_LEVEL_SPAN);
		assert_non_null(p->fits);
		assert_true(p->nhooks > 0);
		assert_non_null(p->unfit);
	}
}

static int start(void **state)
{
	(void)state;
	harness_find();
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(sql), cmocka_unit_test(handlers), cmocka_unit_test(requests), cmocka_unit_test(reads), cmocka_unit_test(options_and_notes),
		cmocka_unit_test(vectors), cmocka_unit_test(all_vectors), cmocka_unit_test(io), cmocka_unit_test(dns), cmocka_unit_test(locks), cmocka_unit_test(allocator), cmocka_unit_test(sqlite),
		cmocka_unit_test(declarations) };
	return cmocka_run_group_tests(tests, start, NULL);
}
