/* Between uprobe.c (which functions), kernel.c (the kernel's events), records.c (what they become) and inspect.c (what a
 * file allows). */
#pragma once
#include "uprobe/uprobe.h"
#include "wire/call.h"
#include "wire/wire.h"
#include <sys/stat.h>

#define PROBES_MAX 2048u         /* functions of one process at a time: two descriptors each, or three */

/* ---- kernel.c: BPF programs at uprobes write into one ring --------------------------------------------------------- */

struct kernel_event {
	uint64_t ns;                 /* CLOCK_MONOTONIC */
	uint64_t cfa;                /* the caller's stack pointer: the same at entry and at exit, lower in deeper calls */
	uint32_t tid;
	uint32_t what;               /* cookie, KERNEL_EXIT */
};
/* An event of which more is wanted (kernel_want). */
enum { KERNEL_WORDS = 16, KERNEL_TEXTS = 4, KERNEL_TEXT = 128 };
struct kernel_call {
	struct kernel_event ev;
	uint64_t word[KERNEL_WORDS]; /* at an entry: rdi rsi rdx rcx r8 r9, then those above the return address; at an exit: [0] = rax */
	int32_t text_len[KERNEL_TEXTS]; /* with its NUL; < 0: could not be read, or was not asked for */
	char text[KERNEL_TEXTS][KERNEL_TEXT];
};
#define KERNEL_EXIT 0x80000000u
#define KERNEL_PLACES 64u        /* of one probe */
#define KERNEL_LOST 4096u        /* counters of lost events, and what is wanted: by cookie % KERNEL_LOST */
/* Bits of what is wanted of a function's entries or exits. */
enum { KERNEL_WANT_WORDS = 1, KERNEL_WANT_TEXTS = 2, KERNEL_TEXT_SHIFT = 8 /* 4 bits for each text: its word, 15 = none */ };
_Static_assert(PROBES_MAX <= KERNEL_LOST, "a counter each");

/* Where a probe is: at a function's first instruction, where it has returned to (which replaces its return address), at its
 * return instructions, at its jumps to another function (where nothing is in the register for results yet). */
enum kernel_kind { KERNEL_AT_ENTRY, KERNEL_RETURNED, KERNEL_AT_RETURN, KERNEL_AT_JUMP, KERNEL_KINDS };
struct kernel {
	pid_t pid;
	int ring_fd, lost_fd, program[KERNEL_KINDS];
	bool multi;                  /* uprobe_multi links; else a perf event each */
	uint32_t perf_type;
	uint64_t perf_exit;          /* its config bit for return probes */
	uint64_t *taken;             /* the ring's consumer position, ours */
	const uint64_t *written;     /* and the kernel's */
	const uint8_t *data;         /* mapped twice in a row, so that no record wraps */
	uint32_t *lost;              /* [2 * KERNEL_LOST]: entries, exits */
	uint32_t *want;              /* likewise */
};
int kernel_open(struct kernel *k, pid_t pid, bool perf_events, struct err *e);
void kernel_close(struct kernel *k);
/* At n places of the file, all of one kind; more than one only where k->multi. Returns the descriptor that keeps them there. */
int kernel_attach(struct kernel *k, const char *file, const uint64_t *offsets, uint32_t n, enum kernel_kind kind, uint32_t cookie, struct err *e);
/* How much there is of the next event: 0 = there is none. */
enum kernel_got { KERNEL_NONE, KERNEL_EVENT, KERNEL_GOT_WORDS, KERNEL_GOT_TEXTS };
enum kernel_got kernel_next(struct kernel *k, struct kernel_call *ret_c);

/* uprobe.c: uprobe_open() that attaches as old kernels have to, if perf_events. */
int uprobe_open_as(pid_t pid, const char *socket, bool perf_events, struct uprobe **ret_u, struct err *e);

/* ---- records.c: the producer in the process's place ---------------------------------------------------------------- */

/* What is wanted of a function's calls beside their times. */
struct capture {
	uint8_t nargs, nwhere;
	uint8_t text[KW_HOOK_ARGS];  /* which of the event's texts is the argument's; KERNEL_TEXTS = none, it is a number */
	struct kw_arg args[KW_HOOK_ARGS];
	struct kw_where where[KW_HOOK_WHERE];
};
/* The word of an event that a value is in; KERNEL_WORDS: in none. */
static inline uint32_t capture_word(const struct kw_arg *a)
{
	return a->at == KW_ARG_RET ? 0 : a->at < 6 ? a->at : a->at >= 16 && a->at - 16u + 6u < KERNEL_WORDS ? a->at - 16u + 6u : KERNEL_WORDS;
}

struct records;
int records_open(pid_t pid, const char *socket, struct records **ret_r, struct err *e);
void records_close(struct records *r);
int records_memfd(const struct records *r);
/* root: a request begins with it. wanted: false, this call is not asked for. jumps_seen: there is an exit also when it jumps to another function at its end;
 * else it exits with that. */
struct records_how { bool root, wanted, jumps_seen; };
void records_enter(struct records *r, const struct kernel_call *c, enum kernel_got got, uint32_t site, const struct capture *what, struct records_how how);
/* false: no such call is open */
bool records_exit(struct records *r, const struct kernel_call *c, enum kernel_got got, uint32_t site, const struct capture *what);
void records_call(struct records *r, uint32_t tid, uint32_t site); /* entered; its end will never be known */
void records_lost(struct records *r, uint32_t site, uint32_t entries, uint32_t exits);
bool records_open_calls(const struct records *r, uint32_t site);
void records_sweep(struct records *r, bool all); /* threads that ended; called when no event of theirs can be left */
void records_clock(struct records *r);           /* compares the clocks, once a second */
int64_t records_clock_error(const struct records *r);

/* ---- inspect.c: files of others ------------------------------------------------------------------------------------ */

/* Why return probes would endanger a program that runs this code; NULL = they would not. text: static. by_exits: probes at its
 * return instructions would not. KLIEG_E_* if it is no such ELF file. */
struct inspect_why { const char *text; bool by_exits; };
int inspect_file(int fd, struct inspect_why *ret_why, struct err *e);
/* The same of the process itself: its kernel and its filters. */
const char *inspect_process(pid_t pid);
/* Does the process have these n bytes of the file at `offset` in its memory, executable and as they are, but for breakpoints
 * at the first one or behind `skip` of them? */
int inspect_mapped(pid_t pid, const struct stat *st, uint64_t offset, const uint8_t *bytes, size_t n, size_t skip,
	struct err *e);
