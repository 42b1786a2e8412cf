/* Scheduling of the calling thread; see the header. No state. */
#include "base/priority.h"
#include <sched.h>
#include <sys/resource.h>

enum { URGENT = -20 };

static int nice_of_thread(void) { return getpriority(PRIO_PROCESS, 0); }     /* Linux: 0 is the calling thread */
static int set_nice(int nice) { return setpriority(PRIO_PROCESS, 0, nice); }
static int set_policy(int policy) { return sched_setscheduler(0, policy, &(struct sched_param){ 0 }); }

int priority_background(int nice)
{
	int now = nice_of_thread();
	if (nice <= 0)
		return now;
	set_policy(SCHED_BATCH);
	/* Going up once shows that going back will be allowed. */
	if (nice > now && now > -20 && set_nice(now - 1) == 0 && set_nice(nice) == 0)
		now = nice;
	return now;
}

struct priority priority_urgent(void)
{
	struct priority was = { sched_getscheduler(0), nice_of_thread() };
	if (was.policy == SCHED_BATCH || was.policy == SCHED_IDLE)
		set_policy(SCHED_OTHER);
	if (was.nice > URGENT && set_nice(URGENT) < 0 && was.nice > 0)
		set_nice(0);                    /* RLIMIT_NICE may allow less than we would like */
	return was;
}

void priority_restore(struct priority was)
{
	set_nice(was.nice);
	if (was.policy == SCHED_BATCH || was.policy == SCHED_IDLE)
		set_policy(was.policy);
}
