/* Who runs first. The programs that are observed do: records are drained, stored and shipped when there is time. But a thread that has little to do is as quick as
 * anybody's, so that an operator is not kept waiting on a host that is saturated; and while a program stands still because of us, we come first.
 * Linux: nice values and policies are each thread's own, those of a new thread are its creator's. See sched(7). */
#pragma once
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct priority { int policy, nice; };
struct priority_pace {
	int64_t looked, cpu;
	struct priority was;
	pid_t tid;
	unsigned busy;           /* seconds on end */
	atomic_bool background, awaited;
};

/* What the background is in this process, before there are threads: SCHED_BATCH (never takes the CPU from a running thread when it wakes) at this
 * nice value, 1..19. 0, as it is at first: there is none, all run as they are. */
void priority_set(int nice);

/* This thread, and those that it starts later, are in the background. Where nice values could not be raised again (no CAP_SYS_NICE, no RLIMIT_NICE), the
 * nice value stays: a thread that must not be waited for could not come forward. */
void priority_background(void);
/* To be called by a thread now and then: once a second it looks whether the thread is busy (over 3 % of a CPU); after three such seconds it is in the
 * background, until it is not (under 1 %). now: CLOCK_MONOTONIC. *p is the thread's, zero at first. */
void priority_pace(struct priority_pace *p, int64_t now);
/* Somebody waits for what this thread is to do: for the next second at least it is not in the background, however busy. Any thread. */
void priority_await(struct priority_pace *p);

/* This thread comes first as far as it may, until priority_restore(what it was); never fails. */
struct priority priority_urgent(void);
void priority_restore(struct priority was);
