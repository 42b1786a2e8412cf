/* Loads a library into a target, in these steps:
 *   1. a thread is borrowed (place.c): memory for a stack, the code of guest.c and its block; pthread_create(guest_load)
 *   2. that thread, traced from its birth, makes a memfd; the file is copied into it; it runs dlopen and the function, and ends. Being traced it needs no
 *      polling, no seccomp filter sees its calls, and a crash in a constructor stops at us instead of killing the process
 *   3. a thread is borrowed again: the memory goes
 * All of it on a tracer thread of its own, whose end lets go of whatever is still traced. Only 1 and 3 pause a thread of the program, for five and three
 * stops of it.
 *
 * What is left if we are killed: in 1 and 3 the borrowed thread goes back by itself (remote.h); in 2 the loading thread goes on untraced: without
 * the file it ends, with it it does its work. 1.1 MiB of address space stay. Only under a seccomp filter that kills for what dlopen calls is our
 * death in 2, some 10 ms, fatal to the target.
 *
 * A library's name in the target carries a hash of its content. So the same content is never loaded twice, its function is called again; and a new
 * version never meets an old one by having the same name (dlopen compares names, and descriptors' numbers recur). */
#include "ptrace/inject.h"
#include "base/buf.h"
#include "base/clock.h"
#include "base/hash.h"
#include "ptrace/guest.h"
#include "ptrace/image.h"
#include "ptrace/libc.h"
#include "ptrace/place.h"
#include "ptrace/proc.h"
#include "ptrace/remote.h"
#include "ptrace/shelf.h"
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
	PAGE = 4096, STACK = 1 << 20, STACK_LARGE = 16 << 20, SCRATCH = 65536, BLOCK = 8192,
	FILE_MAX = 256 << 20,
	BORROW_MS = 1000, SPAWN_MS = 1000, LOAD_MS = 10000,
};
_Static_assert(sizeof(struct guest_block) <= BLOCK, "the block's room");

struct job {
	pid_t pid;
	const char *symbol;
	const void *arg;
	size_t arg_n;
	struct buf file;
	char label[160];                 /* NAME#hash: what the memfd is called */
	uint64_t hash;

	int mem;
	struct libc libc;
	struct remote_code code;
	struct remote remote;
	uint64_t entry;                  /* of the function, if the library is there already */

	/* in the target */
	uint64_t area, area_n;           /* guard page, the thread's stack, scratch stack, block; a page of code */
	char shelf[256];                 /* the file's path there, if it sees no /proc */
	int fed;                         /* 1: the loading thread has its file; KLIEG_E_*: it will not get it */

	struct inject_report report;
	struct err *e;
	int result;
};

static uint64_t text_at(const struct job *j) { return j->area + j->area_n - PAGE; }
static uint64_t block_at(const struct job *j) { return text_at(j) - BLOCK; }
static uint64_t in_target(const struct job *j, const void *guest) { return text_at(j) + (uint64_t)((const char *)guest - __start_guest); }
static size_t text_size(void) { return (size_t)(__stop_guest - __start_guest); }

/* ---- with a borrowed thread ---- */

static int borrow(struct job *j, int64_t *ret_since)
{
	int code = place_borrow(&j->remote, &j->libc, clock_mono() + BORROW_MS * 1000000ll, ret_since, j->e);
	if (!code)
		j->report.tid = j->remote.tid;
	return code;
}

static void give_back(struct job *j, int64_t since)
{
	int64_t pause = place_return(&j->remote, since);
	j->report.pauses_ns += pause;
	if (pause > j->report.pause_ns)
		j->report.pause_ns = pause;
}

/* ---- the steps ---- */

static int copy_file(struct job *j, int in_target_fd)
{
	char path[64], link[512] = "", want[192];
	snprintf(path, sizeof path, "/proc/%d/fd/%d", j->pid, in_target_fd);
	snprintf(want, sizeof want, "/memfd:%s", j->label);
	if (readlink(path, link, sizeof link - 1) < 0 || strncmp(link, want, strlen(want)))
		return err_set(j->e, KLIEG_E_BUSY, "process %d closed the descriptor that was made in it", j->pid);
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return err_set(j->e, err_from_errno(errno), "process %d: opening the memory file that was made in it: %s", j->pid, strerror(errno));
	size_t done = 0;
	for (ssize_t n; done < j->file.n && (n = write(fd, j->file.p + done, j->file.n - done)) > 0;)
		done += (size_t)n;
	int error = errno;
	close(fd);
	return done == j->file.n ? 0 : err_set(j->e, err_from_errno(error), "copying the library into process %d: %s", j->pid, strerror(error));
}

/* A path that only this content has: "/." and "/" lead nowhere, so they can spell the hash. */
static void spell_path(const struct job *j, int fd, char *ret_path, size_t n)
{
	struct buf b = { 0 };
	buf_add_str(&b, "/proc/self");
	for (int bit = 0; bit < 24; bit++)
		buf_add_str(&b, j->hash >> bit & 1 ? "/." : "/");
	buf_printf(&b, "/fd/%d", fd);
	buf_byte(&b, 0);
	memcpy(ret_path, b.p, b.n < n ? b.n : n);
	buf_finish(&b);
}

static void fill_block(const struct job *j, uint64_t stack_n, struct guest_block *b)
{
	*b = (struct guest_block){ .fd = -1, .entry = j->entry, .stack_n = stack_n, .data_n = stack_n + SCRATCH + BLOCK, .frame = j->remote.frame };
	const struct libc *l = &j->libc;
	uint64_t main = in_target(j, (const void *)guest_load);
	memcpy(&b->attr_init, &l->attr_init, 8);
	memcpy(&b->attr_setdetachstate, &l->attr_setdetachstate, 8);
	memcpy(&b->attr_setstack, &l->attr_setstack, 8);
	memcpy(&b->create, &l->create, 8);
	memcpy(&b->open, &l->open, 8);
	memcpy(&b->symbol_in, &l->symbol_in, 8);
	memcpy(&b->error, &l->error, 8);
	memcpy(&b->errno_at, &l->errno_at, 8);
	memcpy(&b->unlock, &l->unlock, 8);
	memcpy(&b->main, &main, 8);
	b->stack = (void *)(j->area + PAGE);
	if (j->arg_n == SIZE_MAX) {
		b->arg = (uint64_t)j->arg;
	} else if (j->arg_n) {
		b->arg = block_at(j) + offsetof(struct guest_block, argument);
		memcpy(b->argument, j->arg, j->arg_n);
	}
	memcpy(b->path, j->shelf, sizeof b->path);
	snprintf(b->label, sizeof b->label, "%s", j->label);
	snprintf(b->symbol, sizeof b->symbol, "%s", j->symbol);
}

static int make_room(struct job *j, uint64_t stack_n)
{
	uint64_t n = PAGE + stack_n + SCRATCH + BLOCK + PAGE, at;
	int code = remote_syscall(&j->remote, SYS_mmap, (uint64_t[6]){ 0, n, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, (uint64_t)-1, 0 },
		&at, j->e);
	if (code < 0)
		return code;
	if ((int64_t)at < 0 && (int64_t)at >= -4095)
		return err_set(j->e, (int64_t)at == -ENOMEM ? KLIEG_E_NOMEM : err_from_errno((int)-(int64_t)at), "process %d: mapping %lu bytes there: %s", j->pid,
			(unsigned long)n, strerror((int)-(int64_t)at));
	j->area = at;
	j->area_n = n;
	struct guest_block b;
	fill_block(j, stack_n, &b);
	if (remote_write(j->mem, text_at(j), __start_guest, text_size()) || remote_write(j->mem, block_at(j), &b, sizeof b))
		return err_set(j->e, KLIEG_E_DENIED, "process %d: writing its memory: %s", j->pid, strerror(errno));
	return 0;
}

/* ret_child: the new thread, traced, before its first instruction; 0 with *ret_error = errno of pthread_create. */
static int spawn(struct job *j, uint64_t stack_n, pid_t *ret_child, int *ret_error)
{
	int64_t since;
	int32_t created = -1;
	int code = borrow(j, &since);
	if (code < 0)
		return code;
	code = make_room(j, stack_n);
	if (!code)
		code = remote_run(&j->remote, text_at(j), text_size(), in_target(j, (const void *)guest_enter), block_at(j), block_at(j), since + SPAWN_MS * 1000000ll,
			j->e);
	give_back(j, since);
	if (!code && remote_read(j->mem, block_at(j) + offsetof(struct guest_block, created), &created, sizeof created))
		code = err_set(j->e, KLIEG_E_NO_TARGET, "process %d ended meanwhile", j->pid);
	*ret_child = j->remote.child;
	*ret_error = created;
	return code;
}

/* The loading thread has made its memfd and waits: fills it and says where it is. */
static int feed(struct job *j)
{
	int32_t fd;
	if (j->shelf[0])
		return 1;
	char path[sizeof ((struct guest_block *)0)->path] = "";
	uint64_t at = block_at(j);
	if (remote_read(j->mem, at + offsetof(struct guest_block, fd), &fd, sizeof fd))
		return err_set(j->e, KLIEG_E_NO_TARGET, "process %d ended meanwhile", j->pid);
	if (fd < 0)
		return err_set(j->e, err_from_errno(-fd), "process %d: making a memory file there: %s", j->pid, strerror(-fd));
	int code = copy_file(j, fd);
	if (code < 0)
		return code;
	spell_path(j, fd, path, sizeof path);
	return remote_write(j->mem, at + offsetof(struct guest_block, path), path, sizeof path) ?
		err_set(j->e, KLIEG_E_NO_TARGET, "process %d ended meanwhile", j->pid) : 1;
}

static bool is_fault(int sig)
{
	return sig == SIGSEGV || sig == SIGBUS || sig == SIGILL || sig == SIGFPE || sig == SIGTRAP || sig == SIGSYS || sig == SIGABRT;
}

/* A thread that crashed in a constructor holds the loader's recursive mutexes; whoever loads something later would wait for ever. They lie in
 * _rtld_global, and say who holds them. */
static void find_locks(struct job *j)
{
	struct mutex { int32_t lock, count, owner, users, kind; } m;
	enum { STATE = 8192, RECURSIVE = 1, FEW = 8 };
	uint8_t state[STATE];
	void *locks[FEW] = { NULL };
	unsigned n = 0;
	int32_t tid;
	uint64_t at = block_at(j);
	if (!j->libc.loader_state || remote_read(j->mem, at + offsetof(struct guest_block, tid), &tid, sizeof tid))
		return;
	ssize_t got = pread(j->mem, state, sizeof state, (off_t)j->libc.loader_state);
	for (ssize_t i = 0; i + (ssize_t)sizeof m <= got; i += 8) {
		memcpy(&m, state + i, sizeof m);
		if (m.owner == tid && m.lock && m.users == 1 && m.kind == RECURSIVE)
			for (int k = 0; k < m.count && n < FEW; k++)
				locks[n++] = (void *)(j->libc.loader_state + (uint64_t)i);
	}
	remote_write(j->mem, at + offsetof(struct guest_block, locks), locks, sizeof locks);
}

/* Where a library of the same content is mapped; 0 = nowhere. */
static uint64_t find_mapped(const struct job *j)
{
	struct proc_map m;
	uint64_t base = 0;
	FILE *maps = proc_maps_open(j->pid);
	while (maps && !base && proc_maps_next(maps, &m))
		if (m.offset == 0 && strstr(m.path, j->label))
			base = m.start;
	if (maps)
		fclose(maps);
	return base;
}

static void send_to_escape(struct job *j, pid_t tid)
{
	struct user_regs_struct g;
	uint32_t stage = 0;
	if (ptrace(PTRACE_GETREGS, tid, 0, &g) < 0)
		return;
	find_locks(j);
	uint64_t base = find_mapped(j);
	remote_read(j->mem, block_at(j) + offsetof(struct guest_block, stage), &stage, sizeof stage);
	if (base && stage == GUEST_LOADING) /* it is half initialised: without its ELF magic find_loaded knows it again */
		remote_write(j->mem, base, "\0\0\0", 4);
	g.rip = in_target(j, (const void *)guest_escape);
	g.rdi = block_at(j);
	g.rsp = block_at(j) - 8; /* the scratch stack: its own may be what overflowed */
	g.orig_rax = (uint64_t)-1;
	ptrace(PTRACE_SETREGS, tid, 0, &g);
}

/* Lets the loading thread run to its end. 0, KLIEG_E_BUSY: still at it, it is let go; KLIEG_E_PARTIAL: it crashed by *ret_signal. */
static int follow(struct job *j, pid_t tid, int *ret_signal)
{
	int64_t since = clock_mono();
	bool settled = false;
	*ret_signal = 0;
	for (;;) {
		int stop = 0;
		bool dead;
		if (remote_stopped(tid, &stop, &dead)) {
			bool at_call = stop == (SIGTRAP | 0x80);
			int sig = stop >> 8 || at_call ? 0 : stop;
			struct user_regs_struct g;
			if (!settled) { /* threads that the library starts are not ours to stop */
				long options = PTRACE_O_TRACESYSGOOD;
				if (ptrace(PTRACE_SETOPTIONS, tid, 0, (void *)(options | PTRACE_O_SUSPEND_SECCOMP)) < 0)
					ptrace(PTRACE_SETOPTIONS, tid, 0, (void *)options);
				settled = true;
			}
			if (at_call && !j->fed && ptrace(PTRACE_GETREGS, tid, 0, &g) == 0 && g.orig_rax == GUEST_READY && g.rip - text_at(j) < text_size())
				j->fed = feed(j);
			if (is_fault(sig) && !*ret_signal) {
				send_to_escape(j, tid);
				*ret_signal = sig;
				sig = 0;
			}
			ptrace(j->fed || j->entry ? PTRACE_CONT : PTRACE_SYSCALL, tid, 0, (void *)(long)sig);
			continue;
		}
		if (dead) {
			int status;
			waitpid(tid, &status, __WALL | WNOHANG);
			return *ret_signal ? KLIEG_E_PARTIAL : 0;
		}
		int64_t now = clock_mono();
		if (now - since > LOAD_MS * 1000000ll) {
			remote_write(j->mem, block_at(j) + offsetof(struct guest_block, cancelled), &(uint32_t){ 1 }, 4);
			remote_interrupt(tid);
			if (!remote_park(j->pid, tid, now + 50000000, NULL))
				remote_detach(tid);
			return KLIEG_E_BUSY;
		}
		remote_pause(since);
	}
}

static int judge(struct job *j, int followed, int signal)
{
	struct guest_block b;
	if (remote_read(j->mem, block_at(j), &b, sizeof b))
		return err_set(j->e, KLIEG_E_NO_TARGET, "process %d ended while the library was being loaded", j->pid);
	if (j->fed < 0)
		return j->fed;
	b.text[sizeof b.text - 1] = 0;
	if (followed == KLIEG_E_PARTIAL) {
		char where[300];
		if (b.stage == GUEST_LOADING)
			snprintf(where, sizeof where, "while it was loaded, in a constructor or by its content");
		else
			snprintf(where, sizeof where, "in %s", j->symbol);
		return err_set(j->e, KLIEG_E_BAD_DATA, "process %d: %s crashed %s: %s; the thread that loaded it was ended, the process goes on", j->pid, j->label, where,
			strsignal(signal));
	}
	if (followed == KLIEG_E_BUSY)
		return err_set(j->e, KLIEG_E_BUSY, "process %d: %s did not end within %d s; it goes on by itself", j->pid,
			b.stage == GUEST_CALLING ? j->symbol : "loading the library (something holds the loader's lock)", LOAD_MS / 1000);
	switch ((enum guest_stage)b.stage) {
	case GUEST_DONE:
		j->report.value = b.value;
		return 0;
	case GUEST_NOT_LOADED:
		return err_set(j->e, KLIEG_E_BAD_DATA, "process %d: dlopen: %s", j->pid, b.text[0] ? b.text : "no reason given");
	case GUEST_NO_SYMBOL:
		return err_set(j->e, KLIEG_E_NOT_FOUND, "%s has no function %s", j->label, j->symbol);
	case GUEST_NOT_RUN: case GUEST_LOADING: case GUEST_CALLING:
		break;
	}
	return err_set(j->e, KLIEG_E_NO_TARGET, "process %d ended while the library was being loaded", j->pid);
}

static void clean_up(struct job *j)
{
	int64_t since;
	uint64_t ignored_value;
	struct err *e = j->e, ignored; /* what went wrong before is what is told */
	if (!j->area)
		return;
	j->e = &ignored;
	if (borrow(j, &since) == 0) {
		if (remote_syscall(&j->remote, SYS_munmap, (uint64_t[6]){ j->area, j->area_n }, &ignored_value, j->e) == 0)
			j->area = 0;
		give_back(j, since);
	}
	j->e = e;
}

static int load(struct job *j)
{
	for (uint64_t stack_n = STACK;; stack_n = STACK_LARGE) {
		pid_t child = 0;
		int error = 0, signal = 0;
		int code = spawn(j, stack_n, &child, &error);
		if (!code && !child && error == EINVAL && stack_n < STACK_LARGE) { /* the program's thread-local variables are larger than that stack */
			clean_up(j);
			continue;
		}
		if (!code && !child)
			code = err_set(j->e, error == EAGAIN ? KLIEG_E_LIMIT : KLIEG_E_INTERNAL, "process %d cannot start a thread: %s", j->pid, strerror(error));
		if (child) {
			int followed = follow(j, child, &signal);
			int judged = judge(j, followed, signal);
			code = code < 0 && judged != KLIEG_E_NO_TARGET ? code : judged;
			if (followed == KLIEG_E_BUSY)
				return code; /* its memory is in use */
		}
		if (code != KLIEG_E_NO_TARGET)
			clean_up(j);
		return code;
	}
}

static void *tracer_main(void *arg)
{
	struct job *j = arg;
	remote_tracer("klieg-inject");
	if (!j->entry && shelf_needed(j->pid))
		j->result = shelf_put(j->pid, j->label, j->file.p, j->file.n, j->shelf, sizeof j->shelf, j->e);
	if (!j->result)
		j->result = load(j);
	if (j->shelf[0])
		shelf_remove(j->pid, j->shelf);
	return NULL;
}

/* ---- before and after ---- */

static int read_file(struct job *j, const char *file)
{
	int code = buf_read_file(file, FILE_MAX, &j->file);
	if (code < 0)
		return err_set(j->e, code, "reading %s: %s", file, code == KLIEG_E_TOO_LARGE ? "too large" : strerror(errno));
	const Elf64_Ehdr *eh = (const void *)j->file.p;
	if (j->file.n < sizeof *eh || memcmp(eh->e_ident, ELFMAG, SELFMAG) || eh->e_ident[EI_CLASS] != ELFCLASS64 || eh->e_machine != EM_X86_64 ||
	    eh->e_type != ET_DYN)
		return err_set(j->e, KLIEG_E_BAD_DATA, "%s is not a shared object for x86_64", file);
	for (unsigned i = 0; i < eh->e_phnum; i++) { /* the loader would map what is not there, and crash */
		Elf64_Phdr ph;
		uint64_t at = eh->e_phoff + i * (uint64_t)sizeof ph;
		if (eh->e_phentsize != sizeof ph || eh->e_phoff > j->file.n || at + sizeof ph > j->file.n)
			return err_set(j->e, KLIEG_E_BAD_DATA, "%s is cut short or damaged", file);
		memcpy(&ph, j->file.p + at, sizeof ph);
		if (ph.p_filesz > j->file.n || ph.p_offset > j->file.n - ph.p_filesz)
			return err_set(j->e, KLIEG_E_BAD_DATA, "%s is cut short or damaged", file);
	}
	const char *slash = strrchr(file, '/');
	j->hash = hash_bytes(j->file.p, j->file.n, 0);
	snprintf(j->label, sizeof j->label, "%.100s#%016lx", slash ? slash + 1 : file, (unsigned long)j->hash);
	return 0;
}

/* The function's address if a library of the same content is there: *ret_entry = 0 if not. */
static int find_loaded(struct job *j, uint64_t *ret_entry)
{
	struct image i;
	uint64_t base = find_mapped(j);
	*ret_entry = 0;
	if (!base)
		return 0;
	if (process_image_open(j->mem, base, &i) < 0)
		return err_set(j->e, KLIEG_E_BAD_DATA, "process %d: %s crashed when it was loaded before; it is not tried again", j->pid, j->label);
	*ret_entry = process_image_symbol(&i, j->symbol);
	return *ret_entry ? 0 : err_set(j->e, KLIEG_E_NOT_FOUND, "%s has no function %s", j->label, j->symbol);
}

static int run(struct job *j)
{
	pthread_t tracer;
	sigset_t all, before;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	int error = pthread_create(&tracer, NULL, tracer_main, j);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (error)
		return err_set(j->e, KLIEG_E_NOMEM, "starting a tracer thread: %s", strerror(error));
	pthread_join(tracer, NULL);
	return j->result;
}

static int open_target(struct job *j)
{
	struct inject_preflight p;
	char path[64];
	int code = inject_preflight(j->pid, &p, j->e);
	if (!code)
		code = inject_refusal(&p, j->e);
	if (code < 0)
		return code;
	snprintf(path, sizeof path, "/proc/%d/mem", j->pid);
	j->mem = open(path, O_RDWR | O_CLOEXEC);
	if (j->mem < 0)
		return err_set(j->e, errno == ENOENT || errno == ESRCH ? KLIEG_E_NO_TARGET : KLIEG_E_DENIED, "process %d: opening its memory: %s", j->pid,
			strerror(errno));
	code = libc_find(j->pid, j->mem, &j->libc);
	if (code < 0 || !j->libc.complete)
		return err_set(j->e, KLIEG_E_NO_TARGET, "process %d is gone", j->pid);
	code = remote_code_find(j->pid, j->mem, &j->code, j->e);
	return code < 0 ? code : find_loaded(j, &j->entry);
}

int inject_load(pid_t pid, const char *file, const char *symbol, const void *arg, size_t arg_n, struct inject_report *ret_r, struct err *e)
{
	int64_t start = clock_mono();
	if (arg_n != SIZE_MAX && arg_n > GUEST_ARGUMENT_MAX)
		return err_set(e, KLIEG_E_USAGE, "an argument of %zu bytes; at most %d", arg_n, GUEST_ARGUMENT_MAX);
	if (strlen(symbol) >= sizeof ((struct guest_block *)0)->symbol)
		return err_set(e, KLIEG_E_USAGE, "the name of the function is too long");
	struct job *j = base_calloc(1, sizeof *j);
	*j = (struct job){ .pid = pid, .symbol = symbol, .arg = arg, .arg_n = arg_n, .mem = -1, .e = e };
	int code = read_file(j, file);
	if (!code)
		code = open_target(j);
	if (!code) {
		j->report.reused = j->entry != 0;
		j->remote.pid = pid;
		j->remote.mem = j->mem;
		j->remote.code = &j->code;
		code = run(j);
	}
	if (!code) {
		j->report.load_ns = clock_mono() - start;
		*ret_r = j->report;
	}
	if (j->mem >= 0)
		close(j->mem);
	buf_finish(&j->file);
	free(j);
	return code;
}
