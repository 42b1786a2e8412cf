/* On- and off-CPU time of a span: the kernel notes each thread's context switches (PERF_RECORD_SWITCH: no cost on the probe's path, works for
 * processes of the same user), read here and laid against the spans as they are drained. Only while a site of the process is at level detail.
 * Where it is not permitted, or switches were lost, or the span began before we looked, the time is unknown and no attribute is added.
 * At most WATCHED_MAX threads of the host are followed, 52 KiB each: the others' times are unknown. Agent thread. */
#include "agent/state.h"
#include <errno.h>
#include <linux/perf_event.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { PAGES = 8, KEPT = 1024 };      /* 32 KiB of records between two drains; the last intervals of each thread */
#define WATCHED_MAX 256

struct switches {
	int fd;
	struct perf_event_mmap_page *page;
	uint64_t from;                /* ticks; what began earlier is unknown */
	uint64_t out;                 /* ticks; went off at, 0 = runs */
	uint64_t n;                   /* intervals ever */
	struct { uint64_t out, in; } off[KEPT];
};

/* The traced process wrote the number: it must be a thread of its own. (In another pid namespace it is not: unknown.) */
static bool is_thread_of(pid_t pid, uint32_t tid)
{
	char path[64];
	snprintf(path, sizeof path, "/proc/%d/task/%u", pid, tid);
	return access(path, F_OK) == 0;
}

static struct switches *follow(uint32_t tid)
{
	struct perf_event_attr at = { .size = sizeof at, .type = PERF_TYPE_SOFTWARE, .config = PERF_COUNT_SW_DUMMY, .context_switch = 1, .sample_id_all = 1,
		.sample_type = PERF_SAMPLE_TID | PERF_SAMPLE_TIME, .use_clockid = 1, .clockid = CLOCK_MONOTONIC, .exclude_kernel = 1, .exclude_hv = 1 };
	int fd = (int)syscall(SYS_perf_event_open, &at, (pid_t)tid, -1, -1, PERF_FLAG_FD_CLOEXEC);
	if (fd < 0)
		return NULL;
	void *p = mmap(NULL, (PAGES + 1) * 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (p == MAP_FAILED) {
		int saved = errno;
		close(fd);
		errno = saved;
		return NULL;
	}
	struct switches *s = base_calloc(1, sizeof *s);
	s->fd = fd;
	s->page = p;
	s->from = kw_ticks();
	return s;
}

void switches_close(struct agent *a, struct thread *th)
{
	struct switches *s = th->switches;
	th->switches = NULL;
	th->switches_tid = 0;
	if (!s)
		return;
	munmap(s->page, (PAGES + 1) * 4096);
	close(s->fd);
	free(s);
	a->switches_n--;
}

/* Takes what the kernel has noted. */
static void read_all(struct switches *s, double ns_per_tick)
{
	const uint8_t *data = (const uint8_t *)s->page + 4096;
	uint64_t head = __atomic_load_n(&s->page->data_head, __ATOMIC_ACQUIRE), tail = s->page->data_tail; /* pairs with the kernel's barrier: records before head */
	if (head == tail)
		return;
	uint64_t tsc = 0, best = UINT64_MAX;
	int64_t mono = 0;
	for (int i = 0; i < 3; i++) { /* the tightest of three: a preempted reading is not believed */
		uint64_t t0 = kw_ticks();
		int64_t m = clock_mono();
		uint64_t t1 = kw_ticks();
		if (t1 - t0 < best)
			best = t1 - t0, tsc = t0 + (t1 - t0) / 2, mono = m;
	}
	while (tail < head) {
		struct { struct perf_event_header h; uint32_t pid, tid; uint64_t time; } r;
		for (size_t i = 0; i < sizeof r; i++)
			((uint8_t *)&r)[i] = data[(tail + i) % (PAGES * 4096)];
		if (r.h.size < sizeof r.h || r.h.size > head - tail) {
			s->from = kw_ticks();
			break;
		}
		if (r.h.type == PERF_RECORD_SWITCH && r.h.size >= sizeof r) {
			uint64_t at = tsc - (uint64_t)((double)(mono - (int64_t)r.time) / ns_per_tick);
			if (r.h.misc & PERF_RECORD_MISC_SWITCH_OUT) {
				s->out = at;
			} else if (s->out) {
				s->off[s->n % KEPT].out = s->out;
				s->off[s->n++ % KEPT].in = at;
				s->out = 0;
			}
		} else if (r.h.type == PERF_RECORD_LOST) {
			s->from = kw_ticks();
			s->out = 0;
		}
		tail += r.h.size;
	}
	__atomic_store_n(&s->page->data_tail, head, __ATOMIC_RELEASE);
}

void switches_follow(struct process *p, struct thread *th, uint32_t tid)
{
	struct agent *a = p->agent;
	if (!p->detail_n || th->switches_tid != tid)
		switches_close(a, th);
	if (p->detail_n && !th->switches_tid) {
		th->switches_tid = tid; /* also when it fails: tried once per thread */
		if (a->switches_n >= WATCHED_MAX) {
			a->switches_over = true;
		} else if (is_thread_of(p->pid, tid)) {
			th->switches = follow(tid);
			a->switches_n += th->switches != NULL;
			if (!th->switches && errno != ESRCH && !a->switches_errno) {
				a->switches_errno = errno;
				log_info("agent", "on- and off-CPU time of spans is not known here: perf_event_open: %s", strerror(errno));
			}
		}
	}
	if (th->switches)
		read_all(th->switches, a->clock.rate);
}

json_t *switches_health(const struct agent *a)
{
	char what[160];
	snprintf(what, sizeof what, a->switches_errno ? "threads whose on- and off-CPU time is known: perf_event_open: %s" :
		"threads whose on- and off-CPU time is known, at level detail%s", a->switches_errno ? strerror(a->switches_errno) :
		a->switches_over ? "; others were too many" : "");
	return json_pack("{s:b,s:i,s:i,s:s,s:s}", "ok", !a->switches_errno && !a->switches_over, "value", (int)a->switches_n, "limit", WATCHED_MAX, "what", what,
		"next", a->switches_errno ? "run the agent as root or with CAP_PERFMON" : "level detail for fewer processes");
}

bool switches_off(const struct thread *th, uint64_t start, uint64_t ticks, uint64_t *ret_off)
{
	const struct switches *s = th->switches;
	uint64_t end = start + ticks, off = 0;
	if (!s || s->from > start)
		return false;
	uint64_t oldest = s->n > KEPT ? s->n - KEPT : 0;
	for (uint64_t k = s->n; k-- > oldest;) {
		uint64_t out = s->off[k % KEPT].out, in = s->off[k % KEPT].in;
		if (in <= start)
			goto known;
		uint64_t a = out > start ? out : start, b = in < end ? in : end;
		off += b > a ? b - a : 0;
	}
	if (oldest)
		return false; /* older intervals are forgotten */
known:
	*ret_off = off < ticks ? off : ticks;
	return true;
}
