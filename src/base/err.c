/* The error list's texts, and the few ways of filling a struct err. */
#include "base/err.h"
#include "base/buf.h"
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>

void err_clean(char *text, bool one_line)
{
	size_t n = strlen(text);
	for (size_t i = 0; i < n;) {
		unsigned char c = (unsigned char)text[i];
		size_t len = c < 0x80 ? 1 : c >= 0xf0 ? 4 : c >= 0xe0 ? 3 : c >= 0xc0 ? 2 : 1;
		if (i + len > n) {
			text[i] = 0;
			return;
		}
		if ((c < 0x20 && (one_line || (c != '\n' && c != '\t'))) || c == 0x7f)
			text[i++] = ' ';
		else if ((c == 0xc2 && (unsigned char)text[i + 1] < 0xa0) || !str_utf8_valid((struct str){ text + i, len }))
			text[i++] = '?';
		else
			i += len;
	}
}

static void fill(struct err *e, int code, int line, int column, const char *fmt, va_list ap)
{
	if (!e)
		return;
	e->code = code;
	e->line = line;
	e->column = column;
	e->hint[0] = 0;
	vsnprintf(e->msg, sizeof e->msg, fmt, ap);
	err_clean(e->msg, false);
}

int err_set(struct err *e, int code, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	fill(e, code, 0, 0, fmt, ap);
	va_end(ap);
	return code;
}

int err_at(struct err *e, int code, int line, int column, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	fill(e, code, line, column, fmt, ap);
	va_end(ap);
	return code;
}

int err_hint(struct err *e, const char *fmt, ...)
{
	if (!e)
		return KLIEG_E_INTERNAL;
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(e->hint, sizeof e->hint, fmt, ap);
	va_end(ap);
	err_clean(e->hint, false);
	return e->code;
}

const char *err_title(int code)
{
	switch (code) {
#define X(name, num, http, title) case -(num): return title;
	KLIEG_ERRORS(X)
#undef X
	}
	return "unknown error";
}

const char *err_name(int code)
{
	switch (code) {
#define X(name, num, http, title) case -(num): return "E" #num;
	KLIEG_ERRORS(X)
#undef X
	}
	return "E?";
}

int err_http(int code)
{
	switch (code) {
#define X(name, num, http, title) case -(num): return http;
	KLIEG_ERRORS(X)
#undef X
	}
	return 500;
}

int err_from_errno(int errnum)
{
	switch (errnum) {
	case EACCES: case EPERM: return KLIEG_E_DENIED;
	case ENOSPC: case EDQUOT: return KLIEG_E_DISK_FULL;
	case ENOMEM: return KLIEG_E_NOMEM;
	case ENOENT: return KLIEG_E_NOT_FOUND;
	case ESRCH: return KLIEG_E_NO_TARGET;
	case EADDRINUSE: return KLIEG_E_PORT_IN_USE;
	case ECONNREFUSED: return KLIEG_E_NO_SERVER;
	case EBUSY: case EAGAIN: return KLIEG_E_BUSY;
	case EFBIG: return KLIEG_E_TOO_LARGE;
	}
	return KLIEG_E_IO;
}
