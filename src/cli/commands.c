/* The table of all subcommands and the dispatch over it. A new subcommand is its own file, one line in cli.h and one entry here; help,
 * completions and the tests of the manual page follow from the entry. */
#include "cli/cli.h"
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#ifndef KLIEG_VERSION
#define KLIEG_VERSION "0.1.0"
#endif

const struct cli_option cli_common_options[] = {
	{ 'h', "help", NULL, "show this help" },
	{ 'o', "output", "FORMAT", "table, wide, json, ndjson or csv (default: table)" },
	{ 0, "json", NULL, "one versioned JSON document; the same as -o json" },
	{ 0, "server", "URL", "http://HOST:PORT or the path of a socket (default: $KLIEG_SERVER, $KLIEG_DIR/klieg.sock)" },
	{ 0, "no-color", NULL, "no colours, as with NO_COLOR=1" },
	{ 0, "ascii", NULL, "no characters beyond ASCII in drawings" },
	{ 0 } };

#define OPTS(...) (const struct cli_option[]){ __VA_ARGS__ { 0 } }
#define EXAMPLES(...) (const char *const[]){ __VA_ARGS__, NULL }
#define O_SINCE { 0, "since", "DURATION", "how far to look back (default: 15m)" }, { 0, "from", "NANOS", "from here, unix nanoseconds" }, \
	{ 0, "to", "NANOS", "to here, unix nanoseconds" },
#define O_ATTACH { 0, "lib", "GLOB", "also functions of libraries whose file name matches; may be given several times" }, \
	{ 0, "debug-file", "FILE", "a file with the debug symbols of a stripped executable" }, \
	{ 0, "max-pause", "DURATION", "longest stop of the program while functions are switched (default: 10ms)" }, \
	{ 0, "root", "FUNC", "calls of FUNC are requests: each begins a trace; may be given several times" }, \
	{ 0, "plugin", "NAME", "load this instrumentor, too; may be given several times" }, \
	{ 0, "no-uprobes", NULL, "refuse a program that only the kernel's slower probes can trace, from outside" },
#define O_LIMIT(n) { 'n', "limit", "N", "at most this many rows (default: " n ")" },

static int cmd_help(int argc, char **argv), cmd_version(int argc, char **argv);

const struct cli_command cli_commands[] = {
	{ "up", "", "run server and agent in one process", cli_up,
		"Serves the dashboard, the API and OTLP, and switches and drains the traced processes of this host. Prints one line when it serves: "
		"ready http=... otlp-http=... socket=... Ctrl-C or SIGTERM ends it: all probes go off, everything drained is stored.",
		OPTS({ 0, "dir", "DIR", "state and sockets (default: $KLIEG_DIR, $XDG_STATE_HOME/klieg, /var/lib/klieg for root)" },
			{ 0, "http", "HOST:PORT", "dashboard and API; port 0 = any (default: 127.0.0.1:7070)" },
			{ 0, "otlp-http", "HOST:PORT", "OTLP/HTTP receiver (default: 127.0.0.1:4318)" },
			{ 0, "retain", "DURATION", "delete spans older than this (default: 3d)" },
			{ 0, "max-bytes", "SIZE", "delete the oldest spans beyond this much disk (default: 10G)" },),
		EXAMPLES("klieg up", "klieg up --dir /tmp/k --http 127.0.0.1:0 --otlp-http 127.0.0.1:0  # on free ports"), 0, 0 },
	{ "agent", "", "run the agent alone", cli_agent, "Drains and switches the processes of this host for a server elsewhere: takes its requests by long polling, "
		"ships spans to it by OTLP/HTTP. While the server is away spans wait in bounded memory; what does not fit is counted.",
		OPTS({ 0, "dir", "DIR", "where its socket is" },), EXAMPLES("klieg agent --server http://10.0.0.7:7070"), 0, 0 },
	{ "server", "", "run the server alone", cli_server, "Receives OTLP, stores, answers queries; no agent in this process.",
		OPTS({ 0, "dir", "DIR", "state and sockets" }, { 0, "http", "HOST:PORT", "dashboard and API" }, { 0, "otlp-http", "HOST:PORT", "OTLP/HTTP receiver" },),
		EXAMPLES("klieg server --http 127.0.0.1:7070"), 0, 0 },
	{ "attach", "PID|NAME", "make the functions of a running program sites", cli_attach,
		"Loads libklieg into a running, unmodified program and lists its functions as sites: off, at no cost, until they are switched on. Says what was found, where the "
		"names come from, how long the program was paused, and what to do next. NAME is the name of its executable, or what the process calls itself. Whatever prevents it is said before the program is "
		"touched; every failure leaves it as it was. klieg detach takes it all back.",
		OPTS(O_ATTACH { 'a', "all", NULL, "attach to every process of that name" }, { 'c', "check", NULL, "only say whether it can be done; exit status 1 if not" },),
		EXAMPLES("klieg attach 4711", "klieg attach redis-server --root processCommand", "klieg attach nginx --all --plugin nginx",
			"klieg attach 4711 --lib 'libpq.so*' --max-pause 2ms", "klieg attach 4711 --check"), 1, 1 },
	{ "detach", "[PID|NAME]", "leave a program as it was before", cli_detach,
		"Puts back every byte that was changed and leaves libklieg parked: it does nothing, and is used again when somebody attaches again. Exit status 1 when there was "
		"nothing to detach from, 5 when the program's text is not what it was (something else changed it).",
		OPTS({ 'a', "all", NULL, "every process of that name; without a name, every process" },),
		EXAMPLES("klieg detach 4711", "klieg detach redis-server", "klieg detach --all"), 0, 1 },
	{ "run", "-- CMD [ARG...]", "run a program with libklieg preloaded", cli_run,
		"Finds libklieg.so beside this executable, in ../lib or in $KLIEG_LIB, sets LD_PRELOAD, KLIEG_SOCKET and KLIEG_DIR and executes CMD, whose exit "
		"status it keeps. A program that is linked with -lklieg needs no `klieg run`. With --attach the functions of CMD become sites as well, as by klieg attach once it "
		"has started; what CMD does before that is not seen.",
		OPTS({ 0, "service", "NAME", "sets OTEL_SERVICE_NAME" }, { 0, "dir", "DIR", "the directory of klieg up (default: as for klieg up)" },
			{ 0, "attach", NULL, "make its functions sites, too" }, O_ATTACH),
		EXAMPLES("klieg run -- ./server --port 8080", "klieg run --service billing -- python3 app.py", "klieg run --attach -- redis-server --port 6380"), 1, -1, true },
	{ "ps", "", "traced processes", cli_ps, "One row per process that has offered its rings: what it runs, how many sites are on, what it made and what was lost.",
		NULL, EXAMPLES("klieg ps", "klieg ps -o wide"), 0, 0 },
	{ "ls", "[SEL]", "sites that can be switched", cli_ls,
		"SEL is a TraceQL filter in braces, or the short form service:glob or glob on the site's name. Without it, all sites. Functions of attached programs are sites of "
		"kind function; HOOKABLE says why not where one cannot be intercepted. Exit status 1 when nothing matches.",
		OPTS(O_LIMIT("1000") { 0, "offset", "N", "skip this many" },),
		EXAMPLES("klieg ls", "klieg ls 'payment:*'", "klieg ls 'redis-server:*Command'", "klieg ls '{ resource.service.name = \"cart\" && name =~ \"db.*\" }' -o wide"), 0, 1 },
	{ "on", "SEL", "switch sites on", cli_on,
		"Switches the sites that match on, everywhere they run, for a limited time. Prints how many sites in how many processes matched, what it will cost, how "
		"long it took until all acknowledged, when it ends and how to undo it.",
		OPTS({ 'l', "level", "LEVEL", "count: calls, errors, latency; span: timed spans; detail: with attributes; deep: functions and what they call (default: span)" },
			{ 'k', "keep", "SHARE", "keep this share of traces, whole ones: 10% or 0.1 (default: 100%)" },
			{ 't', "ttl", "DURATION", "off by itself after this (default: 5m)" },
			{ 'r', "reason", "TEXT", "why; is kept with the toggle" },
			{ 'w', "where", "FILTER", "only spans that match, by their attributes: '{ .tenant = \"7\" }'; of functions by arguments: 'arg.2 > 4096'" },
			{ 'm', "marked", NULL, "only requests that are marked (tracestate klieg=l:N), not all" },
			{ 0, "depth", "N", "with level deep: calls below the functions that match, 0 to 16 (default: 1)" },
			{ 0, "max-pause", "DURATION", "longest stop of an attached program while functions are switched (default: 10ms)" },
			{ 0, "max-functions", "N", "intercept at most this many functions of a program (default: 2000)" },
			{ 'd', "dry-run", NULL, "print the plan and its cost, change nothing" },
			{ 'f', "for", "DURATION", "stay in the foreground this long, then switch off; Ctrl-C switches off at once" },),
		EXAMPLES("klieg on 'payment:*'", "klieg on '*' --level count --ttl 2m", "klieg on '{ name =~ \"db.*\" }' --level detail --keep 10% --reason 'slow checkout'",
			"klieg on charge --where '{ .tenant = \"7\" }' --for 30s", "klieg on 'redis-server:processCommand' --where 'arg.2 > 4096' --max-pause 5ms", "klieg on 'cart:*' --dry-run"), 1, 1 },
	{ "off", "[SEL|ID]", "switch sites off", cli_off, "Removes toggles: by id (t-...), those that a selector touches, or all of them. Exit status 1 when there was nothing to remove.",
		OPTS({ 'a', "all", NULL, "remove every toggle" }, { 0, "undo", NULL, "restore what the last `klieg off` removed, with the time it had left" },),
		EXAMPLES("klieg off t-1", "klieg off 'payment:*'", "klieg off --all", "klieg off --undo"), 0, 1 },
	{ "toggles", "", "what is switched on", cli_toggles, "Each with its owner, reason, time left, and its cost: predicted and measured.",
		OPTS({ 'a', "all", NULL, "also those that ended during the last day" },), EXAMPLES("klieg toggles", "klieg toggles --all -o wide"), 0, 0 },
	{ "top", "[SEL]", "live table of sites", cli_top,
		"One row per site that is hit: state, level, rate, time left, calls and errors per second, percentiles, self and total share, cost. Keys: / find, F4 filter, "
		"F5 tree, F6 sort, t toggle, r rate, T time to live, s snapshot to a file, y yank the equivalent command, o all off, ? help, q quit.",
		OPTS({ 'b', "batch", NULL, "print instead of drawing; for scripts" }, { 'n', "iterations", "N", "with --batch: how many times (default: 1)" },
			{ 0, "interval", "DURATION", "between two looks (default: 1s)" },
			{ 0, "sort", "COLUMN", "calls, errors, p50, p99, total, cost or name (default: total)" },),
		EXAMPLES("klieg top", "klieg top 'payment:*' --sort p99", "klieg top --batch -n 3 --json"), 0, 1 },
	{ "illuminate", "FUNC", "a function and what it calls, live", cli_illuminate,
		"Switches FUNC and its callees on, to a depth, for a limited time, and shows the call graph as it happens, once a second: calls, self and total time, percentiles, "
		"share of the caller's time. FUNC is the name of a function or another site, or a selector. Callees with little time are counted, not shown, and go off again. "
		"Ctrl-C, the end of --ttl or --once end it, and everything is off. What costs too much goes off first, then a smaller share of traces is kept.",
		OPTS({ 0, "service", "NAME", "only in this service" }, { 'p', "pid", "PID", "only in this process" }, { 'n', "depth", "N", "calls below FUNC, 0 to 16 (default: 1)" },
			{ 't', "ttl", "DURATION", "at most this long (default: 1m)" }, { 0, "max-cost", "PERCENT", "of one core (default: 1%)" },
			{ 'k', "keep", "SHARE", "keep this share of traces (default: 100%)" },
			{ 0, "root", "FUNC", "begin the graph at this function, which is switched on, too" }, { 'w', "where", "FILTER", "only calls that match: 'arg.2 > 4096'" },
			{ 0, "min-share", "PERCENT", "show callees from this share of their caller's time (default: 1%)" },
			{ 0, "max-pause", "DURATION", "longest stop of an attached program while functions are switched (default: 10ms)" },
			{ '1', "once", NULL, "print it once, after --for" }, { 'f', "for", "DURATION", "with --once: how long to watch (default: 3s)" },),
		EXAMPLES("klieg illuminate processCommand", "klieg illuminate call --service redis-server --depth 3 --ttl 30s", "klieg illuminate call --once --for 5s",
			"klieg illuminate aeProcessEvents --pid 4711 --once --json"), 1, 1 },
	{ "hot", "[SEL]", "hotspots by self time, with findings", cli_hot,
		"Ranks operations by the time they themselves spend, and says what is wrong where it can tell: waiting for a lock, N+1 queries, retries, one slow tenant.",
		OPTS(O_SINCE O_LIMIT("20")), EXAMPLES("klieg hot", "klieg hot 'payment:*' --since 5m", "klieg hot --json"), 0, 1 },
	{ "tail", "[SEL]", "spans as they arrive", cli_tail, "Until Ctrl-C. With --json or -o ndjson one event per line: {\"type\":\"span\"|\"dropped\",...}.",
		OPTS({ 'n', "limit", "N", "stop after this many spans" },), EXAMPLES("klieg tail", "klieg tail '{ status = error }'", "klieg tail 'payment:*' -n 10 -o ndjson"), 0, 1 },
	{ "query", "EXPR", "stored spans that match", cli_query,
		"EXPR is a TraceQL filter, or the short form of a selector. `matched` counts all matches, also those beyond the limit. Exit status 1 when nothing matches.",
		OPTS(O_SINCE O_LIMIT("100")),
		EXAMPLES("klieg query '{ duration > 100ms }' --since 15m", "klieg query '{ name = \"charge\" && .tenant = \"7\" }' --limit 10 --json", "klieg query '{ status = error }' -o csv"), 1, 1 },
	{ "trace", "ID", "one trace as a waterfall", cli_trace, "The tree of its spans with bars, durations and self time.",
		OPTS({ 'v', "verbose", NULL, "with attributes, events and links" },), EXAMPLES("klieg trace 4bf92f3577b34da6a3ce929d0e0e4736", "klieg trace 4bf92f3577b34da6a3ce929d0e0e4736 -v"), 1, 1 },
	{ "inflight", "[SEL]", "spans that are open right now", cli_inflight, "What each thread is inside of at this moment, longest first. Exit status 1 when nothing is open.",
		NULL, EXAMPLES("klieg inflight", "klieg inflight 'payment:*'"), 0, 1 },
	{ "doctor", "", "checks clocks, permissions, queues and the account of records", cli_doctor,
		"Says what is wrong and what to do. The account must balance: made = stored + open + queued + dropped(reason). Exit status 1 when a check fails.",
		NULL, EXAMPLES("klieg doctor", "klieg doctor --json"), 0, 0 },
	{ "status", "", "server, counts, overhead", cli_status, "One look at the whole: processes, sites, toggles, measured overhead against the budget, stored spans.",
		NULL, EXAMPLES("klieg status"), 0, 0 },
	{ "open", "", "print the dashboard's address and open it", cli_open_dashboard, "Prints the address; with a display it also opens the browser.",
		OPTS({ 'p', "print", NULL, "only print" },), EXAMPLES("klieg open", "klieg open --print"), 0, 0 },
	{ "completion", "bash|zsh|fish", "shell completion script", cli_completion, "Completes commands, options and, through the API, live services and sites.",
		NULL, EXAMPLES("klieg completion bash  # source <(klieg completion bash)", "klieg completion fish"), 1, -1 },
	{ "help", "[CMD|EXXX]", "help on a command or an error code", cmd_help, "Every error carries a code; `klieg help E204` says what it means, why it happens and what to do next.",
		NULL, EXAMPLES("klieg help", "klieg help on", "klieg help E204"), 0, 1 },
	{ "version", "", "version", cmd_version, "Prints the version of this executable.", NULL, EXAMPLES("klieg version", "klieg version --json"), 0, 0 },
	{ 0 } };

const struct cli_command *cli_find(const char *name)
{
	for (const struct cli_command *c = cli_commands; c->name; c++)
		if (c->run && !strcmp(c->name, name))
			return c;
	return NULL;
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
	printf("\nexamples:\n");
	for (const char *const *x = c->examples; x && *x; x++)
		printf("  %s\n", *x);
}

static void overview(FILE *f)
{
	fprintf(f, "klieg - finds the hotspot in a live native service without restarting it\n\nusage: klieg COMMAND [options]\n\n");
	for (const struct cli_command *c = cli_commands; c->name; c++)
		if (c->run)
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

static int cmd_help(int argc, char **argv)
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
	if ((*w == 'E' || *w == 'e') && w[1] >= '0' && w[1] <= '9') {
		if (cli_explain(w) == CLI_OK)
			return CLI_OK;
		struct err e;
		err_set(&e, KLIEG_E_NOT_FOUND, "there is no error code '%.20s'", w);
		err_hint(&e, "codes look like E204; an error prints its own in brackets");
		return cli_fail(&e);
	}
	const struct cli_command *c = cli_find(w);
	if (!c)
		return no_command(w);
	cli_print_help(c);
	return CLI_OK;
}

static int cmd_version(int argc, char **argv)
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
	const struct cli_command *c = cli_find(argv[1]);
	return c ? c->run(argc - 1, argv + 1) : no_command(argv[1]);
}
