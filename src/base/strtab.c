/* Interned strings by open addressing; text in an append-only block list so that slices stay valid while the table grows. */
#include "base/strtab.h"
#include "base/hash.h"
#include <stdlib.h>

struct strtab_block { struct strtab_block *next; size_t used, cap; char p[]; };

static char *keep(struct strtab *t, struct str s)
{
	struct strtab_block *b = t->blocks;
	if (!b || b->cap - b->used < s.n) {
		size_t cap = s.n > 8192 ? s.n : 8192;
		b = base_alloc(sizeof *b + cap);
		b->used = 0;
		b->cap = cap;
		b->next = t->blocks;
		t->blocks = b;
	}
	char *p = b->p + b->used;
	if (s.n)
		memcpy(p, s.p, s.n);
	b->used += s.n;
	t->bytes += s.n;
	return p;
}

/* The slot that holds s, or the empty one where it belongs. */
static uint32_t probe(const struct strtab *t, struct str s)
{
	uint32_t i = (uint32_t)hash_bytes(s.p, s.n, 0) & (t->nslots - 1);
	while (t->slots[i] && !str_eq(t->items[t->slots[i] - 1], s))
		i = (i + 1) & (t->nslots - 1);
	return i;
}

static void rehash(struct strtab *t, uint32_t nslots)
{
	free(t->slots);
	t->slots = base_calloc(nslots, sizeof *t->slots);
	t->nslots = nslots;
	for (uint32_t id = 0; id < t->n; id++)
		t->slots[probe(t, t->items[id])] = id + 1;
}

void strtab_init(struct strtab *t)
{
	*t = (struct strtab){ 0 };
	rehash(t, 64);
	strtab_add(t, STR(""));
}

void strtab_finish(struct strtab *t)
{
	while (t->blocks) {
		struct strtab_block *next = t->blocks->next;
		free(t->blocks);
		t->blocks = next;
	}
	free(t->items);
	free(t->slots);
	*t = (struct strtab){ 0 };
}

uint32_t strtab_find(const struct strtab *t, struct str s)
{
	uint32_t id = t->slots[probe(t, s)];
	return id ? id - 1 : UINT32_MAX;
}

uint32_t strtab_add(struct strtab *t, struct str s)
{
	uint32_t i = probe(t, s);
	if (t->slots[i])
		return t->slots[i] - 1;
	if (t->n == t->cap) {
		t->cap = t->cap ? t->cap * 2 : 64;
		t->items = base_realloc(t->items, t->cap * sizeof *t->items);
	}
	uint32_t id = t->n++;
	t->items[id] = (struct str){ keep(t, s), s.n };
	t->slots[i] = id + 1;
	if (t->n * 4 > t->nslots * 3)
		rehash(t, t->nslots * 2);
	return id;
}
