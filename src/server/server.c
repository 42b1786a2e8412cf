/* The composition of the server: listeners, who may talk to them, and which of API, OTLP, metrics and dashboard a request is for. */
#include "base/clock.h"
#include "base/log.h"
#include "policy/policy.h"
#include "server/desired.h"
#include "server/fleet.h"
#include "server/internal.h"
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>

static const char MAIN[] = "main", OTLP[] = "otlp", JAEGER[] = "jaeger";

static bool is_loopback(const char *bound) { return !strncmp(bound, "127.", 4) || !strncmp(bound, "[::1]", 5); }

/* A page of another origin must not reach a loopback server through a name that it made resolve to 127.0.0.1. */
static bool host_allowed(struct server *s, struct http_req *r)
{
	const char *bound = r->listener_arg == OTLP ? s->otlp_bound : s->bound;
	struct str h = http_header(r, "host");
	if (r->local || !is_loopback(bound))
		return true;
	const char *end = h.n && h.p[0] == '[' ? memchr(h.p, ']', h.n) : NULL, *colon = end ? NULL : memchr(h.p ? h.p : "", ':', h.n);
	size_t n = end ? (size_t)(end + 1 - h.p) : colon ? (size_t)(colon - h.p) : h.n;
	struct str name = { h.p, n };
	return (n == 9 && !strncasecmp(h.p, "localhost", 9)) || str_is(name, "[::1]") || (n > 4 && n < 16 && !strncmp(h.p, "127.", 4) && strspn(h.p, "0123456789.") >= n);
}
static bool origin_allowed(struct http_req *r)
{
	struct str o = http_header(r, "origin"), h = http_header(r, "host"), site = http_header(r, "sec-fetch-site");
	if (!strcmp(r->method, "GET") || r->is_head || !strcmp(r->method, "OPTIONS"))
		return true;
	if (str_is(site, "cross-site"))
		return false;
	return !o.n || (o.n == h.n + 7 && !strncmp(o.p, "http://", 7) && !memcmp(o.p + 7, h.p, h.n)) ||
		(o.n == h.n + 8 && !strncmp(o.p, "https://", 8) && !memcmp(o.p + 8, h.p, h.n));
}

static void handle(void *arg, struct http_req *r)
{
	struct server *s = arg;
	struct err e = { 0 };
	if (r->listener_arg == JAEGER)                            /* any path, any name: it only says what share to keep */
		sampling_reply(s, r);
	else if (!host_allowed(s, r) || !origin_allowed(r)) {
		err_set(&e, KLIEG_E_DENIED, "requests from other sites are refused (Host or Origin does not belong to this server)");
		err_hint(&e, "use http://localhost or http://127.0.0.1");
		reply_problem(r, &e);
	} else if (str_is(r->path, "/v1/traces"))
		admit_otlp(s, r);
	else if (str_is(r->path, "/healthz"))
		health_reply(s, r);
	else if (str_is(r->path, "/readyz"))
		ready_reply(s, r);
	else if (r->listener_arg == OTLP) {
		err_set(&e, KLIEG_E_NOT_FOUND, "this port takes POST /v1/traces only");
		reply_problem(r, &e);
	} else if (r->path.n > 10 && !strncmp(r->path.p, "/agent/v1/", 10))
		fleet_handle(s, r);
	else if (str_is(r->path, "/sampling"))
		sampling_reply(s, r);
	else if (str_is(r->path, "/metrics"))
		metrics_reply(s, r);
	else if (str_is(r->path, "/policy.schema.json"))          /* editors take it from here: the first line of a policy names it */
		http_reply(r, 200, "application/schema+json", str_of(policy_schema), "Access-Control-Allow-Origin: *\r\n");
	else if (r->path.n > 8 && !strncmp(r->path.p, "/api/v1/", 8))
		routes_dispatch(s, r);
	else if (strcmp(r->method, "GET") && !r->is_head)
		http_reply(r, 405, NULL, (struct str){ 0 }, "Allow: GET, HEAD\r\n");
	else
		assets_reply(r);
}

static void handle_grpc(void *arg, struct grpc_call *c)
{
	static const uint8_t serving[] = { 8, 1 };
	if (!strcmp(c->method, "/jaeger.api_v2.SamplingManager/GetSamplingStrategy"))
		sampling_grpc(arg, c);
	else if (!strcmp(c->method, "/opentelemetry.proto.collector.trace.v1.TraceService/Export"))
		admit_grpc(arg, c);
	else if (!strcmp(c->method, "/grpc.health.v1.Health/Check"))
		grpc_reply(c, GRPC_OK, NULL, (struct str){ (const char *)serving, sizeof serving });
	else
		grpc_reply(c, GRPC_UNIMPLEMENTED, "there are TraceService/Export, SamplingManager/GetSamplingStrategy and Health/Check", (struct str){ 0 });
}

/* A listener that not everybody needs: on its usual port if that is free, or where it was told to be. */
static int listen_besides(struct server *s, const char *address, const char *usual, bool grpc, char bound[80], struct err *e)
{
	struct err mine = { 0 };
	if (address && !strcmp(address, "off"))
		return 0;
	const char *at = address ? address : usual;
	int rc = grpc ? grpc_listen(s->grpc, at, s, bound, &mine) : http_listen_tcp(s->http, at, (void *)JAEGER, bound, &mine);
	if (rc < 0 && address) {
		*e = mine;
		return rc;
	}
	if (rc < 0) {
		bound[0] = 0;
		log_info("server", "not listening on %s: %s", usual, mine.msg);
	}
	return 0;
}

static void tick(uv_timer_t *t)
{
	struct server *s = t->data;
	priority_pace(&s->pace, clock_mono());
	server_clock(t->data);
	events_tick(t->data);
	fleet_tick(t->data);
	desired_tick(t->data);
	audit_tick(t->data);
}

int server_create(const struct server_config *c, struct server **ret_s, struct err *e)
{
	struct server *s = base_calloc(1, sizeof(*s));
	char path[300];
	s->c = *c;
	s->started = clock_mono();
	http_server_create(c->loop, &(struct http_limits){ 0 }, handle, s, &s->http);
	grpc_server_create(c->loop, &(struct grpc_limits){ 0 }, handle_grpc, s, &s->grpc);
	sampling_create(s);
	uv_timer_init(loop_uv(c->loop), &s->tick);
	s->tick.data = s;
	uv_timer_start(&s->tick, tick, 1000, 1000);
	snprintf(path, sizeof(path), "%s/klieg.sock", c->dir);
	fleet_create(s);
	int rc = desired_create(s, e);
	if (rc == 0)
		rc = toggles_create(s, e);
	if (rc == 0)
		rc = panic_create(s, e);
	if (rc == 0)
		rc = policies_create(s, e);
	if (rc == 0)
		rc = firings_create(s, e);
	if (rc == 0)
		rc = audit_create(s, e);
	if (rc == 0)
		rc = alerts_create(s);
	if (rc == 0)
		rc = http_listen_tcp(s->http, c->http, (void *)MAIN, s->bound, e);
	if (rc == 0)
		rc = http_listen_tcp(s->http, c->otlp_http, (void *)OTLP, s->otlp_bound, e);
	if (rc == 0)
		rc = http_listen_unix(s->http, path, e);
	if (rc == 0)
		rc = listen_besides(s, c->otlp_grpc, "127.0.0.1:4317", true, s->otlp_grpc_bound, e);
	if (rc == 0)
		rc = listen_besides(s, c->jaeger_http, "127.0.0.1:5778", false, s->jaeger_http_bound, e);
	if (rc == 0)
		rc = listen_besides(s, c->jaeger_grpc, "127.0.0.1:5779", true, s->jaeger_grpc_bound, e);
	if (rc < 0) {
		server_destroy(s);
		return rc;
	}
	if (!is_loopback(s->bound) || !is_loopback(s->otlp_bound))
		log_warn("server", "listening beyond this machine (%s, %s), and there is no authentication yet: whoever reaches it may read spans and switch probes",
			s->bound, s->otlp_bound);
	toggles_restore(s);
	policies_restore(s);
	rollouts_back(s);
	*ret_s = s;
	return 0;
}
void server_set_agent(struct server *s, server_agent_fn fn, void *agent)
{
	fleet_local(s, fn, agent);
	if (fn)
		toggles_restore(s);
}
const char *server_http(const struct server *s) { return s->bound; }
const char *server_otlp_http(const struct server *s) { return s->otlp_bound; }
const char *server_otlp_grpc(const struct server *s) { return s->otlp_grpc_bound; }
const char *server_jaeger_http(const struct server *s) { return s->jaeger_http_bound; }
const char *server_jaeger_grpc(const struct server *s) { return s->jaeger_grpc_bound; }
void server_destroy(struct server *s)
{
	if (!s)
		return;
	http_server_close(s->http);
	grpc_server_close(s->grpc);
	uv_close((uv_handle_t *)&s->tick, NULL);
	uv_run(loop_uv(s->c.loop), UV_RUN_NOWAIT);
	alerts_destroy(s);
	policies_destroy(s);
	audit_destroy(s->audit);
	json_decref(s->firings);
	json_decref(s->panic);
	toggles_destroy(s->toggles);
	fleet_destroy(s);
	sampling_destroy(s);
	desired_destroy(s);
	free(s);
}
