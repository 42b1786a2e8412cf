/* The agent's parts that need no process: the ring's reader against good and hostile rings, the clock, value masks, region headers. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include "agent/state.h"
#include <stdlib.h>

static uint8_t ring[4096];
static struct ring_reader reader(uint64_t tail, uint64_t head)
{
	return (struct ring_reader){ .data = ring, .bytes = sizeof ring, .nsites = 4, .head = head, .tail = tail };
}
static void put(uint64_t at, uint8_t type, uint8_t units, uint32_t site)
{
	struct kw_rec r = { site, type, units, 0 };
	memset(ring + (at & 4095), 0, units * KW_UNIT < 4096 - (at & 4095) ? units * KW_UNIT : 8);
	memcpy(ring + (at & 4095), &r, sizeof r);
}

static void ring_wrap(void **state)
{
	(void)state;
	struct ring_rec rec;
	put(4096 - 32, KW_REC_PAD, 1, 0);
	put(4096, KW_REC_SPAN, 1, 3);
	struct ring_reader r = reader(4096 - 32, 4096 + 32);
	assert_int_equal(ring_next(&r, &rec), 1);
	assert_int_equal(rec.r.site, 3);
	assert_int_equal(ring_next(&r, &rec), 0);
	assert_int_equal(r.tail, r.head);
}

static void ring_hostile(void **state)
{
	(void)state;
	static const struct { uint8_t type, units; uint32_t site; uint64_t tail, head; } bad[] = {
		{ 99, 1, 0, 0, 32 }, { KW_REC_SPAN, 0, 0, 0, 32 }, { KW_REC_SPAN, 2, 0, 0, 32 }, { KW_REC_SPAN, 1, 4, 0, 32 }, { KW_REC_SPANX, 1, 0, 0, 64 },
		{ KW_REC_SPAN, 1, 0, 32, 0 }, { KW_REC_SPAN, 1, 0, 0, 1u << 20 }, { KW_REC_SPAN, 1, 0, 0, 33 }, { KW_REC_SPAN, 2, 0, 4064, 4128 },
		{ KW_REC_PAD, 1, 0, 0, 32 }, { KW_REC_EVENT, 255, 0, 0, 64 },
	};
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
		struct ring_rec rec;
		put(bad[i].tail, bad[i].type, bad[i].units, bad[i].site);
		struct ring_reader r = reader(bad[i].tail, bad[i].head);
		assert_int_equal(ring_next(&r, &rec), -1);
		assert_true(r.skipped > 0);
		assert_int_equal(ring_next(&r, &rec), 0); /* goes on at the head */
	}
}

static void ring_attributes(void **state)
{
	(void)state;
	struct ring_rec rec = { .r = { 0, KW_REC_ATTR, 3, 2 << KW_REC_NATTR_SHIFT } };
	struct kw_attr a = { 5, 0, KW_STR, 0 };
	memcpy(rec.bytes + 32, &a, 8);
	memcpy(rec.bytes + 40, "hello", 5);
	a = (struct kw_attr){ 2 + 8, KW_ATTR_NAMED, KW_INT, 0 };
	int64_t v = -7;
	memcpy(rec.bytes + 48, &a, 8);
	memcpy(rec.bytes + 56, "n", 2);
	memcpy(rec.bytes + 58, &v, 8);
	uint32_t off = 0;
	struct ring_attr x;
	bool is_bad;
	assert_true(ring_attr(&rec, &off, &x, &is_bad));
	assert_int_equal(x.len, 5);
	assert_memory_equal(x.value, "hello", 5);
	assert_true(ring_attr(&rec, &off, &x, &is_bad));
	assert_int_equal(x.name_len, 1);
	assert_int_equal(x.len, 8);
	assert_memory_equal(x.value, &v, 8);
	a = (struct kw_attr){ 500, 0, KW_STR, 0 }; /* longer than its record */
	memcpy(rec.bytes + 32, &a, 8);
	off = 0;
	assert_false(ring_attr(&rec, &off, &x, &is_bad));
	assert_true(is_bad);
}

static void clock_slews_small_errors_and_follows_jumps(void **state)
{
	(void)state;
	struct clock_map m = { .tsc = 1000, .ns = 0, .rate_tsc = 1000, .rate_ns = 0, .rate = .5, .ns_per_tick = .5 };
	int64_t before = clock_map_ns(&m, 2000001000);
	assert_int_equal(before, 1000000000);
	clock_map_fit_at(&m, 2000001000, 1000005000, 1000000000); /* the wall clock is 5 us ahead */
	assert_int_equal(clock_map_ns(&m, 2000001000), before);   /* no step */
	assert_true(llabs(clock_map_ns(&m, 4000001000) - 2000005000) <= 1000); /* gone a second later */
	clock_map_fit_at(&m, 4000001000, 9000000000, 2000000000);
	assert_int_equal(m.jumps, 1);
	assert_int_equal(clock_map_ns(&m, 4000001000), 9000000000);
}

static void masks(void **state)
{
	(void)state;
	static const char *const t[][2] = {
		{ "card 4111 1111 1111 1111 ok", "card <masked:card> ok" }, { "order 4111111111111112", NULL }, { "mail bob.x@example.com!", "mail <masked:email>!" },
		{ "Authorization: Bearer abcdef0123456789", "Authorization: <masked:token>" }, { "plain text 12 at 3@4", NULL }, { "", NULL }, { "@", NULL },
		{ "a@b.co and 5500005555555559", "<masked:email> and <masked:card>" },
	};
	for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
		struct buf b = { 0 };
		bool any = mask_text(str_of(t[i][0]), &b);
		assert_int_equal(any, t[i][1] != NULL);
		if (any) {
			buf_byte(&b, 0);
			assert_string_equal((char *)b.p, t[i][1]);
		}
		buf_finish(&b);
	}
}

static void region_headers(void **state)
{
	(void)state;
	struct kw_region good = { .magic = KW_MAGIC, .version = KW_VERSION, .header_bytes = sizeof good, .max_modules = 4, .max_sites = 64, .max_threads = 2,
		.control_off = 4096, .modules_off = 8192, .sites_off = 12288, .threads_off = 16384, .thread_stride = 16384, .ring_off = 4096, .ring_bytes = 4096,
		.cell_count = 0 };
	good.region_bytes = 16384 + 2 * 16384;
	assert_true(kw_region_valid(&good, good.region_bytes));
	assert_false(kw_region_valid(&good, good.region_bytes - 1));
	struct kw_region r = good;
	r.ring_bytes = 4095;
	assert_false(kw_region_valid(&r, r.region_bytes));
	r = good;
	r.threads_off = UINT64_MAX & ~63ull;
	assert_false(kw_region_valid(&r, r.region_bytes));
	r = good;
	r.thread_stride = 1ull << 63;
	assert_false(kw_region_valid(&r, r.region_bytes));
	r = good;
	r.max_sites = UINT32_MAX;
	assert_false(kw_region_valid(&r, r.region_bytes));
	r = good;
	r.requests_off = r.threads_off - 64; /* the agent writes there */
	assert_false(kw_region_valid(&r, r.region_bytes));
	r = good;
	r.ring_off = 16384 - 64;
	assert_false(kw_region_valid(&r, r.region_bytes));
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(ring_wrap), cmocka_unit_test(ring_hostile), cmocka_unit_test(ring_attributes),
		cmocka_unit_test(clock_slews_small_errors_and_follows_jumps), cmocka_unit_test(masks), cmocka_unit_test(region_headers) };
	return cmocka_run_group_tests(tests, NULL, NULL);
}
