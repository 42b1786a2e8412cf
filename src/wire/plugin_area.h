/* What the agent and the plugins in a traced process tell each other, beside the host table of libklieg: at
 * kw_region.plugin_host + KW_PLUGIN_AREA. The agent reads and writes it through /proc/PID/mem and believes none of it. */
#pragma once
#include <stdint.h>

#define KW_PLUGIN_AREA 512u      /* the host table comes before, and may grow up to here */
#define KW_PLUGIN_OPTIONS 2048u
#define KW_PLUGIN_NOTES 16u
struct kw_plugin_note { char plugin[32]; char text[160]; };
#define KW_PLUGINS 16u
/* A plugin that is in the process: where klieg_plugin() said it is, and what the user said of it, NAME:key=value,... */
struct kw_plugin_loaded { uint64_t at; char spec[248]; };
struct kw_plugin_area {
	char options[KW_PLUGIN_OPTIONS]; /* agent, before it loads a plugin: "NAME:key=value,key=value NAME:..."; NUL-terminated */
	uint32_t notes_n;            /* library: notes that are whole */
	uint32_t notes_lost;
	uint64_t requests_lost;      /* library: requests not followed, because too many were open */
	struct kw_plugin_note notes[KW_PLUGIN_NOTES];
	struct kw_plugin_loaded loaded[KW_PLUGINS]; /* agent: for the next attach, and for the agent after it; at 0: no entry */
};
_Static_assert(sizeof(struct kw_plugin_area) == KW_PLUGIN_OPTIONS + 16 + KW_PLUGIN_NOTES * sizeof(struct kw_plugin_note) +
	KW_PLUGINS * sizeof(struct kw_plugin_loaded), "no holes");
