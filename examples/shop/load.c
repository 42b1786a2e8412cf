/* Load for the shop: N connections, each sending its next request when the last was answered, or at a given rate overall.
 *   shop-load --url http://127.0.0.1:PORT --connections 4 --rate 200 --seconds 30
 * Without --seconds it goes on until SIGTERM. Ends with one JSON line: requests, errors, per second, p50/p95/p99 in microseconds; with --histogram 1 also
 * how many requests took how long, for who adds several up.
 *
 * At a rate, requests are due at even distances, each connection's between those of the others; one that goes out late, since the one before took too long,
 * is measured from when it was due: else a service that stalls would be asked less while it does (Tene's coordinated omission). */
#include <curl/curl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { MAX_CONNECTIONS = 256, BUCKETS = 4000 }; /* 4 buckets per octave would do; these are 10 us wide up to 40 ms, then 1 ms */
static const char *url = "";
static long connections = 4, rate, seconds, with_histogram;
static _Atomic int stopping;
static _Atomic unsigned long requests, errors;
static _Atomic unsigned long histogram[BUCKETS + 10000];

static long long now_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ll + t.tv_nsec;
}

static void note(long long us)
{
	long b = us < BUCKETS * 10 ? us / 10 : BUCKETS + (us / 1000 < 9999 ? us / 1000 : 9999);
	histogram[b]++;
}

static double middle(int bucket) { return bucket < BUCKETS ? bucket * 10 + 5 : (bucket - BUCKETS) * 1000.0 + 500; }

static double quantile(double q)
{
	unsigned long total = 0, seen = 0;
	for (int i = 0; i < BUCKETS + 10000; i++)
		total += histogram[i];
	for (int i = 0; i < BUCKETS + 10000; i++)
		if ((seen += histogram[i]) >= q * (double)total && total)
			return middle(i);
	return 0;
}

static void print_histogram(void)
{
	const char *before = ",\"histogram_us\":[";
	for (int i = 0; i < BUCKETS + 10000; i++)
		if (histogram[i])
			printf("%s[%.0f,%lu]", before, middle(i), histogram[i]), before = ",";
	fputs(requests ? "]" : ",\"histogram_us\":[]", stdout);
}

static size_t ignore(char *p, size_t one, size_t n, void *arg)
{
	(void)p; (void)arg;
	return one * n;
}

/* Waits until the connection's next request is due. Returns when its time began: now, or earlier if it is late. */
static long long when_due(long long *next)
{
	long long due = *next, wait = due - now_ns();
	*next += connections * 1000000000ll / rate;
	if (wait > 0)
		nanosleep(&(struct timespec){ wait / 1000000000, wait % 1000000000 }, NULL);
	else if (wait < -1000000000ll)
		*next = now_ns();
	return wait > 0 ? now_ns() : due;
}

static void *run(void *arg)
{
	unsigned long long x = 88172645463325252ull + (unsigned long long)(size_t)arg * 977;
	CURL *c = curl_easy_init();
	long long next = now_ns() + (rate ? (long long)(size_t)arg * 1000000000ll / rate : 0);
	while (c && !stopping) {
		x ^= x << 13; x ^= x >> 7; x ^= x << 17;
		unsigned tenant = (unsigned)(x % 10), cart = (unsigned)(x >> 20) % 200, browse = (unsigned)(x >> 40) % 4 == 0;
		char target[400];
		snprintf(target, sizeof target, "%s/%s?tenant=%u&cart=%u", url, browse ? "cart" : "checkout", tenant, cart);
		curl_easy_setopt(c, CURLOPT_URL, target);
		curl_easy_setopt(c, CURLOPT_CUSTOMREQUEST, browse ? "GET" : "POST");
		curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, ignore);
		curl_easy_setopt(c, CURLOPT_TIMEOUT, 10l);
		curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1l);
		long long from = rate ? when_due(&next) : now_ns();
		if (stopping)
			break;
		long status = 0;
		if (curl_easy_perform(c) == CURLE_OK)
			curl_easy_getinfo(c, CURLINFO_RESPONSE_CODE, &status);
		note((now_ns() - from) / 1000);
		requests++;
		if (status != 200)
			errors++;
		if (status == 0 && !rate)
			nanosleep(&(struct timespec){ .tv_nsec = 10000000 }, NULL); /* nobody there: do not spin */
	}
	curl_easy_cleanup(c);
	return NULL;
}

int main(int argc, char **argv)
{
	for (int i = 1; i + 1 < argc; i += 2) {
		if (!strcmp(argv[i], "--url")) url = argv[i + 1];
		else if (!strcmp(argv[i], "--connections")) connections = atol(argv[i + 1]);
		else if (!strcmp(argv[i], "--rate")) rate = atol(argv[i + 1]);
		else if (!strcmp(argv[i], "--seconds")) seconds = atol(argv[i + 1]);
		else if (!strcmp(argv[i], "--histogram")) with_histogram = atol(argv[i + 1]);
		else return fprintf(stderr, "shop-load: unknown option %s\n", argv[i]), 2;
	}
	if (!*url || connections < 1 || connections > MAX_CONNECTIONS)
		return fprintf(stderr, "shop-load: --url http://HOST:PORT [--connections 1..%d] [--rate N] [--seconds N] [--histogram 1]\n", MAX_CONNECTIONS), 2;
	sigset_t stop;
	sigemptyset(&stop);
	sigaddset(&stop, SIGTERM);
	sigaddset(&stop, SIGINT);
	pthread_sigmask(SIG_BLOCK, &stop, NULL);
	curl_global_init(CURL_GLOBAL_DEFAULT);
	long long from = now_ns();
	pthread_t t[MAX_CONNECTIONS];
	for (long i = 0; i < connections; i++)
		pthread_create(&t[i], NULL, run, (void *)i);
	if (seconds) {
		struct timespec limit = { .tv_sec = seconds };
		sigtimedwait(&stop, NULL, &limit);
	} else {
		int sig;
		sigwait(&stop, &sig);
	}
	stopping = 1;
	for (long i = 0; i < connections; i++)
		pthread_join(t[i], NULL);
	double took = (double)(now_ns() - from) / 1e9;
	printf("{\"requests\":%lu,\"errors\":%lu,\"per_second\":%.1f,\"p50_us\":%.0f,\"p95_us\":%.0f,\"p99_us\":%.0f", requests, errors,
		(double)requests / took, quantile(.5), quantile(.95), quantile(.99));
	if (with_histogram)
		print_histogram();
	puts("}");
	return 0;
}
