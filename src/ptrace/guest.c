/* The code that runs in the target. inject.c copies the section `guest` there as it is, so: no global, no string, no call out of this file but through the
 * block, no compiler's helper (see meson.build). Runs in the target's threads: guest_spawn in one that was borrowed for microseconds,
 * guest_load in a thread of its own, which has every signal blocked that could run a handler of the program. */
#include "ptrace/guest.h"
#include "ptrace/remote.h"
#include <stdint.h>
#include <sys/syscall.h>

#define GUEST __attribute__((section("guest"), noinline))

static inline __attribute__((always_inline)) long call(long nr, long a, long b, long c, long d)
{
	long result;
	register long r10 __asm__("r10") = d;
	__asm__ volatile("syscall" : "=a"(result) : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10) : "rcx", "r11", "memory");
	return result;
}

/* The area is mapped executable, so there is no stack to push to yet. */
__asm__(".pushsection guest, \"ax\", @progbits\n"
	".globl guest_enter\n.hidden guest_enter\n.type guest_enter, @function\n"
	"guest_enter:\n"
	"	mov %rdi, %rbx\n"
	"	mov 72(%rbx), %rdi\n"   /* b->stack */
	"	mov 88(%rbx), %rsi\n"   /* b->data_n */
	"	mov $3, %edx\n"         /* PROT_READ | PROT_WRITE */
	"	mov $10, %eax\n"        /* SYS_mprotect */
	"	syscall\n"
	"	mov %rbx, %rdi\n"
	"	jmp guest_spawn\n"
	".size guest_enter, . - guest_enter\n"
	".popsection\n");
_Static_assert(offsetof(struct guest_block, stack) == 72 && offsetof(struct guest_block, data_n) == 88 && SYS_mprotect == 10, "as written above");

GUEST void guest_spawn(struct guest_block *b)
{
	enum { DETACHED = 1 };
	int *number = b->errno_at(), before = *number;
	b->created = b->attr_init(b->attr);
	if (!b->created)
		b->created = b->attr_setdetachstate(b->attr, DETACHED);
	if (!b->created)
		b->created = b->attr_setstack(b->attr, b->stack, b->stack_n);
	if (!b->created)
		b->created = b->create(&b->thread, b->attr, b->main, b);
	*number = before;
	call(SYS_tgkill, call(SYS_getpid, 0, 0, 0, 0), call(SYS_gettid, 0, 0, 0, 0), REMOTE_MARK, 0);
	__asm__ volatile("mov %0, %%rsp; syscall; ud2" : : "r"(b->frame + 8), "a"((long)SYS_rt_sigreturn) : "memory");
	__builtin_unreachable();
}

/* Faults stay open, since the kernel kills a process for a blocked one; 32 and 33 are the C library's own (cancel, setuid in all threads). */
static inline __attribute__((always_inline)) void set_signals(void)
{
	uint64_t blocked = ~(1ull << (4 - 1) | 1ull << (5 - 1) | 1ull << (7 - 1) | 1ull << (8 - 1) | 1ull << (11 - 1) | 1ull << (31 - 1) | 3ull << (32 - 1));
	call(SYS_rt_sigprocmask, 2 /* SIG_SETMASK */, (long)&blocked, 0, 8);
}

/* Executable, not executable, or as older kernels have it: what the system's vm.memfd_noexec lets through. It can be mapped executable either way. */
static inline __attribute__((always_inline)) int make_memfd(const char *label)
{
	enum { CLOSE_ON_EXEC = 1, NOT_EXECUTABLE = 8, EXECUTABLE = 16 };
	long fd = call(SYS_memfd_create, (long)label, CLOSE_ON_EXEC | EXECUTABLE, 0, 0);
	if (fd < 0)
		fd = call(SYS_memfd_create, (long)label, CLOSE_ON_EXEC | NOT_EXECUTABLE, 0, 0);
	if (fd < 0)
		fd = call(SYS_memfd_create, (long)label, CLOSE_ON_EXEC, 0, 0);
	/* Its number stays in the loader's name of the library: a debugger that opens that name must not find a file of its own, or a pipe, by it. */
	enum { DUP_CLOSE_ON_EXEC = 1030, HIGH = 701 };
	long high = fd < 0 ? fd : call(SYS_fcntl, fd, DUP_CLOSE_ON_EXEC, HIGH, 0);
	if (high >= 0) {
		call(SYS_close, fd, 0, 0, 0);
		fd = high;
	}
	return (int)fd;
}

GUEST void *guest_load(void *block)
{
	enum { NOW = 2 };
	struct guest_block *b = block;
	set_signals();
	b->tid = (int)call(SYS_gettid, 0, 0, 0, 0);
	if (__builtin_setjmp(b->home)) {
		for (unsigned i = 0; i < sizeof b->locks / sizeof *b->locks && b->locks[i]; i++)
			b->unlock(b->locks[i]);
		if (b->fd >= 0)
			call(SYS_close, b->fd, 0, 0, 0);
		return 0;
	}
	uint64_t entry = b->entry;
	if (!entry) {
		if (!b->path[0])
			b->fd = make_memfd(b->label);
		call(GUEST_READY, b->fd, 0, 0, 0); /* the tracer sees this, and fills it */
		if (!((volatile char *)b->path)[0]) { /* nobody is there */
			if (b->fd >= 0)
				call(SYS_close, b->fd, 0, 0, 0);
			b->fd = -1;
			return 0;
		}
		__atomic_store_n(&b->stage, GUEST_LOADING, __ATOMIC_RELEASE);
		void *library = b->open(b->path, NOW);
		const char *why = library ? 0 : b->error();
		for (unsigned i = 0; why && why[i] && i < sizeof b->text - 1; i++)
			((volatile char *)b->text)[i] = why[i];
		if (b->fd >= 0)
			call(SYS_close, b->fd, 0, 0, 0);
		b->fd = -1;
		entry = library ? (uint64_t)b->symbol_in(library, b->symbol) : 0;
		if (!entry) {
			__atomic_store_n(&b->stage, library ? GUEST_NO_SYMBOL : GUEST_NOT_LOADED, __ATOMIC_RELEASE);
			return 0;
		}
	}
	if (__atomic_load_n(&b->cancelled, __ATOMIC_ACQUIRE))
		return 0;
	__atomic_store_n(&b->stage, GUEST_CALLING, __ATOMIC_RELEASE);
	b->value = ((uint64_t (*)(uint64_t))entry)(b->arg);
	__atomic_store_n(&b->stage, GUEST_DONE, __ATOMIC_RELEASE);
	return 0;
}

GUEST void guest_escape(struct guest_block *b)
{
	__builtin_longjmp(b->home, 1);
}
