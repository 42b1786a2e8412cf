/* What is computed over many spans: hotspots, the call graph and the heatmap. A pool thread scans the store and feeds src/analyze. */
#include "analyze/callgraph.h"
#include "analyze/heatmap.h"
#include "analyze/hot.h"
#include "base/clock.h"
#include "server/internal.h"
#include <stdlib.h>

static void start(struct call *c, void (*work)(struct call *))
{
	struct search *x = search_create(c);
	if (!x)
		return;
	x->columns = (uint32_t)json_integer_value(json_object_get(c->params, "columns"));
	call_work(c, work, search_done);
}

/* Self time needs every child, so all spans of the range are read and the filter decides what is reported. */
static void hot_work(struct call *c)
{
	struct search *x = c->data;
	struct store_found f;
	struct hot *h = hot_create(&(struct hot_config){ .q = x->tq, .limit = x->q.limit }); /* rows, not spans */
	x->q.q = NULL;
	x->q.limit = 0;
	if ((c->rc = store_scan(c->s->c.store, &x->q, hot_visit, h, &f, &c->e)) < 0) {
		hot_destroy(h);
		return;
	}
	struct hot_result *r = hot_finish(h);
	hot_render_json(r, &x->out);
	hot_result_destroy(r);
}

void api_hot(struct call *c)
{
	start(c, hot_work);
}

/* Paths need every caller, so here, too, all spans of the range are read. */
static void callgraph_work(struct call *c)
{
	struct search *x = c->data;
	struct store_found f;
	double share = json_number_value(json_object_get(c->params, "min_share"));
	struct callgraph_config cfg = { .from_selected = x->tq || x->root, .min_share = share > 0 ? share : -1,
		.max_nodes = (uint32_t)json_integer_value(json_object_get(c->params, "limit")),
		.max_depth = (uint32_t)json_integer_value(json_object_get(c->params, "depth")) };
	struct hot *h = hot_create(&(struct hot_config){ .q = x->root, .also = x->tq, .no_attrs = true });
	x->q.q = NULL;
	x->q.limit = 0;
	if ((c->rc = store_scan(c->s->c.store, &x->q, hot_visit, h, &f, &c->e)) < 0) {
		hot_destroy(h);
		return;
	}
	struct callgraph *g = callgraph_finish(h, &cfg);
	callgraph_render_json(g, &x->out);
	callgraph_destroy(g);
}

static void awaited(void *arg, int rc, json_t *result, const struct err *e) { }

/* Somebody looks at what happens right now: what is on its way comes before it is their turn, also on a host without spare CPU. */
static void await_spans(struct server *s)
{
	int64_t now = clock_mono();
	if (now - s->awaited < 2000 * 1000000ll) /* it lasts for three seconds at least */
		return;
	s->awaited = now;
	priority_await(&s->pace);
	store_await(s->c.store);
	fleet_ask(s, "await", json_object(), awaited, NULL);
}

void api_callgraph(struct call *c)
{
	await_spans(c->s);
	const char *root = json_string_value(json_object_get(c->params, "root"));
	struct search *x = search_create(c);
	if (!x)
		return;
	if (root && *root)
		traceql_parse_selector(str_of(root), &x->root, NULL);   /* the table has had it parsed before */
	call_work(c, callgraph_work, search_done);
}

static void heat_work(struct call *c)
{
	struct search *x = c->data;
	struct store_found f;
	struct heatmap m;
	int64_t now = clock_wall() + 1000000000;
	if (x->q.to_ns > now && x->q.from_ns < now)
		x->q.to_ns = now; /* no empty columns for what cannot have happened yet */
	if ((c->rc = heatmap_init(&m, x->q.from_ns, x->q.to_ns, x->columns)) < 0) {
		err_set(&c->e, c->rc, "'from' must be before 'to'");
		return;
	}
	if ((c->rc = store_scan(c->s->c.store, &x->q, heatmap_visit, &m, &f, &c->e)) == 0)
		heatmap_render_json(&m, &x->out);
	heatmap_finish(&m);
}

void api_heatmap(struct call *c)
{
	start(c, heat_work);
}
