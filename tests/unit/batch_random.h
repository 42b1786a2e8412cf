/* Random batches and a deep comparison of two spans, for the tests of what copies or transports batches. */
#pragma once
#include "model/batch.h"
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

static uint64_t random_state = 88172645463325252ull;
static uint64_t random_u64(void)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return random_state * 0x2545f4914f6cdd1dull;
}
static uint32_t rnd(uint32_t n) { return (uint32_t)(random_u64() >> 33) % n; }

static uint32_t random_text(struct batch *b)
{
	static const char *const words[] = { "", "checkout", "GET /cart", "Größe", "日本", "quote\"back\\slash", "tab\tnew\nline", "\x01\x7f", "😀", "a" };
	char t[64];
	int n = snprintf(t, sizeof t, "%s%s", words[rnd(10)], words[rnd(10)]);
	return batch_str(b, (struct str){ t, (size_t)n });
}

static void random_attr(struct batch *b, uint32_t index, int depth);

static struct attr_range random_attrs(struct batch *b, uint32_t most, int depth)
{
	uint32_t n = rnd(most + 1);
	if (!n)
		return (struct attr_range){ 0, 0 };
	uint32_t off = (uint32_t)(batch_add_attrs(b, n) - b->attrs);
	for (uint32_t i = 0; i < n; i++) {
		char key[32];
		int k = snprintf(key, sizeof key, "key.%u", i);
		b->attrs[off + i].key = batch_str(b, (struct str){ key, (size_t)k });
		random_attr(b, off + i, depth);
	}
	return (struct attr_range){ off, n };
}

static void random_attr(struct batch *b, uint32_t index, int depth)
{
	struct attr a = { .key = b->attrs[index].key, .type = (uint8_t)rnd(depth < 4 ? 8 : 6) };
	switch (a.type) {
	case ATTR_STR: a.s = random_text(b); break;
	case ATTR_INT: a.i = rnd(2) ? (int64_t)random_u64() : (int64_t)rnd(100) - 50; break;
	case ATTR_DOUBLE: a.d = (double)(int64_t)random_u64() / 1024; break;
	case ATTR_BOOL: a.i = rnd(2); break;
	case ATTR_BYTES: {
		uint64_t x = random_u64();
		a.s = batch_str(b, (struct str){ (char *)&x, rnd(9) });
		break;
	}
	case ATTR_ARRAY: case ATTR_KVLIST: {
		struct attr_range r = random_attrs(b, 3, depth + 1);
		for (uint32_t i = 0; a.type == ATTR_ARRAY && i < r.n; i++)
			b->attrs[r.off + i].key = 0;
		a.list.off = r.off;
		a.list.n = r.n;
	}
	}
	b->attrs[index] = a;
}

/* Everything OTLP can carry: non-zero ids, a service.name with each resource, times that end after they start. */
static struct batch *random_batch(uint32_t spans)
{
	struct batch *b = batch_create();
	for (uint32_t i = 1 + rnd(3); i-- > 0;) {
		struct attr_range r = random_attrs(b, 4, 0);
		struct attr *a = batch_add_attrs(b, r.n + 1);
		uint32_t off = (uint32_t)(a - b->attrs);
		for (uint32_t k = 0; k < r.n; k++)
			b->attrs[off + k] = b->attrs[r.off + k];
		char name[16];
		int n = snprintf(name, sizeof name, "service-%u", i);
		uint32_t service = batch_str(b, (struct str){ name, (size_t)n });
		b->attrs[off + r.n] = (struct attr){ .key = batch_str(b, STR("service.name")), .type = ATTR_STR, .s = service };
		batch_add_resource(b, &(struct resource){ service, { off, r.n + 1 } });
	}
	for (uint32_t i = 1 + rnd(3); i-- > 0;) {
		struct scope s = { random_text(b), random_text(b), random_attrs(b, 2, 0) };
		batch_add_scope(b, &s);
	}
	for (uint32_t i = 0; i < spans; i++) {
		struct span s = { .trace_hi = random_u64(), .trace_lo = random_u64(), .span_id = random_u64() | 1, .parent_id = rnd(3) ? random_u64() : 0,
			.start_ns = (int64_t)(random_u64() >> 2), .duration_ns = (int64_t)(random_u64() >> 2 >> rnd(40)), .name = random_text(b), .status_message = random_text(b),
			.resource = rnd(b->resources_n), .scope = rnd(b->scopes_n), .attrs = random_attrs(b, 6, 0), .kind = (uint8_t)rnd(6), .status = (uint8_t)rnd(3),
			.flags = rnd(2) ? rnd(1024) : 0, .dropped_attrs = (uint16_t)rnd(3), .dropped_events = (uint16_t)rnd(70000), .dropped_links = (uint16_t)rnd(2) };
		if (rnd(3) == 0) {
			s.trace_state = batch_str(b, STR("other=1,ot=rv:6e6d1a75832a2f;th:c8,more=2"));
			s.threshold = 0xc8000000000000ull;
		}
		s.events_off = b->events_n;
		s.events_n = (uint16_t)rnd(3);
		for (uint32_t k = 0; k < s.events_n; k++) {
			struct span_event e = { (int64_t)(random_u64() >> 1), random_text(b), random_attrs(b, 3, 0), rnd(5) };
			*batch_add_event(b) = e;
		}
		s.links_off = b->links_n;
		s.links_n = (uint16_t)rnd(3);
		for (uint32_t k = 0; k < s.links_n; k++) {
			struct span_link l = { random_u64(), random_u64(), random_u64(), random_text(b), random_attrs(b, 3, 0), rnd(512) };
			*batch_add_link(b) = l;
		}
		*batch_add_span(b) = s;
	}
	return b;
}

#define SAME(cond) do { if (!(cond)) { fprintf(stderr, "%s:%d: differ: %s\n", __FILE__, __LINE__, #cond); return false; } } while (0)
#define SAME_TEXT(x, y) SAME(str_eq(batch_text(a, x), batch_text(b, y)))

static bool same_attributes(const struct batch *a, struct attr_range x, const struct batch *b, struct attr_range y)
{
	SAME(x.n == y.n);
	for (uint32_t i = 0; i < x.n; i++) {
		const struct attr *p = a->attrs + x.off + i, *q = b->attrs + y.off + i;
		SAME(p->type == q->type && p->flags == q->flags);
		SAME_TEXT(p->key, q->key);
		switch (p->type) {
		case ATTR_STR: case ATTR_BYTES: SAME_TEXT(p->s, q->s); break;
		case ATTR_INT: case ATTR_BOOL: SAME(p->i == q->i); break;
		case ATTR_DOUBLE: SAME(!memcmp(&p->d, &q->d, 8)); break;
		case ATTR_ARRAY: case ATTR_KVLIST:
			SAME(same_attributes(a, (struct attr_range){ p->list.off, p->list.n }, b, (struct attr_range){ q->list.off, q->list.n }));
		}
	}
	return true;
}

static bool same_span(const struct batch *a, uint32_t i, const struct batch *b, uint32_t j)
{
	const struct span *x = a->spans + i, *y = b->spans + j;
	SAME(x->trace_hi == y->trace_hi && x->trace_lo == y->trace_lo && x->span_id == y->span_id && x->parent_id == y->parent_id);
	SAME(x->start_ns == y->start_ns && x->duration_ns == y->duration_ns);
	SAME(x->threshold == y->threshold);
	SAME_TEXT(x->name, y->name);
	SAME_TEXT(x->trace_state, y->trace_state);
	SAME_TEXT(x->status_message, y->status_message);
	SAME(x->kind == y->kind && x->status == y->status && x->flags == y->flags);
	SAME(x->dropped_attrs == y->dropped_attrs && x->dropped_events == y->dropped_events && x->dropped_links == y->dropped_links);
	SAME(same_attributes(a, x->attrs, b, y->attrs));
	SAME(x->resource < a->resources_n && y->resource < b->resources_n && x->scope < a->scopes_n && y->scope < b->scopes_n);
	SAME_TEXT(a->resources[x->resource].service, b->resources[y->resource].service);
	SAME(same_attributes(a, a->resources[x->resource].attrs, b, b->resources[y->resource].attrs));
	SAME_TEXT(a->scopes[x->scope].name, b->scopes[y->scope].name);
	SAME_TEXT(a->scopes[x->scope].version, b->scopes[y->scope].version);
	SAME(same_attributes(a, a->scopes[x->scope].attrs, b, b->scopes[y->scope].attrs));
	SAME(x->events_n == y->events_n && x->links_n == y->links_n);
	for (uint32_t k = 0; k < x->events_n; k++) {
		const struct span_event *p = a->events + x->events_off + k, *q = b->events + y->events_off + k;
		SAME(p->time_ns == q->time_ns && p->dropped_attrs == q->dropped_attrs);
		SAME_TEXT(p->name, q->name);
		SAME(same_attributes(a, p->attrs, b, q->attrs));
	}
	for (uint32_t k = 0; k < x->links_n; k++) {
		const struct span_link *p = a->links + x->links_off + k, *q = b->links + y->links_off + k;
		SAME(p->trace_hi == q->trace_hi && p->trace_lo == q->trace_lo && p->span_id == q->span_id && p->flags == q->flags);
		SAME_TEXT(p->trace_state, q->trace_state);
		SAME(same_attributes(a, p->attrs, b, q->attrs));
	}
	return true;
}
