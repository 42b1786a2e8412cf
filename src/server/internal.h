/* What the files of the server share. */
#pragma once
#include "server/server.h"

struct admit {
	struct store *store;
	atomic_ullong otlp_taken, otlp_rejected, agent_taken, stored, dropped_store, busy;
	atomic_int failing;                    /* KLIEG_E_* of the last append, 0 = it is stored */
	atomic_llong failed_at;                /* clock_mono() */
};
struct watcher;                                /* an SSE client */
struct toggle_set;

struct server {
	struct server_config c;
	struct http_server *http;
	char bound[80], otlp_bound[80];
	struct admit admit;
	server_agent_fn agent;
	void *agent_arg;
	struct remote *remote;                   /* an agent elsewhere; NULL until one polls */
	struct toggle_set *toggles;
	bool state_failed;                       /* the last change could not be saved */
	struct watcher *watchers;
	atomic_int tails;                        /* watchers that want spans */
	uv_timer_t tick;
	int64_t started;
	uint64_t last_stored; double spans_per_s;
};

/* One request on its way through a handler. call_fail and call_json end it. */
struct call {
	struct server *s;
	struct http_req *r;
	const struct route *route;
	json_t *params, *body;               /* validated, with defaults */
	char id[64];                         /* what stands for the {...} of the path */
	json_t *result; struct err e; int rc, status;  /* of work or of the agent */
	void (*then)(struct call *c);        /* loop thread, after work or the agent's reply */
	void (*work)(struct call *c);
	void *data;
};
void call_json(struct call *c, int status, json_t *body);     /* steals body */
void call_text(struct call *c, struct buf *body);              /* 200, JSON text; finishes body */
void call_free(struct call *c);                               /* for streams only: they keep the request */
void call_fail(struct call *c, const struct err *e);
void call_work(struct call *c, void (*work)(struct call *), void (*then)(struct call *));
void call_agent(struct call *c, const char *method, json_t *params, void (*then)(struct call *));  /* steals params; then: c->rc, c->result, c->e */
void call_pass_on(struct call *c);       /* a `then`: what the agent answered, or its error */
int call_range(struct call *c, int64_t *ret_from, int64_t *ret_to, struct err *e);
/* A request that reads spans: time range, filter, limit, deadline; search_done frees it and sends out, or the error. */
struct search { struct store_query q; struct traceql *tq, *root; struct buf out; uint32_t columns; };
struct search *search_create(struct call *c);   /* into c->data; NULL: the call has been failed */
void search_done(struct call *c);
void reply_problem(struct http_req *r, const struct err *e);

/* routes.c: the one table. */
enum field_type { F_TEXT, F_INT, F_BOOL, F_NUMBER, F_DURATION, F_SELECTOR, F_QUERY, F_WHERE, F_TEXTS };
struct field { const char *name; enum field_type type; const char *fallback; double min, max; const char *choices; bool nullable; const char *about; };
struct route {
	const char *method, *path, *permission, *about;
	const struct field *params, *body;
	const char *answers;                     /* see shapes in routes.c; NULL: an event stream */
	void (*handler)(struct call *c);
};
void routes_dispatch(struct server *s, struct http_req *r);
void api_openapi(struct call *c);

void api_status(struct call *c), api_processes(struct call *c), api_sites(struct call *c), api_stats(struct call *c), api_inflight(struct call *c),
	api_doctor(struct call *c), api_events(struct call *c), api_tail(struct call *c), api_spans(struct call *c),
	api_trace(struct call *c), api_heatmap(struct call *c), api_hot(struct call *c), api_callgraph(struct call *c),
	api_attachments(struct call *c), api_attach(struct call *c), api_detach(struct call *c), api_detach_all(struct call *c), api_candidates(struct call *c),
	api_callees(struct call *c),
	api_toggles(struct call *c), api_toggle_on(struct call *c), api_toggle_patch(struct call *c), api_toggle_off(struct call *c), api_toggles_off(struct call *c),
	api_toggles_undo(struct call *c);

/* control.c */
int toggles_create(struct server *s, struct err *e);   /* with what the state store has */
void toggles_restore(struct server *s);                /* tells the agent */
void toggles_destroy(struct toggle_set *t);
void toggles_tick(struct server *s);
unsigned toggles_active(struct server *s, int64_t *ret_next_expiry);

/* admit.c */
void admit_otlp(struct server *s, struct http_req *r);
void admit_dropped(struct server *s, json_t *into);

/* events.c */
void events_send(struct server *s, const char *event, const json_t *data);
void events_tick(struct server *s);
struct batch *events_copy(struct server *s, const struct batch *b);  /* any thread: what the tails may see of b; NULL without tails */
void events_spans(struct server *s, struct batch *copy, uint32_t of);  /* takes the copy of the first spans of a batch of `of`; NULL is fine */
void metrics_reply(struct server *s, struct http_req *r);
/* assets.c */
void assets_reply(struct http_req *r);
/* remote.c */
void remote_handle(struct server *s, struct http_req *r);
void remote_tick(struct server *s);
