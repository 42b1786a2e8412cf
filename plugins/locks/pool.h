/* How long a job has lain in the queue of a pool of threads before one of them took it, from what every such queue does, whoever wrote it: a mutex
 * around a list, a condition that says something was put there, threads that wait for it while there is nothing. Nobody says which job a signal
 * is about, but queues give in order, so:
 *   - a signal puts a time stamp into a list of our own, by the condition;
 *   - a thread that waits for the condition holds the mutex and has found nothing, so the list is empty then; where it had locked the mutex is where
 *     jobs are taken (there may be few such places);
 *   - a thread that comes back from waiting, or locks the mutex at such a place, is about to take one: if a request begins on it next, that is the job, and
 *     the oldest stamp is when it was put there.
 * What does not add up is seen at the next wait, which begins anew: a stamp that nobody took (a signal that was no job) means that nothing is said
 * until a wait finds the list empty. Jobs without a signal of their own make waits look shorter, never longer.
 *
 * Any thread of the program, in handlers that use general registers only and call nothing (KLIEG_HOOK_LIGHT). The tables are static; what finds
 * no room in them is not looked at. A thread's own part lies beside libklieg's (struct klieg_waiting). */
#pragma once
#include <klieg/plugin.h>
#include <stdbool.h>

#define LIGHT __attribute__((target("general-regs-only")))

enum { POOLS = 64, STAMPS = 1024, PLACES = 4, MUTEXES = 256, CONDITIONS = 4 /* of one mutex */, TRIES = 200 };

struct pool {
	uint64_t condition;          /* its address; 0: free */
	uint64_t place[PLACES];      /* return addresses of the calls that lock the mutex to take something */
	uint32_t held;               /* a lock that nobody waits for long */
	uint32_t put, taken;         /* stamps so far */
	uint32_t unsure;             /* stamps may not be those of the jobs */
	uint64_t stamp[STAMPS];
};
static struct pool pools[POOLS];
static struct { uint64_t mutex; struct pool *pool[CONDITIONS]; } mutexes[MUTEXES];
static long waiting_at;              /* of struct klieg_waiting, from the thread pointer; 0: there is none */

enum { HOLDS, AT, WAITED_FOR };      /* of klieg_waiting.mine: the mutex that was locked last (+ 1: by waiting), where, and the pool that this thread works for */

#define ATOMIC(op, ...) __atomic_##op(__VA_ARGS__)
LIGHT static inline uint64_t ticks(void)
{
#if defined(__x86_64__)
	return __builtin_ia32_rdtsc();
#elif defined(__aarch64__)
	uint64_t t;
	__asm__ volatile("mrs %0, cntvct_el0" : "=r"(t));
	return t;
#endif
}
LIGHT static inline struct klieg_waiting *this_thread(void) { return (struct klieg_waiting *)((char *)__builtin_thread_pointer() + waiting_at); }
LIGHT static inline uint32_t spread(uint64_t address) { return (uint32_t)((address * 0x9e3779b97f4a7c15ull) >> 40); }

LIGHT static inline bool hold(struct pool *p)
{
	for (int i = 0; i < TRIES; i++)
		if (!ATOMIC(exchange_n, &p->held, 1, __ATOMIC_ACQUIRE)) /* pairs with let_go */
			return true;
	ATOMIC(store_n, &p->unsure, 1, __ATOMIC_RELAXED); /* who holds it is not running: we do not wait for it */
	return false;
}
LIGHT static inline void let_go(struct pool *p) { ATOMIC(store_n, &p->held, 0, __ATOMIC_RELEASE); }

LIGHT static struct pool *find_pool(uint64_t condition, bool make)
{
	for (uint32_t i = 0, at = spread(condition); i < 8; i++) {
		struct pool *p = &pools[(at + i) % POOLS];
		uint64_t is = ATOMIC(load_n, &p->condition, __ATOMIC_RELAXED);
		if (!is && make) {
			ATOMIC(store_n, &p->unsure, 1, __ATOMIC_RELAXED);
			if (ATOMIC(compare_exchange_n, &p->condition, &is, condition, false, __ATOMIC_RELEASE, __ATOMIC_RELAXED))
				return p;
		}
		if (is == condition)
			return p;
		if (!is)
			return NULL;
	}
	return NULL;
}

/* Takes the oldest stamp; 0 = there is none. */
LIGHT static uint64_t take_stamp(struct pool *p)
{
	uint64_t t = 0;
	if (hold(p)) {
		if (p->taken != p->put)
			t = p->stamp[p->taken++ % STAMPS];
		let_go(p);
	}
	return t;
}

/* struct klieg_waiting.since: a request begins with what this thread has taken. */
static uint64_t pool_since(void *pool)
{
	struct pool *p = pool;
	uint64_t t = take_stamp(p);
	return ATOMIC(load_n, &p->unsure, __ATOMIC_RELAXED) ? 0 : t;
}

LIGHT static inline void is_taking(struct klieg_waiting *w, struct pool *p)
{
	w->since = pool_since;
	w->queue = p;
}

/* A signal, or a broadcast. */
LIGHT static void pool_signal(uint64_t condition)
{
	struct pool *p = waiting_at ? find_pool(condition, false) : NULL;
	if (!p)
		return;
	struct klieg_waiting *w = this_thread();
	if (w->queue == p) {
		if (w->mine[WAITED_FOR] == (uint64_t)(uintptr_t)p)
			return;              /* a worker that has taken one wakes the next: nothing was put */
		w->queue = NULL;         /* it has locked the mutex to put something */
	}
	uint64_t now = ticks();
	if (!hold(p))
		return;
	if (p->put - p->taken < STAMPS)
		p->stamp[p->put++ % STAMPS] = now;
	else
		p->unsure = 1;
	let_go(p);
}

/* About to lock. */
LIGHT static void pool_lock(uint64_t mutex, uint64_t caller)
{
	uint32_t at = spread(mutex) % MUTEXES;
	if (ATOMIC(load_n, &mutexes[at].mutex, __ATOMIC_ACQUIRE) != mutex || !waiting_at) /* pairs with the release in pool_wait */
		return;
	struct klieg_waiting *w = this_thread();
	w->mine[HOLDS] = mutex;
	w->mine[AT] = caller;
	for (int i = 0; i < CONDITIONS; i++) {
		struct pool *p = ATOMIC(load_n, &mutexes[at].pool[i], __ATOMIC_RELAXED);
		for (int k = 0; p && k < PLACES; k++)
			if (ATOMIC(load_n, &p->place[k], __ATOMIC_RELAXED) == caller) {
				if (w->queue)
					take_stamp(w->queue); /* of a job with which no request began */
				is_taking(w, p);
				return;
			}
	}
}

LIGHT static void mark(uint64_t mutex, struct pool *p)
{
	uint32_t at = spread(mutex) % MUTEXES;
	if (ATOMIC(load_n, &mutexes[at].mutex, __ATOMIC_RELAXED) != mutex) { /* another's place, perhaps: that one is not seen any more */
		ATOMIC(store_n, &mutexes[at].mutex, 0, __ATOMIC_RELAXED);
		for (int i = 0; i < CONDITIONS; i++)
			ATOMIC(store_n, &mutexes[at].pool[i], i ? NULL : p, __ATOMIC_RELAXED);
		ATOMIC(store_n, &mutexes[at].mutex, mutex, __ATOMIC_RELEASE);
		return;
	}
	int i = 0;
	while (i < CONDITIONS - 1 && mutexes[at].pool[i] && mutexes[at].pool[i] != p)
		i++;
	ATOMIC(store_n, &mutexes[at].pool[i], p, __ATOMIC_RELAXED); /* whoever waits holds the mutex: one at a time */
}

/* About to wait: there is nothing in the queue. */
LIGHT static void pool_wait(uint64_t condition, uint64_t mutex)
{
	struct pool *p = waiting_at ? find_pool(condition, true) : NULL;
	if (!p)
		return;
	struct klieg_waiting *w = this_thread();
	mark(mutex, p);
	if (w->mine[HOLDS] == mutex) {
		int free = -1;
		for (int k = PLACES; k-- > 0;) {
			uint64_t is = p->place[k];
			if (is == w->mine[AT]) {
				free = -1;
				break;
			}
			free = is ? free : k;
		}
		if (free >= 0)
			ATOMIC(store_n, &p->place[free], w->mine[AT], __ATOMIC_RELAXED);
	} else if (w->mine[HOLDS] != mutex + 1) {
		for (int k = 0; k < PLACES; k++) /* nobody saw it lock the mutex: so neither when jobs were taken */
			ATOMIC(store_n, &p->place[k], 0, __ATOMIC_RELAXED);
	}
	if (hold(p)) {
		if (w->queue == p && p->taken != p->put)
			p->taken++;              /* what it took last was no request */
		p->unsure = p->taken != p->put || !(p->place[0] | p->place[1] | p->place[2] | p->place[3]);
		p->taken = p->put;
		let_go(p);
	}
	w->mine[HOLDS] = mutex + 1;
	w->mine[WAITED_FOR] = (uint64_t)(uintptr_t)p;
	is_taking(w, p);
}
