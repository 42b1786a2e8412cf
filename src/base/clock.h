/* The clocks, in nanoseconds. Any thread. */
#pragma once
#include <stdint.h>
#include <time.h>
static inline int64_t clock_of(clockid_t id) { struct timespec t; clock_gettime(id, &t); return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec; }
static inline int64_t clock_wall(void) { return clock_of(CLOCK_REALTIME); }
static inline int64_t clock_mono(void) { return clock_of(CLOCK_MONOTONIC); }
static inline int64_t clock_cpu(void) { return clock_of(CLOCK_PROCESS_CPUTIME_ID); }
