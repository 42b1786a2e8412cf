/* What a rollout saw between two looks; see window.c. Lists of processes are [{host,pid,...}]; in: those of the canary, else
 * the others of `matched`. */
#pragma once
#include "server/compare.h"
#include <jansson.h>
#include <stdint.h>

struct window {
	json_t *began;                   /* "HOST PID" -> its vitals when it began; NULL: it has not */
	json_t *canary;                  /* "HOST PID" of all matched processes -> whether it is in the canary */
	int64_t since;                   /* when that was */
	double overhead[2]; unsigned looks; /* of canary and rest: the highest of each look, added up */
	bool busy;                       /* a host of the canary had no CPU to spare at one of them */
};
bool window_has(const json_t *list, const json_t *row);
void window_begin(struct window *w, const json_t *matched, const json_t *canary, const json_t *rows);
void window_drop(struct window *w);
/* ret_limit: the lowest overhead that the hosts and the rules allow the canary; 0: nobody limits it. */
void window_look(struct window *w, const json_t *rows, double *ret_limit);
void window_groups(const struct window *w, const json_t *past, const json_t *rows, bool in, struct compare_group *ret_now, struct compare_group *ret_before);
json_t *window_past(const struct window *w, const json_t *matched, const json_t *rows, double *ret_seen);  /* new: what was before, process by process */
json_t *window_json(const struct compare_group *g, bool past);                                          /* new: for people */
