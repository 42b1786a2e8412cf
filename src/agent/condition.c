/* Conditions on arguments: 'arg.2 > 4096 && (arg.flags != 0 || !(arg.1 == 7))'. Parsed once; compiled for each function that they are about, because a
 * name is an argument's place and type there; evaluated by the probe, before a span begins. Pure functions. */
#include "agent/state.h"
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#define DEPTH_MAX 16

/* Postfix, as it will run; only the arguments are still names. */
struct step { uint8_t op; char arg[64]; int64_t value; };
struct condition { struct step step[KW_HOOK_WHERE]; uint32_t n; };

struct parser { const char *text, *at; struct condition *c; unsigned depth; struct err *e; };

bool condition_is(const char *text)
{
	for (const char *p = text; (p = strstr(p, "arg.")); p += 4)
		if (p == text || !(isalnum((unsigned char)p[-1]) || p[-1] == '.' || p[-1] == '_' || p[-1] == '"'))
			return true;
	return false;
}

static void space(struct parser *p)
{
	while (isspace((unsigned char)*p->at))
		p->at++;
}

static int wrong(struct parser *p, const char *what)
{
	err_set(p->e, KLIEG_E_SYNTAX, "in the condition on arguments, column %d: %s", (int)(p->at - p->text) + 1, what);
	return err_hint(p->e, "like 'arg.2 > 4096 && arg.len != 0': arg.N counts from 1, arg.NAME needs debug information");
}

static int emit(struct parser *p, struct step s)
{
	if (p->c->n == KW_HOOK_WHERE)
		return wrong(p, "a condition has at most 8 comparisons and operators");
	p->c->step[p->c->n++] = s;
	return 0;
}

static int either(struct parser *p);

static int comparison(struct parser *p)
{
	static const struct { const char *text; uint8_t op; } ops[] = { { "==", KW_WHERE_EQ }, { "!=", KW_WHERE_NE }, { "<=", KW_WHERE_LE }, { ">=", KW_WHERE_GE },
		{ "=", KW_WHERE_EQ }, { "<", KW_WHERE_LT }, { ">", KW_WHERE_GT } };
	struct step s = { 0 };
	size_t n = 0;
	if (strncmp(p->at, "arg.", 4))
		return wrong(p, strncmp(p->at, "ret", 3) ? "expected arg.N or arg.NAME" : "what a function returns is not known when it begins");
	const char *name = p->at + 4;
	while (isalnum((unsigned char)name[n]) || name[n] == '_')
		n++;
	if (!n || n >= sizeof s.arg)
		return wrong(p, "expected an argument's number or name after arg.");
	memcpy(s.arg, name, n);
	p->at = name + n;
	space(p);
	for (size_t i = 0; i < sizeof ops / sizeof *ops && !s.op; i++)
		if (!strncmp(p->at, ops[i].text, strlen(ops[i].text))) {
			s.op = ops[i].op;
			p->at += strlen(ops[i].text);
		}
	if (!s.op)
		return wrong(p, "expected one of == != < <= > >=");
	space(p);
	char *end;
	errno = 0;
	s.value = *p->at == '-' ? strtoll(p->at, &end, 0) : (int64_t)strtoull(p->at, &end, 0);
	if (end == p->at || errno)
		return wrong(p, "expected a whole number, decimal or 0x...");
	p->at = end;
	return emit(p, s);
}

static int one(struct parser *p)
{
	int rc;
	space(p);
	if (*p->at != '!' && *p->at != '(')
		return comparison(p);
	if (++p->depth > DEPTH_MAX)
		return wrong(p, "nested too deep");
	if (*p->at++ == '!')
		rc = one(p) < 0 ? -1 : emit(p, (struct step){ .op = KW_WHERE_NOT });
	else if ((rc = either(p)) >= 0) {
		space(p);
		rc = *p->at == ')' ? (p->at++, 0) : wrong(p, "expected )");
	}
	p->depth--;
	return rc;
}

static int both(struct parser *p)
{
	int rc = one(p);
	for (space(p); rc >= 0 && !strncmp(p->at, "&&", 2); space(p)) {
		p->at += 2;
		rc = one(p) < 0 ? -1 : emit(p, (struct step){ .op = KW_WHERE_AND });
	}
	return rc;
}

static int either(struct parser *p)
{
	int rc = both(p);
	for (space(p); rc >= 0 && !strncmp(p->at, "||", 2); space(p)) {
		p->at += 2;
		rc = both(p) < 0 ? -1 : emit(p, (struct step){ .op = KW_WHERE_OR });
	}
	return rc;
}

int condition_parse(const char *text, struct condition **ret_c, struct err *e)
{
	struct condition *c = base_calloc(1, sizeof *c);
	struct err mine = { 0 };
	struct parser p = { .text = text, .at = text, .c = c, .e = e ? e : &mine };
	space(&p);
	bool braces = *p.at == '{';
	p.at += braces;
	int rc = either(&p);
	space(&p);
	if (rc >= 0 && braces)
		rc = *p.at == '}' ? (p.at++, space(&p), 0) : wrong(&p, "expected }");
	if (rc >= 0 && *p.at)
		rc = wrong(&p, "expected && or ||");
	if (rc < 0) {
		free(c);
		return p.e->code ? p.e->code : KLIEG_E_SYNTAX;
	}
	*ret_c = c;
	return 0;
}

void condition_destroy(struct condition *c) { free(c); }

static bool place(const char *name, const struct symbols_signature *sig, struct kw_arg *ret_a, struct err *e)
{
	char *end;
	unsigned long number = strtoul(name, &end, 10);
	if (*end) {
		for (number = 1; number <= (sig ? sig->n : 0) && (!sig->args[number - 1].name || strcmp(sig->args[number - 1].name, name)); number++) {}
		if (!sig || number > sig->n) {
			err_set(e, KLIEG_E_NOT_FOUND, sig ? "it has no argument \"%s\"" : "there is no debug information that would say which argument is \"%s\"", name);
			return false;
		}
	}
	if (!number || number > (sig ? sig->n : 6)) {
		err_set(e, KLIEG_E_NOT_FOUND, sig ? "it has %u arguments" : "without debug information only arg.1 to arg.6 can be had", sig ? sig->n : 6);
		return false;
	}
	if (!sig) {
		*ret_a = (struct kw_arg){ KW_ARG_INT, (uint8_t)(number - 1), 8, 0 };
		return true;
	}
	const struct symbols_argument *x = &sig->args[number - 1];
	if (x->is_float || x->in_memory || (x->reg < 0 && x->stack > 63)) {
		err_set(e, KLIEG_E_UNSUPPORTED, "arg.%s is no integer and no pointer", name);
		return false;
	}
	*ret_a = (struct kw_arg){ x->is_signed && !x->is_pointer ? KW_ARG_INT : KW_ARG_UINT, x->reg >= 0 ? (uint8_t)x->reg : (uint8_t)(16 + x->stack), x->size, 0 };
	return true;
}

bool condition_compile(const struct condition *c, const struct symbols_signature *sig, struct kw_where ret_w[KW_HOOK_WHERE], uint8_t *ret_n, struct err *e)
{
	struct kw_where w[KW_HOOK_WHERE] = { { 0 } };
	for (uint32_t i = 0; i < c->n; i++) {
		w[i].op = c->step[i].op;
		w[i].value = c->step[i].value;
		if (*c->step[i].arg && !place(c->step[i].arg, sig && sig->known ? sig : NULL, &w[i].arg, e))
			return false;
	}
	memcpy(ret_w, w, sizeof w);
	*ret_n = (uint8_t)c->n;
	return true;
}
