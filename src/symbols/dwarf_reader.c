/* Arguments, return types and lines from DWARF, through libdw. Runs in the process that dwarf.c starts for it, in its only thread: libdw believes
 * damaged files in places. It reads with pread() and never maps. Types are followed to a depth only, since a damaged file can make them loop. */
#include "symbols/dwarf_reader.h"
#include "base/buf.h"
#include "base/strtab.h"
#include "symbols/dwarf_abi.h"
#include <dwarf.h>
#include <stdlib.h>
#include <string.h>

#define INDEX_MAX 8000000u

struct entry { uint64_t addr, size; Dwarf_Off die; };

struct dwarf_reader {
	Elf *elf;
	Dwarf *dbg;
	struct entry *index;      /* functions with code, sorted by address */
	uint32_t n;
	struct strtab kept;       /* names of types, NUL included */
};

static int entry_order(const void *a, const void *b)
{
	const struct entry *x = a, *y = b;
	return x->addr < y->addr ? -1 : x->addr > y->addr;
}

static int add_function(Dwarf_Die *die, void *arg)
{
	struct dwarf_reader *d = arg;
	Dwarf_Addr base, start, end, high;
	if (d->n == INDEX_MAX)
		return DWARF_CB_ABORT;
	if (dwarf_lowpc(die, &start) == 0) {
		if (dwarf_highpc(die, &high) != 0 || high < start)
			high = start;
	} else if (dwarf_ranges(die, 0, &base, &start, &end) > 0) { /* split into hot and cold: the hot one is first */
		high = end;
	} else {
		return DWARF_CB_OK;
	}
	if (!start)
		return DWARF_CB_OK; /* dropped by the linker */
	if (!(d->n & (d->n + 1)))
		d->index = base_realloc(d->index, (2ull * d->n + 2) * sizeof *d->index);
	d->index[d->n++] = (struct entry){ start, high - start, dwarf_dieoffset(die) };
	return DWARF_CB_OK;
}

struct dwarf_reader *dwarf_reader_open(int fd)
{
	struct dwarf_reader *d = base_calloc(1, sizeof *d);
	Dwarf_CU *cu = NULL;
	Dwarf_Die unit, sub;
	uint8_t type;
	strtab_init(&d->kept);
	elf_version(EV_CURRENT);
	d->elf = elf_begin(fd, ELF_C_READ, NULL);
	d->dbg = d->elf ? dwarf_begin_elf(d->elf, DWARF_C_READ, NULL) : NULL;
	while (d->dbg && dwarf_get_units(d->dbg, cu, &cu, NULL, &type, &unit, &sub) == 0)
		if (type == DW_UT_compile || type == DW_UT_skeleton)
			dwarf_getfuncs(type == DW_UT_skeleton && dwarf_tag(&sub) != DW_TAG_invalid ? &sub : &unit, add_function, d, 0);
	if (d->n)
		qsort(d->index, d->n, sizeof *d->index, entry_order);
	return d;
}

/* The last function that starts at or before addr. */
static const struct entry *entry_before(const struct dwarf_reader *d, uint64_t addr)
{
	uint32_t lo = 0, hi = d->n;
	while (lo < hi) {
		uint32_t mid = lo + (hi - lo) / 2;
		if (d->index[mid].addr <= addr)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo ? &d->index[lo - 1] : NULL;
}

static const char *keep(struct dwarf_reader *d, const struct buf *b)
{
	return strtab_get(&d->kept, strtab_add(&d->kept, (struct str){ (const char *)b->p, b->n })).p;
}

/* ---- how types are written ------------------------------------------------------------------------------------------------- */

static void write_type(struct buf *b, Dwarf_Die *type, bool cpp, uint32_t depth);

static void write_target(struct buf *b, Dwarf_Die *type, bool cpp, uint32_t depth)
{
	Dwarf_Die to;
	if (depth && abi_type_of(type, &to))
		write_type(b, &to, cpp, depth - 1);
	else
		buf_add_str(b, "void");
}

static void write_type(struct buf *b, Dwarf_Die *type, bool cpp, uint32_t depth)
{
	const char *name = dwarf_diename(type), *word = "struct";
	Dwarf_Die to, function;
	int tag = dwarf_tag(type);
	switch (tag) {
	case DW_TAG_pointer_type:
	case DW_TAG_reference_type:
	case DW_TAG_rvalue_reference_type:
		if (abi_type_of(type, &to) && dwarf_tag(&to) == DW_TAG_subroutine_type) {
			function = to;
			write_target(b, &function, cpp, depth);
			buf_add_str(b, " (*)()");
			return;
		}
		write_target(b, type, cpp, depth);
		if (b->n && b->p[b->n - 1] != '*')
			buf_byte(b, ' ');
		buf_add_str(b, tag == DW_TAG_pointer_type ? "*" : tag == DW_TAG_reference_type ? "&" : "&&");
		return;
	case DW_TAG_const_type:
	case DW_TAG_volatile_type:
		if (abi_type_of(type, &to) && dwarf_tag(&to) == DW_TAG_pointer_type) {
			write_target(b, type, cpp, depth);
			buf_add_str(b, tag == DW_TAG_const_type ? "const" : "volatile");
		} else {
			buf_add_str(b, tag == DW_TAG_const_type ? "const " : "volatile ");
			write_target(b, type, cpp, depth);
		}
		return;
	case DW_TAG_restrict_type:
	case DW_TAG_atomic_type:
		write_target(b, type, cpp, depth);
		return;
	case DW_TAG_array_type:
		write_target(b, type, cpp, depth);
		buf_add_str(b, "[]");
		return;
	case DW_TAG_subroutine_type:
		write_target(b, type, cpp, depth);
		buf_add_str(b, " ()");
		return;
	case DW_TAG_ptr_to_member_type:
		buf_add_str(b, "pointer to member");
		return;
	case DW_TAG_union_type:
		word = "union";
		break;
	case DW_TAG_enumeration_type:
		word = "enum";
		break;
	case DW_TAG_class_type:
	case DW_TAG_structure_type:
		break;
	default:
		buf_add_str(b, name ? name : "?");
		return;
	}
	if (!cpp || !name)
		buf_add_str(b, word);
	if (!cpp && name)
		buf_byte(b, ' ');
	if (name)
		buf_add_str(b, name);
}

/* What is said of the type at the far end of a value: type NULL = void. */
static struct symbols_argument describe(struct dwarf_reader *d, Dwarf_Die *type, const struct abi_class *c, bool cpp)
{
	struct symbols_argument a = { .reg = -1, .stack = SYMBOLS_NOT_ON_STACK };
	struct buf b = { 0 };
	Dwarf_Die plain, to;
	if (type)
		write_type(&b, type, cpp, ABI_DEPTH);
	else
		buf_add_str(&b, "void");
	buf_byte(&b, 0);
	a.type = keep(d, &b);
	buf_finish(&b);
	if (!type)
		return a;
	a.is_pointer = c->is_pointer;
	a.is_signed = c->is_signed;
	a.is_float = !c->aggregate && c->vectors && !c->in_memory;
	a.in_memory = c->aggregate || c->in_memory || c->size > 8 || !c->size;
	a.size = (uint8_t)(c->size <= 8 ? c->size : 8);
	if (c->is_pointer && abi_plain(type, &plain) && dwarf_tag(&plain) == DW_TAG_pointer_type && abi_type_of(&plain, &to) && abi_plain(&to, &plain)) {
		const char *name = dwarf_diename(&plain);
		a.is_string = dwarf_tag(&plain) == DW_TAG_base_type && name && !strcmp(name, "char");
	}
	return a;
}

/* ---- signatures --------------------------------------------------------------------------------------------------------------- */

/* Which argument register holds it at the function's first instruction, -1 if DWARF does not say so. */
static int register_at(Dwarf_Die *parameter, uint64_t addr)
{
	static const int8_t by_dwarf[10] = { -1, 2, 3, -1, 1, 0, -1, -1, 4, 5 }; /* rax rdx rcx rbx rsi rdi rbp rsp r8 r9 */
	Dwarf_Attribute attr;
	Dwarf_Op *ops;
	size_t n;
	if (!dwarf_attr_integrate(parameter, DW_AT_location, &attr) || dwarf_getlocation_addr(&attr, addr, &ops, &n, 1) != 1 || n != 1)
		return -1;
	return ops[0].atom >= DW_OP_reg0 && ops[0].atom < DW_OP_reg0 + 10 ? by_dwarf[ops[0].atom - DW_OP_reg0] : -1;
}

/* clone: the optimiser made it from a function of another signature; only what DWARF says of its very start can be believed. */
static void arguments(struct dwarf_reader *d, uint64_t addr, bool clone, Dwarf_Die *die, bool cpp, struct abi_state *abi, struct symbols_signature *sig)
{
	enum { MAX = sizeof sig->args / sizeof *sig->args };
	Dwarf_Die p, type;
	bool certain[MAX] = { false };
	uint32_t n = 0;
	for (int more = dwarf_child(die, &p); more == 0 && n < MAX; more = dwarf_siblingof(&p, &p)) {
		struct abi_class c = { 0 };
		if (dwarf_tag(&p) != DW_TAG_formal_parameter)
			continue;
		if (!abi_type_of(&p, &type) || !abi_classify(&type, &c))
			break; /* where those behind it are cannot be known */
		struct symbols_argument a = describe(d, &type, &c, cpp);
		abi_next(abi, &c, &a.reg, &a.stack);
		int reg = c.aggregate ? -1 : register_at(&p, addr);
		if (reg >= 0) {
			clone |= reg != a.reg; /* clang removes arguments without a word */
			a.reg = (int8_t)reg;
			a.stack = SYMBOLS_NOT_ON_STACK;
			certain[n] = true;
		}
		a.name = dwarf_diename(&p);
		sig->args[n++] = a;
	}
	for (uint32_t i = 0; i < n; i++)
		if (!clone || certain[i]) /* else removed, or a constant now */
			sig->args[sig->n++] = sig->args[i];
}

static int language(Dwarf_Die *die)
{
	Dwarf_Die cu;
	return dwarf_diecu(die, &cu, NULL, NULL) ? dwarf_srclang(&cu) : -1;
}

static bool is_cpp(int lang)
{
	return lang == DW_LANG_C_plus_plus || lang == DW_LANG_C_plus_plus_03 || lang == DW_LANG_C_plus_plus_11 || lang == DW_LANG_C_plus_plus_14;
}

/* die: the function that addr is in. */
static bool line_of(Dwarf_Die *die, uint64_t addr, const char **ret_file, uint32_t *ret_line)
{
	Dwarf_Die cu;
	Dwarf_Line *line = dwarf_diecu(die, &cu, NULL, NULL) ? dwarf_getsrc_die(&cu, addr) : NULL;
	const char *file = line ? dwarf_linesrc(line, NULL, NULL) : NULL;
	int n = 0;
	if (!file || dwarf_lineno(line, &n) != 0 || n <= 0)
		return false;
	*ret_file = file;
	*ret_line = (uint32_t)n;
	return true;
}

static void read_signature(struct dwarf_reader *d, uint64_t addr, bool clone, Dwarf_Die *die, struct symbols_signature *sig)
{
	Dwarf_Die type;
	struct abi_class c = { 0 };
	struct abi_state abi = { 0 };
	int lang = language(die), line = 0;
	bool cpp = is_cpp(lang), some = abi_type_of(die, &type);
	sig->file = dwarf_decl_file(die);
	sig->line = dwarf_decl_line(die, &line) == 0 && line > 0 ? (uint32_t)line : 0;
	uint32_t row;
	if (!sig->file) /* clang's file 0 is not known to every libdw */
		line_of(die, addr, &sig->file, sig->line ? &row : &sig->line);
	sig->known = lang != DW_LANG_Mips_Assembler;
	if (!sig->known)
		return; /* written by hand: there is a line, and no types */
	if (some && !abi_classify(&type, &c))
		c = (struct abi_class){ .aggregate = true, .in_memory = true, .size = 16 };
	sig->ret = describe(d, some ? &type : NULL, &c, cpp);
	sig->ret.reg = -1;
	if (some && (c.in_memory || c.by_reference) && !c.x87)
		abi.integers = 1; /* the caller passes where to put it */
	if (c.by_reference)
		sig->ret.in_memory = true;
	arguments(d, addr, clone, die, cpp, &abi, sig);
}

bool dwarf_reader_signature(struct dwarf_reader *d, uint64_t addr, bool clone, struct symbols_signature *ret_sig)
{
	struct symbols_signature sig = { .known = false };
	const struct entry *at = entry_before(d, addr);
	Dwarf_Die die;
	if (!at || at->addr != addr || !dwarf_offdie(d->dbg, at->die, &die))
		return false;
	read_signature(d, addr, clone, &die, &sig);
	*ret_sig = sig;
	return true;
}

bool dwarf_reader_line(struct dwarf_reader *d, uint64_t addr, const char **ret_file, uint32_t *ret_line)
{
	const struct entry *at = entry_before(d, addr);
	Dwarf_Die die;
	return at && addr - at->addr < (at->size ? at->size : 1) && dwarf_offdie(d->dbg, at->die, &die) && line_of(&die, addr, ret_file, ret_line);
}

void dwarf_reader_names(struct dwarf_reader *d, void (*fn)(void *arg, const struct dwarf_name *n), void *arg)
{
	for (uint32_t i = 0; i < d->n; i++) {
		Dwarf_Die die;
		Dwarf_Attribute attr;
		if (!dwarf_offdie(d->dbg, d->index[i].die, &die))
			continue;
		bool external = dwarf_attr_integrate(&die, DW_AT_external, &attr) != NULL;
		const char *name = dwarf_attr_integrate(&die, DW_AT_linkage_name, &attr) ? dwarf_formstring(&attr) : dwarf_diename(&die);
		if (name && *name)
			fn(arg, &(struct dwarf_name){ d->index[i].addr, d->index[i].size, name, external });
	}
}
