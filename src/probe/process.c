/* The process's region: made at the first registration of a module with sites, offered to the agent once, made anew in a forked child.
 * Runs in constructors, dlopen/dlclose, klieg_init and the child side of fork; never on a probe's path. No thread is started and
 * nothing is allocated; a lock here is only ever held by threads that load or unload modules. */
#include "probe/hook_internal.h"
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <linux/futex.h>
#include <unistd.h>

struct klieg__process klieg__process;
static const uint32_t never; /* a slot's skip, as long as no call found a site gated: without a region nothing is recorded anyway */
KLIEG_PUBLIC struct klieg__skip klieg__skip = { &never, 0 };
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* the module table of this process */
static bool tried;
static char service_text[256], version_text[128], attributes_text[1024];

/* What is registered, so that a forked child can do it again in its own region. */
struct module { const struct kw_site *first; uint32_t n; int *state; };
static struct module modules[KW_MAX_MODULES];
static uint32_t modules_n;
static int region_fd = -1;

/* The number may be another file's by now if the program closed what it did not know. */
static void close_if_ours(int fd)
{
	char path[64], target[64] = "";
	if (fd < 0)
		return;
	snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	if (readlink(path, target, sizeof target - 1) > 0 && !strncmp(target, "/memfd:" KW_MEMFD_NAME, 7 + strlen(KW_MEMFD_NAME)))
		close(fd);
}

static uint64_t align(uint64_t n, uint64_t to) { return (n + to - 1) / to * to; }

static char attached_socket[128]; /* of the agent that injected us: no variable of the program's environment names it */

static void socket_path(char *ret_path, size_t size)
{
	if (*attached_socket) {
		snprintf(ret_path, size, "%s", attached_socket);
		return;
	}
	const char *s = secure_getenv("KLIEG_SOCKET"), *d = secure_getenv("KLIEG_DIR"), *x = secure_getenv("XDG_RUNTIME_DIR");
	if (s && *s)
		snprintf(ret_path, size, "%s", s);
	else if (d && *d)
		snprintf(ret_path, size, "%s/agent.sock", d);
	else if (geteuid() == 0)
		snprintf(ret_path, size, "/run/klieg/agent.sock");
	else if (x && *x)
		snprintf(ret_path, size, "%s/klieg/agent.sock", x);
	else
		snprintf(ret_path, size, "/tmp/klieg-%u/agent.sock", (unsigned)geteuid());
}

/* ---- resource ---------------------------------------------------------------------------------------------------- */

static size_t add_encoded(char *to, size_t at, size_t size, const char *key, const char *value)
{
	if (!value || !*value)
		return at;
	size_t from = at;
	int k = snprintf(to + at, size - at, "%s%s=", at ? "," : "", key);
	if (k < 0 || (size_t)k >= size - at)
		return from;
	at += (size_t)k;
	for (const unsigned char *p = (const unsigned char *)value; *p; p++) {
		bool plain = *p > ' ' && *p < 127 && *p != ',' && *p != '=' && *p != '%' && *p != ';' && *p != '"' && *p != '\\';
		if (size - at < 4)
			return from;
		if (plain)
			to[at++] = (char)*p;
		else
			at += (size_t)snprintf(to + at, 4, "%%%02X", *p);
	}
	return at;
}

/* Later entries win when the agent reads them: environment first, then what klieg_init said. */
static void write_resource(void)
{
	struct kw_region *r = klieg__process.region;
	if (!r)
		return;
	char text[KW_RESOURCE_MAX];
	size_t n = 0;
	const char *env = secure_getenv("OTEL_RESOURCE_ATTRIBUTES");
	if (env && *env && strlen(env) < 1024)
		n = (size_t)snprintf(text, sizeof text, "%s", env);
	if (*attributes_text && n + strlen(attributes_text) + 2 < sizeof text)
		n += (size_t)snprintf(text + n, sizeof text - n, "%s%s", n ? "," : "", attributes_text);
	n = add_encoded(text, n, sizeof text, "service.name", *service_text ? service_text : secure_getenv("OTEL_SERVICE_NAME"));
	n = add_encoded(text, n, sizeof text, "service.version", version_text);
	uint32_t seq = r->resource_seq;
	klieg__store(&r->resource_seq, seq + 1, RELAXED);
	atomic_thread_fence(memory_order_release); /* pairs with the agent's acquire of resource_seq: it sees an odd number or the whole text */
	memcpy(r->resource, text, n);
	r->resource_len = (uint32_t)n;
	klieg__store(&r->resource_seq, seq + 2, RELEASE);
}

/* ---- region ------------------------------------------------------------------------------------------------------ */

static bool make_region(void)
{
	long page = 4096;
	uint64_t ring = KW_RING_BYTES;
	const char *want = secure_getenv("KLIEG_RING_SIZE");
	if (want) {
		uint64_t n = strtoull(want, NULL, 10);
		if (n >= 65536 && n <= (16u << 20) && !(n & (n - 1)))
			ring = n;
	}
	struct kw_region r = { .magic = KW_MAGIC, .version = KW_VERSION, .header_bytes = sizeof r, .max_modules = KW_MAX_MODULES, .max_sites = KW_MAX_SITES,
		.max_threads = KW_MAX_THREADS, .pid = (uint32_t)getpid(), .created_tsc = kw_ticks() };
	r.control_off = (uint64_t)page;
	r.modules_off = 2 * (uint64_t)page;
	r.sites_off = align(r.modules_off + KW_MAX_MODULES * sizeof(struct kw_module), (uint64_t)page);
	r.requests_off = align(r.sites_off + KW_MAX_SITES * sizeof(struct kw_site_state), (uint64_t)page);
	r.threads_off = align(r.requests_off + sizeof(struct kw_requests), (uint64_t)page);
	r.ring_off = 4096;
	r.ring_bytes = (uint32_t)ring;
	r.cellmap_off = (uint32_t)(r.ring_off + ring);
	r.cells_off = (uint32_t)align(r.cellmap_off + KW_MAX_SITES * sizeof(uint16_t), 4096);
	r.cell_count = KW_CELLS;
	r.thread_stride = align(r.cells_off + (uint64_t)KW_CELLS * sizeof(struct kw_cell), 4096);
	socket_path(r.socket, sizeof r.socket);
	klieg__hook_region(&r);

	int fd = (int)syscall(SYS_memfd_create, KW_MEMFD_NAME, 3u /* MFD_CLOEXEC | MFD_ALLOW_SEALING */);
	if (fd < 0)
		return false;
	void *p = MAP_FAILED;
	/* A limit on address space (RLIMIT_AS) may not leave room for the sparse whole: then fewer threads can record. */
	for (; r.max_threads >= 16; r.max_threads /= 4) {
		r.region_bytes = r.threads_off + (uint64_t)r.max_threads * r.thread_stride;
		struct rlimit as;
		if (getrlimit(RLIMIT_AS, &as) == 0 && as.rlim_cur != RLIM_INFINITY && r.region_bytes > as.rlim_cur / 4)
			continue;
		if (ftruncate(fd, (off_t)r.region_bytes) == 0 &&
			(p = mmap(NULL, r.region_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)) != MAP_FAILED)
			break;
	}
	if (p == MAP_FAILED || fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0) {
		if (p != MAP_FAILED)
			munmap(p, r.region_bytes);
		close(fd);
		return false;
	}
	madvise(p, r.region_bytes, MADV_DONTDUMP);
	memcpy(p, &r, sizeof r);
	uint8_t *base = p;
	struct klieg__process *me = &klieg__process;
	me->control = (struct kw_control *)(base + r.control_off);
	me->modules = (struct kw_module *)(base + r.modules_off);
	me->sites = (struct kw_site_state *)(base + r.sites_off);
	me->threads = base + r.threads_off;
	me->ring_bytes = r.ring_bytes;
	me->region = p;
	me->control->changes = klieg__load(klieg__skip.changes, RELAXED) + 1; /* a child's slots remember numbers of its parent's */
	if (!me->control->changes)
		me->control->changes = 1;
	klieg__skip.asked = (intptr_t)&klieg__thread.ctx_flags + KW_CTX_LEVEL_SHIFT / 8 - (intptr_t)__builtin_thread_pointer();
	klieg__store(&klieg__skip.changes, &me->control->changes, RELEASE);
	write_resource();
	if (!me->epoch) {
		void *e = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (e == MAP_FAILED || madvise(e, 4096, MADV_WIPEONFORK) < 0) {
			me->region = NULL;
			return false;
		}
		me->epoch = e;
	}
	static uint64_t epochs;
	klieg__store(me->epoch, ++epochs, RELEASE);

	/* Kept open, out of the way of programs that count on low numbers, so that an agent without privileges can find it later. */
	int high = fcntl(fd, F_DUPFD_CLOEXEC, 700);
	if (high >= 0) {
		close(fd);
		fd = high;
	}
	close_if_ours(region_fd); /* after fork: the parent's region is not ours to show */
	region_fd = fd;
	return true;
}

/* One attempt, without waiting: an agent that is absent now finds us later by our mapping. */
static void offer(void)
{
	struct kw_region *r = klieg__process.region;
	struct sockaddr_un to = { .sun_family = AF_UNIX };
	if (strlen(r->socket) >= sizeof to.sun_path)
		return;
	memcpy(to.sun_path, r->socket, strlen(r->socket) + 1);
	int s = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (s < 0)
		return;
	if (connect(s, (struct sockaddr *)&to, sizeof to) == 0) {
		struct ucred peer;
		socklen_t n = sizeof peer;
		if (getsockopt(s, SOL_SOCKET, SO_PEERCRED, &peer, &n) == 0)
			prctl(PR_SET_PTRACER, peer.pid, 0, 0, 0); /* Yama: let the agent, and only it, write our sites */
		struct kw_hello hello = { KW_MAGIC, KW_VERSION, (uint32_t)getpid() };
		struct iovec v = { &hello, sizeof hello };
		union { struct cmsghdr h; char b[CMSG_SPACE(sizeof(int))]; } c;
		memset(&c, 0, sizeof c);
		struct msghdr m = { .msg_iov = &v, .msg_iovlen = 1, .msg_control = c.b, .msg_controllen = sizeof c.b };
		c.h.cmsg_level = SOL_SOCKET;
		c.h.cmsg_type = SCM_RIGHTS;
		c.h.cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(&c.h), &region_fd, sizeof region_fd);
		sendmsg(s, &m, MSG_NOSIGNAL | MSG_DONTWAIT);
	}
	close(s);
}

void klieg__wake_agent(void)
{
	struct kw_control *c = klieg__process.control;
	int saved = errno;
	__atomic_fetch_add(&c->wake, 1, __ATOMIC_RELEASE);
	syscall(SYS_futex, &c->wake, FUTEX_WAKE, 64, NULL, NULL, 0); /* shared: the agent is another process */
	errno = saved;
}

/* ---- modules ----------------------------------------------------------------------------------------------------- */

/* Gives every site of the module its index and shows the module to the agent. Called with the lock held. */
static void publish(const struct module *m)
{
	struct kw_control *c = klieg__process.control;
	uint32_t i = 0, first = klieg__load(&c->sites_n, RELAXED);
	while (i < c->modules_n && klieg__process.modules[i].state != KW_MODULE_DEAD) /* the place of one that was unloaded */
		i++;
	do { /* the agent takes indices too, for functions */
		if (i >= KW_MAX_MODULES || first > KW_MAX_SITES || m->n > KW_MAX_SITES - first) {
			__atomic_fetch_add(&c->lost_no_site, m->n, __ATOMIC_RELAXED);
			return;
		}
	} while (!__atomic_compare_exchange_n(&c->sites_n, &first, first + m->n, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
	for (uint32_t k = 0; k < m->n; k++) {
		const struct kw_site *s = m->first + k;
		((struct klieg__slot *)((char *)(uintptr_t)s + s->slot))->index = first + k + 1;
	}
	struct kw_module *e = klieg__process.modules + i;
	e->sites = (uint64_t)(uintptr_t)m->first;
	e->nsites = m->n;
	e->first = first;
	klieg__store(&e->state, (uint32_t)KW_MODULE_LIVE, RELEASE);
	if (i == c->modules_n)
		klieg__store(&c->modules_n, i + 1, RELEASE); /* pairs with the agent's acquire: entries below it are whole */
	klieg__store(&c->modules_gen, c->modules_gen + 1, RELEASE);
	klieg__wake_agent();
}

/* A function that is on in the parent is on in the child from its first call: the agent comes a little later. The notes say which indices are functions. */
static void inherit_levels(const struct kw_region *parents)
{
	const char *base = (const char *)parents;
	const struct kw_control *c = (const struct kw_control *)(base + parents->control_off);
	const struct kw_site_state *from = (const struct kw_site_state *)(base + parents->sites_off);
	if (!c->attached_live)
		return;
	klieg__process.control->lease_tsc = c->lease_tsc;
	for (uint32_t i = 0; i < KW_ATTACHED; i++)
		for (uint32_t k = c->attached[i].first, end = k + c->attached[i].n; k < end && k < KW_MAX_SITES; k++)
			if (from[k].level)
				klieg__process.sites[k] = from[k];
}

static void before_fork(void) { pthread_mutex_lock(&lock); }
static void after_fork_parent(void) { pthread_mutex_unlock(&lock); }

/* The child has its parent's mapping but must have rings of its own before its first record. */
static void after_fork_child(void)
{
	int saved = errno;
	lock = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER;
	struct kw_region *parents = klieg__process.region;
	if (parents) {
		uint64_t bytes = parents->region_bytes;
		struct klieg__thread *me = &klieg__thread;
		if (me->t) { /* the parent's slot is about to go; what is current there is the parent of what the child does */
			if (me->seq)
				me->parent = kw_span_id(me->t->seed, me->seq);
			me->t = NULL;
			me->seq = me->root_depth = 0;
			klieg__turn(me);
		}
		klieg__hook_forked(me);
		uint32_t taken = ((const struct kw_control *)((const char *)parents + parents->control_off))->sites_n;
		klieg__process.region = NULL;
		klieg__process.sites = NULL; /* a probe that is on looks there first: without a region of our own, the mapping is about to go */
		if (make_region()) {
			klieg__process.control->sites_n = taken; /* the stubs in our text have their numbers written into them */
			inherit_levels(parents);
			for (uint32_t i = 0; i < modules_n; i++)
				if (modules[i].first)
					publish(&modules[i]);
			offer();
			/* The socket may be out of our reach (another user's, outside of a chroot); the parent's region is not. */
			struct kw_control *c = (struct kw_control *)((char *)parents + parents->control_off);
			__atomic_fetch_add(&c->forks, 1, __ATOMIC_RELEASE);
			__atomic_fetch_add(&c->wake, 1, __ATOMIC_RELEASE);
			syscall(SYS_futex, &c->wake, FUTEX_WAKE, 64, NULL, NULL, 0);
		}
		/* Only now: a probe in another atfork handler may have looked at it. Its threads did not survive the fork. */
		if (!klieg__process.region)
			klieg__skip.changes = &never;
		munmap(parents, bytes);
	}
	errno = saved;
}

/* Finds or makes the region; with the lock held. */
static bool ready(void)
{
	if (!tried) {
		tried = true;
		if (make_region())
			pthread_atfork(before_fork, after_fork_parent, after_fork_child);
	}
	return klieg__process.region != NULL;
}

KLIEG_PUBLIC void klieg__register(const void *first, const void *last, int *state)
{
	int saved = errno;
	uint32_t n = (uint32_t)(((const char *)last - (const char *)first) / (ptrdiff_t)sizeof(struct kw_site));
	pthread_mutex_lock(&lock);
	if (!*state && first && n) {
		bool fresh = !klieg__process.region;
		uint32_t i = 0;
		while (i < modules_n && modules[i].first)
			i++;
		if (i < KW_MAX_MODULES) {
			*state = 1;
			modules_n += i == modules_n;
			modules[i] = (struct module){ first, n, state };
			if (ready()) {
				publish(&modules[i]);
				if (fresh)
					offer();
			}
		} else if (klieg__process.region) {
			__atomic_fetch_add(&klieg__process.control->lost_no_site, n, __ATOMIC_RELAXED);
		}
	}
	pthread_mutex_unlock(&lock);
	errno = saved;
}

/* Called by the agent's loader once it has injected us: a region even though no module has a site. It finds the region by our mapping, since the
 * program may not see its socket. 0, or -1: no memory for it, or the program may not have it. */
uint64_t klieg__attach(const char *socket); /* looked up by name */
KLIEG_PUBLIC uint64_t klieg__attach(const char *socket)
{
	int saved = errno;
	pthread_mutex_lock(&lock);
	if (!klieg__process.region && socket)
		snprintf(attached_socket, sizeof attached_socket, "%s", socket);
	bool fresh = !klieg__process.region, ok = ready();
	if (ok && fresh && !socket)
		offer(); /* otherwise it is the agent who calls */
	pthread_mutex_unlock(&lock);
	errno = saved;
	return ok ? 0 : UINT64_MAX;
}

/* Preloaded into a program without probes (`klieg run`): it has none to register, but functions. */
__attribute__((constructor(103))) static void preloaded(void)
{
	const char *want = secure_getenv("KLIEG_RUN");
	if (want && *want == '1')
		klieg__attach(NULL);
}

KLIEG_PUBLIC void klieg__unregister(const void *first, int *state)
{
	int saved = errno;
	pthread_mutex_lock(&lock);
	for (uint32_t i = 0; *state && i < modules_n; i++)
		if (modules[i].first == first)
			modules[i].first = NULL;
	*state = 0;
	struct kw_control *c = klieg__process.control;
	for (uint32_t i = 0; klieg__process.region && i < c->modules_n; i++) {
		struct kw_module *e = klieg__process.modules + i;
		if (e->sites != (uint64_t)(uintptr_t)first || e->state != KW_MODULE_LIVE)
			continue;
		/* Dekker with the agent's patching: it stores busy, then loads state; we store state, then load busy. Its text goes away after
		 * this, so we wait for a patch under way, but never for long: an agent may have died inside. */
		klieg__store(&e->state, (uint32_t)KW_MODULE_CLOSING, SEQ_CST);
		for (int k = 0; k < 100 && klieg__load(&e->busy, SEQ_CST); k++)
			usleep(1000);
		klieg__store(&e->state, (uint32_t)KW_MODULE_DEAD, RELEASE);
		klieg__store(&c->modules_gen, c->modules_gen + 1, RELEASE);
		break;
	}
	pthread_mutex_unlock(&lock);
	errno = saved;
}

KLIEG_PUBLIC int klieg_init(const struct klieg_options *o)
{
	int saved = errno;
	struct klieg_options mine = { 0 };
	if (o)
		memcpy(&mine, o, o->size < sizeof mine ? o->size : sizeof mine);
	pthread_mutex_lock(&lock);
	if (mine.service)
		snprintf(service_text, sizeof service_text, "%s", mine.service);
	if (mine.version)
		snprintf(version_text, sizeof version_text, "%s", mine.version);
	if (mine.attributes)
		snprintf(attributes_text, sizeof attributes_text, "%s", mine.attributes);
	write_resource();
	int rc = klieg__process.region || !tried ? 0 : -1;
	if (klieg__process.region) { /* the agent reads the resource again when the modules' generation moves */
		klieg__store(&klieg__process.control->modules_gen, klieg__process.control->modules_gen + 1, RELEASE);
		klieg__wake_agent();
	}
	pthread_mutex_unlock(&lock);
	errno = saved;
	return rc;
}
