/* Reads DWARF through libdw. Only for the process that dwarf.c starts: a damaged file may crash it. Strings live as long as the reader. */
#pragma once
#include "symbols/symbols.h"

struct dwarf_reader;
struct dwarf_name { uint64_t addr, size; const char *name; bool external; };

struct dwarf_reader *dwarf_reader_open(int fd); /* without functions, when there is nothing that can be read */
bool dwarf_reader_signature(struct dwarf_reader *d, uint64_t addr, bool clone, struct symbols_signature *ret_sig);
bool dwarf_reader_line(struct dwarf_reader *d, uint64_t addr, const char **ret_file, uint32_t *ret_line);
void dwarf_reader_names(struct dwarf_reader *d, void (*fn)(void *arg, const struct dwarf_name *n), void *arg);
