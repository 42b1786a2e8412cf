/* Rows of JSON in the five forms: table, wide, csv, ndjson, json. A command describes its columns once; the text forms are built by pure functions. */
#include "cli/cli.h"
#include "base/clock.h"
#include <stdio.h>
#include <stdlib.h>

bool cli_colour, cli_ascii;

const char *style(const char *name)
{
	static const struct { const char *name, *code; } styles[] = { { "off", "\033[0m" }, { "bold", "\033[1m" }, { "dim", "\033[2m" }, { "red", "\033[31m" },
		{ "green", "\033[32m" }, { "yellow", "\033[33m" }, { "blue", "\033[34m" }, { "magenta", "\033[35m" }, { "cyan", "\033[36m" } };
	for (size_t i = 0; cli_colour && i < sizeof(styles) / sizeof(*styles); i++)
		if (!strcmp(styles[i].name, name))
			return styles[i].code;
	return "";
}

const char *jstr(const json_t *o, const char *key)
{
	const char *s = json_string_value(json_object_get(o, key));
	return s ? s : "";
}
double jnum(const json_t *o, const char *key) { return json_number_value(json_object_get(o, key)); }
int64_t jint(const json_t *o, const char *key)
{
	const json_t *v = json_object_get(o, key);
	return json_is_integer(v) ? json_integer_value(v) : (int64_t)json_number_value(v);  /* a double would lose nanoseconds */
}

static const json_t *get(const json_t *row, const char *key)
{
	const char *dot;
	const json_t *v;
	while (!(v = json_object_get(row, key)) && (dot = strchr(key, '.'))) {
		char *first = str_dup((struct str){ key, (size_t)(dot - key) });
		row = json_object_get(row, first);
		free(first);
		key = dot + 1;
	}
	return v;
}

static bool right(enum column_kind k) { return k != COL_TEXT && k != COL_LIST && k != COL_DROPS && k != COL_BOOL; }

static void raw(const json_t *v, struct buf *b)
{
	if (json_is_string(v))
		buf_add_str(b, json_string_value(v));
	else if (v && !json_is_null(v)) {
		char *s = json_dumps(v, JSON_ENCODE_ANY | JSON_COMPACT | JSON_REAL_PRECISION(15));
		buf_add_str(b, s ? s : "");
		free(s);
	}
}

static void cell(const json_t *row, const struct column *c, bool full, int64_t now, struct buf *b)
{
	const json_t *v = get(row, c->key);
	struct fmt f;
	double n = json_number_value(v);
	if (!v || json_is_null(v)) {
		buf_byte(b, '-');
		return;
	}
	switch (c->kind) {
	case COL_NS: buf_add_str(b, fmt_duration(&f, n)); break;
	case COL_COUNT: buf_add_str(b, fmt_count(&f, n)); break;
	case COL_RATE: buf_add_str(b, fmt_count(&f, n)); break;
	case COL_BYTES: buf_add_str(b, fmt_bytes(&f, n)); break;
	case COL_PERCENT: buf_add_str(b, fmt_percent(&f, n)); break;
	case COL_SHARE: buf_add_str(b, fmt_percent(&f, n * 100)); break;
	case COL_TIME: buf_add_str(b, fmt_clock(&f, (int64_t)n)); break;
	case COL_LEFT: buf_add_str(b, n > now ? fmt_duration(&f, n - now) : "over"); break;
	case COL_BOOL: buf_add_str(b, json_is_true(v) ? "yes" : "NO"); break;
	case COL_LIST: case COL_DROPS: case COL_TEXT: {
		struct buf t = { 0 };
		size_t i;
		json_t *x;
		const char *k;
		if (json_is_array(v)) {
			json_array_foreach(v, i, x) {
				buf_add_str(&t, i ? " " : "");
				if (json_is_object(x))
					buf_add_str(&t, *jstr(x, "text") ? jstr(x, "text") : *jstr(x, "key") ? jstr(x, "key") : jstr(x, "name"));
				else
					raw(x, &t);
			}
		} else if (json_is_object(v)) {
			json_object_foreach((json_t *)v, k, x) {
				if (c->kind == COL_DROPS && json_number_value(x) == 0)
					continue;
				buf_printf(&t, "%s%s=", t.n ? " " : "", k);
				raw(x, &t);
			}
		} else
			raw(v, &t);
		buf_byte(&t, 0);
		fmt_safe(b, t.n > 1 ? (char *)t.p : "-", full ? 0 : c->max);
		buf_finish(&t);
	}
	}
}

void table_text(const json_t *rows, const struct column *cols, bool wide, bool colour, int64_t now, struct buf *b)
{
	unsigned nc = 0, order[64], width[64];
	for (unsigned i = 0; cols[i].title; i++)
		if (wide || !cols[i].wide)
			order[nc] = i, width[nc++] = strlen(cols[i].title);
	size_t nr = json_array_size(rows);
	struct buf *cells = base_calloc(nr * nc + 1, sizeof(*cells));
	for (size_t r = 0; r < nr; r++)
		for (unsigned k = 0; k < nc; k++) {
			struct buf *t = &cells[r * nc + k];
			cell(json_array_get(rows, r), &cols[order[k]], wide, now, t);
			size_t w = fmt_width((char *)t->p, t->n);
			width[k] = w > width[k] ? w : width[k];
		}
	for (size_t r = 0; r <= nr; r++) {
		buf_add_str(b, r == 0 && colour ? "\033[1m" : "");
		for (unsigned k = 0; k < nc; k++) {
			const char *title = cols[order[k]].title;
			struct str t = r ? buf_str(&cells[(r - 1) * nc + k]) : str_of(title);
			int pad = (int)width[k] - (int)fmt_width(t.p, t.n);
			bool is_right = right(cols[order[k]].kind);
			buf_printf(b, "%s%*s", k ? "  " : "", is_right ? pad : 0, "");
			buf_add(b, t.p, t.n);
			if (!is_right && k + 1 < nc)
				buf_printf(b, "%*s", pad, "");
		}
		buf_add_str(b, r == 0 && colour ? "\033[0m\n" : "\n");
	}
	for (size_t i = 0; i < nr * nc; i++)
		buf_finish(&cells[i]);
	free(cells);
}

void table_csv(const json_t *rows, const struct column *cols, struct buf *b)
{
	size_t r;
	const json_t *row;
	for (unsigned i = 0; cols[i].title; i++)
		buf_printf(b, "%s%s", i ? "," : "", cols[i].key);
	buf_add_str(b, "\r\n");
	json_array_foreach(rows, r, row) {
		for (unsigned i = 0; cols[i].title; i++) {
			struct buf t = { 0 };
			raw(get(row, cols[i].key), &t);
			bool quote = false;
			for (size_t j = 0; j < t.n; j++)
				quote |= strchr(",\"\r\n", t.p[j]) != NULL;
			buf_add_str(b, i ? "," : "");
			buf_add_str(b, quote ? "\"" : "");
			for (size_t j = 0; j < t.n; j++) {
				if (t.p[j] == '"')
					buf_byte(b, '"');
				buf_byte(b, t.p[j]);
			}
			buf_add_str(b, quote ? "\"" : "");
			buf_finish(&t);
		}
		buf_add_str(b, "\r\n");
	}
}

int output_of(const struct cli_args *a, enum output *ret_o, struct err *e)
{
	static const char *const names[] = { "table", "wide", "json", "ndjson", "csv" };
	const char *o = cli_opt(a, "output");
	*ret_o = OUT_TABLE;
	if (cli_flag(a, "json"))
		*ret_o = OUT_JSON;
	else if (o) {
		struct cli_nearest near = { .word = o };
		for (int i = 0; i < 5; i++) {
			if (!strcmp(o, names[i])) {
				*ret_o = i;
				return 0;
			}
			cli_nearest_offer(&near, names[i]);
		}
		err_set(e, KLIEG_E_USAGE, "there is no output format '%.30s'", o);
		return near.best ? err_hint(e, "did you mean: -o %s", near.best) : err_hint(e, "table, wide, json, ndjson or csv");
	}
	return 0;
}

void output_json(json_t *doc)
{
	if (!json_object_get(doc, "version"))
		json_object_set_new(doc, "version", json_integer(1));
	json_dumpf(doc, stdout, JSON_COMPACT);
	putchar('\n');
}

void output_rows(enum output o, json_t *doc, const char *key, const struct column *cols)
{
	const json_t *rows = json_object_get(doc, key), *row;
	struct buf b = { 0 };
	size_t i;
	if (o == OUT_JSON)
		output_json(doc);
	else if (o == OUT_NDJSON) {
		json_array_foreach(rows, i, row) {
			json_dumpf(row, stdout, JSON_COMPACT);
			putchar('\n');
		}
	} else if (o == OUT_CSV)
		table_csv(rows, cols, &b);
	else
		table_text(rows, cols, o == OUT_WIDE, cli_colour, clock_wall(), &b);
	fwrite(b.p, 1, b.n, stdout);
	buf_finish(&b);
}
