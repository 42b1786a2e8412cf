/* A static program for uprobe_test.c: says where its functions are in its file, then does what it is told, a line at a time, and says "done". */
#include <link.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define FUNCTION static __attribute__((noinline, noclone, used))
#define KEEP __asm__ volatile("" ::: "rbx", "memory") /* a callee-saved register in use: the function begins with a push */

volatile long sink;

FUNCTION void leaf(void) { KEEP; }
FUNCTION void parent(void) { KEEP; leaf(); leaf(); KEEP; }
FUNCTION long down(long n) { KEEP; long v = n > 1 ? down(n - 1) : 0; KEEP; return v + 1; }
FUNCTION void never(void) { KEEP; sink++; }
FUNCTION void inner(void) { KEEP; sink++; KEEP; }
__asm__(".text\n.globl tail\n.type tail,@function\ntail: push %rbx\n pop %rbx\n jmp inner\n.size tail,.-tail\n"
	".globl nop5\n.type nop5,@function\nnop5: .byte 0x0f,0x1f,0x44,0,0\n ret\n.size nop5,.-nop5\n");
void tail(void), nop5(void);

static jmp_buf back;
FUNCTION void leave(void) { KEEP; longjmp(back, 1); }
static uint64_t stamps[2];
static inline uint64_t tsc(void) { return __builtin_ia32_rdtsc(); }
FUNCTION void stamped(long spin)
{
	KEEP;
	stamps[0] = tsc();
	for (long i = 0; i < spin; i++)
		KEEP;
	stamps[1] = tsc();
	KEEP;
}
FUNCTION void quit(void) { KEEP; pthread_exit(NULL); }
FUNCTION void wait_here(void) { KEEP; char c; (void)!read(0, &c, 1); KEEP; }

static long n;
static void *calls(void *arg)
{
	for (long i = 0; i < n; i++) {
		parent();
		down(5);
	}
	return NULL;
}
static void *deep(void *arg) { down(100); return NULL; }
static void *exits(void *arg) { quit(); return NULL; }
static void *forever(void *arg) { for (;;) parent(); return NULL; }

static void threads(void *(*fn)(void *), int k, int join)
{
	pthread_t t[16];
	for (int i = 0; i < k; i++)
		if (pthread_create(&t[i], NULL, fn, NULL))
			exit(3);
	for (int i = 0; join && i < k; i++)
		pthread_join(t[i], NULL);
}

static int print_offset(struct dl_phdr_info *info, size_t size, void *arg)
{
	static const struct { const char *name; void *at; } f[] = { { "leaf", leaf }, { "parent", parent }, { "down", down }, { "never", never }, { "inner", inner },
		{ "tail", tail }, { "nop5", nop5 }, { "leave", leave }, { "stamped", stamped }, { "quit", quit }, { "wait_here", wait_here } };
	for (int i = 0; i < info->dlpi_phnum; i++)
		for (size_t k = 0; k < sizeof f / sizeof *f && info->dlpi_phdr[i].p_type == PT_LOAD; k++) {
			uint64_t at = (uint64_t)f[k].at - info->dlpi_addr - info->dlpi_phdr[i].p_vaddr;
			if (at < info->dlpi_phdr[i].p_filesz)
				printf("%s %lu\n", f[k].name, (unsigned long)(at + info->dlpi_phdr[i].p_offset));
		}
	return 1;
}

#ifdef AS_GO
static const char volatile sign[] __attribute__((used)) = "\xff Go buildinf:"; /* as the Go linker marks its programs */
#endif

int main(void)
{
	char what[32], line[64];
	dl_iterate_phdr(print_offset, NULL);
	puts("ready");
	fflush(stdout);
	while (fgets(line, sizeof line, stdin) && sscanf(line, "%31s %ld", what, &n) == 2) {
		struct timespec a, b;
		if (!strcmp(what, "calls"))
			threads(calls, 3, 1);
		else if (!strcmp(what, "deep"))
			threads(deep, 1, 1);
		else if (!strcmp(what, "tail"))
			for (volatile long i = 0; i < n; i++)
				tail();
		else if (!strcmp(what, "jump"))
			for (volatile long i = 0; i < n; i++) {
				if (!setjmp(back))
					leave();
				leaf();
			}
		else if (!strcmp(what, "quit"))
			threads(exits, (int)n, 1);
		else if (!strcmp(what, "forever"))
			threads(forever, (int)n, 0);
		else if (!strcmp(what, "stamped")) {
			stamped(n);
			printf("stamps %lu %lu\n", stamps[0], stamps[1]);
		} else if (!strcmp(what, "wait"))
			wait_here();
		else if (!strcmp(what, "bench")) {
			clock_gettime(CLOCK_MONOTONIC, &a);
			for (long i = 0; i < n; i++)
				leaf();
			clock_gettime(CLOCK_MONOTONIC, &b);
			printf("ns %.1f\n", ((double)(b.tv_sec - a.tv_sec) * 1e9 + (double)(b.tv_nsec - a.tv_nsec)) / (double)n);
		}
		puts("done");
		fflush(stdout);
	}
	return 0;
}
