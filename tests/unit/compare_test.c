/* src/server/compare.c with draws from distributions that are known: what is alike is not taken for harm, what is harm is. Seeded, so every run draws the same. */
#include "server/compare.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

enum { BREACHES = 3 };                   /* windows in a row, as rollout.c wants them */
static const struct compare_limits usual = { .overhead = 1, .slower = .2, .failing = .02 };

static uint64_t state_;
static uint64_t draw(void)               /* splitmix64 */
{
	uint64_t z = state_ += 0x9e3779b97f4a7c15ull;
	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ z >> 27) * 0x94d049bb133111ebull;
	return z ^ z >> 31;
}
static double uniform(void) { return ((double)(draw() >> 11) + .5) * 0x1p-53; }
static double normal(void) { return sqrt(-2 * log(uniform())) * cos(2 * M_PI * uniform()); }

/* A service's requests: two kinds, one ten times as slow, both with a long tail. */
struct traffic { double median_ns, sigma, slow_share, errors; int calls; };
static void serve(struct compare_group *g, const struct traffic *t, double times, double errors)
{
	*g = (struct compare_group){ .processes = 1, .overhead = .3 };
	for (int i = 0; i < t->calls; i++) {
		double ns = t->median_ns * exp(t->sigma * normal()) * (uniform() < t->slow_share ? 10 : 1) * times;
		g->bin[compare_bin(ns)]++;
		g->calls++;
		g->seen++;
		g->errors += uniform() < t->errors + errors;
	}
}

/* One rollout: some windows, each with the chance of a hiccup that hits only the canary. Windows until it is taken back, 0: it is not. */
struct world { struct traffic canary, rest; int windows; double harm, errors, hiccup, busier; };
static int rollout(const struct world *w, char *why, size_t n)
{
	static struct compare_group cb, rb, c, r;
	int bad = 0;
	serve(&cb, &w->canary, 1, 0);
	serve(&rb, &w->rest, 1, 0);
	for (int i = 1; i <= w->windows; i++) {
		double hiccup = uniform() < w->hiccup ? 3 : 1;
		serve(&c, &w->canary, w->harm * hiccup * w->busier, w->errors);
		serve(&r, &w->rest, w->busier, 0);
		bool alone = !w->rest.calls;
		bad = compare_groups(&c, alone ? NULL : &r, &cb, alone ? NULL : &rb, &usual, why, n) == COMPARE_BREACH ? bad + 1 : 0;
		if (bad == BREACHES)
			return i;
	}
	return 0;
}

static int taken_back(const struct world *w, int rollouts, int *ret_worst)
{
	char why[500];
	int n = 0;
	state_ = 20240;
	*ret_worst = 0;
	for (int i = 0; i < rollouts; i++) {
		int at = rollout(w, why, sizeof why);
		n += at > 0;
		*ret_worst = at > *ret_worst ? at : *ret_worst;
	}
	if (n && n < rollouts)
		print_message("[          ] %d of %d taken back, the last: %s\n", n, rollouts, why);
	return n;
}

#define STEADY { 8e6, .6, .05, .01, 400 }
static void what_is_alike_is_hardly_ever_taken_back(void **state)
{
	const struct world worlds[] = {
		{ STEADY, { 8e6, .6, .05, .01, 1200 }, 18, 1, 0, 0, 1 },                /* three steps of 30 s, in windows of 5 s */
		{ STEADY, STEADY, 18, 1, 0, .05, 1 },                                   /* a busy host: every twentieth window is a hiccup, three times as slow */
		{ { 8e6, .6, .05, .01, 110 }, { 8e6, .6, .05, .01, 110 }, 60, 1, 0, 0, 1 },     /* few requests, for long */
		{ STEADY, { 0 }, 18, 1, 0, 0, 1 },                                      /* a single process, against its past */
		{ { 12e6, .6, .05, .03, 400 }, { 8e6, .4, .05, .005, 1200 }, 18, 1, 0, 0, 1.8 }, /* always was worse than others, and all get busier */
		{ { 8e6, 1.2, .2, .002, 500 }, { 8e6, 1.2, .2, .002, 500 }, 18, 1, 0, 0, 1 },  /* a very long tail */
	};
	for (unsigned i = 0; i < sizeof worlds / sizeof *worlds; i++) {
		int worst, rollouts = 500, n = taken_back(&worlds[i], rollouts, &worst);
		if (n * 100 >= rollouts)
			fail_msg("world %u: %d of %d rollouts that did no harm were taken back", i, n, rollouts);
	}
}

static void harm_is_caught(void **state)
{
	const struct world worlds[] = {
		{ STEADY, { 8e6, .6, .05, .01, 1200 }, 18, 1.3, 0, 0, 1 },              /* 30 % slower: the smallest that is well over what is allowed */
		{ { 8e6, .6, .05, .01, 2000 }, { 8e6, .6, .05, .01, 6000 }, 6, 1.3, 0, 0, 1 },
		{ STEADY, { 8e6, .6, .05, .01, 1200 }, 18, 1, .05, 0, 1 },              /* 5 % of requests fail more than before */
		{ STEADY, { 0 }, 18, 1, .1, 0, 1 },
		{ STEADY, { 8e6, .6, .05, .01, 1200 }, 4, 2, 0, 0, 1 },                 /* twice as slow: at once */
		{ { 12e6, .6, .05, .03, 400 }, { 8e6, .4, .05, .005, 1200 }, 18, 1.5, 0, 0, 1.8 },
	};
	for (unsigned i = 0; i < sizeof worlds / sizeof *worlds; i++) {
		int worst, rollouts = 200, n = taken_back(&worlds[i], rollouts, &worst);
		if (n * 100 < rollouts * 90)
			fail_msg("world %u: harm was seen in %d of %d rollouts only", i, n, rollouts);
	}
}

/* A difference that is certain but small is nobody's business; one that is large but of a few requests is not known. */
static void both_material_and_significant(void **state)
{
	struct compare_group c, r, cb, rb;
	char why[500];
	const struct traffic many = { 8e6, .4, 0, 0, 50000 }, few = { 8e6, .4, 0, 0, 60 };
	state_ = 7;
	serve(&cb, &many, 1, 0), serve(&rb, &many, 1, 0), serve(&c, &many, 1.1, .01), serve(&r, &many, 1, 0);
	assert_int_equal(compare_groups(&c, &r, &cb, &rb, &usual, why, sizeof why), COMPARE_OK);
	serve(&c, &few, 4, .5), serve(&r, &many, 1, 0);
	assert_int_equal(compare_groups(&c, &r, &cb, &rb, &usual, why, sizeof why), COMPARE_TOO_FEW);
	assert_non_null(strstr(why, "60 requests of the canary"));
	serve(&c, &many, 1.5, 0);
	assert_int_equal(compare_groups(&c, &r, &cb, &rb, &usual, why, sizeof why), COMPARE_BREACH);
	assert_non_null(strstr(why, "slower"));
	assert_non_null(strstr(why, "50000"));   /* how many that rests on is said */
}

static void overhead_is_the_versions_only_if_the_rest_has_less(void **state)
{
	struct compare_group c, r, b;
	char why[500];
	const struct traffic t = STEADY;
	serve(&c, &t, 1, 0), serve(&r, &t, 1, 0), serve(&b, &t, 1, 0);
	c.overhead = 1.7;
	assert_int_equal(compare_groups(&c, &r, &b, &b, &usual, why, sizeof why), COMPARE_BREACH);
	assert_non_null(strstr(why, "1.70 %"));
	r.overhead = 1.6;
	assert_int_equal(compare_groups(&c, &r, &b, &b, &usual, why, sizeof why), COMPARE_OK);
	r.overhead = 0;
	const struct compare_limits none = { .slower = .2, .failing = .02 };
	assert_int_equal(compare_groups(&c, &r, &b, &b, &none, why, sizeof why), COMPARE_OK);
	c.seen = c.calls = 0;                    /* without a request the overhead still speaks */
	assert_int_equal(compare_groups(&c, &r, &b, &b, &usual, why, sizeof why), COMPARE_BREACH);
}

/* Alone on a host that has got busy: a tail that is five times as long, or all of it twice as slow, is not the version's; ten times as slow is. */
static void a_busy_host_is_not_the_version(void **state)
{
	struct compare_group c, b;
	char why[500];
	struct traffic calm = { 8e6, .4, 0, 0, 3000 }, tail = { 8e6, .4, .1, 0, 3000 };
	const struct compare_limits busy = { .overhead = 1, .busy = true, .slower = .2, .failing = .02 };
	state_ = 3;
	serve(&b, &calm, 1, 0), serve(&c, &tail, 1, 0);
	assert_int_equal(compare_groups(&c, NULL, &b, NULL, &usual, why, sizeof why), COMPARE_OK);
	serve(&c, &calm, 2, 0);
	assert_int_equal(compare_groups(&c, NULL, &b, NULL, &usual, why, sizeof why), COMPARE_BREACH);
	assert_int_equal(compare_groups(&c, NULL, &b, NULL, &busy, why, sizeof why), COMPARE_OK);
	serve(&c, &calm, 10, 0);
	assert_int_equal(compare_groups(&c, NULL, &b, NULL, &busy, why, sizeof why), COMPARE_BREACH);
	assert_non_null(strstr(why, "no CPU to spare"));
	serve(&c, &tail, 1, 0);                  /* who had to wait for a processor */
	assert_int_equal(compare_groups(&c, &b, &b, &b, &usual, why, sizeof why), COMPARE_BREACH);
	assert_int_equal(compare_groups(&c, &b, &b, &b, &busy, why, sizeof why), COMPARE_OK);
	serve(&c, &calm, 2, 0);                  /* the rest is there and is not slower: that is not the host */
	assert_int_equal(compare_groups(&c, &b, &b, &b, &busy, why, sizeof why), COMPARE_BREACH);
}

/* One in a hundred was kept: what counts is how many were looked at, not what they stand for. */
static void samples_are_not_more_than_they_are(void **state)
{
	struct compare_group c, r, b;
	char why[500];
	const struct traffic t = { 8e6, .6, 0, .02, 40 };
	serve(&c, &t, 3, .1), serve(&r, &t, 1, 0), serve(&b, &t, 1, 0);
	for (struct compare_group **g = (struct compare_group *[]){ &c, &r, &b, NULL }; *g; g++) {
		(*g)->calls *= 100;
		(*g)->errors *= 100;
		for (unsigned i = 0; i < COMPARE_BINS; i++)
			(*g)->bin[i] *= 100;
	}
	assert_int_equal(compare_groups(&c, &r, &b, &b, &usual, why, sizeof why), COMPARE_TOO_FEW);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(what_is_alike_is_hardly_ever_taken_back), cmocka_unit_test(harm_is_caught),
		cmocka_unit_test(both_material_and_significant), cmocka_unit_test(overhead_is_the_versions_only_if_the_rest_has_less),
		cmocka_unit_test(a_busy_host_is_not_the_version), cmocka_unit_test(samples_are_not_more_than_they_are) };
	return cmocka_run_group_tests_name("compare", tests, NULL, NULL);
}
