/* /metrics for Prometheus, /healthz and /readyz for whoever restarts things. What the agents know is asked of them, with the short patience of all
 * reads: a host that is down costs its rows, not the scrape. Names do not change; every family has its help. Loop thread. */
#include "base/clock.h"
#include "server/internal.h"
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { PROCESSES_MAX = 2000 };           /* rows; beyond that the number that is left out */

static void family(struct buf *b, const char *name, const char *type, const char *help)
{
	buf_printf(b, "# HELP klieg_%s %s\n# TYPE klieg_%s %s\n", name, help, name, type);
}
static void one(struct buf *b, const char *name, const char *type, const char *help, double v)
{
	family(b, name, type, help);
	buf_printf(b, "klieg_%s %.17g\n", name, v);
}
static void label(struct buf *b, const char *name, const char *value, bool first)
{
	buf_printf(b, "%s%s=\"", first ? "" : ",", name);
	for (; *value; value++)
		if (*value == '\n')
			buf_add_str(b, "\\n");
		else {
			if (*value == '"' || *value == '\\')
				buf_byte(b, '\\');
			buf_byte(b, (uint8_t)*value);
		}
	buf_byte(b, '"');
}

/* ---- spans ---------------------------------------------------------------------------------------------------------------- */

static void account_metrics(struct server *s, const json_t *agents, struct buf *b)
{
	json_t *a = account_json(s, agents), *v;
	const char *reason;
	one(b, "spans_made_total", "counter", "Spans that were made: begun in traced processes, or received as OTLP.", (double)jint(a, "made"));
	one(b, "spans_taken_total", "counter", "Spans that came to this server, from agents and as OTLP.",
		(double)(s->admit.agent_taken + s->admit.otlp_taken));
	one(b, "spans_stored_total", "counter", "Spans that are durable.", (double)s->admit.stored);
	one(b, "spans_open", "gauge", "Spans that have begun and not ended.", (double)jint(a, "open"));
	one(b, "spans_queued", "gauge", "Spans on their way to the store.", (double)jint(a, "queued"));
	family(b, "spans_dropped_total", "counter", "Spans that were lost, by reason.");
	json_object_foreach(json_object_get(a, "dropped"), reason, v) {
		buf_add_str(b, "klieg_spans_dropped_total{");
		label(b, "reason", reason, true);
		buf_printf(b, "} %lld\n", (long long)json_integer_value(v));
	}
	one(b, "account_balanced", "gauge", "1 if made = stored + open + queued + dropped.", json_is_true(json_object_get(a, "balanced")));
	one(b, "spans_per_second", "gauge", "Spans stored in the last second.", s->spans_per_s);
	json_decref(a);
}

static void store_metrics(struct server *s, struct buf *b)
{
	struct store_stats st;
	store_stats(s->c.store, &st);
	one(b, "store_queue_bytes", "gauge", "Bytes waiting to be synced.", (double)st.queue_bytes);
	one(b, "store_queue_bytes_limit", "gauge", "From here on the doctor complains.", (double)(256 << 20));
	one(b, "store_queue_age_seconds", "gauge", "Age of the oldest span that waits to be synced.", (double)st.queue_age_ns / 1e9);
	one(b, "store_busy_total", "counter", "Batches that were sent away because the queue was full; their senders come again.", (double)s->admit.busy);
	one(b, "store_bytes", "gauge", "Bytes on disk, the write-ahead log included.", (double)(st.bytes + st.wal_bytes));
	one(b, "store_spans", "gauge", "Spans on disk.", (double)st.spans);
	one(b, "store_expired_total", "counter", "Spans deleted by retention.", (double)st.expired);
	one(b, "store_failing", "gauge", "1 if the last batch could not be stored.", s->admit.failing != 0);
}

/* ---- steering ------------------------------------------------------------------------------------------------------------- */

static void fleet_metrics(struct server *s, struct buf *b)
{
	struct fleet_stats f;
	json_t *list = fleet_agents(s), *row;
	uint64_t sum = 0;
	int64_t next;
	size_t i;
	fleet_stats(s, &f);
	one(b, "toggles", "gauge", "Toggles in force.", toggles_active(s, &next));
	one(b, "policies", "gauge", "Policies in force.", policies_in_force(s));
	one(b, "rules", "gauge", "Rules in force: toggles and those of policies.", (double)json_object_size(desired_rules(s)));
	one(b, "agents_connected", "gauge", "Agents, the one in this process included.", f.agents);
	one(b, "agents_behind", "gauge", "Agents that have not acknowledged the rules in force.", f.behind);
	one(b, "agents_unreachable", "gauge", "Agents that are connected and did not answer the last time.", f.unreachable);
	one(b, "rule_changes_total", "counter", "Changes of the rules that were sent out.", (double)f.changes);
	one(b, "rule_change_failures_total", "counter", "Agents that did not take a change.", (double)f.failures);
	family(b, "toggle_ack_seconds", "histogram", "From a change of the rules to its acknowledgement by every agent that answers.");
	for (unsigned k = 0; k < FLEET_BUCKETS; k++)
		buf_printf(b, "klieg_toggle_ack_seconds_bucket{le=\"%g\"} %" PRIu64 "\n", fleet_bounds[k], sum += f.acks[k]);
	buf_printf(b, "klieg_toggle_ack_seconds_bucket{le=\"+Inf\"} %" PRIu64 "\nklieg_toggle_ack_seconds_sum %.9g\n"
		"klieg_toggle_ack_seconds_count %" PRIu64 "\n", f.nacks, f.ack_sum, f.nacks);
	one(b, "policy_generation", "gauge", "Generation of the rules in force.", (double)desired_generation(s));
	family(b, "agent_policy_generation", "gauge", "Generation of the rules that the agent has acknowledged.");
	json_array_foreach(list, i, row) {
		buf_add_str(b, "klieg_agent_policy_generation{");
		label(b, "host", jtext(row, "host"), true);
		buf_printf(b, "} %lld\n", (long long)jint(row, "generation"));
	}
	json_decref(list);
}

static void per_process(struct buf *b, const json_t *ps, const char *name, const char *help, const char *key)
{
	size_t i;
	json_t *p;
	unsigned n = 0;
	family(b, name, "gauge", help);
	json_array_foreach(json_object_get(ps, "processes"), i, p) {
		const json_t *v = json_object_get(p, key);
		if (!json_is_number(v) || strcmp(*jtext(p, "state") ? jtext(p, "state") : "live", "live") || n++ >= PROCESSES_MAX)
			continue;
		char pid[24];
		snprintf(pid, sizeof pid, "%lld", (long long)jint(p, "pid"));
		buf_printf(b, "klieg_%s{", name);
		label(b, "host", jtext(p, "host"), true);
		label(b, "service", jtext(p, "service"), false);
		label(b, "pid", pid, false);
		buf_printf(b, "} %.17g\n", json_number_value(v));
	}
}

static void process_metrics(struct server *s, const json_t *ps, struct buf *b)
{
	size_t n = json_array_size(json_object_get(ps, "processes"));
	per_process(b, ps, "process_overhead_percent", "What the probes cost the process, in percent of its CPU.", "overhead_percent");
	per_process(b, ps, "process_policy_generation", "Generation of the rules that its agent holds it to.", "generation");
	per_process(b, ps, "process_sites_on", "Sites that are switched on in the process.", "on");
	one(b, "processes_omitted", "gauge", "Processes beyond those that have rows here.", n > PROCESSES_MAX ? (double)(n - PROCESSES_MAX) : 0);
	one(b, "agent_cpu_percent", "gauge", "CPU of the busiest agent's thread, in percent of one core.",
		jnum(json_object_get(ps, "agent"), "cpu_percent"));
	one(b, "overhead_budget_percent", "gauge", "What probes may cost a process, of the agent that allows least; 0: no governor.", fleet_budget(s));
}

/* ---- this process --------------------------------------------------------------------------------------------------------- */

static void own_metrics(struct server *s, struct buf *b)
{
	struct buf statm = { 0 };
	unsigned watchers = events_watchers(s);
	double pages = 0;
	if (buf_read_file("/proc/self/statm", 4096, &statm) >= 0) {
		buf_byte(&statm, 0);
		const char *space = strchr((char *)statm.p, ' ');
		pages = space ? strtod(space, NULL) : 0;
	}
	buf_finish(&statm);
	family(b, "build_info", "gauge", "Always 1; the version is its label.");
	buf_add_str(b, "klieg_build_info{version=\"0.1.0\"} 1\n");
	one(b, "connections", "gauge", "HTTP connections.", http_server_conns(s->http));
	one(b, "grpc_connections", "gauge", "gRPC connections.", s->grpc ? grpc_server_conns(s->grpc) : 0);
	one(b, "event_streams", "gauge", "Open event streams.", watchers);
	one(b, "uptime_seconds", "gauge", "Since this process began to serve.", (double)(clock_mono() - s->started) / 1e9);
	one(b, "cpu_seconds_total", "counter", "CPU of this process.", (double)clock_cpu() / 1e9);
	one(b, "resident_memory_bytes", "gauge", "Memory of this process.", pages * (double)sysconf(_SC_PAGESIZE));
}

static void have_account(struct call *c)
{
	json_t *ps = c->data;
	struct buf b = { 0 };
	account_metrics(c->s, c->rc < 0 ? NULL : c->result, &b);
	store_metrics(c->s, &b);
	fleet_metrics(c->s, &b);
	process_metrics(c->s, ps, &b);
	own_metrics(c->s, &b);
	http_reply(c->r, 200, "text/plain; version=0.0.4; charset=utf-8", buf_str(&b), NULL);
	buf_finish(&b);
	json_decref(ps);
	call_free(c);
}
static void have_ps(struct call *c)
{
	c->data = c->rc < 0 ? NULL : json_incref(c->result);
	call_agent(c, "account", NULL, have_account);
}

static struct call *call_create(struct server *s, struct http_req *r)
{
	struct call *c = base_calloc(1, sizeof *c);
	c->s = s;
	c->r = r;
	return c;
}

void metrics_reply(struct server *s, struct http_req *r) { call_agent(call_create(s, r), "ps", NULL, have_ps); }

void api_agents(struct call *c)
{
	call_json(c, 200, json_pack("{sI so}", "generation", (json_int_t)desired_generation(c->s), "agents", fleet_agents(c->s)));
}

/* Ready: spans can be stored and, where an agent is part of this process, it answers. */
static void ready_then(struct call *c)
{
	struct server *s = c->s;
	/* Only for a while: whoever sends nothing to what is not ready would else never learn that it is again. */
	bool failing = s->admit.failing && clock_mono() - s->admit.failed_at < 10000000000ll;
	const char *why = failing ? err_title(s->admit.failing) : c->rc < 0 && s->c.with_agent ? c->e.msg : NULL;
	struct buf b = { 0 };
	buf_printf(&b, "%s\n", why ? why : "ok");
	http_reply(c->r, why ? 503 : 200, "text/plain", buf_str(&b), why ? "Retry-After: 1\r\n" : NULL);
	buf_finish(&b);
	call_free(c);
}
void ready_reply(struct server *s, struct http_req *r)
{
	if (s->c.with_agent)
		call_agent(call_create(s, r), "health", NULL, ready_then);
	else
		ready_then(call_create(s, r));       /* agents elsewhere have their own */
}
void health_reply(struct server *s, struct http_req *r) { http_reply(r, 200, "text/plain", STR("ok\n"), NULL); }  /* the loop turns */
