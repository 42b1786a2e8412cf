/* SipHash-2-4 with 128 bits of output: a keyed hash small enough for libklieg, for capture tokens (docs/probes.md). Method: J.-P. Aumasson, D. J. Bernstein, "SipHash: a
 * fast short-input PRF", 2012, and its 128-bit variant. */
#pragma once
#include <stddef.h>
#include <stdint.h>

static inline uint64_t siphash_word(const uint8_t *p)
{
	uint64_t w = 0;
	for (unsigned i = 0; i < 8; i++)
		w |= (uint64_t)p[i] << 8 * i;
	return w;
}

static inline void siphash_rounds(uint64_t v[4], int n)
{
#define SIPHASH_ROTL(x, b) (((x) << (b)) | ((x) >> (64 - (b))))
	while (n--) {
		v[0] += v[1], v[1] = SIPHASH_ROTL(v[1], 13) ^ v[0], v[0] = SIPHASH_ROTL(v[0], 32);
		v[2] += v[3], v[3] = SIPHASH_ROTL(v[3], 16) ^ v[2];
		v[0] += v[3], v[3] = SIPHASH_ROTL(v[3], 21) ^ v[0];
		v[2] += v[1], v[1] = SIPHASH_ROTL(v[1], 17) ^ v[2], v[2] = SIPHASH_ROTL(v[2], 32);
	}
#undef SIPHASH_ROTL
}

static inline void siphash128(const uint8_t key[16], const void *data, size_t n, uint8_t ret_tag[16])
{
	const uint8_t *p = data;
	uint64_t k0 = siphash_word(key), k1 = siphash_word(key + 8), last = (uint64_t)n << 56, out;
	uint64_t v[4] = { k0 ^ 0x736f6d6570736575ull, k1 ^ 0x646f72616e646f6dull ^ 0xee, k0 ^ 0x6c7967656e657261ull, k1 ^ 0x7465646279746573ull };
	for (; n >= 8; p += 8, n -= 8) {
		uint64_t m = siphash_word(p);
		v[3] ^= m;
		siphash_rounds(v, 2);
		v[0] ^= m;
	}
	while (n--)
		last |= (uint64_t)p[n] << 8 * n;
	v[3] ^= last;
	siphash_rounds(v, 2);
	v[0] ^= last;
	v[2] ^= 0xee;
	for (unsigned half = 0; half < 2; half++) {
		if (half)
			v[1] ^= 0xdd;
		siphash_rounds(v, 4);
		out = v[0] ^ v[1] ^ v[2] ^ v[3];
		for (unsigned i = 0; i < 8; i++)
			ret_tag[8 * half + i] = (uint8_t)(out >> 8 * i);
	}
}
