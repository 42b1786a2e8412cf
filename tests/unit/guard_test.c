/* What keeps tracing from slowing a service down, and its numbers right: the governor's decisions, adaptive rates, and that estimates stay unbiased when rates change. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include "agent/guard.h"
#include "agent/state.h"
#include "analyze/callgraph.h"
#include "analyze/heatmap.h"
#include "analyze/hot.h"
#include <math.h>
#include <stdlib.h>

/* ---- the budget ------------------------------------------------------------------------------------------------------------------- */

static struct guard_site site(uint32_t i, double per_s, unsigned level)
{
	struct guard_site s = { .level = (uint8_t)level, .wanted = (uint8_t)level, .i = i };
	const double ns[] = { 0, 26, 30, 60, 60 };
	for (unsigned k = 0; k <= KW_DEEP; k++)
		s.at[k] = per_s * ns[k];
	s.now = s.at[level];
	return s;
}

static unsigned to(const struct guard_site *s, uint32_t n, uint32_t i)
{
	for (uint32_t k = 0; k < n; k++)
		if (s[k].i == i)
			return s[k].to;
	return 99;
}

static void the_dearest_gives_way_and_no_more_than_it_takes(void **state)
{
	(void)state;
	struct guard_site s[] = { site(0, 1000, KW_DETAIL), site(1, 10e6, KW_DETAIL), site(2, 50, KW_SPAN), site(3, 100e3, KW_SPAN) };
	double left = guard_shed(s, 4, 600e6 + 3e6 + 60e3 + 1500, 7e6);
	assert_true(left <= 7e6);
	assert_int_equal(to(s, 4, 1), KW_OFF); /* counting it alone would be too much */
	assert_int_equal(to(s, 4, 0), KW_DETAIL);
	assert_int_equal(to(s, 4, 2), KW_SPAN);
	assert_int_equal(to(s, 4, 3), KW_SPAN);

	struct guard_site t[] = { site(0, 150e3, KW_DETAIL), site(1, 10e3, KW_DETAIL) };
	left = guard_shed(t, 2, 9.6e6, 7e6);
	assert_true(left <= 7e6);
	assert_int_equal(to(t, 2, 0), KW_SPAN); /* a step is enough */
	assert_int_equal(to(t, 2, 1), KW_DETAIL);
}

static void many_go_at_once_when_far_over(void **state)
{
	(void)state;
	struct guard_site s[100];
	double total = 0;
	for (uint32_t i = 0; i < 100; i++)
		total += (s[i] = site(i, 1e6 + i, KW_DETAIL)).now;
	assert_true(guard_shed(s, 100, total, 7e6) <= 7e6);
}

static void what_comes_back_fits(void **state)
{
	(void)state;
	struct guard_site s[] = { site(0, 1e6, KW_OFF), site(1, 1000, KW_OFF), site(2, 50e3, KW_OFF) };
	for (int i = 0; i < 3; i++)
		s[i].wanted = KW_DETAIL;
	double total = guard_restore(s, 3, 1e6, 6e6);
	assert_true(total <= 6e6);
	assert_int_equal(to(s, 3, 0), KW_OFF);
	assert_int_equal(to(s, 3, 1), KW_DETAIL);
	assert_int_equal(to(s, 3, 2), KW_DETAIL);
}

/* A site that storms for an hour, seen by the governor's rules: how often it is switched, and what it costs on average. */
static void a_storm_does_not_make_it_flap(void **state)
{
	(void)state;
	const double budget = 10e6, per_s = 10e6;
	const int64_t tick = 250000000;
	struct guard_meter m = { 0 };
	unsigned level = KW_DETAIL, looks = 0, sheds = 0;
	int64_t backoff = 0, retry = 0, first = 0;
	double spent = 0;
	for (int64_t now = tick; now < 3600 * 1000000000ll; now += tick) {
		struct guard_site s = site(0, per_s, level);
		double ns = s.now * .25;
		if (!level && sheds && now >= retry) { /* the look: 10 ms at level count */
			ns += per_s * 26 * .01;
			looks++;
			backoff = backoff > GUARD_BACKOFF_MAX / 2 ? GUARD_BACKOFF_MAX : 2 * backoff;
			retry = now + backoff;
		}
		guard_meter_add(&m, now, tick, ns);
		spent += ns;
		if (level && guard_over(&m, now, budget)) {
			s.wanted = KW_DETAIL;
			guard_shed(&s, 1, guard_present(&m, now), .7 * budget);
			level = s.to;
			backoff = guard_backoff(backoff, 0, now);
			retry = now + backoff;
			m.changed_at = now;
			first = sheds++ ? first : now;
		}
	}
	assert_int_equal(first, tick); /* with the first tick */
	assert_int_equal(sheds, 1);
	assert_true(looks > 3 && looks < 20);
	assert_true(guard_measured(&m, 3600 * 1000000000ll) < budget);
	assert_true(spent / 3600 < budget / 10);
}

static void backoff_doubles_while_it_keeps_coming_back(void **state)
{
	(void)state;
	int64_t b = guard_backoff(0, 0, 1);
	assert_int_equal(b, GUARD_BACKOFF_MIN);
	assert_int_equal(guard_backoff(b, 1000, 2000), 2 * b);
	assert_int_equal(guard_backoff(GUARD_BACKOFF_MAX, 1000, 2000), GUARD_BACKOFF_MAX);
	assert_int_equal(guard_backoff(8 * b, 1000, 1000 + GUARD_STABLE + 8 * b + 1), GUARD_BACKOFF_MIN); /* it had been fine for long */
}

static void a_little_over_must_last_a_lot_over_must_not(void **state)
{
	(void)state;
	struct guard_meter m = { 0 };
	const int64_t tick = 250000000;
	int64_t now = tick;
	for (int i = 0; i < 3; i++, now += tick) {
		guard_meter_add(&m, now, tick, 3e6); /* 12e6 a second of 10e6 */
		assert_false(guard_over(&m, now, 10e6));
	}
	guard_meter_add(&m, now, tick, 3e6);
	assert_true(guard_over(&m, now, 10e6));
	m.changed_at = now; /* something was shed: what came before says nothing of now */
	now += tick;
	guard_meter_add(&m, now, tick, 1e6);
	assert_false(guard_over(&m, now, 10e6));
	assert_true(guard_present(&m, now) < 5e6);
	assert_true(guard_measured(&m, now) > 5e6);
}

/* A hit is charged what those cost that were timed; never less than with warm caches, and not on the word of a few. */
static void hits_cost_what_was_timed(void **state)
{
	(void)state;
	struct guard_cost c = { 0 };
	assert_float_equal(guard_cost_factor(&c, 20, INFINITY), 1, 0);
	guard_cost_add(&c, 8, 8 * 200);
	assert_float_equal(guard_cost_factor(&c, 20, INFINITY), 1, 0);
	guard_cost_add(&c, 92, 92 * 200);
	assert_float_equal(guard_cost_factor(&c, 20, INFINITY), 10, 1e-9);
	assert_float_equal(guard_cost_factor(&c, 400, INFINITY), 1, 0);
	double far = guard_cost_factor(&c, 20, 100e3), near = guard_cost_factor(&c, 20, 100); /* a thousand a second; ten million: they keep it warm themselves */
	assert_true(far > 9 && far < 10 && near > 1 && near < 1.3);
	for (int i = 0; i < 100; i++) /* what the service does has changed: after some hundred events that is what counts */
		guard_cost_add(&c, 20, 20 * 40);
	assert_float_equal(guard_cost_factor(&c, 20, INFINITY), 2, .1);
	guard_cost_add(&c, 1e6, 1e6 * 60);
	assert_float_equal(guard_cost_factor(&c, 20, INFINITY), 3, 1e-3);
	struct guard_cost was = c;
	guard_cost_add(&c, -5, 10); /* the numbers are the traced process's */
	guard_cost_add(&c, 5, -10);
	guard_cost_add(&c, NAN, NAN);
	assert_memory_equal(&c, &was, sizeof c);
	guard_cost_add(&c, 1000, 1e18);
	assert_float_equal(guard_cost_factor(&c, 20, INFINITY), 100, 0);
}

static void a_host_without_idle_time_is_saturated_until_it_clearly_is_not(void **state)
{
	(void)state;
	assert_true(guard_saturated(false, .01, .9));
	assert_false(guard_saturated(false, .01, .2)); /* busy, but nobody waits */
	assert_false(guard_saturated(false, .05, -1));
	assert_true(guard_saturated(true, .05, -1));
	assert_false(guard_saturated(true, .2, -1));
}

/* A service that is always twice as busy as when it was last looked at; one whose load has changed once; one whose load is anybody's guess. */
static void predictions_learn_what_is_always_off_and_nothing_else(void **state)
{
	(void)state;
	struct guard_bias twice = { 0 }, once = { 0 }, noise = { 0 };
	for (int i = 0; i < 8; i++)
		guard_bias_learn(&twice, 100, 200);
	assert_true(guard_bias_factor(&twice) > 1.8 && guard_bias_factor(&twice) <= 2);
	guard_bias_learn(&once, 100, 400);
	assert_true(guard_bias_factor(&once) == 1); /* the next prediction rests on 400 */
	guard_bias_learn(&once, 400, 400);
	assert_true(guard_bias_factor(&once) == 1);
	uint64_t x = 5;
	for (int i = 0; i < 1000; i++) {
		guard_bias_learn(&noise, 100, kw_mix(x += 77) & 1 ? 50 : 200);
		assert_true(guard_bias_factor(&noise) <= 2 && guard_bias_factor(&noise) >= .5);
	}
	guard_bias_learn(&once, 0, 5); /* nothing was predicted: nothing to learn */
	assert_true(guard_bias_factor(&once) == 1);
}

/* ---- rates -------------------------------------------------------------------------------------------------------------------------- */

static uint64_t seed;
static double uniform(void) { return (double)(kw_mix(seed += 0x9e3779b97f4a7c15ull) >> 11) * 0x1p-53; }

static void every_operation_gets_its_floor_and_all_share_the_rest(void **state)
{
	(void)state;
	struct rate_op op[] = { { .per_s = 10000, .floor_per_s = .1, .spans = 3, .most = 1 }, { .per_s = 500, .floor_per_s = .1, .spans = 3, .most = 1 },
		{ .per_s = .02, .floor_per_s = .1, .spans = 3, .most = 1 }, { .per_s = 1, .floor_per_s = .1, .spans = 3, .most = 1 } };
	rate_solve(op, 4, 300);
	double kept = 0;
	for (int i = 0; i < 4; i++)
		kept += op[i].per_s * op[i].spans * op[i].share;
	assert_true(fabs(kept - 300) < 1);
	assert_true(op[2].share == 1);
	assert_true(op[3].share >= .0999);
	assert_true(fabs(op[0].share - op[1].share) < 1e-9);
	rate_solve(op, 4, 1e9);
	assert_true(op[0].share == 1);
	op[0].most = .25; /* a rule's keep still bounds it */
	rate_solve(op, 4, 1e9);
	assert_true(op[0].share == .25);
}

/* Ten minutes of traffic whose volume jumps tenfold and back: spans kept a second, worst share of an operation that is called every ten seconds. */
static void a_rate_is_kept_through_jumps_and_rare_operations_do_not_starve(void **state)
{
	(void)state;
	seed = 4711;
	double offered[3] = { 0 }, kept_per_s[3] = { 0 }, share[3] = { 0 }, rare_calls = 0, rare_kept = 0, sum = 0, worst = 0;
	bool rated[3] = { false };
	const double target = 50, dt = .25;
	for (int t = 0; t < 2400; t++) {
		double base = t >= 800 && t < 1600 ? 20000 : 2000, calls[3] = { base, base / 40, .1 }, second = 0;
		struct rate_op op[3];
		for (int i = 0; i < 3; i++) {
			double keep = share[i] > 0 ? share[i] : 1, n = floor(calls[i] * dt + uniform()), k = 0;
			for (int c = 0; c < n; c++)
				k += uniform() < keep;
			offered[i] = rate_smooth(offered[i], rated[i], k / keep, kept_per_s[i], dt);
			kept_per_s[i] = rate_smooth(kept_per_s[i], rated[i], k, kept_per_s[i], dt);
			rated[i] |= k > 0;
			op[i] = (struct rate_op){ .per_s = offered[i], .floor_per_s = .1, .spans = 1, .most = 1 };
			second += k;
			if (i == 2)
				rare_calls += n, rare_kept += k;
		}
		rate_solve(op, 3, target);
		for (int i = 0; i < 3; i++)
			share[i] = rated[i] ? rate_step(share[i], op[i].share) : 0;
		bool settled = (t > 80 && t < 800) || (t > 880 && t < 1600) || t > 1680;
		sum += settled ? second : 0;
		worst = settled && second / dt > worst ? second / dt : worst;
	}
	double mean = sum / dt / (2400 - 81 - 81 - 81);
	assert_true(mean * dt > 0.85 * target * dt && mean * dt < 1.15 * target * dt);
	assert_true(worst < 4 * target);
	assert_true(rare_calls > 30 && rare_kept > .5 * rare_calls); /* 60 calls in ten minutes; its floor asks for all of them */
}

/* ---- estimates stay unbiased -------------------------------------------------------------------------------------------------------------- */

#define TRACES 200000u
#define NAMES 3

struct truth { double calls[NAMES], errors[NAMES], total[NAMES], total_sigma2[NAMES], calls_sigma2[NAMES]; int64_t *durations; uint32_t n; };

static int by_value(const void *a, const void *b) { return *(const int64_t *)a < *(const int64_t *)b ? -1 : *(const int64_t *)a > *(const int64_t *)b; }

static double within(double estimate, double truth, double sigma2) { return fabs(estimate - truth) / sqrt(sigma2 > 0 ? sigma2 : 1e-9); }

/* Traces of a root and 0 to 2 children pass the real threshold of a site whose share changes on the way, as PROBE's decision and a CTX record have it; every aggregate
 * that is shown is then compared with what really happened. */
static void what_is_shown_stays_unbiased_when_the_rate_changes(void **state)
{
	(void)state;
	static const char *const name[NAMES] = { "root", "child", "rare" };
	static const double keep[] = { 1, .1, .003, .25 };
	seed = 20261123;
	struct agent a = { 0 };
	struct process p = { .agent = &a };
	struct site s = { .level = KW_SPAN }, stat = { 0 };
	struct truth truth = { .durations = base_calloc(TRACES, sizeof(int64_t)) };
	struct hot *h = hot_create(NULL), *tree = hot_create(&(struct hot_config){ .no_attrs = true });
	struct heatmap map;
	assert_int_equal(heatmap_init(&map, 0, (int64_t)TRACES * 1000000, 50), 0);
	struct batch *b = batch_create();
	batch_add_resource(b, &(struct resource){ .service = batch_str(b, STR("shop")) });
	uint64_t id = 1, kept = 0;
	for (uint32_t t = 0; t < TRACES; t++) {
		double k = keep[t / (TRACES / 4)];
		s.keep = k;
		site_threshold(&s);
		uint32_t th24 = (uint32_t)(s.threshold >> 32); /* what a record carries */
		uint64_t lo = kw_mix(seed += 0x9e3779b97f4a7c15ull);
		bool keeps = (lo & 0xffffffffffffffull) >= s.threshold;
		double w2 = (1 - k) / k; /* variance of what one trace adds, over its square */
		uint64_t root = id;
		uint32_t spans = 1 + (uniform() < .5) + (uniform() < .01);
		kept += keeps;
		for (uint32_t i = 0; i < spans; i++, id++) {
			int op = i == 0 ? 0 : i == 1 ? 1 : 2;
			bool error = uniform() < .02;
			int64_t duration = (int64_t)(1e6 * exp(uniform() * 3)) / (i + 1);
			truth.calls[op]++;
			truth.errors[op] += error;
			truth.total[op] += (double)duration;
			truth.calls_sigma2[op] += w2;
			truth.total_sigma2[op] += w2 * (double)duration * (double)duration;
			if (op == 0)
				truth.durations[truth.n++] = duration;
			if (!keeps)
				continue;
			struct span *x = batch_add_span(b);
			*x = (struct span){ .trace_hi = 1, .trace_lo = lo, .span_id = id, .parent_id = i ? root : 0, .start_ns = (int64_t)t * 1000000,
				.duration_ns = duration, .threshold = (uint64_t)th24 << 32, .name = batch_str(b, str_of(name[op])),
				.status = error ? STATUS_ERROR : STATUS_UNSET };
			if (op == 0)
				stat_span(&p, &stat, 100 + t * 10 / TRACES, (uint64_t)duration, error, (uint64_t)duration, true, span_adjusted_count(x));
		}
	}
	for (uint32_t i = 0; i < b->n; i++) {
		hot_visit(h, b, i);
		hot_visit(tree, b, i);
		heatmap_visit(&map, b, i);
	}
	assert_true(kept < TRACES / 2);
	struct hot_result *r = hot_finish(h);
	assert_int_equal(r->operations, NAMES);
	qsort(truth.durations, truth.n, sizeof(int64_t), by_value);
	for (uint32_t k = 0; k < r->rows_n; k++) {
		const struct hot_row *row = &r->rows[k];
		int op = str_is(row->name, "root") ? 0 : str_is(row->name, "child") ? 1 : 2;
		assert_true(within(row->calls, truth.calls[op], truth.calls_sigma2[op]) < 4);
		assert_true(within(row->errors, truth.errors[op], truth.calls_sigma2[op] * .02) < 4);
		assert_true(within(row->total_ns, truth.total[op], truth.total_sigma2[op]) < 4);
		if (op == 0) { /* the share of real calls below the median that is shown */
			const double q[] = { .5, .99 }, shown[] = { row->p50_ns, row->p99_ns };
			for (int i = 0; i < 2; i++) {
				uint32_t below = 0;
				while (below < truth.n && (double)truth.durations[below] <= shown[i])
					below++;
				double sigma = sqrt(truth.calls_sigma2[0] * q[i] * (1 - q[i])) / truth.n;
				assert_true(fabs((double)below / truth.n - q[i]) < 4 * sigma + .01); /* and a bucket's width */
			}
		}
	}
	hot_result_destroy(r);

	double cells = 0, cell_errors = 0;
	for (uint32_t i = 0; i < map.columns * HEATMAP_ROWS; i++) {
		cells += map.cells[i].count;
		cell_errors += map.cells[i].errors;
	}
	double all = truth.calls[0] + truth.calls[1] + truth.calls[2], errors = truth.errors[0] + truth.errors[1] + truth.errors[2];
	double spans2 = truth.calls_sigma2[0] + truth.calls_sigma2[1] + truth.calls_sigma2[2], sigma2 = 2 * spans2; /* spans of a trace come and go together */
	assert_true(within(cells, all, sigma2) < 4);
	assert_true(within(cell_errors, errors, spans2 * .02 * 1.03) < 4); /* two errors in a trace are rare */
	heatmap_finish(&map);

	struct callgraph *g = callgraph_finish(tree, &(struct callgraph_config){ .min_share = -1 });
	assert_true(within(g->nodes[0].calls, truth.calls[0], truth.calls_sigma2[0]) < 4);
	for (uint32_t i = 1; i < g->n; i++)
		if (str_is(g->nodes[i].name, "child"))
			assert_true(within(g->nodes[i].calls, truth.calls[1], truth.calls_sigma2[1]) < 4);
	callgraph_destroy(g);

	/* The agent's own statistics, and its histograms' whole numbers. */
	assert_true(within(stat_calls(&stat, 0), truth.calls[0], truth.calls_sigma2[0]) < 4);
	double in_buckets = 0;
	for (int t = 0; t < STAT_HISTS; t++)
		for (uint32_t i = 0; stat.stat->h[t].bucket && i < KW_BUCKETS; i++)
			in_buckets += stat.stat->h[t].bucket[i];
	assert_true(fabs(in_buckets - stat_calls(&stat, 0)) < STAT_HISTS);
	stat_free(&a, &stat);
	batch_destroy(b);
	free(truth.durations);
}

/* The threshold that decides is the one that a record can carry, whatever the share: else small ones would be off by what is cut. */
static void thresholds_are_what_records_carry(void **state)
{
	(void)state;
	const double keep[] = { 1, .999999, .5, .1, 1e-3, 1e-5, 1e-6, 1e-7 };
	for (size_t i = 0; i < sizeof keep / sizeof *keep; i++) {
		struct site s = { .keep = keep[i] };
		site_threshold(&s);
		assert_int_equal(s.threshold & 0xffffffffull, 0);
		struct span x = { .threshold = s.threshold };
		double share = 1 - ldexp((double)s.threshold, -56);
		assert_true(fabs(span_adjusted_count(&x) * share - 1) < 1e-9);
		assert_true(share >= keep[i] - 1e-12 && share <= keep[i] + 0x1p-24 + 1e-12);
	}
	struct site none = { .keep = 0 };
	site_threshold(&none);
	assert_true(none.threshold == UINT64_MAX);
	struct site paced = { .keep = .01, .rate = 5, .rate_keep = 1, .adaptive = .25 };
	site_threshold(&paced);
	assert_true(fabs(1 - ldexp((double)paced.threshold, -56) - .25) < 1e-6);
	paced.ceiling = .125;
	site_threshold(&paced);
	assert_true(fabs(1 - ldexp((double)paced.threshold, -56) - .125) < 1e-6);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_dearest_gives_way_and_no_more_than_it_takes), cmocka_unit_test(many_go_at_once_when_far_over),
		cmocka_unit_test(what_comes_back_fits), cmocka_unit_test(a_storm_does_not_make_it_flap),
		cmocka_unit_test(backoff_doubles_while_it_keeps_coming_back), cmocka_unit_test(a_little_over_must_last_a_lot_over_must_not), cmocka_unit_test(hits_cost_what_was_timed),
		cmocka_unit_test(a_host_without_idle_time_is_saturated_until_it_clearly_is_not), cmocka_unit_test(predictions_learn_what_is_always_off_and_nothing_else),
		cmocka_unit_test(every_operation_gets_its_floor_and_all_share_the_rest),
		cmocka_unit_test(a_rate_is_kept_through_jumps_and_rare_operations_do_not_starve),
		cmocka_unit_test(what_is_shown_stays_unbiased_when_the_rate_changes), cmocka_unit_test(thresholds_are_what_records_carry),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
