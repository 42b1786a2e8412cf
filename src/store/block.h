/* A block: up to 64 k spans as compressed columns, in two byte strings. `head` has what filters look at (trace ids, start, duration, kind,
 * status, name, service), `body` the rest; docs/formats/segment.md has the layout. Pure functions over memory, no I/O: the bytes
 * read are not trusted. One block_enc per thread. */
#pragma once
#include "base/buf.h"
#include "model/batch.h"

enum { BLOCK_SPANS = 65536, BLOCK_WEIGHT = 1 << 22, BLOCK_VALUES = 1 << 24 };

struct block_row { uint32_t batch, i; };            /* span i of batches[batch] */
struct block {
	uint32_t n, errors;
	int64_t t0, t1, max_duration;               /* first and last start */
	struct buf services, names;                 /* sorted out once each: u16 length + text; empty = too many to list */
	struct buf bloom;                           /* of trace ids */
	struct buf head, body;
};
void block_finish(struct block *b);

struct block_enc;
struct block_enc *block_enc_create(void);
void block_enc_destroy(struct block_enc *e);
/* How many of the rows fit one block (at least 1 if n). */
uint32_t block_fit(const struct batch *const *batches, const struct block_row *rows, uint32_t n);
/* Encodes n rows (reordered: by trace). */
void block_encode(struct block_enc *e, const struct batch *const *batches, uint32_t nbatches, struct block_row *rows, uint32_t n, struct block *ret_b);

struct block_filter {
	int64_t from_ns, to_ns;                     /* half-open */
	int64_t min_duration, max_duration;
	struct str service, name;                   /* empty = any */
	bool errors_only;
	bool by_trace; uint64_t trace_hi, trace_lo;
};
bool block_listed(const void *list, size_t n, struct str s);
bool block_bloom_has(const void *bloom, size_t n, uint64_t hi, uint64_t lo);
/* Rows of the head that pass: sel[i] nonzero. sel has BLOCK_SPANS bytes. Returns how many, or KLIEG_E_CORRUPT; *ret_n = rows in the block. */
int block_select(struct str head, const struct block_filter *f, uint8_t *sel, uint32_t *ret_n);
/* Appends the selected rows (all if sel is NULL) to dst. On KLIEG_E_CORRUPT dst may have some of them: throw it away. */
int block_decode(struct str head, struct str body, const uint8_t *sel, struct batch *dst);
