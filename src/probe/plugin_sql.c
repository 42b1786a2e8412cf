/* Takes what may be secret out of a statement and leaves what makes it the same statement as another: literals become ?,
 * comments go, white space is one space, `IN (1, 2, 3)` is `IN (?)`. Reads the SQL of PostgreSQL and SQLite (dollar quotes, E''
 * strings, nested comments, parameters). A literal that does not end is one to the end. Bounded, no allocation; pure. */
#include "probe/plugin_sql.h"
#include <stdbool.h>
#include <string.h>

struct out { char *to; size_t n, size; };

static void add(struct out *o, char c)
{
	if (o->n + 1 < o->size)
		o->to[o->n++] = c;
}

static char last(const struct out *o) { return o->n ? o->to[o->n - 1] : 0; }
static bool digit(char c) { return c >= '0' && c <= '9'; }
static bool word(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || digit(c) || c == '_' || (unsigned char)c >= 0x80;
}
static bool space(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }
static char upper(char c) { return c >= 'a' && c <= 'z' ? (char)(c - 32) : c; }

/* Just behind a quoted piece that begins at i. Doubled quotes are part of it. */
static size_t quoted(const char *s, size_t n, size_t i, bool backslash)
{
	char q = s[i++];
	for (; i < n; i++) {
		if (backslash && s[i] == '\\')
			i++;
		else if (s[i] == q && i + 1 < n && s[i + 1] == q)
			i++;
		else if (s[i] == q)
			return i + 1;
	}
	return n;
}

/* $tag$ ... $tag$: just behind it; i if it is none. */
static size_t dollar(const char *s, size_t n, size_t i)
{
	size_t end = i + 1;
	while (end < n && word(s[end]) && !(end == i + 1 && digit(s[end])))
		end++;
	if (end >= n || s[end] != '$')
		return i;
	size_t tag = end + 1 - i;
	for (size_t k = end + 1; k + tag <= n; k++)
		if (s[k] == '$' && !memcmp(s + k, s + i, tag))
			return k + tag;
	return n;
}

static size_t comment(const char *s, size_t n, size_t i)
{
	if (s[i] == '-') {
		while (i < n && s[i] != '\n')
			i++;
		return i;
	}
	int depth = 0;
	for (; i + 1 < n; i++) {
		if (s[i] == '/' && s[i + 1] == '*')
			depth++, i++;
		else if (s[i] == '*' && s[i + 1] == '/' && (i++, --depth == 0))
			return i + 1;
	}
	return n;
}

/* 12, 1.5e-3, 0xff, 1_000: just behind it. */
static size_t number(const char *s, size_t n, size_t i)
{
	bool hex = s[i] == '0' && i + 1 < n && upper(s[i + 1]) == 'X';
	while (i < n && (word(s[i]) || s[i] == '.' || (!hex && (s[i] == '+' || s[i] == '-') && upper(s[i - 1]) == 'E')))
		i++;
	return i;
}

static bool ends_with_in(const struct out *o)
{
	size_t n = o->n;
	while (n && o->to[n - 1] == ' ')
		n--;
	return n >= 2 && upper(o->to[n - 2]) == 'I' && upper(o->to[n - 1]) == 'N' && (n == 2 || !word(o->to[n - 3]));
}

static void literal(struct out *o, bool in_list)
{
	size_t n = o->n;
	while (n && o->to[n - 1] == ' ')
		n--;
	if (in_list && n >= 2 && o->to[n - 1] == ',' && o->to[n - 2] == '?')
		o->n = n - 1; /* one stands for all */
	else
		add(o, '?');
}

size_t klieg__sql_normalise(const char *s, size_t n, char *ret_text, size_t size, char ret_verb[24])
{
	struct out o = { ret_text, 0, size };
	bool gap = false, in_list = false;
	size_t verb = 0;
	ret_verb[0] = 0;
	if (!size)
		return 0;
	n = strnlen(s, n);
	for (size_t i = 0; i < n && o.n + 1 < size;) {
		char c = s[i], next = i + 1 < n ? s[i + 1] : 0;
		if (space(c)) {
			gap = true;
			i++;
			continue;
		}
		if ((c == '-' && next == '-') || (c == '/' && next == '*')) {
			gap = true;
			i = comment(s, n, i);
			continue;
		}
		if (gap && o.n && last(&o) != '(' && c != ')' && c != ',' && c != ';')
			add(&o, ' ');
		gap = false;
		size_t end = i;
		if (c == '\'') {
			end = quoted(s, n, i, false);
		} else if (next == '\'' && (upper(c) == 'E' || upper(c) == 'X' || upper(c) == 'B' || upper(c) == 'N') &&
			!(i && word(s[i - 1]))) {
			end = quoted(s, n, i + 1, upper(c) == 'E');
		} else if (c == '$' && !(i && word(s[i - 1]))) {
			end = dollar(s, n, i);
		} else if (digit(c) || (c == '.' && digit(next) && !(i && (word(s[i - 1]) || s[i - 1] == '"')))) {
			end = number(s, n, i);
		}
		if (end > i) {
			literal(&o, in_list);
			i = end;
		} else if (c == '"' || c == '`') {
			for (end = quoted(s, n, i, false); i < end; i++)
				add(&o, s[i]);
		} else if (word(c) || c == '$' || c == ':' || c == '@') {
			/* a name, a parameter: to its end, so that its digits are no number */
			bool name = word(c);
			do {
				if (name && verb < 23)
					ret_verb[verb] = upper(s[i]), ret_verb[++verb] = 0;
				add(&o, s[i++]);
			} while (i < n && word(s[i]));
			if (name)
				verb = 23; /* the first word only */
		} else {
			if (c == '(')
				in_list = ends_with_in(&o);
			else if (c == ')')
				in_list = false;
			add(&o, c);
			i++;
		}
	}
	while (o.n && (last(&o) == ';' || last(&o) == ' '))
		o.n--;
	o.to[o.n] = 0;
	return o.n;
}
