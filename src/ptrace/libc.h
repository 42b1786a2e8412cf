/* What a target has of a C library: the functions that loading needs. */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

enum { LIBC_DELICATE = 16 };
struct libc {
	bool glibc, musl, loader;        /* found among its mappings; loader: any dynamic loader */
	uint64_t loader_start, loader_end;   /* executable part of ld.so */
	struct { uint64_t start, end; } delicate[LIBC_DELICATE]; /* code that may be inside the allocator or the loader: the C library, ld.so, */
	uint32_t delicate_n;             /* and every module that exports calloc; > LIBC_DELICATE: too many to tell */
	uint64_t attr_init, attr_setdetachstate, attr_setstack, create, open, symbol_in, error, errno_at, unlock;
	uint64_t loader_state;           /* _rtld_global, 0 = not found */
	bool complete;                   /* all of them are there */
};
int libc_find(pid_t pid, int mem, struct libc *ret_l);   /* 0 or KLIEG_E_NO_TARGET */
