/* BPF programs, put together instruction by instruction: neither a compiler nor libbpf is needed. For the few files that write such programs; the words are
 * short, as an assembler's are. Encoding: Linux, Documentation/bpf/standardization/instruction-set.rst. */
#pragma once
#include <linux/bpf.h>
#include <stddef.h>
#include <stdint.h>

struct program { struct bpf_insn in[400]; unsigned n; };
enum { R0, R1, R2, R3, R4, R5, R6, R7, R8, R9, STACK }; /* R0: results; R1..R5: arguments, lost in calls; R6..R9 are kept */

static inline void add(struct program *p, uint8_t code, uint8_t dst, uint8_t src, int16_t off, int32_t imm)
{
	p->in[p->n++] = (struct bpf_insn){ .code = code, .dst_reg = dst & 15, .src_reg = src & 15, .off = off, .imm = imm };
}
static inline void mov(struct program *p, int dst, int src) { add(p, BPF_ALU64 | BPF_MOV | BPF_X, (uint8_t)dst, (uint8_t)src, 0, 0); }
static inline void set(struct program *p, int dst, int32_t v) { add(p, BPF_ALU64 | BPF_MOV | BPF_K, (uint8_t)dst, 0, 0, v); }
static inline void op(struct program *p, int what, int dst, int32_t v) { add(p, (uint8_t)(BPF_ALU64 | what | BPF_K), (uint8_t)dst, 0, 0, v); }
static inline void sum(struct program *p, int dst, int src) { add(p, BPF_ALU64 | BPF_ADD | BPF_X, (uint8_t)dst, (uint8_t)src, 0, 0); }
static inline void load(struct program *p, int size, int dst, int src, int off)
{
	add(p, (uint8_t)(BPF_LDX | BPF_MEM | size), (uint8_t)dst, (uint8_t)src, (int16_t)off, 0);
}
static inline void store(struct program *p, int size, int dst, int off, int src)
{
	add(p, (uint8_t)(BPF_STX | BPF_MEM | size), (uint8_t)dst, (uint8_t)src, (int16_t)off, 0);
}
static inline void call(struct program *p, int helper) { add(p, BPF_JMP | BPF_CALL, 0, 0, 0, helper); }
static inline void leave(struct program *p)
{
	set(p, R0, 0);
	add(p, BPF_JMP | BPF_EXIT, 0, 0, 0, 0);
}
/* A 64-bit constant: kind 0, a map, or the address of a map's value + high. */
static inline void wide(struct program *p, int dst, int kind, uint32_t low, uint32_t high)
{
	add(p, BPF_LD | BPF_DW | BPF_IMM, (uint8_t)dst, (uint8_t)kind, 0, (int32_t)low);
	add(p, 0, 0, 0, 0, (int32_t)high);
}
/* A jump to where here() says later. */
static inline unsigned branch(struct program *p, int what, int reg, int32_t v)
{
	add(p, (uint8_t)(BPF_JMP | what | BPF_K), (uint8_t)reg, 0, 0, v);
	return p->n - 1;
}
static inline unsigned branch_reg32(struct program *p, int what, int a, int b)
{
	add(p, (uint8_t)(BPF_JMP32 | what | BPF_X), (uint8_t)a, (uint8_t)b, 0, 0);
	return p->n - 1;
}
static inline void here(struct program *p, unsigned from) { p->in[from].off = (int16_t)(p->n - from - 1); }
