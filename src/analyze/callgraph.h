/* The call graph of a stream of spans: a tree of the paths of operations (service, name) by which calls came, from the roots of the traces or from chosen
 * functions down. Collecting is hot's: create a struct hot with no_attrs, visit the spans of a store scan without a filter (paths need the parents), then
 * callgraph_finish instead of hot_finish. One thread. */
#pragma once
#include "analyze/hot.h"

struct callgraph_config {
	bool from_selected;          /* paths begin at the topmost spans that hot's filters select; else at spans without a stored parent */
	double min_share;            /* callees with less than this share of their caller's time are only counted; 0 = 0.01, negative = show all */
	uint32_t max_nodes;          /* 0 = 2,000; what comes by further paths is counted at the caller */
	uint32_t max_depth;          /* 0 = 32 calls below a root */
};
struct callgraph_node {
	struct str service, name;
	uint32_t parent, child, sibling;   /* indices, CALLGRAPH_NONE; children by total time, most first */
	double calls, errors;              /* adjusted for sampling */
	double total_ns, self_ns;          /* recursion: each node has only the calls of its own path */
	double p50_ns, p99_ns, max_ns;
	double share;                      /* of the parent's total, of all roots' for a root. Above 1: calls that ran beside each other */
	uint64_t trace_hi, trace_lo;       /* the slowest */
	uint32_t other;                    /* callees that are not shown, and what they sum up to */
	double other_calls, other_ns;
};
#define CALLGRAPH_NONE UINT32_MAX
struct callgraph {
	struct callgraph_node *nodes;      /* nodes[0] is nobody: its children are the roots */
	uint32_t n;
	uint32_t cut;                      /* nodes hidden by min_share, with all below them */
	bool bounded;                      /* max_nodes or max_depth was reached */
	uint64_t traces, spans;            /* seen */
	uint64_t orphans;                  /* spans whose parent is not stored, or not yet */
	uint64_t skipped; double kept;     /* as in struct hot_result */
	int64_t window_ns;
	struct strtab strs;
};
/* Takes the hot; the result is the caller's. */
struct callgraph *callgraph_finish(struct hot *h, const struct callgraph_config *c);
void callgraph_destroy(struct callgraph *g);   /* NULL is fine */
/* As `GET /callgraph` answers (docs/api.md). */
void callgraph_render_json(const struct callgraph *g, struct buf *ret_json);
