/* What the rules mean for the sites of a process. From a->rules and a process's sites come its grants: (site, rule), in order of site; from a site's grants, the
 * limits and the governor's cap follow its level, its threshold, its conditions. Grants change when rules, sites or the resource do; levels also when something is raised,
 * capped, or paced. patch_apply() makes bytes of it. Agent thread; owns p->grants. */
#include "agent/redact.h"
#include "agent/request.h"
#include "agent/state.h"
#include "policy/match.h"
#include <fnmatch.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

bool rule_covers(const struct rule *r, const struct process *p)
{
	bool any = !r->nhosts;
	for (uint32_t i = 0; i < r->nhosts && !any; i++)
		any = !fnmatch(r->hosts[i], p->agent->host, 0);
	if (!any || p->instance >= r->share)
		return false;
	any = false;
	for (uint32_t i = 0; i < r->nonly && !any; i++)
		any = r->only[i].pid == p->pid && (!r->only[i].host || !strcmp(r->only[i].host, p->agent->host));
	return r->except ? !any : any || !r->nonly;
}

static bool can_match(const struct process *p, uint32_t i)
{
	const struct site *s = &p->sites[i];
	return s->id && !s->bad && s->kind != KW_SITE_END && !p->modules[s->module].gone;
}

static void grant(struct process *p, uint32_t site, struct rule *r, unsigned callee)
{
	if (p->ngrants == p->grants_cap)
		p->grants = base_realloc(p->grants, (p->grants_cap = p->grants_cap ? 2 * p->grants_cap : 64) * sizeof *p->grants);
	p->grants[p->ngrants++] = (struct grant){ site, (uint8_t)callee, r };
}

/* ---- level deep ---------------------------------------------------------------------------------------------------------- */

enum { MATCHED = 1 }; /* and so many calls down */
struct expansion { struct process *p; uint8_t *mark, down; uint32_t *queue, n; const struct rule *r; };

static bool dropped(const struct rule *r, uint64_t site)
{
	for (uint32_t i = 0; i < r->ndropped; i++)
		if (r->dropped[i] == site)
			return true;
	return false;
}

static void found_callee(void *arg, uint32_t site)
{
	struct expansion *x = arg;
	struct site *s = &x->p->sites[site];
	if (!s->id || s->bad || x->mark[site] || dropped(x->r, s->id))
		return;
	x->mark[site] = (uint8_t)(MATCHED + x->down);
	x->queue[x->n++] = site;
}

/* What the matched functions call, and what that calls, to the rule's depth. */
static void expand(struct process *p, const struct rule *r, uint8_t *mark)
{
	struct expansion x = { .p = p, .mark = mark, .queue = base_alloc((p->nsites + 1) * sizeof *x.queue), .r = r };
	for (uint32_t i = 0; i < p->nsites; i++)
		if (mark[i] && p->sites[i].kind == KW_SITE_FUNCTION)
			x.queue[x.n++] = i;
	uint32_t depth = r->depth ? r->depth : 1;
	for (uint32_t done = 0, end; depth-- && done < x.n; done = end) {
		end = x.n;
		x.down += x.down < UINT8_MAX - MATCHED;
		for (uint32_t i = done; i < end && x.n - end <= r->max_functions; i++)
			functions_callees(p, x.queue[i], found_callee, &x);
	}
	free(x.queue);
}

static bool intercepts(const struct process *p, uint32_t i) { return p->sites[i].kind == KW_SITE_FUNCTION && !p->sites[i].plugin; }

/* '*' means every probe, hardly every function of an attached program. */
static bool too_many(struct rule *r, uint32_t functions)
{
	if (functions <= r->max_functions || r->limit)
		return false;
	return r->too_many = true;
}

static int by_site(const void *a, const void *b)
{
	const struct grant *x = a, *y = b;
	return x->site != y->site ? x->site < y->site ? -1 : 1 : x->r->handle < y->r->handle ? -1 : x->r->handle > y->r->handle;
}

/* One rule against every site; its grants are merged into those there are. */
void grants_add(struct process *p, struct rule *r)
{
	if (!p->map || !rule_covers(r, p))
		return;
	uint8_t *mark = base_calloc(p->nsites + 1, 1);
	uint32_t functions = 0, had = p->ngrants;
	for (uint32_t i = 0; i < p->nsites; i++)
		if (can_match(p, i)) {
			struct site_ref ref = { .p = p, .i = i };
			struct tq_source src = { &ref, site_source_get };
			if (match_one(p->agent->index, r, &src))
				mark[i] = MATCHED;
		}
	if (rule_level(r) == KW_DEEP && p->fns && !r->limit)
		expand(p, r, mark);
	for (uint32_t i = 0; i < p->nsites; i++)
		functions += mark[i] && intercepts(p, i);
	bool without = too_many(r, functions);
	for (uint32_t i = 0; i < p->nsites; i++)
		if (mark[i] && !(without && intercepts(p, i)))
			grant(p, i, r, mark[i] - MATCHED);
	free(mark);
	if (p->ngrants == had)
		return;
	if (had && by_site(&p->grants[had - 1], &p->grants[had]) > 0)
		qsort(p->grants, p->ngrants, sizeof *p->grants, by_site);
	p->grants_changed = true;
}

struct gathering { struct process *p; uint32_t site; uint32_t *functions; uint8_t *cover; /* by handle: 0 not looked, 1 no, 2 yes */ };

static void found_rule(void *arg, void *handle)
{
	struct gathering *g = arg;
	struct rule *r = handle;
	if (!g->cover[r->handle])
		g->cover[r->handle] = rule_covers(r, g->p) ? 2 : 1;
	if (g->cover[r->handle] == 1)
		return;
	g->functions[r->handle] += intercepts(g->p, g->site);
	grant(g->p, g->site, r, 0);
}

static void drop_grants(struct process *p, bool (*unwanted)(const struct process *p, const struct grant *g))
{
	uint32_t to = 0;
	for (uint32_t i = 0; i < p->ngrants; i++)
		if (!unwanted(p, &p->grants[i]))
			p->grants[to++] = p->grants[i];
	p->grants_changed |= to != p->ngrants;
	p->ngrants = to;
}

static bool of_too_many(const struct process *p, const struct grant *g) { return g->r->too_many && intercepts(p, g->site); }
static bool of_dead(const struct process *p, const struct grant *g) { return g->r->dead; }

/* Every rule against every site. */
void grants_make(struct agent *a, struct process *p)
{
	p->sites_gen++;
	p->ngrants = 0;
	p->grants_changed = p->touch_all = true;
	p->has_ends = false;
	if (!p->map)
		return;
	for (uint32_t i = 0; i < p->nsites && !p->has_ends; i++)
		p->has_ends = p->sites[i].id && p->sites[i].kind == KW_SITE_END;
	uint32_t *functions = base_calloc(a->nhandles + 1, sizeof *functions);
	struct gathering g = { .p = p, .functions = functions, .cover = base_calloc(a->nhandles + 1, 1) };
	bool any = false;
	for (g.site = 0; a->nrules && g.site < p->nsites; g.site++)
		if (can_match(p, g.site)) {
			struct site_ref ref = { .p = p, .i = g.site };
			struct tq_source src = { &ref, site_source_get };
			match_site(a->index, &src, found_rule, &g);
		}
	for (uint32_t k = 0; k < a->nrules; k++)
		if (!a->rules[k]->dead)
			any |= too_many(a->rules[k], functions[a->rules[k]->handle]);
	free(functions);
	free(g.cover);
	if (p->ngrants)
		qsort(p->grants, p->ngrants, sizeof *p->grants, by_site);
	if (any)
		drop_grants(p, of_too_many);
	for (uint32_t k = 0; k < a->nrules && p->fns; k++)
		if (rule_level(a->rules[k]) == KW_DEEP && !a->rules[k]->limit && !a->rules[k]->dead)
			grants_again(p, a->rules[k]);
}

static struct rule *leaving; /* agent thread only */
static bool of_leaving(const struct process *p, const struct grant *g) { return g->r == leaving; }

void grants_again(struct process *p, struct rule *r)
{
	leaving = r;
	drop_grants(p, of_leaving);
	grants_add(p, r);
}

void grants_sweep(struct agent *a)
{
	for (uint32_t i = 0; i < a->nprocs; i++)
		drop_grants(a->procs[i], of_dead);
}

/* ---- levels -------------------------------------------------------------------------------------------------------------- */

/* The rule's condition on arguments, for one function; of several rules one must hold. false: it has no such argument. */
static bool add_condition(struct process *p, uint32_t i, const struct rule *r, bool first)
{
	struct site *s = &p->sites[i];
	struct symbols_signature *sig = base_calloc(1, sizeof *sig);
	struct kw_where w[KW_HOOK_WHERE];
	struct err e = { 0 };
	uint8_t n = 0;
	bool known = symbols_signature(function_module_of(p, i)->file.symbols, function_of(p, i), sig) >= 0;
	bool ok = condition_compile(r->args, known ? sig : NULL, w, &n, &e);
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

void site_threshold(struct site *s)
{
	double keep = s->keep, paced = s->adaptive > 0 && s->adaptive < s->rate_keep ? s->adaptive : s->rate_keep;
	if (s->rate > 0 && paced > keep)
		keep = paced;
	if (s->ceiling > 0 && keep > s->ceiling)
		keep = s->ceiling;
	/* Records carry the upper 24 bits: a threshold has no more, so that what a span stands for is exact. */
	s->threshold = keep >= 1 ? 0 : (uint64_t)ldexp(1 - keep, 24) << 32;
	if (keep <= 0)
		s->threshold = UINT64_MAX; /* nothing reaches it */
}

static unsigned least(unsigned a, unsigned b) { return a < b ? a : b; }

static void level_of_site(struct process *p, uint32_t i, const struct grant *g, uint32_t n)
{
	struct site *s = &p->sites[i];
	bool function = s->kind == KW_SITE_FUNCTION, unfiltered = false, any = false, unconditional = false;
	unsigned all = 0, marked = 0, limit = KW_DEEP;
	s->keep = s->rate = s->rate_keep = s->floor_per_s = 0;
	for (const struct grant *end = g + n; g < end; g++) {
		struct rule *r = g->r;
		if (r->dead)
			continue;
		if (r->limit) {
			limit = least(limit, r->level);
			if (r->overhead > 0 && (p->limit_overhead <= 0 || r->overhead < p->limit_overhead))
				p->limit_overhead = r->overhead;
			if (r->spans_per_s > 0 && (p->limit_spans <= 0 || r->spans_per_s < p->limit_spans))
				p->limit_spans = r->spans_per_s;
			continue;
		}
		if (r->max_cost > p->asked_cost)
			p->asked_cost = r->max_cost;
		unsigned level = g->callee ? KW_SPAN : rule_level(r);
		if (!level)
			continue;
		if (function && r->args && !g->callee) {
			if (!unconditional && !add_condition(p, i, r, !any))
				continue;
		} else {
			unconditional = true;
			s->nwhere = 0;
		}
		any = true;
		unsigned *to = r->marked || r->request ? &marked : &all;
		*to = level > *to ? level : *to;
		double *keep = r->rate > 0 ? &s->rate_keep : &s->keep;
		*keep = r->keep > *keep ? r->keep : *keep;
		s->rate = r->rate > s->rate ? r->rate : s->rate;
		s->floor_per_s = r->rate > 0 && r->floor_per_s > s->floor_per_s ? r->floor_per_s : s->floor_per_s;
		unfiltered |= !r->where && level >= KW_SPAN;
		redact_site(p, s, r);
	}
	if (s->nfeeds && all < KW_COUNT) { /* a trigger measures here */
		all = KW_COUNT;
		any = true;
	}
	if (!any)
		return;
	all = least(all, limit);
	marked = least(marked, limit);
	s->limit = (uint8_t)limit;
	s->wanted = (uint8_t)(marked > all ? marked : all);
	unsigned cap = s->cap ? s->cap - 1u : KW_DEEP;
	s->always = (uint8_t)least(all, cap);
	s->level = (uint8_t)least(s->wanted, cap);
	s->where = !unfiltered && s->level >= KW_SPAN;
	site_threshold(s);
}

/* End sites are on as their begins of the same id are. */
static void levels_of_ends(struct process *p)
{
	uint32_t size = 1;
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
			struct site *b = slots[h] ? &p->sites[slots[h] - 1] : NULL;
			if (!pass) {
				if (!b || b->always < s->always || b->level < s->level || b->peek < s->peek || b->classifies < s->classifies)
					slots[h] = i + 1;
			} else if (b) {
				s->always = b->always;
				s->level = b->level;
				s->peek = b->peek;
				s->classifies = b->classifies;
			}
		}
	free(slots);
}

static bool peeked(struct agent *a, struct process *p, uint32_t i)
{
	for (struct request *r = a->waiting; r; r = r->next)
		for (uint32_t k = 0; k < r->npeek; k++)
			if ((p->sites[i].kind != KW_SITE_FUNCTION || r->peek_functions) && rule_covers(r->peek[k], p) && site_match(p, i, r->peek[k]->site))
				return true;
	return false;
}

static void touch(struct process *p, uint32_t site)
{
	if (p->ntouched == p->touched_cap)
		p->touched = base_realloc(p->touched, (p->touched_cap = p->touched_cap ? 2 * p->touched_cap : 256) * sizeof *p->touched);
	p->touched[p->ntouched++] = (struct touched){ site, p->sites[site].level };
}

/* A process may have a hundred thousand sites, of which a handful are wanted: only those are looked at, and those that were until now. */
static void touch_all(struct agent *a, struct process *p)
{
	uint32_t g = 0, k = 0;
	p->ntouched = 0;
	if (a->waiting || p->has_ends || p->touch_all) {
		for (uint32_t i = 0; i < p->nsites; i++)
			touch(p, i);
		p->touch_all = false;
		return;
	}
	while (g < p->ngrants || k < p->nactive) {
		uint32_t i = g < p->ngrants && (k == p->nactive || p->grants[g].site <= p->active[k]) ? p->grants[g].site : p->active[k];
		touch(p, i);
		while (g < p->ngrants && p->grants[g].site == i)
			g++;
		while (k < p->nactive && p->active[k] == i)
			k++;
	}
}

void levels_set(struct agent *a, struct process *p)
{
	p->grants_changed = false;
	p->limit_overhead = p->limit_spans = p->asked_cost = 0;
	if (!p->map)
		return;
	if (p->fns)
		p->fns->condition_problem[0] = 0;
	p->touch_all |= requests_install(p);
	redact_install(p);
	touch_all(a, p);
	p->active = base_realloc(p->active, (p->ntouched + 1) * sizeof *p->active);
	p->nactive = 0;
	uint32_t g = 0;
	for (uint32_t k = 0; k < p->ntouched; k++) {
		uint32_t i = p->touched[k].site, from = g;
		struct site *s = &p->sites[i];
		while (g < p->ngrants && p->grants[g].site == i)
			g++;
		s->always = s->level = s->wanted = s->peek = s->where = s->nwhere = s->hides = 0;
		s->redacts = false;
		s->hide = 0;
		s->limit = KW_DEEP;
		s->threshold = 0;
		if (!s->id || p->modules[s->module].gone)
			continue;
		if (s->kind != KW_SITE_END)
			level_of_site(p, i, p->grants + from, g - from);
		if (a->waiting && !s->level && !s->bad && s->kind != KW_SITE_END && peeked(a, p, i))
			s->peek = KW_COUNT;
		if (s->level || s->peek || s->cap || s->classifies) /* what the governor has switched off stays among them until nobody wants it */
			p->active[p->nactive++] = i;
	}
	if (p->has_ends)
		levels_of_ends(p);
	p->touch_all = a->waiting != NULL; /* what is peeked at now may be nobody's next time */
}

void rules_apply(struct agent *a)
{
	triggers_follow(a);
	grants_sweep(a);
	a->dirty |= watch_follow(a);
	rules_bury(a);
	for (uint32_t i = 0; i < a->nprocs; i++) {
		struct process *p = a->procs[i];
		if (!p->map || !(p->grants_changed || a->dirty))
			continue;
		levels_set(a, p);
		patch_apply(p);
	}
	a->dirty = false;
}

void rules_dirty(struct agent *a) { a->dirty = true; }

/* ---- deep rules narrow themselves ---------------------------------------------------------------------------------------- */

#define NARROW_SECONDS 3 /* what is looked at before a callee is dropped */

static void drop_callee(struct rule *r, uint64_t site)
{
	r->dropped = base_realloc(r->dropped, (r->ndropped + 1) * sizeof *r->dropped);
	r->dropped[r->ndropped++] = site;
}

/* Time and calls of a site in the last whole seconds. */
static void recent(const struct site *s, int64_t sec, uint64_t *ret_ticks, uint64_t *ret_calls)
{
	*ret_ticks = *ret_calls = 0;
	for (int i = 0; s->stat && i < STAT_SECONDS; i++)
		if (s->stat->s[i].sec < sec && s->stat->s[i].sec >= sec - NARROW_SECONDS) {
			*ret_ticks += (uint64_t)s->stat->s[i].ticks;
			*ret_calls += (uint64_t)s->stat->s[i].calls;
		}
}

/* Of what a deep rule switched on in a process, what is not worth it goes off again: callees with less than a hundredth of the time of the functions
 * that were asked for, and, if all callees together cost more than their cap, the dearest. */
static bool narrow(struct process *p, struct rule *r)
{
	int64_t sec = clock_mono() / SECOND;
	uint64_t whole = 0, ticks, calls, dearest_calls = 0;
	double cost = 0;
	uint32_t before = r->ndropped, dearest = 0;
	for (uint32_t k = 0; k < p->ngrants; k++)
		if (p->grants[k].r == r && !p->grants[k].callee) {
			recent(&p->sites[p->grants[k].site], sec, &ticks, &calls);
			whole += ticks;
		}
	for (uint32_t k = 0; whole && k < p->ngrants; k++) {
		uint32_t i = p->grants[k].site;
		const struct site *s = &p->sites[i];
		if (p->grants[k].r != r || !p->grants[k].callee || !s->patched || sec - s->on_since / SECOND <= NARROW_SECONDS)
			continue;
		recent(s, sec, &ticks, &calls);
		if (calls && ticks < whole / 100) {
			drop_callee(r, s->id);
			continue;
		}
		cost += (double)calls * cost_of(p, s, KW_SPAN, r->keep) / NARROW_SECONDS;
		if (calls > dearest_calls)
			dearest = i, dearest_calls = calls;
	}
	if (dearest_calls && cost > r->max_cost * 1e7) /* percent of a core, in ns a second */
		drop_callee(r, p->sites[dearest].id);
	return r->ndropped > before;
}

bool rules_narrow(struct agent *a)
{
	bool any = false;
	for (uint32_t k = 0; k < a->nrules; k++) {
		struct rule *r = a->rules[k];
		bool mine = false;
		for (uint32_t i = 0; rule_level(r) == KW_DEEP && !r->limit && i < a->nprocs; i++)
			if (a->procs[i]->map && a->procs[i]->fns && a->procs[i]->fns->live)
				mine |= narrow(a->procs[i], r);
		for (uint32_t i = 0; mine && i < a->nprocs; i++)
			grants_again(a->procs[i], r);
		any |= mine;
	}
	return any;
}

static uint32_t first_grant(const struct process *p, uint32_t site)
{
	uint32_t lo = 0, hi = p->ngrants;
	while (lo < hi) {
		uint32_t mid = (lo + hi) / 2;
		if (p->grants[mid].site < site)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

/* What one rule hides stays hidden, whatever others allow. */
bool site_redacts(const struct process *p, uint32_t site, struct str key)
{
	char name[256];
	snprintf(name, sizeof name, "%.*s", (int)key.n, key.p);
	for (uint32_t g = first_grant(p, site); g < p->ngrants && p->grants[g].site == site; g++)
		for (uint32_t i = 0; i < p->grants[g].r->nredact; i++)
			if (!fnmatch(p->grants[g].r->redact[i], name, 0))
				return true;
	return false;
}

/* A span that ended passes when one of the rules that record here lets it. */
bool rules_where(struct agent *a, struct process *p, uint32_t site, const struct batch *b, uint32_t span)
{
	uint32_t lo = first_grant(p, site);
	for (; lo < p->ngrants && p->grants[lo].site == site; lo++) {
		const struct rule *r = p->grants[lo].r;
		if (!r->dead && !r->limit && rule_level(r) >= KW_SPAN && (!r->where || traceql_match(r->where, b, span)))
			return true;
	}
	return false;
}
