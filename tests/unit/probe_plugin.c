/* A module with probes that comes and goes: loaded and unloaded by probe_dlopen_test. */
#define KLIEG_COMPONENT "plugin"
#include "klieg/klieg.h"

__attribute__((visibility("default"))) int plugin_work(int n);
__attribute__((visibility("default"))) int plugin_work(int n)
{
	KLIEG_SPAN("plugin.work", KLIEG_INT("n", n));
	KLIEG_EVENT("plugin.tick");
	return n + 1;
}
