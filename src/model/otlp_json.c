/* OTLP/trace in JSON: lowerCamelCase names, hex ids, integers as numbers or strings, enums as numbers (names tolerated), unknown members
 * ignored. A pull reader over the bytes, without a tree: an object is walked member by member, a value is a slice that is walked in turn when
 * it is wanted, so the order of members does not matter. */
#include "model/otlp_internal.h"
#include <errno.h>
#include <math.h>
#include <stdlib.h>

enum { MAX_DEPTH = 64 };

struct js { const char *p, *end; };

static void space(struct js *j)
{
	while (j->p < j->end && (*j->p == ' ' || *j->p == '\n' || *j->p == '\r' || *j->p == '\t'))
		j->p++;
}

/* Four hex digits, UINT32_MAX when they are not. */
static unsigned hex4(const char *p)
{
	unsigned v = 0;
	for (int i = 0; i < 4; i++) {
		char c = p[i];
		unsigned d = c >= '0' && c <= '9' ? (unsigned)(c - '0') : (c | 32) >= 'a' && (c | 32) <= 'f' ? (unsigned)((c | 32) - 'a' + 10) : 0xffff;
		if (d > 15)
			return UINT32_MAX;
		v = v << 4 | d;
	}
	return v;
}

/* Whether any of eight bytes is a quote, a backslash or a control character. */
static bool special(uint64_t x)
{
	const uint64_t ones = 0x0101010101010101ull, high = ones << 7;
	uint64_t quote = x ^ ones * '"', slash = x ^ ones * '\\';
	return (((quote - ones) & ~quote) | ((slash - ones) & ~slash) | ((x - ones * 0x20) & ~x)) & high;
}

/* Passes a string; the slice is what is between the quotes. */
static bool get_string(struct js *j, struct str *ret)
{
	if (j->p >= j->end || *j->p != '"')
		return false;
	const char *from = ++j->p;
	for (uint64_t x; j->end - j->p >= 8 && (memcpy(&x, j->p, 8), !special(x));)
		j->p += 8;
	for (; j->p < j->end && *j->p != '"'; j->p++) {
		if ((unsigned char)*j->p < 0x20)
			return false;
		if (*j->p == '\\') {
			if (++j->p >= j->end || !*j->p || !strchr("\"\\/bfnrtu", *j->p))
				return false;
			if (*j->p == 'u' && (j->end - j->p < 5 || hex4(j->p + 1) == UINT32_MAX))
				return false;
		}
	}
	if (j->p >= j->end)
		return false;
	*ret = (struct str){ from, (size_t)(j->p++ - from) };
	return true;
}

static bool skip_digits(struct js *j)
{
	const char *from = j->p;
	while (j->p < j->end && *j->p >= '0' && *j->p <= '9')
		j->p++;
	return j->p > from;
}

static bool skip_number(struct js *j)
{
	if (*j->p == '-')
		j->p++;
	const char *from = j->p;
	if (!skip_digits(j) || (*from == '0' && j->p - from > 1))
		return false;
	if (j->p < j->end && *j->p == '.') {
		j->p++;
		if (!skip_digits(j))
			return false;
	}
	if (j->p < j->end && (*j->p | 32) == 'e') {
		j->p++;
		if (j->p < j->end && (*j->p == '+' || *j->p == '-'))
			j->p++;
		return skip_digits(j);
	}
	return true;
}

/* Passes any value. */
static bool skip(struct js *j, int depth)
{
	struct str s;
	space(j);
	if (j->p >= j->end || depth > MAX_DEPTH)
		return false;
	if (*j->p == '"')
		return get_string(j, &s);
	if (*j->p == '{' || *j->p == '[') {
		char close = *j->p == '{' ? '}' : ']';
		j->p++;
		space(j);
		if (j->p < j->end && *j->p == close) {
			j->p++;
			return true;
		}
		for (;;) {
			if (close == '}') {
				space(j);
				if (!get_string(j, &s))
					return false;
				space(j);
				if (j->p >= j->end || *j->p++ != ':')
					return false;
			}
			if (!skip(j, depth + 1))
				return false;
			space(j);
			if (j->p >= j->end)
				return false;
			char c = *j->p++;
			if (c == close)
				return true;
			if (c != ',')
				return false;
		}
	}
	if (*j->p == '-' || (*j->p >= '0' && *j->p <= '9'))
		return skip_number(j);
	static const char *const words[] = { "true", "false", "null" };
	for (unsigned i = 0; i < 3; i++) {
		size_t n = strlen(words[i]);
		if ((size_t)(j->end - j->p) >= n && !memcmp(j->p, words[i], n)) {
			j->p += n;
			return true;
		}
	}
	return false;
}

/* Walks an object or an array that skip() has accepted as a whole. True: one more member (key empty in an array). */
static bool next(struct js *j, bool *started, struct str *key, struct js *value)
{
	space(j);
	if (!*started) {
		if (j->p >= j->end || (*j->p != '{' && *j->p != '['))
			return false;
		*started = true;
		j->p++;
	} else if (j->p < j->end && *j->p == ',') {
		j->p++;
	}
	space(j);
	if (j->p >= j->end || *j->p == '}' || *j->p == ']')
		return false;
	if (key) {
		if (!get_string(j, key))
			return false;
		space(j);
		if (j->p >= j->end || *j->p++ != ':')
			return false;
	}
	space(j);
	value->p = j->p;
	if (!skip(j, 0))
		return false;
	value->end = j->p;
	return true;
}
#define EACH_MEMBER(of, key, v) for (struct js it_ = of, *once_ = &it_; once_; once_ = NULL) for (bool st_ = false; next(&it_, &st_, &key, &v);)
#define EACH_ELEMENT(of, v) for (struct js it_ = of, *once_ = &it_; once_; once_ = NULL) for (bool st_ = false; is(of, '[') && next(&it_, &st_, NULL, &v);)

static bool is(struct js v, char first) { return v.p < v.end && *v.p == first; }

static void put_utf8(struct buf *b, uint32_t c)
{
	if (c < 0x80) {
		buf_byte(b, (uint8_t)c);
	} else if (c < 0x800) {
		buf_byte(b, (uint8_t)(0xc0 | c >> 6));
		buf_byte(b, (uint8_t)(0x80 | (c & 63)));
	} else if (c < 0x10000) {
		buf_byte(b, (uint8_t)(0xe0 | c >> 12));
		buf_byte(b, (uint8_t)(0x80 | (c >> 6 & 63)));
		buf_byte(b, (uint8_t)(0x80 | (c & 63)));
	} else {
		buf_byte(b, (uint8_t)(0xf0 | c >> 18));
		buf_byte(b, (uint8_t)(0x80 | (c >> 12 & 63)));
		buf_byte(b, (uint8_t)(0x80 | (c >> 6 & 63)));
		buf_byte(b, (uint8_t)(0x80 | (c & 63)));
	}
}

/* The text between the quotes, escapes undone, into scratch when there are any. */
static struct str unescape(struct str s, struct buf *scratch)
{
	if (!s.n || !memchr(s.p, '\\', s.n))
		return s;
	buf_clear(scratch);
	for (size_t i = 0; i < s.n; i++) {
		if (s.p[i] != '\\' || i + 1 >= s.n) {
			buf_byte(scratch, (uint8_t)s.p[i]);
			continue;
		}
		char c = s.p[++i];
		switch (c) {
		case 'n': buf_byte(scratch, '\n'); break;
		case 't': buf_byte(scratch, '\t'); break;
		case 'r': buf_byte(scratch, '\r'); break;
		case 'b': buf_byte(scratch, '\b'); break;
		case 'f': buf_byte(scratch, '\f'); break;
		case 'u': {
			uint32_t u = i + 4 < s.n ? hex4(s.p + i + 1) : UINT32_MAX;
			if (u == UINT32_MAX) {
				put_utf8(scratch, 0xfffd);
				break;
			}
			i += 4;
			if (u >= 0xd800 && u < 0xdc00 && i + 6 < s.n && s.p[i + 1] == '\\' && s.p[i + 2] == 'u') {
				uint32_t low = hex4(s.p + i + 3);
				if (low >= 0xdc00 && low < 0xe000) {
					u = 0x10000 + ((u - 0xd800) << 10) + (low - 0xdc00);
					i += 6;
				}
			}
			put_utf8(scratch, u >= 0xd800 && u < 0xe000 ? 0xfffd : u);
			break;
		}
		default: buf_byte(scratch, (uint8_t)c);
		}
	}
	return buf_str(scratch);
}

static struct str string_of(struct js v)
{
	struct str s = { "", 0 };
	get_string(&v, &s);
	return s;
}

static void *bad(struct otlp_ctx *c, struct js v)
{
	if (!c->bad)
		c->bad = v.p;
	return NULL;
}

static bool is_null(struct js v) { return v.end - v.p == 4 && !memcmp(v.p, "null", 4); } /* null is as good as absent */

static uint32_t text(struct otlp_ctx *c, struct js v)
{
	if (!is(v, '"')) {
		if (!is_null(v))
			bad(c, v);
		return 0;
	}
	struct buf scratch = { 0 };
	uint32_t id = otlp_text(c, unescape(string_of(v), &scratch));
	buf_finish(&scratch);
	return id;
}

/* A number, or a string that holds one, as C text in t; NULL when it is neither. */
static char *number_text(struct otlp_ctx *c, struct js v, char t[64])
{
	struct str s = is(v, '"') ? string_of(v) : (struct str){ v.p, (size_t)(v.end - v.p) };
	if (!s.n || s.n >= 64 || !(s.p[0] == '-' || (s.p[0] >= '0' && s.p[0] <= '9') || s.p[0] == 'N' || s.p[0] == 'I'))
		return bad(c, v);
	memcpy(t, s.p, s.n);
	t[s.n] = 0;
	return t;
}

static uint64_t unsigned_of(struct otlp_ctx *c, struct js v)
{
	char t[64], *end;
	if (is_null(v) || !number_text(c, v, t))
		return 0;
	errno = 0;
	uint64_t u = strtoull(t, &end, 10);
	if (t[0] != '-' && !*end && !errno)
		return u;
	double d = strtod(t, &end); /* 1.7e18 is an integer too */
	if (*end || !(d >= 0 && d < 18446744073709551616.0) || d != floor(d)) {
		bad(c, v);
		return 0;
	}
	return (uint64_t)d;
}

/* A count that others are added to: far below what wraps. */
static uint32_t count_of(struct otlp_ctx *c, struct js v)
{
	uint64_t u = unsigned_of(c, v);
	return u < 1 << 24 ? (uint32_t)u : 1 << 24;
}

/* JavaScript writes 1e+300 as intValue: what is a number but no int64 stays the number it is. */
static void integer_of(struct otlp_ctx *c, struct js v, struct attr *a)
{
	char t[64], *end;
	a->type = ATTR_INT;
	a->i = 0;
	if (is_null(v) || !number_text(c, v, t))
		return;
	errno = 0;
	a->i = strtoll(t, &end, 10);
	if (!*end && !errno)
		return;
	double d = strtod(t, &end);
	if (*end)
		bad(c, v);
	if (d >= -9223372036854775808.0 && d < 9223372036854775808.0 && d == floor(d)) {
		a->i = (int64_t)d;
	} else {
		a->type = ATTR_DOUBLE;
		a->d = d;
	}
}

static double double_of(struct otlp_ctx *c, struct js v)
{
	char t[64], *end;
	if (is_null(v) || !number_text(c, v, t))
		return 0;
	double d = strtod(t, &end); /* knows NaN and Infinity too */
	if (*end)
		bad(c, v);
	return d;
}

static int read_value(struct otlp_ctx *c, struct js v, struct attr *a, int depth);

static int read_list(struct otlp_ctx *c, struct js list, bool pairs, int depth, struct attr_range *ret, uint32_t *dropped)
{
	struct js v;
	uint32_t n = 0, over = 0;
	if (depth > OTLP_MAX_DEPTH)
		return -1;
	EACH_ELEMENT(list, v)
		if (++n > OTLP_MAX_ATTRIBUTES)
			n = OTLP_MAX_ATTRIBUTES, over++;
	c->r.dropped_attributes += over;
	if (dropped)
		*dropped += over;
	*ret = (struct attr_range){ 0, 0 };
	if (!n)
		return 0;
	uint32_t off = (uint32_t)(batch_add_attrs(c->b, n) - c->b->attrs), i = 0;
	EACH_ELEMENT(list, v) {
		struct attr a = { 0 };
		if (i == n)
			break;
		if (pairs) {
			struct str key;
			struct js m;
			uint32_t name = 0;
			EACH_MEMBER(v, key, m) {
				if (str_is(key, "key"))
					name = text(c, m);
				else if (str_is(key, "value") && read_value(c, m, &a, depth + 1) < 0)
					return -1;
			}
			a.key = name;
		} else if (read_value(c, v, &a, depth + 1) < 0) {
			return -1;
		}
		c->b->attrs[off + i++] = a;
	}
	*ret = (struct attr_range){ off, n };
	return 0;
}

static int base64(struct str s, struct buf *out)
{
	uint32_t acc = 0;
	int bits = 0;
	for (size_t i = 0; i < s.n && s.p[i] != '='; i++) {
		char c = s.p[i];
		int v = c >= 'A' && c <= 'Z' ? c - 'A' : c >= 'a' && c <= 'z' ? c - 'a' + 26 : c >= '0' && c <= '9' ? c - '0' + 52 : c == '+' ||
			c == '-' ? 62 : c == '/' || c == '_' ? 63 : -1;
		if (v < 0)
			return -1;
		acc = acc << 6 | (uint32_t)v;
		if ((bits += 6) >= 8)
			buf_byte(out, (uint8_t)(acc >> (bits -= 8)));
	}
	return 0;
}

static int read_value(struct otlp_ctx *c, struct js v, struct attr *a, int depth)
{
	struct str key;
	struct js m, inner;
	struct attr_range r;
	a->type = ATTR_NIL;
	EACH_MEMBER(v, key, m) {
		if (str_is(key, "stringValue")) {
			a->type = ATTR_STR;
			a->s = text(c, m);
		} else if (str_is(key, "boolValue")) {
			a->type = ATTR_BOOL;
			a->i = is(m, 't');
		} else if (str_is(key, "intValue")) {
			integer_of(c, m, a);
		} else if (str_is(key, "doubleValue")) {
			a->type = ATTR_DOUBLE;
			a->d = double_of(c, m);
		} else if (str_is(key, "bytesValue")) {
			struct buf b = { 0 };
			if (base64(string_of(m), &b) < 0) {
				buf_finish(&b);
				return -1;
			}
			a->type = ATTR_BYTES;
			a->s = batch_str(c->b, otlp_cut(c, buf_str(&b), false));
			buf_finish(&b);
		} else if (str_is(key, "arrayValue") || str_is(key, "kvlistValue")) {
			bool pairs = key.p[0] == 'k';
			struct str name;
			r = (struct attr_range){ 0, 0 };
			EACH_MEMBER(m, name, inner)
				if (str_is(name, "values") && read_list(c, inner, pairs, depth + 1, &r, NULL) < 0)
					return -1;
			a->type = pairs ? ATTR_KVLIST : ATTR_ARRAY;
			a->list.off = r.off;
			a->list.n = r.n;
		}
	}
	return 0;
}

static bool trace_id(struct js v, uint64_t *hi, uint64_t *lo)
{
	struct str s = string_of(v);
	return s.n == 32 && trace_id_parse(s, hi, lo) == 0 && (*hi | *lo);
}

static uint64_t span_id(struct js v)
{
	struct str s = string_of(v);
	uint64_t id = 0;
	return s.n == 16 && span_id_parse(s, &id) == 0 ? id : 0;
}

/* An enum as a number, or by its protobuf name. */
static uint8_t enum_of(struct otlp_ctx *c, struct js v, const char *const *names, uint8_t n)
{
	if (is(v, '"')) {
		for (uint8_t i = 0; i < n; i++)
			if (str_is(string_of(v), names[i]))
				return i;
		if (string_of(v).n && !(string_of(v).p[0] >= '0' && string_of(v).p[0] <= '9'))
			return 0; /* a name from a later version */
	}
	uint64_t u = unsigned_of(c, v);
	return u < n ? (uint8_t)u : 0;
}

static int read_events(struct otlp_ctx *c, struct js list, struct span *s, uint32_t *dropped)
{
	struct js v, m;
	struct str key;
	uint32_t n = 0;
	EACH_ELEMENT(list, v) n++;
	*dropped += n > OTLP_MAX_ATTRIBUTES ? n - OTLP_MAX_ATTRIBUTES : 0;
	s->events_n = (uint16_t)(n < OTLP_MAX_ATTRIBUTES ? n : OTLP_MAX_ATTRIBUTES);
	s->events_off = c->b->events_n;
	for (uint32_t i = 0; i < s->events_n; i++)
		batch_add_event(c->b);
	uint32_t i = 0;
	EACH_ELEMENT(list, v) {
		struct span_event e = { 0 };
		if (i == s->events_n)
			break;
		EACH_MEMBER(v, key, m) {
			if (str_is(key, "timeUnixNano"))
				e.time_ns = (int64_t)unsigned_of(c, m);
			else if (str_is(key, "name"))
				e.name = text(c, m);
			else if (str_is(key, "droppedAttributesCount"))
				e.dropped_attrs += count_of(c, m);
			else if (str_is(key, "attributes") && read_list(c, m, true, 1, &e.attrs, &e.dropped_attrs) < 0)
				return -1;
		}
		c->b->events[s->events_off + i++] = e;
	}
	return 0;
}

static int read_links(struct otlp_ctx *c, struct js list, struct span *s, uint32_t *dropped)
{
	struct js v, m;
	struct str key;
	uint32_t n = 0;
	EACH_ELEMENT(list, v) n++;
	*dropped += n > OTLP_MAX_ATTRIBUTES ? n - OTLP_MAX_ATTRIBUTES : 0;
	s->links_n = (uint16_t)(n < OTLP_MAX_ATTRIBUTES ? n : OTLP_MAX_ATTRIBUTES);
	s->links_off = c->b->links_n;
	for (uint32_t i = 0; i < s->links_n; i++)
		batch_add_link(c->b);
	uint32_t i = 0;
	EACH_ELEMENT(list, v) {
		struct span_link l = { 0 };
		if (i == s->links_n)
			break;
		EACH_MEMBER(v, key, m) {
			if (str_is(key, "traceId"))
				trace_id(m, &l.trace_hi, &l.trace_lo);
			else if (str_is(key, "spanId"))
				l.span_id = span_id(m);
			else if (str_is(key, "traceState"))
				l.trace_state = text(c, m);
			else if (str_is(key, "flags"))
				l.flags = (uint32_t)unsigned_of(c, m);
			else if (str_is(key, "attributes") && read_list(c, m, true, 1, &l.attrs, NULL) < 0)
				return -1;
		}
		c->b->links[s->links_off + i++] = l;
	}
	return 0;
}

static int read_span(struct otlp_ctx *c, struct js v, uint32_t resource, uint32_t scope)
{
	static const char *const kinds[] = { "SPAN_KIND_UNSPECIFIED", "SPAN_KIND_INTERNAL", "SPAN_KIND_SERVER", "SPAN_KIND_CLIENT",
		"SPAN_KIND_PRODUCER", "SPAN_KIND_CONSUMER" };
	static const char *const codes[] = { "STATUS_CODE_UNSET", "STATUS_CODE_OK", "STATUS_CODE_ERROR" };
	struct span s = { .resource = resource, .scope = scope };
	struct js m, in;
	struct str key, name;
	bool trace_ok = false;
	uint64_t start = 0, end = 0;
	uint32_t dropped[3] = { 0 };
	EACH_MEMBER(v, key, m) {
		if (str_is(key, "traceId"))
			trace_ok = trace_id(m, &s.trace_hi, &s.trace_lo);
		else if (str_is(key, "spanId"))
			s.span_id = span_id(m);
	}
	if (!otlp_admit(c, trace_ok && s.span_id))
		return 0;
	EACH_MEMBER(v, key, m) {
		if (str_is(key, "parentSpanId")) {
			s.parent_id = span_id(m);
		} else if (str_is(key, "traceState")) {
			s.trace_state = text(c, m);
		} else if (str_is(key, "name")) {
			s.name = text(c, m);
		} else if (str_is(key, "kind")) {
			s.kind = enum_of(c, m, kinds, 6);
		} else if (str_is(key, "startTimeUnixNano")) {
			start = unsigned_of(c, m);
		} else if (str_is(key, "endTimeUnixNano")) {
			end = unsigned_of(c, m);
		} else if (str_is(key, "attributes")) {
			if (read_list(c, m, true, 1, &s.attrs, &dropped[0]) < 0)
				return -1;
		} else if (str_is(key, "events")) {
			if (read_events(c, m, &s, &dropped[1]) < 0)
				return -1;
		} else if (str_is(key, "links")) {
			if (read_links(c, m, &s, &dropped[2]) < 0)
				return -1;
		} else if (str_is(key, "droppedAttributesCount")) {
			dropped[0] += count_of(c, m);
		} else if (str_is(key, "droppedEventsCount")) {
			dropped[1] += count_of(c, m);
		} else if (str_is(key, "droppedLinksCount")) {
			dropped[2] += count_of(c, m);
		} else if (str_is(key, "flags")) {
			s.flags = (uint32_t)unsigned_of(c, m);
		} else if (str_is(key, "status")) {
			EACH_MEMBER(m, name, in) {
				if (str_is(name, "message"))
					s.status_message = text(c, in);
				else if (str_is(name, "code"))
					s.status = enum_of(c, in, codes, 3);
			}
		}
	}
	otlp_add_span(c, &s, start, end, dropped);
	return 0;
}

static int read_scope_spans(struct otlp_ctx *c, struct js v, uint32_t resource)
{
	struct js m, in;
	struct str key, name;
	struct scope s = { 0 };
	EACH_MEMBER(v, key, m)
		if (str_is(key, "scope"))
			EACH_MEMBER(m, name, in) {
				if (str_is(name, "name"))
					s.name = text(c, in);
				else if (str_is(name, "version"))
					s.version = text(c, in);
				else if (str_is(name, "attributes") && read_list(c, in, true, 1, &s.attrs, NULL) < 0)
					return -1;
			}
	uint32_t scope = batch_add_scope(c->b, &s);
	EACH_MEMBER(v, key, m)
		if (str_is(key, "spans"))
			EACH_ELEMENT(m, in)
				if (read_span(c, in, resource, scope) < 0)
					return -1;
	return 0;
}

static int read_resource_spans(struct otlp_ctx *c, struct js v)
{
	struct js m, in;
	struct str key, name;
	struct resource r = { 0 };
	EACH_MEMBER(v, key, m)
		if (str_is(key, "resource"))
			EACH_MEMBER(m, name, in)
				if (str_is(name, "attributes") && read_list(c, in, true, 1, &r.attrs, NULL) < 0)
					return -1;
	uint32_t resource = otlp_add_resource(c, r);
	EACH_MEMBER(v, key, m)
		if (str_is(key, "scopeSpans"))
			EACH_ELEMENT(m, in)
				if (read_scope_spans(c, in, resource) < 0)
					return -1;
	return 0;
}

int otlp_decode_json(struct str body, struct batch *b, struct otlp_report *ret_r, struct err *e)
{
	struct otlp_ctx c = { .b = b };
	if (!body.n)
		body.p = ""; /* no arithmetic with a null pointer */
	struct js all = { body.p, body.p + body.n }, check = all, m, in;
	struct str key;
	space(&check);
	if (check.p == check.end) {
		*ret_r = c.r;
		return 0;
	}
	bool object = *check.p == '{';
	if (!object || !skip(&check, 0) || (space(&check), check.p != check.end))
		return err_set(e, KLIEG_E_BAD_DATA, "not a valid ExportTraceServiceRequest: malformed JSON near byte %zu of %zu", (size_t)(check.p - body.p), body.n);
	int rc = 0;
	EACH_MEMBER(all, key, m)
		if (str_is(key, "resourceSpans"))
			EACH_ELEMENT(m, in)
				if (!rc && !c.bad)
					rc = read_resource_spans(&c, in);
	if (c.bad)
		return err_set(e, KLIEG_E_BAD_DATA, "not a valid ExportTraceServiceRequest: not a value of its field's type near byte %zu of %zu",
			(size_t)(c.bad - body.p), body.n);
	if (rc < 0)
		return err_set(e, KLIEG_E_BAD_DATA, "not a valid ExportTraceServiceRequest: a list is nested too deeply or bytes are not base64");
	*ret_r = c.r;
	return 0;
}
