/* Between hot.c, which collects, links and adds up per operation, findings.c, which looks for what is wrong, and callgraph.c, which adds up per path. */
#pragma once
#include "analyze/histogram.h"
#include "analyze/hot.h"

#define HOT_NONE UINT32_MAX
#define HOT_UNKNOWN INT64_MIN

struct hot_span {
	uint64_t trace_hi, trace_lo, span_id, parent_id;
	int64_t start_ns, duration_ns;
	int64_t self_ns;                   /* set by hot_finish */
	int64_t cpu_ns, off_cpu_ns;        /* of the whole span; HOT_UNKNOWN */
	double weight, queue_depth;        /* queue_depth < 0: none */
	int64_t before_ns;                 /* waited before it began, or HOT_UNKNOWN */
	uint32_t op;
	uint32_t parent, child, sibling;   /* indices into spans, children by start; HOT_NONE */
	uint32_t attrs_off;
	uint8_t attrs_n, kind, error, selected, lockish;
};
struct hot_attr { uint32_t key, value; };  /* string ids of hot->strs */
struct hot_op { uint32_t service, name; uint32_t first, n; /* of by_op */ double total, self; struct hot_finding *findings; uint32_t findings_n; };

/* What hot_visit collects. */
struct hot {
	struct hot_config c;
	struct strtab strs;
	struct hot_span *spans; uint32_t n, cap;
	struct hot_attr *attrs; uint32_t attrs_n, attrs_cap;
	struct hot_op *ops; uint32_t ops_n, ops_cap;
	uint32_t *op_slots, op_nslots;
	struct tq_matcher *matcher, *also;
	const struct batch *b;             /* the one visited last, */
	uint32_t b_last;                   /* and where: indices grow within a batch */
	unsigned shift;                    /* 2^-shift of the traces are kept */
	bool full;                         /* and cannot be made smaller */
	uint64_t seen, skipped;
	uint64_t *trace_bits;              /* linear counting of distinct traces */
	int64_t first_ns, last_ns;
};
/* Sorts by trace and start, links children to parents, sets self times. */
void hot_link(struct hot *h);
uint64_t hot_count_traces(const struct hot *h); /* of linked ones */
int64_t hot_window(const struct hot *h);

/* All spans of all kept traces, sorted by trace and start, linked to their parents. */
struct hot_view {
	struct hot_span *spans; uint32_t n;
	const struct hot_attr *attrs;
	struct hot_op *ops; uint32_t ops_n;
	uint32_t *by_op;                   /* span indices, grouped by operation, by trace within one */
	const struct strtab *strs;
	double self;                       /* of all spans */
	struct histogram *a, *b;           /* scratch */
};
void hot_find(struct hot_view *v);         /* adds to each op's findings */
