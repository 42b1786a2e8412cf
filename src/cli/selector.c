/* Selectors put together from options: `--service payment --tenant 7` on top of what was typed becomes one TraceQL filter, and `klieg narrow` puts a
 * condition into a filter that exists, or takes one out. Works on the text, because the language itself belongs to the server. Pure. */
#include "cli/cli.h"
#include <ctype.h>
#include <stdlib.h>

static const struct { const char *option, *field; } fields[] = { { "service", "resource.service.name" }, { "component", "instrumentation:name" },
	{ "endpoint", ".http.route" }, { "tenant", ".tenant" } };

const char *selector_field(unsigned i, const char **ret_option)
{
	if (i >= sizeof(fields) / sizeof(*fields))
		return NULL;
	*ret_option = fields[i].option;
	return fields[i].field;
}

void selector_condition(struct buf *b, const char *field, const char *value, size_t n)
{
	if (memchr(value, '*', n) || memchr(value, '?', n)) {
		cli_glob(b, field, value, n);
		return;
	}
	buf_printf(b, "%s = \"", field);
	for (size_t i = 0; i < n; i++) {
		if (value[i] == '"' || value[i] == '\\')
			buf_byte(b, '\\');
		buf_byte(b, value[i]);
	}
	buf_byte(b, '"');
}

static const char *service_colon(const char *s)
{
	const char *at = s + str_service_colon(str_of(s));
	return *at ? at : NULL;
}

char *selector_filter(const char *sel)
{
	struct buf b = { 0 };
	if (strchr(sel, '{'))
		return str_dup(str_of(sel));
	const char *colon = service_colon(sel), *name = colon ? colon + 1 : sel;
	bool any_service = !colon || colon == sel || (colon == sel + 1 && *sel == '*'), any_name = !*name || !strcmp(name, "*");
	buf_add_str(&b, "{ ");
	if (!any_service)
		selector_condition(&b, fields[0].field, sel, colon - sel);
	if (!any_name) {
		buf_add_str(&b, any_service ? "" : " && ");
		selector_condition(&b, "name", name, strlen(name));
	}
	buf_add_str(&b, any_service && any_name ? "}" : " }");
	buf_byte(&b, 0);
	return (char *)b.p;
}

/* One part of `a && b && c`; *p moves behind it. Quotes and parentheses are stepped over; *ret_or: there is a || on this level. */
static struct str next_part(const char **p, const char *end, bool *ret_or)
{
	const char *from = *p, *s = from;
	int depth = 0;
	for (; s < end; s++) {
		if (*s == '"' || *s == '`') {
			char quote = *s;
			for (s++; s < end && *s != quote; s++)
				if (*s == '\\' && quote == '"' && s + 1 < end)
					s++;
		} else if (*s == '(')
			depth++;
		else if (*s == ')')
			depth--;
		else if (!depth && s + 1 < end && s[0] == '|' && s[1] == '|')
			*ret_or = true;
		else if (!depth && s + 1 < end && s[0] == '&' && s[1] == '&')
			break;
	}
	if (s > end)  /* a quote that does not close */
		s = end;
	*p = s < end ? s + 2 : end;
	while (from < s && isspace((unsigned char)*from))
		from++;
	size_t n = s > from ? s - from : 0;
	while (n && isspace((unsigned char)from[n - 1]))
		n--;
	return (struct str){ from, n };
}

static bool is_about(struct str part, const char *field)
{
	size_t n = strlen(field);
	return part.n > n && !memcmp(part.p, field, n) && strchr(" \t\n=!<>~", part.p[n]);
}

char *selector_set(const char *sel, const char *field, const char *value)
{
	char *filter = selector_filter(sel);
	struct buf b = { 0 };
	const char *open = strchr(filter, '{'), *close = strrchr(filter, '}'), *p, *from = open + 1;
	bool any_or = false;
	if (!close || close < from)
		return filter;  /* not a filter; the server says why */
	for (p = from; p < close;)
		next_part(&p, close, &any_or);
	buf_add_str(&b, "{ ");
	size_t before = b.n;
	for (p = from; p < close;) {
		const char *start = p;
		struct str part = next_part(&p, close, &(bool){ false });
		if (any_or) {  /* what stands there stays whole */
			p = close;
			part = (struct str){ start, close - start };
			while (part.n && isspace((unsigned char)*part.p))
				part.p++, part.n--;
			while (part.n && isspace((unsigned char)part.p[part.n - 1]))
				part.n--;
		}
		if (!part.n || (!any_or && is_about(part, field)))
			continue;
		buf_printf(&b, "%s%s%.*s%s", b.n > before ? " && " : "", any_or ? "(" : "", (int)part.n, part.p, any_or ? ")" : "");
	}
	if (strcmp(value, "*")) {
		buf_add_str(&b, b.n > before ? " && " : "");
		selector_condition(&b, field, value, strlen(value));
	}
	buf_add_str(&b, b.n > before ? " }" : "}");
	buf_byte(&b, 0);
	free(filter);
	return (char *)b.p;
}
