/* The same loop as bench_probe's with the peer's tracepoints: prints ns per entry and exit. Runs inside a session that run.sh makes. */
#define LTTNG_UST_TRACEPOINT_CREATE_PROBES
#define LTTNG_UST_TRACEPOINT_DEFINE
#include "lttng_peer.h"
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { N = 200000, ROUNDS = 15 };

static double now_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

__attribute__((noinline)) static void traced(int i)
{
	lttng_ust_tracepoint(klieg_bench, entry, i);
	__asm__ volatile("");
	lttng_ust_tracepoint(klieg_bench, leave, i);
}

static int by_value(const void *a, const void *b) { return *(const double *)a < *(const double *)b ? -1 : *(const double *)a > *(const double *)b; }

int main(void)
{
	double v[ROUNDS];
	cpu_set_t one;
	CPU_ZERO(&one);
	CPU_SET(0, &one);
	sched_setaffinity(0, sizeof one, &one);
	for (int r = 0; r < ROUNDS; r++) {
		double t = now_ns();
		for (int i = 0; i < N; i++)
			traced(i);
		v[r] = (now_ns() - t) / N;
	}
	qsort(v, ROUNDS, sizeof *v, by_value);
	printf("%.2f\n", v[ROUNDS / 2]);
	return 0;
}
