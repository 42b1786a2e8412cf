/* The essence of the probes without a test framework: for a foreign architecture under an emulator, and for sites that load and branch. */
#define PROBE_HARNESS_PLAIN
#define KLIEG_COMPONENT "plain"
#include "klieg/klieg.h"
#include "probe_harness.h"
#include <pthread.h>
#include <sys/syscall.h>

static int evaluated;
static int expensive(void) { return ++evaluated; }
__attribute__((noinline)) static void inner(void) { KLIEG_SPAN("inner", KLIEG_INT("n", expensive()), KLIEG_STR("s", "text")); KLIEG_COUNT("bytes", 7); }
__attribute__((noinline)) static void outer(void)
{
	KLIEG_SPAN_AS(s, "outer");
	inner();
	KLIEG_EVENT("tick");
	KLIEG_ERROR(s, "bad");
}
static klieg_span handed;
static void *end_it(void *arg) { KLIEG_END(handed, "handed"); return arg; }

static int types[16];
static void read_all(void)
{
	static struct any_record r;
	memset(types, 0, sizeof types);
	for (uint32_t i = 0; i < __atomic_load_n(&H.c->threads_hint, __ATOMIC_ACQUIRE); i++)
		while (next_record((struct kw_thread *)((uint8_t *)H.r + H.r->threads_off + i * H.r->thread_stride), &r))
			types[r.r.type & 15]++;
}

int main(void)
{
	harness_find();
	assert_int_equal(H.modules[0].nsites, 6);
	outer();
	read_all();
	assert_int_equal(evaluated + types[KW_REC_SPAN], 0);
	switch_site("inner", KW_DETAIL);
	switch_site("outer", KW_SPAN);
	switch_site("tick", KW_SPAN);
	switch_site("bytes", KW_COUNT);
	for (int i = 0; i < 1000; i++) {
		outer();
		read_all();
		assert_true(types[KW_REC_SPAN] == 2 && types[KW_REC_ATTR] == 1 && types[KW_REC_EVENT] == 1 && types[KW_REC_CTX] == 1 && types[KW_REC_STATUS] == 1);
	}
	assert_int_equal(evaluated, 1000);
	switch_site("inner", KW_OFF);
	switch_site("outer", KW_OFF);
	switch_site("handed", KW_SPAN);
	KLIEG_BEGIN(handed, "handed");
	pthread_t t;
	pthread_create(&t, NULL, end_it, NULL);
	pthread_join(t, NULL);
	read_all();
	assert_int_equal(types[KW_REC_SPANX], 1);
	return 0;
}
