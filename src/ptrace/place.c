/* Finds a thread that may be borrowed to call pthread_create. It must be inside neither the allocator nor the loader, nor in a handler that interrupted
 * them. Two kinds of places are such:
 *   - a system call that neither of them makes, made from outside ld.so. Waiting threads are taken first: they cost the program nothing
 *   - code outside the C library, ld.so and whatever exports calloc: those never call back into a program while half done (but by signal handlers)
 * So a thread that computes is borrowed where it stands, and one that is somewhere else is followed to its next harmless system call. */
#include "ptrace/place.h"
#include "base/clock.h"
#include "ptrace/proc.h"
#include <dirent.h>
#include <errno.h>
#include <linux/futex.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>

enum { PARK_NS = 500000000, STEPS_NS = 20000000 };

/* The allocators call mmap, munmap, brk, madvise, sched_yield, getrandom and futex; the loader openat, read, pread64, mmap, mprotect, close. What of
 * it is listed here the loader makes by its own instructions, which is looked at too. */
static bool harmless(uint64_t nr, const uint64_t args[6], bool waits)
{
	switch (nr) {
	case SYS_futex: /* not a plain lock's wait (lll_lock waits for 2): that thread may be in the middle of malloc */
		return (args[1] & FUTEX_CMD_MASK) == FUTEX_WAIT_BITSET || ((args[1] & FUTEX_CMD_MASK) == FUTEX_WAIT && (uint32_t)args[2] != 2);
	case SYS_read: case SYS_readv: case SYS_recvfrom: case SYS_recvmsg: case SYS_accept: case SYS_accept4: case SYS_connect:
	case SYS_poll: case SYS_ppoll: case SYS_select: case SYS_pselect6: case SYS_epoll_wait: case SYS_epoll_pwait:
#ifdef SYS_epoll_pwait2
	case SYS_epoll_pwait2:
#endif
	case SYS_nanosleep: case SYS_clock_nanosleep: case SYS_pause: case SYS_wait4: case SYS_waitid: case SYS_rt_sigsuspend: case SYS_rt_sigtimedwait:
	case SYS_semop: case SYS_semtimedop: case SYS_msgrcv: case SYS_io_getevents: case SYS_flock: case SYS_restart_syscall:
	case SYS_write: case SYS_writev: case SYS_sendto: case SYS_sendmsg: case SYS_fsync: case SYS_fdatasync:
		return true;
	case SYS_pread64: case SYS_pwrite64: case SYS_lseek: case SYS_getpid: case SYS_gettid: case SYS_getppid: case SYS_getrusage: case SYS_times:
	case SYS_clock_gettime: case SYS_gettimeofday: case SYS_epoll_ctl: case SYS_fstat: case SYS_newfstatat: case SYS_stat: case SYS_ioctl: case SYS_kill:
		return !waits; /* these do not wait: good to stop a busy thread at, not worth looking for */
	}
	return false;
}

/* A live signal frame above the stack pointer: its return address is the end-of-handler code, and it says where the handler interrupted. */
static bool in_handler(const struct remote *r, const struct user_regs_struct *g)
{
	enum { DEPTH = 65536, UC_RSP = 40 + 15 * 8, UC_CS = 40 + 18 * 8 };
	uint8_t *stack = malloc(DEPTH);
	ssize_t n = stack ? pread(r->mem, stack, DEPTH, (off_t)(g->rsp & ~7ull)) : 0;
	bool found = false;
	for (ssize_t i = 0; !found && i + 8 + UC_CS + 8 <= n; i += 8) {
		uint64_t ret, rsp;
		uint16_t cs;
		memcpy(&ret, stack + i, 8);
		if (ret != r->code->sigreturn)
			continue;
		memcpy(&rsp, stack + i + 8 + UC_RSP, 8);
		memcpy(&cs, stack + i + 8 + UC_CS, 2);
		found = cs == g->cs && rsp;
	}
	free(stack);
	return found;
}

static bool safe(const struct remote *r, const struct libc *l, const struct user_regs_struct *g)
{
	const uint64_t args[6] = { g->rdi, g->rsi, g->rdx, g->r10, g->r8, g->r9 };
	return remote_in_syscall(r->mem, g) && harmless(g->orig_rax, args, false) && !(g->rip >= l->loader_start && g->rip < l->loader_end) && !in_handler(r, g);
}

static bool safe_code(const struct remote *r, const struct libc *l, const struct user_regs_struct *g)
{
	if ((int64_t)g->orig_rax >= 0 || l->delicate_n > LIBC_DELICATE)
		return false;
	for (uint32_t i = 0; i < l->delicate_n; i++)
		if (g->rip >= l->delicate[i].start && g->rip < l->delicate[i].end)
			return false;
	return !in_handler(r, g);
}

/* What a thread waits in, without stopping it; false if it runs, or that is not told. */
static bool waits_harmlessly(pid_t pid, pid_t tid)
{
	char name[64], text[256];
	unsigned long nr, a[6];
	snprintf(name, sizeof name, "task/%d/syscall", tid);
	if (proc_read(pid, name, text, sizeof text) <= 0 || sscanf(text, "%lu %lx %lx %lx %lx %lx %lx", &nr, &a[0], &a[1], &a[2], &a[3], &a[4], &a[5]) != 7)
		return false;
	const uint64_t args[6] = { a[0], a[1], a[2], a[3], a[4], a[5] };
	return harmless(nr, args, true);
}

static int take_waiting(struct remote *r, const struct libc *l, pid_t tid, int64_t *ret_since, struct err *e)
{
	struct user_regs_struct g;
	int code = remote_seize(r->pid, tid, e);
	if (code < 0)
		return code == KLIEG_E_NO_TARGET ? 0 : code;
	*ret_since = clock_mono();
	remote_interrupt(tid);
	code = remote_park(r->pid, tid, *ret_since + PARK_NS, e);
	if (code < 0)
		return 0; /* dying, or it hangs in the kernel: let go of when this tracer ends */
	r->tid = tid;
	if (ptrace(PTRACE_GETREGS, tid, 0, &g) == 0 && safe(r, l, &g)) {
		code = remote_borrow(r, false, e);
		if (!code)
			return 1;
		remote_return(r);
	}
	remote_detach(tid);
	return code == KLIEG_E_BUSY || code == KLIEG_E_NO_TARGET ? 0 : code;
}

/* Follows a busy thread from system call to system call for a moment. */
static int take_running(struct remote *r, const struct libc *l, pid_t tid, int64_t *ret_since, struct err *e)
{
	int code = remote_seize(r->pid, tid, e);
	if (code < 0)
		return code == KLIEG_E_NO_TARGET ? 0 : code;
	int64_t start = clock_mono();
	remote_interrupt(tid);
	if (remote_park(r->pid, tid, start + PARK_NS, e) < 0)
		return 0;
	r->tid = tid;
	int sig = 0;
	struct user_regs_struct at;
	if (ptrace(PTRACE_GETREGS, tid, 0, &at) == 0 && safe_code(r, l, &at)) {
		*ret_since = start;
		code = remote_borrow(r, false, e);
		if (!code)
			return 1;
		remote_return(r);
	}
	for (bool entry = true; clock_mono() - start < STEPS_NS;) {
		if (ptrace(PTRACE_SYSCALL, tid, 0, (void *)(long)sig) < 0)
			return 0;
		sig = 0;
		int stop = 0;
		bool dead;
		while (!remote_stopped(tid, &stop, &dead) && !dead && clock_mono() - start < STEPS_NS)
			remote_pause(start);
		if (dead)
			return 0;
		if (!stop)
			break;
		*ret_since = clock_mono();
		struct user_regs_struct g;
		if (stop != (SIGTRAP | 0x80)) {
			sig = stop >> 8 ? 0 : stop;
		} else if (entry && ptrace(PTRACE_GETREGS, tid, 0, &g) == 0 && safe(r, l, &g)) {
			code = remote_borrow(r, true, e);
			if (!code)
				return 1;
			remote_return(r);
			break;
		} else {
			entry = !entry;
		}
	}
	remote_interrupt(tid);
	int stop;
	bool dead;
	if (remote_stopped(tid, &stop, &dead)) /* what it stands at is no park: go on to one */
		ptrace(PTRACE_CONT, tid, 0, (void *)(long)(stop >> 8 || stop == (SIGTRAP | 0x80) ? 0 : stop));
	if (remote_park(r->pid, tid, clock_mono() + PARK_NS, NULL) == 0)
		remote_detach(tid);
	return code == KLIEG_E_BUSY || code == KLIEG_E_NO_TARGET ? 0 : code;
}

static uint32_t list_threads(pid_t pid, pid_t *ret_tids, uint32_t max)
{
	char path[64];
	uint32_t n = 0;
	snprintf(path, sizeof path, "/proc/%d/task", pid);
	DIR *dir = opendir(path);
	for (struct dirent *d; dir && n < max && (d = readdir(dir));)
		if (d->d_name[0] != '.')
			ret_tids[n++] = (pid_t)atoi(d->d_name);
	if (dir)
		closedir(dir);
	return n;
}

/* Threads that died while we had them stay listed, as zombies. */
static bool any_alive(pid_t pid, const pid_t *tids, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++) {
		char state = proc_state(pid, tids[i], NULL);
		if (state && state != 'Z' && state != 'X')
			return true;
	}
	return false;
}

int place_borrow(struct remote *r, const struct libc *l, int64_t deadline, int64_t *ret_since, struct err *e)
{
	enum { THREADS = 1024 };
	pid_t tids[THREADS];
	int64_t start = clock_mono();
	for (unsigned round = 0; clock_mono() < deadline; round++) {
		uint32_t n = list_threads(r->pid, tids, THREADS);
		for (uint32_t i = n; i-- > 0 && clock_mono() < deadline;) { /* the last ones first: helpers more often than those that serve */
			int got = 0;
			if (waits_harmlessly(r->pid, tids[i]))
				got = take_waiting(r, l, tids[i], ret_since, e);
			else if (round > 4 && (i & 7) == (round & 7)) /* nobody waits: one of the busy ones */
				got = take_running(r, l, tids[i], ret_since, e);
			if (got)
				return got < 0 ? got : 0;
		}
		if (!any_alive(r->pid, tids, n))
			return err_set(e, KLIEG_E_NO_TARGET, "process %d ended meanwhile", r->pid);
		remote_pause(round > 4 ? 0 : start);
	}
	err_set(e, KLIEG_E_BUSY, "process %d: no thread came to a place where it may be borrowed within %.3g s: all compute, or hold locks", r->pid,
		(double)(deadline - start) / 1e9);
	return err_hint(e, "nothing was changed; try again"), KLIEG_E_BUSY;
}

int64_t place_return(struct remote *r, int64_t since)
{
	remote_return(r);
	remote_detach(r->tid);
	return clock_mono() - since;
}
