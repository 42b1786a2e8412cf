/* What the targets have in common: programs that know nothing of Klieg, each with a habit that has broken tracers. They obey commands on stdin:
 *   go N    does N rounds, answers   done RESULT NAME=CALLS ...
 * RESULT is a number that depends on N alone, traced or not; CALLS is how often each counted function was entered since the last answer. The end of
 * stdin ends the program. Before the first command it says `ready PID`. */
#pragma once
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifdef __cplusplus
#define TARGET_C extern "C"
#else
#define TARGET_C
#endif
/* A function that is there under its name, once, and is called. */
#define HOOKED TARGET_C __attribute__((noinline, noclone, visibility("default")))

struct target_count { const char *name; uint64_t n; };
#ifdef __cplusplus
extern "C" {
#endif
extern struct target_count __start_target_counts[], __stop_target_counts[];
#ifdef __cplusplus
}
#endif
/* First in a counted function's body. */
#define COUNTED(fn) do { \
	static struct target_count count_ __attribute__((section("target_counts"), used)) = { #fn, 0 }; \
	__atomic_fetch_add(&count_.n, 1, __ATOMIC_RELAXED); \
} while (0)

/* Keeps what follows a call from being optimised into a jump or a loop. */
#define AFTER_CALL(value) __asm__ volatile("" : "+r"(value) : : "memory")

static inline uint64_t mix(uint64_t h, uint64_t x)
{
	h = (h ^ x) * 0x9e3779b97f4a7c15ull;
	return h ^ h >> 29;
}

static inline void target_fail(const char *what)
{
	printf("failed %s\n", what);
	fflush(stdout);
	abort();
}
#define CHECK(truth) ((truth) ? (void)0 : target_fail(#truth))

/* Answers commands with what go() returns; `other`, if any, is asked about commands that are not `go`. */
static inline int target_loop(uint64_t (*go)(long rounds), int (*other)(const char *line))
{
	char line[256];
	printf("ready %d\n", (int)getpid());
	fflush(stdout);
	while (fgets(line, sizeof line, stdin)) {
		long n;
		if (sscanf(line, "go %ld", &n) != 1) {
			if (!other || !other(line))
				printf("failed unknown command %s", line);
			fflush(stdout);
			continue;
		}
		uint64_t result = go(n);
		printf("done %016llx", (unsigned long long)result);
		for (struct target_count *c = __start_target_counts; c < __stop_target_counts; c++)
			if (c->name)
				printf(" %s=%llu", c->name, (unsigned long long)__atomic_exchange_n(&c->n, 0, __ATOMIC_RELAXED));
		printf("\n");
		fflush(stdout);
	}
	return 0;
}
