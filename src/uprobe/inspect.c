/* What a file and a process allow. The kernel executes the probed instruction by itself and, to see a function's end,
 * replaces its return address: programs that walk, copy or switch their stacks do not survive that everywhere. What is found
 * here decides between entries and exits, entries only, and no. Files are read, not mapped: their owner may truncate them
 * meanwhile. */
#include "uprobe/internal.h"
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <unistd.h>

/* ---- files --------------------------------------------------------------------------------------------------------- */

#define GO "Go moves its stacks, and what it finds as a return address there must be its own"
#define CXX "C++ exceptions cannot pass a function whose return address the kernel has replaced"
#define RUST "Rust panics cannot pass a function whose return address the kernel has replaced"
#define COROUTINES "it switches stacks (makecontext and the like), and the kernel takes the calls on the other stack for ended"
#define SIGNALS "it has signal handlers on a stack of their own, and the kernel takes the calls they interrupt for ended"

static const struct { const char *bytes; uint8_t n; bool by_exits; const char *why; } signs[] = {
#define SIGN(text, why) { text, sizeof(text) - 1, false, why }
#define RETURNS(text, why) { text, sizeof(text) - 1, true, why }
	SIGN("\xff Go buildinf:", GO), SIGN("runtime.goexit", GO),
	RETURNS("N10__cxxabiv1", CXX), RETURNS("__gxx_personality_v0", CXX),
	RETURNS("/rustc/", RUST), RETURNS("rust_eh_personality", RUST),
	SIGN("makecontext", COROUTINES), SIGN("swapcontext", COROUTINES), SIGN("jump_fcontext", COROUTINES),
	RETURNS("sigaltstack", SIGNALS),
#undef SIGN
#undef RETURNS
};
enum { SIGNS = sizeof signs / sizeof *signs, LONGEST = 32, CHUNK = 1 << 16 };

/* mov $131 (sigaltstack), %eax and soon after it syscall: what is left of a static C library's call when the symbols are
 * stripped. */
static bool is_sigaltstack(const uint8_t *p, size_t n)
{
	static const uint8_t mov[] = { 0xb8, 131, 0, 0, 0 };
	if (n < sizeof mov + 2 || memcmp(p, mov, sizeof mov))
		return false;
	for (size_t i = sizeof mov; i + 1 < n && i < LONGEST - 1; i++)
		if (p[i] == 0x0f && p[i + 1] == 0x05)
			return true;
	return false;
}

int inspect_file(int fd, struct inspect_why *ret_why, struct err *e)
{
	Elf64_Ehdr h;
	if (pread(fd, &h, sizeof h, 0) != sizeof h || memcmp(h.e_ident, ELFMAG, SELFMAG))
		return err_set(e, KLIEG_E_BAD_DATA, "the file is not an ELF file");
	if (h.e_ident[EI_CLASS] != ELFCLASS64 || h.e_machine != EM_X86_64)
		return err_set(e, KLIEG_E_UNSUPPORTED, "the file is not for x86-64");
	uint16_t starts[256] = { 0 }; /* by first byte: which signs, and the code */
	_Static_assert(SIGNS < 15, "a bit each");
	for (int i = 0; i < SIGNS; i++)
		starts[(uint8_t)signs[i].bytes[0]] |= (uint16_t)(1u << i);
	starts[0xb8] |= 1u << 15;
	uint8_t *buf = malloc(CHUNK);
	struct inspect_why why = { NULL, true };
	off_t at = 0;
	ssize_t got = 0;
	while (buf && why.by_exits && (got = pread(fd, buf, CHUNK, at)) > 0) {
		bool last = got < CHUNK;
		size_t n = (size_t)got, end = last ? n : n - LONGEST; /* what begins in the tail is looked at with the next chunk */
		for (size_t i = 0; i < end && why.by_exits; i++) {
			unsigned which = starts[buf[i]];
			for (int k = 0; which && k < SIGNS; k++)
				if (which & 1u << k && signs[k].n <= n - i && !memcmp(buf + i, signs[k].bytes, signs[k].n) && !(why.text && signs[k].by_exits))
					why = (struct inspect_why){ signs[k].why, signs[k].by_exits }; /* the worst counts */
			if (which >> 15 && !why.text && is_sigaltstack(buf + i, n - i))
				why = (struct inspect_why){ SIGNALS, true };
		}
		if (last)
			break;
		at += (off_t)end;
	}
	free(buf);
	if (!buf || got < 0)
		return err_set(e, KLIEG_E_IO, "the file cannot be read: %s", strerror(errno));
	*ret_why = why;
	return 0;
}

/* ---- processes ----------------------------------------------------------------------------------------------------- */

static long status_of(pid_t pid, const char *key)
{
	char path[64], line[256];
	long v = -1;
	snprintf(path, sizeof path, "/proc/%d/status", pid);
	FILE *f = fopen(path, "re");
	while (f && v < 0 && fgets(line, sizeof line, f))
		if (!strncmp(line, key, strlen(key)))
			v = atol(line + strlen(key));
	if (f)
		fclose(f);
	return v;
}

const char *inspect_process(pid_t pid)
{
	struct utsname u;
	unsigned major = 0, minor = 0;
	if (uname(&u) == 0 && sscanf(u.release, "%u.%u", &major, &minor) == 2 && major == 6 && minor >= 11 && minor < 14 &&
		status_of(pid, "Seccomp:") > 0)
		return "it has a seccomp filter, and in Linux 6.11 to 6.13 such a filter may kill a process whose functions have return probes";
	return NULL;
}

/* Is that the mapping of the file? On a layered file system the inode shown in maps may be that of a layer. */
static bool maps_file(pid_t pid, const char *range, uint64_t map_ino, const struct stat *st)
{
	char path[96];
	struct stat there;
	snprintf(path, sizeof path, "/proc/%d/map_files/%s", pid, range);
	if (stat(path, &there) == 0)
		return there.st_dev == st->st_dev && there.st_ino == st->st_ino;
	return map_ino == st->st_ino;
}

static int same_bytes(pid_t pid, uint64_t addr, const uint8_t *bytes, size_t n, size_t skip, struct err *e)
{
	char path[64];
	uint8_t there[16];
	snprintf(path, sizeof path, "/proc/%d/mem", pid);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t got = fd < 0 ? -1 : pread(fd, there, n, (off_t)addr);
	int saved = errno;
	if (fd >= 0)
		close(fd);
	if (got != (ssize_t)n) {
		err_set(e, saved == EACCES || saved == EPERM ? KLIEG_E_DENIED : KLIEG_E_NO_TARGET,
			"the memory of process %d cannot be read: %s", pid, got < 0 ? strerror(saved) : "not mapped any more");
		return err_hint(e, "run the agent as root or with CAP_SYS_PTRACE");
	}
	bool breakpoint = false; /* of another uprobe, most likely: they share it */
	for (size_t i = 0; i < n; i += i == 0 && skip ? skip : n)
		if (there[i] == 0xcc && bytes[i] != 0xcc) {
			there[i] = bytes[i];
			breakpoint = true;
		}
	long tracer = breakpoint ? status_of(pid, "TracerPid:") : 0;
	if (tracer > 0)
		return err_set(e, KLIEG_E_CONFLICT, "process %ld has a breakpoint on the function", tracer);
	if (!memcmp(there, bytes, n))
		return 0;
	return err_set(e, KLIEG_E_CONFLICT, "the function's first bytes in memory are not those of the file: "
		"somebody else has patched it, or the file is another one by now");
}

int inspect_mapped(pid_t pid, const struct stat *st, uint64_t offset, const uint8_t *bytes, size_t n, size_t skip, struct err *e)
{
	char path[64], line[8192];
	snprintf(path, sizeof path, "/proc/%d/maps", pid);
	FILE *f = fopen(path, "re");
	if (!f) {
		if (errno == ENOENT || errno == ESRCH)
			return err_set(e, KLIEG_E_NO_TARGET, "process %d is gone", pid);
		return err_set(e, err_from_errno(errno), "%s: %s", path, strerror(errno));
	}
	int rc = 0;
	bool found = false;
	while (rc == 0 && fgets(line, sizeof line, f)) {
		unsigned long long from, to, at, ino;
		char range[64], perms[8];
		if (sscanf(line, "%63s %7s %llx %*s %llu", range, perms, &at, &ino) != 4 || sscanf(range, "%llx-%llx", &from, &to) != 2)
			continue;
		if (perms[2] != 'x' || !ino || offset < at || offset - at >= to - from || !maps_file(pid, range, ino, st))
			continue;
		found = true;
		size_t here = to - from - (offset - at) < n ? (size_t)(to - from - (offset - at)) : n;
		rc = same_bytes(pid, from + (offset - at), bytes, here, skip, e);
	}
	fclose(f);
	if (!rc && !found)
		return err_set(e, KLIEG_E_NOT_FOUND, "process %d has no code mapped from offset 0x%llx of that file", pid,
			(unsigned long long)offset);
	return rc;
}

/* ---- instructions -------------------------------------------------------------------------------------------------- */

/* As measured on Linux 6.18 in a virtual machine; what the kernel executes itself costs one trap, what it does not, two. */
enum { ENTRY_NS = 700, BOTH_NS = 1100, STEPPED_ENTRY_NS = 12000, STEPPED_BOTH_NS = 12500 };

#define SLOW "single-stepped by the kernel: about 12 us a call in a virtual machine, 1 to 2 us elsewhere"

/* Length of a memory operand's ModRM, SIB and displacement; 0: cut off. */
static size_t operand_length(const uint8_t *p, size_t n)
{
	if (!n)
		return 0;
	unsigned mod = p[0] >> 6, rm = p[0] & 7;
	size_t len = 1;
	if (mod == 3)
		return len;
	if (rm == 4) {
		if (n < 2)
			return 0;
		len++;
		if (mod == 0 && (p[1] & 7) == 5)
			len += 4;
	}
	len += mod == 1 ? 1 : mod == 2 || (mod == 0 && rm == 5) ? 4 : 0;
	return len <= n ? len : 0;
}

/* lea 0(%reg), %reg: one of the forms compilers fill with. */
static bool is_lea_nop(const uint8_t *p, size_t n, uint8_t rex)
{
	if (!(rex & 8) || n < 2 || p[0] >> 6 != 1)
		return false;
	unsigned reg = (p[0] >> 3 & 7) | (rex & 4u) << 1, rm = p[0] & 7;
	if (rm != 4)
		return reg == (rm | (rex & 1u) << 3) && p[1] == 0;
	return n >= 3 && (p[1] >> 3 & 7) == 4 && !(rex & 2) && reg == ((p[1] & 7) | (rex & 1u) << 3) && p[2] == 0;
}

static bool is_push(const uint8_t *p, size_t n)
{
	size_t i = n > 1 && p[0] == 0x41;
	return n > i && p[i] >= 0x50 && p[i] <= 0x57;
}

static struct uprobe_cost cost_of(const uint8_t *bytes, size_t n)
{
	struct uprobe_cost c = { .entry_ns = STEPPED_ENTRY_NS, .both_ns = STEPPED_BOTH_NS, .stepped = true, .text = SLOW };
	size_t i = 0;
	uint8_t rex = 0;
	bool rep = false;
	while (i < n && i < 14 && memchr("\x66\x67\x2e\x3e\x26\x36\x64\x65\xf2\xf3\xf0", bytes[i], 11))
		rep |= bytes[i++] == 0xf3;
	if (i < n && (bytes[i] & 0xf0) == 0x40)
		rex = bytes[i++];
	if (i >= n) {
		c.refusal = n ? "its first instruction is cut off" : "it has no bytes in the file";
		return c;
	}
	const uint8_t *p = bytes + i;
	size_t left = n - i, nop = 0;
	bool plain = i == 0;
	if (p[0] == 0x90 && !(rex & 1) && !rep)
		nop = i + 1;
	else if (left > 2 && p[0] == 0x0f && p[1] == 0x1f)
		nop = i + 2 + operand_length(p + 2, left - 2);
	else if (left > 1 && p[0] == 0x8d && is_lea_nop(p + 1, left - 1, rex))
		nop = i + 1 + operand_length(p + 1, left - 1);
	if (nop == 5)
		c.refusal = "it begins with a 5-byte NOP, which Linux 6.18 turns into a call that may overwrite the program's data";
	else if (plain && p[0] == 0xa9)
		c.refusal = "it begins with a Klieg site: switch that";
	else if (plain && p[0] == 0xcc)
		c.refusal = "it begins with a breakpoint instruction";
	bool jump = plain && (p[0] == 0xe8 || p[0] == 0xe9 || p[0] == 0xeb || (p[0] & 0xf0) == 0x70 ||
		(left > 1 && p[0] == 0x0f && (p[1] & 0xf0) == 0x80));
	if (is_push(bytes, n) || jump || (nop && p[0] == 0x90))
		c = (struct uprobe_cost){ .entry_ns = ENTRY_NS, .both_ns = BOTH_NS, .refusal = c.refusal, .text = "" };
	return c;
}

/* Behind an endbr64 that a push follows nothing has happened yet, and no loop comes back to a push. (kprobes skip it too.) */
struct uprobe_cost uprobe_cost(const uint8_t *bytes, size_t n)
{
	static const uint8_t endbr64[] = { 0xf3, 0x0f, 0x1e, 0xfa };
	struct uprobe_cost c = cost_of(bytes, n);
	size_t skip = sizeof endbr64;
	if (n > skip + 1 && !memcmp(bytes, endbr64, skip) && is_push(bytes + skip, n - skip)) {
		c = cost_of(bytes + skip, n - skip);
		c.skip = (uint8_t)skip;
	}
	return c;
}
