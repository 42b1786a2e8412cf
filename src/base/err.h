/* One error convention for everything but libklieg: fallible functions return int, >= 0 good, a negative KLIEG_E* otherwise;
 * outputs come last, are named ret_ and stay untouched on failure. Where a person reads the message (config, policy,
 * query, CLI, API) a struct err carries it. */
#pragma once
#include <stdbool.h>
#include <stdint.h>

/* name, number, HTTP status, title. The number is what `klieg help E204` explains (src/cli/explain.c). */
#define KLIEG_ERRORS(X) \
	X(INTERNAL, 100, 500, "internal error") \
	X(NOMEM, 101, 503, "out of memory") \
	X(IO, 102, 500, "input/output error") \
	X(DISK_FULL, 103, 507, "disk full") \
	X(BUSY, 104, 503, "busy, try again") \
	X(TOO_LARGE, 105, 413, "too large") \
	X(CORRUPT, 106, 500, "corrupt data") \
	X(USAGE, 200, 400, "wrong usage") \
	X(SYNTAX, 201, 400, "syntax error") \
	X(TYPE, 202, 400, "type error") \
	X(LIMIT, 203, 400, "limit exceeded") \
	X(NO_MATCH, 204, 404, "nothing matches") \
	X(NOT_FOUND, 205, 404, "not found") \
	X(BAD_DATA, 206, 400, "bad data") \
	X(UNSUPPORTED, 207, 415, "not supported") \
	X(CONFLICT, 208, 409, "conflict") \
	X(STALE, 209, 412, "changed by somebody else") \
	X(NO_SERVER, 300, 503, "no server") \
	X(NO_TARGET, 301, 404, "no such process") \
	X(PORT_IN_USE, 302, 500, "address in use") \
	X(DENIED, 400, 403, "not permitted") \
	X(UNAUTHENTICATED, 401, 401, "not authenticated") \
	X(PARTIAL, 500, 207, "only partly done") \
	X(GUARDRAIL, 600, 422, "refused by a guardrail")

enum klieg_error {
#define X(name, num, http, title) KLIEG_E_##name = -(num),
	KLIEG_ERRORS(X)
#undef X
};

struct err {
	int code;            /* KLIEG_E_*, 0 = none */
	int line, column;    /* 1-based, 0 = unknown */
	char msg[400];       /* what and why */
	char hint[240];      /* what next; may be empty */
};

/* Fills *e (NULL is fine) and returns code, so that `return err_set(e, KLIEG_E_SYNTAX, ...)` reads well. */
int err_set(struct err *e, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
int err_at(struct err *e, int code, int line, int column, const char *fmt, ...) __attribute__((format(printf, 5, 6)));
int err_hint(struct err *e, const char *fmt, ...) __attribute__((format(printf, 2, 3))); /* returns e->code */
/* What people wrote comes back in messages: makes a text valid UTF-8 (JSON takes nothing else; a cut may have gone through a character), without
 * control characters (a terminal would obey them). The above do it. one_line: line ends go too. */
void err_clean(char *text, bool one_line);
const char *err_title(int code);  /* "syntax error" */
const char *err_name(int code);   /* "E201" in a static table */
int err_http(int code);           /* 400 */
int err_from_errno(int errnum);   /* EACCES -> KLIEG_E_DENIED, ENOSPC -> KLIEG_E_DISK_FULL, ... */
