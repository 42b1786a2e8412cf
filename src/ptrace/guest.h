/* What inject.c and the code that it puts into a target share. */
#pragma once
#include <stddef.h>
#include <stdint.h>

enum guest_stage { GUEST_NOT_RUN, GUEST_LOADING, GUEST_NOT_LOADED, GUEST_NO_SYMBOL, GUEST_CALLING, GUEST_DONE };
enum { GUEST_ARGUMENT_MAX = 4096, GUEST_READY = 39 /* getpid: what guest_load calls when its memfd is there */ };
struct guest_block {
	/* The target's C library. */
	int (*attr_init)(void *attr);
	int (*attr_setdetachstate)(void *attr, int state);
	int (*attr_setstack)(void *attr, void *stack, size_t n);
	int (*create)(unsigned long *ret_thread, const void *attr, void *(*main)(void *), void *arg);
	void *(*open)(const char *path, int flags);
	void *(*symbol_in)(void *library, const char *name);
	char *(*error)(void);
	int *(*errno_at)(void);
	int (*unlock)(void *mutex);

	/* guest_spawn */
	void *stack;                     /* from here to the end of the area only data: made writable first, and no longer executable */
	uint64_t stack_n, data_n;
	void *(*main)(void *);           /* guest_load, where it lies in the target */
	uint64_t frame;                  /* the borrowed thread's way back */
	uint64_t attr[16];               /* pthread_attr_t: 56 bytes */
	unsigned long thread;
	int32_t created;                 /* what pthread_create said, an errno */

	/* guest_load */
	int32_t fd;                      /* the memfd that it made, -errno if it could not; closed once it is loaded */
	uint32_t stage, cancelled;       /* cancelled: nobody waits any more, do not call */
	uint64_t entry;                  /* the function's address if the library is there already, else 0 */
	uint64_t arg, value;
	void *home[5];                   /* __builtin_setjmp: where guest_escape goes to */
	int32_t tid, pad;                /* of the loading thread, as the target counts */
	void *locks[8];                  /* of the loader, which it held when it crashed */
	char path[256];                  /* filled in when the memfd has its content, or from the start if there is a file */
	char label[160], symbol[256], text[256];
	uint8_t argument[GUEST_ARGUMENT_MAX] __attribute__((aligned(16)));
};

/* In a borrowed thread, with no stack yet: makes the area's data writable, then guest_spawn. */
void guest_enter(struct guest_block *b) __attribute__((noreturn));
/* Starts a thread in guest_load, says so with REMOTE_MARK, then would go back into b->frame. */
void guest_spawn(struct guest_block *b) __attribute__((noreturn, used));
/* The thread that loads. */
void *guest_load(void *block);
/* Where a loading thread that crashed is sent: guest_load returns. */
void guest_escape(struct guest_block *b) __attribute__((noreturn));
extern const char __start_guest[], __stop_guest[]; /* all of the above */
