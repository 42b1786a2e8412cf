/* Any text: an error with a place, or a query whose canonical text parses to the same canonical text, evaluated over an empty span. */
#include "traceql/ast.h"
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void metric(struct traceql *q)
{
	struct traceql *again;
	struct err e = { 0 };
	struct tq_metric m, n;
	struct buf one = { 0 }, two = { 0 };
	if (!traceql_metric(q, &m))
		abort();
	traceql_print(q, &one);
	if (one.n <= TQ_TEXT_MAX) {
		if (traceql_parse_metric(buf_str(&one), &again, &e) < 0 || !traceql_metric(again, &n) || m.fn != n.fn || m.threshold != n.threshold || m.nby != n.nby)
			abort();
		traceql_print(again, &two);
		if (!str_eq(buf_str(&one), buf_str(&two)))
			abort();
		traceql_destroy(again);
	}
	traceql_check_profile(q, TQ_PROFILE_TRIGGER, &e);
	buf_finish(&one);
	buf_finish(&two);
	traceql_destroy(q);
}

static void parts(const struct traceql *q)
{
	struct traceql *site, *request;
	struct err e = { 0 };
	struct tq_view v;
	for (uint16_t i = 0; i <= q->n; i++)
		traceql_view(q, i, &v);
	traceql_check_profile(q, TQ_PROFILE_START, &e);
	traceql_check_profile(q, TQ_PROFILE_END, &e);
	if (traceql_split_start(q, &site, &request, &e) < 0)
		return;
	if (traceql_check_site(site, &e) < 0 || !traceql_implies(q, site) || (request && !traceql_implies(q, request)))
		abort();
	traceql_destroy(site);
	traceql_destroy(request);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct str text = { (const char *)data, size };
	struct traceql *q, *again;
	struct err e = { 0 };
	if (traceql_parse_selector(text, &q, &e) == 0)
		traceql_destroy(q);
	else if (!e.code || !e.msg[0])
		abort();
	if (traceql_parse_metric(text, &q, &e) >= 0)
		metric(q);
	else if (!e.code || !e.msg[0])
		abort();
	if (traceql_parse(text, &q, &e) < 0)
		return 0;
	parts(q);
	struct buf one = { 0 }, two = { 0 };
	traceql_print(q, &one);
	if (one.n <= TQ_TEXT_MAX) { /* escapes may make it longer than what may be parsed */
		if (traceql_parse(buf_str(&one), &again, &e) < 0)
			abort();
		traceql_print(again, &two);
		if (!str_eq(buf_str(&one), buf_str(&two)))
			abort();
		traceql_destroy(again);
	}
	struct batch *b = batch_create();
	batch_add_span(b);
	struct tq_matcher *m = traceql_matcher_create(q);
	if (traceql_match(q, b, 0) != traceql_matcher_match(m, b, 0))
		abort();
	struct tq_pushdown p;
	traceql_pushdown(q, &p);
	traceql_check_site(q, &e);
	traceql_matcher_destroy(m);
	batch_destroy(b);
	traceql_destroy(q);
	buf_finish(&one);
	buf_finish(&two);
	return 0;
}
