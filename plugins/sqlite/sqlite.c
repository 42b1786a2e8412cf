/* SQLite: a span for each sqlite3_step (one row, or the whole of a statement that returns none), for preparing and for
 * sqlite3_exec around them. */
#include <klieg/plugin.h>
#include <dlfcn.h>

enum { SQLITE_OK = 0, SQLITE_ROW = 100, SQLITE_DONE = 101 };
static struct {
	const char *(*sql)(void *), *(*errstr)(int), *(*filename)(void *, const char *);
	void *(*handle)(void *);
} lite;

static void database(struct klieg_call *c, void *db)
{
	klieg_set_text(c, "db.system.name", "sqlite");
	if (db)
		klieg_set_text(c, "db.namespace", lite.filename(db, "main"));
}

static void step_begin(struct klieg_call *c)
{
	void *stmt = klieg_arg(c, 0);
	if (stmt) {
		database(c, lite.handle(stmt));
		c->host->query(c, lite.sql(stmt), KLIEG_TEXT_END);
	}
}

static void text_begin(struct klieg_call *c)
{
	database(c, klieg_arg(c, 0));
	size_t n = c->hook->data ? (size_t)(int64_t)klieg_arg_int(c, 2) : KLIEG_TEXT_END; /* nByte, < 0: to the NUL */
	c->host->query(c, klieg_arg(c, 1), (int64_t)n < 0 ? KLIEG_TEXT_END : n);
}

static void leave(struct klieg_call *c)
{
	int rc = klieg_result_int(c);
	if (rc == SQLITE_ROW || rc == SQLITE_DONE) {
		klieg_set_bool(c, "db.sqlite.row", rc == SQLITE_ROW);
	} else if (rc != SQLITE_OK) {
		c->host->status(c, 1, lite.errstr(rc));
		klieg_set_int(c, "db.response.status_code", rc);
	}
}

#define HOOK(fn, name, start, sized) { .library = "libsqlite3.so.0*", .function = fn, .site = name, .kind = KLIEG_KIND_CLIENT, \
	.level = KLIEG_LEVEL_SPAN, .begin = start, .leave = leave, \
	.data = (void *)sized }
static const struct klieg_plugin_hook hooks[] = {
	HOOK("sqlite3_step", "sqlite.step", step_begin, 0), HOOK("sqlite3_exec", "sqlite.exec", text_begin, 0),
	HOOK("sqlite3_prepare_v2", "sqlite.prepare", text_begin, 1), HOOK("sqlite3_prepare_v3", "sqlite.prepare", text_begin, 1),
	HOOK("sqlite3_prepare", "sqlite.prepare", text_begin, 1),
};

static struct klieg_plugin plugin = { sizeof plugin, KLIEG_PLUGIN_ABI, "sqlite", "1.0",
	"SQLite 3.7.15 and later, as a shared library", NULL, KLIEG_PLUGIN_HOOKS(hooks), NULL };

const struct klieg_plugin *klieg_plugin(const struct klieg_host *host)
{
	void *so = dlopen("libsqlite3.so.0", RTLD_LAZY | RTLD_NOLOAD);
	if (host->abi != KLIEG_PLUGIN_ABI)
		return NULL;
	if (!so) {
		plugin.unfit = "no libsqlite3.so.0 is loaded";
		return &plugin;
	}
	static const struct { const char *name; void *to; } needs[] = { { "sqlite3_sql", &lite.sql },
		{ "sqlite3_errstr", &lite.errstr },
		{ "sqlite3_db_filename", &lite.filename }, { "sqlite3_db_handle", &lite.handle } };
	for (size_t i = 0; i < sizeof needs / sizeof *needs; i++)
		if (!(*(void **)needs[i].to = dlsym(so, needs[i].name)))
			plugin.unfit = "this SQLite is older than 3.7.15";
	return &plugin;
}
