/* The memory that a traced process and its agent share, and nothing else of either.
 *
 * One sealed memfd ("klieg") per process, mapped by libklieg (producer) and by the agent (consumer). Layout:
 *
 *   kw_region        one page, written once by the library before the handshake (resource text: seqlock)
 *   kw_control       one page, written by the agent: lease, wake-up
 *   kw_module[]      one entry per loaded module that has sites: where its descriptors are
 *   kw_site_state[]  one entry per site index, written by the agent: level, gate, keep threshold
 *   kw_requests      written by the agent: which requests carry a level, by their attributes; which attributes are hidden, by their names
 *   thread slots[]   kw_thread, ring, cell map, cells: one per recording thread, `thread_stride` apart
 *
 * The file is sparse: an untouched slot costs address space only. Every offset and size is in kw_region, but the
 * agent believes none of it before kw_region_valid() has checked it against the file's size: the traced process may be hostile.
 * docs/formats/region.md describes the same for people. Change both, and KW_VERSION, together.
 */
#pragma once
#include <stddef.h>
#include <stdint.h>

#define KW_MAGIC 0x0031474549494c4bull /* "KLIEIG1\0" little-endian tag; only equality matters */
#define KW_VERSION 4u
#define KW_MEMFD_NAME "klieg"           /* /proc/PID/maps then shows /memfd:klieg (deleted) */

#define KW_MAX_SITES 131072u
#define KW_MAX_MODULES 256u
#define KW_MAX_THREADS 1024u
#define KW_RING_BYTES (512u * 1024u)    /* default; a power of two, 64 KiB .. 16 MiB (KLIEG_RING_SIZE) */
#define KW_OPEN_MAX 64u                 /* open spans a thread may nest; deeper ones are counted as lost */
#define KW_CELLS 256u                   /* sites one thread may have at level count */
#define KW_RESOURCE_MAX 2048u

/* The clock of every time stamp in it: the processor's own, in ticks. Any thread, of any process of the host. */
static inline uint64_t kw_ticks(void)
{
#if defined(__x86_64__)
	return __builtin_ia32_rdtsc();
#elif defined(__aarch64__)
	uint64_t t;
	__asm__ volatile("mrs %0, cntvct_el0" : "=r"(t));
	return t;
#endif
}
#define KW_UNIT 32u                     /* records are multiples of this and never wrap */

/* ---- site descriptors: in the traced module's read-only section "klieg_sites" ------------------------------- */

enum kw_site_kind {
	KW_SITE_SPAN = 1,   /* scoped span, or explicit begin */
	KW_SITE_END = 2,    /* explicit end: same component, name and file as its begin; switched with it */
	KW_SITE_EVENT = 3,
	KW_SITE_COUNT = 4,  /* counter */
	KW_SITE_FUNCTION = 5, /* entry and exit of a function that nobody instrumented: the agent's, it has no descriptor in the process */
};
enum kw_site_flags {
	KW_SITE_DATA = 1,   /* load-and-branch site: `addr` is a byte of data (0 off, 1 on), not an opcode */
	KW_SITE_SERVER = 2, KW_SITE_CLIENT = 4, KW_SITE_PRODUCER = 6, KW_SITE_CONSUMER = 8, KW_SITE_KIND_MASK = 14,
};
#define KW_OP_OFF 0xA9u /* test eax, imm32 */
#define KW_OP_ON 0xE9u  /* jmp rel32 */

/* Every offset is relative to the address of the descriptor itself. `text` points to consecutive NUL-terminated
 * strings: component, name, file, schema. A schema is "key:T[!],..." with T one of s i d b y (string, int64, double,
 * bool, bytes) and ! for sensitive. */
struct kw_site {
	int32_t addr;
	int32_t target;
	int32_t text;
	uint32_t line;
	uint16_t kind;
	uint16_t flags;
	int32_t slot;            /* to two uint32_t of the module's data: the site's index + 1, and struct kw_control's changes when it was found gated */
};
_Static_assert(sizeof(struct kw_site) == 24, "the assembler in klieg.h writes this layout");

/* ---- region header ------------------------------------------------------------------------------------------- */

struct kw_region {
	uint64_t magic;
	uint32_t version;
	uint32_t header_bytes;   /* sizeof(struct kw_region) */
	uint64_t region_bytes;
	uint64_t control_off, modules_off, sites_off, threads_off;
	uint64_t thread_stride;
	uint32_t max_modules, max_sites, max_threads;
	uint32_t ring_off, ring_bytes;         /* offsets within a thread slot */
	uint32_t cellmap_off, cells_off, cell_count;
	uint32_t pid;                          /* informational: the agent trusts SO_PEERCRED / the maps it came from */
	uint32_t flags;
	uint64_t created_tsc;
	char socket[128];                      /* the agent socket this process looks for; a late agent adopts only its own */
	uint32_t resource_seq;                 /* seqlock: odd while the library rewrites `resource` */
	uint32_t resource_len;
	char resource[KW_RESOURCE_MAX];        /* OTEL_RESOURCE_ATTRIBUTES syntax: k=v,k=v percent-encoded; has service.name if known */
	/* Where the call gate is in the traced process; gate_count 0: this build has none. */
	uint64_t gate_enter;                   /* stubs jump here */
	uint64_t gate_thunks;                  /* gate_count thunks of KW_THUNK_BYTES; a call through one returns to KW_THUNK_RETURN in it */
	uint64_t gate_data;                    /* gate_count times struct kw_gate, gate_stride apart */
	uint64_t gate_text, gate_text_bytes;   /* all of the library's code that a hooked call runs through */
	uint64_t plugin_host;                  /* the table given to plugins, 0 = none */
	uint32_t gate_count, gate_stride;
	uint64_t requests_off;                 /* struct kw_requests; 0: none, so no rule on attributes holds here */
};
_Static_assert(sizeof(struct kw_region) <= 4096, "one page");

/* Written by the agent, but for the counters marked "library". */
#define KW_ATTACHED 48u
#define KW_POOLS 96u
struct kw_control {
	uint64_t lease_tsc;      /* probes do nothing once rdtsc() passes this; 0 = no agent */
	uint32_t agent_pid;
	uint32_t waiting;        /* 1: the agent sleeps in futex(&wake); producers wake it at their watermark */
	uint32_t wake;           /* futex word, incremented by whoever wakes the agent (library) */
	uint32_t modules_gen;    /* library: incremented after each change of the module table, then a wake */
	uint32_t modules_n;      /* library: entries in use, dead ones included */
	uint32_t sites_n;        /* next free site index: taken by compare-and-swap, by the library for modules, by the agent for functions */
	uint32_t threads_hint;   /* library: highest slot ever claimed + 1 */
	uint32_t changes;        /* agent: incremented after each change of a kw_site_state's flags or always; never 0, and in a forked child past its parent's */
	uint64_t lost_no_slot;   /* library: spans/events not recorded: no thread slot was free */
	uint64_t lost_no_site;   /* library: sites not registered: the table was full */
	uint32_t forks;          /* library: children that have made a region of their own, and whom the agent may not have heard of otherwise */
	uint32_t pad3;
	uint32_t requests_seq;   /* seqlock over kw_requests: odd while the agent writes */
	uint32_t token_on;       /* 0: no capture token is accepted */
	uint8_t token_key[16];   /* of this service (docs/probes.md) */
	uint64_t pad1[3];
	uint64_t watch_table;    /* agent: where it has struct kw_watched in the process, 0 = nowhere; for the agent after it */
	/* The agent's notes on what it did to this process, for the agent after it: whose functions are sites, and where the stubs are. */
	struct { uint64_t base; uint32_t first, n; } attached[KW_ATTACHED]; /* base: where the file is mapped; n 0 = no entry */
	struct { uint64_t addr; uint32_t bytes, used; } pool[KW_POOLS];
	uint32_t attached_live;  /* 0: detached, or never attached */
	uint32_t pad2;
};
_Static_assert(sizeof(struct kw_control) <= 4096, "one page");

enum kw_module_state { KW_MODULE_FREE = 0, KW_MODULE_LIVE = 1, KW_MODULE_CLOSING = 2, KW_MODULE_DEAD = 3 };

/* dlclose and the agent's patching exclude each other Dekker-style: the agent stores busy=1 (seq_cst), then loads state;
 * the module's destructor stores state=CLOSING (seq_cst), then waits (at most 100 ms) while busy. The entry of a DEAD module may become
 * another module's: its `first` then differs, and the agent compares it inside the bracket too. */
struct kw_module {
	uint32_t state;
	uint32_t busy;
	uint64_t sites;          /* address in the traced process of its first struct kw_site */
	uint32_t nsites;
	uint32_t first;          /* site index of sites[0]; indices are never reused */
	uint64_t pad[5];
};
_Static_assert(sizeof(struct kw_module) == 64, "");

enum kw_level { KW_OFF = 0, KW_COUNT = 1, KW_SPAN = 2, KW_DETAIL = 3, KW_DEEP = 4 };
#define KW_RANDOMNESS 0xffffffffffffffull /* of a trace id's lower half: R of OTEP 235, unless the trace brings its own */
enum kw_state_flags {
	KW_STATE_GATED = 1,      /* level holds in requests that carry one (tracestate klieg=l:N, or by kw_requests) up to that; in others, always */
	KW_STATE_CLASSIFIES = 2, /* its attributes decide, by kw_requests, whether the request carries a level from here on */
};

struct kw_site_state {
	uint64_t threshold;      /* 56-bit OTEP 235 rejection threshold for roots begun here: keep when R >= threshold */
	uint8_t level;
	uint8_t flags;
	uint8_t always;          /* at least this, gated or not */
	uint8_t asks;            /* which rules its attributes decide: bit k, the k-th one; bit 7, further ones, whose answer is not remembered; 0: not said */
	uint8_t reveal;          /* bit k: schema key k is sensitive but may be recorded (granted by policy) */
	uint8_t hides;           /* the rules by whose kw_redact attributes set later are hidden here */
	uint16_t hide;           /* bit k: schema key k is hidden by a rule */
};
_Static_assert(sizeof(struct kw_site_state) == 16 && offsetof(struct kw_site_state, level) == 8 && offsetof(struct kw_site_state, always) == 10 &&
	offsetof(struct kw_site_state, reveal) == 12, "read as words");

/* ---- requests: rules on what is known when a request comes ---------------------------------------------------------- */

#define KW_REQUESTS 128u
#define KW_REQUEST_OPS 16u
#define KW_REQUEST_TEXT 48u

enum kw_request_op_code { /* postfix: a comparison pushes, the others combine what was pushed */
	KW_REQ_FALSE = 1, KW_REQ_TRUE, KW_REQ_AND, KW_REQ_OR, KW_REQ_NOT,
	KW_REQ_EXISTS,           /* the attribute was given */
	KW_REQ_EQ, KW_REQ_NE, KW_REQ_LT, KW_REQ_LE, KW_REQ_GT, KW_REQ_GE, /* of another type, or not given: false */
	KW_REQ_BEGINS, KW_REQ_ENDS, KW_REQ_CONTAINS,
};
struct kw_request_op {
	uint8_t op;
	uint8_t key;             /* of the site's schema */
	uint8_t type;            /* enum kw_attr_type of the value: text of KW_STR (and of KW_BYTES), else number: a double's bits, 0 or 1 of a bool */
	uint8_t len;             /* of text */
	uint32_t pad;
	union { int64_t number; char text[KW_REQUEST_TEXT]; };
};
struct kw_request {
	uint8_t level, nops;
	uint8_t rule;            /* its bit of kw_site_state.asks */
	uint8_t pad;
	uint32_t pad2;
	uint64_t threshold;      /* of the rule: keeps requests that the site's own would not */
	struct kw_request_op op[KW_REQUEST_OPS];
};
/* Names of attributes whose values some rules hide: what is set on a span later has a name, and no key of the schema. */
#define KW_REDACT 128u
#define KW_REDACT_GLOB 62u
struct kw_redact { uint8_t rules, len; char glob[KW_REDACT_GLOB]; }; /* rules: bits of kw_site_state.hides; * is any text, ? one byte */
struct kw_requests {
	uint32_t n, pad;
	uint32_t site[KW_REQUESTS];  /* index + 1: apart, so that who looks for his touches few lines */
	struct kw_request request[KW_REQUESTS];
	uint32_t redact_seq;         /* seqlock over what follows: odd while the agent writes */
	uint32_t redact_n;
	struct kw_redact redact[KW_REDACT];
};

/* ---- hooks: functions that nobody instrumented --------------------------------------------------------------------- */

/* A hooked function begins with a jump to its stub. The stub is the agent's work, in memory of the traced process that is never writable there:
 *   push %r11; lea hook(%rip), %r11; jmp *hook.gate(%rip)     KW_STUB_CODE bytes
 *   struct kw_hook
 *   the instructions that the jump displaced, then a jump back
 * The gate (src/probe/gate.S) calls the displaced instructions from this thread's thunk, so that the function returns there. */
#define KW_STUB_CODE 16u

enum kw_arg_kind { KW_ARG_INT = 1, KW_ARG_UINT = 2, KW_ARG_STRING = 3, KW_ARG_POINTER = 4 };
struct kw_arg {
	uint8_t kind;            /* enum kw_arg_kind */
	uint8_t at;              /* 0..5: rdi rsi rdx rcx r8 r9; 16 + n: the n-th 8-byte word above the return address; KW_ARG_RET: what it returned */
	uint8_t size;            /* of an integer: 1, 2, 4, 8 */
	uint8_t key;             /* of the site's schema */
};
#define KW_ARG_RET 255u

enum kw_where_op { KW_WHERE_END = 0, KW_WHERE_EQ, KW_WHERE_NE, KW_WHERE_LT, KW_WHERE_LE, KW_WHERE_GT, KW_WHERE_GE, KW_WHERE_AND, KW_WHERE_OR, KW_WHERE_NOT };
struct kw_where {            /* postfix; a comparison pushes, the others combine what was pushed */
	uint8_t op;
	struct kw_arg arg;
	uint8_t pad[3];
	int64_t value;           /* compared as the argument's kind says: signed or not */
};
_Static_assert(sizeof(struct kw_where) == 16, "");

enum kw_hook_flags {
	KW_HOOK_ROOT = 1,        /* a request begins here: a trace of its own, whatever is open around it */
	KW_HOOK_STRINGS = 2,     /* strings may be read */
	KW_HOOK_WATCH = 4,       /* no site: who calls it is noted, and that is all */
};
/* Written by the library when a watched function is called; read by the agent, which believes only what it can check. */
struct kw_watched {
	uint64_t calls;          /* about: threads do not wait for each other */
	uint64_t from;           /* the latest return address within one of the hook's ranges; or, of a tail call, the caller's entry */
	uint64_t pad[6];         /* a cache line each */
};
#define KW_HOOK_ARGS 12u
#define KW_HOOK_WHERE 8u
struct kw_hook {
	uint64_t gate;           /* = kw_region.gate_enter */
	uint64_t target;         /* the displaced instructions */
	uint32_t site1;          /* the site's index + 1 */
	uint16_t flags;
	uint8_t nargs, nwhere;
	uint64_t data;           /* of a plugin: address of its struct klieg_plugin_hook in the traced process; 0 = none */
	uint64_t min_ticks;      /* spans that are shorter are not recorded, only counted as calls */
	uint64_t function;       /* where the jump is, and what it displaced: so that whoever finds the stub can take it away again */
	uint8_t window, pad;
	uint8_t orig[22];
	struct kw_arg args[KW_HOOK_ARGS];
	union {
		struct kw_where where[KW_HOOK_WHERE];
		struct { uint64_t first, bytes; } range[KW_HOOK_WHERE]; /* of a watched function: of callers that matter; no bytes: none */
	};
	uint64_t watch;          /* address of its struct kw_watched in the process, 0 = none; never changes again */
};
_Static_assert(sizeof(struct kw_hook) == 256, "the stub's code reads gate at 0");
#define KW_STUB_BYTES 512u

/* The shadow stack of a thread. The unwinder walks it too (the CFI in gate.S): top first, towards higher addresses, up to a frame of cfa 0. */
struct kw_frame {
	uint64_t cfa;            /* address above the return address; UINT64_MAX: not in use */
	uint64_t ra;             /* where the function really returns to */
	uint64_t hook;           /* address of its struct kw_hook */
	uint64_t flags;          /* the library's */
	uint64_t span[8];        /* the library's handle of the open span */
	uint64_t user[4];        /* a plugin's, from enter to leave */
};
_Static_assert(sizeof(struct kw_frame) == 128, "gate.S steps by this");
#define KW_GATES 1024u
#define KW_GATE_BYTES 16384u
#define KW_FRAMES 125u      /* and the sentinel; a place more, so that the whole is KW_GATE_BYTES */
struct kw_gate {
	uint64_t top;            /* address of the newest frame; the sentinel's when none is open. First: the CFI reads it. */
	uint64_t owner;          /* tid, 0 = free */
	uint64_t in_root;        /* the library's: a root is open, and */
	uint64_t saved[6];       /* the context that it interrupted */
	uint64_t thunk;          /* the library's: this thread's; and the bounds of its own stack */
	uint64_t stack_low, stack_bytes;
	uint64_t saved_rv;
	uint64_t pad[3];
	struct kw_frame frame[KW_FRAMES + 2]; /* grows down; the last is the sentinel: cfa 0 */
};
_Static_assert(sizeof(struct kw_gate) == KW_GATE_BYTES, "gate.S reserves this");
#define KW_THUNK_BYTES 16u
#define KW_THUNK_RETURN 4u   /* within a thunk: the return address that a hooked call has */

/* ---- thread slots --------------------------------------------------------------------------------------------- */

enum kw_thread_state { KW_THREAD_FREE = 0, KW_THREAD_LIVE = 1, KW_THREAD_DEAD = 2 }; /* library: FREE->LIVE->DEAD; agent: DEAD->FREE once drained */

struct kw_open {             /* an open span, innermost last */
	uint64_t start_tsc;
	uint64_t cookie;         /* address of the span variable in the traced process */
	uint32_t site, seq, parent_seq;
	uint32_t flags;          /* KW_REC_*, and the library's own above bit 15. Whoever sets its "ended" bit reports the span. */
};
_Static_assert(sizeof(struct kw_open) == 32, "");

struct kw_origin { uint64_t trace_hi, trace_lo, parent_id; };

struct kw_thread {
	/* line 0: identity, written at the claim */
	uint32_t state;
	uint32_t tid;
	uint64_t seed;           /* span id of seq s = kw_span_id(seed, s) */
	uint64_t epoch;          /* changes with every claim of the slot */
	/* What probes here really take: some events are timed. [0]: those that make no record, [1]: those that do. Cumulative; written at those only. */
	uint64_t timed_ticks[2];
	uint32_t timed[2];       /* begins and ends; what their attributes took is in the ticks */
	uint64_t pad0[2];
	/* line 1: producer */
	uint64_t head;           /* bytes ever written; release; pairs with the agent's acquire in the drain */
	uint32_t depth;          /* entries in open[] */
	uint32_t seq;            /* spans ever begun here (at level span or deeper): the independent side of the account */
	uint64_t lost_full;      /* spans/events lost: ring full */
	uint64_t lost_depth;     /* lost: nested deeper than KW_OPEN_MAX */
	uint64_t lost_reentrant; /* lost: a signal handler interrupted a probe */
	uint64_t abandoned;      /* begun, never ended (longjmp, thread exit): will never be recorded */
	uint64_t unsampled;      /* spans not made: the trace was sampled out here at the head (those that failed were made after all) */
	uint64_t lost_other;     /* attributes, events, links not recorded: ring full */
	/* line 2: consumer */
	uint64_t tail;           /* bytes ever consumed; release by the agent; pairs with the producer's acquire when it seems full */
	/* the agent's own; outlives it, so that the next agent's account goes on from here */
	uint64_t agent_trace_hi, agent_trace_lo, agent_parent_id, agent_th24; /* the last CTX record's */
	uint64_t agent_passed;   /* spans of this slot passed on */
	uint64_t agent_made;     /* spans ever begun here (seq), in 64 bits */
	uint64_t agent_where;    /* spans left out by a toggle's condition */
	/* line 3: the current trace, for what is in flight */
	uint64_t trace_hi, trace_lo, parent_id;
	uint32_t ctx_flags;      /* KW_CTX_* | level << 8 | th24 is in the CTX record */
	uint32_t cells_used;     /* library: cells handed out, 1.. */
	uint64_t lost_cells;     /* calls not counted: the thread has no cell left */
	uint64_t too_short;      /* spans begun, not recorded: shorter than their hook's min_ticks */
	uint64_t left_out;       /* calls of functions that a condition on their arguments left out: they cost, too */
	uint64_t pad3;
	struct kw_open open[KW_OPEN_MAX];
	/* The context that open[i] was begun in: its generation; and once the thread turned to another context, what it was. */
	uint32_t generation[KW_OPEN_MAX];
	struct kw_origin origin[KW_OPEN_MAX];
};
_Static_assert(sizeof(struct kw_thread) <= 4096, "one page");

/* ---- records ---------------------------------------------------------------------------------------------------- */

enum kw_rec_type {
	KW_REC_PAD = 0,   /* skip to the end of the ring */
	KW_REC_CTX = 1,   /* from here on, records of this ring belong to this trace */
	KW_REC_SPAN = 2,  /* a finished span of this thread */
	KW_REC_SPANX = 3, /* a finished span that ended on another thread: ids in full */
	KW_REC_EVENT = 4, /* belongs to the open span `seq`, 0 = none open */
	KW_REC_ATTR = 5,  /* attributes set later on open span `seq` */
	KW_REC_LINK = 6,
	KW_REC_STATUS = 7,/* status text for open span `seq` */
};
enum kw_rec_flags {
	KW_REC_ERROR = 1, KW_REC_OK = 2,
	KW_REC_TRUNCATED = 4,    /* some attribute was cut or left out */
	KW_REC_ALONE = 8,        /* kept whatever its trace's threshold, since it failed or something in it did: it stands for itself only */
	KW_REC_NATTR_SHIFT = 8,  /* flags >> 8: number of attributes that follow */
};
enum kw_ctx_flags {
	KW_CTX_SAMPLED = 1, KW_CTX_RANDOM = 2, KW_CTX_FORCED = 4, KW_CTX_REMOTE = 8, /* parent is in another process */
	KW_CTX_LEVEL_SHIFT = 8,  /* 3 bits: the level that this request carries, 0 = none */
};

struct kw_rec {              /* head of every record */
	uint32_t site;           /* CTX: upper 24 bits = top 24 bits of the 56-bit threshold, low 8 bits unused */
	uint8_t type;
	uint8_t units;           /* length / KW_UNIT, >= 1 */
	uint16_t flags;
};
struct kw_rec_span { struct kw_rec r; uint64_t start_tsc, ticks; uint32_t seq, parent_seq; /* attributes */ };
struct kw_rec_ctx { struct kw_rec r; uint64_t trace_hi, trace_lo, parent_id; };
struct kw_rec_spanx { struct kw_rec r; uint64_t start_tsc, ticks, trace_hi, trace_lo, span_id, parent_id; uint32_t tid, th24; /* attributes */ };
struct kw_rec_event { struct kw_rec r; uint64_t tsc; uint32_t seq, pad; uint64_t value; /* attributes */ }; /* also ATTR, STATUS */
struct kw_rec_link { struct kw_rec r; uint64_t trace_hi, trace_lo, span_id; uint32_t seq, pad; uint64_t pad1[3]; };
_Static_assert(sizeof(struct kw_rec_span) == 32 && sizeof(struct kw_rec_ctx) == 32 && sizeof(struct kw_rec_spanx) == 64 &&
	sizeof(struct kw_rec_event) == 32 && sizeof(struct kw_rec_link) == 64, "");

/* An attribute: 8 bytes of head, then its value padded to 8. Numbers are 8 bytes, a bool too. */
enum kw_attr_type { KW_STR = 1, KW_INT = 2, KW_DOUBLE = 3, KW_BOOL = 4, KW_BYTES = 5 };
enum { KW_ATTR_NAMED = 0xff }; /* key: none of the schema; the value starts with the key's text and a NUL */
struct kw_attr { uint32_t len; uint8_t key; uint8_t type; uint16_t flags; };
enum kw_attr_flags { KW_ATTR_MASKED = 1 /* sensitive: the value was never written, len is 0 */, KW_ATTR_CUT = 2 };
_Static_assert(sizeof(struct kw_attr) == 8, "");

/* ---- count cells ------------------------------------------------------------------------------------------------ */

/* Log-linear histogram, 32 linear steps per octave of ticks: a value's bucket is at most 1/32 wide, its midpoint within
 * 1.6 % (HdrHistogram's layout). Merges by addition. The reader takes differences, so wrapping counters are fine. */
#define KW_BUCKETS 1216u
struct kw_cell {
	uint32_t site, pad;
	uint64_t calls, errors, sum_ticks, max_ticks;
	int64_t value;           /* KW_SITE_COUNT: the sum of what was counted */
	uint64_t pad1[2];
	uint32_t bucket[KW_BUCKETS];
};
_Static_assert(sizeof(struct kw_cell) == 64 + 4 * KW_BUCKETS, "");

static inline uint32_t kw_bucket(uint64_t ticks)
{
	if (ticks < 32)
		return (uint32_t)ticks;
	unsigned e = 63u - (unsigned)__builtin_clzll(ticks);
	uint32_t b = (e - 4) * 32u + (uint32_t)((ticks >> (e - 5)) & 31u);
	return b < KW_BUCKETS ? b : KW_BUCKETS - 1;
}
/* The midpoint of a bucket, in ticks. */
static inline double kw_bucket_mid(uint32_t b)
{
	if (b < 32)
		return (double)b;
	uint32_t e = b / 32u + 4, m = b % 32u;
	double step = (double)(1ull << (e - 5));
	return (32.0 + m) * step + (step - 1) / 2;
}

static inline uint64_t kw_mix(uint64_t x) /* splitmix64's finalizer (Steele, Lea, Flood 2014) */
{
	x ^= x >> 30; x *= 0xbf58476d1ce4e5b9ull;
	x ^= x >> 27; x *= 0x94d049bb133111ebull;
	return x ^ (x >> 31);
}
static inline uint64_t kw_span_id(uint64_t seed, uint32_t seq)
{
	uint64_t id = kw_mix(seed + seq * 0x9e3779b97f4a7c15ull);
	return id ? id : 1;
}

/* ---- handshake ----------------------------------------------------------------------------------------------------- */

/* AF_UNIX SOCK_SEQPACKET; one message from library to agent with the memfd in SCM_RIGHTS, then the library closes its end. */
struct kw_hello { uint64_t magic; uint32_t version; uint32_t pid; };

/* Where library and agent meet: $KLIEG_SOCKET, else $KLIEG_DIR/agent.sock, else /run/klieg/agent.sock (root),
 * else $XDG_RUNTIME_DIR/klieg/agent.sock, else /tmp/klieg-UID/agent.sock. */
