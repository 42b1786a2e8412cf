/* The statistics of a rollout. A difference counts when it is both material (as large as was configured) and significant (not what chance makes of two
 * groups that are alike); that it has to last is the caller's to see to (rollout.c wants several windows in a row).
 *
 * What is tested is a difference of differences: how the canary stands to the rest now, less how it stood to the rest before (Card and Krueger,
 * American Economic Review 84, 1994). So neither a busier hour, which all feel, nor a process that always was slower than others, is held against the
 * version. Whatever of the four groups is not known is left out: without the rest it is now against before, without before the canary against the rest.
 *
 * Against the past alone, and on a host without CPU to spare, only the median is compared: there the tail is who had to wait for a processor, which comes in
 * spells that hit one process and not the next. Such a host slows all it has down by what no statistics can tell from harm; if there is no rest that feels it,
 * too, ten times as much is allowed.
 *
 * Latency: median, p90 and p99, each if the groups have the calls for it, on a logarithmic scale. How certain a quantile is, its order statistics say,
 * whatever the distribution: of n calls between n*q -+ z*sqrt(n*q*(1-q)) lies the true one (Conover, Practical Nonparametric Statistics, 3.2).
 * Errors: two proportions, with two failures and two successes added to each group, which keeps the normal approximation honest for rare ones (Agresti
 * and Caffo, The American Statistician 54, 2000). Z of 2.81 is one-sided 0.0025: tests/unit/compare_test.c draws what that comes to over whole rollouts. */
#include "server/compare.h"
#include <math.h>
#include <stdio.h>

static const double Z = 2.81;
static const double SLACK_NS = 100e3;    /* nobody waits for so little */
enum { ERRORS_MIN = 5 };                 /* failures of the canary below which their share means nothing */

unsigned compare_bin(double ns)
{
	double b = ns > 1 ? log2(ns) * COMPARE_PER_OCTAVE : 0;
	return b < COMPARE_BINS - 1 ? (unsigned)b : COMPARE_BINS - 1;
}

static double bin_at(const struct compare_group *g, double share)
{
	double n = 0, at = 0;
	for (unsigned b = 0; b < COMPARE_BINS; b++)
		n += g->bin[b];
	for (unsigned b = 0; b < COMPARE_BINS && n > 0; b++)
		if ((at += g->bin[b]) >= share * n && g->bin[b] > 0) /* as if its calls were spread evenly over the bin */
			return b + 1 - (at - share * n) / g->bin[b];
	return -1;
}

double compare_quantile(const struct compare_group *g, double q)
{
	double b = bin_at(g, q);
	return b < 0 ? 0 : exp2(b / COMPARE_PER_OCTAVE);
}

struct measure { double value, variance; };

/* The logarithm of a quantile; false: too few calls to say. */
static bool log_quantile(const struct compare_group *g, double q, struct measure *ret_m)
{
	double off = Z * sqrt(q * (1 - q) / g->seen);
	if (g->seen < COMPARE_CALLS_MIN || q - off <= 0 || q + off >= 1)
		return false;
	double low = bin_at(g, q - off), high = bin_at(g, q + off), se = (high - low) / (2 * Z);
	if (low < 0 || !(se >= 0))
		return false;
	se = se * se + 1. / 12;          /* no finer than a bin */
	*ret_m = (struct measure){ bin_at(g, q) * M_LN2 / COMPARE_PER_OCTAVE, se * (M_LN2 / COMPARE_PER_OCTAVE) * (M_LN2 / COMPARE_PER_OCTAVE) };
	return true;
}

static bool error_share(const struct compare_group *g, double ignored, struct measure *ret_m)
{
	if (g->seen < COMPARE_CALLS_MIN || g->calls <= 0)
		return false;
	double share = fmin(fmax(g->errors / g->calls, 0), 1), n = g->seen + 4, p = (share * g->seen + 2) / n; /* agents may say anything */
	*ret_m = (struct measure){ share, p * (1 - p) / n };
	return true;
}

struct groups { const struct compare_group *canary, *rest, *canary_before, *rest_before; };

/* How much more it is than it should be; false: not known. */
static bool excess(const struct groups *g, bool (*of)(const struct compare_group *, double, struct measure *), double q, struct measure *ret_m)
{
	struct measure c, r, cb, rb;
	if (!of(g->canary, q, &c) || (!g->rest && !g->canary_before) || (g->rest && !of(g->rest, q, &r)))
		return false;
	if (g->rest)
		c.value -= r.value, c.variance += r.variance;
	if (g->canary_before) {
		if (!of(g->canary_before, q, &cb) || (g->rest && !of(g->rest_before, q, &rb)))
			return false;
		c.value -= cb.value, c.variance += cb.variance;
		if (g->rest)
			c.value += rb.value, c.variance += rb.variance;
	}
	*ret_m = c;
	return true;
}

static bool enough(const struct compare_group *g) { return g && g->seen >= COMPARE_CALLS_MIN && g->calls > 0; }

static void counts(const struct groups *g, char *s, size_t n)
{
	int at = snprintf(s, n, "canary %.0f", g->canary->seen);
	if (g->rest)
		at += snprintf(s + at, n - (size_t)at, ", rest %.0f", g->rest->seen);
	if (g->canary_before)
		at += snprintf(s + at, n - (size_t)at, ", canary before %.0f", g->canary_before->seen);
	if (g->canary_before && g->rest)
		snprintf(s + at, n - (size_t)at, ", rest before %.0f", g->rest_before->seen);
}

static bool slower(const struct groups *g, const struct compare_limits *lim, unsigned *ret_judged, char *why, size_t n)
{
	static const struct { double q; const char *name; } quantiles[] = { { .5, "the median" }, { .9, "p90" }, { .99, "p99" } };
	char calls[120];
	double allowed = lim->busy && !g->rest ? 10 * lim->slower : lim->slower;
	for (unsigned i = 0; i < (g->rest && !lim->busy ? sizeof quantiles / sizeof *quantiles : 1); i++) {
		struct measure m;
		double q = quantiles[i].q;
		if (!excess(g, log_quantile, q, &m))
			continue;
		++*ret_judged;
		double now = compare_quantile(g->canary, q), by = now - now / exp(m.value);
		if (m.value <= log1p(allowed) || m.value <= Z * sqrt(m.variance) || by <= SLACK_NS)
			continue;
		counts(g, calls, sizeof calls);
		int at = snprintf(why, n, "%s is %.2f ms", quantiles[i].name, now / 1e6);
		if (g->rest)
			at += snprintf(why + at, n - (size_t)at, ", the rest's %.2f ms", compare_quantile(g->rest, q) / 1e6);
		if (g->canary_before)
			at += snprintf(why + at, n - (size_t)at, ", before it was %.2f ms", compare_quantile(g->canary_before, q) / 1e6);
		if (g->canary_before && g->rest)
			at += snprintf(why + at, n - (size_t)at, " (the rest's %.2f ms)", compare_quantile(g->rest_before, q) / 1e6);
		snprintf(why + at, n - (size_t)at, ": %.0f %% slower, between %.0f and %.0f %% is certain, over %.0f %% is too much%s (requests: %s)",
			expm1(m.value) * 100, expm1(m.value - Z * sqrt(m.variance)) * 100, expm1(m.value + Z * sqrt(m.variance)) * 100, allowed * 100,
			allowed > lim->slower ? ", as the host has no CPU to spare" : "", calls);
		return true;
	}
	return false;
}

static bool failing(const struct groups *g, const struct compare_limits *lim, char *why, size_t n)
{
	struct measure m;
	char calls[120];
	double share = g->canary->errors / g->canary->calls;
	if (!excess(g, error_share, 0, &m) || m.value <= lim->failing || m.value <= Z * sqrt(m.variance) || share * g->canary->seen < ERRORS_MIN)
		return false;
	counts(g, calls, sizeof calls);
	int at = snprintf(why, n, "%.1f %% of requests fail", share * 100);
	if (g->rest)
		at += snprintf(why + at, n - (size_t)at, ", of the rest's %.1f %%", g->rest->errors / g->rest->calls * 100);
	if (g->canary_before)
		at += snprintf(why + at, n - (size_t)at, ", before %.1f %%", g->canary_before->errors / g->canary_before->calls * 100);
	snprintf(why + at, n - (size_t)at, ": %.1f points more, between %.1f and %.1f is certain, over %.1f is too much (requests: %s)", m.value * 100,
		(m.value - Z * sqrt(m.variance)) * 100, (m.value + Z * sqrt(m.variance)) * 100, lim->failing * 100, calls);
	return true;
}

enum compare_verdict compare_groups(const struct compare_group *canary, const struct compare_group *rest, const struct compare_group *canary_before,
	const struct compare_group *rest_before, const struct compare_limits *lim, char *ret_why, size_t n)
{
	struct groups g = { canary, enough(rest) ? rest : NULL, enough(canary_before) ? canary_before : NULL, rest_before };
	unsigned judged = 0;
	ret_why[0] = 0;
	if (g.rest && !enough(rest_before))
		g.canary_before = NULL;
	/* What the rest does, too, it does not do because of the version. */
	bool all = rest && rest->processes && rest->overhead > lim->overhead;
	if (lim->overhead > 0 && canary->overhead > lim->overhead && !all) {
		snprintf(ret_why, n, "the overhead is %.2f %% of CPU, the limit is %.2f %%", canary->overhead, lim->overhead);
		return COMPARE_BREACH;
	}
	if (!enough(canary) || (!g.rest && !g.canary_before)) {
		const struct compare_group *other = rest && rest->processes ? rest : canary_before;
		snprintf(ret_why, n, "not enough data: %.0f requests of the canary, %.0f %s, %d of each are needed", canary->seen, other ? other->seen : 0.,
			rest && rest->processes ? "of the rest" : "from before", COMPARE_CALLS_MIN);
		return COMPARE_TOO_FEW;
	}
	if (failing(&g, lim, ret_why, n) || slower(&g, lim, &judged, ret_why, n))
		return COMPARE_BREACH;
	return COMPARE_OK;
}
