/* How Klieg itself is: status, doctor, open. */
#include "cli/cli.h"
#include "base/clock.h"
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static void print_account(const json_t *a)
{
	const char *k;
	json_t *v;
	printf("  made %lld = stored %lld + open %lld + queued %lld", (long long)jint(a, "made"), (long long)jint(a, "stored"), (long long)jint(a, "open"), (long long)jint(a, "queued"));
	json_object_foreach(json_object_get(a, "dropped"), k, v)
		if (json_number_value(v))
			printf(" + dropped(%s) %lld", k, (long long)json_number_value(v));
	putchar('\n');
}

/* What somebody who looks once must not miss: panic, alerts. */
static void print_trouble(struct cli *c, const json_t *status)
{
	const json_t *panic = json_object_get(status, "panic"), *x;
	json_t *alerts = NULL;
	struct err ignored;
	struct fmt f;
	size_t i;
	if (json_is_object(panic))
		printf("  %sPANIC%s by %s, %.8s%s%s: everything is off; klieg panic --undo\n", style("red"), style("off"), jstr(panic, "owner"),
			fmt_clock(&f, json_object_get(panic, "at_unix_nano") ? jint(panic, "at_unix_nano") : jint(panic, "at")), *jstr(panic, "reason") ? ": " : "", jstr(panic, "reason"));
	if (client_json(&c->client, "GET", "/api/v1/alerts", NULL, &alerts, NULL, &ignored) >= 0)
		json_array_foreach(json_object_get(alerts, "alerts"), i, x)
			if (strcmp(jstr(x, "id"), "panic"))  /* said already */
				printf("  %s%s%s %s: %.200s%s%s\n", style(strcmp(jstr(x, "severity"), "critical") ? "yellow" : "red"), jstr(x, "severity"), style("off"),
					jstr(x, "title"), jstr(x, "text"), *jstr(x, "cli") ? "; " : "", jstr(x, "cli"));
	json_decref(alerts);
}

int cli_status(int argc, char **argv)
{
	struct cli c;
	int status;
	json_t *doc;
	if (!cli_open(argc, argv, &c, &status) || !(doc = cli_get(&c, "/api/v1/status", &status)))
		return status;
	if (c.out != OUT_TABLE && c.out != OUT_WIDE) {
		json_object_set(doc, "klieg", json_object_get(doc, "version"));  /* "version" is the document's, here as everywhere */
		json_object_set_new(doc, "version", json_integer(1));
		output_json(doc);
	} else {
		const json_t *n = json_object_get(doc, "counts"), *next = json_object_get(doc, "next_expiry_unix_nano");
		struct fmt a, b;
		printf("klieg %s on %s, up %s, at %s\n", jstr(doc, "version"), jstr(doc, "host"), fmt_duration(&a, jnum(doc, "uptime_nano")), c.client.named);
		long long processes = (long long)jint(n, "processes"), sites = (long long)jint(n, "sites"), toggles = (long long)jint(n, "toggles");
		printf("  %lld process%s, %lld site%s, %lld on, %lld toggle%s", processes, processes == 1 ? "" : "es", sites, sites == 1 ? "" : "s", (long long)jint(n, "on"), toggles,
			toggles == 1 ? "" : "s");
		if (json_is_number(next))
			printf(", the next one ends in %s", fmt_duration(&a, json_number_value(next) - clock_wall()));
		double budget = jnum(doc, "budget_percent");
		printf("\n  overhead %s%s%s", fmt_percent(&a, jnum(doc, "overhead_percent")), budget > 0 ? " of a budget of " : ", no budget", budget > 0 ? fmt_percent(&b, budget) : "");
		printf(", the agent takes %s of a core", fmt_percent(&a, jnum(doc, "agent_cpu_percent")));
		printf(", %s spans/s\n", fmt_count(&a, jnum(doc, "spans_per_s")));
		print_account(json_object_get(doc, "account"));
		print_trouble(&c, doc);
	}
	json_decref(doc);
	return CLI_OK;
}

int cli_doctor(int argc, char **argv)
{
	struct cli c;
	int status;
	json_t *doc;
	if (!cli_open(argc, argv, &c, &status) || !(doc = cli_get(&c, "/api/v1/doctor", &status)))
		return status;
	bool ok = json_is_true(json_object_get(doc, "ok"));
	if (c.out != OUT_TABLE && c.out != OUT_WIDE)
		output_json(doc);
	else {
		size_t i;
		json_t *x;
		json_array_foreach(json_object_get(doc, "checks"), i, x) {
			bool good = json_is_true(json_object_get(x, "ok"));
			char *value = json_dumps(json_object_get(x, "value"), JSON_ENCODE_ANY | JSON_COMPACT | JSON_REAL_PRECISION(4));
			char *limit = json_dumps(json_object_get(x, "limit"), JSON_ENCODE_ANY | JSON_COMPACT | JSON_REAL_PRECISION(4));
			printf("%s%s%s %-22s %s", style(good ? "green" : "red"), good ? "ok  " : "BAD ", style("off"), jstr(x, "name"), jstr(x, "what"));
			if (value && strcmp(value, "null"))
				printf(" (%s%s%s)", value, limit && strcmp(limit, "null") ? ", limit " : "", limit && strcmp(limit, "null") ? limit : "");
			putchar('\n');
			if (!good && *jstr(x, "next"))
				printf("       next: %s\n", jstr(x, "next"));
			free(value);
			free(limit);
		}
		const json_t *a = json_object_get(doc, "account");
		bool balanced = !json_is_false(json_object_get(a, "balanced"));
		printf("%s%s%s account\n", style(balanced ? "green" : "red"), balanced ? "ok  " : "BAD ", style("off"));
		print_account(a);
	}
	json_decref(doc);
	return ok ? CLI_OK : CLI_NONE;
}

int cli_open_dashboard(int argc, char **argv)
{
	struct cli c;
	int status;
	json_t *doc;
	if (!cli_open(argc, argv, &c, &status) || !(doc = cli_get(&c, "/api/v1/status", &status)))
		return status;
	const char *http = jstr(doc, "http");
	char url[500];
	if (*http)
		snprintf(url, sizeof(url), "%s%s/", strncmp(http, "http", 4) ? "http://" : "", http);
	else if (!c.client.path[0])
		snprintf(url, sizeof(url), "%s/", c.client.named);
	else {
		snprintf(url, sizeof(url), "http://127.0.0.1:7070/");
		fprintf(stderr, "the server's own address is not known over its socket; this is the default one\n");
	}
	if (c.out != OUT_TABLE && c.out != OUT_WIDE)
		output_json(json_pack("{s:s}", "url", url));
	else
		printf("%s\n", url);
	fflush(stdout);
	json_decref(doc);
	if (!cli_flag(&c.args, "print") && isatty(1) && (getenv("DISPLAY") || getenv("WAYLAND_DISPLAY"))) {
		execlp("xdg-open", "xdg-open", url, (char *)NULL);
		fprintf(stderr, "xdg-open is not installed; open the address by hand\n");
	}
	return CLI_OK;
}
