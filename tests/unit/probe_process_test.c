/* libklieg in processes that do what processes do: die, exec, spawn, fork with threads, run under limits and signal storms, and are patched
 * by another process while they run. The parent plays the agent: it maps the child's region through /proc/PID/fd and writes its sites
 * through /proc/PID/mem. A forked child has our addresses, so its descriptors can be read here. */
#define KLIEG_COMPONENT "process"
#include "klieg/klieg.h"
#include "probe_harness.h"
#include <dirent.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>

extern char **environ;
static int *stop; /* shared with children */

__attribute__((noinline)) static void inner(void) { KLIEG_SPAN("inner", KLIEG_INT("n", 1), KLIEG_STR("s", "some text")); }
__attribute__((noinline)) static void outer(void) { KLIEG_SPAN("outer"); inner(); KLIEG_EVENT("tick"); }
static void *hammer(void *arg)
{
	while (!__atomic_load_n(stop, __ATOMIC_RELAXED))
		outer();
	return arg;
}
static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* ---- the account, over all slots of H ---- */

struct account { uint64_t spans, seq, lost, abandoned, open; };
static struct kw_thread *slot(uint32_t i) { return (struct kw_thread *)((uint8_t *)H.r + H.r->threads_off + i * H.r->thread_stride); }
static uint64_t drain(void)
{
	static struct any_record r;
	uint64_t n = 0;
	for (uint32_t i = 0; i < __atomic_load_n(&H.c->threads_hint, __ATOMIC_ACQUIRE); i++)
		while (next_record(slot(i), &r)) {
			assert_in_range(r.r.type, KW_REC_CTX, KW_REC_STATUS);
			assert_true(r.r.type == KW_REC_CTX || r.r.site < H.c->sites_n);
			n += r.r.type == KW_REC_SPAN || r.r.type == KW_REC_SPANX;
		}
	return n;
}
static struct account account(void)
{
	struct account a = { .spans = drain() };
	for (uint32_t i = 0; i < __atomic_load_n(&H.c->threads_hint, __ATOMIC_ACQUIRE); i++) {
		struct kw_thread *t = slot(i);
		a.seq += t->seq;
		a.lost += t->lost_full + t->lost_depth;
		a.abandoned += t->abandoned;
		for (uint32_t k = 0; k < t->depth; k++)
			a.open += t->open[k].seq && !(t->open[k].flags & (7u << 16)); /* not: count, unsampled, ended */
	}
	return a;
}
static void account_closes(struct account from, uint64_t drained)
{
	struct account a = account();
	assert_int_equal(a.seq - from.seq + from.open, drained + a.spans + (a.lost - from.lost) + (a.abandoned - from.abandoned) + a.open);
}

/* ---- another process ---- */

static struct harness own;
static void watch(pid_t pid)
{
	own = H;
	char path[64], target[64];
	double until = now() + 20;
	for (H.r = NULL; !H.r && now() < until; sched_yield()) {
		snprintf(path, sizeof path, "/proc/%d/fd", (int)pid);
		DIR *d = opendir(path);
		assert_non_null(d);
		for (struct dirent *e; !H.r && (e = readdir(d));) {
			ssize_t n = readlinkat(dirfd(d), e->d_name, target, sizeof target - 1);
			if (n <= 0 || (target[n] = 0, strncmp(target, "/memfd:" KW_MEMFD_NAME, 12)))
				continue;
			int fd = openat(dirfd(d), e->d_name, O_RDWR | O_CLOEXEC);
			struct stat st;
			if (fd < 0 || fstat(fd, &st) < 0 || st.st_size == 0) {
				close(fd);
				continue;
			}
			struct kw_region *r = mmap(NULL, (size_t)st.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
			close(fd);
			assert_true(r != MAP_FAILED);
			struct kw_control *c = (struct kw_control *)((uint8_t *)r + 4096);
			if (r->magic == KW_MAGIC && r->pid == (uint32_t)pid && __atomic_load_n(&c->modules_n, __ATOMIC_ACQUIRE))
				H.r = r;
			else
				munmap(r, (size_t)st.st_size);
		}
		closedir(d);
	}
	assert_non_null(H.r);
	uint8_t *b = (uint8_t *)H.r;
	H.c = (struct kw_control *)(b + H.r->control_off);
	H.modules = (struct kw_module *)(b + H.r->modules_off);
	H.states = (struct kw_site_state *)(b + H.r->sites_off);
	H.c->lease_tsc = UINT64_MAX;
	snprintf(path, sizeof path, "/proc/%d/mem", (int)pid);
	H.mem = open(path, O_RDWR | O_CLOEXEC);
	assert_true(H.mem >= 0);
}
static void unwatch(void)
{
	close(H.mem);
	munmap(H.r, H.r->region_bytes);
	H = own;
}
static pid_t hammering_child(void)
{
	*stop = 0;
	pid_t pid = fork();
	if (!pid) {
		pthread_t t[2];
		for (int i = 0; i < 2; i++)
			pthread_create(&t[i], NULL, hammer, NULL);
		for (int i = 0; i < 2; i++)
			pthread_join(t[i], NULL);
		_exit(0);
	}
	assert_true(pid > 0);
	return pid;
}
static void exits_well(pid_t pid)
{
	int status;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (!WIFEXITED(status) || WEXITSTATUS(status))
		fail_msg("the child ended with status %#x", status);
}

static void a_killed_process_leaves_rings_that_can_be_read(void **state)
{
	(void)state;
	for (int round = 0; round < 5; round++) {
		pid_t pid = hammering_child();
		watch(pid);
		switch_site("inner", KW_DETAIL);
		switch_site("outer", KW_SPAN);
		switch_site("tick", KW_SPAN);
		uint64_t spans = 0;
		double until = now() + 20;
		while (spans < 20000 && now() < until)
			spans += drain();
		assert_true(spans >= 20000);
		kill(pid, SIGKILL);
		waitpid(pid, NULL, 0);
		/* Killed between two stores, a thread's last span may be on one side only. */
		struct account a = account();
		uint64_t right = spans + a.spans + a.lost + a.abandoned + a.open;
		assert_in_range(a.seq + 2, right, right + 4);
		unwatch();
	}
}

static void a_million_toggles_from_outside(void **state)
{
	(void)state;
	pid_t pid = hammering_child();
	watch(pid);
	uint64_t spans = 0;
	double until = now() + 5;
	unsigned n = 0;
	static const char *const names[] = { "inner", "outer", "tick" };
	for (; n < 1000000 && (n % 512 || now() < until); n++) {
		switch_site(names[n % 3], n / 3 & 1 ? KW_OFF : n / 6 & 1 ? KW_DETAIL : KW_SPAN);
		if (n % 256 == 0)
			spans += drain();
	}
	for (int i = 0; i < 3; i++)
		switch_site(names[i], KW_OFF);
	__atomic_store_n(stop, 1, __ATOMIC_RELEASE);
	exits_well(pid);
	assert_true(n > 10000);
	account_closes((struct account){ 0 }, spans);
	unwatch();
}

static volatile sig_atomic_t signals;
static void on_prof(int sig) { (void)sig; signals++; outer(); }
static void a_storm_of_signals(void **state)
{
	(void)state;
	harness_find();
	outer();
	switch_site("inner", KW_DETAIL);
	switch_site("outer", KW_SPAN);
	switch_site("tick", KW_SPAN);
	drain();
	struct account from = account();
	struct sigaction sa = { .sa_handler = on_prof, .sa_flags = SA_RESTART }, old;
	struct itimerval every = { { 0, 1000 }, { 0, 1000 } }, never = { 0 };
	sigaction(SIGPROF, &sa, &old);
	setitimer(ITIMER_PROF, &every, NULL);
	uint64_t spans = 0;
	for (double until = now() + 20; signals < 200 && now() < until;) {
		for (int i = 0; i < 100; i++)
			outer();
		spans += drain();
	}
	setitimer(ITIMER_PROF, &never, NULL);
	sigaction(SIGPROF, &old, NULL);
	assert_true(signals >= 200);
	account_closes(from, spans);
}

static void fork_with_threads_and_probes_on(void **state)
{
	(void)state;
	drain();
	struct account from = account();
	uint64_t spans = 0;
	*stop = 0;
	pthread_t t[2];
	for (int i = 0; i < 2; i++)
		pthread_create(&t[i], NULL, hammer, NULL);
	for (int i = 0; i < 20; i++) {
		pid_t pid = fork();
		if (!pid) {
			for (int k = 0; k < 100; k++)
				outer();
			harness_find(); /* its own region; leased and at level here, its text was on already */
			for (uint32_t k = 0; k < H.c->sites_n; k++)
				H.states[k].level = KW_SPAN;
			for (int k = 0; k < 100; k++)
				outer();
			_exit(H.r->pid == (uint32_t)getpid() && account().spans == 200 ? 0 : 1);
		}
		exits_well(pid);
		spans += drain();
	}
	__atomic_store_n(stop, 1, __ATOMIC_RELEASE);
	for (int i = 0; i < 2; i++)
		pthread_join(t[i], NULL);
	account_closes(from, spans);
}

static void spawn_and_exec(void **state)
{
	(void)state;
	pid_t pid;
	char *argv[] = { "test_probe_process", "fresh", NULL };
	assert_int_equal(posix_spawn(&pid, "/proc/self/exe", NULL, NULL, argv, environ), 0);
	exits_well(pid);
	pid = vfork();
	if (!pid) {
		execve("/proc/self/exe", argv, environ);
		_exit(127);
	}
	exits_well(pid);
	pid = fork();
	if (!pid) {
		outer();
		execve("/proc/self/exe", argv, environ);
		_exit(127);
	}
	exits_well(pid);
	struct account from = account();
	outer();
	account_closes(from, 0);
}

static void little_address_space(void **state)
{
	(void)state;
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
	static const struct { rlim_t bytes; char *role; } cases[] = { { 1ul << 30, "few" }, { 256ul << 20, "few" }, { 32ul << 20, "inert" } };
	for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++) {
		pid_t pid = fork();
		if (!pid) {
			struct rlimit as = { cases[i].bytes, cases[i].bytes };
			setrlimit(RLIMIT_AS, &as);
			char *argv[] = { "test_probe_process", cases[i].role, NULL };
			execve("/proc/self/exe", argv, environ);
			_exit(127);
		}
		exits_well(pid);
	}
#endif
}

static pthread_key_t late;
static void late_probe(void *arg) { (void)arg; outer(); }
static void *with_key(void *arg) { pthread_setspecific(late, arg); outer(); return NULL; }
static void a_probe_in_a_destructor_after_ours(void **state)
{
	(void)state;
	assert_int_equal(pthread_key_create(&late, late_probe), 0);
	drain();
	struct account from = account();
	uint64_t no_slot = H.c->lost_no_slot;
	pthread_t t;
	pthread_create(&t, NULL, with_key, &late);
	pthread_join(t, NULL);
	assert_true(H.c->lost_no_slot > no_slot); /* its slot was given back already: not recorded, and counted */
	account_closes(from, 0);
	for (uint32_t i = 1; i < H.c->threads_hint; i++)
		assert_int_not_equal(slot(i)->state, KW_THREAD_LIVE);
}

int main(int argc, char **argv)
{
	if (argc > 1 && !strcmp(argv[1], "inert")) {
		FILE *f = fopen("/proc/self/maps", "r");
		char line[512];
		while (fgets(line, sizeof line, f))
			if (strstr(line, "/memfd:" KW_MEMFD_NAME))
				return 1;
		outer();
		return 0;
	}
	if (argc > 1) { /* fresh, few: a region of its own, and it works */
		harness_find();
		outer();
		switch_site("inner", KW_SPAN);
		outer();
		bool fewer = H.r->max_threads < KW_MAX_THREADS;
		return account().spans == 1 && H.r->pid == (uint32_t)getpid() && fewer == !strcmp(argv[1], "few") ? 0 : 1;
	}
	stop = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_killed_process_leaves_rings_that_can_be_read), cmocka_unit_test(a_million_toggles_from_outside),
		cmocka_unit_test(a_storm_of_signals), cmocka_unit_test(fork_with_threads_and_probes_on), cmocka_unit_test(spawn_and_exec),
		cmocka_unit_test(little_address_space), cmocka_unit_test(a_probe_in_a_destructor_after_ours),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
