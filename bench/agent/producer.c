/* Makes spans as fast as it can, in two threads, with a little work around each. */
#define KLIEG_COMPONENT "bench"
#include <klieg/klieg.h>
#include <pthread.h>

static void *run(void *arg)
{
	for (volatile long i = 0;; i++) {
		KLIEG_SPAN("spin");
		for (volatile int k = 0; k < 100; k++) {}
	}
	return arg;
}

int main(void)
{
	pthread_t t;
	if (pthread_create(&t, NULL, run, NULL))
		return 1;
	run(NULL);
	return 0;
}
