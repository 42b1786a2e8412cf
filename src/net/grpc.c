/* gRPC: what it puts into HTTP/2 (length-prefixed messages, status in the trailers), on the connections of serve.c. One connection = one h2_session;
 * whatever it sends besides gRPC gets an answer that says what this port is. Loop thread. */
#include "net/grpc.h"
#include "base/clock.h"
#include "net/h2.h"
#include "net/http.h"
#include "net/serve.h"
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>

/* ---- calls ---------------------------------------------------------------------------------------------------------------- */

/* grpc-message: percent-encoded UTF-8. */
static void encode(const char *s, char *to, size_t n)
{
	size_t at = 0;
	for (; *s && at + 4 < n; s++)
		if ((unsigned char)*s < ' ' || (unsigned char)*s > '~' || *s == '%')
			at += (size_t)snprintf(to + at, n - at, "%%%02X", (unsigned char)*s);
		else
			to[at++] = *s;
	to[at] = 0;
}

static void reply(struct h2_stream *st, int http, int status, const char *text, struct str message)
{
	char code[8], about[1200] = "";
	struct buf b = { 0 };
	snprintf(code, sizeof code, "%d", status);
	if (text)
		encode(text, about, sizeof about);
	const char *head[] = { "content-type", "application/grpc", NULL };
	const char *trailers[] = { "grpc-status", code, about[0] ? "grpc-message" : NULL, about, NULL };
	if (status == GRPC_OK) {
		uint32_t n = htonl((uint32_t)message.n);
		buf_byte(&b, 0);
		buf_add(&b, &n, 4);
		buf_add(&b, message.p, message.n);
	}
	h2_reply(st, http, head, buf_str(&b), trailers);
	buf_finish(&b);
}

void grpc_reply(struct grpc_call *c, int status, const char *text, struct str message)
{
	reply(c->stream, 200, status, text, message);
	buf_finish(&c->plain);
	buf_finish(&c->path);
	free(c);
}

void grpc_request(struct h2_stream *st, size_t max, void *listener_arg, grpc_handler fn, void *arg)
{
	struct str type = buf_str(&st->type), body = buf_str(&st->body), none = { 0 };
	if (!str_is(buf_str(&st->method), "POST") || type.n < 16 || strncasecmp(type.p, "application/grpc", 16)) {
		reply(st, 415, GRPC_INVALID_ARGUMENT, "this port takes gRPC only: POST, content-type application/grpc", none);
		return;
	}
	if (st->too_large) {
		reply(st, 200, GRPC_RESOURCE_EXHAUSTED, "the message is too large, or too much is being sent at once", none);
		return;
	}
	uint32_t n = 0;
	if (body.n >= 5) {
		memcpy(&n, body.p + 1, 4);
		n = ntohl(n);
	}
	if (body.n < 5 || n != body.n - 5 || (unsigned char)body.p[0] > 1) {
		reply(st, 200, GRPC_INVALID_ARGUMENT, "a unary call has exactly one message with its length before it", none);
		return;
	}
	struct grpc_call *c = base_calloc(1, sizeof *c);
	c->stream = st;
	c->listener_arg = listener_arg;
	buf_add(&c->path, st->path.p, st->path.n);
	buf_byte(&c->path, 0);
	c->method = (const char *)c->path.p;
	c->message = (struct str){ body.p + 5, n };
	if (body.p[0]) {
		struct str how = buf_str(&st->encoding);
		if (!str_is(how, "gzip") && !str_is(how, "deflate")) {
			grpc_reply(c, GRPC_UNIMPLEMENTED, "of compressions only gzip is understood", none);
			return;
		}
		int rc = http_inflate(c->message, max, &c->plain);
		if (rc < 0) {
			grpc_reply(c, rc == KLIEG_E_TOO_LARGE ? GRPC_RESOURCE_EXHAUSTED : GRPC_INVALID_ARGUMENT, rc == KLIEG_E_TOO_LARGE ?
				"the message is too large after decompression" : "the message is not valid gzip", none);
			return;
		}
		c->message = buf_str(&c->plain);
	}
	fn(arg, c);
}

/* ---- connections ---------------------------------------------------------------------------------------------------------- */

struct grpc_server {
	struct serve serve;              /* first: freed as that */
	struct grpc_limits lim;
	grpc_handler fn; void *arg;
	size_t held;
};
struct conn {
	struct serve_conn io;            /* first */
	struct grpc_server *s;
	struct h2_session *h2;
	bool ending, paused;
	int64_t heard;
};
struct out { uv_write_t w; char data[]; };
enum { BACKLOG = 4 << 20 };              /* bytes not yet sent; a client that reads none of our answers is not read from either */

static void conn_close(struct conn *c) { serve_conn_close(&c->io); }
static void closing(struct serve_conn *io)
{
	struct conn *c = (struct conn *)io;
	h2_session_destroy(c->h2);
	c->h2 = NULL;
}

static void wrote(uv_write_t *w, int status)
{
	struct conn *c = w->handle->data;
	bool drained = uv_stream_get_write_queue_size(&c->io.u.stream) == 0;
	free(w);
	if (status < 0 || (c->ending && drained))
		conn_close(c);
	else if (c->paused && drained && !c->io.closing) {
		c->paused = false;
		serve_read(&c->io, true);
	}
}

static void send_bytes(void *arg, struct str bytes)
{
	struct conn *c = arg;
	if (c->io.closing)
		return;
	struct out *o = base_alloc(sizeof *o + bytes.n);
	memcpy(o->data, bytes.p, bytes.n);
	uv_buf_t b = uv_buf_init(o->data, (unsigned)bytes.n);
	if (uv_write(&o->w, &c->io.u.stream, &b, 1, wrote) < 0) {
		free(o);
		c->ending = true;                /* closed by the sweep: our caller may be inside the session */
		c->heard = 0;
	}
}

static void on_request(void *arg, struct h2_stream *st)
{
	struct conn *c = arg;
	grpc_request(st, c->s->lim.message, c->io.listener_arg, c->s->fn, c->s->arg);
}

static void on_read(struct serve_conn *io, struct str bytes)
{
	static const char what[] = "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\n"
		"Content-Length: 52\r\n\r\nthis port speaks gRPC (HTTP/2 with prior knowledge)\n";
	struct conn *c = (struct conn *)io;
	if (c->ending)
		return;
	c->heard = clock_mono();
	int rc = h2_session_feed(c->h2, bytes);
	if (rc == KLIEG_E_UNSUPPORTED)
		send_bytes(c, (struct str){ what, sizeof what - 1 });
	if (rc < 0) {
		c->ending = true;                /* once what was said has gone out */
		if (!uv_stream_get_write_queue_size(&io->u.stream))
			conn_close(c);
		return;
	}
	if (uv_stream_get_write_queue_size(&io->u.stream) > BACKLOG) {
		c->paused = true;
		serve_read(io, false);
	}
}

static void opened(struct serve_conn *io)
{
	struct conn *c = (struct conn *)io;
	struct grpc_server *s = c->s = (struct grpc_server *)io->s;
	struct h2_limits lim = { .head = 16 << 10, .body = s->lim.message + 5, .streams = 100, .held = &s->held, .held_max = s->lim.held };
	c->heard = clock_mono();
	if ((int)s->serve.n > s->lim.conns || h2_session_create(&lim, on_request, send_bytes, c, &c->h2) < 0)
		conn_close(c);
	else
		serve_read(io, true);
}

/* One that has begun a request has to go on with it; one without may wait for its next. */
static void sweep(struct serve_conn *io, int64_t now)
{
	const struct conn *c = (struct conn *)io;
	int64_t quiet = now - c->heard;
	if (quiet > c->s->lim.idle_s * 1000000000ll || (c->ending && quiet > 5000000000ll))
		serve_conn_close(io);
}

int grpc_server_create(struct loop *l, const struct grpc_limits *lim, grpc_handler fn, void *arg, struct grpc_server **ret_s)
{
	static const struct serve_ops ops = { sizeof(struct conn), opened, on_read, sweep, closing, NULL };
	struct grpc_server *s = base_calloc(1, sizeof *s);
	s->lim = *lim;
	s->fn = fn;
	s->arg = arg;
#define DEFAULT(f, v) if (!s->lim.f) s->lim.f = (v)
	DEFAULT(message, 64 << 20); DEFAULT(held, 256 << 20); DEFAULT(conns, 1024); DEFAULT(idle_s, 300);
	serve_begin(&s->serve, l, &ops);
	*ret_s = s;
	return 0;
}

int grpc_listen(struct grpc_server *s, const char *address, void *arg, char ret_bound[80], struct err *e)
{
	return serve_tcp(&s->serve, address, arg, ret_bound, e);
}
void grpc_server_close(struct grpc_server *s)
{
	if (s)
		serve_close(&s->serve);
}
unsigned grpc_server_conns(const struct grpc_server *s) { return s->serve.n; }
