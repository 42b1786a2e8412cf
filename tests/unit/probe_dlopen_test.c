/* A plugin is loaded, switched on from outside, used by threads and unloaded, a thousand times: entries of the module tables are used
 * again, site indices never, and whatever cannot be registered any more is counted. */
#define KLIEG_COMPONENT "host"
#include "klieg/klieg.h"
#include "probe_harness.h"
#include <dlfcn.h>
#include <pthread.h>

static const char *plugin_path;
typedef int work_fn(int);
enum { CYCLES = 1000, THREADS = 2, CALLS = 20 };
static pthread_barrier_t turn;
static work_fn *work;
static bool over;

static void *caller(void *arg)
{
	for (;;) {
		pthread_barrier_wait(&turn);
		if (over)
			return arg;
		for (int i = 0; i < CALLS; i++)
			work(i);
		pthread_barrier_wait(&turn);
	}
}

static uint64_t spans(void)
{
	static struct any_record r;
	uint64_t n = 0;
	for (uint32_t i = 0; i < __atomic_load_n(&H.c->threads_hint, __ATOMIC_ACQUIRE); i++)
		while (next_record((struct kw_thread *)((uint8_t *)H.r + H.r->threads_off + i * H.r->thread_stride), &r))
			n += r.r.type == KW_REC_SPAN;
	return n;
}

static void a_plugin_comes_and_goes(void **state)
{
	(void)state;
	{ KLIEG_SPAN("host"); }
	harness_find();
	pthread_t t[THREADS];
	pthread_barrier_init(&turn, NULL, THREADS + 1);
	for (int i = 0; i < THREADS; i++)
		pthread_create(&t[i], NULL, caller, NULL);
	uint32_t first_index = H.c->sites_n;
	for (int c = 0; c < CYCLES; c++) {
		void *so = dlopen(plugin_path, RTLD_NOW | RTLD_LOCAL);
		if (!so)
			fail_msg("%s", dlerror());
		*(void **)&work = dlsym(so, "plugin_work");
		assert_non_null(work);
		unsigned level = c % 3 == 0 ? KW_OFF : c % 3 == 1 ? KW_SPAN : KW_DETAIL;
		assert_int_equal(sites_named("plugin.work", NULL, NULL), 1);
		if (level)
			switch_site("plugin.work", level);
		pthread_barrier_wait(&turn);
		if (c % 5 == 4 && level) /* while they run */
			switch_site("plugin.work", level);
		pthread_barrier_wait(&turn);
		assert_int_equal(spans(), level ? THREADS * CALLS : 0);
		dlclose(so);
		assert_int_equal(sites_named("plugin.work", NULL, NULL), 0);
		for (uint32_t i = 0; i < H.c->sites_n; i++)
			H.states[i].level = 0;
	}
	over = true;
	pthread_barrier_wait(&turn);
	for (int i = 0; i < THREADS; i++)
		pthread_join(t[i], NULL);
	assert_true(H.c->modules_n <= 3);
	assert_int_equal(H.c->sites_n, first_index + 2 * CYCLES);
	assert_int_equal(H.c->lost_no_site, 0);
}

static void sites_without_an_index_are_counted_and_inert(void **state)
{
	(void)state;
	uint32_t was = H.c->sites_n;
	H.c->sites_n = KW_MAX_SITES - 1;
	void *so = dlopen(plugin_path, RTLD_NOW | RTLD_LOCAL);
	assert_non_null(so);
	*(void **)&work = dlsym(so, "plugin_work");
	assert_int_equal(work(1), 2);
	assert_int_equal(H.c->lost_no_site, 2);
	dlclose(so);
	H.c->sites_n = was;
}

int main(int argc, char **argv)
{
	if (argc < 2)
		return 77;
	plugin_path = argv[1];
	const struct CMUnitTest tests[] = { cmocka_unit_test(a_plugin_comes_and_goes), cmocka_unit_test(sites_without_an_index_are_counted_and_inert) };
	return cmocka_run_group_tests(tests, NULL, NULL);
}
