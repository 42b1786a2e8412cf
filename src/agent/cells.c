/* Statistics per site: calls, errors, latency histogram, over the last minute; from count cells in shared memory and from drained spans, so
 * that they exist at every level. A span that was kept stands for those that were not: all sums are weighted. Agent thread. */
#include "agent/state.h"
#include <math.h>
#include <stdlib.h>

static struct site_stat *stat_of(struct process *p, struct site *s)
{
	if (!s->stat)
		s->stat = base_calloc(1, sizeof *s->stat);
	return s->stat;
}

struct load *load_of(struct site *s)
{
	if (!s->load)
		s->load = base_calloc(1, sizeof *s->load);
	return s->load;
}

/* The place of the histogram that holds this second; negative: there are too many, no percentiles for the rest. */
static int hist(struct process *p, struct site_stat *st, int64_t sec)
{
	int64_t epoch = sec / 15;
	uint32_t k = (uint32_t)(epoch % STAT_HISTS);
	if (!st->h[k].bucket) {
		if (p->agent->stat_sites >= STAT_SITES_MAX * STAT_HISTS)
			return -1;
		p->agent->stat_sites++;
		st->h[k].bucket = base_calloc(KW_BUCKETS, sizeof(uint32_t));
	} else if (st->h[k].epoch != epoch) {
		memset(st->h[k].bucket, 0, KW_BUCKETS * sizeof(uint32_t));
		st->h[k].carry = 0;
	}
	st->h[k].epoch = epoch;
	return (int)k;
}

const struct site_total *stat_total(struct process *p, struct site *s)
{
	struct site_stat *st = stat_of(p, s);
	if (!st->total && p->agent->stat_sites < STAT_SITES_MAX * STAT_HISTS) {
		p->agent->stat_sites++;
		st->total = base_calloc(1, sizeof *st->total);
	}
	return st->total;
}

#define SEC_OF(st, now) ({ __typeof__(&(st)->s[0]) x_ = &(st)->s[(now) % STAT_SECONDS]; \
	if (x_->sec != (now)) { memset(x_, 0, sizeof *x_); x_->sec = (now); } x_; })

void stat_span(struct process *p, struct site *s, int64_t sec, uint64_t ticks, bool error, uint64_t self, bool has_self, double w)
{
	struct site_stat *st = stat_of(p, s);
	__auto_type x = SEC_OF(st, sec);
	x->calls += w;
	x->kept++;
	x->errors += error ? w : 0;
	x->ticks += (double)ticks * w;
	x->self += (double)self * w;
	x->has_self |= has_self;
	if (ticks > x->max)
		x->max = ticks;
	if (!has_self) /* an event: it has no duration */
		return;
	struct site_total *all = st->total;
	if (all) {
		all->calls += w;
		all->errors += error ? w : 0;
		all->seen++;
		all->carry += w;
		uint64_t whole = (uint64_t)all->carry;
		all->bucket[kw_bucket(ticks)] += whole;
		all->carry -= (double)whole;
	}
	int k = hist(p, st, sec);
	if (k >= 0) { /* whole numbers in the buckets; what is left of a weight goes with the next span */
		st->h[k].carry += w;
		uint32_t whole = (uint32_t)st->h[k].carry;
		st->h[k].bucket[kw_bucket(ticks)] += whole;
		st->h[k].carry -= whole;
	}
	if (s->nfeeds)
		triggers_span(s, ticks, w, error);
}

void stat_cpu(struct process *p, struct site *s, int64_t sec, uint64_t cpu_ticks, double w)
{
	struct site_stat *st = stat_of(p, s);
	__auto_type x = SEC_OF(st, sec);
	x->cpu += (double)cpu_ticks * w;
	x->cpu_calls += w;
}

void stat_free(struct agent *a, struct site *s)
{
	free(s->load);
	free(s->feeds);
	s->load = NULL;
	s->feeds = NULL;
	s->nfeeds = 0;
	if (!s->stat)
		return;
	for (int i = 0; i < STAT_HISTS; i++)
		if (s->stat->h[i].bucket) {
			a->stat_sites--;
			free(s->stat->h[i].bucket);
		}
	a->stat_sites -= s->stat->total != NULL;
	free(s->stat->total);
	free(s->stat);
	s->stat = NULL;
}

/* Takes the differences since the last look. The cells are the process's: any value in them only spoils its own statistics. */
void cells_read(struct process *p)
{
	int64_t now = clock_mono() / SECOND;
	for (uint32_t i = 0; p->map && i < process_slots(p); i++) {
		struct kw_thread *slot = process_slot(p, i);
		struct thread *th = p->threads[i];
		uint32_t used = __atomic_load_n(&slot->cells_used, __ATOMIC_ACQUIRE);
		if (!used || !p->reg.cell_count)
			continue;
		if (!th)
			th = p->threads[i] = base_calloc(1, sizeof *th);
		if (!th->cell_base) {
			th->cell_base = base_calloc(p->reg.cell_count * 4, sizeof(uint64_t));
			th->cell_bucket = base_calloc(p->reg.cell_count, sizeof *th->cell_bucket);
		}
		const struct kw_cell *cells = (const struct kw_cell *)((uint8_t *)slot + p->reg.cells_off);
		for (uint32_t c = 0; c < p->reg.cell_count && c <= used; c++) {
			uint64_t calls = __atomic_load_n(&cells[c].calls, __ATOMIC_ACQUIRE), *base = &th->cell_base[4 * c];
			uint32_t site = cells[c].site;
			if (calls == base[0] || site >= p->nsites || !p->sites[site].id)
				continue;
			struct site *s = &p->sites[site];
			struct site_stat *st = stat_of(p, s);
			__auto_type x = SEC_OF(st, now);
			uint64_t errors = cells[c].errors, ticks = cells[c].sum_ticks, value = (uint64_t)cells[c].value, max = 0;
			double more = (double)(calls - base[0]), failed = (double)(errors - base[1]);
			x->calls += more;
			x->errors += failed;
			x->ticks += (double)(ticks - base[2]);
			x->value += (int64_t)(value - base[3]);
			load_of(s)->calls += more;
			if (st->total) {
				st->total->calls += more;
				st->total->errors += failed;
				st->total->seen += more;
			}
			base[0] = calls, base[1] = errors, base[2] = ticks, base[3] = value;
			if (s->kind != KW_SITE_SPAN && s->kind != KW_SITE_FUNCTION)
				continue;
			if (!th->cell_bucket[c])
				th->cell_bucket[c] = base_calloc(KW_BUCKETS, sizeof(uint32_t));
			int k = hist(p, st, now);
			uint32_t *h = k < 0 ? NULL : st->h[k].bucket;
			for (uint32_t b = 0; b < KW_BUCKETS; b++) {
				uint32_t v = cells[c].bucket[b], d = v - th->cell_bucket[c][b];
				if (!d)
					continue;
				th->cell_bucket[c][b] = v;
				max = (uint64_t)kw_bucket_mid(b);
				if (h)
					h[b] += d;
				if (st->total)
					st->total->bucket[b] += d;
				if (s->nfeeds)
					triggers_calls(s, b, d, more > 0 ? failed / more : 0);
			}
			if (max > x->max)
				x->max = max;
		}
	}
}

double stat_calls(const struct site *s, int64_t from_sec)
{
	double n = 0;
	for (int i = 0; s->stat && i < STAT_SECONDS; i++)
		if (s->stat->s[i].sec >= from_sec)
			n += s->stat->s[i].calls;
	return n;
}

struct sum { uint64_t id, max; double calls, errors, ticks, self, cpu, cpu_calls, spent; int64_t value; bool has_self, has_hist;
	struct process *p; uint32_t site; uint8_t level;
	uint32_t hist[KW_BUCKETS]; };

static json_t *quantile(const struct sum *s, double q, double ns)
{
	uint64_t n = 0, at = 0;
	for (uint32_t b = 0; b < KW_BUCKETS; b++)
		n += s->hist[b];
	if (!n)
		return json_null();
	uint64_t rank = (uint64_t)(q * (double)(n - 1)) + 1;
	for (uint32_t b = 0; b < KW_BUCKETS; b++)
		if ((at += s->hist[b]) >= rank)
			return json_integer((json_int_t)(kw_bucket_mid(b) * ns));
	return json_null();
}

json_t *stats_json(struct agent *a, const struct traceql *q, int64_t window_ns)
{
	int64_t sec = window_ns / SECOND < 1 ? 1 : window_ns / SECOND > 60 ? 60 : window_ns / SECOND, now = clock_mono() / SECOND, from = now - sec;
	double ns = a->clock.ns_per_tick;
	struct sum **sums = NULL;
	uint32_t n = 0;
	for (uint32_t k = 0; k < a->nprocs; k++) {
		struct process *p = a->procs[k];
		if (p->map)
			cells_read(p);
		for (uint32_t i = 0; i < p->nsites; i++) {
			struct site *s = &p->sites[i];
			if (!s->stat || !s->id || !stat_calls(s, from) || (q && !site_match(p, i, q)))
				continue;
			struct sum *m = NULL;
			for (uint32_t j = 0; j < n && !m; j++)
				if (sums[j]->id == s->id && !strcmp(sums[j]->p->service, p->service))
					m = sums[j];
			if (!m) {
				sums = base_realloc(sums, (n + 1) * sizeof *sums);
				m = sums[n++] = base_calloc(1, sizeof *m);
				m->id = s->id, m->p = p, m->site = i;
			}
			m->level = s->level > m->level ? s->level : m->level;
			for (int t = 0; t < STAT_SECONDS; t++) {
				__auto_type x = &s->stat->s[t];
				if (x->sec < from)
					continue;
				m->calls += x->calls, m->errors += x->errors, m->ticks += x->ticks, m->self += x->self, m->value += x->value;
				m->cpu += x->cpu, m->cpu_calls += x->cpu_calls;
				m->spent += x->calls * (s->load && s->load->ns > 0 ? s->load->ns : cost_of(p, s, s->level ? s->level : KW_SPAN, 1));
				m->has_self |= x->has_self;
				m->max = x->max > m->max ? x->max : m->max;
			}
			for (int t = 0; t < STAT_HISTS; t++)
				if (s->stat->h[t].bucket && s->stat->h[t].epoch >= from / 15)
					for (uint32_t b = 0; b < KW_BUCKETS; b++)
						m->hist[b] += s->stat->h[t].bucket[b];
		}
	}
	json_t *list = json_array();
	for (uint32_t j = 0; j < n; j++) {
		struct sum *m = sums[j];
		struct site *s = &m->p->sites[m->site];
		struct str name = strtab_get(&m->p->strs, s->name), comp = strtab_get(&m->p->strs, s->component);
		char id[17];
		span_id_hex(m->id, id);
		double d = (double)sec;
		json_t *o = json_pack("{s:s,s:s%,s:s%,s:s,s:s,s:I,s:I,s:f,s:f,s:o,s:o,s:o,s:I,s:I,s:I,s:I,s:f}", "id", id, "name", name.p, name.n,
			"component", comp.p, comp.n, "service", m->p->service, "level", level_name(m->level), "calls", (json_int_t)llround(m->calls), "errors",
			(json_int_t)llround(m->errors), "calls_per_s", m->calls / d, "errors_per_s", m->errors / d, "p50_nano", quantile(m, .5, ns),
			"p95_nano", quantile(m, .95, ns), "p99_nano", quantile(m, .99, ns), "max_nano", (json_int_t)((double)m->max * ns), "mean_nano",
			(json_int_t)(m->calls > 0 ? m->ticks * ns / m->calls : 0), "total_nano", (json_int_t)(m->ticks * ns),
			"value", (json_int_t)m->value, "overhead_percent", m->spent / d * 1e-7);
		/* At detail the spans' own CPU time is known, of nearly all: those that were open when we began to look are taken to be like the others. */
		double per_call = m->cpu_calls > 0 ? m->cpu * ns / m->cpu_calls : 0;
		json_object_set_new(o, "cpu_percent", m->cpu_calls > 0 ? json_real(per_call * m->calls / d * 1e-7) : json_null());
		json_object_set_new(o, "self_nano", m->has_self ? json_integer((json_int_t)(m->self * ns)) : json_null());
		json_array_append_new(list, o);
		free(m);
	}
	free(sums);
	return json_pack("{s:I,s:o}", "window_nano", (json_int_t)(sec * SECOND), "sites", list);
}
