/* A policy: a versioned YAML document of rules, as people write it and as agent and server act on it. `trace` rules grant, `limit` rules cap, so
 * order never matters. Reference: docs/policy.md; schema: src/policy/policy.schema.json.
 * A parsed policy is immutable; any thread may read it. */
#pragma once
#include "traceql/traceql.h"
#include <jansson.h>

enum { POLICY_LEVEL_OFF, POLICY_LEVEL_COUNT, POLICY_LEVEL_SPAN, POLICY_LEVEL_DETAIL, POLICY_LEVEL_DEEP };
const char *policy_level_name(unsigned level);
int policy_level_parse(struct str name, uint8_t *ret_level);         /* KLIEG_E_BAD_DATA */

/* What is wrong with a document, or unwise in it; every place, not only the first. code: "P101"...; docs/policy.md lists them. */
struct policy_diag { bool error; int line, column, end_column; char code[8], message[240], hint[240]; };
struct policy_diags { struct policy_diag *list; uint32_t n, errors; };
void policy_diags_finish(struct policy_diags *d);
json_t *policy_diags_json(const struct policy_diags *d);             /* [{severity,line,column,end_column,code,message,hint}] */

/* A metrics query with a threshold: raises the level of what its rule matched, one step at a time. */
struct policy_trigger {
	char *when;                  /* `{ name = "x" } | quantile_over_time(duration, .99) > 250ms`, canonical */
	struct traceql *q;
	int64_t over_ns, decay_ns, cooldown_ns;
	uint8_t to;
};
struct policy_step { double share; uint32_t processes; };             /* one of them: 0.1, or 1 process */
struct policy_rule {
	char *name, *match;          /* canonical text */
	struct traceql *q, *site, *request; /* request: NULL when the site decides alone */
	uint8_t level;
	double keep, rate;           /* rate 0: none */
	struct policy_trigger *escalate; /* NULL: none */
	char **redact, **send; uint32_t nredact, nsend;
	int64_t retain_ns, for_ns;   /* 0: as the store does; no end */
	struct policy_step *rollout; uint32_t nrollout; /* none: all at once */
	int line;
};
struct policy_limit {
	char *match;
	struct traceql *q;
	double overhead, rate;       /* percent; spans/s; 0: none */
	uint8_t level;               /* deep: none */
	int line;
};
struct policy {
	char *name;
	struct policy_rule *rules; uint32_t nrules;
	struct policy_limit *limits; uint32_t nlimits;
};
/* At most 1 MiB, 1,000 rules, nesting 16. On failure (KLIEG_E_BAD_DATA, KLIEG_E_LIMIT) *ret_p is untouched; *ret_d is filled in either case (warnings)
 * and is the caller's. */
int policy_parse(struct str yaml, struct policy **ret_p, struct policy_diags *ret_d);
void policy_destroy(struct policy *p);
json_t *policy_json(const struct policy *p);                         /* for people and API: {name, rules, limits} */
/* The rules as the agent takes them (docs/agent-protocol.md "rule"): ids "p:POLICY/RULE" and "l:POLICY/N", expiry from `for` counted from now. */
json_t *policy_wire(const struct policy *p, int64_t version, const char *author, const char *reason, int64_t now_ns);
extern const char policy_schema[];                                   /* JSON Schema (draft 2020-12), the published text */

/* When a trigger raises and lowers, from a measurement now and then. Pure: time is given. One step up per `over` of unbroken breach (count -> span ->
 * detail -> deep, up to `to`), one step down per `decay` of unbroken calm; calm means under the threshold by 10 % (hysteresis: between the two nothing
 * moves); after any step down no step up for `cooldown`. A measurement that is not known counts neither way: the wait stands still. A clock that jumps
 * back starts the wait over; more than 10 s between two measurements count as 10. state: {.base = .level = the rule's}, zero otherwise. */
struct trigger_state { uint8_t base, level; bool breached, calm; int64_t since_ns, quiet_until_ns, last_ns, silent_ns; };
enum trigger_move { TRIGGER_STAY, TRIGGER_UP, TRIGGER_DOWN };
enum trigger_move trigger_step(const struct policy_trigger *t, struct trigger_state *s, int64_t now_ns, bool known, double value);
/* Why it moved, for people: "the p99 of what requests waited is 83 ms, over 50 ms for 2 s". value NAN: there was none. */
void trigger_words(const struct policy_trigger *t, double value, bool up, char *ret_text, size_t n);
