#include "policy/match.h"
#include <stdlib.h>
struct match_index { struct { void *h; const struct traceql *q; } *e; uint32_t n; };
struct match_index *match_create(void) { return base_calloc(1, sizeof(struct match_index)); }
void match_destroy(struct match_index *m) { if (m) free(m->e); free(m); }
void match_add(struct match_index *m, void *h, const struct traceql *q) { m->e = base_realloc(m->e, (m->n + 1) * sizeof *m->e); m->e[m->n].h = h; m->e[m->n++].q = q; }
void match_remove(struct match_index *m, void *h) { for (uint32_t i = 0; i < m->n; i++) if (m->e[i].h == h) { m->e[i] = m->e[--m->n]; return; } }
uint32_t match_site(struct match_index *m, const struct tq_source *src, void (*found)(void *arg, void *handle), void *arg) { uint32_t n = 0; for (uint32_t i = 0; i < m->n; i++) if (traceql_eval(m->e[i].q, src)) found(arg, m->e[i].h), n++; return n; }
bool match_one(struct match_index *m, void *h, const struct tq_source *src) { for (uint32_t i = 0; i < m->n; i++) if (m->e[i].h == h) return traceql_eval(m->e[i].q, src); return false; }
