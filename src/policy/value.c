/* The small texts of a policy: shares, rates, rollout steps, durations as they are printed. Pure. */
#include "policy/doc.h"
#include <ctype.h>
#include <math.h>
#include <stdlib.h>

bool value_number(struct str s, double *ret_v)
{
	char text[40], *end;
	if (!s.n || s.n >= sizeof text || !(isdigit((unsigned char)s.p[0]) || s.p[0] == '.' || s.p[0] == '-' || s.p[0] == '+'))
		return false;
	for (size_t i = 0; i < s.n; i++)
		if (!isdigit((unsigned char)s.p[i]) && !(s.p[i] && strchr(".eE+-", s.p[i])))
			return false;
	memcpy(text, s.p, s.n);
	text[s.n] = 0;
	double v = strtod(text, &end);
	if (*end || !isfinite(v))
		return false;
	*ret_v = v;
	return true;
}

static struct str trim(struct str s)
{
	while (s.n && s.p[s.n - 1] == ' ')
		s.n--;
	return s;
}

bool value_percent(struct str s, double *ret_share)
{
	double v;
	if (s.n < 2 || s.p[s.n - 1] != '%' || !value_number(trim((struct str){ s.p, s.n - 1 }), &v))
		return false;
	*ret_share = v / 100;
	return true;
}

bool value_rate(struct str s, double *ret_per_s)
{
	return s.n > 2 && !memcmp(s.p + s.n - 2, "/s", 2) && value_number(trim((struct str){ s.p, s.n - 2 }), ret_per_s);
}

bool value_step(struct str s, struct policy_step *ret_step)
{
	double share;
	if (value_percent(s, &share)) {
		*ret_step = (struct policy_step){ .share = share };
		return true;
	}
	uint32_t n = 0;
	size_t i = 0;
	for (; i < s.n && isdigit((unsigned char)s.p[i]) && n < 1000000; i++)
		n = n * 10 + (uint32_t)(s.p[i] - '0');
	struct str unit = { s.p + i, s.n - i };
	while (unit.n && unit.p[0] == ' ')
		unit.p++, unit.n--;
	if (!i || !n || n > 1000000 || !(str_is(unit, "process") || str_is(unit, "processes")))
		return false;
	*ret_step = (struct policy_step){ .processes = n };
	return true;
}

/* Exact, in at most two units; what people write comes back as they wrote it. */
void value_duration_print(int64_t ns, struct buf *b)
{
	static const struct { int64_t ns; const char *text; } print[] = { { 86400000000000, "d" }, { 3600000000000, "h" }, { 60000000000, "m" },
		{ 1000000000, "s" },
		{ 1000000, "ms" }, { 1000, "us" }, { 1, "ns" } };
	if (!ns)
		buf_add_str(b, "0s");
	for (size_t i = 0; i < sizeof print / sizeof *print; i++)
		if (ns >= print[i].ns) {
			buf_printf(b, "%lld%s", (long long)(ns / print[i].ns), print[i].text);
			ns %= print[i].ns;
		}
}

void value_step_print(const struct policy_step *s, struct buf *b)
{
	if (s->processes)
		buf_printf(b, "%u process%s", s->processes, s->processes == 1 ? "" : "es");
	else
		buf_printf(b, "%.10g%%", s->share * 100);
}
