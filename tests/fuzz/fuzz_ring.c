/* The ring reader over arbitrary bytes: 12 bytes of head and tail, the rest is the ring. Every record and attribute is walked. */
#include "agent/ring.h"
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size < 12)
		return 0;
	uint32_t v[3];
	memcpy(v, data, 12);
	uint32_t bytes = 4096;
	uint8_t *ring = calloc(1, bytes);
	memcpy(ring, data + 12, size - 12 < bytes ? size - 12 : bytes);
	struct ring_reader r = { .data = ring, .bytes = bytes, .nsites = v[2] % 64, .tail = v[0], .head = (uint64_t)v[0] + v[1] % 8192 };
	struct ring_rec rec;
	int rc, n = 0;
	while ((rc = ring_next(&r, &rec)) != 0 && n++ < 8192) {
		uint32_t off = 0;
		struct ring_attr a;
		bool bad;
		volatile uint8_t sink = 0;
		while (rc > 0 && ring_attr(&rec, &off, &a, &bad))
			for (uint32_t i = 0; i < a.len; i++)
				sink ^= a.value[i];
	}
	if (n >= 8192)
		abort(); /* must advance */
	free(ring);
	struct kw_region reg = { 0 };
	memcpy(&reg, data, size < sizeof reg ? size : sizeof reg);
	kw_region_valid(&reg, 1u << 20);
	return 0;
}
