/* The audit log on the command line: who changed what, from what to what, and why. Rows come from GET /api/v1/audit, newest first. */
#include "cli/cli.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static const struct column columns[] = { { "AT", "at_text", COL_TEXT }, { "WHO", "who", COL_TEXT, .max = 24 }, { "WHAT", "what", COL_TEXT },
	{ "OBJECT", "object", COL_TEXT, .max = 40 }, { "CHANGE", "change_text", COL_TEXT, .max = 90 }, { "OUTCOME", "outcome", COL_TEXT },
	{ "WHY", "why", COL_TEXT, .max = 100 }, { "ID", "id", COL_TEXT }, { "DETAIL", "detail", COL_TEXT, true }, { 0 } };
static const struct column raw_columns[] = { { "AT", "at_unix_nano", COL_TEXT }, { "WHO", "who", COL_TEXT }, { "WHAT", "what", COL_TEXT },
	{ "OBJECT", "object", COL_TEXT }, { "OUTCOME", "outcome", COL_TEXT }, { "WHY", "why", COL_TEXT }, { "DETAIL", "detail", COL_TEXT },
	{ "ID", "id", COL_TEXT }, { 0 } };
static const struct column plugin_columns[] = { { "NAME", "name", COL_TEXT }, { "HOST", "host", COL_TEXT }, { "PATH", "path", COL_TEXT }, { 0 } };

enum { REVERTS_SHOWN = 10 };

static void moment(int64_t unix_ns, char *s, size_t n)
{
	time_t t = (time_t)(unix_ns / 1000000000);
	struct tm tm;
	strftime(s, n, "%F %T", localtime_r(&t, &tm));
}

static void value(const char *key, const json_t *v, struct buf *b)
{
	size_t n = strlen(key);
	if (n > 10 && !strcmp(key + n - 10, "_unix_nano") && json_is_integer(v)) {
		char s[40];
		moment(json_integer_value(v), s, sizeof(s));
		buf_add_str(b, s);
	} else if (json_is_string(v))
		fmt_safe(b, json_string_value(v), 0);
	else {
		char *text = v ? json_dumps(v, JSON_COMPACT | JSON_ENCODE_ANY | JSON_REAL_PRECISION(6)) : NULL;
		fmt_safe(b, text ? text : "none", 0);
		free(text);
	}
}

/* What a list has is called by its name, where it has one. */
static void element(const json_t *v, struct buf *b)
{
	if (json_is_string(json_object_get(v, "name")))
		fmt_safe(b, jstr(v, "name"), 0);
	else
		value("", v, b);
}
static bool holds(const json_t *list, const json_t *v)
{
	size_t i;
	const json_t *x;
	json_array_foreach(list, i, x)
		if (json_equal((json_t *)x, (json_t *)v))
			return true;
	return false;
}
static void elements(const json_t *list, const json_t *but, const char *sign, struct buf *b)
{
	size_t i, shown = 0, more = 0;
	const json_t *v;
	json_array_foreach(list, i, v) {
		if (but && holds(but, v))
			continue;
		if (shown++ < 10) {
			buf_add_str(b, *sign || shown > 1 ? " " : "");
			buf_add_str(b, sign);
			element(v, b);
		} else
			more++;
	}
	if (more)
		buf_printf(b, " and %zu more", more);
}

/* Only what is different, down to the single value, each with where it is: "level span -> detail, hosts +web-2 -web-1". NULL: it is not there. */
static void difference(const char *path, const json_t *from, const json_t *to, bool whole, struct buf *b)
{
	const char *key;
	json_t *v;
	char inner[200];
	if (from && to && json_equal((json_t *)from, (json_t *)to))
		return;
	if ((json_is_object(from) || !from) && (json_is_object(to) || !to)) {
		json_object_foreach((json_t *)(to ? to : from), key, v) {
			snprintf(inner, sizeof(inner), "%.120s%s%.70s", path, *path ? "." : "", strcmp(key, "expires_unix_nano") ? key : "until");
			if (strcmp(key, "owner") || *path)
				difference(inner, json_object_get(from, key), json_object_get(to, key), whole, b);
		}
		json_object_foreach((json_t *)(to ? from : NULL), key, v)
			if (!json_object_get(to, key)) {
				snprintf(inner, sizeof(inner), "%.120s%s%.70s", path, *path ? "." : "", key);
				difference(inner, v, NULL, whole, b);
			}
		return;
	}
	buf_printf(b, "%s%s", b->n ? ", " : "", path);
	key = strstr(path, "until") ? "expires_unix_nano" : path;
	if (json_is_array(from) && json_is_array(to)) {
		elements(to, from, "+", b);
		elements(from, to, "-", b);
	} else if (!whole && !to)
		buf_add_str(b, " no more");
	else {
		buf_byte(b, ' ');
		for (int side = 0; side < 2; side++) {
			const json_t *x = side ? to : from;
			if (!x)
				continue;
			if (side && from)
				buf_add_str(b, " -> ");
			if (json_is_array(x))
				elements(x, NULL, "", b);
			else
				value(key, x, b);
		}
	}
}

/* Of what is new, or gone, all of it. */
static void change_text(json_t *entry)
{
	const json_t *before = json_object_get(entry, "before"), *after = json_object_get(entry, "after");
	bool was = json_is_object(before), is = json_is_object(after);
	struct buf b = { 0 };
	difference("", was ? before : NULL, is ? after : NULL, was != is, &b);
	json_object_set_new(entry, "change_text", json_sprintf("%s%.*s", was && !is && b.n ? "was: " : "", (int)b.n, b.n ? (char *)b.p : ""));
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
	size_t offered = 0;
	const json_t *revert;
	if (for_people(&c))
		json_array_foreach(list, i, entry)
			if ((revert = json_object_get(entry, "revert")) && offered++ < REVERTS_SHOWN)
				printf("%s  undo %-6s %s   # %s\n", offered == 1 ? "\n" : "", jstr(entry, "id"), jstr(revert, "cli"), jstr(revert, "text"));
	if (offered > REVERTS_SHOWN)
		printf("  %zu more can be undone: klieg revert ID\n", offered - REVERTS_SHOWN);
	if (for_people(&c) && matched > (int64_t)n && n)
		fprintf(stderr, "%zu of %lld; --limit shows more\n", n, (long long)matched);
	if (for_people(&c) && let_go)
		fprintf(stderr, "%lld older entries were let go\n", (long long)let_go);
	json_decref(doc);
	return n ? CLI_OK : CLI_NONE;
}

/* The server says in the entry which request undoes it, if one does. */
int cli_revert(int argc, char **argv)
{
	struct cli c;
	struct err e = { 0 };
	int status = CLI_OK;
	int64_t number;
	if (!cli_open(argc, argv, &c, &status))
		return status;
	const char *id = c.args.pos[0], *reason = cli_opt(&c.args, "reason") ?: "";
	if (strncmp(id, "a-", 2) || cli_parse_count(id + 2, 1, INT64_MAX - 1, &number, &e) < 0)
		return cli_fail_usage(c.args.cmd, "'%.60s' is not the ID of an entry, like a-12: klieg audit has them", id);
	char path[100];
	snprintf(path, sizeof(path), "/api/v1/audit?limit=1&before=%lld", (long long)number + 1);
	json_t *doc = cli_get(&c, path, &status), *answer = NULL;
	if (!doc)
		return status;
	json_t *entry = json_array_get(json_object_get(doc, "entries"), 0), *revert = json_object_get(entry, "revert");
	if (strcmp(jstr(entry, "id"), id)) {
		err_set(&e, KLIEG_E_NOT_FOUND, "the audit log has no entry %s, or has let it go", id);
		status = cli_fail(&e);
	} else if (!json_is_object(revert)) {
		err_set(&e, KLIEG_E_CONFLICT, "%s (%s %s) cannot be undone, or has been already", id, jstr(entry, "what"), jstr(entry, "object"));
		err_hint(&e, "klieg audit '%s' has what happened to it since", jstr(entry, "object"));
		status = cli_fail(&e);
	} else {
		struct buf t = { 0 };
		json_t *body = json_deep_copy(json_object_get(revert, "body"));
		bool query = !strcmp(jstr(revert, "method"), "DELETE");
		buf_printf(&t, "/api/v1%s", jstr(revert, "path"));
		if (query) {
			client_query(&t, "reason", reason);
			client_query(&t, jstr(revert, "who"), cli_who());
		} else {
			json_object_set_new(body, "reason", json_string(reason));
			json_object_set_new(body, jstr(revert, "who"), json_string(cli_who()));
		}
		buf_byte(&t, 0);
		if (client_json(&c.client, jstr(revert, "method"), (char *)t.p, query ? NULL : body, &answer, NULL, &e) < 0)
			status = cli_fail(&e);
		else if (status = CLI_OK, !for_people(&c))
			output_json(answer);
		else
			printf("%s %s undone: %s\n", jstr(entry, "what"), jstr(entry, "object"), jstr(revert, "text"));
		json_decref(body);
		buf_finish(&t);
	}
	json_decref(answer);
	json_decref(doc);
	return status;
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
