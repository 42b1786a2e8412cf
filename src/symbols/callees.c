/* What a function calls, and where it is left, by decoding it and the pieces of it that the compiler moved away. Calls through the PLT or the global offset table
 * resolve to names; of calls through a pointer that lies at a fixed place, that place is told; of the others, where they return to, so that they
 * can be known when they are seen (src/agent/watch.c). Any thread, on demand: one function takes well under a millisecond. */
#include "symbols/internal.h"
#include "base/buf.h"
#include <stdlib.h>
#include <string.h>

#define PIECES_MAX 32u

struct part { uint64_t addr, size; };
/* What a register holds for sure: an address that was computed, or the content of a place in memory. */
struct held { enum { NOTHING, ADDRESS, CONTENT } what; uint64_t addr; };
struct search {
	const struct symbols *s;
	struct part parts[PIECES_MAX];
	uint32_t nparts;
	struct symbols_callee *list;
	uint32_t n;
	uint32_t *table, ntable;     /* index + 1 of callees, open addressing by address or name */
	uint64_t *pointers;          /* calls that cannot be known: where they return to */
	uint32_t npointers, pointers_cap;
	bool jumps, added;           /* it jumps where only a register knows; the instruction before was an addition */
	struct symbols_exit *exits;  /* where it is left */
	uint32_t nexits, exits_cap;
	const char *doubt;           /* why that may not be all, or not right; NULL = it is */
	struct held held[16];
	bool any_held;
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

static void leaves(struct search *w, uint64_t at, bool tail)
{
	if (w->nexits == w->exits_cap)
		w->exits = base_realloc(w->exits, (w->exits_cap = w->exits_cap ? 2 * w->exits_cap : 8) * sizeof *w->exits);
	w->exits[w->nexits++] = (struct symbols_exit){ at, tail };
}

static bool within(const struct search *w, uint64_t to)
{
	for (uint32_t i = 0; i < w->nparts; i++)
		if (to - w->parts[i].addr < w->parts[i].size)
			return true;
	return false;
}

enum how { CALL, JUMP, IF_JUMP };
static void branch(struct search *w, const struct part *self, uint64_t at, uint64_t to, enum how how)
{
	const struct symbols *s = w->s;
	const struct symbols_function *f = symbols_exactly(s, to);
	const struct slot *slot;
	const struct range *piece;
	bool call = how == CALL;
	if (!call && to - self->addr < self->size)
		return;
	slot = f ? NULL : plt_slot(s, to);
	if (!call && !within(w, to)) {
		if (f || slot) {
			leaves(w, at, true);
			w->doubt = how == IF_JUMP ? "it may end with a conditional jump to another function" : w->doubt;
		} else if ((piece = piece_at(s, to))) {
			add_part(w, piece->addr, piece->size);
			w->doubt = within(w, to) ? w->doubt : "it is in too many pieces";
		} else {
			w->doubt = "it jumps to where no function is known";
		}
	}
	if (f)
		found(w, f->addr, f->name, call ? SYMBOLS_DIRECT : SYMBOLS_TAIL);
	else if (slot)
		found_slot(w, slot);
	else if (call && symbols_in_text(s, to) && !symbols_at(s, to))
		found(w, to, NULL, SYMBOLS_DIRECT); /* an indirect function, or one without a boundary */
}

static void forget(struct search *w)
{
	if (w->any_held)
		memset(w->held, 0, sizeof w->held);
	w->any_held = false;
}

/* A call or jump through the pointer at a fixed place. */
static void through(struct search *w, uint64_t addr)
{
	const struct slot *slot = slot_at(w->s, addr);
	if (slot)
		found_slot(w, slot);
	else
		found(w, addr, NULL, SYMBOLS_SLOT);
}

/* A call or jump through a register or a place in memory. */
static void pointer(struct search *w, const struct part *self, const ZydisDecodedInstruction *in, uint64_t at)
{
	bool call = in->raw.modrm.reg == 2, memory = in->raw.modrm.mod != 3;
	/* A switch adds the table's address to the distance that it took from there, or takes the address from a table at a fixed place. */
	bool is_switch = memory ? in->raw.modrm.mod == 0 && in->raw.modrm.rm == 4 && in->raw.sib.base == 5 : w->added;
	const struct held *h = in->raw.modrm.mod == 3 ? &w->held[in->raw.modrm.rm | (in->raw.rex.B ? 8u : 0)] : NULL;
	if (!call && !is_switch)
		leaves(w, at, true);
	if (in->raw.modrm.mod == 0 && in->raw.modrm.rm == 5) {
		through(w, at + in->length + (uint64_t)in->raw.disp.value);
	} else if (h && h->what == CONTENT) {
		through(w, h->addr);
	} else if (h && h->what == ADDRESS) {
		branch(w, self, at, h->addr, call ? CALL : JUMP);
		w->doubt = call ? w->doubt : "it jumps to where a register says";
	} else if (!call) {
		w->jumps |= !is_switch;
		w->doubt = is_switch ? w->doubt : "it jumps to where a register says";
	} else {
		if (w->npointers == w->pointers_cap)
			w->pointers = base_realloc(w->pointers, (w->pointers_cap = w->pointers_cap ? 2 * w->pointers_cap : 16) * sizeof *w->pointers);
		w->pointers[w->npointers++] = at + in->length;
	}
}

/* The registers that an instruction writes hold something else from now on. */
static void clobber(struct search *w, const ZydisDecoder *full, const uint8_t *p, uint64_t n)
{
	ZydisDecodedInstruction in;
	ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
	if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(full, p, n, &in, ops)) || in.meta.category == ZYDIS_CATEGORY_CALL || is_stop(&in)) {
		forget(w);
		return;
	}
	for (uint32_t k = 0; k < in.operand_count; k++) {
		if (ops[k].type != ZYDIS_OPERAND_TYPE_REGISTER || !(ops[k].actions & ZYDIS_OPERAND_ACTION_MASK_WRITE))
			continue;
		ZydisRegister wide = ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, ops[k].reg.value);
		if (wide >= ZYDIS_REGISTER_RAX && wide <= ZYDIS_REGISTER_R15)
			w->held[wide - ZYDIS_REGISTER_RAX].what = NOTHING;
	}
}

static void look(struct search *w, const struct part *self, const ZydisDecoder *full, const uint8_t *p, const ZydisDecodedInstruction *in,
	uint64_t at)
{
	uint64_t to;
	bool plain = in->opcode_map == ZYDIS_OPCODE_MAP_DEFAULT;
	if (instruction_target(in, at, &to)) {
		branch(w, self, at, to, plain && in->opcode == 0xe8 ? CALL : plain && (in->opcode == 0xe9 || in->opcode == 0xeb) ? JUMP : IF_JUMP);
		forget(w);
		return;
	}
	if (plain && (in->opcode == 0xc2 || in->opcode == 0xc3))
		leaves(w, at, false);
	else if (plain && (in->opcode == 0xca || in->opcode == 0xcb || in->opcode == 0xcf))
		w->doubt = "it returns in an unusual way";
	if (plain && in->opcode == 0xff && (in->raw.modrm.reg == 2 || in->raw.modrm.reg == 4)) {
		pointer(w, self, in, at);
		forget(w);
		return;
	}
	if (w->any_held)
		clobber(w, full, p, in->length);
	if (plain && (in->opcode == 0x8d || in->opcode == 0x8b) && in->raw.rex.W && in->raw.modrm.mod == 0 && in->raw.modrm.rm == 5) {
		w->held[in->raw.modrm.reg | (in->raw.rex.R ? 8u : 0)] =
			(struct held){ in->opcode == 0x8d ? ADDRESS : CONTENT, at + in->length + (uint64_t)in->raw.disp.value };
		w->any_held = true;
	}
}

static void search_part(struct search *w, const ZydisDecoder *minimal, const ZydisDecoder *full, const struct part *part)
{
	const uint8_t *p = symbols_text(w->s, part->addr, part->size);
	uint8_t *joins = base_calloc(part->size / 8 + 1, 1); /* where other ways lead to: nothing is for sure there */
	uint64_t led = 0, met = 0;   /* such places; those of them at which we found an instruction */
	for (int pass = 0; pass < 2; pass++)
		for (uint64_t pos = 0, to; pos < part->size;) {
			ZydisDecodedInstruction in;
			bool good = ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(minimal, NULL, p + pos, part->size - pos, &in));
			if (!pass && good && instruction_target(&in, pos, &to) && to < part->size) {
				led += !(joins[to / 8] >> to % 8 & 1);
				joins[to / 8] |= (uint8_t)(1u << to % 8);
			}
			met += pass && good && joins[pos / 8] >> pos % 8 & 1;
			w->doubt = good ? w->doubt : "some of its bytes are no instructions";
			if (pass && (!good || joins[pos / 8] >> pos % 8 & 1))
				forget(w);
			if (pass && good)
				look(w, part, full, p + pos, &in, part->addr + pos);
			w->added = good && in.opcode_map == ZYDIS_OPCODE_MAP_DEFAULT && (in.opcode == 0x01 || in.opcode == 0x03);
			pos += good ? in.length : 1;
		}
	free(joins);
	forget(w);
	w->doubt = led == met ? w->doubt : "its instructions overlap";
}

static int search(struct search *w, const struct symbols_function *f)
{
	ZydisDecoder minimal, full;
	if (!w->s->x86)
		return KLIEG_E_UNSUPPORTED;
	decoder_start(&minimal, true);
	decoder_start(&full, false);
	add_part(w, f->addr, f->size);
	for (uint32_t i = 0; i < w->nparts; i++) { /* grows while it is walked */
		const struct part part = w->parts[i];
		search_part(w, &minimal, &full, &part);
	}
	free(w->table);
	return 0;
}

int symbols_callees(const struct symbols *s, const struct symbols_function *f, struct symbols_callee **ret_list, uint32_t *ret_n, uint32_t *ret_indirect)
{
	struct search w = { .s = s };
	int rc = search(&w, f);
	if (rc < 0)
		return rc;
	free(w.pointers);
	free(w.exits);
	*ret_list = w.list;
	*ret_n = w.n;
	*ret_indirect = w.npointers;
	return 0;
}

int symbols_pointers(const struct symbols *s, const struct symbols_function *f, uint64_t **ret_at, uint32_t *ret_n, bool *ret_jumps)
{
	struct search w = { .s = s };
	int rc = search(&w, f);
	if (rc < 0)
		return rc;
	free(w.list);
	free(w.exits);
	*ret_at = w.pointers;
	*ret_n = w.npointers;
	*ret_jumps = w.jumps;
	return 0;
}

int symbols_exits(const struct symbols *s, const struct symbols_function *f, struct symbols_exit **ret_list, uint32_t *ret_n, struct err *e)
{
	struct search w = { .s = s };
	int rc = search(&w, f);
	if (rc < 0)
		return err_set(e, rc, "it is not for x86-64");
	free(w.list);
	free(w.pointers);
	const char *doubt = w.doubt ? w.doubt : w.nexits ? NULL : "it never returns";
	if (doubt) {
		free(w.exits);
		return err_set(e, KLIEG_E_UNSUPPORTED, "%s", doubt);
	}
	*ret_list = w.exits;
	*ret_n = w.nexits;
	return 0;
}
