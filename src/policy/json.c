/* A policy as JSON: for people and the API in the words of the YAML, for agents as rules (docs/agent-protocol.md). Pure; what is returned is the
 * caller's. */
#include "policy/doc.h"
#include <stdio.h>

static void set(json_t *o, const char *key, json_t *v) { json_object_set_new(o, key, v); }
static json_t *text(struct buf *b)
{
	json_t *j = json_stringn((const char *)b->p, b->n);
	buf_finish(b);
	return j;
}
static json_t *duration(int64_t ns)
{
	struct buf b = { 0 };
	value_duration_print(ns, &b);
	return text(&b);
}
static json_t *texts(char **list, uint32_t n)
{
	json_t *a = json_array();
	for (uint32_t i = 0; i < n; i++)
		json_array_append_new(a, json_string(list[i]));
	return a;
}

json_t *policy_diags_json(const struct policy_diags *d)
{
	json_t *a = json_array();
	for (uint32_t i = 0; i < d->n; i++) {
		const struct policy_diag *g = d->list + i;
		json_array_append_new(a, json_pack("{s:s,s:i,s:i,s:i,s:s,s:s,s:s}", "severity", g->error ? "error" : "warning",
			"line", g->line, "column", g->column,
			"end_column", g->end_column, "code", g->code, "message", g->message, "hint", g->hint));
	}
	return a;
}

static json_t *rule_json(const struct policy_rule *r)
{
	json_t *o = json_pack("{s:s,s:s,s:s,s:f}", "name", r->name, "match", r->match, "level", policy_level_name(r->level), "keep", r->keep);
	if (r->rate)
		set(o, "rate", json_real(r->rate));
	if (r->escalate) {
		const struct policy_trigger *t = r->escalate;
		set(o, "escalate", json_pack("{s:s,s:o,s:s,s:o,s:o}", "when", t->when, "over", duration(t->over_ns), "to", policy_level_name(t->to),
			"decay", duration(t->decay_ns), "cooldown", duration(t->cooldown_ns)));
	}
	if (r->nredact)
		set(o, "redact", texts(r->redact, r->nredact));
	if (r->nsend)
		set(o, "send", texts(r->send, r->nsend));
	if (r->retain_ns)
		set(o, "retain", duration(r->retain_ns));
	if (r->nrollout) {
		json_t *a = json_array();
		for (uint32_t i = 0; i < r->nrollout; i++) {
			struct buf b = { 0 };
			value_step_print(r->rollout + i, &b);
			json_array_append_new(a, text(&b));
		}
		set(o, "rollout", a);
	}
	if (r->for_ns)
		set(o, "for", duration(r->for_ns));
	return o;
}

json_t *policy_json(const struct policy *p)
{
	json_t *rules = json_array(), *limits = json_array();
	for (uint32_t i = 0; i < p->nrules; i++)
		json_array_append_new(rules, rule_json(p->rules + i));
	for (uint32_t i = 0; i < p->nlimits; i++) {
		const struct policy_limit *l = p->limits + i;
		json_t *o = json_pack("{s:s}", "match", l->match);
		char percent[40];
		if (l->overhead) {
			snprintf(percent, sizeof percent, "%.10g%%", l->overhead);
			set(o, "overhead", json_string(percent));
		}
		if (l->rate)
			set(o, "rate", json_real(l->rate));
		if (l->level < POLICY_LEVEL_DEEP)
			set(o, "level", json_string(policy_level_name(l->level)));
		json_array_append_new(limits, o);
	}
	return json_pack("{s:s,s:o,s:o}", "name", p->name, "rules", rules, "limits", limits);
}

static json_t *wire_rule(const struct policy *p, const char *kind, const char *match, const char *level, int64_t version, const char *author,
	const char *reason)
{
	return json_pack("{s:s,s:s,s:s,s:s,s:I,s:s,s:s}", "kind", kind, "selector", match, "level", level, "policy", p->name,
		"version", (json_int_t)version,
		"owner", author ? author : "", "reason", reason ? reason : "");
}

json_t *policy_wire(const struct policy *p, int64_t version, const char *author, const char *reason, int64_t now_ns)
{
	json_t *rules = json_array();
	char id[160];
	for (uint32_t i = 0; i < p->nrules; i++) {
		const struct policy_rule *r = p->rules + i;
		json_t *o = wire_rule(p, "trace", r->match, policy_level_name(r->level), version, author, reason);
		snprintf(id, sizeof id, "p:%s/%s", p->name, r->name);
		set(o, "id", json_string(id));
		set(o, "rule", json_string(r->name));
		set(o, "keep", json_real(r->keep));
		if (r->rate)
			set(o, "rate", json_real(r->rate));
		set(o, "expires_unix_nano", json_integer(r->for_ns ? now_ns + r->for_ns : 0));
		if (r->escalate) {
			const struct policy_trigger *t = r->escalate;
			set(o, "escalate", json_pack("{s:s,s:I,s:s,s:I,s:I}", "when", t->when, "over_nano", (json_int_t)t->over_ns, "to", policy_level_name(t->to),
				"decay_nano", (json_int_t)t->decay_ns, "cooldown_nano", (json_int_t)t->cooldown_ns));
		}
		if (r->nredact)
			set(o, "redact", texts(r->redact, r->nredact));
		json_array_append_new(rules, o);
	}
	for (uint32_t i = 0; i < p->nlimits; i++) {
		const struct policy_limit *l = p->limits + i;
		json_t *o = wire_rule(p, "limit", l->match, policy_level_name(l->level), version, author, reason);
		snprintf(id, sizeof id, "l:%s/%u", p->name, i + 1);
		set(o, "id", json_string(id));
		set(o, "expires_unix_nano", json_integer(0));
		if (l->overhead)
			set(o, "overhead", json_real(l->overhead));
		if (l->rate)
			set(o, "spans_per_s", json_real(l->rate));
		json_array_append_new(rules, o);
	}
	return rules;
}
