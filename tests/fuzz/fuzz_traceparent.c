/* Headers of a hostile request through klieg_extract, and back out through klieg_inject. Input: lines "name: value". Whatever comes in, what goes
 * out must be a valid traceparent or nothing; and with it a tracestate that says the same when it is read again. */
#include "klieg/klieg.h"
#include <assert.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct headers { char *text; size_t n; };

static const char *get(void *arg, const char *name)
{
	struct headers *h = arg;
	size_t k = strlen(name);
	for (char *p = h->text; p < h->text + h->n; p += strlen(p) + 1)
		if (!strncmp(p, name, k) && p[k] == ':')
			return p + k + 1 + (p[k + 1] == ' ');
	return NULL;
}

static const char *get_sent(void *arg, const char *name)
{
	const struct klieg_headers *h = arg;
	return !strcmp(name, "traceparent") ? h->traceparent : !strcmp(name, "tracestate") ? h->tracestate : NULL;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct headers h = { malloc(size + 1), size };
	memcpy(h.text, data, size);
	h.text[size] = 0;
	for (size_t i = 0; i < size; i++)
		if (h.text[i] == '\n')
			h.text[i] = 0;
	struct klieg_ctx c, previous;
	int found = klieg_extract(get, &h, &c);
	if (found)
		assert((c.trace_hi | c.trace_lo) && c.span_id && c.threshold >> 56 == 0);
	else
		assert(!(c.trace_hi | c.trace_lo));
	klieg_set_current(&c, &previous);
	struct klieg_headers out;
	klieg_inject(&out);
	size_t n = strlen(out.traceparent);
	assert(found ? n == 55 : n == 0);
	assert(strlen(out.tracestate) < sizeof out.tracestate);
	klieg_restore(&previous);
	if (found) {
		struct klieg_ctx again;
		struct klieg_headers twice;
		klieg_extract(get_sent, &out, &again);
		assert(again.threshold == c.threshold && again.home == c.home);
		klieg_set_current(&again, &previous);
		klieg_inject(&twice);
		assert(!strcmp(out.tracestate, twice.tracestate));
		klieg_restore(&previous);
	}
	free(h.text);
	return 0;
}
