/* Name resolution: getaddrinfo and its elders. The span is the whole of it, /etc/hosts, nscd and the wire. */
#include <klieg/plugin.h>
#include <netdb.h>

static void begin(struct klieg_call *c)
{
	klieg_set_text(c, "dns.question.name", klieg_arg(c, 0));
	if (klieg_arg(c, 1) && c->hook->data)
		klieg_set_text(c, "network.service", klieg_arg(c, 1));
}

static void leave(struct klieg_call *c)
{
	int rc = klieg_result_int(c);
	if (rc) {
		c->host->status(c, 1, gai_strerror(rc));
		klieg_set_int(c, "error.code", rc);
	}
}

static const struct klieg_plugin_hook hooks[] = {
	{ .library = "libc.so.6", .function = "getaddrinfo", .site = "dns.lookup", .kind = KLIEG_KIND_CLIENT,
		.level = KLIEG_LEVEL_SPAN, .begin = begin, .leave = leave,
		.data = "takes a service" },
	{ .library = "libc.so.6", .function = "gethostbyname", .site = "dns.lookup", .kind = KLIEG_KIND_CLIENT,
		.fails = KLIEG_FAILS_NULL, .begin = begin },
	{ .library = "libc.so.6", .function = "gethostbyname_r", .site = "dns.lookup", .kind = KLIEG_KIND_CLIENT,
		.fails = KLIEG_FAILS_NONZERO, .begin = begin },
	{ .library = "libcares.so.2*", .function = "ares_getaddrinfo", .site = "dns.start", .flags = KLIEG_HOOK_OPTIONAL },
};

static const struct klieg_plugin plugin = { sizeof plugin, KLIEG_PLUGIN_ABI, "dns", "1.0", "glibc 2.17 and later", NULL,
	KLIEG_PLUGIN_HOOKS(hooks), NULL };

const struct klieg_plugin *klieg_plugin(const struct klieg_host *host) { return host->abi == KLIEG_PLUGIN_ABI ? &plugin : NULL; }
