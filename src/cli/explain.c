/* `klieg help E204`: what an error code means, why it happens, what to do next. One entry per error of base/err.h; a test holds them together. */
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
	{ 200, "The command or request is not formed as it should be.", "An option, argument or parameter is unknown, missing or has a value that is not allowed.",
		"`klieg COMMAND --help` shows options and examples." },
	{ 201, "The selector or query cannot be parsed.", "TraceQL filters stand in braces: { name = \"charge\" && duration > 10ms }. The message points at the column.",
		"Quote it with single quotes for the shell; compare with `klieg query --help`." },
	{ 202, "The query compares things that do not compare.", "For example a duration with a text, or an intrinsic with a value of another type.",
		"Durations have units (10ms), texts have double quotes, status is ok, error or unset." },
	{ 203, "The query or request is beyond a limit.", "Depth, length, number of conditions and regular expressions are limited so that none can hang the server.",
		"Simplify it, or ask in several steps; the message names the limit." },
	{ 204, "The selector matches no site.", "No live process has a site with such a name in such a service; names are compared whole, with * and ? as wildcards.",
		"`klieg ls` lists what there is, `klieg ps` which processes are seen at all. The functions of a program that was not built for Klieg are sites once "
		"`klieg attach PID` has been there; those of a stripped one have no names: install its debug symbols or give --debug-file." },
	{ 205, "There is no such thing.", "The trace, toggle or page does not exist, has expired, or was removed by retention.",
		"`klieg toggles --all` and `klieg query` show what there is." },
	{ 206, "The data is not valid.", "It is truncated, not the format it says it is, or has invalid UTF-8.",
		"Check the sender's exporter: protobuf as application/x-protobuf, JSON as application/json, gzip with Content-Encoding." },
	{ 207, "This is not supported.", "The content type, encoding, level or kernel feature is not one Klieg can handle here; or the process is of a kind that cannot be "
		"attached to (static, another libc or machine), or the function cannot be intercepted (too short, a jump into its first bytes).",
		"The message says what is supported. `klieg attach PID --check` says what is in the way, `klieg ls` why a function is not hookable." },
	{ 208, "Something else is in the way.", "Another live agent owns the socket, a thing of that name exists, a debugger traces the process, or a name means several processes.",
		"Stop the other one, use another --dir, or say which process by its PID." },
	{ 209, "Somebody else changed it first.", "What you sent is based on a version that is no longer the newest.",
		"Load it again, repeat your change, send it again." },
	{ 300, "No Klieg server answers.", "None runs, it uses another directory or address, or it is still starting.",
		"Start one with `klieg up`; or point to it with --server URL, KLIEG_SERVER or KLIEG_DIR." },
	{ 301, "There is no such process.", "It has ended, or it never offered its rings to this agent.",
		"`klieg ps` lists the processes the agent sees. `klieg attach PID` makes a running program one of them; others are linked with -lklieg or started by `klieg run --`." },
	{ 302, "The address is in use.", "Another program listens on that port: often another `klieg up`, or an OpenTelemetry collector on 4318.",
		"Choose another with --http or --otlp-http; port 0 takes any free one." },
	{ 400, "You are not permitted to do this.", "The file, socket or process belongs to another user, or ptrace is restricted (Yama, a container without CAP_SYS_PTRACE).",
		"Run klieg up (or klieg agent) as the service's user or as root; `klieg doctor` names what is missing, `klieg attach PID --check` what a process needs." },
	{ 401, "The server does not know who you are.", "The request carries no credentials, or expired ones.", "Use the server's own socket, or sign in." },
	{ 500, "Only a part was done.", "Some processes did not acknowledge in time, or ended meanwhile.",
		"The message counts them; `klieg ps` shows which; the rest is done." },
	{ 600, "A guardrail refused it.", "The predicted or measured cost is over the budget (of `klieg illuminate`: --max-cost), or a limit forbids the level.",
		"Ask for less: a smaller --keep, a narrower selector, a lower --level; `--dry-run` shows the cost." },
};

int cli_explain(const char *code)
{
	int num = atoi(code + 1);
	for (size_t i = 0; i < sizeof(explanations) / sizeof(*explanations); i++)
		if (explanations[i].num == num) {
			printf("E%d: %s\n\n  what  %s\n  why   %s\n  next  %s\n\nexit status of a command that ends with it: %d\n", num, err_title(-num), explanations[i].what,
				explanations[i].why, explanations[i].next, cli_status_of(-num));
			return CLI_OK;
		}
	return CLI_NONE;
}
