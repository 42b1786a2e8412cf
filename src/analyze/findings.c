/* What is wrong with an operation, in a sentence. One small function per pattern, each with its threshold beside it; a pattern that is not
 * clear is not reported. A finding belongs to the operation whose time it explains. Runs inside hot_finish over linked spans. */
#include "analyze/hot_internal.h"
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#define MAX_FINDINGS 4u               /* per operation */
#define MIN_SHARE 0.03                /* of all self time: what is smaller is not worth a sentence */

static void __attribute__((format(printf, 4, 5))) add(struct hot_view *v, uint32_t op, const char *kind, const char *fmt, ...)
{
	struct hot_op *o = v->ops + op;
	if (o->findings_n == MAX_FINDINGS)
		return;
	o->findings = base_realloc(o->findings, (o->findings_n + 1) * sizeof *o->findings);
	struct hot_finding *f = o->findings + o->findings_n++;
	f->kind = kind;
	va_list ap;
	va_start(ap, fmt);
	int n = vsnprintf(f->text, sizeof f->text, fmt, ap);
	va_end(ap);
	/* A cut in the middle of a character would not be UTF-8. */
	for (size_t end = (size_t)n < sizeof f->text ? (size_t)n : sizeof f->text - 1; (size_t)n >= sizeof f->text && end-- > 0;) {
		bool lead = ((unsigned char)f->text[end] & 0xc0) != 0x80;
		if ((unsigned char)f->text[end] >= 0x80)
			f->text[end] = 0;
		if (lead)
			break;
	}
}

struct text { char p[64]; };
static struct text shown(struct str s)
{
	struct text t;
	size_t n = s.n < sizeof t.p ? s.n : sizeof t.p - 1;
	while (n < s.n && n > 0 && ((unsigned char)s.p[n] & 0xc0) == 0x80)
		n--;
	if (n)
		memcpy(t.p, s.p, n);
	t.p[n] = 0;
	return t;
}
static struct text op_name(const struct hot_view *v, uint32_t op) { return shown(strtab_get(v->strs, v->ops[op].name)); }
static struct text time_text(double ns)
{
	struct text t;
	if (ns >= 1e9)
		snprintf(t.p, sizeof t.p, "%.3g s", ns / 1e9);
	else if (ns >= 1e6)
		snprintf(t.p, sizeof t.p, "%.3g ms", ns / 1e6);
	else
		snprintf(t.p, sizeof t.p, "%.3g us", ns / 1e3);
	return t;
}

/* ---- repeated children: N+1 and retry storms ----------------------------------------------------------------------------- */

/* The children of one operation below one parent span. */
struct run { uint32_t parent_op, op, count, errors, sequential; uint8_t client, last_error; int64_t end_ns; double weight; /* of the parent */ };
struct runs { struct run *items; uint32_t n, cap; };

static struct run *run_of(struct runs *r, uint32_t first, uint32_t op)
{
	for (uint32_t i = r->n; i-- > first && r->n - i <= 64;) /* a parent with more than 64 kinds of children is no loop */
		if (r->items[i].op == op)
			return r->items + i;
	if (r->n == r->cap) {
		r->cap = r->cap ? r->cap * 2 : 256;
		r->items = base_realloc(r->items, r->cap * sizeof *r->items);
	}
	r->items[r->n] = (struct run){ .op = op, .end_ns = INT64_MIN };
	return r->items + r->n++;
}

static bool is_n_plus_one(const struct run *r) { return r->count >= 8 && r->sequential * 5 >= r->count * 4; }
/* Attempts one after the other, at least two of them failed, and most did. */
static bool is_retry(const struct run *r) { return r->client && r->count >= 3 && r->errors >= 2 && r->errors * 2 >= r->count && r->sequential * 5 >= r->count * 4; }

static int by_pair(const void *x, const void *y)
{
	const struct run *a = x, *b = y;
	if (a->op != b->op)
		return a->op < b->op ? -1 : 1;
	return a->parent_op < b->parent_op ? -1 : a->parent_op > b->parent_op;
}

static void find_repeats(struct hot_view *v)
{
	struct runs runs = { 0 };
	for (uint32_t i = 0; i < v->n; i++) {
		const struct hot_span *p = v->spans + i;
		uint32_t first = runs.n;
		for (uint32_t k = p->child; k != HOT_NONE; k = v->spans[k].sibling) {
			const struct hot_span *s = v->spans + k;
			struct run *r = run_of(&runs, first, s->op);
			r->parent_op = p->op;
			r->weight = p->weight;
			r->count++;
			r->errors += s->error;
			r->client |= s->kind == KIND_CLIENT;
			r->sequential += s->start_ns >= r->end_ns;
			int64_t end = s->start_ns + s->duration_ns;
			r->end_ns = end > r->end_ns ? end : r->end_ns;
		}
		/* Only what repeats is worth keeping. */
		uint32_t keep = first;
		for (uint32_t k = first; k < runs.n; k++)
			if (is_n_plus_one(runs.items + k) || is_retry(runs.items + k))
				runs.items[keep++] = runs.items[k];
		runs.n = keep;
	}
	if (runs.n)
		qsort(runs.items, runs.n, sizeof *runs.items, by_pair);
	for (uint32_t i = 0, end; i < runs.n; i = end) {
		uint32_t op = runs.items[i].op, parent = runs.items[i].parent_op, most = 0;
		double retries = 0, loops = 0, tries = 0, errors = 0, calls = 0;
		for (end = i; end < runs.n && runs.items[end].op == op && runs.items[end].parent_op == parent; end++) {
			const struct run *r = runs.items + end;
			if (is_retry(r)) {
				retries += r->weight;
				tries += r->count * r->weight;
				errors += r->errors * r->weight;
			} else {
				loops += r->weight;
				calls += r->count * r->weight;
				most = r->count > most ? r->count : most;
			}
		}
		if (retries > 0)
			add(v, op, "retry", "retry storm: %s tried %.3gx per %s, %.0f%% of the tries failed (%.0f times)", op_name(v, op).p, tries / retries,
				op_name(v, parent).p, 100 * errors / tries, retries);
		if (loops > 0)
			add(v, op, "n+1", "N+1: %s %.3gx per %s, one after the other (at most %u)", op_name(v, op).p, calls / loops, op_name(v, parent).p, most);
	}
	free(runs.items);
}

/* ---- waiting ----------------------------------------------------------------------------------------------------------------- */

static bool has_word(struct str name, const char *word)
{
	size_t n = strlen(word);
	for (size_t i = 0; i + n <= name.n; i++) {
		size_t k = 0;
		while (k < n && (name.p[i + k] | 32) == word[k])
			k++;
		unsigned char before = i ? (unsigned char)(name.p[i - 1] | 32) : ' ', after = i + n < name.n ? (unsigned char)(name.p[i + n] | 32) : ' ';
		if (k == n && !(before >= 'a' && before <= 'z') && !(after >= 'a' && after <= 'z')) /* "lock", not "block" or "clock" */
			return true;
	}
	return false;
}

/* Of a span's own time, how much the thread did not run; negative if not measured. Children on the same thread are taken out. */
static double off_cpu_of_self(const struct hot_view *v, const struct hot_span *s)
{
	bool has_off = s->off_cpu_ns != HOT_UNKNOWN, has_cpu = s->cpu_ns != HOT_UNKNOWN;
	double off = (double)s->off_cpu_ns, cpu = (double)s->cpu_ns, self = (double)s->self_ns;
	if (!has_off && !has_cpu)
		return -1;
	for (uint32_t k = s->child; k != HOT_NONE; k = v->spans[k].sibling) {
		off -= v->spans[k].off_cpu_ns == HOT_UNKNOWN ? 0 : (double)v->spans[k].off_cpu_ns;
		cpu -= v->spans[k].cpu_ns == HOT_UNKNOWN ? 0 : (double)v->spans[k].cpu_ns;
	}
	if (!has_off)
		off = self - (cpu < 0 ? 0 : cpu);
	return off < 0 ? 0 : off > self ? self : off;
}

/* A lock: named as one, and slow (200 us on average; a free lock takes none). A wait: 60 % of measured own time off the CPU, where that is
 * not the point of the operation (a client waits for its server, a queue for its worker). */
static void find_waits(struct hot_view *v, uint32_t op)
{
	const struct hot_op *o = v->ops + op;
	struct str name = strtab_get(v->strs, o->name);
	double self = 0, measured = 0, off = 0, weight = 0, lockish = 0, clients = 0;
	bool named = has_word(name, "lock") || has_word(name, "mutex") || has_word(name, "rwlock") || has_word(name, "semaphore");
	for (uint32_t k = 0; k < o->n; k++) {
		const struct hot_span *s = v->spans + v->by_op[o->first + k];
		self += (double)s->self_ns * s->weight;
		weight += s->weight;
		lockish += named || s->lockish ? s->weight : 0;
		clients += s->kind == KIND_CLIENT ? s->weight : 0;
		double waited = off_cpu_of_self(v, s);
		if (waited < 0)
			continue;
		measured += (double)s->self_ns * s->weight;
		off += waited * s->weight;
	}
	if (self < MIN_SHARE * v->self || self / weight < 200e3)
		return;
	double part = measured > 0 ? off / measured : -1;
	if (lockish * 2 >= weight && (part < 0 || part >= .5))
		add(v, op, "lock", "lock: %s waits %s on average, %.0f%% of all time is spent waiting for it", op_name(v, op).p, time_text(self / weight).p,
			100 * self / v->self);
	else if (part >= .6 && clients * 2 < weight && !has_word(name, "queue"))
		add(v, op, "wait", "waiting: %s is off the CPU for %.0f%% of its own time (%s of %s on average)", op_name(v, op).p, 100 * part,
			time_text(part * self / weight).p, time_text(self / weight).p);
}

/* ---- one value stands out ------------------------------------------------------------------------------------------------------- */

struct pick { uint32_t key, value, span; };
static int by_key_value(const void *x, const void *y)
{
	const struct pick *a = x, *b = y;
	if (a->key != b->key)
		return a->key < b->key ? -1 : 1;
	return a->value < b->value ? -1 : a->value > b->value;
}

/* A value whose median own time is 3x that of all others and at least 200 us longer, with 15 spans of it and 15 of others. Of several (a
 * tenant and its region) the one with the largest ratio is named. */
static void find_outlier(struct hot_view *v, uint32_t op, struct pick *picks)
{
	enum { SUPPORT = 15 };
	const struct hot_op *o = v->ops + op;
	uint32_t n = 0, best = UINT32_MAX, best_n = 0;
	double ratio = 3, own_p50 = 0, rest_p50 = 0;
	if (o->self < MIN_SHARE * v->self || o->n < 2 * SUPPORT)
		return;
	for (uint32_t k = 0; k < o->n; k++) {
		uint32_t i = v->by_op[o->first + k];
		for (uint32_t a = 0; a < v->spans[i].attrs_n; a++)
			picks[n++] = (struct pick){ v->attrs[v->spans[i].attrs_off + a].key, v->attrs[v->spans[i].attrs_off + a].value, i };
	}
	if (n)
		qsort(picks, n, sizeof *picks, by_key_value);
	for (uint32_t i = 0, end; i < n; i = end) {
		for (end = i; end < n && picks[end].key == picks[i].key;)
			end++;
		/* The rest of a value is the whole key less the value: its median is found by taking the value's counts out. */
		histogram_reset(v->a);
		for (uint32_t k = i; k < end; k++)
			histogram_add(v->a, v->spans[picks[k].span].self_ns, v->spans[picks[k].span].weight);
		for (uint32_t from = i, to; from < end; from = to) {
			for (to = from; to < end && picks[to].value == picks[from].value;)
				to++;
			if (to - from < SUPPORT || end - i - (to - from) < SUPPORT)
				continue;
			histogram_reset(v->b);
			for (uint32_t k = from; k < to; k++)
				histogram_add(v->b, v->spans[picks[k].span].self_ns, v->spans[picks[k].span].weight);
			for (uint32_t k = v->b->lo; k <= v->b->hi; k++)
				v->a->counts[k] -= v->b->counts[k];
			v->a->weight -= v->b->weight;
			double own = histogram_quantile(v->b, .5), rest = histogram_quantile(v->a, .5);
			for (uint32_t k = v->b->lo; k <= v->b->hi; k++)
				v->a->counts[k] += v->b->counts[k];
			v->a->weight += v->b->weight;
			if (own - rest < 200e3 || own < ratio * rest)
				continue;
			ratio = own / (rest > 1 ? rest : 1);
			best = from;
			best_n = to - from;
			own_p50 = own;
			rest_p50 = rest;
		}
	}
	if (best != UINT32_MAX)
		add(v, op, "outlier", "%s=%s stands out: median %s, the others %s (%u of %u spans)", shown(strtab_get(v->strs, picks[best].key)).p,
			shown(strtab_get(v->strs, picks[best].value)).p, time_text(own_p50).p, time_text(rest_p50).p, best_n, o->n);
}

/* ---- queues ------------------------------------------------------------------------------------------------------------------------ */

/* A queue: named as one, or its spans carry a depth. It builds up when the last third of the time waits twice as long as the first (or is
 * twice as deep) and a millisecond longer; it is full when a request spends half of its life in it. */
static void find_queue(struct hot_view *v, uint32_t op)
{
	const struct hot_op *o = v->ops + op;
	struct str name = strtab_get(v->strs, o->name);
	bool named = has_word(name, "queue") || has_word(name, "backlog") || has_word(name, "enqueue");
	int64_t first = INT64_MAX, last = INT64_MIN;
	double wait[3] = { 0 }, depth[3] = { 0 }, total = 0, of_parents = 0, weight = 0;
	double weights[3] = { 0 }, depth_weights[3] = { 0 };
	uint32_t n[3] = { 0 }, depths[3] = { 0 }; /* what there is to go by */
	for (uint32_t k = 0; k < o->n; k++) {
		const struct hot_span *s = v->spans + v->by_op[o->first + k];
		named |= s->queue_depth >= 0;
		first = s->start_ns < first ? s->start_ns : first;
		last = s->start_ns > last ? s->start_ns : last;
	}
	if (!named || o->n < 10)
		return;
	double third = ((double)last - (double)first) / 3 + 1;
	for (uint32_t k = 0; k < o->n; k++) {
		const struct hot_span *s = v->spans + v->by_op[o->first + k];
		uint32_t t = (uint32_t)(((double)s->start_ns - (double)first) / third);
		t = t > 2 ? 2 : t;
		n[t]++;
		weights[t] += s->weight;
		weight += s->weight;
		wait[t] += (double)s->duration_ns * s->weight;
		total += (double)s->duration_ns * s->weight;
		if (s->queue_depth >= 0) {
			depths[t]++;
			depth_weights[t] += s->weight;
			depth[t] += s->queue_depth * s->weight;
		}
		if (s->parent != HOT_NONE)
			of_parents += (double)v->spans[s->parent].duration_ns * s->weight;
	}
	double before = n[0] ? wait[0] / weights[0] : 0, after = n[2] ? wait[2] / weights[2] : 0, mean = total / weight;
	double shallow = depths[0] ? depth[0] / depth_weights[0] : 0, deep = depths[2] ? depth[2] / depth_weights[2] : 0;
	bool longer = n[0] >= 10 && n[2] >= 10 && after >= 2 * before && after - before >= 1e6;
	bool deeper = depths[0] >= 10 && depths[2] >= 10 && deep >= 2 * shallow && deep - shallow >= 4;
	if (longer)
		add(v, op, "queue", "queue builds up: %s waited %s at first, %s at last", op_name(v, op).p, time_text(before).p, time_text(after).p);
	else if (deeper)
		add(v, op, "queue", "queue builds up: %s was %.3g deep at first, %.3g at last", op_name(v, op).p, shallow, deep);
	else if (mean >= 1e6 && of_parents > 0 && total >= .5 * of_parents)
		add(v, op, "queue", "queue is full: %s waits %s on average, %.0f%% of the time of what waits in it", op_name(v, op).p, time_text(mean).p,
			100 * total / of_parents);
}

/* Requests that nobody looks at when they come: on average a millisecond in which nothing was done for them, and longer than what is then done. The server is busy with
 * others, or has too few workers; the cause is what else ran, not this operation. */
static void find_late(struct hot_view *v, uint32_t op)
{
	const struct hot_op *o = v->ops + op;
	double before = 0, total = 0, weight = 0, longest = 0;
	uint32_t n = 0;
	for (uint32_t k = 0; k < o->n; k++) {
		const struct hot_span *s = v->spans + v->by_op[o->first + k];
		if (s->before_ns == HOT_UNKNOWN)
			continue;
		n++;
		weight += s->weight;
		before += (double)s->before_ns * s->weight;
		total += (double)s->duration_ns * s->weight;
		longest = (double)s->before_ns > longest ? (double)s->before_ns : longest;
	}
	if (n >= 5 && before >= 1e6 * weight && before >= total)
		add(v, op, "queue", "requests wait %s on average, %s at most, before %s begins: longer than it takes (%s); what else ran then?",
			time_text(before / weight).p, time_text(longest).p, op_name(v, op).p, time_text(total / weight).p);
}

void hot_find(struct hot_view *v)
{
	uint32_t most = 1;
	for (uint32_t i = 0; i < v->ops_n; i++) {
		uint32_t n = 0;
		for (uint32_t k = 0; k < v->ops[i].n; k++)
			n += v->spans[v->by_op[v->ops[i].first + k]].attrs_n;
		most = n > most ? n : most;
	}
	struct pick *picks = base_calloc(most, sizeof *picks);
	find_repeats(v);
	for (uint32_t i = 0; i < v->ops_n; i++) {
		if (!v->ops[i].n)
			continue;
		find_waits(v, i);
		find_outlier(v, i, picks);
		find_queue(v, i);
		find_late(v, i);
	}
	free(picks);
}
