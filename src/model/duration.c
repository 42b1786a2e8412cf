/* Parses durations and sizes; exact for what fits in 64 bits, an error otherwise. */
#include "model/duration.h"
#include "base/err.h"
#include <math.h>

/* Digits with an optional fraction; false if there are none. */
static bool number(struct str *s, double *ret)
{
	size_t i = 0;
	double v = 0, place = 1;
	bool any = false;
	for (; i < s->n && s->p[i] >= '0' && s->p[i] <= '9'; i++, any = true)
		v = v * 10 + (s->p[i] - '0');
	if (i < s->n && s->p[i] == '.')
		for (i++; i < s->n && s->p[i] >= '0' && s->p[i] <= '9'; i++, any = true)
			v += (s->p[i] - '0') * (place /= 10);
	*s = (struct str){ s->p + i, s->n - i };
	*ret = v;
	return any;
}

int duration_parse(struct str s, int64_t *ret_ns)
{
	static const struct { const char *unit; double ns; } units[] = { { "ns", 1 }, { "us", 1e3 }, { "µs", 1e3 }, { "ms", 1e6 }, { "s", 1e9 }, { "m", 60e9 },
		{ "h", 3600e9 }, { "d", 86400e9 }, { "w", 604800e9 } };
	double total = 0, v;
	if (!s.n)
		return KLIEG_E_SYNTAX;
	while (s.n) {
		if (!number(&s, &v))
			return KLIEG_E_SYNTAX;
		size_t n = 0;
		while (n < s.n && !(s.p[n] >= '0' && s.p[n] <= '9') && s.p[n] != '.')
			n++;
		double ns = 0;
		for (unsigned i = 0; i < sizeof units / sizeof *units; i++)
			if (str_is((struct str){ s.p, n }, units[i].unit))
				ns = units[i].ns;
		if (ns == 0)
			return KLIEG_E_SYNTAX;
		total += v * ns;
		s = (struct str){ s.p + n, s.n - n };
	}
	if (!(total < 9.2e18))
		return KLIEG_E_LIMIT;
	*ret_ns = (int64_t)(total + 0.5);
	return 0;
}

int size_parse(struct str s, uint64_t *ret_bytes)
{
	double v, factor = 1;
	if (!number(&s, &v))
		return KLIEG_E_SYNTAX;
	if (s.n && s.p[0] != 'B' && s.p[0] != 'b') {
		switch (s.p[0] | 32) {
		case 'k': factor = 1024.0; break;
		case 'm': factor = 1048576.0; break;
		case 'g': factor = 1073741824.0; break;
		case 't': factor = 1099511627776.0; break;
		default: return KLIEG_E_SYNTAX;
		}
		s = (struct str){ s.p + 1, s.n - 1 };
		if (s.n && s.p[0] == 'i')
			s = (struct str){ s.p + 1, s.n - 1 };
	}
	if (s.n > 1 || (s.n && (s.p[0] | 32) != 'b'))
		return KLIEG_E_SYNTAX;
	if (!(v * factor < 1.8e19))
		return KLIEG_E_LIMIT;
	*ret_bytes = (uint64_t)(v * factor);
	return 0;
}
