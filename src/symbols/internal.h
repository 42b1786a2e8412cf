/* What the files of src/symbols share. Opening runs them in this order: image (bytes), elf_names (names), eh_frame (boundaries),
 * symbols (one sorted list), prologue (what can be hooked). After that nothing changes but the lazily opened DWARF, under its own lock. */
#pragma once
#include "base/strtab.h"
#include "symbols/image.h"
#include "symbols/symbols.h"
#include <Zydis/Zydis.h>
#include <pthread.h>

#define SYMBOLS_JUMP 5u          /* bytes of the jump that is written over a function's start */
#define SYMBOLS_SEGMENTS_MAX 16u /* executable ones */

struct segment { uint64_t addr, offset, size; const uint8_t *p; };

#define NAME_OLD 3 /* added to the rank of a name of a version that is no longer linked to (memcpy@GLIBC_2.2.5) */

/* A name at an address, before aliases are settled. */
struct name {
	uint64_t addr, size;
	const char *name;
	uint8_t source, rank;        /* rank: lower is better among the names of one address */
	bool is_function, is_ifunc;  /* neither: a label of assembly, worth something only where unwind tables start a function */
	bool is_piece;               /* the part of a function that the compiler moved away (.cold): entered by jumps only */
};

/* A range of .eh_frame. is_entry: its first row is that of a function just called. */
struct range { uint64_t addr, size; bool is_entry; };

/* A slot of the global offset table that the dynamic linker fills with the symbol of that name; value: where this very file defines it, 0 = elsewhere. */
struct slot { uint64_t addr, value; const char *name; };

struct named { const char *name; uint32_t function; uint8_t rank; }; /* a cell of the table behind symbols_named() */

struct symbols_dwarf;

struct symbols {
	struct image image, debug;   /* debug.fd < 0: none */
	struct segment segments[SYMBOLS_SEGMENTS_MAX];
	uint32_t nsegments;
	struct segment text[64];     /* the parts of them that hold functions: sections without the PLTs, or the segments when there are no sections */
	uint32_t ntext;
	struct name *names;          /* all, sorted by address and rank */
	uint32_t nnames;
	struct range *ranges;        /* sorted by address */
	uint32_t nranges;
	struct symbols_function *functions;
	uint32_t n;
	uint8_t *taken;              /* one bit a function: its address is taken */
	struct named *table;         /* open addressing, ntable is a power of 2 */
	uint32_t ntable;
	struct slot *slots;          /* sorted by address */
	uint32_t nslots;
	char **readable;             /* names that were mangled */
	uint32_t nreadable;
	struct strtab kept;          /* names that had to be changed (@VERSION cut off) */
	char build_id[2 * 64 + 1];
	bool x86, has_dwarf, go;
	int dwarf_fd;                /* a copy of our own, of the file that has it; -1 = none */
	pthread_mutex_t dwarf_lock;  /* one question at a time */
	struct symbols_dwarf *dwarf;
};

/* elf_names.c */
void names_read(struct symbols *s, struct image *im, bool is_debug);  /* adds to s->names */
void names_demangle(struct symbols *s);                               /* s->functions' names */
void slots_read(struct symbols *s);                                   /* s->slots */
const struct slot *slot_at(const struct symbols *s, uint64_t addr);   /* NULL = not a slot */
/* Every address of this file that relocations put somewhere, but for slots: it may be jumped to. */
bool has_packed_relocations(const struct image *im);
void relatives_each(struct symbols *s, void (*fn)(void *arg, uint64_t addr), void *arg);

/* eh_frame.c */
void ranges_read(struct symbols *s);                                  /* s->ranges */
const struct range *range_at(const struct symbols *s, uint64_t addr); /* the one that contains addr, or NULL */

/* symbols.c */
const struct segment *symbols_in_text(const struct symbols *s, uint64_t addr);
const struct symbols_function *symbols_exactly(const struct symbols *s, uint64_t addr); /* that starts there */
uint32_t symbols_from(const struct symbols *s, uint64_t addr);        /* index of the first function at or after addr */

/* prologue.c */
void prologues_check(struct symbols *s);                              /* window and refusal of all functions; drops pieces among them */

/* move.c: what keeps this instruction of a window from being moved, NULL = nothing. at: its offset in the window */
void decoder_start(ZydisDecoder *d, bool minimal);
const char *move_obstacle(const ZydisDecodedInstruction *in, uint32_t at);
bool instruction_target(const ZydisDecodedInstruction *in, uint64_t at, uint64_t *ret_target); /* of a relative branch */
bool is_jcc(const ZydisDecodedInstruction *in);
static inline bool is_stop(const ZydisDecodedInstruction *in) /* nothing runs on behind it (not in minimal mode) */
{
	return in->meta.category == ZYDIS_CATEGORY_RET || in->mnemonic == ZYDIS_MNEMONIC_JMP || in->mnemonic == ZYDIS_MNEMONIC_UD2 ||
		in->mnemonic == ZYDIS_MNEMONIC_HLT;
}

/* dwarf.c */
void dwarf_names(struct symbols *s);                                  /* adds names of functions, where no symbol table has them */
void dwarf_finish(struct symbols *s);
