/* What can be switched in a process: reads the descriptors and texts of each of its modules through /proc/PID/mem, names them by a
 * deterministic id, and answers the selectors' questions about them. Nothing read is believed without bounds. Agent thread. */
#include "agent/state.h"
#include <elf.h>
#include <fcntl.h>
#include <gelf.h>
#include <libelf.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define TEXT_MAX 4096

static bool read_all(int fd, void *to, size_t n, uint64_t at)
{
	for (size_t done = 0; done < n;) {
		ssize_t got = pread(fd, (uint8_t *)to + done, n - done, (off_t)(at + done));
		if (got <= 0)
			return false;
		done += (size_t)got;
	}
	return true;
}

/* Texts of neighbouring sites lie together: one read serves many. */
struct window { uint64_t at; size_t n; char text[16384]; };

static bool texts(int mem, struct window *w, uint64_t at, struct str ret[4])
{
	if (at < w->at || at >= w->at + w->n || w->at + w->n - at < 512) {
		ssize_t got = pread(mem, w->text, sizeof w->text, (off_t)at);
		if (got <= 0) { /* the window ran over the end of the mapping */
			size_t left = 4096 - (at & 4095);
			got = pread(mem, w->text, left, (off_t)at);
		}
		if (got <= 0)
			return false;
		w->at = at;
		w->n = (size_t)got;
	}
	const char *p = w->text + (at - w->at), *end = w->text + w->n;
	for (int i = 0; i < 4; i++) {
		size_t left = (size_t)(end - p);
		const char *nul = memchr(p, 0, left < TEXT_MAX ? left : TEXT_MAX);
		if (!nul) {
			if (at == w->at)
				return false;
			w->n = 0; /* cut by the window: once more, from here */
			return texts(mem, w, at, ret);
		}
		ret[i] = (struct str){ p, (size_t)(nul - p) };
		if (!str_utf8_valid(ret[i]))
			return false;
		p = nul + 1;
	}
	return true;
}

static void schema(struct process *p, struct site *s, struct str text)
{
	for (const char *at = text.p, *end = text.p + text.n; at < end && s->nkeys < KW_ATTR_NAMED;) {
		const char *comma = memchr(at, ',', (size_t)(end - at)), *stop = comma ? comma : end;
		const char *colon = NULL;
		for (const char *c = at; c < stop; c++)
			if (*c == ':')
				colon = c;
		if (!colon || colon == at || colon + 1 >= stop)
			return;
		s->keys = base_realloc(s->keys, (s->nkeys + 1) * sizeof *s->keys);
		s->keys[s->nkeys++] = (struct site_key){ strtab_add(&p->strs, (struct str){ at, (size_t)(colon - at) }), colon[1],
			memchr(colon, '!', (size_t)(stop - colon)) != NULL };
		at = stop + 1;
	}
}

static struct str base_name(struct str s)
{
	for (size_t i = s.n; i-- > 0;)
		if (s.p[i] == '/')
			return (struct str){ s.p + i + 1, s.n - i - 1 };
	return s;
}

static void read_module(struct process *p, uint32_t m)
{
	struct module *mod = &p->modules[m];
	struct kw_site *d = base_calloc(mod->n, sizeof *d);
	struct window *w = base_calloc(1, sizeof *w);
	uint32_t bad = 0;
	if (p->mem < 0 || !read_all(p->mem, d, mod->n * sizeof *d, mod->addr)) {
		log_warn("agent", "process %d: the sites at %#lx cannot be read", p->pid, (unsigned long)mod->addr);
		goto out;
	}
	for (uint32_t i = 0; i < mod->n; i++) {
		struct site *s = &p->sites[mod->first + i];
		uint64_t at = mod->addr + i * sizeof *d;
		struct str t[4];
		if (d[i].kind < KW_SITE_SPAN || d[i].kind > KW_SITE_COUNT || !texts(p->mem, w, at + (uint64_t)(int64_t)d[i].text, t)) {
			bad++;
			continue;
		}
		struct str file = base_name(t[2]);
		*s = (struct site){ .addr = at + (uint64_t)(int64_t)d[i].addr, .target = at + (uint64_t)(int64_t)d[i].target, .line = d[i].line,
			.kind = (uint8_t)d[i].kind, .flags = (uint8_t)d[i].flags, .module = (uint16_t)m };
		s->id = hash_bytes(file.p, file.n, hash_bytes(t[1].p, t[1].n, hash_bytes(t[0].p, t[0].n, 0)));
		s->id += !s->id;
		s->component = strtab_add(&p->strs, t[0]);
		s->name = strtab_add(&p->strs, t[1]);
		s->file = strtab_add(&p->strs, t[2]);
		schema(p, s, t[3]);
		/* What a former agent left on: its byte says so. */
		uint8_t byte;
		if (pread(p->mem, &byte, 1, (off_t)s->addr) == 1)
			s->patched = s->flags & KW_SITE_DATA ? byte == 1 : byte == KW_OP_ON;
		s->on_since = clock_mono();
		cost_recall(p, s);
		p->sites_alive++;
	}
	if (bad)
		log_warn("agent", "process %d: %u of %u site descriptors are not valid", p->pid, bad, mod->n);
out:
	free(w);
	free(d);
}

/* Site indices are never given to two modules; entries of the table are, so they come in any order. */
static bool overlaps(const struct process *p, const struct kw_module *x)
{
	for (uint32_t m = 0; m <= p->reg.max_modules + KW_ATTACHED; m++) {
		const struct module *k = &p->modules[m];
		if (k->known && x->first < k->first + k->n && k->first < x->first + x->nsites)
			return true;
	}
	return false;
}

bool sites_refresh(struct process *p)
{
	uint32_t gen = __atomic_load_n(&p->control->modules_gen, __ATOMIC_ACQUIRE);
	if (gen == p->modules_gen)
		return false;
	p->modules_gen = gen;
	process_read_resource(p);
	uint32_t n = __atomic_load_n(&p->control->modules_n, __ATOMIC_ACQUIRE);
	n = n < p->reg.max_modules ? n : p->reg.max_modules;
	for (uint32_t m = 0; m < n; m++) {
		struct module *mod = &p->modules[m];
		struct kw_module copy;
		memcpy(&copy, &p->modules_shm[m], sizeof copy);
		if (mod->known) {
			bool reused = copy.state != KW_MODULE_FREE && copy.first != mod->first;
			if ((reused || copy.state != KW_MODULE_LIVE) && !mod->gone) {
				mod->gone = 1;
				for (uint32_t i = mod->first; i < mod->first + mod->n; i++) {
					p->sites_alive -= p->sites[i].id != 0;
					p->sites[i].patched = p->sites[i].level = p->sites[i].always = 0;
				}
			}
			if (!reused)
				continue;
			for (uint32_t i = mod->first; i < mod->first + mod->n; i++)
				p->sites[i].module = (uint16_t)p->reg.max_modules;
			*mod = (struct module){ 0 };
		}
		if (copy.state == KW_MODULE_FREE)
			continue;
		if (copy.nsites > p->reg.max_sites || copy.first > p->reg.max_sites - copy.nsites || overlaps(p, &copy)) {
			log_warn("agent", "process %d: module %u claims site indices that it cannot have", p->pid, m);
			*mod = (struct module){ .known = 1, .gone = 1, .first = copy.first };
			continue;
		}
		*mod = (struct module){ .known = 1, .addr = copy.sites, .first = copy.first, .n = copy.nsites, .gone = copy.state != KW_MODULE_LIVE };
		uint32_t end = copy.first + copy.nsites;
		if (end > p->sites_cap) {
			uint32_t cap = end > 2 * p->sites_cap ? end : 2 * p->sites_cap;
			p->sites = base_realloc(p->sites, cap * sizeof *p->sites);
			memset(p->sites + p->sites_cap, 0, (cap - p->sites_cap) * sizeof *p->sites);
			p->sites_cap = cap;
		}
		p->nsites = end > p->nsites ? end : p->nsites;
		if (!mod->gone)
			read_module(p, m);
	}
	return true;
}

/* ---- functions and module files, when somebody asks ------------------------------------------------------------- */

static int by_addr(const void *a, const void *b)
{
	uint64_t x = (*(struct site *const *)a)->addr, y = (*(struct site *const *)b)->addr;
	return x < y ? -1 : x > y;
}

static void symbols(struct process *p, Elf *elf, uint64_t bias, struct site **s, uint32_t n)
{
	for (int pass = 0; pass < 2; pass++) /* .symtab knows more than .dynsym */
		for (Elf_Scn *sec = NULL; (sec = elf_nextscn(elf, sec));) {
			GElf_Shdr sh;
			Elf_Data *data;
			if (!gelf_getshdr(sec, &sh) || sh.sh_type != (pass ? SHT_DYNSYM : SHT_SYMTAB) || !sh.sh_entsize || !(data = elf_getdata(sec, NULL)))
				continue;
			for (uint64_t i = 0; i < sh.sh_size / sh.sh_entsize; i++) {
				GElf_Sym sym;
				if (!gelf_getsym(data, (int)i, &sym) || GELF_ST_TYPE(sym.st_info) != STT_FUNC || !sym.st_size)
					continue;
				uint64_t from = sym.st_value + bias, to = from + sym.st_size;
				uint32_t lo = 0, hi = n;
				while (lo < hi) {
					uint32_t mid = (lo + hi) / 2;
					if (s[mid]->addr < from)
						lo = mid + 1;
					else
						hi = mid;
				}
				const char *name = lo < n && s[lo]->addr < to ? elf_strptr(elf, sh.sh_link, sym.st_name) : NULL;
				for (; name && lo < n && s[lo]->addr < to; lo++)
					if (!s[lo]->function && str_utf8_valid(str_of(name)))
						s[lo]->function = strtab_add(&p->strs, str_of(name));
			}
		}
}

void sites_resolve(struct process *p, uint32_t index)
{
	struct module *m = &p->modules[p->sites[index].module];
	if (m->resolved || !p->map)
		return;
	m->resolved = true;
	char path[600], line[700], file[512] = "";
	unsigned long long from = 0, to, off = 0;
	snprintf(path, sizeof path, "/proc/%d/maps", p->pid);
	FILE *f = fopen(path, "re");
	bool found = false;
	while (f && !found && fgets(line, sizeof line, f))
		found = sscanf(line, "%llx-%llx %*s %llx %*s %*s %511[^\n]", &from, &to, &off, file) >= 3 && m->addr >= from && m->addr < to;
	if (f)
		fclose(f);
	if (!found || *file != '/')
		return;
	if (str_utf8_valid(str_of(file)))
		m->path = strtab_add(&p->strs, str_of(file));
	snprintf(path, sizeof path, "/proc/%d/map_files/%llx-%llx", p->pid, from, to);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0) {
		snprintf(path, sizeof path, "/proc/%d/root%s", p->pid, file);
		fd = open(path, O_RDONLY | O_CLOEXEC);
	}
	elf_version(EV_CURRENT);
	Elf *elf = fd < 0 ? NULL : elf_begin(fd, ELF_C_READ, NULL);
	size_t n = 0;
	uint64_t bias = 0;
	bool have = false;
	if (elf && elf_getphdrnum(elf, &n) == 0)
		for (size_t i = 0; i < n && !have; i++) {
			GElf_Phdr ph;
			if (!gelf_getphdr(elf, (int)i, &ph) || ph.p_type != PT_LOAD)
				continue;
			uint64_t start = ph.p_offset & ~4095ull;
			have = off >= start && off < ph.p_offset + ph.p_filesz;
			bias = from - (off - start) - (ph.p_vaddr & ~4095ull);
		}
	if (have) {
		struct site **s = base_calloc(m->n, sizeof *s);
		uint32_t k = 0;
		for (uint32_t i = m->first; i < m->first + m->n; i++)
			if (p->sites[i].id)
				s[k++] = &p->sites[i];
		qsort(s, k, sizeof *s, by_addr);
		symbols(p, elf, bias, s, k);
		free(s);
	}
	if (elf)
		elf_end(elf);
	if (fd >= 0)
		close(fd);
}

/* ---- selectors --------------------------------------------------------------------------------------------------- */

static const uint8_t span_kinds[] = { KIND_INTERNAL, KIND_SERVER, KIND_CLIENT, KIND_PRODUCER, KIND_CONSUMER };

static void give(struct tq_value *v, struct str s)
{
	v->type = TQ_STR;
	v->s = s;
}

void site_source_get(void *ctx, const struct tq_field *f, struct tq_value *v)
{
	struct site_ref *r = ctx;
	struct process *p = r->p;
	struct site *s = &p->sites[r->i];
	v->type = TQ_NIL;
	if (f->scope == TQ_INTRINSIC) {
		if (f->intrinsic == TQ_NAME)
			give(v, strtab_get(&p->strs, s->name));
		else if (f->intrinsic == TQ_SCOPE_NAME)
			give(v, strtab_get(&p->strs, s->component));
		else if (f->intrinsic == TQ_KIND_ && (s->kind == KW_SITE_SPAN || s->kind == KW_SITE_FUNCTION))
			v->type = TQ_KIND, v->i = span_kinds[(s->flags & KW_SITE_KIND_MASK) >> 1 < 5 ? (s->flags & KW_SITE_KIND_MASK) >> 1 : 0];
		return;
	}
	if (f->scope == TQ_RESOURCE || f->scope == TQ_ANY) {
		char key[256];
		if (f->key.n < sizeof key) {
			memcpy(key, f->key.p, f->key.n);
			key[f->key.n] = 0;
			json_t *j = json_object_get(p->resource, key);
			if (json_is_string(j))
				give(v, (struct str){ json_string_value(j), json_string_length(j) });
			else if (json_is_integer(j))
				v->type = TQ_INT, v->i = json_integer_value(j);
		}
		if (v->type != TQ_NIL || f->scope == TQ_RESOURCE)
			return;
	}
	if (f->scope != TQ_ANY && f->scope != TQ_SPAN)
		return;
	if (str_is(f->key, "component"))
		give(v, strtab_get(&p->strs, s->component));
	else if (str_is(f->key, "code.file.path") || str_is(f->key, "file"))
		give(v, strtab_get(&p->strs, s->file));
	else if (str_is(f->key, "code.line.number") || str_is(f->key, "line"))
		v->type = TQ_INT, v->i = s->line;
	else if (str_is(f->key, "klieg.plugin") && s->kind == KW_SITE_FUNCTION)
		v->type = TQ_BOOL, v->i = s->plugin != 0;
	else if (str_is(f->key, "klieg.site.id"))
		span_id_hex(s->id, r->id), give(v, (struct str){ r->id, 16 });
	else if (str_is(f->key, "code.function.name") || str_is(f->key, "function")) {
		sites_resolve(p, r->i);
		if (s->function)
			give(v, strtab_get(&p->strs, s->function));
	}
}

bool site_match(struct process *p, uint32_t i, const struct traceql *q)
{
	struct site_ref r = { .p = p, .i = i };
	struct tq_source src = { &r, site_source_get };
	return traceql_eval(q, &src);
}

json_t *site_json(struct process *p, uint32_t i)
{
	static const char *const kinds[] = { "", "span", "end", "event", "count", "function" };
	static const char *const spans[] = { "internal", "server", "client", "producer", "consumer" };
	struct site *s = &p->sites[i];
	sites_resolve(p, i);
	char id[17];
	span_id_hex(s->id, id);
	struct str name = strtab_get(&p->strs, s->name), comp = strtab_get(&p->strs, s->component), file = strtab_get(&p->strs, s->file);
	struct str mod = strtab_get(&p->strs, p->modules[s->module].path), fn = strtab_get(&p->strs, s->function);
	uint32_t k = (s->flags & KW_SITE_KIND_MASK) >> 1;
	json_t *keys = json_array();
	for (uint32_t a = 0; a < s->nkeys; a++) {
		struct str key = strtab_get(&p->strs, s->keys[a].name);
		const char *type = s->keys[a].type == 'i' ? "int" : s->keys[a].type == 'd' ? "double" : s->keys[a].type == 'b' ? "bool" :
			s->keys[a].type == 'y' ? "bytes" : "string";
		json_array_append_new(keys, json_pack("{s:s%,s:s,s:b}", "key", key.p, key.n, "type", type, "sensitive", (int)s->keys[a].sensitive));
	}
	json_t *o = json_pack("{s:s,s:s%,s:s%,s:s,s:s,s:s,s:[i],s:s%,s:s%,s:i,s:s%,s:o,s:s,s:i}", "id", id, "name", name.p, name.n, "component", comp.p, comp.n,
		"kind", kinds[s->kind], "span_kind", s->kind == KW_SITE_SPAN || s->kind == KW_SITE_FUNCTION ? spans[k < 5 ? k : 0] : "", "service", p->service, "pids", (int)p->pid,
		"module", mod.p, mod.n, "file", file.p, file.n, "line", (int)s->line, "function", fn.p, fn.n, "attributes", keys,
		"level", level_name(s->level), "instances", 1);
	if (o && s->kind == KW_SITE_FUNCTION)
		function_json(p, i, o);
	return o;
}
