/* The set of rules in force on this host: toggles and the rules of policies, as the server sends them (docs/agent-protocol.md "rule"). What they mean for sites is
 * grants.c's. A rule that goes is only marked dead until no grant refers to it. Nothing outlives its TTL. Agent thread; owns a->rules. */
#include "agent/request.h"
#include "agent/state.h"
#include "policy/match.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static const char *const levels[] = { "off", "count", "span", "detail", "deep" };
const char *level_name(unsigned level) { return level < 5 ? levels[level] : "off"; }

/* ---- one rule ------------------------------------------------------------------------------------------------------------ */

void rule_destroy(struct rule *r)
{
	if (!r)
		return;
	char *texts[] = { r->id, r->selector, r->where_text, r->owner, r->reason, r->scope, r->policy, r->name };
	for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
		free(texts[i]);
	for (uint32_t i = 0; i < r->nhosts; i++)
		free(r->hosts[i]);
	for (uint32_t i = 0; i < r->nonly; i++)
		free(r->only[i].host);
	for (uint32_t i = 0; i < r->nredact; i++)
		free(r->redact[i]);
	free(r->redact);
	free(r->hosts);
	free(r->only);
	traceql_destroy(r->site);
	traceql_destroy(r->request);
	traceql_destroy(r->where);
	condition_destroy(r->args);
	if (r->trigger) {
		free(r->trigger->when);
		traceql_destroy(r->trigger->q);
		free(r->trigger);
	}
	free(r->dropped);
	json_decref(r->predicted);
	free(r);
}

static char *text(const json_t *j, const char *key)
{
	const char *s = json_string_value(json_object_get(j, key));
	return s ? str_dup(str_of(s)) : NULL;
}

static double number(const json_t *j, const char *key, double fallback)
{
	const json_t *v = json_object_get(j, key);
	return json_is_number(v) ? json_number_value(v) : fallback;
}

static int level_of(const json_t *v, uint8_t fallback, uint8_t *ret_level, struct err *e)
{
	if (!v || json_is_null(v)) {
		*ret_level = fallback;
		return 0;
	}
	for (uint8_t i = 0; i <= KW_DEEP; i++)
		if (json_is_string(v) && !strcmp(json_string_value(v), levels[i])) {
			*ret_level = i;
			return 0;
		}
	return err_set(e, KLIEG_E_BAD_DATA, "level \"%.40s\" is none of off, count, span, detail, deep", json_is_string(v) ? json_string_value(v) : "?");
}

static int trigger_parse(const json_t *j, struct rule *r, struct err *e)
{
	if (!j || json_is_null(j))
		return 0;
	struct policy_trigger *t = r->trigger = base_calloc(1, sizeof *t);
	t->when = text(j, "when");
	t->over_ns = (int64_t)number(j, "over_nano", 30e9);
	t->decay_ns = (int64_t)number(j, "decay_nano", 300e9);
	t->cooldown_ns = (int64_t)number(j, "cooldown_nano", 60e9);
	struct tq_metric m;
	int rc = level_of(json_object_get(j, "to"), KW_DETAIL, &t->to, e);
	if (rc >= 0)
		rc = traceql_parse_metric(str_of(t->when ? t->when : ""), &t->q, e);
	if (rc >= 0 && (!traceql_metric(t->q, &m) || !m.compared))
		rc = err_set(e, KLIEG_E_BAD_DATA, "escalate.when must be a metrics query with a comparison");
	r->trigger_state = (struct trigger_state){ .base = r->level, .level = r->level };
	return rc;
}

static int texts_parse(const json_t *j, const char *key, char ***ret_list, uint32_t *ret_n, struct err *e)
{
	const json_t *list = json_object_get(j, key), *v;
	size_t i;
	*ret_list = base_calloc(json_array_size(list) + 1, sizeof **ret_list);
	json_array_foreach(list, i, v) {
		if (!json_is_string(v))
			return err_set(e, KLIEG_E_BAD_DATA, "%s must be strings", key);
		(*ret_list)[(*ret_n)++] = str_dup(str_of(json_string_value(v)));
	}
	return 0;
}

/* Where it applies: hosts, a share of the processes, some of them. */
static int where_parse(const json_t *j, struct rule *r, struct err *e)
{
	const json_t *v;
	size_t i;
	r->share = number(j, "share", 1);
	if (!(r->share >= 0 && r->share <= 1))
		return err_set(e, KLIEG_E_BAD_DATA, "share must be between 0 and 1");
	const json_t *only = json_object_get(j, "only"), *except = json_object_get(j, "except");
	if (only && except)
		return err_set(e, KLIEG_E_BAD_DATA, "a rule has either only or except");
	r->except = except;
	only = except ? except : only;
	r->only = base_calloc(json_array_size(only) + 1, sizeof *r->only);
	int rc = texts_parse(j, "hosts", &r->hosts, &r->nhosts, e);
	if (rc < 0 || (rc = texts_parse(j, "redact", &r->redact, &r->nredact, e)) < 0)
		return rc;
	json_array_foreach(only, i, v) {
		json_int_t pid = json_integer_value(json_object_get(v, "pid"));
		if (pid <= 0)
			return err_set(e, KLIEG_E_BAD_DATA, "%s must be objects with host and pid", except ? "except" : "only");
		r->only[r->nonly].host = text(v, "host");
		r->only[r->nonly++].pid = (pid_t)pid;
	}
	return 0;
}

static int queries_parse(struct rule *r, struct err *e)
{
	struct traceql *whole = NULL;
	int rc = traceql_parse_selector(str_of(r->selector ? r->selector : ""), &whole, e);
	if (rc >= 0)
		rc = traceql_split_start(whole, &r->site, &r->request, e);
	traceql_destroy(whole);
	if (rc >= 0 && r->request)
		rc = request_check(r->request, e);
	if (rc >= 0 && r->where_text && *r->where_text)
		rc = condition_is(r->where_text) ? condition_parse(r->where_text, &r->args, e) : traceql_parse(str_of(r->where_text), &r->where, e);
	return rc;
}

static int numbers_parse(const json_t *j, struct rule *r, struct err *e)
{
	r->keep = number(j, "keep", 1);
	r->rate = number(j, "rate", 0);
	r->floor_per_s = number(j, "floor_per_s", .1);
	r->overhead = number(j, "overhead", 0);
	r->spans_per_s = number(j, "spans_per_s", 0);
	r->expires_ns = json_integer_value(json_object_get(j, "expires_unix_nano"));
	r->ends_at = r->expires_ns ? clock_mono() + (r->expires_ns - clock_wall()) : 0;
	if (r->expires_ns && r->ends_at <= 0)
		r->ends_at = 1;
	r->version = json_integer_value(json_object_get(j, "version"));
	r->max_cost = number(j, "max_cost", 1);
	r->max_pause_ns = json_integer_value(json_object_get(j, "max_pause_nano"));
	json_int_t most = json_integer_value(json_object_get(j, "max_functions")), depth = json_integer_value(json_object_get(j, "depth"));
	r->max_functions = most > 0 && most < 1 << 20 ? (uint32_t)most : MAX_FUNCTIONS_DEFAULT;
	r->depth = (uint32_t)depth;
	if (!(r->keep >= 0 && r->keep <= 1))
		return err_set(e, KLIEG_E_BAD_DATA, "keep must be between 0 and 1");
	if (!(r->rate >= 0 && r->rate <= 1e9) || !(r->floor_per_s >= 0) || !(r->overhead >= 0 && r->overhead <= 100) || !(r->spans_per_s >= 0))
		return err_set(e, KLIEG_E_BAD_DATA, "rate, floor_per_s, overhead and spans_per_s must be numbers from 0 on, overhead at most 100");
	if (depth < 0 || depth > 16)
		return err_set(e, KLIEG_E_BAD_DATA, "depth must be between 0 and 16");
	if (r->max_pause_ns < 0)
		return err_set(e, KLIEG_E_BAD_DATA, "max_pause_nano must not be negative");
	return 0;
}

int rule_parse(const json_t *j, struct rule **ret_r, struct err *e)
{
	if (!json_is_object(j))
		return err_set(e, KLIEG_E_USAGE, "a rule is an object");
	struct rule *r = base_calloc(1, sizeof *r);
	const char *kind = json_string_value(json_object_get(j, "kind"));
	r->id = text(j, "id");
	r->selector = text(j, "selector");
	r->where_text = text(j, "where");
	r->owner = text(j, "owner");
	r->reason = text(j, "reason");
	r->scope = text(j, "scope");
	r->policy = text(j, "policy");
	r->name = text(j, "rule");
	r->limit = kind && !strcmp(kind, "limit");
	r->marked = r->scope && !strcmp(r->scope, "marked");
	int rc = 0;
	if (kind && !r->limit && strcmp(kind, "trace"))
		rc = err_set(e, KLIEG_E_BAD_DATA, "kind \"%.40s\" is none of trace, limit", kind);
	else if (r->scope && !r->marked && strcmp(r->scope, "all"))
		rc = err_set(e, KLIEG_E_BAD_DATA, "scope \"%.40s\" is none of all, marked", r->scope);
	else if ((rc = level_of(json_object_get(j, "level"), r->limit ? KW_DEEP : KW_SPAN, &r->level, e)) < 0 || (rc = numbers_parse(j, r, e)) < 0 ||
		(rc = where_parse(j, r, e)) < 0 || (rc = queries_parse(r, e)) < 0 || (rc = trigger_parse(json_object_get(j, "escalate"), r, e)) < 0 ||
		(rc = level_of(json_object_get(j, "raised"), KW_OFF, &r->raised_by_server, e)) < 0)
		;
	else if (r->limit && r->request)
		rc = err_set(e, KLIEG_E_BAD_DATA, "a limit holds for sites; it cannot depend on what a request is about");
	if (rc < 0) {
		rule_destroy(r);
		return rc;
	}
	r->raised = r->raised_by_server;
	if (!r->id) {
		static unsigned serial;
		struct buf b = { 0 };
		buf_printf(&b, "t-%08x%04x", (unsigned)(clock_wall() / 1000000), serial++ & 0xffff);
		r->id = str_dup(buf_str(&b));
		buf_finish(&b);
	}
	char *meaning = json_dumps(j, JSON_COMPACT | JSON_SORT_KEYS);
	r->text_hash = meaning ? hash_bytes(meaning, strlen(meaning), 1) : 0;
	free(meaning);
	*ret_r = r;
	return 0;
}

/* ---- the set ------------------------------------------------------------------------------------------------------------- */

#define GONE UINT32_MAX

static uint32_t *slot_of(struct agent *a, const char *id)
{
	uint32_t h = (uint32_t)hash_bytes(id, strlen(id), 0), *free_slot = NULL;
	for (h &= a->nids - 1; a->ids[h]; h = (h + 1) & (a->nids - 1))
		if (a->ids[h] == GONE)
			free_slot = free_slot ? free_slot : &a->ids[h];
		else if (!strcmp(a->by_handle[a->ids[h] - 1]->id, id))
			return &a->ids[h];
	return free_slot ? free_slot : &a->ids[h];
}

static void grow_ids(struct agent *a)
{
	if (2 * (a->nids_used + 1) < a->nids)
		return;
	free(a->ids);
	a->nids = 64;
	while (a->nids < 4 * (a->nrules + 1))
		a->nids *= 2;
	a->ids = base_calloc(a->nids, sizeof *a->ids);
	a->nids_used = 0;
	for (uint32_t i = 0; i < a->nrules; i++)
		if (!a->rules[i]->dead)
			*slot_of(a, a->rules[i]->id) = a->rules[i]->handle + 1, a->nids_used++;
}

struct rule *rules_find(struct agent *a, const char *id)
{
	uint32_t at = a->nids ? *slot_of(a, id) : 0;
	return at && at != GONE ? a->by_handle[at - 1] : NULL;
}

static void bury(struct agent *a, struct rule *r)
{
	uint32_t *slot = slot_of(a, r->id);
	if (*slot == r->handle + 1)
		*slot = GONE;
	match_remove(a->index, r);
	r->dead = true;
	a->ndead++;
	a->changed = true;
}

/* Into the set; its grants are not yet made. */
static void insert(struct agent *a, struct rule *r)
{
	if (!a->index)
		a->index = match_create();
	if (a->nfree_handles)
		r->handle = a->free_handles[--a->nfree_handles];
	else {
		r->handle = a->nhandles++;
		a->by_handle = base_realloc(a->by_handle, a->nhandles * sizeof *a->by_handle);
		a->free_handles = base_realloc(a->free_handles, a->nhandles * sizeof *a->free_handles);
	}
	a->by_handle[r->handle] = r;
	if (a->nrules == a->rules_cap)
		a->rules = base_realloc(a->rules, (a->rules_cap = a->rules_cap ? 2 * a->rules_cap : 32) * sizeof *a->rules);
	a->rules[a->nrules++] = r;
	grow_ids(a);
	uint32_t *slot = slot_of(a, r->id);
	a->nids_used += !*slot;
	*slot = r->handle + 1;
	match_add(a->index, r, r->site);
	a->changed = true;
}

static void grants_of(struct agent *a, struct rule *r)
{
	for (uint32_t i = 0; i < a->nprocs; i++)
		grants_add(a->procs[i], r);
}

/* What a trigger has raised stays raised when its rule is replaced by one with the same trigger. */
static void succeed(struct rule *r, const struct rule *old)
{
	if (r->trigger && old->trigger && !strcmp(r->trigger->when, old->trigger->when) && r->level == old->level && r->trigger->to == old->trigger->to) {
		r->trigger_state = old->trigger_state;
		r->raised = old->raised > r->raised_by_server && old->raised > old->raised_by_server ? old->raised : r->raised;
	}
}

void rules_add(struct agent *a, struct rule *r)
{
	struct rule *old = rules_find(a, r->id);
	if (old) {
		succeed(r, old);
		bury(a, old);
	}
	insert(a, r);
	grants_of(a, r);
}

bool rules_remove(struct agent *a, const char *id)
{
	struct rule *r = rules_find(a, id);
	if (r)
		bury(a, r);
	return r != NULL;
}

void rules_bury(struct agent *a)
{
	uint32_t to = 0;
	for (uint32_t i = 0; a->ndead && i < a->nrules; i++)
		if (a->rules[i]->dead) {
			a->by_handle[a->rules[i]->handle] = NULL;
			a->free_handles[a->nfree_handles++] = a->rules[i]->handle;
			rule_destroy(a->rules[i]);
		} else
			a->rules[to++] = a->rules[i];
	if (a->ndead)
		a->nrules = to;
	a->ndead = 0;
	if (!a->changed)
		return;
	a->changed = false;
	a->next_expiry = 0;
	for (uint32_t i = 0; i < a->nrules; i++)
		if (a->rules[i]->ends_at && (!a->next_expiry || a->rules[i]->ends_at < a->next_expiry))
			a->next_expiry = a->rules[i]->ends_at;
}

void rules_clear(struct agent *a)
{
	for (uint32_t i = 0; i < a->nrules; i++)
		if (!a->rules[i]->dead)
			bury(a, a->rules[i]);
}

void rules_finish(struct agent *a)
{
	rules_clear(a);
	rules_bury(a);
	match_destroy(a->index);
	free(a->rules);
	free(a->by_handle);
	free(a->free_handles);
	free(a->ids);
}

void rule_raise(struct agent *a, struct rule *r, uint8_t level)
{
	bool deep = rule_level(r) == KW_DEEP;
	r->raised = level > r->raised_by_server ? level : r->raised_by_server;
	if (deep != (rule_level(r) == KW_DEEP))
		for (uint32_t i = 0; i < a->nprocs; i++)
			grants_again(a->procs[i], r);
	rules_dirty(a);
}

bool rules_expire(struct agent *a)
{
	int64_t now = clock_mono();
	bool any = false;
	if (!a->next_expiry || a->next_expiry > now)
		return false;
	for (uint32_t i = 0; i < a->nrules; i++) {
		struct rule *r = a->rules[i];
		if (r->dead || !r->ends_at || r->ends_at > now)
			continue;
		log_info("agent", "%s has run out", r->id);
		agent_emit(a, r->policy ? "rule" : "toggle", json_pack("{s:s,s:s}", "id", r->id, "state", "expired"));
		bury(a, r);
		any = true;
	}
	return any;
}

/* ---- the method `change` ------------------------------------------------------------------------------------------------- */

#define CHANGES_MAX 500

/* What is different now, and what the difference comes to. */
static void differences(struct agent *a, json_t *o)
{
	json_t *list = json_array();
	uint64_t changed = 0, instances = 0;
	uint32_t processes = 0, touched = 0;
	for (uint32_t k = 0; k < a->nprocs; k++) {
		struct process *p = a->procs[k];
		uint64_t changed_before = changed;
		for (uint32_t t = 0; p->map && t < p->ntouched; t++) {
			const struct site *s = &p->sites[p->touched[t].site];
			uint8_t was = p->touched[t].was, level = s->level;
			if (!s->id || s->kind == KW_SITE_END || level == was || changed++ >= CHANGES_MAX)
				continue;
			char id[17];
			span_id_hex(s->id, id);
			struct str name = strtab_get(&p->strs, s->name);
			json_array_append_new(list, json_pack("{s:s,s:i,s:s,s:s,s:s%,s:s,s:s}", "op", !was ? "+" : level ? "~" : "-", "pid", (int)p->pid, "service", p->service,
				"site", id, "name", name.p, name.n, "from", level_name(was), "to", level_name(level)));
		}
		uint64_t on_before = instances;
		for (uint32_t t = 0; p->map && t < p->nactive; t++)
			instances += p->sites[p->active[t]].level && p->sites[p->active[t]].kind != KW_SITE_END;
		processes += instances > on_before;
		touched += changed > changed_before;
	}
	json_object_set_new(o, "changes", list);
	json_object_set_new(o, "changed", json_integer((json_int_t)changed));
	json_object_set_new(o, "changed_processes", json_integer(touched));
	json_object_set_new(o, "instances", json_integer((json_int_t)instances));
	json_object_set_new(o, "processes", json_integer(processes));
}

struct rule_sum { uint32_t instances, processes; const struct process *last; double per_s, besides; int64_t window, age; bool known; };

/* What each rule comes to, in one walk over the grants. By handle. */
static struct rule_sum *sums(struct agent *a)
{
	const int64_t stale = 3600 * SECOND;
	struct rule_sum *sum = base_calloc(a->nhandles + 1, sizeof *sum);
	int64_t now = clock_mono(), window, age;
	for (uint32_t i = 0; i < a->nhandles; i++)
		sum[i].known = true;
	for (uint32_t k = 0; k < a->nprocs; k++) {
		struct process *p = a->procs[k];
		if (p->map && p->ngrants)
			cells_read(p);
		for (uint32_t g = 0; p->map && g < p->ngrants; g++) {
			const struct rule *r = p->grants[g].r;
			const struct site *s = &p->sites[p->grants[g].site];
			struct rule_sum *m = &sum[r->handle];
			if (r->dead || !s->id)
				continue;
			m->instances++;
			m->processes += m->last != p;
			m->last = p;
			double per_s = cost_rate(s, now, &window, &age);
			m->known &= per_s >= 0 && age < stale;
			if (per_s <= 0)
				continue;
			unsigned level = p->grants[g].callee ? KW_SPAN : rule_level(r);
			m->per_s += per_s;
			m->besides += per_s * (cost_expected(p, s, level, r->keep, per_s) - cost_ns(a, level, r->keep));
			m->age = age > m->age ? age : m->age;
			m->window = window && (!m->window || window < m->window) ? window : m->window;
		}
	}
	return sum;
}

static json_t *cost_of_rule(const struct agent *a, const struct rule *r, const struct rule_sum *m)
{
	char basis[64];
	cost_basis(m->known, m->age, m->window, basis);
	double keep = r->rate > 0 && m->per_s > 0 && r->rate < m->per_s * r->keep ? r->rate / m->per_s : r->keep;
	return cost_json(a, rule_level(r), keep, m->per_s > 0 ? m->besides / m->per_s : 0, m->known, m->known ? m->per_s : 0, basis);
}

static json_t *maybe(const char *s) { return s ? json_string(s) : json_null(); }

#define ASKED_MAX 256 /* of more rules at once, instances are told for sites */

static uint32_t distinct_sites(struct agent *a, const struct rule *r)
{
	uint64_t *ids = NULL;
	uint32_t n = 0, cap = 0, distinct = 0;
	for (uint32_t k = 0; k < a->nprocs; k++)
		for (uint32_t g = 0; a->procs[k]->map && g < a->procs[k]->ngrants; g++) {
			const struct process *p = a->procs[k];
			if (p->grants[g].r != r)
				continue;
			if (n == cap)
				ids = base_realloc(ids, (cap = cap ? 2 * cap : 64) * sizeof *ids);
			ids[n++] = hash_bytes(p->service, strlen(p->service), p->sites[p->grants[g].site].id);
		}
	int cmp(const void *x, const void *y) { uint64_t m = *(const uint64_t *)x, k = *(const uint64_t *)y; return m < k ? -1 : m > k; }
	if (n)
		qsort(ids, n, sizeof *ids, cmp);
	for (uint32_t i = 0; i < n; i++)
		distinct += !i || ids[i] != ids[i - 1];
	free(ids);
	return distinct;
}

static json_t *json_of(struct agent *a, struct rule *r, const struct rule_sum *m, bool sites)
{
	json_t *o = json_pack("{s:s,s:s,s:s,s:s,s:f,s:s,s:o,s:I,s:o,s:o,s:i,s:i,s:o}", "id", r->id, "kind", r->limit ? "limit" : "trace", "selector",
		r->selector ? r->selector : "", "level", level_name(r->level), "keep", r->keep, "scope", r->marked ? "marked" : "all", "where", maybe(r->where_text),
		"expires_unix_nano", (json_int_t)r->expires_ns, "owner", maybe(r->owner), "reason", maybe(r->reason), "instances", (int)m->instances, "processes",
		(int)m->processes, "measured", cost_of_rule(a, r, m));
	if (r->predicted) /* else the server knows it, or nobody */
		json_object_set(o, "predicted", r->predicted);
	if (sites)
		json_object_set_new(o, "sites", json_integer(distinct_sites(a, r)));
	if (r->raised > r->level)
		json_object_set_new(o, "raised", json_string(level_name(r->raised)));
	if (r->rate > 0)
		json_object_set_new(o, "rate", json_real(r->rate));
	if (r->policy) {
		json_object_set_new(o, "policy", json_string(r->policy));
		json_object_set_new(o, "rule", maybe(r->name));
		json_object_set_new(o, "version", json_integer(r->version));
	}
	if (rule_level(r) == KW_DEEP && !r->limit) {
		json_object_set_new(o, "depth", json_integer(r->depth ? r->depth : 1));
		json_object_set_new(o, "dropped", json_integer(r->ndropped));
		json_t *watched = watch_json(a, r);
		json_object_update(o, watched);
		json_decref(watched);
	}
	return o;
}

json_t *rules_json(struct agent *a)
{
	struct rule_sum *sum = sums(a);
	json_t *list = json_array();
	for (uint32_t i = 0; i < a->nrules; i++)
		if (!a->rules[i]->dead)
			json_array_append_new(list, json_of(a, a->rules[i], &sum[a->rules[i]->handle], a->nrules <= ASKED_MAX));
	free(sum);
	return list;
}

static void destroy_all(struct rule **r, size_t n)
{
	for (size_t i = 0; i < n; i++)
		rule_destroy(r[i]);
	free(r);
}

/* Parses all of it before anything is touched: all or nothing. */
static int parse_all(const json_t *list, struct rule ***ret_r, size_t *ret_n, struct err *e)
{
	size_t n = json_array_size(list);
	struct rule **r = base_calloc(n + 1, sizeof *r);
	for (size_t i = 0; i < n; i++) {
		int rc = rule_parse(json_array_get(list, i), &r[i], e);
		if (rc < 0) {
			const char *id = json_string_value(json_object_get(json_array_get(list, i), "id"));
			struct err why = *e;
			err_set(e, why.code, "rule %.80s: %.300s", id ? id : "without an id", why.msg);
			if (*why.hint)
				err_hint(e, "%s", why.hint);
			destroy_all(r, i);
			return rc;
		}
	}
	*ret_r = r;
	*ret_n = n;
	return 0;
}

#define ONE_BY_ONE 16 /* more new rules than that are looked up in the index, site by site */

static void put_in(struct agent *a, struct rule **r, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		struct rule *old = rules_find(a, r[i]->id);
		if (old) {
			succeed(r[i], old);
			bury(a, old);
		}
		insert(a, r[i]);
		if (n <= ONE_BY_ONE)
			grants_of(a, r[i]);
	}
	for (uint32_t k = 0; n > ONE_BY_ONE && k < a->nprocs; k++)
		grants_make(a, a->procs[k]);
}

/* What is given again as it was is left alone: nothing flickers when a server comes back and sends everything. */
static size_t keep_same(struct agent *a, struct rule **r, size_t n)
{
	size_t to = 0;
	for (size_t i = 0; i < n; i++) {
		struct rule *old = rules_find(a, r[i]->id);
		if (old && old->text_hash == r[i]->text_hash && old->raised_by_server == r[i]->raised_by_server) {
			old->kept = true;
			rule_destroy(r[i]);
		} else
			r[to++] = r[i];
	}
	return to;
}

static void remove_others(struct agent *a)
{
	for (uint32_t i = 0; i < a->nrules; i++) {
		if (!a->rules[i]->kept && !a->rules[i]->dead)
			bury(a, a->rules[i]);
		a->rules[i]->kept = false;
	}
}

/* Back to what was: the new ones go, those that they hid return. */
static void undo_dry(struct agent *a, struct rule **set, size_t n, struct rule **hidden, size_t nhidden)
{
	for (size_t i = 0; i < n; i++)
		bury(a, set[i]);
	for (size_t i = 0; i < nhidden; i++) {
		struct rule *r = hidden[i];
		r->dead = false;
		a->ndead--;
		match_add(a->index, r, r->site);
		uint32_t *slot = slot_of(a, r->id);
		a->nids_used += !*slot;
		*slot = r->handle + 1;
	}
	for (uint32_t k = 0; n > ONE_BY_ONE && k < a->nprocs; k++)
		grants_make(a, a->procs[k]);
	grants_sweep(a);
	rules_bury(a);
	for (uint32_t k = 0; k < a->nprocs; k++)
		levels_set(a, a->procs[k]);
}

static json_t *about(struct agent *a, struct rule **r, size_t n)
{
	struct rule_sum *sum = sums(a);
	json_t *list = json_array();
	double calls = 0, spans = 0, bytes = 0, cpu = 0;
	uint32_t processes = 0;
	bool known = true;
	for (size_t i = 0; i < n; i++) {
		if (r[i]->limit)
			continue;
		const struct rule_sum *m = &sum[r[i]->handle];
		json_t *cost = cost_of_rule(a, r[i], m);
		known &= m->known;
		calls += json_number_value(json_object_get(cost, "calls_per_s"));
		spans += json_number_value(json_object_get(cost, "spans_per_s"));
		bytes += json_number_value(json_object_get(cost, "bytes_per_s"));
		cpu += json_number_value(json_object_get(cost, "cpu_percent"));
		if (m->known && m->per_s > 0) {
			json_decref(r[i]->predicted);
			r[i]->predicted = json_incref(cost);
		}
		processes = m->processes > processes ? m->processes : processes;
		json_array_append_new(list, json_pack("{s:s,s:i,s:i,s:i,s:o}", "id", r[i]->id, "sites",
			(int)(n <= ASKED_MAX ? distinct_sites(a, r[i]) : m->instances), "instances", (int)m->instances, "processes",
			(int)m->processes, "predicted", cost));
	}
	free(sum);
	/* Of a process, if it is spread evenly over those that are matched. In a list, so that of many agents each keeps its own. */
	return json_pack("{s:o,s:{s:b,s:f,s:f,s:f,s:f,s:s},s:[{s:f,s:f,s:b}]}", "rules", list, "predicted", "known", (int)known, "calls_per_s", calls, "spans_per_s", spans,
		"bytes_per_s", bytes, "cpu_percent", cpu, "basis", known ? "measured" : "unknown: some of it was never on",
		"budgets", "budget_percent", a->cfg.budget_percent, "predicted_percent", cpu / (processes ? processes : 1), "known", (int)known);
}

static void too_many_warning(struct rule **r, size_t n, json_t *o)
{
	json_t *warnings = json_array();
	for (size_t i = 0; i < n; i++)
		if (r[i]->too_many) {
			struct buf b = { 0 };
			buf_printf(&b, "%s would intercept more functions of a process than it may (%u): narrow the selector, or say max_functions", r[i]->id, r[i]->max_functions);
			json_array_append_new(warnings, json_stringn((const char *)b.p, b.n));
			buf_finish(&b);
		}
	json_object_set_new(o, "warnings", warnings);
}

/* 32 hex digits; anything else leaves things as they are. */
static void take_token_key(struct agent *a, const char *hex)
{
	uint64_t hi, lo;
	if (!hex || strlen(hex) != 32 || trace_id_parse(str_of(hex), &hi, &lo) < 0)
		return;
	for (unsigned i = 0; i < 8; i++) {
		a->token_key[i] = (uint8_t)(hi >> (56 - 8 * i));
		a->token_key[8 + i] = (uint8_t)(lo >> (56 - 8 * i));
	}
	a->token_on = true;
	for (uint32_t k = 0; k < a->nprocs; k++)
		process_token(a->procs[k]);
}

int rules_change(struct agent *a, const json_t *params, json_t **ret_o, struct err *e)
{
	struct rule **set, **hidden;
	size_t n, nhidden = 0, i;
	const json_t *base = json_object_get(params, "base"), *v;
	bool dry = json_is_true(json_object_get(params, "dry_run")), whole = json_integer_value(base) == -1;
	int64_t generation = json_integer_value(json_object_get(params, "generation"));
	if (!json_is_object(params) || !json_is_integer(base))
		return err_set(e, KLIEG_E_USAGE, "a change needs a base: the generation that it changes, or -1 for the complete set");
	if (!whole && !dry && json_integer_value(base) != a->generation)
		return err_set(e, KLIEG_E_CONFLICT, "the agent is at generation %lld, not %lld", (long long)a->generation, (long long)json_integer_value(base));
	int rc = parse_all(json_object_get(params, "set"), &set, &n, e);
	if (rc < 0)
		return rc;
	/* Ends are times of the sender's clock: what counts is how far away they are there. */
	int64_t sent = json_integer_value(json_object_get(params, "now_unix_nano")), left;
	for (i = 0; sent && i < n; i++)
		if (set[i]->expires_ns)
			set[i]->ends_at = (left = set[i]->expires_ns - sent) > 0 ? clock_mono() + left : 1;
	if (a->dirty)
		rules_apply(a);
	for (uint32_t k = 0; k < a->nprocs; k++)
		a->procs[k]->ntouched = 0;
	hidden = base_calloc(a->nrules + n + 1, sizeof *hidden);
	if (!dry)
		n = whole ? keep_same(a, set, n) : n;
	if (whole && !dry)
		remove_others(a);
	json_array_foreach(json_object_get(params, "remove"), i, v) {
		struct rule *r = json_is_string(v) ? rules_find(a, json_string_value(v)) : NULL;
		if (r && !r->kept)
			hidden[nhidden++] = r, bury(a, r);
	}
	for (i = 0; dry && i < n; i++) { /* put_in() would do it as well, but these have to come back */
		struct rule *r = rules_find(a, set[i]->id);
		if (r)
			hidden[nhidden++] = r, bury(a, r);
	}
	if (!dry)
		take_token_key(a, json_string_value(json_object_get(params, "token_key")));
	int64_t start = clock_mono();
	put_in(a, set, n);
	json_t *o = about(a, set, n);
	if (dry) {
		for (uint32_t k = 0; k < a->nprocs; k++)
			levels_set(a, a->procs[k]);
	} else {
		for (uint32_t k = 0; k < a->nprocs; k++) /* grants of the dead count too */
			a->procs[k]->grants_changed |= a->ndead > 0;
		rules_apply(a);
	}
	int64_t ack = clock_mono() - start;
	too_many_warning(set, n, o);
	differences(a, o);
	if (dry) {
		undo_dry(a, set, n, hidden, nhidden);
	} else
		a->generation = generation;
	free(hidden);
	free(set);
	json_object_set_new(o, "applied", json_boolean(!dry));
	json_object_set_new(o, "generation", json_integer(a->generation));
	json_object_set_new(o, "ack_nano", json_integer(dry ? 0 : ack));
	*ret_o = o;
	return 0;
}

int rules_replace(struct agent *a, const json_t *list, struct err *e)
{
	struct rule **set;
	size_t n;
	int rc = parse_all(list, &set, &n, e);
	if (rc < 0)
		return rc;
	n = keep_same(a, set, n);
	remove_others(a);
	put_in(a, set, n);
	free(set);
	return 0;
}
