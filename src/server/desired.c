/* The set of rules that is to be in force everywhere, and its generation. A change is in the state store before any agent hears of it, one document
 * per toggle or policy; the number goes first, so that after a crash in between agents are behind and get the complete set, never silently other
 * rules under a known number. Numbers of a new store begin at the time in seconds: an agent that comes from another server, or from a store that
 * was deleted, is never thought up to date. Loop thread; owns the rules. Sending is the fleet's (fleet.c). */
#include "server/desired.h"
#include "base/clock.h"
#include "base/log.h"
#include "server/internal.h"
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>

struct desired { json_t *rules; int64_t generation; char token_key[33]; };

static const char RULES[] = "desired", META[] = "desired_set", ONLY[] = "set";

json_t *desired_rules(struct server *s) { return s->desired->rules; }
int64_t desired_generation(struct server *s) { return s->desired->generation; }
const char *desired_token_key(struct server *s) { return s->desired->token_key; }

/* ---- the state store ------------------------------------------------------------------------------------------------------ */

static int put(struct server *s, const char *kind, const char *id, const json_t *doc, struct err *e)
{
	char *text = json_dumps(doc, JSON_COMPACT);
	int rc = text ? state_put(s->c.state, kind, id, str_of(text), STATE_ANY, NULL, e) : err_set(e, KLIEG_E_BAD_DATA, "a rule is not UTF-8");
	free(text);
	return rc;
}

static int save_meta(struct server *s, struct err *e)
{
	json_t *doc = json_pack("{sI ss}", "generation", (json_int_t)s->desired->generation, "token_key", s->desired->token_key);
	int rc = put(s, META, ONLY, doc, e);
	json_decref(doc);
	return rc;
}

/* "p:checkout/slow" -> "p:checkout": what changes together is stored together. */
static void group_of(const char *id, char ret[200]) { snprintf(ret, 200, "%.*s", (int)strcspn(id, "/"), id); }

static int save_groups(struct server *s, const json_t *touched, struct err *e)
{
	json_t *by_group = json_object(), *list, *rule, *v;
	const char *id;
	char group[200];
	int rc = 0;
	struct err whole = { 0 };
	json_object_foreach((json_t *)touched, id, v)
		json_object_set_new(by_group, id, json_array());
	json_object_foreach(s->desired->rules, id, rule) {
		group_of(id, group);
		if ((list = json_object_get(by_group, group)))
			json_array_append(list, rule);
	}
	state_group_begin(s->c.state);
	json_object_foreach(by_group, id, list) {
		struct err mine = { 0 };
		int one = json_array_size(list) ? put(s, RULES, id, list, &mine) : state_delete(s->c.state, RULES, id, STATE_ANY, &mine);
		if (one < 0 && one != KLIEG_E_NOT_FOUND && rc >= 0)
			rc = one, *e = mine;
	}
	json_decref(by_group);
	int all = state_group_end(s->c.state, &whole);
	if (all < 0 && rc >= 0)
		rc = all, *e = whole;
	return rc;
}

/* Agents have to be told all the same: what cannot be written is true until this process ends; the log and the doctor say so. */
static void saved(struct server *s, int rc, const struct err *e)
{
	if (rc < 0 && !s->state_failed)
		log_warn("server", "rules cannot be saved and would not survive a restart: %s", e->msg[0] ? e->msg : err_title(rc));
	s->state_failed = rc < 0;
}

static int loaded(void *arg, const char *group, int64_t version, struct str text)
{
	json_t *list = json_loadb(text.p, text.n, 0, NULL), *rule, *rules = arg;
	size_t i;
	if (!json_is_array(list))
		log_warn("server", "the rules of %s cannot be read back and are left alone", group);
	json_array_foreach(list, i, rule) {
		const char *id = json_string_value(json_object_get(rule, "id"));
		if (id)
			json_object_set(rules, id, rule);
	}
	json_decref(list);
	return 0;
}

int desired_create(struct server *s, struct err *e)
{
	struct desired *d = s->desired = base_calloc(1, sizeof *d);
	struct buf b = { 0 };
	int64_t version;
	d->rules = json_object();
	int rc = state_list(s->c.state, RULES, loaded, d->rules);
	if (rc < 0)
		return err_set(e, rc, "the rules in %s/state.db cannot be read: %s", s->c.dir, err_title(rc));
	rc = state_get(s->c.state, META, ONLY, &b, &version);
	json_t *doc = rc >= 0 ? json_loadb((const char *)b.p, b.n, 0, NULL) : NULL;
	const char *key = json_string_value(json_object_get(doc, "token_key"));
	d->generation = json_integer_value(json_object_get(doc, "generation"));
	if (key && strlen(key) == 32)
		snprintf(d->token_key, sizeof d->token_key, "%s", key);
	json_decref(doc);
	buf_finish(&b);
	if (d->generation > 0 && d->token_key[0])
		return 0;
	unsigned char r[16];
	if (getrandom(r, sizeof r, 0) != sizeof r)
		return err_set(e, KLIEG_E_INTERNAL, "no random bytes");
	for (unsigned i = 0; i < sizeof r; i++)
		snprintf(d->token_key + 2 * i, 3, "%02x", r[i]);
	d->generation = clock_wall() / 1000000000;
	struct err why = { 0 };
	saved(s, save_meta(s, &why), &why);
	return 0;
}

void desired_destroy(struct server *s)
{
	if (!s->desired)
		return;
	json_decref(s->desired->rules);
	free(s->desired);
	s->desired = NULL;
}

/* ---- changes -------------------------------------------------------------------------------------------------------------- */

static bool expired(const json_t *rule, int64_t now)
{
	int64_t at = json_integer_value(json_object_get(rule, "expires_unix_nano"));
	return at && at <= now;
}

/* The generation stays: agents count the time by themselves. */
void desired_shift(struct server *s, int64_t by)
{
	json_t *touched = json_object(), *rule;
	const char *id;
	char group[200];
	json_object_foreach(s->desired->rules, id, rule) {
		int64_t at = json_integer_value(json_object_get(rule, "expires_unix_nano"));
		if (!at)
			continue;
		json_object_set_new(rule, "expires_unix_nano", json_integer(at + by));
		group_of(id, group);
		json_object_set_new(touched, group, json_true());
	}
	struct err e = { 0 };
	saved(s, save_groups(s, touched, &e), &e);
	json_decref(touched);
}

/* Agents let go of what has run out by themselves, so the generation stays. */
void desired_tick(struct server *s)
{
	int64_t now = clock_wall();
	json_t *touched = NULL, *rule;
	const char *id;
	void *tmp;
	char group[200];
	json_object_foreach_safe(s->desired->rules, tmp, id, rule)
		if (expired(rule, now)) {
			group_of(id, group);
			touched = touched ? touched : json_object();
			json_object_set_new(touched, group, json_true());
			json_object_del(s->desired->rules, id);
		}
	if (!touched)
		return;
	struct err e = { 0 };
	saved(s, save_groups(s, touched, &e), &e);
	json_decref(touched);
}

json_t *desired_all(struct server *s)
{
	server_clock(s); /* an agent may ask in the very second in which the clock was set */
	json_t *list = json_array(), *rule;
	int64_t now = clock_wall();
	const char *id;
	json_object_foreach(s->desired->rules, id, rule)
		if (!expired(rule, now))
			json_array_append(list, rule);
	return list;
}

void desired_change(struct server *s, json_t *set, json_t *remove, desired_then_fn then, void *arg)
{
	struct desired *d = s->desired;
	json_t *touched = json_object(), *rule, *v;
	struct err e = { 0 };
	char group[200];
	size_t i;
	set = set ? set : json_array();
	remove = remove ? remove : json_array();
	int64_t base = d->generation++;
	json_array_foreach(remove, i, v) {
		const char *id = json_string_value(v) ?: "";
		group_of(id, group);
		json_object_set_new(touched, group, json_true());
		json_object_del(d->rules, id);
	}
	json_array_foreach(set, i, rule) {
		const char *id = json_string_value(json_object_get(rule, "id"));
		if (!id)
			continue;
		group_of(id, group);
		json_object_set_new(touched, group, json_true());
		json_object_set_new(d->rules, id, json_deep_copy(rule));
	}
	struct err whole = { 0 };
	state_group_begin(s->c.state);
	int rc = save_meta(s, &e);
	rc = rc < 0 ? rc : save_groups(s, touched, &e);
	int all = state_group_end(s->c.state, &whole);
	saved(s, rc < 0 ? rc : all, rc < 0 ? &e : &whole);
	json_decref(touched);
	fleet_change(s, base, set, remove, then, arg);
}

static void call_changed(void *arg, int rc, json_t *merged, const struct err *e)
{
	struct call *c = arg;
	c->rc = rc;
	json_decref(c->result);
	c->result = rc < 0 ? NULL : json_incref(merged);
	if (rc < 0 && e)
		c->e = *e;
	call_resume(c);
}
void call_change(struct call *c, json_t *set, json_t *remove, void (*then)(struct call *c))
{
	c->then = then;
	desired_change(c->s, set, remove, call_changed, c);
}
