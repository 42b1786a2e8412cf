/* The batch: adding to its arrays, copying spans between batches, ids as text. Pools grow by doubling and never shrink; everything
 * goes with batch_destroy. */
#include "model/batch.h"
#include "base/err.h"
#include "base/log.h"
#include <stdlib.h>

/* Room for `more` elements behind n; returns the index of the first, zeroed. Indices are 32 bits: a batch that needs more is a bug of whoever
 * fills it (every reader bounds what it takes), so that aborts like running out of memory does. */
static uint32_t grow(void **p, uint32_t *n, uint32_t *cap, uint32_t more, size_t size)
{
	uint32_t at = *n;
	if (!more)
		return at; /* the pool may not exist yet */
	if (more > UINT32_MAX - at) {
		log_error("batch", "more than 2^32 elements in one pool");
		abort();
	}
	if (*cap - at < more) {
		uint64_t want = *cap ? *cap : 16;
		while (want - at < more)
			want *= 2;
		if (want > UINT32_MAX)
			want = UINT32_MAX;
		*p = base_realloc(*p, (size_t)want * size);
		*cap = (uint32_t)want;
	}
	memset((char *)*p + (size_t)at * size, 0, (size_t)more * size);
	*n += more;
	return at;
}
#define GROW(b, what, more) grow((void **)&(b)->what, &(b)->what##_n, &(b)->what##_cap, more, sizeof *(b)->what)

struct batch *batch_create(void)
{
	struct batch *b = base_calloc(1, sizeof *b);
	strtab_init(&b->strs);
	return b;
}

void batch_destroy(struct batch *b)
{
	if (!b)
		return;
	strtab_finish(&b->strs);
	free(b->spans);
	free(b->attrs);
	free(b->events);
	free(b->links);
	free(b->resources);
	free(b->scopes);
	free(b);
}

struct span *batch_add_span(struct batch *b)
{
	uint32_t i = grow((void **)&b->spans, &b->n, &b->cap, 1, sizeof *b->spans);
	return b->spans + i;
}
/* Indices first, then the address: GROW may move the array, so the two must not be in one unsequenced expression. */
struct attr *batch_add_attrs(struct batch *b, uint32_t n) { uint32_t i = GROW(b, attrs, n); return b->attrs + i; }
struct span_event *batch_add_event(struct batch *b) { uint32_t i = GROW(b, events, 1); return b->events + i; }
struct span_link *batch_add_link(struct batch *b) { uint32_t i = GROW(b, links, 1); return b->links + i; }

uint32_t batch_add_resource(struct batch *b, const struct resource *r)
{
	uint32_t i = GROW(b, resources, 1);
	b->resources[i] = *r;
	return i;
}

uint32_t batch_add_scope(struct batch *b, const struct scope *s)
{
	uint32_t i = GROW(b, scopes, 1);
	b->scopes[i] = *s;
	return i;
}

/* ---- copying ---------------------------------------------------------------------------------------------------- */

static uint32_t copy_str(struct batch *dst, const struct batch *src, uint32_t id) { return id ? batch_str(dst, batch_text(src, id)) : 0; }

/* How deep lists may nest; no reader admits more. What a batch made otherwise (or damaged) holds below is copied as empty lists. */
enum { MAX_DEPTH = 32 };

static struct attr_range copy_list(struct batch *dst, const struct batch *src, struct attr_range r, int depth)
{
	if (!r.n || depth > MAX_DEPTH)
		return (struct attr_range){ 0, 0 };
	uint32_t at = dst->attrs_n;
	batch_add_attrs(dst, r.n);
	for (uint32_t i = 0; i < r.n; i++) {
		struct attr a = src->attrs[r.off + i];
		a.key = copy_str(dst, src, a.key);
		if (a.type == ATTR_STR || a.type == ATTR_BYTES) {
			a.s = copy_str(dst, src, a.s);
		} else if (a.type == ATTR_ARRAY || a.type == ATTR_KVLIST) {
			struct attr_range inner = copy_list(dst, src, (struct attr_range){ a.list.off, a.list.n }, depth + 1);
			a.list.off = inner.off;
			a.list.n = inner.n;
		}
		dst->attrs[at + i] = a;
	}
	return (struct attr_range){ at, r.n };
}
static struct attr_range copy_attrs(struct batch *dst, const struct batch *src, struct attr_range r) { return copy_list(dst, src, r, 0); }

static bool same_list(const struct batch *a, struct attr_range x, const struct batch *b, struct attr_range y, int depth)
{
	if (depth > MAX_DEPTH)
		return true;
	if (x.n != y.n)
		return false;
	for (uint32_t i = 0; i < x.n; i++) {
		const struct attr *p = a->attrs + x.off + i, *q = b->attrs + y.off + i;
		if (p->type != q->type || p->flags != q->flags || !str_eq(batch_text(a, p->key), batch_text(b, q->key)))
			return false;
		switch (p->type) {
		case ATTR_STR: case ATTR_BYTES:
			if (!str_eq(batch_text(a, p->s), batch_text(b, q->s)))
				return false;
			break;
		case ATTR_ARRAY: case ATTR_KVLIST:
			if (!same_list(a, (struct attr_range){ p->list.off, p->list.n }, b, (struct attr_range){ q->list.off, q->list.n }, depth + 1))
				return false;
			break;
		default:
			if (p->i != q->i) /* doubles compare by their bits */
				return false;
		}
	}
	return true;
}
static bool same_attrs(const struct batch *a, struct attr_range x, const struct batch *b, struct attr_range y) { return same_list(a, x, b, y, 0); }

/* Newest first: consecutive spans mostly share theirs. */
static uint32_t copy_resource(struct batch *dst, const struct batch *src, uint32_t i)
{
	const struct resource *r = src->resources + i;
	for (uint32_t k = dst->resources_n; k-- > 0;)
		if (str_eq(batch_text(dst, dst->resources[k].service), batch_text(src, r->service)) && same_attrs(dst, dst->resources[k].attrs, src, r->attrs))
			return k;
	struct resource made = { copy_str(dst, src, r->service), copy_attrs(dst, src, r->attrs) };
	return batch_add_resource(dst, &made);
}

static uint32_t copy_scope(struct batch *dst, const struct batch *src, uint32_t i)
{
	const struct scope *s = src->scopes + i;
	for (uint32_t k = dst->scopes_n; k-- > 0;)
		if (str_eq(batch_text(dst, dst->scopes[k].name), batch_text(src, s->name)) &&
			str_eq(batch_text(dst, dst->scopes[k].version), batch_text(src, s->version)) && same_attrs(dst, dst->scopes[k].attrs, src, s->attrs))
			return k;
	struct scope made = { copy_str(dst, src, s->name), copy_str(dst, src, s->version), copy_attrs(dst, src, s->attrs) };
	return batch_add_scope(dst, &made);
}

void batch_copy_span(struct batch *dst, const struct batch *src, uint32_t i)
{
	const struct span *from = src->spans + i;
	struct span s = *from;
	s.name = copy_str(dst, src, from->name);
	s.trace_state = copy_str(dst, src, from->trace_state);
	s.status_message = copy_str(dst, src, from->status_message);
	s.resource = from->resource < src->resources_n ? copy_resource(dst, src, from->resource) : 0;
	s.scope = from->scope < src->scopes_n ? copy_scope(dst, src, from->scope) : 0;
	s.attrs = copy_attrs(dst, src, from->attrs);
	s.events_off = dst->events_n;
	for (uint32_t k = 0; k < from->events_n; k++) {
		struct span_event e = src->events[from->events_off + k];
		e.name = copy_str(dst, src, e.name);
		e.attrs = copy_attrs(dst, src, e.attrs);
		*batch_add_event(dst) = e;
	}
	s.links_off = dst->links_n;
	for (uint32_t k = 0; k < from->links_n; k++) {
		struct span_link l = src->links[from->links_off + k];
		l.trace_state = copy_str(dst, src, l.trace_state);
		l.attrs = copy_attrs(dst, src, l.attrs);
		*batch_add_link(dst) = l;
	}
	*batch_add_span(dst) = s;
}

const struct attr *batch_attr(const struct batch *b, struct attr_range r, struct str key)
{
	uint32_t id = strtab_find(&b->strs, key);
	for (uint32_t i = 0; id != UINT32_MAX && i < r.n; i++)
		if (b->attrs[r.off + i].key == id)
			return b->attrs + r.off + i;
	return NULL;
}

double span_adjusted_count(const struct span *s)
{
	const double all = 72057594037927936.0; /* 2^56 */
	return s->threshold && s->threshold < (1ull << 56) ? all / (all - (double)s->threshold) : 1;
}

/* ---- ids --------------------------------------------------------------------------------------------------------- */

void trace_id_hex(uint64_t hi, uint64_t lo, char ret_hex[33])
{
	span_id_hex(hi, ret_hex);
	span_id_hex(lo, ret_hex + 16);
}

void span_id_hex(uint64_t id, char ret_hex[17])
{
	for (int i = 15; i >= 0; i--, id >>= 4)
		ret_hex[i] = "0123456789abcdef"[id & 15];
	ret_hex[16] = 0;
}

int trace_id_parse(struct str hex, uint64_t *ret_hi, uint64_t *ret_lo)
{
	uint64_t hi = 0, lo = 0;
	if (hex.n < 1 || hex.n > 32)
		return KLIEG_E_SYNTAX;
	for (size_t i = 0; i < hex.n; i++) {
		char c = hex.p[i];
		unsigned v = c >= '0' && c <= '9' ? (unsigned)(c - '0') : (c | 32) >= 'a' && (c | 32) <= 'f' ? (unsigned)((c | 32) - 'a' + 10) : 16;
		if (v > 15)
			return KLIEG_E_SYNTAX;
		hi = hi << 4 | lo >> 60;
		lo = lo << 4 | v;
	}
	*ret_hi = hi;
	*ret_lo = lo;
	return 0;
}

int span_id_parse(struct str hex, uint64_t *ret_id)
{
	uint64_t hi = 0, lo = 0;
	if (hex.n > 16 || trace_id_parse(hex, &hi, &lo) < 0)
		return KLIEG_E_SYNTAX;
	*ret_id = lo;
	return 0;
}
