/* Klieg's probes: fine-grained tracing that sits in a service switched off at no cost, and is switched on from outside while it runs.
 *
 *   #define KLIEG_COMPONENT "payment"
 *   #include <klieg/klieg.h>
 *
 *   void charge(const char *tenant, long cents)
 *   {
 *           KLIEG_SPAN("payment.charge", KLIEG_STR("tenant", tenant), KLIEG_INT("cents", cents));
 *           ...
 *   }
 *
 * Link with -lklieg (pkg-config klieg). Off, an event, count, explicit begin or explicit end is one instruction (`test eax, imm32`, which the
 * agent turns into a jump by writing one byte); attribute expressions are not evaluated. On, nothing here allocates, locks, blocks,
 * prints or exits; every probe may be used in any thread and in signal handlers; errno is preserved. docs/probes.md is the guide.
 *
 * Define before the include: KLIEG_COMPONENT (a string literal), KLIEG_DISABLE (compile every probe to nothing), KLIEG_NO_PATCH (a load
 * and a branch instead of a patched instruction), KLIEG_WEAK (the program also runs without libklieg, and lights up when preloaded).
 * Names, components and attribute keys must be string literals without '%', '"' or '\'.
 */
#ifndef KLIEG_H
#define KLIEG_H
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifdef __cplusplus
extern "C" {
#endif

#ifndef KLIEG_COMPONENT
#define KLIEG_COMPONENT ""
#endif

/* ---- process ------------------------------------------------------------------------------------------------------ */

/* Size-first, so that it can grow: set .size = sizeof(struct klieg_options). Strings are copied. */
struct klieg_options {
	size_t size;
	const char *service;     /* service.name; NULL: OTEL_SERVICE_NAME, else unknown_service:EXECUTABLE */
	const char *version;     /* service.version; may be NULL */
	const char *attributes;  /* more resource attributes, "k=v,k=v", percent-encoded as in OTEL_RESOURCE_ATTRIBUTES; may be NULL */
};

/* A trace context (W3C): what a request carries from thread to thread. Plain data; copy it freely. */
struct klieg_ctx {
	uint64_t trace_hi, trace_lo; /* big-endian halves of the 16-byte trace id; 0,0 = no trace */
	uint64_t span_id;            /* the span that new ones become children of; 0 = none */
	uint64_t threshold;          /* OTEP 235 rejection threshold, 56 bits */
	uint32_t flags;              /* private */
	uint32_t seq;                /* private */
	uint64_t home;               /* private */
};

/* Header values of an outgoing request; empty strings when there is nothing to send. */
struct klieg_headers { char traceparent[56]; char tracestate[384]; };

/* A span's handle. Its contents are private; it must stay at its address while the span is open. */
typedef struct klieg_span {
	uint32_t open, seq;
	uint64_t check, start, trace_hi, trace_lo, id, parent;
	uint32_t site, flags;
} klieg_span;

#ifndef KLIEG_DISABLE

#ifdef KLIEG_WEAK
#define KLIEG__API __attribute__((weak))
#define KLIEG__WEAK_SKIP ".weak klieg__skip\n\t"
#else
#define KLIEG__API
#define KLIEG__WEAK_SKIP
#endif

/* Names the service. Optional, any time, any thread, again to change it; values given here win over the environment. 0, or -1 when
 * tracing cannot work in this process (no memfd); the program need not care. */
KLIEG__API int klieg_init(const struct klieg_options *o);

/* The current context of this thread: the innermost open span, or what was set. ret_ctx->trace_* are 0 when there is none. */
KLIEG__API void klieg_current(struct klieg_ctx *ret_ctx);
/* Continues ctx on this thread (a job taken from a queue, an event loop turning to another request); *ret_previous is for klieg_restore,
 * which must be called on the same thread. A ctx without a trace means: what follows starts traces of its own. */
KLIEG__API void klieg_set_current(const struct klieg_ctx *ctx, struct klieg_ctx *ret_previous);
KLIEG__API void klieg_restore(const struct klieg_ctx *previous);

/* Reads a request's context by asking get(arg, name) for header values (NULL = absent; names are lower-case; values must stay valid
 * until the call returns): W3C traceparent and tracestate, else B3 (single or multi), else uber-trace-id. `klieg-level:` with a token of
 * `klieg token`, signed for this service and good for some minutes, forces this one request on. *ret_ctx is without a trace if none is found. Returns 1 if a context was found, 0 if not.
 * Other vendors' tracestate members (whole ones, up to 256 bytes) stay with the calling thread until its next extract: klieg_inject on that
 * thread passes them on while the same trace is current. */
KLIEG__API int klieg_extract(const char *(*get)(void *arg, const char *name), void *arg, struct klieg_ctx *ret_ctx);
/* The headers for a call made now from this thread. */
KLIEG__API void klieg_inject(struct klieg_headers *ret_h);
/* Writes 32 hex digits and a NUL, or an empty string; for log lines. */
KLIEG__API void klieg_trace_id(char ret_hex[33]);

/* ---- private from here on, but for the macros at the end ------------------------------------------------------------ */

/* index: the site's + 1, given at registration; 0 = not registered. skip: klieg__skip.changes when the site was found to be on for some requests only. */
struct klieg__slot { uint32_t index, skip; };
/* changes: moves when a site is switched on for other requests than before. asked: from the thread pointer to the byte that says, in bits 0..2, which
 * level this thread's request carries. */
struct klieg__skip { const uint32_t *changes; intptr_t asked; };
struct klieg__value { uint8_t type, sensitive; uint32_t len; union { int64_t i; double d; const void *p; } u; };

KLIEG__API void klieg__register(const void *first, const void *last, int *state);
KLIEG__API void klieg__unregister(const void *first, int *state);
#define KLIEG__NOPLT
#ifdef __has_attribute
#if __has_attribute(noplt)
#undef KLIEG__NOPLT
#define KLIEG__NOPLT __attribute__((noplt)) /* one jump less in each call */
#endif
#endif
KLIEG__API KLIEG__NOPLT int klieg__begin(const struct klieg__slot *, klieg_span *); /* scoped; returns the level, 0 = not recording */
KLIEG__API int klieg__begin_explicit(const struct klieg__slot *, klieg_span *);
KLIEG__API KLIEG__NOPLT void klieg__end(klieg_span *);
KLIEG__API void klieg__end_explicit(klieg_span *);
KLIEG__API int klieg__level(const struct klieg__slot *);
KLIEG__API int klieg__span_level(const klieg_span *);
KLIEG__API void klieg__attributes(const struct klieg__slot *, klieg_span *, const struct klieg__value *, int n);
KLIEG__API void klieg__event(const struct klieg__slot *, const struct klieg__value *, int n);
KLIEG__API void klieg__count(const struct klieg__slot *, int64_t n);
KLIEG__API void klieg__set(klieg_span *, const char *const *keys, const struct klieg__value *, int n);
KLIEG__API void klieg__status(klieg_span *, int error, const char *text);
KLIEG__API void klieg__link(klieg_span *, const struct klieg_ctx *);

#define KLIEG__UNUSED __attribute__((unused))
/* The site is on for some requests, and this thread's is none of them: what such a request pays, a jump there and back. What is written out here is
 * what a compiled program knows of libklieg's insides: two words, and what they mean. */
static inline __attribute__((always_inline, unused)) int klieg__for_others(const struct klieg__slot *slot)
{
#if defined(__x86_64__) && defined(__LP64__)
	const struct klieg__skip *k;
	unsigned asked;
	__asm__(KLIEG__WEAK_SKIP "movq klieg__skip@GOTPCREL(%%rip), %0" : "=r"(k)); /* not by its name: that would copy it into the executable */
	if (__atomic_load_n(&slot->skip, __ATOMIC_RELAXED) != __atomic_load_n(k->changes, __ATOMIC_RELAXED))
		return 0;
	__asm__ volatile("movzbl %%fs:(%1), %0" : "=r"(asked) : "r"(k->asked));
	return !(asked & 7);
#else
	(void)slot;
	return 0;
#endif
}
static inline KLIEG__UNUSED struct klieg__value klieg__mk(uint8_t type, uint32_t len) { struct klieg__value v; memset(&v, 0, sizeof v); v.type = type; v.len = len; return v; }
static inline KLIEG__UNUSED struct klieg__value klieg__strn(const void *p, size_t n) { struct klieg__value v = klieg__mk(1, n > 0xffffffu ? 0xffffffu : (uint32_t)n); v.u.p = p; return v; }
static inline KLIEG__UNUSED struct klieg__value klieg__str(const char *s) { return klieg__strn(s, s ? strlen(s) : 0); }
static inline KLIEG__UNUSED struct klieg__value klieg__int(int64_t i) { struct klieg__value v = klieg__mk(2, 8); v.u.i = i; return v; }
static inline KLIEG__UNUSED struct klieg__value klieg__double(double d) { struct klieg__value v = klieg__mk(3, 8); v.u.d = d; return v; }
static inline KLIEG__UNUSED struct klieg__value klieg__bool(int b) { struct klieg__value v = klieg__mk(4, 8); v.u.i = b != 0; return v; }
static inline KLIEG__UNUSED struct klieg__value klieg__bytes(const void *p, size_t n) { struct klieg__value v = klieg__strn(p, n); v.type = 5; return v; }
static inline KLIEG__UNUSED struct klieg__value klieg__hide(struct klieg__value v) { v.sensitive = 1; return v; }

/* The sites of this module (executable or shared library), gathered by the linker. One registration a module, whoever comes first. */
extern const char __start_klieg_sites[] __attribute__((weak, visibility("hidden")));
extern const char __stop_klieg_sites[] __attribute__((weak, visibility("hidden")));
__attribute__((weak, visibility("hidden"))) int klieg__module_state;
__attribute__((weak, visibility("hidden"), constructor)) void klieg__module_init(void);
__attribute__((weak, visibility("hidden"), constructor)) void klieg__module_init(void)
{
#ifdef KLIEG_WEAK
	if (!klieg__register)
		return;
#endif
	klieg__register(__start_klieg_sites, __stop_klieg_sites, &klieg__module_state);
}
__attribute__((weak, visibility("hidden"), destructor)) void klieg__module_fini(void);
__attribute__((weak, visibility("hidden"), destructor)) void klieg__module_fini(void)
{
#ifdef KLIEG_WEAK
	if (!klieg__unregister)
		return;
#endif
	klieg__unregister(__start_klieg_sites, &klieg__module_state);
}
#ifdef __cplusplus
}
/* A static local of an inline function has no local address in position-independent code; a member of a hidden template has. */
template <class Tag> struct __attribute__((visibility("hidden"))) klieg__slot_of { static klieg__slot its; };
template <class Tag> klieg__slot klieg__slot_of<Tag>::its;
#define KLIEG__SLOT(slot) struct KLIEG__CAT(slot, _tag) {}
#define KLIEG__SLOT_REF(slot) (&klieg__slot_of<KLIEG__CAT(slot, _tag)>::its)
#else
#define KLIEG__SLOT(slot) static struct klieg__slot slot __attribute__((used))
#define KLIEG__SLOT_REF(slot) (&slot)
#endif

#ifdef __clang__ /* labels are cold by asm goto's own weights there, and the attribute is a warning */
#define KLIEG__COLD
#else
#define KLIEG__COLD __attribute__((cold))
#endif
#define KLIEG__CAT_(a, b) a##b
#define KLIEG__CAT(a, b) KLIEG__CAT_(a, b)
#define KLIEG__TEXT_(x) #x
#define KLIEG__TEXT(x) KLIEG__TEXT_(x)

/* The site: one instruction here, its descriptor (struct kw_site of src/wire/wire.h, all offsets relative to itself) and its texts elsewhere. */
#if defined(__x86_64__) && !defined(KLIEG_NO_PATCH)
#define KLIEG__CODE(label) "661: .byte 0xa9\n\t.long %l[" #label "] - . - 4\n"
#define KLIEG__FLAG 0
#define KLIEG__ADDR "661b"
#define KLIEG__EXTRA
#elif defined(__x86_64__)
#define KLIEG__CODE(label) "cmpb $0, 664f(%%rip)\n\tjne %l[" #label "]\n"
#define KLIEG__EXTRA ".pushsection klieg_bytes,\"awR?\",@progbits\n664: .byte 0\n.popsection\n"
#define KLIEG__FLAG 1
#define KLIEG__ADDR "664b"
#elif defined(__aarch64__)
#define KLIEG__CODE(label) "adrp x16, 664f\n\tldrb w16, [x16, :lo12:664f]\n\tcbnz w16, %l[" #label "]\n"
#define KLIEG__EXTRA ".pushsection klieg_bytes,\"awR?\",%%progbits\n664: .byte 0\n.popsection\n"
#define KLIEG__FLAG 1
#define KLIEG__ADDR "664b"
#else
#error "klieg.h: x86-64 and aarch64 only; define KLIEG_DISABLE to build without probes"
#endif
#if defined(__aarch64__)
#define KLIEG__PROGBITS "%%progbits"
#define KLIEG__SYMBOL "S" /* "i" takes no symbol in position-independent code there */
#define KLIEG__CLOBBER "cc", "x16"
#else
#define KLIEG__PROGBITS "@progbits"
#define KLIEG__SYMBOL "i"
#define KLIEG__CLOBBER "cc"
#endif
#define KLIEG__SITE(kind, flags, name, schema, slot, label) \
	__asm__ goto(KLIEG__CODE(label) KLIEG__EXTRA \
		".pushsection klieg_sites,\"aR?\"," KLIEG__PROGBITS "\n\t.balign 4\n" \
		"662: .long " KLIEG__ADDR " - 662b, %l[" #label "] - 662b, 663f - 662b, " KLIEG__TEXT(__LINE__) "\n" \
		"\t.short " #kind ", %c1\n\t.long %c0 - 662b\n\t.popsection\n" \
		"\t.pushsection klieg_text,\"aR?\"," KLIEG__PROGBITS "\n" \
		"663: .asciz \"" KLIEG_COMPONENT "\"\n\t.asciz \"" name "\"\n\t.asciz \"" __FILE__ "\"\n\t.asciz \"" schema "\"\n\t.popsection\n" \
		: : KLIEG__SYMBOL(KLIEG__SLOT_REF(slot)), "i"((flags) | KLIEG__FLAG) : KLIEG__CLOBBER : label)

/* Attributes are tuples (key, type letter, value); used once for the schema's text, once for the values. */
#define KLIEG__NARG_(a1, a2, a3, a4, a5, a6, a7, a8, n, ...) n
#define KLIEG__NARG(...) KLIEG__NARG_(__VA_ARGS__, 8, 7, 6, 5, 4, 3, 2, 1, 0)
#define KLIEG__EACH1(m, a) m a
#define KLIEG__EACH2(m, a, ...) m a KLIEG__EACH1(m, __VA_ARGS__)
#define KLIEG__EACH3(m, a, ...) m a KLIEG__EACH2(m, __VA_ARGS__)
#define KLIEG__EACH4(m, a, ...) m a KLIEG__EACH3(m, __VA_ARGS__)
#define KLIEG__EACH5(m, a, ...) m a KLIEG__EACH4(m, __VA_ARGS__)
#define KLIEG__EACH6(m, a, ...) m a KLIEG__EACH5(m, __VA_ARGS__)
#define KLIEG__EACH7(m, a, ...) m a KLIEG__EACH6(m, __VA_ARGS__)
#define KLIEG__EACH8(m, a, ...) m a KLIEG__EACH7(m, __VA_ARGS__)
#define KLIEG__EACH(m, ...) KLIEG__CAT(KLIEG__EACH, KLIEG__NARG(__VA_ARGS__))(m, __VA_ARGS__)
#define KLIEG__SCHEMA(key, type, value) key ":" type ","
#define KLIEG__VALUE(key, type, value) value,
#define KLIEG__KEY(key, type, value) key,
#define KLIEG__HIDE(key, type, value) (key, type "!", klieg__hide(value))

#define KLIEG_STR(key, v) (key, "s", klieg__str(v))          /* NUL-terminated; NULL is empty; cut at 1 KiB */
#define KLIEG_STRN(key, p, n) (key, "s", klieg__strn(p, n))
#define KLIEG_INT(key, v) (key, "i", klieg__int(v))
#define KLIEG_DOUBLE(key, v) (key, "d", klieg__double(v))
#define KLIEG_BOOL(key, v) (key, "b", klieg__bool(v))
#define KLIEG_BYTES(key, p, n) (key, "y", klieg__bytes(p, n))
#define KLIEG_SENSITIVE(attribute) KLIEG__HIDE attribute      /* never written */

#define KLIEG__ATTRIBUTES(slot, span, ...) \
	do { \
		const struct klieg__value klieg__v[] = { KLIEG__EACH(KLIEG__VALUE, __VA_ARGS__) }; \
		klieg__attributes(KLIEG__SLOT_REF(slot), span, klieg__v, KLIEG__NARG(__VA_ARGS__)); \
	} while (0)

/* The begin of a span: open stays 0 when the site is off. (An explicit one's slot never remembers that it is for others: its handle has to be reset.) */
#define KLIEG__BEGIN0(fn, flags, s, name, id) \
	do { \
		__label__ klieg__on, klieg__off; \
		KLIEG__SLOT(KLIEG__CAT(klieg__slot, id)); \
		KLIEG__SITE(1, flags, name, "", KLIEG__CAT(klieg__slot, id), klieg__on); \
		goto klieg__off; \
	klieg__on: KLIEG__COLD; \
		if (klieg__for_others(KLIEG__SLOT_REF(KLIEG__CAT(klieg__slot, id)))) \
			goto klieg__off; \
		fn(KLIEG__SLOT_REF(KLIEG__CAT(klieg__slot, id)), &(s)); \
	klieg__off:; \
	} while (0)
#define KLIEG__BEGINN(fn, flags, s, name, id, ...) \
	do { \
		__label__ klieg__on, klieg__off; \
		KLIEG__SLOT(KLIEG__CAT(klieg__slot, id)); \
		KLIEG__SITE(1, flags, name, KLIEG__EACH(KLIEG__SCHEMA, __VA_ARGS__), KLIEG__CAT(klieg__slot, id), klieg__on); \
		goto klieg__off; \
	klieg__on: KLIEG__COLD; \
		if (klieg__for_others(KLIEG__SLOT_REF(KLIEG__CAT(klieg__slot, id)))) \
			goto klieg__off; \
		if (fn(KLIEG__SLOT_REF(KLIEG__CAT(klieg__slot, id)), &(s)) >= 3) \
			KLIEG__ATTRIBUTES(KLIEG__CAT(klieg__slot, id), &(s), __VA_ARGS__); \
	klieg__off:; \
	} while (0)
/* name alone, or name and attributes */
#define KLIEG__PICK_(a1, a2, a3, a4, a5, a6, a7, a8, a9, which, ...) which
#define KLIEG__PICK(...) KLIEG__PICK_(__VA_ARGS__, N, N, N, N, N, N, N, N, 0, 0)
#define KLIEG__BEGIN_(fn, flags, s, id, n, name, ...) KLIEG__CAT(KLIEG__BEGIN, n)(fn, flags, s, name, id, ##__VA_ARGS__)
#define KLIEG__BEGIN(fn, flags, s, id, ...) KLIEG__BEGIN_(fn, flags, s, id, KLIEG__PICK(__VA_ARGS__), __VA_ARGS__)

/* The end of a scope: is the handle open? Written out on x86-64, because compilers load first and test then. */
#if defined(__x86_64__)
#define KLIEG__IF_OPEN(s, label) __asm__ goto("cmpl $0, %0\n\tjne %l[" #label "]" : : "m"((s)->open) : "cc" : label)
#else
#define KLIEG__IF_OPEN(s, label) do { if (__builtin_expect((s)->open != 0, 0)) goto label; } while (0)
#endif
static inline __attribute__((always_inline, unused)) void klieg__scope_end(klieg_span *s)
{
	KLIEG__IF_OPEN(s, open);
	return;
open: KLIEG__COLD;
	klieg__end(s);
}
#ifdef __cplusplus
struct klieg__scope : klieg_span {
	inline __attribute__((always_inline)) klieg__scope() { open = 0; }
	inline __attribute__((always_inline)) ~klieg__scope() { klieg__scope_end(this); }
	klieg__scope(const klieg__scope &) = delete;
	klieg__scope &operator=(const klieg__scope &) = delete;
};
#define KLIEG__SCOPE(s) klieg__scope s
#else
#define KLIEG__SCOPE(s) klieg_span s __attribute__((cleanup(klieg__scope_end))); s.open = 0
#endif
#define KLIEG__SPAN_AS(flags, s, id, ...) KLIEG__SCOPE(s); KLIEG__BEGIN(klieg__begin, flags, s, id, __VA_ARGS__)

/* ---- the probes ---------------------------------------------------------------------------------------------------- */

/* A span from here to the end of the block: KLIEG_SPAN("name", attributes...); with a handle `s` for KLIEG_SET, KLIEG_ERROR, ...: */
#define KLIEG_SPAN(...) KLIEG__SPAN_AS(0, KLIEG__CAT(klieg__s, __LINE__), __COUNTER__, __VA_ARGS__)
#define KLIEG_SPAN_AS(s, ...) KLIEG__SPAN_AS(0, s, __COUNTER__, __VA_ARGS__)
#define KLIEG_SERVER_SPAN_AS(s, ...) KLIEG__SPAN_AS(2, s, __COUNTER__, __VA_ARGS__)
#define KLIEG_CLIENT_SPAN_AS(s, ...) KLIEG__SPAN_AS(4, s, __COUNTER__, __VA_ARGS__)
#define KLIEG_PRODUCER_SPAN_AS(s, ...) KLIEG__SPAN_AS(6, s, __COUNTER__, __VA_ARGS__)
#define KLIEG_CONSUMER_SPAN_AS(s, ...) KLIEG__SPAN_AS(8, s, __COUNTER__, __VA_ARGS__)

/* A span between two places, also on two threads. `s` (a klieg_span) need not be initialised; both take the same name. */
#define KLIEG_BEGIN(s, ...) KLIEG__BEGIN(klieg__begin_explicit, 0, s, __COUNTER__, __VA_ARGS__)
#define KLIEG_END(s, name) \
	do { \
		__label__ klieg__on, klieg__off; \
		KLIEG__SLOT(klieg__slot_end); \
		KLIEG__SITE(2, 0, name, "", klieg__slot_end, klieg__on); \
		goto klieg__off; \
	klieg__on: KLIEG__COLD; \
		klieg__end_explicit(&(s)); \
	klieg__off:; \
	} while (0)

/* Something that happened at one moment, within the current span: KLIEG_EVENT("name", attributes...). */
#define KLIEG__EVENT0(name) \
	do { \
		__label__ klieg__on, klieg__off; \
		KLIEG__SLOT(klieg__slot_event); \
		KLIEG__SITE(3, 0, name, "", klieg__slot_event, klieg__on); \
		goto klieg__off; \
	klieg__on: KLIEG__COLD; \
		if (klieg__for_others(KLIEG__SLOT_REF(klieg__slot_event))) \
			goto klieg__off; \
		klieg__event(KLIEG__SLOT_REF(klieg__slot_event), NULL, 0); \
	klieg__off:; \
	} while (0)
#define KLIEG__EVENTN(name, ...) \
	do { \
		__label__ klieg__on, klieg__off; \
		KLIEG__SLOT(klieg__slot_event); \
		KLIEG__SITE(3, 0, name, KLIEG__EACH(KLIEG__SCHEMA, __VA_ARGS__), klieg__slot_event, klieg__on); \
		goto klieg__off; \
	klieg__on: KLIEG__COLD; \
		if (klieg__for_others(KLIEG__SLOT_REF(klieg__slot_event))) \
			goto klieg__off; \
		if (klieg__level(KLIEG__SLOT_REF(klieg__slot_event)) >= 3) { \
			const struct klieg__value klieg__v[] = { KLIEG__EACH(KLIEG__VALUE, __VA_ARGS__) }; \
			klieg__event(KLIEG__SLOT_REF(klieg__slot_event), klieg__v, KLIEG__NARG(__VA_ARGS__)); \
		} else { \
			klieg__event(KLIEG__SLOT_REF(klieg__slot_event), NULL, 0); \
		} \
	klieg__off:; \
	} while (0)
#define KLIEG_EVENT(...) KLIEG__CAT(KLIEG__EVENT, KLIEG__PICK(__VA_ARGS__))(__VA_ARGS__)

/* Adds n (an integer) to a counter. */
#define KLIEG_COUNT(name, n) \
	do { \
		__label__ klieg__on, klieg__off; \
		KLIEG__SLOT(klieg__slot_count); \
		KLIEG__SITE(4, 0, name, "", klieg__slot_count, klieg__on); \
		goto klieg__off; \
	klieg__on: KLIEG__COLD; \
		if (klieg__for_others(KLIEG__SLOT_REF(klieg__slot_count))) \
			goto klieg__off; \
		klieg__count(KLIEG__SLOT_REF(klieg__slot_count), (int64_t)(n)); \
	klieg__off:; \
	} while (0)

/* On an open span's handle; they do nothing (and evaluate nothing but a test) when it is not recording. */
#define KLIEG_SET(s, ...) \
	do { \
		if (__builtin_expect((s).open != 0, 0) && klieg__span_level(&(s)) >= 3) { \
			static const char *const klieg__k[] = { KLIEG__EACH(KLIEG__KEY, __VA_ARGS__) }; \
			const struct klieg__value klieg__v[] = { KLIEG__EACH(KLIEG__VALUE, __VA_ARGS__) }; \
			klieg__set(&(s), klieg__k, klieg__v, KLIEG__NARG(__VA_ARGS__)); \
		} \
	} while (0)
#define KLIEG_ERROR(s, text) do { if (__builtin_expect((s).open != 0, 0)) klieg__status(&(s), 1, text); } while (0)
#define KLIEG_OK(s) do { if (__builtin_expect((s).open != 0, 0)) klieg__status(&(s), 0, NULL); } while (0)
#define KLIEG_LINK(s, ctx) do { if (__builtin_expect((s).open != 0, 0)) klieg__link(&(s), ctx); } while (0)

#else /* KLIEG_DISABLE */

static inline __attribute__((unused)) int klieg_init(const struct klieg_options *o) { (void)o; return -1; }
static inline __attribute__((unused)) void klieg_current(struct klieg_ctx *c) { memset(c, 0, sizeof *c); }
static inline __attribute__((unused)) void klieg_set_current(const struct klieg_ctx *c, struct klieg_ctx *p) { (void)c; (void)p; }
static inline __attribute__((unused)) void klieg_restore(const struct klieg_ctx *p) { (void)p; }
static inline __attribute__((unused)) int klieg_extract(const char *(*get)(void *, const char *), void *arg, struct klieg_ctx *c) { (void)get; (void)arg; (void)c; return 0; }
static inline __attribute__((unused)) void klieg_inject(struct klieg_headers *h) { h->traceparent[0] = h->tracestate[0] = 0; }
static inline __attribute__((unused)) void klieg_trace_id(char h[33]) { h[0] = 0; }
#ifdef __cplusplus
}
#endif
#define KLIEG_SPAN(...) do {} while (0)
#define KLIEG_SPAN_AS(s, ...) klieg_span s; (void)&s
#define KLIEG_SERVER_SPAN_AS(s, ...) klieg_span s; (void)&s
#define KLIEG_CLIENT_SPAN_AS(s, ...) klieg_span s; (void)&s
#define KLIEG_PRODUCER_SPAN_AS(s, ...) klieg_span s; (void)&s
#define KLIEG_CONSUMER_SPAN_AS(s, ...) klieg_span s; (void)&s
#define KLIEG_BEGIN(s, ...) ((void)&(s))
#define KLIEG_END(s, name) ((void)&(s))
#define KLIEG_EVENT(...) ((void)0)
#define KLIEG_COUNT(name, n) ((void)sizeof(n))
#define KLIEG_SET(s, ...) ((void)&(s))
#define KLIEG_ERROR(s, text) ((void)&(s))
#define KLIEG_OK(s) ((void)&(s))
#define KLIEG_LINK(s, ctx) ((void)&(s))
#endif
#endif
