/* Coming to a process that knows nothing of us, and going away again. What takes long (looking at its files, loading libklieg into it) runs on a worker
 * thread, so that draining goes on; what touches the agent's state runs on the agent's thread when the worker is done. */
#include "agent/plugins.h"
#include "agent/state.h"
#include "ptrace/inject.h"
#include "uprobe/uprobe.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <unistd.h>

struct attach_job {
	struct attach_job *next;
	struct agent *a;
	struct request *r;
	pthread_t thread;
	bool done;                /* under the agent's lock */
	/* in */
	pid_t pid;
	bool loaded;              /* libklieg is there already */
	const json_t *params;     /* the request's */
	char library[512];
	/* out */
	int rc;
	struct err e;
	struct function_file *files;
	uint32_t nfiles;
	struct inject_preflight before;
	struct inject_report report;
	int64_t scan_ns;
	bool outside;             /* libklieg cannot be loaded: the kernel's probes instead */
	/* the second time: instrumentors */
	bool second;
	bool already;
	uint64_t host;
	struct plugin *plugins;
	uint32_t nplugins;
};

static const char *text_of(const json_t *params, const char *key) { return json_string_value(json_object_get(params, key)); }

static struct process *process_of(struct agent *a, pid_t pid)
{
	for (uint32_t i = 0; i < a->nprocs; i++)
		if (a->procs[i]->pid == pid && a->procs[i]->map)
			return a->procs[i];
	return NULL;
}

/* libklieg.so: beside the executable (a build), in ../lib of it (an installation), or where KLIEG_LIBRARY says. */
static int find_library(char *ret_path, size_t size, struct err *e)
{
	static const char *const places[] = { "libklieg.so", "../lib/libklieg.so", "../lib/x86_64-linux-gnu/libklieg.so", "../lib64/libklieg.so", "probe/libklieg.so", "src/probe/libklieg.so" };
	const char *env = getenv("KLIEG_LIBRARY");
	char exe[400] = "";
	if (env && *env && access(env, R_OK) == 0) {
		snprintf(ret_path, size, "%s", env);
		return 0;
	}
	ssize_t n = readlink("/proc/self/exe", exe, sizeof exe - 1);
	char *slash = n > 0 ? strrchr(exe, '/') : NULL;
	for (size_t i = 0; slash && i < sizeof places / sizeof *places; i++) {
		snprintf(ret_path, size, "%.*s/%s", (int)(slash - exe), exe, places[i]);
		if (access(ret_path, R_OK) == 0)
			return 0;
	}
	err_set(e, KLIEG_E_NOT_FOUND, "libklieg.so is not beside %s, nor in ../lib", exe);
	return err_hint(e, "set KLIEG_LIBRARY=/path/to/libklieg.so for the agent");
}

/* Can libklieg not be loaded, but the kernel's probes watch it? */
static bool from_outside(const struct inject_preflight *b, const json_t *params)
{
	return (b->obstacle == INJECT_STATIC || b->obstacle == INJECT_MUSL || b->obstacle == INJECT_OLD_LIBC) && !json_is_false(json_object_get(params, "uprobes"));
}

static int work(struct attach_job *j)
{
	int rc = j->loaded ? 0 : inject_preflight(j->pid, &j->before, &j->e);
	if (rc < 0)
		return rc;
	j->outside = !j->loaded && from_outside(&j->before, j->params);
	if (!j->loaded && !j->outside && j->before.obstacle != INJECT_NONE) {
		static const enum klieg_error codes[] = { [INJECT_GONE] = KLIEG_E_NO_TARGET, [INJECT_ZOMBIE] = KLIEG_E_NO_TARGET, [INJECT_TRACED] = KLIEG_E_CONFLICT,
			[INJECT_PERMISSION] = KLIEG_E_DENIED, [INJECT_YAMA] = KLIEG_E_DENIED, [INJECT_SELF] = KLIEG_E_UNSUPPORTED };
		unsigned o = j->before.obstacle;
		return err_set(&j->e, o < sizeof codes / sizeof *codes && codes[o] ? codes[o] : KLIEG_E_UNSUPPORTED, "%s", j->before.text);
	}
	int64_t start = clock_mono();
	rc = functions_files(j->a, j->pid, json_object_get(j->params, "libraries"), text_of(j->params, "debug_file"), NULL, &j->files, &j->nfiles, &j->e);
	j->scan_ns = clock_mono() - start;
	if (rc < 0 || j->loaded || j->outside)
		return rc;
	rc = find_library(j->library, sizeof j->library, &j->e);
	if (rc >= 0)
		rc = inject_load(j->pid, j->library, "klieg__attach", j->a->socket, strlen(j->a->socket) + 1, &j->report, &j->e);
	if (rc >= 0 && j->report.value)
		rc = err_set(&j->e, KLIEG_E_NOMEM, "libklieg found no memory for its rings in process %d (RLIMIT_AS, memfd)", j->pid);
	if (rc < 0) {
		functions_files_free(j->a, j->files, j->nfiles);
		j->files = NULL;
	}
	return rc;
}

/* The second round: libklieg is there, and what it offers plugins. */
static int load_plugins(struct attach_job *j)
{
	size_t i;
	json_t *v, *globs;
	json_array_foreach(json_object_get(j->params, "plugins"), i, v) {
		struct inject_report r;
		j->plugins = base_realloc(j->plugins, (j->nplugins + 1) * sizeof *j->plugins);
		int rc = json_is_string(v) ? plugin_load(j->pid, j->host, json_string_value(v), &j->plugins[j->nplugins], &r, &j->e) :
			err_set(&j->e, KLIEG_E_USAGE, "plugins is a list of names");
		if (rc < 0)
			return rc;
		j->nplugins++;
		j->report.pause_ns = r.pause_ns > j->report.pause_ns ? r.pause_ns : j->report.pause_ns;
	}
	globs = plugin_libraries(j->plugins, j->nplugins);
	int rc = functions_files(j->a, j->pid, globs, text_of(j->params, "debug_file"), NULL, &j->files, &j->nfiles, &j->e);
	json_decref(globs);
	return rc;
}

static void *worker(void *arg)
{
	struct attach_job *j = arg;
	j->rc = j->second ? load_plugins(j) : work(j);
	pthread_mutex_lock(&j->a->lock);
	j->done = true;
	pthread_mutex_unlock(&j->a->lock);
	uint64_t one = 1;
	(void)!write(j->a->request_fd, &one, sizeof one);
	return NULL;
}

static int pid_param(const json_t *params, pid_t *ret_pid, struct err *e)
{
	json_int_t pid = json_integer_value(json_object_get(params, "pid"));
	if (pid <= 0 || pid > 1 << 30)
		return err_set(e, KLIEG_E_USAGE, "pid must be the number of a process");
	*ret_pid = (pid_t)pid;
	return 0;
}

/* ---- attach ------------------------------------------------------------------------------------------------------------ */

void attach_request(struct agent *a, struct request *r)
{
	struct err e = { 0 };
	pid_t pid = 0;
	int rc = pid_param(r->params, &pid, &e);
	if (rc >= 0 && pid == getpid())
		rc = err_set(&e, KLIEG_E_UNSUPPORTED, "process %d is this agent", pid);
	for (struct attach_job *j = a->jobs; rc >= 0 && j; j = j->next)
		if (j->pid == pid)
			rc = err_set(&e, KLIEG_E_BUSY, "process %d is being attached to", pid);
	if (rc >= 0 && !process_of(a, pid))
		discover(a); /* it may have the library from another agent's time */
	if (rc >= 0 && json_is_true(json_object_get(r->params, "check"))) {
		struct inject_preflight b;
		rc = inject_preflight(pid, &b, &e);
		if (rc >= 0)
			control_reply(r, 0, json_pack("{s:i,s:b,s:s,s:s,s:b,s:b,s:b,s:b,s:b,s:b,s:i}", "pid", (int)pid, "attachable",
				b.obstacle == INJECT_NONE || from_outside(&b, r->params), "mechanism", b.obstacle == INJECT_NONE ? "gate" : from_outside(&b, r->params) ? "uprobe" : "none",
				"why", b.text, "seccomp", b.seccomp, "other_user", b.other_user, "not_dumpable", b.not_dumpable, "chroot", b.chroot, "mount_namespace", b.mount_ns,
				"pid_namespace", b.pid_ns, "threads", (int)b.threads), NULL);
		else
			control_reply(r, rc, NULL, &e);
		return;
	}
	struct attach_job *j = base_calloc(1, sizeof *j);
	*j = (struct attach_job){ .a = a, .r = r, .pid = pid, .params = r->params };
	j->loaded = rc >= 0 && process_of(a, pid) && process_of(a, pid)->reg.gate_count;
	if (rc >= 0 && pthread_create(&j->thread, NULL, worker, j))
		rc = err_set(&e, KLIEG_E_NOMEM, "no thread to attach with");
	if (rc < 0) {
		free(j);
		control_reply(r, rc, NULL, &e);
		return;
	}
	j->next = a->jobs;
	a->jobs = j;
}

static json_t *modules_json(const struct process *p, uint32_t *ret_functions, uint32_t *ret_hookable)
{
	static const char *const sources[] = { "", "symtab", "dynsym", "debug", "dwarf", "eh_frame" };
	json_t *list = json_array();
	for (uint32_t k = 0; k < p->fns->nmods; k++) {
		const struct function_module *m = &p->fns->mods[k];
		uint32_t n, hookable = 0, by[6] = { 0 }, best = 0;
		const struct symbols_function *f = symbols_functions(m->file.symbols, &n);
		for (uint32_t i = 0; i < n; i++) {
			hookable += !f[i].refusal;
			by[f[i].source <= SYMBOLS_EH_FRAME ? f[i].source : 0]++;
		}
		json_t *from = json_object();
		for (uint32_t i = 1; i < 6; i++) {
			best = by[i] > by[best] ? i : best;
			if (by[i])
				json_object_set_new(from, sources[i], json_integer(by[i]));
		}
		json_array_append_new(list, json_pack("{s:s,s:s,s:i,s:i,s:s,s:o,s:b}", "path", m->file.path, "build_id", symbols_build_id(m->file.symbols), "functions", (int)n,
			"hookable", (int)hookable, "source", sources[best], "sources", from, "dwarf", symbols_has_dwarf(m->file.symbols)));
		*ret_functions += n;
		*ret_hookable += hookable;
	}
	return list;
}

static int set_roots(struct process *p, const json_t *roots, struct err *e)
{
	size_t i;
	json_t *v;
	json_array_foreach(roots, i, v) {
		const char *name = json_string_value(v), *like[3];
		const struct symbols_function *f = NULL;
		for (uint32_t k = 0; name && k < p->fns->nmods && !f; k++)
			f = symbols_named(p->fns->mods[k].file.symbols, name);
		if (!f || f->refusal) {
			err_set(e, f ? KLIEG_E_UNSUPPORTED : KLIEG_E_NO_MATCH, f ? "the root %s cannot be intercepted: %s" : "there is no function \"%s\"%s", name ? name : "",
				f ? f->refusal : "");
			uint32_t n = f || !name ? 0 : symbols_similar(p->fns->mods[0].file.symbols, name, like, 3);
			if (n)
				err_hint(e, "did you mean %s%s%s%s%s?", like[0], n > 1 ? ", " : "", n > 1 ? like[1] : "", n > 2 ? ", " : "", n > 2 ? like[2] : "");
			return f ? KLIEG_E_UNSUPPORTED : KLIEG_E_NO_MATCH;
		}
		bool have = false;
		for (uint32_t k = 0; k < p->fns->nroots; k++)
			have |= !strcmp(p->fns->roots[k], f->name);
		if (!have) {
			p->fns->roots = base_realloc(p->fns->roots, (p->fns->nroots + 1) * sizeof *p->fns->roots);
			p->fns->roots[p->fns->nroots++] = str_dup(str_of(f->name));
		}
	}
	functions_roots(p);
	return 0;
}

/* As it was before, if it was not attached to then. */
static void undo(struct attach_job *j, struct process *p)
{
	struct err ignore = { 0 };
	int64_t t;
	if (j->already)
		return;
	hooks_remove(p, &t, &ignore);
	functions_hide(p);
}

/* From outside: the kernel's probes fill a region of ours. */
static int watch(struct agent *a, pid_t pid, struct err *e)
{
	struct uprobe *u;
	char path[64];
	struct stat st;
	int rc = uprobe_open(pid, a->socket, &u, e);
	if (rc < 0)
		return rc;
	snprintf(path, sizeof path, "/proc/%d", pid);
	int fd = fcntl(uprobe_memfd(u), F_DUPFD_CLOEXEC, 3);
	rc = fd < 0 || stat(path, &st) < 0 ? KLIEG_E_NO_TARGET : process_adopt(a, pid, st.st_uid, fd, ADOPT_UPROBE);
	struct process *p = rc < 0 ? NULL : process_of(a, pid);
	if (!p) {
		uprobe_close(u);
		return err_set(e, KLIEG_E_NO_TARGET, "process %d has ended meanwhile", pid);
	}
	p->uprobe = u;
	struct epoll_event ev = { .events = EPOLLIN | EPOLLET, .data.u64 = (uint64_t)(uint32_t)uprobe_fd(u) };
	epoll_ctl(a->epfd, EPOLL_CTL_ADD, uprobe_fd(u), &ev);
	return 0;
}

/* The first round is over: libklieg is there, its functions become sites. */
static int loaded(struct attach_job *j, struct err *e)
{
	struct agent *a = j->a;
	struct process *p = process_of(a, j->pid);
	int rc = 0;
	if (!p && j->outside)
		rc = watch(a, j->pid, e);
	else if (!p)
		discover(a);
	p = process_of(a, j->pid);
	if (rc < 0)
		; /* why is in e */
	else if (!p)
		rc = err_set(e, kill(j->pid, 0) < 0 && errno == ESRCH ? KLIEG_E_NO_TARGET : KLIEG_E_CONFLICT, "process %d has libklieg now, but this agent cannot have it: "
			"it is gone, or another agent's", j->pid);
	else if (p->denied)
		rc = err_set(e, KLIEG_E_DENIED, "the memory of process %d may not be written", j->pid);
	else if (!p->reg.gate_count && !p->uprobe)
		rc = err_set(e, KLIEG_E_UNSUPPORTED, "the libklieg in process %d cannot intercept functions (this machine's kind, or an older version)", j->pid);
	if (rc < 0) {
		functions_files_free(a, j->files, j->nfiles);
		return rc;
	}
	j->already = p->fns && p->fns->live;
	rc = functions_add(p, j->files, j->nfiles, e);
	if (rc < 0)
		return rc;
	json_int_t pause = json_integer_value(json_object_get(j->params, "max_pause_nano"));
	if (pause > 0)
		p->fns->max_pause_ns = pause;
	process_name(p);
	rc = set_roots(p, json_object_get(j->params, "roots"), e);
	if (rc < 0)
		undo(j, p);
	j->host = p->reg.plugin_host;
	return rc;
}

static json_t *answer(struct attach_job *j, struct process *p, json_t *plugins, json_t *notes)
{
	uint32_t functions = 0, hookable = 0;
	json_t *modules = modules_json(p, &functions, &hookable);
	if (p->uprobe) {
		char text[500];
		snprintf(text, sizeof text, "%.300s: traced from outside by the kernel's uprobes instead, at 1 to 25 us a call", j->before.text);
		json_array_append_new(notes, json_string(text));
	}
	if (j->before.seccomp)
		json_array_append_new(notes, json_string("it runs under a seccomp filter"));
	for (uint32_t i = 0; i < p->fns->nmods; i++)
		if (p->fns->mods[i].file.exe && !symbols_named(p->fns->mods[i].file.symbols, "main"))
			json_array_append_new(notes, json_string("its executable is stripped: functions without a name are called by their address; install its debug symbols, or give "
				"--debug-file"));
	return json_pack("{s:i,s:s,s:b,s:i,s:i,s:o,s:I,s:I,s:I,s:o,s:o,s:s}", "pid", (int)p->pid, "service", p->service, "already", j->already, "functions", (int)functions,
		"hookable", (int)hookable, "modules", modules, "pause_nano", (json_int_t)j->report.pause_ns, "load_nano", (json_int_t)j->report.load_ns, "scan_nano",
		(json_int_t)j->scan_ns, "notes", notes, "plugins", plugins, "mechanism", p->uprobe ? "uprobe" : "gate");
}

/* A round is over. 1: another one is under way. */
static int finish(struct attach_job *j, json_t **ret_o, struct err *e)
{
	struct agent *a = j->a;
	int rc = j->rc;
	*e = j->e;
	struct process *p = process_of(a, j->pid);
	if (rc < 0) {
		if (j->second && p && p->fns)
			undo(j, p);
		return rc;
	}
	if (!j->second && (rc = loaded(j, e)) < 0)
		return rc;
	p = process_of(a, j->pid);
	if (!p || !p->fns)
		return err_set(e, KLIEG_E_NO_TARGET, "process %d has ended meanwhile", j->pid);
	if (!j->second && json_array_size(json_object_get(j->params, "plugins")) && p->uprobe) {
		undo(j, p);
		return err_set(e, KLIEG_E_UNSUPPORTED, "no plugin can be loaded: %s", j->before.text);
	}
	if (!j->second && json_array_size(json_object_get(j->params, "plugins"))) {
		j->second = true;
		j->done = false;
		j->files = NULL;
		j->nfiles = 0;
		if (pthread_create(&j->thread, NULL, worker, j) == 0)
			return 1;
		undo(j, p);
		return err_set(e, KLIEG_E_NOMEM, "no thread to attach with");
	}
	json_t *plugins = json_array(), *notes = json_array();
	if (j->second) {
		rc = functions_add(p, j->files, j->nfiles, e);
		if (rc >= 0)
			plugins_recover(p, j->plugins, j->nplugins, plugins, notes);
		for (uint32_t i = 0; rc >= 0 && i < j->nplugins; i++)
			json_array_append_new(plugins, plugin_apply(p, &j->plugins[i], notes));
	} else {
		plugins_recover(p, NULL, 0, plugins, notes);
	}
	if (rc < 0) {
		json_decref(plugins);
		json_decref(notes);
		undo(j, p);
		return rc;
	}
	grants_make(a, p);
	rules_apply(a);
	*ret_o = answer(j, p, plugins, notes);
	log_info("agent", "attached to process %d (%s), paused for %ld us", p->pid, p->service, (long)(j->report.pause_ns / 1000));
	agent_emit(a, "process", json_pack("{s:i,s:s,s:s}", "pid", (int)p->pid, "service", p->service, "state", "attached"));
	return 0;
}

static void job_free(struct attach_job *j)
{
	for (uint32_t i = 0; i < j->nplugins; i++)
		plugin_free(&j->plugins[i]);
	free(j->plugins);
	free(j);
}

void attach_done(struct agent *a)
{
	for (struct attach_job **at = &a->jobs, *j; (j = *at);) {
		pthread_mutex_lock(&a->lock);
		bool done = j->done;
		pthread_mutex_unlock(&a->lock);
		if (!done) {
			at = &j->next;
			continue;
		}
		*at = j->next;
		pthread_join(j->thread, NULL);
		struct err e = { 0 };
		json_t *o = NULL;
		int rc = finish(j, &o, &e);
		if (rc == 1) {
			j->next = a->jobs;
			a->jobs = j;
			return;
		}
		control_reply(j->r, rc, rc < 0 ? NULL : o, rc < 0 ? &e : NULL);
		job_free(j);
		at = &a->jobs;
	}
}

void attach_stop(struct agent *a)
{
	for (struct attach_job *j; (j = a->jobs);) {
		a->jobs = j->next;
		pthread_join(j->thread, NULL);
		struct err e = { 0 };
		err_set(&e, KLIEG_E_BUSY, "the agent is stopping");
		if (j->rc >= 0)
			functions_files_free(a, j->files, j->nfiles);
		control_reply(j->r, e.code, NULL, &e);
		job_free(j);
	}
	for (uint32_t i = 0; i < a->nprocs; i++) { /* nothing of ours stays in anybody's text */
		struct process *p = a->procs[i];
		struct err e = { 0 };
		int64_t pause;
		if (p->map && p->fns && p->fns->live && hooks_remove(p, &pause, &e) < 0)
			log_warn("agent", "process %d: %s", p->pid, e.msg);
	}
}

/* ---- detach -------------------------------------------------------------------------------------------------------------- */

int detach(struct agent *a, const json_t *params, json_t **ret_o, struct err *e)
{
	pid_t pid = 0;
	int rc = pid_param(params, &pid, e);
	if (rc < 0)
		return rc;
	struct process *p = process_of(a, pid);
	if (!p || !p->fns || !p->fns->live) {
		err_set(e, p ? KLIEG_E_NO_MATCH : KLIEG_E_NO_TARGET, p ? "process %d is not attached to" : "there is no process %d that Klieg knows", pid);
		return err_hint(e, "klieg ps lists those that are");
	}
	uint32_t armed = 0;
	for (uint32_t i = 0; i < p->nsites; i++)
		armed += p->sites[i].kind == KW_SITE_FUNCTION && p->sites[i].patched && !p->sites[i].watched;
	int64_t pause = 0;
	rc = hooks_remove(p, &pause, e);
	if (rc < 0)
		return rc;
	drain_all(p);
	bool same = true;
	for (uint32_t i = 0; i < p->fns->nmods; i++)
		same &= functions_text_hash(p, &p->fns->mods[i]) == p->fns->mods[i].text_hash;
	cells_read(p);
	for (uint32_t i = 0; i < p->nsites; i++)
		if (p->sites[i].kind == KW_SITE_FUNCTION)
			__atomic_store_n(&p->state[i].level, 0, __ATOMIC_RELEASE);
	functions_hide(p);
	log_info("agent", "detached from process %d (%s): %u functions restored", p->pid, p->service, armed);
	agent_emit(a, "process", json_pack("{s:i,s:s,s:s}", "pid", (int)p->pid, "service", p->service, "state", "detached"));
	*ret_o = json_pack("{s:i,s:s,s:i,s:b,s:b,s:I}", "pid", (int)pid, "service", p->service, "restored", (int)armed, "text_identical", same, "parked", 1,
		"pause_nano", (json_int_t)pause);
	return 0;
}

/* ---- questions ------------------------------------------------------------------------------------------------------------ */

/* A callee that is known by what a pointer held. */
static json_t *pointed_at(const struct process *p, uint32_t site, const char *kind, uint32_t calls)
{
	const struct symbols_function *f = function_of(p, site);
	const struct str name = strtab_get(&p->strs, p->sites[site].name);
	return json_pack("{s:s%,s:s,s:s,s:b,s:s,s:i}", "name", name.p, name.n, "module", function_module_of(p, site)->file.base, "kind", kind, "hookable", !f->refusal,
		"why", f->refusal ? f->refusal : "", "calls", (int)calls);
}

int callees(struct agent *a, const json_t *params, json_t **ret_o, struct err *e)
{
	static const char *const kinds[] = { "", "direct", "tail", "plt" };
	pid_t pid = 0;
	const char *name = text_of(params, "function");
	int rc = pid_param(params, &pid, e);
	if (rc < 0)
		return rc;
	struct process *p = process_of(a, pid);
	if (!p || !p->fns || !p->fns->live)
		return err_set(e, KLIEG_E_NO_TARGET, "process %d is not attached to", pid);
	for (uint32_t k = 0; name && k < p->fns->nmods; k++) {
		const struct function_module *m = &p->fns->mods[k];
		const struct symbols_function *f = symbols_named(m->file.symbols, name);
		struct symbols_callee *list;
		uint32_t n, indirect, site;
		if (!f)
			continue;
		rc = symbols_callees(m->file.symbols, f, &list, &n, &indirect);
		if (rc < 0)
			return err_set(e, rc, "the calls of %s cannot be read", name);
		json_t *out = json_array();
		for (uint32_t i = 0; i < n; i++) {
			const struct symbols_function *to = list[i].addr ? symbols_at(m->file.symbols, list[i].addr) : NULL;
			char plain[300];
			if (list[i].kind == SYMBOLS_SLOT) {
				if (function_in_slot(p, m, list[i].addr, &site))
					json_array_append_new(out, pointed_at(p, site, "variable", list[i].sites));
				else
					indirect += list[i].sites;
				continue;
			}
			snprintf(plain, sizeof plain, "%.200s+0x%lx", m->file.base, (unsigned long)list[i].addr);
			json_array_append_new(out, json_pack("{s:s,s:s,s:s,s:b,s:s,s:i}", "name", list[i].name ? list[i].name : to && to->name ? to->name : plain, "module",
				list[i].addr ? m->file.base : "", "kind", kinds[list[i].kind <= SYMBOLS_PLT ? list[i].kind : 0], "hookable", to && !to->refusal,
				"why", to ? to->refusal ? to->refusal : "" : "it is in another library", "calls", (int)list[i].sites));
		}
		free(list);
		if (function_at(p, f->addr + m->file.bias, &site))
			for (uint32_t i = 0, to; watch_edge(p, i, site, &to); i++)
				json_array_append_new(out, pointed_at(p, to, "observed", 1));
		*ret_o = json_pack("{s:o,s:i}", "callees", out, "indirect", (int)indirect);
		return 0;
	}
	return err_set(e, KLIEG_E_NO_MATCH, "process %d has no function \"%s\"", pid, name ? name : "");
}

/* Processes of this host that could be attached to, the busiest first: by CPU time since they began. */
json_t *candidates(struct agent *a)
{
	json_t *list = json_array();
	DIR *d = opendir("/proc");
	for (struct dirent *de; d && (de = readdir(d));) {
		pid_t pid = atoi(de->d_name);
		char path[64], stat[1024] = "", exe[512] = "";
		if (pid <= 0 || pid == getpid())
			continue;
		snprintf(path, sizeof path, "/proc/%d/exe", pid);
		if (readlink(path, exe, sizeof exe - 1) <= 0)
			continue;
		snprintf(path, sizeof path, "/proc/%d/stat", pid);
		FILE *f = fopen(path, "re");
		if (!f)
			continue;
		char *p = fgets(stat, sizeof stat, f) ? strrchr(stat, ')') : NULL;
		unsigned long long user = 0, sys = 0;
		struct stat st = { 0 };
		fstat(fileno(f), &st);
		fclose(f);
		if (!p || sscanf(p + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %llu %llu", &user, &sys) != 2)
			continue;
		struct process *known = process_of(a, pid);
		struct inject_preflight b;
		struct err e = { 0 };
		if (json_array_size(list) >= 500 || inject_preflight(pid, &b, &e) < 0 || b.obstacle == INJECT_KERNEL_THREAD)
			continue;
		const char *slash = strrchr(exe, '/');
		if (!str_utf8_valid(str_of(exe)))
			continue;
		char *name = program_name(pid, slash ? slash + 1 : exe);
		json_array_append_new(list, json_pack("{s:i,s:s,s:s,s:i,s:f,s:b,s:b,s:s}", "pid", (int)pid, "name", name, "exe", exe, "uid", (int)st.st_uid,
			"cpu_seconds", (double)(user + sys) / (double)sysconf(_SC_CLK_TCK), "attached", known && known->fns && known->fns->live, "attachable",
			b.obstacle == INJECT_NONE, "why", b.text));
		free(name);
	}
	if (d)
		closedir(d);
	return json_pack("{s:o}", "processes", list);
}
