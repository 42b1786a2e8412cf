/* The audit log. Nothing in the server calls it where it changes something: all changes are told as events (events_send), and all requests end in
 * call_json or call_refuse, and both come through here. An event makes an entry: what the object was is remembered from the last time, what it is is
 * in the event or the entry of the policy; who did it is whose request is just being handled (s->acting), or the system's own part. The end of the
 * request says how it went. Entries are only ever added; the one thing that is filled in later is the outcome of a request that is still under way.
 * They are in the state store before the request is answered, numbered without gaps, so that what was let go is counted exactly: the numbers below the
 * first one that is left. Loop thread; owns s->audit. */
#include "server/audit.h"
#include "base/clock.h"
#include "base/log.h"
#include "server/policies.h"
#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>

enum { ENTRIES_MAX = 10000, ENTRY_BYTES = 32 << 10, NAMED_MAX = 100 };
static const int64_t EPISODE = 60000000000ll;    /* the governor takes and gives back all the time: one story as long as it goes on */
static const char KIND[] = "audit";

struct audit {
	json_t *entries;       /* oldest first */
	json_int_t last;       /* the newest number, 0: none yet */
	json_t *known;         /* object -> what it was last; absent: it is not there */
	json_t *shed;          /* process -> {entry, sites: {id: true}, quiet since} */
};

/* ---- what is kept --------------------------------------------------------------------------------------------------------- */

static void save(struct server *s, json_t *entry)
{
	struct err e = { 0 };
	char id[24], *text = json_dumps(entry, JSON_COMPACT);
	if (text && strlen(text) > ENTRY_BYTES) {        /* a condition may be long; that it was changed matters more */
		json_object_set_new(entry, "cut_bytes", json_integer((json_int_t)strlen(text)));
		json_object_set_new(entry, "before", json_null());
		json_object_set_new(entry, "after", json_null());
		free(text);
		text = json_dumps(entry, JSON_COMPACT);
	}
	snprintf(id, sizeof(id), "%012lld", (long long)jint(entry, "number"));
	if (text && state_put(s->c.state, KIND, id, str_of(text), STATE_ANY, NULL, &e) < 0) {
		log_warn("server", "an entry of the audit log cannot be saved: %s", e.msg);
		s->state_failed = true;
	}
	free(text);
}

static void let_go(struct server *s)
{
	struct audit *a = s->audit;
	while (json_array_size(a->entries) > ENTRIES_MAX) {
		char id[24];
		snprintf(id, sizeof(id), "%012lld", (long long)jint(json_array_get(a->entries, 0), "number"));
		state_forget(s->c.state, KIND, id);
		json_array_remove(a->entries, 0);
	}
}

/* before and after are stolen. The caller saves it. */
static json_t *add(struct server *s, const char *who, const char *what, const char *object, const char *why, json_t *before, json_t *after, const char *outcome)
{
	struct audit *a = s->audit;
	char id[24];
	int64_t now = clock_wall();
	snprintf(id, sizeof(id), "a-%lld", (long long)++a->last);
	json_t *entry = json_pack("{ss sI sI ss ss ss ss so so ss}", "id", id, "number", a->last, "at_unix_nano", (json_int_t)now, "who", who, "what", what,
		"object", object, "why", why, "before", before ? before : json_null(), "after", after ? after : json_null(), "outcome", outcome);
	json_array_append_new(a->entries, entry);
	let_go(s);
	return entry;
}

static int loaded(void *arg, const char *id, int64_t version, struct str text)
{
	json_t *entry = json_loadb(text.p, text.n, 0, NULL);
	if (json_is_object(entry))
		json_array_append_new(arg, entry);
	else
		json_decref(entry);
	return 0;
}

/* ---- what things are ------------------------------------------------------------------------------------------------------ */

static json_t *toggle_now(const json_t *t)
{
	static const char *const keys[] = { "selector", "level", "keep", "rate", "scope", "where", "hosts", "share", "depth", "owner", "expires_unix_nano" };
	json_t *o = json_object(), *v;
	for (unsigned i = 0; i < sizeof(keys) / sizeof(*keys); i++)
		if ((v = json_object_get(t, keys[i])) && !json_is_null(v))
			json_object_set(o, keys[i], v);
	return o;
}

/* NULL: it is not there. */
static json_t *policy_now(struct server *s, const char *name)
{
	const struct policy_entry *en = policy_find(s, name);
	if (!en)
		return NULL;
	json_t *o = json_pack("{sI sI ss}", "version", jint(en->head, "version"), "in_force", jint(en->head, "in_force"), "state", jtext(en->head, "state"));
	bool under_way = !strcmp(jtext(en->head, "state"), "rolling_out") || !strcmp(jtext(en->head, "state"), "stopped");
	const json_t *r = en->rollout && under_way ? json_object_get(en->head, "rollout") : NULL;
	const json_t *step = json_array_get(json_object_get(r, "steps"), (size_t)jint(r, "step"));
	if (!strcmp(jtext(step, "state"), "interrupted"))
		json_object_set_new(o, "interrupted", json_true());
	if (r)
		json_object_set_new(o, "step", json_integer(jint(r, "step") + 1)), json_object_set_new(o, "steps",
			json_integer((json_int_t)json_array_size(json_object_get(r, "steps"))));
	return o;
}

/* The object is now this; what it was is returned (new, or NULL). Steals now, of which NULL means that it is gone. */
static json_t *becomes(struct audit *a, const char *object, json_t *now)
{
	json_t *was = json_incref(json_object_get(a->known, object));
	if (now)
		json_object_set_new(a->known, object, now);
	else
		json_object_del(a->known, object);
	return was;
}

int audit_create(struct server *s, struct err *e)
{
	struct audit *a = s->audit = base_calloc(1, sizeof(*a));
	*a = (struct audit){ json_array(), 0, json_object(), json_object() };
	int rc = state_list(s->c.state, KIND, loaded, a->entries);
	if (rc < 0)
		return err_set(e, rc, "the audit log in %s/state.db cannot be read: %s", s->c.dir, err_title(rc));
	size_t i;
	json_t *entry, *live = toggles_saved(s);
	char object[100];
	json_array_foreach(a->entries, i, entry) {
		a->last = jint(entry, "number");
		if (!strcmp(jtext(entry, "outcome"), "pending")) {
			json_object_set_new(entry, "outcome", json_string("interrupted"));
			json_object_set_new(entry, "detail", json_string("the server ended before the agents had answered"));
			save(s, entry);
		}
	}
	let_go(s);
	for (i = 0; i < json_array_size(live); i += 2) {
		const json_t *t = json_array_get(live, i);
		snprintf(object, sizeof(object), "toggle:%s", jtext(t, "id"));
		json_object_set_new(a->known, object, toggle_now(t));
	}
	json_decref(live);
	for (const struct policy_entry *en = s->policies; en; en = en->next) {
		snprintf(object, sizeof(object), "policy:%s", en->name);
		json_object_set_new(a->known, object, policy_now(s, en->name));
	}
	return 0;
}

void audit_destroy(struct audit *a)
{
	if (!a)
		return;
	json_decref(a->entries);
	json_decref(a->known);
	json_decref(a->shed);
	free(a);
}

/* ---- who did it, and how it went ------------------------------------------------------------------------------------------ */

static bool system_does(const char *who) { return !strncmp(who, "system:", 7); }

static const char *given(const struct call *c, const char *a, const char *b)
{
	const char *v = jtext(c->body, a);
	v = *v ? v : jtext(c->body, b);
	v = *v ? v : jtext(c->params, a);
	return *v ? v : jtext(c->params, b);
}

/* As the request names its owner or author; where it does not, as the client calls itself. */
static void who_of(const struct call *c, char who[104])
{
	const char *named = given(c, "owner", "author");
	struct str from = http_header(c->r, "klieg-who");
	bool text = from.n > 0 && from.n <= 100;
	for (size_t i = 0; i < from.n && text; i++)
		text = from.p[i] >= 0x20 && from.p[i] < 0x7f;
	snprintf(who, 104, "%s", *named ? named : "api");
	if ((!*named || !strcmp(named, "api")) && text)
		snprintf(who, 104, "%.*s", (int)from.n, from.p);
}

/* One thing that changed. A request may change several, and tell of one several times. before and after are stolen. */
static void changed(struct server *s, const char *by, const char *what, const char *object, const char *why, json_t *before, json_t *after, const json_t *more)
{
	struct call *c = s->acting && !system_does(by) ? s->acting : NULL;
	char who[104];
	const json_t *v;
	size_t i;
	if (c)
		who_of(c, who);
	json_array_foreach(c ? c->audited : NULL, i, v)
		if (!strcmp(jtext(v, "object"), object) && !strcmp(jtext(v, "what"), what)) {
			json_object_set_new((json_t *)v, "after", after ? after : json_null());
			json_decref(before);
			return;
		}
	const char *reason = c ? given(c, "reason", "reason") : "";
	json_t *entry = add(s, c ? who : by, what, object, c && *reason ? reason : why, before, after, c ? "pending" : "done");
	json_object_update(entry, (json_t *)more);
	if (!c) {
		save(s, entry);
		return;
	}
	if (!c->audited)
		c->audited = json_array();
	json_array_append(c->audited, entry);
	c->audit_open = true;
}

void audit_waits(struct call *c)
{
	size_t i;
	json_t *entry;
	if (c->audit_open)
		json_array_foreach(c->audited, i, entry)
			save(c->s, entry);
	c->audit_open = false;
}

/* What somebody was not allowed, or could not do, is worth knowing; that somebody mistyped is not. */
static bool telling(int code)
{
	switch (code) {
	case KLIEG_E_GUARDRAIL: case KLIEG_E_STALE: case KLIEG_E_CONFLICT: case KLIEG_E_DENIED: case KLIEG_E_UNAUTHENTICATED: case KLIEG_E_NO_TARGET:
	case KLIEG_E_BUSY: case KLIEG_E_DISK_FULL: return true;
	default: return false;
	}
}

/* By the path and the method of a request that came to nothing: what it was to do, and to what. */
static const struct intent { const char *path, *kind, *post, *change, *remove; } intents[] = {
	{ "/toggles/undo", "toggle", "restore" }, { "/toggles", "toggle", "on", "change", "off" }, { "/policies", "policy", "rollback", "apply", "off" },
	{ "/attachments", "process", "attach", "attach", "detach" }, { "/panic/undo", "panic", "undo" }, { "/panic", "panic", "panic" },
	{ "/tokens", "token", "token" } };

static void refused(struct call *c, const struct err *e)
{
	const struct intent *x = intents;
	const char *action = jtext(c->body, "action"), *method = c->route->method;
	char object[100], who[104];
	while (x < intents + sizeof(intents) / sizeof(*intents) && strncmp(c->route->path, x->path, strlen(x->path)))
		x++;
	if (x == intents + sizeof(intents) / sizeof(*intents))
		return;
	const char *what = *action ? action : !strcmp(method, "DELETE") ? x->remove : !strcmp(method, "POST") ? x->post : x->change;
	snprintf(object, sizeof(object), "%s%s%.70s", x->kind, *c->id ? ":" : "", c->id);
	who_of(c, who);
	json_t *entry = add(c->s, who, what, object, given(c, "reason", "reason"), NULL, NULL, "refused");
	json_object_set_new(entry, "code", json_string(err_name(e->code)));
	json_object_set_new(entry, "detail", json_string(e->msg));
	save(c->s, entry);
}

void audit_answered(struct call *c, int status, const json_t *answer, const struct err *e)
{
	static const char *const counts[] = { "ack_nano", "sites", "processes", "agents" };
	const char *warning = jtext(answer, "warning");
	bool partly = json_array_size(json_object_get(answer, "unreachable")) || json_array_size(json_object_get(answer, "failed"));
	size_t i;
	json_t *entry, *v;
	if (e && !c->audited && c->route && !strcmp(c->route->permission, "operate") && telling(e->code))
		refused(c, e);
	json_array_foreach(c->audited, i, entry) {
		json_object_set_new(entry, "outcome", json_string(status >= 400 ? "failed" : partly ? "partial" : "done"));
		if (e)
			json_object_set_new(entry, "code", json_string(err_name(e->code)));
		if (e || *warning)
			json_object_set_new(entry, "detail", json_string(e ? e->msg : warning));
		for (unsigned k = 0; k < sizeof(counts) / sizeof(*counts); k++)
			if ((v = json_object_get(answer, counts[k])) && json_is_integer(v))
				json_object_set(entry, counts[k], v);
		save(c->s, entry);
	}
	json_decref(c->audited);
	c->audited = NULL;
	c->audit_open = false;
}

void audit_call(struct call *c, const char *what, const char *object, json_t *before, json_t *after)
{
	struct call *acting = c->s->acting;
	c->s->acting = c;
	changed(c->s, "", what, object, "", before, after, NULL);
	c->s->acting = acting;
}

/* ---- what is told --------------------------------------------------------------------------------------------------------- */

static bool undoing_panic(const struct server *s) { return s->acting && s->acting->route->handler == api_panic_undo; }

static void of_toggle(struct server *s, const char *what, const char *by, const json_t *t)
{
	static const char *const verbs[][2] = { { "active", "on" }, { "changed", "change" }, { "removed", "off" }, { "expired", "expire" }, { "restored", "restore" } };
	char object[100];
	bool gone = !strcmp(what, "removed") || !strcmp(what, "expired"), told = !strcmp(by, "panic") || undoing_panic(s);
	snprintf(object, sizeof(object), "toggle:%.80s", jtext(t, "id"));
	json_t *now = gone ? NULL : toggle_now(t), *was = becomes(s->audit, object, now ? json_incref(now) : NULL);
	for (unsigned i = 0; i < sizeof(verbs) / sizeof(*verbs); i++)
		if (!strcmp(what, verbs[i][0]))
			what = verbs[i][1];
	if (!told && !(was && now && json_equal(was, now)))
		changed(s, system_does(by) ? by : s->acting ? "" : jtext(t, "owner"), what, object, gone ? "" : jtext(t, "reason"), was, now, NULL);
	else
		json_decref(was), json_decref(now);
}

static void of_policy(struct server *s, const char *what, const char *name, const json_t *ev)
{
	static const char *const verbs[][2] = { { "done", "rolled_out" }, { "stopped", "stop" }, { "rolled_back", "auto_rollback" } };
	char object[100];
	const struct policy_entry *en = policy_find(s, name);
	const char *by = en ? jtext(en->head, "author") : "", *why = jtext(ev, "reason"), *state = jtext(ev, "state");
	bool rollout = !*what;
	snprintf(object, sizeof(object), "policy:%.80s", name);
	json_t *now = policy_now(s, name), *was = becomes(s->audit, object, now ? json_incref(now) : NULL), *more = NULL, *evidence;
	if (was && now && json_equal(was, now)) {
		json_decref(was), json_decref(now);
		return;
	}
	if (rollout) {
		bool cut = json_object_get(now, "interrupted") != NULL, was_cut = json_object_get(was, "interrupted") != NULL;
		what = cut ? "interrupted" : was_cut ? "resume" : s->acting ? "promote" : "step";
		const json_t *r = json_object_get(en ? en->head : NULL, "rollout");
		why = cut ? jtext(json_array_get(json_object_get(r, "steps"), (size_t)jint(r, "step")), "why") : why;
		for (unsigned i = 0; i < sizeof(verbs) / sizeof(*verbs); i++)
			if (!strcmp(state, verbs[i][0]))
				what = verbs[i][1];
		/* An apply that has begun its first step is not promoted. */
		if (!strcmp(what, "promote") && !jint(was, "step")) {
			json_t *v;
			size_t i;
			json_array_foreach(s->acting->audited, i, v)
				if (!strcmp(jtext(v, "object"), object) && !strcmp(jtext(v, "what"), "apply"))
					what = "apply";
		}
	}
	if ((!s->acting && !system_does(by)) || !strcmp(what, "interrupted"))
		by = !strcmp(what, "expired") ? "system:ttl" : "system:rollout";
	if (!strcmp(what, "auto_rollback") || !strcmp(what, "stop")) {
		why = en && *jtext(en->head, "why") ? jtext(en->head, "why") : why;
		json_t *all = json_object_get(en ? json_object_get(en->head, "rollout") : NULL, "evidence");
		evidence = json_array_get(all, json_array_size(all) - 1);
		more = evidence ? json_pack("{sO}", "evidence", evidence) : NULL;
	}
	changed(s, by, what, object, why, was, now, more);
	json_decref(more);
}

static void of_panic(struct server *s, const json_t *ev)
{
	bool on = !strcmp(jtext(ev, "what"), "on");
	json_t *named = json_array(), *more, *before, *after, *saved = json_object_get(s->panic, "toggles");
	for (size_t i = 0; on && i < json_array_size(saved) && i < 2 * NAMED_MAX; i += 2)
		json_array_append_new(named, json_sprintf("toggle:%s", jtext(json_array_get(saved, i), "id")));
	before = on ? json_pack("{sI sI}", "toggles", jint(s->panic, "toggles_ended"), "policies", jint(s->panic, "suspended")) :
		json_pack("{ss}", "state", "all off");
	after = on ? json_pack("{ss}", "state", "all off") : NULL;
	if (!on) {
		unsigned toggles, policies = policies_in_force(s);
		int64_t next;
		toggles = toggles_active(s, &next);
		after = json_pack("{si si}", "toggles", (int)toggles, "policies", (int)policies);
	}
	more = json_pack("{sO}", "objects", named);
	changed(s, jtext(ev, "owner"), on ? "panic" : "undo", "panic", jtext(ev, "reason"), before, after, more);
	json_decref(more);
	json_decref(named);
}

/* The agent raised or lowered what a rule gives, and says what it saw. */
static void of_trigger(struct server *s, const json_t *ev)
{
	char object[160], why[500];
	const json_t *cause = json_object_get(ev, "cause");
	snprintf(object, sizeof(object), "rule:%.120s", jtext(ev, "rule"));
	if (*jtext(cause, "text"))
		snprintf(why, sizeof(why), "%.200s: %.180s%s%.80s", jtext(cause, "query"), jtext(cause, "text"), *jtext(ev, "service") ? ", in " : "", jtext(ev, "service"));
	else /* of an agent that does not say it in words */
		snprintf(why, sizeof(why), "%.200s: %.6g, threshold %.6g, in %.80s", jtext(cause, "query"), jnum(cause, "value"), jnum(cause, "threshold"), jtext(ev, "service"));
	changed(s, "system:trigger", strcmp(jtext(ev, "what"), "raised") ? "lower" : "raise", object, why, json_pack("{ss}", "level", jtext(ev, "from")),
		json_pack("{ss}", "level", jtext(ev, "to")), NULL);
}

static void of_guard(struct server *s, const json_t *ev)
{
	char object[140], why[300];
	const char *site = jtext(ev, "site");
	bool shed = !strcmp(jtext(ev, "what"), "shed");
	snprintf(object, sizeof(object), "process:%.80s/%lld", jtext(ev, "host"), (long long)jint(ev, "pid"));
	json_t *episode = json_object_get(s->audit->shed, object), *sites = json_object_get(episode, "sites");
	if (!shed) {
		json_object_del(sites, site);
		json_object_set_new(episode, "seen", json_integer(clock_mono()));    /* from here on there has been room, if this was the last */
		return;
	}
	if (!episode) {
		json_object_set_new(s->audit->shed, object, episode = json_pack("{s{}}", "sites"));
		sites = json_object_get(episode, "sites");
		snprintf(why, sizeof(why), "%.3g %% of CPU measured in %.80s, the limit is %.3g %%: %.80s is the dearest", jnum(ev, "measured_percent"), jtext(ev, "service"),
			jnum(ev, "limit_percent"), jtext(ev, "name"));
		json_t *more = json_pack("{sO? sO?}", "measured_percent", json_object_get(ev, "measured_percent"), "limit_percent", json_object_get(ev, "limit_percent"));
		changed(s, "system:governor", "shed", object, why, json_pack("{ss ss}", "site", jtext(ev, "name"), "level", jtext(ev, "from")),
			json_pack("{ss ss}", "site", jtext(ev, "name"), "level", jtext(ev, "to")), more);
		json_decref(more);
	}
	json_object_set_new(sites, site, json_true());
	json_object_set_new(episode, "seen", json_integer(clock_mono()));
}

/* What was shed and is not any more, for long enough to believe it; also of a process that has ended. */
void audit_tick(struct server *s)
{
	const char *object;
	void *tmp;
	json_t *episode;
	if (!s->audit)
		return;
	json_object_foreach_safe(s->audit->shed, tmp, object, episode) {
		bool back = !json_object_size(json_object_get(episode, "sites"));
		if (clock_mono() - jint(episode, "seen") < (back ? EPISODE : 10 * EPISODE))
			continue;
		changed(s, "system:governor", back ? "give_back" : "silent", object,
			back ? "there has been room for everything for a minute" : "nothing was heard of it for ten minutes",
			json_pack("{ss}", "state", "shed"), back ? json_pack("{ss}", "state", "as wanted") : NULL, NULL);
		json_object_del(s->audit->shed, object);
	}
}

void audit_event(struct server *s, const char *type, const json_t *ev)
{
	size_t i;
	const json_t *t;
	if (!s->audit)
		return;                         /* before it has been loaded nothing is new */
	if (!strcmp(type, "toggle") && json_object_get(ev, "toggle"))
		of_toggle(s, jtext(ev, "what"), jtext(ev, "by"), json_object_get(ev, "toggle"));
	else if (!strcmp(type, "toggle"))
		json_array_foreach(json_object_get(ev, "toggles"), i, t)
			of_toggle(s, jtext(ev, "what"), "", t);
	else if (!strcmp(type, "policy"))
		of_policy(s, jtext(ev, "what"), jtext(ev, "policy"), ev);
	else if (!strcmp(type, "rollout"))
		of_policy(s, "", jtext(ev, "policy"), ev);
	else if (!strcmp(type, "panic"))
		of_panic(s, ev);
	else if (!strcmp(type, "trigger"))
		of_trigger(s, ev);
	else if (!strcmp(type, "guard"))
		of_guard(s, ev);
}

/* ---- the API -------------------------------------------------------------------------------------------------------------- */

/* A name, or a pattern; objects also by their name alone, and by what else the entry is about. */
static bool fits(const char *pattern, const char *text) { return fnmatch(pattern, text, 0) == 0; }
static bool about(const char *pattern, const json_t *entry)
{
	const char *object = jtext(entry, "object"), *name = strchr(object, ':');
	const json_t *v;
	size_t i;
	if (!*pattern || fits(pattern, object) || (name && fits(pattern, name + 1)))
		return true;
	json_array_foreach(json_object_get(entry, "objects"), i, v)
		if (fits(pattern, json_string_value(v) ?: "") || fits(pattern, strchr(json_string_value(v) ?: ":", ':') + 1))
			return true;
	return false;
}

void api_audit(struct call *c)
{
	const struct audit *a = c->s->audit;
	const char *who = jtext(c->params, "who"), *what = jtext(c->params, "what"), *object = jtext(c->params, "object");
	json_t *since = json_object_get(c->params, "since"), *from = json_object_get(c->params, "from"), *to = json_object_get(c->params, "to"),
		*before = json_object_get(c->params, "before"), *list = json_array(), *entry;
	int64_t first = from ? json_integer_value(from) : since ? clock_wall() - json_integer_value(since) : INT64_MIN, end = to ? json_integer_value(to) : INT64_MAX;
	size_t limit = (size_t)jint(c->params, "limit"), n = json_array_size(a->entries), matched = 0;
	json_int_t next = 0;
	for (size_t i = n; i--;) {
		entry = json_array_get(a->entries, i);
		int64_t at = jint(entry, "at_unix_nano");
		if (at < first || at >= end || (*who && !fits(who, jtext(entry, "who"))) || (*what && !fits(what, jtext(entry, "what"))) || !about(object, entry))
			continue;
		matched++;
		if (before && jint(entry, "number") >= json_integer_value(before))
			continue;
		if (json_array_size(list) < limit) {
			json_t *revert = revert_of(c->s, entry), *shown = revert ? json_copy(entry) : json_incref(entry);
			if (revert)
				json_object_set_new(shown, "revert", revert);
			json_array_append_new(list, shown);
		} else if (!next)
			next = jint(json_array_get(list, limit - 1), "number");
	}
	json_t *out = json_pack("{so sI sI sI}", "entries", list, "matched", (json_int_t)matched, "total", a->last, "let_go", a->last - (json_int_t)n);
	if (next)
		json_object_set_new(out, "next", json_integer(next));
	call_json(c, 200, out);
}
