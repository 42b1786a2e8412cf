// The call gate, driven as the agent drives it: stubs built by hand for functions that begin with five bytes of padding. Exceptions, backtraces, longjmp, tail
// calls, recursion, arguments, conditions, roots, a thread's end, fork. What needs a foreign process is in tests/flow/test_attach.py.
#define _Static_assert static_assert
#include "klieg/klieg.h"
#include "probe_harness.h"
#include <dlfcn.h>
#include <execinfo.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdexcept>
#include <string>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <vector>

extern "C" uint64_t klieg__attach(const char *socket);
#define HOOKED extern "C" __attribute__((noinline, noclone, patchable_function_entry(5, 0), visibility("default")))

static uint8_t *pool;
static size_t pool_used;
static uint32_t next_site;

// As the agent: a stub near the function, then the jump. Returns the site's index.
static uint32_t hook(void *fn, unsigned level, void (*tune)(struct kw_hook *) = nullptr)
{
	uint8_t *f = (uint8_t *)fn;
	if (!memcmp(f, "\xf3\x0f\x1e\xfa", 4))
		f += 4;
	assert_true(!memcmp(f, "\x90\x90\x90\x90\x90", 5));
	if (!pool) {
		pool = (uint8_t *)mmap((void *)(((uintptr_t)fn & ~0xfffful) + (64 << 20)), 1 << 20, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		assert_true(pool != MAP_FAILED && llabs(pool - f) < 0x70000000);
	}
	uint8_t *stub = pool + pool_used;
	pool_used += 512;
	struct kw_hook *h = (struct kw_hook *)(stub + KW_STUB_CODE);
	uint8_t *moved = (uint8_t *)(h + 1);
	uint32_t index = 1000 + next_site++;
	*h = {};
	h->gate = H.r->gate_enter;
	h->target = (uint64_t)moved;
	h->site1 = index + 1;
	if (tune)
		tune(h);
	const uint8_t code[] = { 0x41, 0x53, 0x4c, 0x8d, 0x1d, 7, 0, 0, 0, 0xff, 0x25, 1, 0, 0, 0, 0x90 };
	memcpy(stub, code, sizeof code);
	int32_t back = (int32_t)(f + 5 - (moved + 5)), to = (int32_t)(stub - (f + 5));
	moved[0] = 0xe9;
	memcpy(moved + 1, &back, 4);
	H.states[index].level = (uint8_t)level;
	uint8_t jump[5] = { 0xe9 };
	memcpy(jump + 1, &to, 4);
	assert_int_equal(pwrite(H.mem, jump, 5, (off_t)(uintptr_t)f), 5);
	return index;
}

static struct kw_thread *me() { return slot_of(unsigned(syscall(SYS_gettid))); }
static struct any_record rec;
static std::vector<struct kw_rec_span> spans()
{
	std::vector<struct kw_rec_span> v;
	while (me() && next_record(me(), &rec))
		if (rec.r.type == KW_REC_SPAN)
			v.push_back(rec.span);
	return v;
}

struct Cleaner { static int n; ~Cleaner() { n++; } };
int Cleaner::n;
HOOKED int thrower(int x) { Cleaner c; if (x) throw std::runtime_error("boom"); return 1; }
HOOKED int middle(int x) { Cleaner c; try { return thrower(x) + 1; } catch (std::logic_error &) { return -1; } }
HOOKED int rethrows(int x) { Cleaner c; try { return middle(x); } catch (std::runtime_error &) { throw; } }

static void exceptions_pass_through(void **)
{
	uint32_t a = hook((void *)thrower, KW_SPAN), b = hook((void *)middle, KW_SPAN), c = hook((void *)rethrows, KW_SPAN);
	assert_int_equal(rethrows(0), 2);
	std::vector<struct kw_rec_span> v = spans();
	assert_int_equal(v.size(), 3);
	assert_int_equal(v[0].r.site, a);
	assert_int_equal(v[1].r.site, b);
	assert_int_equal(v[2].r.site, c);
	assert_int_equal(v[0].parent_seq, v[1].seq);
	Cleaner::n = 0;
	bool caught = false;
	uint64_t gone = me()->abandoned;
	try { rethrows(1); } catch (std::runtime_error &e) { caught = std::string(e.what()) == "boom"; }
	assert_true(caught);
	assert_int_equal(Cleaner::n, 3);
	assert_int_equal(rethrows(0), 2); // and everything is in order afterwards
	assert_int_equal(spans().size(), 3);
	assert_int_equal(me()->abandoned - gone, 3);
	assert_int_equal(me()->depth, 0);
}

static void *walked[64];
static int nwalked;
HOOKED int walker(int x) { nwalked = backtrace(walked, 64); return x + 1; }
HOOKED int walks(int x) { int r = walker(x) + 1; __asm__ volatile("" : "+r"(r)); return r; }
static __attribute__((noinline)) int walk(int x) { int r = walks(x) + 1; __asm__ volatile("" : "+r"(r)); return r; }

static void a_backtrace_sees_every_caller(void **)
{
	walk(1);
	int plain = nwalked;
	hook((void *)walker, KW_SPAN);
	hook((void *)walks, KW_SPAN);
	assert_int_equal(walk(1), 4);
	bool seen = false;
	for (int i = 0; i < nwalked; i++) {
		Dl_info d;
		seen |= dladdr(walked[i], &d) && d.dli_sname && !strcmp(d.dli_sname, "walks");
	}
	assert_true(seen);
	assert_true(nwalked >= plain); // the gate shows as frames of its own
	assert_int_equal(spans().size(), 2);
}

static jmp_buf back;
HOOKED int jumper(int x) { if (x) longjmp(back, x); return 0; }
HOOKED int calls_jumper(int x) { int r = jumper(x) + 1; __asm__ volatile("" : "+r"(r)); return r; }

static void longjmp_out_of_hooked_frames(void **)
{
	hook((void *)jumper, KW_SPAN);
	hook((void *)calls_jumper, KW_SPAN);
	for (volatile int i = 0; i < 1000; i++)
		if (!setjmp(back))
			calls_jumper(7);
	assert_int_equal(calls_jumper(0), 1);
	assert_int_equal(spans().size(), 2);
	assert_int_equal(me()->depth, 0);
}

HOOKED long leaf(long a, long b, long c, long d, long e, long f, long g, long h) { return a + 2 * b + 3 * c + 4 * d + 5 * e + 6 * f + 7 * g + 8 * h; }
HOOKED __attribute__((optimize("O2"))) long tail(long a, long b, long c, long d, long e, long f, long g, long h) { return leaf(h, g, f, e, d, c, b, a); }
HOOKED double floats(double a, float b, long double c, int n) { return a + b + (double)c + n; }
struct Big { long v[6]; };
HOOKED struct Big big(long a) { struct Big b = { { a, a + 1, a + 2, a + 3, a + 4, a + 5 } }; return b; }
HOOKED long double extended(long double x) { return x * 2; }
HOOKED long deep(long n) { return n ? deep(n - 1) + 1 : 0; }

static void results_are_what_they_were(void **)
{
	hook((void *)leaf, KW_SPAN);
	hook((void *)tail, KW_SPAN);
	hook((void *)floats, KW_SPAN);
	hook((void *)big, KW_SPAN);
	hook((void *)extended, KW_SPAN);
	hook((void *)deep, KW_SPAN);
	assert_int_equal(tail(1, 2, 3, 4, 5, 6, 7, 8), 8 + 2 * 7 + 3 * 6 + 4 * 5 + 5 * 4 + 6 * 3 + 7 * 2 + 8 * 1);
	std::vector<struct kw_rec_span> v = spans();
	assert_int_equal(v.size(), 2); // also when one jumps to the other at its end
	assert_true(v[0].parent_seq == v[1].seq);
	assert_true(floats(1.5, 2.25f, 3.0L, 4) == 10.75);
	assert_int_equal(big(10).v[5], 15);
	assert_true(extended(1.25L) == 2.5L);
	spans();
	uint64_t lost = me()->lost_depth;
	assert_int_equal(deep(10000), 10000); // deeper than there are frames: the rest is let through, and counted
	assert_int_equal(spans().size() + me()->lost_depth - lost, 10001);
	assert_int_equal(me()->depth, 0);
}

HOOKED long worked(const char *s, int n, unsigned char c, long long big) { return (long)strlen(s) + n + c + big; }
static void describe(struct kw_hook *h)
{
	const struct kw_arg args[] = { { KW_ARG_STRING, 0, 8, 0 }, { KW_ARG_INT, 1, 4, 1 }, { KW_ARG_UINT, 2, 1, 2 }, { KW_ARG_INT, 3, 8, 3 }, { KW_ARG_INT, KW_ARG_RET, 8, 4 } };
	h->nargs = 5;
	memcpy(h->args, args, sizeof args);
	h->flags = KW_HOOK_STRINGS;
	h->nwhere = 2;
	h->where[0].op = KW_WHERE_GT;
	h->where[0].arg = { KW_ARG_INT, 1, 4, 0 };
	h->where[0].value = -5;
}

static void arguments_results_and_conditions(void **)
{
	hook((void *)worked, KW_DETAIL, describe);
	assert_int_equal(worked("hello", -6, 3, 1), 3); // -6 > -5 does not hold
	assert_int_equal(spans().size(), 0);
	assert_int_equal(worked("hello", -4, 3, 1ll << 40), 4 + (1ll << 40));
	int attributes = 0, done = 0;
	while (next_record(me(), &rec)) {
		if (rec.r.type == KW_REC_ATTR) {
			attributes++;
			const struct kw_attr *a = (const struct kw_attr *)(&rec.event + 1);
			if (attributes == 1) {
				assert_int_equal(rec.r.flags >> KW_REC_NATTR_SHIFT, 4);
				assert_true(a->type == KW_STR && a->len == 5 && !memcmp(a + 1, "hello", 5));
			} else {
				assert_true(a->key == 4 && *(const int64_t *)(a + 1) == 4 + (1ll << 40));
			}
		}
		done += rec.r.type == KW_REC_SPAN;
	}
	assert_int_equal(attributes, 2);
	assert_int_equal(done, 1);
}

static void *never = (void *)0x10;
HOOKED long takes_pointer(const char *s) { return s ? 1 : 0; }
static void describe_string(struct kw_hook *h)
{
	h->nargs = 1;
	h->args[0] = { KW_ARG_STRING, 0, 8, 0 };
	h->flags = KW_HOOK_STRINGS;
}
static void a_wild_pointer_is_a_number(void **)
{
	hook((void *)takes_pointer, KW_DETAIL, describe_string);
	assert_int_equal(takes_pointer((const char *)never), 1);
	char *page = (char *)mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	munmap(page + 4096, 4096);
	memcpy(page + 4092, "edge", 4); // no NUL before memory ends
	assert_int_equal(takes_pointer(page + 4092), 1);
	int n = 0;
	while (next_record(me(), &rec))
		if (rec.r.type == KW_REC_ATTR) {
			const struct kw_attr *a = (const struct kw_attr *)(&rec.event + 1);
			assert_true(n++ ? a->type == KW_STR && a->len == 4 && !memcmp(a + 1, "edge", 4) : a->type == KW_INT && *(const int64_t *)(a + 1) == 0x10);
		}
	assert_int_equal(n, 2);
}

HOOKED int request(int x) { int r = thrower(0) + x; __asm__ volatile("" : "+r"(r)); return r; }
HOOKED int event_loop(int n) { int r = 0; while (n--) r += request(n); return r; }
static void make_root(struct kw_hook *h) { h->flags |= KW_HOOK_ROOT; }
static void each_root_is_a_trace_of_its_own(void **)
{
	uint32_t root = hook((void *)request, KW_SPAN, make_root), loop = hook((void *)event_loop, KW_SPAN);
	event_loop(3);
	uint64_t trace[8], cur = 0;
	int n = 0;
	while (next_record(me(), &rec)) {
		if (rec.r.type == KW_REC_CTX)
			cur = rec.ctx.trace_lo;
		if (rec.r.type == KW_REC_SPAN && (rec.r.site == root || rec.r.site == loop)) {
			assert_int_equal(rec.span.parent_seq, 0);
			for (int i = 0; i < n; i++)
				assert_true(trace[i] != cur);
			trace[n++] = cur;
		}
	}
	assert_int_equal(n, 4);
	assert_int_equal(me()->depth, 0);
}

// A program's own span fails in functions that were intercepted, in a trace that is not kept: it is, with the request that it was in; the function between
// the two says nothing of itself, in no trace.
static void fails_inside(int fail) { KLIEG_SPAN_AS(span, "fails_inside"); if (fail) KLIEG_ERROR(span, "no"); }
HOOKED int between(int fail) { fails_inside(fail); __asm__ volatile("" : "+r"(fail)); return fail; }
HOOKED int failing_request(int fail) { int r = between(fail); __asm__ volatile("" : "+r"(r)); return r; }
static void a_failure_keeps_the_request_that_it_was_in(void **)
{
	uint32_t root = hook((void *)failing_request, KW_SPAN, make_root), middle = hook((void *)between, KW_SPAN);
	switch_site("fails_inside", KW_SPAN);
	for (int i = 0; i < 6; i++) {
		bool fail = i % 2, kept = i >= 4;
		H.states[root].threshold = kept ? 0 : UINT64_MAX;
		failing_request(fail);
		uint32_t seq = 0, inner_parent = 0, n = 0, middle_seq = 0;
		while (next_record(me(), &rec)) {
			if (rec.r.type != KW_REC_SPAN)
				continue;
			n++;
			assert_int_equal(rec.r.flags & KW_REC_ALONE, fail && rec.r.site != middle ? KW_REC_ALONE : 0);
			if (rec.r.site == root)
				seq = rec.span.seq;
			else if (rec.r.site == middle)
				middle_seq = rec.span.seq;
			else
				inner_parent = rec.span.parent_seq;
		}
		assert_int_equal(n, kept ? 3 : fail ? 2 : 0);
		assert_int_equal(inner_parent, kept ? middle_seq : seq);
		assert_int_equal(me()->depth, 0);
	}
	unsigned off = KW_OFF;
	sites_named("fails_inside", switch_one, &off);
}

HOOKED void *thread_main(void *arg) { return request((int)(long)arg) ? arg : arg; }
HOOKED void leaves() { pthread_exit((void *)5); }
static void *leaver(void *) { leaves(); return NULL; }
static void threads_come_and_go(void **)
{
	hook((void *)thread_main, KW_SPAN);
	hook((void *)leaves, KW_SPAN);
	for (int i = 0; i < 3000; i++) { // more than there are shadow stacks
		pthread_t t;
		void *r;
		pthread_create(&t, NULL, i & 1 ? thread_main : leaver, (void *)7);
		pthread_join(t, &r);
		assert_true(r == (void *)(i & 1 ? 7l : 5l));
		for (uint32_t k = 0; k < H.r->max_threads; k++) { // as the agent: slots of the dead are read and freed
			struct kw_thread *s = (struct kw_thread *)((uint8_t *)H.r + H.r->threads_off + k * H.r->thread_stride);
			if (s->state == KW_THREAD_DEAD) {
				s->tail = s->head;
				__atomic_store_n(&s->state, KW_THREAD_FREE, __ATOMIC_RELEASE);
			}
		}
	}
	assert_int_equal(H.c->lost_no_slot, 0);
	int taken = 0;
	for (uint32_t i = 0; i < H.r->gate_count; i++)
		taken += ((struct kw_gate *)(H.r->gate_data + i * H.r->gate_stride))->owner != 0;
	assert_int_equal(taken, 1);
}

HOOKED int forks(int x)
{
	pid_t pid = fork();
	if (!pid)
		return x; // the child returns through the gate too
	int st = -1;
	waitpid(pid, &st, 0);
	return WIFEXITED(st) ? WEXITSTATUS(st) : -1;
}
static void both_sides_of_a_fork_return(void **)
{
	hook((void *)forks, KW_SPAN);
	pid_t parent = getpid();
	int r = forks(42);
	if (getpid() != parent)
		_exit(r == 42 && thrower(0) == 1 ? 33 : 1);
	assert_int_equal(r, 33);
	skip_records(me());
}

// On for requests that carry a level: the others pass, and leave nothing; deep inside one as at its outermost function.
HOOKED int inner_part(int x) { return x + 1; }
HOOKED int outer_part(int x) { int r = inner_part(x) + 1; __asm__ volatile("" : "+r"(r)); return r; }
static void for_some_requests_only(void **)
{
	uint32_t inner = hook((void *)inner_part, KW_SPAN), outer = hook((void *)outer_part, KW_SPAN);
	for (int gated = 1; gated <= 2; gated++) { // the inner one, then both
		set_flags(gated == 1 ? inner : outer, KW_STATE_GATED);
		for (int i = 0; i < 10; i++) {
			assert_int_equal(outer_part(40), 42);
			std::vector<struct kw_rec_span> v = spans();
			assert_int_equal(v.size(), 2 - gated);
			assert_true(gated == 2 || v[0].r.site == outer);
			struct klieg_ctx ask = {}, was;
			ask.trace_hi = ask.trace_lo = (uint64_t)i + 7;
			ask.flags = KW_CTX_SAMPLED | KW_SPAN << KW_CTX_LEVEL_SHIFT;
			klieg_set_current(&ask, &was);
			assert_int_equal(outer_part(40), 42);
			assert_int_equal(outer_part(40), 42);
			klieg_restore(&was);
			v = spans();
			assert_int_equal(v.size(), 4);
			for (int k = 0; k < 4; k++)
				assert_int_equal(v[k].r.site, k & 1 ? outer : inner);
			assert_true(v[2].parent_seq == v[3].seq && v[0].parent_seq == v[1].seq);
		}
	}
	assert_int_equal(me()->depth, 0);
}

// Levels change while calls are under way: what was begun ends, what was not does not.
static uint32_t turned;
HOOKED int turns(int level) { __atomic_store_n(&H.states[turned].level, (uint8_t)level, __ATOMIC_RELAXED); return level; }
HOOKED int around(int level) { int r = turns(level); __asm__ volatile("" : "+r"(r)); return r; }
static void levels_change_under_way(void **)
{
	turned = hook((void *)turns, KW_SPAN);
	uint32_t outer = hook((void *)around, KW_SPAN);
	int want = KW_SPAN, n = 0;
	spans();
	for (int i = 0; i < 60; i++) {
		int next = i % 5 == 3 ? KW_OFF : i % 4 == 1 ? KW_COUNT : i % 3 == 0 ? KW_DETAIL : KW_SPAN;
		n += want >= KW_SPAN;
		assert_int_equal(around(next), next);
		want = next;
	}
	std::vector<struct kw_rec_span> v = spans();
	int mine = 0;
	for (auto &r : v)
		mine += r.r.site == turned, assert_true(r.r.site == turned || r.r.site == outer);
	assert_int_equal(mine, n);
	assert_int_equal(v.size(), n + 60);
	assert_int_equal(me()->depth, 0);
}

// For gate_callgrind.py, which counts the instructions of the loop: hooked (and recorded) or not, in a request.
HOOKED int counted(int x) { return x + 1; }
extern "C" __attribute__((noinline, visibility("default"))) int counted_loop(int calls) { int r = 0; while (calls--) r = counted(r); return r; }
HOOKED int counted_request(int calls) { int r = counted_loop(calls); __asm__ volatile("" : "+r"(r)); return r; }
static int count_calls(int calls, bool hooked)
{
	hook((void *)counted_request, KW_SPAN, make_root);
	if (hooked)
		hook((void *)counted, KW_SPAN);
	counted_request(1); // this thread's first record sets up its ring
	skip_records(me());
	return counted_request(calls) == calls && (int)spans().size() == 1 + (hooked ? calls : 0) ? 0 : 1;
}

int main(int argc, char **argv)
{
	if (klieg__attach("/nowhere") != 0)
		return 1;
	harness_find();
	if (argc == 3)
		return count_calls(atoi(argv[1]), atoi(argv[2]));
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(exceptions_pass_through), cmocka_unit_test(a_backtrace_sees_every_caller), cmocka_unit_test(longjmp_out_of_hooked_frames),
		cmocka_unit_test(results_are_what_they_were), cmocka_unit_test(arguments_results_and_conditions), cmocka_unit_test(a_wild_pointer_is_a_number),
		cmocka_unit_test(each_root_is_a_trace_of_its_own), cmocka_unit_test(a_failure_keeps_the_request_that_it_was_in), cmocka_unit_test(for_some_requests_only), cmocka_unit_test(levels_change_under_way),
		cmocka_unit_test(threads_come_and_go), cmocka_unit_test(both_sides_of_a_fork_return),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
