/* An agent without a server, for tests and benchmarks: reads "METHOD JSON" lines on stdin, writes one JSON line each; the sink counts and,
 * with -v, prints spans. Usage: agent_driver [-l LEASE_MS] [-b BUDGET_PERCENT] [-v] SOCKET; events go to stdout, too, with -e. */
#include "agent/agent.h"
#include "base/buf.h"
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static bool verbose;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static int sink(void *arg, struct batch *b)
{
	pthread_mutex_lock(&lock);
	*(uint64_t *)arg += b->n;
	for (uint32_t i = 0; verbose && i < b->n; i++) {
		struct str name = batch_text(b, b->spans[i].name), svc = batch_text(b, b->resources[b->spans[i].resource].service);
		char trace[33], id[17], parent[17];
		trace_id_hex(b->spans[i].trace_hi, b->spans[i].trace_lo, trace);
		span_id_hex(b->spans[i].span_id, id);
		span_id_hex(b->spans[i].parent_id, parent);
		printf("{\"span\":\"%.*s\",\"service\":\"%.*s\",\"trace_id\":\"%s\",\"span_id\":\"%s\",\"parent\":\"%s\",\"start\":%lld,\"duration\":%lld,\"attrs\":%u,"
			"\"events\":%u}\n", (int)name.n, name.p, (int)svc.n, svc.p, trace, id, parent, (long long)b->spans[i].start_ns,
			(long long)b->spans[i].duration_ns, b->spans[i].attrs.n, b->spans[i].events_n);
	}
	fflush(stdout);
	pthread_mutex_unlock(&lock);
	batch_destroy(b);
	return 0;
}

static void event(void *arg, const json_t *o)
{
	(void)arg;
	char *text = json_dumps(o, JSON_COMPACT);
	pthread_mutex_lock(&lock);
	printf("{\"event\":%s}\n", text);
	fflush(stdout);
	pthread_mutex_unlock(&lock);
	free(text);
}

static void done(void *arg, int rc, json_t *result, const struct err *e)
{
	(void)arg;
	json_t *o = rc < 0 ? json_pack("{s:i,s:s}", "rc", rc, "error", e->msg) : json_pack("{s:i,s:O}", "rc", rc, "result", result);
	char *text = json_dumps(o, JSON_COMPACT);
	pthread_mutex_lock(&lock);
	puts(text);
	fflush(stdout);
	pthread_mutex_unlock(&lock);
	free(text);
	json_decref(o);
}

int main(int argc, char **argv)
{
	uint64_t spans = 0;
	struct agent_config c = { .sink = sink, .sink_arg = &spans };
	for (int o; (o = getopt(argc, argv, "l:b:ev")) > 0;)
		if (o == 'v')
			verbose = true;
		else if (o == 'e')
			c.event = event;
		else if (o == 'b')
			c.budget_percent = atof(optarg);
		else
			c.lease_ns = atoll(optarg) * 1000000;
	c.socket = argv[optind];
	struct agent *a;
	struct err e = { 0 };
	if (!c.socket || agent_create(&c, &a, &e) < 0) {
		fprintf(stderr, "%s\n", c.socket ? e.msg : "usage: agent_driver [-l LEASE_MS] [-b BUDGET_PERCENT] [-v] SOCKET");
		return 1;
	}
	puts("{\"ready\":true}");
	fflush(stdout);
	char *line = NULL;
	size_t cap = 0;
	while (getline(&line, &cap, stdin) > 0) {
		char *space = line + strcspn(line, " \n");
		json_t *params = *space == ' ' ? json_loads(space + 1, 0, NULL) : NULL;
		*space = 0;
		if (*line)
			agent_request(a, line, params, done, NULL);
	}
	free(line);
	agent_destroy(a);
	printf("{\"spans\":%llu}\n", (unsigned long long)spans);
	return 0;
}
