/* What nearly every command does first and last: parse, find the server, ask, print what went wrong. */
#include "cli/cli.h"
#include "base/clock.h"
#include "base/priority.h"
#include <pwd.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

bool cli_open(int argc, char **argv, struct cli *ret_c, int *ret_status)
{
	struct cli c = { 0 };
	struct err e = { 0 };
	if (cli_begin(argc, argv, &c.args, ret_status))
		return false;
	if (output_of(&c.args, &c.out, &e) < 0 || client_find(cli_opt(&c.args, "server"), &c.client, &e) < 0) {
		*ret_status = cli_fail(&e);
		return false;
	}
	*ret_c = c;
	return true;
}

json_t *cli_get(struct cli *c, const char *target, int *ret_status)
{
	struct err e = { 0 };
	json_t *doc = NULL;
	if (client_json(&c->client, "GET", target, NULL, &doc, NULL, &e) < 0)
		*ret_status = cli_fail(&e);
	return doc;
}

int cli_background(const struct cli_args *a, struct err *e)
{
	int64_t nice = 10;
	const char *given = cli_opt(a, "nice");
	if (given && cli_parse_count(given, 0, 19, &nice, e) < 0)
		return e->code;
	priority_set((int)nice);
	return 0;
}

const char *cli_who(void)
{
	static char name[64];
	struct passwd *pw = getpwuid(geteuid());
	snprintf(name, sizeof(name), "%s", pw ? pw->pw_name : "unknown");
	return name;
}

static void on_interrupt(int sig)
{
	cli_interrupted = 1;
}

void cli_catch_interrupt(void)
{
	struct sigaction sa = { .sa_handler = on_interrupt };  /* no SA_RESTART: a blocked read ends */
	sigaction(SIGINT, &sa, NULL);
	sigaction(SIGTERM, &sa, NULL);
}

static sigset_t held;

void cli_hold_signals(void)
{
	sigemptyset(&held);
	sigaddset(&held, SIGINT);
	sigaddset(&held, SIGTERM);
	sigprocmask(SIG_BLOCK, &held, NULL);
}

bool cli_held_until(int64_t mono_ns)
{
	for (;;) {
		int64_t left = mono_ns - clock_mono();
		struct timespec t = { left > 0 ? left / 1000000000 : 0, left > 0 ? left % 1000000000 : 0 };
		if (sigtimedwait(&held, NULL, &t) > 0)
			return true;
		if (left <= 0)
			return false;
	}
}

int cli_range(const struct cli_args *a, struct buf *target, struct err *e)
{
	const char *since = cli_opt(a, "since"), *from = cli_opt(a, "from"), *to = cli_opt(a, "to");
	int64_t ns, f = 0, t = clock_wall();
	int rc;
	if (since && from)
		return err_set(e, KLIEG_E_USAGE, "--since and --from exclude each other");
	if (from) {
		if ((rc = cli_parse_count(from, 0, INT64_MAX, &f, e)) < 0 || (to && (rc = cli_parse_count(to, f, INT64_MAX, &t, e)) < 0))
			return rc;
		char s[32];
		snprintf(s, sizeof(s), "%lld", (long long)f);
		client_query(target, "from", s);
		snprintf(s, sizeof(s), "%lld", (long long)t);
		client_query(target, "to", s);
		return 0;
	}
	if (to)
		return err_set(e, KLIEG_E_USAGE, "--to needs --from");
	if ((rc = cli_parse_duration(since ? since : "15m", &ns, e)) < 0)
		return rc;
	client_query(target, "since", since ? since : "15m");
	return 0;
}

/* Where this host's agent listens; src/wire/wire.h has the rule. */
void cli_agent_socket(const char *dir, char *path, size_t n)
{
	const char *s = getenv("KLIEG_SOCKET"), *d = getenv("KLIEG_DIR"), *run = getenv("XDG_RUNTIME_DIR");
	if (dir)
		snprintf(path, n, "%s/agent.sock", dir);
	else if (s && *s)
		snprintf(path, n, "%s", s);
	else if (d && *d)
		snprintf(path, n, "%s/agent.sock", d);
	else if (geteuid() == 0)
		snprintf(path, n, "/run/klieg/agent.sock");
	else if (run && *run)
		snprintf(path, n, "%s/klieg/agent.sock", run);
	else
		snprintf(path, n, "/tmp/klieg-%d/agent.sock", (int)geteuid());
}

