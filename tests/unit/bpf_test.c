/* What the kernel says of threads that do not run, as their own clocks have it; and of its types, also when they are cut short. */
#include "base/buf.h"
#include "bpf/bpf.h"
#include "bpf/offcpu.h"
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

static struct offcpu *open_or_skip(void)
{
	struct offcpu *s = NULL;
	struct err e = { 0 };
	int rc = offcpu_open(&s, &e);
	if (rc == KLIEG_E_DENIED || rc == KLIEG_E_UNSUPPORTED) {
		print_message("not here: %s\n", e.msg);
		skip();
	}
	assert_int_equal(rc, 0);
	return s;
}

static int64_t now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ll + t.tv_nsec;
}

static uint32_t follow_me(struct offcpu *s)
{
	uint32_t slot;
	struct err e = { 0 };
	assert_int_equal(offcpu_follow(s, (uint32_t)syscall(SYS_gettid), &slot, &e), 0);
	return slot;
}

/* Each takes the thread off its CPU. */
static void waits(int n)
{
	for (int i = 0; i < n; i++)
		ppoll(NULL, 0, &(struct timespec){ .tv_nsec = 100000 }, NULL);
}

static void a_thread_that_waits_is_off_its_cpu_for_as_long(void **state)
{
	struct offcpu *s = open_or_skip();
	uint32_t slot = follow_me(s);
	int64_t before = now(), least = 0, last = 0, waited = 0;
	for (int i = 0; i < 20; i++) {
		int64_t t = now();
		ppoll(NULL, 0, &(struct timespec){ .tv_nsec = 2000000 }, NULL);
		waited += now() - t;
	}
	int64_t after = now(), off = 0;
	struct offcpu_interval x;
	bool lost;
	while (offcpu_next(s, slot, &x, &lost)) {
		assert_false(lost);
		assert_true(x.out >= before && x.out >= last && x.in >= x.out && x.in <= after);
		last = x.in;
		off += x.in - x.out;
		least += x.in - x.out >= 1900000;
	}
	assert_int_equal(least, 20);
	assert_true(off <= after - before && waited - off < waited / 2);
	offcpu_close(s);
}

static void who_is_not_followed_is_not_noted(void **state)
{
	struct offcpu *s = open_or_skip();
	struct offcpu_interval x;
	bool lost;
	uint32_t slot = follow_me(s), again;
	waits(5);
	assert_true(offcpu_next(s, slot, &x, &lost));
	offcpu_forget(s, slot);
	waits(5);
	again = follow_me(s);
	assert_int_equal(again, slot);
	int64_t since = now();
	assert_false(offcpu_next(s, again, &x, &lost) && x.out < since);
	waits(5);
	assert_true(offcpu_next(s, again, &x, &lost) && x.in > since);
	offcpu_close(s);
}

static void what_was_not_fetched_in_time_is_said_to_be_lost(void **state)
{
	struct offcpu *s = open_or_skip();
	struct offcpu_interval x;
	bool lost, any = false;
	uint32_t slot = follow_me(s), n = 0;
	waits(2 * OFFCPU_KEPT);
	for (int64_t last = 0; n < OFFCPU_KEPT && offcpu_next(s, slot, &x, &lost); n++) {
		assert_true(n ? x.out >= last : lost);
		any |= lost;
		last = x.in;
	}
	assert_true(any && n >= OFFCPU_KEPT / 2);
	offcpu_close(s);
}

static void more_threads_than_there_is_room_for_are_refused(void **state)
{
	struct offcpu *s = open_or_skip();
	struct err e = { 0 };
	uint32_t slot, first;
	assert_int_equal(offcpu_follow(s, 70000, &first, &e), 0);
	assert_int_equal(offcpu_follow(s, 70000 + 65536, &slot, &e), KLIEG_E_LIMIT); /* another's place in the table */
	for (uint32_t i = 1; i < OFFCPU_THREADS; i++)
		assert_int_equal(offcpu_follow(s, 70000 + i, &slot, &e), 0);
	assert_int_equal(offcpu_follow(s, 1, &slot, &e), KLIEG_E_LIMIT);
	offcpu_forget(s, first);
	assert_int_equal(offcpu_follow(s, 70000 + 65536, &slot, &e), 0);
	offcpu_close(s);
}

static void types_that_are_cut_short_or_mixed_up_are_refused(void **state)
{
	struct btf_query q = { .tracepoint = "sched_switch", .type = "task_struct", .member = "pid" }, none = q;
	struct err e = { 0 };
	struct buf b = { 0 };
	if (buf_read_file("/sys/kernel/btf/vmlinux", 64 << 20, &b) < 0)
		skip();
	assert_int_equal(btf_ask_in(b.p, b.n, &q, &e), 0);
	assert_true(q.tracepoint_id > 0 && q.offset > 0);
	none.member = "no_such_member";
	assert_int_equal(btf_ask_in(b.p, b.n, &none, &e), KLIEG_E_UNSUPPORTED);
	assert_non_null(strstr(e.msg, "no_such_member"));
	for (size_t cut = 0; cut < b.n; cut += cut < 64 ? 1 : b.n / 37) {
		uint8_t *part = malloc(cut + 1); /* of its own, so that what is read behind its end is seen */
		memcpy(part, b.p, cut);
		assert_true(btf_ask_in(part, cut, &none, &e) < 0);
		free(part);
	}
	srand(1);
	for (int i = 0; i < 20; i++) {
		for (int k = 0; k < 50; k++)
			b.p[24 + (size_t)rand() % (b.n - 24)] ^= (uint8_t)(1 + rand() % 255);
		btf_ask_in(b.p, b.n, &none, &e);
	}
	buf_finish(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_thread_that_waits_is_off_its_cpu_for_as_long),
		cmocka_unit_test(who_is_not_followed_is_not_noted),
		cmocka_unit_test(what_was_not_fetched_in_time_is_said_to_be_lost),
		cmocka_unit_test(more_threads_than_there_is_room_for_are_refused),
		cmocka_unit_test(types_that_are_cut_short_or_mixed_up_are_refused),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
