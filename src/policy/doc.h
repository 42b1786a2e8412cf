/* A YAML document as a tree whose every value knows its place, and what is wrong with it. For this folder only. */
#pragma once
#include "policy/policy.h"

#define POLICY_TEXT_MAX (1u << 20)
#define POLICY_NESTING_MAX 16u
#define POLICY_NODES_MAX 100000u
#define POLICY_DIAGS_MAX 200u

enum doc_kind { DOC_TEXT, DOC_LIST, DOC_MAP, DOC_BAD /* said already */ };
enum doc_style { DOC_PLAIN, DOC_SINGLE, DOC_DOUBLE, DOC_LITERAL, DOC_FOLDED };
struct doc_node {
	enum doc_kind kind;
	enum doc_style style;
	struct str text;              /* DOC_TEXT: the value, NUL-terminated */
	uint32_t at, end;             /* bytes of the source */
	uint32_t n;                   /* DOC_LIST: items; DOC_MAP: keys and values */
	struct doc_node *first, *last, *next; /* of a map: key, value, key, value */
};
struct doc {
	struct str source;
	uint32_t *lines, nlines;      /* where each begins */
	uint32_t *chars;              /* character -> byte */
	uint32_t nchars, nodes;
	struct doc_block *blocks;
	struct doc_node *root;        /* NULL: none */
	struct policy_diags *diags;
	bool full;                    /* POLICY_DIAGS_MAX reached: the rest is not told */
};
/* Negative when nothing more can be said about this text; diags are filled in either way. */
int doc_parse(struct doc *d, struct str yaml, struct policy_diags *diags);
void doc_finish(struct doc *d);
static inline bool doc_empty(const struct doc_node *n)
{
	return n->kind == DOC_TEXT && (!n->text.n || (n->style == DOC_PLAIN && (str_is(n->text, "~") || str_is(n->text, "null"))));
}

/* code "P1.." is an error, "P2.." a warning. at may be NULL: the document's beginning. hint may be NULL. */
void doc_diag(struct doc *d, const char *code, const struct doc_node *at, const char *hint, const char *fmt, ...) __attribute__((format(printf, 5, 6)));
void doc_diag_bytes(struct doc *d, const char *code, uint32_t from, uint32_t to, const char *hint, const char *fmt, ...)
	__attribute__((format(printf, 6, 7)));
void doc_place(const struct doc *d, uint32_t at, int *ret_line, int *ret_column);
/* At most 60 bytes of a text, whole characters: for "%.*s". */
static inline int doc_shown(struct str s)
{
	size_t n = s.n < 60 ? s.n : 60;
	while (n && n < s.n && ((unsigned char)s.p[n] & 0xc0) == 0x80)
		n--;
	return (int)n;
}
#define SHOWN(s) doc_shown(s), (s).p

/* locate.c: the byte of the source where byte `at` of a value comes from, whatever quotes, escapes, folding and indentation are between. */
uint32_t doc_locate(const struct doc *d, const struct doc_node *n, size_t at);

/* value.c: texts of YAML -> numbers, and back. False: not one. */
bool value_number(struct str s, double *ret_v);
bool value_percent(struct str s, double *ret_share);         /* 10% -> 0.1 */
bool value_rate(struct str s, double *ret_per_s);            /* 200/s */
bool value_step(struct str s, struct policy_step *ret_step); /* 10%, 1 process, 3 processes */
void value_duration_print(int64_t ns, struct buf *b);
void value_step_print(const struct policy_step *s, struct buf *b);

/* advise.c: what is allowed but hardly meant. places: of each rule, limit. */
struct policy_places { const struct doc_node *match, *level, *keep, *when, *to, *rollout, *send, *retain; };
void policy_advise(const struct policy *p, struct doc *d, const struct policy_places *rules, const struct policy_places *limits);
