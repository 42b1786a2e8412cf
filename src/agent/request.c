/* What a rule says of requests, as programs that the probe runs over a span's attributes (struct kw_request of wire.h). The sites that decide are the ones whose schema
 * has the attributes that are asked for: spans of kind server or consumer where there are such, since a request begins there; else all that have one. From p->grants to
 * the table in the region, under its seqlock. Agent thread. */
#include "agent/request.h"
#include "agent/state.h"
#include <math.h>
#include <stdlib.h>

struct compiler {
	const struct traceql *q;
	const struct process *p;  /* NULL: only whether it can be done */
	const struct site *s;
	struct kw_request *r;
	uint32_t keys;            /* of the site, that were asked for */
	struct err *e;
};

static int node(struct compiler *c, uint16_t n);

static int put(struct compiler *c, struct kw_request_op op)
{
	if (c->r->nops == KW_REQUEST_OPS) {
		err_set(c->e, KLIEG_E_LIMIT, "the part about requests takes more than %u steps", KW_REQUEST_OPS);
		return err_hint(c->e, "write two rules");
	}
	c->r->op[c->r->nops++] = op;
	return 0;
}

static int put_op(struct compiler *c, uint8_t op) { return put(c, (struct kw_request_op){ .op = op }); }

static int put_text(struct compiler *c, uint8_t op, uint8_t key, const char *p, size_t n)
{
	struct kw_request_op o = { .op = op, .key = key, .type = KW_STR, .len = (uint8_t)n };
	if (n > KW_REQUEST_TEXT)
		return err_set(c->e, KLIEG_E_LIMIT, "\"%.40s...\" is longer than the %u bytes that probes compare", p, KW_REQUEST_TEXT);
	memcpy(o.text, p, n);
	return put(c, o);
}

static int too_hard(struct compiler *c, struct str pattern)
{
	err_set(c->e, KLIEG_E_UNSUPPORTED, "probes have no regular expressions: \"%.*s\" is more than beginnings, ends and alternatives", pattern.n > 80 ? 80 : (int)pattern.n, pattern.p);
	return err_hint(c->e, "write it as =, \"begin.*\", \".*end\", \".*part.*\" or \"one|two\"; where filters spans when they have ended by any expression");
}

/* One alternative of a regular expression that is anchored at both ends. */
static int alternative(struct compiler *c, uint8_t key, struct str pattern, struct str a)
{
	bool open_begin = a.n >= 2 && !memcmp(a.p, ".*", 2), open_end;
	if (open_begin)
		a.p += 2, a.n -= 2;
	open_end = a.n >= 2 && !memcmp(a.p + a.n - 2, ".*", 2) && !(a.n >= 3 && a.p[a.n - 3] == '\\');
	if (open_end)
		a.n -= 2;
	char text[KW_REQUEST_TEXT + 1];
	size_t n = 0;
	for (size_t i = 0; i < a.n; i++) {
		if (a.p[i] == '\\' && i + 1 < a.n && strchr(".\\+*?()[]{}|^$/-", a.p[i + 1]))
			i++;
		else if (strchr(".\\+*?()[]{}^$", a.p[i]))
			return too_hard(c, pattern);
		if (n == sizeof text)
			return put_text(c, KW_REQ_EQ, key, a.p, a.n); /* says that it is too long */
		text[n++] = a.p[i];
	}
	return put_text(c, open_begin ? open_end ? KW_REQ_CONTAINS : KW_REQ_ENDS : open_end ? KW_REQ_BEGINS : KW_REQ_EQ, key, text, n);
}

static int expression(struct compiler *c, uint8_t key, struct str pattern)
{
	struct str left = pattern;
	if (left.n >= 2 && left.p[0] == '(' && left.p[left.n - 1] == ')' && !memchr(left.p + 1, '(', left.n - 2) && !memchr(left.p + 1, '\\', left.n - 2))
		left = (struct str){ left.p + 1, left.n - 2 };
	for (bool first = true;; first = false) {
		size_t n = 0;
		while (n < left.n && left.p[n] != '|')
			n += left.p[n] == '\\' && n + 1 < left.n ? 2 : 1;
		int rc = alternative(c, key, pattern, (struct str){ left.p, n });
		if (rc >= 0 && !first)
			rc = put_op(c, KW_REQ_OR);
		if (rc < 0 || n >= left.n)
			return rc;
		left = (struct str){ left.p + n + 1, left.n - n - 1 };
	}
}

static uint8_t op_of(const char *cmp)
{
	return !strcmp(cmp, "=") ? KW_REQ_EQ : !strcmp(cmp, "!=") ? KW_REQ_NE : !strcmp(cmp, "<") ? KW_REQ_LT : !strcmp(cmp, "<=") ? KW_REQ_LE :
		!strcmp(cmp, ">") ? KW_REQ_GT : KW_REQ_GE;
}

/* A number against an attribute of the schema's type: whole ones of attributes that are, doubles as doubles. */
static int put_number(struct compiler *c, uint8_t op, uint8_t key, char type, const struct tq_value *v)
{
	struct kw_request_op o = { .op = op, .key = key, .type = type == 'd' ? KW_DOUBLE : type == 'b' ? KW_BOOL : KW_INT };
	double d = v->type == TQ_FLOAT ? v->d : (double)v->i;
	if (type == 'd') {
		memcpy(&o.number, &d, sizeof d);
		return put(c, o);
	}
	o.number = v->i;
	if (v->type == TQ_FLOAT) {
		double whole = floor(d);
		if (whole != d && (op == KW_REQ_EQ || op == KW_REQ_NE))
			return put(c, (struct kw_request_op){ .op = op == KW_REQ_EQ ? KW_REQ_FALSE : KW_REQ_EXISTS, .key = key });
		if (whole != d)
			o.op = op == KW_REQ_GE ? KW_REQ_GT : op == KW_REQ_LT ? KW_REQ_LE : op;
		o.number = whole >= 9.2e18 ? INT64_MAX : whole <= -9.2e18 ? INT64_MIN : (int64_t)whole;
	}
	return put(c, o);
}

static bool find_key(struct compiler *c, struct str name, uint8_t *ret_key, char *ret_type)
{
	for (uint32_t k = 0; c->s && k < c->s->nkeys && k < 255; k++) {
		struct str have = strtab_get(&c->p->strs, c->s->keys[k].name);
		if (!str_eq(have, name) || c->s->keys[k].sensitive) /* who may not see a value may not guess it either */
			continue;
		*ret_key = (uint8_t)k;
		*ret_type = c->s->keys[k].type;
		c->keys++;
		return true;
	}
	*ret_key = 0;
	*ret_type = 's';
	return !c->s;
}

static int comparison(struct compiler *c, const struct tq_view *v)
{
	uint8_t key;
	char type;
	bool there = find_key(c, v->field.key, &key, &type);
	if (v->op == TQ_VIEW_EXISTS || v->op == TQ_VIEW_ABSENT) {
		int rc = put(c, (struct kw_request_op){ .op = there ? KW_REQ_EXISTS : KW_REQ_FALSE, .key = key });
		return rc < 0 || v->op == TQ_VIEW_EXISTS ? rc : put_op(c, KW_REQ_NOT);
	}
	bool text = v->value.type == TQ_STR, has_text = type == 's' || type == 'y';
	if (!there || (c->s && text != has_text) || (c->s && (v->value.type == TQ_BOOL) != (type == 'b')))
		return put_op(c, KW_REQ_FALSE);
	if (text && (!strcmp(v->cmp, "=~") || !strcmp(v->cmp, "!~"))) {
		int rc = expression(c, key, v->value.s);
		if (rc < 0 || v->cmp[0] == '=')
			return rc;
		rc = put_op(c, KW_REQ_NOT);
		rc = rc < 0 ? rc : put(c, (struct kw_request_op){ .op = KW_REQ_EXISTS, .key = key }); /* a missing attribute makes !~ false too */
		return rc < 0 ? rc : put_op(c, KW_REQ_AND);
	}
	if (text)
		return put_text(c, op_of(v->cmp), key, v->value.s.p, v->value.s.n);
	if (v->value.type == TQ_INT || v->value.type == TQ_FLOAT || v->value.type == TQ_BOOL || v->value.type == TQ_DURATION)
		return put_number(c, op_of(v->cmp), key, type, &v->value);
	return put_op(c, KW_REQ_FALSE);
}

static int node(struct compiler *c, uint16_t n)
{
	struct tq_view v;
	if (!traceql_view(c->q, n, &v)) {
		err_set(c->e, KLIEG_E_UNSUPPORTED, "probes compare attributes with constants, no more: the part about requests has something else");
		return err_hint(c->e, "write it with =, !=, <, <=, >, >=, && and ||");
	}
	int rc;
	switch (v.op) {
	case TQ_VIEW_AND: case TQ_VIEW_OR:
		rc = node(c, v.l);
		rc = rc < 0 ? rc : node(c, v.r);
		return rc < 0 ? rc : put_op(c, v.op == TQ_VIEW_AND ? KW_REQ_AND : KW_REQ_OR);
	case TQ_VIEW_NOT:
		rc = node(c, v.l);
		return rc < 0 ? rc : put_op(c, KW_REQ_NOT);
	default:
		return comparison(c, &v);
	}
}

static int compile(const struct traceql *q, const struct process *p, const struct site *s, struct kw_request *ret_r, uint32_t *ret_keys, struct err *e)
{
	uint16_t root;
	struct compiler c = { .q = q, .p = p, .s = s, .r = ret_r, .e = e };
	*ret_r = (struct kw_request){ 0 };
	int rc = traceql_root(q, &root) ? node(&c, root) : put_op(&c, KW_REQ_TRUE);
	*ret_keys = c.keys;
	return rc;
}

int request_check(const struct traceql *q, struct err *e)
{
	struct kw_request r;
	uint32_t keys;
	return compile(q, NULL, NULL, &r, &keys, e);
}

/* ---- of one process ---------------------------------------------------------------------------------------------------------- */

static bool begins_requests(const struct site *s)
{
	unsigned kind = s->flags & KW_SITE_KIND_MASK;
	return kind == KW_SITE_SERVER || kind == KW_SITE_CONSUMER;
}

static bool can_classify(const struct process *p, const struct site *s)
{
	return s->id && !s->bad && s->kind == KW_SITE_SPAN && s->nkeys && !p->modules[s->module].gone;
}

struct table { struct kw_requests *q; bool full; };

/* The rule's programs, for the sites that can tell. */
static bool of_rule(struct process *p, const struct rule *r, uint8_t bit, struct table *t)
{
	struct kw_request x;
	struct err ignored;
	uint32_t keys, found = 0;
	double keep = r->keep;
	for (int pass = 0; pass < 2 && !found; pass++) /* where requests begin; if that is nowhere, anywhere */
		for (uint32_t i = 0; i < p->nsites; i++) {
			struct site *s = &p->sites[i];
			if (!can_classify(p, s) || (!pass && !begins_requests(s)) || compile(r->request, p, s, &x, &keys, &ignored) < 0 || !keys)
				continue;
			found++;
			if (t->q->n == KW_REQUESTS) {
				t->full = true;
				continue;
			}
			x.level = (uint8_t)rule_level(r);
			x.rule = bit;
			x.threshold = keep >= 1 ? 0 : keep <= 0 ? UINT64_MAX : (uint64_t)ldexp(1 - keep, 24) << 32;
			t->q->site[t->q->n] = i + 1;
			t->q->request[t->q->n++] = x;
			s->classifies |= bit;
		}
	return found;
}

static void write_table(struct process *p, const struct kw_requests *q)
{
	struct kw_requests *to = (struct kw_requests *)(p->map + p->reg.requests_off);
	uint32_t seq = __atomic_load_n(&p->control->requests_seq, __ATOMIC_RELAXED) & ~1u; /* of a former agent: it may have died writing */
	__atomic_store_n(&p->control->requests_seq, seq + 1, __ATOMIC_SEQ_CST);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	memcpy(to->site, q->site, q->n * sizeof *q->site);
	memcpy(to->request, q->request, q->n * sizeof *q->request);
	__atomic_store_n(&to->n, q->n, __ATOMIC_RELAXED);
	__atomic_store_n(&p->control->requests_seq, seq + 2, __ATOMIC_RELEASE); /* pairs with the probe's acquire: the programs before it */
}

bool requests_install(struct process *p)
{
	bool any = false, changed = false;
	for (uint32_t g = 0; g < p->ngrants && !any; g++)
		any = p->grants[g].r->request && !p->grants[g].r->dead;
	if ((!any && !p->classifying) || !p->reg.requests_off)
		return false;
	uint8_t *was = base_calloc(p->nsites + 1, 1), *seen = base_calloc(p->agent->nhandles + 1, 1);
	struct table t = { .q = base_calloc(1, sizeof *t.q) };
	for (uint32_t i = 0; i < p->nsites; i++) {
		was[i] = p->sites[i].classifies;
		p->sites[i].classifies = 0;
	}
	p->request_problem = NULL;
	uint32_t rules = 0;
	for (uint32_t g = 0; g < p->ngrants; g++) {
		const struct rule *r = p->grants[g].r;
		if (!r->request || r->dead || seen[r->handle] || !rule_level(r))
			continue;
		seen[r->handle] = 1;
		if (!of_rule(p, r, (uint8_t)(1u << (rules < 7 ? rules : 7)), &t))
			p->request_problem = "no probe of it has the attributes that a rule asks for: only requests that come with a level are traced by it";
		rules++;
	}
	if (t.full)
		p->request_problem = "there are more rules on requests than a process takes: some do not hold here";
	for (uint32_t i = 0; i < p->nsites; i++)
		changed |= was[i] != p->sites[i].classifies;
	write_table(p, t.q);
	p->classifying = t.q->n > 0;
	free(t.q);
	free(was);
	free(seen);
	return changed;
}
