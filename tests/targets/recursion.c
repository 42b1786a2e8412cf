/* Recursion deeper than any shadow stack, and mutual recursion. */
#include "target.h"

HOOKED uint64_t deep(uint64_t n, uint64_t h)
{
	COUNTED(deep);
	if (!n)
		return h;
	uint64_t r = deep(n - 1, mix(h, n));
	AFTER_CALL(r);
	return r ^ n;
}

HOOKED uint64_t odd(uint64_t n);
HOOKED uint64_t even(uint64_t n)
{
	COUNTED(even);
	uint64_t r = n ? odd(n - 1) : 1;
	AFTER_CALL(r);
	return r + n;
}
HOOKED uint64_t odd(uint64_t n)
{
	COUNTED(odd);
	uint64_t r = n ? even(n - 1) : 0;
	AFTER_CALL(r);
	return r * 3;
}

/* Two calls in each: the stack goes up and down all the time. */
HOOKED uint64_t tree(unsigned depth)
{
	COUNTED(tree);
	if (!depth)
		return 1;
	uint64_t a = tree(depth - 1);
	AFTER_CALL(a);
	uint64_t b = tree(depth - 1);
	AFTER_CALL(b);
	return a + 2 * b;
}

static uint64_t go(long rounds)
{
	uint64_t h = 0;
	for (long i = 0; i < rounds; i++) {
		h = mix(h, deep(10000, (uint64_t)i));
		h = mix(h, even(50));
		h = mix(h, tree(6));
	}
	return h;
}

int main(void) { return target_loop(go, NULL); }
