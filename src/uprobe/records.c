/* The producer in the process's place: a region like libklieg's (probe/process.c), filled as probe/span.c fills it, with
 * what the kernel saw at entries and exits. It differs in that one thread, ours, writes all slots, and in how an exit finds
 * its entry: by where the caller's stack was (the CFA), which also tells calls that were left by longjmp, or whose exit the
 * kernel lost, from those that are still open.
 *
 * A frame of the stack of open calls has the context that its callees are in, so that ending a call gives back what was
 * current before it. */
#include "uprobe/internal.h"
#include "base/buf.h"
#include "base/clock.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <unistd.h>

#define SECOND 1000000000ll
/* In kw_open.flags, as the library marks calls of which no span comes. */
enum { OPEN_COUNT = 1u << 16, OPEN_UNSAMPLED = 1u << 17 };
enum { TIDS = 1024 };

/* The trace that the callees of a frame belong to. */
struct context {
	uint64_t trace_hi, trace_lo, threshold;
	uint32_t flags;              /* KW_CTX_* */
	uint32_t seq;                /* innermost open span: the parent of the next */
	bool root;                   /* begun by a function that was declared to begin requests */
};

struct frame {
	uint64_t cfa, ns;
	struct context ctx;
	bool detail, cut;            /* its arguments are wanted; some were lost */
	bool jumps_seen;             /* its end is seen also when it jumps to another function */
};

struct thread {
	struct thread *next;         /* of the same hash */
	struct kw_thread *t;
	uint8_t *slot;
	uint64_t head;
	uint64_t exited;             /* CFA of the last event, if that was an exit; else 0 */
	bool seen, gone;             /* since the last sweep; it has ended */
	struct context written;      /* the last CTX record's */
	struct frame frame[KW_OPEN_MAX]; /* beside kw_thread.open */
};

struct records {
	pid_t pid;
	int memfd;
	uint8_t *map;
	struct kw_region reg;
	struct kw_control *control;
	const struct kw_site_state *state;
	struct thread *threads[TIDS];
	uint64_t random[2];
	uint32_t lost_exits[KW_MAX_SITES]; /* of calls that therefore seem to be open */
	struct { uint64_t tsc, ns, rate_tsc, rate_ns; double rate, base_rate; int64_t error_ns; } clock; /* rates: ticks per ns */
};

/* ---- time ---------------------------------------------------------------------------------------------------------- */

/* The tightest of a few bracketed readings: a preempted one is not believed. */
static void clock_pair(uint64_t *ret_tsc, uint64_t *ret_ns)
{
	uint64_t best = UINT64_MAX;
	for (int i = 0; i < 12; i++) {
		uint64_t a = kw_ticks(), ns = (uint64_t)clock_mono(), b = kw_ticks();
		if (b - a < best) {
			best = b - a;
			*ret_tsc = a + (b - a) / 2;
			*ret_ns = ns;
		}
	}
}

static uint64_t ticks_at(const struct records *r, uint64_t ns)
{
	return r->clock.tsc + (uint64_t)(int64_t)((double)(int64_t)(ns - r->clock.ns) * r->clock.rate);
}

static void clock_begin(struct records *r)
{
	uint64_t t0 = 0, n0 = 0, t1 = 0, n1 = 0;
	clock_pair(&t0, &n0);
	do
		clock_pair(&t1, &n1);
	while (n1 - n0 < 5000000);
	r->clock.tsc = t1, r->clock.ns = n1, r->clock.rate_tsc = t0, r->clock.rate_ns = n0;
	r->clock.rate = r->clock.base_rate = (double)(t1 - t0) / (double)(n1 - n0);
}

/* The mapping from the kernel's clock to the counter stays continuous: what it is off by is made good within the next second. */
void records_clock(struct records *r)
{
	uint64_t tsc = 0, ns = 0;
	if (clock_mono() - (int64_t)r->clock.ns < SECOND)
		return;
	clock_pair(&tsc, &ns);
	uint64_t predicted = ticks_at(r, ns);
	double error = (double)(int64_t)(tsc - predicted);
	r->clock.base_rate = (double)(tsc - r->clock.rate_tsc) / (double)(ns - r->clock.rate_ns);
	r->clock.error_ns = (int64_t)(error / r->clock.base_rate);
	r->clock.ns = ns;
	if (llabs(r->clock.error_ns) > 1000000) { /* the machine was suspended: the counter went on, the clock did not */
		r->clock.tsc = r->clock.rate_tsc = tsc;
		r->clock.rate_ns = ns;
		return;
	}
	r->clock.tsc = predicted;
	r->clock.rate = r->clock.base_rate + error / (double)SECOND;
}

int64_t records_clock_error(const struct records *r) { return r->clock.error_ns; }

/* ---- region -------------------------------------------------------------------------------------------------------- */

static uint64_t align(uint64_t n, uint64_t to) { return (n + to - 1) / to * to; }

static const char *variable(const struct buf *env, const char *name)
{
	size_t n = strlen(name);
	for (const char *p = (const char *)env->p, *end = p + env->n; p < end; p += strlen(p) + 1) /* buf_byte() ended the last one */
		if (!strncmp(p, name, n) && p[n] == '=')
			return p + n + 1;
	return NULL;
}

/* What libklieg would say of itself there: OpenTelemetry's variables in the process's environment. */
static void write_resource(struct records *r, struct kw_region *to)
{
	char path[64];
	struct buf env = { 0 }, text = { 0 };
	snprintf(path, sizeof path, "/proc/%d/environ", r->pid);
	if (buf_read_file(path, 1 << 20, &env) < 0)
		return;
	buf_byte(&env, 0);
	const char *all = variable(&env, "OTEL_RESOURCE_ATTRIBUTES"), *name = variable(&env, "OTEL_SERVICE_NAME");
	if (all && strlen(all) < 1024)
		buf_add_str(&text, all);
	if (name && *name && strlen(name) < 200) {
		buf_add_str(&text, text.n ? ",service.name=" : "service.name=");
		for (const char *p = name; *p; p++) {
			bool plain = *p > ' ' && *p < 127 && !strchr(",=%;\"\\", *p);
			if (plain)
				buf_byte(&text, (uint8_t)*p);
			else
				buf_printf(&text, "%%%02X", (uint8_t)*p);
		}
	}
	if (text.n < KW_RESOURCE_MAX) {
		memcpy(to->resource, text.p ? text.p : (const uint8_t *)"", text.n);
		to->resource_len = (uint32_t)text.n;
		to->resource_seq = 2;
	}
	buf_finish(&env);
	buf_finish(&text);
}

static int make_region(struct records *r, const char *socket, struct err *e)
{
	struct kw_region *g = &r->reg;
	*g = (struct kw_region){ .magic = KW_MAGIC, .version = KW_VERSION, .header_bytes = sizeof *g, .max_modules = KW_MAX_MODULES,
		.max_sites = KW_MAX_SITES, .max_threads = KW_MAX_THREADS, .pid = (uint32_t)r->pid, .created_tsc = kw_ticks() };
	g->control_off = 4096;
	g->modules_off = 2 * 4096;
	g->sites_off = align(g->modules_off + KW_MAX_MODULES * sizeof(struct kw_module), 4096);
	g->threads_off = align(g->sites_off + KW_MAX_SITES * sizeof(struct kw_site_state), 4096);
	g->ring_off = 4096;
	g->ring_bytes = KW_RING_BYTES;
	g->cellmap_off = g->ring_off + g->ring_bytes;
	g->cells_off = (uint32_t)align(g->cellmap_off + KW_MAX_SITES * sizeof(uint16_t), 4096);
	g->cell_count = KW_CELLS;
	g->thread_stride = align(g->cells_off + (uint64_t)KW_CELLS * sizeof(struct kw_cell), 4096);
	g->region_bytes = g->threads_off + (uint64_t)g->max_threads * g->thread_stride;
	snprintf(g->socket, sizeof g->socket, "%s", socket ? socket : "");
	write_resource(r, g);
	r->memfd = (int)syscall(SYS_memfd_create, KW_MEMFD_NAME, 3u /* MFD_CLOEXEC | MFD_ALLOW_SEALING */);
	void *p = MAP_FAILED;
	if (r->memfd >= 0 && ftruncate(r->memfd, (off_t)g->region_bytes) == 0 &&
		fcntl(r->memfd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == 0)
		p = mmap(NULL, g->region_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, r->memfd, 0);
	if (p == MAP_FAILED)
		return err_set(e, err_from_errno(errno), "the region of process %d cannot be made: %s", r->pid, strerror(errno));
	madvise(p, g->region_bytes, MADV_DONTDUMP);
	r->map = p;
	memcpy(p, g, sizeof *g);
	r->control = (struct kw_control *)(r->map + g->control_off);
	r->state = (const struct kw_site_state *)(r->map + g->sites_off);
	return 0;
}

int records_open(pid_t pid, const char *socket, struct records **ret_r, struct err *e)
{
	struct records *r = base_calloc(1, sizeof *r);
	r->pid = pid;
	r->memfd = -1;
	int rc = make_region(r, socket, e);
	if (rc < 0) {
		records_close(r);
		return rc;
	}
	if (getrandom(r->random, sizeof r->random, 0) != sizeof r->random)
		r->random[0] = kw_ticks(), r->random[1] = (uint64_t)(uintptr_t)r ^ (uint64_t)pid;
	clock_begin(r);
	*ret_r = r;
	return 0;
}

void records_close(struct records *r)
{
	if (!r)
		return;
	for (uint32_t i = 0; i < TIDS; i++)
		for (struct thread *th = r->threads[i], *next; th; th = next) {
			next = th->next;
			free(th);
		}
	if (r->map)
		munmap(r->map, r->reg.region_bytes);
	if (r->memfd >= 0)
		close(r->memfd);
	free(r);
}

int records_memfd(const struct records *r) { return r->memfd; }

/* ---- threads ------------------------------------------------------------------------------------------------------- */

static uint64_t random64(struct records *r)
{
	r->random[0] += 0xa0761d6478bd642full;
	return kw_mix(r->random[0] ^ r->random[1]);
}

static struct thread *claim(struct records *r, uint32_t tid)
{
	for (uint32_t i = 0; i < r->reg.max_threads; i++) { /* lowest first, so that the agent looks at few */
		uint8_t *slot = r->map + r->reg.threads_off + (uint64_t)i * r->reg.thread_stride;
		struct kw_thread *t = (struct kw_thread *)slot;
		if (__atomic_load_n(&t->state, __ATOMIC_ACQUIRE) != KW_THREAD_FREE) /* pairs with the agent's release of DEAD -> FREE */
			continue;
		t->tid = tid;
		t->seed = random64(r);
		__atomic_store_n(&t->depth, 0, __ATOMIC_RELAXED);
		t->trace_hi = t->trace_lo = 0;
		__atomic_store_n(&t->epoch, t->epoch + 1, __ATOMIC_RELEASE);
		__atomic_store_n(&t->state, (uint32_t)KW_THREAD_LIVE, __ATOMIC_RELEASE); /* pairs with the agent's acquire */
		if (__atomic_load_n(&r->control->threads_hint, __ATOMIC_RELAXED) < i + 1)
			__atomic_store_n(&r->control->threads_hint, i + 1, __ATOMIC_RELEASE);
		struct thread *th = base_calloc(1, sizeof *th);
		th->t = t;
		th->slot = slot;
		th->head = t->head;
		th->next = r->threads[tid % TIDS];
		r->threads[tid % TIDS] = th;
		return th;
	}
	return NULL;
}

static struct thread *thread_of(struct records *r, uint32_t tid, bool make)
{
	for (struct thread *th = r->threads[tid % TIDS]; th; th = th->next)
		if (th->t->tid == tid) {
			th->seen = true;
			return th;
		}
	return make ? claim(r, tid) : NULL;
}

/* ---- ring and cells ------------------------------------------------------------------------------------------------ */

static void *reserve(struct records *r, struct thread *th, uint64_t bytes)
{
	uint64_t size = r->reg.ring_bytes, at = th->head & (size - 1), pad = size - at < bytes ? size - at : 0;
	uint64_t tail = __atomic_load_n(&th->t->tail, __ATOMIC_ACQUIRE); /* pairs with the agent's release: what is below was read */
	if (th->head + pad + bytes - tail > size)
		return NULL;
	uint8_t *ring = th->slot + r->reg.ring_off;
	if (pad) {
		*(struct kw_rec *)(ring + at) = (struct kw_rec){ 0, KW_REC_PAD, 1, 0 };
		th->head += pad;
		__atomic_store_n(&th->t->head, th->head, __ATOMIC_RELEASE);
	}
	return ring + (th->head & (size - 1));
}

static void commit(struct thread *th, uint64_t bytes)
{
	th->head += bytes;
	__atomic_store_n(&th->t->head, th->head, __ATOMIC_RELEASE); /* pairs with the agent's acquire: the record before its head */
}

static bool write_context(struct records *r, struct thread *th, const struct context *c)
{
	if (th->written.trace_hi == c->trace_hi && th->written.trace_lo == c->trace_lo)
		return true;
	struct kw_rec_ctx *rec = reserve(r, th, sizeof *rec);
	if (!rec)
		return false;
	*rec = (struct kw_rec_ctx){ .r = { (uint32_t)(c->threshold >> 32) << 8, KW_REC_CTX, 1, (uint16_t)c->flags },
		.trace_hi = c->trace_hi, .trace_lo = c->trace_lo };
	commit(th, sizeof *rec);
	th->written = *c;
	return true;
}

static struct kw_cell *cell_of(struct records *r, struct thread *th, uint32_t site)
{
	uint16_t *map = (uint16_t *)(th->slot + r->reg.cellmap_off);
	struct kw_cell *cells = (struct kw_cell *)(th->slot + r->reg.cells_off);
	if (!map[site]) {
		if (th->t->cells_used >= KW_CELLS - 1)
			return NULL;
		uint32_t i = th->t->cells_used + 1;
		cells[i].site = site;
		map[site] = (uint16_t)i;
		__atomic_store_n(&th->t->cells_used, i, __ATOMIC_RELEASE);
	}
	return &cells[map[site]];
}

static void count(struct records *r, struct thread *th, uint32_t site, const uint64_t *ticks)
{
	struct kw_cell *c = cell_of(r, th, site);
	if (!c) {
		th->t->lost_cells++;
		return;
	}
	if (ticks) {
		c->sum_ticks += *ticks;
		c->max_ticks = *ticks > c->max_ticks ? *ticks : c->max_ticks;
		c->bucket[kw_bucket(*ticks)]++;
	}
	__atomic_store_n(&c->calls, c->calls + 1, __ATOMIC_RELEASE); /* pairs with the agent's acquire: the rest before it */
}

/* Those of the arguments that this event has (ret: what was returned), as attributes of the open span. */
static void put_arguments(struct records *r, struct thread *th, struct frame *f, const struct kw_open *o, const struct capture *what, bool ret,
	const struct kernel_call *c, enum kernel_got got)
{
	struct { struct kw_attr a; uint64_t value[KERNEL_TEXT / 8]; } v[KW_HOOK_ARGS];
	uint32_t n = 0;
	uint64_t bytes = sizeof(struct kw_rec_event);
	for (uint32_t i = 0; i < what->nargs && got >= KERNEL_GOT_WORDS; i++) {
		const struct kw_arg *a = &what->args[i];
		uint32_t word = capture_word(a), text = got == KERNEL_GOT_TEXTS ? what->text[i] : KERNEL_TEXTS;
		if ((a->at == KW_ARG_RET) != ret || word >= KERNEL_WORDS)
			continue;
		if (text < KERNEL_TEXTS && c->text_len[text] > 0 && c->text_len[text] <= KERNEL_TEXT) {
			v[n].a = (struct kw_attr){ .len = (uint32_t)c->text_len[text] - 1, .key = a->key, .type = KW_STR };
			memcpy(v[n].value, c->text[text], KERNEL_TEXT);
		} else {
			v[n].a = (struct kw_attr){ .len = 8, .key = a->key, .type = KW_INT };
			v[n].value[0] = kw_arg_narrow(a, c->word[word]);
		}
		bytes += sizeof v[n].a + align(v[n].a.len, 8);
		n++;
	}
	bytes = align(bytes, KW_UNIT);
	if (!n)
		return;
	struct kw_rec_event *rec = write_context(r, th, &f->ctx) ? reserve(r, th, bytes) : NULL;
	if (!rec) {
		th->t->lost_other++;
		f->cut = true;
		return;
	}
	*rec = (struct kw_rec_event){ .r = { o->site, KW_REC_ATTR, (uint8_t)(bytes / KW_UNIT), (uint16_t)(n << KW_REC_NATTR_SHIFT) }, .seq = o->seq };
	uint8_t *at = (uint8_t *)(rec + 1);
	for (uint32_t i = 0; i < n; i++) {
		memcpy(at, &v[i].a, sizeof v[i].a);
		memcpy(at + sizeof v[i].a, v[i].value, v[i].a.len);
		at += sizeof v[i].a + align(v[i].a.len, 8);
	}
	commit(th, bytes);
}

/* ---- calls --------------------------------------------------------------------------------------------------------- */

static struct kw_open *top_of(struct thread *th) { return th->t->depth ? &th->t->open[th->t->depth - 1] : NULL; }
static struct context *current(struct thread *th) { return th->t->depth ? &th->frame[th->t->depth - 1].ctx : NULL; }

/* What the agent shows beside open spans. */
static void show_context(struct thread *th)
{
	const struct context *c = current(th);
	th->t->trace_hi = c ? c->trace_hi : 0;
	th->t->trace_lo = c ? c->trace_lo : 0;
	th->t->parent_id = 0;
	th->t->ctx_flags = c ? c->flags : 0;
}

static void pop(struct thread *th)
{
	__atomic_store_n(&th->t->depth, th->t->depth - 1, __ATOMIC_RELEASE);
	show_context(th);
}

/* The innermost call ended unseen: its exit was lost, or it was left by longjmp, or with its thread. */
static void drop(struct records *r, struct thread *th)
{
	struct kw_open *o = top_of(th);
	bool lost = r->lost_exits[o->site] > 0;
	r->lost_exits[o->site] -= lost;
	if (o->flags & OPEN_COUNT)
		th->t->lost_cells += lost;
	else if (!(o->flags & OPEN_UNSAMPLED))
		*(lost ? &th->t->lost_full : &th->t->abandoned) += 1;
	pop(th);
}

/* Drops what cannot be open any more when this thread enters `site` with its stack at cfa. Frames of the same CFA are a
 * function and those it jumped to at its end; they exit together. So if one has exited, or this very function seems to be
 * open there, or its jump would have been seen, they are leftovers of a longjmp or an exception. */
static void settle(struct records *r, struct thread *th, uint32_t site, uint64_t cfa)
{
	struct kw_thread *t = th->t;
	while (t->depth) {
		const struct frame *f = &th->frame[t->depth - 1];
		if (f->cfa >= cfa && f->cfa > th->exited && !(f->cfa == cfa && f->jumps_seen))
			break;
		drop(r, th);
	}
	th->exited = 0;
	for (uint32_t i = t->depth; i-- > 0 && th->frame[i].cfa == cfa;)
		if (t->open[i].site == site) {
			while (t->depth > i)
				drop(r, th);
			break;
		}
}

static unsigned level_of(const struct records *r, uint32_t site)
{
	if (__atomic_load_n(&r->state[site].flags, __ATOMIC_RELAXED) & KW_STATE_GATED)
		return KW_OFF; /* no request carries a level here: nobody reads its headers */
	return __atomic_load_n(&r->state[site].level, __ATOMIC_RELAXED);
}

static void start_trace(struct records *r, struct context *c, uint32_t site, bool root)
{
	*c = (struct context){ .trace_hi = random64(r), .trace_lo = random64(r) | 1, .flags = KW_CTX_RANDOM, .root = root };
	c->threshold = __atomic_load_n(&r->state[site].threshold, __ATOMIC_RELAXED);
	if ((c->trace_lo & 0xffffffffffffffull) >= c->threshold)
		c->flags |= KW_CTX_SAMPLED;
}

void records_enter(struct records *r, const struct kernel_call *call, enum kernel_got got, uint32_t site, const struct capture *what, struct records_how how)
{
	unsigned on = level_of(r, site), level = how.wanted ? on : KW_OFF;
	uint64_t cfa = call->ev.cfa, ns = call->ev.ns;
	struct thread *th = thread_of(r, call->ev.tid, on > KW_OFF);
	if (!th) {
		if (level)
			r->control->lost_no_slot++;
		return;
	}
	struct kw_thread *t = th->t;
	t->left_out += on && !how.wanted;
	settle(r, th, site, cfa);
	if (!level)
		return;
	struct context c = { 0 };
	if (t->depth)
		c = *current(th);
	uint32_t flags = level < KW_SPAN ? OPEN_COUNT : 0, parent = 0;
	bool begins = !flags && (!(c.trace_hi | c.trace_lo) || (how.root && !c.root));
	if (begins)
		start_trace(r, &c, site, how.root);
	else
		parent = c.seq;
	if (!flags && !(c.flags & KW_CTX_SAMPLED)) {
		t->unsampled++;
		if (!begins)
			return; /* a child of a trace that is not kept */
		flags = OPEN_UNSAMPLED; /* its root: stands on the stack so that we know when the trace ends */
	}
	if (t->depth >= KW_OPEN_MAX) {
		if (flags & OPEN_COUNT) {
			t->lost_cells++;
		} else if (!flags) {
			__atomic_store_n(&t->seq, t->seq + 1, __ATOMIC_RELAXED);
			t->lost_depth++;
		}
		return;
	}
	struct kw_open *o = &t->open[t->depth];
	struct frame *f = &th->frame[t->depth];
	*o = (struct kw_open){ .start_tsc = ticks_at(r, ns), .cookie = cfa, .site = site, .parent_seq = parent, .flags = flags };
	if (!flags) {
		o->seq = t->seq + 1;
		__atomic_store_n(&t->seq, o->seq, __ATOMIC_RELAXED);
		c.seq = o->seq;
	}
	*f = (struct frame){ cfa, ns, c, .detail = !flags && level >= KW_DETAIL, .jumps_seen = how.jumps_seen };
	__atomic_store_n(&t->depth, t->depth + 1, __ATOMIC_RELEASE);
	show_context(th);
	if (f->detail && what->nargs)
		put_arguments(r, th, f, o, what, false, call, got);
}

bool records_exit(struct records *r, const struct kernel_call *call, enum kernel_got got, uint32_t site, const struct capture *what)
{
	uint64_t cfa = call->ev.cfa, ns = call->ev.ns;
	struct thread *th = thread_of(r, call->ev.tid, false);
	if (!th)
		return false;
	struct kw_thread *t = th->t;
	while (t->depth && th->frame[t->depth - 1].cfa < cfa)
		drop(r, th);
	th->exited = cfa;
	uint32_t i = t->depth;
	while (i > 0 && th->frame[i - 1].cfa == cfa && t->open[i - 1].site != site)
		i--;
	if (!i || th->frame[i - 1].cfa != cfa)
		return false;
	while (t->depth > i)
		drop(r, th);
	struct kw_open *o = &t->open[i - 1];
	struct frame *f = &th->frame[i - 1];
	uint64_t ticks = ns > f->ns ? (uint64_t)((double)(ns - f->ns) * r->clock.rate) : 0;
	if (o->flags & OPEN_COUNT) {
		count(r, th, site, &ticks);
	} else if (!(o->flags & OPEN_UNSAMPLED)) {
		if (f->detail && what->nargs)
			put_arguments(r, th, f, o, what, true, call, got);
		struct kw_rec_span *rec = write_context(r, th, &f->ctx) ? reserve(r, th, sizeof *rec) : NULL;
		if (rec) {
			*rec = (struct kw_rec_span){ .r = { site, KW_REC_SPAN, 1, f->cut ? KW_REC_TRUNCATED : 0 }, .start_tsc = o->start_tsc, .ticks = ticks,
				.seq = o->seq, .parent_seq = o->parent_seq };
			commit(th, sizeof *rec);
		} else {
			t->lost_full++;
		}
	}
	pop(th);
	return true;
}

void records_call(struct records *r, uint32_t tid, uint32_t site)
{
	if (!level_of(r, site))
		return;
	struct thread *th = thread_of(r, tid, true);
	if (th)
		count(r, th, site, NULL);
	else
		r->control->lost_no_slot++;
}

/* Whose they were is not known: they go into the account of the first thread there is. */
void records_lost(struct records *r, uint32_t site, uint32_t entries, uint32_t exits)
{
	struct thread *th = NULL;
	for (uint32_t i = 0; i < TIDS && !th; i++)
		th = r->threads[i];
	r->lost_exits[site] += exits;
	unsigned level = level_of(r, site);
	if (!entries || !level)
		return;
	if (!th) {
		r->control->lost_no_slot += entries;
	} else if (level < KW_SPAN) {
		th->t->lost_cells += entries;
	} else {
		__atomic_store_n(&th->t->seq, th->t->seq + entries, __ATOMIC_RELAXED);
		th->t->lost_full += entries;
	}
}

bool records_open_calls(const struct records *r, uint32_t site)
{
	for (uint32_t i = 0; i < TIDS; i++)
		for (const struct thread *th = r->threads[i]; th; th = th->next)
			for (uint32_t d = 0; d < th->t->depth; d++)
				if (th->t->open[d].site == site)
					return true;
	return false;
}

/* A thread is seen to be gone in one sweep and ended in the next: until then, what the kernel noted of it before has been
 * read. */
void records_sweep(struct records *r, bool all)
{
	char path[64];
	for (uint32_t i = 0; i < TIDS; i++)
		for (struct thread **at = &r->threads[i], *th; (th = *at);) {
			if (th->gone || all) {
				while (th->t->depth)
					drop(r, th);
				/* Pairs with the agent's acquire: it then banks and frees the slot. */
				__atomic_store_n(&th->t->state, (uint32_t)KW_THREAD_DEAD, __ATOMIC_RELEASE);
				*at = th->next;
				free(th);
				continue;
			}
			snprintf(path, sizeof path, "/proc/%d/task/%u", r->pid, th->t->tid);
			th->gone = !th->seen && access(path, F_OK) < 0 && errno == ENOENT;
			th->seen = false;
			at = &th->next;
		}
}
