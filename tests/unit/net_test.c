/* The parts of src/net that need no client: the way into the loop from other threads, escapes, parameters, decompression. What needs one is in
 * tests/flow/test_api.py and test_otlp.py. */
#include "base/buf.h"
#include "base/err.h"
#include "net/http.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <pthread.h>
#include <stdlib.h>
#include <zlib.h>

enum { THREADS = 4, POSTS = 5000 };
struct post { struct mail *m; int thread, n; };
struct mail { struct loop *l; int last[THREADS], arrived; struct post posts[THREADS][POSTS]; };

static void arrived(void *arg)
{
	struct post *p = arg;
	struct mail *m = p->m;
	assert_int_equal(p->n, m->last[p->thread]++);      /* in the order in which its thread posted it */
	if (++m->arrived == THREADS * POSTS)
		loop_stop(m->l);
}
static void *poster(void *arg)
{
	struct post *first = arg;
	for (int i = 0; i < POSTS; i++)
		loop_post(first->m->l, arrived, first + i);
	return NULL;
}

static void loop_post_keeps_the_order_of_each_thread(void **state)
{
	struct mail *m = base_calloc(1, sizeof(*m));
	pthread_t t[THREADS];
	assert_int_equal(loop_create(&m->l), 0);
	for (int i = 0; i < THREADS; i++) {
		for (int k = 0; k < POSTS; k++)
			m->posts[i][k] = (struct post){ m, i, k };
		pthread_create(&t[i], NULL, poster, m->posts[i]);
	}
	loop_run(m->l);
	for (int i = 0; i < THREADS; i++)
		pthread_join(t[i], NULL);
	assert_int_equal(m->arrived, THREADS * POSTS);
	loop_destroy(m->l);
	free(m);
}

struct job { struct loop *l; pthread_t loop_thread; bool worked, done; };
static void job_work(void *arg) { struct job *j = arg; j->worked = !pthread_equal(pthread_self(), j->loop_thread); }
static void job_done(void *arg)
{
	struct job *j = arg;
	j->done = j->worked && pthread_equal(pthread_self(), j->loop_thread);
	loop_stop(j->l);
}
static void loop_work_runs_elsewhere_and_ends_here(void **state)
{
	struct job j = { .loop_thread = pthread_self() };
	assert_int_equal(loop_create(&j.l), 0);
	loop_work(j.l, job_work, job_done, &j);
	loop_run(j.l);
	assert_true(j.done);
	loop_destroy(j.l);
}

static void http_unescape_decodes_or_refuses(void **state)
{
	static const struct { const char *in; bool plus; const char *out; } t[] = {
		{ "abc", false, "abc" }, { "", false, "" }, { "a%20b", false, "a b" }, { "a+b", false, "a+b" }, { "a+b", true, "a b" }, { "%c3%BC", false, "\xc3\xbc" },
		{ "%", false, NULL }, { "%2", false, NULL }, { "%2g", false, NULL }, { "a%00b", false, NULL }, { "100%", true, NULL },
	};
	for (size_t i = 0; i < sizeof(t) / sizeof(*t); i++) {
		struct buf b = { 0 };
		assert_int_equal(http_unescape(str_of(t[i].in), t[i].plus, &b), t[i].out != NULL);
		if (t[i].out) {
			buf_byte(&b, 0);
			assert_string_equal((char *)b.p, t[i].out);
		}
		buf_finish(&b);
	}
}

static void http_param_finds_whole_names(void **state)
{
	struct str q = STR("since=1m&q=%7b+name+%3d+%22a%26b%22+%7d&flag&empty=&q2=x");
	static const struct { const char *name, *value; } t[] = {
		{ "since", "1m" }, { "q", "{ name = \"a&b\" }" }, { "flag", "" }, { "empty", "" }, { "q2", "x" }, { "sinc", NULL }, { "ince", NULL }, { "", NULL },
	};
	for (size_t i = 0; i < sizeof(t) / sizeof(*t); i++) {
		struct buf b = { 0 };
		assert_int_equal(http_param(q, t[i].name, &b), t[i].value != NULL);
		if (t[i].value) {
			buf_byte(&b, 0);
			assert_string_equal((char *)b.p, t[i].value);
		}
		buf_finish(&b);
	}
}

static void gzip(struct str in, struct buf *out)
{
	z_stream z = { .next_in = (Bytef *)in.p, .avail_in = (uInt)in.n };
	assert_int_equal(deflateInit2(&z, 9, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY), Z_OK);
	buf_reserve(out, deflateBound(&z, in.n) + 64);
	z.next_out = out->p + out->n;
	z.avail_out = (uInt)(out->cap - out->n);
	assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
	out->n += z.total_out;
	deflateEnd(&z);
}

static void http_inflate_is_bounded_and_wants_all(void **state)
{
	struct buf plain = { 0 }, packed = { 0 }, out = { 0 };
	for (int i = 0; i < 100000; i++)
		buf_printf(&plain, "%d,", i * 7919 % 100003);
	gzip(buf_str(&plain), &packed);
	assert_int_equal(http_inflate(buf_str(&packed), 10 << 20, &out), 0);
	assert_int_equal(out.n, plain.n);
	assert_memory_equal(out.p, plain.p, plain.n);
	size_t one = packed.n;
	buf_clear(&out);
	assert_int_equal(http_inflate(buf_str(&packed), plain.n, &out), 0);            /* exactly the limit is fine */
	buf_clear(&out);
	assert_int_equal(http_inflate(buf_str(&packed), plain.n - 1, &out), KLIEG_E_TOO_LARGE);
	assert_true(out.n < plain.n + (256 << 10));                                    /* and not read much further */
	for (size_t n = 0; n < one; n += 1 + one / 97) {                               /* cut off anywhere */
		buf_clear(&out);
		assert_int_equal(http_inflate((struct str){ (char *)packed.p, n }, 10 << 20, &out), KLIEG_E_BAD_DATA);
	}
	gzip(buf_str(&plain), &packed);                                                /* two members are one body */
	buf_clear(&out);
	assert_int_equal(http_inflate(buf_str(&packed), 10 << 20, &out), 0);
	assert_int_equal(out.n, 2 * plain.n);
	packed.p[one + 20] ^= 255;
	buf_clear(&out);
	assert_int_equal(http_inflate(buf_str(&packed), 10 << 20, &out), KLIEG_E_BAD_DATA);
	buf_clear(&out);
	assert_int_equal(http_inflate(STR("this is not gzip"), 1000, &out), KLIEG_E_BAD_DATA);
	buf_finish(&plain);
	buf_finish(&packed);
	buf_finish(&out);
}

static void listening_says_what_is_wrong(void **state)
{
	struct loop *l;
	struct http_server *s;
	struct err e;
	char bound[80], other[80];
	assert_int_equal(loop_create(&l), 0);
	http_server_create(l, &(struct http_limits){ 0 }, NULL, NULL, &s);
	static const char *const wrong[] = { "", "80", "127.0.0.1", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:65536", "127.0.0.1:-1", ":80", "host.example:80", "[::1:80" };
	for (size_t i = 0; i < sizeof(wrong) / sizeof(*wrong); i++)
		assert_int_equal(http_listen_tcp(s, wrong[i], NULL, bound, &e), KLIEG_E_USAGE);
	assert_int_equal(http_listen_tcp(s, "localhost:0", NULL, bound, &e), 0);
	assert_memory_equal(bound, "127.0.0.1:", 10);
	assert_int_equal(http_listen_tcp(s, bound, NULL, other, &e), KLIEG_E_PORT_IN_USE);
	assert_non_null(strstr(e.msg, bound));
	http_server_close(s);
	loop_destroy(l);                 /* the sanitizer build sees that nothing is left */
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(loop_post_keeps_the_order_of_each_thread), cmocka_unit_test(loop_work_runs_elsewhere_and_ends_here),
		cmocka_unit_test(http_unescape_decodes_or_refuses), cmocka_unit_test(http_param_finds_whole_names),
		cmocka_unit_test(http_inflate_is_bounded_and_wants_all), cmocka_unit_test(listening_says_what_is_wrong),
	};
	return cmocka_run_group_tests_name("net", tests, NULL, NULL);
}
