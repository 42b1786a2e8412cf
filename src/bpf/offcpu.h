/* When threads did not run: a BPF program at the kernel's sched_switch notes, of the threads that are followed, each interval from leaving a CPU to coming back.
 * It is there while a thread is followed, and runs at every switch of the host: for a thread that is not followed it looks into a table, and leaves.
 *
 * Wants CAP_BPF and CAP_PERFMON (or CAP_SYS_ADMIN), the first pid namespace, and a kernel that shows its types (5.12, CONFIG_DEBUG_INFO_BTF).
 * One thread uses a struct offcpu. */
#pragma once
#include "base/err.h"
#include <stdbool.h>
#include <stdint.h>

#define OFFCPU_THREADS 256u   /* followed at a time */
#define OFFCPU_KEPT 512u      /* intervals of a thread between two looks; what comes on top is lost, which is said */

struct offcpu;
struct offcpu_interval { int64_t out, in; }; /* CLOCK_MONOTONIC, ns */

/* KLIEG_E_DENIED, KLIEG_E_UNSUPPORTED: the reason is in e. Nothing runs in the kernel before the first thread is followed. */
int offcpu_open(struct offcpu **ret_s, struct err *e);
void offcpu_close(struct offcpu *s);

/* KLIEG_E_LIMIT: there are too many, or one whose number falls into the same place. */
int offcpu_follow(struct offcpu *s, uint32_t tid, uint32_t *ret_slot, struct err *e);
void offcpu_forget(struct offcpu *s, uint32_t slot);

/* The next interval of the thread, oldest first; false = there is none. *ret_lost: some before it are not known. */
bool offcpu_next(struct offcpu *s, uint32_t slot, struct offcpu_interval *ret_i, bool *ret_lost);
