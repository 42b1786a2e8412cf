/* Boundaries of functions from .eh_frame, which even stripped programs keep. A range is a function's start when its first row is the state
 * right after a call: CFA = rsp + 8 and nothing saved but the return address; ranges that start otherwise are pieces that the compiler moved
 * away (.cold), signal trampolines, PLTs. Runs once, while opening. Lengths, pointers and programs are the file's: each is bounded. */
#include "symbols/internal.h"
#include <stdlib.h>
#include <string.h>

#define RANGES_MAX 4000000u
#define COMMON_MAX 1024u  /* bytes of a CIE, and of a program, that are looked at: real ones have 20; ranges that share a long one must not add up */

enum { PE_ABSPTR = 0x00, PE_ULEB = 0x01, PE_UDATA2 = 0x02, PE_UDATA4 = 0x03, PE_UDATA8 = 0x04, PE_SLEB = 0x09, PE_SDATA2 = 0x0a, PE_SDATA4 = 0x0b,
	PE_SDATA8 = 0x0c, PE_PCREL = 0x10, PE_DATAREL = 0x30, PE_OMIT = 0xff };
enum { CFA_SET_LOC = 1, CFA_ADVANCE1, CFA_ADVANCE2, CFA_ADVANCE4, CFA_OFFSET_EXT, CFA_RESTORE_EXT, CFA_UNDEFINED, CFA_SAME, CFA_REGISTER, CFA_REMEMBER,
	CFA_RESTORE_STATE, CFA_DEF, CFA_DEF_REGISTER, CFA_DEF_OFFSET, CFA_DEF_EXPR, CFA_EXPR, CFA_OFFSET_SF, CFA_DEF_SF, CFA_DEF_OFFSET_SF, CFA_VAL,
	CFA_VAL_SF, CFA_VAL_EXPR, CFA_ARGS_SIZE = 0x2e };
#define REG_RSP 7u
#define REG_RETURN 16u

/* A range of bytes being read; past its end everything reads as 0 and `bad` is set. addr: where p is in memory. */
struct reader { const uint8_t *p, *end; uint64_t addr; bool bad; };

static uint64_t take(struct reader *r, uint32_t n)
{
	uint64_t v = 0;
	if ((size_t)(r->end - r->p) < n) {
		r->bad = true;
		r->p = r->end;
		return 0;
	}
	memcpy(&v, r->p, n);
	r->p += n;
	r->addr += n;
	return v;
}

static uint64_t uleb(struct reader *r)
{
	uint64_t v = 0, b;
	uint32_t shift = 0;
	do {
		b = take(r, 1);
		if (shift < 64)
			v |= (b & 0x7f) << shift;
		shift += 7;
	} while (b & 0x80 && !r->bad);
	return v;
}

static void skip(struct reader *r, uint64_t n)
{
	if (n > (uint64_t)(r->end - r->p)) {
		r->bad = true;
		n = (uint64_t)(r->end - r->p);
	}
	r->p += n;
	r->addr += n;
}

/* A pointer in one of the encodings of the C++ ABI; indirect and text-relative ones, which no compiler uses here, are bad. */
static uint64_t pointer(struct reader *r, uint8_t enc)
{
	uint64_t at = r->addr, v;
	switch (enc & 0x0f) {
	case PE_ABSPTR: case PE_UDATA8: case PE_SDATA8: v = take(r, 8); break;
	case PE_UDATA4: v = take(r, 4); break;
	case PE_SDATA4: v = (uint64_t)(int64_t)(int32_t)take(r, 4); break;
	case PE_UDATA2: v = take(r, 2); break;
	case PE_SDATA2: v = (uint64_t)(int64_t)(int16_t)take(r, 2); break;
	case PE_ULEB: v = uleb(r); break;
	default: r->bad = true; return 0;
	}
	switch (enc & 0xf0) {
	case 0: return v;
	case PE_PCREL: return v + at;
	default: r->bad = true; return 0;
	}
}

struct cie { uint64_t off; uint8_t encoding; bool augmented, signal, valid; struct reader program; };
struct row { uint64_t reg, off; bool odd; }; /* odd: something is saved, or the CFA is an expression */

/* Runs a program up to its first advance, true if there was one. */
static bool first_row(struct reader r, struct row *row)
{
	if (r.end - r.p > COMMON_MAX)
		r.end = r.p + COMMON_MAX;
	while (r.p < r.end && !r.bad) {
		uint8_t op = (uint8_t)take(&r, 1);
		uint64_t reg;
		switch (op >> 6) {
		case 1:
			return true;
		case 2:
			uleb(&r);
			row->odd |= (op & 0x3f) != REG_RETURN;
			continue;
		case 3:
			continue;
		}
		switch (op) {
		case 0: case CFA_REMEMBER: case CFA_RESTORE_STATE: break;
		case CFA_SET_LOC: case CFA_ADVANCE1: case CFA_ADVANCE2: case CFA_ADVANCE4: return true;
		case CFA_DEF: row->reg = uleb(&r); row->off = uleb(&r); break;
		case CFA_DEF_REGISTER: row->reg = uleb(&r); break;
		case CFA_DEF_OFFSET: row->off = uleb(&r); break;
		case CFA_OFFSET_EXT: reg = uleb(&r); uleb(&r); row->odd |= reg != REG_RETURN; break;
		case CFA_RESTORE_EXT: case CFA_UNDEFINED: case CFA_SAME: uleb(&r); row->odd |= op == CFA_UNDEFINED; break;
		case CFA_ARGS_SIZE: uleb(&r); break;
		default: row->odd = true; return true; /* expressions, registers in registers: not the state after a plain call */
		}
	}
	row->odd |= r.bad;
	return false;
}

static struct cie read_cie(struct reader r, uint64_t off)
{
	struct cie c = { .off = off, .encoding = PE_ABSPTR };
	uint8_t version = (uint8_t)take(&r, 1);
	const char *aug = (const char *)r.p;
	const uint8_t *nul = memchr(r.p, 0, (size_t)(r.end - r.p));
	if (!nul || (version != 1 && version != 3))
		return c;
	skip(&r, (uint64_t)(nul - r.p) + 1);
	uleb(&r); /* code alignment */
	uleb(&r); /* data alignment: its value does not matter here */
	if (version == 1)
		take(&r, 1);
	else
		uleb(&r);
	if (*aug == 'z') {
		uint64_t n = uleb(&r);
		struct reader data = r;
		c.augmented = true;
		for (const char *a = aug + 1; *a && !data.bad; a++) {
			if (*a == 'R')
				c.encoding = (uint8_t)take(&data, 1);
			else if (*a == 'P')
				skip(&data, ((uint8_t)take(&data, 1) & 7) == PE_UDATA2 ? 2 : (data.p[-1] & 7) == PE_UDATA4 ? 4 : 8);
			else if (*a == 'L')
				take(&data, 1);
			else if (*a == 'S')
				c.signal = true;
			else
				break;
		}
		skip(&r, n);
	} else if (*aug) {
		return c;
	}
	c.program = r;
	c.valid = !r.bad;
	return c;
}

static struct cie cie_at(const uint8_t *start, uint64_t n, uint64_t off)
{
	uint32_t size;
	if (n < 8 || off > n - 8)
		return (struct cie){ .off = off };
	memcpy(&size, start + off, 4);
	if (size < 4 || size > COMMON_MAX || size > n - off - 4)
		return (struct cie){ .off = off };
	return read_cie((struct reader){ start + off + 8, start + off + 4 + size, 0, false }, off);
}

static void read_fde(struct symbols *s, struct reader r, const struct cie *c)
{
	uint64_t addr = pointer(&r, c->encoding), size = pointer(&r, c->encoding & 0x0f);
	if (c->augmented)
		skip(&r, uleb(&r));
	if (r.bad || !size || !symbols_in_text(s, addr) || s->nranges == RANGES_MAX)
		return;
	struct row row = { 0 };
	if (!first_row(c->program, &row))
		first_row(r, &row);
	bool entry = !c->signal && !row.odd && (!s->x86 || (row.reg == REG_RSP && row.off == 8));
	if (!(s->nranges & (s->nranges + 1)))
		s->ranges = base_realloc(s->ranges, (2ull * s->nranges + 2) * sizeof *s->ranges);
	s->ranges[s->nranges++] = (struct range){ addr, size, entry };
}

/* .eh_frame by its section, else by the header that the dynamic linker finds. */
static struct reader find(struct symbols *s)
{
	struct image *im = &s->image;
	const Elf64_Shdr *sh = image_section(im, ".eh_frame");
	if (sh && sh->sh_type != SHT_NOBITS) {
		const uint8_t *p = image_bytes(im, sh->sh_offset, sh->sh_size);
		if (p)
			return (struct reader){ p, p + sh->sh_size, sh->sh_addr, false };
	}
	for (uint32_t i = 0; i < im->nph; i++) {
		if (im->ph[i].p_type != PT_GNU_EH_FRAME)
			continue;
		const uint8_t *p = image_at(im, im->ph[i].p_vaddr, 8);
		struct reader r = { p, p ? p + 8 : p, im->ph[i].p_vaddr, !p };
		take(&r, 1);
		uint8_t enc = (uint8_t)take(&r, 1);
		take(&r, 2);
		uint64_t addr = pointer(&r, enc);
		for (uint32_t k = 0; k < im->nph && !r.bad; k++) { /* to the end of its segment: a length of 0 ends it earlier */
			const Elf64_Phdr *ph = &im->ph[k];
			if (ph->p_type == PT_LOAD && addr >= ph->p_vaddr && addr - ph->p_vaddr < ph->p_filesz) {
				uint64_t n = ph->p_filesz - (addr - ph->p_vaddr);
				p = image_at(im, addr, n);
				if (p)
					return (struct reader){ p, p + n, addr, false };
			}
		}
	}
	return (struct reader){ 0 };
}

static int range_order(const void *a, const void *b)
{
	const struct range *x = a, *y = b;
	return x->addr != y->addr ? (x->addr < y->addr ? -1 : 1) : (int)x->is_entry - (int)y->is_entry;
}

void ranges_read(struct symbols *s)
{
	struct reader all = find(s);
	const uint8_t *start = all.p;
	struct cie cie = { .off = UINT64_MAX };
	while (all.p < all.end) {
		uint64_t n = take(&all, 4);
		if (n == 0xffffffff)
			n = take(&all, 8);
		if (!n || n > (uint64_t)(all.end - all.p) || n < 4)
			break;
		uint64_t here = (uint64_t)(all.p - start);
		struct reader r = { all.p, all.p + n, all.addr, false };
		uint64_t back = take(&r, 4);
		if (back && back <= here) { /* a range, and how far back what it has in common with others is */
			uint64_t off = here - back;
			if (off != cie.off)
				cie = cie_at(start, (uint64_t)(all.end - start), off);
			if (cie.valid)
				read_fde(s, r, &cie);
		}
		skip(&all, n);
	}
	if (s->nranges)
		qsort(s->ranges, s->nranges, sizeof *s->ranges, range_order);
}

const struct range *range_at(const struct symbols *s, uint64_t addr)
{
	uint32_t lo = 0, hi = s->nranges;
	while (lo < hi) {
		uint32_t mid = lo + (hi - lo) / 2;
		if (s->ranges[mid].addr <= addr)
			lo = mid + 1;
		else
			hi = mid;
	}
	const struct range *r = lo ? &s->ranges[lo - 1] : NULL;
	return r && addr - r->addr < r->size ? r : NULL;
}
