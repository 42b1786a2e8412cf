/* Functions that nobody instrumented: called by the gate (gate.S) at their entry and exit, on the program's own threads. Each call that is
 * recorded has a frame on the thread's shadow stack, with the real return address and the handle of its span; the span itself is span.c's.
 *
 * Frames are found by where the return address was (the CFA), never by their order alone: longjmp, exceptions, coroutines and signal handlers
 * leave frames behind or come between. A call that cannot be followed to its end is let through and counted. Nothing here allocates, waits or
 * touches a vector register; what may (a thread's first record, reading strings, plugins) runs inside klieg__call_saved() or klieg__call_kept(). */
#include "probe/fast.h"
#include "probe/gate_offsets.h"
#include "probe/hook_internal.h"
#include "probe/plugin_internal.h"
#include "wire/call.h"
#include <pthread.h>
#include <stdlib.h>
#include <sys/resource.h>

#if defined(__x86_64__)

enum { FRAME_ROOT = 1, FRAME_TAIL = 2, FRAME_PLUGIN = 4, FRAME_MORE = 8 /* at the exit: a result to record, a least duration */ };
#define FREE UINT64_MAX
#define TEXT_MAX 256 /* of a string argument */

/* What gate.S does by hand, it does to these. */
#define IS(value, name) _Static_assert((value) == (name), #name " in gate_offsets.h")
#define AT(type, field, name) IS(offsetof(struct type, field), name)
AT(klieg__thread, t, ME_T); AT(klieg__thread, here, ME_HERE); AT(klieg__thread, head, ME_HEAD); AT(klieg__thread, limit, ME_LIMIT);
AT(klieg__thread, trace_hi, ME_TRACE_HI); AT(klieg__thread, trace_lo, ME_TRACE_LO); AT(klieg__thread, ctx_flags, ME_CTX_FLAGS);
AT(klieg__thread, seq, ME_SEQ); AT(klieg__thread, root_depth, ME_ROOT_DEPTH); AT(klieg__thread, generation, ME_GENERATION);
AT(klieg__thread, ctx_dirty, ME_CTX_DIRTY); AT(klieg__thread, busy, ME_BUSY); AT(klieg__thread, gate, ME_GATE);
AT(klieg__thread, ready, ME_READY); AT(klieg__process, control, PROCESS_CONTROL); AT(klieg__process, sites, PROCESS_SITES);
AT(klieg__process, epoch, PROCESS_EPOCH); AT(kw_control, lease_tsc, CONTROL_LEASE); AT(kw_gate, top, GATE_TOP);
AT(kw_gate, thunk, GATE_THUNK); AT(kw_gate, stack_low, GATE_STACK_LOW); AT(kw_gate, stack_bytes, GATE_STACK_BYTES);
AT(kw_gate, frame, FRAME_BYTES); AT(kw_frame, cfa, FRAME_CFA); AT(kw_frame, ra, FRAME_RA); AT(kw_frame, hook, FRAME_HOOK);
AT(kw_frame, flags, FRAME_FLAGS); AT(kw_frame, span, FRAME_SPAN); AT(kw_hook, target, HOOK_TARGET); AT(kw_hook, site1, HOOK_SITE1);
AT(kw_hook, flags, HOOK_FLAGS); AT(kw_hook, data, HOOK_DATA); AT(kw_hook, min_ticks, HOOK_MIN_TICKS); AT(kw_site_state, level, SITE_LEVEL);
AT(kw_thread, head, T_HEAD); AT(kw_thread, depth, T_DEPTH); AT(kw_thread, seq, T_SEQ); AT(kw_thread, open, T_OPEN);
AT(kw_thread, generation, T_GENERATION); AT(kw_open, start_tsc, OPEN_START); AT(kw_open, cookie, OPEN_COOKIE); AT(kw_open, site, OPEN_SITE);
AT(kw_open, seq, OPEN_SEQ); AT(kw_open, parent_seq, OPEN_PARENT); AT(kw_open, flags, OPEN_FLAGS); AT(kw_rec_span, r.site, REC_SITE);
AT(kw_rec_span, r.type, REC_WHAT); AT(kw_rec_span, start_tsc, REC_START); AT(kw_rec_span, ticks, REC_TICKS); AT(kw_rec_span, seq, REC_SEQ);
AT(kw_rec_span, parent_seq, REC_PARENT); IS(KW_HOOK_STRINGS, HOOK_STRINGS); IS(KW_CTX_SAMPLED, CTX_KEPT); IS(CTX_UNDECIDED, CTX_NOT_YET);
IS(KW_COUNT, LEVEL_COUNT); IS(KW_SPAN, LEVEL_SPAN); IS(KW_MAX_SITES, MAX_SITES); IS(KW_OPEN_MAX, OPEN_MAX);
IS(sizeof(struct kw_open), OPEN_BYTES); IS(sizeof(struct kw_open), 1 << OPEN_SHIFT); IS(sizeof(struct kw_site_state), 1 << SITE_SHIFT);
IS(OPEN_ENDED, OPEN_IS_ENDED); IS(OPEN_COUNT, 1u << OPEN_COUNT_BIT); IS(sizeof(struct kw_rec_span), REC_BYTES);
IS(KW_REC_SPAN | sizeof(struct kw_rec_span) / KW_UNIT << 8, REC_IS_SPAN); IS(sizeof(struct kw_frame), FRAME_BYTES);
IS(KW_STATE_GATED << 8, SITE_GATED); IS(7u << KW_CTX_LEVEL_SHIFT, CTX_LEVEL);
_Static_assert(offsetof(klieg_span, open) == 0 && offsetof(klieg_span, seq) == 4, "as FRAME_SPAN says");

_Static_assert(sizeof(klieg_span) <= sizeof ((struct kw_frame *)0)->span, "the handle has its place in the frame");

static inline klieg_span *span_of(struct kw_frame *f) { return (klieg_span *)f->span; }
static inline struct kw_frame *top_of(const struct kw_gate *g) { return (struct kw_frame *)(uintptr_t)g->top; }
static inline struct kw_frame *sentinel(struct kw_gate *g) { return &g->frame[KW_FRAMES]; }
static inline uint64_t thunk_of(const struct kw_gate *g) { return (uint64_t)(uintptr_t)klieg__gate_thunks + (uint64_t)(g - klieg__gate_data) * KW_THUNK_BYTES; }
static inline bool is_thunk(uint64_t address)
{
	return address - (uint64_t)(uintptr_t)klieg__gate_thunks < (uint64_t)KW_GATES * KW_THUNK_BYTES;
}

/* ---- whose stack is it? ------------------------------------------------------------------------------------------- */

/* Only calls on the thread's own stack are followed: a coroutine's may go on on another thread, or never. glibc keeps the bounds of a thread's stack in
 * its struct pthread; where, is found out once, by looking for what pthread_getattr_np says of the thread that loads us. */
static uint64_t main_low, main_high, thread_bytes;
static size_t stack_at; /* offset from the thread pointer of { stackblock, stackblock_size }; 0 = not known */

static inline uint64_t thread_pointer(void)
{
	uint64_t fs;
	__asm__("mov %%fs:16, %0" : "=r"(fs)); /* tcbhead_t.self of struct pthread */
	return fs;
}

extern void *__libc_stack_end __attribute__((weak));

__attribute__((constructor(102))) static void learn_stacks(void)
{
	struct rlimit r;
	uint64_t bytes = getrlimit(RLIMIT_STACK, &r) == 0 && r.rlim_cur != RLIM_INFINITY ? r.rlim_cur : 1ull << 30;
	if (&__libc_stack_end && __libc_stack_end) {
		main_high = ((uint64_t)(uintptr_t)__libc_stack_end | 4095) + 1;
		main_low = main_high - (bytes < main_high ? bytes : main_high);
	}
	pthread_attr_t a;
	void *low = NULL;
	size_t size = 0, guard = 0;
	thread_bytes = bytes > 8ull << 20 ? 8ull << 20 : bytes;
	if (pthread_getattr_np(pthread_self(), &a))
		return;
	pthread_attr_getstack(&a, &low, &size);
	pthread_attr_getguardsize(&a, &guard);
	pthread_attr_destroy(&a);
	uint64_t here = (uint64_t)(uintptr_t)&a;
	const uint64_t *self = (const uint64_t *)thread_pointer();
	bool main_thread = main_high && here - main_low < main_high - main_low;
	for (size_t i = 64; i + 1 < 280 && !stack_at; i++) { /* struct pthread is 2,304 bytes in glibc 2.34 to 2.41 */
		if (main_thread ? self[i] == 0 && self[i + 1] == (uint64_t)(uintptr_t)__libc_stack_end :
			self[i] + self[i + 1] == (uint64_t)(uintptr_t)low + size && (self[i] == (uint64_t)(uintptr_t)low || self[i] + guard == (uint64_t)(uintptr_t)low))
			stack_at = i * 8;
	}
}

static inline bool own_stack(uint64_t at)
{
	if (at - main_low < main_high - main_low)
		return true;
	uint64_t fs = thread_pointer();
	if (klieg__unlikely(!stack_at))
		return fs - at < thread_bytes; /* a thread's control block is at the top of its stack */
	const uint64_t *block = (const uint64_t *)(fs + stack_at);
	return block[0] && at - block[0] < block[1]; /* the first thread's block is { 0, the end of its stack }: anything would be within */
}

/* The same for the quick way (gate.S): the bounds of the calling thread's stack, once. Not known: none, and own_stack() is asked at every call. */
static void learn_own_stack(struct kw_gate *g)
{
	const uint64_t *block = (const uint64_t *)(thread_pointer() + stack_at);
	g->stack_low = g->stack_bytes = 0;
	if (!stack_at)
		return;
	g->stack_low = block[0] ? block[0] : main_low;
	g->stack_bytes = block[0] ? block[1] : main_high - main_low;
}

/* ---- the shadow stack ---------------------------------------------------------------------------------------------- */

static uint64_t claim(void *arg)
{
	struct klieg__thread *me = arg;
	if (!klieg__thread_attach(me))
		return 0;
	static uint32_t hand; /* where the last free one was */
	for (uint32_t k = 0, i = klieg__load(&hand, RELAXED); !me->gate && k < KW_GATES; k++, i++) {
		struct kw_gate *g = &klieg__gate_data[i % KW_GATES];
		uint64_t nobody = 0;
		if (klieg__load(&g->owner, RELAXED) || !__atomic_compare_exchange_n(&g->owner, &nobody, (uint64_t)me->t->tid, false, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED))
			continue;
		klieg__store(&hand, i + 1, RELAXED);
		for (uint32_t f = 0; f < KW_FRAMES; f++)
			g->frame[f].cfa = FREE, g->frame[f].flags = 0;
		sentinel(g)->cfa = sentinel(g)->ra = 0;
		learn_own_stack(g);
		g->thunk = thunk_of(g);
		g->top = (uint64_t)(uintptr_t)sentinel(g);
		me->gate = g;
	}
	return me->gate != NULL;
}

/* The thread has a slot and a shadow stack; the first time, and after a fork, they have to be had. */
static __attribute__((noinline)) bool prepare(struct klieg__thread *me)
{
	if (!klieg__process.region || !klieg__process.epoch || (me->failed && me->epoch == klieg__load(klieg__process.epoch, RELAXED)))
		return false;
	me->busy = true;
	bool ok = klieg__slot_now(me) && me->gate ? true : klieg__call_saved(claim, me);
	me->busy = false;
	return ok;
}

/* The thread has no slot: there is none, or a signal came while it was being had. */
static __attribute__((noinline, cold)) uint64_t nowhere(const struct kw_hook *h)
{
	if (klieg__process.region && h->site1 - 1 < KW_MAX_SITES && klieg__load(&klieg__process.sites[h->site1 - 1].level, RELAXED) >= KW_SPAN)
		__atomic_fetch_add(&klieg__process.control->lost_no_slot, 1, __ATOMIC_RELAXED);
	return 0;
}

static void pop(struct kw_gate *g, struct kw_frame *f)
{
	klieg__store(&g->top, (uint64_t)(uintptr_t)(f + 1), RELAXED);
	atomic_signal_fence(memory_order_seq_cst);
	f->flags = 0; /* as every place that is free has it */
}

/* The context that a root interrupted comes back. */
static void root_over(struct klieg__thread *me, struct kw_gate *g)
{
	klieg__turn(me);
	me->trace_hi = g->saved[0];
	me->trace_lo = g->saved[1];
	me->parent = g->saved[2];
	me->threshold = g->saved[3];
	me->ctx_flags = (uint32_t)g->saved[4];
	me->generation = (uint32_t)(g->saved[4] >> 32);
	me->seq = (uint32_t)g->saved[5];
	me->root_depth = (uint32_t)(g->saved[5] >> 32);
	me->rv = g->saved_rv;
	me->waiting.queue = NULL; /* what was taken during a request is not what the next one begins with */
	g->in_root = 0;
}

static void root_begin(struct klieg__thread *me, struct kw_gate *g)
{
	g->saved[0] = me->trace_hi;
	g->saved[1] = me->trace_lo;
	g->saved[2] = me->parent;
	g->saved[3] = me->threshold;
	g->saved[4] = me->ctx_flags | (uint64_t)me->generation << 32;
	g->saved[5] = me->seq | (uint64_t)me->root_depth << 32;
	g->saved_rv = me->rv;
	klieg__turn(me);
	me->trace_hi = me->trace_lo = me->parent = 0;
	me->ctx_flags = 0;
	me->seq = me->root_depth = 0;
	g->in_root = 1;
}

/* A frame whose function will never return through us. */
static void drop(struct klieg__thread *me, struct kw_gate *g, struct kw_frame *f)
{
	if (span_of(f)->open)
		klieg__drop_frame(span_of(f));
	if (f->flags & FRAME_ROOT)
		root_over(me, g);
	pop(g, f);
}

/* ---- arguments ------------------------------------------------------------------------------------------------------ */

uint64_t klieg__hook_argument(const struct kw_arg *a, const struct klieg__regs *regs, const uint64_t *slot, uint64_t rax)
{
	uint64_t v = 0;
	switch (a->at) {
	case 0: v = regs->rdi; break;
	case 1: v = regs->rsi; break;
	case 2: v = regs->rdx; break;
	case 3: v = regs->rcx; break;
	case 4: v = regs->r8; break;
	case 5: v = regs->r9; break;
	case KW_ARG_RET: v = rax; break;
	default:
		if (a->at >= 16 && a->at < 80)
			v = slot[1 + a->at - 16];
	}
	return kw_arg_narrow(a, v);
}

struct call { const struct klieg__regs *regs; const uint64_t *slot; };
static uint64_t argument_of(const void *call, const struct kw_arg *a)
{
	const struct call *c = call;
	return klieg__hook_argument(a, c->regs, c->slot, 0);
}

struct capture { const struct kw_hook *h; const struct klieg__regs *regs; const uint64_t *slot; struct kw_frame *f; uint64_t rax; bool leaving; };

static uint64_t capture_saved(void *arg)
{
	struct capture *c = arg;
	struct klieg__value v[KW_HOOK_ARGS];
	char text[4][TEXT_MAX];
	unsigned n = 0, first = 0, strings = 0;
	for (unsigned i = 0; i < c->h->nargs && i < KW_HOOK_ARGS; i++) {
		const struct kw_arg *a = &c->h->args[i];
		if ((a->at == KW_ARG_RET) != c->leaving)
			continue;
		if (!n)
			first = a->key;
		uint64_t x = klieg__hook_argument(a, c->regs, c->slot, c->rax);
		v[n] = (struct klieg__value){ .type = KW_INT, .len = 8, .u.i = (int64_t)x };
		if (a->kind == KW_ARG_STRING && c->h->flags & KW_HOOK_STRINGS && strings < 4) {
			size_t got = klieg__read_safely(text[strings], x, TEXT_MAX), len = strnlen(text[strings], got);
			if (got) {
				v[n].type = KW_STR;
				v[n].u.p = text[strings++];
				v[n].len = (uint32_t)len;
			}
		}
		n++;
	}
	if (n)
		klieg__attributes_from((const struct klieg__slot *)&c->h->site1, span_of(c->f), first, v, (int)n);
	return 0;
}

/* ---- entry and exit -------------------------------------------------------------------------------------------------- */

/* Nothing is on here: the agent wants to know whether certain functions call this one. */
static __attribute__((noinline)) void watch(const struct kw_hook *h, const uint64_t *slot)
{
	struct kw_watched *w = (struct kw_watched *)(uintptr_t)klieg__load(&h->watch, RELAXED);
	uint64_t from = *slot;
	if (!w)
		return;
	if (klieg__unlikely(is_thunk(from))) { /* a hooked function jumped here */
		const struct kw_gate *g = klieg__thread.gate;
		const struct kw_frame *f = g ? top_of(g) : NULL;
		from = f && f->cfa == (uint64_t)(uintptr_t)(slot + 1) ? ((const struct kw_hook *)(uintptr_t)f->hook)->function : 0;
	}
	klieg__store(&w->calls, klieg__load(&w->calls, RELAXED) + 1, RELAXED);
	for (uint32_t i = 0; i < KW_HOOK_WHERE && h->range[i].bytes; i++)
		if (from - h->range[i].first < h->range[i].bytes)
			klieg__store(&w->from, from, RELAXED);
}

uint64_t klieg__hook_enter(const struct kw_hook *h, uint64_t *slot, const struct klieg__regs *regs)
{
	struct klieg__thread *me = &klieg__thread;
	if (klieg__unlikely(me->timed)) {
		struct klieg__timing x = klieg__timing_begins(me);
		uint64_t thunk = klieg__hook_enter(h, slot, regs);
		klieg__timing_ends(me, &x, 1);
		return thunk;
	}
	slot[-2] = h->target;
	if (klieg__unlikely(klieg__load(&h->flags, RELAXED) & KW_HOOK_WATCH)) {
		watch(h, slot);
		return 0;
	}
	if (klieg__unlikely(me->busy | me->in_plugin)) { /* a signal handler inside a probe, or what a probe calls itself */
		if (me->t && !me->in_plugin)
			__atomic_fetch_add(&me->t->lost_reentrant, 1, __ATOMIC_RELAXED);
		return me->t || me->in_plugin ? 0 : nowhere(h);
	}
	if (klieg__unlikely(!klieg__process.region || h->site1 - 1 >= KW_MAX_SITES))
		return 0;
	const struct kw_site_state *st = klieg__process.sites + (h->site1 - 1);
	unsigned level = klieg__load(&st->level, RELAXED);
	if (!level || (!h->data && not_for_us(me, h->site1 - 1))) /* a plugin knows more about who asks */
		return 0;
	if (klieg__unlikely(!klieg__slot_now(me) || !me->gate) && !prepare(me))
		return nowhere(h);
	me->ready = me->epoch;
	if (klieg__unlikely(h->nwhere) && !kw_where_holds(h->where, h->nwhere, argument_of, &(struct call){ regs, slot })) {
		me->t->left_out++;
		return 0;
	}
	struct kw_gate *g = me->gate;
	uint64_t cfa = (uint64_t)(uintptr_t)(slot + 1);
	if (klieg__unlikely(!own_stack(cfa))) {
		klieg__lost_frame((const struct klieg__slot *)&h->site1);
		return 0;
	}
	struct kw_frame *top = top_of(g);
	bool tail = is_thunk(*slot); /* a hooked function jumped here: the frame is ours already */
	while (klieg__unlikely(top->cfa && (top->cfa < cfa || (top->cfa == cfa && !tail)))) {
		drop(me, g, top);
		top = top_of(g);
	}
	if (klieg__unlikely(top == g->frame || (tail && top->cfa != cfa))) {
		klieg__lost_frame((const struct klieg__slot *)&h->site1);
		return 0;
	}
	struct kw_frame *f = top - 1;
	f->cfa = FREE; /* a signal handler that looks at the place before it is filled takes it for nobody's */
	atomic_signal_fence(memory_order_seq_cst);
	klieg__store(&g->top, (uint64_t)(uintptr_t)f, RELAXED); /* ours from here on; of cfa FREE until it is whole */
	atomic_signal_fence(memory_order_seq_cst);
	f->ra = tail ? top->ra : *slot;
	f->hook = (uint64_t)(uintptr_t)h;
	f->flags = (tail ? FRAME_TAIL : 0) | (h->nargs || h->min_ticks ? FRAME_MORE : 0);
	span_of(f)->open = 0;
	atomic_signal_fence(memory_order_seq_cst);
	f->cfa = cfa;
	if (klieg__unlikely(h->flags & KW_HOOK_ROOT) && level >= KW_SPAN && !g->in_root) {
		root_begin(me, g);
		f->flags |= FRAME_ROOT;
	}
	if (klieg__unlikely(h->data) && !klieg__plugin_enter(h, regs, slot, f->user, level))
		goto no;
	int got = begin_fast(me, h->site1 - 1, span_of(f));
	if (klieg__unlikely(!got))
		got = klieg__begin_frame((const struct klieg__slot *)&h->site1, span_of(f));
	if (klieg__likely(span_of(f)->open)) {
		if (klieg__unlikely(h->data)) {
			f->flags |= FRAME_PLUGIN;
			if (got >= KW_SPAN)
				klieg__plugin_begun(h, regs, slot, f->user, span_of(f));
		}
		if (klieg__unlikely(got >= KW_DETAIL && h->flags & KW_HOOK_ROOT && !h->data && klieg__has_waited()))
			klieg__plugin_root(h, span_of(f));
		if (klieg__unlikely(got >= KW_DETAIL && h->nargs)) {
			struct capture c = { h, regs, slot, f, 0, false };
			klieg__call_kept(capture_saved, &c);
		}
		return tail ? 0 : g->thunk;
	}
no:
	if (f->flags & FRAME_ROOT)
		root_over(me, g);
	pop(g, f);
	return 0;
}

void klieg__hook_leave(uint64_t *slot, uint64_t rax)
{
	struct klieg__thread *me = &klieg__thread;
	if (klieg__unlikely(me->timed)) {
		struct klieg__timing x = klieg__timing_begins(me);
		klieg__hook_leave(slot, rax);
		klieg__timing_ends(me, &x, 1);
		return;
	}
	struct kw_gate *g = me->gate;
	uint64_t cfa = (uint64_t)(uintptr_t)(slot + 1);
	struct kw_frame *f = top_of(g);
	while (klieg__unlikely(f->cfa && f->cfa < cfa)) { /* left by longjmp or an exception */
		drop(me, g, f);
		f = top_of(g);
	}
	if (klieg__unlikely(f->cfa != cfa)) { /* cannot be: then there is nowhere to go back to */
		while (f->cfa && f->cfa != cfa)
			f++;
		if (!f->cfa)
			abort();
		*slot = f->ra;
		return;
	}
	*slot = f->ra;
	do { /* the function, and those that jumped to it at their end */
		const struct kw_hook *h = (const struct kw_hook *)(uintptr_t)f->hook;
		klieg_span *s = span_of(f);
		if (klieg__unlikely(f->flags & FRAME_PLUGIN))
			klieg__plugin_leave(h, rax, f->user, s);
		if (klieg__unlikely(h->nargs) && h->args[h->nargs - 1].at == KW_ARG_RET && klieg__span_level(s)) {
			struct capture c = { h, NULL, slot, f, rax, true };
			klieg__call_kept(capture_saved, &c);
		}
		if (klieg__unlikely(!s->open || h->min_ticks) || klieg__unlikely(!end_fast(me, s)))
			if (s->open)
				klieg__end_frame(s, h->min_ticks);
		if (klieg__unlikely(f->flags & FRAME_ROOT))
			root_over(me, g);
		pop(g, f);
		f = top_of(g);
	} while (klieg__unlikely(f->cfa == cfa));
}

/* ---- life ------------------------------------------------------------------------------------------------------------- */

void klieg__hook_region(struct kw_region *r)
{
	r->gate_enter = (uint64_t)(uintptr_t)klieg__gate_enter;
	r->gate_thunks = (uint64_t)(uintptr_t)klieg__gate_thunks;
	r->gate_data = (uint64_t)(uintptr_t)klieg__gate_data;
	r->gate_text = (uint64_t)(uintptr_t)klieg__gate_text;
	r->gate_text_bytes = (uint64_t)(klieg__gate_text_end - klieg__gate_text);
	r->gate_count = KW_GATES;
	r->gate_stride = KW_GATE_BYTES;
	r->plugin_host = (uint64_t)(uintptr_t)klieg__plugin_host();
}

/* Frames below us are gone (pthread_exit). One above that still returns to us will: its shadow stack then stays taken. */
void klieg__hook_thread_exit(struct klieg__thread *me)
{
	struct kw_gate *g = me->gate;
	uint64_t here = (uint64_t)(uintptr_t)__builtin_frame_address(0);
	if (!g)
		return;
	for (struct kw_frame *f = top_of(g); f->cfa; f++)
		if (f->cfa > here && is_thunk(*(const uint64_t *)(uintptr_t)(f->cfa - 8)))
			return;
	me->gate = NULL;
	klieg__store(&g->owner, 0, RELEASE);
}

void klieg__hook_forked(struct klieg__thread *me)
{
	for (uint32_t i = 0; i < KW_GATES; i++)
		if (klieg__gate_data[i].owner && &klieg__gate_data[i] != me->gate)
			klieg__gate_data[i].owner = 0;
}

#else

void klieg__hook_region(struct kw_region *r) { r->gate_count = 0; }
void klieg__hook_thread_exit(struct klieg__thread *me) { (void)me; }
void klieg__hook_forked(struct klieg__thread *me) { (void)me; }

#endif
