/* The system call; see the header. */
#include "bpf/bpf.h"
#include "bpf/assemble.h"
#include <errno.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define INIT_PID_NS 0xEFFFFFFCu /* PROC_PID_INIT_INO: the inode of the first pid namespace */

int bpf_call(int cmd, void *attr, size_t size) { return (int)syscall(SYS_bpf, cmd, attr, size); }

int bpf_load(const struct program *p, union bpf_attr *attr, char *ret_log, size_t log_size)
{
	attr->insn_cnt = p->n;
	attr->insns = (uintptr_t)p->in;
	attr->license = (uintptr_t)"GPL and additional rights";
	int fd = bpf_call(BPF_PROG_LOAD, attr, sizeof *attr), saved = errno;
	if (fd < 0 && ret_log) { /* once more, for the verifier's words */
		attr->log_level = 1;
		attr->log_size = (uint32_t)log_size;
		attr->log_buf = (uintptr_t)ret_log;
		fd = bpf_call(BPF_PROG_LOAD, attr, sizeof *attr);
		saved = errno;
	}
	errno = saved;
	return fd;
}

bool bpf_sees_our_pids(void)
{
	struct stat ns;
	return stat("/proc/self/ns/pid", &ns) < 0 || ns.st_ino == INIT_PID_NS;
}
