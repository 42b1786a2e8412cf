/* The probes' cold paths: what runs once a site is on. Spans go begin -> open stack (shared memory, so that what is in flight can be seen
 * from outside) -> end -> one 32-byte record in the thread's ring. The clock is the floor; everything else must hide behind it.
 *
 * Each entry point brackets its work with me->busy, so that a probe in a signal handler that interrupted one keeps out. */
#include "probe/internal.h"
#include <errno.h>

enum { STRING_MAX = 1024, RECORD_MAX = 255 * KW_UNIT };

/* ---- ring -------------------------------------------------------------------------------------------------------- */

/* Slow side of reserve: the consumer moved on, the ring wraps, or it is full. Wakes a sleeping agent at every quarter. */
static __attribute__((noinline)) uint8_t *reserve_slow(struct klieg__thread *me, uint64_t bytes)
{
	struct kw_thread *t = me->t;
	uint64_t size = klieg__process.ring_bytes;
	if (klieg__load(&klieg__process.control->waiting, RELAXED))
		klieg__wake_agent();
	uint64_t tail = klieg__load(&t->tail, ACQUIRE); /* pairs with the agent's release: what we overwrite has been read */
	if (me->head - tail > size)
		return NULL; /* the agent's word cannot be trusted either */
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
	/* The fast path may go on to the next quarter, the end of the ring, or the consumer, whichever comes first. */
	uint64_t quarter = (me->head / (size / 4) + 1) * (size / 4), full = tail + size;
	me->limit = quarter < full ? quarter : full;
	if (me->head + bytes > me->limit)
		me->limit = me->head + bytes; /* known to fit */
	return me->ring + (me->head & (size - 1));
}

static inline uint8_t *reserve(struct klieg__thread *me, uint64_t bytes)
{
	if (klieg__likely(me->head + bytes <= me->limit)) /* quarters divide the ring, so a record below the limit never wraps */
		return me->ring + (me->head & (klieg__process.ring_bytes - 1));
	return reserve_slow(me, bytes);
}

static inline void commit(struct klieg__thread *me, uint64_t bytes)
{
	me->head += bytes;
	klieg__store(&me->t->head, me->head, RELEASE); /* pairs with the agent's acquire: the record before its head */
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

static inline void leave(struct klieg__thread *me)
{
	atomic_signal_fence(memory_order_seq_cst);
	me->busy = false;
}

static inline uint32_t site_of(const struct klieg__slot *slot) { return slot->index - 1; }

/* The level at which a site records now, in this thread's request; 0 = not at all. */
static inline unsigned level_of(const struct klieg__thread *me, const struct kw_site_state *st)
{
	unsigned level = klieg__load(&st->level, RELAXED);
	if (klieg__unlikely(st->flags & KW_STATE_GATED)) {
		unsigned asked = me->ctx_flags >> KW_CTX_LEVEL_SHIFT & 7;
		if (asked < level)
			level = asked;
	}
	return level;
}

static inline bool lease_over(uint64_t now) { return now > klieg__load(&klieg__process.control->lease_tsc, RELAXED); }

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
}

/* ---- spans ------------------------------------------------------------------------------------------------------- */

/* Forgets the open spans above entry `to`: they will never end (longjmp, an exception through C, a forgotten end). */
static __attribute__((noinline)) void abandon_above(struct klieg__thread *me, uint32_t to)
{
	struct kw_thread *t = me->t;
	while (t->depth > to) {
		struct kw_open *o = &t->open[t->depth - 1];
		if (o->seq && !(o->flags & (OPEN_ENDED | OPEN_COUNT | OPEN_UNSAMPLED)))
			t->abandoned++;
		if (me->root_depth == t->depth)
			me->root_depth = 0, me->trace_hi = me->trace_lo = 0, me->ctx_flags = 0;
		t->depth--;
	}
}

/* Decides, at the first span of a trace or of a context whose sender left it open, whether this trace is kept (OTEP 235: R >= T). */
static bool decide(struct klieg__thread *me, const struct kw_site_state *st)
{
	uint64_t threshold = klieg__load(&st->threshold, RELAXED);
	bool keep = (me->ctx_flags & KW_CTX_FORCED) || (me->trace_lo & 0xffffffffffffffull) >= threshold;
	me->threshold = me->ctx_flags & KW_CTX_FORCED ? 0 : threshold;
	me->ctx_flags = (me->ctx_flags & ~(uint32_t)CTX_UNDECIDED) | (keep ? KW_CTX_SAMPLED : 0);
	return keep;
}

static __attribute__((noinline)) void start_trace(struct klieg__thread *me, const struct kw_site_state *st, uint32_t depth)
{
	do {
		me->trace_hi = klieg__random(me);
		me->trace_lo = klieg__random(me);
	} while (!me->trace_hi || !me->trace_lo);
	me->parent = 0;
	me->seq = 0;
	me->ctx_flags = KW_CTX_RANDOM | CTX_LOCAL_ROOT | (me->ctx_flags & (7u << KW_CTX_LEVEL_SHIFT | KW_CTX_FORCED));
	me->ctx_dirty = true;
	me->root_depth = depth + 1;
	decide(me, st);
}

static inline int begin(const struct klieg__slot *slot, klieg_span *s, bool is_explicit)
{
	uint32_t site = site_of(slot);
	if (klieg__unlikely(site >= KW_MAX_SITES))
		return 0;
	struct klieg__thread *me = enter();
	if (!me)
		return 0;
	struct kw_thread *t = me->t;
	const struct kw_site_state *st = klieg__process.sites + site;
	unsigned level = level_of(me, st);
	uint64_t now = 0;
	uint32_t depth = t->depth, flags = 0;
	if (!level || lease_over(now = klieg__ticks()))
		goto no;
	if (level >= KW_SPAN) {
		if (klieg__unlikely(!(me->trace_hi | me->trace_lo)))
			start_trace(me, st, depth);
		else if (klieg__unlikely(me->ctx_flags & CTX_UNDECIDED))
			decide(me, st), me->ctx_dirty = true;
		if (klieg__unlikely(!(me->ctx_flags & KW_CTX_SAMPLED))) {
			t->unsampled++;
			if (me->root_depth != depth + 1)
				goto no; /* a child of a trace that is not kept */
			flags = OPEN_UNSAMPLED; /* its root: stands on the stack so that we know when the trace ends */
		}
	} else {
		flags = OPEN_COUNT;
	}
	if (klieg__unlikely(depth >= KW_OPEN_MAX)) {
		while (depth && t->open[depth - 1].flags & OPEN_ENDED) /* ended elsewhere: free again */
			t->depth = --depth;
		if (depth >= KW_OPEN_MAX) {
			if (!flags) {
				t->seq++;
				t->lost_depth++;
			}
			goto no;
		}
	}
	struct kw_open *o = &t->open[depth];
	o->site = site;
	o->cookie = (uint64_t)(uintptr_t)s;
	o->parent_seq = me->seq;
	if (klieg__likely(!flags)) {
		o->seq = ++t->seq;
		if (level >= KW_DETAIL)
			flags |= OPEN_DETAIL;
		me->seq = o->seq;
	} else {
		o->seq = 0;
	}
	o->flags = flags;
	o->start_tsc = now;
	klieg__store(&t->depth, depth + 1, RELEASE);
	s->open = depth + 1;
	s->seq = o->seq;
	if (is_explicit) {
		s->start = now;
		s->trace_hi = me->trace_hi;
		s->trace_lo = me->trace_lo;
		s->site = site;
		s->flags = flags;
		s->id = kw_span_id(t->seed, o->seq);
		s->parent = o->parent_seq ? kw_span_id(t->seed, o->parent_seq) : me->parent;
		s->check = kw_mix((uint64_t)(uintptr_t)s ^ now ^ s->id ^ *klieg__process.epoch);
	}
	leave(me);
	return flags & (OPEN_UNSAMPLED | OPEN_COUNT) ? KW_COUNT : (int)level;
no:
	s->open = 0;
	leave(me);
	return 0;
}

KLIEG_PUBLIC int klieg__begin(const struct klieg__slot *slot, klieg_span *s) { return begin(slot, s, false); }
KLIEG_PUBLIC int klieg__begin_explicit(const struct klieg__slot *slot, klieg_span *s) { return begin(slot, s, true); }

/* Entry i of the stack ends now. */
static inline void finish(struct klieg__thread *me, uint32_t i)
{
	struct kw_thread *t = me->t;
	struct kw_open *o = &t->open[i];
	uint32_t flags = o->flags;
	uint64_t now = klieg__ticks(), start = o->start_tsc;
	if (klieg__likely(!(flags & (OPEN_COUNT | OPEN_UNSAMPLED)))) {
		struct kw_rec_span *r;
		if (klieg__likely(context_ready(me)) && klieg__likely((r = (struct kw_rec_span *)reserve(me, sizeof *r)) != NULL)) {
			r->r = (struct kw_rec){ o->site, KW_REC_SPAN, 1, (uint16_t)(flags & 0xff) };
			r->start_tsc = start;
			r->ticks = now - start;
			r->seq = o->seq;
			r->parent_seq = o->parent_seq;
			commit(me, sizeof *r);
		} else {
			t->lost_full++;
		}
	} else if (flags & OPEN_COUNT) {
		count_span(me, o->site, now - start, flags & KW_REC_ERROR);
	}
	if (klieg__likely(me->seq == o->seq) || !o->seq)
		me->seq = o->parent_seq;
	if (klieg__likely(i + 1 == t->depth)) {
		uint32_t depth = i;
		while (klieg__unlikely(depth && t->open[depth - 1].flags & OPEN_ENDED))
			depth--;
		klieg__store(&t->depth, depth, RELEASE);
	} else {
		o->flags |= OPEN_ENDED; /* an explicit span under others that are still open */
	}
	if (me->root_depth == i + 1) { /* the trace that began here is over */
		me->trace_hi = me->trace_lo = 0;
		me->ctx_flags = 0;
		me->root_depth = 0;
	}
}

KLIEG_PUBLIC void klieg__end(klieg_span *s)
{
	struct klieg__thread *me = enter();
	if (!me)
		return;
	struct kw_thread *t = me->t;
	uint32_t i = s->open - 1;
	s->open = 0;
	/* In a forked child, or after an abandon, the entry is not ours any more. */
	if (i < t->depth && t->open[i].cookie == (uint64_t)(uintptr_t)s && t->open[i].seq == s->seq) {
		for (uint32_t k = i + 1; k < t->depth; k++)
			if (!(t->open[k].flags & OPEN_ENDED) && t->open[k].cookie < (uint64_t)(uintptr_t)s) {
				abandon_above(me, i + 1); /* frames below ours on the stack are gone */
				break;
			}
		finish(me, i);
	}
	leave(me);
}

KLIEG_PUBLIC void klieg__end_explicit(klieg_span *s)
{
	struct klieg__thread *me = enter();
	if (!me)
		return;
	struct kw_thread *t = me->t;
	for (uint32_t i = t->depth; i-- > 0;)
		if (t->open[i].cookie == (uint64_t)(uintptr_t)s && !(t->open[i].flags & OPEN_ENDED)) {
			bool same_trace = t->open[i].flags & (OPEN_COUNT | OPEN_UNSAMPLED) || (s->trace_hi == me->trace_hi && s->trace_lo == me->trace_lo);
			if (same_trace) {
				finish(me, i);
				s->open = 0;
				s->check = 0;
				leave(me);
				return;
			}
			break;
		}
	/* Begun on another thread, or under another trace: the handle says what it was, if it is one (it may be garbage: begun while off). */
	if (s->open && s->check == kw_mix((uint64_t)(uintptr_t)s ^ s->start ^ s->id ^ *klieg__process.epoch)) {
		s->check = 0;
		s->open = 0;
		uint64_t now = klieg__ticks();
		struct kw_rec_spanx *r;
		if (s->flags & OPEN_COUNT) {
			count_span(me, s->site, now - s->start, false);
		} else if (s->flags & OPEN_UNSAMPLED) {
			;
		} else if ((r = (struct kw_rec_spanx *)reserve(me, sizeof *r))) {
			r->r = (struct kw_rec){ s->site, KW_REC_SPANX, 2, (uint16_t)(s->flags & 0xff) };
			r->start_tsc = s->start;
			r->ticks = now - s->start;
			r->trace_hi = s->trace_hi;
			r->trace_lo = s->trace_lo;
			r->span_id = s->id;
			r->parent_id = s->parent;
			r->tid = t->tid;
			r->pad = 0;
			commit(me, sizeof *r);
		} else {
			t->lost_full++;
		}
		/* Its place on the other thread's stack becomes free when that thread next comes by. */
		struct kw_region *region = klieg__process.region;
		uint32_t n = klieg__load(&klieg__process.control->threads_hint, RELAXED);
		for (uint32_t k = 0; k < n; k++) {
			struct kw_thread *other = (struct kw_thread *)(klieg__process.threads + (uint64_t)k * region->thread_stride);
			uint32_t depth = klieg__load(&other->depth, ACQUIRE);
			for (uint32_t i = depth < KW_OPEN_MAX ? depth : KW_OPEN_MAX; i-- > 0;)
				if (other->open[i].cookie == (uint64_t)(uintptr_t)s && other->open[i].start_tsc == s->start) {
					__atomic_fetch_or(&other->open[i].flags, OPEN_ENDED, __ATOMIC_RELEASE);
					k = n;
					break;
				}
		}
	}
	leave(me);
}

KLIEG_PUBLIC int klieg__level(const struct klieg__slot *slot)
{
	uint32_t site = site_of(slot);
	struct klieg__thread *me = &klieg__thread;
	if (site >= KW_MAX_SITES || !klieg__process.region)
		return 0;
	return (int)level_of(me, klieg__process.sites + site);
}

/* The open entry of a handle, or NULL. */
static struct kw_open *entry_of(struct klieg__thread *me, const klieg_span *s)
{
	uint32_t i = s->open - 1;
	if (i >= me->t->depth || me->t->open[i].cookie != (uint64_t)(uintptr_t)s || me->t->open[i].flags & OPEN_ENDED)
		return NULL;
	return &me->t->open[i];
}

KLIEG_PUBLIC int klieg__span_level(const klieg_span *s)
{
	struct klieg__thread *me = &klieg__thread;
	struct kw_open *o = me->t ? entry_of(me, s) : NULL;
	return o && o->flags & OPEN_DETAIL ? KW_DETAIL : 0;
}

/* ---- attributes, events, links, status ----------------------------------------------------------------------------- */

static bool put_value(uint8_t **at, const uint8_t *end, unsigned key, const char *name, const struct klieg__value *v, bool mask)
{
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

/* One record of attributes: straight into the ring, sized first. */
static void put_record(struct klieg__thread *me, uint8_t type, uint32_t site, uint32_t seq, uint64_t value, unsigned flags, const char *const *keys,
	const struct klieg__value *v, int n)
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
	uint32_t reveal = klieg__process.sites[site].reveal;
	int written = 0;
	for (int i = 0; i < n; i++) {
		bool mask = v[i].sensitive && !(i < 32 && reveal >> i & 1);
		if (put_value(&at, end, keys ? KW_ATTR_NAMED : (unsigned)i, keys ? keys[i] : NULL, &v[i], mask))
			written++;
		else
			flags |= KW_REC_TRUNCATED;
	}
	r->r = (struct kw_rec){ site, type, (uint8_t)(bytes / KW_UNIT), (uint16_t)(flags | (unsigned)written << KW_REC_NATTR_SHIFT) };
	r->tsc = type == KW_REC_EVENT ? klieg__ticks() : 0;
	r->seq = seq;
	r->pad = 0;
	r->value = value;
	commit(me, bytes);
}

KLIEG_PUBLIC void klieg__attributes(const struct klieg__slot *slot, klieg_span *s, const struct klieg__value *v, int n)
{
	struct klieg__thread *me = enter();
	if (!me)
		return;
	if (entry_of(me, s))
		put_record(me, KW_REC_ATTR, site_of(slot), s->seq, 0, 0, NULL, v, n);
	leave(me);
}

KLIEG_PUBLIC void klieg__set(klieg_span *s, const char *const *keys, const struct klieg__value *v, int n)
{
	struct klieg__thread *me = enter();
	if (!me)
		return;
	struct kw_open *o = entry_of(me, s);
	if (o && o->flags & OPEN_DETAIL)
		put_record(me, KW_REC_ATTR, o->site, o->seq, 0, 0, keys, v, n);
	leave(me);
}

KLIEG_PUBLIC void klieg__status(klieg_span *s, int error, const char *text)
{
	struct klieg__thread *me = enter();
	if (!me)
		return;
	struct kw_open *o = entry_of(me, s);
	if (o) {
		o->flags = (o->flags & ~(uint32_t)(KW_REC_ERROR | KW_REC_OK)) | (error ? KW_REC_ERROR : KW_REC_OK);
		s->flags = o->flags;
		if (text && *text && o->seq && !(o->flags & OPEN_UNSAMPLED)) {
			struct klieg__value v = klieg__str(text);
			const char *key = "status";
			put_record(me, KW_REC_STATUS, o->site, o->seq, 0, 0, &key, &v, 1);
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
	struct klieg__thread *me = site < KW_MAX_SITES ? enter() : NULL;
	if (!me)
		return;
	const struct kw_site_state *st = klieg__process.sites + site;
	unsigned level = level_of(me, st);
	if (level && !lease_over(klieg__ticks())) {
		if (level == KW_COUNT) {
			struct kw_cell *c = cell_of(me, site);
			if (c)
				klieg__store(&c->calls, c->calls + 1, RELEASE);
			else
				me->t->lost_cells++;
		} else if (me->seq || me->trace_hi | me->trace_lo) {
			if (me->ctx_flags & CTX_UNDECIDED)
				decide(me, st), me->ctx_dirty = true;
			if (me->ctx_flags & KW_CTX_SAMPLED)
				put_record(me, KW_REC_EVENT, site, me->seq, 0, 0, NULL, v, n);
		} else {
			start_trace(me, st, UINT32_MAX - 1); /* an event outside any span is a trace of its own */
			if (me->ctx_flags & KW_CTX_SAMPLED)
				put_record(me, KW_REC_EVENT, site, 0, 0, 0, NULL, v, n);
			me->trace_hi = me->trace_lo = 0;
			me->ctx_flags = me->root_depth = 0;
		}
	}
	leave(me);
}

KLIEG_PUBLIC void klieg__count(const struct klieg__slot *slot, int64_t n)
{
	uint32_t site = site_of(slot);
	struct klieg__thread *me = site < KW_MAX_SITES ? enter() : NULL;
	if (!me)
		return;
	if (level_of(me, klieg__process.sites + site) && !lease_over(klieg__ticks())) {
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
