/* The host table: what plugins can ask of Klieg. Called by handlers, so inside klieg__call_kept() and with me->in_plugin set;
 * the functions that take no call also by klieg_plugin() on the agent's loader thread. Nothing allocates. Attributes are
 * collected in the run and written to the ring together. */
#include "probe/plugin_internal.h"
#include "wire/plugin_area.h"
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

_Static_assert(sizeof(struct klieg_host) < KW_PLUGIN_AREA, "the area has a fixed place");
struct shared { struct klieg_host host; char room[KW_PLUGIN_AREA - sizeof(struct klieg_host)]; struct kw_plugin_area area; };
static struct shared shared;

/* ---- attributes ---------------------------------------------------------------------------------------------------- */

void klieg__run_flush(struct klieg__run *r)
{
	if (r->span && r->n)
		klieg__set(r->span, r->keys, r->v, (int)r->n);
	r->n = r->used = 0;
}

static void put(struct klieg__run *r, const char *key, struct klieg__value v)
{
	if (!r->span || r->call.level < KLIEG_LEVEL_DETAIL || !key)
		return;
	r->keys[r->n] = key;
	r->v[r->n++] = v;
}

/* Makes sure that there is room for so many attributes and so much text of our own, by writing what there is. */
static void reserve(struct klieg__run *r, uint32_t attributes, size_t text)
{
	if (r->n + attributes > RUN_ATTRIBUTES || text > RUN_TEXT - r->used)
		klieg__run_flush(r);
}

/* Reserved text. */
static char *room(struct klieg__run *r, size_t n)
{
	char *at = r->text + r->used;
	r->used += (uint32_t)n;
	return at;
}

static void host_text(struct klieg_call *call, const char *key, const char *text, size_t n, unsigned flags)
{
	struct klieg__run *r = klieg__run_of(call);
	if (!text || !r->span || call->level < KLIEG_LEVEL_DETAIL)
		return;
	if (n == KLIEG_TEXT_END)
		n = strnlen(text, 1025); /* one more than is kept, so that a cut shows */
	/* the handler's own: gone when it returns */
	bool local = (uintptr_t)text < (uintptr_t)r && (uintptr_t)text >= (uintptr_t)__builtin_frame_address(0);
	if (n > 1025)
		n = 1025;
	reserve(r, 1, local ? n : 0);
	if (local)
		text = memcpy(room(r, n), text, n);
	struct klieg__value v = klieg__strn(text, n);
	put(r, key, flags & KLIEG_TEXT_SENSITIVE ? klieg__hide(v) : v);
}

static void host_number(struct klieg_call *call, const char *key, unsigned type, uint64_t bits)
{
	if (type != KLIEG_TYPE_INT && type != KLIEG_TYPE_DOUBLE && type != KLIEG_TYPE_BOOL)
		return;
	struct klieg__value v = klieg__mk((uint8_t)type, 8);
	v.u.i = type == KLIEG_TYPE_BOOL ? bits != 0 : (int64_t)bits;
	reserve(klieg__run_of(call), 1, 0);
	put(klieg__run_of(call), key, v);
}

enum { PREFIX = 64 };
static const char *joined(struct klieg__run *r, const char *prefix, const char *suffix)
{
	size_t a = strnlen(prefix, PREFIX), b = strlen(suffix) + 1;
	char *to = room(r, a + b);
	memcpy(to, prefix, a);
	memcpy(to + a, suffix, b);
	return to;
}

static void host_address(struct klieg_call *call, const char *prefix, const void *sockaddr, size_t n)
{
	struct klieg__run *r = klieg__run_of(call);
	struct sockaddr_storage ss;
	if (!r->span || call->level < KLIEG_LEVEL_DETAIL || !sockaddr || !prefix || n < sizeof ss.ss_family)
		return;
	if (n > sizeof ss)
		n = sizeof ss;
	reserve(r, 3, sizeof ss + 2 * (PREFIX + sizeof ".address"));
	memset(&ss, 0, sizeof ss);
	memcpy(&ss, sockaddr, n);
	const struct sockaddr_in *in = (const struct sockaddr_in *)&ss;
	const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)&ss;
	bool four = ss.ss_family == AF_INET && n >= sizeof *in, six = ss.ss_family == AF_INET6 && n >= sizeof *in6;
	if (four || six) {
		char *text = room(r, INET6_ADDRSTRLEN);
		if (four)
			inet_ntop(AF_INET, &in->sin_addr, text, INET6_ADDRSTRLEN);
		else
			inet_ntop(AF_INET6, &in6->sin6_addr, text, INET6_ADDRSTRLEN);
		put(r, joined(r, prefix, ".address"), klieg__str(text));
		put(r, joined(r, prefix, ".port"), klieg__int(ntohs(four ? in->sin_port : in6->sin6_port)));
		put(r, "network.type", klieg__str(four ? "ipv4" : "ipv6"));
	} else if (ss.ss_family == AF_UNIX) {
		const struct sockaddr_un *un = (const struct sockaddr_un *)&ss;
		size_t skip = offsetof(struct sockaddr_un, sun_path);
		size_t len = n > skip ? strnlen(un->sun_path + 1, n - skip - 1) + 1 : 0; /* an abstract name begins with a NUL */
		if (len && !un->sun_path[0] && len == 1)
			len = 0; /* unnamed */
		char *text = len ? room(r, len) : NULL;
		if (text) {
			memcpy(text, un->sun_path, len);
			if (!*text)
				*text = '@'; /* the abstract namespace, as ss(8) writes it */
			put(r, joined(r, prefix, ".address"), klieg__strn(text, len));
		}
		put(r, "network.transport", klieg__str("unix"));
	}
}

static void host_query(struct klieg_call *call, const char *sql, size_t n)
{
	struct klieg__run *r = klieg__run_of(call);
	if (!sql || !r->span || call->level < KLIEG_LEVEL_DETAIL)
		return;
	reserve(r, 2, 24 + 1025);
	char *verb = room(r, 24), *text = r->text + r->used;
	if (n == KLIEG_TEXT_END)
		n = strnlen(sql, 16384);
	size_t len = klieg__sql_normalise(sql, n < 16384 ? n : 16384, text, 1025, verb);
	r->used += (uint32_t)len;
	if (len)
		put(r, "db.query.text", klieg__strn(text, len));
	if (*verb)
		put(r, "db.operation.name", klieg__str(verb));
}

static void host_status(struct klieg_call *call, int error, const char *text)
{
	struct klieg__run *r = klieg__run_of(call);
	if (r->span)
		klieg__status(r->span, error, text);
}

static void host_drop(struct klieg_call *call)
{
	struct klieg__run *r = klieg__run_of(call);
	r->drop = r->own && !call->args;
}

/* ---- memory -------------------------------------------------------------------------------------------------------- */

/* rt_sigprocmask copies its set before it looks at `how`: EFAULT if the eight bytes cannot be read, EINVAL if they can, and
 * nothing is changed. Unlike process_vm_readv hardly a seccomp filter kills for it, since libc cannot do without it. */
static bool readable(uintptr_t at)
{
#if defined(__x86_64__)
	long rc;
	register long r10 __asm__("r10") = 8;
	__asm__ volatile("syscall" : "=a"(rc) : "a"((long)SYS_rt_sigprocmask), "D"(-1L), "S"(at & ~(uintptr_t)7), "d"(0L),
		"r"(r10) : "rcx", "r11", "memory");
	return rc == -EINVAL; /* and nothing else: a filter may refuse even this */
#else
	return syscall(SYS_rt_sigprocmask, -1, at & ~(uintptr_t)7, NULL, 8) == -1 && errno == EINVAL;
#endif
}

size_t klieg__read_safely(void *to, uint64_t from, size_t n)
{
	size_t done = 0;
	while (done < n && from + done >= 4096 && readable(from + done)) {
		/* a page at a time; the bytes of a page are readable together */
		size_t some = 4096 - ((from + done) & 4095);
		if (some > n - done)
			some = n - done;
		memcpy((char *)to + done, (const char *)(uintptr_t)from + done, some);
		done += some;
	}
	return done;
}

static size_t host_read(void *to, const void *from, size_t n) { return klieg__read_safely(to, (uint64_t)(uintptr_t)from, n); }

static long host_read_text(char *to, size_t n, const char *from)
{
	uintptr_t at = (uintptr_t)from;
	size_t done = 0;
	if (!n)
		return -1;
	while (done + 1 < n && at + done >= 4096 && readable(at + done)) {
		size_t some = 4096 - ((at + done) & 4095);
		if (some > n - 1 - done)
			some = n - 1 - done;
		size_t len = strnlen((const char *)at + done, some);
		memcpy(to + done, (const char *)at + done, len);
		done += len;
		if (len < some) {
			to[done] = 0;
			return (long)done;
		}
	}
	to[done] = 0;
	return done || n == 1 ? (long)done : -1;
}

/* ---- context ------------------------------------------------------------------------------------------------------- */

static int host_parent(struct klieg_call *call, const char *(*get)(void *arg, const char *name), void *arg)
{
	struct klieg__run *r = klieg__run_of(call);
	r->has_parent = klieg_extract(get, arg, &r->parent) || r->parent.flags; /* klieg-level alone asks for a trace of that level */
	return r->has_parent && (r->parent.trace_hi | r->parent.trace_lo);
}

_Static_assert(sizeof(struct klieg_plugin_headers) == sizeof(struct klieg_headers),
	"the same text in two headers that know nothing of each other");

static int host_headers(struct klieg_call *call, struct klieg_plugin_headers *ret)
{
	struct klieg__run *r = klieg__run_of(call);
	struct klieg_ctx before;
	ret->traceparent[0] = ret->tracestate[0] = 0;
	if (!r->span)
		return 0;
	if (r->ctx)
		klieg_set_current(r->ctx, &before);
	klieg_inject((struct klieg_headers *)ret);
	if (r->ctx)
		klieg_restore(&before);
	return ret->traceparent[0] != 0;
}

/* ---- the rest ------------------------------------------------------------------------------------------------------ */

static uint64_t host_now_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static long host_option(const char *plugin, const char *key, char *ret_value, size_t size)
{
	size_t pn = strlen(plugin), kn = strlen(key);
	const char *s = shared.area.options, *end = s + strnlen(s, sizeof shared.area.options);
	while (s < end) { /* NAME:key=value,key=value NAME:... */
		const char *stop = memchr(s, ' ', (size_t)(end - s));
		if (!stop)
			stop = end;
		bool mine = (size_t)(stop - s) > pn && !memcmp(s, plugin, pn) && s[pn] == ':';
		for (const char *p = mine ? s + pn + 1 : stop; p < stop;) {
			const char *comma = memchr(p, ',', (size_t)(stop - p));
			if (!comma)
				comma = stop;
			if ((size_t)(comma - p) > kn && !memcmp(p, key, kn) && p[kn] == '=') {
				size_t n = (size_t)(comma - p) - kn - 1, some = size ? (n < size ? n : size - 1) : 0;
				memcpy(ret_value, p + kn + 1, some);
				if (size)
					ret_value[some] = 0;
				return (long)n;
			}
			p = comma + 1;
		}
		s = stop + 1;
	}
	return -1;
}

static void host_note(const char *plugin, const char *text)
{
	static volatile int taken;
	struct kw_plugin_area *a = &shared.area;
	if (__atomic_exchange_n(&taken, 1, __ATOMIC_ACQUIRE)) { /* somebody else is at it: nobody waits here */
		__atomic_fetch_add(&a->notes_lost, 1, __ATOMIC_RELAXED);
		return;
	}
	uint32_t n = a->notes_n;
	bool known = false;
	for (uint32_t i = 0; i < n && i < KW_PLUGIN_NOTES; i++)
		known |= !strncmp(a->notes[i].plugin, plugin, sizeof a->notes[i].plugin - 1) &&
			!strncmp(a->notes[i].text, text, sizeof a->notes[i].text - 1);
	if (!known && n < KW_PLUGIN_NOTES) {
		strncpy(a->notes[n].plugin, plugin, sizeof a->notes[n].plugin - 1);
		strncpy(a->notes[n].text, text, sizeof a->notes[n].text - 1);
		klieg__store(&a->notes_n, n + 1, RELEASE); /* pairs with the agent's read: notes below it are whole */
	} else if (!known) {
		a->notes_lost++;
	}
	klieg__store(&taken, 0, RELEASE);
}

static int host_filtered(void) { return prctl(PR_GET_SECCOMP) == 2; /* the loader's thread is let off its filter, not its mode */ }

/* ---- before a request begins ---------------------------------------------------------------------------------------------- */

#define SOON_NS 100000000u

static int host_reading(struct klieg_call *call, int fd)
{
	struct klieg__thread *me = &klieg__thread;
	struct tcp_info info;
	socklen_t n = sizeof info;
	int there = 0;
	me->waited_at = 0;
	if (ioctl(fd, FIONREAD, &there) || there <= 0 || getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &n) ||
		n < offsetof(struct tcp_info, tcpi_last_data_recv) + sizeof info.tcpi_last_data_recv)
		return 0;
	me->waited_ns = info.tcpi_last_data_recv * 1000000ull;
	me->waited_at = host_now_ns();
	return 1;
}

_Static_assert(sizeof(struct klieg_waiting) == sizeof klieg__thread.waiting && offsetof(struct klieg_waiting, queue) == 8, "the same in a header that knows nothing of threads");

/* Two clocks that were read together, so that the counter's ticks are known in nanoseconds some time later. */
static struct { uint64_t ticks, ns; } met;
static struct klieg_waiting *host_waiting(void)
{
	if (!met.ticks) {
		met.ns = host_now_ns();
		met.ticks = kw_ticks();
	}
	return (struct klieg_waiting *)&klieg__thread.waiting;
}

static uint64_t ticks_to_ns(uint64_t ticks)
{
	uint64_t now = kw_ticks(), ns = host_now_ns();
	return now > met.ticks ? (uint64_t)((__uint128_t)ticks * (ns - met.ns) / (now - met.ticks)) : 0;
}

/* Once for each read: of requests that come together only the first is known to have begun to wait then. What was read long ago was for
 * something else: a request begins soon after its bytes were read. */
void klieg__run_waited(struct klieg__run *r)
{
	struct klieg__thread *me = &klieg__thread;
	uint64_t longest = 0, ns;
	const char *kind = NULL;
	if (me->waited_at) {
		ns = host_now_ns() - me->waited_at;
		if (ns < SOON_NS)
			longest = me->waited_ns + ns, kind = "socket";
		me->waited_at = 0;
	}
	void *queue = me->waiting.queue;
	me->waiting.queue = NULL;
	uint64_t put = queue ? me->waiting.since(queue) : 0;
	if (put && (ns = ticks_to_ns(kw_ticks() - put)) >= longest) /* the one may have gone on during the other: not their sum */
		longest = ns, kind = "pool";
	if (!kind)
		return;
	host_number(&r->call, "klieg.queue_nano", KLIEG_TYPE_INT, longest);
	host_text(&r->call, "klieg.queue_kind", kind, KLIEG_TEXT_END, 0);
}

void klieg__run_requests_lost(void) { __atomic_fetch_add(&shared.area.requests_lost, 1, __ATOMIC_RELAXED); }

const struct klieg_host *const klieg__host = &shared.host;

static struct shared shared = {
	.host = { sizeof(struct klieg_host), KLIEG_PLUGIN_ABI, "0.1.0", host_text, host_number, host_address, host_query, host_status,
		host_read, host_read_text,
		host_parent, host_headers, host_drop, klieg__request_open, klieg__request_find, klieg__request_resume,
			klieg__request_close, host_now_ns, host_option, host_note, host_filtered, host_reading, host_waiting },
};

void *klieg__plugin_host(void) { return &shared.host; }
