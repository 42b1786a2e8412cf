/* The embedded span store. A batch appended goes to a bounded queue; the writer thread (the only one that writes) frames it into the WAL, syncs a group at a
 * time, says done, and keeps it in the head, where queries see it. When the head is worth a block its WAL file (a generation) is closed and
 * its spans are cut into columnar blocks in SQLite files, one per hour of span start; the WAL file is removed only after those
 * transactions are durable. Blocks carry the generation they came from, which makes a cut repeatable after a crash or a full disk (an hour that
 * has the generation is done) and lets a reader count each span once: it takes head batches of generations >= G and blocks of < G.
 * Readers run on any thread with connections of their own. docs/formats/segment.md describes the files. */
#include "store/backend.h"
#include "base/clock.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/priority.h"
#include "store/block.h"
#include "store/wal.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define SEC 1000000000ll
#define HOUR (3600 * SEC)
#define CUT_AGE (60 * SEC)
#define PAST_MAX (7 * 24 * HOUR)
enum { APP_ID = 0x6b6c6731, POOL = 4, HEAD_SPANS_MAX = 32 * BLOCK_SPANS, GROUP_BYTES = 16 << 20 };

struct item { struct item *next; struct batch *b; store_done_fn done; void *arg; int64_t queued_ns; uint64_t bytes; int rc; };
struct held { struct batch *b; uint64_t gen; int64_t now_ns; int refs; };            /* a batch in the head; immutable */
struct hour {
	int64_t hour;
	int refs;
	bool dropped;
	char *path;
	sqlite3 *writer;                /* the writer thread's */
	sqlite3 *pool[POOL]; int npool; /* idle readers */
	uint64_t spans, bytes; int64_t t0, t1;
};

struct segment {
	struct store store;
	char *dir;
	int dir_fd, lock_fd;
	int64_t retain_ns, commit_ns; uint64_t retain_bytes, queue_max;
	pthread_t thread;
	struct priority_pace pace;      /* the thread's */
	pthread_mutex_t lock;           /* guards all below up to the writer's own */
	pthread_cond_t wake, progress;
	struct item *queue, **queue_end;
	int64_t writing_since;   /* when the oldest of what is being written came; 0: nothing is */
	uint64_t seq, seq_done;         /* appends taken, appends answered */
	bool stop; int flushing;
	struct held **head; uint32_t head_n, head_cap;
	uint64_t gen;                   /* of the WAL now written */
	struct hour **hours; uint32_t hours_n;  /* by hour */
	struct store_stats st;
	uint64_t wal_old_bytes;
	/* the writer thread's own */
	struct wal wal;
	uint64_t gen_spans, head_spans;
	int64_t gen_since, last_commit, retry_at, last_retention, opened_wall, opened_mono;
	struct block_enc *enc;
};

static void complain(struct segment *g, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void complain(struct segment *g, const char *fmt, ...)
{
	char text[200];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);
	pthread_mutex_lock(&g->lock);
	bool again = !strcmp(text, g->st.last_error);
	memcpy(g->st.last_error, text, sizeof text);
	pthread_mutex_unlock(&g->lock);
	if (!again)
		log_error("store", "%s", text);
}

static void damaged(struct segment *g, uint64_t n)
{
	pthread_mutex_lock(&g->lock);
	g->st.damaged += n;
	pthread_mutex_unlock(&g->lock);
}

static int sql_code(sqlite3 *db, int rc)
{
	switch (rc & 255) {
	case SQLITE_FULL: return KLIEG_E_DISK_FULL;
	case SQLITE_CORRUPT: case SQLITE_NOTADB: return KLIEG_E_CORRUPT;
	case SQLITE_BUSY: case SQLITE_LOCKED: return KLIEG_E_BUSY;
	case SQLITE_NOMEM: return KLIEG_E_NOMEM;
	}
	int en = db ? sqlite3_system_errno(db) : 0;
	return en == ENOSPC || en == EDQUOT || en == EFBIG ? KLIEG_E_DISK_FULL : KLIEG_E_IO;
}

static int sql_exec(sqlite3 *db, const char *sql)
{
	int rc = sqlite3_exec(db, sql, NULL, NULL, NULL);
	return rc == SQLITE_OK ? 0 : sql_code(db, rc);
}

static void wal_path(const struct segment *g, uint64_t gen, char path[PATH_MAX]) { snprintf(path, PATH_MAX, "%s/%016llx.wal", g->dir, (unsigned long long)gen); }

/* ---- hour files ------------------------------------------------------------------------------------------------------ */

static void hour_free(struct hour *h)
{
	for (int i = 0; i < h->npool; i++)
		sqlite3_close_v2(h->pool[i]);
	sqlite3_close_v2(h->writer);
	free(h->path);
	free(h);
}

static void hour_put(struct segment *g, struct hour *h)
{
	pthread_mutex_lock(&g->lock);
	bool last = --h->refs == 0;
	pthread_mutex_unlock(&g->lock);
	if (last)
		hour_free(h);
}

static int connect_hour(const struct hour *h, bool create, sqlite3 **ret_db)
{
	sqlite3 *db = NULL;
	int rc = sqlite3_open_v2(h->path, &db, SQLITE_OPEN_READWRITE | (create ? SQLITE_OPEN_CREATE : 0) | SQLITE_OPEN_NOMUTEX, NULL);
	int code = rc == SQLITE_OK ? 0 : sql_code(db, rc);
	if (!code) {
		sqlite3_busy_timeout(db, 5000);
		sqlite3_extended_result_codes(db, 1);
		code = sql_exec(db, create ? "PRAGMA page_size=16384; PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;" : "PRAGMA query_only=1;");
	}
	if (code) {
		sqlite3_close_v2(db);
		return code;
	}
	*ret_db = db;
	return 0;
}

static int writer_of(struct hour *h)
{
	if (h->writer)
		return 0;
	int rc = connect_hour(h, true, &h->writer);
	if (rc == 0)
		rc = sql_exec(h->writer,
			"BEGIN; PRAGMA application_id=1802266417; PRAGMA user_version=1;"
			"CREATE TABLE IF NOT EXISTS blk(id INTEGER PRIMARY KEY, gen INT, n INT, errors INT, t0 INT, t1 INT, maxd INT, services BLOB, names BLOB, bloom BLOB);"
			"CREATE TABLE IF NOT EXISTS col(id INTEGER PRIMARY KEY, hash INT, data BLOB); COMMIT");
	if (rc < 0) {
		sqlite3_close_v2(h->writer);
		h->writer = NULL;
	}
	return rc;
}

static void set_bytes(struct segment *g, struct hour *h)
{
	struct stat st;
	char wal[PATH_MAX];
	uint64_t bytes = stat(h->path, &st) == 0 ? (uint64_t)st.st_size : 0;
	snprintf(wal, sizeof wal, "%s-wal", h->path);
	bytes += stat(wal, &st) == 0 ? (uint64_t)st.st_size : 0;
	pthread_mutex_lock(&g->lock);
	h->bytes = bytes;
	pthread_mutex_unlock(&g->lock);
}

/* Takes an hour out of the list; its files go away (or aside, if they are damaged). Writer thread, or before it runs. */
static void drop_hour(struct segment *g, struct hour *h, bool aside)
{
	static const char *const parts[] = { "", "-wal", "-shm" };
	char from[PATH_MAX], to[PATH_MAX];
	pthread_mutex_lock(&g->lock);
	for (uint32_t i = 0; i < g->hours_n; i++)
		if (g->hours[i] == h) {
			memmove(g->hours + i, g->hours + i + 1, (g->hours_n - i - 1) * sizeof *g->hours);
			g->hours_n--;
			break;
		}
	h->dropped = true;
	if (!aside)
		g->st.expired += h->spans;
	pthread_mutex_unlock(&g->lock);
	sqlite3_close_v2(h->writer);
	h->writer = NULL;
	for (int i = 0; i < 3; i++) {
		snprintf(from, sizeof from, "%s%s", h->path, parts[i]);
		snprintf(to, sizeof to, "%s.bad%s", h->path, parts[i]);
		if (aside)
			rename(from, to);
		else
			unlink(from);
	}
	if (aside) {
		damaged(g, 1);
		complain(g, "%s is damaged: set aside as .bad", h->path);
	}
	hour_put(g, h);
}

static struct hour *add_hour(struct segment *g, int64_t hour, char *path)
{
	struct hour *h = base_calloc(1, sizeof *h);
	*h = (struct hour){ .hour = hour, .refs = 1, .path = path, .t0 = INT64_MAX, .t1 = INT64_MIN };
	pthread_mutex_lock(&g->lock);
	g->hours = base_realloc(g->hours, (g->hours_n + 1) * sizeof *g->hours);
	uint32_t i = g->hours_n++;
	for (; i && g->hours[i - 1]->hour > hour; i--)
		g->hours[i] = g->hours[i - 1];
	g->hours[i] = h;
	pthread_mutex_unlock(&g->lock);
	return h;
}

static struct hour *hour_for(struct segment *g, int64_t hour)
{
	for (uint32_t i = 0; i < g->hours_n; i++) /* only this thread changes the list */
		if (g->hours[i]->hour == hour)
			return g->hours[i];
	char path[PATH_MAX];
	snprintf(path, sizeof path, "%s/%08llx-%016llx.seg", g->dir, (unsigned long long)hour, (unsigned long long)g->gen);
	return add_hour(g, hour, str_dup(str_of(path)));
}

/* ---- cutting the head into blocks -------------------------------------------------------------------------------------- */

static int64_t hour_of(const struct segment *g, const struct span *s, int64_t now_ns, bool *ret_clamped)
{
	int64_t past = g->retain_ns < PAST_MAX ? g->retain_ns : PAST_MAX;
	int64_t first = (now_ns - past) / HOUR, last = (now_ns + HOUR) / HOUR, hour = s->start_ns / HOUR;
	*ret_clamped = hour < first || hour > last;
	return hour < first ? first : hour > last ? last : hour;
}

static int insert_part(sqlite3 *db, int64_t id, const struct buf *data)
{
	sqlite3_stmt *q;
	int rc = sqlite3_prepare_v2(db, "INSERT INTO col VALUES(?,?,?)", -1, &q, NULL);
	if (rc == SQLITE_OK) {
		sqlite3_bind_int64(q, 1, id);
		sqlite3_bind_int64(q, 2, (int64_t)hash_bytes(data->p, data->n, 0));
		sqlite3_bind_blob64(q, 3, data->p, data->n, SQLITE_STATIC);
		rc = sqlite3_step(q);
		sqlite3_finalize(q);
	}
	return rc == SQLITE_DONE ? 0 : sql_code(db, rc);
}

static int insert_block(sqlite3 *db, uint64_t gen, const struct block *b)
{
	sqlite3_stmt *q;
	int rc = sqlite3_prepare_v2(db, "INSERT INTO blk(gen,n,errors,t0,t1,maxd,services,names,bloom) VALUES(?,?,?,?,?,?,?,?,?)", -1, &q, NULL);
	if (rc == SQLITE_OK) {
		int64_t v[] = { (int64_t)gen, b->n, b->errors, b->t0, b->t1, b->max_duration };
		for (int i = 0; i < 6; i++)
			sqlite3_bind_int64(q, i + 1, v[i]);
		sqlite3_bind_blob64(q, 7, b->services.p, b->services.n, SQLITE_STATIC);
		sqlite3_bind_blob64(q, 8, b->names.p, b->names.n, SQLITE_STATIC);
		sqlite3_bind_blob64(q, 9, b->bloom.p, b->bloom.n, SQLITE_STATIC);
		rc = sqlite3_step(q);
		sqlite3_finalize(q);
	}
	if (rc != SQLITE_DONE)
		return sql_code(db, rc);
	int64_t id = sqlite3_last_insert_rowid(db);
	rc = insert_part(db, id * 2, &b->head);
	return rc < 0 ? rc : insert_part(db, id * 2 + 1, &b->body);
}

static int has_gen(sqlite3 *db, uint64_t gen)
{
	sqlite3_stmt *q;
	int rc = sqlite3_prepare_v2(db, "SELECT 1 FROM blk WHERE gen=? LIMIT 1", -1, &q, NULL);
	if (rc == SQLITE_OK) {
		sqlite3_bind_int64(q, 1, (int64_t)gen);
		rc = sqlite3_step(q);
		sqlite3_finalize(q);
	}
	return rc == SQLITE_ROW ? 1 : rc == SQLITE_DONE ? 0 : sql_code(db, rc);
}

/* What a cut adds to an hour; published when the whole generation is done. */
struct added { struct hour *h; uint64_t spans; int64_t t0, t1; };

static int cut_hour(struct segment *g, struct hour *h, uint64_t gen, const struct batch **batches, uint32_t nbatches, struct block_row *rows, uint32_t n, struct added *ret_a)
{
	int rc = writer_of(h);
	if (rc < 0)
		return rc;
	sqlite3 *db = h->writer;
	if ((rc = sql_exec(db, "BEGIN IMMEDIATE")) < 0)
		return rc;
	struct added a = { h, n, INT64_MAX, INT64_MIN };
	for (uint32_t i = 0; i < n; i++) {
		int64_t start = batches[rows[i].batch]->spans[rows[i].i].start_ns;
		a.t0 = start < a.t0 ? start : a.t0;
		a.t1 = start > a.t1 ? start : a.t1;
	}
	rc = has_gen(db, gen);
	if (rc == 0) {
		for (uint32_t at = 0, k; at < n && rc == 0; at += k) {
			struct block b;
			k = block_fit(batches, rows + at, n - at);
			block_encode(g->enc, batches, nbatches, rows + at, k, &b);
			rc = insert_block(db, gen, &b);
			block_finish(&b);
		}
	}
	if (rc == 0)
		rc = sql_exec(db, "COMMIT");
	else if (rc > 0)
		rc = sql_exec(db, "ROLLBACK");
	if (rc < 0)
		sqlite3_exec(db, "ROLLBACK", NULL, NULL, NULL);
	else
		*ret_a = a;
	return rc;
}

/* Cuts the oldest generation of the head, all of it or (on failure, to be repeated) not yet. */
static int cut_oldest(struct segment *g)
{
	uint64_t gen = g->head[0]->gen, spans = 0;
	uint32_t nb = 0;
	while (nb < g->head_n && g->head[nb]->gen == gen)
		spans += g->head[nb++]->b->n;
	const struct batch **batches = base_alloc(nb * sizeof *batches);
	struct block_row *all = base_alloc((spans + 1) * sizeof *all), *rows = base_alloc((spans + 1) * sizeof *rows);
	int64_t *hours = base_alloc((spans + 1) * sizeof *hours);
	uint64_t n = 0, clamps = 0;
	for (uint32_t b = 0; b < nb; b++) {
		batches[b] = g->head[b]->b;
		for (uint32_t i = 0; i < batches[b]->n; i++, n++) {
			bool clamped;
			all[n] = (struct block_row){ b, i };
			hours[n] = hour_of(g, batches[b]->spans + i, g->head[b]->now_ns, &clamped);
			clamps += clamped;
		}
	}
	struct added *added = NULL;
	uint32_t nadded = 0;
	int rc = 0;
	for (int64_t last = INT64_MIN; rc == 0;) {
		int64_t next = INT64_MAX;
		for (uint64_t i = 0; i < n; i++)
			if (hours[i] > last && hours[i] < next)
				next = hours[i];
		if (next == INT64_MAX)
			break;
		uint32_t k = 0;
		for (uint64_t i = 0; i < n; i++)
			if (hours[i] == next)
				rows[k++] = all[i];
		added = base_realloc(added, (nadded + 1) * sizeof *added);
		struct hour *h = hour_for(g, next);
		rc = cut_hour(g, h, gen, batches, nb, rows, k, &added[nadded]);
		if (rc == KLIEG_E_CORRUPT) {
			drop_hour(g, h, true);
			for (uint32_t i = 0; i < k; i++)
				rows[i] = (struct block_row){ 0 };
			k = 0;
			for (uint64_t i = 0; i < n; i++)
				if (hours[i] == next)
					rows[k++] = all[i];
			rc = cut_hour(g, hour_for(g, next), gen, batches, nb, rows, k, &added[nadded]);
		}
		nadded += rc == 0;
		last = next;
	}
	if (rc == 0 && fsync(g->dir_fd) < 0)
		rc = err_from_errno(errno);
	if (rc == 0) {
		char path[PATH_MAX];
		struct stat st;
		wal_path(g, gen, path);
		uint64_t bytes = stat(path, &st) == 0 ? (uint64_t)st.st_size : 0;
		unlink(path);
		for (uint32_t i = 0; i < nadded; i++)
			set_bytes(g, added[i].h);
		struct held **gone = base_alloc((nb + 1) * sizeof *gone);
		uint32_t ngone = 0;
		pthread_mutex_lock(&g->lock);
		for (uint32_t i = 0; i < nadded; i++) {
			struct added *a = &added[i];
			a->h->spans += a->spans;
			a->h->t0 = a->t0 < a->h->t0 ? a->t0 : a->h->t0;
			a->h->t1 = a->t1 > a->h->t1 ? a->t1 : a->h->t1;
		}
		for (uint32_t i = 0; i < nb; i++)
			if (--g->head[i]->refs == 0)
				gone[ngone++] = g->head[i];
		memmove(g->head, g->head + nb, (g->head_n - nb) * sizeof *g->head);
		g->head_n -= nb;
		g->wal_old_bytes -= bytes < g->wal_old_bytes ? bytes : g->wal_old_bytes;
		g->st.clamped += clamps;
		pthread_mutex_unlock(&g->lock);
		g->head_spans -= spans;
		for (uint32_t i = 0; i < ngone; i++) {
			batch_destroy(gone[i]->b);
			free(gone[i]);
		}
		free(gone);
		/* Hours not written for a while give their connection back. */
		for (uint32_t i = 0; i + 4 < g->hours_n; i++) {
			sqlite3_close_v2(g->hours[i]->writer);
			g->hours[i]->writer = NULL;
		}
	} else {
		complain(g, "cannot write blocks: %s; the spans stay in the WAL", err_title(rc));
	}
	free(added);
	free(hours);
	free(rows);
	free(all);
	free(batches);
	return rc;
}

static int new_generation(struct segment *g)
{
	char path[PATH_MAX];
	if (g->wal.fd >= 0) {
		pthread_mutex_lock(&g->lock);
		g->wal_old_bytes += g->wal.size;
		pthread_mutex_unlock(&g->lock);
	}
	wal_close(&g->wal);
	wal_path(g, g->gen + 1, path);
	int rc = wal_create(&g->wal, path);
	if (rc < 0)
		return rc;
	fsync(g->dir_fd);
	pthread_mutex_lock(&g->lock);
	g->gen++;
	pthread_mutex_unlock(&g->lock);
	g->gen_spans = 0;
	g->gen_since = 0;
	return 0;
}

static void retention(struct segment *g)
{
	int64_t mono = clock_mono(), now = g->opened_wall + (mono - g->opened_mono); /* a clock that is set forward must not delete everything */
	g->last_retention = mono;
	for (;;) {
		uint64_t total = 0;
		for (uint32_t i = 0; i < g->hours_n; i++)
			total += g->hours[i]->bytes;
		if (!g->hours_n)
			return;
		struct hour *h = g->hours[0];
		bool old = (h->hour + 1) * HOUR < now - g->retain_ns;
		if (!old && (total <= g->retain_bytes || g->hours_n == 1))
			return;
		log_info("store", "retention: %llu spans of %s go", (unsigned long long)h->spans, h->path);
		drop_hour(g, h, false);
	}
}

/* Cuts what is due; a failure is tried again in a second. */
static void maintain(struct segment *g)
{
	int64_t now = clock_mono();
	if (now < g->retry_at)
		return;
	bool due = g->gen_spans >= BLOCK_SPANS || (g->gen_spans && g->gen_since && now - g->gen_since > CUT_AGE);
	if (due && new_generation(g) < 0) {
		g->retry_at = now + SEC;
		return;
	}
	while (g->head_n && g->head[0]->gen < g->gen)
		if (cut_oldest(g) < 0) {
			g->retry_at = now + SEC;
			retention(g);
			return;
		}
	if (due || now - g->last_retention > 10 * SEC)
		retention(g);
}

/* ---- the writer thread --------------------------------------------------------------------------------------------------- */

static void commit(struct segment *g, struct item *list)
{
	int64_t now = clock_wall();
	int rc = 0;
	if (g->wal.fd < 0)
		rc = new_generation(g);
	if (g->head_spans >= HEAD_SPANS_MAX)
		rc = KLIEG_E_DISK_FULL; /* blocks can't be written and the head is as large as it may be */
	uint64_t before = g->wal.size;
	bool wrote = false;
	for (struct item *i = list; i; i = i->next) {
		i->rc = rc < 0 ? rc : i->b->n ? wal_append(&g->wal, i->b, now) : 0;
		wrote |= i->rc == 0 && i->b->n;
	}
	if (wrote && (rc = wal_sync(&g->wal)) < 0) {
		wal_cut(&g->wal, before);
		for (struct item *i = list; i; i = i->next)
			i->rc = rc;
	}
	if (rc < 0)
		complain(g, "cannot write the WAL: %s", err_title(rc));
	uint32_t n = 0;
	for (struct item *i = list; i; i = i->next)
		n++;
	pthread_mutex_lock(&g->lock);
	if (g->head_cap - g->head_n < n) {
		g->head_cap = (g->head_n + n) * 2;
		g->head = base_realloc(g->head, g->head_cap * sizeof *g->head);
	}
	for (struct item *i = list; i; i = i->next) {
		g->st.queue_bytes -= i->bytes;
		if (i->rc < 0) {
			g->st.failed += i->b->n;
			continue;
		}
		g->st.stored += i->b->n;
		g->gen_spans += i->b->n;
		g->head_spans += i->b->n;
		if (i->b->n) {
			struct held *h = base_alloc(sizeof *h);
			*h = (struct held){ i->b, g->gen, now, 1 };
			g->head[g->head_n++] = h;
		}
	}
	g->st.wal_bytes = g->wal.size;
	pthread_mutex_unlock(&g->lock);
	if (!g->gen_since && g->gen_spans)
		g->gen_since = clock_mono();
	for (struct item *i = list, *next; i; i = next) {
		next = i->next;
		uint32_t spans = i->b->n;
		if (i->rc < 0 || !spans)
			batch_destroy(i->b);
		if (i->done)
			i->done(i->arg, i->rc, spans);
		free(i);
	}
	pthread_mutex_lock(&g->lock);
	g->writing_since = 0;
	g->seq_done += n;
	pthread_cond_broadcast(&g->progress);
	pthread_mutex_unlock(&g->lock);
}

static void wait_until(struct segment *g, int64_t mono)
{
	struct timespec t = { mono / SEC, mono % SEC };
	pthread_cond_timedwait(&g->wake, &g->lock, &t);
}

static void *writer(void *arg)
{
	struct segment *g = arg;
	pthread_mutex_lock(&g->lock);
	for (;;) {
		int64_t now = clock_mono();
		priority_pace(&g->pace, now);
		if (!g->queue) {
			if (g->stop)
				break;
			wait_until(g, now + SEC);
			if (!g->queue && !g->stop) {
				pthread_mutex_unlock(&g->lock);
				maintain(g);
				pthread_mutex_lock(&g->lock);
			}
			continue;
		}
		int64_t due = g->last_commit + g->commit_ns;
		if (now < due && !g->stop && !g->flushing && g->st.queue_bytes < GROUP_BYTES) {
			wait_until(g, due);
			continue;
		}
		struct item *list = g->queue;
		g->writing_since = list->queued_ns;
		g->queue = NULL;
		g->queue_end = &g->queue;
		pthread_mutex_unlock(&g->lock);
		g->last_commit = now;
		commit(g, list);
		maintain(g);
		pthread_mutex_lock(&g->lock);
	}
	pthread_mutex_unlock(&g->lock);
	return NULL;
}

static void segment_await(struct store *s) { priority_await(&((struct segment *)s)->pace); }

static uint64_t batch_bytes(const struct batch *b)
{
	return sizeof *b + (uint64_t)b->n * sizeof *b->spans + (uint64_t)b->attrs_n * sizeof *b->attrs + (uint64_t)b->events_n * sizeof *b->events +
		(uint64_t)b->links_n * sizeof *b->links + b->strs.bytes + (uint64_t)b->strs.n * 24;
}

static int segment_append(struct store *s, struct batch *b, store_done_fn done, void *arg)
{
	struct segment *g = (struct segment *)s;
	struct item *i = base_alloc(sizeof *i);
	*i = (struct item){ .b = b, .done = done, .arg = arg, .queued_ns = clock_mono(), .bytes = batch_bytes(b) };
	pthread_mutex_lock(&g->lock);
	/* One batch is always taken, however large, if nothing else waits. */
	if (g->stop || (g->st.queue_bytes && g->st.queue_bytes + i->bytes > g->queue_max)) {
		pthread_mutex_unlock(&g->lock);
		free(i);
		return KLIEG_E_BUSY;
	}
	bool idle = !g->queue;
	*g->queue_end = i;
	g->queue_end = &i->next;
	g->st.queue_bytes += i->bytes;
	g->st.appended += b->n;
	g->seq++;
	if (idle || g->st.queue_bytes >= GROUP_BYTES)
		pthread_cond_signal(&g->wake);
	pthread_mutex_unlock(&g->lock);
	return 0;
}

static int segment_flush(struct store *s)
{
	struct segment *g = (struct segment *)s;
	pthread_mutex_lock(&g->lock);
	uint64_t want = g->seq;
	g->flushing++;
	pthread_cond_signal(&g->wake);
	while (g->seq_done < want)
		pthread_cond_wait(&g->progress, &g->lock);
	g->flushing--;
	pthread_mutex_unlock(&g->lock);
	return 0;
}

/* ---- reading -------------------------------------------------------------------------------------------------------------- */

struct sweep {
	struct segment *g;
	struct block_filter f;
	struct tq_matcher *matcher;     /* NULL = all match */
	int64_t deadline_ns;
	store_visit_fn fn;
	void *arg;
	struct store_found found;
	bool stop;
};

static bool late(struct sweep *w)
{
	if (w->deadline_ns && clock_mono() > w->deadline_ns)
		w->found.partial = w->stop = true;
	return w->stop;
}

static void offer(struct sweep *w, const struct batch *b, uint32_t i)
{
	if (w->matcher && !traceql_matcher_match(w->matcher, b, i))
		return;
	w->found.matched++;
	if (w->fn(w->arg, b, i))
		w->stop = true;
}

static void sweep_held(struct sweep *w, const struct batch *b)
{
	const struct block_filter *f = &w->f;
	if (w->matcher)
		traceql_matcher_begin(w->matcher, b);
	for (uint32_t i = 0; i < b->n && !w->stop; i++) {
		const struct span *s = b->spans + i;
		if ((i & 4095) == 0 && late(w))
			return;
		w->found.scanned_spans++;
		if (s->start_ns < f->from_ns || s->start_ns >= f->to_ns || s->duration_ns < f->min_duration || s->duration_ns > f->max_duration ||
			(f->errors_only && s->status != STATUS_ERROR) || (f->by_trace && (s->trace_hi != f->trace_hi || s->trace_lo != f->trace_lo)) ||
			(f->name.n && !str_eq(batch_text(b, s->name), f->name)))
			continue;
		if (f->service.n && (s->resource >= b->resources_n || !str_eq(batch_text(b, b->resources[s->resource].service), f->service)))
			continue;
		offer(w, b, i);
	}
}

/* The bytes of one part, while q is not stepped again; KLIEG_E_CORRUPT if they are not what was written. */
static int load_part(sqlite3 *db, sqlite3_stmt *q, int64_t id, struct str *ret_data)
{
	sqlite3_reset(q);
	sqlite3_bind_int64(q, 1, id);
	int rc = sqlite3_step(q);
	if (rc != SQLITE_ROW)
		return rc == SQLITE_DONE ? KLIEG_E_CORRUPT : sql_code(db, rc);
	ret_data->p = sqlite3_column_blob(q, 1);
	ret_data->n = (size_t)sqlite3_column_bytes(q, 1);
	return ret_data->p && hash_bytes(ret_data->p, ret_data->n, 0) == (uint64_t)sqlite3_column_int64(q, 0) ? 0 : KLIEG_E_CORRUPT;
}

static int sweep_block(struct sweep *w, sqlite3 *db, sqlite3_stmt *head, sqlite3_stmt *body, int64_t id, uint8_t *sel)
{
	struct str h, y;
	uint32_t n;
	int rc = load_part(db, head, id * 2, &h);
	if (rc < 0)
		return rc;
	rc = block_select(h, &w->f, sel, &n);
	if (rc < 0)
		return rc;
	w->found.scanned_blocks++;
	w->found.scanned_spans += n;
	if (!rc)
		return 0;
	if ((rc = load_part(db, body, id * 2 + 1, &y)) < 0)
		return rc;
	struct batch *b = batch_create();
	rc = block_decode(h, y, sel, b);
	if (w->matcher)
		traceql_matcher_begin(w->matcher, b);
	for (uint32_t i = 0; rc == 0 && i < b->n && !w->stop && !((i & 4095) == 0 && late(w)); i++)
		offer(w, b, i);
	batch_destroy(b);
	return rc;
}

static int sweep_hour(struct sweep *w, sqlite3 *db, uint64_t below_gen, uint8_t *sel)
{
	sqlite3_stmt *q = NULL, *head = NULL, *body = NULL;
	const struct block_filter *f = &w->f;
	int rc = sqlite3_prepare_v2(db, "SELECT id,n,errors,t0,t1,maxd,services,names,bloom FROM blk WHERE gen<?", -1, &q, NULL);
	if (rc == SQLITE_OK)
		rc = sqlite3_prepare_v2(db, "SELECT hash,data FROM col WHERE id=?", -1, &head, NULL);
	if (rc == SQLITE_OK)
		rc = sqlite3_prepare_v2(db, "SELECT hash,data FROM col WHERE id=?", -1, &body, NULL);
	if (rc == SQLITE_OK) {
		sqlite3_bind_int64(q, 1, (int64_t)below_gen);
		while (!late(w) && (rc = sqlite3_step(q)) == SQLITE_ROW) {
			int64_t id = sqlite3_column_int64(q, 0);
			if (sqlite3_column_int64(q, 3) >= f->to_ns || sqlite3_column_int64(q, 4) < f->from_ns ||
				sqlite3_column_int64(q, 5) < f->min_duration || (f->errors_only && !sqlite3_column_int64(q, 2)) ||
				(f->service.n && !block_listed(sqlite3_column_blob(q, 6), (size_t)sqlite3_column_bytes(q, 6), f->service)) ||
				(f->name.n && !block_listed(sqlite3_column_blob(q, 7), (size_t)sqlite3_column_bytes(q, 7), f->name)) ||
				(f->by_trace && !block_bloom_has(sqlite3_column_blob(q, 8), (size_t)sqlite3_column_bytes(q, 8), f->trace_hi, f->trace_lo))) {
				w->found.skipped_blocks++;
				continue;
			}
			int bad = sweep_block(w, db, head, body, id, sel);
			if (bad < 0) {
				damaged(w->g, 1);
				complain(w->g, "block %lld of %s skipped: %s", (long long)id, sqlite3_db_filename(db, "main"), err_title(bad));
			}
		}
		rc = rc == SQLITE_ROW || rc == SQLITE_DONE || w->stop ? SQLITE_OK : rc;
	}
	int code = rc == SQLITE_OK ? 0 : sql_code(db, rc);
	sqlite3_finalize(q);
	sqlite3_finalize(head);
	sqlite3_finalize(body);
	return code;
}

static sqlite3 *reader_get(struct segment *g, struct hour *h, int *ret_rc)
{
	sqlite3 *db = NULL;
	pthread_mutex_lock(&g->lock);
	if (h->npool)
		db = h->pool[--h->npool];
	pthread_mutex_unlock(&g->lock);
	*ret_rc = db ? 0 : connect_hour(h, false, &db);
	return db;
}

static void reader_put(struct segment *g, struct hour *h, sqlite3 *db)
{
	pthread_mutex_lock(&g->lock);
	if (h->npool < POOL && !h->dropped) {
		h->pool[h->npool++] = db;
		db = NULL;
	}
	pthread_mutex_unlock(&g->lock);
	sqlite3_close_v2(db);
}

static void sweep(struct sweep *w)
{
	struct segment *g = w->g;
	pthread_mutex_lock(&g->lock);
	uint32_t nheld = g->head_n, nhours = 0;
	uint64_t below = nheld ? g->head[0]->gen : g->gen;
	struct held **held = base_alloc((nheld + 1) * sizeof *held);
	struct hour **hours = base_alloc((g->hours_n + 1) * sizeof *hours);
	for (uint32_t i = 0; i < nheld; i++) {
		held[i] = g->head[i];
		held[i]->refs++;
	}
	for (uint32_t i = g->hours_n; i-- > 0;) {
		struct hour *h = g->hours[i];
		if (!h->spans || h->t0 >= w->f.to_ns || h->t1 < w->f.from_ns)
			continue;
		h->refs++;
		hours[nhours++] = h;
	}
	pthread_mutex_unlock(&g->lock);
	for (uint32_t i = 0; i < nheld && !w->stop; i++)
		sweep_held(w, held[i]->b);
	uint8_t *sel = base_alloc(BLOCK_SPANS);
	for (uint32_t i = 0; i < nhours; i++) {
		int rc = 0;
		sqlite3 *db = late(w) ? NULL : reader_get(g, hours[i], &rc);
		if (db) {
			rc = sweep_hour(w, db, below, sel);
			reader_put(g, hours[i], db);
		}
		if (rc < 0 && !hours[i]->dropped) {
			damaged(g, 1);
			complain(g, "%s skipped: %s", hours[i]->path, err_title(rc));
		}
		hour_put(g, hours[i]);
	}
	free(sel);
	for (uint32_t i = 0; i < nheld; i++) {
		pthread_mutex_lock(&g->lock);
		bool last = --held[i]->refs == 0;
		pthread_mutex_unlock(&g->lock);
		if (last) {
			batch_destroy(held[i]->b);
			free(held[i]);
		}
	}
	free(held);
	free(hours);
}

static int keep(void *arg, const struct batch *b, uint32_t i)
{
	batch_copy_span(arg, b, i);
	return 0;
}

/* Traces met, each once: open addressing over 16-byte ids; never more than half full. */
struct traces { uint64_t (*id)[2]; uint32_t n, cap; };

static int meet(void *arg, const struct batch *b, uint32_t i)
{
	struct traces *t = arg;
	const struct span *s = b->spans + i;
	if (t->n * 2 >= t->cap) {
		struct traces big = { .cap = t->cap ? t->cap * 2 : 1024 };
		big.id = base_calloc(big.cap, sizeof *big.id);
		for (uint32_t k = 0; k < t->cap; k++)
			if (t->id[k][0] | t->id[k][1]) {
				uint32_t at = (uint32_t)hash_bytes(t->id[k], 16, 0) & (big.cap - 1);
				while (big.id[at][0] | big.id[at][1])
					at = (at + 1) & (big.cap - 1);
				memcpy(big.id[at], t->id[k], 16);
				big.n++;
			}
		free(t->id);
		*t = big;
	}
	uint64_t id[2] = { s->trace_hi, s->trace_lo };
	if (!(id[0] | id[1]))
		return 0; /* not a valid trace */
	uint32_t at = (uint32_t)hash_bytes(id, 16, 0) & (t->cap - 1);
	while ((t->id[at][0] | t->id[at][1]) && memcmp(t->id[at], id, 16))
		at = (at + 1) & (t->cap - 1);
	t->n += !(t->id[at][0] | t->id[at][1]);
	memcpy(t->id[at], id, 16);
	return 0;
}

static void whole_trace(struct sweep *w, uint64_t hi, uint64_t lo, struct batch *out)
{
	struct sweep one = { .g = w->g, .fn = keep, .arg = out, .deadline_ns = w->deadline_ns };
	one.f = (struct block_filter){ .from_ns = INT64_MIN, .to_ns = INT64_MAX, .min_duration = INT64_MIN, .max_duration = INT64_MAX,
		.by_trace = true, .trace_hi = hi, .trace_lo = lo };
	sweep(&one);
	w->stop |= one.stop;
	w->found.partial |= one.found.partial;
}

/* A query about the trace around a span (root name, child count): the candidates' traces are fetched whole, one by one. */
static void sweep_traces(struct sweep *w)
{
	struct traces t = { 0 };
	struct sweep first = *w;
	first.matcher = NULL;
	first.fn = meet;
	first.arg = &t;
	sweep(&first);
	w->found = first.found;
	w->found.matched = 0;
	w->stop = first.stop;
	for (uint32_t k = 0; k < t.cap && !w->stop; k++) {
		if (!(t.id[k][0] | t.id[k][1]))
			continue;
		struct batch *b = batch_create();
		uint64_t scanned = w->found.scanned_spans;
		whole_trace(w, t.id[k][0], t.id[k][1], b);
		if (!w->stop)
			sweep_held(w, b);
		w->found.scanned_spans = scanned;
		batch_destroy(b);
	}
	free(t.id);
}

static int segment_scan(struct store *s, const struct store_query *q, store_visit_fn fn, void *arg, struct store_found *ret_found, struct err *e)
{
	struct sweep w = { .g = (struct segment *)s, .deadline_ns = q->deadline_ns, .fn = fn, .arg = arg };
	w.f = (struct block_filter){ .from_ns = q->from_ns, .to_ns = q->to_ns, .max_duration = INT64_MAX, .min_duration = INT64_MIN };
	if (q->q) {
		struct tq_pushdown p = { .max_duration_ns = INT64_MAX };
		traceql_pushdown(q->q, &p);
		w.f.min_duration = p.min_duration_ns > 0 ? p.min_duration_ns : INT64_MIN;
		w.f.max_duration = p.max_duration_ns;
		w.f.service = p.service;
		w.f.name = p.name;
		w.f.errors_only = p.errors_only;
		w.f.by_trace = p.trace_hi || p.trace_lo;
		w.f.trace_hi = p.trace_hi;
		w.f.trace_lo = p.trace_lo;
		w.matcher = traceql_matcher_create(q->q);
	}
	if (q->q && traceql_needs_trace(q->q))
		sweep_traces(&w);
	else
		sweep(&w);
	traceql_matcher_destroy(w.matcher);
	if (ret_found)
		*ret_found = w.found;
	return 0;
}

static int by_start(const void *x, const void *y)
{
	const struct span *a = x, *b = y;
	return a->start_ns < b->start_ns ? -1 : a->start_ns > b->start_ns;
}

static int segment_trace(struct store *s, uint64_t hi, uint64_t lo, struct batch **ret_trace, struct err *e)
{
	struct batch *b = batch_create();
	struct sweep w = { .g = (struct segment *)s, .fn = keep, .arg = b };
	w.f = (struct block_filter){ .from_ns = INT64_MIN, .to_ns = INT64_MAX, .min_duration = INT64_MIN, .max_duration = INT64_MAX,
		.by_trace = true, .trace_hi = hi, .trace_lo = lo };
	sweep(&w);
	if (!b->n) {
		char hex[33];
		batch_destroy(b);
		trace_id_hex(hi, lo, hex);
		return err_set(e, KLIEG_E_NOT_FOUND, "no trace %s", hex);
	}
	qsort(b->spans, b->n, sizeof *b->spans, by_start); /* rows only point into the pools: they may be moved */
	*ret_trace = b;
	return 0;
}

static void segment_stats(struct store *s, struct store_stats *ret_st)
{
	struct segment *g = (struct segment *)s;
	pthread_mutex_lock(&g->lock);
	struct store_stats st = g->st;
	int64_t oldest = g->writing_since ? g->writing_since : g->queue ? g->queue->queued_ns : 0; /* a disk that stands still does so while it writes */
	st.queue_age_ns = oldest ? clock_mono() - oldest : 0;
	st.wal_bytes += g->wal_old_bytes;
	int64_t t0 = INT64_MAX, t1 = INT64_MIN;
	for (uint32_t i = 0; i < g->hours_n; i++) {
		struct hour *h = g->hours[i];
		st.spans += h->spans;
		st.bytes += h->bytes;
		st.files++;
		t0 = h->spans && h->t0 < t0 ? h->t0 : t0;
		t1 = h->spans && h->t1 > t1 ? h->t1 : t1;
	}
	for (uint32_t i = 0; i < g->head_n; i++)
		st.spans += g->head[i]->b->n;
	st.oldest_ns = t0 <= t1 ? t0 : 0;
	st.newest_ns = t0 <= t1 ? t1 : 0;
	pthread_mutex_unlock(&g->lock);
	*ret_st = st;
}

/* ---- open and close --------------------------------------------------------------------------------------------------------- */

struct recovering { struct segment *g; uint64_t gen; };

static void recovered(void *arg, struct batch *b, int64_t now_ns)
{
	struct recovering *r = arg;
	struct segment *g = r->g;
	if (g->head_n == g->head_cap) {
		g->head_cap = g->head_cap ? g->head_cap * 2 : 64;
		g->head = base_realloc(g->head, g->head_cap * sizeof *g->head);
	}
	struct held *h = base_alloc(sizeof *h);
	*h = (struct held){ b, r->gen, now_ns, 1 };
	g->head[g->head_n++] = h;
	g->head_spans += b->n;
	g->st.recovered += b->n;
}

static int u64_order(const void *x, const void *y)
{
	uint64_t a = *(const uint64_t *)x, b = *(const uint64_t *)y;
	return a < b ? -1 : a > b;
}

/* Reads an hour file's totals and the newest generation in it. */
static int survey(struct hour *h, uint64_t *io_gen)
{
	sqlite3 *db;
	sqlite3_stmt *q = NULL;
	int rc = connect_hour(h, false, &db);
	if (rc < 0)
		return rc;
	int r = sqlite3_prepare_v2(db, "SELECT application_id, user_version FROM pragma_application_id, pragma_user_version", -1, &q, NULL);
	if (r == SQLITE_OK && (r = sqlite3_step(q)) == SQLITE_ROW)
		rc = sqlite3_column_int(q, 0) == APP_ID && sqlite3_column_int(q, 1) == 1 ? 0 : KLIEG_E_CORRUPT;
	else
		rc = sql_code(db, r);
	sqlite3_finalize(q);
	q = NULL;
	if (rc == 0) {
		r = sqlite3_prepare_v2(db, "SELECT coalesce(sum(n),0), min(t0), max(t1), coalesce(max(gen),0) FROM blk", -1, &q, NULL);
		if (r == SQLITE_OK && (r = sqlite3_step(q)) == SQLITE_ROW) {
			h->spans = (uint64_t)sqlite3_column_int64(q, 0);
			if (h->spans) {
				h->t0 = sqlite3_column_int64(q, 1);
				h->t1 = sqlite3_column_int64(q, 2);
			}
			uint64_t gen = (uint64_t)sqlite3_column_int64(q, 3);
			*io_gen = gen > *io_gen ? gen : *io_gen;
		} else {
			rc = sql_code(db, r);
		}
		sqlite3_finalize(q);
	}
	sqlite3_close_v2(db);
	return rc;
}

static int load(struct segment *g, struct err *e)
{
	DIR *d = opendir(g->dir);
	if (!d)
		return err_set(e, err_from_errno(errno), "cannot read the store's directory %s: %s", g->dir, strerror(errno));
	uint64_t *wals = NULL;
	uint32_t nwals = 0;
	for (struct dirent *f; (f = readdir(d));) {
		unsigned long long a, b;
		int end = 0;
		char path[PATH_MAX];
		if (sscanf(f->d_name, "%8llx-%16llx.seg%n", &a, &b, &end) == 2 && end && !f->d_name[end]) {
			snprintf(path, sizeof path, "%s/%s", g->dir, f->d_name);
			struct hour *h = add_hour(g, (int64_t)a, str_dup(str_of(path)));
			g->gen = b > g->gen ? b : g->gen;
			int rc = survey(h, &g->gen);
			struct stat st;
			if (rc == KLIEG_E_CORRUPT && stat(path, &st) == 0 && st.st_size > 0)
				drop_hour(g, h, true);
			else if (rc < 0 && rc != KLIEG_E_CORRUPT)
				complain(g, "%s skipped: %s", path, err_title(rc));
			else
				set_bytes(g, h);
		} else if (sscanf(f->d_name, "%16llx.wal%n", &a, &end) == 1 && end && !f->d_name[end]) {
			wals = base_realloc(wals, (nwals + 1) * sizeof *wals);
			wals[nwals++] = a;
			g->gen = a > g->gen ? a : g->gen;
		}
	}
	closedir(d);
	if (nwals)
		qsort(wals, nwals, sizeof *wals, u64_order);
	for (uint32_t i = 0; i < nwals; i++) {
		char path[PATH_MAX];
		uint64_t bad = 0;
		uint32_t before = g->head_n;
		struct stat st;
		struct recovering r = { g, wals[i] };
		wal_path(g, wals[i], path);
		int rc = wal_replay(path, recovered, &r, &bad);
		if (rc < 0) {
			free(wals);
			return err_set(e, rc, "cannot read %s: %s", path, err_title(rc));
		}
		if (bad) {
			char aside[PATH_MAX + 8];
			damaged(g, bad);
			complain(g, "%s: %llu damaged records skipped; a copy is kept as .bad", path, (unsigned long long)bad);
			snprintf(aside, sizeof aside, "%s.bad", path);
			unlink(aside);
			if (link(path, aside) < 0)
				log_warn("store", "cannot keep %s: %s", aside, strerror(errno));
		}
		if (g->head_n == before)
			unlink(path);
		else
			g->wal_old_bytes += stat(path, &st) == 0 ? (uint64_t)st.st_size : 0;
	}
	free(wals);
	return 0;
}

static void segment_free(struct segment *g)
{
	wal_close(&g->wal);
	for (uint32_t i = 0; i < g->head_n; i++) {
		batch_destroy(g->head[i]->b);
		free(g->head[i]);
	}
	free(g->head);
	for (uint32_t i = 0; i < g->hours_n; i++)
		hour_free(g->hours[i]);
	free(g->hours);
	block_enc_destroy(g->enc);
	if (g->dir_fd >= 0)
		close(g->dir_fd);
	if (g->lock_fd >= 0)
		close(g->lock_fd);
	pthread_mutex_destroy(&g->lock);
	pthread_cond_destroy(&g->wake);
	pthread_cond_destroy(&g->progress);
	free(g->dir);
	free(g);
}

static void segment_close(struct store *s)
{
	struct segment *g = (struct segment *)s;
	pthread_mutex_lock(&g->lock);
	g->stop = true;
	pthread_cond_signal(&g->wake);
	pthread_mutex_unlock(&g->lock);
	pthread_join(g->thread, NULL);
	segment_free(g);
}

static const struct store_ops segment_ops = {
	.close = segment_close, .append = segment_append, .flush = segment_flush, .await = segment_await, .scan = segment_scan, .trace = segment_trace, .stats = segment_stats,
};

int segment_open(const struct store_config *c, struct store **ret_s, struct err *e)
{
	char path[PATH_MAX];
	if (strlen(c->dir) > PATH_MAX - 64)
		return err_set(e, KLIEG_E_USAGE, "the store's directory has too long a name");
	if (mkdir(c->dir, 0700) < 0 && errno != EEXIST)
		return err_set(e, err_from_errno(errno), "cannot create the store's directory %s: %s", c->dir, strerror(errno));
	struct segment *g = base_calloc(1, sizeof *g);
	g->store.ops = &segment_ops;
	g->dir = str_dup(str_of(c->dir));
	g->retain_ns = c->retain_ns ? c->retain_ns : 72 * HOUR;
	g->opened_wall = clock_wall();
	g->opened_mono = clock_mono();
	g->retain_bytes = c->retain_bytes ? c->retain_bytes : 10ull << 30;
	g->commit_ns = c->commit_ns ? c->commit_ns : SEC / 20;
	if (g->commit_ns > SEC / 10)
		g->commit_ns = SEC / 10;
	g->queue_max = c->queue_bytes ? c->queue_bytes : 256u << 20;
	g->queue_end = &g->queue;
	g->wal.fd = -1;
	pthread_mutex_init(&g->lock, NULL);
	pthread_condattr_t mono;
	pthread_condattr_init(&mono);
	pthread_condattr_setclock(&mono, CLOCK_MONOTONIC);
	pthread_cond_init(&g->wake, &mono);
	pthread_condattr_destroy(&mono);
	pthread_cond_init(&g->progress, NULL);
	snprintf(path, sizeof path, "%s/lock", c->dir);
	g->dir_fd = open(c->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	g->lock_fd = open(path, O_CREAT | O_RDWR | O_CLOEXEC, 0600);
	int rc = 0;
	if (g->dir_fd < 0 || g->lock_fd < 0) {
		rc = err_set(e, err_from_errno(errno), "cannot open the store in %s: %s", c->dir, strerror(errno));
	} else if (flock(g->lock_fd, LOCK_EX | LOCK_NB) < 0) {
		rc = err_set(e, KLIEG_E_BUSY, "the store in %s is in use by another process", c->dir);
		err_hint(e, "stop the other server, or give this one another --dir");
	}
	if (rc == 0)
		rc = load(g, e);
	if (rc == 0) {
		g->enc = block_enc_create();
		/* A full disk must not stop the server from starting: it is said with each append, and tried again. */
		int made = new_generation(g);
		if (made < 0) {
			g->gen++; /* never write into a generation that was replayed */
			complain(g, "cannot create the WAL: %s", err_title(made));
		}
		maintain(g);
		int err = pthread_create(&g->thread, NULL, writer, g);
		if (err)
			rc = err_set(e, KLIEG_E_NOMEM, "cannot start the store's thread: %s", strerror(err));
	}
	if (rc < 0) {
		segment_free(g);
		return rc;
	}
	*ret_s = &g->store;
	return 0;
}
