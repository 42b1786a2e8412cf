/* A traced process as the agent sees it: its region mapped and checked, its memory opened once (so that a recycled pid or an exec can
 * never be written to), its death noticed by pidfd. Agent thread; a process owns its descriptors, its mapping and all that hangs on it. */
#include "agent/state.h"
#include "wire/siphash.h"
#include "uprobe/uprobe.h"
#include <errno.h>
#include <fcntl.h>
#include <pwd.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

/* Does /proc/PID/maps show this very file? Then pid, its memory and the memfd belong together. */
static bool maps_inode(pid_t pid, const struct stat *st)
{
	char path[64], line[512];
	snprintf(path, sizeof path, "/proc/%d/maps", pid);
	FILE *f = fopen(path, "re");
	bool found = false;
	while (f && !found && fgets(line, sizeof line, f)) {
		unsigned long long ino;
		found = strstr(line, "/memfd:" KW_MEMFD_NAME) && sscanf(line, "%*s %*s %*s %*s %llu", &ino) == 1 && ino == st->st_ino;
	}
	if (f)
		fclose(f);
	return found;
}

static char *read_text(pid_t pid, const char *name, size_t max)
{
	char path[64];
	snprintf(path, sizeof path, "/proc/%d/%s", pid, name);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	char *text = base_calloc(max + 1, 1);
	ssize_t n = fd < 0 ? 0 : read(fd, text, max);
	if (fd >= 0)
		close(fd);
	for (ssize_t i = 0; i + 1 < n; i++)
		if (!text[i])
			text[i] = ' ';
	if (!str_utf8_valid(str_of(text)))
		for (char *c = text; *c; c++)
			*c = *c & 0x80 ? '?' : *c;
	return text;
}

/* Wall time, which is worked out anew each time; ticks since the host began, which stay what they are. */
static int64_t started(pid_t pid, uint64_t *ret_ticks)
{
	char *stat = read_text(pid, "stat", 1024), *p = strrchr(stat, ')');
	unsigned long long ticks = 0;
	if (p)
		sscanf(p + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %llu", &ticks);
	free(stat);
	*ret_ticks = ticks;
	int64_t boot = clock_wall() - clock_of(CLOCK_BOOTTIME);
	return boot + (int64_t)ticks * (SECOND / sysconf(_SC_CLK_TCK));
}

static void percent_decode(char *s)
{
	char *to = s;
	for (; *s; s++) {
		unsigned x;
		if (*s == '%' && s[1] && s[2] && sscanf(s + 1, "%2x", &x) == 1 && x)
			*to++ = (char)x, s += 2;
		else
			*to++ = *s;
	}
	*to = 0;
}

static void put(json_t *o, const char *key, const char *value)
{
	json_t *v = json_string(value); /* NULL when it is not UTF-8 */
	json_object_set_new(o, key, v ? v : json_string("(not UTF-8)"));
}

void process_read_resource(struct process *p)
{
	const struct kw_region *r = (const struct kw_region *)p->map;
	uint32_t seq = __atomic_load_n(&r->resource_seq, __ATOMIC_ACQUIRE);
	if ((seq == p->resource_seq && p->resource) || (seq & 1 && p->resource))
		return;
	char text[KW_RESOURCE_MAX + 1];
	uint32_t n = __atomic_load_n(&r->resource_len, __ATOMIC_RELAXED);
	n = n > KW_RESOURCE_MAX ? KW_RESOURCE_MAX : n;
	memcpy(text, r->resource, n);
	text[n] = 0;
	__atomic_thread_fence(__ATOMIC_ACQUIRE);
	if (__atomic_load_n(&r->resource_seq, __ATOMIC_RELAXED) != seq && p->resource)
		return; /* torn: the next look gets it */
	p->resource_seq = seq;
	json_t *o = json_object();
	const char *slash = strrchr(p->exe, '/');
	char service[300], *name = p->fns && p->fns->live ? program_name(p->pid, slash ? slash + 1 : p->exe) : NULL;
	/* OpenTelemetry's default; but who attaches to redis-server calls it that. */
	snprintf(service, sizeof service, "%s%.250s", name ? "" : "unknown_service:", name ? name : slash ? slash + 1 : p->exe);
	free(name);
	put(o, "service.name", service);
	put(o, "process.executable.name", slash ? slash + 1 : p->exe);
	put(o, "host.name", p->agent->host);
	put(o, "telemetry.sdk.name", "klieg");
	put(o, "telemetry.sdk.language", "c");
	char *save = NULL;
	for (char *kv = strtok_r(text, ",", &save); kv; kv = strtok_r(NULL, ",", &save)) {
		char *eq = strchr(kv, '=');
		while (*kv == ' ')
			kv++;
		if (!eq || eq == kv)
			continue;
		*eq = 0;
		percent_decode(kv);
		percent_decode(eq + 1);
		if (*kv && str_utf8_valid(str_of(kv)) && (eq[1] || strcmp(kv, "service.name")))
			put(o, kv, eq + 1);
	}
	json_object_set_new(o, "process.pid", json_integer(p->pid));
	json_decref(p->resource);
	p->resource = o;
	free(p->service);
	p->service = str_dup(str_of(json_string_value(json_object_get(o, "service.name"))));
	p->batch_gen = 0;
	process_token(p);
}

void process_token(struct process *p)
{
	uint8_t key[16];
	if (!p->map || !p->agent->token_on || !p->service)
		return;
	siphash128(p->agent->token_key, p->service, strlen(p->service), key);
	if (p->control->token_on && !memcmp(p->control->token_key, key, sizeof key))
		return;
	__atomic_store_n(&p->control->token_on, 0, __ATOMIC_SEQ_CST);
	memcpy(p->control->token_key, key, sizeof key);
	__atomic_store_n(&p->control->token_on, 1, __ATOMIC_RELEASE); /* pairs with the probe's acquire: the key before it */
}

void process_name(struct process *p)
{
	json_decref(p->resource);
	p->resource = NULL;
	process_read_resource(p);
}

uint32_t process_slots(const struct process *p)
{
	uint32_t n = __atomic_load_n(&p->control->threads_hint, __ATOMIC_ACQUIRE);
	return n < p->reg.max_threads ? n : p->reg.max_threads;
}

/* Where the former agent of this ring left the account and the trace: in the consumer's own line, so that a restart goes on. */
static void adopt_counts(struct process *p)
{
	for (uint32_t i = 0; i < process_slots(p); i++) {
		p->c.passed += process_slot(p, i)->agent_passed;
		p->c.carried += process_slot(p, i)->agent_passed;
		p->c.where += process_slot(p, i)->agent_where;
	}
}

/* What a process takes for its own id: in a PID namespace it is another than ours. */
static pid_t inner_pid(pid_t pid)
{
	char *status = read_text(pid, "status", 8192), *at = strstr(status, "\nNSpid:"), *save = NULL;
	if (at) {
		at[1 + strcspn(at + 1, "\n")] = 0;
		for (char *word = strtok_r(at + 7, "\t ", &save); word; word = strtok_r(NULL, "\t ", &save))
			pid = (pid_t)atoi(word);
	}
	free(status);
	return pid;
}

int process_adopt(struct agent *a, pid_t pid, uid_t uid, int memfd, enum adopt how)
{
	bool late = how != ADOPT_HELLO;
	const char *why = NULL;
	struct stat st;
	struct statfs fs;
	struct kw_region reg;
	char path[64];
	int seals = fcntl(memfd, F_GET_SEALS);
	if (fstat(memfd, &st) < 0 || fstatfs(memfd, &fs) < 0 || fs.f_type != 0x01021994 /* TMPFS_MAGIC */)
		why = "what it sent is not a memfd";
	else if (seals < 0 || !(seals & F_SEAL_SHRINK) || seals & F_SEAL_WRITE)
		why = "the memfd is not sealed against shrinking";
	else if (pread(memfd, &reg, sizeof reg, 0) != sizeof reg || !kw_region_valid(&reg, (uint64_t)st.st_size))
		why = "the region's header is not valid";
	if (!why && how == ADOPT_FOUND && (pid_t)reg.pid != inner_pid(pid)) {
		close(memfd); /* its parent's: after vfork, or before it had a region of its own */
		return 0;
	}
	if (!why && how == ADOPT_FOUND) {
		reg.socket[sizeof reg.socket - 1] = 0;
		struct kw_control c;
		if (strcmp(reg.socket, a->socket) || pread(memfd, &c, sizeof c, (off_t)reg.control_off) != sizeof c) {
			close(memfd); /* another agent's */
			return 0;
		}
		if (c.lease_tsc > kw_ticks() && c.agent_pid && (pid_t)c.agent_pid != getpid() && kill((pid_t)c.agent_pid, 0) == 0) {
			char *name = read_text((pid_t)c.agent_pid, "comm", 64);
			close(memfd); /* its lease is held by a live agent */
			free(name);
			return 0;
		}
	}
	if (why) {
		log_warn("agent", "refused process %d: %s", pid, why);
		close(memfd);
		return KLIEG_E_BAD_DATA;
	}
	int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	snprintf(path, sizeof path, "/proc/%d/mem", pid);
	int mem = open(path, O_RDWR | O_CLOEXEC);
	int mem_errno = errno;
	bool gone = pidfd < 0;
	if (!gone && how != ADOPT_UPROBE && !maps_inode(pid, &st) && mem >= 0) { /* not ours after all; where maps cannot be read, neither can mem be written */
		log_warn("agent", "refused process %d: it does not map what it sent", pid);
		close(pidfd);
		close(mem);
		close(memfd);
		return KLIEG_E_BAD_DATA;
	}
	void *map = mmap(NULL, reg.region_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0);
	if (map == MAP_FAILED) {
		log_warn("agent", "cannot map the region of process %d: %s", pid, strerror(errno));
		if (pidfd >= 0)
			close(pidfd);
		if (mem >= 0)
			close(mem);
		close(memfd);
		return KLIEG_E_NOMEM;
	}
	for (uint32_t i = 0; i < a->nprocs; i++) { /* the same pid again: it has exec'ed; the same region again: nothing new */
		struct process *o = a->procs[i];
		if (o->pid != pid || o->exited_ns)
			continue;
		if (o->ino == st.st_ino) {
			munmap(map, reg.region_bytes);
			close(memfd);
			if (pidfd >= 0)
				close(pidfd);
			if (mem >= 0)
				close(mem);
			return 0;
		}
		process_exited(o);
	}
	struct process *p = base_calloc(1, sizeof *p);
	*p = (struct process){ .agent = a, .pid = pid, .uid = uid, .pidfd = pidfd, .memfd = memfd, .mem = mem, .map = map, .map_bytes = reg.region_bytes,
		.ino = st.st_ino, .reg = reg, .modules_gen = UINT32_MAX, .pending_free = -1, .attached_ns = clock_wall() };
	p->control = (struct kw_control *)(p->map + reg.control_off);
	p->forks = 0;
	p->modules_shm = (struct kw_module *)(p->map + reg.modules_off);
	p->state = (struct kw_site_state *)(p->map + reg.sites_off);
	p->modules = base_calloc(reg.max_modules + 1 + KW_ATTACHED, sizeof *p->modules);
	p->modules[reg.max_modules].gone = 1; /* where the sites of unloaded modules belong once their entry is another's */
	p->threads = base_calloc(reg.max_threads, sizeof *p->threads);
	memset(p->pending_head, 0xff, sizeof p->pending_head);
	strtab_init(&p->strs);
	p->denied = mem < 0;
	if (p->denied && !gone)
		log_warn("agent", "process %d: its sites cannot be switched: cannot open %s: %s (run the agent as root or with CAP_SYS_PTRACE)", pid, path,
			strerror(mem_errno));
	char exe[512] = "";
	snprintf(path, sizeof path, "/proc/%d/exe", pid);
	ssize_t n = readlink(path, exe, sizeof exe - 1);
	p->cmdline = read_text(pid, "cmdline", 1000);
	p->exe = n > 0 ? str_dup(str_of(exe)) : read_text(pid, "comm", 64);
	p->exe[strcspn(p->exe, "\n")] = 0;
	struct passwd pw, *found = NULL;
	char pwbuf[1024];
	if (getpwuid_r(uid, &pw, pwbuf, sizeof pwbuf, &found) == 0 && found)
		p->user = str_dup(str_of(pw.pw_name));
	else
		p->user = base_calloc(1, 16), snprintf(p->user, 16, "%u", uid);
	struct { uint64_t pid, ticks; } who = { .pid = (uint64_t)pid }; /* the same for every agent that comes to it */
	p->started_ns = started(pid, &who.ticks);
	p->instance = (double)(hash_bytes(&who, sizeof who, hash_bytes(a->host, strlen(a->host), 0)) >> 11) / 9007199254740992.0;
	process_read_resource(p);
	adopt_counts(p);
	if (a->nprocs == a->procs_cap)
		a->procs = base_realloc(a->procs, (a->procs_cap = a->procs_cap ? 2 * a->procs_cap : 16) * sizeof *a->procs);
	a->procs[a->nprocs++] = p;
	__atomic_store_n(&p->control->agent_pid, (uint32_t)getpid(), __ATOMIC_RELAXED);
	process_lease(p, a->cfg.lease_ns);
	if (pidfd >= 0) {
		struct epoll_event ev = { .events = EPOLLIN, .data.u64 = (uint64_t)(uint32_t)pidfd };
		epoll_ctl(a->epfd, EPOLL_CTL_ADD, pidfd, &ev);
	}
	agent_wake_words(a);
	sites_refresh(p);
	if (reg.gate_count) {
		functions_recover(p);
		if (!p->fns)
			functions_inherit(p);
		if (p->fns)
			process_name(p);
	}
	grants_make(a, p);
	rules_apply(a);
	log_info("agent", "%s process %d (%s): %u sites%s", late ? "found" : "met", pid, p->service, p->sites_alive, p->denied ? ", cannot be switched" : "");
	agent_emit(a, "process", json_pack("{s:i,s:s,s:s}", "pid", (int)pid, "service", p->service, "state", "live"));
	if (pidfd < 0)
		process_exited(p);
	return 0;
}

bool process_lease(struct process *p, int64_t lease_ns)
{
	uint64_t until = lease_ns ? kw_ticks() + (uint64_t)((double)lease_ns / p->agent->clock.ns_per_tick) : 0;
	__atomic_store_n(&p->control->lease_tsc, until, __ATOMIC_RELEASE);
	p->lease = lease_ns != 0;
	return true;
}

/* exec takes the old memory away but not the process: reading it then yields nothing. */
bool process_alive(struct process *p)
{
	uint8_t b;
	if (p->mem < 0)
		return true;
	for (uint32_t i = 0; i < p->nsites; i++)
		if (p->sites[i].id && !p->modules[p->sites[i].module].gone)
			return pread(p->mem, &b, 1, (off_t)p->sites[i].addr) != 0;
	return pread(p->mem, &b, 1, 4096) != 0; /* unmapped is EIO, no memory at all is 0 */
}

static struct kw_open open_copy(const struct kw_thread *t, uint32_t i)
{
	struct kw_open o;
	memcpy(&o, &t->open[i], sizeof o);
	return o;
}

json_t *process_in_flight(struct process *p, const struct traceql *q, uint32_t limit)
{
	json_t *list = json_array();
	uint64_t now = kw_ticks();
	for (uint32_t i = 0; i < process_slots(p); i++) {
		const struct kw_thread *t = process_slot(p, i);
		uint32_t depth = __atomic_load_n(&t->depth, __ATOMIC_ACQUIRE);
		if (__atomic_load_n(&t->state, __ATOMIC_ACQUIRE) != KW_THREAD_LIVE)
			continue;
		for (uint32_t d = 0; d < depth && d < KW_OPEN_MAX && json_array_size(list) < limit; d++) {
			struct kw_open o = open_copy(t, d);
			if (o.site >= p->nsites || o.flags & (6u << 16) || !p->sites[o.site].id || (q && !site_match(p, o.site, q)))
				continue;
			char trace[33], span[17], parent[17];
			uint64_t pid = o.parent_seq ? kw_span_id(t->seed, o.parent_seq) : t->parent_id;
			trace_id_hex(t->trace_hi, t->trace_lo, trace);
			span_id_hex(kw_span_id(t->seed, o.seq), span);
			span_id_hex(pid, parent);
			struct str name = strtab_get(&p->strs, p->sites[o.site].name);
			int64_t start = clock_map_ns(&p->agent->clock, o.start_tsc);
			int64_t elapsed = now > o.start_tsc ? (int64_t)((double)(now - o.start_tsc) * p->agent->clock.ns_per_tick) : 0;
			json_array_append_new(list, json_pack("{s:i,s:s,s:i,s:s,s:s,s:s,s:s%,s:I,s:I,s:i}", "pid", (int)p->pid, "service", p->service, "tid", (int)t->tid,
				"trace_id", trace, "span_id", o.seq ? span : "", "parent_span_id", pid ? parent : "", "name", name.p, name.n,
				"start_unix_nano", (json_int_t)start, "elapsed_nano", (json_int_t)elapsed, "depth", (int)d));
		}
	}
	return list;
}

void process_count(struct process *p, struct counters *ret_c, uint64_t *ret_open)
{
	struct counters c = p->c;
	uint64_t open = 0;
	for (uint32_t i = 0; p->map && i < process_slots(p); i++) {
		const struct kw_thread *t = process_slot(p, i);
		/* The library never resets a slot's counters, so a reused slot's account simply goes on. */
		c.made += t->agent_made + (uint32_t)(t->seq - (uint32_t)t->agent_made);
		c.ring_full += t->lost_full;
		c.depth += t->lost_depth;
		c.reentrant += t->lost_reentrant;
		c.abandoned += t->abandoned;
		c.too_short += t->too_short;
		c.unsampled += t->unsampled;
		uint32_t depth = t->state == KW_THREAD_FREE ? 0 : t->depth;
		for (uint32_t d = 0; d < depth && d < KW_OPEN_MAX; d++) {
			struct kw_open o = open_copy(t, d);
			open += o.seq && !(o.flags & OPEN_OVER);
		}
	}
	if (p->map) {
		c.no_slot += p->control->lost_no_slot;
		c.no_site += p->control->lost_no_site;
	}
	*ret_c = c;
	*ret_open = open;
}

/* Takes what is left in the rings, notes what was in flight, and lets go of the memory. */
void process_exited(struct process *p)
{
	if (p->exited_ns)
		return;
	struct agent *a = p->agent;
	sites_refresh(p);
	while (p->uprobe && uprobe_poll(p->uprobe, UPROBE_BUDGET) == UPROBE_BUDGET)
		drain_all(p);
	drain_all(p);
	for (uint32_t i = 0; i < p->reg.max_threads; i++)
		if (p->threads[i])
			switches_close(a, p->threads[i]);
	cells_read(p);
	p->last_in_flight = process_in_flight(p, NULL, 256);
	p->abnormal = json_array_size(p->last_in_flight) > 0;
	struct counters c;
	uint64_t open;
	process_count(p, &c, &open);
	p->c = c;
	p->c.abandoned += open; /* they will never end */
	p->exited_ns = clock_wall();
	p->lease = false;
	pending_clear(p);
	uprobe_close(p->uprobe);
	p->uprobe = NULL;
	void *map = p->map;
	p->map = NULL;
	agent_wake_words(a); /* after this the waker looks at no word of it any more */
	munmap(map, p->map_bytes);
	if (p->pidfd >= 0)
		close(p->pidfd); /* leaves epoll with it */
	if (p->mem >= 0)
		close(p->mem);
	close(p->memfd);
	p->pidfd = p->mem = p->memfd = -1;
	for (uint32_t i = 0; i < p->nsites; i++)
		p->sites[i].patched = p->sites[i].level = p->sites[i].always = 0;
	log_info("agent", "process %d (%s) is gone", p->pid, p->service);
	agent_emit(a, "process", json_pack("{s:i,s:s,s:s}", "pid", (int)p->pid, "service", p->service, "state", "exited"));
}

void process_destroy(struct process *p)
{
	if (p->map)
		munmap(p->map, p->map_bytes);
	for (int *fd = (int[]){ p->pidfd, p->mem, p->memfd, -2 }; *fd != -2; fd++)
		if (*fd >= 0)
			close(*fd);
	for (uint32_t i = 0; i < p->nsites; i++) {
		free(p->sites[i].keys);
		stat_free(p->agent, &p->sites[i]);
	}
	for (uint32_t i = 0; i < p->reg.max_threads; i++)
		if (p->threads[i]) {
			for (uint32_t k = 0; p->threads[i]->cell_bucket && k < p->reg.cell_count; k++)
				free(p->threads[i]->cell_bucket[k]);
			free(p->threads[i]->cell_bucket);
			free(p->threads[i]->cell_base);
			switches_close(p->agent, p->threads[i]);
			free(p->threads[i]);
		}
	pending_clear(p);
	uprobe_close(p->uprobe);
	functions_destroy(p);
	free(p->grants);
	governor_forget(p);
	free(p->touched);
	free(p->active);
	strtab_finish(&p->strs);
	json_decref(p->resource);
	json_decref(p->last_in_flight);
	free(p->threads);
	free(p->modules);
	free(p->sites);
	free(p->exe);
	free(p->cmdline);
	free(p->user);
	free(p->service);
	free(p);
}
