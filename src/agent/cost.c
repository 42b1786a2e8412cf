/* What a probe costs on this machine, measured when the agent starts: the floor (two readings of the clock and a 32-byte store) times the ratios that
 * `make bench` finds for each level (bench/RESULTS.md). Predictions and the overhead that is shown rest on it. */
#include "agent/state.h"

static struct { uint64_t w[4]; } ring[512];

void cost_calibrate(struct agent *a)
{
	enum { ROUNDS = 9, N = 4000 };
	double best = 1e9;
	for (int r = 0; r < ROUNDS; r++) {
		int64_t t = clock_mono();
		for (uint64_t i = 0; i < N; i++) {
			uint64_t start = clock_tsc();
			__asm__ volatile("" ::: "memory");
			uint64_t end = clock_tsc();
			uint64_t *w = ring[i & 511].w;
			w[0] = start, w[1] = end - start, w[2] = i, w[3] = 0;
			__asm__ volatile("" : : "r"(w) : "memory");
		}
		double ns = (double)(clock_mono() - t) / N;
		best = ns < best ? ns : best; /* the quietest round: the others were disturbed */
	}
	a->floor_ns = best;
}

double cost_ns(const struct agent *a, unsigned level, double keep)
{
	static const double ratio[] = { [KW_OFF] = 0, [KW_COUNT] = 1.3, [KW_SPAN] = 1.5, [KW_DETAIL] = 2.2, [KW_DEEP] = 2.2 };
	const double not_kept = 0.25; /* a probe in a trace that is not kept looks, and leaves */
	double whole = a->floor_ns * ratio[level <= KW_DEEP ? level : KW_DEEP];
	return level < KW_SPAN ? whole : whole * keep + a->floor_ns * not_kept * (1 - keep);
}
