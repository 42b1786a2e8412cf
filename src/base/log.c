/* Formats one line and writes it with one write(2), so that lines of several threads and processes never mix. */
#include "base/log.h"
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static _Atomic int min_level = -1;

void log_set_level(enum log_level min) { atomic_store_explicit(&min_level, (int)min, memory_order_relaxed); }

static int current(void)
{
	int l = atomic_load_explicit(&min_level, memory_order_relaxed);
	if (l >= 0)
		return l;
	const char *e = getenv("KLIEG_LOG");
	l = LOG_INFO;
	if (e)
		l = !strcmp(e, "debug") ? LOG_DEBUG : !strcmp(e, "warn") ? LOG_WARN : !strcmp(e, "error") ? LOG_ERROR : LOG_INFO;
	atomic_store_explicit(&min_level, l, memory_order_relaxed);
	return l;
}

void log_write(enum log_level level, const char *module, const char *fmt, ...)
{
	static const char *const names[] = { "debug", "info", "warn", "error" };
	if ((int)level < current())
		return;
	char line[1024];
	struct timespec ts;
	struct tm tm;
	clock_gettime(CLOCK_REALTIME, &ts);
	gmtime_r(&ts.tv_sec, &tm);
	int n = snprintf(line, sizeof line, "%04d-%02d-%02dT%02d:%02d:%02d.%03ldZ %-5s %s: ", tm.tm_year + 1900, tm.tm_mon + 1,
		tm.tm_mday, tm.tm_hour, tm.tm_min, tm.tm_sec, ts.tv_nsec / 1000000, names[level], module);
	va_list ap;
	va_start(ap, fmt);
	int k = vsnprintf(line + n, sizeof line - (size_t)n - 1, fmt, ap);
	va_end(ap);
	n += k < (int)sizeof line - n - 1 ? (k > 0 ? k : 0) : (int)sizeof line - n - 2;
	line[n++] = '\n';
	if (write(2, line, (size_t)n) < 0) {}
}
