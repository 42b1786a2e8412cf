/* OTLP/trace: ExportTraceServiceRequest as protobuf and JSON, to and from a batch. The protobuf reader and writer are our own, zero-copy and
 * bounded, from the field numbers of opentelemetry-proto; protobuf-c is their oracle in the tests. Pure functions, any thread. */
#pragma once
#include "base/buf.h"
#include "base/err.h"
#include "model/batch.h"

/* What a request held. spans were added to the batch; rejected were not, and why is counted. */
struct otlp_report {
	uint32_t spans, rejected;
	uint32_t bad_id;             /* of rejected: trace or span id missing, of the wrong length, or zero */
	uint32_t too_many;           /* of rejected: beyond OTLP_MAX_SPANS */
	uint32_t clipped;            /* of spans: ended before they began, or at times beyond 2262 (duration 0) */
	uint32_t dropped_attributes; /* beyond OTLP_MAX_ATTRIBUTES of a span, event, link, resource, scope or list; not what the sender had dropped before */
	uint32_t cut_strings;        /* longer than OTLP_MAX_STRING, kept up to there */
};
enum { OTLP_MAX_SPANS = 1 << 20, OTLP_MAX_ATTRIBUTES = 128, OTLP_MAX_STRING = 64 << 10, OTLP_MAX_DEPTH = 32 };

/* Adds the request's spans to b. KLIEG_E_BAD_DATA: malformed; b then holds what came before and must be thrown away. An empty body is fine. */
int otlp_decode(struct str body, struct batch *b, struct otlp_report *ret_r, struct err *e);
int otlp_decode_json(struct str body, struct batch *b, struct otlp_report *ret_r, struct err *e);

/* Appends a request with spans [from, from+n) of b. A threshold that a span's trace state does not tell is written there, as ot=th. */
void otlp_encode(const struct batch *b, uint32_t from, uint32_t n, struct buf *ret);
/* Appends an ExportTraceServiceResponse; partial success when rejected > 0 or message is given (may be NULL). */
void otlp_encode_response(uint32_t rejected, const char *message, bool json, struct buf *ret);
/* Appends a google.rpc.Status; code is a gRPC status code. */
void otlp_encode_status(int code, const char *message, bool json, struct buf *ret);
