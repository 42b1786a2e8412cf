/* Nodes -> the canonical text: one spelling per meaning, so that two texts can be compared and a stored one read. It parses to the same
 * nodes again (property-tested). */
#include "traceql/ast.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

const char *tq_op_text(enum tq_op op)
{
	static const char *const text[] = { [OP_AND] = "&&", [OP_OR] = "||", [OP_EQ] = "=", [OP_NE] = "!=", [OP_LT] = "<", [OP_LE] = "<=",
		[OP_GT] = ">", [OP_GE] = ">=", [OP_RE] = "=~", [OP_NRE] = "!~", [OP_ADD] = "+", [OP_SUB] = "-", [OP_MUL] = "*", [OP_DIV] = "/",
		[OP_MOD] = "%", [OP_POW] = "^", [OP_NOT] = "!", [OP_NEG] = "-" };
	return text[op];
}

static void print_quoted(struct str s, struct buf *b)
{
	bool raw = false, plain = str_utf8_valid(s);
	for (size_t i = 0; i < s.n; i++) {
		raw |= s.p[i] == '\\' || s.p[i] == '"';
		plain &= (unsigned char)s.p[i] >= 0x20 && s.p[i] != 0x7f && s.p[i] != '`';
	}
	if (raw && plain) { /* regular expressions stay readable */
		buf_byte(b, '`');
		buf_add(b, s.p, s.n);
		buf_byte(b, '`');
		return;
	}
	bool utf8 = str_utf8_valid(s);
	buf_byte(b, '"');
	for (size_t i = 0; i < s.n; i++) {
		unsigned char c = (unsigned char)s.p[i];
		if (c == '"' || c == '\\')
			buf_printf(b, "\\%c", c);
		else if (c == '\n')
			buf_add_str(b, "\\n");
		else if (c == '\t')
			buf_add_str(b, "\\t");
		else if (c < 0x20 || c == 0x7f || (c >= 0x80 && !utf8))
			buf_printf(b, "\\x%02x", c);
		else
			buf_byte(b, c);
	}
	buf_byte(b, '"');
}

static void print_key(struct str key, struct buf *b)
{
	bool plain = str_utf8_valid(key) && !(key.p[0] >= '0' && key.p[0] <= '9');
	for (size_t i = 0; i < key.n; i++) {
		unsigned char c = (unsigned char)key.p[i];
		plain &= c > 0x20 && c != 0x7f && !strchr("{}()=~!<>&|^,\"`\\", c);
	}
	if (plain) {
		buf_add(b, key.p, key.n);
		return;
	}
	/* Not print_quoted: a name's parts are quoted with " only. */
	bool utf8 = str_utf8_valid(key);
	buf_byte(b, '"');
	for (size_t i = 0; i < key.n; i++) {
		unsigned char c = (unsigned char)key.p[i];
		if (c == '"' || c == '\\')
			buf_printf(b, "\\%c", c);
		else if (c < 0x20 || c == 0x7f || (c >= 0x80 && !utf8))
			buf_printf(b, "\\x%02x", c);
		else
			buf_byte(b, c);
	}
	buf_byte(b, '"');
}

void tq_field_print(const struct tq_field *f, struct buf *ret_text)
{
	if (f->scope == TQ_INTRINSIC) {
		for (size_t i = 0; tq_intrinsics[i].text; i++)
			if (tq_intrinsics[i].id == f->intrinsic) {
				buf_add_str(ret_text, tq_intrinsics[i].text);
				return;
			}
	}
	buf_add_str(ret_text, tq_scopes[f->scope]);
	buf_byte(ret_text, '.');
	print_key(f->key, ret_text);
}

/* Exact: whole hours and minutes, then seconds, or a smaller unit, with decimals as needed. */
static void print_duration(int64_t ns, struct buf *b)
{
	if (ns < 0)
		buf_byte(b, '-');
	uint64_t u = ns < 0 ? -(uint64_t)ns : (uint64_t)ns;
	static const struct { uint64_t ns; const char *text; int decimals; } small[] = {
		{ 1000000000, "s", 9 }, { 1000000, "ms", 6 }, { 1000, "us", 3 }, { 1, "ns", 0 } };
	if (u == 0) {
		buf_add_str(b, "0s");
		return;
	}
	if (u >= 3600000000000)
		buf_printf(b, "%lluh", (unsigned long long)(u / 3600000000000)), u %= 3600000000000;
	if (u >= 60000000000)
		buf_printf(b, "%llum", (unsigned long long)(u / 60000000000)), u %= 60000000000;
	if (!u)
		return;
	size_t i = 0;
	while (u < small[i].ns)
		i++;
	buf_printf(b, "%llu", (unsigned long long)(u / small[i].ns));
	if (u % small[i].ns) {
		char frac[16];
		int n = snprintf(frac, sizeof frac, "%0*llu", small[i].decimals, (unsigned long long)(u % small[i].ns));
		while (n > 0 && frac[n - 1] == '0')
			n--;
		buf_printf(b, ".%.*s", n, frac);
	}
	buf_add_str(b, small[i].text);
}

void tq_literal_print(const struct tq_value *v, struct buf *b)
{
	char num[40];
	switch (v->type) {
	case TQ_STR: print_quoted(v->s, b); break;
	case TQ_INT: buf_printf(b, "%lld", (long long)v->i); break;
	case TQ_DURATION: print_duration(v->i, b); break;
	case TQ_BOOL: buf_add_str(b, v->i ? "true" : "false"); break;
	case TQ_STATUS: buf_add_str(b, tq_statuses[v->i]); break;
	case TQ_KIND: buf_add_str(b, tq_kinds[v->i]); break;
	case TQ_FLOAT:
		for (int digits = 15; digits <= 17; digits++) {
			snprintf(num, sizeof num, "%.*g", digits, v->d);
			if (strtod(num, NULL) == v->d)
				break;
		}
		buf_add_str(b, num);
		if (!strpbrk(num, ".e"))
			buf_add_str(b, ".0");
		break;
	default: buf_add_str(b, "nil");
	}
}

static void print_node(const struct traceql *q, uint16_t i, struct buf *b);

static void print_child(const struct traceql *q, enum tq_op parent, uint16_t child, bool right, struct buf *b)
{
	bool parens = tq_needs_parens(q, parent, child, right);
	if (parens)
		buf_byte(b, '(');
	print_node(q, child, b);
	if (parens)
		buf_byte(b, ')');
}

static void print_node(const struct traceql *q, uint16_t i, struct buf *b)
{
	const struct tq_node *n = q->nodes + i;
	switch (n->op) {
	case OP_LIT: tq_literal_print(&n->lit, b); break;
	case OP_FIELD: tq_field_print(&n->field, b); break;
	case OP_NOT: case OP_NEG:
		buf_add_str(b, tq_op_text(n->op));
		print_child(q, n->op, n->l, true, b);
		break;
	default:
		print_child(q, n->op, n->l, false, b);
		buf_printf(b, " %s ", tq_op_text(n->op));
		print_child(q, n->op, n->r, true, b);
	}
}

void traceql_print(const struct traceql *q, struct buf *ret_text)
{
	buf_add_str(ret_text, "{ ");
	if (q->root != TQ_NONE) {
		print_node(q, q->root, ret_text);
		buf_byte(ret_text, ' ');
	}
	buf_byte(ret_text, '}');
	tq_stages_print(q, ret_text);
}
