/* What a call of a function says: the value of an argument, and whether a condition on arguments holds (kw_arg, kw_where in wire.h). One piece for
 * the call gate, which finds the values in registers and on the stack, and for uprobes, where the kernel has noted them. Any thread; no state. */
#pragma once
#include "wire/wire.h"
#include <stdbool.h>

/* The 8 bytes of a register or a stack word, as the argument's type has them: what is above its size is anything. */
static inline uint64_t kw_arg_narrow(const struct kw_arg *a, uint64_t v)
{
	if (a->kind == KW_ARG_INT)
		return a->size == 1 ? (uint64_t)(int64_t)(int8_t)v : a->size == 2 ? (uint64_t)(int64_t)(int16_t)v : a->size == 4 ? (uint64_t)(int64_t)(int32_t)v : v;
	if (a->kind == KW_ARG_UINT)
		return a->size == 1 ? (uint8_t)v : a->size == 2 ? (uint16_t)v : a->size == 4 ? (uint32_t)v : v;
	return v;
}

static inline bool kw_where_compare(unsigned op, bool is_signed, uint64_t a, uint64_t b)
{
	bool less = is_signed ? (int64_t)a < (int64_t)b : a < b;
	switch (op) {
	case KW_WHERE_EQ: return a == b;
	case KW_WHERE_NE: return a != b;
	case KW_WHERE_LT: return less;
	case KW_WHERE_LE: return less || a == b;
	case KW_WHERE_GT: return !less && a != b;
	default: return !less;
	}
}

typedef uint64_t (*kw_arg_value_fn)(const void *call, const struct kw_arg *);
static inline bool kw_where_holds(const struct kw_where *where, uint32_t n, kw_arg_value_fn value, const void *call)
{
	uint32_t stack = 0; /* one bit a value */
	for (uint32_t i = 0; i < n && i < KW_HOOK_WHERE; i++) {
		const struct kw_where *w = &where[i];
		switch (w->op) {
		case KW_WHERE_END: return stack & 1;
		case KW_WHERE_AND: stack = stack >> 2 << 1 | (stack & stack >> 1 & 1); break;
		case KW_WHERE_OR: stack = stack >> 2 << 1 | ((stack | stack >> 1) & 1); break;
		case KW_WHERE_NOT: stack ^= 1; break;
		default: stack = stack << 1 | kw_where_compare(w->op, w->arg.kind == KW_ARG_INT, value(call, &w->arg), (uint64_t)w->value);
		}
	}
	return stack & 1;
}
