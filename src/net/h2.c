/* HTTP/2 on nghttp2: frames in, requests out, answers in, frames out. A stream is made with its first header and lives until its answer is sent, or
 * until its handler has answered when the client was gone before. What a peer can make us hold is bounded: streams, header bytes, body bytes of one
 * request and of all, and how often it may take back what it asked. */
#include "net/h2.h"
#include <nghttp2/nghttp2.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>

enum { RESETS_MAX = 500 };               /* streams ended early by the client, beyond those that were answered */

struct h2_session {
	nghttp2_session *ng;
	struct h2_limits lim;
	h2_request_fn request; h2_send_fn send; void *arg;
	struct h2_stream *streams;
	bool feeding, broken;
	int64_t resets;
};

static void stream_free(struct h2_stream *st)
{
	struct buf *all[] = { &st->method, &st->path, &st->type, &st->encoding, &st->out, &st->trailers };
	*st->held -= st->body.n;
	buf_finish(&st->body);
	for (size_t i = 0; i < sizeof all / sizeof *all; i++)
		buf_finish(all[i]);
	free(st);
}

static void stream_unlink(struct h2_stream *st)
{
	if (st->prev) {
		*st->prev = st->next;
		if (st->next)
			st->next->prev = st->prev;
	}
	st->prev = NULL;
	st->session = NULL;
}

/* Sends all that nghttp2 has to say, in one piece. */
static void flush(struct h2_session *s)
{
	struct buf b = { 0 };
	const uint8_t *p;
	ssize_t n;
	while ((n = nghttp2_session_mem_send(s->ng, &p)) > 0)
		buf_add(&b, p, (size_t)n);
	if (n < 0)
		s->broken = true;
	if (b.n)
		s->send(s->arg, buf_str(&b));
	buf_finish(&b);
}

static int on_begin(nghttp2_session *ng, const nghttp2_frame *f, void *arg)
{
	struct h2_session *s = arg;
	if (f->hd.type != NGHTTP2_HEADERS || f->headers.cat != NGHTTP2_HCAT_REQUEST)
		return 0;
	struct h2_stream *st = base_calloc(1, sizeof *st);
	st->session = s;
	st->id = f->hd.stream_id;
	st->held = s->lim.held;
	st->next = s->streams;
	st->prev = &s->streams;
	if (st->next)
		st->next->prev = &st->next;
	s->streams = st;
	nghttp2_session_set_stream_user_data(ng, st->id, st);
	return 0;
}

static int on_header(nghttp2_session *ng, const nghttp2_frame *f, const uint8_t *name, size_t nn, const uint8_t *value, size_t vn, uint8_t flags,
	void *arg)
{
	struct h2_session *s = arg;
	struct h2_stream *st = nghttp2_session_get_stream_user_data(ng, f->hd.stream_id);
	struct str key = { (const char *)name, nn };
	if (!st || st->complete)
		return 0;
	if ((st->head += nn + vn + 32) > s->lim.head)
		return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;  /* this stream only */
	struct buf *to = str_is(key, ":method") ? &st->method : str_is(key, ":path") ? &st->path : str_is(key, "content-type") ? &st->type :
		str_is(key, "grpc-encoding") ? &st->encoding : NULL;
	if (to) {
		buf_clear(to);
		buf_add(to, value, vn);
	}
	return 0;
}

static int on_data(nghttp2_session *ng, uint8_t flags, int32_t id, const uint8_t *p, size_t n, void *arg)
{
	struct h2_session *s = arg;
	struct h2_stream *st = nghttp2_session_get_stream_user_data(ng, id);
	if (!st || st->too_large)
		return 0;
	if (st->body.n + n > s->lim.body || *s->lim.held + n > s->lim.held_max) {
		st->too_large = true;            /* the rest is read and thrown away; the handler says so */
		*s->lim.held -= st->body.n;
		buf_finish(&st->body);
		return 0;
	}
	*s->lim.held += n;
	buf_add(&st->body, p, n);
	return 0;
}

static int on_frame(nghttp2_session *ng, const nghttp2_frame *f, void *arg)
{
	struct h2_session *s = arg;
	if ((f->hd.type != NGHTTP2_DATA && f->hd.type != NGHTTP2_HEADERS) || !(f->hd.flags & NGHTTP2_FLAG_END_STREAM))
		return 0;
	struct h2_stream *st = nghttp2_session_get_stream_user_data(ng, f->hd.stream_id);
	if (!st || st->complete)
		return 0;
	st->complete = true;
	s->request(s->arg, st);
	return 0;
}

static int on_close(nghttp2_session *ng, int32_t id, uint32_t code, void *arg)
{
	struct h2_session *s = arg;
	struct h2_stream *st = nghttp2_session_get_stream_user_data(ng, id);
	if (!st)
		return 0;
	if (code != NGHTTP2_NO_ERROR)
		s->resets++;
	else if (s->resets)
		s->resets--;
	stream_unlink(st);
	if (st->replied || !st->complete)
		stream_free(st);                 /* else its handler still owes an answer, and frees it with that */
	return 0;
}

int h2_session_create(const struct h2_limits *lim, h2_request_fn request, h2_send_fn send, void *arg, struct h2_session **ret_s)
{
	struct h2_session *s = base_calloc(1, sizeof *s);
	nghttp2_session_callbacks *cb = NULL;
	nghttp2_option *opt = NULL;
	*s = (struct h2_session){ .lim = *lim, .request = request, .send = send, .arg = arg };
	nghttp2_settings_entry settings[] = { { NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, lim->streams },
		{ NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, (uint32_t)lim->head },
		{ NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, 1 << 20 } };
	int rc = nghttp2_session_callbacks_new(&cb);
	if (rc == 0)
		rc = nghttp2_option_new(&opt);
	if (rc == 0) {
		nghttp2_session_callbacks_set_on_begin_headers_callback(cb, on_begin);
		nghttp2_session_callbacks_set_on_header_callback(cb, on_header);
		nghttp2_session_callbacks_set_on_data_chunk_recv_callback(cb, on_data);
		nghttp2_session_callbacks_set_on_frame_recv_callback(cb, on_frame);
		nghttp2_session_callbacks_set_on_stream_close_callback(cb, on_close);
		nghttp2_option_set_max_outbound_ack(opt, 100);
		rc = nghttp2_session_server_new2(&s->ng, cb, s, opt);
	}
	nghttp2_session_callbacks_del(cb);
	nghttp2_option_del(opt);
	if (rc == 0)
		rc = nghttp2_submit_settings(s->ng, NGHTTP2_FLAG_NONE, settings, sizeof settings / sizeof *settings);
	if (rc == 0)
		rc = nghttp2_session_set_local_window_size(s->ng, NGHTTP2_FLAG_NONE, 0, 4 << 20);
	if (rc < 0) {
		nghttp2_session_del(s->ng);
		free(s);
		return KLIEG_E_NOMEM;
	}
	*ret_s = s;
	return 0;
}

int h2_session_feed(struct h2_session *s, struct str bytes)
{
	s->feeding = true;
	ssize_t n = nghttp2_session_mem_recv(s->ng, (const uint8_t *)bytes.p, bytes.n);
	s->feeding = false;
	if (n == NGHTTP2_ERR_BAD_CLIENT_MAGIC)
		return KLIEG_E_UNSUPPORTED;
	if (s->resets > RESETS_MAX)
		nghttp2_session_terminate_session(s->ng, NGHTTP2_ENHANCE_YOUR_CALM);
	flush(s);
	bool over = !nghttp2_session_want_read(s->ng) && !nghttp2_session_want_write(s->ng);
	return n < 0 || s->broken || over || s->resets > RESETS_MAX ? KLIEG_E_BAD_DATA : 0;
}

bool h2_session_busy(const struct h2_session *s) { return s->streams != NULL; }

void h2_session_destroy(struct h2_session *s)
{
	if (!s)
		return;
	while (s->streams) {
		struct h2_stream *st = s->streams;
		nghttp2_session_set_stream_user_data(s->ng, st->id, NULL);
		stream_unlink(st);
		if (st->replied || !st->complete)
			stream_free(st);
	}
	nghttp2_session_del(s->ng);
	free(s);
}

/* ---- answers -------------------------------------------------------------------------------------------------------------- */

enum { FIELDS_MAX = 16 };

static size_t fields(const char *const *list, nghttp2_nv *nv, size_t n)
{
	for (; list && *list && n < FIELDS_MAX; list += 2)
		nv[n++] = (nghttp2_nv){ (uint8_t *)list[0], (uint8_t *)list[1], strlen(list[0]), strlen(list[1]), NGHTTP2_NV_FLAG_NONE };
	return n;
}

static ssize_t read_body(nghttp2_session *ng, int32_t id, uint8_t *to, size_t room, uint32_t *flags, nghttp2_data_source *src, void *arg)
{
	struct h2_stream *st = src->ptr;
	size_t n = st->out.n - st->sent < room ? st->out.n - st->sent : room;
	memcpy(to, st->out.p + st->sent, n);
	st->sent += n;
	if (st->sent < st->out.n)
		return (ssize_t)n;
	*flags |= NGHTTP2_DATA_FLAG_EOF;
	if (st->trailers.n) {
		nghttp2_nv nv[FIELDS_MAX];
		const char *list[2 * FIELDS_MAX + 1] = { 0 };
		size_t k = 0;
		for (const char *p = (const char *)st->trailers.p, *end = p + st->trailers.n; p < end && k < 2 * FIELDS_MAX; p += strlen(p) + 1)
			list[k++] = p;
		*flags |= NGHTTP2_DATA_FLAG_NO_END_STREAM;
		if (nghttp2_submit_trailer(ng, id, nv, fields(list, nv, 0)) < 0)
			return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
	}
	return (ssize_t)n;
}

void h2_reply(struct h2_stream *st, int status, const char *const *head, struct str body, const char *const *trailers)
{
	struct h2_session *s = st->session;
	nghttp2_nv nv[FIELDS_MAX];
	char code[8];
	if (!s) {
		stream_free(st);
		return;
	}
	snprintf(code, sizeof code, "%d", status);
	const char *first[] = { ":status", code, NULL };
	size_t n = fields(head, nv, fields(first, nv, 0));
	st->replied = true;
	*st->held -= st->body.n;
	buf_finish(&st->body);
	int rc;
	if (!body.n)
		rc = nghttp2_submit_response(s->ng, st->id, nv, fields(trailers, nv, n), NULL);
	else {
		buf_add(&st->out, body.p, body.n);
		for (; trailers && *trailers; trailers++)
			buf_add(&st->trailers, *trailers, strlen(*trailers) + 1);
		nghttp2_data_provider data = { { .ptr = st }, read_body };
		rc = nghttp2_submit_response(s->ng, st->id, nv, n, &data);
	}
	if (rc < 0)
		nghttp2_submit_rst_stream(s->ng, NGHTTP2_FLAG_NONE, st->id, NGHTTP2_INTERNAL_ERROR);
	if (!s->feeding)
		flush(s);
}
