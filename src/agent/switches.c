/* On- and off-CPU time of a span: the kernel notes each thread's context switches (PERF_RECORD_SWITCH: no cost on the probe's path, works for
 * processes of the same user), read here and laid against the spans as they are drained. Only while a site of the process is at level detail.
 * Where it is not permitted, or switches were lost, or the span began before we looked, the time is unknown and no attribute is added. */
#include "agent/state.h"
#include <errno.h>
#include <linux/perf_event.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { PAGES = 8, KEPT = 1024 };      /* 32 KiB of records between two drains; the last intervals of each thread */

struct switches {
	int fd;
	struct perf_event_mmap_page *page;
	uint64_t from;                /* ticks; what began earlier is unknown */
	uint64_t out;                 /* ticks; went off at, 0 = runs */
	uint64_t n;                   /* intervals ever */
	struct { uint64_t out, in; } off[KEPT];
};

static struct switches *follow(uint32_t tid)
{
	struct perf_event_attr at = { .size = sizeof at, .type = PERF_TYPE_SOFTWARE, .config = PERF_COUNT_SW_DUMMY, .context_switch = 1, .sample_id_all = 1,
		.sample_type = PERF_SAMPLE_TID | PERF_SAMPLE_TIME, .use_clockid = 1, .clockid = CLOCK_MONOTONIC, .exclude_kernel = 1, .exclude_hv = 1 };
	int fd = (int)syscall(SYS_perf_event_open, &at, (pid_t)tid, -1, -1, PERF_FLAG_FD_CLOEXEC);
	if (fd < 0)
		return NULL;
	void *p = mmap(NULL, (PAGES + 1) * 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (p == MAP_FAILED) {
		close(fd);
		return NULL;
	}
	struct switches *s = base_calloc(1, sizeof *s);
	s->fd = fd;
	s->page = p;
	s->from = clock_tsc();
	return s;
}

void switches_close(struct switches *s)
{
	if (!s)
		return;
	munmap(s->page, (PAGES + 1) * 4096);
	close(s->fd);
	free(s);
}

/* Takes what the kernel has noted. */
static void read_all(struct switches *s, double ns_per_tick)
{
	const uint8_t *data = (const uint8_t *)s->page + 4096;
	uint64_t head = __atomic_load_n(&s->page->data_head, __ATOMIC_ACQUIRE), tail = s->page->data_tail; /* pairs with the kernel's barrier: records before head */
	if (head == tail)
		return;
	uint64_t tsc = clock_tsc();
	int64_t mono = clock_mono();
	while (tail < head) {
		struct { struct perf_event_header h; uint32_t pid, tid; uint64_t time; } r;
		for (size_t i = 0; i < sizeof r; i++)
			((uint8_t *)&r)[i] = data[(tail + i) % (PAGES * 4096)];
		if (r.h.size < sizeof r.h || r.h.size > head - tail)
			break;
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
			s->from = tsc;
			s->out = 0;
		}
		tail += r.h.size;
	}
	__atomic_store_n(&s->page->data_tail, head, __ATOMIC_RELEASE);
}

void switches_follow(struct process *p, struct thread *th, uint32_t tid)
{
	if (!p->detail_n || th->switches_tid != tid) {
		switches_close(th->switches);
		th->switches = NULL;
		th->switches_tid = 0;
	}
	if (p->detail_n && !th->switches_tid) {
		th->switches_tid = tid; /* also when it fails: tried once per thread */
		th->switches = follow(tid);
		if (!th->switches && !p->agent->switches_denied) {
			p->agent->switches_denied = true;
			log_info("agent", "on- and off-CPU time of spans is not known here: perf_event_open: %s", strerror(errno));
		}
	}
	if (th->switches)
		read_all(th->switches, p->agent->clock.ns_per_tick);
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
