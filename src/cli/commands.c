/* The table of all subcommands. A new subcommand is its own file, one line in cli.h and one entry here; dispatch, help, completions and the tests of
 * the manual page follow from the entry. A name of two words is a command of a group: `klieg policy check`. */
#include "cli/cli.h"
#include <stddef.h>

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
#define O_REACH { 0, "service", "NAME", "of this service; * and ? are wildcards" }, { 0, "component", "NAME", "of this component" }, \
	{ 0, "endpoint", "ROUTE", "requests to this route: .http.route" }, { 0, "tenant", "TENANT", "requests of this tenant: .tenant" }, \
	{ 0, "host", "GLOB", "on these hosts; may be given several times" }, { 0, "share", "SHARE", "in this share of the processes: 10% or 0.1" },
#define O_WHY { 'r', "reason", "TEXT", "why; is kept with the version" },
#define O_LIMIT(n) { 'n', "limit", "N", "at most this many rows (default: " n ")" },

#define O_LISTENERS { 0, "otlp-grpc", "HOST:PORT", "OTLP/gRPC receiver, or off (default: 127.0.0.1:4317 if it is free)" }, \
	{ 0, "jaeger-http", "HOST:PORT", "Jaeger remote sampling, or off (default: 127.0.0.1:5778 if it is free)" }, \
	{ 0, "jaeger-grpc", "HOST:PORT", "the same by gRPC, or off (default: 127.0.0.1:5779 if it is free)" }, \
	{ 0, "sampling-default", "SHARE", "what SDKs are told of services that no rule is about (default: 0)" },

#define O_NICE { 0, "nice", "N", "threads with much to do run after others: nice value, never taking the CPU from a running one; 0 = as everybody (default: 10)" },

const struct cli_command cli_commands[] = {
	{ "up", "", "run server and agent in one process", cli_up,
		"Serves the dashboard, the API and OTLP, and switches and drains the traced processes of this host. Prints one line when it serves: "
		"ready http=... otlp-http=... socket=... Ctrl-C or SIGTERM ends it: all probes go off, everything drained is stored.",
		OPTS({ 0, "dir", "DIR", "state and sockets (default: $KLIEG_DIR, $XDG_STATE_HOME/klieg, /var/lib/klieg for root)" },
			{ 0, "http", "HOST:PORT", "dashboard and API; port 0 = any (default: 127.0.0.1:7070)" },
			{ 0, "otlp-http", "HOST:PORT", "OTLP/HTTP receiver (default: 127.0.0.1:4318)" },
			O_LISTENERS
			{ 0, "retain", "DURATION", "delete spans older than this (default: 3d)" },
			{ 0, "max-bytes", "SIZE", "delete the oldest spans beyond this much disk (default: 10G)" },
			{ 0, "budget", "PERCENT", "of a process's CPU time that its probes may cost; the dearest are shed above it; 0 = no governor (default: 1%)" },
			O_NICE),
		EXAMPLES("klieg up", "klieg up --dir /tmp/k --http 127.0.0.1:0 --otlp-http 127.0.0.1:0  # on free ports"), 0, 0 },
	{ "agent", "", "run the agent alone", cli_agent, "Drains and switches the processes of this host for a server elsewhere: takes its requests by long polling, "
		"ships spans to it by OTLP/HTTP. While the server is away spans wait in bounded memory; what does not fit is counted.",
		OPTS({ 0, "dir", "DIR", "where its socket is" }, { 0, "host", "NAME", "what this host is called there (default: its host name)" },
			{ 0, "budget", "PERCENT", "of a process's CPU time that its probes may cost; the dearest are shed above it; 0 = no governor (default: 1%)" },
			O_NICE), EXAMPLES("klieg agent --server http://10.0.0.7:7070"), 0, 0 },
	{ "server", "", "run the server alone", cli_server, "Receives OTLP, stores, answers queries; no agent in this process.",
		OPTS({ 0, "dir", "DIR", "state and sockets" }, { 0, "http", "HOST:PORT", "dashboard and API" }, { 0, "otlp-http", "HOST:PORT", "OTLP/HTTP receiver" }, O_LISTENERS),
		EXAMPLES("klieg server --http 127.0.0.1:7070"), 0, 0 },
	{ "attach", "PID|NAME", "make the functions of a running program sites", cli_attach,
		"Loads libklieg into a running, unmodified program and lists its functions as sites: off, at no cost, until they are switched on. Says what was found, where the "
		"names come from, how long the program was paused, and what to do next. NAME is the name of its executable, or what the process calls itself. Whatever prevents it is said "
		"before the program is "
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
	{ "on", "[SEL]", "switch sites on", cli_on,
		"Switches the sites that match on, everywhere they run, for a limited time. --service, --component, --endpoint and --tenant narrow SEL, or stand for it; endpoint and "
		"tenant are decided once per request, and the request carries the level into the services it comes to. Prints how many sites in how many processes matched, what it will cost, how "
		"long it took until all acknowledged, when it ends and how to undo it.",
		OPTS({ 'l', "level", "LEVEL", "count: calls, errors, latency; span: timed spans; detail: with attributes; deep: functions and what they call (default: span)" },
			{ 'k', "keep", "SHARE", "keep this share of traces, whole ones: 10% or 0.1 (default: 100%)" },
			{ 't', "ttl", "DURATION", "off by itself after this (default: 5m)" },
			{ 'r', "reason", "TEXT", "why; is kept with the toggle" },
			{ 'w', "where", "FILTER", "only spans that match, by their attributes: '{ .tenant = \"7\" }'; of functions by arguments: 'arg.2 > 4096'" },
			O_REACH { 0, "rate", "RATE", "at most so many spans a second and process, adaptive: 50/s" },
			{ 'm', "marked", NULL, "only requests that are marked (tracestate klieg=l:N), not all" },
			{ 0, "depth", "N", "with level deep: calls below the functions that match, 0 to 16 (default: 1)" },
			{ 0, "max-pause", "DURATION", "longest stop of an attached program while functions are switched (default: 10ms)" },
			{ 0, "max-functions", "N", "intercept at most this many functions of a program (default: 2000)" },
			{ 'd', "dry-run", NULL, "print the plan and its cost, change nothing" },
			{ 'f', "for", "DURATION", "stay in the foreground this long, then switch off; Ctrl-C switches off at once" },),
		EXAMPLES("klieg on 'payment:*'", "klieg on '*' --level count --ttl 2m", "klieg on '{ name =~ \"db.*\" }' --level detail --keep 10% --reason 'slow checkout'",
			"klieg on charge --where '{ .tenant = \"7\" }' --for 30s", "klieg on 'redis-server:processCommand' --where 'arg.2 > 4096' --max-pause 5ms", "klieg on 'cart:*' --dry-run",
			"klieg on --service payment --tenant 7 --level detail --ttl 10m --reason INC-123", "klieg on 'cart:*' --share 10% --rate 50/s"), 0, 1 },
	{ "narrow", "ID [SEL]", "a toggle reaches less", cli_narrow,
		"Puts conditions into the selector of a toggle that is on, or reaches fewer hosts or processes; time, owner and level stay as they are. Prints what it reaches now and "
		"reached before.",
		OPTS(O_REACH { 'w', "where", "FILTER", "only spans that match, by their attributes" },),
		EXAMPLES("klieg narrow t-3 --tenant 7", "klieg narrow t-3 --share 10% --host 'web-1*'", "klieg narrow t-3 'payment:fraud.*'"), 1, 2 },
	{ "widen", "ID [SEL]", "a toggle reaches more", cli_widen, "The way back: '*' takes a condition out again.",
		OPTS(O_REACH { 'w', "where", "FILTER", "only spans that match; '' for all" },),
		EXAMPLES("klieg widen t-3 --tenant '*'", "klieg widen t-3 --share 100% --host '*'", "klieg widen t-3 'payment:*'"), 1, 2 },
	{ "off", "[SEL|ID]", "switch sites off", cli_off, "Removes toggles: by id (t-...), those that a selector touches, or all of them. Exit status 1 when there was nothing to remove.",
		OPTS({ 'a', "all", NULL, "remove every toggle" }, { 0, "undo", NULL, "restore what the last `klieg off` removed, with the time it had left" },
			{ 'r', "reason", "TEXT", "why; is kept in the audit log" },),
		EXAMPLES("klieg off t-1", "klieg off 'payment:*'", "klieg off --all", "klieg off --undo"), 0, 1 },
	{ "toggles", "", "what is switched on", cli_toggles, "Each with its owner, reason, time left, and its cost: predicted and measured.",
		OPTS({ 'a', "all", NULL, "also those that ended during the last day" },), EXAMPLES("klieg toggles", "klieg toggles --all -o wide"), 0, 0 },
	{ "panic", "", "everything off, everywhere, now", cli_panic,
		"All toggles end and all policies are suspended, in every process of every host. Until --undo no policy comes into force; what somebody switches on meanwhile is on.",
		OPTS({ 0, "undo", NULL, "as it was before: toggles with the time they had left, policies in force" }, { 'r', "reason", "TEXT", "why; everybody sees it" },),
		EXAMPLES("klieg panic --reason 'latency is rising'", "klieg panic --undo"), 0, 0 },
	{ "policy", "COMMAND", "rules as code: check, plan, apply, roll back", cli_policy,
		"A policy is a YAML document of rules, that grant levels, and limits, that cap them; see docs/policy.md. Every change is a new version with who, when and why; versions are "
		"never changed. A change goes out in steps, and takes itself back when the first processes fare worse than the rest.",
		NULL, EXAMPLES("klieg policy --help"), 0, -1 },
	{ "policy check", "FILE...", "whether a file is valid", cli_policy_check,
		"Prints every error and warning with line, column, code and hint, as compilers do; `klieg help P104` explains a code. The server judges, so that command line, dashboard and API "
		"never differ; without one, use the schema of `klieg policy schema`. FILE - is standard input. Exit status 1 when there is an error.",
		NULL, EXAMPLES("klieg policy check checkout.yaml", "klieg policy check policies/checkout.yaml --json"), 1, -1 },
	{ "policy plan", "FILE", "what applying it would change", cli_policy_plan,
		"Which sites in which processes change their level, what each rule would have kept of the stored traces, predicted spans, bytes and overhead against the budget. Changes nothing. "
		"Exit status 6 when it would not fit the budget.",
		OPTS({ 0, "replay", "DURATION", "try the rules on the stored traces of the last so long; 0: not at all (default: 1h)" },),
		EXAMPLES("klieg policy plan checkout.yaml", "klieg policy plan checkout.yaml --replay 24h -o wide"), 1, 1 },
	{ "policy apply", "FILE", "make it a new version, in force", cli_policy_apply,
		"Prints the plan, asks on a terminal, and applies. A rollout in steps is shown as it goes: the step, and how the first processes fare compared with the rest. Ctrl-C leaves "
		"it running. Exit status 6 when it rolled itself back or would not fit the budget, 2 when somebody else changed the policy meanwhile.",
		OPTS(O_WHY { 0, "now", NULL, "everywhere at once, whatever its rollout says" }, { 0, "steps", NULL, "in steps (1 process, 10%, 100%), whatever its rollout says" },
			{ 0, "soak", "DURATION", "watch each step for this long (default: the server's)" },
			{ 0, "slower", "PERCENT", "how much slower than the rest's the canary's requests may get before it is taken back (default: 20%)" },
			{ 0, "failing", "POINTS", "how many percent more of them may fail (default: 2)" },
			{ 0, "expect", "N", "only if N is the current version; 0: only if there is none (default: the one that was planned against)" },
			{ 'y', "yes", NULL, "do not ask" }, { 0, "force", NULL, "although it is predicted not to fit the budget" },
			{ 0, "no-wait", NULL, "do not stay until the rollout has ended" },
			{ 0, "replay", "DURATION", "as for klieg policy plan" },),
		EXAMPLES("klieg policy apply checkout.yaml --reason 'INC-123: slow payments'", "klieg policy apply checkout.yaml --now --yes --expect 3"), 1, 1 },
	{ "policy ls", "", "policies, their state and cost", cli_policy_ls, "Version, state, what they match, predicted and measured cost, levels that triggers have raised.",
		NULL, EXAMPLES("klieg policy ls", "klieg policy ls -o wide"), 0, 0 },
	{ "policy show", "POLICY", "its text", cli_policy_show, "The text goes to standard output, who and why to standard error.",
		OPTS({ 0, "version", "N", "this version (default: the current one)" },), EXAMPLES("klieg policy show checkout > checkout.yaml", "klieg policy show checkout --version 2"), 1, 1 },
	{ "policy diff", "POLICY|FILE [FROM [TO]]", "what changed", cli_policy_diff,
		"Between two versions (default: the last two), or between what is in force and a file. Exit status 1 when they differ.",
		NULL, EXAMPLES("klieg policy diff checkout", "klieg policy diff checkout 2 5", "klieg policy diff checkout.yaml"), 1, 3 },
	{ "policy history", "POLICY", "its versions", cli_policy_history, "Who, when, why, and how each came about: apply, rollback, off, auto_rollback.",
		NULL, EXAMPLES("klieg policy history checkout"), 1, 1 },
	{ "policy rollback", "POLICY", "back to an earlier version", cli_policy_rollback, "A new version with the text of an earlier one, in force at once; ends a rollout that is under way.",
		OPTS({ 0, "to", "N", "this version (default: the one before)" }, O_WHY),
		EXAMPLES("klieg policy rollback checkout --reason 'too dear'", "klieg policy rollback checkout --to 2"), 1, 1 },
	{ "policy off", "POLICY", "out of force", cli_policy_off, "Its rules end everywhere; its versions stay, and rollback brings it back.",
		OPTS(O_WHY), EXAMPLES("klieg policy off checkout --reason 'INC-123 is over'"), 1, 1 },
	{ "policy rollout", "POLICY", "how its rollout is going", cli_policy_rollout, "Follows it until it ends, as klieg policy apply does.",
		OPTS({ '1', "once", NULL, "one look" },), EXAMPLES("klieg policy rollout checkout", "klieg policy rollout checkout --once --json"), 1, 1 },
	{ "policy promote", "POLICY", "next step of its rollout now", cli_policy_promote, "Does not wait for the step's time to be over; goes on after a stop.",
		OPTS(O_WHY), EXAMPLES("klieg policy promote checkout --reason 'looks good'"), 1, 1 },
	{ "policy stop", "POLICY", "no further step of its rollout", cli_policy_stop, "What has the new version keeps it; promote goes on, rollback takes it back.",
		OPTS(O_WHY), EXAMPLES("klieg policy stop checkout"), 1, 1 },
	{ "policy export", "[POLICY]", "texts that are in force", cli_policy_export, "One YAML document, or all of them in one stream, which klieg policy apply takes.",
		NULL, EXAMPLES("klieg policy export > policies.yaml", "klieg policy export checkout"), 0, 1 },
	{ "policy schema", "", "JSON Schema for editors", cli_policy_schema, "Also served at /policy.schema.json; name it in the first line of a policy and editors complete it.",
		NULL, EXAMPLES("klieg policy schema > policy.schema.json"), 0, 0 },
	{ "alerts", "", "what is wrong right now", cli_alerts, "Limits that are exceeded: latency, errors, overhead, queues, and what to do next about each.",
		NULL, EXAMPLES("klieg alerts", "klieg alerts -o wide"), 0, 0 },
	{ "firings", "", "triggers that fired", cli_firings, "Each with its cause, the levels it moved between and the traces that it caught.",
		OPTS({ 0, "since", "DURATION", "how far to look back (default: 1h)" }, { 0, "policy", "POLICY", "only of this policy" },),
		EXAMPLES("klieg firings", "klieg firings --policy checkout --since 24h -o wide"), 0, 0 },
	{ "audit", "[OBJECT]", "who changed what, and why", cli_audit,
		"Every change that somebody made, or that the system made by itself, newest first: when, who, what, from what to what, why, and how it went. OBJECT is a toggle, a "
		"policy, policy:* and the like. What can be undone is listed below, with the command that does it. Exit status 1 when nothing matches.",
		OPTS({ 0, "who", "NAME", "only by them; a pattern: system:*" }, { 0, "what", "WHAT", "only this: on, off, change, apply, panic, ..." }, { 0, "object", "OBJECT", "the same as OBJECT" },
			{ 0, "since", "DURATION", "how far to look back (default: all there is)" }, { 0, "from", "NANOS", "from here, unix nanoseconds" },
			{ 0, "to", "NANOS", "to here, unix nanoseconds" }, O_LIMIT("100")),
		EXAMPLES("klieg audit", "klieg audit t-x1y2z3", "klieg audit 'policy:*' --since 24h", "klieg audit --who 'system:*' --json"), 0, 1 },
	{ "revert", "ID", "undo a change", cli_revert,
		"Undoes what an entry of the audit log did, by its id (klieg audit): a toggle is off, on, or as it was again; of a policy what was in force before is again; "
		"panic ends. That is a change of its own, with its own entry. It is refused when there is nothing to undo any more.",
		OPTS({ 'r', "reason", "TEXT", "why; is kept in the audit log" },), EXAMPLES("klieg revert a-12 --reason 'was not it'"), 1, 1 },
	{ "plugins", "", "instrumentors that attach finds by name", cli_plugins,
		"What can be given to klieg attach --plugin, on every host; klieg ps -o wide shows what a process has.",
		NULL, EXAMPLES("klieg plugins", "klieg plugins --json"), 0, 0 },
	{ "overhead", "", "what Klieg costs, and what it sheds", cli_overhead,
		"Measured overhead per process against its limit, what the governor has taken back, the dearest sites and rules: predicted and measured.",
		NULL, EXAMPLES("klieg overhead", "klieg overhead --json"), 0, 0 },
	{ "token", "", "a header that traces one request", cli_token,
		"A signed token for one service, good for some minutes: a request that carries it is traced at a level, whatever the policies say. All sites are switched on "
		"for such requests, and for no others, as long as it is good.",
		OPTS({ 0, "service", "NAME", "the service that the request comes to first" }, { 'l', "level", "LEVEL", "span, detail or deep (default: detail)" },
			{ 't', "ttl", "DURATION", "at most 15m (default: 5m)" }, { 'r', "reason", "TEXT", "why" },),
		EXAMPLES("klieg token --service gateway --level detail --ttl 5m"), 0, 0 },
	{ "top", "[SEL]", "live table of sites", cli_top,
		"One row per site that is hit: state, level, rate, time left, calls and errors per second, percentiles, self and total share, cost. Keys: / find, F4 filter, "
		"F5 tree, F6 sort, t toggle, r rate, T time to live, s snapshot to a file, y yank the equivalent command, o all off, ? help, q quit.",
		OPTS({ 'b', "batch", NULL, "print instead of drawing; for scripts" }, { 'n', "iterations", "N", "with --batch: how many times (default: 1)" },
			{ 0, "interval", "DURATION", "between two looks (default: 1s)" },
			{ 0, "sort", "COLUMN", "calls, errors, p50, p99, total, cost or name (default: total)" },),
		EXAMPLES("klieg top", "klieg top 'payment:*' --sort p99", "klieg top --batch -n 3 --json"), 0, 1 },
	{ "illuminate", "FUNC", "a function and what it calls, live", cli_illuminate,
		"Switches FUNC and its callees on, to a depth, for a limited time, and shows the call graph as it happens, once a second: calls, self and total time, percentiles, "
		"share of the caller's time. FUNC is the name of a function or another site, or a selector. What it calls through pointers is observed while it is called, and marked so. "
		"Callees with little time are counted, not shown, and go off again. "
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
		EXAMPLES("klieg query '{ duration > 100ms }' --since 15m", "klieg query '{ name = \"charge\" && .tenant = \"7\" }' --limit 10 --json",
			"klieg query '{ status = error }' -o csv"), 1, 1 },
	{ "trace", "ID", "one trace as a waterfall", cli_trace, "The tree of its spans with bars, durations and self time.",
		OPTS({ 'v', "verbose", NULL, "with attributes, events and links" },),
		EXAMPLES("klieg trace 4bf92f3577b34da6a3ce929d0e0e4736", "klieg trace 4bf92f3577b34da6a3ce929d0e0e4736 -v"), 1, 1 },
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
	{ "help", "[CMD|EXXX]", "help on a command or an error code", cli_help, "Every error carries a code; `klieg help E204` says what it means, why it happens and what to do next.",
		NULL, EXAMPLES("klieg help", "klieg help on", "klieg help policy apply", "klieg help E204", "klieg help P104"), 0, 2 },
	{ "version", "", "version", cli_version, "Prints the version of this executable.", NULL, EXAMPLES("klieg version", "klieg version --json"), 0, 0 },
	{ 0 } };
