/* From argv to a command, what every command does with its arguments first, and help, all from the one table in commands.c. */
#include "cli/cli.h"
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#ifndef KLIEG_VERSION
#define KLIEG_VERSION "0.1.0"
#endif

const struct cli_command *cli_find(const char *name)
{
	for (const struct cli_command *c = cli_commands; c->name; c++)
		if (c->run && !strcmp(c->name, name))
			return c;
	return NULL;
}

const struct cli_command *cli_lookup(int argc, char **argv, int *ret_words)
{
	char both[64];
	const struct cli_command *c;
	*ret_words = 2;
	if (argc > 1 && snprintf(both, sizeof(both), "%s %s", argv[0], argv[1]) < (int)sizeof(both) && !strchr(argv[0], ' ') && (c = cli_find(both)))
		return c;
	*ret_words = 1;
	return argc ? cli_find(argv[0]) : NULL;
}

void cli_group(FILE *f, const char *group)
{
	size_t n = strlen(group);
	for (const struct cli_command *c = cli_commands; c->name; c++)
		if (c->run && !strncmp(c->name, group, n) && c->name[n] == ' ') {
			char left[80];
			snprintf(left, sizeof(left), "%s%s%s", c->name, *c->args ? " " : "", c->args);
			fprintf(f, "  %-34s %s\n", left, c->summary);
		}
}

static void wrap(const char *text, int indent, int width)
{
	int col = indent;
	printf("%*s", indent, "");
	for (const char *p = text; *p;) {
		size_t n = strcspn(p, " ");
		if (col > indent && col + 1 + (int)n > width) {
			printf("\n%*s", indent, "");
			col = indent;
		} else if (col > indent) {
			putchar(' ');
			col++;
		}
		printf("%.*s", (int)n, p);
		col += n;
		p += n + (p[n] == ' ');
	}
	putchar('\n');
}

static void print_options(const struct cli_option *o)
{
	for (; o && o->name; o++) {
		char left[64];
		snprintf(left, sizeof(left), "  %c%c%s--%s%s%s", o->letter ? '-' : ' ', o->letter ? o->letter : ' ', o->letter ? ", " : "  ", o->name,
			o->arg ? " " : "", o->arg ? o->arg : "");
		printf("%-28s ", left);
		if (strlen(left) > 28)
			printf("\n%-28s ", "");
		printf("%s\n", o->help);
	}
}

void cli_print_help(const struct cli_command *c)
{
	printf("klieg %s - %s\n\nusage: klieg %s%s%s%s\n\n", c->name, c->summary, c->name, *c->args ? " " : "", c->args, c->rest ? "" : " [options]");
	wrap(c->about, 0, 100);
	if (c->options) {
		printf("\noptions:\n");
		print_options(c->options);
	}
	printf("\ncommon options:\n");
	print_options(cli_common_options);
	if (!strchr(c->name, ' ')) {
		struct buf group = { 0 };
		buf_printf(&group, "%s ", c->name);
		for (const struct cli_command *o = cli_commands; o->name; o++)
			if (!strncmp(o->name, (char *)group.p, group.n)) {
				printf("\ncommands:\n");
				cli_group(stdout, c->name);
				break;
			}
		buf_finish(&group);
	}
	printf("\nexamples:\n");
	for (const char *const *x = c->examples; x && *x; x++)
		printf("  %s\n", *x);
}

static void overview(FILE *f)
{
	fprintf(f, "klieg - finds the hotspot in a live native service without restarting it\n\nusage: klieg COMMAND [options]\n\n");
	for (const struct cli_command *c = cli_commands; c->name; c++)
		if (c->run && !strchr(c->name, ' '))
			fprintf(f, "  %-12s %s\n", c->name, c->summary);
	fprintf(f, "\nSEL is a TraceQL filter in braces, or the short form service:glob or glob on the site's name.\n"
		"klieg COMMAND --help shows options and examples; klieg help E204 explains an error; man klieg has it all.\n");
}

int cli_status_of(int code)
{
	switch (code) {
	case KLIEG_E_NO_MATCH: case KLIEG_E_NOT_FOUND: return CLI_NONE;
	case KLIEG_E_NO_SERVER: case KLIEG_E_NO_TARGET: return CLI_ABSENT;
	case KLIEG_E_DENIED: case KLIEG_E_UNAUTHENTICATED: return CLI_DENIED;
	case KLIEG_E_PARTIAL: return CLI_PARTIAL;
	case KLIEG_E_GUARDRAIL: return CLI_REFUSED;
	default: return code < 0 ? CLI_USAGE : CLI_OK;
	}
}

int cli_fail(const struct err *e)
{
	struct buf b = { 0 };
	fflush(stdout);
	fmt_safe(&b, e->msg, 0);
	fprintf(stderr, "error[%s]: %.*s", err_name(e->code), (int)b.n, (char *)b.p);
	if (e->column)
		fprintf(stderr, " (line %d, column %d)", e->line ? e->line : 1, e->column);
	fputc('\n', stderr);
	for (const char *p = e->hint; *p;) {
		size_t n = strcspn(p, "\n");
		if (n)
			fprintf(stderr, "  %s%.*s\n", strncmp(p, "did you mean", 12) && strncmp(p, "hint:", 5) ? "hint: " : "", (int)n, p);
		p += n + (p[n] == '\n');
	}
	buf_finish(&b);
	return cli_status_of(e->code);
}

int cli_fail_usage(const struct cli_command *cmd, const char *fmt, ...)
{
	char msg[400];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(msg, sizeof(msg), fmt, ap);
	va_end(ap);
	struct err e;
	err_set(&e, KLIEG_E_USAGE, "%s", msg);
	err_hint(&e, "klieg %s --help", cmd->name);
	return cli_fail(&e);
}

bool cli_begin(int argc, char **argv, struct cli_args *ret_args, int *ret_status)
{
	struct err e = { 0 };
	const struct cli_command *cmd = cli_find(argv[0]);
	if (cli_parse(cmd, argc, argv, ret_args, &e) < 0) {
		*ret_status = cli_fail(&e);
		return true;
	}
	if (cli_flag(ret_args, "help")) {
		cli_print_help(cmd);
		*ret_status = CLI_OK;
		return true;
	}
	const char *lang = getenv("LC_ALL") ?: getenv("LC_CTYPE") ?: getenv("LANG") ?: "";
	cli_colour = isatty(1) && !getenv("NO_COLOR") && !cli_flag(ret_args, "no-color") && strcmp(getenv("TERM") ?: "dumb", "dumb");
	cli_ascii = cli_flag(ret_args, "ascii") || (isatty(1) && !strcasestr(lang, "utf-8") && !strcasestr(lang, "utf8"));
	return false;
}

static int no_command(const char *word)
{
	struct cli_nearest near = { .word = word };
	for (const struct cli_command *c = cli_commands; c->name; c++)
		if (c->run)
			cli_nearest_offer(&near, c->name);
	struct err e;
	err_set(&e, KLIEG_E_USAGE, "there is no command '%.60s'", word);
	if (near.best)
		err_hint(&e, "did you mean: klieg %s\nklieg help", near.best);
	else
		err_hint(&e, "klieg help");
	return cli_fail(&e);
}

int cli_help(int argc, char **argv)
{
	struct cli_args a;
	int status;
	if (cli_begin(argc, argv, &a, &status))
		return status;
	if (!a.npos) {
		overview(stdout);
		return CLI_OK;
	}
	const char *w = a.pos[0];
	if (strchr("EePp", *w) && w[1] >= '0' && w[1] <= '9') {
		if (cli_explain(w) == CLI_OK)
			return CLI_OK;
		struct err e;
		err_set(&e, KLIEG_E_NOT_FOUND, "there is no error code '%.20s'", w);
		err_hint(&e, "codes look like E204 or P104; an error prints its own in brackets");
		return cli_fail(&e);
	}
	int taken;
	const struct cli_command *c = cli_lookup(a.npos, a.pos, &taken);
	if (!c || taken < a.npos)
		return no_command(a.pos[c ? 1 : 0]);
	cli_print_help(c);
	return CLI_OK;
}

int cli_version(int argc, char **argv)
{
	struct cli_args a;
	int status;
	if (cli_begin(argc, argv, &a, &status))
		return status;
	if (cli_flag(&a, "json") || (cli_opt(&a, "output") && !strcmp(cli_opt(&a, "output"), "json")))
		printf("{\"version\":1,\"klieg\":\"%s\"}\n", KLIEG_VERSION);
	else
		printf("klieg %s\n", KLIEG_VERSION);
	return CLI_OK;
}

int cli_main(int argc, char **argv)
{
	signal(SIGPIPE, SIG_DFL);  /* `klieg ls | head` ends quietly; the commands that serve set their own */
	if (argc < 2) {
		overview(stderr);
		return CLI_USAGE;
	}
	if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h"))
		argv[1] = "help";
	if (!strcmp(argv[1], "--version") || !strcmp(argv[1], "-V"))
		argv[1] = "version";
	int taken;
	const struct cli_command *c = cli_lookup(argc - 1, argv + 1, &taken);
	if (!c)
		return no_command(argv[1]);
	argv[taken] = (char *)c->name;  /* nobody writes into it */
	return c->run(argc - taken, argv + taken);
}
