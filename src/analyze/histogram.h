/* A log-linear histogram of durations: 64 steps per power of two, so a quantile is within 0.8 %. Weighted, since a sampled span stands for
 * several. One owner; reused from one group to the next, so reset touches only what was used. */
#pragma once
#include <stdint.h>
#include <string.h>

#define HISTOGRAM_STEPS 64u
#define HISTOGRAM_BUCKETS (HISTOGRAM_STEPS * 58u)
struct histogram { double weight; uint32_t lo, hi; double counts[HISTOGRAM_BUCKETS]; }; /* used: lo..hi; zeroed memory is an empty one */

static inline uint32_t histogram_bucket(uint64_t v)
{
	if (v < HISTOGRAM_STEPS)
		return (uint32_t)v;
	unsigned e = 63u - (unsigned)__builtin_clzll(v);
	return (e - 5) * HISTOGRAM_STEPS + (uint32_t)((v >> (e - 6)) & (HISTOGRAM_STEPS - 1));
}

/* The middle of a bucket. */
static inline double histogram_mid(uint32_t b)
{
	if (b < HISTOGRAM_STEPS)
		return b;
	uint32_t e = b / HISTOGRAM_STEPS + 5;
	double step = (double)(1ull << (e - 6));
	return (HISTOGRAM_STEPS + b % HISTOGRAM_STEPS) * step + (step - 1) / 2;
}

static inline void histogram_add(struct histogram *h, int64_t ns, double weight)
{
	uint32_t b = histogram_bucket(ns < 0 ? 0 : (uint64_t)ns);
	if (h->weight == 0)
		h->lo = h->hi = b;
	h->lo = b < h->lo ? b : h->lo;
	h->hi = b > h->hi ? b : h->hi;
	h->counts[b] += weight;
	h->weight += weight;
}

static inline void histogram_reset(struct histogram *h)
{
	if (h->weight != 0)
		memset(h->counts + h->lo, 0, (h->hi - h->lo + 1) * sizeof *h->counts);
	h->weight = 0;
}

/* 0 if empty. */
static inline double histogram_quantile(const struct histogram *h, double q)
{
	if (h->weight == 0)
		return 0;
	double want = q * h->weight, sum = 0;
	for (uint32_t b = h->lo; b <= h->hi; b++)
		if ((sum += h->counts[b]) >= want && h->counts[b] > 0)
			return histogram_mid(b);
	return histogram_mid(h->hi);
}
