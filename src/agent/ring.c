/* Reads records out of a ring that its producer may be rewriting with anything at all. Copy first, check the copy, use the copy.
 * Never reads outside the ring, never loops without advancing. Pure functions over memory: fuzzed by tests/fuzz/fuzz_ring.c. */
#include "agent/ring.h"
#include <string.h>

static int skip(struct ring_reader *r)
{
	r->skipped += r->head - r->tail;
	r->tail = r->head;
	return -1;
}

static uint32_t min_units(uint8_t type)
{
	switch (type) {
	case KW_REC_CTX: case KW_REC_SPAN: case KW_REC_EVENT: case KW_REC_ATTR: case KW_REC_STATUS:
		return 1;
	case KW_REC_SPANX: case KW_REC_LINK:
		return 2;
	default:
		return 0;
	}
}

int ring_next(struct ring_reader *r, struct ring_rec *ret_rec)
{
	for (;;) {
		uint64_t used = r->head - r->tail;
		if (!used)
			return 0;
		/* head behind tail, further ahead than the ring is long, or not on a unit: not ours to interpret */
		if (used > r->bytes || r->head % KW_UNIT || r->tail % KW_UNIT)
			return skip(r);
		uint32_t at = (uint32_t)(r->tail & (r->bytes - 1));
		uint64_t first;
		memcpy(&first, r->data + at, 8);
		struct kw_rec h;
		memcpy(&h, &first, 8);
		uint64_t room = r->bytes - at < used ? r->bytes - at : used;
		if (h.type == KW_REC_PAD) { /* to the end of the ring */
			if (r->bytes - at > used)
				return skip(r);
			r->tail += r->bytes - at;
			continue;
		}
		uint32_t need = min_units(h.type), n = (uint32_t)h.units * KW_UNIT;
		if (!need || h.units < need || n > room || (h.type != KW_REC_CTX && h.site >= r->nsites))
			return skip(r);
		memcpy(ret_rec->bytes, r->data + at, n);
		memcpy(ret_rec->bytes, &first, 8); /* as checked, whatever the producer has done since */
		r->tail += n;
		return 1;
	}
}

uint32_t ring_attrs_off(uint8_t type)
{
	switch (type) {
	case KW_REC_SPAN: return sizeof(struct kw_rec_span);
	case KW_REC_SPANX: return sizeof(struct kw_rec_spanx);
	case KW_REC_EVENT: case KW_REC_ATTR: case KW_REC_STATUS: return sizeof(struct kw_rec_event);
	default: return 0;
	}
}

bool ring_attr(const struct ring_rec *rec, uint32_t *off, struct ring_attr *ret_a, bool *ret_bad)
{
	uint32_t end = (uint32_t)rec->r.units * KW_UNIT, base = ring_attrs_off(rec->r.type);
	*ret_bad = false;
	if (!base)
		return false;
	if (!*off)
		*off = base;
	if (*off + sizeof(struct kw_attr) > end)
		goto bad;
	struct ring_attr a = { .value = rec->bytes + *off + sizeof(struct kw_attr) };
	memcpy(&a.a, rec->bytes + *off, sizeof a.a);
	uint32_t left = end - *off - (uint32_t)sizeof(struct kw_attr);
	bool number = a.a.type == KW_INT || a.a.type == KW_DOUBLE || a.a.type == KW_BOOL;
	a.len = a.a.len;
	if (a.len > left || a.a.type < KW_STR || a.a.type > KW_BYTES)
		goto bad;
	*off += (uint32_t)sizeof(struct kw_attr) + ((a.len + 7) & ~7u);
	if (a.a.key == KW_ATTR_NAMED) {
		const uint8_t *nul = a.len ? memchr(a.value, 0, a.len) : NULL;
		if (!nul)
			goto bad;
		a.name = (const char *)a.value;
		a.name_len = (uint32_t)(nul - a.value);
		uint32_t skip_n = a.name_len + 1;
		if (number) /* the number is the last 8 bytes, wherever the padding put it */
			skip_n = a.len >= skip_n + 8 ? a.len - 8 : skip_n;
		a.value += skip_n;
		a.len -= skip_n;
	}
	if (number && a.len != 8 && !(a.a.flags & KW_ATTR_MASKED))
		goto bad;
	*ret_a = a;
	return true;
bad:
	*ret_bad = true;
	return false;
}

static bool range_ok(uint64_t off, uint64_t n, uint64_t size, uint64_t total)
{
	return off % 64 == 0 && off <= total && size && n <= (total - off) / size;
}

bool kw_region_valid(const struct kw_region *r, uint64_t file_bytes)
{
	if (r->magic != KW_MAGIC || r->version != KW_VERSION || r->header_bytes != sizeof *r || r->region_bytes > file_bytes)
		return false;
	uint64_t total = r->region_bytes, stride = r->thread_stride;
	if (total > (1ull << 36) || r->max_modules > KW_MAX_MODULES || r->max_sites > KW_MAX_SITES || r->max_threads > KW_MAX_THREADS
			|| !r->max_threads || r->cell_count > KW_CELLS)
		return false;
	if (r->ring_bytes < 4096 || r->ring_bytes > (16u << 20) || (r->ring_bytes & (r->ring_bytes - 1)))
		return false;
	if (r->control_off < sizeof *r || !range_ok(r->control_off, 1, sizeof(struct kw_control), total)
			|| !range_ok(r->modules_off, r->max_modules, sizeof(struct kw_module), total)
			|| !range_ok(r->sites_off, r->max_sites, sizeof(struct kw_site_state), total)
			|| stride < sizeof(struct kw_thread) || stride % 64
			|| !range_ok(r->threads_off, r->max_threads, stride, total))
		return false;
	if (r->requests_off && (r->requests_off < sizeof *r || !range_ok(r->requests_off, 1, sizeof(struct kw_requests), total)))
		return false;
	if (r->requests_off && r->requests_off < r->threads_off && r->threads_off - r->requests_off < sizeof(struct kw_requests)) /* we write there */
		return false;
	if (r->ring_off < sizeof(struct kw_thread) || !range_ok(r->ring_off, 1, r->ring_bytes, stride))
		return false;
	if (r->cell_count && !range_ok(r->cells_off, r->cell_count, sizeof(struct kw_cell), stride))
		return false;
	return true;
}
