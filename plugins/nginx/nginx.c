/* nginx: a server span from a request's headers being complete to its end, across the event loop; what nginx does in between as
 * its children; and the trace context, in from the client and on to the upstream (as a header of the request, which proxy_pass
 * sends along).
 *
 * Functions come from the binary's dynamic symbols, which nginx needs for its modules. Where fields are in a request differs
 * between builds: found out once, at the first request, by patterns that cannot be anything else (see learn()). If they are not
 * there, requests are spans without attributes. */
#include <klieg/plugin.h>
#include <dlfcn.h>
#include <stdio.h>
#include <sys/socket.h>

typedef struct { size_t len; char *data; } str;
typedef struct { uintptr_t hash; str key, value; char *lowcase_key; } header; /* another pointer follows since 1.23 */
typedef struct part { void *elts; uintptr_t nelts; struct part *next; } part;
typedef struct { part *last; part first; size_t size; uintptr_t nalloc; void *pool; } list;

static void *(*list_push)(void *);
static void *(*palloc)(void *, size_t);
enum { WORDS = 200, SIGNATURE = 0x50545448 /* "HTTP" */ };
static struct { uint8_t state, in, status, line; } at; /* in words; state 1: known, 2: given up. A worker has one thread. */
static unsigned tries;
static int filtered; /* by seccomp: no system calls of ours */

static void learn(const struct klieg_host *host, const void *r)
{
	uintptr_t w[WORDS];
	size_t n = host->read(w, r, sizeof w) / sizeof *w;
	char text[32];
	unsigned in = 0, status = 0, line = 0;
	if (n && (uint32_t)w[0] == SIGNATURE)
		for (size_t i = 1; i + 16 < n && !in; i++)
			/* pool, header_in, headers_in.headers: an ngx_list_t of table elements in that pool */
			if (w[i] && w[i + 8] == w[i] && (w[i + 6] == sizeof(header) || w[i + 6] == sizeof(header) + 8) && w[i + 7] == 20)
				in = (unsigned)i + 2;
	for (size_t i = in + 7; in && i + 15 < n && !status; i++) /* headers_out: the headers, the trailers, the status */
		if (w[i + 4] == w[in + 4] && w[i + 6] == w[in + 6] && w[i + 11] == w[in + 4] && w[i + 13] == w[in + 6])
			status = (unsigned)i + 14;
	for (size_t i = status + 1; status && i + 14 < n && !line; i++)
		/* request_line, uri, args, exten, unparsed_uri, method_name (the line's first word) */
		if (w[i] > 10 && w[i] < 65536 && w[i + 11] == w[i + 1] && w[i + 10] >= 3 && w[i + 10] < 16 &&
			host->read(text, (void *)w[i + 1], 20) >= w[i + 10] + 2 &&
			text[w[i + 10]] == ' ' && text[w[i + 10] + 1] == '/')
			line = (unsigned)i;
	if (line && line < 256) {
		at.in = (uint8_t)in;
		at.status = (uint8_t)status;
		at.line = (uint8_t)line;
		at.state = 1;
	} else if (++tries == 1000) { /* HTTP/2 requests have no such line; wait for another */
		at.state = 2;
		host->note("nginx", "the structure of a request is not understood: no attributes, no trace context");
	}
}

/* headers_in as a struct klieg_host.parent() wants it. A table element's size differs; the list knows. */
static header *find(list *l, const char *name)
{
	size_t n = strlen(name);
	for (part *p = &l->first; p; p = p->next)
		for (uintptr_t i = 0; i < p->nelts; i++) {
			header *h = (header *)((char *)p->elts + i * l->size);
			if (h->hash && h->key.len == n && !strncasecmp(h->key.data, name, n))
				return h;
		}
	return NULL;
}

struct ask { list *l; char text[4][512]; int n; };
static const char *get(void *arg, const char *name)
{
	struct ask *a = arg;
	header *h = a->n < 4 ? find(a->l, name) : NULL;
	if (!h || h->value.len >= sizeof a->text[0])
		return NULL;
	memcpy(a->text[a->n], h->value.data, h->value.len);
	a->text[a->n][h->value.len] = 0;
	return a->text[a->n++];
}

static void put(list *l, const char *name, const char *value)
{
	size_t n = strlen(value), k = strlen(name);
	header *h = find(l, name);
	char *text = palloc(l->pool, n + k * 2 + 1);
	if (!text || (!h && !(h = list_push(l))))
		return;
	memset(h, 0, l->size);
	memcpy(text, value, n + 1);
	h->key.data = memcpy(text + n + 1, name, k);
	h->lowcase_key = h->key.data;
	h->key.len = k;
	h->value.data = text;
	h->value.len = n;
	h->hash = 1;
}

static int begin_enter(struct klieg_call *c)
{
	uintptr_t *r = klieg_arg(c, 0);
	struct klieg_plugin_headers w3c;
	if (!at.state)
		learn(c->host, r);
	list *l = at.state == 1 ? (list *)(r + at.in) : NULL;
	struct ask ask = { .l = l };
	if (l)
		c->host->parent(c, get, &ask);
	if (!c->host->open(c, r) || !l)
		return KLIEG_PASS;
	if (c->host->headers(c, &w3c)) {
		put(l, "traceparent", w3c.traceparent);
		if (*w3c.tracestate)
			put(l, "tracestate", w3c.tracestate);
	}
	const str *line = (const str *)(r + at.line); /* request_line, uri, args, exten, unparsed_uri, method_name */
	struct sockaddr_storage ss;
	socklen_t n = sizeof ss;
	header *host = find(l, "host");
	int fd;
	memcpy(&fd, (char *)r[1] + 3 * sizeof(void *), sizeof fd); /* ngx_connection_t: data, read, write, fd */
	klieg_set_textn(c, "http.request.method", line[5].data, line[5].len);
	klieg_set_textn(c, "url.path", line[1].data, line[1].len);
	if (host)
		klieg_set_textn(c, "server.address", host->value.data, host->value.len);
	if (!filtered && c->level >= KLIEG_LEVEL_DETAIL && !getpeername(fd, (struct sockaddr *)&ss, &n))
		c->host->address(c, "client", &ss, n);
	return KLIEG_PASS;
}

static int end_enter(struct klieg_call *c)
{
	const uintptr_t *r = klieg_arg(c, 0);
	if (!c->host->find(c, r))
		return KLIEG_PASS;
	uintptr_t status = at.state == 1 ? r[at.status] : 0;
	if (status >= 100 && status < 600) {
		klieg_set_int(c, "http.response.status_code", (int64_t)status);
		if (status >= 500)
			c->host->status(c, 1, NULL);
	}
	c->host->close(c, r);
	return KLIEG_PASS;
}

static int resume_enter(struct klieg_call *c) { return c->host->resume(c, klieg_arg(c, 0)) ? KLIEG_TRACE : KLIEG_PASS; }

static int reads(struct klieg_call *c)
{
	struct { void *data, *read, *write; int fd; } connection; /* the beginning of ngx_connection_t, since nginx 0.1 */
	if (!filtered && c->host->size >= sizeof *c->host && c->host->read(&connection, klieg_arg(c, 0), sizeof connection) == sizeof connection)
		c->host->reading(c, connection.fd);
	return KLIEG_PASS;
}

#define STEP(fn, name) { .function = fn, .site = name, .flags = KLIEG_HOOK_ROOT | KLIEG_HOOK_OPTIONAL, .level = KLIEG_LEVEL_COUNT, \
	.enter = resume_enter }
static const struct klieg_plugin_hook hooks[] = {
	{ .function = "ngx_unix_recv", .site = "nginx.read", .flags = KLIEG_HOOK_OPTIONAL, .level = KLIEG_LEVEL_SPAN, .enter = reads },
	{ .function = "ngx_http_process_request", .site = "nginx.request", .kind = KLIEG_KIND_SERVER, .flags = KLIEG_HOOK_ROOT,
		.level = KLIEG_LEVEL_COUNT, .enter = begin_enter },
	{ .function = "ngx_http_free_request", .site = "nginx.request", .kind = KLIEG_KIND_SERVER, .level = KLIEG_LEVEL_COUNT,
		.enter = end_enter },
	STEP("ngx_http_core_run_phases", "nginx.phases"), STEP("ngx_http_upstream_init", "nginx.upstream"),
	STEP("ngx_http_send_header", "nginx.send_header"),
	STEP("ngx_http_output_filter", "nginx.output"), STEP("ngx_http_read_client_request_body", "nginx.read_body"),
	STEP("ngx_http_finalize_request", "nginx.finalize"),
};

static struct klieg_plugin plugin = { sizeof plugin, KLIEG_PLUGIN_ABI, "nginx", "1.0",
	"nginx 1.14 and later, with dynamic symbols", "nginx*", KLIEG_PLUGIN_HOOKS(hooks), NULL };

const struct klieg_plugin *klieg_plugin(const struct klieg_host *host)
{
	if (!(*(void **)&list_push = dlsym(RTLD_DEFAULT, "ngx_list_push")) ||
		!(*(void **)&palloc = dlsym(RTLD_DEFAULT, "ngx_pnalloc")))
		plugin.unfit = "this nginx exports no symbols";
	if (host->abi != KLIEG_PLUGIN_ABI)
		return NULL;
	filtered = host->filtered();
	return &plugin;
}
