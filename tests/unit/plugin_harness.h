/* Calls functions as if they were intercepted: with the hooks and handlers of a real plugin, through hook.c as the gate does it, but without a patched byte.
 * For tests that link libklieg's objects. What was recorded is read from the ring as the agent reads it. */
#pragma once
#include "probe/plugin_internal.h"
#include "probe_harness.h"
#include <dlfcn.h>
#include <errno.h>

enum { SEEN = 64, WAITING = 512 };
struct seen_attr { char key[64], text[1200]; int type; int64_t number; };
struct seen_span { uint32_t site, seq; uint64_t trace_hi, trace_lo, parent, id, ticks; bool error; char status[300]; struct seen_attr attr[24]; int nattrs; };
static struct seen_span seen[SEEN];
static int nseen;
static struct { const struct klieg_plugin *plugin; struct kw_hook hook[96]; } P;

/* The hooks of plugin `name` become sites of this process, all at `level`. */
static const struct klieg_plugin *use_plugin(const char *name, unsigned level)
{
	char path[4096];
	const struct klieg_plugin *(*entry)(const struct klieg_host *) = NULL;
	ssize_t n = readlink("/proc/self/exe", path, 3000); /* Meson builds them in one folder with this test */
	assert_true(n > 0);
	path[n] = 0;
	snprintf(strrchr(path, '/'), 256, "/%s.so", name);
	void *so = dlopen(path, RTLD_NOW | RTLD_LOCAL);
	if (!so)
		fprintf(stderr, "%s\n", dlerror());
	assert_non_null(so);
	*(void **)&entry = dlsym(so, "klieg_plugin");
	assert_non_null(entry);
	const struct klieg_plugin *p = entry(klieg__plugin_host());
	assert_non_null(p);
	assert_int_equal(p->size, sizeof *p);
	assert_int_equal(p->hook_size, sizeof *p->hooks);
	assert_string_equal(p->name, name);
	uint32_t first = H.c->sites_n;
	H.c->sites_n += p->nhooks;
	assert_true(p->nhooks <= sizeof P.hook / sizeof *P.hook);
	for (uint32_t i = 0; i < p->nhooks; i++) {
		const struct klieg_plugin_hook *k = &p->hooks[i];
		uint64_t data = (uint64_t)(uintptr_t)k;
		P.hook[i] = (struct kw_hook){ .site1 = first + i + 1, .flags = k->flags & KLIEG_HOOK_ROOT ? KW_HOOK_ROOT : 0, .data = data };
		H.states[first + i] = (struct kw_site_state){ .level = (uint8_t)level };
	}
	P.plugin = p;
	return p;
}

static const struct kw_hook *hook_named(const char *function)
{
	for (uint32_t i = 0; i < P.plugin->nhooks; i++)
		if (!strcmp(P.plugin->hooks[i].function, function))
			return &P.hook[i];
	fail_msg("no hook for %s", function);
	return NULL;
}

/* fn(a0..a5, more...) with hook h around it. Arguments are integers and pointers. */
typedef uint64_t (*any_fn)(uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t);
static __attribute__((noinline)) uint64_t intercepted(const struct kw_hook *h, any_fn fn, const uint64_t a[8])
{
	uint64_t stack[16] = { 0 }, *slot = stack + 8; /* the gate keeps words below the return address */
	struct klieg__regs regs = { .rdi = a[0], .rsi = a[1], .rdx = a[2], .rcx = a[3], .r8 = a[4], .r9 = a[5] };
	slot[0] = (uint64_t)(uintptr_t)__builtin_return_address(0);
	slot[1] = a[6];
	slot[2] = a[7];
	bool followed = klieg__hook_enter(h, slot, &regs) != 0;
	uint64_t rc = fn(regs.rdi, regs.rsi, regs.rdx, regs.rcx, regs.r8, regs.r9, slot[1], slot[2]);
	if (followed)
		klieg__hook_leave(slot, rc);
	return rc;
}
#define U(x) ((uint64_t)(x))
#define CALL(h, fn, ...) intercepted(h, (any_fn)(void (*)(void))(fn), (const uint64_t[8]){ __VA_ARGS__ })

/* Reads what a thread recorded since the last time into seen[]. */
static void look_at(pid_t tid)
{
	static struct any_record r;
	struct kw_rec_ctx ctx = { 0 };
	struct kw_thread *t = slot_of((unsigned)tid);
	if (t) /* records before the first context here belong to the current one */
		ctx = (struct kw_rec_ctx){ .trace_hi = t->agent_trace_hi, .trace_lo = t->agent_trace_lo, .parent_id = t->agent_parent_id };
	static struct seen_span waiting[WAITING]; /* attributes come before their span */
	nseen = 0;
	memset(seen, 0, sizeof seen);
	while (t && nseen < SEEN && next_record(t, &r)) {
		if (r.r.type == KW_REC_CTX) {
			ctx = r.ctx;
		} else if (r.r.type == KW_REC_ATTR || r.r.type == KW_REC_STATUS) {
			struct seen_span *w = &waiting[r.event.seq % WAITING];
			if (w->seq != r.event.seq)
				memset(w, 0, sizeof *w);
			w->seq = r.event.seq;
			uint8_t *at = r.b + sizeof(struct kw_rec_event);
			for (unsigned i = 0; i < (unsigned)r.r.flags >> KW_REC_NATTR_SHIFT; i++) {
				struct kw_attr a;
				memcpy(&a, at, sizeof a);
				const char *key = (const char *)at + sizeof a;
				size_t k = strlen(key) + 1, n = a.len - k;
				if (r.r.type == KW_REC_STATUS) {
					snprintf(w->status, sizeof w->status, "%.*s", (int)n, key + k);
				} else {
					assert_true(w->nattrs < 24);
					struct seen_attr *x = &w->attr[w->nattrs++];
					snprintf(x->key, sizeof x->key, "%s", key);
					x->type = a.type;
					if (a.type == KW_STR)
						snprintf(x->text, sizeof x->text, "%.*s", (int)n, key + k);
					else
						memcpy(&x->number, key + k, 8);
				}
				at += sizeof a + (a.len + 7u) / 8u * 8u;
			}
		} else if (r.r.type == KW_REC_SPAN || r.r.type == KW_REC_SPANX) {
			bool x = r.r.type == KW_REC_SPANX;
			struct seen_span *s = &seen[nseen++];
			uint64_t id = x ? r.spanx.span_id : kw_span_id(t->seed, r.span.seq);
			for (int i = 0; i < WAITING; i++)
				if (waiting[i].seq && kw_span_id(t->seed, waiting[i].seq) == id) {
					*s = waiting[i];
					waiting[i].seq = 0;
				}
			s->site = r.r.site;
			s->id = id;
			s->error = r.r.flags & KW_REC_ERROR;
			s->ticks = x ? r.spanx.ticks : r.span.ticks;
			s->trace_hi = x ? r.spanx.trace_hi : ctx.trace_hi;
			s->trace_lo = x ? r.spanx.trace_lo : ctx.trace_lo;
			s->parent = x ? r.spanx.parent_id : r.span.parent_seq ? kw_span_id(t->seed, r.span.parent_seq) : ctx.parent_id;
		}
	}
	if (t) {
		t->agent_trace_hi = ctx.trace_hi;
		t->agent_trace_lo = ctx.trace_lo;
		t->agent_parent_id = ctx.parent_id;
	}
}

static inline void look(void) { look_at(gettid()); }

static struct seen_span *span_of_hook(const struct kw_hook *h)
{
	for (int i = 0; i < nseen; i++)
		if (seen[i].site == h->site1 - 1)
			return &seen[i];
	return NULL;
}

static const struct seen_attr *attr(const struct seen_span *s, const char *key)
{
	assert_non_null(s);
	for (int i = 0; i < s->nattrs; i++)
		if (!strcmp(s->attr[i].key, key))
			return &s->attr[i];
	return NULL;
}

static void assert_text(const struct seen_span *s, const char *key, const char *want)
{
	const struct seen_attr *a = attr(s, key);
	if (!a)
		fail_msg("no attribute %s", key);
	assert_string_equal(a->text, want);
}

static void assert_number(const struct seen_span *s, const char *key, int64_t want)
{
	const struct seen_attr *a = attr(s, key);
	if (!a)
		fail_msg("no attribute %s", key);
	assert_int_equal(a->number, want);
}
