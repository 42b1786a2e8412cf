/* Kernel uprobes on a static program (uprobe_target.c): what is in the region afterwards against what the program did. The
 * region is read by the agent's own ring reader. Needs root or the capabilities; where the kernel has no uprobes, everything
 * that needs them is skipped, saying so. */
#include "agent/ring.h"
#include "base/clock.h"
#include "uprobe/internal.h"
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <setjmp.h>
#include <cmocka.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#define PATIENCE 20000000000ll /* bound of every wait */

/* ---- the program --------------------------------------------------------------------------------------------------- */

struct target { pid_t pid; FILE *in, *out; struct { char name[16]; uint64_t offset; uint8_t first[5]; } f[16]; int n; char exe[64]; char line[256]; };

static struct target start(const char *path)
{
	struct target t = { 0 };
	int to[2], from[2];
	assert_int_equal(pipe(to) | pipe(from), 0);
	t.pid = fork();
	if (!t.pid) {
		dup2(to[0], 0);
		dup2(from[1], 1);
		close(to[1]);
		close(from[0]);
		execl(path, path, NULL);
		_exit(127);
	}
	close(to[0]);
	close(from[1]);
	fcntl(to[1], F_SETFD, FD_CLOEXEC);
	fcntl(from[0], F_SETFD, FD_CLOEXEC);
	t.in = fdopen(to[1], "w");
	t.out = fdopen(from[0], "r");
	snprintf(t.exe, sizeof t.exe, "/proc/%d/exe", t.pid);
	while (fgets(t.line, sizeof t.line, t.out) && strcmp(t.line, "ready\n"))
		if (t.n < 16 && sscanf(t.line, "%15s %lu", t.f[t.n].name, &t.f[t.n].offset) == 2)
			t.n++;
	assert_string_equal(t.line, "ready\n");
	int fd = open(t.exe, O_RDONLY | O_CLOEXEC);
	for (int i = 0; i < t.n; i++)
		assert_int_equal(pread(fd, t.f[i].first, 5, (off_t)t.f[i].offset), 5);
	close(fd);
	return t;
}

static int find(const struct target *t, const char *name)
{
	for (int i = 0; i < t->n; i++)
		if (!strcmp(t->f[i].name, name))
			return i;
	fail_msg("no function %s", name);
	return 0;
}
static uint64_t offset_of(const struct target *t, const char *name) { return t->f[find(t, name)].offset; }

static void tell(struct target *t, const char *what, long n)
{
	fprintf(t->in, "%s %ld\n", what, n);
	fflush(t->in);
}

static void await_done(struct target *t)
{
	char line[256];
	while (fgets(line, sizeof line, t->out) && strcmp(line, "done\n"))
		memcpy(t->line, line, sizeof line);
	assert_string_equal(line, "done\n");
}

static void ask(struct target *t, const char *what, long n)
{
	tell(t, what, n);
	await_done(t);
}

static void stop(struct target *t)
{
	int status;
	fclose(t->in); /* it leaves its loop, with status 0 */
	assert_int_equal(waitpid(t->pid, &status, 0), t->pid);
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	fclose(t->out);
}

/* ---- the agent ----------------------------------------------------------------------------------------------------- */

struct seen { uint64_t spans, ticks, max_ticks, start, roots; };
struct agent {
	struct uprobe *u;
	uint8_t *map;
	struct kw_region reg;
	struct kw_control *control;
	struct kw_site_state *state;
	struct seen site[64];
	uint64_t made, lost_full, lost_depth, abandoned, unsampled, lost_cells, slots_ended, orphans;
	uint64_t trace_hi[KW_MAX_THREADS], trace_lo[KW_MAX_THREADS];
	uint64_t traces;
	void (*on_attributes)(struct agent *, const struct ring_rec *);
	long given, named, ret;
};

static bool permitted; /* set by the first test */
#define NEED() do { if (!permitted) { print_message("kernel uprobes cannot be used here\n"); skip(); } } while (0)

static struct agent watch_as(pid_t pid, bool perf_events)
{
	struct agent a = { 0 };
	struct err e = { 0 };
	if (uprobe_open_as(pid, "/tmp/some.sock", perf_events, &a.u, &e) < 0)
		fail_msg("uprobe_open: %s", e.msg);
	int fd = uprobe_memfd(a.u);
	assert_int_equal(pread(fd, &a.reg, sizeof a.reg, 0), sizeof a.reg);
	assert_true(kw_region_valid(&a.reg, a.reg.region_bytes));
	a.map = mmap(NULL, a.reg.region_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	assert_true(a.map != MAP_FAILED);
	a.control = (struct kw_control *)(a.map + a.reg.control_off);
	a.state = (struct kw_site_state *)(a.map + a.reg.sites_off);
	return a;
}
static struct agent watch(pid_t pid) { return watch_as(pid, false); }

static struct kw_thread *slot_of(struct agent *a, uint32_t i) { return (struct kw_thread *)(a->map + a->reg.threads_off + i * a->reg.thread_stride); }

static void drain(struct agent *a)
{
	for (uint32_t i = 0; i < a->control->threads_hint; i++) {
		struct kw_thread *t = slot_of(a, i);
		if (t->state == KW_THREAD_FREE)
			continue;
		struct ring_reader r = { .data = (uint8_t *)t + a->reg.ring_off, .bytes = a->reg.ring_bytes, .nsites = 64, .head = t->head, .tail = t->tail };
		struct ring_rec rec;
		int rc;
		while ((rc = ring_next(&r, &rec)) > 0) {
			if (rec.r.type == KW_REC_CTX) {
				assert_true(rec.ctx.trace_hi | rec.ctx.trace_lo);
				a->trace_hi[i] = rec.ctx.trace_hi;
				a->trace_lo[i] = rec.ctx.trace_lo;
				a->traces++;
				continue;
			}
			if (rec.r.type == KW_REC_ATTR) {
				if (a->on_attributes)
					a->on_attributes(a, &rec);
				continue;
			}
			assert_int_equal(rec.r.type, KW_REC_SPAN);
			struct seen *s = &a->site[rec.r.site];
			s->spans++;
			s->ticks += rec.span.ticks;
			s->max_ticks = rec.span.ticks > s->max_ticks ? rec.span.ticks : s->max_ticks;
			s->start = rec.span.start_tsc;
			s->roots += !rec.span.parent_seq;
			assert_true(rec.span.parent_seq < rec.span.seq);
		}
		assert_int_equal(rc, 0);
		t->tail = r.tail;
		if (t->state == KW_THREAD_DEAD) {
			a->slots_ended++;
			__atomic_store_n(&t->state, KW_THREAD_FREE, __ATOMIC_RELEASE);
		}
	}
}

static void poll_all(struct agent *a)
{
	for (int i = 0; i < 40 && uprobe_poll(a->u, UPROBE_BUDGET) == UPROBE_BUDGET; i++) /* twice what there was; more may come for ever */
		drain(a);
	drain(a);
}

/* The account of all slots, whoever uses them now. */
static void count_up(struct agent *a)
{
	a->made = a->lost_full = a->lost_depth = a->abandoned = a->unsampled = a->lost_cells = 0;
	for (uint32_t i = 0; i < a->control->threads_hint; i++) {
		struct kw_thread *t = slot_of(a, i);
		a->made += t->seq;
		a->lost_full += t->lost_full;
		a->lost_depth += t->lost_depth;
		a->abandoned += t->abandoned;
		a->unsampled += t->unsampled;
		a->lost_cells += t->lost_cells;
	}
}

static uint64_t spans(const struct agent *a)
{
	uint64_t n = 0;
	for (int i = 0; i < 64; i++)
		n += a->site[i].spans;
	return n;
}

static struct kw_cell sum_cells(struct agent *a, uint32_t site)
{
	struct kw_cell sum = { .site = site };
	for (uint32_t i = 0; i < a->control->threads_hint; i++) {
		struct kw_thread *t = slot_of(a, i);
		const struct kw_cell *c = (const struct kw_cell *)((uint8_t *)t + a->reg.cells_off);
		for (uint32_t k = 1; k <= t->cells_used; k++)
			if (c[k].site == site) {
				sum.calls += c[k].calls;
				sum.sum_ticks += c[k].sum_ticks;
				for (uint32_t b = 0; b < KW_BUCKETS; b++)
					sum.bucket[0] += c[k].bucket[b];
			}
	}
	return sum;
}

static void probe(struct agent *a, const struct target *t, const char *name, uint32_t site, unsigned level)
{
	struct err e = { 0 };
	a->state[site].level = (uint8_t)level;
	int rc = uprobe_add(a->u, t->exe, offset_of(t, name), NULL, site, false, &e);
	if (rc != 0)
		fail_msg("uprobe_add(%s): %d %s", name, rc, e.msg);
}

static void unwatch(struct agent *a)
{
	uprobe_close(a->u);
	munmap(a->map, a->reg.region_bytes);
}

/* A byte of a function in the program's memory; swapped for another if that is not negative. */
static uint8_t swap_byte(const struct target *t, const char *name, unsigned at, int with)
{
	char path[64], line[512];
	uint64_t offset = offset_of(t, name) + at;
	uint8_t was = 0, is = (uint8_t)with;
	snprintf(path, sizeof path, "/proc/%d/maps", t->pid);
	FILE *f = fopen(path, "r");
	snprintf(path, sizeof path, "/proc/%d/mem", t->pid);
	int mem = open(path, O_RDWR);
	assert_true(f && mem >= 0);
	while (fgets(line, sizeof line, f)) {
		unsigned long from, to, file_at, ino;
		char perms[8];
		if (sscanf(line, "%lx-%lx %7s %lx %*s %lu", &from, &to, perms, &file_at, &ino) != 5 || perms[2] != 'x' || !ino || offset - file_at >= to - from)
			continue;
		assert_int_equal(pread(mem, &was, 1, (off_t)(from + offset - file_at)), 1);
		assert_true(with < 0 || pwrite(mem, &is, 1, (off_t)(from + offset - file_at)) == 1);
	}
	fclose(f);
	close(mem);
	return was;
}
static bool is_probed(const struct target *t, const char *name)
{
	bool same = true;
	for (unsigned i = 0; i < 5; i++)
		same &= swap_byte(t, name, i, -1) == t->f[find(t, name)].first[i];
	return !same;
}

static void await_removed(struct agent *a)
{
	for (int64_t end = clock_mono() + PATIENCE; uprobe_pending(a->u);) {
		if (clock_mono() > end)
			fail_msg("%u probes are still there", uprobe_pending(a->u));
		poll_all(a);
		poll(NULL, 0, 5);
	}
}

/* ---- tests --------------------------------------------------------------------------------------------------------- */

static void test_permitted(void **state)
{
	struct uprobe *u = NULL;
	struct err e = { 0 };
	int rc = uprobe_open(getpid(), "", &u, &e);
	permitted = rc == 0;
	if (permitted) {
		struct uprobe_stats s;
		uprobe_stats(u, &s);
		print_message("attached by %s\n", s.mechanism);
	} else {
		print_message("not here: %s\n", e.msg);
		assert_true(rc == KLIEG_E_DENIED || rc == KLIEG_E_UNSUPPORTED);
		assert_true(*e.msg);
		assert_null(strstr(e.msg, "refused our program")); /* that would be our mistake */
	}
	uprobe_close(u);
}

/* Three threads, nesting and recursion: every call of every function is there, once. */
static void check_spans(const char *program, bool perf_events)
{
	enum { LEAF = 3, PARENT, DOWN, NEVER, N = 1000 }; /* the kernel's ring holds all of it, should we be slow to read */
	struct target t = start(program);
	struct agent a = watch_as(t.pid, perf_events);
	probe(&a, &t, "leaf", LEAF, KW_SPAN);
	probe(&a, &t, "parent", PARENT, KW_DETAIL);
	probe(&a, &t, "down", DOWN, KW_SPAN);
	probe(&a, &t, "never", NEVER, KW_SPAN);
	tell(&t, "calls", N);
	struct pollfd p = { fileno(t.out), POLLIN, 0 };
	for (int64_t end = clock_mono() + PATIENCE; poll(&p, 1, 1) == 0 && clock_mono() < end;)
		poll_all(&a);
	await_done(&t);
	poll_all(&a);
	struct uprobe_stats s;
	uprobe_stats(a.u, &s);
	assert_int_equal(s.lost_entries + s.lost_exits, 0);
	assert_int_equal(s.entries, s.exits);
	assert_int_equal(s.unmatched, 0);
	assert_int_equal(a.site[LEAF].spans, 3 * 2 * N);
	assert_int_equal(a.site[PARENT].spans, 3 * N);
	assert_int_equal(a.site[DOWN].spans, 3 * 5 * N);
	assert_int_equal(a.site[NEVER].spans, 0);
	assert_int_equal(a.site[LEAF].roots, 0);
	assert_int_equal(a.site[PARENT].roots, 3 * N);
	assert_int_equal(a.site[DOWN].roots, 3 * N);
	assert_int_equal(a.traces, 3 * 2 * N); /* each root is a trace of its own */
	assert_true(a.site[PARENT].ticks > a.site[LEAF].ticks);
	count_up(&a);
	assert_int_equal(a.made, 3 * 8 * N);
	assert_int_equal(a.lost_full + a.lost_depth + a.abandoned + a.unsampled, 0);
	for (int64_t end = clock_mono() + PATIENCE; a.slots_ended < 3 && clock_mono() < end; poll(NULL, 0, 20)) /* the threads are gone: so are their slots */
		poll_all(&a);
	assert_int_equal(a.slots_ended, 3);
	assert_true(uprobe_remove(a.u, LEAF));
	assert_false(uprobe_remove(a.u, LEAF));
	await_removed(&a);
	assert_false(is_probed(&t, "leaf"));
	assert_true(is_probed(&t, "parent"));
	ask(&t, "calls", 1);
	poll_all(&a);
	assert_int_equal(a.site[LEAF].spans, 3 * 2 * N);
	assert_int_equal(a.site[PARENT].spans, 3 * (N + 1));
	probe(&a, &t, "leaf", LEAF, KW_SPAN); /* and again */
	ask(&t, "calls", 1);
	poll_all(&a);
	assert_int_equal(a.site[LEAF].spans, 3 * 2 * (N + 1));
	unwatch(&a);
	stop(&t);
}
static void test_spans(void **state) { NEED(); check_spans(TARGET, false); }
static void test_spans_endbr(void **state) { NEED(); check_spans(TARGET "_cet", false); }
static void test_spans_perf(void **state) { NEED(); check_spans(TARGET, true); }

static void test_count(void **state)
{
	NEED();
	enum { LEAF, PARENT, OFF, GATED };
	struct target t = start(TARGET);
	struct agent a = watch(t.pid);
	probe(&a, &t, "leaf", LEAF, KW_COUNT);
	probe(&a, &t, "parent", PARENT, KW_COUNT);
	probe(&a, &t, "down", OFF, KW_OFF);
	ask(&t, "calls", 1000);
	poll_all(&a);
	struct kw_cell leaf = sum_cells(&a, LEAF), parent = sum_cells(&a, PARENT);
	assert_int_equal(leaf.calls, 6000);
	assert_int_equal(leaf.bucket[0], 6000);
	assert_int_equal(parent.calls, 3000);
	assert_true(parent.sum_ticks > leaf.sum_ticks);
	assert_int_equal(sum_cells(&a, OFF).calls, 0);
	assert_int_equal(spans(&a), 0);
	count_up(&a);
	assert_int_equal(a.made + a.abandoned + a.lost_cells, 0);
	a.state[LEAF].flags = KW_STATE_GATED; /* no request says anything here */
	ask(&t, "calls", 1000);
	poll_all(&a);
	assert_int_equal(sum_cells(&a, LEAF).calls, 6000);
	assert_int_equal(sum_cells(&a, PARENT).calls, 6000);
	unwatch(&a);
	stop(&t);
}

/* A quarter of the traces is kept, whole; the others are counted. */
static void test_threshold(void **state)
{
	NEED();
	enum { LEAF, PARENT, N = 1000 };
	struct target t = start(TARGET);
	struct agent a = watch(t.pid);
	a.state[PARENT].threshold = 3ull << 54;
	probe(&a, &t, "leaf", LEAF, KW_SPAN);
	probe(&a, &t, "parent", PARENT, KW_SPAN);
	ask(&t, "calls", N);
	poll_all(&a);
	count_up(&a);
	assert_int_equal(a.site[LEAF].spans, 2 * a.site[PARENT].spans);
	assert_in_range(a.site[PARENT].spans, 3 * N / 6, 3 * N / 3);
	assert_int_equal(a.unsampled + spans(&a), 3 * 3 * N);
	assert_int_equal(a.made, spans(&a));
	unwatch(&a);
	stop(&t);
}

/* Arguments and results are what they were in the program, and conditions on them choose. */
enum { GIVEN, NAMED };
static void check_given(struct agent *a, const struct ring_rec *rec)
{
	struct ring_attr v;
	uint32_t off = 0;
	bool bad = false;
	char text[32];
	long i = rec->r.site == NAMED ? a->named : a->given;
	for (unsigned left = rec->r.flags >> KW_REC_NATTR_SHIFT; left; left--) {
		assert_true(ring_attr(rec, &off, &v, &bad));
		int64_t n = 0;
		if (v.a.type == KW_INT)
			memcpy(&n, v.value, 8);
		snprintf(text, sizeof text, "call %ld", i);
		switch (rec->r.site == NAMED ? 100 + v.a.key : v.a.key) {
		case 0: assert_int_equal(n, -i); break;
		case 1: assert_true(v.a.type == KW_STR && v.a.len == strlen(text) && !memcmp(v.value, text, v.a.len)); break;
		case 2: assert_int_equal(n, (unsigned char)i); break;
		case 3: assert_int_equal(n, 7 * i); break;
		case 4: assert_true(v.a.type == KW_STR && v.a.len == 5 && !memcmp(v.value, "right", 5)); break;
		case 5: assert_int_equal(n, -i + (long)strlen(text) + (unsigned char)i + 3 * i + 7 * i + 5); a->ret++; a->given++; break;
		case 101: assert_true(v.a.type == KW_STR && v.a.len == (i & 1 ? 3 : 4) && !memcmp(v.value, i & 1 ? "odd" : "even", v.a.len)); a->named++; break;
		default: fail_msg("an attribute %u of site %u", v.a.key, rec->r.site);
		}
	}
}
static void test_arguments(void **state)
{
	NEED();
	enum { N = 400 };
	struct target t = start(TARGET);
	struct agent a = watch(t.pid);
	struct err e = { 0 };
	a.on_attributes = check_given;
	const struct kw_arg args[] = { { KW_ARG_INT, 0, 4, 0 }, { KW_ARG_STRING, 1, 8, 1 }, { KW_ARG_UINT, 2, 1, 2 }, { KW_ARG_INT, 16, 8, 3 },
		{ KW_ARG_STRING, 17, 8, 4 }, { KW_ARG_INT, 60, 8, 9 }, { KW_ARG_INT, KW_ARG_RET, 8, 5 } };
	const struct kw_arg result = { KW_ARG_STRING, KW_ARG_RET, 8, 1 };
	assert_int_equal(uprobe_capture(a.u, GIVEN, args, 7, NULL, 0, &e), KLIEG_E_USAGE);
	probe(&a, &t, "given", GIVEN, KW_DETAIL);
	probe(&a, &t, "named", NAMED, KW_DETAIL);
	assert_int_equal(uprobe_capture(a.u, GIVEN, args, 7, NULL, 0, &e), 0); /* the one further up the stack than is read is left out */
	assert_int_equal(uprobe_capture(a.u, NAMED, &result, 1, NULL, 0, &e), 0);
	ask(&t, "given", N);
	poll_all(&a);
	assert_int_equal(a.site[GIVEN].spans, N);
	assert_int_equal(a.site[NAMED].spans, N);
	assert_true(a.given == N && a.ret == N && a.named == N);
	/* Above the level of detail nothing is said; where there is a condition, only what it holds for is there. */
	struct kw_where where[] = { { .op = KW_WHERE_LT, .arg = args[0], .value = -99 }, { .op = KW_WHERE_EQ, .arg = args[3], .value = 70 }, { .op = KW_WHERE_OR } };
	a.state[GIVEN].level = KW_SPAN;
	assert_int_equal(uprobe_capture(a.u, GIVEN, args, 0, where, 3, &e), 0);
	ask(&t, "given", N);
	poll_all(&a);
	assert_int_equal(a.site[GIVEN].spans, N + (N - 100) + 1);
	assert_int_equal(a.given, N);
	a.state[GIVEN].level = KW_COUNT;
	ask(&t, "given", N);
	poll_all(&a);
	assert_int_equal(sum_cells(&a, GIVEN).calls, N - 100 + 1);
	where[0].arg.at = 60;
	assert_int_equal(uprobe_capture(a.u, GIVEN, args, 0, where, 1, &e), KLIEG_E_UNSUPPORTED);
	assert_non_null(strstr(e.msg, "stack"));
	assert_int_equal(uprobe_capture(a.u, GIVEN, args, 0, where, 0, &e), 0);
	ask(&t, "given", N);
	poll_all(&a);
	assert_int_equal(sum_cells(&a, GIVEN).calls, N - 100 + 1 + N);
	unwatch(&a);
	stop(&t);
}

/* Calls that jump away, and functions that end by jumping to another. */
static void test_jumps(void **state)
{
	NEED();
	enum { TAIL, INNER, LEAVE, LEAF, N = 500 };
	struct target t = start(TARGET);
	struct agent a = watch(t.pid);
	probe(&a, &t, "tail", TAIL, KW_SPAN);
	probe(&a, &t, "inner", INNER, KW_SPAN);
	probe(&a, &t, "leave", LEAVE, KW_SPAN);
	probe(&a, &t, "leaf", LEAF, KW_SPAN);
	ask(&t, "tail", N);
	poll_all(&a);
	assert_int_equal(a.site[TAIL].spans, N);
	assert_int_equal(a.site[INNER].spans, N);
	assert_int_equal(a.site[INNER].roots, 0);
	ask(&t, "jump", N);
	assert_true(uprobe_remove(a.u, LEAF)); /* now nothing shows that leave() is over, */
	await_removed(&a);
	ask(&t, "jump", N);                    /* but it being entered again */
	ask(&t, "tail", 1);
	poll_all(&a);
	assert_int_equal(a.site[LEAF].spans, N);
	assert_int_equal(a.site[LEAVE].spans, 0);
	count_up(&a);
	assert_int_equal(a.made, 2 * N + 2 + N + 2 * N);
	assert_int_equal(a.lost_full + a.lost_depth, 0);
	uint64_t open = 0;
	for (uint32_t i = 0; i < a.control->threads_hint; i++)
		open += slot_of(&a, i)->depth;
	assert_in_range(open, 0, 1); /* the last leave() may look open still */
	assert_int_equal(a.abandoned + open, 2 * N);
	unwatch(&a);
	stop(&t);
}

static void test_deep(void **state)
{
	NEED();
	struct target t = start(TARGET);
	struct agent a = watch(t.pid);
	probe(&a, &t, "down", 1, KW_SPAN);
	ask(&t, "deep", 1);
	poll_all(&a);
	count_up(&a);
	/* The kernel itself follows 64 returns of a thread. */
	assert_int_equal(a.site[1].spans, KW_OPEN_MAX);
	assert_int_equal(a.lost_depth, 100 - KW_OPEN_MAX);
	assert_int_equal(a.made, 100);
	unwatch(&a);
	stop(&t);
}

/* pthread_exit under a probed function: the program's own unwinder meets the kernel's return address. */
static void test_thread_exit(void **state)
{
	NEED();
	struct target t = start(TARGET);
	struct agent a = watch(t.pid);
	probe(&a, &t, "quit", 1, KW_SPAN);
	ask(&t, "quit", 8);
	for (int64_t end = clock_mono() + PATIENCE; a.slots_ended < 8 && clock_mono() < end; poll(NULL, 0, 20))
		poll_all(&a);
	count_up(&a);
	assert_int_equal(a.slots_ended, 8);
	assert_int_equal(a.made, 8);
	assert_int_equal(a.abandoned, 8);
	unwatch(&a);
	stop(&t);
}

/* A call that is open when its function is removed is still timed to its end. */
static void test_remove_open(void **state)
{
	NEED();
	struct target t = start(TARGET);
	struct agent a = watch(t.pid);
	probe(&a, &t, "wait_here", 1, KW_SPAN);
	tell(&t, "wait", 1);
	for (int64_t end = clock_mono() + PATIENCE; !a.control->threads_hint && clock_mono() < end; poll(NULL, 0, 1))
		poll_all(&a);
	struct kw_thread *slot = slot_of(&a, 0);
	assert_int_equal(slot->depth, 1);
	assert_int_equal(slot->tid, t.pid);
	assert_int_equal(slot->open[0].site, 1);
	assert_true(uprobe_remove(a.u, 1));
	poll_all(&a);
	assert_true(uprobe_pending(a.u) > 0);
	fputc('x', t.in); /* it returns */
	fflush(t.in);
	await_done(&t);
	poll_all(&a);
	assert_int_equal(a.site[1].spans, 1);
	await_removed(&a);
	assert_false(is_probed(&t, "wait_here"));
	unwatch(&a);
	stop(&t);
}

/* Killed in the middle of it: everything that it had entered is in the account, nobody waits. */
static void test_dying(void **state)
{
	NEED();
	struct target t = start(TARGET);
	struct agent a = watch(t.pid);
	probe(&a, &t, "leaf", 1, KW_SPAN);
	probe(&a, &t, "parent", 2, KW_SPAN);
	ask(&t, "forever", 3);
	for (int64_t end = clock_mono() + PATIENCE; spans(&a) < 20000 && clock_mono() < end;)
		poll_all(&a);
	kill(t.pid, SIGKILL);
	assert_int_equal(waitpid(t.pid, NULL, 0), t.pid);
	for (int64_t end = clock_mono() + PATIENCE; a.slots_ended < 3 && clock_mono() < end; poll(NULL, 0, 20))
		poll_all(&a);
	count_up(&a);
	assert_int_equal(a.slots_ended, 3);
	assert_int_equal(a.made, spans(&a) + a.abandoned + a.lost_full);
	struct uprobe_stats s;
	uprobe_stats(a.u, &s);
	assert_int_equal(a.made, s.entries + s.lost_entries);
	struct err e = { 0 };
	assert_int_equal(uprobe_add(a.u, t.exe, offset_of(&t, "down"), NULL, 3, false, &e), KLIEG_E_NO_TARGET);
	assert_non_null(strstr(e.msg, "gone"));
	unwatch(&a);
	fclose(t.in);
	fclose(t.out);
	struct uprobe *u = NULL;
	assert_int_equal(uprobe_open(t.pid, "", &u, &e), KLIEG_E_NO_TARGET);
}

/* Nobody reads for a while: what the kernel had no room for is counted to the call. */
static void test_losses(void **state)
{
	NEED();
	enum { N = 30000 };
	struct target t = start(TARGET);
	struct agent a = watch(t.pid);
	probe(&a, &t, "leaf", 1, KW_SPAN);
	probe(&a, &t, "parent", 2, KW_SPAN);
	ask(&t, "calls", N);
	struct pollfd p = { uprobe_fd(a.u), POLLIN, 0 };
	assert_int_equal(poll(&p, 1, 0), 1);
	poll_all(&a);
	ask(&t, "calls", 1); /* what seemed open is seen to be over */
	for (int64_t end = clock_mono() + PATIENCE; a.slots_ended < 6 && clock_mono() < end; poll(NULL, 0, 20))
		poll_all(&a);
	struct uprobe_stats s;
	uprobe_stats(a.u, &s);
	count_up(&a);
	assert_true(s.lost_entries > 0 && s.lost_exits > 0);
	assert_int_equal(s.entries + s.lost_entries, 3 * 3 * (N + 1));
	assert_int_equal(s.exits + s.lost_exits, 3 * 3 * (N + 1));
	assert_int_equal(a.made, 3 * 3 * (N + 1));
	assert_int_equal(a.made, spans(&a) + a.lost_full + a.abandoned);
	assert_int_equal(a.abandoned, 0);
	unwatch(&a);
	stop(&t);
}

/* The function reads the counter itself: its span must hold what it saw, closely. */
static void test_clock(void **state)
{
	NEED();
	struct target t = start(TARGET);
	struct agent a = watch(t.pid);
	probe(&a, &t, "stamped", 1, KW_SPAN);
	uint64_t before_min = UINT64_MAX, after_min = UINT64_MAX;
	for (int i = 0; i < 200; i++) {
		unsigned long from, to;
		ask(&t, "stamped", 20000);
		assert_int_equal(sscanf(t.line, "stamps %lu %lu", &from, &to), 2);
		a.site[1] = (struct seen){ 0 };
		poll_all(&a);
		assert_int_equal(a.site[1].spans, 1);
		uint64_t start = a.site[1].start, end = start + a.site[1].ticks;
		int64_t before = (int64_t)(from - start), after = (int64_t)(end - to);
		assert_true(before > -20000 && after > -20000); /* ticks: 10 us of error would be a bug, less a busy machine */
		before_min = before >= 0 && (uint64_t)before < before_min ? (uint64_t)before : before_min;
		after_min = after >= 0 && (uint64_t)after < after_min ? (uint64_t)after : after_min;
	}
	print_message("a span begins %lu ticks before its function and ends %lu after it, at best\n", before_min, after_min);
	unwatch(&a);
	stop(&t);
}

static void test_refusals(void **state)
{
	NEED();
	struct target t = start(TARGET);
	struct agent a = watch(t.pid);
	struct err e = { 0 };
	assert_int_equal(uprobe_add(a.u, t.exe, offset_of(&t, "nop5"), NULL, 1, false, &e), KLIEG_E_UNSUPPORTED);
	assert_non_null(strstr(e.msg, "5-byte NOP"));
	assert_int_equal(uprobe_add(a.u, "/no/such/file", 0, NULL, 1, false, &e), KLIEG_E_NOT_FOUND);
	assert_int_equal(uprobe_add(a.u, "/proc/self/exe", 4096, NULL, 1, false, &e), KLIEG_E_NOT_FOUND); /* ours, not its */
	assert_int_equal(uprobe_add(a.u, "/dev/null", 0, NULL, 1, false, &e), KLIEG_E_BAD_DATA);
	assert_int_equal(uprobe_add(a.u, "/etc/passwd", 0, NULL, 1, false, &e), KLIEG_E_BAD_DATA);
	assert_int_equal(uprobe_add(a.u, t.exe, UINT64_MAX, NULL, 1, false, &e), KLIEG_E_BAD_DATA);
	assert_int_equal(uprobe_add(a.u, t.exe, offset_of(&t, "leaf"), NULL, KW_MAX_SITES, false, &e), KLIEG_E_LIMIT);
	probe(&a, &t, "leaf", 1, KW_SPAN);
	assert_int_equal(uprobe_add(a.u, t.exe, offset_of(&t, "down"), NULL, 1, false, &e), KLIEG_E_CONFLICT);
	assert_null(uprobe_note(a.u, 1));
	assert_true(is_probed(&t, "leaf"));
	/* Another agent may probe it too: the kernel's breakpoint is shared. */
	struct agent b = watch(t.pid);
	probe(&b, &t, "leaf", 1, KW_SPAN);
	ask(&t, "calls", 10);
	poll_all(&a);
	poll_all(&b);
	assert_int_equal(a.site[1].spans, 60);
	assert_int_equal(b.site[1].spans, 60);
	unwatch(&b);
	unwatch(&a); /* both gone: so is it */
	for (int64_t end = clock_mono() + PATIENCE; is_probed(&t, "leaf") && clock_mono() < end;)
		poll(NULL, 0, 5);
	assert_false(is_probed(&t, "leaf"));
	/* What somebody else wrote over a function stays his. */
	uint8_t was = swap_byte(&t, "inner", 1, 0x90);
	a = watch(t.pid);
	assert_int_equal(uprobe_add(a.u, t.exe, offset_of(&t, "inner"), NULL, 1, false, &e), KLIEG_E_CONFLICT);
	swap_byte(&t, "inner", 1, was);
	unwatch(&a);
	stop(&t);
}

/* A program that exceptions pass through: its return addresses are left alone. */
static void test_entries_only(void **state)
{
	NEED();
	struct target t = start(TARGET "_go");
	struct agent a = watch(t.pid);
	struct err e = { 0 };
	a.state[1].level = KW_SPAN;
	assert_int_equal(uprobe_add(a.u, t.exe, offset_of(&t, "leaf"), NULL, 1, false, &e), 1);
	assert_non_null(strstr(uprobe_note(a.u, 1), "Go"));
	ask(&t, "calls", 100);
	poll_all(&a);
	struct kw_cell c = sum_cells(&a, 1);
	assert_int_equal(c.calls, 600);
	assert_int_equal(c.sum_ticks, 0);
	assert_int_equal(c.bucket[0], 0);
	assert_int_equal(spans(&a), 0);
	assert_true(uprobe_remove(a.u, 1));
	await_removed(&a);
	unwatch(&a);
	stop(&t);
}

/* With the kernel's return addresses in place this would be killed: the calls below the handler would seem to have ended. */
static void test_signal_stack(void **state)
{
	NEED();
	struct target t = start(TARGET "_alt");
	struct agent a = watch(t.pid);
	struct err e = { 0 };
	a.state[1].level = a.state[2].level = KW_SPAN;
	assert_int_equal(uprobe_add(a.u, t.exe, offset_of(&t, "leaf"), NULL, 1, false, &e), 1);
	assert_int_equal(uprobe_add(a.u, t.exe, offset_of(&t, "interrupted"), NULL, 2, false, &e), 1);
	assert_non_null(strstr(uprobe_note(a.u, 2), "signal"));
	ask(&t, "signals", 100);
	poll_all(&a);
	assert_int_equal(sum_cells(&a, 1).calls, 100);
	assert_int_equal(sum_cells(&a, 2).calls, 100);
	unwatch(&a);
	stop(&t);
}

/* A child made by fork() has the breakpoints in its memory, but it is not the process that was asked for. */
static void test_fork(void **state)
{
	NEED();
	for (int perf = 0; perf < 2; perf++) {
		struct target t = start(TARGET);
		struct agent a = watch_as(t.pid, perf);
		probe(&a, &t, "parent", 1, KW_SPAN);
		ask(&t, "fork", 100);
		assert_string_equal(t.line, "status 0\n");
		ask(&t, "calls", 10);
		poll_all(&a);
		assert_int_equal(a.site[1].spans, 30);
		count_up(&a);
		assert_int_equal(a.made, 30);
		unwatch(&a);
		stop(&t);
	}
}

/* A function that begins requests: a trace of its own, although something around it is open. */
static void test_root(void **state)
{
	NEED();
	struct target t = start(TARGET);
	struct agent a = watch(t.pid);
	struct err e = { 0 };
	a.state[1].level = KW_SPAN;
	probe(&a, &t, "parent", 2, KW_SPAN);
	assert_int_equal(uprobe_add(a.u, t.exe, offset_of(&t, "leaf"), NULL, 1, true, &e), 0);
	ask(&t, "calls", 100);
	poll_all(&a);
	assert_int_equal(a.site[1].spans, 600);
	assert_int_equal(a.site[1].roots, 600);
	assert_int_equal(a.site[2].roots, 300);
	assert_int_equal(a.traces, 900);
	unwatch(&a);
	stop(&t);
}

/* The agent is killed: the kernel takes its probes away, the program goes on. */
static void test_killed(void **state)
{
	NEED();
	struct target t = start(TARGET);
	int p[2];
	char c;
	assert_int_equal(pipe(p), 0);
	pid_t pid = fork();
	if (!pid) {
		struct agent a = watch(t.pid);
		probe(&a, &t, "leaf", 1, KW_SPAN);
		(void)!write(p[1], "x", 1);
		for (;;)
			pause();
	}
	assert_int_equal(read(p[0], &c, 1), 1);
	assert_true(is_probed(&t, "leaf"));
	kill(pid, SIGKILL);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	assert_false(is_probed(&t, "leaf"));
	ask(&t, "calls", 10);
	close(p[0]);
	close(p[1]);
	stop(&t);
}

static void test_denied(void **state)
{
	if (geteuid()) {
		print_message("only root can become somebody else\n");
		skip();
	}
	int status, p[2];
	assert_int_equal(pipe(p), 0);
	pid_t pid = fork();
	if (!pid) {
		struct uprobe *u = NULL;
		struct err e = { 0 };
		int rc = setgid(65534) | setuid(65534) ? -1 : uprobe_open(getppid(), "", &u, &e);
		(void)!write(p[1], e.msg, strlen(e.msg) + 1);
		_exit(rc == KLIEG_E_DENIED && *e.hint ? 0 : 1);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	char msg[400] = "";
	assert_true(read(p[0], msg, sizeof msg - 1) > 0);
	print_message("%s\n", msg);
	assert_int_equal(status, 0);
	assert_non_null(strstr(msg, "CAP_BPF"));
	close(p[0]);
	close(p[1]);
}

static void test_cost(void **state)
{
	static const struct { const char *bytes; uint8_t n; bool stepped, refused; } c[] = {
		{ "\x55\x48\x89\xe5", 4, false, false },               /* push %rbp */
		{ "\x41\x57\x41\x56", 4, false, false },               /* push %r15 */
		{ "\xf3\x0f\x1e\xfa\x31\xc0", 6, true, false },        /* endbr64 */
		{ "\xf3\x0f\x1e\xfa\x41\x54", 6, false, false },       /* and a push behind it */
		{ "\x48\x83\xec\x08", 4, true, false },                /* sub $8, %rsp */
		{ "\xe9\0\0\0\0", 5, false, false },                   /* jmp */
		{ "\x90\xc3", 2, false, false },
		{ "\x66\x90\xc3", 3, false, false },
		{ "\x0f\x1f\x44\0\0\xc3", 6, true, true },             /* the 5-byte NOPs */
		{ "\x66\x0f\x1f\x40\0\xc3", 6, true, true },
		{ "\x66\x66\x66\x66\x90\xc3", 6, false, true },
		{ "\x48\x8d\x74\x26\0\xc3", 6, true, true },           /* lea 0(%rsi,%riz,1), %rsi */
		{ "\x3e\x48\x8d\x76\0\xc3", 6, true, true },
		{ "\x0f\x1f\x40\0\xc3", 5, true, false },              /* 4 bytes: harmless */
		{ "\x48\x8d\x44\x26\0", 5, true, false },              /* lea 0(%rsi), %rax is no NOP */
		{ "\xa9\0\0\0\0", 5, true, true },
		{ "\xcc", 1, true, true },
		{ "\x48", 1, true, true },
		{ "", 0, true, true },
	};
	for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
		struct uprobe_cost got = uprobe_cost((const uint8_t *)c[i].bytes, c[i].n);
		if (got.stepped != c[i].stepped || !got.refusal == c[i].refused)
			fail_msg("case %zu: stepped %d, refusal %s", i, got.stepped, got.refusal ? got.refusal : "none");
		assert_true(got.both_ns >= got.entry_ns && (*got.text != 0) == got.stepped);
	}
	uint8_t bytes[16];
	uint64_t x = 88172645463325252ull;
	for (int i = 0; i < 200000; i++) { /* anything may stand in a file */
		for (size_t k = 0; k < sizeof bytes; k++)
			x ^= x << 13, x ^= x >> 7, x ^= x << 17, bytes[k] = (uint8_t)x;
		size_t n = x % 17;
		uint8_t *exact = malloc(n ? n : 1); /* so that the sanitizer sees a read past its end */
		memcpy(exact, bytes, n);
		uprobe_cost(exact, n);
		free(exact);
	}
}

static void test_files(void **state)
{
	static const struct { const char *bytes; size_t n; const char *why; } c[] = {
		{ "nothing of that kind", 20, NULL }, { "xN10__cxxabiv117__class_type_infoE", 20, "exceptions" }, { "\xff Go buildinf:", 14, "Go" },
		{ "\xb8\x83\0\0\0\x0f\x05\xc3", 8, "signal" }, { "\xb8\x83\0\0\0\xc3", 6, NULL }, { "swapcontext", 11, "stacks" }, { "/rustc/", 7, "Rust" },
	};
	for (size_t i = 0; i < sizeof c / sizeof *c; i++)
		for (int where = 0; where < 4; where++) { /* near, across the boundary of what is read at once, at the very end */
			int fd = memfd_create("file", MFD_CLOEXEC);
			uint8_t head[64] = "\x7f" "ELF\2\1\1";
			head[18] = 62;
			assert_int_equal(pwrite(fd, head, sizeof head, 0), sizeof head);
			off_t at = (off_t[]){ 64, 65530, 65536 - 32, 300000 }[where];
			assert_int_equal(pwrite(fd, c[i].bytes, c[i].n, at), c[i].n);
			struct inspect_why why = { "?", false };
			struct err e = { 0 };
			assert_int_equal(inspect_file(fd, &why, &e), 0);
			if (!c[i].why != !why.text || (why.text && !strstr(why.text, c[i].why)))
				fail_msg("case %zu, place %d: %s", i, where, why.text ? why.text : "nothing");
			close(fd);
		}
}

/* What a call costs the program, for the notes; nothing depends on it. */
static void test_measure(void **state)
{
	NEED();
	struct target t = start(TARGET);
	double bare = 1e9, entry = 1e9, both = 1e9, ns;
	for (int i = 0; i < 3; i++) {
		ask(&t, "bench", 1000000);
		assert_int_equal(sscanf(t.line, "ns %lf", &ns), 1);
		bare = ns < bare ? ns : bare;
	}
	struct agent a = watch(t.pid);
	probe(&a, &t, "leaf", 1, KW_COUNT);
	for (int i = 0; i < 5; i++) {
		ask(&t, "bench", 20000);
		assert_int_equal(sscanf(t.line, "ns %lf", &ns), 1);
		both = ns < both ? ns : both;
		poll_all(&a);
	}
	unwatch(&a);
	struct target g = start(TARGET "_go"); /* only entries, there */
	struct err e = { 0 };
	a = watch(g.pid);
	a.state[1].level = KW_COUNT;
	assert_int_equal(uprobe_add(a.u, g.exe, offset_of(&g, "leaf"), NULL, 1, false, &e), 1);
	for (int i = 0; i < 5; i++) {
		ask(&g, "bench", 20000);
		assert_int_equal(sscanf(g.line, "ns %lf", &ns), 1);
		entry = ns < entry ? ns : entry;
		poll_all(&a);
	}
	print_message("a call: %.1f ns bare, %.0f ns with its entry noted, %.0f ns with entry and exit\n", bare, entry, both);
	unwatch(&a);
	stop(&g);
	stop(&t);
}

int main(void)
{
	signal(SIGPIPE, SIG_IGN);
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_cost), cmocka_unit_test(test_files), cmocka_unit_test(test_permitted), cmocka_unit_test(test_denied),
		cmocka_unit_test(test_spans), cmocka_unit_test(test_spans_endbr), cmocka_unit_test(test_spans_perf),
		cmocka_unit_test(test_count), cmocka_unit_test(test_threshold), cmocka_unit_test(test_arguments),
		cmocka_unit_test(test_jumps), cmocka_unit_test(test_deep), cmocka_unit_test(test_thread_exit), cmocka_unit_test(test_remove_open),
		cmocka_unit_test(test_dying), cmocka_unit_test(test_losses), cmocka_unit_test(test_clock), cmocka_unit_test(test_refusals),
		cmocka_unit_test(test_entries_only), cmocka_unit_test(test_signal_stack), cmocka_unit_test(test_fork), cmocka_unit_test(test_root),
		cmocka_unit_test(test_killed), cmocka_unit_test(test_measure),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
