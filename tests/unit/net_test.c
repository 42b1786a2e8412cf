/* The parts of src/net that need no client: the way into the loop from other threads, escapes, parameters, decompression. What needs one is in
 * tests/flow/test_api.py and test_otlp.py. */
#include "base/buf.h"
#include "base/err.h"
#include "net/grpc.h"
#include "net/h2.h"
#include "net/http.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <pthread.h>
#include <arpa/inet.h>
#include <nghttp2/nghttp2.h>
#include <stdio.h>
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

/* ---- gRPC, against nghttp2's client, without sockets ---- */
struct pair {
	struct h2_session *server; nghttp2_session *client;
	struct buf to_client, answer; char status[16], message[200]; int http; bool ended, late; struct grpc_call *call; size_t held;
	const uint8_t *body; size_t body_n, sent;
};
static void pair_called(void *arg, struct grpc_call *c)
{
	struct pair *p = arg;
	if (p->late)
		p->call = c;
	else if (!strcmp(c->method, "/test.Echo/Say"))
		grpc_reply(c, GRPC_OK, NULL, c->message);
	else
		grpc_reply(c, GRPC_UNIMPLEMENTED, "no 100 % of that: \xc3\xbc", (struct str){ 0 });
}
static void pair_request(void *arg, struct h2_stream *st) { grpc_request(st, 1 << 20, NULL, pair_called, arg); }
static void pair_send(void *arg, struct str bytes) { buf_add(&((struct pair *)arg)->to_client, bytes.p, bytes.n); }
static int client_header(nghttp2_session *ng, const nghttp2_frame *f, const uint8_t *name, size_t nn, const uint8_t *value, size_t vn, uint8_t flags, void *arg)
{
	struct pair *p = arg;
	if (nn == 11 && !memcmp(name, "grpc-status", 11))
		snprintf(p->status, sizeof(p->status), "%.*s", (int)vn, value);
	if (nn == 12 && !memcmp(name, "grpc-message", 12))
		snprintf(p->message, sizeof(p->message), "%.*s", (int)vn, value);
	if (nn == 7 && !memcmp(name, ":status", 7))
		p->http = atoi((const char *)value);
	return 0;
}
static int client_data(nghttp2_session *ng, uint8_t flags, int32_t id, const uint8_t *d, size_t n, void *arg)
{
	buf_add(&((struct pair *)arg)->answer, d, n);
	return 0;
}
static int client_close(nghttp2_session *ng, int32_t id, uint32_t code, void *arg)
{
	((struct pair *)arg)->ended = true;
	return 0;
}
static ssize_t client_body(nghttp2_session *ng, int32_t id, uint8_t *to, size_t room, uint32_t *flags, nghttp2_data_source *src, void *arg)
{
	struct pair *p = arg;
	size_t n = p->body_n - p->sent < room ? p->body_n - p->sent : room;
	memcpy(to, p->body + p->sent, n);
	if ((p->sent += n) == p->body_n)
		*flags |= NGHTTP2_DATA_FLAG_EOF;
	return (ssize_t)n;
}

static void pair_create(struct pair *p)
{
	nghttp2_session_callbacks *cb;
	struct h2_limits lim = { .head = 8192, .body = (1 << 20) + 5, .streams = 100, .held = &p->held, .held_max = 2 << 20 };
	assert_int_equal(h2_session_create(&lim, pair_request, pair_send, p, &p->server), 0);
	nghttp2_session_callbacks_new(&cb);
	nghttp2_session_callbacks_set_on_header_callback(cb, client_header);
	nghttp2_session_callbacks_set_on_data_chunk_recv_callback(cb, client_data);
	nghttp2_session_callbacks_set_on_stream_close_callback(cb, client_close);
	nghttp2_session_client_new(&p->client, cb, p);
	nghttp2_session_callbacks_del(cb);
	nghttp2_submit_settings(p->client, NGHTTP2_FLAG_NONE, NULL, 0);
}
static void pair_pump(struct pair *p)
{
	for (bool moved = true; moved;) {
		const uint8_t *d;
		ssize_t n;
		moved = false;
		while ((n = nghttp2_session_mem_send(p->client, &d)) > 0) {
			assert_int_equal(h2_session_feed(p->server, (struct str){ (const char *)d, (size_t)n }), 0);
			moved = true;
		}
		if (p->to_client.n) {
			struct buf b = p->to_client;
			p->to_client = (struct buf){ 0 };
			assert_int_equal(nghttp2_session_mem_recv(p->client, b.p, b.n), (ssize_t)b.n);
			buf_finish(&b);
			moved = true;
		}
	}
}
static void pair_call(struct pair *p, const char *path, const char *type, const char *encoding, struct str body)
{
	nghttp2_nv nv[6];
	const char *f[] = { ":method", "POST", ":scheme", "http", ":path", path, ":authority", "x", "content-type", type, encoding ? "grpc-encoding" : "te", encoding ? encoding : "trailers" };
	for (int i = 0; i < 6; i++)
		nv[i] = (nghttp2_nv){ (uint8_t *)f[2 * i], (uint8_t *)f[2 * i + 1], strlen(f[2 * i]), strlen(f[2 * i + 1]), NGHTTP2_NV_FLAG_NONE };
	nghttp2_data_provider data = { .read_callback = client_body };
	p->body = (const uint8_t *)body.p, p->body_n = body.n, p->sent = 0, p->ended = false, p->http = 0;
	p->status[0] = p->message[0] = 0;
	buf_clear(&p->answer);
	assert_true(nghttp2_submit_request(p->client, NULL, nv, 6, &data, NULL) > 0);
	pair_pump(p);
}
static void pair_finish(struct pair *p)
{
	h2_session_destroy(p->server);
	nghttp2_session_del(p->client);
	buf_finish(&p->to_client);
	buf_finish(&p->answer);
	assert_int_equal(p->held, 0);
}
static void message(struct buf *b, bool packed, struct str m)
{
	uint32_t n = htonl((uint32_t)m.n);
	buf_clear(b);
	buf_byte(b, packed);
	buf_add(b, &n, 4);
	buf_add(b, m.p, m.n);
}

static void grpc_calls_are_answered_with_a_status(void **state)
{
	struct pair p = { 0 };
	struct buf big = { 0 }, m = { 0 }, packed = { 0 };
	for (int i = 0; i < 100000; i++)
		buf_printf(&big, "%d,", i);      /* more than one window */
	pair_create(&p);
	for (int round = 0; round < 3; round++) {
		message(&m, false, buf_str(&big));
		pair_call(&p, "/test.Echo/Say", "application/grpc", NULL, buf_str(&m));
		assert_true(p.ended && p.http == 200);
		assert_string_equal(p.status, "0");
		assert_int_equal(p.answer.n, m.n);
		assert_memory_equal(p.answer.p, m.p, m.n);
	}
	gzip(buf_str(&big), &packed);
	message(&m, true, buf_str(&packed));
	pair_call(&p, "/test.Echo/Say", "application/grpc+proto", "gzip", buf_str(&m));
	assert_string_equal(p.status, "0");
	assert_int_equal(p.answer.n, big.n + 5);
	pair_call(&p, "/test.Echo/Say", "application/grpc", "snappy", buf_str(&m));
	assert_string_equal(p.status, "12");
	message(&m, true, STR("not gzip"));
	pair_call(&p, "/test.Echo/Say", "application/grpc", "gzip", buf_str(&m));
	assert_string_equal(p.status, "3");
	message(&m, false, STR(""));
	pair_call(&p, "/test.Echo/Say", "application/grpc", NULL, buf_str(&m));
	assert_string_equal(p.status, "0");
	pair_call(&p, "/test.Other/Say", "application/grpc", NULL, buf_str(&m));
	assert_string_equal(p.status, "12");
	assert_string_equal(p.message, "no 100 %25 of that: %C3%BC");
	pair_call(&p, "/test.Echo/Say", "application/json", NULL, buf_str(&m));
	assert_int_equal(p.http, 415);
	static const char *const wrong[] = { "", "\0\0", "\0\0\0\0\5ab", "\0\0\0\0\1ab", "\7\0\0\0\1a" };
	static const size_t n[] = { 0, 2, 7, 7, 6 };
	for (int i = 0; i < 5; i++) {
		pair_call(&p, "/test.Echo/Say", "application/grpc", NULL, (struct str){ wrong[i], n[i] });
		assert_string_equal(p.status, "3");
	}
	while (big.n < (1 << 20) + 100)
		buf_add(&big, "0123456789abcdef", 16);
	message(&m, false, buf_str(&big));
	pair_call(&p, "/test.Echo/Say", "application/grpc", NULL, buf_str(&m));
	assert_string_equal(p.status, "8");
	pair_finish(&p);
	buf_finish(&big);
	buf_finish(&m);
	buf_finish(&packed);
}

static void grpc_answers_may_come_when_the_client_has_gone(void **state)
{
	struct pair p = { .late = true };
	struct buf m = { 0 };
	pair_create(&p);
	message(&m, false, STR("hello"));
	pair_call(&p, "/test.Echo/Say", "application/grpc", NULL, buf_str(&m));
	assert_false(p.ended);
	grpc_reply(p.call, GRPC_OK, NULL, STR("later"));
	pair_pump(&p);
	assert_true(p.ended);
	assert_memory_equal(p.answer.p + 5, "later", 5);
	pair_call(&p, "/test.Echo/Say", "application/grpc", NULL, buf_str(&m));
	nghttp2_submit_rst_stream(p.client, NGHTTP2_FLAG_NONE, 3, NGHTTP2_CANCEL);
	pair_pump(&p);
	assert_int_equal(p.call->message.n, 5);                                        /* still readable */
	grpc_reply(p.call, GRPC_OK, NULL, STR("too late"));
	pair_call(&p, "/test.Echo/Say", "application/grpc", NULL, buf_str(&m));
	struct grpc_call *c = p.call;
	h2_session_destroy(p.server);
	p.server = NULL;
	grpc_reply(c, GRPC_OK, NULL, STR("nobody"));
	pair_finish(&p);
	buf_finish(&m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(loop_post_keeps_the_order_of_each_thread), cmocka_unit_test(loop_work_runs_elsewhere_and_ends_here),
		cmocka_unit_test(http_unescape_decodes_or_refuses), cmocka_unit_test(http_param_finds_whole_names),
		cmocka_unit_test(http_inflate_is_bounded_and_wants_all), cmocka_unit_test(listening_says_what_is_wrong),
		cmocka_unit_test(grpc_calls_are_answered_with_a_status), cmocka_unit_test(grpc_answers_may_come_when_the_client_has_gone),
	};
	return cmocka_run_group_tests_name("net", tests, NULL, NULL);
}
