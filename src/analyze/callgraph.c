/* Spans that hot.c has collected and linked in, a tree of call paths out. Each trace's tree is walked once along its links (no recursion: a trace may be
 * hostile; spans in a circle have no root and are never met), every span is given the node of its path, then each node's spans are added up with one
 * histogram for all. What is hidden, because it is small or beyond a bound, is counted at its caller, so that the numbers still add up. */
#include "analyze/callgraph.h"
#include "analyze/hot_internal.h"
#include "base/hash.h"
#include "model/span_json.h"
#include <stdlib.h>

#define NONE CALLGRAPH_NONE
#define DROPPED 0x80000000u   /* below a path that has no node: counted at the node in the other bits */

struct path { uint32_t parent, op, depth, n, first; bool other; double other_calls, other_ns; };
struct build {
	const struct hot *h;
	struct callgraph_config c;
	struct path *paths; uint32_t n;
	uint32_t *slots, mask;     /* (parent, op) -> path + 1 */
	uint32_t *at;              /* per span: its path, NONE when it is in none */
	bool bounded;
	double scale;
};

/* NONE: there is no room. */
static uint32_t callee(struct build *b, uint32_t parent, uint32_t op)
{
	uint32_t key[2] = { parent, op }, k = (uint32_t)hash_bytes(key, sizeof key, 0) & b->mask;
	for (; b->slots[k]; k = (k + 1) & b->mask)
		if (b->paths[b->slots[k] - 1].parent == parent && b->paths[b->slots[k] - 1].op == op)
			return b->slots[k] - 1;
	if (b->n > b->c.max_nodes || b->paths[parent].depth > b->c.max_depth)
		return NONE;
	b->paths[b->n] = (struct path){ .parent = parent, .op = op, .depth = b->paths[parent].depth + 1 };
	b->slots[k] = ++b->n;
	return b->n - 1;
}

static void place(struct build *b, uint32_t i)
{
	const struct hot_span *s = b->h->spans + i;
	uint32_t up = s->parent == HOT_NONE ? NONE : b->at[s->parent];
	if (up == NONE) {
		if (b->c.from_selected ? !s->selected : s->parent != HOT_NONE)
			return;
		up = 0;
	}
	uint32_t node = up & DROPPED ? up : callee(b, up, s->op);
	if (node == NONE) {
		struct path *p = b->paths + up;
		p->other = b->bounded = true;
		p->other_calls += s->weight * b->scale;
		p->other_ns += (double)s->duration_ns * s->weight * b->scale;
		node = up | DROPPED;
	}
	b->at[i] = node;
	if (!(node & DROPPED))
		b->paths[node].n++;
}

static void walk(struct build *b, uint32_t root)
{
	const struct hot_span *spans = b->h->spans;
	for (uint32_t i = root;;) {
		place(b, i);
		if (spans[i].child != HOT_NONE) {
			i = spans[i].child;
			continue;
		}
		while (i != root && spans[i].sibling == HOT_NONE)
			i = spans[i].parent;
		if (i == root)
			return;
		i = spans[i].sibling;
	}
}

static void sum(const struct build *b, const struct path *p, const uint32_t *list, struct histogram *hist, struct callgraph_node *ret_n)
{
	struct callgraph_node n = { .parent = p->parent, .child = NONE, .sibling = NONE, .other = p->other, .other_calls = p->other_calls, .other_ns = p->other_ns };
	int64_t max = -1;
	histogram_reset(hist);
	for (uint32_t k = 0; k < p->n; k++) {
		const struct hot_span *s = b->h->spans + list[p->first + k];
		double w = s->weight * b->scale;
		n.calls += w;
		n.errors += s->error ? w : 0;
		n.total_ns += (double)s->duration_ns * w;
		n.self_ns += (double)s->self_ns * w;
		histogram_add(hist, s->duration_ns, w);
		if (s->duration_ns > max) {
			max = s->duration_ns;
			n.trace_hi = s->trace_hi;
			n.trace_lo = s->trace_lo;
		}
	}
	n.max_ns = max < 0 ? 0 : (double)max;
	n.p50_ns = histogram_quantile(hist, .5);
	n.p99_ns = histogram_quantile(hist, .99);
	n.p50_ns = n.p50_ns > n.max_ns ? n.max_ns : n.p50_ns;
	n.p99_ns = n.p99_ns > n.max_ns ? n.max_ns : n.p99_ns;
	*ret_n = n;
}

struct order { uint32_t parent, i; double total; };
static int by_parent_and_total(const void *x, const void *y)
{
	const struct order *a = x, *b = y;
	if (a->parent != b->parent)
		return a->parent < b->parent ? -1 : 1;
	if (a->total != b->total)
		return a->total > b->total ? -1 : 1;
	return a->i < b->i ? -1 : a->i > b->i;
}

/* From all the paths those worth showing. A path is made after its caller's, so in this order callers come before their callees. */
static void select_nodes(const struct build *b, struct callgraph_node *all, struct callgraph *g)
{
	struct order *order = base_calloc(b->n, sizeof *order);
	uint32_t *shown = base_alloc(b->n * sizeof *shown), last = 0;
	for (uint32_t i = 1; i < b->n; i++) {
		order[i - 1] = (struct order){ all[i].parent, i, all[i].total_ns };
		if (!all[i].parent)
			all[0].total_ns += all[i].total_ns, all[0].calls += all[i].calls;
	}
	qsort(order, b->n - 1, sizeof *order, by_parent_and_total);
	g->nodes = base_calloc(b->n, sizeof *g->nodes);
	g->nodes[0] = all[0];
	g->n = 1;
	shown[0] = 0;
	for (uint32_t k = 0; k + 1 < b->n; k++) {
		uint32_t i = order[k].i, up = shown[all[i].parent];
		shown[i] = NONE;
		if (up == NONE) {
			g->cut++;
			continue;
		}
		struct callgraph_node *parent = g->nodes + up, *n = g->nodes + g->n;
		all[i].share = parent->total_ns > 0 ? all[i].total_ns / parent->total_ns : 0;
		if (parent->total_ns > 0 && all[i].share < b->c.min_share) {
			parent->other++;
			parent->other_calls += all[i].calls;
			parent->other_ns += all[i].total_ns;
			g->cut++;
			continue;
		}
		*n = all[i];
		n->parent = up;
		const struct hot_op *op = b->h->ops + b->paths[i].op;
		n->service = strtab_get(&g->strs, strtab_add(&g->strs, strtab_get(&b->h->strs, op->service)));
		n->name = strtab_get(&g->strs, strtab_add(&g->strs, strtab_get(&b->h->strs, op->name)));
		if (parent->child == NONE)
			parent->child = g->n;
		else
			g->nodes[last].sibling = g->n;  /* one caller's callees follow each other */
		last = shown[i] = g->n++;
	}
	free(order);
	free(shown);
}

struct callgraph *callgraph_finish(struct hot *h, const struct callgraph_config *c)
{
	struct callgraph *g = base_calloc(1, sizeof *g);
	struct build b = { .h = h, .scale = (double)(1ull << h->shift), .mask = 1023, .n = 1 };
	if (c)
		b.c = *c;
	b.c.min_share = b.c.min_share == 0 ? .01 : b.c.min_share;
	b.c.max_nodes = b.c.max_nodes ? b.c.max_nodes : 2000;
	b.c.max_depth = b.c.max_depth ? b.c.max_depth : 32;
	hot_link(h);
	while (b.mask < b.c.max_nodes * 2)
		b.mask = b.mask * 2 + 1;
	b.slots = base_calloc(b.mask + 1u, sizeof *b.slots);
	b.paths = base_calloc(b.c.max_nodes + 1u, sizeof *b.paths);
	b.at = base_alloc((h->n + 1) * sizeof *b.at);
	memset(b.at, 0xff, h->n * sizeof *b.at);
	for (uint32_t i = 0; i < h->n; i++)
		if (h->spans[i].parent == HOT_NONE) {
			g->orphans += h->spans[i].parent_id != 0;
			walk(&b, i);
		}
	uint32_t *list = base_alloc((h->n + 1) * sizeof *list);
	for (uint32_t i = 0, first = 0; i < b.n; i++) {
		b.paths[i].first = first;
		first += b.paths[i].n;
		b.paths[i].n = 0;
	}
	for (uint32_t i = 0; i < h->n; i++)
		if (!(b.at[i] & DROPPED)) /* NONE has that bit, too */
			list[b.paths[b.at[i]].first + b.paths[b.at[i]].n++] = i;
	struct callgraph_node *all = base_calloc(b.n, sizeof *all);
	struct histogram *hist = base_calloc(1, sizeof *hist);
	for (uint32_t i = 0; i < b.n; i++)
		sum(&b, b.paths + i, list, hist, all + i);
	strtab_init(&g->strs);
	select_nodes(&b, all, g);
	g->bounded = b.bounded;
	g->traces = hot_count_traces(h);
	g->spans = h->seen;
	g->skipped = h->skipped;
	g->kept = 1 / b.scale;
	g->window_ns = hot_window(h);
	free(hist);
	free(all);
	free(list);
	free(b.at);
	free(b.paths);
	free(b.slots);
	hot_destroy(h);
	return g;
}

void callgraph_destroy(struct callgraph *g)
{
	if (!g)
		return;
	free(g->nodes);
	strtab_finish(&g->strs);
	free(g);
}

static void add_nano(struct buf *b, const char *key, double ns) { buf_printf(b, ",\"%s\":%.0f", key, ns); }

static void add_other(struct buf *b, const struct callgraph_node *n)
{
	buf_printf(b, "\"other\":{\"callees\":%u,\"calls\":%.0f", n->other, n->other_calls);
	add_nano(b, "total_nano", n->other_ns);
	buf_byte(b, '}');
}

static void open_node(struct buf *b, const struct callgraph_node *n)
{
	char id[33];
	trace_id_hex(n->trace_hi, n->trace_lo, id);
	buf_add_str(b, "{\"service\":");
	json_text(b, n->service);
	buf_add_str(b, ",\"name\":");
	json_text(b, n->name);
	buf_printf(b, ",\"calls\":%.0f,\"errors\":%.0f", n->calls, n->errors);
	add_nano(b, "total_nano", n->total_ns);
	add_nano(b, "self_nano", n->self_ns);
	add_nano(b, "p50_nano", n->p50_ns);
	add_nano(b, "p99_nano", n->p99_ns);
	add_nano(b, "max_nano", n->max_ns);
	buf_printf(b, ",\"share\":%.6f,\"example_trace_id\":\"%s\",", n->share, id);
	add_other(b, n);
	buf_add_str(b, ",\"children\":[");
}

void callgraph_render_json(const struct callgraph *g, struct buf *b)
{
	const struct callgraph_node *nodes = g->nodes;
	buf_add_str(b, "{\"roots\":[");
	for (uint32_t i = nodes[0].child; i != NONE && i;) {
		open_node(b, nodes + i);
		if (nodes[i].child != NONE) {
			i = nodes[i].child;
			continue;
		}
		buf_add_str(b, "]}");
		while (nodes[i].sibling == NONE && nodes[i].parent) {
			i = nodes[i].parent;
			buf_add_str(b, "]}");
		}
		i = nodes[i].sibling;
		if (i != NONE)
			buf_byte(b, ',');
	}
	buf_add_str(b, "],");
	add_other(b, nodes);
	buf_printf(b, ",\"calls\":%.0f", nodes[0].calls);
	add_nano(b, "total_nano", nodes[0].total_ns);
	buf_printf(b, ",\"nodes\":%u,\"cut\":%u,\"bounded\":%s,\"traces\":%llu,\"spans\":%llu,\"orphans\":%llu,\"skipped\":%llu,\"kept\":%.9g,\"window_nano\":%lld}",
		g->n - 1, g->cut, g->bounded ? "true" : "false", (unsigned long long)g->traces, (unsigned long long)g->spans, (unsigned long long)g->orphans,
		(unsigned long long)g->skipped, g->kept, (long long)g->window_ns);
}
