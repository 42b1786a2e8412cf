/* Between the gate (gate.S), the hooks (hook.c) and what the rest of libklieg does for them. */
#pragma once
#include "probe/internal.h"

/* As the gate pushed them. The arguments on the stack begin one word above the return address's slot. */
struct klieg__regs { uint64_t r10, r9, r8, rdi, rsi, rcx, rdx, rax; };

#pragma GCC visibility push(hidden) /* the gate's own: not by way of the GOT */
extern char klieg__gate_enter[], klieg__gate_text[], klieg__gate_text_end[], klieg__gate_thunks[];
extern struct kw_gate klieg__gate_data[KW_GATES];

/* gate.S calls these: the quick ones, and when they return 0, the others. enter returns the thunk to call through, 0 = let it run untraced; it puts the address of what to run below the slot. */
uint64_t klieg__hook_enter(const struct kw_hook *h, uint64_t *slot, const struct klieg__regs *regs);
void klieg__hook_leave(uint64_t *slot, uint64_t rax);
#pragma GCC visibility pop
uint64_t klieg__call_saved(uint64_t (*fn)(void *), void *arg);

/* hook.c */
void klieg__hook_region(struct kw_region *r);       /* says where the gate is */
void klieg__hook_thread_exit(struct klieg__thread *me);
void klieg__hook_forked(struct klieg__thread *me);  /* in the child: only this thread is left */
uint64_t klieg__hook_argument(const struct kw_arg *a, const struct klieg__regs *regs, const uint64_t *slot, uint64_t rax);
/* plugin_host.c: reads up to n bytes at an address that may be anything; returns how many could be read. */
size_t klieg__read_safely(void *to, uint64_t from, size_t n);

/* span.c: for spans whose end is known by frame, not by scope. */
int klieg__begin_frame(const struct klieg__slot *slot, klieg_span *s); /* within a trace that is not kept: nothing */
void klieg__end_frame(klieg_span *s, uint64_t min_ticks); /* what is open above it ended without a word: longjmp, an exception */
void klieg__drop_frame(klieg_span *s);                     /* so did it itself */
void klieg__unstack(klieg_span *s);                         /* an explicit span that will be open for long, one of many */
void klieg__lost_frame(const struct klieg__slot *slot);    /* a call that cannot be followed to its end */
void klieg__attributes_from(const struct klieg__slot *slot, klieg_span *s, unsigned first_key, const struct klieg__value *v, int n);
