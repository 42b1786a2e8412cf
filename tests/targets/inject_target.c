/* A program that notices whatever being traced does to it: its threads wait in every way that a trace interrupts, or compute, and count what they
 * did not expect. usage: inject_target [threads N] [compute] [calls] [seccomp] [undumpable]
 * [eintr] [signals]; says "ready"; SIGTERM: says what was odd, exit status 0 if nothing. */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/select.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#ifdef __GLIBC__ /* musl's compiler does not see the kernel's headers */
#include <linux/filter.h>
#include <linux/seccomp.h>
#endif

static atomic_int odd, waiting;
static atomic_bool ending;
static atomic_long signals;
static bool eintr_is_fine; /* our tracer gets killed: a wait that it had interrupted ends with EINTR */
static int quiet[2];      /* a pipe that nothing comes through */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t never = PTHREAD_COND_INITIALIZER;
#ifdef LARGE_TLS
static __thread char large[4 << 20];
#endif

static void strange(const char *what)
{
	if (errno == EINTR && eintr_is_fine)
		return;
	odd++;
	fprintf(stderr, "odd: %s: %s\n", what, strerror(errno));
}

/* All general and vector registers carry values through a loop that no other code should disturb. */
static void compute(void)
{
	volatile double seed = 1.5;
	while (!ending) {
		double a = seed, b = seed * 3, c = seed * 5, d = seed * 7;
		uint64_t x = 1, y = 2, z = 3, w = 4;
		for (unsigned i = 0; i < 100000; i++) {
			a += 1; b += 2; c += 3; d += 4;
			x += 5; y += x ^ 5; z += 7; w += z & 9;
			__asm__ volatile("" : "+x"(a), "+x"(b), "+x"(c), "+x"(d), "+r"(x), "+r"(y), "+r"(z), "+r"(w));
		}
		if (a != seed + 100000 || b != seed * 3 + 200000 || c != seed * 5 + 300000 || d != seed * 7 + 400000 || x != 500001 || z != 700003)
			strange("registers changed");
		static _Atomic uint64_t first;
		uint64_t none = 0;
		if (!atomic_compare_exchange_strong(&first, &none, y + w) && none != y + w)
			strange("a result changed");
	}
}

static void *waiter(void *arg)
{
	long kind = (long)arg % 9;
	struct epoll_event ev;
	int ep = epoll_create1(0);
	sigset_t none, usr2;
	char c;
	pthread_sigmask(SIG_SETMASK, NULL, &none); /* as it is: main's signals are not for us */
	sigemptyset(&usr2);
	sigaddset(&usr2, SIGUSR2);
	waiting++;
	while (!ending) {
		errno = 0;
		switch (kind) {
		case 0:
			if (epoll_wait(ep, &ev, 1, 100000) < 0)
				strange("epoll_wait");
			break;
		case 1:
			if (read(quiet[0], &c, 1) < 0)
				strange("read");
			break;
		case 2:
			pthread_mutex_lock(&lock);
			pthread_cond_wait(&never, &lock);
			pthread_mutex_unlock(&lock);
			break;
		case 3:
			if (clock_nanosleep(CLOCK_MONOTONIC, 0, &(struct timespec){ .tv_sec = 100 }, NULL))
				strange("clock_nanosleep");
			break;
		case 4:
			if (sigtimedwait(&usr2, NULL, &(struct timespec){ .tv_sec = 100 }) < 0)
				strange("sigtimedwait");
			break;
		case 5:
			if (poll(&(struct pollfd){ .fd = quiet[0], .events = POLLIN }, 1, 100000) < 0)
				strange("poll");
			break;
		case 6: {
			fd_set set;
			FD_ZERO(&set);
			FD_SET(quiet[0], &set);
			if (pselect(quiet[0] + 1, &set, NULL, NULL, &(struct timespec){ .tv_sec = 100 }, &none) < 0)
				strange("pselect");
			break;
		}
		case 7: { /* short sleeps: each must last */
			struct timespec a, b;
			clock_gettime(CLOCK_MONOTONIC, &a);
			if (nanosleep(&(struct timespec){ .tv_nsec = 2000000 }, NULL))
				strange("nanosleep");
			clock_gettime(CLOCK_MONOTONIC, &b);
			if ((b.tv_sec - a.tv_sec) * 1000000000ll + b.tv_nsec - a.tv_nsec < 2000000)
				strange("woke early");
			break;
		}
		case 8:
			if (epoll_pwait(ep, &ev, 1, 100000, &none) < 0)
				strange("epoll_pwait");
		}
	}
	return NULL;
}

static void *computer(void *arg)
{
	compute();
	return NULL;
}

/* System calls all the time, never a wait; errno must stay what the call made it. */
static void *caller(void *arg)
{
	while (!ending) {
		errno = 0;
		if (write(-1, "", 1) != -1 || errno != EBADF)
			strange("write");
	}
	return NULL;
}

static void on_signal(int sig)
{
	signals++;
}

/* Kills the process for everything but what a waiting program needs. */
static void filter(void)
{
#ifdef __GLIBC__
	static const int allowed[] = { SYS_read, SYS_write, SYS_clock_nanosleep, SYS_nanosleep, SYS_restart_syscall, SYS_rt_sigreturn, SYS_rt_sigtimedwait,
		SYS_exit_group, SYS_exit };
	enum { N = sizeof allowed / sizeof *allowed };
	struct sock_filter f[N + 3] = { BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)) };
	for (unsigned i = 0; i < N; i++)
		f[1 + i] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)allowed[i], (unsigned char)(N - i), 0);
	f[N + 1] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS);
	f[N + 2] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	struct sock_fprog p = { N + 3, f };
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &p))
		strange("seccomp");
#endif
}

int main(int argc, char **argv)
{
	sigset_t term;
	sigemptyset(&term);
	sigaddset(&term, SIGTERM);
	sigaddset(&term, SIGUSR2);
	sigaddset(&term, SIGRTMIN); /* main alone handles it */
	pthread_sigmask(SIG_BLOCK, &term, NULL);
	sigdelset(&term, SIGUSR2);
	signal(SIGTRAP, SIG_IGN); /* a tracer that raises SIGTRAP would reset this */
	struct sigaction queued = { .sa_handler = on_signal, .sa_flags = SA_RESTART };
	if (pipe(quiet))
		strange("pipe");
	pthread_attr_t small;
	pthread_attr_init(&small);
	pthread_attr_setstacksize(&small, 65536);
#ifdef LARGE_TLS
	large[0] = 1;
	pthread_attr_setstacksize(&small, 8 << 20);
#endif
	bool with_filter = false;
	for (int i = 1; i < argc; i++) {
		pthread_t t;
		if (!strcmp(argv[i], "threads") && i + 1 < argc) {
			long n = atol(argv[++i]);
			int before = waiting;
			for (long k = 0; k < n; k++)
				if (pthread_create(&t, &small, waiter, (void *)k))
					strange("pthread_create");
			while (waiting < before + n)
				sched_yield();
		} else if (!strcmp(argv[i], "compute")) {
			if (pthread_create(&t, &small, computer, NULL))
				strange("pthread_create");
		} else if (!strcmp(argv[i], "calls")) {
			if (pthread_create(&t, &small, caller, NULL))
				strange("pthread_create");
		} else if (!strcmp(argv[i], "seccomp")) {
			with_filter = true;
		} else if (!strcmp(argv[i], "undumpable")) {
			prctl(PR_SET_DUMPABLE, 0);
		} else if (!strcmp(argv[i], "eintr")) {
			eintr_is_fine = true;
		} else if (!strcmp(argv[i], "signals")) { /* real-time ones: each is queued, none may be lost */
			sigaction(SIGRTMIN, &queued, NULL);
		} else if (!strcmp(argv[i], "spin")) { /* no other thread, no system call */
			(void)!write(1, "ready\n", 6);
			for (;;)
				__asm__ volatile("" ::: "memory");
		} else {
			fprintf(stderr, "inject_target: what is %s?\n", argv[i]);
			return 2;
		}
	}
	sigset_t queue;
	sigemptyset(&queue);
	sigaddset(&queue, SIGRTMIN);
	sigdelset(&term, SIGRTMIN);
	pthread_sigmask(SIG_UNBLOCK, &queue, NULL);
	if (with_filter)
		filter();
	(void)!write(1, "ready\n", 6);
	siginfo_t si;
	while (sigtimedwait(&term, &si, &(struct timespec){ .tv_sec = 60 }) < 0 && errno == EINTR)
		if (!signals)
			strange("sigtimedwait in main");
	ending = true;
	struct sigaction trap;
	if (!with_filter && (sigaction(SIGTRAP, NULL, &trap) || trap.sa_handler != SIG_IGN))
		strange("SIGTRAP is no longer ignored");
	char text[64];
	int n = snprintf(text, sizeof text, "odd %d signals %ld\n", (int)odd, (long)signals);
	(void)!write(1, text, (size_t)n);
	_exit(odd != 0);
}
