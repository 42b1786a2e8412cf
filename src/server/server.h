/* The server: admits spans, answers the API, forwards toggles to the agent. Everything runs on the loop's thread except what says otherwise. It does not
 * know the agent but through the function it is given (src/main.c composes them; a remote agent will be another such function). */
#pragma once
#include "base/err.h"
#include "net/http.h"
#include "store/state.h"
#include "store/store.h"
#include <jansson.h>
#include <stdatomic.h>

typedef void (*server_reply_fn)(void *arg, int rc, json_t *result, const struct err *e);  /* the agent's thread; as agent_reply_fn */
typedef void (*server_agent_fn)(void *agent, const char *method, json_t *params, server_reply_fn reply, void *arg);

struct server_config {
	const char *dir, *http, *otlp_http;
	const char *otlp_grpc, *jaeger_http, *jaeger_grpc; /* NULL: the usual port if it is free; "off": none */
	double sampling_default;   /* 0..1: what SDKs are told about services that no rule is about */
	struct store *store;
	struct state *state;
	bool with_agent;           /* one will be set: not ready without it, */
	double budget_percent;     /* and this is its budget */
	struct loop *loop;
};
struct server;
int server_create(const struct server_config *c, struct server **ret_s, struct err *e);
void server_set_agent(struct server *s, server_agent_fn fn, void *agent);  /* before loop_run; NULL fn = none any more */
const char *server_http(const struct server *s);       /* HOST:PORT as bound */
const char *server_otlp_http(const struct server *s);
const char *server_otlp_grpc(const struct server *s), *server_jaeger_http(const struct server *s), *server_jaeger_grpc(const struct server *s);  /* "": none */
void server_destroy(struct server *s);                 /* call before loop_destroy */
/* The agent's sink and its events; called on the agent's thread. */
int server_sink(void *server, struct batch *b);
void server_event(void *server, const json_t *event);
