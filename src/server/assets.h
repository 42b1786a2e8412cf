/* The dashboard's files, gzipped, in the executable (tools/embed.py makes the table). */
#pragma once
#include <stddef.h>
struct asset { const char *path, *type, *etag; const unsigned char *gz; size_t n; };
extern const struct asset assets[]; /* ends with a NULL path */
