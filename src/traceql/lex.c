/* Text -> tokens. Names are greedy (`- + * /` are part of an attribute's name), so `.a-1` is the attribute `a-1`. Errors carry the place
 * and, where the mistake is a known one (`==`, 'single quotes', `10sec`), what to write instead. Runs on the caller's thread, owns nothing. */
#include "traceql/lex.h"
#include <errno.h>
#include <stdlib.h>

const struct tq_intrinsic_name tq_intrinsics[] = {
	{ "name", TQ_NAME, TQ_STR }, { "duration", TQ_DURATION_, TQ_DURATION }, { "status", TQ_STATUS_, TQ_STATUS },
	{ "statusMessage", TQ_STATUS_MESSAGE, TQ_STR }, { "kind", TQ_KIND_, TQ_KIND }, { "span:id", TQ_SPAN_ID, TQ_STR },
	{ "span:parentID", TQ_PARENT_ID, TQ_STR }, { "span:childCount", TQ_CHILD_COUNT, TQ_INT }, { "trace:id", TQ_TRACE_ID, TQ_STR },
	{ "traceDuration", TQ_TRACE_DURATION, TQ_DURATION }, { "rootName", TQ_ROOT_NAME, TQ_STR },
	{ "rootServiceName", TQ_ROOT_SERVICE, TQ_STR }, { "event:name", TQ_EVENT_NAME, TQ_STR },
	{ "event:timeSinceStart", TQ_EVENT_TIME, TQ_DURATION }, { "link:traceID", TQ_LINK_TRACE_ID, TQ_STR },
	{ "link:spanID", TQ_LINK_SPAN_ID, TQ_STR }, { "instrumentation:name", TQ_SCOPE_NAME, TQ_STR },
	{ "instrumentation:version", TQ_SCOPE_VERSION, TQ_STR },
	/* the scoped spellings of the above */
	{ "span:name", TQ_NAME, TQ_STR }, { "span:duration", TQ_DURATION_, TQ_DURATION }, { "span:status", TQ_STATUS_, TQ_STATUS },
	{ "span:statusMessage", TQ_STATUS_MESSAGE, TQ_STR }, { "span:kind", TQ_KIND_, TQ_KIND },
	{ "trace:duration", TQ_TRACE_DURATION, TQ_DURATION }, { "trace:rootName", TQ_ROOT_NAME, TQ_STR },
	{ "trace:rootService", TQ_ROOT_SERVICE, TQ_STR },
	{ NULL },
};
const char *const tq_scopes[] = { "", "span", "resource", "event", "link", "instrumentation", NULL };
const char *const tq_statuses[] = { "unset", "ok", "error", NULL };
const char *const tq_kinds[] = { "unspecified", "internal", "server", "client", "producer", "consumer", NULL };

static const struct { const char *text; int64_t ns; } units[] = {
	{ "ns", 1 }, { "us", 1000 }, { "\xc2\xb5s", 1000 }, { "\xce\xbcs", 1000 }, { "ms", 1000000 }, { "s", 1000000000 }, { "m", 60000000000 },
	{ "h", 3600000000000 }, { "d", 86400000000000 }, { "w", 604800000000000 }, { "y", 31536000000000000 },
};

static bool is_space(unsigned char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == '\f' || c == '\v'; }
static bool is_digit(unsigned char c) { return c >= '0' && c <= '9'; }
static bool is_word(unsigned char c) { return (c | 32) >= 'a' && (c | 32) <= 'z' ? true : is_digit(c) || c == '_' || c >= 0x80; }
static bool ends_name(unsigned char c) { return is_space(c) || (c && strchr("{}()=~!<>&|^,", c)); }
static int peek(const struct tq_lexer *l, size_t k) { return l->at + k < l->text.n ? (unsigned char)l->text.p[l->at + k] : -1; }

static bool digit_at(const struct tq_lexer *l, size_t k) { int c = peek(l, k); return c >= '0' && c <= '9'; }

/* In characters, not bytes: what an editor shows. */
static int column_of(const struct tq_lexer *l, size_t at)
{
	int c = 1;
	for (size_t i = l->line_at; i < at; i++)
		c += ((unsigned char)l->text.p[i] & 0xc0) != 0x80;
	return c;
}
#define FAIL_AT(l, at, code, ...) err_at((l)->e, code, (l)->line, column_of(l, at), __VA_ARGS__)

static int skip_space(struct tq_lexer *l)
{
	for (;;) {
		int c = peek(l, 0);
		if (c == '\n') {
			l->line++;
			l->line_at = l->at + 1;
		} else if (c == '/' && peek(l, 1) == '/') {
			while (l->at + 1 < l->text.n && l->text.p[l->at + 1] != '\n')
				l->at++;
		} else if (c == '/' && peek(l, 1) == '*') {
			size_t start = l->at;
			int line = l->line, column = column_of(l, start);
			for (l->at += 2; !(peek(l, 0) == '*' && peek(l, 1) == '/'); l->at++) {
				if (l->at >= l->text.n)
					return err_at(l->e, KLIEG_E_SYNTAX, line, column, "this comment is not closed with `*/`");
				if (peek(l, 0) == '\n') {
					l->line++;
					l->line_at = l->at + 1;
				}
			}
			l->at++;
		} else if (c < 0 || !is_space((unsigned char)c)) {
			return 0;
		}
		l->at++;
	}
}

static void add_utf8(struct buf *b, uint32_t c)
{
	if (c < 0x80) {
		buf_byte(b, (uint8_t)c);
	} else if (c < 0x800) {
		buf_byte(b, (uint8_t)(0xc0 | c >> 6));
		buf_byte(b, (uint8_t)(0x80 | (c & 63)));
	} else if (c < 0x10000) {
		buf_byte(b, (uint8_t)(0xe0 | c >> 12));
		buf_byte(b, (uint8_t)(0x80 | (c >> 6 & 63)));
		buf_byte(b, (uint8_t)(0x80 | (c & 63)));
	} else {
		buf_byte(b, (uint8_t)(0xf0 | c >> 18));
		buf_byte(b, (uint8_t)(0x80 | (c >> 12 & 63)));
		buf_byte(b, (uint8_t)(0x80 | (c >> 6 & 63)));
		buf_byte(b, (uint8_t)(0x80 | (c & 63)));
	}
}

static int hex_digit(int c) { return is_digit((unsigned char)c) && c >= 0 ? c - '0' : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10 : -1; }

/* One escape after the backslash at l->at. */
static int lex_escape(struct tq_lexer *l, struct buf *out)
{
	static const char from[] = "abfnrtv\\\"'", to[] = "\a\b\f\n\r\t\v\\\"'";
	size_t start = l->at++;
	int c = peek(l, 0);
	const char *k = c > 0 ? strchr(from, c) : NULL;
	if (k) {
		l->at++;
		buf_byte(out, (uint8_t)to[k - from]);
		return 0;
	}
	unsigned digits = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
	uint32_t v = 0;
	l->at++;
	for (unsigned i = 0; i < digits; i++, l->at++) {
		int d = hex_digit(peek(l, 0));
		if (d < 0)
			digits = 0;
		v = v << 4 | (uint32_t)(d & 15);
	}
	if (!digits || (c != 'x' && (v > 0x10ffff || (v >= 0xd800 && v < 0xe000)))) {
		FAIL_AT(l, start, KLIEG_E_SYNTAX, "unknown escape `\\%.1s` in a string", c > 0x20 && c < 0x7f ? (char[]){ (char)c, 0 } : "");
		return err_hint(l->e, "write \\\\ for a backslash, or put the text in backticks: `\\d+`"), KLIEG_E_SYNTAX;
	}
	if (c == 'x')
		buf_byte(out, (uint8_t)v);
	else
		add_utf8(out, v);
	return 0;
}

/* A quoted string at l->at (on the quote), appended to out. */
static int lex_quoted(struct tq_lexer *l, struct buf *out)
{
	size_t start = l->at;
	int line = l->line, column = column_of(l, start), quote = peek(l, 0);
	for (l->at++;;) {
		int c = peek(l, 0);
		if (c < 0 || (c == '\n' && quote == '"')) {
			err_at(l->e, KLIEG_E_SYNTAX, line, column, "this string is not closed");
			return err_hint(l->e, "add %c at its end", quote), KLIEG_E_SYNTAX;
		}
		if (c == quote) {
			l->at++;
			return 0;
		}
		if (c == '\\' && quote == '"') {
			int rc = lex_escape(l, out);
			if (rc < 0)
				return rc;
			continue;
		}
		if (c == '\n') {
			l->line++;
			l->line_at = l->at + 1;
		}
		buf_byte(out, (uint8_t)c);
		l->at++;
	}
}

static struct str keep(struct tq_lexer *l, struct buf *b)
{
	struct str s = strtab_get(l->strs, strtab_add(l->strs, buf_str(b)));
	buf_finish(b);
	return s;
}

/* The rest of an attribute's name, after `scope.`; parts may be quoted. */
static int lex_key(struct tq_lexer *l, size_t start, struct tq_token *t)
{
	struct buf b = { 0 };
	for (int c; (c = peek(l, 0)) >= 0 && !ends_name((unsigned char)c);) {
		if (c == '"') {
			int rc = lex_quoted(l, &b);
			if (rc < 0)
				return buf_finish(&b), rc;
			continue;
		}
		buf_byte(&b, (uint8_t)c);
		l->at++;
	}
	if (!b.n) {
		buf_finish(&b);
		FAIL_AT(l, start, KLIEG_E_SYNTAX, "the attribute's name is missing after `.`");
		return err_hint(l->e, "write `.http.route`, or `span.\"a name\"` with quotes if it has spaces"), KLIEG_E_SYNTAX;
	}
	t->kind = TOK_FIELD;
	t->type = TQ_UNKNOWN;
	t->field.key = keep(l, &b);
	return 0;
}

static int bad_unit(struct tq_lexer *l, size_t start, struct str unit)
{
	FAIL_AT(l, start, KLIEG_E_SYNTAX, "`%.*s` is not a unit of time", (int)(unit.n > 40 ? 40 : unit.n), unit.p);
	return err_hint(l->e, "the units are ns us ms s m h d w y, as in 250ms or 1h30m"), KLIEG_E_SYNTAX;
}

/* digits [. digits] as an exact number of ns; false on overflow. Beyond nine decimals the rest is dropped. */
static bool duration_part(struct str num, int64_t unit, int64_t *sum)
{
	__int128 whole = 0, frac = 0, scale = 1;
	size_t i = 0;
	for (; i < num.n && num.p[i] != '.'; i++)
		if ((whole = whole * 10 + (num.p[i] - '0')) > INT64_MAX)
			return false;
	for (i++; i < num.n && scale < 1000000000; i++, scale *= 10)
		frac = frac * 10 + (num.p[i] - '0');
	whole = whole * unit + frac * unit / scale + *sum;
	*sum = (int64_t)whole;
	return whole <= INT64_MAX;
}

static int lex_number(struct tq_lexer *l, struct tq_token *t)
{
	size_t start = l->at;
	bool is_float = false, is_duration = false;
	int64_t ns = 0;
	t->kind = TOK_LITERAL;
	for (;;) {
		size_t part = l->at;
		while (digit_at(l, 0))
			l->at++;
		if (peek(l, 0) == '.' && digit_at(l, 1)) {
			is_float = true;
			for (l->at++; digit_at(l, 0);)
				l->at++;
		}
		int c = peek(l, 0), d = peek(l, 1);
		if (!is_duration && (c | 32) == 'e' && (digit_at(l, 1) || ((d == '-' || d == '+') && digit_at(l, 2)))) {
			is_float = true;
			for (l->at += 2; digit_at(l, 0);)
				l->at++;
			c = peek(l, 0);
		}
		struct str num = { l->text.p + part, l->at - part };
		size_t unit_at = l->at;
		while ((c = peek(l, 0)) >= 0 && is_word((unsigned char)c) && !is_digit((unsigned char)c))
			l->at++;
		struct str unit = { l->text.p + unit_at, l->at - unit_at };
		if (!unit.n) {
			if (is_duration)
				return FAIL_AT(l, part, KLIEG_E_SYNTAX, "the last part of this duration has no unit");
			break;
		}
		size_t u = 0;
		while (u < sizeof units / sizeof *units && !str_is(unit, units[u].text))
			u++;
		if (u == sizeof units / sizeof *units || memchr(num.p, 'e', num.n) || memchr(num.p, 'E', num.n))
			return bad_unit(l, unit_at, unit);
		is_duration = true;
		if (!duration_part(num, units[u].ns, &ns))
			return FAIL_AT(l, start, KLIEG_E_SYNTAX, "this duration is too long (292 years at most)");
		if (peek(l, 0) < 0 || !is_digit((unsigned char)peek(l, 0)))
			break;
	}
	if (is_duration) {
		t->lit = (struct tq_value){ .type = TQ_DURATION, .i = ns };
		return 0;
	}
	char num[64];
	size_t n = l->at - start;
	if (n >= sizeof num)
		return FAIL_AT(l, start, KLIEG_E_SYNTAX, "this number has too many digits");
	memcpy(num, l->text.p + start, n);
	num[n] = 0;
	errno = 0;
	if (is_float) {
		t->lit = (struct tq_value){ .type = TQ_FLOAT, .d = strtod(num, NULL) };
		if (t->lit.d > 1.7976931348623157e308)
			return FAIL_AT(l, start, KLIEG_E_SYNTAX, "this number is too large");
		return 0;
	}
	t->lit = (struct tq_value){ .type = TQ_INT, .i = strtoll(num, NULL, 10) };
	if (errno)
		return FAIL_AT(l, start, KLIEG_E_SYNTAX, "this integer does not fit 64 bits");
	return 0;
}

static void did_you_mean(struct tq_lexer *l, struct str word)
{
	static const char *const more[] = { "true", "false", "nil", NULL };
	const char *best = NULL;
	unsigned least = 3;
	for (size_t i = 0; tq_intrinsics[i].text; i++) {
		unsigned d = str_distance(word, str_of(tq_intrinsics[i].text));
		if (d < least)
			least = d, best = tq_intrinsics[i].text;
	}
	const char *const *const lists[] = { tq_statuses, tq_kinds, more };
	for (size_t k = 0; k < 3; k++)
		for (size_t i = 0; lists[k][i]; i++) {
			unsigned d = str_distance(word, str_of(lists[k][i]));
			if (d < least)
				least = d, best = lists[k][i];
		}
	int n = (int)(word.n > 60 ? 60 : word.n);
	if (best && least < word.n)
		err_hint(l->e, "did you mean `%s`? An attribute has a dot: `.%.*s`; a text has quotes", best, n, word.p);
	else
		err_hint(l->e, "an attribute has a dot before it: `.%.*s`; a text has quotes: \"%.*s\"", n, word.p, n, word.p);
}

static int lex_word(struct tq_lexer *l, struct tq_token *t)
{
	size_t start = l->at;
	while (peek(l, 0) >= 0 && is_word((unsigned char)peek(l, 0)))
		l->at++;
	struct str word = { l->text.p + start, l->at - start };
	int shown = (int)(word.n > 60 ? 60 : word.n);
	if (peek(l, 0) == '.') {
		l->at++;
		for (int s = TQ_SPAN; tq_scopes[s]; s++)
			if (str_is(word, tq_scopes[s])) {
				t->field = (struct tq_field){ .scope = (enum tq_scope)s };
				return lex_key(l, start, t);
			}
		if (str_is(word, "parent"))
			return FAIL_AT(l, start, KLIEG_E_UNSUPPORTED, "`parent.` attributes are not supported yet");
		FAIL_AT(l, start, KLIEG_E_SYNTAX, "unknown scope `%.*s`", shown, word.p);
		size_t end = l->at;
		while (end < l->text.n && !ends_name((unsigned char)l->text.p[end]) && end - start < 60)
			end++;
		return err_hint(l->e, "the scopes are span resource event link instrumentation; in any scope: `.%.*s`", (int)(end - start),
			word.p), KLIEG_E_SYNTAX;
	}
	if (peek(l, 0) == ':') {
		l->at++;
		while (peek(l, 0) >= 0 && is_word((unsigned char)peek(l, 0)))
			l->at++;
		word.n = l->at - start;
		shown = (int)(word.n > 60 ? 60 : word.n);
	}
	for (size_t i = 0; tq_intrinsics[i].text; i++)
		if (str_is(word, tq_intrinsics[i].text)) {
			t->kind = TOK_FIELD;
			t->field = (struct tq_field){ .scope = TQ_INTRINSIC, .intrinsic = tq_intrinsics[i].id };
			t->type = tq_intrinsics[i].type;
			return 0;
		}
	if (memchr(word.p, ':', word.n)) {
		FAIL_AT(l, start, KLIEG_E_SYNTAX, "unknown intrinsic `%.*s`", shown, word.p);
		return did_you_mean(l, word), KLIEG_E_SYNTAX;
	}
	t->kind = TOK_LITERAL;
	if (str_is(word, "true") || str_is(word, "false")) {
		t->lit = (struct tq_value){ .type = TQ_BOOL, .i = word.p[0] == 't' };
		return 0;
	}
	if (str_is(word, "nil")) {
		t->lit = (struct tq_value){ .type = TQ_NIL };
		return 0;
	}
	for (int i = 0; tq_statuses[i]; i++)
		if (str_is(word, tq_statuses[i])) {
			t->lit = (struct tq_value){ .type = TQ_STATUS, .i = i };
			return 0;
		}
	for (int i = 0; tq_kinds[i]; i++)
		if (str_is(word, tq_kinds[i])) {
			t->lit = (struct tq_value){ .type = TQ_KIND, .i = i };
			return 0;
		}
	t->kind = TOK_WORD;
	/* Filled in advance: the parser returns it if the word has no place there. */
	FAIL_AT(l, start, KLIEG_E_SYNTAX, "unknown intrinsic `%.*s`", shown, word.p);
	if (str_is(word, "and") || str_is(word, "or") || str_is(word, "not") || str_is(word, "AND") || str_is(word, "OR") || str_is(word, "NOT"))
		err_hint(l->e, "the operators are && || and !");
	else
		did_you_mean(l, word);
	return 0;
}

static int lex_operator(struct tq_lexer *l, struct tq_token *t)
{
	/* Longest first. */
	static const struct { const char *text; enum tq_tok kind; } ops[] = {
		{ "!>>", TOK_STRUCTURAL }, { "!<<", TOK_STRUCTURAL }, { "&>>", TOK_STRUCTURAL }, { "&<<", TOK_STRUCTURAL },
		{ "&&", TOK_AND }, { "||", TOK_OR }, { "=~", TOK_RE }, { "!~", TOK_NRE }, { "!=", TOK_NE }, { "<=", TOK_LE }, { ">=", TOK_GE },
		{ ">>", TOK_STRUCTURAL }, { "<<", TOK_STRUCTURAL }, { "!>", TOK_STRUCTURAL }, { "!<", TOK_STRUCTURAL },
		{ "&>", TOK_STRUCTURAL }, { "&<", TOK_STRUCTURAL }, { "&~", TOK_STRUCTURAL }, { "~", TOK_STRUCTURAL },
		{ "=", TOK_EQ }, { "<", TOK_LT }, { ">", TOK_GT }, { "!", TOK_NOT }, { "+", TOK_ADD }, { "-", TOK_SUB }, { "*", TOK_MUL },
		{ "/", TOK_DIV }, { "%", TOK_MOD }, { "^", TOK_POW }, { "{", TOK_LBRACE }, { "}", TOK_RBRACE }, { "(", TOK_LPAREN },
		{ ")", TOK_RPAREN }, { ",", TOK_COMMA }, { "|", TOK_PIPE },
	};
	static const struct { const char *text, *hint; } mistakes[] = {
		{ "==", "write `=`" }, { "<>", "write `!=`" }, { "~=", "write `=~`" }, { "=>", "write `>=`" }, { "=<", "write `<=`" },
	};
	struct str rest = { l->text.p + l->at, l->text.n - l->at };
	for (size_t i = 0; i < sizeof mistakes / sizeof *mistakes; i++)
		if (rest.n >= 2 && !memcmp(rest.p, mistakes[i].text, 2)) {
			FAIL_AT(l, l->at, KLIEG_E_SYNTAX, "`%s` is not an operator", mistakes[i].text);
			return err_hint(l->e, "%s", mistakes[i].hint), KLIEG_E_SYNTAX;
		}
	for (size_t i = 0; i < sizeof ops / sizeof *ops; i++) {
		size_t n = strlen(ops[i].text);
		if (rest.n >= n && !memcmp(rest.p, ops[i].text, n)) {
			t->kind = ops[i].kind;
			l->at += n;
			return 0;
		}
	}
	if (rest.p[0] == '\'') {
		FAIL_AT(l, l->at, KLIEG_E_SYNTAX, "texts are not written in single quotes");
		return err_hint(l->e, "use \"double quotes\" or `backticks`"), KLIEG_E_SYNTAX;
	}
	if (rest.p[0] == '&') {
		FAIL_AT(l, l->at, KLIEG_E_SYNTAX, "`&` is not an operator");
		return err_hint(l->e, "write `&&`"), KLIEG_E_SYNTAX;
	}
	unsigned char c = (unsigned char)rest.p[0];
	if (c < 0x20 || c == 0x7f)
		return FAIL_AT(l, l->at, KLIEG_E_SYNTAX, "unexpected byte 0x%02x", c);
	return FAIL_AT(l, l->at, KLIEG_E_SYNTAX, "unexpected `%c`", c);
}

int tq_lex(struct tq_lexer *l, struct tq_token *ret_t)
{
	int rc = skip_space(l);
	if (rc < 0)
		return rc;
	size_t start = l->at;
	struct tq_token t = { .kind = TOK_END, .line = l->line, .column = column_of(l, start) };
	int c = peek(l, 0), d = peek(l, 1);
	if (c < 0) {
		rc = 0;
	} else if (c == '"' || c == '`') {
		struct buf b = { 0 };
		rc = lex_quoted(l, &b);
		if (rc < 0)
			buf_finish(&b);
		else
			t.kind = TOK_LITERAL, t.lit = (struct tq_value){ .type = TQ_STR, .s = keep(l, &b) };
	} else if (is_digit((unsigned char)c) || (c == '.' && d >= 0 && is_digit((unsigned char)d))) {
		rc = lex_number(l, &t);
	} else if (c == '.') {
		l->at++;
		t.field.scope = TQ_ANY;
		rc = lex_key(l, start, &t);
	} else if (is_word((unsigned char)c)) {
		rc = lex_word(l, &t);
	} else {
		rc = lex_operator(l, &t);
	}
	if (rc < 0)
		return rc;
	t.text = (struct str){ l->text.p + start, l->at - start };
	*ret_t = t;
	return 0;
}
