/* A span as the API's JSON (docs/api.md), appended to a buffer without building a tree. Pure functions, any thread. */
#pragma once
#include "base/buf.h"
#include "model/batch.h"

/* full adds resource, scope, events and links, as in a trace. */
void span_json(const struct batch *b, uint32_t i, bool full, struct buf *ret);
/* A JSON string with its quotes; invalid UTF-8 becomes U+FFFD. */
void json_text(struct buf *ret, struct str s);
void json_number(struct buf *ret, double d);       /* null when it is not finite */
