/* Which functions of a process are probed, and the way of an event: kernel ring -> its probe -> record. Links go into the
 * kernel in microseconds but need tens of milliseconds each to come out (it waits for every processor), so threads of our
 * own close them; they share nothing with us but the list of what is left. Agent thread. */
#include "uprobe/internal.h"
#include "base/buf.h"
#include "base/clock.h"
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define SECOND 1000000000ll
#define SWEEP_NS SECOND
#define LINGER_NS SECOND         /* exits of calls that were open when their function was removed are waited for */
#define CLOSERS_MAX 64           /* the waits of many overlap: 300 functions are gone after 0.6 s, with 16 after 2.5 */

/* A probe's number is in the low bits of its cookie, the rest tells it from an earlier one of the same number. */
enum { PLACE_BITS = 12, PLACE_MASK = (1 << PLACE_BITS) - 1 };
_Static_assert(PROBES_MAX <= 1 << PLACE_BITS && KERNEL_LOST == 1 << PLACE_BITS, "a place each");

struct probe {
	enum { FREE, ON, LEAVING, CLOSING } state; /* LEAVING: no entries any more; CLOSING: its links are being closed */
	uint32_t cookie, site;
	bool root, by_exits;         /* by_exits: its ends are seen at its return instructions and jumps */
	int enter_fd, exit_fd, jump_fd; /* links; -1 = none; of those that are left by a jump, two exits */
	const char *note;            /* why it has no exits */
	uint8_t links;               /* still in the kernel */
	int64_t left_at;
	uint32_t lost[2];            /* the kernel's counters as last read */
	struct capture what;
};

struct link { int fd; uint32_t place; };
struct closing;
struct file { dev_t dev; ino_t ino; struct timespec changed; struct inspect_why why; };

struct uprobe {
	pid_t pid;
	struct kernel k;
	struct records *r;
	struct probe *probes;
	uint32_t n, leaving;         /* places ever used; of which LEAVING */
	struct link *doomed; uint32_t ndoomed, doomed_cap; /* to be closed, together */
	struct closing *closing;
	uint32_t *place_of;          /* by site: place + 1 of its probe that is ON or LEAVING */
	uint32_t generation;
	struct file *files; uint32_t nfiles;
	const char *process_why;     /* no return probes in this process */
	int64_t swept_at;
	struct uprobe_stats stats;
};

int uprobe_open(pid_t pid, const char *socket, struct uprobe **ret_u, struct err *e)
{
	return uprobe_open_as(pid, socket, false, ret_u, e);
}

int uprobe_open_as(pid_t pid, const char *socket, bool perf_events, struct uprobe **ret_u, struct err *e)
{
	if (pid <= 0 || (kill(pid, 0) < 0 && errno == ESRCH))
		return err_set(e, KLIEG_E_NO_TARGET, "there is no process %d", pid);
	struct uprobe *u = base_calloc(1, sizeof *u);
	u->pid = pid;
	int rc = kernel_open(&u->k, pid, perf_events, e);
	if (rc >= 0)
		rc = records_open(pid, socket, &u->r, e);
	if (rc < 0) {
		uprobe_close(u);
		return rc;
	}
	u->probes = base_calloc(PROBES_MAX, sizeof *u->probes);
	u->place_of = base_calloc(KW_MAX_SITES, sizeof *u->place_of);
	u->process_why = inspect_process(pid);
	u->stats.mechanism = u->k.multi ? "uprobe_multi links" : "a perf event per function";
	*ret_u = u;
	return 0;
}

int uprobe_memfd(const struct uprobe *u) { return records_memfd(u->r); }
int uprobe_fd(const struct uprobe *u) { return u->k.ring_fd; }

/* ---- taking probes away -------------------------------------------------------------------------------------------- */

/* Links on their way out; the threads that close them and, until they are all closed, the struct uprobe hold it. */
struct closing {
	struct closing *next;
	atomic_uint refs, taken, left;
	uint32_t n;
	struct link link[];
};

static void closing_release(struct closing *c)
{
	if (atomic_fetch_sub(&c->refs, 1) == 1)
		free(c);
}

static void *close_links(void *arg)
{
	struct closing *c = arg;
	for (uint32_t i; (i = atomic_fetch_add(&c->taken, 1)) < c->n;) {
		close(c->link[i].fd);
		atomic_fetch_sub(&c->left, 1); /* pairs with closing_reap(): the link is gone before its place is another's */
	}
	closing_release(c);
	return NULL;
}

static void doom(struct uprobe *u, int *fd, uint32_t place)
{
	if (*fd < 0)
		return;
	if (u->ndoomed == u->doomed_cap)
		u->doomed = base_realloc(u->doomed, (u->doomed_cap = u->doomed_cap ? 2 * u->doomed_cap : 64) * sizeof *u->doomed);
	u->doomed[u->ndoomed++] = (struct link){ *fd, place };
	*fd = -1;
}

static void closing_start(struct uprobe *u)
{
	if (!u->ndoomed)
		return;
	struct closing *c = base_alloc(sizeof *c + u->ndoomed * sizeof *c->link);
	uint32_t threads = u->ndoomed < CLOSERS_MAX ? u->ndoomed : CLOSERS_MAX;
	*c = (struct closing){ .next = u->closing, .n = u->ndoomed };
	atomic_init(&c->refs, threads + 1);
	atomic_init(&c->left, c->n);
	memcpy(c->link, u->doomed, c->n * sizeof *c->link);
	u->ndoomed = 0;
	u->closing = c;
	sigset_t all, before;
	sigfillset(&all);
	pthread_attr_t detached;
	pthread_attr_init(&detached);
	pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
	pthread_attr_setstacksize(&detached, 128 << 10);
	pthread_sigmask(SIG_SETMASK, &all, &before); /* the agent's signals are for its own threads */
	for (uint32_t i = 0; i < threads; i++) {
		pthread_t t;
		if (pthread_create(&t, &detached, close_links, c))
			close_links(c); /* no thread to be had: slowly, then, but away they go */
	}
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	pthread_attr_destroy(&detached);
}

static void closing_reap(struct uprobe *u)
{
	for (struct closing **at = &u->closing, *c; (c = *at);) {
		if (atomic_load(&c->left)) {
			at = &c->next;
			continue;
		}
		for (uint32_t i = 0; i < c->n; i++) {
			struct probe *p = &u->probes[c->link[i].place];
			if (--p->links == 0)
				p->state = FREE;
		}
		*at = c->next;
		closing_release(c);
	}
}

/* Exits are waited for as long as calls are open that they could end. */
static void end_removals(struct uprobe *u, bool all_read)
{
	for (uint32_t i = 0; i < u->n && u->leaving && all_read; i++) {
		struct probe *p = &u->probes[i];
		if (p->state != LEAVING || (clock_mono() - p->left_at < LINGER_NS && records_open_calls(u->r, p->site)))
			continue;
		p->state = CLOSING;
		u->leaving--;
		doom(u, &p->exit_fd, i);
		doom(u, &p->jump_fd, i);
	}
	closing_start(u);
	closing_reap(u);
}

bool uprobe_remove(struct uprobe *u, uint32_t site)
{
	uint32_t place = site < KW_MAX_SITES ? u->place_of[site] : 0;
	if (!place)
		return false;
	struct probe *p = &u->probes[--place];
	u->place_of[site] = 0;
	p->state = LEAVING;
	p->left_at = clock_mono();
	u->leaving++;
	doom(u, &p->enter_fd, place); /* closed with the others of this tick, by the next uprobe_poll() */
	return true;
}

uint32_t uprobe_pending(const struct uprobe *u)
{
	uint32_t n = u->ndoomed;
	for (uint32_t i = 0; i < u->n; i++)
		n += u->probes[i].state == LEAVING ? (u->probes[i].exit_fd >= 0) + (u->probes[i].jump_fd >= 0) : 0;
	for (const struct closing *c = u->closing; c; c = c->next)
		n += atomic_load(&c->left);
	return n;
}

void uprobe_close(struct uprobe *u)
{
	if (!u)
		return;
	for (uint32_t i = 0; i < u->n; i++) {
		doom(u, &u->probes[i].enter_fd, i);
		doom(u, &u->probes[i].exit_fd, i);
		doom(u, &u->probes[i].jump_fd, i);
	}
	closing_start(u);
	for (struct closing *c = u->closing, *next; c; c = next) {
		next = c->next;
		closing_release(c);
	}
	if (u->r)
		records_sweep(u->r, true);
	records_close(u->r);
	kernel_close(&u->k);
	free(u->doomed);
	free(u->probes);
	free(u->place_of);
	free(u->files);
	free(u);
}

/* ---- adding one ---------------------------------------------------------------------------------------------------- */

static uint32_t lost_of(const struct uprobe *u, uint32_t place, bool exits)
{
	return __atomic_load_n(&u->k.lost[place + (exits ? KERNEL_LOST : 0)], __ATOMIC_RELAXED);
}

static int inspect_once(struct uprobe *u, int fd, const struct stat *st, struct inspect_why *ret_why, struct err *e)
{
	for (struct file *f = u->files; f < u->files + u->nfiles; f++)
		if (f->dev == st->st_dev && f->ino == st->st_ino && !memcmp(&f->changed, &st->st_mtim, sizeof st->st_mtim)) {
			*ret_why = f->why;
			return 0;
		}
	struct file f = { st->st_dev, st->st_ino, st->st_mtim, { NULL, false } };
	int rc = inspect_file(fd, &f.why, e);
	if (rc < 0)
		return rc;
	u->files = base_realloc(u->files, (u->nfiles + 1) * sizeof *u->files);
	u->files[u->nfiles++] = f;
	*ret_why = f.why;
	return 0;
}

/* ret_at: where in the file the probe goes; ret_why: why not where it returns to, or NULL. */
static int examine(struct uprobe *u, int fd, const char *file, uint64_t offset, uint64_t *ret_at, struct inspect_why *ret_why,
	struct err *e)
{
	struct stat st;
	uint8_t bytes[16];
	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
		return err_set(e, KLIEG_E_BAD_DATA, "%s is not an ordinary file", file);
	ssize_t n = offset > INT64_MAX - sizeof bytes ? 0 : pread(fd, bytes, sizeof bytes, (off_t)offset);
	if (n <= 0)
		return err_set(e, KLIEG_E_BAD_DATA, "%s has nothing at offset 0x%llx", file, (unsigned long long)offset);
	int rc = inspect_once(u, fd, &st, ret_why, e);
	if (rc < 0)
		return rc;
	struct uprobe_cost cost = uprobe_cost(bytes, (size_t)n);
	if (cost.refusal)
		return err_set(e, KLIEG_E_UNSUPPORTED, "the function cannot be probed: %s", cost.refusal);
	if (u->process_why)
		*ret_why = (struct inspect_why){ u->process_why, true };
	*ret_at = offset + cost.skip;
	return inspect_mapped(u->pid, &st, offset, bytes, (size_t)n, cost.skip, e);
}

static bool can_attach(const struct uprobe *u, const struct uprobe_exits *x)
{
	return u->k.multi && x && x->nreturns + x->njumps && x->nreturns <= KERNEL_PLACES && x->njumps <= KERNEL_PLACES;
}

/* The exits of a function, before its entry: an entry that is seen has its exit seen. */
static int attach_exits(struct uprobe *u, struct probe *p, const char *path, uint64_t at, const struct inspect_why *why, const struct uprobe_exits *x,
	struct err *e)
{
	int rc = 0;
	if (!why->text)
		return p->exit_fd = kernel_attach(&u->k, path, &at, 1, KERNEL_RETURNED, p->cookie, e);
	if (x->nreturns && (rc = kernel_attach(&u->k, path, x->returns, x->nreturns, KERNEL_AT_RETURN, p->cookie, e)) >= 0)
		p->exit_fd = rc;
	if (rc >= 0 && x->njumps && (rc = kernel_attach(&u->k, path, x->jumps, x->njumps, KERNEL_AT_JUMP, p->cookie, e)) >= 0)
		p->jump_fd = rc;
	if (rc < 0 && p->exit_fd >= 0) {
		close(p->exit_fd);
		p->exit_fd = -1;
	}
	return rc;
}

bool uprobe_wants_exits(struct uprobe *u, const char *file)
{
	struct inspect_why why = { NULL, false };
	struct stat st;
	int fd = u->k.multi ? open(file, O_RDONLY | O_CLOEXEC | O_NONBLOCK) : -1;
	bool wanted = fd >= 0 && fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && inspect_once(u, fd, &st, &why, NULL) >= 0 && why.text && why.by_exits;
	if (fd >= 0)
		close(fd);
	return wanted;
}

int uprobe_add(struct uprobe *u, const char *file, uint64_t offset, const struct uprobe_exits *x, uint32_t site, bool root, struct err *e)
{
	uint32_t place = 0;
	while (place < u->n && u->probes[place].state != FREE)
		place++;
	if (site >= KW_MAX_SITES)
		return err_set(e, KLIEG_E_LIMIT, "site %u does not exist: there are %u", site, KW_MAX_SITES);
	if (u->place_of[site])
		return err_set(e, KLIEG_E_CONFLICT, "site %u is probed already", site);
	if (place >= PROBES_MAX) {
		err_set(e, KLIEG_E_LIMIT, "%u functions of process %d are probed: no more at a time", PROBES_MAX, u->pid);
		return err_hint(e, "name fewer functions");
	}
	struct inspect_why why = { NULL, false };
	int fd = open(file, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0) {
		if (kill(u->pid, 0) < 0 && errno == ESRCH)
			return err_set(e, KLIEG_E_NO_TARGET, "process %d is gone", u->pid);
		return err_set(e, err_from_errno(errno), "%s: %s", file, strerror(errno));
	}
	uint64_t at = 0;
	int rc = examine(u, fd, file, offset, &at, &why, e);
	if (rc == 0) {
		struct probe *p = &u->probes[place];
		bool exits = !why.text || (why.by_exits && can_attach(u, x));
		u->k.want[place] = u->k.want[place + KERNEL_LOST] = 0;
		*p = (struct probe){ .state = CLOSING, .cookie = (++u->generation << PLACE_BITS | place) & ~KERNEL_EXIT, .site = site,
			.root = root, .enter_fd = -1, .exit_fd = -1, .jump_fd = -1, .lost = { lost_of(u, place, false), lost_of(u, place, true) } };
		char path[64];
		snprintf(path, sizeof path, "/proc/self/fd/%d", fd); /* the very file that was looked at */
		if (exits && (rc = attach_exits(u, p, path, at, &why, x, e)) == KLIEG_E_UNSUPPORTED && why.text)
			exits = false, rc = 0; /* it cannot execute one of them on its own: entries, then */
		p->by_exits = exits && why.text;
		p->note = exits ? NULL : why.text;
		if (rc >= 0 && (rc = kernel_attach(&u->k, path, &at, 1, KERNEL_AT_ENTRY, p->cookie, e)) >= 0)
			p->enter_fd = rc;
		p->links = (uint8_t)((p->exit_fd >= 0) + (p->jump_fd >= 0) + (p->enter_fd >= 0));
		u->n += place == u->n;
		if (rc >= 0) {
			p->state = ON;
			u->place_of[site] = place + 1;
			rc = !exits;
		} else if (p->links) {
			doom(u, &p->exit_fd, place);
			doom(u, &p->jump_fd, place);
		} else {
			p->state = FREE;
		}
	}
	close(fd);
	return rc;
}

const char *uprobe_note(const struct uprobe *u, uint32_t site)
{
	uint32_t place = site < KW_MAX_SITES ? u->place_of[site] : 0;
	return place ? u->probes[place - 1].note : NULL;
}

int uprobe_capture(struct uprobe *u, uint32_t site, const struct kw_arg *args, uint32_t nargs, const struct kw_where *where, uint32_t nwhere, struct err *e)
{
	uint32_t place = site < KW_MAX_SITES ? u->place_of[site] : 0, want[2] = { 0, 0 }, texts[2] = { 0, 0 };
	if (!place || nargs > KW_HOOK_ARGS || nwhere > KW_HOOK_WHERE)
		return err_set(e, KLIEG_E_USAGE, "site %u is not probed", site);
	struct capture c = { .nargs = (uint8_t)nargs, .nwhere = (uint8_t)nwhere };
	if (nargs)
		memcpy(c.args, args, nargs * sizeof *args);
	if (nwhere)
		memcpy(c.where, where, nwhere * sizeof *where);
	for (uint32_t i = 0; i < nwhere; i++)
		if (where[i].op >= KW_WHERE_EQ && where[i].op <= KW_WHERE_GE && capture_word(&where[i].arg) >= KERNEL_WORDS)
			return err_set(e, KLIEG_E_UNSUPPORTED, "a condition is on an argument that lies further up the stack than the kernel's probes read");
	for (uint32_t i = 0; i < nargs; i++) {
		bool ret = args[i].at == KW_ARG_RET;
		uint32_t word = capture_word(&args[i]);
		want[ret] |= KERNEL_WANT_WORDS;
		c.text[i] = KERNEL_TEXTS;
		if (args[i].kind == KW_ARG_STRING && word < KERNEL_WORDS - 1 && texts[ret] < KERNEL_TEXTS) {
			c.text[i] = (uint8_t)texts[ret]++;
			want[ret] |= KERNEL_WANT_TEXTS | word << (KERNEL_TEXT_SHIFT + 4 * c.text[i]);
		}
	}
	if (nwhere)
		want[0] |= KERNEL_WANT_WORDS;
	for (int at_exit = 0; at_exit < 2; at_exit++) {
		for (uint32_t i = texts[at_exit]; i < KERNEL_TEXTS; i++)
			want[at_exit] |= (KERNEL_WORDS - 1u) << (KERNEL_TEXT_SHIFT + 4 * i);
		__atomic_store_n(&u->k.want[place - 1 + (at_exit ? KERNEL_LOST : 0)], want[at_exit] & KERNEL_WANT_WORDS ? want[at_exit] : 0, __ATOMIC_RELAXED);
	}
	u->probes[place - 1].what = c;
	return 0;
}

/* ---- events -------------------------------------------------------------------------------------------------------- */

static uint64_t value_of(const void *call, const struct kw_arg *a)
{
	return kw_arg_narrow(a, ((const struct kernel_call *)call)->word[capture_word(a)]); /* uprobe_capture() has looked where it is */
}

static void take(struct uprobe *u, const struct kernel_call *c, enum kernel_got got)
{
	const struct kernel_event *ev = &c->ev;
	struct probe *p = &u->probes[ev->what & PLACE_MASK];
	if (p->state == FREE || p->cookie != (ev->what & ~KERNEL_EXIT))
		return; /* of a probe that was taken away while this lay in the ring */
	if (ev->what & KERNEL_EXIT) {
		u->stats.exits++;
		u->stats.unmatched += !records_exit(u->r, c, got, p->site, &p->what);
	} else if (p->state == ON || (int64_t)ev->ns <= p->left_at) { /* it may have lain in the ring when its function was removed */
		u->stats.entries++;
		/* Without words it lay in the ring before there was a condition: not known to hold. */
		bool asked = !p->what.nwhere || (got >= KERNEL_GOT_WORDS && kw_where_holds(p->what.where, p->what.nwhere, value_of, c));
		if (!p->note)
			records_enter(u->r, c, got, p->site, &p->what, (struct records_how){ p->root, asked, p->by_exits });
		else if (asked)
			records_call(u->r, ev->tid, p->site);
	}
}

/* What the kernel's ring had no room for, exactly. */
static void take_losses(struct uprobe *u)
{
	for (uint32_t i = 0; i < u->n; i++) {
		struct probe *p = &u->probes[i];
		uint32_t now[2] = { lost_of(u, i, false), lost_of(u, i, true) };
		uint32_t entries = now[0] - p->lost[0], exits = now[1] - p->lost[1];
		if (p->state == FREE || !(entries | exits))
			continue;
		p->lost[0] = now[0], p->lost[1] = now[1];
		u->stats.lost_entries += entries;
		u->stats.lost_exits += exits;
		records_lost(u->r, p->site, entries, exits);
	}
}

uint32_t uprobe_poll(struct uprobe *u, uint32_t budget)
{
	struct kernel_call c;
	enum kernel_got got;
	uint32_t n = 0;
	while (n < budget && (got = kernel_next(&u->k, &c))) {
		take(u, &c, got);
		n++;
	}
	take_losses(u);
	records_clock(u->r);
	if (n < budget && clock_mono() - u->swept_at >= SWEEP_NS) { /* the ring was empty just now */
		u->swept_at = clock_mono();
		records_sweep(u->r, false);
	}
	end_removals(u, n < budget);
	return n;
}

void uprobe_stats(const struct uprobe *u, struct uprobe_stats *ret_s)
{
	*ret_s = u->stats;
	ret_s->clock_error_ns = records_clock_error(u->r);
}
