/* Stopping and loading into real processes: targets that notice what tracing does to them (tests/targets/inject_target.c), and the refusals.
 * argv: the target, the same with large thread-local variables, the same linked statically, the library, one that crashes when loaded, and the target built with
 * musl if there is a compiler for it. */
#include "base/clock.h"
#include "ptrace/inject.h"
#include "ptrace/world.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

static const char *target, *target_tls, *target_static, *target_musl, *library, *library_crash;

struct run { pid_t pid; int out; };

/* Until the program says "ready". */
static struct run start_as(const char *program, uid_t uid, const char *root, char *const args[])
{
	int pipes[2];
	char *argv[16] = { (char *)program }, text[64] = "";
	for (int i = 0; args[i]; i++)
		argv[i + 1] = args[i];
	assert_int_equal(pipe2(pipes, O_CLOEXEC), 0);
	pid_t pid = fork();
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		dup2(pipes[1], 1);
		if (root && (chroot(root) || chdir("/")))
			_exit(3);
		if (uid && (setgid(uid) || setuid(uid)))
			_exit(3);
		execv(program, argv);
		_exit(3);
	}
	close(pipes[1]);
	size_t n = 0;
	while (!strchr(text, '\n')) {
		struct pollfd p = { .fd = pipes[0], .events = POLLIN };
		assert_int_equal(poll(&p, 1, 20000), 1);
		ssize_t got = read(pipes[0], text + n, sizeof text - 1 - n);
		assert_true(got > 0);
		n += (size_t)got;
	}
	return (struct run){ pid, pipes[0] };
}

#define START(...) start_as(target, 0, NULL, (char *[]){ __VA_ARGS__, NULL })

/* Ends it, and holds it to having noticed nothing. Returns how many signals it counted. */
static long finish(struct run r)
{
	char text[128] = "";
	int status, odd = -1;
	long signals = -1;
	assert_int_equal(kill(r.pid, SIGTERM), 0);
	assert_int_equal(waitpid(r.pid, &status, 0), r.pid);
	assert_true(read(r.out, text, sizeof text - 1) > 0);
	close(r.out);
	assert_int_equal(sscanf(text, "odd %d signals %ld", &odd, &signals), 2);
	assert_int_equal(odd, 0);
	assert_int_equal(status, 0);
	return signals;
}

static void put_away(struct run r)
{
	kill(r.pid, SIGKILL);
	waitpid(r.pid, NULL, 0);
	close(r.out);
}

static int entries(pid_t pid, const char *folder)
{
	char path[64];
	int n = 0;
	snprintf(path, sizeof path, "/proc/%d/%s", pid, folder);
	DIR *dir = opendir(path);
	assert_non_null(dir);
	for (struct dirent *d; (d = readdir(dir));)
		n += d->d_name[0] != '.';
	closedir(dir);
	return n;
}

/* Mappings without a file that are executable, or of the size of the area that inject.c makes: none may stay. */
static int residue(pid_t pid)
{
	char path[64], line[512];
	int n = 0;
	snprintf(path, sizeof path, "/proc/%d/maps", pid);
	FILE *f = fopen(path, "r");
	while (fgets(line, sizeof line, f)) {
		unsigned long from, to;
		char perms[5] = "", name[256] = "";
		sscanf(line, "%lx-%lx %4s %*s %*s %*s %255s", &from, &to, perms, name);
		n += !name[0] && perms[2] == 'x';
	}
	fclose(f);
	return n;
}

static long status_number(pid_t pid, pid_t tid, const char *key)
{
	char path[64], line[256];
	long value = -1;
	snprintf(path, sizeof path, "/proc/%d/task/%d/status", pid, tid);
	FILE *f = fopen(path, "r");
	while (f && fgets(line, sizeof line, f))
		if (!strncmp(line, key, strlen(key)))
			value = strcmp(key, "State:") ? strtol(line + strlen(key), NULL, 10) : line[7];
	if (f)
		fclose(f);
	return value;
}

static int64_t load(pid_t pid, const char *symbol, const char *text, struct inject_report *ret_r)
{
	struct err e = { 0 };
	int code = inject_load(pid, library, symbol, text, text ? strlen(text) + 1 : 0, ret_r, &e);
	if (code < 0)
		print_message("%s\n", e.msg);
	return code;
}

static void assert_refused(pid_t pid, enum inject_obstacle obstacle, int code, const char *word)
{
	struct inject_preflight p;
	struct inject_report r;
	struct err e = { 0 };
	assert_int_equal(inject_preflight(pid, &p, &e), 0);
	assert_int_equal(p.obstacle, obstacle);
	assert_non_null(strstr(p.text, word));
	assert_int_equal(inject_load(pid, library, "count", NULL, 0, &r, &e), code);
	assert_string_equal(e.msg, p.text);
}

/* ---- loading ---- */

static void loads_and_leaves_nothing(void **state)
{
	struct run t = START("threads", "4");
	struct inject_report r;
	int threads = entries(t.pid, "task"), fds = entries(t.pid, "fd"), left = residue(t.pid);
	assert_int_equal(load(t.pid, "count", "twelve bytes", &r), 0);
	assert_int_equal(r.value, 10012);
	assert_false(r.reused);
	assert_true(r.pause_ns > 0 && r.pause_ns <= r.pauses_ns && r.pauses_ns <= r.load_ns);
	assert_int_equal(load(t.pid, "count", NULL, &r), 0);
	assert_int_equal(r.value, 20000); /* the same library, its counter went on */
	assert_true(r.reused);
	struct err e;
	assert_int_equal(inject_load(t.pid, library, "address", (void *)0x123456789abc, SIZE_MAX, &r, &e), 0);
	assert_int_equal(r.value, 0x123456789abd);
	assert_int_equal(load(t.pid, "deep", NULL, &r), 0);
	assert_int_equal(r.value, 700 << 10);
	assert_int_equal(entries(t.pid, "task"), threads);
	assert_int_equal(entries(t.pid, "fd"), fds);
	assert_int_equal(residue(t.pid), left);
	finish(t);
}

static void bad_libraries(void **state)
{
	struct run t = START("threads", "2");
	struct inject_report r;
	struct err e = { 0 };
	int fds = entries(t.pid, "fd"), left = residue(t.pid);
	assert_int_equal(inject_load(t.pid, library, "nothing_like_it", NULL, 0, &r, &e), KLIEG_E_NOT_FOUND);
	assert_non_null(strstr(e.msg, "nothing_like_it"));
	assert_int_equal(inject_load(t.pid, library, "still_nothing", NULL, 0, &r, &e), KLIEG_E_NOT_FOUND);
	assert_true(inject_load(t.pid, "/nowhere/lib.so", "count", NULL, 0, &r, &e) < 0);
	assert_non_null(strstr(e.msg, "/nowhere/lib.so"));
	assert_int_equal(inject_load(t.pid, "/proc/self/status", "count", NULL, 0, &r, &e), KLIEG_E_BAD_DATA);
	assert_int_equal(inject_load(t.pid, target_static, "count", NULL, 0, &r, &e), KLIEG_E_BAD_DATA);
	assert_int_equal(inject_load(t.pid, library, "count", "x", 5000, &r, &e), KLIEG_E_USAGE);
	char path[] = "/tmp/ptrace_test_XXXXXX", bytes[65536];
	int fd = mkstemp(path), from = open(library, O_RDONLY);
	ssize_t n = read(from, bytes, sizeof bytes);
	assert_true(n > 600 && n < (ssize_t)sizeof bytes);
	assert_int_equal(write(fd, bytes, 600), 600);
	assert_int_equal(inject_load(t.pid, path, "count", NULL, 0, &r, &e), KLIEG_E_BAD_DATA);
	assert_non_null(strstr(e.msg, "cut short"));
	bytes[7] = 99; /* for another operating system: dlopen says so */
	assert_int_equal(pwrite(fd, bytes, (size_t)n, 0), n);
	assert_int_equal(inject_load(t.pid, path, "count", NULL, 0, &r, &e), KLIEG_E_BAD_DATA);
	assert_non_null(strstr(e.msg, "dlopen"));
	close(fd);
	close(from);
	unlink(path);
	assert_int_equal(entries(t.pid, "fd"), fds);
	assert_int_equal(residue(t.pid), left);
	finish(t);
}

static void crashes_are_contained(void **state)
{
	struct run t = START("threads", "2");
	struct inject_report r;
	struct err e = { 0 };
	int fds = entries(t.pid, "fd"), threads = entries(t.pid, "task");
	assert_int_equal(inject_load(t.pid, library_crash, "count", NULL, 0, &r, &e), KLIEG_E_BAD_DATA);
	assert_non_null(strstr(e.msg, "constructor"));
	assert_int_equal(inject_load(t.pid, library_crash, "count", NULL, 0, &r, &e), KLIEG_E_BAD_DATA);
	assert_non_null(strstr(e.msg, "before"));
	assert_int_equal(inject_load(t.pid, library, "crash", NULL, 0, &r, &e), KLIEG_E_BAD_DATA);
	assert_non_null(strstr(e.msg, "Segmentation"));
	assert_int_equal(load(t.pid, "count", NULL, &r), 0); /* and the loader is not locked */
	assert_int_equal(entries(t.pid, "fd"), fds);
	assert_int_equal(entries(t.pid, "task"), threads);
	finish(t);
}

static void busy_threads_and_large_tls(void **state)
{
	struct inject_report r;
	struct run t = START("calls", "compute");
	assert_int_equal(load(t.pid, "count", NULL, &r), 0);
	finish(t);
	t = START("spin"); /* one thread, no system call */
	assert_int_equal(load(t.pid, "count", NULL, &r), 0);
	assert_int_equal(load(t.pid, "count", NULL, &r), 0);
	assert_int_equal(entries(t.pid, "task"), 1);
	put_away(t);
	t = start_as(target_tls, 0, NULL, (char *[]){ "threads", "2", NULL });
	int left = residue(t.pid);
	assert_int_equal(load(t.pid, "count", NULL, &r), 0);
	assert_int_equal(residue(t.pid), left);
	finish(t);
}

static void seccomp_filter(void **state)
{
	if (geteuid())
		skip();
	struct run t = START("seccomp");
	struct inject_report r;
	struct inject_preflight p;
	struct err e;
	assert_int_equal(inject_preflight(t.pid, &p, &e), 0);
	assert_true(p.seccomp);
	assert_int_equal(load(t.pid, "count", "abc", &r), 0);
	assert_int_equal(r.value, 10003);
	struct world *w;
	uint64_t value = 0;
	assert_int_equal(world_stop(t.pid, 1000000000, &w, &e), 0);
	assert_int_equal(world_syscall(w, SYS_getpid, (uint64_t[6]){ 0 }, &value, &e), 0);
	world_resume(w);
	assert_int_equal(value, t.pid);
	finish(t);
}

static void another_user_not_dumpable(void **state)
{
	if (geteuid())
		skip();
	char lib[] = "/tmp/ptrace_test_XXXXXX"; /* the build folder need not be open to that user; the program is opened before */
	struct inject_preflight p;
	struct inject_report r;
	struct err e;
	assert_non_null(mkdtemp(lib));
	char program[64], command[600];
	snprintf(program, sizeof program, "%s/target", lib);
	snprintf(command, sizeof command, "cp '%s' %s && chmod 755 %s %s", target, program, lib, program);
	assert_int_equal(system(command), 0);
	struct run t = start_as(program, 65534, NULL, (char *[]){ "threads", "3", "undumpable", NULL });
	assert_int_equal(inject_preflight(t.pid, &p, &e), 0);
	assert_int_equal(p.obstacle, INJECT_NONE);
	assert_true(p.other_user && p.not_dumpable);
	assert_int_equal(load(t.pid, "count", NULL, &r), 0);
	finish(t);
	unlink(program);
	rmdir(lib);
}

/* A root directory with the target and its libraries, but no /proc. */
static void in_a_chroot(void **state)
{
	if (geteuid())
		skip();
	char root[] = "/tmp/ptrace_test_XXXXXX", command[1200];
	struct inject_preflight p;
	struct inject_report r;
	struct err e;
	assert_non_null(mkdtemp(root));
	snprintf(command, sizeof command, "cp '%s' %s/target && mkdir %s/tmp && ldd '%s' | grep -o '/[^ ]*' | while read f; do mkdir -p %s/$(dirname $f); "
		"cp -L $f %s$f; done", target, root, root, target, root, root);
	assert_int_equal(system(command), 0);
	struct run t = start_as("/target", 0, root, (char *[]){ "threads", "2", NULL });
	int fds = entries(t.pid, "fd"), left = residue(t.pid);
	assert_int_equal(inject_preflight(t.pid, &p, &e), 0);
	assert_true(p.chroot);
	assert_int_equal(load(t.pid, "count", "ab", &r), 0);
	assert_int_equal(r.value, 10002);
	assert_int_equal(load(t.pid, "count", "ab", &r), 0);
	assert_int_equal(r.value, 20002);
	assert_int_equal(entries(t.pid, "fd"), fds);
	assert_int_equal(residue(t.pid), left);
	snprintf(command, sizeof command, "test -z \"$(ls -A %s/tmp)\"", root);
	assert_int_equal(system(command), 0);
	finish(t);
	snprintf(command, sizeof command, "rm -r %s", root);
	assert_int_equal(system(command), 0);
}

/* ---- the world ---- */

static void interrupted_calls_go_on(void **state)
{
	struct run t = START("threads", "18", "compute", "calls");
	struct err e = { 0 };
	for (int i = 0; i < 30; i++) {
		struct world *w;
		const struct world_thread *threads;
		assert_int_equal(world_stop(t.pid, 5000000000, &w, &e), 0);
		uint32_t n = world_threads(w, &threads);
		assert_int_equal(n, 21);
		for (uint32_t k = 0; k < n; k++) {
			assert_true(threads[k].ip && threads[k].sp);
			assert_int_equal(world_set_ip(w, k, threads[k].ip), 0);
		}
		uint64_t at = 0, failed = 0;
		assert_int_equal(world_syscall(w, SYS_mmap, (uint64_t[6]){ 0, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, (uint64_t)-1, 0 }, &at, &e), 0);
		assert_true(at && at < (uint64_t)-4095);
		assert_int_equal(world_syscall(w, SYS_munmap, (uint64_t[6]){ at, 4096 }, &failed, &e), 0);
		assert_int_equal(failed, 0);
		assert_int_equal(world_syscall(w, SYS_close, (uint64_t[6]){ 12345 }, &failed, &e), 0);
		assert_int_equal((int64_t)failed, -EBADF);
		int64_t elapsed = world_elapsed(w);
		assert_true(elapsed > 0 && world_resume(w) >= elapsed);
	}
	finish(t);
}

static void two_hundred_threads(void **state)
{
	struct run t = START("threads", "200");
	struct world *w;
	const struct world_thread *threads;
	struct err e = { 0 };
	assert_int_equal(world_stop(t.pid, 10000000000, &w, &e), 0);
	uint32_t n = world_threads(w, &threads);
	assert_int_equal(n, 201);
	for (uint32_t i = 0; i < n; i++)
		assert_int_equal(status_number(t.pid, threads[i].tid, "State:"), 't');
	pid_t some = threads[77].tid;
	world_resume(w);
	assert_int_equal(status_number(t.pid, some, "TracerPid:"), 0);
	/* Not enough time: nobody is left standing. */
	assert_int_equal(world_stop(t.pid, 1, &w, &e), KLIEG_E_LIMIT);
	assert_non_null(strstr(e.msg, "threads"));
	assert_int_equal(status_number(t.pid, some, "TracerPid:"), 0);
	assert_int_equal(status_number(t.pid, t.pid, "TracerPid:"), 0);
	finish(t);
}

static void signals_are_not_lost(void **state)
{
	struct run t = START("threads", "9", "signals");
	struct inject_report r;
	struct err e = { 0 };
	for (int i = 0; i < 200; i++) {
		assert_int_equal(sigqueue(t.pid, SIGRTMIN, (union sigval){ .sival_int = i }), 0);
		if (i % 4 == 0) {
			struct world *w;
			assert_int_equal(world_stop(t.pid, 5000000000, &w, &e), 0);
			assert_int_equal(sigqueue(t.pid, SIGRTMIN, (union sigval){ .sival_int = i }), 0);
			world_resume(w);
		}
		if (i % 40 == 0)
			assert_int_equal(load(t.pid, "count", NULL, &r), 0);
	}
	assert_int_equal(finish(t), 250);
}

/* ---- what cannot be ---- */

static void refusals(void **state)
{
	struct inject_preflight p;
	struct err e = { 0 };
	assert_int_equal(inject_preflight(0, &p, &e), KLIEG_E_NO_TARGET);
	assert_int_equal(inject_preflight(99999999, &p, &e), KLIEG_E_NO_TARGET);
	assert_refused(getpid(), INJECT_SELF, KLIEG_E_CONFLICT, "itself");

	struct run t = start_as(target_static, 0, NULL, (char *[]){ "threads", "1", NULL });
	assert_refused(t.pid, INJECT_STATIC, KLIEG_E_UNSUPPORTED, "statically");
	finish(t);
	if (target_musl) {
		t = start_as(target_musl, 0, NULL, (char *[]){ "threads", "1", NULL });
		assert_refused(t.pid, INJECT_MUSL, KLIEG_E_UNSUPPORTED, "musl");
		finish(t);
	}
	t = START("threads", "1", "eintr"); /* being stopped and continued, not by us, ends some waits */
	siginfo_t si;
	assert_int_equal(kill(t.pid, SIGSTOP), 0);
	assert_int_equal(waitid(P_PID, (id_t)t.pid, &si, WSTOPPED), 0);
	assert_refused(t.pid, INJECT_STOPPED, KLIEG_E_BUSY, "CONT");
	assert_int_equal(kill(t.pid, SIGCONT), 0);
	finish(t);

	pid_t zombie = fork();
	if (!zombie)
		_exit(0);
	assert_int_equal(waitid(P_PID, (id_t)zombie, &si, WEXITED | WNOWAIT), 0);
	assert_refused(zombie, INJECT_ZOMBIE, KLIEG_E_NO_TARGET, "ended");
	waitpid(zombie, NULL, 0);
}

static void two_tracers(void **state)
{
	struct run t = START("threads", "2");
	int pipes[2];
	struct world *w;
	struct err e = { 0 };
	struct inject_report r;
	char c;
	assert_int_equal(pipe(pipes), 0);
	pid_t other = fork();
	if (!other) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		c = ptrace(PTRACE_SEIZE, t.pid, 0, 0) ? 'n' : 'y';
		_exit(write(pipes[1], &c, 1) == 1 ? pause() : 1);
	}
	assert_int_equal(read(pipes[0], &c, 1), 1);
	assert_int_equal(c, 'y');
	assert_refused(t.pid, INJECT_TRACED, KLIEG_E_CONFLICT, "already traced");
	assert_int_equal(world_stop(t.pid, 1000000000, &w, &e), KLIEG_E_CONFLICT);
	char word[32];
	snprintf(word, sizeof word, "pid %d", other);
	assert_non_null(strstr(e.msg, word));
	kill(other, SIGKILL);
	waitpid(other, NULL, 0);
	close(pipes[0]);
	close(pipes[1]);
	assert_int_equal(load(t.pid, "count", NULL, &r), 0);
	finish(t);
}

/* ---- sudden ends ---- */

static void wait_ns(int64_t ns)
{
	for (int64_t until = clock_mono() + ns; clock_mono() < until;) {
	}
}

static void target_dies(void **state)
{
	for (int i = 0; i < 25; i++) {
		struct run t = START("threads", "3", "calls");
		struct inject_report r;
		struct err e = { 0 };
		pid_t killer = fork();
		if (!killer) {
			wait_ns(i * 200000);
			_exit(kill(t.pid, SIGKILL));
		}
		int code = i & 1 ? inject_load(t.pid, library, "count", NULL, 0, &r, &e) : 0;
		while (!(i & 1) && !code) {
			struct world *w;
			code = world_stop(t.pid, 1000000000, &w, &e);
			if (!code)
				world_resume(w);
		}
		if (code < 0 && code != KLIEG_E_NO_TARGET)
			print_message("%d %s\n", code, e.msg);
		assert_true(code == 0 || code == KLIEG_E_NO_TARGET);
		if (code < 0)
			assert_true(e.msg[0]);
		waitpid(killer, NULL, 0);
		put_away(t);
	}
}

/* The tracer is killed at any moment: the threads go on with their own registers, masks, errno. A wait may have ended with EINTR. */
static void tracer_dies(void **state)
{
	struct run t = START("threads", "18", "compute", "calls", "eintr");
	for (int i = 0; i < 120; i++) {
		pid_t tracer = fork();
		if (!tracer) {
			struct inject_report r;
			struct err e;
			for (;;) {
				struct world *w;
				uint64_t value;
				if (i & 1)
					inject_load(t.pid, library, "count", "abc", 4, &r, &e);
				else if (!world_stop(t.pid, 1000000000, &w, &e)) {
					world_syscall(w, SYS_getppid, (uint64_t[6]){ 0 }, &value, &e);
					world_resume(w);
				}
			}
		}
		wait_ns(1500000 + i * 37000);
		kill(tracer, SIGKILL);
		waitpid(tracer, NULL, 0);
		assert_int_equal(status_number(t.pid, t.pid, "TracerPid:"), 0);
	}
	/* What it ran for the last tracer it ends by itself; then its signal mask is its own. (While it waits in sigtimedwait, those are open.) */
	unsigned long own = 1ul << (SIGTERM - 1) | 1ul << (SIGUSR2 - 1), blocked = ~0ul;
	for (int64_t until = clock_mono() + 10000000000; blocked & ~own && clock_mono() < until;) {
		char path[64], line[256];
		snprintf(path, sizeof path, "/proc/%d/status", t.pid);
		FILE *f = fopen(path, "r");
		while (fgets(line, sizeof line, f))
			sscanf(line, "SigBlk: %lx", &blocked);
		fclose(f);
	}
	assert_int_equal(blocked & ~own, 0);
	struct inject_report r;
	assert_int_equal(load(t.pid, "count", NULL, &r), 0);
	finish(t);
}

int main(int argc, char **argv)
{
	if (argc < 6)
		return 2;
	target = argv[1];
	target_tls = argv[2];
	target_static = argv[3];
	library = argv[4];
	library_crash = argv[5];
	target_musl = argc > 6 ? argv[6] : NULL;
	cmocka_set_test_filter(getenv("T")); /* one of them alone */
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(loads_and_leaves_nothing), cmocka_unit_test(bad_libraries), cmocka_unit_test(crashes_are_contained),
		cmocka_unit_test(busy_threads_and_large_tls), cmocka_unit_test(seccomp_filter), cmocka_unit_test(another_user_not_dumpable),
		cmocka_unit_test(in_a_chroot), cmocka_unit_test(interrupted_calls_go_on), cmocka_unit_test(two_hundred_threads),
		cmocka_unit_test(signals_are_not_lost), cmocka_unit_test(refusals), cmocka_unit_test(two_tracers), cmocka_unit_test(target_dies),
		cmocka_unit_test(tracer_dies),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
