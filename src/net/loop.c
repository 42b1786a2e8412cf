/* A libuv loop with a mailbox. Other threads (store, agent) append to a list under a mutex and wake the loop; it runs the whole list in order.
 * Owned by whoever created it; loop_post may be called until loop_destroy. */
#include "net/loop.h"
#include "base/buf.h"
#include "base/err.h"
#include <stdlib.h>

struct post { struct post *next; loop_fn fn; void *arg; };
struct loop {
	uv_loop_t uv;
	uv_async_t wake;
	uv_mutex_t lock;
	struct post *first, **last;
};
struct job { uv_work_t req; loop_fn work, done; void *arg; };

static void drain(uv_async_t *a)
{
	struct loop *l = a->data;
	uv_mutex_lock(&l->lock);
	struct post *p = l->first;
	l->first = NULL;
	l->last = &l->first;
	uv_mutex_unlock(&l->lock);
	while (p) {
		struct post *next = p->next;
		p->fn(p->arg);
		free(p);
		p = next;
	}
}

int loop_create(struct loop **ret_l)
{
	struct loop *l = base_calloc(1, sizeof(*l));
	if (uv_loop_init(&l->uv) < 0) {
		free(l);
		return KLIEG_E_INTERNAL;
	}
	uv_mutex_init(&l->lock);
	l->last = &l->first;
	uv_async_init(&l->uv, &l->wake, drain);
	l->wake.data = l;
	*ret_l = l;
	return 0;
}

static void close_handle(uv_handle_t *h, void *arg)
{
	if (!uv_is_closing(h))
		uv_close(h, NULL);
}

void loop_destroy(struct loop *l)
{
	if (!l)
		return;
	drain(&l->wake);
	uv_walk(&l->uv, close_handle, NULL);
	uv_run(&l->uv, UV_RUN_DEFAULT);
	uv_loop_close(&l->uv);
	uv_mutex_destroy(&l->lock);
	free(l);
}

uv_loop_t *loop_uv(struct loop *l) { return &l->uv; }
void loop_run(struct loop *l) { uv_run(&l->uv, UV_RUN_DEFAULT); }
void loop_stop(struct loop *l) { uv_stop(&l->uv); }

void loop_post(struct loop *l, loop_fn fn, void *arg)
{
	struct post *p = base_alloc(sizeof(*p));
	*p = (struct post){ NULL, fn, arg };
	uv_mutex_lock(&l->lock);
	*l->last = p;
	l->last = &p->next;
	uv_mutex_unlock(&l->lock);
	uv_async_send(&l->wake);
}

static void job_work(uv_work_t *w) { struct job *j = w->data; j->work(j->arg); }
static void job_done(uv_work_t *w, int status) { struct job *j = w->data; j->done(j->arg); free(j); }

void loop_work(struct loop *l, loop_fn work, loop_fn done, void *arg)
{
	struct job *j = base_calloc(1, sizeof(*j));
	*j = (struct job){ .work = work, .done = done, .arg = arg };
	j->req.data = j;
	uv_queue_work(&l->uv, &j->req, job_work, job_done);
}
