/* A filter taken apart: what a site alone decides and what a request must say, and its nodes one by one for who compiles them. The parts are
 * copies with the places of the original text, so that later errors still point there. Pure; any thread. */
#include "traceql/ast.h"

/* ---- views --------------------------------------------------------------------------------------------------------------- */

bool traceql_root(const struct traceql *q, uint16_t *ret_node)
{
	if (q->root == TQ_NONE)
		return false;
	*ret_node = q->root;
	return true;
}

bool traceql_eval_node(const struct traceql *q, uint16_t node, const struct tq_source *src)
{
	struct tq_value v;
	if (node >= q->n)
		return false;
	tq_eval_node(q, node, src, &v);
	return v.type == TQ_BOOL && v.i;
}

bool traceql_view(const struct traceql *q, uint16_t node, struct tq_view *ret_v)
{
	if (node >= q->n)
		return false;
	const struct tq_node *n = q->nodes + node;
	switch (n->op) {
	case OP_AND: case OP_OR:
		*ret_v = (struct tq_view){ .op = n->op == OP_AND ? TQ_VIEW_AND : TQ_VIEW_OR, .l = n->l, .r = n->r };
		return true;
	case OP_NOT:
		*ret_v = (struct tq_view){ .op = TQ_VIEW_NOT, .l = n->l, .r = TQ_NONE };
		return true;
	case OP_FIELD: /* `{ .retried }` */
		*ret_v = (struct tq_view){ .op = TQ_VIEW_CMP, .cmp = "=", .field = n->field, .value = { .type = TQ_BOOL, .i = 1 } };
		return true;
	case OP_EQ: case OP_NE: case OP_LT: case OP_LE: case OP_GT: case OP_GE: case OP_RE: case OP_NRE:
		break;
	default:
		return false;
	}
	const struct tq_node *l = q->nodes + n->l, *r = q->nodes + n->r;
	enum tq_op op = n->op;
	if (l->op == OP_LIT && r->op == OP_FIELD) {
		const struct tq_node *swap = l;
		l = r;
		r = swap;
		op = tq_mirrored(op);
	}
	if (l->op != OP_FIELD || r->op != OP_LIT)
		return false;
	if (r->lit.type == TQ_NIL) {
		if (op != OP_EQ && op != OP_NE)
			return false;
		*ret_v = (struct tq_view){ .op = op == OP_EQ ? TQ_VIEW_ABSENT : TQ_VIEW_EXISTS, .field = l->field };
		return true;
	}
	*ret_v = (struct tq_view){ .op = TQ_VIEW_CMP, .cmp = tq_op_text(op), .field = l->field, .value = r->lit };
	return true;
}

/* ---- the two parts ------------------------------------------------------------------------------------------------------- */

enum { OF_SITE = 1, OF_REQUEST = 2 };

/* Which of the two the fields below a node belong to. */
static unsigned belongs(const struct traceql *q, uint16_t node)
{
	const struct tq_node *n = q->nodes + node;
	if (n->op == OP_FIELD)
		return tq_known_of_site(&n->field) ? OF_SITE : OF_REQUEST;
	return (n->l == TQ_NONE ? 0 : belongs(q, n->l)) | (n->r == TQ_NONE ? 0 : belongs(q, n->r));
}

static struct str keep(struct traceql *q, struct str s) { return strtab_get(&q->strs, strtab_add(&q->strs, s)); }

static uint16_t copy(struct traceql *to, const struct traceql *from, uint16_t node)
{
	struct tq_node n = from->nodes[node];
	if (n.l != TQ_NONE)
		n.l = copy(to, from, n.l);
	if (n.r != TQ_NONE)
		n.r = copy(to, from, n.r);
	if (n.op == OP_LIT && n.lit.type == TQ_STR)
		n.lit.s = keep(to, n.lit.s);
	if (n.op == OP_FIELD)
		n.field.key = keep(to, n.field.key);
	if (n.op == OP_RE || n.op == OP_NRE)
		n.regex = tq_append_regex(to, tq_regex_share(from->regexes[n.regex]));
	return tq_append(to, &n);
}

/* One more condition that must hold. */
static void add(struct traceql *to, const struct traceql *from, uint16_t node)
{
	uint16_t i = copy(to, from, node);
	if (to->root != TQ_NONE) {
		struct tq_node and = { .op = OP_AND, .type = TQ_BOOL, .l = to->root, .r = i, .line = from->nodes[node].line,
			.column = from->nodes[node].column };
		unsigned l = to->nodes[and.l].depth + tq_needs_parens(to, OP_AND, and.l, false), r = to->nodes[i].depth + tq_needs_parens(to, OP_AND, i, true);
		and.depth = (uint8_t)(l > r ? l : r);
		i = tq_append(to, &and);
	}
	to->root = i;
}

static int split(const struct traceql *q, uint16_t node, struct traceql *site, struct traceql *request, struct err *e)
{
	const struct tq_node *n = q->nodes + node;
	if (n->op == OP_AND) {
		int rc = split(q, n->l, site, request, e);
		return rc < 0 ? rc : split(q, n->r, site, request, e);
	}
	unsigned of = belongs(q, node);
	if (of == (OF_SITE | OF_REQUEST)) {
		err_at(e, KLIEG_E_UNSUPPORTED, n->line, (int)n->column, "`%s` joins what is known of a site with what only a request knows", tq_op_text(n->op));
		return err_hint(e, n->op == OP_OR ? "write two rules, one for each side of the `||`" :
			"and-ed with && the two parts can stand beside each other; otherwise write two rules"), KLIEG_E_UNSUPPORTED;
	}
	add(of == OF_REQUEST ? request : site, q, node);
	return 0;
}

static struct traceql *empty(void)
{
	struct traceql *q = base_calloc(1, sizeof *q);
	strtab_init(&q->strs);
	q->root = TQ_NONE;
	q->stages = base_calloc(1, sizeof *q->stages);
	q->nstages = 1;
	return q;
}

int traceql_split_start(const struct traceql *q, struct traceql **ret_site, struct traceql **ret_request, struct err *e)
{
	int rc = tq_check_start(q, true, e);
	if (rc < 0)
		return rc;
	struct traceql *site = empty(), *request = empty();
	if (q->root != TQ_NONE && (rc = split(q, q->root, site, request, e)) < 0) {
		traceql_destroy(site);
		traceql_destroy(request);
		return rc;
	}
	*ret_site = site;
	if (request->root == TQ_NONE) {
		traceql_destroy(request);
		request = NULL;
	}
	*ret_request = request;
	return 0;
}

/* ---- what follows from what ---------------------------------------------------------------------------------------------- */

static bool same_value(const struct tq_value *a, const struct tq_value *b)
{
	return a->type == b->type && (a->type == TQ_STR ? str_eq(a->s, b->s) : a->type == TQ_FLOAT ? a->d == b->d : a->type == TQ_NIL || a->i == b->i);
}

static bool same_field(const struct tq_field *a, const struct tq_field *b)
{
	return a->scope == b->scope && (a->scope == TQ_INTRINSIC ? a->intrinsic == b->intrinsic : str_eq(a->key, b->key));
}

static bool same(const struct traceql *a, uint16_t i, const struct traceql *b, uint16_t k)
{
	if (i == TQ_NONE || k == TQ_NONE)
		return i == k;
	const struct tq_node *x = a->nodes + i, *y = b->nodes + k;
	if (x->op != y->op)
		return false;
	if (x->op == OP_LIT)
		return same_value(&x->lit, &y->lit);
	if (x->op == OP_FIELD)
		return same_field(&x->field, &y->field);
	return same(a, x->l, b, y->l) && same(a, x->r, b, y->r);
}

/* Some condition that a requires is this one, or fixes its field to a value of which it is true. */
static bool required(const struct traceql *a, uint16_t i, const struct traceql *b, uint16_t k)
{
	const struct tq_node *x = a->nodes + i, *y = b->nodes + k;
	if (x->op == OP_AND)
		return required(a, x->l, b, k) || required(a, x->r, b, k);
	if (same(a, i, b, k))
		return true;
	if (x->op != OP_EQ || y->op < OP_EQ || y->op > OP_NRE)
		return false;
	const struct tq_node *xf = a->nodes + x->l, *xv = a->nodes + x->r, *yf = b->nodes + y->l, *yv = b->nodes + y->r;
	if (xf->op != OP_FIELD || xv->op != OP_LIT || yf->op != OP_FIELD || yv->op != OP_LIT || tq_is_multi(&xf->field) ||
			!same_field(&xf->field, &yf->field))
		return false;
	/* An attribute may be an array, of which a knows one element: enough for all but `!=` and `!~`. */
	bool negated = y->op == OP_NE || y->op == OP_NRE;
	return xv->lit.type != TQ_NIL && yv->lit.type != TQ_NIL && (xf->field.scope == TQ_INTRINSIC || !negated) && tq_compare(b, y, &xv->lit, &yv->lit);
}

static bool implies(const struct traceql *a, const struct traceql *b, uint16_t k)
{
	const struct tq_node *y = b->nodes + k;
	if (y->op == OP_AND)
		return implies(a, b, y->l) && implies(a, b, y->r);
	return required(a, a->root, b, k) || (y->op == OP_OR && (implies(a, b, y->l) || implies(a, b, y->r)));
}

bool traceql_implies(const struct traceql *a, const struct traceql *b)
{
	return b->root == TQ_NONE || (a->root != TQ_NONE && implies(a, b, b->root));
}

#define COMPARISONS_MAX 20000u /* of conditions with each other: then nothing is proven */

/* x fixes a field to a value of which y is false. An attribute may have several values; what is intrinsic, or of the resource of a site, has one. */
static bool fixes_otherwise(const struct traceql *a, const struct tq_node *x, const struct traceql *b, const struct tq_node *y)
{
	if (x->op != OP_EQ || y->op < OP_EQ || y->op > OP_NRE)
		return false;
	const struct tq_node *xf = a->nodes + x->l, *xv = a->nodes + x->r, *yf = b->nodes + y->l, *yv = b->nodes + y->r;
	if (xf->op != OP_FIELD || xv->op != OP_LIT || yf->op != OP_FIELD || yv->op != OP_LIT || tq_is_multi(&xf->field) || !same_field(&xf->field, &yf->field))
		return false;
	return (xf->field.scope == TQ_INTRINSIC || xf->field.scope == TQ_RESOURCE) && xv->lit.type != TQ_NIL && yv->lit.type != TQ_NIL &&
		!tq_compare(b, y, &xv->lit, &yv->lit);
}

static bool excludes(const struct traceql *a, uint16_t i, const struct traceql *b, uint16_t k, uint32_t *left)
{
	const struct tq_node *x = a->nodes + i, *y = b->nodes + k;
	if (x->op == OP_OR)
		return excludes(a, x->l, b, k, left) && excludes(a, x->r, b, k, left);
	if (y->op == OP_OR)
		return excludes(a, i, b, y->l, left) && excludes(a, i, b, y->r, left);
	if (x->op == OP_AND)
		return excludes(a, x->l, b, k, left) || excludes(a, x->r, b, k, left);
	if (y->op == OP_AND)
		return excludes(a, i, b, y->l, left) || excludes(a, i, b, y->r, left);
	return *left && (*left)-- && (fixes_otherwise(a, x, b, y) || fixes_otherwise(b, y, a, x));
}

bool traceql_excludes(const struct traceql *a, const struct traceql *b)
{
	uint32_t left = COMPARISONS_MAX;
	return a->root != TQ_NONE && b->root != TQ_NONE && excludes(a, a->root, b, b->root, &left);
}
