/* What a function calls, by decoding it and the pieces of it that the compiler moved away. Calls through the PLT or the global offset table
 * resolve to names. Any thread, on demand: one function takes well under a millisecond. */
#include "symbols/internal.h"
#include "base/buf.h"
#include <stdlib.h>
#include <string.h>

#define PIECES_MAX 32u

struct part { uint64_t addr, size; };
struct search {
	const struct symbols *s;
	struct part parts[PIECES_MAX];
	uint32_t nparts;
	struct symbols_callee *list;
	uint32_t n, indirect;
	uint32_t *table, ntable;     /* index + 1 of callees, open addressing by address or name */
};

static uint64_t key(const struct symbols_callee *c)
{
	return (c->addr ? c->addr : (uint64_t)(uintptr_t)c->name) * 0x9e3779b97f4a7c15ull >> 20;
}

static void grow(struct search *w)
{
	w->ntable = w->ntable ? w->ntable * 2 : 64;
	free(w->table);
	w->table = base_calloc(w->ntable, sizeof *w->table);
	w->list = base_realloc(w->list, w->ntable * sizeof *w->list);
	for (uint32_t i = 0; i < w->n; i++) {
		uint64_t k = key(&w->list[i]);
		while (w->table[k & (w->ntable - 1)])
			k++;
		w->table[k & (w->ntable - 1)] = i + 1;
	}
}

static void found(struct search *w, uint64_t addr, const char *name, uint8_t kind)
{
	struct symbols_callee c = { addr, name, kind, 1 };
	if (2 * w->n >= w->ntable)
		grow(w);
	uint64_t k = key(&c);
	for (uint32_t i; (i = w->table[k & (w->ntable - 1)]); k++) {
		struct symbols_callee *old = &w->list[i - 1];
		if (old->addr == addr && (addr || old->name == name)) {
			old->sites++;
			return;
		}
	}
	w->table[k & (w->ntable - 1)] = w->n + 1;
	w->list[w->n++] = c;
}

/* The slot that a PLT entry at addr jumps through: [endbr64] [bnd] jmp *slot(%rip). */
static const struct slot *plt_slot(const struct symbols *s, uint64_t addr)
{
	const uint8_t *p = symbols_text(s, addr, 11);
	uint64_t at = addr;
	int32_t d;
	if (p && !memcmp(p, "\xf3\x0f\x1e\xfa", 4)) {
		p += 4;
		at += 4;
	}
	if (p && *p == 0xf2) {
		p++;
		at++;
	}
	if (!p || p[0] != 0xff || p[1] != 0x25)
		return NULL;
	memcpy(&d, p + 2, 4);
	return slot_at(s, at + 6 + (uint64_t)(int64_t)d);
}

static void found_slot(struct search *w, const struct slot *slot)
{
	const struct symbols_function *f = slot->value ? symbols_exactly(w->s, slot->value) : NULL;
	if (f)
		found(w, f->addr, f->name, SYMBOLS_PLT);
	else
		found(w, 0, slot->name, SYMBOLS_PLT);
}

/* The piece of a function that holds addr: a range in which no function starts. */
static const struct range *piece_at(const struct symbols *s, uint64_t addr)
{
	const struct range *r = range_at(s, addr);
	return r && !symbols_at(s, r->addr) ? r : NULL;
}

static void add_part(struct search *w, uint64_t addr, uint64_t size)
{
	for (uint32_t i = 0; i < w->nparts; i++)
		if (addr >= w->parts[i].addr && addr - w->parts[i].addr < w->parts[i].size)
			return;
	if (w->nparts < PIECES_MAX && symbols_text(w->s, addr, size))
		w->parts[w->nparts++] = (struct part){ addr, size };
}

static void branch(struct search *w, const struct part *self, uint64_t to, bool call)
{
	const struct symbols *s = w->s;
	const struct symbols_function *f = symbols_exactly(s, to);
	const struct slot *slot;
	const struct range *piece;
	if (!call && to - self->addr < self->size)
		return;
	if (f)
		found(w, f->addr, f->name, call ? SYMBOLS_DIRECT : SYMBOLS_TAIL);
	else if ((slot = plt_slot(s, to)))
		found_slot(w, slot);
	else if (!call && (piece = piece_at(s, to)))
		add_part(w, piece->addr, piece->size);
	else if (call && symbols_in_text(s, to) && !symbols_at(s, to))
		found(w, to, NULL, SYMBOLS_DIRECT); /* an indirect function, or one without a boundary */
}

static void look(struct search *w, const struct part *self, const ZydisDecodedInstruction *in, uint64_t at)
{
	uint64_t to;
	if (instruction_target(in, at, &to)) {
		branch(w, self, to, in->opcode == 0xe8 && in->opcode_map == ZYDIS_OPCODE_MAP_DEFAULT);
	} else if (in->opcode == 0xff && in->opcode_map == ZYDIS_OPCODE_MAP_DEFAULT && (in->raw.modrm.reg == 2 || in->raw.modrm.reg == 4)) {
		bool by_slot = in->raw.modrm.mod == 0 && in->raw.modrm.rm == 5;
		const struct slot *slot = by_slot ? slot_at(w->s, at + in->length + (uint64_t)in->raw.disp.value) : NULL;
		if (slot)
			found_slot(w, slot);
		else
			w->indirect += in->raw.modrm.reg == 2; /* a jump may be a switch as well as a call */
	}
}

int symbols_callees(const struct symbols *s, const struct symbols_function *f, struct symbols_callee **ret_list, uint32_t *ret_n, uint32_t *ret_indirect)
{
	struct search w = { .s = s };
	ZydisDecoder d;
	if (!s->x86)
		return KLIEG_E_UNSUPPORTED;
	decoder_start(&d, true);
	add_part(&w, f->addr, f->size);
	for (uint32_t i = 0; i < w.nparts; i++) { /* grows while it is walked */
		const struct part part = w.parts[i];
		const uint8_t *p = symbols_text(s, part.addr, part.size);
		for (uint64_t pos = 0; pos < part.size;) {
			ZydisDecodedInstruction in;
			bool good = ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(&d, NULL, p + pos, part.size - pos, &in));
			if (good)
				look(&w, &part, &in, part.addr + pos);
			pos += good ? in.length : 1;
		}
	}
	free(w.table);
	*ret_list = w.list;
	*ret_n = w.n;
	*ret_indirect = w.indirect;
	return 0;
}
