/* Spans: query, tail, trace, hot, inflight. */
#include "cli/cli.h"
#include "base/clock.h"
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

static const struct column span_columns[] = { { "START", "start_unix_nano", COL_TIME }, { "DURATION", "duration_nano", COL_NS }, { "STATUS", "status", COL_TEXT },
	{ "SERVICE", "service", COL_TEXT, .max = 20 }, { "NAME", "name", COL_TEXT, .max = 40 }, { "TRACE", "trace_id", COL_TEXT },
	{ "ATTRIBUTES", "attributes", COL_LIST, .max = 60 }, { "SPAN", "span_id", COL_TEXT, true }, { "PARENT", "parent_span_id", COL_TEXT, true },
	{ "KIND", "kind", COL_TEXT, true }, { "COUNT", "adjusted_count", COL_COUNT, true }, { 0 } };
static const struct column hot_columns[] = { { "SERVICE", "service", COL_TEXT, .max = 20 }, { "NAME", "name", COL_TEXT, .max = 36 }, { "SELF", "self_nano", COL_NS },
	{ "SELF %", "self_share", COL_SHARE }, { "TOTAL", "total_nano", COL_NS }, { "CALLS", "calls", COL_COUNT }, { "ERRORS", "errors", COL_COUNT },
	{ "P50", "p50_nano", COL_NS }, { "P99", "p99_nano", COL_NS }, { "PER TRACE", "spans_per_trace", COL_RATE }, { "FINDINGS", "findings", COL_LIST, .max = 100 },
	{ "MAX", "max_nano", COL_NS, true }, { "EXAMPLE", "example_trace_id", COL_TEXT, true }, { 0 } };
static const struct column inflight_columns[] = { { "ELAPSED", "elapsed_nano", COL_NS }, { "SERVICE", "service", COL_TEXT, .max = 20 }, { "PID", "pid", COL_TEXT },
	{ "TID", "tid", COL_TEXT }, { "DEPTH", "depth", COL_COUNT }, { "NAME", "name", COL_TEXT, .max = 50 }, { "TRACE", "trace_id", COL_TEXT }, { 0 } };

/* A selector's short form as a filter: service:glob -> { resource.service.name =~ "..." && name =~ "..." }. Braces pass as they are. */
void cli_glob(struct buf *b, const char *key, const char *p, size_t n)
{
	buf_printf(b, "%s =~ \"", key);
	for (size_t i = 0; i < n; i++)
		if (p[i] == '*')
			buf_add_str(b, ".*");
		else if (p[i] == '?')
			buf_byte(b, '.');
		else if (p[i] == '"')
			buf_add_str(b, "\\\"");
		else if (strchr(".+()[]{}^$|\\", p[i]))
			buf_printf(b, "[%s%c]", p[i] == '\\' || p[i] == '^' ? "\\\\" : "", p[i]);
		else
			buf_byte(b, p[i]);
	buf_byte(b, '"');
}

int cli_query(int argc, char **argv)
{
	struct cli c;
	struct err e = { 0 };
	int status;
	int64_t limit = 100;
	if (!cli_open(argc, argv, &c, &status))
		return status;
	struct buf t = { 0 };
	buf_add_str(&t, "/api/v1/spans");
	char *q = selector_filter(c.args.pos[0]), n[24];
	client_query(&t, "q", q);
	free(q);
	if (cli_range(&c.args, &t, &e) < 0 || (cli_opt(&c.args, "limit") && cli_parse_count(cli_opt(&c.args, "limit"), 1, 10000, &limit, &e) < 0)) {
		buf_finish(&t);
		return cli_fail(&e);
	}
	snprintf(n, sizeof(n), "%lld", (long long)limit);
	client_query(&t, "limit", n);
	buf_byte(&t, 0);
	json_t *doc = cli_get(&c, (char *)t.p, &status);
	buf_finish(&t);
	if (!doc)
		return status;
	size_t rows = json_array_size(json_object_get(doc, "spans"));
	int64_t matched = jint(doc, "matched");
	bool partial = json_is_true(json_object_get(doc, "partial")), text = c.out == OUT_TABLE || c.out == OUT_WIDE;
	if (rows || !text)
		output_rows(c.out, doc, "spans", span_columns);
	if (!rows && text)
		fprintf(stderr, "no span matches in this time range; a longer --since? are sites on? klieg toggles\n");
	else if (text)
		fprintf(stderr, "showing %zu of %lld spans\n", rows, (long long)matched);
	if (partial)
		fprintf(stderr, "not everything was looked at: the query hit a limit; narrow the time range\n");
	json_decref(doc);
	return partial ? CLI_PARTIAL : rows ? CLI_OK : CLI_NONE;
}

struct tail { enum output out; int64_t left; bool limited, head; };

static int on_tail(void *arg, const char *event, json_t *data)
{
	struct tail *t = arg;
	size_t i;
	json_t *s;
	struct fmt f, g;
	bool json = t->out == OUT_JSON || t->out == OUT_NDJSON;
	if (!strcmp(event, "dropped")) {
		if (json) {
			json_object_set_new(data, "type", json_string("dropped"));
			json_dumpf(data, stdout, JSON_COMPACT);
			putchar('\n');
		} else
			fprintf(stderr, "some spans were not shown: this reader is too slow\n");
	}
	if (strcmp(event, "spans"))
		return cli_interrupted ? 1 : 0;
	json_array_foreach(json_object_get(data, "spans"), i, s) {
		if (json) {
			json_object_set_new(s, "type", json_string("span"));
			json_dumpf(s, stdout, JSON_COMPACT);
			putchar('\n');
		} else if (t->out == OUT_CSV) {
			struct buf b = { 0 };
			json_t *one = json_pack("[O]", s);
			table_csv(one, span_columns, &b);
			uint8_t *body = memchr(b.p, '\n', b.n);
			uint8_t *from = t->head ? body + 1 : b.p;
			fwrite(from, 1, b.p + b.n - from, stdout);
			t->head = true;
			buf_finish(&b);
			json_decref(one);
		} else {
			struct buf b = { 0 };
			const char *k;
			json_t *v;
			fmt_safe(&b, jstr(s, "name"), 40);
			bool error = !strcmp(jstr(s, "status"), "error");
			printf("%s  %9s  %s%-5s%s %-14s %.*s", fmt_clock(&f, jint(s, "start_unix_nano")), fmt_duration(&g, jnum(s, "duration_nano")), error ? style("red") : "",
				error ? "error" : "", style("off"), jstr(s, "service"), (int)b.n, (char *)b.p);
			buf_clear(&b);
			json_object_foreach(json_object_get(s, "attributes"), k, v) {
				char *x = json_is_string(v) ? strdup(json_string_value(v)) : json_dumps(v, JSON_ENCODE_ANY | JSON_COMPACT);
				buf_printf(&b, " %s=", k);
				fmt_safe(&b, x ? x : "", 40);
				free(x);
			}
			printf("%s%.*s%s\n", style("dim"), (int)b.n, (char *)b.p, style("off"));
			buf_finish(&b);
		}
		if (t->limited && --t->left <= 0)
			return 1;
	}
	fflush(stdout);
	return cli_interrupted ? 1 : 0;
}

int cli_tail(int argc, char **argv)
{
	struct cli c;
	struct err e = { 0 };
	int status;
	if (!cli_open(argc, argv, &c, &status))
		return status;
	struct tail t = { .out = c.out };
	const char *n = cli_opt(&c.args, "limit");
	if (n && cli_parse_count(n, 1, INT64_MAX, &t.left, &e) < 0)
		return cli_fail(&e);
	t.limited = n != NULL;
	struct buf b = { 0 };
	char *q = selector_filter(c.args.npos ? c.args.pos[0] : "{ }");
	buf_add_str(&b, "/api/v1/spans/tail");
	client_query(&b, "q", q);
	free(q);
	buf_byte(&b, 0);
	cli_catch_interrupt();
	int rc = client_events(&c.client, (char *)b.p, on_tail, &t, &e);
	buf_finish(&b);
	fflush(stdout);
	if (cli_interrupted)
		return CLI_INTERRUPTED;
	if (rc < 0)
		return cli_fail(&e);
	if (rc == 0)
		fprintf(stderr, "the server ended the stream\n");
	return rc == 0 ? CLI_ABSENT : CLI_OK;
}

int cli_trace(int argc, char **argv)
{
	struct cli c;
	int status;
	if (!cli_open(argc, argv, &c, &status))
		return status;
	const char *id = c.args.pos[0];
	size_t n = strlen(id);
	if (n > 32 || strspn(id, "0123456789abcdefABCDEF") != n || !n)
		return cli_fail_usage(c.args.cmd, "'%.60s' is not a trace id: 32 hexadecimal digits", id);
	char target[80];
	snprintf(target, sizeof(target), "/api/v1/traces/%s", id);
	json_t *doc = cli_get(&c, target, &status);
	if (!doc)
		return status;
	size_t rows = json_array_size(json_object_get(doc, "spans"));
	struct buf b = { 0 };
	struct winsize ws = { 0 };
	if (c.out == OUT_TABLE || c.out == OUT_WIDE) {
		int columns = ioctl(1, TIOCGWINSZ, &ws) == 0 && ws.ws_col ? ws.ws_col : 120;
		waterfall_text(doc, columns, cli_flag(&c.args, "verbose") || c.out == OUT_WIDE, cli_ascii, cli_colour, &b);
		fwrite(b.p, 1, b.n, stdout);
	} else
		output_rows(c.out, doc, "spans", span_columns);
	buf_finish(&b);
	json_decref(doc);
	return rows ? CLI_OK : CLI_NONE;
}

int cli_hot(int argc, char **argv)
{
	struct cli c;
	struct err e = { 0 };
	int status;
	int64_t limit = 20;
	if (!cli_open(argc, argv, &c, &status))
		return status;
	struct buf t = { 0 };
	char *q = selector_filter(c.args.npos ? c.args.pos[0] : "{ }"), n[24];
	buf_add_str(&t, "/api/v1/hot");
	client_query(&t, "q", q);
	free(q);
	if (cli_range(&c.args, &t, &e) < 0 || (cli_opt(&c.args, "limit") && cli_parse_count(cli_opt(&c.args, "limit"), 1, 10000, &limit, &e) < 0)) {
		buf_finish(&t);
		return cli_fail(&e);
	}
	snprintf(n, sizeof(n), "%lld", (long long)limit);
	client_query(&t, "limit", n);
	buf_byte(&t, 0);
	json_t *doc = cli_get(&c, (char *)t.p, &status);
	buf_finish(&t);
	if (!doc)
		return status;
	size_t rows = json_array_size(json_object_get(doc, "rows"));
	bool text = c.out == OUT_TABLE || c.out == OUT_WIDE;
	if (rows || !text)
		output_rows(c.out, doc, "rows", hot_columns);
	struct fmt f;
	if (text)
		fprintf(stderr, rows ? "%lld spans in %lld traces of the last %s\n" : "no spans in this time range (%lld in %lld traces, %s); klieg on '*'\n", (long long)jint(doc, "spans"),
			(long long)jint(doc, "traces"), fmt_duration(&f, jnum(doc, "window_nano")));
	json_decref(doc);
	return rows ? CLI_OK : CLI_NONE;
}

int cli_inflight(int argc, char **argv)
{
	struct cli c;
	int status;
	if (!cli_open(argc, argv, &c, &status))
		return status;
	struct buf t = { 0 };
	buf_add_str(&t, "/api/v1/inflight");
	if (c.args.npos)
		client_query(&t, "sel", c.args.pos[0]);
	buf_byte(&t, 0);
	json_t *doc = cli_get(&c, (char *)t.p, &status);
	buf_finish(&t);
	if (!doc)
		return status;
	size_t rows = json_array_size(json_object_get(doc, "spans"));
	if (rows || c.out != OUT_TABLE)
		output_rows(c.out, doc, "spans", inflight_columns);
	else
		fprintf(stderr, "nothing is open right now\n");
	json_decref(doc);
	return rows ? CLI_OK : CLI_NONE;
}
