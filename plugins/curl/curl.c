/* libcurl: a client span for each transfer, which carries the trace context to the server as headers. By the easy interface that is a call; by the multi
 * interface it lasts from curl_multi_add_handle() until its end is told by curl_multi_info_read(), or the handle is taken out.
 *
 * The handle's own header list must be kept, and libcurl does not tell it. Where in a handle it is, is found out once, on the
 * program's thread at the first transfer: a handle of our own is given a list and searched for it. If that does not work out,
 * spans are made all the same, without headers, and a note says so. */
#include <klieg/plugin.h>
#include <dlfcn.h>
#include <malloc.h>
#include <stdio.h>

/* From curl.h, whose numbers never change. */
struct curl_slist { char *data; struct curl_slist *next; };
enum { OPT_HTTPHEADER = 10023, INFO_EFFECTIVE_URL = 0x100001, INFO_RESPONSE_CODE = 0x200002, INFO_PRIMARY_IP = 0x100020,
	INFO_PRIMARY_PORT = 0x200028,
	INFO_EFFECTIVE_METHOD = 0x10003a, INFO_SIZE_UPLOAD_T = 0x600007, INFO_SIZE_DOWNLOAD_T = 0x600008 };

static struct {
	void *(*init)(void);
	void (*cleanup)(void *);
	int (*setopt)(void *, int, ...);
	int (*getinfo)(void *, int, ...);
	const char *(*strerror)(int);
	struct curl_slist *(*append)(struct curl_slist *, const char *);
	void (*free_all)(struct curl_slist *);
} curl;
static long headers_at; /* offset of the list in a handle; 0: not looked for yet, -1: not found, -2: somebody is looking */

static long look(const struct klieg_host *host)
{
	static struct curl_slist mark[1];
	void *h = curl.init();
	long found = -1, times = 0;
	if (!h)
		return -1;
	size_t n = malloc_usable_size(h) / sizeof(void *);
	void *volatile *words = h;
	curl.setopt(h, OPT_HTTPHEADER, mark);
	for (size_t i = 0; i < n; i++)
		if (words[i] == mark)
			found = (long)(i * sizeof(void *)), times++;
	curl.setopt(h, OPT_HTTPHEADER, NULL);
	if (times != 1 || words[(size_t)found / sizeof(void *)]) {
		host->note("curl", "this libcurl keeps its header list elsewhere: requests carry no trace context");
		found = -1;
	}
	curl.cleanup(h);
	return found;
}

static long place(const struct klieg_host *host)
{
	long at = __atomic_load_n(&headers_at, __ATOMIC_ACQUIRE), none = 0;
	if (at == 0 && __atomic_compare_exchange_n(&headers_at, &none, -2, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)) {
		at = look(host);
		__atomic_store_n(&headers_at, at, __ATOMIC_RELEASE);
	}
	return at;
}

/* ---- headers ---------------------------------------------------------------------------------------------------------------- */

/* What was put before the handle's own list. */
struct added { struct curl_slist *first, *last, *own; };

static void add_headers(struct klieg_call *c, void *h, struct added *ret)
{
	struct klieg_plugin_headers w3c;
	char line[512];
	*ret = (struct added){ NULL, NULL, NULL };
	long at = h ? place(c->host) : -1;
	if (at <= 0 || !c->host->headers(c, &w3c))
		return;
	struct curl_slist *own = *(struct curl_slist **)((char *)h + at), *first, *last;
	for (const struct curl_slist *s = own; s; s = s->next)
		if (s->data && !strncasecmp(s->data, "traceparent:", 12))
			return; /* the program is traced by other means, and says so */
	snprintf(line, sizeof line, "traceparent: %s", w3c.traceparent);
	first = last = curl.append(NULL, line);
	if (first && w3c.tracestate[0]) {
		snprintf(line, sizeof line, "tracestate: %s", w3c.tracestate);
		if (curl.append(first, line))
			last = first->next;
	}
	if (!first)
		return;
	last->next = own;
	curl.setopt(h, OPT_HTTPHEADER, first);
	*ret = (struct added){ first, last, own };
}

static void remove_headers(void *h, const struct added *a)
{
	if (!a->first)
		return;
	if (*(struct curl_slist **)((char *)h + headers_at) == a->first) /* the program may have set another */
		curl.setopt(h, OPT_HTTPHEADER, a->own);
	a->last->next = NULL;
	curl.free_all(a->first);
}

/* ---- a transfer's end ------------------------------------------------------------------------------------------------------- */

/* rc: what libcurl says of it; -1: nothing. */
static void describe(struct klieg_call *c, void *h, int rc)
{
	const char *text = NULL;
	char url[1024];
	long number = 0;
	if (rc > 0)
		c->host->status(c, 1, curl.strerror(rc));
	else if (!curl.getinfo(h, INFO_RESPONSE_CODE, &number) && number >= 400)
		c->host->status(c, 1, NULL);
	if (c->level < KLIEG_LEVEL_DETAIL)
		return;
	if (number > 0)
		klieg_set_int(c, "http.response.status_code", number);
	if (!curl.getinfo(h, INFO_EFFECTIVE_METHOD, &text) && text) /* since 7.72 */
		klieg_set_text(c, "http.request.method", text);
	if (!curl.getinfo(h, INFO_EFFECTIVE_URL, &text) && text) {
		const char *host = strstr(text, "://"), *at;
		host = host ? host + 3 : text;
		int scheme = (int)(host - text);
		at = memchr(host, '@', strcspn(host, "/?#"));
		host = at ? at + 1 : host;
		/* no password, no query: they may be secret */
		snprintf(url, sizeof url, "%.*s%.*s", scheme, text, (int)strcspn(host, "?#"), host);
		klieg_set_text(c, "url.full", url);
		klieg_set_textn(c, "server.address", host, *host == '[' ? strcspn(host, "]") + 1 : strcspn(host, ":/?#"));
	}
	if (!curl.getinfo(h, INFO_PRIMARY_IP, &text) && text && *text)
		klieg_set_text(c, "network.peer.address", text);
	if (!curl.getinfo(h, INFO_PRIMARY_PORT, &number) && number > 0)
		klieg_set_int(c, "server.port", number);
	int64_t bytes = 0;
	if (!curl.getinfo(h, INFO_SIZE_DOWNLOAD_T, &bytes))
		klieg_set_int(c, "http.response.body.size", bytes);
}

/* ---- transfers under way ---------------------------------------------------------------------------------------------------- */

/* By handle, which one thread uses at a time. An easy transfer is here since libcurl does it by its own multi interface. */
enum { TRANSFERS = 4096, TRIES = 16 };
static struct transfer { void *handle; int easy; struct added added; } transfers[TRANSFERS];

static struct transfer *transfer_of(void *h, int make)
{
	for (uint32_t i = 0, at = (uint32_t)(((uintptr_t)h >> 4) * 2654435761u); i < TRIES; i++) {
		struct transfer *t = &transfers[(at + i) % TRANSFERS];
		void *is = __atomic_load_n(&t->handle, __ATOMIC_ACQUIRE);
		if (is == h && !make)
			return t;
		if (!is && make && __atomic_compare_exchange_n(&t->handle, &is, h, 0, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED))
			return t;
	}
	return NULL; /* no room: without headers, and seen twice if it is an easy one */
}
static void forget(struct transfer *t) { __atomic_store_n(&t->handle, NULL, __ATOMIC_RELEASE); }

static void begin(struct klieg_call *c)
{
	void *h = klieg_arg(c, 0);
	struct transfer *t = h ? transfer_of(h, 1) : NULL;
	c->user[0] = (uint64_t)(uintptr_t)h;
	c->user[1] = (uint64_t)(uintptr_t)t;
	if (!t)
		return;
	t->easy = 1;
	add_headers(c, h, &t->added);
}

static void leave(struct klieg_call *c)
{
	void *h = (void *)(uintptr_t)c->user[0];
	struct transfer *t = (struct transfer *)(uintptr_t)c->user[1];
	if (t) {
		remove_headers(h, &t->added);
		forget(t);
	}
	describe(c, h, klieg_result_int(c));
}

static int added(struct klieg_call *c)
{
	void *h = klieg_arg(c, 1);
	if (!h || transfer_of(h, 0) || !c->host->open(c, h))
		return KLIEG_PASS;
	struct transfer *t = transfer_of(h, 1);
	if (t) {
		t->easy = 0;
		add_headers(c, h, &t->added);
	}
	return KLIEG_PASS;
}

static void over(struct klieg_call *c, void *h, int rc)
{
	struct transfer *t = h ? transfer_of(h, 0) : NULL;
	if (!t || t->easy)
		return;
	remove_headers(h, &t->added);
	forget(t);
	if (!c->host->find(c, h))
		return;
	describe(c, h, rc);
	c->host->close(c, h);
}

static void told(struct klieg_call *c)
{
	const struct { int what; void *handle; union { void *any; int rc; } data; } *m = klieg_result(c); /* struct CURLMsg; 1 = CURLMSG_DONE */
	c->host->drop(c); /* asking is no transfer */
	if (m && m->what == 1)
		over(c, m->handle, m->data.rc);
}

static int removed(struct klieg_call *c) { over(c, klieg_arg(c, 1), -1); return KLIEG_PASS; }
static int cleaned(struct klieg_call *c) { over(c, klieg_arg(c, 0), -1); return KLIEG_PASS; }

#define CLIENT(fn, ...) { .library = "libcurl*.so.4*", .function = fn, .site = "http.client", .kind = KLIEG_KIND_CLIENT, .level = KLIEG_LEVEL_SPAN, __VA_ARGS__ }
static const struct klieg_plugin_hook hooks[] = {
	CLIENT("curl_easy_perform", .begin = begin, .leave = leave),
	CLIENT("curl_multi_add_handle", .enter = added),
	CLIENT("curl_multi_info_read", .leave = told),
	CLIENT("curl_multi_remove_handle", .enter = removed),
	CLIENT("curl_easy_cleanup", .enter = cleaned),
};

static struct klieg_plugin plugin = { sizeof plugin, KLIEG_PLUGIN_ABI, "curl", "1.0",
	"libcurl 7.16 and later", NULL, KLIEG_PLUGIN_HOOKS(hooks), NULL };

const struct klieg_plugin *klieg_plugin(const struct klieg_host *host)
{
	static const char *const names[] = { "libcurl.so.4", "libcurl-gnutls.so.4", "libcurl-nss.so.4" };
	void *so = NULL;
	for (size_t i = 0; i < sizeof names / sizeof *names && !so; i++)
		so = dlopen(names[i], RTLD_LAZY | RTLD_NOLOAD);
	if (host->abi != KLIEG_PLUGIN_ABI)
		return NULL;
	if (!so) {
		plugin.unfit = "no libcurl.so.4 is loaded";
		return &plugin;
	}
	static const struct { const char *name; void *to; } needs[] = { { "curl_easy_init", &curl.init },
		{ "curl_easy_cleanup", &curl.cleanup }, { "curl_easy_setopt", &curl.setopt },
		{ "curl_easy_getinfo", &curl.getinfo }, { "curl_easy_strerror", &curl.strerror }, { "curl_slist_append", &curl.append },
		{ "curl_slist_free_all", &curl.free_all } };
	for (size_t i = 0; i < sizeof needs / sizeof *needs; i++)
		if (!(*(void **)needs[i].to = dlsym(so, needs[i].name)))
			plugin.unfit = "this libcurl lacks a function that is needed";
	return &plugin;
}
