/* What the files of the server share. */
#pragma once
#include "server/audit.h"
#include "server/desired.h"
#include "base/priority.h"
#include "net/grpc.h"
#include "server/fleet.h"
#include "server/server.h"
#include <string.h>

/* Members of JSON objects, of which any may be absent. */
static inline const char *jtext(const json_t *o, const char *k) { return json_string_value(json_object_get(o, k)) ?: ""; }
static inline json_int_t jint(const json_t *o, const char *k) { return json_integer_value(json_object_get(o, k)); }
static inline double jnum(const json_t *o, const char *k) { return json_number_value(json_object_get(o, k)); }

struct admit {
	struct store *store;
	atomic_ullong otlp_taken, otlp_rejected, agent_taken, stored, dropped_store, busy;
	atomic_int failing;                    /* KLIEG_E_* of the last append, 0 = it is stored */
	atomic_llong failed_at;                /* clock_mono() */
};
struct watcher;                                /* an SSE client */
struct toggle_set;
struct policy_entry;
struct alerts;
struct desired;

struct server {
	struct server_config c;
	struct http_server *http;
	char bound[80], otlp_bound[80];
	struct admit admit;
	struct fleet *fleet;                     /* the agents */
	struct sampling *sampling;
	struct grpc_server *grpc;
	char otlp_grpc_bound[80], jaeger_http_bound[80], jaeger_grpc_bound[80]; /* empty: not listening */
	struct desired *desired;                 /* the rules in force */
	struct toggle_set *toggles;
	struct policy_entry *policies;           /* by name */
	json_t *firings;                         /* newest first */
	json_t *panic;                           /* NULL: none */
	struct alerts *alerts;
	struct audit *audit;
	struct call *acting;                     /* whose request is being handled at this moment; NULL: nobody's */
	bool state_failed;                       /* the last change could not be saved */
	struct watcher *watchers;
	atomic_int tails;                        /* watchers that want spans */
	uv_timer_t tick;
	struct priority_pace pace;
	int64_t awaited;                /* when spans were last hurried along, CLOCK_MONOTONIC */
	int64_t started;
	int64_t clock_offset, clock_jump, clock_jumped_at; /* wall clock minus monotonic; the last time it was set: by how much, when (monotonic) */
	uint64_t last_stored; double spans_per_s;
};

/* One request on its way through a handler. call_fail and call_json end it. */
struct call {
	struct server *s;
	struct http_req *r;
	const struct route *route;
	json_t *params, *body;               /* validated, with defaults */
	char id[72];                         /* what stands for the {...} of the path */
	json_t *result; struct err e; int rc, status;  /* of work or of the agent */
	void (*then)(struct call *c);        /* loop thread, after work or the agent's reply */
	void (*work)(struct call *c);
	void *data;
	json_t *audited; bool audit_open;    /* entries of the audit log that wait for its outcome (borrowed from there, counted); some are not saved yet */
};
void call_resume(struct call *c);                             /* calls c->then, as part of that request; c may be gone afterwards */
void call_json(struct call *c, int status, json_t *body);     /* steals body */
void call_text(struct call *c, struct buf *body);              /* 200, JSON text; finishes body */
void call_free(struct call *c);                               /* for streams only: they keep the request */
void call_fail(struct call *c, const struct err *e);
void call_refuse(struct call *c, int status, const struct err *e, json_t *more);  /* the same with another status, and more members; steals more */
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
struct field { const char *name; enum field_type type; const char *fallback; double min, max; const char *choices; bool nullable, required; const char *about; };
struct route {
	const char *method, *path, *permission, *about;
	const struct field *params, *body;
	const char *answers;                     /* see shapes in routes.c; NULL: an event stream */
	void (*handler)(struct call *c);
	size_t body_max;                         /* 0: 1 MiB */
};
void routes_dispatch(struct server *s, struct http_req *r);
void api_openapi(struct call *c);

void api_status(struct call *c), api_processes(struct call *c), api_sites(struct call *c), api_stats(struct call *c), api_inflight(struct call *c),
	api_doctor(struct call *c), api_events(struct call *c), api_tail(struct call *c), api_spans(struct call *c),
	api_trace(struct call *c), api_heatmap(struct call *c), api_hot(struct call *c), api_callgraph(struct call *c),
	api_attachments(struct call *c), api_attach(struct call *c), api_detach(struct call *c), api_detach_all(struct call *c), api_candidates(struct call *c),
	api_callees(struct call *c),
	api_toggles(struct call *c), api_toggle_on(struct call *c), api_toggle_patch(struct call *c), api_toggle_off(struct call *c), api_toggles_off(struct call *c),
	api_toggles_undo(struct call *c),
	api_policies(struct call *c), api_policies_check(struct call *c), api_policies_plan(struct call *c), api_policy(struct call *c), api_policy_put(struct call *c),
	api_policy_off(struct call *c), api_policy_versions(struct call *c), api_policy_diff(struct call *c), api_policy_rollback(struct call *c),
	api_policy_rollout(struct call *c), api_policy_rollout_change(struct call *c), api_policy_schema(struct call *c),
	api_firings(struct call *c), api_alerts(struct call *c), api_overhead(struct call *c), api_panic(struct call *c), api_panic_undo(struct call *c),
	api_tokens(struct call *c), api_audit(struct call *c), api_plugins(struct call *c), api_agents(struct call *c);

/* control.c */
int toggles_create(struct server *s, struct err *e);   /* with what the state store has */
void toggles_restore(struct server *s);                /* makes what is desired the same */
void toggles_destroy(struct toggle_set *t);
void server_clock(struct server *s);      /* walltime.c: notices that the clock was set */
const json_t *toggle_live(struct server *s, const char *id); /* borrowed; NULL: it is not on */
void toggles_tick(struct server *s);
void toggles_shift(struct server *s, int64_t by);
unsigned toggles_active(struct server *s, int64_t *ret_next_expiry);
json_t *toggles_saved(struct server *s);               /* new: toggle, time left, ... */
unsigned toggles_end_all(struct server *s, const char *by);  /* here only: their rules are the caller's to remove */
json_t *toggles_bring_back(struct server *s, const json_t *saved, json_t *set);  /* new: the toggles; their rules are added to set */

/* policies.c and what belongs to it (policies.h) */
int policies_create(struct server *s, struct err *e);
void policies_restore(struct server *s);
void rollouts_back(struct server *s);
void policies_destroy(struct server *s);
void policies_tick(struct server *s);
void policies_shift(struct server *s, int64_t by);
unsigned policies_in_force(struct server *s);
int64_t policies_next_expiry(struct server *s);        /* 0: none */
void rollout_tick(struct server *s);
int panic_create(struct server *s, struct err *e);
json_t *panic_json(struct server *s);                  /* new; null: none */

/* firings.c, alerts.c */
int firings_create(struct server *s, struct err *e);
void firings_event(struct server *s, const json_t *event);  /* "trigger" of an agent */
void firings_tick(struct server *s);
void across_tick(struct server *s);                    /* across.c */
int alerts_create(struct server *s);
void alerts_destroy(struct server *s);
void alerts_guard(struct server *s, const json_t *event);   /* "guard" of an agent */
const json_t *alerts_shed(struct server *s);               /* borrowed: what governors have taken back, events with "seen_mono" */
void alerts_tick(struct server *s);

json_t *account_json(struct server *s, const json_t *agents);  /* new: made, stored, open, queued, dropped, balanced */

/* admit.c */
void admit_otlp(struct server *s, struct http_req *r);
void admit_grpc(struct server *s, struct grpc_call *c);
void admit_dropped(struct server *s, json_t *into);

/* events.c */
void events_send(struct server *s, const char *event, const json_t *data);
void events_tick(struct server *s);
struct batch *events_copy(struct server *s, const struct batch *b);  /* any thread: what the tails may see of b; NULL without tails */
void events_spans(struct server *s, struct batch *copy, uint32_t of);  /* takes the copy of the first spans of a batch of `of`; NULL is fine */
unsigned events_watchers(const struct server *s);
/* metrics.c */
void metrics_reply(struct server *s, struct http_req *r), ready_reply(struct server *s, struct http_req *r), health_reply(struct server *s, struct http_req *r);
/* sampling.c */
void sampling_create(struct server *s);
void sampling_destroy(struct server *s);
void sampling_reply(struct server *s, struct http_req *r);
void sampling_grpc(struct server *s, struct grpc_call *c);
/* assets.c */
void assets_reply(struct http_req *r);
