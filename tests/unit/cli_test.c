/* The pure parts of the command line: parser, formats, tables, chunked bodies, waterfall; and that help, explanations and the manual page are true. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include "cli/cli.h"
#include "cli/policy.h"
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* Present here so that the table holds every command, as in the composed executable; never called. */
int cli_up(int c, char **v) { return c; }
int cli_agent(int c, char **v) { return c; }
int cli_server(int c, char **v) { return c; }

static void same(struct buf *b, const char *want)
{
	buf_byte(b, 0);
	assert_string_equal((char *)b->p, want);
	buf_finish(b);
}

static void test_formats(void **state)
{
	static const struct { double ns; const char *want; } d[] = { { 0, "0ns" }, { 999, "999ns" }, { 1000, "1.00us" }, { 1234567, "1.23ms" },
		{ 123456789, "123ms" },
		{ 999.4e6, "999ms" }, { 1.5e9, "1.50s" }, { 59e9, "59.0s" }, { 90e9, "1m30s" }, { 3661e9, "1h01m" }, { 90000e9, "1d01h" } };
	struct fmt f;
	for (size_t i = 0; i < sizeof(d) / sizeof(*d); i++)
		assert_string_equal(fmt_duration(&f, d[i].ns), d[i].want);
	assert_string_equal(fmt_count(&f, 9999), "9999");
	assert_string_equal(fmt_count(&f, 12345), "12.3k");
	assert_string_equal(fmt_percent(&f, 0), "0 %");
	assert_string_equal(fmt_percent(&f, 0.0001), "<0.001 %");
	assert_string_equal(fmt_percent(&f, 0.0131), "0.013 %");
	assert_string_equal(fmt_percent(&f, 100), "100 %");
	assert_string_equal(fmt_bytes(&f, 1200000), "1.20 MB");
	assert_int_equal(fmt_width("aé漢", strlen("aé漢")), 4);
	struct buf b = { 0 };
	fmt_safe(&b, "a\033[31mb\n\xff", 0);
	same(&b, "a?[31mb??");
	fmt_safe(&b, "abcdefgh", 5);
	same(&b, "abc..");
	fmt_sparkline(&b, (double[]){ 0, 1, 8 }, 3, true);
	same(&b, " _#");
}

static void test_durations_and_shares(void **state)
{
	int64_t ns;
	double keep;
	struct err e;
	assert_int_equal(cli_parse_duration("1h30m", &ns, &e), 0);
	assert_int_equal(ns, 5400000000000);
	assert_int_equal(cli_parse_duration("250ms", &ns, &e), 0);
	assert_int_equal(ns, 250000000);
	const char *bad[] = { "", "5", "m", "-1s", "0s", "5 m", "1e400s", "9999999d", "10parsecs", "inf" };
	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++)
		assert_int_equal(cli_parse_duration(bad[i], &ns, &e), KLIEG_E_USAGE);
	assert_int_equal(cli_parse_keep("10%", &keep, &e), 0);
	assert_true(keep > 0.0999 && keep < 0.1001);
	const char *bad_keep[] = { "", "0", "101%", "-1", "x", "10%%", "nan" };
	for (size_t i = 0; i < sizeof(bad_keep) / sizeof(*bad_keep); i++)
		assert_int_equal(cli_parse_keep(bad_keep[i], &keep, &e), KLIEG_E_USAGE);
}

static int parse(char **v, struct cli_args *ret_a, struct err *e)
{
	int n = 0;
	while (v[n])
		n++;
	return cli_parse(cli_find(v[0]), n, v, ret_a, e);
}
#define PARSE(...) parse((char *[]){ __VA_ARGS__, NULL }, &a, &e)

static void test_parser(void **state)
{
	struct cli_args a;
	struct err e = { 0 };
	assert_int_equal(PARSE("on", "--level=count", "x", "-k", "10%", "--dry-run"), 0);
	assert_string_equal(cli_opt(&a, "level"), "count");
	assert_string_equal(cli_opt(&a, "keep"), "10%");
	assert_true(cli_flag(&a, "dry-run") && !cli_flag(&a, "json"));
	assert_int_equal(a.npos, 1);
	assert_string_equal(a.pos[0], "x");
	assert_int_equal(PARSE("run", "--", "ls", "--color", "-l"), 0);
	assert_int_equal(a.npos, 3);
	assert_int_equal(PARSE("run", "ls", "--color"), 0);
	assert_int_equal(a.npos, 2);
	assert_int_equal(PARSE("on", "x", "--levle", "span"), KLIEG_E_USAGE);
	assert_non_null(strstr(e.hint, "did you mean: --level"));
	assert_int_equal(PARSE("trace"), KLIEG_E_USAGE);
	assert_int_equal(PARSE("on", "x", "y"), KLIEG_E_USAGE);
	assert_int_equal(PARSE("on", "x", "--ttl"), KLIEG_E_USAGE);
	assert_int_equal(PARSE("on", "x", "--json=1"), KLIEG_E_USAGE);
	assert_int_equal(PARSE("on", "--help"), 0);
	int at = 0;
	assert_int_equal(PARSE("attach", "--lib", "libc*", "7", "--root=f", "--lib=libm*", "--all"), 0);
	assert_string_equal(cli_opt_next(&a, "lib", &at), "libc*");
	assert_string_equal(cli_opt_next(&a, "lib", &at), "libm*");
	assert_null(cli_opt_next(&a, "lib", &at));
	assert_null(cli_opt_next(&a, "plugin", (at = 0, &at)));
	char *many[80] = { "attach", "7" };
	for (int i = 0; i < 70; i += 2)
		many[2 + i] = "--lib", many[3 + i] = "x";
	assert_int_equal(parse(many, &a, &e), KLIEG_E_USAGE);
}

static void test_chunked_bodies_in_any_cut(void **state)
{
	static const char in[] = "5;x=y\r\nhello\r\n6\r\n world\r\n0\r\nTrailer: 1\r\n\r\n";
	for (size_t cut = 1; cut < sizeof(in); cut++) {
		struct chunks c = { 0 };
		struct buf b = { 0 };
		for (size_t at = 0; at < sizeof(in) - 1; at += cut)
			assert_int_equal(chunks_feed(&c, in + at, sizeof(in) - 1 - at < cut ? sizeof(in) - 1 - at : cut, &b), 0);
		assert_true(c.done);
		same(&b, "hello world");
	}
	struct chunks c = { 0 };
	struct buf b = { 0 };
	assert_int_equal(chunks_feed(&c, "zz\r\n", 4, &b), KLIEG_E_BAD_DATA);
}

static void test_tables(void **state)
{
	static const struct column cols[] = { { "NAME", "name", COL_TEXT, .max = 6 }, { "P", "x.p", COL_NS }, { "ID", "id", COL_TEXT, true }, { 0 } };
	json_t *rows = json_loads("[{\"name\":\"a,\\\"b\\\"cdefg\",\"x\":{\"p\":1500},\"id\":\"i\"},{\"name\":\"n\"}]", 0, NULL);
	struct buf b = { 0 };
	table_text(rows, cols, false, false, 0, &b);
	same(&b, "NAME         P\na,\"b..  1.50us\nn            -\n");
	table_csv(rows, cols, &b);
	same(&b, "name,x.p,id\r\n\"a,\"\"b\"\"cdefg\",1500,i\r\nn,,\r\n");
	json_decref(rows);
}

static void test_waterfall(void **state)
{
	json_t *t = json_loads("{\"trace_id\":\"t\",\"spans\":[{\"span_id\":\"b\",\"parent_span_id\":\"a\",\"service\":\"s\",\"name\":\"child\",\"start_unix_nano\":1700000000000000025,"
		"\"duration_nano\":50,\"status\":\"error\"},{\"span_id\":\"a\",\"parent_span_id\":\"\",\"service\":\"s\",\"name\":\"root\","
		"\"start_unix_nano\":1700000000000000000,\"duration_nano\":100},"
		"{\"span_id\":\"x\",\"parent_span_id\":\"y\",\"name\":\"c1\",\"start_unix_nano\":1700000000000000001,\"duration_nano\":1},"
		"{\"span_id\":\"y\",\"parent_span_id\":\"x\",\"name\":\"c2\",\"start_unix_nano\":1700000000000000002,\"duration_nano\":1}]}", 0, NULL);
	struct buf b = { 0 };
	waterfall_text(t, 80, false, true, false, &b);
	buf_byte(&b, 0);
	assert_non_null(strstr((char *)b.p, "s:root"));
	assert_non_null(strstr((char *)b.p, "`-s:child !"));
	assert_non_null(strstr((char *)b.p, "   100ns     50ns\n"));  /* self: without the child */
	assert_non_null(strstr((char *)b.p, ":c1"));                   /* a cycle is cut, not followed and not lost */
	assert_non_null(strstr((char *)b.p, ":c2"));
	buf_finish(&b);
	json_decref(t);
}

/* As a shell would cut it: quotes, a comment, output to a file. */
static int words(char *s, char **ret, int max)
{
	int n = 0;
	while (*s && n < max - 1) {
		while (*s == ' ')
			s++;
		if (!*s || *s == '#' || *s == '>')
			break;
		char *w = ret[n++] = s;
		char q = 0;
		for (; *s && (q || *s != ' '); s++)
			if (q ? *s == q : *s == '\'')
				q = q ? 0 : *s;
			else
				*w++ = *s;
		if (*s)
			s++;
		*w = 0;
	}
	ret[n] = NULL;
	return n;
}

static void test_call_tree(void **state)
{
	static const char text[] = "{'roots':[{'service':'r','name':'call','calls':20,'errors':0,'total_nano':1000,'self_nano':500,'p50_nano':50,'p99_nano':60,'share':1.0,"
		"'other':{'callees':2,'calls':3,'total_nano':4},'children':["
		"{'service':'r','name':'lookup\\u0007','calls':20,'errors':1,'total_nano':400,'self_nano':400,'p50_nano':20,'p99_nano':30,'share':0.4,'other':{},'children':["
		"{'service':'r','name':'hash','calls':1,'errors':0,'total_nano':1,'self_nano':1,'p50_nano':1,'p99_nano':1,'share':0.01,'other':{},'children':[]}]},"
		"{'service':'other','name':'reply','calls':1,'errors':0,'total_nano':100,'self_nano':100,'p50_nano':100,'p99_nano':100,'share':0.1,'other':{},'children':[]}]}],"
		"'other':{'callees':0,'calls':0,'total_nano':0},'cut':2,'bounded':false,'kept':1}";
	char json[sizeof(text)];
	for (size_t i = 0; i < sizeof(text); i++)
		json[i] = text[i] == '\'' ? '"' : text[i];
	json_t *doc = json_loads(json, 0, NULL);
	assert_non_null(doc);
	struct buf b = { 0 };
	calltree_text(doc, 2, .01, 100, true, false, &b);
	same(&b, "  CALLS      /S    TOTAL     SELF      P50      P99 % OF CALLER    FUNCTION\n"
		"     20      10   1.00us    500ns     50ns     60ns 100.0 ######## r:call\n"
		"     20      10    400ns    400ns     20ns     30ns  40.0 ###      |- lookup?  1 error\n"
		"      1    0.50      1ns      1ns      1ns      1ns   1.0          |  `- hash\n"
		"      1    0.50    100ns    100ns    100ns    100ns  10.0 #        |- other:reply\n"
		"                                                                   `- 2 more: 3 calls, 4ns\n"
		"2 callees with less than 1 % of the caller's time counted, not shown; --min-share 0 shows all\n");
	json_decref(doc);
	doc = json_object();
	calltree_text(doc, 0, .01, 0, false, true, &b);  /* nothing that is not there */
	buf_finish(&b);
	json_decref(doc);
}

static void put_together(const char *sel, const char *field, const char *value, const char *want)
{
	char *s = selector_set(sel, field, value);
	assert_string_equal(s, want);
	free(s);
}

static void test_selectors_are_put_together(void **state)
{
	put_together("*", ".tenant", "7", "{ .tenant = \"7\" }");
	put_together("payment:*", ".tenant", "7", "{ resource.service.name = \"payment\" && .tenant = \"7\" }");
	put_together("payment:fraud.*", ".http.route", "/charge", "{ resource.service.name = \"payment\" && name =~ \"fraud[.].*\" && .http.route = \"/charge\" }");
	put_together("ns::f", "resource.service.name", "a", "{ name = \"ns::f\" && resource.service.name = \"a\" }");
	put_together("{ name = \"a && b\" && .tenant = \"7\" && kind = server }", ".tenant", "8", "{ name = \"a && b\" && kind = server && .tenant = \"8\" }");
	put_together("{ name = \"x\" && .tenant = \"7\" }", ".tenant", "*", "{ name = \"x\" }");
	put_together("{ .tenant = \"7\" }", ".tenant", "*", "{ }");
	put_together("{ .tenants = 7 }", ".tenant", "8", "{ .tenants = 7 && .tenant = \"8\" }");
	put_together("{ name = \"a\" || name = \"b\" }", ".tenant", "7", "{ (name = \"a\" || name = \"b\") && .tenant = \"7\" }");
	put_together("{ (.a = 1 || .b = 2) && .tenant = \"7\" }", ".tenant", "*", "{ (.a = 1 || .b = 2) }");
	put_together("{ }", ".tenant", "a\"b\\", "{ .tenant = \"a\\\"b\\\\\" }");
	put_together("}{", ".tenant", "7", "}{");  /* the server says what is wrong with it */
	put_together("{ name = \"x", ".tenant", "7", "{ name = \"x");
	put_together("{ name = \"x }", ".tenant", "*", "{ name = \"x }");
}

static void test_diagnostics_point(void **state)
{
	struct buf b = { 0 };
	json_t *d = json_pack("[{s:s,s:i,s:i,s:i,s:s,s:s,s:s},{s:s,s:i,s:i,s:s,s:s,s:n}]", "severity", "error", "line", 2, "column", 9, "end_column",
		13, "code", "P140", "message",
		"`spam` is no level", "hint", "did you mean: span", "severity", "warning", "line", 9, "column", 1, "code", "P207", "message",
		"policy `x` says nothing", "hint");
	diag_text(d, "x.yaml", STR("é: 1\n\tlevel: spam\nmore"), &b);
	same(&b, "x.yaml:2:9: error[P140]: `spam` is no level\n    2 | \tlevel: spam\n      | \t       ^~~~\n  did you mean: span\n"
		"x.yaml:9:1: warning[P207]: policy `x` says nothing\n");
	json_decref(d);
	char *far = base_alloc(100001);
	memset(far, 'x', 100000);
	far[100000] = 0;
	d = json_pack("[{s:s,s:i,s:i,s:i,s:s,s:s}]", "severity", "error", "line", 1, "column", 90000, "end_column", 2000000000, "code", "P101", "message", "m");
	diag_text(d, "x", (struct str){ far, 100000 }, &b);
	assert_true(b.n < 600);
	buf_finish(&b);
	json_decref(d);
	free(far);
}

static void test_differences(void **state)
{
	struct buf b = { 0 };
	json_t *d = diff_lines(STR("1\n2\n3\n4\n5\n6\n7\n8\n9\n"), STR("1\n2\n3\n4\n5\n6\n7\nacht\n9\n10"));
	assert_true(diff_text(d, &b));
	same(&b, "...\n  5\n  6\n  7\n- 8\n+ acht\n  9\n+ 10\n");
	json_decref(d);
	d = diff_lines(STR("a\nb"), STR("a\nb\n"));
	assert_false(diff_text(d, &b));
	json_decref(d);
	d = diff_lines(STR(""), STR("a"));
	assert_true(diff_text(d, &b));
	json_decref(d);
	buf_finish(&b);
}

static void test_plan(void **state)
{
	struct buf b = { 0 };
	json_t *d = json_loads("{\"policy\":{\"name\":\"checkout\"},\"changed\":2,\"sites\":4,\"processes\":2,\"budget_percent\":1,\"fits\":false,\"bytes_per_day\":61000000,"
		"\"predicted\":{\"known\":true,\"spans_per_s\":120,\"cpu_percent\":1.8},\"suggestion\":{\"keep\":0.1,\"text\":\"keep: 10%\"},"
		"\"changes\":[{\"op\":\"+\",\"pid\":1,\"host\":\"h\",\"service\":\"pay\",\"name\":\"charge\",\"from\":\"off\",\"to\":\"span\"},"
		"{\"op\":\"+\",\"pid\":2,\"host\":\"h\",\"service\":\"pay\",\"name\":\"charge\",\"from\":\"off\",\"to\":\"span\"}],"
		"\"rules\":[{\"name\":\"slow\",\"op\":\"+\",\"sites\":4,\"processes\":2,\"replay\":{\"traces\":88410,\"kept\":1204,\"bytes_per_day\":61000000,"
		"\"window_nano\":3600000000000}}]}", 0, NULL);
	assert_non_null(d);
	plan_text(d, false, &b);
	same(&b, "checkout: 2 changes of level; 4 sites in 2 processes are matched\n+ pay:charge  off -> span  in 2 processes\n+ rule slow: 4 sites in 2 processes\n"
		"    of the last 1h00m would have kept 1,204 of 88,410 traces, 61.0 MB/day\npredicted: ~120 spans/s, 1.80 % CPU, 61.0 MB/day; budget "
		"1.00 %: does NOT fit\n"
		"  would fit: keep: 10%\n");
	json_object_set_new(d, "fits", json_null());
	json_object_set_new(json_object_get(d, "predicted"), "known", json_false());
	json_object_set_new(json_object_get(d, "predicted"), "basis", json_string("unknown: some of it was never on"));
	json_object_del(d, "suggestion");
	buf_clear(&b);
	plan_text(d, false, &b);
	assert_non_null(strstr((char *)b.p, "predicted: unknown: some of it was never on, 61.0 MB/day; budget 1.00 %: unknown whether it fits\n"));
	buf_clear(&b);
	json_decref(d);
	d = json_object();
	plan_text(d, true, &b);  /* nothing that is not there */
	rollout_text(d, &b);
	buf_finish(&b);
	json_decref(d);
}

static void test_examples_parse(void **state)
{
	for (const struct cli_command *c = cli_commands; c->name; c++) {
		assert_non_null(c->run);
		assert_true(c->examples && c->examples[0]);
		for (const char *const *x = c->examples; *x; x++) {
			char *copy = strdup(*x), *v[32];
			int n = words(copy, v, 32);
			struct cli_args a;
			struct err e = { 0 };
			assert_true(n >= 2);
			assert_string_equal(v[0], "klieg");
			int taken;
			assert_true(cli_lookup(n - 1, v + 1, &taken) == c);
			if (cli_parse(c, n - taken, v + taken, &a, &e) < 0)
				fail_msg("%s: %s", *x, e.msg);
			free(copy);
		}
	}
}

static void test_every_error_is_explained(void **state)
{
	char code[8];
	fflush(stdout);
	int out = dup(1), null = open("/dev/null", O_WRONLY);
	dup2(null, 1);
	bool good = true;
#define X(name, num, http, title) snprintf(code, sizeof(code), "E%d", num); good = good && cli_explain(code) == CLI_OK;
	KLIEG_ERRORS(X)
#undef X
	good = good && cli_explain("E999") == CLI_NONE;
	fflush(stdout);
	dup2(out, 1);
	close(out);
	close(null);
	assert_true(good);
}

static void test_manual_names_everything(void **state)
{
	struct buf b = { 0 };
	assert_int_equal(buf_read_file(KLIEG_TOP "/docs/klieg.1", 1 << 20, &b), 0);
	buf_byte(&b, 0);
	for (const struct cli_command *c = cli_commands; c->name; c++) {
		char heading[64];
		snprintf(heading, sizeof(heading), ".SS klieg %s", c->name);
		char *at = strstr((char *)b.p, heading), *end;
		if (!at)
			fail_msg("klieg.1 does not describe klieg %s", c->name);
		end = strstr(at + 1, "\n.S");
		for (const struct cli_option *o = c->options; o && o->name; o++) {
			struct buf want = { 0 };
			buf_add_str(&want, "\\-\\-");
			for (const char *p = o->name; *p; p++)
				buf_printf(&want, "%s%c", *p == '-' ? "\\" : "", *p);
			if (!memmem(at, end ? end - at : (long)strlen(at), want.p, want.n))
				fail_msg("klieg.1 does not describe klieg %s --%s", c->name, o->name);
			buf_finish(&want);
		}
	}
	buf_finish(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_formats), cmocka_unit_test(test_durations_and_shares), cmocka_unit_test(test_parser),
		cmocka_unit_test(test_chunked_bodies_in_any_cut), cmocka_unit_test(test_tables), cmocka_unit_test(test_waterfall),
		cmocka_unit_test(test_call_tree), cmocka_unit_test(test_examples_parse), cmocka_unit_test(test_selectors_are_put_together),
		cmocka_unit_test(test_diagnostics_point), cmocka_unit_test(test_differences), cmocka_unit_test(test_plan),
		cmocka_unit_test(test_every_error_is_explained), cmocka_unit_test(test_manual_names_everything) };
	return cmocka_run_group_tests(tests, NULL, NULL);
}
