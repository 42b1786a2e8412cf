/* Every way that arguments and results travel: varargs with doubles, structures in registers and in memory, x87, SSE, complex, 128-bit, many on the stack;
 * and a function whose registers the compiler knows to be left alone (IPA-RA). */
#include "target.h"
#include <complex.h>
#include <immintrin.h>
#include <math.h>
#include <stdarg.h>

HOOKED double adds(int n, ...)
{
	COUNTED(adds);
	va_list ap;
	double sum = 0;
	va_start(ap, n);
	for (int i = 0; i < n; i++)
		sum += i % 3 == 2 ? (double)va_arg(ap, long) : va_arg(ap, double);
	va_end(ap);
	return sum;
}

struct pair { uint64_t a, b; };
struct mixed { double d; uint64_t u; };
struct floats { double x, y; };
struct big { uint64_t v[9]; };
struct odd { char c[19]; };
HOOKED struct pair pair(uint64_t x) { COUNTED(pair); return (struct pair){ x + 1, x + 2 }; }
HOOKED struct mixed mixed(uint64_t x) { COUNTED(mixed); return (struct mixed){ (double)x * 1.5, x ^ 7 }; }
HOOKED struct floats floats(double x, float y) { COUNTED(floats); return (struct floats){ x * 2, (double)y / 4 }; }
HOOKED struct big big(uint64_t x)
{
	COUNTED(big);
	struct big b;
	for (unsigned i = 0; i < 9; i++)
		b.v[i] = mix(x, i);
	return b;
}
HOOKED struct big takes_big(struct big b, struct odd o, uint64_t x)
{
	COUNTED(takes_big);
	for (unsigned i = 0; i < 9; i++)
		b.v[i] += x + (uint64_t)o.c[i * 2];
	return b;
}
HOOKED long double extended(long double x, double y) { COUNTED(extended); return x * 3 + (long double)y; }
HOOKED complex double rotate(complex double z) { COUNTED(rotate); return z * I; }
HOOKED complex long double rotate_extended(complex long double z) { COUNTED(rotate_extended); return z * I; } /* two on the x87 stack */
HOOKED unsigned __int128 wide(unsigned __int128 x, uint64_t y) { COUNTED(wide); return x * y; }
HOOKED __m128i vector(__m128i a, __m128i b) { COUNTED(vector); return _mm_add_epi32(a, b); }
HOOKED uint64_t many(int a, char b, short c, uint64_t d, int e, uint64_t f, char g, uint64_t h, short i, double j, float k, uint64_t l, double m, uint64_t n)
{
	COUNTED(many);
	return mix(mix(mix((uint64_t)(a + b + c + e + g + i), d), f ^ h), l * n) + (uint64_t)(j * 4 + (double)k * 8 + m * 2);
}
HOOKED uint64_t eight_doubles(double a, double b, double c, double d, double e, double f, double g, double h, double i, double j)
{
	COUNTED(eight_doubles);
	return (uint64_t)(a + 2 * b + 3 * c + 4 * d + 5 * e + 6 * f + 7 * g + 8 * h + 9 * i + 10 * j);
}
/* Local, and seen by its only caller: it may rely on which registers are not touched. */
__attribute__((noinline, noclone)) static uint64_t leaf(uint64_t x)
{
	COUNTED(leaf);
	return x * 7 + 1;
}
HOOKED uint64_t relies(uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e, uint64_t f)
{
	COUNTED(relies);
	uint64_t r = leaf(a ^ b);
	r += leaf(r ^ c);
	return mix(r, a + 2 * b + 3 * c + 4 * d + 5 * e + 6 * f);
}
HOOKED void returns_nothing(double *to, double x)
{
	COUNTED(returns_nothing);
	*to += x;
}

static uint64_t bits(double d)
{
	uint64_t u;
	memcpy(&u, &d, sizeof u);
	return u;
}

static uint64_t go(long rounds)
{
	uint64_t h = 0;
	double kept = 0;
	for (long n = 0; n < rounds; n++) {
		uint64_t x = (uint64_t)n;
		h = mix(h, bits(adds(9, 1.5, (double)n, n, 2.5, 3.25, 4L, -1.0, 0.5, 9L)));
		struct pair p = pair(x);
		struct mixed m = mixed(x);
		struct floats f = floats((double)n, (float)n + 0.5f);
		struct big b = big(x);
		struct odd o;
		memset(&o, (int)(n & 63), sizeof o);
		struct big t = takes_big(b, o, x);
		h = mix(h, p.a ^ p.b ^ bits(m.d) ^ m.u ^ bits(f.x) ^ bits(f.y));
		for (unsigned i = 0; i < 9; i++)
			h = mix(h, b.v[i] ^ t.v[i]);
		h = mix(h, bits((double)extended((long double)n + 0.125L, 0.5)));
		complex double z = rotate((double)n + 2 * I);
		complex long double w = rotate_extended((long double)n + 3 * I);
		h = mix(h, bits(creal(z)) ^ bits(cimag(z)) ^ bits((double)creall(w)) ^ bits((double)cimagl(w)));
		unsigned __int128 q = wide((unsigned __int128)x << 70 | 5, x + 3);
		h = mix(h, (uint64_t)q ^ (uint64_t)(q >> 64));
		__m128i v = vector(_mm_set1_epi32((int)n), _mm_set_epi32(1, 2, 3, 4));
		h = mix(h, (uint64_t)_mm_cvtsi128_si64(v) ^ (uint64_t)_mm_cvtsi128_si64(_mm_srli_si128(v, 8)));
		h = mix(h, many((int)n, 1, 2, x, 3, x + 1, 4, x + 2, 5, 1.25, 2.5f, x + 3, 0.5, x + 4));
		h = mix(h, eight_doubles(1, 2, 3, 4, 5, 6, 7, 8, 9, (double)n));
		h = mix(h, relies(x, x + 1, x + 2, x + 3, x + 4, x + 5));
		returns_nothing(&kept, (double)n);
	}
	return mix(h, bits(kept));
}

int main(void) { return target_loop(go, NULL); }
