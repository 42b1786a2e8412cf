/* What a span store backend is: one vtable, one file per backend. store.c hands every call of store.h on. */
#pragma once
#include "store/store.h"

struct store_ops {
	void (*close)(struct store *s);
	int (*append)(struct store *s, struct batch *b, store_done_fn done, void *arg);
	int (*flush)(struct store *s);
	void (*await)(struct store *s);
	int (*scan)(struct store *s, const struct store_query *q, store_visit_fn fn, void *arg, struct store_found *ret_found, struct err *e);
	int (*trace)(struct store *s, uint64_t hi, uint64_t lo, struct batch **ret_trace, struct err *e);
	void (*stats)(struct store *s, struct store_stats *ret_st);
};
struct store { const struct store_ops *ops; };          /* first member of a backend's own struct */

int segment_open(const struct store_config *c, struct store **ret_s, struct err *e);
