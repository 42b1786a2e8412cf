/* A policy's plan as text: which sites change their level where, what each rule would have kept of what is stored, what it will cost against the budget. Pure. */
#include "cli/policy.h"
#include <math.h>
#include <stdlib.h>

enum { MOST_ROWS = 40 };

static const char *whole(struct fmt *f, double n)  /* 88410 -> 88,410 */
{
	char digits[32];
	int len = snprintf(digits, sizeof(digits), "%.0f", n), out = 0;
	for (int i = 0; i < len && out < (int)sizeof(f->s) - 2; i++) {
		if (i && (len - i) % 3 == 0 && digits[i - 1] != '-')
			f->s[out++] = ',';
		f->s[out++] = digits[i];
	}
	f->s[out] = 0;
	return f->s;
}

static const char *op_style(const char *op) { return style(*op == '+' ? "green" : *op == '-' ? "red" : "yellow"); }

/* The same change in many processes is one row. */
static json_t *grouped(const json_t *changes)
{
	json_t *rows = json_array(), *index = json_object(), *seen;
	const json_t *x;
	size_t i;
	json_array_foreach(changes, i, x) {
		struct buf key = { 0 };
		buf_printf(&key, "%s\n%s\n%s\n%s\n%s", jstr(x, "op"), jstr(x, "service"), jstr(x, "name"), jstr(x, "from"), jstr(x, "to"));
		buf_byte(&key, 0);
		json_t *row = json_object_get(index, (char *)key.p);
		if (!row) {
			row = json_pack("{s:s, s:s, s:s, s:s, s:s, s:{}}", "op", jstr(x, "op"), "service", jstr(x, "service"), "name",
				jstr(x, "name"), "from", jstr(x, "from"),
				"to", jstr(x, "to"), "pids");
			json_object_set_new(index, (char *)key.p, row);
			json_array_append(rows, row);
		}
		seen = json_object_get(row, "pids");
		buf_clear(&key);
		buf_printf(&key, "%lld@%s", (long long)jint(x, "pid"), jstr(x, "host"));
		buf_byte(&key, 0);
		json_object_set_new(seen, (char *)key.p, json_true());
		buf_finish(&key);
	}
	json_decref(index);
	return rows;
}

static void changes_text(const json_t *plan, bool wide, struct buf *b)
{
	json_t *rows = grouped(json_object_get(plan, "changes")), *x;
	size_t i, n = json_array_size(rows), width = 4, shown = wide || n <= MOST_ROWS ? n : MOST_ROWS;
	json_array_foreach(rows, i, x) {
		size_t w = strlen(jstr(x, "service")) + 1 + strlen(jstr(x, "name"));
		if (i < shown && w > width)
			width = w > 60 ? 60 : w;
	}
	json_array_foreach(rows, i, x) {
		struct buf name = { 0 }, safe = { 0 };
		if (i == shown)
			break;
		buf_printf(&name, "%s:%s", jstr(x, "service"), jstr(x, "name"));
		buf_byte(&name, 0);
		fmt_safe(&safe, (char *)name.p, width);
		int64_t pids = (int64_t)json_object_size(json_object_get(x, "pids"));
		buf_printf(b, "%s%s%s %.*s%*s  %s -> %s  in %lld process%s", op_style(jstr(x, "op")), jstr(x, "op"), style("off"), (int)safe.n, (char *)safe.p,
			(int)(width - fmt_width((char *)safe.p, safe.n)), "", *jstr(x, "from") ? jstr(x, "from") : "off",
			*jstr(x, "to") ? jstr(x, "to") : "off", (long long)pids,
			pids == 1 ? "" : "es");
		if (wide) {
			const char *k;
			json_t *v;
			json_object_foreach(json_object_get(x, "pids"), k, v)
				buf_printf(b, " %s", k);
		}
		buf_byte(b, '\n');
		buf_finish(&name);
		buf_finish(&safe);
	}
	if (shown < n)
		buf_printf(b, "... and %zu more; -o wide shows all\n", n - shown);
	json_decref(rows);
}

static void rule_text(const json_t *r, struct buf *b)
{
	const json_t *cost = json_object_get(r, "predicted"), *replay = json_object_get(r, "replay");
	const char *op = *jstr(r, "op") ? jstr(r, "op") : " ";
	long long sites = (long long)jint(r, "sites"), processes = (long long)jint(r, "processes");
	struct fmt f, g, h;
	buf_printf(b, "%s%s%s rule %s: %lld site%s in %lld process%s", op_style(op), op, style("off"), jstr(r, "name"), sites, sites == 1 ? "" : "s",
		processes,
		processes == 1 ? "" : "es");
	if (json_is_true(json_object_get(cost, "known")))
		buf_printf(b, ", ~%s spans/s, %s CPU", fmt_count(&f, jnum(cost, "spans_per_s")), fmt_percent(&g, jnum(cost, "cpu_percent")));
	buf_byte(b, '\n');
	if (json_is_object(replay)) {
		double traces = jnum(replay, "traces");
		if (traces > 0)
			buf_printf(b, "    of the last %s would have kept %s of %s traces, %s/day\n", fmt_duration(&f, jnum(replay, "window_nano")),
				whole(&g, jnum(replay, "kept")),
				whole(&h, traces), fmt_bytes(&(struct fmt){ 0 }, jnum(replay, "bytes_per_day")));
		else
			buf_printf(b, "    no stored trace of the last %s to try it on\n", fmt_duration(&f, jnum(replay, "window_nano")));
	}
}

void plan_text(const json_t *plan, bool wide, struct buf *b)
{
	const json_t *p = json_object_get(plan, "policy"), *cost = json_object_get(plan, "predicted"), *r, *hint = json_object_get(plan, "suggestion");
	long long changed = (long long)jint(plan, "changed"), sites = (long long)jint(plan, "sites"), processes = (long long)jint(plan, "processes");
	struct fmt f, g;
	size_t i;
	buf_printf(b, "%s%s%s: ", style("bold"), jstr(p, "name"), style("off"));
	if (changed)
		buf_printf(b, "%lld change%s of level; %lld site%s in %lld process%s are matched\n", changed, changed == 1 ? "" : "s", sites,
			sites == 1 ? "" : "s", processes,
			processes == 1 ? "" : "es");
	else
		buf_printf(b, "no site changes its level; %lld site%s in %lld process%s are matched\n", sites, sites == 1 ? "" : "s", processes,
			processes == 1 ? "" : "es");
	changes_text(plan, wide, b);
	json_array_foreach(json_object_get(plan, "rules"), i, r)
		rule_text(r, b);
	buf_add_str(b, "predicted: ");
	if (json_is_true(json_object_get(cost, "known")))
		buf_printf(b, "~%s spans/s, %s CPU", fmt_count(&f, jnum(cost, "spans_per_s")), fmt_percent(&g, jnum(cost, "cpu_percent")));
	else
		buf_printf(b, "%s", *jstr(cost, "basis") ? jstr(cost, "basis") : "not known");
	if (json_is_number(json_object_get(plan, "bytes_per_day")))
		buf_printf(b, ", %s/day", fmt_bytes(&f, jnum(plan, "bytes_per_day")));
	if (json_is_number(json_object_get(plan, "budget_percent"))) {
		const json_t *verdict = json_object_get(plan, "fits");
		bool fits = !json_is_false(verdict), unknown = verdict && json_is_null(verdict);
		if (json_is_number(json_object_get(plan, "predicted_percent")) && json_is_true(json_object_get(cost, "known")))
			buf_printf(b, "; per process %s", fmt_percent(&g, jnum(plan, "predicted_percent")));
		if (jnum(plan, "budget_percent") > 0)
			buf_printf(b, "; budget %s: ", fmt_percent(&f, jnum(plan, "budget_percent")));
		else
			buf_add_str(b, "; no budget: ");
		buf_printf(b, "%s%s%s", style(unknown ? "yellow" : fits ? "green" : "red"),
			unknown ? "unknown whether it fits" : fits ? "fits" : "does NOT fit", style("off"));
		if (*jstr(plan, "over_on"))
			buf_printf(b, " on %s", jstr(plan, "over_on"));
	}
	buf_byte(b, '\n');
	json_array_foreach(json_object_get(plan, "warnings"), i, r) {
		buf_printf(b, "%swarning%s: ", style("yellow"), style("off"));
		fmt_safe(b, json_string_value(r) ? json_string_value(r) : jstr(r, "message"), 0);
		buf_byte(b, '\n');
	}
	if (json_is_object(hint))
		buf_printf(b, "  would fit: %s\n", *jstr(hint, "text") ? jstr(hint, "text") : fmt_percent(&f, jnum(hint, "keep") * 100));
}
