/* Waiting for other threads: mutexes, conditions, semaphores, read-write locks. Contention only: a mutex that is free, a
 * semaphore that is up, is passed over by a glance at its first word (which glibc's static initialisers have fixed for good),
 * before anything is recorded; of the rest, waits under a microsecond are counted and not kept as spans. And pools of threads (pool.h). */
#include "pool.h"

LIGHT static int mutex_enter(struct klieg_call *c)
{
	const volatile int *lock = (const volatile int *)c->args[0];
	pool_lock(c->args[0], (uint64_t)(uintptr_t)c->caller);
	return *lock ? KLIEG_TRACE : KLIEG_PASS; /* struct __pthread_mutex_s: 0 = free */
}

LIGHT static int semaphore_enter(struct klieg_call *c)
{
	const volatile unsigned *value = (const volatile unsigned *)c->args[0];
	return *value ? KLIEG_PASS : KLIEG_TRACE; /* struct new_sem: the low half is the value */
}

LIGHT static int wait_enter(struct klieg_call *c)
{
	pool_wait(c->args[0], c->args[1]);
	return KLIEG_TRACE;
}

LIGHT static int signal_enter(struct klieg_call *c)
{
	pool_signal(c->args[0]);
	return KLIEG_PASS;
}

static void begin(struct klieg_call *c)
{
	klieg_set_int(c, "lock.address", (int64_t)c->args[0]);
	klieg_set_int(c, "code.caller.address", (int64_t)(uintptr_t)c->caller);
}

#define WAIT(fn, name) { .library = "libc.so.6", .function = fn, .site = name, .min_ns = 1000, .begin = begin }
#define LOOK(fn, name, look) { .library = "libc.so.6", .function = fn, .site = name, .flags = KLIEG_HOOK_LIGHT, \
	.level = KLIEG_LEVEL_COUNT, .min_ns = 1000, \
	.enter = look, .begin = begin }
static const struct klieg_plugin_hook hooks[] = {
	LOOK("pthread_mutex_lock", "lock.mutex", mutex_enter),
	LOOK("pthread_mutex_timedlock", "lock.mutex", mutex_enter),
	LOOK("sem_wait", "lock.semaphore", semaphore_enter),
	LOOK("sem_timedwait", "lock.semaphore", semaphore_enter),
	WAIT("pthread_rwlock_rdlock", "lock.read"),
	WAIT("pthread_rwlock_wrlock", "lock.write"),
	LOOK("pthread_cond_wait", "wait.condition", wait_enter),
	LOOK("pthread_cond_timedwait", "wait.condition", wait_enter),
	LOOK("pthread_cond_clockwait", "wait.condition", wait_enter),
	LOOK("pthread_cond_signal", "lock.signal", signal_enter), /* never spans: what is put into queues */
	LOOK("pthread_cond_broadcast", "lock.signal", signal_enter),
	WAIT("pthread_barrier_wait", "wait.barrier"),
	WAIT("pthread_join", "wait.thread"),
};

static const struct klieg_plugin plugin = { sizeof plugin, KLIEG_PLUGIN_ABI, "locks", "1.0",
	"glibc 2.34 and later (before, the functions are in libpthread)", NULL,
	KLIEG_PLUGIN_HOOKS(hooks), NULL };

const struct klieg_plugin *klieg_plugin(const struct klieg_host *host)
{
	if (host->abi != KLIEG_PLUGIN_ABI)
		return NULL;
	if (host->size >= offsetof(struct klieg_host, waiting) + sizeof host->waiting)
		waiting_at = (char *)host->waiting() - (char *)__builtin_thread_pointer();
	return &plugin;
}
