/* What the shop's four services share: an HTTP server with routes, a traced HTTP client, switchable faults.
 * Everything here is an ordinary small service; the only Klieg in it is in the KLIEG_ macros. */
#pragma once
#include <klieg/klieg.h>
#include <microhttpd.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

struct request {
	struct MHD_Connection *connection;
	const char *tenant, *cart;   /* query parameters, "" if absent */
	int status;                  /* what to answer; 200 by default */
	char body[2048];             /* what to answer */
};
struct route { const char *method, *path; void (*handle)(struct request *); };

struct fault { const char *name, *what; _Atomic int on; };

struct service {
	const char *name;
	const struct route *routes;  /* ends with a NULL method */
	struct fault *faults;        /* ends with a NULL name; may be NULL */
	int threads;
	void (*start)(void);         /* before the first request; may be NULL */
};

/* --port N (0 = any), --NAME VALUE options are kept for service_option(). Prints "ready port=N", serves until SIGTERM. */
int service_run(const struct service *s, int argc, char **argv);
const char *service_option(const char *name, const char *otherwise);

/* A traced call of another service; the caller's trace context travels along. Returns the HTTP status, or -1. */
int service_call(const char *method, const char *base, const char *path, const char *query, char *ret_body, size_t size);

/* Burns CPU for about so many microseconds (a stand-in for business logic). */
void service_work(unsigned microseconds);
