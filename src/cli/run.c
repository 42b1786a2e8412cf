/* `klieg run -- CMD`: becomes CMD with libklieg preloaded. Nothing of this process is left, so the exit status is CMD's own. With --attach a grandchild stays
 * until CMD has said hello to the agent, asks for its functions to be made sites, and is gone. */
#include "cli/cli.h"
#include "base/clock.h"
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static bool find_library(char *ret_path)
{
	static const char *const beside[] = { "libklieg.so", "probe/libklieg.so", "../lib/libklieg.so", "../lib/x86_64-linux-gnu/libklieg.so",
		"../lib/aarch64-linux-gnu/libklieg.so", "../lib64/libklieg.so", NULL };
	const char *env = getenv("KLIEG_LIB");
	char exe[PATH_MAX], try[PATH_MAX + 64];
	if (env && *env)
		return realpath(env, ret_path) && access(ret_path, R_OK) == 0;
	ssize_t n = readlink("/proc/self/exe", exe, sizeof(exe) - 1);
	if (n < 0)
		return false;
	exe[n] = 0;
	*strrchr(exe, '/') = 0;
	for (int i = 0; beside[i]; i++) {
		snprintf(try, sizeof(try), "%s/%s", exe, beside[i]);
		if (realpath(try, ret_path) && access(ret_path, R_OK) == 0)
			return true;
	}
	return false;
}

static bool known(const struct client *c, pid_t pid)
{
	json_t *doc = NULL, *p;
	struct err e;
	size_t i;
	bool found = false;
	if (client_json(c, "GET", "/api/v1/processes", NULL, &doc, NULL, &e) >= 0)
		json_array_foreach(json_object_get(doc, "processes"), i, p)
			found |= jint(p, "pid") == pid && !strcmp(jstr(p, "state"), "live");
	json_decref(doc);
	return found;
}

/* In a process of its own, whose standard error is CMD's. */
static int attach_later(const struct client *c, pid_t pid, json_t *body)
{
	struct err e = { 0 };
	json_t *doc = NULL;
	int64_t until = clock_mono() + 10000000000;
	struct pollfd ended = { .fd = (int)syscall(SYS_pidfd_open, pid, 0), .events = POLLIN };
	while (!known(c, pid) && clock_mono() < until)
		if (poll(&ended, 1, 20) > 0) {
			fprintf(stderr, "klieg: the program ended before it could be attached to\n");
			return CLI_ABSENT;
		}
	json_object_set_new(body, "pid", json_integer(pid));
	if (cli_attach_request(c, body, &doc, &e) < 0) {
		err_hint(&e, "the program runs on without; klieg attach %d", (int)pid);
		return cli_fail(&e);
	}
	cli_attach_print(stderr, json_array_get(json_object_get(doc, "attachments"), 0));
	json_decref(doc);
	return CLI_OK;
}

/* Leaves a grandchild, so that CMD has no child that it does not know of. */
static int leave_attacher(const struct cli_args *a)
{
	struct client c;
	struct err e = { 0 };
	int status = CLI_OK;
	if (client_find(cli_opt(a, "server"), &c, &e) < 0)
		return cli_fail(&e);
	json_t *body = cli_attach_body(a, &status);
	if (!body)
		return status;
	pid_t self = getpid(), child = fork();
	if (child == 0) {
		if (fork() == 0) {
			unsetenv("LD_PRELOAD");
			_exit(attach_later(&c, self, body));
		}
		_exit(0);
	}
	if (child > 0)
		waitpid(child, NULL, 0);
	json_decref(body);
	return child < 0 ? CLI_USAGE : CLI_OK;
}

int cli_run(int argc, char **argv)
{
	struct cli_args a;
	struct err e;
	int status;
	char lib[PATH_MAX];
	if (cli_begin(argc, argv, &a, &status))
		return status;
	if (!find_library(lib)) {
		err_set(&e, KLIEG_E_NOT_FOUND, "libklieg.so is neither beside klieg nor in ../lib nor at $KLIEG_LIB");
		err_hint(&e, "KLIEG_LIB=/path/to/libklieg.so klieg run -- %s", a.pos[0]);
		cli_fail(&e);
		return CLI_USAGE;
	}
	const char *old = getenv("LD_PRELOAD"), *dir = cli_opt(&a, "dir"), *service = cli_opt(&a, "service");
	struct buf b = { 0 };
	buf_add_str(&b, lib);
	if (old && *old && !strstr(old, lib))
		buf_printf(&b, ":%s", old);
	buf_byte(&b, 0);
	setenv("LD_PRELOAD", (char *)b.p, 1);
	buf_finish(&b);
	if (dir)
		setenv("KLIEG_DIR", dir, 1);
	/* Otherwise library and agent agree by themselves: src/wire/wire.h has the rule. */
	const char *d = getenv("KLIEG_DIR");
	if (d && (dir || !getenv("KLIEG_SOCKET"))) {
		char full[PATH_MAX];
		if (realpath(d, full))
			setenv("KLIEG_DIR", d = full, 1);
		buf_printf(&b, "%s/agent.sock", d);
		buf_byte(&b, 0);
		setenv("KLIEG_SOCKET", (char *)b.p, 1);
		buf_finish(&b);
	}
	setenv("KLIEG_RUN", "1", 1); /* functions of a program without probes can be attached to at once */
	if (service)
		setenv("OTEL_SERVICE_NAME", service, 1);
	if (cli_flag(&a, "attach") && (status = leave_attacher(&a)) != CLI_OK)
		return status;
	if (!cli_flag(&a, "attach") && a.ngiven)
		for (int i = 0; i < a.ngiven; i++)
			if (strcmp(a.cmd->options[a.given[i].at].name, "service") && strcmp(a.cmd->options[a.given[i].at].name, "dir"))
				return cli_fail_usage(a.cmd, "--%s goes with --attach", a.cmd->options[a.given[i].at].name);
	execvp(a.pos[0], a.pos);
	int errnum = errno;
	err_set(&e, errnum == ENOENT ? KLIEG_E_NOT_FOUND : err_from_errno(errnum), "cannot run '%.200s': %s", a.pos[0], strerror(errnum));
	err_hint(&e, "klieg run -- PROGRAM ARGUMENTS...");
	cli_fail(&e);
	return errnum == ENOENT ? 127 : 126;  /* as a shell does */
}
