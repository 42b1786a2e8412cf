/* SQLite or PostgreSQL behind two calls. No probe here: cart.c has them, and a plugin can look at libpq or SQLite from outside. */
#include "database.h"
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#ifdef SHOP_POSTGRES
#include <libpq-fe.h>
#endif

const char *database_system = "sqlite";
static const char *place = "cart.db";

static void die(const char *what, const char *why)
{
	fprintf(stderr, "%s: %s: %s\n", database_system, what, why);
	exit(1);
}

/* ---- SQLite ---- */

static sqlite3 *lite(void)
{
	static _Thread_local sqlite3 *db;
	if (!db && sqlite3_open(place, &db) != SQLITE_OK)
		die(place, sqlite3_errmsg(db));
	sqlite3_busy_timeout(db, 5000);
	return db;
}

static long lite_query(const char *sql, long parameter, int *rows, long *values, int most, const char **ret_error)
{
	sqlite3_stmt *st;
	long sum = 0;
	if (sqlite3_prepare_v2(lite(), sql, -1, &st, NULL) != SQLITE_OK) {
		*ret_error = sqlite3_errmsg(lite());
		return -1;
	}
	sqlite3_bind_int64(st, 1, parameter);
	for (; sqlite3_step(st) == SQLITE_ROW; ++*rows) {
		long v = (long)sqlite3_column_int64(st, 0);
		if (*rows < most)
			values[*rows] = v;
		sum += v;
	}
	sqlite3_finalize(st);
	return sum;
}

/* ---- PostgreSQL ---- */

#ifdef SHOP_POSTGRES
static PGconn *pg(void)
{
	static _Thread_local PGconn *c;
	if (!c) {
		c = PQconnectdb(place);
		if (PQstatus(c) != CONNECTION_OK)
			die(place, PQerrorMessage(c));
	}
	return c;
}

static long pg_query(const char *sql, long parameter, int *rows, long *values, int most, const char **ret_error)
{
	char text[512], number[24];
	const char *const parameters[] = { number }, *mark = strchr(sql, '?');
	long sum = 0;
	snprintf(number, sizeof number, "%ld", parameter);
	if (mark)
		snprintf(text, sizeof text, "%.*s$1%s", (int)(mark - sql), sql, mark + 1);
	PGresult *r = PQexecParams(pg(), mark ? text : sql, mark ? 1 : 0, NULL, parameters, NULL, NULL, 0);
	if (PQresultStatus(r) != PGRES_TUPLES_OK) {
		static _Thread_local char why[256];
		snprintf(why, sizeof why, "%s", PQresultErrorMessage(r));
		*ret_error = why;
		PQclear(r);
		return -1;
	}
	for (; *rows < PQntuples(r); ++*rows) {
		long v = atol(PQgetvalue(r, *rows, 0));
		if (*rows < most)
			values[*rows] = v;
		sum += v;
	}
	PQclear(r);
	return sum;
}
#endif

/* ---- which of them ---- */

void database_where(const char *where)
{
	place = where;
	if (strncmp(where, "postgresql://", 13) && strncmp(where, "postgres://", 11))
		return;
	database_system = "postgresql";
#ifndef SHOP_POSTGRES
	die(where, "this shop was built without libpq (libpq-dev)");
#endif
}

void database_script(const char *sql)
{
#ifdef SHOP_POSTGRES
	if (*database_system == 'p') {
		PGresult *r = PQexec(pg(), sql);
		if (PQresultStatus(r) != PGRES_COMMAND_OK)
			die("script", PQresultErrorMessage(r));
		PQclear(r);
		return;
	}
#endif
	char *message = NULL;
	if (sqlite3_exec(lite(), "PRAGMA journal_mode=WAL", NULL, NULL, NULL) != SQLITE_OK || sqlite3_exec(lite(), sql, NULL, NULL, &message) != SQLITE_OK)
		die("script", message ? message : sqlite3_errmsg(lite()));
}

long database_query(const char *sql, long parameter, int *ret_rows, long *ret_values, int most, const char **ret_error)
{
	*ret_rows = 0;
	most = ret_values ? most : 0;
#ifdef SHOP_POSTGRES
	if (*database_system == 'p')
		return pg_query(sql, parameter, ret_rows, ret_values, most, ret_error);
#endif
	return lite_query(sql, parameter, ret_rows, ret_values, most, ret_error);
}
