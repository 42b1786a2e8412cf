/* What the functions of an ELF file are: names, boundaries, whether they can be intercepted and why not, what they call, what their
 * arguments are. Reads a file that may be hostile; nothing of it is believed without bounds. x86-64 only: elsewhere functions are listed, none is hookable.
 *
 * A struct symbols is immutable once opened: any thread may read it, one closes it. All addresses are the file's own (p_vaddr), without a load
 * bias. Nothing is mapped, so a file that is cut off later does no harm. DWARF is read by a process of its own (dwarf.c). */
#pragma once
#include "base/err.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct symbols;

enum symbols_source { SYMBOLS_SYMTAB = 1, SYMBOLS_DYNSYM, SYMBOLS_DEBUG, SYMBOLS_DWARF, SYMBOLS_EH_FRAME };

struct symbols_function {
	uint64_t addr;
	uint32_t size;           /* never 0: where the file says 0, up to the next function */
	uint8_t source;          /* enum symbols_source: who named it (EH_FRAME: nobody; name is then NULL) */
	uint8_t window;          /* bytes of whole instructions that a 5-byte jump displaces, 5 to 19; 0 = not hookable */
	const char *name;        /* without @VERSION; of C++ and Rust as people write it, with arguments only where several share it; NULL = stripped */
	const char *refusal;     /* why not hookable, a sentence fragment ("shorter than 5 bytes", "a branch into its first 5 bytes"); NULL = hookable */
};

/* Opens the ELF file behind fd (kept by the caller). debug_file: path of a file with its symbols and DWARF, NULL = look for an installed one by
 * build-id (/usr/lib/debug/.build-id/ab/cdef.debug) and .gnu_debuglink. A debug file of another build-id is an error that says so.
 * Names from .symtab, .dynsym, the debug file (else from DWARF); boundaries from .eh_frame for what has no name. Not functions: PLT entries,
 * pieces that the compiler moved away (.cold; in stripped files known by their unwind rows and by jumps back into another function), ifuncs
 * and their resolvers. Aliases of one address are one function: the global, shortest name wins. Takes about 30 ms a megabyte of text. */
int symbols_open(int fd, const char *debug_file, struct symbols **ret_s, struct err *e);
void symbols_close(struct symbols *s);
/* The name that a shared library has for the dynamic linker, "" = none; without opening all of it. */
void symbols_soname(int fd, char *ret_name, size_t size);

/* Sorted by address. Owned by s. */
const struct symbols_function *symbols_functions(const struct symbols *s, uint32_t *ret_n);
const struct symbols_function *symbols_at(const struct symbols *s, uint64_t addr);   /* the innermost that contains addr, or NULL */
const struct symbols_function *symbols_named(const struct symbols *s, const char *name); /* exact, readable or as the linker knows it; aliases too; of several the exported one; NULL = none */
/* Up to max names that are like `name` (edit distance, then substring), best first; returns how many. For "did you mean". */
uint32_t symbols_similar(const struct symbols *s, const char *name, const char **ret_names, uint32_t max);
const char *symbols_build_id(const struct symbols *s); /* hex, "" = none */
bool symbols_has_dwarf(const struct symbols *s);
/* From virtual address to bytes of the file's text: NULL if [addr, addr + n) is not in one executable segment. */
const uint8_t *symbols_text(const struct symbols *s, uint64_t addr, size_t n);
/* The executable PT_LOADs: for a hash of the text, and for the load bias. Returns false past the last. */
bool symbols_segment(const struct symbols *s, uint32_t i, uint64_t *ret_addr, uint64_t *ret_offset, uint64_t *ret_size);

/* ---- relocation of a prologue ---- */
struct symbols_moved {
	uint8_t code[192];       /* what to run instead of the displaced bytes, ending in a jump back to from + window */
	uint32_t size;
	uint32_t n;              /* instruction boundaries, for threads whose instruction pointer is inside the window */
	struct { uint8_t from, to; } at[16]; /* offset in the window -> offset in code */
};
/* Moves the first `window` bytes of a function at run-time address `from` (their bytes given) to run-time address `to`. Relative branches,
 * RIP-relative operands are rewritten; a call becomes push of the original return address and a jump, so that unwinding sees what it expects (never a relocated CALL).
 * KLIEG_E_UNSUPPORTED with the reason when it cannot be (too far, a loop, ...). */
int symbols_move(const uint8_t *bytes, uint32_t window, uint64_t from, uint64_t to, struct symbols_moved *ret_m, struct err *e);

/* ---- what it calls ---- */
enum symbols_call_kind { SYMBOLS_DIRECT = 1, SYMBOLS_TAIL, SYMBOLS_PLT, SYMBOLS_SLOT };
/* DIRECT: a call. TAIL: a jump to another function's start. PLT: either of them through the PLT or GOT; addr is then known only when this very file
 * defines what it calls. DIRECT with an addr and no name: an indirect function, or one without a boundary. SLOT: either of them through a pointer in a
 * variable; addr is the variable's: what it holds, only the process knows. */
struct symbols_callee { uint64_t addr; const char *name; uint8_t kind; uint32_t sites; }; /* addr 0 and a name: in another module, by PLT or GOT */
/* Distinct callees in the order of their first call; *ret_list is the caller's to free(). ret_indirect: calls through registers and memory that cannot be known. */
int symbols_callees(const struct symbols *s, const struct symbols_function *f, struct symbols_callee **ret_list, uint32_t *ret_n, uint32_t *ret_indirect);
/* Those calls: the addresses that they return to, in no order, the caller's to free(). ret_jumps: it also jumps to where only a register knows, and
 * that does not look like a switch: a call at its end. */
int symbols_pointers(const struct symbols *s, const struct symbols_function *f, uint64_t **ret_at, uint32_t *ret_n, bool *ret_jumps);
/* Where it is left: its return instructions and, `tail`, its jumps to another function, at each of which the stack pointer is where it was at its first
 * instruction; in no order, the caller's to free(). KLIEG_E_UNSUPPORTED: those are not all, or something is not beyond doubt; e says what. A probe
 * in the middle of an instruction would kill the program. */
struct symbols_exit { uint64_t at; bool tail; };
int symbols_exits(const struct symbols *s, const struct symbols_function *f, struct symbols_exit **ret_list, uint32_t *ret_n, struct err *e);
/* Is its address taken, by an instruction or in data? Others cannot be called through a pointer (but by code that computes addresses). */
bool symbols_taken(const struct symbols *s, const struct symbols_function *f);

/* ---- arguments, from DWARF ---- */
#define SYMBOLS_NOT_ON_STACK 255
struct symbols_argument {
	const char *name;        /* owned by s */
	const char *type;        /* as in C: "const char *", "struct client *", "int" */
	uint8_t size;            /* bytes, 1..8 */
	bool is_signed, is_pointer, is_string /* (const) char* */, is_float, in_memory /* a struct or a long number by value: not one register, not shown */;
	int8_t reg;              /* 0..5 = rdi rsi rdx rcx r8 r9; -1 = on the stack or in a vector register */
	uint8_t stack;           /* if on the stack: 8-byte slot above the return address, from 0; else SYMBOLS_NOT_ON_STACK */
};
struct symbols_signature {
	uint32_t n;
	struct symbols_argument args[16];
	struct symbols_argument ret; /* name NULL; type "void" = none */
	const char *file; uint32_t line;
	bool known;              /* false: no DWARF for it, or none that can be read */
};
int symbols_signature(const struct symbols *s, const struct symbols_function *f, struct symbols_signature *ret_sig);
/* File and line of an address, if there is DWARF. */
bool symbols_line(const struct symbols *s, uint64_t addr, const char **ret_file, uint32_t *ret_line);
