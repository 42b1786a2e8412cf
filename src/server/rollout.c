/* Rollouts: a version goes to some processes first, is compared with the untouched rest in windows of a few seconds (compare.c), and goes on, or back by
 * itself. The canary has the new version's rules under ids of their own ("p:POLICY/RULE@VERSION", `only` these processes); everybody else keeps the
 * version in force (`except` them). A rule "r:POLICY" counts the requests of all processes concerned, so that latency and errors of both groups are known.
 *
 * Where a rollout stands is in the policy's head in the state store, each step with its state. "running" is said only of a step that is being watched: one
 * that was cut off (the server ended, the agent or a process of the canary is gone) is "interrupted", with why and what happens next, until it begins again.
 * Loop thread, asking the agents; owns en->rollout. */
#include "base/clock.h"
#include "base/log.h"
#include "server/policies.h"
#include "server/window.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define SECOND 1000000000ll
#define WINDOW_NS (5 * SECOND)           /* of what is compared; shorter if the step is watched for less than four of them */
#define BASELINE_NS (5 * SECOND)         /* how long the requests of before are counted, */
#define BASELINE_MOST_NS (10 * SECOND)   /* and how long at most while there are too few */
#define PATIENCE_LEAST_NS (10 * SECOND)  /* how much longer than asked a step waits for enough requests */
#define PATIENCE_MOST_NS (600 * SECOND)
enum { EVIDENCE_MAX = 120, EVIDENCE_KEPT = 60, BREACHES = 3 /* windows in a row: one hiccup of a busy host is not the version's doing */, LOST_MAX = 3 /* in a step */,
	CANARY_MAX = 5000 };

enum phase { TARGETS, BASELINE, WATCH };
struct rollout {
	struct policy *next;
	json_t *next_doc;
	json_t *doc;                     /* borrowed: the head's "rollout": state, step, steps, soak_nano, slower, failing, evidence, past, why */
	enum phase phase;
	json_t *matched;                 /* [{host,pid,service,instance}] in order of instance */
	json_t *canary;                  /* the first of them */
	json_t *where;                   /* while targets are asked for: service -> {pid: true} */
	uint32_t rule;                   /* the next one to ask for */
	int64_t since;                   /* clock_mono() of the phase */
	struct window window;            /* that is being looked at */
	unsigned bad, judged, lost;      /* windows: breached in a row, that had enough to say; processes that went away, in this step */
	bool asking;
};

/* ---- the document --------------------------------------------------------------------------------------------------------- */

static json_t *step_json(const struct policy_step *st)
{
	return st->processes ? json_pack("{si ss}", "processes", (int)st->processes, "state", "pending") : json_pack("{sf ss}", "share", st->share, "state", "pending");
}
bool rollout_wanted(const struct policy *p)
{
	for (uint32_t i = 0; i < p->nrules; i++)
		if (p->rules[i].nrollout)
			return true;
	return false;
}
/* All rules of a version go together: by the longest list of steps that a rule has. */
json_t *rollout_make(const struct policy *p, int64_t soak, double slower, double failing)
{
	static const struct policy_step usual[] = { { .processes = 1 }, { .share = .1 }, { .share = 1 } };
	const struct policy_step *list = usual;
	uint32_t n = sizeof(usual) / sizeof(*usual);
	bool own = false;
	for (uint32_t i = 0; i < p->nrules; i++)
		if (p->rules[i].nrollout && (!own || p->rules[i].nrollout > n))
			list = p->rules[i].rollout, n = p->rules[i].nrollout, own = true;
	json_t *steps = json_array();
	for (uint32_t i = 0; i < n; i++)
		json_array_append_new(steps, step_json(&list[i]));
	if (list[n - 1].processes || list[n - 1].share < 1)
		json_array_append_new(steps, step_json(&(struct policy_step){ .share = 1 }));
	return json_pack("{ss si so sI sf sf s[]}", "state", "running", "step", 0, "steps", steps, "soak_nano", (json_int_t)soak, "slower", slower, "failing", failing,
		"evidence");
}

const struct policy *rollout_next(const struct policy_entry *en) { return en->rollout->next; }

static void keep_last(json_t *list, size_t n)
{
	while (json_array_size(list) > n)
		json_array_remove(list, 0);
}
static json_t *doc_json(const struct policy_entry *en, size_t evidence)
{
	json_t *doc = json_copy(json_object_get(en->head, "rollout")), *list = json_copy(json_object_get(doc, "evidence"));
	keep_last(list, evidence);
	json_object_set_new(doc, "evidence", list);
	json_object_del(doc, "past");
	return doc;
}
json_t *rollout_json(const struct policy_entry *en, size_t evidence)
{
	json_t *doc = doc_json(en, evidence);
	json_object_set_new(doc, "name", json_string(en->name));
	json_object_set_new(doc, "version", json_integer(jint(en->head, "version")));
	json_object_set_new(doc, "base", json_integer(jint(en->head, "in_force")));
	if (en->rollout && en->rollout->canary)
		json_object_set(doc, "canary", en->rollout->canary);
	return doc;
}

static void event(struct server *s, const struct policy_entry *en)
{
	json_t *ev = rollout_json(en, 1);
	json_object_set_new(ev, "type", json_string("rollout"));
	json_object_set_new(ev, "policy", json_string(en->name));
	events_send(s, "rollout", ev);
	json_decref(ev);
}

static void note(struct server *s, struct policy_entry *en, json_t *canary, json_t *rest, const char *verdict, const char *why)
{
	json_t *list = json_object_get(json_object_get(en->head, "rollout"), "evidence"), *last = json_array_get(list, json_array_size(list) - 1);
	/* What goes on for long is one line, not what pushes out what was seen before. */
	if (last && !strcmp(jtext(last, "verdict"), "waiting") && !strcmp(verdict, "waiting") && json_is_object(json_object_get(last, "canary")) == (canary != NULL) &&
		(canary || !strcmp(jtext(last, "why"), why)))
		json_array_remove(list, json_array_size(list) - 1);
	json_array_append_new(list, json_pack("{sI so so ss ss}", "at", (json_int_t)clock_wall(), "canary", canary ? canary : json_null(), "rest",
		rest ? rest : json_null(),
		"verdict", verdict, "why", why));
	keep_last(list, EVIDENCE_MAX);
	event(s, en);
}

static void save(struct server *s, struct policy_entry *en)
{
	keep_last(json_object_get(json_object_get(en->head, "rollout"), "evidence"), EVIDENCE_KEPT);
	policy_save(s, en);
}

/* ---- states --------------------------------------------------------------------------------------------------------------- */

/* Of the step that it is at; why may be NULL. */
static void step_is(json_t *doc, const char *state, const char *why)
{
	json_t *step = json_array_get(json_object_get(doc, "steps"), (size_t)jint(doc, "step"));
	if (!step)
		return;
	json_object_set_new(step, "state", json_string(state));
	json_object_del(step, "until");
	if (why)
		json_object_set_new(step, "why", json_string(why));
	else
		json_object_del(step, "why");
}
void rollout_over(json_t *doc, const char *state, const char *why)
{
	json_t *step;
	size_t i;
	json_object_set_new(doc, "state", json_string(state));
	json_object_set_new(doc, "why", json_string(why));
	step_is(doc, state, why);
	if (strcmp(state, "stopped"))            /* it may go on */
		json_object_del(doc, "past");
	json_array_foreach(json_object_get(doc, "steps"), i, step)
		if (!strcmp(state, "rolled_back") && !strcmp(jtext(step, "state"), "pending"))
			json_object_set_new(step, "state", json_string("not_reached"));
}

/* The step is not watched at the moment, and begins again when it can. */
static void interrupt(struct server *s, struct policy_entry *en, const char *verdict, const char *why)
{
	struct rollout *r = en->rollout;
	const json_t *step = json_array_get(json_object_get(r->doc, "steps"), (size_t)jint(r->doc, "step"));
	bool begun = strcmp(jtext(step, "state"), "pending") && strcmp(jtext(step, "state"), "waiting"), news = strcmp(jtext(step, "why"), why);
	window_drop(&r->window);
	r->bad = r->judged = 0;
	if (r->phase != TARGETS)
		r->since = clock_mono();
	if (news) {
		step_is(r->doc, begun ? "interrupted" : "waiting", why);
		json_object_set_new(r->doc, "why", json_string(why));
		json_object_set_new(en->head, "why", json_string(why));
	}
	note(s, en, NULL, NULL, verdict, why);
	if (news)
		save(s, en);
}
static void watch_again(struct server *s, struct policy_entry *en)
{
	struct rollout *r = en->rollout;
	json_t *step = json_array_get(json_object_get(r->doc, "steps"), (size_t)jint(r->doc, "step"));
	int64_t now = clock_wall();
	if (!strcmp(jtext(step, "state"), "interrupted"))
		note(s, en, NULL, NULL, "resumed", "the step begins again");
	step_is(r->doc, "running", NULL);
	json_object_set_new(step, "started", json_integer(now));
	json_object_set_new(step, "until", json_integer(now + jint(r->doc, "soak_nano")));
	json_object_del(r->doc, "why");
	json_object_del(en->head, "why");
}

/* ---- beginning and end ---------------------------------------------------------------------------------------------------- */

static struct rollout *start(struct server *s, struct policy_entry *en)
{
	struct rollout *r = base_calloc(1, sizeof(*r));
	r->next = policy_of_version(s, en->name, jint(en->head, "version"), &r->next_doc);
	r->doc = json_object_get(en->head, "rollout");
	r->since = clock_mono();
	return en->rollout = r;
}
void rollout_begin(struct server *s, struct policy_entry *en)
{
	start(s, en);
	rollout_tick(s);
}
void rollout_resume(struct server *s, struct policy_entry *en)
{
	struct rollout *r = start(s, en);
	if (!r->next || !json_is_object(r->doc)) {
		rollout_free(en);
		json_object_set_new(en->head, "state", json_string("suspended"));
		json_object_set_new(en->head, "why", json_string("its rollout cannot be read back"));
		return;
	}
}
void rollouts_back(struct server *s)
{
	for (struct policy_entry *en = s->policies; en; en = en->next)
		if (en->rollout && !strcmp(jtext(en->rollout->doc, "state"), "running"))
			interrupt(s, en, "interrupted", "the server ended and is back: the agents kept what they had, the step begins again "
				"as soon as its processes are there");
}
json_t *rollout_next_doc(const struct policy_entry *en) { return en->rollout ? en->rollout->next_doc : NULL; }
void rollout_free(struct policy_entry *en)
{
	struct rollout *r = en->rollout;
	if (!r)
		return;
	policy_destroy(r->next);
	json_decref(r->next_doc);
	json_decref(r->matched);
	json_decref(r->canary);
	json_decref(r->where);
	window_drop(&r->window);
	free(r);
	en->rollout = NULL;
}

/* ---- rules ---------------------------------------------------------------------------------------------------------------- */

static json_t *vitals_rule(const struct policy_entry *en)
{
	struct buf sel = { 0 };
	char id[100];
	json_t *seen = json_object(), *m;
	const char *service;
	size_t i;
	json_array_foreach(en->rollout->matched, i, m)
		if (json_object_size(seen) < 100)
			json_object_set_new(seen, jtext(m, "service"), json_true());
	i = 0;
	buf_add_str(&sel, "{ kind = server && (");
	json_object_foreach(seen, service, m) {
		buf_add_str(&sel, i++ ? " || resource.service.name = \"" : "resource.service.name = \"");
		for (const char *p = service; *p; p++) {
			if (*p == '"' || *p == '\\')
				buf_byte(&sel, '\\');
			buf_byte(&sel, (uint8_t)*p);
		}
		buf_byte(&sel, '"');
	}
	buf_add(&sel, ") }", 4);
	json_decref(seen);
	snprintf(id, sizeof(id), "r:%s", en->name);
	m = json_pack("{ss ss ss ss ss ss sI ss ss sI}", "id", id, "kind", "trace", "selector", (char *)sel.p, "level", "count", "policy", en->name,
		"rule", "", "version",
		jint(en->head, "version"), "owner", "system:rollout", "reason", "compares the canary with the rest", "expires_unix_nano", (json_int_t)0);
	buf_finish(&sel);
	return m;
}

/* What is to be in force with this canary; everywhere: with the new version for all. */
static void switch_rules(struct server *s, struct policy_entry *en, bool everywhere)
{
	struct rollout *r = en->rollout;
	json_t *set = policy_rules(r->next, r->next_doc), *rule, *base;
	char id[220];
	size_t i;
	if (!everywhere) {
		base = policy_rules(en->p, en->doc);
		json_array_foreach(set, i, rule) {
			snprintf(id, sizeof(id), "%s@%lld", jtext(rule, "id"), (long long)jint(en->head, "version"));
			json_object_set_new(rule, "id", json_string(id));
			json_object_set_new(rule, "only", json_deep_copy(r->canary));
		}
		json_array_foreach(base, i, rule)
			json_object_set_new(rule, "except", json_deep_copy(r->canary));
		json_array_extend(set, base);
		json_decref(base);
	}
	json_array_append_new(set, vitals_rule(en));
	desired_change(s, set, policy_leftover(s, en->name, set), policy_told, s);
}

/* ---- steps ---------------------------------------------------------------------------------------------------------------- */

static size_t size_of_step(const json_t *step, size_t n, size_t before)
{
	double share = jnum(step, "share");
	size_t want = jint(step, "processes") ? (size_t)jint(step, "processes") : (size_t)ceil(share * (double)n - 1e-9);
	want = want < 1 ? 1 : want > n ? n : want;
	return want > before ? want : before;
}

static void step_state(json_t *step, const char *state) { json_object_set_new(step, "state", json_string(state)); }

static void finish(struct server *s, struct policy_entry *en)
{
	struct rollout *r = en->rollout;
	json_t *rules = policy_rules(r->next, r->next_doc), *ids = policy_leftover(s, en->name, rules);
	json_t *last = json_array_get(json_object_get(r->doc, "steps"), json_array_size(json_object_get(r->doc, "steps")) - 1);
	step_state(last, "done");
	json_object_del(last, "until");
	json_object_del(r->doc, "past");
	json_object_set_new(r->doc, "state", json_string("done"));
	json_object_del(r->doc, "why");
	json_object_del(en->head, "why");
	json_object_set_new(en->head, "state", json_string("active"));
	json_object_set_new(en->head, "in_force", json_integer(jint(en->head, "version")));
	policy_destroy(en->p);
	json_decref(en->doc);
	en->p = r->next;
	en->doc = r->next_doc;
	r->next = NULL;
	r->next_doc = NULL;
	save(s, en);
	event(s, en);
	policy_event(s, en, "rolled_out");
	log_info("server", "policy %s: version %lld is in force everywhere", en->name, (long long)jint(en->head, "version"));
	rollout_free(en);
	json_decref(rules);
	desired_change(s, NULL, ids, policy_told, s);
}

/* Steps that would add no process are passed over, but for the last: it is the one that is for processes to come, too. */
static void begin_step(struct server *s, struct policy_entry *en, size_t i, bool again)
{
	struct rollout *r = en->rollout;
	json_t *steps = json_object_get(r->doc, "steps"), *m;
	size_t n = json_array_size(steps), matched = json_array_size(r->matched), k, have = 0;
	for (k = 0; k < i && k < n; k++) {
		json_t *before = json_array_get(steps, k);
		have = size_of_step(before, matched, have);
		if (!strcmp(jtext(before, "state"), "skipped"))
			continue;
		step_state(before, "done");
		json_object_del(before, "until");
		json_object_del(before, "why");
	}
	for (; !again && i > 0 && i + 1 < n && size_of_step(json_array_get(steps, i), matched, have) == have; i++)
		step_state(json_array_get(steps, i), "skipped");
	if (i >= n || !matched) {
		finish(s, en);
		return;
	}
	json_t *step = json_array_get(steps, i), *canary = json_array();
	size_t want = size_of_step(step, matched, have);
	bool everywhere = i + 1 == n;
	json_array_foreach(r->matched, k, m)
		if (k < want && k < CANARY_MAX)
			json_array_append_new(canary, json_pack("{sO sO}", "host", json_object_get(m, "host"), "pid", json_object_get(m, "pid")));
	json_decref(r->canary);
	r->canary = canary;
	r->phase = WATCH;
	r->since = clock_mono();
	r->lost = again ? r->lost : 0;
	r->bad = r->judged = 0;
	window_drop(&r->window);
	json_object_set_new(r->doc, "step", json_integer((json_int_t)i));
	watch_again(s, en);
	save(s, en);
	switch_rules(s, en, everywhere);
	event(s, en);
}

static void go_back(struct server *s, struct policy_entry *en, const char *why)
{
	struct err e = { 0 };
	int64_t base = jint(en->head, "in_force");
	json_t *evidence = json_deep_copy(json_object_get(en->rollout->doc, "evidence"));
	keep_last(evidence, EVIDENCE_KEPT);
	struct policy_change ch = { "auto_rollback", "system:guardrail", why, NULL, "rolled_back", false, NULL, evidence, why };
	log_warn("server", "policy %s: the rollout of version %lld is rolled back: %s", en->name, (long long)jint(en->head, "version"), why);
	if (policy_revert(s, en, base, &ch, &e) < 0) {       /* it cannot be written: the rules have to go all the same */
		log_warn("server", "policy %s: that cannot be saved: %s", en->name, e.msg);
		rollout_free(en);
		json_object_set_new(en->head, "state", json_string("rolled_back"));
		json_object_set_new(en->head, "why", json_string(why));
	}
	json_decref(evidence);
	policy_put_in_force(s, en, policy_told, s);
	event(s, en);
}

static void stop(struct server *s, struct policy_entry *en, const char *why)
{
	struct rollout *r = en->rollout;
	rollout_over(r->doc, "stopped", why);
	json_object_set_new(en->head, "state", json_string("stopped"));
	json_object_set_new(en->head, "why", json_string(why));
	save(s, en);
	event(s, en);
	policy_event(s, en, "stopped");
}

/* ---- comparing ------------------------------------------------------------------------------------------------------------ */

/* What the governor took back in the canary, and in nobody else, since the step began: it is faster than two looks at the overhead. */
static const json_t *shed_in_canary(struct server *s, const struct rollout *r)
{
	const json_t *found = NULL;
	const char *key;
	json_t *ev;
	json_object_foreach((json_t *)alerts_shed(s), key, ev) {
		if (jint(ev, "seen_mono") < r->since)
			continue;
		if (!window_has(r->canary, ev))
			return NULL;
		if (!found || jnum(ev, "measured_percent") > jnum(found, "measured_percent"))
			found = ev;
	}
	return found;
}

static int64_t clamp(int64_t v, int64_t least, int64_t most) { return v < least ? least : v > most ? most : v; }

/* After each look: is the window over, what does it say, and what follows from it. */
static void judge(struct server *s, struct policy_entry *en, const json_t *rows)
{
	struct rollout *r = en->rollout;
	struct compare_group c, rest, c_before, rest_before;
	char why[500], text[600];
	int64_t now = clock_mono(), soak = jint(r->doc, "soak_nano"), window = clamp(soak / 4, SECOND, WINDOW_NS);
	if (!r->window.began) {
		window_begin(&r->window, r->matched, r->canary, rows);
		return;
	}
	struct compare_limits lim = { .slower = jnum(r->doc, "slower"), .failing = jnum(r->doc, "failing") };
	window_look(&r->window, rows, &lim.overhead);
	lim.busy = r->window.busy;
	if (now - r->window.since < window)
		return;
	const json_t *past = json_object_get(r->doc, "past");
	window_groups(&r->window, past, rows, true, &c, &c_before);
	window_groups(&r->window, past, rows, false, &rest, &rest_before);
	if (!c.processes) {
		interrupt(s, en, "waiting", "nothing is heard of the canary: the step begins again when it is");
		return;
	}
	const json_t *shed = shed_in_canary(s, r), *step = json_array_get(json_object_get(r->doc, "steps"), (size_t)jint(r->doc, "step"));
	if (strcmp(jtext(step, "state"), "running")) {       /* it is heard again */
		watch_again(s, en);
		r->since = now;
		save(s, en);
	}
	enum compare_verdict verdict = compare_groups(&c, rest.processes ? &rest : NULL, &c_before, rest.processes ? &rest_before : NULL, &lim, why, sizeof(why));
	/* A saturated host makes the governor shed at half of what is allowed: that is the host's doing. */
	if (verdict != COMPARE_BREACH && shed && jnum(shed, "measured_percent") > lim.overhead) {
		snprintf(why, sizeof(why), "the governor had to take back %s in process %lld: the overhead was %.2f %% of CPU, the limit is %.2f %%",
			jtext(shed, "name"), (long long)jint(shed, "pid"), jnum(shed, "measured_percent"), lim.overhead);
		verdict = COMPARE_BREACH;
	}
	bool by_past = c_before.seen >= COMPARE_CALLS_MIN && rest.seen < COMPARE_CALLS_MIN;
	const struct compare_group *other = by_past ? &c_before : &rest;
	json_t *canary = window_json(&c, false), *against = other->processes ? window_json(other, by_past) : NULL;
	if (verdict == COMPARE_TOO_FEW) {                    /* the window stays open, but not for ever */
		int64_t until = r->since + soak + clamp(soak, PATIENCE_LEAST_NS, PATIENCE_MOST_NS);
		bool over = now >= until && !r->bad;
		snprintf(text, sizeof(text), over && r->judged ? "%s: goes on, as earlier windows of this step had enough" : over ?
			"%s: goes on by the overhead alone, latency and errors were not compared" : "%s: waits for more, for %lld s at most", why,
			(long long)((until - now + SECOND - 1) / SECOND > 0 ? (until - now + SECOND - 1) / SECOND : 0));
		if (now - r->window.since >= clamp(soak, WINDOW_NS, PATIENCE_MOST_NS) && r->bad)
			r->bad = 0;                          /* a breach that nobody is left to repeat */
		note(s, en, canary, against, over ? "not_compared" : "waiting", text);
		if (!over)
			return;
		if (!r->judged)
			json_object_set_new((json_t *)step, "not_compared", json_string(why));
		begin_step(s, en, (size_t)jint(r->doc, "step") + 1, false);
		return;
	}
	r->judged++;
	r->bad = verdict == COMPARE_BREACH ? r->bad + 1 : 0;
	if (verdict == COMPARE_BREACH)
		snprintf(text, sizeof(text), "%s; window %u of %d that have to say so in a row", why, r->bad, BREACHES);
	note(s, en, canary, against, verdict == COMPARE_BREACH ? "breach" : "ok", verdict == COMPARE_BREACH ? text : why);
	if (r->bad >= BREACHES)
		go_back(s, en, why);
	else if (!r->bad && now - r->since >= soak)
		begin_step(s, en, (size_t)jint(r->doc, "step") + 1, false);
	else
		window_begin(&r->window, r->matched, r->canary, rows);
}

static void baseline(struct server *s, struct policy_entry *en, const json_t *rows)
{
	struct rollout *r = en->rollout;
	int64_t now = clock_mono();
	double seen;
	if (!r->window.began) {
		window_begin(&r->window, r->matched, r->canary, rows);
		return;
	}
	if (now - r->window.since < clamp(jint(r->doc, "soak_nano"), SECOND, BASELINE_NS))
		return;
	json_t *past = window_past(&r->window, r->matched, rows, &seen);
	if (seen < 2 * COMPARE_CALLS_MIN && seen > 0 && now - r->window.since < BASELINE_MOST_NS) {
		json_decref(past);
		return;
	}
	json_object_set_new(r->doc, "past", past);
	begin_step(s, en, (size_t)jint(r->doc, "step"), true);
}

/* ---- asking --------------------------------------------------------------------------------------------------------------- */

/* The rollout that a call was made for; it may be over by the time of the answer. */
struct about { int64_t version; };
static struct policy_entry *still(struct call *c)
{
	struct policy_entry *en = policy_find(c->s, c->id);
	struct about *a = c->data;
	bool same = en && en->rollout && jint(en->head, "version") == a->version;
	if (same && strcmp(jtext(en->rollout->doc, "state"), "running"))
		en->rollout->asking = same = false;
	return same ? en : NULL;
}
static void asked(struct call *c)
{
	struct policy_entry *en = policy_find(c->s, c->id);
	struct about *a = c->data;
	if (en && en->rollout && jint(en->head, "version") == a->version)
		en->rollout->asking = false;
	free(c->data);
	call_free(c);
}

static void unheard(struct server *s, struct policy_entry *en, const char *msg)
{
	char why[500];
	snprintf(why, sizeof(why), "%.400s: the step begins again when it can be watched", msg);
	interrupt(s, en, "waiting", why);
}

static void vitals_then(struct call *c)
{
	struct policy_entry *en = still(c);
	struct rollout *r = en ? en->rollout : NULL;
	const json_t *rows = json_object_get(c->result, "processes");
	if (r && c->rc < 0)
		unheard(c->s, en, c->e.msg);
	else if (r && r->phase == BASELINE)
		baseline(c->s, en, rows);
	else if (r && r->phase == WATCH)
		judge(c->s, en, rows);
	asked(c);
}

static int by_instance(const void *a, const void *b)
{
	double x = jnum(*(json_t *const *)a, "instance"), y = jnum(*(json_t *const *)b, "instance");
	return x < y ? -1 : x > y;
}
/* The live processes of `ps` with matched sites, always in the same order. */
static json_t *matched_of(const json_t *ps, const json_t *where)
{
	const json_t *all = json_object_get(ps, "processes");
	json_t **rows = base_calloc(json_array_size(all) + 1, sizeof(*rows)), *p, *out = json_array();
	size_t i, n = 0;
	char pid[32];
	json_array_foreach(all, i, p) {
		snprintf(pid, sizeof(pid), "%lld", (long long)jint(p, "pid"));
		if (!strcmp(*jtext(p, "state") ? jtext(p, "state") : "live", "live") && json_object_get(json_object_get(where, jtext(p, "service")), pid))
			rows[n++] = p;
	}
	qsort(rows, n, sizeof(*rows), by_instance);
	for (i = 0; i < n; i++) {
		const char *host = *jtext(rows[i], "host") ? jtext(rows[i], "host") : jtext(ps, "host");
		json_array_append_new(out, json_pack("{ss sO sO sf}", "host", host, "pid", json_object_get(rows[i], "pid"), "service",
			json_object_get(rows[i], "service"), "instance",
			jnum(rows[i], "instance")));
	}
	free(rows);
	return out;
}

static void targets_known(struct server *s, struct policy_entry *en)
{
	struct rollout *r = en->rollout;
	bool again = json_object_get(r->doc, "past") != NULL;
	if (!json_array_size(r->matched)) {
		/* Nothing to try it on. After a restart processes may just not be back yet. */
		if (!again && clock_mono() - r->since > 2 * SECOND) {
			note(s, en, NULL, NULL, "ok", "no process has a site that matches: in force at once for those to come");
			switch_rules(s, en, true);
			finish(s, en);
		} else
			interrupt(s, en, "waiting", "no process has a site that matches: the step begins when there is one");
		return;
	}
	if (again) {                             /* this step has been begun before */
		begin_step(s, en, (size_t)jint(r->doc, "step"), true);
		return;
	}
	r->phase = BASELINE;
	r->since = clock_mono();
	window_drop(&r->window);
	json_t *set = json_array();
	json_array_append_new(set, vitals_rule(en));
	desired_change(s, set, NULL, policy_told, s);
}

static void ps_then(struct call *c)
{
	struct policy_entry *en = still(c);
	struct rollout *r = en ? en->rollout : NULL;
	size_t i;
	json_t *x;
	if (!r || c->rc < 0) {
		if (r)
			unheard(c->s, en, c->e.msg);
		asked(c);
		return;
	}
	if (r->phase == TARGETS) {
		json_decref(r->matched);
		r->matched = matched_of(c->result, r->where);
		targets_known(c->s, en);
		asked(c);
		return;
	}
	json_array_foreach(r->phase == WATCH ? r->canary : NULL, i, x) {
		bool live = false;
		size_t k;
		json_t *p;
		json_array_foreach(json_object_get(c->result, "processes"), k, p)
			live |= jint(p, "pid") == jint(x, "pid") && !strcmp(*jtext(p, "host") ? jtext(p, "host") : jtext(x, "host"), jtext(x, "host")) &&
				!strcmp(*jtext(p, "state") ? jtext(p, "state") : "live", "live");
		if (live)
			continue;
		char why[200];
		const json_t *away;
		bool unreachable = false;
		json_array_foreach(json_object_get(c->result, "unreachable"), k, away)
			unreachable |= json_is_string(away) && !strcmp(json_string_value(away), jtext(x, "host"));
		if (unreachable) {
			snprintf(why, sizeof(why), "the agent of %.80s does not answer", jtext(x, "host"));
			unheard(c->s, en, why);
			asked(c);
			return;
		}
		snprintf(why, sizeof(why), "process %lld on %s of the canary is gone: the step begins again", (long long)jint(x, "pid"), jtext(x, "host"));
		interrupt(c->s, en, "waiting", why);
		if (++r->lost >= LOST_MAX)
			stop(c->s, en, "processes of the canary keep ending");
		r->phase = TARGETS;
		asked(c);
		return;
	}
	json_t *rule = vitals_rule(en);
	call_agent(c, "vitals", json_pack("{sO sI sb}", "selector", json_object_get(rule, "selector"), "window_nano", (json_int_t)SECOND, "totals", 1), vitals_then);
	json_decref(rule);
}

static void ls_next(struct call *c);
static void ls_then(struct call *c)
{
	struct policy_entry *en = still(c);
	size_t i, k;
	json_t *row, *pid;
	char text[32];
	if (!en || (c->rc < 0 && c->rc != KLIEG_E_NO_MATCH)) {
		if (en)
			unheard(c->s, en, c->e.msg);
		asked(c);
		return;
	}
	json_array_foreach(json_object_get(c->result, "sites"), i, row) {
		json_t *pids = json_object_get(en->rollout->where, jtext(row, "service"));
		if (!pids)
			json_object_set_new(en->rollout->where, jtext(row, "service"), pids = json_object());
		json_array_foreach(json_object_get(row, "pids"), k, pid) {
			snprintf(text, sizeof(text), "%lld", (long long)json_integer_value(pid));
			json_object_set_new(pids, text, json_true());
		}
	}
	en->rollout->rule++;
	ls_next(c);
}
static void ls_next(struct call *c)
{
	struct policy_entry *en = policy_find(c->s, c->id);
	struct rollout *r = en->rollout;
	if (r->rule >= r->next->nrules) {
		call_agent(c, "ps", NULL, ps_then);
		return;
	}
	struct buf b = { 0 };
	traceql_print(r->next->rules[r->rule].site, &b);
	call_agent(c, "ls", json_pack("{so si si}", "selector", json_stringn((char *)b.p, b.n), "limit", 100000, "offset", 0), ls_then);
	buf_finish(&b);
}

void rollout_tick(struct server *s)
{
	for (struct policy_entry *en = s->policies, *after; en; en = after) {
		struct rollout *r = en->rollout;
		after = en->next;
		if (!r || r->asking || s->panic || strcmp(jtext(r->doc, "state"), "running"))
			continue;
		struct call *c = base_calloc(1, sizeof(*c));
		struct about *a = base_alloc(sizeof(*a));
		a->version = jint(en->head, "version");
		c->s = s;
		c->data = a;
		snprintf(c->id, sizeof(c->id), "%s", en->name);
		r->asking = true;
		if (r->phase == TARGETS) {
			json_decref(r->where);
			r->where = json_object();
			r->rule = 0;
			ls_next(c);
		} else
			call_agent(c, "ps", NULL, ps_then);
	}
}

/* ---- the API -------------------------------------------------------------------------------------------------------------- */

void api_policy_rollout(struct call *c)
{
	struct policy_entry *en = policy_find(c->s, c->id);
	if (!en) {
		call_no_policy(c);
		return;
	}
	if (!json_is_object(json_object_get(en->head, "rollout"))) {
		err_set(&c->e, KLIEG_E_NOT_FOUND, "version %lld of policy %s has had no rollout", (long long)jint(en->head, "version"), c->id);
		err_hint(&c->e, "klieg policy history %s", c->id);
		call_fail(c, &c->e);
		return;
	}
	call_json(c, 200, rollout_json(en, EVIDENCE_MAX));
}

void api_policy_rollout_change(struct call *c)
{
	struct policy_entry *en = policy_find(c->s, c->id);
	const char *action = jtext(c->body, "action"), *reason = jtext(c->body, "reason"), *author = jtext(c->body, "author");
	char why[700];
	if (!en) {
		call_no_policy(c);
		return;
	}
	struct rollout *r = en->rollout;
	if (!r) {
		err_set(&c->e, KLIEG_E_CONFLICT, "no rollout of policy %s is under way", c->id);
		err_hint(&c->e, "klieg policy rollback %s goes back to what was in force before", c->id);
		call_fail(c, &c->e);
		return;
	}
	snprintf(why, sizeof(why), "%s by %s%s%s", !strcmp(action, "stop") ? "stopped" : "promoted", author, *reason ? ": " : "", reason);
	if (!strcmp(action, "rollback")) {
		struct policy_change ch = { "rollback", author, reason, NULL, jint(en->head, "in_force") ? "active" : "off", false, NULL, NULL, NULL };
		policy_revert_call(c, en, jint(en->head, "in_force"), &ch);
		return;
	}
	if (!strcmp(action, "stop"))
		stop(c->s, en, why);
	else if (r->phase == TARGETS && strcmp(jtext(r->doc, "state"), "stopped")) {
		err_set(&c->e, KLIEG_E_CONFLICT, "the rollout of policy %s waits for its processes%s%s", c->id, *jtext(r->doc, "why") ? ": " : "",
			jtext(r->doc, "why"));
		call_fail(c, &c->e);
		return;
	} else {
		note(c->s, en, NULL, NULL, "promoted", why);
		bool stopped = !strcmp(jtext(r->doc, "state"), "stopped");
		json_object_set_new(r->doc, "state", json_string("running"));
		step_is(r->doc, "running", NULL);
		json_object_del(r->doc, "why");
		json_object_set_new(en->head, "state", json_string("rolling_out"));
		json_object_del(en->head, "why");
		size_t step = (size_t)jint(r->doc, "step");
		if (stopped && !json_array_size(r->matched)) {   /* stopped before this server was started: first who is there */
			json_object_set_new(r->doc, "step", json_integer((json_int_t)step + 1));
			r->phase = TARGETS;
			policy_save(c->s, en);
			rollout_tick(c->s);
		} else
			begin_step(c->s, en, r->phase == BASELINE ? step : step + 1, r->phase == BASELINE);
	}
	en = policy_find(c->s, c->id);
	call_json(c, 200, rollout_json(en, EVIDENCE_MAX));
}
