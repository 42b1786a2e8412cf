/* The call graph of GET /callgraph as a tree: numbers to the left, functions to the right, so that deep calls do not push the numbers around. Pure. */
#include "cli/cli.h"
#include <stdio.h>

enum { NUMBERS = 67, BAR = 8 };

struct tree { struct buf *out, prefix; double seconds, root_ns; int columns; bool ascii, colour; };

static const char *paint(const struct tree *t, const char *code) { return t->colour ? code : ""; }

static void bar(struct tree *t, double share)
{
	int n = (int)(share * BAR + .5);
	n = n < 0 ? 0 : n > BAR ? BAR : n;
	buf_add_str(t->out, paint(t, share >= .5 ? "\033[31m" : share >= .2 ? "\033[33m" : "\033[36m"));
	for (int i = 0; i < BAR; i++)
		buf_add_str(t->out, i >= n ? " " : t->ascii ? "#" : "█");
	buf_add_str(t->out, paint(t, "\033[0m"));
}

static void other(struct tree *t, const json_t *node)
{
	const json_t *o = json_object_get(node, "other");
	struct fmt f, g;
	if (jnum(o, "calls") <= 0)
		return;
	buf_printf(t->out, "%*s%s", NUMBERS, "", paint(t, "\033[2m"));
	buf_add(t->out, t->prefix.p, t->prefix.n);
	buf_printf(t->out, "%s%lld more: %s call%s, %s%s\n", t->ascii ? "`- " : "└─ ", (long long)jint(o, "callees"), fmt_count(&f, jnum(o, "calls")),
		cli_plural(jint(o, "calls")), fmt_duration(&g, jnum(o, "total_nano")), paint(t, "\033[0m"));
}

static void draw(struct tree *t, const json_t *node, const char *service, bool root, bool last, unsigned depth)
{
	struct fmt calls, rate, total, self, p50, p99;
	double share = jnum(node, "share");
	const json_t *children = json_object_get(node, "children"), *c;
	bool more = jnum(json_object_get(node, "other"), "calls") > 0;
	buf_printf(t->out, "%7s %7s %8s %8s %8s %8s %5.1f ", fmt_count(&calls, jnum(node, "calls")), fmt_count(&rate, jnum(node, "calls") / t->seconds),
		fmt_duration(&total, jnum(node, "total_nano")), fmt_duration(&self, jnum(node, "self_nano")), fmt_duration(&p50, jnum(node, "p50_nano")),
		fmt_duration(&p99, jnum(node, "p99_nano")), share * 100);
	bar(t, share);
	buf_byte(t->out, ' ');
	buf_add(t->out, t->prefix.p, t->prefix.n);
	if (!root)
		buf_add_str(t->out, last ? (t->ascii ? "`- " : "└─ ") : t->ascii ? "|- " : "├─ ");
	int used = NUMBERS + (int)fmt_width((char *)t->prefix.p, t->prefix.n) + (root ? 0 : 3), room = t->columns - used;
	buf_add_str(t->out, paint(t, root ? "\033[1m" : ""));
	if (strcmp(jstr(node, "service"), service)) {   /* a call that went to another service */
		struct buf b = { 0 };
		buf_printf(&b, "%s:%s", jstr(node, "service"), jstr(node, "name"));
		buf_byte(&b, 0);
		fmt_safe(t->out, (char *)b.p, room > 16 ? (size_t)room : 16);
		buf_finish(&b);
	} else
		fmt_safe(t->out, jstr(node, "name"), room > 16 ? (size_t)room : 16);
	buf_add_str(t->out, paint(t, root ? "\033[0m" : ""));
	if (json_is_true(json_object_get(node, "observed")))
		buf_printf(t->out, "  %s(observed)%s", paint(t, "\033[2m"), paint(t, "\033[0m"));
	if (jnum(node, "errors") > 0)
		buf_printf(t->out, "  %s%s error%s%s", paint(t, "\033[31m"), fmt_count(&calls, jnum(node, "errors")), cli_plural(jint(node, "errors")),
			paint(t, "\033[0m"));
	buf_byte(t->out, '\n');
	size_t keep = t->prefix.n, i, n = json_array_size(children);
	if (!root)
		buf_add_str(&t->prefix, last ? "   " : t->ascii ? "|  " : "│  ");
	json_array_foreach(children, i, c)
		if (depth < 64)                     /* the server's own bound */
			draw(t, c, jstr(node, "service"), false, i + 1 == n && !more, depth + 1);
	if (more)
		other(t, node);
	t->prefix.n = keep;
}

void calltree_text(const json_t *graph, double seconds, double min_share, int columns, bool ascii, bool colour, struct buf *out)
{
	const json_t *roots = json_object_get(graph, "roots"), *r;
	struct tree t = { .out = out, .seconds = seconds > .001 ? seconds : .001, .columns = columns < 80 ? 80 : columns, .ascii = ascii, .colour = colour };
	size_t i;
	buf_printf(out, "%s%7s %7s %8s %8s %8s %8s %-14s FUNCTION%s\n", paint(&t, "\033[2m"), "CALLS", "/S", "TOTAL", "SELF", "P50", "P99", "% OF CALLER",
		paint(&t, "\033[0m"));
	json_array_foreach(roots, i, r)
		draw(&t, r, i ? jstr(json_array_get(roots, i - 1), "service") : "", true, true, 0);
	other(&t, graph);
	if (jint(graph, "cut"))
		buf_printf(out, "%s%lld callee%s with less than %.3g %% of the caller's time counted, not shown; --min-share 0 shows all%s\n", paint(&t, "\033[2m"),
			(long long)jint(graph, "cut"), cli_plural(jint(graph, "cut")), min_share * 100, paint(&t, "\033[0m"));
	if (json_is_true(json_object_get(graph, "bounded")))
		buf_add_str(out, "more paths than can be shown: the rest is counted at the callers\n");
	if (jnum(graph, "kept") < 1)
		buf_printf(out, "more spans than fit: computed from %.3g %% of the traces\n", jnum(graph, "kept") * 100);
	buf_finish(&t.prefix);
}
