/* YAML text -> tree, by libyaml's events. Aliases, anchors and tags are refused, so nothing ever expands; nesting and size are limited before
 * anything is built. libyaml counts characters, and knows line ends that no editor does: places are computed here, from bytes. */
#include "policy/doc.h"
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <yaml.h>

struct doc_block { struct doc_block *next; size_t n, cap; char bytes[]; };

static void *take(struct doc *d, size_t n)
{
	n = (n + 7) & ~(size_t)7;
	if (!d->blocks || d->blocks->cap - d->blocks->n < n) {
		size_t cap = n > 65536 ? n : 65536;
		struct doc_block *b = base_alloc(sizeof *b + cap);
		*b = (struct doc_block){ .next = d->blocks, .cap = cap };
		d->blocks = b;
	}
	void *p = d->blocks->bytes + d->blocks->n;
	d->blocks->n += n;
	return memset(p, 0, n);
}

/* ---- places and diagnostics ---------------------------------------------------------------------------------------------- */

void doc_place(const struct doc *d, uint32_t at, int *ret_line, int *ret_column)
{
	uint32_t lo = 0, hi = d->nlines;
	while (hi - lo > 1) {
		uint32_t mid = (lo + hi) / 2;
		if (d->lines[mid] <= at)
			lo = mid;
		else
			hi = mid;
	}
	int column = 1;
	for (uint32_t i = d->lines[lo]; i < at && i < d->source.n; i++)
		column += ((unsigned char)d->source.p[i] & 0xc0) != 0x80;
	*ret_line = (int)lo + 1;
	*ret_column = column;
}

static void add(struct doc *d, const char *code, uint32_t from, uint32_t to, const char *hint, const char *fmt, va_list args)
{
	struct policy_diags *l = d->diags;
	if (code[1] == '1')
		l->errors++;
	if (d->full)
		return;
	if ((l->n & (l->n - 1)) == 0)
		l->list = base_realloc(l->list, (l->n ? 2 * l->n : 1) * sizeof *l->list);
	struct policy_diag *g = l->list + l->n++;
	*g = (struct policy_diag){ .error = code[1] == '1' };
	snprintf(g->code, sizeof g->code, "%s", code);
	if (l->n == POLICY_DIAGS_MAX) {
		d->full = true;
		snprintf(g->message, sizeof g->message, "and more, which are not shown");
	} else {
		vsnprintf(g->message, sizeof g->message, fmt, args);
		snprintf(g->hint, sizeof g->hint, "%s", hint ? hint : "");
	}
	err_clean(g->message, true);
	err_clean(g->hint, true);
	int line;
	doc_place(d, from, &g->line, &g->column);
	doc_place(d, to, &line, &g->end_column);
	if (line != g->line || g->end_column <= g->column) {
		/* Of what is longer than a line, its first. */
		g->end_column = g->column;
		for (uint32_t i = from; to > from && i < d->source.n && d->source.p[i] != '\n' && d->source.p[i] != '\r'; i++)
			g->end_column += ((unsigned char)d->source.p[i] & 0xc0) != 0x80;
		g->end_column += g->end_column == g->column;
	}
}

void doc_diag_bytes(struct doc *d, const char *code, uint32_t from, uint32_t to, const char *hint, const char *fmt, ...)
{
	va_list args;
	va_start(args, fmt);
	add(d, code, from, to, hint, fmt, args);
	va_end(args);
}

void doc_diag(struct doc *d, const char *code, const struct doc_node *at, const char *hint, const char *fmt, ...)
{
	va_list args;
	va_start(args, fmt);
	add(d, code, at ? at->at : 0, at ? at->end : 0, hint, fmt, args);
	va_end(args);
}

/* ---- bytes ---------------------------------------------------------------------------------------------------------------- */

static uint32_t decode(const char *p, size_t n, size_t *ret_len)
{
	unsigned char c = (unsigned char)p[0];
	size_t len = c < 0x80 ? 1 : c >= 0xf0 ? 4 : c >= 0xe0 ? 3 : c >= 0xc0 ? 2 : 1;
	if (len > n || !str_utf8_valid((struct str){ p, len })) {
		*ret_len = 0;
		return 0;
	}
	uint32_t v = len == 1 ? c : c & (0x7fu >> len);
	for (size_t i = 1; i < len; i++)
		v = v << 6 | ((unsigned char)p[i] & 63);
	*ret_len = len;
	return v;
}

/* Characters and lines; bytes that are no text are told here, because libyaml tells their place badly. */
static int index_source(struct doc *d)
{
	struct str s = d->source;
	d->lines = base_alloc((s.n + 2) * sizeof *d->lines);
	d->chars = base_alloc((s.n + 2) * sizeof *d->chars);
	d->lines[d->nlines++] = 0;
	bool begins = true;
	for (size_t i = 0, len; i < s.n; i += len) {
		uint32_t c = decode(s.p + i, s.n - i, &len);
		if (!len) {
			doc_diag_bytes(d, "P102", (uint32_t)i, (uint32_t)i + 1, "save the file as UTF-8", "byte 0x%02x is not valid UTF-8", (unsigned char)s.p[i]);
			return KLIEG_E_BAD_DATA;
		}
		if ((c < 0x20 && c != '\t' && c != '\n' && c != '\r') || (c >= 0x7f && c < 0xa0 && c != 0x85) || c == 0xfeff || c == 0xfffe || c == 0xffff) {
			doc_diag_bytes(d, "P102", (uint32_t)i, (uint32_t)(i + len),
				c ? "remove it, or write it as an escape in double quotes: \"\\x01\"" : "is this a text file?",
				"character U+%04X does not stand in a YAML text", c);
			return KLIEG_E_BAD_DATA;
		}
		if (c == '%' && begins && s.n - i > 4 && !memcmp(s.p + i, "%TAG", 4)) { /* libyaml holds each against all before it */
			doc_diag_bytes(d, "P103", (uint32_t)i, (uint32_t)i + 4, "remove the line", "tags (`%%TAG`) are not used in policies");
			return KLIEG_E_BAD_DATA;
		}
		begins = c == '\n' || c == '\r' || c == 0x85 || c == 0x2028 || c == 0x2029; /* to libyaml */
		d->chars[d->nchars++] = (uint32_t)i;
		if (c == '\n')
			d->lines[d->nlines++] = (uint32_t)i + 1;
	}
	d->chars[d->nchars] = (uint32_t)s.n;
	return 0;
}

static uint32_t byte_of(const struct doc *d, const yaml_mark_t *m) { return d->chars[m->index < d->nchars ? m->index : d->nchars]; }

/* ---- events ----------------------------------------------------------------------------------------------------------------- */

static enum doc_style style_of(yaml_scalar_style_t s)
{
	switch (s) {
	case YAML_SINGLE_QUOTED_SCALAR_STYLE: return DOC_SINGLE;
	case YAML_DOUBLE_QUOTED_SCALAR_STYLE: return DOC_DOUBLE;
	case YAML_LITERAL_SCALAR_STYLE: return DOC_LITERAL;
	case YAML_FOLDED_SCALAR_STYLE: return DOC_FOLDED;
	default: return DOC_PLAIN;
	}
}

static void refuse_extras(struct doc *d, const struct doc_node *n, const yaml_char_t *anchor, const yaml_char_t *tag)
{
	if (anchor)
		doc_diag(d, "P103", n, "write the value out where it is used", "anchors (`&%.40s`) and aliases are not used in policies", (const char *)anchor);
	if (tag)
		doc_diag(d, "P103", n, "a value is what it reads as; put a text that looks like something else in quotes",
			"tags (`%.40s`) are not used in policies", (const char *)tag);
}

struct builder { struct doc_node *open[POLICY_NESTING_MAX]; unsigned depth; unsigned documents; };

/* 0: go on; negative: give up on this text. */
static int on_event(struct doc *d, struct builder *b, const yaml_event_t *e)
{
	switch (e->type) {
	case YAML_MAPPING_END_EVENT: case YAML_SEQUENCE_END_EVENT:
		b->depth--;
		if (e->end_mark.index > e->start_mark.index) /* `]` or `}`: a block's end is only noticed later */
			b->open[b->depth]->end = byte_of(d, &e->end_mark);
		return 0;
	case YAML_DOCUMENT_START_EVENT:
		if (b->documents++) {
			uint32_t at = byte_of(d, &e->start_mark);
			doc_diag_bytes(d, "P104", at, at + 3, "put each policy in a file of its own", "a file holds one policy, but a second document begins here");
			return KLIEG_E_BAD_DATA;
		}
		return 0;
	case YAML_SCALAR_EVENT: case YAML_MAPPING_START_EVENT: case YAML_SEQUENCE_START_EVENT: case YAML_ALIAS_EVENT:
		break;
	default:
		return 0;
	}
	struct doc_node *n = take(d, sizeof *n);
	n->at = byte_of(d, &e->start_mark);
	n->end = byte_of(d, &e->end_mark);
	if (++d->nodes > POLICY_NODES_MAX) {
		doc_diag(d, "P105", n, NULL, "more than %u values", POLICY_NODES_MAX);
		return KLIEG_E_LIMIT;
	}
	if (e->type == YAML_SCALAR_EVENT) {
		char *text = take(d, e->data.scalar.length + 1);
		memcpy(text, e->data.scalar.value, e->data.scalar.length);
		n->kind = DOC_TEXT;
		n->text = (struct str){ text, e->data.scalar.length };
		n->style = style_of(e->data.scalar.style);
		refuse_extras(d, n, e->data.scalar.anchor, e->data.scalar.tag);
	} else if (e->type == YAML_ALIAS_EVENT) {
		n->kind = DOC_BAD;
		doc_diag(d, "P103", n, "write the value out where it is used", "anchors and aliases (`*%.40s`) are not used in policies",
			(const char *)e->data.alias.anchor);
	} else {
		bool map = e->type == YAML_MAPPING_START_EVENT;
		n->kind = map ? DOC_MAP : DOC_LIST;
		refuse_extras(d, n, map ? e->data.mapping_start.anchor : e->data.sequence_start.anchor,
			map ? e->data.mapping_start.tag : e->data.sequence_start.tag);
	}
	struct doc_node *parent = b->depth ? b->open[b->depth - 1] : NULL;
	if (!parent) {
		d->root = n;
	} else {
		if (parent->last)
			parent->last->next = n;
		else
			parent->first = n;
		parent->last = n;
		parent->n++;
	}
	if (n->kind == DOC_MAP || n->kind == DOC_LIST) {
		if (b->depth == POLICY_NESTING_MAX) {
			doc_diag(d, "P105", n, NULL, "nested deeper than %u levels", POLICY_NESTING_MAX);
			return KLIEG_E_LIMIT;
		}
		b->open[b->depth++] = n;
	}
	return 0;
}

static void tell_syntax(struct doc *d, const yaml_parser_t *p)
{
	if (p->error == YAML_MEMORY_ERROR)
		abort();
	uint32_t at = byte_of(d, &p->problem_mark);
	if (p->error == YAML_READER_ERROR)
		at = (uint32_t)(p->problem_offset < d->source.n ? p->problem_offset : d->source.n);
	const char *problem = p->problem ? p->problem : "not readable", *hint = "";
	char text[200];
	if (strstr(problem, "found character that cannot start any token"))
		hint = at < d->source.n && d->source.p[at] == '\t' ? "indent with spaces, not with tabs" : "put the value in single quotes";
	else if (strstr(problem, "tab"))
		hint = "indent with spaces, not with tabs";
	else if (strstr(problem, "mapping values are not allowed"))
		hint = "is the line above indented as it should be? A text with `: ` in it goes into single quotes";
	else if (strstr(problem, "expected key") || strstr(problem, "could not find expected ':'"))
		hint = "write `key: value`, with a space after the colon";
	else if (strstr(problem, "did not find expected <block end>") || strstr(problem, "did not find expected '-' indicator"))
		hint = "the keys of one object stand in one column, and so do the `-` of one list; a text that begins with a quote ends with it";
	else if (strstr(problem, "did not find expected ',' or"))
		hint = "a TraceQL filter goes into single quotes: match: '{ name = \"x\" }'";
	else if (strstr(problem, "unexpected end of stream"))
		hint = "is a quote not closed?";
	if (p->context && p->context_mark.line != p->problem_mark.line)
		snprintf(text, sizeof text, "%s, %s that began on line %zu", problem, p->context, p->context_mark.line + 1);
	else if (p->context)
		snprintf(text, sizeof text, "%s, %s", problem, p->context);
	else
		snprintf(text, sizeof text, "%s", problem);
	doc_diag_bytes(d, "P101", at, at, hint, "not readable as YAML: %s", text);
}

int doc_parse(struct doc *d, struct str yaml, struct policy_diags *diags)
{
	*d = (struct doc){ .diags = diags, .source = yaml };
	*diags = (struct policy_diags){ 0 };
	if (yaml.n >= 3 && !memcmp(yaml.p, "\xef\xbb\xbf", 3)) /* a byte order mark is no text */
		d->source = (struct str){ yaml.p + 3, yaml.n - 3 };
	if (yaml.n > POLICY_TEXT_MAX) {
		d->source.n = 0;
		index_source(d);
		doc_diag(d, "P100", NULL, "split it into several policies", "the policy is longer than 1 MiB");
		return KLIEG_E_LIMIT;
	}
	int rc = index_source(d);
	if (rc < 0)
		return rc;
	yaml_parser_t p;
	if (!yaml_parser_initialize(&p))
		abort();
	yaml_parser_set_encoding(&p, YAML_UTF8_ENCODING);
	yaml_parser_set_input_string(&p, (const unsigned char *)(d->source.n ? d->source.p : ""), d->source.n);
	struct builder b = { .depth = 0 };
	for (bool more = true; more && rc >= 0;) {
		yaml_event_t e;
		if (!yaml_parser_parse(&p, &e)) {
			tell_syntax(d, &p);
			rc = KLIEG_E_BAD_DATA;
			break;
		}
		more = e.type != YAML_STREAM_END_EVENT;
		rc = on_event(d, &b, &e);
		yaml_event_delete(&e);
	}
	yaml_parser_delete(&p);
	if (rc >= 0 && (!d->root || doc_empty(d->root))) {
		doc_diag(d, "P104", NULL, "write `policy: NAME` and `rules:`; docs/policy.md has examples", "the document is empty");
		rc = KLIEG_E_BAD_DATA;
	}
	return rc;
}

void doc_finish(struct doc *d)
{
	for (struct doc_block *b = d->blocks, *next; b; b = next) {
		next = b->next;
		free(b);
	}
	free(d->lines);
	free(d->chars);
	d->blocks = NULL;
	d->lines = d->chars = NULL;
}
