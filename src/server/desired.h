/* What is to be on, everywhere: toggles and the rules of policies, as agents take them (docs/agent-protocol.md "rule"), by id, under one generation number that
 * only grows. Whoever decides (control.c, policies.c, rollout.c) changes it here; agents that are behind get the complete set. Loop thread. */
#pragma once
#include "base/err.h"
#include <jansson.h>

struct server;
struct call;
/* merged: what the agents answered to `change`, joined; borrowed. rc < 0: no agent took it (KLIEG_E_NO_TARGET: none is connected; it is stored all the same and
 * given to agents when they come). Steals set (an array of rules) and remove (an array of ids); either may be NULL. */
typedef void (*desired_then_fn)(void *arg, int rc, json_t *merged, const struct err *e);
void desired_change(struct server *s, json_t *set, json_t *remove, desired_then_fn then, void *arg);
void call_change(struct call *c, json_t *set, json_t *remove, void (*then)(struct call *c)); /* the same for a call: c->rc, c->result, c->e */
json_t *desired_rules(struct server *s);                            /* borrowed: {id: rule} */
int64_t desired_generation(struct server *s);
