/* Charges. Fault lock: the ledger's mutex is held across slow work. Fault tenant: fraud scoring of tenant 7 goes quadratic. */
#define KLIEG_COMPONENT "payment"
#include "service.h"
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

static struct fault faults[] = {
	{ "lock", "holds the ledger's lock across slow work", 0 },
	{ "tenant", "scoring fraud for tenant 7 takes very long", 0 },
	{ 0 },
};
static pthread_mutex_t ledger = PTHREAD_MUTEX_INITIALIZER;
static long booked;

static void score_fraud(const char *tenant)
{
	KLIEG_SPAN("fraud.score", KLIEG_STR("tenant", tenant));
	service_work(atomic_load(&faults[1].on) && !strcmp(tenant, "7") ? 15000 : 60);
}

static void book(void)
{
	KLIEG_SPAN("ledger.book");
	{
		KLIEG_SPAN("ledger.lock", KLIEG_STR("thread.lock.name", "ledger"));
		pthread_mutex_lock(&ledger);
	}
	{
		KLIEG_SPAN("ledger.write");
		booked++;
		service_work(20);
		if (atomic_load(&faults[0].on)) /* the planted slow lock: a "sync to disk" while everybody waits */
			nanosleep(&(struct timespec){ .tv_nsec = 4000000 }, NULL);
	}
	pthread_mutex_unlock(&ledger);
}

static void charge(struct request *r)
{
	KLIEG_SERVER_SPAN_AS(span, "POST /charge", KLIEG_STR("http.route", "/charge"), KLIEG_STR("tenant", r->tenant),
		KLIEG_SENSITIVE(KLIEG_STR("card.number", "4111 1111 1111 1111")));
	score_fraud(r->tenant);
	book();
	snprintf(r->body, sizeof r->body, "{\"booked\":%ld}\n", booked);
}

int main(int argc, char **argv)
{
	static const struct route routes[] = { { "POST", "/charge", charge }, { 0 } };
	return service_run(&(struct service){ "payment", routes, faults, 8, NULL }, argc, argv);
}
