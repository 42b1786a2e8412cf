/* Prints `name value unit` lines: what the segment store takes, costs on disk and answers in, beside SQLite rows with two indexes. */
#include "base/clock.h"
#include "gen.h"
#include "store/store.h"
#include <dirent.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define HOUR 3600000000000ll
enum { BATCH = 8192 };

static int drop_match(void *arg, const struct batch *b, uint32_t i) { return 0; }

static void remove_all(const char *dir)
{
	char path[400];
	DIR *d = opendir(dir);
	for (struct dirent *f; d && (f = readdir(d));) {
		snprintf(path, sizeof path, "%s/%s", dir, f->d_name);
		unlink(path);
	}
	if (d)
		closedir(d);
	rmdir(dir);
}

static double ms(int64_t ns) { return (double)ns / 1e6; }

static double sqlite_rows(const char *dir, uint32_t n, int64_t now, double *ret_bytes)
{
	char path[300];
	sqlite3 *db;
	sqlite3_stmt *q;
	struct gen g;
	snprintf(path, sizeof path, "%s/rows.db", dir);
	sqlite3_open(path, &db);
	sqlite3_exec(db, "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; CREATE TABLE span(trace BLOB, id INT, parent INT, start INT, duration INT, service TEXT, name TEXT,"
		"kind INT, status INT, attrs BLOB); CREATE INDEX a ON span(trace); CREATE INDEX b ON span(service, start)", NULL, NULL, NULL);
	sqlite3_prepare_v2(db, "INSERT INTO span VALUES(?,?,?,?,?,?,?,?,?,?)", -1, &q, NULL);
	gen_init(&g, 1, now - HOUR, 100000);
	int64_t took = 0;
	uint32_t done = 0;
	while (done < n) {
		struct batch *b = gen_batch(&g, BATCH);
		int64_t t = clock_cpu();
		sqlite3_exec(db, "BEGIN", NULL, NULL, NULL);
		for (uint32_t i = 0; i < b->n; i++) {
			const struct span *s = b->spans + i;
			struct str service = batch_text(b, b->resources[s->resource].service), name = batch_text(b, s->name);
			struct buf attrs = { 0 };
			for (uint32_t k = 0; k < s->attrs.n; k++) {
				const struct attr *a = b->attrs + s->attrs.off + k;
				struct str key = batch_text(b, a->key), v = a->type == ATTR_STR ? batch_text(b, a->s) : (struct str){ (const char *)&a->i, 8 };
				buf_add(&attrs, key.p, key.n);
				buf_byte(&attrs, a->type);
				buf_add(&attrs, v.p, v.n);
			}
			sqlite3_bind_blob(q, 1, &s->trace_hi, 16, SQLITE_STATIC);
			sqlite3_bind_int64(q, 2, (int64_t)s->span_id);
			sqlite3_bind_int64(q, 3, (int64_t)s->parent_id);
			sqlite3_bind_int64(q, 4, s->start_ns);
			sqlite3_bind_int64(q, 5, s->duration_ns);
			sqlite3_bind_text(q, 6, service.p, (int)service.n, SQLITE_STATIC);
			sqlite3_bind_text(q, 7, name.p, (int)name.n, SQLITE_STATIC);
			sqlite3_bind_int(q, 8, s->kind);
			sqlite3_bind_int(q, 9, s->status);
			sqlite3_bind_blob(q, 10, attrs.p, (int)attrs.n, SQLITE_STATIC);
			sqlite3_step(q);
			sqlite3_reset(q);
			buf_finish(&attrs);
		}
		sqlite3_exec(db, "COMMIT", NULL, NULL, NULL);
		took += clock_cpu() - t;
		done += b->n;
		batch_destroy(b);
	}
	sqlite3_finalize(q);
	sqlite3_close(db);
	struct stat st;
	stat(path, &st);
	*ret_bytes = (double)st.st_size / done;
	return done / ((double)took / 1e9);
}

int main(int argc, char **argv)
{
	uint32_t n = argc > 1 ? (uint32_t)atoi(argv[1]) : 2000000;
	char dir[] = "/tmp/bench-store-XXXXXX", rows[] = "/tmp/bench-rows-XXXXXX";
	struct store *s;
	struct err e;
	struct gen g;
	int64_t now = clock_wall();
	if (!mkdtemp(dir) || !mkdtemp(rows))
		return 1;
	struct store_config c = { .dir = dir };
	if (store_open(&c, &s, &e) < 0) {
		fprintf(stderr, "%s\n", e.msg);
		return 1;
	}
	gen_init(&g, 1, now - HOUR / 2, (int64_t)((HOUR / 2) / (n / 8.0)));
	uint64_t done = 0, hi = 0, lo = 0;
	int64_t cpu = 0, wall = 0;
	/* Spans are made first and paid for apart, in rounds that fit the queue; the thread that appends only waits. */
	while (done < n) {
		struct batch *b[16];
		for (int i = 0; i < 16; i++)
			b[i] = gen_batch(&g, BATCH);
		hi = b[0]->spans[0].trace_hi;
		lo = b[0]->spans[0].trace_lo;
		int64_t t = clock_cpu(), w = clock_mono();
		for (int i = 0; i < 16; i++) {
			uint32_t k = b[i]->n;
			while (store_append(s, b[i], NULL, NULL) < 0)
				store_flush(s);
			done += k;
		}
		store_flush(s);
		cpu += clock_cpu() - t;
		wall += clock_mono() - w;
	}
	int64_t t = clock_cpu(), w = clock_mono();
	store_close(s);
	store_open(&c, &s, &e); /* the rest becomes a block */
	cpu += clock_cpu() - t;
	wall += clock_mono() - w;
	struct store_stats st;
	store_stats(s, &st);
	printf("store_append_cpu %.0f spans/cpu-s\nstore_append_wall %.0f spans/s\nstore_disk %.1f B/span\n", (double)done / ((double)cpu / 1e9),
		(double)done / ((double)wall / 1e9), (double)st.bytes / (double)st.spans);
	for (int i = 0; i < 2; i++) { /* the second is warm */
		struct batch *b;
		t = clock_mono();
		if (store_trace(s, hi, lo, &b, &e) == 0)
			batch_destroy(b);
		t = clock_mono() - t;
	}
	printf("store_trace %.2f ms\n", ms(t));
	struct traceql *q;
	traceql_parse(STR("{ resource.service.name = \"payment\" && duration > 20ms }"), &q, &e);
	struct store_query sq = { .q = q, .from_ns = now - HOUR, .to_ns = now + HOUR };
	struct store_found f = { 0 };
	for (int i = 0; i < 2; i++) {
		t = clock_mono();
		store_scan(s, &sq, drop_match, NULL, &f, &e);
		t = clock_mono() - t;
	}
	printf("store_query_service_duration %.1f ms\nstore_query_per_10m %.1f ms\nstore_query_matched %llu spans\n", ms(t), ms(t) * 1e7 / (double)done, (unsigned long long)f.matched);
	traceql_destroy(q);
	store_close(s);
	double bytes, rate = sqlite_rows(rows, n / 8, now, &bytes);
	printf("peer_sqlite_rows_cpu %.0f spans/cpu-s\npeer_sqlite_rows_disk %.1f B/span\n", rate, bytes);
	remove_all(dir);
	remove_all(rows);
	return 0;
}
