/* Moves the first instructions of a function to a stub: what a jump displaces runs there instead, with the same effect. Anything for which
 * that can't be said is refused, with the reason. Pure computation, any thread; prologue.c asks it at opening, the agent when it arms. */
#include "symbols/internal.h"
#include <string.h>

void decoder_start(ZydisDecoder *d, bool minimal)
{
	ZydisDecoderInit(d, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	ZydisDecoderEnableMode(d, ZYDIS_DECODER_MODE_MINIMAL, minimal);
}

bool instruction_target(const ZydisDecodedInstruction *in, uint64_t at, uint64_t *ret_target)
{
	if (!in->raw.imm[0].is_relative)
		return false;
	*ret_target = at + in->length + (uint64_t)in->raw.imm[0].value.s;
	return true;
}

bool is_jcc(const ZydisDecodedInstruction *in)
{
	return (in->opcode_map == ZYDIS_OPCODE_MAP_DEFAULT && (in->opcode & 0xf0) == 0x70) || (in->opcode_map == ZYDIS_OPCODE_MAP_0F && (in->opcode & 0xf0) == 0x80);
}

static bool is_rip_relative(const ZydisDecodedInstruction *in)
{
	return in->attributes & ZYDIS_ATTRIB_HAS_MODRM && in->raw.modrm.mod == 0 && in->raw.modrm.rm == 5;
}

const char *move_obstacle(const ZydisDecodedInstruction *in, uint32_t at)
{
	bool relative = in->raw.imm[0].is_relative, call = in->meta.category == ZYDIS_CATEGORY_CALL;
	switch (in->mnemonic) {
	case ZYDIS_MNEMONIC_LOOP: case ZYDIS_MNEMONIC_LOOPE: case ZYDIS_MNEMONIC_LOOPNE: case ZYDIS_MNEMONIC_JCXZ: case ZYDIS_MNEMONIC_JECXZ:
	case ZYDIS_MNEMONIC_JRCXZ: case ZYDIS_MNEMONIC_XBEGIN:
		return "a branch in its first instructions that reaches 127 bytes only, or starts a transaction";
	case ZYDIS_MNEMONIC_SYSCALL: case ZYDIS_MNEMONIC_SYSENTER: case ZYDIS_MNEMONIC_INT:
		return "a system call in its first instructions"; /* restarted, it would run from the middle of the jump */
	case ZYDIS_MNEMONIC_INT3: case ZYDIS_MNEMONIC_INT1: case ZYDIS_MNEMONIC_INTO:
		return "a trap in its first instructions";
	default:
		break;
	}
	if (call && at + in->length < SYMBOLS_JUMP)
		return "a call in its first 5 bytes"; /* would return into the middle of the jump */
	if (relative && !call && in->mnemonic != ZYDIS_MNEMONIC_JMP && !is_jcc(in))
		return "a branch in its first instructions that cannot be moved";
	if (relative && in->raw.imm[0].size != 8 && in->raw.imm[0].size != 32)
		return "a branch in its first instructions that cannot be moved";
	if (relative && in->attributes & ZYDIS_ATTRIB_HAS_OPERANDSIZE)
		return "a branch in its first instructions that processors disagree about";
	if (call && !relative && (in->opcode != 0xff || in->raw.modrm.reg != 2 || in->opcode_map != ZYDIS_OPCODE_MAP_DEFAULT))
		return "a far call in its first instructions";
	if (call && !relative && in->raw.modrm.rm == 4 && !in->raw.rex.B && (in->raw.modrm.mod == 3 || in->raw.sib.base == 4))
		return "a call through the stack in its first instructions"; /* which is 8 bytes lower after the push */
	if (is_rip_relative(in) && (in->address_width != 64 || in->raw.disp.size != 32))
		return "an address in its first instructions that cannot be moved";
	return NULL;
}

/* Where code is written, with the address it will have. */
struct out { uint8_t *p; uint64_t at; };

static void put(struct out *o, const void *bytes, uint32_t n)
{
	memcpy(o->p, bytes, n);
	o->p += n;
	o->at += n;
}

/* The distance from the end of a 4-byte field to target. */
static bool put_distance(struct out *o, uint64_t target)
{
	int64_t d = (int64_t)(target - (o->at + 4));
	int32_t d32 = (int32_t)d;
	put(o, &d32, 4);
	return d == d32;
}

static bool put_jump(struct out *o, uint64_t target)
{
	put(o, "\xe9", 1);
	return put_distance(o, target);
}

/* A copy whose RIP-relative operand means what it meant at `from`. */
static bool put_copy(struct out *o, const ZydisDecodedInstruction *in, const uint8_t *bytes, uint64_t from)
{
	uint8_t copy[ZYDIS_MAX_INSTRUCTION_LENGTH];
	bool fits = true;
	memcpy(copy, bytes, in->length);
	if (is_rip_relative(in)) {
		int64_t d = in->raw.disp.value + (int64_t)(from - o->at);
		int32_t d32 = (int32_t)d;
		memcpy(copy + in->raw.disp.offset, &d32, 4);
		fits = d == d32;
	}
	put(o, copy, in->length);
	return fits;
}

/* push of the original return address, a jump, and the address for the push: the callee and unwinders see what they would have seen. */
static bool put_call(struct out *o, const ZydisDecodedInstruction *in, const uint8_t *bytes, uint64_t from)
{
	uint64_t target = 0, ret = from + in->length;
	bool direct = instruction_target(in, from, &target), fits;
	int32_t over = direct ? 5 : in->length;
	put(o, "\xff\x35", 2);
	put(o, &over, 4);
	if (direct) {
		fits = put_jump(o, target);
	} else {
		uint8_t copy[ZYDIS_MAX_INSTRUCTION_LENGTH];
		memcpy(copy, bytes, in->length);
		copy[in->raw.modrm.offset] = (uint8_t)((copy[in->raw.modrm.offset] & 0xc7) | 4 << 3); /* call r/m to jmp r/m */
		fits = put_copy(o, in, copy, from);
	}
	put(o, &ret, 8);
	return fits;
}

int symbols_move(const uint8_t *bytes, uint32_t window, uint64_t from, uint64_t to, struct symbols_moved *ret_m, struct err *e)
{
	struct symbols_moved m = { .size = 0 };
	struct out o = { m.code, to };
	const uint32_t most = 38; /* bytes that one instruction becomes, and the jump back */
	ZydisDecoder d;
	bool stopped = false;
	decoder_start(&d, false);
	if (window < SYMBOLS_JUMP)
		return err_set(e, KLIEG_E_UNSUPPORTED, "shorter than %u bytes", SYMBOLS_JUMP);
	for (uint32_t at = 0; at < window && !stopped;) { /* behind a stop is padding, which never runs */
		ZydisDecodedInstruction in;
		if (!ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(&d, NULL, bytes + at, window - at, &in)))
			return err_set(e, KLIEG_E_UNSUPPORTED, "its first bytes are not instructions");
		const char *why = move_obstacle(&in, at);
		uint64_t target = 0;
		bool branch = instruction_target(&in, from + at, &target), call = in.meta.category == ZYDIS_CATEGORY_CALL, fits = true;
		if (!why && branch && target - from < SYMBOLS_JUMP && !(call && target == from))
			why = target == from ? "a loop back to its first instruction" : "a branch into its first 5 bytes";
		if (why)
			return err_set(e, KLIEG_E_UNSUPPORTED, "%s", why);
		if (m.n == sizeof m.at / sizeof *m.at || m.code + sizeof m.code - o.p < most)
			return err_set(e, KLIEG_E_UNSUPPORTED, "its first instructions are too many");
		m.at[m.n].from = (uint8_t)at;
		m.at[m.n++].to = (uint8_t)(o.p - m.code);
		if (call) {
			fits = put_call(&o, &in, bytes + at, from + at);
		} else if (branch) {
			uint8_t jcc[2] = { 0x0f, (uint8_t)(0x80 | (in.opcode & 15)) };
			put(&o, in.mnemonic == ZYDIS_MNEMONIC_JMP ? "\xe9" : (const char *)jcc, in.mnemonic == ZYDIS_MNEMONIC_JMP ? 1 : 2);
			fits = put_distance(&o, target);
		} else {
			fits = put_copy(&o, &in, bytes + at, from + at);
		}
		if (!fits)
			return err_set(e, KLIEG_E_UNSUPPORTED, "what its first instructions refer to is more than 2 GB away from the stub");
		stopped = is_stop(&in);
		at += in.length;
	}
	if (!put_jump(&o, from + window))
		return err_set(e, KLIEG_E_UNSUPPORTED, "it is more than 2 GB away from the stub");
	m.size = (uint32_t)(o.p - m.code);
	*ret_m = m;
	return 0;
}
