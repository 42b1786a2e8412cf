/* A thread's slot in the region: claimed at its first record, given back when it ends. Lock-free; may run inside a signal handler. */
#include "probe/hook_internal.h"
#include <pthread.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <unistd.h>

__thread struct klieg__thread klieg__thread __attribute__((tls_model("initial-exec"))) = { .ready = NOT_READY };

static pthread_key_t exit_key;
static bool exit_key_made;

static void on_thread_exit(void *slot)
{
	struct klieg__thread *me = &klieg__thread;
	struct kw_thread *t = me->t;
	me->ready = NOT_READY;
	klieg__hook_thread_exit(me);
	if (t != slot || !t || klieg__load(klieg__process.epoch, RELAXED) != me->epoch)
		return; /* a forked child's copy of its parent's thread */
	for (uint32_t i = 0; i < t->depth && i < KW_OPEN_MAX; i++) {
		uint32_t was = __atomic_fetch_or(&t->open[i].flags, OPEN_ENDED, __ATOMIC_ACQ_REL); /* against an end on another thread, right now */
		if (!(was & (OPEN_ENDED | OPEN_COUNT | OPEN_UNSAMPLED)))
			t->abandoned++;
	}
	klieg__store(&t->depth, 0, RELEASE);
	me->t = NULL;
	me->failed = true; /* a probe in a later destructor must not claim a slot that nobody would give back */
	klieg__store(&t->state, (uint32_t)KW_THREAD_DEAD, RELEASE); /* pairs with the agent's acquire: it then banks and frees the slot */
}

__attribute__((constructor(101))) static void make_key(void) { exit_key_made = pthread_key_create(&exit_key, on_thread_exit) == 0; }

uint64_t klieg__random(struct klieg__thread *me) /* wyrand-like: a Weyl sequence through splitmix64's finalizer, seeded by the kernel */
{
	me->random[0] += 0xa0761d6478bd642full;
	return kw_mix(me->random[0] ^ me->random[1]);
}

bool klieg__thread_attach(struct klieg__thread *me)
{
	struct klieg__process *p = &klieg__process;
	uint64_t epoch = p->epoch ? klieg__load(p->epoch, ACQUIRE) : 0;
	if (!p->region || !epoch || (me->failed && me->epoch == epoch))
		return false;
	struct kw_region *r = p->region;
	uint32_t tid = (uint32_t)syscall(SYS_gettid);
	if (syscall(SYS_getrandom, me->random, sizeof me->random, 1 /* GRND_NONBLOCK */) != sizeof me->random) {
		me->random[0] = kw_ticks();
		me->random[1] = (uint64_t)(uintptr_t)me ^ tid;
	}
	me->ready = NOT_READY;
	me->epoch = epoch;
	me->t = NULL;
	uint32_t n = r->max_threads;
	for (uint32_t i = 0; i < n; i++) { /* lowest first, so that the agent looks at few */
		struct kw_thread *t = (struct kw_thread *)(p->threads + (uint64_t)i * r->thread_stride);
		uint32_t expected = KW_THREAD_FREE;
		if (klieg__load(&t->state, RELAXED) != KW_THREAD_FREE)
			continue;
		/* Acquire: pairs with the agent's release of DEAD -> FREE, so that our writes come after its last read. */
		if (!__atomic_compare_exchange_n(&t->state, &expected, (uint32_t)KW_THREAD_LIVE, false, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED))
			continue;
		t->tid = tid;
		t->seed = klieg__random(me);
		klieg__store(&t->depth, 0, RELAXED);
		t->trace_hi = t->trace_lo = 0;
		klieg__store(&t->epoch, t->epoch + 1, RELEASE);
		me->ring = (uint8_t *)t + r->ring_off;
		me->cellmap = (uint16_t *)((uint8_t *)t + r->cellmap_off);
		me->cells = (struct kw_cell *)((uint8_t *)t + r->cells_off);
		me->slot = i;
		me->head = t->head;
		me->limit = 0;
		me->seq = me->root_depth = 0; /* the context itself may have been set before the first record, or come through a fork */
		me->ctx_dirty = true;
		me->failed = false;
		me->t = t;
		uint32_t hint = klieg__load(&p->control->threads_hint, RELAXED);
		while (hint < i + 1 && !__atomic_compare_exchange_n(&p->control->threads_hint, &hint, i + 1, false, __ATOMIC_RELEASE, __ATOMIC_RELAXED)) {}
		if (exit_key_made)
			pthread_setspecific(exit_key, t);
		return true;
	}
	me->failed = true;
	return false;
}
