/* Value patterns that must not leave the host, found in strings by a scan that looks closer only at digits, '@' and known prefixes. */
#include "agent/state.h"
#include <ctype.h>

static bool word(char c) { return isalnum((unsigned char)c) || c == '-' || c == '_' || c == '.' || c == '+' || c == '/' || c == '=' || c == '~'; }

/* 13 to 19 digits, single spaces or dashes between, that pass Luhn's check. Returns the length, 0 = none. */
static size_t card(const char *p, size_t n)
{
	uint8_t d[20];
	size_t k = 0, end = 0, i = 0;
	for (; i < n && k < 20; i++) {
		if (isdigit((unsigned char)p[i]))
			d[k++] = (uint8_t)(p[i] - '0'), end = i + 1;
		else if ((p[i] != ' ' && p[i] != '-') || i + 1 >= n || !isdigit((unsigned char)p[i + 1]))
			break;
	}
	if (k < 13 || k > 19)
		return 0;
	unsigned sum = 0;
	for (size_t j = 0; j < k; j++) {
		unsigned v = d[k - 1 - j];
		sum += j % 2 ? (v > 4 ? 2 * v - 9 : 2 * v) : v;
	}
	return sum % 10 ? 0 : end;
}

static size_t token(const char *p, size_t n)
{
	static const struct { const char *prefix; size_t keep, min; } kinds[] = {
		{ "Bearer ", 7, 8 }, { "bearer ", 7, 8 }, { "Basic ", 6, 8 }, { "sk_live_", 0, 16 }, { "sk-", 0, 20 }, { "ghp_", 0, 20 }, { "github_pat_", 0, 20 },
		{ "AKIA", 0, 20 }, { "xoxb-", 0, 16 }, { "eyJ", 0, 30 }, { "glpat-", 0, 20 },
	};
	for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
		size_t len = strlen(kinds[k].prefix), end = len;
		if (n < len || memcmp(p, kinds[k].prefix, len))
			continue;
		while (end < n && word(p[end]))
			end++;
		if (end - kinds[k].keep >= kinds[k].min)
			return end;
	}
	return 0;
}

bool mask_text(struct str s, struct buf *ret_b)
{
	struct buf b = { 0 };
	size_t from = 0;
	for (size_t i = 0; i < s.n;) {
		char c = s.p[i];
		size_t n = 0, start = i;
		const char *with = NULL;
		bool edge = !i || !isalnum((unsigned char)s.p[i - 1]);
		if (isdigit((unsigned char)c) && edge && (n = card(s.p + i, s.n - i)) && (i + n == s.n || !isalnum((unsigned char)s.p[i + n])))
			with = "<masked:card>";
		else if (c == '@') {
			size_t lo = i, hi = i + 1, dot = 0;
			while (lo > from && (isalnum((unsigned char)s.p[lo - 1]) || strchr("._%+-", s.p[lo - 1])))
				lo--;
			for (; hi < s.n && (isalnum((unsigned char)s.p[hi]) || s.p[hi] == '.' || s.p[hi] == '-'); hi++)
				if (s.p[hi] == '.' && hi + 2 < s.n && hi > i + 1)
					dot = hi;
			if (lo < i && dot && isalpha((unsigned char)s.p[dot + 1]))
				start = lo, n = hi - lo, with = "<masked:email>";
		} else if (edge && strchr("BbsgAxe", c) && (n = token(s.p + i, s.n - i))) {
			with = "<masked:token>";
		}
		if (!with) {
			i++;
			continue;
		}
		buf_add(&b, s.p + from, start - from);
		buf_add_str(&b, with);
		i = from = start + n;
	}
	if (!from)
		return false;
	buf_add(&b, s.p + from, s.n - from);
	*ret_b = b;
	return true;
}
