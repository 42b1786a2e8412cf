/* Who runs first. The programs that are observed do: what is drained, stored and shown here can wait for them. Only while a program stands still because
 * of us, we come first. Linux: nice values and policies are each thread's own, and those of a new thread are its creator's. */
#pragma once
#include <stdbool.h>

struct priority { int policy, nice; };

/* This thread, and those that it starts later, run after others: SCHED_BATCH (never takes the CPU from a running thread when it wakes) at the nice
 * value `nice` (0..19; 0 = as everybody, nothing is changed). Where nice values could not be raised again (no CAP_SYS_NICE, no RLIMIT_NICE), only the
 * former: a thread that must not be waited for could not come forward. Returns the nice value it has now. See sched(7). */
int priority_background(int nice);

/* This thread comes first as far as it may, until priority_restore(what it was); never fails. */
struct priority priority_urgent(void);
void priority_restore(struct priority was);
