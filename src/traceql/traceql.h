/* TraceQL: the one language that asks (queries) and switches (selectors, policies). Grammar and semantics: docs/traceql.md.
 * This cut accepts `{ ... }` spanset filters (comparison, regex, && || !, arithmetic, parentheses, intrinsics, scopes), for triggers with a metric
 * and a threshold after it, and says clearly what it does not take yet. A parsed query is immutable: any thread may evaluate it, each with its own
 * source. */
#pragma once
#include "base/buf.h"
#include "base/err.h"
#include "model/batch.h"

struct traceql;

/* Parses and checks a filter; a metrics query is refused (see traceql_parse_metric). Limits: 64 KiB of text, depth 64, 1,000 nodes. On failure *e
 * has line, column, message and hint. */
int traceql_parse(struct str text, struct traceql **ret_q, struct err *e);
/* A selector: `{...}`, or the short form `glob` (on the site's/span's name) / `service:glob`, or "" / "*" for all. */
int traceql_parse_selector(struct str text, struct traceql **ret_q, struct err *e);
/* A metrics query: `{ ... } | metric(...) [by(...)] [> number [with(baseline=10m)]]`; a mere filter is refused. */
int traceql_parse_metric(struct str text, struct traceql **ret_q, struct err *e);
void traceql_destroy(struct traceql *q);                 /* NULL is fine */
/* Bytes of its compiled regular expressions (at most 1 MiB), for who holds many queries. */
size_t traceql_size(const struct traceql *q);
/* The canonical text, e.g. `{ name =~ "pay.*" && resource.service.name = "shop" }`. */
void traceql_print(const struct traceql *q, struct buf *ret_text);

/* What a field evaluates to. */
enum tq_type { TQ_NIL, TQ_STR, TQ_INT, TQ_FLOAT, TQ_DURATION, TQ_BOOL, TQ_STATUS, TQ_KIND, TQ_ARRAY };
struct tq_value {
	enum tq_type type;
	union { struct str s; int64_t i; double d; struct { const struct batch *b; uint32_t off, n; } array; };
};
enum tq_scope { TQ_ANY /* .x */, TQ_SPAN, TQ_RESOURCE, TQ_EVENT, TQ_LINK, TQ_INSTRUMENTATION, TQ_INTRINSIC };
enum tq_intrinsic {
	TQ_NAME, TQ_DURATION_, TQ_STATUS_, TQ_STATUS_MESSAGE, TQ_KIND_, TQ_SPAN_ID, TQ_PARENT_ID, TQ_CHILD_COUNT, TQ_TRACE_ID,
	TQ_TRACE_DURATION, TQ_ROOT_NAME, TQ_ROOT_SERVICE, TQ_EVENT_NAME, TQ_EVENT_TIME, TQ_LINK_TRACE_ID, TQ_LINK_SPAN_ID,
	TQ_SCOPE_NAME, TQ_SCOPE_VERSION,
};
struct tq_field { enum tq_scope scope; enum tq_intrinsic intrinsic; struct str key; };

/* Evaluation over anything that can name its fields: spans, sites. get() writes TQ_NIL for what is absent. */
struct tq_source {
	void *ctx;
	void (*get)(void *ctx, const struct tq_field *f, struct tq_value *ret_v);
	/* The nth value of a field that a span has several of (events, links); false = no more. NULL: the source has none. */
	bool (*nth)(void *ctx, const struct tq_field *f, uint32_t n, struct tq_value *ret_v);
};
bool traceql_eval(const struct traceql *q, const struct tq_source *src);
/* The same over span i of a batch. Trace intrinsics (rootName, ...) are looked up in the batch if it holds the whole trace, else nil. */
bool traceql_match(const struct traceql *q, const struct batch *b, uint32_t i);
/* True if it mentions such an intrinsic (rootName, rootServiceName, traceDuration, span:childCount): evaluate it over whole traces then. */
bool traceql_needs_trace(const struct traceql *q);
/* How many regular-expression matches were given up at their work limit (and counted as no match). */
uint64_t traceql_gave_up(const struct traceql *q);

/* The same as traceql_match, much faster over many spans of one batch. One thread per matcher; q must outlive it. Call begin at each new
 * batch, also if it lives at the old one's address; match does so by itself only when it can see that the batch is another one. */
struct tq_matcher;
struct tq_matcher *traceql_matcher_create(const struct traceql *q);
void traceql_matcher_destroy(struct tq_matcher *m);      /* NULL is fine */
void traceql_matcher_begin(struct tq_matcher *m, const struct batch *b);
bool traceql_matcher_match(struct tq_matcher *m, const struct batch *b, uint32_t i);

/* Conditions that every match must satisfy (AND-ed at the top level), for a store to push down. Unset members: empty / 0 / INT64_MAX. */
struct tq_pushdown {
	struct str service, name;         /* exact */
	int64_t min_duration_ns, max_duration_ns;
	bool errors_only;                 /* status = error */
	uint64_t trace_hi, trace_lo;      /* exact trace:id, 0,0 = any */
};
void traceql_pushdown(const struct traceql *q, struct tq_pushdown *ret_p);
/* Does it mention only what is known of a site (name, resource.*, instrumentation:*, component, file, function, kind)? Otherwise *e says which
 * field is not (duration, status, span attributes): `klieg on` then suggests --where. */
int traceql_check_site(const struct traceql *q, struct err *e);

/* ---- policies ---------------------------------------------------------------------------------------------------------- */

/* Where a query may stand, and so what it may mention. A filter that decides at span start sees resource, instrumentation, name, kind and the
 * attributes given at the start; not duration, status, the whole trace. A trigger is a metrics query with a comparison. In policies && and || are
 * not mixed without parentheses. */
enum tq_profile { TQ_PROFILE_START, TQ_PROFILE_END, TQ_PROFILE_TRIGGER };
int traceql_check_profile(const struct traceql *q, enum tq_profile profile, struct err *e);

/* Takes a start filter apart: what a site alone decides (name, kind, component, file, function, resource.*, instrumentation:name), and what is known
 * when a request comes (span attributes). Both are new queries, the caller's; *ret_request is NULL when there is no such part. The parts are and-ed at
 * the top level; an `||` across them is refused, with the hint to write two rules. */
int traceql_split_start(const struct traceql *q, struct traceql **ret_site, struct traceql **ret_request, struct err *e);

/* `{ ... } | quantile_over_time(duration, .99) by(...) > 250ms`: the filter is what traceql_eval and traceql_match see. */
enum tq_metric_fn { TQ_RATE, TQ_COUNT, TQ_MIN, TQ_MAX, TQ_AVG, TQ_SUM, TQ_HISTOGRAM, TQ_QUANTILE };
struct tq_metric {
	enum tq_metric_fn fn;
	struct tq_field field;       /* of what: duration, or an attribute */
	double quantile;
	bool compared; const char *cmp; /* ">" ">=" "<" "<=" */
	double threshold;            /* ns for durations; with a baseline a ratio */
	int64_t baseline_ns;         /* `with(baseline=10m)`: what is compared is the value now over the value of the last 10 m; 0: none */
	const struct tq_field *by; uint32_t nby;
};
bool traceql_metric(const struct traceql *q, struct tq_metric *ret_m); /* false: it is a filter */
bool traceql_metric_waits(const struct tq_metric *m); /* of span.klieg.queue_nano: how long requests waited before their first span */

/* A filter's inside, for who compiles it to something else. Nodes are numbered; false = nothing simpler to be said of this one (arithmetic, ...). */
enum tq_view_op { TQ_VIEW_AND, TQ_VIEW_OR, TQ_VIEW_NOT, TQ_VIEW_CMP, TQ_VIEW_EXISTS /* != nil */, TQ_VIEW_ABSENT /* = nil */ };
struct tq_view { enum tq_view_op op; uint16_t l, r; const char *cmp; /* = != < <= > >= =~ !~ */ struct tq_field field; struct tq_value value; };
bool traceql_root(const struct traceql *q, uint16_t *ret_node);      /* false: `{ }` */
bool traceql_view(const struct traceql *q, uint16_t node, struct tq_view *ret_v);
bool traceql_eval_node(const struct traceql *q, uint16_t node, const struct tq_source *src); /* is this condition true? */
/* Whatever a matches, b matches too. False proves nothing: only conditions that are the same, or a field that is fixed to a value, are compared. */
bool traceql_implies(const struct traceql *a, const struct traceql *b);
/* No site matches both (a site's resource has one value of each attribute). False proves nothing either. */
bool traceql_excludes(const struct traceql *a, const struct traceql *b);
