/* Where a service keeps its rows: SQLite in a file, or PostgreSQL if `where` begins with postgresql://. Two calls are all the shop needs. Each thread has a connection of its own. */
#pragma once

extern const char *database_system; /* "sqlite", "postgresql": OpenTelemetry's db.system.name */

void database_where(const char *where);    /* before the first use */
void database_script(const char *sql);     /* ends the program if it cannot be run */
/* A one-number query with one integer parameter, `?`: adds up what it returns. -1: it failed, and why is in *ret_error. ret_values: the first `most` of them, may be NULL. */
long database_query(const char *sql, long parameter, int *ret_rows, long *ret_values, int most, const char **ret_error);
