/* Unary gRPC over HTTP/2 without TLS, on the loop. A call is handed over with its message (decompressed) and answered once, now or later. Loop
 * thread only. */
#pragma once
#include "base/buf.h"
#include "base/err.h"
#include "net/loop.h"

enum { GRPC_OK = 0, GRPC_INVALID_ARGUMENT = 3, GRPC_RESOURCE_EXHAUSTED = 8, GRPC_UNIMPLEMENTED = 12, GRPC_INTERNAL = 13, GRPC_UNAVAILABLE = 14 };

struct h2_stream;
struct grpc_call {
	const char *method;                  /* "/package.Service/Method" */
	struct str message;
	void *listener_arg;
	/* internal */
	struct h2_stream *stream;
	struct buf plain, path;
};
typedef void (*grpc_handler)(void *arg, struct grpc_call *c);
/* Ends and frees the call; text explains a status that is not OK (may be NULL). */
void grpc_reply(struct grpc_call *c, int status, const char *text, struct str message);

struct grpc_limits { size_t message, held; int conns, idle_s; };  /* 0 = 64 MiB, 256 MiB in all, 1024, 300 s */
struct grpc_server;
int grpc_server_create(struct loop *l, const struct grpc_limits *lim, grpc_handler fn, void *arg, struct grpc_server **ret_s);
int grpc_listen(struct grpc_server *s, const char *address, void *listener_arg, char ret_bound[80], struct err *e);  /* as http_listen_tcp */
void grpc_server_close(struct grpc_server *s);       /* NULL is fine; freed when loop_destroy has run */
unsigned grpc_server_conns(const struct grpc_server *s);

/* What stands between HTTP/2 and a handler, for who brings his own connection (tests, fuzzing): takes a complete request. */
void grpc_request(struct h2_stream *st, size_t max_message, void *listener_arg, grpc_handler fn, void *arg);
