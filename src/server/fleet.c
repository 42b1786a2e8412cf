/* Many agents behind one server. Each has a queue of asks, which it fetches by long polling (POST /agent/v1/poll) and answers (POST
 * /agent/v1/answer); the one in this process is asked by a function call and answers through the loop. An ask to all is a fan: it ends when
 * everyone has answered or had their time, and joins what came (merge.c). Every agent has the generation of rules that it will be at once its asks
 * are done; whoever is not at the server's gets the complete set.
 *
 * What an agent says is only ever about itself: answers to what it was not asked are counted and forgotten, and its numbers go into no other's row.
 * Loop thread; owns the members. A member that is gone stays as a counter, because what it brought is still stored. */
#include "server/fleet_internal.h"
#include "base/hash.h"
#include "base/log.h"
#include "server/desired.h"
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define POLL_NS (20 * SECOND)            /* a poll without a request is answered then */
#define GONE_NS (30 * SECOND)            /* an agent that has not polled for so long is gone */
#define AWAY_NS (2 * SECOND)             /* no poll waits for so long: it is not asked what can do without it */
#define LATE_NS (SECOND / 4)             /* the patience with one that did not answer the last time */
enum { MEMBERS_MAX = 20000, ASKS_MAX = 1000 };

const double fleet_bounds[FLEET_BUCKETS] = { .001, .002, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 10 };

/* ---- members -------------------------------------------------------------------------------------------------------------- */

static struct member **slot(struct fleet *f, const char *id, size_t n) { return &f->buckets[hash_bytes(id, n, 0) % BUCKETS]; }

struct member *member_find(struct fleet *f, struct str id)
{
	struct member *m = id.n ? *slot(f, id.p, id.n) : NULL;
	while (m && !str_is(id, m->id))
		m = m->next;
	return m;
}

struct member *member_add(struct server *s, const char *id)
{
	struct fleet *f = s->fleet;
	struct member *m = base_calloc(1, sizeof *m), **at = slot(f, id, strlen(id));
	m->s = s;
	snprintf(m->id, sizeof m->id, "%s", id);
	m->asks_end = &m->asks;
	m->told = m->refused = -1;
	m->next = *at;
	*at = m;
	if (f->n == f->cap)
		f->all = base_realloc(f->all, (f->cap = f->cap ? 2 * f->cap : 64) * sizeof(struct member *));
	f->all[f->n++] = m;
	return m;
}

static void fold(json_t **into, const char *host, const json_t *account)
{
	struct merge_part p[2] = { { "", *into }, { host, account } };
	json_t *sum = *into ? merge_answers("account", NULL, p, 2) : merge_answers("account", NULL, p + 1, 1);
	json_object_del(sum, "processes");
	json_decref(*into);
	*into = sum;
}

/* Forgets members that are gone, the oldest first; what they brought stays in the sum. */
static void forget_some(struct fleet *f)
{
	unsigned to = 0, excess = f->n > MEMBERS_MAX ? f->n - MEMBERS_MAX : 0;
	for (unsigned i = 0; i < f->n; i++) {
		struct member *m = f->all[i], **at = slot(f, m->id, strlen(m->id));
		if (!excess || m->connected || m->uses || m->asks || m->changing) {
			f->all[to++] = m;
			continue;
		}
		excess--;
		while (*at != m)
			at = &(*at)->next;
		*at = m->next;
		json_t *account = member_last_account(m);
		fold(&f->former, m->host, account);
		json_decref(account);
		json_decref(m->account);
		free(m);
	}
	f->n = to;
}

struct member *fleet_taker(struct server *s, struct str id)
{
	struct fleet *f = s->fleet;
	struct member *m = member_find(f, id);
	if (!m && (id.n >= sizeof m->id || !id.n || f->n > MEMBERS_MAX + AGENTS_MAX))
		return NULL;
	if (!m) {                                /* it will poll soon: this server has restarted */
		char *name = str_dup(id);
		m = member_add(s, name);
		free(name);
	}
	m->uses++;
	return m;
}
void fleet_took(struct member *m, int64_t n) { m->taken += n; }
void fleet_taker_done(struct server *s, struct member *m) { m->uses--; }

/* ---- asks ----------------------------------------------------------------------------------------------------------------- */

struct payload *payload_create(json_t *doc)
{
	struct payload *p = base_alloc(sizeof *p);
	*p = (struct payload){ 1, doc, NULL };
	return p;
}
void payload_unref(struct payload *p)
{
	if (!p || --p->refs)
		return;
	json_decref(p->doc);
	free(p->text);
	free(p);
}
static const char *payload_text(struct payload *p)
{
	if (!p->text && p->doc)
		p->text = json_dumps(p->doc, JSON_COMPACT);
	return p->text ? p->text : "null";
}

static void ask_end(struct member *m, struct ask **at, int rc, json_t *result, const struct err *e)
{
	struct ask *a = *at;
	*at = a->next;
	if (!a->next)
		m->asks_end = at;
	m->nasks--;
	a->reply(a->arg, m, rc, result, e);
	payload_unref(a->params);
	free(a);
}

void member_poll_answer(struct member *m, struct str body)
{
	struct http_req *r = m->poll;
	m->poll = NULL;
	if (!r)
		return;
	if (r->conn)
		m->seen = clock_mono();
	http_reply(r, 200, "application/json", body, NULL);
}

void member_deliver(struct member *m, bool even_if_empty)
{
	struct buf b = { 0 };
	unsigned n = 0;
	if (!m->poll || !m->poll->conn)
		return;
	buf_add_str(&b, "{\"requests\":[");
	for (struct ask *a = m->asks; a; a = a->next)
		if (!a->sent) {
			a->sent = true;
			buf_printf(&b, "%s{\"id\":%lld,\"method\":\"%s\",\"params\":", n++ ? "," : "", (long long)a->id, a->method);
			buf_add_str(&b, payload_text(a->params));
			buf_byte(&b, '}');
		}
	buf_add_str(&b, "]}");
	if (n || even_if_empty)
		member_poll_answer(m, buf_str(&b));
	buf_finish(&b);
}

/* Most of what is asked is for somebody who looks at a page; attaching reads symbols, loads a library, waits for a safe place. */
static int64_t patience(const struct member *m, const char *method, const json_t *params)
{
	static const char *const reads[] = { "ps", "ls", "stats", "account", "health", "inflight", "candidates", "vitals", "overhead", "toggles", "triggers" };
	if (m->local)
		return INT64_MAX;                    /* a thread of this process */
	if (!strcmp(method, "attach") || !strcmp(method, "detach"))
		return 60 * SECOND;
	for (unsigned i = 0; i < sizeof reads / sizeof *reads; i++)
		if (!strcmp(method, reads[i]))
			return m->late ? LATE_NS : 3 * SECOND;
	json_int_t estimate = json_integer_value(json_object_get(params, "estimate_nano"));
	return 10 * SECOND + (estimate > 0 && estimate < 60 * SECOND ? estimate : 0);
}

struct local_reply { struct server *s; json_int_t id; int rc; json_t *result; struct err e; };

void member_answered(struct member *m, json_int_t id, int rc, json_t *result, const struct err *e)
{
	for (struct ask **at = &m->asks; *at; at = &(*at)->next)
		if ((*at)->id == id && (*at)->sent) {
			ask_end(m, at, rc, result, e);
			return;
		}
	m->s->fleet->strays++;
}
static void local_arrived(void *arg)
{
	struct local_reply *l = arg;
	if (l->s->fleet->mine)
		member_answered(l->s->fleet->mine, l->id, l->rc, l->result, &l->e);
	json_decref(l->result);
	free(l);
}
static void local_reply(void *arg, int rc, json_t *result, const struct err *e)  /* the agent's thread */
{
	struct local_reply *l = arg;
	l->rc = rc;
	l->result = rc < 0 ? NULL : json_deep_copy(result);
	if (e)
		l->e = *e;
	loop_post(l->s->c.loop, local_arrived, l);
}

void member_ask(struct member *m, const char *method, struct payload *params, ask_reply_fn reply, void *arg)
{
	struct fleet *f = m->s->fleet;
	if (m->nasks >= ASKS_MAX) {
		struct err e;
		err_set(&e, KLIEG_E_BUSY, "the agent of %.60s has too much to do", m->host);
		reply(arg, m, e.code, NULL, &e);
		return;
	}
	struct ask *a = base_calloc(1, sizeof *a);
	*a = (struct ask){ .id = ++f->next_id, .params = params, .reply = reply, .arg = arg, .since = clock_mono() };
	params->refs++;
	snprintf(a->method, sizeof a->method, "%s", method);
	a->patience = patience(m, method, params->doc);
	*m->asks_end = a;
	m->asks_end = &a->next;
	m->nasks++;
	if (!m->local) {
		member_deliver(m, false);
		return;
	}
	struct local_reply *l = base_calloc(1, sizeof *l);
	l->s = m->s;
	l->id = a->id;
	a->sent = true;
	f->fn(f->fn_arg, method, json_deep_copy(params->doc), local_reply, l);  /* jansson's counts are not for two threads */
}

/* ---- rules ---------------------------------------------------------------------------------------------------------------- */

struct payload *fleet_complete_set(struct server *s)
{
	struct fleet *f = s->fleet;
	int64_t g = desired_generation(s);
	if (!f->complete || f->complete_generation != g || clock_mono() - f->complete_at > 1000000000) { /* it says what time it is */
		payload_unref(f->complete);
		f->complete = payload_create(json_pack("{sI sI si so ss}", "now_unix_nano", (json_int_t)clock_wall(), "generation", (json_int_t)g, "base", -1, "set", desired_all(s),
			"token_key", desired_token_key(s)));
		f->complete_generation = g;
		f->complete_at = clock_mono();
	}
	return f->complete;
}

/* A change on its way to one agent. part: who waits for it in a fan, or NULL. */
struct sending { int64_t generation; bool complete; ask_reply_fn then; void *part; };

static void rules_answered(void *arg, struct member *m, int rc, json_t *result, const struct err *e)
{
	struct sending *x = arg;
	m->changing--;
	if (rc >= 0) {
		m->generation = x->generation;
		m->refused = -1;
	} else if (rc == KLIEG_E_CONFLICT && !x->complete && m->connected) {
		/* It is not where we thought: everything, once, and whoever waits gets that answer. */
		member_send_rules(m, fleet_complete_set(m->s), desired_generation(m->s), true, x->then, x->part);
		free(x);
		return;
	} else {
		m->expected = -1;
		m->s->fleet->stats.failures++;
		if (rc != KLIEG_E_NO_TARGET && m->refused != x->generation) {
			m->refused = x->generation;          /* the same again would be refused again */
			log_warn("server", "the agent of %s refuses the rules: %s", m->host, e ? e->msg : err_title(rc));
		}
	}
	if (x->then)
		x->then(x->part, m, rc, result, e);
	free(x);
}

void member_send_rules(struct member *m, struct payload *params, int64_t generation, bool complete, ask_reply_fn then, void *part)
{
	struct sending *x = base_alloc(sizeof *x);
	*x = (struct sending){ generation, complete, then, part };
	m->expected = generation;
	m->changing++;
	member_ask(m, "change", params, rules_answered, x);
}

void member_catch_up(struct member *m)
{
	int64_t g = desired_generation(m->s);
	if (m->connected && !m->changing && m->expected != g && m->refused != g)
		member_send_rules(m, fleet_complete_set(m->s), g, true, NULL, NULL);
}

/* ---- one that comes or goes ----------------------------------------------------------------------------------------------- */

void member_came(struct member *m)
{
	m->connected = true;
	m->late = false;
	m->refused = -1;
	m->s->fleet->connected++;
	log_info("server", "the agent of %s is here", m->host);
	json_t *event = json_pack("{ss ss ss ss}", "type", "agent", "what", "connected", "host", m->host, "agent", m->id);
	events_send(m->s, "agent", event);
	json_decref(event);
}

void member_left(struct member *m, const char *why)
{
	struct err e;
	if (!m->connected)
		return;
	m->connected = false;
	m->s->fleet->connected--;
	log_info("server", "the agent of %s is gone: %s", m->host, why);
	if (m->poll && !m->poll->conn)
		member_poll_answer(m, STR(""));
	err_set(&e, KLIEG_E_NO_TARGET, "the agent of %.60s is gone", m->host);
	while (m->asks)
		ask_end(m, &m->asks, e.code, NULL, &e);
	json_t *event = json_pack("{ss ss ss ss ss}", "type", "agent", "what", "gone", "host", m->host, "agent", m->id, "why", why);
	events_send(m->s, "agent", event);
	json_decref(event);
}

void fleet_local(struct server *s, server_agent_fn fn, void *agent)
{
	struct fleet *f = s->fleet;
	f->fn = fn;
	f->fn_arg = agent;
	if (!fn) {
		if (f->mine)
			member_left(f->mine, "klieg ends");
		f->mine = NULL;
		return;
	}
	f->mine = member_add(s, "local");
	f->mine->local = true;
	f->mine->budget = s->c.budget_percent;
	f->mine->expected = f->mine->generation = -1;
	if (gethostname(f->mine->host, sizeof f->mine->host - 1) < 0 || !f->mine->host[0])
		snprintf(f->mine->host, sizeof f->mine->host, "localhost");
	member_came(f->mine);
	member_catch_up(f->mine);
}

bool member_away(const struct member *m, int64_t now)
{
	return !m->local && !(m->poll && m->poll->conn) && now - m->seen > AWAY_NS;
}

void fleet_tick(struct server *s)
{
	struct fleet *f = s->fleet;
	int64_t now = clock_mono();
	for (unsigned i = 0; i < f->n; i++) {
		struct member *m = f->all[i];
		struct err e;
		if (!m->connected || m->local)
			continue;
		if (m->poll && !m->poll->conn)           /* it hung up */
			member_poll_answer(m, STR(""));
		if (m->poll && now - m->poll_since > POLL_NS)
			member_deliver(m, true);
		if (!m->poll && now - m->seen > GONE_NS) {
			member_left(m, "it has not asked for 30 s");
			continue;
		}
		for (struct ask **at = &m->asks; *at;)
			if (now - (*at)->since > (*at)->patience) {
				m->late = true;
				err_set(&e, KLIEG_E_NO_TARGET, "the agent of %.60s did not answer in time", m->host);
				ask_end(m, at, e.code, NULL, &e);
			} else
				at = &(*at)->next;
		if (m->poll)
			member_catch_up(m);
	}
	if (f->n > MEMBERS_MAX)
		forget_some(f);
}

/* ---- the rest ------------------------------------------------------------------------------------------------------------- */

bool fleet_turn(struct server *s) { return ++s->fleet->seconds % ((s->fleet->connected + 199) / 200 + !s->fleet->connected) == 0; }

const char *fleet_local_host(struct server *s) { return s->fleet->mine ? s->fleet->mine->host : NULL; }

void fleet_stats(struct server *s, struct fleet_stats *ret)
{
	struct fleet *f = s->fleet;
	int64_t now = clock_mono(), g = desired_generation(s);
	*ret = f->stats;
	ret->agents = f->connected;
	ret->behind = ret->unreachable = 0;
	for (unsigned i = 0; i < f->n; i++)
		if (f->all[i]->connected) {
			ret->behind += f->all[i]->generation != g;
			ret->unreachable += f->all[i]->late || member_away(f->all[i], now);
		}
}

double fleet_budget(struct server *s)
{
	double least = 0;
	for (unsigned i = 0; i < s->fleet->n; i++) {
		const struct member *m = s->fleet->all[i];
		if (m->connected && m->budget > 0 && (least <= 0 || m->budget < least))
			least = m->budget;
	}
	return least;
}

bool fleet_has(struct server *s, const char *host, const char *agent)
{
	for (unsigned i = 0; i < s->fleet->n; i++) {
		const struct member *m = s->fleet->all[i];
		if (m->connected && !strcmp(m->host, host) && (!agent || !strcmp(m->id, agent)))
			return true;
	}
	return false;
}

json_t *fleet_agents(struct server *s)
{
	struct fleet *f = s->fleet;
	json_t *list = json_array();
	int64_t now = clock_mono();
	for (unsigned i = 0; i < f->n; i++) {
		const struct member *m = f->all[i];
		if (m->connected)
			json_array_append_new(list, json_pack("{ss ss sb sI sb sb sI sI sf}", "host", m->host, "agent", m->id, "local", (int)m->local,
				"generation", (json_int_t)m->generation, "behind", m->generation != desired_generation(s), "reachable",
				!m->late && !member_away(m, now), "seen_unix_nano", (json_int_t)(m->local ? clock_wall() : m->seen_wall), "spans", (json_int_t)m->taken,
				"budget_percent", m->budget));
	}
	return list;
}

void fleet_create(struct server *s)
{
	s->fleet = base_calloc(1, sizeof *s->fleet);
	s->fleet->s = s;
}

void fleet_destroy(struct server *s)
{
	struct fleet *f = s->fleet;
	if (!f)
		return;
	for (unsigned i = 0; i < f->n; i++) {
		member_left(f->all[i], "klieg ends");
		json_decref(f->all[i]->account);
		free(f->all[i]);
	}
	payload_unref(f->complete);
	json_decref(f->former);
	free(f->all);
	free(f);
	s->fleet = NULL;
}
