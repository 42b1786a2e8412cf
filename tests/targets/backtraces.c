/* backtrace() within hooked frames: the functions of this program that it sees, and in which order, are part of the result. Frames of the gate are
 * not this program's; nor are those of the libraries below main. */
#include "target.h"
#include <execinfo.h>

extern char __executable_start[], __etext[];
static uint64_t seen;
static unsigned frames;

HOOKED void looks(void)
{
	COUNTED(looks);
	void *at[200];
	int n = backtrace(at, 200);
	frames = 0;
	for (int i = 0; i < n; i++)
		if ((char *)at[i] >= __executable_start && (char *)at[i] < __etext) {
			seen = mix(seen, (uint64_t)((char *)at[i] - __executable_start));
			frames++;
		}
}
HOOKED uint64_t down(unsigned depth)
{
	COUNTED(down);
	if (depth)
		down(depth - 1);
	else
		looks();
	AFTER_CALL(depth);
	return depth;
}
/* Arrives by a jump: it and its caller's caller are seen, the caller is not. */
HOOKED uint64_t jumps(unsigned depth)
{
	COUNTED(jumps);
	return down(depth);
}

static uint64_t go(long rounds)
{
	uint64_t h = 0;
	for (long i = 0; i < rounds; i++) {
		seen = 0;
		jumps(20);
		CHECK(frames >= 22); /* looks, 20 times down, its first call, go, main */
		h = mix(h, seen);
		h = mix(h, frames);
	}
	return h;
}

int main(void) { return target_loop(go, NULL); }
