/* The fast way over many spans: whatever depends only on the batch is resolved once per batch (keys and texts to string ids, regular
 * expressions cached per string), so that the usual condition is a compare of two integers. Anything unusual goes to eval.c, whose answers
 * are the definition. Belongs to one thread; the query is shared. */
#include "traceql/ast.h"
#include <stdlib.h>

enum fast { SLOW, FAST_NAME, FAST_MESSAGE, FAST_SERVICE, FAST_SCOPE, FAST_ATTR, FAST_DURATION, FAST_STATUS, FAST_KIND };

struct site {             /* beside each node of the query */
	uint8_t fast;
	uint32_t key;     /* of a field (on its own node and on the comparison's), in this batch; UINT32_MAX: no span has it */
	uint32_t text;    /* of a literal */
	uint8_t *seen;    /* regular expressions: per string id 0 = not asked yet, else 1 + TQ_RE_* */
	uint32_t seen_cap;
};

struct tq_matcher {
	const struct traceql *q;
	const struct batch *b;
	const void *mark[3];     /* with b: what tells a changed batch */
	uint32_t mark_n[3];
	struct site *sites;
	struct tq_span_ctx span;
	void *scratch;
	uint8_t *service_known;  /* is a resource's service.name the text of its member `service`? It nearly always is. */
	uint32_t service_cap;
};

static enum fast classify(const struct traceql *q, const struct tq_node *n)
{
	const struct tq_node *l = q->nodes + n->l, *r = q->nodes + n->r;
	if (n->op < OP_EQ || n->op > OP_NRE || l->op != OP_FIELD || r->op != OP_LIT)
		return SLOW;
	const struct tq_field *f = &l->field;
	if (f->scope == TQ_INTRINSIC && (r->lit.type == TQ_DURATION || r->lit.type == TQ_INT) && f->intrinsic == TQ_DURATION_)
		return FAST_DURATION;
	if (n->op != OP_EQ && n->op != OP_NE && n->op != OP_RE && n->op != OP_NRE)
		return SLOW;
	if (f->scope == TQ_INTRINSIC && r->lit.type == TQ_STATUS && f->intrinsic == TQ_STATUS_)
		return FAST_STATUS;
	if (f->scope == TQ_INTRINSIC && r->lit.type == TQ_KIND && f->intrinsic == TQ_KIND_)
		return FAST_KIND;
	if (r->lit.type != TQ_STR)
		return SLOW;
	if (f->scope == TQ_INTRINSIC)
		return f->intrinsic == TQ_NAME ? FAST_NAME : f->intrinsic == TQ_STATUS_MESSAGE ? FAST_MESSAGE : f->intrinsic == TQ_SCOPE_NAME ? FAST_SCOPE : SLOW;
	if (f->scope == TQ_RESOURCE && str_is(f->key, "service.name"))
		return FAST_SERVICE;
	if (f->scope == TQ_ANY && str_is(f->key, "service.name"))
		return SLOW; /* a span's own, an attribute, or the member: not worth a path */
	return f->scope == TQ_ANY || f->scope == TQ_SPAN || f->scope == TQ_RESOURCE || f->scope == TQ_INSTRUMENTATION ? FAST_ATTR : SLOW;
}

struct tq_matcher *traceql_matcher_create(const struct traceql *q)
{
	struct tq_matcher *m = base_calloc(1, sizeof *m);
	m->q = q;
	m->sites = base_calloc(q->n, sizeof *m->sites);
	m->scratch = tq_regex_scratch();
	for (uint16_t i = 0; i < q->n; i++)
		m->sites[i].fast = (uint8_t)classify(q, q->nodes + i);
	return m;
}

void traceql_matcher_destroy(struct tq_matcher *m)
{
	if (!m)
		return;
	for (uint16_t i = 0; i < m->q->n; i++)
		free(m->sites[i].seen);
	tq_traces_destroy(m->span.traces);
	tq_regex_scratch_free(m->scratch);
	free(m->service_known);
	free(m->sites);
	free(m);
}

void traceql_matcher_begin(struct tq_matcher *m, const struct batch *b)
{
	const struct traceql *q = m->q;
	tq_traces_destroy(m->span.traces);
	m->span = (struct tq_span_ctx){ .b = b, .traces = q->needs_trace ? tq_traces_create(b) : NULL };
	m->b = b;
	m->mark[0] = b->spans, m->mark[1] = b->attrs, m->mark[2] = b->strs.items;
	m->mark_n[0] = b->n, m->mark_n[1] = b->attrs_n, m->mark_n[2] = b->strs.n;
	for (uint16_t i = 0; i < q->n; i++) {
		const struct tq_node *n = q->nodes + i;
		struct site *s = m->sites + i;
		if (n->op == OP_FIELD)
			s->key = n->field.scope == TQ_INTRINSIC ? 0 : strtab_find(&b->strs, n->field.key);
		if (s->fast && q->nodes[n->r].lit.type == TQ_STR) {
			s->key = q->nodes[n->l].field.scope == TQ_INTRINSIC ? 0 : strtab_find(&b->strs, q->nodes[n->l].field.key);
			s->text = strtab_find(&b->strs, q->nodes[n->r].lit.s);
		}
		if (s->fast && (n->op == OP_RE || n->op == OP_NRE)) {
			if (s->seen_cap < b->strs.n) {
				free(s->seen);
				s->seen_cap = b->strs.n + b->strs.n / 4;
				s->seen = base_alloc(s->seen_cap);
			}
			memset(s->seen, 0, b->strs.n);
		}
	}
	if (m->service_cap < b->resources_n) {
		m->service_cap = b->resources_n * 2;
		m->service_known = base_realloc(m->service_known, m->service_cap);
	}
	for (uint32_t i = 0; i < b->resources_n; i++) {
		const struct attr *a = batch_attr(b, b->resources[i].attrs, STR("service.name"));
		m->service_known[i] = b->resources[i].service && (!a || (a->type == ATTR_STR && a->s == b->resources[i].service));
	}
}

/* A text, by its id, against the literal or regular expression of comparison i. */
static bool text_is(struct tq_matcher *m, uint16_t i, uint32_t id)
{
	const struct tq_node *n = m->q->nodes + i;
	struct site *s = m->sites + i;
	if (n->op == OP_EQ)
		return id == s->text;
	if (n->op == OP_NE)
		return id != s->text;
	if (id >= m->mark_n[2])
		id = 0;
	if (!s->seen[id]) {
		int rc = tq_regex_match(m->q->regexes[n->regex], batch_text(m->b, id), m->scratch);
		if (rc == TQ_RE_GAVE_UP)
			atomic_fetch_add_explicit(&((struct traceql *)m->q)->gave_up, 1, memory_order_relaxed); /* a counter; orders nothing */
		s->seen[id] = (uint8_t)(1 + rc);
	}
	return s->seen[id] == (n->op == OP_RE ? 1 + TQ_RE_YES : 1 + TQ_RE_NO);
}

static void get_by_key(void *ctx, const struct tq_field *f, struct tq_value *ret_v)
{
	struct tq_matcher *m = ctx;
	const struct tq_node *n = (const struct tq_node *)((const char *)f - offsetof(struct tq_node, field));
	tq_span_get_key(&m->span, f, m->sites[n - m->q->nodes].key, ret_v);
}
static bool nth(void *ctx, const struct tq_field *f, uint32_t n, struct tq_value *ret_v)
{
	return tq_span_nth(&((struct tq_matcher *)ctx)->span, f, n, ret_v);
}

static void slow(struct tq_matcher *m, uint16_t i, struct tq_value *ret_v)
{
	tq_eval_node(m->q, i, &(struct tq_source){ .ctx = m, .get = get_by_key, .nth = nth }, ret_v);
}

static bool compare_ints(enum tq_op op, int64_t a, int64_t b)
{
	switch (op) {
	case OP_EQ: return a == b;
	case OP_NE: return a != b;
	case OP_LT: return a < b;
	case OP_LE: return a <= b;
	case OP_GT: return a > b;
	default: return a >= b;
	}
}

static bool test(struct tq_matcher *m, uint16_t i)
{
	const struct tq_node *n = m->q->nodes + i;
	const struct batch *b = m->b;
	const struct span *s = b->spans + m->span.i;
	struct tq_value v;
	switch (n->op) {
	case OP_AND: return test(m, n->l) && test(m, n->r);
	case OP_OR: return test(m, n->l) || test(m, n->r);
	case OP_NOT:
		if (m->q->nodes[n->l].type == TQ_BOOL && m->q->nodes[n->l].op > OP_FIELD && m->q->nodes[n->l].op != OP_NOT)
			return !test(m, n->l);
		break;
	default: break;
	}
	switch (m->sites[i].fast) {
	case FAST_NAME: return text_is(m, i, s->name);
	case FAST_MESSAGE: return text_is(m, i, s->status_message);
	case FAST_DURATION: return compare_ints(n->op, s->duration_ns, m->q->nodes[n->r].lit.i);
	case FAST_STATUS: return compare_ints(n->op, s->status, m->q->nodes[n->r].lit.i);
	case FAST_KIND: return compare_ints(n->op, s->kind, m->q->nodes[n->r].lit.i);
	case FAST_SERVICE:
		if (s->resource < b->resources_n && m->service_known[s->resource])
			return text_is(m, i, b->resources[s->resource].service);
		break;
	case FAST_SCOPE:
		return s->scope < b->scopes_n && b->scopes[s->scope].name && text_is(m, i, b->scopes[s->scope].name);
	case FAST_ATTR: {
		if (m->sites[i].key == UINT32_MAX)
			return false;
		const struct attr *a = tq_span_attr(&m->span, &m->q->nodes[n->l].field, m->sites[i].key);
		if (!a)
			return false;
		if (a->type == ATTR_STR)
			return text_is(m, i, a->s);
		tq_attr_value(b, a, &v);
		return tq_compare(m->q, n, &v, &m->q->nodes[n->r].lit);
	}
	default: break;
	}
	slow(m, i, &v);
	return v.type == TQ_BOOL && v.i;
}

bool traceql_matcher_match(struct tq_matcher *m, const struct batch *b, uint32_t i)
{
	if (m->b != b || m->mark[0] != b->spans || m->mark[1] != b->attrs || m->mark[2] != b->strs.items || m->mark_n[0] != b->n ||
		m->mark_n[1] != b->attrs_n || m->mark_n[2] != b->strs.n)
		traceql_matcher_begin(m, b);
	if (m->q->root == TQ_NONE)
		return true;
	m->span.i = i;
	return test(m, m->q->root);
}
