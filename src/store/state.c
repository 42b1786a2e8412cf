/* Documents in one SQLite table. A deleted one leaves its version behind (json NULL), so that a writer who saw it before it was deleted and made
 * again is told so. One connection behind a mutex: the rate is what people click. */
#include "store/state.h"
#include <pthread.h>
#include <sqlite3.h>
#include <stdlib.h>
#include <sys/stat.h>

struct state { sqlite3 *db; sqlite3_stmt *get, *put, *list, *forget; pthread_mutex_t lock; unsigned groups; int group_rc; };

static int code_of(sqlite3 *db)
{
	switch (sqlite3_errcode(db) & 255) {
	case SQLITE_FULL: return KLIEG_E_DISK_FULL;
	case SQLITE_CORRUPT: case SQLITE_NOTADB: return KLIEG_E_CORRUPT;
	case SQLITE_BUSY: case SQLITE_LOCKED: return KLIEG_E_BUSY;
	case SQLITE_CANTOPEN: case SQLITE_PERM: case SQLITE_READONLY: return KLIEG_E_DENIED;
	}
	return KLIEG_E_IO;
}

int state_open(const char *path, struct state **ret_s, struct err *e)
{
	struct state *s = base_calloc(1, sizeof *s);
	pthread_mutexattr_t own; /* a group has the lock, and what is in it takes it again */
	pthread_mutexattr_init(&own);
	pthread_mutexattr_settype(&own, PTHREAD_MUTEX_RECURSIVE);
	pthread_mutex_init(&s->lock, &own);
	pthread_mutexattr_destroy(&own);
	int rc = sqlite3_open_v2(path, &s->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, NULL);
	if (rc == SQLITE_OK) {
		sqlite3_busy_timeout(s->db, 5000);
		rc = sqlite3_exec(s->db, "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;"
			"CREATE TABLE IF NOT EXISTS doc(kind TEXT, id TEXT, version INT NOT NULL, json TEXT, PRIMARY KEY(kind, id)) WITHOUT ROWID", NULL, NULL, NULL);
	}
	if (rc == SQLITE_OK)
		rc = sqlite3_prepare_v2(s->db, "SELECT version, json FROM doc WHERE kind=? AND id=?", -1, &s->get, NULL);
	if (rc == SQLITE_OK)
		rc = sqlite3_prepare_v2(s->db, "INSERT INTO doc VALUES(?1,?2,?3,?4) ON CONFLICT DO UPDATE SET version=?3, json=?4", -1, &s->put, NULL);
	if (rc == SQLITE_OK)
		rc = sqlite3_prepare_v2(s->db, "SELECT id, version, json FROM doc WHERE kind=? AND json IS NOT NULL ORDER BY id", -1, &s->list, NULL);
	if (rc == SQLITE_OK)
		rc = sqlite3_prepare_v2(s->db, "DELETE FROM doc WHERE kind=? AND id=?", -1, &s->forget, NULL);
	if (rc != SQLITE_OK) {
		rc = err_set(e, code_of(s->db), "cannot open the state in %s: %s", path, sqlite3_errmsg(s->db));
		state_close(s);
		return rc;
	}
	chmod(path, 0600);
	*ret_s = s;
	return 0;
}

void state_close(struct state *s)
{
	if (!s)
		return;
	sqlite3_finalize(s->get);
	sqlite3_finalize(s->put);
	sqlite3_finalize(s->list);
	sqlite3_finalize(s->forget);
	sqlite3_close_v2(s->db);
	pthread_mutex_destroy(&s->lock);
	free(s);
}

/* Version and text of a document, under the lock. Never existed: version 0. */
static int look(struct state *s, const char *kind, const char *id, int64_t *ret_version, bool *ret_exists, struct buf *ret_json)
{
	sqlite3_bind_text(s->get, 1, kind, -1, SQLITE_STATIC);
	sqlite3_bind_text(s->get, 2, id, -1, SQLITE_STATIC);
	int rc = sqlite3_step(s->get), code = 0;
	*ret_version = 0;
	*ret_exists = false;
	if (rc == SQLITE_ROW) {
		*ret_version = sqlite3_column_int64(s->get, 0);
		const void *p = sqlite3_column_text(s->get, 1);
		*ret_exists = p != NULL;
		if (p && ret_json)
			buf_add(ret_json, p, (size_t)sqlite3_column_bytes(s->get, 1));
	} else if (rc != SQLITE_DONE) {
		code = code_of(s->db);
	}
	sqlite3_reset(s->get);
	return code;
}

static int run(struct state *s, const char *sql) { return sqlite3_exec(s->db, sql, NULL, NULL, NULL) == SQLITE_OK ? 0 : code_of(s->db); }

void state_group_begin(struct state *s)
{
	pthread_mutex_lock(&s->lock);
	if (!s->groups++)
		s->group_rc = run(s, "BEGIN IMMEDIATE");
}

int state_group_end(struct state *s, struct err *e)
{
	int rc = s->group_rc;
	if (!--s->groups) {
		rc = rc < 0 ? rc : run(s, "COMMIT");
		if (rc < 0) {
			err_set(e, rc, "cannot write the state: %s", sqlite3_errmsg(s->db));
			run(s, "ROLLBACK");
		}
	}
	pthread_mutex_unlock(&s->lock);
	return rc;
}

static int change(struct state *s, const char *kind, const char *id, const struct str *json, int64_t expected, int64_t *ret_version, struct err *e)
{
	int64_t version;
	bool exists;
	pthread_mutex_lock(&s->lock);
	/* Within a group: a part of it, so that what is refused takes nothing else with it. */
	int rc = s->groups && s->group_rc < 0 ? s->group_rc : run(s, s->groups ? "SAVEPOINT one" : "BEGIN IMMEDIATE");
	if (rc < 0) {
		pthread_mutex_unlock(&s->lock);
		return err_set(e, rc, "cannot write %s %s: %s", kind, id, err_title(rc));
	}
	rc = look(s, kind, id, &version, &exists, NULL);
	if (rc == 0 && !json && !exists)
		rc = err_set(e, KLIEG_E_NOT_FOUND, "no %s %s", kind, id);
	else if (rc == 0 && expected != STATE_ANY && expected != (exists ? version : STATE_NEW))
		rc = err_set(e, KLIEG_E_STALE, exists ? "%s %s has version %lld, not %lld" : "%s %s does not exist any more", kind, id, (long long)version, (long long)expected);
	else if (rc < 0)
		err_set(e, rc, "cannot read %s %s: %s", kind, id, err_title(rc));
	if (rc == 0) {
		sqlite3_bind_text(s->put, 1, kind, -1, SQLITE_STATIC);
		sqlite3_bind_text(s->put, 2, id, -1, SQLITE_STATIC);
		sqlite3_bind_int64(s->put, 3, version + 1);
		if (json)
			sqlite3_bind_text64(s->put, 4, json->p ? json->p : "", json->n, SQLITE_STATIC, SQLITE_UTF8);
		else
			sqlite3_bind_null(s->put, 4);
		if (sqlite3_step(s->put) != SQLITE_DONE || (sqlite3_reset(s->put), run(s, s->groups ? "RELEASE one" : "COMMIT")) < 0) {
			rc = code_of(s->db);
			err_set(e, rc, "cannot write %s %s: %s", kind, id, sqlite3_errmsg(s->db));
		}
		sqlite3_reset(s->put);
	}
	if (rc < 0)
		run(s, s->groups ? "ROLLBACK TO one; RELEASE one" : "ROLLBACK");
	pthread_mutex_unlock(&s->lock);
	if (rc == 0 && ret_version)
		*ret_version = version + 1;
	return rc;
}

int state_put(struct state *s, const char *kind, const char *id, struct str json, int64_t expected, int64_t *ret_version, struct err *e)
{
	return change(s, kind, id, &json, expected, ret_version, e);
}

int state_delete(struct state *s, const char *kind, const char *id, int64_t expected, struct err *e)
{
	return change(s, kind, id, NULL, expected, NULL, e);
}

int state_forget(struct state *s, const char *kind, const char *id)
{
	pthread_mutex_lock(&s->lock);
	sqlite3_bind_text(s->forget, 1, kind, -1, SQLITE_STATIC);
	sqlite3_bind_text(s->forget, 2, id, -1, SQLITE_STATIC);
	int rc = sqlite3_step(s->forget) == SQLITE_DONE ? 0 : code_of(s->db);
	sqlite3_reset(s->forget);
	pthread_mutex_unlock(&s->lock);
	return rc;
}

int state_get(struct state *s, const char *kind, const char *id, struct buf *ret_json, int64_t *ret_version)
{
	int64_t version;
	bool exists;
	pthread_mutex_lock(&s->lock);
	int rc = look(s, kind, id, &version, &exists, ret_json);
	pthread_mutex_unlock(&s->lock);
	if (rc == 0 && !exists)
		rc = KLIEG_E_NOT_FOUND;
	if (rc == 0 && ret_version)
		*ret_version = version;
	return rc;
}

int state_list(struct state *s, const char *kind, state_fn fn, void *arg)
{
	int rc = 0, r;
	pthread_mutex_lock(&s->lock);
	sqlite3_bind_text(s->list, 1, kind, -1, SQLITE_STATIC);
	while (rc == 0 && (r = sqlite3_step(s->list)) != SQLITE_DONE) {
		if (r != SQLITE_ROW) {
			rc = code_of(s->db);
			break;
		}
		struct str json = { (const char *)sqlite3_column_text(s->list, 2), (size_t)sqlite3_column_bytes(s->list, 2) };
		rc = fn(arg, (const char *)sqlite3_column_text(s->list, 0), sqlite3_column_int64(s->list, 1), json);
	}
	sqlite3_reset(s->list);
	pthread_mutex_unlock(&s->lock);
	return rc;
}
