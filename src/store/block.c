/* Spans to columns and back. Rows are grouped by trace, times are differences, everything else is a small number: an id in one of the block's
 * dictionaries (strings, shapes, resources, scopes, nested values). A number column is a frame of reference and byte planes under zstd-1: the planes
 * of high bytes are nearly constant and cost nothing. The attributes of a span are a shape (its keys and types) and one value in the
 * column of each (key, type). Decoding checks every count and index, since disk bytes are not trusted. */
#include "store/block.h"
#include "base/err.h"
#include "base/hash.h"
#include <stdlib.h>
#include <pthread.h>
#include <zstd.h>

enum { HEAD_MAGIC = 0x31484c4b, BODY_MAGIC = 0x31424c4b, RAW_MAX = 256 << 20, DEPTH_MAX = 64, LIST_MAX = 16384 };

static uint64_t trace_hash(uint64_t hi, uint64_t lo)
{
	uint64_t k[2] = { hi, lo };
	return hash_bytes(k, sizeof k, 7);
}

/* ---- number vectors ------------------------------------------------------------------------------------------------- */

struct vec { int64_t *v; uint32_t n, cap; };

static inline void vec_add(struct vec *v, int64_t x)
{
	if (v->n == v->cap) {
		v->cap = v->cap ? v->cap * 2 : 1024;
		v->v = base_realloc(v->v, v->cap * sizeof *v->v);
	}
	v->v[v->n++] = x;
}

static void vec_finish(struct vec *v)
{
	free(v->v);
	*v = (struct vec){ 0 };
}

/* ---- encoder -------------------------------------------------------------------------------------------------------- */

struct shape { uint32_t n, cols_off; };
enum { V_START, V_DURATION, V_KIND, V_NAME, V_RESOURCE, V_COUNTS,
	V_PARENT, V_PARENT_ID, V_SCOPE, V_SHAPE, V_THRESHOLD, V_STATE, V_MESSAGE, V_DROP_A, V_DROP_E, V_DROP_L, V_FLAGS, V_EVENTS, V_LINKS,
	V_EV_TIME, V_EV_NAME, V_EV_DROP, V_EV_SHAPE, V_LK_HI, V_LK_LO, V_LK_ID, V_LK_STATE, V_LK_FLAGS, V_LK_SHAPE, V_N, V_BODY = V_PARENT };

struct maps { uint32_t *str, *name, *res, *scope; };  /* batch's id -> block's id, filled as met; 0 = not met yet (resource, scope: id + 1) */
struct block_enc {
	ZSTD_CCtx *z;
	struct buf raw, tmp;
	struct vec v[V_N];
	struct vec *values; uint32_t nvalues, values_cap;
	struct strtab strs, names, shapes, nested, resources, scopes, cols;
	struct shape *shape; uint32_t shape_cap;
	struct vec shape_cols;
	struct vec res_service;                     /* names id per resource */
	uint64_t *key, *key2;
	struct block_row *rows;
};

struct block_enc *block_enc_create(void)
{
	struct block_enc *e = base_calloc(1, sizeof *e);
	e->z = ZSTD_createCCtx();
	if (!e->z)
		abort();
	ZSTD_CCtx_setParameter(e->z, ZSTD_c_compressionLevel, 1);
	e->key = base_alloc(BLOCK_SPANS * sizeof *e->key);
	e->key2 = base_alloc(BLOCK_SPANS * sizeof *e->key2);
	e->rows = base_alloc(BLOCK_SPANS * sizeof *e->rows);
	return e;
}

void block_enc_destroy(struct block_enc *e)
{
	if (!e)
		return;
	ZSTD_freeCCtx(e->z);
	buf_finish(&e->raw);
	buf_finish(&e->tmp);
	for (int i = 0; i < V_N; i++)
		vec_finish(&e->v[i]);
	for (uint32_t i = 0; i < e->values_cap; i++)
		vec_finish(&e->values[i]);
	free(e->values);
	free(e->shape);
	vec_finish(&e->shape_cols);
	vec_finish(&e->res_service);
	free(e->key);
	free(e->key2);
	free(e->rows);
	free(e);
}

void block_finish(struct block *b)
{
	buf_finish(&b->services);
	buf_finish(&b->names);
	buf_finish(&b->bloom);
	buf_finish(&b->head);
	buf_finish(&b->body);
}

uint32_t block_fit(const struct batch *const *batches, const struct block_row *rows, uint32_t n)
{
	uint64_t weight = 0;
	uint32_t i = 0;
	for (; i < n && i < BLOCK_SPANS; i++) {
		const struct batch *b = batches[rows[i].batch];
		const struct span *s = b->spans + rows[i].i;
		weight += s->attrs.n + s->events_n + s->links_n;
		for (uint32_t k = 0; k < s->events_n; k++)
			weight += b->events[s->events_off + k].attrs.n;
		for (uint32_t k = 0; k < s->links_n; k++)
			weight += b->links[s->links_off + k].attrs.n;
		if (i && weight > BLOCK_WEIGHT)
			break;
	}
	return i;
}

static void put_raw(struct block_enc *e, struct buf *out, const void *p, size_t n)
{
	size_t room = ZSTD_compressBound(n);
	buf_reserve(out, 8 + room);
	size_t k = ZSTD_compress2(e->z, out->p + out->n + 8, room, p, n);
	if (ZSTD_isError(k))
		abort(); /* the bound was given: only a bug gets here */
	uint32_t h[2] = { (uint32_t)k, (uint32_t)n };
	memcpy(out->p + out->n, h, 8);
	out->n += 8 + k;
}

static void put_vec(struct block_enc *e, struct buf *out, const struct vec *v)
{
	int64_t min = INT64_MAX, max = INT64_MIN;
	for (uint32_t i = 0; i < v->n; i++) {
		min = v->v[i] < min ? v->v[i] : min;
		max = v->v[i] > max ? v->v[i] : max;
	}
	uint64_t range = v->n ? (uint64_t)max - (uint64_t)min : 0;
	uint8_t w = 0;
	while (w < 8 && range >> (8 * w))
		w++;
	buf_clear(&e->raw);
	buf_reserve(&e->raw, 16 + (size_t)v->n * 8);
	uint8_t *o = e->raw.p;
	memcpy(o, &min, 8);
	memcpy(o + 8, &v->n, 4);
	o[12] = w;
	o += 13;
	for (unsigned p = 0; p < w; p++)
		for (uint32_t i = 0; i < v->n; i++)
			*o++ = (uint8_t)(((uint64_t)v->v[i] - (uint64_t)min) >> (8 * p));
	put_raw(e, out, e->raw.p, (size_t)(o - e->raw.p));
}

/* A dictionary: count, lengths, texts. Id 0, the empty string, is implied. */
static void put_strs(struct block_enc *e, struct buf *out, const struct strtab *t)
{
	buf_clear(&e->raw);
	buf_add(&e->raw, &t->n, 4);
	for (uint32_t i = 1; i < t->n; i++) {
		uint32_t n = (uint32_t)t->items[i].n;
		buf_add(&e->raw, &n, 4);
	}
	for (uint32_t i = 1; i < t->n; i++)
		buf_add(&e->raw, t->items[i].p, t->items[i].n);
	put_raw(e, out, e->raw.p, e->raw.n);
}

static uint32_t map_in(uint32_t *map, struct strtab *t, const struct batch *b, uint32_t id)
{
	if (!id || id >= b->strs.n)
		return 0;
	if (!map[id])
		map[id] = strtab_add(t, b->strs.items[id]);
	return map[id];
}
#define LOCAL(id) map_in(m->str, &e->strs, b, id)

/* Nested and shared values as bytes over the block's string ids: equal content, equal bytes. */
static void flatten(struct block_enc *e, const struct maps *m, const struct batch *b, struct attr_range r, struct buf *out, int depth)
{
	if (depth > DEPTH_MAX || (uint64_t)r.off + r.n > b->attrs_n)
		r.n = 0;
	buf_add(out, &r.n, 4);
	for (uint32_t i = 0; i < r.n; i++) {
		const struct attr *a = b->attrs + r.off + i;
		uint32_t key = LOCAL(a->key);
		uint8_t t[2] = { a->type, a->flags };
		buf_add(out, &key, 4);
		buf_add(out, t, 2);
		uint32_t s;
		switch (a->type) {
		case ATTR_STR: case ATTR_BYTES:
			s = LOCAL(a->s);
			buf_add(out, &s, 4);
			break;
		case ATTR_INT: case ATTR_BOOL: case ATTR_DOUBLE:
			buf_add(out, &a->i, 8);
			break;
		case ATTR_ARRAY: case ATTR_KVLIST:
			flatten(e, m, b, (struct attr_range){ a->list.off, a->list.n }, out, depth + 1);
		}
	}
}

static uint32_t column(struct block_enc *e, uint32_t key, uint8_t type)
{
	uint32_t k[2] = { key, type };
	uint32_t id = strtab_add(&e->cols, (struct str){ (const char *)k, sizeof k }) - 1;
	if (id == e->nvalues) {
		if (e->nvalues == e->values_cap) {
			uint32_t cap = e->values_cap ? e->values_cap * 2 : 64;
			e->values = base_realloc(e->values, cap * sizeof *e->values);
			memset(e->values + e->values_cap, 0, (cap - e->values_cap) * sizeof *e->values);
			e->values_cap = cap;
		}
		e->values[e->nvalues++].n = 0;
	}
	return id;
}

/* The attributes' shape id; their values go to the columns. */
static uint32_t put_attrs(struct block_enc *e, const struct maps *m, const struct batch *b, struct attr_range r)
{
	if (!r.n || (uint64_t)r.off + r.n > b->attrs_n)
		return 0;
	const struct attr *a = b->attrs + r.off;
	buf_clear(&e->tmp);
	buf_reserve(&e->tmp, (size_t)r.n * 6);
	for (uint32_t i = 0; i < r.n; i++) {
		uint32_t key = LOCAL(a[i].key);
		uint8_t *o = e->tmp.p + (size_t)i * 6;
		memcpy(o, &key, 4);
		o[4] = a[i].type;
		o[5] = a[i].flags;
	}
	e->tmp.n = (size_t)r.n * 6;
	uint32_t known = e->shapes.n, id = strtab_add(&e->shapes, buf_str(&e->tmp));
	if (id == known) {
		if (id >= e->shape_cap) {
			e->shape_cap = e->shape_cap ? e->shape_cap * 2 : 64;
			while (e->shape_cap <= id)
				e->shape_cap *= 2;
			e->shape = base_realloc(e->shape, e->shape_cap * sizeof *e->shape);
		}
		e->shape[id] = (struct shape){ r.n, e->shape_cols.n };
		for (uint32_t i = 0; i < r.n; i++)
			vec_add(&e->shape_cols, column(e, LOCAL(a[i].key), a[i].type));
	}
	const int64_t *cols = e->shape_cols.v + e->shape[id].cols_off;
	for (uint32_t i = 0; i < r.n; i++) {
		int64_t x;
		switch (a[i].type) {
		case ATTR_STR: case ATTR_BYTES: x = LOCAL(a[i].s); break;
		case ATTR_INT: case ATTR_BOOL: case ATTR_DOUBLE: x = a[i].i; break;
		case ATTR_ARRAY: case ATTR_KVLIST:
			buf_clear(&e->tmp);
			flatten(e, m, b, (struct attr_range){ a[i].list.off, a[i].list.n }, &e->tmp, 0);
			x = strtab_add(&e->nested, buf_str(&e->tmp));
			break;
		default: continue;
		}
		vec_add(&e->values[cols[i]], x);
	}
	return id;
}

static uint32_t put_resource(struct block_enc *e, const struct maps *m, const struct batch *b, uint32_t i)
{
	static const struct resource none;
	bool has = i < b->resources_n;
	if (has && m->res[i])
		return m->res[i] - 1;
	const struct resource *r = has ? b->resources + i : &none;
	uint32_t service = LOCAL(r->service);
	buf_clear(&e->tmp);
	buf_add(&e->tmp, &service, 4);
	flatten(e, m, b, r->attrs, &e->tmp, 0);
	uint32_t known = e->resources.n, id = strtab_add(&e->resources, buf_str(&e->tmp));
	if (id == known)
		vec_add(&e->res_service, strtab_add(&e->names, strtab_get(&e->strs, service)));
	if (has)
		m->res[i] = id;
	return id - 1;
}

static uint32_t put_scope(struct block_enc *e, const struct maps *m, const struct batch *b, uint32_t i)
{
	static const struct scope none;
	bool has = i < b->scopes_n;
	if (has && m->scope[i])
		return m->scope[i] - 1;
	const struct scope *s = has ? b->scopes + i : &none;
	uint32_t id[2] = { LOCAL(s->name), LOCAL(s->version) };
	buf_clear(&e->tmp);
	buf_add(&e->tmp, id, 8);
	flatten(e, m, b, s->attrs, &e->tmp, 0);
	uint32_t k = strtab_add(&e->scopes, buf_str(&e->tmp));
	if (has)
		m->scope[i] = k;
	return k - 1;
}

static _Thread_local const struct batch *const *sort_in;

static int ties(const void *x, const void *y)
{
	const struct block_row *a = x, *b = y;
	const struct span *p = sort_in[a->batch]->spans + a->i, *q = sort_in[b->batch]->spans + b->i;
	if (p->trace_hi != q->trace_hi)
		return p->trace_hi < q->trace_hi ? -1 : 1;
	if (p->trace_lo != q->trace_lo)
		return p->trace_lo < q->trace_lo ? -1 : 1;
	if (p->start_ns != q->start_ns)
		return p->start_ns < q->start_ns ? -1 : 1;
	if (a->batch != b->batch)
		return a->batch < b->batch ? -1 : 1;
	return a->i < b->i ? -1 : a->i > b->i;
}

/* Groups by trace: radix by a hash of the id (ids need not be random: 64-bit ones have a zero half), then the few ties in order. */
static void sort_rows(struct block_enc *e, const struct batch *const *batches, struct block_row *rows, uint32_t n)
{
	uint64_t *a = e->key, *b = e->key2;
	for (uint32_t i = 0; i < n; i++) {
		const struct span *s = batches[rows[i].batch]->spans + rows[i].i;
		a[i] = (trace_hash(s->trace_hi, s->trace_lo) >> 32 << 32) | i;
	}
	for (unsigned shift = 32; shift < 64; shift += 11) {
		uint32_t count[2049] = { 0 };
		for (uint32_t i = 0; i < n; i++)
			count[(a[i] >> shift & 2047) + 1]++;
		for (int i = 0; i < 2048; i++)
			count[i + 1] += count[i];
		for (uint32_t i = 0; i < n; i++)
			b[count[a[i] >> shift & 2047]++] = a[i];
		uint64_t *swap = a;
		a = b;
		b = swap;
	}
	for (uint32_t i = 0; i < n; i++)
		e->rows[i] = rows[(uint32_t)a[i]];
	memcpy(rows, e->rows, n * sizeof *rows);
	sort_in = batches;
	for (uint32_t i = 0, j; i < n; i = j) {
		for (j = i + 1; j < n && a[j] >> 32 == a[i] >> 32; j++)
			;
		if (j - i > 1)
			qsort(rows + i, j - i, sizeof *rows, ties);
	}
}

static int64_t zigzag(int64_t v) { return (int64_t)((uint64_t)v << 1 ^ (uint64_t)(v >> 63)); }
static int64_t unzigzag(int64_t v) { return (int64_t)((uint64_t)v >> 1) ^ -(v & 1); }

/* Parents of the rows [from, to) of one trace: 0 none, 1 elsewhere (id kept apart), else 2 + zigzag of the distance to it. */
static void put_parents(struct block_enc *e, const struct batch *const *batches, const struct block_row *rows, uint32_t from, uint32_t to)
{
#define SPAN(at) (batches[rows[at].batch]->spans + rows[at].i)
	uint32_t n = to - from, slots = 0, *table = NULL;
	if (n > 32) {
		for (slots = 64; slots < n * 2; slots *= 2)
			;
		table = base_calloc(slots, sizeof *table);
		for (uint32_t i = from; i < to; i++) {
			uint32_t k = (uint32_t)trace_hash(SPAN(i)->span_id, 0) & (slots - 1);
			while (table[k] && SPAN(table[k] - 1)->span_id != SPAN(i)->span_id)
				k = (k + 1) & (slots - 1);
			table[k] = i + 1;
		}
	}
	for (uint32_t i = from; i < to; i++) {
		uint64_t parent = SPAN(i)->parent_id;
		uint32_t at = i;
		if (!parent) {
			vec_add(&e->v[V_PARENT], 0);
			continue;
		}
		if (table) {
			uint32_t k = (uint32_t)trace_hash(parent, 0) & (slots - 1);
			while (table[k] && SPAN(table[k] - 1)->span_id != parent)
				k = (k + 1) & (slots - 1);
			at = table[k] ? table[k] - 1 : i;
		} else {
			for (uint32_t j = i; j-- > from && at == i;)
				if (SPAN(j)->span_id == parent)
					at = j;
			for (uint32_t j = i + 1; j < to && at == i; j++)
				if (SPAN(j)->span_id == parent)
					at = j;
		}
		if (at == i) {
			vec_add(&e->v[V_PARENT], 1);
			vec_add(&e->v[V_PARENT_ID], (int64_t)parent);
		} else {
			vec_add(&e->v[V_PARENT], 2 + zigzag((int64_t)at - (int64_t)i));
		}
	}
	free(table);
}

static void bloom_add(struct buf *bloom, uint64_t h)
{
	uint64_t mask = bloom->n * 8 - 1, step = h >> 33 | 1;
	for (int k = 0; k < 6; k++, h += step)
		bloom->p[(h & mask) >> 3] |= (uint8_t)(1u << (h & 7));
}

bool block_bloom_has(const void *bloom, size_t n, uint64_t hi, uint64_t lo)
{
	if (!n || n & (n - 1))
		return true; /* not a filter: can't exclude */
	const uint8_t *p = bloom;
	uint64_t h = trace_hash(hi, lo), mask = n * 8 - 1, step = h >> 33 | 1;
	for (int k = 0; k < 6; k++, h += step)
		if (!(p[(h & mask) >> 3] >> (h & 7) & 1))
			return false;
	return true;
}

static void list_add(struct buf *list, struct str s)
{
	uint16_t n = (uint16_t)s.n;
	if (list->n > LIST_MAX)
		return;
	buf_add(list, &n, 2);
	buf_add(list, s.p, n);
}

bool block_listed(const void *list, size_t n, struct str s)
{
	const char *p = list, *end = p + n;
	if (!n)
		return true;
	while (end - p >= 2) {
		uint16_t k;
		memcpy(&k, p, 2);
		if (end - p - 2 < k || str_eq((struct str){ p + 2, k }, s))
			return true;
		p += 2 + k;
	}
	return false;
}

void block_encode(struct block_enc *e, const struct batch *const *batches, uint32_t nbatches, struct block_row *rows, uint32_t n, struct block *ret_b)
{
	struct block out = { .n = n, .t0 = INT64_MAX, .t1 = INT64_MIN };
	struct maps *maps = base_calloc(nbatches, sizeof *maps);
	struct strtab *tabs[] = { &e->strs, &e->names, &e->shapes, &e->nested, &e->resources, &e->scopes, &e->cols };
	for (size_t i = 0; i < sizeof tabs / sizeof *tabs; i++)
		strtab_init(tabs[i]);
	for (int i = 0; i < V_N; i++)
		e->v[i].n = 0;
	e->nvalues = e->shape_cols.n = e->res_service.n = 0;
	sort_rows(e, batches, rows, n);

	struct buf traces = { 0 }, ids = { 0 };
	buf_reserve(&ids, (size_t)n * 8);
	for (uint32_t i = 0, j; i < n; i = j) {
		const struct span *first = SPAN(i);
		for (j = i + 1; j < n && SPAN(j)->trace_hi == first->trace_hi && SPAN(j)->trace_lo == first->trace_lo; j++)
			;
		buf_add(&traces, &first->trace_hi, 8);
		buf_add(&traces, &first->trace_lo, 8);
		vec_add(&e->v[V_COUNTS], j - i);
		put_parents(e, batches, rows, i, j);
	}
	struct vec *v = e->v;
	uint64_t before = 0;
	for (uint32_t i = 0; i < n; i++) {
		const struct batch *b = batches[rows[i].batch];
		const struct span *s = SPAN(i);
		struct maps *m = &maps[rows[i].batch];
		if (!m->str) {
			m->str = base_calloc(b->strs.n + 1, sizeof *m->str);
			m->name = base_calloc(b->strs.n + 1, sizeof *m->name);
			m->res = base_calloc(b->resources_n + 1, sizeof *m->res);
			m->scope = base_calloc(b->scopes_n + 1, sizeof *m->scope);
		}
		out.t0 = s->start_ns < out.t0 ? s->start_ns : out.t0;
		out.t1 = s->start_ns > out.t1 ? s->start_ns : out.t1;
		out.max_duration = s->duration_ns > out.max_duration ? s->duration_ns : out.max_duration;
		out.errors += s->status == STATUS_ERROR;
		vec_add(&v[V_START], (int64_t)((uint64_t)s->start_ns - before));
		before = (uint64_t)s->start_ns;
		vec_add(&v[V_DURATION], s->duration_ns);
		vec_add(&v[V_KIND], s->kind | s->status << 8);
		vec_add(&v[V_NAME], map_in(m->name, &e->names, b, s->name));
		vec_add(&v[V_RESOURCE], put_resource(e, m, b, s->resource));
		buf_add(&ids, &s->span_id, 8);
		vec_add(&v[V_SCOPE], put_scope(e, m, b, s->scope));
		vec_add(&v[V_SHAPE], put_attrs(e, m, b, s->attrs));
		vec_add(&v[V_THRESHOLD], (int64_t)s->threshold);
		vec_add(&v[V_STATE], LOCAL(s->trace_state));
		vec_add(&v[V_MESSAGE], LOCAL(s->status_message));
		vec_add(&v[V_DROP_A], s->dropped_attrs);
		vec_add(&v[V_DROP_E], s->dropped_events);
		vec_add(&v[V_DROP_L], s->dropped_links);
		vec_add(&v[V_FLAGS], s->flags);
		vec_add(&v[V_EVENTS], s->events_n);
		vec_add(&v[V_LINKS], s->links_n);
		for (uint32_t k = 0; k < s->events_n; k++) {
			const struct span_event *ev = b->events + s->events_off + k;
			vec_add(&v[V_EV_TIME], (int64_t)((uint64_t)ev->time_ns - (uint64_t)s->start_ns));
			vec_add(&v[V_EV_NAME], LOCAL(ev->name));
			vec_add(&v[V_EV_DROP], ev->dropped_attrs);
			vec_add(&v[V_EV_SHAPE], put_attrs(e, m, b, ev->attrs));
		}
		for (uint32_t k = 0; k < s->links_n; k++) {
			const struct span_link *l = b->links + s->links_off + k;
			vec_add(&v[V_LK_HI], (int64_t)l->trace_hi);
			vec_add(&v[V_LK_LO], (int64_t)l->trace_lo);
			vec_add(&v[V_LK_ID], (int64_t)l->span_id);
			vec_add(&v[V_LK_STATE], LOCAL(l->trace_state));
			vec_add(&v[V_LK_FLAGS], l->flags);
			vec_add(&v[V_LK_SHAPE], put_attrs(e, m, b, l->attrs));
		}
	}

	uint32_t magic = HEAD_MAGIC;
	buf_add(&out.head, &magic, 4);
	buf_add(&out.head, &n, 4);
	for (int i = 0; i < V_BODY; i++)
		put_vec(e, &out.head, &v[i]);
	put_raw(e, &out.head, traces.p, traces.n);
	put_vec(e, &out.head, &e->res_service);
	put_strs(e, &out.head, &e->names);

	magic = BODY_MAGIC;
	buf_add(&out.body, &magic, 4);
	buf_add(&out.body, &n, 4);
	put_raw(e, &out.body, ids.p, ids.n);
	struct strtab *dicts[] = { &e->strs, &e->shapes, &e->nested, &e->resources, &e->scopes };
	for (int i = 0; i < 5; i++)
		put_strs(e, &out.body, dicts[i]);
	for (int i = V_BODY; i < V_N; i++)
		put_vec(e, &out.body, &v[i]);
	for (uint32_t i = 0; i < e->nvalues; i++)
		put_vec(e, &out.body, &e->values[i]);

	uint32_t ntraces = v[V_COUNTS].n;
	size_t bits = 512;
	while (bits < (size_t)ntraces * 10)
		bits *= 2;
	buf_reserve(&out.bloom, bits / 8);
	out.bloom.n = bits / 8;
	memset(out.bloom.p, 0, out.bloom.n);
	for (uint32_t i = 0; i < ntraces; i++) {
		uint64_t id[2];
		memcpy(id, traces.p + (size_t)i * 16, 16);
		bloom_add(&out.bloom, trace_hash(id[0], id[1]));
	}
	/* Names and services share one dictionary in the head: tell them apart by use. */
	uint8_t *use = base_calloc(e->names.n, 1);
	for (uint32_t i = 0; i < e->res_service.n; i++)
		use[e->res_service.v[i]] |= 1;
	for (uint32_t i = 0; i < n; i++)
		use[v[V_NAME].v[i]] |= 2;
	for (uint32_t i = 0; i < e->names.n; i++) {
		if (use[i] & 1)
			list_add(&out.services, e->names.items[i]);
		if (use[i] & 2)
			list_add(&out.names, e->names.items[i]);
		if (e->names.items[i].n > UINT16_MAX)
			out.services.n = out.names.n = LIST_MAX + 1;
	}
	free(use);
	if (out.services.n > LIST_MAX)
		out.services.n = 0;
	if (out.names.n > LIST_MAX)
		out.names.n = 0;

	buf_finish(&traces);
	buf_finish(&ids);
	for (uint32_t i = 0; i < nbatches; i++) {
		free(maps[i].str);
		free(maps[i].name);
		free(maps[i].res);
		free(maps[i].scope);
	}
	free(maps);
	for (size_t i = 0; i < sizeof tabs / sizeof *tabs; i++)
		strtab_finish(tabs[i]);
	*ret_b = out;
}

/* ---- decoder -------------------------------------------------------------------------------------------------------- */

struct rd { const uint8_t *p, *end; bool bad; };

static struct str rd_raw(struct rd *r)
{
	uint32_t h[2];
	if (r->bad || r->end - r->p < 8)
		return r->bad = true, (struct str){ 0 };
	memcpy(h, r->p, 8);
	if ((size_t)(r->end - r->p - 8) < h[0] || h[1] > RAW_MAX)
		return r->bad = true, (struct str){ 0 };
	struct str s = { (const char *)r->p, 8 + (size_t)h[0] };
	r->p += s.n;
	return s;
}

/* One decompression context per thread, for its life: kept under a key so that it goes when the thread does. */
static pthread_key_t dctx_key;
static pthread_once_t dctx_once = PTHREAD_ONCE_INIT;

static void free_dctx(void *d) { ZSTD_freeDCtx(d); }
static void make_dctx_key(void) { pthread_key_create(&dctx_key, free_dctx); }

static ZSTD_DCtx *thread_dctx(void)
{
	pthread_once(&dctx_once, make_dctx_key);
	ZSTD_DCtx *d = pthread_getspecific(dctx_key);
	if (!d && (d = ZSTD_createDCtx()))
		pthread_setspecific(dctx_key, d);
	return d;
}

static int inflate_col(struct str col, struct buf *out)
{
	uint32_t h[2];
	buf_clear(out);
	if (col.n < 8)
		return KLIEG_E_CORRUPT;
	memcpy(h, col.p, 8);
	/* A frame that claims more than zstd can make of so few bytes is a lie; refuse before allocating for it. */
	if (h[1] > RAW_MAX || ZSTD_getFrameContentSize(col.p + 8, col.n - 8) != h[1])
		return KLIEG_E_CORRUPT;
	ZSTD_DCtx *dctx = thread_dctx();
	if (!dctx)
		return KLIEG_E_NOMEM;
	buf_reserve(out, (size_t)h[1] + 1);
	size_t k = ZSTD_decompressDCtx(dctx, out->p, h[1], col.p + 8, col.n - 8);
	if (ZSTD_isError(k) || k != h[1])
		return KLIEG_E_CORRUPT;
	out->n = k;
	return 0;
}

/* A number column of exactly `want` values (any count if UINT32_MAX). */
static int get_vec(struct str col, struct buf *raw, uint32_t want, struct vec *ret_v)
{
	int rc = inflate_col(col, raw);
	if (rc < 0)
		return rc;
	int64_t min;
	uint32_t n;
	if (raw->n < 13)
		return KLIEG_E_CORRUPT;
	memcpy(&min, raw->p, 8);
	memcpy(&n, raw->p + 8, 4);
	unsigned w = raw->p[12];
	if (w > 8 || n > BLOCK_VALUES || (want != UINT32_MAX && n != want) || raw->n != 13 + (size_t)n * w)
		return KLIEG_E_CORRUPT;
	if (n > ret_v->cap) {
		ret_v->v = base_realloc(ret_v->v, n * sizeof *ret_v->v);
		ret_v->cap = n;
	}
	ret_v->n = n;
	uint64_t *o = (uint64_t *)ret_v->v;
	for (uint32_t i = 0; i < n; i++)
		o[i] = (uint64_t)min;
	const uint8_t *p = raw->p + 13;
	for (unsigned k = 0; k < w; k++, p += n)
		for (uint32_t i = 0; i < n; i++)
			o[i] += (uint64_t)p[i] << (8 * k);
	return 0;
}

struct dict { struct buf raw; struct str *items; uint32_t n; };

static void dict_finish(struct dict *d)
{
	buf_finish(&d->raw);
	free(d->items);
	*d = (struct dict){ 0 };
}

static int get_dict(struct str col, struct dict *ret_d)
{
	int rc = inflate_col(col, &ret_d->raw);
	if (rc < 0)
		return rc;
	uint32_t n;
	if (ret_d->raw.n < 4)
		return KLIEG_E_CORRUPT;
	memcpy(&n, ret_d->raw.p, 4);
	if (!n || ((uint64_t)n - 1) * 4 > ret_d->raw.n - 4)
		return KLIEG_E_CORRUPT;
	ret_d->items = base_calloc(n, sizeof *ret_d->items);
	ret_d->n = n;
	const uint8_t *lens = ret_d->raw.p + 4, *p = lens + ((size_t)n - 1) * 4, *end = ret_d->raw.p + ret_d->raw.n;
	ret_d->items[0] = (struct str){ "", 0 };
	for (uint32_t i = 1; i < n; i++, lens += 4) {
		uint32_t k;
		memcpy(&k, lens, 4);
		if ((size_t)(end - p) < k)
			return KLIEG_E_CORRUPT;
		ret_d->items[i] = (struct str){ (const char *)p, k };
		p += k;
	}
	return p == end ? 0 : KLIEG_E_CORRUPT;
}

static bool in_range(const struct vec *v, uint64_t below)
{
	bool ok = true;
	for (uint32_t i = 0; i < v->n; i++)
		ok &= (uint64_t)v->v[i] < below;
	return ok;
}

struct head { uint32_t n; struct str col[V_BODY], traces, res_service, names; };

static int open_head(struct str bytes, struct head *ret_h)
{
	struct rd r = { (const uint8_t *)bytes.p, (const uint8_t *)bytes.p + bytes.n, false };
	uint32_t h[2];
	if (bytes.n < 8)
		return KLIEG_E_CORRUPT;
	memcpy(h, r.p, 8);
	r.p += 8;
	if (h[0] != HEAD_MAGIC || !h[1] || h[1] > BLOCK_SPANS)
		return KLIEG_E_CORRUPT;
	ret_h->n = h[1];
	for (int i = 0; i < V_BODY; i++)
		ret_h->col[i] = rd_raw(&r);
	ret_h->traces = rd_raw(&r);
	ret_h->res_service = rd_raw(&r);
	ret_h->names = rd_raw(&r);
	return r.bad || r.p != r.end ? KLIEG_E_CORRUPT : 0;
}

/* Trace ids, and how many rows each has: they must add up. */
static int open_traces(const struct head *h, struct buf *raw, struct buf *ret_ids, struct vec *ret_counts)
{
	int rc = get_vec(h->col[V_COUNTS], raw, UINT32_MAX, ret_counts);
	if (rc < 0 || (rc = inflate_col(h->traces, ret_ids)) < 0)
		return rc;
	uint64_t sum = 0;
	if (!in_range(ret_counts, (uint64_t)h->n + 1))
		return KLIEG_E_CORRUPT;
	for (uint32_t i = 0; i < ret_counts->n; i++)
		sum += (uint64_t)ret_counts->v[i];
	return sum == h->n && ret_ids->n == (size_t)ret_counts->n * 16 ? 0 : KLIEG_E_CORRUPT;
}

static void undelta(struct vec *v)
{
	for (uint32_t i = 1; i < v->n; i++)
		v->v[i] = (int64_t)((uint64_t)v->v[i] + (uint64_t)v->v[i - 1]);
}

int block_select(struct str bytes, const struct block_filter *f, uint8_t *sel, uint32_t *ret_n)
{
	struct head h;
	int rc = open_head(bytes, &h);
	if (rc < 0)
		return rc;
	struct buf raw = { 0 }, ids = { 0 };
	struct vec v = { 0 }, service = { 0 };
	struct dict names = { 0 };
	uint32_t n = h.n;
	memset(sel, 1, n);
	if (f->by_trace) {
		if ((rc = open_traces(&h, &raw, &ids, &v)) < 0)
			goto out;
		for (uint32_t t = 0, i = 0; t < v.n; t++) {
			uint64_t id[2];
			memcpy(id, ids.p + (size_t)t * 16, 16);
			memset(sel + i, id[0] == f->trace_hi && id[1] == f->trace_lo, (size_t)v.v[t]);
			i += (uint32_t)v.v[t];
		}
	}
	if (f->min_duration > 0 || f->max_duration < INT64_MAX) {
		if ((rc = get_vec(h.col[V_DURATION], &raw, n, &v)) < 0)
			goto out;
		for (uint32_t i = 0; i < n; i++)
			sel[i] &= v.v[i] >= f->min_duration && v.v[i] <= f->max_duration;
	}
	if (f->errors_only) {
		if ((rc = get_vec(h.col[V_KIND], &raw, n, &v)) < 0)
			goto out;
		for (uint32_t i = 0; i < n; i++)
			sel[i] &= (v.v[i] >> 8 & 255) == STATUS_ERROR;
	}
	if (f->service.n || f->name.n) {
		if ((rc = get_dict(h.names, &names)) < 0)
			goto out;
		if (f->service.n) {
			if ((rc = get_vec(h.res_service, &raw, UINT32_MAX, &service)) < 0 || (rc = get_vec(h.col[V_RESOURCE], &raw, n, &v)) < 0)
				goto out;
			if (!in_range(&service, names.n) || !in_range(&v, service.n)) {
				rc = KLIEG_E_CORRUPT;
				goto out;
			}
			for (uint32_t i = 0; i < service.n; i++)
				service.v[i] = str_eq(names.items[service.v[i]], f->service);
			for (uint32_t i = 0; i < n; i++)
				sel[i] &= (uint8_t)service.v[v.v[i]];
		}
		if (f->name.n) {
			uint32_t id = UINT32_MAX;
			for (uint32_t i = 0; i < names.n && id == UINT32_MAX; i++)
				if (str_eq(names.items[i], f->name))
					id = i;
			if ((rc = get_vec(h.col[V_NAME], &raw, n, &v)) < 0)
				goto out;
			for (uint32_t i = 0; i < n; i++)
				sel[i] &= v.v[i] == id;
		}
	}
	if (f->from_ns > INT64_MIN || f->to_ns < INT64_MAX) {
		if ((rc = get_vec(h.col[V_START], &raw, n, &v)) < 0)
			goto out;
		undelta(&v);
		for (uint32_t i = 0; i < n; i++)
			sel[i] &= v.v[i] >= f->from_ns && v.v[i] < f->to_ns;
	}
	for (uint32_t i = 0; i < n; i++)
		rc += sel[i];
	*ret_n = n;
out:
	buf_finish(&raw);
	buf_finish(&ids);
	vec_finish(&v);
	vec_finish(&service);
	dict_finish(&names);
	return rc;
}

/* All that a body holds, inflated. */
struct body {
	struct vec v[V_N];
	struct buf raw, traces, ids;
	struct dict names, strs, shapes, nested, resources, scopes;
	struct vec *values; uint32_t *cursor; uint32_t ncols;
	struct shape *shape; struct vec shape_cols;  /* column of each member; -1 = has no value */
	uint32_t *str_id, *name_id, *res_id, *scope_id;    /* block's id -> dst's id + 1 */
};

static uint32_t out_str(struct body *y, struct batch *dst, uint64_t id)
{
	if (id >= y->strs.n || !id)
		return 0;
	if (!y->str_id[id])
		y->str_id[id] = batch_str(dst, y->strs.items[id]) + 1;
	return y->str_id[id] - 1;
}

static bool take(struct str *s, void *p, size_t n)
{
	if (s->n < n)
		return false;
	memcpy(p, s->p, n);
	s->p += n;
	s->n -= n;
	return true;
}

static int unflatten(struct body *y, struct batch *dst, struct str *s, struct attr_range *ret_r, int depth)
{
	uint32_t n;
	if (depth > DEPTH_MAX + 1 || !take(s, &n, 4) || (uint64_t)n * 6 > s->n)
		return KLIEG_E_CORRUPT;
	uint32_t at = dst->attrs_n;
	if (n)
		batch_add_attrs(dst, n);
	for (uint32_t i = 0; i < n; i++) {
		struct attr a = { 0 };
		uint32_t id;
		if (!take(s, &id, 4) || !take(s, &a.type, 1) || !take(s, &a.flags, 1) || id >= y->strs.n || a.type > ATTR_KVLIST)
			return KLIEG_E_CORRUPT;
		a.key = out_str(y, dst, id);
		if (a.type == ATTR_STR || a.type == ATTR_BYTES) {
			if (!take(s, &id, 4) || id >= y->strs.n)
				return KLIEG_E_CORRUPT;
			a.s = out_str(y, dst, id);
		} else if (a.type == ATTR_ARRAY || a.type == ATTR_KVLIST) {
			struct attr_range inner;
			int rc = unflatten(y, dst, s, &inner, depth + 1);
			if (rc < 0)
				return rc;
			a.list.off = inner.off;
			a.list.n = inner.n;
		} else if (a.type != ATTR_NIL && !take(s, &a.i, 8)) {
			return KLIEG_E_CORRUPT;
		}
		dst->attrs[at + i] = a;
	}
	*ret_r = (struct attr_range){ at, n };
	return 0;
}

/* Shapes, and the columns they name in order of appearance, exactly as the encoder numbered them. */
static int open_shapes(struct body *y)
{
	struct strtab cols;
	int rc = 0;
	strtab_init(&cols);
	y->shape = base_calloc(y->shapes.n, sizeof *y->shape);
	for (uint32_t i = 1; i < y->shapes.n && !rc; i++) {
		struct str s = y->shapes.items[i];
		if (s.n % 6 || !s.n)
			rc = KLIEG_E_CORRUPT;
		y->shape[i] = (struct shape){ (uint32_t)(s.n / 6), y->shape_cols.n };
		for (size_t k = 0; k < s.n && !rc; k += 6) {
			uint32_t key[2] = { 0, (uint8_t)s.p[k + 4] };
			memcpy(key, s.p + k, 4);
			if (key[0] >= y->strs.n || key[1] > ATTR_KVLIST) {
				rc = KLIEG_E_CORRUPT;
				break;
			}
			vec_add(&y->shape_cols, strtab_add(&cols, (struct str){ (const char *)key, sizeof key }) - 1);
		}
	}
	y->ncols = cols.n - 1;
	strtab_finish(&cols);
	return rc;
}

static int open_body(const struct head *h, struct str bytes, struct body *y)
{
	struct rd r = { (const uint8_t *)bytes.p, (const uint8_t *)bytes.p + bytes.n, false };
	uint32_t m[2], n = h->n;
	int rc;
	if (bytes.n < 8)
		return KLIEG_E_CORRUPT;
	memcpy(m, r.p, 8);
	r.p += 8;
	if (m[0] != BODY_MAGIC || m[1] != n)
		return KLIEG_E_CORRUPT;
	for (int i = 0; i < V_COUNTS; i++)
		if ((rc = get_vec(h->col[i], &y->raw, n, &y->v[i])) < 0)
			return rc;
	undelta(&y->v[V_START]);
	if ((rc = open_traces(h, &y->raw, &y->traces, &y->v[V_COUNTS])) < 0 || (rc = get_dict(h->names, &y->names)) < 0)
		return rc;
	if ((rc = inflate_col(rd_raw(&r), &y->ids)) < 0)
		return rc;
	struct dict *dicts[] = { &y->strs, &y->shapes, &y->nested, &y->resources, &y->scopes };
	for (int i = 0; i < 5; i++)
		if ((rc = get_dict(rd_raw(&r), dicts[i])) < 0)
			return rc;
	uint32_t events = 0, links = 0;
	for (int i = V_BODY; i < V_N; i++) {
		uint32_t want = i == V_PARENT_ID ? UINT32_MAX : i >= V_LK_HI ? links : i >= V_EV_TIME ? events : n;
		if ((rc = get_vec(rd_raw(&r), &y->raw, want, &y->v[i])) < 0)
			return rc;
		if (i == V_EVENTS || i == V_LINKS) {
			uint64_t sum = 0;
			if (!in_range(&y->v[i], 65536))
				return KLIEG_E_CORRUPT;
			for (uint32_t k = 0; k < n; k++)
				sum += (uint64_t)y->v[i].v[k];
			if (sum > BLOCK_VALUES)
				return KLIEG_E_CORRUPT;
			*(i == V_EVENTS ? &events : &links) = (uint32_t)sum;
		}
	}
	if (y->ids.n != (size_t)n * 8 || !in_range(&y->v[V_NAME], y->names.n) || !in_range(&y->v[V_RESOURCE], y->resources.n - 1) ||
		!in_range(&y->v[V_SCOPE], y->scopes.n - 1) || !in_range(&y->v[V_SHAPE], y->shapes.n) ||
		!in_range(&y->v[V_EV_SHAPE], y->shapes.n) || !in_range(&y->v[V_LK_SHAPE], y->shapes.n))
		return KLIEG_E_CORRUPT;
	if ((rc = open_shapes(y)) < 0)
		return rc;
	y->values = base_calloc(y->ncols + 1, sizeof *y->values);
	y->cursor = base_calloc(y->ncols + 1, sizeof *y->cursor);
	for (uint32_t i = 0; i < y->ncols; i++)
		if ((rc = get_vec(rd_raw(&r), &y->raw, UINT32_MAX, &y->values[i])) < 0)
			return rc;
	if (r.bad || r.p != r.end)
		return KLIEG_E_CORRUPT;
	y->str_id = base_calloc(y->strs.n, sizeof *y->str_id);
	y->name_id = base_calloc(y->names.n, sizeof *y->name_id);
	y->res_id = base_calloc(y->resources.n, sizeof *y->res_id);
	y->scope_id = base_calloc(y->scopes.n, sizeof *y->scope_id);
	return 0;
}

static void body_finish(struct body *y)
{
	for (int i = 0; i < V_N; i++)
		vec_finish(&y->v[i]);
	for (uint32_t i = 0; y->values && i < y->ncols; i++)
		vec_finish(&y->values[i]);
	struct dict *dicts[] = { &y->names, &y->strs, &y->shapes, &y->nested, &y->resources, &y->scopes };
	for (int i = 0; i < 6; i++)
		dict_finish(dicts[i]);
	buf_finish(&y->raw);
	buf_finish(&y->traces);
	buf_finish(&y->ids);
	vec_finish(&y->shape_cols);
	free(y->values);
	free(y->cursor);
	free(y->shape);
	free(y->str_id);
	free(y->name_id);
	free(y->res_id);
	free(y->scope_id);
}

static void skip_attrs(struct body *y, uint64_t shape)
{
	const struct shape *h = y->shape + shape;
	const int64_t *cols = y->shape_cols.v + h->cols_off;
	for (uint32_t i = 0; i < h->n; i++)
		y->cursor[cols[i]]++;
}

static int out_attrs(struct body *y, struct batch *dst, uint64_t shape, struct attr_range *ret_r)
{
	if (!shape) {
		*ret_r = (struct attr_range){ dst->attrs_n, 0 };
		return 0;
	}
	const struct shape *h = y->shape + shape;
	const int64_t *cols = y->shape_cols.v + h->cols_off;
	const char *p = y->shapes.items[shape].p;
	uint32_t at = dst->attrs_n;
	batch_add_attrs(dst, h->n);
	for (uint32_t i = 0; i < h->n; i++, p += 6) {
		struct attr a = { .type = (uint8_t)p[4], .flags = (uint8_t)p[5] };
		uint32_t key;
		memcpy(&key, p, 4);
		a.key = out_str(y, dst, key);
		if (a.type != ATTR_NIL) {
			const struct vec *col = &y->values[cols[i]];
			uint32_t k = y->cursor[cols[i]]++;
			if (k >= col->n)
				return KLIEG_E_CORRUPT;
			int64_t x = col->v[k];
			if (a.type == ATTR_STR || a.type == ATTR_BYTES) {
				if ((uint64_t)x >= y->strs.n)
					return KLIEG_E_CORRUPT;
				a.s = out_str(y, dst, (uint64_t)x);
			} else if (a.type == ATTR_ARRAY || a.type == ATTR_KVLIST) {
				if ((uint64_t)x >= y->nested.n)
					return KLIEG_E_CORRUPT;
				struct str s = y->nested.items[x];
				struct attr_range inner;
				int rc = unflatten(y, dst, &s, &inner, 0);
				if (rc < 0)
					return rc;
				a.list.off = inner.off;
				a.list.n = inner.n;
			} else {
				a.i = x;
			}
		} else {
			y->cursor[cols[i]]++;
		}
		dst->attrs[at + i] = a;
	}
	*ret_r = (struct attr_range){ at, h->n };
	return 0;
}

static int out_resource(struct body *y, struct batch *dst, uint64_t id, uint32_t *ret_id)
{
	if (!y->res_id[id]) {
		struct str s = y->resources.items[id + 1];
		uint32_t service;
		struct resource r = { 0 };
		if (!take(&s, &service, 4) || service >= y->strs.n || unflatten(y, dst, &s, &r.attrs, 0) < 0)
			return KLIEG_E_CORRUPT;
		r.service = out_str(y, dst, service);
		y->res_id[id] = batch_add_resource(dst, &r) + 1;
	}
	*ret_id = y->res_id[id] - 1;
	return 0;
}

static int out_scope(struct body *y, struct batch *dst, uint64_t id, uint32_t *ret_id)
{
	if (!y->scope_id[id]) {
		struct str s = y->scopes.items[id + 1];
		uint32_t k[2];
		struct scope c = { 0 };
		if (!take(&s, k, 8) || k[0] >= y->strs.n || k[1] >= y->strs.n || unflatten(y, dst, &s, &c.attrs, 0) < 0)
			return KLIEG_E_CORRUPT;
		c.name = out_str(y, dst, k[0]);
		c.version = out_str(y, dst, k[1]);
		y->scope_id[id] = batch_add_scope(dst, &c) + 1;
	}
	*ret_id = y->scope_id[id] - 1;
	return 0;
}

static int out_rows(struct body *y, uint32_t n, const uint8_t *sel, struct batch *dst)
{
	const struct vec *v = y->v;
	uint64_t trace[2] = { 0, 0 };
	uint32_t t = 0, left = 0, explicit_parent = 0, ev = 0, lk = 0;
	int rc;
	for (uint32_t i = 0; i < n; i++) {
		while (!left) {
			memcpy(trace, y->traces.p + (size_t)t * 16, 16);
			left = (uint32_t)v[V_COUNTS].v[t++];
		}
		left--;
		uint32_t nev = (uint32_t)v[V_EVENTS].v[i], nlk = (uint32_t)v[V_LINKS].v[i];
		uint64_t parent = 0;
		int64_t p = v[V_PARENT].v[i];
		if (p == 1) {
			if (explicit_parent >= v[V_PARENT_ID].n)
				return KLIEG_E_CORRUPT;
			parent = (uint64_t)v[V_PARENT_ID].v[explicit_parent++];
		} else if (p) {
			int64_t at = p < 0 ? -1 : (int64_t)i + unzigzag(p - 2);
			if (at < 0 || at >= n)
				return KLIEG_E_CORRUPT;
			memcpy(&parent, y->ids.p + (size_t)at * 8, 8);
		}
		if (sel && !sel[i]) {
			skip_attrs(y, (uint64_t)v[V_SHAPE].v[i]);
			for (uint32_t k = 0; k < nev; k++)
				skip_attrs(y, (uint64_t)v[V_EV_SHAPE].v[ev++]);
			for (uint32_t k = 0; k < nlk; k++)
				skip_attrs(y, (uint64_t)v[V_LK_SHAPE].v[lk++]);
			continue;
		}
		struct span s = {
			.trace_hi = trace[0], .trace_lo = trace[1], .parent_id = parent, .start_ns = v[V_START].v[i], .duration_ns = v[V_DURATION].v[i],
			.threshold = (uint64_t)v[V_THRESHOLD].v[i], .trace_state = out_str(y, dst, (uint64_t)v[V_STATE].v[i]),
			.status_message = out_str(y, dst, (uint64_t)v[V_MESSAGE].v[i]), .events_off = dst->events_n, .links_off = dst->links_n,
			.events_n = (uint16_t)nev, .links_n = (uint16_t)nlk, .dropped_attrs = (uint16_t)v[V_DROP_A].v[i],
			.dropped_events = (uint16_t)v[V_DROP_E].v[i], .dropped_links = (uint16_t)v[V_DROP_L].v[i],
			.kind = (uint8_t)v[V_KIND].v[i], .status = (uint8_t)(v[V_KIND].v[i] >> 8), .flags = (uint32_t)v[V_FLAGS].v[i],
		};
		memcpy(&s.span_id, y->ids.p + (size_t)i * 8, 8);
		uint64_t name = (uint64_t)v[V_NAME].v[i];
		if (!y->name_id[name])
			y->name_id[name] = batch_str(dst, y->names.items[name]) + 1;
		s.name = y->name_id[name] - 1;
		if ((rc = out_resource(y, dst, (uint64_t)v[V_RESOURCE].v[i], &s.resource)) < 0 ||
			(rc = out_scope(y, dst, (uint64_t)v[V_SCOPE].v[i], &s.scope)) < 0 ||
			(rc = out_attrs(y, dst, (uint64_t)v[V_SHAPE].v[i], &s.attrs)) < 0)
			return rc;
		for (uint32_t k = 0; k < nev; k++, ev++) {
			struct span_event x = {
				.time_ns = (int64_t)((uint64_t)v[V_EV_TIME].v[ev] + (uint64_t)s.start_ns),
				.name = out_str(y, dst, (uint64_t)v[V_EV_NAME].v[ev]), .dropped_attrs = (uint32_t)v[V_EV_DROP].v[ev],
			};
			if ((rc = out_attrs(y, dst, (uint64_t)v[V_EV_SHAPE].v[ev], &x.attrs)) < 0)
				return rc;
			*batch_add_event(dst) = x;
		}
		for (uint32_t k = 0; k < nlk; k++, lk++) {
			struct span_link x = {
				.trace_hi = (uint64_t)v[V_LK_HI].v[lk], .trace_lo = (uint64_t)v[V_LK_LO].v[lk], .span_id = (uint64_t)v[V_LK_ID].v[lk],
				.trace_state = out_str(y, dst, (uint64_t)v[V_LK_STATE].v[lk]), .flags = (uint32_t)v[V_LK_FLAGS].v[lk],
			};
			if ((rc = out_attrs(y, dst, (uint64_t)v[V_LK_SHAPE].v[lk], &x.attrs)) < 0)
				return rc;
			*batch_add_link(dst) = x;
		}
		*batch_add_span(dst) = s;
	}
	return 0;
}

int block_decode(struct str head, struct str body, const uint8_t *sel, struct batch *dst)
{
	struct head h;
	struct body y = { 0 };
	int rc = open_head(head, &h);
	if (rc == 0)
		rc = open_body(&h, body, &y);
	if (rc == 0)
		rc = out_rows(&y, h.n, sel, dst);
	body_finish(&y);
	return rc;
}
