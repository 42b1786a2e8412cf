/* OTLP/HTTP ingest as a sender sees it: starts `klieg up` (argument: its path) in a directory of its own, sends protobuf requests of 512 spans over 4
 * keep-alive connections for 5 s, each waiting for its answer, which klieg gives when the spans are durable. Spans per second, and per second of CPU that
 * the klieg process used: while the load ran, and in all, until it had stopped and everything was in blocks. */
#include "../store/gen.h"
#include "model/otlp.h"
#include <arpa/inet.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { SPANS = 512, BODIES = 400, CONNECTIONS = 4, SECONDS = 5 };

static struct buf request[BODIES];
static atomic_ulong sent, next_body;
static atomic_bool stop;
static int port;

static void die(const char *what) { fprintf(stderr, "bench_ingest: %s: %s\n", what, strerror(errno)); exit(1); }
static double now(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return (double)t.tv_sec + (double)t.tv_nsec / 1e9; }

static void make_requests(void)
{
	struct timespec t;
	struct gen g;
	clock_gettime(CLOCK_REALTIME, &t);
	gen_init(&g, 7, (int64_t)t.tv_sec * 1000000000 - 10000000000, 100000);
	for (int i = 0; i < BODIES; i++) {
		struct batch *b = gen_batch(&g, SPANS);
		struct buf body = { 0 };
		otlp_encode(b, 0, SPANS, &body);
		buf_printf(&request[i], "POST /v1/traces HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-protobuf\r\nContent-Length: %zu\r\n\r\n", body.n);
		buf_add(&request[i], body.p, body.n);
		buf_finish(&body);
		batch_destroy(b);
	}
}

static void *sender(void *arg)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	if (fd < 0 || connect(fd, (struct sockaddr *)&a, sizeof a) < 0)
		die("connect");
	while (!stop) {
		struct buf *r = &request[next_body++ % BODIES];
		char answer[4096];
		size_t n = 0;
		for (size_t at = 0; at < r->n;) {
			ssize_t k = send(fd, r->p + at, r->n - at, MSG_NOSIGNAL);
			if (k <= 0)
				die("send");
			at += (size_t)k;
		}
		do {                         /* a full success has an empty body: the head is all */
			ssize_t k = recv(fd, answer + n, sizeof answer - 1 - n, 0);
			if (k <= 0)
				die("recv");
			answer[n += (size_t)k] = 0;
		} while (!strstr(answer, "\r\n\r\n"));
		if (strncmp(answer, "HTTP/1.1 200", 12)) {
			fprintf(stderr, "bench_ingest: %s\n", answer);
			exit(1);
		}
		sent += SPANS;
	}
	close(fd);
	return NULL;
}

static double cpu_of(pid_t pid)
{
	char path[64], line[1024];
	unsigned long u = 0, s = 0;
	snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
	FILE *f = fopen(path, "r");
	if (!f || !fgets(line, sizeof line, f) || sscanf(strrchr(line, ')') + 2, "%*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &u, &s) != 2)
		die(path);
	fclose(f);
	return (double)(u + s) / (double)sysconf(_SC_CLK_TCK);
}

int main(int argc, char **argv)
{
	char dir[] = "/tmp/klieg-bench-XXXXXX", command[128], line[512];
	int out[2];
	if (argc != 2) {
		fprintf(stderr, "usage: bench_ingest PATH-OF-KLIEG\n");
		return 2;
	}
	make_requests();
	if (!mkdtemp(dir) || pipe(out) < 0)
		die(dir);
	pid_t pid = fork();
	if (!pid) {
		dup2(out[1], 1);
		close(out[0]);
		unsetenv("KLIEG_DIR");
		execl(argv[1], "klieg", "up", "--dir", dir, "--http", "127.0.0.1:0", "--otlp-http", "127.0.0.1:0", (char *)NULL);
		die(argv[1]);
	}
	close(out[1]);
	FILE *ready = fdopen(out[0], "r");
	if (!fgets(line, sizeof line, ready) || !strstr(line, "otlp-http=http://127.0.0.1:"))
		die("klieg up is not ready");
	port = atoi(strstr(line, "otlp-http=http://127.0.0.1:") + strlen("otlp-http=http://127.0.0.1:"));
	pthread_t t[CONNECTIONS];
	double start = now(), cpu = cpu_of(pid);
	for (int i = 0; i < CONNECTIONS; i++)
		pthread_create(&t[i], NULL, sender, NULL);
	nanosleep(&(struct timespec){ .tv_sec = SECONDS }, NULL);
	stop = true;
	for (int i = 0; i < CONNECTIONS; i++)
		pthread_join(t[i], NULL);
	double took = now() - start, n = (double)sent;
	cpu = cpu_of(pid) - cpu;
	struct rusage ru;
	kill(pid, SIGTERM);
	wait4(pid, NULL, 0, &ru);
	double all = (double)(ru.ru_utime.tv_sec + ru.ru_stime.tv_sec) + (double)(ru.ru_utime.tv_usec + ru.ru_stime.tv_usec) / 1e6;
	printf("otlp_ingest_durable %.0f spans/s %d connections, requests of %d spans, %.0f B/span on the wire\n", n / took, CONNECTIONS, SPANS,
		(double)request[0].n / SPANS);
	printf("otlp_ingest_durable_per_core %.0f spans/s/core %.2f of the bar (300000)\n", n / cpu, n / cpu / 300000);
	printf("otlp_ingest_durable_per_core_with_stop %.0f spans/s/core everything in blocks\n", n / all);
	snprintf(command, sizeof command, "rm -rf %s", dir);
	return system(command) ? 1 : 0;
}
