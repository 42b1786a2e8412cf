/* Stops a whole process and lets it go on. The caller's requests are carried out by a tracer thread that lives as long as the world: ptrace is bound
 * to the thread that seized, and the kernel lets go of a thread that does not stop (it hangs in the kernel, frozen, or in vfork) only when
 * its tracer ends. So every way out of here ends that thread, and nothing stays traced.
 *
 * Threads are seized first, while they run; the pause begins with the first interrupt. A listing of the process that shows no new thread
 * while all are stopped ends the search, since only running threads make threads. */
#include "ptrace/world.h"
#include "base/buf.h"
#include "base/clock.h"
#include "base/priority.h"
#include "ptrace/proc.h"
#include "ptrace/remote.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <unistd.h>

enum thread_state { RUNNING, STOPPED, GONE };
struct world {
	pid_t pid;
	int mem;
	int64_t budget, started, ended;
	struct remote_code code;
	int no_code;                         /* why there is none, told when it is asked for */
	struct err no_code_why;

	struct world_thread *threads;        /* while gathering, all that were seized; then the stopped ones */
	enum thread_state *states;
	uint32_t n, cap, kernels;

	struct priority caller;              /* of the thread that asks, while it keeps others waiting */
	pthread_t tracer;
	sem_t asked, answered;
	enum { ASK_RESUME, ASK_SET_IP, ASK_SYSCALL } ask;
	uint32_t thread;
	uint64_t ip;
	long nr;
	const uint64_t *args;
	uint64_t value;
	int result;
	struct err *e;
};

/* ---- the tracer thread ---- */

static bool known(const struct world *w, pid_t tid, uint32_t *hint)
{
	if (*hint < w->n && w->threads[*hint].tid == tid && w->states[*hint] != GONE)
		return ++*hint; /* they are listed in the order in which they were the last time */
	for (uint32_t i = 0; i < w->n; i++)
		if (w->threads[i].tid == tid && w->states[i] != GONE)
			return (*hint = i + 1) > 0;
	return false;
}

static void add(struct world *w, pid_t tid)
{
	if (w->n == w->cap) {
		w->cap = w->cap ? w->cap * 2 : 64;
		w->threads = base_realloc(w->threads, w->cap * sizeof *w->threads);
		w->states = base_realloc(w->states, w->cap * sizeof *w->states);
	}
	w->threads[w->n] = (struct world_thread){ .tid = tid };
	w->states[w->n++] = RUNNING;
}

/* Seizes what is listed and new. Returns how many, or KLIEG_E_*. *ret_listed: how many the process has by its own count. */
static int seize_new(struct world *w, uint32_t *ret_listed)
{
	char path[64];
	snprintf(path, sizeof path, "/proc/%d/task", w->pid);
	DIR *dir = opendir(path);
	if (!dir)
		return err_set(w->e, KLIEG_E_NO_TARGET, "process %d is gone", w->pid);
	int added = 0;
	uint32_t listed = 0, hint = 0;
	w->kernels = 0;
	for (struct dirent *d; (d = readdir(dir));) {
		pid_t tid = (pid_t)atoi(d->d_name);
		listed += tid > 0;
		if (tid <= 0 || known(w, tid, &hint))
			continue;
		struct err why;
		int code = remote_seize(w->pid, tid, &why);
		if (!code) {
			add(w, tid);
			added++;
		} else if (code == KLIEG_E_NO_TARGET) {
			w->kernels++; /* dead, or a kernel's worker: runs none of the program's code */
		} else {
			closedir(dir);
			if (w->e)
				*w->e = why;
			return code;
		}
	}
	closedir(dir);
	struct stat st;
	*ret_listed = stat(path, &st) == 0 && st.st_nlink > 2 ? (uint32_t)st.st_nlink - 2 : listed;
	return added;
}

static uint32_t count(const struct world *w, enum thread_state s)
{
	uint32_t n = 0;
	for (uint32_t i = 0; i < w->n; i++)
		n += w->states[i] == s;
	return n;
}

/* Until all that were seized stand still, or the time is up. */
static void wait_all(struct world *w)
{
	int64_t looked = clock_mono();
	for (uint32_t first = 0;;) {
		while (first < w->n && w->states[first] != RUNNING)
			first++;
		if (first == w->n)
			return;
		bool moved = false;
		for (uint32_t i = first; i < w->n; i++) {
			if (w->states[i] != RUNNING)
				continue;
			int done = remote_park_poll(w->threads[i].tid);
			if (!done && i > first + 8 && !moved)
				break; /* they stop about in the order in which they were asked */
			if (done)
				w->states[i] = done > 0 ? STOPPED : GONE;
			moved |= done != 0;
		}
		if (!moved && remote_died_unseen(w->pid, w->threads[first].tid, &looked))
			w->states[first] = GONE;
		if (clock_mono() - w->started > w->budget)
			return; /* over_budget says how many still run */
		if (!moved)
			remote_pause(w->started);
	}
}

static int over_budget(struct world *w)
{
	if (clock_mono() - w->started <= w->budget)
		return 0;
	if (count(w, GONE) == w->n)
		return err_set(w->e, KLIEG_E_NO_TARGET, "process %d ended meanwhile", w->pid);
	err_set(w->e, KLIEG_E_LIMIT, "process %d: within %.3g ms only %u of %u threads were known to have stopped; all go on", w->pid, (double)w->budget / 1e6,
		count(w, STOPPED), w->n - count(w, GONE));
	return err_hint(w->e, "allow a longer pause, or try again at a quieter time; a thread that waits in the kernel (state D, vfork) cannot be stopped"),
		KLIEG_E_LIMIT;
}

static int gather(struct world *w)
{
	uint32_t listed;
	for (int rounds = 0; rounds < 4; rounds++) { /* most of them while they run */
		int fresh = seize_new(w, &listed);
		if (fresh < 0)
			return fresh;
		if (!fresh)
			break;
	}
	w->started = clock_mono();
	for (uint32_t asked = 0, odd = 0;;) {
		for (; asked < w->n; asked++)
			remote_interrupt(w->threads[asked].tid);
		wait_all(w);
		int fresh = over_budget(w);
		if (!fresh)
			fresh = seize_new(w, &listed);
		if (fresh < 0)
			return fresh;
		/* A listing made while threads end may skip one: the count must agree too. */
		if (!fresh && (count(w, STOPPED) + w->kernels == listed || ++odd > 3))
			return over_budget(w);
	}
}

/* Drops those that ended, reads where the others stand. */
static int look(struct world *w)
{
	uint32_t n = 0;
	for (uint32_t i = 0; i < w->n; i++) {
		struct user_regs_struct regs;
		if (w->states[i] == RUNNING) { /* there were too many of them */
			w->states[n] = RUNNING;
			w->threads[n++] = w->threads[i];
			continue;
		}
		if (w->states[i] != STOPPED || ptrace(PTRACE_GETREGS, w->threads[i].tid, 0, &regs) < 0)
			continue;
		bool restarts = remote_restarts(w->threads[i].tid, &regs);
		w->threads[n] = (struct world_thread){ .tid = w->threads[i].tid, .ip = regs.rip, .sp = regs.rsp, .restarts = restarts };
		w->states[n++] = STOPPED;
	}
	w->n = n;
	return n ? 0 : err_set(w->e, KLIEG_E_NO_TARGET, "process %d ended meanwhile", w->pid);
}

static int set_ip(struct world *w)
{
	struct user_regs_struct regs;
	struct world_thread *t = &w->threads[w->thread];
	if (ptrace(PTRACE_GETREGS, t->tid, 0, &regs) < 0)
		return KLIEG_E_NO_TARGET;
	regs.rip = w->ip;
	if (ptrace(PTRACE_SETREGS, t->tid, 0, &regs) < 0)
		return KLIEG_E_NO_TARGET;
	t->ip = w->ip;
	return 0;
}

/* In a thread that waits in a system call if there is one: it stands at no delicate place. */
static int remote_call(struct world *w)
{
	if (w->no_code) {
		if (w->e)
			*w->e = w->no_code_why;
		return w->no_code;
	}
	uint32_t pick = 0;
	while (pick < w->n && !w->threads[pick].restarts)
		pick++;
	struct remote *r = base_calloc(1, sizeof *r);
	*r = (struct remote){ .pid = w->pid, .tid = w->threads[pick < w->n ? pick : 0].tid, .mem = w->mem, .code = &w->code };
	int code = remote_borrow(r, false, w->e);
	if (!code)
		code = remote_syscall(r, w->nr, w->args, &w->value, w->e);
	remote_return(r);
	free(r);
	return code;
}

/* Those that had not stopped in time stop a little later, and go on at once. What is not seen here is let go when this thread ends. */
static void release_late(struct world *w)
{
	enum { LATE_NS = 100000000 };
	for (int64_t since = clock_mono(); count(w, RUNNING) && clock_mono() - since < LATE_NS; remote_pause(since)) {
		for (uint32_t i = 0; i < w->n; i++) {
			struct user_regs_struct regs;
			int done = w->states[i] == RUNNING ? remote_park_poll(w->threads[i].tid) : 0;
			if (done > 0 && ptrace(PTRACE_GETREGS, w->threads[i].tid, 0, &regs) == 0)
				remote_restarts(w->threads[i].tid, &regs);
			if (done > 0)
				remote_detach(w->threads[i].tid);
			if (done)
				w->states[i] = GONE;
		}
	}
}

static void release(struct world *w)
{
	for (uint32_t i = 0; i < w->n; i++)
		if (w->states[i] == STOPPED)
			remote_detach(w->threads[i].tid);
	w->ended = clock_mono();
}

static void *tracer_main(void *arg)
{
	struct world *w = arg;
	remote_tracer("klieg-world");
	w->result = gather(w);
	if (!w->result)
		w->result = look(w);
	bool open = !w->result;
	if (!open) {
		struct err *e = w->e;
		w->e = NULL;
		look(w);
		release(w);
		release_late(w);
		w->e = e;
	}
	while (open) {
		sem_post(&w->answered);
		while (sem_wait(&w->asked)) {
		}
		switch (w->ask) {
		case ASK_SET_IP:
			w->result = set_ip(w);
			break;
		case ASK_SYSCALL:
			w->result = remote_call(w);
			break;
		case ASK_RESUME:
			release(w);
			open = false;
		}
	}
	sem_post(&w->answered);
	return NULL;
}

/* ---- the caller's side ---- */

static int ask(struct world *w)
{
	sem_post(&w->asked);
	while (sem_wait(&w->answered)) {
	}
	return w->result;
}

static void destroy(struct world *w)
{
	pthread_join(w->tracer, NULL);
	priority_restore(w->caller);
	sem_destroy(&w->asked);
	sem_destroy(&w->answered);
	close(w->mem);
	free(w->threads);
	free(w->states);
	free(w);
}

int world_stop(pid_t pid, int64_t budget_ns, struct world **ret_w, struct err *e)
{
	char path[64];
	if (pid == getpid())
		return err_set(e, KLIEG_E_CONFLICT, "process %d is Klieg itself", pid);
	snprintf(path, sizeof path, "/proc/%d/mem", pid);
	int mem = open(path, O_RDWR | O_CLOEXEC);
	if (mem < 0)
		return err_set(e, errno == ENOENT || errno == ESRCH ? KLIEG_E_NO_TARGET : KLIEG_E_DENIED, "process %d: opening its memory: %s", pid, strerror(errno));
	struct world *w = base_calloc(1, sizeof *w);
	w->pid = pid;
	w->mem = mem;
	w->budget = budget_ns;
	w->e = e;
	w->no_code = remote_code_find(pid, mem, &w->code, &w->no_code_why);
	w->caller = priority_urgent();
	sem_init(&w->asked, 0, 0);
	sem_init(&w->answered, 0, 0);
	sigset_t all, before;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	int error = pthread_create(&w->tracer, NULL, tracer_main, w);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (error) {
		priority_restore(w->caller);
		close(mem);
		free(w);
		return err_set(e, KLIEG_E_NOMEM, "starting a tracer thread: %s", strerror(error));
	}
	while (sem_wait(&w->answered)) {
	}
	if (w->result < 0) {
		int code = w->result;
		destroy(w);
		return code;
	}
	*ret_w = w;
	return 0;
}

uint32_t world_threads(const struct world *w, const struct world_thread **ret_t)
{
	*ret_t = w->threads;
	return w->n;
}

int world_set_ip(struct world *w, uint32_t thread, uint64_t ip)
{
	if (thread >= w->n)
		return KLIEG_E_USAGE;
	w->ask = ASK_SET_IP;
	w->thread = thread;
	w->ip = ip;
	return ask(w);
}

int world_syscall(struct world *w, long nr, const uint64_t args[6], uint64_t *ret_value, struct err *e)
{
	w->ask = ASK_SYSCALL;
	w->nr = nr;
	w->args = args;
	w->e = e;
	int code = ask(w);
	if (!code)
		*ret_value = w->value;
	return code;
}

int64_t world_elapsed(const struct world *w)
{
	return clock_mono() - w->started;
}

int64_t world_resume(struct world *w)
{
	if (!w)
		return 0;
	w->ask = ASK_RESUME;
	ask(w);
	int64_t pause = w->ended - w->started;
	destroy(w);
	return pause;
}
