/* Adaptive sampling: the share of traces kept at the sites that rules with a `rate` match, so that a process keeps about that many spans a second, and of each operation
 * at least its floor. Per tick and rule: how often each operation is called (what was kept, by what it stands for) and how many spans come of a trace; guard.c solves
 * for the shares; thresholds move towards them in bounded steps. A limit's spans/s works the same, over all that records. Only thresholds change, which every record
 * carries, so counts stay unbiased. Agent thread. */
#include "agent/guard.h"
#include "agent/state.h"
#include <math.h>
#include <stdlib.h>

/* Called spans and kept ones of a site since the last tick, smoothed. */
static void look(struct site *s, double dt)
{
	struct load *l = s->load;
	l->offered_per_s = rate_smooth(l->offered_per_s, l->rated, l->estimated, l->kept_per_s, dt);
	l->kept_per_s = rate_smooth(l->kept_per_s, l->rated, l->kept, l->kept_per_s, dt);
	l->rated |= l->kept > 0;
	l->kept = l->estimated = 0;
}

static void apply(struct process *p, uint32_t i)
{
	struct site *s = &p->sites[i];
	uint64_t was = s->threshold;
	site_threshold(s);
	if (s->threshold != was)
		__atomic_store_n(&p->state[i].threshold, s->threshold, __ATOMIC_RELAXED);
}

/* The sites of one rule, or (rule NULL: the limit) all that record. */
static void pace(struct process *p, const uint32_t *sites, uint32_t n, double target, bool limit)
{
	struct rate_op *op = base_calloc(n, sizeof *op);
	for (uint32_t k = 0; k < n; k++) {
		const struct site *s = &p->sites[sites[k]];
		const struct load *l = s->load;
		double keep = s->rate > 0 ? s->rate_keep : s->keep;
		op[k] = (struct rate_op){ .per_s = l ? l->offered_per_s : 0, .spans = 1, .floor_per_s = limit ? 0 : s->floor_per_s, .most = limit ? 1 : keep };
	}
	rate_solve(op, n, target);
	for (uint32_t k = 0; k < n; k++) {
		struct site *s = &p->sites[sites[k]];
		double *share = limit ? &s->ceiling : &s->adaptive;
		bool idle = !s->load || !s->load->rated; /* not seen yet: all, until it is */
		*share = idle && !limit ? 0 : rate_step(*share, op[k].share);
		apply(p, sites[k]);
	}
	free(op);
}

static void process_tick(struct agent *a, struct process *p, double dt)
{
	uint32_t *sites = base_alloc((p->ngrants + p->nactive + 1) * sizeof *sites), n = 0;
	bool any = p->limit_spans > 0;
	for (uint32_t k = 0; k < p->nactive; k++) {
		struct site *s = &p->sites[p->active[k]];
		any |= s->rate > 0;
		if (p->limit_spans <= 0 && s->ceiling > 0) { /* the limit is gone */
			s->ceiling = 0;
			apply(p, p->active[k]);
		}
	}
	for (uint32_t k = 0; any && k < p->nactive; k++)
		if (p->sites[p->active[k]].load)
			look(&p->sites[p->active[k]], dt);
	for (uint32_t r = 0; any && r < a->nrules; r++) {
		const struct rule *rule = a->rules[r];
		if (rule->dead || rule->limit || rule->rate <= 0)
			continue;
		n = 0;
		for (uint32_t g = 0; g < p->ngrants; g++) {
			const struct site *s = &p->sites[p->grants[g].site];
			if (p->grants[g].r == rule && s->level >= KW_SPAN && s->rate <= rule->rate) /* the most generous rule paces a site */
				sites[n++] = p->grants[g].site;
		}
		if (n)
			pace(p, sites, n, rule->rate, false);
	}
	n = 0;
	for (uint32_t k = 0; p->limit_spans > 0 && k < p->nactive; k++)
		if (p->sites[p->active[k]].level >= KW_SPAN && p->sites[p->active[k]].kind != KW_SITE_END)
			sites[n++] = p->active[k];
	if (n)
		pace(p, sites, n, p->limit_spans, true);
	free(sites);
}

void rate_tick(struct agent *a)
{
	int64_t now = clock_mono(), last = a->rated_at;
	double dt = last && now - last < 10 * SECOND ? (double)(now - last) / 1e9 : .25;
	if (dt < .2)
		return;
	a->rated_at = now;
	for (uint32_t i = 0; i < a->nprocs; i++)
		if (a->procs[i]->map && a->procs[i]->nactive)
			process_tick(a, a->procs[i], dt);
}
