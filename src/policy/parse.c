/* Document -> policy: each key has a row in a table that says its kind and who reads it. Everything that is wrong is told at its place, so reading
 * goes on after an error with what can be read; a policy comes out only if there was none. */
#include "policy/doc.h"
#include "model/duration.h"
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>

#define SECOND_NS 1000000000ll
#define MINUTE_NS (60 * SECOND_NS)
#define DAY_NS (24 * 60 * MINUTE_NS)
#define RULES_MAX 1000u
#define LIMITS_MAX 100u
#define LIST_MAX 100u
#define ROLLOUT_MAX 20u
#define QUERIES_SIZE_MAX (16u << 20)

static const char *const levels[] = { "off", "count", "span", "detail", "deep" };
const char *policy_level_name(unsigned level) { return levels[level < 5 ? level : 0]; }

int policy_level_parse(struct str name, uint8_t *ret_level)
{
	for (uint8_t i = 0; i < 5; i++)
		if (str_is(name, levels[i])) {
			*ret_level = i;
			return 0;
		}
	return KLIEG_E_BAD_DATA;
}

struct reader {
	struct doc d;
	struct policy *p;
	struct policy_places *rules, *limits;    /* beside p's */
	const struct doc_node *when, *to;        /* of the escalation that is read */
	size_t size;                             /* of all queries' regular expressions */
};
/* example: of what must be there; NULL: it may be left away. into: what the object is read into. places: may be NULL. */
struct key {
	const char *name, *example;
	enum doc_kind kind;
	void (*read)(struct reader *r, const struct doc_node *n, void *into, struct policy_places *places);
};

static const char *kind_name(enum doc_kind kind) { return kind == DOC_TEXT ? "a text" : kind == DOC_LIST ? "a list" : "an object"; }

static void suggest(char *hint, size_t size, struct str word, const struct key *keys, unsigned nkeys)
{
	unsigned least = UINT32_MAX, best = 0;
	for (unsigned i = 0; i < nkeys; i++) {
		unsigned d = str_distance(word, str_of(keys[i].name));
		if (d < least)
			least = d, best = i;
	}
	if (least <= 2 || (word.n > 6 && least <= 3)) {
		snprintf(hint, size, "did you mean `%s`?", keys[best].name);
		return;
	}
	int n = snprintf(hint, size, "the keys here are");
	for (unsigned i = 0; i < nkeys && n < (int)size; i++)
		n += snprintf(hint + n, size - (size_t)n, " %s", keys[i].name);
}

static bool is_kind(struct reader *r, const struct doc_node *n, enum doc_kind kind, const char *what)
{
	static const char *const hints[] = { [DOC_TEXT] = "write one value; a text that begins with { or [ goes into single quotes",
		[DOC_LIST] = "write each item on a line of its own after `- `, or all in brackets: [a, b]",
		[DOC_MAP] = "write `key: value` lines below it, indented" };
	if (n->kind != kind && n->kind != DOC_BAD)
		doc_diag(&r->d, "P110", n, hints[kind], "%s must be %s, not %s", what, kind_name(kind), kind_name(n->kind));
	return n->kind == kind;
}

static void read_value(struct reader *r, const struct key *key, const struct doc_node *name, const struct doc_node *v, void *into,
	struct policy_places *places)
{
	char what[24];
	snprintf(what, sizeof what, "`%s`", key->name);
	if (doc_empty(v))
		doc_diag(&r->d, "P114", name, key->example ? key->example : "give it a value, or leave it away", "%s is empty", what);
	else if (is_kind(r, v, key->kind, what))
		key->read(r, v, into, places);
}

static void read_map(struct reader *r, const struct doc_node *map, const char *what, const struct key *keys, unsigned nkeys, void *into,
	struct policy_places *places)
{
	const struct doc_node *seen[16] = { 0 };
	char hint[240];
	for (const struct doc_node *k = map->first; k; k = k->next->next) {
		const struct doc_node *v = k->next;
		if (k->kind != DOC_TEXT) {
			if (k->kind != DOC_BAD)
				doc_diag(&r->d, "P110", k, "a key is a word", "%s cannot be a key", kind_name(k->kind));
			continue;
		}
		unsigned i = 0;
		while (i < nkeys && !str_is(k->text, keys[i].name))
			i++;
		if (i == nkeys) {
			suggest(hint, sizeof hint, k->text, keys, nkeys);
			doc_diag(&r->d, "P111", k, hint, "%s has no key `%.*s`", what, SHOWN(k->text));
			continue;
		}
		if (seen[i]) {
			int line, column;
			doc_place(&r->d, seen[i]->at, &line, &column);
			doc_diag(&r->d, "P112", k, "remove one of the two", "`%s` stands twice; the first is on line %d", keys[i].name, line);
			continue;
		}
		seen[i] = k;
		read_value(r, keys + i, k, v, into, places);
	}
	for (unsigned i = 0; i < nkeys; i++)
		if (keys[i].example && !seen[i])
			doc_diag(&r->d, "P113", map->first ? map->first : map, keys[i].example, "%s has no `%s`", what, keys[i].name);
}

/* ---- values ----------------------------------------------------------------------------------------------------------------- */

static char *read_name(struct reader *r, const struct doc_node *n, const char *what)
{
	bool ok = n->text.n > 0 && n->text.n <= 64;
	for (size_t i = 0; ok && i < n->text.n; i++) {
		char c = n->text.p[i];
		ok = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || (i && c && strchr("._-", c));
	}
	if (!ok) {
		doc_diag(&r->d, "P120", n, "up to 64 letters, digits, `-`, `_` and `.`; a letter or digit first", "`%.*s` is no name for %s",
			SHOWN(n->text), what);
		return NULL;
	}
	return str_dup(n->text);
}

static void read_duration(struct reader *r, const struct doc_node *n, const char *what, int64_t least, int64_t most, int64_t *ret_ns)
{
	int64_t v;
	double bare;
	if (duration_parse(n->text, &v) < 0) {
		bool number = value_number(n->text, &bare);
		doc_diag(&r->d, "P142", n, number ? "write the unit: 30s, 5m, 1h30m" : "a number and a unit: 500ms, 30s, 5m, 1h30m, 3d",
			number ? "`%s: %.*s` has no unit" :
			"`%s: %.*s` is not a duration", what, SHOWN(n->text));
		return;
	}
	if (v < least || v > most) {
		struct buf b = { 0 };
		buf_add_str(&b, "between ");
		value_duration_print(least, &b);
		buf_add_str(&b, " and ");
		value_duration_print(most, &b);
		buf_byte(&b, 0);
		doc_diag(&r->d, "P143", n, (char *)b.p, "`%s: %.*s` is too %s", what, SHOWN(n->text), v < least ? "short" : "long");
		buf_finish(&b);
		return;
	}
	*ret_ns = v;
}

static bool read_level(struct reader *r, const struct doc_node *n, uint8_t *ret_level)
{
	if (policy_level_parse(n->text, ret_level) >= 0)
		return true;
	unsigned least = UINT32_MAX, best = 0;
	for (unsigned i = 0; i < 5; i++) {
		unsigned d = str_distance(n->text, str_of(levels[i]));
		if (d < least)
			least = d, best = i;
	}
	char hint[120];
	snprintf(hint, sizeof hint, least <= 2 && n->text.n > 2 ? "did you mean `%s`?" : "the levels are off, count, span, detail, deep", levels[best]);
	doc_diag(&r->d, "P140", n, hint, "`%.*s` is no level", SHOWN(n->text));
	return false;
}

/* The byte of a text where a line and column (in characters) of it are. */
static size_t offset_of(struct str s, int line, int column)
{
	size_t i = 0;
	for (; i < s.n && line > 1; i++)
		line -= s.p[i] == '\n';
	for (; i < s.n && column > 1; column--) {
		i++;
		while (i < s.n && ((unsigned char)s.p[i] & 0xc0) == 0x80)
			i++;
	}
	return i;
}

static void tell_query(struct reader *r, const char *code, const struct doc_node *n, const struct err *e)
{
	if (!e->line) {
		doc_diag(&r->d, code, n, e->hint, "%s", e->msg);
		return;
	}
	size_t from = offset_of(n->text, e->line, e->column), to = from;
	/* The word, or the one character, that stands there. */
	while (to < n->text.n && ((unsigned char)n->text.p[to] >= 0x80 || isalnum((unsigned char)n->text.p[to]) || strchr("_.:", n->text.p[to])))
		to++;
	to += to == from;
	uint32_t a = doc_locate(&r->d, n, from), b = doc_locate(&r->d, n, to);
	doc_diag_bytes(&r->d, code, a, b > a ? b : a + 1, e->hint, "%s", e->msg);
}

static char *canonical(const struct traceql *q)
{
	struct buf b = { 0 };
	traceql_print(q, &b);
	char *s = str_dup(buf_str(&b));
	buf_finish(&b);
	return s;
}

/* NULL: told. */
static struct traceql *read_query(struct reader *r, const struct doc_node *n, enum tq_profile profile, char **ret_text)
{
	struct traceql *q = NULL, *other;
	struct err e = { 0 };
	if (r->size > QUERIES_SIZE_MAX) /* told */
		return NULL;
	int rc = (profile == TQ_PROFILE_TRIGGER ? traceql_parse_metric : traceql_parse)(n->text, &q, &e);
	if (rc < 0) {
		/* Somebody who knows the short form of the command line gets the long one. */
		size_t i = 0;
		while (i < n->text.n && (n->text.p[i] == ' ' || n->text.p[i] == '\n'))
			i++;
		bool filter = i == n->text.n || n->text.p[i] == '{' || n->text.p[i] == '(';
		if (profile == TQ_PROFILE_START && !filter && traceql_parse_selector(n->text, &other, NULL) >= 0) {
			char *text = canonical(other);
			snprintf(e.hint, sizeof e.hint, "write '%.200s'", text);
			free(text);
			traceql_destroy(other);
		}
		tell_query(r, "P130", n, &e);
		return NULL;
	}
	if ((r->size += traceql_size(q)) > QUERIES_SIZE_MAX) {
		doc_diag(&r->d, "P107", n, "{1,50} stands for fifty copies: use + or * instead, or split the policy",
			"the regular expressions of this policy are too big");
		traceql_destroy(q);
		return NULL;
	}
	if (traceql_check_profile(q, profile, &e) < 0) {
		tell_query(r, "P131", n, &e);
		traceql_destroy(q);
		return NULL;
	}
	*ret_text = canonical(q);
	return q;
}

/* ---- escalation --------------------------------------------------------------------------------------------------------------- */

static void when(struct reader *r, const struct doc_node *n, void *into, struct policy_places *at)
{
	struct policy_trigger *t = into;
	r->when = n;
	t->q = read_query(r, n, TQ_PROFILE_TRIGGER, &t->when);
}
static void over(struct reader *r, const struct doc_node *n, void *into, struct policy_places *at)
{
	read_duration(r, n, "over", SECOND_NS, DAY_NS, &((struct policy_trigger *)into)->over_ns);
}
static void decay(struct reader *r, const struct doc_node *n, void *into, struct policy_places *at)
{
	read_duration(r, n, "decay", SECOND_NS, 30 * DAY_NS, &((struct policy_trigger *)into)->decay_ns);
}
static void cooldown(struct reader *r, const struct doc_node *n, void *into, struct policy_places *at)
{
	read_duration(r, n, "cooldown", 0, 30 * DAY_NS, &((struct policy_trigger *)into)->cooldown_ns);
}
static void to(struct reader *r, const struct doc_node *n, void *into, struct policy_places *at)
{
	if (read_level(r, n, &((struct policy_trigger *)into)->to))
		r->to = n;
}
static const struct key trigger_keys[] = {
	{ "when", "when: '{ name = \"x\" } | quantile_over_time(duration, .99) > 250ms'", DOC_TEXT, when },
	{ "over", NULL, DOC_TEXT, over },
	{ "to", "to: detail", DOC_TEXT, to },
	{ "decay", NULL, DOC_TEXT, decay },
	{ "cooldown", NULL, DOC_TEXT, cooldown },
};
#define NKEYS(a) (unsigned)(sizeof (a) / sizeof *(a))

/* ---- rules ---------------------------------------------------------------------------------------------------------------------- */

static void rule_name(struct reader *r, const struct doc_node *n, void *into, struct policy_places *at)
{
	struct policy_rule *rule = into;
	rule->name = read_name(r, n, "a rule");
	for (struct policy_rule *o = r->p->rules; rule->name && o < rule; o++)
		if (o->name && !strcmp(o->name, rule->name)) {
			doc_diag(&r->d, "P121", n, "firings, history and undo go by a rule's name", "two rules are called `%s`; the other is on line %d",
				o->name, o->line);
			break;
		}
}

static void rule_match(struct reader *r, const struct doc_node *n, void *into, struct policy_places *at)
{
	struct policy_rule *rule = into;
	struct err e = { 0 };
	at->match = n;
	rule->q = read_query(r, n, TQ_PROFILE_START, &rule->match);
	if (rule->q && traceql_split_start(rule->q, &rule->site, &rule->request, &e) < 0)
		tell_query(r, "P132", n, &e);
}

static void rule_level(struct reader *r, const struct doc_node *n, void *into, struct policy_places *at)
{
	at->level = n;
	read_level(r, n, &((struct policy_rule *)into)->level);
}

static void rule_keep(struct reader *r, const struct doc_node *n, void *into, struct policy_places *at)
{
	struct policy_rule *rule = into;
	double v;
	at->keep = n;
	if (value_rate(n->text, &v)) {
		if (v > 0 && v <= 1e9)
			rule->rate = v;
		else
			doc_diag(&r->d, "P141", n, "spans per second and process: 200/s; to keep none write `keep: 0`", "`keep: %.*s` is out of range",
				SHOWN(n->text));
	} else if (value_percent(n->text, &v) || value_number(n->text, &v)) {
		if (v >= 0 && v <= 1) {
			rule->keep = v;
			return;
		}
		char hint[160];
		bool bare = v > 1 && v <= 100 && n->text.p[n->text.n - 1] != '%';
		snprintf(hint, sizeof hint, bare ? "did you mean %.*s%% or %.*s/s?" : "between 0%% and 100%%", SHOWN(n->text), SHOWN(n->text));
		doc_diag(&r->d, "P141", n, hint, "`keep: %.*s` is out of range", SHOWN(n->text));
	} else {
		doc_diag(&r->d, "P141", n, "a share (10% or 0.1) or a rate (200/s)", "`keep: %.*s` is neither a share nor a rate", SHOWN(n->text));
	}
}

static void rule_escalate(struct reader *r, const struct doc_node *n, void *into, struct policy_places *at)
{
	struct policy_rule *rule = into;
	rule->escalate = base_calloc(1, sizeof *rule->escalate);
	*rule->escalate = (struct policy_trigger){ .over_ns = 30 * SECOND_NS, .decay_ns = 5 * MINUTE_NS, .cooldown_ns = MINUTE_NS };
	r->when = r->to = NULL;
	read_map(r, n, "`escalate`", trigger_keys, NKEYS(trigger_keys), rule->escalate, NULL);
	at->when = r->when;
	at->to = r->to;
}

static char **read_texts(struct reader *r, const struct doc_node *list, const char *what, bool names, uint32_t *ret_n)
{
	if (list->n > LIST_MAX) {
		doc_diag(&r->d, "P106", list, NULL, "`%s` has %u items, but at most %u are taken", what, list->n, LIST_MAX);
		return NULL;
	}
	char **out = base_calloc(list->n + 1, sizeof *out);
	for (const struct doc_node *i = list->first; i; i = i->next) {
		char *s = NULL;
		if (!is_kind(r, i, DOC_TEXT, "an item"))
			continue;
		if (names)
			s = read_name(r, i, "a destination");
		else if (!i->text.n || i->text.n > 256 || doc_empty(i))
			doc_diag(&r->d, "P147", i, "an attribute's name, with * and ? for any: \"http.request.header.*\"", "`%s` has an item that is %s", what,
				i->text.n > 256 ? "longer than 256 bytes" : "empty");
		else
			s = str_dup(i->text);
		if (s)
			out[(*ret_n)++] = s;
	}
	return out;
}

static void rule_redact(struct reader *r, const struct doc_node *n, void *into, struct policy_places *at)
{
	struct policy_rule *rule = into;
	rule->redact = read_texts(r, n, "redact", false, &rule->nredact);
}
static void rule_send(struct reader *r, const struct doc_node *n, void *into, struct policy_places *at)
{
	struct policy_rule *rule = into;
	at->send = n;
	rule->send = read_texts(r, n, "send", true, &rule->nsend);
}
static void rule_retain(struct reader *r, const struct doc_node *n, void *into, struct policy_places *at)
{
	at->retain = n;
	read_duration(r, n, "retain", MINUTE_NS, 3650 * DAY_NS, &((struct policy_rule *)into)->retain_ns);
}
static void rule_for(struct reader *r, const struct doc_node *n, void *into, struct policy_places *at)
{
	read_duration(r, n, "for", SECOND_NS, 366 * DAY_NS, &((struct policy_rule *)into)->for_ns);
}

static void rule_rollout(struct reader *r, const struct doc_node *n, void *into, struct policy_places *at)
{
	struct policy_rule *rule = into;
	at->rollout = n;
	if (n->n > ROLLOUT_MAX) {
		doc_diag(&r->d, "P106", n, NULL, "`rollout` has %u steps, but at most %u are taken", n->n, ROLLOUT_MAX);
		return;
	}
	rule->rollout = base_calloc(n->n + 1, sizeof *rule->rollout);
	for (const struct doc_node *i = n->first; i; i = i->next) {
		struct policy_step s, *before = rule->nrollout ? rule->rollout + rule->nrollout - 1 : NULL;
		if (!is_kind(r, i, DOC_TEXT, "a step"))
			continue;
		if (!value_step(i->text, &s) || (!s.processes && !(s.share > 0 && s.share <= 1)))
			doc_diag(&r->d, "P144", i, "[1 process, 10%, 100%]", "`%.*s` is no step of a rollout", SHOWN(i->text));
		else if (before && (s.processes ? !before->processes || s.processes <= before->processes : !before->processes && s.share <= before->share))
			doc_diag(&r->d, "P144", i, "each step covers more than the one before, and processes come before shares: [1 process, 10%, 100%]",
				"step `%.*s` does not cover more than the one before it", SHOWN(i->text));
		else
			rule->rollout[rule->nrollout++] = s;
	}
}

static const char match_example[] = "match: '{ resource.service.name = \"checkout\" }'; all is '{ }'";
static const struct key rule_keys[] = {
	{ "name", "name: slow-payments", DOC_TEXT, rule_name },
	{ "match", match_example, DOC_TEXT, rule_match },
	{ "level", NULL, DOC_TEXT, rule_level },
	{ "keep", NULL, DOC_TEXT, rule_keep },
	{ "escalate", NULL, DOC_MAP, rule_escalate },
	{ "redact", NULL, DOC_LIST, rule_redact },
	{ "send", NULL, DOC_LIST, rule_send },
	{ "retain", NULL, DOC_TEXT, rule_retain },
	{ "rollout", NULL, DOC_LIST, rule_rollout },
	{ "for", NULL, DOC_TEXT, rule_for },
};

static void read_rules(struct reader *r, const struct doc_node *list, void *into, struct policy_places *at)
{
	struct policy *p = r->p;
	if (list->n > RULES_MAX) {
		doc_diag(&r->d, "P106", list, "split it into several policies", "%u rules, but at most %u are taken", list->n, RULES_MAX);
		return;
	}
	p->rules = base_calloc(list->n + 1, sizeof *p->rules);
	r->rules = base_calloc(list->n + 1, sizeof *r->rules);
	for (const struct doc_node *i = list->first; i; i = i->next) {
		struct policy_rule *rule = p->rules + p->nrules;
		struct policy_places *places = r->rules + p->nrules;
		int column;
		if (!is_kind(r, i, DOC_MAP, "a rule"))
			continue;
		*rule = (struct policy_rule){ .level = POLICY_LEVEL_SPAN, .keep = 1 };
		doc_place(&r->d, i->at, &rule->line, &column);
		read_map(r, i, "a rule", rule_keys, NKEYS(rule_keys), rule, places);
		if (places->to && rule->escalate->to <= rule->level)
			doc_diag(&r->d, "P145", places->to, rule->level < POLICY_LEVEL_DEEP ?
				"a trigger raises: choose a higher level here, or a lower one for the rule" :
				"the rule is at the highest level already: lower its `level`",
				"`to: %s` is not above the rule's own level, %s", levels[rule->escalate->to], levels[rule->level]);
		p->nrules++;
	}
}

/* ---- limits ----------------------------------------------------------------------------------------------------------------------- */

static void limit_match(struct reader *r, const struct doc_node *n, void *into, struct policy_places *at)
{
	struct policy_limit *l = into;
	struct traceql *site = NULL, *request = NULL;
	struct err e = { 0 };
	at->match = n;
	l->q = read_query(r, n, TQ_PROFILE_START, &l->match);
	if (!l->q)
		return;
	if (traceql_split_start(l->q, &site, &request, &e) < 0)
		tell_query(r, "P132", n, &e);
	else if (request && traceql_check_site(l->q, &e) < 0) /* a request cannot take back what its site costs */ {
		snprintf(e.hint, sizeof e.hint, "a limit is on sites: name, kind, resource.*, .component, .code.*");
		tell_query(r, "P132", n, &e);
	}
	traceql_destroy(site);
	traceql_destroy(request);
}

static void limit_overhead(struct reader *r, const struct doc_node *n, void *into, struct policy_places *at)
{
	double v;
	if (!value_percent(n->text, &v))
		doc_diag(&r->d, "P141", n, "of one process's CPU time: 1%", "`overhead: %.*s` is not a percentage", SHOWN(n->text));
	else if (!(v > 0 && v <= 1))
		doc_diag(&r->d, "P141", n, "more than 0%, at most 100%; to switch off write `level: off`", "`overhead: %.*s` is out of range", SHOWN(n->text));
	else
		((struct policy_limit *)into)->overhead = v * 100;
}

static void limit_rate(struct reader *r, const struct doc_node *n, void *into, struct policy_places *at)
{
	double v;
	if (!value_rate(n->text, &v) || !(v > 0 && v <= 1e9))
		doc_diag(&r->d, "P141", n, "spans per second and process: 1000/s", "`rate: %.*s` is not a rate", SHOWN(n->text));
	else
		((struct policy_limit *)into)->rate = v;
}

static void limit_level(struct reader *r, const struct doc_node *n, void *into, struct policy_places *at)
{
	at->level = n;
	read_level(r, n, &((struct policy_limit *)into)->level);
}

static const struct key limit_keys[] = {
	{ "match", match_example, DOC_TEXT, limit_match },
	{ "overhead", NULL, DOC_TEXT, limit_overhead },
	{ "rate", NULL, DOC_TEXT, limit_rate },
	{ "level", NULL, DOC_TEXT, limit_level },
};

static void read_limits(struct reader *r, const struct doc_node *list, void *into, struct policy_places *at)
{
	struct policy *p = r->p;
	if (list->n > LIMITS_MAX) {
		doc_diag(&r->d, "P106", list, NULL, "%u limits, but at most %u are taken", list->n, LIMITS_MAX);
		return;
	}
	p->limits = base_calloc(list->n + 1, sizeof *p->limits);
	r->limits = base_calloc(list->n + 1, sizeof *r->limits);
	for (const struct doc_node *i = list->first; i; i = i->next) {
		struct policy_limit *l = p->limits + p->nlimits;
		uint32_t errors = r->d.diags->errors;
		int column;
		if (!is_kind(r, i, DOC_MAP, "a limit"))
			continue;
		*l = (struct policy_limit){ .level = POLICY_LEVEL_DEEP };
		doc_place(&r->d, i->at, &l->line, &column);
		read_map(r, i, "a limit", limit_keys, NKEYS(limit_keys), l, r->limits + p->nlimits);
		if (r->d.diags->errors == errors && !l->overhead && !l->rate && !r->limits[p->nlimits].level)
			doc_diag(&r->d, "P146", i, "overhead: 1%, rate: 1000/s, level: detail", "this limit limits nothing");
		p->nlimits++;
	}
}

/* ---- the whole ---------------------------------------------------------------------------------------------------------------------- */

static void policy_name(struct reader *r, const struct doc_node *n, void *into, struct policy_places *at) { r->p->name = read_name(r, n, "a policy"); }

static const struct key policy_keys[] = {
	{ "policy", "policy: checkout", DOC_TEXT, policy_name },
	{ "rules", NULL, DOC_LIST, read_rules },
	{ "limits", NULL, DOC_LIST, read_limits },
};

static int by_place(const void *x, const void *y)
{
	const struct policy_diag *a = x, *b = y;
	return a->line != b->line ? a->line - b->line : a->column != b->column ? a->column - b->column : strcmp(a->code, b->code);
}

int policy_parse(struct str yaml, struct policy **ret_p, struct policy_diags *ret_d)
{
	struct reader r = { .p = base_calloc(1, sizeof *r.p) };
	int rc = doc_parse(&r.d, yaml, ret_d);
	if (rc >= 0 && is_kind(&r, r.d.root, DOC_MAP, "the policy"))
		read_map(&r, r.d.root, "a policy", policy_keys, NKEYS(policy_keys), r.p, NULL);
	if (rc >= 0 && !ret_d->errors)
		policy_advise(r.p, &r.d, r.rules, r.limits);
	if (ret_d->n) {
		uint32_t n = r.d.full ? ret_d->n - 1 : ret_d->n; /* "and more" stays last */
		qsort(ret_d->list, n, sizeof *ret_d->list, by_place);
	}
	if (rc >= 0 && ret_d->errors)
		rc = KLIEG_E_BAD_DATA;
	doc_finish(&r.d);
	free(r.rules);
	free(r.limits);
	if (rc < 0) {
		policy_destroy(r.p);
		return rc;
	}
	*ret_p = r.p;
	return 0;
}

static void free_texts(char **list, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		free(list[i]);
	free(list);
}

void policy_destroy(struct policy *p)
{
	if (!p)
		return;
	for (uint32_t i = 0; i < p->nrules; i++) {
		struct policy_rule *r = p->rules + i;
		free(r->name);
		free(r->match);
		traceql_destroy(r->q);
		traceql_destroy(r->site);
		traceql_destroy(r->request);
		if (r->escalate) {
			free(r->escalate->when);
			traceql_destroy(r->escalate->q);
			free(r->escalate);
		}
		free_texts(r->redact, r->nredact);
		free_texts(r->send, r->nsend);
		free(r->rollout);
	}
	for (uint32_t i = 0; i < p->nlimits; i++) {
		free(p->limits[i].match);
		traceql_destroy(p->limits[i].q);
	}
	free(p->rules);
	free(p->limits);
	free(p->name);
	free(p);
}

void policy_diags_finish(struct policy_diags *d)
{
	free(d->list);
	*d = (struct policy_diags){ 0 };
}
