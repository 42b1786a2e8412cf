/* A traced process with all its threads stopped, for as short as can be. A world is used by one thread at a time.
 * Whatever goes wrong, every thread that was stopped goes on with the registers it had. x86-64; elsewhere KLIEG_E_UNSUPPORTED.
 * If we are killed while a world is stopped, the kernel lets its threads go on, each with the registers that it has then: so an instruction pointer
 * may only be set to code that is complete, and text be written after that. */
#pragma once
#include "base/err.h"
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct world;
struct world_thread {
	pid_t tid;
	uint64_t ip, sp;
	bool restarts;      /* it was in a system call, which starts again: the thread goes on at ip - 2, with the call's instruction */
};

/* Seizes and interrupts every thread of pid, the ones that come meanwhile too. KLIEG_E_LIMIT: they could not all be stopped within budget_ns (all
 * go on; the message says how many threads, how long). KLIEG_E_DENIED, KLIEG_E_NO_TARGET, KLIEG_E_CONFLICT (already traced, by whom). A signal that
 * was to be delivered meanwhile is not lost. A thread that waits in vfork stops only when its child has exec'd, so that no other process
 * runs in the memory of a stopped world. */
int world_stop(pid_t pid, int64_t budget_ns, struct world **ret_w, struct err *e);
uint32_t world_threads(const struct world *w, const struct world_thread **ret_t);
int world_set_ip(struct world *w, uint32_t thread, uint64_t ip);   /* at once */
/* A system call in one of the stopped threads, whose registers are put back. 0, and what the call returned (-errno on its failure), or KLIEG_E_*.
 * Seccomp filters are suspended for it. */
int world_syscall(struct world *w, long nr, const uint64_t args[6], uint64_t *ret_value, struct err *e);
int64_t world_elapsed(const struct world *w);   /* ns since the first thread was stopped */
/* All go on. Returns the whole pause in ns. w is gone. NULL is fine. */
int64_t world_resume(struct world *w);
