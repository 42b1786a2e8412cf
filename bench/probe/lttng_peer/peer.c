/* The same loop as bench_probe's with LTTng-UST: a span is a tracepoint at its entry and one at its exit. Prints nanoseconds a span, the
 * median of its batches; without a session (argument "off") what disabled tracepoints cost. */
#define LTTNG_UST_TRACEPOINT_CREATE_PROBES
#define LTTNG_UST_TRACEPOINT_DEFINE
#include "tp.h"
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

enum { BATCHES = 201, BATCH = 2000 };
__attribute__((noinline, noclone)) static void span(int i)
{
	lttng_ust_tracepoint(klieg_peer, entry, i);
	__asm__ volatile("" ::: "memory");
	lttng_ust_tracepoint(klieg_peer, exit, i);
}
static double now_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return 1e9 * (double)t.tv_sec + (double)t.tv_nsec;
}
static int by_value(const void *a, const void *b) { double x = *(const double *)a, y = *(const double *)b; return (x > y) - (x < y); }

int main(void)
{
	static double ns[BATCHES];
	for (int b = 0; b < BATCHES; b++) {
		double t0 = now_ns();
		for (int i = 0; i < BATCH; i++)
			span(i);
		ns[b] = (now_ns() - t0) / BATCH;
		usleep(500); /* its consumer's turn, as the other bench waits for its own */
	}
	qsort(ns, BATCHES, sizeof *ns, by_value);
	printf("%.2f\n", ns[BATCHES / 2]);
	return 0;
}
