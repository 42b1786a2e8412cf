/* A program that is hard to get into: does what argv[1] says to itself, then works like any other. "seccomp": a filter that refuses most calls, and kills
 * for opening files; "user": another user; "nodump": not dumpable; "chroot": in the directory argv[2]; "mount": a mount namespace whose /proc is gone;
 * "pid": a PID namespace; "threads": 200 idle threads. */
#include "target.h"
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

HOOKED uint64_t inner(uint64_t x)
{
	COUNTED(inner);
	return mix(x, 5);
}
HOOKED uint64_t outer(uint64_t x)
{
	COUNTED(outer);
	uint64_t a = inner(x);
	AFTER_CALL(a);
	return a ^ x;
}

static uint64_t go(long rounds)
{
	uint64_t h = 0;
	for (long i = 0; i < rounds; i++)
		h = outer(h);
	return h;
}

static void *idle(void *arg)
{
	for (;;)
		pause();
	return arg;
}

static int confine(const char *how, const char *dir)
{
	if (!strcmp(how, "seccomp")) {
		/* Reads, writes, exits, waits; memory as malloc needs it. Everything else is EPERM, an open is death. */
		static struct sock_filter f[] = {
			BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
			BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_openat, 0, 1), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
			BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_read, 7, 0), BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_write, 6, 0),
			BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_exit_group, 5, 0), BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_brk, 4, 0),
			BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_fstat, 3, 0), BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_newfstatat, 2, 0),
			BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getpid, 1, 0), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
			BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
		};
		struct sock_fprog p = { sizeof f / sizeof *f, f };
		return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &p);
	}
	if (!strcmp(how, "user"))
		return setgid(65534) || setuid(65534);
	if (!strcmp(how, "nodump"))
		return setgid(65534) || setuid(65534) || prctl(PR_SET_DUMPABLE, 0);
	if (!strcmp(how, "chroot"))
		return !dir || chdir(dir) || chroot(dir) || chdir("/");
	if (!strcmp(how, "mount"))
		return unshare(CLONE_NEWNS) || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) ||
			mount("none", "/tmp", "tmpfs", 0, NULL) || umount2("/proc", MNT_DETACH);
	if (!strcmp(how, "threads")) {
		pthread_attr_t a;
		pthread_t t;
		pthread_attr_init(&a);
		pthread_attr_setstacksize(&a, 65536);
		for (int i = 0; i < 200; i++)
			if (pthread_create(&t, &a, idle, NULL))
				return 1;
		return 0;
	}
	if (!strcmp(how, "pid")) {
		if (unshare(CLONE_NEWPID))
			return 1;
		pid_t child = fork();
		if (child > 0) { /* outside: only waits; who we are to the test is our child */
			int s;
			printf("child %d\n", (int)child);
			fflush(stdout);
			close(0);
			waitpid(child, &s, 0);
			_exit(WIFEXITED(s) ? WEXITSTATUS(s) : 1);
		}
		return child < 0 || prctl(PR_SET_PDEATHSIG, SIGKILL);
	}
	return -1;
}

int main(int argc, char **argv)
{
	if (argc > 1 && confine(argv[1], argv[2])) {
		perror(argv[1]);
		return 1;
	}
	return target_loop(go, NULL);
}
