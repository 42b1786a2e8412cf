/* OTLP protobuf: any bytes are refused or decoded; what was decoded encodes and decodes again to as many spans, and as the same bytes. */
#include "model/otlp.h"
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct batch *b = batch_create(), *again = batch_create();
	struct otlp_report r, r2;
	struct err e;
	if (otlp_decode((struct str){ (const char *)data, size }, b, &r, &e) == 0) {
		struct buf out = { 0 }, twice = { 0 };
		if (r.spans != b->n)
			abort();
		otlp_encode(b, 0, b->n, &out);
		if (otlp_decode(buf_str(&out), again, &r2, &e) < 0 || r2.spans != r.spans || r2.rejected || r2.clipped)
			abort();
		otlp_encode(again, 0, again->n, &twice);
		if (!str_eq(buf_str(&out), buf_str(&twice)))
			abort();
		buf_finish(&out);
		buf_finish(&twice);
	}
	batch_destroy(b);
	batch_destroy(again);
	return 0;
}
