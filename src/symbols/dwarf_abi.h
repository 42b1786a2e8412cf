/* Where the System V ABI of x86-64 puts an argument of a DWARF type. */
#pragma once
#include <elfutils/libdw.h>
#include <stdbool.h>
#include <stdint.h>

#define ABI_DEPTH 24u /* types are followed no deeper */

struct abi_class {
	uint64_t size;
	uint8_t integers, vectors;   /* registers it needs; both 0 and not in_memory: it is not passed at all */
	uint8_t slots;               /* of 8 bytes, when it is on the stack */
	bool aligned16;
	bool in_memory, x87;         /* always on the stack; because it is a long double, which is returned in a register */
	bool aggregate;              /* more than a number or pointer: not shown */
	bool by_reference;           /* a C++ class that is passed as a pointer */
	bool is_pointer, is_signed;
};

struct abi_state { uint32_t integers, vectors, slots; };

bool abi_type_of(Dwarf_Die *die, Dwarf_Die *ret_type);      /* its DW_AT_type; false = void */
bool abi_plain(Dwarf_Die *type, Dwarf_Die *ret_plain);      /* without typedef, const, volatile, restrict, atomic; false = void or too deep */
bool abi_classify(Dwarf_Die *type, struct abi_class *ret_c); /* false: not known */
/* Takes registers or stack slots for the next argument; *ret_reg 0..5 or -1, *ret_stack a slot or SYMBOLS_NOT_ON_STACK. */
void abi_next(struct abi_state *a, const struct abi_class *c, int8_t *ret_reg, uint8_t *ret_stack);
