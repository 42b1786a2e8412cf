/* What the files of the fleet share: fleet.c (members, their asks, their rules), fan.c (asking all of them), fleet_wire.c (those that poll). */
#pragma once
#include "base/clock.h"
#include "server/internal.h"

#define SECOND 1000000000ll
enum { AGENTS_MAX = 5000, BUCKETS = 4096 };

/* Parameters that many get: written down once. */
struct payload { unsigned refs; json_t *doc; char *text; };
typedef void (*ask_reply_fn)(void *arg, struct member *m, int rc, json_t *result, const struct err *e);
struct ask {
	struct ask *next;
	json_int_t id;
	char method[32];
	struct payload *params;
	ask_reply_fn reply; void *arg;
	int64_t since, patience;
	bool sent;
};

struct member {
	struct member *next;                 /* in its bucket */
	struct server *s;
	char id[80], host[80];
	bool local, connected, late;
	int64_t seen, seen_wall, poll_since;
	int64_t generation, expected, told, refused; /* acknowledged; after what is under way; in its last poll; the one that it would not take */
	unsigned changing;                   /* changes under way */
	struct http_req *poll;
	struct ask *asks, **asks_end; unsigned nasks;
	double budget;                       /* percent of a process's CPU, as it has told; 0: no governor */
	unsigned uses;
	atomic_llong taken;                  /* spans that this server took from it */
	json_t *account;                     /* its last */
};

struct fleet {
	struct server *s;
	struct member *buckets[BUCKETS], **all, *mine;
	unsigned n, cap, connected;
	json_int_t next_id;
	unsigned seconds;
	server_agent_fn fn; void *fn_arg;
	struct payload *complete; int64_t complete_generation, complete_at;
	struct fleet_stats stats;
	uint64_t strays;                     /* answers that nobody waited for */
	json_t *former;                      /* the account of members that were forgotten */
	bool full;
};

struct member *member_find(struct fleet *f, struct str id);
struct member *member_add(struct server *s, const char *id);
void member_came(struct member *m);
void member_left(struct member *m, const char *why);
bool member_away(const struct member *m, int64_t now);                /* no poll of it waits, and has not for a while */
json_t *member_last_account(const struct member *m);                  /* new; of one that cannot be asked */

struct payload *payload_create(json_t *doc);                          /* steals; one reference is the caller's */
void payload_unref(struct payload *p);
/* The reply may come before this returns, when the member cannot be asked. */
void member_ask(struct member *m, const char *method, struct payload *params, ask_reply_fn reply, void *arg);
void member_answered(struct member *m, json_int_t id, int rc, json_t *result, const struct err *e);
void member_deliver(struct member *m, bool even_if_empty);           /* answers the waiting poll with what has not been sent yet */
void member_poll_answer(struct member *m, struct str body);          /* answers it with that; none: nothing */

struct payload *fleet_complete_set(struct server *s);                 /* borrowed */
void member_send_rules(struct member *m, struct payload *params, int64_t generation, bool complete, ask_reply_fn then, void *part);
void member_catch_up(struct member *m);                              /* the complete set, if it is behind and nothing is under way */
