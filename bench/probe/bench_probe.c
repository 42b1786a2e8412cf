/* What a probe costs. The program is its own agent: it finds its region, keeps the lease, writes the sites' bytes through /proc/self/mem, and a
 * thread drains the ring (reads every record's line, moves the tail). The floor, run in alternation with every figure: two reads of the
 * clock and one 32-byte store to a ring of the thread, in an empty call. A figure is the median of ROUNDS rounds, each the median of its
 * batches; a ratio is the median of the rounds' own ratios. A batch fits into the ring, so nothing is lost: that is checked at the end.
 *
 * Prints `name value unit ratio(bar)`. */
#define PROBE_HARNESS_PLAIN
#define KLIEG_COMPONENT "bench"
#include "klieg/klieg.h"
#include "probe_harness.h"
#include <linux/perf_event.h>
#include <pthread.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <time.h>

enum { ROUNDS = 11, BATCHES = 15, BATCH = 2000 };
#define CALL __attribute__((noinline, noclone)) static

/* ---- what is measured ------------------------------------------------------------------------------------------------ */

static __thread struct { uint64_t head; _Alignas(64) uint64_t ring[KW_RING_BYTES / 8]; } floor_ring;

static inline void floor_store(uint64_t t0, uint64_t t1)
{
	uint64_t *r = (uint64_t *)((char *)floor_ring.ring + (floor_ring.head & (KW_RING_BYTES - 1)));
	r[0] = 1;
	r[1] = t0;
	r[2] = t1 - t0;
	r[3] = floor_ring.head;
	__atomic_store_n(&floor_ring.head, floor_ring.head + 32, __ATOMIC_RELEASE);
}
CALL void do_floor(void)
{
	uint64_t t0 = __builtin_ia32_rdtsc();
	__asm__ volatile("" ::: "memory");
	floor_store(t0, __builtin_ia32_rdtsc());
}
#define BODY __asm__ volatile("" ::: "memory")
CALL void do_empty(void) { BODY; }
CALL void do_off_count(void) { KLIEG_COUNT("off_count", 1); BODY; }
CALL void do_off_event(void) { KLIEG_EVENT("off_event"); BODY; }
CALL void do_off_span(void) { KLIEG_SPAN("off_span"); BODY; }
CALL void do_span(void) { KLIEG_SPAN("span"); BODY; }
CALL void do_span2(void) { KLIEG_SPAN("span2", KLIEG_STRN("tenant", "acme-eu", 7), KLIEG_INT("cents", 1999)); BODY; }
CALL void do_counted_span(void) { KLIEG_SPAN("counted_span"); BODY; }
CALL void do_count(void) { KLIEG_COUNT("count", 1); BODY; }
CALL void do_ungated(void) { KLIEG_SPAN("ungated_span", KLIEG_STRN("tenant", "acme-eu", 7)); BODY; }
CALL void do_gated(void) { KLIEG_SPAN("gated_span", KLIEG_STRN("tenant", "acme-eu", 7)); BODY; }
CALL void do_event(void) { KLIEG_EVENT("event"); BODY; }

static unsigned work_steps = 100;
static inline void work(void) /* each on what the one before has left: no two of them at a time, whatever is between */
{
	static uint64_t left = 1;
	uint64_t x = left;
	for (unsigned i = 0; i < work_steps; i++)
		__asm__ volatile("imul $3, %0, %0" : "+r"(x));
	left = x;
}
CALL void do_work(void) { work(); }
CALL void do_work_floor(void)
{
	uint64_t t0 = __builtin_ia32_rdtsc();
	work();
	floor_store(t0, __builtin_ia32_rdtsc());
}
CALL void do_work_span(void) { KLIEG_SPAN("work_span"); work(); }

enum { FLOOR, EMPTY, OFF_COUNT, OFF_EVENT, OFF_SPAN, SPAN, ROOT, SPAN2, COUNTED, COUNT, EVENT, UNGATED, GATED, WORK, WORK_FLOOR, WORK_SPAN, CASES };
static const struct { void (*fn)(void); const char *site; unsigned level; bool in_trace; } cases[CASES] = {
	[FLOOR] = { do_floor, NULL, 0, false }, [EMPTY] = { do_empty, NULL, 0, false },
	[OFF_COUNT] = { do_off_count, NULL, 0, false }, [OFF_EVENT] = { do_off_event, NULL, 0, false }, [OFF_SPAN] = { do_off_span, NULL, 0, false },
	[SPAN] = { do_span, "span", KW_SPAN, true }, [ROOT] = { do_span, "span", KW_SPAN, false },
	[SPAN2] = { do_span2, "span2", KW_DETAIL, true }, [COUNTED] = { do_counted_span, "counted_span", KW_COUNT, true },
	[COUNT] = { do_count, "count", KW_COUNT, true }, [EVENT] = { do_event, "event", KW_SPAN, true },
	[UNGATED] = { do_ungated, NULL, 0, false }, [GATED] = { do_gated, "gated_span", KW_DETAIL, true },
	[WORK] = { do_work, NULL, 0, false }, [WORK_FLOOR] = { do_work_floor, NULL, 0, false }, [WORK_SPAN] = { do_work_span, "work_span", KW_SPAN, true },
};

/* ---- the agent's part -------------------------------------------------------------------------------------------------- */

static int stop;
static struct kw_thread *mine; /* the measured thread's slot */

static void *drain(void *arg)
{
	uint64_t sum = 0;
	struct timespec nap = { 0, 20000 };
	while (!__atomic_load_n(&stop, __ATOMIC_ACQUIRE)) {
		struct kw_thread *t = __atomic_load_n(&mine, __ATOMIC_ACQUIRE);
		if (t) {
			const uint8_t *ring = (uint8_t *)t + H.r->ring_off;
			uint64_t head = __atomic_load_n(&t->head, __ATOMIC_ACQUIRE);
			for (uint64_t at = t->tail; at < head; at += KW_UNIT)
				sum += *(const uint64_t *)(ring + (at & (H.r->ring_bytes - 1)));
			__atomic_store_n(&t->tail, head, __ATOMIC_RELEASE);
		}
		nanosleep(&nap, NULL);
	}
	__asm__ volatile("" :: "r"(sum));
	return arg;
}

static void drained(void)
{
	while (mine && __atomic_load_n(&mine->tail, __ATOMIC_ACQUIRE) != mine->head)
		sched_yield();
}

/* ---- measuring ---------------------------------------------------------------------------------------------------------- */

static double now_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return 1e9 * (double)t.tv_sec + (double)t.tv_nsec;
}
static int by_value(const void *a, const void *b) { double x = *(const double *)a, y = *(const double *)b; return (x > y) - (x < y); }
static double median(double *v, int n)
{
	qsort(v, (size_t)n, sizeof *v, by_value);
	return v[n / 2];
}

static __attribute__((noinline)) void batch(void (*fn)(void))
{
	for (int i = 0; i < BATCH; i++)
		fn();
}
static __attribute__((noinline)) double measure(int which)
{
	double ns[BATCHES];
	for (int b = 0; b < BATCHES; b++) {
		drained();
		double t0 = now_ns();
		batch(cases[which].fn);
		ns[b] = (now_ns() - t0) / BATCH;
	}
	return median(ns, BATCHES);
}
static double measure_case(int which)
{
	if (!cases[which].in_trace)
		return measure(which);
	KLIEG_SPAN("outer");
	return measure(which);
}

/* One call at a time, each after other work has taken the caches: what a probe that is passed now and then costs. */
static double cold(int which)
{
	enum { TIMES = 301, BYTES = 8 << 20 };
	static uint8_t other[BYTES];
	double ns[TIMES], from = now_ns();
	uint64_t ticks = kw_ticks();
	for (int i = 0; i < TIMES; i++) {
		for (size_t k = 0; k < BYTES; k += 64)
			other[k]++;
		uint64_t t0 = kw_ticks();
		cases[which].fn();
		ns[i] = (double)(kw_ticks() - t0);
	}
	return median(ns, TIMES) * (now_ns() - from) / (double)(kw_ticks() - ticks);
}
static double cold_case(int which)
{
	if (!cases[which].in_trace)
		return cold(which);
	KLIEG_SPAN("outer");
	return cold(which);
}

/* Instructions a call retires in user mode, or -1 where the machine does not tell. */
static double instructions(int which)
{
	struct perf_event_attr a = { .type = PERF_TYPE_HARDWARE, .size = sizeof a, .config = PERF_COUNT_HW_INSTRUCTIONS, .exclude_kernel = 1, .exclude_hv = 1 };
	int fd = (int)syscall(SYS_perf_event_open, &a, 0, -1, -1, 0);
	uint64_t n = 0, before = 0;
	if (fd < 0)
		return -1;
	bool ok = read(fd, &before, sizeof before) == sizeof before;
	for (int i = 0; i < 10; i++)
		batch(cases[which].fn);
	ok = ok && read(fd, &n, sizeof n) == sizeof n;
	close(fd);
	return ok && n > before ? (double)(n - before) / (10.0 * BATCH) : -1;
}

static double got[CASES][ROUNDS];
static double value(int which) { double v[ROUNDS]; memcpy(v, got[which], sizeof v); return median(v, ROUNDS); }
static double over(int which, int base, bool difference)
{
	double v[ROUNDS];
	for (int r = 0; r < ROUNDS; r++)
		v[r] = difference ? got[which][r] - got[base][r] : got[which][r] / got[base][r];
	return median(v, ROUNDS);
}
static void print_ratio(const char *name, int which, double bar)
{
	printf("%s %.2f ns %.2fx_floor", name, value(which), over(which, FLOOR, false));
	if (bar > 0)
		printf("(bar<=%.1f)", bar);
	putchar('\n');
}
static void print_cold(const char *name, double ns) { printf("%s %.0f ns %.1fx_floor,after_8_MiB_of_other_work\n", name, ns, ns / value(FLOOR)); }
static void print_over(const char *name, int which, int than, const char *note)
{
	double n = instructions(which), base = instructions(than);
	printf("%s %.2f ns %s", name, over(which, than, true), note);
	if (n >= 0 && base >= 0)
		printf(",%+.1f_instructions", n - base);
	putchar('\n');
}

int main(void)
{
	harness_find();
	for (int i = 0; i < 5; i++) /* 200 ns of work, whatever this machine's clock */
		work_steps = (unsigned)(work_steps * 200 / measure(WORK)) + 1;
	switch_site("outer", KW_SPAN);
	for (int c = 0; c < CASES; c++)
		if (cases[c].site)
			switch_site(cases[c].site, cases[c].level);
	sites_named("gated_span", gate_one, NULL);
	pthread_t t;
	if (pthread_create(&t, NULL, drain, NULL))
		return 1;
	do_span(); /* this thread gets its slot */
	__atomic_store_n(&mine, slot_of((unsigned)syscall(SYS_gettid)), __ATOMIC_RELEASE);
	assert_non_null(mine);
	for (int r = -1; r < ROUNDS; r++) /* the first warms up */
		for (int c = 0; c < CASES; c++)
			got[c][r < 0 ? 0 : r] = measure_case(c);

	printf("probe_floor %.2f ns 2_rdtsc+32_byte_store\n", value(FLOOR));
	print_over("probe_count_off", OFF_COUNT, EMPTY, "over_an_empty_call");
	print_over("probe_event_off", OFF_EVENT, EMPTY, "over_an_empty_call");
	print_over("probe_span_off", OFF_SPAN, EMPTY, "over_an_empty_call");
	print_ratio("probe_span_on", SPAN, 1.5);
	print_ratio("probe_root_span_on", ROOT, 0);
	print_ratio("probe_span_2_attributes", SPAN2, 2);
	print_ratio("probe_span_at_count", COUNTED, 0);
	print_ratio("probe_count_on", COUNT, 1.3);
	print_ratio("probe_event_on", EVENT, 0);
	print_over("probe_span_of_other_requests", GATED, UNGATED, "over_the_same_site_switched_off(bar<=2)");
	printf("probe_floor_in_200ns_work %.2f ns 2_rdtsc+32_byte_store_around_it\n", over(WORK_FLOOR, WORK, true));
	printf("probe_span_in_200ns_work %.2f ns %.1f%%_of_%.0f_ns\n", over(WORK_SPAN, WORK, true), 100 * (over(WORK_SPAN, WORK, false) - 1), value(WORK));
	double empty = cold_case(EMPTY);
	print_cold("probe_span_cold", cold_case(SPAN) - empty);
	print_cold("probe_span_2_attributes_cold", cold_case(SPAN2) - empty);
	print_cold("probe_count_cold", cold_case(COUNT) - empty);
	__atomic_store_n(&stop, 1, __ATOMIC_RELEASE);
	pthread_join(t, NULL);
	uint64_t lost = mine->lost_full + mine->lost_other + mine->lost_depth + mine->lost_reentrant;
	printf("probe_lost %llu records must_be_0\n", (unsigned long long)lost);
	return lost != 0;
}
