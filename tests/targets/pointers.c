/* Calls through pointers. Each request goes to a command by its table on the heap, through a chain of filters, a function in a variable, and ends with a jump to where
 * a pointer says. `go N`: N requests. `start OFTEN`: requests one after another until `stop`, some ten thousand a second; beside each of them, OFTEN calls through
 * pointers that are none of handle()'s; `stop` answers with how many requests there were. `fork`: a child does a thousand and ends. Each result is checked here. */
#include "target.h"
#include <pthread.h>
#include <stdbool.h>
#include <sys/wait.h>
#include <time.h>

typedef uint64_t function(uint64_t);
struct command { const char *name; function *run; };
struct table { struct command *commands; function **filters; function *done, *aside, *often; };

HOOKED uint64_t get(uint64_t x) { COUNTED(get); return mix(x, 1); }
HOOKED uint64_t set(uint64_t x) { COUNTED(set); return mix(x, 2); }
HOOKED uint64_t rare(uint64_t x) { COUNTED(rare); return mix(x, 3); }
HOOKED uint64_t compress(uint64_t x) { COUNTED(compress); return mix(x, 4); }
HOOKED uint64_t encrypt(uint64_t x) { COUNTED(encrypt); return mix(x, 5); }
HOOKED uint64_t write_log(uint64_t x) { COUNTED(write_log); return mix(x, 6); }
HOOKED uint64_t done(uint64_t x) { COUNTED(done); return mix(x, 7); }
HOOKED uint64_t elsewhere(uint64_t x) { COUNTED(elsewhere); return mix(x, 8); }
HOOKED uint64_t often(uint64_t x) { COUNTED(often); return mix(x, 9); }

static function *volatile logs = write_log; /* others could be set while it runs */
static struct table *table;
static bool with_rare; /* from then on there is a third command */

HOOKED uint64_t handle(uint64_t i)
{
	COUNTED(handle);
	const struct command *c = &table->commands[__atomic_load_n(&with_rare, __ATOMIC_RELAXED) ? i % 3 : i % 2];
	uint64_t v = c->run(i);
	for (int k = 0; k < 2; k++)
		v = table->filters[k](v);
	v = logs(v);
	return table->done(v);
}

static uint64_t expected(uint64_t i)
{
	uint64_t command = (__atomic_load_n(&with_rare, __ATOMIC_RELAXED) ? i % 3 : i % 2) + 1;
	return mix(mix(mix(mix(mix(i, command), 4), 5), 6), 7);
}

static void request(uint64_t i, long n)
{
	CHECK(handle(i) == expected(i));
	CHECK(table->aside(i) == mix(i, 8));
	for (long k = 0; k < n; k++)
		CHECK(table->often(i) == mix(i, 9));
}

static uint64_t go(long rounds)
{
	uint64_t h = 0;
	for (long i = 0; i < rounds; i++) {
		request((uint64_t)i, 0);
		h = mix(h, (uint64_t)i);
	}
	return h;
}

static pthread_t thread;
static int running;
static long beside;

static void *serve(void *arg)
{
	uintptr_t i = 0;
	(void)arg;
	while (__atomic_load_n(&running, __ATOMIC_RELAXED)) {
		for (int k = 0; k < 20; k++)
			request(i++, beside);
		nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
	}
	return (void *)i;
}

static int other(const char *line)
{
	if (sscanf(line, "start %ld", &beside) == 1) {
		running = 1;
		CHECK(!pthread_create(&thread, NULL, serve, NULL));
		printf("started\n");
	} else if (!strcmp(line, "stop\n")) {
		void *n;
		__atomic_store_n(&running, 0, __ATOMIC_RELAXED);
		pthread_join(thread, &n);
		printf("stopped %lu\n", (unsigned long)(uintptr_t)n);
	} else if (!strcmp(line, "fork\n")) {
		int status;
		pid_t child = fork();
		if (!child) {
			go(1000);
			_exit(0);
		}
		CHECK(child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status) && !WEXITSTATUS(status));
		printf("forked\n");
	} else {
		return 0;
	}
	return 1;
}

int main(int argc, char **argv)
{
	struct command commands[] = { { "get", get }, { "set", set }, { "rare", rare } };
	function *filters[] = { compress, encrypt };
	table = malloc(sizeof *table);
	CHECK(table && (table->commands = malloc(sizeof commands)) && (table->filters = malloc(sizeof filters)));
	memcpy(table->commands, commands, sizeof commands);
	memcpy(table->filters, filters, sizeof filters);
	table->done = done;
	table->aside = elsewhere;
	table->often = often;
	with_rare = argc > 1 && !strcmp(argv[1], "rare");
	return target_loop(go, other);
}
