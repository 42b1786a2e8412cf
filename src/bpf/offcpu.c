/* The table that the program and we share, and the program; see the header. The program, like those of src/uprobe, is also under the GPL version 2 (bpf_load says so). */
#include "bpf/offcpu.h"
#include "base/buf.h"
#include "bpf/assemble.h"
#include "bpf/bpf.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { PLACES = 65536 };     /* of thread numbers, modulo this */

struct slot {
	uint32_t tid, n;             /* intervals ever */
	uint64_t out;                /* left its CPU at, 0 = it runs, or it is not known */
	struct offcpu_interval off[OFFCPU_KEPT];
};
struct table {
	uint16_t place[PLACES];      /* slot + 1, 0 = nobody who is followed */
	struct slot slot[OFFCPU_THREADS];
};
_Static_assert(sizeof(struct table) <= 4 << 20, "older kernels take no larger value");

struct offcpu {
	int map, program, link;      /* link: -1 while nobody is followed */
	struct table *t;
	uint32_t followed, taken[OFFCPU_THREADS]; /* taken: intervals that we have seen */
};

enum { CTX = R6, PREV = R7, NEXT = R8, SLOT = R9 };

/* Goes on with SLOT, if the thread is followed; else the two branches are taken. */
static void find_slot(struct program *p, const struct offcpu *s, int tid, unsigned ret_none[2])
{
	mov(p, R1, tid);
	op(p, BPF_AND, R1, PLACES - 1);
	op(p, BPF_LSH, R1, 1);
	wide(p, R2, BPF_PSEUDO_MAP_VALUE, (uint32_t)s->map, offsetof(struct table, place));
	sum(p, R2, R1);
	load(p, BPF_H, R1, R2, 0);
	ret_none[0] = branch(p, BPF_JEQ, R1, 0);
	op(p, BPF_SUB, R1, 1);
	op(p, BPF_AND, R1, OFFCPU_THREADS - 1); /* the verifier does not believe the table */
	op(p, BPF_MUL, R1, sizeof(struct slot));
	wide(p, SLOT, BPF_PSEUDO_MAP_VALUE, (uint32_t)s->map, offsetof(struct table, slot));
	sum(p, SLOT, R1);
	load(p, BPF_W, R1, SLOT, offsetof(struct slot, tid));
	ret_none[1] = branch_reg32(p, BPF_JNE, R1, tid);
}

/* sched_switch(preempt, prev, next, ...): pid_at is where a task has its thread's number. */
static void assemble(struct program *p, const struct offcpu *s, uint32_t pid_at)
{
	unsigned none[2], runs;
	*p = (struct program){ .n = 0 };
	mov(p, CTX, R1);
	load(p, BPF_DW, R1, CTX, 8);
	load(p, BPF_W, PREV, R1, (int)pid_at);
	load(p, BPF_DW, R1, CTX, 16);
	load(p, BPF_W, NEXT, R1, (int)pid_at);
	find_slot(p, s, PREV, none);
	call(p, BPF_FUNC_ktime_get_ns);
	store(p, BPF_DW, SLOT, offsetof(struct slot, out), R0);
	here(p, none[0]);
	here(p, none[1]);
	find_slot(p, s, NEXT, none);
	load(p, BPF_DW, PREV, SLOT, offsetof(struct slot, out));
	runs = branch(p, BPF_JEQ, PREV, 0);
	call(p, BPF_FUNC_ktime_get_ns);
	load(p, BPF_W, R1, SLOT, offsetof(struct slot, n));
	op(p, BPF_AND, R1, OFFCPU_KEPT - 1);
	op(p, BPF_MUL, R1, sizeof(struct offcpu_interval));
	sum(p, R1, SLOT);
	store(p, BPF_DW, R1, offsetof(struct slot, off) + offsetof(struct offcpu_interval, out), PREV);
	store(p, BPF_DW, R1, offsetof(struct slot, off) + offsetof(struct offcpu_interval, in), R0);
	set(p, R1, 0);
	store(p, BPF_DW, SLOT, offsetof(struct slot, out), R1);
	set(p, R1, 1); /* with a full barrier: the interval is whole before it counts */
	add(p, BPF_STX | BPF_ATOMIC | BPF_W, SLOT, R1, offsetof(struct slot, n), BPF_ADD | BPF_FETCH);
	here(p, none[0]);
	here(p, none[1]);
	here(p, runs);
	leave(p);
}

static int refused(struct err *e, const char *what)
{
	if (errno == EPERM || errno == EACCES)
		return err_set(e, KLIEG_E_DENIED, "%s: %s; it needs CAP_BPF and CAP_PERFMON", what, strerror(errno));
	return err_set(e, KLIEG_E_UNSUPPORTED, "%s: %s", what, strerror(errno));
}

int offcpu_open(struct offcpu **ret_s, struct err *e)
{
	struct btf_query q = { .tracepoint = "sched_switch", .type = "task_struct", .member = "pid" };
	char log[4096] = "";
	if (!bpf_sees_our_pids())
		return err_set(e, KLIEG_E_UNSUPPORTED, "the agent is in a pid namespace: the kernel's numbers of threads are not ours");
	struct offcpu *s = base_calloc(1, sizeof *s);
	union bpf_attr map = { .map_type = BPF_MAP_TYPE_ARRAY, .key_size = 4, .value_size = sizeof(struct table), .max_entries = 1,
		.map_flags = BPF_F_MMAPABLE, .map_name = "klieg_offcpu" };
	s->program = s->link = -1;
	s->map = bpf_call(BPF_MAP_CREATE, &map, sizeof map);
	void *t = s->map < 0 ? MAP_FAILED : mmap(NULL, sizeof *s->t, PROT_READ | PROT_WRITE, MAP_SHARED, s->map, 0);
	s->t = t == MAP_FAILED ? NULL : t;
	int rc = s->t ? btf_ask(&q, e) : refused(e, "bpf(BPF_MAP_CREATE)");
	if (rc >= 0) {
		struct program p;
		union bpf_attr a = { .prog_type = BPF_PROG_TYPE_TRACING, .expected_attach_type = BPF_TRACE_RAW_TP, .attach_btf_id = q.tracepoint_id,
			.prog_name = "klieg_offcpu" };
		assemble(&p, s, q.offset);
		s->program = bpf_load(&p, &a, log, sizeof log);
		if (s->program < 0 && *log)
			rc = err_set(e, KLIEG_E_UNSUPPORTED, "the kernel refused our program: %.300s", strlen(log) > 300 ? log + strlen(log) - 300 : log);
		else if (s->program < 0)
			rc = refused(e, "bpf(BPF_PROG_LOAD)");
	}
	if (rc < 0) {
		offcpu_close(s);
		return rc;
	}
	*ret_s = s;
	return 0;
}

void offcpu_close(struct offcpu *s)
{
	if (!s)
		return;
	if (s->t)
		munmap(s->t, sizeof *s->t);
	const int fds[] = { s->link, s->program, s->map };
	for (int i = 0; i < 3; i++)
		if (fds[i] >= 0)
			close(fds[i]);
	free(s);
}

int offcpu_follow(struct offcpu *s, uint32_t tid, uint32_t *ret_slot, struct err *e)
{
	uint16_t *place = &s->t->place[tid % PLACES];
	uint32_t i = 0;
	while (i < OFFCPU_THREADS && s->t->slot[i].tid)
		i++;
	if (i == OFFCPU_THREADS || *place)
		return err_set(e, KLIEG_E_LIMIT, "%u threads are followed, and no more can be", s->followed);
	if (s->link < 0) {
		union bpf_attr a = { .raw_tracepoint = { .prog_fd = (uint32_t)s->program } };
		s->link = bpf_call(BPF_RAW_TRACEPOINT_OPEN, &a, sizeof a);
		if (s->link < 0)
			return refused(e, "bpf(BPF_RAW_TRACEPOINT_OPEN)");
	}
	struct slot *slot = &s->t->slot[i];
	s->taken[i] = __atomic_load_n(&slot->n, __ATOMIC_RELAXED);
	slot->out = 0;
	slot->tid = tid;
	__atomic_store_n(place, (uint16_t)(i + 1), __ATOMIC_RELEASE); /* pairs with the program's reading of it: the slot is ready */
	s->followed++;
	*ret_slot = i;
	return 0;
}

void offcpu_forget(struct offcpu *s, uint32_t slot)
{
	uint32_t tid = s->t->slot[slot].tid;
	__atomic_store_n(&s->t->place[tid % PLACES], 0, __ATOMIC_RELAXED);
	__atomic_store_n(&s->t->slot[slot].tid, 0, __ATOMIC_RELAXED);
	if (--s->followed)
		return;
	close(s->link); /* whoever runs it now may write one interval more, of a slot that nobody has */
	s->link = -1;
}

bool offcpu_next(struct offcpu *s, uint32_t slot, struct offcpu_interval *ret_i, bool *ret_lost)
{
	const struct slot *from = &s->t->slot[slot];
	uint32_t n = __atomic_load_n(&from->n, __ATOMIC_ACQUIRE); /* pairs with the program's barrier: intervals before it are whole */
	*ret_lost = false;
	while (n != s->taken[slot]) {
		if (n - s->taken[slot] >= OFFCPU_KEPT) { /* the oldest may be being written over */
			s->taken[slot] = n - OFFCPU_KEPT / 2;
			*ret_lost = true;
		}
		*ret_i = from->off[s->taken[slot] % OFFCPU_KEPT];
		__atomic_thread_fence(__ATOMIC_ACQUIRE); /* what was read above was read before the count below */
		n = __atomic_load_n(&from->n, __ATOMIC_RELAXED);
		if (n - s->taken[slot] >= OFFCPU_KEPT)
			continue;
		s->taken[slot]++;
		return true;
	}
	return false;
}
