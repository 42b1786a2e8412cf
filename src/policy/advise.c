/* Warnings: what may stand in a policy but is hardly what its writer wants. Decides nothing; pure. */
#include "policy/doc.h"
#include <stdlib.h>

#define PAIRS_MAX 4000u /* rules x limits that are held against each other: hints may be missing from a huge policy, never time */

static bool everything(const struct traceql *q)
{
	uint16_t node;
	return !traceql_root(q, &node);
}

static void capped(const struct policy *p, struct doc *d, uint32_t i, const struct policy_places *at)
{
	const struct policy_rule *r = p->rules + i;
	const struct policy_limit *least = NULL;
	uint8_t most = r->escalate ? r->escalate->to : r->level;
	for (uint32_t k = 0; k < p->nlimits && (uint64_t)i * p->nlimits + k < PAIRS_MAX; k++)
		if (p->limits[k].level < most && (!least || p->limits[k].level < least->level) && traceql_implies(r->q, p->limits[k].q))
			least = p->limits + k;
	if (!least)
		return;
	if (least->level == POLICY_LEVEL_OFF)
		doc_diag(d, "P202", at->match, "remove the rule, or narrow the limit",
			"rule `%s` has no effect: the limit on line %d switches off all that it matches", r->name, least->line);
	else if (least->level < r->level)
		doc_diag(d, "P202", at->level ? at->level : at->match, "limits win over rules: raise the limit, or lower the rule's level",
			"rule `%s` grants %s, but the limit on line %d caps all that it matches at %s", r->name, policy_level_name(r->level), least->line,
			policy_level_name(least->level));
	else
		doc_diag(d, "P202", at->to, "limits win over triggers: raise the limit, or lower `to`",
			"the trigger of rule `%s` never gets to %s: the limit on line %d caps it at %s", r->name,
			policy_level_name(r->escalate->to), least->line, policy_level_name(least->level));
}

/* A trigger that cannot measure what its writer has in mind. */
static void unmeasured(const struct policy_rule *r, struct doc *d, const struct policy_places *at)
{
	struct tq_metric m;
	if (!r->escalate || !r->escalate->q || !r->q || !traceql_metric(r->escalate->q, &m))
		return;
	if (traceql_excludes(r->site ? r->site : r->q, r->escalate->q))
		doc_diag(d, "P210", at->when, "a trigger measures only what its rule matches: widen `match`, or say in `when` only what narrows it",
			"the trigger of rule `%s` measures nothing: `match` and `when` exclude each other", r->name);
	if (r->request && !traceql_metric_waits(&m))
		doc_diag(d, "P211", at->when, "it raises only the requests that `match` chooses; what it measures are the calls of all of them",
			"the trigger of rule `%s` measures all requests: counts do not know the attributes in `match`", r->name);
	if (traceql_metric_waits(&m) && r->level < POLICY_LEVEL_DETAIL)
		doc_diag(d, "P212", at->when, "write `level: detail` with a `keep` of a few percent, or grant that by another rule",
			"what requests waited is only said by spans at detail: at level %s the trigger of rule `%s` measures nothing", policy_level_name(r->level), r->name);
}

void policy_advise(const struct policy *p, struct doc *d, const struct policy_places *rules, const struct policy_places *limits)
{
	if (!p->nrules && !p->nlimits)
		doc_diag(d, "P207", NULL, "add `rules:` or `limits:`", "policy `%s` says nothing", p->name);
	struct strtab matches;
	strtab_init(&matches);
	uint32_t *first = base_calloc(p->nrules + 2, sizeof *first); /* by id of the text: the rule that had it first */
	for (uint32_t i = 0; i < p->nrules; i++) {
		const struct policy_rule *r = p->rules + i;
		const struct policy_places *at = rules + i;
		if (r->level == POLICY_LEVEL_OFF && !r->escalate)
			doc_diag(d, "P201", at->level, "rules only grant: to keep others from switching it on, write a limit with `level: off`",
				"rule `%s` grants nothing", r->name);
		if (r->level >= POLICY_LEVEL_SPAN && everything(r->q))
			doc_diag(d, "P205", at->match, "name a service or a component: '{ resource.service.name = \"checkout\" }'",
				"rule `%s` switches on every site of every service at level %s", r->name, policy_level_name(r->level));
		if (r->level >= POLICY_LEVEL_SPAN && !r->keep)
			doc_diag(d, "P204", at->keep, "to count without spans write `level: count`", "rule `%s` keeps none of the spans that it pays for", r->name);
		if (r->level <= POLICY_LEVEL_COUNT && at->keep && !r->escalate)
			doc_diag(d, "P208", at->keep, "`keep` is about spans: raise the level to span, or remove it", "at level %s there is nothing to keep",
				policy_level_name(r->level));
		if (r->nrollout && !(r->rollout[r->nrollout - 1].share >= 1))
			doc_diag(d, "P206", at->rollout, "end it with 100%", "the rollout of rule `%s` never reaches every process", r->name);
		const struct doc_node *later = at->send ? at->send : at->retain;
		if (later)
			doc_diag(d, "P209", later, "it may stay for later versions: today all spans are in one store and are kept as long as that keeps them",
				"%s of rule `%s` %s no effect yet", at->send && at->retain ? "`send` and `retain`" : at->send ? "`send`" : "`retain`", r->name,
				at->send && at->retain ? "have" : "has");
		uint32_t id = strtab_add(&matches, str_of(r->match));
		if (first[id])
			doc_diag(d, "P203", at->match, "the higher level and keep win: one of the two is enough", "rules `%s` and `%s` have the same match",
				p->rules[first[id] - 1].name, r->name);
		else
			first[id] = i + 1;
		capped(p, d, i, at);
		unmeasured(r, d, at);
	}
	strtab_finish(&matches);
	free(first);
}
