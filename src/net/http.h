/* HTTP/1.1 server. Loop thread only. A request is handed over complete (headers and body, chunks joined, not inflated) and stays valid until it is
 * answered with http_reply or its stream ends; the client may be gone by then, answering is still right and does nothing. HTTP/2 will be another
 * producer of the same struct http_req. */
#pragma once
#include "base/buf.h"
#include "base/err.h"
#include "net/loop.h"

struct http_req {
	const char *method;              /* "GET"; HEAD is answered like GET without a body */
	struct str path, query;          /* path percent-decoded, query raw; both NUL-terminated */
	struct buf body;
	bool local;                      /* came over a UNIX socket */
	void *listener_arg;
	struct http_conn *conn;          /* NULL: the client is gone */
	size_t *bodies;                  /* internal: where the server counts the bytes of body it holds */
	void (*on_gone)(struct http_req *r, void *arg);  /* set by the owner of a stream: the client closed; r is freed after it */
	void *gone_arg;
	struct buf names, head;          /* internal: header text */
	struct http_header { uint32_t name, name_n, value, value_n; } headers[64];
	unsigned nheaders;
	bool streaming, is_head, keep_alive, refused;
};
struct http_limits { size_t head, body, bodies; int conns, head_s, idle_s; size_t stream_backlog; };  /* bodies: of all requests together; 0 = 32 KiB,
	64 MiB, 256 MiB, 8192 (less if fewer files may be open), 10 s, 60 s, 1 MiB */
typedef void (*http_handler)(void *arg, struct http_req *r);

struct http_server;
int http_server_create(struct loop *l, const struct http_limits *limits, http_handler fn, void *arg, struct http_server **ret_s);
/* "HOST:PORT" or "[v6]:PORT"; port 0 = any. KLIEG_E_PORT_IN_USE names the port. ret_bound gets HOST:PORT as bound. */
int http_listen_tcp(struct http_server *s, const char *address, void *listener_arg, char ret_bound[80], struct err *e);
int http_listen_unix(struct http_server *s, const char *path, struct err *e);  /* 0600; a stale socket is replaced */
void http_server_close(struct http_server *s);     /* stops listening, closes all connections; freed when loop_destroy has run */
unsigned http_server_conns(const struct http_server *s);

struct str http_header(const struct http_req *r, const char *name);  /* {0} when absent */
/* headers: more lines "Name: value\r\n" or NULL. Ends the request. */
void http_reply(struct http_req *r, int status, const char *type, struct str body, const char *headers);
void http_stream_open(struct http_req *r, const char *type);         /* chunked; stays open */
bool http_stream_send(struct http_req *r, struct str data);          /* false: the client is too slow, data was not sent */
/* Decodes the value of a query parameter; false when absent. */
bool http_param(struct str query, const char *name, struct buf *ret_value);
bool http_unescape(struct str in, bool plus, struct buf *ret_out);   /* false: bad escape or a NUL */
/* gzip or zlib; KLIEG_E_TOO_LARGE beyond max, KLIEG_E_BAD_DATA. */
int http_inflate(struct str in, size_t max, struct buf *ret_out);
