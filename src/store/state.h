/* The state store: JSON documents by (kind, id), each with a version for compare-and-set (toggles now; policies, audit later).
 * SQLite, durable when a call returns, or the group that it is in. Thread-safe. */
#pragma once
#include "base/buf.h"
#include "base/err.h"

struct state;
int state_open(const char *path, struct state **ret_s, struct err *e);     /* created 0600 if absent */
void state_close(struct state *s);                                        /* NULL is fine */

enum { STATE_ANY = -1, STATE_NEW = 0 };
/* expected: the version it must have now, STATE_NEW (must not exist) or STATE_ANY. KLIEG_E_STALE if it has another. Versions of a
 * (kind, id) only grow, also past a delete. ret_version may be NULL. */
int state_put(struct state *s, const char *kind, const char *id, struct str json, int64_t expected, int64_t *ret_version, struct err *e);
int state_get(struct state *s, const char *kind, const char *id, struct buf *ret_json, int64_t *ret_version); /* KLIEG_E_NOT_FOUND */
/* What is deleted leaves its version behind, for who comes back to it; of what is forgotten nothing is left: for logs, whose ids are never used again. */
int state_forget(struct state *s, const char *kind, const char *id);
int state_delete(struct state *s, const char *kind, const char *id, int64_t expected, struct err *e);         /* KLIEG_E_NOT_FOUND */
/* What is changed in between is durable together when the outermost group ends, and waits for the disk once; or none of it is, and that is returned by the end. The other threads wait. */
void state_group_begin(struct state *s);
int state_group_end(struct state *s, struct err *e);
/* In order of id; nonzero from fn stops and is returned. fn must not call the state store. */
typedef int (*state_fn)(void *arg, const char *id, int64_t version, struct str json);
int state_list(struct state *s, const char *kind, state_fn fn, void *arg);
