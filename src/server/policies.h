/* Policies inside the server: policies.c has what there is and how it changes, plan.c what a change would do, rollout.c brings a version to some processes first,
 * versions.c shows the past, panic.c suspends all. Loop thread. */
#pragma once
#include "policy/policy.h"
#include "server/desired.h"
#include "server/internal.h"

struct rollout;
struct policy_entry {
	struct policy_entry *next;
	char name[72];
	json_t *head;            /* as stored: version, in_force (0: none), state, author, reason, updated_unix_nano, why?, rollout? */
	int64_t stored;          /* the version of that document */
	struct policy *p;        /* what is in force; NULL: nothing, or it does not parse */
	json_t *doc;             /* its version as stored */
	struct rollout *rollout; /* of the newest version: under way or stopped; NULL: none */
};
struct policy_change { const char *change, *author, *reason, *text, *state; bool in_force; json_t *rollout, *evidence; const char *why; };

struct policy_entry *policy_find(struct server *s, const char *name);
const char *policy_state(struct server *s, const struct policy_entry *en);
json_t *policy_version(struct server *s, const char *name, int64_t version, struct err *e);   /* new; NULL with *e */
struct policy *policy_of_version(struct server *s, const char *name, int64_t version, json_t **ret_doc);  /* NULL: there is none, or it does not parse */
json_t *policy_rules(const struct policy *p, const json_t *doc);                 /* for agents, without what has run out */
json_t *policy_leftover(struct server *s, const char *name, const json_t *keep); /* ids of its rules that are in desired and not in keep */
void policy_save(struct server *s, struct policy_entry *en);                     /* the head */
int policy_stale(const struct policy_entry *en, const char *name, int64_t expected, struct err *e);
int policy_commit(struct server *s, const char *name, const struct policy_change *ch, struct policy_entry **ret_en, struct err *e);
int policy_revert(struct server *s, struct policy_entry *en, int64_t to, const struct policy_change *how, struct err *e);
void policy_revert_call(struct call *c, struct policy_entry *en, int64_t to, const struct policy_change *how);
int64_t policy_before(struct server *s, const struct policy_entry *en);
void policy_put_in_force(struct server *s, struct policy_entry *en, desired_then_fn then, void *arg);
void policy_told(void *server, int rc, json_t *merged, const struct err *e);      /* a desired_then_fn for who does not wait */
void policy_event(struct server *s, const struct policy_entry *en, const char *what);
void call_no_policy(struct call *c);

/* plan.c: a text on its way to being a policy. In c->data. */
struct plan {
	char *text;
	struct policy *p;        /* NULL: invalid */
	struct policy_diags d;
	json_t *out;             /* the answer, as it grows */
	int64_t replay_ns;
	json_t *set;             /* what was asked of the agents */
	double keep;             /* the suggestion that is being tried */
	void (*then)(struct call *c);
};
void plan_parse(struct call *c, void (*then)(struct call *c));   /* body.text; on a thread of the pool */
void plan_ask(struct call *c, void (*then)(struct call *c));     /* of the agents: x->out is complete then; c->rc < 0: they refuse it */
void plan_invalid(struct call *c);                               /* ends the call: 422 with diagnostics */
void plan_destroy(struct plan *x);

/* revert.c */
json_t *revert_of(struct server *s, const json_t *entry);         /* new: how an entry of the audit log can be undone; NULL: it cannot */

/* rollout.c */
bool rollout_wanted(const struct policy *p);                     /* a rule says in which steps */
json_t *rollout_make(const struct policy *p, int64_t soak_ns, double slower, double failing);   /* as it is stored in the head */
void rollout_begin(struct server *s, struct policy_entry *en);   /* of the head's newest version */
void rollout_resume(struct server *s, struct policy_entry *en);  /* after a restart; the head says where it was */
void rollouts_back(struct server *s);                            /* and that is told */
void rollout_over(json_t *doc, const char *state, const char *why);
json_t *rollout_next_doc(const struct policy_entry *en);            /* the version that is being rolled out, borrowed; NULL: none */
void rollout_free(struct policy_entry *en);                      /* it is over; desired is the caller's */
const struct policy *rollout_next(const struct policy_entry *en);
json_t *rollout_json(const struct policy_entry *en, size_t evidence);
void rollout_tick(struct server *s);
