/* The reader of one ring, which a hostile process may rewrite at any time: every record is copied out and checked before use. */
#pragma once
#include "wire/wire.h"
#include <stdbool.h>

/* The trace that the records of a ring belong to. */
struct ring_ctx { uint64_t trace_hi, trace_lo, parent_id; uint32_t th24, flags; };

struct ring_reader {
	const uint8_t *data;
	uint32_t bytes;           /* a power of two */
	uint32_t nsites;
	uint64_t head, tail;
	uint64_t skipped;         /* bytes given up because of corruption */
};
#define RING_REC_MAX (255u * KW_UNIT)
struct ring_rec { /* an aligned copy */
	union {
		struct kw_rec r;
		struct kw_rec_span span;
		struct kw_rec_ctx ctx;
		struct kw_rec_spanx spanx;
		struct kw_rec_event event;
		struct kw_rec_link link;
		uint64_t words[RING_REC_MAX / 8];
		uint8_t bytes[RING_REC_MAX];
	};
};

/* 1: a record in *ret_rec (its length is r.units * KW_UNIT), tail advanced. 0: the ring is empty. -1: corrupt; the rest up to head was
 * skipped. Always terminates: each call advances tail by a unit at least, or empties. */
int ring_next(struct ring_reader *r, struct ring_rec *ret_rec);
/* Attribute i of a record, walked by *off (0 at first; relative to the record). false: no more, or it does not fit (then *ret_bad). */
struct ring_attr { const char *name; uint32_t name_len; struct kw_attr a; const uint8_t *value; uint32_t len; };
uint32_t ring_attrs_off(uint8_t type);
bool ring_attr(const struct ring_rec *rec, uint32_t *off, struct ring_attr *ret_a, bool *ret_bad);
/* Is the copy of a header sane, and does it fit the file? */
bool kw_region_valid(const struct kw_region *r, uint64_t file_bytes);
