/* memcached: its binary is stripped to the last name, so its functions cannot be told apart. What can be seen is where its
 * requests come in and go out: a span lasts from the read() that brought a command to the sendmsg() that answers. Commands that
 * arrive together are one span, named for the first. The text and the binary protocol; not over TLS. Commands that get no answer
 * (noreply, quiet) are no requests here. */
#include <klieg/plugin.h>
#include <ctype.h>
#include <errno.h>
#include <sys/socket.h>

enum { CONNECTIONS = 65536, BINARY = 0x80 };
static int filtered; /* by seccomp: no system calls of ours */
static char connections[CONNECTIONS]; /* only their addresses are used: a key for each descriptor */

static const char *const commands[] = { "get", "gets", "gat", "gats", "set", "add", "replace", "append", "prepend", "cas",
	"delete", "incr", "decr", "touch", "mg", "ms", "md", "ma",
	"mn", "me", "stats", "flush_all", "version", "verbosity" };
static const char *const binary[] = { "GET", "SET", "ADD", "REPLACE", "DELETE", "INCR", "DECR", "QUIT", "FLUSH_ALL", "", "NOOP",
	"VERSION", "GET", "", "APPEND", "PREPEND",
	"STATS" }; /* by opcode; "": quiet */

/* The first command's name in capitals, "" if these bytes begin none (the rest of a value, most likely). */
static void command(const unsigned char *s, size_t n, char to[16])
{
	size_t k = 0;
	to[0] = 0;
	if (n >= 24 && s[0] == BINARY && s[1] < sizeof binary / sizeof *binary) {
		memcpy(to, binary[s[1]], strlen(binary[s[1]]) + 1);
		return;
	}
	if (n >= 10 && memmem(s, n < 512 ? n : 512, " noreply\r\n", 10))
		return;
	while (k < n && k < 15 && (islower(s[k]) || s[k] == '_'))
		k++;
	if (!k || k == n || (s[k] != ' ' && s[k] != '\r' && s[k] != '\n'))
		return;
	for (size_t i = 0; i < sizeof commands / sizeof *commands; i++)
		if (strlen(commands[i]) == k && !memcmp(commands[i], s, k)) {
			for (size_t j = 0; j < k; j++)
				to[j] = (char)toupper(s[j]);
			to[k] = 0;
		}
}

static int read_enter(struct klieg_call *c)
{
	c->user[0] = c->args[0];
	c->user[1] = c->args[1];
	if (!filtered && c->host->size >= sizeof *c->host)
		c->host->reading(c, klieg_arg_int(c, 0));
	return (unsigned)klieg_arg_int(c, 0) < CONNECTIONS ? KLIEG_TRACE : KLIEG_PASS;
}

static void read_leave(struct klieg_call *c)
{
	int64_t n = (int64_t)c->result;
	int fd = (int)c->user[0];
	char name[16];
	c->host->drop(c); /* the call itself is not the request */
	if (n <= 0)
		return;
	command((const unsigned char *)(uintptr_t)c->user[1], (size_t)n, name);
	struct sockaddr_storage ss;
	socklen_t len = sizeof ss;
	if (!*name || (!filtered && getpeername(fd, (struct sockaddr *)&ss, &len)) || !c->host->open(c, connections + fd))
		return;
	klieg_set_text(c, "db.system.name", "memcached");
	klieg_set_text(c, "db.operation.name", name);
	klieg_set_int(c, "network.io.bytes", n);
	if (!filtered)
		c->host->address(c, "client", &ss, len);
}

static int send_enter(struct klieg_call *c)
{
	int fd = klieg_arg_int(c, 0);
	if ((unsigned)fd < CONNECTIONS)
		c->host->close(c, connections + fd);
	return KLIEG_PASS;
}

static const struct klieg_plugin_hook hooks[] = {
	{ .library = "libc.so.6", .function = "read", .site = "memcached.request", .kind = KLIEG_KIND_SERVER,
		.flags = KLIEG_HOOK_ROOT | KLIEG_HOOK_OPENS, .level = KLIEG_LEVEL_COUNT, .enter = read_enter,
		.leave = read_leave },
	{ .library = "libc.so.6", .function = "sendmsg", .site = "memcached.request", .kind = KLIEG_KIND_SERVER,
		.level = KLIEG_LEVEL_COUNT, .enter = send_enter },
};

static struct klieg_plugin plugin = { sizeof plugin, KLIEG_PLUGIN_ABI, "memcached", "1.0", "memcached 1.4.31 and later",
	"memcached", KLIEG_PLUGIN_HOOKS(hooks), NULL };

const struct klieg_plugin *klieg_plugin(const struct klieg_host *host)
{
	if (strncmp(program_invocation_short_name, "memcached", 9)) /* any program reads and sends */
		plugin.unfit = "this is no memcached";
	if (host->abi != KLIEG_PLUGIN_ABI)
		return NULL;
	filtered = host->filtered();
	return &plugin;
}
