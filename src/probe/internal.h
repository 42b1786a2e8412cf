/* What libklieg's files share. Nothing here is seen outside; names begin with klieg__ because a static archive leaks them into its host. */
#pragma once
#include "klieg/klieg.h"
#include "wire/wire.h"
#include <stdatomic.h>
#include <stdbool.h>

#define KLIEG_PUBLIC __attribute__((visibility("default")))
#define klieg__load(p, order) __atomic_load_n(p, __ATOMIC_##order)
#define klieg__store(p, v, order) __atomic_store_n(p, v, __ATOMIC_##order)
#define klieg__likely(x) __builtin_expect(!!(x), 1)
#define klieg__unlikely(x) __builtin_expect(!!(x), 0)

/* This process's side of the region; NULL mapping = tracing cannot work here and every probe does nothing. */
struct klieg__process {
	struct kw_region *region;
	struct kw_control *control;
	struct kw_module *modules;
	struct kw_site_state *sites;
	uint8_t *threads;
	uint64_t ring_bytes;
	uint64_t *epoch;         /* a page that fork and clone wipe: 0 = this process has not made its region yet */
};
extern struct klieg__process klieg__process;
extern struct klieg__skip klieg__skip; /* klieg.h looks into it */

/* One per thread, in static TLS: no allocation, safe in signal handlers. */
struct klieg__thread {
	struct kw_thread *t;     /* our slot, NULL = none yet */
	uint8_t *ring;
	uint8_t *here;           /* here + head is where head is in the ring, as long as head is below the limit */
	uint64_t epoch;          /* of the process region that t belongs to */
	uint64_t head, limit;    /* head: ours; limit: where the slow path must look at the consumer again */
	struct kw_cell *cells;
	uint16_t *cellmap;
	/* current context: new spans are children of `seq` (a span of this thread), else of `parent` */
	uint64_t trace_hi, trace_lo, parent, threshold;
	uint32_t ctx_flags, seq;
	uint32_t root_depth;     /* depth + 1 of the open span that started the trace here; 0 = the trace came from outside */
	uint32_t generation;     /* of the context: spans remember the one they were begun in */
	uint32_t generations;    /* the last one given out */
	uint32_t slot;           /* t's number */
	bool ctx_dirty;          /* no CTX record written for it yet */
	volatile bool busy;      /* inside a probe: a signal handler's probe must keep out */
	volatile bool in_plugin; /* inside a plugin's handler: the functions it calls are not the program's calls */
	bool failed;             /* no slot could be had; tried again after the epoch changes */
	uint8_t timed;           /* so many of the next events are timed */
	uint32_t no_depth;       /* depth + 1 of the open span that was the first to say CTX_NO: without a trace, a request is as long as that */
	struct kw_gate *gate;    /* our shadow stack, NULL = none yet; outlives the slot, and a fork */
	uint64_t ready;          /* the epoch for which there are a slot and a shadow stack, and no plugin's handler runs; NOT_READY: ask */
	uint64_t random[2];
	uint64_t rv;             /* with CTX_RV: the randomness that the trace's first sampler drew, instead of its id's */
	/* other vendors' members of the tracestate that came with this trace; small, since a dlopened libklieg lives in what is left of static TLS */
	uint32_t th24[KW_OPEN_MAX]; /* of the contexts that open spans were left in: kw_thread.origin has no room for it */
	uint64_t foreign_hi, foreign_lo;
	uint16_t foreign_len, foreign_ot; /* all of it; of what comes first, sub-keys of the ot member that are not ours to write */
	char foreign[256];
	uint64_t waited_ns, waited_at; /* what was read last on this thread had waited so long by then (monotonic); at 0: nothing */
	struct { uint64_t (*since)(void *); void *queue; uint64_t mine[3]; } waiting; /* plugin.h's struct klieg_waiting */
};
extern __thread struct klieg__thread klieg__thread __attribute__((tls_model("initial-exec")));

#define NOT_READY UINT64_MAX

/* Beside KW_CTX_*, never in a record. TH: of a sampled trace, its threshold is known (else nobody knows how many it stands for, and nobody is told). */
enum { CTX_LOCAL_ROOT = 1u << 16, CTX_UNDECIDED = 1u << 17, CTX_RV = 1u << 18, CTX_TH = 1u << 19,
	CTX_NO_SHIFT = 24, CTX_NO = 0x7fu << CTX_NO_SHIFT /* rules on requests (kw_site_state.asks) that were asked, and do not hold for this one */ };
enum { OPEN_CLASSIFY = 1u << 8, /* its attributes decide whether the request carries a level */ OPEN_MARKED = 1u << 9, /* they did, until it ends */
	OPEN_IF_FAILS = 1u << 10, /* beside OPEN_UNSAMPLED: becomes a span, and those it is in with it, when it fails */
	OPEN_COUNT = 1u << 16, OPEN_UNSAMPLED = 1u << 17, OPEN_ENDED = 1u << 18, OPEN_DETAIL = 1u << 19, OPEN_EXPLICIT = 1u << 20,
	OPEN_DETACHED = 1u << 21 /* what it was begun in has ended: not a parent of new spans any more */,
	HANDLE_SLOT_SHIFT = 22 }; /* beside KW_REC_* in kw_open.flags; a handle's flags also have the number of the slot it was begun in */

/* This thread's slot, if it still is this process's. */
static inline struct kw_thread *klieg__slot_now(const struct klieg__thread *me)
{
	return me->t && klieg__process.epoch && klieg__load(klieg__process.epoch, RELAXED) == me->epoch ? me->t : NULL;
}

/* thread.c */
bool klieg__thread_attach(struct klieg__thread *me); /* gives this thread a slot; false: none to be had */
uint64_t klieg__random(struct klieg__thread *me);
/* process.c */
void klieg__wake_agent(void);
/* span.c. What a probe takes is some tens of nanoseconds in a loop, and ten times that in a service that does other work in between: its code and data
 * are in no cache by then. So it is measured where it runs: now and then some events in a row are timed, from just inside the library to just before it
 * returns. (The way here, and what others find pushed out of their caches, is not in it.) */
enum { TIMED_BYTES = 8192 /* of records between two looks; divides rings */, TIMED_CALLS = 256 /* or so many calls that make none */, TIMED_RUN = 4,
	TIMED_MOST = 1 << 17 /* ticks; more: the thread was interrupted */ };
struct klieg__timing { uint64_t from, before; unsigned left; };
void klieg__time_next(struct klieg__thread *me, unsigned n);
struct klieg__timing klieg__timing_begins(struct klieg__thread *me);
void klieg__timing_ends(struct klieg__thread *me, const struct klieg__timing *x, unsigned events);
void klieg__turn(struct klieg__thread *me); /* before the thread's context changes: what is open keeps the one it was begun in */
void klieg__find_parent(struct klieg__thread *me);
void klieg__settle(struct klieg__thread *me); /* drops spans that another thread ended meanwhile, and the trace with its root */

