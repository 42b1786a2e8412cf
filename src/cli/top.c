/* `klieg top`. Two threads: the reader asks the server every interval and puts the answer into `shared`; the drawer owns the terminal and takes the newest
 * answer from there, so that a slow server never freezes a key press. Changes (t, r, T, o) are made by the drawer itself: they are what the person waits for. */
#include "cli/cli.h"
#include "base/clock.h"
#include <errno.h>
#include <locale.h>
#include <ncursesw/curses.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static const struct column top_columns[] = { { "SERVICE", "service", COL_TEXT, .max = 16 }, { "NAME", "name", COL_TEXT, .max = 36 }, { "LEVEL", "level", COL_TEXT },
	{ "CALLS/S", "calls_per_s", COL_RATE }, { "ERR/S", "errors_per_s", COL_RATE }, { "P50", "p50_nano", COL_NS }, { "P99", "p99_nano", COL_NS },
	{ "TOTAL", "total_nano", COL_NS }, { "SELF", "self_nano", COL_NS }, { "COST", "overhead_percent", COL_PERCENT }, { "CALLS", "calls", COL_COUNT, true },
	{ "P95", "p95_nano", COL_NS, true }, { "MAX", "max_nano", COL_NS, true }, { "ID", "id", COL_TEXT, true }, { 0 } };

static const char *const sorts[] = { "total", "calls", "errors", "p50", "p99", "cost", "name", NULL };
static const char *const sort_keys[] = { "total_nano", "calls_per_s", "errors_per_s", "p50_nano", "p99_nano", "overhead_percent", "name" };
static int sort_now;

static int by_sort(const void *a, const void *b)
{
	const json_t *x = *(json_t *const *)a, *y = *(json_t *const *)b;
	if (sort_now != 6) {
		double p = jnum(x, sort_keys[sort_now]), q = jnum(y, sort_keys[sort_now]);
		if (p != q)
			return p < q ? 1 : -1;
	}
	int c = strcmp(jstr(x, "name"), jstr(y, "name"));
	return c ? c : strcmp(jstr(x, "service"), jstr(y, "service"));
}

static void sort_rows(json_t *rows, bool tree)
{
	size_t n = json_array_size(rows), i;
	json_t **v = base_calloc(n + 1, sizeof(*v));
	for (i = 0; i < n; i++)
		v[i] = json_incref(json_array_get(rows, i));
	qsort(v, n, sizeof(*v), by_sort);
	json_array_clear(rows);
	if (!tree) {
		for (i = 0; i < n; i++)
			json_array_append_new(rows, v[i]);
	} else {  /* services in the order of their first row, each with its rows beneath */
		for (i = 0; i < n; i++)
			for (size_t j = i; v[i] && j < n; j++)
				if (v[j] && (j == i || !strcmp(jstr(v[i], "service"), jstr(v[j], "service")))) {
					json_array_append(rows, v[j]);
					if (j != i) {
						json_decref(v[j]);
						v[j] = NULL;
					}
				}
		for (i = 0; i < n; i++)
			json_decref(v[i]);
	}
	free(v);
}

static json_t *look(struct cli *c, const char *sel, struct err *e)
{
	struct buf t = { 0 };
	json_t *doc = NULL;
	buf_add_str(&t, "/api/v1/sites/stats");
	if (sel && *sel)
		client_query(&t, "sel", sel);
	buf_byte(&t, 0);
	client_json(&c->client, "GET", (char *)t.p, NULL, &doc, NULL, e);
	buf_finish(&t);
	return doc;
}

static void wait_interval(int64_t ns)
{
	struct timespec t = { ns / 1000000000, ns % 1000000000 };
	nanosleep(&t, NULL);
}

static int batch(struct cli *c, const char *sel, int64_t iterations, int64_t interval)
{
	struct err e = { 0 };
	for (int64_t i = 0; i < iterations && !cli_interrupted; i++) {
		if (i)
			wait_interval(interval);
		json_t *doc = look(c, sel, &e);
		if (!doc)
			return cli_fail(&e);
		json_t *rows = json_object_get(doc, "sites");
		sort_rows(rows, false);
		if (i && c->out == OUT_TABLE)
			putchar('\n');
		output_rows(c->out, doc, "sites", top_columns);
		if (!json_array_size(rows) && c->out == OUT_TABLE)
			fprintf(stderr, "no site is being hit; klieg on '*' --level count\n");
		fflush(stdout);
		json_decref(doc);
	}
	return cli_interrupted ? CLI_INTERRUPTED : CLI_OK;
}

/* What reader and drawer share. */
struct shared {
	pthread_mutex_t lock;
	pthread_cond_t wake;
	json_t *stats, *toggles, *status, *alerts;
	struct err err;
	bool failed, stop;
	unsigned version;
	struct cli *cli;
	char sel[400];
	int64_t interval;
};

static void *reader(void *arg)
{
	struct shared *s = arg;
	pthread_mutex_lock(&s->lock);
	while (!s->stop) {
		char sel[400];
		snprintf(sel, sizeof(sel), "%s", s->sel);
		pthread_mutex_unlock(&s->lock);
		struct err e = { 0 }, ignored;
		json_t *stats = look(s->cli, sel, &e), *toggles = NULL, *status = NULL, *alerts = NULL;
		if (stats) {
			client_json(&s->cli->client, "GET", "/api/v1/toggles", NULL, &toggles, NULL, &ignored);
			client_json(&s->cli->client, "GET", "/api/v1/status", NULL, &status, NULL, &ignored);
			client_json(&s->cli->client, "GET", "/api/v1/alerts", NULL, &alerts, NULL, &ignored);
		}
		pthread_mutex_lock(&s->lock);
		s->failed = !stats;
		s->err = e;
		if (stats) {
			json_decref(s->stats);
			json_decref(s->toggles);
			json_decref(s->status);
			json_decref(s->alerts);
			s->stats = stats, s->toggles = toggles, s->status = status, s->alerts = alerts;
		}
		s->version++;
		struct timespec until;
		clock_gettime(CLOCK_REALTIME, &until);
		int64_t t = until.tv_nsec + s->interval;
		until.tv_sec += t / 1000000000;
		until.tv_nsec = t % 1000000000;
		if (!s->stop)
			pthread_cond_timedwait(&s->wake, &s->lock, &until);
	}
	pthread_mutex_unlock(&s->lock);
	return NULL;
}

#define SPARK 12
struct history { char key[160]; double v[SPARK]; struct history *next; };

struct screen {
	struct shared *s;
	struct cli *c;
	json_t *stats, *toggles, *status, *alerts;
	struct history *histories;
	unsigned version;
	int at, first;
	bool tree, help;
	char find[80], filter[80], note[440], keep[16], ttl[16];
};

/* The latency of a row over the last looks; one step per answer. */
static struct history *history_of(struct screen *w, const json_t *row)
{
	char key[160];
	struct history *h;
	snprintf(key, sizeof(key), "%s:%s:%s", jstr(row, "service"), jstr(row, "name"), jstr(row, "id"));
	for (h = w->histories; h && strcmp(h->key, key); h = h->next)
		;
	if (!h) {
		h = base_calloc(1, sizeof(*h));
		snprintf(h->key, sizeof(h->key), "%s", key);
		h->next = w->histories;
		w->histories = h;
	}
	return h;
}

static void take(struct screen *w)
{
	pthread_mutex_lock(&w->s->lock);
	bool fresh = w->version != w->s->version && w->s->stats;
	if (fresh) {
		json_decref(w->stats);
		json_decref(w->toggles);
		json_decref(w->status);
		json_decref(w->alerts);
		w->alerts = json_deep_copy(w->s->alerts);
		w->stats = json_deep_copy(w->s->stats);
		w->toggles = json_deep_copy(w->s->toggles);
		w->status = json_deep_copy(w->s->status);
	}
	if (w->version != w->s->version && w->s->failed)
		snprintf(w->note, sizeof(w->note), "error[%s]: %s", err_name(w->s->err.code), w->s->err.msg);
	w->version = w->s->version;
	pthread_mutex_unlock(&w->s->lock);
	if (!fresh)
		return;
	size_t i;
	json_t *row;
	json_array_foreach(json_object_get(w->stats, "sites"), i, row) {
		struct history *h = history_of(w, row);
		memmove(h->v, h->v + 1, sizeof(h->v) - sizeof(*h->v));
		h->v[SPARK - 1] = jnum(row, "p99_nano");
	}
}

static const json_t *toggle_for(struct screen *w, const json_t *row)
{
	size_t i;
	json_t *t;
	const json_t *best = NULL;
	char exact[200];
	snprintf(exact, sizeof(exact), "%s:%s", jstr(row, "service"), jstr(row, "name"));
	json_array_foreach(json_object_get(w->toggles, "toggles"), i, t) {
		const char *sel = jstr(t, "selector"), *colon = sel + str_service_colon(str_of(sel));
		if (*sel != '{' && str_glob(str_of(sel), str_of(*colon ? exact : jstr(row, "name"))) && (!best || jint(t, "expires_unix_nano") > jint(best, "expires_unix_nano")))
			best = t;
	}
	return best;
}

static json_t *visible(struct screen *w)
{
	json_t *rows = json_array(), *row;
	size_t i;
	json_array_foreach(json_object_get(w->stats, "sites"), i, row) {
		char both[300];
		snprintf(both, sizeof(both), "%s:%s", jstr(row, "service"), jstr(row, "name"));
		if (!w->filter[0] || strcasestr(both, w->filter))
			json_array_append(rows, row);
	}
	sort_rows(rows, w->tree);
	return rows;
}

static void draw(struct screen *w, const json_t *rows)
{
	int h = getmaxy(stdscr), cols = getmaxx(stdscr), n = (int)json_array_size(rows);
	struct fmt f[9];
	double all = 0;
	size_t i;
	json_t *r;
	erase();
	const json_t *counts = json_object_get(w->status, "counts");
	attron(A_BOLD);
	mvprintw(0, 0, "klieg top  %s  %lld processes  %lld sites  %lld on  %s spans/s  overhead %s%s%s", fmt_clock(&f[0], clock_wall()), (long long)jint(counts, "processes"),
		(long long)jint(counts, "sites"), (long long)jint(counts, "on"), fmt_count(&f[1], jnum(w->status, "spans_per_s")), fmt_percent(&f[2], jnum(w->status, "overhead_percent")),
		jnum(w->status, "budget_percent") > 0 ? " of " : "", jnum(w->status, "budget_percent") > 0 ? fmt_percent(&f[3], jnum(w->status, "budget_percent")) : "");
	attroff(A_BOLD);
	const json_t *panic = json_object_get(w->status, "panic"), *next = json_object_get(w->status, "next_expiry_unix_nano");
	int64_t ends = json_is_number(next) ? (int64_t)json_number_value(next) - clock_wall() : 0;
	int64_t trouble = (int64_t)json_array_size(json_object_get(w->alerts, "alerts"));
	int loud = has_colors() && cli_colour ? (int)COLOR_PAIR(1) : (int)A_REVERSE;
	move(1, 0);
	clrtoeol();  /* of a first line that was too long */
	if (json_is_object(panic) || trouble) {
		attron(loud);
		if (json_is_object(panic))
			printw("PANIC: all off");
		else
			printw("%lld alert%s", (long long)trouble, cli_plural(trouble));
		attroff(loud);
		printw("  ");
	}
	if (ends > 0)
		printw("next off in %s  ", fmt_duration(&f[4], ends));
	printw("sort %s%s%s%s  new toggles: keep %s, for %s", sorts[sort_now], w->tree ? ", by service" : "", w->filter[0] ? "  filter " : "", w->filter,
		w->keep, w->ttl);
	attron(A_REVERSE);
	bool narrow = cols < 112;  /* a terminal of 80 columns shows the half that fits, never half a name */
	char head[200];
	if (narrow)
		snprintf(head, sizeof(head), "   %-6s %7s %8s %7s %8s  %-12s %8s  %s", "LEVEL", "LEFT", "CALLS/S", "ERR/S", "P99", "LATENCY", "COST", "NAME");
	else
		snprintf(head, sizeof(head), "   %-6s %6s %7s %8s %7s %8s %8s  %-12s %7s %7s %8s  %s", "LEVEL", "KEEP", "LEFT", "CALLS/S", "ERR/S", "P50", "P99", "LATENCY", "SELF%", "TOTAL%",
			"COST", "NAME");
	mvprintw(2, 0, "%-*.*s", cols, cols, head);
	attroff(A_REVERSE);
	json_array_foreach(rows, i, r)
		all += jnum(r, "total_nano");
	int room = h - 4;
	if (w->at >= n)
		w->at = n ? n - 1 : 0;
	if (w->at < w->first)
		w->first = w->at;
	if (room > 0 && w->at >= w->first + room)
		w->first = w->at - room + 1;
	for (int y = 0; y < room && w->first + y < n; y++) {
		const json_t *row = json_array_get(rows, w->first + y), *t = toggle_for(w, row);
		bool here = w->first + y == w->at, on = strcmp(jstr(row, "level"), "off") && *jstr(row, "level"), bad = jnum(row, "errors_per_s") > 0;
		struct buf spark = { 0 }, name = { 0 };
		fmt_sparkline(&spark, history_of(w, row)->v, SPARK, cli_ascii);
		char full[300];
		snprintf(full, sizeof(full), "%s%s:%s", w->tree ? "  " : "", jstr(row, "service"), jstr(row, "name"));
		fmt_safe(&name, narrow && !w->tree ? jstr(row, "name") : full, narrow ? (cols > 76 ? cols - 68 : 8) : cols - 102);
		int64_t left = t ? jint(t, "expires_unix_nano") - clock_wall() : 0;
		const json_t *self = json_object_get(row, "self_nano");
		int colour = here ? A_REVERSE : bad && has_colors() ? COLOR_PAIR(1) : 0;
		attron(colour);
		if (narrow)
			mvprintw(3 + y, 0, "%c%c %-6.6s %7s %8s %7s %8s  ", here ? '>' : ' ', on ? '*' : ' ', jstr(row, "level"), t && left > 0 ? fmt_duration(&f[1], left) : "",
				fmt_count(&f[2], jnum(row, "calls_per_s")), fmt_count(&f[3], jnum(row, "errors_per_s")), fmt_duration(&f[5], jnum(row, "p99_nano")));
		else
			mvprintw(3 + y, 0, "%c%c %-6.6s %6.6s %7s %8s %7s %8s %8s  ", here ? '>' : ' ', on ? '*' : ' ', jstr(row, "level"), t ? fmt_percent(&f[0], jnum(t, "keep") * 100) : "",
				t && left > 0 ? fmt_duration(&f[1], left) : "", fmt_count(&f[2], jnum(row, "calls_per_s")), fmt_count(&f[3], jnum(row, "errors_per_s")),
			fmt_duration(&f[4], jnum(row, "p50_nano")), fmt_duration(&f[5], jnum(row, "p99_nano")));
		addnstr((char *)spark.p, (int)spark.n);
		if (narrow)
			printw(" %8s  ", fmt_percent(&f[8], jnum(row, "overhead_percent")));
		else
			printw(" %7s %7s %8s  ", json_is_number(self) && all > 0 ? fmt_percent(&f[6], json_number_value(self) / all * 100) : "-",
			all > 0 ? fmt_percent(&f[7], jnum(row, "total_nano") / all * 100) : "-", fmt_percent(&f[8], jnum(row, "overhead_percent")));
		addnstr((char *)name.p, (int)name.n);
		attroff(colour);
		buf_finish(&spark);
		buf_finish(&name);
	}
	if (!n)
		mvprintw(4, 2, w->stats ? "No site is being hit. Press t to count all of them (klieg on '*' --level count)." : "asking the server ...");
	if (w->help) {
		static const char *const lines[] = { "up/down PgUp/PgDn Home/End  move", "/   find               F4  filter by text", "F5  group by service   F6  next sort column",
			"t   switch the site on (asks, with the cost) or off", "r   rate: keep this share of traces", "T   time to live of new toggles", "s   snapshot to a file",
			"y   the equivalent command, for the shell", "o   all off", "q   quit" };
		for (int k = 0; k < 10 && 4 + k < h - 1; k++)
			mvprintw(4 + k, 4, "  %-62s", lines[k]);
	}
	if (w->note[0])
		mvprintw(h - 1, 0, "%.*s", cols - 1, w->note);
	else
		mvprintw(h - 1, 0, "%.*s", cols - 1, "/ find  F4 filter  F5 tree  F6 sort  t toggle  r rate  T ttl  s snapshot  y yank  o all off  ? help  q quit");
	refresh();
}

static bool ask(const char *question, char *ret_text, size_t n)
{
	int h = getmaxy(stdscr);
	size_t at = strlen(ret_text);
	char text[80];
	snprintf(text, sizeof(text), "%s", ret_text);
	for (;;) {
		move(h - 1, 0);
		clrtoeol();
		mvprintw(h - 1, 0, "%s: %s", question, text);
		curs_set(1);
		refresh();
		int k = getch();
		if (k == ERR && cli_interrupted)
			k = 27;
		if (k == ERR || k == KEY_RESIZE)
			continue;
		if (k == '\n' || k == KEY_ENTER || k == 27) {
			curs_set(0);
			if (k == 27)
				return false;
			snprintf(ret_text, n, "%s", text);
			return true;
		}
		if ((k == KEY_BACKSPACE || k == 127 || k == 8) && at)
			text[--at] = 0;
		else if (k >= 32 && k < 127 && at + 1 < sizeof(text) && at + 1 < n)
			text[at++] = (char)k, text[at] = 0;
	}
}

static bool confirm(const char *question)
{
	int h = getmaxy(stdscr), k;
	move(h - 1, 0);
	clrtoeol();
	attron(A_BOLD);
	mvprintw(h - 1, 0, "%.*s", getmaxx(stdscr) - 1, question);
	attroff(A_BOLD);
	refresh();
	while ((k = getch()) == ERR || k == KEY_RESIZE)
		if (cli_interrupted)
			return false;
	return k == 'y' || k == 'Y';
}

static void note_err(struct screen *w, const struct err *e) { snprintf(w->note, sizeof(w->note), "error[%s]: %s", err_name(e->code), e->msg); }

static void toggle(struct screen *w, const json_t *row)
{
	struct err e = { 0 };
	json_t *doc = NULL;
	char sel[300], question[500], target[200];
	struct fmt f, g;
	const json_t *t = row ? toggle_for(w, row) : NULL;
	if (t) {
		snprintf(question, sizeof(question), "Remove toggle %s (%s, %lld sites)? y/n", jstr(t, "id"), jstr(t, "selector"), (long long)jint(t, "sites"));
		if (!confirm(question))
			return;
		snprintf(target, sizeof(target), "/api/v1/toggles/%s", jstr(t, "id"));
		if (client_json(&w->c->client, "DELETE", target, NULL, &doc, NULL, &e) < 0)
			note_err(w, &e);
		else
			snprintf(w->note, sizeof(w->note), "off, acknowledged in %s", fmt_duration(&f, jnum(doc, "ack_nano")));
		json_decref(doc);
		return;
	}
	double keep = 1;
	cli_parse_keep(w->keep, &keep, NULL);
	if (row)
		snprintf(sel, sizeof(sel), "%s:%s", jstr(row, "service"), jstr(row, "name"));
	else
		snprintf(sel, sizeof(sel), "*");
	json_t *body = json_pack("{s:s, s:s, s:f, s:s, s:s, s:s, s:b}", "selector", sel, "level", row ? "span" : "count", "keep", keep, "ttl", w->ttl, "reason", "klieg top",
		"owner", getenv("USER") ?: "klieg top", "dry_run", 1);
	if (client_json(&w->c->client, "POST", "/api/v1/toggles", body, &doc, NULL, &e) < 0) {
		note_err(w, &e);
		json_decref(body);
		return;
	}
	const json_t *plan = json_object_get(doc, "plan"), *cost = json_object_get(plan, "predicted");
	bool known = json_is_true(json_object_get(cost, "known"));
	snprintf(question, sizeof(question), "Switch on %s: %lld sites in %lld processes, cost %s%s%s, for %s? y/n", sel, (long long)jint(plan, "sites"), (long long)jint(plan, "processes"),
		known ? fmt_percent(&f, jnum(cost, "cpu_percent")) : jstr(cost, "basis"), known ? " CPU, spans/s " : "", known ? fmt_count(&g, jnum(cost, "spans_per_s")) : "", w->ttl);
	json_decref(doc);
	doc = NULL;
	if (confirm(question)) {
		json_object_set_new(body, "dry_run", json_false());
		if (client_json(&w->c->client, "POST", "/api/v1/toggles", body, &doc, NULL, &e) < 0)
			note_err(w, &e);
		else
			snprintf(w->note, sizeof(w->note), "on %s, acknowledged in %s", jstr(json_object_get(doc, "toggle"), "id"), fmt_duration(&f, jnum(doc, "ack_nano")));
		json_decref(doc);
	}
	json_decref(body);
}

static void snapshot(struct screen *w, const json_t *rows)
{
	char path[80];
	time_t now = time(NULL);
	struct tm tm;
	localtime_r(&now, &tm);
	strftime(path, sizeof(path), "klieg-top-%Y%m%d-%H%M%S.json", &tm);
	json_t *doc = json_pack("{s:i, s:O, s:O?}", "version", 1, "sites", rows, "toggles", json_object_get(w->toggles, "toggles"));
	if (json_dump_file(doc, path, JSON_INDENT(2)) == 0)
		snprintf(w->note, sizeof(w->note), "written to %s", path);
	else
		snprintf(w->note, sizeof(w->note), "cannot write %s: %s", path, strerror(errno));
	json_decref(doc);
}

static int live(struct cli *c, const char *sel, int64_t interval)
{
	struct shared s = { .lock = PTHREAD_MUTEX_INITIALIZER, .wake = PTHREAD_COND_INITIALIZER, .cli = c, .interval = interval };
	struct screen w = { .s = &s, .c = c, .keep = "100%", .ttl = "5m" };
	struct err e = { 0 };
	pthread_t thread;
	snprintf(s.sel, sizeof(s.sel), "%s", sel ? sel : "");
	json_t *first = look(c, sel, &e);  /* a server that is absent is said on the plain terminal */
	if (!first)
		return cli_fail(&e);
	s.stats = first;
	s.version = 1;
	setlocale(LC_ALL, "");
	cli_catch_interrupt();
	if (!newterm(NULL, stdout, stdin)) {
		err_set(&e, KLIEG_E_UNSUPPORTED, "this terminal (TERM=%s) cannot be drawn on", getenv("TERM") ?: "");
		err_hint(&e, "klieg top --batch");
		return cli_fail(&e);
	}
	pthread_create(&thread, NULL, reader, &s);
	cbreak();
	noecho();
	keypad(stdscr, TRUE);
	curs_set(0);
	set_escdelay(25);
	timeout(100);
	if (cli_colour && has_colors()) {
		start_color();
		use_default_colors();
		init_pair(1, COLOR_RED, -1);
	}
	for (bool run = true; run && !cli_interrupted;) {
		take(&w);
		json_t *rows = visible(&w);
		int n = (int)json_array_size(rows), page = getmaxy(stdscr) - 5;
		draw(&w, rows);
		int k = getch();
		const json_t *row = json_array_get(rows, w.at);
		if (k != ERR && k != KEY_RESIZE)
			w.note[0] = 0, w.help = w.help && k == KEY_RESIZE;
		switch (k) {
		case 'q': run = false; break;
		case KEY_UP: case 'k': w.at -= w.at > 0; break;
		case KEY_DOWN: case 'j': w.at += w.at < n - 1; break;
		case KEY_PPAGE: w.at = w.at > page ? w.at - page : 0; break;
		case KEY_NPAGE: w.at = w.at + page < n ? w.at + page : n ? n - 1 : 0; break;
		case KEY_HOME: w.at = 0; break;
		case KEY_END: w.at = n ? n - 1 : 0; break;
		case '?': w.help = true; break;
		case KEY_F(4): ask("filter", w.filter, sizeof(w.filter)); break;
		case KEY_F(5): w.tree = !w.tree; break;
		case KEY_F(6): sort_now = sorts[sort_now + 1] ? sort_now + 1 : 0; break;
		case '/':
			if (ask("find", w.find, sizeof(w.find)) && w.find[0]) {
				int found = -1;
				for (int i = 1; i <= n && found < 0; i++)
					if (strcasestr(jstr(json_array_get(rows, (w.at + i) % n), "name"), w.find))
						found = (w.at + i) % n;
				if (found >= 0)
					w.at = found;
				else
					snprintf(w.note, sizeof(w.note), "'%s' is not here", w.find);
			}
			break;
		case 't': toggle(&w, row); break;
		case 'r': case 'T': {
			char text[16];
			double keep;
			int64_t ns;
			snprintf(text, sizeof(text), "%s", k == 'r' ? w.keep : w.ttl);
			if (!ask(k == 'r' ? "keep this share of traces" : "new toggles end after", text, sizeof(text)))
				break;
			const json_t *t = row ? toggle_for(&w, row) : NULL;
			if ((k == 'r' ? cli_parse_keep(text, &keep, &e) : cli_parse_duration(text, &ns, &e)) < 0) {
				note_err(&w, &e);
				break;
			}
			snprintf(k == 'r' ? w.keep : w.ttl, sizeof(text), "%s", text);
			if (t) {
				char target[200];
				snprintf(target, sizeof(target), "/api/v1/toggles/%s", jstr(t, "id"));
				json_t *body = k == 'r' ? json_pack("{s:f}", "keep", keep) : json_pack("{s:s}", "ttl", text), *doc = NULL;
				if (client_json(&c->client, "PATCH", target, body, &doc, NULL, &e) < 0)
					note_err(&w, &e);
				else
					snprintf(w.note, sizeof(w.note), "%s: %s %s", jstr(t, "id"), k == 'r' ? "keeps" : "ends in", text);
				json_decref(doc);
				json_decref(body);
			}
			break;
		}
		case 's': snapshot(&w, rows); break;
		case 'y':
			if (row)
				snprintf(w.note, sizeof(w.note), "klieg on '%s:%s' --level span --keep %s --ttl %s", jstr(row, "service"), jstr(row, "name"), w.keep, w.ttl);
			break;
		case 'o':
			if (confirm("All off, in every process? y/n")) {
				json_t *doc = NULL;
				struct fmt f;
				if (client_json(&c->client, "DELETE", "/api/v1/toggles?all=true", NULL, &doc, NULL, &e) < 0)
					note_err(&w, &e);
				else
					snprintf(w.note, sizeof(w.note), "all off, acknowledged in %s; undo: klieg off --undo", fmt_duration(&f, jnum(doc, "ack_nano")));
				json_decref(doc);
			}
			break;
		}
		if (strchr("toTr", k > 0 && k < 128 ? k : 1)) {
			pthread_mutex_lock(&s.lock);
			pthread_cond_signal(&s.wake);
			pthread_mutex_unlock(&s.lock);
		}
		json_decref(rows);
	}
	endwin();
	pthread_mutex_lock(&s.lock);
	s.stop = true;
	pthread_cond_signal(&s.wake);
	pthread_mutex_unlock(&s.lock);
	/* The reader may sit in a slow answer; the process ends and takes it along rather than make the person wait. */
	fflush(stdout);
	_exit(cli_interrupted ? CLI_INTERRUPTED : CLI_OK);
}

int cli_top(int argc, char **argv)
{
	struct cli c;
	struct err e = { 0 };
	int status;
	int64_t n = 1, interval = 1000000000;
	if (!cli_open(argc, argv, &c, &status))
		return status;
	const char *iterations = cli_opt(&c.args, "iterations"), *every = cli_opt(&c.args, "interval"), *sort = cli_opt(&c.args, "sort"), *sel = c.args.npos ? c.args.pos[0] : NULL;
	if ((iterations && cli_parse_count(iterations, 1, INT32_MAX, &n, &e) < 0) || (every && cli_parse_duration(every, &interval, &e) < 0))
		return cli_fail(&e);
	if (sort) {
		for (sort_now = 0; sorts[sort_now] && strcmp(sorts[sort_now], sort); sort_now++)
			;
		if (!sorts[sort_now])
			return cli_fail_usage(c.args.cmd, "cannot sort by '%.30s': total, calls, errors, p50, p99, cost or name", sort);
	}
	if (cli_flag(&c.args, "batch") || iterations || c.out != OUT_TABLE || !isatty(1) || !isatty(0)) {
		cli_catch_interrupt();
		return batch(&c, sel, n, interval);
	}
	return live(&c, sel, interval);
}
