/* src/server/merge.c: what several agents answered, as one answer; and whatever they answer instead, it is joined without harm. */
#include "server/merge.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static json_t *doc(const char *text)
{
	json_error_t e;
	json_t *j = json_loads(text, 0, &e);
	if (!j)
		fail_msg("%s: %s", text, e.text);
	return j;
}

static void expect(const char *method, const char *params, const char *a, const char *b, const char *want)
{
	json_t *x = doc(a), *y = doc(b), *p = params ? doc(params) : NULL, *w = doc(want);
	struct merge_part parts[] = { { "north", x }, { "south", y } };
	json_t *got = merge_answers(method, p, parts, 2);
	char *text = json_dumps(got, JSON_SORT_KEYS), *wanted = json_dumps(w, JSON_SORT_KEYS);
	assert_string_equal(text, wanted);
	free(text), free(wanted);
	json_decref(x), json_decref(y), json_decref(p), json_decref(w), json_decref(got);
}

static void counts_are_added_and_rows_say_their_host(void **state)
{
	expect("account", NULL, "{\"made\":5,\"passed\":3,\"open\":1,\"dropped\":{\"depth\":1},\"processes\":[{\"pid\":7}]}",
		"{\"made\":9,\"passed\":4,\"open\":0,\"dropped\":{\"depth\":2,\"where\":3},\"processes\":[{\"pid\":7}]}",
		"{\"made\":14,\"passed\":7,\"open\":1,\"dropped\":{\"depth\":3,\"where\":3},\"processes\":[{\"pid\":7,\"host\":\"north\"},{\"pid\":7,\"host\":\"south\"}]}");
	expect("ps", NULL, "{\"processes\":[],\"agent\":{\"cpu_percent\":3.5},\"generation\":8}", "{\"processes\":[{\"pid\":1}],\"agent\":{\"cpu_percent\":2.0},\"generation\":7}",
		"{\"processes\":[{\"pid\":1,\"host\":\"south\"}],\"agent\":{\"cpu_percent\":3.5},\"generation\":7}");
}

static void a_rule_is_one_row_and_what_is_unknown_of_one_is_unknown(void **state)
{
	expect("toggles", NULL,
		"{\"toggles\":[{\"id\":\"t\",\"sites\":3,\"instances\":3,\"predicted\":{\"known\":true,\"calls_per_s\":1.5,\"cpu_percent\":0.5,\"basis\":\"measured 1 s\"}}]}",
		"{\"toggles\":[{\"id\":\"t\",\"sites\":2,\"instances\":4,\"predicted\":{\"known\":false,\"calls_per_s\":2.5,\"cpu_percent\":0.75,\"basis\":\"unknown\"}},{\"id\":\"u\"}]}",
		"{\"toggles\":[{\"id\":\"t\",\"sites\":3,\"instances\":7,\"predicted\":{\"known\":false,\"calls_per_s\":4.0,\"cpu_percent\":0.75,\"basis\":\"unknown\"}},{\"id\":\"u\"}]}");
}

static void a_site_of_a_service_is_one_row_and_pages_are_cut_from_all(void **state)
{
	const char *a = "{\"sites\":[{\"id\":\"1\",\"service\":\"s\",\"level\":\"off\",\"instances\":1,\"pids\":[5]},{\"id\":\"2\",\"service\":\"s\",\"level\":\"off\",\"instances\":1,\"pids\":[5]}],"
		"\"matched\":2,\"instances\":2,\"processes\":1}";
	const char *b = "{\"sites\":[{\"id\":\"1\",\"service\":\"s\",\"level\":\"span\",\"instances\":2,\"pids\":[6]},{\"id\":\"1\",\"service\":\"t\",\"level\":\"off\",\"instances\":1,\"pids\":[9]}],"
		"\"matched\":2,\"instances\":3,\"processes\":2}";
	expect("ls", "{\"offset\":0,\"limit\":1}", a, b,
		"{\"sites\":[{\"id\":\"1\",\"service\":\"s\",\"level\":\"span\",\"instances\":3,\"pids\":[5,6],\"hosts\":[\"north\",\"south\"]}],\"matched\":3,\"instances\":5,\"processes\":3}");
	expect("ls", "{\"offset\":2,\"limit\":5}", a, b,
		"{\"sites\":[{\"id\":\"1\",\"service\":\"t\",\"level\":\"off\",\"instances\":1,\"pids\":[9],\"hosts\":[\"south\"]}],\"matched\":3,\"instances\":5,\"processes\":3}");
}

static void of_each_check_the_worst_is_shown(void **state)
{
	expect("health", NULL, "{\"clock\":{\"ok\":true,\"value\":9},\"queue\":{\"ok\":false,\"value\":1}}", "{\"clock\":{\"ok\":false,\"value\":3},\"queue\":{\"ok\":true,\"value\":2}}",
		"{\"clock\":{\"ok\":false,\"value\":3,\"host\":\"south\"},\"queue\":{\"ok\":false,\"value\":1,\"host\":\"north\"}}");
}

/* An agent may answer anything: members of every type where any other is expected. */
static uint64_t seed = 88172645463325252ull;
static unsigned below(unsigned n)
{
	seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
	return (unsigned)(seed % n);
}
static json_t *anything(int depth)
{
	static const char *const keys[] = { "processes", "sites", "rules", "toggles", "dropped", "agent", "predicted", "made", "known", "warnings", "warning", "changes", "id", "hosts",
		"pids", "service", "instances", "basis", "host", "matched", "cpu_percent", "level", "clock", "ok", "value", "spans", "percent" };
	switch (below(depth ? 9 : 6)) {
	case 0: return json_integer((json_int_t)below(1000) - 500);
	case 1: return json_real(below(100) / 7.);
	case 2: return json_string(keys[below(sizeof keys / sizeof *keys)]);
	case 3: return json_boolean(below(2));
	case 4: return json_null();
	case 5: return json_integer(INT64_MAX);
	case 6: {
		json_t *a = json_array();
		for (unsigned n = below(4); n--;)
			json_array_append_new(a, anything(depth - 1));
		return a;
	}
	default: {
		json_t *o = json_object();
		for (unsigned n = below(12); n--;)
			json_object_set_new(o, keys[below(sizeof keys / sizeof *keys)], anything(depth - 1));
		return o;
	}
	}
}
static void whatever_agents_answer_is_joined(void **state)
{
	static const char *const methods[] = { "ps", "ls", "on", "off", "sync", "change", "toggles", "stats", "inflight", "account", "candidates", "vitals", "overhead", "health", "detach" };
	for (int round = 0; round < 40000; round++) {
		struct merge_part p[3] = { { "a", NULL }, { "b", NULL }, { "c", NULL } };
		json_t *made[3];
		unsigned n = 1 + below(3);
		for (unsigned i = 0; i < n; i++) {
			for (made[i] = anything(4); !json_is_object(made[i]); made[i] = anything(4))
				json_decref(made[i]);
			p[i].result = made[i];
		}
		json_t *got = merge_answers(methods[below(sizeof methods / sizeof *methods)], NULL, p, n);
		assert_true(json_is_object(got));
		json_decref(got);
		for (unsigned i = 0; i < n; i++)
			json_decref(made[i]);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(counts_are_added_and_rows_say_their_host), cmocka_unit_test(a_rule_is_one_row_and_what_is_unknown_of_one_is_unknown),
		cmocka_unit_test(a_site_of_a_service_is_one_row_and_pages_are_cut_from_all), cmocka_unit_test(of_each_check_the_worst_is_shown),
		cmocka_unit_test(whatever_agents_answer_is_joined),
	};
	return cmocka_run_group_tests_name("merge", tests, NULL, NULL);
}
