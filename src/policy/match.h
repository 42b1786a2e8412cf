/* Which of many rules match a site, without asking each: rules are filed under what their site query requires (service, name or the literal beginning
 * of the name), and only those filed where the site belongs are evaluated, and only what is left of them. One thread per index. */
#pragma once
#include "traceql/traceql.h"

struct match_index;
struct match_index *match_create(void);
void match_destroy(struct match_index *m);               /* NULL is fine; queries and handles stay the caller's */
/* handle: the caller's, unique, not NULL (a struct rule *). site is borrowed until match_remove or match_destroy. */
void match_add(struct match_index *m, void *handle, const struct traceql *site);
void match_remove(struct match_index *m, void *handle); /* one that is not there is fine */
/* Calls found for each rule that matches, in no order; how many. found must not add or remove. */
uint32_t match_site(struct match_index *m, const struct tq_source *src, void (*found)(void *arg, void *handle), void *arg);
/* Does this one match? The same answer by the same caches: for one rule that is new, over all sites. */
bool match_one(struct match_index *m, void *handle, const struct tq_source *src);
uint32_t match_count(const struct match_index *m);
