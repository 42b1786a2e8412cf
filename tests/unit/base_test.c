/* base: buffers, slices, globs, UTF-8, edit distance, the string table, the stored hash, errors. Where there is a slow obvious way of saying what a
 * function must do, random inputs are compared with it. */
#include "base/buf.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/hash.h"
#include "base/priority.h"
#include "base/strtab.h"
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdarg.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>
#include <cmocka.h>

static uint64_t seed = 88172645463325252ull;
static uint32_t rnd(uint32_t n)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return (uint32_t)(seed >> 32) % n;
}

static void buf_grows(void **state)
{
	struct buf b = { 0 };
	assert_int_equal(buf_str(&b).n, 0);
	for (unsigned i = 0; i < 5000; i++)
		buf_byte(&b, (uint8_t)i);
	buf_add(&b, NULL, 0);
	assert_int_equal(b.n, 5000);
	for (unsigned i = 0; i < 5000; i++)
		assert_int_equal(b.p[i], (uint8_t)i);
	buf_clear(&b);
	buf_printf(&b, "%s-%d", "x", 7);
	buf_add_str(&b, "!");
	assert_true(str_is(buf_str(&b), "x-7!"));
	buf_clear(&b);
	buf_printf(&b, "%*d", 3000, 1);
	assert_int_equal(b.n, 3000);
	buf_finish(&b);
	assert_null(b.p);
}

static void buf_reads_files(void **state)
{
	struct buf b = { 0 };
	char path[] = "/tmp/klieg-base-XXXXXX";
	int fd = mkstemp(path);
	assert_true(fd >= 0);
	assert_int_equal(buf_read_file(path, 10, &b), 0);
	assert_int_equal(b.n, 0);
	buf_finish(&b);
	assert_int_equal(write(fd, "0123456789", 10), 10);
	close(fd);
	assert_int_equal(buf_read_file(path, 10, &b), 0);
	assert_true(str_is(buf_str(&b), "0123456789"));
	buf_finish(&b);
	assert_int_equal(buf_read_file(path, 9, &b), KLIEG_E_TOO_LARGE);
	assert_null(b.p); /* outputs stay untouched on failure */
	unlink(path);
	assert_int_equal(buf_read_file(path, 9, &b), KLIEG_E_NOT_FOUND);
}

static bool glob_slow(const char *p, const char *t)
{
	if (*p == '*')
		return glob_slow(p + 1, t) || (*t && glob_slow(p, t + 1));
	if (!*p || !*t)
		return !*p && !*t;
	return (*p == '?' || *p == *t) && glob_slow(p + 1, t + 1);
}

static void glob(void **state)
{
	for (unsigned i = 0; i < 50000; i++) {
		char p[9], t[11];
		unsigned pn = rnd(9), tn = rnd(11);
		for (unsigned k = 0; k < pn; k++)
			p[k] = "ab*?"[rnd(4)];
		for (unsigned k = 0; k < tn; k++)
			t[k] = "ab"[rnd(2)];
		p[pn] = t[tn] = 0;
		if (str_glob((struct str){ p, pn }, (struct str){ t, tn }) != glob_slow(p, t))
			fail_msg("glob %s on %s", p, t);
	}
	/* What makes a backtracking matcher explode. */
	char text[4001];
	memset(text, 'a', 4000);
	text[4000] = 0;
	assert_false(str_glob(str_of("*a*a*a*a*a*a*a*a*a*a*a*a*b"), (struct str){ text, 4000 }));
}

static void utf8(void **state)
{
	static const char *const good[] = { "", "plain", "\xc2\x80", "\xdf\xbf", "\xe0\xa0\x80", "\xed\x9f\xbf", "\xee\x80\x80", "\xef\xbf\xbf", "\xf0\x90\x80\x80",
		"\xf4\x8f\xbf\xbf" };
	static const char *const bad[] = { "\x80", "\xc0\x80", "\xc1\xbf", "\xc2", "\xe0\x9f\xbf", "\xed\xa0\x80", "\xed\xbf\xbf", "\xf0\x8f\xbf\xbf", "\xf4\x90\x80\x80",
		"\xf5\x80\x80\x80", "\xff", "a\xe2\x82", "\xe2\x28\xa1" };
	for (unsigned i = 0; i < sizeof good / sizeof *good; i++)
		assert_true(str_utf8_valid(str_of(good[i])));
	for (unsigned i = 0; i < sizeof bad / sizeof *bad; i++)
		assert_false(str_utf8_valid(str_of(bad[i])));
	assert_true(str_utf8_valid((struct str){ "a\0b", 3 }));
	/* Every code point, encoded, is valid exactly when it is not a surrogate; without its last byte it never is. */
	for (uint32_t c = 0x80; c < 0x110000; c += 1 + c / 4096) {
		char u[4];
		unsigned n = c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
		for (unsigned i = n, v = c; i-- > 0; v >>= 6)
			u[i] = (char)(i ? 0x80 | (v & 63) : (n == 2 ? 0xc0 : n == 3 ? 0xe0 : 0xf0) | v);
		assert_int_equal(str_utf8_valid((struct str){ u, n }), !(c >= 0xd800 && c < 0xe000));
		assert_false(str_utf8_valid((struct str){ u, n - 1 }));
	}
}

static unsigned distance_slow(const char *a, size_t an, const char *b, size_t bn)
{
	if (!an || !bn)
		return (unsigned)(an + bn);
	unsigned x = distance_slow(a + 1, an - 1, b + 1, bn - 1) + (*a != *b), y = distance_slow(a + 1, an - 1, b, bn) + 1, z = distance_slow(a, an, b + 1, bn - 1) + 1;
	return x < y ? (x < z ? x : z) : y < z ? y : z;
}

static void distance(void **state)
{
	assert_int_equal(str_distance(str_of("kitten"), str_of("sitting")), 3);
	for (unsigned i = 0; i < 300; i++) {
		char a[6], b[6];
		size_t an = rnd(7), bn = rnd(7);
		for (size_t k = 0; k < an; k++)
			a[k] = "abc"[rnd(3)];
		for (size_t k = 0; k < bn; k++)
			b[k] = "abc"[rnd(3)];
		assert_int_equal(str_distance((struct str){ a, an }, (struct str){ b, bn }), distance_slow(a, an, b, bn));
	}
	char large[1000];
	memset(large, 'x', sizeof large);
	assert_int_equal(str_distance((struct str){ large, sizeof large }, str_of("")), 64); /* what it looks at is bounded */
	assert_int_equal(str_distance((struct str){ large, sizeof large }, (struct str){ large, 65 }), 0);
}

static void strtab_interns(void **state)
{
	struct strtab t;
	strtab_init(&t);
	assert_int_equal(strtab_add(&t, str_of("")), 0);
	assert_int_equal(strtab_find(&t, str_of("absent")), UINT32_MAX);
	struct str first = { 0 };
	for (unsigned i = 0; i < 20000; i++) {
		char s[32];
		int n = snprintf(s, sizeof s, "string %u", i);
		uint32_t id = strtab_add(&t, (struct str){ s, (size_t)n });
		assert_int_equal(id, i + 1);
		assert_int_equal(strtab_add(&t, (struct str){ s, (size_t)n }), id);
		if (!i)
			first = strtab_get(&t, id);
	}
	assert_ptr_equal(first.p, strtab_get(&t, 1).p); /* text never moves */
	for (unsigned i = 0; i < 20000; i++) {
		char s[32];
		snprintf(s, sizeof s, "string %u", i);
		assert_int_equal(strtab_find(&t, str_of(s)), i + 1);
		assert_true(str_is(strtab_get(&t, i + 1), s));
	}
	assert_int_equal(strtab_get(&t, 4000000).n, 0);
	/* Bytes that are no text, and a string larger than a block of them. */
	assert_int_not_equal(strtab_add(&t, (struct str){ "a\0b", 3 }), strtab_add(&t, (struct str){ "a\0c", 3 }));
	char *large = calloc(1, 100000);
	uint32_t id = strtab_add(&t, (struct str){ large, 100000 });
	assert_int_equal(strtab_get(&t, id).n, 100000);
	free(large);
	strtab_finish(&t);
}

/* Stored ids are made from these values: they may never change. */
static void hash_stable(void **state)
{
	static const struct { const char *s; uint64_t seed, h; } known[] = {
		{ "", 0, 0x0000000000000000ull }, { "a", 0, 0xae57d6f20b4cbe3dull }, { "12345678", 0, 0xd40bf1f77023d1cdull }, { "checkout /cart", 7,
			0xf54694b0e639a9baull },
	};
	for (unsigned i = 0; i < sizeof known / sizeof *known; i++)
		assert_int_equal(hash_bytes(known[i].s, strlen(known[i].s), known[i].seed), known[i].h);
	/* One flipped bit changes about half of the result's. */
	unsigned changed = 0, bits = 0;
	for (unsigned bit = 0; bit < 24 * 8; bit++) {
		uint8_t x[24];
		for (unsigned i = 0; i < 24; i++)
			x[i] = (uint8_t)rnd(256);
		uint64_t h = hash_bytes(x, 24, 0);
		x[bit / 8] ^= (uint8_t)(1 << bit % 8);
		changed += (unsigned)__builtin_popcountll(h ^ hash_bytes(x, 24, 0));
		bits += 64;
	}
	assert_in_range(changed * 100 / bits, 45, 55);
	assert_int_not_equal(hash_bytes("a\0", 2, 0), hash_bytes("a", 1, 0));
}

static void errors(void **state)
{
	struct err e = { .hint = "old" };
	assert_int_equal(err_set(&e, KLIEG_E_SYNTAX, "bad %s", "thing"), KLIEG_E_SYNTAX);
	assert_string_equal(e.msg, "bad thing");
	assert_string_equal(e.hint, "");
	assert_int_equal(err_hint(&e, "try %d", 2), KLIEG_E_SYNTAX);
	assert_string_equal(e.hint, "try 2");
	assert_int_equal(err_at(&e, KLIEG_E_TYPE, 3, 4, "x"), KLIEG_E_TYPE);
	assert_int_equal(e.line * 10 + e.column, 34);
	assert_int_equal(err_set(NULL, KLIEG_E_IO, "nobody reads"), KLIEG_E_IO);
	char large[2000];
	memset(large, 'm', sizeof large - 1);
	large[sizeof large - 1] = 0;
	err_set(&e, KLIEG_E_IO, "%s", large);
	assert_int_equal(strlen(e.msg), sizeof e.msg - 1);
	/* Cut through a character; commands to a terminal. */
	err_set(&e, KLIEG_E_IO, "`%.*s` \x1b[31m%s2J\x07\n%s", 4, "abc\xc3\xa4", "\xc2\x9b", "\xc3\xa4\xf0\x9f\x99\x82");
	assert_string_equal(e.msg, "`abc?`  [31m??2J \n\xc3\xa4\xf0\x9f\x99\x82");
	for (int i = 0; i < 3; i++) { /* the end, too, is a whole character */
		snprintf(large, sizeof large, "%*s%s", (int)sizeof e.msg - 3 - i, "", "\xf0\x9f\x99\x82");
		err_set(&e, KLIEG_E_IO, "%s", large);
		assert_true(str_utf8_valid(str_of(e.msg)));
	}
	assert_string_equal(err_name(KLIEG_E_NO_MATCH), "E204");
	assert_string_equal(err_title(KLIEG_E_NO_MATCH), "nothing matches");
	assert_int_equal(err_http(KLIEG_E_NO_MATCH), 404);
	assert_int_equal(err_http(-7), 500);
	assert_int_equal(err_from_errno(EACCES), KLIEG_E_DENIED);
	assert_int_equal(err_from_errno(ENOSPC), KLIEG_E_DISK_FULL);
	assert_int_equal(err_from_errno(EIO), KLIEG_E_IO);
}

/* What we do in the background takes the CPU from nobody; while somebody waits for us we come first. */
static struct priority mine(void) { return (struct priority){ sched_getscheduler(0), getpriority(PRIO_PROCESS, 0) }; }
static void assert_priority(int policy, int nice)
{
	assert_int_equal(mine().policy, policy);
	assert_int_equal(mine().nice, nice);
}
static void *of_a_thread(void *arg)
{
	*(struct priority *)arg = mine();
	return NULL;
}
static void *in_the_background(void *arg)
{
	struct priority before = mine(), of_child;
	int nice = geteuid() == 0 ? 10 : before.nice;
	pthread_t child;
	priority_background(); /* there is none yet */
	assert_priority(SCHED_OTHER, before.nice);
	priority_set(10);
	priority_background();
	assert_priority(SCHED_BATCH, nice);
	pthread_create(&child, NULL, of_a_thread, &of_child);
	pthread_join(child, NULL);
	assert_int_equal(of_child.policy, SCHED_BATCH);
	assert_int_equal(of_child.nice, nice);
	struct priority was = priority_urgent();
	assert_int_equal(mine().policy, SCHED_OTHER);
	if (geteuid() == 0)
		assert_true(mine().nice < 0);
	priority_restore(was);
	assert_priority(SCHED_BATCH, nice);
	priority_restore(before);
	/* A thread that is busy for some seconds on end goes there, and comes back when it is not. */
	struct priority_pace pace = { 0 };
	int64_t now = clock_mono();
	for (int k = 0; k < 12; k++) { /* awaited at 5, idle from 10 on */
		if (k == 5)
			priority_await(&pace);
		for (int64_t from = clock_of(CLOCK_THREAD_CPUTIME_ID); k < 10 && clock_of(CLOCK_THREAD_CPUTIME_ID) - from < 40000000;) {
		}
		priority_pace(&pace, now + k * 1000000000ll + 999999999); /* too soon to look again */
		priority_pace(&pace, now + (k + 1) * 1000000000ll);
		bool background = k == 3 || k == 4 || k == 8 || k == 9;
		if (k)
			assert_priority(background ? SCHED_BATCH : SCHED_OTHER, background ? nice : before.nice);
	}
	priority_set(0);
	return NULL;
}
static void priority(void **state)
{
	pthread_t t;
	int before = getpriority(PRIO_PROCESS, 0);
	assert_int_equal(pthread_create(&t, NULL, in_the_background, NULL), 0);
	pthread_join(t, NULL);
	assert_int_equal(getpriority(PRIO_PROCESS, 0), before);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(buf_grows), cmocka_unit_test(buf_reads_files), cmocka_unit_test(glob), cmocka_unit_test(utf8), cmocka_unit_test(distance),
		cmocka_unit_test(strtab_interns), cmocka_unit_test(hash_stable), cmocka_unit_test(errors), cmocka_unit_test(priority),
	};
	return cmocka_run_group_tests_name("base", tests, NULL, NULL);
}
