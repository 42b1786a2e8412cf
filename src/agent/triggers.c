/* Rules that raise themselves. The sites that both the rule's match and its trigger's query are about are counted at least (grants.c looks at site.nfeeds); what they do
 * is added up per rule and service in short histograms: half a second each, the last ten seconds. Four times a second the metric is worked out and policy's trigger_step()
 * decides. No server is needed; what only all hosts together show it works out from the same histograms (triggers_json). Status and duration in the query are tried on
 * what a call could be: counts tell both. How long requests waited (klieg.queue_nano) no count tells, only spans at detail do: those that were kept stand for the others.
 * Agent thread; owns a->groups and site.feeds. */
#include "agent/state.h"
#include <math.h>
#include <stdlib.h>

#define SLOT (SECOND / 2)
#define SLOTS 20u
#define GROUPS_MAX 64u    /* of 100 KiB */
#define LEAST_CALLS 5.    /* fewer in ten seconds say nothing about a quantile */

/* seen: calls that were counted, spans that were kept. calls: what they stand for. */
struct trigger_slot { int64_t at; double seen, calls, ticks, max; float bucket[KW_BUCKETS]; };
struct trigger_group {
	struct trigger_group *next;
	char *when, *match, *service; /* of the rule, whichever object it is now; of what */
	bool waits;               /* measured is how long requests waited: "ticks" are nanoseconds */
	struct rule *rule;        /* NULL: gone, with the next tick */
	int64_t since;
	struct trigger_slot slot[SLOTS];
	double normal; int64_t learned_ns, learned_at; /* how it usually is: a mean of the metric, of how long, as of when */
};
/* What of a site's calls is part of it: by status (unset, error), by duration. */
struct trigger_feed { struct trigger_group *g; uint8_t takes[2][KW_BUCKETS / 8]; };

/* ---- feeding ----------------------------------------------------------------------------------------------------------------- */

static struct trigger_slot *slot_now(struct trigger_group *g)
{
	int64_t at = clock_mono() / SLOT;
	struct trigger_slot *s = &g->slot[at % SLOTS];
	if (s->at != at) {
		memset(s, 0, sizeof *s);
		s->at = at;
	}
	return s;
}

static void add(struct trigger_group *g, uint32_t b, double ticks, double calls, double seen)
{
	struct trigger_slot *s = slot_now(g);
	s->seen += seen;
	s->calls += calls;
	s->ticks += ticks * calls;
	s->max = ticks > s->max ? ticks : s->max;
	s->bucket[b] += (float)calls;
}

static bool takes(const struct trigger_feed *f, bool error, uint32_t b) { return f->takes[error][b / 8] >> b % 8 & 1; }

void triggers_span(struct site *s, uint64_t ticks, double weight, bool error)
{
	for (uint32_t i = 0; i < s->nfeeds; i++)
		if (!s->feeds[i].g->waits && takes(&s->feeds[i], error, kw_bucket(ticks)))
			add(s->feeds[i].g, kw_bucket(ticks), (double)ticks, weight, 1);
}

/* A span at detail. Where one has said that it waited, those that say nothing have not: nothing was there when they were about to read. */
void triggers_wait(struct site *s, uint64_t ticks, double weight, bool error, bool said, uint64_t wait_ns)
{
	s->says_waits |= said;
	for (uint32_t i = 0; s->says_waits && i < s->nfeeds; i++)
		if (s->feeds[i].g->waits && takes(&s->feeds[i], error, kw_bucket(ticks)))
			add(s->feeds[i].g, kw_bucket(said ? wait_ns : 0), said ? (double)wait_ns : 0, weight, 1);
}

/* Counts do not say which calls failed: those that did are taken to be as long as the others. */
void triggers_calls(struct site *s, uint32_t b, double calls, double errors)
{
	for (uint32_t i = 0; i < s->nfeeds; i++) {
		if (s->feeds[i].g->waits)
			continue;
		double n = calls * ((takes(&s->feeds[i], false, b) ? 1 - errors : 0) + (takes(&s->feeds[i], true, b) ? errors : 0));
		if (n > 0)
			add(s->feeds[i].g, b, kw_bucket_mid(b), n, n);
	}
}

/* ---- what is measured where --------------------------------------------------------------------------------------------------- */

struct call { struct site_ref ref; double duration_ns; bool error; };

static void call_get(void *ctx, const struct tq_field *f, struct tq_value *ret_v)
{
	struct call *c = ctx;
	if (f->scope == TQ_INTRINSIC && f->intrinsic == TQ_DURATION_)
		*ret_v = (struct tq_value){ .type = TQ_DURATION, .i = (int64_t)c->duration_ns };
	else if (f->scope == TQ_INTRINSIC && f->intrinsic == TQ_STATUS_)
		*ret_v = (struct tq_value){ .type = TQ_STATUS, .i = c->error ? STATUS_ERROR : STATUS_UNSET };
	else
		site_source_get(&c->ref, f, ret_v);
}

/* False: no call of this site can match. */
static bool find_takes(struct process *p, uint32_t i, const struct traceql *q, struct trigger_feed *f)
{
	struct call c = { .ref = { .p = p, .i = i } };
	struct tq_source src = { &c, call_get, NULL };
	bool any = false;
	for (int error = 0; error < 2; error++) {
		c.error = error;
		for (uint32_t b = 0; b < KW_BUCKETS; b++) {
			c.duration_ns = kw_bucket_mid(b) * p->agent->clock.ns_per_tick;
			if (traceql_eval(q, &src)) {
				f->takes[error][b / 8] |= (uint8_t)(1u << b % 8);
				any = true;
			} else if (b == 0) { /* most sites are simply others: a few durations tell */
				bool may = false;
				for (uint32_t t = 64; t < KW_BUCKETS && !may; t += 16) {
					c.duration_ns = kw_bucket_mid(t) * p->agent->clock.ns_per_tick;
					may = traceql_eval(q, &src);
				}
				if (!may)
					break;
			}
		}
	}
	return any;
}

static struct trigger_group *group_of(struct agent *a, struct rule *r, const char *service)
{
	uint32_t n = 0;
	const char *match = r->selector ? r->selector : "";
	for (struct trigger_group *g = a->groups; g; g = g->next, n++)
		if (!strcmp(g->when, r->trigger->when) && !strcmp(g->match, match) && !strcmp(g->service, service) && (!g->rule || g->rule == r)) {
			g->rule = r;
			return g;
		}
	if (n >= GROUPS_MAX)
		return NULL;
	struct trigger_group *g = base_calloc(1, sizeof *g);
	struct tq_metric m;
	*g = (struct trigger_group){ .next = a->groups, .when = str_dup(str_of(r->trigger->when)), .match = str_dup(str_of(match)), .service = str_dup(str_of(service)), .rule = r,
		.since = clock_mono(), .waits = traceql_metric(r->trigger->q, &m) && traceql_metric_waits(&m) };
	return a->groups = g;
}

static void feed(struct agent *a, struct process *p, uint32_t i, struct rule *r, bool *full)
{
	struct site *s = &p->sites[i];
	struct trigger_feed f = { 0 };
	if (!site_match(p, i, r->site) || !find_takes(p, i, r->trigger->q, &f)) /* what the rule is not about is not its trigger's business */
		return;
	if (!(f.g = group_of(a, r, p->service))) {
		*full = true;
		return;
	}
	s->feeds = base_realloc(s->feeds, (s->nfeeds + 1) * sizeof *s->feeds);
	s->feeds[s->nfeeds++] = f;
}

static void sweep(struct agent *a, bool all)
{
	for (struct trigger_group **at = &a->groups, *g; (g = *at);) {
		if (!all && g->rule) {
			at = &g->next;
			continue;
		}
		*at = g->next;
		free(g->when);
		free(g->match);
		free(g->service);
		free(g);
	}
}

static uint64_t fingerprint(struct agent *a)
{
	uint64_t h = 0;
	for (uint32_t k = 0; k < a->nrules; k++)
		if (a->rules[k]->trigger && !a->rules[k]->dead)
			h = hash_bytes(a->rules[k]->id, strlen(a->rules[k]->id), h ^ (uint64_t)(uintptr_t)a->rules[k]);
	for (uint32_t k = 0; h && k < a->nprocs; k++)
		h = hash_bytes((uint32_t[]){ (uint32_t)a->procs[k]->pid, a->procs[k]->map ? a->procs[k]->sites_gen : 0 }, 8, h);
	return h;
}

static void build(struct agent *a)
{
	bool full = false;
	for (struct trigger_group *g = a->groups; g; g = g->next)
		g->rule = NULL;
	for (uint32_t n = 0; n < a->nprocs; n++) {
		struct process *p = a->procs[n];
		bool changed = false;
		for (uint32_t i = 0; i < p->nsites; i++) {
			struct site *s = &p->sites[i];
			uint32_t had = s->nfeeds;
			s->nfeeds = 0;
			for (uint32_t k = 0; k < a->nrules && p->map && s->id && !s->bad && (s->kind == KW_SITE_SPAN || s->kind == KW_SITE_FUNCTION); k++)
				if (a->rules[k]->trigger && !a->rules[k]->dead && rule_covers(a->rules[k], p))
					feed(a, p, i, a->rules[k], &full);
			changed |= (had != 0) != (s->nfeeds != 0);
		}
		if (changed) { /* such sites may have no grants: all are to be looked at */
			p->touch_all = p->grants_changed = true;
			rules_dirty(a);
		}
	}
	sweep(a, false);
	if (full)
		log_warn("agent", "more than %u triggers and services: the rest is not measured here", GROUPS_MAX);
}

/* ---- measuring ---------------------------------------------------------------------------------------------------------------- */

static double quantile(const struct trigger_group *g, int64_t from, double q, double calls)
{
	double at = 0, rank = floor(q * (calls - 1)) + 1;
	for (uint32_t b = 0; b < KW_BUCKETS; b++) {
		for (uint32_t k = 0; k < SLOTS; k++)
			at += g->slot[k].at >= from ? (double)g->slot[k].bucket[b] : 0;
		if (at >= rank - 1e-6)
			return kw_bucket_mid(b);
	}
	return 0;
}

static double least(const struct trigger_group *g, int64_t from)
{
	for (uint32_t b = 0; b < KW_BUCKETS; b++)
		for (uint32_t k = 0; k < SLOTS; k++)
			if (g->slot[k].at >= from && g->slot[k].bucket[b] > 0)
				return kw_bucket_mid(b);
	return 0;
}

/* Of so many calls the window need not be longer: what happens once in a hundred times needs a hundred, a mean does not. */
static double enough(const struct tq_metric *m)
{
	double rare = m->quantile < .5 ? m->quantile : 1 - m->quantile;
	if (m->fn != TQ_QUANTILE)
		return 20;
	return rare <= .01 ? 100 : rare >= .1 ? 10 : 1 / rare;
}

/* Durations in ns; rates per second; counts and sums over the trigger's `over`. */
static bool measure(const struct trigger_group *g, const struct tq_metric *m, int64_t over_ns, double ns, int64_t now, double *ret_v)
{
	int64_t at = now / SLOT, over = over_ns < SECOND ? SECOND : over_ns > 10 * SECOND ? 10 * SECOND : over_ns;
	bool amount = m->fn == TQ_RATE || m->fn == TQ_COUNT || m->fn == TQ_SUM;
	uint32_t want = amount ? (uint32_t)(over / SLOT) : SLOTS, had = 0;
	double calls = 0, seen = 0, ticks = 0, max = 0;
	if (m->fn != TQ_RATE && m->fn != TQ_COUNT && !g->waits && !(m->field.scope == TQ_INTRINSIC && m->field.intrinsic == TQ_DURATION_))
		return false; /* of other attributes counts know nothing */
	ns = g->waits ? 1 : ns;
	while (had < want && (amount || had < 2 || seen < enough(m))) {
		const struct trigger_slot *s = &g->slot[(at - had) % SLOTS];
		if (s->at == at - had) {
			calls += s->calls;
			seen += s->seen;
			ticks += s->ticks;
			max = s->max > max ? s->max : max;
		}
		had++;
	}
	if (amount) {
		int64_t from = (at - had + 1) * SLOT, covered = now - (g->since > from ? g->since : from);
		if (covered < SECOND / 2)
			return false;
		double s = (double)covered / 1e9, per_over = (double)(over_ns < SECOND ? SECOND : over_ns) / 1e9;
		*ret_v = m->fn == TQ_RATE ? calls / s : (m->fn == TQ_COUNT ? calls : ticks * ns) / s * per_over;
		return true;
	}
	if (seen < LEAST_CALLS)
		return false;
	int64_t from = at - had + 1;
	switch (m->fn) {
	case TQ_AVG: *ret_v = ticks / calls * ns; return true;
	case TQ_MAX: *ret_v = max * ns; return true;
	case TQ_MIN: *ret_v = least(g, from) * ns; return true;
	case TQ_QUANTILE: *ret_v = quantile(g, from, m->quantile, calls) * ns; return true;
	default: return false;
	}
}

/* `with(baseline=10m)`: what it is now over what it usually is, from a tenth of that time on (at least five seconds). What is wrong is learned too, but ten times as
 * slowly: what stays is the new normal some day. */
static bool beside_baseline(struct trigger_group *g, const struct tq_metric *m, bool wrong, int64_t now, double *v)
{
	int64_t dt = g->learned_at ? now - g->learned_at : 0, enough = m->baseline_ns / 10 > 5 * SECOND ? m->baseline_ns / 10 : 5 * SECOND;
	dt = dt > SECOND ? SECOND : dt;
	bool known = g->learned_ns >= enough;
	g->learned_at = now;
	int64_t span = g->learned_ns + dt < m->baseline_ns ? g->learned_ns + dt : m->baseline_ns;
	if (!g->learned_ns)
		g->normal = *v;
	else
		g->normal += (*v - g->normal) * (double)dt / (double)span / (known && wrong ? 10 : 1);
	g->learned_ns = span > 0 ? span : 1;
	if (!known || g->normal <= 0)
		return false;
	*v /= g->normal;
	return true;
}

/* ---- deciding ----------------------------------------------------------------------------------------------------------------- */

static void tell(struct agent *a, const struct rule *r, const char *service, unsigned from, unsigned to, bool known, double value, double threshold)
{
	char words[200];
	trigger_words(r->trigger, known ? value : NAN, to > from, words, sizeof words);
	log_info("agent", "%s: %s -> %s in %s: %s", r->id, level_name(from), level_name(to), service, words);
	agent_emit(a, "trigger", json_pack("{s:s,s:s,s:s?,s:s?,s:s,s:s,s:s,s:{s:s,s:s,s:f,s:f,s:I},s:I}", "what", to > from ? "raised" : "lowered", "rule", r->id, "policy",
		r->policy, "name", r->name, "service", service, "from", level_name(from), "to", level_name(to), "cause", "query", r->trigger->when, "text", words, "value", value,
		"threshold", threshold, "over_nano", (json_int_t)r->trigger->over_ns, "at_unix_nano", (json_int_t)clock_wall()));
}

static void decide(struct agent *a, struct rule *r, int64_t now)
{
	struct tq_metric m;
	double value = 0, v;
	bool known = false;
	const struct trigger_group *worst = NULL;
	if (!traceql_metric(r->trigger->q, &m) || !m.compared)
		return;
	bool above = m.cmp[0] == '>', wrong = r->trigger_state.breached || r->trigger_state.level > r->level;
	for (struct trigger_group *g = a->groups; g; g = g->next) /* of several services the one that is furthest off */
		if (g->rule == r && measure(g, &m, r->trigger->over_ns, a->clock.ns_per_tick, now, &v) &&
			(!m.baseline_ns || beside_baseline(g, &m, wrong, now, &v)) && (!known || (above ? v > value : v < value))) {
			known = true;
			value = v;
			worst = g;
		}
	enum trigger_move move = trigger_step(r->trigger, &r->trigger_state, now, known, value);
	if (move == TRIGGER_STAY)
		return;
	uint8_t from = (uint8_t)rule_level(r), to = r->trigger_state.level;
	rule_raise(a, r, to > r->level ? to : KW_OFF);
	tell(a, r, worst ? worst->service : "", from, rule_level(r), known, value, m.threshold);
}

void triggers_follow(struct agent *a)
{
	uint64_t h = fingerprint(a);
	if (h != a->groups_of) {
		a->groups_of = h;
		build(a);
	}
}

void triggers_tick(struct agent *a)
{
	triggers_follow(a);
	uint64_t h = a->groups_of;
	int64_t now = clock_mono();
	for (uint32_t i = 0; h && i < a->nprocs; i++)
		if (a->procs[i]->map)
			cells_read(a->procs[i]);
	for (uint32_t k = 0; h && k < a->nrules; k++)
		if (a->rules[k]->trigger && !a->rules[k]->dead)
			decide(a, a->rules[k], now);
}

/* What each rule's trigger measured over the window, by service, for who adds up hosts: histograms add up exactly, their quantiles do not. */
json_t *triggers_json(struct agent *a, int64_t window_ns)
{
	int64_t now = clock_mono(), slots = window_ns / SLOT < 1 ? 1 : window_ns / SLOT > SLOTS ? SLOTS : window_ns / SLOT, from = now / SLOT - slots + 1;
	json_t *rows = json_array();
	for (uint32_t i = 0; i < a->nprocs; i++)
		if (a->procs[i]->map)
			cells_read(a->procs[i]);
	for (const struct trigger_group *g = a->groups; g; g = g->next) {
		double ns = g->waits ? 1 : a->clock.ns_per_tick, seen = 0, calls = 0, sum = 0, max = 0;
		json_t *hist = json_array();
		int64_t covered = now - (g->since > from * SLOT ? g->since : from * SLOT);
		for (uint32_t k = 0; k < SLOTS; k++)
			if (g->slot[k].at >= from) {
				seen += g->slot[k].seen, calls += g->slot[k].calls, sum += g->slot[k].ticks * ns;
				max = g->slot[k].max > max ? g->slot[k].max : max;
			}
		for (uint32_t b = 0; b < KW_BUCKETS; b++) {
			double n = 0;
			for (uint32_t k = 0; k < SLOTS; k++)
				n += g->slot[k].at >= from ? (double)g->slot[k].bucket[b] : 0;
			if (n > 0)
				json_array_append_new(hist, json_pack("[f,f]", kw_bucket_mid(b) * ns, n));
		}
		json_array_append_new(rows, json_pack("{s:s,s:s,s:f,s:f,s:f,s:f,s:I,s:o}", "rule", g->rule ? g->rule->id : "", "service", g->service, "seen", seen, "calls", calls,
			"sum_nano", sum, "max_nano", max * ns, "covered_nano", (json_int_t)covered, "histogram", hist));
	}
	return json_pack("{s:o}", "triggers", rows);
}

void triggers_forget(struct agent *a) { sweep(a, true); }
