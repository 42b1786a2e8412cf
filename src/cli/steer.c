/* Steering by hand: whom a toggle reaches (on, widen, narrow), everything off (panic), one request on (token), and what to look at while doing so: alerts, firings
 * of triggers, overhead. */
#include "cli/cli.h"
#include "base/clock.h"
#include <stdio.h>
#include <stdlib.h>

static const struct column alert_columns[] = { { "SEVERITY", "severity", COL_TEXT }, { "SINCE", "since_unix_nano", COL_TIME },
	{ "TITLE", "title", COL_TEXT, .max = 40 }, { "VALUE", "value_text", COL_TEXT }, { "LIMIT", "limit_text", COL_TEXT }, { "NEXT", "cli", COL_TEXT },
	{ "TEXT", "text", COL_TEXT, .max = 120 }, { "ID", "id", COL_TEXT, true }, { 0 } };
static const struct column alert_raw_columns[] = { { "SEVERITY", "severity", COL_TEXT }, { "SINCE", "since_unix_nano", COL_TIME }, { "TITLE", "title", COL_TEXT },
	{ "VALUE", "value", COL_TEXT }, { "LIMIT", "limit", COL_TEXT }, { "NEXT", "cli", COL_TEXT }, { "TEXT", "text", COL_TEXT }, { "ID", "id", COL_TEXT }, { 0 } };
static const struct column firing_columns[] = { { "AT", "at_unix_nano", COL_TIME }, { "POLICY", "policy", COL_TEXT, .max = 30 },
	{ "RULE", "rule", COL_TEXT, .max = 30 },
	{ "SERVICE", "service", COL_TEXT, .max = 24 }, { "HOST", "host", COL_TEXT, .max = 24 }, { "FROM", "from", COL_TEXT }, { "TO", "to", COL_TEXT },
	{ "STATE", "state", COL_TEXT }, { "CAUSE", "cause_text", COL_TEXT, .max = 100 }, { "TRACES", "traces_count", COL_COUNT }, { "ID", "id", COL_TEXT, true },
	{ "ENDED", "ended_unix_nano", COL_TIME, true }, { "TRACE IDS", "traces", COL_LIST, true }, { 0 } };
static const struct column overhead_columns[] = { { "PID", "pid", COL_TEXT }, { "SERVICE", "service", COL_TEXT, .max = 30 }, { "HOST", "host", COL_TEXT, .max = 24 },
	{ "MEASURED", "measured_percent", COL_PERCENT }, { "LIMIT", "limit_percent", COL_PERCENT }, { "PREDICTED", "predicted_percent", COL_PERCENT },
	{ "SHED", "shed", COL_LIST, .max = 80 }, { 0 } };
static const struct column site_cost_columns[] = { { "SERVICE", "service", COL_TEXT, .max = 30 }, { "NAME", "name", COL_TEXT, .max = 50 },
	{ "CALLS/S", "calls_per_s", COL_RATE },
	{ "NS/CALL", "ns_per_call", COL_COUNT }, { "COST", "percent", COL_PERCENT }, { 0 } };
static const struct column rule_cost_columns[] = { { "RULE", "id", COL_TEXT }, { "MEASURED", "measured_percent", COL_PERCENT },
	{ "PREDICTED", "predicted_percent", COL_PERCENT }, { 0 } };

/* ---- whom a toggle reaches ------------------------------------------------------------------------------------ */

char *cli_selector(const struct cli_args *a, const char *sel)
{
	char *now = sel ? str_dup(str_of(sel)) : NULL;
	const char *field, *option, *value;
	for (unsigned i = 0; (field = selector_field(i, &option)); i++)
		if ((value = cli_opt(a, option))) {
			char *next = selector_set(now ? now : "*", field, value);
			free(now);
			now = next;
		}
	return now;
}

bool cli_reach(const struct cli_args *a, json_t *body, struct err *e)
{
	const char *share = cli_opt(a, "share"), *rate = cli_opt(a, "rate"), *host;
	json_t *hosts = json_array();
	double x;
	int at = 0;
	while ((host = cli_opt_next(a, "host", &at)))
		if (strcmp(host, "*"))
			json_array_append_new(hosts, json_string(host));
	if (cli_opt(a, "host"))
		json_object_set(body, "hosts", hosts);
	json_decref(hosts);
	if (share) {
		if (cli_parse_keep(share, &x, e) < 0) {
			err_set(e, KLIEG_E_USAGE, "'%.60s' is not a share of processes", share);
			err_hint(e, "write it like 10%% or 0.1; more than nothing, at most 100%%");
			return false;
		}
		json_object_set_new(body, "share", json_real(x));
	}
	if (rate) {
		if (cli_parse_rate(rate, &x, e) < 0)
			return false;
		json_object_set_new(body, "rate", json_real(x));
	}
	return true;
}

static json_t *toggle_by_id(struct cli *c, const char *id, int *ret_status)
{
	json_t *doc = cli_get(c, "/api/v1/toggles", ret_status), *t;
	size_t i;
	if (!doc)
		return NULL;
	json_array_foreach(json_object_get(doc, "toggles"), i, t)
		if (!strcmp(jstr(t, "id"), id)) {
			json_incref(t);
			json_decref(doc);
			return t;
		}
	json_decref(doc);
	struct err e;
	err_set(&e, KLIEG_E_NOT_FOUND, "no toggle '%.60s' is on", id);
	err_hint(&e, "klieg toggles");
	*ret_status = cli_fail(&e);
	return NULL;
}

static void reach_text(const json_t *t, struct buf *b)
{
	struct fmt f;
	size_t i;
	const json_t *x;
	fmt_safe(b, jstr(t, "selector"), 0);
	if (json_is_number(json_object_get(t, "share")) && jnum(t, "share") < 1)
		buf_printf(b, ", %s of processes", fmt_percent(&f, jnum(t, "share") * 100));
	json_array_foreach(json_object_get(t, "hosts"), i, x)
		buf_printf(b, "%s%s", i ? " " : ", on ", json_string_value(x) ?: "");
	if (*jstr(t, "where"))
		buf_printf(b, ", where %s", jstr(t, "where"));
}

/* Both do the same; narrow refuses what would reach more, so that a slip of the hand cannot. */
static int reach(int argc, char **argv, bool narrow)
{
	struct cli c;
	struct err e = { 0 };
	int status;
	if (!cli_open(argc, argv, &c, &status))
		return status;
	const char *id = c.args.pos[0], *sel = c.args.npos > 1 ? c.args.pos[1] : NULL, *where = cli_opt(&c.args, "where"), *field, *option, *value;
	json_t *before = toggle_by_id(&c, id, &status), *body = json_object(), *after = NULL;
	if (!before)
		return status;
	char *selector = cli_selector(&c.args, sel ? sel : jstr(before, "selector"));
	for (unsigned i = 0; narrow && (field = selector_field(i, &option)); i++)
		if ((value = cli_opt(&c.args, option)) && !strcmp(value, "*"))
			return cli_fail_usage(c.args.cmd, "--%s '*' reaches more, not less: klieg widen %s --%s '*'", option, id, option);
	if (strcmp(selector, jstr(before, "selector")))
		json_object_set_new(body, "selector", json_string(selector));
	free(selector);
	if (!cli_reach(&c.args, body, &e))
		return cli_fail(&e);
	double was = json_is_number(json_object_get(before, "share")) ? jnum(before, "share") : 1;
	if (narrow && json_object_get(body, "share") && jnum(body, "share") > was)
		return cli_fail_usage(c.args.cmd, "it reaches %g%% of processes now; klieg widen %s --share %s", was * 100, id, cli_opt(&c.args, "share"));
	if (where)
		json_object_set_new(body, "where", *where ? json_string(where) : json_null());
	if (!json_object_size(body))
		return cli_fail_usage(c.args.cmd, "say how: a selector, --service, --component, --endpoint, --tenant, --host, --share, --where");
	struct buf t = { 0 };
	client_path(&t, "/api/v1/toggles/", id, "");
	buf_byte(&t, 0);
	int rc = client_json(&c.client, "PATCH", (char *)t.p, body, &after, NULL, &e);
	buf_finish(&t);
	json_decref(body);
	if (rc < 0) {
		json_decref(before);
		return cli_fail(&e);
	}
	const json_t *toggle = json_object_get(after, "toggle") ? json_object_get(after, "toggle") : after;
	if (!for_people(&c))
		output_json(after);
	else {
		struct buf b = { 0 };
		reach_text(before, &b);
		buf_add_str(&b, "\n  now       ");
		reach_text(toggle, &b);
		printf("%s%s%s: was %.*s\n  reaches   %lld site%s in %lld process%s (was %lld in %lld)\n", style("bold"), id, style("off"), (int)b.n, (char *)b.p,
			(long long)jint(toggle, "sites"), cli_plural(jint(toggle, "sites")), (long long)jint(toggle, "processes"),
			jint(toggle, "processes") == 1 ? "" : "es",
			(long long)jint(before, "sites"), (long long)jint(before, "processes"));
		buf_finish(&b);
	}
	json_decref(before);
	json_decref(after);
	return CLI_OK;
}

int cli_widen(int argc, char **argv) { return reach(argc, argv, false); }
int cli_narrow(int argc, char **argv) { return reach(argc, argv, true); }

/* ---- all off, one on ------------------------------------------------------------------------------------------ */

int cli_panic(int argc, char **argv)
{
	struct cli c;
	struct err e = { 0 };
	struct fmt f;
	int status;
	if (!cli_open(argc, argv, &c, &status))
		return status;
	bool undo = cli_flag(&c.args, "undo");
	json_t *doc = NULL, *body = json_pack("{s:s, s:s}", "reason", cli_opt(&c.args, "reason") ?: "", "owner", cli_who());
	if (!body)
		return cli_fail_usage(c.args.cmd, "an argument is not valid UTF-8");
	int rc = client_json(&c.client, "POST", undo ? "/api/v1/panic/undo" : "/api/v1/panic", body, &doc, NULL, &e);
	json_decref(body);
	if (rc < 0)
		return cli_fail(&e);
	if (!for_people(&c))
		output_json(doc);
	else {
		const json_t *a = json_object_get(doc, "agents");
		long long agents = (long long)(json_is_array(a) ? (int64_t)json_array_size(a) : jint(doc, "agents")), sites = (long long)jint(doc, "sites");
		printf("%s%s%s: %lld site%s, %lld agent%s, acknowledged in %s\n", style("bold"), undo ? "as it was before" : "everything is off",
			style("off"), sites, sites == 1 ? "" : "s",
			agents, agents == 1 ? "" : "s", fmt_duration(&f, jnum(doc, "ack_nano")));
		if (!undo)
			printf("  policies  are suspended until klieg panic --undo\n  undo      klieg panic --undo\n");
	}
	json_decref(doc);
	return CLI_OK;
}

/* A request can only be traced where probes are on: for requests that carry a level, and for as long as the token is good. *ret_toggle is the caller's. */
static int sites_for_token(struct cli *c, json_t *about, json_t **ret_toggle, struct err *e)
{
	json_t *doc = NULL, *body = json_pack("{s:s, s:s, s:s, s:O, s:O, s:O, s:O}", "selector", "*", "scope", "marked", "estimate", "0s", "level", json_object_get(about, "level"), "ttl",
		json_object_get(about, "ttl"), "reason", json_object_get(about, "reason"), "owner", json_object_get(about, "owner"));
	int rc = client_json(&c->client, "POST", "/api/v1/toggles", body, &doc, NULL, e);
	json_decref(body);
	*ret_toggle = rc < 0 ? NULL : json_incref(json_object_get(doc, "toggle"));
	json_decref(doc);
	return rc;
}

int cli_token(int argc, char **argv)
{
	struct cli c;
	struct err e = { 0 };
	int status;
	int64_t ns;
	if (!cli_open(argc, argv, &c, &status))
		return status;
	const char *service = cli_opt(&c.args, "service"), *ttl = cli_opt(&c.args, "ttl") ?: "5m";
	if (!service) {
		err_set(&e, KLIEG_E_USAGE, "a token is for one service: --service NAME");
		err_hint(&e, "klieg ps lists them; it is the one that the request comes to first");
		return cli_fail(&e);
	}
	if (cli_parse_duration(ttl, &ns, &e) < 0)
		return cli_fail(&e);
	json_t *doc = NULL, *body = json_pack("{s:s, s:s, s:s, s:s, s:s}", "service", service, "level", cli_opt(&c.args, "level") ?: "detail", "ttl", ttl, "reason",
		cli_opt(&c.args, "reason") ?: "", "owner", cli_who());
	if (!body)
		return cli_fail_usage(c.args.cmd, "an argument is not valid UTF-8");
	if (!*jstr(body, "reason"))
		json_object_set_new(body, "reason", json_string("requests that carry a token"));
	json_t *toggle = NULL;
	int rc = client_json(&c.client, "POST", "/api/v1/tokens", body, &doc, NULL, &e);
	if (rc >= 0)
		rc = sites_for_token(&c, body, &toggle, &e);
	json_decref(body);
	if (rc < 0) {
		json_decref(doc);
		return cli_fail(&e);
	}
	json_object_set(doc, "toggle", toggle);
	if (!for_people(&c))
		output_json(doc);
	else {
		struct fmt f, g;
		int64_t ends = jint(doc, "expires_unix_nano");
		printf("%s: %s\n", *jstr(doc, "header") ? jstr(doc, "header") : "klieg-level", jstr(doc, "value"));
		fflush(stdout);
		fprintf(stderr, "a request to %s with this header is traced at level %s; good until %.8s, for %s\n", service,
			cli_opt(&c.args, "level") ?: "detail", fmt_clock(&f, ends),
			fmt_duration(&g, ends - clock_wall()));
		if (*jstr(doc, "curl"))
			fprintf(stderr, "  %s\n", jstr(doc, "curl"));
		fprintf(stderr, "all sites are on for such requests, and for no others, as %s\n  undo      klieg off %s\n", jstr(toggle, "id"), jstr(toggle, "id"));
	}
	json_decref(toggle);
	json_decref(doc);
	return CLI_OK;
}

/* ---- what to look at ------------------------------------------------------------------------------------------ */

/* A number by what it is about: the alert's id says. */
static void alert_value(json_t *x, const char *key, const char *into)
{
	const char *id = jstr(x, "id");
	const json_t *v = json_object_get(x, key);
	double n = json_number_value(v);
	struct fmt f;
	bool firing = !strncmp(id, "firing.", 7);
	if (!json_is_number(v))
		return;
	if (!strcmp(id, "store.age") || (firing && (strstr(jstr(x, "text"), "duration") || strstr(jstr(x, "text"), "queue_nano"))))
		fmt_duration(&f, n);
	else if (!strcmp(id, "store.queue"))
		fmt_bytes(&f, n);
	else if (!strncmp(id, "guard.", 6))
		fmt_percent(&f, n);
	else
		fmt_count(&f, n);
	json_object_set_new(x, into, json_string(f.s));
}

int cli_alerts(int argc, char **argv)
{
	struct cli c;
	int status;
	json_t *doc;
	if (!cli_open(argc, argv, &c, &status) || !(doc = cli_get(&c, "/api/v1/alerts", &status)))
		return status;
	json_t *x;
	size_t i;
	if (for_people(&c))
		json_array_foreach(json_object_get(doc, "alerts"), i, x) {
			alert_value(x, "value", "value_text");
			alert_value(x, "limit", "limit_text");
		}
	if (json_array_size(json_object_get(doc, "alerts")) || !for_people(&c))
		output_rows(c.out, doc, "alerts", for_people(&c) ? alert_columns : alert_raw_columns);
	else
		fprintf(stderr, "no alert\n");
	json_decref(doc);
	return CLI_OK;
}

static void cause_text(json_t *x)
{
	const json_t *cause = json_object_get(x, "cause");
	struct buf b = { 0 };
	fmt_safe(&b, *jstr(cause, "text") ? jstr(cause, "text") : jstr(cause, "query"), 0);
	if (*jstr(cause, "text")) {
		buf_add_str(&b, ": ");
		fmt_safe(&b, jstr(cause, "query"), 0);
	} else if (json_is_number(json_object_get(cause, "value"))) {
		struct fmt f, g;
		bool time = strstr(jstr(cause, "query"), "duration") != NULL;
		buf_printf(&b, ": %s, limit %s", time ? fmt_duration(&f, jnum(cause, "value")) : fmt_count(&f, jnum(cause, "value")),
			time ? fmt_duration(&g, jnum(cause, "threshold")) : fmt_count(&g, jnum(cause, "threshold")));
	}
	json_object_set_new(x, "cause_text", json_stringn((char *)b.p, b.n));
	json_object_set_new(x, "traces_count", json_integer((json_int_t)json_array_size(json_object_get(x, "traces"))));
	buf_finish(&b);
}

int cli_firings(int argc, char **argv)
{
	struct cli c;
	struct err e = { 0 };
	int status;
	int64_t ns;
	json_t *doc, *x;
	size_t i;
	if (!cli_open(argc, argv, &c, &status))
		return status;
	const char *since = cli_opt(&c.args, "since") ?: "1h", *policy = cli_opt(&c.args, "policy");
	if (cli_parse_duration(since, &ns, &e) < 0)
		return cli_fail(&e);
	struct buf t = { 0 };
	buf_add_str(&t, "/api/v1/firings");
	client_query(&t, "since", since);
	if (policy)
		client_query(&t, "policy", policy);
	buf_byte(&t, 0);
	doc = cli_get(&c, (char *)t.p, &status);
	buf_finish(&t);
	if (!doc)
		return status;
	json_t *list = json_object_get(doc, "firings");
	if (for_people(&c))
		json_array_foreach(list, i, x)
			cause_text(x);
	if (json_array_size(list) || !for_people(&c))
		output_rows(c.out, doc, "firings", firing_columns);
	else
		fprintf(stderr, "no trigger fired during the last %s\n", since);
	json_decref(doc);
	return CLI_OK;
}

int cli_overhead(int argc, char **argv)
{
	struct cli c;
	struct fmt f, g, h;
	int status;
	json_t *doc, *p;
	size_t i;
	if (!cli_open(argc, argv, &c, &status) || !(doc = cli_get(&c, "/api/v1/overhead", &status)))
		return status;
	json_t *processes = json_object_get(doc, "processes"), *sites = json_object_get(doc, "sites"), *rules = json_object_get(doc, "rules");
	const json_t *agent = json_object_get(doc, "agent");
	if (!for_people(&c)) {
		output_rows(c.out, doc, "processes", overhead_columns);
		json_decref(doc);
		return CLI_OK;
	}
	double budget = jnum(doc, "budget_percent");
	printf("%s%s%s; the agent takes %s of a core and %s%s\n", budget > 0 ? "budget " : "no budget", budget > 0 ? fmt_percent(&f, budget) : "",
		budget > 0 ? " of a process's CPU" : "",
		fmt_percent(&g, jnum(agent, "cpu_percent")),
		fmt_bytes(&h, jnum(agent, "rss_bytes")), json_is_true(json_object_get(doc, "saturated")) ? "; the host is saturated: less is allowed" : "");
	json_array_foreach(processes, i, p) {
		char s[24];
		snprintf(s, sizeof(s), "%lld", (long long)jint(p, "pid"));
		json_object_set_new(p, "pid", json_string(s));
	}
	output_rows(c.out, doc, "processes", overhead_columns);
	if (json_array_size(sites)) {
		putchar('\n');
		output_rows(c.out, doc, "sites", site_cost_columns);
	}
	if (json_array_size(rules)) {
		putchar('\n');
		output_rows(c.out, doc, "rules", rule_cost_columns);
	}
	json_decref(doc);
	return CLI_OK;
}
