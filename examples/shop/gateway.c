/* The shop's front door: one checkout is a price from cart, a reservation from inventory, a charge from payment. */
#define KLIEG_COMPONENT "gateway"
#include "service.h"
#include <stdio.h>
#include <string.h>

/* Inventory answers 503 when it is flaky. Trying again at once, five times, is what turns a hiccup into a storm. */
static int reserve(const char *query, char *body, size_t size)
{
	KLIEG_SPAN_AS(span, "inventory.reserve");
	int status = 0;
	for (int attempt = 0; attempt < 6; attempt++) {
		status = service_call("POST", service_option("inventory", ""), "/reserve", query, body, size);
		if (status != 503)
			break;
		KLIEG_EVENT("retry", KLIEG_INT("attempt", attempt));
	}
	if (status != 200)
		KLIEG_ERROR(span, "could not reserve");
	return status;
}

/* Payment runs in several processes: their addresses, apart by commas, take turns. */
static const char *payment(char *ret_base, size_t size)
{
	static _Atomic unsigned turn;
	const char *list = service_option("payment", "");
	unsigned n = 1, at;
	for (const char *p = list; (p = strchr(p, ',')); p++)
		n++;
	for (at = atomic_fetch_add(&turn, 1) % n; at; at--)
		list = strchr(list, ',') + 1;
	snprintf(ret_base, size, "%.*s", (int)strcspn(list, ","), list);
	return ret_base;
}

static void checkout(struct request *r)
{
	KLIEG_SERVER_SPAN_AS(span, "POST /checkout", KLIEG_STR("http.route", "/checkout"), KLIEG_STR("tenant", r->tenant),
		KLIEG_SENSITIVE(KLIEG_STR("cart.id", r->cart)));
	char query[256], body[2048], base[256];
	snprintf(query, sizeof query, "tenant=%.60s&cart=%.60s", r->tenant, r->cart);
	int price = service_call("GET", service_option("cart", ""), "/price", query, body, sizeof body);
	int stock = price == 200 ? reserve(query, body, sizeof body) : 0;
	int paid = stock == 200 ? service_call("POST", payment(base, sizeof base), "/charge", query, body, sizeof body) : 0;
	r->status = paid == 200 ? 200 : 502;
	KLIEG_SET(span, KLIEG_INT("http.response.status_code", r->status));
	if (r->status != 200)
		KLIEG_ERROR(span, "checkout failed");
	snprintf(r->body, sizeof r->body, "{\"ok\":%s,\"cart\":%d,\"inventory\":%d,\"payment\":%d}\n", paid == 200 ? "true" : "false", price, stock, paid);
}

static void browse(struct request *r)
{
	KLIEG_SERVER_SPAN_AS(span, "GET /cart", KLIEG_STR("http.route", "/cart"), KLIEG_STR("tenant", r->tenant));
	char query[256];
	snprintf(query, sizeof query, "tenant=%.60s&cart=%.60s", r->tenant, r->cart);
	int status = service_call("GET", service_option("cart", ""), "/price", query, r->body, sizeof r->body);
	r->status = status == 200 ? 200 : 502;
	KLIEG_SET(span, KLIEG_INT("http.response.status_code", r->status));
}

int main(int argc, char **argv)
{
	static const struct route routes[] = { { "POST", "/checkout", checkout }, { "GET", "/cart", browse }, { 0 } };
	return service_run(&(struct service){ "gateway", routes, NULL, 8 }, argc, argv);
}
