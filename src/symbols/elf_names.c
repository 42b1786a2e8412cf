/* Names from the symbol tables of the file and of its debug file, and what the dynamic linker will put into the global offset table.
 * Runs once, while opening; names point into the images, which live as long as the symbols. */
#include "symbols/internal.h"
#include <stdlib.h>
#include <string.h>

#define NAMES_MAX 4000000u
#define SLOTS_MAX 1000000u

struct table { const uint8_t *p, *strings, *versions; uint64_t n, nstrings; };

static bool section_bytes(struct image *im, const Elf64_Shdr *sh, const uint8_t **ret_p)
{
	*ret_p = sh->sh_type == SHT_NOBITS ? NULL : image_bytes(im, sh->sh_offset, sh->sh_size);
	return *ret_p != NULL;
}

static bool find_table(struct image *im, uint32_t type, struct table *ret_t)
{
	for (uint32_t i = 1; i < im->nsh; i++) {
		const Elf64_Shdr *sh = &im->sh[i];
		struct table t = { 0 };
		if (sh->sh_type != type || sh->sh_link >= im->nsh || !section_bytes(im, sh, &t.p) || !section_bytes(im, &im->sh[sh->sh_link], &t.strings))
			continue;
		t.n = sh->sh_size / sizeof(Elf64_Sym);
		t.nstrings = im->sh[sh->sh_link].sh_size;
		for (uint32_t v = 1; v < im->nsh && type == SHT_DYNSYM; v++)
			if (im->sh[v].sh_type == SHT_GNU_versym && im->sh[v].sh_link == i && im->sh[v].sh_size / 2 >= t.n)
				section_bytes(im, &im->sh[v], &t.versions);
		*ret_t = t;
		return true;
	}
	return false;
}

static uint64_t dynamic(const struct image *im, int64_t tag)
{
	for (uint32_t i = 0; i < im->nph; i++) {
		const uint8_t *p = im->ph[i].p_type == PT_DYNAMIC ? image_at(im, im->ph[i].p_vaddr, im->ph[i].p_filesz) : NULL;
		for (uint64_t k = 0; p && k + sizeof(Elf64_Dyn) <= im->ph[i].p_filesz; k += sizeof(Elf64_Dyn)) {
			Elf64_Dyn d;
			memcpy(&d, p + k, sizeof d);
			if (d.d_tag == tag)
				return d.d_un.d_val;
			if (d.d_tag == DT_NULL)
				break;
		}
	}
	return 0;
}

/* How many symbols the GNU hash table knows: the end of the chain that starts last. */
static uint64_t count_by_hash(const struct image *im, uint64_t addr)
{
	uint32_t h[4];
	const uint8_t *p = image_at(im, addr, sizeof h);
	if (!p)
		return 0;
	memcpy(h, p, sizeof h);
	uint64_t buckets = addr + 16 + 8ull * h[2], chains = buckets + 4ull * h[0];
	const uint8_t *b = image_at(im, buckets, 4ull * h[0]);
	uint32_t last = 0, v;
	for (uint32_t i = 0; b && i < h[0]; i++) {
		memcpy(&v, b + 4ull * i, 4);
		last = v > last ? v : last;
	}
	if (last < h[1])
		return h[1];
	for (;; last++) {
		const uint8_t *c = image_at(im, chains + 4ull * (last - h[1]), 4);
		if (!c)
			return last;
		memcpy(&v, c, 4);
		if (v & 1)
			return last + 1ull;
	}
}

/* A file whose section headers were cut off still tells the dynamic linker where its symbols are. */
static bool find_dynamic_table(struct image *im, struct table *ret_t)
{
	struct table t = { .nstrings = dynamic(im, DT_STRSZ) };
	uint64_t gnu = dynamic(im, DT_GNU_HASH), old = dynamic(im, DT_HASH);
	const uint8_t *h = old ? image_at(im, old, 8) : NULL;
	uint32_t chains = 0;
	if (h)
		memcpy(&chains, h + 4, 4);
	t.n = chains ? chains : gnu ? count_by_hash(im, gnu) : 0;
	if (!t.n || t.n > NAMES_MAX)
		return false;
	t.p = image_at(im, dynamic(im, DT_SYMTAB), t.n * sizeof(Elf64_Sym));
	t.strings = image_at(im, dynamic(im, DT_STRTAB), t.nstrings);
	if (!t.p || !t.strings)
		return false;
	*ret_t = t;
	return true;
}

/* "memcpy@@GLIBC_2.14" is memcpy. */
static const char *without_version(struct symbols *s, const char *name)
{
	const char *at = strchr(name, '@');
	if (!at || at == name)
		return name;
	char *cut = str_dup((struct str){ name, (size_t)(at - name) });
	uint32_t id = strtab_add(&s->kept, (struct str){ cut, (size_t)(at - name) + 1 });
	free(cut);
	return strtab_get(&s->kept, id).p;
}

static bool is_piece(const char *name)
{
	const char *cold = strstr(name, ".cold");
	return cold && (!cold[5] || cold[5] == '.');
}

static void add_table(struct symbols *s, const struct table *t, uint8_t source)
{
	uint64_t n = t->n < NAMES_MAX - s->nnames ? t->n : NAMES_MAX - s->nnames;
	s->names = base_realloc(s->names, (s->nnames + n + 1) * sizeof *s->names);
	for (uint64_t i = 1; i < n; i++) {
		Elf64_Sym y;
		memcpy(&y, t->p + i * sizeof y, sizeof y);
		uint8_t type = ELF64_ST_TYPE(y.st_info), bind = ELF64_ST_BIND(y.st_info);
		if (y.st_shndx == SHN_UNDEF || y.st_shndx == SHN_ABS || (type != STT_FUNC && type != STT_GNU_IFUNC && type != STT_NOTYPE) ||
			!symbols_in_text(s, y.st_value))
			continue;
		const char *name = image_string(t->strings, t->nstrings, y.st_name);
		if (!name || !*name || (type == STT_NOTYPE && (*name == '.' || *name == '$')))
			continue;
		uint16_t version = 0;
		if (t->versions)
			memcpy(&version, t->versions + 2 * i, 2);
		const char *at = strchr(name, '@');
		bool old = version & 0x8000 || (at && at[1] != '@');
		uint8_t rank = (uint8_t)((bind == STB_GLOBAL || bind == STB_GNU_UNIQUE ? 0 : bind == STB_WEAK ? 1 : 2) + (old ? NAME_OLD : 0));
		s->names[s->nnames++] = (struct name){ .addr = y.st_value, .size = y.st_size, .name = without_version(s, name), .source = source, .rank = rank,
			.is_function = type == STT_FUNC, .is_ifunc = type == STT_GNU_IFUNC, .is_piece = is_piece(name) };
	}
}

void names_read(struct symbols *s, struct image *im, bool is_debug)
{
	struct table t;
	if (find_table(im, SHT_SYMTAB, &t))
		add_table(s, &t, is_debug ? SYMBOLS_DEBUG : SYMBOLS_SYMTAB);
	if (!is_debug && (find_table(im, SHT_DYNSYM, &t) || (!im->nsh && find_dynamic_table(im, &t))))
		add_table(s, &t, SYMBOLS_DYNSYM);
}

/* ---- slots of the global offset table ------------------------------------------------------------------------------- */

static int slot_order(const void *a, const void *b)
{
	const struct slot *x = a, *y = b;
	return x->addr < y->addr ? -1 : x->addr > y->addr;
}

static void add_slots(struct symbols *s, const uint8_t *rela, uint64_t bytes, const struct table *t)
{
	uint32_t jump = s->x86 ? R_X86_64_JUMP_SLOT : R_AARCH64_JUMP_SLOT, data = s->x86 ? R_X86_64_GLOB_DAT : R_AARCH64_GLOB_DAT;
	uint64_t n = bytes / sizeof(Elf64_Rela);
	s->slots = base_realloc(s->slots, (s->nslots + (n < SLOTS_MAX ? n : SLOTS_MAX) + 1) * sizeof *s->slots);
	for (uint64_t i = 0; i < n && i < SLOTS_MAX; i++) {
		Elf64_Rela r;
		Elf64_Sym y;
		memcpy(&r, rela + i * sizeof r, sizeof r);
		uint32_t type = ELF64_R_TYPE(r.r_info), sym = ELF64_R_SYM(r.r_info);
		if ((type != jump && type != data) || sym >= t->n)
			continue;
		memcpy(&y, t->p + sym * sizeof y, sizeof y);
		const char *name = image_string(t->strings, t->nstrings, y.st_name);
		if (name && *name)
			s->slots[s->nslots++] = (struct slot){ r.r_offset, y.st_shndx != SHN_UNDEF ? y.st_value : 0, name };
	}
}

/* By the dynamic section: there are two tables, whatever the sections say. */
static const uint8_t *relocations(const struct image *im, int which, uint64_t *ret_bytes)
{
	static const int64_t tags[2][2] = { { DT_RELA, DT_RELASZ }, { DT_JMPREL, DT_PLTRELSZ } };
	uint64_t addr = dynamic(im, tags[which][0]);
	*ret_bytes = dynamic(im, tags[which][1]);
	return addr && *ret_bytes ? image_at(im, addr, *ret_bytes) : NULL;
}

void slots_read(struct symbols *s)
{
	struct table t;
	if (!find_table(&s->image, SHT_DYNSYM, &t) && !find_dynamic_table(&s->image, &t))
		return;
	for (int i = 0; i < 2; i++) {
		uint64_t bytes;
		const uint8_t *p = relocations(&s->image, i, &bytes);
		if (p)
			add_slots(s, p, bytes, &t);
	}
	if (s->nslots)
		qsort(s->slots, s->nslots, sizeof *s->slots, slot_order);
}

const struct slot *slot_at(const struct symbols *s, uint64_t addr)
{
	const struct slot key = { .addr = addr };
	return s->nslots ? bsearch(&key, s->slots, s->nslots, sizeof key, slot_order) : NULL;
}

void relatives_each(struct symbols *s, void (*fn)(void *arg, uint64_t addr), void *arg)
{
	struct table t;
	bool named = find_table(&s->image, SHT_DYNSYM, &t) || (!s->image.nsh && find_dynamic_table(&s->image, &t));
	for (int i = 0; i < 2; i++) {
		uint64_t bytes;
		const uint8_t *p = relocations(&s->image, i, &bytes);
		for (uint64_t k = 0; p && k + sizeof(Elf64_Rela) <= bytes; k += sizeof(Elf64_Rela)) {
			Elf64_Rela r;
			memcpy(&r, p + k, sizeof r);
			if (ELF64_R_TYPE(r.r_info) == R_X86_64_RELATIVE)
				fn(arg, (uint64_t)r.r_addend);
			uint32_t sym = (uint32_t)ELF64_R_SYM(r.r_info);
			if (ELF64_R_TYPE(r.r_info) != R_X86_64_64 || !named || sym >= t.n)
				continue;
			Elf64_Sym y;
			memcpy(&y, t.p + sym * sizeof y, sizeof y);
			if (y.st_shndx != SHN_UNDEF)
				fn(arg, y.st_value + (uint64_t)r.r_addend);
		}
	}
}

#define DYNAMIC_MAX (64u << 10) /* bytes; real ones have some hundred */

void symbols_soname(int fd, char *ret_name, size_t size)
{
	struct image im;
	struct err e;
	uint64_t strings = 0, bytes = 0, soname = 0;
	ret_name[0] = 0;
	if (image_open(fd, false, &im, &e) < 0)
		return;
	for (uint32_t i = 0; i < im.nph; i++) {
		const uint8_t *p = im.ph[i].p_type == PT_DYNAMIC && im.ph[i].p_filesz <= DYNAMIC_MAX ? image_bytes(&im, im.ph[i].p_offset, im.ph[i].p_filesz) : NULL;
		for (uint64_t k = 0; p && k + sizeof(Elf64_Dyn) <= im.ph[i].p_filesz; k += sizeof(Elf64_Dyn)) {
			Elf64_Dyn d;
			memcpy(&d, p + k, sizeof d);
			strings = d.d_tag == DT_STRTAB ? d.d_un.d_ptr : strings;
			bytes = d.d_tag == DT_STRSZ ? d.d_un.d_val : bytes;
			soname = d.d_tag == DT_SONAME ? d.d_un.d_val : soname;
			if (d.d_tag == DT_NULL)
				break;
		}
	}
	for (uint32_t i = 0; i < im.nph && soname && soname < bytes; i++) {
		const Elf64_Phdr *ph = &im.ph[i];
		if (ph->p_type != PT_LOAD || strings < ph->p_vaddr || strings - ph->p_vaddr >= ph->p_filesz || bytes - soname > ph->p_filesz - (strings - ph->p_vaddr))
			continue;
		uint64_t most = bytes - soname < size ? bytes - soname : size;
		const uint8_t *p = image_bytes(&im, ph->p_offset + (strings - ph->p_vaddr) + soname, most);
		if (p && memchr(p, 0, most))
			memcpy(ret_name, p, strlen((const char *)p) + 1);
		break;
	}
	image_finish(&im);
}

bool has_packed_relocations(const struct image *im)
{
	const int64_t relr = 36; /* DT_RELR, younger than this system's elf.h */
	return dynamic(im, relr) != 0;
}
