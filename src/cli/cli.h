/* The command line: one table of subcommands (commands.c), from which dispatch, `--help`, completions, the tests of the manual page and the
 * parser's idea of an option all come. One thread, blocking; only `top` has a second thread. Data goes to stdout, everything else to stderr. */
#pragma once
#include "base/buf.h"
#include "base/err.h"
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#define CLI_MAX_OPTIONS 32

/* Exit statuses; scripts rely on them. */
enum { CLI_OK = 0, CLI_NONE = 1, CLI_USAGE = 2, CLI_ABSENT = 3, CLI_DENIED = 4, CLI_PARTIAL = 5, CLI_REFUSED = 6, CLI_INTERRUPTED = 130 };

struct cli_option {
	char letter;             /* 0 = only the long form */
	const char *name;        /* without the dashes; NULL ends a list */
	const char *arg;         /* what its value is called in the help; NULL = a switch */
	const char *help;
};

struct cli_command {
	const char *name, *args, *summary;
	int (*run)(int argc, char **argv);     /* argv[0] is the command's name; returns the exit status */
	const char *about;                     /* the paragraph of --help */
	const struct cli_option *options;      /* besides cli_common_options */
	const char *const *examples;           /* "klieg ...  # what it does", NULL ends */
	int min_args, max_args;                /* positional arguments; max -1 = any number */
	bool rest;                             /* the first positional argument ends the options: run -- CMD */
};
extern const struct cli_command cli_commands[];    /* name NULL ends; entries whose run is NULL are not in this executable */
extern const struct cli_option cli_common_options[];
const struct cli_command *cli_find(const char *name);
/* The command that argv begins with, of two words where there is one: "policy check". */
const struct cli_command *cli_lookup(int argc, char **argv, int *ret_words);
void cli_group(FILE *f, const char *group);         /* one line per command of a group */
int cli_main(int argc, char **argv);

/* args.c: the parser. Pure. */
struct cli_args {
	const struct cli_command *cmd;
	const char *values[CLI_MAX_OPTIONS];       /* the command's options by index; "" for a switch that is given */
	const char *common[CLI_MAX_OPTIONS];
	char **pos;                                /* points into argv, which is permuted */
	int npos;
	struct { int at; const char *value; } given[CLI_MAX_OPTIONS];  /* the command's options in the order they were given, for those that may repeat */
	int ngiven;
};
int cli_parse(const struct cli_command *cmd, int argc, char **argv, struct cli_args *ret_args, struct err *e);
const char *cli_opt(const struct cli_args *a, const char *name);          /* NULL = not given */
const char *cli_opt_next(const struct cli_args *a, const char *name, int *at);   /* its values one by one; *at begins as 0 */
static inline bool cli_flag(const struct cli_args *a, const char *name) { return cli_opt(a, name) != NULL; }
int cli_parse_duration(const char *s, int64_t *ret_ns, struct err *e);    /* 250ms, 1.5s, 15m, 2h, 7d, 1h30m */
int cli_parse_keep(const char *s, double *ret_keep, struct err *e);       /* 10%, 0.1, 1 */
int cli_parse_budget(const char *s, double *ret_percent, struct err *e);
int cli_parse_rate(const char *s, double *ret_per_s, struct err *e);      /* 50/s, 50, 600/m */
int cli_parse_count(const char *s, int64_t min, int64_t max, int64_t *ret_n, struct err *e);
/* The nearest of the words offered one by one; NULL when none is near. */
struct cli_nearest { const char *word, *best; unsigned distance; };
void cli_nearest_offer(struct cli_nearest *n, const char *candidate);

/* What every command starts with: finds its entry by argv[0], parses, answers --help. True: return *ret_status at once. */
bool cli_begin(int argc, char **argv, struct cli_args *ret_args, int *ret_status);
/* Prints error[E...], hints; returns the exit status that belongs to the code. */
int cli_fail(const struct err *e);
int cli_fail_usage(const struct cli_command *cmd, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
int cli_status_of(int code);
void cli_print_help(const struct cli_command *cmd);
int cli_explain(const char *code);                 /* `klieg help E204`; CLI_NONE when there is no such code */

/* common.c: where this host's agent listens, given --dir or NULL. */
void cli_agent_socket(const char *dir, char *ret_path, size_t size);

/* client.c: HTTP/1.1 to the server, one connection per request, blocking. */
struct client { char host[256], port[16], path[108], named[420]; const char *from; };   /* path[0] != 0: a UNIX socket */
int client_find(const char *server, struct client *ret_c, struct err *e);
/* The answer's JSON in *ret_doc (the caller's). body is borrowed, may be NULL. A problem+json becomes *e; client_ask gives it to the caller, too, where its
 * further members matter (*ret_doc NULL when there was none). *ret_http may be NULL. */
int client_ask(const struct client *c, const char *method, const char *target, const json_t *body, json_t **ret_doc, int *ret_http, struct err *e);
int client_json(const struct client *c, const char *method, const char *target, const json_t *body, json_t **ret_doc, int *ret_http, struct err *e);
/* POSTs bytes; headers are more lines, each ending in \r\n. 0 with whatever status the server answered. */
int client_post(const struct client *c, const char *target, const char *headers, struct str body, int *ret_http, struct err *e);
/* Server-sent events until on_event returns non-zero (which is returned), the server ends the stream (0), or a signal (KLIEG_E_BUSY). */
typedef int (*client_event_fn)(void *arg, const char *event, json_t *data);
int client_events(const struct client *c, const char *target, client_event_fn on_event, void *arg, struct err *e);
void client_url(const struct client *c, const char *path, struct buf *ret_b);
/* target building: client_query(b, "q", "{ name = ... }") appends ?q=...  or &q=... percent-encoded. */
void client_query(struct buf *b, const char *key, const char *value);
void client_path(struct buf *b, const char *before, const char *name, const char *after);   /* before + percent-encoded name + after */
/* HTTP body decoding, also tested and fuzzed on its own: feeds bytes, gets body bytes. */
struct chunks { int state; uint64_t left; bool done; };
int chunks_feed(struct chunks *c, const char *p, size_t n, struct buf *out);

/* format.c: pure. Each writes a NUL-terminated text into a small buffer and returns it. */
struct fmt { char s[64]; };
const char *fmt_duration(struct fmt *f, double ns);    /* 1.23ms */
const char *fmt_count(struct fmt *f, double n);        /* 12.3k */
const char *fmt_bytes(struct fmt *f, double n);        /* 1.2 MB */
const char *fmt_percent(struct fmt *f, double p);      /* 0.013 -> 0.013 % */
const char *fmt_clock(struct fmt *f, int64_t unix_ns); /* 14:03:22.123 */
size_t fmt_width(const char *s, size_t n);             /* terminal columns of UTF-8 text */
void fmt_sparkline(struct buf *b, const double *v, unsigned n, bool ascii);
/* Text from outside on a terminal: control characters become '?', so that a span's name cannot steer it. */
void fmt_safe(struct buf *b, const char *s, size_t max_width);

/* table.c: rows of JSON as table, wide, csv, ndjson or json. */
enum column_kind { COL_TEXT, COL_LIST, COL_NS, COL_COUNT, COL_RATE, COL_BYTES, COL_PERCENT, COL_SHARE, COL_TIME, COL_LEFT, COL_BOOL, COL_DROPS };
struct column { const char *title, *key; enum column_kind kind; bool wide; int max; };  /* key may be a.b; max 0 = no limit */
enum output { OUT_TABLE, OUT_WIDE, OUT_JSON, OUT_NDJSON, OUT_CSV };
extern bool cli_colour, cli_ascii;
int output_of(const struct cli_args *a, enum output *ret_o, struct err *e);
void table_text(const json_t *rows, const struct column *cols, bool wide, bool colour, int64_t now_ns, struct buf *ret_b);
void table_csv(const json_t *rows, const struct column *cols, struct buf *ret_b);
/* Prints doc[key] (or the whole doc as json) in the format asked for. */
void output_rows(enum output o, json_t *doc, const char *key, const struct column *cols);
void output_json(json_t *doc);                         /* with "version":1, one line */
const char *style(const char *name);                   /* "bold", "dim", "red", ..., "off": an escape sequence or "" */

/* calltree.c: what GET /callgraph answers, as a tree. Pure. min_share is what was asked for. */
void calltree_text(const json_t *graph, double seconds, double min_share, int columns, bool ascii, bool colour, struct buf *ret_b);

/* waterfall.c: pure. */
void waterfall_text(const json_t *trace, int columns, bool verbose, bool ascii, bool colour, struct buf *ret_b);

/* A started command: arguments, server, format. What nearly every run() needs. */
struct cli {
	struct cli_args args;
	struct client client;
	enum output out;
};
static inline bool for_people(const struct cli *c) { return c->out == OUT_TABLE || c->out == OUT_WIDE; }
bool cli_open(int argc, char **argv, struct cli *ret_c, int *ret_status);
/* GET; on failure prints the error and returns the exit status > 0 through *ret_status, with NULL. */
json_t *cli_get(struct cli *c, const char *target, int *ret_status);
extern volatile int cli_interrupted;
void cli_catch_interrupt(void);
/* SIGINT and SIGTERM wait from before a toggle is made until it is gone again: no moment in which it could be left behind. until: true when one came. */
void cli_hold_signals(void);
bool cli_held_until(int64_t mono_ns);
int cli_toggle_off(const struct client *c, const char *id, json_t **ret_doc, struct err *e);
/* spans.c: key =~ "...", the glob p[0..n) as a regular expression. */
void cli_glob(struct buf *b, const char *key, const char *p, size_t n);
/* selector.c: pure. */
char *selector_filter(const char *sel);             /* a short form as a filter; the caller's */
void selector_condition(struct buf *b, const char *field, const char *value, size_t n);   /* field = "value", or =~ when it has wildcards */
/* sel as a filter in which field is value and nothing else is said about it; value "*": nothing is said about it. The caller's. */
char *selector_set(const char *sel, const char *field, const char *value);
const char *selector_field(unsigned i, const char **ret_option);      /* the option of `on`, narrow and widen and its field; NULL ends */
/* steer.c: the selector of SEL (may be NULL) and --service, --component, --endpoint, --tenant; NULL when there is nothing of all that. The caller's. */
char *cli_selector(const struct cli_args *a, const char *sel);
/* --host, --share, --rate into the body of a toggle. */
bool cli_reach(const struct cli_args *a, json_t *body, struct err *e);
const char *cli_plural(int64_t n);                     /* "" or "s" */

/* attach.c: the options of attach, that run has too, as the body of POST /attachments. NULL: *ret_status has been set. */
json_t *cli_attach_body(const struct cli_args *a, int *ret_status);
int cli_attach_request(const struct client *c, json_t *body, json_t **ret_doc, struct err *e);   /* steals body */
void cli_attach_print(FILE *f, const json_t *attachment);

/* A time range from --since/--from/--to. */
int cli_range(const struct cli_args *a, struct buf *target, struct err *e);

const char *jstr(const json_t *o, const char *key);    /* "" when absent */
double jnum(const json_t *o, const char *key);         /* 0 when absent */
int64_t jint(const json_t *o, const char *key);
const char *cli_who(void);                             /* the owner and author that is put down */

/* diag.c: pure. Diagnostics as compilers write them; text is what they are about. */
void diag_text(const json_t *diags, const char *file, struct str text, struct buf *b);
json_t *diff_lines(struct str from, struct str to);    /* [{op:" "|"+"|"-",text}] */
bool diff_text(const json_t *lines, struct buf *b);    /* with three lines around; false: no difference */

int cli_run(int, char **), cli_ps(int, char **), cli_ls(int, char **), cli_on(int, char **), cli_off(int, char **), cli_toggles(int, char **),
	cli_top(int, char **), cli_hot(int, char **), cli_tail(int, char **), cli_query(int, char **), cli_trace(int, char **), cli_inflight(int, char **),
	cli_attach(int, char **), cli_detach(int, char **), cli_illuminate(int, char **), cli_doctor(int, char **), cli_status(int, char **),
	cli_open_dashboard(int, char **), cli_completion(int, char **), cli_help(int, char **), cli_version(int, char **),
	cli_policy(int, char **), cli_policy_check(int, char **), cli_policy_plan(int, char **), cli_policy_apply(int, char **), cli_policy_ls(int, char **),
	cli_policy_show(int, char **), cli_policy_diff(int, char **), cli_policy_history(int, char **), cli_policy_rollback(int, char **), cli_policy_off(int, char **),
	cli_policy_rollout(int, char **), cli_policy_promote(int, char **), cli_policy_stop(int, char **), cli_policy_export(int, char **), cli_policy_schema(int, char **),
	cli_panic(int, char **), cli_alerts(int, char **), cli_firings(int, char **), cli_overhead(int, char **), cli_token(int, char **), cli_widen(int, char **),
	cli_narrow(int, char **), cli_audit(int, char **), cli_revert(int, char **), cli_plugins(int, char **);
/* In the composed executable only (up.c, agent.c, server.c are linked by src/meson.build); absent in the unit tests. */
int cli_up(int, char **) __attribute__((weak));
int cli_background(const struct cli_args *a, struct err *e);     /* --nice: what is busy runs after others */
int cli_agent(int, char **) __attribute__((weak));
int cli_server(int, char **) __attribute__((weak));
