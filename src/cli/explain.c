/* `klieg help E204`, `klieg help P140`: what a code means, why it happens, what to do next. One entry per error of base/err.h and per diagnostic of src/policy; tests
 * hold them together. */
#include "cli/cli.h"
#include <stdio.h>
#include <stdlib.h>

static const struct { int num; const char *what, *why, *next; } explanations[] = {
	{ 100, "Klieg met a state it does not expect.", "This is a defect in Klieg, not in what you asked for.",
		"Run `klieg doctor`; report what you did with its output and the server's log." },
	{ 101, "There was not enough memory.", "The host is out of memory, or a limit (cgroup, ulimit) of the process is reached.",
		"Ask for less (a shorter --since, a smaller --limit) or raise the limit." },
	{ 102, "Reading or writing failed.", "A disk, a socket or a file gave an error that is none of the commoner ones.",
		"The message names the file; see the system's log (dmesg, journalctl) for the device." },
	{ 103, "The disk is full.", "The file system with the state directory has no room. Spans that cannot be stored are counted as dropped.",
		"Free space, or start `klieg up` with a smaller --retain or --max-bytes; `klieg doctor` shows what was dropped." },
	{ 104, "The server cannot take this now.", "A queue is at its limit, or the same change is being made already.",
		"Try again in a moment; `klieg doctor` shows queues against their limits." },
	{ 105, "What was sent is too large.", "Bodies, names, attributes and queries have limits so that no client can exhaust the server.",
		"Send smaller batches; the message says the limit." },
	{ 106, "Stored or shared data is damaged.", "A file was truncated or changed by something else, or a traced process overwrote its own ring.",
		"What is damaged is skipped and counted. `klieg doctor` says where; restoring the state directory from a backup brings it back." },
	{ 200, "The command or request is not formed as it should be.",
		"An option, argument or parameter is unknown, missing or has a value that is not allowed.",
		"`klieg COMMAND --help` shows options and examples." },
	{ 201, "The selector or query cannot be parsed.", "TraceQL filters stand in braces: { name = \"charge\" && duration > 10ms }. The message "
	"points at the column.",
		"Quote it with single quotes for the shell; compare with `klieg query --help`." },
	{ 202, "The query compares things that do not compare.", "For example a duration with a text, or an intrinsic with a value of another type.",
		"Durations have units (10ms), texts have double quotes, status is ok, error or unset." },
	{ 203, "The query or request is beyond a limit.", "Depth, length, number of conditions and regular expressions are limited so that none can "
	"hang the server.",
		"Simplify it, or ask in several steps; the message names the limit." },
	{ 204, "The selector matches no site.", "No live process has a site with such a name in such a service; names are compared whole, with * and "
	"? as wildcards.",
		"`klieg ls` lists what there is, `klieg ps` which processes are seen at all. The functions of a program that was not built for Klieg are sites once "
		"`klieg attach PID` has been there; those of a stripped one have no names: install its debug symbols or give --debug-file." },
	{ 205, "There is no such thing.", "The trace, toggle or page does not exist, has expired, or was removed by retention.",
		"`klieg toggles --all` and `klieg query` show what there is." },
	{ 206, "The data is not valid.", "It is truncated, not the format it says it is, or has invalid UTF-8.",
		"Check the sender's exporter: protobuf as application/x-protobuf, JSON as application/json, gzip with Content-Encoding." },
	{ 207, "This is not supported.", "The content type, encoding, level or kernel feature is not one Klieg can handle here; or the process is of "
	"a kind that cannot be "
		"attached to (static, another libc or machine), or the function cannot be intercepted (too short, a jump into its first bytes).",
		"The message says what is supported. `klieg attach PID --check` says what is in the way, `klieg ls` why a function is not hookable." },
	{ 208, "Something else is in the way.", "Another live agent owns the socket, a thing of that name exists, a debugger traces the process, or a "
	"name means several processes.",
		"Stop the other one, use another --dir, or say which process by its PID." },
	{ 209, "Somebody else changed it first.", "What you sent is based on a version that is no longer the newest.",
		"Load it again, repeat your change, send it again." },
	{ 300, "No Klieg server answers.", "None runs, it uses another directory or address, or it is still starting.",
		"Start one with `klieg up`; or point to it with --server URL, KLIEG_SERVER or KLIEG_DIR." },
	{ 301, "There is no such process.", "It has ended, or it never offered its rings to this agent.",
		"`klieg ps` lists the processes the agent sees. `klieg attach PID` makes a running program one of them; others are linked with "
		"-lklieg or started by `klieg run --`." },
	{ 302, "The address is in use.", "Another program listens on that port: often another `klieg up`, or an OpenTelemetry collector on 4318.",
		"Choose another with --http or --otlp-http; port 0 takes any free one." },
	{ 400, "You are not permitted to do this.", "The file, socket or process belongs to another user, or ptrace is restricted (Yama, a container "
	"without CAP_SYS_PTRACE).",
		"Run klieg up (or klieg agent) as the service's user or as root; `klieg doctor` names what is missing, `klieg attach PID --check` "
		"what a process needs." },
	{ 401, "The server does not know who you are.", "The request carries no credentials, or expired ones.",
		"Use the server's own socket, or sign in." },
	{ 500, "Only a part was done.", "Some processes did not acknowledge in time, or ended meanwhile.",
		"The message counts them; `klieg ps` shows which; the rest is done." },
	{ 600, "A guardrail refused it.", "The predicted or measured cost is over the budget (of `klieg illuminate`: --max-cost), or a limit forbids the level.",
		"Ask for less: a smaller --keep, a narrower selector, a lower --level; `--dry-run` shows the cost." },
};

/* Diagnostics of policies: P1.. errors, P2.. warnings. */
static const struct { int num; const char *what, *why, *next; } diagnostics[] = {
	{ 100, "The policy is too long.", "A policy is at most 1 MiB, so that everybody can read it and every agent take it.",
		"Split it into several policies; order and number do not matter." },
	{ 101, "The text is not YAML.", "Indentation, quotes or brackets do not close, or a tab indents.",
	"Put TraceQL in single quotes: match: '{ .tenant = \"7\" }'." },
	{ 102, "The text is not clean UTF-8.", "A byte is no character, or is a control character.",
	"Save it as UTF-8; write control characters as escapes in double quotes." },
	{ 103, "Anchors, aliases and tags are not used.", "What a policy says must stand where it is read; nothing expands.", "Write the value out." },
	{ 104, "The file is not one policy.", "It is empty, or a second document begins.",
	"One policy a file; `klieg policy check` and `apply` take a stream of several apart by ---." },
	{ 105, "It is nested too deep, or has too many values.", "Limits, so that no text can exhaust the server.", "Write it flatter; split it." },
	{ 106, "There are too many rules, limits, steps or items.", "At most 1,000 rules and 100 limits a policy.", "Split it into several policies." },
	{ 107, "The regular expressions of the policy are too big.",
		"Compiled they take over 16 MiB, which every agent would have to hold: {1,50} stands for fifty copies.",
		"Use + or * instead of counts, or split the policy." },
	{ 110, "A value is of the wrong kind.", "A list stands where one value is meant, or the other way round.",
	"See the example in the hint, or docs/policy.md." },
	{ 111, "The key is not known.", "A slip of the pen, or a key of another place.", "The hint has the nearest known one; `klieg policy schema` "
	"lets editors complete them." },
	{ 112, "A key stands twice.", "YAML would silently take one of them.", "Remove one." },
	{ 113, "A key is missing.", "A policy needs `policy`, a rule `name` and `match`, a trigger `when` and `to`.", "Add it." },
	{ 114, "A value is empty.", "The key stands there without anything behind it.", "Give it a value, or leave the key away." },
	{ 120, "The name cannot be one.", "Names are part of addresses: letters, digits, - _ and . only, at most 64.", "Choose another." },
	{ 121, "Two rules have the same name.", "Firings, history and undo go by a rule's name.", "Rename one." },
	{ 130, "The match cannot be read.", "It is not a TraceQL filter; the place is inside the query.",
	"A filter stands in braces: '{ name = \"charge\" }'; docs/traceql.md." },
	{ 131, "The match cannot be decided when a span starts.", "It asks for what is known only at its end: duration, status.",
	"Match by name, service, component and start-time attributes; put thresholds into `escalate`." },
	{ 132, "The query of a trigger or limit cannot be used.", "A trigger is a metrics query with a threshold; a limit's match chooses sites only.",
		"when: '{ name = \"charge\" } | quantile_over_time(duration, .99) > 250ms'." },
	{ 140, "There is no such level.", "Levels are off, count, span, detail and deep.", "The hint has the nearest one." },
	{ 141, "A share, rate or percentage is not one, or out of range.", "keep takes 10%, 0.1 or 200/s; overhead more than 0 and at most 100 %.",
	"Write it as in the hint." },
	{ 142, "A duration is not one.", "The unit is missing or not known.", "30s, 5m, 1h30m, 3d." },
	{ 143, "A duration is too short or too long.", "A trigger needs time to see, a rule an end that comes.", "The hint has the bounds." },
	{ 144, "A step of the rollout is wrong.", "Each step covers more than the one before; processes come before shares.",
		"rollout: [1 process, 10%, 100%]." },
	{ 145, "The trigger raises to what is there already.", "`to` is not above the level of its rule.", "Lower the rule's level or raise `to`." },
	{ 146, "The limit limits nothing.", "It has neither overhead nor rate nor level.", "Add one of them." },
	{ 147, "An item of a list is not what the list holds.", "redact takes names of attributes, send names of destinations.",
	"Put names with * or . in quotes." },
	{ 201, "The rule grants nothing.", "Its level is off, and rules only grant.",
		"To keep others from switching something on write a limit with level: off." },
	{ 202, "A limit of the same policy takes away what the rule grants.", "Limits always win.", "Raise the limit or lower the rule." },
	{ 203, "Two rules have the same match.", "The higher level and the higher keep win, so one of them has no effect.", "Remove one." },
	{ 204, "The rule pays for spans and keeps none.", "keep is 0 at level span or above.", "To count without spans write level: count." },
	{ 205, "The rule matches everything.", "It names neither service nor component nor name: every site of every process.",
	"Name a service, or say it is meant by a limit beside it; `klieg policy plan` shows the cost." },
	{ 206, "The rollout never reaches every process.", "Its last step is below 100 %.", "End it with 100%, unless that is what is meant." },
	{ 207, "The policy says nothing.", "It has neither rules nor limits.", "Add one; to end a policy use `klieg policy off`." },
	{ 208, "keep has no effect.", "At this level there are no spans to keep.", "Raise the level to span or remove keep." },
	{ 209, "`send` and `retain` have no effect yet.", "All spans go to the one store and stay as long as it keeps them.",
		"They may stay in the text; klieg up --retain says how long spans are kept." },
	{ 210, "The trigger measures nothing.", "A trigger measures the spans that both the rule's `match` and the filter in `when` take, and these two exclude each other.",
		"Widen `match`, or say in `when` only what narrows it further." },
	{ 211, "The trigger measures all requests.", "`match` asks for attributes of requests, which counts do not know: it chooses what is raised, not what is measured.",
		"Nothing, if that is what you want; else match by what is known of a site (name, service, component)." },
	{ 212, "The trigger cannot see what requests waited.", "How long a request waited before its first span is said by spans at detail; at lower levels there is nothing to measure.",
		"Write `level: detail` with a `keep` of a few percent, or grant that by another rule." },
};

static int explain_diagnostic(int num)
{
	for (size_t i = 0; i < sizeof(diagnostics) / sizeof(*diagnostics); i++)
		if (diagnostics[i].num == num) {
			printf("P%d: %s (%s)\n\n  why   %s\n  next  %s\n\n%s\n", num, diagnostics[i].what, num < 200 ? "error" : "warning",
				diagnostics[i].why, diagnostics[i].next,
				num < 200 ? "A policy with it is not applied; klieg policy check ends with status 1." : "A policy with it can be applied.");
			return CLI_OK;
		}
	return CLI_NONE;
}

int cli_explain(const char *code)
{
	int num = atoi(code + 1);
	if (*code == 'P' || *code == 'p')
		return explain_diagnostic(num);
	for (size_t i = 0; i < sizeof(explanations) / sizeof(*explanations); i++)
		if (explanations[i].num == num) {
			printf("E%d: %s\n\n  what  %s\n  why   %s\n  next  %s\n\nexit status of a command that ends with it: %d\n", num,
				err_title(-num), explanations[i].what,
				explanations[i].why, explanations[i].next, cli_status_of(-num));
			return CLI_OK;
		}
	return CLI_NONE;
}
