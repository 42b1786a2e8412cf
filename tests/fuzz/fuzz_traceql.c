/* Any text: an error with a place, or a query whose canonical text parses to the same canonical text, evaluated over an empty span. */
#include "traceql/ast.h"
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct str text = { (const char *)data, size };
	struct traceql *q, *again;
	struct err e = { 0 };
	if (traceql_parse_selector(text, &q, &e) == 0)
		traceql_destroy(q);
	else if (!e.code || !e.msg[0])
		abort();
	if (traceql_parse(text, &q, &e) < 0)
		return 0;
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
