/* klieg illuminate: a toggle of level deep, and the call graph that comes of it, once a second. The toggle lives no longer than this command, and no longer than
 * its TTL if the command is killed. What is on costs something: the agent switches callees off again that have little time, and the dearest ones while all are over
 * --max-cost. If the busiest process is over it all the same, fewer traces are kept; if that does not help, everything goes off. */
#include "cli/cli.h"
#include "base/clock.h"
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define SECOND 1000000000ll
#define LEAST_KEEP .01
#define LOST_AT_ONCE 1000  /* spans a second: what is lost falsifies, what is not kept does not */
#define SETTLE (10 * SECOND)  /* that what was made may take to the store */

struct light {
	struct cli c;
	const char *func, *service, *pid, *root, *where, *pause;
	int64_t depth, ttl_ns, for_ns;
	double keep, max_cost, min_share;
	bool once, text;
	char *sel, *root_sel;      /* what to switch on; where the graph begins */
	char id[2][64];            /* of the toggles: FUNC's, --root's */
	json_t *plan;
	int64_t from, started;     /* wall, monotonic */
	int64_t ended;             /* monotonic, 0 = still on */
	double cost;               /* percent of one core, the busiest process; negative: not known yet */
	unsigned over;             /* for so many seconds */
	bool gone;                 /* none of the processes lives */
	int64_t dropped;           /* callees that the agent has switched off again */
	int64_t lost, lost_before, lost_last; /* spans that did not fit the rings: now, when it began, at the last look */
	size_t held, held_most;    /* functions that the budget holds back now; the most there were */
	double held_limit, wished; /* percent of a core: what they are held under; what all of them would cost */
	size_t callees, unseen;    /* direct ones; of these not hookable */
	int64_t indirect;          /* places that call through a pointer */
	json_t *observed, *observing; /* names of what is called so, as seen; how it was looked for. NULL = not known yet */
	char note[200];
};

/* NAME, or a glob, as a filter with the service and process asked for; what is a selector already stays one. */
static char *selector(const struct light *l, const char *func)
{
	struct buf b = { 0 };
	if (strchr(func, '{') || (!l->service && !l->pid))
		buf_add_str(&b, func);
	else {
		const char *colon = strchr(func, ':'), *name = colon && !l->service ? colon + 1 : func;
		buf_add_str(&b, "{ ");
		if (l->service || name != func) {
			const char *s = l->service ? l->service : func;
			cli_glob(&b, "resource.service.name", s, l->service ? strlen(s) : (size_t)(colon - func));
			buf_add_str(&b, " && ");
		}
		if (l->pid)
			buf_printf(&b, "resource.process.pid = %s && ", l->pid);
		cli_glob(&b, "name", name, strlen(name));
		buf_add_str(&b, " }");
	}
	buf_byte(&b, 0);
	return (char *)b.p;
}

static int toggle(struct light *l, const char *sel, const char *level, bool dry, json_t **ret_doc, struct err *e)
{
	struct passwd *pw = getpwuid(geteuid());
	char ttl[40];
	snprintf(ttl, sizeof(ttl), "%lldms", (long long)(l->ttl_ns / 1000000 ? l->ttl_ns / 1000000 : 1));
	json_t *body = json_pack("{s:s, s:s, s:f, s:s, s:s, s:s, s:s?, s:b, s:s}", "selector", sel, "level", level, "keep", l->keep, "ttl", ttl,
		"reason", "klieg illuminate", "owner", pw ? pw->pw_name : "unknown", "where", l->where, "dry_run", dry, "estimate", "250ms");
	if (!body)
		return err_set(e, KLIEG_E_BAD_DATA, "an argument is not valid UTF-8");
	if (!strcmp(level, "deep"))
		json_object_set_new(body, "depth", json_integer(l->depth));
	json_object_set_new(body, "max_cost", json_real(l->max_cost));
	if (l->pause)
		json_object_set_new(body, "max_pause", json_string(l->pause));
	int rc = client_json(&l->c.client, "POST", "/api/v1/toggles", body, ret_doc, NULL, e);
	json_decref(body);
	return rc;
}

/* Both off; whatever happened, nothing is left on. */
static int lights_off(struct light *l, struct err *e)
{
	int rc = 0;
	for (int i = 0; i < 2; i++)
		if (l->id[i][0]) {
			json_t *doc = NULL;
			struct err one = { 0 };
			if (cli_toggle_off(&l->c.client, l->id[i], &doc, &one) < 0 && one.code != KLIEG_E_NOT_FOUND) {
				rc = one.code;
				*e = one;
			}
			json_decref(doc);
			l->id[i][0] = 0;
		}
	return rc;
}

static bool concerned(const struct light *l, const json_t *process)
{
	size_t i;
	const json_t *s;
	char pid[24];
	snprintf(pid, sizeof(pid), "%lld", (long long)jint(process, "pid"));
	if (l->pid && strcmp(pid, l->pid))
		return false;
	json_array_foreach(json_object_get(l->plan, "services"), i, s)
		if (!strcmp(json_string_value(s) ?: "", jstr(process, "service")))
			return true;
	return false;
}

/* The cost of the busiest process, and what was lost in all. */
static bool measure(struct light *l)
{
	json_t *doc = NULL, *p;
	struct err ignored;
	size_t i;
	if (client_json(&l->c.client, "GET", "/api/v1/processes", NULL, &doc, NULL, &ignored) < 0)
		return false;
	l->cost = 0;
	l->lost = 0;
	l->gone = true;
	json_array_foreach(json_object_get(doc, "processes"), i, p)
		if (concerned(l, p)) {
			l->cost = jnum(p, "overhead_percent") > l->cost ? jnum(p, "overhead_percent") : l->cost;
			l->lost += jint(json_object_get(p, "dropped"), "ring_full");
			l->gone &= strcmp(jstr(p, "state"), "live") != 0;
		}
	json_decref(doc);
	return true;
}

/* What the governor holds back in the processes concerned: of that the graph shows only the moments when it was on. */
static void look_at_budget(struct light *l)
{
	json_t *doc = NULL, *p, *s;
	struct err ignored;
	size_t i, k;
	if (client_json(&l->c.client, "GET", "/api/v1/overhead", NULL, &doc, NULL, &ignored) < 0)
		return;
	l->held = 0;
	json_array_foreach(json_object_get(doc, "processes"), i, p) {
		double core = jnum(p, "cpu_percent") / 100, cost = jnum(p, "measured_percent");
		if (!concerned(l, p) || !json_array_size(json_object_get(p, "shed")))
			continue;
		json_array_foreach(json_object_get(p, "shed"), k, s)
			cost += jnum(s, "percent");
		l->held += k;
		l->held_limit = jnum(p, "limit_percent") * core;
		l->wished = cost * core > l->wished ? cost * core : l->wished;
	}
	l->held_most = l->held > l->held_most ? l->held : l->held_most;
	json_decref(doc);
}

/* How many records were made, of spans that have ended, and how many of them have come to where they stay: stored, or counted as dropped. */
static bool account(const struct light *l, json_int_t *ret_made, json_int_t *ret_done)
{
	json_t *doc = NULL, *n;
	struct err ignored;
	const char *reason;
	if (client_json(&l->c.client, "GET", "/api/v1/doctor", NULL, &doc, NULL, &ignored) < 0)
		return false;
	json_t *a = json_object_get(doc, "account");
	*ret_made = jint(a, "made") - jint(a, "open");
	*ret_done = jint(a, "stored");
	json_object_foreach(json_object_get(a, "dropped"), reason, n)
		*ret_done += json_integer_value(n);
	json_decref(doc);
	return true;
}

/* What is in the rings comes to the store after it was made: on a host without spare CPU long after, since we yield. All that was made by now. */
static void await_stored(const struct light *l)
{
	json_int_t made, done, later;
	int64_t until = clock_mono() + SETTLE;
	struct fmt f;
	bool told = false;
	if (!account(l, &made, &done))
		return;
	while (done < made && clock_mono() < until && !cli_held_until(clock_mono() + SECOND / 20) && account(l, &later, &done))
		if (!told && l->text && until - clock_mono() < SETTLE - SECOND) {
			fprintf(stderr, "waiting for %s spans that are on their way to the store; the host has little time for them\n", fmt_count(&f, (double)(made - done)));
			told = true;
		}
}

/* What the function calls, by its code. */
static void look_at_callees(struct light *l, const json_t *site)
{
	struct buf t = { 0 };
	struct err ignored;
	json_t *doc = NULL, *x;
	size_t i;
	if (strcmp(jstr(site, "kind"), "function"))
		return;
	buf_printf(&t, "/api/v1/processes/%lld/callees", (long long)json_integer_value(json_array_get(json_object_get(site, "pids"), 0)));
	client_query(&t, "function", jstr(site, "name"));
	buf_byte(&t, 0);
	if (client_json(&l->c.client, "GET", (char *)t.p, NULL, &doc, NULL, &ignored) >= 0) {
		json_array_foreach(json_object_get(doc, "callees"), i, x)
			l->unseen += !json_is_true(json_object_get(x, "hookable"));
		l->callees = i;
		l->indirect = jint(doc, "indirect");
	}
	json_decref(doc);
	buf_finish(&t);
}

static int lights_on(struct light *l, struct err *e)
{
	const char *level = l->depth ? "deep" : "span";
	json_t *doc = NULL;
	struct fmt f;
	int rc = toggle(l, l->sel, level, true, &doc, e);
	if (rc < 0)
		return rc;
	const json_t *plan = json_object_get(doc, "plan"), *predicted = json_object_get(plan, "predicted");
	look_at_callees(l, json_array_get(json_object_get(plan, "sample"), 0));
	/* The prediction is for the function alone. If each of its callees were called once: */
	double cost = jnum(predicted, "cpu_percent") * (double)(1 + (l->callees - l->unseen) * (size_t)l->depth);
	if (json_is_true(json_object_get(predicted, "known")) && cost > l->max_cost) {
		l->keep = l->keep * l->max_cost / cost < LEAST_KEEP ? LEAST_KEEP : l->keep * l->max_cost / cost;
		snprintf(l->note, sizeof(l->note), "all traces might cost %s of a core, so %.2g %% of them are kept and stand for the others",
			fmt_percent(&f, cost), l->keep * 100);
	}
	json_decref(doc);
	doc = NULL;
	if ((rc = toggle(l, l->sel, level, false, &doc, e)) < 0)
		return rc;
	snprintf(l->id[0], sizeof(l->id[0]), "%s", jstr(json_object_get(doc, "toggle"), "id"));
	l->plan = json_incref(json_object_get(doc, "plan"));
	json_decref(doc);
	doc = NULL;
	if (l->root) {
		if ((rc = toggle(l, l->root_sel, "span", false, &doc, e)) < 0)
			return rc;
		snprintf(l->id[1], sizeof(l->id[1]), "%s", jstr(json_object_get(doc, "toggle"), "id"));
		json_decref(doc);
	}
	measure(l);
	l->lost_before = l->lost_last = l->lost;
	l->from = clock_wall();
	l->started = clock_mono();
	return 0;
}

/* Marks the callees that no code names. */
static void mark_observed(const struct light *l, json_t *node, unsigned depth)
{
	json_t *c;
	const json_t *x;
	size_t i, k;
	json_array_foreach(json_object_get(node, depth ? "children" : "roots"), i, c) {
		json_array_foreach(l->observed, k, x)
			if (depth && !strcmp(jstr(c, "name"), json_string_value(x) ?: ""))
				json_object_set_new(c, "observed", json_true());
		if (depth < 64)
			mark_observed(l, c, depth + 1);
	}
}

static int graph(struct light *l, json_t **ret_doc, struct err *e)
{
	struct buf t = { 0 };
	char s[40];
	buf_add_str(&t, "/api/v1/callgraph");
	snprintf(s, sizeof(s), "%lld", (long long)l->from);
	client_query(&t, "from", s);
	client_query(&t, "root", l->root ? l->root_sel : l->sel);
	snprintf(s, sizeof(s), "%.6g", l->min_share);
	client_query(&t, "min_share", s);
	buf_byte(&t, 0);
	int rc = client_json(&l->c.client, "GET", (char *)t.p, NULL, ret_doc, NULL, e);
	buf_finish(&t);
	if (rc >= 0)
		mark_observed(l, *ret_doc, 0);
	return rc;
}

/* Keeps the cost in its bound. */
static int guard(struct light *l, struct err *e)
{
	json_t *doc = NULL, *p, *body;
	struct err ignored;
	struct fmt f, g;
	size_t i;
	look_at_budget(l);
	if (!measure(l))
		return 0;
	l->over = l->cost > l->max_cost ? l->over + 1 : 0;
	doc = NULL;
	if (client_json(&l->c.client, "GET", "/api/v1/toggles", NULL, &doc, NULL, &ignored) >= 0)
		json_array_foreach(json_object_get(doc, "toggles"), i, p)
			if (!strcmp(jstr(p, "id"), l->id[0])) {
				l->dropped = jint(p, "dropped");
				json_decref(l->observed);
				json_decref(l->observing);
				l->observed = json_incref(json_object_get(p, "observed"));
				l->observing = json_incref(json_object_get(p, "observing"));
			}
	json_decref(doc);
	bool losing = l->lost - l->lost_last > LOST_AT_ONCE;
	l->lost_last = l->lost;
	if (losing ? l->keep <= LEAST_KEEP : l->over < 5) /* the agent comes first: it drops callees */
		return 0;
	l->over = 0;
	if (l->keep <= LEAST_KEEP) {
		err_set(e, KLIEG_E_GUARDRAIL, "it costs %s of a core, more than --max-cost %s, even when only %s of the traces are kept; everything is off again",
			fmt_percent(&f, l->cost), fmt_percent(&g, l->max_cost), "1 %");
		return err_hint(e, "a smaller --depth, a function that is called less, or a higher --max-cost");
	}
	l->keep = l->keep / 4 < LEAST_KEEP ? LEAST_KEEP : l->keep / 4;
	for (int k = 0; k < 2; k++)
		if (l->id[k][0]) {
			struct buf t = { 0 };
			buf_printf(&t, "/api/v1/toggles/%s", l->id[k]);
			buf_byte(&t, 0);
			body = json_pack("{s:f}", "keep", l->keep);
			doc = NULL;
			char why[100] = "spans were lost";
			if (!losing)
				snprintf(why, sizeof(why), "cost %s, over %s", fmt_percent(&f, l->cost), fmt_percent(&g, l->max_cost));
			if (client_json(&l->c.client, "PATCH", (char *)t.p, body, &doc, NULL, &ignored) >= 0)
				snprintf(l->note, sizeof(l->note), "%s: only %.3g %% of the traces are kept from now on, and stand for the others", why, l->keep * 100);
			json_decref(doc);
			json_decref(body);
			buf_finish(&t);
		}
	return 0;
}

#define NAMES_SHOWN 6

/* What is called through pointers: what was seen of it, and why there may be more. */
static void through_pointers(const struct light *l, struct buf *b)
{
	struct fmt f, g;
	size_t n = json_array_size(l->observed), i;
	const json_t *x;
	int64_t functions = jint(l->observing, "functions"), windows = jint(l->observing, "windows"), hot = jint(l->observing, "too_hot"),
		blind = jint(l->observing, "not_hookable");
	json_array_foreach(l->observed, i, x)
		if (i < NAMES_SHOWN)
			buf_printf(b, "%s%s", i ? ", " : ": ", json_string_value(x));
	if (n)
		buf_printf(b, "%s, as observed", n > NAMES_SHOWN ? " and more" : "");
	if (!l->depth)
		return;
	if (!windows) {
		buf_add_str(b, n ? "" : functions ? ": being observed" : ": not observed, so what is called there is seen only if it is on");
		return;
	}
	buf_printf(b, "%s; %s function%s of the attached files that could be called there were watched, %s time%s for up to 300 ms: what was not called then is missing",
		n ? "" : ": none seen",
		fmt_count(&f, (double)functions), cli_plural(functions), fmt_count(&g, (double)windows), cli_plural(windows));
	if (hot)
		buf_printf(b, "; %lld called too often to be watched", (long long)hot);
	if (blind)
		buf_printf(b, "; %lld that cannot be intercepted", (long long)blind);
}

/* What the function calls that will not be in the tree. */
static void unseen(const struct light *l, struct buf *b)
{
	if (!l->callees && !l->indirect && !json_array_size(l->observed))
		return;
	buf_printf(b, "calls %zu function%s directly", l->callees, cli_plural((int64_t)l->callees));
	if (l->unseen)
		buf_printf(b, ", of which %zu cannot be seen (klieg ls says why)", l->unseen);
	if (l->indirect)
		buf_printf(b, "; through pointers in %lld place%s", (long long)l->indirect, cli_plural(l->indirect));
	else if (json_array_size(l->observed))
		buf_add_str(b, "; through pointers"); /* at its end, or further down */
	if (l->indirect || json_array_size(l->observed))
		through_pointers(l, b);
	buf_byte(b, '\n');
}

static void show(struct light *l, json_t *doc, bool redraw)
{
	struct buf b = { 0 };
	struct fmt f, g, h;
	struct winsize w = { 0 };
	ioctl(1, TIOCGWINSZ, &w);
	int64_t now = l->ended ? l->ended : clock_mono(), left = l->started + l->ttl_ns - now;
	double seconds = (double)(now - l->started) / 1e9;
	if (redraw)
		buf_add_str(&b, "\033[H\033[J");
	buf_printf(&b, "%s%s%s  depth %lld, %s", style("bold"), l->func, style("off"), (long long)l->depth, fmt_duration(&f, seconds * 1e9));
	if (!l->ended)
		buf_printf(&b, " so far, %s left", fmt_duration(&g, left > 0 ? (double)left : 0));
	if (l->cost >= 0)
		buf_printf(&b, ", cost %s of a core", fmt_percent(&h, l->cost));
	if (l->keep < 1)
		buf_printf(&b, ", keeping %.3g %% of traces", l->keep * 100);
	buf_byte(&b, '\n');
	if (l->note[0])
		buf_printf(&b, "%s%s%s\n", style("yellow"), l->note, style("off"));
	if (l->dropped)
		buf_printf(&b, "%lld callee%s with little time, or too dear, off again\n", (long long)l->dropped, cli_plural(l->dropped));
	if (l->lost > l->lost_before)
		buf_printf(&b, "%s%s spans did not fit the rings: the numbers are too low%s\n", style("yellow"),
			fmt_count(&f, (double)(l->lost - l->lost_before)), style("off"));
	if (l->held_most)
		buf_printf(&b, "%sthe budget of %s of a core held back %zu of these functions: CALLS and /S are of the moments when they were on; all the time they might cost\n"
			"%s: %s%s\n", style("yellow"), fmt_percent(&f, l->held_limit), l->held_most, fmt_percent(&g, l->wished),
			l->wished < 80 ? "--max-cost allows that" : "more than --max-cost can allow; look at fewer with --depth, or at fewer traces of --root", style("off"));
	if (*jstr(l->plan, "warning"))
		buf_printf(&b, "%swarning: %s%s\n", style("yellow"), jstr(l->plan, "warning"), style("off"));
	unseen(l, &b);
	if (json_array_size(json_object_get(doc, "roots")))
		calltree_text(doc, seconds, l->min_share, w.ws_col ? w.ws_col : 120, cli_ascii, cli_colour, &b);
	else
		buf_printf(&b, "no call has ended yet\n");
	if (!redraw && !l->once)
		buf_byte(&b, '\n');
	fwrite(b.p, 1, b.n, stdout);
	fflush(stdout);
	buf_finish(&b);
}

static void print_json(struct light *l, json_t *doc)
{
	json_t *out = json_pack("{s:s, s:s, s:I, s:f, s:f, s:I, s:I, s:O, s:O?}", "function", l->func, "selector", l->sel, "depth", (json_int_t)l->depth,
		"keep", l->keep, "cost_percent", l->cost > 0 ? l->cost : 0, "lost", (json_int_t)(l->lost - l->lost_before), "held_back",
		(json_int_t)l->held_most, "graph", doc, "plan", l->plan);
	json_object_set_new(out, "observed", l->observed ? json_incref(l->observed) : json_array());
	if (l->observing)
		json_object_set(out, "observing", l->observing);
	output_json(out);
	fflush(stdout);
	json_decref(out);
}

/* Until the time is over, somebody interrupts, or it costs too much. */
static int watch(struct light *l)
{
	struct err e = { 0 };
	json_t *doc = NULL;
	bool redraw = l->text && !l->once && isatty(1), interrupted = false;
	int64_t end = l->started + (l->once && l->for_ns < l->ttl_ns ? l->for_ns : l->ttl_ns), next = l->started;
	int rc = 0, roots = 0;
	if (redraw)
		fputs("\033[?25l\033[2J", stdout);
	while (rc >= 0 && !interrupted && !l->gone && clock_mono() < end) {
		/* A server that is slow to answer is not asked again at once. */
		next = next + SECOND > clock_mono() + SECOND / 2 ? next + SECOND : clock_mono() + SECOND / 2;
		interrupted = cli_held_until(next < end ? next : end);
		if ((rc = guard(l, &e)) < 0 || interrupted || l->once)
			continue;
		if ((rc = graph(l, &doc, &e)) < 0)
			break;
		roots = (int)json_array_size(json_object_get(doc, "roots"));
		if (l->text)
			show(l, doc, redraw);
		else
			print_json(l, doc);
		json_decref(doc);
		doc = NULL;
	}
	if (redraw)
		fputs("\033[?25h", stdout);
	fflush(stdout);
	struct err off = { 0 };
	l->ended = clock_mono();
	look_at_budget(l);
	measure(l);
	if (lights_off(l, &off) < 0 && rc >= 0) {
		rc = off.code;
		e = off;
	}
	if (rc >= 0 && l->once) {
		await_stored(l);
		if ((rc = graph(l, &doc, &e)) >= 0) {
			roots = (int)json_array_size(json_object_get(doc, "roots"));
			if (!l->text)
				print_json(l, doc);
			else if (roots)
				show(l, doc, false);
		}
		json_decref(doc);
	}
	if (rc < 0)
		return cli_fail(&e);
	struct fmt f;
	fprintf(stderr, "off again%s\n", l->gone ? ": the process has ended" : interrupted || l->once ? "" : ": the time is over");
	if (!roots && l->text)
		fprintf(stderr, "no call of %s ended in %s; is it called at all? klieg on '%s' --level count, klieg top\n", l->func,
			fmt_duration(&f, (double)(l->ended - l->started)), l->func);
	return interrupted ? CLI_INTERRUPTED : roots ? CLI_OK : CLI_NONE;
}

static int percent(const char *s, const char *option, double least, double most, double *ret_p, struct err *e)
{
	char *end;
	double v = strtod(s, &end);
	if (end == s || (*end == '%' ? end[1] : *end) || !(v >= least && v <= most)) {
		err_set(e, KLIEG_E_USAGE, "--%s: '%.40s' is not a percentage from %g to %g", option, s, least, most);
		return err_hint(e, "write it like 1%% or 0.5%%");
	}
	*ret_p = v;
	return 0;
}

static int options(struct light *l, struct err *e)
{
	const struct cli_args *a = &l->c.args;
	const char *depth = cli_opt(a, "depth"), *ttl = cli_opt(a, "ttl"), *cost = cli_opt(a, "max-cost"), *keep = cli_opt(a, "keep"), *share = cli_opt(a, "min-share"),
		*hold = cli_opt(a, "for");
	int64_t n;
	int rc = 0;
	l->func = a->pos[0];
	l->service = cli_opt(a, "service");
	l->pid = cli_opt(a, "pid");
	l->root = cli_opt(a, "root");
	l->where = cli_opt(a, "where");
	l->pause = cli_opt(a, "max-pause");
	l->once = cli_flag(a, "once");
	l->keep = l->depth = 1;
	l->max_cost = 1;
	l->cost = -1;
	double pct = 1;
	if ((depth && (rc = cli_parse_count(depth, 0, 16, &l->depth, e)) < 0) || (rc = cli_parse_duration(ttl ? ttl : "1m", &l->ttl_ns, e)) < 0
		|| (cost && (rc = percent(cost, "max-cost", .001, 100, &l->max_cost, e)) < 0) || (keep && (rc = cli_parse_keep(keep, &l->keep, e)) < 0)
		|| (share && (rc = percent(share, "min-share", 0, 100, &pct, e)) < 0) || (rc = cli_parse_duration(hold ? hold : "3s", &l->for_ns, e)) < 0
		|| (l->pid && (rc = cli_parse_count(l->pid, 1, 4194304, &n, e)) < 0) || (l->pause && (rc = cli_parse_duration(l->pause, &n, e)) < 0))
		return rc;
	l->min_share = pct / 100;
	if (l->once && !ttl)
		l->ttl_ns = l->for_ns + 5 * SECOND;  /* outlives the foreground a little, in case that is killed */
	if (hold && !l->once)
		return err_set(e, KLIEG_E_USAGE, "--for goes with --once; how long to stay otherwise is --ttl");
	l->sel = selector(l, l->func);
	if (l->root)
		l->root_sel = selector(l, l->root);
	return 0;
}

int cli_illuminate(int argc, char **argv)
{
	struct light l = { 0 };
	struct err e = { 0 };
	int status, rc;
	if (!cli_open(argc, argv, &l.c, &status))
		return status;
	l.text = l.c.out == OUT_TABLE || l.c.out == OUT_WIDE;
	if ((rc = options(&l, &e)) < 0)
		return e.code == KLIEG_E_USAGE && !*e.hint ? cli_fail_usage(l.c.args.cmd, "%s", e.msg) : cli_fail(&e);
	cli_hold_signals();
	if ((rc = lights_on(&l, &e)) < 0) {
		struct err off;
		lights_off(&l, &off);
		status = cli_fail(&e);
	} else
		status = watch(&l);
	json_decref(l.plan);
	json_decref(l.observed);
	json_decref(l.observing);
	free(l.sel);
	free(l.root_sel);
	return status;
}
