/* Interned strings: text -> small id, id -> text. Id 0 is always the empty string. One owner, not thread-safe; pointers stay valid
 * until finish (text lives in blocks that never move). */
#pragma once
#include "base/buf.h"

struct strtab {
	struct str *items;       /* items[id] */
	uint32_t n, cap;
	uint32_t *slots;         /* open addressing: id + 1, 0 = empty */
	uint32_t nslots;
	struct strtab_block *blocks;
	size_t bytes;            /* of text held */
};
void strtab_init(struct strtab *t);
void strtab_finish(struct strtab *t);
uint32_t strtab_add(struct strtab *t, struct str s);        /* copies the text when new */
uint32_t strtab_find(const struct strtab *t, struct str s); /* UINT32_MAX if absent */
static inline struct str strtab_get(const struct strtab *t, uint32_t id) { return id < t->n ? t->items[id] : (struct str){ "", 0 }; }
