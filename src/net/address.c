/* HOST:PORT to an address and back; what is wrong with it, or with listening there, in words. */
#include "net/address.h"
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int net_address(const char *text, struct sockaddr_storage *ret, struct err *e)
{
	const char *colon = strrchr(text, ':');
	char host[64], *end;
	size_t n = colon ? (size_t)(colon - text) : 0;
	long port = colon ? strtol(colon + 1, &end, 10) : -1;
	if (!n || n >= sizeof(host) || port < 0 || port > 65535 || end == colon + 1 || *end)
		return err_set(e, KLIEG_E_USAGE, "'%.80s' is not HOST:PORT", text);
	bool v6 = text[0] == '[' && text[n - 1] == ']';
	snprintf(host, sizeof(host), "%.*s", (int)(v6 ? n - 2 : n), text + v6);
	if (!strcmp(host, "localhost"))
		snprintf(host, sizeof(host), "127.0.0.1");
	if (uv_ip4_addr(host, (int)port, (struct sockaddr_in *)ret) < 0 && uv_ip6_addr(host, (int)port, (struct sockaddr_in6 *)ret) < 0)
		return err_set(e, KLIEG_E_USAGE, "'%.60s' is not an IP address or localhost", host);
	return 0;
}

int net_listen_failed(int rc, const char *address, struct err *e)
{
	if (rc == UV_EADDRINUSE) {
		err_set(e, KLIEG_E_PORT_IN_USE, "cannot listen on %s: another program uses that port", address);
		return err_hint(e, "is `klieg up` running already? else choose another address (port 0 = any), e.g. --http 127.0.0.1:0");
	}
	return err_set(e, rc == UV_EACCES ? KLIEG_E_DENIED : KLIEG_E_USAGE, "cannot listen on %s: %s", address, uv_strerror(rc));
}

void net_bound(const uv_tcp_t *tcp, char ret[80])
{
	struct sockaddr_storage a;
	int len = sizeof(a);
	char host[64] = "";
	uv_tcp_getsockname(tcp, (struct sockaddr *)&a, &len);
	uv_ip_name((struct sockaddr *)&a, host, sizeof(host));
	snprintf(ret, 80, a.ss_family == AF_INET6 ? "[%s]:%d" : "%s:%d", host, ntohs(((struct sockaddr_in *)&a)->sin_port));
}
