/* Listeners and their connections, whatever is spoken on them: what http.c and grpc.c have in common. Loop thread only; see serve.c. */
#pragma once
#include "base/buf.h"
#include "base/err.h"
#include "net/loop.h"

union serve_handle { uv_tcp_t tcp; uv_pipe_t pipe; uv_stream_t stream; uv_handle_t handle; };
struct serve_conn {                      /* the first member of a connection */
	union serve_handle u;
	struct serve *s;
	struct serve_conn *next, **prev;
	void *listener_arg;
	bool local, closing;             /* local: over a UNIX socket */
};
struct serve_ops {
	size_t conn_size;                /* of who has a serve_conn as its first member; zeroed */
	void (*opened)(struct serve_conn *c);                     /* it calls serve_read, or serve_conn_close */
	void (*read)(struct serve_conn *c, struct str bytes);
	void (*sweep)(struct serve_conn *c, int64_t now);         /* once a second */
	void (*closing)(struct serve_conn *c);                    /* nothing can be written any more */
	void (*gone)(struct serve_conn *c);                       /* its memory goes next; may be NULL */
};
struct serve {                           /* the first member of a server */
	struct loop *l;
	const struct serve_ops *ops;
	uv_timer_t timer;
	struct serve_listener *listeners;
	struct serve_conn *conns;
	unsigned n;
	bool closed;                     /* freed with its last connection */
	char chunk[64 << 10];            /* what has just been read; used up before the next is */
};
void serve_begin(struct serve *s, struct loop *l, const struct serve_ops *ops);
/* "HOST:PORT" or "[v6]:PORT"; port 0 = any. KLIEG_E_PORT_IN_USE names the port. ret_bound gets HOST:PORT as bound. */
int serve_tcp(struct serve *s, const char *address, void *listener_arg, char ret_bound[80], struct err *e);
int serve_unix(struct serve *s, const char *path, struct err *e);  /* 0600; a stale socket is replaced */
void serve_read(struct serve_conn *c, bool on);
void serve_conn_close(struct serve_conn *c);         /* again is fine */
void serve_close(struct serve *s);                   /* stops listening, closes all connections; free(s) when loop_destroy has run */
