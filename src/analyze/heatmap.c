/* The time x latency grid behind Explore. Fixed rows, so grids of different ranges line up; the renderer leaves out the empty rows at both
 * ends. Memory: one cell is 40 bytes, a full grid below 2 MB. */
#include "analyze/heatmap.h"
#include "base/err.h"
#include <stdlib.h>

int heatmap_init(struct heatmap *m, int64_t from_ns, int64_t to_ns, uint32_t columns)
{
	int64_t range;
	if (to_ns <= from_ns || columns > HEATMAP_COLUMNS_MAX || __builtin_sub_overflow(to_ns, from_ns, &range))
		return KLIEG_E_USAGE;
	*m = (struct heatmap){ .from_ns = from_ns, .to_ns = to_ns, .columns = columns ? columns : 120 };
	m->step_ns = (range - 1) / m->columns + 1;
	for (uint32_t k = 0; k < HEATMAP_ROWS; k++) /* 1, 1.5, 2, 3, 4, 6, ... us */
		m->bounds_ns[k] = (1000ll << k / 2) + (k % 2 ? 500ll << k / 2 : 0);
	m->bounds_ns[HEATMAP_ROWS - 1] = INT64_MAX;
	m->cells = base_calloc((size_t)m->columns * HEATMAP_ROWS, sizeof *m->cells);
	return 0;
}

void heatmap_finish(struct heatmap *m)
{
	free(m->cells);
	m->cells = NULL;
}

static uint32_t row_of(const struct heatmap *m, int64_t ns)
{
	uint32_t lo = 0, hi = HEATMAP_ROWS - 1;
	while (lo < hi) {
		uint32_t mid = (lo + hi) / 2;
		if (ns <= m->bounds_ns[mid])
			hi = mid;
		else
			lo = mid + 1;
	}
	return lo;
}

int heatmap_visit(void *arg, const struct batch *b, uint32_t i)
{
	struct heatmap *m = arg;
	const struct span *s = b->spans + i;
	m->matched++;
	if (s->start_ns < m->from_ns || s->start_ns >= m->to_ns) {
		m->outside++;
		return 0;
	}
	uint32_t column = (uint32_t)((s->start_ns - m->from_ns) / m->step_ns);
	struct heatmap_cell *c = m->cells + (size_t)column * HEATMAP_ROWS + row_of(m, s->duration_ns);
	if (c->count == 0 || s->duration_ns > c->exemplar_ns) {
		c->trace_hi = s->trace_hi;
		c->trace_lo = s->trace_lo;
		c->exemplar_ns = s->duration_ns;
	}
	c->count += span_adjusted_count(s);
	c->errors += s->status == STATUS_ERROR ? span_adjusted_count(s) : 0;
	m->max = c->count > m->max ? c->count : m->max;
	return 0;
}

/* Bounds and counts go from the first to the last row that has any span, so an idle range is a small document. The open row has no finite
 * bound: it is written as the largest integer that JavaScript holds exactly. */
void heatmap_render_json(const struct heatmap *m, struct buf *ret_json)
{
	struct buf *b = ret_json;
	uint32_t lo = HEATMAP_ROWS, hi = 0;
	for (uint32_t c = 0; c < m->columns; c++)
		for (uint32_t r = 0; r < HEATMAP_ROWS; r++)
			if (m->cells[c * HEATMAP_ROWS + r].count > 0) {
				lo = r < lo ? r : lo;
				hi = r > hi ? r : hi;
			}
	buf_printf(b, "{\"from\":%lld,\"to\":%lld,\"step_nano\":%lld,\"bounds\":[", (long long)m->from_ns, (long long)m->to_ns, (long long)m->step_ns);
	for (uint32_t r = lo; r <= hi && r < HEATMAP_ROWS; r++)
		buf_printf(b, "%s%lld", r == lo ? "" : ",", m->bounds_ns[r] == INT64_MAX ? 9007199254740991ll : (long long)m->bounds_ns[r]);
	buf_add_str(b, "],\"columns\":[");
	for (uint32_t c = 0; c < m->columns; c++) {
		buf_add_str(b, c ? ",[" : "[");
		for (uint32_t r = lo; r <= hi && r < HEATMAP_ROWS; r++)
			buf_printf(b, "%s%.0f", r == lo ? "" : ",", m->cells[c * HEATMAP_ROWS + r].count);
		buf_byte(b, ']');
	}
	buf_printf(b, "],\"max\":%.0f,\"matched\":%llu,\"exemplars\":[", m->max, (unsigned long long)m->matched);
	bool first = true;
	for (uint32_t c = 0; c < m->columns; c++)
		for (uint32_t r = lo; r <= hi && r < HEATMAP_ROWS; r++) {
			const struct heatmap_cell *cell = m->cells + c * HEATMAP_ROWS + r;
			if (cell->count == 0)
				continue;
			char id[33];
			trace_id_hex(cell->trace_hi, cell->trace_lo, id);
			buf_printf(b, "%s{\"column\":%u,\"row\":%u,\"trace_id\":\"%s\",\"duration_nano\":%lld,\"errors\":%.0f}", first ? "" : ",", c, r - lo, id,
				(long long)cell->exemplar_ns, cell->errors);
			first = false;
		}
	buf_add_str(b, "]}");
}
