/* The write-ahead log: files of framed, checksummed records, one batch each, in the memory layout of this build's struct batch (a file is
 * only ever read back by the machine that wrote it; the layout's sizes are in the frame). One thread at a time. */
#pragma once
#include "base/err.h"
#include "model/batch.h"

struct wal { int fd; uint64_t size; };              /* size: up to the last whole record */
int wal_create(struct wal *w, const char *path);
void wal_close(struct wal *w);
/* Appends; on failure the file is cut back to what it was. now_ns is kept with the record. */
int wal_append(struct wal *w, const struct batch *b, int64_t now_ns);
int wal_sync(struct wal *w);
int wal_cut(struct wal *w, uint64_t size);          /* forget what is behind size */

/* fn owns the batch. Damaged records are skipped where the next can be found, and counted; a torn end is not damage. */
typedef void (*wal_record_fn)(void *arg, struct batch *b, int64_t now_ns);
int wal_replay(const char *path, wal_record_fn fn, void *arg, uint64_t *ret_damaged);
