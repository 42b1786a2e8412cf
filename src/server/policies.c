/* Policies: which there are, what is in force, and how that changes. A change is a new version, never an edit: its text goes into the state store,
 * then the head that points to it (compare-and-set, so of two operators one wins and the other is told), and only then rules go to the agents
 * (desired.c). So nothing is ever half applied: what a crash leaves is either the old head or the new one, and policies_restore makes the rules what
 * the heads say. Loop thread; owns the entries. */
#include "base/clock.h"
#include "base/log.h"
#include "server/policies.h"
#include <stdio.h>
#include <stdlib.h>

static const char HEAD[] = "policy", VERSION[] = "policy_version";

/* ---- what is stored ------------------------------------------------------------------------------------------------------- */

static void version_id(char ret[100], const char *name, int64_t version) { snprintf(ret, 100, "%s/%lld", name, (long long)version); }

json_t *policy_version(struct server *s, const char *name, int64_t version, struct err *e)
{
	char id[100];
	struct buf b = { 0 };
	int64_t ignored;
	version_id(id, name, version);
	int rc = state_get(s->c.state, VERSION, id, &b, &ignored);
	json_t *doc = rc < 0 ? NULL : json_loadb((const char *)b.p, b.n, 0, NULL);
	buf_finish(&b);
	if (!doc && rc == KLIEG_E_NOT_FOUND)
		err_set(e, rc, "policy %s has no version %lld", name, (long long)version);
	else if (!doc)
		err_set(e, rc < 0 ? rc : KLIEG_E_CORRUPT, "version %lld of policy %s cannot be read", (long long)version, name);
	return doc;
}

static int put(struct server *s, const char *kind, const char *id, const json_t *doc, int64_t expected, int64_t *ret_version, struct err *e)
{
	char *text = json_dumps(doc, JSON_COMPACT);
	int rc = state_put(s->c.state, kind, id, str_of(text), expected, ret_version, e);
	free(text);
	return rc;
}

void policy_save(struct server *s, struct policy_entry *en)
{
	struct err e = { 0 };
	int rc = put(s, HEAD, en->name, en->head, STATE_ANY, &en->stored, &e);
	if (rc < 0)
		log_warn("server", "policy %s cannot be saved: %s", en->name, e.msg);
	s->state_failed = rc < 0;
}

/* ---- entries -------------------------------------------------------------------------------------------------------------- */

struct policy_entry *policy_find(struct server *s, const char *name)
{
	for (struct policy_entry *en = s->policies; en; en = en->next)
		if (!strcmp(en->name, name))
			return en;
	return NULL;
}

static struct policy_entry *entry_add(struct server *s, const char *name)
{
	struct policy_entry *en = base_calloc(1, sizeof(*en)), **at = &s->policies;
	snprintf(en->name, sizeof(en->name), "%s", name);
	while (*at && strcmp((*at)->name, name) < 0)
		at = &(*at)->next;
	en->next = *at;
	return *at = en;
}

static void entry_drop(struct server *s, struct policy_entry *en)
{
	struct policy_entry **at = &s->policies;
	while (*at != en)
		at = &(*at)->next;
	*at = en->next;
	policy_destroy(en->p);
	json_decref(en->head);
	free(en);
}

const char *policy_state(struct server *s, const struct policy_entry *en)
{
	return s->panic && (jint(en->head, "in_force") || en->rollout) ? "suspended" : jtext(en->head, "state");
}

/* Versions are in order whatever the clock says, so one that was made after the clock had been set back has a time that is
 * yet to come. A rule's `for` begins when it was made; the stored version stays as it is. */
static void begun_by_now(json_t *doc)
{
	if (jint(doc, "created_unix_nano") > clock_wall())
		json_object_set_new(doc, "created_unix_nano", json_integer(clock_wall()));
}

struct policy *policy_of_version(struct server *s, const char *name, int64_t version, json_t **ret_doc)
{
	struct err e = { 0 };
	struct policy *p = NULL;
	struct policy_diags d = { 0 };
	json_t *doc = version > 0 ? policy_version(s, name, version, &e) : NULL;
	if (doc)
		policy_parse(str_of(jtext(doc, "text")), &p, &d);
	policy_diags_finish(&d);
	if (doc)
		begun_by_now(doc);
	if (ret_doc)
		*ret_doc = doc;
	else
		json_decref(doc);
	return p;
}

json_t *policy_rules(const struct policy *p, const json_t *doc)
{
	int64_t now = clock_wall();
	if (!p)
		return json_array();
	json_t *all = policy_wire(p, jint(doc, "version"), jtext(doc, "author"), jtext(doc, "reason"), jint(doc, "created_unix_nano"));
	for (size_t i = json_array_size(all); i--;) {
		int64_t ends = jint(json_array_get(all, i), "expires_unix_nano");
		if (ends && ends <= now)
			json_array_remove(all, i);
	}
	return all;
}

static bool has_id(const json_t *rules, const char *id)
{
	size_t i;
	const json_t *r;
	json_array_foreach(rules, i, r)
		if (!strcmp(jtext(r, "id"), id))
			return true;
	return false;
}

json_t *policy_leftover(struct server *s, const char *name, const json_t *keep)
{
	json_t *ids = json_array(), *rule;
	const char *id;
	json_object_foreach(desired_rules(s), id, rule)
		if ((!strncmp(id, "p:", 2) || !strncmp(id, "l:", 2) || !strncmp(id, "r:", 2)) && !strcmp(jtext(rule, "policy"), name) && !has_id(keep, id))
			json_array_append_new(ids, json_string(id));
	return ids;
}

void policy_told(void *server, int rc, json_t *merged, const struct err *e)
{
	if (rc < 0 && rc != KLIEG_E_NO_TARGET)
		log_warn("server", "the agents did not take rules of policies: %s", e && e->msg[0] ? e->msg : err_title(rc));
}

/* A server that ended between a head and its rules, or that lost rules, says here what is to be in force. What panic suspended stays off. */
void policies_restore(struct server *s)
{
	json_t *set = json_array(), *remove = json_array(), *rule;
	const char *id;
	for (struct policy_entry *en = s->policies; en; en = en->next) {
		if (en->rollout)
			continue;               /* rollout.c goes on where it was */
		json_t *rules = s->panic ? json_array() : policy_rules(en->p, en->doc), *ids = policy_leftover(s, en->name, rules);
		size_t i;
		json_array_foreach(rules, i, rule)
			if (!json_object_get(desired_rules(s), jtext(rule, "id")) || jint(json_object_get(desired_rules(s), jtext(rule, "id")),
				"version") != jint(rule, "version") ||
				json_object_get(json_object_get(desired_rules(s), jtext(rule, "id")), "except"))
				json_array_append(set, rule);
		json_array_extend(remove, ids);
		json_decref(rules);
		json_decref(ids);
	}
	json_object_foreach(desired_rules(s), id, rule)
		if ((!strncmp(id, "p:", 2) || !strncmp(id, "l:", 2) || !strncmp(id, "r:", 2)) && !policy_find(s, jtext(rule, "policy")))
			json_array_append_new(remove, json_string(id));
	if (json_array_size(set) || json_array_size(remove))
		desired_change(s, set, remove, policy_told, s);
	else {
		json_decref(set);
		json_decref(remove);
	}
}

static int head_loaded(void *arg, const char *id, int64_t version, struct str text)
{
	struct server *s = arg;
	json_t *head = json_loadb(text.p, text.n, 0, NULL);
	if (!json_is_object(head) || strlen(id) >= sizeof(((struct policy_entry *)0)->name)) {
		log_warn("server", "policy %s cannot be read back and is left alone", id);
		json_decref(head);
		return 0;
	}
	struct policy_entry *en = entry_add(s, id);
	en->head = head;
	en->stored = version;
	return 0;
}

int policies_create(struct server *s, struct err *e)
{
	int rc = state_list(s->c.state, HEAD, head_loaded, s);
	if (rc < 0)
		return err_set(e, rc, "the policies in %s/state.db cannot be read: %s", s->c.dir, err_title(rc));
	for (struct policy_entry *en = s->policies; en; en = en->next) {
		int64_t version = jint(en->head, "in_force");
		en->p = policy_of_version(s, en->name, version, &en->doc);
		if (version && !en->p) {
			char why[200];
			snprintf(why, sizeof(why), "version %lld is not understood by this version of Klieg", (long long)version);
			log_warn("server", "policy %s is suspended: %s", en->name, why);
			json_object_set_new(en->head, "state", json_string("suspended"));
			json_object_set_new(en->head, "why", json_string(why));
		}
		if (!strcmp(jtext(en->head, "state"), "rolling_out") || !strcmp(jtext(en->head, "state"), "stopped"))
			rollout_resume(s, en);
	}
	return 0;
}

void policies_destroy(struct server *s)
{
	while (s->policies) {
		struct policy_entry *en = s->policies;
		rollout_free(en);
		json_decref(en->doc);
		entry_drop(s, en);
	}
}

static void shift(json_t *doc, int64_t by)
{
	if (doc)
		json_object_set_new(doc, "created_unix_nano", json_integer(jint(doc, "created_unix_nano") + by));
}
void policies_shift(struct server *s, int64_t by)
{
	for (struct policy_entry *en = s->policies; en; en = en->next) {
		shift(en->doc, by);
		shift(rollout_next_doc(en), by);
	}
}

/* What ran out by its `for` is off; agents have let go of it by themselves. */
void policies_tick(struct server *s)
{
	server_clock(s);
	int64_t now = clock_wall();
	for (struct policy_entry *en = s->policies; en; en = en->next) {
		bool over = en->p && en->p->nrules && !en->rollout;
		for (uint32_t i = 0; over && i < en->p->nrules; i++)
			over = en->p->rules[i].for_ns && jint(en->doc, "created_unix_nano") + en->p->rules[i].for_ns <= now;
		if (!over)
			continue;
		policy_destroy(en->p);
		en->p = NULL;
		json_object_set_new(en->head, "in_force", json_integer(0));
		json_object_set_new(en->head, "state", json_string("off"));
		json_object_set_new(en->head, "why", json_string("the time of its rules has run out"));
		policy_save(s, en);
		json_t *ids = policy_leftover(s, en->name, NULL);
		desired_change(s, NULL, ids, policy_told, s);
		policy_event(s, en, "expired");
	}
}

unsigned policies_in_force(struct server *s)
{
	unsigned n = 0;
	for (struct policy_entry *en = s->policies; en; en = en->next)
		n += !s->panic && (en->p || en->rollout);
	return n;
}

int64_t policies_next_expiry(struct server *s)
{
	const char *id;
	json_t *rule;
	int64_t next = 0;
	json_object_foreach(desired_rules(s), id, rule)
		if (!strncmp(id, "p:", 2) && jint(rule, "expires_unix_nano") && (!next || jint(rule, "expires_unix_nano") < next))
			next = jint(rule, "expires_unix_nano");
	return next;
}

void policy_event(struct server *s, const struct policy_entry *en, const char *what)
{
	json_t *ev = json_pack("{ss ss ss sI ss ss ss ss}", "type", "policy", "what", what, "policy", en->name, "version", jint(en->head, "version"),
		"state", policy_state(s, en),
		"author", jtext(en->head, "author"), "reason", jtext(en->head, "reason"), "why", jtext(en->head, "why"));
	events_send(s, "policy", ev);
	json_decref(ev);
}

/* ---- a new version -------------------------------------------------------------------------------------------------------- */

int policy_stale(const struct policy_entry *en, const char *name, int64_t expected, struct err *e)
{
	char when[40] = "";
	int64_t now = en ? jint(en->head, "version") : 0;
	if (expected == now)
		return 0;
	if (!en) {
		err_set(e, KLIEG_E_STALE, "policy %s does not exist, and version %lld of it was expected", name, (long long)expected);
		return err_hint(e, "expected_version 0 makes a new policy");
	}
	time_t t = (time_t)(jint(en->head, "updated_unix_nano") / 1000000000);
	struct tm tm;
	strftime(when, sizeof(when), "%F %T UTC", gmtime_r(&t, &tm));
	err_set(e, KLIEG_E_STALE, "policy %s has version %lld, not %lld: changed by %s at %s%s%.120s", name, (long long)now, (long long)expected,
		jtext(en->head, "author"), when,
		*jtext(en->head, "reason") ? ": " : "", jtext(en->head, "reason"));
	return err_hint(e, "klieg policy diff %s shows what changed; begin from version %lld", name, (long long)now);
}

int policy_commit(struct server *s, const char *name, const struct policy_change *ch, struct policy_entry **ret_en, struct err *e)
{
	struct policy_entry *en = policy_find(s, name);
	int64_t now = clock_wall(), version = (en ? jint(en->head, "version") : 0) + 1, before = en ? jint(en->head, "in_force") : 0;
	char id[100];
	version_id(id, name, version);
	/* A wall clock that was set back must not make versions older than those before them. */
	if (en && now <= jint(en->head, "updated_unix_nano"))
		now = jint(en->head, "updated_unix_nano") + 1;
	json_t *doc = json_pack("{ss sI ss ss ss sI ss sI sO*}", "name", name, "version", (json_int_t)version, "change", ch->change, "author",
		ch->author, "reason", ch->reason,
		"created_unix_nano", (json_int_t)now, "text", ch->text, "before", (json_int_t)before, "evidence", ch->evidence);
	if (!doc)
		return err_set(e, KLIEG_E_BAD_DATA, "author, reason or text are not UTF-8");
	json_t *head = json_pack("{ss sI sI ss ss ss sI sO*}", "name", name, "version", (json_int_t)version, "in_force",
		(json_int_t)(ch->in_force ? version : 0), "state",
		ch->state, "author", ch->author, "reason", ch->reason, "updated_unix_nano", (json_int_t)now, "rollout", ch->rollout);
	if (ch->why)
		json_object_set_new(head, "why", json_string(ch->why));
	if (!strcmp(ch->state, "rolling_out"))
		json_object_set_new(head, "in_force", json_integer(before));
	/* A version beyond its head is of a server that ended in between: nobody was told of it. */
	int64_t stored = 0;
	int rc = put(s, VERSION, id, doc, STATE_ANY, NULL, e);
	if (rc == 0)
		rc = put(s, HEAD, name, head, en ? en->stored : STATE_NEW, &stored, e);
	if (rc < 0) {
		json_decref(doc);
		json_decref(head);
		return rc;
	}
	if (!en)
		en = entry_add(s, name);
	json_decref(en->head);
	en->head = head;
	en->stored = stored;
	if (strcmp(ch->state, "rolling_out")) {
		policy_destroy(en->p);
		json_decref(en->doc);
		en->p = ch->in_force ? policy_of_version(s, name, version, NULL) : NULL;
		begun_by_now(doc);
		en->doc = json_incref(doc);
	}
	json_decref(doc);
	log_info("server", "policy %s: version %lld, %s by %s%s%s", name, (long long)version, ch->change, ch->author, *ch->reason ? ": " : "", ch->reason);
	policy_event(s, en, ch->change);
	*ret_en = en;
	return 0;
}

void policy_put_in_force(struct server *s, struct policy_entry *en, desired_then_fn then, void *arg)
{
	json_t *set = s->panic ? json_array() : policy_rules(en->p, en->doc), *remove = policy_leftover(s, en->name, set);
	desired_change(s, set, remove, then, arg);
}

/* Back to a version, or off if there is none to go to; evidence may be NULL. */
int policy_revert(struct server *s, struct policy_entry *en, int64_t to, const struct policy_change *how, struct err *e)
{
	struct policy_change ch = *how;
	json_t *doc = NULL;
	struct policy *p = NULL;
	if (to > 0) {
		if (to > jint(en->head, "version"))
			return err_set(e, KLIEG_E_NOT_FOUND, "policy %s has no version %lld", en->name, (long long)to);
		if (!(doc = policy_version(s, en->name, to, e)))
			return e->code;
		struct policy_diags d = { 0 };
		int rc = policy_parse(str_of(jtext(doc, "text")), &p, &d);
		policy_diags_finish(&d);
		policy_destroy(p);
		if (rc < 0) {
			json_decref(doc);
			return err_set(e, KLIEG_E_BAD_DATA, "version %lld of policy %s is not understood by this version of Klieg", (long long)to, en->name);
		}
	} else if (!(doc = policy_version(s, en->name, jint(en->head, "version"), e)))
		return e->code;
	json_t *was = json_incref(json_object_get(en->head, "rollout"));
	ch.text = jtext(doc, "text");
	ch.in_force = to > 0;
	ch.rollout = was;
	if (en->rollout) {
		char why[700];
		snprintf(why, sizeof(why), "taken back by %s%s%.500s", ch.author, *ch.reason ? ": " : "", ch.reason);
		rollout_over(was, "rolled_back", ch.why ? ch.why : why);
	}
	int rc = policy_commit(s, en->name, &ch, &en, e);
	json_decref(was);
	json_decref(doc);
	if (rc == 0)
		rollout_free(en);
	return rc;
}

/* ---- the API -------------------------------------------------------------------------------------------------------------- */

void call_no_policy(struct call *c)
{
	const char *best = NULL;
	unsigned near = 4, d;
	for (struct policy_entry *en = c->s->policies; en; en = en->next)
		if ((d = str_distance(str_of(c->id), str_of(en->name))) < near)
			near = d, best = en->name;
	err_set(&c->e, KLIEG_E_NOT_FOUND, "there is no policy %s", c->id);
	err_hint(&c->e, best ? "did you mean: %s" : "klieg policy ls", best);
	call_fail(c, &c->e);
}

static json_t *of_rule(const json_t *agents, const char *id)
{
	size_t i;
	json_t *row;
	json_array_foreach(json_object_get(agents, "toggles"), i, row)
		if (!strcmp(jtext(row, "id"), id))
			return row;
	return NULL;
}

/* While a rollout is under way the rules of its version have ids of their own: what both come to is what the rule comes to. */
static json_t *rule_row(struct server *s, const struct policy_entry *en, const json_t *rule, const json_t *agents)
{
	static const char *const same[] = { "measured", "predicted", "raised" };
	char id[200];
	json_int_t sites = 0, processes = 0;
	json_t *row = json_copy((json_t *)rule);
	for (int k = 0; k < 2; k++) {
		snprintf(id, sizeof(id), k ? "p:%s/%s@%lld" : "p:%s/%s", en->name, jtext(rule, "name"), (long long)jint(en->head, "version"));
		const json_t *seen = of_rule(agents, id);
		sites = jint(seen, "sites") > sites ? jint(seen, "sites") : sites;
		processes += jint(seen, "processes");
		for (unsigned i = 0; i < sizeof(same) / sizeof(*same); i++)
			if (json_is_string(json_object_get(seen, same[i])) || json_is_object(json_object_get(seen, same[i])))
				json_object_set(row, same[i], json_object_get(seen, same[i]));
		const json_t *wanted = json_object_get(desired_rules(s), id);
		if (wanted && jint(wanted, "expires_unix_nano"))
			json_object_set(row, "expires_unix_nano", json_object_get(wanted, "expires_unix_nano"));
	}
	json_object_set_new(row, "sites", json_integer(sites));
	json_object_set_new(row, "processes", json_integer(processes));
	return row;
}

static json_t *entry_json(struct server *s, const struct policy_entry *en, const json_t *agents)
{
	struct policy *parsed = NULL;
	const struct policy *p = en->rollout ? rollout_next(en) : en->p;
	if (!p)                           /* off, or suspended: what it would be */
		p = parsed = policy_of_version(s, en->name, jint(en->head, "version"), NULL);
	json_t *doc = p ? policy_json(p) : NULL, *rules = json_array(), *rule;
	size_t i;
	json_array_foreach(json_object_get(doc, "rules"), i, rule)
		json_array_append_new(rules, rule_row(s, en, rule, agents));
	json_t *out = json_pack("{ss sI ss ss ss sI so sO*}", "name", en->name, "version", jint(en->head, "version"), "state", policy_state(s, en),
		"author", jtext(en->head, "author"),
		"reason", jtext(en->head, "reason"), "updated_unix_nano", jint(en->head, "updated_unix_nano"), "rules", rules, "limits",
		json_object_get(doc, "limits"));
	if (!doc)
		json_object_set_new(out, "limits", json_array());
	json_object_set_new(out, "in_force", json_integer(jint(en->head, "in_force")));
	if (*jtext(en->head, "why"))
		json_object_set(out, "why", json_object_get(en->head, "why"));
	if (en->rollout)
		json_object_set_new(out, "rollout", rollout_json(en, 1));
	json_decref(doc);
	policy_destroy(parsed);
	return out;
}

static void list_then(struct call *c)
{
	json_t *out = json_array();
	for (struct policy_entry *en = c->s->policies; en; en = en->next)
		json_array_append_new(out, entry_json(c->s, en, c->rc < 0 ? NULL : c->result));
	call_json(c, 200, json_pack("{so}", "policies", out));
}
void api_policies(struct call *c) { call_agent(c, "toggles", NULL, list_then); }

/* ---- PUT ------------------------------------------------------------------------------------------------------------------ */

static void plan_done(struct call *c)
{
	struct plan *x = c->data;
	plan_destroy(x);
}

static int may_change(struct call *c, struct err *e)
{
	struct policy_entry *en = policy_find(c->s, c->id);
	json_t *expected = json_object_get(c->body, "expected_version");
	if (!expected) {
		err_set(e, KLIEG_E_USAGE, "'expected_version' is required: the version that you began from");
		return err_hint(e, "0 makes a new policy");
	}
	int rc = policy_stale(en, c->id, json_integer_value(expected), e);
	if (rc < 0)
		return rc;
	if (c->s->panic) {
		err_set(e, KLIEG_E_GUARDRAIL, "everything is off since %s pressed panic: no policy can be applied", jtext(c->s->panic, "owner"));
		return err_hint(e, "klieg panic --undo, then apply again");
	}
	if (en && en->rollout) {
		err_set(e, KLIEG_E_CONFLICT, "version %lld of policy %s is being rolled out", (long long)jint(en->head, "version"), c->id);
		return err_hint(e, "klieg policy promote %s, or klieg policy rollback %s, then apply again", c->id, c->id);
	}
	return 0;
}

/* What PUT, rollback and DELETE answer once the agents have. */
static void changed_reply(struct call *c, json_t *plan)
{
	struct policy_entry *en = policy_find(c->s, c->id);
	json_t *ack = json_object_get(c->result, "ack_nano");
	json_t *out = json_pack("{so sI sO ss sO*}", "policy", entry_json(c->s, en, NULL), "version", jint(en->head, "version"), "ack_nano",
		ack ? ack : json_null(), "state",
		policy_state(c->s, en), "plan", plan);
	if (en->rollout)
		json_object_set_new(out, "rollout", rollout_json(en, 100));
	if (c->rc < 0)
		json_object_set_new(out, "warning", json_string(c->rc == KLIEG_E_NO_TARGET ? "no agent is connected: it is in force as soon as one is" : c->e.msg));
	call_json(c, 200, out);
}
static void applied(struct call *c)
{
	struct plan *x = c->data;
	json_t *plan = x->out;
	json_incref(plan);
	plan_done(c);
	changed_reply(c, plan);
	json_decref(plan);
}
static void applied_by(void *arg, int rc, json_t *merged, const struct err *e)
{
	struct call *c = arg;
	c->rc = rc;
	json_decref(c->result);
	c->result = rc < 0 ? NULL : json_incref(merged);
	if (rc < 0 && e)
		c->e = *e;
	call_resume(c);
}

static bool same_text(struct server *s, const struct policy_entry *en, const char *text)
{
	return en && en->p && !en->rollout && !strcmp(jtext(en->doc, "text"), text) && jint(en->head, "in_force") == jint(en->head, "version") && !s->panic;
}

static void put_planned(struct call *c)
{
	struct plan *x = c->data;
	struct policy_entry *en = policy_find(c->s, c->id);
	const char *how = jtext(c->body, "rollout");
	bool force = json_is_true(json_object_get(c->body, "force"));
	if (c->rc < 0) {
		plan_done(c);
		call_fail(c, &c->e);
		return;
	}
	if (may_change(c, &c->e) < 0) {           /* again: others were at it while this was planned */
		plan_done(c);
		call_fail(c, &c->e);
		return;
	}
	if (json_is_false(json_object_get(x->out, "fits")) && !force) {
		const char *hint = jtext(json_object_get(x->out, "suggestion"), "text");
		double cpu = jnum(x->out, "predicted_percent");
		err_set(&c->e, KLIEG_E_GUARDRAIL, "policy %s would take %.2g %% of the CPU of a process, the budget is %.2g %%%s%s", c->id, cpu,
			jnum(x->out, "budget_percent"), *jtext(x->out, "over_on") ? " on " : "", jtext(x->out, "over_on"));
		err_hint(&c->e,
			*hint ? "would fit: %s\nor apply it all the same with force: the governor then sheds the dearest sites" : "narrow what it matches%s", hint);
		json_t *more = json_pack("{sO sO}", "plan", x->out, "diagnostics", json_object_get(x->out, "diagnostics"));
		plan_done(c);
		call_refuse(c, 422, &c->e, more);
		return;
	}
	if (same_text(c->s, en, x->text)) {       /* applying the same again is no change */
		json_object_set_new(x->out, "unchanged", json_true());
		c->rc = 0;
		applied(c);
		return;
	}
	bool steps = !strcmp(how, "steps") || (!*how && rollout_wanted(x->p));
	json_t *rollout = steps ? rollout_make(x->p, jint(c->body, "soak"), jnum(c->body, "slower") / 100, jnum(c->body, "failing") / 100) : NULL;
	struct policy_change ch = { "apply", jtext(c->body, "author"), jtext(c->body, "reason"), x->text, steps ? "rolling_out" : "active", true, rollout, NULL, NULL };
	int rc = policy_commit(c->s, c->id, &ch, &en, &c->e);
	json_decref(rollout);
	if (rc < 0) {
		plan_done(c);
		call_fail(c, &c->e);
		return;
	}
	c->then = applied;
	if (!steps) {
		policy_put_in_force(c->s, en, applied_by, c);
		return;
	}
	rollout_begin(c->s, en);
	c->rc = 0;
	json_decref(c->result);
	c->result = NULL;
	applied(c);
}

static void put_parsed(struct call *c)
{
	struct plan *x = c->data;
	if (!x->p) {
		plan_invalid(c);
		return;
	}
	if (strcmp(x->p->name, c->id)) {
		err_set(&c->e, KLIEG_E_USAGE, "the text is policy '%s', the request is for '%s'", x->p->name, c->id);
		plan_done(c);
		call_fail(c, &c->e);
		return;
	}
	plan_ask(c, put_planned);
}
void api_policy_put(struct call *c)
{
	if (may_change(c, &c->e) < 0)
		call_fail(c, &c->e);
	else
		plan_parse(c, put_parsed);
}

/* ---- rollback and off ----------------------------------------------------------------------------------------------------- */

static void reverted(struct call *c) { changed_reply(c, NULL); }

void policy_revert_call(struct call *c, struct policy_entry *en, int64_t to, const struct policy_change *how)
{
	if (policy_revert(c->s, en, to, how, &c->e) < 0) {
		call_fail(c, &c->e);
		return;
	}
	c->then = reverted;
	policy_put_in_force(c->s, policy_find(c->s, c->id), applied_by, c);
}

/* Of a rollout under way: what is in force elsewhere. Else what was in force before the newest version; nothing (0) switches off. */
int64_t policy_before(struct server *s, const struct policy_entry *en)
{
	struct err e = { 0 };
	if (en->rollout)
		return jint(en->head, "in_force");
	json_t *doc = policy_version(s, en->name, jint(en->head, "version"), &e);
	int64_t before = jint(doc, "before");
	json_decref(doc);
	return before;
}

void api_policy_rollback(struct call *c)
{
	struct policy_entry *en = policy_find(c->s, c->id);
	if (!en) {
		call_no_policy(c);
		return;
	}
	json_t *to = json_object_get(c->body, "to");
	int64_t target = to ? json_integer_value(to) : policy_before(c->s, en);
	struct policy_change ch = { "rollback", jtext(c->body, "author"), jtext(c->body, "reason"), NULL, target ? "active" : "off", false, NULL, NULL, NULL };
	policy_revert_call(c, en, target, &ch);
}

void api_policy_off(struct call *c)
{
	struct policy_entry *en = policy_find(c->s, c->id);
	if (!en) {
		call_no_policy(c);
		return;
	}
	if (!strcmp(jtext(en->head, "state"), "off")) {   /* DELETE is idempotent */
		c->rc = 0;
		changed_reply(c, NULL);
		return;
	}
	struct policy_change ch = { "off", jtext(c->params, "author"), jtext(c->params, "reason"), NULL, "off", false, NULL, NULL, NULL };
	policy_revert_call(c, en, 0, &ch);
}
