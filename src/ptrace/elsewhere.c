/* Machines other than x86-64: the same functions, each with the same clear answer. */
#include "ptrace/inject.h"
#include "ptrace/world.h"
#include <stdio.h>

static int unsupported(struct err *e)
{
	return err_set(e, KLIEG_E_UNSUPPORTED, "attaching to a running process is not supported on this machine; it is on x86-64");
}

int world_stop(pid_t pid, int64_t budget_ns, struct world **ret_w, struct err *e)
{
	return unsupported(e);
}

uint32_t world_threads(const struct world *w, const struct world_thread **ret_t)
{
	*ret_t = NULL;
	return 0;
}

int world_set_ip(struct world *w, uint32_t thread, uint64_t ip)
{
	return KLIEG_E_UNSUPPORTED;
}

int world_syscall(struct world *w, long nr, const uint64_t args[6], uint64_t *ret_value, struct err *e)
{
	return unsupported(e);
}

int64_t world_elapsed(const struct world *w)
{
	return 0;
}

int64_t world_resume(struct world *w)
{
	return 0;
}

int inject_preflight(pid_t pid, struct inject_preflight *ret_p, struct err *e)
{
	struct inject_preflight p = { .obstacle = INJECT_MACHINE };
	snprintf(p.text, sizeof p.text, "attaching to a running process is not supported on this machine; it is on x86-64");
	*ret_p = p;
	return 0;
}

int inject_refusal(const struct inject_preflight *p, struct err *e)
{
	return p->obstacle ? unsupported(e) : 0;
}

int inject_load(pid_t pid, const char *file, const char *symbol, const void *arg, size_t arg_n, struct inject_report *ret_r, struct err *e)
{
	return unsupported(e);
}
