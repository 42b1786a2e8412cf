/* Where a library's file lies for a target that has no /proc, through which it would see a memfd: in a folder of its own root directory. */
#pragma once
#include "base/err.h"
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

bool shelf_needed(pid_t pid);
bool shelf_found(pid_t pid);     /* there is a folder that could be used */
/* Writes the file as NAME; ret_path: as the target sees it. The file has to be removed again when it is loaded. */
int shelf_put(pid_t pid, const char *name, const void *p, size_t n, char *ret_path, size_t path_n, struct err *e);
void shelf_remove(pid_t pid, const char *path);
