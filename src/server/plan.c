/* What a policy would do, before it does: the agents say which sites would change and what that costs (their `change` with dry_run), the stored
 * traces say what each rule would have kept of them (replay). Nothing is switched by any of this. Parsing and replay run on a thread of the pool,
 * the rest on the loop's. */
#include "base/clock.h"
#include "base/hash.h"
#include "server/policies.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define REPLAY_NS (5 * 1000000000ll)     /* a replay looks at what it can within this */
enum { REPLAY_TRACES = 1 << 20, REPLAY_RULES = 64 };

void plan_destroy(struct plan *x)
{
	policy_destroy(x->p);
	policy_diags_finish(&x->d);
	json_decref(x->out);
	json_decref(x->set);
	free(x->text);
	free(x);
}

/* ---- parse ---------------------------------------------------------------------------------------------------------------- */

static void parse_work(struct call *c)
{
	struct plan *x = c->data;
	policy_parse(str_of(x->text), &x->p, &x->d);
}
static void parse_then(struct call *c)
{
	struct plan *x = c->data;
	x->out = json_pack("{sb so}", "ok", x->p != NULL, "diagnostics", policy_diags_json(&x->d));
	if (x->p)
		json_object_set_new(x->out, "policy", policy_json(x->p));
	x->then(c);
}
void plan_parse(struct call *c, void (*then)(struct call *))
{
	struct plan *x = base_calloc(1, sizeof(*x));
	x->then = then;
	x->text = str_dup(str_of(jtext(c->body, "text")));
	x->replay_ns = jint(c->body, "replay");
	c->data = x;
	call_work(c, parse_work, parse_then);
}

void plan_invalid(struct call *c)
{
	struct plan *x = c->data;
	const struct policy_diag *first = NULL;
	for (uint32_t i = 0; i < x->d.n && !first; i++)
		first = x->d.list[i].error ? &x->d.list[i] : NULL;
	if (x->d.errors > 1)
		err_set(&c->e, KLIEG_E_BAD_DATA, "the policy has %u errors, the first: %s", x->d.errors, first->message);
	else
		err_set(&c->e, KLIEG_E_BAD_DATA, "%s", first ? first->message : "the policy is not valid");
	if (first) {
		c->e.line = first->line;
		c->e.column = first->column;
		if (first->hint[0])
			err_hint(&c->e, "%s", first->hint);
	}
	json_t *more = json_pack("{sO}", "diagnostics", json_object_get(x->out, "diagnostics"));
	plan_destroy(x);
	call_refuse(c, 422, &c->e, more);
}

static void checked(struct call *c)
{
	struct plan *x = c->data;
	json_t *out = json_incref(x->out);
	plan_destroy(x);
	call_json(c, 200, out);
}
void api_policies_check(struct call *c) { plan_parse(c, checked); }

/* ---- what the agents say -------------------------------------------------------------------------------------------------- */

static json_t *named(const json_t *list, const char *key, const char *name)
{
	size_t i;
	json_t *x;
	json_array_foreach(list, i, x)
		if (!strcmp(jtext(x, key), name))
			return x;
	return NULL;
}

static void warn(json_t *out, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void warn(json_t *out, const char *fmt, ...)
{
	char text[400];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	json_array_append_new(json_object_get(out, "warnings"), json_string(text) ?: json_string("(not UTF-8)"));
}

/* Each rule against the version that is in force: + new, - gone, ~ other, blank the same. */
static json_t *rule_rows(struct call *c, json_int_t *ret_sites, json_int_t *ret_processes)
{
	struct plan *x = c->data;
	const struct policy_entry *en = policy_find(c->s, x->p->name);
	json_t *before = en && en->p ? policy_json(en->p) : NULL, *was = json_object_get(before, "rules"),
		*now = json_object_get(json_object_get(x->out, "policy"), "rules");
	json_t *rows = json_array(), *r, *old;
	size_t i;
	char id[200];
	*ret_sites = *ret_processes = 0;
	json_array_foreach(now, i, r) {
		snprintf(id, sizeof(id), "p:%s/%s", x->p->name, jtext(r, "name"));
		const json_t *seen = named(json_object_get(c->result, "rules"), "id", id);
		old = named(was, "name", jtext(r, "name"));
		json_array_append_new(rows, json_pack("{sO ss sI sI sO}", "name", json_object_get(r, "name"), "op", !old ? "+" : json_equal(old,
			r) ? " " : "~", "sites",
			jint(seen, "sites"), "processes", jint(seen, "processes"), "predicted", json_object_get(seen, "predicted") ?: json_null()));
		*ret_sites += jint(seen, "sites");
		if (jint(seen, "processes") > *ret_processes)
			*ret_processes = jint(seen, "processes");
		if (c->rc >= 0 && !jint(seen, "sites"))
			warn(x->out, "rule %s matches no site that is there now: klieg ls lists them", jtext(r, "name"));
	}
	json_array_foreach(was, i, old)
		if (!named(now, "name", jtext(old, "name")))
			json_array_append_new(rows, json_pack("{sO ss si si sn}", "name", json_object_get(old, "name"), "op", "-", "sites", 0,
				"processes", 0, "predicted"));
	json_decref(before);
	return rows;
}

/* Each agent has a budget of its own and says what it would come to there. Of several, the one where it is tightest. */
struct fit { double percent, budget; const char *host; bool over; };
static struct fit fit_of(const json_t *answer)
{
	struct fit f = { 0 };
	double tightest = -1;
	size_t i;
	const json_t *row;
	json_array_foreach(json_object_get(answer, "budgets"), i, row) {
		double percent = jnum(row, "predicted_percent"), budget = jnum(row, "budget_percent");
		double share = budget > 0 ? percent / budget : 0;    /* 0: that agent has no governor, and no limit */
		if (share > tightest || (share >= tightest && percent > f.percent)) {
			tightest = share;
			f = (struct fit){ percent, budget, jtext(row, "host"), share > 1 };
		}
	}
	return f;
}

static void ask(struct call *c, json_t *set, void (*then)(struct call *))
{
	struct plan *x = c->data;
	call_agent(c, "change", json_pack("{si si so so sb sI}", "generation", 0, "base", 0, "set", set, "remove", policy_leftover(c->s, x->p->name, set), "dry_run", 1,
		"estimate_nano", jint(c->body, "estimate")), then);
}

static void done(struct call *c)
{
	struct plan *x = c->data;
	c->e = (struct err){ 0 };
	c->rc = 0;
	x->then(c);
}

static void suggested(struct call *c)
{
	struct plan *x = c->data;
	struct fit f = fit_of(c->result);
	if (c->rc >= 0 && !f.over && x->keep > 0) {
		char text[40];
		snprintf(text, sizeof(text), "keep: %.3g%%", x->keep * 100);
		json_object_set_new(x->out, "suggestion", json_pack("{sf ss sf}", "keep", x->keep, "text", text, "predicted_percent", f.percent));
	} else if (c->rc >= 0 && !f.over)
		json_object_set_new(x->out, "suggestion", json_pack("{sn ss sf}", "keep", "text", "level: count", "predicted_percent", f.percent));
	else if (c->rc >= 0 && x->keep > 0) {     /* the hits alone are too many for spans, however few are kept */
		json_t *set = json_deep_copy(x->set), *r;
		size_t i;
		json_array_foreach(set, i, r)
			if (!strcmp(jtext(r, "kind"), "trace") && strcmp(jtext(r, "level"), "off"))
				json_object_set_new(r, "level", json_string("count"));
		x->keep = 0;
		ask(c, set, suggested);
		return;
	}
	done(c);
}

/* Which keep would fit: what is kept is most of what spans cost, so by proportion, rounded down, and then asked of the agents whether it does. */
static void suggest(struct call *c)
{
	struct plan *x = c->data;
	json_t *set = json_deep_copy(x->set), *r;
	double most = 0, keep = jnum(x->out, "budget_percent") / jnum(x->out, "predicted_percent") * .8;
	size_t i;
	json_array_foreach(set, i, r)
		if (!strcmp(jtext(r, "kind"), "trace") && jnum(r, "keep") > most)
			most = jnum(r, "keep");
	keep *= most;
	double unit = pow(10, floor(log10(keep > 1e-6 ? keep : 1e-6)));
	x->keep = floor(keep / unit) * unit;
	json_array_foreach(set, i, r)
		if (!strcmp(jtext(r, "kind"), "trace") && jnum(r, "keep") > x->keep)
			json_object_set_new(r, "keep", json_real(x->keep));
	ask(c, set, suggested);
}

static void asked(struct call *c)
{
	struct plan *x = c->data;
	json_t *predicted = json_object_get(c->result, "predicted"), *list = json_object_get(c->result, "changes"), *w;
	json_int_t sites, processes;
	size_t i;
	json_object_set_new(x->out, "warnings", json_array());
	if (c->rc < 0 && c->rc != KLIEG_E_NO_TARGET) {
		x->then(c);
		return;
	}
	if (c->rc < 0)
		warn(x->out, "no agent is connected: what it would match is not known");
	json_t *rows = rule_rows(c, &sites, &processes);
	json_object_set_new(x->out, "rules", rows);
	json_object_set(x->out, "changes", list ? list : json_array());
	json_object_set_new(x->out, "changed", json_integer(jint(c->result, "changed")));
	json_object_set_new(x->out, "sites", json_integer(sites));
	json_object_set_new(x->out, "processes", json_integer(processes));
	json_object_set(x->out, "predicted", predicted ? predicted : json_pack("{sb sf sf sf sf ss}", "known", 0, "calls_per_s", 0., "spans_per_s",
		0., "bytes_per_s", 0.,
		"cpu_percent", 0., "basis", "unknown: no agent is connected"));
	json_object_set_new(x->out, "bytes_per_day", json_integer((json_int_t)(jnum(predicted, "bytes_per_s") * 86400)));
	json_array_foreach(json_object_get(c->result, "warnings"), i, w)
		json_array_append(json_object_get(x->out, "warnings"), w);
	struct fit f = fit_of(c->result);
	bool unknown = c->rc < 0 || (!json_is_true(json_object_get(predicted, "known")) && sites);
	if (c->rc >= 0 && unknown && !f.over)
		warn(x->out, "what it costs is not known, so neither is whether it fits the budget (%s): it can be applied, and the governor keeps it under the budget "
			"as it is measured",
			*jtext(predicted, "basis") ? jtext(predicted, "basis") : "some sites were never on");
	json_object_set_new(x->out, "fits", f.over ? json_false() : unknown ? json_null() : json_true());
	json_object_set_new(x->out, "predicted_percent", json_real(f.percent));
	json_object_set_new(x->out, "budget_percent", json_real(c->rc < 0 ? fleet_budget(c->s) : f.budget));
	if (f.over && *f.host)
		json_object_set_new(x->out, "over_on", json_string(f.host));
	if (!f.over)
		done(c);
	else
		suggest(c);
}

void plan_ask(struct call *c, void (*then)(struct call *))
{
	struct plan *x = c->data;
	x->then = then;
	json_t *version = json_pack("{sI ss ss sI}", "version", (json_int_t)0, "author", jtext(c->body, "author"), "reason", jtext(c->body,
		"reason"), "created_unix_nano",
		(json_int_t)clock_wall());
	x->set = policy_rules(x->p, version);
	json_decref(version);
	ask(c, json_deep_copy(x->set), asked);
}

/* ---- what each rule would have kept --------------------------------------------------------------------------------------- */

/* All traces that were seen, and for each rule those that it would have kept, in one table: trace id -> bits of rules. */
struct seen { uint64_t hi, lo, kept; };
struct replay {
	const struct policy *p;
	struct tq_matcher *m[REPLAY_RULES];
	const struct batch *at;
	struct seen *table;
	uint32_t used, mask, rules;
	bool full;
	uint64_t traces_kept[REPLAY_RULES], spans_kept[REPLAY_RULES], spans;
};

static struct seen *seen_of(struct replay *r, uint64_t hi, uint64_t lo)
{
	uint64_t key[2] = { hi, lo };
	for (uint32_t i = (uint32_t)hash_bytes(key, sizeof(key), 0) & r->mask;; i = (i + 1) & r->mask) {
		struct seen *x = &r->table[i];
		if (x->hi == hi && x->lo == lo && (hi | lo))
			return x;
		if (!(x->hi | x->lo)) {
			if (r->used >= r->mask / 4 * 3)
				return NULL;
			r->used++;
			x->hi = hi;
			x->lo = lo;
			return x;
		}
	}
}

/* Consistent probability (OTEP 235): the random part of a trace id decides, so every host would have decided the same. */
static bool sampled(uint64_t lo, double keep) { return keep >= 1 || (double)(lo & 0xffffffffffffffull) >= (1 - keep) * 0x1p56; }

static int visit(void *arg, const struct batch *b, uint32_t i)
{
	struct replay *r = arg;
	struct seen *t = seen_of(r, b->spans[i].trace_hi, b->spans[i].trace_lo);
	if (!t) {
		r->full = true;
		return 1;
	}
	if (b != r->at) {
		r->at = b;
		for (uint32_t k = 0; k < r->rules; k++)
			if (r->m[k])
				traceql_matcher_begin(r->m[k], b);
	}
	r->spans++;
	for (uint32_t k = 0; k < r->rules; k++)
		if (r->m[k] && traceql_matcher_match(r->m[k], b, i) && sampled(t->lo, r->p->rules[k].keep)) {
			r->spans_kept[k]++;
			r->traces_kept[k] += !(t->kept & 1ull << k);
			t->kept |= 1ull << k;
		}
	return 0;
}

static void replay_work(struct call *c)
{
	struct plan *x = c->data;
	struct replay r = { .p = x->p, .rules = x->p->nrules < REPLAY_RULES ? x->p->nrules : REPLAY_RULES };
	struct store_found f = { 0 };
	struct store_stats st;
	struct err e = { 0 };
	int64_t now = clock_wall();
	struct store_query q = { .from_ns = now - x->replay_ns, .to_ns = now, .deadline_ns = clock_mono() + REPLAY_NS };
	store_stats(c->s->c.store, &st);
	uint32_t want = 1 << 10;
	while (want < REPLAY_TRACES && want < st.spans * 2)
		want <<= 1;
	r.mask = want - 1;
	r.table = base_calloc(want, sizeof(*r.table));
	for (uint32_t k = 0; k < r.rules; k++)
		if (x->p->rules[k].level >= POLICY_LEVEL_SPAN || x->p->rules[k].escalate)
			r.m[k] = traceql_matcher_create(x->p->rules[k].q);
	c->rc = store_scan(c->s->c.store, &q, visit, &r, &f, &e);
	/* What a span takes on disk, from what all of them take; before the first segment is written, by what one has at least. */
	double per_span = st.spans && st.bytes ? (double)(st.bytes + st.wal_bytes) / (double)st.spans : 64;
	for (uint32_t k = 0; k < r.rules; k++) {
		const struct policy_rule *rule = &x->p->rules[k];
		json_t *row = named(json_object_get(x->out, "rules"), "name", rule->name);
		double spans = (double)r.spans_kept[k], seconds = (double)x->replay_ns / 1e9;
		if (rule->rate > 0) {
			double most = rule->rate * seconds * (double)(jint(row, "processes") > 0 ? jint(row, "processes") : 1);
			spans = spans < most ? spans : most;
		}
		json_object_set_new(row, "replay", json_pack("{sI sI sI sI sI sb}", "traces", (json_int_t)r.used, "kept", (json_int_t)r.traces_kept[k], "spans",
			(json_int_t)r.spans_kept[k], "bytes_per_day", (json_int_t)(spans * per_span * 86400 / seconds), "window_nano",
			(json_int_t)x->replay_ns, "partial",
			(int)(f.partial || r.full || c->rc < 0)));
		traceql_matcher_destroy(r.m[k]);
	}
	c->rc = 0;
	free(r.table);
}

static void plan_reply(struct call *c)
{
	struct plan *x = c->data;
	json_t *out = json_incref(x->out);
	struct err e = c->e;
	bool failed = c->rc < 0;
	plan_destroy(x);
	if (failed) {
		json_decref(out);
		call_fail(c, &e);
	} else
		call_json(c, 200, out);
}
static void plan_asked(struct call *c)
{
	struct plan *x = c->data;
	if (c->rc >= 0 && x->replay_ns)
		call_work(c, replay_work, plan_reply);
	else
		plan_reply(c);
}
static void plan_parsed(struct call *c)
{
	struct plan *x = c->data;
	if (x->p)
		plan_ask(c, plan_asked);
	else
		plan_invalid(c);
}
void api_policies_plan(struct call *c) { plan_parse(c, plan_parsed); }
