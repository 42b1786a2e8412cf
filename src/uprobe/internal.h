/* Between uprobe.c (which functions), kernel.c (the kernel's events), records.c (what they become) and inspect.c (what a
 * file allows). */
#pragma once
#include "uprobe/uprobe.h"
#include "wire/wire.h"
#include <sys/stat.h>

#define PROBES_MAX 2048u         /* functions of one process at a time: two descriptors each */

/* ---- kernel.c: BPF programs at uprobes write into one ring --------------------------------------------------------- */

struct kernel_event {
	uint64_t ns;                 /* CLOCK_MONOTONIC */
	uint64_t cfa;                /* the caller's stack pointer: the same at entry and at exit, lower in deeper calls */
	uint32_t tid;
	uint32_t what;               /* cookie, KERNEL_EXIT */
};
#define KERNEL_EXIT 0x80000000u
#define KERNEL_LOST 4096u        /* counters of lost events: by cookie % KERNEL_LOST */
_Static_assert(PROBES_MAX <= KERNEL_LOST, "a counter each");

struct kernel {
	pid_t pid;
	int ring_fd, lost_fd, enter_fd, exit_fd;
	bool multi;                  /* uprobe_multi links; else a perf event each */
	uint32_t perf_type;
	uint64_t perf_exit;          /* its config bit for return probes */
	uint64_t *taken;             /* the ring's consumer position, ours */
	const uint64_t *written;     /* and the kernel's */
	const uint8_t *data;         /* mapped twice in a row, so that no record wraps */
	uint32_t *lost;              /* [2 * KERNEL_LOST]: entries, exits */
};
int kernel_open(struct kernel *k, pid_t pid, bool perf_events, struct err *e);
void kernel_close(struct kernel *k);
/* Returns the descriptor that keeps it there. */
int kernel_attach(struct kernel *k, const char *file, uint64_t offset, bool at_exit, uint32_t cookie, struct err *e);
bool kernel_next(struct kernel *k, struct kernel_event *ret_ev);

/* uprobe.c: uprobe_open() that attaches as old kernels have to, if perf_events. */
int uprobe_open_as(pid_t pid, const char *socket, bool perf_events, struct uprobe **ret_u, struct err *e);

/* ---- records.c: the producer in the process's place ---------------------------------------------------------------- */

struct records;
int records_open(pid_t pid, const char *socket, struct records **ret_r, struct err *e);
void records_close(struct records *r);
int records_memfd(const struct records *r);
void records_enter(struct records *r, uint32_t tid, uint32_t site, uint64_t cfa, uint64_t ns, bool root);
bool records_exit(struct records *r, uint32_t tid, uint32_t site, uint64_t cfa, uint64_t ns); /* false: no such call is open */
void records_call(struct records *r, uint32_t tid, uint32_t site); /* entered; its end will never be known */
void records_lost(struct records *r, uint32_t site, uint32_t entries, uint32_t exits);
bool records_open_calls(const struct records *r, uint32_t site);
void records_sweep(struct records *r, bool all); /* threads that ended; called when no event of theirs can be left */
void records_clock(struct records *r);           /* compares the clocks, once a second */
int64_t records_clock_error(const struct records *r);

/* ---- inspect.c: files of others ------------------------------------------------------------------------------------ */

/* Why return probes would endanger a program that runs this code; NULL = they would not. ret_text: static. KLIEG_E_* if it
 * is no such ELF file. */
int inspect_file(int fd, const char **ret_why, struct err *e);
/* The same of the process itself: its kernel and its filters. */
const char *inspect_process(pid_t pid);
/* Does the process have these n bytes of the file at `offset` in its memory, executable and as they are, but for breakpoints
 * at the first one or behind `skip` of them? */
int inspect_mapped(pid_t pid, const struct stat *st, uint64_t offset, const uint8_t *bytes, size_t n, size_t skip,
	struct err *e);
