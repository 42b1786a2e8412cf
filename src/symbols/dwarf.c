/* Arguments and lines from DWARF. The file may be damaged on purpose and libdw believes it in places, so the reading (dwarf_reader.c) is done by a
 * process of its own: forked when somebody first asks (most attached programs never need it), without privileges and without our descriptors,
 * gone after a minute without questions. When it dies or hangs, signatures are unknown and nothing else happens. Its answers are not
 * believed either. One question at a time, under the lock of the symbols. */
#include "symbols/dwarf_reader.h"
#include "symbols/internal.h"
#include "base/buf.h"
#include "base/clock.h"
#include "base/log.h"
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define ANSWER_MAX (256u << 20)
#define ANSWER_SECONDS 60       /* the first answer takes as long as reading all units does */
#define IDLE_MS 60000
#define ARGS_MAX (sizeof ((struct symbols_signature *)0)->args / sizeof *((struct symbols_signature *)0)->args)

enum ask { ASK_SIGNATURE = 1, ASK_LINE, ASK_NAMES };
struct question { uint32_t ask, clone; uint64_t addr; };
struct head { uint32_t n, idle; };       /* n bytes follow; idle: it goes, ask another */

/* Texts in an answer are offsets into the bytes behind its fixed part, 0 = none. */
enum { SIGNED = 1, POINTER = 2, STRING = 4, FLOAT = 8, MEMORY = 16 };
struct told_argument { uint32_t name, type; uint8_t size, flags, stack; int8_t reg; };
struct told { uint32_t known, n, file, line; struct told_argument args[ARGS_MAX], ret; };
struct told_name { uint64_t addr, size; uint32_t name, external; };

struct symbols_dwarf {
	pid_t pid;               /* 0: not running */
	int fd;
	bool broken;             /* it died or hung: not asked again */
	struct strtab kept;      /* texts of answers, NUL included */
};

/* ---- the process that reads ---------------------------------------------------------------------------------------------------- */

static uint32_t text(struct buf *texts, const char *s)
{
	if (!s)
		return 0;
	uint32_t at = (uint32_t)texts->n;
	buf_add(texts, s, strlen(s) + 1);
	return at;
}

static struct told_argument tell(struct buf *texts, const struct symbols_argument *a)
{
	return (struct told_argument){ .name = text(texts, a->name), .type = text(texts, a->type), .size = a->size, .stack = a->stack, .reg = a->reg,
		.flags = (uint8_t)(a->is_signed * SIGNED | a->is_pointer * POINTER | a->is_string * STRING | a->is_float * FLOAT | a->in_memory * MEMORY) };
}

struct names { struct buf fixed, texts; };

static void tell_name(void *arg, const struct dwarf_name *n)
{
	struct names *all = arg;
	struct told_name t = { n->addr, n->size, text(&all->texts, n->name), n->external };
	if (all->fixed.n + all->texts.n < ANSWER_MAX / 2)
		buf_add(&all->fixed, &t, sizeof t);
}

static bool send_all(int fd, const void *bytes, size_t n)
{
	const uint8_t *p = bytes;
	while (n) {
		ssize_t sent = send(fd, p, n, MSG_NOSIGNAL);
		if (sent < 0 && errno == EINTR)
			continue;
		if (sent <= 0)
			return false;
		p += sent;
		n -= (size_t)sent;
	}
	return true;
}

static bool answer(int fd, struct dwarf_reader *d, const struct question *q)
{
	struct names all = { 0 };
	struct told t = { 0 };
	buf_byte(&all.texts, 0);
	if (q->ask == ASK_NAMES) {
		uint32_t n = 0;
		buf_add(&all.fixed, &n, sizeof n);
		buf_add(&all.fixed, &n, sizeof n);
		dwarf_reader_names(d, tell_name, &all);
		n = (uint32_t)((all.fixed.n - 8) / sizeof(struct told_name));
		memcpy(all.fixed.p, &n, sizeof n);
	} else {
		struct symbols_signature sig = { 0 };
		if (q->ask == ASK_SIGNATURE)
			dwarf_reader_signature(d, q->addr, q->clone, &sig);
		else
			sig.known = dwarf_reader_line(d, q->addr, &sig.file, &sig.line);
		t = (struct told){ .known = sig.known, .n = sig.n, .file = text(&all.texts, sig.file), .line = sig.line, .ret = tell(&all.texts, &sig.ret) };
		for (uint32_t i = 0; i < sig.n; i++)
			t.args[i] = tell(&all.texts, &sig.args[i]);
		buf_add(&all.fixed, &t, sizeof t);
	}
	struct head h = { .n = (uint32_t)(all.fixed.n + all.texts.n) };
	bool sent = send_all(fd, &h, sizeof h) && send_all(fd, all.fixed.p, all.fixed.n) && send_all(fd, all.texts.p, all.texts.n);
	buf_finish(&all.fixed);
	buf_finish(&all.texts);
	return sent;
}

/* Nothing of the agent but its memory is left to what a damaged file can do. */
static void retire(int fd, int dwarf_fd)
{
	unsigned lo = (unsigned)(fd < dwarf_fd ? fd : dwarf_fd), hi = (unsigned)(fd < dwarf_fd ? dwarf_fd : fd);
	int null = open("/dev/null", O_RDWR);
	for (int i = 0; i < 3 && null >= 0; i++)
		dup2(null, i);
	if (lo > 3)
		close_range(3, lo - 1, 0);
	if (hi - lo > 1)
		close_range(lo + 1, hi - 1, 0);
	close_range(hi + 1, ~0u, 0);
	sigset_t none;
	for (int i = 1; i < NSIG; i++)
		signal(i, SIG_DFL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	setsid(); /* a terminal's ^C is for the agent */
	prctl(PR_SET_NAME, "klieg-dwarf");
	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	setrlimit(RLIMIT_CORE, &(struct rlimit){ 0, 0 });
	const uid_t nobody = 65534;
	if (!geteuid() && (setgroups(0, NULL) < 0 || setresgid(nobody, nobody, nobody) < 0 || setresuid(nobody, nobody, nobody) < 0))
		_exit(1);
}

static _Noreturn void serve(int fd, int dwarf_fd)
{
	struct dwarf_reader *d = NULL;
	struct question q;
	retire(fd, dwarf_fd);
	for (;;) {
		struct pollfd p = { fd, POLLIN, 0 };
		if (poll(&p, 1, IDLE_MS) == 0) {
			struct head idle = { .idle = 1 };
			send_all(fd, &idle, sizeof idle);
			_exit(0);
		}
		if (recv(fd, &q, sizeof q, MSG_WAITALL) != sizeof q)
			_exit(0); /* nobody is left to ask */
		if (!d)
			d = dwarf_reader_open(dwarf_fd);
		if (!answer(fd, d, &q))
			_exit(0);
	}
}

/* ---- asking it ------------------------------------------------------------------------------------------------------------------- */

static bool start(struct symbols *s, struct symbols_dwarf *d)
{
	int pair[2];
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		return false;
	int theirs = fcntl(pair[1], F_DUPFD_CLOEXEC, 3); /* never one of the standard three, which they lose */
	close(pair[1]);
	pid_t pid = theirs < 0 ? -1 : fork();
	if (!pid)
		serve(theirs, s->dwarf_fd);
	if (theirs >= 0)
		close(theirs);
	if (pid < 0) {
		close(pair[0]);
		return false;
	}
	d->pid = pid;
	d->fd = pair[0];
	return true;
}

static void stop(struct symbols_dwarf *d)
{
	if (!d->pid)
		return;
	kill(d->pid, SIGKILL);
	while (waitpid(d->pid, NULL, 0) < 0 && errno == EINTR)
		;
	close(d->fd);
	d->pid = 0;
}

static bool receive(int fd, void *to, size_t n, int64_t deadline)
{
	uint8_t *p = to;
	while (n) {
		struct pollfd w = { fd, POLLIN, 0 };
		int64_t left = (deadline - clock_mono()) / 1000000;
		int ready = left > 0 ? poll(&w, 1, (int)left + 1) : 0;
		if (ready < 0 && errno == EINTR)
			continue;
		ssize_t got = ready > 0 ? recv(fd, p, n, 0) : 0;
		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return false;
		p += got;
		n -= (size_t)got;
	}
	return true;
}

/* False: no answer. Else *ret_answer is the caller's to finish. */
static bool ask(struct symbols *s, struct question q, struct buf *ret_answer)
{
	if (!s->dwarf && s->dwarf_fd >= 0) {
		s->dwarf = base_calloc(1, sizeof *s->dwarf);
		strtab_init(&s->dwarf->kept);
	}
	struct symbols_dwarf *d = s->dwarf;
	for (int attempt = 0; d && !d->broken && attempt < 2; attempt++) {
		struct head h = { 0 };
		struct buf b = { 0 };
		int64_t deadline = clock_mono() + ANSWER_SECONDS * 1000000000ll;
		if (!d->pid && !start(s, d))
			return false;
		bool sent = send_all(d->fd, &q, sizeof q), got = receive(d->fd, &h, sizeof h, deadline);
		if (got && !h.idle && sent && h.n && h.n <= ANSWER_MAX) {
			buf_reserve(&b, h.n);
			b.n = h.n;
			if (receive(d->fd, b.p, h.n, deadline)) {
				*ret_answer = b;
				return true;
			}
			buf_finish(&b);
			h.idle = 0;
		}
		stop(d);
		if (!h.idle) {
			d->broken = true;
			log_warn("symbols", "the debug information of %s cannot be read: its reader died or hung; arguments and lines stay unknown",
				*s->build_id ? s->build_id : "a file");
		}
	}
	return false;
}

/* A text of an answer, kept. */
static const char *heard(struct symbols_dwarf *d, const struct buf *b, size_t fixed, uint32_t off)
{
	const char *s = off ? image_string(b->p + fixed, b->n - fixed, off) : NULL;
	return s ? strtab_get(&d->kept, strtab_add(&d->kept, (struct str){ s, strlen(s) + 1 })).p : NULL;
}

static struct symbols_argument hear(struct symbols_dwarf *d, const struct buf *b, const struct told_argument *t)
{
	const char *type = heard(d, b, sizeof(struct told), t->type);
	return (struct symbols_argument){ .name = heard(d, b, sizeof(struct told), t->name), .type = type ? type : "?", .size = t->size <= 8 ? t->size : 8,
		.is_signed = t->flags & SIGNED, .is_pointer = t->flags & POINTER, .is_string = t->flags & STRING, .is_float = t->flags & FLOAT,
		.in_memory = t->flags & MEMORY, .reg = t->reg >= 0 && t->reg <= 5 ? t->reg : -1, .stack = t->stack };
}

/* The optimiser made it from a function of another signature. */
static bool is_clone(const char *name)
{
	return name && (strstr(name, ".isra.") || strstr(name, ".constprop.") || strstr(name, ".part."));
}

int symbols_signature(const struct symbols *s, const struct symbols_function *f, struct symbols_signature *ret_sig)
{
	struct symbols *mine = (struct symbols *)s; /* what changes is under the lock */
	struct symbols_signature sig = { .known = false };
	struct buf b = { 0 };
	struct told t;
	pthread_mutex_lock(&mine->dwarf_lock);
	if (s->x86 && ask(mine, (struct question){ ASK_SIGNATURE, is_clone(f->name), f->addr }, &b) && b.n >= sizeof t) {
		memcpy(&t, b.p, sizeof t);
		sig.known = t.known != 0;
		sig.n = t.n <= ARGS_MAX ? t.n : 0;
		sig.file = heard(s->dwarf, &b, sizeof t, t.file);
		sig.line = t.line;
		sig.ret = hear(s->dwarf, &b, &t.ret);
		for (uint32_t i = 0; i < sig.n; i++)
			sig.args[i] = hear(s->dwarf, &b, &t.args[i]);
	}
	pthread_mutex_unlock(&mine->dwarf_lock);
	buf_finish(&b);
	*ret_sig = sig;
	return 0;
}

bool symbols_line(const struct symbols *s, uint64_t addr, const char **ret_file, uint32_t *ret_line)
{
	struct symbols *mine = (struct symbols *)s;
	struct buf b = { 0 };
	struct told t = { 0 };
	const char *file = NULL;
	pthread_mutex_lock(&mine->dwarf_lock);
	if (ask(mine, (struct question){ ASK_LINE, 0, addr }, &b) && b.n >= sizeof t) {
		memcpy(&t, b.p, sizeof t);
		file = t.known ? heard(s->dwarf, &b, sizeof t, t.file) : NULL;
	}
	pthread_mutex_unlock(&mine->dwarf_lock);
	buf_finish(&b);
	if (!file)
		return false;
	*ret_file = file;
	*ret_line = t.line;
	return true;
}

void dwarf_names(struct symbols *s)
{
	struct buf b = { 0 };
	uint32_t n = 0;
	if (!ask(s, (struct question){ .ask = ASK_NAMES }, &b))
		return;
	if (b.n >= 8)
		memcpy(&n, b.p, sizeof n);
	size_t fixed = 8 + (size_t)n * sizeof(struct told_name);
	if (fixed <= b.n)
		s->names = base_realloc(s->names, ((size_t)s->nnames + n + 1) * sizeof *s->names);
	for (uint32_t i = 0; i < n && fixed <= b.n; i++) {
		struct told_name t;
		memcpy(&t, b.p + 8 + i * sizeof t, sizeof t);
		const char *name = symbols_in_text(s, t.addr) ? heard(s->dwarf, &b, fixed, t.name) : NULL;
		if (name)
			s->names[s->nnames++] = (struct name){ .addr = t.addr, .size = t.size, .name = name, .source = SYMBOLS_DWARF, .rank = t.external ? 0 : 2,
				.is_function = true };
	}
	buf_finish(&b);
}

void dwarf_finish(struct symbols *s)
{
	if (!s->dwarf)
		return;
	stop(s->dwarf);
	strtab_finish(&s->dwarf->kept);
	free(s->dwarf);
	s->dwarf = NULL;
}
