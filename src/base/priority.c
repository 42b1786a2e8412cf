/* Scheduling of the calling thread; see the header. The one thing that is kept is what the background is. */
#include "base/priority.h"
#include "base/clock.h"
#include <sched.h>
#include <sys/resource.h>
#include <unistd.h>

#define SECOND 1000000000ll
enum { URGENT = -20, BUSY_FOR = 3 /* what comes in bursts is done at once */ };
static int background;

static int nice_of_thread(void) { return getpriority(PRIO_PROCESS, 0); }     /* Linux: 0 is the calling thread */
static int set_nice(int nice) { return setpriority(PRIO_PROCESS, 0, nice); }
static int set_policy(int policy) { return sched_setscheduler(0, policy, &(struct sched_param){ 0 }); }

void priority_set(int nice) { background = nice; }

void priority_background(void)
{
	int now = nice_of_thread();
	if (!background)
		return;
	set_policy(SCHED_BATCH);
	/* Going up once shows that going back will be allowed. */
	if (background > now && now > -20 && set_nice(now - 1) == 0)
		set_nice(background);
}

void priority_pace(struct priority_pace *p, int64_t now)
{
	if (!background || now - p->looked < SECOND)
		return;
	bool awaited = atomic_exchange(&p->awaited, false);
	int64_t cpu = clock_of(CLOCK_THREAD_CPUTIME_ID), busy = cpu - p->cpu, whole = now - p->looked;
	bool first = !p->looked;
	p->looked = now;
	p->cpu = cpu;
	p->busy = !first && !awaited && busy > whole / 100 * 3 ? p->busy + 1 : 0;
	if (first) {
		p->tid = gettid();
		p->was = (struct priority){ sched_getscheduler(0), nice_of_thread() };
	} else if (!p->background && p->busy >= BUSY_FOR) {
		priority_background();
		p->background = true;
	} else if (busy < whole / 100 && (p->background || nice_of_thread() != p->was.nice)) { /* the latter: it was urgent when it was awaited */
		p->background = false;
		priority_restore(p->was);
	}
}

void priority_await(struct priority_pace *p)
{
	atomic_store(&p->awaited, true);
	if (!atomic_exchange(&p->background, false))
		return;
	setpriority(PRIO_PROCESS, (id_t)p->tid, p->was.nice);
	sched_setscheduler(p->tid, p->was.policy, &(struct sched_param){ 0 });
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
	set_policy(was.policy);
}
