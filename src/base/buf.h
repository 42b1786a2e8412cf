/* A growable byte buffer, and the string slice that everything passes around. Not thread-safe; one owner.
 * Out of memory aborts through base_oom(): our own processes restart cleanly, the traced ones never run this code. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct str { const char *p; size_t n; };           /* borrowed bytes, not NUL-terminated */
#define STR(lit) ((struct str){ "" lit, sizeof(lit) - 1 })
static inline struct str str_of(const char *s) { return (struct str){ s, s ? strlen(s) : 0 }; }
static inline bool str_eq(struct str a, struct str b) { return a.n == b.n && (a.n == 0 || !memcmp(a.p, b.p, a.n)); }
static inline bool str_is(struct str a, const char *b) { return str_eq(a, str_of(b)); }
char *str_dup(struct str s);                        /* NUL-terminated copy; free() it */
bool str_utf8_valid(struct str s);
/* Glob with * and ? over the whole text; linear time. */
bool str_glob(struct str pattern, struct str text);
/* The colon of service:name in a selector; those of ns::function are none. Its index, or sel.n. */
size_t str_service_colon(struct str sel);
/* Levenshtein distance, for "did you mean"; at most 64 bytes of each are looked at. */
unsigned str_distance(struct str a, struct str b);

struct buf { uint8_t *p; size_t n, cap; };          /* {0} is an empty buffer */
void buf_finish(struct buf *b);                     /* frees, leaves {0} */
void buf_reserve(struct buf *b, size_t more);
void buf_add(struct buf *b, const void *p, size_t n);
void buf_add_str(struct buf *b, const char *s);
void buf_byte(struct buf *b, uint8_t c);
void buf_printf(struct buf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static inline void buf_clear(struct buf *b) { b->n = 0; }
static inline struct str buf_str(const struct buf *b) { return (struct str){ (const char *)b->p, b->n }; }
/* Reads a whole file of at most max bytes. 0 or KLIEG_E_*. */
int buf_read_file(const char *path, size_t max, struct buf *ret_b);

void *base_alloc(size_t n);                         /* never NULL */
void *base_calloc(size_t n, size_t size);
void *base_realloc(void *p, size_t n);
