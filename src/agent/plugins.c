/* Instrumentors: loads a plugin into an attached process and gives the functions that it names their meaning: a function that a plugin knows is a site by the
 * plugin's name for it, of the plugin's kind, with the plugin's handlers. Loading runs on the attach worker (it is slow, and ptrace is a thread's own), the
 * rest on the agent's thread. What the plugin says of itself is read from the process's memory and not believed without bounds. */
#include "agent/plugins.h"
#include "agent/state.h"
#include "klieg/plugin.h"
#include "ptrace/inject.h"
#include "wire/plugin_area.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define HOOKS_MAX 256u

static bool read_at(int mem, uint64_t at, void *to, size_t n) { return pread(mem, to, n, (off_t)at) == (ssize_t)n; }

/* A text of the process, cut at size; "" if it cannot be read or is no text. */
static void text_at(int mem, uint64_t at, char *ret, size_t size)
{
	ret[0] = 0;
	if (!at)
		return;
	ssize_t got = pread(mem, ret, size - 1, (off_t)at);
	if (got <= 0) { /* over the end of a mapping */
		size_t left = 4096 - (at & 4095);
		got = pread(mem, ret, left < size - 1 ? left : size - 1, (off_t)at);
	}
	ret[got > 0 ? got : 0] = 0;
	if (!str_utf8_valid(str_of(ret)))
		ret[0] = 0;
}

/* NAME of NAME:key=value,... ; false: not a name */
static bool name_of(const char *spec, char *ret, size_t size)
{
	size_t n = strcspn(spec, ":");
	const char *slash = memrchr(spec, '/', n);
	if (slash) {
		n -= (size_t)(slash + 1 - spec);
		spec = slash + 1;
	}
	if (n > 3 && !memcmp(spec + n - 3, ".so", 3))
		n -= 3;
	if (!n || n >= size || strspn(spec, "abcdefghijklmnopqrstuvwxyz0123456789-_") < n)
		return false;
	memcpy(ret, spec, n);
	ret[n] = 0;
	return true;
}

/* Where plugins are looked for, as "DIR:DIR:..."; the first is whoever set KLIEG_PLUGIN_PATH, then beside this executable. */
static void plugin_dirs(char *ret, size_t size, char ret_exe[400])
{
	const char *env = getenv("KLIEG_PLUGIN_PATH");
	ssize_t got = readlink("/proc/self/exe", ret_exe, 399);
	ret_exe[got > 0 ? got : 0] = 0;
	char *slash = strrchr(ret_exe, '/');
	if (slash)
		*slash = 0;
	snprintf(ret, size, "%.300s%s%s/plugins:%s/../plugins:%s/../lib/klieg/plugins:%s/../lib/x86_64-linux-gnu/klieg/plugins", env ? env : "", env ? ":" : "", ret_exe, ret_exe,
		ret_exe, ret_exe);
}

static int find_file(const char *spec, const char *name, char *ret_path, size_t size, struct err *e)
{
	char exe[400], dirs[2200], *save = NULL;
	size_t n = strcspn(spec, ":");
	if (memchr(spec, '/', n)) {
		snprintf(ret_path, size, "%.*s", (int)n, spec);
		if (access(ret_path, R_OK) == 0)
			return 0;
		return err_set(e, KLIEG_E_NOT_FOUND, "cannot read the plugin %s: %s", ret_path, strerror(errno));
	}
	plugin_dirs(dirs, sizeof dirs, exe);
	for (char *d = strtok_r(dirs, ":", &save); d; d = strtok_r(NULL, ":", &save))
		for (int nested = 0; nested < 2; nested++) {
			snprintf(ret_path, size, nested ? "%s/%s/%s.so" : "%s/%s.so", d, name, name);
			if (!nested)
				snprintf(ret_path, size, "%s/%s.so", d, name);
			if (access(ret_path, R_OK) == 0)
				return 0;
		}
	err_set(e, KLIEG_E_NOT_FOUND, "there is no plugin \"%s\"", name);
	return err_hint(e, "looked in %s/plugins and ../lib/klieg/plugins; KLIEG_PLUGIN_PATH names more places", exe);
}

static bool add_name(json_t *list, const char *dir, const char *file)
{
	char name[64], path[900];
	size_t n = strlen(file), k;
	json_t *v;
	if (n < 4 || strcmp(file + n - 3, ".so") || !name_of(file, name, sizeof name))
		return false;
	json_array_foreach(list, k, v)
		if (!strcmp(json_string_value(json_object_get(v, "name")), name))
			return false;
	snprintf(path, sizeof path, "%.500s/%.300s", dir, file);
	json_array_append_new(list, json_pack("{s:s,s:s}", "name", name, "path", path));
	return true;
}

/* Those that --plugin finds by their name. */
json_t *plugins_available(void)
{
	char exe[400], dirs[2200], nested[900], *save = NULL;
	json_t *list = json_array();
	plugin_dirs(dirs, sizeof dirs, exe);
	for (char *d = strtok_r(dirs, ":", &save); d; d = strtok_r(NULL, ":", &save)) {
		DIR *in = opendir(d);
		for (struct dirent *e; in && (e = readdir(in));) {
			if (e->d_name[0] == '.' || add_name(list, d, e->d_name))
				continue;
			snprintf(nested, sizeof nested, "%.500s/%.250s/%.100s.so", d, e->d_name, e->d_name);
			if (!strchr(e->d_name, '.') && access(nested, R_OK) == 0) {
				char file[400];
				snprintf(nested, sizeof nested, "%.500s/%.250s", d, e->d_name);
				snprintf(file, sizeof file, "%.250s.so", e->d_name);
				add_name(list, nested, file);
			}
		}
		if (in)
			closedir(in);
	}
	return list;
}

static void option(const char *spec, const char *key, char *ret, size_t size)
{
	const char *at = strchr(spec, ':');
	size_t k = strlen(key);
	ret[0] = 0;
	for (at = at ? at + 1 : ""; *at; at += strcspn(at, ","), at += *at == ',')
		if (!strncmp(at, key, k) && at[k] == '=') {
			snprintf(ret, size, "%.*s", (int)strcspn(at + k + 1, ","), at + k + 1);
			return;
		}
}

/* Is the process's program one of those that the plugin is for? By its file, or by what it was started as (redis-server is a link). */
static bool is_program(pid_t pid, const char *glob, char ret_name[64])
{
	char path[64], exe[512];
	snprintf(path, sizeof path, "/proc/%d/exe", pid);
	ssize_t n = readlink(path, exe, sizeof exe - 1);
	exe[n > 0 ? n : 0] = 0;
	const char *base = strrchr(exe, '/') ? strrchr(exe, '/') + 1 : exe;
	char *name = program_name(pid, base);
	bool is = !*glob || !fnmatch(glob, base, 0) || !fnmatch(glob, name, 0);
	snprintf(ret_name, 64, "%s", name);
	free(name);
	return is;
}

/* What the plugin exports, from the memory of the process. */
static int describe(pid_t pid, int mem, const char *spec, uint64_t at, struct plugin *pl, struct err *e)
{
	struct klieg_plugin d = { 0 };
	char unfit[200], program[100], name[64];
	if (!read_at(mem, at, &d, sizeof d))
		return err_set(e, KLIEG_E_BAD_DATA, "plugin %s: its description cannot be read", pl->name);
	if (d.abi != KLIEG_PLUGIN_ABI || d.size < sizeof d || d.hook_size < sizeof(struct klieg_plugin_hook) || d.nhooks > HOOKS_MAX)
		return err_set(e, KLIEG_E_UNSUPPORTED, "plugin %s is of version %u of the plugin interface, this agent speaks %u", pl->name, d.abi, KLIEG_PLUGIN_ABI);
	text_at(mem, (uint64_t)(uintptr_t)d.version, pl->version, sizeof pl->version);
	text_at(mem, (uint64_t)(uintptr_t)d.fits, pl->fits, sizeof pl->fits);
	text_at(mem, (uint64_t)(uintptr_t)d.unfit, unfit, sizeof unfit);
	text_at(mem, (uint64_t)(uintptr_t)d.program, program, sizeof program);
	if (!*unfit && !is_program(pid, program, name))
		snprintf(unfit, sizeof unfit, "it is for programs called %s, and this is %s", program, name);
	if (*unfit) {
		snprintf(pl->note, sizeof pl->note, "%s: %s", pl->name, unfit);
		return 0;
	}
	pl->hooks = base_calloc(d.nhooks + 1, sizeof *pl->hooks);
	for (uint32_t i = 0; i < d.nhooks; i++) {
		struct klieg_plugin_hook k;
		struct plugin_hook *h = &pl->hooks[pl->nhooks];
		uint64_t where = (uint64_t)(uintptr_t)d.hooks + (uint64_t)i * d.hook_size;
		if (!read_at(mem, where, &k, sizeof k))
			return err_set(e, KLIEG_E_BAD_DATA, "plugin %s: its hook %u cannot be read", pl->name, i);
		*h = (struct plugin_hook){ .address = where, .kind = k.kind & KW_SITE_KIND_MASK, .flags = k.flags, .min_ns = k.min_ns };
		text_at(mem, (uint64_t)(uintptr_t)k.library, h->library, sizeof h->library);
		text_at(mem, (uint64_t)(uintptr_t)k.function, h->function, sizeof h->function);
		text_at(mem, (uint64_t)(uintptr_t)k.site, h->site, sizeof h->site);
		if (k.flags & KLIEG_HOOK_GIVEN) {
			char given[sizeof h->function];
			option(spec, h->function, given, sizeof given);
			if (!*given && !*pl->note)
				snprintf(pl->note, sizeof pl->note, "%s: say which function it is: --plugin %s:%s=FUNCTION", pl->name, pl->name, h->function);
			memcpy(h->function, given, sizeof given);
		}
		if (!*h->function)
			continue;
		if (!*h->site)
			memcpy(h->site, h->function, sizeof h->site);
		pl->nhooks++;
	}
	return 0;
}

/* For the next time, in the process: it outlives us. */
static void remember(int mem, uint64_t host, const char *spec, const struct plugin *pl, uint64_t at)
{
	struct kw_plugin_loaded all[KW_PLUGINS], mine = { .at = at };
	const char *colon = strchr(spec, ':');
	uint64_t where = host + KW_PLUGIN_AREA + offsetof(struct kw_plugin_area, loaded);
	if (snprintf(mine.spec, sizeof mine.spec, "%s%s", pl->name, colon ? colon : "") >= (int)sizeof mine.spec || !read_at(mem, where, all, sizeof all))
		return;
	uint32_t i = 0;
	size_t n = strlen(pl->name);
	while (i < KW_PLUGINS && all[i].at && (strncmp(all[i].spec, pl->name, n) || (all[i].spec[n] && all[i].spec[n] != ':')))
		i++;
	if (i < KW_PLUGINS && pwrite(mem, &mine, sizeof mine, (off_t)(where + i * sizeof mine)) != sizeof mine)
		log_warn("agent", "plugin %s: the process cannot be told that it has it: %s", pl->name, strerror(errno));
}

int plugin_load(pid_t pid, uint64_t host, const char *spec, struct plugin *ret_p, struct inject_report *ret_r, struct err *e)
{
	struct plugin pl = { 0 };
	char path[1200], why[256] = "", mem_path[64];
	if (!name_of(spec, pl.name, sizeof pl.name))
		return err_set(e, KLIEG_E_USAGE, "\"%.60s\" is not the name of a plugin: like sockets, or pq:sqlcommenter=on, or a path to a .so", spec);
	int rc = find_file(spec, pl.name, path, sizeof path, e);
	if (rc < 0)
		return rc;
	rc = plugin_check(path, why); /* tried in a child of ours first: what crashes there does not crash the program */
	if (rc < 0) {
		err_set(e, KLIEG_E_UNSUPPORTED, "the plugin %s cannot be used: %s", path, why);
		return err_hint(e, "the process has not been touched");
	}
	snprintf(mem_path, sizeof mem_path, "/proc/%d/mem", pid);
	int mem = open(mem_path, O_RDWR | O_CLOEXEC);
	if (mem < 0)
		return err_set(e, err_from_errno(errno), "cannot open %s: %s", mem_path, strerror(errno));
	const char *colon = strchr(spec, ':');
	char options[KW_PLUGIN_OPTIONS];
	snprintf(options, sizeof options, "%s:%s", pl.name, colon ? colon + 1 : "");
	if (pwrite(mem, options, strlen(options) + 1, (off_t)(host + KW_PLUGIN_AREA)) < 0)
		rc = err_set(e, KLIEG_E_IO, "cannot write to process %d: %s", pid, strerror(errno));
	if (rc >= 0)
		rc = inject_load(pid, path, "klieg_plugin", (const void *)(uintptr_t)host, SIZE_MAX, ret_r, e);
	if (rc >= 0 && !ret_r->value)
		rc = err_set(e, KLIEG_E_UNSUPPORTED, "plugin %s cannot work with the libklieg in process %d", pl.name, pid);
	if (rc >= 0)
		rc = describe(pid, mem, spec, ret_r->value, &pl, e);
	if (rc >= 0)
		remember(mem, host, spec, &pl, ret_r->value);
	close(mem);
	if (rc < 0) {
		free(pl.hooks);
		return rc;
	}
	*ret_p = pl;
	return 0;
}

void plugin_free(struct plugin *pl) { free(pl->hooks); }

json_t *plugin_libraries(const struct plugin *pl, uint32_t n)
{
	json_t *globs = json_array();
	for (uint32_t i = 0; i < n; i++)
		for (uint32_t k = 0; k < pl[i].nhooks; k++)
			if (*pl[i].hooks[k].library)
				json_array_append_new(globs, json_string(pl[i].hooks[k].library));
	return globs;
}

/* The site becomes the plugin's. One function runs the handlers of one plugin: whose it was until now is said. */
static void take(struct process *p, uint32_t i, const struct plugin *pl, const struct plugin_hook *h, json_t *notes)
{
	struct site *s = &p->sites[i];
	if (s->plugin && s->plugin != h->address) {
		struct str had = strtab_get(&p->strs, s->component), site = strtab_get(&p->strs, s->name);
		char text[400];
		if (!str_eq(had, str_of(pl->name)))
			snprintf(text, sizeof text, "%s and %.*s both name %s, which can have one of them: it is %s now, and the site %.*s of %.*s is gone; attach with %.*s alone, or last",
				pl->name, (int)had.n, had.p, h->function, pl->name, (int)site.n, site.p, (int)had.n, had.p, (int)had.n, had.p);
		else
			snprintf(text, sizeof text, "%s names %s twice: it is %s, not %.*s", pl->name, h->function, h->site, (int)site.n, site.p);
		if (!str_eq(had, str_of(pl->name)) || !str_eq(site, str_of(h->site)))
			json_array_append_new(notes, json_string(text));
	}
	s->plugin = h->address;
	s->min_ns = h->min_ns;
	s->flags = (uint8_t)h->kind;
	s->root |= (h->flags & KLIEG_HOOK_ROOT) != 0;
	s->name = strtab_add(&p->strs, str_of(h->site));
	s->component = strtab_add(&p->strs, str_of(pl->name));
	s->id = hash_bytes(h->site, strlen(h->site), hash_bytes(pl->name, strlen(pl->name), hash_bytes("plugin", 6, 0)));
	s->id += !s->id;
	s->batch_gen = 0;
	cost_recall(p, s);
}

json_t *plugin_apply(struct process *p, const struct plugin *pl, json_t *notes)
{
	uint32_t sites = 0;
	if (*pl->note)
		json_array_append_new(notes, json_string(pl->note));
	for (uint32_t k = 0; k < pl->nhooks; k++) {
		const struct plugin_hook *h = &pl->hooks[k];
		const char *why = NULL;
		bool found = false, file = false;
		for (uint32_t m = 0; m < p->fns->nmods; m++) {
			const struct function_module *mod = &p->fns->mods[m];
			if (*h->library ? fnmatch(h->library, mod->file.base, 0) && fnmatch(h->library, mod->file.soname, 0) : !mod->file.exe)
				continue;
			file = true;
			const struct symbols_function *f = symbols_named(mod->file.symbols, h->function);
			uint32_t n;
			if (!f)
				continue;
			if (f->refusal) {
				why = f->refusal;
				continue;
			}
			take(p, mod->first + (uint32_t)(f - symbols_functions(mod->file.symbols, &n)), pl, h, notes);
			found = true;
		}
		sites += found;
		if (!found && !(h->flags & KLIEG_HOOK_OPTIONAL) && (file || why)) {
			char text[400];
			snprintf(text, sizeof text, "%s: %s %s%s", pl->name, h->function, why ? "cannot be intercepted: " : "is not in this version", why ? why : "");
			json_array_append_new(notes, json_string(text));
		}
	}
	/* What it noted itself while it looked at the process. */
	struct kw_plugin_area *area = base_alloc(sizeof *area);
	if (read_at(p->mem, p->reg.plugin_host + KW_PLUGIN_AREA, area, sizeof *area))
		for (uint32_t i = 0; i < area->notes_n && i < KW_PLUGIN_NOTES; i++) {
			area->notes[i].text[sizeof area->notes[i].text - 1] = area->notes[i].plugin[sizeof area->notes[i].plugin - 1] = 0;
			if (strcmp(area->notes[i].plugin, pl->name) || !str_utf8_valid(str_of(area->notes[i].text)))
				continue;
			char text[400];
			snprintf(text, sizeof text, "%s: %s", pl->name, area->notes[i].text);
			json_array_append_new(notes, json_string(text));
		}
	free(area);
	return json_pack("{s:s,s:s,s:s,s:i}", "name", pl->name, "version", pl->version, "fits", pl->fits, "sites", (int)sites);
}

/* How many sites of p are this plugin's already. */
static uint32_t has(const struct process *p, const struct plugin *pl)
{
	uint32_t n = 0;
	for (uint32_t i = 0; i < p->nsites; i++)
		for (uint32_t k = 0; p->sites[i].plugin && k < pl->nhooks; k++)
			n += p->sites[i].plugin == pl->hooks[k].address;
	return n;
}

void plugins_recover(struct process *p, const struct plugin *named, uint32_t nnamed, json_t *plugins, json_t *notes)
{
	struct kw_plugin_loaded all[KW_PLUGINS];
	if (p->uprobe || !p->reg.plugin_host || !read_at(p->mem, p->reg.plugin_host + KW_PLUGIN_AREA + offsetof(struct kw_plugin_area, loaded), all, sizeof all))
		return;
	for (uint32_t i = 0; i < KW_PLUGINS && all[i].at; i++) {
		struct plugin pl = { 0 };
		struct err e = { 0 };
		bool again = false;
		all[i].spec[sizeof all[i].spec - 1] = 0;
		if (!str_utf8_valid(str_of(all[i].spec)) || !name_of(all[i].spec, pl.name, sizeof pl.name))
			continue;
		for (uint32_t k = 0; k < nnamed; k++)
			again |= !strcmp(named[k].name, pl.name);
		if (again)
			continue;
		uint32_t sites = 0;
		if (describe(p->pid, p->mem, all[i].spec, all[i].at, &pl, &e) < 0)
			log_warn("agent", "process %d: %s", p->pid, e.msg);
		else if ((sites = has(p, &pl)))
			json_array_append_new(plugins, json_pack("{s:s,s:s,s:s,s:i}", "name", pl.name, "version", pl.version, "fits", pl.fits, "sites", (int)sites));
		else
			json_array_append_new(plugins, plugin_apply(p, &pl, notes));
		plugin_free(&pl);
	}
}

void plugins_inherit(struct process *p, const struct process *from)
{
	for (uint32_t m = 0; m < p->fns->nmods; m++)
		for (uint32_t i = p->fns->mods[m].first; i < p->fns->mods[m].first + p->fns->mods[m].n && i < from->nsites; i++) {
			const struct site *o = &from->sites[i];
			struct site *s = &p->sites[i];
			if (!o->plugin || o->addr != s->addr)
				continue;
			s->plugin = o->plugin;
			s->min_ns = o->min_ns;
			s->flags = o->flags;
			s->root = o->root;
			s->id = o->id;
			s->name = strtab_add(&p->strs, strtab_get(&from->strs, o->name));
			s->component = strtab_add(&p->strs, strtab_get(&from->strs, o->component));
		}
}
