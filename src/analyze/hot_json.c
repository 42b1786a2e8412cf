/* The answer of `GET /hot` (docs/api.md), plus `kept` and `skipped`, which say when not all was looked at. */
#include "analyze/hot.h"
#include "model/span_json.h"

static void add_nano(struct buf *b, const char *key, double ns) { buf_printf(b, ",\"%s\":%.0f", key, ns); }

void hot_render_json(const struct hot_result *r, struct buf *ret_json)
{
	struct buf *b = ret_json;
	buf_add_str(b, "{\"rows\":[");
	for (uint32_t i = 0; i < r->rows_n; i++) {
		const struct hot_row *row = r->rows + i;
		char id[33];
		trace_id_hex(row->trace_hi, row->trace_lo, id);
		buf_add_str(b, i ? ",{\"service\":" : "{\"service\":");
		json_text(b, row->service);
		buf_add_str(b, ",\"name\":");
		json_text(b, row->name);
		buf_printf(b, ",\"calls\":%.0f,\"errors\":%.0f", row->calls, row->errors);
		add_nano(b, "total_nano", row->total_ns);
		add_nano(b, "self_nano", row->self_ns);
		buf_printf(b, ",\"self_share\":%.6f", row->self_share);
		add_nano(b, "mean_nano", row->mean_ns);
		add_nano(b, "p50_nano", row->p50_ns);
		add_nano(b, "p99_nano", row->p99_ns);
		add_nano(b, "max_nano", row->max_ns);
		buf_printf(b, ",\"spans_per_trace\":%.2f,\"findings\":[", row->spans_per_trace);
		for (uint32_t k = 0; k < row->findings_n; k++) {
			buf_printf(b, "%s{\"kind\":\"%s\",\"text\":", k ? "," : "", row->findings[k].kind);
			json_text(b, str_of(row->findings[k].text));
			buf_byte(b, '}');
		}
		buf_printf(b, "],\"example_trace_id\":\"%s\"}", id);
	}
	buf_printf(b, "],\"operations\":%u,\"traces\":%llu,\"spans\":%llu,\"skipped\":%llu,\"kept\":%.9g,\"window_nano\":%lld}", r->operations,
		(unsigned long long)r->traces, (unsigned long long)r->spans, (unsigned long long)r->skipped, r->kept, (long long)r->window_ns);
}
