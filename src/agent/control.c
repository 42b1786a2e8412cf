/* The control surface: docs/agent-protocol.md, method by method. Requests come through a queue and are answered on the agent thread,
 * between two slices of draining. */
#include "agent/plugins.h"
#include "agent/state.h"
#include <stdlib.h>
#include <unistd.h>

void control_reply(struct request *r, int rc, json_t *result, const struct err *e)
{
	if (r->reply)
		r->reply(r->arg, rc, result, e);
	json_decref(result);
	json_decref(r->params);
	for (uint32_t i = 0; i < r->npeek; i++)
		rule_destroy(r->peek[i]);
	free(r->peek);
	free(r->method);
	free(r);
}

static json_t *drops(const struct counters *c)
{
	return json_pack("{s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I}", "ring_full", (json_int_t)c->ring_full, "depth", (json_int_t)c->depth,
		"reentrant", (json_int_t)c->reentrant, "abandoned", (json_int_t)c->abandoned, "no_slot", (json_int_t)c->no_slot,
		"corrupt", (json_int_t)c->corrupt, "where", (json_int_t)c->where, "spool_full", (json_int_t)c->spool_full, "too_short",
		(json_int_t)c->too_short);
}

/* Reentrant and no_slot losses happen before a span has a number: they are made as well as dropped. */
static uint64_t made(const struct counters *c) { return c->made + c->reentrant + c->no_slot; }

static void add(struct counters *to, const struct counters *c)
{
	for (size_t i = 0; i < sizeof *c / 8; i++)
		((uint64_t *)to)[i] += ((const uint64_t *)c)[i];
}

static json_t *account(struct agent *a)
{
	struct counters all = a->gone, c;
	uint64_t open = 0, o;
	json_t *list = json_array();
	for (uint32_t i = 0; i < a->nprocs; i++) {
		struct process *p = a->procs[i];
		if (p->map)
			drain_all(p);
	}
	drain_flush(a);
	for (uint32_t i = 0; i < a->nprocs; i++) {
		struct process *p = a->procs[i];
		process_count(p, &c, &o);
		uint64_t gone = o ? hooks_gone(p) : 0;
		gone = gone < o ? gone : o;
		c.abandoned += gone; /* the library will say so when the thread next comes by */
		o -= gone;
		add(&all, &c);
		open += o;
		json_array_append_new(list, json_pack("{s:i,s:s,s:I,s:I,s:I,s:o,s:I}", "pid", (int)p->pid, "service", p->service, "made", (json_int_t)made(&c),
			"passed", (json_int_t)c.passed, "open", (json_int_t)o, "dropped", drops(&c), "unsampled", (json_int_t)c.unsampled));
	}
	return json_pack("{s:I,s:I,s:I,s:o,s:I,s:I,s:I,s:o}", "made", (json_int_t)made(&all), "passed", (json_int_t)all.passed, "open", (json_int_t)open,
		"dropped", drops(&all), "unsampled", (json_int_t)all.unsampled, "events_passed", (json_int_t)all.events_passed, "carried",
		(json_int_t)all.carried, "processes", list);
}

/* The instrumentors that know functions of it. */
static json_t *plugins_of(const struct process *p)
{
	json_t *list = json_array(), *v;
	for (uint32_t s = 0; s < p->nsites; s++) {
		bool listed = !p->sites[s].plugin;
		struct str name = strtab_get(&p->strs, p->sites[s].component);
		size_t i;
		json_array_foreach(list, i, v)
			listed |= str_eq(name, str_of(json_string_value(v)));
		if (!listed)
			json_array_append_new(list, json_stringn(name.p, name.n) ?: json_string("?"));
	}
	return list;
}

static json_t *ps(struct agent *a)
{
	json_t *list = json_array();
	for (uint32_t i = 0; i < a->nprocs; i++) {
		struct process *p = a->procs[i];
		struct counters c;
		uint64_t open;
		int threads = 0, on = 0;
		process_count(p, &c, &open);
		for (uint32_t t = 0; p->map && t < process_slots(p); t++)
			threads += process_slot(p, t)->state == KW_THREAD_LIVE;
		for (uint32_t s = 0; s < p->nsites; s++)
			on += p->sites[s].patched && p->sites[s].kind != KW_SITE_END && !p->sites[s].watched;
		int modules = 0;
		for (uint32_t m = 0; m < p->reg.max_modules; m++)
			modules += p->modules[m].known && !p->modules[m].gone;
		json_t *o = json_pack("{s:i,s:s,s:s,s:s,s:s,s:I,s:I,s:s,s:i,s:i,s:i,s:i,s:i,s:I,s:I,s:I,s:o,s:f,s:b,s:s,s:O}", "pid", (int)p->pid, "service",
			p->service, "exe", p->exe, "cmdline", p->cmdline, "user", p->user, "started_unix_nano", (json_int_t)p->started_ns, "attached_unix_nano",
			(json_int_t)p->attached_ns, "state", p->exited_ns ? "exited" : "live", "threads", threads, "rings", threads, "modules", modules,
			"sites", (int)p->sites_alive, "on", on, "made", (json_int_t)made(&c), "passed", (json_int_t)c.passed, "open", (json_int_t)open,
			"dropped", drops(&c), "overhead_percent", p->overhead, "lease", (int)p->lease, "patch", p->denied ? "denied" : "mem", "resource", p->resource);
		if (o) {
			json_object_set_new(o, "instance", json_real(p->instance));
			json_object_set_new(o, "generation", json_integer(a->generation));
		}
		if (o && p->fns) {
			json_object_set_new(o, "attached", json_boolean(p->fns->live));
			json_object_set_new(o, "longest_pause_nano", json_integer(p->fns->longest_pause_ns));
			json_object_set_new(o, "last_pause_nano", json_integer(p->fns->last_pause_ns));
			json_object_set_new(o, "plugins", plugins_of(p));
		}
		if (o && p->abnormal)
			json_object_set(o, "last_in_flight", p->last_in_flight);
		if (o)
			json_array_append_new(list, o);
	}
	return json_pack("{s:o,s:{s:f},s:I,s:s}", "processes", list, "agent", "cpu_percent", a->cpu_percent, "generation", (json_int_t)a->generation, "host", a->host);
}

/* The logical sites that a query matches: one per id and service. */
struct found { uint64_t key; struct process *p; uint32_t i, instances; json_t *pids; struct process *last; };
struct finding { struct found *f; uint32_t n, cap, *slots, nslots, instances, processes; };

/* of: only where that rule holds; NULL: everywhere */
static void find(struct agent *a, const struct traceql *q, const struct rule *of, struct finding *r)
{
	*r = (struct finding){ .nslots = 1024 };
	r->slots = base_calloc(r->nslots, sizeof *r->slots);
	for (uint32_t k = 0; k < a->nprocs; k++) {
		struct process *p = a->procs[k];
		uint32_t before = r->instances;
		uint64_t seed = hash_bytes(p->service, strlen(p->service), 0);
		for (uint32_t i = 0; p->map && (!of || rule_covers(of, p)) && i < p->nsites; i++) {
			struct site *s = &p->sites[i];
			if (!s->id || s->kind == KW_SITE_END || p->modules[s->module].gone || (q && !site_match(p, i, q)))
				continue;
			r->instances++;
			uint64_t key = kw_mix(s->id ^ seed);
			if (r->n * 2 >= r->nslots) {
				free(r->slots);
				r->slots = base_calloc(r->nslots *= 2, sizeof *r->slots);
				for (uint32_t j = 0; j < r->n; j++) {
					uint32_t h = (uint32_t)r->f[j].key & (r->nslots - 1);
					while (r->slots[h])
						h = (h + 1) & (r->nslots - 1);
					r->slots[h] = j + 1;
				}
			}
			uint32_t h = (uint32_t)key & (r->nslots - 1);
			while (r->slots[h] && r->f[r->slots[h] - 1].key != key)
				h = (h + 1) & (r->nslots - 1);
			if (!r->slots[h]) {
				if (r->n == r->cap)
					r->f = base_realloc(r->f, (r->cap = r->cap ? 2 * r->cap : 256) * sizeof *r->f);
				r->f[r->n] = (struct found){ .key = key, .p = p, .i = i, .pids = json_array() };
				r->slots[h] = ++r->n;
			}
			struct found *f = &r->f[r->slots[h] - 1];
			f->instances++;
			if (f->last != p)
				json_array_append_new(f->pids, json_integer(p->pid)), f->last = p;
			if (s->level > f->p->sites[f->i].level)
				f->p = p, f->i = i;
		}
		r->processes += r->instances > before;
	}
}

static void finding_finish(struct finding *r)
{
	for (uint32_t i = 0; i < r->n; i++)
		json_decref(r->f[i].pids);
	free(r->f);
	free(r->slots);
}

static json_t *found_json(struct found *f)
{
	json_t *o = site_json(f->p, f->i);
	json_object_set(o, "pids", f->pids);
	json_object_set_new(o, "instances", json_integer(f->instances));
	return o;
}

static int selector(const json_t *params, struct traceql **ret_q, struct err *e)
{
	const char *s = json_string_value(json_object_get(params, "selector"));
	*ret_q = NULL;
	if (!s)
		return 0;
	int rc = traceql_parse_selector(str_of(s), ret_q, e);
	return rc < 0 ? rc : traceql_check_site(*ret_q, e);
}

static json_t *ls(struct agent *a, const struct traceql *q, const json_t *params)
{
	struct finding r;
	find(a, q, NULL, &r);
	json_t *limit = json_object_get(params, "limit"), *list = json_array();
	uint64_t off = (uint64_t)json_integer_value(json_object_get(params, "offset")), max = limit ? (uint64_t)json_integer_value(limit) : 1000;
	for (uint64_t i = off; i < r.n && i - off < max; i++)
		json_array_append_new(list, found_json(&r.f[i]));
	json_t *o = json_pack("{s:o,s:i,s:i,s:i}", "sites", list, "matched", (int)r.n, "instances", (int)r.instances, "processes", (int)r.processes);
	finding_finish(&r);
	return o;
}

struct rate { double per_s, besides; int64_t window, age; bool known; };

/* Calls per second of all that matches: measured where it is on, remembered where it was. */
static struct rate rate_of(struct agent *a, const struct rule *of)
{
	const int64_t stale = 3600 * SECOND;
	struct rate r = { .known = true };
	int64_t now = clock_mono(), window, age;
	for (uint32_t k = 0; k < a->nprocs; k++) {
		struct process *p = a->procs[k];
		if (!p->map || !rule_covers(of, p))
			continue;
		cells_read(p);
		for (uint32_t i = 0; i < p->nsites; i++) {
			struct site *s = &p->sites[i];
			if (!s->id || s->kind == KW_SITE_END || p->modules[s->module].gone || !site_match(p, i, of->site))
				continue;
			double per_s = cost_rate(s, now, &window, &age);
			r.known &= per_s >= 0 && age < stale;
			r.per_s += per_s > 0 ? per_s : 0;
			r.besides += per_s > 0 ? per_s * (cost_expected(p, s, KW_SPAN, 1, per_s) - cost_ns(a, KW_SPAN, 1)) : 0;
			r.age = age > r.age ? age : r.age;
			r.window = window && (!r.window || window < r.window) ? window : r.window;
		}
	}
	return r;
}

static json_t *predict(const struct agent *a, const struct rule *t, const struct rate *r)
{
	char basis[64];
	cost_basis(r->known, r->age, r->window, basis);
	return cost_json(a, t->level, t->keep, r->per_s > 0 ? r->besides / r->per_s : 0, r->known, r->known ? r->per_s : 0, basis);
}

static json_t *plan(struct agent *a, struct rule *t)
{
	struct finding r;
	find(a, t->site, t, &r);
	json_t *services = json_array(), *sample = json_array();
	for (uint32_t i = 0; i < r.n; i++) {
		size_t k;
		json_t *v;
		bool have = false;
		json_array_foreach(services, k, v)
			have |= !strcmp(json_string_value(v), r.f[i].p->service);
		if (!have)
			json_array_append_new(services, json_string(r.f[i].p->service));
		if (i < 10)
			json_array_append_new(sample, found_json(&r.f[i]));
	}
	json_t *o = json_pack("{s:i,s:i,s:i,s:o,s:o,s:s}", "sites", (int)r.n, "instances", (int)r.instances, "processes", (int)r.processes, "services", services,
		"sample", sample, "id", t->id);
	finding_finish(&r);
	return o;
}

/* What did not go as asked, in words; and what stopping processes for it took. */
static void warnings(struct agent *a, bool too_many, json_t *o)
{
	int64_t pause = 0;
	struct buf b = { 0 };
	for (uint32_t i = 0; i < a->nprocs; i++) {
		struct process *p = a->procs[i];
		if (!p->map)
			continue;
		if (p->denied && !b.n)
			buf_printf(&b, "some processes refuse to be switched (patch: denied in ps)");
		if (p->fns && p->fns->live && p->fns->problem[0])
			buf_printf(&b, "%sprocess %d: %s", b.n ? "; " : "", (int)p->pid, p->fns->problem);
		if (p->fns && p->fns->live && p->fns->condition_problem[0])
			buf_printf(&b, "%sprocess %d: %s", b.n ? "; " : "", (int)p->pid, p->fns->condition_problem);
		if (p->request_problem)
			buf_printf(&b, "%sprocess %d: %s", b.n ? "; " : "", (int)p->pid, p->request_problem);
		if (p->fns && p->fns->last_pause_ns > pause)
			pause = p->fns->last_pause_ns;
	}
	if (too_many)
		buf_printf(&b, "%sit would intercept more functions of a process than it may: narrow the selector, or say max_functions", b.n ? "; " : "");
	if (b.n)
		json_object_set_new(o, "warning", json_stringn((const char *)b.p, b.n));
	if (pause)
		json_object_set_new(o, "pause_nano", json_integer(pause));
	buf_finish(&b);
}

/* The end of `on`: with or without a peek before it. */
static void on_finish(struct agent *a, struct request *r, struct rule *t, json_t *predicted)
{
	bool dry = json_is_true(json_object_get(r->params, "dry_run"));
	json_t *o;
	int64_t ack = 0;
	bool too_many = false;
	char *id = str_dup(str_of(t->id));
	if (dry) {
		o = plan(a, t);
		rule_destroy(t);
	} else {
		json_decref(t->predicted);
		t->predicted = json_incref(predicted);
		rules_add(a, t);
		int64_t start = clock_mono();
		rules_apply(a);
		ack = clock_mono() - start;
		o = plan(a, t);
		too_many = t->too_many;
	}
	json_object_set_new(o, "predicted", predicted);
	json_object_set_new(o, "applied", json_boolean(!dry));
	json_object_set_new(o, "ack_nano", json_integer(ack));
	warnings(a, too_many, o);
	if (!dry)
		agent_emit(a, "toggle", json_pack("{s:s,s:s}", "id", id, "state", "on"));
	free(id);
	control_reply(r, 0, o, NULL);
}

static uint64_t peek_calls(struct agent *a, const struct rule *of, int64_t since)
{
	uint64_t calls = 0;
	for (uint32_t k = 0; k < a->nprocs; k++) {
		struct process *p = a->procs[k];
		if (!p->map || !rule_covers(of, p))
			continue;
		cells_read(p);
		for (uint32_t i = 0; i < p->nsites; i++)
			if (p->sites[i].id && p->sites[i].kind != KW_SITE_END && p->sites[i].stat && site_match(p, i, of->site))
				calls += (uint64_t)stat_calls(&p->sites[i], since / SECOND);
	}
	return calls;
}

#define PEEK_FUNCTIONS_MAX 100 /* to estimate what more would cost, they would have to be intercepted */

static uint32_t functions_matched(struct agent *a, const struct traceql *q)
{
	uint32_t n = 0;
	for (uint32_t k = 0; k < a->nprocs; k++) {
		struct process *p = a->procs[k];
		for (uint32_t i = 0; p->map && i < p->nsites; i++)
			n += p->sites[i].id && p->sites[i].kind == KW_SITE_FUNCTION && !p->modules[p->sites[i].module].gone && site_match(p, i, q);
	}
	return n;
}

/* Counts for a while what the rules would switch on and is off: then what they cost is known. Takes the rules. */
static void peek(struct agent *a, struct request *r, struct rule **rules, uint32_t n, int64_t estimate)
{
	r->peek = rules;
	r->npeek = n;
	r->peek_functions = true;
	for (uint32_t i = 0; i < n; i++)
		r->peek_functions &= functions_matched(a, rules[i]->site) <= PEEK_FUNCTIONS_MAX;
	r->next = a->waiting;
	a->waiting = r;
	rules_dirty(a);
	rules_apply(a);
	int64_t now = clock_mono();
	r->due = now + (estimate < 5 * SECOND ? estimate : 5 * SECOND);
	r->peek_started = now;
	r->peek_calls = peek_calls(a, rules[0], now);
}

static void on(struct agent *a, struct request *r)
{
	struct err e = { 0 };
	struct rule *t;
	int rc = rule_parse(json_object_get(r->params, "toggle"), &t, &e);
	if (rc < 0) {
		control_reply(r, rc, NULL, &e);
		return;
	}
	int64_t estimate = json_integer_value(json_object_get(r->params, "estimate_nano"));
	struct rate rate = rate_of(a, t);
	if (rate.known || estimate <= 0 || functions_matched(a, t->site) > PEEK_FUNCTIONS_MAX) {
		on_finish(a, r, t, predict(a, t, &rate));
		return;
	}
	struct rule **one = base_calloc(1, sizeof *one);
	*one = t;
	peek(a, r, one, 1, estimate);
}

static void change_now(struct agent *a, struct request *r)
{
	struct err e = { 0 };
	json_t *o = NULL;
	int rc = rules_change(a, r->params, &o, &e);
	if (rc >= 0) {
		warnings(a, false, o);
		if (json_object_get(o, "warning"))
			json_array_append(json_object_get(o, "warnings"), json_object_get(o, "warning"));
		if (!json_is_true(json_object_get(r->params, "dry_run")))
			agent_emit(a, "rules", json_pack("{s:I}", "generation", (json_int_t)a->generation));
	}
	control_reply(r, rc, o, rc < 0 ? &e : NULL);
}

#define PEEK_RULES_MAX 64

static void change(struct agent *a, struct request *r)
{
	int64_t estimate = json_integer_value(json_object_get(r->params, "estimate_nano"));
	const json_t *set = json_object_get(r->params, "set");
	size_t n = json_array_size(set);
	if (estimate > 0 && n && n <= PEEK_RULES_MAX) {
		struct rule **rules = base_calloc(n, sizeof *rules);
		uint32_t k = 0;
		struct err ignored;
		for (size_t i = 0; i < n; i++)
			if (rule_parse(json_array_get(set, i), &rules[k], &ignored) >= 0) { /* what is wrong with it, change_now() says */
				if (rules[k]->limit || rate_of(a, rules[k]).known || functions_matched(a, rules[k]->site) > PEEK_FUNCTIONS_MAX)
					rule_destroy(rules[k]);
				else
					k++;
			}
		if (k) {
			peek(a, r, rules, k, estimate);
			return;
		}
		free(rules);
	}
	change_now(a, r);
}

/* What one hit of the dearest site that matches costs on top of its level: a prediction errs on that side. */
static double dearest_besides(struct agent *a, const struct traceql *q)
{
	double most = 0;
	for (uint32_t k = 0; k < a->nprocs; k++)
		for (uint32_t i = 0; a->procs[k]->map && i < a->procs[k]->nsites; i++) {
			const struct site *s = &a->procs[k]->sites[i];
			if (!s->id || s->kind != KW_SITE_FUNCTION || !site_match(a->procs[k], i, q))
				continue;
			double ns = cost_of(a->procs[k], s, KW_SPAN, 1) - cost_ns(a, KW_SPAN, 1);
			most = ns > most ? ns : most;
		}
	return most;
}

void control_waiting(struct agent *a)
{
	for (struct request **at = &a->waiting, *r; (r = *at);) {
		int64_t now = clock_mono();
		if (r->due > now) {
			at = &r->next;
			continue;
		}
		struct rule **rules = r->peek, *t = rules[0];
		uint32_t n = r->npeek;
		uint64_t calls = peek_calls(a, t, r->peek_started) - r->peek_calls;
		double besides = dearest_besides(a, t->site);
		*at = r->next;
		r->peek = NULL;
		r->npeek = 0;
		rules_dirty(a);
		rules_apply(a);
		if (!strcmp(r->method, "change")) {
			for (uint32_t i = 0; i < n; i++)
				rule_destroy(rules[i]);
			change_now(a, r);
		} else {
			char basis[64];
			snprintf(basis, sizeof basis, "measured %lld ms", (long long)((now - r->peek_started) / 1000000));
			on_finish(a, r, t, cost_json(a, t->level, t->keep, besides, true, (double)calls * 1e9 / (double)(now - r->peek_started + 1), basis));
		}
		free(rules);
		at = &a->waiting;
	}
}

static uint32_t patched(struct agent *a)
{
	uint32_t n = 0;
	for (uint32_t k = 0; k < a->nprocs; k++)
		for (uint32_t i = 0; i < a->procs[k]->nsites; i++)
			n += a->procs[k]->sites[i].patched && a->procs[k]->sites[i].kind != KW_SITE_END && !a->procs[k]->sites[i].watched;
	return n;
}

static json_t *off(struct agent *a, const json_t *params)
{
	json_t *removed = json_array(), *v;
	uint32_t before = patched(a);
	size_t i;
	if (json_is_true(json_object_get(params, "all")))
		for (uint32_t k = 0; k < a->nrules; k++)
			if (!a->rules[k]->dead) {
				json_array_append_new(removed, json_string(a->rules[k]->id));
				rules_remove(a, a->rules[k]->id);
			}
	json_array_foreach(json_object_get(params, "ids"), i, v)
		if (json_is_string(v) && rules_remove(a, json_string_value(v)))
			json_array_append(removed, v);
	int64_t start = clock_mono();
	rules_apply(a);
	int64_t ack = clock_mono() - start;
	uint32_t after = patched(a);
	json_array_foreach(removed, i, v)
		agent_emit(a, "toggle", json_pack("{s:O,s:s}", "id", v, "state", "off"));
	return json_pack("{s:o,s:i,s:I}", "removed", removed, "sites", (int)(before > after ? before - after : 0), "ack_nano", (json_int_t)ack);
}

static int sync_all(struct agent *a, const json_t *params, json_t **ret_o, struct err *e)
{
	int rc = rules_replace(a, json_object_get(params, "toggles"), e);
	if (rc < 0)
		return rc;
	int64_t start = clock_mono();
	rules_apply(a);
	*ret_o = json_pack("{s:i,s:I}", "sites", (int)patched(a), "ack_nano", (json_int_t)(clock_mono() - start));
	return 0;
}

static json_t *health(struct agent *a)
{
	int denied = 0, live = 0;
	for (uint32_t i = 0; i < a->nprocs; i++) {
		live += a->procs[i]->map != NULL;
		denied += a->procs[i]->map && a->procs[i]->denied;
	}
	int64_t error = a->clock.error_ns < 0 ? -a->clock.error_ns : a->clock.error_ns;
	return json_pack("{s:{s:b,s:I,s:i,s:s},s:{s:b,s:i,s:i,s:s},s:{s:b,s:i,s:i,s:s},s:{s:b,s:f,s:f,s:s},s:o}",
		"clock", "ok", error < 10000, "value", (json_int_t)error, "limit", 10000, "what", "error of the time mapping at the last fit, ns",
		"permissions", "ok", !denied, "value", denied, "limit", 0, "what", "live processes whose sites cannot be switched",
		"queue", "ok", a->spool_n < SPOOL_MAX / 2, "value", (int)a->spool_n, "limit", SPOOL_MAX, "what", "batches that wait for the sink",
		"agent", "ok", a->cpu_percent < 100, "value", a->cpu_percent, "limit", 100., "what", "CPU of the agent's thread, percent of one core",
		"switches", switches_health(a));
}

static void run(struct agent *a, struct request *r)
{
	struct err e = { 0 };
	struct traceql *q = NULL;
	json_t *o = NULL;
	int rc = 0;
	const char *m = r->method;
	if (!strcmp(m, "on")) {
		on(a, r);
		return;
	}
	if (!strcmp(m, "change")) {
		change(a, r);
		return;
	}
	if (!strcmp(m, "attach")) {
		attach_request(a, r);
		return;
	}
	if ((rc = selector(r->params, &q, &e)) < 0)
		;
	else if (!strcmp(m, "ps"))
		o = ps(a);
	else if (!strcmp(m, "ls"))
		o = ls(a, q, r->params);
	else if (!strcmp(m, "off"))
		o = off(a, r->params);
	else if (!strcmp(m, "sync"))
		rc = sync_all(a, r->params, &o, &e);
	else if (!strcmp(m, "toggles")) {
		o = json_pack("{s:o}", "toggles", rules_json(a));
	} else if (!strcmp(m, "stats")) {
		json_t *w = json_object_get(r->params, "window_nano");
		o = stats_json(a, q, w ? json_integer_value(w) : 10 * SECOND);
	} else if (!strcmp(m, "triggers")) {
		json_t *w = json_object_get(r->params, "window_nano");
		o = triggers_json(a, w ? json_integer_value(w) : 10 * SECOND);
	} else if (!strcmp(m, "inflight")) {
		json_t *limit = json_object_get(r->params, "limit"), *all = json_array();
		for (uint32_t i = 0; i < a->nprocs; i++)
			if (a->procs[i]->map) {
				json_t *l = process_in_flight(a->procs[i], q, limit ? (uint32_t)json_integer_value(limit) : 1000);
				json_array_extend(all, l);
				json_decref(l);
			}
		o = json_pack("{s:o}", "spans", all);
	} else if (!strcmp(m, "overhead")) {
		o = governor_json(a);
	} else if (!strcmp(m, "vitals")) {
		json_t *w = json_object_get(r->params, "window_nano");
		o = vitals_json(a, q, w ? json_integer_value(w) : 10 * SECOND, json_is_true(json_object_get(r->params, "totals")));
	} else if (!strcmp(m, "await"))
		o = json_object(); /* agent_request() has seen to it */
	else if (!strcmp(m, "account"))
		o = account(a);
	else if (!strcmp(m, "detach"))
		rc = detach(a, r->params, &o, &e);
	else if (!strcmp(m, "callees"))
		rc = callees(a, r->params, &o, &e);
	else if (!strcmp(m, "candidates"))
		o = candidates(a);
	else if (!strcmp(m, "plugins"))
		o = json_pack("{s:o}", "plugins", plugins_available());
	else if (!strcmp(m, "health"))
		o = health(a);
	else
		rc = err_set(&e, KLIEG_E_NOT_FOUND, "the agent has no method \"%.60s\"", m);
	if (rc >= 0 && !o)
		rc = err_set(&e, KLIEG_E_INTERNAL, "the reply to %s could not be built", m);
	traceql_destroy(q);
	control_reply(r, rc, rc < 0 ? NULL : o, rc < 0 ? &e : NULL);
}

void control_run(struct agent *a)
{
	for (;;) {
		pthread_mutex_lock(&a->lock);
		struct request *r = a->queue;
		if (r && !(a->queue = r->next))
			a->queue_end = &a->queue;
		pthread_mutex_unlock(&a->lock);
		if (!r)
			return;
		r->next = NULL;
		for (uint32_t i = 0; i < a->nprocs; i++) /* what has been loaded until now counts */
			if (a->procs[i]->map && sites_refresh(a->procs[i])) {
				grants_make(a, a->procs[i]);
				rules_apply(a);
			}
		run(a, r);
	}
}

void agent_request(struct agent *a, const char *method, json_t *params, agent_reply_fn fn, void *arg)
{
	struct request *r = base_calloc(1, sizeof *r);
	*r = (struct request){ .method = str_dup(str_of(method)), .params = params, .reply = fn, .arg = arg };
	pthread_mutex_lock(&a->lock);
	*a->queue_end = r;
	a->queue_end = &r->next;
	pthread_mutex_unlock(&a->lock);
	if (!strcmp(method, "change") || !strcmp(method, "attach") || !strcmp(method, "detach") || !strcmp(method, "await")) /* an operator's; the others come every second */
		priority_await(&a->pace);
	uint64_t one = 1;
	if (write(a->request_fd, &one, sizeof one) < 0)
		log_warn("agent", "the request queue could not be woken");
}

void agent_emit(struct agent *a, const char *type, json_t *more)
{
	json_object_set_new(more, "type", json_string(type));
	if (a->cfg.event)
		a->cfg.event(a->cfg.event_arg, more);
	json_decref(more);
}
