/* The past of a policy: one version, all of them, and what is different between two, by line and by rule. Versions never change, so all of this
 * reads the state store only, on a thread of the pool. */
#include "server/policies.h"
#include <stdio.h>
#include <stdlib.h>

static bool exists(struct call *c)
{
	if (policy_find(c->s, c->id))
		return true;
	call_no_policy(c);
	return false;
}

static void reply(struct call *c)
{
	if (c->rc < 0)
		call_fail(c, &c->e);
	else
		call_json(c, 200, json_incref(c->result));
}

/* ---- one ------------------------------------------------------------------------------------------------------------------ */

void api_policy(struct call *c)
{
	json_t *v = json_object_get(c->params, "version"), *doc;
	struct policy_entry *en = policy_find(c->s, c->id);
	if (!exists(c))
		return;
	int64_t newest = jint(en->head, "version"), version = v ? json_integer_value(v) : newest;
	doc = version > newest ? NULL : policy_version(c->s, c->id, version, &c->e);
	if (!doc) {
		if (version > newest)
			err_set(&c->e, KLIEG_E_NOT_FOUND, "policy %s has no version %lld", c->id, (long long)version);
		err_hint(&c->e, "klieg policy history %s", c->id);
		call_fail(c, &c->e);
		return;
	}
	struct policy *p = policy_of_version(c->s, c->id, version, NULL);
	json_object_set_new(doc, "policy", p ? policy_json(p) : json_null());
	policy_destroy(p);
	json_object_set_new(doc, "state", json_string(version == newest ? policy_state(c->s, en) : version == jint(en->head, "in_force") ? "active" : "former"));
	call_json(c, 200, doc);
}

/* ---- all ------------------------------------------------------------------------------------------------------------------ */

struct past { int64_t newest, limit; json_t *rollout; };
static void versions_work(struct call *c)
{
	struct past *x = c->data;
	json_t *list = json_array();
	for (int64_t v = x->newest; v > 0 && x->newest - v < x->limit; v--) {
		struct err e = { 0 };
		json_t *doc = policy_version(c->s, c->id, v, &e);
		if (doc && v == x->newest && x->rollout)
			json_object_set(doc, "rollout", x->rollout);
		if (doc)
			json_array_append_new(list, doc);
	}
	json_decref(x->rollout);
	free(x);
	c->result = json_pack("{ss so}", "name", c->id, "versions", list);
	c->rc = 0;
}
void api_policy_versions(struct call *c)
{
	if (!exists(c))
		return;
	struct past *x = c->data = base_alloc(sizeof(*x));
	const struct policy_entry *en = policy_find(c->s, c->id);
	*x = (struct past){ jint(en->head, "version"), jint(c->params, "limit"), json_is_object(json_object_get(en->head, "rollout")) ? rollout_json(en, 1) : NULL };
	call_work(c, versions_work, reply);
}

/* ---- two ------------------------------------------------------------------------------------------------------------------ */

enum { CELLS_MAX = 4 << 20 };            /* of the table of common subsequences; beyond: all lines out, all in */

struct lines { struct str *l; size_t n; };
static struct lines split(const char *text)
{
	struct lines x = { 0 };
	for (size_t cap = 0; *text;) {
		size_t n = strcspn(text, "\n");
		if (x.n == cap)
			x.l = base_realloc(x.l, (cap = cap ? 2 * cap : 64) * sizeof(*x.l));
		x.l[x.n++] = (struct str){ text, n };
		text += n + (text[n] == '\n');
	}
	return x;
}
static void line(json_t *out, const char *op, struct str s)
{
	json_array_append_new(out, json_pack("{ss so}", "op", op, "text", json_stringn(s.p, s.n)));
}

static json_t *lines_diff(const char *before, const char *after)
{
	struct lines a = split(before), b = split(after);
	json_t *out = json_array();
	size_t head = 0, tail = 0, i, j;
	while (head < a.n && head < b.n && str_eq(a.l[head], b.l[head]))
		line(out, " ", a.l[head++]);
	while (tail < a.n - head && tail < b.n - head && str_eq(a.l[a.n - 1 - tail], b.l[b.n - 1 - tail]))
		tail++;
	size_t n = a.n - head - tail, m = b.n - head - tail;
	if (n && m && (n + 1) * (m + 1) <= CELLS_MAX) {
		/* common[i][j]: the longest common subsequence of a[i..] and b[j..] */
		uint32_t *common = base_calloc((n + 1) * (m + 1), sizeof(*common));
#define AT(i, j) common[(i) * (m + 1) + (j)]
		for (i = n; i--;)
			for (j = m; j--;)
				AT(i, j) = str_eq(a.l[head + i], b.l[head + j]) ? AT(i + 1, j + 1) + 1 : AT(i + 1, j) > AT(i, j + 1) ? AT(i + 1, j) : AT(i, j + 1);
		for (i = j = 0; i < n || j < m;) {
			if (i < n && j < m && str_eq(a.l[head + i], b.l[head + j])) {
				line(out, " ", a.l[head + i]);
				i++, j++;
			} else if (i < n && (j == m || AT(i + 1, j) >= AT(i, j + 1)))
				line(out, "-", a.l[head + i++]);
			else
				line(out, "+", b.l[head + j++]);
		}
#undef AT
		free(common);
	} else {
		for (i = 0; i < n; i++)
			line(out, "-", a.l[head + i]);
		for (j = 0; j < m; j++)
			line(out, "+", b.l[head + j]);
	}
	for (i = 0; i < tail; i++)
		line(out, " ", a.l[a.n - tail + i]);
	free(a.l);
	free(b.l);
	return out;
}

/* Rules by their name, limits by their place. */
static json_t *by_name(const struct policy *p)
{
	json_t *o = json_object(), *doc = p ? policy_json(p) : NULL, *r;
	size_t i;
	char name[40];
	json_array_foreach(json_object_get(doc, "rules"), i, r)
		json_object_set(o, jtext(r, "name"), r);
	json_array_foreach(json_object_get(doc, "limits"), i, r) {
		snprintf(name, sizeof(name), "limit %zu", i + 1);
		json_object_set(o, name, r);
	}
	json_decref(doc);
	return o;
}
static json_t *fields_diff(json_t *a, json_t *b)
{
	json_t *out = json_array(), *v, *w;
	const char *k;
	json_object_foreach(a, k, v)
		if (!(w = json_object_get(b, k)) || !json_equal(v, w))
			json_array_append_new(out, json_pack("{ss sO sO}", "field", k, "before", v, "after", w ? w : json_null()));
	json_object_foreach(b, k, w)
		if (!json_object_get(a, k))
			json_array_append_new(out, json_pack("{ss sn sO}", "field", k, "before", "after", w));
	return out;
}
static json_t *rules_diff(const struct policy *before, const struct policy *after)
{
	json_t *a = by_name(before), *b = by_name(after), *out = json_array(), *v, *w;
	const char *k;
	json_object_foreach(a, k, v)
		if (!(w = json_object_get(b, k)) || !json_equal(v, w))
			json_array_append_new(out, json_pack("{ss ss so}", "op", w ? "~" : "-", "name", k, "fields", fields_diff(v, w)));
	json_object_foreach(b, k, w)
		if (!json_object_get(a, k))
			json_array_append_new(out, json_pack("{ss ss so}", "op", "+", "name", k, "fields", fields_diff(NULL, w)));
	json_decref(a);
	json_decref(b);
	return out;
}

struct two { int64_t from, to; };
static void diff_work(struct call *c)
{
	struct two *x = c->data, v = *x;
	free(x);
	json_t *a = NULL, *b = NULL;
	struct policy *p = v.from ? policy_of_version(c->s, c->id, v.from, &a) : NULL, *q = policy_of_version(c->s, c->id, v.to, &b);
	if ((v.from && !a) || !b) {
		c->rc = err_set(&c->e, KLIEG_E_NOT_FOUND, "policy %s has no version %lld", c->id, (long long)(v.from && !a ? v.from : v.to));
		err_hint(&c->e, "klieg policy history %s", c->id);
	} else {
		c->rc = 0;
		c->result = json_pack("{ss sI sI so so}", "name", c->id, "from", (json_int_t)v.from, "to", (json_int_t)v.to, "lines",
			lines_diff(jtext(a, "text"), jtext(b, "text")),
			"rules", rules_diff(p, q));
	}
	policy_destroy(p);
	policy_destroy(q);
	json_decref(a);
	json_decref(b);
}
void api_policy_diff(struct call *c)
{
	json_t *from = json_object_get(c->params, "from"), *to = json_object_get(c->params, "to");
	if (!exists(c))
		return;
	int64_t newest = jint(policy_find(c->s, c->id)->head, "version");
	struct two *x = c->data = base_alloc(sizeof(*x));
	x->to = to ? json_integer_value(to) : newest;
	x->from = from ? json_integer_value(from) : x->to - 1;
	if (x->to > newest || x->from > newest)
		x->to = newest + 1;           /* refused by its number, also where a version without a head is left of a crash */
	call_work(c, diff_work, reply);
}

void api_policy_schema(struct call *c)
{
	struct buf b = { 0 };
	buf_add_str(&b, policy_schema);
	call_text(c, &b);
}
