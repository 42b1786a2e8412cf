/* Growable buffers and string slices: the allocation and text helpers that everything above uses. */
#include "base/buf.h"
#include "base/err.h"
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static void base_oom(void)
{
	static const char m[] = "klieg: out of memory\n";
	if (write(2, m, sizeof m - 1) < 0) {}
	abort();
}

void *base_alloc(size_t n) { void *p = malloc(n ? n : 1); if (!p) base_oom(); return p; }
void *base_calloc(size_t n, size_t size) { void *p = calloc(n ? n : 1, size ? size : 1); if (!p) base_oom(); return p; }
void *base_realloc(void *p, size_t n) { p = realloc(p, n ? n : 1); if (!p) base_oom(); return p; }

char *str_dup(struct str s)
{
	char *p = base_alloc(s.n + 1);
	if (s.n)
		memcpy(p, s.p, s.n);
	p[s.n] = 0;
	return p;
}

bool str_utf8_valid(struct str s)
{
	const uint8_t *p = (const uint8_t *)s.p, *e = p + s.n;
	while (p < e) {
		uint64_t eight;
		if (e - p >= 8 && (memcpy(&eight, p, 8), !(eight & 0x8080808080808080ull))) { p += 8; continue; } /* most text is ASCII */
		if (*p < 0x80) { p++; continue; }
		unsigned n; uint32_t min, c;
		if (*p < 0xc2) return false;
		else if (*p < 0xe0) { n = 1; c = *p & 31u; min = 0x80; }
		else if (*p < 0xf0) { n = 2; c = *p & 15u; min = 0x800; }
		else if (*p < 0xf5) { n = 3; c = *p & 7u; min = 0x10000; }
		else return false;
		if ((size_t)(e - p) <= n) return false;
		for (unsigned i = 1; i <= n; i++) {
			if ((p[i] & 0xc0) != 0x80) return false;
			c = c << 6 | (p[i] & 63u);
		}
		if (c < min || c > 0x10ffff || (c >= 0xd800 && c <= 0xdfff)) return false;
		p += n + 1;
	}
	return true;
}

bool str_glob(struct str pat, struct str t)
{
	size_t i = 0, j = 0, star = SIZE_MAX, back = 0;
	while (j < t.n) {
		if (i < pat.n && pat.p[i] == '*') { star = i++; back = j; }
		else if (i < pat.n && (pat.p[i] == '?' || pat.p[i] == t.p[j])) { i++; j++; }
		else if (star != SIZE_MAX) { i = star + 1; j = ++back; }
		else return false;
	}
	while (i < pat.n && pat.p[i] == '*') i++;
	return i == pat.n;
}

size_t str_service_colon(struct str sel)
{
	for (size_t i = 0; i < sel.n; i++)
		if (sel.p[i] == ':') {
			if (i + 1 == sel.n || sel.p[i + 1] != ':')
				return i;
			i++;
		}
	return sel.n;
}

unsigned str_distance(struct str a, struct str b)
{
	unsigned row[65];
	size_t an = a.n > 64 ? 64 : a.n, bn = b.n > 64 ? 64 : b.n;
	for (size_t j = 0; j <= bn; j++) row[j] = (unsigned)j;
	for (size_t i = 1; i <= an; i++) {
		unsigned diag = row[0];
		row[0] = (unsigned)i;
		for (size_t j = 1; j <= bn; j++) {
			unsigned up = row[j], best = diag + (a.p[i - 1] != b.p[j - 1]);
			if (up + 1 < best) best = up + 1;
			if (row[j - 1] + 1 < best) best = row[j - 1] + 1;
			diag = up;
			row[j] = best;
		}
	}
	return row[bn];
}

void buf_finish(struct buf *b)
{
	free(b->p);
	*b = (struct buf){ 0 };
}

void buf_reserve(struct buf *b, size_t more)
{
	if (b->cap - b->n >= more)
		return;
	size_t cap = b->cap ? b->cap : 64;
	while (cap - b->n < more)
		cap *= 2;
	b->p = base_realloc(b->p, cap);
	b->cap = cap;
}

void buf_add(struct buf *b, const void *p, size_t n)
{
	if (!n)
		return;
	buf_reserve(b, n);
	memcpy(b->p + b->n, p, n);
	b->n += n;
}

void buf_add_str(struct buf *b, const char *s) { buf_add(b, s, strlen(s)); }
void buf_byte(struct buf *b, uint8_t c) { buf_add(b, &c, 1); }

void buf_printf(struct buf *b, const char *fmt, ...)
{
	va_list ap, again;
	va_start(ap, fmt);
	va_copy(again, ap);
	int n = vsnprintf(NULL, 0, fmt, ap);
	va_end(ap);
	if (n > 0) {
		buf_reserve(b, (size_t)n + 1);
		vsnprintf((char *)b->p + b->n, (size_t)n + 1, fmt, again);
		b->n += (size_t)n;
	}
	va_end(again);
}

int buf_read_file(const char *path, size_t max, struct buf *ret_b)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return err_from_errno(errno);
	struct buf b = { 0 };
	for (;;) {
		buf_reserve(&b, 65536);
		ssize_t k = read(fd, b.p + b.n, b.cap - b.n);
		if (k < 0 && errno == EINTR)
			continue;
		if (k < 0 || b.n + (size_t)k > max) {
			int rc = k < 0 ? err_from_errno(errno) : KLIEG_E_TOO_LARGE;
			close(fd);
			buf_finish(&b);
			return rc;
		}
		if (k == 0)
			break;
		b.n += (size_t)k;
	}
	close(fd);
	*ret_b = b;
	return 0;
}
