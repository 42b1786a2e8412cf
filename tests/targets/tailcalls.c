/* Functions that end with a jump to another: hooked to hooked, hooked to not, through a pointer, in long chains. Compiled with -O2, where gcc makes the jumps. */
#include "target.h"

HOOKED uint64_t last(uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e, uint64_t f, uint64_t g, uint64_t h)
{
	COUNTED(last);
	return a + 2 * b + 3 * c + 5 * d + 7 * e + 11 * f + 13 * g + 17 * h;
}
/* Stack arguments in place: the callee's are where ours are. */
HOOKED uint64_t middle(uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e, uint64_t f, uint64_t g, uint64_t h)
{
	COUNTED(middle);
	return last(b, a, d, c, f, e, h, g);
}
HOOKED uint64_t first(uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e, uint64_t f, uint64_t g, uint64_t h)
{
	COUNTED(first);
	return middle(h, g, f, e, d, c, b, a);
}

__attribute__((noipa)) uint64_t unhooked(uint64_t x) { return mix(x, 1); }
HOOKED uint64_t to_unhooked(uint64_t x)
{
	COUNTED(to_unhooked);
	return unhooked(x + 1);
}

/* A state machine: each state jumps to the next. */
typedef uint64_t (*state)(uint64_t left, uint64_t h);
HOOKED uint64_t state_b(uint64_t left, uint64_t h);
HOOKED uint64_t state_c(uint64_t left, uint64_t h);
HOOKED uint64_t state_a(uint64_t left, uint64_t h)
{
	COUNTED(state_a);
	return left ? state_b(left - 1, mix(h, 'a')) : h;
}
static state volatile next_state = state_c;
HOOKED uint64_t state_b(uint64_t left, uint64_t h)
{
	COUNTED(state_b);
	state s = next_state;
	return left ? s(left - 1, mix(h, 'b')) : h;
}
HOOKED uint64_t state_c(uint64_t left, uint64_t h)
{
	COUNTED(state_c);
	return left ? state_a(left - 1, mix(h, 'c')) : h;
}

/* One that calls, then jumps. */
HOOKED uint64_t calls_then_jumps(uint64_t x)
{
	COUNTED(calls_then_jumps);
	uint64_t r = to_unhooked(x);
	AFTER_CALL(r);
	return to_unhooked(r);
}

static uint64_t go(long rounds)
{
	uint64_t h = 0;
	for (long i = 0; i < rounds; i++) {
		uint64_t x = (uint64_t)i;
		h = mix(h, first(x, x + 1, x + 2, x + 3, x + 4, x + 5, x + 6, x + 7));
		h = mix(h, calls_then_jumps(x));
		h = mix(h, state_a(30, x));
		if (i % 16 == 0)
			h = mix(h, state_a(1000, x)); /* longer than the shadow stack */
	}
	return h;
}

int main(void) { return target_loop(go, NULL); }
