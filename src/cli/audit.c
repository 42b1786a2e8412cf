/* The audit log on the command line: who changed what, from what to what, and why. Rows come from GET /api/v1/audit, newest first. */
#include "cli/cli.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static const struct column columns[] = { { "AT", "at_text", COL_TEXT }, { "WHO", "who", COL_TEXT, .max = 24 }, { "WHAT", "what", COL_TEXT },
	{ "OBJECT", "object", COL_TEXT, .max = 40 }, { "CHANGE", "change_text", COL_TEXT, .max = 90 }, { "OUTCOME", "outcome", COL_TEXT },
	{ "WHY", "why", COL_TEXT, .max = 100 }, { "DETAIL", "detail", COL_TEXT, true }, { "ID", "id", COL_TEXT, true }, { 0 } };
static const struct column raw_columns[] = { { "AT", "at_unix_nano", COL_TEXT }, { "WHO", "who", COL_TEXT }, { "WHAT", "what", COL_TEXT },
	{ "OBJECT", "object", COL_TEXT }, { "OUTCOME", "outcome", COL_TEXT }, { "WHY", "why", COL_TEXT }, { "DETAIL", "detail", COL_TEXT },
	{ "ID", "id", COL_TEXT }, { 0 } };
static const struct column plugin_columns[] = { { "NAME", "name", COL_TEXT }, { "HOST", "host", COL_TEXT }, { "PATH", "path", COL_TEXT }, { 0 } };

static void moment(int64_t unix_ns, char *s, size_t n)
{
	time_t t = (time_t)(unix_ns / 1000000000);
	struct tm tm;
	strftime(s, n, "%F %T", localtime_r(&t, &tm));
}

static void value(const char *key, const json_t *v, struct buf *b)
{
	size_t n = strlen(key);
	if (n > 10 && !strcmp(key + n - 10, "_unix_nano")) {
		char s[40];
		moment(json_integer_value(v), s, sizeof(s));
		buf_add_str(b, s);
	} else if (json_is_string(v))
		fmt_safe(b, json_string_value(v), 0);
	else {
		char *text = v ? json_dumps(v, JSON_COMPACT | JSON_ENCODE_ANY | JSON_REAL_PRECISION(6)) : NULL;
		fmt_safe(b, text ? text : "-", 0);
		free(text);
	}
}

/* What is different; of what is new, or gone, all of it. */
static void change_text(json_t *entry)
{
	const json_t *before = json_object_get(entry, "before"), *after = json_object_get(entry, "after"), *from, *v;
	bool gone = !json_is_object(after) && json_is_object(before);
	struct buf b = { 0 };
	const char *key;
	json_object_foreach((json_t *)(gone ? before : after), key, v) {
		from = gone ? NULL : json_object_get(before, key);
		if ((from && json_equal(from, v)) || !strcmp(key, "owner"))
			continue;
		buf_printf(&b, "%s%s ", b.n ? ", " : gone ? "was: " : "", strcmp(key, "expires_unix_nano") ? key : "until");
		if (from) {
			value(key, from, &b);
			buf_add_str(&b, " -> ");
		}
		value(key, v, &b);
	}
	json_object_foreach((json_t *)(gone ? NULL : before), key, v)
		if (!json_object_get(after, key))
			buf_printf(&b, "%sno %s any more", b.n ? ", " : "", key);
	json_object_set_new(entry, "change_text", json_stringn(b.n ? (char *)b.p : "", b.n));
	buf_finish(&b);
}

int cli_audit(int argc, char **argv)
{
	static const char *const filters[] = { "who", "what", "object", "from", "to", "limit" };
	struct cli c;
	struct err e = { 0 };
	int status;
	int64_t ns;
	if (!cli_open(argc, argv, &c, &status))
		return status;
	const char *since = cli_opt(&c.args, "since"), *object = c.args.npos ? c.args.pos[0] : NULL, *v;
	if (since && cli_parse_duration(since, &ns, &e) < 0)
		return cli_fail(&e);
	if (object && cli_opt(&c.args, "object"))
		return cli_fail_usage(c.args.cmd, "say what it is about once");
	struct buf t = { 0 };
	buf_add_str(&t, "/api/v1/audit");
	if (since)
		client_query(&t, "since", since);
	if (object)
		client_query(&t, "object", object);
	for (unsigned i = 0; i < sizeof(filters) / sizeof(*filters); i++)
		if ((v = cli_opt(&c.args, filters[i])))
			client_query(&t, filters[i], v);
	buf_byte(&t, 0);
	json_t *doc = cli_get(&c, (char *)t.p, &status), *entry;
	buf_finish(&t);
	if (!doc)
		return status;
	json_t *list = json_object_get(doc, "entries");
	size_t i, n = json_array_size(list);
	char at[40];
	if (for_people(&c))
		json_array_foreach(list, i, entry) {
			moment(jint(entry, "at_unix_nano"), at, sizeof(at));
			json_object_set_new(entry, "at_text", json_string(at));
			change_text(entry);
		}
	int64_t matched = jint(doc, "matched"), let_go = jint(doc, "let_go");
	if (n || !for_people(&c))
		output_rows(c.out, doc, "entries", for_people(&c) ? columns : raw_columns);
	else
		fprintf(stderr, "no change%s\n", c.args.npos || jint(doc, "total") ? " that matches" : " so far");
	if (for_people(&c) && matched > (int64_t)n && n)
		fprintf(stderr, "%zu of %lld; --limit shows more\n", n, (long long)matched);
	if (for_people(&c) && let_go)
		fprintf(stderr, "%lld older entries were let go\n", (long long)let_go);
	json_decref(doc);
	return n ? CLI_OK : CLI_NONE;
}

int cli_plugins(int argc, char **argv)
{
	struct cli c;
	int status;
	json_t *doc;
	if (!cli_open(argc, argv, &c, &status) || !(doc = cli_get(&c, "/api/v1/plugins", &status)))
		return status;
	if (json_array_size(json_object_get(doc, "plugins")) || !for_people(&c))
		output_rows(c.out, doc, "plugins", plugin_columns);
	else
		fprintf(stderr, "no instrumentor is installed; klieg attach takes the path of one, too: --plugin ./my.so\n");
	json_decref(doc);
	return CLI_OK;
}
