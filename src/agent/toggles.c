/* What people (and later policies) want on: matched against sites as these come and go; the highest level and the highest keep win; nothing
 * outlives its TTL. Agent thread. */
#include "agent/state.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static const char *const levels[] = { "off", "count", "span", "detail", "deep" };
const char *level_name(unsigned level) { return level < 5 ? levels[level] : "off"; }

void toggle_destroy(struct toggle *t)
{
	if (!t)
		return;
	free(t->id);
	free(t->selector);
	free(t->where_text);
	free(t->owner);
	free(t->reason);
	free(t->scope);
	traceql_destroy(t->q);
	traceql_destroy(t->where);
	condition_destroy(t->args);
	free(t->dropped);
	json_decref(t->predicted);
	free(t);
}

static char *text(const json_t *j, const char *key)
{
	const char *s = json_string_value(json_object_get(j, key));
	return s ? str_dup(str_of(s)) : NULL;
}

int toggle_parse(const json_t *j, struct toggle **ret_t, struct err *e)
{
	if (!json_is_object(j))
		return err_set(e, KLIEG_E_USAGE, "a toggle is an object");
	struct toggle *t = base_calloc(1, sizeof *t);
	int rc = 0;
	t->id = text(j, "id");
	t->selector = text(j, "selector");
	t->where_text = text(j, "where");
	t->owner = text(j, "owner");
	t->reason = text(j, "reason");
	t->scope = text(j, "scope");
	const char *level = json_string_value(json_object_get(j, "level"));
	json_t *keep = json_object_get(j, "keep");
	t->keep = json_is_number(keep) ? json_number_value(keep) : 1;
	t->expires_ns = json_integer_value(json_object_get(j, "expires_unix_nano"));
	t->marked = t->scope && !strcmp(t->scope, "marked");
	t->level = level ? 255 : KW_SPAN;
	t->depth = (uint32_t)json_integer_value(json_object_get(j, "depth"));
	t->max_cost = json_is_number(json_object_get(j, "max_cost")) ? json_number_value(json_object_get(j, "max_cost")) : 1;
	t->max_pause_ns = json_integer_value(json_object_get(j, "max_pause_nano"));
	json_int_t most = json_integer_value(json_object_get(j, "max_functions"));
	t->max_functions = most > 0 && most < 1 << 20 ? (uint32_t)most : MAX_FUNCTIONS_DEFAULT;
	for (uint8_t i = 0; level && i <= KW_DEEP; i++)
		if (!strcmp(level, levels[i]))
			t->level = i;
	if (t->level == 255)
		rc = err_set(e, KLIEG_E_BAD_DATA, "level \"%.40s\" is none of off, count, span, detail, deep", level);
	else if (!(t->keep >= 0 && t->keep <= 1))
		rc = err_set(e, KLIEG_E_BAD_DATA, "keep must be between 0 and 1");
	else if (t->scope && !t->marked && strcmp(t->scope, "all"))
		rc = err_set(e, KLIEG_E_BAD_DATA, "scope \"%.40s\" is none of all, marked", t->scope);
	else if (t->depth > 16 || json_integer_value(json_object_get(j, "depth")) < 0)
		rc = err_set(e, KLIEG_E_BAD_DATA, "depth must be between 0 and 16");
	else if (t->max_pause_ns < 0)
		rc = err_set(e, KLIEG_E_BAD_DATA, "max_pause_nano must not be negative");
	else if ((rc = traceql_parse_selector(str_of(t->selector ? t->selector : ""), &t->q, e)) >= 0 && (rc = traceql_check_site(t->q, e)) >= 0
			&& t->where_text && *t->where_text)
		rc = condition_is(t->where_text) ? condition_parse(t->where_text, &t->args, e) : traceql_parse(str_of(t->where_text), &t->where, e);
	if (rc < 0) {
		toggle_destroy(t);
		return rc;
	}
	if (!t->id) {
		static unsigned serial;
		struct buf b = { 0 };
		buf_printf(&b, "t-%08x%04x", (unsigned)(clock_wall() / 1000000), serial++ & 0xffff);
		t->id = str_dup(buf_str(&b));
		buf_finish(&b);
	}
	*ret_t = t;
	return 0;
}

bool toggle_dropped(const struct toggle *t, uint64_t site)
{
	for (uint32_t i = 0; i < t->ndropped; i++)
		if (t->dropped[i] == site)
			return true;
	return false;
}

static json_t *maybe(const char *s) { return s ? json_string(s) : json_null(); }

json_t *toggle_json(struct agent *a, struct toggle *t)
{
	int64_t now = clock_mono(), window = 0, w, age;
	double per_s = 0, besides = 0; /* what functions cost on top: by their calls */
	bool known = true;
	t->sites = t->instances = t->processes = 0;
	uint64_t *ids = NULL;
	uint32_t cap = 0;
	for (uint32_t k = 0; k < a->nprocs; k++) {
		struct process *p = a->procs[k];
		uint32_t before = t->instances;
		for (uint32_t i = 0; p->map && i < p->nsites; i++) {
			struct site *s = &p->sites[i];
			if (!s->id || !s->level || p->modules[s->module].gone || s->kind == KW_SITE_END || !site_match(p, i, t->q))
				continue;
			t->instances++;
			double rate = cost_rate(s, now, &w, &age);
			known &= rate >= 0 && !age;
			per_s += rate > 0 && !age ? rate : 0;
			besides += rate > 0 && !age ? rate * (cost_of(p, s, t->level, t->keep) - cost_ns(a, t->level, t->keep)) : 0;
			window = w && (!window || w < window) ? w : window;
			if (t->sites == cap)
				ids = base_realloc(ids, (cap = cap ? 2 * cap : 64) * sizeof *ids);
			ids[t->sites++] = hash_bytes(p->service, strlen(p->service), s->id);
		}
		t->processes += t->instances > before;
	}
	int cmp(const void *x, const void *y) { uint64_t m = *(const uint64_t *)x, n = *(const uint64_t *)y; return m < n ? -1 : m > n; }
	if (t->sites)
		qsort(ids, t->sites, sizeof *ids, cmp);
	uint32_t distinct = 0;
	for (uint32_t i = 0; i < t->sites; i++)
		distinct += !i || ids[i] != ids[i - 1];
	free(ids);
	t->sites = distinct;
	char basis[64];
	if (known && window)
		snprintf(basis, sizeof basis, window < SECOND ? "measured %lld ms" : "measured %lld s", (long long)(window / (window < SECOND ? 1000000 : SECOND)));
	else
		snprintf(basis, sizeof basis, t->instances ? "unknown: not on for long enough" : "unknown: nothing matches");
	json_t *o = json_pack("{s:s,s:s,s:s,s:f,s:s,s:o,s:I,s:o,s:o,s:i,s:i,s:i,s:o,s:O?}", "id", t->id, "selector", t->selector ? t->selector : "",
		"level", level_name(t->level), "keep", t->keep, "scope", t->marked ? "marked" : "all", "where", maybe(t->where_text),
		"expires_unix_nano", (json_int_t)t->expires_ns, "owner", maybe(t->owner), "reason", maybe(t->reason), "sites", (int)t->sites,
		"instances", (int)t->instances, "processes", (int)t->processes,
		"measured", cost_json(a, t->level, t->keep, per_s > 0 ? besides / per_s : 0, known && window, known ? per_s : 0, basis), "predicted", t->predicted);
	if (t->level == KW_DEEP) {
		json_object_set_new(o, "depth", json_integer(t->depth ? t->depth : 1));
		json_object_set_new(o, "dropped", json_integer(t->ndropped));
	}
	return o;
}

/* What a toggle means in one process: by site index, 0 = nothing, else one of these. */
enum { MATCHED = 1, CALLEE = 2 };

struct expansion { struct process *p; uint8_t *mark; uint32_t *queue, n; const struct toggle *t; };

static void found_callee(void *arg, uint32_t site)
{
	struct expansion *x = arg;
	struct site *s = &x->p->sites[site];
	if (!s->id || s->bad || x->mark[site] || toggle_dropped(x->t, s->id))
		return;
	x->mark[site] = CALLEE;
	x->queue[x->n++] = site;
}

/* Level deep: what the matched functions call, and what that calls, to the toggle's depth. */
static void expand(struct process *p, const struct toggle *t, uint8_t *mark)
{
	struct expansion x = { .p = p, .mark = mark, .queue = base_alloc((p->nsites + 1) * sizeof *x.queue), .t = t };
	for (uint32_t i = 0; i < p->nsites; i++)
		if (mark[i] && p->sites[i].kind == KW_SITE_FUNCTION)
			x.queue[x.n++] = i;
	uint32_t depth = t->depth ? t->depth : 1;
	for (uint32_t done = 0, end; depth-- && done < x.n; done = end) {
		end = x.n;
		for (uint32_t i = done; i < end && x.n - end <= t->max_functions; i++)
			functions_callees(p, x.queue[i], found_callee, &x);
	}
	free(x.queue);
}

static uint8_t *meaning(struct process *p, struct toggle *t)
{
	uint8_t *mark = base_calloc(p->nsites + 1, 1);
	uint32_t functions = 0;
	for (uint32_t i = 0; i < p->nsites; i++) {
		struct site *s = &p->sites[i];
		if (s->id && !s->bad && !p->modules[s->module].gone && s->kind != KW_SITE_END && site_match(p, i, t->q))
			mark[i] = MATCHED;
	}
	if (t->level == KW_DEEP && p->fns)
		expand(p, t, mark);
	for (uint32_t i = 0; i < p->nsites; i++)
		functions += mark[i] && p->sites[i].kind == KW_SITE_FUNCTION && !p->sites[i].plugin;
	if (functions > t->max_functions) { /* '*' means every probe, hardly every function of an attached program */
		t->too_many = true;
		for (uint32_t i = 0; i < p->nsites; i++)
			if (p->sites[i].kind == KW_SITE_FUNCTION && !p->sites[i].plugin)
				mark[i] = 0;
	}
	return mark;
}

#define NARROW_SECONDS 3 /* what is looked at before a callee is dropped */

static void drop_callee(struct toggle *t, uint64_t site)
{
	t->dropped = base_realloc(t->dropped, (t->ndropped + 1) * sizeof *t->dropped);
	t->dropped[t->ndropped++] = site;
}

/* Time and calls of a site in the last whole seconds. */
static void recent(const struct site *s, int64_t sec, uint64_t *ret_ticks, uint64_t *ret_calls)
{
	*ret_ticks = *ret_calls = 0;
	for (int i = 0; s->stat && i < STAT_SECONDS; i++)
		if (s->stat->s[i].sec < sec && s->stat->s[i].sec >= sec - NARROW_SECONDS) {
			*ret_ticks += s->stat->s[i].ticks;
			*ret_calls += s->stat->s[i].calls;
		}
}

/* Of what a deep toggle switched on in a process, what is not worth it goes off again: callees with less than a hundredth of the time of the functions
 * that were asked for, and, if all callees together cost more than their cap, the dearest. */
static bool narrow(struct agent *a, struct process *p, struct toggle *t)
{
	uint8_t *mark = meaning(p, t);
	int64_t sec = clock_mono() / SECOND;
	uint64_t whole = 0, ticks, calls, dearest_calls = 0;
	double cost = 0;
	uint32_t before = t->ndropped, dearest = 0;
	for (uint32_t i = 0; i < p->nsites; i++)
		if (mark[i] == MATCHED) {
			recent(&p->sites[i], sec, &ticks, &calls);
			whole += ticks;
		}
	for (uint32_t i = 0; whole && i < p->nsites; i++) {
		const struct site *s = &p->sites[i];
		if (mark[i] != CALLEE || !s->patched || sec - s->on_since / SECOND <= NARROW_SECONDS)
			continue;
		recent(s, sec, &ticks, &calls);
		if (calls && ticks < whole / 100) {
			drop_callee(t, s->id);
			continue;
		}
		cost += (double)calls * cost_of(p, s, KW_SPAN, t->keep) / NARROW_SECONDS;
		if (calls > dearest_calls)
			dearest = i, dearest_calls = calls;
	}
	if (dearest_calls && cost > t->max_cost * 1e7) /* percent of a core, in ns a second */
		drop_callee(t, p->sites[dearest].id);
	free(mark);
	return t->ndropped > before;
}

bool toggles_narrow(struct agent *a)
{
	bool any = false;
	for (uint32_t k = 0; k < a->ntoggles; k++)
		for (uint32_t i = 0; a->toggles[k]->level == KW_DEEP && i < a->nprocs; i++)
			if (a->procs[i]->map && a->procs[i]->fns && a->procs[i]->fns->live)
				any |= narrow(a, a->procs[i], a->toggles[k]);
	return any;
}

/* The toggle's condition on arguments, for one function; of several toggles one must hold. false: it has no such argument. */
static bool add_condition(struct process *p, uint32_t i, const struct toggle *t, bool first)
{
	struct site *s = &p->sites[i];
	struct symbols_signature *sig = base_calloc(1, sizeof *sig);
	struct kw_where w[KW_HOOK_WHERE];
	struct err e = { 0 };
	uint8_t n = 0;
	bool known = symbols_signature(function_module_of(p, i)->file.symbols, function_of(p, i), sig) >= 0;
	bool ok = condition_compile(t->args, known ? sig : NULL, w, &n, &e);
	free(sig);
	if (!ok) {
		struct str name = strtab_get(&p->strs, s->name);
		snprintf(p->fns->condition_problem, sizeof p->fns->condition_problem, "%.*s: %.120s", (int)name.n, name.p, e.msg);
		return false;
	}
	if (first) {
		memcpy(s->arg_where, w, sizeof w);
		s->nwhere = n;
	} else if (s->nwhere + n + 1u <= KW_HOOK_WHERE) {
		memcpy(s->arg_where + s->nwhere, w, n * sizeof *w);
		s->nwhere = (uint8_t)(s->nwhere + n);
		s->arg_where[s->nwhere++] = (struct kw_where){ .op = KW_WHERE_OR };
	} else {
		s->nwhere = 0; /* too long to be put together: all calls, and no filter */
	}
	return true;
}

/* Sets what each site should be; ends follow the begins of the same id. */
void toggles_match(struct agent *a, struct process *p, uint32_t from)
{
	if (!p->map)
		return;
	uint32_t nends = 0, size = 1;
	uint8_t **mark = base_calloc(a->ntoggles + 1, sizeof *mark);
	for (uint32_t k = 0; k < a->ntoggles; k++)
		mark[k] = a->toggles[k]->level ? meaning(p, a->toggles[k]) : NULL;
	if (p->fns)
		p->fns->condition_problem[0] = 0;
	for (uint32_t i = from; i < p->nsites; i++) {
		struct site *s = &p->sites[i];
		s->level = s->peek = 0;
		s->threshold = 0;
		s->where = s->gated = 0;
		s->nwhere = 0;
		if (!s->id || p->modules[s->module].gone)
			continue;
		if (s->kind == KW_SITE_END) {
			nends++;
			continue;
		}
		bool function = s->kind == KW_SITE_FUNCTION;
		double keep = 0;
		bool all = false, unfiltered = false, any = false, unconditional = false;
		for (uint32_t k = 0; k < a->ntoggles; k++) {
			struct toggle *t = a->toggles[k];
			if (!mark[k] || !mark[k][i])
				continue;
			if (function && t->args && mark[k][i] == MATCHED) {
				if (!unconditional && !add_condition(p, i, t, !any))
					continue;
			} else {
				unconditional = true;
				s->nwhere = 0;
			}
			uint8_t level = mark[k][i] == CALLEE ? KW_SPAN : t->level;
			any = true;
			s->level = level > s->level ? level : s->level;
			keep = t->keep > keep ? t->keep : keep;
			all |= !t->marked;
			unfiltered |= !t->where && level >= KW_SPAN;
		}
		for (struct request *r = a->waiting; r; r = r->next)
			if (r->peek && !s->level && !s->bad && (!function || r->peek_functions) && site_match(p, i, r->peek->q))
				s->peek = KW_COUNT;
		if (!any)
			continue;
		s->gated = !all;
		s->where = !unfiltered && s->level >= KW_SPAN;
		s->threshold = keep >= 1 ? 0 : (uint64_t)ldexp(1 - keep, 56);
		if (s->threshold >= 1ull << 56)
			s->threshold = UINT64_MAX; /* keep 0: nothing reaches it */
	}
	for (uint32_t k = 0; k < a->ntoggles; k++)
		free(mark[k]);
	free(mark);
	if (!nends)
		return;
	while (size < 2 * p->nsites)
		size *= 2;
	uint32_t *slots = base_calloc(size, sizeof *slots); /* begin sites by id: index + 1 of the one with the highest level */
	for (int pass = 0; pass < 2; pass++)
		for (uint32_t i = 0; i < p->nsites; i++) {
			struct site *s = &p->sites[i];
			if (!s->id || (pass ? s->kind != KW_SITE_END : s->kind != KW_SITE_SPAN))
				continue;
			uint32_t h = (uint32_t)s->id & (size - 1);
			while (slots[h] && p->sites[slots[h] - 1].id != s->id)
				h = (h + 1) & (size - 1);
			if (!pass) {
				if (!slots[h] || p->sites[slots[h] - 1].level < s->level || p->sites[slots[h] - 1].peek < s->peek)
					slots[h] = i + 1;
			} else if (slots[h]) {
				s->level = p->sites[slots[h] - 1].level;
				s->peek = p->sites[slots[h] - 1].peek;
			}
		}
	free(slots);
}

void toggles_apply(struct agent *a)
{
	for (uint32_t i = 0; i < a->nprocs; i++) {
		toggles_match(a, a->procs[i], 0);
		patch_apply(a->procs[i]);
	}
}

int toggle_add(struct agent *a, struct toggle *t)
{
	toggle_remove(a, t->id);
	a->toggles = base_realloc(a->toggles, (a->ntoggles + 1) * sizeof *a->toggles);
	a->toggles[a->ntoggles++] = t;
	return 0;
}

bool toggle_remove(struct agent *a, const char *id)
{
	for (uint32_t i = 0; i < a->ntoggles; i++)
		if (!strcmp(a->toggles[i]->id, id)) {
			toggle_destroy(a->toggles[i]);
			a->toggles[i] = a->toggles[--a->ntoggles];
			return true;
		}
	return false;
}

bool toggles_expire(struct agent *a)
{
	int64_t now = clock_wall();
	bool any = false;
	for (uint32_t i = a->ntoggles; i-- > 0;)
		if (a->toggles[i]->expires_ns && a->toggles[i]->expires_ns <= now) {
			log_info("agent", "toggle %s has run out", a->toggles[i]->id);
			agent_emit(a, "toggle", json_pack("{s:s,s:s}", "id", a->toggles[i]->id, "state", "expired"));
			toggle_remove(a, a->toggles[i]->id);
			any = true;
		}
	return any;
}

bool toggles_where(struct agent *a, struct process *p, uint32_t site, const struct batch *b, uint32_t span)
{
	for (uint32_t k = 0; k < a->ntoggles; k++) {
		struct toggle *t = a->toggles[k];
		if (t->level >= KW_SPAN && (t->level == KW_DEEP || site_match(p, site, t->q)) && (!t->where || traceql_match(t->where, b, span)))
			return true;
	}
	return false;
}
