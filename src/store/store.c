/* The door: hands calls to the backend, and builds the sorted, limited query on top of its scan. */
#include "store/backend.h"
#include <stdlib.h>

int store_open(const struct store_config *c, struct store **ret_s, struct err *e) { return segment_open(c, ret_s, e); }
int store_append(struct store *s, struct batch *b, store_done_fn done, void *arg) { return s->ops->append(s, b, done, arg); }
int store_flush(struct store *s) { return s->ops->flush(s); }
void store_await(struct store *s) { s->ops->await(s); }
void store_stats(struct store *s, struct store_stats *ret_st) { s->ops->stats(s, ret_st); }

void store_close(struct store *s)
{
	if (s)
		s->ops->close(s);
}

int store_scan(struct store *s, const struct store_query *q, store_visit_fn fn, void *arg, struct store_found *ret_found, struct err *e)
{
	return s->ops->scan(s, q, fn, arg, ret_found, e);
}

int store_trace(struct store *s, uint64_t hi, uint64_t lo, struct batch **ret_trace, struct err *e)
{
	return s->ops->trace(s, hi, lo, ret_trace, e);
}

/* The best spans so far: kept as copies in `spans`; a heap of their indices, the worst on top. When it has grown to many times the
 * limit by replaced ones, it is copied afresh. */
struct top { struct batch *spans; uint32_t *heap, n, limit; bool newest; uint64_t matched; };

static bool worse(const struct top *t, uint32_t a, uint32_t b)
{
	int64_t x = t->spans->spans[a].start_ns, y = t->spans->spans[b].start_ns;
	return t->newest ? x < y : x > y;
}

static void sift_down(struct top *t, uint32_t i)
{
	for (;;) {
		uint32_t l = 2 * i + 1, m = i;
		if (l < t->n && worse(t, t->heap[l], t->heap[m]))
			m = l;
		if (l + 1 < t->n && worse(t, t->heap[l + 1], t->heap[m]))
			m = l + 1;
		if (m == i)
			return;
		uint32_t x = t->heap[i];
		t->heap[i] = t->heap[m];
		t->heap[m] = x;
		i = m;
	}
}

static void compact(struct top *t)
{
	struct batch *fresh = batch_create();
	for (uint32_t i = 0; i < t->n; i++) {
		batch_copy_span(fresh, t->spans, t->heap[i]);
		t->heap[i] = i;
	}
	batch_destroy(t->spans);
	t->spans = fresh;
}

static int take(void *arg, const struct batch *b, uint32_t i)
{
	struct top *t = arg;
	int64_t start = b->spans[i].start_ns;
	t->matched++;
	if (t->n == t->limit) {
		int64_t worst = t->spans->spans[t->heap[0]].start_ns;
		if (t->newest ? start <= worst : start >= worst)
			return 0;
	}
	if (t->spans->n >= 4096 && t->spans->n / 4 >= t->limit)
		compact(t);
	batch_copy_span(t->spans, b, i);
	if (t->n < t->limit) {
		uint32_t k = t->n++;
		t->heap[k] = t->spans->n - 1;
		while (k && worse(t, t->heap[k], t->heap[(k - 1) / 2])) {
			uint32_t up = (k - 1) / 2, x = t->heap[k];
			t->heap[k] = t->heap[up];
			t->heap[up] = x;
			k = up;
		}
	} else {
		t->heap[0] = t->spans->n - 1;
		sift_down(t, 0);
	}
	return 0;
}

int store_query(struct store *s, const struct store_query *q, struct batch **ret_spans, struct store_found *ret_found, struct err *e)
{
	uint32_t limit = q->limit ? q->limit : 100;
	struct top t = { .spans = batch_create(), .limit = limit, .newest = q->newest_first };
	t.heap = base_alloc((size_t)limit * sizeof *t.heap);
	struct store_found found = { 0 };
	int rc = s->ops->scan(s, q, take, &t, &found, e);
	if (rc < 0) {
		batch_destroy(t.spans);
		free(t.heap);
		return rc;
	}
	/* Taking the worst off the heap again and again gives them from last to first. */
	uint32_t n = t.n;
	uint32_t *order = base_alloc((size_t)n * sizeof *order + 1);
	while (t.n) {
		order[t.n - 1] = t.heap[0];
		t.heap[0] = t.heap[--t.n];
		sift_down(&t, 0);
	}
	struct batch *out = batch_create();
	for (uint32_t i = 0; i < n; i++)
		batch_copy_span(out, t.spans, order[i]);
	free(order);
	free(t.heap);
	batch_destroy(t.spans);
	found.matched = t.matched;
	found.limited = t.matched > n;
	*ret_spans = out;
	if (ret_found)
		*ret_found = found;
	return 0;
}
