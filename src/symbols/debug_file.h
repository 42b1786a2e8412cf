/* The file that has the symbols and DWARF of another. Both return its descriptor, which the caller closes, and its image. */
#pragma once
#include "symbols/image.h"
/* An installed one, or -1. */
int debug_file_find(struct image *im, const char *build_id, struct image *ret_debug);
/* The one a user names; of another build: an error that says so. */
int debug_file_open(const char *path, const char *build_id, uint16_t machine, struct image *ret_debug, struct err *e);
