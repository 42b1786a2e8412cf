/* The agents of this server: the one in this process, if any, and those that poll (docs/agent-protocol.md "Over a wire"). To the rest of the server
 * they are one that answers slowly at times. Loop thread, but for the counters of spans. */
#pragma once
#include "server/merge.h"
#include "server/server.h"

struct server;
typedef void (*fleet_then_fn)(void *arg, int rc, json_t *result, const struct err *e);  /* result is borrowed */

void fleet_create(struct server *s);
void fleet_destroy(struct server *s);
void fleet_tick(struct server *s);
void fleet_handle(struct server *s, struct http_req *r);              /* /agent/v1/... */
void fleet_local(struct server *s, server_agent_fn fn, void *agent);  /* the agent in this process; NULL fn: none any more */

/* Asks all agents, or the one that the method is for (attach, detach, callees: "host" in params, else the only one or the one in this process), and
 * joins their answers. Steals params. Agents that did not answer are in the result as "unreachable": [host]; rc < 0: none did. `then` may come
 * before this returns. */
void fleet_ask(struct server *s, const char *method, json_t *params, fleet_then_fn then, void *arg);
/* Sends the rules that have just changed (desired.c): the difference to those that had `base`, everything to the others. Steals set and remove. */
void fleet_change(struct server *s, int64_t base, json_t *set, json_t *remove, fleet_then_fn then, void *arg);

/* Spans that this server took from an agent; counted from any thread. used/done keep the counter while a request is under way. */
struct member;
struct member *fleet_taker(struct server *s, struct str id);          /* NULL: no such id, or too many */
void fleet_took(struct member *m, int64_t n);
void fleet_taker_done(struct server *s, struct member *m);

/* Once a second: is it time to ask all agents what is only to be known? Up to 200 of them each second, of 1,000 every fifth. */
bool fleet_turn(struct server *s);

/* For metrics and status. */
#define FLEET_BUCKETS 12
extern const double fleet_bounds[FLEET_BUCKETS];                      /* seconds */
struct fleet_stats { unsigned agents, behind, unreachable; uint64_t changes, failures, acks[FLEET_BUCKETS + 1], nacks; double ack_sum; };
void fleet_stats(struct server *s, struct fleet_stats *ret_s);
const char *fleet_local_host(struct server *s);                       /* NULL: no agent in this process */
double fleet_budget(struct server *s);                                /* the lowest that an agent has told; 0: none has one */
bool fleet_has(struct server *s, const char *host, const char *agent); /* connected now; agent NULL: any of that host */
json_t *fleet_agents(struct server *s);                               /* new: [{host,agent,local,generation,behind,reachable,seen_unix_nano,spans}] */
