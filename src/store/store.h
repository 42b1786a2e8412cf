/* The span store: the one door to whatever keeps spans. Backends sit behind struct store_ops (segment.c today, ClickHouse later).
 * All functions are thread-safe. */
#pragma once
#include "base/err.h"
#include "model/batch.h"
#include "traceql/traceql.h"

struct store;
struct store_config {
	const char *dir;                /* created 0700 if absent */
	int64_t retain_ns;              /* by age; 0 = 3 days */
	uint64_t retain_bytes;          /* 0 = 10 GiB; oldest hours go first */
	int64_t commit_ns;              /* group commit interval; 0 = 50 ms; at most 100 ms */
	uint64_t queue_bytes;           /* WAL appends not yet synced, bound; 0 = 256 MiB. Beyond: KLIEG_E_BUSY */
};
int store_open(const struct store_config *c, struct store **ret_s, struct err *e);
void store_close(struct store *s);       /* syncs; NULL is fine */

/* Called once per successful append, on the store's thread: rc 0 = durable (WAL synced), else KLIEG_E_* (disk full, I/O): not stored. */
typedef void (*store_done_fn)(void *arg, int rc, uint32_t spans);
/* Takes the batch when it returns 0 (done may be NULL). KLIEG_E_BUSY: the queue is full, caller keeps the batch. */
int store_append(struct store *s, struct batch *b, store_done_fn done, void *arg);
/* Somebody waits for what was appended to be found: for the next second at least the writer does not yield to the host (base/priority.h). */
void store_await(struct store *s);
/* Blocks until all that was appended before is durable (tests, shutdown, read-your-writes). */
int store_flush(struct store *s);

struct store_query {
	const struct traceql *q;        /* NULL = all */
	int64_t from_ns, to_ns;         /* on start time, half-open */
	uint32_t limit;                 /* spans to return; 0 = 100 */
	bool newest_first;              /* else the scan order is unspecified */
	int64_t deadline_ns;            /* clock_mono(); 0 = none. Past it: returns what it has and sets `partial` */
};
struct store_found { uint64_t matched; uint64_t scanned_spans, scanned_blocks, skipped_blocks; bool partial; bool limited; };
/* Matching spans, sorted by start time (newest first), at most limit; `matched` counts all matches. */
int store_query(struct store *s, const struct store_query *q, struct batch **ret_spans, struct store_found *ret_found, struct err *e);
/* Streams every match to fn (batch, index), for aggregation (hot, heatmap); fn returns nonzero to stop. Order unspecified. */
typedef int (*store_visit_fn)(void *arg, const struct batch *b, uint32_t i);
int store_scan(struct store *s, const struct store_query *q, store_visit_fn fn, void *arg, struct store_found *ret_found, struct err *e);
/* All spans of a trace in start order. KLIEG_E_NOT_FOUND. */
int store_trace(struct store *s, uint64_t hi, uint64_t lo, struct batch **ret_trace, struct err *e);

struct store_stats {
	uint64_t appended;              /* spans accepted by store_append since open */
	uint64_t stored;                /* of these durable */
	uint64_t failed;                /* of these not stored: I/O error or disk full */
	uint64_t expired;               /* removed by retention since open */
	uint64_t queue_bytes; int64_t queue_age_ns;
	uint64_t spans, bytes, files;   /* on disk now (bytes: segments; wal_bytes apart) */
	uint64_t wal_bytes, recovered;  /* spans replayed from the WAL at open */
	int64_t oldest_ns, newest_ns;
	char last_error[200];           /* empty if none */
	uint64_t damaged;               /* WAL records, blocks and files skipped because they could not be read, since open */
	uint64_t clamped;               /* spans dated outside of the store's window, kept in its first or last hour */
};
void store_stats(struct store *s, struct store_stats *ret_st);
