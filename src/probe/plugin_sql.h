/* SQL without its literals. Sees nothing else of libklieg, so that it can be fuzzed by itself. */
#pragma once
#include <stddef.h>

/* sql[0..n) (or up to a NUL) with its literals replaced and its comments gone, NUL-terminated, at most size - 1 bytes; returns
 * the length. ret_verb: its first word, in capitals; "" if there is none. */
size_t klieg__sql_normalise(const char *sql, size_t n, char *ret_text, size_t size, char ret_verb[24]);
