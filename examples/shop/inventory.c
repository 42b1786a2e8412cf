/* Reservations, applied by one worker behind a queue. Fault queue: the worker gets slow, so the queue builds up. Fault retry: every
 * other request is answered 503 at once, and the gateway tries again without waiting. */
#define KLIEG_COMPONENT "inventory"
#include "service.h"
#include <pthread.h>
#include <stdio.h>
#include <time.h>

static struct fault faults[] = {
	{ "queue", "the worker behind the queue is slow", 0 },
	{ "retry", "four of five reservations are refused with 503", 0 },
	{ 0 },
};

/* One job lives on its requester's stack until done. */
struct job { struct job *next; struct klieg_ctx ctx; klieg_span waiting; bool done; };
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER, finished = PTHREAD_COND_INITIALIZER;
static struct job *first, **last = &first;
static int depth;

static void *work(void *arg)
{
	for (;;) {
		pthread_mutex_lock(&mutex);
		while (!first)
			pthread_cond_wait(&changed, &mutex);
		struct job *j = first;
		if (!(first = j->next))
			last = &first;
		depth--;
		pthread_mutex_unlock(&mutex);

		KLIEG_END(j->waiting, "reserve.queue");
		struct klieg_ctx previous;
		klieg_set_current(&j->ctx, &previous);
		{
			KLIEG_SPAN("reserve.apply");
			service_work(40);
			if (atomic_load(&faults[0].on)) /* the planted queue: the worker cannot keep up */
				nanosleep(&(struct timespec){ .tv_nsec = 5000000 }, NULL);
		}
		klieg_restore(&previous);

		pthread_mutex_lock(&mutex);
		j->done = true;
		pthread_cond_broadcast(&finished);
		pthread_mutex_unlock(&mutex);
	}
	return arg;
}

static void reserve(struct request *r)
{
	static _Atomic unsigned count;
	KLIEG_SERVER_SPAN_AS(span, "POST /reserve", KLIEG_STR("http.route", "/reserve"), KLIEG_STR("tenant", r->tenant));
	if (atomic_load(&faults[1].on) && atomic_fetch_add(&count, 1) % 5) {
		r->status = 503;
		KLIEG_ERROR(span, "stock is locked, try again");
		snprintf(r->body, sizeof r->body, "{\"error\":\"try again\"}\n");
		return;
	}
	struct job j = { 0 };
	klieg_current(&j.ctx);
	pthread_mutex_lock(&mutex);
	depth++;
	KLIEG_BEGIN(j.waiting, "reserve.queue", KLIEG_INT("queue.depth", depth)); /* ends on the worker's thread */
	*last = &j;
	last = &j.next;
	pthread_cond_signal(&changed);
	while (!j.done)
		pthread_cond_wait(&finished, &mutex);
	pthread_mutex_unlock(&mutex);
	snprintf(r->body, sizeof r->body, "{\"reserved\":true}\n");
}

static void start(void)
{
	pthread_t t;
	if (pthread_create(&t, NULL, work, NULL) == 0)
		pthread_detach(t);
}

int main(int argc, char **argv)
{
	static const struct route routes[] = { { "POST", "/reserve", reserve }, { 0 } };
	return service_run(&(struct service){ "inventory", routes, faults, 8, start }, argc, argv);
}
