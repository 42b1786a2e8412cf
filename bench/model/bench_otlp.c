/* How fast OTLP is read and written: our protobuf reader beside protobuf-c over the same bytes (one allocation-free pass into a batch against a tree of
 * messages), JSON, and the writer. One thread; rounds of the two readers alternate so that both see the same machine. Prints `name value unit ratio`. */
#include "base/clock.h"
#include "model/otlp.h"
#include "otlp.pb-c.h"
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

enum { SPANS = 512, ATTRIBUTES = 8 };

/* A request as a shop's service sends it: 512 spans, eight attributes each, one resource. Appended as JSON too. */
static void make(struct batch *b, struct buf *json)
{
	static const char *const keys[ATTRIBUTES] = { "http.request.method", "http.route", "http.response.status_code", "tenant", "user.id",
		"thread.id", "server.address",
		"code.line.number" };
	char text[64];
	uint32_t at = (uint32_t)(batch_add_attrs(b, 1) - b->attrs), service = batch_str(b, STR("checkout"));
	b->attrs[at] = (struct attr){ .key = batch_str(b, STR("service.name")), .type = ATTR_STR, .s = service };
	batch_add_resource(b, &(struct resource){ service, { at, 1 } });
	batch_add_scope(b, &(struct scope){ .name = batch_str(b, STR("klieg")) });
	buf_add_str(json, "{\"resourceSpans\":[{\"resource\":{\"attributes\":[{\"key\":\"service.name\",\"value\":{\"stringValue\":\"checkout\"}}]},"
		"\"scopeSpans\":[{\"scope\":{\"name\":\"klieg\"},\"spans\":[");
	for (uint32_t i = 0; i < SPANS; i++) {
		struct span s = { .trace_hi = i * 0x9e3779b97f4a7c15ull + 1, .trace_lo = i, .span_id = i + 1, .parent_id = i, .start_ns = 1700000000000000000 + i * 1000,
			.duration_ns = 1000 + i, .kind = KIND_SERVER, .flags = 1 };
		snprintf(text, sizeof text, "operation %u", i % 40);
		s.name = batch_str(b, str_of(text));
		buf_printf(json, "%s{\"traceId\":\"%016" PRIx64 "%016" PRIx64 "\",\"spanId\":\"%016" PRIx64 "\",\"name\":\"%s\",\"kind\":2,"
			"\"startTimeUnixNano\":\"%" PRId64
			"\",\"endTimeUnixNano\":\"%" PRId64 "\",\"attributes\":[", i ? "," : "", s.trace_hi, s.trace_lo, s.span_id, text, s.start_ns,
				s.start_ns + s.duration_ns);
		at = (uint32_t)(batch_add_attrs(b, ATTRIBUTES) - b->attrs);
		for (uint32_t k = 0; k < ATTRIBUTES; k++) {
			struct attr a = { .key = batch_str(b, str_of(keys[k])), .type = k == 2 || k == 5 || k == 7 ? ATTR_INT : ATTR_STR };
			snprintf(text, sizeof text, "%s-%u", keys[k], (i * 7 + k) % (k == 4 ? 500 : 20));
			if (a.type == ATTR_INT)
				a.i = 200 + i % 300;
			else
				a.s = batch_str(b, str_of(text));
			buf_printf(json, "%s{\"key\":\"%s\",\"value\":", k ? "," : "", keys[k]);
			if (a.type == ATTR_INT)
				buf_printf(json, "{\"intValue\":\"%u\"}}", 200 + i % 300);
			else
				buf_printf(json, "{\"stringValue\":\"%s\"}}", text);
			b->attrs[at + k] = a;
		}
		buf_add_str(json, "]}");
		s.attrs = (struct attr_range){ at, ATTRIBUTES };
		*batch_add_span(b) = s;
	}
	buf_add_str(json, "]}]}]}");
}

static struct buf request, document, out;
static struct batch *made;

static void ours(void)
{
	struct batch *b = batch_create();
	struct otlp_report r;
	if (otlp_decode(buf_str(&request), b, &r, NULL) < 0 || r.spans != SPANS)
		abort();
	batch_destroy(b);
}
static void peer(void)
{
	Oracle__ExportTraceServiceRequest *r = oracle__export_trace_service_request__unpack(NULL, request.n, request.p);
	if (!r || r->resource_spans[0]->scope_spans[0]->n_spans != SPANS)
		abort();
	oracle__export_trace_service_request__free_unpacked(r, NULL);
}
static void json(void)
{
	struct batch *b = batch_create();
	struct otlp_report r;
	if (otlp_decode_json(buf_str(&document), b, &r, NULL) < 0 || r.spans != SPANS)
		abort();
	batch_destroy(b);
}
static void encode(void)
{
	buf_clear(&out);
	otlp_encode(made, 0, SPANS, &out);
}

int main(void)
{
	static const struct { const char *name; void (*run)(void); } what[] = { { "otlp_protobuf_decode", ours }, { "protobuf_c_decode", peer },
		{ "otlp_json_decode", json },
		{ "otlp_protobuf_encode", encode } };
	double best[4] = { 0 };
	made = batch_create();
	make(made, &document);
	otlp_encode(made, 0, SPANS, &request);
	for (unsigned round = 0; round < 12; round++)
		for (unsigned k = 0; k < 4; k++) {
			int64_t t = clock_mono(), took;
			unsigned times = 0;
			do {
				what[k].run();
				times++;
			} while ((took = clock_mono() - t) < 100000000);
			double rate = (double)times * SPANS * 1e9 / (double)took;
			best[k] = rate > best[k] ? rate : best[k];
		}
	printf("# %u spans of %u attributes: %zu bytes of protobuf, %zu of JSON; best of 12 rounds\n", SPANS, ATTRIBUTES, request.n, document.n);
	for (unsigned k = 0; k < 4; k++)
		printf("%s %.0f spans/s %.2fx %s\n", what[k].name, best[k], best[k] / best[1], k == 1 ? "(the peer)" : "protobuf-c's decode");
	buf_finish(&request);
	buf_finish(&document);
	buf_finish(&out);
	batch_destroy(made);
	return 0;
}
