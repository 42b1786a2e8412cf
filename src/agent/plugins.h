/* Instrumentors in attached processes: plugins.c. plugin_check.c tries one in a child of the agent's. */
#pragma once
#include "base/err.h"
#include <jansson.h>
#include <stdint.h>
#include <sys/types.h>

struct process;
struct inject_report;

struct plugin_hook {
	char library[128], function[128], site[128]; /* library "": the executable */
	uint64_t address;         /* of its struct klieg_plugin_hook in the process */
	uint32_t kind, flags;
	uint64_t min_ns;
};
struct plugin {
	char name[64], version[32], fits[160], note[256];
	struct plugin_hook *hooks;
	uint32_t nhooks;
};

/* spec: NAME, NAME:key=value,..., or a path. Blocking; any thread but the agent's. host: address of libklieg's table there. */
int plugin_load(pid_t pid, uint64_t host, const char *spec, struct plugin *ret_p, struct inject_report *ret_r, struct err *e);
void plugin_free(struct plugin *pl);
json_t *plugin_libraries(const struct plugin *pl, uint32_t n); /* globs of the files whose functions it names */

/* Agent thread. Says in notes what does not fit; returns the plugin's line for people. */
json_t *plugin_apply(struct process *p, const struct plugin *pl, json_t *notes);
/* The plugins that are in the process already are applied again, but for those that have just been loaded; lines about them are added to plugins. */
void plugins_recover(struct process *p, const struct plugin *named, uint32_t nnamed, json_t *plugins, json_t *notes);
void plugins_inherit(struct process *p, const struct process *from);

json_t *plugins_available(void); /* [{"name","path"}] of those that are found by name; any thread */

/* plugin_check.c: loads the file in a forked child and asks it what a process would: 0, or < 0 and why not. */
int plugin_check(const char *path, char ret_text[256]);
