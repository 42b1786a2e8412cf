/* A fast non-cryptographic 64-bit hash (for tables, site ids): multiply-xorshift over 8-byte words, little-endian. The
 * value is part of the format: site ids are stored. Keyed hashing of masked values uses libsodium instead. */
#pragma once
#include <stdint.h>
#include <string.h>

static inline uint64_t hash_bytes(const void *p, size_t n, uint64_t seed)
{
	const uint8_t *b = p;
	uint64_t h = seed ^ (n * 0x9e3779b97f4a7c15ull), v;
	for (; n >= 8; b += 8, n -= 8) {
		memcpy(&v, b, 8);
		h = (h ^ v) * 0xff51afd7ed558ccdull;
		h ^= h >> 32;
	}
	v = 0;
	if (n)
		memcpy(&v, b, n);
	h = (h ^ v) * 0xc4ceb9fe1a85ec53ull;
	h ^= h >> 29;
	h *= 0xbf58476d1ce4e5b9ull;
	return h ^ (h >> 32);
}
