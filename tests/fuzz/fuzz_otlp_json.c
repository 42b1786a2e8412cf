/* OTLP JSON: any bytes are refused or decoded; what was decoded goes through protobuf with as many spans, and each is valid JSON text for the API. */
#include "model/otlp.h"
#include "model/span_json.h"
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct batch *b = batch_create(), *again = batch_create();
	struct otlp_report r, r2;
	struct err e;
	if (otlp_decode_json((struct str){ (const char *)data, size }, b, &r, &e) == 0) {
		struct buf out = { 0 };
		if (r.spans != b->n)
			abort();
		otlp_encode(b, 0, b->n, &out);
		if (otlp_decode(buf_str(&out), again, &r2, &e) < 0 || r2.spans != r.spans || r2.rejected)
			abort();
		for (uint32_t i = 0; i < b->n; i++) {
			buf_clear(&out);
			span_json(b, i, true, &out);
			if (!str_utf8_valid(buf_str(&out)))
				abort();
		}
		buf_finish(&out);
	}
	batch_destroy(b);
	batch_destroy(again);
	return 0;
}
