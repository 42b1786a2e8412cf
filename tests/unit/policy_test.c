/* Policies: what is told of bad documents (golden texts, policy_golden.txt), where in the YAML it is told, what a good one becomes, when triggers
 * move, and which rules match which sites: the index agrees with plain evaluation over random rules and sites. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include "policy/doc.h"
#include "policy/match.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <yaml.h>

#define SECOND 1000000000ll

static uint64_t seed = 7;
static uint32_t rnd(uint32_t n)
{
	seed = seed * 6364136223846793005ull + 1442695040888963407ull;
	return (uint32_t)(seed >> 33) % n;
}

static const char checkout[] =
	"policy: checkout\n"
	"rules:\n"
	"  - name: slow-payments\n"
	"    match: '{ resource.service.name = \"checkout\" && name =~ \"payment.*\" && .tenant = \"7\" }'\n"
	"    level: span                 # off | count | span | detail | deep\n"
	"    keep: 10%                   # consistent probability; or 200/s\n"
	"    escalate:\n"
	"      when: '{ name = \"payment.charge\" } | quantile_over_time(duration, .99) > 250ms'\n"
	"      over: 30s\n"
	"      to: detail\n"
	"      decay: 5m\n"
	"    redact: [user.email, \"http.request.header.*\"]\n"
	"    send: [store, archive]      # named destinations\n"
	"    retain: 3d\n"
	"    rollout: [1 process, 10%, 100%]\n"
	"    for: 2h\n"
	"limits:\n"
	"  - match: '{ }'\n"
	"    overhead: 1%                # of the process's CPU time, measured\n"
	"    level: detail               # nobody goes deeper than this by policy\n";

static struct policy *parse(const char *text)
{
	struct policy *p = NULL;
	struct policy_diags d;
	int rc = policy_parse(str_of(text), &p, &d);
	if (rc < 0)
		fail_msg("%d:%d %s %s", d.list[0].line, d.list[0].column, d.list[0].code, d.list[0].message);
	policy_diags_finish(&d);
	return p;
}

/* expected: JSON with ' for " and ` for a " within a text. */
static void assert_json(json_t *j, const char *expected)
{
	struct buf b = { 0 };
	for (const char *c = expected; *c; c++)
		buf_add_str(&b, *c == '\'' ? "\"" : *c == '`' ? "\\\"" : (char[]){ *c, 0 });
	json_t *e = json_loadb((char *)b.p, b.n, 0, NULL);
	assert_non_null(e);
	if (!json_equal(j, e))
		fail_msg("%s\nand not\n%s", json_dumps(j, JSON_SORT_KEYS), expected);
	buf_finish(&b);
	json_decref(e);
	json_decref(j);
}

/* ---- documents ---------------------------------------------------------------------------------------------------------- */

static void policy_of_the_design(void **state)
{
	struct policy *p = parse(checkout);
	assert_string_equal(p->name, "checkout");
	assert_int_equal(p->nrules, 1);
	struct policy_rule *r = p->rules;
	struct buf b = { 0 };
	traceql_print(r->site, &b);
	assert_true(str_is(buf_str(&b), "{ resource.service.name = \"checkout\" && name =~ \"payment.*\" }"));
	buf_clear(&b);
	traceql_print(r->request, &b);
	assert_true(str_is(buf_str(&b), "{ .tenant = \"7\" }"));
	buf_finish(&b);
	assert_int_equal(r->level, POLICY_LEVEL_SPAN);
	assert_true(r->keep > .0999 && r->keep < .1001 && r->rate == 0);
	assert_int_equal(r->escalate->over_ns, 30 * SECOND);
	assert_int_equal(r->escalate->decay_ns, 300 * SECOND);
	assert_int_equal(r->escalate->to, POLICY_LEVEL_DETAIL);
	assert_int_equal(r->retain_ns, 3 * 86400 * SECOND);
	assert_int_equal(r->for_ns, 7200 * SECOND);
	assert_int_equal(r->nrollout, 3);
	assert_int_equal(r->rollout[0].processes, 1);
	assert_true(r->rollout[2].share == 1);
	assert_int_equal(r->line, 3);
	assert_true(p->limits[0].overhead == 1 && p->limits[0].level == POLICY_LEVEL_DETAIL);
	assert_json(policy_json(p), "{'name': 'checkout', 'rules': [{'name': 'slow-payments', 'level': 'span', 'keep': 0.1,"
		"'match': '{ resource.service.name = `checkout` && name =~ `payment.*` && .tenant = `7` }',"
		"'escalate': {'when': '{ name = `payment.charge` } | quantile_over_time(duration, 0.99) > 250ms', 'over': '30s', 'to': 'detail', 'decay': '5m',"
		"  'cooldown': '1m'},"
		"'redact': ['user.email', 'http.request.header.*'], 'send': ['store', 'archive'], 'retain': '3d', 'rollout': ['1 process', '10%', '100%'],"
		"'for': '2h'}], 'limits': [{'match': '{ }', 'overhead': '1%', 'level': 'detail'}]}");
	assert_json(policy_wire(p, 3, "ann", "slow", 1000), "[{'id': 'p:checkout/slow-payments', 'kind': 'trace', 'level': 'span', 'keep': 0.1,"
		"'selector': '{ resource.service.name = `checkout` && name =~ `payment.*` && .tenant = `7` }',"
		"'escalate': {'when': '{ name = `payment.charge` } | quantile_over_time(duration, 0.99) > 250ms', 'over_nano': 30000000000, 'to': 'detail',"
		"  'decay_nano': 300000000000, 'cooldown_nano': 60000000000},"
		"'redact': ['user.email', 'http.request.header.*'], 'expires_unix_nano': 7200000001000, 'owner': 'ann', 'reason': 'slow', 'policy': 'checkout',"
		"'rule': 'slow-payments', 'version': 3},"
		"{'id': 'l:checkout/1', 'kind': 'limit', 'selector': '{ }', 'level': 'detail', 'overhead': 1.0, 'expires_unix_nano': 0, 'owner': 'ann',"
		"'reason': 'slow', 'policy': 'checkout', 'version': 3}]");
	policy_destroy(p);
}

/* Documents and what is told of them: "=== what it is about", the text, then after "---" what is told, or "ok". */
static void policy_golden(void **state)
{
	struct buf file = { 0 };
	assert_int_equal(buf_read_file(POLICY_GOLDEN, 1u << 20, &file), 0);
	buf_byte(&file, 0);
	char codes[4096] = "";
	int cases = 0;
	bool update = getenv("POLICY_GOLDEN_UPDATE");
	struct buf out = { 0 };
	char *at = strstr((char *)file.p, "\n=== ") + 1;
	buf_add(&out, file.p, (size_t)(at - (char *)file.p));
	while (at) {
		char *text = strchr(at, '\n') + 1, *sep = strstr(text, "---\n"), *end = strstr(sep, "\n=== ");
		struct str expected = { sep + 4, (size_t)((end ? end + 1 : (char *)file.p + file.n - 1) - sep - 4) };
		struct policy *p = NULL;
		struct policy_diags d;
		struct buf got = { 0 };
		int rc = policy_parse((struct str){ text, (size_t)(sep - text) }, &p, &d);
		assert_true(rc == (d.errors ? KLIEG_E_BAD_DATA : 0) || rc == KLIEG_E_LIMIT);
		assert_int_equal(p != NULL, rc == 0);
		for (uint32_t i = 0; i < d.n; i++) {
			const struct policy_diag *g = d.list + i;
			assert_int_equal(g->error, g->code[1] == '1');
			buf_printf(&got, "%s %d:%d-%d %s%s%s\n", g->code, g->line, g->column, g->end_column, g->message, g->hint[0] ? " | " : "", g->hint);
			if (!strstr(codes, g->code))
				snprintf(codes + strlen(codes), sizeof codes - strlen(codes), "%s", g->code);
		}
		if (!d.n)
			buf_add_str(&got, "ok\n");
		buf_byte(&got, '\n');
		json_t *j = policy_diags_json(&d);
		assert_int_equal(json_array_size(j), d.n);
		json_decref(j);
		if (!update && !str_eq(buf_str(&got), expected) && !(!end && got.n == expected.n + 1))
			fail_msg("%.*s\n  expected:\n%.*s\n  got:\n%.*s", (int)(text - at), at, (int)expected.n, expected.p, (int)got.n, (char *)got.p);
		buf_add(&out, at, (size_t)(sep + 4 - at));
		buf_add(&out, got.p, got.n);
		policy_destroy(p);
		policy_diags_finish(&d);
		buf_finish(&got);
		cases++;
		at = end ? end + 1 : NULL;
	}
	if (update) {
		FILE *f = fopen(POLICY_GOLDEN, "w");
		fwrite(out.p, 1, out.n - 1, f);
		fclose(f);
	}
	assert_true(cases > 40);
	/* Every code of the reference is shown by some document, and no other is. */
	struct buf docs = { 0 };
	assert_int_equal(buf_read_file(POLICY_DOCS, 1u << 20, &docs), 0);
	buf_byte(&docs, 0);
	int documented = 0;
	for (char *c = (char *)docs.p; (c = strstr(c, "| P")); c += 3)
		if ((c[3] == '1' || c[3] == '2') && c[6] == ' ') {
			char code[5] = { 'P', c[3], c[4], c[5], 0 };
			documented++;
			if (!strstr(codes, code) && !strstr("P100 P105 P106 P107", code)) /* those want big documents: below */
				fail_msg("%s is documented, but no golden document has it", code);
		}
	for (char *c = codes; *c; c += 4) {
		char row[16];
		snprintf(row, sizeof row, "| %.4s |", c);
		if (!strstr((char *)docs.p, row))
			fail_msg("%.4s is not in docs/policy.md", c);
	}
	assert_true(documented >= 30);
	/* And its example is one. */
	char *example = strstr((char *)docs.p, "```yaml\n") + 8, *after = strstr(example, "```");
	*after = 0;
	policy_destroy(parse(example));
	buf_finish(&docs);
	buf_finish(&out);
	buf_finish(&file);
}

static const char *first_code(struct buf *b, int expected_rc)
{
	static char code[8];
	struct policy *p = NULL;
	struct policy_diags d;
	assert_int_equal(policy_parse(buf_str(b), &p, &d), expected_rc);
	snprintf(code, sizeof code, "%s", d.n ? d.list[0].code : "");
	assert_true(d.n <= POLICY_DIAGS_MAX);
	policy_destroy(p);
	policy_diags_finish(&d);
	buf_finish(b);
	return code;
}

static void policy_limits(void **state)
{
	struct buf b = { 0 };
	buf_add_str(&b, "policy: x\nrules:\n");
	for (int i = 0; i < 1000; i++)
		buf_printf(&b, "  - {name: r%d, match: '{ name = \"n%d\" }'}\n", i, i);
	struct buf copy = { 0 };
	buf_add(&copy, b.p, b.n);
	assert_string_equal(first_code(&copy, 0), "");
	buf_add_str(&b, "  - {name: one-more, match: '{ name = \"x\" }'}\n");
	assert_string_equal(first_code(&b, KLIEG_E_BAD_DATA), "P106");
	buf_add_str(&b, "policy: x\nlimits:\n");
	for (int i = 0; i < 101; i++)
		buf_add_str(&b, "  - {match: '{ }', level: span}\n");
	assert_string_equal(first_code(&b, KLIEG_E_BAD_DATA), "P106");
	buf_add_str(&b, "policy: x\n# ");
	while (b.n <= 1u << 20)
		buf_byte(&b, 'x');
	assert_string_equal(first_code(&b, KLIEG_E_LIMIT), "P100");
	buf_add_str(&b, "policy: ");
	for (int i = 0; i < 500000; i++)
		buf_byte(&b, '[');
	assert_string_equal(first_code(&b, KLIEG_E_LIMIT), "P105");
	buf_add_str(&b, "policy: [");
	for (int i = 0; i < 200000; i++)
		buf_add_str(&b, "a,");
	assert_string_equal(first_code(&b, KLIEG_E_LIMIT), "P105");
	/* The bomb: each line ten of the one before. Aliases are refused, so it is a list of complaints and no more. */
	buf_add_str(&b, "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
	for (int i = 1; i < 12; i++)
		buf_printf(&b, "a%d: &a%d [*a%d,*a%d,*a%d,*a%d,*a%d,*a%d,*a%d,*a%d,*a%d,*a%d]\n", i, i, i - 1, i - 1, i - 1, i - 1, i - 1, i - 1, i - 1,
			i - 1, i - 1, i - 1);
	assert_string_equal(first_code(&b, KLIEG_E_BAD_DATA), "P111");
	buf_add_str(&b, "policy: x\nrules: ");
	for (int i = 0; i < 20000; i++)
		buf_printf(&b, "\n  - {k%d: 1}", i % 900);
	assert_string_equal(first_code(&b, KLIEG_E_BAD_DATA), "P106");
	buf_add_str(&b, "policy: x");
	for (int i = 0; i < 40000; i++)
		buf_printf(&b, "\nk%d: 1", i);
	assert_string_equal(first_code(&b, KLIEG_E_BAD_DATA), "P111");
	buf_add_str(&b, "policy: x\nrules:\n"); /* short texts that are big once compiled */
	for (int i = 0; i < 1000; i++)
		buf_printf(&b, "  - {name: r%d, match: '{ name =~ `((a{1,50}){1,50}b%d)` && name =~ `((a{1,50}){1,50}c%d)` }'}\n", i, i, i);
	assert_string_equal(first_code(&b, KLIEG_E_BAD_DATA), "P107");
	buf_add(&b, "policy: x\0y\n", 12);
	assert_string_equal(first_code(&b, KLIEG_E_BAD_DATA), "P102");
	buf_add_str(&b, "policy: \xff\n");
	assert_string_equal(first_code(&b, KLIEG_E_BAD_DATA), "P102");
	buf_add_str(&b, "\xef\xbb\xbfpolicy: x\nrules: [{name: a, match: '{ name = \"a\" }'}]\n");
	assert_string_equal(first_code(&b, 0), "");
	assert_string_equal(first_code(&b, KLIEG_E_BAD_DATA), "P104");
}

/* Whatever style a text has in YAML, each character of it is found where it stands. */
static void policy_places(void **state)
{
	static const yaml_scalar_style_t styles[] = { YAML_PLAIN_SCALAR_STYLE, YAML_SINGLE_QUOTED_SCALAR_STYLE, YAML_DOUBLE_QUOTED_SCALAR_STYLE,
		YAML_LITERAL_SCALAR_STYLE, YAML_FOLDED_SCALAR_STYLE };
	static const char *const words[] = { "name", "=", "\"pay.*\"", "&&", "'7'", "\xc3\xa4\xe2\x82\xac\xf0\x9f\x99\x82", "\\d+", "{", "}", "\n",
		"\n\n", " ", "  ", "duration", "it's", "\t", ">", "|", "\x01" };
	static const char *const harmless[] = { "name", "duration", "a,b", "\n" };
	unsigned located[5] = { 0 };
	for (int round = 0; round < 4000; round++) {
		struct buf v = { 0 };
		bool plain = round % 4 == 0; /* most of the words cannot stand without quotes */
		for (uint32_t n = 1 + rnd(20); n; n--) {
			buf_add_str(&v, plain ? harmless[n == 1 ? 0 : rnd(4)] : words[rnd(sizeof words / sizeof *words)]);
			if (n > 1 && rnd(3))
				buf_byte(&v, ' ');
		}
		yaml_emitter_t em;
		yaml_event_t e;
		unsigned char out[8192];
		size_t written = 0, depth = rnd(4);
		yaml_emitter_initialize(&em);
		yaml_emitter_set_output_string(&em, out, sizeof out, &written);
		yaml_emitter_set_width(&em, (int)(10 + rnd(60)));
		yaml_emitter_set_indent(&em, (int)(2 + rnd(4)));
		yaml_emitter_set_unicode(&em, (int)rnd(2));
		yaml_emitter_set_break(&em, rnd(4) ? YAML_LN_BREAK : YAML_CRLN_BREAK);
#define EMIT(make) do { assert_true(make); assert_true(yaml_emitter_emit(&em, &e)); } while (0)
		EMIT(yaml_stream_start_event_initialize(&e, YAML_UTF8_ENCODING));
		EMIT(yaml_document_start_event_initialize(&e, NULL, NULL, NULL, 1));
		for (size_t i = 0; i <= depth; i++) {
			EMIT(yaml_mapping_start_event_initialize(&e, NULL, NULL, 1, YAML_BLOCK_MAPPING_STYLE));
			EMIT(yaml_scalar_event_initialize(&e, NULL, NULL, (yaml_char_t *)"key", 3, 1, 1, YAML_PLAIN_SCALAR_STYLE));
		}
		EMIT(yaml_scalar_event_initialize(&e, NULL, NULL, v.p, (int)v.n, 1, 1, styles[plain ? 0 : rnd(5)]));
		for (size_t i = 0; i <= depth; i++)
			EMIT(yaml_mapping_end_event_initialize(&e));
		EMIT(yaml_document_end_event_initialize(&e, 1));
		EMIT(yaml_stream_end_event_initialize(&e));
		yaml_emitter_flush(&em);
		yaml_emitter_delete(&em);
		struct doc d;
		struct policy_diags diags;
		if (doc_parse(&d, (struct str){ (char *)out, written }, &diags) >= 0) {
			const struct doc_node *n = d.root;
			while (n->kind == DOC_MAP)
				n = n->first->next;
			for (size_t i = 0; i < n->text.n; i++) {
				unsigned char c = (unsigned char)n->text.p[i];
				if (c <= 0x20 || c >= 0x80)
					continue;
				uint32_t at = doc_locate(&d, n, i);
				bool escaped = n->style == DOC_DOUBLE && d.source.p[at] == '\\';
				if (!escaped && (unsigned char)d.source.p[at] != c && !(n->style == DOC_SINGLE && c == '\''))
					fail_msg("byte %zu (%c) of %s in style %d is not at byte %u of:\n%.*s", i, c, n->text.p, (int)n->style, at, (int)written,
						(char *)out);
				located[n->style]++;
			}
			assert_true(doc_locate(&d, n, n->text.n) <= d.source.n);
		}
		doc_finish(&d);
		policy_diags_finish(&diags);
		buf_finish(&v);
	}
	for (int i = 0; i < 5; i++)
		if (located[i] < 500)
			fail_msg("style %d: only %u characters were tried", i, located[i]);
}

/* ---- triggers ----------------------------------------------------------------------------------------------------------- */

struct trial { struct policy *p; const struct policy_trigger *t; struct trigger_state s; int64_t now; unsigned ups, downs; };

static void begin(struct trial *x, const char *when, const char *times)
{
	struct buf b = { 0 };
	buf_printf(&b, "policy: x\nrules:\n  - name: r\n    match: '{ name = \"a\" }'\n    level: count\n    escalate: {when: '%s', to: detail, %s}\n%c",
		when, times, 0);
	*x = (struct trial){ .p = parse((char *)b.p), .now = 1000 * SECOND };
	x->t = x->p->rules[0].escalate;
	x->s = (struct trigger_state){ .base = POLICY_LEVEL_COUNT, .level = POLICY_LEVEL_COUNT };
	buf_finish(&b);
}

/* A measurement each second for so long. */
static void during(struct trial *x, int seconds, bool known, double value)
{
	for (int i = 0; i < seconds; i++) {
		x->now += SECOND;
		enum trigger_move m = trigger_step(x->t, &x->s, x->now, known, value);
		x->ups += m == TRIGGER_UP;
		x->downs += m == TRIGGER_DOWN;
		assert_true(x->s.level >= POLICY_LEVEL_COUNT && x->s.level <= POLICY_LEVEL_DETAIL);
	}
}

#define MS 1e6
static const char slow[] = "{ } | quantile_over_time(duration, .99) > 250ms", times[] = "over: 10s, decay: 60s, cooldown: 30s";

static void trigger_climbs_and_decays(void **state)
{
	struct trial x;
	begin(&x, slow, times);
	during(&x, 10, true, 300 * MS);
	assert_int_equal(x.s.level, POLICY_LEVEL_COUNT); /* ten measurements are nine seconds */
	during(&x, 1, true, 300 * MS);
	assert_int_equal(x.s.level, POLICY_LEVEL_SPAN);
	during(&x, 9, true, 300 * MS);
	assert_int_equal(x.s.level, POLICY_LEVEL_SPAN);
	during(&x, 1, true, 300 * MS);
	assert_int_equal(x.s.level, POLICY_LEVEL_DETAIL);
	during(&x, 1000, true, 900 * MS); /* never above `to` */
	assert_int_equal(x.ups, 2);
	during(&x, 60, true, 100 * MS);
	assert_int_equal(x.downs, 0);
	during(&x, 1, true, 100 * MS);
	assert_int_equal(x.downs, 1);
	during(&x, 29, true, 300 * MS); /* breached, but the cooldown is not over */
	assert_int_equal(x.ups, 2);
	during(&x, 2, true, 300 * MS);
	assert_int_equal(x.ups, 3);
	during(&x, 1000, true, 0);
	assert_int_equal(x.s.level, POLICY_LEVEL_COUNT);
	assert_int_equal(x.downs, 3);
	policy_destroy(x.p);
}

static void trigger_does_not_flap(void **state)
{
	struct trial x;
	begin(&x, slow, times);
	for (int i = 0; i < 5000; i++) /* over and calm by turns: neither lasts */
		during(&x, 1, true, i % 2 ? 1000 * MS : 0);
	for (int i = 0; i < 500; i++) { /* one second of calm in ten */
		during(&x, 9, true, 1000 * MS);
		during(&x, 1, true, 240 * MS); /* not even calm */
	}
	assert_int_equal(x.ups + x.downs, 0);
	during(&x, 30, true, 251 * MS);
	assert_int_equal(x.ups, 2);
	during(&x, 100000, true, 226 * MS); /* under the threshold, but not by a tenth */
	assert_int_equal(x.downs, 0);
	for (int i = 0; i < 2000; i++) { /* noise around the threshold */
		during(&x, 1 + (int)rnd(8), true, (226 + rnd(60)) * MS);
		during(&x, 1 + (int)rnd(50), true, (100 + rnd(100)) * MS);
		during(&x, 1, true, 250 * MS);
	}
	assert_int_equal(x.ups + x.downs, 2);
	/* Whatever comes: between a step down and the next step up is the cooldown, between any two steps over or decay. */
	int64_t moved = x.now, lowered = 0;
	for (int i = 0; i < 200000; i++) {
		x.now += (int64_t)rnd(3000) * 1000000;
		enum trigger_move m = trigger_step(x.t, &x.s, x.now, rnd(20) > 0, (rnd(100) < 50 + 45 * (i / 400 % 2 ? 1 : -1) ? 300 : 100) * MS);
		if (m == TRIGGER_UP) {
			assert_true(!lowered || x.now - lowered >= 30 * SECOND);
			assert_true(x.now - moved >= 10 * SECOND);
		} else if (m == TRIGGER_DOWN) {
			assert_true(x.now - moved >= 60 * SECOND);
			lowered = x.now;
		}
		moved = m != TRIGGER_STAY ? x.now : moved;
	}
	policy_destroy(x.p);
}

static void trigger_says_why(void **state)
{
	static const struct { const char *when; double value; bool up; const char *words; } cases[] = {
		{ slow, 300 * MS, true, "the p99 of the durations is 300 ms, over 250 ms for 10 s" },
		{ slow, 100 * MS, false, "the p99 of the durations is 100 ms, under 250 ms for 60 s" },
		{ "{ } | avg_over_time(span.klieg.queue_nano) > 50ms", 1.5e9, true, "the mean of what requests waited is 1.5 s, over 50 ms for 10 s" },
		{ "{ } | quantile_over_time(.klieg.queue_nano, .5) > 3 with(baseline=10m)", 7.25, true,
			"the p50 of what requests waited is 7.25 times as usual, over 3 times as usual for 10 s" },
		{ "{ } | rate() < 10", 2, true, "the rate is 2/s, under 10/s for 10 s" },
		{ slow, NAN, false, "nothing was measured for 60 s" },
		{ "{ } | count_over_time() >= 5", 1, false, "the number of calls is 1, under 5 for 60 s" },
	};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct trial x;
		char words[200], cut[10];
		begin(&x, cases[i].when, times);
		trigger_words(x.t, cases[i].value, cases[i].up, words, sizeof words);
		assert_string_equal(words, cases[i].words);
		trigger_words(x.t, cases[i].value, cases[i].up, cut, sizeof cut);
		assert_int_equal(strlen(cut), 9);
		policy_destroy(x.p);
	}
}

static void trigger_unknown_and_clocks(void **state)
{
	struct trial x;
	begin(&x, slow, times);
	during(&x, 6, true, 300 * MS);
	during(&x, 100000, false, 0);
	during(&x, 1, false, NAN);
	during(&x, 1, true, NAN);
	assert_int_equal(x.ups, 0); /* silence proves nothing */
	during(&x, 4, true, 300 * MS);
	assert_int_equal(x.ups, 0);
	during(&x, 1, true, 300 * MS);
	assert_int_equal(x.ups, 1); /* but what was known before counts */
	during(&x, 59, false, 0);
	assert_int_equal(x.downs, 0); /* for a while nothing is concluded from silence, in the end that it is over */
	during(&x, 1, true, 300 * MS);
	during(&x, 59, false, 0);
	assert_int_equal(x.downs, 0);
	during(&x, 1, false, 0);
	assert_int_equal(x.downs, 1);
	during(&x, 100000, false, 0);
	assert_int_equal(x.downs, 1); /* its own level stays */
	during(&x, 11, true, 300 * MS);
	assert_int_equal(x.ups, 2);
	x.ups = 1, x.downs = 0;
	during(&x, 5, true, 300 * MS);
	x.now -= 3600 * SECOND;
	during(&x, 10, true, 300 * MS);
	assert_int_equal(x.ups, 1); /* the wait has started over */
	during(&x, 1, true, 300 * MS);
	assert_int_equal(x.ups, 2);
	during(&x, 30, true, 0);
	x.now -= 7200 * SECOND;
	during(&x, 60, true, 0);
	assert_int_equal(x.downs, 0);
	during(&x, 1, true, 0);
	assert_int_equal(x.downs, 1);
	x.now -= 100000 * SECOND; /* the cooldown does not last for ever because of it */
	during(&x, 32, true, 300 * MS);
	assert_int_equal(x.ups, 3);
	x.s = (struct trigger_state){ .base = POLICY_LEVEL_COUNT, .level = POLICY_LEVEL_COUNT };
	during(&x, 1, true, 300 * MS);
	x.now += 7200 * SECOND; /* a suspended machine: two measurements are no proof of two hours */
	during(&x, 1, true, 300 * MS);
	assert_int_equal(x.s.level, POLICY_LEVEL_SPAN); /* ten seconds are granted */
	x.now += 7200 * SECOND;
	trigger_step(x.t, &x.s, x.now, true, 0);
	during(&x, 59, true, 0);
	assert_int_equal(x.s.level, POLICY_LEVEL_SPAN);
	policy_destroy(x.p);
	begin(&x, "{ status = error } | rate() > 0", times); /* at zero a tenth is nothing: calm is none at all */
	during(&x, 30, true, .001);
	assert_int_equal(x.ups, 2);
	during(&x, 130, true, 0);
	assert_int_equal(x.downs, 2);
	policy_destroy(x.p);
	begin(&x, "{ } | rate() < 100", times); /* too few */
	during(&x, 30, true, 10);
	assert_int_equal(x.ups, 2);
	during(&x, 200, true, 105);
	assert_int_equal(x.downs, 0);
	during(&x, 130, true, 111);
	assert_int_equal(x.downs, 2);
	policy_destroy(x.p);
}

/* ---- the index ------------------------------------------------------------------------------------------------------------ */

struct site { const char *service, *name, *component; bool nameless, serviceless; };

static void site_get(void *ctx, const struct tq_field *f, struct tq_value *ret_v)
{
	const struct site *s = ctx;
	const char *text = NULL;
	if (f->scope == TQ_INTRINSIC)
		text = f->intrinsic == TQ_NAME && !s->nameless ? s->name : f->intrinsic == TQ_SCOPE_NAME ? s->component : NULL;
	else if (str_is(f->key, "service.name") && !s->serviceless)
		text = s->service;
	else if (f->scope != TQ_RESOURCE && str_is(f->key, "component"))
		text = s->component;
	*ret_v = text ? (struct tq_value){ .type = TQ_STR, .s = str_of(text) } : (struct tq_value){ .type = TQ_NIL };
}

static const char *const names[] = { "payment.charge", "payment.charge\nx", "payment", "pay", "", "p", "payment_charge", "order.create",
	"\xc3\xa4rger", "\xc3\xa4",
	"payment.\xff", "a|b", "ab", "b", "payment.charge.with.a.name.that.is.longer.than.any.beginning.that.the.index.files", "x\\y", "aab", "a", "ac" };
static const char *const patterns[] = { "payment.*", "pay.*", "payment\\\\.ch.*", ".*", "", "p", "pay(ment|load).*", "payment|order.*",
	"[p]ay.*", "a\\\\|b", "a|b",
	"(?i)PAY.*", "paymentx?.*", "\xc3\xa4.*", "\xc3\xa4*.*", "payment.charge", "a[](]|b", "a\\\\Q[\\\\E|b", "a{1,2}b", "ab*", "a.", ".+charge.*",
		"a\\\\\\\\|b",
	"payment.charge.with.a.name.that.is.longer.than.any.beginning.that.the.index.files.*", "a([)]|b)|b", "a(b)|c", "x\\\\\\\\y" };
static const char *const services[] = { "shop", "pay", "" };

static void condition(struct buf *b, int depth)
{
	switch (rnd(depth ? 9 : 7)) {
	case 0: buf_printf(b, "resource.service.name = \"%s\"", services[rnd(3)]); break;
	case 1: buf_printf(b, "name = \"%s\"", rnd(2) ? "payment.charge" : rnd(2) ? "payment" : ""); break;
	case 2: case 3: buf_printf(b, "name =~ \"%s\"", patterns[rnd(sizeof patterns / sizeof *patterns)]); break;
	case 4: buf_printf(b, "name %s \"%s\"", rnd(2) ? "!~" : "!=", rnd(2) ? "pay.*" : "payment"); break;
	case 5: buf_printf(b, ".component = \"%s\"", rnd(2) ? "lib" : "other"); break;
	case 6: buf_add_str(b, rnd(2) ? ".component != nil" : "\"payment\" = name"); break;
	default:
		buf_add_str(b, rnd(3) ? "(" : "!(");
		condition(b, depth - 1);
		buf_add_str(b, rnd(2) ? " && " : " || ");
		condition(b, depth - 1);
		buf_byte(b, ')');
	}
}

static void collect(void *arg, void *handle) { ((uint8_t *)arg)[(uintptr_t)handle]++; }

static void match_agrees_with_evaluation(void **state)
{
	enum { RULES = 3000 };
	struct traceql *rules[RULES] = { 0 };
	bool in[RULES] = { 0 };
	struct match_index *m = match_create();
	uint64_t hits = 0, filed = 0;
	for (uintptr_t i = 1; i < RULES; i++) {
		struct buf b = { 0 };
		struct err e;
		buf_add_str(&b, "{ ");
		for (uint32_t n = rnd(4), k = 0; k < n; k++) {
			if (k)
				buf_add_str(&b, " && ");
			condition(&b, 2);
		}
		buf_add_str(&b, " }");
		if (traceql_parse(buf_str(&b), rules + i, &e) < 0)
			fail_msg("%.*s: %s", (int)b.n, (char *)b.p, e.msg);
		buf_finish(&b);
		match_add(m, (void *)i, rules[i]);
		in[i] = true;
		filed++;
	}
	for (int round = 0; round < 6; round++) {
		for (size_t n = 0; n < sizeof names / sizeof *names * 8; n++) {
			struct site s = { services[n % 2], names[n / 8], n % 3 ? "lib" : NULL, .nameless = n % 8 == 6, .serviceless = n % 8 == 7 };
			struct tq_source src = { .ctx = &s, .get = site_get };
			uint8_t got[RULES] = { 0 };
			uint32_t count = match_site(m, &src, collect, got), expected = 0;
			for (uintptr_t i = 1; i < RULES; i++) {
				bool yes = in[i] && traceql_eval(rules[i], &src);
				if (got[i] != yes || match_one(m, (void *)i, &src) != yes) {
					struct buf b = { 0 };
					traceql_print(rules[i], &b);
					fail_msg("%.*s on service %s, name %s: %d, not %d", (int)b.n, (char *)b.p, s.serviceless ? "-" : s.service,
						s.nameless ? "-" : s.name, got[i], yes);
				}
				expected += yes;
			}
			assert_int_equal(count, expected);
			hits += count;
		}
		for (uintptr_t i = 1; i < RULES; i++) /* some go, some come back */
			if (rnd(2)) {
				if (in[i])
					match_remove(m, (void *)i);
				else
					match_add(m, (void *)i, rules[i]);
				filed += in[i] ? (uint64_t)-1 : 1;
				in[i] = !in[i];
			}
		assert_int_equal(match_count(m), filed);
	}
	assert_true(hits > 10000);
	for (uintptr_t i = 1; i < RULES; i++) {
		match_remove(m, (void *)i);
		traceql_destroy(rules[i]);
	}
	assert_int_equal(match_count(m), 0);
	match_destroy(m);
	match_destroy(NULL);
}

static void last_found(void *arg, void *handle) { *(void **)arg = handle; }

/* Months of toggles: what is there still matches, also after what they left behind is forgotten. */
static void match_many_come_and_go(void **state)
{
	struct match_index *m = match_create();
	struct traceql *stays, *q;
	struct err e;
	struct site s = { "shop", "payment.charge", NULL };
	struct tq_source src = { .ctx = &s, .get = site_get };
	assert_int_equal(traceql_parse(STR("{ name =~ \".*charge\" && name =~ \"[p].*\" }"), &stays, &e), 0);
	match_add(m, stays, stays);
	for (int i = 0; i < 20000; i++) {
		struct buf b = { 0 };
		buf_printf(&b, "{ name =~ \".*%d\" }", i);
		assert_int_equal(traceql_parse(buf_str(&b), &q, &e), 0);
		match_add(m, q, q);
		void *found = NULL;
		if (i % 500 == 0) {
			assert_int_equal(match_site(m, &src, last_found, &found), 1);
			assert_ptr_equal(found, stays);
			assert_true(match_one(m, stays, &src) && !match_one(m, q, &src));
		}
		match_remove(m, q);
		traceql_destroy(q);
		buf_finish(&b);
	}
	match_destroy(m);
	traceql_destroy(stays);
}

/* ---- for policy_schema.py ---------------------------------------------------------------------------------------------------- */

/* As YAML 1.2's core schema has it, and so editors. */
static json_t *json_of(const struct doc_node *n)
{
	double v;
	if (n->kind == DOC_TEXT) {
		if (n->style == DOC_PLAIN && (!n->text.n || doc_empty(n)))
			return json_null();
		if (n->style == DOC_PLAIN && (str_is(n->text, "true") || str_is(n->text, "false")))
			return json_boolean(n->text.p[0] == 't');
		return n->style == DOC_PLAIN && value_number(n->text, &v) ? json_real(v) : json_stringn(n->text.p, n->text.n);
	}
	json_t *j = n->kind == DOC_LIST ? json_array() : json_object();
	for (const struct doc_node *i = n->first; i; i = i->next)
		if (n->kind == DOC_LIST) {
			json_array_append_new(j, json_of(i));
		} else {
			json_object_set_new(j, i->kind == DOC_TEXT ? i->text.p : "?", json_of(i->next));
			i = i->next;
		}
	return j;
}

/* Each golden document that is YAML: {title, codes, document}. */
static int print_golden(void)
{
	struct buf file = { 0 };
	json_t *all = json_array();
	if (buf_read_file(POLICY_GOLDEN, 1u << 20, &file) < 0)
		return 1;
	buf_byte(&file, 0);
	for (char *at = (char *)file.p; (at = strstr(at, "\n=== "));) {
		char *text = strchr(++at, '\n') + 1;
		struct str yaml = { text, (size_t)(strstr(text, "---\n") - text) };
		struct policy *p = NULL;
		struct policy_diags diags;
		struct doc d;
		json_t *codes = json_array();
		if (policy_parse(yaml, &p, &diags) >= 0)
			policy_destroy(p);
		for (uint32_t i = 0; i < diags.n; i++)
			json_array_append_new(codes, json_string(diags.list[i].code));
		policy_diags_finish(&diags);
		if (doc_parse(&d, yaml, &diags) >= 0)
			json_array_append_new(all, json_pack("{s:s%,s:O,s:o}", "title", at + 4, (size_t)(text - at - 5), "codes", codes, "document",
				json_of(d.root)));
		json_decref(codes);
		doc_finish(&d);
		policy_diags_finish(&diags);
	}
	json_dumpf(all, stdout, JSON_INDENT(1));
	json_decref(all);
	buf_finish(&file);
	return 0;
}

int main(int argc, char **argv)
{
	if (argc > 1 && !strcmp(argv[1], "--golden-as-json"))
		return print_golden();
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(policy_of_the_design), cmocka_unit_test(policy_golden), cmocka_unit_test(policy_limits), cmocka_unit_test(policy_places),
		cmocka_unit_test(trigger_climbs_and_decays), cmocka_unit_test(trigger_does_not_flap), cmocka_unit_test(trigger_unknown_and_clocks), cmocka_unit_test(trigger_says_why),
		cmocka_unit_test(match_agrees_with_evaluation), cmocka_unit_test(match_many_come_and_go),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
