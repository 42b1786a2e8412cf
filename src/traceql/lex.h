/* Tokens of TraceQL. The lexer knows the whole language's tokens, so that the parser can name what it does not take yet. */
#pragma once
#include "traceql/ast.h"

enum tq_tok {
	TOK_END, TOK_LBRACE, TOK_RBRACE, TOK_LPAREN, TOK_RPAREN, TOK_COMMA, TOK_PIPE,
	TOK_AND, TOK_OR, TOK_EQ, TOK_NE, TOK_LT, TOK_LE, TOK_GT, TOK_GE, TOK_RE, TOK_NRE,
	TOK_ADD, TOK_SUB, TOK_MUL, TOK_DIV, TOK_MOD, TOK_POW, TOK_NOT,
	TOK_STRUCTURAL,              /* >> << ~ !> !< !>> !<< &> &< &>> &<< &~ (and > < !~ between spansets) */
	TOK_LITERAL, TOK_FIELD, TOK_WORD,
};
struct tq_token {
	enum tq_tok kind;
	int line, column;
	struct str text;             /* as written */
	struct tq_value lit;
	struct tq_field field;
	uint8_t type;                /* of a field: static type */
};
struct tq_lexer { struct str text; size_t at, line_at; int line; struct strtab *strs; struct err *e; };
/* 0 or KLIEG_E_*; strings go to l->strs. */
int tq_lex(struct tq_lexer *l, struct tq_token *ret_t);
