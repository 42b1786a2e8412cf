/* Functions of a process traced from outside, by kernel uprobes, where libklieg cannot be injected (static binaries, musl).
 * The kernel reports every entry and exit; here they become what libklieg would have written: a region (wire/wire.h) with a
 * slot per thread, spans nested, contexts, cells. The agent adopts the region's memfd and drains it like any other.
 *
 * Nothing is loaded into the process and nothing outlives us: the kernel takes every probe away when its descriptor is
 * closed, also when we are killed. What the kernel costs is not ours to choose, though: see uprobe_cost(). The clock is read
 * inside the kernel's two traps, so that a span begins some 0.3 us before its function does and ends 0.2 us after it; where the
 * first instruction is single-stepped, that comes in between too. Time stamps are CLOCK_MONOTONIC turned into ticks by a
 * mapping that is compared every second: within 0.1 us of the counter (uprobe_stats.clock_error_ns).
 *
 * One thread uses a struct uprobe (the agent's). Linux 5.15 and later, x86-64; elsewhere KLIEG_E_UNSUPPORTED. */
#pragma once
#include "base/err.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct uprobe;

/* Prepares the kernel's side and the region. socket: of the agent, as libklieg would have written it into the region.
 * Touches nothing of the process.
 * KLIEG_E_NO_TARGET, KLIEG_E_DENIED (no CAP_BPF, CAP_PERFMON or ptrace access), KLIEG_E_UNSUPPORTED (kernel, machine,
 * namespaces). */
int uprobe_open(pid_t pid, const char *socket, struct uprobe **ret_u, struct err *e);
void uprobe_close(struct uprobe *u); /* every probe away; what is in the rings stays readable through the memfd */
int uprobe_memfd(const struct uprobe *u); /* the region, sealed; uprobe's: dup() it */

/* Offsets in the file of all places at which a function is left: its return instructions, and its jumps to other functions (symbols_exits). */
struct uprobe_exits { const uint64_t *returns, *jumps; uint32_t nreturns, njumps; };
/* Whether uprobe_add() makes something of them: functions of this file must keep their return addresses (C++, Rust, signal handlers on stacks of their own). */
bool uprobe_wants_exits(struct uprobe *u, const char *file);

/* A probe at the function whose first instruction is at `offset` of that file. file: as this host sees it (/proc/PID/exe,
 * /proc/PID/root/..., /proc/PID/map_files/...); the process must have it mapped, with the very bytes that the file has
 * there. x: may be NULL, then not known.
 * root: a request begins here, so a trace of its own.
 * 0: entries and exits. 1: entries only, since return probes would endanger this program and probes at its exits are not possible: calls are
 * counted, at every level, nothing is timed; uprobe_note() says why. The level and the threshold of kw_site_state[site] are read when an event is
 * taken out of the kernel's ring: poll before they change. A site that is off costs the process as much as one that is on:
 * remove it.
 * KLIEG_E_UNSUPPORTED (with the reason: a 5-byte NOP, somebody else's jump, ...), KLIEG_E_CONFLICT (has one already),
 * KLIEG_E_LIMIT, KLIEG_E_DENIED. */
int uprobe_add(struct uprobe *u, const char *file, uint64_t offset, const struct uprobe_exits *x, uint32_t site, bool root, struct err *e);
/* What is recorded of its calls from now on: only those for which `where` holds; at level detail the values of args as attributes (of strings, the
 * first 127 bytes, where they can be read). None after uprobe_add(). KLIEG_E_UNSUPPORTED: a condition is on an argument beyond
 * the tenth stack word (nothing is changed); arguments there are left out. */
struct kw_arg;
struct kw_where;
int uprobe_capture(struct uprobe *u, uint32_t site, const struct kw_arg *args, uint32_t nargs, const struct kw_where *where, uint32_t nwhere, struct err *e);
const char *uprobe_note(const struct uprobe *u, uint32_t site); /* why only entries; NULL: not so. Static text. */
/* New calls are not seen from here on; those that are open may end for a second more. The kernel needs about 50 ms to take
 * one away: that is done on threads of our own, uprobe_pending() says how many are left. false: it has none. */
bool uprobe_remove(struct uprobe *u, uint32_t site);
uint32_t uprobe_pending(const struct uprobe *u);

/* Turns at most `budget` events of the kernel into records; returns how many. Drain the region between two calls:
 * UPROBE_BUDGET events never fill an empty ring. Also notices ended threads, and ends removals: call it at every tick,
 * whether or not there is something to read; and, once the process has ended, until it returns less than its budget. */
#define UPROBE_BUDGET 4096u
uint32_t uprobe_poll(struct uprobe *u, uint32_t budget);
/* Becomes readable when an eighth of the kernel's buffer is filled. Add it to epoll with EPOLLIN | EPOLLET: by level it is
 * readable whenever there is anything. */
int uprobe_fd(const struct uprobe *u);

struct uprobe_stats {
	uint64_t entries, exits; /* events taken */
	/* The kernel's buffer was full. The calls are in lost_full or lost_cells of some slot, or in lost_no_slot. */
	uint64_t lost_entries, lost_exits;
	uint64_t unmatched;      /* exits of calls that were entered before their probe was there, or while their site was off */
	int64_t clock_error_ns;  /* the time stamps' distance from the time stamp counter when they were last compared */
	const char *mechanism;   /* how probes are attached */
};
void uprobe_stats(const struct uprobe *u, struct uprobe_stats *ret_s);

/* What a call of a function that begins with these bytes will cost it, by what the kernel does with its first instruction.
 * As measured on Linux 6.18 in a virtual machine, where single steps are dear: on hardware they take 1 to 2 us. */
struct uprobe_cost {
	uint32_t entry_ns, both_ns;
	bool stepped;            /* the kernel lets the processor execute it alone and takes a second trap */
	uint8_t skip;            /* the probe goes behind an endbr64, a mere landing pad, if a push follows: that needs no stepping */
	const char *refusal;     /* never probed, and why; NULL = can be */
	const char *text;        /* a warning to show, "" = nothing to warn of */
};
struct uprobe_cost uprobe_cost(const uint8_t *bytes, size_t n);
