/* HTTP/1.1 by llhttp, on the connections of serve.c. One http_conn per connection, at most one request of it in the hands of the handler: the parser is paused at the
 * end of a message and reading stops, so pipelined requests wait in conn->in (and in the kernel). A sweep each second enforces the deadlines. */
#include "net/http.h"
#include "base/clock.h"
#include "net/serve.h"
#include <ctype.h>
#include <llhttp.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>
#include <sys/resource.h>
#include <zlib.h>

struct http_server {
	struct serve serve;              /* first: freed as that */
	struct http_limits lim;
	http_handler fn; void *arg;
	llhttp_settings_t settings;
	size_t bodies;                   /* bytes of body in all requests; whoever sends beyond the limit gets 503 */
};
struct http_conn {
	struct serve_conn io;            /* first */
	struct http_server *s;
	llhttp_t parser;
	struct http_req *req;            /* being parsed or handled */
	struct buf in;                   /* read ahead of the request in hand */
	bool handling, in_value, feeding, refused;
	size_t discarded;                /* since the refusal */
	int fail;                        /* status to answer a bad message with */
	int64_t deadline;
};
enum { LINGER = 128 << 20 };             /* bytes read and thrown away after a refusal */
struct out { uv_write_t w; bool close; size_t n; char data[]; };

static void conn_feed(struct http_conn *c);

static void gone(struct serve_conn *c) { buf_finish(&((struct http_conn *)c)->in); }

static void req_free(struct http_req *r)
{
	*r->bodies -= r->body.n;
	buf_finish(&r->body);
	buf_finish(&r->names);
	buf_finish(&r->head);
	free((char *)r->path.p);
	free((char *)r->query.p);
	free(r);
}

static void conn_close(struct http_conn *c) { serve_conn_close(&c->io); }
static void closing(struct serve_conn *io)
{
	struct http_conn *c = (struct http_conn *)io;
	struct http_req *r = c->req;
	c->req = NULL;
	if (r) {
		r->conn = NULL;
		if (!c->handling)
			req_free(r);
		else if (r->streaming) {
			if (r->on_gone)
				r->on_gone(r, r->gone_arg);
			req_free(r);
		}                        /* else its handler still owes an answer and frees it with that */
	}
}

static void deadline(struct http_conn *c, int seconds) { c->deadline = seconds ? clock_mono() + seconds * 1000000000ll : INT64_MAX; }

static void wrote(uv_write_t *w, int status)
{
	struct out *o = (struct out *)w;
	struct http_conn *c = w->handle->data;
	if (status < 0 || o->close)
		conn_close(c);
	free(o);
}

static void conn_write(struct http_conn *c, struct str head, struct str body, bool close)
{
	if (c->io.closing)
		return;
	struct out *o = base_alloc(sizeof(*o) + head.n + body.n);
	o->close = close;
	o->n = head.n + body.n;
	memcpy(o->data, head.p, head.n);
	if (body.n)
		memcpy(o->data + head.n, body.p, body.n);
	uv_buf_t b = uv_buf_init(o->data, o->n);
	if (uv_write(&o->w, &c->io.u.stream, &b, 1, wrote) < 0) {
		free(o);
		conn_close(c);
	}
}

static const char *reason(int status)
{
	switch (status) {
#define HTTP_STATUS_CASE(num, name, string) case num: return #string;
	HTTP_STATUS_MAP(HTTP_STATUS_CASE)
	}
	return "Status";
}

static void add_head(struct buf *b, int status, const char *type)
{
	char date[64];
	time_t now = time(NULL);
	struct tm tm;
	strftime(date, sizeof(date), "%a, %d %b %Y %H:%M:%S GMT", gmtime_r(&now, &tm));
	buf_printf(b, "HTTP/1.1 %d %s\r\nDate: %s\r\n", status, reason(status), date);
	if (type)
		buf_printf(b, "Content-Type: %s\r\n", type);
	buf_add_str(b, "X-Content-Type-Options: nosniff\r\n");
}

static void shut(uv_shutdown_t *end, int status) { free(end); }

/* Answers and ends. A client that is still sending would see a reset and not the answer if the socket were closed now, so what it sends is thrown
 * away until it stops, for at most 5 s and LINGER bytes. */
static void refuse(struct http_conn *c, int status, const char *detail)
{
	struct buf h = { 0 }, b = { 0 };
	buf_printf(&b, "{\"type\":\"about:blank\",\"title\":\"%s\",\"status\":%d,\"detail\":\"%s\"}", reason(status), status, detail);
	add_head(&h, status, "application/problem+json");
	if (status == 503)
		buf_add_str(&h, "Retry-After: 1\r\n");
	buf_printf(&h, "Content-Length: %zu\r\nConnection: close\r\n\r\n", b.n);
	c->refused = true;
	c->discarded = 0;
	deadline(c, 5);
	conn_write(c, buf_str(&h), buf_str(&b), false);
	struct uv_shutdown_s *end = base_alloc(sizeof(*end));
	if (c->io.closing || uv_shutdown(end, &c->io.u.stream, shut) < 0)
		free(end);
	if (!c->io.closing)
		serve_read(&c->io, true);
	buf_finish(&h);
	buf_finish(&b);
}

static void resume(void *arg)
{
	struct http_conn *c = arg;
	conn_feed(c);
}

void http_reply(struct http_req *r, int status, const char *type, struct str body, const char *headers)
{
	struct http_conn *c = r->conn;
	if (!c) {
		req_free(r);
		return;
	}
	struct buf h = { 0 };
	bool keep = r->keep_alive;
	add_head(&h, status, type);
	if (headers)
		buf_add_str(&h, headers);
	if (status != 204 && status != 304)
		buf_printf(&h, "Content-Length: %zu\r\n", body.n);
	buf_printf(&h, "Connection: %s\r\n\r\n", keep ? "keep-alive" : "close");
	if (r->is_head || status == 304 || status == 204)
		body.n = 0;
	c->req = NULL;
	c->handling = false;
	deadline(c, c->s->lim.idle_s);
	conn_write(c, buf_str(&h), body, !keep);
	buf_finish(&h);
	req_free(r);
	if (keep && !c->io.closing && !c->feeding)
		resume(c);
}

void http_stream_open(struct http_req *r, const char *type)
{
	struct buf h = { 0 };
	if (!r->conn)
		return;
	add_head(&h, 200, type);
	buf_add_str(&h, "Cache-Control: no-store\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n");
	r->streaming = true;
	deadline(r->conn, 0);
	conn_write(r->conn, buf_str(&h), (struct str){ 0 }, false);
	buf_finish(&h);
}

bool http_stream_send(struct http_req *r, struct str data)
{
	struct http_conn *c = r->conn;
	if (!c || !data.n)
		return true;
	if (uv_stream_get_write_queue_size(&c->io.u.stream) > c->s->lim.stream_backlog)
		return false;
	struct buf b = { 0 };
	buf_printf(&b, "%zx\r\n", data.n);
	buf_add(&b, data.p, data.n);
	buf_add_str(&b, "\r\n");
	conn_write(c, buf_str(&b), (struct str){ 0 }, false);
	buf_finish(&b);
	return true;
}

/* ---- parsing ---- */
static struct http_conn *conn_of(llhttp_t *p) { return p->data; }
static int bad(struct http_conn *c, int status, llhttp_t *p, const char *why)
{
	c->fail = status;
	llhttp_set_error_reason(p, why);
	return HPE_USER;
}
static int on_begin(llhttp_t *p)
{
	struct http_conn *c = conn_of(p);
	struct http_req *r = c->req = base_calloc(1, sizeof(*r));
	r->conn = c;
	r->bodies = &c->s->bodies;
	r->local = c->io.local;
	r->listener_arg = c->io.listener_arg;
	c->in_value = false;
	deadline(c, c->s->lim.head_s);
	return 0;
}
static int more_head(struct http_conn *c, llhttp_t *p, size_t n)
{
	return c->req->head.n + c->req->names.n + n > c->s->lim.head ? bad(c, 431, p, "the request's head is too large") : 0;
}
static int on_url(llhttp_t *p, const char *at, size_t n)
{
	struct http_conn *c = conn_of(p);
	if (c->req->names.n + n > 16384)
		return bad(c, 414, p, "the request's target is too long");
	buf_add(&c->req->names, at, n);
	return 0;
}
static int on_field(llhttp_t *p, const char *at, size_t n)
{
	struct http_conn *c = conn_of(p);
	struct http_req *r = c->req;
	if (c->in_value || !r->nheaders) {
		if (r->nheaders == 64)
			return bad(c, 431, p, "more than 64 headers");
		r->headers[r->nheaders++] = (struct http_header){ .name = r->head.n };
		c->in_value = false;
	}
	if (more_head(c, p, n))
		return HPE_USER;
	buf_add(&r->head, at, n);
	r->headers[r->nheaders - 1].name_n += n;
	return 0;
}
static int on_value(llhttp_t *p, const char *at, size_t n)
{
	struct http_conn *c = conn_of(p);
	struct http_req *r = c->req;
	if (!r->nheaders)
		return 0;
	struct http_header *h = &r->headers[r->nheaders - 1];
	if (!c->in_value)
		h->value = r->head.n;
	c->in_value = true;
	if (more_head(c, p, n))
		return HPE_USER;
	buf_add(&r->head, at, n);
	h->value_n += n;
	return 0;
}
static int on_head(llhttp_t *p)
{
	struct http_conn *c = conn_of(p);
	struct http_req *r = c->req;
	unsigned hosts = 0;
	for (unsigned i = 0; i < r->nheaders; i++)
		hosts += r->headers[i].name_n == 4 && !strncasecmp((char *)r->head.p + r->headers[i].name, "host", 4);
	if (hosts > 1 || (!hosts && p->http_minor))
		return bad(c, 400, p, "exactly one Host header is needed");
	if (p->upgrade && p->method == HTTP_CONNECT)
		return bad(c, 405, p, "CONNECT is not supported");
	if ((p->flags & F_CONTENT_LENGTH) && p->content_length > c->s->lim.body)
		return bad(c, 413, p, "the body is too large");
	if (p->flags & F_CONTENT_LENGTH)
		buf_reserve(&r->body, p->content_length < 1 << 20 ? p->content_length : 1 << 20);  /* no more on a mere promise */
	struct str expect = http_header(r, "expect");
	if (expect.n == 12 && !strncasecmp(expect.p, "100-continue", 12))
		conn_write(c, STR("HTTP/1.1 100 Continue\r\n\r\n"), (struct str){ 0 }, false);
	r->method = llhttp_method_name(p->method);
	r->is_head = p->method == HTTP_HEAD;
	deadline(c, c->s->lim.idle_s);
	return 0;
}
static int on_body(llhttp_t *p, const char *at, size_t n)
{
	struct http_conn *c = conn_of(p);
	if (c->req->body.n + n > c->s->lim.body)
		return bad(c, 413, p, "the body is too large");
	if (c->s->bodies + n > c->s->lim.bodies)
		return bad(c, 503, p, "too much is being sent at once");
	c->s->bodies += n;
	buf_add(&c->req->body, at, n);
	return 0;
}
static int on_complete(llhttp_t *p)
{
	struct http_conn *c = conn_of(p);
	c->req->keep_alive = llhttp_should_keep_alive(p) && !p->upgrade;
	return HPE_PAUSED;
}

static bool split_target(struct http_req *r)
{
	struct str t = buf_str(&r->names);
	if (t.n > 7 && !strncmp(t.p, "http://", 7)) {  /* absolute form */
		const char *slash = memchr(t.p + 7, '/', t.n - 7);
		t = slash ? (struct str){ slash, t.n - (size_t)(slash - t.p) } : STR("/");
	}
	if (!t.n || (t.p[0] != '/' && !(t.n == 1 && t.p[0] == '*')))
		return false;
	const char *q = memchr(t.p, '?', t.n);
	struct buf path = { 0 };
	if (!http_unescape((struct str){ t.p, q ? (size_t)(q - t.p) : t.n }, false, &path)) {
		buf_finish(&path);
		return false;
	}
	r->path = (struct str){ str_dup(buf_str(&path)), path.n };
	struct str query = q ? (struct str){ q + 1, t.n - (size_t)(q + 1 - t.p) } : (struct str){ "", 0 };
	r->query = (struct str){ str_dup(query), query.n };
	buf_finish(&path);
	return true;
}

/* Parses what has been read until a request is complete (handed over; the rest waits) or all is used up. */
static void conn_feed(struct http_conn *c)
{
	c->feeding = true;
	while (!c->io.closing && !c->handling && c->in.n) {
		enum llhttp_errno rc = llhttp_execute(&c->parser, (char *)c->in.p, c->in.n);
		if (rc == HPE_OK) {
			buf_clear(&c->in);
			break;
		}
		if (rc != HPE_PAUSED && rc != HPE_PAUSED_UPGRADE) {
			bool ours = c->fail != 0;
			struct http_req *r = c->req;
			c->req = NULL;
			if (r)
				req_free(r);
			refuse(c, ours ? c->fail : 400, ours ? llhttp_get_error_reason(&c->parser) : "this is not HTTP/1.1");
			buf_clear(&c->in);
			c->handling = true;
			break;
		}
		size_t used = (size_t)(llhttp_get_error_pos(&c->parser) - (char *)c->in.p);
		memmove(c->in.p, c->in.p + used, c->in.n - used);
		c->in.n -= used;
		if (rc == HPE_PAUSED_UPGRADE)
			llhttp_resume_after_upgrade(&c->parser);
		else
			llhttp_resume(&c->parser);
		struct http_req *r = c->req;
		c->handling = true;
		deadline(c, 0);
		if (!split_target(r)) {
			c->req = NULL;
			req_free(r);
			refuse(c, 400, "the request's target is not a path");
			break;
		}
		c->s->fn(c->s->arg, r);
	}
	c->feeding = false;
	if (!c->io.closing) {
		if (c->in.n > sizeof(c->s->serve.chunk) && c->handling)
			serve_read(&c->io, false);
		else if (!c->refused)
			serve_read(&c->io, true);
	}
}

static void on_read(struct serve_conn *io, struct str bytes)
{
	struct http_conn *c = (struct http_conn *)io;
	if (c->refused && (c->discarded += bytes.n) > LINGER)
		conn_close(c);
	else if (!c->refused) {
		buf_add(&c->in, bytes.p, bytes.n);
		conn_feed(c);
	}
}

static void opened(struct serve_conn *io)
{
	struct http_conn *c = (struct http_conn *)io;
	struct http_server *s = c->s = (struct http_server *)io->s;
	llhttp_init(&c->parser, HTTP_REQUEST, &s->settings);
	c->parser.data = c;
	deadline(c, s->lim.head_s);
	if ((int)s->serve.n > s->lim.conns)
		refuse(c, 503, "too many connections");
	else
		serve_read(io, true);
}

static void sweep(struct serve_conn *io, int64_t now)
{
	struct http_conn *c = (struct http_conn *)io;
	if (now < c->deadline)
		return;
	if (c->req && !c->handling) {
		struct http_req *r = c->req;
		c->req = NULL;
		req_free(r);
		c->handling = true;
		c->fail = 408;
		refuse(c, 408, "the request took too long to arrive");
	} else
		conn_close(c);
}

int http_server_create(struct loop *l, const struct http_limits *lim, http_handler fn, void *arg, struct http_server **ret_s)
{
	static const struct serve_ops ops = { sizeof(struct http_conn), opened, on_read, sweep, closing, gone };
	struct http_server *s = base_calloc(1, sizeof(*s));
	s->lim = *lim;
#define DEFAULT(f, v) if (!s->lim.f) s->lim.f = (v)
	DEFAULT(head, 32 << 10); DEFAULT(body, 64 << 20); DEFAULT(bodies, 256 << 20); DEFAULT(conns, 8192);
	DEFAULT(head_s, 10); DEFAULT(idle_s, 60); DEFAULT(stream_backlog, 1 << 20);
	s->fn = fn;
	s->arg = arg;
	llhttp_settings_init(&s->settings);
	s->settings.on_message_begin = on_begin;
	s->settings.on_url = on_url;
	s->settings.on_header_field = on_field;
	s->settings.on_header_value = on_value;
	s->settings.on_headers_complete = on_head;
	s->settings.on_body = on_body;
	s->settings.on_message_complete = on_complete;
	struct rlimit files;             /* some are for the store, the agent and their processes */
	if (getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_cur < (rlim_t)s->lim.conns + 256)
		s->lim.conns = files.rlim_cur > 512 ? (int)files.rlim_cur - 256 : (int)files.rlim_cur / 2;
	serve_begin(&s->serve, l, &ops);
	*ret_s = s;
	return 0;
}

int http_listen_tcp(struct http_server *s, const char *address, void *arg, char ret_bound[80], struct err *e)
{
	return serve_tcp(&s->serve, address, arg, ret_bound, e);
}
int http_listen_unix(struct http_server *s, const char *path, struct err *e) { return serve_unix(&s->serve, path, e); }
void http_server_close(struct http_server *s)
{
	if (s)
		serve_close(&s->serve);
}
unsigned http_server_conns(const struct http_server *s) { return s->serve.n; }

/* ---- helpers ---- */
struct str http_header(const struct http_req *r, const char *name)
{
	size_t n = strlen(name);
	for (unsigned i = 0; i < r->nheaders; i++) {
		const struct http_header *h = &r->headers[i];
		if (h->name_n == n && !strncasecmp((char *)r->head.p + h->name, name, n))
			return (struct str){ (char *)r->head.p + h->value, h->value_n };
	}
	return (struct str){ 0 };
}

static int hex(int c) { return c >= '0' && c <= '9' ? c - '0' : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10 : -1; }
bool http_unescape(struct str in, bool plus, struct buf *out)
{
	buf_reserve(out, in.n + 1);
	for (size_t i = 0; i < in.n; i++) {
		int c = (unsigned char)in.p[i];
		if (c == '%') {
			if (i + 2 >= in.n)
				return false;
			int a = hex((unsigned char)in.p[i + 1]), b = hex((unsigned char)in.p[i + 2]);
			if (a < 0 || b < 0 || !(c = a * 16 + b))
				return false;
			i += 2;
		} else if (c == '+' && plus)
			c = ' ';
		buf_byte(out, (uint8_t)c);
	}
	return true;
}

bool http_param(struct str q, const char *name, struct buf *out)
{
	size_t n = strlen(name);
	for (size_t i = 0; i < q.n;) {
		const char *p = q.p + i, *amp = memchr(p, '&', q.n - i);
		size_t len = amp ? (size_t)(amp - p) : q.n - i;
		const char *eq = memchr(p, '=', len);
		size_t kn = eq ? (size_t)(eq - p) : len;
		if (kn == n && !memcmp(p, name, n))
			return http_unescape(eq ? (struct str){ eq + 1, len - kn - 1 } : (struct str){ "", 0 }, true, out);
		i += len + 1;
	}
	return false;
}

int http_inflate(struct str in, size_t max, struct buf *out)
{
	z_stream z = { .next_in = (Bytef *)in.p, .avail_in = (uInt)in.n };
	if (inflateInit2(&z, 15 + 32) != Z_OK)
		return KLIEG_E_NOMEM;
	int rc, ret = 0;
	do {
		if (out->n > max) {
			ret = KLIEG_E_TOO_LARGE;
			break;
		}
		buf_reserve(out, 64 << 10);
		z.next_out = out->p + out->n;
		z.avail_out = (uInt)(out->cap - out->n);
		size_t room = z.avail_out;
		rc = inflate(&z, Z_NO_FLUSH);
		out->n += room - z.avail_out;
		if (rc == Z_STREAM_END && z.avail_in)  /* members may follow one another */
			rc = inflateReset(&z);
		else if (rc == Z_BUF_ERROR || (rc == Z_OK && !z.avail_in && z.avail_out))
			rc = Z_DATA_ERROR;             /* cut off */
		if (rc != Z_OK && rc != Z_STREAM_END)
			ret = KLIEG_E_BAD_DATA;
	} while (!ret && rc != Z_STREAM_END);
	if (!ret && out->n > max)
		ret = KLIEG_E_TOO_LARGE;
	inflateEnd(&z);
	return ret;
}
