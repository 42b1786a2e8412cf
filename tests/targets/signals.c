/* Signals at a high rate whose handlers call hooked functions, while hooked functions are entered and left: from two timers, on an alternate stack, nested
 * (SA_NODEFER), and on several threads. How many arrive is the kernel's affair: it is counted, but is no part of the result. */
#include "target.h"
#include <pthread.h>
#include <signal.h>
#include <sys/time.h>
#include <time.h>

HOOKED uint64_t in_handler(uint64_t x)
{
	COUNTED(in_handler);
	return mix(x, 11);
}
HOOKED void on_alarm(int sig)
{
	COUNTED(on_alarm);
	uint64_t r = in_handler((uint64_t)sig);
	AFTER_CALL(r);
}
/* Nests, a little: it raises what it handles. */
HOOKED void on_prof(int sig)
{
	COUNTED(on_prof);
	static __thread volatile int nested;
	if (nested++ < 3)
		raise(sig);
	nested--;
	uint64_t r = in_handler(2);
	AFTER_CALL(r);
}
HOOKED void on_usr(int sig)
{
	COUNTED(on_usr);
	char here;
	stack_t s;
	sigaltstack(NULL, &s);
	CHECK(sig == SIGUSR1 && s.ss_flags & SS_ONSTACK);
	CHECK(&here >= (char *)s.ss_sp && &here < (char *)s.ss_sp + s.ss_size);
	uint64_t r = in_handler(3);
	AFTER_CALL(r);
}

HOOKED uint64_t inner(uint64_t x)
{
	COUNTED(inner);
	return mix(x, 5);
}
HOOKED uint64_t outer(uint64_t x)
{
	COUNTED(outer);
	uint64_t a = inner(x);
	AFTER_CALL(a);
	uint64_t b = inner(a);
	AFTER_CALL(b);
	return a ^ b;
}

static long each;
static void *work(void *arg)
{
	uint64_t h = (uint64_t)(uintptr_t)arg;
	char *stack = malloc(65536);
	stack_t s = { .ss_sp = stack, .ss_size = 65536 }, off = { .ss_flags = SS_DISABLE };
	sigaltstack(&s, NULL);
	for (long i = 0; i < each; i++) {
		for (int k = 0; k < 500; k++)
			h = mix(h, outer(h));
		raise(SIGUSR1); /* synchronous: exactly one, on the alternate stack */
	}
	sigaltstack(&off, NULL);
	free(stack);
	return (void *)h;
}

static uint64_t go(long rounds)
{
	struct sigaction alarm = { .sa_handler = on_alarm, .sa_flags = SA_RESTART }, prof = { .sa_handler = on_prof, .sa_flags = SA_RESTART | SA_NODEFER },
		usr = { .sa_handler = on_usr, .sa_flags = SA_RESTART | SA_ONSTACK };
	sigaction(SIGALRM, &alarm, NULL);
	sigaction(SIGPROF, &prof, NULL);
	sigaction(SIGUSR1, &usr, NULL);
	timer_t fast;
	struct sigevent ev = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGALRM };
	struct itimerspec every = { .it_interval = { 0, 50000 }, .it_value = { 0, 50000 } }, never = { { 0, 0 }, { 0, 0 } };
	struct itimerval cpu = { { 0, 1000 }, { 0, 1000 } }, none = { { 0, 0 }, { 0, 0 } };
	CHECK(!timer_create(CLOCK_MONOTONIC, &ev, &fast));
	timer_settime(fast, 0, &every, NULL);
	setitimer(ITIMER_PROF, &cpu, NULL);
	each = rounds;
	pthread_t t[3];
	uint64_t h = 0;
	for (uintptr_t i = 0; i < 3; i++)
		CHECK(!pthread_create(&t[i], NULL, work, (void *)i));
	for (int i = 0; i < 3; i++) {
		void *r;
		pthread_join(t[i], &r);
		h = mix(h, (uint64_t)r);
	}
	timer_settime(fast, 0, &never, NULL);
	setitimer(ITIMER_PROF, &none, NULL);
	timer_delete(fast);
	signal(SIGALRM, SIG_IGN); /* what is pending goes */
	signal(SIGPROF, SIG_IGN);
	return h;
}

int main(void) { return target_loop(go, NULL); }
