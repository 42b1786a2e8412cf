/* The time stamp counter against the wall clock. The rate comes from a base line against CLOCK_MONOTONIC that grows to minutes;
 * the offset is corrected every second by at most 500 ppm. Agent thread. */
#include "agent/clock.h"
#include "base/clock.h"
#include "wire/wire.h"
#include <stdlib.h>

#define JUMP_NS 10000000
#define SLEW 500e-6

/* The tightest of a few bracketed readings: a preempted one is not believed. */
static void sample(uint64_t *ret_tsc, int64_t *ret_wall, int64_t *ret_mono)
{
	uint64_t best = UINT64_MAX;
	*ret_tsc = 0;
	*ret_wall = *ret_mono = 0;
	for (int i = 0; i < 12; i++) {
		uint64_t a = kw_ticks();
		int64_t wall = clock_wall();
		uint64_t b = kw_ticks();
		int64_t mono = clock_mono();
		uint64_t c = kw_ticks();
		if (c - a < best) {
			best = c - a;
			*ret_tsc = a + (b - a) / 2;
			*ret_wall = wall;
			*ret_mono = mono;
		}
	}
}

void clock_map_init(struct clock_map *m)
{
	uint64_t t0, t1;
	int64_t w0, w1, m0, m1;
	sample(&t0, &w0, &m0);
	do {
		sample(&t1, &w1, &m1);
	} while (m1 - m0 < 10000000);
	*m = (struct clock_map){ .tsc = t1, .ns = w1, .rate_tsc = t0, .rate_ns = m0 };
	m->rate = m->ns_per_tick = (double)(m1 - m0) / (double)(t1 - t0);
}

void clock_map_fit_at(struct clock_map *m, uint64_t tsc, int64_t wall_ns, int64_t mono_ns)
{
	if (tsc <= m->tsc)
		return;
	if (mono_ns - m->rate_ns > 0 && tsc > m->rate_tsc)
		m->rate = (double)(mono_ns - m->rate_ns) / (double)(tsc - m->rate_tsc);
	int64_t predicted = clock_map_ns(m, tsc), error = wall_ns - predicted;
	m->error_ns = error;
	m->tsc = tsc;
	if (llabs(error) > JUMP_NS) {
		m->ns = wall_ns;
		m->ns_per_tick = m->rate;
		m->jumps++;
		return;
	}
	m->ns = predicted;
	double slew = (double)error / 1e9; /* gone within the second until the next fit */
	slew = slew > SLEW ? SLEW : slew < -SLEW ? -SLEW : slew;
	m->ns_per_tick = m->rate * (1 + slew);
}

void clock_map_fit(struct clock_map *m)
{
	uint64_t t;
	int64_t wall, mono;
	sample(&t, &wall, &mono);
	clock_map_fit_at(m, t, wall, mono);
}
