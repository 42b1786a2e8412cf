/* Triggers across hosts. Each agent watches its own host and reacts without us; what no host sees alone (a service's rate, its errors, its latency, what
 * its requests wait, over all of them) is worked out here once a second from what the agents' triggers have measured, for rules whose service runs on
 * several hosts: histograms of hosts add up, so a quantile over all of them is as exact as one host's. What is raised goes to all agents as the
 * rule's "raised", by the same steps, decay and cool-down. Loop thread. */
#include "base/clock.h"
#include "server/policies.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define WINDOW_NS 10000000000ll
enum { RULES_MAX = 256, LEAST_CALLS = 20, BUCKETS_MAX = 1 << 16 };

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

/* ---- a metric over what the hosts have measured --------------------------------------------------------------------------- */

struct bucket { double value, n; };
static int by_value(const void *a, const void *b)
{
	double x = ((const struct bucket *)a)->value, y = ((const struct bucket *)b)->value;
	return x < y ? -1 : x > y;
}

/* q 0: the least. */
static double quantile(struct bucket *list, size_t n, double q)
{
	double all = 0, at = 0;
	qsort(list, n, sizeof(*list), by_value);
	for (size_t i = 0; i < n; i++)
		all += list[i].n;
	for (size_t i = 0; i < n; i++)
		if ((at += list[i].n) >= floor(q * (all > 1 ? all - 1 : 0)) + 1 - 1e-6)
			return list[i].value;
	return n ? list[n - 1].value : 0;
}

/* Of one service; false: it is on one host only, or there is too little of it. */
static bool measure(const struct watched *w, const json_t *rows, const char *service, double *ret_v)
{
	double seen = 0, calls = 0, per_s = 0, sum = 0, most = 0;
	struct bucket *list = NULL;
	size_t n = 0, i, k;
	const char *host = NULL;
	bool several = false, shape = w->m.fn == TQ_QUANTILE || w->m.fn == TQ_MIN;
	const json_t *row, *pair;
	json_array_foreach(rows, i, row) {
		const json_t *hist = json_object_get(row, "histogram");
		double covered = jnum(row, "covered_nano") / 1e9;
		if (strcmp(jtext(row, "service"), service) || strcmp(jtext(row, "rule"), w->id) || covered < .5)
			continue;
		several |= host && strcmp(host, jtext(row, "host"));
		host = jtext(row, "host");
		seen += jnum(row, "seen");
		calls += jnum(row, "calls");
		per_s += jnum(row, "calls") / covered;
		sum += jnum(row, "sum_nano");
		most = jnum(row, "max_nano") > most ? jnum(row, "max_nano") : most;
		if (!shape || n + json_array_size(hist) > BUCKETS_MAX)
			continue;
		list = base_realloc(list, (n + json_array_size(hist) + 1) * sizeof(*list));
		json_array_foreach(hist, k, pair)
			list[n++] = (struct bucket){ json_number_value(json_array_get(pair, 0)), fmax(json_number_value(json_array_get(pair, 1)), 0) };
	}
	double over = w->t.over_ns < 1000000000 ? 1 : (double)w->t.over_ns / 1e9;
	bool known = several && (w->m.fn == TQ_RATE || w->m.fn == TQ_COUNT || w->m.fn == TQ_SUM || seen >= LEAST_CALLS);
	switch (w->m.fn) {
	case TQ_RATE: *ret_v = per_s; break;
	case TQ_COUNT: *ret_v = per_s * over; break;
	case TQ_SUM: *ret_v = calls > 0 ? per_s * over * sum / calls : 0; break;
	case TQ_AVG: *ret_v = calls > 0 ? sum / calls : 0; break;
	case TQ_MAX: *ret_v = most; break;
	case TQ_MIN: case TQ_QUANTILE: *ret_v = quantile(list, n, w->m.quantile); break;
	default: known = false;
	}
	free(list);
	return known;
}

/* ---- deciding ------------------------------------------------------------------------------------------------------------- */

static void raise_rule(struct server *s, struct watched *w, const json_t *rule, const char *service, uint8_t from, bool known, double value)
{
	json_t *copy = json_deep_copy(rule), *set = json_array(), *ev;
	bool up = w->st.level > from;
	char words[240];
	size_t said;
	trigger_words(&w->t, known ? value : NAN, up, words, sizeof(words));
	said = strlen(words);
	snprintf(words + said, sizeof(words) - said, ", over all hosts");
	if (w->st.level > w->st.base)
		json_object_set_new(copy, "raised", json_string(policy_level_name(w->st.level)));
	else
		json_object_del(copy, "raised");
	json_array_append_new(set, copy);
	ev = json_pack("{ss ss ss ss ss ss ss s{ss ss sf sf sI} sI}", "type", "trigger", "what", up ? "raised" : "lowered", "rule", w->id, "service",
		service, "host", "", "from",
		policy_level_name(from), "to", policy_level_name(w->st.level), "cause", "query", w->when, "text", words, "value", value, "threshold", w->m.threshold, "over_nano",
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
		raise_rule(s, w, rule, worst, from, known, value);
	json_decref(done);
}

static void measured_then(struct call *c)
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
			step(c->s, w, rule, json_object_get(c->result, "triggers"));
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
	call_agent(c, "triggers", json_pack("{sI}", "window_nano", (json_int_t)WINDOW_NS), measured_then);
}
