/* Spans in, operations out. Each visited span becomes one fixed-size record with its few short attributes; at the end the records are sorted by
 * trace, linked to their parents, and added up per operation. Self time is a span's duration minus the union of its direct children,
 * clipped to the span, so concurrent children are not subtracted twice. Nothing here recurses: a trace may be hostile. */
#include "analyze/hot_internal.h"
#include "base/hash.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define MAX_ATTRS 8u              /* per span, for outliers */
#define MAX_VALUE 64u             /* bytes; longer texts are statements, not dimensions */
#define MAX_STR_BYTES (32u << 20)
#define MAX_OPS 20000u
#define MAX_SHIFT 20u

#define TRACE_BITS (1u << 22)

struct hot *hot_create(const struct hot_config *c)
{
	struct hot *h = base_calloc(1, sizeof *h);
	if (c)
		h->c = *c;
	h->c.limit = h->c.limit ? h->c.limit : 50;
	h->c.max_spans = h->c.max_spans ? h->c.max_spans : 500000;
	h->first_ns = INT64_MAX;
	h->last_ns = INT64_MIN;
	strtab_init(&h->strs);
	h->op_nslots = 256;
	h->op_slots = base_calloc(h->op_nslots, sizeof *h->op_slots);
	if (h->c.q)
		h->matcher = traceql_matcher_create(h->c.q);
	if (h->c.also)
		h->also = traceql_matcher_create(h->c.also);
	return h;
}

void hot_destroy(struct hot *h)
{
	if (!h)
		return;
	traceql_matcher_destroy(h->matcher);
	traceql_matcher_destroy(h->also);
	strtab_finish(&h->strs);
	for (uint32_t i = 0; i < h->ops_n; i++)
		free(h->ops[i].findings);
	free(h->trace_bits);
	free(h->op_slots);
	free(h->ops);
	free(h->attrs);
	free(h->spans);
	free(h);
}

/* ---- collecting -------------------------------------------------------------------------------------------------------- */

static uint64_t trace_hash(uint64_t hi, uint64_t lo)
{
	uint64_t k[2] = { hi, lo };
	return hash_bytes(k, sizeof k, 7);
}

static uint32_t op_slot(const struct hot *h, uint32_t service, uint32_t name)
{
	uint32_t key[2] = { service, name };
	uint32_t k = (uint32_t)hash_bytes(key, sizeof key, 0) & (h->op_nslots - 1);
	while (h->op_slots[k] && (h->ops[h->op_slots[k] - 1].service != service || h->ops[h->op_slots[k] - 1].name != name))
		k = (k + 1) & (h->op_nslots - 1);
	return k;
}

static uint32_t op_of(struct hot *h, struct str service, struct str name)
{
	uint32_t s = strtab_add(&h->strs, service), n = h->ops_n >= MAX_OPS ? strtab_find(&h->strs, name) : strtab_add(&h->strs, name);
	uint32_t k = n == UINT32_MAX ? 0 : op_slot(h, s, n);
	if (n != UINT32_MAX && h->op_slots[k])
		return h->op_slots[k] - 1;
	if (h->ops_n >= MAX_OPS) { /* names made of ids: one row for the rest */
		n = strtab_add(&h->strs, STR("(other names)"));
		s = 0;
		k = op_slot(h, s, n);
		if (h->op_slots[k])
			return h->op_slots[k] - 1;
	}
	if (h->ops_n == h->ops_cap) {
		h->ops_cap = h->ops_cap ? h->ops_cap * 2 : 64;
		h->ops = base_realloc(h->ops, h->ops_cap * sizeof *h->ops);
	}
	h->ops[h->ops_n] = (struct hot_op){ .service = s, .name = n };
	h->op_slots[k] = ++h->ops_n;
	uint32_t made = h->ops_n - 1;
	if (h->ops_n * 2 > h->op_nslots) {
		free(h->op_slots);
		h->op_nslots *= 2;
		h->op_slots = base_calloc(h->op_nslots, sizeof *h->op_slots);
		for (uint32_t i = 0; i < h->ops_n; i++)
			h->op_slots[op_slot(h, h->ops[i].service, h->ops[i].name)] = i + 1;
	}
	return made;
}

static bool contains(struct str s, const char *word) { return memmem(s.p ? s.p : "", s.n, word, strlen(word)) != NULL; }
static bool starts(struct str s, const char *prefix) { size_t n = strlen(prefix); return s.n >= n && !memcmp(s.p, prefix, n); }

/* What the detectors want to know of an attribute; the rest is kept as a possible dimension if it is short. */
static void add_attr(struct hot *h, struct hot_span *r, const struct batch *b, const struct attr *a)
{
	struct str key = batch_text(b, a->key);
	if (starts(key, "klieg.")) {
		if (a->type == ATTR_INT && a->i >= 0 && str_is(key, "klieg.cpu_nano"))
			r->cpu_ns = a->i;
		if (a->type == ATTR_INT && a->i >= 0 && str_is(key, "klieg.off_cpu_nano"))
			r->off_cpu_ns = a->i;
		if (a->type == ATTR_INT && a->i >= 0 && str_is(key, "klieg.queue_nano"))
			r->before_ns = a->i;
		return;
	}
	if (starts(key, "thread.lock") || str_is(key, "lock.name") || str_is(key, "lock"))
		r->lockish = 1;
	if (a->type == ATTR_INT && contains(key, "queue") && (contains(key, "depth") || contains(key, "size") || contains(key, "length"))) {
		r->queue_depth = (double)a->i;
		return;
	}
	if (starts(key, "thread.") || starts(key, "code.") || (a->flags & ATTR_MASKED) || r->attrs_n >= MAX_ATTRS || h->strs.bytes > MAX_STR_BYTES)
		return;
	char number[32];
	struct str value;
	if (a->type == ATTR_STR) {
		value = batch_text(b, a->s);
	} else if (a->type == ATTR_INT || a->type == ATTR_BOOL) {
		value = (struct str){ number, (size_t)snprintf(number, sizeof number, "%lld", (long long)a->i) };
		if (a->type == ATTR_BOOL)
			value = a->i ? STR("true") : STR("false");
	} else {
		return;
	}
	if (value.n > MAX_VALUE || key.n > MAX_VALUE)
		return;
	if (h->attrs_n == h->attrs_cap) {
		h->attrs_cap = h->attrs_cap ? h->attrs_cap * 2 : 1024;
		h->attrs = base_realloc(h->attrs, h->attrs_cap * sizeof *h->attrs);
	}
	h->attrs[h->attrs_n++] = (struct hot_attr){ strtab_add(&h->strs, key), strtab_add(&h->strs, value) };
	r->attrs_n++;
}

static bool kept(const struct hot *h, uint64_t hi, uint64_t lo) { return !(trace_hash(hi, lo) & ((1ull << h->shift) - 1)); }

/* The bound is reached: keep every other trace until there is room again. Records and their attributes are in the same order. */
static void halve(struct hot *h)
{
	while (h->n > h->c.max_spans / 4 * 3 && h->shift < MAX_SHIFT) {
		uint32_t n = 0, attrs_n = 0;
		h->shift++;
		for (uint32_t i = 0; i < h->n; i++)
			n += kept(h, h->spans[i].trace_hi, h->spans[i].trace_lo);
		if (!n) { /* one trace is larger than the bound: its beginning is better than nothing */
			h->shift--;
			break;
		}
		n = 0;
		for (uint32_t i = 0; i < h->n; i++) {
			struct hot_span r = h->spans[i];
			if (!kept(h, r.trace_hi, r.trace_lo))
				continue;
			if (r.attrs_n)
				memmove(h->attrs + attrs_n, h->attrs + r.attrs_off, r.attrs_n * sizeof *h->attrs);
			r.attrs_off = attrs_n;
			attrs_n += r.attrs_n;
			h->spans[n++] = r;
		}
		h->n = n;
		h->attrs_n = attrs_n;
	}
	h->full = h->n >= h->c.max_spans;
}

int hot_visit(void *arg, const struct batch *b, uint32_t i)
{
	struct hot *h = arg;
	const struct span *s = b->spans + i;
	bool fresh = b != h->b || i <= h->b_last;
	if (h->matcher && fresh)
		traceql_matcher_begin(h->matcher, b);
	if (h->also && fresh)
		traceql_matcher_begin(h->also, b);
	h->b = b;
	h->b_last = i;
	h->seen++;
	if (!h->trace_bits)
		h->trace_bits = base_calloc(TRACE_BITS / 64, sizeof *h->trace_bits);
	uint64_t hash = trace_hash(s->trace_hi, s->trace_lo) >> 40 & (TRACE_BITS - 1);
	h->trace_bits[hash / 64] |= 1ull << hash % 64;
	int64_t duration = s->duration_ns < 0 ? 0 : s->duration_ns, end;
	if (__builtin_add_overflow(s->start_ns, duration, &end)) {
		end = INT64_MAX;
		duration = end - s->start_ns;
	}
	h->first_ns = s->start_ns < h->first_ns ? s->start_ns : h->first_ns;
	h->last_ns = end > h->last_ns ? end : h->last_ns;
	if (!kept(h, s->trace_hi, s->trace_lo))
		return 0;
	if (h->n >= h->c.max_spans) {
		if (!h->full)
			halve(h);
		if (!kept(h, s->trace_hi, s->trace_lo))
			return 0;
		if (h->n >= h->c.max_spans) {
			h->skipped++;
			return 0;
		}
	}
	if (h->n == h->cap) {
		h->cap = h->cap ? h->cap * 2 : 1024;
		h->spans = base_realloc(h->spans, h->cap * sizeof *h->spans);
	}
	struct hot_span r = { .trace_hi = s->trace_hi, .trace_lo = s->trace_lo, .span_id = s->span_id, .parent_id = s->parent_id,
		.start_ns = s->start_ns, .duration_ns = duration, .cpu_ns = HOT_UNKNOWN, .off_cpu_ns = HOT_UNKNOWN, .before_ns = HOT_UNKNOWN, .weight = span_adjusted_count(s),
		.queue_depth = -1, .attrs_off = h->attrs_n, .kind = s->kind, .error = s->status == STATUS_ERROR, .selected = 1,
		.parent = HOT_NONE, .child = HOT_NONE, .sibling = HOT_NONE };
	r.weight = r.weight > 0 ? r.weight : 1;
	struct str service = s->resource < b->resources_n ? batch_text(b, b->resources[s->resource].service) : STR("");
	r.op = op_of(h, service, batch_text(b, s->name));
	for (uint32_t k = 0; k < s->attrs.n && !h->c.no_attrs; k++)
		add_attr(h, &r, b, b->attrs + s->attrs.off + k);
	if (h->matcher)
		r.selected = traceql_matcher_match(h->matcher, b, i);
	if (h->also && r.selected)
		r.selected = traceql_matcher_match(h->also, b, i);
	h->spans[h->n++] = r;
	return 0;
}

/* ---- adding up ----------------------------------------------------------------------------------------------------------- */

static int by_trace_and_start(const void *x, const void *y)
{
	const struct hot_span *a = x, *b = y;
	if (a->trace_hi != b->trace_hi)
		return a->trace_hi < b->trace_hi ? -1 : 1;
	if (a->trace_lo != b->trace_lo)
		return a->trace_lo < b->trace_lo ? -1 : 1;
	if (a->start_ns != b->start_ns)
		return a->start_ns < b->start_ns ? -1 : 1;
	return a->span_id < b->span_id ? -1 : a->span_id > b->span_id;
}

/* Parents by a hash of (trace, span id). From the last to the first, so that each list of children comes out by start. */
static void link_spans(struct hot *h)
{
	uint32_t mask = 15;
	while (mask < h->n * 2u)
		mask = mask * 2 + 1;
	uint32_t *slots = base_calloc(mask + 1u, sizeof *slots);
	for (uint32_t i = 0; i < h->n; i++) {
		const struct hot_span *s = h->spans + i;
		uint32_t k = (uint32_t)hash_bytes((uint64_t[]){ s->trace_hi, s->trace_lo, s->span_id }, 24, 0) & mask;
		while (slots[k])
			k = (k + 1) & mask;
		slots[k] = i + 1;
	}
	for (uint32_t i = h->n; i-- > 0;) {
		struct hot_span *s = h->spans + i, *p = NULL;
		if (!s->parent_id)
			continue;
		uint32_t k = (uint32_t)hash_bytes((uint64_t[]){ s->trace_hi, s->trace_lo, s->parent_id }, 24, 0) & mask;
		for (; slots[k]; k = (k + 1) & mask) {
			p = h->spans + slots[k] - 1;
			if (p->span_id == s->parent_id && p->trace_lo == s->trace_lo && p->trace_hi == s->trace_hi)
				break;
			p = NULL;
		}
		if (!p || p == s)
			continue;
		s->parent = (uint32_t)(p - h->spans);
		s->sibling = p->child;
		p->child = i;
	}
	free(slots);
}

static int64_t self_time(const struct hot_span *spans, const struct hot_span *s)
{
	int64_t end = s->start_ns + s->duration_ns, at = s->start_ns, covered = 0; /* no overflow: hot_visit clipped the duration */
	for (uint32_t k = s->child; k != HOT_NONE; k = spans[k].sibling) {
		int64_t from = spans[k].start_ns, to = from + spans[k].duration_ns;
		from = from < at ? at : from;
		to = to > end ? end : to;
		if (to > from) {
			covered += to - from;
			at = to;
		}
	}
	return s->duration_ns - covered;
}

static void group_by_op(struct hot *h, struct hot_view *v)
{
	for (uint32_t i = 0; i < h->n; i++)
		h->ops[h->spans[i].op].n++;
	for (uint32_t i = 0, at = 0; i < h->ops_n; i++) {
		h->ops[i].first = at;
		at += h->ops[i].n;
		h->ops[i].n = 0;
	}
	v->by_op = base_calloc(h->n, sizeof *v->by_op);
	for (uint32_t i = 0; i < h->n; i++) {
		struct hot_op *op = h->ops + h->spans[i].op;
		v->by_op[op->first + op->n++] = i;
	}
}

static int by_self(const void *x, const void *y)
{
	const struct hot_row *a = x, *b = y;
	return a->self_ns > b->self_ns ? -1 : a->self_ns < b->self_ns;
}

/* False if none of the operation's spans was asked for. */
static bool sum_op(const struct hot_view *v, struct hot_op *op, double scale, struct hot_row *row)
{
	double traces = 0, spans = 0, of_trace = 0; /* weighted; a trace weighs what its first span does */
	uint64_t hi = 0, lo = 0;
	int64_t max = -1;
	histogram_reset(v->a);
	for (uint32_t k = 0; k < op->n; k++) { /* in trace order: the records are */
		const struct hot_span *s = v->spans + v->by_op[op->first + k];
		if (!s->selected)
			continue;
		double w = s->weight * scale;
		row->calls += w;
		row->errors += s->error ? w : 0;
		row->total_ns += (double)s->duration_ns * w;
		row->self_ns += (double)s->self_ns * w;
		histogram_add(v->a, s->duration_ns, w);
		if (!spans || s->trace_hi != hi || s->trace_lo != lo) {
			of_trace = s->weight;
			traces += of_trace;
			hi = s->trace_hi;
			lo = s->trace_lo;
		}
		spans += of_trace;
		if (s->duration_ns > max) {
			max = s->duration_ns;
			row->trace_hi = s->trace_hi;
			row->trace_lo = s->trace_lo;
		}
	}
	if (!spans)
		return false;
	row->mean_ns = row->total_ns / row->calls;
	row->max_ns = (double)max;
	row->p50_ns = histogram_quantile(v->a, .5);
	row->p99_ns = histogram_quantile(v->a, .99);
	row->p50_ns = row->p50_ns > row->max_ns ? row->max_ns : row->p50_ns;
	row->p99_ns = row->p99_ns > row->max_ns ? row->max_ns : row->p99_ns;
	row->spans_per_trace = spans / traces;
	return true;
}

/* Linear counting: exact to about a percent below four million traces. Exact when all were kept, from the sorted records. */
uint64_t hot_count_traces(const struct hot *h)
{
	uint64_t n = 0, zero = 0;
	if (h->shift == 0 && !h->skipped) {
		for (uint32_t i = 0; i < h->n; i++)
			n += i == 0 || h->spans[i].trace_hi != h->spans[i - 1].trace_hi || h->spans[i].trace_lo != h->spans[i - 1].trace_lo;
		return n;
	}
	for (uint32_t i = 0; i < TRACE_BITS / 64; i++)
		zero += 64u - (unsigned)__builtin_popcountll(h->trace_bits[i]);
	return (uint64_t)(-log((double)(zero ? zero : 1) / TRACE_BITS) * TRACE_BITS + .5);
}

void hot_link(struct hot *h)
{
	if (h->n)
		qsort(h->spans, h->n, sizeof *h->spans, by_trace_and_start);
	link_spans(h);
	for (uint32_t i = 0; i < h->n; i++)
		h->spans[i].self_ns = self_time(h->spans, h->spans + i);
}

int64_t hot_window(const struct hot *h)
{
	int64_t window = h->c.window_ns;
	if (!window && h->seen && __builtin_sub_overflow(h->last_ns, h->first_ns, &window))
		window = INT64_MAX;
	return window;
}

struct hot_result *hot_finish(struct hot *h)
{
	struct hot_result *r = base_calloc(1, sizeof *r);
	double scale = (double)(1ull << h->shift), all = 0;
	hot_link(h);
	struct hot_view v = { .spans = h->spans, .n = h->n, .attrs = h->attrs, .ops = h->ops, .ops_n = h->ops_n, .strs = &h->strs,
		.a = base_calloc(1, sizeof *v.a), .b = base_calloc(1, sizeof *v.b) };
	for (uint32_t i = 0; i < h->n; i++) {
		struct hot_span *s = h->spans + i;
		h->ops[s->op].self += (double)s->self_ns * s->weight;
		h->ops[s->op].total += (double)s->duration_ns * s->weight;
		v.self += (double)s->self_ns * s->weight;
	}
	group_by_op(h, &v);
	hot_find(&v);
	r->rows = base_calloc(h->ops_n, sizeof *r->rows);
	strtab_init(&r->strs);
	for (uint32_t i = 0; i < h->ops_n; i++) {
		struct hot_op *op = h->ops + i;
		struct hot_row row = { 0 };
		if (!sum_op(&v, op, scale, &row))
			continue;
		row.service = strtab_get(&r->strs, strtab_add(&r->strs, strtab_get(&h->strs, op->service)));
		row.name = strtab_get(&r->strs, strtab_add(&r->strs, strtab_get(&h->strs, op->name)));
		row.findings = op->findings;
		row.findings_n = op->findings_n;
		op->findings = NULL;
		all += row.self_ns;
		r->rows[r->operations++] = row;
	}
	if (r->operations)
		qsort(r->rows, r->operations, sizeof *r->rows, by_self);
	r->rows_n = r->operations < h->c.limit ? r->operations : h->c.limit;
	for (uint32_t i = 0; i < r->operations; i++)
		r->rows[i].self_share = all > 0 ? r->rows[i].self_ns / all : 0;
	r->traces = hot_count_traces(h);
	r->spans = h->seen;
	r->skipped = h->skipped;
	r->kept = 1 / scale;
	r->window_ns = hot_window(h);
	free(v.by_op);
	free(v.a);
	free(v.b);
	hot_destroy(h);
	return r;
}

void hot_result_destroy(struct hot_result *r)
{
	if (!r)
		return;
	for (uint32_t i = 0; i < r->operations; i++)
		free(r->rows[i].findings);
	free(r->rows);
	strtab_finish(&r->strs);
	free(r);
}
