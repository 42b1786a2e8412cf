/* The kernel's side: small BPF programs, one at entries and one for each kind of exit, that note time, thread and stack pointer in a
 * ring which we read; and, of functions whose arguments are wanted, registers, stack words and texts. They are assembled here, so that neither a
 * compiler nor libbpf is needed. Why BPF and not plain perf samples: perf counts an event per thread, so each thread would need descriptors of
 * its own and new ones would be missed; a BPF program sees all threads of the process, in one ring whose order is the order in each thread, and
 * counts exactly what the ring could not take.
 *
 * The programs, and nothing else of this folder, are also under the GPL version 2, beside the project's license: the kernel lets only such programs read
 * the memory of processes (bpf_probe_read_user).
 *
 * Attached by uprobe_multi links where the kernel has those that filter by process correctly (6.13: it has session probes
 * too), else by a perf event of the uprobe PMU each. Either is undone by closing its descriptor. */
#include "uprobe/internal.h"
#include "bpf/assemble.h"
#include "bpf/bpf.h"
#include <errno.h>
#include <linux/perf_event.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#if defined(__x86_64__)

enum { RING_BYTES = 2 << 20, PAGE = 4096, SP_AT = 152 /* of rsp in struct pt_regs */, AX_AT = 80, ENTRY_TO_CFA = 8, REGISTERS = 6 };
static const int16_t argument_at[REGISTERS] = { 112, 104, 96, 88, 72, 64 }; /* likewise */
enum { UPROBE_MULTI = 48, UPROBE_SESSION = 57 };   /* attach types newer than some headers */
#define ENOTSUPP_KERNEL 524

/* ---- the programs -------------------------------------------------------------------------------------------------- */

enum { CTX = R6, ID, WHAT, REC };
enum { ID_AT = -8, WANT_AT = -16, TIME_AT = -24 };  /* on the program's stack */

/* Of a function that wants more: its words, and what some of them point to. */
static void note_words(struct program *p, bool at_exit, bool texts)
{
	enum { WORD = offsetof(struct kernel_call, word), STACK_WORDS = KERNEL_WORDS - REGISTERS };
	if (at_exit) {
		load(p, BPF_DW, R1, CTX, AX_AT);
		store(p, BPF_DW, REC, WORD, R1);
	} else {
		for (int i = 0; i < REGISTERS; i++) {
			load(p, BPF_DW, R1, CTX, argument_at[i]);
			store(p, BPF_DW, REC, (int)(WORD + 8 * i), R1);
		}
		mov(p, R1, REC);
		op(p, BPF_ADD, R1, WORD + 8 * REGISTERS);
		set(p, R2, 8 * STACK_WORDS);
		load(p, BPF_DW, R3, CTX, SP_AT);
		op(p, BPF_ADD, R3, ENTRY_TO_CFA);
		call(p, BPF_FUNC_probe_read_user); /* what cannot be read is 0 */
	}
	for (int i = 0; texts && i < KERNEL_TEXTS; i++) {
		set(p, R0, -1);
		load(p, BPF_DW, R1, STACK, WANT_AT);
		op(p, BPF_RSH, R1, KERNEL_TEXT_SHIFT + 4 * i);
		op(p, BPF_AND, R1, KERNEL_WORDS - 1);
		unsigned none = branch(p, BPF_JEQ, R1, KERNEL_WORDS - 1);
		op(p, BPF_LSH, R1, 3);
		sum(p, R1, REC);
		load(p, BPF_DW, R3, R1, WORD);
		mov(p, R1, REC);
		op(p, BPF_ADD, R1, (int32_t)offsetof(struct kernel_call, text) + i * KERNEL_TEXT);
		set(p, R2, KERNEL_TEXT);
		call(p, BPF_FUNC_probe_read_user_str);
		here(p, none);
		store(p, BPF_W, REC, (int)offsetof(struct kernel_call, text_len) + 4 * i, R0);
	}
}

/* Reserves, fills and submits an event of so many bytes; ends the program. The time is read as near to the function as can be: last at its entry,
 * first at its exit. Returns the branch that is taken when the ring is full. */
static unsigned note(struct program *p, const struct kernel *k, enum kernel_kind kind, size_t bytes)
{
	bool at_exit = kind != KERNEL_AT_ENTRY;
	wide(p, R1, BPF_PSEUDO_MAP_FD, (uint32_t)k->ring_fd, 0);
	set(p, R2, (int32_t)bytes);
	set(p, R3, 0);
	call(p, BPF_FUNC_ringbuf_reserve);
	unsigned full = branch(p, BPF_JEQ, R0, 0);
	mov(p, REC, R0);
	load(p, BPF_DW, R1, CTX, SP_AT);
	if (kind != KERNEL_RETURNED)
		op(p, BPF_ADD, R1, ENTRY_TO_CFA); /* the return address is still there */
	store(p, BPF_DW, REC, offsetof(struct kernel_event, cfa), R1);
	store(p, BPF_W, REC, offsetof(struct kernel_event, tid), ID);
	if (at_exit)
		add(p, BPF_ALU | BPF_OR | BPF_K, WHAT, 0, 0, (int32_t)KERNEL_EXIT);
	store(p, BPF_W, REC, offsetof(struct kernel_event, what), WHAT);
	if (bytes > sizeof(struct kernel_event))
		note_words(p, at_exit, bytes == sizeof(struct kernel_call));
	wide(p, R1, BPF_PSEUDO_MAP_FD, (uint32_t)k->ring_fd, 0);
	set(p, R2, BPF_RB_AVAIL_DATA);
	call(p, BPF_FUNC_ringbuf_query);
	set(p, WHAT, BPF_RB_NO_WAKEUP);
	op(p, BPF_AND, R0, RING_BYTES / 8 - 1);
	unsigned awake = branch(p, BPF_JGE, R0, (int32_t)(bytes + BPF_RINGBUF_HDR_SZ)); /* one wake-up for each eighth of the ring: it costs more than the event does */
	set(p, WHAT, BPF_RB_FORCE_WAKEUP);
	here(p, awake);
	if (at_exit)
		load(p, BPF_DW, R0, STACK, TIME_AT);
	else
		call(p, BPF_FUNC_ktime_get_ns);
	store(p, BPF_DW, REC, offsetof(struct kernel_event, ns), R0);
	mov(p, R1, REC);
	mov(p, R2, WHAT);
	call(p, BPF_FUNC_ringbuf_submit);
	leave(p);
	return full;
}

static void assemble(struct program *p, const struct kernel *k, enum kernel_kind kind, const struct stat *ns)
{
	bool at_exit = kind != KERNEL_AT_ENTRY;
	unsigned out[3], full[3];
	int nout = 0;
	*p = (struct program){ .n = 0 };
	mov(p, CTX, R1);
	if (at_exit) {
		call(p, BPF_FUNC_ktime_get_ns);
		store(p, BPF_DW, STACK, TIME_AT, R0);
	}
	if (ns) { /* we are not in the first pid namespace: numbers as seen in ours */
		wide(p, R1, 0, (uint32_t)ns->st_dev, (uint32_t)(ns->st_dev >> 32));
		wide(p, R2, 0, (uint32_t)ns->st_ino, (uint32_t)(ns->st_ino >> 32));
		mov(p, R3, STACK);
		op(p, BPF_ADD, R3, ID_AT);
		set(p, R4, 8);
		call(p, BPF_FUNC_get_ns_current_pid_tgid);
		out[nout++] = branch(p, BPF_JNE, R0, 0);
		load(p, BPF_DW, ID, STACK, ID_AT);
	} else {
		call(p, BPF_FUNC_get_current_pid_tgid);
		mov(p, ID, R0);
	}
	mov(p, R1, ID);
	op(p, BPF_RSH, R1, 32);
	out[nout++] = branch(p, BPF_JNE, R1, k->pid); /* a forked child that returns through its parent's probes */
	mov(p, R1, CTX);
	call(p, BPF_FUNC_get_attach_cookie);
	mov(p, WHAT, R0);
	op(p, BPF_AND, R0, KERNEL_LOST - 1);
	op(p, BPF_LSH, R0, 2);
	wide(p, R1, BPF_PSEUDO_MAP_VALUE, (uint32_t)k->lost_fd, (at_exit ? 3 : 2) * KERNEL_LOST * 4);
	sum(p, R1, R0);
	load(p, BPF_W, R1, R1, 0);
	store(p, BPF_DW, STACK, WANT_AT, R1);
	int nfull = 0;
	if (kind != KERNEL_AT_JUMP) { /* there it has no result */
		unsigned plain = branch(p, BPF_JEQ, R1, 0), texts = branch(p, BPF_JSET, R1, KERNEL_WANT_TEXTS);
		full[nfull++] = note(p, k, kind, offsetof(struct kernel_call, text_len));
		here(p, texts);
		full[nfull++] = note(p, k, kind, sizeof(struct kernel_call));
		here(p, plain);
	}
	full[nfull++] = note(p, k, kind, sizeof(struct kernel_event));
	while (nfull)
		here(p, full[--nfull]);
	op(p, BPF_AND, WHAT, KERNEL_LOST - 1);
	op(p, BPF_LSH, WHAT, 2);
	wide(p, R1, BPF_PSEUDO_MAP_VALUE, (uint32_t)k->lost_fd, at_exit ? KERNEL_LOST * 4 : 0);
	sum(p, R1, WHAT);
	set(p, R2, 1);
	add(p, BPF_STX | BPF_ATOMIC | BPF_W, R1, R2, 0, BPF_ADD);
	while (nout)
		here(p, out[--nout]);
	leave(p);
}

static int load_program(const struct program *p, uint32_t attach_type, char *ret_log, size_t log_size)
{
	union bpf_attr a = { .prog_type = BPF_PROG_TYPE_KPROBE, .expected_attach_type = attach_type, .prog_name = "klieg_uprobe" };
	return bpf_load(p, &a, ret_log, log_size);
}

/* ---- opening ------------------------------------------------------------------------------------------------------- */

static int refused(struct err *e, const char *what, int errnum)
{
	if (errnum == EPERM || errnum == EACCES) {
		err_set(e, KLIEG_E_DENIED, "kernel uprobes are not permitted here: %s: %s; they need CAP_BPF and CAP_PERFMON", what,
			strerror(errnum));
		return err_hint(e, "run the agent as root, or give it both capabilities; a kernel in lockdown (confidentiality) or a "
			"container's seccomp filter forbids them too");
	}
	if (errnum == EMFILE || errnum == ENFILE) {
		err_set(e, KLIEG_E_LIMIT, "%s: %s: each probed function takes two or three descriptors", what, strerror(errnum));
		return err_hint(e, "probe fewer functions, or raise the agent's limit (ulimit -n)");
	}
	if (errnum == ENOSYS || errnum == EINVAL)
		return err_set(e, KLIEG_E_UNSUPPORTED, "this kernel cannot do it: %s: %s; Linux 5.15 or later with CONFIG_BPF_EVENTS and "
			"CONFIG_UPROBE_EVENTS is needed", what, strerror(errnum));
	return err_set(e, err_from_errno(errnum), "%s: %s", what, strerror(errnum));
}

static bool read_line(const char *path, char *ret, size_t size)
{
	FILE *f = fopen(path, "re");
	bool ok = f && fgets(ret, (int)size, f);
	if (f)
		fclose(f);
	return ok;
}

static int find_pmu(struct kernel *k, struct err *e)
{
	char text[64];
	if (!read_line("/sys/bus/event_source/devices/uprobe/type", text, sizeof text))
		return err_set(e, KLIEG_E_UNSUPPORTED, "this kernel shows no uprobe PMU (/sys/bus/event_source/devices/uprobe): "
			"CONFIG_UPROBE_EVENTS is off, or /sys is not mounted");
	k->perf_type = (uint32_t)strtoul(text, NULL, 10);
	unsigned bit = 0;
	if (read_line("/sys/bus/event_source/devices/uprobe/format/retprobe", text, sizeof text))
		sscanf(text, "config:%u", &bit);
	k->perf_exit = 1ull << (bit & 63);
	return 0;
}

/* NULL: our numbers are the kernel's own. Else *ret_ns is our namespace, which has to be the process's. */
static int our_namespace(pid_t pid, struct stat *ret_ns, const struct stat **ret, struct err *e)
{
	char path[64];
	struct stat theirs;
	snprintf(path, sizeof path, "/proc/%d/ns/pid", pid);
	*ret = NULL;
	if (bpf_sees_our_pids())
		return 0;
	if (stat("/proc/self/ns/pid", ret_ns) < 0 || stat(path, &theirs) < 0)
		return refused(e, "the process's pid namespace", errno);
	if (theirs.st_ino != ret_ns->st_ino) {
		err_set(e, KLIEG_E_UNSUPPORTED, "process %d is in another pid namespace than the agent, which is not in the host's", pid);
		return err_hint(e, "run the agent in the host's pid namespace (docker run --pid=host), or in the process's");
	}
	*ret = ret_ns;
	return 0;
}

int kernel_open(struct kernel *k, pid_t pid, bool perf_events, struct err *e)
{
	*k = (struct kernel){ .pid = pid, .ring_fd = -1, .lost_fd = -1, .program = { -1, -1, -1, -1 } };
	struct stat st;
	const struct stat *ns;
	int rc = our_namespace(pid, &st, &ns, e);
	if (rc < 0)
		return rc;
	union bpf_attr ring = { .map_type = BPF_MAP_TYPE_RINGBUF, .max_entries = RING_BYTES, .map_name = "klieg_uprobe" };
	union bpf_attr lost = { .map_type = BPF_MAP_TYPE_ARRAY, .key_size = 4, .value_size = 4 * KERNEL_LOST * 4, .max_entries = 1,
		.map_flags = BPF_F_MMAPABLE, .map_name = "klieg_lost" };
	k->ring_fd = bpf_call(BPF_MAP_CREATE, &ring, sizeof ring);
	k->lost_fd = k->ring_fd < 0 ? -1 : bpf_call(BPF_MAP_CREATE, &lost, sizeof lost);
	if (k->lost_fd < 0) {
		rc = refused(e, "bpf(BPF_MAP_CREATE)", errno);
		goto fail;
	}
	void *taken = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, k->ring_fd, 0);
	k->taken = taken == MAP_FAILED ? NULL : taken;
	void *ours = mmap(NULL, PAGE + 2 * RING_BYTES, PROT_READ, MAP_SHARED, k->ring_fd, PAGE);
	k->written = ours == MAP_FAILED ? NULL : ours;
	k->data = ours == MAP_FAILED ? NULL : (const uint8_t *)ours + PAGE;
	void *counts = mmap(NULL, 4 * KERNEL_LOST * 4, PROT_READ | PROT_WRITE, MAP_SHARED, k->lost_fd, 0);
	k->lost = counts == MAP_FAILED ? NULL : counts;
	k->want = k->lost ? k->lost + 2 * KERNEL_LOST : NULL;
	if (!k->taken || !k->written || !k->lost) {
		rc = refused(e, "mapping the kernel's ring", errno);
		goto fail;
	}
	struct program p = { .n = 0 };
	leave(&p);
	int session = perf_events ? -1 : load_program(&p, UPROBE_SESSION, NULL, 0);
	k->multi = session >= 0;
	if (session >= 0)
		close(session);
	else if ((rc = find_pmu(k, e)) < 0)
		goto fail;
	char log[4096] = "";
	for (enum kernel_kind kind = 0; kind < KERNEL_KINDS; kind++) {
		assemble(&p, k, kind, ns);
		int fd = load_program(&p, k->multi ? UPROBE_MULTI : 0, log, sizeof log);
		if (fd < 0) {
			rc = refused(e, "bpf(BPF_PROG_LOAD)", errno);
			if (*log)
				rc = err_set(e, KLIEG_E_UNSUPPORTED, "the kernel refused our program: %.300s", strlen(log) > 300 ? log + strlen(log) - 300 : log);
			goto fail;
		}
		k->program[kind] = fd;
	}
	return 0;
fail:
	kernel_close(k);
	return rc;
}

void kernel_close(struct kernel *k)
{
	if (k->taken)
		munmap(k->taken, PAGE);
	if (k->written)
		munmap((void *)(uintptr_t)k->written, PAGE + 2 * RING_BYTES);
	if (k->lost)
		munmap(k->lost, 4 * KERNEL_LOST * 4);
	int *fds[2 + KERNEL_KINDS] = { &k->ring_fd, &k->lost_fd };
	for (int i = 0; i < KERNEL_KINDS; i++)
		fds[2 + i] = &k->program[i];
	for (size_t i = 0; i < sizeof fds / sizeof *fds; i++)
		if (*fds[i] >= 0) {
			close(*fds[i]);
			*fds[i] = -1;
		}
	k->taken = NULL;
	k->written = NULL;
	k->lost = NULL;
}

/* ---- probes -------------------------------------------------------------------------------------------------------- */

static int attach_multi(const struct kernel *k, const char *file, const uint64_t *offsets, uint32_t n, enum kernel_kind kind, uint32_t cookie)
{
	uint64_t cookies[KERNEL_PLACES];
	for (uint32_t i = 0; i < n; i++)
		cookies[i] = cookie;
	struct { /* the part of union bpf_attr for BPF_LINK_CREATE that old headers lack */
		uint32_t prog_fd, target_fd, attach_type, flags;
		uint64_t path, offsets, ref_ctr_offsets, cookies;
		uint32_t cnt, uprobe_flags, pid, pad;
	} a = { .prog_fd = (uint32_t)k->program[kind], .attach_type = UPROBE_MULTI, .path = (uintptr_t)file,
		.offsets = (uintptr_t)offsets, .cookies = (uintptr_t)cookies, .cnt = n, .pid = (uint32_t)k->pid,
		.uprobe_flags = kind == KERNEL_RETURNED /* BPF_F_UPROBE_MULTI_RETURN */ };
	return bpf_call(BPF_LINK_CREATE, &a, sizeof a);
}

static int attach_perf(const struct kernel *k, const char *file, const uint64_t *offsets, uint32_t n, enum kernel_kind kind, uint32_t cookie)
{
	struct perf_event_attr at = { .size = sizeof at, .type = k->perf_type, .config = kind == KERNEL_RETURNED ? k->perf_exit : 0,
		.uprobe_path = (uintptr_t)file, .probe_offset = *offsets };
	int event = (int)syscall(SYS_perf_event_open, &at, k->pid, -1, -1, PERF_FLAG_FD_CLOEXEC);
	if (event < 0)
		return -1;
	union bpf_attr a = { .link_create = { .prog_fd = (uint32_t)k->program[kind], .target_fd = (uint32_t)event,
		.attach_type = BPF_PERF_EVENT, .perf_event = { .bpf_cookie = cookie } } };
	int fd = bpf_call(BPF_LINK_CREATE, &a, sizeof a), saved = errno;
	close(event); /* the link holds it */
	errno = saved;
	return fd;
}

int kernel_attach(struct kernel *k, const char *file, const uint64_t *offsets, uint32_t n, enum kernel_kind kind, uint32_t cookie, struct err *e)
{
	if (!n || n > (k->multi ? KERNEL_PLACES : 1u))
		return err_set(e, KLIEG_E_LIMIT, "too many places for one probe");
	int fd = (k->multi ? attach_multi : attach_perf)(k, file, offsets, n, kind, cookie);
	if (fd >= 0)
		return fd;
	if (errno == ENOTSUPP_KERNEL || errno == EOPNOTSUPP || errno == EINVAL || errno == EIO)
		return err_set(e, KLIEG_E_UNSUPPORTED, "the kernel puts no probe there: it cannot execute the first instruction on its own, "
			"or the file is not an ordinary one");
	if (errno == ESRCH)
		return err_set(e, KLIEG_E_NO_TARGET, "process %d is gone", k->pid);
	return refused(e, k->multi ? "bpf(BPF_LINK_CREATE, uprobe_multi)" : "perf_event_open(uprobe)", errno);
}

enum kernel_got kernel_next(struct kernel *k, struct kernel_call *ret_c)
{
	uint64_t at = *k->taken; /* ours alone */
	for (;;) {
		if (at == __atomic_load_n(k->written, __ATOMIC_ACQUIRE)) /* pairs with the kernel's release: records below it have a header */
			return KERNEL_NONE;
		const uint8_t *p = k->data + (at & (RING_BYTES - 1));
		/* Pairs with the exchange in the kernel's submit: a record that is not busy is whole. */
		uint32_t head = __atomic_load_n((const uint32_t *)(const void *)p, __ATOMIC_ACQUIRE);
		if (head & BPF_RINGBUF_BUSY_BIT)
			return KERNEL_NONE;
		uint32_t n = head & ~(BPF_RINGBUF_BUSY_BIT | BPF_RINGBUF_DISCARD_BIT);
		enum kernel_got got = head & BPF_RINGBUF_DISCARD_BIT ? KERNEL_NONE : n == sizeof(struct kernel_event) ? KERNEL_EVENT :
			n == offsetof(struct kernel_call, text_len) ? KERNEL_GOT_WORDS : n == sizeof(struct kernel_call) ? KERNEL_GOT_TEXTS : KERNEL_NONE;
		if (got)
			memcpy(ret_c, p + BPF_RINGBUF_HDR_SZ, n);
		at += (n + BPF_RINGBUF_HDR_SZ + 7) & ~7ull;
		__atomic_store_n(k->taken, at, __ATOMIC_RELEASE); /* pairs with the kernel's read before it reserves */
		if (got)
			return got;
	}
}

#else

int kernel_open(struct kernel *k, pid_t pid, bool perf_events, struct err *e)
{
	*k = (struct kernel){ .pid = pid, .ring_fd = -1, .lost_fd = -1, .program = { -1, -1, -1, -1 } };
	return err_set(e, KLIEG_E_UNSUPPORTED, "kernel uprobes are only used on x86-64");
}
void kernel_close(struct kernel *k) { (void)k; }
int kernel_attach(struct kernel *k, const char *file, const uint64_t *offsets, uint32_t n, enum kernel_kind kind, uint32_t cookie, struct err *e)
{
	return err_set(e, KLIEG_E_UNSUPPORTED, "kernel uprobes are only used on x86-64");
}
enum kernel_got kernel_next(struct kernel *k, struct kernel_call *ret_c) { return KERNEL_NONE; }

#endif
