/* A plugin is tried out in a child before it comes near a program: what is wrong with each bad one, in words; the good ones pass; nothing is left behind. */
#include "agent/plugins.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

static char here[3000];
static int check(const char *name, char text[256])
{
	char path[4096];
	snprintf(path, sizeof path, "%s/%s.so", here, name);
	return plugin_check(path, text);
}

static void bad(void **state)
{
	static const struct { int bad; const char *says; } cases[] = { { 1, "crashed in its trial: Segmentation fault" }, { 3, "exit status 7" }, { 4, "built for plugin ABI 99" },
		{ 5, "hook 0 of 3 cannot be read" }, { 6, "hook 1: the function's name is missing" }, { 7, "its name is none" }, { 8, "has 16 bytes" },
		{ 9, "no function klieg_plugin" }, { 10, "cannot work with this Klieg" }, { 11, "crashed in its trial" } };
	char name[32], text[256];
	(void)state;
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		snprintf(name, sizeof name, "plugin_bad%d", cases[i].bad);
		text[0] = 0;
		assert_true(check(name, text) < 0);
		if (!strstr(text, cases[i].says))
			fail_msg("%s: \"%s\" does not say \"%s\"", name, text, cases[i].says);
	}
	assert_true(check("no_such_file", text) < 0);
	assert_non_null(strstr(text, "cannot be loaded"));
	assert_int_equal(waitpid(-1, NULL, WNOHANG), -1); /* no child left */
}

static void hangs(void **state)
{
	char text[256];
	(void)state;
	assert_true(check("plugin_bad2", text) < 0);
	assert_non_null(strstr(text, "did not finish loading"));
	assert_int_equal(waitpid(-1, NULL, WNOHANG), -1);
}

static void good(void **state)
{
	static const char *const names[] = { "curl", "dns", "hiredis", "io", "locks", "malloc", "memcached", "microhttpd", "nginx", "openssl", "postgres", "pq", "redis-server", "sqlite" };
	char text[256] = "";
	(void)state;
	for (size_t i = 0; i < sizeof names / sizeof *names; i++)
		if (check(names[i], text) < 0)
			fail_msg("%s: %s", names[i], text);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(bad), cmocka_unit_test(hangs), cmocka_unit_test(good) };
	ssize_t n = readlink("/proc/self/exe", here, sizeof here - 1);
	if (n <= 0)
		return 1;
	here[n] = 0;
	*strrchr(here, '/') = 0;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
