/* Instrumentors: plugins that know a library or a program (libpq, curl, nginx, ...) and tell Klieg which of its functions to
 * intercept, what to read from a call, and where trace context enters and leaves. A plugin is a shared object with one exported
 * function; the agent loads it into a running process with `klieg attach PID --plugin NAME`. It links nothing but libc; what it
 * needs of Klieg comes through the host table. docs/plugins.md is the guide.
 *
 *   const struct klieg_plugin *klieg_plugin(const struct klieg_host *host);
 *
 * Rules for handlers. They run on the program's own threads, in the middle of its calls, so:
 *   - short, no waiting, no output, no exit, no long double; they return normally (no longjmp, no exception);
 *   - they may call the instrumented library and libc where the program itself could at that place: calls that a handler makes
 *     are never traced. malloc is allowed but in hooks of the allocator and of locks;
 *   - several threads run them at once: no shared state but atomics. A signal handler's calls are not traced while the thread is
 *     in a handler;
 *   - errno and the vector registers are kept by Klieg.
 * Compatibility: every structure begins with its size, or its size is told beside it, and only ever grows at its end. A plugin
 * checks host->abi (same number) and, for functions added later, host->size; Klieg checks the plugin's. Text is UTF-8,
 * NUL-terminated unless a length is given; times are nanoseconds. Names and keys must stay valid for as long as the plugin is
 * loaded (string literals). Plugins are never unloaded.
 */
#ifndef KLIEG_PLUGIN_H
#define KLIEG_PLUGIN_H
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifdef __cplusplus
extern "C" {
#endif

#define KLIEG_PLUGIN_ABI 1u

/* Levels at which a site records (the ladder of `klieg on --level`). Attributes are recorded from DETAIL on. */
enum klieg_plugin_level { KLIEG_LEVEL_COUNT = 1, KLIEG_LEVEL_SPAN = 2, KLIEG_LEVEL_DETAIL = 3, KLIEG_LEVEL_DEEP = 4 };

/* OpenTelemetry's kinds of spans. */
enum klieg_plugin_kind { KLIEG_KIND_INTERNAL = 0, KLIEG_KIND_SERVER = 2, KLIEG_KIND_CLIENT = 4, KLIEG_KIND_PRODUCER = 6,
	KLIEG_KIND_CONSUMER = 8 };

enum klieg_hook_flags {
	/* a request begins here: the call's trace is its own, whatever was current before; see parent() and resume() */
	KLIEG_HOOK_ROOT = 1,
	KLIEG_HOOK_OPTIONAL = 2,   /* some versions have no such function: its absence is not worth a note */
	KLIEG_HOOK_COUNT = 4,      /* called very often: KLIEG_LEVEL_COUNT unless somebody asks for more */
	/* `enter` uses general registers only (__attribute__((target("general-regs-only")))) and calls nothing: it is then called
	 * without saving the vector registers, some 25 ns cheaper. It may read arguments and decide, no more. */
	KLIEG_HOOK_LIGHT = 8,
	/* `function` is the name of an option: the user says which function it is (`--plugin microhttpd:handler=answer`) */
	KLIEG_HOOK_GIVEN = 16,
	/* the call itself is no request, though it may open() one in leave: what that has waited is not said of the call */
	KLIEG_HOOK_OPENS = 32,
};

/* What a result means, so that errors are known at every level and without a handler. */
enum klieg_hook_fails {
	KLIEG_FAILS_NEVER = 0,
	KLIEG_FAILS_NEGATIVE = 1,      /* int < 0 */
	KLIEG_FAILS_NEGATIVE_LONG = 2, /* long, ssize_t < 0 */
	KLIEG_FAILS_NOT_POSITIVE = 3,  /* int <= 0 */
	KLIEG_FAILS_NONZERO = 4,       /* int != 0 */
	KLIEG_FAILS_NULL = 5,          /* pointer == NULL */
};

struct klieg_host;
struct klieg_plugin_hook;

/* One intercepted call, as its handlers see it. Made by Klieg; valid while the handler runs. */
struct klieg_call {
	uint32_t size;
	/* at which it is recorded: enum klieg_plugin_level. Under DETAIL attributes are not kept: do not collect them. */
	uint32_t level;
	const struct klieg_host *host;
	const struct klieg_plugin_hook *hook;
	uint64_t *user;              /* user[0..3]: the plugin's own from enter to leave, zero at first */
	/* enter, begin: the six integer arguments, in order. Writing one changes what the function gets. leave: NULL */
	uint64_t *args;
	const uint64_t *stack;       /* enter, begin: further arguments, 8 bytes each, as they lie on the stack. leave: NULL */
	uint64_t result;             /* leave: what the function returned in rax; an int is its low half */
	const void *caller;          /* enter, begin: where the call will return to. leave: NULL */
};

/* Handlers return this from enter. */
enum { KLIEG_PASS = 0 /* not this call: it runs untraced */, KLIEG_TRACE = 1 };

/* A function to intercept. All pointers but `function` may be NULL. */
struct klieg_plugin_hook {
	const char *library;         /* glob on the module's file name or soname ("libcurl.so.4*"); NULL: the executable */
	const char *function;        /* its name in any symbol table Klieg can find (.dynsym, .symtab, debug file) */
	const char *site;            /* name of the site and of its spans; NULL: `function` */
	uint32_t kind;               /* enum klieg_plugin_kind */
	uint32_t flags;              /* enum klieg_hook_flags */
	uint32_t fails;              /* enum klieg_hook_fails */
	/* lowest level at which the handlers run; 0: DETAIL. Those that carry context want SPAN, those that filter COUNT. */
	uint32_t level;
	uint64_t min_ns;             /* shorter calls are counted, not recorded as spans */
	int (*enter)(struct klieg_call *);  /* before the span begins: KLIEG_PASS or KLIEG_TRACE; says the parent */
	void (*begin)(struct klieg_call *); /* the span is open and current: attributes, context for what is called */
	/* the function has returned, the span is still open. Not called if the function is left by longjmp or an exception. */
	void (*leave)(struct klieg_call *);
	void *data;                  /* the plugin's own */
};

struct klieg_plugin {
	uint32_t size;               /* sizeof(struct klieg_plugin) */
	uint32_t abi;                /* KLIEG_PLUGIN_ABI */
	const char *name;            /* [a-z0-9-]+, the same as the file's: NAME.so */
	const char *version;         /* of the plugin */
	const char *fits;            /* which versions of what it is for, for people: "libcurl 7.56 and later" */
	const char *program;         /* glob on the name of the executable; NULL: any */
	const struct klieg_plugin_hook *hooks;
	uint32_t nhooks, hook_size;  /* hook_size = sizeof(struct klieg_plugin_hook) */
	/* NULL, or why it can do nothing in this process (set by klieg_plugin() after looking): its hooks are then not used */
	const char *unfit;
};

/* What a thread is about to begin with, if that has waited somewhere: filled in by a plugin that watches how threads take their work. */
struct klieg_waiting {
	/* Asked once, when the next request begins on this thread (as a handler, at DETAIL): the time stamp counter (aarch64: cntvct) when what was taken from
	 * `queue` was put there, 0: not known. The request then says how long ago that was: klieg.queue_nano, and klieg.queue_kind = "pool". */
	uint64_t (*since)(void *queue);
	void *queue;                 /* NULL: nothing was taken. Cleared when a request begins or ends */
	uint64_t mine[3];            /* the plugin's own, zero at first */
};

/* W3C Trace Context headers of the current span. */
struct klieg_plugin_headers { char traceparent[56]; char tracestate[384]; };

enum klieg_plugin_type { KLIEG_TYPE_INT = 2, KLIEG_TYPE_DOUBLE = 3, KLIEG_TYPE_BOOL = 4 };
enum klieg_text_flags { KLIEG_TEXT_SENSITIVE = 1 /* never recorded: that it was there, is */ };
#define KLIEG_TEXT_END ((size_t)-1) /* a length: up to the NUL */

/* What Klieg does for plugins. `call` is the one that the handler got. Attributes, status and headers apply to the call's span:
 * to be used in begin and leave; in enter only after open() or find(). */
struct klieg_host {
	uint32_t size;
	uint32_t abi;
	const char *version;         /* Klieg's */

	/* An attribute; key as OpenTelemetry's semantic conventions name it. Text must stay valid until the handler returns; over 1
	 * KiB it is cut. NULL: none. */
	void (*text)(struct klieg_call *call, const char *key, const char *text, size_t n, unsigned flags);
	void (*number)(struct klieg_call *call, const char *key, unsigned type, uint64_t bits); /* use klieg_set_int(), ... below */
	/* PREFIX.address and PREFIX.port ("network.peer", "server", "client"; a literal), network.type and network.transport=unix
	 * where it applies. */
	void (*address)(struct klieg_call *call, const char *prefix, const void *sockaddr, size_t n);
	/* db.query.text with every literal replaced by ?, and db.operation.name. */
	void (*query)(struct klieg_call *call, const char *sql, size_t n);
	/* The span's status; text may be NULL. */
	void (*status)(struct klieg_call *call, int error, const char *text);

	/* Copies up to n bytes from an address that may be anything; how many could be read. text: up to and with the NUL, always
	 * terminated; -1: unreadable. */
	size_t (*read)(void *to, const void *from, size_t n);
	long (*read_text)(char *to, size_t n, const char *from);

	/* In enter (and before open()): the request's headers, by asking get(arg, name) with lower-case names (NULL = absent): W3C,
	 * B3, uber-trace-id, klieg-level. The span then continues that trace. Takes effect in hooks with KLIEG_HOOK_ROOT and with
	 * open(). 1: found, 0: none. */
	int (*parent)(struct klieg_call *call, const char *(*get)(void *arg, const char *name), void *arg);
	/* In begin, and after open() or find(): what a call made now, or in the request's name, has to carry. 1, or 0: nothing to
	 * send (both empty). */
	int (*headers)(struct klieg_call *call, struct klieg_plugin_headers *ret_h);

	/* In leave: the call is not recorded as a span after all. */
	void (*drop)(struct klieg_call *call);

	/* Requests that are not one call (event loops). open() begins a span of the hook's site that lasts until close(): in enter,
	 * which then returns KLIEG_PASS, or in leave, with drop(). It is a child of parent(), else in hooks with KLIEG_HOOK_ROOT a
	 * trace of its own, else a child of what is current. key: an address that stands for the request until then, unique among
	 * all plugins (the request's own, or one in the plugin's data). A key that is still open is given up first: its end was
	 * missed. After open() or find() the handler's attributes, status and headers are that span's. resume(), in enter of a hook
	 * with KLIEG_HOOK_ROOT that returns KLIEG_TRACE: the call is part of that request. All return 1, or 0: not recorded now, no
	 * such key, no room (counted). Attributes are kept on the thread that opened. */
	int (*open)(struct klieg_call *call, const void *key);
	int (*find)(struct klieg_call *call, const void *key);
	int (*resume)(struct klieg_call *call, const void *key);
	int (*close)(struct klieg_call *call, const void *key); /* after the last attribute */

	uint64_t (*now_ns)(void);    /* a monotonic clock that costs no system call */
	/* What the user gave: `--plugin NAME:key=value,...`. To be asked in klieg_plugin(). Copies the value; its length, or -1: not
	 * given. */
	long (*option)(const char *plugin, const char *key, char *ret_value, size_t n);
	/* Something that people should know ("client structure not understood, no attributes"). Kept once each, the first 16; the
	 * next `klieg attach PID --plugin NAME` shows them. */
	void (*note)(const char *plugin, const char *text);
	/* In klieg_plugin(): does a seccomp filter watch this program? Handlers then make no system calls: it may be killed for them. */
	int (*filtered)(void);

	/* In enter, and where filtered() says no: this call is about to read from the connected TCP socket fd. What is there already has been
	 * waiting since it came (tcp(7): TCP_INFO's tcpi_last_data_recv, in steps of the kernel's tick, 1 to 10 ms); the next request that
	 * begins on this thread (KLIEG_HOOK_ROOT, or open() in such a hook) says how long by then, at DETAIL, as klieg.queue_nano
	 * (klieg.queue_kind = "socket"). When nothing is there yet, nothing waits. Two system calls. 1, or 0: nothing waits there, or fd is
	 * no such socket. */
	int (*reading)(struct klieg_call *call, int fd);

	/* In klieg_plugin(): the struct klieg_waiting of the calling thread. It is at the same distance from the thread pointer in every thread, so that hooks
	 * with KLIEG_HOOK_LIGHT reach that of theirs, which no other thread uses. */
	struct klieg_waiting *(*waiting)(void);
};

/* The one symbol that a plugin exports: it may look at the process (dlsym, options), called once on a thread of Klieg's own.
 * NULL: it cannot work with host. */
__attribute__((visibility("default"))) const struct klieg_plugin *klieg_plugin(const struct klieg_host *host);

/* ---- conveniences --------------------------------------------------------------------------------------------------- */

#define KLIEG_PLUGIN_HOOKS(array) (array), sizeof(array) / sizeof *(array), sizeof *(array)

static inline void klieg_set_text(struct klieg_call *c, const char *key, const char *s)
{
	c->host->text(c, key, s, KLIEG_TEXT_END, 0);
}
static inline void klieg_set_textn(struct klieg_call *c, const char *key, const char *s, size_t n)
{
	c->host->text(c, key, s, n, 0);
}
static inline void klieg_set_int(struct klieg_call *c, const char *key, int64_t v)
{
	c->host->number(c, key, KLIEG_TYPE_INT, (uint64_t)v);
}
static inline void klieg_set_bool(struct klieg_call *c, const char *key, int v)
{
	c->host->number(c, key, KLIEG_TYPE_BOOL, v != 0);
}
static inline void klieg_set_double(struct klieg_call *c, const char *key, double v)
{
	uint64_t bits;
	memcpy(&bits, &v, sizeof bits);
	c->host->number(c, key, KLIEG_TYPE_DOUBLE, bits);
}
static inline void *klieg_arg(const struct klieg_call *c, unsigned i)
{
	return (void *)(uintptr_t)(i < 6 ? c->args[i] : c->stack[i - 6]);
}
static inline int klieg_arg_int(const struct klieg_call *c, unsigned i) { return (int)(i < 6 ? c->args[i] : c->stack[i - 6]); }
static inline void *klieg_result(const struct klieg_call *c) { return (void *)(uintptr_t)c->result; }
static inline int klieg_result_int(const struct klieg_call *c) { return (int)c->result; }

#ifdef __cplusplus
}
#endif
#endif
