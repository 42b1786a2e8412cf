/* What several agents answered to the same question, as one answer of the same shape: numbers are added (or the worst taken), rows are put one
 * after the other with the host they are from, rows that mean the same everywhere (a rule, a site of a service) become one. What to do with which
 * member is a table; a member that is not in it is the first agent's. Pure functions. */
#include "server/merge.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum how { FIRST, SUM, MAX, MIN, ALL, ANY, ROWS /* each with its host */, UNION /* of texts */, SUMS /* of an object's numbers */, TEXT, OBJECT,
	BY_ID };
struct member_rule { const char *of, *key; enum how how; const char *inner; int limit; };

static const struct member_rule rules[] = {
	{ "ps", "processes", ROWS }, { "ps", "agent", OBJECT, "(agent)" }, { "ps", "generation", MIN },
	{ "(agent)", "cpu_percent", MAX }, { "(agent)", "rss_bytes", MAX },
	{ "on", "sites", MAX }, { "on", "instances", SUM }, { "on", "processes", SUM }, { "on", "services", UNION }, { "on", "sample", ROWS, NULL, 10 },
	{ "on", "predicted", OBJECT, "(cost)" }, { "on", "applied", ALL }, { "on", "ack_nano", MAX }, { "on", "pause_nano", MAX }, { "on", "warning", TEXT },
	{ "off", "removed", UNION }, { "off", "sites", SUM }, { "off", "ack_nano", MAX }, { "sync", "sites", SUM }, { "sync", "ack_nano", MAX },
	{ "change", "generation", MIN }, { "change", "applied", ALL }, { "change", "ack_nano", MAX }, { "change", "pause_nano", MAX },
	{ "change", "sites", MAX },
	{ "change", "instances", SUM }, { "change", "processes", SUM }, { "change", "changed", SUM }, { "change", "changed_processes", SUM },
	{ "change", "changes", ROWS, NULL, 500 }, { "change", "predicted", OBJECT, "(cost)" }, { "change", "rules", BY_ID, "(rule)" },
	{ "change", "warnings", UNION },
	{ "change", "warning", TEXT }, { "change", "budgets", ROWS },
	{ "toggles", "toggles", BY_ID, "(rule)" },
	{ "(rule)", "sites", MAX }, { "(rule)", "instances", SUM }, { "(rule)", "processes", SUM }, { "(rule)", "measured", OBJECT, "(cost)" },
	{ "(rule)", "predicted", OBJECT, "(cost)" }, { "(rule)", "dropped", SUM }, { "(rule)", "measured_percent", MAX },
	{ "(rule)", "observed", UNION }, { "(rule)", "observing", SUMS },
	{ "(rule)", "predicted_percent", MAX },
	{ "(cost)", "known", ALL }, { "(cost)", "calls_per_s", SUM }, { "(cost)", "spans_per_s", SUM }, { "(cost)", "bytes_per_s", SUM },
	{ "(cost)", "cpu_percent", MAX },
	{ "(cost)", "overhead_percent", MAX },
	{ "stats", "sites", ROWS }, { "triggers", "triggers", ROWS }, { "inflight", "spans", ROWS }, { "candidates", "processes", ROWS }, { "plugins", "plugins", ROWS },
	{ "vitals", "processes", ROWS },
	{ "account", "made", SUM }, { "account", "passed", SUM }, { "account", "carried", SUM }, { "account", "open", SUM }, { "account", "unsampled", SUM },
	{ "account", "events_passed", SUM }, { "account", "dropped", SUMS }, { "account", "processes", ROWS },
	{ "overhead", "budget_percent", MIN }, { "overhead", "saturated", ANY }, { "overhead", "agent", OBJECT, "(agent)" },
	{ "overhead", "processes", ROWS },
	{ "overhead", "sites", ROWS }, { "overhead", "rules", BY_ID, "(rule)" },
	{ "ls", "instances", SUM }, { "ls", "processes", SUM }, { "(site)", "instances", SUM },
};

static const struct member_rule *rule_of(const char *of, const char *key)
{
	for (size_t i = 0; i < sizeof rules / sizeof *rules; i++)
		if (!strcmp(rules[i].of, of) && !strcmp(rules[i].key, key))
			return &rules[i];
	return NULL;
}

/* What JSON numbers are exact to: whatever agents say, sums of thousands do not overflow. */
static json_int_t plus(json_int_t a, json_int_t b)
{
	const json_int_t most = 1ll << 53;
	a = a > most ? most : a < -most ? -most : a;
	b = b > most ? most : b < -most ? -most : b;
	return a + b > most ? most : a + b < -most ? -most : a + b;
}

static json_t *number(double d, bool real) { return real ? json_real(d) : json_integer((json_int_t)d); }

static bool has_text(const json_t *list, const char *s)
{
	size_t i;
	json_t *v;
	json_array_foreach(list, i, v)
		if (json_is_string(v) && !strcmp(json_string_value(v), s))
			return true;
	return false;
}

static void join(const char *of, json_t *into, const json_t *from);

static void join_number(const struct member_rule *r, json_t *into, const json_t *a, const json_t *b)
{
	double x = json_number_value(a), y = json_number_value(b);
	if (json_is_integer(a) && json_is_integer(b)) {
		json_int_t m = json_integer_value(a), n = json_integer_value(b);
		json_object_set_new(into, r->key, json_integer(r->how == SUM ? plus(m, n) : r->how == MAX ? (m > n ? m : n) : m < n ? m : n));
	} else
		json_object_set_new(into, r->key, number(r->how == SUM ? x + y : r->how == MAX ? (x > y ? x : y) : x < y ? x : y, true));
}

static void join_by_id(const struct member_rule *r, json_t *into, const json_t *more)
{
	json_t *index = json_object(), *row, *mine;
	size_t i;
	json_array_foreach(into, i, row) {
		const char *id = json_string_value(json_object_get(row, "id"));
		if (id)
			json_object_set(index, id, row);
	}
	json_array_foreach(more, i, row) {
		const char *id = json_string_value(json_object_get(row, "id"));
		if (id && (mine = json_object_get(index, id)))
			join(r->inner, mine, row);
		else if (id)
			json_array_append_new(into, json_deep_copy(row));
	}
	json_decref(index);
}

static void join_member(const struct member_rule *r, json_t *into, const json_t *a, const json_t *b)
{
	const char *k;
	json_t *v;
	size_t i;
	switch (r->how) {
	case SUM: case MAX: case MIN:
		if (json_is_number(a) && json_is_number(b))
			join_number(r, into, a, b);
		break;
	case ALL: case ANY:
		if (json_is_boolean(b) && json_is_true(b) == (r->how == ANY))
			json_object_set_new(into, r->key, json_boolean(r->how == ANY));
		break;
	case ROWS:
		json_array_foreach(b, i, v)
			if (json_is_object(v))
				json_array_append((json_t *)a, v);
		break;
	case UNION:
		json_array_foreach(b, i, v)
			if (json_is_string(v) && !has_text(a, json_string_value(v)))
				json_array_append((json_t *)a, v);
		break;
	case SUMS:
		json_object_foreach((json_t *)b, k, v)
			if (json_is_integer(v))
				json_object_set_new((json_t *)a, k, json_integer(plus(json_integer_value(v), json_integer_value(json_object_get(a, k)))));
		break;
	case TEXT:
		if (json_is_string(a) && json_is_string(b) && !strstr(json_string_value(a), json_string_value(b)) && json_string_length(a) < 2000)
			json_object_set_new(into, r->key, json_sprintf("%s; %s", json_string_value(a), json_string_value(b)));
		break;
	case OBJECT:
		if (json_is_object(a) && json_is_object(b))
			join(r->inner, (json_t *)a, b);
		break;
	case BY_ID:
		join_by_id(r, (json_t *)a, b);
		break;
	case FIRST:
		break;
	}
}

/* from into `into`, which is ours alone (a deep copy). */
static void join(const char *of, json_t *into, const json_t *from)
{
	const char *key;
	json_t *v;
	/* What one does not know is unknown of all. */
	if (!strcmp(of, "(cost)") && json_is_true(json_object_get(into, "known")) && json_is_false(json_object_get(from, "known")) &&
		json_object_get(from, "basis"))
		json_object_set(into, "basis", json_object_get(from, "basis"));
	json_object_foreach((json_t *)from, key, v) {
		const struct member_rule *r = rule_of(of, key);
		json_t *mine = json_object_get(into, key);
		if (!mine || json_is_null(mine))
			json_object_set_new(into, key, json_deep_copy(v));
		else if (r)
			join_member(r, into, mine, v);
	}
}

/* ---- the host in rows ----------------------------------------------------------------------------------------------------- */

static void name_hosts(const char *method, json_t *result, const char *host)
{
	for (size_t i = 0; i < sizeof rules / sizeof *rules; i++) {
		json_t *list = !strcmp(rules[i].of, method) && rules[i].how == ROWS ? json_object_get(result, rules[i].key) : NULL, *row;
		size_t k;
		json_array_foreach(list, k, row)
			if (json_is_object(row))
				json_object_set_new(row, "host", json_string(host));
	}
}

static void cut(json_t *list, size_t n)
{
	for (size_t k = json_array_size(list); k > n; k--)
		json_array_remove(list, k - 1);
}

/* ---- those with a mind of their own --------------------------------------------------------------------------------------- */

/* A site of a service is one row, wherever that service runs; then the page that was asked for is cut out. */
static json_t *merge_ls(const struct merge_part *p, unsigned n, const json_t *params)
{
	json_t *rows = json_array(), *index = json_object(), *row, *mine;
	json_int_t instances = 0, processes = 0, matched = 0, seen = 0;
	size_t i;
	for (unsigned k = 0; k < n; k++) {
		json_t *list = json_object_get(p[k].result, "sites");
		json_array_foreach(list, i, row) {
			char key[400];
			const char *service = json_string_value(json_object_get(row, "service")), *id = json_string_value(json_object_get(row, "id"));
			snprintf(key, sizeof key, "%s %s", id ? id : "", service ? service : "");
			if (!(mine = json_object_get(index, key))) {
				mine = json_deep_copy(row);
				json_object_set_new(mine, "hosts", json_pack("[s]", p[k].host));
				json_object_set(index, key, mine);
				json_array_append_new(rows, mine);
				continue;
			}
			join("(site)", mine, row);
			json_array_append_new(json_object_get(mine, "hosts"), json_string(p[k].host));
			json_t *pids = json_object_get(mine, "pids"), *more = json_object_get(row, "pids");
			if (json_is_array(pids) && json_is_array(more))
				json_array_extend(pids, more);
			if (!strcmp(json_string_value(json_object_get(mine, "level")) ?: "", "off"))
				json_object_set(mine, "level", json_object_get(row, "level"));
		}
		seen += (json_int_t)json_array_size(list);
		matched = plus(matched, json_integer_value(json_object_get(p[k].result, "matched")));
		instances = plus(instances, json_integer_value(json_object_get(p[k].result, "instances")));
		processes = plus(processes, json_integer_value(json_object_get(p[k].result, "processes")));
	}
	json_decref(index);
	json_int_t offset = json_integer_value(json_object_get(params, "offset")), limit = json_integer_value(json_object_get(params, "limit"));
	/* Those that no page has shown yet are counted as their agents count them: what is the same on two hosts is known only of rows that were read. */
	matched -= seen - (json_int_t)json_array_size(rows);
	for (json_int_t k = 0; n > 1 && k < offset && json_array_size(rows); k++) /* one alone has cut out its page itself */
		json_array_remove(rows, 0);
	if (limit > 0)
		cut(rows, (size_t)limit);
	return json_pack("{so sI sI sI}", "sites", rows, "matched", matched, "instances", instances, "processes", processes);
}

/* The worst of each check, with its host. */
static json_t *merge_health(const struct merge_part *p, unsigned n)
{
	json_t *all = json_object(), *check, *mine;
	const char *name;
	for (unsigned k = 0; k < n; k++)
		json_object_foreach((json_t *)p[k].result, name, check) {
			if (!json_is_object(check))
				continue;
			mine = json_object_get(all, name);
			bool ok = json_is_true(json_object_get(check, "ok")), was_ok = json_is_true(json_object_get(mine, "ok"));
			if (mine && (was_ok != ok ? ok : json_number_value(json_object_get(check, "value")) <= json_number_value(json_object_get(mine, "value"))))
				continue;
			mine = json_deep_copy(check);
			if (n > 1)
				json_object_set_new(mine, "host", json_string(p[k].host));
			json_object_set_new(all, name, mine);
		}
	return all;
}

static int dearer(const void *a, const void *b)
{
	double x = json_number_value(json_object_get(*(json_t *const *)a, "percent"));
	double y = json_number_value(json_object_get(*(json_t *const *)b, "percent"));
	return x < y ? 1 : x > y ? -1 : 0;
}

static void dearest_first(json_t *o, const char *key, size_t keep)
{
	json_t *list = json_object_get(o, key), *sorted = json_array();
	size_t n = json_array_size(list);
	json_t **rows = calloc(n + 1, sizeof *rows);
	for (size_t i = 0; i < n; i++)
		rows[i] = json_array_get(list, i);
	qsort(rows, n, sizeof *rows, dearer);
	for (size_t i = 0; i < n && i < keep; i++)
		json_array_append(sorted, rows[i]);
	free(rows);
	json_object_set_new(o, key, sorted);
}

json_t *merge_answers(const char *method, const json_t *params, const struct merge_part *p, unsigned n)
{
	if (!strcmp(method, "ls"))
		return merge_ls(p, n, params);
	if (!strcmp(method, "health"))
		return merge_health(p, n);
	json_t *all = json_deep_copy(p[0].result);
	name_hosts(method, all, p[0].host);
	for (unsigned k = 1; k < n; k++) {
		json_t *one = json_deep_copy(p[k].result);
		name_hosts(method, one, p[k].host);
		join(method, all, one);
		json_decref(one);
	}
	if (n == 1)
		return all;
	for (size_t i = 0; i < sizeof rules / sizeof *rules; i++)
		if (!strcmp(rules[i].of, method) && rules[i].limit)
			cut(json_object_get(all, rules[i].key), (size_t)rules[i].limit);
	json_int_t limit = json_integer_value(json_object_get(params, "limit"));
	if (!strcmp(method, "inflight") && limit > 0)
		cut(json_object_get(all, "spans"), (size_t)limit);
	if (!strcmp(method, "overhead"))
		dearest_first(all, "sites", 50);
	return all;
}
