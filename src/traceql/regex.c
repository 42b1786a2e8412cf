/* Regular expressions: PCRE2 held to RE2's syntax (no look-around, no back-references, no recursion), anchored at both ends, with limits on
 * the work of one match. A match that hits a limit counts as "no" and is counted (traceql_gave_up). A compiled one is immutable and shared
 * between threads; the scratch memory of a match belongs to one thread. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "traceql/ast.h"
#include <pcre2.h>
#include <pthread.h>
#include <stdlib.h>

struct tq_regex { pcre2_code *code; size_t size; bool jit; _Atomic uint32_t shared; /* owners but one */ };

static pcre2_match_context *limits;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static void make_limits(void)
{
	limits = pcre2_match_context_create(NULL); /* for the life of the process; read-only once made */
	if (!limits)
		abort();
	pcre2_set_match_limit(limits, 100000);
	pcre2_set_depth_limit(limits, 1000);
	pcre2_set_heap_limit(limits, 1024); /* KiB */
}

/* Where the pattern uses what RE2 has not: offset and name, or NULL. */
static const char *beyond_re2(struct str s, size_t *ret_at)
{
	bool class = false;
	for (size_t i = 0; i < s.n; i++) {
		*ret_at = i;
		if (s.p[i] == '\\') {
			char c = i + 1 < s.n ? s.p[i + 1] : 0;
			if (!class && ((c >= '1' && c <= '9') || c == 'g' || c == 'k'))
				return "back-references";
			if (c == 'K' || c == 'G' || c == 'R' || c == 'X')
				return "this escape";
			if (c == 'Q') /* up to \E */
				while (i + 1 < s.n && !(s.p[i] == '\\' && s.p[i + 1] == 'E'))
					i++;
			i++;
		} else if (class) {
			if (s.p[i] == '[' && i + 1 < s.n && s.p[i + 1] == ':') { /* [:alpha:] */
				while (i + 1 < s.n && !(s.p[i] == ':' && s.p[i + 1] == ']' ))
					i++;
				i++;
			}
			class = i >= s.n || s.p[i] != ']';
		} else if (s.p[i] == '[') {
			class = true;
			if (i + 1 < s.n && s.p[i + 1] == '^')
				i++;
			if (i + 1 < s.n && s.p[i + 1] == ']')
				i++;
		} else if (s.p[i] == '(' && i + 1 < s.n && s.p[i + 1] == '*') {
			return "verbs";
		} else if (s.p[i] == '(' && i + 2 < s.n && s.p[i + 1] == '?') {
			size_t k = i + 2;
			if (s.p[k] == 'P' && k + 1 < s.n)
				k++;
			if (s.p[k] == '<' && k + 1 < s.n && s.p[k + 1] != '=' && s.p[k + 1] != '!')
				continue; /* a named group */
			if (s.p[i + 2] == 'P')
				return "references to groups";
			while (k < s.n && strchr("imsU-", s.p[k]) && s.p[k])
				k++;
			if (k >= s.n || (s.p[k] != ':' && s.p[k] != ')'))
				return "look-around and conditions";
		} else if ((s.p[i] == '+' && i && strchr("*+?}", s.p[i - 1])) && !(i >= 2 && s.p[i - 2] == '\\')) {
			return "possessive quantifiers";
		}
	}
	return NULL;
}

int tq_regex_compile(struct str pattern, struct tq_regex **ret_r, struct err *e, int line, int column)
{
	if (pattern.n > TQ_REGEX_MAX)
		return err_at(e, KLIEG_E_LIMIT, line, column, "the regular expression is longer than %u bytes", TQ_REGEX_MAX);
	pthread_once(&once, make_limits);
	size_t at;
	const char *beyond = beyond_re2(pattern, &at);
	if (beyond) {
		err_at(e, KLIEG_E_UNSUPPORTED, line, column, "%s are not supported in regular expressions (at its character %zu)", beyond, at + 1);
		return err_hint(e, "the syntax is RE2's"), KLIEG_E_UNSUPPORTED;
	}
	pcre2_compile_context *cc = pcre2_compile_context_create(NULL);
	if (!cc)
		return err_set(e, KLIEG_E_NOMEM, "no memory for a regular expression");
	pcre2_set_parens_nest_limit(cc, 50);
	int code;
	PCRE2_SIZE offset;
	pcre2_code *c = pcre2_compile((PCRE2_SPTR)pattern.p, pattern.n, PCRE2_ANCHORED | PCRE2_ENDANCHORED | PCRE2_UTF | PCRE2_MATCH_INVALID_UTF |
		PCRE2_NEVER_BACKSLASH_C | PCRE2_NO_AUTO_CAPTURE | PCRE2_DOLLAR_ENDONLY, &code, &offset, cc);
	pcre2_compile_context_free(cc);
	if (!c) {
		PCRE2_UCHAR text[128];
		pcre2_get_error_message(code, text, sizeof text);
		err_at(e, KLIEG_E_SYNTAX, line, column, "bad regular expression: %s (at its character %zu)", (char *)text, (size_t)offset + 1);
		return err_hint(e, "a literal . * + ? ( ) [ is written with a backslash; backticks keep backslashes: `a\\.b`"), KLIEG_E_SYNTAX;
	}
	struct tq_regex *r = base_calloc(1, sizeof *r);
	r->code = c;
	pcre2_pattern_info(c, PCRE2_INFO_SIZE, &r->size);
	r->jit = r->size < 16384 && pcre2_jit_compile(c, PCRE2_JIT_COMPLETE) == 0; /* where W^X forbids it, the interpreter does the same */
	size_t jit = 0;
	pcre2_pattern_info(c, PCRE2_INFO_JITSIZE, &jit); /* often the bigger part, in memory and in time */
	r->size += jit;
	*ret_r = r;
	return 0;
}

struct tq_regex *tq_regex_share(struct tq_regex *r)
{
	atomic_fetch_add_explicit(&r->shared, 1, memory_order_relaxed); /* who shares has it already: nothing to order */
	return r;
}

size_t tq_regex_size(const struct tq_regex *r) { return r->size; }

void tq_regex_free(struct tq_regex *r)
{
	/* The last owner frees after all that the others did with it: pairs with their decrements here. */
	if (!r || atomic_fetch_sub_explicit(&r->shared, 1, memory_order_acq_rel) > 0)
		return;
	pcre2_code_free(r->code);
	free(r);
}

void *tq_regex_scratch(void)
{
	pcre2_match_data *m = pcre2_match_data_create(1, NULL);
	if (!m)
		abort();
	return m;
}

void tq_regex_scratch_free(void *p) { pcre2_match_data_free(p); }

int tq_regex_match(const struct tq_regex *r, struct str subject, void *match_data)
{
	pcre2_match_data *m = match_data ? match_data : tq_regex_scratch();
	int rc = pcre2_match(r->code, (PCRE2_SPTR)(subject.n ? subject.p : ""), subject.n, 0, 0, m, limits);
	if (!match_data)
		pcre2_match_data_free(m);
	return rc >= 0 ? TQ_RE_YES : rc == PCRE2_ERROR_NOMATCH ? TQ_RE_NO : TQ_RE_GAVE_UP;
}
