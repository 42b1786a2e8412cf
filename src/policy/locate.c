/* Where in the source a byte of a YAML text comes from: an error at column 12 of a TraceQL query becomes a line and column of the document. The
 * source is walked beside the value that libyaml made of it, by the rules of each style. Pure. */
#include "policy/doc.h"

struct walk { struct str src; size_t s, end; struct str val; size_t v, target; };

static bool blank(char c) { return c == ' ' || c == '\t'; }
static bool line_end(char c) { return c == '\n' || c == '\r'; }
static size_t utf8_len(unsigned char c) { return c >= 0xf0 ? 4 : c >= 0xe0 ? 3 : c >= 0xc0 ? 2 : 1; }
static char at(const struct walk *w, size_t k) { return w->s + k < w->end ? w->src.p[w->s + k] : 0; }

static void skip_line_end(struct walk *w)
{
	if (at(w, 0) == '\r' && at(w, 1) == '\n')
		w->s++;
	w->s++;
}

/* A run of line ends in flow text: one is a space, n of them are n - 1 line ends. Both sides are stepped over; false if the target lies within. */
static bool fold(struct walk *w)
{
	unsigned lines = 0;
	while (w->s < w->end && (blank(at(w, 0)) || line_end(at(w, 0)))) {
		if (line_end(at(w, 0))) {
			lines++;
			skip_line_end(w);
		} else {
			w->s++;
		}
	}
	size_t made = lines > 1 ? lines - 1 : 1;
	if (w->target < w->v + made)
		return false;
	w->v += made;
	return true;
}

static size_t escape_len(const struct walk *w)
{
	char c = at(w, 1);
	return c == 'x' ? 4 : c == 'u' ? 6 : c == 'U' ? 10 : 2;
}

static void flow(struct walk *w, enum doc_style style)
{
	while (w->v < w->target && w->s < w->end) {
		char c = at(w, 0);
		if (style == DOC_DOUBLE && c == '\\' && line_end(at(w, 1))) { /* a continuation makes nothing */
			w->s++;
			skip_line_end(w);
			while (blank(at(w, 0)))
				w->s++;
			continue;
		}
		if (style == DOC_DOUBLE && c == '\\') {
			size_t made = w->v < w->val.n ? utf8_len((unsigned char)w->val.p[w->v]) : 1;
			if (w->v + made > w->target)
				return;
			w->v += made;
			w->s += escape_len(w);
			continue;
		}
		size_t k = 0;
		while (blank(at(w, k)))
			k++;
		if (line_end(at(w, k))) {
			if (!fold(w))
				return;
			continue;
		}
		if (style == DOC_SINGLE && c == '\'' && at(w, 1) == '\'')
			w->s++;
		w->s++;
		w->v++;
	}
}

static size_t spaces(struct str s, size_t from, size_t end)
{
	size_t n = 0;
	while (from + n < end && s.p[from + n] == ' ')
		n++;
	return n;
}

/* The least indentation of a line that is not empty. */
static size_t least_spaces(struct str s, size_t from, size_t end)
{
	size_t least = SIZE_MAX;
	while (from < end) {
		size_t n = spaces(s, from, end);
		if (from + n < end && !line_end(s.p[from + n]) && n < least)
			least = n;
		for (from += n; from < end && !line_end(s.p[from]);)
			from++;
		from++;
	}
	return least;
}

static void skip_spaces(struct walk *w, size_t most)
{
	size_t n = spaces(w->src, w->s, w->end);
	w->s += n < most ? n : most;
}

static void block(struct walk *w, bool folded)
{
	while (w->s < w->end && !line_end(at(w, 0))) /* the `|` and what is with it */
		w->s++;
	if (w->s < w->end)
		skip_line_end(w);
	/* What all lines have in front, less what they all kept of it. */
	size_t have = least_spaces(w->src, w->s, w->end), kept = least_spaces(w->val, 0, w->val.n);
	size_t indent = have < SIZE_MAX && kept < have ? have - kept : 0;
	for (;;) {
		skip_spaces(w, indent);
		while (w->v < w->target && w->s < w->end && !line_end(at(w, 0))) {
			w->s++;
			w->v++;
		}
		if (w->v >= w->target || w->s >= w->end)
			return;
		if (!folded) {
			skip_line_end(w);
			w->v++;
			continue;
		}
		/* Step over this line end and the empty lines after it, and over what became of them: a space, or line ends. */
		unsigned lines = 0;
		size_t s = w->s;
		while (w->s < w->end && line_end(at(w, 0))) {
			skip_line_end(w);
			lines++;
			size_t k = spaces(w->src, w->s, w->end);
			if (k <= indent && w->s + k < w->end && line_end(w->src.p[w->s + k]))
				w->s += k;
		}
		for (; lines && w->v < w->val.n && w->val.p[w->v] == '\n'; lines--)
			if (++w->v > w->target) {
				w->s = s;
				return;
			}
		bool space = lines && w->v < w->val.n && w->val.p[w->v] == ' ';
		if (space && w->v >= w->target) {
			w->s = s;
			return;
		}
		w->v += space;
	}
}

uint32_t doc_locate(const struct doc *d, const struct doc_node *n, size_t at)
{
	struct walk w = { .src = d->source, .s = n->at, .end = n->end < d->source.n ? n->end : d->source.n,
		.val = n->text, .target = at < n->text.n ? at : n->text.n };
	if (n->style == DOC_SINGLE || n->style == DOC_DOUBLE)
		w.s++;
	if (n->style == DOC_LITERAL || n->style == DOC_FOLDED)
		block(&w, n->style == DOC_FOLDED);
	else
		flow(&w, n->style);
	return (uint32_t)(w.s < w.end ? w.s : w.end);
}
