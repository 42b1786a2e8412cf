/* The audit log: what was changed, by whom, why, from what to what, and how that went. See audit.c. Loop thread. */
#pragma once
#include "base/err.h"
#include <jansson.h>

struct server;
struct call;
struct audit;
int audit_create(struct server *s, struct err *e);    /* after toggles and policies: what there is is where changes begin */
void audit_destroy(struct audit *a);
void audit_tick(struct server *s);

/* The two places that all changes pass. */
void audit_event(struct server *s, const char *type, const json_t *event);      /* something is different: from events_send */
void audit_answered(struct call *c, int status, const json_t *answer, const struct err *e);   /* a request is over: how it went */
void audit_waits(struct call *c);                     /* a request goes on later: what it has changed by now is written down */

/* What has no event: attached processes, tokens. before and after are stolen, may be NULL. */
void audit_call(struct call *c, const char *what, const char *object, json_t *before, json_t *after);
