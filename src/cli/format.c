/* Numbers and texts as people read them. Pure. */
#include "cli/cli.h"
#include <math.h>
#include <stdio.h>
#include <time.h>
#include <wchar.h>

static const char *scaled(struct fmt *f, double v, double step, const char *const *units, int n, const char *gap)
{
	int u = 0;
	double x = fabs(v);
	while (u < n - 1 && x >= step * 0.9995)
		x /= step, u++;
	int digits = u == 0 && x == floor(x) ? 0 : x < 9.995 ? 2 : x < 99.95 ? 1 : 0;
	snprintf(f->s, sizeof(f->s), "%s%.*f%s%s", v < 0 ? "-" : "", digits, x, *units[u] ? gap : "", units[u]);
	return f->s;
}

const char *fmt_duration(struct fmt *f, double ns)
{
	static const char *const small[] = { "ns", "us", "ms" };
	double a = fabs(ns);
	if (a < 999.5e6)
		return scaled(f, ns, 1000, small, 3, "");
	if (a < 59.995e9)
		snprintf(f->s, sizeof(f->s), "%.*fs", a < 9.995e9 ? 2 : 1, ns / 1e9);
	else if (a < 3600e9)
		snprintf(f->s, sizeof(f->s), "%s%dm%02ds", ns < 0 ? "-" : "", (int)(a / 60e9), (int)fmod(a / 1e9, 60));
	else if (a < 86400e9)
		snprintf(f->s, sizeof(f->s), "%s%dh%02dm", ns < 0 ? "-" : "", (int)(a / 3600e9), (int)fmod(a / 60e9, 60));
	else
		snprintf(f->s, sizeof(f->s), "%s%.0fd%02dh", ns < 0 ? "-" : "", floor(a / 86400e9), (int)fmod(a / 3600e9, 24));
	return f->s;
}

const char *fmt_count(struct fmt *f, double n)
{
	static const char *const units[] = { "", "k", "M", "G", "T", "P" };
	if (n == floor(n) && fabs(n) < 10000) {
		snprintf(f->s, sizeof(f->s), "%.0f", n);
		return f->s;
	}
	return scaled(f, n, 1000, units, 6, "");
}

const char *fmt_bytes(struct fmt *f, double n)
{
	static const char *const units[] = { "B", "kB", "MB", "GB", "TB", "PB" };
	return scaled(f, n, 1000, units, 6, " ");
}

const char *fmt_percent(struct fmt *f, double p)
{
	double a = fabs(p);
	if (a > 0 && a < 0.001)
		snprintf(f->s, sizeof(f->s), "<0.001 %%");
	else
		snprintf(f->s, sizeof(f->s), "%.*f %%", a == 0 ? 0 : a < 0.1 ? 3 : a < 10 ? 2 : a < 99.95 ? 1 : 0, p);
	return f->s;
}

const char *fmt_clock(struct fmt *f, int64_t ns)
{
	time_t t = ns / 1000000000;
	struct tm tm;
	localtime_r(&t, &tm);
	size_t n = strftime(f->s, sizeof(f->s), "%H:%M:%S", &tm);
	snprintf(f->s + n, sizeof(f->s) - n, ".%03d", (int)(ns / 1000000 % 1000));
	return f->s;
}

/* One character: its bytes and its columns. Invalid bytes count as one column each. */
static size_t next_char(const char *s, size_t n, int *ret_width)
{
	unsigned char c = *s;
	size_t len = c < 0x80 ? 1 : c >= 0xc2 && c < 0xe0 ? 2 : c >= 0xe0 && c < 0xf0 ? 3 : c >= 0xf0 && c < 0xf5 ? 4 : 1;
	uint32_t cp = c;
	if (len > n)
		len = 1;
	if (len > 1) {
		cp = c & (0xff >> (len + 1));
		for (size_t i = 1; i < len; i++) {
			if ((s[i] & 0xc0) != 0x80) {
				*ret_width = 1;
				return 1;
			}
			cp = cp << 6 | (s[i] & 0x3f);
		}
	}
	bool zero = (cp >= 0x300 && cp < 0x370) || (cp >= 0x200b && cp <= 0x200f);
	bool two = (cp >= 0x1100 && cp < 0x1160) || (cp >= 0x2e80 && cp < 0xa4d0) || (cp >= 0xac00 && cp < 0xd7a4) || (cp >= 0xf900 && cp < 0xfb00)
		|| (cp >= 0xff00 && cp < 0xff61) || (cp >= 0x1f300 && cp < 0x1fb00) || (cp >= 0x20000 && cp < 0x40000);
	*ret_width = zero ? 0 : two ? 2 : 1;
	return len;
}

size_t fmt_width(const char *s, size_t n)
{
	size_t w = 0;
	int one;
	for (size_t i = 0; i < n;) {
		i += next_char(s + i, n - i, &one);
		w += one;
	}
	return w;
}

void fmt_safe(struct buf *b, const char *s, size_t max)
{
	size_t n = strlen(s), w = 0;
	bool cut = max && fmt_width(s, n) > max;
	for (size_t i = 0; i < n;) {
		int one;
		size_t len = next_char(s + i, n - i, &one);
		if (cut && w + one > (max > 2 ? max - 2 : max)) {
			buf_add_str(b, max > 2 ? ".." : "");
			return;
		}
		unsigned char c = s[i];
		if (c < 0x20 || c == 0x7f || (len == 1 && c >= 0x80) || (len == 2 && c == 0xc2 && (unsigned char)s[i + 1] < 0xa0))
			buf_byte(b, '?');
		else
			buf_add(b, s + i, len);
		w += one;
		i += len;
	}
}

void fmt_sparkline(struct buf *b, const double *v, unsigned n, bool ascii)
{
	static const char *const uni[] = { "▁", "▂", "▃", "▄", "▅", "▆", "▇", "█" };
	static const char plain[] = "_.-:=+*#";
	double max = 0;
	for (unsigned i = 0; i < n; i++)
		max = v[i] > max ? v[i] : max;
	for (unsigned i = 0; i < n; i++) {
		int k = max > 0 && v[i] > 0 ? (int)(v[i] / max * 7.999) : -1;
		if (k < 0)
			buf_byte(b, ' ');
		else if (ascii)
			buf_byte(b, plain[k]);
		else
			buf_add_str(b, uni[k]);
	}
}
