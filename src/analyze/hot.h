/* Hotspots: where the time of a stream of spans goes, per operation (service, name), and what is wrong there where that can be told.
 * Feed spans from a store scan (hot_visit is a store_visit_fn), then finish. One thread.
 *
 * Self time needs the children: scan a time range with no filter and give the filter to hot_create, which then reports only the operations
 * of spans that match it. Memory is bounded: beyond max_spans a consistent half of the traces is dropped and the rest stands for it. */
#pragma once
#include "model/batch.h"
#include "traceql/traceql.h"

struct hot_config {
	const struct traceql *q;     /* NULL = all; must live until hot_finish */
	const struct traceql *also;  /* a second filter that must match, too; the same */
	bool no_attrs;               /* findings need attributes, the call graph does not */
	uint32_t limit;              /* rows; 0 = 50 */
	uint32_t max_spans;          /* held at once; 0 = 500,000 (about 100 MB) */
	int64_t window_ns;           /* for the result; 0 = from the first span's start to the last one's end */
};
struct hot_finding { const char *kind; char text[240]; }; /* kind: n+1, retry, lock, wait, outlier, queue */
struct hot_row {
	struct str service, name;
	double calls, errors;        /* adjusted for sampling */
	double total_ns, self_ns;
	double self_share;           /* of the self time of all spans, 0..1 */
	double mean_ns, p50_ns, p99_ns, max_ns;
	double spans_per_trace;      /* of the traces that have it */
	uint64_t trace_hi, trace_lo; /* the slowest */
	struct hot_finding *findings;
	uint32_t findings_n;
};
struct hot_result {
	struct hot_row *rows;        /* most self time first */
	uint32_t rows_n, operations; /* operations: how many there are without the limit */
	uint64_t traces, spans;      /* seen, before any dropping */
	uint64_t skipped;            /* of these not looked at although their trace was kept: one trace larger than the bound */
	double kept;                 /* share of the traces that the rows are computed from; 1 unless the bound was hit */
	int64_t window_ns;
	struct strtab strs;
};

struct hot;
struct hot *hot_create(const struct hot_config *c);  /* NULL: all defaults */
int hot_visit(void *hot, const struct batch *b, uint32_t i); /* always 0 */
/* Takes the hot; the result is the caller's. */
struct hot_result *hot_finish(struct hot *h);
void hot_destroy(struct hot *h);                     /* instead of finish; NULL is fine */
void hot_result_destroy(struct hot_result *r);       /* NULL is fine */
/* As `GET /hot` answers (docs/api.md). */
void hot_render_json(const struct hot_result *r, struct buf *ret_json);
