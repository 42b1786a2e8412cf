/* redis-server: a server span for each command of a client. The command's name is its first argument, in struct client, whose
 * layout is Redis' own: where the arguments are is found out at the first commands by what they must look like, looked at again
 * each time, and without it spans have no attributes. */
#include <klieg/plugin.h>
#include <ctype.h>
#include <dlfcn.h>
#include <string.h>

struct object { uint32_t head; int refcount; const char *text; }; /* robj: type 4 bits, encoding 4, lru 24 */
enum { TYPE_STRING = 0, ENCODING_RAW = 0, ENCODING_EMBEDDED = 8 };

/* The text of a string object: 0, or -1 if it is none. Reads nothing that may not be there. */
static int text_of(const struct klieg_host *host, const struct object *o, char *to, size_t n)
{
	struct object x;
	if (host->read(&x, o, sizeof x) != sizeof x || (x.head & 15) != TYPE_STRING || x.refcount <= 0)
		return -1;
	unsigned encoding = x.head >> 4 & 15;
	return (encoding == ENCODING_RAW || encoding == ENCODING_EMBEDDED) && host->read_text(to, n, x.text) > 0 ? 0 : -1;
}

/* argc and argv, if they are at that offset: the first argument is a word. */
static int command_at(const struct klieg_host *host, const char *client, unsigned offset, int *ret_argc, char name[32])
{
	struct { int argc, pad; struct object **argv; } x;
	struct object *first;
	if (host->read(&x, client + offset, sizeof x) != sizeof x || x.argc < 1 || x.argc > 1 << 20 ||
		host->read(&first, x.argv, sizeof first) != sizeof first || text_of(host, first, name, 32))
		return -1;
	for (char *s = name; *s; s++)
		if (!isalnum((unsigned char)*s) && !strchr("._-", *s))
			return -1;
	*ret_argc = x.argc;
	return 0;
}

static void begin(struct klieg_call *c)
{
	static unsigned offset, tries; /* 0: not known yet */
	const char *client = klieg_arg(c, 0);
	char *name = (char *)c->user;
	int argc;
	unsigned now = __atomic_load_n(&offset, __ATOMIC_RELAXED);
	klieg_set_text(c, "db.system.name", "redis");
	for (unsigned o = 48; !now && o <= 200 && tries < 100; o += 8)
		if (!command_at(c->host, client, o, &argc, name))
			__atomic_store_n(&offset, now = o, __ATOMIC_RELAXED);
	if (!now && tries < 100 && ++tries == 100)
		c->host->note("redis-server", "the structure of a client is not understood: commands have no names");
	if (!now || command_at(c->host, client, now, &argc, name))
		return;
	for (char *s = name; *s; s++)
		*s = (char)toupper((unsigned char)*s);
	klieg_set_text(c, "db.operation.name", name);
	klieg_set_int(c, "db.redis.arguments", argc - 1);
}

static int silent; /* no system calls of ours: seccomp watches, or Klieg is too old to be asked */

/* A command is about to be read. Of a connection its descriptor is wanted: Redis 5 gives it as an argument, later it is in a structure that grew. */
static int reads(struct klieg_call *c)
{
	static const unsigned offsets[] = { 56 /* 6.0 to 7.0 */, 16 /* since 7.2 */ };
	int fd;
	for (unsigned i = 0; !silent && i < sizeof offsets / sizeof *offsets; i++)
		if (c->host->read(&fd, (const char *)klieg_arg(c, 0) + offsets[i], sizeof fd) == sizeof fd && fd > 2 && c->host->reading(c, fd))
			return KLIEG_PASS;
	if (!silent && (fd = klieg_arg_int(c, 1)) > 2 && fd < 1 << 20)
		c->host->reading(c, fd);
	return KLIEG_PASS;
}

static const struct klieg_plugin_hook hooks[] = {
	{ .function = "readQueryFromClient", .site = "redis.read", .flags = KLIEG_HOOK_OPTIONAL, .level = KLIEG_LEVEL_SPAN, .enter = reads },
	{ .function = "processCommand", .site = "redis.command", .kind = KLIEG_KIND_SERVER, .flags = KLIEG_HOOK_ROOT,
		.begin = begin },
	{ .function = "call", .site = "redis.call", .begin = begin },
	{ .function = "rdbSave", .site = "redis.save", .flags = KLIEG_HOOK_OPTIONAL, .fails = KLIEG_FAILS_NONZERO },
	{ .function = "flushAppendOnlyFile", .site = "redis.aof", .flags = KLIEG_HOOK_OPTIONAL },
	{ .function = "activeExpireCycle", .site = "redis.expire", .flags = KLIEG_HOOK_OPTIONAL },
	{ .function = "performEvictions", .site = "redis.evict", .flags = KLIEG_HOOK_OPTIONAL },
};

static struct klieg_plugin plugin = { sizeof plugin, KLIEG_PLUGIN_ABI, "redis-server", "1.0",
	"Redis 5 to 7, built with -rdynamic, as they are",
	"redis-*", KLIEG_PLUGIN_HOOKS(hooks), NULL };

const struct klieg_plugin *klieg_plugin(const struct klieg_host *host)
{
	if (!dlsym(RTLD_DEFAULT, "processCommand"))
		plugin.unfit = "this is no redis-server, or one that exports no symbols";
	if (host->abi != KLIEG_PLUGIN_ABI)
		return NULL;
	silent = host->size < sizeof *host || host->filtered();
	return &plugin;
}
