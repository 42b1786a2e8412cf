/* Panic: everything off everywhere, at once, and a way back. Toggles end, policies are suspended; what there was is in the state store first, so
 * that undo restores it and a restart in between does not. While it lasts no policy comes into force, and agents that come get nothing; a person may
 * still switch a toggle on, deliberately. Loop thread; owns s->panic. */
#include "base/clock.h"
#include "base/log.h"
#include "server/policies.h"
#include <stdlib.h>

static const char KIND[] = "panic", NOW[] = "now", CUT_OFF[] = "panic: its rollout was cut off";

int panic_create(struct server *s, struct err *e)
{
	struct buf b = { 0 };
	int64_t version;
	int rc = state_get(s->c.state, KIND, NOW, &b, &version);
	if (rc >= 0)
		s->panic = json_loadb((const char *)b.p, b.n, 0, NULL);
	buf_finish(&b);
	return rc == KLIEG_E_NOT_FOUND || rc >= 0 ? 0 : err_set(e, rc, "the state in %s/state.db cannot be read: %s", s->c.dir, err_title(rc));
}

json_t *panic_json(struct server *s)
{
	if (!s->panic)
		return json_null();
	return json_pack("{sO sO sO}", "at", json_object_get(s->panic, "at"), "owner", json_object_get(s->panic, "owner"), "reason",
		json_object_get(s->panic, "reason"));
}

static void event(struct server *s, const char *what, const char *owner, const char *reason)
{
	json_t *ev = json_pack("{ss ss ss ss}", "type", "panic", "what", what, "owner", owner, "reason", reason);
	events_send(s, "panic", ev);
	json_decref(ev);
}

static json_t *answer(struct call *c, json_t *more)
{
	json_t *ack = json_object_get(c->result, "ack_nano"), *unreachable = json_object_get(c->result, "unreachable");
	struct fleet_stats agents;
	fleet_stats(c->s, &agents);
	json_object_set_new(more, "ack_nano", ack ? json_incref(ack) : json_integer(0));
	json_object_set_new(more, "sites", json_integer(jint(c->result, "changed")));
	json_object_set_new(more, "agents", json_integer(agents.agents));
	if (unreachable)
		json_object_set(more, "unreachable", unreachable);
	if (c->rc < 0)
		json_object_set_new(more, "warning", json_string(c->rc == KLIEG_E_NO_TARGET ? "no agent is connected; those that come get it" : c->e.msg));
	return more;
}

static void panicked(struct call *c)
{
	call_json(c, 200, answer(c, json_pack("{so sI sI}", "panic", panic_json(c->s), "toggles", jint(c->s->panic, "toggles_ended"), "policies",
		jint(c->s->panic, "suspended"))));
}
void api_panic(struct call *c)
{
	struct server *s = c->s;
	const char *owner = jtext(c->body, "owner"), *reason = jtext(c->body, "reason"), *id;
	json_t *ids = json_array(), *rule;
	struct err e = { 0 };
	if (!s->panic) {
		unsigned suspended = policies_in_force(s);
		json_t *saved = toggles_saved(s);
		s->panic = json_pack("{sI ss ss sI sI so}", "at", (json_int_t)clock_wall(), "owner", owner, "reason", reason, "toggles_ended",
			(json_int_t)(json_array_size(saved) / 2), "suspended", (json_int_t)suspended, "toggles", saved);
		char *text = json_dumps(s->panic, JSON_COMPACT);
		state_group_begin(s->c.state);     /* however many toggles there are, agents are told before the disk has been waited for twice */
		if (state_put(s->c.state, KIND, NOW, str_of(text), STATE_ANY, NULL, &e) < 0)     /* off is what matters now */
			log_warn("server", "panic cannot be saved, a restart would undo it: %s", e.msg);
		free(text);
		log_warn("server", "panic: everything off, by %s: %s", owner, reason);
		for (struct policy_entry *en = s->policies, *next; en; en = next) {
			next = en->next;
			int64_t base = jint(en->head, "in_force");
			struct policy_change ch = { "rollback", owner, reason, NULL, base ? "active" : "off", false, NULL, NULL, CUT_OFF };
			if (en->rollout && policy_revert(s, en, base, &ch, &e) < 0) {
				log_warn("server", "policy %s: %s", en->name, e.msg);
				rollout_free(en);
			}
		}
		toggles_end_all(s, "panic");
		event(s, "on", owner, reason);
		if (state_group_end(s->c.state, &e) < 0)
			log_warn("server", "panic cannot be saved, a restart would undo it: %s", e.msg);
	}
	json_object_foreach(desired_rules(s), id, rule)
		json_array_append_new(ids, json_string(id));
	call_change(c, NULL, ids, panicked);
}

static void undone(struct call *c) { call_json(c, 200, answer(c, c->data)); }
void api_panic_undo(struct call *c)
{
	struct server *s = c->s;
	struct err e = { 0 };
	json_t *set = json_array(), *back;
	json_int_t policies = 0;
	if (!s->panic) {
		json_decref(set);
		err_set(&c->e, KLIEG_E_NOT_FOUND, "there is no panic to undo");
		err_hint(&c->e, "klieg panic switches everything off");
		call_fail(c, &c->e);
		return;
	}
	int rc = state_delete(s->c.state, KIND, NOW, STATE_ANY, &e);
	if (rc < 0 && rc != KLIEG_E_NOT_FOUND) {
		json_decref(set);
		call_fail(c, &e);
		return;
	}
	json_t *was = s->panic;
	s->panic = NULL;
	back = toggles_bring_back(s, json_object_get(was, "toggles"), set);
	json_decref(was);
	for (struct policy_entry *en = s->policies; en; en = en->next) {
		json_t *rules = policy_rules(en->p, en->doc);
		policies += json_array_size(rules) > 0;
		json_array_extend(set, rules);
		json_decref(rules);
		if (!strcmp(jtext(en->head, "why"), CUT_OFF)) { /* it is in its history and in the audit log; now it is in force like any other */
			json_object_del(en->head, "why");
			policy_save(s, en);
		}
	}
	event(s, "undone", jtext(c->body, "owner"), jtext(c->body, "reason"));
	c->data = json_pack("{so sI}", "toggles", back, "policies", policies);
	call_change(c, set, NULL, undone);
}
