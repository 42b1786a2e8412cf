/* Addresses of listeners, as people write them. */
#pragma once
#include "base/err.h"
#include <sys/socket.h>
#include <uv.h>

/* "HOST:PORT" or "[v6]:PORT"; localhost or an IP address; port 0 = any. */
int net_address(const char *text, struct sockaddr_storage *ret_a, struct err *e);
int net_listen_failed(int uv_rc, const char *address, struct err *e);              /* returns e's code: KLIEG_E_PORT_IN_USE names the port */
void net_bound(const uv_tcp_t *tcp, char ret_text[80]);                            /* HOST:PORT as bound */
