/* The segment store: what is acknowledged is there once, whatever dies or lies; readers never see a span twice. */
#include "base/clock.h"
#include "store/block.h"
#include "store/state.h"
#include "store/store.h"
#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#define HOUR 3600000000000ll

static uint64_t rng_state = 88172645463325252ull;
static uint64_t rnd(void)
{
	rng_state ^= rng_state << 13;
	rng_state ^= rng_state >> 7;
	return rng_state ^= rng_state << 17;
}

/* ---- scratch directories ---- */

static char dir[64];

static int setup(void **state)
{
	snprintf(dir, sizeof dir, "/tmp/store-test-XXXXXX");
	return mkdtemp(dir) ? 0 : -1;
}

static int teardown(void **state)
{
	DIR *d = opendir(dir);
	char path[400];
	for (struct dirent *f; d && (f = readdir(d));) {
		snprintf(path, sizeof path, "%s/%s", dir, f->d_name);
		unlink(path);
	}
	closedir(d);
	return rmdir(dir);
}

static struct store *open_store(void)
{
	struct store_config c = { .dir = dir };
	struct store *s;
	struct err e;
	if (store_open(&c, &s, &e) < 0)
		fail_msg("%s", e.msg);
	return s;
}

/* ---- random batches, and a canonical text of a span with everything it refers to ---- */

static uint32_t random_str(struct batch *b)
{
	char text[64];
	size_t n = rnd() % 40;
	if (rnd() % 4)
		n = (size_t)snprintf(text, sizeof text, "value-%d", (int)(rnd() % 50));
	else
		for (size_t i = 0; i < n; i++)
			text[i] = (char)rnd();
	return batch_str(b, (struct str){ text, n });
}

static struct attr_range random_attrs(struct batch *b, int depth, uint32_t max)
{
	uint32_t n = (uint32_t)(rnd() % (max + 1)), at = b->attrs_n;
	if (n)
		batch_add_attrs(b, n);
	for (uint32_t i = 0; i < n; i++) {
		struct attr a = { .key = random_str(b), .type = (uint8_t)(rnd() % (depth ? 8 : 6)), .flags = rnd() % 8 == 0 };
		struct attr_range r;
		switch (a.type) {
		case ATTR_STR: case ATTR_BYTES: a.s = random_str(b); break;
		case ATTR_INT: a.i = rnd() % 2 ? (int64_t)rnd() : (int64_t)(rnd() % 1000); break;
		case ATTR_DOUBLE: a.d = (double)rnd() / 3; break;
		case ATTR_BOOL: a.i = (int64_t)(rnd() & 1); break;
		case ATTR_ARRAY: case ATTR_KVLIST:
			r = random_attrs(b, depth - 1, 3);
			a.list.off = r.off;
			a.list.n = r.n;
		}
		b->attrs[at + i] = a;
	}
	return (struct attr_range){ at, n };
}

static struct batch *random_batch(uint32_t n, int64_t base, int64_t width)
{
	struct batch *b = batch_create();
	for (int i = 0; i < 3; i++) {
		struct resource r = { .service = random_str(b), .attrs = random_attrs(b, 2, 3) };
		struct scope s = { .name = random_str(b), .version = random_str(b), .attrs = random_attrs(b, 2, 3) };
		batch_add_resource(b, &r);
		batch_add_scope(b, &s);
	}
	uint64_t hi = rnd(), lo = rnd(), last = 0;
	for (uint32_t i = 0; i < n; i++) {
		if (rnd() % 6 == 0) {
			hi = rnd() % 3 ? rnd() : 0;
			lo = rnd();
		}
		struct span s = {
			.trace_hi = hi, .trace_lo = lo, .span_id = rnd(), .parent_id = rnd() % 3 == 0 ? 0 : rnd() % 3 ? last : rnd(),
			.start_ns = (int64_t)((uint64_t)base + rnd() % (uint64_t)width), .duration_ns = (int64_t)(rnd() >> (rnd() % 60)),
			.threshold = rnd() % 2 ? 0 : rnd() >> 8, .name = random_str(b), .trace_state = rnd() % 2 ? 0 : random_str(b),
			.status_message = rnd() % 2 ? 0 : random_str(b), .resource = (uint32_t)(rnd() % 3), .scope = (uint32_t)(rnd() % 3),
			.dropped_attrs = (uint16_t)rnd(), .dropped_events = (uint16_t)rnd(), .dropped_links = (uint16_t)rnd(),
			.kind = (uint8_t)(rnd() % 6), .status = (uint8_t)(rnd() % 3), .flags = (uint32_t)rnd(),
		};
		s.parent_id = rnd() % 20 ? s.parent_id : s.span_id;
		last = s.span_id;
		s.attrs = random_attrs(b, 2, 6);
		s.events_off = b->events_n;
		s.events_n = rnd() % 4 ? 0 : (uint16_t)(rnd() % 3);
		for (uint32_t k = 0; k < s.events_n; k++) {
			struct span_event e = { (int64_t)rnd(), random_str(b), random_attrs(b, 1, 3), (uint32_t)rnd() };
			*batch_add_event(b) = e;
		}
		s.links_off = b->links_n;
		s.links_n = rnd() % 4 ? 0 : (uint16_t)(rnd() % 3);
		for (uint32_t k = 0; k < s.links_n; k++) {
			struct span_link l = { rnd(), rnd(), rnd(), random_str(b), random_attrs(b, 1, 3), (uint32_t)rnd() };
			*batch_add_link(b) = l;
		}
		*batch_add_span(b) = s;
	}
	return b;
}

static void dump_str(struct buf *o, const struct batch *b, uint32_t id)
{
	struct str s = batch_text(b, id);
	buf_printf(o, "%zu:", s.n);
	buf_add(o, s.p, s.n);
}

static void dump_attrs(struct buf *o, const struct batch *b, struct attr_range r)
{
	buf_printf(o, "[%u", r.n);
	for (uint32_t i = 0; i < r.n; i++) {
		const struct attr *a = b->attrs + r.off + i;
		buf_printf(o, " %u/%u ", a->type, a->flags);
		dump_str(o, b, a->key);
		if (a->type == ATTR_STR || a->type == ATTR_BYTES)
			dump_str(o, b, a->s);
		else if (a->type == ATTR_ARRAY || a->type == ATTR_KVLIST)
			dump_attrs(o, b, (struct attr_range){ a->list.off, a->list.n });
		else
			buf_printf(o, "%llx", (unsigned long long)a->i);
	}
	buf_byte(o, ']');
}

static char *dump(const struct batch *b, uint32_t i)
{
	const struct span *s = b->spans + i;
	struct buf o = { 0 };
	buf_printf(&o, "%llx %llx %llx %llx %lld %lld %llx %u %u %u %u %u %u ", (unsigned long long)s->trace_hi, (unsigned long long)s->trace_lo,
		(unsigned long long)s->span_id, (unsigned long long)s->parent_id, (long long)s->start_ns, (long long)s->duration_ns,
		(unsigned long long)s->threshold, s->kind, s->status, s->flags, s->dropped_attrs, s->dropped_events, s->dropped_links);
	dump_str(&o, b, s->name);
	dump_str(&o, b, s->trace_state);
	dump_str(&o, b, s->status_message);
	dump_attrs(&o, b, s->attrs);
	dump_str(&o, b, b->resources[s->resource].service);
	dump_attrs(&o, b, b->resources[s->resource].attrs);
	dump_str(&o, b, b->scopes[s->scope].name);
	dump_str(&o, b, b->scopes[s->scope].version);
	dump_attrs(&o, b, b->scopes[s->scope].attrs);
	for (uint32_t k = 0; k < s->events_n; k++) {
		const struct span_event *e = b->events + s->events_off + k;
		buf_printf(&o, " E%lld %u ", (long long)e->time_ns, e->dropped_attrs);
		dump_str(&o, b, e->name);
		dump_attrs(&o, b, e->attrs);
	}
	for (uint32_t k = 0; k < s->links_n; k++) {
		const struct span_link *l = b->links + s->links_off + k;
		buf_printf(&o, " L%llx %llx %llx %u ", (unsigned long long)l->trace_hi, (unsigned long long)l->trace_lo, (unsigned long long)l->span_id, l->flags);
		dump_str(&o, b, l->trace_state);
		dump_attrs(&o, b, l->attrs);
	}
	/* NULs inside texts become visible, so that strcmp compares all. */
	for (size_t k = 0; k < o.n; k++)
		if (!o.p[k])
			o.p[k] = 1;
	char *text = str_dup(buf_str(&o));
	buf_finish(&o);
	return text;
}

struct lines { char **p; size_t n, cap; };

static void lines_add(struct lines *l, char *text)
{
	if (l->n == l->cap)
		l->p = realloc(l->p, (l->cap = l->cap ? l->cap * 2 : 256) * sizeof *l->p);
	l->p[l->n++] = text;
}

static int line_order(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

static void lines_batch(struct lines *l, const struct batch *b)
{
	for (uint32_t i = 0; i < b->n; i++)
		lines_add(l, dump(b, i));
}

static void lines_same(struct lines *a, struct lines *b)
{
	assert_int_equal(a->n, b->n);
	qsort(a->p, a->n, sizeof *a->p, line_order);
	qsort(b->p, b->n, sizeof *b->p, line_order);
	for (size_t i = 0; i < a->n; i++) {
		assert_string_equal(a->p[i], b->p[i]);
		free(a->p[i]);
		free(b->p[i]);
	}
	free(a->p);
	free(b->p);
}

static int collect(void *arg, const struct batch *b, uint32_t i)
{
	lines_add(arg, dump(b, i));
	return 0;
}

static const struct store_query everything = { .from_ns = INT64_MIN, .to_ns = INT64_MAX };

/* A plain batch: n spans numbered from first, one second apart within the hour. */
static struct batch *plain(uint32_t n, uint64_t first, int64_t base)
{
	struct batch *b = batch_create();
	struct resource r = { .service = batch_str(b, STR("shop")) };
	batch_add_resource(b, &r);
	struct scope c = { 0 };
	batch_add_scope(b, &c);
	for (uint32_t i = 0; i < n; i++) {
		struct span *s = batch_add_span(b);
		s->trace_hi = (first + i) / 4 + 1;
		s->trace_lo = 7;
		s->span_id = first + i + 1;
		s->start_ns = base + (int64_t)(i % 1000) * 1000000;
		s->duration_ns = 1000 + (int64_t)i;
		s->name = batch_str(b, i % 2 ? STR("pay") : STR("list"));
	}
	return b;
}

static int count(void *arg, const struct batch *b, uint32_t i)
{
	++*(uint64_t *)arg;
	return 0;
}

static uint64_t count_all(struct store *s)
{
	uint64_t n = 0;
	struct err e;
	assert_int_equal(store_scan(s, &everything, count, &n, NULL, &e), 0);
	return n;
}

/* Appends, waiting while the queue is full. */
static void append(struct store *s, struct batch *b)
{
	while (store_append(s, b, NULL, NULL) < 0)
		store_flush(s);
}

/* ---- tests ---- */

static void store_block_round_trip(void **state)
{
	struct block_enc *enc = block_enc_create();
	for (int round = 0; round < 30; round++) {
		const struct batch *in[3];
		struct block_row rows[3000];
		struct lines want = { 0 }, got = { 0 };
		uint32_t n = 0;
		for (uint32_t k = 0; k < 3; k++) {
			struct batch *b = random_batch((uint32_t)(rnd() % 300 + (k == 0)), round == 3 ? INT64_MIN : (int64_t)(rnd() >> 2), round % 2 ? 1000 : INT64_MAX);
			in[k] = b;
			lines_batch(&want, b);
			for (uint32_t i = 0; i < b->n; i++)
				rows[n++] = (struct block_row){ k, i };
		}
		struct block blk;
		assert_int_equal(block_fit(in, rows, n), n);
		block_encode(enc, in, 3, rows, n, &blk);
		struct batch *out = batch_create();
		assert_int_equal(block_decode(buf_str(&blk.head), buf_str(&blk.body), NULL, out), 0);
		lines_batch(&got, out);
		lines_same(&want, &got);
		batch_destroy(out);
		/* A random choice of rows comes out as exactly those. */
		uint8_t *sel = calloc(1, BLOCK_SPANS);
		struct lines some = { 0 }, chosen = { 0 };
		for (uint32_t i = 0; i < n; i++)
			if ((sel[i] = rnd() % 5 == 0))
				lines_add(&some, dump(in[rows[i].batch], rows[i].i));
		out = batch_create();
		assert_int_equal(block_decode(buf_str(&blk.head), buf_str(&blk.body), sel, out), 0);
		lines_batch(&chosen, out);
		lines_same(&some, &chosen);
		batch_destroy(out);
		free(sel);
		for (int k = 0; k < 3; k++)
			batch_destroy((struct batch *)in[k]);
		block_finish(&blk);
	}
	block_enc_destroy(enc);
}

static void store_block_damage(void **state)
{
	struct block_enc *enc = block_enc_create();
	struct batch *b = random_batch(200, 1000, 1000);
	const struct batch *in[1] = { b };
	struct block_row rows[200];
	for (uint32_t i = 0; i < 200; i++)
		rows[i] = (struct block_row){ 0, i };
	struct block blk;
	block_encode(enc, in, 1, rows, 200, &blk);
	uint8_t *sel = malloc(BLOCK_SPANS);
	struct block_filter f = { .from_ns = 0, .to_ns = 1500, .max_duration = 1000000, .service = STR("x"), .name = STR("value-1") };
	for (int i = 0; i < 4000; i++) {
		struct buf *part = i % 2 ? &blk.head : &blk.body;
		size_t at = rnd() % part->n;
		uint8_t was = part->p[at];
		part->p[at] ^= (uint8_t)(1 + rnd() % 255);
		uint32_t n;
		block_select(buf_str(&blk.head), &f, sel, &n);
		struct batch *out = batch_create();
		block_decode(buf_str(&blk.head), buf_str(&blk.body), NULL, out);
		batch_destroy(out);
		part->p[at] = was;
	}
	for (size_t n = 0; n < blk.body.n; n += 7) {
		struct batch *out = batch_create();
		assert_true(block_decode(buf_str(&blk.head), (struct str){ (char *)blk.body.p, n }, NULL, out) < 0);
		batch_destroy(out);
	}
	free(sel);
	block_finish(&blk);
	batch_destroy(b);
	block_enc_destroy(enc);
}

/* Everything round-trips through head, WAL replay, and blocks in several hour files. */
static void store_round_trip(void **state)
{
	int64_t now = clock_wall();
	struct store *s = open_store();
	struct lines want[3] = { 0 };
	for (int k = 0; k < 10; k++) {
		struct batch *b = random_batch(300, now - 5 * HOUR, 5 * HOUR);
		for (int i = 0; i < 3; i++)
			lines_batch(&want[i], b);
		append(s, b);
	}
	store_flush(s);
	for (int i = 0; i < 3; i++) {
		struct lines got = { 0 };
		struct store_stats st;
		struct err e;
		if (i) {
			store_close(s);
			s = open_store();
			store_stats(s, &st);
			assert_int_equal(st.recovered, i == 1 ? 3000 : 0);
			assert_in_range(st.files, 5, 6);
			assert_int_equal(st.damaged, 0);
		}
		store_stats(s, &st);
		assert_int_equal(st.spans, 3000);
		assert_int_equal(store_scan(s, &everything, collect, &got, NULL, &e), 0);
		lines_same(&want[i], &got);
	}
	store_close(s);
}

static void store_query_sorted_limited(void **state)
{
	int64_t now = clock_wall();
	struct store *s = open_store();
	append(s, plain(70000, 0, now));
	append(s, plain(5000, 70000, now));
	store_flush(s);
	struct err e;
	struct traceql *q;
	assert_int_equal(traceql_parse(STR("{ name = \"pay\" && resource.service.name = \"shop\" && duration > 2us }"), &q, &e), 0);
	struct store_query sq = { .q = q, .from_ns = now, .to_ns = now + HOUR, .limit = 50, .newest_first = true };
	struct batch *b;
	struct store_found f;
	assert_int_equal(store_query(s, &sq, &b, &f, &e), 0);
	/* duration is 1000 + i: of the odd i, those above 1000 ns more */
	assert_int_equal(f.matched, (70000 - 1000) / 2 + (5000 - 1000) / 2);
	assert_true(f.limited);
	assert_int_equal(b->n, 50);
	for (uint32_t i = 0; i < b->n; i++) {
		assert_int_equal(b->spans[i].start_ns, now + 999 * 1000000ll);
		assert_true(str_is(batch_text(b, b->spans[i].name), "pay"));
	}
	batch_destroy(b);
	sq.q = NULL;
	sq.to_ns = now + 10 * 1000000;
	sq.newest_first = false;
	sq.limit = 10000;
	assert_int_equal(store_query(s, &sq, &b, &f, &e), 0);
	assert_int_equal(f.matched, 750);
	assert_int_equal(b->n, 750);
	for (uint32_t i = 1; i < b->n; i++)
		assert_true(b->spans[i - 1].start_ns <= b->spans[i].start_ns);
	batch_destroy(b);
	traceql_destroy(q);
	assert_int_equal(store_trace(s, 18, 7, &b, &e), 0);
	assert_int_equal(b->n, 4);
	for (uint32_t i = 0; i < 4; i++)
		assert_int_equal(b->spans[i].span_id, 17 * 4 + i + 1);
	batch_destroy(b);
	assert_int_equal(store_trace(s, 18, 8, &b, &e), KLIEG_E_NOT_FOUND);
	store_close(s);
}

static void store_one_process(void **state)
{
	struct store *s = open_store(), *t;
	struct store_config c = { .dir = dir };
	struct err e;
	assert_int_equal(store_open(&c, &t, &e), KLIEG_E_BUSY);
	assert_non_null(strstr(e.msg, "in use"));
	store_close(s);
}

static void store_queue_is_bounded(void **state)
{
	struct store_config c = { .dir = dir, .queue_bytes = 1 << 20 };
	struct store *s;
	struct err e;
	assert_int_equal(store_open(&c, &s, &e), 0);
	bool busy = false;
	uint64_t taken = 0;
	for (int i = 0; i < 10000 && !busy; i++) {
		struct batch *b = plain(4000, 0, clock_wall());
		int rc = store_append(s, b, NULL, NULL);
		busy = rc == KLIEG_E_BUSY;
		taken += rc == 0 ? 4000 : 0;
		if (rc < 0)
			batch_destroy(b);
	}
	assert_true(busy);
	store_flush(s);
	assert_int_equal(count_all(s), taken);
	store_close(s);
}

static void store_clamps_dates(void **state)
{
	struct store *s = open_store();
	struct batch *b = plain(70000, 0, clock_wall());
	for (uint32_t i = 0; i < b->n; i++)
		b->spans[i].start_ns = (int64_t)rnd();
	append(s, b);
	store_flush(s);
	store_close(s);
	s = open_store();
	struct store_stats st;
	store_stats(s, &st);
	assert_int_equal(st.spans + st.expired, 70000);
	assert_in_range(st.files, 1, 75);
	store_close(s);
}

/* ---- kill -9 ---- */

struct ack { uint64_t first; int fd; };

static void acknowledge(void *arg, int rc, uint32_t spans)
{
	struct ack *a = arg;
	uint64_t m[2] = { a->first, spans };
	if (rc == 0 && write(a->fd, m, sizeof m) != sizeof m)
		_exit(9);
	free(a);
}

static int mark(void *arg, const struct batch *b, uint32_t i)
{
	uint8_t *seen = arg;
	uint64_t id = b->spans[i].span_id - 1;
	assert_true(id < 4000000);
	assert_int_equal(seen[id], 0);
	seen[id] = 1;
	return 0;
}

static void store_kill_nine(void **state)
{
	uint8_t *acked = calloc(4000000, 1), *seen = malloc(4000000);
	uint64_t next = 0;
	int64_t base = clock_wall();
	for (int round = 0; round < 12; round++) {
		int fds[2];
		assert_int_equal(pipe(fds), 0);
		pid_t pid = fork();
		if (pid == 0) {
			close(fds[0]);
			struct store_config c = { .dir = dir, .commit_ns = 1000000 };
			struct store *s;
			struct err e;
			if (store_open(&c, &s, &e) < 0)
				_exit(8);
			for (uint64_t at = next; at + 8000 < next + 300000;) {
				uint32_t n = (uint32_t)(rnd() % 4000 + 1);
				struct batch *b = plain(n, at, base - (int64_t)(rnd() % 3) * HOUR);
				struct ack *a = malloc(sizeof *a);
				*a = (struct ack){ at, fds[1] };
				while (store_append(s, b, acknowledge, a) < 0)
					store_flush(s);
				at += n;
			}
			store_close(s);
			_exit(0);
		}
		close(fds[1]);
		/* Killed after a random number of acknowledgements. */
		uint64_t m[2], until = rnd() % 120, got = 0;
		while (read(fds[0], m, sizeof m) == sizeof m) {
			memset(acked + m[0], 1, m[1]);
			if (got++ == until)
				kill(pid, SIGKILL);
		}
		close(fds[0]);
		int status;
		waitpid(pid, &status, 0);
		assert_true(WIFSIGNALED(status) || WEXITSTATUS(status) == 0);
		next += 300000;
		rnd();
		struct store *s = open_store();
		struct err e;
		memset(seen, 0, 4000000);
		assert_int_equal(store_scan(s, &everything, mark, seen, NULL, &e), 0);
		for (uint64_t i = 0; i < next; i++)
			if (acked[i] && !seen[i])
				fail_msg("round %d: span %llu was acknowledged and is gone", round, (unsigned long long)i);
		struct store_stats st;
		store_stats(s, &st);
		assert_int_equal(st.damaged, 0);
		store_close(s);
	}
	free(acked);
	free(seen);
}

/* ---- a full disk ---- */

struct tally { _Atomic uint64_t ok, full, other; };

static void tally(void *arg, int rc, uint32_t spans)
{
	struct tally *t = arg;
	atomic_fetch_add(rc == 0 ? &t->ok : rc == KLIEG_E_DISK_FULL ? &t->full : &t->other, spans);
}

static void store_disk_full(void **state)
{
	pid_t pid = fork();
	if (pid == 0) { /* a limit on file size fails writes as a full disk does, and can be lifted */
		signal(SIGXFSZ, SIG_IGN);
		struct store *s = open_store();
		struct tally t = { 0 };
		struct rlimit lim = { 4 << 20, RLIM_INFINITY };
		setrlimit(RLIMIT_FSIZE, &lim);
		for (uint64_t i = 0; i < 40; i++) {
			store_append(s, plain(4000, i * 4000, clock_wall()), tally, &t);
			store_flush(s);
		}
		if (!t.ok || !t.full || t.other || count_all(s) != t.ok)
			_exit(1);
		lim.rlim_cur = RLIM_INFINITY;
		setrlimit(RLIMIT_FSIZE, &lim);
		uint64_t before = t.full;
		store_append(s, plain(4000, 1000000, clock_wall()), tally, &t);
		store_flush(s);
		if (t.full != before || count_all(s) != t.ok)
			_exit(2);
		store_close(s);
		s = open_store();
		_exit(count_all(s) == t.ok ? 0 : 3);
	}
	int status;
	waitpid(pid, &status, 0);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
}

/* ---- damage on disk ---- */

static void find(const char *suffix, char *ret_path)
{
	DIR *d = opendir(dir);
	size_t n = strlen(suffix);
	*ret_path = 0;
	for (struct dirent *f; (f = readdir(d));)
		if (strlen(f->d_name) > n && !strcmp(f->d_name + strlen(f->d_name) - n, suffix))
			snprintf(ret_path, 400, "%s/%s", dir, f->d_name);
	closedir(d);
	assert_true(*ret_path);
}

static void store_damaged_files(void **state)
{
	char path[400];
	struct stat st;
	struct store_stats stats;
	struct store *s = open_store();
	append(s, plain(70000, 0, clock_wall()));
	store_flush(s);
	store_close(s);
	s = open_store(); /* all in blocks */
	store_close(s);
	find(".seg", path);
	stat(path, &st);
	/* Bytes in the middle: the block is skipped and counted, nothing made up. */
	int fd = open(path, O_RDWR);
	for (off_t at = st.st_size / 2; at < st.st_size; at += 5000)
		assert_int_equal(pwrite(fd, "\xff\x00\xff", 3, at), 3);
	s = open_store();
	count_all(s);
	store_stats(s, &stats);
	assert_true(stats.damaged > 0);
	assert_true(stats.last_error[0]);
	store_close(s);
	/* Wrong magic: set aside, and the hour can be written again. */
	assert_int_equal(pwrite(fd, "garbage garbage ", 16, 0), 16);
	s = open_store();
	store_stats(s, &stats);
	assert_int_equal(stats.damaged, 1);
	append(s, plain(70000, 0, clock_wall()));
	store_flush(s);
	assert_int_equal(count_all(s), 70000);
	store_close(s);
	close(fd);
	s = open_store();
	store_close(s);
	/* Truncated. */
	find(".seg", path);
	stat(path, &st);
	assert_int_equal(truncate(path, st.st_size / 3), 0);
	s = open_store();
	count_all(s);
	store_stats(s, &stats);
	assert_true(stats.damaged > 0);
	append(s, plain(70000, 100000, clock_wall()));
	store_flush(s);
	assert_true(count_all(s) >= 70000);
	store_close(s);
}

static void store_damaged_wal(void **state)
{
	char path[400];
	struct store_stats stats;
	struct store *s = open_store();
	for (int i = 0; i < 3; i++) {
		append(s, plain(100, (uint64_t)i * 100, clock_wall()));
		store_flush(s);
	}
	store_close(s);
	find(".wal", path);
	struct stat st;
	stat(path, &st);
	int fd = open(path, O_RDWR);
	assert_int_equal(pwrite(fd, "x", 1, 100), 1); /* inside the first record */
	assert_int_equal(ftruncate(fd, st.st_size - 5), 0); /* and the last is torn */
	close(fd);
	s = open_store();
	store_stats(s, &stats);
	assert_int_equal(stats.recovered, 100);
	assert_int_equal(stats.damaged, 1);
	assert_int_equal(count_all(s), 100);
	store_close(s);
}

/* ---- retention ---- */

static void store_retention(void **state)
{
	int64_t now = clock_wall();
	struct store_config c = { .dir = dir };
	struct store *s = open_store();
	for (int k = 0; k < 4; k++)
		append(s, plain(1000, (uint64_t)k * 1000, now - k * 10 * HOUR));
	store_flush(s);
	store_close(s);
	struct store_stats st;
	struct err e;
	c.retain_ns = 15 * HOUR;
	s = open_store(); /* cuts the blocks, each hour in its file */
	store_stats(s, &st);
	assert_in_range(st.files, 4, 8);
	store_close(s);
	assert_int_equal(store_open(&c, &s, &e), 0);
	store_stats(s, &st);
	assert_int_equal(st.expired, 2000);
	assert_int_equal(st.spans, 2000);
	assert_int_equal(count_all(s), 2000);
	store_close(s);
	c = (struct store_config){ .dir = dir, .retain_bytes = 1 };
	assert_int_equal(store_open(&c, &s, &e), 0);
	store_stats(s, &st);
	assert_int_equal(st.files, 1);
	store_close(s);
}

/* ---- readers beside the writer ---- */

static _Atomic uint64_t floor_acked;
static _Atomic bool writing;

static void raise_floor(void *arg, int rc, uint32_t spans)
{
	assert_int_equal(rc, 0);
	atomic_fetch_add(&floor_acked, spans);
}

static void *reader(void *arg)
{
	struct store *s = arg;
	uint64_t last = 0;
	while (atomic_load(&writing)) {
		uint64_t at_least = atomic_load(&floor_acked), n = count_all(s);
		if (n < at_least || n < last)
			return (void *)"a reader saw fewer spans than were acknowledged";
		last = n;
		struct batch *b;
		struct err e;
		if (at_least && store_trace(s, 1, 7, &b, &e) == 0) {
			uint32_t got = b->n;
			batch_destroy(b);
			if (got != 4)
				return (void *)"a trace was incomplete or doubled";
		}
	}
	return NULL;
}

static void store_readers_and_writer(void **state)
{
	struct store *s = open_store();
	pthread_t t[2];
	atomic_store(&writing, true);
	atomic_store(&floor_acked, 0);
	for (int i = 0; i < 2; i++)
		pthread_create(&t[i], NULL, reader, s);
	for (uint64_t i = 0; i < 60; i++) {
		struct batch *b = plain(5000, i * 5000, clock_wall() - (int64_t)(i % 3) * HOUR);
		while (store_append(s, b, raise_floor, NULL) < 0)
			store_flush(s);
		if (i % 8 == 0)
			store_flush(s);
	}
	store_flush(s);
	atomic_store(&writing, false);
	for (int i = 0; i < 2; i++) {
		void *bad;
		pthread_join(t[i], &bad);
		if (bad)
			fail_msg("%s", (char *)bad);
	}
	assert_int_equal(count_all(s), 300000);
	store_close(s);
}

/* ---- documents ---- */

static int join(void *arg, const char *id, int64_t version, struct str json)
{
	buf_printf(arg, "%s@%d=%.*s ", id, (int)version, (int)json.n, json.p);
	return 0;
}

/* What belongs together is there for others, and after a crash, or it is not; what was refused in it takes nothing else with it. */
static void store_state_groups(void **state)
{
	struct state *s, *other;
	struct err e = { 0 };
	struct buf b = { 0 };
	char path[300];
	(void)state;
	snprintf(path, sizeof path, "%s/groups", dir);
	assert_int_equal(state_open(path, &s, &e), 0);
	assert_int_equal(state_open(path, &other, &e), 0); /* sees what another process would */
	state_group_begin(s);
	assert_int_equal(state_put(s, "toggle", "a", STR("1"), STATE_NEW, NULL, &e), 0);
	state_group_begin(s);
	assert_int_equal(state_put(s, "toggle", "b", STR("2"), STATE_NEW, NULL, &e), 0);
	assert_int_equal(state_put(s, "toggle", "a", STR("3"), STATE_NEW, NULL, &e), KLIEG_E_STALE);
	assert_int_equal(state_delete(s, "toggle", "c", STATE_ANY, &e), KLIEG_E_NOT_FOUND);
	assert_int_equal(state_group_end(s, &e), 0);
	assert_int_equal(state_get(other, "toggle", "b", &b, NULL), KLIEG_E_NOT_FOUND); /* not before the outer one ends */
	assert_int_equal(state_get(s, "toggle", "b", &b, NULL), 0);
	assert_int_equal(state_group_end(s, &e), 0);
	b.n = 0;
	assert_int_equal(state_get(other, "toggle", "a", &b, NULL), 0);
	assert_int_equal(state_get(other, "toggle", "b", &b, NULL), 0);
	assert_memory_equal(b.p, "12", 2);
	state_close(s);
	buf_finish(&b);
	state_close(other);
}

static void store_state_documents(void **state)
{
	char path[100];
	struct state *s;
	struct err e;
	struct buf b = { 0 };
	int64_t v;
	snprintf(path, sizeof path, "%s/state.db", dir);
	assert_int_equal(state_open(path, &s, &e), 0);
	assert_int_equal(state_put(s, "toggle", "a", STR("{\"x\":1}"), STATE_NEW, &v, &e), 0);
	assert_int_equal(v, 1);
	assert_int_equal(state_put(s, "toggle", "a", STR("{}"), STATE_NEW, &v, &e), KLIEG_E_STALE);
	assert_int_equal(state_put(s, "toggle", "a", STR("{}"), 1, &v, &e), 0);
	assert_int_equal(state_put(s, "toggle", "a", STR("{}"), 1, &v, &e), KLIEG_E_STALE);
	assert_int_equal(state_put(s, "toggle", "b", STR("[]"), STATE_ANY, &v, &e), 0);
	assert_int_equal(state_put(s, "policy", "b", STR("0"), STATE_ANY, &v, &e), 0);
	state_close(s);
	assert_int_equal(state_open(path, &s, &e), 0);
	assert_int_equal(state_list(s, "toggle", join, &b), 0);
	assert_true(str_is(buf_str(&b), "a@2={} b@1=[] "));
	buf_clear(&b);
	assert_int_equal(state_delete(s, "toggle", "a", 1, &e), KLIEG_E_STALE);
	assert_int_equal(state_delete(s, "toggle", "a", 2, &e), 0);
	assert_int_equal(state_delete(s, "toggle", "a", STATE_ANY, &e), KLIEG_E_NOT_FOUND);
	int64_t again = 0;
	assert_int_equal(state_put(s, "audit", "1", STR("{}"), STATE_ANY, NULL, &e), 0);
	assert_int_equal(state_forget(s, "audit", "1"), 0);
	assert_int_equal(state_get(s, "audit", "1", &(struct buf){ 0 }, NULL), KLIEG_E_NOT_FOUND);
	assert_int_equal(state_put(s, "audit", "1", STR("{}"), STATE_NEW, &again, &e), 0);
	assert_int_equal(again, 1); /* as if it had never been */
	assert_int_equal(state_forget(s, "audit", "1"), 0);
	assert_int_equal(state_forget(s, "audit", "1"), 0);
	assert_int_equal(state_get(s, "toggle", "a", &b, &v), KLIEG_E_NOT_FOUND);
	assert_int_equal(state_put(s, "toggle", "a", STR("1"), STATE_NEW, &v, &e), 0);
	assert_int_equal(v, 4);
	assert_int_equal(state_get(s, "toggle", "a", &b, &v), 0);
	assert_true(str_is(buf_str(&b), "1"));
	buf_finish(&b);
	state_close(s);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		T(store_block_round_trip), T(store_block_damage), T(store_round_trip), T(store_query_sorted_limited), T(store_one_process),
		T(store_queue_is_bounded), T(store_clamps_dates), T(store_kill_nine), T(store_disk_full), T(store_damaged_files),
		T(store_damaged_wal), T(store_retention), T(store_readers_and_writer), T(store_state_documents), T(store_state_groups),
	};
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
