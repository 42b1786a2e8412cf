/* Borrows a thread of a traced process: stops it, runs system calls and functions with it, puts everything back. See remote.h for the words.
 * Runs on the tracer thread of world.c or inject.c; owns nothing but what struct remote holds.
 *
 * Why no breakpoint and no single step: both end in a SIGTRAP, which changes the disposition of a process that ignores or blocks it.
 * System call stops (PTRACE_SYSCALL) disturb nothing. Why stops are only peeked at (WNOWAIT): a signal whose stop was consumed is lost when
 * the tracer is killed, one that was peeked at is delivered; and an exit stays for the parent to see. */
#include "ptrace/remote.h"
#include "base/clock.h"
#include "base/priority.h"
#include "ptrace/proc.h"
#include <cpuid.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
	SYSCALL_STOP = SIGTRAP | 0x80,       /* by PTRACE_O_TRACESYSGOOD */
	CLONE_STOP = SIGTRAP | PTRACE_EVENT_CLONE << 8,
	ERESTARTSYS = 512, ERESTARTNOINTR, ERESTARTNOHAND, ERESTART_RESTARTBLOCK = 516, /* the kernel's own, never seen by programs */
	RED_ZONE = 128,
};
#define OPTIONS PTRACE_O_TRACESYSGOOD
_Static_assert(ERESTARTNOHAND == 514, "numbers of the kernel");

static int gone(const struct remote *r, struct err *e)
{
	return err_set(e, KLIEG_E_NO_TARGET, "process %d ended meanwhile", r->pid);
}

int remote_read(int mem, uint64_t at, void *ret_p, size_t n)
{
	return pread(mem, ret_p, n, (off_t)at) == (ssize_t)n ? 0 : KLIEG_E_IO;
}

int remote_write(int mem, uint64_t at, const void *p, size_t n)
{
	return pwrite(mem, p, n, (off_t)at) == (ssize_t)n ? 0 : KLIEG_E_IO;
}

/* ---- the two pieces of code ---- */

static const uint8_t call_bytes[] = { 0x0f, 0x05, 0xc3 }, back_bytes[] = { 0x48, 0xc7, 0xc0, SYS_rt_sigreturn, 0, 0, 0, 0x0f, 0x05 };

static bool find_in(int mem, const struct proc_map *m, struct remote_code *c)
{
	enum { CHUNK = 65536, OVERLAP = 16 };
	uint8_t *text = malloc(CHUNK);
	for (uint64_t at = m->start; text && at < m->end && !(c->syscall_ret && c->sigreturn); at += CHUNK - OVERLAP) {
		ssize_t n = pread(mem, text, m->end - at < CHUNK ? m->end - at : CHUNK, (off_t)at);
		if (n <= 0)
			break;
		const uint8_t *p;
		if (!c->syscall_ret && (p = memmem(text, (size_t)n, call_bytes, sizeof call_bytes)))
			c->syscall_ret = at + (uint64_t)(p - text);
		if (!c->sigreturn && (p = memmem(text, (size_t)n, back_bytes, sizeof back_bytes)))
			c->sigreturn = at + (uint64_t)(p - text);
	}
	free(text);
	return c->syscall_ret && c->sigreturn;
}

int remote_code_find(pid_t pid, int mem, struct remote_code *ret_c, struct err *e)
{
	struct remote_code c = { 0 };
	struct proc_map m;
	for (int others = 0; others < 2; others++) { /* the C library has both; a static program itself */
		FILE *maps = proc_maps_open(pid);
		if (!maps)
			return err_set(e, errno == EACCES ? KLIEG_E_DENIED : KLIEG_E_NO_TARGET, "process %d: reading its memory map: %s", pid, strerror(errno));
		bool done = false;
		while (!done && proc_maps_next(maps, &m))
			done = m.perms[2] == 'x' && m.path[0] == '/' && (strstr(m.path, "/libc.") == NULL) == others && find_in(mem, &m, &c);
		fclose(maps);
		if (done) {
			*ret_c = c;
			return 0;
		}
	}
	char any[64];
	if (proc_read(pid, "maps", any, sizeof any) <= 0)
		return err_set(e, KLIEG_E_NO_TARGET, "process %d ended meanwhile", pid);
	return err_set(e, KLIEG_E_UNSUPPORTED, "process %d has no code for system calls where Klieg looks for it (its executable and libraries)", pid);
}

static bool code_is_there(const struct remote *r)
{
	uint8_t call[sizeof call_bytes], back[sizeof back_bytes];
	return !remote_read(r->mem, r->code->syscall_ret, call, sizeof call) && !memcmp(call, call_bytes, sizeof call) &&
		!remote_read(r->mem, r->code->sigreturn, back, sizeof back) && !memcmp(back, back_bytes, sizeof back);
}

/* ---- stopping ---- */

int remote_seize(pid_t pid, pid_t tid, struct err *e)
{
	if (ptrace(PTRACE_SEIZE, tid, 0, (void *)OPTIONS) == 0)
		return 0;
	int error = errno;
	if (error == ESRCH)
		return err_set(e, KLIEG_E_NO_TARGET, "process %d is gone", pid);
	uint64_t flags = 0;
	char state = proc_state(pid, tid, &flags), text[4096], name[64];
	if (!state || state == 'Z' || state == 'X' || proc_is_kernels(flags))
		return err_set(e, KLIEG_E_NO_TARGET, "thread %d of process %d is gone", tid, pid);
	snprintf(name, sizeof name, "task/%d/status", tid);
	long tracer = proc_read(pid, name, text, sizeof text) > 0 ? proc_number(text, "TracerPid", 0) : 0;
	if (tracer == gettid())
		return 0; /* a thread that exec'd took over the tid of one that we had */
	char comm[32];
	if (tracer) {
		err_set(e, KLIEG_E_CONFLICT, "process %d is already traced by %s (pid %ld)", pid, proc_comm((pid_t)tracer, comm), tracer);
		return err_hint(e, "a process has one tracer at a time: end that debugger or profiler, then try again"), KLIEG_E_CONFLICT;
	}
	return err_set(e, KLIEG_E_DENIED, "tracing process %d: %s", pid, strerror(error));
}

bool remote_stopped(pid_t tid, int *ret_stop, bool *ret_gone)
{
	siginfo_t si = { 0 };
	*ret_gone = false;
	if (waitid(P_PID, (id_t)tid, &si, WSTOPPED | WEXITED | WNOHANG | WNOWAIT | __WALL) < 0) {
		*ret_gone = errno != EINTR;
		return false;
	}
	if (!si.si_pid)
		return false;
	if (si.si_code != CLD_TRAPPED && si.si_code != CLD_STOPPED) {
		*ret_gone = true;
		return false;
	}
	*ret_stop = si.si_status;
	return true;
}

void remote_interrupt(pid_t tid)
{
	ptrace(PTRACE_INTERRUPT, tid, 0, 0);
}

void remote_detach(pid_t tid)
{
	/* The kernel restarts a system call on its way through signal handling; this makes sure that the thread goes that way from wherever it stands. */
	ptrace(PTRACE_INTERRUPT, tid, 0, 0);
	ptrace(PTRACE_DETACH, tid, 0, 0);
}

void remote_tracer(const char *name)
{
	pthread_setname_np(pthread_self(), name);
	prctl(PR_SET_TIMERSLACK, 1);
	priority_urgent();
}

void remote_pause(int64_t since)
{
	int64_t waited = clock_mono() - since;
	if (waited < 50000)
		sched_yield(); /* the thread that is waited for may need this processor */
	else
		nanosleep(&(struct timespec){ .tv_nsec = waited < 2000000 ? 50000 : 100000 }, NULL);
}

int remote_park_poll(pid_t tid)
{
	int stop = 0;
	bool dead;
	if (!remote_stopped(tid, &stop, &dead))
		return dead ? KLIEG_E_NO_TARGET : 0;
	if (stop >> 8 == PTRACE_EVENT_STOP)
		return 1;
	/* A signal came first, or another stop. The kernel takes it as the trap that we asked for, so ask again; the signal is delivered now: its
	 * handler is entered, but runs no instruction before the next stop. */
	remote_interrupt(tid);
	ptrace(PTRACE_CONT, tid, 0, (void *)(long)(stop >> 8 || stop == SYSCALL_STOP ? 0 : stop));
	return 0;
}

static bool restarting(const struct user_regs_struct *regs)
{
	int64_t result = (int64_t)regs->rax;
	return (int64_t)regs->orig_rax >= 0 && (result == -ERESTARTSYS || result == -ERESTARTNOINTR || result == -ERESTARTNOHAND ||
		result == -ERESTART_RESTARTBLOCK);
}

/* Calls that end with EINTR on any wake-up, not only on a signal that has a handler (signal(7), "Interruption ... by stop signals", and sockets that
 * have a timeout). With ERESTARTNOHAND in its place the kernel makes EINTR of it if a handler runs, and calls again if none does. */
static bool eintr_without_signal(uint64_t nr)
{
	switch (nr) {
	case SYS_epoll_wait: case SYS_epoll_pwait: case SYS_rt_sigtimedwait: case SYS_semop: case SYS_semtimedop: case SYS_io_getevents:
	case SYS_read: case SYS_write: case SYS_readv: case SYS_writev: case SYS_recvfrom: case SYS_recvmsg: case SYS_sendto: case SYS_sendmsg:
	case SYS_accept: case SYS_accept4:
#ifdef SYS_epoll_pwait2
	case SYS_epoll_pwait2:
#endif
	case SYS_io_pgetevents:
		return true;
	}
	return false;
}

bool remote_restarts(pid_t tid, struct user_regs_struct *regs)
{
	if ((int64_t)regs->rax == -EINTR && (int64_t)regs->orig_rax >= 0 && eintr_without_signal(regs->orig_rax)) {
		struct user_regs_struct again = *regs;
		again.rax = (uint64_t)-(int64_t)ERESTARTNOHAND;
		if (ptrace(PTRACE_SETREGS, tid, 0, &again) == 0)
			*regs = again;
	}
	return restarting(regs);
}

bool remote_died_unseen(pid_t pid, pid_t tid, int64_t *looked)
{
	int64_t now = clock_mono();
	if (now - *looked < 1000000)
		return false;
	*looked = now;
	char state = proc_state(pid, tid, NULL);
	return !state || state == 'Z' || state == 'X';
}

int remote_park(pid_t pid, pid_t tid, int64_t deadline, struct err *e)
{
	int64_t since = clock_mono();
	for (int64_t looked = since;;) {
		int done = remote_park_poll(tid);
		if (done > 0) {
			struct user_regs_struct regs;
			if (ptrace(PTRACE_GETREGS, tid, 0, &regs) == 0)
				remote_restarts(tid, &regs);
			return 0;
		}
		if (done < 0 || remote_died_unseen(pid, tid, &looked))
			return err_set(e, KLIEG_E_NO_TARGET, "process %d ended meanwhile", pid);
		if (clock_mono() > deadline)
			return err_set(e, KLIEG_E_BUSY, "thread %d of process %d does not stop (state %c): it waits inside the kernel", tid, pid,
				proc_state(pid, tid, NULL));
		remote_pause(since);
	}
}

bool remote_in_syscall(int mem, const struct user_regs_struct *regs)
{
	uint8_t before[2];
	return (int64_t)regs->orig_rax >= 0 && !remote_read(mem, regs->rip - 2, before, 2) && before[0] == 0x0f && before[1] == 0x05;
}

/* ---- the way back ---- */

/* What the kernel pushes for a signal handler and takes back at its end (arch/x86/include/asm/sigframe.h, uapi/asm/sigcontext.h). */
struct frame {
	uint64_t ret;                        /* of the handler: to code that calls rt_sigreturn */
	uint64_t uc_flags, uc_link, ss_sp;
	uint32_t ss_flags, ss_pad;
	uint64_t ss_size;
	uint64_t r8, r9, r10, r11, r12, r13, r14, r15, rdi, rsi, rbp, rbx, rdx, rax, rcx, rsp, rip, eflags;
	uint16_t cs, gs, fs, ss;
	uint64_t err, trapno, oldmask, cr2, fpstate, reserved[8];
	uint64_t mask;
	uint8_t info[128];
};
_Static_assert(sizeof(struct frame) == 8 + 40 + 256 + 8 + 128, "the kernel's layout");
struct fpx { uint32_t magic1, extended_size; uint64_t features; uint32_t size, pad[7]; }; /* in bytes 464..511 of the state */

/* How much of an XSAVE image is worth keeping: AMX tiles, 8 KiB, only if in use. */
static uint32_t xstate_size(const uint8_t *xstate, uint32_t n, uint64_t *features)
{
	enum { TILES = 3 << 17, LEGACY = 576 };
	uint64_t in_use;
	memcpy(features, xstate + 464, 8);
	memcpy(&in_use, xstate + 512, 8);
	if (!(*features & TILES) || in_use & TILES)
		return n;
	uint32_t size = LEGACY;
	*features &= ~(uint64_t)TILES;
	for (unsigned i = 2; i < 63; i++) {
		unsigned bytes, offset, c, d;
		if (*features >> i & 1 && __get_cpuid_count(0xd, i, &bytes, &offset, &c, &d) && offset + bytes > size)
			size = offset + bytes;
	}
	return size < n ? size : n;
}

static int write_frame(struct remote *r, struct err *e)
{
	uint8_t image[REMOTE_FRAME_MAX] = { 0 };
	const struct user_regs_struct *g = &r->regs;
	uint64_t features = 0;
	uint32_t n = r->xstate_n > 512 ? xstate_size(r->xstate, r->xstate_n, &features) : r->xstate_n;
	uint64_t fp = (g->rsp - RED_ZONE - n - 4) & ~63ull, at = ((fp - sizeof(struct frame)) & ~15ull) - 8;
	if (at > g->rsp || fp + n + 4 - at > sizeof image)
		return err_set(e, KLIEG_E_BUSY, "thread %d stands at no usable stack", r->tid);
	struct frame f = { .ret = r->code->sigreturn, .uc_flags = (n > 512 ? 1 : 0) | 2 | 4, .ss_flags = 0x7f /* invalid: the alternate stack stays */,
		.r8 = g->r8, .r9 = g->r9, .r10 = g->r10, .r11 = g->r11, .r12 = g->r12, .r13 = g->r13, .r14 = g->r14, .r15 = g->r15, .rdi = g->rdi,
		.rsi = g->rsi, .rbp = g->rbp, .rbx = g->rbx, .rdx = g->rdx, .rax = g->rax, .rcx = g->rcx, .rsp = g->rsp, .rip = g->rip,
		.eflags = g->eflags, .cs = (uint16_t)g->cs, .ss = (uint16_t)g->ss, .fpstate = n ? fp : 0, .mask = r->mask };
	if (restarting(g)) {
		f.rip -= 2;
		f.rax = g->orig_rax;
	}
	memcpy(image, &f, sizeof f);
	uint8_t *x = image + (fp - at);
	memcpy(x, r->xstate, n);
	if (n > 512) {
		struct fpx sw = { 0x46505853, n + 4, features, n, { 0 } };
		memcpy(x + 464, &sw, sizeof sw);
		memcpy(x + n, &(uint32_t){ 0x46505845 }, 4);
	}
	if (remote_write(r->mem, at, image, fp + n + 4 - at))
		return err_set(e, KLIEG_E_BUSY, "thread %d stands at no usable stack", r->tid);
	r->frame = at;
	return 0;
}

/* ---- borrowing ---- */

/* A restartable sequence (rseq(2)) must not be left and entered again: go where the kernel would have it go. */
static void leave_rseq(struct remote *r)
{
	struct { uint64_t at; uint32_t size, signature, flags, pad; } conf;
	struct { uint32_t version, flags; uint64_t start, length, abort; } cs;
	uint64_t pointer;
	if (ptrace(PTRACE_GET_RSEQ_CONFIGURATION, r->tid, sizeof conf, &conf) == sizeof conf && conf.at && !remote_read(r->mem, conf.at + 8, &pointer, 8) &&
	    pointer && !remote_read(r->mem, pointer, &cs, sizeof cs) && r->regs.rip - cs.start < cs.length)
		r->regs.rip = cs.abort;
}

static uint64_t fault_signals(void)
{
	return 1ull << (SIGSEGV - 1) | 1ull << (SIGBUS - 1) | 1ull << (SIGILL - 1) | 1ull << (SIGFPE - 1) | 1ull << (SIGTRAP - 1) | 1ull << (SIGSYS - 1);
}

static bool is_fault(int sig)
{
	return sig > 0 && sig <= 64 && fault_signals() >> (sig - 1) & 1;
}

/* Goes on, by PTRACE_SYSCALL to the next entry or exit of a system call, by PTRACE_CONT to the mark of remote_run. */
static int go(struct remote *r, enum __ptrace_request how, int64_t deadline, struct err *e)
{
	int64_t since = clock_mono(), looked = since;
	for (int sig = 0;;) {
		if (ptrace(how, r->tid, 0, (void *)(long)sig) < 0)
			return gone(r, e);
		int stop = 0;
		bool dead;
		while (!remote_stopped(r->tid, &stop, &dead)) {
			if (dead || remote_died_unseen(r->pid, r->tid, &looked))
				return gone(r, e);
			if (clock_mono() > deadline)
				return err_set(e, KLIEG_E_BUSY, "thread %d of process %d blocks in what it was to do: a lock that it needs is held", r->tid, r->pid);
			remote_pause(since);
		}
		sig = 0;
		struct user_regs_struct g;
		if (stop == SYSCALL_STOP) {
			return 0;
		} else if (stop == CLONE_STOP) {
			unsigned long child = 0;
			ptrace(PTRACE_GETEVENTMSG, r->tid, 0, &child);
			r->child = (pid_t)child;
		} else if (stop == REMOTE_MARK && how == PTRACE_CONT && ptrace(PTRACE_GETREGS, r->tid, 0, &g) == 0 && g.orig_rax == SYS_tgkill &&
			   g.rip - r->run_code < r->run_n) {
			return 0;
		} else if (stop == REMOTE_MARK || is_fault(stop)) {
			siginfo_t si;
			if (ptrace(PTRACE_GETSIGINFO, r->tid, 0, &si) < 0)
				return gone(r, e);
			if (is_fault(stop) && si.si_code > 0) /* by the processor; what kill(2) sent is 0 or less, and waits */
				return err_set(e, KLIEG_E_INTERNAL, "process %d: the code run for Klieg in thread %d raised %s; undone", r->pid, r->tid, strsignal(stop));
			r->deferred[stop] = true;
		} else if (!(stop >> 8)) {
			sig = stop; /* SIGSTOP alone cannot be held back */
		}
	}
}

int remote_borrow(struct remote *r, bool at_entry, struct err *e)
{
	r->child = 0;
	if (!code_is_there(r))
		return err_set(e, KLIEG_E_BUSY, "process %d runs another program now", r->pid);
	memset(r->deferred, 0, sizeof r->deferred);
	/* Without the right to suspend filters a thread that has one cannot be borrowed: the filter might kill the process. */
	if (ptrace(PTRACE_SETOPTIONS, r->tid, 0, (void *)(long)(OPTIONS | PTRACE_O_SUSPEND_SECCOMP)) < 0) {
		char name[64], text[4096];
		snprintf(name, sizeof name, "task/%d/status", r->tid);
		if (errno == ESRCH)
			return gone(r, e);
		if (proc_read(r->pid, name, text, sizeof text) > 0 && proc_number(text, "Seccomp", 0))
			return err_set(e, KLIEG_E_DENIED, "process %d has a seccomp filter, which Klieg may not suspend for its own calls (CAP_SYS_ADMIN): %s", r->pid,
				strerror(errno));
	}
	if (ptrace(PTRACE_GETREGS, r->tid, 0, &r->regs) < 0)
		return gone(r, e);
	if (at_entry) {
		struct user_regs_struct skip = r->regs;
		skip.orig_rax = (uint64_t)-1;
		if (ptrace(PTRACE_SETREGS, r->tid, 0, &skip) < 0 || go(r, PTRACE_SYSCALL, clock_mono() + 1000000000, e) < 0)
			return gone(r, e);
		r->regs.rax = r->regs.orig_rax;
		r->regs.rip -= 2;
		r->regs.orig_rax = (uint64_t)-1;
		if (ptrace(PTRACE_SETREGS, r->tid, 0, &r->regs) < 0)
			return gone(r, e);
		remote_interrupt(r->tid);
		ptrace(PTRACE_CONT, r->tid, 0, 0);
		int code = remote_park(r->pid, r->tid, clock_mono() + 1000000000, e);
		if (code < 0)
			return code;
		/* A signal's handler may have been entered: the registers are that one's now. */
		if (ptrace(PTRACE_GETREGS, r->tid, 0, &r->regs) < 0)
			return gone(r, e);
	}
	remote_restarts(r->tid, &r->regs);
	leave_rseq(r);
	struct iovec x = { r->xstate, sizeof r->xstate };
	if (ptrace(PTRACE_GETREGSET, r->tid, NT_X86_XSTATE, &x) < 0) {
		x.iov_len = sizeof r->xstate;
		if (ptrace(PTRACE_GETREGSET, r->tid, NT_PRFPREG, &x) < 0)
			return gone(r, e);
	}
	r->xstate_n = (uint32_t)x.iov_len;
	if (ptrace(PTRACE_GETSIGMASK, r->tid, 8, &r->mask) < 0)
		return gone(r, e);
	int code = write_frame(r, e);
	if (code < 0)
		return code;
	/* From here the thread has foreign registers. The order keeps it safe from our death: first where it goes on (into the frame, which holds the
	 * mask), then the mask; in remote_return the other way round. */
	struct user_regs_struct away = r->regs;
	away.rip = r->code->sigreturn;
	away.rsp = r->frame + 8;
	away.orig_rax = (uint64_t)-1;
	uint64_t all = ~(fault_signals() | 1ull << (REMOTE_MARK - 1));
	if (ptrace(PTRACE_SETREGS, r->tid, 0, &away) < 0)
		return gone(r, e);
	r->borrowed = true;
	if (ptrace(PTRACE_SETSIGMASK, r->tid, 8, &all) < 0)
		return gone(r, e);
	return 0;
}

static struct user_regs_struct foreign(const struct remote *r, uint64_t rip, uint64_t rsp)
{
	enum { TRAP = 0x100, DIRECTION = 0x400, ALIGNMENT = 0x40000 };
	struct user_regs_struct g = r->regs;
	g.rip = rip;
	g.rsp = rsp;
	g.orig_rax = (uint64_t)-1;
	g.eflags &= ~(uint64_t)(TRAP | DIRECTION | ALIGNMENT);
	return g;
}

int remote_syscall(struct remote *r, long nr, const uint64_t args[6], uint64_t *ret_value, struct err *e)
{
	struct user_regs_struct g = foreign(r, r->code->syscall_ret, r->frame);
	g.rax = (uint64_t)nr;
	g.rdi = args[0];
	g.rsi = args[1];
	g.rdx = args[2];
	g.r10 = args[3];
	g.r8 = args[4];
	g.r9 = args[5];
	if (ptrace(PTRACE_SETREGS, r->tid, 0, &g) < 0)
		return gone(r, e);
	int64_t deadline = clock_mono() + 5000000000;
	int code = go(r, PTRACE_SYSCALL, deadline, e); /* its entry */
	if (!code)
		code = go(r, PTRACE_SYSCALL, deadline, e);
	if (code < 0)
		return code;
	if (ptrace(PTRACE_GETREGS, r->tid, 0, &g) < 0)
		return gone(r, e);
	*ret_value = g.rax;
	return 0;
}

int remote_run(struct remote *r, uint64_t code, uint64_t code_n, uint64_t start, uint64_t arg, uint64_t stack_end, int64_t deadline, struct err *e)
{
	struct user_regs_struct g = foreign(r, start, (stack_end & ~15ull) - 8); /* as after a call */
	g.rdi = arg;
	r->run_code = code;
	r->run_n = code_n;
	long options = OPTIONS | PTRACE_O_TRACECLONE;
	if (ptrace(PTRACE_SETOPTIONS, r->tid, 0, (void *)(options | PTRACE_O_SUSPEND_SECCOMP)) < 0)
		ptrace(PTRACE_SETOPTIONS, r->tid, 0, (void *)options);
	if (ptrace(PTRACE_SETREGS, r->tid, 0, &g) < 0)
		return gone(r, e);
	return go(r, PTRACE_CONT, deadline, e);
}

void remote_return(struct remote *r)
{
	if (!r->borrowed)
		return;
	r->borrowed = false;
	int64_t deadline = clock_mono() + 1000000000;
	int stop;
	bool dead;
	if (!remote_stopped(r->tid, &stop, &dead)) { /* it blocks in what it was to do */
		remote_interrupt(r->tid);
		if (remote_park(r->pid, r->tid, deadline, NULL) < 0)
			return;
	}
	struct iovec x = { r->xstate, r->xstate_n };
	ptrace(PTRACE_SETREGSET, r->tid, r->xstate_n > 512 ? NT_X86_XSTATE : NT_PRFPREG, &x);
	ptrace(PTRACE_SETSIGMASK, r->tid, 8, &r->mask);
	ptrace(PTRACE_SETREGS, r->tid, 0, &r->regs);
	ptrace(PTRACE_SETOPTIONS, r->tid, 0, (void *)(long)OPTIONS);
	for (int sig = 1; sig <= 64; sig++) {
		if (r->deferred[sig])
			syscall(SYS_tgkill, r->pid, r->tid, sig);
	}
}
