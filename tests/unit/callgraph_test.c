/* The call graph on constructed traces: paths, recursion, chosen roots, what is hidden and counted, bounds, hostile links. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include "analyze/callgraph.h"
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

static struct batch *b;
static uint64_t next_id;

static void begin(void)
{
	b = batch_create();
	batch_add_resource(b, &(struct resource){ .service = batch_str(b, STR("redis-server")) });
	next_id = 1;
}

static uint64_t add(uint64_t trace, uint64_t parent, const char *name, int64_t start, int64_t duration)
{
	uint32_t n = batch_str(b, str_of(name));
	*batch_add_span(b) = (struct span){ .trace_lo = trace, .span_id = next_id, .parent_id = parent, .start_ns = start, .duration_ns = duration, .name = n };
	return next_id++;
}

static struct callgraph *graph(const char *root, const struct callgraph_config *c)
{
	struct traceql *q = NULL;
	struct err e;
	if (root)
		assert_int_equal(traceql_parse_selector(str_of(root), &q, &e), 0);
	struct hot *h = hot_create(&(struct hot_config){ .q = q, .no_attrs = true });
	for (uint32_t i = 0; i < b->n; i++)
		assert_int_equal(hot_visit(h, b, i), 0);
	struct callgraph_config from = c ? *c : (struct callgraph_config){ 0 };
	from.from_selected |= root != NULL;
	struct callgraph *g = callgraph_finish(h, &from);
	traceql_destroy(q);
	batch_destroy(b);
	return g;
}

/* a/b/c from the roots down; NULL when there is no such path. */
static const struct callgraph_node *find(const struct callgraph *g, const char *path)
{
	const struct callgraph_node *n = g->nodes;
	for (size_t k; *path; path += k + (path[k] == '/')) {
		k = strcspn(path, "/");
		uint32_t i = n->child;
		while (i != CALLGRAPH_NONE && !str_eq(g->nodes[i].name, (struct str){ path, k }))
			i = g->nodes[i].sibling;
		if (i == CALLGRAPH_NONE)
			return NULL;
		assert_true(g->nodes[i].parent == (uint32_t)(n - g->nodes));
		n = g->nodes + i;
	}
	return n;
}

static void paths(void **state)
{
	begin();
	for (uint64_t t = 1; t <= 2; t++) {
		uint64_t p = add(t, 0, "processCommand", 1000, 100), c = add(t, p, "call", 1010, 80), l = add(t, p, "lookupKey", 1000, 10);
		add(t, c, "lookupKey", 1020, 30);
		add(t, c, "addReply", 1060, 20 * (int64_t)t);
		assert_true(l);
	}
	struct callgraph *g = graph(NULL, NULL);
	const struct callgraph_node *p = find(g, "processCommand"), *c = find(g, "processCommand/call");
	assert_true(p->calls == 2 && p->total_ns == 200 && p->self_ns == 20 && p->share == 1 && p->max_ns == 100);
	assert_true(c->calls == 2 && c->total_ns == 160 && c->self_ns == 160 - 60 - 20 - 30 && c->share == .8); /* 40 sticks out by 10 */
	assert_true(find(g, "processCommand/lookupKey")->total_ns == 20 && find(g, "processCommand/call/lookupKey")->total_ns == 60);
	const struct callgraph_node *r = find(g, "processCommand/call/addReply");
	assert_true(r->total_ns == 60 && r->p50_ns == 20 && r->p99_ns == 40 && r->trace_lo == 2);
	assert_true(g->nodes[p->child].total_ns >= g->nodes[g->nodes[p->child].sibling].total_ns);
	assert_true(g->traces == 2 && g->spans == 10 && g->orphans == 0 && g->cut == 0 && !g->bounded && g->n == 6 && g->kept == 1);
	callgraph_destroy(g);
}

/* The topmost selected spans begin; what is above or beside them is not in the graph; a function below itself is a path of its own. */
static void chosen_root(void **state)
{
	begin();
	uint64_t top = add(1, 0, "request", 0, 1000), f = add(1, top, "fib", 0, 600), g2 = add(1, f, "fib", 0, 400);
	add(1, g2, "fib", 0, 300);
	add(1, top, "log", 700, 100);
	add(2, 0, "other", 0, 100);
	add(3, 99, "fib", 0, 200);  /* the caller is not stored */
	struct callgraph *g = graph("redis-server:fib", NULL);
	assert_true(g->nodes[0].total_ns == 800 && g->nodes[0].calls == 2 && g->orphans == 1 && g->n == 4);
	assert_true(find(g, "fib")->calls == 2 && find(g, "fib/fib")->total_ns == 400 && find(g, "fib/fib/fib")->self_ns == 300);
	assert_null(find(g, "log"));
	callgraph_destroy(g);
}

static void small_ones_are_counted(void **state)
{
	begin();
	uint64_t p = add(1, 0, "f", 0, 10000);
	add(1, p, "big", 0, 5000);
	uint64_t s = add(1, p, "small", 6000, 60), u = add(1, p, "tiny", 7000, 50);
	add(1, s, "below", 6000, 60);
	add(1, u, "below", 7000, 50);
	struct callgraph *g = graph(NULL, NULL);
	const struct callgraph_node *f = find(g, "f");
	assert_null(find(g, "f/small"));
	assert_true(f->other == 2 && f->other_calls == 2 && f->other_ns == 110 && f->self_ns == 4890 && g->cut == 4 && g->n == 3);
	callgraph_destroy(g);
	begin();
	p = add(1, 0, "f", 0, 10000);
	add(1, p, "tiny", 0, 1);
	g = graph(NULL, &(struct callgraph_config){ .min_share = -1 });
	assert_non_null(find(g, "f/tiny"));
	callgraph_destroy(g);
}

static void bounds(void **state)
{
	char name[32];
	begin();
	uint64_t p = add(1, 0, "f", 0, 1000000);
	for (int i = 0; i < 5000; i++) {
		snprintf(name, sizeof name, "g%d", i);
		add(1, p, name, i * 200, 200);
	}
	struct callgraph *g = graph(NULL, &(struct callgraph_config){ .min_share = -1, .max_nodes = 100 });
	assert_true(g->bounded && g->n == 101 && find(g, "f")->other == 1 && find(g, "f")->other_calls == 5000 - 99 && find(g, "f")->other_ns == 200 * 4901);
	callgraph_destroy(g);
	begin();
	p = 0;
	for (int i = 0; i < 100000; i++)
		p = add(1, p, "deep", i, 200000 - 2 * i);
	g = graph(NULL, NULL);
	assert_true(g->bounded && g->n == 34);
	const struct callgraph_node *n = g->nodes;
	while (n->child != CALLGRAPH_NONE)
		n = g->nodes + n->child;
	assert_true(n->other_calls == 1);  /* the first beyond; those below it are in its time */
	callgraph_destroy(g);
}

static void hostile(void **state)
{
	begin();
	add(1, 2, "a", 0, 10);              /* a circle */
	add(1, 1, "b", 0, 10);
	add(2, next_id, "self", 0, 10);
	add(3, 0, "", INT64_MAX - 5, INT64_MAX);
	add(3, 0, "\xff\"\\", 0, -5);
	struct callgraph *g = graph(NULL, &(struct callgraph_config){ .min_share = -1 });
	assert_null(find(g, "a"));
	assert_true(find(g, "self")->calls == 1 && g->orphans == 1);
	struct buf json = { 0 };
	callgraph_render_json(g, &json);
	json_t *doc = json_loadb((char *)json.p, json.n, 0, NULL);
	assert_true(json_is_object(doc) && json_array_size(json_object_get(doc, "roots")) == 3);
	json_decref(doc);
	buf_finish(&json);
	callgraph_destroy(g);
	begin();
	g = graph(NULL, NULL);              /* nothing at all */
	callgraph_render_json(g, &json);
	doc = json_loadb((char *)json.p, json.n, 0, NULL);
	assert_true(json_array_size(json_object_get(doc, "roots")) == 0 && json_integer_value(json_object_get(doc, "nodes")) == 0);
	json_decref(doc);
	buf_finish(&json);
	callgraph_destroy(g);
}

static void rendered(void **state)
{
	begin();
	uint64_t p = add(1, 0, "f", 0, 100), q = add(1, p, "g", 0, 50);
	add(1, q, "h", 0, 50);
	add(1, p, "i", 50, 40);
	add(2, 0, "z", 0, 50);
	struct callgraph *g = graph(NULL, NULL);
	struct buf json = { 0 };
	callgraph_render_json(g, &json);
	json_t *doc = json_loadb((char *)json.p, json.n, 0, NULL), *f = json_array_get(json_object_get(doc, "roots"), 0), *kids = json_object_get(f, "children");
	assert_true(json_array_size(json_object_get(doc, "roots")) == 2 && json_array_size(kids) == 2);
	assert_string_equal(json_string_value(json_object_get(json_array_get(kids, 1), "name")), "i");
	assert_true(json_number_value(json_object_get(json_array_get(kids, 1), "share")) == .4);
	assert_int_equal(json_array_size(json_object_get(json_array_get(kids, 0), "children")), 1);
	assert_true(json_integer_value(json_object_get(doc, "nodes")) == 5 && json_integer_value(json_object_get(doc, "total_nano")) == 150);
	json_decref(doc);
	buf_finish(&json);
	callgraph_destroy(g);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(paths), cmocka_unit_test(chosen_root), cmocka_unit_test(small_ones_are_counted),
		cmocka_unit_test(bounds), cmocka_unit_test(hostile), cmocka_unit_test(rendered) };
	return cmocka_run_group_tests(tests, NULL, NULL);
}
