/* A pool of threads around a queue, as everybody writes it: a mutex, a list, a condition. `start WORKERS HABITS` begins it; `burst JOBS MICROSECONDS` puts so many jobs
 * into it at once, each of which takes that long, and answers with what each waited, in nanoseconds, by its number.
 * Habits: b the queue has a bound, whoever puts waits for room; c a worker that leaves something wakes the next; i a signal only if somebody is idle;
 * w one function of the program locks for everybody; - none. */
#include "target.h"
#include <pthread.h>
#include <stdbool.h>
#include <time.h>

enum { MOST = 4096, ROOM = 8 };
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t not_empty = PTHREAD_COND_INITIALIZER, not_full = PTHREAD_COND_INITIALIZER, all_done = PTHREAD_COND_INITIALIZER;
static struct job { long number; int64_t put; } queue[MOST];
static unsigned head, count, idle;
static long done, wanted, microseconds;
static int64_t waited[MOST];
static const char *habits = "-";
static bool has(char c) { return strchr(habits, c) != NULL; }

static int64_t now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ll + t.tv_nsec;
}

static __attribute__((noinline)) void lock_for_all(void)
{
	pthread_mutex_lock(&mutex);
	__asm__ volatile("" ::: "memory");
}

HOOKED long serve(long number)
{
	for (int64_t end = now() + microseconds * 1000; now() < end;) {
	}
	return number;
}

static void *worker(void *arg)
{
	for (;;) {
		if (has('w'))
			lock_for_all();
		else
			pthread_mutex_lock(&mutex);
		idle++;
		while (!count)
			pthread_cond_wait(&not_empty, &mutex);
		idle--;
		struct job j = queue[head++ % MOST];
		count--;
		if (has('b'))
			pthread_cond_signal(&not_full);
		if (has('c') && count)
			pthread_cond_signal(&not_empty);
		pthread_mutex_unlock(&mutex);
		waited[j.number % MOST] = now() - j.put;
		CHECK(serve(j.number) == j.number);
		if (has('w'))
			lock_for_all();
		else
			pthread_mutex_lock(&mutex);
		if (++done == wanted)
			pthread_cond_signal(&all_done);
		pthread_mutex_unlock(&mutex);
	}
	return arg;
}

static void put(long number)
{
	if (has('w'))
		lock_for_all();
	else
		pthread_mutex_lock(&mutex);
	while (has('b') && count == ROOM)
		pthread_cond_wait(&not_full, &mutex);
	queue[(head + count++) % MOST] = (struct job){ number, now() };
	bool wake = !has('i') || idle;
	if (wake)
		pthread_cond_signal(&not_empty);
	pthread_mutex_unlock(&mutex);
}

static int command(const char *line)
{
	static char given[16];
	static long next;
	long n, us;
	if (sscanf(line, "start %ld %15s", &n, given) == 2) {
		habits = given;
		while (n-- > 0) {
			pthread_t t;
			CHECK(!pthread_create(&t, NULL, worker, NULL));
		}
		printf("started\n");
		return 1;
	}
	if (sscanf(line, "burst %ld %ld", &n, &us) != 2 || n > MOST)
		return 0;
	microseconds = us;
	pthread_mutex_lock(&mutex);
	wanted = done + n;
	pthread_mutex_unlock(&mutex);
	long first = next;
	for (long i = 0; i < n; i++)
		put(next++);
	pthread_mutex_lock(&mutex);
	while (done < wanted)
		pthread_cond_wait(&all_done, &mutex);
	pthread_mutex_unlock(&mutex);
	printf("burst");
	for (long i = first; i < next; i++)
		printf(" %ld:%lld", i, (long long)waited[i % MOST]);
	printf("\n");
	return 1;
}

static uint64_t go(long rounds) { COUNTED(go); return (uint64_t)rounds; }
int main(void) { return target_loop(go, command); }
