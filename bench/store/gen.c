/* Spans as a shop makes them, for the store bench and its test: services, operations and attributes with realistic repetition. */
#include "gen.h"
#include <stdio.h>

static uint64_t rnd(struct gen *g)
{
	g->rng ^= g->rng << 13;
	g->rng ^= g->rng >> 7;
	return g->rng ^= g->rng << 17;
}

void gen_init(struct gen *g, uint64_t seed, int64_t start_ns, int64_t step_ns) { *g = (struct gen){ seed * 2 + 1, start_ns, step_ns }; }

static uint32_t text(struct batch *b, const char *fmt, unsigned v)
{
	char s[64];
	int n = snprintf(s, sizeof s, fmt, v);
	return batch_str(b, (struct str){ s, (size_t)n });
}

struct batch *gen_batch(struct gen *g, uint32_t spans)
{
	static const char *const services[] = { "gateway", "cart", "payment", "inventory", "search", "users", "email", "ads", "currency", "shipping", "recommend", "quote" };
	static const char *const verbs[] = { "GET", "POST", "SELECT", "UPDATE", "publish" };
	struct batch *b = batch_create();
	for (unsigned i = 0; i < 12; i++) {
		uint32_t at = b->attrs_n;
		struct resource r = { .service = batch_str(b, str_of(services[i])), .attrs = { at, 3 } };
		batch_add_attrs(b, 3);
		b->attrs[at] = (struct attr){ .key = batch_str(b, STR("service.name")), .type = ATTR_STR, .s = r.service };
		b->attrs[at + 1] = (struct attr){ .key = batch_str(b, STR("host.name")), .type = ATTR_STR, .s = text(b, "node-%u", i % 4) };
		b->attrs[at + 2] = (struct attr){ .key = batch_str(b, STR("process.pid")), .type = ATTR_INT, .i = 1000 + i };
		batch_add_resource(b, &r);
	}
	struct scope sc = { .name = batch_str(b, STR("klieg")), .version = batch_str(b, STR("0.1")) };
	batch_add_scope(b, &sc);
	uint32_t method = batch_str(b, STR("http.request.method")), route = batch_str(b, STR("http.route")), code = batch_str(b, STR("http.response.status_code")),
		user = batch_str(b, STR("user.id")), order = batch_str(b, STR("order.id")), rows = batch_str(b, STR("db.rows"));
	uint32_t verb[5], path[60], name[60];
	for (unsigned i = 0; i < 5; i++)
		verb[i] = batch_str(b, str_of(verbs[i]));
	for (unsigned i = 0; i < 60; i++) {
		path[i] = text(b, "/api/v1/items/%u", i);
		name[i] = text(b, "operation-%u", i);
	}
	while (b->n < spans) {
		uint64_t hi = rnd(g), lo = rnd(g), id[12];
		unsigned n = 4 + (unsigned)(rnd(g) % 9);
		int64_t t = g->now_ns += (int64_t)(rnd(g) % (uint64_t)(2 * g->step_ns + 1));
		unsigned who = (unsigned)(rnd(g) % 5000);
		for (unsigned i = 0; i < n; i++) {
			unsigned op = (unsigned)(rnd(g) % 60), many = 4 + (unsigned)(rnd(g) % 3);
			uint32_t at = b->attrs_n;
			struct attr *a = batch_add_attrs(b, many);
			bool error = rnd(g) % 100 == 0;
			a[0] = (struct attr){ .key = method, .type = ATTR_STR, .s = verb[op % 5] };
			a[1] = (struct attr){ .key = route, .type = ATTR_STR, .s = path[op] };
			a[2] = (struct attr){ .key = code, .type = ATTR_INT, .i = error ? 500 : 200 };
			a[3] = (struct attr){ .key = rows, .type = ATTR_INT, .i = (int64_t)(rnd(g) % 100) };
			if (many > 4)
				a[4] = (struct attr){ .key = order, .type = ATTR_INT, .i = 1000000 + (int64_t)(rnd(g) % 100000) };
			if (many > 5)
				b->attrs[at + 5] = (struct attr){ .key = user, .type = ATTR_STR, .s = text(b, "user-%u", who) };
			id[i] = rnd(g);
			struct span *s = batch_add_span(b);
			*s = (struct span){ .trace_hi = hi, .trace_lo = lo, .span_id = id[i], .parent_id = i ? id[rnd(g) % i] : 0, .start_ns = t,
				.duration_ns = (int64_t)(20000 + (rnd(g) % 1000000) * (1 + (rnd(g) % 64 == 0) * 20)), .name = name[op], .resource = op % 12,
				.attrs = { at, many }, .kind = KIND_INTERNAL + op % 3, .status = error ? STATUS_ERROR : STATUS_UNSET };
			t += (int64_t)(rnd(g) % 200000);
			if (error) {
				struct span_event *e = batch_add_event(b);
				*e = (struct span_event){ .time_ns = t, .name = batch_str(b, STR("exception")) };
				b->spans[b->n - 1].events_off = b->events_n - 1;
				b->spans[b->n - 1].events_n = 1;
			}
		}
	}
	return b;
}
