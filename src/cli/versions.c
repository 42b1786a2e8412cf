/* Policies that are there: ls, show, diff, history, rollback, off, rollout, promote, stop, export, schema. */
#include "cli/policy.h"
#include "base/clock.h"
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static const struct column policy_columns[] = { { "POLICY", "name", COL_TEXT, .max = 40 }, { "VERSION", "version", COL_TEXT }, { "STATE", "state", COL_TEXT },
	{ "RULES", "rules_count", COL_COUNT }, { "SITES", "sites", COL_COUNT }, { "PREDICTED", "predicted", COL_PERCENT }, { "MEASURED", "measured", COL_PERCENT },
	{ "RAISED", "raised", COL_TEXT }, { "AUTHOR", "author", COL_TEXT, .max = 16 }, { "UPDATED", "updated_unix_nano", COL_TIME },
	{ "REASON", "reason", COL_TEXT, .max = 40 }, { "ROLLOUT", "rollout_text", COL_TEXT, true }, { 0 } };
static const struct column version_columns[] = { { "VERSION", "version", COL_TEXT }, { "CHANGE", "change", COL_TEXT }, { "AUTHOR", "author", COL_TEXT, .max = 24 },
	{ "WHEN", "when", COL_TEXT }, { "REASON", "reason", COL_TEXT, .max = 100 }, { "ROLLOUT", "rollout_text", COL_TEXT, .max = 160 }, { 0 } };

const char *policy_name_arg(struct cli *c) { return c->args.pos[0]; }

static void number_text(json_t *row, const char *key)  /* an ordinal, not a quantity */
{
	char s[24];
	snprintf(s, sizeof(s), "%lld", (long long)jint(row, key));
	json_object_set_new(row, key, json_string(s));
}

static void when_text(json_t *row, const char *key)
{
	char s[40];
	time_t t = jint(row, key) / 1000000000;
	struct tm tm;
	localtime_r(&t, &tm);
	strftime(s, sizeof(s), "%Y-%m-%d %H:%M:%S", &tm);
	json_object_set_new(row, "when", json_string(s));
}

/* A policy's rules added up, for a row of the list. */
static void sums(json_t *p)
{
	double sites = 0, predicted = 0, measured = 0;
	bool has_measured = false;
	struct buf raised = { 0 };
	const json_t *r;
	size_t i;
	json_array_foreach(json_object_get(p, "rules"), i, r) {
		const json_t *m = json_object_get(r, "measured");
		sites += jnum(r, "sites");
		predicted += jnum(json_object_get(r, "predicted"), "cpu_percent");
		if (m && !json_is_null(m)) {
			has_measured = true;
			measured += json_is_number(m) ? json_number_value(m) : jnum(m, "cpu_percent");
		}
		if (*jstr(r, "raised"))
			buf_printf(&raised, "%s%s:%s", raised.n ? " " : "", jstr(r, "name"), jstr(r, "raised"));
	}
	size_t count = json_array_size(json_object_get(p, "rules")) + json_array_size(json_object_get(p, "limits"));
	json_object_set_new(p, "rules_count", json_integer((json_int_t)count));
	json_object_set_new(p, "sites", json_real(sites));
	json_object_set_new(p, "predicted", json_real(predicted));
	if (has_measured)
		json_object_set_new(p, "measured", json_real(measured));
	json_object_set_new(p, "raised", json_stringn((char *)raised.p, raised.n));
	buf_finish(&raised);
	if (json_is_object(json_object_get(p, "rollout"))) {
		struct buf b = { 0 };
		rollout_text(json_object_get(p, "rollout"), &b);
		json_object_set_new(p, "rollout_text", json_stringn((char *)b.p, b.n));
		buf_finish(&b);
	}
	number_text(p, "version");
}

int cli_policy_ls(int argc, char **argv)
{
	struct cli c;
	int status;
	json_t *doc, *p;
	size_t i;
	if (!cli_open(argc, argv, &c, &status) || !(doc = cli_get(&c, "/api/v1/policies", &status)))
		return status;
	json_t *list = json_object_get(doc, "policies");
	if (for_people(&c))
		json_array_foreach(list, i, p)
			sums(p);
	if (json_array_size(list) || !for_people(&c))
		output_rows(c.out, doc, "policies", policy_columns);
	else
		fprintf(stderr, "no policy; klieg policy apply FILE\n");
	json_decref(doc);
	return CLI_OK;
}

/* GET /policies/NAME and what stands behind it; NULL: *ret_status has been set. */
static json_t *get(struct cli *c, const char *name, const char *after, int *ret_status)
{
	struct buf t = { 0 };
	client_path(&t, "/api/v1/policies/", name, after);
	buf_byte(&t, 0);
	struct err e = { 0 };
	json_t *doc = NULL, *all = NULL, *p;
	if (client_json(&c->client, "GET", (char *)t.p, NULL, &doc, NULL, &e) < 0) {
		struct err ignored;
		struct cli_nearest near = { .word = name };
		size_t i;
		if (e.code == KLIEG_E_NOT_FOUND && client_json(&c->client, "GET", "/api/v1/policies", NULL, &all, NULL, &ignored) >= 0) {
			json_array_foreach(json_object_get(all, "policies"), i, p)
				cli_nearest_offer(&near, jstr(p, "name"));
			err_hint(&e, near.best ? "did you mean: %s\nklieg policy ls" : "klieg policy ls", near.best);
		}
		json_decref(all);
		*ret_status = cli_fail(&e);
	}
	buf_finish(&t);
	return doc;
}

static void put_text(const char *text)
{
	size_t n = strlen(text);
	fwrite(text, 1, n, stdout);
	if (n && text[n - 1] != '\n')
		putchar('\n');
}

int cli_policy_show(int argc, char **argv)
{
	struct cli c;
	struct err e = { 0 };
	int status;
	int64_t version = 0;
	if (!cli_open(argc, argv, &c, &status))
		return status;
	const char *v = cli_opt(&c.args, "version"), *name = policy_name_arg(&c);
	if (v && cli_parse_count(v, 1, INT64_MAX, &version, &e) < 0)
		return cli_fail(&e);
	char after[40] = "";
	if (v)
		snprintf(after, sizeof(after), "?version=%lld", (long long)version);
	json_t *doc = get(&c, name, after, &status);
	if (!doc)
		return status;
	if (!for_people(&c))
		policy_output_json(doc);
	else {
		when_text(doc, "created_unix_nano");
		fprintf(stderr, "# %s version %lld, %s; by %s, %s%s%s\n", name, (long long)jint(doc, "version"), jstr(doc, "state"),
			jstr(doc, "author"), jstr(doc, "when"),
			*jstr(doc, "reason") ? ": " : "", jstr(doc, "reason"));
		put_text(jstr(doc, "text"));
		fflush(stdout);
		json_t *r = NULL;
		struct buf t = { 0 };
		client_path(&t, "/api/v1/policies/", name, "/rollout");
		buf_byte(&t, 0);
		if (!v && client_json(&c.client, "GET", (char *)t.p, NULL, &r, NULL, &e) >= 0 && json_array_size(json_object_get(r, "steps")) &&
			(c.out == OUT_WIDE || strcmp(jstr(r, "state"), "done"))) {
			struct buf b = { 0 };
			if (c.out == OUT_WIDE)
				rollout_text(r, &b);
			else
				rollout_where(r, &b);
			fprintf(stderr, "# rollout: %.*s\n", (int)b.n, (char *)b.p);
			buf_finish(&b);
		}
		json_decref(r);
		buf_finish(&t);
	}
	json_decref(doc);
	return CLI_OK;
}

/* ---- differences ---------------------------------------------------------------------------------------------- */

static void value_text(const json_t *v, struct buf *b)
{
	if (!v || json_is_null(v))
		buf_add_str(b, "(none)");
	else if (json_is_string(v))
		fmt_safe(b, json_string_value(v), 60);
	else {
		char *s = json_dumps(v, JSON_ENCODE_ANY | JSON_COMPACT | JSON_REAL_PRECISION(6));
		fmt_safe(b, s ? s : "", 60);
		free(s);
	}
}

static int print_diff(struct cli *c, json_t *doc)
{
	struct buf b = { 0 };
	const json_t *r, *x;
	size_t i, k;
	bool any = diff_text(json_object_get(doc, "lines"), &b);
	if (!for_people(c))
		output_json(doc);
	else {
		json_array_foreach(json_object_get(doc, "rules"), i, r) {
			buf_printf(&b, "%s rule %s", jstr(r, "op"), jstr(r, "name"));
			json_array_foreach(json_object_get(r, "fields"), k, x) {
				buf_printf(&b, "%s %s ", k ? "," : ":", jstr(x, "field"));
				value_text(json_object_get(x, "before"), &b);
				buf_add_str(&b, " -> ");
				value_text(json_object_get(x, "after"), &b);
			}
			buf_byte(&b, '\n');
		}
		fwrite(b.p, 1, b.n, stdout);
		if (!any)
			fprintf(stderr, "no difference\n");
	}
	buf_finish(&b);
	return any ? CLI_NONE : CLI_OK;
}

static bool is_file(const char *s)
{
	const char *dot = strrchr(s, '.');
	return strchr(s, '/') || !strcmp(s, "-") || (dot && (!strcmp(dot, ".yaml") || !strcmp(dot, ".yml")));
}

/* What applying the file would change of the text that is in force. */
static int diff_file(struct cli *c, const char *path)
{
	struct policy_file f;
	struct err e = { 0 };
	int status = CLI_OK;
	if (policy_file_read(path, &f, &e) < 0)
		return cli_fail(&e);
	for (size_t i = 0; i < f.n; i++) {
		json_t *doc = NULL, *current = NULL;
		int64_t version = 0;
		int rc = policy_ask(c, "check", &f, i, json_object(), &doc, &e);
		const char *name = jstr(json_object_get(doc, "policy"), "name");
		if (rc >= 0 && !*name) {
			fprintf(stderr, "%s is not valid: it cannot be compared\n", path);
			json_decref(doc);
			return CLI_USAGE;
		}
		if (rc < 0 || policy_current(&c->client, name, &version, &current, &e) < 0)
			return cli_fail(&e);
		const struct policy_doc *d = &f.docs[i];
		json_t *out = json_pack("{s:s, s:I, s:s, s:o}", "policy", name, "from", (json_int_t)version, "to", path, "lines",
			diff_lines(str_of(jstr(current, "text")), (struct str){ (char *)d->text.p + d->begins, d->text.n - d->begins }));
		if (for_people(c))
			fprintf(stderr, "# %s: version %lld%s -> %s\n", name, (long long)version, version ? "" : " (none yet)", path);
		int one = print_diff(c, out);
		status = one ? one : status;
		json_decref(out);
		json_decref(doc);
		json_decref(current);
	}
	policy_file_finish(&f);
	return status;
}

int cli_policy_diff(int argc, char **argv)
{
	struct cli c;
	struct err e = { 0 };
	int status;
	int64_t n[2] = { 0 };
	if (!cli_open(argc, argv, &c, &status))
		return status;
	const char *name = policy_name_arg(&c);
	if (is_file(name) && c.args.npos == 1)
		return diff_file(&c, name);
	struct buf after = { 0 };
	buf_add_str(&after, "/diff");
	for (int i = 1; i < c.args.npos; i++) {
		if (cli_parse_count(c.args.pos[i], 1, INT64_MAX, &n[i - 1], &e) < 0)
			return cli_fail(&e);
		client_query(&after, i == 1 ? "from" : "to", c.args.pos[i]);
	}
	buf_byte(&after, 0);
	json_t *doc = get(&c, name, (char *)after.p, &status);
	buf_finish(&after);
	if (!doc)
		return status;
	if (for_people(&c))
		fprintf(stderr, "# %s: version %lld -> %lld\n", name, (long long)jint(doc, "from"), (long long)jint(doc, "to"));
	status = print_diff(&c, doc);
	json_decref(doc);
	return status;
}

int cli_policy_history(int argc, char **argv)
{
	struct cli c;
	int status;
	json_t *doc, *row;
	size_t i;
	if (!cli_open(argc, argv, &c, &status) || !(doc = get(&c, policy_name_arg(&c), "/versions", &status)))
		return status;
	if (for_people(&c))
		json_array_foreach(json_object_get(doc, "versions"), i, row) {
			when_text(row, "created_unix_nano");
			number_text(row, "version");
			if (json_is_object(json_object_get(row, "rollout"))) {
				struct buf b = { 0 };
				rollout_where(json_object_get(row, "rollout"), &b);
				json_object_set_new(row, "rollout_text", json_stringn((char *)b.p, b.n));
				buf_finish(&b);
			}
		}
	output_rows(c.out, doc, "versions", version_columns);
	json_decref(doc);
	return CLI_OK;
}

/* ---- changes -------------------------------------------------------------------------------------------------- */

/* For all that changes a policy without a text: what is done is said in one line. */
static int change(struct cli *c, const char *method, const char *after, json_t *body, const char *done)
{
	struct err e = { 0 };
	struct fmt f;
	const char *name = policy_name_arg(c);
	json_t *doc = NULL;
	struct buf t = { 0 };
	client_path(&t, "/api/v1/policies/", name, after);
	if (!body) {
		client_query(&t, "reason", cli_opt(&c->args, "reason") ?: "");
		client_query(&t, "author", cli_who());
	} else {
		json_object_set_new(body, "reason", json_string(cli_opt(&c->args, "reason") ?: ""));
		json_object_set_new(body, "author", json_string(cli_who()));
	}
	buf_byte(&t, 0);
	int rc = client_ask(&c->client, method, (char *)t.p, body, &doc, NULL, &e);
	json_decref(body);
	buf_finish(&t);
	if (rc < 0) {
		json_decref(doc);
		return policy_refused(c, name, &e);
	}
	if (!for_people(c))
		policy_output_json(doc);
	else {
		printf("%s %s", name, done);
		if (json_object_get(doc, "version"))
			printf(": version %lld", (long long)jint(doc, "version"));
		if (jint(doc, "ack_nano"))
			printf(", acknowledged in %s", fmt_duration(&f, jnum(doc, "ack_nano")));
		putchar('\n');
	}
	json_decref(doc);
	return CLI_OK;
}

int cli_policy_rollback(int argc, char **argv)
{
	struct cli c;
	struct err e = { 0 };
	int status;
	int64_t to = 0;
	if (!cli_open(argc, argv, &c, &status))
		return status;
	const char *v = cli_opt(&c.args, "to");
	if (v && cli_parse_count(v, 1, INT64_MAX, &to, &e) < 0)
		return cli_fail(&e);
	return change(&c, "POST", "/rollback", v ? json_pack("{s:I}", "to", (json_int_t)to) : json_object(), "is rolled back");
}

int cli_policy_off(int argc, char **argv)
{
	struct cli c;
	int status;
	return cli_open(argc, argv, &c, &status) ? change(&c, "DELETE", "", NULL, "is off") : status;
}

int cli_policy_promote(int argc, char **argv)
{
	struct cli c;
	int status;
	return cli_open(argc, argv, &c, &status) ? change(&c, "POST", "/rollout", json_pack("{s:s}", "action", "promote"), "goes to the next step") : status;
}

int cli_policy_stop(int argc, char **argv)
{
	struct cli c;
	int status;
	return cli_open(argc, argv, &c, &status) ? change(&c, "POST", "/rollout", json_pack("{s:s}", "action", "stop"), "stays where it is") : status;
}

int cli_policy_rollout(int argc, char **argv)
{
	struct cli c;
	int status;
	json_t *last = NULL;
	if (!cli_open(argc, argv, &c, &status))
		return status;
	json_t *now = get(&c, policy_name_arg(&c), "/rollout", &status);
	if (!now)
		return status;
	if (for_people(&c) && !json_array_size(json_object_get(now, "steps"))) {
		fprintf(stderr, "%s was applied at once: there is no rollout\n", policy_name_arg(&c));
		json_decref(now);
		return CLI_OK;
	}
	if (cli_flag(&c.args, "once")) {
		last = now;
		status = CLI_OK;
	} else {
		json_decref(now);
		status = rollout_follow(&c, policy_name_arg(&c), &last);
	}
	if (last && !for_people(&c))
		policy_output_json(last);
	else if (last) {
		struct buf b = { 0 };
		rollout_text(last, &b);
		printf("%s: %.*s\n", policy_name_arg(&c), (int)b.n, (char *)b.p);
		buf_finish(&b);
	}
	json_decref(last);
	return status;
}

/* ---- texts ---------------------------------------------------------------------------------------------------- */

int cli_policy_export(int argc, char **argv)
{
	struct cli c;
	int status;
	json_t *list, *p, *out = json_array();
	size_t i;
	if (!cli_open(argc, argv, &c, &status))
		return status;
	if (c.args.npos)
		list = json_pack("{s:[{s:s}]}", "policies", "name", policy_name_arg(&c));
	else
		list = cli_get(&c, "/api/v1/policies", &status);
	if (!list)
		return status;
	json_array_foreach(json_object_get(list, "policies"), i, p) {
		if (!c.args.npos && !strcmp(jstr(p, "state"), "off"))
			continue;   /* what is off is no part of what is in force */
		json_t *doc = get(&c, jstr(p, "name"), "", &status);
		if (!doc)
			return status;
		if (for_people(&c)) {
			if (json_array_size(out))
				puts("---");
			put_text(jstr(doc, "text"));
		}
		json_array_append_new(out, doc);
	}
	if (!for_people(&c))
		output_json(json_pack("{s:O}", "policies", out));
	json_decref(out);
	json_decref(list);
	return CLI_OK;
}

int cli_policy_schema(int argc, char **argv)
{
	struct cli c;
	int status;
	json_t *doc;
	if (!cli_open(argc, argv, &c, &status) || !(doc = cli_get(&c, "/api/v1/policy.schema.json", &status)))
		return status;
	json_dumpf(doc, stdout, JSON_INDENT(2));
	putchar('\n');
	json_decref(doc);
	return CLI_OK;
}

int cli_policy(int argc, char **argv)
{
	struct cli_args a;
	int status;
	if (cli_begin(argc, argv, &a, &status))
		return status;
	struct cli_nearest near = { .word = a.npos ? a.pos[0] : "" };
	if (!a.npos) {
		cli_group(stderr, "policy");
		return CLI_USAGE;
	}
	for (const struct cli_command *c = cli_commands; c->name; c++)
		if (!strncmp(c->name, "policy ", 7))
			cli_nearest_offer(&near, c->name + 7);
	struct err e;
	err_set(&e, KLIEG_E_USAGE, "there is no command 'policy %.60s'", a.pos[0]);
	err_hint(&e, near.best ? "did you mean: klieg policy %s\nklieg policy --help" : "klieg policy --help", near.best);
	return cli_fail(&e);
}
