/* OTLP in protobuf and JSON: our codec against protobuf-c (tests/oracle/otlp.proto) both ways over random batches, JSON documents written by hand,
 * every truncation of a valid request, the limits. */
#include "model/otlp.h"
#include "batch_random.h"
#include "otlp.pb-c.h"
#include <math.h>
#include <stdarg.h>
#include <setjmp.h>
#include <cmocka.h>

static bool same_bytes(ProtobufCBinaryData d, uint64_t hi, uint64_t lo, bool wide)
{
	uint64_t v[2] = { __builtin_bswap64(hi), __builtin_bswap64(lo) };
	return d.len == (wide ? 16u : 8u) && !memcmp(d.data, wide ? v : v + 1, d.len);
}

static bool oracle_attrs(const struct batch *b, struct attr_range r, size_t n, Oracle__KeyValue **x);

static bool oracle_value(const struct batch *b, const struct attr *a, const Oracle__AnyValue *v)
{
	struct str s = batch_text(b, a->type == ATTR_STR || a->type == ATTR_BYTES ? a->s : 0);
	static const Oracle__AnyValue__ValueCase cases[] = { ORACLE__ANY_VALUE__VALUE__NOT_SET, ORACLE__ANY_VALUE__VALUE_STRING_VALUE, ORACLE__ANY_VALUE__VALUE_INT_VALUE,
		ORACLE__ANY_VALUE__VALUE_DOUBLE_VALUE, ORACLE__ANY_VALUE__VALUE_BOOL_VALUE, ORACLE__ANY_VALUE__VALUE_BYTES_VALUE,
		ORACLE__ANY_VALUE__VALUE_ARRAY_VALUE, ORACLE__ANY_VALUE__VALUE_KVLIST_VALUE };
	SAME(v && v->value_case == cases[a->type]);
	switch (a->type) {
	case ATTR_STR: SAME(str_is(s, v->string_value)); break;
	case ATTR_INT: SAME(v->int_value == a->i); break;
	case ATTR_DOUBLE: SAME(!memcmp(&v->double_value, &a->d, 8)); break;
	case ATTR_BOOL: SAME(v->bool_value == (a->i != 0)); break;
	case ATTR_BYTES: SAME(str_eq(s, (struct str){ (char *)v->bytes_value.data, v->bytes_value.len })); break;
	case ATTR_ARRAY:
		SAME(v->array_value->n_values == a->list.n);
		for (uint32_t i = 0; i < a->list.n; i++)
			SAME(oracle_value(b, b->attrs + a->list.off + i, v->array_value->values[i]));
		break;
	case ATTR_KVLIST: SAME(oracle_attrs(b, (struct attr_range){ a->list.off, a->list.n }, v->kvlist_value->n_values, v->kvlist_value->values));
	}
	return true;
}

static bool oracle_attrs(const struct batch *b, struct attr_range r, size_t n, Oracle__KeyValue **x)
{
	SAME(n == r.n);
	for (uint32_t i = 0; i < r.n; i++) {
		SAME(str_is(batch_text(b, b->attrs[r.off + i].key), x[i]->key));
		SAME(oracle_value(b, b->attrs + r.off + i, x[i]->value));
	}
	return true;
}

static bool oracle_span(const struct batch *b, const struct span *s, const Oracle__Span *x)
{
	SAME(same_bytes(x->trace_id, s->trace_hi, s->trace_lo, true) && same_bytes(x->span_id, 0, s->span_id, false));
	SAME(s->parent_id ? same_bytes(x->parent_span_id, 0, s->parent_id, false) : x->parent_span_id.len == 0);
	SAME(str_is(batch_text(b, s->trace_state), x->trace_state) && str_is(batch_text(b, s->name), x->name));
	SAME(x->kind == s->kind && x->flags == s->flags);
	SAME(x->start_time_unix_nano == (uint64_t)s->start_ns && x->end_time_unix_nano == (uint64_t)(s->start_ns + s->duration_ns));
	SAME((x->status ? x->status->code : 0) == s->status && str_is(batch_text(b, s->status_message), x->status ? x->status->message : ""));
	SAME(x->dropped_attributes_count == s->dropped_attrs && x->dropped_events_count == s->dropped_events && x->dropped_links_count == s->dropped_links);
	SAME(oracle_attrs(b, s->attrs, x->n_attributes, x->attributes));
	SAME(x->n_events == s->events_n && x->n_links == s->links_n);
	for (unsigned i = 0; i < s->events_n; i++) {
		const struct span_event *e = b->events + s->events_off + i;
		SAME(x->events[i]->time_unix_nano == (uint64_t)e->time_ns && str_is(batch_text(b, e->name), x->events[i]->name));
		SAME(x->events[i]->dropped_attributes_count == e->dropped_attrs);
		SAME(oracle_attrs(b, e->attrs, x->events[i]->n_attributes, x->events[i]->attributes));
	}
	for (unsigned i = 0; i < s->links_n; i++) {
		const struct span_link *l = b->links + s->links_off + i;
		const Oracle__Link *y = x->links[i];
		SAME(same_bytes(y->trace_id, l->trace_hi, l->trace_lo, true) && same_bytes(y->span_id, 0, l->span_id, false) && y->flags == l->flags);
		SAME(str_is(batch_text(b, l->trace_state), y->trace_state) && oracle_attrs(b, l->attrs, y->n_attributes, y->attributes));
	}
	return true;
}

/* What we encode, protobuf-c reads as the same; what protobuf-c then packs, we read as the same. */
static void agrees_with_protobuf_c(void **state)
{
	struct buf out = { 0 };
	for (unsigned round = 0; round < 150; round++) {
		struct batch *b = random_batch(rnd(20)), *again = batch_create(), *own = batch_create();
		struct otlp_report rep, rep2;
		struct err e;
		buf_clear(&out);
		otlp_encode(b, 0, b->n, &out);
		Oracle__ExportTraceServiceRequest *r = oracle__export_trace_service_request__unpack(NULL, out.n, out.p);
		assert_non_null(r);
		uint32_t i = 0;
		for (size_t x = 0; x < r->n_resource_spans; x++) {
			Oracle__ResourceSpans *rs = r->resource_spans[x];
			for (size_t y = 0; y < rs->n_scope_spans; y++) {
				Oracle__ScopeSpans *ss = rs->scope_spans[y];
				for (size_t z = 0; z < ss->n_spans; z++, i++) {
					const struct span *s = b->spans + i;
					assert_true(i < b->n && oracle_span(b, s, ss->spans[z]));
					assert_true(oracle_attrs(b, b->resources[s->resource].attrs, rs->resource->n_attributes, rs->resource->attributes));
					assert_true(str_is(batch_text(b, b->scopes[s->scope].name), ss->scope->name));
					assert_true(str_is(batch_text(b, b->scopes[s->scope].version), ss->scope->version));
					assert_true(oracle_attrs(b, b->scopes[s->scope].attrs, ss->scope->n_attributes, ss->scope->attributes));
				}
				ss->schema_url = (char *)"https://example.org/schema"; /* a field that we pass over */
			}
		}
		assert_int_equal(i, b->n);
		size_t n = oracle__export_trace_service_request__get_packed_size(r);
		uint8_t *packed = malloc(n + 1);
		oracle__export_trace_service_request__pack(r, packed);
		for (size_t x = 0; x < r->n_resource_spans; x++)
			for (size_t y = 0; y < r->resource_spans[x]->n_scope_spans; y++)
				r->resource_spans[x]->scope_spans[y]->schema_url = (char *)protobuf_c_empty_string;
		oracle__export_trace_service_request__free_unpacked(r, NULL);
		assert_int_equal(otlp_decode((struct str){ (char *)packed, n }, again, &rep, &e), 0);
		assert_int_equal(otlp_decode(buf_str(&out), own, &rep2, &e), 0);
		free(packed);
		assert_true(rep.spans == b->n && rep2.spans == b->n && !rep.rejected && !rep.clipped && !rep.dropped_attributes && !rep.cut_strings);
		for (i = 0; i < b->n; i++)
			assert_true(same_span(b, i, again, i) && same_span(b, i, own, i));
		batch_destroy(b);
		batch_destroy(again);
		batch_destroy(own);
	}
	buf_finish(&out);
}

static void answers_agree_with_protobuf_c(void **state)
{
	struct buf out = { 0 };
	otlp_encode_response(0, NULL, false, &out);
	assert_int_equal(out.n, 0);
	otlp_encode_response(300, "why", false, &out);
	Oracle__ExportTraceServiceResponse *r = oracle__export_trace_service_response__unpack(NULL, out.n, out.p);
	assert_true(r && r->partial_success && r->partial_success->rejected_spans == 300);
	assert_string_equal(r->partial_success->error_message, "why");
	oracle__export_trace_service_response__free_unpacked(r, NULL);
	buf_clear(&out);
	otlp_encode_status(8, "slow down", false, &out);
	Oracle__RpcStatus *s = oracle__rpc_status__unpack(NULL, out.n, out.p);
	assert_true(s && s->code == 8 && !strcmp(s->message, "slow down"));
	oracle__rpc_status__free_unpacked(s, NULL);
	buf_clear(&out);
	otlp_encode_response(2, "a \"b\"", true, &out);
	assert_true(str_is(buf_str(&out), "{\"partialSuccess\":{\"rejectedSpans\":\"2\",\"errorMessage\":\"a \\\"b\\\"\"}}"));
	buf_finish(&out);
}

/* A prefix of a request is malformed, or (cut between two messages) holds only spans that are whole. */
static void truncations(void **state)
{
	struct batch *b = random_batch(6);
	struct buf out = { 0 };
	otlp_encode(b, 0, b->n, &out);
	unsigned refused = 0;
	for (size_t n = 0; n <= out.n; n++) {
		uint8_t *copy = malloc(n + 1); /* exact, so that a sanitizer sees a read past the end */
		uint8_t *at = realloc(copy, n ? n : 1);
		memcpy(at, out.p, n);
		struct batch *got = batch_create();
		struct otlp_report rep = { .spans = 77 };
		struct err e = { 0 };
		int rc = otlp_decode((struct str){ (char *)at, n }, got, &rep, &e);
		if (rc < 0) {
			assert_int_equal(rc, KLIEG_E_BAD_DATA);
			assert_int_equal(rep.spans, 77); /* untouched */
			assert_true(e.msg[0]);
			refused++;
		} else {
			assert_int_equal(rep.rejected, 0);
			assert_int_equal(rep.spans, got->n);
			for (uint32_t i = 0; i < got->n; i++)
				assert_true(same_span(b, i, got, i));
		}
		batch_destroy(got);
		free(at);
	}
	assert_true(refused > out.n - 20);
	buf_finish(&out);
	batch_destroy(b);
}

/* The agent knows a threshold without a trace state; OTLP carries it as ot=th. */
static void threshold_travels(void **state)
{
	static const struct { const char *state, *sent; } cases[] = { { "", "ot=th:c" }, { "a=1", "ot=th:c,a=1" }, { "ot=rv:11111111111111",
		"ot=th:c;rv:11111111111111" },
		{ "a=1,ot=,b=2", "a=1,ot=th:c,b=2" }, { "ot=th:c", "ot=th:c" }, { "b=2,ot=rv:1;th:c00", "b=2,ot=rv:1;th:c00" } };
	for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct batch *b = batch_create(), *got = batch_create();
		struct buf out = { 0 };
		struct otlp_report rep;
		*batch_add_span(b) = (struct span){ .trace_lo = 1, .span_id = 1, .threshold = 0xc0000000000000, .trace_state = batch_str(b, str_of(cases[i].state)) };
		otlp_encode(b, 0, 1, &out);
		assert_int_equal(otlp_decode(buf_str(&out), got, &rep, NULL), 0);
		assert_true(got->spans[0].threshold == 0xc0000000000000);
		if (!str_is(batch_text(got, got->spans[0].trace_state), cases[i].sent))
			fail_msg("%s: %.*s", cases[i].state, (int)batch_text(got, got->spans[0].trace_state).n, batch_text(got, got->spans[0].trace_state).p);
		buf_finish(&out);
		batch_destroy(b);
		batch_destroy(got);
	}
}

static int decode_json(const char *text, struct batch **ret_b, struct otlp_report *ret_r)
{
	struct err e;
	size_t n = strlen(text);
	char *exact = malloc(n + 1);
	char *at = realloc(exact, n ? n : 1);
	memcpy(at, text, n);
	*ret_b = batch_create();
	int rc = otlp_decode_json((struct str){ at, n }, *ret_b, ret_r, &e);
	free(at);
	return rc;
}

#define SPAN(more) "{\"resourceSpans\":[{\"scopeSpans\":[{\"spans\":[{\"traceId\":\"5B8EFFF798038103D269B633813FC60C\",\"spanId\":\"eee19b7ec3c1b174\"" more "}]}]}]}"
#define VALUE(v) SPAN(",\"attributes\":[{\"key\":\"k\",\"value\":{" v "}}]")

static void json_by_hand(void **state)
{
	struct batch *b;
	struct otlp_report rep;
	assert_int_equal(decode_json("{\"unknown\":[1,{\"a\":null}],\"resourceSpans\":[{\"schemaUrl\":\"x\",\"scopeSpans\":[{\"spans\":[{"
		"\"endTimeUnixNano\":1544712661000000001,\"name\":\"caf\\u00e9 \\ud83d\\ude00 \\ud800\",\"kind\":2,\"startTimeUnixNano\":\"1544712660000000000\","
		"\"spanId\":\"eee19b7ec3c1b174\",\"traceId\":\"5B8EFFF798038103D269B633813FC60C\",\"parentSpanId\":\"eee19b7ec3c1b173\",\"flags\":257,\"future\":{},"
		"\"status\":{\"code\":2,\"message\":\"no\"},\"traceState\":\"ot=th:8\",\"droppedAttributesCount\":\"3\","
		"\"attributes\":[{\"key\":\"i\",\"value\":{\"intValue\":\"-9223372036854775808\"}},{\"key\":\"n\",\"value\":{\"intValue\":12}},"
		"{\"value\":{\"boolValue\":true},\"key\":\"b\"},{\"key\":\"d\",\"value\":{\"doubleValue\":\"NaN\"}},{\"key\":\"e\",\"value\":{\"doubleValue\":-1.5e3}},"
		"{\"key\":\"y\",\"value\":{\"bytesValue\":\"AP8QgA==\"}},{\"key\":\"a\",\"value\":{\"arrayValue\":{\"values\":[{\"stringValue\":\"x\"},{}]}}},"
		"{\"key\":\"l\",\"value\":{\"kvlistValue\":{\"values\":[{\"key\":\"in\",\"value\":{\"intValue\":\"1\"}}]}}}],"
		"\"events\":[{\"timeUnixNano\":\"5\",\"name\":\"ev\",\"droppedAttributesCount\":1}],\"links\":[{\"traceId\":\"5B8EFFF798038103D269B633813FC60C\","
		"\"spanId\":\"eee19b7ec3c1b174\",\"flags\":1}]}],\"scope\":{\"name\":\"lib\",\"version\":\"1\"}}],"
		"\"resource\":{\"attributes\":[{\"key\":\"service.name\",\"value\":{\"stringValue\":\"shop\"}}]}}]} ", &b, &rep), 0);
	assert_true(rep.spans == 1 && !rep.rejected && !rep.dropped_attributes);
	const struct span *s = b->spans;
	assert_true(s->trace_hi == 0x5b8efff798038103 && s->trace_lo == 0xd269b633813fc60c && s->span_id == 0xeee19b7ec3c1b174 && s->parent_id == 0xeee19b7ec3c1b173);
	assert_true(str_is(batch_text(b, s->name), "café 😀 \xef\xbf\xbd"));
	assert_true(s->start_ns == 1544712660000000000 && s->duration_ns == 1000000001 && s->kind == KIND_SERVER && s->status == STATUS_ERROR && s->flags == 257);
	assert_true(s->threshold == 0x80000000000000 && s->dropped_attrs == 3 && s->attrs.n == 8);
	const struct attr *a = b->attrs + s->attrs.off;
	assert_true(a[0].type == ATTR_INT && a[0].i == INT64_MIN && a[1].i == 12 && a[2].type == ATTR_BOOL && a[2].i == 1);
	assert_true(a[3].type == ATTR_DOUBLE && isnan(a[3].d) && a[4].d == -1500);
	assert_true(str_eq(batch_text(b, a[5].s), (struct str){ "\x00\xff\x10\x80", 4 }));
	assert_true(a[6].type == ATTR_ARRAY && a[6].list.n == 2 && b->attrs[a[6].list.off + 1].type == ATTR_NIL);
	assert_true(a[7].type == ATTR_KVLIST && b->attrs[a[7].list.off].i == 1);
	assert_true(s->events_n == 1 && b->events[0].time_ns == 5 && b->events[0].dropped_attrs == 1 && s->links_n == 1 && b->links[0].flags == 1);
	assert_true(str_is(batch_text(b, b->resources[s->resource].service), "shop") && str_is(batch_text(b, b->scopes[s->scope].name), "lib"));
	batch_destroy(b);
	static const char *const empty[] = { "", " ", "{}", "{\"resourceSpans\":[]}", "{\"resourceSpans\":null}", "{\"resourceSpans\":[{}]}" };
	for (unsigned i = 0; i < sizeof empty / sizeof *empty; i++) {
		assert_int_equal(decode_json(empty[i], &b, &rep), 0);
		assert_int_equal(rep.spans + rep.rejected + b->n, 0);
		batch_destroy(b);
	}
	/* Numbers as JavaScript writes them; null is as good as absent. */
	static const struct { const char *doc; uint8_t type; int64_t i; double d; } numbers[] = { { VALUE("\"intValue\":1e3"), ATTR_INT, 1000, 0 },
		{ VALUE("\"intValue\":1e+300"), ATTR_DOUBLE, 0, 1e300 }, { VALUE("\"intValue\":100000000000000000000"), ATTR_DOUBLE, 0, 1e20 },
		{ VALUE("\"intValue\":null"), ATTR_INT, 0, 0 }, { VALUE("\"doubleValue\":\"-Infinity\""), ATTR_DOUBLE, 0, -INFINITY } };
	for (unsigned i = 0; i < sizeof numbers / sizeof *numbers; i++) {
		assert_int_equal(decode_json(numbers[i].doc, &b, &rep), 0);
		a = b->attrs + b->spans[0].attrs.off;
		if (a->type != numbers[i].type || (a->type == ATTR_INT ? a->i != numbers[i].i : a->d != numbers[i].d))
			fail_msg("%s", numbers[i].doc);
		batch_destroy(b);
	}
}

static void json_bad_input(void **state)
{
	static const char *const bad[] = { "[]", "null", "\"x\"", "{", "}", "{]", "{\"a\"}", "{\"a\":}", "{\"a\":1,}", "{\"a\":1}x", "{\"a\":01}",
		"{\"a\":-}", "{\"a\":1.}", "{\"a\":1e}",
		"{\"a\":nul}", "{\"a\":nulll}", "{\"a\":\"\\x\"}", "{\"a\":\"\\u12g4\"}", "{\"a\":\"\n\"}", "{\"a\":\"", "{'a':1}", "{\"a\":[1,]}",
			"{\"a\":[1 2]}", "{\"a\" 1}",
		VALUE("\"intValue\":\"abc\""), VALUE("\"intValue\":\"12x\""), VALUE("\"doubleValue\":true"), VALUE("\"stringValue\":5"), VALUE("\"bytesValue\":\"?\""),
		SPAN(",\"name\":5"), SPAN(",\"startTimeUnixNano\":\"soon\""), SPAN(",\"startTimeUnixNano\":-1"), SPAN(",\"endTimeUnixNano\":\"18446744073709551616\"") };
	struct batch *b;
	struct otlp_report rep = { .spans = 77 };
	for (unsigned i = 0; i < sizeof bad / sizeof *bad; i++) {
		if (decode_json(bad[i], &b, &rep) != KLIEG_E_BAD_DATA)
			fail_msg("taken: %s", bad[i]);
		assert_int_equal(rep.spans, 77);
		batch_destroy(b);
	}
	/* Every prefix of a good document is refused, the empty one apart. */
	static const char doc[] = VALUE("\"arrayValue\":{\"values\":[{\"intValue\":\"1\"},{\"doubleValue\":1.5}]}");
	for (size_t n = 1; n < sizeof doc - 1; n++) {
		char *prefix = strndup(doc, n);
		assert_int_equal(decode_json(prefix, &b, &rep), KLIEG_E_BAD_DATA);
		batch_destroy(b);
		free(prefix);
	}
	static const char *const ids[] = { "\"traceId\":\"\",\"spanId\":\"1111111111111111\"",
		"\"traceId\":\"00000000000000000000000000000000\",\"spanId\":\"1111111111111111\"",
		"\"traceId\":\"5b8efff798038103d269b633813fc60c\",\"spanId\":\"0000000000000000\"",
			"\"traceId\":\"5b8efff798038103d269b633813fc60\",\"spanId\":\"1111111111111111\"",
		"\"traceId\":\"zb8efff798038103d269b633813fc60c\",\"spanId\":\"1111111111111111\"", "\"spanId\":\"1111111111111111\"", "\"traceId\":7,\"spanId\":8" };
	for (unsigned i = 0; i < sizeof ids / sizeof *ids; i++) {
		char text[400];
		snprintf(text, sizeof text, "{\"resourceSpans\":[{\"scopeSpans\":[{\"spans\":[{%s}]}]}]}", ids[i]);
		assert_int_equal(decode_json(text, &b, &rep), 0);
		assert_true(rep.spans == 0 && rep.rejected == 1 && rep.bad_id == 1 && b->n == 0);
		batch_destroy(b);
	}
}

static void nest(struct buf *b, unsigned depth)
{
	buf_add_str(b,
		"{\"resourceSpans\":[{\"scopeSpans\":[{\"spans\":[{\"traceId\":\"5b8efff798038103d269b633813fc60c\",\"spanId\":\"eee19b7ec3c1b174\",\"attributes\":"
		"[{\"key\":\"k\",\"value\":");
	for (unsigned i = 0; i < depth; i++)
		buf_add_str(b, "{\"arrayValue\":{\"values\":[");
	buf_add_str(b, "{}");
	for (unsigned i = 0; i < depth; i++)
		buf_add_str(b, "]}}");
	buf_add_str(b, "}]}]}]}]}");
	buf_byte(b, 0);
	b->n--;
}

static void limits(void **state)
{
	struct batch *b, *got = batch_create();
	struct otlp_report rep;
	struct buf out = { 0 };
	nest(&out, 12);
	assert_int_equal(decode_json((char *)out.p, &b, &rep), 0);
	batch_destroy(b);
	for (unsigned depth = 33; depth < 100000; depth *= 9) {
		buf_clear(&out);
		nest(&out, depth);
		assert_int_equal(decode_json((char *)out.p, &b, &rep), KLIEG_E_BAD_DATA);
		batch_destroy(b);
	}
	/* In protobuf: 200 attributes, a list of 200, a string of 70000, 200 events; then a list in a list, 40 deep. */
	b = batch_create();
	char *large = malloc(70000);
	memset(large, 'x', 70000);
	memcpy(large + OTLP_MAX_STRING - 1, "\xc3\xa9", 2); /* the cut must not go through it */
	batch_add_attrs(b, 400);
	for (uint32_t i = 0; i < 400; i++)
		b->attrs[i] = (struct attr){ .key = batch_str(b, STR("k")), .type = ATTR_INT, .i = i };
	b->attrs[0] = (struct attr){ .key = 1, .type = ATTR_ARRAY, .list = { 200, 200 } };
	uint32_t events = 200;
	for (uint32_t i = 0; i < events; i++)
		batch_add_event(b);
	*batch_add_span(b) = (struct span){ .trace_lo = 1, .span_id = 1, .name = batch_str(b, (struct str){ large, 70000 }), .attrs = { 0, 200 }, .events_n = 200,
		.dropped_attrs = 5, .start_ns = 9, .duration_ns = -3 };
	buf_clear(&out);
	otlp_encode(b, 0, 1, &out);
	assert_int_equal(otlp_decode(buf_str(&out), got, &rep, NULL), 0);
	const struct span *s = got->spans;
	assert_true(rep.spans == 1 && rep.dropped_attributes == 72 + 72 && rep.cut_strings == 1 && rep.clipped == 1);
	assert_true(s->attrs.n == 128 && s->dropped_attrs == 72 + 5 && s->events_n == 128 && s->dropped_events == 72 && s->duration_ns == 0);
	assert_int_equal(batch_text(got, s->name).n, OTLP_MAX_STRING - 1);
	assert_true(str_utf8_valid(batch_text(got, s->name)));
	for (uint32_t i = 0; i < 40; i++)
		b->attrs[i] = (struct attr){ .type = ATTR_ARRAY, .list = { i + 1, 1 } };
	b->spans[0].attrs.n = 1;
	buf_clear(&out);
	otlp_encode(b, 0, 1, &out);
	assert_int_equal(otlp_decode(buf_str(&out), got, &rep, NULL), KLIEG_E_BAD_DATA);
	free(large);
	buf_finish(&out);
	batch_destroy(b);
	batch_destroy(got);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(agrees_with_protobuf_c), cmocka_unit_test(answers_agree_with_protobuf_c), cmocka_unit_test(truncations),
			cmocka_unit_test(threshold_travels),
		cmocka_unit_test(json_by_hand), cmocka_unit_test(json_bad_input), cmocka_unit_test(limits),
	};
	return cmocka_run_group_tests_name("otlp", tests, NULL, NULL);
}
