/* klieg up: server and agent in one process. This file and src/main.c are the only ones that know both. Threads: this one runs the loop, the agent
 * and the store have their own. */
#include "agent/agent.h"
#include "base/clock.h"
#include "cli/cli.h"
#include "model/duration.h"
#include "server/server.h"
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

struct up { struct loop *loop; uv_signal_t term, intr; };

static void on_alarm(int sig) { _exit(1); }
static void on_second(int sig) { _exit(130); }

static void on_signal(uv_signal_t *h, int sig)
{
	struct up *u = h->data;
	uv_signal_stop(&u->term);
	uv_signal_stop(&u->intr);
	signal(SIGINT, on_second);       /* somebody who asks twice means it */
	signal(SIGTERM, on_second);
	signal(SIGALRM, on_alarm);
	alarm(5);
	loop_stop(u->loop);
}

static int make_dirs(char *path, struct err *e)
{
	for (char *p = path + 1;; p++)
		if (*p == '/' || !*p) {
			char c = *p;
			*p = 0;
			int rc = mkdir(path, 0700) < 0 && errno != EEXIST ? errno : 0;
			*p = c;
			if (rc)
				return err_set(e, err_from_errno(rc), "cannot create %.300s: %s", path, strerror(rc));
			if (!c)
				return 0;
		}
}

static void default_dir(char *path, size_t n)
{
	const char *env = getenv("KLIEG_DIR"), *xdg = getenv("XDG_STATE_HOME"), *home = getenv("HOME");
	if (env && *env)
		snprintf(path, n, "%s", env);
	else if (xdg && *xdg)
		snprintf(path, n, "%s/klieg", xdg);
	else if (geteuid() == 0 || !home)
		snprintf(path, n, "/var/lib/klieg");
	else
		snprintf(path, n, "%s/.local/state/klieg", home);
}

static void ask_agent(void *agent, const char *method, json_t *params, server_reply_fn reply, void *arg) { agent_request(agent, method, params, reply, arg); }

/* As many as we may: an agent holds a connection each. */
static void raise_files(void)
{
	struct rlimit r;
	if (getrlimit(RLIMIT_NOFILE, &r) == 0 && r.rlim_cur < r.rlim_max && r.rlim_cur < 65536) {
		r.rlim_cur = r.rlim_max < 65536 ? r.rlim_max : 65536;
		setrlimit(RLIMIT_NOFILE, &r);
	}
}

static int serve(int argc, char **argv, bool with_agent)
{
	struct cli_args a;
	int status, rc;
	struct err e = { 0 };
	char dir[256], path[300], spans[300], socket_path[300] = "-";
	if (cli_begin(argc, argv, &a, &status))
		return status;
	const char *given = cli_opt(&a, "dir"), *http = cli_opt(&a, "http"), *otlp = cli_opt(&a, "otlp-http"), *retain = with_agent ? cli_opt(&a, "retain") : NULL,
		*bytes = with_agent ? cli_opt(&a, "max-bytes") : NULL,
		*share = cli_opt(&a, "sampling-default");
	char *rest = NULL;
	double sampling = share ? strtod(share, &rest) : 0;
	if (share && rest && *rest == '%')
		sampling /= 100, rest++;
	/* Senders wait for the sync, and most have one request on its way at a time: at 50 ms a group four of them could not send more than 40,000 spans/s. */
	struct store_config sc = { .dir = spans, .commit_ns = 4000000 };
	if (share && (rest == share || *rest || !(sampling >= 0 && sampling <= 1)))
		return cli_fail_usage(a.cmd, "--sampling-default: '%s' is not a share between 0 and 1, or in percent", share);
	if (retain && duration_parse(str_of(retain), &sc.retain_ns) < 0)
		return cli_fail_usage(a.cmd, "--retain: '%s' is not a duration", retain);
	double budget = 1;
	const char *percent = with_agent ? cli_opt(&a, "budget") : NULL;
	if (percent && cli_parse_budget(percent, &budget, &e) < 0)
		return cli_fail(&e);
	if (with_agent && cli_background(&a, &e) < 0)
		return cli_fail(&e);
	if (bytes && size_parse(str_of(bytes), &sc.retain_bytes) < 0)
		return cli_fail_usage(a.cmd, "--max-bytes: '%s' is not a size", bytes);
	if (given)
		snprintf(dir, sizeof(dir), "%s", given);
	else
		default_dir(dir, sizeof(dir));
	snprintf(spans, sizeof(spans), "%s/spans", dir);
	snprintf(path, sizeof(path), "%s/state.db", dir);
	signal(SIGPIPE, SIG_IGN);
	raise_files();
	struct up u = { 0 };
	struct server *server = NULL;
	struct store *store = NULL;
	struct state *state = NULL;
	struct agent *agent = NULL;
	if ((rc = make_dirs(dir, &e)) < 0 || (rc = loop_create(&u.loop)) < 0 || (rc = store_open(&sc, &store, &e)) < 0 ||
		(rc = state_open(path, &state, &e)) < 0)
		goto fail;
	struct server_config c = { .dir = dir, .http = http ? http : "127.0.0.1:7070", .otlp_http = otlp ? otlp : "127.0.0.1:4318", .store = store, .state = state,
		.loop = u.loop, .with_agent = with_agent, .otlp_grpc = cli_opt(&a, "otlp-grpc"), .jaeger_http = cli_opt(&a, "jaeger-http"),
		.jaeger_grpc = cli_opt(&a, "jaeger-grpc"), .sampling_default = sampling, .budget_percent = budget };
	if ((rc = server_create(&c, &server, &e)) < 0)
		goto fail;
	if (with_agent) {
		cli_agent_socket(given, socket_path, sizeof(socket_path));
		struct agent_config ac = { .socket = socket_path, .sink = server_sink, .sink_arg = server, .event = server_event, .event_arg = server,
			.budget_percent = budget };
		if ((rc = agent_create(&ac, &agent, &e)) < 0)
			goto fail;
		server_set_agent(server, ask_agent, agent);
	}
	uv_signal_init(loop_uv(u.loop), &u.term);
	uv_signal_init(loop_uv(u.loop), &u.intr);
	u.term.data = u.intr.data = &u;
	uv_signal_start(&u.term, on_signal, SIGTERM);
	uv_signal_start(&u.intr, on_signal, SIGINT);
	const char *listeners[] = { "otlp-grpc", server_otlp_grpc(server), "jaeger-http", server_jaeger_http(server), "jaeger-grpc", server_jaeger_grpc(server) };
	printf("ready http=http://%s otlp-http=http://%s socket=%s", server_http(server), server_otlp_http(server), socket_path);
	for (unsigned i = 0; i < 6; i += 2)
		if (*listeners[i + 1])
			printf(" %s=http://%s", listeners[i], listeners[i + 1]);
	printf("\n");
	fflush(stdout);
	loop_run(u.loop);
	server_set_agent(server, NULL, NULL);
	agent_destroy(agent);            /* sites off, the rest drained into the store */
	store_close(store);
	state_close(state);
	fflush(stdout);
	snprintf(path, sizeof(path), "%s/klieg.sock", dir);
	unlink(path);
	_exit(0);                        /* requests in flight are not waited for: their clients see the connection end */
fail:
	if (!e.code)
		err_set(&e, rc, "cannot start");
	status = cli_fail(&e);
	agent_destroy(agent);
	server_destroy(server);
	loop_destroy(u.loop);
	store_close(store);
	state_close(state);
	exit(status ? CLI_USAGE : CLI_OK);
}

int cli_up(int argc, char **argv) { return serve(argc, argv, true); }
int cli_server(int argc, char **argv) { return serve(argc, argv, false); }
