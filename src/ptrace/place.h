/* Borrows a thread of a running process at a place where a C library function may be called with it. */
#pragma once
#include "ptrace/libc.h"
#include "ptrace/remote.h"

/* r->pid, mem, code are set. Tries until deadline; KLIEG_E_BUSY: no thread came to such a place. ret_since: when the thread was stopped. */
int place_borrow(struct remote *r, const struct libc *l, int64_t deadline, int64_t *ret_since, struct err *e);
/* Puts it back and lets it go. Returns how long it was away, in ns. */
int64_t place_return(struct remote *r, int64_t since);
