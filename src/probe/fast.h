/* The way nearly every span goes: no call, no lock, no register to save. For span.c, and for what the gate leaves to hook.c. What
 * gate.S does by hand is the same, for the span of an intercepted function: whoever changes one changes the other. */
#pragma once
#include "probe/internal.h"

/* What p points to is reached through p, and not worked out anew each time from what p was made of: registers are few here. */
#define klieg__opaque(p) __asm__("" : "+r"(p))

/* Two neighbours with one store: stores are what these paths have most of. (Read back one by one, never as a pair that was stored apart.) */
static inline void put_pair(void *at, uint32_t first, uint32_t second)
{
	uint64_t v = first | (uint64_t)second << 32; /* little-endian, as all of the region */
	memcpy(at, &v, sizeof v);
}

/* A line of the ring that will be written in some calls' time comes from the core that read it last. Any address will do. */
static inline void soon_written(const void *p)
{
#if defined(__x86_64__)
	__asm__ volatile("prefetchw %0" : : "m"(*(const char *)p));
#else
	__builtin_prefetch(p, 1);
#endif
}

static inline void commit(struct klieg__thread *me, uint64_t bytes)
{
	me->head += bytes;
	klieg__store(&me->t->head, me->head, RELEASE); /* pairs with the agent's acquire: the record before its head */
}

static inline void hold(struct klieg__thread *me)
{
	me->busy = true;
	atomic_signal_fence(memory_order_seq_cst);
}

static inline void leave(struct klieg__thread *me)
{
	atomic_signal_fence(memory_order_seq_cst);
	me->busy = false;
}

static inline uint32_t site_of(const struct klieg__slot *slot) { return slot->index - 1; }

static inline bool lease_over(uint64_t now) { return now > klieg__load(&klieg__process.control->lease_tsc, RELAXED); }

/* This thread has a slot in this process's region and is not inside a probe: what nearly every call finds. */
static inline bool at_ease(const struct klieg__thread *me)
{
	return klieg__likely(!me->busy) && klieg__likely(me->t != NULL) && klieg__likely(klieg__load(klieg__process.epoch, RELAXED) == me->epoch);
}

/* A site that is on for some requests only, and this is none of them: what nearly every request finds there. No store, no clock. */
static inline __attribute__((always_inline)) bool not_for_us(const struct klieg__thread *me, uint32_t site)
{
	if (klieg__unlikely(site >= KW_MAX_SITES) || klieg__unlikely(!klieg__process.sites))
		return false;
	/* flags and always are side by side: it is gated, classifies nothing, and is always off */
	const struct { volatile uint16_t both; } __attribute__((packed)) *at = (const void *)&klieg__process.sites[site].flags;
	if (__BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__ || klieg__unlikely(at->both != KW_STATE_GATED))
		return false;
	return klieg__likely(!(me->ctx_flags & 7u << KW_CTX_LEVEL_SHIFT));
}

/* The same, and the site remembers it: until something changes, klieg.h finds it out without a call. */
static inline __attribute__((always_inline)) bool not_for_us_again(const struct klieg__thread *me, const struct klieg__slot *slot)
{
	uint32_t changes = klieg__load(klieg__skip.changes, ACQUIRE); /* pairs with the agent's release: what it counts is seen */
	if (klieg__likely(!not_for_us(me, site_of(slot))))
		return false;
	klieg__store((uint32_t *)(uintptr_t)&slot->skip, changes, RELAXED);
	return true;
}

/* The common case of begin(), and nothing else: no call, so no register to save. What follows is ordered by how few values are needed at a time. Returns
 * the level; 0, with nothing done, when anything is unusual: then the long way it is. `kept`: in a trace that is, or in one that is not. */
static inline __attribute__((always_inline)) int begin_quick(struct klieg__thread *me, uint32_t site, klieg_span *s, bool kept)
{
	if (klieg__unlikely(site >= KW_MAX_SITES) || klieg__unlikely(!at_ease(me)))
		return 0;
	struct kw_thread *t = me->t;
	const struct kw_site_state *st = klieg__process.sites + site;
	unsigned level = klieg__load(&st->level, RELAXED);
	uint32_t depth = t->depth, seq = 0;
	struct kw_open *o = &t->open[depth];
	if (klieg__unlikely(level == 0) || klieg__unlikely(klieg__load(&st->flags, RELAXED) & (KW_STATE_GATED | KW_STATE_CLASSIFIES)) ||
		klieg__unlikely(depth - 1 >= KW_OPEN_MAX - 1) /* none open, or no place left */ ||
		klieg__unlikely(o[-1].cookie == (uint64_t)(uintptr_t)s) || klieg__unlikely(klieg__load(&o[-1].flags, ACQUIRE) & OPEN_ENDED))
		return 0;
	if ((level != KW_COUNT || !kept) && klieg__unlikely((me->ctx_flags & (KW_CTX_SAMPLED | CTX_UNDECIDED)) != (kept ? KW_CTX_SAMPLED : 0u) || !(me->trace_hi | me->trace_lo)))
		return 0;
	if (!kept && klieg__unlikely(level == KW_COUNT))
		return 0;
	hold(me);
	klieg__opaque(o);
	klieg__store(&o->cookie, (uint64_t)(uintptr_t)s, RELAXED);
	put_pair(&o->parent_seq, me->seq, !kept ? OPEN_UNSAMPLED | OPEN_IF_FAILS : level == KW_COUNT ? OPEN_COUNT : level >= KW_DETAIL ? OPEN_DETAIL : 0u); /* and flags */
	t->generation[depth] = me->generation;
	uint64_t now = kw_ticks();
	bool over = lease_over(now);
	if (klieg__likely(!over)) {
		klieg__store(&o->start_tsc, now, RELAXED);
		if (!kept) {
			if (klieg__unlikely(!(++t->unsampled % TIMED_CALLS)))
				klieg__time_next(me, TIMED_RUN);
		} else if (level != KW_COUNT) {
			seq = t->seq + 1;
			klieg__store(&t->seq, seq, RELAXED);
			me->seq = seq;
		}
		put_pair(&o->site, site, seq);
		put_pair(&s->open, depth + 1, seq);
		klieg__store(&t->depth, depth + 1, RELEASE);
	}
	leave(me);
	return over ? 0 : kept ? (int)level : KW_COUNT;
}

static inline __attribute__((always_inline)) int begin_fast(struct klieg__thread *me, uint32_t site, klieg_span *s) { return begin_quick(me, site, s, true); }

/* The end of what that began in a trace that is not kept, and that did not fail: no clock, no record. */
static inline __attribute__((always_inline)) bool end_unsampled(struct klieg__thread *me, klieg_span *s)
{
	if (klieg__unlikely(!at_ease(me)))
		return false;
	struct kw_thread *t = me->t;
	uint32_t i = s->open - 1;
	if (klieg__unlikely(i + 1 != t->depth) || klieg__unlikely(i - 1 >= KW_OPEN_MAX - 1))
		return false;
	const struct kw_open *o = &t->open[i];
	if (klieg__unlikely(o->cookie != (uint64_t)(uintptr_t)s || klieg__load(&o->flags, RELAXED) != (OPEN_UNSAMPLED | OPEN_IF_FAILS)) ||
		klieg__unlikely(klieg__load(&o[-1].flags, RELAXED) & OPEN_ENDED) || klieg__unlikely(me->root_depth == i + 1))
		return false;
	hold(me);
	klieg__store(&t->depth, i, RELEASE);
	s->open = 0;
	leave(me);
	return true;
}

/* The common case of an end: the innermost open span of this thread, in the context it was begun in, with room in the ring (or a cell).
 * false, with nothing done: anything else. */
static inline __attribute__((always_inline)) bool end_fast(struct klieg__thread *me, klieg_span *s)
{
	if (klieg__unlikely(!at_ease(me)))
		return false;
	struct kw_thread *t = me->t;
	uint32_t i = s->open - 1;
	if (klieg__unlikely(i + 1 != t->depth) || klieg__unlikely(i - 1 >= KW_OPEN_MAX - 1))
		return false;
	struct kw_open *o = &t->open[i];
	klieg__opaque(o);
	uint32_t flags = klieg__load(&o->flags, RELAXED);
	if (klieg__unlikely(o->cookie != (uint64_t)(uintptr_t)s || o->seq != s->seq) || klieg__unlikely(flags & (OPEN_UNSAMPLED | OPEN_ENDED | OPEN_EXPLICIT | OPEN_MARKED)) ||
		klieg__unlikely(klieg__load(&o[-1].flags, RELAXED) & OPEN_ENDED) || klieg__unlikely(me->root_depth == i + 1))
		return false;
	if (flags & OPEN_COUNT) {
		uint16_t k = me->cellmap[o->site];
		if (klieg__unlikely(!k))
			return false;
		hold(me);
		uint64_t ticks = kw_ticks() - o->start_tsc;
		struct kw_cell *c = me->cells + k;
		c->bucket[kw_bucket(ticks)]++;
		c->sum_ticks += ticks;
		if (klieg__unlikely(ticks > c->max_ticks))
			c->max_ticks = ticks;
		if (klieg__unlikely(flags & KW_REC_ERROR))
			c->errors++;
		uint64_t calls = c->calls + 1;
		klieg__store(&c->calls, calls, RELEASE); /* pairs with the agent's acquire: the rest before the number of calls */
		if (klieg__unlikely(!(calls % TIMED_CALLS)))
			klieg__time_next(me, TIMED_RUN);
	} else {
		hold(me); /* before the head is read: a signal's handler may write records of its own until now */
		uint64_t head = me->head;
		if (klieg__unlikely(me->ctx_dirty) || klieg__unlikely(t->generation[i] != me->generation) || klieg__unlikely(head + sizeof(struct kw_rec_span) > me->limit)) {
			leave(me);
			return false;
		}
		struct kw_rec_span *r = (struct kw_rec_span *)(me->here + head);
		klieg__opaque(r);
		soon_written((char *)r + 256);
		uint32_t parent_seq = o->parent_seq, seq = o->seq;
		klieg__opaque(seq); /* not one load of both: it would wait for the two stores of a moment ago to reach the cache */
		put_pair(&r->r, o->site, KW_REC_SPAN | 1u << 8 | (flags & 0xff) << 16); /* type, units, flags */
		put_pair(&r->seq, seq, parent_seq);
		if (klieg__likely(me->seq == seq))
			me->seq = parent_seq;
		uint64_t now = kw_ticks(), start = o->start_tsc;
		r->start_tsc = start;
		r->ticks = now - start;
		commit(me, sizeof *r);
	}
	klieg__store(&t->depth, s->open - 1, RELEASE);
	s->open = 0;
	leave(me);
	return true;
}
