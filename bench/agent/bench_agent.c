/* The agent against real processes: draining rings into batches, and switching sites under load. Usage: bench_agent PRODUCER MANY
 *   PRODUCER  a program that makes spans as fast as it can (bench/agent/producer.c)
 *   MANY      a program with 100,000 sites (run.sh generates it)
 * Prints `name value unit note`. Agent's CPU time is that of this process: it does nothing else meanwhile. */
#include "agent/agent.h"
#include "base/clock.h"
#include "base/hash.h"
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static atomic_ullong spans;
static struct agent *agent;
static char socket_path[100];

static int sink(void *arg, struct batch *b)
{
	(void)arg;
	spans += b->n;
	batch_destroy(b);
	return 0;
}

/* ---- one request at a time ------------------------------------------------------------------------------------------ */

struct answer { pthread_mutex_t lock; pthread_cond_t here; bool done; int rc; json_t *result; };

static void on_reply(void *arg, int rc, json_t *result, const struct err *e)
{
	struct answer *a = arg;
	(void)e;
	pthread_mutex_lock(&a->lock);
	a->rc = rc;
	a->result = rc < 0 ? NULL : json_incref(result);
	a->done = true;
	pthread_cond_signal(&a->here);
	pthread_mutex_unlock(&a->lock);
}

static json_t *ask(const char *method, json_t *params)
{
	struct answer a = { PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, false, 0, NULL };
	agent_request(agent, method, params, on_reply, &a);
	pthread_mutex_lock(&a.lock);
	while (!a.done)
		pthread_cond_wait(&a.here, &a.lock);
	pthread_mutex_unlock(&a.lock);
	if (a.rc < 0) {
		fprintf(stderr, "bench_agent: %s failed (%d)\n", method, a.rc);
		exit(1);
	}
	return a.result;
}

static json_int_t number(json_t *o, const char *key) { return json_integer_value(json_object_get(o, key)); }

static json_t *on(const char *selector, const char *level)
{
	return ask("on", json_pack("{s{ssssss sf sI ssss}}", "toggle", "id", "t-bench", "selector", selector, "level", level, "keep", 1.0, "expires_unix_nano",
		(json_int_t)(clock_wall() + 600000000000ll), "owner", "bench", "reason", "bench"));
}
static json_t *off(void) { return ask("off", json_pack("{sb}", "all", 1)); }

static pid_t start(const char *program)
{
	pid_t pid = fork();
	if (!pid) {
		setenv("KLIEG_SOCKET", socket_path, 1);
		setenv("OTEL_SERVICE_NAME", "bench", 1);
		execl(program, program, NULL);
		_exit(127);
	}
	/* until the agent has read its sites */
	for (int64_t limit = clock_mono() + 20000000000ll; clock_mono() < limit;) {
		json_t *r = ask("ps", NULL), *p;
		size_t i;
		json_array_foreach(json_object_get(r, "processes"), i, p)
			if (number(p, "pid") == pid && number(p, "sites") > 0) {
				json_decref(r);
				return pid;
			}
		json_decref(r);
	}
	fprintf(stderr, "bench_agent: %s did not show up\n", program);
	exit(1);
}

static void stop(pid_t pid)
{
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

/* ---- what the text looks like, and many toggles in flight ------------------------------------------------------------- */

/* Of all that is mapped executable, as it is in memory now; vdso and vsyscall are the kernel's. */
static uint64_t text_hash(pid_t pid)
{
	char path[64], line[512];
	static uint8_t page[4096];
	uint64_t hash = 0;
	snprintf(path, sizeof path, "/proc/%d/mem", pid);
	FILE *mem = fopen(path, "re");
	snprintf(path, sizeof path, "/proc/%d/maps", pid);
	FILE *maps = fopen(path, "re");
	while (mem && maps && fgets(line, sizeof line, maps)) {
		unsigned long long from, to;
		char perms[5];
		if (sscanf(line, "%llx-%llx %4s", &from, &to, perms) != 3 || perms[2] != 'x' || strstr(line, "[v"))
			continue;
		for (; from < to; from += sizeof page)
			if (pread(fileno(mem), page, sizeof page, (off_t)from) == (ssize_t)sizeof page)
				hash = hash_bytes(page, sizeof page, hash);
	}
	if (mem)
		fclose(mem);
	if (maps)
		fclose(maps);
	return hash;
}

static struct { pthread_mutex_t lock; pthread_cond_t room; unsigned in_flight, done, failed; } many = { .lock = PTHREAD_MUTEX_INITIALIZER,
	.room = PTHREAD_COND_INITIALIZER };

static void on_one_of_many(void *arg, int rc, json_t *result, const struct err *e)
{
	(void)arg, (void)result, (void)e;
	pthread_mutex_lock(&many.lock);
	many.in_flight--;
	many.done++;
	many.failed += rc < 0;
	if (many.in_flight < 100)
		pthread_cond_signal(&many.room);
	pthread_mutex_unlock(&many.lock);
}

/* One site on and off, over and over, a few hundred requests ahead of the agent, until there were `n` or the time is up. */
static unsigned toggle_many(unsigned n, int64_t limit_ns)
{
	int64_t until = clock_mono() + limit_ns;
	for (unsigned i = 0; i < n && clock_mono() < until; i++) {
		pthread_mutex_lock(&many.lock);
		while (many.in_flight >= 200)
			pthread_cond_wait(&many.room, &many.lock);
		many.in_flight++;
		pthread_mutex_unlock(&many.lock);
		json_t *list = i & 1 ? json_array() : json_pack("[{ssssss}]", "id", "t-many", "selector", "spin", "level", "count");
		agent_request(agent, "sync", json_pack("{so}", "toggles", list), on_one_of_many, NULL);
	}
	pthread_mutex_lock(&many.lock);
	while (many.in_flight)
		pthread_cond_wait(&many.room, &many.lock);
	pthread_mutex_unlock(&many.lock);
	return many.done;
}

static int by_value(const void *a, const void *b) { return *(const int64_t *)a < *(const int64_t *)b ? -1 : *(const int64_t *)a > *(const int64_t *)b; }

static json_t *rule(unsigned i, const char *selector)
{
	char id[32];
	snprintf(id, sizeof id, "p:bench/%u", i);
	return json_pack("{ssssssss}", "id", id, "policy", "bench", "selector", selector, "level", "count");
}

static json_t *change(int64_t base, json_t *set, double *ret_ms)
{
	int64_t t = clock_mono();
	json_t *r = ask("change", json_pack("{sIsIso}", "base", (json_int_t)base, "generation", (json_int_t)1, "set", set));
	*ret_ms = (double)(clock_mono() - t) / 1e6;
	return r;
}

/* Ten thousand rules and ten thousand sites; and one rule in all the processes of a host. */
static void rules(const char *ten)
{
	enum { RULES = 10000, PROCESSES = 20, TIMES = 40 };
	pid_t pid = start(ten);
	json_t *set = json_array(), *none = json_array();
	char text[160];
	for (unsigned i = 0; i < RULES; i++) {
		if (i % 2)
			snprintf(text, sizeof text, "{ resource.service.name = \"%s\" && name =~ \"s%u_%u.*\" }", i % 4 == 1 ? "bench" : "other", i % 10, i % 1000);
		else
			snprintf(text, sizeof text, "s%u_%u", i / 1000, i % 1000);
		json_array_append_new(set, rule(i, text));
	}
	double first, more, again;
	json_t *r = change(-1, json_copy(set), &first);
	long long matched = number(r, "instances");
	json_decref(r);
	json_decref(change(1, json_pack("[o]", rule(RULES, "s3_7*")), &more));
	json_decref(change(-1, set, &again));
	printf("rules_10000_on_10000_sites %.1f ms from the request to %lld sites patched (bar 200 ms, for the matching alone)\n", first, matched);
	printf("one_rule_more %.2f ms %.4f of all of them\nthe_same_rules_again %.1f ms %.2f of the first time\n", more, more / first, again, again / first);
	json_decref(change(-1, none, &again));
	stop(pid);

	pid_t pids[PROCESSES];
	static int64_t took[TIMES];
	for (int i = 0; i < PROCESSES; i++)
		pids[i] = start(ten);
	for (int i = 0; i < TIMES; i++) {
		double ms;
		r = change(-1, i % 2 ? json_array() : json_pack("[o]", rule(0, "s3_1*")), &ms);
		took[i] = (int64_t)(ms * 1e6);
		if (!i)
			matched = number(r, "instances");
		json_decref(r);
	}
	qsort(took, TIMES, sizeof *took, by_value);
	printf("applied_in_%d_processes %.2f ms median until %lld sites of %d are patched, %.2f at most (bar 20 ms)\n", PROCESSES, (double)took[TIMES / 2] / 1e6, matched,
		PROCESSES * 10000, (double)took[TIMES - 1] / 1e6);
	for (int i = 0; i < PROCESSES; i++)
		stop(pids[i]);
}

int main(int argc, char **argv)
{
	if (argc != 4)
		return fprintf(stderr, "usage: bench_agent PRODUCER MANY TEN\n"), 2;
	char dir[] = "/tmp/klieg-bench.XXXXXX";
	struct err e = { 0 };
	if (!mkdtemp(dir))
		return perror("mkdtemp"), 1;
	snprintf(socket_path, sizeof socket_path, "%s/agent.sock", dir);
	if (agent_create(&(struct agent_config){ .socket = socket_path, .sink = sink }, &agent, &e) < 0)
		return fprintf(stderr, "bench_agent: %s\n", e.msg), 1;

	/* Draining: what the agent's CPU time yields, while the producer fills its rings as fast as it can. */
	pid_t pid = start(argv[1]);
	uint64_t untouched = text_hash(pid);
	json_decref(on("spin", "span"));
	int64_t cpu = clock_cpu(), wall = clock_mono();
	unsigned long long before = spans;
	struct timespec two = { .tv_sec = 2 };
	nanosleep(&two, NULL);
	unsigned long long got = spans - before;
	double cpu_s = (double)(clock_cpu() - cpu) / 1e9, wall_s = (double)(clock_mono() - wall) / 1e9;
	printf("drain_to_batches %.0f spans/cpu-s (bar 1,000,000; %.0f spans/s were made and kept up with, decoded and batched)\n", (double)got / cpu_s,
		(double)got / wall_s);
	json_decref(off());

	/* One site, a thousand times, while its process hammers it: from the request to the acknowledgement. */
	enum { TIMES = 1000 };
	static int64_t took[2 * TIMES];
	for (int i = 0; i < TIMES; i++) {
		int64_t t = clock_mono();
		json_decref(on("spin", "count"));
		took[2 * i] = clock_mono() - t;
		t = clock_mono();
		json_decref(off());
		took[2 * i + 1] = clock_mono() - t;
	}
	qsort(took, 2 * TIMES, sizeof *took, by_value);
	printf("toggle_one_site %.3f ms median of %d under load, %.3f at most (bar 1 ms)\n", (double)took[TIMES] / 1e6, 2 * TIMES, (double)took[2 * TIMES - 1] / 1e6);

	int64_t t = clock_mono();
	unsigned done = toggle_many(1000000, 10000000000ll);
	double took_s = (double)(clock_mono() - t) / 1e9;
	json_decref(off());
	bool alive = kill(pid, 0) == 0 && waitpid(pid, NULL, WNOHANG) == 0, same = alive && text_hash(pid) == untouched;
	printf("toggles_in_a_row %u toggles in %.1f s under two hammering threads, %u refused\n", done, took_s, many.failed);
	printf("toggled_process_lives %s - and its text is %s\n", alive ? "yes" : "NO", same ? "byte for byte as before" : "NOT AS BEFORE");
	stop(pid);

	/* A hundred thousand sites at once. */
	pid = start(argv[2]);
	t = clock_mono();
	json_t *r = on("*", "count");
	double on_ms = (double)(clock_mono() - t) / 1e6;
	long long instances = number(r, "instances");
	json_decref(r);
	t = clock_mono();
	json_decref(off());
	double off_ms = (double)(clock_mono() - t) / 1e6;
	printf("toggle_%lld_sites_on %.1f ms (bar 500 ms)\ntoggle_%lld_sites_off %.1f ms (bar 500 ms)\n", instances, on_ms, instances, off_ms);
	stop(pid);
	rules(argv[3]);
	agent_destroy(agent);
	unlink(socket_path);
	snprintf(socket_path, sizeof socket_path, "%s/agent.sock.lock", dir);
	unlink(socket_path);
	rmdir(dir);
	return alive && same && !many.failed ? 0 : 1;
}
