// The probes in C++: inline functions, templates, lambdas, methods, exceptions through spans. Every use is a site of its own, and an
// instance of a template is one too.
#define _Static_assert static_assert
#define KLIEG_COMPONENT "cpp"
#include "klieg/klieg.h"
#include "probe_harness.h"
#include <stdexcept>
#include <string>
#include <sys/syscall.h>

static int evaluated;
static long expensive() { return ++evaluated; }

template <class T> T twice(T x)
{
	KLIEG_SPAN("twice", KLIEG_INT("x", expensive()));
	if (x < T(0))
		throw std::runtime_error("negative");
	return x + x;
}
inline int inlined(int x)
{
	KLIEG_SPAN_AS(s, "inlined");
	KLIEG_SET(s, KLIEG_STR("text", std::string("t").c_str()), KLIEG_DOUBLE("d", 1.5));
	KLIEG_EVENT("seen", KLIEG_BOOL("yes", true));
	KLIEG_COUNT("things", x);
	return x;
}
namespace shop {
struct Cart {
	int n = 0;
	Cart() { KLIEG_SPAN("cart.new"); }
	~Cart() { KLIEG_SPAN("cart.gone"); }
	void add() { KLIEG_SPAN_AS(s, "cart.add", KLIEG_INT("n", n)); n++; KLIEG_OK(s); }
	void begin() { KLIEG_BEGIN(open, "cart.checkout"); }
	void end() { KLIEG_END(open, "cart.checkout"); }
	klieg_span open;
};
}

static struct kw_thread *me() { return slot_of(unsigned(syscall(SYS_gettid))); }
static void count_one(const struct kw_site *, uint32_t, void *n) { ++*static_cast<int *>(n); }
static int records(int type)
{
	static struct any_record r;
	int n = 0;
	while (me() && next_record(me(), &r))
		n += r.r.type == type;
	return n;
}

static void every_instance_is_a_site(void **)
{
	int n = 0;
	sites_named("twice", count_one, &n);
	assert_true(n >= 3); // int, long, double; an optimizer that inlines or copies makes more places of the same site
	n = 0;
	sites_named("inlined", count_one, &n);
	assert_true(n >= 1);
}

static void off_is_off(void **)
{
	assert_int_equal(twice(1) + int(twice(1L)) + int(twice(1.0)), 6);
	shop::Cart c;
	c.add();
	assert_int_equal(evaluated, 0);
	assert_int_equal(records(KW_REC_SPAN), 0);
}

static void instances_record_each_for_itself(void **)
{
	switch_site("twice", KW_DETAIL);
	twice(1), twice(1L), twice(1.0);
	assert_int_equal(evaluated, 3);
	assert_int_equal(records(KW_REC_SPAN), 3);
	switch_site("twice", KW_OFF);
}

static void an_exception_ends_the_spans_it_passes(void **)
{
	switch_site("twice", KW_SPAN);
	switch_site("inlined", KW_SPAN);
	uint64_t abandoned = me()->abandoned;
	for (int i = 0; i < 10; i++)
		try {
			KLIEG_SPAN("around");
			inlined(i);
			twice(-1);
			fail();
		} catch (const std::runtime_error &) {
		}
	assert_int_equal(records(KW_REC_SPAN), 20);
	assert_int_equal(me()->depth, 0);
	assert_int_equal(me()->abandoned, abandoned);
	switch_site("twice", KW_OFF);
	switch_site("inlined", KW_OFF);
}

static void lambdas_methods_and_destructors(void **)
{
	auto f = [](int x) { KLIEG_SPAN("lambda", KLIEG_INT("x", x)); return x; };
	auto g = [](auto x) { KLIEG_SPAN("generic"); return x; };
	for (const char *name : { "lambda", "generic", "cart.new", "cart.gone", "cart.add", "cart.checkout" })
		switch_site(name, KW_DETAIL);
	{
		shop::Cart c;
		c.add();
		c.begin();
		f(1), g(2), g(2.0);
		c.end();
	}
	assert_int_equal(records(KW_REC_SPAN), 7);
	assert_int_equal(me()->depth, 0);
}

int main()
{
	harness_find();
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_instance_is_a_site), cmocka_unit_test(off_is_off), cmocka_unit_test(instances_record_each_for_itself),
		cmocka_unit_test(an_exception_ends_the_spans_it_passes), cmocka_unit_test(lambdas_methods_and_destructors),
	};
	return cmocka_run_group_tests(tests, nullptr, nullptr);
}
