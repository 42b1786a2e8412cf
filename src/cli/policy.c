/* Policies as they come in: check, plan, apply. The server judges (it has the parser, the sites, the stored traces); this shows what it says and where, asks, and
 * follows a rollout (rollout.c). A file may hold several documents, apart by a line `---`, as `klieg policy export` writes them. */
#include "cli/policy.h"
#include "base/clock.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { MAX_FILE = 16 << 20, MAX_DOCS = 1000 };

/* ---- files ---------------------------------------------------------------------------------------------------- */

static bool begins_document(const char *p, size_t n) { return n >= 3 && !memcmp(p, "---", 3) && (n == 3 || p[3] == ' ' || p[3] == '\r'); }

static bool says_anything(const char *p, size_t n)
{
	bool comment = false;
	for (size_t i = 0; i < n; i++)
		if (p[i] == '\n')
			comment = false;
		else if (p[i] == '#')
			comment = true;
		else if (!comment && !strchr(" \t\r", p[i]))
			return true;
	return false;
}

static void add_doc(struct policy_file *f, size_t from, size_t to, int64_t line, bool always)
{
	const char *p = (char *)f->whole.p + from;
	if (f->n == MAX_DOCS || (!always && !says_anything(p, to - from)))
		return;
	f->docs = base_realloc(f->docs, (f->n + 1) * sizeof(*f->docs));
	struct policy_doc d = { 0 };
	for (int64_t i = 1; i < line; i++)
		buf_byte(&d.text, '\n');
	d.begins = d.text.n;
	buf_add(&d.text, p, to - from);
	f->docs[f->n++] = d;
}

int policy_file_read(const char *path, struct policy_file *ret_f, struct err *e)
{
	struct policy_file f = { .path = strcmp(path, "-") ? path : "standard input" };
	errno = 0;
	int rc = buf_read_file(strcmp(path, "-") ? path : "/dev/stdin", MAX_FILE, &f.whole);
	if (rc == KLIEG_E_TOO_LARGE) {
		err_set(e, rc, "'%.200s' is beyond %d MB", path, MAX_FILE >> 20);
		return err_hint(e, "a policy is at most 1 MB of YAML; klieg policy schema");
	} else if (rc < 0)
		return err_set(e, rc == KLIEG_E_DENIED ? rc : KLIEG_E_USAGE, "cannot read '%.200s': %s", path, errno ? strerror(errno) : err_title(rc));
	if (!str_utf8_valid(buf_str(&f.whole))) {
		buf_finish(&f.whole);
		err_set(e, KLIEG_E_BAD_DATA, "'%.200s' is not UTF-8 text", path);
		return err_hint(e, "a policy is YAML; klieg policy schema");
	}
	size_t from = 0;
	int64_t line = 1, first = 1;
	for (size_t at = 0; at < f.whole.n;) {
		const char *p = (char *)f.whole.p + at, *nl = memchr(p, '\n', f.whole.n - at);
		size_t n = nl ? (size_t)(nl - p) : f.whole.n - at;
		line++;
		if (begins_document(p, n)) {
			add_doc(&f, from, at, first, false);
			from = at + n + (nl != NULL);
			first = line;
		}
		at += n + (nl != NULL);
	}
	add_doc(&f, from, f.whole.n, first, f.n == 0);
	*ret_f = f;
	return 0;
}

void policy_file_finish(struct policy_file *f)
{
	for (size_t i = 0; i < f->n; i++)
		buf_finish(&f->docs[i].text);
	free(f->docs);
	buf_finish(&f->whole);
}

/* ---- asking --------------------------------------------------------------------------------------------------- */

static void print_diags(const json_t *diags, const struct policy_file *f, size_t i)
{
	struct buf b = { 0 };
	fflush(stdout);
	diag_text(diags, f->path, buf_str(&f->docs[i].text), &b);
	fwrite(b.p, 1, b.n, stderr);
	buf_finish(&b);
}

int policy_ask(struct cli *c, const char *what, const struct policy_file *f, size_t i, json_t *body, json_t **ret_doc, struct err *e)
{
	struct buf t = { 0 };
	struct str text = buf_str(&f->docs[i].text);
	json_object_set_new(body, "text", text.n ? json_stringn(text.p, text.n) : json_string("\n"));  /* an empty file is an empty document */
	buf_printf(&t, "/api/v1/policies/%s", what);
	buf_byte(&t, 0);
	int rc = client_ask(&c->client, "POST", (char *)t.p, body, ret_doc, NULL, e);
	buf_finish(&t);
	json_decref(body);
	print_diags(json_object_get(*ret_doc, "diagnostics"), f, i);
	if (rc == KLIEG_E_NO_SERVER)
		err_hint(e, "a policy is judged by the server, which knows the sites: klieg up\nwithout one: your editor, with the schema of klieg policy schema");
	return rc;
}

int policy_current(const struct client *c, const char *name, int64_t *ret_version, json_t **ret_doc, struct err *e)
{
	struct buf t = { 0 };
	json_t *doc = NULL;
	client_path(&t, "/api/v1/policies/", name, "");
	buf_byte(&t, 0);
	int rc = client_json(c, "GET", (char *)t.p, NULL, &doc, NULL, e);
	buf_finish(&t);
	if (rc == KLIEG_E_NOT_FOUND)
		rc = 0;
	if (rc == 0)
		*ret_version = jint(doc, "version");
	if (ret_doc)
		*ret_doc = doc;
	else
		json_decref(doc);
	return rc;
}

int policy_refused(struct cli *c, const char *name, struct err *e)
{
	json_t *doc = NULL;
	int64_t version;
	struct err ignored;
	struct fmt f;
	int status = cli_fail(e);
	if (e->code == KLIEG_E_STALE && policy_current(&c->client, name, &version, &doc, &ignored) == 0 && doc)
		fprintf(stderr, "  version %lld is by %s, %.8s%s%s\n  hint: klieg policy diff %s shows what changed; klieg policy show %s > FILE to "
			"begin from it\n", (long long)version,
			jstr(doc, "author"), fmt_clock(&f, jint(doc, "created_unix_nano")), *jstr(doc, "reason") ? ": " : "", jstr(doc, "reason"), name, name);
	json_decref(doc);
	return status;
}

void policy_output_json(json_t *doc)
{
	if (json_object_get(doc, "version"))
		json_object_set(doc, "policy_version", json_object_get(doc, "version"));
	json_object_set_new(doc, "version", json_integer(1));
	output_json(doc);
}

static bool said_no(const json_t *doc)
{
	size_t i;
	const json_t *d;
	if (json_is_false(json_object_get(doc, "ok")))
		return true;
	json_array_foreach(json_object_get(doc, "diagnostics"), i, d)
		if (!strcmp(jstr(d, "severity"), "error"))
			return true;
	return false;
}

/* ---- check ---------------------------------------------------------------------------------------------------- */

int cli_policy_check(int argc, char **argv)
{
	struct cli c;
	struct err e = { 0 };
	int status;
	bool bad = false;
	if (!cli_open(argc, argv, &c, &status))
		return status;
	json_t *files = json_array();
	for (int k = 0; k < c.args.npos; k++) {
		struct policy_file f;
		if (policy_file_read(c.args.pos[k], &f, &e) < 0)
			return cli_fail(&e);
		for (size_t i = 0; i < f.n; i++) {
			json_t *doc = NULL;
			if (policy_ask(&c, "check", &f, i, json_object(), &doc, &e) < 0 && !json_object_get(doc, "diagnostics"))
				return cli_fail(&e);
			const json_t *p = json_object_get(doc, "policy");
			bool no = said_no(doc);
			bad |= no;
			if (for_people(&c) && !no)
				printf("%s: %s is a policy of %zu rule%s and %zu limit%s\n", f.path, jstr(p, "name"), json_array_size(json_object_get(p, "rules")),
					cli_plural(json_array_size(json_object_get(p, "rules"))), json_array_size(json_object_get(p, "limits")),
					cli_plural(json_array_size(json_object_get(p, "limits"))));
			json_object_set_new(doc, "file", json_string(f.path));
			json_object_set_new(doc, "ok", json_boolean(!no));
			json_array_append_new(files, doc);
		}
		policy_file_finish(&f);
	}
	if (!for_people(&c))
		output_json(json_pack("{s:O}", "files", files));
	json_decref(files);
	return bad ? CLI_NONE : CLI_OK;
}

/* ---- plan ----------------------------------------------------------------------------------------------------- */

static json_t *plan_body(const struct cli *c, int *ret_status)
{
	const char *replay = cli_opt(&c->args, "replay");
	struct err e = { 0 };
	int64_t ns;
	if (replay && strcmp(replay, "0") && cli_parse_duration(replay, &ns, &e) < 0) {
		*ret_status = cli_fail(&e);
		return NULL;
	}
	/* What was never on is counted for this long: long enough to be seen. */
	json_t *body = json_pack("{s:s}", "estimate", "300ms");
	if (!replay || strcmp(replay, "0"))
		json_object_set_new(body, "replay", json_string(replay ? replay : "1h"));
	return body;
}

static void print_plan(const struct cli *c, const json_t *plan, FILE *to)
{
	struct buf b = { 0 };
	plan_text(plan, c->out == OUT_WIDE, &b);
	fwrite(b.p, 1, b.n, to);
	fflush(to);
	buf_finish(&b);
}

/* One document's plan; NULL: *ret_status has been set. */
static json_t *plan_of(struct cli *c, const struct policy_file *f, size_t i, int *ret_status)
{
	struct err e = { 0 };
	json_t *doc = NULL, *body = plan_body(c, ret_status);
	if (!body)
		return NULL;
	int rc = policy_ask(c, "plan", f, i, body, &doc, &e);
	if (json_object_get(doc, "diagnostics") && said_no(doc)) {
		if (!for_people(c))
			output_json(doc);
		fprintf(stderr, "%s is not valid; nothing was changed\n", f->path);
		*ret_status = CLI_NONE;
	} else if (rc < 0)
		*ret_status = cli_fail(&e);
	else
		return doc;
	json_decref(doc);
	return NULL;
}

static const char *const allowed[] = { "slower", "failing" };  /* what a canary may be worse by, in percent */
static bool fits(const json_t *plan) { return !json_is_false(json_object_get(plan, "fits")); }

int cli_policy_plan(int argc, char **argv)
{
	struct cli c;
	struct err e = { 0 };
	struct policy_file f;
	int status;
	bool all_fit = true;
	if (!cli_open(argc, argv, &c, &status))
		return status;
	if (policy_file_read(c.args.pos[0], &f, &e) < 0)
		return cli_fail(&e);
	for (size_t i = 0; i < f.n; i++) {
		json_t *doc = plan_of(&c, &f, i, &status);
		if (!doc)
			return status;
		all_fit &= fits(doc);
		if (for_people(&c))
			print_plan(&c, doc, stdout);
		else
			output_json(doc);
		json_decref(doc);
	}
	policy_file_finish(&f);
	if (for_people(&c))
		printf("nothing was changed; klieg policy apply %s\n", c.args.pos[0]);
	return all_fit ? CLI_OK : CLI_REFUSED;
}

/* ---- apply ---------------------------------------------------------------------------------------------------- */

static bool confirmed(const char *name, int64_t version)
{
	char answer[16] = "";
	fprintf(stderr, version ? "apply as a new version of %s (now %lld)? y/n " : "apply %s as a new policy? y/n ", name, (long long)version);
	return fgets(answer, sizeof(answer), stdin) && (*answer == 'y' || *answer == 'Y');
}

static int apply_doc(struct cli *c, const struct policy_file *f, size_t i)
{
	struct err e = { 0 };
	int status = CLI_OK, rc;
	int64_t expect = 0;
	const char *expect_text = cli_opt(&c->args, "expect"), *soak = cli_opt(&c->args, "soak");
	bool now = cli_flag(&c->args, "now"), steps = cli_flag(&c->args, "steps");
	json_t *plan = plan_of(c, f, i, &status), *doc = NULL;
	if (!plan)
		return status;
	char *name = str_dup(str_of(jstr(json_object_get(plan, "policy"), "name")));
	/* Whoever changes it between here and the answer to the question makes this one stale. */
	if (expect_text ? cli_parse_count(expect_text, 0, INT64_MAX, &expect, &e) < 0 : policy_current(&c->client, name, &expect, NULL, &e) < 0) {
		status = cli_fail(&e);
		goto out;
	}
	print_plan(c, plan, for_people(c) ? stdout : stderr);
	if (!fits(plan) && !cli_flag(&c->args, "force")) {
		err_set(&e, KLIEG_E_GUARDRAIL, "%s is predicted to cost more than the budget; nothing was changed", name);
		err_hint(&e, "ask for less, as the plan suggests; or --force, and the governor sheds what is too dear");
		status = cli_fail(&e);
		goto out;
	}
	if (!cli_flag(&c->args, "yes") && isatty(0) && isatty(2) && !confirmed(name, expect)) {
		fprintf(stderr, "nothing was changed\n");
		status = CLI_NONE;
		goto out;
	}
	const struct policy_doc *d = &f->docs[i];
	json_t *body = json_pack("{s:s%, s:I, s:s, s:s}", "text", (char *)d->text.p + d->begins, d->text.n - d->begins, "expected_version", (json_int_t)expect,
		"reason", cli_opt(&c->args, "reason") ?: "", "author", cli_who());
	if (!body) {
		status = cli_fail_usage(c->args.cmd, "an argument is not valid UTF-8");
		goto out;
	}
	if (now || steps)
		json_object_set_new(body, "rollout", json_string(now ? "now" : "steps"));
	if (soak)
		json_object_set_new(body, "soak", json_string(soak));
	for (unsigned k = 0; k < 2; k++)
		if (cli_opt(&c->args, allowed[k]))
			json_object_set_new(body, allowed[k], json_real(strtod(cli_opt(&c->args, allowed[k]), NULL)));
	if (cli_flag(&c->args, "force"))
		json_object_set_new(body, "force", json_true());
	struct buf t = { 0 };
	client_path(&t, "/api/v1/policies/", name, "");
	buf_byte(&t, 0);
	rc = client_ask(&c->client, "PUT", (char *)t.p, body, &doc, NULL, &e);
	buf_finish(&t);
	json_decref(body);
	if (rc < 0) {
		status = policy_refused(c, name, &e);
		goto out;
	}
	const json_t *rollout = json_object_get(doc, "rollout");
	bool unchanged = json_is_true(json_object_get(json_object_get(doc, "plan"), "unchanged"));
	bool in_steps = json_is_object(rollout) && json_array_size(json_object_get(rollout, "steps"));
	struct fmt fm;
	if (for_people(c)) {
		printf("%s%s version %lld%s", style("bold"), name, (long long)jint(doc, "version"), style("off"));
		if (unchanged)
			printf(" has this text already: nothing was changed\n");
		else if (in_steps)
			printf(" goes out in %zu steps\n", json_array_size(json_object_get(rollout, "steps")));
		else
			printf(" is in force: acknowledged in %s\n", fmt_duration(&fm, jnum(doc, "ack_nano")));
		if (*jstr(doc, "warning"))
			fprintf(stderr, "warning: %s\n", jstr(doc, "warning"));
		if (unchanged)
			;
		else if (expect)
			printf("  undo      klieg policy rollback %s --to %lld --reason WHY\n", name, (long long)expect);
		else
			printf("  undo      klieg policy off %s --reason WHY\n", name);
		fflush(stdout);
	}
	if (in_steps && !cli_flag(&c->args, "no-wait")) {
		json_t *last = NULL;
		status = rollout_follow(c, name, &last);
		if (last)
			json_object_set_new(doc, "rollout", last);
	}
	if (!for_people(c))
		policy_output_json(doc);
out:
	json_decref(plan);
	json_decref(doc);
	free(name);
	return status;
}

int cli_policy_apply(int argc, char **argv)
{
	struct cli c;
	struct err e = { 0 };
	struct policy_file f;
	int status = CLI_OK;
	if (!cli_open(argc, argv, &c, &status))
		return status;
	int64_t ns;
	for (unsigned k = 0; k < 2; k++) {
		const char *v = cli_opt(&c.args, allowed[k]);
		char *end = NULL;
		if (v && (strtod(v, &end) <= 0 || end == v || (*end && strcmp(end, "%"))))
			return cli_fail_usage(c.args.cmd, "--%s: '%s' is not a percentage, like 20%%", allowed[k], v);
	}
	if (cli_opt(&c.args, "soak") && cli_parse_duration(cli_opt(&c.args, "soak"), &ns, &e) < 0)
		return cli_fail(&e);
	if (cli_flag(&c.args, "now") && cli_flag(&c.args, "steps"))
		return cli_fail_usage(c.args.cmd, "--now and --steps exclude each other");
	if (policy_file_read(c.args.pos[0], &f, &e) < 0)
		return cli_fail(&e);
	if (f.n > 1 && cli_opt(&c.args, "expect"))
		return cli_fail_usage(c.args.cmd, "--expect is for one policy; the file has %zu", f.n);
	for (size_t i = 0; i < f.n && status == CLI_OK; i++)
		if ((status = apply_doc(&c, &f, i)) != CLI_OK && i + 1 < f.n)
			fprintf(stderr, "the %zu policies after it were not looked at\n", f.n - i - 1);
	policy_file_finish(&f);
	return status;
}
