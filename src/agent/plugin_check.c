/* Tries a plugin out in a forked child before it gets anywhere near a traced process: loads it, calls klieg_plugin() with a host
 * that does nothing, looks through all that it declares. What crashes, hangs or exits does so there. The answer comes back
 * through a pipe. Any thread; blocks for at most 5 s. */
#include "agent/plugins.h"
#include "base/buf.h"
#include "klieg/plugin.h"
#include <ctype.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { HOOKS = 256, PATIENCE_MS = 5000 };
struct verdict { int rc; char text[252]; };

/* ---- in the child -------------------------------------------------------------------------------------------------- */

static int own_mem = -1; /* /proc/self/mem: reads addresses that may be anything */

static bool get(const void *at, void *to, size_t n) { return at && pread(own_mem, to, n, (off_t)(uintptr_t)at) == (ssize_t)n; }

/* Is it a text of 1 (or, if it may be missing, 0) to max printable bytes? */
static bool is_text(const char *at, size_t max, bool may_be_missing)
{
	char text[256];
	if (!at)
		return may_be_missing;
	for (size_t n = 0; n <= max && n < sizeof text; n++) {
		if (!get(at + n, text + n, 1) || ((unsigned char)text[n] < ' ' && text[n]))
			return false;
		if (!text[n])
			return (n || may_be_missing) && str_utf8_valid((struct str){ text, n });
	}
	return false;
}

static bool is_name(const char *at)
{
	if (!is_text(at, 31, false))
		return false;
	for (; *at; at++)
		if (!islower((unsigned char)*at) && !isdigit((unsigned char)*at) && *at != '-')
			return false;
	return true;
}

static int fail(struct verdict *v, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static int fail(struct verdict *v, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(v->text, sizeof v->text, fmt, ap);
	va_end(ap);
	return v->rc = KLIEG_E_BAD_DATA;
}

static int check_hook(struct verdict *v, const struct klieg_plugin *k, uint32_t i)
{
	struct klieg_plugin_hook h;
	if (!get((const char *)k->hooks + (size_t)i * k->hook_size, &h, sizeof h))
		return fail(v, "its hook %u of %u cannot be read", i, k->nhooks);
	if (!is_text(h.function, 127, false))
		return fail(v, "hook %u: the function's name is missing, too long or no text", i);
	if (!is_text(h.library, 127, true) || !is_text(h.site, 127, true))
		return fail(v, "hook %u (%s): library or site is too long or no text", i, h.function);
	if (h.kind > KLIEG_KIND_CONSUMER || h.kind & 1)
		return fail(v, "hook %u (%s): %u is no kind of span", i, h.function, h.kind);
	if (h.fails > KLIEG_FAILS_NULL || h.level > KLIEG_LEVEL_DEEP)
		return fail(v, "hook %u (%s): fails %u or level %u is out of range", i, h.function, h.fails, h.level);
	return 0;
}

static int check(struct verdict *v, const struct klieg_plugin *at)
{
	uint32_t head[2];
	struct klieg_plugin k;
	if (!at)
		return fail(v, "it says that it cannot work with this Klieg");
	if (!get(at, head, sizeof head))
		return fail(v, "what klieg_plugin() returned cannot be read");
	if (head[1] != KLIEG_PLUGIN_ABI)
		return fail(v, "it was built for plugin ABI %u, this Klieg has %u", head[1], KLIEG_PLUGIN_ABI);
	if (head[0] < sizeof k || !get(at, &k, sizeof k))
		return fail(v, "its struct klieg_plugin has %u bytes, at least %zu are needed", head[0], sizeof k);
	if (!is_name(k.name))
		return fail(v, "its name is none: 1 to 31 of a-z, 0-9 and - are allowed");
	if (!is_text(k.version, 31, true) || !is_text(k.fits, 159, true) || !is_text(k.program, 63, true) ||
		!is_text(k.unfit, 159, true))
		return fail(v, "a text that it declares (version, fits, program, unfit) is too long or no text");
	if (k.nhooks > HOOKS || (k.nhooks && k.hook_size < sizeof(struct klieg_plugin_hook)))
		return fail(v, "it declares %u hooks of %u bytes: at most %d of at least %zu are possible", k.nhooks, k.hook_size, HOOKS,
			sizeof(struct klieg_plugin_hook));
	if (!k.nhooks && !k.unfit)
		return fail(v, "it declares no hooks and no reason");
	for (uint32_t i = 0; i < k.nhooks; i++)
		if (check_hook(v, &k, i))
			return v->rc;
	return 0;
}

/* A host for klieg_plugin(): there is no call yet, so what is for calls has nothing to do. */
static void no_text(struct klieg_call *c, const char *k, const char *t, size_t n, unsigned f)
{
	(void)c; (void)k; (void)t; (void)n; (void)f;
}
static void no_number(struct klieg_call *c, const char *k, unsigned t, uint64_t b) { (void)c; (void)k; (void)t; (void)b; }
static void no_address(struct klieg_call *c, const char *p, const void *s, size_t n) { (void)c; (void)p; (void)s; (void)n; }
static void no_query(struct klieg_call *c, const char *s, size_t n) { (void)c; (void)s; (void)n; }
static void no_status(struct klieg_call *c, int e, const char *t) { (void)c; (void)e; (void)t; }
static size_t own_read(void *to, const void *from, size_t n)
{
	ssize_t got = pread(own_mem, to, n, (off_t)(uintptr_t)from);
	return got > 0 ? (size_t)got : 0;
}
static long own_read_text(char *to, size_t n, const char *from)
{
	size_t got = n ? own_read(to, from, n - 1) : 0;
	if (n)
		to[got] = 0;
	return got ? (long)strlen(to) : -1;
}
static int no_parent(struct klieg_call *c, const char *(*g)(void *, const char *), void *a)
{
	(void)c; (void)g; (void)a; return 0;
}
static int no_headers(struct klieg_call *c, struct klieg_plugin_headers *h)
{
	(void)c; h->traceparent[0] = h->tracestate[0] = 0; return 0;
}
static void no_drop(struct klieg_call *c) { (void)c; }
static int no_key(struct klieg_call *c, const void *key) { (void)c; (void)key; return 0; }
static uint64_t now_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}
static long no_option(const char *p, const char *k, char *v, size_t n) { (void)p; (void)k; (void)v; (void)n; return -1; }
static void no_note(const char *p, const char *t) { (void)p; (void)t; }
static int no_filter(void) { return 0; }
static int no_reading(struct klieg_call *c, int fd) { return 0; }
static __thread struct klieg_waiting no_queue __attribute__((tls_model("initial-exec")));
static struct klieg_waiting *own_waiting(void) { return &no_queue; }

_Static_assert(sizeof(struct klieg_host) == offsetof(struct klieg_host, waiting) + sizeof(void *), "what is added to the table is needed here, too");
static const struct klieg_host host = { sizeof host, KLIEG_PLUGIN_ABI, "0.1.0", no_text, no_number, no_address, no_query,
	no_status, own_read, own_read_text, no_parent,
	no_headers, no_drop, no_key, no_key, no_key, no_key, now_ns, no_option, no_note, no_filter, no_reading, own_waiting };

static _Noreturn void child(const char *path, int out)
{
	struct verdict v = { 0 };
	sigset_t none;
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	for (int sig = 1; sig < NSIG; sig++)
		signal(sig, SIG_DFL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	setrlimit(RLIMIT_CORE, &(struct rlimit){ 0, 0 });
	out = fcntl(out, F_DUPFD_CLOEXEC, 10);
	for (int fd = 0; null >= 0 && fd < 3; fd++)
		dup2(null, fd);
	if (out < 0 || dup3(out, 3, O_CLOEXEC) < 0)
		_exit(125);
	syscall(SYS_close_range, 4u, ~0u, 0u); /* nothing of the agent's is left to it but the pipe */
	own_mem = open("/proc/self/mem", O_RDONLY | O_CLOEXEC);
	void *so = dlopen(path, RTLD_NOW | RTLD_LOCAL);
	const struct klieg_plugin *(*entry)(const struct klieg_host *) = NULL;
	if (!so) {
		const char *why = dlerror();
		fail(&v, "it cannot be loaded: %s", why ? why : "no reason given");
	} else if (!(*(void **)&entry = dlsym(so, "klieg_plugin"))) {
		fail(&v, "it is no plugin: it has no function klieg_plugin");
	} else {
		check(&v, entry(&host));
	}
	_exit(write(3, &v, sizeof v) == (ssize_t)sizeof v ? 0 : 125);
}

/* ---- in the agent -------------------------------------------------------------------------------------------------- */

/* The child's answer, which is one write: all or nothing. False: none came; *ret_late: because time was up. */
static bool answer(int in, struct verdict *ret_v, bool *ret_late)
{
	uint64_t end = now_ns() + PATIENCE_MS * 1000000ull, now;
	*ret_late = false;
	while ((now = now_ns()) < end) {
		int rc = poll(&(struct pollfd){ in, POLLIN, 0 }, 1, (int)((end - now) / 1000000) + 1);
		if (rc > 0)
			return read(in, ret_v, sizeof *ret_v) == (ssize_t)sizeof *ret_v;
		if (rc < 0 && errno != EINTR)
			return false;
	}
	*ret_late = true;
	return false;
}

int plugin_check(const char *path, char ret_text[256])
{
	int fd[2], status = 0;
	struct verdict v;
	bool late;
	if (pipe2(fd, O_CLOEXEC) < 0) {
		snprintf(ret_text, 256, "no pipe for its trial: %s", strerror(errno));
		return err_from_errno(errno);
	}
	pid_t pid = fork();
	if (pid == 0)
		child(path, fd[1]);
	int why = errno;
	close(fd[1]);
	if (pid < 0) {
		close(fd[0]);
		snprintf(ret_text, 256, "no process for its trial: %s", strerror(why));
		return err_from_errno(why);
	}
	bool said = answer(fd[0], &v, &late);
	close(fd[0]);
	if (!said && late)
		kill(pid, SIGKILL);
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {}
	if (said && v.rc < 0) {
		snprintf(ret_text, 256, "%.251s", v.text);
		return KLIEG_E_BAD_DATA;
	}
	if (late)
		snprintf(ret_text, 256, "it did not finish loading within %d s", PATIENCE_MS / 1000);
	else if (WIFSIGNALED(status))
		snprintf(ret_text, 256, "it crashed in its trial: %s", strsignal(WTERMSIG(status)));
	else if (!said)
		snprintf(ret_text, 256, "it ended its process in its trial (exit status %d)", WEXITSTATUS(status));
	else
		return 0;
	return KLIEG_E_BAD_DATA;
}
