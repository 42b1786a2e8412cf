/* Many agents behind one server. Each has a queue of asks, which it fetches by long polling (POST /agent/v1/poll) and answers (POST
 * /agent/v1/answer); the one in this process is asked by a function call and answers through the loop. An ask to all is a fan: it ends when
 * everyone has answered or had their time, and joins what came (merge.c). Every agent has the generation of rules that it will be at once its asks
 * are done; whoever is not at the server's gets the complete set.
 *
 * What an agent says is only ever about itself: answers to what it was not asked are counted and forgotten, and its numbers go into no other's row.
 * Loop thread; owns the members. A member that is gone stays as a counter, because what it brought is still stored. */
#include "server/fleet.h"
#include "base/clock.h"
#include "base/hash.h"
#include "base/log.h"
#include "server/desired.h"
#include "server/internal.h"
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define SECOND 1000000000ll
#define POLL_NS (20 * SECOND)            /* a poll without a request is answered then */
#define GONE_NS (30 * SECOND)            /* an agent that has not polled for so long is gone */
#define AWAY_NS (2 * SECOND)             /* no poll waits for so long: it is not asked what can do without it */
#define LATE_NS (SECOND / 4)             /* the patience with one that did not answer the last time */
enum { AGENTS_MAX = 5000, MEMBERS_MAX = 20000, ASKS_MAX = 1000, BUCKETS = 4096 };

const double fleet_bounds[FLEET_BUCKETS] = { .001, .002, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 10 };

/* Parameters that many get: written down once. */
struct payload { unsigned refs; json_t *doc; char *text; };
typedef void (*ask_reply_fn)(void *arg, struct member *m, int rc, json_t *result, const struct err *e);
struct ask {
	struct ask *next;
	json_int_t id;
	char method[32];
	struct payload *params;
	ask_reply_fn reply; void *arg;
	int64_t since, patience;
	bool sent;
};

struct member {
	struct member *next;                 /* in its bucket */
	struct server *s;
	char id[80], host[80];
	bool local, connected, late;
	int64_t seen, seen_wall, poll_since;
	int64_t generation, expected, told, refused; /* acknowledged; after what is under way; in its last poll; the one that it would not take */
	unsigned changing;                   /* changes under way */
	struct http_req *poll;
	struct ask *asks, **asks_end; unsigned nasks;
	unsigned uses;
	atomic_llong taken;                  /* spans that this server took from it */
	json_t *account;                     /* its last */
};

struct fleet {
	struct server *s;
	struct member *buckets[BUCKETS], **all, *mine;
	unsigned n, cap, connected;
	json_int_t next_id;
	server_agent_fn fn; void *fn_arg;
	struct payload *complete; int64_t complete_generation;
	struct fleet_stats stats;
	uint64_t strays;                     /* answers that nobody waited for */
	json_t *former;                      /* the account of members that were forgotten */
	bool full;
};

/* ---- members -------------------------------------------------------------------------------------------------------------- */

static struct member **slot(struct fleet *f, const char *id, size_t n) { return &f->buckets[hash_bytes(id, n, 0) % BUCKETS]; }

static struct member *find(struct fleet *f, struct str id)
{
	struct member *m = id.n ? *slot(f, id.p, id.n) : NULL;
	while (m && !str_is(id, m->id))
		m = m->next;
	return m;
}

static struct member *add(struct server *s, const char *id)
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

static json_t *last_account(const struct member *m);

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
		json_t *account = last_account(m);
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
	struct member *m = find(f, id);
	if (!m && (id.n >= sizeof m->id || !id.n || f->n > MEMBERS_MAX + AGENTS_MAX))
		return NULL;
	if (!m) {                                /* it will poll soon: this server has restarted */
		char *name = str_dup(id);
		m = add(s, name);
		free(name);
	}
	m->uses++;
	return m;
}
void fleet_took(struct member *m, int64_t n) { m->taken += n; }
void fleet_taker_done(struct server *s, struct member *m) { m->uses--; }

/* ---- asks ----------------------------------------------------------------------------------------------------------------- */

static struct payload *payload_create(json_t *doc)
{
	struct payload *p = base_alloc(sizeof *p);
	*p = (struct payload){ 1, doc, NULL };
	return p;
}
static void payload_unref(struct payload *p)
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

static void poll_answer(struct member *m, struct str body)
{
	struct http_req *r = m->poll;
	m->poll = NULL;
	if (!r)
		return;
	if (r->conn)
		m->seen = clock_mono();
	http_reply(r, 200, "application/json", body, NULL);
}

/* Answers the waiting poll with what has not been sent yet. */
static void deliver(struct member *m, bool even_if_empty)
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
		poll_answer(m, buf_str(&b));
	buf_finish(&b);
}

/* Most of what is asked is for somebody who looks at a page; attaching reads symbols, loads a library, waits for a safe place. */
static int64_t patience(const struct member *m, const char *method, const json_t *params)
{
	static const char *const reads[] = { "ps", "ls", "stats", "account", "health", "inflight", "candidates", "vitals", "overhead", "toggles" };
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

static void answered(struct member *m, json_int_t id, int rc, json_t *result, const struct err *e)
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
		answered(l->s->fleet->mine, l->id, l->rc, l->result, &l->e);
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

/* The reply may come before this returns, when the member cannot be asked. */
static void ask(struct member *m, const char *method, struct payload *params, ask_reply_fn reply, void *arg)
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
		deliver(m, false);
		return;
	}
	struct local_reply *l = base_calloc(1, sizeof *l);
	l->s = m->s;
	l->id = a->id;
	a->sent = true;
	f->fn(f->fn_arg, method, json_deep_copy(params->doc), local_reply, l);  /* jansson's counts are not for two threads */
}

/* ---- rules ---------------------------------------------------------------------------------------------------------------- */

static struct payload *complete_set(struct server *s)
{
	struct fleet *f = s->fleet;
	int64_t g = desired_generation(s);
	if (!f->complete || f->complete_generation != g) {
		payload_unref(f->complete);
		f->complete = payload_create(json_pack("{sI si so ss}", "generation", (json_int_t)g, "base", -1, "set", desired_all(s),
			"token_key", desired_token_key(s)));
		f->complete_generation = g;
	}
	return f->complete;
}

/* A change on its way to one agent. part: who waits for it in a fan, or NULL. */
struct sending { int64_t generation; bool complete; ask_reply_fn then; void *part; };

static void send_rules(struct member *m, struct payload *params, int64_t generation, bool complete, ask_reply_fn then, void *part);

static void rules_answered(void *arg, struct member *m, int rc, json_t *result, const struct err *e)
{
	struct sending *x = arg;
	m->changing--;
	if (rc >= 0) {
		m->generation = x->generation;
		m->refused = -1;
	} else if (rc == KLIEG_E_CONFLICT && !x->complete && m->connected) {
		/* It is not where we thought: everything, once, and whoever waits gets that answer. */
		send_rules(m, complete_set(m->s), desired_generation(m->s), true, x->then, x->part);
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

static void send_rules(struct member *m, struct payload *params, int64_t generation, bool complete, ask_reply_fn then, void *part)
{
	struct sending *x = base_alloc(sizeof *x);
	*x = (struct sending){ generation, complete, then, part };
	m->expected = generation;
	m->changing++;
	ask(m, "change", params, rules_answered, x);
}

static void catch_up(struct member *m)
{
	int64_t g = desired_generation(m->s);
	if (m->connected && !m->changing && m->expected != g && m->refused != g)
		send_rules(m, complete_set(m->s), g, true, NULL, NULL);
}

/* ---- one that comes or goes ----------------------------------------------------------------------------------------------- */

static void came(struct member *m)
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

static void left(struct member *m, const char *why)
{
	struct err e;
	if (!m->connected)
		return;
	m->connected = false;
	m->s->fleet->connected--;
	log_info("server", "the agent of %s is gone: %s", m->host, why);
	if (m->poll && !m->poll->conn)
		poll_answer(m, STR(""));
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
			left(f->mine, "klieg ends");
		f->mine = NULL;
		return;
	}
	f->mine = add(s, "local");
	f->mine->local = true;
	f->mine->expected = f->mine->generation = -1;
	if (gethostname(f->mine->host, sizeof f->mine->host - 1) < 0 || !f->mine->host[0])
		snprintf(f->mine->host, sizeof f->mine->host, "localhost");
	came(f->mine);
	catch_up(f->mine);
}

static bool away(const struct member *m, int64_t now)
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
			poll_answer(m, STR(""));
		if (m->poll && now - m->poll_since > POLL_NS)
			deliver(m, true);
		if (!m->poll && now - m->seen > GONE_NS) {
			left(m, "it has not asked for 30 s");
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
			catch_up(m);
	}
	if (f->n > MEMBERS_MAX)
		forget_some(f);
}

/* ---- asking all ----------------------------------------------------------------------------------------------------------- */

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
static json_t *last_account(const struct member *m)
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
				"limit", (int)(n + json_array_size(f->unreachable)), "what", "agents that answer, of those that are connected", "next", "klieg ps; is the network to that host up?"));
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
			f->parts[l->i].result = f->results[l->i] = last_account(m);
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
		if (m->connected && !(away(m, now) && !one)) {
			ask(m, method, p, leg_answered, l);
		} else if (!m->connected) {              /* gone: its account stays, and nobody misses it */
			fan->parts[l->i].host = m->host;
			fan->parts[l->i].result = fan->results[l->i] = last_account(m);
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
	struct payload *delta = payload_create(json_pack("{sI sI so so ss}", "generation", (json_int_t)g, "base", (json_int_t)base,
		"set", set, "remove", remove, "token_key", desired_token_key(s)));
	if (!nobody(s, false, change_done, w)) {
		unsigned n = f->n, i = 0;
		struct fan *fan = fan_create(s, "change", NULL, n, change_done, w);
		for (unsigned k = 0; k < n; k++) {
			struct member *m = f->all[k];
			struct err e;
			if (!m->connected)
				continue;
			if (away(m, now)) {              /* it gets everything when it is back */
				m->expected = -1;
				struct leg *l = leg_create(fan, i++);
				err_set(&e, KLIEG_E_NO_TARGET, "the agent of %.60s does not ask for work", m->host);
				leg_answered(l, m, e.code, NULL, &e);
			} else if (m->expected == base)
				send_rules(m, delta, g, false, leg_answered, leg_create(fan, i++));
			else
				send_rules(m, complete_set(s), g, true, leg_answered, leg_create(fan, i++));
		}
		leg_done(fan);
	}
	payload_unref(delta);
}

/* ---- over the wire -------------------------------------------------------------------------------------------------------- */

static void refuse(struct http_req *r, int code, const char *what, const char *hint)
{
	struct err e;
	err_set(&e, code, "%s", what);
	if (hint)
		err_hint(&e, "%s", hint);
	reply_problem(r, &e);
}

/* The same host's agent has been restarted: the one before is not waited for. One that still lives is told, and ends. */
static bool take_over(struct fleet *f, struct member *m, struct http_req *r)
{
	for (unsigned i = 0; i < f->n; i++) {
		struct member *old = f->all[i];
		if (old == m || !old->connected || strcmp(old->host, m->host))
			continue;
		if (old->local) {
			refuse(r, KLIEG_E_CONFLICT, "this server has an agent of its own for that host (klieg up)",
				"run `klieg server` to serve agents elsewhere, or give this agent a name of its own: klieg agent --host NAME");
			return false;
		}
		if (old->poll && old->poll->conn) {
			struct http_req *waiting = old->poll;
			old->poll = NULL;
			refuse(waiting, KLIEG_E_CONFLICT, "another agent of this host has taken over", "run one klieg agent per host, or give each a name: --host NAME");
		}
		left(old, "another agent of its host has taken over");
	}
	return true;
}

static void poll(struct server *s, struct http_req *r, const char *id, const char *host, const json_t *body)
{
	struct fleet *f = s->fleet;
	struct member *m = find(f, str_of(id));
	int64_t now = clock_mono(), told = json_integer_value(json_object_get(body, "generation"));
	bool fresh = !m || !m->connected;
	if (fresh && f->connected >= AGENTS_MAX) {
		refuse(r, KLIEG_E_BUSY, "this server has as many agents as it takes (5000)", NULL);
		return;
	}
	if (m && m->local) {
		refuse(r, KLIEG_E_CONFLICT, "this agent's id is taken", NULL);
		return;
	}
	if (!m)
		m = add(s, id);
	if (fresh) {
		snprintf(m->host, sizeof m->host, "%s", host);
		if (!take_over(f, m, r))
			return;
		came(m);
	}
	while (m->poll)                          /* answering one may bring the next, if they are sent without waiting */
		poll_answer(m, STR("{\"requests\":[]}"));
	m->seen = m->poll_since = now;
	m->seen_wall = clock_wall();
	m->poll = r;
	/* Told once it may be from before an answer that is on its way; twice, it is so. */
	if (fresh || (!m->changing && told == m->told && told != m->generation))
		m->generation = m->expected = told;
	m->told = told;
	catch_up(m);
	deliver(m, false);
}

static void answer(struct server *s, struct member *m, const json_t *list)
{
	size_t i;
	json_t *x;
	m->seen = clock_mono();
	m->late = false;
	json_array_foreach(list, i, x) {
		json_t *event = json_object_get(x, "event"), *error = json_object_get(x, "error"), *result = json_object_get(x, "result");
		struct err e = { 0 };
		if (json_is_object(event)) {
			json_object_set_new(event, "host", json_string(m->host));
			server_event(s, event);
			continue;
		}
		if (!json_is_integer(json_object_get(x, "id"))) {
			s->fleet->strays++;
			continue;
		}
		json_int_t code = json_integer_value(json_object_get(x, "rc"));
		int rc = code < 0 && code > -1000 ? (int)code : code < 0 ? KLIEG_E_BAD_DATA : 0;
		if (rc >= 0 && !json_is_object(result))
			rc = KLIEG_E_BAD_DATA;
		if (rc < 0) {
			const char *msg = json_string_value(json_object_get(error, "message")), *hint = json_string_value(json_object_get(error, "hint"));
			err_set(&e, rc, "%.390s", msg && *msg ? msg : err_title(rc));
			if (hint && *hint)
				err_hint(&e, "%.230s", hint);
		}
		answered(m, json_integer_value(json_object_get(x, "id")), rc, rc < 0 ? NULL : result, &e);
	}
}

static bool is_name(const char *s, size_t max)
{
	size_t n = s ? strlen(s) : 0;
	if (!n || n >= max)
		return false;
	for (; *s; s++)
		if ((unsigned char)*s <= ' ' || *s == 0x7f)
			return false;
	return true;
}

void fleet_handle(struct server *s, struct http_req *r)
{
	json_t *body = json_loadb((const char *)r->body.p, r->body.n, 0, NULL), *answers = json_object_get(body, "answers");
	const char *id = json_string_value(json_object_get(body, "agent")), *host = json_string_value(json_object_get(body, "host"));
	struct member *m = NULL;
	if (strcmp(r->method, "POST"))
		refuse(r, KLIEG_E_USAGE, "agents send POST /agent/v1/poll and POST /agent/v1/answer", NULL);
	else if (!json_is_object(body) || !is_name(id, sizeof m->id))
		refuse(r, KLIEG_E_USAGE, "send a JSON object with the agent's id, of at most 79 characters and without spaces", "see docs/agent-protocol.md");
	else if (str_is(r->path, "/agent/v1/poll")) {
		if (is_name(host, sizeof m->host))
			poll(s, r, id, host, body);
		else
			refuse(r, KLIEG_E_USAGE, "'host' must be a name of at most 79 characters, without spaces", NULL);
	} else if (!str_is(r->path, "/agent/v1/answer"))
		refuse(r, KLIEG_E_NOT_FOUND, "agents send POST /agent/v1/poll and POST /agent/v1/answer", NULL);
	else if (!(m = find(s->fleet, str_of(id))) || !m->connected || m->local)
		refuse(r, KLIEG_E_CONFLICT, "this agent is not connected: it polls first", NULL);
	else if (answers && !json_is_array(answers))
		refuse(r, KLIEG_E_USAGE, "'answers' must be an array", NULL);
	else {
		bool bye = json_is_true(json_object_get(body, "bye"));
		answer(s, m, answers);
		if (bye) {
			if (m->poll)
				poll_answer(m, STR("{\"requests\":[]}"));
			left(m, "it ended");
		}
		http_reply(r, 200, "application/json", STR("{}"), NULL);
	}
	json_decref(body);
}

/* ---- the rest ------------------------------------------------------------------------------------------------------------- */

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
			ret->unreachable += f->all[i]->late || away(f->all[i], now);
		}
}

json_t *fleet_agents(struct server *s)
{
	struct fleet *f = s->fleet;
	json_t *list = json_array();
	int64_t now = clock_mono();
	for (unsigned i = 0; i < f->n; i++) {
		const struct member *m = f->all[i];
		if (m->connected)
			json_array_append_new(list, json_pack("{ss ss sb sI sb sb sI sI}", "host", m->host, "agent", m->id, "local", (int)m->local,
				"generation", (json_int_t)m->generation, "behind", m->generation != desired_generation(s), "reachable", !m->late && !away(m, now), "seen_unix_nano",
				(json_int_t)(m->local ? clock_wall() : m->seen_wall), "spans", (json_int_t)m->taken));
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
		left(f->all[i], "klieg ends");
		json_decref(f->all[i]->account);
		free(f->all[i]);
	}
	payload_unref(f->complete);
	json_decref(f->former);
	free(f->all);
	free(f);
	s->fleet = NULL;
}
