/* Hotspots, their findings, and the heatmap, on constructed traces: each detector with a case that has the pattern and one that has not. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include "analyze/heatmap.h"
#include "analyze/histogram.h"
#include "analyze/hot.h"
#include <stdlib.h>

#define US 1000ll
#define MS 1000000ll

/* ---- traces ------------------------------------------------------------------------------------------------------------ */

static struct batch *b;
static uint64_t next_id;

static void begin(void)
{
	b = batch_create();
	batch_add_resource(b, &(struct resource){ .service = batch_str(b, STR("shop")) });
	next_id = 1;
}

/* Returns the span's id; its index is id - 1. */
static uint64_t add(uint64_t trace, uint64_t parent, const char *name, int64_t start, int64_t duration, enum span_kind kind, bool error)
{
	uint32_t n = batch_str(b, str_of(name));
	*batch_add_span(b) = (struct span){ .trace_hi = 1, .trace_lo = trace, .span_id = next_id, .parent_id = parent, .start_ns = start, .duration_ns = duration,
		.name = n, .kind = (uint8_t)kind, .status = error ? STATUS_ERROR : STATUS_UNSET };
	return next_id++;
}

static void attr(uint64_t span, const char *key, const char *text, int64_t number)
{
	struct attr a = { .key = batch_str(b, str_of(key)), .type = text ? ATTR_STR : ATTR_INT, .i = number };
	if (text)
		a.s = batch_str(b, str_of(text));
	struct span *s = b->spans + span - 1;
	uint32_t at = (uint32_t)(batch_add_attrs(b, s->attrs.n + 1) - b->attrs);
	memcpy(b->attrs + at, b->attrs + s->attrs.off, s->attrs.n * sizeof a);
	b->attrs[at + s->attrs.n] = a;
	s->attrs = (struct attr_range){ at, s->attrs.n + 1 };
}

static struct hot_result *finish_with(const struct hot_config *c)
{
	struct hot *h = hot_create(c);
	for (uint32_t i = 0; i < b->n; i++)
		assert_int_equal(hot_visit(h, b, i), 0);
	struct hot_result *r = hot_finish(h);
	batch_destroy(b);
	return r;
}
static struct hot_result *finish(void) { return finish_with(NULL); }

static const struct hot_row *row(const struct hot_result *r, const char *name)
{
	for (uint32_t i = 0; i < r->rows_n; i++)
		if (str_is(r->rows[i].name, name))
			return r->rows + i;
	fail_msg("no row %s", name);
	return NULL;
}

static const char *found(const struct hot_result *r, const char *name, const char *kind)
{
	const struct hot_row *w = row(r, name);
	for (uint32_t i = 0; i < w->findings_n; i++)
		if (!strcmp(w->findings[i].kind, kind))
			return w->findings[i].text;
	return NULL;
}

static uint32_t findings(const struct hot_result *r)
{
	uint32_t n = 0;
	for (uint32_t i = 0; i < r->rows_n; i++)
		n += r->rows[i].findings_n;
	return n;
}

/* ---- sums --------------------------------------------------------------------------------------------------------------- */

/* Self time: children that overlap count once, what sticks out of the parent not at all. */
static void hot_self_time(void **state)
{
	begin();
	uint64_t p = add(1, 0, "parent", 1000, 100, KIND_SERVER, false);
	add(1, p, "a", 1010, 30, KIND_INTERNAL, false);  /* 1010..1040 */
	add(1, p, "b", 1030, 30, KIND_INTERNAL, false);  /* overlaps: 1040..1060 */
	add(1, p, "c", 1090, 50, KIND_INTERNAL, true);   /* sticks out: 1090..1100 */
	add(1, p, "d", 900, 50, KIND_INTERNAL, false);   /* before: nothing */
	uint64_t q = add(2, 0, "parent", 5000, 300, KIND_SERVER, true);
	add(2, q, "a", 5000, 300, KIND_INTERNAL, false);
	add(3, 77, "orphan", 5000, 10, KIND_INTERNAL, false);
	add(3, next_id, "own parent", 5000, 10, KIND_INTERNAL, false);
	struct hot_result *r = finish();
	const struct hot_row *w = row(r, "parent");
	assert_true(w->self_ns == 40 && w->total_ns == 400 && w->calls == 2 && w->errors == 1 && w->max_ns == 300 && w->mean_ns == 200);
	assert_true(w->spans_per_trace == 1 && w->trace_lo == 2 && w->trace_hi == 1);
	assert_true(row(r, "a")->self_ns == 330 && row(r, "c")->self_ns == 50 && row(r, "c")->errors == 1);
	assert_true(row(r, "orphan")->self_ns == 10 && row(r, "own parent")->self_ns == 10);
	assert_true(r->traces == 3 && r->spans == 9 && r->window_ns == 4400 && r->kept == 1 && r->operations == 7);
	double share = 0;
	for (uint32_t i = 0; i < r->rows_n; i++) {
		share += r->rows[i].self_share;
		assert_true(i == 0 || r->rows[i].self_ns <= r->rows[i - 1].self_ns);
	}
	assert_true(share > .999 && share < 1.001);
	hot_result_destroy(r);
}

static void hot_filter_and_sampling(void **state)
{
	struct traceql *q;
	struct err e;
	assert_int_equal(traceql_parse(STR("{ name = \"parent\" }"), &q, &e), 0);
	begin();
	uint64_t p = add(1, 0, "parent", 0, 100, KIND_SERVER, false);
	add(1, p, "child", 0, 60, KIND_INTERNAL, false);
	b->spans[0].threshold = b->spans[1].threshold = 3ull << 54; /* three of four rejected: each stands for four */
	struct hot_result *r = finish_with(&(struct hot_config){ .q = q });
	assert_int_equal(r->rows_n, 1);
	assert_true(r->rows[0].calls == 4 && r->rows[0].self_ns == 160 && r->rows[0].total_ns == 400); /* the child was still taken out */
	hot_result_destroy(r);
	traceql_destroy(q);
	begin();
	r = finish();
	assert_true(r->rows_n == 0 && r->traces == 0 && r->window_ns == 0);
	struct buf json = { 0 };
	hot_render_json(r, &json);
	assert_true(str_is(buf_str(&json), "{\"rows\":[],\"operations\":0,\"traces\":0,\"spans\":0,\"skipped\":0,\"kept\":1,\"window_nano\":0}"));
	buf_finish(&json);
	hot_result_destroy(r);
}

/* Ten times more spans than may be held: whole traces are dropped, what is left stands for all. */
static void hot_bounded(void **state)
{
	begin();
	for (uint64_t t = 1; t <= 10000; t++) {
		uint64_t p = add(t, 0, "parent", (int64_t)t * 1000, 100, KIND_SERVER, false);
		add(t, p, "child", (int64_t)t * 1000, 60, KIND_INTERNAL, false);
	}
	struct hot_result *r = finish_with(&(struct hot_config){ .max_spans = 2000 });
	const struct hot_row *w = row(r, "parent");
	assert_true(r->kept < .2 && r->skipped == 0 && r->spans == 20000 && r->traces > 9800 && r->traces < 10200);
	assert_true(w->calls > 8000 && w->calls < 12000 && w->self_ns == w->calls * 40); /* no child lost its parent */
	hot_result_destroy(r);
	begin();
	for (int i = 0; i < 5000; i++)
		add(1, 0, "one trace", i, 1, KIND_SERVER, false);
	r = finish_with(&(struct hot_config){ .max_spans = 1000 });
	assert_true(r->spans == 5000 && r->skipped == 4000 && row(r, "one trace")->calls >= 1000); /* nothing is lost without a count */
	hot_result_destroy(r);
}

static void hot_hostile_numbers(void **state)
{
	begin();
	uint64_t p = add(1, 0, "x", INT64_MAX - 5, INT64_MAX, KIND_SERVER, false);
	add(1, p, "x", INT64_MIN, INT64_MAX, KIND_SERVER, false);
	add(1, p, "queue", INT64_MIN, -5, KIND_SERVER, false);
	for (int i = 0; i < 40; i++) {
		uint64_t s = add(1, p, "queue", i % 2 ? INT64_MAX : INT64_MIN, INT64_MAX, KIND_CLIENT, true);
		attr(s, "klieg.cpu_nano", NULL, INT64_MAX);
		attr(s, "klieg.off_cpu_nano", NULL, INT64_MAX);
		attr(s, "queue.depth", NULL, INT64_MIN);
		attr(s, "k\"\xff", "v\x01\xff", 0);
	}
	struct hot_result *r = finish();
	struct buf json = { 0 };
	hot_render_json(r, &json);
	assert_true(str_utf8_valid(buf_str(&json)));
	buf_finish(&json);
	hot_result_destroy(r);
}

/* ---- detectors ------------------------------------------------------------------------------------------------------------ */

static void hot_finds_n_plus_one(void **state)
{
	for (int parallel = 0; parallel < 2; parallel++) {
		begin();
		for (uint64_t t = 1; t <= 5; t++) {
			uint64_t p = add(t, 0, "cart.load", 0, 100 * MS, KIND_SERVER, false);
			for (int i = 0; i < 42; i++)
				add(t, p, "db.query", parallel ? 0 : i * 2 * MS, 2 * MS, KIND_CLIENT, false);
		}
		struct hot_result *r = finish();
		const char *text = found(r, "db.query", "n+1");
		if (parallel)
			assert_null(text);
		else
			assert_non_null(strstr(text, "db.query 42x per cart.load"));
		hot_result_destroy(r);
	}
	begin(); /* seven are no loop */
	uint64_t p = add(1, 0, "cart.load", 0, 100 * MS, KIND_SERVER, false);
	for (int i = 0; i < 7; i++)
		add(1, p, "db.query", i * 2 * MS, 2 * MS, KIND_CLIENT, false);
	struct hot_result *r = finish();
	assert_int_equal(findings(r), 0);
	hot_result_destroy(r);
}

static void hot_finds_retries(void **state)
{
	for (int failing = 0; failing < 2; failing++) {
		begin();
		for (uint64_t t = 1; t <= 4; t++) {
			uint64_t p = add(t, 0, "inventory.reserve", 0, 30 * MS, KIND_INTERNAL, false);
			for (int i = 0; i < 5; i++)
				add(t, p, "http.call", i * 5 * MS, 4 * MS, KIND_CLIENT, failing && i < 4);
		}
		struct hot_result *r = finish();
		const char *text = found(r, "http.call", "retry");
		assert_int_equal(text != NULL, failing);
		assert_true(!text || strstr(text, "http.call tried 5x per inventory.reserve, 80% of the tries failed"));
		assert_null(found(r, "http.call", "n+1"));
		hot_result_destroy(r);
	}
}

static void hot_finds_locks_and_waits(void **state)
{
	begin();
	for (uint64_t t = 1; t <= 30; t++) {
		uint64_t p = add(t, 0, "book", 0, 20 * MS, KIND_SERVER, false);
		add(t, p, "ledger.lock", 0, 8 * MS, KIND_INTERNAL, false);         /* by its name */
		uint64_t held = add(t, p, "guard", 8 * MS, 4 * MS, KIND_INTERNAL, false);
		attr(held, "thread.lock.name", "ledger", 0);                       /* by its attribute */
		uint64_t io = add(t, p, "disk.read", 12 * MS, 4 * MS, KIND_INTERNAL, false);
		attr(io, "klieg.off_cpu_nano", NULL, 3500 * US);
		uint64_t cpu = add(t, p, "crunch", 16 * MS, 4 * MS, KIND_INTERNAL, false);
		attr(cpu, "klieg.cpu_nano", NULL, 3900 * US);
		attr(add(t + 100, 0, "block.clock", 0, 2 * MS, KIND_INTERNAL, false), "klieg.cpu_nano", NULL, 1900 * US); /* no lock in these words */
		attr(add(t + 200, 0, "call", 0, 2 * MS, KIND_CLIENT, false), "klieg.cpu_nano", NULL, 1); /* waiting is a client's work */
	}
	struct hot_result *r = finish();
	assert_non_null(strstr(found(r, "ledger.lock", "lock"), "ledger.lock waits 8 ms on average"));
	assert_non_null(found(r, "guard", "lock"));
	assert_non_null(strstr(found(r, "disk.read", "wait"), "off the CPU for 88% of its own time"));
	assert_int_equal(findings(r), 3);
	hot_result_destroy(r);
	begin(); /* a lock nobody holds takes no time */
	for (uint64_t t = 1; t <= 30; t++)
		add(t, 0, "ledger.lock", 0, 2 * US, KIND_INTERNAL, false);
	r = finish();
	assert_int_equal(findings(r), 0);
	hot_result_destroy(r);
}

static void hot_finds_the_outlier(void **state)
{
	static const char *const tenants[] = { "1", "2", "3", "4", "5", "6", "7", "8" };
	for (int slow = 0; slow < 2; slow++) {
		begin();
		for (uint64_t t = 1; t <= 400; t++) {
			const char *tenant = tenants[t % 8];
			int64_t d = slow && !strcmp(tenant, "7") ? 15 * MS : 1 * MS;
			uint64_t p = add(t, 0, "charge", 0, d + MS, KIND_SERVER, false), s = add(t, p, "fraud.score", 0, d, KIND_INTERNAL, false);
			attr(p, "tenant", tenant, 0);
			attr(s, "tenant", tenant, 0);
			attr(s, "cell", t % 2 ? "a" : "b", 0);
			attr(s, "thread.id", NULL, (int64_t)(t % 8));
		}
		struct hot_result *r = finish();
		const char *text = found(r, "fraud.score", "outlier");
		assert_int_equal(text != NULL, slow);
		assert_true(!text || strstr(text, "tenant=7 stands out: median 15"));
		assert_null(found(r, "charge", "outlier")); /* its own time is the same for all */
		hot_result_destroy(r);
	}
	begin(); /* three slow spans are no pattern */
	for (uint64_t t = 1; t <= 100; t++)
		attr(add(t, 0, "fraud.score", 0, t <= 3 ? 50 * MS : MS, KIND_INTERNAL, false), "tenant", t <= 3 ? "7" : "1", 0);
	struct hot_result *r = finish();
	assert_int_equal(findings(r), 0);
	hot_result_destroy(r);
}

static void hot_finds_queues(void **state)
{
	for (int kind = 0; kind < 4; kind++) { /* 0 steady, 1 waits longer and longer, 2 deeper and deeper, 3 full */
		begin();
		for (uint64_t t = 0; t < 90; t++) {
			int64_t start = (int64_t)t * 10 * MS, wait = kind == 1 ? (int64_t)t * MS : kind == 3 ? 8 * MS : 100 * US;
			uint64_t p = add(t + 1, 0, "reserve", start, wait + MS, KIND_SERVER, false), q = add(t + 1, p, "reserve.queue", start, wait, KIND_INTERNAL, false);
			attr(q, "queue.depth", NULL, kind == 2 ? (int64_t)t : 1);
		}
		struct hot_result *r = finish();
		const char *text = found(r, "reserve.queue", "queue");
		if (kind == 0)
			assert_null(text);
		else
			assert_non_null(strstr(text, kind == 1 ? "builds up: reserve.queue waited" : kind == 2 ? "deep at first" : "queue is full"));
		hot_result_destroy(r);
	}
}

/* ---- histogram, heatmap ---------------------------------------------------------------------------------------------------- */

static void histogram_quantiles(void **state)
{
	struct histogram *h = calloc(1, sizeof *h);
	assert_true(histogram_quantile(h, .5) == 0);
	for (int round = 0; round < 2; round++) {
		for (int64_t i = 1; i <= 10000; i++)
			histogram_add(h, i * 1000, 1);
		for (double q = .01; q < 1; q += .01) {
			double got = histogram_quantile(h, q), want = q * 1e7;
			assert_true(got > want * .99 && got < want * 1.01 + 1000);
		}
		histogram_reset(h);
	}
	histogram_add(h, INT64_MAX, 1);
	histogram_add(h, -1, 1);
	assert_true(histogram_quantile(h, .5) == 0 && histogram_quantile(h, 1) > 9e18);
	for (uint64_t v = 1; v < 1ull << 62; v = v * 3 / 2 + 1)
		assert_true(histogram_bucket(v) < HISTOGRAM_BUCKETS && histogram_bucket(v) >= histogram_bucket(v - 1));
	free(h);
}

static void heatmap_grid(void **state)
{
	struct heatmap m;
	assert_int_equal(heatmap_init(&m, 10, 10, 4), KLIEG_E_USAGE);
	assert_int_equal(heatmap_init(&m, 0, 10, HEATMAP_COLUMNS_MAX + 1), KLIEG_E_USAGE);
	assert_int_equal(heatmap_init(&m, INT64_MIN, INT64_MAX, 4), KLIEG_E_USAGE);
	assert_int_equal(heatmap_init(&m, 1000, 1400, 4), 0);
	assert_int_equal(m.step_ns, 100);
	begin();
	add(1, 0, "x", 1000, 1 * MS, KIND_SERVER, false);
	add(2, 0, "x", 1099, 1 * MS + 10, KIND_SERVER, true);
	add(3, 0, "x", 1399, 3 * MS, KIND_SERVER, false);
	add(4, 0, "x", 1400, 3 * MS, KIND_SERVER, false); /* half-open: outside */
	add(5, 0, "x", 1200, INT64_MAX, KIND_SERVER, false);
	for (uint32_t i = 0; i < b->n; i++)
		heatmap_visit(&m, b, i);
	batch_destroy(b);
	assert_true(m.matched == 5 && m.outside == 1 && m.max == 2);
	double sum = 0;
	for (uint32_t c = 0; c < 4 * HEATMAP_ROWS; c++) {
		sum += m.cells[c].count;
		if (m.cells[c].count == 2)
			assert_true(c < HEATMAP_ROWS && m.cells[c].trace_lo == 2 && m.cells[c].errors == 1); /* the slower is the exemplar */
	}
	assert_true(sum == 4 && m.cells[2 * HEATMAP_ROWS + HEATMAP_ROWS - 1].count == 1);
	for (uint32_t k = 1; k < HEATMAP_ROWS; k++)
		assert_true(m.bounds_ns[k] > m.bounds_ns[k - 1]);
	struct buf json = { 0 };
	heatmap_render_json(&m, &json);
	buf_byte(&json, 0);
	assert_non_null(strstr((char *)json.p, "{\"from\":1000,\"to\":1400,\"step_nano\":100,\"bounds\":[1024000,"));
	assert_non_null(strstr((char *)json.p, "\"max\":2,\"matched\":5,\"exemplars\":[{\"column\":0,\"row\":0,\"trace_id\":\"00000000000000010000000000000002\""));
	buf_finish(&json);
	heatmap_finish(&m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(hot_self_time), cmocka_unit_test(hot_filter_and_sampling), cmocka_unit_test(hot_bounded), cmocka_unit_test(hot_hostile_numbers),
		cmocka_unit_test(hot_finds_n_plus_one), cmocka_unit_test(hot_finds_retries), cmocka_unit_test(hot_finds_locks_and_waits),
		cmocka_unit_test(hot_finds_the_outlier), cmocka_unit_test(hot_finds_queues), cmocka_unit_test(histogram_quantiles),
		cmocka_unit_test(heatmap_grid),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
