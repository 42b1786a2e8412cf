/* Between the hooks (hook.c) and what plugins do in them (plugin*.c). include/klieg/plugin.h is the plugins' side. */
#pragma once
#include "probe/hook_internal.h"
#include "klieg/plugin.h"
#include "probe/plugin_sql.h"

/* hook.c calls these around the span of a call whose kw_hook.data is the address of a struct klieg_plugin_hook. ra_slot: where
 * the return address is. enter: before the span begins; 0: not to be traced. It zeroes user. begun: the span is open and
 * recorded at level span or deeper. leave: before it ends. */
int klieg__plugin_enter(const struct kw_hook *h, const struct klieg__regs *regs, uint64_t *ra_slot, uint64_t user[4],
	unsigned level);
void klieg__plugin_begun(const struct kw_hook *h, const struct klieg__regs *regs, uint64_t *ra_slot, uint64_t user[4],
	klieg_span *s);
void klieg__plugin_leave(const struct kw_hook *h, uint64_t rax, uint64_t user[4], klieg_span *s);
/* The span of a root that was declared, and is no plugin's, is open at detail: how long has what it begins waited? */
void klieg__plugin_root(const struct kw_hook *h, klieg_span *s);
static inline bool klieg__has_waited(void) { return klieg__thread.waited_at || klieg__thread.waiting.queue; }
/* The host table given to plugins; kw_region.plugin_host. Behind it is struct kw_plugin_area (wire/plugin_area.h). */
void *klieg__plugin_host(void);

/* plugin_call.S: as klieg__call_saved, faster. klieg__vectors says what there is to keep. */
uint64_t klieg__call_kept(uint64_t (*fn)(void *), void *arg);
enum klieg__vectors { VECTORS_UNKNOWN = 0, VECTORS_SSE = 1, VECTORS_AVX = 2 };
extern uint32_t klieg__vectors;

/* A handler being run: what the host functions know beside the call. Lives on the stack of that call. */
enum { RUN_ATTRIBUTES = 16, RUN_TEXT = 1536 };
struct klieg__run {
	struct klieg_call call;      /* first: the host functions get this address */
	const struct kw_hook *h;
	klieg_span *span;            /* of the call, or of the request that open() or find() gave; NULL: none */
	klieg_span *own;             /* of the call; NULL: none yet */
	bool drop;
	const struct klieg_ctx *ctx; /* of that request; NULL: the thread's current one is meant */
	bool has_parent;
	bool begins;                 /* a request, perhaps one that has waited */
	struct klieg_ctx parent;
	int (*enter)(struct klieg_call *);
	void (*handler)(struct klieg_call *);
	uint64_t args[6];
	uint32_t n, used;
	const char *keys[RUN_ATTRIBUTES];
	struct klieg__value v[RUN_ATTRIBUTES];
	char text[RUN_TEXT];         /* what host functions made up: lasts until the attributes are written */
};
static inline struct klieg__run *klieg__run_of(struct klieg_call *call) { return (struct klieg__run *)call; }
extern const struct klieg_host *const klieg__host;

/* plugin_host.c */
void klieg__run_flush(struct klieg__run *r);  /* the attributes collected so far go to the span */
void klieg__run_waited(struct klieg__run *r); /* a request begins: how long has it waited? */
void klieg__run_requests_lost(void);
/* plugin_request.c */
int klieg__request_open(struct klieg_call *call, const void *key);
int klieg__request_find(struct klieg_call *call, const void *key);
int klieg__request_resume(struct klieg_call *call, const void *key);
int klieg__request_close(struct klieg_call *call, const void *key);
