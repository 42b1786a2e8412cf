/* What a parsed query is made of; for this folder only. Nodes live in one array and refer to each other by index, strings in one
 * table: a query is a few allocations, and a matcher can keep its own array beside the nodes. A pipeline is a list of stages whose
 * first is a spanset filter (`root`); today a metric and its comparison may follow. Structural operators will be nodes over spansets. */
#pragma once
#include "traceql/traceql.h"
#include <stdatomic.h>

#define TQ_TEXT_MAX (64u * 1024u)
#define TQ_DEPTH_MAX 64u
#define TQ_NODES_MAX 1000u
#define TQ_REGEX_MAX 4096u   /* bytes of one pattern */
#define TQ_STAGES_MAX 16u
#define TQ_BY_MAX 8u
#define TQ_REGEXES_SIZE_MAX (1u << 20) /* compiled, all of a query: `(a{1,50}){1,50}` is short text and big code */
#define TQ_NONE UINT16_MAX
#define TQ_UNKNOWN 0xffu     /* static type of what is known at run time only */

enum tq_op {
	OP_LIT, OP_FIELD,
	OP_AND, OP_OR,
	OP_EQ, OP_NE, OP_LT, OP_LE, OP_GT, OP_GE, OP_RE, OP_NRE,
	OP_ADD, OP_SUB, OP_MUL, OP_DIV, OP_MOD, OP_POW,
	OP_NOT, OP_NEG,
};

struct tq_node {
	uint8_t op, type;        /* enum tq_op; enum tq_type or TQ_UNKNOWN */
	uint8_t depth;           /* nesting of the canonical text below here, so that what prints also parses */
	uint16_t l, r;
	uint16_t regex;          /* OP_RE, OP_NRE: index of q->regexes */
	uint16_t line;
	uint32_t column;
	struct tq_value lit;
	struct tq_field field;
};

enum tq_stage_kind { STAGE_FILTER, STAGE_METRIC, STAGE_COMPARE, STAGE_BASELINE };
struct tq_stage {
	uint8_t kind, fn, op;    /* STAGE_METRIC: enum tq_metric_fn; STAGE_COMPARE: enum tq_op */
	bool of_field;           /* STAGE_METRIC: it measures `field`; rate() and count_over_time() do not */
	uint16_t line;
	uint32_t column;
	struct tq_field field;
	uint8_t type;            /* of field: static type */
	uint16_t by, nby;        /* STAGE_METRIC: in q->by */
	struct tq_value value;   /* STAGE_METRIC: the quantile; STAGE_COMPARE: what it is compared with;
	                          * STAGE_BASELINE: over how long */
};

struct tq_regex;
struct traceql {
	struct tq_node *nodes;
	uint16_t n, root;        /* root TQ_NONE: `{ }` */
	struct tq_stage *stages; /* stages[0] is the filter */
	uint16_t nstages, nby;
	struct tq_field *by;
	int mixed_line, mixed_column; /* the first && beside || without parentheses; 0: none */
	struct strtab strs;
	struct tq_regex **regexes;
	uint16_t regexes_n;
	bool needs_trace;        /* mentions an intrinsic of the whole trace */
	_Atomic uint64_t gave_up;
};

/* parse.c / print.c */
uint16_t tq_append(struct traceql *q, const struct tq_node *n);        /* unchecked; the index */
uint16_t tq_append_regex(struct traceql *q, struct tq_regex *r);       /* takes r */
static inline bool tq_is_number(unsigned type) { return type == TQ_INT || type == TQ_FLOAT || type == TQ_DURATION; }
bool tq_whole_trace(const struct tq_field *f);   /* an intrinsic that only the whole trace knows */
void tq_stages_print(const struct traceql *q, struct buf *ret_text);   /* those after the filter */
void tq_literal_print(const struct tq_value *v, struct buf *ret_text);
int tq_prec(enum tq_op op);                   /* of an operator; literals and fields bind tightest */
bool tq_needs_parens(const struct traceql *q, enum tq_op parent, uint16_t child, bool right);
const char *tq_op_text(enum tq_op op);
const char *tq_type_name(unsigned type);      /* "a string" */
void tq_field_print(const struct tq_field *f, struct buf *ret_text);

struct tq_intrinsic_name { const char *text; enum tq_intrinsic id; uint8_t type; };
extern const struct tq_intrinsic_name tq_intrinsics[]; /* the canonical name of each comes first; ends with text NULL */
extern const char *const tq_scopes[];                  /* by enum tq_scope; "" for any, NULL for intrinsics */
extern const char *const tq_statuses[], *const tq_kinds[]; /* by OTLP's numbers; end with NULL */

/* regex.c: RE2's syntax (no look-around, no back-references), anchored at both ends, with limits on work. */
int tq_regex_compile(struct str pattern, struct tq_regex **ret_r, struct err *e, int line, int column);
struct tq_regex *tq_regex_share(struct tq_regex *r);   /* one more owner */
void tq_regex_free(struct tq_regex *r);                /* by each owner; NULL is fine */
size_t tq_regex_size(const struct tq_regex *r);
enum { TQ_RE_NO, TQ_RE_YES, TQ_RE_GAVE_UP };
int tq_regex_match(const struct tq_regex *r, struct str subject, void *match_data /* or NULL */);
void *tq_regex_scratch(void);                          /* match_data for one thread; free with tq_regex_scratch_free */
void tq_regex_scratch_free(void *p);

/* eval.c */
bool tq_is_multi(const struct tq_field *f);            /* of events and links: several values per span */
void tq_eval_node(const struct traceql *q, uint16_t node, const struct tq_source *src, struct tq_value *ret_v);
bool tq_compare(const struct traceql *q, const struct tq_node *n, const struct tq_value *l, const struct tq_value *r);
void tq_attr_value(const struct batch *b, const struct attr *a, struct tq_value *ret_v);

/* check.c */
enum tq_op tq_mirrored(enum tq_op op);                 /* the other side's operator: `5 < x` is `x > 5` */
bool tq_known_of_site(const struct tq_field *f);
int tq_check_start(const struct traceql *q, bool sited, struct err *e);

/* trace.c: what a batch knows of the traces in it. */
struct tq_traces;
struct tq_traces *tq_traces_create(const struct batch *b);
void tq_traces_destroy(struct tq_traces *t);
void tq_traces_get(const struct tq_traces *t, uint32_t i, enum tq_intrinsic what, struct tq_value *ret_v);

/* source.c: a span of a batch as a source. */
struct tq_span_ctx {
	const struct batch *b;
	uint32_t i;
	struct tq_traces *traces;    /* NULL unless the query needs it */
	char trace_id[33], span_id[17], parent_id[17], link_trace_id[33], link_span_id[17];
};
/* key_id: of f->key in the batch if known, else UINT32_MAX - 1 to look it up by text */
#define TQ_KEY_BY_TEXT (UINT32_MAX - 1)
const struct attr *tq_span_attr(const struct tq_span_ctx *c, const struct tq_field *f, uint32_t key_id);
void tq_span_get_key(struct tq_span_ctx *c, const struct tq_field *f, uint32_t key_id, struct tq_value *ret_v);
void tq_span_get(void *ctx, const struct tq_field *f, struct tq_value *ret_v);
bool tq_span_nth(void *ctx, const struct tq_field *f, uint32_t n, struct tq_value *ret_v);
