/* klieg agent: the agent of this host for a server elsewhere. Four threads: the agent's own; the poller (this one), which asks the server for requests;
 * the answerer, which brings the agent's replies back; the shipper, which sends batches as OTLP. They share two bounded queues under one lock. */
#include "agent/agent.h"
#include "base/log.h"
#include "base/priority.h"
#include "cli/cli.h"
#include "model/otlp.h"
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

enum { SHIP_MAX = 64 };                 /* batches that wait here; more wait in the agent's spool, then are counted as dropped there */

struct remote {
	struct client server;
	char id[80], headers[200];
	struct agent *agent;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	struct batch *ship[SHIP_MAX]; unsigned nship;
	bool shipping;
	json_t *answers;                /* array; replies and events for the server */
	atomic_bool stopping;
	atomic_ullong refused;          /* spans the server said it will never take */
	atomic_ullong delivered;        /* spans that servers have taken */
	atomic_llong generation;        /* of the rules that the agent has */
};

static int sink(void *arg, struct batch *b)
{
	struct remote *r = arg;
	int rc = KLIEG_E_BUSY;
	pthread_mutex_lock(&r->lock);
	if (r->nship < SHIP_MAX) {
		r->ship[r->nship++] = b;
		rc = 0;
		pthread_cond_broadcast(&r->changed);
	}
	pthread_mutex_unlock(&r->lock);
	return rc;
}

/* false: try again later. */
static bool send_batch(struct remote *r, const struct batch *b)
{
	struct buf body = { 0 };
	struct err e = { 0 };
	int status = 0;
	otlp_encode(b, 0, b->n, &body);
	int rc = client_post(&r->server, "/v1/traces", r->headers, buf_str(&body), &status, &e);
	buf_finish(&body);
	if (rc < 0 || status == 429 || status == 502 || status == 503 || status == 504)
		return false;
	if (status != 200) {
		r->refused += b->n;
		log_error("agent", "%s refused %u spans with status %d", r->server.named, b->n, status);
	} else
		r->delivered += b->n;
	return true;
}

static void *shipper(void *arg)
{
	struct remote *r = arg;
	bool away = false;
	priority_background();
	pthread_mutex_lock(&r->lock);
	while (!r->stopping || r->nship) {
		if (!r->nship) {
			pthread_cond_wait(&r->changed, &r->lock);
			continue;
		}
		struct batch *b = r->ship[0];
		pthread_mutex_unlock(&r->lock);
		bool done = send_batch(r, b);
		if (done == away) {
			away = !done;
			if (away)
				log_warn("agent", "%s does not take spans; they wait here", r->server.named);
			else
				log_info("agent", "%s takes spans again", r->server.named);
		}
		pthread_mutex_lock(&r->lock);
		if (done) {
			memmove(r->ship, r->ship + 1, --r->nship * sizeof(*r->ship));
			batch_destroy(b);
		} else if (r->stopping) {
			break;
		} else {
			struct timespec t;
			clock_gettime(CLOCK_REALTIME, &t);
			t.tv_nsec += 500000000;
			t.tv_sec += t.tv_nsec / 1000000000;
			t.tv_nsec %= 1000000000;
			pthread_cond_timedwait(&r->changed, &r->lock, &t);
		}
	}
	pthread_mutex_unlock(&r->lock);
	return NULL;
}

static void push(struct remote *r, json_t *message)
{
	pthread_mutex_lock(&r->lock);
	if (json_array_size(r->answers) < 10000)
		json_array_append_new(r->answers, message);
	else
		json_decref(message);
	pthread_cond_broadcast(&r->changed);
	pthread_mutex_unlock(&r->lock);
}

struct ask { struct remote *r; json_int_t id; bool account, change; };

static void on_reply(void *arg, int rc, json_t *result, const struct err *e)   /* the agent's thread */
{
	struct ask *a = arg;
	json_t *m = json_pack("{sI si}", "id", a->id, "rc", rc);
	if (rc >= 0) {
		json_t *copy = json_deep_copy(result);
		if (a->account)                 /* of these, it counts what it took itself as its own */
			json_object_set_new(copy, "delivered", json_integer((json_int_t)a->r->delivered));
		if (a->change && json_is_true(json_object_get(copy, "applied")))
			a->r->generation = json_integer_value(json_object_get(copy, "generation"));
		json_object_set_new(m, "result", copy);
	} else
		json_object_set_new(m, "error", json_pack("{ss ss}", "message", e ? e->msg : "", "hint", e ? e->hint : ""));
	push(a->r, m);
	free(a);
}

static void on_event(void *arg, const json_t *event) { push(arg, json_pack("{so}", "event", json_deep_copy(event))); }

static void *answerer(void *arg)
{
	struct remote *r = arg;
	pthread_mutex_lock(&r->lock);
	while (!r->stopping) {
		if (!json_array_size(r->answers)) {
			pthread_cond_wait(&r->changed, &r->lock);
			continue;
		}
		json_t *body = json_pack("{ss so}", "agent", r->id, "answers", r->answers), *doc = NULL;
		r->answers = json_array();
		pthread_mutex_unlock(&r->lock);
		struct err e = { 0 };
		if (client_json(&r->server, "POST", "/agent/v1/answer", body, &doc, NULL, &e) < 0)
			log_debug("agent", "an answer was lost: %s", e.msg); /* the server gives up on it by itself */
		json_decref(doc);
		json_decref(body);
		pthread_mutex_lock(&r->lock);
	}
	pthread_mutex_unlock(&r->lock);
	return NULL;
}

static struct remote *the_remote;
static void on_signal(int sig) { the_remote->stopping = true; }   /* no SA_RESTART: the poll under way ends with EINTR */

int cli_agent(int argc, char **argv)
{
	struct cli_args a;
	struct err e = { 0 };
	int status = 0;
	char socket[300], host[64] = "";
	const char *name;
	if (cli_begin(argc, argv, &a, &status))
		return status;
	struct remote r = { .lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER, .answers = json_array() };
	if (client_find(cli_opt(&a, "server"), &r.server, &e) < 0)
		return cli_fail(&e);
	double budget = 1;
	if (cli_opt(&a, "budget") && cli_parse_budget(cli_opt(&a, "budget"), &budget, &e) < 0)
		return cli_fail(&e);
	if (cli_background(&a, &e) < 0)
		return cli_fail(&e);
	gethostname(host, sizeof(host) - 1);
	if ((name = cli_opt(&a, "host")))
		snprintf(host, sizeof(host), "%s", name);
	snprintf(r.id, sizeof(r.id), "%s-%d-%lx", host, (int)getpid(), (long)time(NULL));
	snprintf(r.headers, sizeof(r.headers), "Content-Type: application/x-protobuf\r\nKlieg-Agent: %s\r\n", r.id);
	cli_agent_socket(cli_opt(&a, "dir"), socket, sizeof(socket));
	the_remote = &r;
	/* Signals reach this thread only, and end its poll. */
	struct sigaction sa = { .sa_handler = on_signal };
	sigset_t block, old;
	sigemptyset(&block);
	sigaddset(&block, SIGINT);
	sigaddset(&block, SIGTERM);
	pthread_sigmask(SIG_BLOCK, &block, &old);
	signal(SIGPIPE, SIG_IGN);
	pthread_t ship, answer;
	struct agent_config c = { .socket = socket, .host_name = host, .budget_percent = budget, .sink = sink, .sink_arg = &r, .event = on_event, .event_arg = &r };
	if (agent_create(&c, &r.agent, &e) < 0)
		return cli_fail(&e);
	pthread_create(&ship, NULL, shipper, &r);
	pthread_create(&answer, NULL, answerer, &r);
	sigaction(SIGINT, &sa, NULL);
	sigaction(SIGTERM, &sa, NULL);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	printf("ready server=%s socket=%s\n", r.server.named, socket);
	fflush(stdout);

	bool away = false;
	json_t *bye = json_pack("{ss sb}", "agent", r.id, "bye", 1), *doc = NULL;
	while (!r.stopping) {
		json_t *hello = json_pack("{ss ss sI sf}", "agent", r.id, "host", host, "generation", (json_int_t)r.generation,
			"budget_percent", budget), *doc = NULL, *q;
		size_t i;
		e = (struct err){ 0 };
		int rc = client_json(&r.server, "POST", "/agent/v1/poll", hello, &doc, NULL, &e);
		json_decref(hello);
		if (r.stopping) {
			json_decref(doc);
			break;
		}
		if (rc < 0) {
			if (rc == KLIEG_E_CONFLICT) {
				status = cli_fail(&e);
				break;
			}
			if (!away)
				log_warn("agent", "%s; trying again", e.msg);
			away = true;
			nanosleep(&(struct timespec){ .tv_nsec = 500000000 }, NULL);
			continue;
		}
		if (away)
			log_info("agent", "%s is back", r.server.named);
		away = false;
		json_array_foreach(json_object_get(doc, "requests"), i, q) {
			const char *method = json_string_value(json_object_get(q, "method"));
			struct ask *ask = malloc(sizeof(*ask));
			if (!method || !ask) {
				free(ask);
				continue;
			}
			*ask = (struct ask){ &r, json_integer_value(json_object_get(q, "id")), !strcmp(method, "account"), !strcmp(method, "change") };
			agent_request(r.agent, method, json_deep_copy(json_object_get(q, "params")), on_reply, ask);   /* not shared with its thread */
		}
		json_decref(doc);
	}
	agent_destroy(r.agent);          /* sites off; what is left goes to the queue, then to the server */
	pthread_mutex_lock(&r.lock);
	r.stopping = true;
	pthread_cond_broadcast(&r.changed);
	pthread_mutex_unlock(&r.lock);
	pthread_join(ship, NULL);
	pthread_join(answer, NULL);
	unsigned long long lost = r.refused;
	for (unsigned i = 0; i < r.nship; i++) {
		lost += r.ship[i]->n;
		batch_destroy(r.ship[i]);
	}
	if (lost)
		log_warn("agent", "%llu spans could not be delivered to %s", lost, r.server.named);
	if (client_json(&r.server, "POST", "/agent/v1/answer", bye, &doc, NULL, &e) < 0)
		log_debug("agent", "%s", e.msg);
	json_decref(doc);
	json_decref(bye);
	json_decref(r.answers);
	return status;
}
