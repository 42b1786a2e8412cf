/* Triggers across hosts. Each agent watches its own host and reacts without us; what no host sees alone (a service's rate, its errors, its latency
 * over all of them) is worked out here once a second from what the agents count, for rules whose service runs on several hosts. What is raised goes
 * to all agents as the rule's "raised", by the same steps, decay and cool-down. Quantiles of hosts cannot be added up: theirs are weighed by calls,
 * which is near enough for a threshold. Loop thread. */
#include "base/clock.h"
#include "server/policies.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define WINDOW_NS 10000000000ll
enum { RULES_MAX = 256, LEAST_CALLS = 20 };

struct watched { struct watched *next; char id[220], when[2000]; struct policy_trigger t; struct tq_metric m; struct trigger_state st; bool seen; };
static struct { struct watched *list; bool asking; } across;  /* one server in a process */

static void watched_free(struct watched *w)
{
	traceql_destroy(w->t.q);
	free(w);
}

static struct watched *watch(const char *id, const json_t *rule)
{
	const json_t *esc = json_object_get(rule, "escalate");
	const char *when = jtext(esc, "when");
	struct watched *w, **at = &across.list;
	unsigned n = 0;
	for (; (w = *at); at = &w->next, n++)
		if (!strcmp(w->id, id) && !strcmp(w->when, when))
			return w;
	if (n >= RULES_MAX || strlen(when) >= sizeof(w->when) || strlen(id) >= sizeof(w->id))
		return NULL;
	w = base_calloc(1, sizeof(*w));
	snprintf(w->id, sizeof(w->id), "%s", id);
	snprintf(w->when, sizeof(w->when), "%s", when);
	struct err e = { 0 };
	if (traceql_parse_metric(str_of(when), &w->t.q, &e) < 0 || !traceql_metric(w->t.q, &w->m) || !w->m.compared || w->m.baseline_ns) {
		watched_free(w);                 /* a baseline is a host's own matter */
		return NULL;
	}
	w->t.over_ns = jint(esc, "over_nano");
	w->t.decay_ns = jint(esc, "decay_nano");
	w->t.cooldown_ns = jint(esc, "cooldown_nano");
	policy_level_parse(str_of(jtext(esc, "to")), &w->t.to);
	policy_level_parse(str_of(jtext(rule, "level")), &w->st.base);
	w->st.level = w->st.base;
	if (*jtext(rule, "raised"))      /* by the server that was here before */
		policy_level_parse(str_of(jtext(rule, "raised")), &w->st.level);
	return *at = w;
}

/* ---- a metric over rows of statistics ------------------------------------------------------------------------------------- */

struct call_of { const json_t *row; bool error; };
static void row_get(void *ctx, const struct tq_field *f, struct tq_value *ret_v)
{
	struct call_of *c = ctx;
	const char *key = NULL;
	*ret_v = (struct tq_value){ .type = TQ_NIL };
	if (f->scope == TQ_INTRINSIC && f->intrinsic == TQ_NAME)
		key = "name";
	else if (f->scope == TQ_INTRINSIC && f->intrinsic == TQ_STATUS_)
		*ret_v = (struct tq_value){ .type = TQ_STATUS, .i = c->error ? STATUS_ERROR : STATUS_UNSET };
	else if (f->scope == TQ_INTRINSIC && f->intrinsic == TQ_DURATION_)
		*ret_v = (struct tq_value){ .type = TQ_DURATION, .i = jint(c->row, "mean_nano") };
	else if ((f->scope == TQ_RESOURCE || f->scope == TQ_ANY) && str_is(f->key, "service.name"))
		key = "service";
	else if (f->scope == TQ_ANY && str_is(f->key, "component"))
		key = "component";
	if (key)
		*ret_v = (struct tq_value){ .type = TQ_STR, .s = str_of(jtext(c->row, key)) };
}

static const char *quantile_key(double q) { return q <= .5 ? "p50_nano" : q <= .95 ? "p95_nano" : q <= .99 ? "p99_nano" : "max_nano"; }

/* Of one service; false: it is on one host only, or there is too little of it. */
static bool measure(const struct watched *w, const json_t *rows, const char *service, double *ret_v)
{
	double calls = 0, per_s = 0, value = 0, most = 0, least = INFINITY;
	const char *host = NULL;
	bool several = false;
	size_t i;
	const json_t *row;
	json_array_foreach(rows, i, row) {
		if (strcmp(jtext(row, "service"), service))
			continue;
		struct call_of ok = { row, false }, bad = { row, true };
		bool takes_ok = traceql_eval(w->t.q, &(struct tq_source){ &ok, row_get, NULL }), takes_bad = traceql_eval(w->t.q,
			&(struct tq_source){ &bad, row_get, NULL });
		double all = jnum(row, "calls"), errors = jnum(row, "errors"), n = (takes_ok ? all - errors : 0) + (takes_bad ? errors : 0);
		if (!takes_ok && !takes_bad)
			continue;
		several |= host && strcmp(host, jtext(row, "host"));
		host = jtext(row, "host");
		calls += n;
		per_s += (takes_ok ? jnum(row, "calls_per_s") - jnum(row, "errors_per_s") : 0) + (takes_bad ? jnum(row, "errors_per_s") : 0);
		value += n * jnum(row, w->m.fn == TQ_QUANTILE ? quantile_key(w->m.quantile) : "mean_nano");
		most = jnum(row, "max_nano") > most ? jnum(row, "max_nano") : most;
		least = jnum(row, "p50_nano") < least ? jnum(row, "p50_nano") : least;
	}
	if (!several)
		return false;
	switch (w->m.fn) {
	case TQ_RATE: *ret_v = per_s; return true;
	case TQ_COUNT: *ret_v = calls; return true;
	case TQ_MAX: *ret_v = most; return calls > 0;
	case TQ_SUM: *ret_v = value; return calls > 0;
	case TQ_AVG: case TQ_QUANTILE: *ret_v = calls > 0 ? value / calls : 0; return calls >= LEAST_CALLS;
	default: return false;
	}
}

/* ---- deciding ------------------------------------------------------------------------------------------------------------- */

static void raise_rule(struct server *s, struct watched *w, const json_t *rule, const char *service, uint8_t from, double value)
{
	json_t *copy = json_deep_copy(rule), *set = json_array(), *ev;
	bool up = w->st.level > from;
	if (w->st.level > w->st.base)
		json_object_set_new(copy, "raised", json_string(policy_level_name(w->st.level)));
	else
		json_object_del(copy, "raised");
	json_array_append_new(set, copy);
	ev = json_pack("{ss ss ss ss ss ss ss s{ss sf sf sI} sI}", "type", "trigger", "what", up ? "raised" : "lowered", "rule", w->id, "service",
		service, "host", "", "from",
		policy_level_name(from), "to", policy_level_name(w->st.level), "cause", "query", w->when, "value", value, "threshold", w->m.threshold, "over_nano",
		(json_int_t)w->t.over_ns, "at_unix_nano", (json_int_t)clock_wall());
	firings_event(s, ev);
	events_send(s, "trigger", ev);
	json_decref(ev);
	desired_change(s, set, NULL, policy_told, s);
}

static void step(struct server *s, struct watched *w, const json_t *rule, const json_t *rows)
{
	const char *worst = "";
	double value = 0, one;
	bool known = false, low = w->m.cmp[0] == '<';
	size_t i;
	const json_t *row;
	json_t *done = json_object();
	json_array_foreach(rows, i, row) {
		const char *service = jtext(row, "service");
		if (json_object_get(done, service))
			continue;
		json_object_set_new(done, service, json_true());
		if (measure(w, rows, service, &one) && (!known || (low ? one < value : one > value))) {
			known = true;
			value = one;
			worst = service;
		}
	}
	uint8_t from = w->st.level;
	if (trigger_step(&w->t, &w->st, clock_mono(), known, value) != TRIGGER_STAY && w->st.level != from)
		raise_rule(s, w, rule, worst, from, value);
	json_decref(done);
}

static void stats_then(struct call *c)
{
	json_t *rules = json_copy(desired_rules(c->s)), *rule;
	const char *id;
	across.asking = false;
	for (struct watched *w = across.list; w; w = w->next)
		w->seen = false;
	json_object_foreach(rules, id, rule) {
		struct watched *w = json_object_get(rule, "escalate") ? watch(id, rule) : NULL;
		if (!w)
			continue;
		w->seen = true;
		if (c->rc >= 0)
			step(c->s, w, rule, json_object_get(c->result, "sites"));
	}
	for (struct watched **at = &across.list, *w; (w = *at);)
		if (w->seen)
			at = &w->next;
		else {
			*at = w->next;
			watched_free(w);
		}
	json_decref(rules);
	call_free(c);
}

void across_tick(struct server *s)
{
	struct fleet_stats agents;
	const char *id;
	json_t *rule;
	bool any = across.list != NULL;
	fleet_stats(s, &agents);
	if (across.asking || agents.agents < 2)
		return;
	json_object_foreach(desired_rules(s), id, rule)
		any |= json_object_get(rule, "escalate") != NULL;
	if (!any)
		return;
	struct call *c = base_calloc(1, sizeof(*c));
	c->s = s;
	across.asking = true;
	call_agent(c, "stats", json_pack("{ss sI}", "selector", "", "window_nano", (json_int_t)WINDOW_NS), stats_then);
}
