/* The probes' cold paths: what runs once a site is on. Spans go begin -> open stack (shared memory, so that what is in flight can be seen
 * from outside) -> end -> one 32-byte record in the thread's ring. The clock is the floor; everything else must hide behind it.
 *
 * Each entry point brackets its work with me->busy, so that a probe in a signal handler that interrupted one keeps out. */
#include "probe/fast.h"
#include "probe/hook_internal.h"
#include <errno.h>

enum { STRING_MAX = 1024, RECORD_MAX = 255 * KW_UNIT, TABLE_TRIES = 100 };

/* ---- what we cost ------------------------------------------------------------------------------------------------- */

void klieg__time_next(struct klieg__thread *me, unsigned n)
{
	me->timed = (uint8_t)n;
	if (n)
		me->ready = NOT_READY; /* functions go the long way, where it is looked at */
}

static uint64_t progress(const struct klieg__thread *me)
{
	const struct kw_thread *t = klieg__slot_now(me); /* in a forked child none at first */
	return t ? me->head + t->seq : 0;
}

struct klieg__timing klieg__timing_begins(struct klieg__thread *me)
{
	unsigned left = me->timed - 1u;
	me->timed = 0;
	return (struct klieg__timing){ .left = left, .before = progress(me), .from = kw_ticks() };
}

void klieg__timing_ends(struct klieg__thread *me, const struct klieg__timing *x, unsigned events)
{
	uint64_t ticks = kw_ticks() - x->from;
	bool recorded = progress(me) != x->before;
	struct kw_thread *t = klieg__slot_now(me);
	if (t && ticks < TIMED_MOST) {
		klieg__store(&t->timed_ticks[recorded], t->timed_ticks[recorded] + ticks, RELAXED);
		klieg__store(&t->timed[recorded], t->timed[recorded] + events, RELEASE);
	}
	if (!me->timed)
		klieg__time_next(me, x->left);
}

/* ---- ring -------------------------------------------------------------------------------------------------------- */

/* Slow side of reserve: the consumer moved on, the ring wraps, or it is full. Wakes a sleeping agent when much waits for it: asked at every quarter,
 * so at five eighths at the latest. Fewer wakes in larger rings made spans cheaper (docs/adr/0003). */
static __attribute__((noinline)) uint8_t *reserve_slow(struct klieg__thread *me, uint64_t bytes)
{
	struct kw_thread *t = me->t;
	uint64_t size = klieg__process.ring_bytes;
	if (me->limit)
		klieg__time_next(me, TIMED_RUN); /* not at the very first: that is for once */
	uint64_t tail = klieg__load(&t->tail, ACQUIRE); /* pairs with the agent's release: what we overwrite has been read */
	if (me->head - tail > size)
		return NULL; /* the agent's word cannot be trusted either */
	if (me->head - tail >= size / 8 * 3 && me->head % (size / 4) < TIMED_BYTES && klieg__load(&klieg__process.control->waiting, RELAXED))
		klieg__wake_agent();
	uint64_t room_to_end = size - (me->head & (size - 1)), need = bytes;
	if (room_to_end < bytes)
		need += room_to_end;
	if (me->head + need > tail + size) {
		me->limit = 0; /* look again next time */
		return NULL;
	}
	if (room_to_end < bytes) {
		struct kw_rec *pad = (struct kw_rec *)(me->ring + (me->head & (size - 1)));
		*pad = (struct kw_rec){ 0, KW_REC_PAD, 1, 0 };
		me->head += room_to_end;
		klieg__store(&t->head, me->head, RELEASE);
	}
	/* The fast path may go on to the next part (parts divide quarters), the end of the ring, or the consumer, whichever comes first. */
	uint64_t part = (me->head / TIMED_BYTES + 1) * TIMED_BYTES, full = tail + size;
	me->limit = part < full ? part : full;
	if (me->head + bytes > me->limit)
		me->limit = me->head + bytes; /* known to fit */
	uint8_t *at = me->ring + (me->head & (size - 1));
	me->here = at - me->head;
	return at;
}

static inline uint8_t *reserve(struct klieg__thread *me, uint64_t bytes)
{
	if (klieg__likely(me->head + bytes <= me->limit)) /* parts divide the ring, so a record below the limit never wraps */
		return me->here + me->head;
	return reserve_slow(me, bytes);
}

/* The records that follow belong to the current trace; says so once. */
static __attribute__((noinline)) bool write_context(struct klieg__thread *me)
{
	struct kw_rec_ctx *c = (struct kw_rec_ctx *)reserve(me, sizeof *c);
	if (!c)
		return false;
	uint32_t th24 = (uint32_t)(me->threshold >> 32) << 8;
	c->r = (struct kw_rec){ th24, KW_REC_CTX, 1, (uint16_t)(me->ctx_flags & 0xffff) };
	c->trace_hi = me->trace_hi;
	c->trace_lo = me->trace_lo;
	c->parent_id = me->parent;
	commit(me, sizeof *c);
	me->ctx_dirty = false;
	me->t->trace_hi = me->trace_hi;
	me->t->trace_lo = me->trace_lo;
	me->t->parent_id = me->parent;
	me->t->ctx_flags = me->ctx_flags & 0xffff;
	return true;
}

static inline bool context_ready(struct klieg__thread *me) { return klieg__likely(!me->ctx_dirty) || write_context(me); }

/* ---- entering ---------------------------------------------------------------------------------------------------- */

/* The thread, ready to record; NULL: it cannot now. On success me->busy is set. */
static inline struct klieg__thread *enter(void)
{
	struct klieg__thread *me = &klieg__thread;
	if (klieg__unlikely(me->busy)) {
		if (me->t)
			__atomic_fetch_add(&me->t->lost_reentrant, 1, __ATOMIC_RELAXED);
		return NULL;
	}
	me->busy = true;
	atomic_signal_fence(memory_order_seq_cst);
	if (klieg__likely(me->t != NULL) && klieg__likely(klieg__load(klieg__process.epoch, RELAXED) == me->epoch))
		return me;
	int saved = errno;
	bool ok = klieg__thread_attach(me);
	if (!ok && klieg__process.region && me->failed && me->epoch == klieg__load(klieg__process.epoch, RELAXED))
		__atomic_fetch_add(&klieg__process.control->lost_no_slot, 1, __ATOMIC_RELAXED);
	errno = saved;
	if (ok)
		return me;
	me->busy = false;
	return NULL;
}

/* The level at which a site records now, in this thread's request; 0 = not at all. */
static inline unsigned level_of(const struct klieg__thread *me, const struct kw_site_state *st)
{
	unsigned level = klieg__load(&st->level, RELAXED);
	if (klieg__unlikely(klieg__load(&st->flags, RELAXED) & KW_STATE_GATED)) {
		unsigned asked = me->ctx_flags >> KW_CTX_LEVEL_SHIFT & 7, always = klieg__load(&st->always, RELAXED);
		if (asked < level)
			level = asked;
		if (always > level)
			level = always;
	}
	return level;
}

/* ---- count ------------------------------------------------------------------------------------------------------- */

static struct kw_cell *cell_of(struct klieg__thread *me, uint32_t site)
{
	uint16_t i = me->cellmap[site];
	if (klieg__unlikely(i == 0)) {
		if (me->t->cells_used >= KW_CELLS - 1)
			return NULL;
		i = (uint16_t)++me->t->cells_used;
		struct kw_cell *c = me->cells + i;
		klieg__store(&c->site, site, RELAXED);
		klieg__store(&me->cellmap[site], i, RELEASE);
	}
	return me->cells + i;
}

static inline void count_span(struct klieg__thread *me, uint32_t site, uint64_t ticks, bool error)
{
	struct kw_cell *c = cell_of(me, site);
	if (!c) {
		me->t->lost_cells++;
		return;
	}
	c->errors += error;
	c->sum_ticks += ticks;
	if (ticks > c->max_ticks)
		c->max_ticks = ticks;
	c->bucket[kw_bucket(ticks)]++;
	klieg__store(&c->calls, c->calls + 1, RELEASE);
	if (klieg__unlikely(!(c->calls % TIMED_CALLS)))
		klieg__time_next(me, TIMED_RUN);
}

/* ---- spans ------------------------------------------------------------------------------------------------------- */

void klieg__turn(struct klieg__thread *me)
{
	struct kw_thread *t = klieg__slot_now(me);
	for (uint32_t i = 0; t && i < t->depth; i++)
		if (t->generation[i] == me->generation)
			t->origin[i] = (struct kw_origin){ me->trace_hi, me->trace_lo, me->parent }, me->th24[i] = (uint32_t)(me->threshold >> 32);
	me->generation = ++me->generations;
	me->ctx_dirty = true;
}

/* The trace that began here is over; what was said of the request before it began still holds. */
static void end_trace(struct klieg__thread *me)
{
	klieg__turn(me);
	me->trace_hi = me->trace_lo = 0;
	me->ctx_flags &= me->no_depth < me->root_depth ? CTX_NO : 0;
	me->root_depth = me->seq = 0;
}

/* New spans become children of the innermost one that is still open in this context. */
void klieg__find_parent(struct klieg__thread *me)
{
	struct kw_thread *t = me->t;
	me->seq = 0;
	for (uint32_t i = t->depth; i-- > 0;)
		if (t->open[i].seq && t->generation[i] == me->generation && !(klieg__load(&t->open[i].flags, RELAXED) & (OPEN_ENDED | OPEN_DETACHED))) {
			me->seq = t->open[i].seq;
			return;
		}
}

/* Takes what has ended off the top of the stack, and ends the trace that began here with its root. */
static __attribute__((noinline)) void pop_ended(struct klieg__thread *me)
{
	struct kw_thread *t = me->t;
	uint32_t depth = t->depth;
	while (depth && klieg__load(&t->open[depth - 1].flags, ACQUIRE) & OPEN_ENDED)
		depth--;
	klieg__store(&t->depth, depth, RELEASE);
	if (me->root_depth > depth)
		end_trace(me);
	else
		klieg__find_parent(me);
}

/* Entry i ended under others. Scoped ones there are still running in it: they, and a trace whose root it is, go on until they end. If there
 * are only explicit ones (handed to other threads, most likely), this thread is done with them: it goes back to what was before i. */
static __attribute__((noinline)) void close_inner(struct klieg__thread *me, uint32_t i)
{
	struct kw_thread *t = me->t;
	bool running = false;
	__atomic_fetch_or(&t->open[i].flags, OPEN_ENDED, __ATOMIC_RELEASE);
	for (uint32_t k = i + 1; k < t->depth; k++)
		running |= !(klieg__load(&t->open[k].flags, RELAXED) & (OPEN_ENDED | OPEN_EXPLICIT));
	for (uint32_t k = i + 1; !running && k < t->depth; k++)
		__atomic_fetch_or(&t->open[k].flags, OPEN_DETACHED, __ATOMIC_RELAXED);
	if (!running && me->root_depth == i + 1)
		end_trace(me);
	pop_ended(me);
}

void klieg__settle(struct klieg__thread *me)
{
	struct kw_thread *t = me->t;
	if (t->depth && klieg__load(&t->open[t->depth - 1].flags, ACQUIRE) & OPEN_ENDED)
		pop_ended(me);
}

/* An open span that will never end: longjmp, an exception through C, a forgotten end. */
static void abandon(struct klieg__thread *me, struct kw_open *o)
{
	if (!(__atomic_fetch_or(&o->flags, OPEN_ENDED, __ATOMIC_ACQ_REL) & (OPEN_ENDED | OPEN_COUNT | OPEN_UNSAMPLED)))
		me->t->abandoned++;
}

/* The stack is full: takes ended spans out of its middle (explicit ones end in any order), and explicit ones that are only there in case they fail: their
 * handles say enough. */
static __attribute__((noinline)) void make_room(struct klieg__thread *me)
{
	struct kw_thread *t = me->t;
	uint32_t to = 0, root = 0;
	bool root_ended = me->root_depth != 0;
	for (uint32_t i = 0; i < t->depth; i++) {
		uint32_t flags = klieg__load(&t->open[i].flags, ACQUIRE);
		if (flags & OPEN_ENDED || (flags & OPEN_EXPLICIT && flags & OPEN_IF_FAILS && me->root_depth != i + 1))
			continue;
		if (me->root_depth == i + 1)
			root = to + 1, root_ended = false;
		if (to != i) {
			t->open[to] = t->open[i];
			t->generation[to] = t->generation[i];
			t->origin[to] = t->origin[i];
			me->th24[to] = me->th24[i];
			/* Ended by another thread while it moved: that mark may be on the old place only. */
			if (klieg__load(&t->open[i].flags, ACQUIRE) & OPEN_ENDED)
				__atomic_fetch_or(&t->open[to].flags, OPEN_ENDED, __ATOMIC_RELAXED);
		}
		to++;
	}
	klieg__store(&t->depth, to, RELEASE);
	me->root_depth = root;
	if (root_ended)
		end_trace(me);
	else
		klieg__find_parent(me);
}

static uint64_t randomness(const struct klieg__thread *me) { return me->ctx_flags & CTX_RV ? me->rv : me->trace_lo & KW_RANDOMNESS; }

static void decided(struct klieg__thread *me, uint64_t threshold)
{
	me->threshold = threshold;
	me->ctx_flags &= ~(uint32_t)(CTX_UNDECIDED | CTX_TH | KW_CTX_SAMPLED);
	if (randomness(me) >= threshold)
		me->ctx_flags |= KW_CTX_SAMPLED | CTX_TH;
}

/* Decides, at the first span of a trace here, whether it is kept (OTEP 235: R >= T). All processes have the same R, so who keeps fewer keeps a part of what
 * the others keep. T is this process's own, whatever the sender's was: requests that the sender did not keep come here too, and may be kept; so what is
 * kept here stands for 1/P(R >= T), or counts would not be right (docs/adr/0005-sampling.md). A request that carries a level is kept wherever it goes. */
static void decide(struct klieg__thread *me, const struct kw_site_state *st)
{
	uint64_t threshold = klieg__load(&st->threshold, RELAXED);
	bool carries = me->ctx_flags & (7u << KW_CTX_LEVEL_SHIFT) && me->ctx_flags & KW_CTX_SAMPLED;
	if (me->ctx_flags & KW_CTX_FORCED)
		threshold = 0;
	else if (carries && me->threshold < threshold)
		threshold = me->threshold;
	decided(me, threshold);
}

static __attribute__((noinline)) void start_trace(struct klieg__thread *me, const struct kw_site_state *st, uint32_t depth)
{
	do {
		me->trace_hi = klieg__random(me);
		me->trace_lo = klieg__random(me);
	} while (!me->trace_hi || !me->trace_lo);
	me->parent = 0;
	me->seq = 0;
	me->ctx_flags = KW_CTX_RANDOM | CTX_LOCAL_ROOT | (me->ctx_flags & (7u << KW_CTX_LEVEL_SHIFT | KW_CTX_FORCED | (me->no_depth <= depth ? CTX_NO : 0)));
	me->ctx_dirty = true;
	me->root_depth = depth + 1;
	decide(me, st);
}

/* What an explicit span's handle has when it is one: it may be garbage, begun while the site was off. */
static uint64_t check_of(const klieg_span *s)
{
	uint64_t v = kw_mix((uint64_t)(uintptr_t)s ^ s->start ^ s->id ^ *klieg__process.epoch);
	return v ? v : 1;
}

/* No room for one more open span: it is not recorded, and counted. */
static __attribute__((noinline)) void count_lost(struct klieg__thread *me, unsigned level)
{
	struct kw_thread *t = me->t;
	if (level < KW_SPAN) {
		t->lost_cells++;
	} else if (me->trace_hi | me->trace_lo && !(me->ctx_flags & (CTX_UNDECIDED | KW_CTX_SAMPLED))) {
		t->unsampled++;
	} else {
		klieg__store(&t->seq, t->seq + 1, RELAXED);
		t->lost_depth++;
	}
}

/* Do this site's attributes decide on the request, and has not been decided yet what they say? */
static __attribute__((noinline)) bool asks(struct klieg__thread *me, const struct kw_site_state *st, uint32_t depth)
{
	if (me->ctx_flags & 7u << KW_CTX_LEVEL_SHIFT)
		return false;
	if (!(me->trace_hi | me->trace_lo) && me->no_depth > depth)
		me->ctx_flags &= ~(uint32_t)CTX_NO; /* another request */
	uint32_t rules = klieg__load(&st->asks, RELAXED);
	return !rules || rules & ~(me->ctx_flags >> CTX_NO_SHIFT);
}

enum begun { SCOPED, EXPLICIT, FRAME };

static inline __attribute__((always_inline)) int begin(const struct klieg__slot *slot, klieg_span *s, enum begun how)
{
	bool is_explicit = how == EXPLICIT;
	uint32_t site = site_of(slot);
	struct klieg__thread *me;
	if (klieg__unlikely(site >= KW_MAX_SITES) || !(me = enter())) {
		s->open = 0; /* an explicit span's handle may be anything before */
		return 0;
	}
	struct kw_thread *t = me->t;
	const struct kw_site_state *st = klieg__process.sites + site;
	unsigned level = level_of(me, st);
	uint64_t now = 0;
	uint32_t depth = t->depth, flags = 0;
	if (depth) {
		struct kw_open *top = &t->open[depth - 1];
		if (klieg__unlikely(top->cookie == (uint64_t)(uintptr_t)s)) /* a second begin of the same variable: nothing can end the first */
			abandon(me, top);
		if (klieg__unlikely(klieg__load(&top->flags, ACQUIRE) & OPEN_ENDED)) {
			pop_ended(me);
			depth = t->depth;
			level = level_of(me, st);
		}
	}
	bool classify = klieg__unlikely(klieg__load(&st->flags, RELAXED) & KW_STATE_CLASSIFIES) && asks(me, st, depth);
	if ((!level && !classify) || lease_over(now = kw_ticks()))
		goto no;
	if (klieg__unlikely(depth >= KW_OPEN_MAX)) {
		bool unsampled = me->trace_hi | me->trace_lo && !(me->ctx_flags & (CTX_UNDECIDED | KW_CTX_SAMPLED));
		if (!unsampled || klieg__load(&t->open[depth - 1].flags, RELAXED) & OPEN_EXPLICIT) /* else most likely a deep recursion: not worth the looking */
			make_room(me);
		depth = t->depth;
		if (depth >= KW_OPEN_MAX) {
			count_lost(me, level);
			goto no;
		}
	}
	if (level >= KW_SPAN) {
		if (klieg__unlikely(!(me->trace_hi | me->trace_lo)))
			start_trace(me, st, depth);
		else if (klieg__unlikely(me->ctx_flags & CTX_UNDECIDED))
			decide(me, st), me->ctx_dirty = true;
		if (klieg__unlikely(!(me->ctx_flags & KW_CTX_SAMPLED))) {
			t->unsampled++;
			if (how == FRAME && me->root_depth != depth + 1)
				goto no; /* a function within a trace that is not kept: nobody will say that it failed */
			flags = OPEN_UNSAMPLED | OPEN_IF_FAILS; /* stands on the stack, so that we know what the trace was like if it fails, and when it ends */
		}
	} else {
		flags = level ? OPEN_COUNT : OPEN_UNSAMPLED; /* level 0: not begun at all, unless its attributes say so */
	}
	/* Another thread may be looking here for a span of its own to end: atomic, but no more than stores. */
	struct kw_open *o = &t->open[depth];
	o->site = site;
	klieg__store(&o->cookie, (uint64_t)(uintptr_t)s, RELAXED);
	o->parent_seq = me->seq;
	if (klieg__likely(!flags)) {
		o->seq = t->seq + 1;
		klieg__store(&t->seq, o->seq, RELAXED);
		if (level >= KW_DETAIL)
			flags |= OPEN_DETAIL;
		me->seq = o->seq;
	} else {
		o->seq = 0;
	}
	if (is_explicit)
		flags |= OPEN_EXPLICIT;
	if (classify)
		flags |= OPEN_CLASSIFY;
	klieg__store(&o->flags, flags, RELAXED);
	klieg__store(&o->start_tsc, now, RELAXED);
	t->generation[depth] = me->generation;
	klieg__store(&t->depth, depth + 1, RELEASE);
	s->open = depth + 1;
	s->seq = o->seq;
	if (is_explicit) {
		s->start = now;
		s->trace_hi = me->trace_hi;
		s->trace_lo = me->trace_lo;
		s->site = site;
		s->flags = flags | me->slot << HANDLE_SLOT_SHIFT;
		s->id = kw_span_id(t->seed, o->seq);
		s->parent = o->parent_seq ? kw_span_id(t->seed, o->parent_seq) : me->parent;
		s->check = check_of(s);
	}
	leave(me);
	return classify ? KW_DETAIL : flags & (OPEN_UNSAMPLED | OPEN_COUNT) ? KW_COUNT : (int)level;
no:
	s->open = 0;
	if (is_explicit)
		s->check = 0;
	leave(me);
	return 0;
}

static __attribute__((noinline)) int begin_slow(const struct klieg__slot *slot, klieg_span *s) { return begin(slot, s, SCOPED); }

static __attribute__((noinline)) int begin_timed(const struct klieg__slot *slot, klieg_span *s);

static __attribute__((noinline)) int begin_scoped(const struct klieg__slot *slot, klieg_span *s)
{
	struct klieg__thread *me = &klieg__thread;
	if (klieg__unlikely(me->timed))
		return begin_timed(slot, s);
	int level = begin_fast(me, site_of(slot), s);
	if (klieg__unlikely(!level))
		level = begin_quick(me, site_of(slot), s, false);
	return klieg__likely(level > 0) ? level : begin_slow(slot, s);
}

static int begin_timed(const struct klieg__slot *slot, klieg_span *s)
{
	struct klieg__timing x = klieg__timing_begins(&klieg__thread);
	int level = begin_scoped(slot, s);
	klieg__timing_ends(&klieg__thread, &x, 1);
	return level;
}

/* Requests that a site is not on for pay for this much only: no register is saved before it is known whether this is one. */
KLIEG_PUBLIC int klieg__begin(const struct klieg__slot *slot, klieg_span *s)
{
	if (klieg__unlikely(!not_for_us_again(&klieg__thread, slot)))
		return begin_scoped(slot, s);
	s->open = 0;
	return 0;
}

int klieg__begin_frame(const struct klieg__slot *slot, klieg_span *s)
{
	s->open = 0;
	return klieg__unlikely(not_for_us(&klieg__thread, site_of(slot))) ? 0 : begin(slot, s, FRAME);
}

KLIEG_PUBLIC int klieg__begin_explicit(const struct klieg__slot *slot, klieg_span *s)
{
	if (klieg__unlikely(not_for_us(&klieg__thread, site_of(slot)))) {
		s->open = 0;
		s->check = 0;
		return 0;
	}
	return begin(slot, s, EXPLICIT);
}

/* A span whose ring is not its context's any more: all ids in full. */
static __attribute__((noinline)) void put_spanx(struct klieg__thread *me, uint32_t site, uint32_t flags, uint64_t start, uint64_t now,
	const struct kw_origin *trace, uint32_t th24, uint64_t id, uint64_t parent)
{
	struct kw_rec_spanx *r = (struct kw_rec_spanx *)reserve(me, sizeof *r);
	if (!r) {
		me->t->lost_full++;
		return;
	}
	r->r = (struct kw_rec){ site, KW_REC_SPANX, 2, (uint16_t)(flags & 0xff) };
	r->start_tsc = start;
	r->ticks = now - start;
	r->trace_hi = trace->trace_hi;
	r->trace_lo = trace->trace_lo;
	r->span_id = id;
	r->parent_id = parent;
	r->tid = me->t->tid;
	r->th24 = th24 & 0xffffff;
	commit(me, sizeof *r);
}

/* Entry i of the stack ends now. */
static inline __attribute__((always_inline)) void finish(struct klieg__thread *me, uint32_t i)
{
	struct kw_thread *t = me->t;
	struct kw_open *o = &t->open[i];
	uint32_t flags = klieg__load(&o->flags, RELAXED);
	uint64_t now = kw_ticks(), start = o->start_tsc;
	bool same = t->generation[i] == me->generation;
	if (klieg__likely(!(flags & (OPEN_COUNT | OPEN_UNSAMPLED)))) {
		struct kw_rec_span *r;
		if (klieg__unlikely(!same)) {
			put_spanx(me, o->site, flags, start, now, &t->origin[i], me->th24[i], kw_span_id(t->seed, o->seq),
				o->parent_seq ? kw_span_id(t->seed, o->parent_seq) : t->origin[i].parent_id);
		} else if (klieg__likely(context_ready(me)) && klieg__likely((r = (struct kw_rec_span *)reserve(me, sizeof *r)) != NULL)) {
			r->r = (struct kw_rec){ o->site, KW_REC_SPAN, 1, (uint16_t)(flags & 0xff) };
			r->start_tsc = start;
			r->ticks = now - start;
			r->seq = o->seq;
			r->parent_seq = o->parent_seq;
			commit(me, sizeof *r);
		} else {
			t->lost_full++;
		}
		if (klieg__likely(me->seq == o->seq))
			me->seq = o->parent_seq;
	} else if (flags & OPEN_COUNT) {
		count_span(me, o->site, now - start, flags & KW_REC_ERROR);
	}
	if (klieg__unlikely(flags & OPEN_MARKED) && same)
		me->ctx_flags &= ~(7u << KW_CTX_LEVEL_SHIFT); /* what this span's attributes made of the request is over with it */
	if (klieg__likely(i + 1 == t->depth)) { /* if what is below ended elsewhere, the next begin sees it */
		klieg__store(&t->depth, i, RELEASE);
		if (me->root_depth == i + 1)
			end_trace(me);
	} else {
		close_inner(me, i);
	}
}

/* A span that was kept because what it is in it failed has a number that its handle does not know. */
static inline bool stands_for(const struct kw_open *o, const klieg_span *s)
{
	return klieg__likely(o->cookie == (uint64_t)(uintptr_t)s) && (klieg__likely(o->seq == s->seq) || (!s->seq && klieg__load(&o->flags, RELAXED) & KW_REC_ALONE));
}

static __attribute__((noinline)) uint32_t search(const struct kw_thread *t, const klieg_span *s, uint32_t below)
{
	while (below-- > 0)
		if (stands_for(&t->open[below], s))
			return below;
	return UINT32_MAX;
}

/* The place of an open scoped span: where its begin put it, unless the stack was tidied since. UINT32_MAX: not ours any more (in a forked
 * child, or after an abandon). */
static inline uint32_t place_of(const struct kw_thread *t, const klieg_span *s)
{
	uint32_t i = s->open - 1;
	if (klieg__likely(i < t->depth && stands_for(&t->open[i], s)))
		return i;
	return search(t, s, i < t->depth ? i : t->depth);
}

/* Scoped spans above ours and below it on the stack of calls: their frames are gone. Explicit ones live on. */
static __attribute__((noinline)) bool unwind_to(struct klieg__thread *me, const klieg_span *s, uint32_t i)
{
	struct kw_thread *t = me->t;
	if (klieg__load(&t->open[i].flags, RELAXED) & OPEN_ENDED)
		return false;
	for (uint32_t k = i + 1; k < t->depth; k++)
		if (!(klieg__load(&t->open[k].flags, RELAXED) & (OPEN_ENDED | OPEN_EXPLICIT)) && t->open[k].cookie < (uint64_t)(uintptr_t)s)
			abandon(me, &t->open[k]);
	pop_ended(me);
	return true;
}

static __attribute__((noinline)) void end_slow(klieg_span *s)
{
	struct klieg__thread *me = enter();
	if (!me)
		return;
	struct kw_thread *t = me->t;
	uint32_t i = place_of(t, s);
	s->open = 0;
	if (klieg__likely(i != UINT32_MAX) && (klieg__likely(i + 1 == t->depth) || unwind_to(me, s, i)))
		finish(me, i);
	leave(me);
}

static __attribute__((noinline)) void end_timed(klieg_span *s)
{
	struct klieg__timing x = klieg__timing_begins(&klieg__thread);
	klieg__end(s);
	klieg__timing_ends(&klieg__thread, &x, 1);
}

KLIEG_PUBLIC void klieg__end(klieg_span *s)
{
	if (klieg__unlikely(klieg__thread.timed))
		end_timed(s);
	else if (klieg__unlikely(!end_fast(&klieg__thread, s)) && !end_unsampled(&klieg__thread, s))
		end_slow(s);
}

/* ---- spans of intercepted functions: their ends are known by frame --------------------------------------------------- */

/* What is open above entry i belongs to frames that are gone, but for explicit spans. */
static void abandon_above(struct klieg__thread *me, uint32_t i)
{
	struct kw_thread *t = me->t;
	for (uint32_t k = i + 1; k < t->depth; k++)
		if (!(klieg__load(&t->open[k].flags, RELAXED) & (OPEN_ENDED | OPEN_EXPLICIT)))
			abandon(me, &t->open[k]);
	pop_ended(me);
}

static __attribute__((noinline)) void end_frame_slow(klieg_span *s, uint64_t min_ticks)
{
	struct klieg__thread *me = enter();
	if (!me)
		return;
	struct kw_thread *t = me->t;
	uint32_t i = place_of(t, s);
	s->open = 0;
	if (i != UINT32_MAX && !(klieg__load(&t->open[i].flags, RELAXED) & OPEN_ENDED)) {
		if (i + 1 != t->depth)
			abandon_above(me, i);
		struct kw_open *o = &t->open[i];
		if (min_ticks && !(o->flags & (OPEN_COUNT | OPEN_UNSAMPLED)) && kw_ticks() - o->start_tsc < min_ticks) {
			t->too_short++;
			__atomic_fetch_or(&o->flags, OPEN_ENDED, __ATOMIC_RELAXED);
			pop_ended(me);
		} else {
			finish(me, i);
		}
	}
	leave(me);
}

void klieg__end_frame(klieg_span *s, uint64_t min_ticks)
{
	struct klieg__thread *me = &klieg__thread;
	if (klieg__likely(at_ease(me)) && klieg__likely(s->open == me->t->depth) && klieg__likely(!min_ticks))
		klieg__end(s);
	else
		end_frame_slow(s, min_ticks);
}

void klieg__drop_frame(klieg_span *s)
{
	struct klieg__thread *me = enter();
	if (!me)
		return;
	uint32_t i = place_of(me->t, s);
	s->open = 0;
	if (i != UINT32_MAX) {
		abandon(me, &me->t->open[i]);
		abandon_above(me, i);
	}
	leave(me);
}

void klieg__lost_frame(const struct klieg__slot *slot)
{
	struct klieg__thread *me = enter();
	if (!me)
		return;
	count_lost(me, level_of(me, klieg__process.sites + site_of(slot)));
	leave(me);
}

/* The handle says what it was. Begun on another thread; the place it has on that thread's stack becomes free when that thread next comes by. */
static __attribute__((noinline)) void end_elsewhere(struct klieg__thread *me, klieg_span *s)
{
	uint64_t now = kw_ticks();
	struct kw_region *region = klieg__process.region;
	uint32_t slot = s->flags >> HANDLE_SLOT_SHIFT;
	struct kw_thread *other = (struct kw_thread *)(klieg__process.threads + (uint64_t)(slot < region->max_threads ? slot : 0) * region->thread_stride);
	uint32_t depth = klieg__load(&other->depth, ACQUIRE), was = OPEN_ENDED | OPEN_UNSAMPLED, seq = 0;
	for (uint32_t i = depth < KW_OPEN_MAX ? depth : KW_OPEN_MAX; i-- > 0;)
		if (klieg__load(&other->open[i].cookie, RELAXED) == (uint64_t)(uintptr_t)s && klieg__load(&other->open[i].start_tsc, RELAXED) == s->start) {
			was = __atomic_fetch_or(&other->open[i].flags, OPEN_ENDED, __ATOMIC_ACQ_REL);
			seq = other->open[i].seq;
			break;
		}
	struct kw_origin trace = { s->trace_hi, s->trace_lo, 0 };
	if (s->flags & OPEN_COUNT) {
		count_span(me, s->site, now - s->start, s->flags & KW_REC_ERROR);
	} else if (s->flags & OPEN_UNSAMPLED) { /* kept if it failed, or if there its own thread knows that something in it did */
		if (!(was & (OPEN_ENDED | OPEN_UNSAMPLED))) {
			put_spanx(me, s->site, (s->flags | was) & 0xff, s->start, now, &trace, 0, kw_span_id(other->seed, seq), s->parent);
		} else if (s->flags & OPEN_IF_FAILS && s->flags & KW_REC_ALONE) {
			klieg__store(&me->t->seq, me->t->seq + 1, RELAXED);
			put_spanx(me, s->site, s->flags, s->start, now, &trace, 0, kw_span_id(me->t->seed, me->t->seq), s->parent);
		}
	} else {
		if (was & OPEN_ENDED) /* its thread is gone and wrote it off: it did end. Only the sum over all slots means something. */
			me->t->abandoned--;
		/* The handle does not say what share of traces is kept; this thread knows when it is in the same one. */
		uint32_t th24 = me->trace_hi == s->trace_hi && me->trace_lo == s->trace_lo ? (uint32_t)(me->threshold >> 32) : 0;
		put_spanx(me, s->site, s->flags | (was & OPEN_ENDED ? 0 : was & 0xff), s->start, now, &trace, th24, s->id, s->parent);
	}
}

KLIEG_PUBLIC void klieg__end_explicit(klieg_span *s)
{
	if (!s->open) /* its begin did not record */
		return;
	struct klieg__thread *me = enter();
	if (!me)
		return;
	struct kw_thread *t = me->t;
	for (uint32_t i = t->depth; i-- > 0;)
		if (t->open[i].cookie == (uint64_t)(uintptr_t)s && !(klieg__load(&t->open[i].flags, RELAXED) & OPEN_ENDED)) {
			finish(me, i);
			klieg__settle(me);
			s->open = 0;
			s->check = 0;
			leave(me);
			return;
		}
	/* Of two threads that end it at once, one does. */
	uint64_t check = klieg__load(&s->check, ACQUIRE);
	if (s->open && check == check_of(s) && __atomic_compare_exchange_n(&s->check, &check, 0, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED)) {
		s->open = 0;
		end_elsewhere(me, s);
	}
	leave(me);
}

KLIEG_PUBLIC int klieg__level(const struct klieg__slot *slot)
{
	uint32_t site = site_of(slot);
	struct klieg__thread *me = &klieg__thread;
	if (site >= KW_MAX_SITES || !klieg__process.region || not_for_us_again(me, slot))
		return 0;
	return (int)level_of(me, klieg__process.sites + site);
}

/* The open entry of a handle, or NULL. */
static struct kw_open *entry_of(struct klieg__thread *me, const klieg_span *s)
{
	uint32_t i = place_of(me->t, s);
	return i == UINT32_MAX || klieg__load(&me->t->open[i].flags, RELAXED) & OPEN_ENDED ? NULL : &me->t->open[i];
}

/* An explicit span that this thread began, and that is on its stack no more (klieg__unstack): records about it can still be written here. */
static bool by_handle(const struct klieg__thread *me, const klieg_span *s)
{
	return s->open && s->check == check_of(s) && s->flags >> HANDLE_SLOT_SHIFT == me->slot;
}

KLIEG_PUBLIC int klieg__span_level(const klieg_span *s)
{
	struct klieg__thread *me = &klieg__thread;
	struct kw_open *o = klieg__slot_now(me) ? entry_of(me, s) : NULL;
	return (o ? klieg__load(&o->flags, RELAXED) : klieg__slot_now(me) && by_handle(me, s) ? s->flags : 0) & OPEN_DETAIL ? KW_DETAIL : 0;
}

/* An explicit span gives its place on the stack to others; its handle says all there is to say. Until its end it counts as abandoned, as that of an
 * exited thread does (end_elsewhere). */
void klieg__unstack(klieg_span *s)
{
	struct klieg__thread *me = enter();
	if (!me)
		return;
	uint32_t i = place_of(me->t, s);
	if (i != UINT32_MAX && klieg__load(&me->t->open[i].flags, RELAXED) & OPEN_EXPLICIT) {
		abandon(me, &me->t->open[i]);
		pop_ended(me);
	}
	leave(me);
}

/* ---- attributes, events, links, status ----------------------------------------------------------------------------- */

static inline bool put_value(uint8_t **at, const uint8_t *end, unsigned key, const char *name, const struct klieg__value *v, bool mask)
{
	if (klieg__likely(!name && !mask && v->type != KW_STR && v->type != KW_BYTES)) { /* a number: sixteen bytes, nothing to measure */
		struct { struct kw_attr a; int64_t i; } x = { { 8, (uint8_t)key, v->type, 0 }, v->u.i };
		if ((size_t)(end - *at) < sizeof x)
			return false;
		memcpy(*at, &x, sizeof x);
		*at += sizeof x;
		return true;
	}
	struct kw_attr a = { 0, (uint8_t)key, v->type, 0 };
	size_t named = name ? strlen(name) + 1 : 0, n = v->len;
	const void *from = v->type == KW_STR || v->type == KW_BYTES ? v->u.p : (const void *)&v->u;
	if (mask) {
		n = 0;
		a.flags |= KW_ATTR_MASKED;
	} else if ((v->type == KW_STR || v->type == KW_BYTES) && n > STRING_MAX) {
		n = STRING_MAX;
		a.flags |= KW_ATTR_CUT;
	}
	if (named > 256)
		return false;
	a.len = (uint32_t)(named + n);
	size_t whole = sizeof a + (a.len + 7u) / 8u * 8u;
	if ((size_t)(end - *at) < whole)
		return false;
	memcpy(*at, &a, sizeof a);
	if (named)
		memcpy(*at + sizeof a, name, named);
	if (n)
		memcpy(*at + sizeof a + named, from, n);
	*at += whole;
	return true;
}

static void breathe(void)
{
#if defined(__x86_64__)
	__builtin_ia32_pause();
#elif defined(__aarch64__)
	__asm__ volatile("yield");
#endif
}

static bool glob_matches(const char *g, const char *end, const char *s)
{
	const char *star = NULL, *from = NULL;
	for (;;) {
		if (g < end && *g == '*') {
			star = g++;
			from = s;
		} else if (*s && g < end && (*g == '?' || *g == *s)) {
			g++;
			s++;
		} else if (!*s || !star) {
			return !*s && g == end;
		} else { /* the star takes one more */
			g = star + 1;
			s = ++from;
		}
	}
}

/* Does one of these rules hide attributes of this name? */
static __attribute__((noinline)) bool hidden(const char *name, uint32_t rules)
{
	const struct kw_region *region = klieg__process.region;
	const struct kw_requests *q = (const struct kw_requests *)((const char *)region + region->requests_off);
	for (int tries = 0; tries < TABLE_TRIES; tries++) {
		uint32_t seq = klieg__load(&q->redact_seq, ACQUIRE), n = klieg__load(&q->redact_n, RELAXED);
		bool found = false;
		if (seq & 1) {
			breathe();
			continue;
		}
		for (uint32_t i = 0; !found && i < n && i < KW_REDACT; i++) {
			uint8_t len = klieg__load(&q->redact[i].len, RELAXED);
			found = klieg__load(&q->redact[i].rules, RELAXED) & rules && len <= KW_REDACT_GLOB && glob_matches(q->redact[i].glob, q->redact[i].glob + len, name);
		}
		__atomic_thread_fence(__ATOMIC_ACQUIRE);
		if (klieg__load(&q->redact_seq, RELAXED) == seq)
			return found;
	}
	return true; /* rather hidden than not */
}

static __attribute__((noinline)) bool masked(const struct kw_site_state *st, const char *name, unsigned key, bool sensitive)
{
	uint32_t hides = klieg__load(&st->hides, RELAXED);
	if (sensitive && !(key < 8 && klieg__load(&st->reveal, RELAXED) >> key & 1))
		return true;
	return hides && (name ? hidden(name, hides) : key < 16 && klieg__load(&st->hide, RELAXED) >> key & 1);
}

/* One record of attributes: straight into the ring, sized first. */
static void put_record(struct klieg__thread *me, uint8_t type, uint32_t site, uint32_t seq, uint64_t value, unsigned flags, const char *const *keys,
	unsigned first_key, const struct klieg__value *v, int n)
{
	size_t bytes = sizeof(struct kw_rec_event);
	for (int i = 0; i < n; i++)
		bytes += sizeof(struct kw_attr) + ((v[i].len < STRING_MAX ? v[i].len : STRING_MAX) + (keys ? strlen(keys[i]) + 1 : 0) + 7) / 8 * 8;
	bytes = (bytes + KW_UNIT - 1) / KW_UNIT * KW_UNIT;
	if (bytes > RECORD_MAX)
		bytes = RECORD_MAX;
	struct kw_rec_event *r;
	if (!context_ready(me) || !(r = (struct kw_rec_event *)reserve(me, bytes))) {
		me->t->lost_other++;
		return;
	}
	uint8_t *at = (uint8_t *)(r + 1), *end = (uint8_t *)r + bytes;
	const struct kw_site_state *st = klieg__process.sites + site;
	/* reveal, hides and hide in one word; pairs with the agent's release of hides: the names before it */
	uint32_t said = klieg__load((const uint32_t *)(const void *)&st->reveal, ACQUIRE);
	int written = 0;
	for (int i = 0; i < n; i++) {
		bool mask = klieg__unlikely(said | v[i].sensitive) && type != KW_REC_STATUS && masked(st, keys ? keys[i] : NULL, first_key + (unsigned)i, v[i].sensitive);
		if (put_value(&at, end, keys ? KW_ATTR_NAMED : first_key + (unsigned)i, keys ? keys[i] : NULL, &v[i], mask))
			written++;
		else
			flags |= KW_REC_TRUNCATED;
	}
	r->r = (struct kw_rec){ site, type, (uint8_t)(bytes / KW_UNIT), (uint16_t)(flags | (unsigned)written << KW_REC_NATTR_SHIFT) };
	r->tsc = type == KW_REC_EVENT ? kw_ticks() : 0;
	r->seq = seq;
	r->pad = 0;
	r->value = value;
	commit(me, bytes);
}

/* ---- requests: does a rule on attributes hold for this one? -------------------------------------------------------------------- */

static bool text_holds(uint8_t op, const struct klieg__value *v, const char *want, size_t n)
{
	const char *have = v->u.p;
	size_t len = v->len;
	if (!have)
		return false;
	if (op == KW_REQ_BEGINS)
		return len >= n && !memcmp(have, want, n);
	if (op == KW_REQ_ENDS)
		return len >= n && !memcmp(have + len - n, want, n);
	if (op == KW_REQ_CONTAINS)
		return memmem(have, len, want, n) != NULL;
	int cmp = memcmp(have, want, len < n ? len : n);
	cmp = cmp ? cmp : len < n ? -1 : len > n;
	return op == KW_REQ_EQ ? !cmp : op == KW_REQ_NE ? cmp : op == KW_REQ_LT ? cmp < 0 : op == KW_REQ_LE ? cmp <= 0 : op == KW_REQ_GT ? cmp > 0 : cmp >= 0;
}

/* Of doubles their bits are compared, turned so that they are in order: there are no vector registers here. */
static int64_t ordered(uint8_t type, int64_t bits) { return type == KW_DOUBLE ? bits ^ ((bits >> 63) & INT64_MAX) : bits; }

static bool number_holds(uint8_t op, int64_t have, int64_t want)
{
	return op == KW_REQ_EQ ? have == want : op == KW_REQ_NE ? have != want : op == KW_REQ_LT ? have < want : op == KW_REQ_LE ? have <= want :
		op == KW_REQ_GT ? have > want : op == KW_REQ_GE && have >= want;
}

/* The step is a copy of the agent's words; everything in it is checked here. */
static bool step_holds(const struct kw_request_op *o, const struct klieg__value *v, int n)
{
	if (o->key >= n || !v[o->key].type)
		return false;
	v += o->key;
	bool text = v->type == KW_STR || v->type == KW_BYTES;
	if (o->op == KW_REQ_EXISTS)
		return true;
	if (o->type == KW_STR)
		return text && o->len <= KW_REQUEST_TEXT && text_holds(o->op, v, o->text, o->len);
	return !text && v->type == o->type && number_holds(o->op, ordered(v->type, v->u.i), ordered(o->type, o->number));
}

static bool request_holds(const struct kw_request *r, const struct klieg__value *v, int n)
{
	uint32_t stack = 0, depth = 0, steps = r->nops;
	for (uint32_t i = 0; i < steps && i < KW_REQUEST_OPS; i++) {
		struct kw_request_op o = r->op[i];
		if (o.op == KW_REQ_AND || o.op == KW_REQ_OR) {
			if (depth < 2)
				return false;
			uint32_t a = stack >> (depth - 2) & 1, b = stack >> (depth - 1) & 1, x = o.op == KW_REQ_AND ? a & b : a | b;
			depth--;
			stack = (stack & ~(3u << (depth - 1))) | x << (depth - 1);
		} else if (o.op == KW_REQ_NOT) {
			if (!depth)
				return false;
			stack ^= 1u << (depth - 1);
		} else {
			if (depth >= 31)
				return false;
			uint32_t x = o.op == KW_REQ_TRUE || (o.op != KW_REQ_FALSE && step_holds(&o, v, n));
			stack = (stack & ~(1u << depth)) | x << depth;
			depth++;
		}
	}
	return depth == 1 && stack & 1;
}

/* What an open span has become, its handle says too. */
static void tell_handle(const struct klieg__thread *me, const struct kw_open *o, klieg_span *s)
{
	const struct kw_thread *t = me->t;
	uint32_t flags = klieg__load(&o->flags, RELAXED);
	s->seq = o->seq;
	if (!(flags & OPEN_EXPLICIT))
		return;
	bool here = t->generation[o - t->open] == me->generation;
	if (here) {
		s->trace_hi = me->trace_hi;
		s->trace_lo = me->trace_lo;
	}
	s->flags = (flags & ~(uint32_t)OPEN_MARKED) | me->slot << HANDLE_SLOT_SHIFT;
	s->id = kw_span_id(t->seed, o->seq);
	if (o->parent_seq || here)
		s->parent = o->parent_seq ? kw_span_id(t->seed, o->parent_seq) : me->parent;
	s->check = check_of(s);
}

/* The request carries a level from here on, until this span ends; and the span itself is begun, if it is one that this level is about. */
static void mark(struct klieg__thread *me, uint32_t site, klieg_span *s, struct kw_open *o, unsigned level, uint64_t threshold)
{
	struct kw_thread *t = me->t;
	const struct kw_site_state *st = klieg__process.sites + site, rule = { .threshold = threshold };
	uint32_t flags = klieg__load(&o->flags, RELAXED) | OPEN_MARKED;
	me->ctx_flags |= level << KW_CTX_LEVEL_SHIFT;
	if (!(me->trace_hi | me->trace_lo)) {
		start_trace(me, &rule, (uint32_t)(o - t->open));
	} else if (me->ctx_flags & CTX_UNDECIDED) {
		decide(me, &rule);
		me->ctx_dirty = true;
	} else if (threshold < me->threshold && (me->ctx_flags & CTX_TH ? !o->parent_seq : !(me->ctx_flags & KW_CTX_SAMPLED) && randomness(me) >= threshold)) {
		decided(me, threshold); /* it was before, by a rule that keeps fewer */
		me->ctx_dirty = true;
	}
	level = level_of(me, st);
	if (level >= KW_SPAN && me->ctx_flags & KW_CTX_SAMPLED) {
		if (flags & (OPEN_UNSAMPLED | OPEN_COUNT)) {
			o->parent_seq = me->seq;
			o->seq = t->seq + 1;
			klieg__store(&t->seq, o->seq, RELAXED);
			me->seq = o->seq;
			flags &= ~(uint32_t)(OPEN_UNSAMPLED | OPEN_COUNT | OPEN_IF_FAILS);
		}
		flags |= level >= KW_DETAIL ? OPEN_DETAIL : 0;
	} else if (level >= KW_SPAN && flags & OPEN_UNSAMPLED) {
		flags |= OPEN_IF_FAILS;
	}
	klieg__store(&o->flags, flags, RELAXED);
	tell_handle(me, o, s);
}

static __attribute__((noinline)) void classify_request(struct klieg__thread *me, uint32_t site, klieg_span *s, struct kw_open *o, const struct klieg__value *v, int n)
{
	const struct kw_region *region = klieg__process.region;
	const struct kw_control *c = klieg__process.control;
	__atomic_fetch_and(&o->flags, ~(uint32_t)OPEN_CLASSIFY, __ATOMIC_RELAXED);
	if (!region->requests_off || me->ctx_flags >> KW_CTX_LEVEL_SHIFT & 7)
		return;
	const struct kw_requests *q = (const struct kw_requests *)((const char *)region + region->requests_off);
	unsigned level = 0;
	uint64_t threshold = UINT64_MAX;
	bool whole = false;
	for (int tries = 0; !whole && tries < TABLE_TRIES; tries++) { /* the agent may be writing */
		uint32_t seq = klieg__load(&c->requests_seq, ACQUIRE), count = klieg__load(&q->n, RELAXED);
		if (seq & 1) {
			breathe();
			continue;
		}
		level = 0;
		threshold = UINT64_MAX;
		for (uint32_t i = 0; i < count && i < KW_REQUESTS; i++)
			if (klieg__load(&q->site[i], RELAXED) == site + 1 && !(q->request[i].rule & me->ctx_flags >> CTX_NO_SHIFT) && request_holds(&q->request[i], v, n)) {
				unsigned its = q->request[i].level & 7;
				level = its > level ? its : level;
				threshold = q->request[i].threshold < threshold ? q->request[i].threshold : threshold;
			}
		__atomic_thread_fence(__ATOMIC_ACQUIRE);
		whole = klieg__load(&c->requests_seq, RELAXED) == seq;
	}
	if (whole && level) {
		mark(me, site, s, o, level, threshold);
	} else if (whole && ((me->trace_hi | me->trace_lo) || !(klieg__load(&o->flags, RELAXED) & OPEN_EXPLICIT))) {
		/* Of explicit spans many may be open at once: without a trace nobody knows which of them is the request that goes on. */
		if (!(me->ctx_flags & CTX_NO))
			me->no_depth = (uint32_t)(o - me->t->open) + 1;
		me->ctx_flags |= (uint32_t)klieg__load(&klieg__process.sites[site].asks, RELAXED) << CTX_NO_SHIFT & CTX_NO;
	}
}

static __attribute__((noinline)) void attributes_timed(const struct klieg__slot *slot, klieg_span *s, const struct klieg__value *v, int n)
{
	struct klieg__timing x = klieg__timing_begins(&klieg__thread);
	klieg__attributes(slot, s, v, n);
	klieg__timing_ends(&klieg__thread, &x, 0);
}

KLIEG_PUBLIC void klieg__attributes(const struct klieg__slot *slot, klieg_span *s, const struct klieg__value *v, int n)
{
	if (klieg__unlikely(klieg__thread.timed)) {
		attributes_timed(slot, s, v, n);
		return;
	}
	struct klieg__thread *me = enter();
	if (!me)
		return;
	struct kw_open *o = entry_of(me, s);
	if (o && klieg__unlikely(klieg__load(&o->flags, RELAXED) & OPEN_CLASSIFY))
		classify_request(me, site_of(slot), s, o, v, n);
	if (o && klieg__load(&o->flags, RELAXED) & OPEN_DETAIL)
		put_record(me, KW_REC_ATTR, site_of(slot), s->seq, 0, 0, NULL, 0, v, n);
	leave(me);
}

void klieg__attributes_from(const struct klieg__slot *slot, klieg_span *s, unsigned first_key, const struct klieg__value *v, int n)
{
	struct klieg__thread *me = enter();
	if (!me)
		return;
	if (entry_of(me, s))
		put_record(me, KW_REC_ATTR, site_of(slot), s->seq, 0, 0, NULL, first_key, v, n);
	leave(me);
}

static __attribute__((noinline)) void set_timed(klieg_span *s, const char *const *keys, const struct klieg__value *v, int n)
{
	struct klieg__timing x = klieg__timing_begins(&klieg__thread);
	klieg__set(s, keys, v, n);
	klieg__timing_ends(&klieg__thread, &x, 0);
}

KLIEG_PUBLIC void klieg__set(klieg_span *s, const char *const *keys, const struct klieg__value *v, int n)
{
	if (klieg__unlikely(klieg__thread.timed)) {
		set_timed(s, keys, v, n);
		return;
	}
	struct klieg__thread *me = enter();
	if (!me)
		return;
	struct kw_open *o = entry_of(me, s);
	if (o && klieg__load(&o->flags, RELAXED) & OPEN_DETAIL)
		put_record(me, KW_REC_ATTR, o->site, o->seq, 0, 0, keys, 0, v, n);
	else if (!o && by_handle(me, s) && s->flags & OPEN_DETAIL)
		put_record(me, KW_REC_ATTR, s->site, s->seq, 0, 0, keys, 0, v, n);
	leave(me);
}

/* Functions' spans stand on the stack only in traces that are kept; but the first span of a trace always does. */
static bool always_open(const struct klieg__thread *me, uint32_t i)
{
#if defined(__x86_64__)
	return me->t->open[i].cookie - (uint64_t)(uintptr_t)klieg__gate_data >= sizeof(struct kw_gate) * KW_GATES || me->root_depth == i + 1;
#else
	return me && i < KW_OPEN_MAX;
#endif
}

/* A span that fails is kept, and so are those that it is in: the way from the first one here to it. In a trace that is not kept they become spans now.
 * In one that is, they are what they were; but in both they stand for themselves alone, since none of their kind is ever left out. */
static __attribute__((noinline)) void keep_failed(struct klieg__thread *me, uint32_t failed)
{
	struct kw_thread *t = me->t;
	uint32_t parent = 0;
	for (uint32_t i = 0; i <= failed; i++) {
		struct kw_open *o = &t->open[i];
		uint32_t flags = klieg__load(&o->flags, RELAXED);
		bool none = flags & OPEN_UNSAMPLED && !(flags & OPEN_IF_FAILS);
		if (t->generation[i] != t->generation[failed] || none || flags & (OPEN_COUNT | OPEN_ENDED) || (flags & OPEN_DETACHED && i < failed))
			continue;
		if (always_open(me, i)) {
			if (flags & OPEN_UNSAMPLED) {
				o->parent_seq = parent;
				o->seq = t->seq + 1;
				klieg__store(&t->seq, o->seq, RELAXED);
				if (level_of(me, klieg__process.sites + o->site) >= KW_DETAIL)
					__atomic_fetch_or(&o->flags, OPEN_DETAIL, __ATOMIC_RELAXED);
				__atomic_fetch_and(&o->flags, ~(uint32_t)(OPEN_UNSAMPLED | OPEN_IF_FAILS), __ATOMIC_RELEASE); /* another thread that ends it reads its number after this */
			}
			__atomic_fetch_or(&o->flags, KW_REC_ALONE, __ATOMIC_RELAXED);
		}
		parent = o->seq;
	}
	klieg__find_parent(me);
}

KLIEG_PUBLIC void klieg__status(klieg_span *s, int error, const char *text)
{
	struct klieg__thread *me = enter();
	if (!me)
		return;
	struct kw_open *o = entry_of(me, s);
	if (o) {
		if (error && always_open(me, (uint32_t)(o - me->t->open))) {
			keep_failed(me, (uint32_t)(o - me->t->open));
			tell_handle(me, o, s);
		}
		__atomic_fetch_and(&o->flags, ~(uint32_t)(KW_REC_ERROR | KW_REC_OK), __ATOMIC_RELAXED);
		__atomic_fetch_or(&o->flags, error ? KW_REC_ERROR : KW_REC_OK, __ATOMIC_RELAXED);
		if (text && *text && o->seq) {
			struct klieg__value v = klieg__str(text);
			const char *key = "status";
			put_record(me, KW_REC_STATUS, o->site, o->seq, 0, 0, &key, 0, &v, 1);
		}
	} else if (s->check == check_of(s)) { /* its end writes what the handle says; if another thread began it, the text has no place there */
		s->flags = (s->flags & ~(uint32_t)(KW_REC_ERROR | KW_REC_OK)) | (error ? KW_REC_ERROR | KW_REC_ALONE : KW_REC_OK);
		if (text && *text && s->seq && by_handle(me, s)) {
			struct klieg__value v = klieg__str(text);
			put_record(me, KW_REC_STATUS, s->site, s->seq, 0, 0, &(const char *){ "status" }, 0, &v, 1);
		} else {
			me->t->lost_other += text && *text;
		}
	}
	leave(me);
}

KLIEG_PUBLIC void klieg__link(klieg_span *s, const struct klieg_ctx *ctx)
{
	struct klieg__thread *me = enter();
	if (!me)
		return;
	struct kw_open *o = entry_of(me, s);
	struct kw_rec_link *r;
	if (o && o->seq) {
		if (context_ready(me) && (r = (struct kw_rec_link *)reserve(me, sizeof *r))) {
			memset(r, 0, sizeof *r);
			r->r = (struct kw_rec){ o->site, KW_REC_LINK, 2, 0 };
			r->trace_hi = ctx->trace_hi;
			r->trace_lo = ctx->trace_lo;
			r->span_id = ctx->span_id;
			r->seq = o->seq;
			commit(me, sizeof *r);
		} else {
			me->t->lost_other++;
		}
	}
	leave(me);
}

KLIEG_PUBLIC void klieg__event(const struct klieg__slot *slot, const struct klieg__value *v, int n)
{
	uint32_t site = site_of(slot);
	struct klieg__thread *me = site < KW_MAX_SITES && !not_for_us_again(&klieg__thread, slot) ? enter() : NULL;
	if (!me)
		return;
	const struct kw_site_state *st = klieg__process.sites + site;
	unsigned level = level_of(me, st);
	if (level && !lease_over(kw_ticks())) {
		if (level == KW_COUNT) {
			struct kw_cell *c = cell_of(me, site);
			if (c)
				klieg__store(&c->calls, c->calls + 1, RELEASE);
			else
				me->t->lost_cells++;
		} else if (klieg__settle(me), me->trace_hi | me->trace_lo) {
			if (me->ctx_flags & CTX_UNDECIDED)
				decide(me, st), me->ctx_dirty = true;
			if (me->ctx_flags & KW_CTX_SAMPLED)
				put_record(me, KW_REC_EVENT, site, me->seq, 0, 0, NULL, 0, v, n);
		} else {
			uint32_t asked = me->ctx_flags; /* a request that asks for a level keeps asking */
			start_trace(me, st, UINT32_MAX - 1); /* an event outside any span is a trace of its own */
			if (me->ctx_flags & KW_CTX_SAMPLED)
				put_record(me, KW_REC_EVENT, site, 0, 0, 0, NULL, 0, v, n);
			end_trace(me);
			me->ctx_flags = asked;
		}
	}
	leave(me);
}

KLIEG_PUBLIC void klieg__count(const struct klieg__slot *slot, int64_t n)
{
	uint32_t site = site_of(slot);
	struct klieg__thread *me = site < KW_MAX_SITES && !not_for_us_again(&klieg__thread, slot) ? enter() : NULL;
	if (!me)
		return;
	if (level_of(me, klieg__process.sites + site) && !lease_over(kw_ticks())) {
		struct kw_cell *c = cell_of(me, site);
		if (c) {
			c->value += n;
			klieg__store(&c->calls, c->calls + 1, RELEASE);
		} else {
			me->t->lost_cells++;
		}
	}
	leave(me);
}
