/* The bytes of an ELF file: headers, segments, sections, each range checked. Nothing is mapped: the file may be truncated or rewritten
 * by its owner at any time, which would be a SIGBUS in the agent. What is loaded is read once; the rest is read when it is asked for. */
#pragma once
#include "base/err.h"
#include <elf.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct image_piece;

struct image {
	int fd;                      /* borrowed until the image is complete; not used after symbols_open() returns */
	uint64_t size;               /* of the file */
	Elf64_Ehdr head;
	Elf64_Phdr *ph;
	Elf64_Shdr *sh;              /* NULL: no section headers, or headers that cannot be true */
	uint32_t nph, nsh;
	uint8_t *loaded;             /* the file's bytes [0, nloaded): everything its PT_LOADs take from it */
	uint64_t nloaded;
	struct image_piece *pieces;  /* ranges outside of those: symbol tables, notes of debug files */
	uint64_t piece_bytes;
	uint32_t npieces;
};

/* with_segments: false for a debug file, whose segments have no bytes. */
int image_open(int fd, bool with_segments, struct image *ret_im, struct err *e);
void image_finish(struct image *im);
/* n bytes of the file from off; NULL when they are not there. They stay until finish. */
const uint8_t *image_bytes(struct image *im, uint64_t off, uint64_t n);
/* n bytes at a virtual address, as the file has them; NULL when not all are there. */
const uint8_t *image_at(const struct image *im, uint64_t addr, uint64_t n);
const Elf64_Shdr *image_section(struct image *im, const char *name); /* NULL = none */
const char *image_section_name(struct image *im, const Elf64_Shdr *sh);
/* The NUL-terminated string at off of a table of n bytes, NULL if there is none or it is unreasonably long. */
const char *image_string(const uint8_t *table, uint64_t n, uint64_t off);
/* Lower-case hex of the GNU build-id, "" = none. */
void image_build_id(struct image *im, char ret_hex[2 * 64 + 1]);
