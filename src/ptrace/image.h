/* The dynamic symbols of a loaded shared object, read from the target's memory: works in other mount namespaces and for files deleted since. */
#pragma once
#include <stdint.h>

struct image { int mem; uint64_t base, bias, symtab, strtab, gnu_hash; };
/* base: where its ELF header is mapped. 0 or KLIEG_E_BAD_DATA, KLIEG_E_IO. */
int process_image_open(int mem, uint64_t base, struct image *ret_i);
uint64_t process_image_symbol(const struct image *i, const char *name);   /* its address; 0 if there is none */
