/* Says whether a process can be attached to, and if not why, before anything of it is touched. Reads /proc alone. Any thread.
 *
 * Whether we may trace it the kernel answers best: opening /proc/PID/mem asks the very question (uid, capabilities, dumpable, Yama). */
#include "ptrace/inject.h"
#include "ptrace/libc.h"
#include "ptrace/proc.h"
#include "ptrace/shelf.h"
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { CAP_PTRACE = 19, CAP_ADMIN = 21 };

__attribute__((format(printf, 3, 4))) static int obstacle(struct inject_preflight *p, enum inject_obstacle o, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(p->text, sizeof p->text, fmt, ap);
	va_end(ap);
	p->obstacle = o;
	return 0;
}

static bool we_may(int capability)
{
	char text[4096];
	const char *at;
	return proc_read(getpid(), "status", text, sizeof text) > 0 && (at = strstr(text, "\nCapEff:")) && strtoull(at + 8, NULL, 16) >> capability & 1;
}

static bool same_ns(pid_t pid, const char *name)
{
	char path[64], theirs[64] = "", ours[64] = "";
	snprintf(path, sizeof path, "/proc/%d/ns/%s", pid, name);
	ssize_t n = readlink(path, theirs, sizeof theirs - 1);
	snprintf(path, sizeof path, "/proc/self/ns/%s", name);
	return n < 0 || readlink(path, ours, sizeof ours - 1) < 0 || !strcmp(theirs, ours);
}

/* "Uid:\treal\teffective\tsaved\tfs" */
static void uids(const char *status, unsigned ret_uid[3])
{
	const char *at = strstr(status, "\nUid:");
	if (!at || sscanf(at + 5, "%u %u %u", &ret_uid[0], &ret_uid[1], &ret_uid[2]) != 3)
		ret_uid[0] = ret_uid[1] = ret_uid[2] = 0;
}

static const char *machine_name(const Elf64_Ehdr *eh, char ret_name[16])
{
	const char *name = NULL;
	switch (eh->e_machine) {
	case EM_X86_64: name = eh->e_ident[EI_CLASS] == ELFCLASS64 ? "x86_64" : "x32"; break;
	case EM_386: name = "i386"; break;
	case EM_ARM: name = "arm"; break;
	case EM_AARCH64: name = "aarch64"; break;
	case EM_RISCV: name = "riscv"; break;
	}
	if (name)
		snprintf(ret_name, 16, "%s", name);
	else
		snprintf(ret_name, 16, "machine %u", eh->e_machine);
	return ret_name;
}

static bool read_header(pid_t pid, Elf64_Ehdr *ret_eh)
{
	char path[64];
	snprintf(path, sizeof path, "/proc/%d/exe", pid);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	bool ok = fd >= 0 && pread(fd, ret_eh, sizeof *ret_eh, 0) >= (ssize_t)sizeof(Elf32_Ehdr) && !memcmp(ret_eh->e_ident, ELFMAG, SELFMAG);
	if (fd >= 0)
		close(fd);
	return ok;
}

static int refused(struct inject_preflight *p, pid_t pid, const unsigned uid[3], int error)
{
	char text[16] = "";
	int fd = open("/proc/sys/kernel/yama/ptrace_scope", O_RDONLY | O_CLOEXEC);
	if (fd >= 0) {
		if (read(fd, text, sizeof text - 1) < 0)
			text[0] = 0;
		close(fd);
	}
	int scope = atoi(text);
	bool capable = we_may(CAP_PTRACE);
	if (scope == 3)
		return obstacle(p, INJECT_YAMA, "process %d: this host forbids tracing altogether (kernel.yama.ptrace_scope = 3, until it is restarted)", pid);
	if (scope && !capable && !p->other_user && !p->not_dumpable)
		return obstacle(p, INJECT_YAMA, "process %d: this host lets only a parent trace its processes (kernel.yama.ptrace_scope = %d): run the agent as "
			"root or with CAP_SYS_PTRACE, start the program with `klieg run`, or set kernel.yama.ptrace_scope to 0", pid, scope);
	if (p->other_user && !capable)
		return obstacle(p, INJECT_PERMISSION, "process %d belongs to user %u, this agent to user %u: run the agent as root, with CAP_SYS_PTRACE, or as that "
			"user", pid, uid[0], geteuid());
	if (capable)
		return obstacle(p, INJECT_PERMISSION, "process %d may not be traced from here (%s): it belongs to another user namespace, or a security module (SELinux, "
			"AppArmor) forbids it: run the agent on the host itself", pid, strerror(error));
	return obstacle(p, INJECT_PERMISSION, "process %d may not be traced (%s): it has more rights than this agent or is not dumpable: run the agent as root or with "
		"CAP_SYS_PTRACE", pid, strerror(error));
}

static int examine(pid_t pid, struct inject_preflight *p, struct err *e)
{
	char status[8192], comm[32], path[64], root[4096];
	ssize_t n = proc_read(pid, "status", status, sizeof status);
	if (pid <= 0 || n <= 0)
		return err_set(e, KLIEG_E_NO_TARGET, "no process has the id %d", pid);
	long tgid = proc_number(status, "Tgid", pid);
	if (tgid != pid)
		return err_set(e, KLIEG_E_NO_TARGET, "%d is a thread of process %ld (%s): attach to %ld", pid, tgid, proc_comm((pid_t)tgid, comm), tgid);
	unsigned uid[3];
	uids(status, uid);
	struct stat st;
	snprintf(path, sizeof path, "/proc/%d/maps", pid); /* root's if it is not dumpable, whoever runs it */
	p->threads = (uint32_t)proc_number(status, "Threads", 0);
	p->seccomp = proc_number(status, "Seccomp", 0) != 0;
	p->other_user = uid[0] != geteuid() || uid[1] != geteuid() || uid[2] != geteuid();
	p->not_dumpable = uid[1] && stat(path, &st) == 0 && st.st_uid == 0;
	p->mount_ns = !same_ns(pid, "mnt");
	p->pid_ns = !same_ns(pid, "pid");
	snprintf(path, sizeof path, "/proc/%d/root", pid);
	n = readlink(path, root, sizeof root - 1);
	p->chroot = n > 0 && !(n == 1 && root[0] == '/');

	uint64_t flags = 0;
	char state = proc_state(pid, pid, &flags);
	if (pid == getpid())
		return obstacle(p, INJECT_SELF, "process %d is Klieg itself", pid);
	if (!state)
		return obstacle(p, INJECT_GONE, "process %d is gone", pid);
	if (flags & 0x200000)
		return obstacle(p, INJECT_KERNEL_THREAD, "%d (%s) is a thread of the kernel, not a program", pid, proc_comm(pid, comm));
	if ((state == 'Z' || state == 'X') && p->threads <= 1)
		return obstacle(p, INJECT_ZOMBIE, "process %d (%s) has ended; its parent (pid %ld) has not taken note yet", pid, proc_comm(pid, comm),
			proc_number(status, "PPid", 0));
	long tracer = proc_number(status, "TracerPid", 0);
	if (tracer)
		return obstacle(p, INJECT_TRACED, "process %d is already traced by %s (pid %ld): a process has one tracer at a time; end that debugger or "
			"profiler first", pid, proc_comm((pid_t)tracer, comm), tracer);
	if (state == 'T')
		return obstacle(p, INJECT_STOPPED, "process %d is stopped by a signal, so nothing can be loaded into it: continue it first (kill -CONT %d)", pid, pid);
	snprintf(path, sizeof path, "/proc/%d/mem", pid);
	int mem = open(path, O_RDONLY | O_CLOEXEC);
	if (mem < 0)
		return errno == ENOENT || errno == ESRCH ? obstacle(p, INJECT_GONE, "process %d is gone", pid) : refused(p, pid, uid, errno);
	Elf64_Ehdr eh;
	struct libc l = { 0 };
	bool known = read_header(pid, &eh);
	int found = libc_find(pid, mem, &l);
	close(mem);
	state = proc_state(pid, pid, NULL);
	bool there = proc_read(pid, "maps", status, sizeof status) > 0; /* if not, it ended while we looked, and what was seen means nothing */
	if (found < 0 || !state || !there)
		return obstacle(p, INJECT_GONE, "process %d is gone", pid);
	if (known && strcmp(machine_name(&eh, p->machine), "x86_64"))
		return obstacle(p, INJECT_MACHINE, "process %d is a %s program; this agent attaches to x86_64 programs", pid, p->machine);
	if (!l.glibc && l.musl)
		return obstacle(p, INJECT_MUSL, "process %d uses the musl C library, which Klieg cannot load into: use uprobes (slower), or build its probes in", pid);
	if (!l.glibc)
		return obstacle(p, INJECT_STATIC, "process %d %s, so nothing can be loaded into it: use uprobes (slower), or build Klieg's probes in", pid,
			l.loader ? "has not loaded the GNU C library (yet)" : "is statically linked");
	if (!l.complete)
		return obstacle(p, INJECT_OLD_LIBC, "process %d uses a GNU C library older than 2.34, without dlopen and threads in libc.so.6: use uprobes (slower), "
			"or build Klieg's probes in", pid);
	if (shelf_needed(pid) && !shelf_found(pid))
		return obstacle(p, INJECT_NAMESPACE, "process %d sees no /proc, and its root directory has no folder that can be written and executed from, so a library "
			"cannot be given to it: mount /proc in its root directory, or use uprobes (slower)", pid);
	char own[8192];
	bool filtered = proc_read(getpid(), "status", own, sizeof own) > 0 && proc_number(own, "Seccomp", 0);
	if (p->seccomp && (filtered || !we_may(CAP_ADMIN)))
		return obstacle(p, INJECT_SECCOMP, "process %d has a seccomp filter, which may kill it for the calls that loading needs; suspending it takes %s", pid,
			filtered ? "an agent that has no filter itself: run the agent outside that container or service" : "CAP_SYS_ADMIN: run the agent as root");
	return 0;
}

int inject_preflight(pid_t pid, struct inject_preflight *ret_p, struct err *e)
{
	struct inject_preflight p = { .machine = "x86_64" };
	int code = examine(pid, &p, e);
	if (!code)
		*ret_p = p;
	return code;
}

int inject_refusal(const struct inject_preflight *p, struct err *e)
{
	switch (p->obstacle) {
	case INJECT_NONE:
		return 0;
	case INJECT_GONE: case INJECT_ZOMBIE:
		return err_set(e, KLIEG_E_NO_TARGET, "%s", p->text);
	case INJECT_TRACED: case INJECT_SELF:
		return err_set(e, KLIEG_E_CONFLICT, "%s", p->text);
	case INJECT_SECCOMP: case INJECT_PERMISSION: case INJECT_YAMA:
		return err_set(e, KLIEG_E_DENIED, "%s", p->text);
	case INJECT_STOPPED:
		return err_set(e, KLIEG_E_BUSY, "%s", p->text);
	case INJECT_KERNEL_THREAD: case INJECT_STATIC: case INJECT_MUSL: case INJECT_MACHINE: case INJECT_NAMESPACE: case INJECT_OLD_LIBC:
		break;
	}
	return err_set(e, KLIEG_E_UNSUPPORTED, "%s", p->text);
}
