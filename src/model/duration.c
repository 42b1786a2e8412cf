/* Parses durations and sizes; exact for what fits in 64 bits, an error otherwise. */
#include "model/duration.h"
#include "base/err.h"

/* A decimal number times an integer unit, exactly; what is beyond 18 digits after the point is cut off. */
struct number { unsigned __int128 whole; uint64_t part, of; };

/* Digits with an optional fraction; false if there are none. */
static bool number(struct str *s, struct number *ret)
{
	struct number v = { 0, 0, 1 };
	size_t i = 0;
	bool any = false;
	for (; i < s->n && s->p[i] >= '0' && s->p[i] <= '9'; i++, any = true)
		if (v.whole <= UINT64_MAX)
			v.whole = v.whole * 10 + (unsigned)(s->p[i] - '0');
	if (i < s->n && s->p[i] == '.')
		for (i++; i < s->n && s->p[i] >= '0' && s->p[i] <= '9'; i++, any = true)
			if (v.of < 1000000000000000000ull) {
				v.part = v.part * 10 + (unsigned)(s->p[i] - '0');
				v.of *= 10;
			}
	*s = (struct str){ s->p + i, s->n - i };
	*ret = v;
	return any;
}

/* Rounded to the nearest. Fits: whole is at most ten times 2^64, units are below 2^50. */
static unsigned __int128 times(struct number v, uint64_t unit)
{
	return v.whole * unit + ((unsigned __int128)v.part * unit * 2 + v.of) / ((unsigned __int128)v.of * 2);
}

int duration_parse(struct str s, int64_t *ret_ns)
{
	static const struct { const char *unit; uint64_t ns; } units[] = { { "ns", 1 }, { "us", 1000 }, { "µs", 1000 }, { "ms", 1000000 }, { "s", 1000000000 },
		{ "m", 60000000000 }, { "h", 3600000000000 }, { "d", 86400000000000 }, { "w", 604800000000000 } };
	unsigned __int128 total = 0;
	struct number v;
	if (!s.n)
		return KLIEG_E_SYNTAX;
	while (s.n) {
		if (!number(&s, &v))
			return KLIEG_E_SYNTAX;
		size_t n = 0;
		while (n < s.n && !(s.p[n] >= '0' && s.p[n] <= '9') && s.p[n] != '.')
			n++;
		uint64_t ns = 0;
		for (unsigned i = 0; i < sizeof units / sizeof *units; i++)
			if (str_is((struct str){ s.p, n }, units[i].unit))
				ns = units[i].ns;
		if (ns == 0)
			return KLIEG_E_SYNTAX;
		if (total <= INT64_MAX)
			total += times(v, ns);
		s = (struct str){ s.p + n, s.n - n };
	}
	if (total > INT64_MAX)
		return KLIEG_E_LIMIT;
	*ret_ns = (int64_t)total;
	return 0;
}

int size_parse(struct str s, uint64_t *ret_bytes)
{
	struct number v;
	uint64_t factor = 1;
	if (!number(&s, &v))
		return KLIEG_E_SYNTAX;
	if (s.n && s.p[0] != 'B' && s.p[0] != 'b') {
		switch (s.p[0] | 32) {
		case 'k': factor = 1ull << 10; break;
		case 'm': factor = 1ull << 20; break;
		case 'g': factor = 1ull << 30; break;
		case 't': factor = 1ull << 40; break;
		default: return KLIEG_E_SYNTAX;
		}
		s = (struct str){ s.p + 1, s.n - 1 };
		if (s.n && s.p[0] == 'i')
			s = (struct str){ s.p + 1, s.n - 1 };
	}
	if (s.n > 1 || (s.n && (s.p[0] | 32) != 'b'))
		return KLIEG_E_SYNTAX;
	unsigned __int128 bytes = times(v, factor);
	if (bytes > UINT64_MAX)
		return KLIEG_E_LIMIT;
	*ret_bytes = (uint64_t)bytes;
	return 0;
}
