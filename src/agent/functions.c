/* The functions of an attached process as sites: which files it runs, what functions they have (src/symbols), which of them can be
 * intercepted. A function has a site index in the process's region like any static probe, so that everything else need not know the difference. The
 * agent keeps notes of what it did in the control page: an agent after it, and a forked child's, go on from there. */
#include "agent/plugins.h"
#include "agent/state.h"
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- symbols, one copy for all processes that run a file ------------------------------------------------------------ */

struct symbols_cache {
	struct symbols_cache *next;
	dev_t dev; ino_t ino; struct timespec mtime;
	char *debug_file;
	struct symbols *s;
	uint32_t refs;
};

int symbols_borrow(struct agent *a, int fd, const char *debug_file, struct symbols **ret_s, struct err *e)
{
	struct stat st;
	if (fstat(fd, &st) < 0)
		return err_set(e, KLIEG_E_IO, "cannot look at the file: %s", strerror(errno));
	pthread_mutex_lock(&a->lock);
	for (struct symbols_cache *c = a->symbols; c; c = c->next)
		if (c->dev == st.st_dev && c->ino == st.st_ino && !memcmp(&c->mtime, &st.st_mtim, sizeof c->mtime) &&
			!strcmp(c->debug_file, debug_file ? debug_file : "")) {
			c->refs++;
			*ret_s = c->s;
			pthread_mutex_unlock(&a->lock);
			return 0;
		}
	pthread_mutex_unlock(&a->lock);
	struct symbols *s;
	int rc = symbols_open(fd, debug_file, &s, e); /* two at once read the file twice: no harm */
	if (rc < 0)
		return rc;
	struct symbols_cache *c = base_calloc(1, sizeof *c);
	*c = (struct symbols_cache){ .dev = st.st_dev, .ino = st.st_ino, .mtime = st.st_mtim, .debug_file = str_dup(str_of(debug_file ? debug_file : "")), .s = s, .refs = 1 };
	pthread_mutex_lock(&a->lock);
	c->next = a->symbols;
	a->symbols = c;
	pthread_mutex_unlock(&a->lock);
	*ret_s = s;
	return 0;
}

static struct symbols *symbols_share(struct agent *a, struct symbols *s)
{
	pthread_mutex_lock(&a->lock);
	for (struct symbols_cache *c = a->symbols; c; c = c->next)
		c->refs += c->s == s;
	pthread_mutex_unlock(&a->lock);
	return s;
}

void symbols_return(struct agent *a, struct symbols *s)
{
	struct symbols_cache *gone = NULL;
	pthread_mutex_lock(&a->lock);
	for (struct symbols_cache **at = &a->symbols; *at && s; at = &(*at)->next)
		if ((*at)->s == s) {
			if (!--(*at)->refs) {
				gone = *at;
				*at = gone->next;
			}
			break;
		}
	pthread_mutex_unlock(&a->lock);
	if (gone) {
		symbols_close(gone->s);
		free(gone->debug_file);
		free(gone);
	}
}

/* ---- the files of a process ----------------------------------------------------------------------------------------- */

static const char *last_part(const char *path)
{
	const char *slash = strrchr(path, '/');
	return slash ? slash + 1 : path;
}

static void file_free(struct agent *a, struct function_file *f)
{
	symbols_return(a, f->symbols);
	free(f->path);
	free(f->base);
	free(f->soname);
}

void functions_files_free(struct agent *a, struct function_file *f, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		file_free(a, &f[i]);
	free(f);
}

/* What people call the program: redis-server is a link to redis-check-rdb. The kernel keeps the name it was started by, unless that was long. */
char *program_name(pid_t pid, const char *file)
{
	char path[64], name[32] = "";
	snprintf(path, sizeof path, "/proc/%d/comm", pid);
	FILE *f = fopen(path, "re");
	if (!f || !fgets(name, sizeof name, f))
		name[0] = 0;
	if (f)
		fclose(f);
	name[strcspn(name, "\n")] = 0;
	return str_dup(str_of(*name && strlen(name) < 15 && str_utf8_valid(str_of(name)) ? name : file));
}

static bool wanted(const char *base, const json_t *globs)
{
	size_t i;
	json_t *g;
	json_array_foreach(globs, i, g)
		if (json_is_string(g) && fnmatch(json_string_value(g), base, 0) == 0)
			return true;
	return false;
}

/* Where the file's addresses are in the process: by the segment that this mapping is of. */
static bool find_bias(const struct symbols *s, uint64_t start, uint64_t offset, uint64_t *ret_bias)
{
	uint64_t addr, off, size;
	for (uint32_t i = 0; symbols_segment(s, i, &addr, &off, &size); i++)
		if (offset >= (off & ~4095ull) && offset < off + size) {
			*ret_bias = start - (addr + (offset - off));
			return true;
		}
	return false;
}

static bool in_notes(const struct kw_control *notes, uint64_t start)
{
	for (uint32_t i = 0; i < KW_ATTACHED; i++)
		if (notes->attached[i].n && notes->attached[i].base == start)
			return true;
	return false;
}

int functions_files(struct agent *a, pid_t pid, const json_t *globs, const char *debug_file, const struct kw_control *notes, struct function_file **ret_f,
	uint32_t *ret_n, struct err *e)
{
	char path[700], line[1024], exe[512] = "";
	snprintf(path, sizeof path, "/proc/%d/exe", pid);
	struct stat exe_st;
	if (stat(path, &exe_st) < 0 || readlink(path, exe, sizeof exe - 1) < 0)
		return err_set(e, errno == ENOENT || errno == ESRCH ? KLIEG_E_NO_TARGET : err_from_errno(errno), "cannot read %s: %s", path, strerror(errno));
	snprintf(path, sizeof path, "/proc/%d/maps", pid);
	FILE *maps = fopen(path, "re");
	if (!maps)
		return err_set(e, err_from_errno(errno), "cannot read %s: %s", path, strerror(errno));
	struct function_file *list = NULL;
	uint32_t n = 0;
	int rc = 0;
	while (rc >= 0 && fgets(line, sizeof line, maps)) {
		unsigned long long from, to, off, ino;
		char perm[8], file[600] = "";
		if (sscanf(line, "%llx-%llx %7s %llx %*s %llu %599[^\n]", &from, &to, perm, &off, &ino, file) < 6 || perm[2] != 'x' || *file != '/' || !ino)
			continue;
		char *deleted = strstr(file, " (deleted)");
		if (deleted)
			*deleted = 0;
		bool is_exe = ino == exe_st.st_ino && !strcmp(last_part(file), last_part(exe[0] ? exe : file));
		is_exe |= ino == exe_st.st_ino && deleted;
		if (!strncmp(file, "/memfd:", 7) || (notes ? !in_notes(notes, from) : !is_exe && !json_array_size(globs)))
			continue;
		bool have = false;
		for (uint32_t i = 0; i < n; i++)
			have |= !strcmp(list[i].path, file); /* a second mapping of it */
		if (have)
			continue;
		snprintf(path, sizeof path, "/proc/%d/map_files/%llx-%llx", pid, from, to);
		int fd = open(path, O_RDONLY | O_CLOEXEC);
		if (fd < 0) {
			snprintf(path, sizeof path, "/proc/%d/root%.600s", pid, file);
			fd = open(path, O_RDONLY | O_CLOEXEC);
		}
		char soname[256] = "";
		if (fd >= 0 && !is_exe)
			symbols_soname(fd, soname, sizeof soname);
		if (!notes && !is_exe && !wanted(last_part(file), globs) && !wanted(soname, globs)) {
			if (fd >= 0)
				close(fd);
			continue;
		}
		struct function_file f = { .start = from, .exe = is_exe };
		struct err mine = { 0 };
		int got = fd < 0 ? err_set(&mine, err_from_errno(errno), "cannot open %s: %s", file, strerror(errno)) :
			symbols_borrow(a, fd, is_exe ? debug_file : NULL, &f.symbols, &mine);
		if (fd >= 0)
			close(fd);
		if (got >= 0 && !find_bias(f.symbols, from, off, &f.bias)) {
			symbols_return(a, f.symbols);
			got = err_set(&mine, KLIEG_E_BAD_DATA, "%s is not mapped as its headers say", file);
		}
		if (got < 0) {
			if (is_exe)
				rc = got, *e = mine;
			else
				log_warn("agent", "process %d: %s: its functions cannot be listed: %s", pid, file, mine.msg);
			continue;
		}
		f.path = str_dup(str_of(file));
		f.base = is_exe ? program_name(pid, last_part(file)) : str_dup(str_of(last_part(file)));
		f.soname = str_dup(str_of(soname));
		list = base_realloc(list, (n + 1) * sizeof *list);
		list[n++] = f;
	}
	fclose(maps);
	if (rc >= 0 && !n)
		rc = err_set(e, KLIEG_E_BAD_DATA, "process %d maps no executable file", pid);
	if (rc < 0) {
		functions_files_free(a, list, n);
		return rc;
	}
	*ret_f = list;
	*ret_n = n;
	return 0;
}

/* ---- sites ------------------------------------------------------------------------------------------------------------ */

/* Takes n indices; the library takes some too, for modules that are loaded. */
static bool take_indices(struct process *p, uint32_t n, uint32_t *ret_first)
{
	uint32_t first = __atomic_load_n(&p->control->sites_n, __ATOMIC_ACQUIRE);
	do {
		if (first > p->reg.max_sites || n > p->reg.max_sites - first)
			return false;
	} while (!__atomic_compare_exchange_n(&p->control->sites_n, &first, first + n, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE));
	*ret_first = first;
	return true;
}

static uint64_t module_base(const struct function_file *f) { return f->start; }

/* The place that a file's functions had, if we were here before. */
static bool noted(struct process *p, const struct function_file *f, uint32_t n, uint32_t *ret_first)
{
	for (uint32_t i = 0; i < KW_ATTACHED; i++) {
		uint64_t base = p->control->attached[i].base;
		uint32_t first = p->control->attached[i].first, m = p->control->attached[i].n;
		if (m == n && base == module_base(f) && first <= p->reg.max_sites && n <= p->reg.max_sites - first) {
			*ret_first = first;
			return true;
		}
	}
	return false;
}

static void note(struct process *p, const struct function_module *m)
{
	for (uint32_t i = 0; i < KW_ATTACHED; i++)
		if (!p->control->attached[i].n) {
			p->control->attached[i].base = module_base(&m->file);
			p->control->attached[i].first = m->first;
			__atomic_store_n(&p->control->attached[i].n, m->n, __ATOMIC_RELEASE);
			return;
		}
}

static void make_sites(struct process *p, struct function_module *m)
{
	uint32_t n, end = m->first + m->n;
	const struct symbols_function *f = symbols_functions(m->file.symbols, &n);
	if (end > p->sites_cap) {
		uint32_t cap = end > 2 * p->sites_cap ? end : 2 * p->sites_cap;
		p->sites = base_realloc(p->sites, cap * sizeof *p->sites);
		memset(p->sites + p->sites_cap, 0, (cap - p->sites_cap) * sizeof *p->sites);
		p->sites_cap = cap;
	}
	p->nsites = end > p->nsites ? end : p->nsites;
	struct str base = str_of(m->file.base);
	const char *build = symbols_build_id(m->file.symbols);
	uint32_t component = strtab_add(&p->strs, base);
	uint64_t seed = hash_bytes("function", 8, hash_bytes(base.p, base.n, 0)), unnamed = hash_bytes(build, strlen(build), seed);
	int64_t now = clock_mono();
	for (uint32_t i = 0; i < m->n; i++) {
		char text[300];
		const char *name = f[i].name && str_utf8_valid(str_of(f[i].name)) ? f[i].name : NULL;
		uint64_t s0 = name ? seed : unnamed; /* an address means something in one build only */
		if (!name)
			snprintf(text, sizeof text, "%.200s+0x%lx", m->file.base, (unsigned long)f[i].addr);
		struct site *s = &p->sites[m->first + i];
		struct site_stat *stat = s->stat; /* from before a detach */
		free(s->keys);
		struct str sn = str_of(name ? name : text);
		*s = (struct site){ .id = hash_bytes(sn.p, sn.n, s0), .addr = f[i].addr + m->file.bias, .kind = KW_SITE_FUNCTION, .module = m->module,
			.component = component, .bad = f[i].refusal != NULL, .on_since = now, .stat = stat };
		s->id += !s->id;
		s->name = s->function = strtab_add(&p->strs, sn);
		cost_recall(p, s);
	}
	p->sites_alive += m->n;
}

int functions_add(struct process *p, struct function_file *files, uint32_t nfiles, struct err *e)
{
	struct functions *fns = p->fns;
	if (!fns) {
		fns = p->fns = base_calloc(1, sizeof *fns);
		fns->max_pause_ns = MAX_PAUSE_DEFAULT;
	}
	int rc = 0;
	if (!fns->live && fns->nmods) { /* back: the same modules, the same indices */
		for (uint32_t i = 0; i < fns->nmods; i++) {
			struct function_module *m = &fns->mods[i];
			p->modules[m->module].gone = 0;
			make_sites(p, m);
			m->text_hash = functions_text_hash(p, m);
		}
	}
	fns->live = true;
	p->control->attached_live = 1;
	for (uint32_t k = 0; k < nfiles; k++) {
		struct function_file *f = &files[k];
		bool have = false;
		for (uint32_t i = 0; i < fns->nmods; i++)
			have |= fns->mods[i].file.start == f->start && !strcmp(fns->mods[i].file.path, f->path);
		uint32_t n = 0, first = 0;
		symbols_functions(f->symbols, &n);
		if (have || !n || rc < 0) {
			file_free(p->agent, f);
			continue;
		}
		bool known = noted(p, f, n, &first);
		if (fns->nmods >= KW_ATTACHED || (!known && !take_indices(p, n, &first))) {
			rc = err_set(e, KLIEG_E_LIMIT, "process %d has no room for the %u functions of %s (%u sites in all)", p->pid, n, f->path, p->reg.max_sites);
			err_hint(e, "attach with fewer libraries (--lib)");
			file_free(p->agent, f);
			continue;
		}
		fns->mods = base_realloc(fns->mods, (fns->nmods + 1) * sizeof *fns->mods);
		struct function_module *m = &fns->mods[fns->nmods];
		*m = (struct function_module){ .file = *f, .first = first, .n = n, .module = (uint16_t)(p->reg.max_modules + 1 + fns->nmods) };
		fns->nmods++;
		m->hooks = base_calloc(n, sizeof *m->hooks);
		if (!known)
			note(p, m);
		p->modules[m->module] = (struct module){ .known = 1, .addr = m->file.start, .first = first, .n = n, .path = strtab_add(&p->strs, str_of(m->file.path)), .resolved = true };
		make_sites(p, m);
		m->text_hash = functions_text_hash(p, m);
	}
	free(files);
	functions_roots(p);
	return rc;
}

void functions_hide(struct process *p)
{
	struct functions *fns = p->fns;
	for (uint32_t k = 0; fns && k < fns->nmods; k++) {
		struct function_module *m = &fns->mods[k];
		p->modules[m->module].gone = 1;
		for (uint32_t i = m->first; i < m->first + m->n; i++) {
			if (p->sites[i].level)
				cost_seen(p, i);
			p->sites[i].level = p->sites[i].always = p->sites[i].peek = 0;
			p->sites_alive -= p->sites[i].id != 0;
		}
	}
	watch_forget(p);
	if (fns)
		fns->live = false;
	p->control->attached_live = 0;
}

void functions_destroy(struct process *p)
{
	struct functions *fns = p->fns;
	if (!fns)
		return;
	for (uint32_t k = 0; k < fns->nmods; k++) {
		for (uint32_t i = 0; i < fns->mods[k].n; i++)
			free(fns->mods[k].hooks[i].moved);
		free(fns->mods[k].hooks);
		file_free(p->agent, &fns->mods[k].file);
	}
	for (uint32_t i = 0; i < fns->nroots; i++)
		free(fns->roots[i]);
	free(fns->roots);
	watch_destroy(p);
	free(fns->mods);
	free(fns);
	p->fns = NULL;
}

/* A child that ended before it was met: what it ran, a relative runs, at the same addresses. */
static bool relatives_files(struct process *p, struct function_file **ret_f, uint32_t *ret_n)
{
	for (uint32_t k = 0; k < p->agent->nprocs; k++) {
		const struct process *o = p->agent->procs[k];
		if (o == p || !o->fns || !o->fns->nmods || o->reg.gate_enter != p->reg.gate_enter || o->reg.gate_data != p->reg.gate_data)
			continue;
		struct function_file *f = base_calloc(o->fns->nmods, sizeof *f);
		for (uint32_t i = 0; i < o->fns->nmods; i++) {
			f[i] = o->fns->mods[i].file;
			f[i].path = str_dup(str_of(f[i].path));
			f[i].base = str_dup(str_of(f[i].base));
			f[i].soname = str_dup(str_of(f[i].soname));
			symbols_share(p->agent, f[i].symbols);
		}
		free(p->exe);
		p->exe = str_dup(str_of(o->exe));
		*ret_f = f;
		*ret_n = o->fns->nmods;
		return true;
	}
	return false;
}

/* What the notes in the control page say of this process: of a former agent, or copied by a fork. Nothing in them is believed before the files agree. */
static void from_notes(struct process *p)
{
	struct function_file *all = NULL;
	uint32_t n = 0;
	struct err e = { 0 };
	int rc = functions_files(p->agent, p->pid, NULL, NULL, p->control, &all, &n, &e);
	if (rc >= 0 && !n) /* it was ending while we looked */
		rc = err_set(&e, KLIEG_E_NO_TARGET, "it is gone");
	if (rc < 0 && !relatives_files(p, &all, &n)) {
		log_warn("agent", "process %d was attached to, but: %s", p->pid, e.msg);
		return;
	}
	struct function_file *mine = base_calloc(n + 1, sizeof *mine);
	uint32_t k = 0;
	for (uint32_t i = 0; i < n; i++) {
		uint32_t count, first;
		symbols_functions(all[i].symbols, &count);
		if (noted(p, &all[i], count, &first))
			mine[k++] = all[i];
		else
			file_free(p->agent, &all[i]);
	}
	free(all);
	bool live = p->control->attached_live != 0;
	if (functions_add(p, mine, k, &e) < 0)
		log_warn("agent", "process %d: %s", p->pid, e.msg);
	json_t *plugins = json_array(), *said = json_array(); /* people were told when they were loaded */
	if (p->fns)
		plugins_recover(p, NULL, 0, plugins, said);
	json_decref(plugins);
	json_decref(said);
	for (uint32_t i = 0; p->fns && i < p->fns->nmods; i++) {
		hooks_find(p, &p->fns->mods[i]);
		p->fns->mods[i].text_hash = functions_text_hash(p, &p->fns->mods[i]); /* now that it is known what is ours */
	}
	if (!live) { /* it was detached: the notes are for the next time */
		int64_t pause;
		if (hooks_remove(p, &pause, &e) < 0)
			log_warn("agent", "process %d: %s", p->pid, e.msg);
		functions_hide(p);
	}
}

void functions_recover(struct process *p)
{
	for (uint32_t i = 0; i < KW_ATTACHED; i++)
		if (p->control->attached[i].n) {
			from_notes(p);
			return;
		}
}

static pid_t parent_of(pid_t pid)
{
	char path[64], line[256];
	int parent = 0;
	snprintf(path, sizeof path, "/proc/%d/status", pid);
	FILE *f = fopen(path, "re");
	while (f && fgets(line, sizeof line, f) && sscanf(line, "PPid: %d", &parent) != 1) {}
	if (f)
		fclose(f);
	return parent;
}

/* One past the last index that the functions of o have. */
static uint32_t indices_end(const struct process *o)
{
	uint32_t end = 0;
	for (uint32_t k = 0; k < o->fns->nmods; k++)
		end = o->fns->mods[k].first + o->fns->mods[k].n > end ? o->fns->mods[k].first + o->fns->mods[k].n : end;
	return end;
}

/* Who forked p. Where that cannot be told any more (p or its parent is gone), a relative will do: same program, same addresses. That p came by a fork shows
 * in its indices: the library goes on from its parent's. A process that was attached to by itself has none yet. */
static struct process *ancestor(const struct process *p)
{
	pid_t parent = parent_of(p->pid);
	struct process *found = NULL;
	for (uint32_t k = 0; k < p->agent->nprocs; k++) {
		struct process *o = p->agent->procs[k];
		if (o == p || !o->map || !o->fns || !o->fns->nmods || o->reg.gate_enter != p->reg.gate_enter || o->reg.gate_data != p->reg.gate_data ||
			__atomic_load_n(&p->control->sites_n, __ATOMIC_ACQUIRE) < indices_end(o))
			continue;
		if (!found || o->pid == parent)
			found = o;
	}
	return found;
}

/* Its text is a copy of the parent's, jumps and stubs included; its region is its own, with the parent's indices left free. */
void functions_inherit(struct process *p)
{
	const struct process *o = ancestor(p);
	if (!o)
		return;
	memcpy(p->control->attached, o->control->attached, sizeof p->control->attached);
	memcpy(p->control->pool, o->control->pool, sizeof p->control->pool);
	p->control->attached_live = o->control->attached_live;
	from_notes(p);
	if (!p->fns)
		return;
	p->fns->max_pause_ns = o->fns->max_pause_ns;
	for (uint32_t i = 0; i < o->fns->nroots; i++) {
		p->fns->roots = base_realloc(p->fns->roots, (p->fns->nroots + 1) * sizeof *p->fns->roots);
		p->fns->roots[p->fns->nroots++] = str_dup(str_of(o->fns->roots[i]));
	}
	functions_roots(p);
	plugins_inherit(p, o);
}

void functions_roots(struct process *p)
{
	struct functions *fns = p->fns;
	for (uint32_t k = 0; fns && k < fns->nmods; k++)
		for (uint32_t i = fns->mods[k].first; i < fns->mods[k].first + fns->mods[k].n; i++) {
			struct str name = strtab_get(&p->strs, p->sites[i].name);
			p->sites[i].root = p->sites[i].plugin && p->sites[i].root;
			for (uint32_t r = 0; r < fns->nroots && !p->sites[i].root; r++)
				p->sites[i].root = str_eq(name, str_of(fns->roots[r]));
		}
}

/* ---- questions -------------------------------------------------------------------------------------------------------- */

const struct function_module *function_module_of(const struct process *p, uint32_t site)
{
	for (uint32_t k = 0; p->fns && k < p->fns->nmods; k++)
		if (site - p->fns->mods[k].first < p->fns->mods[k].n)
			return &p->fns->mods[k];
	return NULL;
}

const struct symbols_function *function_of(const struct process *p, uint32_t site)
{
	const struct function_module *m = function_module_of(p, site);
	uint32_t n;
	return m ? symbols_functions(m->file.symbols, &n) + (site - m->first) : NULL;
}

/* Of the executable segments as they are in memory; what we switch is taken as if it were off. */
uint64_t functions_text_hash(struct process *p, const struct function_module *m)
{
	uint64_t addr, off, size, h = 0;
	uint8_t *buf = base_alloc(1 << 20);
	for (uint32_t i = 0; symbols_segment(m->file.symbols, i, &addr, &off, &size); i++)
		for (uint64_t at = 0; at < size;) {
			size_t want = size - at < 1 << 20 ? size - at : 1 << 20;
			uint64_t from = addr + m->file.bias + at;
			ssize_t got = pread(p->mem, buf, want, (off_t)from);
			if (got <= 0)
				break;
			for (uint32_t s = 0; s < p->nsites; s++) {
				const struct site *x = &p->sites[s];
				if (!x->id || x->flags & KW_SITE_DATA || (x->kind == KW_SITE_FUNCTION && !x->patched) || x->addr + 5 <= from || x->addr >= from + (uint64_t)got)
					continue;
				const uint8_t *orig = x->kind == KW_SITE_FUNCTION ? symbols_text(m->file.symbols, x->addr - m->file.bias, 5) : NULL;
				for (uint32_t b = 0; b < (orig ? 5u : 1u); b++)
					if (x->addr + b - from < (uint64_t)got)
						buf[x->addr + b - from] = orig ? orig[b] : KW_OP_OFF;
			}
			h = hash_bytes((char *)buf, (size_t)got, h);
			at += (uint64_t)got;
		}
	free(buf);
	return h;
}

void function_json(const struct process *p, uint32_t site, json_t *o)
{
	static const char *const sources[] = { "", "symtab", "dynsym", "debug", "dwarf", "eh_frame" };
	const struct symbols_function *f = function_of(p, site);
	if (!f)
		return;
	char address[32];
	snprintf(address, sizeof address, "0x%lx", (unsigned long)p->sites[site].addr);
	json_object_set_new(o, "hookable", json_boolean(!f->refusal && p->sites[site].bad == 0));
	json_object_set_new(o, "why", json_string(f->refusal ? f->refusal : p->sites[site].bad ? "its bytes in memory are not those of its file" : ""));
	json_object_set_new(o, "address", json_string(address));
	json_object_set_new(o, "size", json_integer(f->size));
	json_object_set_new(o, "source", json_string(sources[f->source <= SYMBOLS_EH_FRAME ? f->source : 0]));
	json_object_set_new(o, "root", json_boolean(p->sites[site].root));
}

#define PLAIN_ARGS 6 /* what a function without debug information is shown with: it may have fewer */

static void add_key(struct process *p, struct site *s, const char *key, bool text)
{
	s->keys = base_realloc(s->keys, (s->nkeys + 1) * sizeof *s->keys);
	s->keys[s->nkeys++] = (struct site_key){ strtab_add(&p->strs, str_of(key)), text ? 's' : 'i', false };
}

static struct kw_arg capture(const struct symbols_argument *x, uint32_t key)
{
	struct kw_arg a = { .kind = x->is_string ? KW_ARG_STRING : x->is_pointer ? KW_ARG_POINTER : x->is_signed ? KW_ARG_INT : KW_ARG_UINT,
		.at = x->reg >= 0 ? (uint8_t)x->reg : (uint8_t)(16 + x->stack), .size = x->size, .key = (uint8_t)key };
	return a;
}

uint32_t functions_arguments(struct process *p, uint32_t site, struct kw_arg ret_args[KW_HOOK_ARGS])
{
	struct site *s = &p->sites[site];
	const struct function_module *m = function_module_of(p, site);
	struct symbols_signature *sig = base_calloc(1, sizeof *sig);
	uint32_t n = 0;
	bool known = m && symbols_signature(m->file.symbols, function_of(p, site), sig) >= 0 && sig->known;
	free(s->keys);
	s->keys = NULL;
	s->nkeys = 0;
	for (uint32_t i = 0; m && i < (known ? sig->n : PLAIN_ARGS) && n < KW_HOOK_ARGS - 1; i++) {
		char key[128];
		const struct symbols_argument *x = &sig->args[i];
		if (known && (x->is_float || x->in_memory || (x->reg < 0 && x->stack > 63)))
			continue;
		if (known && x->name && str_utf8_valid(str_of(x->name)))
			snprintf(key, sizeof key, "arg.%.100s", x->name);
		else
			snprintf(key, sizeof key, "arg.%u", i + 1);
		ret_args[n] = known ? capture(x, n) : (struct kw_arg){ KW_ARG_INT, (uint8_t)i, 8, (uint8_t)n };
		add_key(p, s, key, known && x->is_string);
		n++;
	}
	if (m && (!known || (sig->ret.type && strcmp(sig->ret.type, "void") && !sig->ret.is_float && !sig->ret.in_memory))) {
		struct kw_arg a = known ? capture(&sig->ret, n) : (struct kw_arg){ KW_ARG_INT, KW_ARG_RET, 8, (uint8_t)n };
		a.at = KW_ARG_RET;
		ret_args[n] = a;
		add_key(p, s, "ret", known && sig->ret.is_string);
		n++;
	}
	if (known && sig->file && str_utf8_valid(str_of(sig->file))) {
		s->file = strtab_add(&p->strs, str_of(sig->file));
		s->line = sig->line;
	}
	free(sig);
	return n;
}

bool function_at(const struct process *p, uint64_t addr, uint32_t *ret_site)
{
	for (uint32_t k = 0; p->fns && k < p->fns->nmods; k++) {
		const struct function_module *m = &p->fns->mods[k];
		const struct symbols_function *f = symbols_at(m->file.symbols, addr - m->file.bias);
		uint32_t n;
		if (!f || f->addr != addr - m->file.bias)
			continue;
		*ret_site = m->first + (uint32_t)(f - symbols_functions(m->file.symbols, &n));
		return true;
	}
	return false;
}

bool function_in_slot(const struct process *p, const struct function_module *m, uint64_t slot, uint32_t *ret_site)
{
	uint64_t value;
	return p->mem >= 0 && pread(p->mem, &value, sizeof value, (off_t)(slot + m->file.bias)) == sizeof value && function_at(p, value, ret_site);
}

void functions_callees(struct process *p, uint32_t site, void (*fn)(void *arg, uint32_t site), void *arg)
{
	const struct function_module *m = function_module_of(p, site);
	struct symbols_callee *list;
	uint32_t n, indirect, to;
	if (!m || symbols_callees(m->file.symbols, function_of(p, site), &list, &n, &indirect) < 0)
		return;
	for (uint32_t i = 0; i < n; i++) {
		if (list[i].kind == SYMBOLS_SLOT) {
			if (function_in_slot(p, m, list[i].addr, &to) && !function_of(p, to)->refusal)
				fn(arg, to);
			continue;
		}
		if (list[i].addr) {
			if (function_at(p, list[i].addr + m->file.bias, &to) && !function_of(p, to)->refusal)
				fn(arg, to);
			continue;
		}
		for (uint32_t k = 0; list[i].name && k < p->fns->nmods; k++) { /* in another file */
			const struct function_module *o = &p->fns->mods[k];
			const struct symbols_function *f = o == m ? NULL : symbols_named(o->file.symbols, list[i].name);
			uint32_t count;
			if (f && !f->refusal)
				fn(arg, o->first + (uint32_t)(f - symbols_functions(o->file.symbols, &count)));
		}
	}
	free(list);
	for (uint32_t i = 0; watch_edge(p, i, site, &to); i++)
		fn(arg, to);
}
