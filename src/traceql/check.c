/* What can be said of a query without running it: the conditions a store may push down, and whether it speaks only of what is known of a
 * site before any span exists. Pure; any thread. */
#include "traceql/ast.h"

enum tq_op tq_mirrored(enum tq_op op)
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
		op = tq_mirrored(op);
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
bool tq_known_of_site(const struct tq_field *f)
{
	static const char *const site_keys[] = { "component", "code.file.path", "code.function.name", "code.line.number", "klieg.site.id",
		"klieg.plugin" };
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
		if (n->op != OP_FIELD || tq_known_of_site(&n->field))
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

/* ---- profiles -------------------------------------------------------------------------------------------------------------- */

static int refuse(const struct tq_field *f, int line, int column, const char *why, const char *hint, struct err *e)
{
	struct buf b = { 0 };
	tq_field_print(f, &b);
	err_at(e, KLIEG_E_TYPE, line, column, "`%.*s` %s", (int)(b.n > 80 ? 80 : b.n), (const char *)b.p, why);
	err_hint(e, "%s", hint);
	buf_finish(&b);
	return KLIEG_E_TYPE;
}

/* sited: also not what is known at the start of a span in general, but of no site of ours. */
int tq_check_start(const struct traceql *q, bool sited, struct err *e)
{
	for (uint16_t i = 0; i < q->n; i++) {
		const struct tq_node *n = q->nodes + i;
		const struct tq_field *f = &n->field;
		if (n->op != OP_FIELD)
			continue;
		int line = (int)n->line, column = (int)n->column;
		if (tq_whole_trace(f) || (f->scope == TQ_INTRINSIC && f->intrinsic == TQ_TRACE_ID))
			return refuse(f, line, column, "is of a whole trace, but this is decided when a span starts",
				"at the start are known: name, kind, resource.*, and the attributes given at the start (.x)", e);
		if (f->scope == TQ_EVENT || f->scope == TQ_LINK || tq_is_multi(f))
			return refuse(f, line, column, "is not known when a span starts", "events and links come later; ask for them in a query, or in `where`", e);
		if (f->scope == TQ_INTRINSIC && f->intrinsic != TQ_NAME && f->intrinsic != TQ_KIND_ && f->intrinsic != TQ_SCOPE_NAME &&
			f->intrinsic != TQ_SCOPE_VERSION)
			return refuse(f, line, column, "is not known when a span starts", f->intrinsic == TQ_DURATION_ || f->intrinsic == TQ_STATUS_ ?
				"to react to slow or failed spans use a trigger: `escalate: { when: '{ ... } | quantile_over_time(duration, .99) > 250ms' }`" :
				"at the start are known: name, kind, resource.*, and the attributes given at the start (.x)", e);
		if (sited && (f->scope == TQ_INSTRUMENTATION || (f->scope == TQ_INTRINSIC && f->intrinsic == TQ_SCOPE_VERSION)))
			return refuse(f, line, column, "is not known of a site", "a site has its component: `instrumentation:name`", e);
	}
	return 0;
}

static bool counted(const struct tq_field *f)
{
	return tq_known_of_site(f) || (f->scope == TQ_INTRINSIC && (f->intrinsic == TQ_DURATION_ || f->intrinsic == TQ_STATUS_));
}

static bool is_wait(const struct tq_field *f) { return (f->scope == TQ_SPAN || f->scope == TQ_ANY) && str_is(f->key, "klieg.queue_nano"); }

bool traceql_metric_waits(const struct tq_metric *m) { return m->fn != TQ_RATE && m->fn != TQ_COUNT && is_wait(&m->field); }

/* A wait is a number to the language, but in a trigger `> 50` would mean nanoseconds, which nobody wants. */
static int check_wait(const struct traceql *q, const struct tq_metric *m, struct err *e)
{
	const struct tq_stage *c = q->stages + 2;
	if (m->baseline_ns || c->value.type == TQ_DURATION)
		return 0;
	err_at(e, KLIEG_E_TYPE, (int)c->line, (int)c->column, "a wait is compared with a duration");
	return err_hint(e, "write the unit: `> 50ms`"), KLIEG_E_TYPE;
}

/* A trigger is decided by each agent alone, from what it counts (calls, errors and durations, by site and service), and from the waits that requests say. */
static int check_trigger(const struct traceql *q, struct err *e)
{
	static const char whole[] = "is of a whole trace, which no agent sees", other[] = "is not counted: triggers look at calls by site, service, status and duration";
	static const char hint[] = "of calls are counted: name, kind, resource.*, .component, .code.*, status, duration";
	struct tq_metric m;
	if (!traceql_metric(q, &m)) {
		err_set(e, KLIEG_E_TYPE, "a trigger is a metrics query with a threshold, but this is a filter");
		return err_hint(e, "add what is measured: `| quantile_over_time(duration, .99) > 250ms`, `| rate() > 100`"), KLIEG_E_TYPE;
	}
	const struct tq_stage *s = q->stages + 1;
	int line = (int)s->line, column = (int)s->column;
	if (!m.compared) {
		err_at(e, KLIEG_E_TYPE, line, column, "a trigger needs a threshold");
		return err_hint(e, s->fn == TQ_HISTOGRAM ? "a histogram has none: use `quantile_over_time(duration, .99) > 250ms`"
			: s->of_field && s->type == TQ_DURATION ? "add `> 250ms` at the end" : "add `> 100` at the end"), KLIEG_E_TYPE;
	}
	for (uint16_t i = 0; i < q->n; i++)
		if (q->nodes[i].op == OP_FIELD && !counted(&q->nodes[i].field))
			return refuse(&q->nodes[i].field, (int)q->nodes[i].line, (int)q->nodes[i].column, tq_whole_trace(&q->nodes[i].field) ? whole : other, hint, e);
	if (s->of_field && !is_wait(&s->field) && !(s->field.scope == TQ_INTRINSIC && s->field.intrinsic == TQ_DURATION_))
		return refuse(&s->field, line, column, tq_whole_trace(&s->field) ? whole : "is not measured by triggers",
			"triggers measure `duration`, `span.klieg.queue_nano` (how long requests waited), `rate()` and `count_over_time()`", e);
	if (s->of_field && is_wait(&s->field) && check_wait(q, &m, e) < 0)
		return KLIEG_E_TYPE;
	for (uint16_t i = 0; i < s->nby; i++) {
		const struct tq_field *f = q->by + s->by + i;
		if (!(f->scope == TQ_RESOURCE && str_is(f->key, "service.name")))
			return refuse(f, line, column, tq_whole_trace(f) ? whole : "does not part what a trigger measures",
				"each service is measured by itself; for other parts write a rule for each, with a condition in its filter", e);
	}
	return 0;
}

int traceql_check_profile(const struct traceql *q, enum tq_profile profile, struct err *e)
{
	struct tq_metric m;
	int rc = 0;
	if (profile == TQ_PROFILE_TRIGGER) {
		rc = check_trigger(q, e);
	} else if (traceql_metric(q, &m)) {
		err_at(e, KLIEG_E_TYPE, (int)q->stages[1].line, (int)q->stages[1].column, "this is a metrics query, but a filter is wanted here");
		rc = (err_hint(e, "leave away what follows the `}`"), KLIEG_E_TYPE);
	} else if (profile == TQ_PROFILE_START) {
		rc = tq_check_start(q, false, e);
	}
	if (rc >= 0 && q->mixed_line) {
		struct buf b = { 0 };
		traceql_print(q, &b);
		err_at(e, KLIEG_E_TYPE, q->mixed_line, q->mixed_column, "&& and || are mixed without parentheses");
		err_hint(e, "write them: as it stands it means %.*s", (int)(b.n > 200 ? 200 : b.n), (const char *)b.p);
		buf_finish(&b);
		rc = KLIEG_E_TYPE;
	}
	return rc;
}
