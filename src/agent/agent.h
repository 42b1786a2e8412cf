/* The agent: one thread that owns everything between the traced processes of this host and the sink. It accepts handshakes, drains
 * rings, keeps the clock, matches toggles against sites, patches, leases, expires. */
#pragma once
#include "base/err.h"
#include "model/batch.h"
#include <jansson.h>

struct agent;

/* Takes the batch when it returns 0; on an error the agent keeps it, retries within bounded memory (spool), then counts it as dropped("spool_full").
 * Called on the agent's thread; must not block. */
typedef int (*agent_sink_fn)(void *arg, struct batch *b);
/* Something changed that watchers want to know: {"type":"process"|"toggle"|"sites"|"guard", ...}. Agent's thread; event is borrowed. */
typedef void (*agent_event_fn)(void *arg, const json_t *event);

struct agent_config {
	const char *socket;      /* path; its directory is created 0700 */
	const char *host_name;   /* NULL = gethostname */
	int64_t lease_ns;        /* 0 = 30 s */
	int64_t flush_ns;        /* a batch leaves at the latest this long after its first span; 0 = 100 ms */
	double budget_percent;   /* of a process's CPU time that its probes may cost; what is dearest is shed above it. 0 = no governor */
	agent_sink_fn sink; void *sink_arg;
	agent_event_fn event; void *event_arg;
};
/* Starts the thread. KLIEG_E_CONFLICT: another live agent owns the socket (a stale socket is replaced). */
int agent_create(const struct agent_config *c, struct agent **ret_a, struct err *e);
/* Switches all sites off, drains what is left to the sink, lets the leases lapse at once, stops the thread. NULL is fine. */
void agent_destroy(struct agent *a);

/* The agent's whole control surface, one message each way, so that it is the same in-process and over a wire. Thread-safe; the
 * reply comes on the agent's thread. Steals params (may be NULL). result is borrowed; on rc < 0 it is NULL and e says why.
 * Methods and their JSON: docs/agent-protocol.md. */
typedef void (*agent_reply_fn)(void *arg, int rc, json_t *result, const struct err *e);
void agent_request(struct agent *a, const char *method, json_t *params, agent_reply_fn reply, void *arg);
