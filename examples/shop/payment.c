/* Charges. Fault lock: the ledger's mutex is held across slow work. Fault tenant: fraud scoring of tenant 7 goes quadratic. Fault audit: every charge walks the
 * whole ledger, with a probe in the innermost loop: nothing while it is off, dear when somebody switches it on. */
#define KLIEG_COMPONENT "payment"
#include "service.h"
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

enum { LEDGER_ENTRIES = 20000 };
static struct fault faults[] = {
	{ "lock", "holds the ledger's lock across slow work", 0 },
	{ "tenant", "scoring fraud for tenant 7 takes very long", 0 },
	{ "audit", "every charge walks the whole ledger", 0 },
	{ 0 },
};
static pthread_mutex_t ledger = PTHREAD_MUTEX_INITIALIZER;
static long booked;

static void score_fraud(const char *tenant)
{
	KLIEG_SPAN("fraud.score", KLIEG_STR("tenant", tenant));
	service_work(atomic_load(&faults[1].on) && !strcmp(tenant, "7") ? 15000 : 60);
}

static unsigned walk_ledger(void)
{
	KLIEG_SPAN("ledger.audit");
	unsigned sum = 0;
	for (unsigned i = 0; i < LEDGER_ENTRIES; i++) {
		KLIEG_SPAN("ledger.entry", KLIEG_INT("entry", i));
		sum = sum * 31 + i;
	}
	return sum;
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
	unsigned sum = atomic_load(&faults[2].on) ? walk_ledger() : 0;
	snprintf(r->body, sizeof r->body, "{\"booked\":%ld,\"audit\":%u}\n", booked, sum);
}

int main(int argc, char **argv)
{
	static const struct route routes[] = { { "POST", "/charge", charge }, { 0 } };
	return service_run(&(struct service){ "payment", routes, faults, 8, NULL }, argc, argv);
}
