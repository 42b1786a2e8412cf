/* What the protobuf and the JSON reader of OTLP share: the limits and how a span gets into the batch. */
#pragma once
#include "model/otlp.h"
#include "model/span_json.h"

struct otlp_ctx { struct batch *b; struct otlp_report r; const char *bad; /* JSON: where the first bad value is */ };

struct str otlp_cut(struct otlp_ctx *c, struct str s, bool utf8);  /* to OTLP_MAX_STRING, counted */
uint32_t otlp_text(struct otlp_ctx *c, struct str s);              /* interned; invalid UTF-8 replaced */
bool otlp_admit(struct otlp_ctx *c, bool ids_ok);                  /* false: rejected and counted */
uint32_t otlp_add_resource(struct otlp_ctx *c, struct resource r); /* with its service.name */
void otlp_add_span(struct otlp_ctx *c, struct span *s, uint64_t start, uint64_t end, const uint32_t dropped[3]);
#define otlp_json_text json_text
