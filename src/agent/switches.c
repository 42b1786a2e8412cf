/* On- and off-CPU time of a span: the kernel notes each thread's context switches, read here and laid against the spans as they are drained. Only while a site
 * of the process is at level detail. By a BPF program (bpf/offcpu.c), which is cheapest for those who are followed; where that is not permitted by
 * PERF_RECORD_SWITCH, which works for processes of the same user, too (docs/adr/0006 has what either costs). Where neither is permitted, or switches were lost, or
 * the span began before we looked, the time is unknown and no attribute is added. At most WATCHED_MAX threads of the host are followed, some
 * 50 KiB each: the others' times are unknown. Agent thread. */
#include "agent/state.h"
#include "bpf/offcpu.h"
#include <errno.h>
#include <linux/perf_event.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { PAGES = 8, KEPT = 1024 };      /* 32 KiB of records between two drains; the last intervals of each thread */
#define WATCHED_MAX OFFCPU_THREADS

struct switches {
	uint32_t offcpu1;             /* by the BPF program: its slot + 1; 0 = by perf, with these two: */
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

static bool follow_by_bpf(struct agent *a, uint32_t tid, struct switches *s)
{
	struct err e = { 0 };
	uint32_t slot;
	if (!a->offcpu_asked && offcpu_open(&a->offcpu, &e) < 0)
		log_info("agent", "context switches are not read by BPF here: %s", e.msg);
	a->offcpu_asked = true;
	if (!a->offcpu || offcpu_follow(a->offcpu, tid, &slot, &e) < 0)
		return false;
	s->offcpu1 = slot + 1;
	return true;
}

static bool follow_by_perf(uint32_t tid, struct switches *s)
{
	struct perf_event_attr at = { .size = sizeof at, .type = PERF_TYPE_SOFTWARE, .config = PERF_COUNT_SW_DUMMY, .context_switch = 1, .sample_id_all = 1,
		.sample_type = PERF_SAMPLE_TID | PERF_SAMPLE_TIME, .use_clockid = 1, .clockid = CLOCK_MONOTONIC, .exclude_kernel = 1, .exclude_hv = 1 };
	int fd = (int)syscall(SYS_perf_event_open, &at, (pid_t)tid, -1, -1, PERF_FLAG_FD_CLOEXEC);
	if (fd < 0)
		return false;
	void *p = mmap(NULL, (PAGES + 1) * 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (p == MAP_FAILED) {
		int saved = errno;
		close(fd);
		errno = saved;
		return false;
	}
	s->fd = fd;
	s->page = p;
	return true;
}

static struct switches *follow(struct agent *a, uint32_t tid)
{
	struct switches *s = base_calloc(1, sizeof *s);
	if (!follow_by_bpf(a, tid, s) && !follow_by_perf(tid, s)) {
		int saved = errno;
		free(s);
		errno = saved;
		return NULL;
	}
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
	if (s->offcpu1) {
		offcpu_forget(a->offcpu, s->offcpu1 - 1);
		a->switches_bpf--;
	} else {
		munmap(s->page, (PAGES + 1) * 4096);
		close(s->fd);
	}
	free(s);
	a->switches_n--;
}

void switches_end(struct agent *a)
{
	offcpu_close(a->offcpu);
	a->offcpu = NULL;
}

/* From the kernel's clock to ours. */
struct reading { uint64_t tsc; int64_t mono; double ns_per_tick; };

static struct reading read_clocks(double ns_per_tick)
{
	struct reading r = { .ns_per_tick = ns_per_tick };
	uint64_t best = UINT64_MAX;
	for (int i = 0; i < 3; i++) { /* the tightest of three: a preempted reading is not believed */
		uint64_t t0 = kw_ticks();
		int64_t m = clock_mono();
		uint64_t t1 = kw_ticks();
		if (t1 - t0 < best)
			best = t1 - t0, r.tsc = t0 + (t1 - t0) / 2, r.mono = m;
	}
	return r;
}

static uint64_t ticks_at(const struct reading *r, int64_t ns) { return r->tsc - (uint64_t)(int64_t)((double)(r->mono - ns) / r->ns_per_tick); }

static void was_off(struct switches *s, uint64_t out, uint64_t in)
{
	s->off[s->n % KEPT].out = out;
	s->off[s->n++ % KEPT].in = in;
}

/* What came before is not known. */
static void lost(struct switches *s)
{
	s->from = kw_ticks();
	s->out = 0;
}

static void read_bpf(struct agent *a, struct switches *s)
{
	struct offcpu_interval off;
	bool some_lost;
	if (!offcpu_next(a->offcpu, s->offcpu1 - 1, &off, &some_lost))
		return;
	struct reading r = read_clocks(a->clock.rate);
	do {
		if (some_lost)
			lost(s);
		was_off(s, ticks_at(&r, off.out), ticks_at(&r, off.in));
	} while (offcpu_next(a->offcpu, s->offcpu1 - 1, &off, &some_lost));
}

static void read_perf(const struct agent *a, struct switches *s)
{
	const uint8_t *data = (const uint8_t *)s->page + 4096;
	uint64_t head = __atomic_load_n(&s->page->data_head, __ATOMIC_ACQUIRE), tail = s->page->data_tail; /* pairs with the kernel's barrier: records before head */
	if (head == tail)
		return;
	struct reading now = read_clocks(a->clock.rate);
	while (tail < head) {
		struct { struct perf_event_header h; uint32_t pid, tid; uint64_t time; } r;
		for (size_t i = 0; i < sizeof r; i++)
			((uint8_t *)&r)[i] = data[(tail + i) % (PAGES * 4096)];
		if (r.h.size < sizeof r.h || r.h.size > head - tail) {
			lost(s);
			break;
		}
		if (r.h.type == PERF_RECORD_SWITCH && r.h.size >= sizeof r) {
			uint64_t at = ticks_at(&now, (int64_t)r.time);
			if (r.h.misc & PERF_RECORD_MISC_SWITCH_OUT) {
				s->out = at;
			} else if (s->out) {
				was_off(s, s->out, at);
				s->out = 0;
			}
		} else if (r.h.type == PERF_RECORD_LOST) {
			lost(s);
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
			th->switches = follow(a, tid);
			a->switches_n += th->switches != NULL;
			a->switches_bpf += th->switches && th->switches->offcpu1;
			if (!th->switches && errno != ESRCH && !a->switches_errno) {
				a->switches_errno = errno;
				log_info("agent", "on- and off-CPU time of spans is not known here: perf_event_open: %s", strerror(errno));
			}
		}
	}
	if (th->switches && th->switches->offcpu1)
		read_bpf(a, th->switches);
	else if (th->switches)
		read_perf(a, th->switches);
}

json_t *switches_health(const struct agent *a)
{
	char what[160];
	if (a->switches_errno)
		snprintf(what, sizeof what, "threads whose on- and off-CPU time is known: perf_event_open: %s", strerror(a->switches_errno));
	else
		snprintf(what, sizeof what, "threads whose on- and off-CPU time is known, at level detail (%u by BPF, %u by perf events)%s", a->switches_bpf,
			a->switches_n - a->switches_bpf, a->switches_over ? "; others were too many" : "");
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
