/* What one batch knows of the traces in it: root, duration, children. A trace counts as whole if its root is in the batch and every span's
 * parent is; of other traces nothing is known, and their intrinsics are nil. Built once per batch, read-only after. */
#include "traceql/ast.h"
#include "base/hash.h"
#include <stdlib.h>

struct trace { uint64_t hi, lo; uint32_t root; bool broken; int64_t first_ns, last_ns; };
struct tq_traces {
	const struct batch *b;
	uint32_t *of;             /* span -> trace */
	uint32_t *children;       /* span -> how many */
	struct trace *items;
	uint32_t n;
};

static uint64_t key_of(uint64_t hi, uint64_t lo, uint64_t id)
{
	uint64_t k[3] = { hi, lo, id };
	return hash_bytes(k, sizeof k, 0);
}

struct tq_traces *tq_traces_create(const struct batch *b)
{
	struct tq_traces *t = base_calloc(1, sizeof *t);
	t->b = b;
	t->of = base_calloc(b->n, sizeof *t->of);
	t->children = base_calloc(b->n, sizeof *t->children);
	t->items = base_calloc(b->n, sizeof *t->items);
	uint32_t mask = 15;
	while (mask < b->n * 2u)
		mask = mask * 2 + 1;
	uint32_t *traces = base_calloc(mask + 1u, sizeof *traces), *spans = base_calloc(mask + 1u, sizeof *spans); /* index + 1 */
	for (uint32_t i = 0; i < b->n; i++) {
		const struct span *s = b->spans + i;
		uint32_t k = (uint32_t)key_of(s->trace_hi, s->trace_lo, 0) & mask;
		while (traces[k] && (t->items[traces[k] - 1].hi != s->trace_hi || t->items[traces[k] - 1].lo != s->trace_lo))
			k = (k + 1) & mask;
		if (!traces[k]) {
			t->items[t->n] = (struct trace){ s->trace_hi, s->trace_lo, UINT32_MAX, false, s->start_ns, s->start_ns };
			traces[k] = ++t->n;
		}
		t->of[i] = traces[k] - 1;
		struct trace *tr = t->items + t->of[i];
		if (!s->parent_id && tr->root == UINT32_MAX)
			tr->root = i;
		int64_t end;
		if (__builtin_add_overflow(s->start_ns, s->duration_ns, &end))
			end = INT64_MAX;
		tr->first_ns = s->start_ns < tr->first_ns ? s->start_ns : tr->first_ns;
		tr->last_ns = end > tr->last_ns ? end : tr->last_ns;
		k = (uint32_t)key_of(s->trace_hi, s->trace_lo, s->span_id) & mask;
		while (spans[k])
			k = (k + 1) & mask;
		spans[k] = i + 1;
	}
	for (uint32_t i = 0; i < b->n; i++) {
		const struct span *s = b->spans + i, *p;
		if (!s->parent_id)
			continue;
		uint32_t k = (uint32_t)key_of(s->trace_hi, s->trace_lo, s->parent_id) & mask;
		for (; spans[k]; k = (k + 1) & mask) {
			p = b->spans + spans[k] - 1;
			if (p->span_id == s->parent_id && p->trace_hi == s->trace_hi && p->trace_lo == s->trace_lo)
				break;
		}
		if (spans[k])
			t->children[spans[k] - 1]++;
		else
			t->items[t->of[i]].broken = true;
	}
	free(traces);
	free(spans);
	return t;
}

void tq_traces_destroy(struct tq_traces *t)
{
	if (!t)
		return;
	free(t->of);
	free(t->children);
	free(t->items);
	free(t);
}

void tq_traces_get(const struct tq_traces *t, uint32_t i, enum tq_intrinsic what, struct tq_value *ret_v)
{
	const struct trace *tr = t->items + t->of[i];
	*ret_v = (struct tq_value){ .type = TQ_NIL };
	if (tr->root == UINT32_MAX || tr->broken)
		return;
	const struct span *root = t->b->spans + tr->root;
	switch (what) {
	case TQ_CHILD_COUNT: *ret_v = (struct tq_value){ .type = TQ_INT, .i = t->children[i] }; break;
	case TQ_TRACE_DURATION: {
		int64_t d;
		if (__builtin_sub_overflow(tr->last_ns, tr->first_ns, &d))
			d = INT64_MAX;
		*ret_v = (struct tq_value){ .type = TQ_DURATION, .i = d };
		break;
	}
	case TQ_ROOT_NAME: *ret_v = (struct tq_value){ .type = TQ_STR, .s = batch_text(t->b, root->name) }; break;
	case TQ_ROOT_SERVICE:
		if (root->resource < t->b->resources_n)
			*ret_v = (struct tq_value){ .type = TQ_STR, .s = batch_text(t->b, t->b->resources[root->resource].service) };
		break;
	default: break;
	}
}
