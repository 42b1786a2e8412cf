/* gRPC over HTTP/2: any bytes of a client, in pieces, answered at once, later, or after the client has gone: nothing is leaked, every byte that was held is given back. The
 * first byte says how: bits 0..1 when calls are answered, the rest the size of the pieces. */
#include "net/grpc.h"
#include "net/h2.h"
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct peer { struct grpc_call *waiting[64]; unsigned n; int when; size_t sent; };

static void called(void *arg, struct grpc_call *c)
{
	struct peer *p = arg;
	if (p->when == 0 || p->n == 64)
		grpc_reply(c, c->message.n & 1 ? GRPC_INTERNAL : GRPC_OK, "odd, \xc3\xbc%", c->message);
	else
		p->waiting[p->n++] = c;
}
static void requested(void *arg, struct h2_stream *st) { grpc_request(st, 1 << 16, NULL, called, arg); }
static void sent(void *arg, struct str bytes) { ((struct peer *)arg)->sent += bytes.n; }

static void answer_all(struct peer *p)
{
	for (unsigned i = 0; i < p->n; i++)
		grpc_reply(p->waiting[i], GRPC_OK, NULL, p->waiting[i]->message);
	p->n = 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	size_t held = 0, piece = size ? (size_t)(data[0] >> 2) * 7 + 1 : 1;
	struct peer p = { .when = size ? data[0] & 3 : 0 };
	struct h2_limits lim = { .head = 4096, .body = 1 << 16, .streams = 10, .held = &held, .held_max = 1 << 18 };
	struct h2_session *s;
	if (h2_session_create(&lim, requested, sent, &p, &s) < 0)
		abort();
	for (size_t i = 1; i < size; i += piece) {
		size_t n = size - i < piece ? size - i : piece;
		if (h2_session_feed(s, (struct str){ (const char *)data + i, n }) < 0)
			break;
		if (p.when == 2)
			answer_all(&p);
		if (held > lim.held_max || p.sent > 64u << 20)
			abort();
	}
	if (p.when == 1)
		answer_all(&p);
	h2_session_destroy(s);
	answer_all(&p);
	if (held)
		abort();
	return 0;
}
