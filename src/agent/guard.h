/* What governor and rates decide: numbers in, decisions out, nothing else touched. governor.c and rate.c are the glue; tests/unit/guard_test.c. */
#pragma once
#include "wire/wire.h"
#include <stdbool.h>
#include <stdint.h>

/* ---- budget ---------------------------------------------------------------------------------------------------------------- */

/* What probes spent, by ticks of the last second and a bit. */
#define GUARD_TICKS 512u /* closer together while something is tried */
struct guard_meter { struct { int64_t at, dt; double ns; } tick[GUARD_TICKS]; uint32_t n; int64_t changed_at; };
void guard_meter_add(struct guard_meter *m, int64_t now, int64_t dt, double ns);
/* Nanoseconds a second, over the last second; since the last change of levels, over at most a second (what is on now). */
double guard_measured(const struct guard_meter *m, int64_t now);
double guard_present(const struct guard_meter *m, int64_t now);
/* Is it to shed? One tick far over is enough; a little over must last a second. budget in ns a second. */
bool guard_over(const struct guard_meter *m, int64_t now, double budget);

/* What hits cost here, by those that were timed: the mean of the latest some hundred, beside what they would cost with warm caches. */
struct guard_cost { double events, ns; };
void guard_cost_add(struct guard_cost *c, double events, double ns);
/* How many times the warm cost one event costs; 1 until enough were timed, and never less. Of hits that are gap_ns of CPU time apart less is paid: what they need stays
 * in the caches. gap_ns: infinite for hits as those that were timed. */
double guard_cost_factor(const struct guard_cost *c, double warm_ns, double gap_ns);
double guard_cost_apart(double factor, double gap_ns);

struct guard_site {
	double now;              /* ns a second at its present level */
	double at[KW_DEEP + 1];  /* what it would be at each level */
	uint8_t level, wanted;   /* present; most that it may get */
	uint8_t to;              /* decided */
	uint32_t i;
};
/* The dearest give way until the rest fits `target`: each as little as is enough, else off. Returns what is left. */
double guard_shed(struct guard_site *s, uint32_t n, double total, double target);
/* The cheapest come back, each as high as fits under `target` together with the rest. Returns the sum then. */
double guard_restore(struct guard_site *s, uint32_t n, double total, double target);

#define GUARD_BACKOFF_MIN 5000000000ll
#define GUARD_BACKOFF_MAX 600000000000ll
#define GUARD_STABLE 60000000000ll
/* How long what is shed now has to wait: twice as long as last time when it had come back only lately. restored_at 0: never. */
int64_t guard_backoff(int64_t last, int64_t restored_at, int64_t now);

/* Is the host out of CPU? idle: share of the last interval; waiting: share of it in which somebody waited (PSI), negative = not known. With hysteresis. */
bool guard_saturated(bool was, double idle, double waiting);

/* ---- predictions ------------------------------------------------------------------------------------------------------------- */

/* What came, beside what was predicted, time after time. The factor for the next prediction is 1 unless they were off in the same direction: a load that has
 * changed once is remembered as it is now anyway, noise teaches nothing. Within a factor of four. */
struct guard_bias { double mean, square; }; /* smoothed logarithms */
void guard_bias_learn(struct guard_bias *b, double predicted, double measured);
double guard_bias_factor(const struct guard_bias *b);

/* ---- rates ------------------------------------------------------------------------------------------------------------------- */

/* Operations that begin traces, and how many spans each of their traces makes in this process. */
struct rate_op { double per_s, floor_per_s, spans; double most; /* highest share allowed */ double share; /* decided */ };
/* One share for all, and for rare ones what their floor asks: kept spans then come to `target` a second. */
void rate_solve(struct rate_op *op, uint32_t n, double target);
/* A step towards `to`: at most double up, a quarter down. was 0: all were kept. */
double rate_step(double was, double to);
/* A smoothed rate: of x in dt seconds; slow where there is little to go by. */
double rate_smooth(double was, bool known, double x, double kept, double dt);
