/* What the commands of `klieg policy` share. */
#pragma once
#include "cli/cli.h"

/* policy.c: a file's documents. Lines before a document are blank in its text, so that places in it are places in the file. */
struct policy_doc { struct buf text; size_t begins; };   /* without the blank lines it begins there */
struct policy_file { const char *path; struct buf whole; struct policy_doc *docs; size_t n; };
int policy_file_read(const char *path, struct policy_file *ret_f, struct err *e);
void policy_file_finish(struct policy_file *f);
/* POST /policies/check or /plan of one document; prints diagnostics to standard error. *ret_doc is the caller's and may be set on failure, too. */
int policy_ask(struct cli *c, const char *what, const struct policy_file *f, size_t i, json_t *body, json_t **ret_doc, struct err *e);
/* Its current version: 0 when there is none by that name; *ret_doc (may be NULL) what GET /policies/NAME answers. */
int policy_current(const struct client *c, const char *name, int64_t *ret_version, json_t **ret_doc, struct err *e);
/* After a refusal: what stands in the way of a stale write is said, too. Returns the exit status. */
int policy_refused(struct cli *c, const char *name, struct err *e);
/* As a JSON document "version" is the document's; the policy's is "policy_version". */
void policy_output_json(json_t *doc);
const char *policy_name_arg(struct cli *c);              /* the first argument */

/* plan.c: pure. */
void plan_text(const json_t *plan, bool wide, struct buf *b);

/* rollout.c: tells what happens on standard error until the rollout has ended; the exit status. *ret_rollout (may be NULL) the last state. */
int rollout_follow(struct cli *c, const char *name, json_t **ret_rollout);
void rollout_where(const json_t *r, struct buf *b);
void rollout_text(const json_t *rollout, struct buf *b);  /* one line: which step, canary against the rest; pure */
