/* OpenSSL: TLS handshakes. SSL_connect and SSL_accept come through SSL_do_handshake, which is the one that is intercepted. On a
 * non-blocking connection each attempt is a span; only the last one has a version. */
#include <klieg/plugin.h>
#include <dlfcn.h>
#include <sys/socket.h>

enum { ERROR_SSL = 1, ERROR_SYSCALL = 5 };
static struct {
	const char *(*version)(const void *), *(*servername)(const void *, int), *(*cipher_name)(const void *);
	const void *(*cipher)(const void *);
	int (*error)(const void *, int), (*fd)(const void *), (*is_server)(const void *);
	int (*reused)(const void *);
} ssl;

static int filtered; /* by seccomp: no system calls of ours */

static void begin(struct klieg_call *c)
{
	void *s = klieg_arg(c, 0);
	struct sockaddr_storage ss;
	socklen_t n = sizeof ss;
	c->user[0] = (uint64_t)(uintptr_t)s;
	if (!s || c->level < KLIEG_LEVEL_DETAIL)
		return;
	klieg_set_text(c, "tls.role", ssl.is_server(s) ? "server" : "client");
	if (!filtered && !getpeername(ssl.fd(s), (struct sockaddr *)&ss, &n))
		c->host->address(c, "network.peer", &ss, n);
}

static void leave(struct klieg_call *c)
{
	void *s = (void *)(uintptr_t)c->user[0];
	int rc = klieg_result_int(c), why = s && rc <= 0 ? ssl.error(s, rc) : 0; /* looks at the error queue, takes nothing from it */
	if (why == ERROR_SSL || why == ERROR_SYSCALL)
		c->host->status(c, 1, NULL);
	if (!s || c->level < KLIEG_LEVEL_DETAIL)
		return;
	klieg_set_bool(c, "tls.established", rc == 1);
	klieg_set_text(c, "tls.server_name", ssl.servername(s, 0));
	if (rc != 1)
		return;
	klieg_set_text(c, "tls.protocol.version", ssl.version(s));
	klieg_set_text(c, "tls.cipher", ssl.cipher_name(ssl.cipher(s)));
	klieg_set_bool(c, "tls.resumed", ssl.reused(s) != 0);
}

static const struct klieg_plugin_hook hooks[] = {
	{ .library = "libssl.so.*", .function = "SSL_do_handshake", .site = "tls.handshake", .level = KLIEG_LEVEL_SPAN,
		.begin = begin, .leave = leave },
};

static struct klieg_plugin plugin = { sizeof plugin, KLIEG_PLUGIN_ABI, "openssl", "1.0", "OpenSSL 1.1 and 3", NULL,
	KLIEG_PLUGIN_HOOKS(hooks), NULL };

const struct klieg_plugin *klieg_plugin(const struct klieg_host *host)
{
	void *so = dlopen("libssl.so.3", RTLD_LAZY | RTLD_NOLOAD);
	if (!so)
		so = dlopen("libssl.so.1.1", RTLD_LAZY | RTLD_NOLOAD);
	if (host->abi != KLIEG_PLUGIN_ABI)
		return NULL;
	filtered = host->filtered();
	if (!so) {
		plugin.unfit = "no libssl of OpenSSL 1.1 or 3 is loaded";
		return &plugin;
	}
	static const struct { const char *name; void *to; } needs[] = { { "SSL_get_version", &ssl.version },
		{ "SSL_get_servername", &ssl.servername },
		{ "SSL_CIPHER_get_name", &ssl.cipher_name }, { "SSL_get_current_cipher", &ssl.cipher }, { "SSL_get_error", &ssl.error },
			{ "SSL_get_fd", &ssl.fd },
		{ "SSL_is_server", &ssl.is_server }, { "SSL_session_reused", &ssl.reused } };
	for (size_t i = 0; i < sizeof needs / sizeof *needs; i++)
		if (!(*(void **)needs[i].to = dlsym(so, needs[i].name)))
			plugin.unfit = "this libssl lacks a function of OpenSSL 1.1";
	return &plugin;
}
