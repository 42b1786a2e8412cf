/* libpq: a client span for each statement, its text without literals, what the server said.
 *
 * The asynchronous interface (PQsendQuery, ...) is one span from the send to the PQgetResult that returns NULL. With `--plugin
 * pq:sqlcommenter=on` statements carry the trace context as a comment at their end (https://google.github.io/sqlcommenter): the
 * postgres plugin reads it on the other side. */
#include <klieg/plugin.h>
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

enum { FATAL_ERROR = 7, BAD_RESPONSE = 5, SQLSTATE = 'C' };
static struct {
	char *(*db)(const void *), *(*host)(const void *), *(*port)(const void *), *(*error)(const void *);
	int (*status)(const void *), (*ntuples)(const void *);
	char *(*field)(const void *, int), *(*result_error)(const void *);
} pq;
static int commenting;

/* Connections inside PQexec and its like, which send and wait by the asynchronous functions. */
enum { BUSY = 1024 };
static const void *busy[BUSY];
static const void **busy_at(const void *conn) { return &busy[((uint64_t)(uintptr_t)conn >> 4) * 0x9e3779b97f4a7c15u >> 54]; }

static void describe(struct klieg_call *c, const void *conn)
{
	const char *port = pq.port(conn);
	klieg_set_text(c, "db.system.name", "postgresql");
	klieg_set_text(c, "db.namespace", pq.db(conn));
	klieg_set_text(c, "server.address", pq.host(conn));
	if (port && *port)
		klieg_set_int(c, "server.port", atoi(port));
}

/* The statement with the context behind it; the caller's to free(). NULL: leave it as it is. */
static char *commented(struct klieg_call *c, const char *sql)
{
	struct klieg_plugin_headers w3c;
	size_t n = strlen(sql);
	if (!commenting || !c->host->headers(c, &w3c) || strstr(sql, "traceparent="))
		return NULL;
	while (n && (sql[n - 1] == ';' || sql[n - 1] == ' ' || sql[n - 1] == '\n'))
		n--;
	char *to = n ? malloc(n + 128) : NULL;
	if (to)
		snprintf(to, n + 128, "%.*s /*traceparent='%s'*/", (int)n, sql, w3c.traceparent);
	return to;
}

/* hook->data: which argument is the statement; 0: there is none, argument 1 names a prepared one. */
static void statement(struct klieg_call *c)
{
	size_t at = (size_t)(uintptr_t)c->hook->data;
	const char *sql = at ? klieg_arg(c, (unsigned)at) : NULL;
	describe(c, klieg_arg(c, 0));
	if (sql)
		c->host->query(c, sql, KLIEG_TEXT_END);
	else if (klieg_arg(c, 1))
		klieg_set_text(c, "db.operation.name", "EXECUTE"), klieg_set_text(c, "db.query.summary", klieg_arg(c, 1));
}

static void rewrite(struct klieg_call *c)
{
	size_t at = (size_t)(uintptr_t)c->hook->data;
	char *text = at && klieg_arg(c, (unsigned)at) ? commented(c, klieg_arg(c, (unsigned)at)) : NULL;
	if (text) {
		c->args[at] = (uint64_t)(uintptr_t)text;
		c->user[0] = (uint64_t)(uintptr_t)text;
	}
}

static void begin(struct klieg_call *c)
{
	if (!klieg_arg(c, 0))
		return;
	c->user[1] = c->args[0];
	*busy_at(klieg_arg(c, 0)) = klieg_arg(c, 0);
	statement(c);
	rewrite(c);
}

static void outcome(struct klieg_call *c, const void *result)
{
	int status = pq.status(result); /* of NULL: a fatal error */
	if (status == FATAL_ERROR || status == BAD_RESPONSE) {
		c->host->status(c, 1, result ? pq.result_error(result) : NULL);
		if (result)
			klieg_set_text(c, "db.response.status_code", pq.field(result, SQLSTATE));
	} else {
		klieg_set_int(c, "db.response.returned_rows", pq.ntuples(result));
	}
}

static void leave(struct klieg_call *c)
{
	free((void *)(uintptr_t)c->user[0]);
	if (c->user[1])
		*busy_at((const void *)(uintptr_t)c->user[1]) = NULL;
	outcome(c, klieg_result(c));
}

/* The call itself is no span of its own: it copies the statement, and returns. */
static int send_enter(struct klieg_call *c)
{
	void *conn = klieg_arg(c, 0);
	if (!conn || *busy_at(conn) == conn || !c->host->open(c, conn))
		return KLIEG_PASS;
	statement(c);
	rewrite(c);
	return c->user[0] ? KLIEG_TRACE : KLIEG_PASS;
}

static void send_leave(struct klieg_call *c)
{
	free((void *)(uintptr_t)c->user[0]);
	c->host->drop(c);
}

static int result_enter(struct klieg_call *c)
{
	c->user[0] = c->args[0];
	return klieg_arg(c, 0) && c->host->find(c, klieg_arg(c, 0)) ? KLIEG_TRACE : KLIEG_PASS;
}

static void result_leave(struct klieg_call *c)
{
	const void *conn = (const void *)(uintptr_t)c->user[0];
	c->host->drop(c); /* it is on the request's account */
	if (!c->host->find(c, conn))
		return;
	if (klieg_result(c))
		outcome(c, klieg_result(c));
	else
		c->host->close(c, conn);
}

#define CALL(fn, name, at) { .library = "libpq.so.5*", .function = fn, .site = name, .kind = KLIEG_KIND_CLIENT, \
	.level = KLIEG_LEVEL_SPAN, .begin = begin, .leave = leave, .data = (void *)at }
#define SEND(fn, at) { .library = "libpq.so.5*", .function = fn, .site = "pq.send", .kind = KLIEG_KIND_CLIENT, \
	.level = KLIEG_LEVEL_COUNT, .enter = send_enter, .leave = send_leave, \
	.data = (void *)at }
static const struct klieg_plugin_hook hooks[] = {
	CALL("PQexec", "pq.exec", 1), CALL("PQexecParams", "pq.exec", 1), CALL("PQprepare", "pq.prepare", 2),
	CALL("PQexecPrepared", "pq.exec_prepared", 0),
	SEND("PQsendQuery", 1), SEND("PQsendQueryParams", 1), SEND("PQsendPrepare", 2), SEND("PQsendQueryPrepared", 0),
	{ .library = "libpq.so.5*", .function = "PQgetResult", .site = "pq.send", .kind = KLIEG_KIND_CLIENT,
		.level = KLIEG_LEVEL_COUNT, .enter = result_enter, .leave = result_leave },
	{ .library = "libpq.so.5*", .function = "PQconnectPoll", .site = "pq.connect", .kind = KLIEG_KIND_CLIENT,
		.flags = KLIEG_HOOK_COUNT },
};

static struct klieg_plugin plugin = { sizeof plugin, KLIEG_PLUGIN_ABI, "pq", "1.0", "libpq of PostgreSQL 9.3 and later", NULL,
	KLIEG_PLUGIN_HOOKS(hooks), NULL };

const struct klieg_plugin *klieg_plugin(const struct klieg_host *host)
{
	void *so = dlopen("libpq.so.5", RTLD_LAZY | RTLD_NOLOAD);
	char value[8];
	if (host->abi != KLIEG_PLUGIN_ABI)
		return NULL;
	if (!so) {
		plugin.unfit = "no libpq.so.5 is loaded";
		return &plugin;
	}
	static const struct { const char *name; void *to; } needs[] = { { "PQdb", &pq.db }, { "PQhost", &pq.host },
		{ "PQport", &pq.port }, { "PQerrorMessage", &pq.error },
		{ "PQresultStatus", &pq.status }, { "PQntuples", &pq.ntuples }, { "PQresultErrorField", &pq.field },
			{ "PQresultErrorMessage", &pq.result_error } };
	for (size_t i = 0; i < sizeof needs / sizeof *needs; i++)
		if (!(*(void **)needs[i].to = dlsym(so, needs[i].name)))
			plugin.unfit = "this libpq lacks a function of version 9.3";
	commenting = host->option("pq", "sqlcommenter", value, sizeof value) > 0 && (!strcmp(value, "on") || !strcmp(value, "1"));
	return &plugin;
}
