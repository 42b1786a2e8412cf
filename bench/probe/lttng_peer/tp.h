#undef LTTNG_UST_TRACEPOINT_PROVIDER
#define LTTNG_UST_TRACEPOINT_PROVIDER klieg_peer
#undef LTTNG_UST_TRACEPOINT_INCLUDE
#define LTTNG_UST_TRACEPOINT_INCLUDE "./tp.h"
#if !defined(KLIEG_PEER_TP_H) || defined(LTTNG_UST_TRACEPOINT_HEADER_MULTI_READ)
#define KLIEG_PEER_TP_H
#include <lttng/tracepoint.h>
LTTNG_UST_TRACEPOINT_EVENT(klieg_peer, entry, LTTNG_UST_TP_ARGS(int, id), LTTNG_UST_TP_FIELDS(lttng_ust_field_integer(int, id, id)))
LTTNG_UST_TRACEPOINT_EVENT(klieg_peer, exit, LTTNG_UST_TP_ARGS(int, id), LTTNG_UST_TP_FIELDS(lttng_ust_field_integer(int, id, id)))
#endif
#include <lttng/tracepoint-event.h>
