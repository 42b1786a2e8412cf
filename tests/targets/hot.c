/* Threads that hammer hooked functions. `go N`: four threads, N calls each. `start K`: K threads (at most four) run until `stop`; `count` says how many
 * calls there were so far, so that a test sees that it lives. `park`: goes deep into hooked functions and waits there for a line, then comes back with `unparked`. */
#include "target.h"
#include <pthread.h>

enum { THREADS = 4 };
static pthread_t thread[THREADS];
static int running, hammering;
static uint64_t calls, wrong;

HOOKED uint64_t inner(uint64_t x)
{
	COUNTED(inner);
	return mix(x, 5);
}
HOOKED uint64_t outer(uint64_t x)
{
	COUNTED(outer);
	uint64_t a = inner(x);
	AFTER_CALL(a);
	return a ^ x;
}

static void *hammer(void *arg)
{
	uint64_t h = (uint64_t)(uintptr_t)arg;
	while (__atomic_load_n(&running, __ATOMIC_RELAXED)) {
		for (int i = 0; i < 1000; i++) {
			uint64_t was = h;
			h = outer(h);
			wrong += h != (mix(was, 5) ^ was);
		}
		__atomic_fetch_add(&calls, 1000, __ATOMIC_RELAXED);
	}
	return NULL;
}

static long each;
static void *some(void *arg)
{
	uint64_t h = (uint64_t)(uintptr_t)arg;
	for (long i = 0; i < each; i++)
		h = outer(h);
	return (void *)h;
}

static uint64_t go(long rounds)
{
	pthread_t t[THREADS];
	uint64_t h = 0;
	each = rounds;
	for (uintptr_t i = 0; i < THREADS; i++)
		CHECK(!pthread_create(&t[i], NULL, some, (void *)i));
	for (int i = 0; i < THREADS; i++) {
		void *r;
		pthread_join(t[i], &r);
		h = mix(h, (uint64_t)r);
	}
	return h;
}

HOOKED uint64_t parks(int depth)
{
	COUNTED(parks);
	char line[64];
	uint64_t h = 1;
	if (depth) {
		h = parks(depth - 1);
		AFTER_CALL(h);
		return mix(h, (uint64_t)depth);
	}
	printf("parked\n");
	fflush(stdout);
	CHECK(fgets(line, sizeof line, stdin));
	return h;
}

static int other(const char *line)
{
	if (!strncmp(line, "start", 5)) {
		running = 1;
		hammering = line[5] == ' ' && line[6] >= '1' && line[6] <= '4' ? line[6] - '0' : THREADS;
		for (uintptr_t i = 0; i < (uintptr_t)hammering; i++)
			CHECK(!pthread_create(&thread[i], NULL, hammer, (void *)i));
		printf("started\n");
	} else if (!strncmp(line, "count", 5)) {
		printf("count %llu %llu\n", (unsigned long long)__atomic_load_n(&calls, __ATOMIC_RELAXED), (unsigned long long)wrong);
	} else if (!strncmp(line, "stop", 4)) {
		__atomic_store_n(&running, 0, __ATOMIC_RELAXED);
		for (int i = 0; i < hammering; i++)
			pthread_join(thread[i], NULL);
		printf("stopped %llu\n", (unsigned long long)wrong);
	} else if (!strncmp(line, "park", 4)) {
		printf("unparked %llx\n", (unsigned long long)parks(20));
	} else {
		return 0;
	}
	return 1;
}

int main(void) { return target_loop(go, other); }
