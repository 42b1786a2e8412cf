/* Toggles: who switched what on, why and until when. Their rules are part of what is desired (desired.c), which gives them to the agents; this file
 * owns what people see of them, and keeps the ended ones of the last day. Every change is in the state store before it is answered, one document per
 * toggle and one for what undo would restore; after a restart (or a crash) what was on is on again, but for what has run out meanwhile. */
#include "base/clock.h"
#include "base/log.h"
#include "server/desired.h"
#include "server/internal.h"
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>

static const int64_t DAY = 86400000000000ll;
struct toggle_set { json_t *live, *ended, *undo; };  /* id -> toggle; array of toggles; array of what the last off removed */

static const char KIND[] = "toggle", UNDO[] = "toggle_undo";

void toggles_destroy(struct toggle_set *t)
{
	if (!t)
		return;
	json_decref(t->live);
	json_decref(t->ended);
	json_decref(t->undo);
	free(t);
}

/* The agent has been asked already, so what cannot be written is still true: it is logged, seen in the doctor, and lost with this process. */
static void saved(struct server *s, int rc, const struct err *e)
{
	if (rc < 0 && !s->state_failed)
		log_warn("server", "toggles cannot be saved and would not survive a restart: %s", e->msg[0] ? e->msg : err_title(rc));
	s->state_failed = rc < 0;
}
/* Of a group; each change in it was said to be saved. */
static void save_end(struct server *s)
{
	struct err e = { 0 };
	int rc = state_group_end(s->c.state, &e);
	if (rc < 0)
		saved(s, rc, &e);
}
static void put(struct server *s, const char *kind, const char *id, const json_t *doc)
{
	struct err e = { 0 };
	char *text = json_dumps(doc, JSON_COMPACT);
	saved(s, state_put(s->c.state, kind, id, str_of(text), STATE_ANY, NULL, &e), &e);
	free(text);
}
static void save(struct server *s, const json_t *t) { put(s, KIND, json_string_value(json_object_get(t, "id")), t); }
static void forget(struct server *s, const json_t *t)
{
	struct err e = { 0 };
	int rc = state_delete(s->c.state, KIND, json_string_value(json_object_get(t, "id")) ?: "", STATE_ANY, &e);
	saved(s, rc == KLIEG_E_NOT_FOUND ? 0 : rc, &e);
}

static int64_t expiry(const json_t *t) { return json_integer_value(json_object_get(t, "expires_unix_nano")); }

static void mark_ended(json_t *t, const char *state, const char *by, int64_t when)
{
	json_object_set_new(t, "state", json_string(state));
	json_object_set_new(t, "ended_by", json_string(by));
	json_object_set_new(t, "ended_unix_nano", json_integer(when));
}
static void end(struct server *s, const char *id, const char *state, const char *by)
{
	struct toggle_set *ts = s->toggles;
	json_t *t = json_incref(json_object_get(ts->live, id));
	json_object_del(ts->live, id);
	mark_ended(t, state, by, clock_wall());
	json_array_insert(ts->ended, 0, t);
	save(s, t);
	json_t *ev = json_pack("{ss ss ss sO}", "type", "toggle", "what", state, "by", by, "toggle", t);
	events_send(s, "toggle", ev);
	json_decref(ev);
	json_decref(t);
}

void toggles_shift(struct server *s, int64_t by)
{
	const char *id;
	json_t *t;
	json_object_foreach(s->toggles->live, id, t) {
		json_object_set_new(t, "expires_unix_nano", json_integer(expiry(t) + by));
		save(s, t);
	}
	json_t *ev = json_pack("{ss ss}", "type", "toggle", "what", "clock");
	events_send(s, "toggle", ev);
	json_decref(ev);
}

void toggles_tick(struct server *s)
{
	server_clock(s);
	struct toggle_set *ts = s->toggles;
	int64_t now = clock_wall();
	const char *id;
	void *tmp;
	json_t *t;
	json_object_foreach_safe(ts->live, tmp, id, t)
		if (expiry(t) <= now) {
			char copy[64];
			snprintf(copy, sizeof(copy), "%s", id);
			end(s, copy, "expired", "system:ttl");
		}
	for (size_t n; (n = json_array_size(ts->ended)) > 0; json_array_remove(ts->ended, n - 1)) {
		json_t *oldest = json_array_get(ts->ended, n - 1);
		if (n <= 1000 && json_integer_value(json_object_get(oldest, "ended_unix_nano")) >= now - DAY)
			break;
		forget(s, oldest);
	}
}

const json_t *toggle_live(struct server *s, const char *id) { return json_object_get(s->toggles->live, id); }

unsigned toggles_active(struct server *s, int64_t *ret_next)
{
	const char *id;
	json_t *t;
	toggles_tick(s);
	*ret_next = 0;
	json_object_foreach(s->toggles->live, id, t)
		if (!*ret_next || expiry(t) < *ret_next)
			*ret_next = expiry(t);
	return (unsigned)json_object_size(s->toggles->live);
}

/* What the agents get of a toggle. */
static json_t *wire(const json_t *t)
{
	static const char *const keys[] = { "id", "selector", "level", "keep", "scope", "where", "expires_unix_nano", "owner", "reason",
		"depth", "max_pause_nano", "max_functions", "max_cost", "hosts", "share", "rate" };
	json_t *o = json_object();
	for (unsigned i = 0; i < sizeof(keys) / sizeof(*keys); i++)
		if (i < 9 || json_object_get(t, keys[i]))   /* the others are optional */
			json_object_set(o, keys[i], json_object_get(t, keys[i]) ?: json_null());
	json_t *copy = json_deep_copy(o);  /* the agent's thread gets no references into ours */
	json_decref(o);
	return copy;
}
static json_t *one(json_t *v)  /* steals */
{
	json_t *list = json_array();
	json_array_append_new(list, v);
	return list;
}

/* ---- restart ---- */
static int by_end(const void *a, const void *b)
{
	json_int_t x = json_integer_value(json_object_get(*(json_t *const *)a, "ended_unix_nano"));
	json_int_t y = json_integer_value(json_object_get(*(json_t *const *)b, "ended_unix_nano"));
	return x < y ? 1 : x > y ? -1 : 0;
}
static int loaded(void *arg, const char *id, int64_t version, struct str text)
{
	json_t *t = json_loadb(text.p, text.n, 0, NULL);
	if (json_is_object(t))
		json_array_append_new(arg, t);
	else
		log_warn("server", "toggle %s cannot be read back and is left alone", id);
	return 0;
}

/* What was on and has not run out goes on; one whose selector this version does not understand any more is ended, not fatal. */
int toggles_create(struct server *s, struct err *e)
{
	struct toggle_set *ts = s->toggles = base_alloc(sizeof(*ts));
	*ts = (struct toggle_set){ json_object(), json_array(), NULL };
	json_t *all = json_array(), *t, **rows;
	struct buf undo = { 0 };
	int64_t now = clock_wall(), version;
	size_t i, n = 0;
	int rc = state_list(s->c.state, KIND, loaded, all);
	if (rc < 0) {
		json_decref(all);
		return err_set(e, rc, "the toggles in %s/state.db cannot be read: %s", s->c.dir, err_title(rc));
	}
	rows = base_calloc(json_array_size(all) + 1, sizeof(*rows));
	json_array_foreach(all, i, t) {
		const char *id = json_string_value(json_object_get(t, "id")), *sel = json_string_value(json_object_get(t, "selector"));
		bool active = !strcmp(json_string_value(json_object_get(t, "state")) ?: "", "active");
		int64_t begun = json_integer_value(json_object_get(t, "created_unix_nano"));
		if (active && begun > now) {  /* the clock was set back meanwhile: no more than it was granted */
			json_object_set_new(t, "expires_unix_nano", json_integer(now + expiry(t) - begun));
			json_object_set_new(t, "created_unix_nano", json_integer(now));
			save(s, t);
		}
		struct traceql *q = NULL;
		struct err why = { 0 };
		if (!id)
			continue;
		if (active && expiry(t) > now && traceql_parse_selector(str_of(sel ?: "{"), &q, &why) >= 0) {
			traceql_destroy(q);
			json_object_set(ts->live, id, t);
			continue;
		}
		if (active) {
			mark_ended(t, why.code ? "removed" : "expired", why.code ? "system:selector" : "system:ttl", why.code ? now : expiry(t));
			save(s, t);
		}
		rows[n++] = t;
	}
	qsort(rows, n, sizeof(*rows), by_end);
	for (i = 0; i < n; i++)
		json_array_append(ts->ended, rows[i]);
	free(rows);
	json_decref(all);
	if (state_get(s->c.state, UNDO, "last", &undo, &version) >= 0)
		ts->undo = json_loadb((char *)undo.p, undo.n, 0, NULL);
	buf_finish(&undo);
	if (!json_is_array(ts->undo)) {
		json_decref(ts->undo);
		ts->undo = json_array();
	}
	return 0;
}

static void restored(void *arg, int rc, json_t *merged, const struct err *e)
{
	if (rc < 0 && rc != KLIEG_E_NO_TARGET)
		log_warn("server", "the agents did not take the toggles of before the restart: %s", e->msg);
}
/* What is desired and what people see were written one after the other: a crash in between leaves them apart. */
void toggles_restore(struct server *s)
{
	json_t *set = json_array(), *remove = json_array(), *t;
	const char *id;
	toggles_tick(s);
	json_object_foreach(s->toggles->live, id, t)
		if (expiry(json_object_get(desired_rules(s), id)) != expiry(t))  /* not there, or with another end */
			json_array_append_new(set, wire(t));
	json_object_foreach(desired_rules(s), id, t)
		if (!strncmp(id, "t-", 2) && !json_object_get(s->toggles->live, id))
			json_array_append_new(remove, json_string(id));
	if (json_object_size(s->toggles->live))
		log_info("server", "%zu toggles of before the restart are on again", json_object_size(s->toggles->live));
	if (json_array_size(set) || json_array_size(remove))
		desired_change(s, set, remove, restored, s);
	else {
		json_decref(set);
		json_decref(remove);
	}
}

static void list_then(struct call *c)
{
	struct toggle_set *ts = c->s->toggles;
	json_t *out = json_array(), *t, *a;
	const char *id, *k;
	size_t i;
	json_t *v;
	json_object_foreach(ts->live, id, t) {
		json_t *row = json_copy(t);
		json_array_foreach(json_object_get(c->result, "toggles"), i, a)
			if (!strcmp(json_string_value(json_object_get(a, "id")) ?: "", id))
				json_object_foreach(a, k, v)
					json_object_set(row, k, v);
		json_object_set(row, "expires_unix_nano", json_object_get(t, "expires_unix_nano"));
		json_object_set_new(row, "state", json_string("active"));
		json_array_append_new(out, row);
	}
	if (json_is_true(json_object_get(c->params, "all")))
		json_array_extend(out, ts->ended);
	call_json(c, 200, json_pack("{so}", "toggles", out));
}
void api_toggles(struct call *c)
{
	toggles_tick(c->s);
	call_agent(c, "toggles", NULL, list_then);
}

static json_t *plan_of(json_t *result)
{
	json_t *plan = json_copy(result);
	json_object_del(plan, "applied");
	json_object_del(plan, "ack_nano");
	return plan;
}

/* Nothing matched: the names of all sites give the suggestions. */
static void nothing_then(struct call *c)
{
	const char *sel = json_string_value(json_object_get(c->body, "selector")), *colon = sel + str_service_colon(str_of(sel)), *name, *best = NULL;
	struct str want = str_of(*colon && *sel != '{' ? colon + 1 : sel);
	unsigned near = (unsigned)want.n / 2 + 1, d;
	json_t *row;
	size_t i;
	json_array_foreach(json_object_get(c->result, "sites"), i, row)
		if ((name = json_string_value(json_object_get(row, "name"))) && (d = str_distance(want, str_of(name))) < near)
			near = d, best = name;
	err_set(&c->e, KLIEG_E_NO_MATCH, "no site matches '%.200s'", sel);
	if (best)
		err_hint(&c->e, "did you mean: %.100s\nklieg ls", best);
	else
		err_hint(&c->e, "klieg ls lists all sites");
	call_fail(c, &c->e);
}
static bool matches_nothing(const struct call *c)
{
	return c->rc == KLIEG_E_NO_MATCH || (c->rc == 0 && !json_integer_value(json_object_get(c->result, "sites")));
}
static void nothing_named(struct call *c)
{
	call_agent(c, "ls", json_pack("{ss si si}", "selector", "", "limit", 10000, "offset", 0), nothing_then);
}
static bool partial(const json_t *toggle)
{
	return json_object_get(toggle, "share") && jnum(toggle, "share") < 1;
}
/* The sites are there, only not where the toggle was confined to. */
static void elsewhere_then(struct call *c)
{
	json_t *hosts = json_object_get(c->data, "hosts");
	bool share = partial(c->data);
	int processes = (int)jint(c->result, "processes");
	if (matches_nothing(c)) {
		json_decref(c->data);
		nothing_named(c);
		return;
	}
	err_set(&c->e, KLIEG_E_NO_MATCH, "'%.200s' is in %d process%s, none of them %s", jtext(c->data, "selector"), processes, processes == 1 ? "" : "es",
		!json_array_size(hosts) ? "in that share" : share ? "in that share on those hosts" : "on those hosts");
	if (share)
		err_hint(&c->e, "a share takes the processes whose own number is below it, always the same ones: give a larger one\nklieg ps --json shows 'instance'");
	else
		err_hint(&c->e, "klieg ps shows the hosts");
	json_decref(c->data);
	call_fail(c, &c->e);
}
static void nothing(struct call *c)
{
	json_t *t = c->data;
	if (!partial(t) && !json_object_get(t, "hosts")) {
		json_decref(t);
		nothing_named(c);
		return;
	}
	json_t *all = wire(t);
	json_object_del(all, "share");
	json_object_del(all, "hosts");
	call_agent(c, "on", json_pack("{so sb sI}", "toggle", all, "dry_run", 1, "estimate_nano", (json_int_t)0), elsewhere_then);
}

/* What the switching itself had to say joins the plan. */
static void add_warnings(json_t *plan, const json_t *changed)
{
	const char *sofar = json_string_value(json_object_get(plan, "warning"));
	struct buf b = { 0 };
	json_t *v;
	size_t i;
	if (sofar)
		buf_add_str(&b, sofar);
	json_array_foreach(json_object_get(changed, "warnings"), i, v)
		if (!sofar || !strstr(sofar, json_string_value(v) ?: ""))
			buf_printf(&b, "%s%s", b.n ? "; " : "", json_string_value(v));
	if (b.n)
		json_object_set_new(plan, "warning", json_stringn((char *)b.p, b.n));
	buf_finish(&b);
	if ((v = json_object_get(changed, "pause_nano")))
		json_object_set(plan, "pause_nano", v);
}

static void on_reply(struct call *c, json_t *t, int status, json_t *ack)
{
	json_t *plan = json_object_get(t, "plan");
	call_json(c, status, json_pack("{sO sO sO}", "toggle", status == 200 ? json_null() : t, "plan", plan, "ack_nano", ack ? ack : json_null()));
	json_decref(t);
}
static void on_then(struct call *c)
{
	json_t *t = c->data;
	if (c->rc < 0) {
		/* It has become part of what is desired: an agent that comes back must not get what its owner was told had failed. */
		struct err e = c->e;
		desired_change(c->s, NULL, one(json_string(jtext(t, "id"))), restored, c->s);
		json_decref(t);
		call_fail(c, &e);
		return;
	}
	add_warnings(json_object_get(t, "plan"), c->result);
	json_object_set_new(t, "state", json_string("active"));
	json_object_set(c->s->toggles->live, jtext(t, "id"), t);
	save(c->s, t);
	json_t *ev = json_pack("{ss ss sO}", "type", "toggle", "what", "active", "toggle", t);
	events_send(c->s, "toggle", ev);
	json_decref(ev);
	on_reply(c, t, 201, json_object_get(c->result, "ack_nano"));
}
static void on_planned(struct call *c)
{
	json_t *t = c->data;
	if (matches_nothing(c)) {
		nothing(c);
		return;
	}
	if (c->rc < 0) {
		json_decref(t);
		call_fail(c, &c->e);
		return;
	}
	json_t *plan = plan_of(c->result);
	json_object_set_new(t, "plan", plan);
	json_object_set(t, "predicted", json_object_get(plan, "predicted") ?: json_null());
	if (json_is_true(json_object_get(c->body, "dry_run")))
		on_reply(c, t, 200, NULL);
	else
		call_change(c, one(wire(t)), NULL, on_then);
}
void api_toggle_on(struct call *c)
{
	static const char digits[] = "abcdefghijklmnopqrstuvwxyz0123456789";
	unsigned char r[6];
	char id[10] = "t-";
	do {
		if (getrandom(r, sizeof(r), 0) != sizeof(r))
			abort();
		for (int i = 0; i < 6; i++)
			id[2 + i] = digits[r[i] % 36];
	} while (json_object_get(c->s->toggles->live, id));
	json_t *b = c->body, *t = json_object();
	static const char *const same[] = { "selector", "level", "keep", "scope", "owner", "reason" };
	int64_t now = clock_wall(), ttl = json_integer_value(json_object_get(b, "ttl"));
	json_object_set_new(t, "id", json_string(id));
	for (unsigned i = 0; i < sizeof(same) / sizeof(*same); i++)
		json_object_set(t, same[i], json_object_get(b, same[i]));
	json_object_set(t, "where", json_object_get(b, "where") ?: json_null());
	static const char *const optional[] = { "depth", "max_functions", "max_cost", "hosts", "share", "rate" };
	for (unsigned i = 0; i < sizeof(optional) / sizeof(*optional); i++)
		if (json_object_get(b, optional[i]))
			json_object_set(t, optional[i], json_object_get(b, optional[i]));
	if (json_object_get(b, "max_pause"))
		json_object_set(t, "max_pause_nano", json_object_get(b, "max_pause"));
	json_object_set_new(t, "created_unix_nano", json_integer(now));
	json_object_set_new(t, "expires_unix_nano", json_integer(now + ttl));
	c->data = t;
	call_agent(c, "on", json_pack("{so sb sI}", "toggle", wire(t), "dry_run", 1, "estimate_nano", json_integer_value(json_object_get(b, "estimate"))), on_planned);
}

static void patch_then(struct call *c)
{
	json_t *t = c->data;
	if (c->rc < 0) {
		json_decref(t);
		call_fail(c, &c->e);
		return;
	}
	json_object_set(c->s->toggles->live, c->id, t);
	save(c->s, t);
	json_t *ev = json_pack("{ss ss sO}", "type", "toggle", "what", "changed", "toggle", t);
	events_send(c->s, "toggle", ev);
	json_decref(ev);
	call_json(c, 200, t);
}
static void patch_planned(struct call *c)
{
	json_t *t = c->data;
	if (matches_nothing(c)) {
		nothing(c);
		return;
	}
	if (c->rc < 0) {
		json_decref(t);
		call_fail(c, &c->e);
		return;
	}
	static const char *const counted[] = { "sites", "instances", "processes" };
	for (unsigned i = 0; i < sizeof(counted) / sizeof(*counted); i++)
		json_object_set(t, counted[i], json_object_get(c->result, counted[i]));
	call_change(c, one(wire(t)), NULL, patch_then);
}
/* A toggle keeps its name, its history and its time: narrowed or widened in one step, and never for less than a moment off. */
void api_toggle_patch(struct call *c)
{
	static const char *const reach[] = { "selector", "where", "hosts", "share" }, *const same[] = { "level", "keep", "rate" };
	toggles_tick(c->s);
	json_t *old = json_object_get(c->s->toggles->live, c->id), *v;
	bool moved = false;
	if (!old) {
		err_set(&c->e, KLIEG_E_NOT_FOUND, "there is no active toggle %s", c->id);
		call_fail(c, &c->e);
		return;
	}
	json_t *t = json_copy(old);
	if ((v = json_object_get(c->body, "ttl")))
		json_object_set_new(t, "expires_unix_nano", json_integer(clock_wall() + json_integer_value(v)));
	for (unsigned i = 0; i < sizeof(same) / sizeof(*same); i++)
		if ((v = json_object_get(c->body, same[i])))
			json_object_set(t, same[i], v);
	for (unsigned i = 0; i < sizeof(reach) / sizeof(*reach); i++)
		if ((v = json_object_get(c->body, reach[i]))) {
			json_object_set(t, reach[i], v);
			moved = true;
		}
	if (!json_array_size(json_object_get(t, "hosts")))
		json_object_del(t, "hosts");     /* none named: all */
	if (json_is_null(json_object_get(t, "rate")))
		json_object_del(t, "rate");
	c->data = t;
	if (!moved) {
		call_change(c, one(wire(t)), NULL, patch_then);
		return;
	}
	if (!json_object_get(c->body, "selector"))   /* for the error, if it reaches nothing */
		json_object_set(c->body, "selector", json_object_get(t, "selector"));
	call_agent(c, "on", json_pack("{so sb sI}", "toggle", wire(t), "dry_run", 1, "estimate_nano", (json_int_t)0), patch_planned);
}

static void off_then(struct call *c)
{
	json_t *ids = c->data, *v;
	size_t i;
	if (c->rc < 0) {
		json_decref(ids);
		call_fail(c, &c->e);
		return;
	}
	struct toggle_set *ts = c->s->toggles;
	json_t *removed = json_array();
	state_group_begin(c->s->c.state);
	if (json_array_size(ids))
		json_array_clear(ts->undo);
	json_array_foreach(ids, i, v) {
		const char *id = json_string_value(v);
		json_t *t = json_object_get(ts->live, id);
		if (!t)
			continue;
		json_array_append_new(ts->undo, json_copy(t));
		json_array_append(removed, v);
		json_array_append_new(ts->undo, json_integer(expiry(t) - clock_wall()));
		end(c->s, id, "removed", "api");
	}
	if (json_array_size(removed))
		put(c->s, UNDO, "last", ts->undo);
	save_end(c->s);
	json_decref(ids);
	json_t *sites = json_object_get(c->result, "changed"), *ack = json_object_get(c->result, "ack_nano");
	call_json(c, 200, json_pack("{so so so}", "removed", removed, "sites", sites ? json_incref(sites) : json_integer(0),
		"ack_nano", ack ? json_incref(ack) : json_integer(0)));
}
static void off(struct call *c, json_t *ids)
{
	c->data = ids;
	if (!json_array_size(ids)) {       /* nothing to remove is fine: DELETE is idempotent */
		off_then(c);
		return;
	}
	call_change(c, NULL, json_deep_copy(ids), off_then);
}
void api_toggle_off(struct call *c)
{
	json_t *ids = json_array();
	toggles_tick(c->s);
	if (json_object_get(c->s->toggles->live, c->id))
		json_array_append_new(ids, json_string(c->id));
	off(c, ids);
}

/* Sites that a selector touches -> toggles whose own selector touches one of them: asked of the agent toggle by toggle through ls. */
struct by_sel { json_t *touched, *todo, *ids; const char *now; };
static void sel_next(struct call *c);
static void sel_then(struct call *c)
{
	struct by_sel *b = c->data;
	json_t *row;
	size_t i;
	if (c->rc < 0 && c->rc != KLIEG_E_NO_MATCH) {
		json_decref(b->touched), json_decref(b->todo), json_decref(b->ids);
		free(b);
		call_fail(c, &c->e);
		return;
	}
	json_array_foreach(json_object_get(c->result, "sites"), i, row) {
		const char *id = json_string_value(json_object_get(row, "id")) ?: "";
		if (!b->now)
			json_object_set_new(b->touched, id, json_true());
		else if (json_object_get(b->touched, id)) {
			json_array_append_new(b->ids, json_string(b->now));
			break;
		}
	}
	sel_next(c);
}
static void sel_next(struct call *c)
{
	struct by_sel *b = c->data;
	void *it = json_object_iter(b->todo);
	if (it && json_object_size(b->touched)) {
		json_t *t = json_object_get(c->s->toggles->live, json_object_iter_key(it));
		b->now = t ? json_string_value(json_object_get(t, "id")) : "";
		json_object_del(b->todo, json_object_iter_key(it));
		if (t)
			call_agent(c, "ls", json_pack("{so si si}", "selector", json_deep_copy(json_object_get(t, "selector")), "limit", 100000,
				"offset", 0), sel_then);
		else
			sel_next(c);
		return;
	}
	json_t *ids = b->ids;
	json_decref(b->touched), json_decref(b->todo);
	free(b);
	off(c, ids);
}
void api_toggles_off(struct call *c)
{
	const char *sel = json_string_value(json_object_get(c->params, "sel")), *id;
	bool all = json_is_true(json_object_get(c->params, "all"));
	json_t *t;
	toggles_tick(c->s);
	if (!sel == !all) {
		err_set(&c->e, KLIEG_E_USAGE, "say either sel= or all=true");
		call_fail(c, &c->e);
		return;
	}
	if (all) {
		json_t *ids = json_array();
		json_object_foreach(c->s->toggles->live, id, t)
			json_array_append_new(ids, json_string(id));
		off(c, ids);
		return;
	}
	struct by_sel *b = base_calloc(1, sizeof(*b));
	*b = (struct by_sel){ json_object(), json_copy(c->s->toggles->live), json_array(), NULL };
	c->data = b;
	call_agent(c, "ls", json_pack("{ss si si}", "selector", sel, "limit", 100000, "offset", 0), sel_then);
}

/* Toggles that were ended are on again, as they were. */
static void live_again(struct server *s, json_t *back)
{
	json_t *t, *ended = s->toggles->ended;
	size_t i;
	state_group_begin(s->c.state);
	json_array_foreach(back, i, t) {
		const char *id = jtext(t, "id");
		for (size_t k = json_array_size(ended); k--;)
			if (!strcmp(jtext(json_array_get(ended, k), "id"), id))
				json_array_remove(ended, k);
		json_object_set(s->toggles->live, id, t);
		save(s, t);
	}
	save_end(s);
	json_t *ev = json_pack("{ss ss sO}", "type", "toggle", "what", "restored", "toggles", back);
	events_send(s, "toggle", ev);
	json_decref(ev);
}
/* saved: toggle, time left, toggle, time left... -> the toggles with that time from now, and their rules. */
static json_t *with_time_left(const json_t *saved, json_t *set)
{
	json_t *back = json_array(), *t;
	for (size_t i = 0; i + 1 < json_array_size(saved); i += 2) {
		int64_t left = json_integer_value(json_array_get(saved, i + 1));
		if (left <= 0)
			continue;
		t = json_copy(json_array_get(saved, i));
		json_object_set_new(t, "state", json_string("active"));
		json_object_set_new(t, "expires_unix_nano", json_integer(clock_wall() + left));
		json_array_append_new(set, wire(t));
		json_array_append_new(back, t);
	}
	return back;
}

static void undo_then(struct call *c)
{
	json_t *back = c->data;
	if (c->rc < 0) {
		json_decref(back);
		call_fail(c, &c->e);
		return;
	}
	live_again(c->s, back);
	json_array_clear(c->s->toggles->undo);
	put(c->s, UNDO, "last", c->s->toggles->undo);
	call_json(c, 200, json_pack("{so}", "toggles", back));
}
void api_toggles_undo(struct call *c)
{
	json_t *set = json_array(), *back;
	toggles_tick(c->s);
	back = with_time_left(c->s->toggles->undo, set);
	if (!json_array_size(back)) {
		json_decref(back), json_decref(set);
		err_set(&c->e, KLIEG_E_NOT_FOUND, "there is nothing to undo");
		call_fail(c, &c->e);
		return;
	}
	c->data = back;
	call_change(c, set, NULL, undo_then);
}

/* ---- panic ---- */

json_t *toggles_saved(struct server *s)
{
	json_t *list = json_array(), *t;
	const char *id;
	toggles_tick(s);
	json_object_foreach(s->toggles->live, id, t) {
		json_array_append_new(list, json_copy(t));
		json_array_append_new(list, json_integer(expiry(t) - clock_wall()));
	}
	return list;
}
unsigned toggles_end_all(struct server *s, const char *by)
{
	unsigned n = 0;
	state_group_begin(s->c.state);
	for (void *it; (it = json_object_iter(s->toggles->live)); n++) {
		char id[64];
		snprintf(id, sizeof(id), "%s", json_object_iter_key(it));
		end(s, id, "removed", by);
	}
	save_end(s);
	return n;
}
json_t *toggles_bring_back(struct server *s, const json_t *saved, json_t *set)
{
	json_t *back = with_time_left(saved, set);
	live_again(s, back);
	return back;
}
