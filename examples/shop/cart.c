/* Carts and prices in SQLite, or PostgreSQL (--db postgresql://...). Fault n+1: instead of one join, one query per item. */
#define KLIEG_COMPONENT "cart"
#include "database.h"
#include "service.h"
#include <stdio.h>
#include <stdlib.h>

enum { CARTS = 200, ITEMS = 24, PRODUCTS = 2000 };
static struct fault faults[] = { { "n+1", "one query per item of the cart", 0 }, { 0 } };

static void fill(void)
{
	char sql[1024];
	database_where(service_option("db", "cart.db"));
	snprintf(sql, sizeof sql,
		"BEGIN; DROP TABLE IF EXISTS item; DROP TABLE IF EXISTS product;"
		"CREATE TABLE product(sku INTEGER PRIMARY KEY, price INTEGER); CREATE TABLE item(cart INTEGER, sku INTEGER);"
		"WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i+1 FROM n WHERE i<%d) INSERT INTO product SELECT i, 100+i*7%%900 FROM n;"
		"WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i+1 FROM n WHERE i<%d) INSERT INTO item SELECT i/%d, i*31%%%d FROM n;"
		"CREATE INDEX item_cart ON item(cart); COMMIT", PRODUCTS - 1, CARTS * ITEMS - 1, ITEMS, PRODUCTS);
	database_script(sql);
}

/* Runs a one-number query with one integer parameter; adds up its rows. */
static long query(const char *sql, long parameter, int *ret_rows, long *ret_values)
{
	KLIEG_SPAN_AS(span, "db.query", KLIEG_STR("db.system.name", database_system), KLIEG_STR("db.query.text", sql));
	int rows;
	const char *why = NULL;
	long sum = database_query(sql, parameter, &rows, ret_values, ITEMS, &why);
	if (sum < 0) {
		KLIEG_ERROR(span, why);
		sum = 0;
	}
	KLIEG_SET(span, KLIEG_INT("db.response.returned_rows", rows));
	if (ret_rows)
		*ret_rows = rows;
	return sum;
}

static long load(long cart)
{
	KLIEG_SPAN("cart.load", KLIEG_INT("cart.items", ITEMS));
	if (!atomic_load(&faults[0].on))
		return query("SELECT p.price FROM item i JOIN product p ON p.sku = i.sku WHERE i.cart = ?", cart, NULL, NULL);
	long sku[ITEMS], total = 0;
	int n = 0;
	query("SELECT sku FROM item WHERE cart = ?", cart, &n, sku);
	for (int i = 0; i < n && i < ITEMS; i++) /* the planted N+1 */
		total += query("SELECT price FROM product WHERE sku = ?", sku[i], NULL, NULL);
	return total;
}

static void price(struct request *r)
{
	KLIEG_SERVER_SPAN_AS(span, "GET /price", KLIEG_STR("http.route", "/price"), KLIEG_STR("tenant", r->tenant));
	long total = load(atol(r->cart) % CARTS);
	{
		KLIEG_SPAN("price.discount");
		service_work(30);
	}
	snprintf(r->body, sizeof r->body, "{\"total\":%ld}\n", total);
}

int main(int argc, char **argv)
{
	static const struct route routes[] = { { "GET", "/price", price }, { 0 } };
	return service_run(&(struct service){ "cart", routes, faults, 4, fill }, argc, argv);
}
