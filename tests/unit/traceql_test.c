/* TraceQL: golden texts, meaning over a batch, limits, what is pushed down, and two properties over random queries: what is printed parses to
 * the same nodes, and the fast matcher agrees with the plain evaluator. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include "traceql/ast.h"
#include <stdio.h>
#include <stdlib.h>

static struct traceql *parse(const char *text)
{
	struct traceql *q = NULL;
	struct err e = { 0 };
	if (traceql_parse(str_of(text), &q, &e) < 0)
		fail_msg("%s: %d:%d %s", text, e.line, e.column, e.msg);
	return q;
}

/* ---- golden -------------------------------------------------------------------------------------------------------- */

/* How a golden line is read, by its first letter. */
static int read_as(char how, struct str text, struct traceql **ret_q, struct buf *ret_more, struct err *e)
{
	struct traceql *site, *request;
	int rc = how == 'S' ? traceql_parse_selector(text, ret_q, e) : how == 'M' || how == 'T' ? traceql_parse_metric(text, ret_q, e)
		: traceql_parse(text, ret_q, e);
	if (rc < 0)
		return rc;
	if (how == 'B' || how == 'E' || how == 'T')
		rc = traceql_check_profile(*ret_q, how == 'B' ? TQ_PROFILE_START : how == 'E' ? TQ_PROFILE_END : TQ_PROFILE_TRIGGER, e);
	if (how == 'D' && (rc = traceql_split_start(*ret_q, &site, &request, e)) >= 0) {
		buf_add_str(ret_more, "  SITE ");
		traceql_print(site, ret_more);
		buf_add_str(ret_more, "  REQUEST ");
		if (request)
			traceql_print(request, ret_more);
		else
			buf_add_str(ret_more, "-");
		traceql_destroy(site);
		traceql_destroy(request);
	}
	if (rc < 0)
		traceql_destroy(*ret_q);
	return rc;
}

static void traceql_golden(void **state)
{
	FILE *f = fopen(TRACEQL_GOLDEN, "r");
	assert_non_null(f);
	char *line = NULL, *input = NULL;
	size_t cap = 0;
	int cases = 0;
	for (ssize_t n; (n = getline(&line, &cap, f)) > 0;) {
		if (line[n - 1] == '\n')
			line[--n] = 0;
		if (n < 2 || line[0] == '#')
			continue;
		if (n > 1 && line[1] == ' ' && strchr("<SMBETD", line[0])) {
			free(input);
			input = str_dup((struct str){ line, (size_t)n });
			continue;
		}
		struct traceql *q = NULL;
		struct err e = { 0 };
		struct buf got = { 0 }, more = { 0 };
		int rc = read_as(input[0], str_of(input + 2), &q, &more, &e);
		if (rc < 0) {
			assert_int_equal(rc, e.code);
			buf_printf(&got, "! %d:%d %s%s%s", e.line, e.column, e.msg, e.hint[0] ? " | " : "", e.hint);
		} else {
			assert_int_equal(e.code, 0);
			buf_add_str(&got, "> ");
			traceql_print(q, &got);
			buf_add(&got, more.p, more.n);
			traceql_destroy(q);
		}
		buf_byte(&got, 0);
		buf_finish(&more);
		if (getenv("TRACEQL_GOLDEN_SHOW"))
			printf("%s\n%s\n\n", input, (char *)got.p);
		else if (strcmp((char *)got.p, line))
			fail_msg("%s\n  expected %s\n  got      %s", input, line, (char *)got.p);
		buf_finish(&got);
		cases++;
	}
	assert_true(cases > 100);
	free(input);
	free(line);
	fclose(f);
}

static void traceql_limits(void **state)
{
	struct traceql *q = NULL;
	struct err e;
	struct buf b = { 0 };
	buf_add_str(&b, "{ ");
	for (int i = 0; i < 100000; i++)
		buf_byte(&b, '(');
	assert_int_equal(traceql_parse(buf_str(&b), &q, &e), KLIEG_E_LIMIT);
	b.n = 60000;
	assert_int_equal(traceql_parse(buf_str(&b), &q, &e), KLIEG_E_LIMIT);
	for (const char *const *unit = (const char *const[]){ "!", "-", "2 ^ ", ".a = 1 && ", ".a + ", NULL }; *unit; unit++) {
		buf_clear(&b);
		buf_add_str(&b, "{ ");
		while (b.n + strlen(*unit) < 60000)
			buf_add_str(&b, *unit);
		buf_add_str(&b, ".a }");
		assert_int_equal(traceql_parse(buf_str(&b), &q, &e), KLIEG_E_LIMIT);
	}
	buf_clear(&b); /* long, but not deep */
	buf_add_str(&b, "{ .a = 0");
	for (int i = 1; i < 240; i++)
		buf_printf(&b, " || .a = %d", i);
	buf_add_str(&b, " }");
	assert_int_equal(traceql_parse(buf_str(&b), &q, &e), 0);
	traceql_destroy(q);
	assert_int_equal(traceql_parse(STR("{ name = \"\xff\" }"), &q, &e), KLIEG_E_SYNTAX);
	buf_finish(&b);
}

/* ---- meaning --------------------------------------------------------------------------------------------------------- */

static void set(struct batch *b, uint32_t at, const char *key, enum attr_type type, const char *s, int64_t i, double d)
{
	uint32_t k = key ? batch_str(b, str_of(key)) : 0, v = s ? batch_str(b, str_of(s)) : 0;
	struct attr *a = b->attrs + at;
	a->key = k;
	a->type = (uint8_t)type;
	if (type == ATTR_STR)
		a->s = v;
	else if (type == ATTR_DOUBLE)
		a->d = d;
	else
		a->i = i;
}

/* One trace of three spans: 0 the root with everything, 1 and 2 its children; and 3, of a trace whose root is elsewhere. */
static struct batch *sample(void)
{
	struct batch *b = batch_create();
	uint32_t at = (uint32_t)(batch_add_attrs(b, 2) - b->attrs);
	set(b, at, "service.name", ATTR_STR, "shop", 0, 0);
	set(b, at + 1, "host.cpus", ATTR_INT, NULL, 8, 0);
	batch_add_resource(b, &(struct resource){ batch_str(b, STR("shop")), { at, 2 } });
	batch_add_scope(b, &(struct scope){ .name = batch_str(b, STR("cart")) });
	at = (uint32_t)(batch_add_attrs(b, 10) - b->attrs);
	set(b, at, "tenant", ATTR_STR, "7", 0, 0);
	set(b, at + 1, "code", ATTR_INT, NULL, 503, 0);
	set(b, at + 2, "ratio", ATTR_DOUBLE, NULL, 0, 0.5);
	set(b, at + 3, "ok", ATTR_BOOL, NULL, 1, 0);
	set(b, at + 4, "tags", ATTR_ARRAY, NULL, 0, 0);
	set(b, at + 5, "a b", ATTR_STR, "x", 0, 0);
	set(b, at + 6, "none", ATTR_ARRAY, NULL, 0, 0);
	set(b, at + 7, NULL, ATTR_STR, "red", 0, 0); /* the array's */
	set(b, at + 8, NULL, ATTR_STR, "blue", 0, 0);
	set(b, at + 9, "reason", ATTR_STR, "busy", 0, 0); /* the event's */
	b->attrs[at + 4].list.off = at + 7;
	b->attrs[at + 4].list.n = 2;
	static const char *const names[] = { "pay.charge", "db.query", "db.query", "other" };
	for (uint32_t i = 0; i < 4; i++) {
		struct span *s = batch_add_span(b);
		uint32_t name = batch_str(b, str_of(names[i]));
		*s = (struct span){ .trace_lo = i == 3 ? 2 : 1, .trace_hi = 0xab, .span_id = i + 1, .parent_id = i == 0 ? 0 : i == 3 ? 99 : 1,
			.start_ns = 1000 + i * 1000, .duration_ns = i ? 5000000 : 20000000, .name = name, .kind = i ? KIND_CLIENT : KIND_SERVER,
			.status = i == 0 ? STATUS_ERROR : STATUS_UNSET };
	}
	b->spans[0].attrs = (struct attr_range){ at, 7 };
	b->spans[0].status_message = batch_str(b, STR("declined"));
	struct span_event *ev = batch_add_event(b);
	ev->time_ns = 1000 + 3000000;
	ev->name = batch_str(b, STR("retry"));
	ev->attrs = (struct attr_range){ at + 9, 1 };
	ev = batch_add_event(b);
	ev->time_ns = 1000 + 4000000;
	ev->name = batch_str(b, STR("end"));
	b->spans[0].events_n = 2;
	struct span_link *l = batch_add_link(b);
	l->trace_lo = 5;
	l->span_id = 6;
	b->spans[0].links_n = 1;
	return b;
}

static void traceql_semantics(void **state)
{
	static const struct { const char *q; const char *spans; } cases[] = {
		{ "{ }", "0123" }, { "{ name = \"pay.charge\" }", "0" }, { "{ name != \"pay.charge\" }", "123" }, { "{ name =~ \"pay.*\" }", "0" },
		{ "{ name =~ \"pay\" }", "" }, { "{ name !~ \"pay.*\" }", "123" }, { "{ name =~ \".*query|other\" }", "123" },
		{ "{ resource.service.name = \"shop\" }", "0123" }, { "{ .service.name = \"shop\" }", "0123" }, { "{ span.service.name = \"shop\" }", "" },
		{ "{ .host.cpus = 8.0 }", "0123" }, { "{ duration = 20ms }", "0" }, { "{ duration > 5ms }", "0" }, { "{ duration >= 5ms }", "0123" },
		{ "{ duration = 20000000 }", "0" }, { "{ duration * 2 > 30ms }", "0" }, { "{ duration / 1ms = 20 }", "0" }, { "{ 5ms < duration }", "0" },
		{ "{ status = error }", "0" }, { "{ status != error }", "123" }, { "{ kind = client }", "123" }, { "{ statusMessage = \"declined\" }", "0" },
		/* missing: every comparison is false, and nil asks for it */
		{ "{ .tenant = \"7\" }", "0" }, { "{ .tenant != \"7\" }", "" }, { "{ .tenant != \"8\" }", "0" }, { "{ .tenant = nil }", "123" },
		{ "{ .tenant != nil }", "0" },
		{ "{ !(.tenant = \"7\") }", "123" }, { "{ .missing !~ \".*\" }", "" }, { "{ .missing = .missing }", "" }, { "{ nil = .tenant }", "123" },
		/* types: no conversion */
		{ "{ .tenant = 7 }", "" }, { "{ .tenant != 7 }", "" }, { "{ .code = \"503\" }", "" }, { "{ .code >= 500 && .code < 600 }", "0" },
		{ "{ .code = 503.0 }", "0" },
		{ "{ .code > 502ns }", "0" }, { "{ .ratio < 1 }", "0" }, { "{ .ratio + .code = 503.5 }", "0" }, { "{ .code % 100 = 3 }", "0" },
		{ "{ .code / 0 = 0 }", "" },
		{ "{ .code ^ 2 = 253009 }", "0" }, { "{ -.code = -503 }", "0" }, { "{ .code + .missing > 0 }", "" }, { "{ .code / 2 = 251.5 }", "0" },
		{ "{ .ok }", "0" }, { "{ !.ok }", "" }, { "{ .ok = true }", "0" }, { "{ .ok && .code = 503 }", "0" }, { "{ .tenant && true }", "" },
		/* arrays: = any, != none */
		{ "{ .tags = \"red\" }", "0" }, { "{ .tags = \"green\" }", "" }, { "{ .tags != \"red\" }", "" }, { "{ .tags != \"green\" }", "0" },
		{ "{ .tags =~ \"b.*\" }", "0" },
		{ "{ .tags !~ \"b.*\" }", "" }, { "{ .tags !~ \"g.*\" }", "0" }, { "{ .tags = 1 }", "" }, { "{ .tags != 1 }", "" }, { "{ .tags != nil }", "0" },
		{ "{ .none != \"x\" }", "0" }, { "{ .none = nil }", "123" }, { "{ \"red\" = .tags }", "0" },
		/* events and links are several */
		{ "{ event:name = \"retry\" }", "0" }, { "{ event:name = \"end\" }", "0" }, { "{ event:name != \"retry\" }", "" },
		{ "{ event:name != \"x\" }", "0" },
		{ "{ event:name = nil }", "123" }, { "{ event.reason = \"busy\" }", "0" }, { "{ event.reason = nil }", "123" },
		{ "{ event:timeSinceStart > 3500us }", "0" },
		{ "{ event:timeSinceStart > 5ms }", "" }, { "{ link:traceID = \"5\" && link:spanID = \"6\" }", "0" },
		{ "{ span.\"a b\" = \"x\" }", "0" }, { "{ instrumentation:name = \"cart\" }", "0123" }, { "{ instrumentation:version = nil }", "0123" },
		{ "{ trace:id = \"ab0000000000000001\" }", "012" }, { "{ span:id = \"3\" }", "2" }, { "{ span:parentID = \"1\" }", "12" },
			{ "{ span:parentID = nil }", "0" },
		/* of the whole trace: nil where the batch has not all of it */
		{ "{ rootName = \"pay.charge\" }", "012" }, { "{ rootServiceName = \"shop\" }", "012" }, { "{ traceDuration = 20ms }", "012" },
		{ "{ span:childCount = 2 }", "0" }, { "{ rootName = nil }", "3" },
		/* && and || share a level */
		{ "{ name = \"other\" || .tenant = \"7\" && .code = 503 }", "0" }, { "{ name = \"other\" || (.tenant = \"7\" && .code = 503) }", "03" },
		{ "{ \"a\" < \"b\" }", "0123" }, { "{ name < \"e\" }", "12" }, { "{ false }", "" },
	};
	struct batch *b = sample();
	for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
		struct traceql *q = parse(cases[k].q);
		struct tq_matcher *m = traceql_matcher_create(q);
		traceql_matcher_begin(m, b);
		char plain[8] = "", fast[8] = "";
		for (uint32_t i = 0; i < b->n; i++) {
			if (traceql_match(q, b, i))
				plain[strlen(plain)] = (char)('0' + i);
			if (traceql_matcher_match(m, b, i))
				fast[strlen(fast)] = (char)('0' + i);
		}
		if (strcmp(plain, cases[k].spans) || strcmp(fast, cases[k].spans))
			fail_msg("%s matches %s, the matcher says %s, expected %s", cases[k].q, plain, fast, cases[k].spans);
		traceql_matcher_destroy(m);
		traceql_destroy(q);
	}
	batch_destroy(b);
}

/* A regular expression that backtracks for ever is given up and counted. */
static void traceql_regex_gives_up(void **state)
{
	struct batch *b = batch_create();
	char text[2001];
	memset(text, 'a', 2000);
	text[2000] = 'b';
	struct span *s = batch_add_span(b);
	s->name = batch_str(b, (struct str){ text, sizeof text });
	struct traceql *q = parse("{ name =~ \"(a|aa)*(a|aa)*[cd]\" }");
	assert_false(traceql_match(q, b, 0));
	assert_int_equal(traceql_gave_up(q), 1);
	traceql_destroy(q);
	batch_destroy(b);
}

static void traceql_site_check(void **state)
{
	static const struct { const char *q; bool good; } cases[] = {
		{ "{ name =~ \"pay.*\" && resource.service.name = \"shop\" && kind = server }", true }, { "{ instrumentation:name = \"cart\" }", true },
		{ "{ .component = \"cart\" && .code.file.path =~ \".*cart.c\" && .klieg.site.id != nil }", true },
		{ "{ .service.name = \"x\" || .host.name = \"y\" }", true },
		{ "{ }", true }, { "{ duration > 5ms }", false }, { "{ status = error }", false }, { "{ .tenant = \"7\" }", false },
		{ "{ name = \"a\" && span.tenant = 1 }", false },
		{ "{ event:name = \"x\" }", false }, { "{ rootName = \"x\" }", false },
	};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct traceql *q = parse(cases[i].q);
		struct err e = { 0 };
		int rc = traceql_check_site(q, &e);
		assert_int_equal(rc, cases[i].good ? 0 : KLIEG_E_TYPE);
		assert_true(cases[i].good || (e.column > 0 && strstr(e.hint, "--where")));
		traceql_destroy(q);
	}
}

static void traceql_pushes_down(void **state)
{
	struct tq_pushdown p;
	struct traceql *q = parse("{ (resource.service.name = \"shop\" && \"pay\" = name) && duration > 5ms && 1s >= duration && status = error && "
		"trace:id = \"1f\" && .x = 1 }");
	traceql_pushdown(q, &p);
	assert_true(str_is(p.service, "shop") && str_is(p.name, "pay") && p.errors_only);
	assert_true(p.min_duration_ns == 5000001 && p.max_duration_ns == 1000000000 && p.trace_hi == 0 && p.trace_lo == 0x1f);
	traceql_destroy(q);
	/* What does not hold for every match stays behind. */
	q = parse("{ (name = \"a\" || resource.service.name = \"b\") && !(status = error) && status != ok && name =~ \"x\" && .service.name = \"c\" }");
	traceql_pushdown(q, &p);
	assert_true(!p.service.n && !p.name.n && !p.errors_only && !p.min_duration_ns && p.max_duration_ns == INT64_MAX && !p.trace_lo);
	traceql_destroy(q);
}

/* ---- properties ---------------------------------------------------------------------------------------------------------- */

static uint64_t seed;
static uint32_t rnd(uint32_t n)
{
	seed = seed * 6364136223846793005ull + 1442695040888963407ull;
	return (uint32_t)(seed >> 33) % n;
}
#define PICK(list) list[rnd(sizeof list / sizeof *list)]

static void random_value(struct buf *b, int depth);
static void random_condition(struct buf *b, int depth)
{
	static const char *const fields[] = { "name", ".tenant", "span.tenant", ".tags", ".service.name", "resource.service.name", "event:name",
		"event.reason",
		"statusMessage", "instrumentation:name", ".code", "rootName" };
	static const char *const texts[] = { "\"7\"", "\"red\"", "\"shop\"", "\"retry\"", "\"pay.charge\"", "`x\\d`", "\"\\x01\\n\"" };
	static const char *const regexes[] = { "\".*\"", "\"pay.*|7\"", "`[a-r].+`", "\"shop\"" };
	static const char *const eq[] = { "=", "!=" }, *const ord[] = { "=", "!=", "<", "<=", ">", ">=" };
	static const char *const plain[] = { "status = error", "kind != client", "duration > 5ms", "duration <= 0.005s", ".ok", "true",
		".tags = nil", "event:name != nil",
		"span:parentID = nil", "status = .missing", "duration != nil" };
	switch (rnd(depth > 0 ? 8 : 4)) {
	case 0: buf_printf(b, "%s %s %s", PICK(fields), PICK(eq), PICK(texts)); break;
	case 1: buf_printf(b, "%s %s %s", PICK(fields), rnd(2) ? "=~" : "!~", PICK(regexes)); break;
	case 2: buf_add_str(b, PICK(plain)); break;
	case 3:
		random_value(b, depth - 1);
		buf_printf(b, " %s ", PICK(ord));
		random_value(b, depth - 1);
		break;
	case 4:
		buf_add_str(b, "!(");
		random_condition(b, depth - 1);
		buf_byte(b, ')');
		break;
	case 5:
		buf_byte(b, '(');
		random_condition(b, depth - 1);
		buf_byte(b, ')');
		break;
	default:
		random_condition(b, depth - 1);
		buf_add_str(b, rnd(2) ? " && " : " || ");
		random_condition(b, depth - 1);
	}
}

static void random_value(struct buf *b, int depth)
{
	static const char *const leaf[] = { "1", "503", "-2", "0.5", "5ms", "1h2m3.004s", "duration", ".code", ".ratio", ".missing",
		"resource.host.cpus", "2.5e10",
		"event:timeSinceStart", "traceDuration", "span:childCount", "-1.5" };
	static const char *const ops[] = { "+", "-", "*", "/", "%", "^" };
	if (depth <= 0 || rnd(3) == 0) {
		buf_add_str(b, PICK(leaf));
		return;
	}
	bool parens = rnd(2);
	buf_add_str(b, rnd(6) ? "" : "-");
	buf_add_str(b, parens ? "(" : "");
	random_value(b, depth - 1);
	buf_printf(b, " %s ", PICK(ops));
	random_value(b, depth - 1);
	buf_add_str(b, parens ? ")" : "");
}

static bool same(const struct traceql *a, uint16_t i, const struct traceql *b, uint16_t k)
{
	if (i == TQ_NONE || k == TQ_NONE)
		return i == k;
	const struct tq_node *x = a->nodes + i, *y = b->nodes + k;
	if (x->op != y->op || x->type != y->type)
		return false;
	if (x->op == OP_FIELD)
		return x->field.scope == y->field.scope && x->field.intrinsic == y->field.intrinsic && str_eq(x->field.key, y->field.key);
	if (x->op == OP_LIT)
		return x->lit.type == y->lit.type && (x->lit.type == TQ_STR ? str_eq(x->lit.s, y->lit.s) : x->lit.type == TQ_NIL || x->lit.i == y->lit.i);
	return same(a, x->l, b, y->l) && same(a, x->r, b, y->r);
}

static void traceql_prints_what_it_parses(void **state)
{
	struct batch *batch = sample();
	int parsed = 0;
	for (seed = 1; parsed < 20000; ) {
		struct buf text = { 0 }, canonical = { 0 }, again = { 0 };
		buf_add_str(&text, "{ ");
		random_condition(&text, 4);
		buf_add_str(&text, " }");
		struct traceql *q, *r;
		struct err e;
		if (traceql_parse(buf_str(&text), &q, &e) < 0) {
			assert_int_equal(e.code, KLIEG_E_TYPE); /* the generator makes no other mistake */
			buf_finish(&text);
			continue;
		}
		parsed++;
		traceql_print(q, &canonical);
		if (traceql_parse(buf_str(&canonical), &r, &e) < 0 || !same(q, q->root, r, r->root))
			fail_msg("%.*s\nprints as %.*s", (int)text.n, (char *)text.p, (int)canonical.n, (char *)canonical.p);
		traceql_print(r, &again);
		assert_true(str_eq(buf_str(&canonical), buf_str(&again)));
		struct tq_matcher *m = traceql_matcher_create(q);
		for (uint32_t i = 0; i < batch->n; i++) {
			bool plain = traceql_match(q, batch, i);
			if (plain != traceql_matcher_match(m, batch, i))
				fail_msg("%.*s on span %u: %d by the evaluator", (int)text.n, (char *)text.p, i, plain);
		}
		/* What is pushed down holds for every match. */
		struct tq_pushdown p;
		traceql_pushdown(q, &p);
		for (uint32_t i = 0; i < batch->n; i++)
			if (traceql_match(q, batch, i)) {
				const struct span *s = batch->spans + i;
				assert_true(s->duration_ns >= p.min_duration_ns && s->duration_ns <= p.max_duration_ns);
				assert_true(!p.name.n || str_eq(p.name, batch_text(batch, s->name)));
				assert_true(!p.errors_only || s->status == STATUS_ERROR);
			}
		traceql_matcher_destroy(m);
		traceql_destroy(q);
		traceql_destroy(r);
		buf_finish(&text);
		buf_finish(&canonical);
		buf_finish(&again);
	}
	batch_destroy(batch);
}

/* A matcher moves from batch to batch: the ids of one must not be used in the next. */
static void traceql_matcher_changes_batches(void **state)
{
	struct traceql *q = parse("{ name =~ \"b.*\" || .k = \"v\" }");
	struct tq_matcher *m = traceql_matcher_create(q);
	for (int round = 0; round < 3; round++) {
		struct batch *b = batch_create();
		for (int i = 0; i < round; i++)
			batch_str(b, str_of(i ? "shift" : "ids"));
		static const char *const names[] = { "a", "b", "c" };
		for (int i = 0; i < 3; i++) {
			uint32_t name = batch_str(b, str_of(names[(i + round) % 3]));
			batch_add_span(b)->name = name;
		}
		traceql_matcher_begin(m, b);
		for (uint32_t i = 0; i < 3; i++)
			assert_int_equal(traceql_matcher_match(m, b, i), (i + (uint32_t)round) % 3 == 1);
		batch_destroy(b);
	}
	traceql_matcher_destroy(m);
	traceql_destroy(q);
}

/* ---- what others make of a query ------------------------------------------------------------------------------------------- */

static void traceql_metric_parts(void **state)
{
	struct traceql *q;
	struct err e;
	struct tq_metric m;
	assert_int_equal(traceql_parse_metric(STR("{ name = \"x\" } | quantile_over_time(duration, .99) by(.tenant, name) >= 250ms"), &q, &e), 0);
	assert_true(traceql_metric(q, &m));
	assert_int_equal(m.fn, TQ_QUANTILE);
	assert_true(m.field.scope == TQ_INTRINSIC && m.field.intrinsic == TQ_DURATION_ && m.quantile == .99);
	assert_true(m.compared && m.threshold == 250e6);
	assert_string_equal(m.cmp, ">=");
	assert_int_equal(m.nby, 2);
	assert_true(str_is(m.by[0].key, "tenant") && m.by[1].intrinsic == TQ_NAME);
	/* The filter is what is evaluated. */
	struct batch *b = batch_create();
	batch_add_span(b)->name = batch_str(b, STR("x"));
	batch_add_span(b)->name = batch_str(b, STR("y"));
	struct tq_matcher *k = traceql_matcher_create(q);
	assert_true(traceql_match(q, b, 0) && !traceql_match(q, b, 1) && traceql_matcher_match(k, b, 0) && !traceql_matcher_match(k, b, 1));
	traceql_matcher_destroy(k);
	batch_destroy(b);
	traceql_destroy(q);
	assert_int_equal(traceql_parse_metric(STR("{ } | quantile_over_time(duration, .5) > 3 with(baseline=10m)"), &q, &e), 0);
	assert_true(traceql_metric(q, &m) && m.threshold == 3 && m.baseline_ns == 600000000000);
	traceql_destroy(q);
	assert_int_equal(traceql_parse_metric(STR("{ } | rate() < -2.5"), &q, &e), 0);
	assert_true(traceql_metric(q, &m) && m.fn == TQ_RATE && m.threshold == -2.5 && !m.nby && !m.baseline_ns && !traceql_needs_trace(q));
	traceql_destroy(q);
	assert_int_equal(traceql_parse_metric(STR("{ } | rate() by(rootName)"), &q, &e), 0);
	assert_true(traceql_metric(q, &m) && !m.compared && traceql_needs_trace(q));
	traceql_destroy(q);
	q = parse("{ name = \"x\" }");
	assert_false(traceql_metric(q, &m));
	traceql_destroy(q);
}

static void traceql_views(void **state)
{
	struct traceql *q = parse("{ 5 < .a && (.b || !(.c =~ `x.*`)) && .d = nil && nil != .e && .f + 1 > 2 }");
	uint16_t node;
	struct tq_view v, l, r;
	assert_true(traceql_root(q, &node) && traceql_view(q, node, &v) && v.op == TQ_VIEW_AND);
	assert_false(traceql_view(q, v.r, &r)); /* arithmetic */
	assert_true(traceql_view(q, v.l, &v) && v.op == TQ_VIEW_AND);
	assert_true(traceql_view(q, v.r, &r) && r.op == TQ_VIEW_EXISTS && str_is(r.field.key, "e"));
	assert_true(traceql_view(q, v.l, &v) && traceql_view(q, v.r, &r) && r.op == TQ_VIEW_ABSENT && str_is(r.field.key, "d"));
	assert_true(traceql_view(q, v.l, &v) && traceql_view(q, v.l, &l) && l.op == TQ_VIEW_CMP);
	assert_string_equal(l.cmp, ">");
	assert_true(str_is(l.field.key, "a") && l.value.type == TQ_INT && l.value.i == 5);
	assert_true(traceql_view(q, v.r, &v) && v.op == TQ_VIEW_OR);
	assert_true(traceql_view(q, v.l, &l) && l.op == TQ_VIEW_CMP && l.value.type == TQ_BOOL && l.value.i);
	assert_true(traceql_view(q, v.r, &r) && r.op == TQ_VIEW_NOT && traceql_view(q, r.l, &l) && l.op == TQ_VIEW_CMP);
	assert_string_equal(l.cmp, "=~");
	assert_true(str_is(l.value.s, "x.*"));
	traceql_destroy(q);
	q = parse("{ }");
	assert_false(traceql_root(q, &node));
	traceql_destroy(q);
}

static void traceql_parts_keep_their_places(void **state)
{
	struct traceql *q = parse("{ name = \"x\" &&\n .tenant =~ \"7.*\" && span.a != 1 }"), *site, *request;
	struct err e = { 0 };
	assert_int_equal(traceql_split_start(q, &site, &request, &e), 0);
	traceql_destroy(q);
	assert_int_equal(traceql_check_site(request, &e), KLIEG_E_TYPE);
	assert_int_equal(e.line, 2);
	assert_int_equal(e.column, 2);
	struct batch *b = batch_create();
	struct span *s = batch_add_span(b);
	s->attrs.off = (uint32_t)(batch_add_attrs(b, 1) - b->attrs);
	s->attrs.n = 1;
	b->attrs[s->attrs.off] = (struct attr){ .key = batch_str(b, STR("tenant")), .type = ATTR_STR, .s = batch_str(b, STR("77")) };
	struct traceql *only = parse("{ .tenant =~ \"7.*\" }");
	assert_true(traceql_match(only, b, 0));
	assert_false(traceql_match(request, b, 0)); /* span.a is missing */
	assert_true(traceql_implies(request, only) && !traceql_implies(only, request));
	traceql_destroy(only);
	batch_destroy(b);
	traceql_destroy(site);
	traceql_destroy(request);
}

static void traceql_what_follows(void **state)
{
	static const struct { const char *a, *b; bool yes; } cases[] = {
		{ "{ name = \"a\" }", "{ }", true }, { "{ }", "{ name = \"a\" }", false }, { "{ }", "{ }", true },
		{ "{ name = \"a\" && kind = server }", "{ kind = server }", true }, { "{ kind = server }", "{ kind = server && name = \"a\" }", false },
		{ "{ name = \"abc\" }", "{ name =~ \"a.*\" }", true }, { "{ name = \"abc\" }", "{ name =~ \"b.*\" }", false },
		{ "{ name =~ \"a.*\" }", "{ name =~ \"a.*\" }", true }, { "{ name =~ \"ab.*\" }", "{ name =~ \"a.*\" }", false }, /* true, but not seen */
		{ "{ name = \"abc\" }", "{ name != \"x\" }", true }, { "{ .a = 1 }", "{ .a != 2 }", false }, /* an array may hold both */
		{ "{ .a = 1 }", "{ .a = 1.0 }", true }, { "{ .a = 5 }", "{ .a > 3 }", true },
		{ "{ resource.x = 5 }", "{ resource.x != 3 }", false }, { "{ .a = 1 }", "{ span.a = 1 }", false },
		{ "{ name = \"a\" }", "{ name = \"a\" || name = \"b\" }", true }, { "{ name = \"a\" || name = \"b\" }", "{ name = \"a\" }", false },
		{ "{ (name = \"a\" || name = \"b\") && kind = server }", "{ name = \"a\" || name = \"b\" }", true },
		{ "{ name = \"a\" }", "{ !(name = \"b\") }", false }, { "{ event:name = \"a\" }", "{ event:name != \"b\" }", false },
	};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct traceql *a = parse(cases[i].a), *b = parse(cases[i].b);
		if (traceql_implies(a, b) != cases[i].yes)
			fail_msg("%s and %s", cases[i].a, cases[i].b);
		traceql_destroy(a);
		traceql_destroy(b);
	}
}

static void traceql_what_excludes(void **state)
{
	static const struct { const char *a, *b; bool yes; } cases[] = {
		{ "{ name = \"a\" }", "{ name = \"b\" }", true }, { "{ name = \"a\" }", "{ name = \"a\" }", false }, { "{ name = \"a\" }", "{ }", false },
		{ "{ name =~ \"b.*\" }", "{ name = \"ab\" || name = \"c\" }", true }, { "{ name =~ \"b.*\" }", "{ name = \"ab\" || name = \"bc\" }", false },
		{ "{ name =~ \"b.*\" }", "{ name =~ \"a.*\" }", false }, /* true, but not seen */
		{ "{ kind = server && resource.service.name = \"x\" }", "{ status = error && resource.service.name = \"y\" }", true },
		{ "{ .a = 1 }", "{ .a = 2 }", false }, /* an array may hold both */
		{ "{ !(name = \"a\") }", "{ name = \"a\" }", false }, { "{ name = \"a\" && name != \"b\" }", "{ name != \"a\" }", true },
	};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct traceql *a = parse(cases[i].a), *b = parse(cases[i].b);
		if (traceql_excludes(a, b) != cases[i].yes || traceql_excludes(b, a) != cases[i].yes)
			fail_msg("%s and %s", cases[i].a, cases[i].b);
		traceql_destroy(a);
		traceql_destroy(b);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(traceql_golden), cmocka_unit_test(traceql_metric_parts), cmocka_unit_test(traceql_views),
		cmocka_unit_test(traceql_parts_keep_their_places), cmocka_unit_test(traceql_what_follows), cmocka_unit_test(traceql_what_excludes), cmocka_unit_test(traceql_limits),
		cmocka_unit_test(traceql_semantics),
		cmocka_unit_test(traceql_regex_gives_up), cmocka_unit_test(traceql_site_check), cmocka_unit_test(traceql_pushes_down),
		cmocka_unit_test(traceql_prints_what_it_parses), cmocka_unit_test(traceql_matcher_changes_batches),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
