/* Which rules match which sites: every rule against every site by the index (src/policy/match.c), beside the plain way, each rule evaluated at each
 * site, over a sample of the same pairs. Rules are what people write: a service and a name, or a name's beginning; some with a component, a few on
 * all services. Prints `name value unit note`. */
#include "base/clock.h"
#include "policy/match.h"
#include <stdio.h>
#include <stdlib.h>

enum { RULES = 10000, SITES = 10000, SERVICES = 50, SAMPLE = 100 };

struct site { char service[32], name[64], component[32], host[32]; };

static uint64_t seed = 42;
static uint32_t rnd(uint32_t n)
{
	seed = seed * 6364136223846793005ull + 1442695040888963407ull;
	return (uint32_t)(seed >> 33) % n;
}

static const char *const nouns[] = { "payment", "order", "cart", "invoice", "user", "session", "catalog", "stock", "shipment", "refund",
	"coupon", "search" };
static const char *const verbs[] = { "charge", "create", "load", "store", "delete", "list", "update", "validate", "render", "commit", "query", "lock" };

static void name_of(uint32_t i, char *out, size_t size) { snprintf(out, size, "%s.%s_%u", nouns[i % 12], verbs[i / 12 % 12], i / 144); }

static void get(void *ctx, const struct tq_field *f, struct tq_value *ret_v)
{
	const struct site *s = ctx;
	const char *text = NULL;
	if (f->scope == TQ_INTRINSIC)
		text = f->intrinsic == TQ_NAME ? s->name : f->intrinsic == TQ_SCOPE_NAME ? s->component : NULL;
	else if (f->scope == TQ_RESOURCE)
		text = str_is(f->key, "service.name") ? s->service : str_is(f->key, "host.name") ? s->host : NULL;
	else if (str_is(f->key, "component"))
		text = s->component;
	*ret_v = text ? (struct tq_value){ .type = TQ_STR, .s = str_of(text) } : (struct tq_value){ .type = TQ_NIL };
}

static struct traceql *rule(uint32_t i)
{
	char text[300], name[64];
	struct traceql *q;
	struct err e;
	uint32_t service = rnd(SERVICES), kind = rnd(100);
	name_of(rnd(1000), name, sizeof name);
	if (kind < 50)
		snprintf(text, sizeof text, "{ resource.service.name = \"service-%u\" && name = \"%s\" }", service, name);
	else if (kind < 80)
		snprintf(text, sizeof text, "{ resource.service.name = \"service-%u\" && name =~ `%s\\.%.3s.*` }", service, nouns[rnd(12)], verbs[rnd(12)]);
	else if (kind < 90)
		snprintf(text, sizeof text, "{ resource.service.name = \"service-%u\" && name =~ \".*%s.*\" && .component = \"lib-%u\" }", service,
			verbs[rnd(12)], rnd(20));
	else if (kind < 98)
		snprintf(text, sizeof text, "{ name = \"%s\" && resource.host.name = \"host-%u\" }", name, rnd(100));
	else
		snprintf(text, sizeof text, "{ name =~ \"%s.*\" && .component = \"lib-%u\" && resource.host.name = \"host-%u\" }", nouns[rnd(12)],
		rnd(20), rnd(100));
	if (traceql_parse(str_of(text), &q, &e) < 0) {
		fprintf(stderr, "%s: %s\n", text, e.msg);
		exit(1);
	}
	return q;
}

static void count(void *arg, void *handle) { ++*(uint64_t *)arg; }

int main(void)
{
	static struct site sites[SITES];
	static struct traceql *rules[RULES];
	for (uint32_t i = 0; i < SITES; i++) {
		struct site *s = sites + i;
		snprintf(s->service, sizeof s->service, "service-%u", i % SERVICES);
		name_of(rnd(1000), s->name, sizeof s->name);
		snprintf(s->component, sizeof s->component, "lib-%u", rnd(20));
		snprintf(s->host, sizeof s->host, "host-%u", rnd(100));
	}
	for (uint32_t i = 0; i < RULES; i++)
		rules[i] = rule(i);
	double best = 1e300, fill = 1e300, one = 1e300;
	uint64_t hits = 0;
	for (int round = 0; round < 3; round++) {
		int64_t t = clock_mono();
		struct match_index *m = match_create();
		for (uint32_t i = 0; i < RULES; i++)
			match_add(m, rules[i], rules[i]);
		int64_t filled = clock_mono();
		hits = 0;
		for (uint32_t i = 0; i < SITES; i++)
			match_site(m, &(struct tq_source){ .ctx = sites + i, .get = get }, count, &hits);
		int64_t done = clock_mono();
		uint64_t once = 0;
		for (uint32_t i = 0; i < SITES; i++)
			once += match_one(m, rules[7], &(struct tq_source){ .ctx = sites + i, .get = get });
		double all = (double)(done - t) / 1e6, single = (double)(clock_mono() - done) / 1e6, f = (double)(filled - t) / 1e6;
		best = all < best ? all : best;
		fill = f < fill ? f : fill;
		one = single < one ? single : one;
		match_destroy(m);
		if (once > SITES)
			return 1;
	}
	/* The plain way, over every SAMPLE-th rule, with the same answers. */
	int64_t t = clock_mono();
	uint64_t plain = 0, indexed = 0;
	for (uint32_t i = 0; i < RULES; i += SAMPLE)
		for (uint32_t k = 0; k < SITES; k++)
			plain += traceql_eval(rules[i], &(struct tq_source){ .ctx = sites + k, .get = get });
	double naive = (double)(clock_mono() - t) / 1e6 * SAMPLE;
	struct match_index *m = match_create();
	for (uint32_t i = 0; i < RULES; i += SAMPLE)
		match_add(m, rules[i], rules[i]);
	for (uint32_t k = 0; k < SITES; k++)
		match_site(m, &(struct tq_source){ .ctx = sites + k, .get = get }, count, &indexed);
	match_destroy(m);
	for (uint32_t i = 0; i < RULES; i++)
		traceql_destroy(rules[i]);
	if (plain != indexed) {
		fprintf(stderr, "the index found %llu, the plain way %llu\n", (unsigned long long)indexed, (unsigned long long)plain);
		return 1;
	}
	printf("match_all %.1f ms %d rules x %d sites, %llu matches, building the index %.1f ms of it\n", best, RULES, SITES,
		(unsigned long long)hits, fill);
	printf("match_plain %.0f ms each rule at each site, from 1 of %d rules\n", naive, SAMPLE);
	printf("match_ratio %.0f x plain over index\n", naive / best);
	printf("match_one %.2f ms one more rule against all sites\n", one);
	return 0;
}
