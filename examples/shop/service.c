/* The shop's common ground: libmicrohttpd in front, libcurl behind, faults switched by POST /fault/NAME?on=1.
 * Runs on libmicrohttpd's thread pool; every handler is synchronous. */
#define KLIEG_COMPONENT "http"
#include "service.h"
#include <arpa/inet.h>
#include <curl/curl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

static const struct service *self;
static char **args;
static int nargs;

const char *service_option(const char *name, const char *otherwise)
{
	for (int i = 1; i + 1 < nargs; i++)
		if (!strncmp(args[i], "--", 2) && !strcmp(args[i] + 2, name))
			return args[i + 1];
	return otherwise;
}

void service_work(unsigned microseconds)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	long long end = t.tv_sec * 1000000000ll + t.tv_nsec + microseconds * 1000ll;
	do {
		for (volatile int i = 0; i < 200; i++) {}
		clock_gettime(CLOCK_MONOTONIC, &t);
	} while (t.tv_sec * 1000000000ll + t.tv_nsec < end);
}

/* ---- client ---------------------------------------------------------------------------------------------------- */

struct answer { char *p; size_t n, size; };

static size_t on_body(char *data, size_t one, size_t n, void *arg)
{
	struct answer *a = arg;
	size_t room = a->size - a->n - 1, k = n < room ? n : room;
	memcpy(a->p + a->n, data, k);
	a->n += k;
	return one * n;
}

int service_call(const char *method, const char *base, const char *path, const char *query, char *ret_body, size_t size)
{
	static _Thread_local CURL *curl; /* keeps its connections alive */
	if (!curl && !(curl = curl_easy_init()))
		return -1;
	KLIEG_CLIENT_SPAN_AS(span, "http.call", KLIEG_STR("http.request.method", method), KLIEG_STR("url.path", path));
	char url[512], header[400];
	snprintf(url, sizeof url, "%s%s?%s", base, path, query);
	struct curl_slist *headers = NULL;
	struct klieg_headers trace;
	klieg_inject(&trace);
	if (trace.traceparent[0]) {
		snprintf(header, sizeof header, "traceparent: %s", trace.traceparent);
		headers = curl_slist_append(headers, header);
		if (trace.tracestate[0]) {
			snprintf(header, sizeof header, "tracestate: %s", trace.tracestate);
			headers = curl_slist_append(headers, header);
		}
	}
	struct answer a = { ret_body, 0, size };
	curl_easy_setopt(curl, CURLOPT_URL, url);
	curl_easy_setopt(curl, CURLOPT_CUSTOMREQUEST, method);
	curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers);
	curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, on_body);
	curl_easy_setopt(curl, CURLOPT_WRITEDATA, &a);
	curl_easy_setopt(curl, CURLOPT_TIMEOUT, 10l);
	curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1l);
	CURLcode rc = curl_easy_perform(curl);
	curl_slist_free_all(headers);
	ret_body[a.n] = 0;
	if (rc != CURLE_OK) {
		KLIEG_ERROR(span, curl_easy_strerror(rc));
		return -1;
	}
	long status = 0;
	curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &status);
	KLIEG_SET(span, KLIEG_INT("http.response.status_code", status));
	if (status >= 400)
		KLIEG_ERROR(span, "the other side answered with an error");
	return (int)status;
}

/* ---- server ---------------------------------------------------------------------------------------------------- */

static const char *parameter(struct MHD_Connection *c, const char *name)
{
	const char *v = MHD_lookup_connection_value(c, MHD_GET_ARGUMENT_KIND, name);
	return v ? v : "";
}

static const char *header_value(void *connection, const char *name)
{
	return MHD_lookup_connection_value(connection, MHD_HEADER_KIND, name);
}

static bool switch_fault(const char *path, struct request *r)
{
	if (strncmp(path, "/fault/", 7))
		return false;
	for (struct fault *f = self->faults; f && f->name; f++)
		if (!strcmp(f->name, path + 7)) {
			atomic_store(&f->on, atoi(parameter(r->connection, "on")));
			snprintf(r->body, sizeof r->body, "{\"fault\":\"%s\",\"on\":%d}\n", f->name, atomic_load(&f->on));
			return true;
		}
	r->status = 404;
	snprintf(r->body, sizeof r->body, "{\"error\":\"%s has no such fault\"}\n", self->name);
	return true;
}

static enum MHD_Result on_request(void *cls, struct MHD_Connection *c, const char *path, const char *method, const char *version,
	const char *upload, size_t *upload_size, void **state)
{
	(void)cls; (void)version; (void)upload;
	static int seen;
	if (!*state) { /* libmicrohttpd calls once for the headers, then again for each piece of the body */
		*state = &seen;
		return MHD_YES;
	}
	if (*upload_size) {
		*upload_size = 0;
		return MHD_YES;
	}
	struct request r = { .connection = c, .tenant = parameter(c, "tenant"), .cart = parameter(c, "cart"), .status = 200 };
	const struct route *route = self->routes;
	while (route->method && (strcmp(route->path, path) || strcmp(route->method, method)))
		route++;
	if (route->method) {
		struct klieg_ctx ctx, previous;
		klieg_extract(header_value, c, &ctx);
		klieg_set_current(&ctx, &previous);
		route->handle(&r);
		klieg_restore(&previous);
	} else if (!switch_fault(path, &r)) {
		r.status = 404;
		snprintf(r.body, sizeof r.body, "{\"error\":\"no such page\"}\n");
	}
	size_t n = strlen(r.body);
	KLIEG_COUNT("http.bytes_sent", n);
	struct MHD_Response *answer = MHD_create_response_from_buffer(n, r.body, MHD_RESPMEM_MUST_COPY);
	MHD_add_response_header(answer, "Content-Type", "application/json");
	enum MHD_Result rc = MHD_queue_response(c, (unsigned)r.status, answer);
	MHD_destroy_response(answer);
	return rc;
}

int service_run(const struct service *s, int argc, char **argv)
{
	self = s;
	args = argv;
	nargs = argc;
	setvbuf(stdout, NULL, _IOLBF, 0);
	signal(SIGPIPE, SIG_IGN);
	sigset_t stop;
	sigemptyset(&stop);
	sigaddset(&stop, SIGTERM);
	sigaddset(&stop, SIGINT);
	pthread_sigmask(SIG_BLOCK, &stop, NULL); /* before any thread starts, so that only sigwait sees them */
	curl_global_init(CURL_GLOBAL_DEFAULT);
	klieg_init(&(struct klieg_options){ .size = sizeof(struct klieg_options), .service = s->name, .version = "1.0" });

	if (s->start)
		s->start();
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons((unsigned short)atoi(service_option("port", "0"))),
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	struct MHD_Daemon *d = MHD_start_daemon(MHD_USE_EPOLL_INTERNAL_THREAD, 0, NULL, NULL, on_request, NULL,
		MHD_OPTION_SOCK_ADDR, &address, MHD_OPTION_THREAD_POOL_SIZE, (unsigned)s->threads, MHD_OPTION_CONNECTION_TIMEOUT, 60u, MHD_OPTION_END);
	if (!d) {
		fprintf(stderr, "%s: cannot listen on port %s\n", s->name, service_option("port", "0"));
		return 1;
	}
	printf("ready port=%d\n", MHD_get_daemon_info(d, MHD_DAEMON_INFO_BIND_PORT)->port);
	int sig;
	sigwait(&stop, &sig);
	MHD_stop_daemon(d);
	return 0;
}
