/* How an entry of the audit log can be undone now, if it can: the request that does it, and the command. Who shows entries (CLI, dashboard) does what stands
 * here and need not know what undoing a policy means. Looks at what there is at this moment, so an entry that somebody has undone offers nothing any more.
 * Loop thread. */
#include "server/policies.h"
#include "base/clock.h"
#include <stdio.h>

/* who: what the request calls its author. body is stolen, may be NULL. */
static json_t *way(const char *text, const char *cli, const char *method, const char *path, const char *who, json_t *body)
{
	return json_pack("{ss ss ss ss ss so}", "text", text, "cli", cli, "method", method, "path", path, "who", who, "body", body ? body : json_object());
}

static void copy(json_t *to, const json_t *from, const char *const *keys, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		if (json_object_get(from, keys[i]))
			json_object_set(to, keys[i], json_object_get(from, keys[i]));
}

/* null is as good as not there. */
static const json_t *member(const json_t *o, const char *key)
{
	const json_t *v = json_object_get(o, key);
	return json_is_null(v) ? NULL : v;
}
static bool same(const json_t *a, const json_t *b) { return a && b ? json_equal((json_t *)a, (json_t *)b) : a == b; }

static json_t *of_toggle(struct server *s, const json_t *entry, const char *id)
{
	static const char *const all[] = { "selector", "level", "keep", "rate", "scope", "where", "hosts", "share", "depth" };
	static const char *const patched[] = { "selector", "level", "keep", "rate", "where", "hosts", "share" };
	const json_t *before = json_object_get(entry, "before"), *after = json_object_get(entry, "after"), *live = toggle_live(s, id), *v, *now;
	bool was = json_is_object(before), is = json_is_object(after);
	char path[100], cli[200], again[200];
	snprintf(path, sizeof(path), "/toggles/%.70s", id);
	snprintf(again, sizeof(again), "klieg revert %s --reason WHY", jtext(entry, "id"));
	if (!was && is && live) {
		snprintf(cli, sizeof(cli), "klieg off %.70s --reason WHY", id);
		return way("switch it off", cli, "DELETE", path, "owner", NULL);
	}
	int64_t left = jint(before, "expires_unix_nano") - clock_wall();
	char ttl[40];
	snprintf(ttl, sizeof(ttl), "%llds", (long long)(left > 2000000000 ? left / 1000000000 : 300));
	json_t *body = json_object();
	if (was && !is && !live) {
		copy(body, before, all, sizeof(all) / sizeof(*all));
		json_object_set_new(body, "ttl", json_string(ttl));
		return way(left > 2000000000 ? "switch it on again, for the time that was left" : "switch it on again, for 5 minutes", again,
			"POST", "/toggles", "owner", body);
	}
	bool since = false;                              /* it has been changed again */
	for (unsigned i = 0; was && is && live && i < sizeof(patched) / sizeof(*patched); i++) {
		v = member(before, patched[i]);
		now = member(after, patched[i]);
		if (same(v, now))
			continue;
		since |= !same(member(live, patched[i]), now);
		json_object_set_new(body, patched[i], v ? json_deep_copy(v) : !strcmp(patched[i], "share") ? json_real(1) :
			!strcmp(patched[i], "hosts") ? json_array() : json_null());
	}
	if (was && is && live && left > 1000000000 && jint(before, "expires_unix_nano") != jint(after, "expires_unix_nano") &&
		jint(live, "expires_unix_nano") == jint(after, "expires_unix_nano"))
		json_object_set_new(body, "ttl", json_string(ttl));
	if (json_object_size(body) && !since)
		return way("as it was before", again, "PATCH", path, "owner", body);
	json_decref(body);
	return NULL;
}

/* Is what is in force the text of that version? 0: is nothing in force? */
static bool in_force(struct server *s, const struct policy_entry *en, int64_t version)
{
	struct err e = { 0 };
	int64_t now = jint(en->head, "in_force");
	if (!version || !now || version == now)
		return version == now;
	json_t *doc = policy_version(s, en->name, version, &e);
	bool same = doc && !strcmp(jtext(doc, "text"), jtext(en->doc, "text"));
	json_decref(doc);
	return same;
}

static json_t *of_policy(struct server *s, const json_t *entry, const char *name)
{
	static const char *const undone[] = { "apply", "rollback", "off", "expired" };
	const struct policy_entry *en = policy_find(s, name);
	int64_t to = jint(json_object_get(entry, "before"), "in_force");
	bool can = false;
	char path[120], cli[250], text[60];
	for (unsigned i = 0; i < sizeof(undone) / sizeof(*undone); i++)
		can |= !strcmp(jtext(entry, "what"), undone[i]);
	/* What is in force is what counts: a rollback makes a version of its own with the text of an earlier one. */
	if (!can || !en || s->panic || (!en->rollout && in_force(s, en, to)))
		return NULL;
	if (!to) {
		snprintf(path, sizeof(path), "/policies/%.72s", name);
		snprintf(cli, sizeof(cli), "klieg policy off %.72s --reason WHY", name);
		return way("switch it off, as it was", cli, "DELETE", path, "author", NULL);
	}
	snprintf(path, sizeof(path), "/policies/%.72s/rollback", name);
	snprintf(cli, sizeof(cli), "klieg policy rollback %.72s --to %lld --reason WHY", name, (long long)to);
	snprintf(text, sizeof(text), "back to version %lld", (long long)to);
	return way(text, cli, "POST", path, "author", json_pack("{sI}", "to", (json_int_t)to));
}

json_t *revert_of(struct server *s, const json_t *entry)
{
	const char *object = jtext(entry, "object"), *outcome = jtext(entry, "outcome");
	if (strcmp(outcome, "done") && strcmp(outcome, "partial"))
		return NULL;
	if (!strncmp(object, "toggle:", 7))
		return of_toggle(s, entry, object + 7);
	if (!strncmp(object, "policy:", 7))
		return of_policy(s, entry, object + 7);
	if (!strcmp(jtext(entry, "what"), "panic") && s->panic && jint(entry, "at_unix_nano") >= jint(s->panic, "at"))
		return way("as it was before panic", "klieg panic --undo", "POST", "/panic/undo", "owner", NULL);
	return NULL;
}
