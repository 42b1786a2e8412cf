/* Firings: each time a trigger raised a level, why, what it did, and the traces that were caught. Agents tell (event "trigger"); what raises across
 * hosts (across.c) comes the same way. Kept in the state store, the newest FIRINGS_MAX. Traces are looked up in the span store when somebody asks.
 * Loop thread, but for the looking up. */
#include "base/clock.h"
#include "base/log.h"
#include "server/policies.h"
#include <stdio.h>
#include <stdlib.h>

enum { FIRINGS_MAX = 1000, TRACES_MAX = 5, LOOKED_UP = 100 };
#define SECOND 1000000000ll
static const char KIND[] = "firing";

static void save(struct server *s, const json_t *f)
{
	struct err e = { 0 };
	char *text = json_dumps(f, JSON_COMPACT);
	if (state_put(s->c.state, KIND, jtext(f, "id"), str_of(text), STATE_ANY, NULL, &e) < 0)
		log_warn("server", "a firing cannot be saved: %s", e.msg);
	free(text);
}

static void ended(struct server *s, json_t *f, const char *how)
{
	json_object_set_new(f, "state", json_string(how));
	json_object_set_new(f, "ended_unix_nano", json_integer(clock_wall()));
	save(s, f);
}

static int newest_first(const void *a, const void *b)
{
	json_int_t x = jint(*(json_t *const *)a, "at_unix_nano"), y = jint(*(json_t *const *)b, "at_unix_nano");
	return x < y ? 1 : x > y ? -1 : 0;
}
static int loaded(void *arg, const char *id, int64_t version, struct str text)
{
	json_t *f = json_loadb(text.p, text.n, 0, NULL);
	if (json_is_object(f))
		json_array_append_new(arg, f);
	else
		json_decref(f);
	return 0;
}
int firings_create(struct server *s, struct err *e)
{
	json_t *all = json_array(), **rows;
	s->firings = json_array();
	int rc = state_list(s->c.state, KIND, loaded, all);
	size_t n = json_array_size(all), i;
	rows = base_calloc(n + 1, sizeof(*rows));
	for (i = 0; i < n; i++)
		rows[i] = json_array_get(all, i);
	qsort(rows, n, sizeof(*rows), newest_first);
	for (i = 0; i < n; i++)
		json_array_append(s->firings, rows[i]);
	free(rows);
	json_decref(all);
	json_t *f;
	json_array_foreach(s->firings, i, f)             /* the agent in this process begins anew */
		if (!strcmp(jtext(f, "state"), "raised") && *jtext(f, "host") && !*jtext(f, "agent"))
			ended(s, f, "agent_gone");
	return rc < 0 ? err_set(e, rc, "the firings in %s/state.db cannot be read: %s", s->c.dir, err_title(rc)) : 0;
}

/* "p:checkout/slow@3" -> policy checkout, rule slow; a toggle is its own rule. */
static void names_of(const char *id, char policy[80], char rule[80])
{
	const char *slash = strchr(id, '/'), *at = slash ? strchr(slash, '@') : NULL;
	snprintf(policy, 80, "%.*s", slash && !strncmp(id, "p:", 2) ? (int)(slash - id - 2) : 0, id + 2);
	snprintf(rule, 80, "%.*s", slash ? (at ? (int)(at - slash - 1) : 79) : 79, slash ? slash + 1 : id);
}

void firings_event(struct server *s, const json_t *ev)
{
	const char *id = jtext(ev, "rule"), *service = jtext(ev, "service"), *host = jtext(ev, "host"), *agent = jtext(ev, "agent");
	char policy[80], rule[80], name[40];
	size_t i;
	json_t *f;
	names_of(id, policy, rule);
	/* A level is the rule's, on that host: the service that was last over the threshold need not be the one that is told when it is calm. */
	if (strcmp(jtext(ev, "what"), "raised")) {
		json_array_foreach(s->firings, i, f)
			if (!strcmp(jtext(f, "state"), "raised") && !strcmp(jtext(f, "rule_id"), id) && !strcmp(jtext(f, "host"), host) &&
				!strcmp(jtext(f, "agent"), agent) && !strcmp(jtext(f, "to"), jtext(ev, "from"))) {
				ended(s, f, "lowered");
				break;
			}
		return;
	}
	const json_t *wanted = json_object_get(desired_rules(s), id);
	int64_t at = jint(ev, "at_unix_nano") ? jint(ev, "at_unix_nano") : clock_wall();
	json_int_t number = json_array_size(s->firings) ? jint(json_array_get(s->firings, 0), "number") + 1 : 1;
	snprintf(name, sizeof(name), "f-%lld", (long long)number);
	f = json_pack("{ss sI sI ss ss ss ss ss sO? ss ss ss ss ss sI}", "id", name, "number", number, "at_unix_nano", (json_int_t)at, "host", host,
		"policy", policy, "rule", rule,
		"rule_id", id, "service", service, "cause", json_object_get(ev, "cause"), "from", jtext(ev, "from"), "to", jtext(ev, "to"), "state", "raised", "owner",
		jtext(wanted, "owner"), "match", jtext(wanted, "selector"), "version", jint(wanted, "version"));
	if (!f)
		return;
	if (*agent)
		json_object_set_new(f, "agent", json_string(agent));
	json_array_insert_new(s->firings, 0, f);
	save(s, f);
	while (json_array_size(s->firings) > FIRINGS_MAX) {
		state_forget(s->c.state, KIND, jtext(json_array_get(s->firings, FIRINGS_MAX), "id"));
		json_array_remove(s->firings, FIRINGS_MAX);
	}
}

/* What was raised is no more once its rule is gone; or once another agent has come in place of the one that raised it, which knows nothing of it. */
void firings_tick(struct server *s)
{
	size_t i;
	json_t *f;
	json_array_foreach(s->firings, i, f)
		if (!strcmp(jtext(f, "state"), "raised") && !json_object_get(desired_rules(s), jtext(f, "rule_id")))
			ended(s, f, "rule_gone");
		else if (!strcmp(jtext(f, "state"), "raised") && *jtext(f, "agent") && !fleet_has(s, jtext(f, "host"), jtext(f, "agent")) &&
			fleet_has(s, jtext(f, "host"), NULL))
			ended(s, f, "agent_gone");
}

/* ---- what was caught ------------------------------------------------------------------------------------------------------ */

/* The slowest traces that the rule matched in that service, from before it fired (that is why it did) until it was lowered. */
static void look_up(struct call *c, json_t *f, int64_t deadline)
{
	struct traceql *q = NULL;
	struct batch *b = NULL;
	struct store_found found = { 0 };
	struct err e = { 0 };
	json_t *ids = json_array();
	int64_t at = jint(f, "at_unix_nano"), end = jint(f, "ended_unix_nano"), over = jint(json_object_get(f, "cause"), "over_nano");
	struct store_query sq = { .from_ns = at - over - 10 * SECOND, .to_ns = end ? end : at + 600 * SECOND, .limit = 1000, .newest_first = false,
		.deadline_ns = deadline };
	if (*jtext(f, "match") && traceql_parse_selector(str_of(jtext(f, "match")), &q, &e) >= 0) {
		sq.q = q;
		if (store_query(c->s->c.store, &sq, &b, &found, &e) < 0)
			b = NULL;
	}
	bool *used = base_calloc(b ? b->n + 1 : 1, sizeof(*used));
	while (b && json_array_size(ids) < TRACES_MAX) {
		uint32_t best = b->n;
		char hex[33];
		for (uint32_t i = 0; i < b->n; i++)
			if (!used[i] && str_is(batch_text(b, b->resources[b->spans[i].resource].service), jtext(f, "service")) &&
				(best == b->n || b->spans[i].duration_ns > b->spans[best].duration_ns))
				best = i;
		if (best == b->n)
			break;
		for (uint32_t i = 0; i < b->n; i++)
			used[i] |= b->spans[i].trace_hi == b->spans[best].trace_hi && b->spans[i].trace_lo == b->spans[best].trace_lo;
		trace_id_hex(b->spans[best].trace_hi, b->spans[best].trace_lo, hex);
		json_array_append_new(ids, json_string(hex));
	}
	free(used);
	if (b)
		batch_destroy(b);
	traceql_destroy(q);
	json_object_set_new(f, "traces", ids);
}
static void look_up_all(struct call *c)
{
	size_t i;
	json_t *f;
	int64_t end = clock_mono() + 5 * SECOND;
	json_array_foreach(json_object_get(c->result, "firings"), i, f) {
		if (i < LOOKED_UP && clock_mono() < end)
			look_up(c, f, end);
		else
			json_object_set_new(f, "traces", json_array());
		json_object_del(f, "number");
	}
}
static void listed(struct call *c) { call_json(c, 200, json_incref(c->result)); }

void api_firings(struct call *c)
{
	const char *policy = jtext(c->params, "policy");
	int64_t from = clock_wall() - jint(c->params, "since");
	json_t *out = json_array(), *f;
	size_t i;
	json_array_foreach(c->s->firings, i, f)
		if (jint(f, "at_unix_nano") >= from && (!*policy || !strcmp(policy, jtext(f, "policy"))))
			json_array_append_new(out, json_deep_copy(f));
	c->result = json_pack("{so}", "firings", out);
	call_work(c, look_up_all, listed);
}
