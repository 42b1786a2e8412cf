/* What /proc says about a target. Reading only. */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

/* The text of /proc/PID/NAME, NUL-terminated and cut at n. Returns its length or -errno. */
ssize_t proc_read(pid_t pid, const char *name, char *ret_text, size_t n);
/* "Key:\tnumber" in a text of the kind of /proc/PID/status; otherwise `missing`. */
long proc_number(const char *status, const char *key, long missing);
/* The state letter ('R', 'S', 'Z', ...) and the kernel's flags of a thread of pid; 0 when it is gone. */
char proc_state(pid_t pid, pid_t tid, uint64_t *ret_flags);
bool proc_is_kernels(uint64_t flags);        /* a kernel thread, or a kernel's worker within a program (io_uring, vhost) */
const char *proc_comm(pid_t pid, char ret_comm[32]);

struct proc_map {
	uint64_t start, end, offset;
	char perms[5];
	char path[4200];                     /* as in maps; "" if anonymous */
};
FILE *proc_maps_open(pid_t pid);             /* fclose() it */
bool proc_maps_next(FILE *maps, struct proc_map *ret_m);
