/* TEMPORARY, not committed: until src/symbols and src/ptrace are there. */
#include "agent/state.h"
#include "ptrace/inject.h"
#include "ptrace/world.h"
#define W __attribute__((weak))
W int symbols_open(int fd, const char *d, struct symbols **s, struct err *e) { return err_set(e, KLIEG_E_UNSUPPORTED, "not yet"); }
W void symbols_close(struct symbols *s) {}
W const struct symbols_function *symbols_functions(const struct symbols *s, uint32_t *n) { *n = 0; return NULL; }
W const struct symbols_function *symbols_at(const struct symbols *s, uint64_t a) { return NULL; }
W const struct symbols_function *symbols_named(const struct symbols *s, const char *n) { return NULL; }
W uint32_t symbols_similar(const struct symbols *s, const char *n, const char **r, uint32_t m) { return 0; }
W const char *symbols_build_id(const struct symbols *s) { return ""; }
W bool symbols_has_dwarf(const struct symbols *s) { return false; }
W const uint8_t *symbols_text(const struct symbols *s, uint64_t a, size_t n) { return NULL; }
W bool symbols_segment(const struct symbols *s, uint32_t i, uint64_t *a, uint64_t *o, uint64_t *z) { return false; }
W int symbols_move(const uint8_t *b, uint32_t w, uint64_t f, uint64_t t, struct symbols_moved *m, struct err *e) { return -1; }
W int symbols_callees(const struct symbols *s, const struct symbols_function *f, struct symbols_callee **l, uint32_t *n, uint32_t *i) { return -1; }
W int symbols_signature(const struct symbols *s, const struct symbols_function *f, struct symbols_signature *r) { return -1; }
W int world_stop(pid_t p, int64_t b, struct world **w, struct err *e) { return -1; }
W uint32_t world_threads(const struct world *w, const struct world_thread **t) { return 0; }
W int world_set_ip(struct world *w, uint32_t t, uint64_t ip) { return -1; }
W int world_syscall(struct world *w, long nr, const uint64_t a[6], uint64_t *v, struct err *e) { return -1; }
W int64_t world_resume(struct world *w) { return 0; }
W int inject_preflight(pid_t p, struct inject_preflight *r, struct err *e) { return err_set(e, KLIEG_E_UNSUPPORTED, "not yet"); }
W int inject_load(pid_t p, const char *f, const char *s, const void *a, size_t n, struct inject_report *r, struct err *e) { return -1; }
W int plugin_check(const char *p, char t[256]) { return 0; }
