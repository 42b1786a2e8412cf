/* Writes spans as JSON straight from the batch. */
#include "model/span_json.h"
#include <inttypes.h>
#include <math.h>
#include <stdio.h>

void json_text(struct buf *ret, struct str s)
{
	static const char hex[] = "0123456789abcdef";
	buf_reserve(ret, s.n + 2);
	buf_byte(ret, '"');
	size_t from = 0, i = 0;
	bool valid = str_utf8_valid(s);
	for (; i < s.n; i++) {
		unsigned char c = (unsigned char)s.p[i];
		if (c >= 0x20 && c != '"' && c != '\\' && (c < 0x80 || valid))
			continue;
		buf_add(ret, s.p + from, i - from);
		from = i + 1;
		if (c >= 0x80) { /* keep what is valid around it */
			size_t n = c >= 0xf0 ? 4 : c >= 0xe0 ? 3 : 2;
			if (i + n <= s.n && str_utf8_valid((struct str){ s.p + i, n })) {
				buf_add(ret, s.p + i, n);
				i += n - 1;
				from = i + 1;
			} else {
				buf_add_str(ret, "\xef\xbf\xbd");
			}
		} else if (c == '"' || c == '\\') {
			buf_byte(ret, '\\');
			buf_byte(ret, c);
		} else if (c == '\n') {
			buf_add_str(ret, "\\n");
		} else if (c == '\t') {
			buf_add_str(ret, "\\t");
		} else {
			char u[6] = { '\\', 'u', '0', '0', hex[c >> 4], hex[c & 15] };
			buf_add(ret, u, 6);
		}
	}
	buf_add(ret, s.p + from, i - from);
	buf_byte(ret, '"');
}

void json_number(struct buf *ret, double d)
{
	if (!isfinite(d))
		buf_add_str(ret, "null");
	else if (d == (double)(int64_t)d && fabs(d) < 1e15)
		buf_printf(ret, "%" PRId64, (int64_t)d);
	else
		buf_printf(ret, "%.17g", d);
}

static void base64(struct buf *ret, struct str s)
{
	static const char t[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
	const uint8_t *p = (const uint8_t *)s.p;
	buf_byte(ret, '"');
	for (size_t i = 0; i < s.n; i += 3) {
		uint32_t v = (uint32_t)p[i] << 16 | (i + 1 < s.n ? (uint32_t)p[i + 1] << 8 : 0) | (i + 2 < s.n ? p[i + 2] : 0);
		char q[4] = { t[v >> 18], t[v >> 12 & 63], i + 1 < s.n ? t[v >> 6 & 63] : '=', i + 2 < s.n ? t[v & 63] : '=' };
		buf_add(ret, q, 4);
	}
	buf_byte(ret, '"');
}

static void attributes(const struct batch *b, struct attr_range r, struct buf *ret, int depth);

static void value(const struct batch *b, const struct attr *a, struct buf *ret, int depth)
{
	if (a->flags & ATTR_MASKED) {
		buf_add_str(ret, "{\"masked\":true}");
		return;
	}
	switch (a->type) {
	case ATTR_STR: json_text(ret, batch_text(b, a->s)); break;
	case ATTR_INT: buf_printf(ret, "%" PRId64, a->i); break;
	case ATTR_BOOL: buf_add_str(ret, a->i ? "true" : "false"); break;
	case ATTR_BYTES: base64(ret, batch_text(b, a->s)); break;
	case ATTR_DOUBLE:
		if (isfinite(a->d))
			buf_printf(ret, "%.17g", a->d);
		else
			buf_add_str(ret, isnan(a->d) ? "\"NaN\"" : a->d > 0 ? "\"Infinity\"" : "\"-Infinity\"");
		break;
	case ATTR_ARRAY:
		buf_byte(ret, '[');
		for (uint32_t i = 0; i < a->list.n && depth < 40; i++) {
			if (i)
				buf_byte(ret, ',');
			value(b, b->attrs + a->list.off + i, ret, depth + 1);
		}
		buf_byte(ret, ']');
		break;
	case ATTR_KVLIST:
		if (depth < 40)
			attributes(b, (struct attr_range){ a->list.off, a->list.n }, ret, depth + 1);
		else
			buf_add_str(ret, "{}");
		break;
	default: buf_add_str(ret, "null");
	}
}

static void attributes(const struct batch *b, struct attr_range r, struct buf *ret, int depth)
{
	buf_byte(ret, '{');
	for (uint32_t i = 0; i < r.n; i++) {
		const struct attr *a = b->attrs + r.off + i;
		if (i)
			buf_byte(ret, ',');
		json_text(ret, batch_text(b, a->key));
		buf_byte(ret, ':');
		value(b, a, ret, depth);
	}
	buf_byte(ret, '}');
}

void span_json(const struct batch *b, uint32_t i, bool full, struct buf *ret)
{
	static const char *const kinds[] = { "unspecified", "internal", "server", "client", "producer", "consumer" };
	static const char *const statuses[] = { "unset", "ok", "error" };
	const struct span *s = b->spans + i;
	char trace[33], id[17], parent[17] = "";
	trace_id_hex(s->trace_hi, s->trace_lo, trace);
	span_id_hex(s->span_id, id);
	if (s->parent_id)
		span_id_hex(s->parent_id, parent);
	buf_printf(ret, "{\"trace_id\":\"%s\",\"span_id\":\"%s\",\"parent_span_id\":\"%s\",\"service\":", trace, id, parent);
	json_text(ret, s->resource < b->resources_n ? batch_text(b, b->resources[s->resource].service) : STR(""));
	buf_add_str(ret, ",\"name\":");
	json_text(ret, batch_text(b, s->name));
	buf_printf(ret, ",\"kind\":\"%s\",\"start_unix_nano\":%" PRId64 ",\"duration_nano\":%" PRId64 ",\"status\":\"%s\",\"status_message\":",
		kinds[s->kind < 6 ? s->kind : 0], s->start_ns, s->duration_ns, statuses[s->status < 3 ? s->status : 0]);
	json_text(ret, batch_text(b, s->status_message));
	buf_add_str(ret, ",\"adjusted_count\":");
	json_number(ret, span_adjusted_count(s));
	buf_add_str(ret, ",\"attributes\":");
	attributes(b, s->attrs, ret, 0);
	if (full) {
		buf_add_str(ret, ",\"resource\":");
		attributes(b, s->resource < b->resources_n ? b->resources[s->resource].attrs : (struct attr_range){ 0, 0 }, ret, 0);
		buf_add_str(ret, ",\"scope\":");
		json_text(ret, s->scope < b->scopes_n ? batch_text(b, b->scopes[s->scope].name) : STR(""));
		buf_add_str(ret, ",\"events\":[");
		for (uint32_t k = 0; k < s->events_n; k++) {
			const struct span_event *e = b->events + s->events_off + k;
			buf_add_str(ret, k ? ",{\"name\":" : "{\"name\":");
			json_text(ret, batch_text(b, e->name));
			buf_printf(ret, ",\"time_unix_nano\":%" PRId64 ",\"attributes\":", e->time_ns);
			attributes(b, e->attrs, ret, 0);
			buf_byte(ret, '}');
		}
		buf_add_str(ret, "],\"links\":[");
		for (uint32_t k = 0; k < s->links_n; k++) {
			const struct span_link *l = b->links + s->links_off + k;
			trace_id_hex(l->trace_hi, l->trace_lo, trace);
			span_id_hex(l->span_id, id);
			buf_printf(ret, "%s{\"trace_id\":\"%s\",\"span_id\":\"%s\",\"attributes\":", k ? "," : "", trace, id);
			attributes(b, l->attrs, ret, 0);
			buf_byte(ret, '}');
		}
		buf_byte(ret, ']');
		if (s->dropped_attrs || s->dropped_events || s->dropped_links)
			buf_printf(ret, ",\"dropped\":{\"attributes\":%u,\"events\":%u,\"links\":%u}", s->dropped_attrs, s->dropped_events, s->dropped_links);
	}
	buf_byte(ret, '}');
}
