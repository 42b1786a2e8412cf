/* The parser's state, shared by parse.c (the filter) and stages.c (what follows it). */
#pragma once
#include "traceql/lex.h"

struct tq_parser {
	struct tq_lexer lex;
	struct tq_token t;           /* the current one */
	struct traceql *q;
	unsigned depth;
	bool metrics;                /* a metrics query is wanted; otherwise a filter */
};
#define FAIL(p, tok, code, ...) err_at((p)->lex.e, code, (tok)->line, (tok)->column, __VA_ARGS__)
#define SHOW(s) (int)((s).n > 60 ? 60 : (s).n), (s).p

static inline int tq_next(struct tq_parser *p) { return tq_lex(&p->lex, &p->t); }
int tq_unsupported(struct tq_parser *p, const struct tq_token *at, const char *what); /* "WHAT are not supported yet" */
const char *tq_stage_name(struct str word);  /* what a stage that starts with this word is called; NULL: none does */

/* stages.c */
int tq_metric_fn_of(struct str word);        /* enum tq_metric_fn, or -1 */
int tq_parse_metric(struct tq_parser *p);    /* from the metric's name to the end of the text */
void tq_add_stage(struct tq_parser *p, const struct tq_token *at, const struct tq_stage *s);
