/* libmicrohttpd: a server span for each request, which continues the client's trace.
 *
 * The library calls the program's access handler, whose name only the program knows: `klieg attach PID --plugin
 * microhttpd:handler=FUNC`. Without it, the first answer that is queued tells where the handler is, and a note says so. The
 * library calls the handler several times for one request (headers, pieces of the body, the end); the call that queues the
 * answer is the span, the others are dropped. */
#include <klieg/plugin.h>
#include <dlfcn.h>
#include <stdio.h>
#include <sys/socket.h>

enum { HEADER_KIND = 1, INFO_CLIENT_ADDRESS = 2, INFO_DAEMON = 5 }; /* from microhttpd.h */
static struct {
	const char *(*header)(const void *, int, const char *);
	void *const *(*info)(const void *, int, ...);
} mhd;

/* Answers queued by handlers that are still running: connection and status. */
enum { ANSWERS = 1024 };
static struct { const void *connection; uint64_t status; } answers[ANSWERS];
static unsigned place(const void *connection) { return (unsigned)(((uint64_t)(uintptr_t)connection >> 4) * 0x9e3779b97f4a7c15u >> 54) % ANSWERS; }

static char given; /* the user said which function is the handler */

static const char *header(void *connection, const char *name) { return mhd.header(connection, HEADER_KIND, name); }

/* The handler: (cls, connection, url, method, version, upload_data, upload_data_size, con_cls) */
static int enter(struct klieg_call *c)
{
	c->host->parent(c, header, klieg_arg(c, 1));
	return KLIEG_TRACE;
}

static void begin(struct klieg_call *c)
{
	void *connection = klieg_arg(c, 1);
	c->user[0] = (uint64_t)(uintptr_t)connection;
	answers[place(connection)].connection = NULL;
	klieg_set_text(c, "http.request.method", klieg_arg(c, 3));
	klieg_set_text(c, "url.path", klieg_arg(c, 2));
	if (c->level < KLIEG_LEVEL_DETAIL)
		return;
	const char *version = klieg_arg(c, 4);
	if (version && !strncmp(version, "HTTP/", 5))
		klieg_set_text(c, "network.protocol.version", version + 5);
	klieg_set_text(c, "user_agent.original", header(connection, "User-Agent"));
	void *const *info = mhd.info(connection, INFO_CLIENT_ADDRESS);
	const struct sockaddr *sa = info ? *info : NULL;
	if (sa)
		c->host->address(c, "client", sa, sa->sa_family == AF_INET6 ? 28 : 16);
}

static void leave(struct klieg_call *c)
{
	const void *connection = (const void *)(uintptr_t)c->user[0];
	unsigned at = place(connection);
	if (answers[at].connection != connection) {
		c->host->drop(c);
		return;
	}
	answers[at].connection = NULL;
	klieg_set_int(c, "http.response.status_code", (int64_t)answers[at].status);
	if (answers[at].status >= 500)
		c->host->status(c, 1, NULL);
}

/* MHD_queue_response(connection, status, response): by the same name as the handler, so that they are switched together. */
static int queue_enter(struct klieg_call *c)
{
	static char told;
	void *connection = klieg_arg(c, 0), *const *daemon, *handler = NULL;
	char text[200];
	Dl_info d;
	unsigned at = place(connection);
	answers[at].status = c->args[1] & 0xffff;
	answers[at].connection = connection;
	if (__atomic_exchange_n(&told, 1, __ATOMIC_RELAXED) || given)
		return KLIEG_PASS;
	/* struct MHD_Daemon begins with the handler's address, in all versions so far */
	daemon = mhd.info(connection, INFO_DAEMON);
	if (daemon && *daemon && c->host->read(&handler, *daemon, sizeof handler) == sizeof handler && dladdr(handler, &d) &&
		d.dli_fname) {
		const char *file = strrchr(d.dli_fname, '/');
		if (d.dli_sname && d.dli_saddr == handler)
			snprintf(text, sizeof text, "requests become spans with --plugin microhttpd:handler=%s", d.dli_sname);
		else
			snprintf(text, sizeof text, "requests become spans with --plugin microhttpd:handler=FUNC: the function at %s+0x%lx",
				file ? file + 1 : d.dli_fname,
				(unsigned long)((const char *)handler - (const char *)d.dli_fbase));
		c->host->note("microhttpd", text);
	}
	return KLIEG_PASS;
}

static const struct klieg_plugin_hook hooks[] = {
	{ .function = "handler", .site = "http.server", .kind = KLIEG_KIND_SERVER, .flags = KLIEG_HOOK_ROOT | KLIEG_HOOK_GIVEN,
		.level = KLIEG_LEVEL_COUNT, .enter = enter,
		.begin = begin, .leave = leave },
	{ .library = "libmicrohttpd.so.12*", .function = "MHD_queue_response", .site = "http.server", .kind = KLIEG_KIND_SERVER,
		.level = KLIEG_LEVEL_COUNT, .enter = queue_enter },
};

static struct klieg_plugin plugin = { sizeof plugin, KLIEG_PLUGIN_ABI, "microhttpd", "1.0",
	"libmicrohttpd 0.9.37 and later (soname 12)", NULL, KLIEG_PLUGIN_HOOKS(hooks), NULL };

const struct klieg_plugin *klieg_plugin(const struct klieg_host *host)
{
	void *so = dlopen("libmicrohttpd.so.12", RTLD_LAZY | RTLD_NOLOAD);
	char option[2];
	if (host->abi != KLIEG_PLUGIN_ABI)
		return NULL;
	given = host->option("microhttpd", "handler", option, sizeof option) > 0;
	if (!so || !(*(void **)&mhd.header = dlsym(so, "MHD_lookup_connection_value")) ||
		!(*(void **)&mhd.info = dlsym(so, "MHD_get_connection_info")))
		plugin.unfit = "no libmicrohttpd.so.12 is loaded";
	return &plugin;
}
