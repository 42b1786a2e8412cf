/* Coming to a running program and leaving it: attach, detach. The agent does it; here is what people type and read. */
#include "cli/cli.h"
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static json_t *list_of(const struct cli_args *a, const char *option)
{
	json_t *list = NULL;
	const char *v;
	for (int at = 0; (v = cli_opt_next(a, option, &at));) {
		if (!list)
			list = json_array();
		json_array_append_new(list, json_string(v) ?: json_null());
	}
	return list;
}

static void set_list(json_t *body, const char *key, json_t *list)
{
	if (list)
		json_object_set_new(body, key, list);
}

json_t *cli_attach_body(const struct cli_args *a, int *ret_status)
{
	const char *debug = cli_opt(a, "debug-file"), *pause = cli_opt(a, "max-pause");
	char path[PATH_MAX];
	int64_t ns;
	struct err e = { 0 };
	if (pause && cli_parse_duration(pause, &ns, &e) < 0) {
		*ret_status = cli_fail(&e);
		return NULL;
	}
	if (debug && !realpath(debug, path)) {   /* the agent works in another directory */
		int errnum = errno;
		err_set(&e, errnum == ENOENT ? KLIEG_E_NOT_FOUND : err_from_errno(errnum), "--debug-file: %.200s: %s", debug, strerror(errnum));
		cli_fail(&e);
		*ret_status = CLI_USAGE;
		return NULL;
	}
	json_t *body = json_object();
	if (debug)
		json_object_set_new(body, "debug_file", json_string(path));
	if (pause)
		json_object_set_new(body, "max_pause", json_string(pause));
	set_list(body, "libraries", list_of(a, "lib"));
	set_list(body, "roots", list_of(a, "root"));
	set_list(body, "plugins", list_of(a, "plugin"));
	if (cli_flag(a, "no-uprobes"))
		json_object_set_new(body, "uprobes", json_false());
	return body;
}

int cli_attach_request(const struct client *c, json_t *body, json_t **ret_doc, struct err *e)
{
	int rc = client_json(c, "POST", "/api/v1/attachments", body, ret_doc, NULL, e);
	json_decref(body);
	return rc;
}

static bool is_pid(const char *s) { return *s && strspn(s, "0123456789") == strlen(s); }

static void print_text(FILE *f, const char *s)
{
	struct buf b = { 0 };
	fmt_safe(&b, s, 0);
	fprintf(f, "%.*s", (int)b.n, (char *)b.p);
	buf_finish(&b);
}

static void print_modules(FILE *f, const json_t *modules)
{
	size_t i, width = 0;
	const json_t *m;
	json_array_foreach(modules, i, m) {
		const char *path = jstr(m, "path"), *base = strrchr(path, '/') ? strrchr(path, '/') + 1 : path;
		width = strlen(base) > width ? strlen(base) : width;
	}
	json_array_foreach(modules, i, m) {
		const char *path = jstr(m, "path"), *base = strrchr(path, '/') ? strrchr(path, '/') + 1 : path, *source = jstr(m, "source");
		struct buf b = { 0 };
		fmt_safe(&b, base, 0);
		fprintf(f, "  %.*s%*s  %lld function%s, %lld hookable", (int)b.n, (char *)b.p, (int)(width - strlen(base)), "", (long long)jint(m, "functions"),
			cli_plural(jint(m, "functions")), (long long)jint(m, "hookable"));
		if (!strcmp(source, "eh_frame"))
			fprintf(f, ", no names: called %.*s+0xOFFSET", (int)b.n, (char *)b.p);
		else if (*source)
			fprintf(f, ", names from %s", !strcmp(source, "debug") ? "its debug file" : source);
		if (json_is_true(json_object_get(m, "dwarf")))
			fprintf(f, ", arguments from DWARF");
		fputc('\n', f);
		buf_finish(&b);
	}
}

void cli_attach_print(FILE *f, const json_t *a)
{
	struct fmt d, g;
	size_t i;
	const json_t *x;
	const char *service = jstr(a, "service");
	fprintf(f, "%s%s%s", style("bold"), json_is_true(json_object_get(a, "already")) ? "was attached already: " : "attached to ", style("off"));
	print_text(f, service);
	fprintf(f, " (process %lld): %lld function%s, %lld of them can be intercepted\n", (long long)jint(a, "pid"), (long long)jint(a, "functions"),
		cli_plural(jint(a, "functions")), (long long)jint(a, "hookable"));
	print_modules(f, json_object_get(a, "modules"));
	json_array_foreach(json_object_get(a, "plugins"), i, x) {
		fprintf(f, "  plugin    ");
		print_text(f, jstr(x, "name"));
		fprintf(f, " ");
		print_text(f, jstr(x, "version"));
		fprintf(f, ": %lld site%s%s", (long long)jint(x, "sites"), cli_plural(jint(x, "sites")), *jstr(x, "fits") ? "; made for " : "");
		print_text(f, jstr(x, "fits"));
		fputc('\n', f);
	}
	if (jint(a, "load_nano"))
		fprintf(f, "  paused    for %s, while it took %s to load libklieg\n", fmt_duration(&d, jnum(a, "pause_nano")), fmt_duration(&g, jnum(a, "load_nano")));
	json_array_foreach(json_object_get(a, "notes"), i, x) {
		fprintf(f, "  note      ");
		print_text(f, json_string_value(x) ?: "");
		fputc('\n', f);
	}
	fprintf(f, "  next      klieg ls '%s:*'\n            klieg illuminate FUNC --service %s\n", service, service);
	fprintf(f, "  undo      klieg detach %lld\n", (long long)jint(a, "pid"));
}

static bool print_check(const json_t *a)
{
	static const struct { const char *key, *text; } seen[] = { { "seccomp", "runs under a seccomp filter" }, { "other_user", "of another user" },
		{ "not_dumpable", "not dumpable" }, { "chroot", "in another root directory" }, { "mount_namespace", "in another mount namespace" },
		{ "pid_namespace", "in another PID namespace" } };
	bool ok = json_is_true(json_object_get(a, "attachable")), outside = ok && !strcmp(jstr(a, "mechanism"), "uprobe");
	printf("process %lld %s", (long long)jint(a, "pid"), outside ? "can be attached to, from outside by the kernel's probes (slower; no arguments): " : ok ? "can be attached to" :
		"cannot be attached to: ");
	if (!ok || outside)
		print_text(stdout, jstr(a, "why"));
	printf("\n");
	if (jint(a, "threads"))
		printf("  %lld thread%s", (long long)jint(a, "threads"), cli_plural(jint(a, "threads")));
	for (size_t i = 0; i < sizeof(seen) / sizeof(*seen); i++)
		if (json_is_true(json_object_get(a, seen[i].key)))
			printf("%s%s", jint(a, "threads") || i ? ", " : "  ", seen[i].text);
	if (jint(a, "threads"))
		printf("\n");
	return ok;
}

/* One line for each that was refused while others were not. */
static size_t print_refused(const json_t *doc, const char *verb)
{
	size_t i;
	const json_t *r;
	json_array_foreach(json_object_get(doc, "refused"), i, r) {
		fprintf(stderr, "not %s: process %lld [%s]: ", verb, (long long)jint(r, "pid"), jstr(r, "code"));
		print_text(stderr, jstr(r, "detail"));
		fputc('\n', stderr);
	}
	return i;
}

int cli_attach(int argc, char **argv)
{
	struct cli c;
	struct err e = { 0 };
	int status;
	int64_t pid;
	if (!cli_open(argc, argv, &c, &status))
		return status;
	const char *who = c.args.pos[0];
	bool check = cli_flag(&c.args, "check"), negative = false;
	json_t *body = cli_attach_body(&c.args, &status), *doc = NULL, *a;
	if (!body)
		return status;
	if (is_pid(who)) {
		if (cli_parse_count(who, 1, 4194304, &pid, &e) < 0) {
			json_decref(body);
			return cli_fail(&e);
		}
		json_object_set_new(body, "pid", json_integer(pid));
	} else
		json_object_set_new(body, "name", json_string(who) ?: json_null());
	if (check)
		json_object_set_new(body, "check", json_true());
	if (check || cli_flag(&c.args, "all"))   /* to look at several does no harm */
		json_object_set_new(body, "all", json_true());
	if (cli_attach_request(&c.client, body, &doc, &e) < 0)
		return cli_fail(&e);
	size_t i, refused = 0;
	if (c.out != OUT_TABLE && c.out != OUT_WIDE)
		output_json(doc);
	json_array_foreach(json_object_get(doc, "attachments"), i, a) {
		if (check)
			negative |= !json_is_true(json_object_get(a, "attachable"));
		if (c.out == OUT_TABLE || c.out == OUT_WIDE) {
			if (check)
				print_check(a);
			else
				cli_attach_print(stdout, a);
		}
	}
	fflush(stdout);
	refused = print_refused(doc, check ? "looked at" : "attached");
	json_decref(doc);
	return refused ? CLI_PARTIAL : negative ? CLI_NONE : CLI_OK;
}

static bool print_detached(const json_t *d, bool text)
{
	struct fmt f;
	bool same = !json_is_false(json_object_get(d, "text_identical"));
	if (text) {
		printf("detached from ");
		print_text(stdout, jstr(d, "service"));
		printf("%sprocess %lld: %lld function%s put back, paused for %s; ", *jstr(d, "service") ? ", " : "", (long long)jint(d, "pid"),
			(long long)jint(d, "restored"), cli_plural(jint(d, "restored")), fmt_duration(&f, jnum(d, "pause_nano")));
		printf("%s\n", same ? "its text is what it was before" : "its text is NOT what it was when Klieg came");
	}
	fflush(stdout);
	if (!same)
		fprintf(stderr, "warning: the text of process %lld differs from when Klieg came; every byte Klieg changed is back, so something else changed it\n",
			(long long)jint(d, "pid"));
	return same;
}

int cli_detach(int argc, char **argv)
{
	struct cli c;
	struct err e = { 0 };
	int status, rc;
	if (!cli_open(argc, argv, &c, &status))
		return status;
	const char *who = c.args.npos ? c.args.pos[0] : NULL;
	bool all = cli_flag(&c.args, "all"), text = c.out == OUT_TABLE || c.out == OUT_WIDE;
	if (!who && !all)
		return cli_fail_usage(c.args.cmd, "say what to detach from: a PID, a name, or --all");
	struct buf t = { 0 };
	json_t *doc = NULL, *d;
	buf_add_str(&t, "/api/v1/attachments");
	if (who && is_pid(who))
		buf_printf(&t, "/%s", who);
	else {
		if (who)
			client_query(&t, "name", who);
		if (all)
			client_query(&t, "all", "true");
	}
	buf_byte(&t, 0);
	rc = client_json(&c.client, "DELETE", (char *)t.p, NULL, &doc, NULL, &e);
	buf_finish(&t);
	if (rc < 0)
		return cli_fail(&e);
	if (!text)
		output_json(doc);
	json_t *one = who && is_pid(who) ? json_pack("[O]", doc) : json_incref(json_object_get(doc, "detached"));
	size_t i, n = json_array_size(one);
	bool same = true;
	json_array_foreach(one, i, d)
		same &= print_detached(d, text);
	if (!n && text)
		fprintf(stderr, "nothing was attached to\n");
	size_t refused = print_refused(doc, "detached");
	json_decref(one);
	json_decref(doc);
	return refused || !same ? CLI_PARTIAL : n || all ? CLI_OK : CLI_NONE;
}
