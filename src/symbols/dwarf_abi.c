/* Classifies types as the System V ABI of x86-64 does (3.2.3), as far as needed to tell where each argument is. Called under the DWARF lock. */
#include "symbols/dwarf_abi.h"
#include "symbols/symbols.h"
#include <dwarf.h>
#include <string.h>

#define MEMBERS_MAX 4096u /* looked at in one type, at all depths */

enum { NOTHING = 0, VECTOR = 1, INTEGER = 2, MEMORY = 3 }; /* of an eightbyte; the greater one wins where members meet */

bool abi_type_of(Dwarf_Die *die, Dwarf_Die *ret_type)
{
	Dwarf_Attribute attr;
	return dwarf_attr_integrate(die, DW_AT_type, &attr) && dwarf_formref_die(&attr, ret_type);
}

bool abi_plain(Dwarf_Die *type, Dwarf_Die *ret_plain)
{
	Dwarf_Die at = *type, next;
	for (uint32_t i = 0; i < ABI_DEPTH; i++) {
		switch (dwarf_tag(&at)) {
		case DW_TAG_typedef: case DW_TAG_const_type: case DW_TAG_volatile_type: case DW_TAG_restrict_type: case DW_TAG_atomic_type:
			if (!abi_type_of(&at, &next))
				return false;
			at = next;
			break;
		default:
			*ret_plain = at;
			return true;
		}
	}
	return false;
}

static uint64_t number(Dwarf_Die *die, unsigned name)
{
	Dwarf_Attribute attr;
	Dwarf_Word v;
	return dwarf_attr_integrate(die, name, &attr) && dwarf_formudata(&attr, &v) == 0 ? v : 0;
}

struct parts { uint8_t kind[2]; uint32_t seen; };

static void merge(struct parts *p, uint64_t off, uint64_t size, uint8_t kind)
{
	for (uint64_t i = off / 8; i < 2 && i * 8 < off + size; i++)
		if (p->kind[i] < kind)
			p->kind[i] = kind;
}

static void spread(struct parts *p, Dwarf_Die *type, uint64_t off, uint32_t depth);

static void spread_members(struct parts *p, Dwarf_Die *type, uint64_t off, uint32_t depth)
{
	Dwarf_Die m, of;
	Dwarf_Attribute attr;
	for (int more = dwarf_child(type, &m); more == 0; more = dwarf_siblingof(&m, &m)) {
		int tag = dwarf_tag(&m);
		if (tag != DW_TAG_member && tag != DW_TAG_inheritance)
			continue;
		if (dwarf_hasattr(&m, DW_AT_external) || dwarf_hasattr(&m, DW_AT_declaration)) /* static */
			continue;
		if (++p->seen > MEMBERS_MAX || !abi_type_of(&m, &of)) {
			p->kind[0] = MEMORY;
			return;
		}
		uint64_t at = number(&m, DW_AT_data_member_location);
		if (dwarf_attr(&m, DW_AT_data_bit_offset, &attr))
			at = number(&m, DW_AT_data_bit_offset) / 8;
		spread(p, &of, off + at, depth);
	}
}

/* What the bytes from off of a value are made of. */
static void spread(struct parts *p, Dwarf_Die *type, uint64_t off, uint32_t depth)
{
	Dwarf_Die plain, of;
	Dwarf_Word size;
	if (!depth || !abi_plain(type, &plain) || off >= 16) {
		p->kind[0] = MEMORY;
		return;
	}
	switch (dwarf_tag(&plain)) {
	case DW_TAG_base_type:
		size = number(&plain, DW_AT_byte_size);
		uint64_t encoding = number(&plain, DW_AT_encoding);
		bool real = encoding == DW_ATE_float || encoding == DW_ATE_complex_float;
		merge(p, off, size, real ? size > 8 && encoding == DW_ATE_float ? MEMORY : VECTOR : INTEGER);
		return;
	case DW_TAG_structure_type: case DW_TAG_class_type: case DW_TAG_union_type:
		spread_members(p, &plain, off, depth - 1);
		return;
	case DW_TAG_array_type:
		if (dwarf_hasattr(&plain, DW_AT_GNU_vector)) {
			merge(p, off, 8, VECTOR);
			return;
		}
		Dwarf_Word one;
		if (!abi_type_of(&plain, &of) || dwarf_aggregate_size(&plain, &size) != 0 || dwarf_aggregate_size(&of, &one) != 0) {
			p->kind[0] = MEMORY;
			return;
		}
		for (uint64_t k = 0; one && k < size && off + k < 16 && ++p->seen < MEMBERS_MAX; k += one)
			spread(p, &of, off + k, depth - 1);
		return;
	default:
		merge(p, off, number(&plain, DW_AT_byte_size) ? number(&plain, DW_AT_byte_size) : 8, INTEGER);
	}
}

static bool classify_aggregate(Dwarf_Die *plain, struct abi_class *c)
{
	struct parts p = { { NOTHING, NOTHING }, 0 };
	Dwarf_Word size;
	if (dwarf_aggregate_size(plain, &size) != 0)
		return false; /* declared only */
	c->size = size;
	c->aggregate = true;
	c->aligned16 = number(plain, DW_AT_alignment) >= 16;
	c->slots = size < 8 * 255 ? (uint8_t)((size + 7) / 8) : 255;
	if (number(plain, DW_AT_calling_convention) == DW_CC_pass_by_reference) {
		c->by_reference = c->is_pointer = true;
		c->aggregate = false;
		c->integers = c->slots = 1;
		c->size = 8;
		return true;
	}
	if (dwarf_tag(plain) == DW_TAG_array_type && dwarf_hasattr(plain, DW_AT_GNU_vector)) {
		c->vectors = 1;
		c->aligned16 = size >= 16;
		return true;
	}
	if (size <= 16)
		spread(&p, plain, 0, ABI_DEPTH);
	c->in_memory = size > 16 || p.kind[0] == MEMORY || p.kind[1] == MEMORY;
	for (int i = 0; i < 2 && !c->in_memory; i++) {
		c->integers = (uint8_t)(c->integers + (p.kind[i] == INTEGER));
		c->vectors = (uint8_t)(c->vectors + (p.kind[i] == VECTOR));
	}
	return true;
}

static void classify_number(Dwarf_Die *plain, struct abi_class *c)
{
	uint64_t encoding = number(plain, DW_AT_encoding);
	const char *name = dwarf_diename(plain);
	c->slots = (uint8_t)((c->size + 7) / 8);
	c->aligned16 = c->size == 16;
	c->is_signed = encoding == DW_ATE_signed || encoding == DW_ATE_signed_char;
	if (encoding == DW_ATE_float && c->size == 16 && (!name || strstr(name, "long double"))) {
		c->in_memory = c->x87 = true;
	} else if (encoding == DW_ATE_complex_float) {
		c->aggregate = true;
		c->in_memory = c->size > 16;
		c->aligned16 = c->size > 16;
		c->vectors = c->size > 8 ? 2 : 1;
	} else if (encoding == DW_ATE_float) {
		c->vectors = 1;
	} else {
		c->integers = c->size > 8 ? 2 : 1;
		c->aggregate = c->size > 8;
	}
}

bool abi_classify(Dwarf_Die *type, struct abi_class *ret_c)
{
	struct abi_class c = { 0 };
	Dwarf_Die plain, under;
	if (!abi_plain(type, &plain))
		return false;
	c.size = number(&plain, DW_AT_byte_size);
	switch (dwarf_tag(&plain)) {
	case DW_TAG_base_type:
		if (!c.size || c.size > 32)
			return false;
		classify_number(&plain, &c);
		break;
	case DW_TAG_enumeration_type:
		if (abi_type_of(&plain, &under) && abi_plain(&under, &under))
			c.is_signed = number(&under, DW_AT_encoding) == DW_ATE_signed || number(&under, DW_AT_encoding) == DW_ATE_signed_char;
		c.integers = c.slots = 1;
		break;
	case DW_TAG_pointer_type: case DW_TAG_reference_type: case DW_TAG_rvalue_reference_type:
		c.size = 8;
		c.is_pointer = true;
		c.integers = c.slots = 1;
		break;
	case DW_TAG_unspecified_type: /* nullptr_t */
		c.size = 8;
		c.integers = c.slots = 1;
		break;
	case DW_TAG_ptr_to_member_type: /* of data a number, of functions two */
		if (abi_type_of(&plain, &under) && abi_plain(&under, &under) && dwarf_tag(&under) == DW_TAG_subroutine_type)
			c = (struct abi_class){ .size = 16, .integers = 2, .slots = 2, .aggregate = true };
		else
			c = (struct abi_class){ .size = 8, .integers = 1, .slots = 1 };
		break;
	case DW_TAG_structure_type: case DW_TAG_class_type: case DW_TAG_union_type: case DW_TAG_array_type:
		if (!classify_aggregate(&plain, &c))
			return false;
		break;
	default:
		return false;
	}
	*ret_c = c;
	return true;
}

void abi_next(struct abi_state *a, const struct abi_class *c, int8_t *ret_reg, uint8_t *ret_stack)
{
	*ret_reg = -1;
	*ret_stack = SYMBOLS_NOT_ON_STACK;
	if (!c->in_memory && !c->integers && !c->vectors)
		return; /* an empty class */
	if (!c->in_memory && a->integers + c->integers <= 6 && a->vectors + c->vectors <= 8) {
		if (c->integers && !c->aggregate)
			*ret_reg = (int8_t)a->integers;
		a->integers += c->integers;
		a->vectors += c->vectors;
		return;
	}
	a->slots += c->aligned16 && a->slots & 1;
	*ret_stack = a->slots < SYMBOLS_NOT_ON_STACK ? (uint8_t)a->slots : SYMBOLS_NOT_ON_STACK;
	a->slots += c->slots;
}
