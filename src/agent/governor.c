/* The budget governor: what the probes of a process cost is measured four times a second and kept under a limit by capping the levels of its dearest sites; they
 * come back when there is room. guard.c decides, this is the glue.
 *
 * Cost: hits times what one costs on this host with warm caches (cost.c), times how many times that those cost that libklieg timed where they ran (docs/adr/0007).
 *
 * Hits: calls are counted exactly, by site; of spans the process says exactly how many it began and how many it did not make (rings that are full lose records, not
 * hits), and those that came through say which sites they were. What is off has no hits, so a site that was shed is counted for a second before it may
 * come back. Agent thread; owns p->guard and site.cap. */
#include "agent/guard.h"
#include "agent/state.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define TICK (SECOND / 4)
#define TRIAL SECOND          /* how long what comes back is only counted first, */
#define TRIAL_TICK (SECOND / 1000) /* looked at so often, */
#define TRIAL_SHARE .1        /* and may cost in all, of a second's budget */
#define SHED_TO .7            /* of the limit: shedding leaves some room, */
#define RESTORE_TO .6         /* and coming back leaves more, so that the two do not chase each other */
#define CORES_MIN .2          /* a process that uses less CPU than this is measured as if it used as much */
#define TRIALS_MAX 16u
#define ASKED_DEFAULT 1.      /* the max_cost of a deep rule that says none */

enum guard_state { GUARD_FREE, GUARD_SHED, GUARD_TRIAL };

struct guard {
	struct guard_meter meter;
	uint64_t made, unsampled;
	int64_t last, cpu_at;
	uint64_t cpu_ticks;
	double cores;
	uint64_t left_out;       /* calls, as last read */
	struct own { uint64_t ticks, events; } own[2]; /* as last read: of events that make no record, and of those that do */
	struct guard_cost cost[2];
	double warm_ns[2];       /* what one event of each kind would cost with warm caches, lately */
	uint32_t *shed, nshed;   /* sites that are capped */
	uint32_t trials;         /* of them: on at level count, for a second */
};

struct host_load { uint64_t total, idle, waiting; int64_t at; bool saturated, known; };

/* ---- the host and the process ----------------------------------------------------------------------------------------------- */

static void host_look(struct agent *a, int64_t now)
{
	if (!a->host_load)
		a->host_load = base_calloc(1, sizeof *a->host_load);
	struct host_load *h = a->host_load;
	if (now - h->at < SECOND)
		return;
	unsigned long long v[8] = { 0 }, total = 0, stalled = 0;
	FILE *f = fopen("/proc/stat", "re");
	bool ok = f && fscanf(f, "cpu %llu %llu %llu %llu %llu %llu %llu %llu", v, v + 1, v + 2, v + 3, v + 4, v + 5, v + 6, v + 7) == 8;
	if (f)
		fclose(f);
	for (int i = 0; i < 8; i++)
		total += v[i];
	f = fopen("/proc/pressure/cpu", "re");
	bool pressure = f && fscanf(f, "some avg10=%*f avg60=%*f avg300=%*f total=%llu", &stalled) == 1;
	if (f)
		fclose(f);
	if (ok && h->known && total > h->total)
		h->saturated = guard_saturated(h->saturated, (double)(v[3] + v[4] - h->idle) / (double)(total - h->total),
			pressure ? (double)(stalled - h->waiting) * 1000 / (double)(now - h->at) : -1);
	*h = (struct host_load){ total, v[3] + v[4], stalled, now, h->saturated, ok };
}

/* CPUs that the process uses. */
static void process_look(struct process *p, struct guard *g, int64_t now)
{
	if (g->cpu_at && now - g->cpu_at < SECOND)
		return;
	char path[64], text[1024];
	snprintf(path, sizeof path, "/proc/%d/stat", p->pid);
	FILE *f = fopen(path, "re");
	size_t n = f ? fread(text, 1, sizeof text - 1, f) : 0;
	if (f)
		fclose(f);
	text[n] = 0;
	char *at = strrchr(text, ')'); /* the name may hold anything */
	unsigned long long user, sys;
	if (!at || sscanf(at + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %llu %llu", &user, &sys) != 2)
		return;
	if (g->cpu_at)
		g->cores = (double)(user + sys - g->cpu_ticks) / (double)sysconf(_SC_CLK_TCK) * 1e9 / (double)(now - g->cpu_at);
	g->cpu_ticks = user + sys;
	g->cpu_at = now;
}

static double cores(const struct guard *g) { return g && g->cores > CORES_MIN ? g->cores : CORES_MIN; }

double governor_cpu(const struct process *p) { return p->guard ? p->guard->cores * 100 : 0; }

static double asked_cost(const struct process *p)
{
	return p->limit_overhead <= 0 && p->asked_cost > ASKED_DEFAULT ? p->asked_cost / cores(p->guard) : 0;
}
double governor_allows(const struct process *p)
{
	double limit = p->limit_overhead > 0 ? p->limit_overhead : p->agent->cfg.budget_percent, asked = asked_cost(p);
	return limit > 0 && asked > limit ? asked : limit; /* they know what they do; a limit rule still forbids it */
}

bool governor_saturated(const struct agent *a) { return a->host_load && a->host_load->saturated; }

/* What is allowed yields: a host without spare CPU pays for every probe with somebody's work. */
double governor_limit(const struct process *p)
{
	double limit = governor_allows(p);
	return governor_saturated(p->agent) && limit > asked_cost(p) ? limit / 2 : limit;
}

static double budget(const struct process *p) { return governor_limit(p) * 1e7 * cores(p->guard); } /* ns a second */

/* ---- measuring --------------------------------------------------------------------------------------------------------------- */

static double keep_of(const struct site *s)
{
	return s->threshold >= 1ull << 56 ? 0 : 1 - ldexp((double)s->threshold, -56);
}

/* At level a hit of this site costs, on average, of so many a second. */
static double hit_ns(const struct process *p, const struct site *s, unsigned level, double per_s)
{
	return cost_expected(p, s, level, level < KW_SPAN ? 1 : keep_of(s), per_s);
}

enum { UNRECORDED, RECORDED };
static double factor(const struct guard *g, int kind, double gap_ns)
{
	int known = g->cost[kind].events > 0 || !(g->cost[!kind].events > 0) ? kind : !kind;
	return guard_cost_factor(&g->cost[known], g->warm_ns[known], gap_ns);
}

double governor_times(const struct process *p, unsigned level, double per_s)
{
	const struct guard *g = p->guard;
	return g && (g->cost[RECORDED].events > 0 || g->cost[UNRECORDED].events > 0) ?
		factor(g, level < KW_SPAN ? UNRECORDED : RECORDED, per_s > 0 ? cores(g) * 1e9 / per_s : INFINITY) : 0;
}

/* What was timed since the last look. The numbers are the process's: whatever they are, they only spoil its own account. */
static void own_look(struct process *p, struct guard *g)
{
	struct own sum[2] = { { 0 } };
	for (uint32_t i = 0; p->map && i < process_slots(p); i++) {
		const struct kw_thread *t = process_slot(p, i);
		for (int k = 0; k < 2; k++) {
			sum[k].events += __atomic_load_n(&t->timed[k], __ATOMIC_ACQUIRE);
			sum[k].ticks += __atomic_load_n(&t->timed_ticks[k], __ATOMIC_RELAXED);
		}
	}
	for (int k = 0; k < 2; k++) {
		double events = (double)(int64_t)(sum[k].events - g->own[k].events), ns = (double)(int64_t)(sum[k].ticks - g->own[k].ticks) * p->agent->clock.ns_per_tick;
		if (g->own[k].events || g->own[k].ticks)
			guard_cost_add(&g->cost[k], events, ns - events * p->agent->floor_ns / 2); /* reading the clock for it is not the probe's */
		g->own[k] = sum[k];
	}
}

/* Calls since the last look that a condition on their arguments left out. */
static double left_out(struct process *p, struct guard *g)
{
	uint64_t sum = 0, was = g->left_out;
	for (uint32_t i = 0; p->map && i < process_slots(p); i++)
		sum += __atomic_load_n(&process_slot(p, i)->left_out, __ATOMIC_RELAXED);
	g->left_out = sum;
	return sum > was ? (double)(sum - was) : 0;
}

static bool records(const struct site *s) { return s->level >= KW_SPAN && s->kind != KW_SITE_END && s->kind != KW_SITE_COUNT; }

/* How a site is on: another number when that changed. */
static uint64_t how(const struct site *s)
{
	uint64_t seed = (uint64_t)s->on_since ^ (uint64_t)s->level << 60 ^ (uint64_t)s->peek << 59;
	return hash_bytes(s->arg_where, s->nwhere * sizeof *s->arg_where, seed) | 1;
}

/* What happened since the last time, site by site. */
static double measure(struct process *p, struct guard *g, int64_t now, int64_t dt)
{
	struct counters c;
	uint64_t open;
	process_count(p, &c, &open);
	double made = (double)(c.made - g->made), unsampled = (double)(c.unsampled - g->unsampled), recorded = 0, estimated = 0, sum = 0;
	double total[2] = { 0 }, warm[2] = { 0 }, f[2];
	double passed = left_out(p, g), ask = 0;
	uint32_t recording = 0;
	own_look(p, g);
	f[UNRECORDED] = factor(g, UNRECORDED, INFINITY);
	f[RECORDED] = factor(g, RECORDED, INFINITY);
	g->made = c.made;
	g->unsampled = c.unsampled;
	for (uint32_t k = 0; k < p->nactive; k++) {
		struct site *s = &p->sites[p->active[k]];
		recording += records(s);
		ask += s->nwhere && s->level;
		if (s->load)
			recorded += s->load->recorded, estimated += s->load->unsampled;
	}
	for (uint32_t k = 0; k < p->nactive; k++) {
		struct site *s = &p->sites[p->active[k]];
		if (!s->load && !(records(s) && (made > 0 || unsampled > 0 || passed > 0)))
			continue;
		struct load *l = load_of(s);
		uint64_t is = how(s);
		if (l->how && l->how != is)
			g->meter.changed_at = now; /* part of what this tick cost was before, and says nothing of how the site is on now */
		l->how = is;
		if (l->on_since != s->on_since) { /* it has just come on */
			l->on_since = s->on_since;
			l->per_s = 0;
			l->predicted_per_s = s->seen_per_s;
			l->predicted_at = s->seen_at ? now : 0;
		}
		/* Where nothing came through to tell by, all that record are taken to be alike. */
		double equal = records(s) && recording ? 1. / recording : 0;
		double kept = recorded > 0 ? made * l->recorded / recorded : made * equal;
		double not_kept = estimated > 0 ? unsampled * l->unsampled / estimated : unsampled * equal;
		if (l->recorded > 0 && s->level >= KW_DETAIL) {
			double units = l->units / l->recorded;
			l->units_avg += (units - l->units_avg) * (l->units_avg > 0 ? .3 : 1);
		}
		double recorded_ns = kept * cost_of(p, s, s->level > KW_SPAN ? s->level : KW_SPAN, 1);
		double asked = ask > 0 && s->nwhere && s->level ? passed / ask : 0; /* which of them they were calls of is not known */
		double other_ns = l->calls * cost_of(p, s, KW_COUNT, 1) + (not_kept + asked) * cost_of(p, s, KW_SPAN, 0);
		double hits = l->calls + kept + not_kept + asked, ns = recorded_ns * f[RECORDED] + other_ns * f[UNRECORDED];
		warm[RECORDED] += recorded_ns;
		warm[UNRECORDED] += other_ns;
		total[RECORDED] += kept;
		total[UNRECORDED] += l->calls + not_kept + asked;
		double rate = hits * 1e9 / (double)dt;
		l->per_s = l->per_s <= 0 ? rate : l->per_s + (rate - l->per_s) * .5;
		l->trial_calls += l->calls;
		if (hits > 0)
			l->ns = ns / hits;
		l->calls = l->recorded = l->unsampled = l->units = 0;
		sum += ns;
		cost_compare(p, s, now);
	}
	for (int k = 0; k < 2; k++)
		if (total[k] > 0) {
			double each = warm[k] / total[k] / 2; /* of a begin, or an end */
			g->warm_ns[k] += (each - g->warm_ns[k]) * (g->warm_ns[k] > 0 ? .3 : 1);
		}
	p->spent_ns += sum;
	guard_meter_add(&g->meter, now, dt, sum);
	p->overhead = guard_measured(&g->meter, now) / 1e7 / cores(g);
	return sum;
}

/* ---- deciding ---------------------------------------------------------------------------------------------------------------- */

static void tell(struct process *p, const struct site *s, const char *what, unsigned from, unsigned to)
{
	char id[17];
	struct str name = strtab_get(&p->strs, s->name);
	span_id_hex(s->id, id);
	agent_emit(p->agent, "guard", json_pack("{s:s,s:i,s:s,s:s,s:s%,s:s,s:s,s:f,s:f}", "what", what, "pid", (int)p->pid, "service", p->service, "site", id, "name",
		name.p, name.n, "from", level_name(from), "to", level_name(to), "measured_percent", p->overhead, "limit_percent", governor_limit(p)));
}

static struct guard_site described(const struct process *p, uint32_t i, double per_s)
{
	const struct site *s = &p->sites[i];
	struct guard_site g = { .level = s->level, .wanted = s->wanted, .i = i };
	for (unsigned level = KW_COUNT; level <= KW_DEEP; level++)
		g.at[level] = per_s * hit_ns(p, s, level, per_s);
	g.now = s->level ? g.at[s->level] : 0;
	return g;
}

static void cap(struct process *p, uint32_t i, unsigned level)
{
	struct site *s = &p->sites[i];
	s->cap = level >= s->wanted ? 0 : (uint8_t)(level + 1);
	rules_dirty(p->agent);
}

static void forget_shed(struct guard *g, uint32_t site)
{
	for (uint32_t k = 0; k < g->nshed; k++)
		if (g->shed[k] == site)
			g->shed[k--] = g->shed[--g->nshed];
}

static void shed(struct process *p, struct guard *g, int64_t now)
{
	struct guard_site *sites = base_calloc(p->nactive + 1, sizeof *sites);
	uint32_t n = 0;
	double total = guard_present(&g->meter, now), sum = 0;
	for (uint32_t k = 0; k < p->nactive; k++) {
		struct site *s = &p->sites[p->active[k]];
		if (s->kind == KW_SITE_END || !s->level || !s->load || s->load->per_s <= 0)
			continue;
		sites[n] = described(p, p->active[k], s->load->per_s);
		sites[n].now = s->load->per_s * s->load->ns;
		sum += sites[n++].now;
	}
	total = sum > total ? sum : total;
	guard_shed(sites, n, total, SHED_TO * budget(p));
	for (uint32_t k = 0; k < n; k++) {
		struct site *s = &p->sites[sites[k].i];
		struct load *l = s->load;
		if (sites[k].to == sites[k].level)
			continue;
		if (l->state == GUARD_FREE) {
			g->shed = base_realloc(g->shed, (g->nshed + 1) * sizeof *g->shed);
			g->shed[g->nshed++] = sites[k].i;
		}
		l->backoff_ns = guard_backoff(l->backoff_ns, l->restored_at, now);
		l->state = GUARD_SHED;
		l->shed_per_s = l->per_s;
		l->retry_at = now + l->backoff_ns;
		cap(p, sites[k].i, sites[k].to);
		tell(p, s, "shed", sites[k].level, sites[k].to);
	}
	g->meter.changed_at = now;
	free(sites);
}

static void off_again(struct process *p, uint32_t i, int64_t now)
{
	struct load *l = p->sites[i].load;
	l->state = GUARD_SHED;
	l->backoff_ns = l->backoff_ns > GUARD_BACKOFF_MAX / 2 ? GUARD_BACKOFF_MAX : 2 * l->backoff_ns;
	l->retry_at = now + l->backoff_ns;
	cap(p, i, KW_OFF);
}

/* What is off and has waited long enough is counted for a second, watched closely: it may go on to cost too much, and in bursts. */
static void watch(struct process *p, struct guard *g, int64_t now)
{
	uint32_t n = 0;
	g->trials = 0;
	for (uint32_t k = 0; k < g->nshed; k++)
		n += p->sites[g->shed[k]].load->state == GUARD_TRIAL;
	for (uint32_t k = 0; k < g->nshed; k++) {
		struct load *l = p->sites[g->shed[k]].load;
		if (l->state != GUARD_TRIAL)
			continue;
		if (l->trial_calls * cost_of(p, &p->sites[g->shed[k]], KW_COUNT, 1) > TRIAL_SHARE * budget(p) / n)
			off_again(p, g->shed[k], now);
		else
			g->trials++;
	}
}

/* Those whose time has come come back, each as high as it fits. */
static void restore(struct process *p, struct guard *g, int64_t now)
{
	struct guard_site *sites = base_calloc(g->nshed + 1, sizeof *sites);
	uint32_t n = 0;
	double total = guard_present(&g->meter, now), room = RESTORE_TO * budget(p);
	for (uint32_t k = g->nshed; k-- > 0;) {
		uint32_t i = g->shed[k];
		struct site *s = &p->sites[i];
		struct load *l = s->load;
		if (!s->id || !s->wanted || !s->cap) { /* nobody wants it any more */
			s->cap = 0;
			l->state = GUARD_FREE;
			g->shed[k] = g->shed[--g->nshed];
		} else if (now < l->retry_at) {
			continue;
		} else if (l->state == GUARD_TRIAL) {
			l->per_s = l->trial_calls * 1e9 / (double)(now - l->trial_at);
			sites[n] = described(p, i, l->per_s);
			total -= sites[n].now;
			sites[n].now = 0;
			sites[n++].level = KW_OFF;
		} else if (s->level) {
			sites[n++] = described(p, i, l->per_s);
		} else if (g->trials < TRIALS_MAX && total < room) {
			l->state = GUARD_TRIAL;
			l->calls = l->recorded = l->unsampled = l->units = l->trial_calls = 0; /* of before it was shed */
			l->trial_at = now;
			l->retry_at = now + TRIAL;
			cap(p, i, KW_COUNT);
			g->trials++;
		}
	}
	guard_restore(sites, n, total > 0 ? total : 0, room);
	for (uint32_t k = 0; k < n; k++) {
		struct site *s = &p->sites[sites[k].i];
		struct load *l = s->load;
		bool tried = l->state == GUARD_TRIAL;
		l->state = GUARD_SHED;
		l->retry_at = now + l->backoff_ns;
		if (sites[k].to > sites[k].level) {
			cap(p, sites[k].i, sites[k].to);
			l->restored_at = now;
			tell(p, s, "restored", sites[k].level, sites[k].to);
		} else if (tried) {
			off_again(p, sites[k].i, now);
		}
		if (!s->cap) {
			l->state = GUARD_FREE;
			forget_shed(g, sites[k].i);
		}
	}
	if (n)
		g->meter.changed_at = now;
	free(sites);
}

static void tick(struct agent *a, struct process *p, int64_t now)
{
	if (!p->guard) {
		if (!p->nactive)
			return;
		struct counters c;
		uint64_t open;
		p->guard = base_calloc(1, sizeof *p->guard);
		process_count(p, &c, &open);
		p->guard->made = c.made;
		p->guard->unsampled = c.unsampled;
		p->guard->last = now;
		left_out(p, p->guard); /* what was before does not count */
		process_look(p, p->guard, now);
		return;
	}
	struct guard *g = p->guard;
	int64_t dt = now - g->last;
	g->last = now;
	process_look(p, g, now);
	cells_read(p);
	measure(p, g, now, dt);
	if (a->cfg.budget_percent <= 0 && p->limit_overhead <= 0 && !g->nshed)
		return;
	if (g->trials)
		watch(p, g, now);
	if (guard_over(&g->meter, now, budget(p)))
		shed(p, g, now);
	else if (g->nshed)
		restore(p, g, now);
	if (p->overhead > governor_limit(p) || g->trials)
		priority_await(&a->pace); /* who costs more than they may, or could at any moment, are waiting for us to end it */
	if (g->trials && a->next_tick > now + TRIAL_TICK)
		a->next_tick = now + TRIAL_TICK;
}

void governor_tick(struct agent *a)
{
	int64_t now = clock_mono();
	a->next_tick = now + TICK;
	host_look(a, now);
	for (uint32_t i = 0; i < a->nprocs; i++)
		if (a->procs[i]->map)
			tick(a, a->procs[i], now);
}

void governor_forget(struct process *p)
{
	if (p->guard)
		free(p->guard->shed);
	free(p->guard);
	p->guard = NULL;
}

/* ---- telling ------------------------------------------------------------------------------------------------------------------ */

static double site_percent(const struct process *p, const struct site *s, unsigned level, double per_s)
{
	return per_s * hit_ns(p, s, level, per_s) / 1e7 / cores(p->guard);
}

static json_t *process_row(struct process *p)
{
	json_t *list = json_array();
	double predicted = 0;
	for (uint32_t k = 0; p->map && k < p->nactive; k++) {
		const struct site *s = &p->sites[p->active[k]];
		if (s->kind != KW_SITE_END && s->seen_at)
			predicted += site_percent(p, s, s->level, s->seen_per_s * s->seen_factor);
		else if (s->level && s->load && s->load->per_s > 0)
			predicted += s->load->per_s * s->load->ns / 1e7 / cores(p->guard);
	}
	for (uint32_t k = 0; p->guard && p->map && k < p->guard->nshed; k++) {
		const struct site *s = &p->sites[p->guard->shed[k]];
		char id[17];
		struct str name = strtab_get(&p->strs, s->name);
		span_id_hex(s->id, id);
		if (s->id && s->cap)
			json_array_append_new(list, json_pack("{s:s,s:s%,s:s,s:s,s:f}", "site", id, "name", name.p, name.n, "from", level_name(s->wanted), "to",
				level_name(s->cap - 1u), "percent", site_percent(p, s, s->wanted, s->load->shed_per_s)));
	}
	double times = governor_times(p, KW_SPAN, 0);
	return json_pack("{s:i,s:s,s:f,s:f,s:f,s:f,s:f,s:o}", "pid", (int)p->pid, "service", p->service, "measured_percent", p->overhead, "limit_percent",
		governor_limit(p), "predicted_percent", predicted, "cpu_percent", (p->guard ? p->guard->cores : 0) * 100, "times_warm", times > 0 ? times : 1, "shed", list);
}

struct dear { const struct process *p; const struct site *s; double percent; };
static int by_percent(const void *a, const void *b)
{
	const struct dear *x = a, *y = b;
	return x->percent > y->percent ? -1 : x->percent < y->percent;
}

static json_t *sites_rows(struct agent *a)
{
	uint32_t n = 0, all = 0;
	for (uint32_t k = 0; k < a->nprocs; k++)
		all += a->procs[k]->map ? a->procs[k]->nactive : 0;
	struct dear *d = base_calloc(all + 1, sizeof *d);
	for (uint32_t k = 0; k < a->nprocs; k++)
		for (uint32_t i = 0; a->procs[k]->map && i < a->procs[k]->nactive; i++) {
			const struct process *p = a->procs[k];
			const struct site *s = &p->sites[p->active[i]];
			if (s->level && s->load && s->load->per_s > .01)
				d[n++] = (struct dear){ p, s, s->load->per_s * s->load->ns / 1e7 / cores(p->guard) };
		}
	if (n)
		qsort(d, n, sizeof *d, by_percent);
	json_t *list = json_array();
	for (uint32_t i = 0; i < n && i < 50; i++) {
		char id[17];
		struct str name = strtab_get(&d[i].p->strs, d[i].s->name);
		span_id_hex(d[i].s->id, id);
		json_array_append_new(list, json_pack("{s:s,s:s%,s:s,s:i,s:s,s:f,s:f,s:f}", "site", id, "name", name.p, name.n, "service", d[i].p->service, "pid",
			(int)d[i].p->pid, "level", level_name(d[i].s->level), "calls_per_s", d[i].s->load->per_s, "ns_per_call", d[i].s->load->ns,
			"percent", d[i].percent));
	}
	free(d);
	return list;
}

/* Of one core, all processes together, as the prediction was; a site that several rules want counts for each. */
static json_t *rules_rows(struct agent *a)
{
	json_t *list = json_array();
	double *ns = base_calloc(a->nhandles + 1, sizeof *ns);
	for (uint32_t k = 0; k < a->nprocs; k++)
		for (uint32_t g = 0; a->procs[k]->map && g < a->procs[k]->ngrants; g++) {
			const struct site *s = &a->procs[k]->sites[a->procs[k]->grants[g].site];
			if (s->load && s->level)
				ns[a->procs[k]->grants[g].r->handle] += s->load->per_s * s->load->ns;
		}
	for (uint32_t k = 0; k < a->nrules; k++) {
		const struct rule *r = a->rules[k];
		const json_t *predicted = json_object_get(r->predicted, "cpu_percent");
		if (!r->dead && !r->limit)
			json_array_append_new(list, json_pack("{s:s,s:f,s:o}", "id", r->id, "measured_percent", ns[r->handle] / 1e7, "predicted_percent",
				predicted && json_is_true(json_object_get(r->predicted, "known")) ? json_real(json_number_value(predicted)) : json_null()));
	}
	free(ns);
	return list;
}

json_t *governor_json(struct agent *a)
{
	json_t *list = json_array();
	for (uint32_t k = 0; k < a->nprocs; k++)
		if (a->procs[k]->map)
			json_array_append_new(list, process_row(a->procs[k]));
	unsigned long long pages = 0, resident = 0;
	FILE *f = fopen("/proc/self/statm", "re");
	if (f && fscanf(f, "%llu %llu", &pages, &resident) != 2)
		resident = 0;
	if (f)
		fclose(f);
	return json_pack("{s:f,s:b,s:{s:f,s:I},s:o,s:o,s:o}", "budget_percent", a->cfg.budget_percent, "saturated",
		(int)governor_saturated(a), "agent", "cpu_percent", a->cpu_percent, "rss_bytes",
		(json_int_t)(resident * (unsigned long long)sysconf(_SC_PAGESIZE)), "processes", list, "sites", sites_rows(a), "rules", rules_rows(a));
}
