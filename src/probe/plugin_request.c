/* Requests that are not one call: an event loop begins one in this function, goes on with it in others and ends it in a third.
 * Each is an explicit span (KLIEG_BEGIN/KLIEG_END of klieg.h) in a table by a key that the plugin chose. Called by handlers, on
 * the program's threads, without locks: a place is claimed by compare-and-swap; a key is used by one thread at a time, as the
 * program's own request is. */
#include "probe/plugin_internal.h"

enum { REQUESTS = 16384, PROBES = 64, STACKED = 16 };
static struct request {
	uint64_t key;            /* 0: free */
	klieg_span span;
	struct klieg_ctx ctx;    /* what is current while the thread works on it */
} requests[REQUESTS];
#define TAKEN UINT64_MAX     /* being filled */

static struct request *find(uint64_t key)
{
	for (uint32_t i = 0, at = (uint32_t)kw_mix(key); i < PROBES; i++) {
		struct request *q = &requests[(at + i) % REQUESTS];
		if (klieg__load(&q->key, ACQUIRE) == key) /* pairs with the release in open: what it says is there */
			return q;
	}
	return NULL;
}

static struct request *claim(uint64_t key)
{
	for (uint32_t i = 0, at = (uint32_t)kw_mix(key); i < PROBES; i++) {
		struct request *q = &requests[(at + i) % REQUESTS];
		uint64_t nobody = 0;
		if (!klieg__load(&q->key, RELAXED) && __atomic_compare_exchange_n(&q->key, &nobody, TAKEN, false, __ATOMIC_ACQUIRE,
			__ATOMIC_RELAXED))
			return q;
	}
	return NULL;
}

/* Its end was missed, most likely because its site was off then: when it was nobody knows. */
static void give_up(struct klieg__run *r, struct request *q)
{
	if (r->span == &q->span) {
		r->span = NULL;
		r->ctx = NULL;
		r->n = r->used = 0;
	}
	klieg__unstack(&q->span);
	klieg__store(&q->key, 0, RELEASE);
}

static void use(struct klieg__run *r, struct request *q)
{
	klieg__run_flush(r); /* what was set so far belongs to another span */
	r->span = &q->span;
	r->ctx = &q->ctx;
	r->call.level = klieg__span_level(&q->span) ? KLIEG_LEVEL_DETAIL : q->span.seq ? KLIEG_LEVEL_SPAN : KLIEG_LEVEL_COUNT;
}

static void end(struct klieg__run *r, struct request *q)
{
	if (r->span == &q->span) {
		klieg__run_flush(r);
		r->span = NULL;
		r->ctx = NULL;
	}
	klieg__thread.waiting.queue = NULL;
	klieg__end_explicit(&q->span);
	klieg__store(&q->key, 0, RELEASE);
}

int klieg__request_open(struct klieg_call *call, const void *key)
{
	struct klieg__run *r = klieg__run_of(call);
	uint64_t k = (uint64_t)(uintptr_t)key;
	struct klieg_ctx from, before;
	if (!k || k == TAKEN)
		return 0;
	struct request *q = find(k);
	if (q)
		give_up(r, q);
	q = claim(k);
	if (!q) {
		klieg__run_requests_lost();
		return 0;
	}
	if (r->has_parent)
		from = r->parent;
	else if (call->hook->flags & KLIEG_HOOK_ROOT)
		memset(&from, 0, sizeof from);
	else
		klieg_current(&from);
	klieg_set_current(&from, &before);
	if (!klieg__begin_explicit((const struct klieg__slot *)&r->h->site1, &q->span)) {
		klieg_restore(&before);
		klieg__store(&q->key, 0, RELEASE);
		return 0;
	}
	klieg_current(&q->ctx);
	if (klieg__slot_now(&klieg__thread)->depth > STACKED)
		/* the thread's stack is for what it does, not for all that it waits for */
		klieg__unstack(&q->span);
	klieg_restore(&before);
	klieg__store(&q->key, k, RELEASE);
	use(r, q);
	if (call->hook->flags & KLIEG_HOOK_ROOT)
		klieg__run_waited(r);
	return 1;
}

int klieg__request_find(struct klieg_call *call, const void *key)
{
	struct request *q = key && (uint64_t)(uintptr_t)key != TAKEN ? find((uint64_t)(uintptr_t)key) : NULL;
	if (!q)
		return 0;
	use(klieg__run_of(call), q);
	return 1;
}

int klieg__request_resume(struct klieg_call *call, const void *key)
{
	struct klieg__run *r = klieg__run_of(call);
	struct request *q = key && (uint64_t)(uintptr_t)key != TAKEN ? find((uint64_t)(uintptr_t)key) : NULL;
	if (!q || !r->enter)
		return 0;
	r->parent = q->ctx;
	r->has_parent = true;
	return 1;
}

int klieg__request_close(struct klieg_call *call, const void *key)
{
	struct request *q = key && (uint64_t)(uintptr_t)key != TAKEN ? find((uint64_t)(uintptr_t)key) : NULL;
	if (!q)
		return 0;
	end(klieg__run_of(call), q);
	return 1;
}
