/* Listeners on libuv and the connections that they accept: kept in a list, swept once a second, closed all together. What is read goes to the protocol
 * (serve_ops), which owns what it has besides and writes by itself. Loop thread; owns listeners and connections, and in the end the server. */
#include "net/serve.h"
#include "base/clock.h"
#include "net/address.h"
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

struct serve_listener {
	union serve_handle u;
	struct serve *s;
	void *arg;
	struct serve_listener *next;
	bool local;
};

static void handle_init(struct serve *s, union serve_handle *u, bool local, void *data)
{
	if (local)
		uv_pipe_init(loop_uv(s->l), &u->pipe, 0);
	else
		uv_tcp_init(loop_uv(s->l), &u->tcp);
	u->handle.data = data;
}

/* ---- connections ---------------------------------------------------------------------------------------------------------- */

static void conn_closed(uv_handle_t *h)
{
	struct serve_conn *c = h->data;
	struct serve *s = c->s;
	*c->prev = c->next;
	if (c->next)
		c->next->prev = c->prev;
	if (s->ops->gone)
		s->ops->gone(c);
	free(c);
	if (!--s->n && s->closed)
		free(s);
}
void serve_conn_close(struct serve_conn *c)
{
	if (c->closing)
		return;
	c->closing = true;
	c->s->ops->closing(c);
	uv_close(&c->u.handle, conn_closed);
}

static void on_alloc(uv_handle_t *h, size_t hint, uv_buf_t *b)
{
	struct serve *s = ((struct serve_conn *)h->data)->s;
	*b = uv_buf_init(s->chunk, sizeof(s->chunk));
}
static void on_read(uv_stream_t *st, ssize_t n, const uv_buf_t *b)
{
	struct serve_conn *c = st->data;
	if (n < 0)
		serve_conn_close(c);
	else if (n > 0)
		c->s->ops->read(c, (struct str){ b->base, (size_t)n });
}
void serve_read(struct serve_conn *c, bool on)
{
	if (on)
		uv_read_start(&c->u.stream, on_alloc, on_read);
	else
		uv_read_stop(&c->u.stream);
}

static void on_connect(uv_stream_t *st, int status)
{
	struct serve_listener *li = st->data;
	struct serve *s = li->s;
	if (status < 0)
		return;
	struct serve_conn *c = base_calloc(1, s->ops->conn_size);
	handle_init(s, &c->u, li->local, c);
	c->s = s;
	c->local = li->local;
	c->listener_arg = li->arg;
	c->next = s->conns;
	c->prev = &s->conns;
	if (c->next)
		c->next->prev = &c->next;
	s->conns = c;
	s->n++;
	if (uv_accept(st, &c->u.stream) < 0) {
		serve_conn_close(c);
		return;
	}
	if (!li->local)
		uv_tcp_nodelay(&c->u.tcp, 1);
	s->ops->opened(c);
}

static void on_sweep(uv_timer_t *t)
{
	struct serve *s = t->data;
	int64_t now = clock_mono();
	for (struct serve_conn *c = s->conns, *next; c; c = next) {
		next = c->next;
		if (!c->closing)
			s->ops->sweep(c, now);
	}
}

/* ---- listeners ------------------------------------------------------------------------------------------------------------ */

static struct serve_listener *listener_add(struct serve *s, void *arg, bool local)
{
	struct serve_listener *li = base_calloc(1, sizeof(*li));
	li->s = s;
	li->arg = arg;
	li->local = local;
	handle_init(s, &li->u, local, li);
	li->next = s->listeners;
	s->listeners = li;
	return li;
}

int serve_tcp(struct serve *s, const char *address, void *arg, char ret_bound[80], struct err *e)
{
	struct sockaddr_storage a;
	int rc = net_address(address, &a, e);
	if (rc < 0)
		return rc;
	struct serve_listener *li = listener_add(s, arg, false);
	if ((rc = uv_tcp_bind(&li->u.tcp, (struct sockaddr *)&a, 0)) < 0 || (rc = uv_listen(&li->u.stream, 511, on_connect)) < 0)
		return net_listen_failed(rc, address, e);
	net_bound(&li->u.tcp, ret_bound);
	return 0;
}

int serve_unix(struct serve *s, const char *path, struct err *e)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	if (strlen(path) >= sizeof(a.sun_path))
		return err_set(e, KLIEG_E_USAGE, "the socket's path is longer than %zu bytes: %.120s", sizeof(a.sun_path) - 1, path);
	memcpy(a.sun_path, path, strlen(path) + 1);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd >= 0 && connect(fd, (struct sockaddr *)&a, sizeof(a)) == 0) {
		close(fd);
		err_set(e, KLIEG_E_CONFLICT, "another klieg serves %.200s", path);
		return err_hint(e, "stop it, or use another --dir");
	}
	if (fd >= 0)
		close(fd);
	unlink(path);
	struct serve_listener *li = listener_add(s, NULL, true);
	mode_t old = umask(0177);
	int rc = uv_pipe_bind(&li->u.pipe, path);
	umask(old);
	if (rc < 0 || (rc = uv_listen(&li->u.stream, 511, on_connect)) < 0)
		return net_listen_failed(rc, path, e);
	return 0;
}

/* ---- the whole ------------------------------------------------------------------------------------------------------------ */

void serve_begin(struct serve *s, struct loop *l, const struct serve_ops *ops)
{
	s->l = l;
	s->ops = ops;
	uv_timer_init(loop_uv(l), &s->timer);
	s->timer.data = s;
	uv_timer_start(&s->timer, on_sweep, 1000, 1000);
}

static void listener_closed(uv_handle_t *h) { free(h->data); }
static void timer_closed(uv_handle_t *h)
{
	struct serve *s = h->data;
	s->closed = true;
	if (!s->n)
		free(s);
}
void serve_close(struct serve *s)
{
	for (struct serve_listener *li = s->listeners, *next; li; li = next) {
		next = li->next;
		uv_close(&li->u.handle, listener_closed);
	}
	s->listeners = NULL;
	for (struct serve_conn *c = s->conns; c; c = c->next)
		serve_conn_close(c);
	uv_close((uv_handle_t *)&s->timer, timer_closed);
}
