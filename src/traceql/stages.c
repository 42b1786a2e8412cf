/* What follows the filter: `| metric(...) by(...) > number with(...)`. Tokens -> checked stages, stages -> canonical text, and the metric as those see it who
 * measure. What can never be compared (a duration with a bare number, a histogram with anything) is an error here. Pure; any thread. */
#include "traceql/parse.h"

#define BASELINE_MIN_NS 10000000000ll
#define BASELINE_MAX_NS 86400000000000ll

static const char *const metric_fns[] = { [TQ_RATE] = "rate", [TQ_COUNT] = "count_over_time", [TQ_MIN] = "min_over_time", [TQ_MAX] = "max_over_time",
	[TQ_AVG] = "avg_over_time", [TQ_SUM] = "sum_over_time", [TQ_HISTOGRAM] = "histogram_over_time", [TQ_QUANTILE] = "quantile_over_time", NULL };

int tq_metric_fn_of(struct str word)
{
	for (int i = 0; metric_fns[i]; i++)
		if (str_is(word, metric_fns[i]))
			return i;
	return -1;
}

bool tq_whole_trace(const struct tq_field *f)
{
	return f->scope == TQ_INTRINSIC && (f->intrinsic == TQ_CHILD_COUNT || f->intrinsic == TQ_TRACE_DURATION || f->intrinsic == TQ_ROOT_NAME ||
		f->intrinsic == TQ_ROOT_SERVICE);
}

void tq_add_stage(struct tq_parser *p, const struct tq_token *at, const struct tq_stage *s)
{
	struct traceql *q = p->q;
	if (!q->stages)
		q->stages = base_calloc(TQ_STAGES_MAX, sizeof *q->stages);
	if (q->nstages == TQ_STAGES_MAX) /* the grammar has no more today */
		return;
	q->stages[q->nstages] = *s;
	q->stages[q->nstages].line = (uint16_t)(at->line > UINT16_MAX ? UINT16_MAX : at->line);
	q->stages[q->nstages++].column = (uint32_t)at->column;
}

static int expect(struct tq_parser *p, enum tq_tok kind, const char *what)
{
	if (p->t.kind == kind)
		return tq_next(p);
	if (p->t.kind == TOK_END)
		return FAIL(p, &p->t, KLIEG_E_SYNTAX, "the text ends where %s was expected", what);
	return FAIL(p, &p->t, KLIEG_E_SYNTAX, "%s was expected, not `%.*s`", what, SHOW(p->t.text));
}

/* What is measured or grouped by: one value per span. */
static int parse_field(struct tq_parser *p, const char *of, struct tq_field *ret_f, uint8_t *ret_type)
{
	struct tq_token t = p->t;
	if (t.kind == TOK_WORD)
		return KLIEG_E_SYNTAX; /* the lexer has filled the error */
	if (t.kind != TOK_FIELD) {
		if (t.kind == TOK_END)
			FAIL(p, &t, KLIEG_E_SYNTAX, "the text ends where an attribute was expected");
		else
			FAIL(p, &t, KLIEG_E_SYNTAX, "`%s` needs an attribute here, not `%.*s`", of, SHOW(t.text));
		return err_hint(p->lex.e, "`duration`, `.http.response.body.size`, `resource.service.name`"), KLIEG_E_SYNTAX;
	}
	if (tq_is_multi(&t.field)) {
		FAIL(p, &t, KLIEG_E_UNSUPPORTED, "metrics of events and links are not supported yet (`%.*s`)", SHOW(t.text));
		return err_hint(p->lex.e, "a condition on them can stand in the filter: `{ event:name = \"x\" } | rate()`"), KLIEG_E_UNSUPPORTED;
	}
	*ret_f = t.field;
	*ret_type = t.type;
	p->q->needs_trace |= tq_whole_trace(&t.field);
	return tq_next(p);
}

static int parse_quantile(struct tq_parser *p, struct tq_stage *s)
{
	struct tq_token t = p->t;
	int rc = expect(p, TOK_COMMA, "`, quantile`");
	if (rc < 0)
		return err_hint(p->lex.e, "the quantile comes second: `quantile_over_time(duration, .99)`"), rc;
	t = p->t;
	double v = t.kind != TOK_LITERAL ? -1 : t.lit.type == TQ_FLOAT ? t.lit.d : t.lit.type == TQ_INT ? (double)t.lit.i : -1;
	if (!(v >= 0 && v <= 1)) {
		FAIL(p, &t, KLIEG_E_TYPE, "a quantile is a number between 0 and 1");
		return err_hint(p->lex.e, "the 99th percentile is .99"), KLIEG_E_TYPE;
	}
	s->value = (struct tq_value){ .type = TQ_FLOAT, .d = v };
	if ((rc = tq_next(p)) < 0)
		return rc;
	return p->t.kind == TOK_COMMA ? tq_unsupported(p, &p->t, "several quantiles at once") : 0;
}

static int parse_by(struct tq_parser *p, struct tq_stage *s)
{
	struct traceql *q = p->q;
	uint8_t type;
	int rc = tq_next(p);
	if (rc < 0 || (rc = expect(p, TOK_LPAREN, "`(`")) < 0)
		return rc;
	q->by = base_calloc(TQ_BY_MAX, sizeof *q->by);
	s->by = q->nby;
	do {
		if (q->nby && (rc = tq_next(p)) < 0)
			return rc;
		if (q->nby == TQ_BY_MAX)
			return FAIL(p, &p->t, KLIEG_E_LIMIT, "`by` takes at most %u attributes", TQ_BY_MAX);
		if ((rc = parse_field(p, "by", q->by + q->nby, &type)) < 0)
			return rc;
		q->nby++;
	} while (p->t.kind == TOK_COMMA);
	s->nby = (uint16_t)(q->nby - s->by);
	return expect(p, TOK_RPAREN, "`)`");
}

/* ratio: of the value to its baseline. */
static int check_threshold(struct tq_parser *p, const struct tq_token *at, const struct tq_stage *m, const struct tq_value *v, bool ratio)
{
	bool duration = m->of_field && m->type == TQ_DURATION;
	if (m->fn == TQ_HISTOGRAM) {
		FAIL(p, at, KLIEG_E_TYPE, "a histogram is many numbers: it cannot be compared with one");
		return err_hint(p->lex.e, "compare a quantile: `quantile_over_time(duration, .99) > 250ms`"), KLIEG_E_TYPE;
	}
	if (ratio) {
		if (v->type != TQ_DURATION && (v->type == TQ_FLOAT ? v->d > 0 : v->i > 0))
			return 0;
		FAIL(p, at, KLIEG_E_TYPE, "with a baseline the threshold is how many times the baseline: a number above 0");
		return err_hint(p->lex.e, "three times as much as usual: `> 3 with(baseline=10m)`"), KLIEG_E_TYPE;
	}
	if (duration && v->type != TQ_DURATION && (v->type == TQ_FLOAT ? v->d != 0 : v->i != 0)) {
		FAIL(p, at, KLIEG_E_TYPE, "a duration is compared with a duration, but this number has no unit");
		return err_hint(p->lex.e, "write the unit: 250ms, 1.5s; for times as much as usual add `with(baseline=10m)`"), KLIEG_E_TYPE;
	}
	if (!m->of_field && v->type == TQ_DURATION) {
		FAIL(p, at, KLIEG_E_TYPE, "`%s` gives %s, not a duration", metric_fns[m->fn], m->fn == TQ_RATE ? "spans per second" : "a number of spans");
		return err_hint(p->lex.e, "write a number: `%s() > 100`", metric_fns[m->fn]), KLIEG_E_TYPE;
	}
	return 0;
}

/* `with(baseline=10m)` */
static int parse_hints(struct tq_parser *p)
{
	struct tq_stage s = { .kind = STAGE_BASELINE };
	struct tq_token with = p->t;
	int rc = tq_next(p);
	if (rc < 0 || (rc = expect(p, TOK_LPAREN, "`(`")) < 0)
		return rc;
	struct tq_token key = p->t;
	if (key.kind == TOK_END || key.kind == TOK_RPAREN)
		return FAIL(p, &key, KLIEG_E_SYNTAX, "`with` needs a hint, such as `baseline=10m`");
	if (key.kind != TOK_WORD || !str_is(key.text, "baseline")) {
		FAIL(p, &key, KLIEG_E_UNSUPPORTED, "the hint `%.*s` is not supported", SHOW(key.text));
		return err_hint(p->lex.e, "there is `with(baseline=10m)`: compares with how it was before"), KLIEG_E_UNSUPPORTED;
	}
	if ((rc = tq_next(p)) < 0 || (rc = expect(p, TOK_EQ, "`=`")) < 0)
		return rc;
	struct tq_token t = p->t;
	if (t.kind != TOK_LITERAL || t.lit.type != TQ_DURATION || t.lit.i < BASELINE_MIN_NS || t.lit.i > BASELINE_MAX_NS) {
		FAIL(p, &t, KLIEG_E_TYPE, "a baseline is over a duration between 10s and 24h");
		return err_hint(p->lex.e, "`with(baseline=10m)`"), KLIEG_E_TYPE;
	}
	s.value = t.lit;
	tq_add_stage(p, &with, &s);
	if ((rc = tq_next(p)) < 0)
		return rc;
	return expect(p, TOK_RPAREN, "`)`");
}

static int parse_compare(struct tq_parser *p, const struct tq_stage *m)
{
	struct tq_token op = p->t;
	struct tq_stage s = { .kind = STAGE_COMPARE };
	bool negative = false;
	switch (op.kind) {
	case TOK_GT: s.op = OP_GT; break;
	case TOK_GE: s.op = OP_GE; break;
	case TOK_LT: s.op = OP_LT; break;
	case TOK_LE: s.op = OP_LE; break;
	default:
		FAIL(p, &op, KLIEG_E_TYPE, "a measured number is not compared with `%.*s`", SHOW(op.text));
		return err_hint(p->lex.e, "use > >= < or <="), KLIEG_E_TYPE;
	}
	int rc = tq_next(p);
	if (rc >= 0 && p->t.kind == TOK_SUB) {
		negative = true;
		rc = tq_next(p);
	}
	if (rc < 0)
		return rc;
	struct tq_token t = p->t;
	if (t.kind == TOK_END)
		return FAIL(p, &t, KLIEG_E_SYNTAX, "the text ends where a number was expected");
	if (t.kind != TOK_LITERAL || !tq_is_number(t.lit.type)) {
		FAIL(p, &t, KLIEG_E_TYPE, "a metric is compared with a number, not with `%.*s`", SHOW(t.text));
		return err_hint(p->lex.e, "`> 250ms`, `> 100`"), KLIEG_E_TYPE;
	}
	s.value = t.lit;
	if (negative && s.value.type == TQ_FLOAT)
		s.value.d = -s.value.d;
	else if (negative)
		s.value.i = -s.value.i;
	tq_add_stage(p, &op, &s);
	if ((rc = tq_next(p)) < 0)
		return rc;
	bool ratio = p->t.kind == TOK_WORD && str_is(p->t.text, "with");
	if (ratio && (rc = parse_hints(p)) < 0)
		return rc;
	return check_threshold(p, &t, m, &s.value, ratio);
}

/* The end, or what the language has beyond this. */
static int check_end(struct tq_parser *p)
{
	struct tq_token t = p->t;
	const char *what;
	int rc;
	switch (t.kind) {
	case TOK_END:
		return 0;
	case TOK_PIPE:
		if ((rc = tq_next(p)) < 0)
			return rc;
		if (p->t.kind == TOK_WORD && (what = tq_stage_name(p->t.text)))
			return tq_unsupported(p, &p->t, tq_metric_fn_of(p->t.text) >= 0 ? "metrics of metrics" : what);
		FAIL(p, &p->t, KLIEG_E_SYNTAX, "nothing known follows a metric after `|`");
		return err_hint(p->lex.e, "a comparison stands without `|`: `... | rate() > 5`"), KLIEG_E_SYNTAX;
	case TOK_WORD:
		if (str_is(t.text, "by"))
			return FAIL(p, &t, KLIEG_E_SYNTAX, "`by(...)` stands once, right after the metric");
		if (str_is(t.text, "with") && p->q->nstages == 2) {
			FAIL(p, &t, KLIEG_E_SYNTAX, "a baseline needs a threshold before it");
			return err_hint(p->lex.e, "three times as much as usual: `... > 3 with(baseline=10m)`"), KLIEG_E_SYNTAX;
		}
		if ((what = tq_stage_name(t.text)))
			return tq_unsupported(p, &t, what);
		break;
	case TOK_ADD: case TOK_SUB: case TOK_MUL: case TOK_DIV: case TOK_MOD: case TOK_POW:
		return tq_unsupported(p, &t, "operations on query results");
	case TOK_AND: case TOK_OR:
		FAIL(p, &t, KLIEG_E_UNSUPPORTED, "combinations of metrics are not supported yet (`%.*s`)", SHOW(t.text));
		return err_hint(p->lex.e, "one metric and one threshold; in a policy write two rules"), KLIEG_E_UNSUPPORTED;
	case TOK_RPAREN:
		return FAIL(p, &t, KLIEG_E_SYNTAX, "this `)` closes nothing");
	default:
		break;
	}
	return FAIL(p, &t, KLIEG_E_SYNTAX, "unexpected `%.*s` after the metric", SHOW(t.text));
}

int tq_parse_metric(struct tq_parser *p)
{
	struct tq_token name = p->t;
	struct tq_stage s = { .kind = STAGE_METRIC, .fn = (uint8_t)tq_metric_fn_of(name.text) };
	if (!p->metrics) {
		FAIL(p, &name, KLIEG_E_TYPE, "this is a metrics query (`%.*s`), but a filter is wanted here", SHOW(name.text));
		return err_hint(p->lex.e, "leave away what follows the `}`; metrics with a threshold stand in a policy's `escalate.when`"), KLIEG_E_TYPE;
	}
	int rc = tq_next(p);
	if (rc < 0)
		return rc;
	if ((rc = expect(p, TOK_LPAREN, "`(`")) < 0)
		return err_hint(p->lex.e, s.fn == TQ_RATE || s.fn == TQ_COUNT ? "write `%s()`" : "write `%s(duration)`", metric_fns[s.fn]), rc;
	s.of_field = s.fn != TQ_RATE && s.fn != TQ_COUNT;
	struct tq_token at = p->t;
	if (!s.of_field && p->t.kind != TOK_RPAREN && p->t.kind != TOK_END) {
		FAIL(p, &p->t, KLIEG_E_SYNTAX, "`%s()` measures the spans themselves and takes nothing in its parentheses", metric_fns[s.fn]);
		return err_hint(p->lex.e, "conditions stand in the filter: `{ .x = 1 } | %s()`", metric_fns[s.fn]), KLIEG_E_SYNTAX;
	}
	if (s.of_field) {
		if ((rc = parse_field(p, metric_fns[s.fn], &s.field, &s.type)) < 0)
			return rc;
		if (s.type != TQ_UNKNOWN && !tq_is_number(s.type))
			return FAIL(p, &at, KLIEG_E_TYPE, "`%s` needs numbers, but `%.*s` is %s", metric_fns[s.fn], SHOW(at.text), tq_type_name(s.type));
	}
	if (s.fn == TQ_QUANTILE && (rc = parse_quantile(p, &s)) < 0)
		return rc;
	if ((rc = expect(p, TOK_RPAREN, "`)`")) < 0)
		return rc;
	if (p->t.kind == TOK_WORD && str_is(p->t.text, "by") && (rc = parse_by(p, &s)) < 0)
		return rc;
	tq_add_stage(p, &name, &s);
	switch (p->t.kind) {
	case TOK_GT: case TOK_GE: case TOK_LT: case TOK_LE: case TOK_EQ: case TOK_NE: case TOK_RE: case TOK_NRE:
		if ((rc = parse_compare(p, &s)) < 0)
			return rc;
		break;
	default:
		break;
	}
	return check_end(p);
}

void tq_stages_print(const struct traceql *q, struct buf *ret_text)
{
	for (uint16_t i = 1; i < q->nstages; i++) {
		const struct tq_stage *s = q->stages + i;
		if (s->kind == STAGE_COMPARE) {
			buf_printf(ret_text, " %s ", tq_op_text(s->op));
			tq_literal_print(&s->value, ret_text);
			continue;
		}
		if (s->kind == STAGE_BASELINE) {
			buf_add_str(ret_text, " with(baseline=");
			tq_literal_print(&s->value, ret_text);
			buf_byte(ret_text, ')');
			continue;
		}
		buf_printf(ret_text, " | %s(", metric_fns[s->fn]);
		if (s->of_field)
			tq_field_print(&s->field, ret_text);
		if (s->fn == TQ_QUANTILE) {
			buf_add_str(ret_text, ", ");
			tq_literal_print(&s->value, ret_text);
		}
		buf_byte(ret_text, ')');
		for (uint16_t k = 0; k < s->nby; k++) {
			buf_add_str(ret_text, k ? ", " : " by(");
			tq_field_print(q->by + s->by + k, ret_text);
		}
		if (s->nby)
			buf_byte(ret_text, ')');
	}
}

static double number(const struct tq_value *v) { return v->type == TQ_FLOAT ? v->d : (double)v->i; }

bool traceql_metric(const struct traceql *q, struct tq_metric *ret_m)
{
	if (q->nstages < 2 || q->stages[1].kind != STAGE_METRIC)
		return false;
	const struct tq_stage *s = q->stages + 1;
	*ret_m = (struct tq_metric){ .fn = s->fn, .field = s->field, .quantile = s->fn == TQ_QUANTILE ? s->value.d : 0, .by = q->by ? q->by + s->by : NULL,
		.nby = s->nby };
	if (q->nstages > 2 && q->stages[2].kind == STAGE_COMPARE) {
		ret_m->compared = true;
		ret_m->cmp = tq_op_text(q->stages[2].op);
		ret_m->threshold = number(&q->stages[2].value);
	}
	if (q->nstages > 3 && q->stages[3].kind == STAGE_BASELINE)
		ret_m->baseline_ns = q->stages[3].value.i;
	return true;
}
