/* A span of a batch as a source of fields. Borrowed from the batch; ids are formatted into the context, so that two of them may be
 * compared. The same code serves one-off matches (attribute by its text) and matchers (attribute by its interned key). */
#include "traceql/ast.h"

static const struct attr *find(const struct batch *b, struct attr_range r, struct str key, uint32_t key_id)
{
	if (key_id == TQ_KEY_BY_TEXT)
		return batch_attr(b, r, key);
	for (uint32_t i = 0; i < r.n; i++)
		if (b->attrs[r.off + i].key == key_id)
			return b->attrs + r.off + i;
	return NULL;
}

/* `.x` is the span's own, else the resource's. */
const struct attr *tq_span_attr(const struct tq_span_ctx *c, const struct tq_field *f, uint32_t key_id)
{
	const struct batch *b = c->b;
	const struct span *s = b->spans + c->i;
	const struct attr *a = NULL;
	if (f->scope == TQ_ANY || f->scope == TQ_SPAN)
		a = find(b, s->attrs, f->key, key_id);
	if (!a && (f->scope == TQ_ANY || f->scope == TQ_RESOURCE) && s->resource < b->resources_n)
		a = find(b, b->resources[s->resource].attrs, f->key, key_id);
	if (f->scope == TQ_INSTRUMENTATION && s->scope < b->scopes_n)
		a = find(b, b->scopes[s->scope].attrs, f->key, key_id);
	return a;
}

static void set_str(struct tq_value *v, struct str s) { *v = (struct tq_value){ .type = TQ_STR, .s = s }; }

static void get_intrinsic(struct tq_span_ctx *c, enum tq_intrinsic what, struct tq_value *v)
{
	const struct batch *b = c->b;
	const struct span *s = b->spans + c->i;
	switch (what) {
	case TQ_NAME: set_str(v, batch_text(b, s->name)); break;
	case TQ_DURATION_: *v = (struct tq_value){ .type = TQ_DURATION, .i = s->duration_ns }; break;
	case TQ_STATUS_: *v = (struct tq_value){ .type = TQ_STATUS, .i = s->status }; break;
	case TQ_STATUS_MESSAGE: set_str(v, batch_text(b, s->status_message)); break;
	case TQ_KIND_: *v = (struct tq_value){ .type = TQ_KIND, .i = s->kind }; break;
	case TQ_SPAN_ID:
		span_id_hex(s->span_id, c->span_id);
		set_str(v, str_of(c->span_id));
		break;
	case TQ_PARENT_ID:
		if (s->parent_id) {
			span_id_hex(s->parent_id, c->parent_id);
			set_str(v, str_of(c->parent_id));
		}
		break;
	case TQ_TRACE_ID:
		trace_id_hex(s->trace_hi, s->trace_lo, c->trace_id);
		set_str(v, str_of(c->trace_id));
		break;
	case TQ_SCOPE_NAME:
		if (s->scope < b->scopes_n && b->scopes[s->scope].name)
			set_str(v, batch_text(b, b->scopes[s->scope].name));
		break;
	case TQ_SCOPE_VERSION:
		if (s->scope < b->scopes_n && b->scopes[s->scope].version)
			set_str(v, batch_text(b, b->scopes[s->scope].version));
		break;
	case TQ_CHILD_COUNT: case TQ_TRACE_DURATION: case TQ_ROOT_NAME: case TQ_ROOT_SERVICE:
		if (c->traces)
			tq_traces_get(c->traces, c->i, what, v);
		break;
	default:
		break;
	}
}

void tq_span_get_key(struct tq_span_ctx *c, const struct tq_field *f, uint32_t key_id, struct tq_value *ret_v)
{
	*ret_v = (struct tq_value){ .type = TQ_NIL };
	if (f->scope == TQ_INTRINSIC) {
		get_intrinsic(c, f->intrinsic, ret_v);
		return;
	}
	const struct attr *a = tq_span_attr(c, f, key_id);
	if (a) {
		tq_attr_value(c->b, a, ret_v);
		return;
	}
	const struct span *s = c->b->spans + c->i;
	/* Who fills a resource may leave service.name to its own member. */
	if ((f->scope == TQ_ANY || f->scope == TQ_RESOURCE) && s->resource < c->b->resources_n && c->b->resources[s->resource].service &&
		str_is(f->key, "service.name"))
		set_str(ret_v, batch_text(c->b, c->b->resources[s->resource].service));
}

void tq_span_get(void *ctx, const struct tq_field *f, struct tq_value *ret_v) { tq_span_get_key(ctx, f, TQ_KEY_BY_TEXT, ret_v); }

bool tq_span_nth(void *ctx, const struct tq_field *f, uint32_t n, struct tq_value *ret_v)
{
	struct tq_span_ctx *c = ctx;
	const struct batch *b = c->b;
	const struct span *s = b->spans + c->i;
	bool link = f->scope == TQ_LINK || (f->scope == TQ_INTRINSIC && (f->intrinsic == TQ_LINK_TRACE_ID || f->intrinsic == TQ_LINK_SPAN_ID));
	if (f->scope == TQ_INTRINSIC) {
		if (n >= (link ? s->links_n : s->events_n))
			return false;
		*ret_v = (struct tq_value){ .type = TQ_NIL };
		if (link) {
			const struct span_link *l = b->links + s->links_off + n;
			if (f->intrinsic == TQ_LINK_TRACE_ID) {
				trace_id_hex(l->trace_hi, l->trace_lo, c->link_trace_id);
				set_str(ret_v, str_of(c->link_trace_id));
			} else {
				span_id_hex(l->span_id, c->link_span_id);
				set_str(ret_v, str_of(c->link_span_id));
			}
		} else if (f->intrinsic == TQ_EVENT_NAME) {
			set_str(ret_v, batch_text(b, b->events[s->events_off + n].name));
		} else {
			*ret_v = (struct tq_value){ .type = TQ_DURATION };
			if (__builtin_sub_overflow(b->events[s->events_off + n].time_ns, s->start_ns, &ret_v->i))
				ret_v->i = INT64_MAX;
		}
		return true;
	}
	/* The nth of those that have the attribute. */
	uint32_t count = link ? s->links_n : s->events_n;
	for (uint32_t i = 0; i < count; i++) {
		struct attr_range r = link ? b->links[s->links_off + i].attrs : b->events[s->events_off + i].attrs;
		const struct attr *a = batch_attr(b, r, f->key);
		if (a && n-- == 0) {
			tq_attr_value(b, a, ret_v);
			return true;
		}
	}
	return false;
}
