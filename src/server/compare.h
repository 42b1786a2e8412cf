/* Is one group of processes worse off than another? What a rollout asks of each of its windows; see compare.c. Pure functions. */
#pragma once
#include <stdbool.h>
#include <stddef.h>

enum { COMPARE_PER_OCTAVE = 16, COMPARE_BINS = 44 * COMPARE_PER_OCTAVE };   /* 1 ns to 4.9 hours */
enum { COMPARE_CALLS_MIN = 100 };        /* fewer requests than this in a group say nothing */

struct compare_group {
	int processes;
	double overhead;                 /* percent of CPU: the highest of its processes, on average over the looks */
	double calls, errors;            /* requests; one that was kept stands for those that were not */
	double seen;                     /* how many were really looked at: what certainty comes from */
	double bin[COMPARE_BINS];        /* calls by latency */
};
struct compare_limits {
	double overhead;                 /* percent of CPU; 0: none */
	bool busy;                       /* the host has no CPU to spare */
	double slower, failing;          /* what is too much: .2 = a fifth slower; .02 = two of a hundred requests more fail */
};
enum compare_verdict { COMPARE_OK, COMPARE_BREACH, COMPARE_TOO_FEW };

unsigned compare_bin(double ns);
double compare_quantile(const struct compare_group *g, double q);      /* ns; 0: no calls */
/* The canary against the rest (NULL or without enough calls: not compared with them), each against what it was before (NULL: not known).
 * ret_why: the evidence in words. */
enum compare_verdict compare_groups(const struct compare_group *canary, const struct compare_group *rest, const struct compare_group *canary_before,
	const struct compare_group *rest_before, const struct compare_limits *lim, char *ret_why, size_t n);
