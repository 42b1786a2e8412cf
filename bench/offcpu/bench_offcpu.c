/* What it costs to know when a thread does not run: two threads wake each other through pipes, on one core, so that each round is two switches; untouched, then
 * followed by perf events (PERF_RECORD_SWITCH), then with our BPF program there for somebody else, then for these two. In turn, so that a
 * change of the machine's pace meets all; medians of the differences from the untouched rounds beside them. */
#include "bpf/offcpu.h"
#include <linux/perf_event.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { TURNS = 31, ROUNDS = 20000, SLICE = 100, PAGES = 9 };
static int there[2], back[2];
static volatile int other_tid;
static bool no_perf;

static void stay(void)
{
	cpu_set_t one;
	CPU_ZERO(&one);
	CPU_SET(0, &one);
	sched_setaffinity(0, sizeof one, &one);
}

static void *answer(void *arg)
{
	char c;
	stay();
	other_tid = (int)syscall(SYS_gettid);
	while (read(there[0], &c, 1) == 1 && write(back[1], &c, 1) == 1) {
	}
	return arg;
}

static double seconds(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* ns a switch */
static double rounds(int n)
{
	char c = 1;
	double from = seconds();
	for (int i = 0; i < n; i++)
		if (write(there[1], &c, 1) != 1 || read(back[0], &c, 1) != 1)
			exit(1);
	return (seconds() - from) * 1e9 / n / 2;
}

static struct perf_event_mmap_page *perf(int tid, int *ret_fd)
{
	struct perf_event_attr at = { .size = sizeof at, .type = PERF_TYPE_SOFTWARE, .config = PERF_COUNT_SW_DUMMY, .context_switch = 1, .sample_id_all = 1,
		.sample_type = PERF_SAMPLE_TID | PERF_SAMPLE_TIME, .use_clockid = 1, .clockid = CLOCK_MONOTONIC, .exclude_kernel = 1, .exclude_hv = 1 };
	*ret_fd = (int)syscall(SYS_perf_event_open, &at, tid, -1, -1, PERF_FLAG_FD_CLOEXEC);
	void *p = *ret_fd < 0 ? MAP_FAILED : mmap(NULL, PAGES * 4096, PROT_READ | PROT_WRITE, MAP_SHARED, *ret_fd, 0);
	return p == MAP_FAILED ? NULL : p;
}

static double with_perf(void)
{
	int fd[2];
	struct perf_event_mmap_page *p[2] = { perf((int)syscall(SYS_gettid), &fd[0]), perf(other_tid, &fd[1]) };
	double sum = 0;
	for (int k = 0; k < ROUNDS / SLICE; k++) {
		sum += rounds(SLICE);
		for (int i = 0; i < 2; i++)
			if (p[i])
				p[i]->data_tail = p[i]->data_head;
	}
	for (int i = 0; i < 2; i++) {
		if (!p[i])
			no_perf = true;
		else
			munmap(p[i], PAGES * 4096);
		if (fd[i] >= 0)
			close(fd[i]);
	}
	return sum / (ROUNDS / SLICE);
}

static double with_bpf(struct offcpu *o, bool us)
{
	uint32_t slot[2];
	struct err e = { 0 };
	int n = 0;
	if (offcpu_follow(o, us ? (uint32_t)syscall(SYS_gettid) : 1, &slot[n++], &e) < 0 || (us && offcpu_follow(o, (uint32_t)other_tid, &slot[n++], &e) < 0)) {
		fprintf(stderr, "%s\n", e.msg);
		exit(1);
	}
	double ns = rounds(ROUNDS);
	while (n)
		offcpu_forget(o, slot[--n]);
	return ns;
}

static int by_value(const void *a, const void *b)
{
	const double *x = a, *y = b;
	return *x < *y ? -1 : *x > *y;
}
static double median(double *v)
{
	qsort(v, TURNS, sizeof *v, by_value);
	return v[TURNS / 2];
}

int main(void)
{
	struct offcpu *o = NULL;
	struct err e = { 0 };
	if (offcpu_open(&o, &e) < 0)
		fprintf(stderr, "not by BPF: %s\n", e.msg);
	pthread_t t;
	stay();
	if (pipe(there) || pipe(back) || pthread_create(&t, NULL, answer, NULL))
		return 1;
	rounds(1000);
	static double plain[TURNS], perf_ns[TURNS], others[TURNS], us[TURNS];
	for (int i = 0; i < TURNS; i++) {
		double before = rounds(ROUNDS), p = with_perf(), b = o ? with_bpf(o, false) : 0, u = o ? with_bpf(o, true) : 0, after = rounds(ROUNDS);
		plain[i] = (before + after) / 2;
		perf_ns[i] = p - plain[i];
		others[i] = b - plain[i];
		us[i] = u - plain[i];
	}
	double base = median(plain), by_perf = median(perf_ns);
	printf("switch_untouched %.0f ns two_threads_and_two_pipes,one_core\n", base);
	if (no_perf)
		printf("# perf events are not permitted here\n");
	else
		printf("switch_followed_by_perf %+.0f ns on_top,PERF_RECORD_SWITCH\n", by_perf);
	if (o) {
		double by_bpf = median(us);
		if (no_perf)
			printf("switch_followed_by_bpf %+.0f ns on_top\n", by_bpf);
		else
			printf("switch_followed_by_bpf %+.0f ns on_top,%.2fx_of_perf's\n", by_bpf, by_bpf / by_perf);
		printf("switch_of_others_while_bpf_is_there %+.0f ns on_top,%.1f_%%_of_a_switch\n", median(others), 100 * median(others) / base);
	}
	close(there[1]);
	pthread_join(t, NULL);
	offcpu_close(o);
	return 0;
}
