/* A static program for uprobe_test.c: says where its functions are in its file, then does what it is told, a line at a time,
 * and says "done". */
#include <link.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
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
FUNCTION long given(int a, const char *text, unsigned char small, long d, long e, long f, long seventh, const char *on_stack)
{
	KEEP;
	long v = a + (long)strlen(text) + small + d + e + f + seventh + (long)strlen(on_stack);
	KEEP;
	return v;
}
FUNCTION const char *named(long i) { KEEP; return i & 1 ? "odd" : "even"; }
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

#ifdef WITH_ALTSTACK
/* A handler on a stack above the thread's calls probed functions while others are open below. */
FUNCTION void interrupted(void) { KEEP; raise(SIGUSR1); KEEP; }
static void handler(int s) { leaf(); }
static void *signals(void *high)
{
	stack_t st = { .ss_sp = high, .ss_size = 1 << 18 };
	sigaltstack(&st, NULL);
	for (long i = 0; i < n; i++)
		interrupted();
	return NULL;
}
#else
FUNCTION void interrupted(void) { KEEP; }
#endif

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
		{ "tail", tail }, { "nop5", nop5 }, { "leave", leave }, { "stamped", stamped }, { "quit", quit }, { "wait_here", wait_here },
		{ "interrupted", interrupted }, { "given", given }, { "named", named } };
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
		else if (!strcmp(what, "fork")) {
			pid_t child = fork();
			if (!child) {
				calls(NULL);
				_exit(0);
			}
			int status = -1;
			waitpid(child, &status, 0);
			printf("status %d\n", status);
#ifdef WITH_ALTSTACK
		} else if (!strcmp(what, "signals")) {
			void *high = mmap(NULL, 1 << 18, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0); /* before the thread's: so above it */
			struct sigaction sa = { .sa_handler = handler, .sa_flags = SA_ONSTACK };
			sigaction(SIGUSR1, &sa, NULL);
			pthread_t t;
			if (pthread_create(&t, NULL, signals, high) || pthread_join(t, NULL))
				exit(3);
#endif
		} else if (!strcmp(what, "stamped")) {
			stamped(n);
			printf("stamps %lu %lu\n", stamps[0], stamps[1]);
		} else if (!strcmp(what, "wait"))
			wait_here();
		else if (!strcmp(what, "given"))
			for (volatile long i = 0; i < n; i++) {
				char text[16];
				snprintf(text, sizeof text, "call %ld", i);
				sink += given((int)-i, text, (unsigned char)i, i, i, i, 7 * i, "right") + *named(i);
			}
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
