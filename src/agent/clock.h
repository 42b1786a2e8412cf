/* One mapping from time stamp counter to wall clock for all processes of the host, so that their spans line up by construction. */
#pragma once
#include <stdint.h>

struct clock_map {
	uint64_t tsc;            /* at `ns` */
	int64_t ns;
	double ns_per_tick;      /* with the slew that is being applied */
	double rate;             /* estimated, without it */
	uint64_t rate_tsc; int64_t rate_ns; /* where the estimate's base line begins */
	int64_t error_ns;        /* at the last fit */
	uint64_t jumps;
};
void clock_map_init(struct clock_map *m);
/* Compares with the clock; small errors are slewed away (time stays continuous), a jump of the wall clock is followed at once. */
void clock_map_fit(struct clock_map *m);
void clock_map_fit_at(struct clock_map *m, uint64_t tsc, int64_t wall_ns, int64_t mono_ns);
static inline int64_t clock_map_ns(const struct clock_map *m, uint64_t tsc)
{
	return m->ns + (int64_t)((double)(int64_t)(tsc - m->tsc) * m->ns_per_tick);
}
