/* How fast filters run over batches: spans per second by the matcher on one thread, beside a floor, the same comparison written by hand in C
 * over the same rows. Prints `name value unit note`. */
#include "base/clock.h"
#include "traceql/traceql.h"
#include <stdio.h>
#include <stdlib.h>

enum { SPANS = 8192, BATCHES = 24 };

static uint64_t seed = 42;
static uint32_t rnd(uint32_t n)
{
	seed = seed * 6364136223846793005ull + 1442695040888963407ull;
	return (uint32_t)(seed >> 33) % n;
}

static struct batch *make(void)
{
	static const char *const keys[] = { "http.request.method", "http.route", "http.response.status_code", "tenant", "user.id", "thread.id", "server.address", "code.line.number" };
	struct batch *b = batch_create();
	char text[64];
	uint32_t at;
	for (int r = 0; r < 8; r++) {
		at = (uint32_t)(batch_add_attrs(b, 2) - b->attrs);
		snprintf(text, sizeof text, "service-%d", r);
		uint32_t id = batch_str(b, str_of(text));
		b->attrs[at] = (struct attr){ .key = batch_str(b, STR("service.name")), .type = ATTR_STR, .s = id };
		b->attrs[at + 1] = (struct attr){ .key = batch_str(b, STR("host.name")), .type = ATTR_STR, .s = batch_str(b, STR("h1")) };
		batch_add_resource(b, &(struct resource){ id, { at, 2 } });
	}
	for (int i = 0; i < SPANS; i++) {
		at = (uint32_t)(batch_add_attrs(b, 8) - b->attrs);
		for (uint32_t k = 0; k < 8; k++) {
			snprintf(text, sizeof text, "%s-%u", keys[k], rnd(k == 4 ? 5000 : 20));
			struct attr a = { .key = batch_str(b, str_of(keys[k])), .type = k == 2 || k == 5 || k == 7 ? ATTR_INT : ATTR_STR };
			if (a.type == ATTR_INT)
				a.i = 200 + rnd(400);
			else
				a.s = batch_str(b, str_of(text));
			b->attrs[at + k] = a;
		}
		snprintf(text, sizeof text, "operation-%u", rnd(200));
		uint32_t name = batch_str(b, str_of(text));
		*batch_add_span(b) = (struct span){ .trace_lo = rnd(1u << 30), .span_id = (uint64_t)i + 1, .start_ns = i, .duration_ns = rnd(100000000), .name = name,
			.resource = rnd(8), .attrs = { at, 8 }, .status = rnd(20) == 0 ? STATUS_ERROR : STATUS_OK };
	}
	return b;
}

/* What a person would write for `name and service`. */
static uint64_t by_hand(const struct batch *b, struct str name, struct str service)
{
	uint32_t n = strtab_find(&b->strs, name), s = strtab_find(&b->strs, service);
	uint64_t found = 0;
	for (uint32_t i = 0; i < b->n; i++)
		found += b->spans[i].name == n && b->resources[b->spans[i].resource].service == s;
	return found;
}

int main(void)
{
	static const struct { const char *name, *q; } cases[] = {
		{ "name_equality", "{ name = \"operation-7\" }" },
		{ "name_and_service", "{ name = \"operation-7\" && resource.service.name = \"service-3\" }" },
		{ "service_and_duration", "{ resource.service.name = \"service-3\" && duration > 50ms }" },
		{ "one_attribute", "{ span.tenant = \"tenant-7\" }" },
		{ "one_attribute_any_scope", "{ .tenant = \"tenant-7\" }" },
		{ "one_numeric_attribute", "{ span.http.response.status_code >= 500 }" },
		{ "name_regex", "{ name =~ \"operation-1.*\" }" },
		{ "attribute_regex", "{ span.user.id =~ \".*-12.*\" }" },
		{ "arithmetic", "{ duration * 2 > 50ms + 50ms }" },
	};
	struct batch *batches[BATCHES];
	for (int i = 0; i < BATCHES; i++)
		batches[i] = make();
	uint64_t sink = 0;
	double best = 0;
	for (int round = 0; round < 5; round++) {
		int64_t t = clock_mono();
		for (int i = 0; i < BATCHES; i++)
			sink += by_hand(batches[i], STR("operation-7"), STR("service-3"));
		double rate = (double)BATCHES * SPANS * 1e3 / (double)(clock_mono() - t);
		best = rate > best ? rate : best;
	}
	double floor = best;
	printf("by_hand %.1f Mspans/s the floor: name and service in C\n", floor);
	for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
		struct traceql *q;
		struct err e;
		if (traceql_parse(str_of(cases[k].q), &q, &e) < 0) {
			fprintf(stderr, "%s: %s\n", cases[k].q, e.msg);
			return 1;
		}
		best = 0;
		for (int round = 0; round < 5; round++) {
			struct tq_matcher *m = traceql_matcher_create(q);
			int64_t t = clock_mono();
			for (int i = 0; i < BATCHES; i++) {
				traceql_matcher_begin(m, batches[i]);
				for (uint32_t s = 0; s < batches[i]->n; s++)
					sink += traceql_matcher_match(m, batches[i], s);
			}
			double rate = (double)BATCHES * SPANS * 1e3 / (double)(clock_mono() - t);
			best = rate > best ? rate : best;
			traceql_matcher_destroy(m);
		}
		printf("%s %.1f Mspans/s %.2fx of the floor\n", cases[k].name, best, best / floor);
		traceql_destroy(q);
	}
	int64_t t = clock_mono();
	for (int i = 0; i < 20000; i++) {
		struct traceql *q;
		struct err e;
		traceql_parse(STR("{ resource.service.name = \"checkout\" && name = \"payment.charge\" && duration > 250ms && (.tenant = \"7\" || status = error) }"), &q, &e);
		traceql_destroy(q);
	}
	printf("parse %.2f us a query of five conditions\n", (double)(clock_mono() - t) / 20000 / 1e3);
	for (int i = 0; i < BATCHES; i++)
		batch_destroy(batches[i]);
	return sink == UINT64_MAX;
}
