/* The arithmetic of the budget governor and of adaptive rates. Pure: see guard.h. */
#include "agent/guard.h"
#include <math.h>
#include <stdlib.h>

#define SECOND 1000000000ll

void guard_meter_add(struct guard_meter *m, int64_t now, int64_t dt, double ns)
{
	uint32_t k = m->n++ % GUARD_TICKS;
	m->tick[k].at = now;
	m->tick[k].dt = dt;
	m->tick[k].ns = ns;
}

/* Whole ticks that ended within the last second and began after `since`. */
static double per_s(const struct guard_meter *m, int64_t now, int64_t since, int64_t *ret_covered)
{
	double ns = 0;
	int64_t covered = 0;
	for (uint32_t k = 0; k < m->n && k < GUARD_TICKS; k++) {
		uint32_t i = (m->n - 1 - k) % GUARD_TICKS;
		if (m->tick[i].at <= now - SECOND || m->tick[i].at - m->tick[i].dt < since)
			break;
		ns += m->tick[i].ns;
		covered += m->tick[i].dt;
	}
	*ret_covered = covered;
	return covered ? ns * 1e9 / (double)covered : 0;
}

double guard_measured(const struct guard_meter *m, int64_t now)
{
	int64_t covered;
	return per_s(m, now, INT64_MIN / 2, &covered);
}

double guard_present(const struct guard_meter *m, int64_t now)
{
	int64_t covered;
	double ns = per_s(m, now, m->changed_at, &covered);
	return covered ? ns : guard_measured(m, now);
}

bool guard_over(const struct guard_meter *m, int64_t now, double budget)
{
	int64_t covered;
	double ns = per_s(m, now, m->changed_at, &covered);
	if (!m->n || !covered)
		return false;
	uint32_t last = (m->n - 1) % GUARD_TICKS;
	return m->tick[last].ns > budget || (ns > budget && covered >= 9 * SECOND / 10); /* all of a second's budget in one tick; a second of too much */
}

void guard_cost_add(struct guard_cost *c, double events, double ns)
{
	const double most = 400;
	if (!(events > 0) || !(ns >= 0))
		return;
	double keep = c->events + events > most ? (events < most ? (most - events) / c->events : 0) : 1;
	c->ns = c->ns * keep + ns;
	c->events = c->events * keep + events;
}

double guard_cost_apart(double factor, double gap_ns)
{
	const double stays_ns = 5000;
	return isinf(gap_ns) ? factor : 1 + (factor - 1) * gap_ns / (gap_ns + stays_ns);
}

double guard_cost_factor(const struct guard_cost *c, double warm_ns, double gap_ns)
{
	const double least = 16, most = 100;
	if (c->events < least || !(warm_ns > 0))
		return 1;
	double f = c->ns / c->events / warm_ns;
	return guard_cost_apart(f < 1 ? 1 : f > most ? most : f, gap_ns);
}

static int dearest(const void *a, const void *b)
{
	const struct guard_site *x = a, *y = b;
	return x->now > y->now ? -1 : x->now < y->now ? 1 : x->i < y->i ? -1 : x->i > y->i;
}

double guard_shed(struct guard_site *s, uint32_t n, double total, double target)
{
	if (n)
		qsort(s, n, sizeof *s, dearest);
	for (uint32_t k = 0; k < n; k++) {
		s[k].to = s[k].level;
		double allowed = s[k].now - (total - target);
		for (unsigned level = s[k].level; total > target && level-- > 0;)
			if (level == KW_OFF || s[k].at[level] <= allowed) {
				s[k].to = (uint8_t)level;
				total -= s[k].now - (level ? s[k].at[level] : 0);
				break;
			}
	}
	return total;
}

static double next_step(const struct guard_site *s) { return s->level < s->wanted ? s->at[s->level + 1] - s->now : 0; }
static int cheapest(const void *a, const void *b)
{
	const struct guard_site *x = a, *y = b;
	double p = next_step(x), q = next_step(y);
	return p < q ? -1 : p > q ? 1 : x->i < y->i ? -1 : x->i > y->i;
}

double guard_restore(struct guard_site *s, uint32_t n, double total, double target)
{
	if (n)
		qsort(s, n, sizeof *s, cheapest);
	for (uint32_t k = 0; k < n; k++) {
		s[k].to = s[k].level;
		for (unsigned level = s[k].wanted; level > s[k].level; level--)
			if (total - s[k].now + s[k].at[level] <= target) {
				s[k].to = (uint8_t)level;
				total += s[k].at[level] - s[k].now;
				break;
			}
	}
	return total;
}

int64_t guard_backoff(int64_t last, int64_t restored_at, int64_t now)
{
	if (!last || !restored_at || now - restored_at > GUARD_STABLE + last)
		return GUARD_BACKOFF_MIN;
	return last > GUARD_BACKOFF_MAX / 2 ? GUARD_BACKOFF_MAX : 2 * last;
}

bool guard_saturated(bool was, double idle, double waiting)
{
	if (was)
		return idle < .1 && (waiting < 0 || waiting > .3);
	return idle < .02 && (waiting < 0 || waiting > .6);
}

void guard_bias_learn(struct guard_bias *b, double predicted, double measured)
{
	if (!(predicted > 0) || !(measured > 0))
		return;
	double x = log(measured / predicted);
	x = x > 2.3 ? 2.3 : x < -2.3 ? -2.3 : x;
	b->mean += (x - b->mean) * .3;
	b->square += (x * x - b->square) * .3;
}

double guard_bias_factor(const struct guard_bias *b)
{
	if (b->mean * b->mean <= b->square / 2)
		return 1;
	double f = exp(b->mean);
	return f > 4 ? 4 : f < .25 ? .25 : f;
}

/* ---- rates ------------------------------------------------------------------------------------------------------------------- */

static double op_share(const struct rate_op *o, double x)
{
	double floor = o->floor_per_s <= 0 ? 0 : o->per_s > o->floor_per_s ? o->floor_per_s / o->per_s : 1;
	double share = x > floor ? x : floor;
	return share < o->most ? share : o->most;
}

static double kept_at(const struct rate_op *op, uint32_t n, double x)
{
	double sum = 0;
	for (uint32_t i = 0; i < n; i++)
		sum += op[i].per_s * op[i].spans * op_share(&op[i], x);
	return sum;
}

void rate_solve(struct rate_op *op, uint32_t n, double target)
{
	double lo = 0, hi = 1;
	if (kept_at(op, n, 1) <= target)
		lo = 1;
	else
		for (int k = 0; k < 60; k++) { /* what is kept grows with x */
			double x = (lo + hi) / 2;
			*(kept_at(op, n, x) <= target ? &lo : &hi) = x;
		}
	for (uint32_t i = 0; i < n; i++)
		op[i].share = op_share(&op[i], lo > 1e-7 ? lo : 1e-7);
}

double rate_step(double was, double to)
{
	was = was > 0 ? was : 1;
	return to > 2 * was ? 2 * was : to < was / 4 ? was / 4 : to;
}

double rate_smooth(double was, bool known, double x, double kept, double dt)
{
	if (!known)
		return x / dt;
	double window = kept > 20 * dt ? 2 : 20; /* seconds */
	return was + (x / dt - was) * (1 - exp(-dt / window));
}
