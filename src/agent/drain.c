/* Rings -> batch -> sink. Works in slices, so that requests are answered between them; each slice gives its space back to the producer at
 * once. What belongs to a span that is still open (attributes, events, links) waits in a bounded table by span id. Agent thread. */
#include "agent/state.h"
#include <stdlib.h>

#define BATCH_SPANS 8192
#define SLICE 2048

static void batch_begin(struct agent *a)
{
	a->batch = batch_create();
	a->batch_gen++;
	a->batch_since = clock_mono();
	a->key_thread = batch_str(a->batch, STR("thread.id"));
	a->key_cpu = batch_str(a->batch, STR("klieg.cpu_nano"));
	a->key_off = batch_str(a->batch, STR("klieg.off_cpu_nano"));
	a->key_queue = batch_str(a->batch, STR("klieg.queue_nano"));
}

static bool send(struct agent *a, struct batch *b)
{
	uint64_t n = b->n;
	if (a->cfg.sink(a->cfg.sink_arg, b) < 0)
		return false;
	a->drained += n;
	return true;
}

/* Which process a span of a batch came from, for the account of a batch that had to be dropped: by its resource. */
static void account_lost(struct agent *a, const struct batch *b)
{
	for (uint32_t i = 0; i < b->n; i++) {
		const struct span *s = &b->spans[i];
		const struct attr *pid = batch_attr(b, b->resources[s->resource].attrs, STR("process.pid"));
		struct counters *c = &a->gone;
		for (uint32_t k = 0; pid && k < a->nprocs; k++)
			if (a->procs[k]->pid == pid->i)
				c = &a->procs[k]->c;
		c->spool_full++;
		c->passed--;
	}
}

int drain_flush(struct agent *a)
{
	while (a->spool) { /* oldest first */
		struct spool *s = a->spool;
		if (!send(a, s->b))
			break;
		if (!(a->spool = s->next))
			a->spool_end = &a->spool;
		a->spool_n--;
		free(s);
	}
	struct batch *b = a->batch;
	if (!b || !b->n)
		return 0;
	if (a->spool && b->n < BATCH_SPANS)
		return KLIEG_E_BUSY; /* the sink is away: fill batches, so that the spool holds as much as it can */
	a->batch = NULL;
	if (!a->spool && send(a, b))
		return 0;
	if (a->spool_n < SPOOL_MAX) {
		struct spool *s = base_alloc(sizeof *s);
		*s = (struct spool){ NULL, b };
		*a->spool_end = s;
		a->spool_end = &s->next;
		a->spool_n++;
		return KLIEG_E_BUSY;
	}
	account_lost(a, b);
	batch_destroy(b);
	return KLIEG_E_LIMIT;
}

/* ---- what waits for its span ------------------------------------------------------------------------------------- */

static void pending_drop(struct process *p, int32_t slot)
{
	struct pending *x = p->pending[slot];
	int32_t *at = &p->pending_head[x->span_id % PENDING_HEADS];
	while (*at >= 0 && *at != slot)
		at = &p->pending[*at]->next;
	if (*at == slot)
		*at = x->next;
	free(x);
	p->pending[slot] = NULL;
	p->pending_n--;
}

static void pending_add(struct process *p, uint64_t span_id, const struct ring_rec *rec)
{
	uint32_t bytes = rec->r.units * KW_UNIT;
	struct pending *x = base_alloc(sizeof *x + bytes);
	*x = (struct pending){ .span_id = span_id, .bytes = bytes, .site = rec->r.site, .type = rec->r.type, .next = -1 };
	memcpy(x->data, rec->bytes, bytes);
	int32_t slot = (int32_t)(p->pending_hand++ % PENDING_MAX);
	if (p->pending[slot]) { /* full circle: the oldest belongs to a span that never ended, or there are too many */
		p->c.pending++;
		pending_drop(p, slot);
	}
	p->pending[slot] = x;
	p->pending_n++;
	int32_t *at = &p->pending_head[span_id % PENDING_HEADS]; /* appended: order of time */
	while (*at >= 0)
		at = &p->pending[*at]->next;
	*at = slot;
}

void pending_clear(struct process *p)
{
	for (int32_t i = 0; i < PENDING_MAX; i++)
		if (p->pending[i])
			pending_drop(p, i);
}

/* ---- records into rows ------------------------------------------------------------------------------------------- */

static uint32_t resource_of(struct process *p, struct batch *b)
{
	if (p->batch_gen == p->agent->batch_gen)
		return p->batch_resource;
	uint32_t n = (uint32_t)json_object_size(p->resource), i = 0;
	struct attr *at = batch_add_attrs(b, n);
	uint32_t off = (uint32_t)(at - b->attrs);
	const char *k;
	json_t *v;
	json_object_foreach(p->resource, k, v) {
		struct attr x = { .key = batch_str(b, str_of(k)), .type = json_is_integer(v) ? ATTR_INT : ATTR_STR };
		if (json_is_integer(v))
			x.i = json_integer_value(v);
		else
			x.s = batch_str(b, (struct str){ json_string_value(v), json_string_length(v) });
		b->attrs[off + i++] = x;
	}
	struct resource r = { .service = batch_str(b, str_of(p->service)), .attrs = { off, n } };
	p->batch_resource = batch_add_resource(b, &r);
	p->batch_gen = p->agent->batch_gen;
	return p->batch_resource;
}

/* How many spans one of this trace stands for (OTEP 235). */
static double weight_of(uint32_t th24) { return th24 < 1u << 24 ? 16777216. / (double)((1u << 24) - th24) : 1; }

/* A record came through: the governor counts by these what was begun. */
static void came(struct site *s, double weight, uint32_t units)
{
	struct load *l = load_of(s);
	l->recorded++;
	l->unsampled += weight - 1;
	l->units += units;
	l->kept++;
	l->estimated += weight;
}

static void site_ids(struct process *p, struct site *s, struct batch *b)
{
	if (s->batch_gen == p->agent->batch_gen)
		return;
	s->batch_name = batch_str(b, strtab_get(&p->strs, s->name));
	struct scope sc = { .name = batch_str(b, strtab_get(&p->strs, s->component)) };
	s->batch_scope = UINT32_MAX;
	for (uint32_t i = 0; i < b->scopes_n; i++)
		if (b->scopes[i].name == sc.name)
			s->batch_scope = i;
	if (s->batch_scope == UINT32_MAX)
		s->batch_scope = batch_add_scope(b, &sc);
	s->batch_gen = p->agent->batch_gen;
}

/* Decodes the attributes of a record to the end of batch->attrs; returns how many. Consecutive calls make one range. */
static uint32_t attrs_of(struct process *p, struct batch *b, const struct ring_rec *rec, uint16_t *dropped)
{
	struct site *s = &p->sites[rec->r.site];
	uint32_t off = 0, n = 0, max = rec->r.flags >> KW_REC_NATTR_SHIFT;
	struct ring_attr a;
	bool bad;
	if (rec->r.flags & KW_REC_TRUNCATED && dropped)
		(*dropped)++;
	while (n < max && ring_attr(rec, &off, &a, &bad)) {
		struct attr x = { 0 };
		if (a.name)
			x.key = str_utf8_valid((struct str){ a.name, a.name_len }) ? batch_str(b, (struct str){ a.name, a.name_len }) : 0;
		else if (a.a.key < s->nkeys)
			x.key = batch_str(b, strtab_get(&p->strs, s->keys[a.a.key].name));
		if (!x.key) {
			p->c.corrupt++;
			continue;
		}
		int64_t i = 0;
		struct buf masked = { 0 };
		struct str text = { (const char *)a.value, a.len };
		if (a.len == 8)
			memcpy(&i, a.value, 8);
		if (a.a.flags & KW_ATTR_MASKED || (s->redacts && site_redacts(p, rec->r.site, batch_text(b, x.key))))
			x.type = ATTR_STR, x.flags = ATTR_MASKED;
		else if (a.a.type == KW_INT || a.a.type == KW_BOOL)
			x.type = a.a.type == KW_INT ? ATTR_INT : ATTR_BOOL, x.i = a.a.type == KW_INT ? i : !!i;
		else if (a.a.type == KW_DOUBLE)
			x.type = ATTR_DOUBLE, memcpy(&x.d, &i, 8);
		else {
			if (a.a.flags & KW_ATTR_CUT && a.a.type == KW_STR) /* not in the middle of a character */
				for (int k = 0; k < 4 && text.n && !str_utf8_valid(text); k++)
					text.n--;
			x.type = a.a.type == KW_STR && str_utf8_valid(text) ? ATTR_STR : ATTR_BYTES;
			if (x.type == ATTR_STR && mask_text(text, &masked))
				text = buf_str(&masked);
			x.s = batch_str(b, text);
		}
		*batch_add_attrs(b, 1) = x;
		buf_finish(&masked);
		n++;
	}
	if (n < max && dropped)
		(*dropped)++;
	return n;
}

struct row { uint64_t trace_hi, trace_lo, span_id, parent_id, start_tsc, ticks; uint32_t th24, tid; };

static void events_and_links(struct process *p, struct batch *b, uint32_t row, uint64_t span_id)
{
	if (p->pending_head[span_id % PENDING_HEADS] < 0)
		return;
	struct ring_rec rec;
	b->spans[row].events_off = b->events_n;
	b->spans[row].links_off = b->links_n;
	for (int32_t i = p->pending_head[span_id % PENDING_HEADS], next; i >= 0; i = next) {
		struct pending *x = p->pending[i];
		next = x->next;
		if (x->span_id != span_id)
			continue;
		memcpy(rec.bytes, x->data, x->bytes);
		struct site *s = &p->sites[rec.r.site];
		if (x->type == KW_REC_EVENT) {
			site_ids(p, s, b);
			uint32_t off = b->attrs_n, n;
			struct span_event ev = { .time_ns = clock_map_ns(&p->agent->clock, rec.event.tsc), .name = s->batch_name };
			n = attrs_of(p, b, &rec, NULL);
			ev.attrs = (struct attr_range){ off, n };
			*batch_add_event(b) = ev;
			b->spans[row].events_n++;
			p->c.events_passed++;
		} else if (x->type == KW_REC_LINK) {
			*batch_add_link(b) = (struct span_link){ .trace_hi = rec.link.trace_hi, .trace_lo = rec.link.trace_lo, .span_id = rec.link.span_id };
			b->spans[row].links_n++;
		} else if (x->type == KW_REC_STATUS) {
			uint32_t off = 0;
			struct ring_attr a;
			bool bad;
			if (ring_attr(&rec, &off, &a, &bad) && a.a.type == KW_STR && str_utf8_valid((struct str){ (const char *)a.value, a.len }))
				b->spans[row].status_message = batch_str(b, (struct str){ (const char *)a.value, a.len });
		}
		if (x->type != KW_REC_ATTR)
			pending_drop(p, i);
	}
}

/* What its attributes (the last n of the batch) say of how long it waited, for the triggers; also of a span that is not wanted otherwise. */
static void feed_wait(struct agent *a, struct site *s, const struct ring_rec *rec, const struct row *r, uint32_t n)
{
	const struct attr *said = NULL;
	for (const struct attr *x = a->batch->attrs + a->batch->attrs_n - n; x < a->batch->attrs + a->batch->attrs_n && !said; x++)
		if (x->key == a->key_queue && x->type == ATTR_INT && x->i >= 0)
			said = x;
	triggers_wait(s, r->ticks, weight_of(r->th24), rec->r.flags & KW_REC_ERROR, said, said ? (uint64_t)said->i : 0);
}

static void add_row(struct process *p, struct thread *th, struct kw_thread *slot, const struct ring_rec *rec, const struct row *r)
{
	struct agent *a = p->agent;
	struct site *s = &p->sites[rec->r.site];
	if (!a->batch)
		batch_begin(a);
	struct batch *b = a->batch;
	struct { uint32_t n, attrs, events, links; } before = { b->n, b->attrs_n, b->events_n, b->links_n };
	site_ids(p, s, b);
	uint32_t resource = resource_of(p, b), kind = (s->flags & KW_SITE_KIND_MASK) >> 1, off = b->attrs_n, n = 0;
	uint16_t dropped = 0;
	if (p->pending_n)
		for (int32_t i = p->pending_head[r->span_id % PENDING_HEADS], next; i >= 0; i = next) {
			struct pending *x = p->pending[i];
			next = x->next;
			if (x->span_id != r->span_id || x->type != KW_REC_ATTR)
				continue;
			struct ring_rec copy;
			memcpy(copy.bytes, x->data, x->bytes);
			n += attrs_of(p, b, &copy, &dropped);
			pending_drop(p, i);
		}
	n += attrs_of(p, b, rec, &dropped);
	if (s->nfeeds && rec->r.type != KW_REC_EVENT && (n || s->always >= KW_DETAIL)) /* at span there are no attributes: silence means nothing */
		feed_wait(a, s, rec, r, n);
	*batch_add_attrs(b, 1) = (struct attr){ .key = a->key_thread, .type = ATTR_INT, .i = r->tid };
	n++;
	uint64_t off_ticks;
	if (s->level >= KW_DETAIL && rec->r.type == KW_REC_SPAN && switches_off(th, r->start_tsc, r->ticks, &off_ticks)) {
		*batch_add_attrs(b, 1) = (struct attr){ .key = a->key_cpu, .type = ATTR_INT, .i = (int64_t)((double)(r->ticks - off_ticks) * a->clock.ns_per_tick) };
		stat_cpu(p, s, clock_mono() / SECOND, r->ticks - off_ticks, weight_of(r->th24));
		*batch_add_attrs(b, 1) = (struct attr){ .key = a->key_off, .type = ATTR_INT, .i = (int64_t)((double)off_ticks * a->clock.ns_per_tick) };
		n += 2;
	}
	struct span *x = batch_add_span(b);
	*x = (struct span){ .trace_hi = r->trace_hi, .trace_lo = r->trace_lo, .span_id = r->span_id, .parent_id = r->parent_id,
		.start_ns = clock_map_ns(&a->clock, r->start_tsc), .duration_ns = (int64_t)((double)r->ticks * a->clock.ns_per_tick),
		.threshold = (uint64_t)r->th24 << 32, .name = s->batch_name, .resource = resource, .scope = s->batch_scope, .attrs = { off, n },
		.dropped_attrs = dropped, .kind = (uint8_t)(KIND_INTERNAL + (kind <= 4 ? kind : 0)), .flags = 1,
		.status = rec->r.flags & KW_REC_ERROR ? STATUS_ERROR : rec->r.flags & KW_REC_OK ? STATUS_OK : STATUS_UNSET };
	if (p->pending_n)
		events_and_links(p, b, before.n, r->span_id);
	if (s->where && !rules_where(a, p, rec->r.site, b, before.n)) {
		b->n = before.n;
		b->attrs_n = before.attrs > off ? before.attrs : off; /* a new resource's attributes stay */
		b->events_n = before.events;
		b->links_n = before.links;
		p->c.where++;
		if (rec->r.type != KW_REC_EVENT)
			slot->agent_where++;
		else
			p->c.made++;
	} else if (rec->r.type != KW_REC_EVENT) {
		p->c.passed++;
		slot->agent_passed++; /* the consumer's line outlives us: the next agent's account goes on from here */
	} else { /* the thread's sequence does not number them: they are made here */
		p->c.made++;
		p->c.passed++;
	}
	if (b->n >= BATCH_SPANS)
		drain_flush(a);
}

static void span_record(struct process *p, struct thread *th, struct kw_thread *slot, const struct ring_rec *rec, uint64_t seed)
{
	struct site *s = &p->sites[rec->r.site];
	struct row r;
	uint64_t self = 0;
	if (rec->r.type == KW_REC_SPAN) {
		uint32_t seq = rec->span.seq, parent = rec->span.parent_seq;
		r = (struct row){ th->ctx.trace_hi, th->ctx.trace_lo, kw_span_id(seed, seq), parent ? kw_span_id(seed, parent) : th->ctx.parent_id,
			rec->span.start_tsc, rec->span.ticks, rec->r.flags & KW_REC_ALONE ? 0 : th->ctx.th24, slot->tid };
		uint64_t kids = th->child[seq % 128].seq == seq ? th->child[seq % 128].ticks : 0;
		self = r.ticks > kids ? r.ticks - kids : 0;
		if (parent) {
			if (th->child[parent % 128].seq != parent)
				th->child[parent % 128].seq = parent, th->child[parent % 128].ticks = 0;
			th->child[parent % 128].ticks += r.ticks;
		}
	} else {
		r = (struct row){ rec->spanx.trace_hi, rec->spanx.trace_lo, rec->spanx.span_id, rec->spanx.parent_id, rec->spanx.start_tsc, rec->spanx.ticks,
			rec->r.flags & KW_REC_ALONE ? 0 : rec->spanx.th24 & 0xffffff, rec->spanx.tid };
		self = r.ticks;
	}
	if (!s->id || r.ticks > UINT64_MAX / 4 || !(r.trace_hi | r.trace_lo)) { /* no such site, ended before it began, or its context was lost */
		p->c.corrupt++;
		return;
	}
	came(s, weight_of(r.th24), rec->r.units);
	stat_span(p, s, clock_mono() / SECOND, r.ticks, rec->r.flags & KW_REC_ERROR, self, true, weight_of(r.th24));
	add_row(p, th, slot, rec, &r);
}

static uint32_t drain_slot(struct process *p, uint32_t i, uint32_t budget)
{
	struct kw_thread *slot = process_slot(p, i);
	uint32_t state = __atomic_load_n(&slot->state, __ATOMIC_ACQUIRE), n = 0;
	if (state == KW_THREAD_FREE)
		return 0;
	struct thread *th = p->threads[i];
	uint64_t epoch = __atomic_load_n(&slot->epoch, __ATOMIC_ACQUIRE), seed = slot->seed;
	if (!th)
		th = p->threads[i] = base_calloc(1, sizeof *th);
	if (th->epoch != epoch || !th->live) { /* a former agent left its place in the consumer's line */
		bool first = !th->live;
		th->epoch = epoch;
		th->live = true;
		if (first)
			th->ctx = (struct ring_ctx){ slot->agent_trace_hi, slot->agent_trace_lo, slot->agent_parent_id, (uint32_t)slot->agent_th24, 0 };
	}
	slot->agent_made += (uint32_t)(slot->seq - (uint32_t)slot->agent_made); /* spans ever begun, in 64 bits */
	struct ring_reader r = { .data = (uint8_t *)slot + p->reg.ring_off, .bytes = p->reg.ring_bytes, .nsites = p->nsites,
		.head = __atomic_load_n(&slot->head, __ATOMIC_ACQUIRE), /* pairs with the producer's release: records before it are whole */
		.tail = slot->tail };
	switches_follow(p, th, slot->tid); /* after the head: of a span that is there, every switch is noted by then */
	if (r.head == r.tail) {
		if (state == KW_THREAD_DEAD && __atomic_load_n(&slot->head, __ATOMIC_ACQUIRE) == r.tail) {
			cells_read(p);
			memset(th->child, 0, sizeof th->child);
			switches_close(p->agent, th);
			__atomic_store_n(&slot->state, KW_THREAD_FREE, __ATOMIC_RELEASE); /* pairs with the claim's acquire: our last read is done */
		}
		return 0;
	}
	struct ring_rec rec;
	int rc = 0;
	while (n < budget && (rc = ring_next(&r, &rec)) > 0) {
		n++;
		switch (rec.r.type) {
		case KW_REC_CTX:
			th->ctx = (struct ring_ctx){ rec.ctx.trace_hi, rec.ctx.trace_lo, rec.ctx.parent_id, rec.r.site >> 8, rec.r.flags };
			break;
		case KW_REC_SPAN: case KW_REC_SPANX:
			span_record(p, th, slot, &rec, seed);
			break;
		case KW_REC_LINK:
			pending_add(p, kw_span_id(seed, rec.link.seq), &rec);
			break;
		case KW_REC_EVENT: {
			struct site *s = &p->sites[rec.r.site];
			if (s->id) {
				load_of(s)->calls++; /* not numbered as spans are */
				stat_span(p, s, clock_mono() / SECOND, 0, false, 0, false, weight_of(th->ctx.th24));
			}
			if (!s->id) {
				p->c.corrupt++;
			} else if (rec.event.seq) {
				pending_add(p, kw_span_id(seed, rec.event.seq), &rec);
			} else { /* outside any span of ours: a span without length */
				struct row row = { th->ctx.trace_hi, th->ctx.trace_lo, kw_mix(seed ^ r.tail ^ rec.event.tsc) | 1, th->ctx.parent_id, rec.event.tsc, 0,
					th->ctx.th24, slot->tid };
				add_row(p, th, slot, &rec, &row);
			}
			break;
		}
		default:
			pending_add(p, kw_span_id(seed, rec.event.seq), &rec);
		}
	}
	if (rc < 0) { /* what was skipped cannot be counted in spans: at least one, at most one per unit */
		p->c.corrupt += (r.skipped + KW_UNIT - 1) / KW_UNIT;
		log_warn("agent", "process %d, thread %u: a corrupt record; %lu bytes of its ring skipped", p->pid, slot->tid, (unsigned long)r.skipped);
	}
	slot->agent_trace_hi = th->ctx.trace_hi;
	slot->agent_trace_lo = th->ctx.trace_lo;
	slot->agent_parent_id = th->ctx.parent_id;
	slot->agent_th24 = th->ctx.th24;
	__atomic_store_n(&slot->tail, r.tail, __ATOMIC_RELEASE); /* pairs with the producer's acquire: we have read what it may overwrite */
	return n;
}

uint32_t drain_process(struct process *p, uint32_t budget)
{
	uint32_t slots = p->map ? process_slots(p) : 0, n = 0;
	for (uint32_t k = 0; k < slots && n < budget; k++) {
		uint32_t i = p->next_slot++ % slots, left = budget - n;
		n += drain_slot(p, i, left < SLICE ? left : SLICE);
	}
	return n;
}

/* Everything that is there now; bounded even if the producer goes on. */
void drain_all(struct process *p)
{
	uint32_t slots = p->map ? process_slots(p) : 0;
	for (uint32_t i = 0; i < slots; i++)
		drain_slot(p, i, p->reg.ring_bytes / KW_UNIT);
}
