/* Durations and sizes as people write them. Pure functions, any thread. */
#pragma once
#include "base/buf.h"
#include <stdint.h>

/* "250ms", "1.5s", "1h30m", "7d"; units ns us ms s m h d w. KLIEG_E_SYNTAX; KLIEG_E_LIMIT when it does not fit. */
int duration_parse(struct str s, int64_t *ret_ns);
/* "10GiB", "512M", "1000"; powers of 1024 for K M G T with or without i and B. */
int size_parse(struct str s, uint64_t *ret_bytes);
