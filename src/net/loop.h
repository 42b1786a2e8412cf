/* The event loop and the way into it from other threads. Everything else in net/ runs on the loop's thread only. */
#pragma once
#include <uv.h>

struct loop;
typedef void (*loop_fn)(void *arg);
int loop_create(struct loop **ret_l);
void loop_destroy(struct loop *l);             /* after loop_run returned; NULL is fine */
uv_loop_t *loop_uv(struct loop *l);
void loop_run(struct loop *l);                 /* until loop_stop */
void loop_stop(struct loop *l);
void loop_post(struct loop *l, loop_fn fn, void *arg);  /* any thread: fn runs on the loop's thread, in order */
/* work runs on a pool thread, then done on the loop's thread. */
void loop_work(struct loop *l, loop_fn work, loop_fn done, void *arg);
