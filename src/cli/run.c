/* `klieg run -- CMD`: becomes CMD with libklieg preloaded. Nothing of this process is left, so the exit status is CMD's own. */
#include "cli/cli.h"
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
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
	execvp(a.pos[0], a.pos);
	int errnum = errno;
	err_set(&e, errnum == ENOENT ? KLIEG_E_NOT_FOUND : err_from_errno(errnum), "cannot run '%.200s': %s", a.pos[0], strerror(errnum));
	err_hint(&e, "klieg run -- PROGRAM ARGUMENTS...");
	cli_fail(&e);
	return errnum == ENOENT ? 127 : 126;  /* as a shell does */
}
