/* Agents that poll: POST /agent/v1/poll and /agent/v1/answer (docs/agent-protocol.md "Over a wire"). What they send is checked here; what an agent
 * says is only ever about itself. Loop thread. */
#include "base/log.h"
#include "server/fleet_internal.h"
#include <stdio.h>
#include <stdlib.h>

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
		member_left(old, "another agent of its host has taken over");
	}
	return true;
}

static void poll(struct server *s, struct http_req *r, const char *id, const char *host, const json_t *body)
{
	struct fleet *f = s->fleet;
	struct member *m = member_find(f, str_of(id));
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
		m = member_add(s, id);
	if (fresh) {
		snprintf(m->host, sizeof m->host, "%s", host);
		if (!take_over(f, m, r))
			return;
		member_came(m);
	}
	while (m->poll)                          /* answering one may bring the next, if they are sent without waiting */
		member_poll_answer(m, STR("{\"requests\":[]}"));
	m->seen = m->poll_since = now;
	m->seen_wall = clock_wall();
	m->poll = r;
	/* Told once it may be from before an answer that is on its way; twice, it is so. */
	if (fresh || (!m->changing && told == m->told && told != m->generation))
		m->generation = m->expected = told;
	m->told = told;
	double budget = json_number_value(json_object_get(body, "budget_percent"));
	m->budget = budget >= 0 && budget <= 100 ? budget : 0;
	member_catch_up(m);
	member_deliver(m, false);
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
			json_object_set_new(event, "agent", json_string(m->id));
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
		member_answered(m, json_integer_value(json_object_get(x, "id")), rc, rc < 0 ? NULL : result, &e);
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
	else if (!(m = member_find(s->fleet, str_of(id))) || !m->connected || m->local)
		refuse(r, KLIEG_E_CONFLICT, "this agent is not connected: it polls first", NULL);
	else if (answers && !json_is_array(answers))
		refuse(r, KLIEG_E_USAGE, "'answers' must be an array", NULL);
	else {
		bool bye = json_is_true(json_object_get(body, "bye"));
		answer(s, m, answers);
		if (bye) {
			if (m->poll)
				member_poll_answer(m, STR("{\"requests\":[]}"));
			member_left(m, "it ended");
		}
		http_reply(r, 200, "application/json", STR("{}"), NULL);
	}
	json_decref(body);
}
