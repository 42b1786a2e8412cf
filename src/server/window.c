/* A window of a rollout: what the canary and the rest did between two looks at their vitals (rows of the agents' method `vitals`, with totals), as groups that
 * compare.c understands. Agents count all since they were first asked, so a window has exactly what was in it, however often it was looked at; of an
 * agent that has been restarted, or a process that has come since, there is nothing to subtract from, and it is left out. Pure, but for the time. */
#include "server/window.h"
#include "base/clock.h"
#include <math.h>
#include <string.h>

enum { PAST_MAX = 200 };                 /* processes whose past is kept: the first ones, of which every canary is */

static const char *jtext(const json_t *o, const char *k) { return json_string_value(json_object_get(o, k)) ?: ""; }
static json_int_t jint(const json_t *o, const char *k) { return json_integer_value(json_object_get(o, k)); }
static double jnum(const json_t *o, const char *k) { return json_number_value(json_object_get(o, k)); }

bool window_has(const json_t *list, const json_t *row)
{
	size_t i;
	const json_t *x;
	json_array_foreach(list, i, x)
		if (jint(x, "pid") == jint(row, "pid") && (!*jtext(row, "host") || !strcmp(jtext(x, "host"), jtext(row, "host"))))
			return true;
	return false;
}

static json_t *key_of(const json_t *row) { return json_sprintf("%s %lld", jtext(row, "host"), (long long)jint(row, "pid")); }

/* Latencies as the agent counts them, [ns, calls, ...], into the bins; sign -1 takes away what was there before. */
static void add_calls(struct compare_group *g, const json_t *total, double sign)
{
	const json_t *hist = json_object_get(total, "hist");
	g->calls += sign * jnum(total, "calls");
	g->errors += sign * jnum(total, "errors");
	g->seen += sign * jnum(total, "seen");
	for (size_t i = 0; i + 1 < json_array_size(hist); i += 2)
		g->bin[compare_bin(json_number_value(json_array_get(hist, i)))] += sign * json_number_value(json_array_get(hist, i + 1));
}

/* What a process did since the window began; false: it, or its agent, was not there then. */
static bool add_row(struct compare_group *g, const json_t *began, const json_t *row)
{
	json_t *key = key_of(row);
	const json_t *was = json_object_get(json_object_get(began, json_string_value(key)), "total"), *is = json_object_get(row, "total");
	json_decref(key);
	if (!was || !is || jint(was, "since") != jint(is, "since") || jnum(is, "seen") < jnum(was, "seen"))
		return false;
	add_calls(g, is, 1);
	add_calls(g, was, -1);
	return true;
}

/* Of the matched processes those in the canary, or the others: now, and what is kept of before. */
void window_groups(const struct window *w, const json_t *past, const json_t *rows, bool in, struct compare_group *ret_now, struct compare_group *ret_before)
{
	const json_t *x, *was;
	size_t i;
	*ret_now = *ret_before = (struct compare_group){ 0 };
	json_array_foreach(rows, i, x) {
		json_t *key = key_of(x), *member = json_object_get(w->canary, json_string_value(key));
		if (member && json_is_true(member) == in) {
			ret_now->processes++;
			add_row(ret_now, w->began, x);
			if ((was = json_object_get(past, json_string_value(key)))) {
				ret_before->processes++;
				ret_before->overhead = fmax(ret_before->overhead, jnum(was, "overhead_percent"));
				add_calls(ret_before, was, 1);
			}
		}
		json_decref(key);
	}
	ret_now->overhead = w->looks ? w->overhead[!in] / w->looks : 0;
}

json_t *window_json(const struct compare_group *g, bool past)
{
	bool any = g->calls > 0;
	json_t *o = json_pack("{sf so so so si sI sI}", "overhead_percent", g->overhead,
		"p50_nano", any ? json_integer((json_int_t)compare_quantile(g, .5)) : json_null(), "p99_nano", any ? json_integer((json_int_t)compare_quantile(g, .99)) : json_null(),
		"error_share", any ? json_real(g->errors / g->calls) : json_null(),
		"processes", g->processes, "calls", (json_int_t)llround(g->seen), "errors", (json_int_t)llround(g->errors));
	if (past)
		json_object_set_new(o, "past", json_true());
	return o;
}

/* What it was before anything was different, process by process: of the first ones, of which every canary is. */
json_t *window_past(const struct window *w, const json_t *matched, const json_t *rows, double *ret_seen)
{
	json_t *past = json_object(), *m;
	const json_t *x;
	double seen = 0;
	size_t i, k;
	json_array_foreach(matched, k, m) {
		if (json_object_size(past) >= PAST_MAX)
			break;
		json_array_foreach(rows, i, x) {
			struct compare_group g = { 0 };
			if (jint(x, "pid") != jint(m, "pid") || (*jtext(x, "host") && strcmp(jtext(x, "host"), jtext(m, "host"))) || !add_row(&g, w->began, x))
				continue;
			json_t *hist = json_array();
			for (unsigned b = 0; b < COMPARE_BINS; b++)
				if (g.bin[b] > 0) {
					json_array_append_new(hist, json_integer((json_int_t)exp2((b + .5) / COMPARE_PER_OCTAVE)));
					json_array_append_new(hist, json_integer((json_int_t)g.bin[b]));
				}
			json_t *key = key_of(x);
			json_object_set_new(past, json_string_value(key), json_pack("{sf sf sf sf so}", "overhead_percent", jnum(x, "overhead_percent"), "calls", g.calls,
				"errors", g.errors, "seen", g.seen, "hist", hist));
			json_decref(key);
			seen += g.seen;
			break;
		}
	}
	*ret_seen = seen;
	return past;
}

void window_drop(struct window *w)
{
	json_decref(w->began);
	json_decref(w->canary);
	*w = (struct window){ 0 };
}

static void mark(json_t *set, const json_t *list, bool as)
{
	size_t i;
	const json_t *x;
	json_array_foreach(list, i, x) {
		json_t *key = key_of(x);
		json_object_set_new(set, json_string_value(key), json_boolean(as));
		json_decref(key);
	}
}
void window_begin(struct window *w, const json_t *matched, const json_t *canary, const json_t *rows)
{
	size_t i;
	json_t *x;
	window_drop(w);
	w->began = json_object();
	w->canary = json_object();
	w->since = clock_mono();
	mark(w->canary, matched, false);
	mark(w->canary, canary, true);
	json_array_foreach(rows, i, x) {
		json_t *key = key_of(x);
		if (json_object_get(w->canary, json_string_value(key)))
			json_object_set(w->began, json_string_value(key), x);
		json_decref(key);
	}
}

void window_look(struct window *w, const json_t *rows, double *ret_limit)
{
	double most[2] = { 0, 0 }, limit = 0;
	const json_t *x;
	size_t i;
	json_array_foreach(rows, i, x) {
		json_t *key = key_of(x), *member = json_object_get(w->canary, json_string_value(key));
		json_decref(key);
		if (!member)
			continue;
		bool in = json_is_true(member);
		double own = jnum(x, "limit_percent");
		most[!in] = fmax(most[!in], jnum(x, "overhead_percent"));
		if (in && own > 0 && (limit <= 0 || own < limit))
			limit = own;
		w->busy |= in && json_is_true(json_object_get(x, "saturated"));
	}
	w->overhead[0] += most[0];
	w->overhead[1] += most[1];
	w->looks++;
	*ret_limit = limit;
}
