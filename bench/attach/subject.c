/* What is traced in bench/attach: a program that knows nothing of any tracer. For each line on stdin, or N times
 * with an argument: ns a call of `traced`, less that of the same function beside it, and of the floor, in alternation; medians of batches. With a line, batches
 * are paced so that a reader can keep up and nothing is lost. */
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { BATCH = 2000, BATCHES = 61, RING = 256 * 1024 };

static uint64_t ring[RING / 8], head;

/* Two reads of the clock and a 32-byte store: what any tracer pays. */
__attribute__((noinline, noclone)) static void reference(void)
{
	uint64_t t0 = __builtin_ia32_rdtsc();
	__asm__ volatile("" ::: "memory");
	uint64_t t1 = __builtin_ia32_rdtsc(), *r = (uint64_t *)((char *)ring + (head & (RING - 1)));
	r[0] = 1;
	r[1] = t0;
	r[2] = t1 - t0;
	r[3] = head;
	__atomic_store_n(&head, head + 32, __ATOMIC_RELEASE);
}
/* By hand, so that both are the same: an ordinary beginning and end, nothing between. */
#define BY_HAND(name) __asm__(".text\n.globl " #name "\n.type " #name ", @function\n.p2align 4\n" #name ": .cfi_startproc\n push %rbx\n .cfi_def_cfa_offset 16\n" \
	" .cfi_offset rbx, -16\n mov %rdi, %rbx\n mov %rbx, %rax\n pop %rbx\n .cfi_def_cfa_offset 8\n ret\n .cfi_endproc\n.size " #name ", . - " #name "\n")
BY_HAND(traced);
BY_HAND(nothing);
void traced(uint64_t *x), nothing(uint64_t *x);

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}
static int by_value(const void *a, const void *b) { return *(const double *)a < *(const double *)b ? -1 : *(const double *)a > *(const double *)b; }

/* Traced too, or not: then each call of `traced` begins a trace of its own. */
void batch(int kind, uint64_t *x);
__attribute__((noinline, noclone)) void batch(int kind, uint64_t *x)
{
	for (int i = 0; i < BATCH; i++)
		if (kind == 0)
			traced(x);
		else if (kind == 1)
			nothing(x);
		else
			reference();
}

static void loop(int paced)
{
	double v[3][BATCHES];
	uint64_t x = 0;
	struct timespec pause = { 0, 2000000 };
	for (int b = 0; b < BATCHES; b++) {
		for (int kind = 0; kind < 3; kind++) {
			double t = now();
			batch(kind, &x);
			v[kind][b] = (now() - t) / BATCH;
		}
		if (paced)
			nanosleep(&pause, NULL);
	}
	for (int k = 0; k < 3; k++)
		qsort(v[k], BATCHES, sizeof v[k][0], by_value);
	printf("%.2f %.2f\n", v[0][BATCHES / 2] - v[1][BATCHES / 2], v[2][BATCHES / 2] - v[1][BATCHES / 2]);
	fflush(stdout);
}

int main(int argc, char **argv)
{
	char line[64];
	cpu_set_t one;
	CPU_ZERO(&one);
	CPU_SET(0, &one);
	sched_setaffinity(0, sizeof one, &one);
	if (argc > 1) { /* under a tracer that starts what it traces */
		for (int i = 0; i < atoi(argv[1]); i++)
			loop(0);
		return 0;
	}
	printf("ready %d\n", (int)getpid());
	fflush(stdout);
	while (fgets(line, sizeof line, stdin))
		loop(1);
	return 0;
}
