/* Search and one trace. Each runs on a pool thread against the store. */
#include "base/clock.h"
#include "model/span_json.h"
#include "server/internal.h"
#include <inttypes.h>
#include <stdlib.h>

void search_done(struct call *c)
{
	struct search *x = c->data;
	traceql_destroy(x->tq);
	traceql_destroy(x->root);
	struct buf out = x->out;
	free(x);
	if (c->rc < 0) {
		buf_finish(&out);
		call_fail(c, &c->e);
	} else
		call_text(c, &out);
}

int call_range(struct call *c, int64_t *from, int64_t *to, struct err *e)
{
	json_t *since = json_object_get(c->params, "since"), *f = json_object_get(c->params, "from"), *t = json_object_get(c->params, "to");
	*to = t ? json_integer_value(t) : clock_wall() + 60000000000ll;  /* clocks of other hosts may be ahead */
	*from = f ? json_integer_value(f) : clock_wall() - (since ? json_integer_value(since) : 900000000000ll);
	return *from < *to ? 0 : err_set(e, KLIEG_E_USAGE, "'from' must be before 'to'");
}

struct search *search_create(struct call *c)
{
	struct search *x = base_calloc(1, sizeof(*x));
	const char *q = json_string_value(json_object_get(c->params, "q"));
	if (call_range(c, &x->q.from_ns, &x->q.to_ns, &c->e) < 0 || (q && *q && traceql_parse(str_of(q), &x->tq, &c->e) < 0)) {
		free(x);
		call_fail(c, &c->e);
		return NULL;
	}
	x->q.q = x->tq;
	x->q.limit = (uint32_t)json_integer_value(json_object_get(c->params, "limit"));
	x->q.deadline_ns = clock_mono() + 10000000000ll;
	c->data = x;
	return x;
}

static void add_spans(struct buf *out, const struct batch *b, bool full)
{
	buf_add_str(out, "\"spans\":[");
	for (uint32_t i = 0; i < b->n; i++) {
		if (i)
			buf_byte(out, ',');
		span_json(b, i, full, out);
	}
	buf_byte(out, ']');
}

static void spans_work(struct call *c)
{
	struct search *x = c->data;
	struct batch *b = NULL;
	struct store_found f = { 0 };
	if ((c->rc = store_query(c->s->c.store, &x->q, &b, &f, &c->e)) < 0)
		return;
	buf_add_str(&x->out, "{\"version\":1,");
	add_spans(&x->out, b, false);
	buf_printf(&x->out, ",\"matched\":%" PRIu64 ",\"partial\":%s,\"scanned\":{\"spans\":%" PRIu64 ",\"blocks\":%" PRIu64
		",\"skipped_blocks\":%" PRIu64 "}}", f.matched,
		f.partial ? "true" : "false", f.scanned_spans, f.scanned_blocks, f.skipped_blocks);
	batch_destroy(b);
}
void api_spans(struct call *c)
{
	struct search *x = search_create(c);
	if (!x)
		return;
	x->q.newest_first = true;
	call_work(c, spans_work, search_done);
}

static void trace_work(struct call *c)
{
	struct search *x = c->data;
	struct batch *b = NULL;
	uint64_t hi, lo;
	if ((c->rc = trace_id_parse(str_of(c->id), &hi, &lo)) < 0)
		err_set(&c->e, c->rc, "'%s' is not a trace id (1 to 32 hex digits)", c->id);
	else if ((c->rc = store_trace(c->s->c.store, hi, lo, &b, &c->e)) == 0) {
		char h[33];
		trace_id_hex(hi, lo, h);
		buf_printf(&x->out, "{\"trace_id\":\"%s\",", h);
		add_spans(&x->out, b, true);
		buf_printf(&x->out, ",\"matched\":%u}", b->n);
		batch_destroy(b);
	} else if (!c->e.code)
		err_set(&c->e, c->rc, "no spans of trace %s are stored", c->id);
}
void api_trace(struct call *c)
{
	c->data = base_calloc(1, sizeof(struct search));
	call_work(c, trace_work, search_done);
}
