/* The block decoder over any bytes: a length, the head, then the body. */
#include "store/block.h"
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint32_t head;
	if (size < 4)
		return 0;
	memcpy(&head, data, 4);
	data += 4;
	size -= 4;
	if (head > size)
		head = (uint32_t)size;
	struct str h = { (const char *)data, head }, b = { (const char *)data + head, size - head };
	struct block_filter f = { .from_ns = 0, .to_ns = 1000, .min_duration = 1, .max_duration = 1000, .service = STR("shop"), .name = STR("pay"),
		.errors_only = true, .by_trace = true };
	uint8_t *sel = base_alloc(BLOCK_SPANS);
	uint32_t n;
	block_select(h, &f, sel, &n);
	struct batch *out = batch_create();
	block_decode(h, b, NULL, out);
	batch_destroy(out);
	free(sel);
	return 0;
}
