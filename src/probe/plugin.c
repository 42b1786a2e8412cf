/* Runs the handlers of plugins around intercepted calls, on the program's own threads. hook.c calls in, with the vector
 * registers still the program's; a handler is ordinary code and runs inside klieg__call_kept(), everything that is no handler
 * stays outside of it. While one runs, me->in_plugin lets the functions that it calls pass untraced. Owns nothing: a run lives
 * on the stack of its call. */
#include "probe/plugin_internal.h"
#include <errno.h>

#if defined(__x86_64__) /* as the hooks are */

/* Is XGETBV with ECX = 1 there, and AVX? CPUID as in Intel's SDM: leaf 1 OSXSAVE, leaf 0xd sub-leaf 1. */
__attribute__((constructor(102))) static void learn_vectors(void)
{
	uint32_t a, b, c, d;
	__asm__("cpuid" : "=a"(a), "=b"(b), "=c"(c), "=d"(d) : "a"(0), "c"(0));
	if (a < 0xd)
		return;
	__asm__("cpuid" : "=a"(a), "=b"(b), "=c"(c), "=d"(d) : "a"(1), "c"(0));
	if (!(c & 1u << 27))
		return;
	__asm__("cpuid" : "=a"(a), "=b"(b), "=c"(c), "=d"(d) : "a"(0xd), "c"(1));
	if (!(a & 1u << 2))
		return;
	uint32_t low, high;
	__asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
	klieg__vectors = low & 4 ? VECTORS_AVX : VECTORS_SSE;
}

static inline const struct klieg_plugin_hook *hook_of(const struct kw_hook *h) { return (const struct klieg_plugin_hook *)(uintptr_t)h->data; }
static inline bool is_request(const struct klieg_plugin_hook *k) { return (k->flags & (KLIEG_HOOK_ROOT | KLIEG_HOOK_OPENS)) == KLIEG_HOOK_ROOT; }
static inline unsigned from_level(const struct klieg_plugin_hook *k) { return k->level ? k->level : KLIEG_LEVEL_DETAIL; }

/* Field by field: what an initialiser would clear besides is large, and clearing it may take vector registers. */
static inline void prepare_call(struct klieg_call *c, const struct klieg_plugin_hook *k, uint64_t *user, unsigned level)
{
	c->size = sizeof *c;
	c->level = level;
	c->host = klieg__host;
	c->hook = k;
	c->user = user;
	c->args = NULL;
	c->stack = NULL;
	c->result = 0;
	c->caller = NULL;
}

static inline void take_arguments(struct klieg_call *c, uint64_t args[6], const struct klieg__regs *regs, const uint64_t *ra_slot)
{
	args[0] = regs->rdi;
	args[1] = regs->rsi;
	args[2] = regs->rdx;
	args[3] = regs->rcx;
	args[4] = regs->r8;
	args[5] = regs->r9;
	c->args = args;
	c->stack = ra_slot + 1;
	c->caller = (const void *)(uintptr_t)*ra_slot;
}

/* What the function gets: the gate takes it from there. */
static inline void give_arguments(const uint64_t args[6], const struct klieg__regs *to)
{
	struct klieg__regs *regs = (struct klieg__regs *)to;
	regs->rdi = args[0];
	regs->rsi = args[1];
	regs->rdx = args[2];
	regs->rcx = args[3];
	regs->r8 = args[4];
	regs->r9 = args[5];
}

static inline void prepare_run(struct klieg__run *r, const struct kw_hook *h, uint64_t *user, unsigned level, klieg_span *s)
{
	prepare_call(&r->call, hook_of(h), user, level);
	r->h = h;
	r->span = r->own = s;
	r->drop = false;
	r->ctx = NULL;
	r->has_parent = r->begins = false;
	r->n = r->used = 0;
}

/* The request's own trace becomes current: hook.c has put aside what was, and brings it back. Only where a root has just begun:
 * nothing is current then. */
static void continue_parent(struct klieg__run *r)
{
	struct klieg__thread *me = &klieg__thread;
	if (r->has_parent && r->call.hook->flags & KLIEG_HOOK_ROOT && me->gate && me->gate->in_root && !(me->trace_hi | me->trace_lo))
		klieg_set_current(&r->parent, NULL);
}

static uint64_t run_saved(void *arg)
{
	struct klieg__run *r = arg;
	struct klieg__thread *me = &klieg__thread;
	uint64_t rc = KLIEG_TRACE, ready = me->ready;
	me->ready = NOT_READY;
	me->in_plugin = true;
	atomic_signal_fence(memory_order_seq_cst);
	int saved = errno;
	if (r->enter)
		rc = r->enter(&r->call) != KLIEG_PASS;
	else if (r->handler)
		r->handler(&r->call);
	if (r->begins)
		klieg__run_waited(r);
	if (r->n)
		klieg__run_flush(r);
	if (r->enter && rc)
		continue_parent(r);
	errno = saved;
	atomic_signal_fence(memory_order_seq_cst);
	me->in_plugin = false;
	me->ready = ready;
	return rc;
}

static __attribute__((noinline)) int enter_heavy(const struct kw_hook *h, const struct klieg__regs *regs, uint64_t *ra_slot,
	uint64_t user[4], unsigned level)
{
	struct klieg__run r;
	prepare_run(&r, h, user, level, NULL);
	take_arguments(&r.call, r.args, regs, ra_slot);
	r.enter = hook_of(h)->enter;
	int rc = (int)klieg__call_kept(run_saved, &r);
	give_arguments(r.args, regs);
	return rc;
}

int klieg__plugin_enter(const struct kw_hook *h, const struct klieg__regs *regs, uint64_t *ra_slot, uint64_t user[4],
	unsigned level)
{
	const struct klieg_plugin_hook *k = hook_of(h);
	user[0] = user[1] = user[2] = user[3] = 0;
	if (!k || !k->enter || level < from_level(k))
		return KLIEG_TRACE;
	if (!(k->flags & KLIEG_HOOK_LIGHT))
		return enter_heavy(h, regs, ra_slot, user, level);
	struct klieg_call c;
	uint64_t args[6];
	prepare_call(&c, k, user, level);
	take_arguments(&c, args, regs, ra_slot);
	return k->enter(&c) != KLIEG_PASS;
}

static __attribute__((noinline)) void begin_heavy(const struct kw_hook *h, const struct klieg__regs *regs, uint64_t *ra_slot,
	uint64_t user[4], unsigned level,
	klieg_span *s)
{
	struct klieg__run r;
	prepare_run(&r, h, user, level, s);
	take_arguments(&r.call, r.args, regs, ra_slot);
	r.enter = NULL;
	r.handler = hook_of(h)->begin;
	r.begins = is_request(hook_of(h)) && level >= KLIEG_LEVEL_DETAIL;
	klieg__call_kept(run_saved, &r);
	give_arguments(r.args, regs);
}

/* The level of an open span: klieg__span_level() knows detail. */
static inline unsigned level_now(const klieg_span *s) { return klieg__span_level(s) ? KLIEG_LEVEL_DETAIL : s->seq ? KLIEG_LEVEL_SPAN : KLIEG_LEVEL_COUNT; }

void klieg__plugin_begun(const struct kw_hook *h, const struct klieg__regs *regs, uint64_t *ra_slot, uint64_t user[4],
	klieg_span *s)
{
	const struct klieg_plugin_hook *k = hook_of(h);
	if (!k || (!k->begin && !(is_request(k) && klieg__has_waited())))
		return;
	unsigned level = level_now(s);
	if (level >= from_level(k))
		begin_heavy(h, regs, ra_slot, user, level, s);
}

void klieg__plugin_root(const struct kw_hook *h, klieg_span *s)
{
	struct klieg__run r;
	prepare_run(&r, h, NULL, KLIEG_LEVEL_DETAIL, s);
	r.enter = NULL;
	r.handler = NULL;
	r.begins = true;
	klieg__call_kept(run_saved, &r);
}

static inline bool failed(uint32_t fails, uint64_t rax)
{
	switch (fails) {
	case KLIEG_FAILS_NEGATIVE: return (int32_t)rax < 0;
	case KLIEG_FAILS_NEGATIVE_LONG: return (int64_t)rax < 0;
	case KLIEG_FAILS_NOT_POSITIVE: return (int32_t)rax <= 0;
	case KLIEG_FAILS_NONZERO: return (int32_t)rax != 0;
	case KLIEG_FAILS_NULL: return rax == 0;
	default: return false;
	}
}

static __attribute__((noinline)) void leave_heavy(const struct kw_hook *h, uint64_t rax, uint64_t user[4], unsigned level,
	klieg_span *s)
{
	struct klieg__run r;
	prepare_run(&r, h, user, level, s);
	r.call.result = rax;
	r.enter = NULL;
	r.handler = hook_of(h)->leave;
	klieg__call_kept(run_saved, &r);
	if (r.drop)
		klieg__end_frame(s, UINT64_MAX); /* shorter than that, so it goes as those do that are too short */
}

void klieg__plugin_leave(const struct kw_hook *h, uint64_t rax, uint64_t user[4], klieg_span *s)
{
	const struct klieg_plugin_hook *k = hook_of(h);
	if (!k || !s->open)
		return;
	if (k->fails && failed(k->fails, rax))
		klieg__status(s, 1, NULL);
	unsigned level = k->leave ? level_now(s) : 0;
	if (k->leave && level >= from_level(k))
		leave_heavy(h, rax, user, level, s);
}

#endif
