/* What can be said of a query without running it: the conditions a store may push down, and whether it speaks only of what is known of a
 * site before any span exists. Pure; any thread. */
#include "traceql/ast.h"

/* The other side's operator: `5 < x` is `x > 5`. */
static enum tq_op mirrored(enum tq_op op)
{
	switch (op) {
	case OP_LT: return OP_GT;
	case OP_LE: return OP_GE;
	case OP_GT: return OP_LT;
	case OP_GE: return OP_LE;
	default: return op;
	}
}

static void push_condition(const struct traceql *q, const struct tq_node *n, struct tq_pushdown *p)
{
	const struct tq_node *l = q->nodes + n->l, *r = q->nodes + n->r;
	enum tq_op op = n->op;
	if (l->op == OP_LIT && r->op == OP_FIELD && op >= OP_EQ && op <= OP_GE) {
		const struct tq_node *swap = l;
		l = r;
		r = swap;
		op = mirrored(op);
	}
	if (l->op != OP_FIELD || r->op != OP_LIT)
		return;
	const struct tq_field *f = &l->field;
	if (f->scope == TQ_RESOURCE && op == OP_EQ && r->lit.type == TQ_STR && str_is(f->key, "service.name") && !p->service.n)
		p->service = r->lit.s;
	if (f->scope != TQ_INTRINSIC)
		return;
	if (f->intrinsic == TQ_NAME && op == OP_EQ && r->lit.type == TQ_STR && !p->name.n)
		p->name = r->lit.s;
	if (f->intrinsic == TQ_STATUS_ && op == OP_EQ && r->lit.type == TQ_STATUS && r->lit.i == STATUS_ERROR)
		p->errors_only = true;
	if (f->intrinsic == TQ_TRACE_ID && op == OP_EQ && r->lit.type == TQ_STR && !p->trace_hi && !p->trace_lo)
		trace_id_parse(r->lit.s, &p->trace_hi, &p->trace_lo);
	if (f->intrinsic == TQ_DURATION_ && (r->lit.type == TQ_DURATION || r->lit.type == TQ_INT)) {
		int64_t v = r->lit.i;
		int64_t lo = op == OP_GT ? (v == INT64_MAX ? v : v + 1) : op == OP_GE || op == OP_EQ ? v : 0;
		int64_t hi = op == OP_LT ? (v == INT64_MIN ? v : v - 1) : op == OP_LE || op == OP_EQ ? v : INT64_MAX;
		p->min_duration_ns = lo > p->min_duration_ns ? lo : p->min_duration_ns;
		p->max_duration_ns = hi < p->max_duration_ns ? hi : p->max_duration_ns;
	}
}

static void push(const struct traceql *q, uint16_t node, struct tq_pushdown *p)
{
	const struct tq_node *n = q->nodes + node;
	if (n->op == OP_AND) {
		push(q, n->l, p);
		push(q, n->r, p);
	} else if (n->op >= OP_EQ && n->op <= OP_GE) {
		push_condition(q, n, p);
	}
}

void traceql_pushdown(const struct traceql *q, struct tq_pushdown *ret_p)
{
	*ret_p = (struct tq_pushdown){ .max_duration_ns = INT64_MAX };
	if (q && q->root != TQ_NONE)
		push(q, q->root, ret_p);
}

/* Of a site these attributes are known; with `.` also the resource's, by the namespaces that resources have. */
static bool known_of_site(const struct tq_field *f)
{
	static const char *const site_keys[] = { "component", "code.file.path", "code.function.name", "code.line.number", "klieg.site.id" };
	static const char *const resource_prefixes[] = { "service.", "host.", "process.", "os.", "container.", "k8s.", "deployment.", "cloud.",
		"telemetry.", "device.", "faas.", "webengine." };
	if (f->scope == TQ_INTRINSIC)
		return f->intrinsic == TQ_NAME || f->intrinsic == TQ_KIND_ || f->intrinsic == TQ_SCOPE_NAME;
	if (f->scope == TQ_RESOURCE)
		return true;
	if (f->scope == TQ_ANY || f->scope == TQ_SPAN)
		for (size_t i = 0; i < sizeof site_keys / sizeof *site_keys; i++)
			if (str_is(f->key, site_keys[i]))
				return true;
	if (f->scope == TQ_ANY)
		for (size_t i = 0; i < sizeof resource_prefixes / sizeof *resource_prefixes; i++) {
			size_t n = strlen(resource_prefixes[i]);
			if (f->key.n > n && !memcmp(f->key.p, resource_prefixes[i], n))
				return true;
		}
	return false;
}

int traceql_check_site(const struct traceql *q, struct err *e)
{
	for (uint16_t i = 0; i < q->n; i++) {
		const struct tq_node *n = q->nodes + i;
		if (n->op != OP_FIELD || known_of_site(&n->field))
			continue;
		struct buf b = { 0 };
		tq_field_print(&n->field, &b);
		int shown = (int)(b.n > 80 ? 80 : b.n);
		err_at(e, KLIEG_E_TYPE, (int)n->line, (int)n->column, "`%.*s` is not known of a site before it runs", shown, (const char *)b.p);
		if (n->field.scope == TQ_ANY)
			err_hint(e, "a condition on spans goes into --where; if it is the resource's, write resource%.*s", shown, (const char *)b.p);
		else
			err_hint(e, "a condition on spans goes into --where '{ ... }'; sites have name, kind, resource.*, .component, .code.*");
		buf_finish(&b);
		return KLIEG_E_TYPE;
	}
	return 0;
}
