/* model: copying spans between batches, ids, durations, sizes, spans as JSON (read back by jansson). OTLP has its own file. */
#include "model/duration.h"
#include "model/span_json.h"
#include "base/err.h"
#include "batch_random.h"
#include <jansson.h>
#include <math.h>
#include <stdarg.h>
#include <setjmp.h>
#include <cmocka.h>

static void batch_copies(void **state)
{
	for (unsigned round = 0; round < 200; round++) {
		uint32_t n = rnd(30);
		struct batch *src = random_batch(n), *dst = random_batch(rnd(3)), *back = batch_create();
		uint32_t before = dst->n;
		for (uint32_t i = 0; i < n; i++)
			batch_copy_span(dst, src, i);
		assert_int_equal(dst->n, before + n);
		for (uint32_t i = 0; i < n; i++)
			assert_true(same_span(src, i, dst, before + i));
		for (uint32_t i = 0; i < n; i++)
			batch_copy_span(back, dst, before + i);
		batch_destroy(dst); /* the copy holds nothing of it */
		for (uint32_t i = 0; i < n; i++)
			assert_true(same_span(src, i, back, i));
		assert_true(back->resources_n <= src->resources_n && back->scopes_n <= src->scopes_n); /* deduplicated */
		batch_destroy(src);
		batch_destroy(back);
	}
	batch_destroy(NULL);
}

/* A batch that nests deeper than any reader admits is copied down to the bound; one that refers to itself ends too. */
static void batch_nesting_is_bounded(void **state)
{
	struct batch *b = batch_create(), *dst = batch_create();
	struct span s = { .span_id = 1, .trace_lo = 1, .attrs = { 0, 1 } };
	batch_add_attrs(b, 1);
	b->attrs[0] = (struct attr){ .type = ATTR_ARRAY, .list = { 0, 1 } };
	s.resource = batch_add_resource(b, &(struct resource){ .attrs = { 0, 1 } });
	s.scope = batch_add_scope(b, &(struct scope){ .attrs = { 0, 1 } });
	*batch_add_span(b) = s;
	batch_copy_span(dst, b, 0);
	batch_copy_span(dst, b, 0);
	assert_int_equal(dst->n, 2);
	assert_int_equal(dst->resources_n, 1);
	assert_true(dst->attrs_n < 200);
	batch_destroy(b);
	batch_destroy(dst);
}

static void batch_empty_ranges(void **state)
{
	struct batch *b = batch_create();
	batch_add_attrs(b, 0);
	assert_int_equal(b->attrs_n, 0);
	batch_add_attrs(b, 100)[99].i = 7;
	assert_int_equal(b->attrs_n, 100);
	assert_int_equal(b->attrs[0].i, 0);
	assert_null(batch_attr(b, (struct attr_range){ 0, 100 }, STR("absent")));
	b->attrs[50].key = batch_str(b, STR("here"));
	assert_ptr_equal(batch_attr(b, (struct attr_range){ 0, 100 }, STR("here")), b->attrs + 50);
	assert_null(batch_attr(b, (struct attr_range){ 0, 50 }, STR("here")));
	batch_destroy(b);
}

static void ids(void **state)
{
	uint64_t hi = 1, lo = 1, id = 1;
	char hex[33], shorter[17];
	for (unsigned i = 0; i < 1000; i++) {
		uint64_t h = random_u64() >> rnd(64), l = random_u64() >> rnd(64);
		trace_id_hex(h, l, hex);
		assert_int_equal(strlen(hex), 32);
		assert_int_equal(trace_id_parse(str_of(hex), &hi, &lo), 0);
		assert_true(hi == h && lo == l);
		span_id_hex(l, shorter);
		assert_int_equal(span_id_parse(str_of(shorter), &id), 0);
		assert_true(id == l);
	}
	assert_int_equal(trace_id_parse(STR("Ab"), &hi, &lo), 0);
	assert_true(hi == 0 && lo == 0xab);
	static const char *const bad[] = { "", "g", " 1", "0x1", "00000000000000000000000000000000a", "1-" };
	for (unsigned i = 0; i < sizeof bad / sizeof *bad; i++)
		assert_int_equal(trace_id_parse(str_of(bad[i]), &hi, &lo), KLIEG_E_SYNTAX);
	assert_int_equal(span_id_parse(STR("00000000000000001"), &id), KLIEG_E_SYNTAX);
	assert_true(lo == 0xab); /* outputs untouched */
}

static void durations(void **state)
{
	static const struct { const char *s; int64_t ns; } good[] = { { "0s", 0 }, { "1ns", 1 }, { "250ms", 250000000 }, { "1.5s", 1500000000 },
		{ "1h30m", 5400000000000 },
		{ "7d", 604800000000000 }, { "2w", 1209600000000000 }, { "3us", 3000 }, { "3µs", 3000 }, { ".5s", 500000000 }, { "0.1s", 100000000 },
			{ "1.001s", 1001000000 },
		{ "9007199254740993ns", 9007199254740993 }, { "106751d", 9223286400000000000 } };
	static const char *const bad[] = { "", "s", "1", "1x", "-1s", "1s ", " 1s", "1.s.", "..s", "1e3s", "+1s", "1 s" };
	int64_t ns = -7;
	for (unsigned i = 0; i < sizeof good / sizeof *good; i++) {
		if (duration_parse(str_of(good[i].s), &ns) || ns != good[i].ns)
			fail_msg("%s: %" PRId64, good[i].s, ns);
	}
	ns = -7;
	for (unsigned i = 0; i < sizeof bad / sizeof *bad; i++)
		if (duration_parse(str_of(bad[i]), &ns) != KLIEG_E_SYNTAX)
			fail_msg("'%s' is a duration", bad[i]);
	assert_int_equal(duration_parse(STR("99999999w"), &ns), KLIEG_E_LIMIT);
	assert_int_equal(duration_parse(STR("106752d"), &ns), KLIEG_E_LIMIT);
	assert_true(ns == -7);
}

static void sizes(void **state)
{
	static const struct { const char *s; uint64_t n; } good[] = { { "0", 0 }, { "1000", 1000 }, { "1k", 1024 }, { "512M", 512ull << 20 }, { "10GiB", 10ull << 30 },
		{ "1.5KB", 1536 }, { "2tb", 2ull << 40 }, { "7B", 7 }, { "9007199254740993", 9007199254740993ull }, { "18446744073709551615", UINT64_MAX } };
	static const char *const bad[] = { "", "k", "1x", "-1", "1kk", "1iB", "1k i", "1 k", "1kBB" };
	uint64_t n = 7;
	for (unsigned i = 0; i < sizeof good / sizeof *good; i++) {
		if (size_parse(str_of(good[i].s), &n) || n != good[i].n)
			fail_msg("%s: %" PRIu64, good[i].s, n);
	}
	n = 7;
	for (unsigned i = 0; i < sizeof bad / sizeof *bad; i++)
		if (size_parse(str_of(bad[i]), &n) != KLIEG_E_SYNTAX)
			fail_msg("'%s' is a size", bad[i]);
	assert_int_equal(size_parse(STR("18446744073709551616"), &n), KLIEG_E_LIMIT);
	assert_int_equal(size_parse(STR("16777216T"), &n), KLIEG_E_LIMIT);
	assert_true(n == 7);
}

static json_t *parsed(const struct buf *b)
{
	json_error_t e;
	json_t *j = json_loadb((const char *)b->p, b->n, JSON_ALLOW_NUL, &e);
	if (!j)
		fail_msg("%s in %.*s", e.text, (int)b->n, (const char *)b->p);
	return j;
}

static void span_json_is_json(void **state)
{
	struct buf out = { 0 };
	for (unsigned round = 0; round < 100; round++) {
		struct batch *b = random_batch(5);
		for (uint32_t i = 0; i < b->n; i++) {
			for (int full = 0; full < 2; full++) {
				buf_clear(&out);
				span_json(b, i, full, &out);
				json_t *j = parsed(&out), *name = json_object_get(j, "name");
				struct str text = batch_text(b, b->spans[i].name);
				assert_true(str_eq((struct str){ json_string_value(name), json_string_length(name) }, text));
				char hex[33];
				trace_id_hex(b->spans[i].trace_hi, b->spans[i].trace_lo, hex);
				assert_string_equal(json_string_value(json_object_get(j, "trace_id")), hex);
				assert_true(json_integer_value(json_object_get(j, "duration_nano")) == b->spans[i].duration_ns);
				assert_int_equal(json_object_size(json_object_get(j, "attributes")), b->spans[i].attrs.n);
				for (uint32_t k = 0; k < b->spans[i].attrs.n; k++) {
					const struct attr *a = b->attrs + b->spans[i].attrs.off + k;
					struct str key = batch_text(b, a->key);
					json_t *v = json_object_getn(json_object_get(j, "attributes"), key.p, key.n);
					assert_non_null(v);
					if (a->type == ATTR_INT)
						assert_true(json_integer_value(v) == a->i);
					else if (a->type == ATTR_DOUBLE)
						assert_true(json_number_value(v) == a->d);
					else if (a->type == ATTR_STR)
						assert_true(str_eq((struct str){ json_string_value(v), json_string_length(v) }, batch_text(b, a->s)));
				}
				if (full)
					assert_int_equal(json_array_size(json_object_get(j, "events")), b->spans[i].events_n);
				json_decref(j);
			}
		}
		batch_destroy(b);
	}
	buf_finish(&out);
}

static void span_json_odd_values(void **state)
{
	struct batch *b = batch_create();
	struct attr *a = batch_add_attrs(b, 7);
	static const char *const keys[] = { "nan", "inf", "minus", "masked", "bytes", "bad\xff" "utf8", "none" };
	for (unsigned i = 0; i < 7; i++)
		a[i].key = batch_str(b, str_of(keys[i]));
	a[0].type = a[1].type = a[2].type = ATTR_DOUBLE;
	a[0].d = NAN;
	a[1].d = INFINITY;
	a[2].d = -INFINITY;
	a[3].type = ATTR_STR;
	a[3].flags = ATTR_MASKED;
	a[3].s = batch_str(b, STR("secret"));
	a[4].type = ATTR_BYTES;
	a[4].s = batch_str(b, (struct str){ "\x00\xff\x10\x80", 4 });
	a[5].type = ATTR_STR;
	a[5].s = batch_str(b, STR("\xc3\xa9" "\xc3" "x\xed\xa0\x80\xf0\x9f\x98\x80\xf0\x9f\x98"));
	*batch_add_span(b) = (struct span){ .span_id = 1, .trace_lo = 2, .attrs = { 0, 7 }, .kind = 200, .status = 200, .resource = 9, .scope = 9,
		.name = batch_str(b, (struct str){ "nul\0\x1f", 5 }) };
	struct buf out = { 0 };
	span_json(b, 0, true, &out);
	json_t *j = parsed(&out), *attrs = json_object_get(j, "attributes");
	assert_string_equal(json_string_value(json_object_get(attrs, "nan")), "NaN");
	assert_string_equal(json_string_value(json_object_get(attrs, "inf")), "Infinity");
	assert_string_equal(json_string_value(json_object_get(attrs, "minus")), "-Infinity");
	assert_true(json_is_true(json_object_get(json_object_get(attrs, "masked"), "masked")));
	assert_null(memmem(out.p, out.n, "secret", 6));
	assert_string_equal(json_string_value(json_object_get(attrs, "bytes")), "AP8QgA==");
	assert_string_equal(json_string_value(json_object_get(attrs, "bad\xef\xbf\xbdutf8")),
		"\xc3\xa9\xef\xbf\xbdx\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xf0\x9f\x98\x80\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd");
	assert_true(json_is_null(json_object_get(attrs, "none")));
	assert_int_equal(json_string_length(json_object_get(j, "name")), 5);
	assert_string_equal(json_string_value(json_object_get(j, "kind")), "unspecified");
	json_decref(j);
	buf_clear(&out);
	json_number(&out, NAN);
	buf_byte(&out, ' ');
	json_number(&out, 3);
	buf_byte(&out, ' ');
	json_number(&out, 0.1);
	buf_byte(&out, ' ');
	json_number(&out, 1e300);
	assert_true(str_is(buf_str(&out), "null 3 0.10000000000000001 1.0000000000000001e+300"));
	buf_finish(&out);
	batch_destroy(b);
}

/* Keep one in N: the count a span stands for, from the rejection threshold. */
static void adjusted_count(void **state)
{
	struct span s = { 0 };
	assert_true(span_adjusted_count(&s) == 1);
	s.threshold = 1ull << 55;
	assert_true(span_adjusted_count(&s) == 2);
	s.threshold = 0xc0000000000000ull;
	assert_true(span_adjusted_count(&s) == 4);
	s.threshold = UINT64_MAX; /* nothing reaches it: counts as itself, never as infinity */
	assert_true(span_adjusted_count(&s) == 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(batch_copies), cmocka_unit_test(batch_nesting_is_bounded), cmocka_unit_test(batch_empty_ranges), cmocka_unit_test(ids),
		cmocka_unit_test(durations), cmocka_unit_test(sizes), cmocka_unit_test(span_json_is_json), cmocka_unit_test(span_json_odd_values),
		cmocka_unit_test(adjusted_count),
	};
	return cmocka_run_group_tests_name("model", tests, NULL, NULL);
}
