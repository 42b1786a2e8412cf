/* fork inside hooked functions (both sides return through them), vfork, posix_spawn, daemon-like double forks. The children's answers are part of the
 * result; only the parent's calls are counted. `hold`: waits in vfork, where no tracer can stop it, until the next line comes. */
#include "target.h"
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>

extern char **environ;

HOOKED uint64_t work(uint64_t x)
{
	COUNTED(work);
	return mix(x, 9);
}

HOOKED pid_t forks(uint64_t *h)
{
	COUNTED(forks);
	pid_t p = fork();
	*h = work(*h);
	return p;
}
HOOKED pid_t outer(uint64_t *h)
{
	COUNTED(outer);
	pid_t p = forks(h);
	*h = work(*h);
	return p;
}

/* What the child found, in seven bits. */
static uint64_t status_of(pid_t p)
{
	int s = 0;
	CHECK(p > 0);
	CHECK(waitpid(p, &s, 0) == p);
	CHECK(WIFEXITED(s));
	return (uint64_t)WEXITSTATUS(s);
}

HOOKED pid_t vforks(void)
{
	COUNTED(vforks);
	char *args[] = { "sh", "-c", "exit 42", NULL };
	pid_t p = vfork();
	if (!p) {
		execv("/bin/sh", args);
		_exit(99);
	}
	AFTER_CALL(p);
	return p;
}
HOOKED pid_t spawns(void)
{
	COUNTED(spawns);
	char *args[] = { "sh", "-c", "exit 43", NULL };
	pid_t p = -1;
	CHECK(!posix_spawn(&p, "/bin/sh", NULL, NULL, args, environ));
	return p;
}

static uint64_t go(long rounds)
{
	uint64_t h = 0;
	for (long i = 0; i < rounds; i++) {
		uint64_t mine = (uint64_t)i;
		pid_t p = outer(&mine);
		if (!p) {
			for (int k = 0; k < 100; k++)
				mine = work(mine);
			uint64_t inside = mine;
			p = outer(&inside); /* a child's child */
			if (!p)
				_exit((int)(work(inside) % 100));
			_exit((int)(mix(mine, status_of(p)) % 100));
		}
		h = mix(h, mine);
		h = mix(h, status_of(p));
		h = mix(h, status_of(vforks()));
		h = mix(h, status_of(spawns()));
	}
	return h;
}

static int hold(const char *line)
{
	static const char held[] = "held\n";
	if (strcmp(line, "hold\n"))
		return 0;
	pid_t p = vfork();
	if (!p) {
		char c = 0;
		if (write(1, held, sizeof held - 1) > 0)
			while (c != '\n' && read(0, &c, 1) == 1) {
			}
		_exit(0);
	}
	CHECK(status_of(p) == 0);
	printf("released\n");
	return 1;
}

int main(void) { return target_loop(go, hold); }
