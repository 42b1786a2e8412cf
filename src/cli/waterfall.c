/* One trace as text: the tree of its spans, bars on a common time axis, durations, self time. Pure; takes the document of /traces/{id}.
 * Bad data is shown, not trusted: a span whose parent is missing is a root, a cycle is cut where it closes. */
#include "cli/cli.h"
#include <stdio.h>
#include <stdlib.h>

#define WAIT_SHOWN 1e6 /* ns before the first span; the kernel counts it in milliseconds */

struct node { const json_t *s; int64_t start, end, self; int first, last, next, parent; bool seen; };
struct fall { struct node *n; size_t count; int64_t t0, t1; int columns, name_width; bool verbose, ascii, colour; struct buf *out; };

static int by_start(const void *a, const void *b)
{
	const struct node *x = a, *y = b;
	return x->start != y->start ? (x->start < y->start ? -1 : 1) : (x->end > y->end ? -1 : x->end < y->end);
}

struct id_at { const char *id; int at; };
static int by_id(const void *a, const void *b) { return strcmp(((const struct id_at *)a)->id, ((const struct id_at *)b)->id); }

static void add_attributes(struct fall *f, const json_t *o, const char *lead, int indent)
{
	const char *k;
	json_t *v;
	json_object_foreach((json_t *)o, k, v) {
		char *x = json_is_string(v) ? strdup(json_string_value(v)) : json_dumps(v, JSON_ENCODE_ANY | JSON_COMPACT);
		buf_printf(f->out, "%*s%s", indent, "", lead);
		fmt_safe(f->out, k, 0);
		buf_add_str(f->out, " = ");
		fmt_safe(f->out, x ? x : "", f->columns > 60 ? f->columns - 30 : 40);
		buf_byte(f->out, '\n');
		free(x);
	}
}

/* What no bar shows: it was there already, and nobody looked. */
static void add_wait(struct fall *f, const json_t *span, int indent)
{
	const json_t *v = json_object_get(json_object_get(span, "attributes"), "klieg.queue_nano");
	double ns = json_is_string(v) ? strtod(json_string_value(v), NULL) : json_number_value(v);
	const char *kind = jstr(json_object_get(span, "attributes"), "klieg.queue_kind");
	struct fmt d;
	if (ns >= WAIT_SHOWN)
		buf_printf(f->out, "%*s%swaited %s before %s%s\n", indent, "", f->colour ? "\033[33m" : "", fmt_duration(&d, ns),
			strcmp(kind, "pool") ? "it was read" : "a thread took it", f->colour ? "\033[0m" : "");
}

static void draw(struct fall *f, int at, struct buf *prefix, bool last, bool root)
{
	struct node *n = &f->n[at];
	struct buf left = { 0 };
	struct fmt dur, self;
	bool error = !strcmp(jstr(n->s, "status"), "error");
	if (n->seen)
		return;
	n->seen = true;
	buf_add(&left, prefix->p, prefix->n);
	if (!root)
		buf_add_str(&left, f->ascii ? (last ? "`-" : "|-") : last ? "└╴" : "├╴");
	struct buf name = { 0 };
	buf_printf(&name, "%s:%s%s", jstr(n->s, "service"), jstr(n->s, "name"), error ? " !" : "");
	buf_byte(&name, 0);
	int used = fmt_width((char *)left.p, left.n), room = f->name_width - used;
	fmt_safe(&left, (char *)name.p, room > 8 ? room : 8);
	used = fmt_width((char *)left.p, left.n);
	buf_printf(f->out, "%s", error && f->colour ? "\033[31m" : "");
	buf_add(f->out, left.p, left.n);
	buf_printf(f->out, "%s%*s ", error && f->colour ? "\033[0m" : "", used < f->name_width ? f->name_width - used : 0, "");
	int bar = f->columns - f->name_width - 23;
	if (bar < 10)
		bar = 10;
	double span = f->t1 > f->t0 ? (double)(f->t1 - f->t0) : 1;
	int a = (int)((n->start - f->t0) / span * bar), z = (int)((n->end - f->t0) / span * bar + 0.5);
	a = a < 0 ? 0 : a > bar - 1 ? bar - 1 : a;
	z = z <= a ? a + 1 : z > bar ? bar : z;
	buf_add_str(f->out, f->ascii ? "|" : "▕");
	buf_printf(f->out, "%*s%s", a, "", f->colour ? (error ? "\033[31m" : "\033[36m") : "");
	for (int i = a; i < z; i++)
		buf_add_str(f->out, f->ascii ? "=" : "█");
	buf_printf(f->out, "%s%*s%s %8s %8s\n", f->colour ? "\033[0m" : "", bar - z, "", f->ascii ? "|" : "▏", fmt_duration(&dur, n->end - n->start), fmt_duration(&self, n->self));
	buf_finish(&left);
	buf_finish(&name);
	int indent = (int)fmt_width((char *)prefix->p, prefix->n) + 4;
	add_wait(f, n->s, indent);
	if (f->verbose) {
		size_t i;
		json_t *x;
		buf_printf(f->out, "%*sspan %s%s%s\n", indent, "", jstr(n->s, "span_id"), *jstr(n->s, "status_message") ? ", " : "", jstr(n->s, "status_message"));
		add_attributes(f, json_object_get(n->s, "attributes"), "", indent);
		json_array_foreach(json_object_get(n->s, "events"), i, x) {
			buf_printf(f->out, "%*sevent +%s ", indent, "", fmt_duration(&dur, jint(x, "time_unix_nano") - n->start));
			fmt_safe(f->out, jstr(x, "name"), 0);
			buf_byte(f->out, '\n');
			add_attributes(f, json_object_get(x, "attributes"), "  ", indent);
		}
		json_array_foreach(json_object_get(n->s, "links"), i, x)
			buf_printf(f->out, "%*slink to trace %s span %s\n", indent, "", jstr(x, "trace_id"), jstr(x, "span_id"));
	}
	size_t keep = prefix->n;
	if (!root)
		buf_add_str(prefix, last ? "  " : f->ascii ? "| " : "│ ");
	for (int c = n->first; c >= 0 && prefix->n < 4096; c = f->n[c].next)
		draw(f, c, prefix, f->n[c].next < 0, false);
	prefix->n = keep;
}

void waterfall_text(const json_t *trace, int columns, bool verbose, bool ascii, bool colour, struct buf *out)
{
	const json_t *spans = json_object_get(trace, "spans"), *s;
	size_t n = json_array_size(spans), i;
	struct fall f = { .count = n, .columns = columns < 60 ? 60 : columns, .verbose = verbose, .ascii = ascii, .colour = colour, .out = out };
	struct fmt d;
	if (!n) {
		buf_add_str(out, "the trace has no spans\n");
		return;
	}
	f.n = base_calloc(n, sizeof(*f.n));
	struct id_at *ids = base_calloc(n, sizeof(*ids));
	json_array_foreach(spans, i, s) {
		int64_t start = jint(s, "start_unix_nano"), dur = jint(s, "duration_nano");
		f.n[i] = (struct node){ .s = s, .start = start, .end = start + (dur > 0 ? dur : 0), .first = -1, .last = -1, .next = -1, .parent = -1 };
	}
	qsort(f.n, n, sizeof(*f.n), by_start);
	f.t0 = f.n[0].start;
	for (i = 0; i < n; i++) {
		ids[i] = (struct id_at){ jstr(f.n[i].s, "span_id"), (int)i };
		f.t1 = f.n[i].end > f.t1 ? f.n[i].end : f.t1;
	}
	qsort(ids, n, sizeof(*ids), by_id);
	for (i = 0; i < n; i++) {
		struct id_at key = { jstr(f.n[i].s, "parent_span_id"), 0 }, *p = *key.id ? bsearch(&key, ids, n, sizeof(*ids), by_id) : NULL;
		if (!p || p->at == (int)i)
			continue;
		struct node *up = &f.n[p->at];
		f.n[i].parent = p->at;
		if (up->last >= 0)
			f.n[up->last].next = (int)i;
		else
			up->first = (int)i;
		up->last = (int)i;
	}
	for (i = 0; i < n; i++) {  /* self = own time not covered by the union of the children; those are in order of start */
		int64_t covered = 0, at = f.n[i].start;
		for (int c = f.n[i].first; c >= 0; c = f.n[c].next) {
			int64_t a = f.n[c].start > at ? f.n[c].start : at, z = f.n[c].end < f.n[i].end ? f.n[c].end : f.n[i].end;
			if (z > a)
				covered += z - a, at = z;
		}
		f.n[i].self = f.n[i].end - f.n[i].start - covered;
	}
	f.name_width = f.columns * 2 / 5 > 60 ? 60 : f.columns * 2 / 5;
	buf_printf(out, "trace %s  %zu spans  %s\n", jstr(trace, "trace_id"), n, fmt_duration(&d, f.t1 - f.t0));
	buf_printf(out, "%*s%*s %8s %8s\n", f.name_width, "", f.columns - f.name_width - 20, "", "DURATION", "SELF");
	struct buf prefix = { 0 };
	for (i = 0; i < n; i++)
		if (f.n[i].parent < 0)
			draw(&f, (int)i, &prefix, true, true);
	for (i = 0; i < n; i++)  /* what is left hangs in a cycle */
		draw(&f, (int)i, &prefix, true, true);
	buf_finish(&prefix);
	free(ids);
	free(f.n);
}
