/* The instrumentors that are installed: found by name, tried out in a process of their own, and read from the process that they were loaded into. Any thread. */
#pragma once
#include "base/err.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PLUGINS_HOOKS_MAX 128u

/* A hook as the agent needs it: plain text, checked. */
struct plugin_hook {
	char library[64];        /* glob; "" = the executable */
	char function[128];
	char site[64];           /* never "" */
	uint32_t kind;           /* KW_SITE_SERVER, ... : bits of kw_site.flags */
	uint32_t flags;          /* enum klieg_hook_flags */
	uint64_t min_ns;
	uint64_t address;        /* of its struct klieg_plugin_hook in the process, for kw_hook.data; 0 from plugins_check() */
	bool handlers;           /* it has handlers or a rule for errors: kw_hook.enter and .leave have to be other than 0 */
};
struct plugin {
	char name[32], version[32], fits[160], program[64];
	char unfit[160];         /* why it can do nothing in this process; "" = it can */
	uint32_t nhooks;
	struct plugin_hook hooks[PLUGINS_HOOKS_MAX];
};

/* The file of plugin `name` (or a path with a slash in it): in $KLIEG_PLUGINS (directories, colons between), then beside this executable as it was installed.
 * KLIEG_E_NOT_FOUND names those that there are. */
int plugins_find(const char *name, char ret_path[4096], struct err *e);
/* Names of all that can be found, sorted, NUL after NUL, an empty one at the end; the caller's to free(). */
char *plugins_names(void);
/* Loads it into a forked child, calls it, checks what it says. KLIEG_E_BAD_DATA with what is wrong: not a plugin, of another ABI, crashed, hung, exited. *ret_p
 * (may be NULL) is the caller's to free(). */
int plugins_check(const char *path, struct plugin **ret_p, struct err *e);
/* What klieg_plugin() returned in a process: `mem` is its /proc/PID/mem, `address` where its struct klieg_plugin is. Believes nothing. */
int plugins_read(int mem, uint64_t address, struct plugin **ret_p, struct err *e);
/* Does it want to be in a process with this executable and these modules (file names or sonames)? */
bool plugins_wants(const struct plugin *p, const char *program, const char *const *modules, uint32_t nmodules);
/* Tells the plugins in a process their options, "NAME:key=value,..."; host = kw_region.plugin_host. Before they are loaded. */
int plugins_set_options(int mem, uint64_t host, const char *options, struct err *e);
/* What plugins noted there: "PLUGIN: text" lines, "" if nothing; the caller's to free(). */
char *plugins_notes(int mem, uint64_t host);
