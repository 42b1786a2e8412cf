/* longjmp and siglongjmp out of hooked frames, one or many at once, and into one that is still there. */
#include "target.h"
#include <setjmp.h>
#include <signal.h>

static jmp_buf out;
static sigjmp_buf out_of_handler;
static uint64_t arrived;

HOOKED void leaps(int depth, int value)
{
	COUNTED(leaps);
	if (depth)
		leaps(depth - 1, value);
	else if (value)
		longjmp(out, value);
	AFTER_CALL(depth);
}

HOOKED uint64_t returns(uint64_t x)
{
	COUNTED(returns);
	return mix(x, 3);
}

/* The place that is jumped to is in a hooked frame. */
HOOKED uint64_t lands(int depth, int value)
{
	COUNTED(lands);
	volatile uint64_t h = returns((uint64_t)value);
	int v = setjmp(out);
	if (!v)
		leaps(depth, value);
	h = mix(h, (uint64_t)v);
	return returns(h);
}

HOOKED void handler(int sig)
{
	COUNTED(handler);
	arrived++;
	siglongjmp(out_of_handler, sig);
}

HOOKED uint64_t interrupted(int sig)
{
	COUNTED(interrupted);
	raise(sig);
	return 0;
}

static uint64_t go(long rounds)
{
	volatile uint64_t h = 0;
	struct sigaction s = { .sa_handler = handler }, before;
	sigaction(SIGUSR1, &s, &before);
	arrived = 0;
	for (volatile long i = 0; i < rounds; i++) {
		h = mix(h, lands((int)(i % 40), (int)(i % 7)));
		int v = sigsetjmp(out_of_handler, 1);
		if (!v)
			h = mix(h, interrupted(SIGUSR1)), CHECK(!"raise came back");
		h = mix(h, (uint64_t)v);
	}
	sigaction(SIGUSR1, &before, NULL);
	return returns(mix(h, arrived)); /* a last call: only by it can be seen that the ones before are over */
}

int main(void) { return target_loop(go, NULL); }
