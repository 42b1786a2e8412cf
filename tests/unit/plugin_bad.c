/* Plugins that must not get into a process: BAD says how. */
#include <klieg/plugin.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#define HOOK { .library = NULL, .function = "main" }
#if BAD == 1 /* crashes while it is loaded */
__attribute__((constructor)) static void crash(void) { raise(SIGSEGV); }
#elif BAD == 2 /* never comes back */
__attribute__((constructor)) static void hang(void) { for (;;) pause(); }
#elif BAD == 3 /* ends the process */
__attribute__((constructor)) static void leave(void) { _exit(7); }
#endif
#if BAD == 4 /* of another time */
static struct klieg_plugin_hook hooks[] = { HOOK };
static struct klieg_plugin plugin = { sizeof plugin, 99, "bad", NULL, NULL, NULL, KLIEG_PLUGIN_HOOKS(hooks), NULL };
#elif BAD == 5 /* hooks that are not there */
static struct klieg_plugin plugin = { sizeof plugin, KLIEG_PLUGIN_ABI, "bad", NULL, NULL, NULL, (const struct klieg_plugin_hook *)0x1000, 3, sizeof(struct klieg_plugin_hook), NULL };
#elif BAD == 6 /* a hook without a function */
static struct klieg_plugin_hook hooks[] = { HOOK, { .site = "x" } };
static struct klieg_plugin plugin = { sizeof plugin, KLIEG_PLUGIN_ABI, "bad", NULL, NULL, NULL, KLIEG_PLUGIN_HOOKS(hooks), NULL };
#elif BAD == 7 /* not a name */
static struct klieg_plugin_hook hooks[] = { HOOK };
static struct klieg_plugin plugin = { sizeof plugin, KLIEG_PLUGIN_ABI, "Bad Name", NULL, NULL, NULL, KLIEG_PLUGIN_HOOKS(hooks), NULL };
#elif BAD == 8 /* too small: an older header without half of it */
static struct klieg_plugin_hook hooks[] = { HOOK };
static struct klieg_plugin plugin = { 16, KLIEG_PLUGIN_ABI, "bad", NULL, NULL, NULL, KLIEG_PLUGIN_HOOKS(hooks), NULL };
#else
static struct klieg_plugin_hook hooks[] = { HOOK };
static struct klieg_plugin plugin = { sizeof plugin, KLIEG_PLUGIN_ABI, "bad", NULL, NULL, NULL, KLIEG_PLUGIN_HOOKS(hooks), NULL };
#endif

#if BAD != 9 /* no plugin at all */
const struct klieg_plugin *klieg_plugin(const struct klieg_host *host)
{
#if BAD == 10
	(void)host;
	return NULL;
#elif BAD == 11 /* crashes when called */
	(void)host;
	raise(SIGSEGV);
#endif
	return host->abi ? &plugin : NULL;
}
#else
int not_a_plugin(void);
int not_a_plugin(void) { return plugin.nhooks != 0; }
#endif
