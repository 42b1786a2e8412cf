/* hiredis: a client span for each command, the peer from the connection's descriptor, errors from the reply. Formats ("SET %s
 * %b") are their own normalised text; of argument vectors only the command's name is taken: the rest are values. */
#include <klieg/plugin.h>
#include <ctype.h>
#include <dlfcn.h>
#include <sys/socket.h>

enum { REPLY_ERROR = 6 };
/* Where things are, by the library's soname: it is raised whenever these structures change. */
static const struct recipe { const char *soname; size_t fd, text; } recipes[] = {
	/* redisContext: int err; char errstr[128]; int fd. redisReply: type, integer, len, str */
	{ "libhiredis.so.0.13", 132, 24 }, { "libhiredis.so.0.14", 132, 24 },
	/* since 1.0 a function table comes before, and a double */
	{ "libhiredis.so.1.0.0", 140, 32 }, { "libhiredis.so.1.1.0", 140, 32 }, { "libhiredis.so.1", 140, 32 },
};
static const struct recipe *recipe;
static int filtered; /* by seccomp: no system calls of ours */

static void describe(struct klieg_call *c, const char *redis)
{
	struct sockaddr_storage ss;
	socklen_t n = sizeof ss;
	int fd;
	memcpy(&fd, redis + recipe->fd, sizeof fd);
	klieg_set_text(c, "db.system.name", "redis");
	if (!filtered && !getpeername(fd, (struct sockaddr *)&ss, &n))
		c->host->address(c, "server", &ss, n);
}

/* The first word, in capitals, lives in the call's scratch words: 31 bytes are enough for every command. */
static void name(struct klieg_call *c, const char *s, size_t n)
{
	char *to = (char *)c->user;
	size_t k = 0;
	while (k < n && k < 31 && s[k] && !isspace((unsigned char)s[k]) && s[k] != '%')
		to[k] = (char)toupper((unsigned char)s[k]), k++;
	to[k] = 0;
	if (k)
		klieg_set_text(c, "db.operation.name", to);
}

static void format_begin(struct klieg_call *c)
{
	const char *format = klieg_arg(c, 1);
	if (!klieg_arg(c, 0) || !format)
		return;
	describe(c, klieg_arg(c, 0));
	klieg_set_text(c, "db.query.text", strchr(format, '%') ? format : NULL); /* without a placeholder it may be all values */
	name(c, format, 31);
}

static void argv_begin(struct klieg_call *c)
{
	const char *const *argv = klieg_arg(c, 2);
	const size_t *len = klieg_arg(c, 3);
	if (!klieg_arg(c, 0))
		return;
	describe(c, klieg_arg(c, 0));
	if (klieg_arg_int(c, 1) > 0 && argv)
		name(c, argv[0], len ? len[0] : 31);
	klieg_set_int(c, "db.redis.arguments", klieg_arg_int(c, 1) - 1);
}

static void reply_leave(struct klieg_call *c)
{
	const char *reply = klieg_result(c);
	int type = 0;
	const char *text = NULL;
	if (!reply) {
		c->host->status(c, 1, NULL);
		return;
	}
	memcpy(&type, reply, sizeof type);
	memcpy(&text, reply + recipe->text, sizeof text);
	if (type == REPLY_ERROR)
		c->host->status(c, 1, text);
}

#define LIB "libhiredis.so.*"
static const struct klieg_plugin_hook hooks[] = {
	{ .library = LIB, .function = "redisvCommand", .site = "hiredis.command", .kind = KLIEG_KIND_CLIENT,
		.level = KLIEG_LEVEL_SPAN, .begin = format_begin, .leave = reply_leave },
	{ .library = LIB, .function = "redisCommandArgv", .site = "hiredis.command", .kind = KLIEG_KIND_CLIENT,
		.level = KLIEG_LEVEL_SPAN, .begin = argv_begin, .leave = reply_leave },
	{ .library = LIB, .function = "redisvAppendCommand", .site = "hiredis.append", .kind = KLIEG_KIND_CLIENT,
		.fails = KLIEG_FAILS_NONZERO, .begin = format_begin },
	{ .library = LIB, .function = "redisAppendCommandArgv", .site = "hiredis.append", .kind = KLIEG_KIND_CLIENT,
		.fails = KLIEG_FAILS_NONZERO, .begin = argv_begin },
	{ .library = LIB, .function = "redisGetReply", .site = "hiredis.reply", .kind = KLIEG_KIND_CLIENT,
		.fails = KLIEG_FAILS_NONZERO },
};

static struct klieg_plugin plugin = { sizeof plugin, KLIEG_PLUGIN_ABI, "hiredis", "1.0", "hiredis 0.13, 0.14, 1.0 to 1.2", NULL,
	KLIEG_PLUGIN_HOOKS(hooks), NULL };

const struct klieg_plugin *klieg_plugin(const struct klieg_host *host)
{
	for (size_t i = 0; i < sizeof recipes / sizeof *recipes && !recipe; i++)
		if (dlopen(recipes[i].soname, RTLD_LAZY | RTLD_NOLOAD))
			recipe = &recipes[i];
	if (!recipe)
		plugin.unfit = "no hiredis of a known version is loaded (0.13, 0.14, 1.0 to 1.2)";
	if (host->abi != KLIEG_PLUGIN_ABI)
		return NULL;
	filtered = host->filtered();
	return &plugin;
}
