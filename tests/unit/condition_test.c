/* Conditions on arguments: what they mean, and what is said of those that mean nothing. */
#include "agent/state.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

static void conditions_become_steps(void **state)
{
	struct condition *c;
	struct err e = { 0 };
	struct kw_where w[KW_HOOK_WHERE];
	uint8_t n = 0;
	assert_int_equal(condition_parse("arg.2 > 4096 && !(arg.1 == 0x10 || arg.3 <= -1)", &c, &e), 0);
	assert_true(condition_compile(c, NULL, w, &n, &e));
	const uint8_t ops[] = { KW_WHERE_GT, KW_WHERE_EQ, KW_WHERE_LE, KW_WHERE_OR, KW_WHERE_NOT, KW_WHERE_AND };
	assert_int_equal(n, sizeof ops);
	for (unsigned i = 0; i < n; i++)
		assert_int_equal(w[i].op, ops[i]);
	assert_int_equal(w[0].arg.at, 1); /* rsi */
	assert_true(w[0].value == 4096 && w[1].value == 16 && w[2].value == -1);
	condition_destroy(c);
}

static void names_and_types_come_from_debug_information(void **state)
{
	struct condition *c;
	struct err e = { 0 };
	struct kw_where w[KW_HOOK_WHERE];
	uint8_t n = 0;
	struct symbols_signature sig = { .known = true, .n = 3, .args = { { .name = "x", .is_float = true, .reg = -1, .size = 8 },
		{ .name = "len", .reg = 0, .size = 4, .is_signed = true }, { .name = "far", .reg = -1, .stack = 2, .size = 8 } } };
	assert_int_equal(condition_parse("{ arg.len < -5 && arg.far != 1 }", &c, &e), 0);
	assert_true(condition_compile(c, &sig, w, &n, &e));
	assert_int_equal(w[0].arg.at, 0);
	assert_int_equal(w[0].arg.kind, KW_ARG_INT);
	assert_int_equal(w[0].arg.size, 4);
	assert_int_equal(w[1].arg.at, 18);
	assert_false(condition_compile(c, NULL, w, &n, &e)); /* without it nobody knows which that is */
	assert_non_null(strstr(e.msg, "debug information"));
	condition_destroy(c);
	const char *not_here[] = { "arg.width == 1", "arg.4 == 1", "arg.x == 1", "arg.0 == 1" };
	for (unsigned i = 0; i < 4; i++) {
		assert_int_equal(condition_parse(not_here[i], &c, &e), 0);
		assert_false(condition_compile(c, &sig, w, &n, &e));
		condition_destroy(c);
	}
}

static void mistakes_have_a_column(void **state)
{
	const struct { const char *text; int column; } wrong[] = { { "arg.1", 6 }, { "arg.1 >", 8 }, { "arg. > 1", 1 }, { "arg.1 > 1 arg.2 > 1", 11 }, { "(arg.1 > 1", 11 },
		{ "arg.1 ~ 3", 7 }, { "ret > 1", 1 }, { "arg.1 > 99999999999999999999", 9 }, { "{ arg.1 > 1", 12 }, { "", 1 },
		{ "((((((((((((((((((((arg.1 > 1))))))))))))))))))))", 17 },
		{ "arg.1>1&&arg.1>1&&arg.1>1&&arg.1>1&&arg.1>1", 44 } };
	for (unsigned i = 0; i < sizeof wrong / sizeof *wrong; i++) {
		struct condition *c = NULL;
		struct err e = { 0 };
		char column[32];
		assert_true(condition_parse(wrong[i].text, &c, &e) < 0);
		snprintf(column, sizeof column, "column %d:", wrong[i].column);
		if (!strstr(e.msg, column))
			fail_msg("%s: %s", wrong[i].text, e.msg);
		assert_true(e.hint[0]);
	}
}

static void what_is_about_arguments(void **state)
{
	assert_true(condition_is("arg.2 > 4096"));
	assert_true(condition_is("{ !(arg.len == 0) }"));
	assert_false(condition_is("{ .arg.x = 1 }")); /* an attribute */
	assert_false(condition_is("{ span.target.id = 1 }"));
	assert_false(condition_is("{ duration > 1ms }"));
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(conditions_become_steps), cmocka_unit_test(names_and_types_come_from_debug_information),
		cmocka_unit_test(mistakes_have_a_column), cmocka_unit_test(what_is_about_arguments) };
	return cmocka_run_group_tests(tests, NULL, NULL);
}
