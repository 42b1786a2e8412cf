/* Jaeger remote sampling: what the rules in force mean for a service whose SDK decides at the root of a trace, by name of the operation alone.
 * Rules are read once per generation, answers kept per service. The same strategy as JSON (GET /sampling?service=X) and as protobuf
 * (jaeger.api_v2.SamplingManager). Loop thread.
 *
 * An SDK knows no hosts, no shares of processes and no attributes of requests, and keeps what it has sampled: rules with hosts, share, only, scope
 * `marked`, conditions on requests or on finished spans say nothing here. Several grants: the highest keep and the highest rate; limits cap what
 * comes out. What cannot be told exactly errs on the side of less: a rate for single operations becomes a rate for the service. */
#include "base/clock.h"
#include "server/internal.h"
#include "traceql/traceql.h"
#include <math.h>
#include <stdlib.h>

enum { OPERATIONS_MAX = 200, CACHE_MAX = 5000 };

struct sampling_rule { struct traceql *q; bool limit; bool traces; /* its level makes spans */ double keep, rate, spans_per_s; };
struct sampling {
	struct sampling_rule *rules; size_t n;
	int64_t generation, next_expiry;
	char **names; size_t nnames;         /* operations that rules name */
	json_t *answers;                     /* service -> text */
};
struct grant { double keep, rate; };     /* rate: traces/s, 0 = none; keep: of those without a rate */
struct strategy { struct grant all; double upper; struct { const char *name; double keep; } ops[OPERATIONS_MAX]; unsigned nops; bool only_rate; };

/* ---- rules ---------------------------------------------------------------------------------------------------------------- */

static void forget(struct sampling *g)
{
	for (size_t i = 0; i < g->n; i++)
		traceql_destroy(g->rules[i].q);
	for (size_t i = 0; i < g->nnames; i++)
		free(g->names[i]);
	free(g->rules);
	free(g->names);
	json_decref(g->answers);
	*g = (struct sampling){ 0 };
}

static void add_name(struct sampling *g, struct str s)
{
	for (size_t i = 0; i < g->nnames; i++)
		if (str_is(s, g->names[i]))
			return;
	g->names = base_realloc(g->names, (g->nnames + 1) * sizeof *g->names);
	g->names[g->nnames++] = str_dup(s);
}

static void names_of(struct sampling *g, const struct traceql *q, uint16_t node)
{
	struct tq_view v;
	if (!traceql_view(q, node, &v))
		return;
	if (v.op == TQ_VIEW_AND || v.op == TQ_VIEW_OR) {
		names_of(g, q, v.l);
		names_of(g, q, v.r);
	} else if (v.op == TQ_VIEW_NOT)
		names_of(g, q, v.l);
	else if (v.op == TQ_VIEW_CMP && v.field.scope == TQ_INTRINSIC && v.field.intrinsic == TQ_NAME && v.value.type == TQ_STR &&
		(!strcmp(v.cmp, "=") || !strcmp(v.cmp, "!=")))
		add_name(g, v.value.s);
}

static bool makes_spans(const json_t *rule, const char *key)
{
	const char *level = jtext(rule, key);
	return !strcmp(level, "span") || !strcmp(level, "detail") || !strcmp(level, "deep");
}

static bool tells_sdk(const json_t *r)
{
	const json_t *share = json_object_get(r, "share");
	return !json_array_size(json_object_get(r, "hosts")) && !json_array_size(json_object_get(r, "only")) && strcmp(jtext(r, "scope"), "marked") &&
		!*jtext(r, "where") && (!json_is_number(share) || json_number_value(share) >= 1);
}

static void read_rule(struct sampling *g, const json_t *r, int64_t now)
{
	struct traceql *q = NULL, *site = NULL, *request = NULL;
	struct err e;
	uint16_t root;
	int64_t expires = jint(r, "expires_unix_nano");
	const json_t *keep = json_object_get(r, "keep");
	if ((expires && expires <= now) || !tells_sdk(r))
		return;
	if (traceql_parse_selector(str_of(jtext(r, "selector")), &q, &e) < 0 || traceql_split_start(q, &site, &request, &e) < 0 || request || !site) {
		traceql_destroy(site);
		traceql_destroy(request);
		traceql_destroy(q);
		return;
	}
	traceql_destroy(q);
	if (expires && (!g->next_expiry || expires < g->next_expiry))
		g->next_expiry = expires;
	bool limit = !strcmp(jtext(r, "kind"), "limit"), level = json_is_string(json_object_get(r, "level"));
	g->rules = base_realloc(g->rules, (g->n + 1) * sizeof *g->rules);
	g->rules[g->n++] = (struct sampling_rule){ .q = site, .limit = limit, .traces = !level || makes_spans(r, "level") || makes_spans(r, "raised"),
		.keep = json_is_number(keep) ? json_number_value(keep) : 1, .rate = jnum(r, "rate"), .spans_per_s = jnum(r, "spans_per_s") };
	if (traceql_root(site, &root))
		names_of(g, site, root);
}

static void refresh(struct server *s)
{
	struct sampling *g = s->sampling;
	int64_t now = clock_wall();
	const char *id;
	json_t *rule;
	if (g->answers && g->generation == desired_generation(s) && (!g->next_expiry || g->next_expiry > now) && json_object_size(g->answers) < CACHE_MAX)
		return;
	forget(g);
	json_object_foreach(desired_rules(s), id, rule)
		read_rule(g, rule, now);
	g->generation = desired_generation(s);
	g->answers = json_object();
}

/* ---- what they come to ---------------------------------------------------------------------------------------------------- */

struct root { struct str service, name; };

static void get(void *ctx, const struct tq_field *f, struct tq_value *v)
{
	const struct root *r = ctx;
	*v = (struct tq_value){ .type = TQ_NIL };
	if (f->scope == TQ_INTRINSIC && f->intrinsic == TQ_NAME)
		*v = (struct tq_value){ .type = TQ_STR, .s = r->name };
	else if ((f->scope == TQ_RESOURCE || f->scope == TQ_ANY) && str_is(f->key, "service.name"))
		*v = (struct tq_value){ .type = TQ_STR, .s = r->service };
}

static struct grant granted(const struct sampling *g, struct str service, struct str name, double *ret_upper)
{
	struct root root = { service, name };
	struct tq_source src = { .ctx = &root, .get = get };
	struct grant all = { 0 };
	double upper = INFINITY;
	for (size_t i = 0; i < g->n; i++) {
		const struct sampling_rule *r = &g->rules[i];
		if (!traceql_eval(r->q, &src))
			continue;
		if (r->limit) {
			double most = r->traces ? r->spans_per_s > 0 ? r->spans_per_s : INFINITY : 0;
			upper = most < upper ? most : upper;
		} else if (r->traces && r->rate > 0)
			all.rate = r->rate > all.rate ? r->rate : all.rate;
		else if (r->traces)
			all.keep = r->keep > all.keep ? r->keep : all.keep;
	}
	if (upper == 0)
		all = (struct grant){ 0 };
	if (all.rate > upper)
		all.rate = upper;
	if (all.keep == 1 && upper < INFINITY && upper > 0)  /* all of it, but no more than so many: that is a rate */
		all = (struct grant){ 0, upper };
	*ret_upper = upper;
	return all;
}

static void decide(struct server *s, struct str service, struct strategy *st)
{
	const struct sampling *g = s->sampling;
	double upper, op_rate = 0;
	*st = (struct strategy){ 0 };
	/* An operation that no rule names. */
	st->all = granted(g, service, STR("\x7f"), &st->upper);
	for (size_t i = 0; i < g->nnames && st->nops < OPERATIONS_MAX; i++) {
		struct grant one = granted(g, service, str_of(g->names[i]), &upper);
		op_rate = one.rate > op_rate ? one.rate : op_rate;
		if (one.keep != st->all.keep && !(one.rate > 0 && one.keep == 0)) {
			st->ops[st->nops].name = g->names[i];
			st->ops[st->nops++].keep = one.keep;
		}
	}
	if (!st->nops && st->all.keep == 0 && op_rate > st->all.rate)
		st->all.rate = op_rate;
	bool nothing = !st->nops && st->all.keep == 0 && st->all.rate == 0;
	if (nothing && st->upper > 0)
		st->all.keep = s->c.sampling_default;
	st->only_rate = st->all.rate > 0 && st->all.keep == 0 && !st->nops;
	if (st->upper == INFINITY)
		st->upper = 0;
}

static int traces_per_s(double rate) { return rate < 1 ? 1 : rate > 1e9 ? 1000000000 : (int)rate; }
static bool by_operation(const struct strategy *st) { return st->nops || (st->all.rate > 0 && st->all.keep > 0); }

static json_t *as_json(const struct strategy *st)
{
	if (st->only_rate)
		return json_pack("{ss s{si}}", "strategyType", "RATE_LIMITING", "rateLimitingSampling", "maxTracesPerSecond", traces_per_s(st->all.rate));
	json_t *o = json_pack("{ss s{sf}}", "strategyType", "PROBABILISTIC", "probabilisticSampling", "samplingRate", st->all.keep), *list = json_array();
	for (unsigned i = 0; i < st->nops; i++)
		json_array_append_new(list, json_pack("{ss s{sf}}", "operation", st->ops[i].name, "probabilisticSampling", "samplingRate", st->ops[i].keep));
	if (by_operation(st))
		json_object_set_new(o, "operationSampling", json_pack("{sf sf sO sf}", "defaultSamplingProbability", st->all.keep,
			"defaultLowerBoundTracesPerSecond", st->all.rate, "perOperationStrategies", list, "defaultUpperBoundTracesPerSecond", st->upper));
	json_decref(list);
	return o;
}

/* ---- protobuf ------------------------------------------------------------------------------------------------------------- */

static void put_varint(struct buf *b, uint64_t v)
{
	for (; v > 127; v >>= 7)
		buf_byte(b, (uint8_t)(v | 128));
	buf_byte(b, (uint8_t)v);
}
static void put_bytes(struct buf *b, int field, struct str s)
{
	put_varint(b, (uint64_t)field << 3 | 2);
	put_varint(b, s.n);
	buf_add(b, s.p, s.n);
}
static void put_double(struct buf *b, int field, double d)
{
	if (d == 0)
		return;
	buf_byte(b, (uint8_t)(field << 3 | 1));
	buf_add(b, &d, 8);                       /* both of our machines are little-endian, as protobuf is */
}
static void put_message(struct buf *b, int field, struct buf *m)  /* finishes m */
{
	put_bytes(b, field, buf_str(m));
	buf_finish(m);
}

static void as_protobuf(const struct strategy *st, struct buf *b)
{
	struct buf m = { 0 };
	if (st->only_rate) {
		put_varint(b, 1 << 3);
		put_varint(b, 1);                    /* RATE_LIMITING */
		put_varint(&m, 1 << 3);
		put_varint(&m, (uint64_t)traces_per_s(st->all.rate));
		put_message(b, 3, &m);
		return;
	}
	put_double(&m, 1, st->all.keep);
	put_message(b, 2, &m);
	if (!by_operation(st))
		return;
	put_double(&m, 1, st->all.keep);
	put_double(&m, 2, st->all.rate);
	for (unsigned i = 0; i < st->nops; i++) {
		struct buf op = { 0 }, p = { 0 };
		put_bytes(&op, 1, str_of(st->ops[i].name));
		put_double(&p, 1, st->ops[i].keep);
		put_message(&op, 2, &p);
		put_message(&m, 3, &op);
	}
	put_double(&m, 4, st->upper);
	put_message(b, 4, &m);
}

/* string service_name = 1; false: this is no SamplingStrategyParameters. */
static bool service_of(struct str m, struct str *ret)
{
	*ret = (struct str){ 0 };
	for (size_t i = 0; i < m.n;) {
		uint64_t v[2];                       /* key, then value or length */
		for (int k = 0; k < 2; k++) {
			int shift = 0;
			v[k] = 0;
			for (;; shift += 7) {
				if (i >= m.n || shift > 63)
					return false;
				uint8_t c = (uint8_t)m.p[i++];
				v[k] |= (uint64_t)(c & 127) << shift;
				if (c < 128)
					break;
			}
		}
		if ((v[0] & 7) == 0)
			continue;
		if ((v[0] & 7) != 2 || v[1] > m.n - i)
			return false;
		if (v[0] >> 3 == 1)
			*ret = (struct str){ m.p + i, v[1] };
		i += v[1];
	}
	return ret->n > 0 && str_utf8_valid(*ret);
}

/* ---- the two ways to ask -------------------------------------------------------------------------------------------------- */

static void refuse(struct http_req *r, const char *what)
{
	struct err e;
	err_set(&e, KLIEG_E_USAGE, "%s", what);
	err_hint(&e, "GET /sampling?service=NAME");
	reply_problem(r, &e);
}

static unsigned services_in(struct str q)
{
	unsigned n = 0;
	for (size_t i = 0; i < q.n;) {
		const char *amp = memchr(q.p + i, '&', q.n - i);
		n += q.n - i >= 8 && !memcmp(q.p + i, "service=", 8);
		i = amp ? (size_t)(amp + 1 - q.p) : q.n;
	}
	return n;
}

void sampling_reply(struct server *s, struct http_req *r)
{
	struct buf name = { 0 };
	if (strcmp(r->method, "GET") && !r->is_head)
		http_reply(r, 405, NULL, (struct str){ 0 }, "Allow: GET, HEAD\r\n");
	else if (services_in(r->query) != 1)
		refuse(r, "'service' must be given exactly once");
	else if (!http_param(r->query, "service", &name) || !name.n || name.n > 1000 || !str_utf8_valid(buf_str(&name)))
		refuse(r, "'service' must be a name in UTF-8, of at most 1000 bytes");
	else {
		refresh(s);
		buf_byte(&name, 0);
		const char *service = (const char *)name.p;
		json_t *text = json_object_get(s->sampling->answers, service);
		if (!text) {
			struct strategy *st = base_alloc(sizeof *st);
			decide(s, str_of(service), st);
			json_t *doc = as_json(st);
			char *t = json_dumps(doc, JSON_COMPACT);
			json_object_set_new(s->sampling->answers, service, text = json_string(t));
			free(t);
			json_decref(doc);
			free(st);
		}
		http_reply(r, 200, "application/json", str_of(json_string_value(text)), NULL);
	}
	buf_finish(&name);
}

void sampling_grpc(struct server *s, struct grpc_call *c)
{
	struct str service;
	struct buf b = { 0 };
	if (!service_of(c->message, &service) || service.n > 1000) {
		grpc_reply(c, GRPC_INVALID_ARGUMENT, "SamplingStrategyParameters with a service_name of at most 1000 bytes are needed", (struct str){ 0 });
		return;
	}
	refresh(s);
	struct strategy *st = base_alloc(sizeof *st);
	decide(s, service, st);
	as_protobuf(st, &b);
	grpc_reply(c, GRPC_OK, NULL, buf_str(&b));
	buf_finish(&b);
	free(st);
}

void sampling_create(struct server *s) { s->sampling = base_calloc(1, sizeof *s->sampling); }
void sampling_destroy(struct server *s)
{
	if (!s->sampling)
		return;
	forget(s->sampling);
	free(s->sampling);
	s->sampling = NULL;
}
