/* What illuminated functions call through pointers, as observed. Their code does not say whom they call, only where such calls return to. So
 * functions whose address is taken somewhere, and that are not on, are intercepted for a moment: nothing is recorded, the library notes the latest
 * return address that lies where an illuminated function calls through a pointer. What was so called becomes a callee like one that the code names;
 * all others are as they were.
 *
 * From the rules of level deep and their grants, to edges (caller, callee) of sites, which grants.c follows. Bounded in every way: so many functions
 * at once, so long at a time, rarer and rarer while nothing new comes, ended at once when it costs more than the rule allows; functions that are
 * called too often to be watched are left out from then on, and counted. What the process writes is not believed: a return address must be one that
 * the caller's code has. Agent thread; owns fns->watch. */
#include "agent/state.h"
#include <stdlib.h>
#include <unistd.h>

#define AT_ONCE 2048u                  /* functions; a stub is 512 bytes of the process */
#define WINDOW (300 * 1000000ll)
#define LOOK (10 * 1000000ll)          /* between two looks at what was noted */
#define GAP_LEAST SECOND
#define GAP_MOST (60 * SECOND)
#define CALLERS_MAX 512u
#define EDGES_MAX 4096u
#define CALL_NS 8.                     /* of one that is watched: 6 measured, more where threads share a line */
#define STOPPED_NS 1000                /* that the process stands still for each function that is intercepted, at most, measured */
#define SHARE_TOO_HOT 8                /* of a window's calls, where these cost too much: an eighth */

struct edge { uint32_t from, to; };
/* Where the calls of a function through pointers return to, in the process; or, for a jump at its end, the function itself. */
struct caller { uint32_t site, n; uint64_t *at; };

struct watch {
	struct edge *edges; uint32_t nedges;
	struct caller *known; uint32_t nknown; /* looked at already */
	uint32_t *now, nnow;               /* sites that are watched; their places in the table */
	struct caller *callers; uint32_t ncallers; /* for whom */
	uint32_t *taken, ntaken, hand;     /* sites whose address is taken; where the next window begins */
	uint32_t nmods;                    /* that these are of */
	uint64_t table;                    /* in the process: AT_ONCE struct kw_watched */
	uint64_t wanted;                   /* hash of the grants that the gap is for */
	struct { uint64_t first, bytes; } range[KW_HOOK_WHERE];
	int64_t ends, closed, next, gap;
	double allowed_ns, calls;
	int64_t pause;                     /* to begin this window */
	uint32_t windows, hot, watched, blind; /* blind: whose address is taken, but that cannot be intercepted */
	bool found, more, failed;
};

static bool is_deep(const struct rule *r) { return rule_level(r) == KW_DEEP && !r->limit && !r->dead; }

static bool any_deep(const struct agent *a)
{
	for (uint32_t k = 0; k < a->nrules; k++)
		if (is_deep(a->rules[k]))
			return true;
	return false;
}

/* ---- callers -------------------------------------------------------------------------------------------------------- */

static const struct caller *caller_of(const struct process *p, struct watch *w, uint32_t site)
{
	for (uint32_t i = 0; i < w->nknown; i++)
		if (w->known[i].site == site)
			return &w->known[i];
	const struct function_module *m = function_module_of(p, site);
	struct caller c = { .site = site };
	bool jumps = false;
	if (!m || symbols_pointers(m->file.symbols, function_of(p, site), &c.at, &c.n, &jumps) < 0)
		c.n = 0;
	for (uint32_t i = 0; i < c.n; i++)
		c.at[i] += m->file.bias;
	if (jumps) {
		c.at = base_realloc(c.at, (c.n + 1) * sizeof *c.at);
		c.at[c.n++] = p->sites[site].addr;
	}
	w->known = base_realloc(w->known, (w->nknown + 1) * sizeof *w->known);
	w->known[w->nknown] = c;
	return &w->known[w->nknown++];
}

/* Of those grants whose callees are on too. */
static bool calls_count(const struct process *p, const struct grant *g)
{
	uint32_t depth = g->r->depth ? g->r->depth : 1;
	return is_deep(g->r) && g->callee < depth && p->sites[g->site].kind == KW_SITE_FUNCTION;
}

static uint64_t hash_wanted(const struct process *p)
{
	uint64_t h = 1;
	for (uint32_t k = 0; k < p->ngrants; k++)
		if (calls_count(p, &p->grants[k]))
			h = hash_bytes((const char *)&p->grants[k].site, sizeof p->grants[k].site, h);
	return h;
}

static void find_callers(const struct process *p, struct watch *w)
{
	w->ncallers = 0;
	w->allowed_ns = 0;
	w->callers = base_realloc(w->callers, CALLERS_MAX * sizeof *w->callers);
	for (uint32_t k = 0; k < p->ngrants && w->ncallers < CALLERS_MAX; k++) {
		const struct grant *g = &p->grants[k];
		if (!calls_count(p, g))
			continue;
		double ns = g->r->max_cost * 1e7; /* percent of a core, of a second */
		const struct caller *c = w->ncallers && w->callers[w->ncallers - 1].site == g->site ? NULL : caller_of(p, w, g->site);
		if (c && c->n)
			w->callers[w->ncallers++] = *c;
		w->allowed_ns = !w->allowed_ns || ns < w->allowed_ns ? ns : w->allowed_ns;
	}
}

static int by_value(const void *a, const void *b)
{
	const uint64_t *x = a, *y = b;
	return *x < *y ? -1 : *x > *y;
}

/* All return addresses in few ranges: the widest gaps between them stay out. What else is in a range is told apart by poll(). */
static void make_ranges(struct watch *w)
{
	uint32_t n = 0, cuts[KW_HOOK_WHERE], ncuts = 0;
	uint64_t *at = NULL;
	for (uint32_t i = 0; i < w->ncallers; i++) {
		at = base_realloc(at, (n + w->callers[i].n) * sizeof *at);
		memcpy(at + n, w->callers[i].at, w->callers[i].n * sizeof *at);
		n += w->callers[i].n;
	}
	qsort(at, n, sizeof *at, by_value);
	for (uint32_t i = 1; i < n; i++) { /* the places of the widest gaps, widest first */
		uint32_t k = ncuts;
		while (k && at[i] - at[i - 1] > at[cuts[k - 1]] - at[cuts[k - 1] - 1])
			k--;
		if (k == KW_HOOK_WHERE - 1)
			continue;
		ncuts += ncuts < KW_HOOK_WHERE - 1;
		memmove(&cuts[k + 1], &cuts[k], (ncuts - k - 1) * sizeof *cuts);
		cuts[k] = i;
	}
	memset(w->range, 0, sizeof w->range);
	for (uint32_t r = 0, from = 0, to; n && r <= ncuts; r++, from = to) {
		to = n;
		for (uint32_t k = 0; k < ncuts; k++)
			to = cuts[k] > from && cuts[k] < to ? cuts[k] : to;
		w->range[r].first = at[from];
		w->range[r].bytes = at[to - 1] - at[from] + 1;
	}
	free(at);
}

/* ---- a window ---------------------------------------------------------------------------------------------------------- */

static void find_taken(const struct process *p, struct watch *w)
{
	w->nmods = p->fns->nmods;
	w->ntaken = w->hand = w->blind = 0;
	for (uint32_t k = 0; k < p->fns->nmods; k++) {
		const struct function_module *m = &p->fns->mods[k];
		uint32_t n;
		const struct symbols_function *f = symbols_functions(m->file.symbols, &n);
		w->taken = base_realloc(w->taken, (w->ntaken + n + 1) * sizeof *w->taken);
		for (uint32_t i = 0; i < n && i < m->n; i++)
			if (!symbols_taken(m->file.symbols, &f[i]))
				continue;
			else if (f[i].refusal)
				w->blind++;
			else
				w->taken[w->ntaken++] = m->first + i;
	}
}

static bool can_be_watched(const struct site *s)
{
	return s->id && !s->bad && !s->plugin && !s->unwatchable && !s->level && !s->peek && !s->patched;
}

static void window_open(struct process *p, struct watch *w, int64_t now)
{
	struct err e = { 0 };
	find_callers(p, w);
	if (!w->ncallers || w->failed) {
		w->next = now + GAP_MOST;
		return;
	}
	w->table = p->control->watch_table;
	int rc = w->table ? 0 : hooks_memory(p, AT_ONCE * sizeof(struct kw_watched), &w->table, &e);
	if (rc < 0) {
		log_warn("agent", "process %d: calls through pointers cannot be observed%s: %s", p->pid, rc == KLIEG_E_LIMIT ? " now" : "", e.msg);
		w->failed = rc != KLIEG_E_LIMIT; /* that is: it did not stop in time */
		w->next = w->closed = now;       /* again when the least gap is over */
		return;
	}
	p->control->watch_table = w->table;
	make_ranges(w);
	if (w->nmods != p->fns->nmods)
		find_taken(p, w);
	w->now = base_realloc(w->now, AT_ONCE * sizeof *w->now);
	w->nnow = 0;
	uint32_t i = 0, most = hooks_budget(p) / 2 / STOPPED_NS < AT_ONCE ? (uint32_t)(hooks_budget(p) / 2 / STOPPED_NS) : AT_ONCE;
	for (; i < w->ntaken && w->nnow < most; i++) {
		uint32_t site = w->taken[(w->hand + i) % w->ntaken];
		if (!can_be_watched(&p->sites[site]))
			continue;
		w->now[w->nnow++] = site;
		p->sites[site].watched = w->nnow;
	}
	w->more = i < w->ntaken;
	w->hand = w->more ? (w->hand + i) % w->ntaken : 0;
	struct kw_watched *none = base_calloc(AT_ONCE, sizeof *none);
	bool ok = pwrite(p->mem, none, AT_ONCE * sizeof *none, (off_t)w->table) == (ssize_t)(AT_ONCE * sizeof *none);
	free(none);
	if (!ok || !w->nnow) {
		watch_forget(p);
		w->next = now + GAP_MOST;
		return;
	}
	hooks_apply(p);
	w->pause = p->fns->last_pause_ns;
	w->calls = 0;
	w->watched = w->nnow > w->watched ? w->nnow : w->watched;
	w->found = false;
	w->next = now + LOOK;
	w->ends = now + WINDOW;
}

static bool add_edge(struct watch *w, uint32_t from, uint32_t to)
{
	for (uint32_t i = 0; i < w->nedges; i++)
		if (w->edges[i].from == from && w->edges[i].to == to)
			return false;
	if (w->nedges == EDGES_MAX)
		return false;
	w->edges = base_realloc(w->edges, (w->nedges + 1) * sizeof *w->edges);
	w->edges[w->nedges++] = (struct edge){ from, to };
	return true;
}

/* Whose call returns there. */
static bool find_caller(const struct watch *w, uint64_t from, uint32_t *ret_site)
{
	for (uint32_t i = 0; from && i < w->ncallers; i++)
		for (uint32_t k = 0; k < w->callers[i].n; k++)
			if (w->callers[i].at[k] == from) {
				*ret_site = w->callers[i].site;
				return true;
			}
	return false;
}

/* true: it has cost what it may. */
static bool look(struct process *p, struct watch *w)
{
	static struct kw_watched noted[AT_ONCE]; /* the agent's thread only */
	double calls = 0;
	uint32_t from;
	size_t bytes = w->nnow * sizeof *noted;
	if (pread(p->mem, noted, bytes, (off_t)w->table) != (ssize_t)bytes)
		return true;
	for (uint32_t i = 0; i < w->nnow; i++) {
		calls += (double)noted[i].calls;
		if (find_caller(w, noted[i].from, &from))
			w->found |= add_edge(w, from, w->now[i]);
	}
	w->calls = calls;
	if (calls * CALL_NS <= w->allowed_ns)
		return false;
	for (uint32_t i = 0; i < w->nnow; i++)
		if ((double)noted[i].calls * SHARE_TOO_HOT >= calls) {
			p->sites[w->now[i]].unwatchable = 1;
			w->hot++;
		}
	return true;
}

static void window_close(struct process *p, struct watch *w, int64_t now)
{
	struct agent *a = p->agent;
	uint32_t n = w->nnow;
	watch_forget(p);
	w->windows++;
	if (w->found) {
		for (uint32_t k = 0; k < a->nrules; k++)
			if (is_deep(a->rules[k]))
				grants_again(p, a->rules[k]);
		p->grants_changed = true;
		rules_apply(a);
	} else {
		hooks_apply(p);
	}
	log_debug("agent", "process %d: %u functions watched for %.0f ms for %u callers: %.0f calls, %s; paused for %.0f and %.0f us", p->pid, n,
		(double)(now - w->ends + WINDOW) / 1e6, w->ncallers, w->calls, w->found ? "callees found" : "nothing new", (double)w->pause / 1e3,
		(double)p->fns->last_pause_ns / 1e3);
	w->gap = w->found || w->more || now < w->ends ? GAP_LEAST : 2 * w->gap < GAP_MOST ? 2 * w->gap : GAP_MOST;
	w->wanted = hash_wanted(p);
	w->closed = now;
	w->next = now + w->gap;
}

/* ---- life ---------------------------------------------------------------------------------------------------------------- */

void watch_forget(struct process *p)
{
	struct watch *w = p->fns ? p->fns->watch : NULL;
	for (uint32_t i = 0; w && i < w->nnow; i++)
		p->sites[w->now[i]].watched = 0;
	if (w)
		w->nnow = 0;
}

void watch_destroy(struct process *p)
{
	struct watch *w = p->fns->watch;
	for (uint32_t i = 0; w && i < w->nknown; i++)
		free(w->known[i].at);
	if (w) {
		free(w->edges);
		free(w->known);
		free(w->now);
		free(w->callers);
		free(w->taken);
	}
	free(w);
	p->fns->watch = NULL;
}

bool watch_follow(struct agent *a)
{
	bool ended = false, deep = any_deep(a);
	for (uint32_t i = 0; !deep && i < a->nprocs; i++) {
		struct process *p = a->procs[i];
		struct watch *w = p->fns ? p->fns->watch : NULL;
		ended |= w && w->nnow;
		watch_forget(p);
		if (w) /* whoever asks next wants to see what is called then */
			w->next = w->gap = w->windows = 0;
	}
	return ended;
}

void watch_tick(struct agent *a)
{
	int64_t now = clock_mono();
	if (!any_deep(a))
		return;
	for (uint32_t i = 0; i < a->nprocs; i++) {
		struct process *p = a->procs[i];
		if (!p->map || p->mem < 0 || !p->fns || !p->fns->live || p->uprobe || !p->reg.gate_enter || !p->ngrants)
			continue;
		struct watch *w = p->fns->watch;
		if (w && w->nnow) {
			if (now < w->next)
				continue;
			w->next = now + LOOK;
			if (look(p, w) || now >= w->ends)
				window_close(p, w, now);
			continue;
		}
		if (w && (now - w->closed < GAP_LEAST || (now < w->next && w->wanted == hash_wanted(p))))
			continue;
		if (!w)
			w = p->fns->watch = base_calloc(1, sizeof *w);
		window_open(p, w, now);
		w->wanted = hash_wanted(p);
	}
}

/* ---- questions ------------------------------------------------------------------------------------------------------------ */

void watch_configure(const struct process *p, uint32_t site, struct kw_hook *h)
{
	const struct watch *w = p->fns->watch;
	for (uint32_t i = 0; i < KW_HOOK_WHERE; i++) {
		h->range[i].first = w->range[i].first;
		h->range[i].bytes = w->range[i].bytes;
	}
	h->watch = w->table + (p->sites[site].watched - 1) * sizeof(struct kw_watched);
}

bool watch_edge(const struct process *p, uint32_t i, uint32_t site, uint32_t *ret_to)
{
	const struct watch *w = p->fns ? p->fns->watch : NULL;
	for (uint32_t k = 0; w && k < w->nedges; k++)
		if (w->edges[k].from == site && !i--) {
			*ret_to = w->edges[k].to;
			return true;
		}
	return false;
}

json_t *watch_json(const struct agent *a, const struct rule *r)
{
	json_t *names = json_array();
	int watched = 0, hot = 0, windows = 0, blind = 0;
	for (uint32_t i = 0; i < a->nprocs; i++) {
		const struct process *p = a->procs[i];
		const struct watch *w = p->map && p->fns && p->fns->live ? p->fns->watch : NULL;
		bool mine = false;
		for (uint32_t g = 0; w && g < p->ngrants; g++)
			if (p->grants[g].r == r && calls_count(p, &p->grants[g])) {
				mine = true;
				for (uint32_t k = 0, to; watch_edge(p, k, p->grants[g].site, &to) && json_array_size(names) < 500; k++) {
					struct str name = strtab_get(&p->strs, p->sites[to].name);
					bool have = false;
					for (size_t n = 0; n < json_array_size(names); n++)
						have |= str_eq(name, str_of(json_string_value(json_array_get(names, n))));
					if (!have)
						json_array_append_new(names, json_stringn(name.p, name.n));
				}
			}
		watched += mine ? (int)w->watched : 0;
		hot += mine ? (int)w->hot : 0;
		blind += mine ? (int)w->blind : 0;
		windows += mine ? (int)w->windows : 0;
	}
	return json_pack("{s:o,s:{s:i,s:i,s:i,s:i}}", "observed", names, "observing", "functions", watched, "too_hot", hot, "not_hookable", blind, "windows", windows);
}
