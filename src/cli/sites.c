/* Sites and toggles: ps, ls, on, off, toggles. */
#include "cli/cli.h"
#include "base/clock.h"
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static const struct column process_columns[] = { { "PID", "pid", COL_TEXT }, { "SERVICE", "service", COL_TEXT, .max = 30 }, { "STATE", "state", COL_TEXT },
	{ "ATTACHED", "attached_text", COL_TEXT }, { "SITES", "sites", COL_COUNT }, { "ON", "on", COL_COUNT }, { "THREADS", "threads", COL_COUNT }, { "MADE", "made", COL_COUNT },
	{ "OPEN", "open", COL_COUNT }, { "OVERHEAD", "overhead_percent", COL_PERCENT }, { "DROPPED", "dropped", COL_DROPS },
	{ "RINGS", "rings", COL_COUNT, true }, { "MODULES", "modules", COL_COUNT, true }, { "PATCH", "patch", COL_TEXT, true }, { "LEASE", "lease", COL_BOOL, true },
	{ "PLUGINS", "plugins", COL_LIST, true }, { "USER", "user", COL_TEXT, true }, { "EXE", "exe", COL_TEXT, true }, { 0 } };
static const struct column site_columns[] = { { "SERVICE", "service", COL_TEXT, .max = 30 }, { "NAME", "name", COL_TEXT, .max = 50 }, { "KIND", "kind", COL_TEXT },
	{ "LEVEL", "level", COL_TEXT }, { "PLACES", "instances", COL_COUNT }, { "FUNCTION", "function", COL_TEXT, .max = 40 }, { "FILE", "file", COL_TEXT, .max = 40 },
	{ "LINE", "line", COL_COUNT }, { "ID", "id", COL_TEXT, true }, { "COMPONENT", "component", COL_TEXT, true }, { "MODULE", "module", COL_TEXT, true },
	{ "PIDS", "pids", COL_LIST, true }, { "ATTRIBUTES", "attributes", COL_LIST, true }, { 0 } };
static const struct column toggle_columns[] = { { "ID", "id", COL_TEXT }, { "SELECTOR", "selector", COL_TEXT, .max = 44 }, { "LEVEL", "level", COL_TEXT },
	{ "KEEP", "keep", COL_SHARE }, { "STATE", "state", COL_TEXT }, { "LEFT", "expires_unix_nano", COL_LEFT }, { "SITES", "sites", COL_COUNT },
	{ "PROCESSES", "processes", COL_COUNT }, { "PREDICTED", "predicted.cpu_percent", COL_PERCENT }, { "MEASURED", "measured.cpu_percent", COL_PERCENT },
	{ "OWNER", "owner", COL_TEXT, .max = 16 }, { "REASON", "reason", COL_TEXT, .max = 40 }, { "WHERE", "where", COL_TEXT, true }, { "SCOPE", "scope", COL_TEXT, true },
	{ "SPANS/S", "measured.spans_per_s", COL_RATE, true }, { "SHARE", "share", COL_SHARE, true }, { "HOSTS", "hosts", COL_LIST, true },
	{ "RATE", "rate", COL_RATE, true }, { 0 } };

/* When there are functions among them: whether they can be intercepted matters more than where they are written. */
static const struct column function_columns[] = { { "SERVICE", "service", COL_TEXT, .max = 30 }, { "NAME", "name", COL_TEXT, .max = 60 }, { "KIND", "kind", COL_TEXT },
	{ "LEVEL", "level", COL_TEXT }, { "PLACES", "instances", COL_COUNT }, { "HOOKABLE", "hookable_text", COL_TEXT, .max = 60 }, { "BYTES", "size", COL_COUNT },
	{ "SOURCE", "source", COL_TEXT }, { "ADDRESS", "address", COL_TEXT, true }, { "FILE", "file", COL_TEXT, true }, { "LINE", "line", COL_COUNT, true },
	{ "ID", "id", COL_TEXT, true }, { "COMPONENT", "component", COL_TEXT, true }, { "MODULE", "module", COL_TEXT, true }, { "PIDS", "pids", COL_LIST, true },
	{ "ATTRIBUTES", "attributes", COL_LIST, true }, { 0 } };

const char *cli_plural(int64_t n) { return n == 1 ? "" : "s"; }

/* For people; true if there is any function. */
static bool hookable_texts(json_t *rows)
{
	size_t i;
	json_t *row;
	bool any = false;
	json_array_foreach(rows, i, row) {
		const json_t *h = json_object_get(row, "hookable");
		if (!h)
			continue;
		struct buf b = { 0 };
		any = true;
		buf_printf(&b, "%s%s", json_is_true(h) ? "yes" : "no", !json_is_true(h) && *jstr(row, "why") ? ": " : "");
		if (!json_is_true(h))
			buf_add_str(&b, jstr(row, "why"));
		json_object_set_new(row, "hookable_text", json_stringn((char *)b.p, b.n));
		buf_finish(&b);
	}
	return any;
}

/* For people: a process id is a name, not a quantity: 12345, never 12.3k. Detached, libklieg stays where it is. */
static void process_texts(json_t *rows)
{
	size_t i;
	json_t *row;
	json_array_foreach(rows, i, row) {
		char s[24];
		snprintf(s, sizeof(s), "%lld", (long long)jint(row, "pid"));
		json_object_set_new(row, "pid", json_string(s));
		if (json_object_get(row, "attached"))
			json_object_set_new(row, "attached_text", json_string(json_is_true(json_object_get(row, "attached")) ? "yes" : "parked"));
	}
}

int cli_ps(int argc, char **argv)
{
	struct cli c;
	int status;
	json_t *doc;
	if (!cli_open(argc, argv, &c, &status) || !(doc = cli_get(&c, "/api/v1/processes", &status)))
		return status;
	json_t *rows = json_object_get(doc, "processes");
	bool text = c.out == OUT_TABLE || c.out == OUT_WIDE;
	if (text)
		process_texts(rows);
	output_rows(c.out, doc, "processes", process_columns);
	size_t n = json_array_size(rows);
	if (!n && text)
		fprintf(stderr, "no traced process yet; klieg attach PID, klieg run -- CMD, or link with -lklieg\n");
	json_decref(doc);
	return CLI_OK;
}

/* No site matches; with the nearest name as a hint. Returns the exit status. */
static int no_match(struct cli *c, const char *sel)
{
	struct err e = { 0 };
	err_set(&e, KLIEG_E_NO_MATCH, "no site matches '%.200s'", sel);
	struct buf b = { 0 };
	json_t *all = NULL, *row;
	struct err ignored;
	struct cli_nearest near = { .word = sel + str_service_colon(str_of(sel)) };
	near.word = *near.word ? near.word + 1 : sel;
	size_t i;
	if (client_json(&c->client, "GET", "/api/v1/sites?limit=5000", NULL, &all, NULL, &ignored) == 0)
		json_array_foreach(json_object_get(all, "sites"), i, row)
			cli_nearest_offer(&near, jstr(row, "name"));
	if (near.best)
		buf_printf(&b, "did you mean: %s\n", near.best);
	buf_add_str(&b, json_array_size(json_object_get(all, "sites")) ? "klieg ls" : "klieg attach PID makes the functions of a running program sites");
	err_hint(&e, "%.*s", (int)b.n, (char *)b.p);
	buf_finish(&b);
	json_decref(all);
	return cli_fail(&e);
}

int cli_ls(int argc, char **argv)
{
	struct cli c;
	struct err e = { 0 };
	int status;
	int64_t n = 1000, offset = 0;
	if (!cli_open(argc, argv, &c, &status))
		return status;
	const char *limit = cli_opt(&c.args, "limit"), *off = cli_opt(&c.args, "offset");
	if ((limit && cli_parse_count(limit, 1, 100000, &n, &e) < 0) || (off && cli_parse_count(off, 0, INT32_MAX, &offset, &e) < 0))
		return cli_fail(&e);
	struct buf t = { 0 };
	buf_printf(&t, "/api/v1/sites?limit=%lld&offset=%lld", (long long)n, (long long)offset);
	if (c.args.npos)
		client_query(&t, "sel", c.args.pos[0]);
	buf_byte(&t, 0);
	json_t *doc = cli_get(&c, (char *)t.p, &status);
	buf_finish(&t);
	if (!doc)
		return status;
	size_t rows = json_array_size(json_object_get(doc, "sites"));
	int64_t matched = jint(doc, "matched"), processes = jint(doc, "processes");
	bool text = c.out == OUT_TABLE || c.out == OUT_WIDE;
	if (rows || c.out != OUT_TABLE)
		output_rows(c.out, doc, "sites", text && hookable_texts(json_object_get(doc, "sites")) ? function_columns : site_columns);
	if (!rows && c.args.npos)
		status = no_match(&c, c.args.pos[0]);
	else if (!rows) {
		fprintf(stderr, "no site yet; klieg attach PID, klieg run -- CMD, or link a program with -lklieg\n");
		status = CLI_NONE;
	} else {
		status = CLI_OK;
		if (text)
			fprintf(stderr, "showing %zu of %lld site%s in %lld process%s\n", rows, (long long)matched, matched == 1 ? "" : "s", (long long)processes,
				processes == 1 ? "" : "es");
	}
	json_decref(doc);
	return status;
}

static void print_cost(const json_t *cost)
{
	struct fmt a, b, d;
	if (!cost || json_is_null(cost))
		return;
	if (!json_is_true(json_object_get(cost, "known")))
		printf("  cost      %s\n", *jstr(cost, "basis") ? jstr(cost, "basis") : "unknown");
	else
		printf("  cost      ~%s spans/s, %s CPU, %s/s (%s)\n", fmt_count(&a, jnum(cost, "spans_per_s")), fmt_percent(&b, jnum(cost, "cpu_percent")),
			fmt_bytes(&d, jnum(cost, "bytes_per_s")), jstr(cost, "basis"));
}

int cli_toggle_off(const struct client *c, const char *id, json_t **ret_doc, struct err *e)
{
	struct buf t = { 0 };
	buf_printf(&t, "/api/v1/toggles/%s", id);
	buf_byte(&t, 0);
	int rc = client_json(c, "DELETE", (char *)t.p, NULL, ret_doc, NULL, e);
	buf_finish(&t);
	return rc;
}

/* --for: stays until the time is over or somebody presses Ctrl-C, then takes the toggle away. */
static int hold(struct cli *c, const char *id, int64_t ns)
{
	struct err e = { 0 };
	struct fmt f;
	int64_t end = clock_mono() + ns;
	fprintf(stderr, "on for %s; Ctrl-C switches off\n", fmt_duration(&f, ns));
	bool interrupted = cli_held_until(end);
	json_t *doc = NULL;
	int rc = cli_toggle_off(&c->client, id, &doc, &e);
	if (rc < 0 && e.code != KLIEG_E_NOT_FOUND)
		return cli_fail(&e);
	fprintf(stderr, "off again: %lld sites, acknowledged in %s\n", (long long)jint(doc, "sites"), fmt_duration(&f, jnum(doc, "ack_nano")));
	json_decref(doc);
	return interrupted ? CLI_INTERRUPTED : CLI_OK;
}

int cli_on(int argc, char **argv)
{
	static const char *const levels[] = { "count", "span", "detail", "deep", NULL };
	struct cli c;
	struct err e = { 0 };
	int status, i;
	if (!cli_open(argc, argv, &c, &status))
		return status;
	char *put_together = cli_selector(&c.args, c.args.npos ? c.args.pos[0] : NULL);
	const char *sel = put_together, *level = cli_opt(&c.args, "level") ?: "span", *keep_text = cli_opt(&c.args, "keep"), *ttl = cli_opt(&c.args, "ttl"),
		*where = cli_opt(&c.args, "where"), *hold_text = cli_opt(&c.args, "for"), *depth_text = cli_opt(&c.args, "depth"),
		*pause = cli_opt(&c.args, "max-pause"), *most_text = cli_opt(&c.args, "max-functions");
	bool dry = cli_flag(&c.args, "dry-run");
	if (!sel)
		return cli_fail_usage(c.args.cmd, "say what to switch on: a selector, or --service, --component, --endpoint, --tenant");
	double keep = 1;
	int64_t ttl_ns, hold_ns = 0, depth = 0, most = 0, pause_ns;
	struct cli_nearest near = { .word = level };
	for (i = 0; levels[i] && strcmp(levels[i], level); i++)
		cli_nearest_offer(&near, levels[i]);
	if (!levels[i]) {
		err_set(&e, KLIEG_E_USAGE, "there is no level '%.40s'", level);
		if (near.best)
			err_hint(&e, "did you mean: --level %s", near.best);
		else
			err_hint(&e, "count, span, detail or deep; to switch off: klieg off '%s'", sel);
		return cli_fail(&e);
	}
	if ((keep_text && cli_parse_keep(keep_text, &keep, &e) < 0) || cli_parse_duration(ttl ? ttl : "5m", &ttl_ns, &e) < 0
		|| (hold_text && cli_parse_duration(hold_text, &hold_ns, &e) < 0) || (depth_text && cli_parse_count(depth_text, 0, 16, &depth, &e) < 0)
		|| (most_text && cli_parse_count(most_text, 1, 1000000, &most, &e) < 0) || (pause && cli_parse_duration(pause, &pause_ns, &e) < 0))
		return cli_fail(&e);
	if (depth_text && strcmp(level, "deep"))
		return cli_fail_usage(c.args.cmd, "--depth goes with --level deep");
	char ttl_out[40];
	if (hold_text && !ttl)  /* outlives the foreground a little, in case that is killed */
		ttl_ns = hold_ns + 5000000000;
	snprintf(ttl_out, sizeof(ttl_out), "%lldms", (long long)(ttl_ns / 1000000 ? ttl_ns / 1000000 : 1));
	json_t *body = json_pack("{s:s, s:s, s:f, s:s, s:s, s:s, s:s?, s:s, s:b}", "selector", sel, "level", level, "keep", keep, "ttl", ttl_out,
		"reason", cli_opt(&c.args, "reason") ?: "", "owner", cli_who(), "where", where, "scope", cli_flag(&c.args, "marked") ? "marked" : "all", "dry_run", dry);
	if (!body)
		return cli_fail_usage(c.args.cmd, "an argument is not valid UTF-8");
	if (depth_text || !strcmp(level, "deep"))
		json_object_set_new(body, "depth", json_integer(depth_text ? depth : 1));
	if (most_text)
		json_object_set_new(body, "max_functions", json_integer(most));
	if (pause)
		json_object_set_new(body, "max_pause", json_string(pause));
	if (!cli_reach(&c.args, body, &e)) {
		json_decref(body);
		return cli_fail(&e);
	}
	if (hold_text && !dry)
		cli_hold_signals();
	int64_t start = clock_mono();
	json_t *doc = NULL;
	int rc = client_json(&c.client, "POST", "/api/v1/toggles", body, &doc, NULL, &e);
	int64_t took = clock_mono() - start;
	json_decref(body);
	if (rc < 0)
		return cli_fail(&e);
	const json_t *plan = json_object_get(doc, "plan"), *toggle = json_object_get(doc, "toggle"), *x;
	const char *id = jstr(toggle, "id");
	if (c.out == OUT_JSON || c.out == OUT_NDJSON || c.out == OUT_CSV)
		output_json(doc);
	else {
		struct fmt f, g;
		size_t k;
		long long sites = (long long)jint(plan, "sites"), places = (long long)jint(plan, "instances"), processes = (long long)jint(plan, "processes");
		printf("%s%s%s%s: %lld site%s (%lld place%s) in %lld process%s", style("bold"), dry ? "would switch on" : "on ", dry ? "" : id, style("off"), sites,
			sites == 1 ? "" : "s", places, places == 1 ? "" : "s", processes, processes == 1 ? "" : "es");
		json_array_foreach(json_object_get(plan, "services"), k, x)
			printf("%s%s", k ? ", " : " of ", json_string_value(x) ?: "");
		printf(", level %s", level);
		if (keep < 1)
			printf(", keeping %s of traces", fmt_percent(&f, keep * 100));
		putchar('\n');
		print_cost(json_object_get(plan, "predicted"));
		if (dry) {
			json_array_foreach(json_object_get(plan, "sample"), k, x)
				printf("  %s %s:%s\n", k ? "         " : "among them", jstr(x, "service"), jstr(x, "name"));
			printf("  nothing was changed\n");
		} else {
			printf("  acknowledged in %s (%s with the way there and back)\n", fmt_duration(&f, jnum(doc, "ack_nano")), fmt_duration(&g, took));
			if (jint(plan, "pause_nano"))
				printf("  paused    the program for %s\n", fmt_duration(&f, jnum(plan, "pause_nano")));
			int64_t ends = jint(toggle, "expires_unix_nano");
			printf("  ends      %.8s, in %s\n", fmt_clock(&f, ends), fmt_duration(&g, ends - clock_wall()));
			printf("  undo      klieg off %s\n", id);
		}
	}
	fflush(stdout);
	if (*jstr(plan, "warning"))
		fprintf(stderr, "warning: %s\n", jstr(plan, "warning"));
	status = json_is_false(json_object_get(doc, "applied")) && !dry ? CLI_PARTIAL : CLI_OK;
	if (hold_text && !dry)
		status = hold(&c, id, hold_ns);
	json_decref(doc);
	free(put_together);
	return status;
}

int cli_off(int argc, char **argv)
{
	struct cli c;
	struct err e = { 0 };
	int status, rc;
	if (!cli_open(argc, argv, &c, &status))
		return status;
	bool all = cli_flag(&c.args, "all"), undo = cli_flag(&c.args, "undo");
	if (all + undo + c.args.npos != 1)
		return cli_fail_usage(c.args.cmd, "say what to switch off: a selector, a toggle's id, or --all");
	json_t *doc = NULL;
	struct buf t = { 0 };
	const char *what = c.args.npos ? c.args.pos[0] : "";
	bool id = !strncmp(what, "t-", 2) && strspn(what + 2, "0123456789abcdefghijklmnopqrstuvwxyz") == strlen(what + 2);
	buf_printf(&t, "/api/v1/toggles%s%s", undo ? "/undo" : id ? "/" : "", id ? what : "");
	if (all)
		client_query(&t, "all", "true");
	else if (!undo && !id)
		client_query(&t, "sel", what);
	if (cli_opt(&c.args, "reason"))
		client_query(&t, "reason", cli_opt(&c.args, "reason"));
	buf_byte(&t, 0);
	rc = client_json(&c.client, undo ? "POST" : "DELETE", (char *)t.p, NULL, &doc, NULL, &e);
	buf_finish(&t);
	if (rc < 0)
		return cli_fail(&e);
	size_t n = json_array_size(json_object_get(doc, undo && json_object_get(doc, "toggles") ? "toggles" : undo ? "restored" : "removed"));
	struct fmt f;
	if (c.out != OUT_TABLE && c.out != OUT_WIDE)
		output_json(doc);
	else if (undo)
		printf("restored %zu toggle%s\n", n, n == 1 ? "" : "s");
	else if (n)
		printf("off: %zu toggle%s, %lld sites, acknowledged in %s\n  undo      klieg off --undo\n", n, n == 1 ? "" : "s", (long long)jint(doc, "sites"),
			fmt_duration(&f, jnum(doc, "ack_nano")));
	else
		printf("nothing was on%s%s\n", all ? "" : " for ", what);
	json_decref(doc);
	return n || all || undo ? CLI_OK : CLI_NONE;
}

int cli_toggles(int argc, char **argv)
{
	struct cli c;
	int status;
	if (!cli_open(argc, argv, &c, &status))
		return status;
	json_t *doc = cli_get(&c, cli_flag(&c.args, "all") ? "/api/v1/toggles?all=true" : "/api/v1/toggles", &status);
	if (!doc)
		return status;
	size_t n = json_array_size(json_object_get(doc, "toggles"));
	if (n || c.out != OUT_TABLE)
		output_rows(c.out, doc, "toggles", toggle_columns);
	else
		fprintf(stderr, "nothing is switched on; klieg on '*' --level count\n");
	json_decref(doc);
	return CLI_OK;
}
