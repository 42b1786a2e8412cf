/* One thread of a target under ptrace, and what can be done in it: system calls and function calls with the thread's own registers put back after.
 * x86-64. All of it from one thread, which is expected to end soon: whatever is still traced then is let go by the kernel, stopped or not.
 *
 * A thread is *parked* when it stands in a PTRACE_EVENT_STOP: nothing of its own is in flight, a signal that came was delivered, a system call
 * that it was in is restarted by the kernel when it is let go. It is *borrowed* between remote_borrow and remote_return: other registers
 * are in it, and signals wait. A borrowed thread whose tracer is killed goes back by itself: each foreign call returns into a
 * signal frame that holds the thread's own registers and signal mask, as if a signal handler had ended.
 *
 * What a program may notice of a tracer that is killed: a wait that was just interrupted ends with EINTR (epoll_wait, sigtimedwait and others that the kernel
 * does not restart), or starts over with its whole time; SIGURG in a thread of a program that handles it. A thread that uses a shadow stack (CET)
 * cannot go back by such a frame; the tracer's own way back does not need it. */
#pragma once
#include "base/err.h"
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/user.h>

/* Two short pieces of code that every target has somewhere: "syscall; ret", and the end of a signal handler. */
struct remote_code { uint64_t syscall_ret, sigreturn; };
int remote_code_find(pid_t pid, int mem, struct remote_code *ret_c, struct err *e);

enum { REMOTE_MARK = 23 /* SIGURG */, REMOTE_XSTATE_MAX = 16384, REMOTE_FRAME_MAX = REMOTE_XSTATE_MAX + 1024 };
struct remote {
	pid_t pid, tid;
	int mem;                         /* /proc/PID/mem, borrowed */
	const struct remote_code *code;
	struct user_regs_struct regs;    /* the thread's own */
	uint64_t mask;                   /* its signal mask */
	uint64_t frame;                  /* in the target: the way back */
	bool borrowed;
	bool deferred[65];               /* fault signals that somebody sent meanwhile */
	uint64_t run_code, run_n;        /* of remote_run */
	pid_t child;                     /* the thread that it started meanwhile, traced and stopped; 0 = none */
	uint32_t xstate_n;
	uint8_t xstate[REMOTE_XSTATE_MAX];
};

/* 0, KLIEG_E_NO_TARGET: it is gone or dying; KLIEG_E_DENIED; KLIEG_E_CONFLICT: already traced. */
int remote_seize(pid_t pid, pid_t tid, struct err *e);
/* True once it has stopped; *ret_stop is signal | event << 8. False: it runs, or with *ret_gone it is dead. */
bool remote_stopped(pid_t tid, int *ret_stop, bool *ret_gone);
void remote_interrupt(pid_t tid);
/* True if it has ended all the same: the kernel does not report a first thread while others are listed. Looks once a millisecond; *looked is when. */
bool remote_died_unseen(pid_t pid, pid_t tid, int64_t *looked);
/* One look at a thread that was interrupted: 1 parked, 0 not yet, KLIEG_E_NO_TARGET. */
int remote_park_poll(pid_t tid);
/* Until it is; then remote_restarts too. KLIEG_E_BUSY: it did not stop. */
int remote_park(pid_t pid, pid_t tid, int64_t deadline, struct err *e);
/* Makes the calling thread a good tracer: what it waits for takes microseconds, and a whole program may be standing still meanwhile. Both settings end
 * with the thread. */
void remote_tracer(const char *name);
void remote_pause(int64_t since);                                         /* gives the processor to others for a moment */
void remote_detach(pid_t tid);

/* Makes an interrupted system call of a parked thread start again where the kernel would have it fail with EINTR: nobody sent a signal.
 * True if it will start again: the thread goes on at regs->rip - 2. */
bool remote_restarts(pid_t tid, struct user_regs_struct *regs);
bool remote_in_syscall(int mem, const struct user_regs_struct *regs);     /* stopped right after a syscall instruction */

/* r->pid, tid, mem, code are set; the thread is parked, or at a system call's entry (at_entry: that call is undone and made again later). */
int remote_borrow(struct remote *r, bool at_entry, struct err *e);
/* ret_value: what the call returned, -errno on its failure. */
int remote_syscall(struct remote *r, long nr, const uint64_t args[6], uint64_t *ret_value, struct err *e);
/* Runs the code at start, which lies in code..code + code_n, with rdi = arg, on the stack that ends at stack_end, until it sends itself REMOTE_MARK by
 * tgkill; it must go on from there with rt_sigreturn on r->frame, for the case that nobody is there any more. The mark is a signal that is ignored by
 * default; it never reaches the program. KLIEG_E_BUSY: not done by the deadline. */
int remote_run(struct remote *r, uint64_t code, uint64_t code_n, uint64_t start, uint64_t arg, uint64_t stack_end, int64_t deadline, struct err *e);
/* Its own registers, state and signal mask; it stands still, and goes on as if nothing had been when it is let go. Errors (it died) need no handling.
 * Does nothing if it is not borrowed. */
void remote_return(struct remote *r);

int remote_read(int mem, uint64_t at, void *ret_p, size_t n);
int remote_write(int mem, uint64_t at, const void *p, size_t n);
