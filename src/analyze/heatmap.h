/* Latency over time: a grid of columns (time) by rows (logarithmic latency), with a count and one exemplar trace per cell. Feed it from a
 * store scan (heatmap_visit is a store_visit_fn). One thread. */
#pragma once
#include "model/batch.h"

#define HEATMAP_ROWS 56u               /* half-octave steps from 1 us: row k holds up to bounds_ns[k]; the last is open */
#define HEATMAP_COLUMNS_MAX 1000u

struct heatmap_cell { double count, errors; uint64_t trace_hi, trace_lo; int64_t exemplar_ns; }; /* exemplar: the cell's slowest */
struct heatmap {
	int64_t from_ns, to_ns, step_ns;
	uint32_t columns;
	int64_t bounds_ns[HEATMAP_ROWS];  /* upper bounds, inclusive; the last INT64_MAX */
	struct heatmap_cell *cells;       /* [column * HEATMAP_ROWS + row] */
	uint64_t matched, outside;        /* spans seen; of these outside of from..to */
	double max;                       /* largest count of a cell */
};
/* Half-open from..to by start time. columns: 0 = 120. KLIEG_E_USAGE if the range is empty or columns too many. */
int heatmap_init(struct heatmap *m, int64_t from_ns, int64_t to_ns, uint32_t columns);
void heatmap_finish(struct heatmap *m);
int heatmap_visit(void *heatmap, const struct batch *b, uint32_t i); /* always 0 */
/* As `GET /heatmap` answers (docs/api.md), with the exemplars of the cells that have any. */
void heatmap_render_json(const struct heatmap *m, struct buf *ret_json);
