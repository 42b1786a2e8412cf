/* PostgreSQL backends: a server span for each statement, from the moment that the backend reports itself running it (what
 * pg_stat_activity shows) to when it reports idle; parsing, planning, execution, commit and WAL flush as its children. A
 * statement that ends in a sqlcommenter comment (the pq plugin with sqlcommenter=on, and other instrumentations) continues its
 * client's trace. All of it by exported functions, which a stripped server still has. */
#include <klieg/plugin.h>
#include <dlfcn.h>
#include <stdlib.h>

static const char *(*config_option)(const char *name, _Bool missing_ok, _Bool restrict_privileged);
static char query[1];         /* a backend runs one statement at a time: its address is the key */
/* Hash of its text, to tell the steps of one statement (parse, bind, execute) from the next one; 0: idle. */
static uint64_t running;
static int version;           /* 150020 */

/* Asked in the backend's own thread: PostgreSQL has no other. */
static void learn(const struct klieg_host *host)
{
	const char *text = config_option("server_version_num", 1, 0);
	version = text ? atoi(text) : 0;
	if (version < 90600)
		host->note("postgres", "this version is not known: statements are not followed");
}

/* enum BackendState: running is the third, since version 18 the fourth. */
static int is_running(int state) { return version >= 180000 ? state == 3 : version >= 90600 && state == 2; }

static uint64_t hash(const char *s)
{
	uint64_t h = 0xcbf29ce484222325u;
	for (size_t i = 0; i < 4096 && s[i]; i++)
		h = (h ^ (unsigned char)s[i]) * 0x100000001b3u;
	return h | 1;
}

struct comment { char traceparent[64]; };
static const char *get(void *arg, const char *name)
{
	return strcmp(name, "traceparent") ? NULL : ((struct comment *)arg)->traceparent;
}

static void continue_trace(struct klieg_call *c, const char *sql)
{
	struct comment k;
	size_t n = strlen(sql);
	const char *at = strstr(n > 2048 ? sql + n - 2048 : sql, "traceparent='");
	if (!at || strlen(at) < 13 + 55 || at[13 + 55] != '\'')
		return;
	memcpy(k.traceparent, at + 13, 55);
	k.traceparent[55] = 0;
	c->host->parent(c, get, &k);
}

/* pgstat_report_activity(state, cmd_str) */
static int activity_enter(struct klieg_call *c)
{
	const char *sql = klieg_arg(c, 1);
	if (!version)
		learn(c->host);
	if (!is_running(klieg_arg_int(c, 0))) {
		c->host->close(c, query);
		running = 0;
		return KLIEG_PASS;
	}
	uint64_t text = sql ? hash(sql) : 0;
	if (!sql || (running == text && c->host->find(c, query)))
		return KLIEG_PASS;
	running = text;
	continue_trace(c, sql);
	if (c->host->open(c, query)) {
		klieg_set_text(c, "db.system.name", "postgresql");
		c->host->query(c, sql, KLIEG_TEXT_END);
	}
	return KLIEG_PASS;
}

/* Only the main loop calls it after an error. */
static int abort_enter(struct klieg_call *c)
{
	if (c->host->find(c, query))
		c->host->status(c, 1, NULL);
	return KLIEG_PASS;
}

static int step_enter(struct klieg_call *c) { return c->host->resume(c, query) ? KLIEG_TRACE : KLIEG_PASS; }

static int silent; /* no system calls of ours: seccomp watches, or Klieg is too old to be asked */

static int reads(struct klieg_call *c)
{
	int fd; /* a Port begins with it */
	if (!silent && c->host->read(&fd, klieg_arg(c, 0), sizeof fd) == sizeof fd)
		c->host->reading(c, fd);
	return KLIEG_PASS;
}

#define STEP(fn, name) { .function = fn, .site = name, .flags = KLIEG_HOOK_ROOT | KLIEG_HOOK_OPTIONAL, .level = KLIEG_LEVEL_COUNT, \
	.enter = step_enter }
static const struct klieg_plugin_hook hooks[] = {
	{ .function = "secure_raw_read", .site = "postgres.read", .flags = KLIEG_HOOK_OPTIONAL, .level = KLIEG_LEVEL_SPAN, .enter = reads },
	{ .function = "pgstat_report_activity", .site = "postgres.query", .kind = KLIEG_KIND_SERVER, .flags = KLIEG_HOOK_ROOT,
		.level = KLIEG_LEVEL_COUNT, .enter = activity_enter },
	{ .function = "AbortCurrentTransaction", .site = "postgres.query", .kind = KLIEG_KIND_SERVER, .level = KLIEG_LEVEL_COUNT,
		.enter = abort_enter },
	STEP("pg_parse_query", "postgres.parse"), STEP("pg_analyze_and_rewrite_fixedparams", "postgres.analyze"),
	STEP("pg_analyze_and_rewrite", "postgres.analyze"),
	STEP("pg_plan_query", "postgres.plan"), STEP("PortalRun", "postgres.execute"),
	STEP("CommitTransactionCommand", "postgres.commit"),
	STEP("XLogFlush", "postgres.wal_flush"),
	{ .function = "LockAcquireExtended", .site = "postgres.lock", .flags = KLIEG_HOOK_ROOT, .level = KLIEG_LEVEL_COUNT,
		.min_ns = 5000, .enter = step_enter }, /* waits only */
};

static struct klieg_plugin plugin = { sizeof plugin, KLIEG_PLUGIN_ABI, "postgres", "1.0", "PostgreSQL 9.6 and later", "postgres*",
	KLIEG_PLUGIN_HOOKS(hooks), NULL };

const struct klieg_plugin *klieg_plugin(const struct klieg_host *host)
{
	if (!(*(void **)&config_option = dlsym(RTLD_DEFAULT, "GetConfigOption")))
		plugin.unfit = "this is no PostgreSQL server: it exports no GetConfigOption";
	if (host->abi != KLIEG_PLUGIN_ABI)
		return NULL;
	silent = host->size < sizeof *host || host->filtered();
	return &plugin;
}
