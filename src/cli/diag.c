/* What the server says about a policy's text, shown as compilers do: file:line:column, the line itself, a caret; and the difference of two texts. Pure. */
#include "cli/cli.h"
#include <stdlib.h>

static struct str line_of(struct str text, int64_t line)
{
	const char *p = text.p, *end = text.p + text.n;
	for (; p && line > 1; line--) {
		const char *nl = memchr(p, '\n', end - p);
		p = nl ? nl + 1 : NULL;
	}
	if (!p || line < 1)
		return (struct str){ "", 0 };
	const char *nl = memchr(p, '\n', end - p);
	return (struct str){ p, (size_t)((nl ? nl : end) - p) };
}

/* How many bytes its first n characters take. */
static size_t bytes_of(struct str s, int64_t n)
{
	size_t i = 0;
	for (; i < s.n && n > 0; n--)
		for (i++; i < s.n && (s.p[i] & 0xc0) == 0x80; i++)
			;
	return i;
}

/* The line, cut to what a terminal shows around the column, and the caret under it. Columns count characters from 1. */
static void source(struct buf *b, struct str line, int64_t number, int64_t column, int64_t end_column)
{
	enum { MOST = 160 };
	size_t at = bytes_of(line, column - 1), to = end_column > column ? bytes_of(line, end_column - 1) : at, from = 0;
	if (line.n && line.p[line.n - 1] == '\r')
		line.n--;
	if (at > line.n)
		at = line.n;
	if (at > MOST / 2 && line.n > MOST)
		for (from = at - MOST / 2; from < at && (line.p[from] & 0xc0) == 0x80; from++)
			;
	size_t n = line.n - from > MOST ? MOST : line.n - from;
	while (n && from + n < line.n && (line.p[from + n] & 0xc0) == 0x80)
		n--;
	buf_printf(b, "%5lld | %s", (long long)number, from ? ".." : "");
	for (size_t i = from; i < from + n; i++)   /* tabs as they are, so that the caret can follow them */
		buf_byte(b, (unsigned char)line.p[i] < 0x20 && line.p[i] != '\t' ? '?' : line.p[i]);
	buf_printf(b, "%s\n      | %s", from + n < line.n ? ".." : "", from ? "  " : "");
	for (size_t i = from; i < at;) {
		size_t one = bytes_of((struct str){ line.p + i, line.n - i }, 1);
		if (line.p[i] == '\t')
			buf_byte(b, '\t');
		else
			for (size_t w = fmt_width(line.p + i, one); w; w--)
				buf_byte(b, ' ');
		i += one;
	}
	buf_byte(b, '^');
	if (to > from + n)
		to = from + n;
	for (size_t w = to > at ? fmt_width(line.p + at, to - at) : 0; w > 1; w--)
		buf_byte(b, '~');
	buf_byte(b, '\n');
}

void diag_text(const json_t *diags, const char *file, struct str text, struct buf *b)
{
	size_t i;
	const json_t *d;
	json_array_foreach(diags, i, d) {
		bool error = strcmp(jstr(d, "severity"), "warning") != 0;
		int64_t line = jint(d, "line"), column = jint(d, "column");
		buf_printf(b, "%s%s", style("bold"), file);
		if (line > 0)
			buf_printf(b, ":%lld:%lld", (long long)line, (long long)(column > 0 ? column : 1));
		buf_printf(b, ":%s %s%s%s", style("off"), style(error ? "red" : "yellow"), error ? "error" : "warning", style("off"));
		if (*jstr(d, "code"))
			buf_printf(b, "[%s]", jstr(d, "code"));
		buf_add_str(b, ": ");
		fmt_safe(b, jstr(d, "message"), 0);
		buf_byte(b, '\n');
		struct str l = line_of(text, line);
		if (l.n)
			source(b, l, line, column > 0 ? column : 1, jint(d, "end_column"));
		const char *h = jstr(d, "hint");
		if (*h) {
			buf_printf(b, "  %s", strncmp(h, "did you mean", 12) ? "hint: " : "");
			fmt_safe(b, h, 0);
			buf_byte(b, '\n');
		}
	}
}

struct lines { struct str *v; size_t n; };

static struct lines split(struct str t)
{
	struct lines l = { 0 };
	size_t room = 0;
	for (const char *p = t.p, *end = t.p + t.n; p < end;) {
		const char *nl = memchr(p, '\n', end - p);
		if (l.n == room)
			l.v = base_realloc(l.v, (room = room ? room * 2 : 64) * sizeof(*l.v));
		l.v[l.n++] = (struct str){ p, (size_t)((nl ? nl : end) - p) };
		p = nl ? nl + 1 : end;
	}
	return l;
}

static void put(json_t *out, const char *op, struct str s)
{
	json_t *text = json_stringn(s.p, s.n);
	json_array_append_new(out, json_pack("{s:s, s:o}", "op", op, "text", text ? text : json_string("(not UTF-8)")));
}

/* The longest common subsequence of what is between the equal beginning and the equal end. Beyond 4 M cells: all of it replaced. */
json_t *diff_lines(struct str from, struct str to)
{
	struct lines a = split(from), b = split(to);
	json_t *out = json_array();
	size_t head = 0, tail = 0;
	while (head < a.n && head < b.n && str_eq(a.v[head], b.v[head]))
		put(out, " ", a.v[head++]);
	while (tail < a.n - head && tail < b.n - head && str_eq(a.v[a.n - 1 - tail], b.v[b.n - 1 - tail]))
		tail++;
	size_t n = a.n - head - tail, m = b.n - head - tail, i = 0, j = 0;
	uint32_t *best = n && m && n < 4000000 / (m + 1) ? base_calloc((n + 1) * (m + 1), sizeof(*best)) : NULL;
	if (best)
		for (i = n; i-- > 0;)
			for (j = m; j-- > 0;) {
				uint32_t down = best[(i + 1) * (m + 1) + j], right = best[i * (m + 1) + j + 1];
				best[i * (m + 1) + j] = str_eq(a.v[head + i], b.v[head + j]) ? best[(i + 1) * (m + 1) + j + 1] + 1 : down > right ? down : right;
			}
	for (i = j = 0; i < n || j < m;)
		if (best && i < n && j < m && str_eq(a.v[head + i], b.v[head + j])) {
			put(out, " ", a.v[head + i]);
			i++, j++;
		} else if (i < n && (j == m || !best || best[(i + 1) * (m + 1) + j] >= best[i * (m + 1) + j + 1]))
			put(out, "-", a.v[head + i++]);
		else
			put(out, "+", b.v[head + j++]);
	for (i = a.n - tail; i < a.n; i++)
		put(out, " ", a.v[i]);
	free(best);
	free(a.v);
	free(b.v);
	return out;
}

bool diff_text(const json_t *lines, struct buf *b)
{
	enum { AROUND = 3 };
	size_t n = json_array_size(lines), last = 0;
	bool any = false;
	for (size_t i = 0; i < n; i++) {
		bool near = false;
		for (size_t k = i > AROUND ? i - AROUND : 0; k < n && k <= i + AROUND && !near; k++)
			near = *jstr(json_array_get(lines, k), "op") != ' ';
		if (!near)
			continue;
		const json_t *l = json_array_get(lines, i);
		char op = *jstr(l, "op");
		any |= op != ' ';
		if (i > last)
			buf_printf(b, "%s...%s\n", style("dim"), style("off"));
		last = i + 1;
		buf_printf(b, "%s%c ", style(op == '+' ? "green" : op == '-' ? "red" : ""), op);
		fmt_safe(b, jstr(l, "text"), 0);
		buf_printf(b, "%s\n", op == ' ' ? "" : style("off"));
	}
	return any;
}
