/* Joins what several agents answered to one request (merge.c). */
#pragma once
#include <jansson.h>
#include <stdbool.h>

struct merge_part { const char *host; const json_t *result; };
/* n > 0. The result is new; params are those of the request (paging). */
json_t *merge_answers(const char *method, const json_t *params, const struct merge_part *parts, unsigned n);
