/* What a query means, over any source of fields: comparisons, arithmetic, arrays, and the rules for what is missing. Everything else
 * (matcher.c) is a faster way to the same answers and is tested against this. Pure; any thread. */
#include "traceql/ast.h"
#include <math.h>

bool tq_is_multi(const struct tq_field *f)
{
	if (f->scope != TQ_INTRINSIC)
		return f->scope == TQ_EVENT || f->scope == TQ_LINK;
	return f->intrinsic == TQ_EVENT_NAME || f->intrinsic == TQ_EVENT_TIME || f->intrinsic == TQ_LINK_TRACE_ID || f->intrinsic == TQ_LINK_SPAN_ID;
}

void tq_attr_value(const struct batch *b, const struct attr *a, struct tq_value *ret_v)
{
	switch (a->type) {
	case ATTR_STR: case ATTR_BYTES: *ret_v = (struct tq_value){ .type = TQ_STR, .s = batch_text(b, a->s) }; break;
	case ATTR_INT: *ret_v = (struct tq_value){ .type = TQ_INT, .i = a->i }; break;
	case ATTR_DOUBLE: *ret_v = (struct tq_value){ .type = TQ_FLOAT, .d = a->d }; break;
	case ATTR_BOOL: *ret_v = (struct tq_value){ .type = TQ_BOOL, .i = a->i != 0 }; break;
	case ATTR_ARRAY: *ret_v = (struct tq_value){ .type = TQ_ARRAY, .array = { b, a->list.off, a->list.n } }; break;
	case ATTR_KVLIST: *ret_v = (struct tq_value){ .type = TQ_ARRAY, .array = { b, 0, 0 } }; break; /* there, but equal to nothing */
	default: *ret_v = (struct tq_value){ .type = TQ_NIL };
	}
}

static bool integral(const struct tq_value *v) { return v->type == TQ_INT || v->type == TQ_DURATION; }
static bool numeric(const struct tq_value *v) { return integral(v) || v->type == TQ_FLOAT; }
static double number(const struct tq_value *v) { return v->type == TQ_FLOAT ? v->d : (double)v->i; }

enum outcome { MISMATCH, NO, YES };

static enum outcome order(enum tq_op op, int c)
{
	switch (op) {
	case OP_EQ: return c == 0 ? YES : NO;
	case OP_LT: return c < 0 ? YES : NO;
	case OP_LE: return c <= 0 ? YES : NO;
	case OP_GT: return c > 0 ? YES : NO;
	default: return c >= 0 ? YES : NO;
	}
}

/* One value against one; op is never a negated one. */
static enum outcome compare_one(const struct traceql *q, const struct tq_node *n, enum tq_op op, const struct tq_value *l, const struct tq_value *r)
{
	if (op == OP_RE) {
		if (l->type != TQ_STR)
			return MISMATCH;
		int rc = tq_regex_match(q->regexes[n->regex], l->s, NULL);
		if (rc == TQ_RE_GAVE_UP)
			atomic_fetch_add_explicit(&((struct traceql *)q)->gave_up, 1, memory_order_relaxed); /* a counter; orders nothing */
		return rc == TQ_RE_YES ? YES : rc == TQ_RE_NO ? NO : MISMATCH;
	}
	if (numeric(l) && numeric(r)) {
		if (integral(l) && integral(r))
			return order(op, l->i < r->i ? -1 : l->i > r->i);
		double a = number(l), b = number(r);
		if (isnan(a) || isnan(b))
			return NO;
		return order(op, a < b ? -1 : a > b);
	}
	if (l->type != r->type)
		return MISMATCH;
	switch (l->type) {
	case TQ_STR: {
		if (op == OP_EQ)
			return str_eq(l->s, r->s) ? YES : NO;
		size_t least = l->s.n < r->s.n ? l->s.n : r->s.n;
		int c = least ? memcmp(l->s.p, r->s.p, least) : 0;
		return order(op, c ? c : l->s.n < r->s.n ? -1 : l->s.n > r->s.n);
	}
	case TQ_BOOL: case TQ_STATUS: case TQ_KIND:
		return op == OP_EQ ? order(op, l->i != r->i) : MISMATCH;
	default:
		return MISMATCH;
	}
}

/* Each side is one value, an array's elements, or the values of all events or links. `=` wants some pair that is equal, `!=` that there is
 * none (and something comparable at all). */
struct side { const struct tq_value *v; const struct tq_field *f; const struct tq_source *src; };

static bool side_at(const struct side *s, uint32_t i, struct tq_value *ret_v)
{
	if (s->f)
		return s->src->nth(s->src->ctx, s->f, i, ret_v);
	if (s->v->type != TQ_ARRAY) {
		*ret_v = *s->v;
		return i == 0;
	}
	if (i >= s->v->array.n)
		return false;
	tq_attr_value(s->v->array.b, s->v->array.b->attrs + s->v->array.off + i, ret_v);
	return true;
}

static bool compare_sides(const struct traceql *q, const struct tq_node *n, const struct side *l, const struct side *r)
{
	bool negated = n->op == OP_NE || n->op == OP_NRE, comparable = false, any = false;
	enum tq_op op = n->op == OP_NE ? OP_EQ : n->op == OP_NRE ? OP_RE : (enum tq_op)n->op;
	struct tq_value a, b;
	for (uint32_t i = 0; side_at(l, i, &a); i++)
		for (uint32_t k = 0; side_at(r, k, &b); k++) {
			any |= a.type != TQ_NIL && b.type != TQ_NIL;
			enum outcome o = compare_one(q, n, op, &a, &b);
			if (o == YES)
				return !negated;
			comparable |= o == NO;
		}
	/* An empty array is there and equals nothing. */
	bool empty = !any && ((!l->f && l->v->type == TQ_ARRAY && !l->v->array.n) || (!r->f && r->v->type == TQ_ARRAY && !r->v->array.n));
	return negated && (comparable || empty);
}

bool tq_compare(const struct traceql *q, const struct tq_node *n, const struct tq_value *l, const struct tq_value *r)
{
	if (l->type == TQ_NIL || r->type == TQ_NIL)
		return false;
	if (l->type != TQ_ARRAY && r->type != TQ_ARRAY) {
		bool negated = n->op == OP_NE || n->op == OP_NRE;
		enum outcome o = compare_one(q, n, n->op == OP_NE ? OP_EQ : n->op == OP_NRE ? OP_RE : (enum tq_op)n->op, l, r);
		return negated ? o == NO : o == YES;
	}
	return compare_sides(q, n, &(struct side){ .v = l }, &(struct side){ .v = r });
}

static bool is_nil_literal(const struct tq_node *n) { return n->op == OP_LIT && n->lit.type == TQ_NIL; }

static bool eval_compare(const struct traceql *q, const struct tq_node *n, const struct tq_source *src)
{
	const struct tq_node *ln = q->nodes + n->l, *rn = q->nodes + n->r;
	struct tq_value l, r;
	bool multi_l = ln->op == OP_FIELD && tq_is_multi(&ln->field), multi_r = rn->op == OP_FIELD && tq_is_multi(&rn->field);
	if ((multi_l || multi_r) && !src->nth)
		multi_l = multi_r = false;
	if (multi_l)
		l.type = src->nth(src->ctx, &ln->field, 0, &l) ? TQ_ARRAY : TQ_NIL;
	else
		tq_eval_node(q, n->l, src, &l);
	if (multi_r)
		r.type = src->nth(src->ctx, &rn->field, 0, &r) ? TQ_ARRAY : TQ_NIL;
	else
		tq_eval_node(q, n->r, src, &r);
	if (is_nil_literal(ln) || is_nil_literal(rn)) {
		bool nil = (is_nil_literal(ln) ? r.type : l.type) == TQ_NIL;
		return n->op == OP_EQ ? nil : n->op == OP_NE && !nil;
	}
	if (!multi_l && !multi_r)
		return tq_compare(q, n, &l, &r);
	if (l.type == TQ_NIL || r.type == TQ_NIL)
		return false;
	struct side ls = { .v = &l, .f = multi_l ? &ln->field : NULL, .src = src }, rs = { .v = &r, .f = multi_r ? &rn->field : NULL, .src = src };
	return compare_sides(q, n, &ls, &rs);
}

/* Integers stay integers where the result is one and fits; durations win over numbers in + - * %. */
static void arithmetic(enum tq_op op, const struct tq_value *l, const struct tq_value *r, struct tq_value *ret_v)
{
	*ret_v = (struct tq_value){ .type = TQ_NIL };
	if (!numeric(l) || !numeric(r))
		return;
	if (integral(l) && integral(r) && op != OP_POW) {
		struct tq_value v = { .type = l->type == TQ_DURATION || r->type == TQ_DURATION ? TQ_DURATION : TQ_INT };
		bool whole = true;
		switch (op) {
		case OP_ADD: whole = !__builtin_add_overflow(l->i, r->i, &v.i); break;
		case OP_SUB: whole = !__builtin_sub_overflow(l->i, r->i, &v.i); break;
		case OP_MUL: whole = !__builtin_mul_overflow(l->i, r->i, &v.i); break;
		default:
			if (r->i == 0)
				return;
			if (r->i == -1) {
				whole = op == OP_MOD || l->i != INT64_MIN;
				v.i = op == OP_MOD || !whole ? 0 : -l->i;
			} else if (op == OP_MOD) {
				v.i = l->i % r->i;
			} else {
				whole = l->i % r->i == 0;
				v.i = l->i / r->i;
			}
			if (op == OP_DIV && r->type == TQ_DURATION)
				v.type = TQ_INT;
		}
		if (whole) {
			*ret_v = v;
			return;
		}
	}
	double a = number(l), b = number(r), d;
	switch (op) {
	case OP_ADD: d = a + b; break;
	case OP_SUB: d = a - b; break;
	case OP_MUL: d = a * b; break;
	case OP_DIV: d = a / b; break;
	case OP_MOD: d = fmod(a, b); break;
	default: d = pow(a, b);
	}
	if (isfinite(d))
		*ret_v = (struct tq_value){ .type = TQ_FLOAT, .d = d };
}

static bool truth(const struct traceql *q, uint16_t node, const struct tq_source *src)
{
	struct tq_value v;
	tq_eval_node(q, node, src, &v);
	return v.type == TQ_BOOL && v.i;
}

void tq_eval_node(const struct traceql *q, uint16_t node, const struct tq_source *src, struct tq_value *ret_v)
{
	const struct tq_node *n = q->nodes + node;
	struct tq_value l, r;
	switch (n->op) {
	case OP_LIT:
		*ret_v = n->lit;
		return;
	case OP_FIELD:
		*ret_v = (struct tq_value){ .type = TQ_NIL };
		if (!tq_is_multi(&n->field))
			src->get(src->ctx, &n->field, ret_v);
		return;
	case OP_AND:
		*ret_v = (struct tq_value){ .type = TQ_BOOL, .i = truth(q, n->l, src) && truth(q, n->r, src) };
		return;
	case OP_OR:
		*ret_v = (struct tq_value){ .type = TQ_BOOL, .i = truth(q, n->l, src) || truth(q, n->r, src) };
		return;
	case OP_NOT:
		tq_eval_node(q, n->l, src, &l);
		*ret_v = l.type == TQ_BOOL ? (struct tq_value){ .type = TQ_BOOL, .i = !l.i } : (struct tq_value){ .type = TQ_NIL };
		return;
	case OP_NEG:
		tq_eval_node(q, n->l, src, &l);
		r = (struct tq_value){ .type = TQ_INT, .i = 0 };
		arithmetic(OP_SUB, &r, &l, ret_v);
		return;
	case OP_ADD: case OP_SUB: case OP_MUL: case OP_DIV: case OP_MOD: case OP_POW:
		tq_eval_node(q, n->l, src, &l);
		tq_eval_node(q, n->r, src, &r);
		arithmetic(n->op, &l, &r, ret_v);
		return;
	default:
		*ret_v = (struct tq_value){ .type = TQ_BOOL, .i = eval_compare(q, n, src) };
	}
}

bool traceql_eval(const struct traceql *q, const struct tq_source *src)
{
	return q->root == TQ_NONE || truth(q, q->root, src);
}

bool traceql_match(const struct traceql *q, const struct batch *b, uint32_t i)
{
	struct tq_span_ctx c = { .b = b, .i = i, .traces = q->needs_trace ? tq_traces_create(b) : NULL };
	bool yes = traceql_eval(q, &(struct tq_source){ .ctx = &c, .get = tq_span_get, .nth = tq_span_nth });
	tq_traces_destroy(c.traces);
	return yes;
}

bool traceql_needs_trace(const struct traceql *q) { return q->needs_trace; }
uint64_t traceql_gave_up(const struct traceql *q) { return atomic_load_explicit(&((struct traceql *)q)->gave_up, memory_order_relaxed); }
