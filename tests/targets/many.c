/* A thousand functions. `go N` calls each N times. */
#include "target.h"

#define F(n) HOOKED uint64_t f##n(uint64_t x) { return mix(x, 1##n); }
#define F10(n) F(n##0) F(n##1) F(n##2) F(n##3) F(n##4) F(n##5) F(n##6) F(n##7) F(n##8) F(n##9)
#define F100(n) F10(n##0) F10(n##1) F10(n##2) F10(n##3) F10(n##4) F10(n##5) F10(n##6) F10(n##7) F10(n##8) F10(n##9)
F100(0) F100(1) F100(2) F100(3) F100(4) F100(5) F100(6) F100(7) F100(8) F100(9)
#undef F
#define F(n) f##n,
static uint64_t (*const all[])(uint64_t) = { F100(0) F100(1) F100(2) F100(3) F100(4) F100(5) F100(6) F100(7) F100(8) F100(9) };

HOOKED uint64_t rounds_done(uint64_t x)
{
	COUNTED(rounds_done);
	return x;
}

static uint64_t go(long rounds)
{
	uint64_t h = 0;
	for (long i = 0; i < rounds; i++) {
		for (unsigned k = 0; k < sizeof all / sizeof *all; k++)
			h = all[k](h);
		rounds_done(h);
	}
	return h;
}

int main(void) { return target_loop(go, NULL); }
