/* What is to be on, everywhere: toggles and the rules of policies, as agents take them (docs/agent-protocol.md "rule"), by id, under one generation
 * number that only grows. Whoever decides (control.c, policies.c, rollout.c) changes it here; agents that are behind get the complete set. Loop
 * thread. */
#pragma once
#include "base/err.h"
#include <jansson.h>

struct server;
struct call;
int desired_create(struct server *s, struct err *e);                /* with what the state store has */
void desired_destroy(struct server *s);
void desired_shift(struct server *s, int64_t by);                    /* the clock was set: what ends by time ends as much later */
void desired_tick(struct server *s);                                /* drops what has run out; agents have done so by themselves */
/* merged: what the agents answered to `change`, joined; borrowed. rc < 0: no agent took it (KLIEG_E_NO_TARGET: none is connected; it is stored all the
 * same and given to agents when they come). `then` may come before this returns. Steals set (an array of rules) and remove (an array of ids); either may
 * be NULL. What is in the set must be valid: an agent refuses a set with a rule that it cannot read as a whole. */
typedef void (*desired_then_fn)(void *arg, int rc, json_t *merged, const struct err *e);
void desired_change(struct server *s, json_t *set, json_t *remove, desired_then_fn then, void *arg);
void call_change(struct call *c, json_t *set, json_t *remove, void (*then)(struct call *c)); /* the same for a call: c->rc, c->result, c->e */
json_t *desired_rules(struct server *s);                            /* borrowed: {id: rule} */
json_t *desired_all(struct server *s);                              /* new: [rule] of those that have not run out */
int64_t desired_generation(struct server *s);
const char *desired_token_key(struct server *s);                    /* 32 hex digits, made once per state store: the master key of capture tokens */
