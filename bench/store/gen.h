/* Realistic spans, the same ones for the same seed: a shop's traces of 4 to 12 spans over 12 services, 4 to 6 attributes each, some of few
 * values, some of many (order ids, users), a few errors with an event. */
#pragma once
#include "model/batch.h"
struct gen { uint64_t rng; int64_t now_ns, step_ns; };
void gen_init(struct gen *g, uint64_t seed, int64_t start_ns, int64_t step_ns); /* step: between traces */
struct batch *gen_batch(struct gen *g, uint32_t spans);                         /* at least that many */
