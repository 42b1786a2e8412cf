/* What rules hide (`redact`): globs of attributes whose values no probe writes. From p->grants to the sites' states (keys of the schema, as bits) and to the region
 * (names, for what is set on a span later). Values that are in the ring already, and what there is no room for, drain.c hides. Agent thread. */
#include "agent/redact.h"
#include "agent/state.h"
#include <fnmatch.h>

enum { SHARED = PROCESS_REDACTING }; /* the last bit is of all rules that found no bit of their own */

static uint8_t bit_of(const struct process *p, const struct rule *r)
{
	uint32_t k = 0;
	while (k < SHARED && p->redacting[k] != r->handle + 1)
		k++;
	return (uint8_t)(1u << k);
}

/* Probes know * and ?: from anything else on, and from where there is no more room, all is hidden. */
static void put_glob(struct kw_requests *q, uint8_t bit, const char *text)
{
	if (q->redact_n == KW_REDACT) {
		struct kw_redact *last = &q->redact[KW_REDACT - 1];
		*last = (struct kw_redact){ last->rules | bit, 1, "*" };
		return;
	}
	struct kw_redact *to = &q->redact[q->redact_n++];
	size_t n = strcspn(text, "[\\");
	bool whole = !text[n] && n <= KW_REDACT_GLOB;
	n = whole ? n : n < KW_REDACT_GLOB ? n : KW_REDACT_GLOB - 1;
	*to = (struct kw_redact){ bit, (uint8_t)(n + !whole), "" };
	memcpy(to->glob, text, n);
	if (!whole)
		to->glob[n] = '*';
}

void redact_install(struct process *p)
{
	bool any = false;
	for (uint32_t g = 0; g < p->ngrants && !any; g++)
		any = p->grants[g].r->nredact && !p->grants[g].r->dead;
	if ((!any && !p->hiding) || !p->reg.requests_off)
		return;
	uint8_t *seen = base_calloc(p->agent->nhandles + 1, 1);
	struct rule **rules = base_calloc(p->agent->nhandles + 1, sizeof(struct rule *));
	uint32_t n = 0;
	for (uint32_t g = 0; g < p->ngrants; g++) {
		struct rule *r = p->grants[g].r;
		if (r->nredact && !r->dead && !seen[r->handle]) {
			seen[r->handle] = 1;
			rules[n++] = r;
		}
	}
	for (uint32_t k = 0; k < SHARED; k++) /* who has a bit keeps it: sites have it in their states */
		if (p->redacting[k] && !seen[p->redacting[k] - 1])
			p->redacting[k] = 0;
	struct kw_requests *q = base_calloc(1, sizeof *q);
	for (uint32_t i = 0; i < n; i++) {
		for (uint32_t k = 0; k < SHARED && bit_of(p, rules[i]) == 1u << SHARED; k++)
			if (!p->redacting[k])
				p->redacting[k] = rules[i]->handle + 1;
		for (uint32_t k = 0; k < rules[i]->nredact; k++)
			put_glob(q, bit_of(p, rules[i]), rules[i]->redact[k]);
	}
	struct kw_requests *to = (struct kw_requests *)(p->map + p->reg.requests_off);
	uint32_t seq = __atomic_load_n(&to->redact_seq, __ATOMIC_RELAXED) & ~1u; /* of a former agent: it may have died writing */
	__atomic_store_n(&to->redact_seq, seq + 1, __ATOMIC_SEQ_CST);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	memcpy(to->redact, q->redact, q->redact_n * sizeof *q->redact);
	__atomic_store_n(&to->redact_n, q->redact_n, __ATOMIC_RELAXED);
	__atomic_store_n(&to->redact_seq, seq + 2, __ATOMIC_RELEASE); /* pairs with the probe's acquire: the names before it */
	p->hiding = n > 0;
	free(q);
	free(rules);
	free(seen);
}

void redact_site(const struct process *p, struct site *s, const struct rule *r)
{
	if (!r->nredact)
		return;
	s->redacts = true;
	s->hides |= bit_of(p, r);
	for (uint32_t k = 0; k < s->nkeys && k < 16; k++) {
		char name[256];
		struct str key = strtab_get(&p->strs, s->keys[k].name);
		snprintf(name, sizeof name, "%.*s", (int)key.n, key.p);
		for (uint32_t i = 0; i < r->nredact; i++)
			if (!fnmatch(r->redact[i], name, 0))
				s->hide |= (uint16_t)(1u << k);
	}
}
