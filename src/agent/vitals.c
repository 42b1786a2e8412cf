/* How the processes of this host fare at some sites, one by one: what a rollout compares, canary against the rest. From the statistics in cells.c. Agent thread. */
#include "agent/state.h"
#include <math.h>
#include <stdlib.h>

struct vitals { double calls, errors; double hist[KW_BUCKETS]; };

static json_t *quantile(const struct vitals *v, double q, double ns)
{
	double n = 0, at = 0;
	for (uint32_t b = 0; b < KW_BUCKETS; b++)
		n += v->hist[b];
	if (n < 1)
		return json_null();
	for (uint32_t b = 0; b < KW_BUCKETS; b++)
		if ((at += v->hist[b]) >= floor(q * (n - 1)) + 1)
			return json_integer((json_int_t)(kw_bucket_mid(b) * ns));
	return json_null();
}

static void add_site(struct vitals *v, const struct site_stat *st, int64_t from)
{
	for (int t = 0; t < STAT_SECONDS; t++)
		if (st->s[t].sec >= from) {
			v->calls += st->s[t].calls;
			v->errors += st->s[t].errors;
		}
	for (int t = 0; t < STAT_HISTS; t++)
		if (st->h[t].bucket && st->h[t].epoch >= from / 15)
			for (uint32_t b = 0; b < KW_BUCKETS; b++)
				v->hist[b] += st->h[t].bucket[b];
}

static void add_total(struct site_total *sum, const struct site_total *t)
{
	if (!t)
		return;
	sum->calls += t->calls;
	sum->errors += t->errors;
	sum->seen += t->seen;
	for (uint32_t b = 0; b < KW_BUCKETS; b++)
		sum->bucket[b] += t->bucket[b];
}
static json_t *total_json(const struct site_total *t, double ns, int64_t since)
{
	json_t *hist = json_array();
	for (uint32_t b = 0; b < KW_BUCKETS; b++)
		if (t->bucket[b]) {
			json_array_append_new(hist, json_integer((json_int_t)(kw_bucket_mid(b) * ns)));
			json_array_append_new(hist, json_integer((json_int_t)t->bucket[b]));
		}
	return json_pack("{s:I,s:f,s:f,s:f,s:o}", "since", (json_int_t)since, "calls", t->calls, "errors", t->errors, "seen", t->seen, "hist", hist);
}

/* totals: also what was counted since they were first asked for. */
json_t *vitals_json(struct agent *a, const struct traceql *q, int64_t window_ns, bool totals)
{
	int64_t sec = window_ns / SECOND < 1 ? 1 : window_ns / SECOND > 60 ? 60 : window_ns / SECOND, from = clock_mono() / SECOND - sec;
	json_t *list = json_array();
	for (uint32_t k = 0; k < a->nprocs; k++) {
		struct process *p = a->procs[k];
		if (!p->map)
			continue;
		cells_read(p);
		struct vitals *v = base_calloc(1, sizeof *v);
		struct site_total *sum = totals ? base_calloc(1, sizeof *sum) : NULL;
		for (uint32_t i = 0; i < p->nsites; i++) {
			struct site *s = &p->sites[i];
			if (!s->id || (!s->stat && !s->level) || (q && !site_match(p, i, q)))
				continue;
			if (totals)
				add_total(sum, stat_total(p, s));
			if (s->stat)
				add_site(v, s->stat, from);
		}
		double ns = a->clock.ns_per_tick, d = (double)sec;
		json_t *row = json_pack("{s:i,s:s,s:f,s:f,s:f,s:f,s:f,s:f,s:f,s:o,s:o,s:I}", "pid", (int)p->pid, "service", p->service, "instance", p->instance,
			"overhead_percent", p->overhead, "limit_percent", governor_allows(p), "cpu_percent", governor_cpu(p), "calls_per_s", v->calls / d,
			"errors_per_s", v->errors / d, "error_share",
			v->calls > 0 ? v->errors / v->calls : 0, "p50_nano", quantile(v, .5, ns), "p99_nano", quantile(v, .99, ns),
			"calls", (json_int_t)llround(v->calls));
		json_object_set_new(row, "saturated", json_boolean(governor_saturated(a)));
		if (totals)
			json_object_set_new(row, "total", total_json(sum, ns, a->born));
		json_array_append_new(list, row);
		free(sum);
		free(v);
	}
	return json_pack("{s:I,s:o}", "window_nano", (json_int_t)(sec * SECOND), "processes", list);
}
