/* Alerts: what somebody should know now, each with who or what, since when, the value and its limit, and the command that shows more. Looked at anew
 * every second; one that comes or goes is an event. Nothing here is kept: what is wrong is found again after a restart. Loop thread; owns s->alerts. */
#include "base/clock.h"
#include "server/policies.h"
#include <stdio.h>
#include <stdlib.h>

#define SECOND 1000000000ll
#define QUEUE_AGE_NS (5 * SECOND)
static const double QUEUE_BYTES = 128 << 20;

struct alerts {
	json_t *active;                  /* id -> alert */
	json_t *shed;                    /* "host pid site" -> what the governor took away */
	json_t *lost;                    /* reason -> {count, since, until, before}: drops that were seen to grow, or to be there */
	json_t *hosts;                   /* of agents that were seen -> clock_mono() of the last time */
	bool asking, had_agent;
};

int alerts_create(struct server *s)
{
	s->alerts = base_calloc(1, sizeof(*s->alerts));
	*s->alerts = (struct alerts){ json_object(), json_object(), json_object(), json_object(), false, false };
	return 0;
}
void alerts_destroy(struct server *s)
{
	struct alerts *a = s->alerts;
	if (!a)
		return;
	json_decref(a->active);
	json_decref(a->shed);
	json_decref(a->lost);
	json_decref(a->hosts);
	free(a);
	s->alerts = NULL;
}

static void add(json_t *into, const char *id, const char *severity, const char *title, json_t *value, json_t *limit, const char *link,
	const char *cli, const char *fmt, ...)
	__attribute__((format(printf, 9, 10)));
static void add(json_t *into, const char *id, const char *severity, const char *title, json_t *value, json_t *limit, const char *link,
	const char *cli, const char *fmt, ...)
{
	char text[600];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	json_t *o = json_pack("{ss ss ss ss so so ss ss}", "id", id, "severity", severity, "title", title, "text", text, "value", value, "limit",
		limit, "link", link, "cli", cli);
	if (o)
		json_object_set_new(into, id, o);
}

/* ---- what tells of itself ------------------------------------------------------------------------------------------------- */

void alerts_guard(struct server *s, const json_t *ev)
{
	char key[200];
	snprintf(key, sizeof(key), "%s %lld %s", jtext(ev, "host"), (long long)jint(ev, "pid"), jtext(ev, "site"));
	if (!strcmp(jtext(ev, "what"), "shed")) {
		json_t *copy = json_deep_copy(ev);
		json_object_set_new(copy, "seen_mono", json_integer(clock_mono()));
		json_object_set_new(s->alerts->shed, key, copy);
	} else
		json_object_del(s->alerts->shed, key);
}

const json_t *alerts_shed(struct server *s) { return s->alerts->shed; }

/* ---- what is looked at ---------------------------------------------------------------------------------------------------- */

#define CLOCK_JUMP_SHOWN (600 * SECOND)

static void of_server(struct server *s, json_t *out)
{
	struct store_stats st;
	store_stats(s->c.store, &st);
	if ((double)st.queue_bytes > QUEUE_BYTES)
		add(out, "store.queue", "critical", "spans wait to be written", json_integer((json_int_t)st.queue_bytes), json_real(QUEUE_BYTES),
			"#/processes", "klieg doctor",
			"%.0f MiB wait for the disk, the limit is %.0f MiB; at twice that spans are refused", (double)st.queue_bytes / 0x1p20, QUEUE_BYTES / 0x1p20);
	if (st.queue_age_ns > QUEUE_AGE_NS)
		add(out, "store.age", "warning", "spans wait long to be written", json_integer(st.queue_age_ns), json_integer(QUEUE_AGE_NS),
			"#/processes", "klieg doctor",
			"the oldest has waited for %.1f s, the limit is %.0f s", (double)st.queue_age_ns / 1e9, QUEUE_AGE_NS / 1e9);
	if (s->clock_jump && clock_mono() - s->clock_jumped_at < CLOCK_JUMP_SHOWN)
		add(out, "clock", "warning", "the clock was set", json_real((double)s->clock_jump / 1e9), json_null(), "#/overview", "timedatectl",
			"the clock of the server was set %s by %.1f s; toggles and rules last as long as they were to, but spans of before and after are not in order",
			s->clock_jump > 0 ? "forward" : "back", (double)llabs(s->clock_jump) / 1e9);
	if (s->admit.failing)
		add(out, "store.error", "critical", "spans cannot be stored", json_null(), json_null(), "#/processes", "klieg doctor", "%s",
			st.last_error[0] ? st.last_error :
			err_title(s->admit.failing));
	if (s->state_failed)
		add(out, "state", "critical", "changes cannot be saved", json_null(), json_null(), "#/processes", "klieg doctor",
			"what was switched would not survive a restart of the server; the log says why");
	if (s->panic)
		add(out, "panic", "warning", "everything is off", json_null(), json_null(), "#/policies", "klieg panic --undo", "by %s%s%s; policies are suspended",
			jtext(s->panic, "owner"), *jtext(s->panic, "reason") ? ": " : "", jtext(s->panic, "reason"));
}

static void of_policies(struct server *s, json_t *out)
{
	char id[120], cli[120], link[120];
	for (const struct policy_entry *en = s->policies; en; en = en->next) {
		const char *state = jtext(en->head, "state"), *why = jtext(en->head, "why");
		snprintf(id, sizeof(id), "policy.%s", en->name);
		snprintf(cli, sizeof(cli), "klieg policy history %s", en->name);
		snprintf(link, sizeof(link), "#/policies/%s", en->name);
		if (!strcmp(state, "rolled_back") && !strcmp(jtext(en->head, "author"), "system:guardrail"))
			add(out, id, "critical", "a rollout was rolled back", json_null(), json_null(), link, cli, "policy %s: %s", en->name, why);
		else if (!strcmp(state, "stopped"))
			add(out, id, "warning", "a rollout is stopped", json_null(), json_null(), link, cli, "policy %s: %s", en->name, why);
		else if (!strcmp(state, "suspended"))
			add(out, id, "critical", "a policy is not understood", json_null(), json_null(), link, cli, "policy %s: %s", en->name, why);
	}
}

static void of_firings(struct server *s, json_t *out)
{
	size_t i;
	json_t *f;
	char id[80];
	json_array_foreach(s->firings, i, f) {
		const json_t *cause = json_object_get(f, "cause");
		if (strcmp(jtext(f, "state"), "raised"))
			continue;
		snprintf(id, sizeof(id), "firing.%s", jtext(f, "id"));
		add(out, id, "warning", "a trigger has fired", json_real(jnum(cause, "value")), json_real(jnum(cause, "threshold")), "#/policies", "klieg firings",
			"%s%s%s in %s%s%s: %s -> %s because %s%s%.300s", jtext(f, "policy"), *jtext(f, "policy") ? "/" : "", jtext(f, "rule"), jtext(f, "service"),
			*jtext(f, "host") ? " on " : "", jtext(f, "host"), jtext(f, "from"), jtext(f, "to"), jtext(cause, "text"),
			*jtext(cause, "text") ? ": " : "of ", jtext(cause, "query"));
	}
}

static void of_guard(struct server *s, json_t *out)
{
	const char *key, *service;
	json_t *ev, *by_service = json_object(), *sum;
	char id[200];
	void *tmp;
	json_object_foreach_safe(s->alerts->shed, tmp, key, ev) {
		service = jtext(ev, "service");
		if (!(sum = json_object_get(by_service, service)))
			json_object_set_new(by_service, service, sum = json_pack("{si sf sf ss}", "n", 0, "measured", 0., "limit", 0., "name", ""));
		json_object_set_new(sum, "n", json_integer(jint(sum, "n") + 1));
		json_object_set_new(sum, "measured", json_real(jnum(ev, "measured_percent")));
		json_object_set_new(sum, "limit", json_real(jnum(ev, "limit_percent")));
		json_object_set_new(sum, "name", json_string(jtext(ev, "name")));
	}
	json_object_foreach(by_service, service, sum) {
		snprintf(id, sizeof(id), "guard.%s", service);
		add(out, id, "warning", "the governor sheds", json_real(jnum(sum, "measured")), json_real(jnum(sum, "limit")), "#/processes", "klieg overhead",
			"%lld sites of %s are traced less than asked (%s first): overhead was %.2f %% of CPU, the limit is %.2f %%", (long long)jint(sum, "n"), service,
			jtext(sum, "name"), jnum(sum, "measured"), jnum(sum, "limit"));
	}
	json_decref(by_service);
}

static void of_drops(struct server *s, json_t *out, const json_t *account)
{
	json_t *dropped = json_object_get(account, "dropped"), *v, *seen;
	const char *reason;
	int64_t now = clock_mono();
	char id[80];
	json_object_foreach(dropped, reason, v) {
		if (!strcmp(reason, "where") || !strcmp(reason, "too_short"))     /* as asked */
			continue;
		json_int_t n = json_integer_value(v);
		if (!(seen = json_object_get(s->alerts->lost, reason))) {
			/* What agents lost before they were first looked at was most likely lost while nobody took it from them. */
			seen = json_pack("{sI sI sI sb}", "count", n, "since", (json_int_t)0, "until", (json_int_t)(n > 0 ? now + 60 * SECOND : 0), "before", n > 0);
			json_object_set_new(s->alerts->lost, reason, seen);
		}
		if (n > jint(seen, "count")) {
			if (jint(seen, "until") < now) {
				json_object_set(seen, "since", json_object_get(seen, "count"));
				json_object_set_new(seen, "before", json_false());
			}
			json_object_set_new(seen, "until", json_integer(now + 60 * SECOND));
		}
		json_object_set_new(seen, "count", json_integer(n));
		if (jint(seen, "until") < now)
			continue;
		snprintf(id, sizeof(id), "dropped.%s", reason);
		add(out, id, "warning", "spans are lost", json_integer(n - jint(seen, "since")), json_integer(0), "#/processes", "klieg doctor",
			"%lld spans were lost lately%s: %s", (long long)(n - jint(seen, "since")),
			json_is_true(json_object_get(seen, "before")) ? ", or before this server was there" : "", reason);
	}
}

static void of_health(json_t *out, const json_t *health)
{
	const char *name;
	json_t *v;
	char id[80];
	json_object_foreach((json_t *)health, name, v) {
		if (!json_is_object(v) || !json_is_false(json_object_get(v, "ok")))
			continue;
		snprintf(id, sizeof(id), "agent.%s", name);
		add(out, id, "warning", "an agent is not well", json_incref(json_object_get(v, "value") ?: json_null()),
			json_incref(json_object_get(v, "limit") ?: json_null()),
			"#/processes", "klieg doctor", "%s: %s", name, jtext(v, "what"));
	}
}

/* An agent that was here and is not heard of: for an hour, then it is taken to be gone for good. */
static void of_hosts(struct server *s, json_t *out)
{
	json_t *list = fleet_agents(s), *row, *seen;
	int64_t now = clock_mono();
	size_t i;
	const char *host;
	void *tmp;
	char id[300];
	json_array_foreach(list, i, row)
		if (json_is_true(json_object_get(row, "reachable")) || !json_object_get(s->alerts->hosts, jtext(row, "host"))) /* or gone before we looked */
			json_object_set_new(s->alerts->hosts, jtext(row, "host"), json_integer(now));
	json_decref(list);
	json_object_foreach_safe(s->alerts->hosts, tmp, host, seen) {
		int64_t ago = now - json_integer_value(seen);
		if (ago > 3600 * SECOND) {
			json_object_del(s->alerts->hosts, host);
			continue;
		}
		if (ago < 3 * SECOND)
			continue;
		snprintf(id, sizeof(id), "agent.gone.%s", host);
		add(out, id, "critical", "an agent is not heard of", json_integer(ago), json_integer(3 * SECOND), "#/processes", "klieg doctor",
			"the agent of %s has not answered for %lld s: nothing can be switched there; "
			"its processes go on untouched, and their probes stop by themselves when the lease runs out",
			host, (long long)(ago / SECOND));
	}
}

/* What is no more is told, what is new too; what goes on keeps the time it began. */
static void settle(struct server *s, json_t *now)
{
	json_t *before = s->alerts->active, *x, *old, *ev;
	const char *id;
	json_object_foreach(now, id, x) {
		old = json_object_get(before, id);
		json_object_set_new(x, "since_unix_nano", json_integer(old ? jint(old, "since_unix_nano") : clock_wall()));
		if (!old) {
			ev = json_pack("{ss ss sO}", "type", "alert", "what", "raised", "alert", x);
			events_send(s, "alert", ev);
			json_decref(ev);
		}
	}
	json_object_foreach(before, id, x)
		if (!json_object_get(now, id)) {
			ev = json_pack("{ss ss sO}", "type", "alert", "what", "cleared", "alert", x);
			events_send(s, "alert", ev);
			json_decref(ev);
		}
	s->alerts->active = now;
	json_decref(before);
}

static void all_of(struct server *s, const json_t *health, const json_t *account, bool agent)
{
	json_t *out = json_object();
	of_server(s, out);
	of_policies(s, out);
	of_firings(s, out);
	of_guard(s, out);
	of_hosts(s, out);
	s->alerts->had_agent |= agent;
	if (agent) {
		of_drops(s, out, account);
		of_health(out, health);
	} else if (s->alerts->had_agent || s->c.with_agent)
		add(out, "agent", "critical", "no agent answers", json_null(), json_null(), "#/processes", "klieg doctor",
			"nothing can be switched or seen; processes go on untouched, and probes stop by themselves when their lease runs out");
	settle(s, out);
}
static void account_then(struct call *c)
{
	json_t *health = c->data;
	c->s->alerts->asking = false;
	all_of(c->s, health, c->rc < 0 ? NULL : c->result, health != NULL);
	json_decref(health);
	call_free(c);
}
static void health_then(struct call *c)
{
	c->data = c->rc < 0 ? NULL : json_incref(c->result);
	call_agent(c, "account", NULL, account_then);
}
void alerts_tick(struct server *s)
{
	struct alerts *a = s->alerts;
	if (a->asking)
		return;
	struct call *c = base_calloc(1, sizeof(*c));
	c->s = s;
	a->asking = true;
	call_agent(c, "health", NULL, health_then);
}

void api_alerts(struct call *c)
{
	static const char *const order[] = { "critical", "warning", "info" };
	json_t *out = json_array(), *x;
	const char *id;
	for (unsigned k = 0; k < sizeof(order) / sizeof(*order); k++)
		json_object_foreach(c->s->alerts->active, id, x)
			if (!strcmp(jtext(x, "severity"), order[k]))
				json_array_append(out, x);
	call_json(c, 200, json_pack("{so}", "alerts", out));
}
