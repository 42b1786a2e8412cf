/* Walks PT_DYNAMIC and DT_GNU_HASH of a mapped object. The target's memory is not trusted: every loop has a bound, every read may fail. */
#include "ptrace/image.h"
#include "base/err.h"
#include "ptrace/remote.h"
#include <elf.h>
#include <string.h>

int process_image_open(int mem, uint64_t base, struct image *ret_i)
{
	Elf64_Ehdr eh;
	struct image i = { .mem = mem, .base = base };
	uint64_t dynamic = 0;
	bool biased = false;
	if (remote_read(mem, base, &eh, sizeof eh))
		return KLIEG_E_IO;
	if (memcmp(eh.e_ident, ELFMAG, SELFMAG) || eh.e_ident[EI_CLASS] != ELFCLASS64 || eh.e_phentsize != sizeof(Elf64_Phdr) || eh.e_phnum > 128)
		return KLIEG_E_BAD_DATA;
	for (unsigned k = 0; k < eh.e_phnum; k++) {
		Elf64_Phdr ph;
		if (remote_read(mem, base + eh.e_phoff + k * sizeof ph, &ph, sizeof ph))
			return KLIEG_E_IO;
		if (ph.p_type == PT_LOAD && !biased) {
			i.bias = base - (ph.p_vaddr - ph.p_offset);
			biased = true;
		}
		if (ph.p_type == PT_DYNAMIC)
			dynamic = ph.p_vaddr;
	}
	if (!dynamic || !biased)
		return KLIEG_E_BAD_DATA;
	for (unsigned k = 0; k < 256; k++) {
		Elf64_Dyn d;
		if (remote_read(mem, i.bias + dynamic + k * sizeof d, &d, sizeof d))
			return KLIEG_E_IO;
		if (d.d_tag == DT_NULL)
			break;
		uint64_t at = d.d_un.d_ptr < i.bias ? d.d_un.d_ptr + i.bias : d.d_un.d_ptr; /* the loader has relocated it, or not (vdso, musl) */
		if (d.d_tag == DT_SYMTAB)
			i.symtab = at;
		else if (d.d_tag == DT_STRTAB)
			i.strtab = at;
		else if (d.d_tag == DT_GNU_HASH)
			i.gnu_hash = at;
	}
	if (!i.symtab || !i.strtab || !i.gnu_hash)
		return KLIEG_E_BAD_DATA;
	*ret_i = i;
	return 0;
}

uint64_t process_image_symbol(const struct image *i, const char *name)
{
	struct { uint32_t nbuckets, first, bloom_n, shift; } head;
	uint32_t hash = 5381, at, h;
	size_t n = strlen(name) + 1;
	char have[128];
	for (const char *p = name; *p; p++)
		hash = hash * 33 + (uint8_t)*p;
	if (n > sizeof have || remote_read(i->mem, i->gnu_hash, &head, sizeof head) || !head.nbuckets)
		return 0;
	uint64_t buckets = i->gnu_hash + sizeof head + 8ull * head.bloom_n, chains = buckets + 4ull * head.nbuckets;
	if (remote_read(i->mem, buckets + 4ull * (hash % head.nbuckets), &at, 4) || at < head.first)
		return 0;
	for (unsigned steps = 0; steps < 10000; steps++, at++) {
		Elf64_Sym sym;
		if (remote_read(i->mem, chains + 4ull * (at - head.first), &h, 4))
			return 0;
		if ((h | 1) == (hash | 1) && !remote_read(i->mem, i->symtab + at * sizeof sym, &sym, sizeof sym) && sym.st_shndx != SHN_UNDEF &&
		    !remote_read(i->mem, i->strtab + sym.st_name, have, n) && !memcmp(have, name, n))
			return i->bias + sym.st_value;
		if (h & 1)
			return 0;
	}
	return 0;
}
