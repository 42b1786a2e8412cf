/* Reads the files of /proc/PID. No state; any thread. */
#include "ptrace/proc.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

ssize_t proc_read(pid_t pid, const char *name, char *ret_text, size_t n)
{
	char path[96];
	snprintf(path, sizeof path, "/proc/%d/%s", pid, name);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	size_t have = 0;
	ssize_t got = 0;
	while (have < n - 1 && (got = read(fd, ret_text + have, n - 1 - have)) > 0)
		have += (size_t)got;
	int error = errno;
	close(fd);
	if (got < 0 && !have)
		return -error;
	ret_text[have] = 0;
	return (ssize_t)have;
}

long proc_number(const char *status, const char *key, long missing)
{
	size_t n = strlen(key);
	for (const char *line = status; line; line = strchr(line, '\n')) {
		line += *line == '\n';
		if (!strncmp(line, key, n) && line[n] == ':')
			return strtol(line + n + 1, NULL, 10);
	}
	return missing;
}

/* "pid (any name) S ppid pgrp session tty tpgid flags ..." */
char proc_state(pid_t pid, pid_t tid, uint64_t *ret_flags)
{
	char name[64], text[512], state;
	unsigned long flags;
	snprintf(name, sizeof name, "task/%d/stat", tid);
	if (proc_read(pid, name, text, sizeof text) <= 0)
		return 0;
	const char *after = strrchr(text, ')');
	if (!after || sscanf(after + 1, " %c %*d %*d %*d %*d %*d %lu", &state, &flags) != 2)
		return 0;
	if (ret_flags)
		*ret_flags = flags;
	return state;
}

bool proc_is_kernels(uint64_t flags)
{
	enum { IO_WORKER = 0x10, USER_WORKER = 0x4000, KERNEL_THREAD = 0x200000 }; /* PF_* in linux/sched.h */
	return flags & (IO_WORKER | USER_WORKER | KERNEL_THREAD);
}

const char *proc_comm(pid_t pid, char ret_comm[32])
{
	if (proc_read(pid, "comm", ret_comm, 32) <= 0)
		snprintf(ret_comm, 32, "?");
	ret_comm[strcspn(ret_comm, "\n")] = 0;
	return ret_comm;
}

FILE *proc_maps_open(pid_t pid)
{
	char path[64];
	snprintf(path, sizeof path, "/proc/%d/maps", pid);
	return fopen(path, "re");
}

bool proc_maps_next(FILE *maps, struct proc_map *ret_m)
{
	char line[4400];
	while (fgets(line, sizeof line, maps)) {
		unsigned long start, end, offset;
		int path = 0;
		if (sscanf(line, "%lx-%lx %4s %lx %*s %*s %n", &start, &end, ret_m->perms, &offset, &path) < 4)
			continue;
		ret_m->start = start;
		ret_m->end = end;
		ret_m->offset = offset;
		line[strcspn(line, "\n")] = 0;
		snprintf(ret_m->path, sizeof ret_m->path, "%s", path ? line + path : "");
		return true;
	}
	return false;
}
