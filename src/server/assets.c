/* Serves the dashboard from the executable. Files under /assets have their hash in their name and never change; every other path is the one page,
 * which finds its place in the URL by itself. Stored gzipped; undone for the rare client that does not take gzip. */
#include "server/assets.h"
#include "server/internal.h"
#include <stdio.h>
#include <zlib.h>

#define POLICY "Content-Security-Policy: default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; font-src 'self'; " \
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'\r\nReferrer-Policy: no-referrer\r\nX-Frame-Options: DENY\r\nX-Content-Type-Options: nosniff\r\n"

static bool plain(const struct asset *a, struct buf *ret)
{
	z_stream z = { .next_in = (unsigned char *)(uintptr_t)a->gz, .avail_in = (unsigned)a->n };
	if (inflateInit2(&z, 15 + 16) != Z_OK)
		return false;
	int rc = Z_OK;
	while (rc == Z_OK) {
		buf_reserve(ret, 65536);
		z.next_out = ret->p + ret->n;
		z.avail_out = (unsigned)(ret->cap - ret->n);
		size_t room = z.avail_out;
		rc = inflate(&z, Z_NO_FLUSH);
		ret->n += room - z.avail_out;
	}
	inflateEnd(&z);
	return rc == Z_STREAM_END;
}

void assets_reply(struct http_req *r)
{
	struct str path = r->path, seen = http_header(r, "if-none-match"), takes = http_header(r, "accept-encoding");
	bool fixed = path.n > 8 && !memcmp(path.p, "/assets/", 8);
	const struct asset *a = assets, *page = NULL;
	for (; a->path && !str_is(path, a->path); a++)
		if (str_is(str_of(a->path), "/index.html"))
			page = a;
	if (!a->path && fixed) {
		struct err e;
		err_set(&e, KLIEG_E_NOT_FOUND, "there is no file %.*s (the page may be older than this server: reload it)", (int)path.n, path.p);
		reply_problem(r, &e);
		return;
	}
	if (!a->path) {
		for (a = page ? page : assets; a->path && !str_is(str_of(a->path), "/index.html"); a++) {}
		if (!a->path)
			return http_reply(r, 500, "text/plain", STR("this klieg was built without its dashboard\n"), NULL);
	}
	char headers[900];
	bool gzip = takes.n && memmem(takes.p, takes.n, "gzip", 4);
	snprintf(headers, sizeof headers, "%sETag: %s\r\nVary: Accept-Encoding\r\nCache-Control: %s\r\n" POLICY, gzip ? "Content-Encoding: gzip\r\n" : "", a->etag,
		fixed ? "public, max-age=31536000, immutable" : "no-cache");
	if (seen.n && str_is(seen, a->etag))
		return http_reply(r, 304, a->type, STR(""), headers);
	if (gzip)
		return http_reply(r, 200, a->type, (struct str){ (const char *)a->gz, a->n }, headers);
	struct buf b = { 0 };
	if (plain(a, &b))
		http_reply(r, 200, a->type, buf_str(&b), headers);
	else
		http_reply(r, 500, "text/plain", STR("a damaged file\n"), NULL);
	buf_finish(&b);
}
