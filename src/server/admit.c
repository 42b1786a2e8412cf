/* Where spans come in: the agent's sink (agent's thread), OTLP/HTTP and OTLP/gRPC (decoded on a pool thread). Both go to the store; every span is counted as taken and
 * then, when the store says so on its own thread, as stored or dropped. OTLP is answered only then: an answer means durable. */
#include "base/clock.h"
#include "model/otlp.h"
#include "server/internal.h"
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>

struct ingest {
	struct server *s;
	struct http_req *r;
	struct grpc_call *call;          /* or this: OTLP/gRPC */
	struct str body;
	bool json, gzip;
	struct member *agent;            /* whose spans they are, made and counted there; NULL: a sender's */
	struct otlp_report rep;
	struct err e;
	int rc;
};

static void stored(void *arg, int rc, uint32_t n)
{
	struct server *s = arg;
	s->admit.failing = rc;
	if (rc < 0)
		s->admit.failed_at = clock_mono();
	if (rc == 0)
		s->admit.stored += n;
	else
		s->admit.dropped_store += n;
}

int server_sink(void *arg, struct batch *b)
{
	struct server *s = arg;
	uint32_t n = b->n;
	struct batch *copy = events_copy(s, b);
	s->admit.agent_taken += n;
	int rc = store_append(s->c.store, b, stored, s);
	if (rc < 0) {                      /* the agent keeps it and comes again */
		s->admit.agent_taken -= n;
		s->admit.busy++;
		batch_destroy(copy);
	} else
		events_spans(s, copy, n);
	return rc;
}

void admit_dropped(struct server *s, json_t *into)
{
	struct { const char *name; unsigned long long n; } d[] = { { "store_failed", s->admit.dropped_store }, { "rejected", s->admit.otlp_rejected } };
	for (int i = 0; i < 2; i++)
		if (d[i].n)
			json_object_set_new(into, d[i].name, json_integer((json_int_t)d[i].n + json_integer_value(json_object_get(into, d[i].name))));
}

static void answer_grpc(struct ingest *in)
{
	struct buf b = { 0 };
	char why[120];
	bool retry = in->rc == KLIEG_E_BUSY || in->rc == KLIEG_E_DISK_FULL || in->rc == KLIEG_E_IO;
	if (in->rc == 0) {
		snprintf(why, sizeof(why), "%u spans with a bad id, %u beyond the limit of a request", in->rep.bad_id, in->rep.too_many);
		otlp_encode_response(in->rep.rejected, in->rep.rejected ? why : NULL, false, &b);
		grpc_reply(in->call, GRPC_OK, NULL, buf_str(&b));
	} else
		grpc_reply(in->call, retry ? GRPC_UNAVAILABLE : GRPC_INVALID_ARGUMENT, in->e.msg[0] ? in->e.msg : err_title(in->rc), (struct str){ 0 });
	buf_finish(&b);
	free(in);
}

static void answer(void *arg)
{
	struct ingest *in = arg;
	if (in->call) {
		answer_grpc(in);
		return;
	}
	const char *type = in->json ? "application/json" : "application/x-protobuf";
	struct buf b = { 0 };
	int status = 200;
	if (in->rc == 0) {
		char why[120];
		snprintf(why, sizeof(why), "%u spans with a bad id, %u beyond the limit of a request", in->rep.bad_id, in->rep.too_many);
		otlp_encode_response(in->rep.rejected, in->rep.rejected ? why : NULL, in->json, &b);
	} else {
		bool retry = in->rc == KLIEG_E_BUSY || in->rc == KLIEG_E_DISK_FULL || in->rc == KLIEG_E_IO;
		status = retry ? 503 : err_http(in->rc);
		otlp_encode_status(retry ? 14 : 3, in->e.msg[0] ? in->e.msg : err_title(in->rc), in->json, &b);
	}
	http_reply(in->r, status, type, buf_str(&b), status == 503 ? "Retry-After: 1\r\n" : NULL);
	buf_finish(&b);
	if (in->agent)
		fleet_taker_done(in->s, in->agent);
	free(in);
}

static void durable(void *arg, int rc, uint32_t n)   /* the store's thread */
{
	struct ingest *in = arg;
	stored(in->s, rc, n);
	in->rc = rc;
	loop_post(in->s->c.loop, answer, in);
}

static void decode(void *arg)                        /* a pool thread */
{
	struct ingest *in = arg;
	struct buf plain = { 0 };
	struct str body = in->body;
	in->rc = 0;
	if (in->gzip) {
		in->rc = http_inflate(body, 64 << 20, &plain);
		if (in->rc < 0)
			err_set(&in->e, in->rc, in->rc == KLIEG_E_TOO_LARGE ? "the body is larger than 64 MiB after decompression" : "the body is not valid gzip");
		body = buf_str(&plain);
	}
	struct batch *b = batch_create();
	if (in->rc == 0)
		in->rc = (in->json ? otlp_decode_json : otlp_decode)(body, b, &in->rep, &in->e);
	buf_finish(&plain);
	if (in->rc == 0) {
		struct server *s = in->s;
		uint32_t n = b->n, rejected = in->rep.rejected;
		atomic_ullong *taken = in->agent ? &s->admit.agent_taken : &s->admit.otlp_taken;
		s->admit.otlp_taken += rejected;
		s->admit.otlp_rejected += rejected;
		if (n) {
			struct batch *copy = events_copy(s, b);
			*taken += n;
			if (in->agent)
				fleet_took(in->agent, n);
			int rc = store_append(s->c.store, b, durable, in);
			if (rc == 0) {               /* `in` belongs to the store's answer now, and may be gone already */
				events_spans(s, copy, n);
				return;
			}
			batch_destroy(copy);
			in->rc = rc;                 /* the sender comes again with all of it */
			*taken -= n;
			if (in->agent)
				fleet_took(in->agent, -(int64_t)n);
			s->admit.otlp_taken -= rejected;
			s->admit.otlp_rejected -= rejected;
			s->admit.busy++;
		}
	}
	batch_destroy(b);
	loop_post(in->s->c.loop, answer, in);
}
static void decoded(void *arg) { }                   /* the answer comes through loop_post; `in` may be gone */

static bool type_is(struct str t, const char *name)
{
	size_t n = strlen(name);
	return t.n >= n && !strncasecmp(t.p, name, n) && (t.n == n || t.p[n] == ';' || t.p[n] == ' ');
}

static void refuse_type(struct http_req *r, bool json, const char *why)
{
	struct buf b = { 0 };
	otlp_encode_status(3, why, json, &b);
	http_reply(r, 415, json ? "application/json" : "application/x-protobuf", buf_str(&b), NULL);
	buf_finish(&b);
}

void admit_otlp(struct server *s, struct http_req *r)
{
	struct str type = http_header(r, "content-type"), enc = http_header(r, "content-encoding");
	bool json = type_is(type, "application/json"), gzip = type_is(enc, "gzip");
	if (strcmp(r->method, "POST")) {
		http_reply(r, 405, NULL, (struct str){ 0 }, "Allow: POST\r\n");
		return;
	}
	if (!json && !type_is(type, "application/x-protobuf")) {
		refuse_type(r, true, "send application/x-protobuf or application/json");
		return;
	}
	if (enc.n && !gzip && !type_is(enc, "identity")) {
		refuse_type(r, json, "only gzip is understood as Content-Encoding");
		return;
	}
	struct ingest *in = base_calloc(1, sizeof(*in));
	*in = (struct ingest){ .s = s, .r = r, .body = buf_str(&r->body), .json = json, .gzip = gzip, .agent = fleet_taker(s, http_header(r, "klieg-agent")) };
	loop_work(s->c.loop, decode, decoded, in);
}

void admit_grpc(struct server *s, struct grpc_call *c)
{
	struct ingest *in = base_calloc(1, sizeof(*in));
	*in = (struct ingest){ .s = s, .call = c, .body = c->message };
	loop_work(s->c.loop, decode, decoded, in);
}
