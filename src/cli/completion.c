/* `klieg completion SHELL` prints the script that packaging/completions also installs; the scripts ask `klieg completion words WORD...` for what fits, so
 * that the one table of commands feeds all three shells, and live services and sites come from the server if one answers. */
#include "cli/cli.h"
#include <stdio.h>
#include <stdlib.h>

static const char bash[] =
	"# bash completion for klieg: source <(klieg completion bash)\n"
	"_klieg() {\n"
	"\tlocal IFS=$'\\n' cur line\n"
	"\tcur=${COMP_LINE:0:COMP_POINT}; cur=${cur##*[[:space:]]}; cur=${cur#[\\'\\\"]}\n"
	"\tCOMPREPLY=()\n"
	"\tfor line in $(klieg completion words -- \"${COMP_WORDS[@]:1:COMP_CWORD-1}\" 2>/dev/null); do\n"
	"\t\tline=${line%%$'\\t'*}\n"
	"\t\t[[ $line == \"$cur\"* ]] || continue\n"
	"\t\t[[ $cur == *:* ]] && line=${line#\"${cur%:*}:\"}  # bash splits words at colons\n"
	"\t\tCOMPREPLY+=(\"$line\")\n"
	"\tdone\n"
	"}\n"
	"complete -o default -F _klieg klieg\n";
static const char zsh[] =
	"#compdef klieg\n"
	"# zsh completion for klieg: source <(klieg completion zsh), or install as _klieg in $fpath\n"
	"_klieg() {\n"
	"\tlocal -a lines described\n"
	"\tlocal line\n"
	"\tlines=(\"${(@f)$(klieg completion words -- \"${(@)words[2,CURRENT-1]}\" 2>/dev/null)}\")\n"
	"\tfor line in $lines; do described+=(\"${${line%%$'\\t'*}//:/\\\\:}:${line#*$'\\t'}\"); done\n"
	"\t_describe klieg described || _files\n"
	"}\n"
	"if [ \"$funcstack[1]\" = _klieg ]; then _klieg; else compdef _klieg klieg; fi\n";
static const char fish[] =
	"# fish completion for klieg: klieg completion fish | source\n"
	"complete -c klieg -f -a '(set -l w (commandline -opc); klieg completion words -- $w[2..-1] 2>/dev/null)'\n";

static void options(const struct cli_option *o)
{
	for (; o && o->name; o++)
		printf("--%s\t%s\n", o->name, o->help);
}

/* Candidates, one per line: word, tab, explanation. */
static void words(int argc, char **argv)
{
	int taken = 0;
	const struct cli_command *c = cli_lookup(argc, argv, &taken);
	if (!argc) {
		for (c = cli_commands; c->name; c++)
			if (c->run && !strchr(c->name, ' '))
				printf("%s\t%s\n", c->name, c->summary);
		return;
	}
	if (!c)
		return;
	if (taken == 1 && argc == 1)  /* a group: what comes next */
		for (const struct cli_command *o = cli_commands; o->name; o++) {
			size_t n = strlen(c->name);
			if (!strncmp(o->name, c->name, n) && o->name[n] == ' ')
				printf("%s\t%s\n", o->name + n + 1, o->summary);
		}
	const char *last = argv[argc - 1];
	if (!strcmp(last, "--level") || !strcmp(last, "-l")) {
		printf("count\tcalls, errors, latency\nspan\ttimed spans\ndetail\twith attributes\ndeep\tfunctions and what they call\n");
		return;
	}
	if (!strcmp(last, "--service")) {
		struct client client;
		struct err e;
		json_t *doc = NULL, *x;
		size_t i;
		if (client_find(NULL, &client, &e) == 0 && client_json(&client, "GET", "/api/v1/processes", NULL, &doc, NULL, &e) == 0)
			json_array_foreach(json_object_get(doc, "processes"), i, x)
				printf("%s\tprocess %lld\n", jstr(x, "service"), (long long)jint(x, "pid"));
		json_decref(doc);
		return;
	}
	if (!strcmp(last, "--output") || !strcmp(last, "-o")) {
		printf("table\t\nwide\t\njson\t\nndjson\t\ncsv\t\n");
		return;
	}
	options(c->options);
	options(cli_common_options);
	if (!strcmp(c->name, "completion"))
		printf("bash\t\nzsh\t\nfish\t\n");
	if (!strcmp(c->name, "help"))
		words(0, NULL);
	struct client client;
	struct err e;
	json_t *doc = NULL, *x;
	size_t i;
	if (client_find(NULL, &client, &e) < 0)
		return;
	if ((strstr(c->args, "POLICY") || !strcmp(last, "--policy")) && client_json(&client, "GET", "/api/v1/policies", NULL, &doc, NULL, &e) == 0) {
		json_array_foreach(json_object_get(doc, "policies"), i, x)
			printf("%s\t%s, version %lld\n", jstr(x, "name"), jstr(x, "state"), (long long)jint(x, "version"));
		json_decref(doc);
		doc = NULL;
	}
	if (strstr(c->args, "ID") && !strstr(c->args, "PID") && strcmp(c->name, "trace") && client_json(&client, "GET", "/api/v1/toggles", NULL, &doc, NULL, &e) == 0) {
		json_array_foreach(json_object_get(doc, "toggles"), i, x)
			printf("%s\ttoggle %s\n", jstr(x, "id"), jstr(x, "selector"));
		json_decref(doc);
		doc = NULL;
	}
	if (strstr(c->args, "PID|NAME")) {
		bool attach = !strcmp(c->name, "attach");
		if (client_json(&client, "GET", attach ? "/api/v1/candidates" : "/api/v1/attachments", NULL, &doc, NULL, &e) == 0)
			json_array_foreach(json_object_get(doc, attach ? "candidates" : "attachments"), i, x) {
				const char *exe = jstr(x, "exe"), *base = strrchr(exe, '/') ? strrchr(exe, '/') + 1 : exe;
				const char *name = !attach ? base : *jstr(x, "comm") ? jstr(x, "comm") : jstr(x, "name");
				long long pid = jint(x, "pid");
				struct buf b = { 0 };
				fmt_safe(&b, name, 0);
				if (!attach || json_is_true(json_object_get(x, "attachable")))
					printf("%lld\t%.*s\n%.*s\tprocess %lld\n", pid, (int)b.n, (char *)b.p, (int)b.n, (char *)b.p, pid);
				buf_finish(&b);
			}
		json_decref(doc);
		doc = NULL;
	}
	if ((strstr(c->args, "SEL") || !strcmp(c->args, "FUNC")) && client_json(&client, "GET", "/api/v1/sites?limit=5000", NULL, &doc, NULL, &e) == 0) {
		const char *service = "";
		json_array_foreach(json_object_get(doc, "sites"), i, x) {
			struct buf b = { 0 };
			fmt_safe(&b, jstr(x, "name"), 0);
			if (strcmp(service, jstr(x, "service")))
				printf("%s:*\tevery site of the service\n", service = jstr(x, "service"));
			printf("%s:%.*s\t%s\n", jstr(x, "service"), (int)b.n, (char *)b.p, jstr(x, "kind"));
			buf_finish(&b);
		}
		json_decref(doc);
	}
}

int cli_completion(int argc, char **argv)
{
	struct cli_args a;
	int status;
	if (cli_begin(argc, argv, &a, &status))
		return status;
	const char *shell = a.pos[0];
	if (!strcmp(shell, "words"))
		words(a.npos - 1, a.pos + 1);
	else if (a.npos > 1)
		return cli_fail_usage(a.cmd, "'%.60s' is one argument too many", a.pos[1]);
	else if (!strcmp(shell, "bash"))
		fputs(bash, stdout);
	else if (!strcmp(shell, "zsh"))
		fputs(zsh, stdout);
	else if (!strcmp(shell, "fish"))
		fputs(fish, stdout);
	else
		return cli_fail_usage(a.cmd, "'%.40s' is not a shell that is known here: bash, zsh, fish", shell);
	return CLI_OK;
}
