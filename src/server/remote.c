/* An agent elsewhere, as the server sees it: a queue of requests that the agent fetches by long polling (POST /agent/v1/poll) and answers
 * (POST /agent/v1/answer). To the rest of the server it is the same function an agent in the process is. One agent at a time: to ask several and join
 * their answers is another cut. Loop thread. */
#include "base/clock.h"
#include "server/internal.h"
#include <stdio.h>
#include <stdlib.h>

#define POLL_NS (20 * 1000000000ll)      /* a poll without a request is answered then */
#define ANSWER_NS (10 * 1000000000ll)    /* a request without an answer is given up then */
#define ATTACH_NS (60 * 1000000000ll)    /* these read symbols, load a library, wait for a safe place */
#define GONE_NS (30 * 1000000000ll)      /* an agent that has not polled for so long is gone */

struct ask { struct ask *next; json_int_t id; char method[32]; json_t *params; server_reply_fn reply; void *arg; int64_t since; bool sent; };
struct remote { char id[80], host[80]; int64_t seen; struct ask *asks; json_int_t next_id; struct http_req *poll; int64_t poll_since; };

static void ask_end(struct ask *a, int rc, json_t *result, const struct err *e)
{
	a->reply(a->arg, rc, result, e);
	json_decref(a->params);
	free(a);
}

/* Answers the waiting poll with what has not been sent yet. */
static void deliver(struct remote *m, bool even_if_empty)
{
	json_t *list = json_array();
	if (m->poll && m->poll->conn)
		for (struct ask *a = m->asks; a; a = a->next)
			if (!a->sent) {
				a->sent = true;
				json_array_append_new(list, json_pack("{sI ss sO?}", "id", a->id, "method", a->method, "params", a->params));
			}
	if (m->poll && (json_array_size(list) || even_if_empty)) {
		json_t *doc = json_pack("{sO}", "requests", list);
		char *text = json_dumps(doc, JSON_COMPACT);
		http_reply(m->poll, 200, "application/json", str_of(text), NULL);
		m->poll = NULL;
		free(text);
		json_decref(doc);
	}
	json_decref(list);
}

static void remote_ask(void *arg, const char *method, json_t *params, server_reply_fn reply, void *reply_arg)
{
	struct remote *m = arg;
	struct ask *a = base_calloc(1, sizeof(*a)), **at = &m->asks;
	snprintf(a->method, sizeof(a->method), "%s", method);
	*a = (struct ask){ .id = ++m->next_id, .params = params, .reply = reply, .arg = reply_arg, .since = clock_mono() };
	snprintf(a->method, sizeof(a->method), "%s", method);
	while (*at)
		at = &(*at)->next;
	*at = a;
	deliver(m, false);
}

static int64_t patience(const struct ask *a) { return !strcmp(a->method, "attach") || !strcmp(a->method, "detach") ? ATTACH_NS : ANSWER_NS; }

void remote_tick(struct server *s)
{
	struct remote *m = s->remote;
	int64_t now = clock_mono();
	if (!m)
		return;
	if (m->poll && !m->poll->conn) {         /* the agent hung up */
		http_reply(m->poll, 200, NULL, STR(""), NULL);
		m->poll = NULL;
	}
	if (m->poll && now - m->poll_since > POLL_NS)
		deliver(m, true);
	bool gone = s->agent && !m->poll && now - m->seen > GONE_NS;
	if (gone)
		server_set_agent(s, NULL, NULL);
	struct err e;
	err_set(&e, KLIEG_E_NO_TARGET, "the agent %.60s did not answer in time", m->id);
	for (struct ask **at = &m->asks, *a; (a = *at);)
		if (gone || now - a->since > patience(a)) {
			*at = a->next;
			ask_end(a, e.code, NULL, &e);
		} else
			at = &a->next;
}

static void refuse(struct http_req *r, int code, const char *what, const char *hint)
{
	struct err e;
	err_set(&e, code, "%s", what);
	if (hint)
		err_hint(&e, "%s", hint);
	reply_problem(r, &e);
}

static void poll(struct server *s, struct http_req *r, const char *id, const char *host)
{
	struct remote *m = s->remote;
	int64_t now = clock_mono();
	if (strcmp(m->id, id) && strcmp(m->host, host) && s->agent && now - m->seen < GONE_NS) /* the same host's may take over: it was restarted */
		return refuse(r, KLIEG_E_CONFLICT, "another agent is attached to this server, and this version takes one",
			"give each host a server of its own, or stop the other agent and wait 30 s");
	bool fresh = strcmp(m->id, id) || !s->agent;
	snprintf(m->id, sizeof(m->id), "%s", id);
	snprintf(m->host, sizeof(m->host), "%s", host);
	if (m->poll)
		http_reply(m->poll, 200, "application/json", STR("{\"requests\":[]}"), NULL);
	m->seen = m->poll_since = now;
	m->poll = r;
	if (fresh)
		server_set_agent(s, remote_ask, m);
	deliver(m, false);
}

static void answer(struct server *s, struct http_req *r, const json_t *list)
{
	struct remote *m = s->remote;
	size_t i;
	json_t *x;
	m->seen = clock_mono();
	json_array_foreach(list, i, x) {
		json_t *event = json_object_get(x, "event"), *error = json_object_get(x, "error");
		if (event) {
			server_event(s, event);
			continue;
		}
		for (struct ask **at = &m->asks, *a; (a = *at); at = &a->next)
			if (a->id == json_integer_value(json_object_get(x, "id"))) {
				struct err e = { 0 };
				int rc = (int)json_integer_value(json_object_get(x, "rc"));
				json_t *result = json_object_get(x, "result");
				if (rc >= 0 && !json_is_object(result))
					rc = KLIEG_E_BAD_DATA;
				if (rc < 0) {
					const char *msg = json_string_value(json_object_get(error, "message")), *hint = json_string_value(json_object_get(error, "hint"));
					err_set(&e, rc, "%s", msg && *msg ? msg : err_title(rc));
					if (hint && *hint)
						err_hint(&e, "%s", hint);
				}
				*at = a->next;
				ask_end(a, rc, rc < 0 ? NULL : result, &e);
				break;
			}
	}
	http_reply(r, 200, "application/json", STR("{}"), NULL);
}

void remote_handle(struct server *s, struct http_req *r)
{
	json_t *body = json_loadb((const char *)r->body.p, r->body.n, 0, NULL);
	const char *id = json_string_value(json_object_get(body, "agent")), *host = json_string_value(json_object_get(body, "host"));
	bool polls = str_is(r->path, "/agent/v1/poll");
	if (s->c.with_agent)
		refuse(r, KLIEG_E_CONFLICT, "this server has an agent of its own (klieg up)", "run `klieg server` to serve an agent elsewhere");
	else if (strcmp(r->method, "POST") || !id || !*id || strlen(id) >= sizeof(s->remote->id))
		refuse(r, KLIEG_E_USAGE, "POST a JSON object with the agent's id", NULL);
	else {
		if (!s->remote)
			s->remote = base_calloc(1, sizeof(*s->remote));
		if (polls)
			poll(s, r, id, host ? host : "");
		else if (strcmp(s->remote->id, id))
			refuse(r, KLIEG_E_CONFLICT, "this agent is not attached", NULL);
		else {
			if (json_is_true(json_object_get(body, "bye")))
				server_set_agent(s, NULL, NULL);
			answer(s, r, json_object_get(body, "answers"));
		}
	}
	json_decref(body);
}
