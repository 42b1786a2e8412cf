/* The index of match.h. A rule's conditions that must all hold are looked at once: `resource.service.name = "x"`, `name = "y"` and `name =~ "y.*"`
 * say in which drawer it is filed (service or any; name whole, or its literal beginning of some length); what they leave open is kept as a short
 * list of conditions. A site looks into few drawers: per service and for any, its name and its beginnings of the lengths that are in use, found
 * with one rolling hash. Regular expressions of names are asked once per pattern and name: the same site lives in many processes. */
#include "policy/match.h"
#include "base/hash.h"
#include <stdlib.h>

enum { PREFIX_MAX = 63, WHOLE = PREFIX_MAX + 1, CACHE = 1 << 15, NAMES_MAX = 1 << 20, PATTERNS_MAX = 4096 };

struct condition { uint16_t node; uint32_t pattern; /* id of a name's regular expression, 0: none */ };
struct rule {
	void *handle;
	const struct traceql *q;
	struct drawer *in;
	uint32_t at;                  /* in->rules[at] */
	struct rule *next;            /* by handle */
	uint32_t n;
	bool plain;                   /* decided the drawer decides conditions[0] too, if the name is plain text */
	struct condition conditions[];
};
struct drawer {
	uint64_t hash;
	bool any_service;
	uint8_t len;                  /* of the name's beginning; WHOLE: all of it */
	char *service, *name;
	size_t service_n, name_n;
	struct rule **rules;
	uint32_t n, cap;
	struct drawer *next;
};
struct match_index {
	struct drawer **drawers;
	uint32_t ndrawers, mask;
	uint32_t lens[2][WHOLE + 1];  /* drawers per length; [1]: for any service */
	uint64_t used[2];             /* bit len: some drawer has it (but WHOLE) */
	struct rule **handles;
	uint32_t n, handles_mask;
	struct strtab patterns, names;
	struct { uint64_t key; bool yes; } cache[CACHE]; /* name id << 32 | pattern id */
};

struct match_index *match_create(void)
{
	struct match_index *m = base_calloc(1, sizeof *m);
	m->mask = m->handles_mask = 255;
	m->drawers = base_calloc(m->mask + 1u, sizeof *m->drawers);
	m->handles = base_calloc(m->handles_mask + 1u, sizeof *m->handles);
	strtab_init(&m->patterns);
	strtab_init(&m->names);
	return m;
}

static void drawer_destroy(struct drawer *d)
{
	free(d->service);
	free(d->name);
	free(d->rules);
	free(d);
}

void match_destroy(struct match_index *m)
{
	if (!m)
		return;
	for (uint32_t i = 0; i <= m->mask; i++)
		for (struct drawer *d = m->drawers[i], *next; d; d = next) {
			next = d->next;
			drawer_destroy(d);
		}
	for (uint32_t i = 0; i <= m->handles_mask; i++)
		for (struct rule *r = m->handles[i], *next; r; r = next) {
			next = r->next;
			free(r);
		}
	free(m->drawers);
	free(m->handles);
	strtab_finish(&m->patterns);
	strtab_finish(&m->names);
	free(m);
}

/* ---- what a rule requires --------------------------------------------------------------------------------------------------------- */

/* The literal text that a regular expression begins with; *ret_rest: what follows it. Groups, alternatives and flags have none. */
static void literal_prefix(struct str re, struct buf *ret_text, struct str *ret_rest)
{
	size_t i = 0, depth = 0;
	if (re.n && memchr(re.p, '|', re.n)) { /* `a|b` begins with neither; `a(b|c)` begins with a. What hides parentheses is not read. */
		bool outside = memchr(re.p, '[', re.n) || memmem(re.p, re.n, "\\Q", 2);
		for (size_t k = 0; k < re.n && !outside; k++) {
			if (re.p[k] == '\\')
				k++;
			else if (re.p[k] == '(')
				depth++;
			else if (re.p[k] == ')')
				depth -= depth > 0;
			else
				outside = re.p[k] == '|' && !depth;
		}
		if (outside)
			re.n = 0;
	}
	*ret_rest = re;
	while (i < re.n) {
		size_t len = 1;
		char c = re.p[i];
		if (c == '\\') {
			c = i + 1 < re.n ? re.p[i + 1] : 0;
			if (!c || !strchr(".*+?()[]{}|^$\\/-_", c))
				break;
			len = 2;
		} else if (strchr(".*+?()[]{}|^$", c) || !c) {
			break;
		}
		while ((unsigned char)re.p[i] >= 0xc0 && i + len < re.n && ((unsigned char)re.p[i + len] & 0xc0) == 0x80)
			len++;
		if (i + len < re.n && strchr("*+?{", re.p[i + len]) && re.p[i + len]) /* may be absent, or come again */
			break;
		bool escaped = re.p[i] == '\\';
		buf_add(ret_text, re.p + i + escaped, len - escaped);
		i += len;
	}
	*ret_rest = (struct str){ re.p + i, re.n - i };
}

struct want {
	struct str service;
	struct buf prefix;            /* of the name; whole: all of it */
	bool service_set, whole, plain_ok;
	uint32_t n, cap, prefix_from; /* the condition that the prefix is of */
	struct condition *conditions;
};

static bool is_intrinsic(const struct tq_field *f, enum tq_intrinsic i) { return f->scope == TQ_INTRINSIC && f->intrinsic == i; }

static void want(struct match_index *m, const struct traceql *q, uint16_t node, struct want *w)
{
	struct tq_view v;
	struct condition c = { .node = node };
	if (traceql_view(q, node, &v)) {
		if (v.op == TQ_VIEW_AND) {
			want(m, q, v.l, w);
			want(m, q, v.r, w);
			return;
		}
		bool text = v.op == TQ_VIEW_CMP && v.value.type == TQ_STR;
		if (text && v.field.scope == TQ_RESOURCE && str_is(v.field.key, "service.name") && !strcmp(v.cmp, "=") && !w->service_set) {
			w->service_set = true;
			w->service = v.value.s;
			return;
		}
		if (text && is_intrinsic(&v.field, TQ_NAME) && !strcmp(v.cmp, "=") && !w->whole) {
			buf_clear(&w->prefix); /* a beginning that was found before stays a condition */
			w->plain_ok = false;
			buf_add(&w->prefix, v.value.s.p, v.value.s.n);
			w->whole = true;
			return;
		}
		if (text && is_intrinsic(&v.field, TQ_NAME) && !strcmp(v.cmp, "=~")) {
			struct buf b = { 0 };
			struct str rest;
			literal_prefix(v.value.s, &b, &rest);
			if (!w->whole && b.n > w->prefix.n) {
				buf_finish(&w->prefix);
				w->prefix = b;
				w->plain_ok = b.n <= PREFIX_MAX && str_is(rest, ".*");
				w->prefix_from = w->n;
			} else {
				buf_finish(&b);
			}
			c.pattern = strtab_add(&m->patterns, v.value.s);
		}
	}
	if (w->n == w->cap)
		w->conditions = base_realloc(w->conditions, (w->cap = w->cap ? 2 * w->cap : 8) * sizeof *w->conditions);
	w->conditions[w->n++] = c;
}

/* ---- drawers ------------------------------------------------------------------------------------------------------------------------ */

#define STEP(h, c) (((h) ^ (unsigned char)(c)) * 0x100000001b3ull)
static uint64_t spread(uint64_t h, unsigned len) { h = (h ^ len) * 0xff51afd7ed558ccdull; return h ^ h >> 32; }
static uint64_t start(bool any, struct str service) { return any ? 0xcbf29ce484222325ull : hash_bytes(service.p, service.n, 1); }

static bool drawer_is(const struct drawer *d, uint64_t hash, bool any, struct str service, unsigned len, struct str name)
{
	return d->hash == hash && d->any_service == any && d->len == len &&
		(any || (d->service_n == service.n && !memcmp(d->service, service.p, service.n))) && d->name_n == name.n && !memcmp(d->name, name.p, name.n);
}

static struct drawer *find(const struct match_index *m, uint64_t hash, bool any, struct str service, unsigned len, struct str name)
{
	struct drawer *d = m->drawers[hash & m->mask];
	while (d && !drawer_is(d, hash, any, service, len, name))
		d = d->next;
	return d;
}

static struct drawer *open_drawer(struct match_index *m, bool any, struct str service, unsigned len, struct str name)
{
	uint64_t h = start(any, service);
	for (size_t i = 0; i < name.n; i++)
		h = STEP(h, name.p[i]);
	h = spread(h, len);
	struct drawer *d = find(m, h, any, service, len, name);
	if (d)
		return d;
	if (m->ndrawers > m->mask) {
		uint32_t mask = m->mask * 2 + 1;
		struct drawer **grown = base_calloc(mask + 1u, sizeof *grown);
		for (uint32_t i = 0; i <= m->mask; i++)
			for (struct drawer *o = m->drawers[i], *next; o; o = next) {
				next = o->next;
				o->next = grown[o->hash & mask];
				grown[o->hash & mask] = o;
			}
		free(m->drawers);
		m->drawers = grown;
		m->mask = mask;
	}
	d = base_calloc(1, sizeof *d);
	*d = (struct drawer){ .hash = h, .any_service = any, .len = (uint8_t)len, .name = str_dup(name), .name_n = name.n,
		.service = any ? NULL : str_dup(service), .service_n = any ? 0 : service.n, .next = m->drawers[h & m->mask] };
	m->drawers[h & m->mask] = d;
	m->ndrawers++;
	if (!m->lens[any][len]++ && len < WHOLE)
		m->used[any] |= 1ull << len;
	return d;
}

static void close_drawer(struct match_index *m, struct drawer *d)
{
	struct drawer **at = m->drawers + (d->hash & m->mask);
	while (*at != d)
		at = &(*at)->next;
	*at = d->next;
	m->ndrawers--;
	if (!--m->lens[d->any_service][d->len] && d->len < WHOLE)
		m->used[d->any_service] &= ~(1ull << d->len);
	drawer_destroy(d);
}

/* ---- adding and removing -------------------------------------------------------------------------------------------------------------- */

static struct rule **slot(const struct match_index *m, void *handle)
{
	struct rule **at = m->handles + (hash_bytes(&handle, sizeof handle, 2) & m->handles_mask);
	while (*at && (*at)->handle != handle)
		at = &(*at)->next;
	return at;
}

/* Rules come and go for months: patterns that no rule has any more are forgotten. */
static void forget_patterns(struct match_index *m)
{
	struct tq_view v;
	strtab_finish(&m->patterns);
	strtab_init(&m->patterns);
	memset(m->cache, 0, sizeof m->cache);
	for (uint32_t i = 0; i <= m->handles_mask; i++)
		for (struct rule *r = m->handles[i]; r; r = r->next)
			for (uint32_t k = 0; k < r->n; k++)
				if (r->conditions[k].pattern && traceql_view(r->q, r->conditions[k].node, &v))
					r->conditions[k].pattern = strtab_add(&m->patterns, v.value.s);
}

void match_add(struct match_index *m, void *handle, const struct traceql *site)
{
	match_remove(m, handle);
	if (m->patterns.n > PATTERNS_MAX && m->patterns.n / 8 > m->n)
		forget_patterns(m);
	if (m->n > m->handles_mask) {
		struct rule **old = m->handles;
		uint32_t n = m->handles_mask + 1;
		m->handles_mask = m->handles_mask * 2 + 1;
		m->handles = base_calloc(m->handles_mask + 1u, sizeof *m->handles);
		for (uint32_t i = 0; i < n; i++)
			for (struct rule *r = old[i], *next; r; r = next) {
				next = r->next;
				r->next = NULL;
				*slot(m, r->handle) = r;
			}
		free(old);
	}
	struct want w = { 0 };
	uint16_t root;
	if (traceql_root(site, &root))
		want(m, site, root, &w);
	struct rule *r = base_calloc(1, sizeof *r + w.n * sizeof *w.conditions);
	*r = (struct rule){ .handle = handle, .q = site, .n = w.n, .plain = w.plain_ok };
	if (w.n)
		memcpy(r->conditions, w.conditions, w.n * sizeof *w.conditions);
	if (w.plain_ok) { /* the one that the drawer mostly decides comes first */
		struct condition swap = r->conditions[0];
		r->conditions[0] = r->conditions[w.prefix_from];
		r->conditions[w.prefix_from] = swap;
	}
	struct str name = buf_str(&w.prefix);
	if (!w.whole && name.n > PREFIX_MAX)
		name.n = PREFIX_MAX;
	struct drawer *d = open_drawer(m, !w.service_set, w.service, w.whole ? WHOLE : (unsigned)name.n, name.n ? name : (struct str){ "", 0 });
	if (d->n == d->cap)
		d->rules = base_realloc(d->rules, (d->cap = d->cap ? 2 * d->cap : 1) * sizeof *d->rules);
	r->in = d;
	r->at = d->n;
	d->rules[d->n++] = r;
	struct rule **at = slot(m, handle);
	*at = r;
	m->n++;
	buf_finish(&w.prefix);
	free(w.conditions);
}

void match_remove(struct match_index *m, void *handle)
{
	struct rule **at = slot(m, handle), *r = *at;
	if (!r)
		return;
	*at = r->next;
	m->n--;
	struct drawer *d = r->in;
	d->rules[r->at] = d->rules[--d->n];
	d->rules[r->at]->at = r->at;
	if (!d->n)
		close_drawer(m, d);
	free(r);
}

uint32_t match_count(const struct match_index *m) { return m->n; }

/* ---- matching ------------------------------------------------------------------------------------------------------------------------- */

struct site { const struct tq_source *src; struct str service, name; bool has_service, has_name; int8_t plain; /* -1: not looked */ uint32_t name_id; };

static bool text_of(const struct tq_source *src, const struct tq_field *f, struct str *ret)
{
	struct tq_value v = { .type = TQ_NIL };
	src->get(src->ctx, f, &v);
	if (v.type == TQ_STR)
		*ret = v.s;
	return v.type == TQ_STR;
}

static void look_name(const struct tq_source *src, struct site *s)
{
	*s = (struct site){ .src = src, .plain = -1 };
	s->has_name = text_of(src, &(struct tq_field){ .scope = TQ_INTRINSIC, .intrinsic = TQ_NAME }, &s->name);
}
static void look_service(struct site *s)
{
	s->has_service = text_of(s->src, &(struct tq_field){ .scope = TQ_RESOURCE, .key = STR("service.name") }, &s->service);
}

/* `.` is any character but a line end, and bytes that are no characters are nothing. */
static bool is_plain(struct site *s)
{
	if (s->plain < 0)
		s->plain = s->has_name && (!s->name.n || (!memchr(s->name.p, '\n', s->name.n) && !memchr(s->name.p, '\r', s->name.n))) &&
			str_utf8_valid(s->name);
	return s->plain;
}

static bool holds(struct match_index *m, const struct rule *r, const struct condition *c, struct site *s)
{
	if (!c->pattern || !s->has_name)
		return traceql_eval_node(r->q, c->node, s->src);
	if (!s->name_id) {
		if (m->names.n > NAMES_MAX || m->names.bytes > 64u << 20) {
			strtab_finish(&m->names);
			strtab_init(&m->names);
			memset(m->cache, 0, sizeof m->cache);
		}
		s->name_id = strtab_add(&m->names, s->name) + 1;
	}
	uint64_t key = (uint64_t)s->name_id << 32 | c->pattern;
	uint32_t at = (uint32_t)(spread(key, 0) >> 8) & (CACHE - 1);
	if (m->cache[at].key != key) {
		m->cache[at].key = key;
		m->cache[at].yes = traceql_eval_node(r->q, c->node, s->src);
	}
	return m->cache[at].yes;
}

/* What the drawer has not decided. */
static bool rest_holds(struct match_index *m, const struct rule *r, struct site *s)
{
	for (uint32_t i = r->plain && is_plain(s); i < r->n; i++)
		if (!holds(m, r, r->conditions + i, s))
			return false;
	return true;
}

static uint32_t try_drawer(struct match_index *m, uint64_t h, bool any, struct site *s, unsigned len, size_t n,
	void (*found)(void *arg, void *handle), void *arg)
{
	struct drawer *d = find(m, spread(h, len), any, s->service, len, (struct str){ s->name.n ? s->name.p : "", n });
	uint32_t hits = 0;
	for (uint32_t i = 0; d && i < d->n; i++)
		if (rest_holds(m, d->rules[i], s)) {
			found(arg, d->rules[i]->handle);
			hits++;
		}
	return hits;
}

uint32_t match_site(struct match_index *m, const struct tq_source *src, void (*found)(void *arg, void *handle), void *arg)
{
	struct site s;
	uint32_t hits = 0;
	look_name(src, &s);
	look_service(&s);
	for (int any = !s.has_service; any < 2; any++) {
		uint64_t h = start(any, s.service), used = m->used[any];
		if (used & 1)
			hits += try_drawer(m, h, any, &s, 0, 0, found, arg);
		if (!s.has_name || (!(used & ~1ull) && !m->lens[any][WHOLE]))
			continue;
		for (size_t i = 0; i < s.name.n; i++) {
			h = STEP(h, s.name.p[i]);
			if (i < PREFIX_MAX && used >> (i + 1) & 1)
				hits += try_drawer(m, h, any, &s, (unsigned)i + 1, i + 1, found, arg);
		}
		if (m->lens[any][WHOLE])
			hits += try_drawer(m, h, any, &s, WHOLE, s.name.n, found, arg);
	}
	return hits;
}

bool match_one(struct match_index *m, void *handle, const struct tq_source *src)
{
	const struct rule *r = *slot(m, handle);
	struct site s;
	if (!r)
		return false;
	look_name(src, &s);
	const struct drawer *d = r->in;
	if (d->len && !(s.has_name && (d->len == WHOLE ? s.name.n == d->name_n : s.name.n >= d->name_n) && !memcmp(s.name.p, d->name, d->name_n)))
		return false; /* most sites end here: the rest is not looked at */
	if (!d->any_service)
		look_service(&s);
	if (!d->any_service && !(s.has_service && s.service.n == d->service_n && !memcmp(s.service.p, d->service, d->service_n)))
		return false;
	return rest_holds(m, r, &s);
}
