/* Loads a shared object into a running process that knows nothing of it, and calls one of its functions there. Every failure leaves the process as it was.
 * Blocking (tens of milliseconds); one thread of the target is paused for a fraction of that, a few times; the others go on. Any thread of ours, one at
 * a time for a target. */
#pragma once
#include "base/err.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum inject_obstacle { INJECT_NONE, INJECT_GONE, INJECT_KERNEL_THREAD, INJECT_STATIC, INJECT_MUSL, INJECT_MACHINE, INJECT_TRACED, INJECT_SECCOMP,
	INJECT_NAMESPACE, INJECT_PERMISSION, INJECT_YAMA, INJECT_OLD_LIBC, INJECT_SELF, INJECT_ZOMBIE, INJECT_STOPPED };
struct inject_preflight {
	enum inject_obstacle obstacle;  /* INJECT_NONE: may be tried */
	bool seccomp, other_user, not_dumpable, chroot, mount_ns, pid_ns;
	uint32_t threads;
	char machine[16];               /* "x86_64" */
	char text[320];                 /* what, why, what next; "" if nothing is wrong */
};
/* Looks only: reads /proc, touches nothing. Returns 0 and the findings, or KLIEG_E_NO_TARGET. */
int inject_preflight(pid_t pid, struct inject_preflight *ret_p, struct err *e);
/* The error that an obstacle is; 0 for INJECT_NONE. */
int inject_refusal(const struct inject_preflight *p, struct err *e);

struct inject_report {
	int64_t pause_ns, pauses_ns;    /* the longest pause of the thread that was borrowed; all (two) together */
	int64_t load_ns;                /* from the first touch to the end */
	pid_t tid;                      /* the thread that was borrowed */
	uint64_t value;
	bool reused;                    /* a library with the same content was there already, and its function was called */
};

/* file: path on this host, copied into a memfd of the target. symbol: called on a fresh thread of the target as uint64_t symbol(const void *arg), where
 * arg points to a copy of the arg_n bytes given (NULL if arg_n is 0; arg_n <= 4096; gone after the call), or, with arg_n = SIZE_MAX, is the address
 * `arg` itself in the target. ret_r->value is its result. That thread has all signals blocked that could run a handler of the program, and
 * 1 MiB of stack. The message says in words why it failed: obstacle, what dlopen said, symbol missing, crashed, target died. */
int inject_load(pid_t pid, const char *file, const char *symbol, const void *arg, size_t arg_n, struct inject_report *ret_r, struct err *e);
