/* Server-sent events: /events (what changes) and /spans/tail. A watcher that reads too slowly loses events, never memory: they are counted and it
 * is told with `event: dropped` once it reads again. Spans reach the tails as copies, at most TAIL_SPANS of a batch; a tail is told of the others as
 * `unexamined`: whether its query matches them was not looked at. */
#include "model/span_json.h"
#include "server/internal.h"
#include <inttypes.h>
#include <stdlib.h>

enum { TAIL_SPANS = 500, MAX_WATCHERS = 64 };
struct watcher { struct watcher *next; struct server *s; struct http_req *r; bool tail; struct traceql *q; uint64_t dropped, unexamined; };

static void gone(struct http_req *r, void *arg)
{
	struct watcher *w = arg, **p = &w->s->watchers;
	while (*p != w)
		p = &(*p)->next;
	*p = w->next;
	w->s->tails -= w->tail;
	traceql_destroy(w->q);
	free(w);
}

/* n: how many spans (or events) data holds, which is what counts as dropped if it cannot be sent. */
static void send_text(struct watcher *w, const char *event, struct str data, uint64_t n)
{
	struct buf b = { 0 };
	if (w->dropped || w->unexamined)
		buf_printf(&b, "event: dropped\ndata: {\"dropped\":%" PRIu64 ",\"unexamined\":%" PRIu64 "}\n\n", w->dropped, w->unexamined);
	buf_printf(&b, "event: %s\ndata: ", event);
	buf_add(&b, data.p, data.n);
	buf_add(&b, "\n\n", 2);
	if (http_stream_send(w->r, buf_str(&b)))
		w->dropped = w->unexamined = 0;
	else
		w->dropped += n;
	buf_finish(&b);
}

void events_send(struct server *s, const char *event, const json_t *data)
{
	audit_event(s, event, data);
	char *t = NULL;
	for (struct watcher *w = s->watchers, *next; w; w = next) {
		next = w->next;
		if (w->tail)
			continue;
		if (!t)
			t = json_dumps(data, JSON_COMPACT);
		send_text(w, event, str_of(t), 1);
	}
	free(t);
}

struct event_post { struct server *s; json_t *event; };
static void event_arrived(void *arg)
{
	struct event_post *p = arg;
	const char *type = json_string_value(json_object_get(p->event, "type")) ?: "event", *host = fleet_local_host(p->s);
	if (host && !json_object_get(p->event, "host"))      /* those of elsewhere have it */
		json_object_set_new(p->event, "host", json_string(host));
	if (!strcmp(type, "trigger"))
		firings_event(p->s, p->event);
	else if (!strcmp(type, "guard"))
		alerts_guard(p->s, p->event);
	events_send(p->s, type, p->event);
	json_decref(p->event);
	free(p);
}
void server_event(void *server, const json_t *event)
{
	struct event_post *p = base_alloc(sizeof(*p));
	*p = (struct event_post){ server, json_deep_copy(event) };
	loop_post(p->s->c.loop, event_arrived, p);
}

struct spans_post { struct server *s; struct batch *b; uint32_t more; };
static void spans_arrived(void *arg)
{
	struct spans_post *p = arg;
	for (struct watcher *w = p->s->watchers, *next; w; w = next) {
		struct buf b = { 0 };
		uint32_t n = 0;
		next = w->next;
		if (!w->tail)
			continue;
		for (uint32_t i = 0; i < p->b->n; i++)
			if (!w->q || traceql_match(w->q, p->b, i)) {
				buf_add_str(&b, n++ ? "," : "{\"spans\":[");
				span_json(p->b, i, false, &b);
			}
		if (w->q)
			w->unexamined += p->more;
		else
			w->dropped += p->more;
		if (n) {
			buf_add_str(&b, "]}");
			send_text(w, "spans", buf_str(&b), n);
		}
		buf_finish(&b);
	}
	batch_destroy(p->b);
	free(p);
}
struct batch *events_copy(struct server *s, const struct batch *b)
{
	if (!s->tails)
		return NULL;
	struct batch *copy = batch_create();
	for (uint32_t i = 0; i < b->n && i < TAIL_SPANS; i++)
		batch_copy_span(copy, b, i);
	return copy;
}
void events_spans(struct server *s, struct batch *copy, uint32_t of)
{
	if (!copy)
		return;
	struct spans_post *p = base_alloc(sizeof(*p));
	*p = (struct spans_post){ s, copy, of - copy->n };
	loop_post(s->c.loop, spans_arrived, p);
}

static void watch(struct call *c, bool tail)
{
	const char *q = json_string_value(json_object_get(c->params, "q"));
	unsigned n = 0;
	for (struct watcher *w = c->s->watchers; w; w = w->next)
		n++;
	struct traceql *tq = NULL;
	if (n >= MAX_WATCHERS || (q && *q && traceql_parse(str_of(q), &tq, &c->e) < 0)) {
		if (n >= MAX_WATCHERS)
			err_set(&c->e, KLIEG_E_BUSY, "more than %d event streams are open", MAX_WATCHERS);
		call_fail(c, &c->e);
		return;
	}
	struct watcher *w = base_calloc(1, sizeof(*w));
	*w = (struct watcher){ c->s->watchers, c->s, c->r, tail, tq, 0, 0 };
	c->s->watchers = w;
	c->s->tails += tail;
	c->r->on_gone = gone;
	c->r->gone_arg = w;
	http_stream_open(c->r, "text/event-stream");
	http_stream_send(c->r, STR(": klieg\n\n"));
	call_free(c);
}
unsigned events_watchers(const struct server *s)
{
	unsigned n = 0;
	for (const struct watcher *w = s->watchers; w; w = w->next)
		n++;
	return n;
}
void api_events(struct call *c) { watch(c, false); }
void api_tail(struct call *c) { watch(c, true); }
