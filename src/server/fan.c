/* Asking all agents, or the one that a question is about, as if there were one: a fan has a leg per agent, ends when all have answered or had
 * their time, and joins what came (merge.c). Rules that changed go out the same way. The account of agents that are gone is here too: what they
 * brought is stored.
 * Loop thread; a fan owns itself. */
#include "server/desired.h"
#include "server/fleet_internal.h"
#include <stdio.h>
#include <stdlib.h>

struct fan {
	struct server *s;
	char method[32];
	json_t *params;
	unsigned n, waiting, failed;
	struct merge_part *parts; json_t **results;
	json_t *unreachable, *failures;
	int rc; struct err e;
	int64_t since;
	fleet_then_fn then; void *arg;
};
struct leg { struct fan *f; unsigned i; };

/* For one that did not say how it is now: what this server has taken from it was made there, and is all that can be said for sure. */
json_t *member_last_account(const struct member *m)
{
	json_int_t taken = m->taken, passed = jint(m->account, "passed"), carried = jint(m->account, "carried"), lost = 0;
	json_t *dropped = m->account ? json_deep_copy(json_object_get(m->account, "dropped")) : json_object(), *v;
	const char *k;
	json_object_foreach(dropped, k, v)
		lost += json_integer_value(v);
	if (passed < carried + taken || !m->connected)
		passed = carried + taken;
	json_int_t open = m->connected ? jint(m->account, "open") : 0;
	return json_pack("{sI sI sI sI so}", "made", passed + open + lost, "passed", passed, "carried", carried, "open", open, "dropped", dropped);
}

/* What a former server took from it is not in this one's account. It tells how much has been taken from it in all. */
static void own_part(struct member *m, json_t *account)
{
	json_t *delivered = json_object_get(account, "delivered");
	json_int_t before = json_is_integer(delivered) ? json_integer_value(delivered) - (json_int_t)m->taken : 0;
	if (before > 0)
		json_object_set_new(account, "carried", json_integer(json_integer_value(json_object_get(account, "carried")) + before));
	json_object_del(account, "delivered");
	json_decref(m->account);
	m->account = json_copy(account);
	json_object_del(m->account, "processes");
}

/* About one process. */
static bool for_one(const char *method) { return !strcmp(method, "attach") || !strcmp(method, "detach") || !strcmp(method, "callees"); }

static void fan_end(struct fan *f)
{
	json_t *all = NULL;
	unsigned n = 0;
	for (unsigned i = 0; i < f->n; i++)
		if (f->parts[i].result)
			f->parts[n++] = f->parts[i];
	if (n) {
		all = merge_answers(f->method, f->params, f->parts, n);
		if (for_one(f->method))
			json_object_set_new(all, "host", json_string(f->parts[0].host));
		if (json_array_size(f->unreachable))
			json_object_set(all, "unreachable", f->unreachable);
		if (json_array_size(f->failures) && f->rc != KLIEG_E_NO_MATCH)
			json_object_set(all, "failed", f->failures);
		if (!strcmp(f->method, "health"))
			json_object_set_new(all, "agents", json_pack("{sb si si ss ss}", "ok", !json_array_size(f->unreachable), "value", (int)n,
				"limit", (int)(n + json_array_size(f->unreachable)), "what",
				"agents that answer, of those that are connected", "next", "klieg ps; is the network to that host up?"));
	}
	f->then(f->arg, n ? 0 : f->rc, all, &f->e);
	json_decref(all);
	for (unsigned i = 0; i < f->n; i++)
		json_decref(f->results[i]);
	free(f->parts);
	free(f->results);
	json_decref(f->params);
	json_decref(f->unreachable);
	json_decref(f->failures);
	free(f);
}

static void leg_done(struct fan *f)
{
	if (!--f->waiting)
		fan_end(f);
}

static void leg_failed(struct fan *f, struct member *m, int rc, const struct err *e)
{
	if (rc == KLIEG_E_NO_TARGET)
		json_array_append_new(f->unreachable, json_string(m->host));
	else
		json_array_append_new(f->failures, json_pack("{ss ss ss}", "host", m->host, "code", err_name(rc), "detail", e ? e->msg : ""));
	/* What one says about the question counts more than that another was not there. */
	if (!f->rc || f->rc == KLIEG_E_NO_TARGET || (f->rc == KLIEG_E_NO_MATCH && rc != KLIEG_E_NO_TARGET)) {
		f->rc = rc;
		if (e)
			f->e = *e;
	}
}

static void leg_answered(void *arg, struct member *m, int rc, json_t *result, const struct err *e)
{
	struct leg *l = arg;
	struct fan *f = l->f;
	f->parts[l->i].host = m->host;
	if (rc >= 0) {
		f->results[l->i] = json_incref(result);
		if (!strcmp(f->method, "account"))
			own_part(m, result);
		f->parts[l->i].result = result;
	} else {
		leg_failed(f, m, rc, e);
		if (!strcmp(f->method, "account") && rc == KLIEG_E_NO_TARGET)
			f->parts[l->i].result = f->results[l->i] = member_last_account(m);
	}
	free(l);
	leg_done(f);
}

static struct fan *fan_create(struct server *s, const char *method, json_t *params, unsigned n, fleet_then_fn then, void *arg)
{
	struct fan *f = base_calloc(1, sizeof *f);
	*f = (struct fan){ .s = s, .params = params, .n = n, .waiting = 1, .then = then, .arg = arg, .unreachable = json_array(), .failures = json_array(),
		.since = clock_mono() };
	snprintf(f->method, sizeof f->method, "%s", method);
	f->parts = base_calloc(n + 1, sizeof *f->parts);
	f->results = base_calloc(n + 1, sizeof *f->results);
	return f;
}

static struct leg *leg_create(struct fan *f, unsigned i)
{
	struct leg *l = base_alloc(sizeof *l);
	*l = (struct leg){ f, i };
	f->waiting++;
	return l;
}

static void list_hosts(struct fleet *f, char *s, size_t n)
{
	size_t at = 0;
	*s = 0;
	for (unsigned i = 0; i < f->n; i++) {
		if (!f->all[i]->connected)
			continue;
		if (at + 90 > n) {
			snprintf(s + at, n - at, ", ...");
			return;
		}
		at += (size_t)snprintf(s + at, n - at, "%s%s", at ? ", " : "", f->all[i]->host);
	}
}

/* The agent that a request about one process is for. */
static struct member *one_of(struct fleet *f, const json_t *params, struct err *e)
{
	const char *host = json_string_value(json_object_get(params, "host"));
	struct member *only = NULL;
	char hosts[300];
	for (unsigned i = 0; i < f->n; i++) {
		struct member *m = f->all[i];
		if (m->connected && (host ? !strcmp(m->host, host) : f->connected == 1 || m->local))
			only = m;
	}
	if (only)
		return only;
	list_hosts(f, hosts, sizeof hosts);
	if (host)
		err_set(e, KLIEG_E_NO_TARGET, "there is no agent of a host '%.80s'", host);
	else
		err_set(e, KLIEG_E_USAGE, "several hosts are connected: say which one");
	err_hint(e, "hosts: %s", hosts);
	return NULL;
}

static bool nobody(struct server *s, bool account, fleet_then_fn then, void *arg)
{
	struct err e;
	if (s->fleet->connected)
		return false;
	for (unsigned i = 0; account && i < s->fleet->n; i++)
		if (s->fleet->all[i]->taken)
			return false;
	err_set(&e, KLIEG_E_NO_TARGET, "no agent is connected to this server");
	then(arg, e.code, NULL, &e);
	return true;
}

/* Each shall give the first rows, so that the page can be cut out of what all have. */
static json_t *page(const char *method, json_t *params, unsigned n)
{
	json_t *p = json_deep_copy(params);
	json_int_t offset = json_integer_value(json_object_get(p, "offset")), limit = json_integer_value(json_object_get(p, "limit"));
	if (n > 1 && !strcmp(method, "ls") && offset > 0) {
		json_object_set_new(p, "limit", json_integer(offset + (limit > 0 ? limit : 1000)));
		json_object_set_new(p, "offset", json_integer(0));
	}
	return p;
}

void fleet_ask(struct server *s, const char *method, json_t *params, fleet_then_fn then, void *arg)
{
	struct fleet *f = s->fleet;
	struct err e = { 0 };
	struct member *one = NULL;
	bool account = !strcmp(method, "account");
	if (nobody(s, account, then, arg) || (for_one(method) && !(one = one_of(f, params, &e)))) {
		if (e.code)
			then(arg, e.code, NULL, &e);
		json_decref(params);
		return;
	}
	int64_t now = clock_mono();
	unsigned n = f->n, i = 0;
	struct fan *fan = fan_create(s, method, params, n + 1, then, arg);
	struct payload *p = payload_create(page(method, params, f->connected));
	for (unsigned k = 0; k < n; k++) {
		struct member *m = f->all[k];
		if (one ? m != one : !m->connected && !(account && m->taken))
			continue;
		struct leg *l = leg_create(fan, i++);
		if (m->connected && !(member_away(m, now) && !one)) {
			member_ask(m, method, p, leg_answered, l);
		} else if (!m->connected) {              /* gone: its account stays, and nobody misses it */
			fan->parts[l->i].host = m->host;
			fan->parts[l->i].result = fan->results[l->i] = member_last_account(m);
			free(l);
			leg_done(fan);
		} else {
			err_set(&e, KLIEG_E_NO_TARGET, "the agent of %.60s does not ask for work", m->host);
			leg_answered(l, m, e.code, NULL, &e);
		}
	}
	if (account && f->former) {
		fan->parts[i].host = "";
		fan->parts[i].result = fan->results[i] = json_deep_copy(f->former);
	}
	payload_unref(p);
	leg_done(fan);
}

struct change_wait { struct server *s; fleet_then_fn then; void *arg; int64_t since; };
static void change_done(void *arg, int rc, json_t *result, const struct err *e)
{
	struct change_wait *w = arg;
	struct fleet_stats *t = &w->s->fleet->stats;
	double seconds = (double)(clock_mono() - w->since) / 1e9;
	unsigned b = 0;
	if (rc >= 0) {
		while (b < FLEET_BUCKETS && seconds > fleet_bounds[b])
			b++;
		t->acks[b]++;
		t->nacks++;
		t->ack_sum += seconds;
	}
	if (w->then)
		w->then(w->arg, rc, result, e);
	free(w);
}

void fleet_change(struct server *s, int64_t base, json_t *set, json_t *remove, fleet_then_fn then, void *arg)
{
	struct fleet *f = s->fleet;
	int64_t g = desired_generation(s), now = clock_mono();
	struct change_wait *w = base_alloc(sizeof *w);
	*w = (struct change_wait){ s, then, arg, now };
	f->stats.changes++;
	struct payload *delta = payload_create(json_pack("{sI sI sI so so ss}", "now_unix_nano", (json_int_t)clock_wall(), "generation", (json_int_t)g, "base", (json_int_t)base,
		"set", set, "remove", remove, "token_key", desired_token_key(s)));
	if (!nobody(s, false, change_done, w)) {
		unsigned n = f->n, i = 0;
		struct fan *fan = fan_create(s, "change", NULL, n, change_done, w);
		for (unsigned k = 0; k < n; k++) {
			struct member *m = f->all[k];
			struct err e;
			if (!m->connected)
				continue;
			if (member_away(m, now)) {              /* it gets everything when it is back */
				m->expected = -1;
				struct leg *l = leg_create(fan, i++);
				err_set(&e, KLIEG_E_NO_TARGET, "the agent of %.60s does not ask for work", m->host);
				leg_answered(l, m, e.code, NULL, &e);
			} else if (m->expected == base)
				member_send_rules(m, delta, g, false, leg_answered, leg_create(fan, i++));
			else
				member_send_rules(m, fleet_complete_set(s), g, true, leg_answered, leg_create(fan, i++));
		}
		leg_done(fan);
	}
	payload_unref(delta);
}
