/* Where gate.S finds things; hook.c checks every line against the structs. */
#pragma once

/* struct klieg__thread */
#define ME_T 0
#define ME_HERE 16
#define ME_HEAD 32
#define ME_LIMIT 40
#define ME_TRACE_HI 64
#define ME_TRACE_LO 72
#define ME_CTX_FLAGS 96
#define ME_SEQ 100
#define ME_ROOT_DEPTH 104
#define ME_GENERATION 108
#define ME_CTX_DIRTY 120
#define ME_BUSY 121
#define ME_GATE 136
#define ME_READY 144
/* struct klieg__process */
#define PROCESS_CONTROL 8
#define PROCESS_SITES 24
#define PROCESS_EPOCH 48
/* struct kw_control */
#define CONTROL_LEASE 0
/* struct kw_gate: its first frame is as far from its beginning as frames are from each other */
#define GATE_TOP 0
#define GATE_THUNK 72
#define GATE_STACK_LOW 80
#define GATE_STACK_BYTES 88
/* struct kw_frame */
#define FRAME_CFA 0
#define FRAME_RA 8
#define FRAME_HOOK 16
#define FRAME_FLAGS 24
#define FRAME_SPAN 32 /* klieg_span: open, seq */
#define FRAME_BYTES 128
/* struct kw_hook */
#define HOOK_TARGET 8
#define HOOK_SITE1 16
#define HOOK_FLAGS 20 /* flags, nargs, nwhere */
#define HOOK_DATA 24
#define HOOK_MIN_TICKS 32
/* struct kw_site_state */
#define SITE_SHIFT 4
#define SITE_LEVEL 8 /* level, flags, always, pad */
/* struct kw_thread */
#define T_HEAD 64
#define T_DEPTH 72
#define T_SEQ 76
#define T_OPEN 256
#define T_GENERATION 2304
/* struct kw_open */
#define OPEN_SHIFT 5
#define OPEN_START 0
#define OPEN_COOKIE 8
#define OPEN_SITE 16 /* site, seq */
#define OPEN_SEQ 20
#define OPEN_PARENT 24 /* parent_seq, flags */
#define OPEN_FLAGS 28
/* struct kw_rec_span */
#define REC_SITE 0
#define REC_WHAT 4 /* type, units, flags */
#define REC_START 8
#define REC_TICKS 16
#define REC_SEQ 24
#define REC_PARENT 28
#define REC_BYTES 32
/* what they hold */
#define HOOK_STRINGS 2
#define CTX_KEPT 1
#define CTX_NOT_YET 0x20000
#define LEVEL_COUNT 1
#define LEVEL_SPAN 2
#define SITE_WHO 0xffff00 /* flags, always */
#define SITE_GATED 0x100
#define CTX_LEVEL 0x700
#define MAX_SITES 131072
#define OPEN_MAX 64
#define OPEN_BYTES 32
#define OPEN_COUNT_BIT 16
#define OPEN_IS_ENDED 0x40000
#define REC_IS_SPAN 0x102
