/* The dashboard's files. Until web/ is embedded, one page that says so. */
#include "server/internal.h"

void assets_reply(struct http_req *r)
{
	static const char page[] = "<!doctype html><html lang=en><meta charset=utf-8><title>Klieg</title><p>This klieg was built without the dashboard. "
		"The API is at <a href=/api/v1/openapi.json>/api/v1/openapi.json</a>.</html>\n";
	http_reply(r, 200, "text/html; charset=utf-8", (struct str){ page, sizeof(page) - 1 }, "Cache-Control: no-cache\r\n"
		"Content-Security-Policy: default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; font-src 'self'; base-uri 'none'; "
		"form-action 'none'; frame-ancestors 'none'\r\nReferrer-Policy: no-referrer\r\nX-Frame-Options: DENY\r\n");
}
