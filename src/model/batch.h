/* A batch: finished spans with their interned strings, the only in-memory form between drain (or an OTLP receiver) and
 * store, and what queries are evaluated over. Rows in one array, variable parts in pools that rows point into; docs/adr/0002 says why rows.
 * One owner at a time, not thread-safe; moves up by transfer: the callee owns it when the call succeeds, the caller keeps it on error. */
#pragma once
#include "base/strtab.h"

enum attr_type { ATTR_NIL, ATTR_STR, ATTR_INT, ATTR_DOUBLE, ATTR_BOOL, ATTR_BYTES, ATTR_ARRAY, ATTR_KVLIST };
enum attr_flags { ATTR_MASKED = 1 };

struct attr {
	uint32_t key;            /* string id; 0 inside an array */
	uint8_t type, flags;
	uint16_t pad;
	union {
		int64_t i;       /* INT, BOOL */
		double d;
		uint32_t s;      /* STR, BYTES: string id */
		struct { uint32_t off, n; } list; /* ARRAY, KVLIST: a range of batch->attrs */
	};
};

struct attr_range { uint32_t off, n; };  /* of batch->attrs */

enum span_kind { KIND_UNSPECIFIED, KIND_INTERNAL, KIND_SERVER, KIND_CLIENT, KIND_PRODUCER, KIND_CONSUMER }; /* OTLP's numbers */
enum span_status { STATUS_UNSET, STATUS_OK, STATUS_ERROR };

struct span {
	uint64_t trace_hi, trace_lo;  /* big-endian halves: hex is %016lx%016lx */
	uint64_t span_id, parent_id;  /* 0 parent = root */
	int64_t start_ns;             /* since the Unix epoch */
	int64_t duration_ns;
	uint64_t threshold;           /* OTEP 235 rejection threshold T (56 bits); adjusted count = 2^56 / (2^56 - T) */
	uint32_t name, trace_state, status_message; /* string ids */
	uint32_t resource, scope;     /* indices of batch->resources, batch->scopes */
	struct attr_range attrs;
	uint32_t events_off, links_off;
	uint16_t events_n, links_n;
	uint16_t dropped_attrs, dropped_events, dropped_links;
	uint8_t kind, status;
	uint32_t flags;               /* OTLP span flags */
};

struct span_event { int64_t time_ns; uint32_t name; struct attr_range attrs; uint32_t dropped_attrs; };
struct span_link { uint64_t trace_hi, trace_lo, span_id; uint32_t trace_state; struct attr_range attrs; uint32_t flags; };
struct resource { uint32_t service; struct attr_range attrs; }; /* service: string id of service.name (also among attrs) */
struct scope { uint32_t name, version; struct attr_range attrs; };

struct batch {
	struct strtab strs;
	struct span *spans; uint32_t n, cap;
	struct attr *attrs; uint32_t attrs_n, attrs_cap;
	struct span_event *events; uint32_t events_n, events_cap;
	struct span_link *links; uint32_t links_n, links_cap;
	struct resource *resources; uint32_t resources_n, resources_cap;
	struct scope *scopes; uint32_t scopes_n, scopes_cap;
};

struct batch *batch_create(void);
void batch_destroy(struct batch *b);            /* NULL is fine */
/* Each returns a pointer to (or the index of) a zeroed new element; pointers are invalid after the next add of that sort. */
struct span *batch_add_span(struct batch *b);
struct attr *batch_add_attrs(struct batch *b, uint32_t n); /* n consecutive attrs; their range starts at (ret - b->attrs) */
struct span_event *batch_add_event(struct batch *b);
struct span_link *batch_add_link(struct batch *b);
uint32_t batch_add_resource(struct batch *b, const struct resource *r);
uint32_t batch_add_scope(struct batch *b, const struct scope *s);
static inline uint32_t batch_str(struct batch *b, struct str s) { return strtab_add(&b->strs, s); }
static inline struct str batch_text(const struct batch *b, uint32_t id) { return strtab_get(&b->strs, id); }
/* Copies span i of src, with all it points to, to the end of dst (strings re-interned; resource and scope deduplicated by content). */
void batch_copy_span(struct batch *dst, const struct batch *src, uint32_t i);
/* The first attribute with that key in a range, or NULL. */
const struct attr *batch_attr(const struct batch *b, struct attr_range r, struct str key);
double span_adjusted_count(const struct span *s);

void trace_id_hex(uint64_t hi, uint64_t lo, char ret_hex[33]);
void span_id_hex(uint64_t id, char ret_hex[17]);
int trace_id_parse(struct str hex, uint64_t *ret_hi, uint64_t *ret_lo); /* 1..32 hex digits, left-padded; KLIEG_E_SYNTAX */
int span_id_parse(struct str hex, uint64_t *ret_id);
