/* Between functions.c (what can be intercepted in an attached process), hooks.c (intercepting it) and attach.c (coming and going). Agent thread, unless said otherwise. */
#pragma once

/* One file of a process, open for reading, with its functions. Made on any thread, then owned by the process's struct functions. */
struct function_file {
	char *path, *base;        /* as the process sees it; its last part */
	char *soname;             /* of a library, "" = none */
	uint64_t start;           /* its first executable mapping in the process */
	uint64_t bias;            /* run-time address - address in the file */
	struct symbols *symbols;  /* shared: symbols_borrow() / symbols_return() */
	bool exe;
};

struct hook {
	uint64_t stub;            /* in the process; 0 = none yet */
	struct symbols_moved *moved;
};

struct function_module {
	struct function_file file;
	uint32_t first, n;        /* site indices, in the order of symbols_functions() */
	uint16_t module;          /* in p->modules */
	struct hook *hooks;       /* n */
	uint64_t text_hash;       /* of its executable segments in memory when we came */
};

struct functions {
	struct function_module *mods;
	uint32_t nmods;
	char **roots; uint32_t nroots;
	bool live;                /* false: detached; the stubs stay where they are for the next time */
	int64_t max_pause_ns;     /* for this process; a toggle may ask for another */
	int64_t last_pause_ns, longest_pause_ns;
	uint64_t arms;            /* times the process was stopped */
	char problem[256];        /* of the last arming, "" = none */
	char condition_problem[256]; /* why a toggle's condition on arguments does not apply, "" = none */
	struct watch *watch;      /* watch.c; NULL = nothing was ever to be observed */
	bool retry;               /* some function could not be armed yet: a thread was inside its first bytes */
};

#define MAX_PAUSE_DEFAULT (10 * 1000000ll)
#define MAX_FUNCTIONS_DEFAULT 2000u

/* Shared between processes that run the same file. Any thread. */
int symbols_borrow(struct agent *a, int fd, const char *debug_file, struct symbols **ret_s, struct err *e);
void symbols_return(struct agent *a, struct symbols *s);

/* The executable and the libraries whose base name matches one of the globs; or, with notes, those that were attached before. Reads /proc; any thread. */
int functions_files(struct agent *a, pid_t pid, const json_t *globs, const char *debug_file, const struct kw_control *notes,
	struct function_file **ret_f, uint32_t *ret_n, struct err *e);
char *program_name(pid_t pid, const char *file); /* the caller's to free; file: the last part of its executable's path */
void functions_files_free(struct agent *a, struct function_file *f, uint32_t n);

/* Makes the functions of those files sites of p; takes f. Files that are there already are left as they are. */
int functions_add(struct process *p, struct function_file *f, uint32_t n, struct err *e);
void functions_hide(struct process *p);            /* detached: no sites any more */
void functions_destroy(struct process *p);
void functions_inherit(struct process *p);         /* p was forked by an attached process: what that one has, it has too */
void functions_recover(struct process *p);         /* a former agent attached to p */
void functions_roots(struct process *p);           /* marks the sites that are roots */
const struct function_module *function_module_of(const struct process *p, uint32_t site);
const struct symbols_function *function_of(const struct process *p, uint32_t site);
uint64_t functions_text_hash(struct process *p, const struct function_module *m);
void function_json(const struct process *p, uint32_t site, json_t *o);
/* What a site records at detail, from DWARF or plainly by the ABI; sets the site's keys to match. Returns how many. */
uint32_t functions_arguments(struct process *p, uint32_t site, struct kw_arg ret_args[KW_HOOK_ARGS]);
bool function_at(const struct process *p, uint64_t addr, uint32_t *ret_site); /* the one that starts there in the process */
/* The one that the variable at `slot` (an address of m's file) points to now. */
bool function_in_slot(const struct process *p, const struct function_module *m, uint64_t slot, uint32_t *ret_site);
/* For level deep: calls fn for every hookable site that the function calls, as far as its code says, or has been seen to call (watch.c). */
void functions_callees(struct process *p, uint32_t site, void (*fn)(void *arg, uint32_t site), void *arg);

/* hooks.c: arms and disarms what the sites' levels say. The process is stopped for it, for at most its budget. */
void hooks_apply(struct process *p);
int hooks_remove(struct process *p, int64_t *ret_pause_ns, struct err *e); /* all jumps away, return addresses put back */
void hooks_find(struct process *p, struct function_module *m);              /* stubs that are there already: of a former agent, of the parent */

/* For the account: how many spans are open of calls that were left by longjmp or an exception, in threads that have been idle since: they will not end. */
uint64_t hooks_gone(struct process *p);

int64_t hooks_budget(const struct process *p);    /* how long it may stand still at a time */
/* Memory of the process that it can write; it stays until it ends. */
int hooks_memory(struct process *p, size_t bytes, uint64_t *ret_addr, struct err *e);

/* watch.c: what illuminated functions call through pointers */
void watch_tick(struct agent *a);                  /* in every turn */
bool watch_follow(struct agent *a);                /* the rules have changed: nothing is watched for rules that are gone; true: something has ended */
void watch_forget(struct process *p);              /* detached */
void watch_destroy(struct process *p);
/* For a site that is watched: where its calls are noted, and which return addresses matter. */
void watch_configure(const struct process *p, uint32_t site, struct kw_hook *h);
/* The i-th function or a later one that `site` was seen to call; i counts them. */
bool watch_edge(const struct process *p, uint32_t i, uint32_t site, uint32_t *ret_to);
json_t *watch_json(const struct agent *a, const struct rule *r); /* for `toggles`: what was observed for a deep rule, and what may have been missed */

/* attach.c: the methods; they reply later, from the agent's thread. */
struct request;
void attach_request(struct agent *a, struct request *r);
void attach_done(struct agent *a);                 /* takes what the workers have finished */
void attach_stop(struct agent *a);                 /* waits for the workers */
int detach(struct agent *a, const json_t *params, json_t **ret_o, struct err *e);
int callees(struct agent *a, const json_t *params, json_t **ret_o, struct err *e);
json_t *candidates(struct agent *a);

/* condition.c: 'arg.2 > 4096 && arg.name != 0', compiled once, evaluated in the process. */
struct condition;
bool condition_is(const char *text);               /* is it about arguments? */
int condition_parse(const char *text, struct condition **ret_c, struct err *e);
void condition_destroy(struct condition *c);
/* For one function; false: it has no such argument, and why. */
bool condition_compile(const struct condition *c, const struct symbols_signature *sig, struct kw_where ret_w[KW_HOOK_WHERE], uint8_t *ret_n, struct err *e);
