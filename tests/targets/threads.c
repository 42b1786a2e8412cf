/* Threads that come and go faster than they can be followed: with hooked start functions, ended by pthread_exit and pthread_cancel deep inside hooked frames
 * (cleanup handlers run there), detached ones, and with thread-local destructors that call hooked functions. */
#include "target.h"
#include <pthread.h>

enum { AT_ONCE = 12 };
static uint64_t cleaned;
static pthread_key_t key;

HOOKED uint64_t work(uint64_t x)
{
	COUNTED(work);
	return mix(x, 21);
}
HOOKED void cleanup(void *x)
{
	COUNTED(cleanup);
	__atomic_fetch_add(&cleaned, (uint64_t)(uintptr_t)x, __ATOMIC_RELAXED);
}
HOOKED void destructor(void *x)
{
	COUNTED(destructor);
	__atomic_fetch_add(&cleaned, work((uint64_t)(uintptr_t)x) & 0xff, __ATOMIC_RELAXED);
}

HOOKED void exits(int depth, uint64_t value)
{
	COUNTED(exits);
	pthread_cleanup_push(cleanup, (void *)3);
	if (!depth)
		pthread_exit((void *)work(value));
	if (depth)
		exits(depth - 1, value);
	pthread_cleanup_pop(0);
}
HOOKED void waits(int depth)
{
	COUNTED(waits);
	pthread_cleanup_push(cleanup, (void *)5);
	if (depth)
		waits(depth - 1);
	while (!depth)
		pause(); /* where it is cancelled */
	pthread_cleanup_pop(0);
}

HOOKED void *returns_main(void *arg)
{
	COUNTED(returns_main);
	pthread_setspecific(key, (void *)7);
	uint64_t h = (uint64_t)(uintptr_t)arg;
	for (int i = 0; i < 50; i++)
		h = mix(h, work(h));
	return (void *)h;
}
HOOKED void *exits_main(void *arg)
{
	COUNTED(exits_main);
	exits(5, (uint64_t)(uintptr_t)arg);
	return NULL;
}
HOOKED void *waits_main(void *arg)
{
	COUNTED(waits_main);
	waits(4);
	return arg;
}

static uint64_t go(long rounds)
{
	static void *(*const mains[3])(void *) = { returns_main, exits_main, waits_main };
	uint64_t h = 0;
	cleaned = 0;
	for (long i = 0; i < rounds; i++) {
		pthread_t t[AT_ONCE];
		for (int k = 0; k < AT_ONCE; k++)
			CHECK(!pthread_create(&t[k], NULL, mains[k % 3], (void *)(uintptr_t)k));
		for (int k = 0; k < AT_ONCE; k++) {
			void *r;
			if (k % 3 == 2)
				pthread_cancel(t[k]);
			pthread_join(t[k], &r);
			if (k % 3 == 2) {
				CHECK(r == PTHREAD_CANCELED);
				continue;
			}
			h = mix(h, (uint64_t)(uintptr_t)r);
		}
	}
	return mix(h, cleaned);
}

int main(void)
{
	CHECK(!pthread_key_create(&key, destructor));
	return target_loop(go, NULL);
}
