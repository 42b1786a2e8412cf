/* HTTP/2 of one connection, server side, without the socket: bytes in, bytes out, complete requests to a handler (prior knowledge, no TLS, no
 * push). On nghttp2. One thread. */
#pragma once
#include "base/buf.h"
#include "base/err.h"

struct h2_session;
/* held: bytes of bodies of all sessions together, counted by us. */
struct h2_limits { size_t head, body; uint32_t streams; size_t *held, held_max; };

/* A request; valid until it is answered. The client may be gone by then: answering is still right and does nothing. */
struct h2_stream {
	struct h2_session *session;          /* NULL: the client or the stream is gone */
	int32_t id;
	struct buf method, path, type, encoding, body;  /* encoding: grpc-encoding */
	size_t head;
	bool complete, replied, too_large;
	/* internal */
	size_t *held;
	struct h2_stream *next, **prev;
	struct buf out; size_t sent;
	struct buf trailers;
};
typedef void (*h2_request_fn)(void *arg, struct h2_stream *st);
typedef void (*h2_send_fn)(void *arg, struct str bytes);

int h2_session_create(const struct h2_limits *lim, h2_request_fn request, h2_send_fn send, void *arg, struct h2_session **ret_s);
/* KLIEG_E_BAD_DATA: this is not HTTP/2, or it is abused; what there is to say has been sent, close the connection.
 * KLIEG_E_UNSUPPORTED: not even the preface. */
int h2_session_feed(struct h2_session *s, struct str bytes);
bool h2_session_busy(const struct h2_session *s);    /* a request is under way */
void h2_session_destroy(struct h2_session *s);       /* requests in the handler's hands lose their session */

/* Ends the request. head and trailers: name, value, ..., NULL. Without a body the trailers go with the head. Takes body's bytes by copy. */
void h2_reply(struct h2_stream *st, int status, const char *const *head, struct str body, const char *const *trailers);
