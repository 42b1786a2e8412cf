/* Decides which functions can be intercepted by a jump over their first bytes, and how many bytes that displaces. First each start is looked
 * at by itself; then all code of the file is decoded once, to find what would land in the middle of such a jump: branches from anywhere,
 * entries of jump tables, labels whose address is taken. Runs once, while opening; the decoder's minimal mode makes it affordable.
 * What cannot be found: code that computes such an address. Compilers don't, and functions written by hand rarely do.
 * The same pass finds pieces (.cold) of functions that stripped programs do not tell from functions: nobody calls them or takes their address,
 * and they jump back into the middle of another function, or are entered from another by a conditional branch. */
#include "symbols/internal.h"
#include "base/buf.h"
#include <stdlib.h>
#include <string.h>

#define STRAIGHT_MAX 32     /* instructions looked at for uses of the return address */
#define TABLES_MAX 8u       /* recent table addresses remembered while a function is swept */
#define TABLE_ENTRIES_MAX 1024u
#define TABLE_ENTRIES_ALL (32u << 20) /* of a file: a hostile one could make the tables add up */

/* One bit for every byte of a segment: a function starts there; a jump would be written over it; it is called, or its address taken; the
 * function that starts there looks like a piece of another; its address is taken. */
struct marks { uint8_t *start, *inner, *called, *piece, *taken; };
struct scan {
	struct symbols *s;
	struct marks marks[SYMBOLS_SEGMENTS_MAX];
	uint32_t entries;        /* of jump tables, looked at */
};

static const char too_short[] = "shorter than 5 bytes", into[] = "a branch into its first 5 bytes", loop[] = "a loop back to its first instruction",
	garbage[] = "its first bytes are not instructions";

/* ---- a start by itself ---------------------------------------------------------------------------------------------------- */

/* p: size bytes of the function, and up to room those before the next one. */
static const char *window_of(const ZydisDecoder *d, const uint8_t *p, uint64_t size, uint64_t room, uint8_t *ret_window)
{
	uint32_t n = 0, stop = 0; /* where the instruction ends that nothing runs on behind */
	bool stopped = false;
	while (n < SYMBOLS_JUMP) {
		ZydisDecodedInstruction in;
		bool padding = stopped || n >= size;
		if (n >= room)
			return too_short;
		if (padding && p[n] == 0xcc) {
			n++;
			continue;
		}
		if (!ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(d, NULL, p + n, room - n, &in)))
			return padding ? too_short : garbage;
		if (padding && in.mnemonic != ZYDIS_MNEMONIC_NOP)
			return too_short;
		const char *why = move_obstacle(&in, n);
		if (why)
			return why;
		n += in.length;
		if (!stopped && is_stop(&in))
			stop = n;
		stopped = stop;
	}
	*ret_window = (uint8_t)(!stopped ? n : stop < SYMBOLS_JUMP ? SYMBOLS_JUMP : stop); /* padding never runs: part of it is enough */
	return NULL;
}

/* `lock or $0, (%rsp)` is how compilers spell a memory barrier. */
static bool is_barrier(const ZydisDecodedInstruction *in)
{
	return in->attributes & ZYDIS_ATTRIB_HAS_LOCK && (in->mnemonic == ZYDIS_MNEMONIC_ADD || in->mnemonic == ZYDIS_MNEMONIC_OR) &&
		in->raw.imm[0].size && !in->raw.imm[0].value.u;
}

/* setjmp and the like read or take the address they return to. With a gate that is the gate's, and it is kept beyond this call. */
static bool uses_return_address(const ZydisDecoder *d, const uint8_t *p, uint64_t size)
{
	for (uint32_t i = 0; i < STRAIGHT_MAX && size; i++) {
		ZydisDecodedInstruction in;
		ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
		bool moves = false;
		if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(d, p, size, &in, ops)) || is_stop(&in) || in.raw.imm[0].is_relative ||
			in.meta.category == ZYDIS_CATEGORY_CALL || in.meta.category == ZYDIS_CATEGORY_PUSH)
			return false;
		for (uint32_t k = 0; k < in.operand_count; k++) {
			const ZydisDecodedOperand *o = &ops[k];
			if (o->type == ZYDIS_OPERAND_TYPE_MEMORY && o->mem.type == ZYDIS_MEMOP_TYPE_MEM && o->mem.base == ZYDIS_REGISTER_RSP &&
				o->mem.index == ZYDIS_REGISTER_NONE && o->mem.disp.value >= 0 && o->mem.disp.value < 8 && !is_barrier(&in))
				return true;
			moves |= o->type == ZYDIS_OPERAND_TYPE_REGISTER && o->reg.value == ZYDIS_REGISTER_RSP && o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE;
		}
		if (moves)
			return false;
		p += in.length;
		size -= in.length;
	}
	return false;
}

/* ---- marks ---------------------------------------------------------------------------------------------------------------- */

static bool bit(const uint8_t *bits, uint64_t i)
{
	return bits[i / 8] >> (i % 8) & 1;
}

static void set(uint8_t *bits, uint64_t i)
{
	bits[i / 8] |= (uint8_t)(1u << (i % 8));
}

static const struct marks *marks_at(const struct scan *c, uint64_t addr, uint64_t *ret_i)
{
	for (uint32_t i = 0; i < c->s->nsegments; i++) {
		const struct segment *g = &c->s->segments[i];
		if (addr >= g->addr && addr - g->addr < g->size) {
			*ret_i = addr - g->addr;
			return &c->marks[i];
		}
	}
	return NULL;
}

static void refuse(struct symbols_function *f, const char *why)
{
	f->refusal = why;
	f->window = 0;
}

/* Something may jump to addr. */
static void landing(void *arg, uint64_t addr)
{
	struct scan *c = arg;
	uint64_t i;
	const struct marks *m = marks_at(c, addr, &i);
	if (!m)
		return;
	if (bit(m->start, i))
		set(m->called, i);
	if (!bit(m->inner, i))
		return;
	uint32_t f = symbols_from(c->s, addr);
	while (f-- && addr - c->s->functions[f].addr < SYMBOLS_JUMP)
		if (!c->s->functions[f].refusal)
			refuse(&c->s->functions[f], into);
}

/* The address is somewhere where it can be loaded from, or is computed. */
static void taken(void *arg, uint64_t addr)
{
	struct scan *c = arg;
	uint64_t i;
	const struct marks *m = marks_at(c, addr, &i);
	if (m && bit(m->start, i))
		set(m->taken, i);
	landing(arg, addr);
}

/* ---- all code once ---------------------------------------------------------------------------------------------------------- */

struct sweep { const struct symbols_function *f; uint64_t tables[TABLES_MAX]; uint32_t ntables; };

/* A switch: 32-bit distances from the table itself, as compilers make them for position-independent code. */
static void jump_tables(struct scan *c, struct sweep *w)
{
	for (uint32_t i = 0; i < w->ntables && i < TABLES_MAX; i++) {
		for (uint32_t k = 0; k < TABLE_ENTRIES_MAX && c->entries < TABLE_ENTRIES_ALL; k++, c->entries++) {
			const uint8_t *p = image_at(&c->s->image, w->tables[i] + 4ull * k, 4);
			int32_t d;
			if (!p)
				break;
			memcpy(&d, p, 4);
			uint64_t to = w->tables[i] + (uint64_t)(int64_t)d;
			if (to - w->f->addr >= w->f->size)
				break;
			landing(c, to);
		}
	}
	w->ntables = 0;
}

static void mark_piece(struct scan *c, const struct symbols_function *f)
{
	uint64_t i;
	const struct marks *m = f->name ? NULL : marks_at(c, f->addr, &i);
	if (m)
		set(m->piece, i);
}

/* A branch out of function f. */
static void look_out(struct scan *c, const struct symbols_function *f, const ZydisDecodedInstruction *in, uint64_t to)
{
	const struct symbols_function *g = symbols_at(c->s, to);
	if (g && to != g->addr)
		mark_piece(c, f);
	if (g && is_jcc(in))
		mark_piece(c, g);
}

static void look(struct scan *c, struct sweep *w, const ZydisDecodedInstruction *in, uint64_t at)
{
	uint64_t to, i;
	if (instruction_target(in, at, &to)) {
		const struct marks *m = marks_at(c, to, &i);
		if (!m)
			return;
		bool call = in->opcode == 0xe8 && in->opcode_map == ZYDIS_OPCODE_MAP_DEFAULT, start = bit(m->start, i);
		if (call || bit(m->inner, i))
			landing(c, to);
		if (call || !w->f)
			return;
		if (to - w->f->addr >= w->f->size)
			look_out(c, w->f, in, to);
		else if (start && to == w->f->addr && !w->f->refusal)
			refuse(&c->s->functions[w->f - c->s->functions], loop);
	} else if (in->opcode_map == ZYDIS_OPCODE_MAP_DEFAULT && w->f) {
		if (in->opcode == 0x8d && in->raw.modrm.mod == 0 && in->raw.modrm.rm == 5) {
			to = at + in->length + (uint64_t)in->raw.disp.value;
			w->tables[w->ntables++ % TABLES_MAX] = to;
			taken(c, to);
		} else if ((in->opcode & 0xf8) == 0xb8 && in->raw.imm[0].size >= 32 && c->s->image.head.e_type == ET_EXEC) {
			taken(c, in->raw.imm[0].value.u & UINT32_MAX); /* addresses are fixed, and short */
		} else if (in->opcode == 0xff && in->raw.modrm.reg == 4 && w->ntables) {
			jump_tables(c, w);
		}
	}
}

/* Decodes from one start of a function to the next, so that no byte is decoded twice, however functions overlap. */
static void sweep(struct scan *c, const ZydisDecoder *d, const struct segment *text)
{
	const struct symbols *s = c->s;
	struct sweep w = { 0 };
	uint32_t next = symbols_from(s, text->addr);
	for (uint64_t pos = 0; pos < text->size;) {
		ZydisDecodedInstruction in;
		uint64_t at = text->addr + pos;
		uint8_t b = text->p[pos];
		if (next < s->n && at >= s->functions[next].addr) {
			w = (struct sweep){ .f = &s->functions[next++] };
			at = w.f->addr;
			pos = at - text->addr;
			continue;
		}
		if (w.f && at - w.f->addr >= w.f->size)
			w.f = NULL;
		if (!w.f && (b == 0xcc || b == 0x90 || b == 0)) {
			pos++;
			continue;
		}
		if (!ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(d, NULL, text->p + pos, text->size - pos, &in))) {
			pos++;
			continue;
		}
		look(c, &w, &in, at);
		pos += in.length;
	}
}

/* Labels in tables of addresses: as relocations, or as they stand where addresses are fixed or relocations packed (DT_RELR). */
static void sweep_data(struct scan *c)
{
	const struct image *im = &c->s->image;
	relatives_each(c->s, taken, c);
	for (uint32_t i = 0; i < im->nph; i++) {
		const Elf64_Phdr *ph = &im->ph[i];
		const uint8_t *p = ph->p_type == PT_LOAD && !(ph->p_flags & PF_X) ? image_at(im, ph->p_vaddr, ph->p_filesz) : NULL;
		if (!p || (im->head.e_type != ET_EXEC && !has_packed_relocations(im)))
			continue;
		for (uint64_t k = -ph->p_vaddr & 7; k + 8 <= ph->p_filesz; k += 8) {
			uint64_t v;
			memcpy(&v, p + k, 8);
			taken(c, v);
		}
	}
}

/* Pieces are no functions, unless somebody calls them after all. */
static void drop_pieces(struct scan *c)
{
	struct symbols *s = c->s;
	uint32_t n = 0;
	for (uint32_t i = 0; i < s->n; i++) {
		uint64_t k;
		const struct marks *m = marks_at(c, s->functions[i].addr, &k);
		if (!m || !bit(m->piece, k) || bit(m->called, k))
			s->functions[n++] = s->functions[i];
	}
	s->n = n;
}

static void keep_taken(struct scan *c)
{
	struct symbols *s = c->s;
	for (uint32_t i = 0; i < s->nslots; i++) /* a slot is called through, or loaded from: then its function may go anywhere */
		if (s->slots[i].value)
			taken(c, s->slots[i].value);
	s->taken = base_calloc(s->n / 8 + 1, 1);
	for (uint32_t i = 0; i < s->n; i++) {
		uint64_t k;
		const struct marks *m = marks_at(c, s->functions[i].addr, &k);
		if (m && bit(m->taken, k))
			set(s->taken, i);
	}
}

void prologues_check(struct symbols *s)
{
	struct scan c = { .s = s };
	ZydisDecoder full, minimal;
	decoder_start(&full, false);
	decoder_start(&minimal, true);
	for (uint32_t i = 0; i < s->nsegments; i++) {
		size_t n = s->segments[i].size / 8 + 1;
		uint8_t *bits = base_calloc(n, 5);
		c.marks[i] = (struct marks){ bits, bits + n, bits + 2 * n, bits + 3 * n, bits + 4 * n };
	}
	for (uint32_t i = 0; i < s->n; i++) {
		struct symbols_function *f = &s->functions[i];
		const struct segment *in = symbols_in_text(s, f->addr);
		uint64_t off = f->addr - in->addr, room = in->size - off, k;
		if (i + 1 < s->n && f[1].addr - f->addr < room)
			room = f[1].addr - f->addr;
		if (!s->x86)
			refuse(f, "functions can be intercepted on x86-64 only");
		const struct marks *m = marks_at(&c, f->addr, &k);
		set(m->start, k);
		if (f->refusal)
			continue;
		f->refusal = window_of(&full, in->p + off, f->size, room, &f->window);
		if (!f->refusal && uses_return_address(&full, in->p + off, f->size))
			refuse(f, "it uses the address that it returns to");
		if (f->refusal)
			continue;
		for (uint64_t n = 1; n < SYMBOLS_JUMP; n++)
			set(m->inner, k + n);
	}
	for (uint32_t i = 0; s->x86 && i < s->ntext; i++)
		sweep(&c, &minimal, &s->text[i]);
	if (s->x86)
		sweep_data(&c);
	drop_pieces(&c);
	keep_taken(&c);
	for (uint32_t i = 0; i < s->nsegments; i++)
		free(c.marks[i].start);
}
