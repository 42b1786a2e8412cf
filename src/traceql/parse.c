/* Tokens -> checked nodes: precedence climbing over one spanset filter. What the language has beyond that (pipelines, structural operators,
 * aggregates, metrics) is recognised and refused by its name. Static types are checked here: a comparison that can never be true for
 * any span (`status = "error"`) is an error, not an empty result. Depth and node counts are limited before anything recurses. */
#include "traceql/parse.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

/* Loosest to tightest; && and || share a level (as in Tempo): `a || b && c` is `(a || b) && c`. */
enum { PREC_LOGIC = 1, PREC_COMPARE, PREC_ADD, PREC_NOT, PREC_MUL, PREC_POW, PREC_PRIMARY };

int tq_prec(enum tq_op op)
{
	switch (op) {
	case OP_AND: case OP_OR: return PREC_LOGIC;
	case OP_EQ: case OP_NE: case OP_LT: case OP_LE: case OP_GT: case OP_GE: case OP_RE: case OP_NRE: return PREC_COMPARE;
	case OP_ADD: case OP_SUB: case OP_NEG: return PREC_ADD;
	case OP_NOT: return PREC_NOT;
	case OP_MUL: case OP_DIV: case OP_MOD: return PREC_MUL;
	case OP_POW: return PREC_POW;
	default: return PREC_PRIMARY;
	}
}

/* What the canonical text puts in parentheses. Mixed && and || always, for the reader's sake. */
bool tq_needs_parens(const struct traceql *q, enum tq_op parent, uint16_t child, bool right)
{
	const struct tq_node *c = q->nodes + child;
	bool negative = c->op == OP_LIT && ((c->lit.type == TQ_FLOAT && signbit(c->lit.d)) ||
		((c->lit.type == TQ_INT || c->lit.type == TQ_DURATION) && c->lit.i < 0));
	int have = negative ? PREC_ADD : tq_prec(c->op), want = tq_prec(parent);
	if (parent == OP_NOT)
		return have < want;
	if (parent == OP_NEG)
		return have <= want || c->op == OP_LIT;
	if (want == PREC_LOGIC && have == PREC_LOGIC && c->op != parent)
		return true;
	bool tighter = parent == OP_POW ? !right : right;
	return tighter ? have <= want : have < want;
}

static int op_of(const struct tq_token *t)
{
	switch (t->kind) {
	case TOK_AND: return OP_AND;
	case TOK_OR: return OP_OR;
	case TOK_EQ: return OP_EQ;
	case TOK_NE: return OP_NE;
	case TOK_LT: return OP_LT;
	case TOK_LE: return OP_LE;
	case TOK_GT: return OP_GT;
	case TOK_GE: return OP_GE;
	case TOK_RE: return OP_RE;
	case TOK_NRE: return OP_NRE;
	case TOK_ADD: return OP_ADD;
	case TOK_SUB: return OP_SUB;
	case TOK_MUL: return OP_MUL;
	case TOK_DIV: return OP_DIV;
	case TOK_MOD: return OP_MOD;
	case TOK_POW: return OP_POW;
	default: return -1;
	}
}

const char *tq_type_name(unsigned type)
{
	switch (type) {
	case TQ_NIL: return "nil";
	case TQ_STR: return "a text";
	case TQ_INT: case TQ_FLOAT: return "a number";
	case TQ_DURATION: return "a duration";
	case TQ_BOOL: return "true or false";
	case TQ_STATUS: return "a status";
	case TQ_KIND: return "a kind";
	}
	return "a value";
}

static bool numeric(unsigned type) { return tq_is_number(type); }

uint16_t tq_append(struct traceql *q, const struct tq_node *n)
{
	if ((q->n & (q->n - 1)) == 0)
		q->nodes = base_realloc(q->nodes, (q->n ? q->n * 2u : 1u) * sizeof *q->nodes);
	q->nodes[q->n] = *n;
	return q->n++;
}

uint16_t tq_append_regex(struct traceql *q, struct tq_regex *r)
{
	q->regexes = base_realloc(q->regexes, (q->regexes_n + 1u) * sizeof *q->regexes);
	q->regexes[q->regexes_n] = r;
	return q->regexes_n++;
}

static int add_node(struct tq_parser *p, const struct tq_token *at, struct tq_node n, uint16_t *ret_i)
{
	struct traceql *q = p->q;
	if (q->n == TQ_NODES_MAX)
		return FAIL(p, at, KLIEG_E_LIMIT, "the query is too complex: more than %u parts", TQ_NODES_MAX);
	if (n.op != OP_LIT && n.op != OP_FIELD) {
		unsigned depth = q->nodes[n.l].depth + (n.op == OP_NOT || n.op == OP_NEG) + tq_needs_parens(q, n.op, n.l, false); /* `-(-1)`: both */
		if (n.r != TQ_NONE) {
			unsigned right = q->nodes[n.r].depth + (n.op == OP_POW) + tq_needs_parens(q, n.op, n.r, true);
			depth = right > depth ? right : depth;
		}
		if (depth > TQ_DEPTH_MAX - 1)
			return FAIL(p, at, KLIEG_E_LIMIT, "the query is nested deeper than %u levels", TQ_DEPTH_MAX);
		n.depth = (uint8_t)depth;
	}
	n.line = (uint16_t)(at->line > UINT16_MAX ? UINT16_MAX : at->line);
	n.column = (uint32_t)at->column;
	*ret_i = tq_append(q, &n);
	return 0;
}

/* ---- checking ------------------------------------------------------------------------------------------------------ */

static int check_logic(struct tq_parser *p, const struct tq_token *op, uint16_t side)
{
	unsigned type = p->q->nodes[side].type;
	if (type == TQ_BOOL || type == TQ_UNKNOWN)
		return 0;
	FAIL(p, op, KLIEG_E_TYPE, "`%.*s` needs conditions, but there is %s beside it", SHOW(op->text), tq_type_name(type));
	return err_hint(p->lex.e, "compare it: `name = \"x\"`, `duration > 100ms`"), KLIEG_E_TYPE;
}

/* `trace:id = "ABC"`: the literal becomes the full lower-case id, which is what spans have. */
static int normalise_id(struct tq_parser *p, const struct tq_token *op, const struct tq_field *f, struct tq_node *lit)
{
	char hex[33];
	uint64_t hi, lo;
	bool trace = f->intrinsic == TQ_TRACE_ID || f->intrinsic == TQ_LINK_TRACE_ID;
	bool span = f->intrinsic == TQ_SPAN_ID || f->intrinsic == TQ_PARENT_ID || f->intrinsic == TQ_LINK_SPAN_ID;
	if (f->scope != TQ_INTRINSIC || !(trace || span) || lit->lit.type != TQ_STR)
		return 0;
	if (trace ? trace_id_parse(lit->lit.s, &hi, &lo) < 0 : span_id_parse(lit->lit.s, &lo) < 0)
		return FAIL(p, op, KLIEG_E_TYPE, "\"%.*s\" is not %s id (up to %d hex digits)", SHOW(lit->lit.s), trace ? "a trace" : "a span", trace ? 32 : 16);
	if (trace)
		trace_id_hex(hi, lo, hex);
	else
		span_id_hex(lo, hex);
	lit->lit.s = strtab_get(&p->q->strs, strtab_add(&p->q->strs, str_of(hex)));
	return 0;
}

static int check_compare(struct tq_parser *p, const struct tq_token *op, struct tq_node *n)
{
	struct tq_node *l = p->q->nodes + n->l, *r = p->q->nodes + n->r;
	if (n->op == OP_RE || n->op == OP_NRE) {
		if (r->op != OP_LIT || r->type != TQ_STR)
			return FAIL(p, op, KLIEG_E_TYPE, "the right side of `%s` must be a regular expression in quotes", tq_op_text(n->op));
		if (l->type != TQ_STR && l->type != TQ_UNKNOWN)
			return FAIL(p, op, KLIEG_E_TYPE, "`%s` compares texts, but its left side is %s", tq_op_text(n->op), tq_type_name(l->type));
		struct tq_regex *re;
		int rc = tq_regex_compile(r->lit.s, &re, p->lex.e, (int)r->line, (int)r->column);
		if (rc < 0)
			return rc;
		n->regex = tq_append_regex(p->q, re);
		if (traceql_size(p->q) > TQ_REGEXES_SIZE_MAX) {
			err_at(p->lex.e, KLIEG_E_LIMIT, (int)r->line, (int)r->column, "the regular expressions of this query are too big");
			return err_hint(p->lex.e, "{1,50} stands for fifty copies: use + or * instead"), KLIEG_E_LIMIT;
		}
		return 0;
	}
	if (n->op == OP_EQ || n->op == OP_NE) {
		int rc = 0;
		if (l->op == OP_FIELD && r->op == OP_LIT)
			rc = normalise_id(p, op, &l->field, r);
		else if (r->op == OP_FIELD && l->op == OP_LIT)
			rc = normalise_id(p, op, &r->field, l);
		if (rc < 0)
			return rc;
	}
	bool ordered = n->op != OP_EQ && n->op != OP_NE;
	unsigned a = l->type, b = r->type;
	if (ordered)
		for (int i = 0; i < 2; i++) {
			unsigned t = i ? b : a;
			if (t == TQ_NIL || t == TQ_BOOL || t == TQ_STATUS || t == TQ_KIND)
				return FAIL(p, op, KLIEG_E_TYPE, "%s has no order: use = or !=", tq_type_name(t));
		}
	if (a == TQ_UNKNOWN || b == TQ_UNKNOWN || a == TQ_NIL || b == TQ_NIL || a == b || (numeric(a) && numeric(b)))
		return 0;
	FAIL(p, op, KLIEG_E_TYPE, "this can never be true: the left side is %s, the right side %s", tq_type_name(a), tq_type_name(b));
	if ((a == TQ_STATUS && b == TQ_STR) || (a == TQ_KIND && b == TQ_STR))
		err_hint(p->lex.e, a == TQ_STATUS ? "write it without quotes: ok, error or unset"
			: "write it without quotes: unspecified, internal, server, client, producer or consumer");
	else if (numeric(a) && b == TQ_STR)
		err_hint(p->lex.e, a == TQ_DURATION ? "durations are written without quotes: 250ms" : "numbers are written without quotes");
	return KLIEG_E_TYPE;
}

static int check_number(struct tq_parser *p, const struct tq_token *op, uint16_t side)
{
	unsigned type = p->q->nodes[side].type;
	if (numeric(type) || type == TQ_UNKNOWN)
		return 0;
	return FAIL(p, op, KLIEG_E_TYPE, "`%.*s` needs numbers, but there is %s beside it", SHOW(op->text), tq_type_name(type));
}

static int make_binary(struct tq_parser *p, const struct tq_token *op, uint16_t l, uint16_t r, uint16_t *ret_i)
{
	struct tq_node n = { .op = (uint8_t)op_of(op), .l = l, .r = r, .type = TQ_BOOL };
	int rc;
	switch (tq_prec(n.op)) {
	case PREC_LOGIC:
		if ((rc = check_logic(p, op, l)) < 0 || (rc = check_logic(p, op, r)) < 0)
			return rc;
		break;
	case PREC_COMPARE:
		if ((rc = check_compare(p, op, &n)) < 0)
			return rc;
		break;
	default:
		n.type = TQ_FLOAT; /* or an integer: checks treat them alike */
		if ((rc = check_number(p, op, l)) < 0 || (rc = check_number(p, op, r)) < 0)
			return rc;
		if (p->q->nodes[l].type == TQ_DURATION || p->q->nodes[r].type == TQ_DURATION)
			n.type = TQ_DURATION;
	}
	return add_node(p, op, n, ret_i);
}

/* ---- expressions ---------------------------------------------------------------------------------------------------- */

static int parse_expr(struct tq_parser *p, int min, uint16_t *ret_i);

static int unexpected(struct tq_parser *p)
{
	switch (p->t.kind) {
	case TOK_WORD:
		return KLIEG_E_SYNTAX; /* the lexer has filled the error */
	case TOK_END:
		FAIL(p, &p->t, KLIEG_E_SYNTAX, "the text ends where a value was expected");
		return err_hint(p->lex.e, "is a `}` or the right side of an operator missing?"), KLIEG_E_SYNTAX;
	case TOK_RBRACE:
		return FAIL(p, &p->t, KLIEG_E_SYNTAX, "a value was expected before `}`");
	case TOK_STRUCTURAL:
		FAIL(p, &p->t, KLIEG_E_SYNTAX, "`%.*s` does not compare values", SHOW(p->t.text));
		return err_hint(p->lex.e, "it relates spansets: `{ ... } %.*s { ... }`", SHOW(p->t.text)), KLIEG_E_SYNTAX;
	default:
		return FAIL(p, &p->t, KLIEG_E_SYNTAX, "a value was expected, not `%.*s`", SHOW(p->t.text));
	}
}

static int parse_prefix(struct tq_parser *p, const struct tq_token *op, uint16_t *ret_i)
{
	uint16_t inner;
	bool neg = op->kind == TOK_SUB;
	bool bare = p->t.kind == TOK_LITERAL;
	int rc = parse_expr(p, neg ? PREC_ADD + 1 : PREC_NOT + 1, &inner);
	if (rc < 0)
		return rc;
	struct tq_node *n = p->q->nodes + inner;
	if (neg && bare && n->op == OP_LIT && numeric(n->type)) { /* `-5` is a number, not an operation */
		if (n->type == TQ_FLOAT)
			n->lit.d = -n->lit.d;
		else
			n->lit.i = -n->lit.i;
		*ret_i = inner;
		return 0;
	}
	rc = neg ? check_number(p, op, inner) : check_logic(p, op, inner);
	if (rc < 0)
		return rc;
	struct tq_node made = { .op = neg ? OP_NEG : OP_NOT, .l = inner, .r = TQ_NONE, .type = !neg ? TQ_BOOL : n->type == TQ_UNKNOWN ? TQ_FLOAT : n->type };
	return add_node(p, op, made, ret_i);
}

static int parse_primary(struct tq_parser *p, uint16_t *ret_i)
{
	struct tq_token t = p->t;
	int rc;
	if (t.kind == TOK_LITERAL || t.kind == TOK_FIELD) {
		struct tq_node n = { .l = TQ_NONE, .r = TQ_NONE, .lit = t.lit, .field = t.field };
		n.op = t.kind == TOK_LITERAL ? OP_LIT : OP_FIELD;
		n.type = (uint8_t)(t.kind == TOK_LITERAL ? (uint8_t)t.lit.type : t.type);
		p->q->needs_trace |= n.op == OP_FIELD && tq_whole_trace(&n.field);
		rc = add_node(p, &t, n, ret_i);
		return rc < 0 ? rc : tq_next(p);
	}
	if (t.kind != TOK_LPAREN && t.kind != TOK_NOT && t.kind != TOK_SUB)
		return unexpected(p);
	if (++p->depth > TQ_DEPTH_MAX)
		return FAIL(p, &t, KLIEG_E_LIMIT, "the query is nested deeper than %u levels", TQ_DEPTH_MAX);
	if ((rc = tq_next(p)) < 0)
		return rc;
	if (t.kind != TOK_LPAREN) {
		rc = parse_prefix(p, &t, ret_i);
	} else {
		rc = parse_expr(p, PREC_LOGIC, ret_i);
		if (rc >= 0 && p->t.kind != TOK_RPAREN) {
			if (p->t.kind == TOK_WORD)
				return KLIEG_E_SYNTAX;
			if (p->t.kind == TOK_END || p->t.kind == TOK_RBRACE)
				return FAIL(p, &t, KLIEG_E_SYNTAX, "this `(` is not closed");
			return FAIL(p, &p->t, KLIEG_E_SYNTAX, "an operator or `)` was expected, not `%.*s`", SHOW(p->t.text));
		}
		if (rc >= 0)
			rc = tq_next(p);
	}
	p->depth--;
	return rc;
}

static int parse_expr(struct tq_parser *p, int min, uint16_t *ret_i)
{
	uint16_t l, r;
	int rc = parse_primary(p, &l), before = -1;
	if (rc < 0)
		return rc;
	for (int op; (op = op_of(&p->t)) >= 0 && tq_prec(op) >= min;) {
		struct tq_token t = p->t;
		if (tq_prec(op) == PREC_LOGIC) {
			if (before >= 0 && before != op && !p->q->mixed_line) {
				p->q->mixed_line = t.line;
				p->q->mixed_column = t.column;
			}
			before = op;
		}
		if ((rc = tq_next(p)) < 0)
			return rc;
		if (op == OP_POW && ++p->depth > TQ_DEPTH_MAX)
			return FAIL(p, &t, KLIEG_E_LIMIT, "the query is nested deeper than %u levels", TQ_DEPTH_MAX);
		rc = parse_expr(p, tq_prec(op) + (op != OP_POW), &r);
		p->depth -= op == OP_POW;
		if (rc < 0 || (rc = make_binary(p, &t, l, r, &l)) < 0)
			return rc;
	}
	*ret_i = l;
	return 0;
}

/* ---- what surrounds the filter --------------------------------------------------------------------------------------- */

int tq_unsupported(struct tq_parser *p, const struct tq_token *at, const char *what)
{
	FAIL(p, at, KLIEG_E_UNSUPPORTED, "%s are not supported yet (`%.*s`)", what, SHOW(at->text));
	return err_hint(p->lex.e, p->metrics ? "this version takes one filter and one metric: `{ condition } | rate() by(.x) > 5`"
		: "this version takes one filter: `{ condition && condition }`"), KLIEG_E_UNSUPPORTED;
}

static bool is_one_of(struct str s, const char *list)
{
	for (const char *p = list; *p;) {
		size_t n = strcspn(p, " ");
		if (s.n == n && !memcmp(s.p, p, n))
			return true;
		p += n + (p[n] == ' ');
	}
	return false;
}

/* A stage after `|`, or a query that starts like one. NULL if it is no word of the language. */
const char *tq_stage_name(struct str w)
{
	if (is_one_of(w, "count min max avg sum"))
		return "aggregates";
	if (is_one_of(w, "by coalesce"))
		return "grouping stages";
	if (is_one_of(w, "select"))
		return "select stages";
	if (tq_metric_fn_of(w) >= 0)
		return "metrics without a filter before them";
	if (is_one_of(w, "compare topk bottomk"))
		return "comparisons and rankings of metrics";
	return is_one_of(w, "with") ? "query hints" : NULL;
}

static int check_end(struct tq_parser *p, unsigned parens)
{
	struct tq_token t = p->t;
	const char *what;
	int rc;
	switch (t.kind) {
	case TOK_END:
		if (!p->metrics || parens)
			return 0;
		FAIL(p, &t, KLIEG_E_TYPE, "this is a filter, but a metrics query is wanted here");
		return err_hint(p->lex.e, "add what is measured: `| quantile_over_time(duration, .99) > 250ms`, `| rate() > 100`"), KLIEG_E_TYPE;
	case TOK_AND: case TOK_OR:
		FAIL(p, &t, KLIEG_E_UNSUPPORTED, "combinations of spansets are not supported yet (`%.*s`)", SHOW(t.text));
		return err_hint(p->lex.e, "about one span: put both conditions into one pair of braces, `{ a %.*s b }`", SHOW(t.text)), KLIEG_E_UNSUPPORTED;
	case TOK_STRUCTURAL: case TOK_GT: case TOK_LT: case TOK_NRE:
		return tq_unsupported(p, &t, "structural operators");
	case TOK_PIPE:
		if ((rc = tq_next(p)) < 0)
			return rc;
		if (p->t.kind == TOK_WORD && tq_metric_fn_of(p->t.text) >= 0 && !parens)
			return tq_parse_metric(p);
		if (p->t.kind == TOK_WORD && tq_metric_fn_of(p->t.text) >= 0)
			return tq_unsupported(p, &p->t, "metrics in parentheses");
		if (p->t.kind == TOK_WORD && (what = tq_stage_name(p->t.text)))
			return tq_unsupported(p, &p->t, what);
		if (p->t.kind == TOK_LBRACE || p->t.kind == TOK_LPAREN || p->t.kind == TOK_LITERAL)
			return tq_unsupported(p, &t, "pipelines");
		if (p->t.kind == TOK_WORD)
			FAIL(p, &p->t, KLIEG_E_SYNTAX, "unknown stage `%.*s` after `|`", SHOW(p->t.text));
		else
			FAIL(p, &p->t, KLIEG_E_SYNTAX, "a stage was expected after `|`");
		if (p->metrics)
			err_hint(p->lex.e, "the metrics are rate, count_over_time, min_over_time, max_over_time, avg_over_time, sum_over_time, "
				"histogram_over_time, quantile_over_time");
		return p->lex.e->code;
	case TOK_WORD:
		if ((what = tq_stage_name(t.text)))
			return tq_unsupported(p, &t, what);
		break;
	case TOK_RBRACE:
		return FAIL(p, &t, KLIEG_E_SYNTAX, "this `}` closes nothing");
	case TOK_RPAREN:
		return FAIL(p, &t, KLIEG_E_SYNTAX, "this `)` closes nothing");
	case TOK_ADD: case TOK_SUB: case TOK_MUL: case TOK_DIV: case TOK_MOD: case TOK_POW:
		return tq_unsupported(p, &t, "operations on query results");
	default:
		break;
	}
	return FAIL(p, &t, KLIEG_E_SYNTAX, "unexpected `%.*s` after the filter", SHOW(t.text));
}

static int parse_root(struct tq_parser *p)
{
	struct tq_token open;
	unsigned parens = 0;
	int rc = tq_next(p);
	for (; rc >= 0 && p->t.kind == TOK_LPAREN; parens++) {
		if (parens == TQ_DEPTH_MAX)
			return FAIL(p, &p->t, KLIEG_E_LIMIT, "the query is nested deeper than %u levels", TQ_DEPTH_MAX);
		rc = tq_next(p);
	}
	if (rc < 0)
		return rc;
	open = p->t;
	if (open.kind != TOK_LBRACE) {
		const char *what = open.kind == TOK_WORD ? tq_stage_name(open.text) : NULL;
		if (what)
			return tq_unsupported(p, &open, what);
		if (open.kind == TOK_END)
			FAIL(p, &open, KLIEG_E_SYNTAX, "the query is empty");
		else
			FAIL(p, &open, KLIEG_E_SYNTAX, "a query starts with `{`, not with `%.*s`", SHOW(open.text));
		return err_hint(p->lex.e, "put the condition in braces: `{ name = \"x\" }`; `{ }` is all spans"), KLIEG_E_SYNTAX;
	}
	if ((rc = tq_next(p)) < 0)
		return rc;
	p->q->root = TQ_NONE;
	tq_add_stage(p, &open, &(struct tq_stage){ .kind = STAGE_FILTER });
	if (p->t.kind != TOK_RBRACE) {
		if (p->t.kind == TOK_END)
			return FAIL(p, &open, KLIEG_E_SYNTAX, "this `{` is not closed");
		uint16_t root;
		if ((rc = parse_expr(p, PREC_LOGIC, &root)) < 0)
			return rc;
		if (p->t.kind == TOK_WORD)
			return KLIEG_E_SYNTAX;
		if (p->t.kind == TOK_END) {
			FAIL(p, &open, KLIEG_E_SYNTAX, "this `{` is not closed");
			return err_hint(p->lex.e, "add `}` at the end"), KLIEG_E_SYNTAX;
		}
		if (p->t.kind == TOK_PIPE) {
			FAIL(p, &p->t, KLIEG_E_SYNTAX, "`|` does not stand between conditions");
			return err_hint(p->lex.e, "write `||` for or; stages come after the `}`"), KLIEG_E_SYNTAX;
		}
		if (p->t.kind == TOK_STRUCTURAL)
			return unexpected(p);
		if (p->t.kind == TOK_RPAREN)
			return FAIL(p, &p->t, KLIEG_E_SYNTAX, "this `)` closes nothing");
		if (p->t.kind != TOK_RBRACE)
			return FAIL(p, &p->t, KLIEG_E_SYNTAX, "an operator or `}` was expected, not `%.*s`", SHOW(p->t.text));
		const struct tq_node *n = p->q->nodes + root;
		if (n->type != TQ_BOOL && n->type != TQ_UNKNOWN) {
			err_at(p->lex.e, KLIEG_E_TYPE, (int)n->line, (int)n->column, "a filter is a condition, but this is %s", tq_type_name(n->type));
			return err_hint(p->lex.e, "compare it: `name = \"x\"`, `duration > 100ms`"), KLIEG_E_TYPE;
		}
		p->q->root = root;
	}
	if ((rc = tq_next(p)) < 0)
		return rc;
	for (; parens && p->t.kind == TOK_RPAREN; parens--)
		if ((rc = tq_next(p)) < 0)
			return rc;
	if ((rc = check_end(p, parens)) < 0)
		return rc;
	if (parens)
		return FAIL(p, &p->t, KLIEG_E_SYNTAX, "`)` is missing at the end");
	return 0;
}

static int parse(struct str text, bool metrics, struct traceql **ret_q, struct err *e)
{
	struct err scratch;
	e = e ? e : &scratch;
	if (text.n > TQ_TEXT_MAX)
		return err_set(e, KLIEG_E_LIMIT, "the query is longer than %u bytes", TQ_TEXT_MAX);
	if (!str_utf8_valid(text))
		return err_set(e, KLIEG_E_SYNTAX, "the query is not valid UTF-8");
	struct traceql *q = base_calloc(1, sizeof *q);
	strtab_init(&q->strs);
	struct tq_parser p = { .lex = { .text = text, .line = 1, .strs = &q->strs, .e = e }, .q = q, .metrics = metrics };
	int rc = parse_root(&p);
	if (rc < 0) {
		traceql_destroy(q);
		return rc;
	}
	if (e != &scratch)
		*e = (struct err){ 0 }; /* the lexer fills it in advance for words */
	*ret_q = q;
	return 0;
}

int traceql_parse(struct str text, struct traceql **ret_q, struct err *e) { return parse(text, false, ret_q, e); }
int traceql_parse_metric(struct str text, struct traceql **ret_q, struct err *e) { return parse(text, true, ret_q, e); }

size_t traceql_size(const struct traceql *q)
{
	size_t n = 0;
	for (uint16_t i = 0; i < q->regexes_n; i++)
		n += tq_regex_size(q->regexes[i]);
	return n;
}

void traceql_destroy(struct traceql *q)
{
	if (!q)
		return;
	for (uint16_t i = 0; i < q->regexes_n; i++)
		tq_regex_free(q->regexes[i]);
	free(q->regexes);
	free(q->nodes);
	free(q->stages);
	free(q->by);
	strtab_finish(&q->strs);
	free(q);
}

/* ---- selectors --------------------------------------------------------------------------------------------------------- */

/* ` field = "text"`, or a regular expression if the glob has wildcards; nothing for `*`. */
static void add_glob(struct buf *b, const char *field, struct str glob)
{
	bool wild = false, all = true;
	for (size_t i = 0; i < glob.n; i++) {
		wild |= glob.p[i] == '*' || glob.p[i] == '?';
		all &= glob.p[i] == '*';
	}
	if (all)
		return;
	if (b->n > 1)
		buf_add_str(b, " &&");
	buf_printf(b, " %s %s \"", field, wild ? "=~" : "=");
	for (size_t i = 0; i < glob.n; i++) {
		char c = glob.p[i];
		if (wild && c == '*')
			buf_add_str(b, ".*");
		else if (wild && c == '?')
			buf_add_str(b, ".");
		else if (wild && strchr("\\^$.[]|()+{}", c))
			buf_printf(b, c == '\\' ? "\\\\\\\\" : "\\\\%c", c);
		else if (c == '"' || c == '\\')
			buf_printf(b, "\\%c", c);
		else if ((unsigned char)c < 0x20 || c == 0x7f)
			buf_printf(b, "\\x%02x", (unsigned char)c);
		else
			buf_byte(b, (uint8_t)c);
	}
	buf_byte(b, '"');
}

int traceql_parse_selector(struct str text, struct traceql **ret_q, struct err *e)
{
	while (text.n && strchr(" \t\r\n", text.p[0]) && text.p[0])
		text.p++, text.n--;
	while (text.n && strchr(" \t\r\n", text.p[text.n - 1]) && text.p[text.n - 1])
		text.n--;
	if (text.n && (text.p[0] == '{' || text.p[0] == '('))
		return traceql_parse(text, ret_q, e);
	if (text.n > 1024)
		return err_set(e, KLIEG_E_LIMIT, "the selector is longer than 1024 bytes");
	size_t colon = str_service_colon(text);
	struct buf b = { 0 };
	buf_byte(&b, '{');
	if (colon < text.n) {
		add_glob(&b, "resource.service.name", (struct str){ text.p, colon });
		add_glob(&b, "name", (struct str){ text.p + colon + 1, text.n - colon - 1 });
	} else {
		add_glob(&b, "name", text);
	}
	buf_add_str(&b, " }");
	int rc = traceql_parse(buf_str(&b), ret_q, e);
	if (rc < 0 && e)
		e->line = e->column = 0; /* they would point into the translation */
	buf_finish(&b);
	return rc;
}
