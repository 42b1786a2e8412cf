/* What is computed over many spans: hotspots and the heatmap. A pool thread scans the store and feeds src/analyze. */
#include "analyze/heatmap.h"
#include "analyze/hot.h"
#include "base/clock.h"
#include "server/internal.h"
#include <stdlib.h>

struct scan { struct store_query q; struct traceql *tq; struct buf out; uint32_t columns, limit; };

static void done(struct call *c)
{
	struct scan *x = c->data;
	traceql_destroy(x->tq);
	struct buf out = x->out;
	free(x);
	if (c->rc < 0) {
		buf_finish(&out);
		call_fail(c, &c->e);
	} else
		call_text(c, &out);
}

static struct scan *begin(struct call *c)
{
	struct scan *x = base_calloc(1, sizeof(*x));
	if (call_search(c, &x->q, &x->tq) < 0) {
		free(x);
		return NULL;
	}
	x->limit = (uint32_t)json_integer_value(json_object_get(c->params, "limit"));
	x->columns = (uint32_t)json_integer_value(json_object_get(c->params, "columns"));
	c->data = x;
	return x;
}

/* Self time needs every child, so all spans of the range are read and the filter decides what is reported. */
static void hot_work(struct call *c)
{
	struct scan *x = c->data;
	struct store_found f;
	x->q.q = NULL;
	struct hot *h = hot_create(&(struct hot_config){ .q = x->tq, .limit = x->limit });
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
	if (begin(c))
		call_work(c, hot_work, done);
}

static void heat_work(struct call *c)
{
	struct scan *x = c->data;
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
	if (begin(c))
		call_work(c, heat_work, done);
}
