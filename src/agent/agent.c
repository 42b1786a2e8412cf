/* The agent's thread: accepts handshakes, drains rings in slices, answers requests in between, ticks once a second (clock, leases, TTLs,
 * deaths by exec). A second thread sleeps in futex_waitv on the wake words of all processes and pokes an eventfd; it owns nothing. */
#include "agent/state.h"
#include "uprobe/uprobe.h"
#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <linux/futex.h>
#include <unistd.h>

#ifndef SYS_futex_waitv
#define SYS_futex_waitv 449
#endif

void agent_wake_words(struct agent *a)
{
	pthread_mutex_lock(&a->lock);
	a->nwake = 0;
	for (uint32_t i = 0; i < a->nprocs && a->nwake < 127; i++)
		if (a->procs[i]->map)
			a->wake_words[a->nwake++] = &a->procs[i]->control->wake;
	atomic_fetch_add(&a->wake_gen, 1);
	pthread_mutex_unlock(&a->lock);
	syscall(SYS_futex, &a->wake_gen, FUTEX_WAKE, 1, NULL, NULL, 0);
}

struct waitv { uint64_t val, uaddr; uint32_t flags, reserved; };

static void *waker(void *arg)
{
	struct agent *a = arg;
	struct waitv w[128];
	uint32_t seen[128] = { 0 }, gen = UINT32_MAX;
	while (!a->waker_stop) {
		uint32_t n = 0;
		bool moved = false;
		pthread_mutex_lock(&a->lock); /* the words stay mapped while we hold it; the kernel checks addresses itself */
		uint32_t now_gen = atomic_load(&a->wake_gen);
		w[n++] = (struct waitv){ now_gen, (uint64_t)(uintptr_t)&a->wake_gen, 2 /* FUTEX2_SIZE_U32 */, 0 };
		for (uint32_t i = 0; i < a->nwake; i++) {
			uint32_t v = __atomic_load_n(a->wake_words[i], __ATOMIC_ACQUIRE);
			moved |= gen != now_gen || v != seen[i];
			seen[i] = v;
			w[n++] = (struct waitv){ v, (uint64_t)(uintptr_t)a->wake_words[i], 2, 0 };
		}
		gen = now_gen;
		pthread_mutex_unlock(&a->lock);
		uint64_t one = 1;
		if (moved && write(a->wake_fd, &one, sizeof one) < 0 && errno != EAGAIN)
			break;
		struct timespec until;
		clock_gettime(CLOCK_MONOTONIC, &until);
		until.tv_sec += 1;
		if (syscall(SYS_futex_waitv, w, n, 0, &until, CLOCK_MONOTONIC) < 0 && errno == ENOSYS)
			break; /* an old kernel: the thread's poll is all there is */
	}
	return NULL;
}

static void set_waiting(struct agent *a, uint32_t v)
{
	for (uint32_t i = 0; i < a->nprocs; i++)
		if (a->procs[i]->map)
			__atomic_store_n(&a->procs[i]->control->waiting, v, __ATOMIC_SEQ_CST);
}

static void refresh(struct agent *a)
{
	for (uint32_t i = 0; i < a->nprocs; i++) {
		struct process *p = a->procs[i];
		if (p->map && __atomic_load_n(&p->control->forks, __ATOMIC_ACQUIRE) != p->forks) {
			p->forks = __atomic_load_n(&p->control->forks, __ATOMIC_ACQUIRE);
			discover_children(p);
			p = a->procs[i];
		}
		if (p->map && sites_refresh(p)) {
			grants_make(a, p);
			rules_apply(a);
			agent_emit(a, "sites", json_pack("{s:i,s:s,s:i}", "pid", (int)p->pid, "service", p->service, "sites", (int)p->sites_alive));
		}
	}
}

static void forget(struct agent *a)
{
	int64_t now = clock_wall();
	for (uint32_t i = a->nprocs; i-- > 0;) {
		struct process *p = a->procs[i];
		if (!p->exited_ns || now - p->exited_ns < EXITED_KEEP)
			continue;
		for (size_t k = 0; k < sizeof p->c / 8; k++) /* its account stays in the sums */
			((uint64_t *)&a->gone)[k] += ((uint64_t *)&p->c)[k];
		a->procs[i] = a->procs[--a->nprocs];
		process_destroy(p);
	}
}

static void second(struct agent *a)
{
	int64_t now = clock_mono(), cpu = clock_of(CLOCK_THREAD_CPUTIME_ID);
	if (a->cpu_at)
		a->cpu_percent = (double)(cpu - a->cpu_ns) * 100 / (double)(now - a->cpu_at);
	a->cpu_at = now;
	a->cpu_ns = cpu;
	clock_map_fit(&a->clock);
	for (uint32_t i = 0; i < a->nprocs; i++) {
		struct process *p = a->procs[i];
		if (!p->map)
			continue;
		if (!process_alive(p)) {
			process_exited(p);
			continue;
		}
		process_lease(p, a->cfg.lease_ns);
		if (p->fns && p->fns->retry)
			hooks_apply(p);
		cells_read(p);
	}
	if (rules_expire(a) | rules_narrow(a))
		rules_apply(a);
	forget(a);
}

static void dead(struct agent *a, uint32_t pidfd)
{
	for (uint32_t i = 0; i < a->nprocs; i++)
		if (a->procs[i]->map && a->procs[i]->pidfd == (int)pidfd)
			process_exited(a->procs[i]);
}

/* Its events are taken at every turn anyway; being readable has woken us. */
static bool is_uprobe(const struct agent *a, int fd)
{
	for (uint32_t i = 0; i < a->nprocs; i++)
		if (a->procs[i]->uprobe && uprobe_fd(a->procs[i]->uprobe) == fd)
			return true;
	return false;
}

static void *loop(void *arg)
{
	struct agent *a = arg;
	discover(a);
	while (!a->stop) {
		uint32_t n = 0;
		bool due = false;
		for (uint32_t i = 0; i < a->nprocs; i++) {
			if (a->procs[i]->uprobe && a->procs[i]->map)
				n += uprobe_poll(a->procs[i]->uprobe, UPROBE_BUDGET);
			n += drain_process(a->procs[i], 8192);
			if (a->procs[i]->ends_due) {
				patch_ends(a->procs[i], false);
				due = true;
			}
		}
		int64_t now = clock_mono();
		if ((a->batch && now - a->batch_since >= a->cfg.flush_ns) || a->spool)
			drain_flush(a);
		priority_pace(&a->pace, now);
		if (now >= a->next_second) {
			second(a);
			a->next_second = now + SECOND;
		}
		if (now >= a->next_tick) {
			governor_tick(a);
			triggers_tick(a);
			rate_tick(a);
		}
		control_waiting(a);
		watch_tick(a);
		if (a->dirty)
			rules_apply(a);
		int timeout = n ? 0 : due || a->batch ? 10 : a->nrules || a->waiting ? 20 : 200;
		if (a->next_expiry) { /* a TTL ends on time */
			int64_t left = (a->next_expiry - clock_mono()) / 1000000 + 1;
			if (left < timeout)
				timeout = left < 0 ? 0 : (int)left;
			if (left <= 0)
				a->next_second = 0;
		}
		int64_t tick = (a->next_tick - clock_mono()) / 1000000 + 1;
		if (a->nrules && tick < timeout)
			timeout = tick < 0 ? 0 : (int)tick;
		if (timeout)
			set_waiting(a, 1);
		struct epoll_event ev[32];
		int k = epoll_wait(a->epfd, ev, 32, timeout);
		if (timeout)
			set_waiting(a, 0);
		for (int i = 0; i < k; i++) {
			int fd = (int)ev[i].data.u64;
			uint64_t x;
			if (fd == a->listen_fd)
				hello_accept(a);
			else if (fd == a->request_fd || fd == a->wake_fd)
				(void)!read(fd, &x, sizeof x);
			else if (!is_uprobe(a, fd))
				dead(a, (uint32_t)fd);
		}
		refresh(a);
		attach_done(a);
		control_run(a);
	}
	/* Everything off, what is left out, then the leases go. */
	rules_clear(a);
	for (struct request *r; (r = a->waiting);) { /* answered by control_waiting, as they are */
		r->due = 0;
		control_waiting(a);
	}
	rules_clear(a);
	rules_dirty(a);
	rules_apply(a);
	int64_t until = clock_mono() + SECOND;
	for (bool due = true; due && clock_mono() < until;) {
		due = false;
		for (uint32_t i = 0; i < a->nprocs; i++) {
			drain_process(a->procs[i], 8192);
			patch_ends(a->procs[i], false);
			due |= a->procs[i]->map && a->procs[i]->ends_due;
		}
		if (due)
			usleep(1000);
	}
	attach_stop(a);
	for (uint32_t i = 0; i < a->nprocs; i++) {
		struct process *p = a->procs[i];
		if (!p->map)
			continue;
		patch_ends(p, true);
		process_lease(p, 0);
		drain_all(p);
	}
	drain_flush(a);
	control_run(a);
	return NULL;
}

static void finish(struct agent *a)
{
	for (uint32_t i = 0; i < a->nprocs; i++)
		process_destroy(a->procs[i]);
	free(a->procs);
	hello_close(a);
	for (int *fd = (int[]){ a->epfd, a->request_fd, a->wake_fd, -2 }; *fd != -2; fd++)
		if (*fd >= 0)
			close(*fd);
	while (a->spool) {
		struct spool *s = a->spool;
		a->spool = s->next;
		batch_destroy(s->b);
		free(s);
	}
	batch_destroy(a->batch);
	rules_finish(a);
	triggers_forget(a);
	free(a->host_load);
	free(a->seen);
	free(a->socket);
	free(a->host);
	pthread_mutex_destroy(&a->lock);
	switches_end(a);
	free(a);
}

static int start_thread(pthread_t *t, void *(*fn)(void *), struct agent *a, const char *name)
{
	int rc = pthread_create(t, NULL, fn, a);
	if (!rc)
		pthread_setname_np(*t, name);
	return rc ? KLIEG_E_NOMEM : 0;
}

int agent_create(const struct agent_config *c, struct agent **ret_a, struct err *e)
{
	struct agent *a = base_calloc(1, sizeof *a);
	a->cfg = *c;
	a->born = clock_mono();
	a->cfg.lease_ns = c->lease_ns ? c->lease_ns : 30 * SECOND;
	a->cfg.flush_ns = c->flush_ns ? c->flush_ns : SECOND / 10;
	a->socket = str_dup(str_of(c->socket));
	char host[256] = "";
	gethostname(host, sizeof host - 1);
	a->host = str_dup(str_of(c->host_name ? c->host_name : host));
	a->listen_fd = a->lock_fd = -1;
	a->queue_end = &a->queue;
	a->spool_end = &a->spool;
	pthread_mutex_init(&a->lock, NULL);
	a->epfd = epoll_create1(EPOLL_CLOEXEC);
	a->request_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	a->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	int rc = a->epfd < 0 || a->request_fd < 0 || a->wake_fd < 0 ? err_set(e, KLIEG_E_IO, "no descriptors: %s", strerror(errno)) : hello_listen(a, e);
	if (rc < 0) {
		finish(a);
		return rc;
	}
	clock_map_init(&a->clock);
	cost_calibrate(a);
	for (int *fd = (int[]){ a->listen_fd, a->request_fd, a->wake_fd, -1 }; *fd >= 0; fd++) {
		struct epoll_event ev = { .events = EPOLLIN, .data.u64 = (uint64_t)*fd };
		epoll_ctl(a->epfd, EPOLL_CTL_ADD, *fd, &ev);
	}
	if (start_thread(&a->waker, waker, a, "klieg-wake") < 0) {
		finish(a);
		return err_set(e, KLIEG_E_NOMEM, "no thread for the agent");
	}
	if (start_thread(&a->thread, loop, a, "klieg-agent") < 0) {
		a->waker_stop = true;
		atomic_fetch_add(&a->wake_gen, 1);
		syscall(SYS_futex, &a->wake_gen, FUTEX_WAKE, 1, NULL, NULL, 0);
		pthread_join(a->waker, NULL);
		finish(a);
		return err_set(e, KLIEG_E_NOMEM, "no thread for the agent");
	}
	*ret_a = a;
	return 0;
}

void agent_destroy(struct agent *a)
{
	if (!a)
		return;
	a->stop = true;
	uint64_t one = 1;
	(void)!write(a->request_fd, &one, sizeof one);
	pthread_join(a->thread, NULL);
	a->waker_stop = true;
	atomic_fetch_add(&a->wake_gen, 1);
	syscall(SYS_futex, &a->wake_gen, FUTEX_WAKE, 1, NULL, NULL, 0);
	pthread_join(a->waker, NULL);
	finish(a);
}
