/* OTLP/trace in protobuf (field numbers: opentelemetry-proto, trace/v1, common/v1, resource/v1). The reader walks the bytes once and adds to the
 * batch as it goes; strings are interned straight from the input. Everything the sender controls is bounded: depth, counts, lengths.
 * The writer sizes nothing ahead: a message's length goes into room left for it and the body moves down when it needed less. */
#include "model/otlp.h"
#include "model/otlp_internal.h"
#include <inttypes.h>
#include <stdio.h>

/* ---- reading ------------------------------------------------------------------------------------------------------ */

struct in { const uint8_t *p, *end; };

static inline bool get_varint(struct in *in, uint64_t *ret)
{
	uint64_t v = 0;
	if (in->p < in->end && *in->p < 128) { /* nearly all tags and most lengths */
		*ret = *in->p++;
		return true;
	}
	for (unsigned shift = 0; shift < 70 && in->p < in->end; shift += 7) {
		uint8_t b = *in->p++;
		if (shift == 63 && b > 1)
			return false;
		v |= (uint64_t)(b & 127) << shift;
		if (!(b & 128)) {
			*ret = v;
			return true;
		}
	}
	return false;
}

struct field { uint32_t number; unsigned type; uint64_t v; struct in bytes; };

/* The next field; 1 = got one, 0 = end, -1 = malformed. Groups (deprecated long before OTLP) are malformed. */
static inline int next(struct in *in, struct field *f)
{
	uint64_t tag;
	if (in->p == in->end)
		return 0;
	if (!get_varint(in, &tag) || tag >> 3 == 0 || tag >> 3 > 0x1fffffff)
		return -1;
	f->number = (uint32_t)(tag >> 3);
	f->v = 0;
	f->bytes = (struct in){ 0 }; /* of a number: so that nobody reads what was there */
	f->type = tag & 7;
	switch (f->type) {
	case 0:
		return get_varint(in, &f->v) ? 1 : -1;
	case 1:
		if (in->end - in->p < 8)
			return -1;
		memcpy(&f->v, in->p, 8);
		in->p += 8;
		return 1;
	case 5: {
		uint32_t v;
		if (in->end - in->p < 4)
			return -1;
		memcpy(&v, in->p, 4);
		f->v = v;
		in->p += 4;
		return 1;
	}
	case 2: {
		uint64_t n;
		if (!get_varint(in, &n) || n > (uint64_t)(in->end - in->p))
			return -1;
		f->bytes = (struct in){ in->p, in->p + n };
		in->p += n;
		return 1;
	}
	}
	return -1;
}

static uint32_t text(struct otlp_ctx *c, struct in b) { return otlp_text(c, (struct str){ (const char *)b.p, (size_t)(b.end - b.p) }); }
#define IS(f, num, typ) ((f).number == (num) && (f).type == (typ))

static int read_value(struct otlp_ctx *c, struct in in, struct attr *ret, int depth);

/* KeyValue */
static int read_pair(struct otlp_ctx *c, struct in in, struct attr *ret, int depth)
{
	struct field f;
	int rc;
	struct attr a = { 0 };
	uint32_t key = 0;
	while ((rc = next(&in, &f)) > 0) {
		if (IS(f, 1, 2))
			key = text(c, f.bytes);
		else if (IS(f, 2, 2) && read_value(c, f.bytes, &a, depth) < 0)
			return -1;
	}
	a.key = key;
	*ret = a;
	return rc;
}

static uint32_t add_cap(uint32_t a, uint32_t b) { return a > UINT32_MAX - b ? UINT32_MAX : a + b; }

/* Reads all fields `number` of a message as a range of attributes (elements of an array when !pairs). */
static int read_list(struct otlp_ctx *c, struct in in, uint32_t number, bool pairs, uint32_t max, int depth, struct attr_range *ret, uint32_t *dropped)
{
	struct in count = in;
	struct field f;
	int rc;
	uint32_t n = 0, over = 0;
	if (depth > OTLP_MAX_DEPTH)
		return -1;
	while ((rc = next(&count, &f)) > 0)
		if (IS(f, number, 2) && ++n > max)
			n = max, over++;
	if (rc < 0)
		return -1;
	c->r.dropped_attributes += over;
	if (dropped)
		*dropped = add_cap(*dropped, over);
	if (!n) {
		*ret = (struct attr_range){ 0, 0 };
		return 0;
	}
	uint32_t off = (uint32_t)(batch_add_attrs(c->b, n) - c->b->attrs), i = 0;
	while (i < n && next(&in, &f) > 0) {
		struct attr a = { 0 };
		if (!IS(f, number, 2))
			continue;
		if ((pairs ? read_pair(c, f.bytes, &a, depth + 1) : read_value(c, f.bytes, &a, depth + 1)) < 0)
			return -1;
		c->b->attrs[off + i++] = a; /* by index: reading the value may have moved the pool */
	}
	*ret = (struct attr_range){ off, n };
	return 0;
}

/* AnyValue */
static int read_value(struct otlp_ctx *c, struct in in, struct attr *a, int depth)
{
	struct field f;
	int rc;
	struct attr_range r;
	a->type = ATTR_NIL;
	while ((rc = next(&in, &f)) > 0) {
		if (IS(f, 1, 2)) {
			a->type = ATTR_STR;
			a->s = text(c, f.bytes);
		} else if (IS(f, 2, 0)) {
			a->type = ATTR_BOOL;
			a->i = f.v != 0;
		} else if (IS(f, 3, 0)) {
			a->type = ATTR_INT;
			a->i = (int64_t)f.v;
		} else if (IS(f, 4, 1)) {
			a->type = ATTR_DOUBLE;
			memcpy(&a->d, &f.v, 8);
		} else if (IS(f, 5, 2) || IS(f, 6, 2)) {
			if (read_list(c, f.bytes, 1, f.number == 6, OTLP_MAX_ATTRIBUTES, depth + 1, &r, NULL) < 0)
				return -1;
			a->type = f.number == 5 ? ATTR_ARRAY : ATTR_KVLIST;
			a->list.off = r.off;
			a->list.n = r.n;
		} else if (IS(f, 7, 2)) {
			a->type = ATTR_BYTES;
			a->s = batch_str(c->b, otlp_cut(c, (struct str){ (const char *)f.bytes.p, (size_t)(f.bytes.end - f.bytes.p) }, false));
		}
	}
	return rc;
}

static uint64_t be64(const uint8_t *p)
{
	uint64_t v;
	memcpy(&v, p, 8);
	return __builtin_bswap64(v);
}

static bool get_trace(struct in b, uint64_t *hi, uint64_t *lo)
{
	if (b.end - b.p != 16)
		return false;
	*hi = be64(b.p);
	*lo = be64(b.p + 8);
	return *hi | *lo;
}

static int read_event(struct otlp_ctx *c, struct in in, uint32_t index)
{
	struct span_event e = { 0 };
	struct in all = in;
	struct field f;
	int rc;
	uint32_t dropped = 0;
	while ((rc = next(&in, &f)) > 0) {
		if (IS(f, 1, 1))
			e.time_ns = (int64_t)f.v;
		else if (IS(f, 2, 2))
			e.name = text(c, f.bytes);
		else if (IS(f, 4, 0))
			e.dropped_attrs = (uint32_t)f.v;
	}
	if (rc < 0 || read_list(c, all, 3, true, OTLP_MAX_ATTRIBUTES, 1, &e.attrs, &dropped) < 0)
		return -1;
	e.dropped_attrs = add_cap(e.dropped_attrs, dropped);
	c->b->events[index] = e;
	return 0;
}

static int read_link(struct otlp_ctx *c, struct in in, uint32_t index)
{
	struct span_link l = { 0 };
	struct in all = in;
	struct field f;
	int rc;
	while ((rc = next(&in, &f)) > 0) {
		if (IS(f, 1, 2))
			get_trace(f.bytes, &l.trace_hi, &l.trace_lo);
		else if (IS(f, 2, 2) && f.bytes.end - f.bytes.p == 8)
			l.span_id = be64(f.bytes.p);
		else if (IS(f, 3, 2))
			l.trace_state = text(c, f.bytes);
		else if (IS(f, 6, 5))
			l.flags = (uint32_t)f.v;
	}
	if (rc < 0 || read_list(c, all, 4, true, OTLP_MAX_ATTRIBUTES, 1, &l.attrs, NULL) < 0)
		return -1;
	c->b->links[index] = l;
	return 0;
}

static int read_span(struct otlp_ctx *c, struct in in, uint32_t resource, uint32_t scope)
{
	struct span s = { .resource = resource, .scope = scope };
	struct in all = in;
	struct field f;
	int rc;
	bool trace_ok = false, id_ok = false;
	uint64_t end = 0, start = 0;
	uint32_t events = 0, links = 0, dropped[3] = { 0 };
	while ((rc = next(&in, &f)) > 0) {
		switch (f.number << 3 | f.type) {
		case 1 << 3 | 2: trace_ok = get_trace(f.bytes, &s.trace_hi, &s.trace_lo); break;
		case 2 << 3 | 2: id_ok = f.bytes.end - f.bytes.p == 8 && (s.span_id = be64(f.bytes.p)); break;
		case 3 << 3 | 2: s.trace_state = text(c, f.bytes); break;
		case 4 << 3 | 2: s.parent_id = f.bytes.end - f.bytes.p == 8 ? be64(f.bytes.p) : 0; break;
		case 5 << 3 | 2: s.name = text(c, f.bytes); break;
		case 6 << 3 | 0: s.kind = f.v <= KIND_CONSUMER ? (uint8_t)f.v : KIND_UNSPECIFIED; break;
		case 7 << 3 | 1: start = f.v; break;
		case 8 << 3 | 1: end = f.v; break;
		case 10 << 3 | 0: dropped[0] = (uint32_t)f.v; break;
		case 11 << 3 | 2: events++; break;
		case 12 << 3 | 0: dropped[1] = (uint32_t)f.v; break;
		case 13 << 3 | 2: links++; break;
		case 14 << 3 | 0: dropped[2] = (uint32_t)f.v; break;
		case 16 << 3 | 5: s.flags = (uint32_t)f.v; break;
		case 15 << 3 | 2: {
			struct in st = f.bytes;
			struct field g;
			int r;
			while ((r = next(&st, &g)) > 0) {
				if (IS(g, 2, 2))
					s.status_message = text(c, g.bytes);
				else if (IS(g, 3, 0))
					s.status = g.v <= STATUS_ERROR ? (uint8_t)g.v : STATUS_UNSET;
			}
			if (r < 0)
				return -1;
		}
		}
	}
	if (rc < 0)
		return -1;
	if (!otlp_admit(c, trace_ok && id_ok))
		return 0;
	if (read_list(c, all, 9, true, OTLP_MAX_ATTRIBUTES, 1, &s.attrs, &dropped[0]) < 0)
		return -1;
	if (events | links) {
		uint32_t e = 0, l = 0, max = OTLP_MAX_ATTRIBUTES;
		dropped[1] = add_cap(dropped[1], events > max ? events - max : 0);
		dropped[2] = add_cap(dropped[2], links > max ? links - max : 0);
		s.events_n = (uint16_t)(events < max ? events : max);
		s.links_n = (uint16_t)(links < max ? links : max);
		s.events_off = c->b->events_n;
		s.links_off = c->b->links_n;
		for (uint32_t i = 0; i < s.events_n; i++)
			batch_add_event(c->b);
		for (uint32_t i = 0; i < s.links_n; i++)
			batch_add_link(c->b);
		while (next(&all, &f) > 0) {
			if (IS(f, 11, 2) && e < s.events_n && read_event(c, f.bytes, s.events_off + e++) < 0)
				return -1;
			if (IS(f, 13, 2) && l < s.links_n && read_link(c, f.bytes, s.links_off + l++) < 0)
				return -1;
		}
	}
	otlp_add_span(c, &s, start, end, dropped);
	return 0;
}

static int read_scope(struct otlp_ctx *c, struct in in, uint32_t *ret)
{
	struct scope s = { 0 };
	struct in all = in;
	struct field f;
	int rc;
	while ((rc = next(&in, &f)) > 0) {
		if (IS(f, 1, 2))
			s.name = text(c, f.bytes);
		else if (IS(f, 2, 2))
			s.version = text(c, f.bytes);
	}
	if (rc < 0 || read_list(c, all, 3, true, OTLP_MAX_ATTRIBUTES, 1, &s.attrs, NULL) < 0)
		return -1;
	*ret = batch_add_scope(c->b, &s);
	return 0;
}

static int read_scope_spans(struct otlp_ctx *c, struct in in, uint32_t resource)
{
	struct in all = in;
	struct field f;
	int rc;
	uint32_t scope = UINT32_MAX;
	while ((rc = next(&in, &f)) > 0)
		if (IS(f, 1, 2) && read_scope(c, f.bytes, &scope) < 0)
			return -1;
	if (rc < 0)
		return -1;
	if (scope == UINT32_MAX)
		scope = batch_add_scope(c->b, &(struct scope){ 0 });
	while (next(&all, &f) > 0)
		if (IS(f, 2, 2) && read_span(c, f.bytes, resource, scope) < 0)
			return -1;
	return 0;
}

static int read_resource_spans(struct otlp_ctx *c, struct in in)
{
	struct in all = in;
	struct field f;
	int rc;
	struct resource r = { 0 };
	while ((rc = next(&in, &f)) > 0)
		if (IS(f, 1, 2) && read_list(c, f.bytes, 1, true, OTLP_MAX_ATTRIBUTES, 1, &r.attrs, NULL) < 0)
			return -1;
	if (rc < 0)
		return -1;
	uint32_t resource = otlp_add_resource(c, r);
	while (next(&all, &f) > 0)
		if (IS(f, 2, 2) && read_scope_spans(c, f.bytes, resource) < 0)
			return -1;
	return 0;
}

int otlp_decode(struct str body, struct batch *b, struct otlp_report *ret_r, struct err *e)
{
	struct otlp_ctx c = { .b = b };
	if (!body.n)
		body.p = ""; /* no arithmetic with a null pointer */
	struct in in = { (const uint8_t *)body.p, (const uint8_t *)body.p + body.n };
	struct field f;
	int rc = 0;
	while ((rc = next(&in, &f)) > 0)
		if (IS(f, 1, 2) && read_resource_spans(&c, f.bytes) < 0) {
			rc = -1;
			in.p = f.bytes.p;
			break;
		}
	if (rc < 0)
		return err_set(e, KLIEG_E_BAD_DATA, "not a valid ExportTraceServiceRequest: malformed protobuf near byte %zu of %zu",
			(size_t)((const char *)in.p - body.p), body.n);
	*ret_r = c.r;
	return 0;
}

/* ---- shared with the JSON reader ----------------------------------------------------------------------------------- */

struct str otlp_cut(struct otlp_ctx *c, struct str s, bool utf8)
{
	if (s.n <= OTLP_MAX_STRING)
		return s;
	c->r.cut_strings++;
	s.n = OTLP_MAX_STRING;
	while (utf8 && s.n && ((uint8_t)s.p[s.n] & 0xc0) == 0x80)
		s.n--;
	return s;
}

uint32_t otlp_text(struct otlp_ctx *c, struct str s)
{
	s = otlp_cut(c, s, true);
	if (str_utf8_valid(s))
		return batch_str(c->b, s);
	struct buf b = { 0 };
	for (size_t i = 0; i < s.n;) {
		size_t n = (uint8_t)s.p[i] < 0x80 ? 1 : (uint8_t)s.p[i] >= 0xf0 ? 4 : (uint8_t)s.p[i] >= 0xe0 ? 3 : 2;
		if (i + n <= s.n && str_utf8_valid((struct str){ s.p + i, n })) {
			buf_add(&b, s.p + i, n);
			i += n;
		} else {
			buf_add_str(&b, "\xef\xbf\xbd");
			i++;
		}
	}
	uint32_t id = batch_str(c->b, buf_str(&b));
	buf_finish(&b);
	return id;
}

bool otlp_admit(struct otlp_ctx *c, bool ids_ok)
{
	if (!ids_ok)
		c->r.bad_id++;
	else if (c->r.spans >= OTLP_MAX_SPANS)
		c->r.too_many++;
	else
		return true;
	c->r.rejected++;
	return false;
}

uint32_t otlp_add_resource(struct otlp_ctx *c, struct resource r)
{
	const struct attr *a = batch_attr(c->b, r.attrs, STR("service.name"));
	r.service = a && a->type == ATTR_STR ? a->s : batch_str(c->b, STR("unknown_service"));
	return batch_add_resource(c->b, &r);
}

/* Where the value of the member ot= of a tracestate begins, 0 when there is none. */
static size_t ot_member(struct str s)
{
	for (size_t i = 0; i + 3 <= s.n; i++)
		if (!memcmp(s.p + i, "ot=", 3) && (!i || s.p[i - 1] == ',' || s.p[i - 1] == ' '))
			return i + 3;
	return 0;
}

/* ot=th:HEX in a tracestate: the rejection threshold (OTEP 235), 0 when there is none or it is malformed. */
static uint64_t threshold_of(struct str s)
{
	size_t i = ot_member(s);
	if (i) {
		for (size_t k = i; k + 3 <= s.n && s.p[k] != ','; k++) {
			if ((s.p[k - 1] != '=' && s.p[k - 1] != ';') || memcmp(s.p + k, "th:", 3))
				continue;
			uint64_t v = 0;
			unsigned n = 0;
			for (k += 3; k < s.n && s.p[k] != ';' && s.p[k] != ','; k++, n++) {
				char h = s.p[k];
				if (n == 14 || !((h >= '0' && h <= '9') || (h >= 'a' && h <= 'f')))
					return 0;
				v = v << 4 | (uint64_t)(h <= '9' ? h - '0' : h - 'a' + 10);
			}
			return n ? v << (4 * (14 - n)) : 0;
		}
	}
	return 0;
}

void otlp_add_span(struct otlp_ctx *c, struct span *s, uint64_t start, uint64_t end, const uint32_t dropped[3])
{
	if (start <= INT64_MAX)
		s->start_ns = (int64_t)start;
	if (end < start || end > INT64_MAX)
		c->r.clipped++;
	else
		s->duration_ns = (int64_t)(end - start);
	if (s->trace_state)
		s->threshold = threshold_of(batch_text(c->b, s->trace_state));
	s->dropped_attrs = (uint16_t)(dropped[0] < 65535 ? dropped[0] : 65535);
	s->dropped_events = (uint16_t)(dropped[1] < 65535 ? dropped[1] : 65535);
	s->dropped_links = (uint16_t)(dropped[2] < 65535 ? dropped[2] : 65535);
	c->r.spans++;
	*batch_add_span(c->b) = *s;
}

/* ---- writing ------------------------------------------------------------------------------------------------------- */

static void put_varint(struct buf *b, uint64_t v)
{
	buf_reserve(b, 10);
	do {
		b->p[b->n++] = (uint8_t)(v | (v > 127 ? 128 : 0));
	} while (v >>= 7);
}
static void put_tag(struct buf *b, uint32_t number, unsigned type) { put_varint(b, number << 3 | type); }
static void put_uint(struct buf *b, uint32_t number, uint64_t v)
{
	if (v) {
		put_tag(b, number, 0);
		put_varint(b, v);
	}
}
static void put_bytes(struct buf *b, uint32_t number, const void *p, size_t n)
{
	if (n) {
		put_tag(b, number, 2);
		put_varint(b, n);
		buf_add(b, p, n);
	}
}
static void put_str(struct buf *b, uint32_t number, struct str s) { put_bytes(b, number, s.p, s.n); }
static void put_fixed64(struct buf *b, uint32_t number, uint64_t v)
{
	put_tag(b, number, 1);
	buf_add(b, &v, 8);
}
static void put_id(struct buf *b, uint32_t number, uint64_t hi, uint64_t lo, bool wide)
{
	uint64_t v[2] = { __builtin_bswap64(hi), __builtin_bswap64(lo) };
	put_bytes(b, number, wide ? v : v + 1, wide ? 16 : 8);
}

/* A message's body follows open(); close() puts its length in front. */
static size_t open_message(struct buf *b, uint32_t number)
{
	put_tag(b, number, 2);
	static const uint8_t room[5];
	buf_add(b, room, 5);
	return b->n;
}
static void close_message(struct buf *b, size_t from)
{
	uint64_t n = b->n - from;
	uint8_t head[10];
	unsigned k = 0;
	do {
		head[k++] = (uint8_t)(n | (n > 127 ? 128 : 0));
	} while (n >>= 7);
	memmove(b->p + from - 5 + k, b->p + from, b->n - from);
	memcpy(b->p + from - 5, head, k);
	b->n -= 5 - k;
}

static void put_attrs(const struct batch *s, struct attr_range r, uint32_t number, struct buf *b);

static void put_value(const struct batch *s, const struct attr *a, struct buf *b)
{
	size_t at;
	switch (a->type) {
	case ATTR_STR: /* present even when empty: the oneof says the type */
		put_tag(b, 1, 2);
		put_varint(b, batch_text(s, a->s).n);
		buf_add(b, batch_text(s, a->s).p, batch_text(s, a->s).n);
		break;
	case ATTR_BOOL: put_tag(b, 2, 0); put_varint(b, a->i != 0); break;
	case ATTR_INT: put_tag(b, 3, 0); put_varint(b, (uint64_t)a->i); break;
	case ATTR_DOUBLE: put_tag(b, 4, 1); buf_add(b, &a->d, 8); break;
	case ATTR_ARRAY:
		at = open_message(b, 5);
		for (uint32_t i = 0; i < a->list.n; i++) {
			size_t inner = open_message(b, 1);
			put_value(s, s->attrs + a->list.off + i, b);
			close_message(b, inner);
		}
		close_message(b, at);
		break;
	case ATTR_KVLIST:
		at = open_message(b, 6);
		put_attrs(s, (struct attr_range){ a->list.off, a->list.n }, 1, b);
		close_message(b, at);
		break;
	case ATTR_BYTES:
		put_tag(b, 7, 2);
		put_varint(b, batch_text(s, a->s).n);
		buf_add(b, batch_text(s, a->s).p, batch_text(s, a->s).n);
		break;
	}
}

static void put_attrs(const struct batch *s, struct attr_range r, uint32_t number, struct buf *b)
{
	for (uint32_t i = 0; i < r.n; i++) {
		const struct attr *a = s->attrs + r.off + i;
		size_t pair = open_message(b, number);
		put_str(b, 1, batch_text(s, a->key));
		size_t value = open_message(b, 2);
		put_value(s, a, b);
		close_message(b, value);
		close_message(b, pair);
	}
}

/* The trace state, with the threshold added as ot=th:HEX when it says none: the only place that OTLP has for it. */
static void put_trace_state(const struct batch *s, const struct span *x, struct buf *b)
{
	struct str state = batch_text(s, x->trace_state);
	size_t ot = ot_member(state);
	char th[24];
	if (!x->threshold || x->threshold >> 56 || threshold_of(state)) {
		put_str(b, 3, state);
		return;
	}
	int n = snprintf(th, sizeof th, "th:%014" PRIx64, x->threshold);
	while (th[n - 1] == '0')
		n--;
	size_t rest = state.n - ot, head = ot ? ot : 3;
	char between = !rest || (ot && state.p[ot] == ',') ? 0 : ot ? ';' : ',';
	put_tag(b, 3, 2);
	put_varint(b, head + (size_t)n + (between != 0) + rest);
	buf_add(b, ot ? state.p : "ot=", head);
	buf_add(b, th, (size_t)n);
	if (between)
		buf_byte(b, (uint8_t)between);
	buf_add(b, state.p + ot, rest);
}

static void put_span(const struct batch *s, const struct span *x, struct buf *b)
{
	size_t at = open_message(b, 2);
	put_id(b, 1, x->trace_hi, x->trace_lo, true);
	put_id(b, 2, 0, x->span_id, false);
	put_trace_state(s, x, b);
	if (x->parent_id)
		put_id(b, 4, 0, x->parent_id, false);
	put_str(b, 5, batch_text(s, x->name));
	put_uint(b, 6, x->kind);
	put_fixed64(b, 7, (uint64_t)x->start_ns);
	put_fixed64(b, 8, (uint64_t)x->start_ns + (uint64_t)x->duration_ns);
	put_attrs(s, x->attrs, 9, b);
	put_uint(b, 10, x->dropped_attrs);
	for (uint32_t i = 0; i < x->events_n; i++) {
		const struct span_event *e = s->events + x->events_off + i;
		size_t inner = open_message(b, 11);
		put_fixed64(b, 1, (uint64_t)e->time_ns);
		put_str(b, 2, batch_text(s, e->name));
		put_attrs(s, e->attrs, 3, b);
		put_uint(b, 4, e->dropped_attrs);
		close_message(b, inner);
	}
	put_uint(b, 12, x->dropped_events);
	for (uint32_t i = 0; i < x->links_n; i++) {
		const struct span_link *l = s->links + x->links_off + i;
		size_t inner = open_message(b, 13);
		put_id(b, 1, l->trace_hi, l->trace_lo, true);
		put_id(b, 2, 0, l->span_id, false);
		put_str(b, 3, batch_text(s, l->trace_state));
		put_attrs(s, l->attrs, 4, b);
		if (l->flags) {
			put_tag(b, 6, 5);
			buf_add(b, &l->flags, 4);
		}
		close_message(b, inner);
	}
	put_uint(b, 14, x->dropped_links);
	if (x->status || x->status_message) {
		size_t inner = open_message(b, 15);
		put_str(b, 2, batch_text(s, x->status_message));
		put_uint(b, 3, x->status);
		close_message(b, inner);
	}
	if (x->flags) {
		put_tag(b, 16, 5);
		buf_add(b, &x->flags, 4);
	}
	close_message(b, at);
}

/* Runs of spans with the same resource and scope share their headers. */
void otlp_encode(const struct batch *s, uint32_t from, uint32_t n, struct buf *b)
{
	for (uint32_t i = from; i < from + n;) {
		uint32_t resource = s->spans[i].resource;
		size_t rs = open_message(b, 1), at = open_message(b, 1);
		if (resource < s->resources_n)
			put_attrs(s, s->resources[resource].attrs, 1, b);
		close_message(b, at);
		while (i < from + n && s->spans[i].resource == resource) {
			uint32_t scope = s->spans[i].scope;
			size_t ss = open_message(b, 2);
			at = open_message(b, 1);
			if (scope < s->scopes_n) {
				put_str(b, 1, batch_text(s, s->scopes[scope].name));
				put_str(b, 2, batch_text(s, s->scopes[scope].version));
				put_attrs(s, s->scopes[scope].attrs, 3, b);
			}
			close_message(b, at);
			for (; i < from + n && s->spans[i].resource == resource && s->spans[i].scope == scope; i++)
				put_span(s, s->spans + i, b);
			close_message(b, ss);
		}
		close_message(b, rs);
	}
}

void otlp_encode_response(uint32_t rejected, const char *message, bool json, struct buf *b)
{
	if (json) {
		if (!rejected && !message) {
			buf_add_str(b, "{}");
			return;
		}
		buf_printf(b, "{\"partialSuccess\":{\"rejectedSpans\":\"%u\",\"errorMessage\":", rejected);
		otlp_json_text(b, str_of(message ? message : ""));
		buf_add_str(b, "}}");
	} else if (rejected || message) {
		size_t at = open_message(b, 1);
		put_uint(b, 1, rejected);
		put_str(b, 2, str_of(message ? message : ""));
		close_message(b, at);
	}
}

void otlp_encode_status(int code, const char *message, bool json, struct buf *b)
{
	if (json) {
		buf_printf(b, "{\"code\":%d,\"message\":", code);
		otlp_json_text(b, str_of(message));
		buf_byte(b, '}');
	} else {
		put_uint(b, 1, (uint64_t)code);
		put_str(b, 2, str_of(message));
	}
}
