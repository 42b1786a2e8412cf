/* Puts the functions of a file together, and finds them again: names (elf_names.c) and boundaries (eh_frame.c) become one list sorted by
 * address, prologue.c says which can be hooked. Everything is made in symbols_open(), in the caller's thread; after that it is only read. */
#include "symbols/internal.h"
#include "base/buf.h"
#include "base/hash.h"
#include "symbols/debug_file.h"
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define NESTED_MAX 64u   /* functions that begin inside of another and are looked past */

/* Functions that a gate around them would break, whatever their code looks like. */
static const struct { const char *name, *why; } special[] = {
#define TWICE "it returns twice, or to another stack"
#define CALLER "what it does depends on the address of its caller"
#define UNWIND "it unwinds the stack from its own frame"
#define TRACE "it is called in the middle of another function's entry"
	{ "setjmp", TWICE }, { "_setjmp", TWICE }, { "__setjmp", TWICE }, { "sigsetjmp", TWICE }, { "__sigsetjmp", TWICE }, { "vfork", TWICE }, { "__vfork", TWICE },
	{ "getcontext", TWICE }, { "setcontext", TWICE }, { "swapcontext", TWICE }, { "makecontext", TWICE },
	{ "dlopen", CALLER }, { "dlmopen", CALLER }, { "dlsym", CALLER }, { "dlvsym", CALLER },
	{ "_Unwind_RaiseException", UNWIND }, { "_Unwind_Resume", UNWIND }, { "_Unwind_ForcedUnwind", UNWIND }, { "_Unwind_Resume_or_Rethrow", UNWIND },
	{ "_Unwind_Backtrace", UNWIND }, { "mcount", TRACE }, { "_mcount", TRACE }, { "__fentry__", TRACE },
};

const struct segment *symbols_in_text(const struct symbols *s, uint64_t addr)
{
	for (uint32_t i = 0; i < s->ntext; i++)
		if (addr >= s->text[i].addr && addr - s->text[i].addr < s->text[i].size)
			return &s->text[i];
	return NULL;
}

static int find_segments(struct symbols *s, struct err *e)
{
	for (uint32_t i = 0; i < s->image.nph; i++) {
		const Elf64_Phdr *ph = &s->image.ph[i];
		if (ph->p_type != PT_LOAD || !(ph->p_flags & PF_X) || !ph->p_filesz || ph->p_vaddr + ph->p_filesz < ph->p_vaddr)
			continue;
		if (s->nsegments == SYMBOLS_SEGMENTS_MAX)
			return err_set(e, KLIEG_E_LIMIT, "it has more than %u executable segments", SYMBOLS_SEGMENTS_MAX);
		s->segments[s->nsegments++] = (struct segment){ ph->p_vaddr, ph->p_offset, ph->p_filesz, image_bytes(&s->image, ph->p_offset, ph->p_filesz) };
	}
	return 0;
}

static bool overlaps_text(const struct symbols *s, const Elf64_Shdr *sh)
{
	for (uint32_t i = 0; i < s->ntext; i++)
		if (sh->sh_addr < s->text[i].addr + s->text[i].size && s->text[i].addr < sh->sh_addr + sh->sh_size)
			return true;
	return false;
}

/* Where functions are. PLT entries look like functions but are none. */
static void find_text(struct symbols *s)
{
	uint32_t most = sizeof s->text / sizeof *s->text;
	bool fits = true;
	for (uint32_t i = 1; i < s->image.nsh && fits; i++) {
		const Elf64_Shdr *sh = &s->image.sh[i];
		uint64_t flags = SHF_ALLOC | SHF_EXECINSTR;
		if ((sh->sh_flags & flags) != flags || sh->sh_type == SHT_NOBITS || !sh->sh_size)
			continue;
		const uint8_t *p = symbols_text(s, sh->sh_addr, sh->sh_size);
		const char *name = image_section_name(&s->image, sh);
		if (!p || !strncmp(name, ".plt", 4) || !strcmp(name, ".iplt") || overlaps_text(s, sh))
			continue;
		fits = s->ntext < most;
		if (fits)
			s->text[s->ntext++] = (struct segment){ sh->sh_addr, sh->sh_offset, sh->sh_size, p };
	}
	if (!fits || !s->ntext) {
		memcpy(s->text, s->segments, sizeof s->segments);
		s->ntext = s->nsegments;
	}
}

/* ---- one list ---------------------------------------------------------------------------------------------------------- */

static int name_order(const void *a, const void *b)
{
	const struct name *x = a, *y = b;
	if (x->addr != y->addr)
		return x->addr < y->addr ? -1 : 1;
	if (x->is_function != y->is_function)
		return x->is_function ? -1 : 1;
	if (x->rank != y->rank)
		return (int)x->rank - (int)y->rank;
	size_t nx = strlen(x->name), ny = strlen(y->name);
	if (nx != ny)
		return nx < ny ? -1 : 1;
	int c = strcmp(x->name, y->name);
	return c ? c : (int)x->source - (int)y->source;
}

static const char *why_special(const struct name *names, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		for (size_t k = 0; k < sizeof special / sizeof *special; k++)
			if (names[i].name[0] == special[k].name[0] && !strcmp(names[i].name, special[k].name))
				return special[k].why;
	return NULL;
}

/* An entry of a PLT whose section has no name: an indirect jump through a slot, and nothing else. */
static bool is_plt(const struct symbols *s, uint64_t addr)
{
	const uint8_t *p = s->image.nsh ? NULL : symbols_text(s, addr, 11);
	if (p && !memcmp(p, "\xf3\x0f\x1e\xfa", 4))
		p += 4;
	if (p && *p == 0xf2)
		p++;
	return p && p[0] == 0xff && p[1] == 0x25;
}

/* The function that the names and the range at one address are, if they are one. named_end: how far the named functions before it go. */
static bool settle(const struct symbols *s, const struct name *names, uint32_t n, const struct range *range, uint64_t named_end, struct symbols_function *ret_f)
{
	bool piece = false;
	for (uint32_t i = 0; i < n; i++) {
		if (names[i].is_ifunc)
			return false;
		piece |= names[i].is_piece;
	}
	if (piece)
		return false;
	bool entry = range && range->is_entry;
	if (!(n && names->is_function) && (!entry || is_plt(s, range->addr)))
		return false;
	if (!n && range->addr < named_end)
		return false;
	struct symbols_function f = { .addr = n ? names->addr : range->addr, .source = n ? names->source : SYMBOLS_EH_FRAME, .name = n ? names->name : NULL };
	uint64_t size = n && names->size ? names->size : range ? range->size : 0;
	f.size = size > UINT32_MAX ? UINT32_MAX : (uint32_t)size;
	f.refusal = why_special(names, n);
	if (f.addr == s->image.head.e_entry)
		f.refusal = "the program starts there: nobody calls it";
	else if (!f.refusal && range && !entry)
		f.refusal = "its stack at entry is not that of a function that was called";
	else if (!f.refusal && f.addr < named_end)
		f.refusal = "it starts inside another function";
	*ret_f = f;
	return true;
}

static void build(struct symbols *s)
{
	if (s->nnames)
		qsort(s->names, s->nnames, sizeof *s->names, name_order);
	s->functions = base_calloc((size_t)s->nnames + s->nranges + 1, sizeof *s->functions);
	uint64_t named_end = 0;
	for (uint32_t i = 0, j = 0; i < s->nnames || j < s->nranges;) {
		uint64_t addr = j == s->nranges || (i < s->nnames && s->names[i].addr <= s->ranges[j].addr) ? s->names[i].addr : s->ranges[j].addr;
		const struct name *names = s->names + i;
		const struct range *range = NULL;
		uint32_t n = 0;
		for (; i < s->nnames && s->names[i].addr == addr; i++)
			n++;
		for (; j < s->nranges && s->ranges[j].addr == addr; j++)
			range = &s->ranges[j]; /* the last is the one that is an entry */
		struct symbols_function f;
		if (!settle(s, names, n, range, named_end, &f))
			continue;
		if (n && names->size && addr + f.size > named_end)
			named_end = addr + f.size;
		s->functions[s->n++] = f;
	}
	for (uint32_t i = 0; i < s->n; i++) {
		struct symbols_function *f = &s->functions[i];
		const struct segment *in = symbols_in_text(s, f->addr);
		uint64_t room = in->size - (f->addr - in->addr);
		if (!f->size && i + 1 < s->n && f[1].addr - f->addr < room)
			room = f[1].addr - f->addr;
		if (!f->size || f->size > room)
			f->size = room > UINT32_MAX ? UINT32_MAX : (uint32_t)room;
	}
}

/* ---- lookup -------------------------------------------------------------------------------------------------------------- */

static struct named *cell(const struct symbols *s, const char *name)
{
	uint32_t i = (uint32_t)hash_bytes(name, strlen(name), 0) & (s->ntable - 1);
	while (s->table[i].name && strcmp(s->table[i].name, name))
		i = (i + 1) & (s->ntable - 1);
	return &s->table[i];
}

static void index_names(struct symbols *s)
{
	s->ntable = 16;
	while (s->ntable < 2ull * s->nnames)
		s->ntable *= 2;
	s->table = base_calloc(s->ntable, sizeof *s->table);
	for (uint32_t i = 0, f = 0; i < s->nnames; i++) {
		const struct name *n = &s->names[i];
		while (f < s->n && s->functions[f].addr < n->addr)
			f++;
		if (f == s->n || s->functions[f].addr != n->addr || (n->rank >= NAME_OLD && n->name != s->functions[f].name))
			continue;
		struct named *c = cell(s, n->name);
		if (!c->name || n->rank < c->rank) /* several functions of a name: the exported one, then the first */
			*c = (struct named){ n->name, f, n->rank };
	}
}

uint32_t symbols_from(const struct symbols *s, uint64_t addr)
{
	uint32_t lo = 0, hi = s->n;
	while (lo < hi) {
		uint32_t mid = lo + (hi - lo) / 2;
		if (s->functions[mid].addr < addr)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

const struct symbols_function *symbols_exactly(const struct symbols *s, uint64_t addr)
{
	uint32_t i = symbols_from(s, addr);
	return i < s->n && s->functions[i].addr == addr ? &s->functions[i] : NULL;
}

const struct symbols_function *symbols_at(const struct symbols *s, uint64_t addr)
{
	uint32_t i = symbols_from(s, addr);
	if (i < s->n && s->functions[i].addr == addr)
		return &s->functions[i];
	for (uint32_t back = 0; i-- && back < NESTED_MAX; back++)
		if (addr - s->functions[i].addr < s->functions[i].size)
			return &s->functions[i];
	return NULL;
}

const struct symbols_function *symbols_named(const struct symbols *s, const char *name)
{
	const struct named *c = name ? cell(s, name) : NULL;
	return c && c->name ? &s->functions[c->function] : NULL;
}

const struct symbols_function *symbols_functions(const struct symbols *s, uint32_t *ret_n)
{
	*ret_n = s->n;
	return s->functions;
}

uint32_t symbols_similar(const struct symbols *s, const char *name, const char **ret_names, uint32_t max)
{
	struct { uint32_t score; const char *name; } best[32];
	uint32_t n = 0, most = max < 32 ? max : 32;
	size_t len = strlen(name);
	uint32_t near = len < 6 ? 2 : (uint32_t)(len < 60 ? len : 60) / 3;
	for (uint32_t i = 0; i < s->ntable && most; i++) {
		const char *other = s->table[i].name;
		if (!other)
			continue;
		size_t n2 = strlen(other);
		uint32_t score = UINT32_MAX, gap = (uint32_t)(n2 > len ? n2 - len : len - n2);
		if (gap <= near && (score = str_distance(str_of(name), str_of(other))) > near)
			score = UINT32_MAX;
		if (score == UINT32_MAX && len > 2 && strcasestr(other, name))
			score = 1000 + gap;
		uint32_t k = n;
		while (k && (best[k - 1].score > score || (best[k - 1].score == score && strcmp(best[k - 1].name, other) > 0)))
			k--;
		if (score == UINT32_MAX || k == most)
			continue;
		n += n < most;
		memmove(&best[k + 1], &best[k], (n - k - 1) * sizeof *best);
		best[k].score = score;
		best[k].name = other;
	}
	for (uint32_t i = 0; i < n; i++)
		ret_names[i] = best[i].name;
	return n;
}

const char *symbols_build_id(const struct symbols *s)
{
	return s->build_id;
}

bool symbols_has_dwarf(const struct symbols *s)
{
	return s->has_dwarf;
}

const uint8_t *symbols_text(const struct symbols *s, uint64_t addr, size_t n)
{
	for (uint32_t i = 0; i < s->nsegments; i++) {
		const struct segment *g = &s->segments[i];
		if (addr >= g->addr && addr - g->addr <= g->size && n <= g->size - (addr - g->addr))
			return g->p + (addr - g->addr);
	}
	return NULL;
}

bool symbols_segment(const struct symbols *s, uint32_t i, uint64_t *ret_addr, uint64_t *ret_offset, uint64_t *ret_size)
{
	if (i >= s->nsegments)
		return false;
	*ret_addr = s->segments[i].addr;
	*ret_offset = s->segments[i].offset;
	*ret_size = s->segments[i].size;
	return true;
}

/* ---- open and close ------------------------------------------------------------------------------------------------------ */

static bool image_has_dwarf(struct image *im)
{
	const Elf64_Shdr *sh = image_section(im, ".debug_info");
	sh = sh ? sh : image_section(im, ".zdebug_info");
	return sh && sh->sh_type != SHT_NOBITS;
}

static bool has_symtab(const struct image *im)
{
	for (uint32_t i = 1; i < im->nsh; i++)
		if (im->sh[i].sh_type == SHT_SYMTAB)
			return true;
	return false;
}

int symbols_open(int fd, const char *debug_file, struct symbols **ret_s, struct err *e)
{
	struct symbols *s = base_calloc(1, sizeof *s);
	int debug = -1;
	s->debug.fd = s->dwarf_fd = -1;
	pthread_mutex_init(&s->dwarf_lock, NULL);
	strtab_init(&s->kept);
	int rc = image_open(fd, true, &s->image, e);
	if (rc >= 0 && s->image.head.e_machine != EM_X86_64 && s->image.head.e_machine != EM_AARCH64)
		rc = err_set(e, KLIEG_E_UNSUPPORTED, "it is for another machine (ELF machine %u)", s->image.head.e_machine);
	if (rc >= 0)
		rc = find_segments(s, e);
	if (rc < 0)
		goto out;
	s->x86 = s->image.head.e_machine == EM_X86_64;
	find_text(s);
	image_build_id(&s->image, s->build_id);
	s->has_dwarf = image_has_dwarf(&s->image);
	if (debug_file)
		rc = debug = debug_file_open(debug_file, s->build_id, s->image.head.e_machine, &s->debug, e);
	else if (!s->has_dwarf || !has_symtab(&s->image))
		debug = debug_file_find(&s->image, s->build_id, &s->debug);
	if (rc < 0)
		goto out;
	bool in_debug = debug >= 0 && image_has_dwarf(&s->debug);
	if (in_debug || s->has_dwarf)
		s->dwarf_fd = fcntl(in_debug ? debug : fd, F_DUPFD_CLOEXEC, 3);
	s->has_dwarf = s->dwarf_fd >= 0;

	names_read(s, &s->image, false);
	if (debug >= 0)
		names_read(s, &s->debug, true);
	ranges_read(s);
	if (s->has_dwarf && !has_symtab(&s->image) && (debug < 0 || !has_symtab(&s->debug)))
		dwarf_names(s);
	build(s);
	slots_read(s);
	prologues_check(s);
	index_names(s);
	*ret_s = s;
	rc = 0;
out:
	s->image.fd = s->debug.fd = -1;
	if (debug >= 0)
		close(debug);
	if (rc < 0)
		symbols_close(s);
	return rc;
}

void symbols_close(struct symbols *s)
{
	if (!s)
		return;
	dwarf_finish(s);
	if (s->dwarf_fd >= 0)
		close(s->dwarf_fd);
	image_finish(&s->image);
	image_finish(&s->debug);
	pthread_mutex_destroy(&s->dwarf_lock);
	strtab_finish(&s->kept);
	free(s->names);
	free(s->ranges);
	free(s->functions);
	free(s->table);
	free(s->slots);
	free(s);
}
