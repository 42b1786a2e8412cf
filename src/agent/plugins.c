/* Finds instrumentors on disk, tries them out in a forked child before they get anywhere near a traced process, and reads what they declare: from the child
 * by a pipe, from a traced process by its memory. Both are believed as little: a hook goes to the agent as bounded, checked text (struct plugin). */
#include "agent/plugins.h"
#include "base/buf.h"
#include "klieg/plugin.h"
#include "wire/plugin_area.h"
#include "wire/wire.h"
#include <ctype.h>
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifndef KLIEG_PLUGIN_DIR
#define KLIEG_PLUGIN_DIR "/usr/local/lib/klieg/plugins"
#endif

/* ---- where they are ------------------------------------------------------------------------------------------------ */

/* Calls fn for each directory, most wanted first, until it returns true. */
static bool each_dir(bool (*fn)(const char *dir, void *arg), void *arg)
{
	char dir[PATH_MAX], exe[PATH_MAX];
	const char *env = getenv("KLIEG_PLUGINS");
	while (env && *env) {
		size_t n = strcspn(env, ":");
		if (n && n < sizeof dir) {
			memcpy(dir, env, n);
			dir[n] = 0;
			if (fn(dir, arg))
				return true;
		}
		env += n + (env[n] == ':');
	}
	ssize_t n = readlink("/proc/self/exe", exe, sizeof exe - 1);
	if (n > 0) { /* moved as a whole, or run from where it was built */
		exe[n] = 0;
		char *slash = strrchr(exe, '/');
		if (slash)
			*slash = 0;
		static const char *const beside[] = { "/../lib/klieg/plugins", "/../plugins", "/plugins" };
		for (size_t i = 0; slash && i < sizeof beside / sizeof *beside; i++)
			if ((size_t)snprintf(dir, sizeof dir, "%s%s", exe, beside[i]) < sizeof dir && fn(dir, arg))
				return true;
	}
	return fn(KLIEG_PLUGIN_DIR, arg);
}

struct wanted { const char *name; char *path; };

/* NAME.so, or as Meson builds them NAME/NAME.so. */
static bool has(const char *dir, void *arg)
{
	struct wanted *w = arg;
	return ((size_t)snprintf(w->path, PATH_MAX, "%s/%s.so", dir, w->name) < PATH_MAX && access(w->path, R_OK) == 0) ||
		((size_t)snprintf(w->path, PATH_MAX, "%s/%s/%s.so", dir, w->name, w->name) < PATH_MAX && access(w->path, R_OK) == 0);
}

static bool good_name(const char *s)
{
	size_t n = 0;
	for (; s[n]; n++)
		if (!islower((unsigned char)s[n]) && !isdigit((unsigned char)s[n]) && s[n] != '-')
			return false;
	return n && n < sizeof ((struct plugin *)0)->name;
}

int plugins_find(const char *name, char ret_path[4096], struct err *e)
{
	char path[PATH_MAX];
	if (strchr(name, '/')) {
		if (!realpath(name, path) || access(path, R_OK))
			return err_set(e, KLIEG_E_NOT_FOUND, "plugin %.200s: %s", name, strerror(errno));
	} else if (!good_name(name) || !each_dir(has, &(struct wanted){ name, path })) {
		char *names = plugins_names();
		struct buf list = { 0 };
		for (const char *s = names; *s && list.n < 300; s += strlen(s) + 1)
			buf_printf(&list, "%s%s", list.n ? ", " : "", s);
		err_set(e, KLIEG_E_NOT_FOUND, "no plugin is named %.100s; there are: %.*s", name, (int)list.n, list.n ? (const char *)list.p : "");
		err_hint(e, "plugins are looked for in $KLIEG_PLUGINS and %s", KLIEG_PLUGIN_DIR);
		buf_finish(&list);
		free(names);
		return KLIEG_E_NOT_FOUND;
	}
	memcpy(ret_path, path, strlen(path) + 1);
	return 0;
}

struct names { char **v; size_t n; };

static bool collect(const char *dir, void *arg)
{
	struct names *all = arg;
	DIR *d = opendir(dir);
	struct dirent *f;
	while (d && (f = readdir(d)) && all->n < 1000) {
		char name[256], path[PATH_MAX];
		size_t n = strlen(f->d_name);
		bool so = n > 3 && !strcmp(f->d_name + n - 3, ".so");
		snprintf(name, sizeof name, "%.*s", (int)(so ? n - 3 : n), f->d_name);
		bool known = !good_name(name) || (!so && ((size_t)snprintf(path, sizeof path, "%s/%s/%s.so", dir, name, name) >= sizeof path || access(path, R_OK)));
		for (size_t i = 0; i < all->n && !known; i++)
			known = !strcmp(all->v[i], name);
		if (!known) {
			all->v = base_realloc(all->v, (all->n + 1) * sizeof *all->v);
			all->v[all->n++] = str_dup(str_of(name));
		}
	}
	if (d)
		closedir(d);
	return false;
}

static int by_name(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

char *plugins_names(void)
{
	struct names all = { 0 };
	struct buf b = { 0 };
	each_dir(collect, &all);
	if (all.n)
		qsort(all.v, all.n, sizeof *all.v, by_name);
	for (size_t i = 0; i < all.n; i++) {
		buf_add(&b, all.v[i], strlen(all.v[i]) + 1);
		free(all.v[i]);
	}
	free(all.v);
	buf_byte(&b, 0);
	return (char *)b.p;
}

/* ---- what a plugin declares, from memory that may say anything ------------------------------------------------------ */

/* Reads n bytes at an address: a traced process's memory, or our own in the forked child. */
struct source { int mem; };

static bool get(const struct source *s, uint64_t at, void *to, size_t n)
{
	return at && at <= INT64_MAX && pread(s->mem, to, n, (off_t)at) == (ssize_t)n;
}

/* Text of at most size - 1 printable bytes. NULL gives "". */
static bool get_text(const struct source *s, uint64_t at, char *ret, size_t size)
{
	ret[0] = 0;
	if (!at)
		return true;
	for (size_t n = 0; n < size; n++) { /* by the byte: the page behind may be missing */
		if (!get(s, at + n, ret + n, 1))
			return false;
		if (!ret[n])
			return str_utf8_valid((struct str){ ret, n });
		if ((unsigned char)ret[n] < ' ' || ret[n] == 0x7f)
			return false;
	}
	return false;
}

static int read_plugin(const struct source *s, uint64_t at, struct plugin *p, struct err *e)
{
	struct klieg_plugin k;
	uint32_t head[2];
	if (!at)
		return err_set(e, KLIEG_E_BAD_DATA, "the plugin says that it cannot work with this Klieg");
	if (!get(s, at, head, sizeof head))
		return err_set(e, KLIEG_E_BAD_DATA, "what klieg_plugin() returned is not readable");
	if (head[1] != KLIEG_PLUGIN_ABI)
		return err_set(e, KLIEG_E_BAD_DATA, "the plugin was built for plugin ABI %u; this Klieg has ABI %u", head[1], KLIEG_PLUGIN_ABI);
	if (head[0] < sizeof k || head[0] > 65536 || !get(s, at, &k, sizeof k))
		return err_set(e, KLIEG_E_BAD_DATA, "its struct klieg_plugin says it has %u bytes; at least %zu are needed", head[0], sizeof k);
	memset(p, 0, sizeof *p);
	if (!get_text(s, (uint64_t)(uintptr_t)k.name, p->name, sizeof p->name) || !good_name(p->name))
		return err_set(e, KLIEG_E_BAD_DATA, "its name is none: 1 to %zu of a-z, 0-9 and - are allowed", sizeof p->name - 1);
	if (!get_text(s, (uint64_t)(uintptr_t)k.version, p->version, sizeof p->version) || !get_text(s, (uint64_t)(uintptr_t)k.fits, p->fits, sizeof p->fits) ||
		!get_text(s, (uint64_t)(uintptr_t)k.program, p->program, sizeof p->program) || !get_text(s, (uint64_t)(uintptr_t)k.unfit, p->unfit, sizeof p->unfit))
		return err_set(e, KLIEG_E_BAD_DATA, "%s: a text that it declares is unreadable, not UTF-8, or too long (version %zu, fits %zu, program %zu, unfit %zu bytes)", p->name,
			sizeof p->version - 1, sizeof p->fits - 1, sizeof p->program - 1, sizeof p->unfit - 1);
	if (k.nhooks > PLUGINS_HOOKS_MAX || (k.nhooks && (k.hook_size < sizeof(struct klieg_plugin_hook) || k.hook_size > 4096 || k.hook_size % 8)))
		return err_set(e, KLIEG_E_BAD_DATA, "%s: %u hooks of %u bytes: at most %u of at least %zu are possible", p->name, k.nhooks, k.hook_size, PLUGINS_HOOKS_MAX,
			sizeof(struct klieg_plugin_hook));
	if (!k.nhooks && !*p->unfit)
		return err_set(e, KLIEG_E_BAD_DATA, "%s: no hooks, and no word why", p->name);
	for (uint32_t i = 0; i < k.nhooks; i++) {
		struct klieg_plugin_hook x;
		struct plugin_hook *h = &p->hooks[i];
		h->address = (uint64_t)(uintptr_t)k.hooks + (uint64_t)i * k.hook_size;
		if (!get(s, h->address, &x, sizeof x) || !get_text(s, (uint64_t)(uintptr_t)x.library, h->library, sizeof h->library) ||
			!get_text(s, (uint64_t)(uintptr_t)x.function, h->function, sizeof h->function) || !*h->function ||
			!get_text(s, (uint64_t)(uintptr_t)x.site, h->site, sizeof h->site))
			return err_set(e, KLIEG_E_BAD_DATA, "%s: hook %u of %u is unreadable or has a text that is no UTF-8 or too long (library and site %zu, function %zu bytes)", p->name, i,
				k.nhooks, sizeof h->library - 1, sizeof h->function - 1);
		if (!*h->site && strlen(h->function) >= sizeof h->site)
			return err_set(e, KLIEG_E_BAD_DATA, "%s: hook %u: the function's name is too long for a site's: give it one", p->name, i);
		if (!*h->site)
			memcpy(h->site, h->function, strlen(h->function) + 1);
		if (x.kind > KLIEG_KIND_CONSUMER || x.kind & 1)
			return err_set(e, KLIEG_E_BAD_DATA, "%s: hook %u (%s): %u is no kind of span", p->name, i, h->function, x.kind);
		h->kind = x.kind;
		h->flags = x.flags;
		h->min_ns = x.min_ns;
		h->handlers = x.enter || x.begin || x.leave || x.fails;
	}
	p->nhooks = k.nhooks;
	return 0;
}

int plugins_read(int mem, uint64_t address, struct plugin **ret_p, struct err *e)
{
	struct plugin *p = base_alloc(sizeof *p);
	int rc = read_plugin(&(struct source){ mem }, address, p, e);
	if (rc < 0)
		free(p);
	else
		*ret_p = p;
	return rc;
}

bool plugins_wants(const struct plugin *p, const char *program, const char *const *modules, uint32_t nmodules)
{
	if (*p->program && !str_glob(str_of(p->program), str_of(program)))
		return false;
	for (uint32_t i = 0; i < p->nhooks; i++) {
		if (!*p->hooks[i].library && *p->program)
			return true;
		for (uint32_t m = 0; m < nmodules && *p->hooks[i].library; m++)
			if (str_glob(str_of(p->hooks[i].library), str_of(modules[m])))
				return true;
	}
	return false;
}

int plugins_set_options(int mem, uint64_t host, const char *options, struct err *e)
{
	char text[KW_PLUGIN_OPTIONS] = { 0 };
	size_t n = strlen(options);
	if (!host)
		return err_set(e, KLIEG_E_UNSUPPORTED, "the libklieg in that process knows no plugins");
	if (n >= sizeof text)
		return err_set(e, KLIEG_E_LIMIT, "the plugins' options are %zu bytes long; %zu are possible", n, sizeof text - 1);
	memcpy(text, options, n);
	if (pwrite(mem, text, sizeof text, (off_t)(host + KW_PLUGIN_AREA)) != (ssize_t)sizeof text)
		return err_set(e, KLIEG_E_IO, "the plugins' options could not be written: %s", strerror(errno));
	return 0;
}

char *plugins_notes(int mem, uint64_t host)
{
	struct kw_plugin_area a;
	struct buf b = { 0 };
	if (host && get(&(struct source){ mem }, host + KW_PLUGIN_AREA, &a, sizeof a)) {
		for (uint32_t i = 0; i < a.notes_n && i < KW_PLUGIN_NOTES; i++) {
			struct kw_plugin_note *x = &a.notes[i];
			struct str who = { x->plugin, strnlen(x->plugin, sizeof x->plugin) }, what = { x->text, strnlen(x->text, sizeof x->text) };
			if (str_utf8_valid(who) && str_utf8_valid(what))
				buf_printf(&b, "%.*s: %.*s\n", (int)who.n, who.p, (int)what.n, what.p);
		}
		if (a.requests_lost)
			buf_printf(&b, "%lu requests were not followed: too many at once\n", (unsigned long)a.requests_lost);
	}
	buf_byte(&b, 0);
	return (char *)b.p;
}

/* ---- the dry run --------------------------------------------------------------------------------------------------- */

/* A host for klieg_plugin(): there is no call yet, so what is for calls does nothing. */
static void no_text(struct klieg_call *c, const char *k, const char *t, size_t n, unsigned f) { (void)c; (void)k; (void)t; (void)n; (void)f; }
static void no_number(struct klieg_call *c, const char *k, unsigned t, uint64_t b) { (void)c; (void)k; (void)t; (void)b; }
static void no_address(struct klieg_call *c, const char *p, const void *s, size_t n) { (void)c; (void)p; (void)s; (void)n; }
static void no_query(struct klieg_call *c, const char *s, size_t n) { (void)c; (void)s; (void)n; }
static void no_status(struct klieg_call *c, int e, const char *t) { (void)c; (void)e; (void)t; }
static int no_parent(struct klieg_call *c, const char *(*get)(void *, const char *), void *a) { (void)c; (void)get; (void)a; return 0; }
static int no_headers(struct klieg_call *c, struct klieg_plugin_headers *h) { (void)c; h->traceparent[0] = h->tracestate[0] = 0; return 0; }
static int no_key(struct klieg_call *c, const void *key) { (void)c; (void)key; return 0; }
static int own_mem = -1;
static size_t dry_read(void *to, const void *from, size_t n)
{
	ssize_t got = pread(own_mem, to, n, (off_t)(uintptr_t)from);
	return got > 0 ? (size_t)got : 0;
}
static long dry_read_text(char *to, size_t n, const char *from)
{
	size_t got = n ? dry_read(to, from, n - 1) : 0;
	if (!got)
		return -1;
	to[got] = 0;
	return (long)strlen(to);
}
static uint64_t dry_now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}
static long no_option(const char *p, const char *k, char *v, size_t n) { (void)p; (void)k; (void)v; (void)n; return -1; }
static void no_note(const char *p, const char *t) { (void)p; (void)t; }
static const struct klieg_host dry_host = { sizeof dry_host, KLIEG_PLUGIN_ABI, "0.1.0", no_text, no_number, no_address, no_query, no_status, dry_read, dry_read_text,
	no_parent, no_headers, no_key, no_key, no_key, no_key, dry_now, no_option, no_note };

/* What the child answers with. */
struct verdict { int rc; struct err e; struct plugin p; };

static _Noreturn void child(const char *path, int out)
{
	struct verdict *v = calloc(1, sizeof *v);
	sigset_t none;
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	for (int sig = 1; sig < NSIG; sig++)
		signal(sig, SIG_DFL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	setrlimit(RLIMIT_CORE, &(struct rlimit){ 0, 0 });
	setrlimit(RLIMIT_CPU, &(struct rlimit){ 5, 5 });
	for (int fd = 0; null >= 0 && fd < 3; fd++)
		dup2(null, fd);
	out = dup2(out, 3); /* nothing of ours is left to it but the pipe */
	syscall(SYS_close_range, 4u, ~0u, 0u);
	own_mem = open("/proc/self/mem", O_RDONLY | O_CLOEXEC);
	if (!v || out < 0 || own_mem < 0)
		_exit(3);
	void *so = dlopen(path, RTLD_NOW | RTLD_LOCAL);
	const struct klieg_plugin *(*entry)(const struct klieg_host *) = NULL;
	if (!so) {
		const char *why = dlerror();
		v->rc = err_set(&v->e, KLIEG_E_BAD_DATA, "it cannot be loaded: %s", why ? why : "?");
	} else if (!(*(void **)&entry = dlsym(so, "klieg_plugin"))) {
		v->rc = err_set(&v->e, KLIEG_E_BAD_DATA, "it is no plugin: it has no function klieg_plugin");
	} else {
		v->rc = read_plugin(&(struct source){ own_mem }, (uint64_t)(uintptr_t)entry(&dry_host), &v->p, &v->e);
	}
	for (size_t n = 0; n < sizeof *v;) {
		ssize_t w = write(out, (char *)v + n, sizeof *v - n);
		if (w <= 0)
			break;
		n += (size_t)w;
	}
	_exit(0);
}

static int64_t now_ms(void) { return (int64_t)(dry_now() / 1000000); }

/* What came of the child: the verdict, or how it died. */
static int outcome(const char *path, int in, pid_t pid, struct verdict *v, struct err *e)
{
	size_t n = 0;
	int64_t end = now_ms() + 5000;
	bool late = false;
	while (n < sizeof *v) {
		int64_t left = end - now_ms();
		int rc = left > 0 ? poll(&(struct pollfd){ in, POLLIN, 0 }, 1, (int)left) : 0;
		if (rc < 0 && errno == EINTR)
			continue;
		late = rc == 0;
		ssize_t got = rc > 0 ? read(in, (char *)v + n, sizeof *v - n) : 0;
		if (got <= 0)
			break;
		n += (size_t)got;
	}
	if (n < sizeof *v || late)
		kill(pid, SIGKILL);
	int status = 0;
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {}
	const char *base = strrchr(path, '/') ? strrchr(path, '/') + 1 : path;
	if (late)
		return err_set(e, KLIEG_E_BAD_DATA, "plugin %s: it did not finish loading within 5 s; it was not loaded anywhere else", base);
	if (n < sizeof *v) {
		int sig = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
		if (sig)
			return err_set(e, KLIEG_E_BAD_DATA, "plugin %s: it crashed while it was loaded (%s), in a trial process: nothing was harmed", base, strsignal(sig));
		return err_set(e, KLIEG_E_BAD_DATA, "plugin %s: it ended its process while it was loaded (exit status %d), in a trial process: nothing was harmed", base,
			WIFEXITED(status) ? WEXITSTATUS(status) : -1);
	}
	v->e.msg[sizeof v->e.msg - 1] = 0;
	if (v->rc < 0)
		return err_set(e, KLIEG_E_BAD_DATA, "plugin %s: %s", base, v->e.msg);
	return 0;
}

int plugins_check(const char *path, struct plugin **ret_p, struct err *e)
{
	int fd[2];
	if (pipe2(fd, O_CLOEXEC) < 0)
		return err_set(e, err_from_errno(errno), "a pipe: %s", strerror(errno));
	pid_t pid = fork();
	if (pid == 0)
		child(path, fd[1]);
	close(fd[1]);
	if (pid < 0) {
		close(fd[0]);
		return err_set(e, err_from_errno(errno), "fork: %s", strerror(errno));
	}
	struct verdict *v = base_calloc(1, sizeof *v);
	int rc = outcome(path, fd[0], pid, v, e);
	close(fd[0]);
	if (rc == 0 && ret_p) {
		for (uint32_t i = 0; i < v->p.nhooks && i < PLUGINS_HOOKS_MAX; i++)
			v->p.hooks[i].address = 0; /* there, not elsewhere */
		*ret_p = base_alloc(sizeof **ret_p);
		**ret_p = v->p;
	}
	free(v);
	return rc;
}
