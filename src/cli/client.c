/* The way to the server: HTTP/1.1 over TCP or a UNIX socket, one connection per request, blocking. Small on purpose: `klieg on` is typed by hand and
 * should be over before the hand leaves the key. Parsing of chunked bodies is a pure state machine (chunks_feed). */
#include "cli/cli.h"
#include <ctype.h>
#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define MAX_BODY (256u << 20)
#define MAX_HEAD (64u << 10)

volatile int cli_interrupted;

static bool is_socket(const char *path)
{
	struct stat st;
	return stat(path, &st) == 0 && S_ISSOCK(st.st_mode);
}

static int parse_server(const char *s, struct client *c, struct err *e)
{
	const char *all = s;
	if (!strncmp(s, "unix:", 5) || *s == '/' || *s == '.') {
		s += strncmp(s, "unix:", 5) ? 0 : 5;
		if (strlen(s) >= sizeof(c->path))
			return err_set(e, KLIEG_E_USAGE, "the path of the socket is too long: '%.120s'", s);
		memcpy(c->path, s, strlen(s) + 1);
		snprintf(c->named, sizeof(c->named), "%s", s);
		return 0;
	}
	if (!strncmp(s, "http://", 7))
		s += 7;
	else if (strstr(s, "://"))
		return err_set(e, KLIEG_E_USAGE, "'%.100s': only http:// and sockets are spoken here", s);
	size_t n = strcspn(s, "/");
	const char *colon = memrchr(s, ':', n), *bracket = memrchr(s, ']', n);
	if (colon && bracket && colon < bracket)
		colon = NULL;
	size_t hn = colon ? (size_t)(colon - s) : n;
	size_t pn = colon ? n - hn - 1 : 0;
	if (*s == '[' && hn > 2 && s[hn - 1] == ']')
		s++, hn -= 2;
	if (!hn || hn >= sizeof(c->host) || pn >= sizeof(c->port) || (colon && !pn))
		goto bad;
	snprintf(c->host, sizeof(c->host), "%.*s", (int)hn, s);
	snprintf(c->port, sizeof(c->port), "%.*s", (int)(colon ? pn : 4), colon ? colon + 1 : "7070");
	if (strspn(c->port, "0123456789") != strlen(c->port))
		goto bad;
	snprintf(c->named, sizeof(c->named), strchr(c->host, ':') ? "http://[%s]:%s" : "http://%s:%s", c->host, c->port);
	return 0;
bad:
	err_set(e, KLIEG_E_USAGE, "'%.100s' is not the address of a server", all);
	return err_hint(e, "write it like http://127.0.0.1:7070 or /path/to/klieg.sock");
}

int client_find(const char *server, struct client *ret_c, struct err *e)
{
	struct client c = { 0 };
	const char *dir = getenv("KLIEG_DIR"), *env = getenv("KLIEG_SERVER"), *xdg = getenv("XDG_STATE_HOME"), *home = getenv("HOME");
	int rc = 0;
	if (server) {
		c.from = "--server";
		rc = parse_server(server, &c, e);
	} else if (env && *env) {
		c.from = "KLIEG_SERVER";
		rc = parse_server(env, &c, e);
	} else {
		char p[400];
		c.from = "KLIEG_DIR";
		if (dir && *dir)
			snprintf(p, sizeof(p), "%s/klieg.sock", dir);
		else {
			c.from = "the default directory";
			if (xdg && *xdg)
				snprintf(p, sizeof(p), "%s/klieg/klieg.sock", xdg);
			else if (geteuid() == 0)
				snprintf(p, sizeof(p), "/var/lib/klieg/klieg.sock");
			else
				snprintf(p, sizeof(p), "%s/.local/state/klieg/klieg.sock", home ? home : "");
		}
		if ((dir && *dir) || is_socket(p)) {
			if (strlen(p) >= sizeof(c.path))
				return err_set(e, KLIEG_E_USAGE, "the path of the socket is too long: '%.120s'", p);
			memcpy(c.path, p, strlen(p) + 1);
			snprintf(c.named, sizeof(c.named), "%s", p);
		} else {
			c.from = "the default address";
			rc = parse_server("127.0.0.1:7070", &c, e);
		}
	}
	if (rc == 0)
		*ret_c = c;
	return rc;
}

void client_url(const struct client *c, const char *path, struct buf *b)
{
	buf_printf(b, "%s%s", c->path[0] ? "http://localhost" : c->named, path);
}

void client_query(struct buf *b, const char *key, const char *value)
{
	buf_byte(b, memchr(b->p, '?', b->n) ? '&' : '?');
	buf_add_str(b, key);
	buf_byte(b, '=');
	for (const unsigned char *p = (const unsigned char *)value; *p; p++)
		if (isalnum(*p) || strchr("-_.~*:", *p))
			buf_byte(b, *p);
		else
			buf_printf(b, "%%%02X", *p);
}

void client_path(struct buf *b, const char *before, const char *name, const char *after)
{
	buf_add_str(b, before);
	for (const unsigned char *p = (const unsigned char *)name; *p; p++)
		if (isalnum(*p) || strchr("-_.~", *p))
			buf_byte(b, *p);
		else
			buf_printf(b, "%%%02X", *p);
	buf_add_str(b, after);
}

static int no_server(const struct client *c, int errnum, struct err *e)
{
	if (errnum == EACCES || errnum == EPERM) {
		err_set(e, KLIEG_E_DENIED, "may not connect to %s (from %s)", c->named, c->from);
		return err_hint(e, "use the account klieg up runs under, or root");
	}
	err_set(e, KLIEG_E_NO_SERVER, "no server at %s (from %s): %s", c->named, c->from, errnum ? strerror(errnum) : "the name is not known");
	return err_hint(e, "klieg up");
}

static int dial(const struct client *c, int *ret_fd, struct err *e)
{
	if (c->path[0]) {
		struct sockaddr_un un = { .sun_family = AF_UNIX };
		snprintf(un.sun_path, sizeof(un.sun_path), "%s", c->path);
		int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
		if (fd < 0 || connect(fd, (struct sockaddr *)&un, sizeof(un)) < 0) {
			int errnum = errno;
			if (fd >= 0)
				close(fd);
			return no_server(c, errnum, e);
		}
		*ret_fd = fd;
		return 0;
	}
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM }, *list = NULL;
	if (getaddrinfo(c->host, c->port, &hints, &list) != 0)
		return no_server(c, 0, e);
	int fd = -1, errnum = ECONNREFUSED;
	for (struct addrinfo *a = list; a; a = a->ai_next) {
		fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
		if (fd >= 0 && connect(fd, a->ai_addr, a->ai_addrlen) == 0)
			break;
		errnum = errno;
		if (fd >= 0)
			close(fd);
		fd = -1;
	}
	freeaddrinfo(list);
	if (fd < 0)
		return no_server(c, errnum, e);
	*ret_fd = fd;
	return 0;
}

/* headers: more lines, each ending in \r\n. */
static int send_request(const struct client *c, int fd, const char *method, const char *target, const char *headers, struct str body, struct err *e)
{
	struct buf b = { 0 };
	buf_printf(&b, "%s %s%s HTTP/1.1\r\nHost: %s\r\nUser-Agent: klieg-cli\r\nKlieg-Who: %s\r\n%s", method, *target == '/' ? "" : "/", target,
		c->path[0] ? "localhost" : c->named + 7, cli_who(), headers);
	if (strcmp(method, "GET"))
		buf_printf(&b, "Content-Length: %zu\r\n", body.n);
	buf_add_str(&b, "Connection: close\r\n\r\n");
	buf_add(&b, body.p, body.n);
	int rc = 0;
	for (size_t at = 0; at < b.n;) {
		ssize_t w = send(fd, b.p + at, b.n - at, MSG_NOSIGNAL);
		if (w < 0 && errno == EINTR && !cli_interrupted)
			continue;
		if (w < 0) {
			rc = err_set(e, KLIEG_E_NO_SERVER, "the connection to %s broke: %s", c->named, strerror(errno));
			break;
		}
		at += w;
	}
	buf_finish(&b);
	return rc;
}

enum { CH_SIZE, CH_EXT, CH_DATA, CH_DATA_END, CH_TRAILER, CH_TRAILER_LINE, CH_DONE };

int chunks_feed(struct chunks *c, const char *p, size_t n, struct buf *out)
{
	for (size_t i = 0; i < n && !c->done;) {
		char x = p[i];
		switch (c->state) {
		case CH_SIZE:
			if (isxdigit((unsigned char)x)) {
				if (c->left >> 32)
					return KLIEG_E_BAD_DATA;
				c->left = c->left * 16 + (isdigit((unsigned char)x) ? x - '0' : (x | 32) - 'a' + 10);
			} else if (x == '\n')
				c->state = c->left ? CH_DATA : CH_TRAILER;
			else if (x == ';' || x == ' ')
				c->state = CH_EXT;
			else if (x != '\r')
				return KLIEG_E_BAD_DATA;
			i++;
			break;
		case CH_EXT:
			if (x == '\n')
				c->state = c->left ? CH_DATA : CH_TRAILER;
			i++;
			break;
		case CH_DATA: {
			size_t take = n - i < c->left ? n - i : c->left;
			buf_add(out, p + i, take);
			i += take;
			c->left -= take;
			if (!c->left)
				c->state = CH_DATA_END;
			break;
		}
		case CH_DATA_END:
			if (x == '\n')
				c->state = CH_SIZE;
			else if (x != '\r')
				return KLIEG_E_BAD_DATA;
			i++;
			break;
		case CH_TRAILER:
			if (x == '\n')
				c->done = true;
			else if (x != '\r')
				c->state = CH_TRAILER_LINE;
			i++;
			break;
		case CH_TRAILER_LINE:
			if (x == '\n')
				c->state = CH_TRAILER;
			i++;
			break;
		}
	}
	return 0;
}

/* One answer being read. */
struct answer { int fd, status; bool chunked; int64_t length; struct chunks chunks; struct buf raw, body; bool eof; };

static int more(struct answer *a, const struct client *c, struct err *e)
{
	char tmp[65536];
	ssize_t r;
	while ((r = recv(a->fd, tmp, sizeof(tmp), 0)) < 0 && errno == EINTR && !cli_interrupted)
		;
	if (r < 0 && errno == EINTR)
		return err_set(e, KLIEG_E_BUSY, "interrupted");
	if (r < 0)
		return err_set(e, KLIEG_E_NO_SERVER, "the connection to %s broke: %s", c->named, strerror(errno));
	a->eof = r == 0;
	buf_add(&a->raw, tmp, r);
	return 0;
}

static int body_from_raw(struct answer *a, const struct client *c, struct err *e)
{
	if (a->chunked) {
		if (chunks_feed(&a->chunks, (char *)a->raw.p, a->raw.n, &a->body) < 0)
			return err_set(e, KLIEG_E_BAD_DATA, "%s sent a damaged answer", c->named);
	} else
		buf_add(&a->body, a->raw.p, a->raw.n);
	buf_clear(&a->raw);
	if (a->body.n > MAX_BODY)
		return err_set(e, KLIEG_E_TOO_LARGE, "the answer of %s is beyond %u MB; ask for less", c->named, MAX_BODY >> 20);
	return 0;
}

static bool body_done(const struct answer *a)
{
	return a->eof || (a->chunked ? a->chunks.done : a->length >= 0 && (int64_t)a->body.n >= a->length);
}

static int read_head(struct answer *a, const struct client *c, struct err *e)
{
	uint8_t *end = NULL;
	int rc;
	a->length = -1;
	while (!(end = a->raw.n ? memmem(a->raw.p, a->raw.n, "\r\n\r\n", 4) : NULL)) {
		if (a->raw.n > MAX_HEAD)
			return err_set(e, KLIEG_E_BAD_DATA, "what answers at %s is not a Klieg server", c->named);
		if (a->eof) {
			err_set(e, KLIEG_E_NO_SERVER, "%s closed the connection without an answer", c->named);
			return err_hint(e, "klieg doctor");
		}
		if ((rc = more(a, c, e)) < 0)
			return rc;
	}
	size_t head = end + 4 - a->raw.p;
	char *text = str_dup((struct str){ (char *)a->raw.p, head - 2 });
	if (strncmp(text, "HTTP/1.", 7) || strlen(text) < 12 || (a->status = atoi(text + 9)) < 100) {
		free(text);
		return err_set(e, KLIEG_E_BAD_DATA, "what answers at %s is not a Klieg server", c->named);
	}
	for (char *l = strstr(text, "\r\n"); l; l = strstr(l, "\r\n")) {
		l += 2;
		if (!strncasecmp(l, "content-length:", 15))
			a->length = strtoll(l + 15, NULL, 10);
		else if (!strncasecmp(l, "transfer-encoding:", 18)) {
			char *v = strndup(l, strcspn(l, "\r"));
			a->chunked = v && strcasestr(v, "chunked");
			free(v);
		}
	}
	free(text);
	memmove(a->raw.p, a->raw.p + head, a->raw.n - head);
	a->raw.n -= head;
	return 0;
}

static void problem(const json_t *doc, int status, const struct client *c, struct err *e)
{
	const char *code = jstr(doc, "code"), *detail = jstr(doc, "detail"), *title = jstr(doc, "title");
	int num = code[0] == 'E' ? atoi(code + 1) : 0;
	if (!num)
		num = status == 404 ? 205 : status == 403 ? 400 : status == 401 ? 401 : status == 503 ? 104 : status < 500 ? 200 : 100;
	err_at(e, -num, (int)jint(doc, "line"), (int)jint(doc, "column"), "%s%s", *detail ? detail : *title ? title : "the server refused", *detail || *title ? "" : " without saying why");
	if (!*detail && !*title)
		err_set(e, -num, "%s answered with HTTP status %d and no reason", c->named, status);
	struct buf h = { 0 };
	const json_t *s = json_object_get(doc, "suggestions");
	if (json_array_size(s)) {
		buf_printf(&h, "did you mean: %s", json_string_value(json_array_get(s, 0)) ?: "");
		for (size_t i = 1; i < json_array_size(s) && i < 4; i++)
			buf_printf(&h, "%s%s", i == 1 ? "   (also: " : ", ", json_string_value(json_array_get(s, i)) ?: "");
		buf_add_str(&h, json_array_size(s) > 1 ? ")\n" : "\n");
	}
	buf_add_str(&h, jstr(doc, "hint"));
	if (h.n)
		err_hint(e, "%.*s", (int)h.n, (char *)h.p);
	buf_finish(&h);
}

/* One request, one whole answer; *a is the caller's to finish, also on an error. */
static int exchange(const struct client *c, const char *method, const char *target, const char *headers, struct str body, struct answer *a, struct err *e)
{
	*a = (struct answer){ .fd = -1 };
	int rc = dial(c, &a->fd, e);
	if (rc < 0 || (rc = send_request(c, a->fd, method, target, headers, body, e)) < 0 || (rc = read_head(a, c, e)) < 0)
		return rc;
	while ((rc = body_from_raw(a, c, e)) == 0 && !body_done(a))
		if ((rc = more(a, c, e)) < 0)
			return rc;
	if (rc == 0 && (a->chunked ? !a->chunks.done : a->length >= 0 && (int64_t)a->body.n < a->length))
		rc = err_set(e, KLIEG_E_NO_SERVER, "%s closed the connection in the middle of its answer", c->named);
	return rc;
}

static void answer_finish(struct answer *a)
{
	if (a->fd >= 0)
		close(a->fd);
	buf_finish(&a->raw);
	buf_finish(&a->body);
}

int client_post(const struct client *c, const char *target, const char *headers, struct str body, int *ret_http, struct err *e)
{
	struct answer a;
	int rc = exchange(c, "POST", target, headers, body, &a, e);
	if (rc == 0)
		*ret_http = a.status;
	answer_finish(&a);
	return rc;
}

int client_ask(const struct client *c, const char *method, const char *target, const json_t *body, json_t **ret_doc, int *ret_http, struct err *e)
{
	struct answer a;
	char *text = body ? json_dumps(body, JSON_COMPACT) : NULL;
	*ret_doc = NULL;
	int rc = exchange(c, method, target, text ? "Accept: application/json\r\nContent-Type: application/json\r\n" : "Accept: application/json\r\n",
		text ? str_of(text) : STR(""), &a, e);
	free(text);
	if (rc < 0)
		goto out;
	json_error_t je;
	json_t *doc = a.body.n ? json_loadb((char *)a.body.p, a.body.n, JSON_DECODE_ANY, &je) : json_object();
	if (a.status >= 400) {
		problem(doc, a.status, c, e);
		rc = e->code;
	} else if (!doc)
		rc = err_set(e, KLIEG_E_BAD_DATA, "the answer of %s is not JSON: %s", c->named, je.text);
	*ret_doc = doc;
	if (ret_http)
		*ret_http = a.status;
out:
	answer_finish(&a);
	return rc;
}

int client_json(const struct client *c, const char *method, const char *target, const json_t *body, json_t **ret_doc, int *ret_http, struct err *e)
{
	json_t *doc;
	int http, rc = client_ask(c, method, target, body, &doc, &http, e);
	if (rc < 0)
		json_decref(doc);
	else {
		*ret_doc = doc;
		if (ret_http)
			*ret_http = http;
	}
	return rc;
}

/* Takes complete events out of the body; what is incomplete stays. */
static int events_out(struct answer *a, client_event_fn on_event, void *arg)
{
	uint8_t *end;
	int rc = 0;
	while (rc == 0 && a->body.n && (end = memmem(a->body.p, a->body.n, "\n\n", 2))) {
		size_t n = end - a->body.p;
		char *text = str_dup((struct str){ (char *)a->body.p, n }), *save = NULL, *name = NULL;
		struct buf data = { 0 };
		for (char *l = strtok_r(text, "\n", &save); l; l = strtok_r(NULL, "\n", &save))
			if (!strncmp(l, "event:", 6))
				name = l + 6 + (l[6] == ' ');
			else if (!strncmp(l, "data:", 5))
				buf_add_str(&data, l + 5 + (l[5] == ' '));
		json_t *doc = data.n ? json_loadb((char *)data.p, data.n, JSON_DECODE_ANY, NULL) : NULL;
		if (doc)
			rc = on_event(arg, name ? name : "message", doc);
		json_decref(doc);
		buf_finish(&data);
		free(text);
		memmove(a->body.p, a->body.p + n + 2, a->body.n - n - 2);
		a->body.n -= n + 2;
	}
	return rc;
}

int client_events(const struct client *c, const char *target, client_event_fn on_event, void *arg, struct err *e)
{
	struct answer a = { .fd = -1 };
	int rc = dial(c, &a.fd, e);
	if (rc < 0)
		return rc;
	if ((rc = send_request(c, a.fd, "GET", target, "Accept: text/event-stream\r\n", STR(""), e)) < 0 || (rc = read_head(&a, c, e)) < 0)
		goto out;
	while ((rc = body_from_raw(&a, c, e)) == 0) {
		if (a.status < 400 && (rc = events_out(&a, on_event, arg)) != 0)
			break;
		if (body_done(&a))
			break;
		if ((rc = more(&a, c, e)) < 0)
			break;
	}
	if (rc == 0 && a.status >= 400) {
		json_t *doc = json_loadb((char *)a.body.p, a.body.n, 0, NULL);
		problem(doc, a.status, c, e);
		json_decref(doc);
		rc = e->code;
	}
out:
	close(a.fd);
	buf_finish(&a.raw);
	buf_finish(&a.body);
	return rc;
}
