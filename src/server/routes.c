/* One table of the API, from which routing, validation of parameters and bodies, and /openapi.json are derived. A new endpoint is one line here and
 * a handler in the api_*.c of its resource. */
#include "server/internal.h"
#include "model/duration.h"
#include <stdio.h>
#include <stdlib.h>

#define P(...) (const struct field[]){ __VA_ARGS__, { 0 } }
#define SEL { "sel", F_SELECTOR, "", .about = "selector of sites" }
#define Q { "q", F_QUERY, "", .about = "TraceQL filter" }
#define RANGE { "since", F_DURATION, NULL, 1e6, 3.2e17 }, { "from", F_INT, NULL, 0, 9.2e18 }, { "to", F_INT, NULL, 0, 9.2e18 }
#define LEVELS "off|count|span|detail"

static const struct route routes[] = {
	{ "GET", "/status", "view", "state of the server", NULL, NULL, "status", api_status },
	{ "GET", "/processes", "view", "traced processes", NULL, NULL, "processes", api_processes },
	{ "GET", "/sites", "view", "sites that can be switched", P(SEL, { "limit", F_INT, "1000", 1, 100000 }, { "offset", F_INT, "0", 0, 1e9 }), NULL, "sites,matched", api_sites },
	{ "GET", "/sites/stats", "view", "what the sites counted", P(SEL, { "window", F_DURATION, "10s", 1e8, 3.6e12 }), NULL, "window_nano,sites", api_stats },
	{ "GET", "/toggles", "view", "toggles", P({ "all", F_BOOL, "false" }), NULL, "toggles", api_toggles },
	{ "POST", "/toggles", "operate", "switch on", NULL, P({ "selector", F_SELECTOR, NULL, 1 }, { "level", F_TEXT, "span", .choices = LEVELS },
		{ "keep", F_NUMBER, "1", 0, 1 }, { "ttl", F_DURATION, "5m", 1e9, 86400e9 }, { "reason", F_TEXT, "", 0, 500 }, { "owner", F_TEXT, "api", 0, 100 },
		{ "where", F_QUERY, NULL, .nullable = true }, { "scope", F_TEXT, "all", .choices = "all|marked" }, { "dry_run", F_BOOL, "false" },
		{ "estimate", F_DURATION, "100ms", 0, 10e9 }), "toggle,plan", api_toggle_on },
	{ "DELETE", "/toggles", "operate", "switch off", P({ "sel", F_SELECTOR, NULL }, { "all", F_BOOL, "false" }), NULL, "removed,sites,ack_nano", api_toggles_off },
	{ "POST", "/toggles/undo", "operate", "restore what the last DELETE removed", NULL, NULL, "toggles", api_toggles_undo },
	{ "PATCH", "/toggles/{id}", "operate", "change a toggle", NULL, P({ "ttl", F_DURATION, NULL, 1e9, 86400e9 }, { "level", F_TEXT, NULL, .choices = LEVELS },
		{ "keep", F_NUMBER, NULL, 0, 1 }), "id", api_toggle_patch },
	{ "DELETE", "/toggles/{id}", "operate", "switch off", NULL, NULL, "removed,sites,ack_nano", api_toggle_off },
	{ "GET", "/spans", "view", "search", P(Q, RANGE, { "limit", F_INT, "100", 1, 10000 }), NULL, "version,spans,matched,partial,scanned", api_spans },
	{ "GET", "/spans/tail", "view", "spans as they come, as server-sent events", P(Q), NULL, NULL, api_tail },
	{ "GET", "/traces/{id}", "view", "one trace", NULL, NULL, "trace_id,spans,matched", api_trace },
	{ "GET", "/heatmap", "view", "latency over time", P(Q, RANGE, { "columns", F_INT, "60", 1, 1000 }), NULL, "from,to,step_nano,bounds,columns,max,matched", api_heatmap },
	{ "GET", "/hot", "view", "hotspots", P(Q, RANGE, { "limit", F_INT, "50", 1, 1000 }, { "by", F_TEXT, "operation", .choices = "operation" }), NULL,
		"rows,traces,spans,window_nano", api_hot },
	{ "GET", "/inflight", "view", "open spans", P(SEL, { "limit", F_INT, "1000", 1, 100000 }), NULL, "spans", api_inflight },
	{ "GET", "/events", "view", "changes, as server-sent events", NULL, NULL, NULL, api_events },
	{ "GET", "/doctor", "view", "health and the account of spans", NULL, NULL, "ok,checks,account", api_doctor },
	{ "GET", "/openapi.json", "view", "this table", NULL, NULL, "openapi,info,paths", api_openapi },
};
enum { NROUTES = sizeof(routes) / sizeof(*routes) };

static bool in_choices(const char *choices, struct str v)
{
	for (const char *p = choices; *p;) {
		size_t n = strcspn(p, "|");
		if (str_eq((struct str){ p, n }, v))
			return true;
		p += n + (p[n] == '|');
	}
	return false;
}

/* Checks one value; *ret_v is what the handler sees (durations as integer nanoseconds). */
static int check(const struct field *f, json_t *v, json_t **ret_v, struct err *e)
{
	double d = 0;
	int64_t ns;
	struct traceql *q = NULL;
	struct str s = json_is_string(v) ? (struct str){ json_string_value(v), json_string_length(v) } : (struct str){ 0 };
	if (json_is_null(v) && f->nullable) {
		*ret_v = json_null();
		return 0;
	}
	switch (f->type) {
	case F_TEXT: case F_SELECTOR: case F_QUERY: case F_DURATION:
		if (!json_is_string(v))
			return err_set(e, KLIEG_E_TYPE, "'%s' must be a string", f->name);
		break;
	case F_INT:
		if (!json_is_integer(v))
			return err_set(e, KLIEG_E_TYPE, "'%s' must be an integer", f->name);
		d = (double)json_integer_value(v);
		break;
	case F_NUMBER:
		if (!json_is_number(v))
			return err_set(e, KLIEG_E_TYPE, "'%s' must be a number", f->name);
		d = json_number_value(v);
		break;
	case F_BOOL:
		if (!json_is_boolean(v))
			return err_set(e, KLIEG_E_TYPE, "'%s' must be true or false", f->name);
	}
	if (f->type == F_DURATION) {
		if (duration_parse(s, &ns) < 0) {
			err_set(e, KLIEG_E_SYNTAX, "'%s': '%.60s' is not a duration", f->name, s.p);
			return err_hint(e, "write it like 250ms, 30s, 5m or 1h30m");
		}
		d = (double)ns;
		if ((f->max && d > f->max) || d < f->min)
			return err_set(e, KLIEG_E_LIMIT, "'%s' must be from %.10gs to %.10gs", f->name, f->min / 1e9, f->max / 1e9);
		*ret_v = json_integer(ns);
		return 0;
	}
	if ((f->type == F_INT || f->type == F_NUMBER) && (d < f->min || d > f->max))
		return err_set(e, KLIEG_E_LIMIT, "'%s' must be from %.10g to %.10g", f->name, f->min, f->max);
	if (f->type == F_TEXT && f->max && s.n > f->max)
		return err_set(e, KLIEG_E_LIMIT, "'%s' must have at most %g bytes", f->name, f->max);
	if (f->choices && !in_choices(f->choices, s))
		return err_set(e, KLIEG_E_USAGE, "'%s' must be one of %s", f->name, f->choices);
	if (f->type == F_SELECTOR || (f->type == F_QUERY && s.n)) {
		int rc = f->type == F_QUERY ? traceql_parse(s, &q, e) : traceql_parse_selector(s, &q, e);
		if (rc < 0)
			return rc;
		traceql_destroy(q);
	}
	*ret_v = json_incref(v);
	return 0;
}

static json_t *from_text(const struct field *f, struct str s)
{
	char *end, t[64];
	if (f->type == F_BOOL && (str_is(s, "true") || str_is(s, "1") || !s.n))
		return json_true();
	if (f->type == F_BOOL && (str_is(s, "false") || str_is(s, "0")))
		return json_false();
	if ((f->type == F_INT || f->type == F_NUMBER) && s.n && s.n < sizeof(t)) {
		snprintf(t, sizeof(t), "%.*s", (int)s.n, s.p);
		json_t *v = f->type == F_INT ? json_integer(strtoll(t, &end, 10)) : json_real(strtod(t, &end));
		if (!*end)
			return v;
		json_decref(v);
	}
	return json_stringn(s.p, s.n) ?: json_null();  /* not UTF-8: refused by its type */
}

static int fill(const struct field *fields, json_t *given, bool text, json_t *out, struct err *e)
{
	const char *key;
	json_t *v;
	json_object_foreach(given, key, v) {
		const struct field *f = fields, *near = NULL;
		for (; f && f->name && strcmp(f->name, key); f++)
			if (str_distance(str_of(f->name), str_of(key)) <= 2)
				near = f;
		if (!f || !f->name) {
			err_set(e, KLIEG_E_USAGE, "unknown %s '%.60s'", text ? "parameter" : "field", key);
			return near ? err_hint(e, "did you mean: %s", near->name) : e->code;
		}
		json_t *typed = text ? from_text(f, (struct str){ json_string_value(v), json_string_length(v) }) : json_incref(v), *ok = NULL;
		int rc = check(f, typed, &ok, e);
		json_decref(typed);
		if (rc < 0)
			return rc;
		json_object_set_new(out, key, ok);
	}
	for (const struct field *f = fields; f && f->name; f++) {
		if (json_object_get(out, f->name))
			continue;
		if (f->fallback) {
			json_t *typed = from_text(f, str_of(f->fallback)), *ok = NULL;
			if (check(f, typed, &ok, e) == 0)
				json_object_set_new(out, f->name, ok);
			json_decref(typed);
		} else if (!text && f->type == F_SELECTOR)
			return err_set(e, KLIEG_E_USAGE, "'%s' is required", f->name);
	}
	return 0;
}

static int query_object(struct str q, json_t *out, struct err *e)
{
	for (size_t i = 0; i < q.n;) {
		const char *amp = memchr(q.p + i, '&', q.n - i);
		size_t len = amp ? (size_t)(amp - q.p) - i : q.n - i;
		const char *eq = memchr(q.p + i, '=', len);
		size_t kn = eq ? (size_t)(eq - q.p) - i : len;
		struct buf k = { 0 }, v = { 0 };
		bool ok = http_unescape((struct str){ q.p + i, kn }, true, &k) && (!eq || http_unescape((struct str){ eq + 1, len - kn - 1 }, true, &v));
		json_t *s = ok ? json_stringn(v.n ? (char *)v.p : "", v.n) : NULL;
		buf_byte(&k, 0);
		if (len && (!s || json_object_get(out, (char *)k.p) || json_object_set(out, (char *)k.p, s) < 0))
			ok = false;
		json_decref(s);
		buf_finish(&k);
		buf_finish(&v);
		if (!ok)
			return err_set(e, KLIEG_E_BAD_DATA, "the query string is malformed, not UTF-8, or repeats a parameter");
		i += len + 1;
	}
	return 0;
}

void call_free(struct call *c)
{
	json_decref(c->params);
	json_decref(c->body);
	json_decref(c->result);
	free(c);
}
void call_json(struct call *c, int status, json_t *body)
{
	char *t = json_dumps(body, JSON_COMPACT);
	http_reply(c->r, status, "application/json", str_of(t), "Cache-Control: no-store\r\n");
	free(t);
	json_decref(body);
	call_free(c);
}
void call_text(struct call *c, struct buf *body)
{
	http_reply(c->r, 200, "application/json", buf_str(body), "Cache-Control: no-store\r\n");
	buf_finish(body);
	call_free(c);
}
void reply_problem(struct http_req *r, const struct err *e)
{
	int status = err_http(e->code);
	json_t *o = json_pack("{ss ss si ss ss}", "type", "about:blank", "title", err_title(e->code), "status", status, "detail", e->msg, "code", err_name(e->code));
	if (!o)  /* the message is not UTF-8 */
		o = json_pack("{ss ss si ss ss}", "type", "about:blank", "title", err_title(e->code), "status", status, "detail", "the input is not UTF-8", "code", err_name(e->code));
	if (e->hint[0])
		json_object_set_new(o, "hint", json_string(e->hint));
	if (e->column) {
		json_object_set_new(o, "line", json_integer(e->line ? e->line : 1));
		json_object_set_new(o, "column", json_integer(e->column));
	}
	char *t = json_dumps(o, JSON_COMPACT);
	http_reply(r, status, "application/problem+json", str_of(t), status == 503 ? "Retry-After: 1\r\n" : NULL);
	free(t);
	json_decref(o);
}
void call_fail(struct call *c, const struct err *e) { struct err copy = *e; struct http_req *r = c->r; call_free(c); reply_problem(r, &copy); }

static void work(void *arg) { struct call *c = arg; c->work(c); }
static void then(void *arg) { struct call *c = arg; c->then(c); }
void call_work(struct call *c, void (*w)(struct call *), void (*t)(struct call *))
{
	c->work = w;
	c->then = t;
	loop_work(c->s->c.loop, work, then, c);
}
static void agent_reply(void *arg, int rc, json_t *result, const struct err *e)
{
	struct call *c = arg;
	c->rc = rc;
	json_decref(c->result);
	c->result = result ? json_deep_copy(result) : NULL;  /* jansson's counts are not for two threads */
	if (e)
		c->e = *e;
	loop_post(c->s->c.loop, then, c);
}
void call_agent(struct call *c, const char *method, json_t *params, void (*t)(struct call *))
{
	c->then = t;
	if (c->s->agent) {
		c->s->agent(c->s->agent_arg, method, params, agent_reply, c);
		return;
	}
	json_decref(params);
	c->rc = err_set(&c->e, KLIEG_E_NO_TARGET, "no agent is connected to this server");
	t(c);
}

static bool path_matches(const char *pattern, const char *path, char id[64])
{
	size_t n = strcspn(pattern, "{");
	if (!pattern[n])
		return !strcmp(pattern, path);
	if (strncmp(pattern, path, n) || !path[n] || strchr(path + n, '/') || strlen(path + n) >= 64)
		return false;
	strcpy(id, path + n);
	return true;
}

void routes_dispatch(struct server *s, struct http_req *r)
{
	const char *path = r->path.p + strlen("/api/v1"), *method = r->is_head ? "GET" : r->method;
	struct err e = { 0 };
	struct buf allow = { 0 };
	char id[64] = "";
	const struct route *found = NULL;
	for (int i = 0; i < NROUTES && !found; i++)
		if (path_matches(routes[i].path, path, id)) {
			if (!strcmp(routes[i].method, method))
				found = &routes[i];
			else
				buf_printf(&allow, "%s%s", allow.n ? ", " : "Allow: ", routes[i].method);
		}
	if (!found) {
		buf_add(&allow, "\r\n", 3);
		bool known = allow.n > 3;
		if (known)
			http_reply(r, !strcmp(method, "OPTIONS") ? 204 : 405, NULL, (struct str){ 0 }, (char *)allow.p);
		else {
			err_set(&e, KLIEG_E_NOT_FOUND, "there is no %.100s in this API", r->path.p);
			err_hint(&e, "GET /api/v1/openapi.json lists what there is");
			reply_problem(r, &e);
		}
		buf_finish(&allow);
		return;
	}
	buf_finish(&allow);
	struct call *c = base_calloc(1, sizeof(*c));
	json_t *given = json_object();
	*c = (struct call){ .s = s, .r = r, .route = found, .params = json_object(), .body = json_object() };
	strcpy(c->id, id);
	int rc = query_object(r->query, given, &e);
	if (rc == 0)
		rc = fill(found->params, given, true, c->params, &e);
	json_decref(given);
	if (rc == 0 && found->body) {
		json_error_t je;
		json_t *body = r->body.n > 1 << 20 ? NULL : json_loadb((char *)r->body.p, r->body.n, JSON_REJECT_DUPLICATES, &je);
		if (r->body.n > 1 << 20)
			rc = err_set(&e, KLIEG_E_TOO_LARGE, "the body is larger than 1 MiB");
		else if (!json_is_object(body))
			rc = body ? err_set(&e, KLIEG_E_TYPE, "the body must be a JSON object") : err_at(&e, KLIEG_E_SYNTAX, je.line, je.column, "the body is not JSON: %s", je.text);
		else
			rc = fill(found->body, body, false, c->body, &e);
		json_decref(body);
	}
	if (rc < 0)
		call_fail(c, &e);
	else
		found->handler(c);
}

static json_t *schema(const struct field *f)
{
	static const char *const types[] = { "string", "integer", "boolean", "number", "string", "string", "string" };
	json_t *o = json_pack("{ss}", "type", types[f->type]);
	if (f->nullable)
		json_object_set_new(o, "type", json_pack("[ss]", types[f->type], "null"));
	if (f->type == F_INT || f->type == F_NUMBER)
		json_object_set_new(o, "minimum", json_real(f->min)), json_object_set_new(o, "maximum", json_real(f->max));
	if (f->fallback)
		json_object_set_new(o, "default", from_text(f, str_of(f->fallback)));
	if (f->choices) {
		json_t *a = json_array();
		for (const char *p = f->choices; *p;) {
			size_t n = strcspn(p, "|");
			json_array_append_new(a, json_stringn(p, n));
			p += n + (p[n] == '|');
		}
		json_object_set_new(o, "enum", a);
	}
	return o;
}

void api_openapi(struct call *c)
{
	json_t *paths = json_object();
	for (int i = 0; i < NROUTES; i++) {
		const struct route *rt = &routes[i];
		char path[80], method[8] = "";
		snprintf(path, sizeof(path), "/api/v1%s", rt->path);
		for (int k = 0; rt->method[k]; k++)
			method[k] = rt->method[k] | 32;
		json_t *item = json_object_get(paths, path), *params = json_array(), *op;
		if (!item)
			json_object_set_new(paths, path, item = json_object());
		if (strchr(rt->path, '{'))
			json_array_append_new(params, json_pack("{ss ss sb s{ss}}", "name", "id", "in", "path", "required", 1, "schema", "type", "string"));
		for (const struct field *f = rt->params; f && f->name; f++)
			json_array_append_new(params, json_pack("{ss ss so}", "name", f->name, "in", "query", "schema", schema(f)));
		json_t *ok = json_pack("{ss ss}", "type", "object", "description", rt->about), *required = json_array();
		for (const char *p = rt->answers; p && *p;) {
			size_t n = strcspn(p, ",");
			json_array_append_new(required, json_stringn(p, n));
			p += n + (p[n] == ',');
		}
		if (!strcmp(rt->path, "/status"))
			json_array_clear(required), json_array_append_new(required, json_string("version"));
		json_object_set_new(ok, "required", required);
		op = json_pack("{ss ss so s{s{ss s{s{so}}} s{ss}}}", "summary", rt->about, "x-permission", rt->permission, "parameters", params, "responses", "200", "description", "ok",
			"content", rt->answers ? "application/json" : "text/event-stream", "schema", ok, "default", "description", "application/problem+json");
		if (rt->body) {
			json_t *props = json_object();
			for (const struct field *f = rt->body; f->name; f++)
				json_object_set_new(props, f->name, schema(f));
			json_object_set_new(op, "requestBody", json_pack("{s{s{s{ss so sb}}}}", "content", "application/json", "schema", "type", "object", "properties", props,
				"additionalProperties", 0));
		}
		json_object_set_new(item, method, op);
	}
	call_json(c, 200, json_pack("{ss s{ss ss} so}", "openapi", "3.1.0", "info", "title", "Klieg", "version", "1", "paths", paths));
}
