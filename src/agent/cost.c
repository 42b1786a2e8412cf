/* What a probe costs and how often it is hit: what predictions and the overhead that is shown rest on.
 *
 * The cost of one hit on this machine is measured when the agent starts: the floor (two readings of the clock and a 32-byte store) times the ratios that
 * `make bench` finds for each level (bench/RESULTS.md). How often a site was hit when it was last on is remembered by its id and service, so
 * that the next prediction needs no look at it, not even after a restart of the process. Agent thread. */
#include "agent/guard.h"
#include "agent/state.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define WINDOW (5 * SECOND)
#define LEAST (SECOND / 5)   /* on for less: its rate is not known */
#define SEEN 16384           /* sites remembered, 1 MiB; the oldest of four makes room */
struct seen { uint64_t key, gen; double per_s, units /* of a record, 0 = not known */, times; struct guard_bias bias; int64_t at; const struct process *given; };

static struct { uint64_t w[4]; } ring[512];

void cost_calibrate(struct agent *a)
{
	enum { ROUNDS = 9, N = 4000 };
	double best = 1e9;
	for (int r = 0; r < ROUNDS; r++) {
		int64_t t = clock_mono();
		for (uint64_t i = 0; i < N; i++) {
			uint64_t start = kw_ticks();
			__asm__ volatile("" ::: "memory");
			uint64_t end = kw_ticks();
			uint64_t *w = ring[i & 511].w;
			w[0] = start, w[1] = end - start, w[2] = i, w[3] = 0;
			__asm__ volatile("" : : "r"(w) : "memory");
		}
		double ns = (double)(clock_mono() - t) / N;
		best = ns < best ? ns : best; /* the quietest round: the others were disturbed */
	}
	a->floor_ns = best;
}

#define SPAN_RATIO 1.5
#define DETAIL_RATIO 2.2 /* with the attributes of most spans; of a site that was at detail it is known better */
double cost_unit_ns(const struct agent *a) { return 1.4 * a->floor_ns; }

double cost_ns(const struct agent *a, unsigned level, double keep)
{
	static const double ratio[] = { [KW_OFF] = 0, [KW_COUNT] = 1.3, [KW_SPAN] = SPAN_RATIO, [KW_DETAIL] = DETAIL_RATIO, [KW_DEEP] = DETAIL_RATIO };
	const double not_kept = 0.25; /* a probe in a trace that is not kept looks, and leaves */
	double whole = a->floor_ns * ratio[level <= KW_DEEP ? level : KW_DEEP];
	return level < KW_SPAN ? whole : whole * keep + a->floor_ns * not_kept * (1 - keep);
}

/* A function costs the way through the gate besides (bench/RESULTS.md), or what the kernel takes. */
double cost_of(const struct process *p, const struct site *s, unsigned level, double keep)
{
	const double gate = 1.0;
	double ns = cost_ns(p->agent, level, keep);
	if (level >= KW_DETAIL && s->load && s->load->units_avg > 0) /* what its attributes take is known */
		ns += keep * (p->agent->floor_ns * (SPAN_RATIO - DETAIL_RATIO) + cost_unit_ns(p->agent) * (s->load->units_avg - 1));
	if (s->kind != KW_SITE_FUNCTION)
		return ns;
	return ns + (p->uprobe ? s->probe_ns : p->agent->floor_ns * gate);
}

double cost_expected(const struct process *p, const struct site *s, unsigned level, double keep, double per_s)
{
	double times = governor_times(p, level, per_s);
	if (!(times > 0))
		times = s->seen_times > 1 ? guard_cost_apart(s->seen_times, per_s > 0 ? 1e9 / per_s : INFINITY) : 1;
	return cost_of(p, s, level, keep) * times;
}

/* Calls per second of a site, recorded or not: as measured while it is on (*ret_age = 0), else when it was last on (*ret_age: ns ago);
 * negative: not known. Only of marked requests: those count. */
double cost_rate(const struct site *s, int64_t now, int64_t *ret_window, int64_t *ret_age)
{
	double keep = s->threshold >= 1ull << 56 ? 0 : 1 - ldexp((double)s->threshold, -56);
	*ret_age = *ret_window = 0;
	if (s->patched && now - s->on_since >= LEAST && (keep > 0 || s->level < KW_SPAN)) {
		int64_t from = now - WINDOW > s->on_since ? now - WINDOW : s->on_since, whole = from / SECOND * SECOND;
		*ret_window = now - (whole > s->on_since ? whole : s->on_since); /* statistics are by whole seconds */
		double calls = stat_calls(s, from / SECOND), before = from / SECOND == s->on_since / SECOND ? s->on_calls : 0;
		return (calls > before ? calls - before : 0) * 1e9 / (double)*ret_window;
	}
	if (!s->seen_at)
		return -1;
	*ret_age = now - s->seen_at + 1;
	return s->seen_per_s * s->seen_factor;
}

static struct seen *seen_slot(struct agent *a, const struct process *p, const struct site *s, bool make)
{
	uint64_t key = hash_bytes(p->service, strlen(p->service), s->id);
	struct seen *oldest = NULL;
	if (!a->seen && !make)
		return NULL;
	if (!a->seen)
		a->seen = base_calloc(SEEN, sizeof *a->seen);
	for (uint64_t i = 0; i < 4; i++) {
		struct seen *e = &a->seen[(key + i) % SEEN];
		if (e->key == key)
			return e;
		if (!oldest || e->at < oldest->at)
			oldest = e;
	}
	if (!make)
		return NULL;
	*oldest = (struct seen){ .key = key };
	return oldest;
}

void cost_seen(struct process *p, uint32_t i)
{
	struct site *s = &p->sites[i], was = *s;
	const struct kw_site_state *st = &p->state[i]; /* as it was until now; the site says what it is to be */
	int64_t now = clock_mono(), window, age;
	if (st->flags & KW_STATE_GATED)
		return;
	was.threshold = st->threshold;
	was.level = st->level;
	double per_s = cost_rate(&was, now, &window, &age);
	if (age || per_s < 0)
		return;
	s->seen_per_s = per_s;
	s->seen_at = now;
	double times = governor_times(p, KW_SPAN, 0);
	s->seen_times = times > 0 ? times : s->seen_times;
	struct seen *e = seen_slot(p->agent, p, s, true);
	if (e->gen != p->agent->seen_gen)
		e->per_s = 0; /* else another instance of the site in the same process */
	e->per_s += per_s;
	e->gen = p->agent->seen_gen;
	s->seen_factor = guard_bias_factor(&e->bias);
	e->times = s->seen_times;
	e->at = now;
	e->given = p;
	if (s->load && s->load->units_avg > 0)
		e->units = s->load->units_avg;
}

void cost_recall(struct process *p, struct site *s)
{
	struct seen *e = seen_slot(p->agent, p, s, false);
	if (!e)
		return;
	s->seen_at = e->at;
	s->seen_factor = guard_bias_factor(&e->bias);
	s->seen_times = e->times;
	s->seen_per_s = e->given == p ? 0 : e->per_s; /* one of its instances stands for all */
	if (e->units > 0)
		load_of(s)->units_avg = e->units;
	e->given = p;
}

/* How far off the prediction was teaches the next one. */
void cost_compare(struct process *p, struct site *s, int64_t now)
{
	struct load *l = s->load;
	if (!l || !l->predicted_at || now - l->predicted_at < WINDOW)
		return;
	l->predicted_at = 0;
	struct seen *e = seen_slot(p->agent, p, s, false);
	if (e)
		guard_bias_learn(&e->bias, l->predicted_per_s, l->per_s);
}

json_t *cost_json(const struct agent *a, unsigned level, double keep, double besides_ns, bool known, double per_s, const char *basis)
{
	double spans = level >= KW_SPAN ? per_s * keep : 0;
	return json_pack("{s:b,s:f,s:f,s:f,s:f,s:s}", "known", (int)known, "calls_per_s", per_s, "spans_per_s", spans, "bytes_per_s",
		spans * (level >= KW_DETAIL ? 96 : 32), "cpu_percent", per_s * (cost_ns(a, level, keep) + besides_ns) * 1e-7, "basis", basis);
}

void cost_basis(bool known, int64_t age_ns, int64_t window_ns, char ret_text[64])
{
	long long age = age_ns / SECOND, unit = window_ns < SECOND ? 1000000 : SECOND;
	if (!known)
		snprintf(ret_text, 64, "unknown: no estimate was asked for");
	else if (age_ns && age < 2)
		snprintf(ret_text, 64, "last seen just now");
	else if (age_ns)
		snprintf(ret_text, 64, age < 120 ? "last seen %lld s ago" : "last seen %lld min ago", age < 120 ? age : age / 60);
	else
		snprintf(ret_text, 64, unit == SECOND ? "measured %lld s" : "measured %lld ms", (long long)(window_ns / unit));
}
