/* What is: status, processes, sites, statistics, open spans, the doctor. Mostly the agent's answers, passed on. */
#include "base/clock.h"
#include "server/internal.h"
#include <stdlib.h>
#include <unistd.h>

static json_int_t num(const json_t *o, const char *k) { return json_integer_value(json_object_get(o, k)); }

/* made = what the agent's processes made + what came by OTLP, less what a former agent has passed on already: the account is that of this run. What was
 * passed and is neither stored nor dropped yet is queued, in the agent's spool or in the store. The agent counts what it passed independently of
 * what its processes made, so `balanced` is a check and not a definition. */
json_t *account_json(struct server *s, const json_t *agent)
{
	struct admit *a = &s->admit;
	json_t *dropped = agent ? json_deep_copy(json_object_get(agent, "dropped")) : NULL, *v;
	const char *k;
	json_int_t lost = 0;
	if (!dropped)
		dropped = json_object();
	json_int_t stored = (json_int_t)a->stored, passed = num(agent, "passed") - num(agent, "carried") + (json_int_t)a->otlp_taken,
		made = num(agent, "made") - num(agent, "carried") + (json_int_t)a->otlp_taken, open = num(agent, "open");
	admit_dropped(s, dropped);
	json_object_foreach(dropped, k, v)
		lost += json_integer_value(v);
	json_int_t queued = passed - (json_int_t)(a->otlp_rejected + a->dropped_store) - stored;
	return json_pack("{sI sI sI sI so sb}", "made", made, "stored", stored, "open", open, "queued", queued > 0 ? queued : 0, "dropped", dropped,
		"balanced", made == stored + open + queued + lost);
}

static json_t *store_json(struct server *s)
{
	struct store_stats st;
	store_stats(s->c.store, &st);
	return json_pack("{sI sI sI sI sI sI sI sI ss}", "spans", (json_int_t)st.spans, "bytes", (json_int_t)st.bytes, "files", (json_int_t)st.files, "wal_bytes",
		(json_int_t)st.wal_bytes, "queue_bytes", (json_int_t)st.queue_bytes, "queue_age_nano", (json_int_t)st.queue_age_ns, "recovered", (json_int_t)st.recovered,
		"expired", (json_int_t)st.expired, "last_error", st.last_error);
}

static json_t *status_json(struct server *s, const json_t *processes, const json_t *agent_account)
{
	char host[256] = "";
	int64_t next;
	unsigned toggles = toggles_active(s, &next), live = 0;
	json_int_t sites = 0, on = 0;
	double overhead = 0;
	size_t i;
	json_t *p;
	json_array_foreach(json_object_get(processes, "processes"), i, p) {
		if (strcmp(json_string_value(json_object_get(p, "state")) ?: "live", "live"))
			continue;
		double o = json_number_value(json_object_get(p, "overhead_percent"));
		live++;
		sites += num(p, "sites");
		on += num(p, "on");
		overhead = o > overhead ? o : overhead;
	}
	gethostname(host, sizeof(host) - 1);
	int64_t policy_ends = policies_next_expiry(s);
	next = policy_ends && (!next || policy_ends < next) ? policy_ends : next;
	return json_pack("{ss ss sI ss ss s{sI sI sI sI sI} so so sf sf sf sf so so}", "version", "0.1.0", "http", server_http(s),
		"uptime_nano", (json_int_t)(clock_mono() - s->started), "mode",
		fleet_local_host(s) ? "up" : "server", "host", host, "counts", "processes", (json_int_t)live, "sites", sites, "on", on, "toggles", (json_int_t)toggles,
		"policies", (json_int_t)policies_in_force(s),
		"next_expiry_unix_nano", next ? json_integer(next) : json_null(), "account", account_json(s, agent_account), "overhead_percent", overhead,
		"agent_cpu_percent", json_number_value(json_object_get(json_object_get(processes, "agent"), "cpu_percent")),
		"budget_percent", fleet_budget(s), "spans_per_s", s->spans_per_s, "store", store_json(s), "panic", panic_json(s));
}

static void status_account(struct call *c)
{
	json_t *ps = c->data, *st = status_json(c->s, ps, c->rc < 0 ? NULL : c->result);
	json_decref(ps);
	if (c->r) {
		call_json(c, 200, st);
		return;
	}
	events_send(c->s, "status", st);     /* the tick's own call */
	json_decref(st);
	call_free(c);
}
static void status_ps(struct call *c)
{
	c->data = c->rc < 0 ? NULL : json_incref(c->result);
	call_agent(c, "account", NULL, status_account);
}
void api_status(struct call *c) { call_agent(c, "ps", NULL, status_ps); }

void events_tick(struct server *s)
{
	uint64_t stored = s->admit.stored;
	s->spans_per_s = (double)(stored - s->last_stored);
	s->last_stored = stored;
	toggles_tick(s);
	policies_tick(s);
	rollout_tick(s);
	bool turn = fleet_turn(s);       /* what asks all of many agents leaves them and us time for changes */
	if (turn)
		across_tick(s);
	firings_tick(s);
	if (turn)
		alerts_tick(s);
	if (!s->watchers || !turn)
		return;
	struct call *c = base_calloc(1, sizeof(*c));
	c->s = s;
	api_status(c);
}

void call_pass_on(struct call *c)
{
	if (c->rc < 0)
		call_fail(c, &c->e);
	else
		call_json(c, 200, json_incref(c->result));
}
static json_t *copy(const json_t *v) { return v ? json_deep_copy(v) : json_null(); }
#define PARAM(name) copy(json_object_get(c->params, name))
void api_processes(struct call *c) { call_agent(c, "ps", NULL, call_pass_on); }
void api_sites(struct call *c)
{
	call_agent(c, "ls", json_pack("{so so so}", "selector", PARAM("sel"), "limit", PARAM("limit"), "offset", PARAM("offset")), call_pass_on);
}
void api_stats(struct call *c) { call_agent(c, "stats", json_pack("{so so}", "selector", PARAM("sel"), "window_nano", PARAM("window")), call_pass_on); }
void api_inflight(struct call *c) { call_agent(c, "inflight", json_pack("{so so}", "selector", PARAM("sel"), "limit", PARAM("limit")), call_pass_on); }

static void overhead_then(struct call *c)
{
	int64_t next, policy_ends = policies_next_expiry(c->s);
	if (c->rc < 0) {
		call_fail(c, &c->e);
		return;
	}
	toggles_active(c->s, &next);
	next = policy_ends && (!next || policy_ends < next) ? policy_ends : next;
	json_object_set_new(c->result, "next_expiry_unix_nano", next ? json_integer(next) : json_null());
	call_json(c, 200, json_incref(c->result));
}
void api_overhead(struct call *c) { call_agent(c, "overhead", NULL, overhead_then); }

static void doctor_health(struct call *c)
{
	json_t *acc = c->data, *checks = json_array(), *v;
	const char *k;
	bool ok = true;
	struct store_stats st;
	store_stats(c->s->c.store, &st);
	json_array_append_new(checks, json_pack("{ss sb sI sI ss ss}", "name", "store.queue", "ok", st.queue_bytes < 256 << 20,
		"value", (json_int_t)st.queue_bytes, "limit", (json_int_t)(256 << 20), "what", "bytes waiting to be synced", "next", "is the disk slow?"));
	json_array_append_new(checks, json_pack("{ss sb ss sn ss ss}", "name", "store.error", "ok", !c->s->admit.failing, "value",
		st.last_error[0] || !c->s->admit.failing ? st.last_error : err_title(c->s->admit.failing), "limit", "what", "last error of the store",
		"next", "free disk space, look at the log"));
	json_array_append_new(checks, json_pack("{ss sb sb sn ss ss}", "name", "state", "ok", !c->s->state_failed, "value", !c->s->state_failed, "limit", "what",
		"toggles are saved for the next start", "next", "free disk space; the log says what failed"));
	json_array_append_new(checks, json_pack("{ss sb sb sn ss ss}", "name", "agent", "ok", c->rc == 0, "value", c->rc == 0, "limit",
		"what", "an agent answers", "next", "klieg up"));
	if (c->rc == 0)
		json_object_foreach(c->result, k, v)
			if (json_is_object(v)) {
				json_t *row = json_copy(v);
				json_object_set_new(row, "name", json_string(k));
				if (!json_object_get(row, "next"))
					json_object_set_new(row, "next", json_string(""));
				json_array_append_new(checks, row);
			}
	size_t i;
	json_array_foreach(checks, i, v)
		ok = ok && json_is_true(json_object_get(v, "ok"));
	call_json(c, 200, json_pack("{sb so so}", "ok", ok, "checks", checks, "account", acc));
}
static void doctor_account(struct call *c)
{
	c->data = account_json(c->s, c->rc < 0 ? NULL : c->result);
	call_agent(c, "health", NULL, doctor_health);
}
void api_doctor(struct call *c) { call_agent(c, "account", NULL, doctor_account); }
