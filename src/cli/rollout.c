/* A rollout as it happens: one line on standard error per step and per comparison of the canary with the rest, until it has ended. The rollout is
 * the server's: it goes on without us, and when the server is away for a while we say so and wait; what it says after it is back is the truth. */
#include "cli/policy.h"
#include "base/clock.h"
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

enum { EVERY_MS = 250, PATIENCE_S = 60 };

static bool under_way(const char *state) { return !strcmp(state, "running") || !strcmp(state, "rolling_out") || !strcmp(state, "waiting"); }

static void step_name(const json_t *step, struct buf *b)
{
	struct fmt f;
	int64_t processes = jint(step, "processes");
	if (processes)
		buf_printf(b, "%lld process%s", (long long)processes, processes == 1 ? "" : "es");
	else
		buf_printf(b, "%s of processes", fmt_percent(&f, jnum(step, "share") * 100));
}

static void vitals(const char *who, const json_t *v, struct buf *b)
{
	struct fmt f, g, h;
	long long n = (long long)jint(v, "processes");
	buf_printf(b, "%s (%lld process%s): overhead %s", who, n, n == 1 ? "" : "es", fmt_percent(&f, jnum(v, "overhead_percent")));
	if (json_is_number(json_object_get(v, "p50_nano")))
		buf_printf(b, ", median %s", fmt_duration(&g, jnum(v, "p50_nano")));
	if (json_is_number(json_object_get(v, "p99_nano")))
		buf_printf(b, ", p99 %s", fmt_duration(&g, jnum(v, "p99_nano")));
	if (json_is_number(json_object_get(v, "error_share")))
		buf_printf(b, ", errors %s", fmt_percent(&h, jnum(v, "error_share") * 100));
	buf_printf(b, ", n=%lld", (long long)jint(v, "calls"));
}

static void evidence_text(const json_t *x, struct buf *b)
{
	const json_t *rest = json_object_get(x, "rest"), *canary = json_object_get(x, "canary");
	if (json_is_object(canary))
		vitals("canary", canary, b);
	if (json_is_object(rest) && jint(rest, "processes") > 0) {
		buf_add_str(b, "; ");
		vitals(json_is_true(json_object_get(rest, "past")) ? "the same before" : "the rest", rest, b);
	}
	if (*jstr(x, "verdict"))
		buf_printf(b, "%s%s", json_is_object(canary) ? ": " : "", jstr(x, "verdict"));
	if (*jstr(x, "why")) {
		buf_add_str(b, ": ");
		fmt_safe(b, jstr(x, "why"), 0);
	}
}

/* Where it stands, and why if it is not just going on. step counts from 0 in the API, from 1 for people. */
void rollout_where(const json_t *r, struct buf *b)
{
	const json_t *steps = json_object_get(r, "steps"), *step = json_array_get(steps, (size_t)jint(r, "step"));
	const char *state = jstr(step, "state"), *why = *jstr(r, "why") ? jstr(r, "why") : jstr(step, "why");
	buf_printf(b, "%s", jstr(r, "state"));
	if (step) {
		buf_printf(b, ", step %lld of %zu: ", (long long)jint(r, "step") + 1, json_array_size(steps));
		step_name(step, b);
		if (strcmp(state, jstr(r, "state")))
			buf_printf(b, ", %s", state);
	}
	if (*why) {
		buf_add_str(b, ": ");
		fmt_safe(b, why, 0);
	}
	if (*jstr(step, "not_compared")) {
		buf_add_str(b, ": latency and errors were not compared, ");
		fmt_safe(b, jstr(step, "not_compared"), 0);
	}
}
void rollout_text(const json_t *r, struct buf *b)
{
	const json_t *all = json_object_get(r, "evidence");
	rollout_where(r, b);
	const json_t *last = json_array_get(all, json_array_size(all) - 1);
	if (last && (!*jstr(last, "why") || strcmp(jstr(last, "why"), jstr(r, "why")))) {
		buf_add_str(b, "; ");
		evidence_text(json_array_get(all, json_array_size(all) - 1), b);
	}
}

static void say(const char *name, const struct buf *b)
{
	struct fmt f;
	fprintf(stderr, "%.8s %s: %.*s\n", fmt_clock(&f, clock_wall()), name, (int)b->n, (char *)b->p);
}

/* What is new since the last look. */
static void progress(const char *name, const json_t *r, int64_t *told_step, int64_t *told_evidence)
{
	const json_t *steps = json_object_get(r, "steps"), *all = json_object_get(r, "evidence");
	int64_t step = jint(r, "step");
	struct buf b = { 0 };
	/* Before it begins the server looks at how things are without it. Once it has been interrupted it begins again. */
	if (!strcmp(jstr(json_array_get(steps, (size_t)step), "state"), "interrupted"))
		*told_step = -1;
	if (step != *told_step && !strcmp(jstr(json_array_get(steps, (size_t)step), "state"), "running")) {
		const json_t *s = json_array_get(steps, (size_t)step);
		struct fmt f;
		buf_printf(&b, "step %lld of %zu: ", (long long)step + 1, json_array_size(steps));
		step_name(s, &b);
		int64_t left = jint(s, "until") - clock_wall();
		if (jint(s, "until") && left > 0)
			buf_printf(&b, ", watched for %s", fmt_duration(&f, left));
		say(name, &b);
		*told_step = step;
	}
	/* The newest only: the server compares more often than anybody reads. A verdict that is not the last one's is worth a line. */
	size_t n = json_array_size(all);
	const json_t *x = n ? json_array_get(all, n - 1) : NULL;
	if (x && jint(x, "at") >= *told_evidence + (strcmp(jstr(x, "verdict"), "ok") ? 1 : 2000000000)) {
		buf_clear(&b);
		evidence_text(x, &b);
		say(name, &b);
		*told_evidence = jint(x, "at");
	}
	buf_finish(&b);
}

static int ended(const char *name, const json_t *r)
{
	const json_t *all = json_object_get(r, "evidence");
	size_t n = json_array_size(all);
	const char *state = jstr(r, "state"), *why = *jstr(r, "why") ? jstr(r, "why") : n ? jstr(json_array_get(all, n - 1), "why") : "";
	if (!strcmp(state, "done") || !strcmp(state, "active") || !strcmp(state, "complete")) {
		fprintf(stderr, "%s%s is in force everywhere%s\n", style("green"), name, style("off"));
		return CLI_OK;
	}
	struct err e = { 0 };
	struct buf safe = { 0 };
	fmt_safe(&safe, why, 0);
	bool stopped = !strcmp(state, "stopped");
	err_set(&e, stopped ? KLIEG_E_PARTIAL : KLIEG_E_GUARDRAIL, "the rollout of %s %s%s%.*s", name,
		stopped ? "was stopped where it is" : "was rolled back", safe.n ? ": " : "",
		(int)safe.n, (char *)safe.p);
	err_hint(&e, stopped ? "klieg policy promote %s goes on; klieg policy rollback %s takes it back" : "klieg policy history %s; klieg policy "
		"show %s -o wide has the evidence", name, name);
	buf_finish(&safe);
	return cli_fail(&e);
}

int rollout_follow(struct cli *c, const char *name, json_t **ret_rollout)
{
	struct buf t = { 0 };
	int64_t told_step = -1, told_evidence = 0, away = 0;
	int status = CLI_OK;
	client_path(&t, "/api/v1/policies/", name, "/rollout");
	buf_byte(&t, 0);
	cli_catch_interrupt();
	for (;;) {
		struct err e = { 0 };
		json_t *r = NULL;
		if (cli_interrupted) {
			fprintf(stderr, "the rollout of %s goes on without you; to follow: klieg policy rollout %s; to stop: klieg policy stop %s; to "
				"take it back: klieg policy rollback %s\n",
				name, name, name, name);
			status = CLI_INTERRUPTED;
			break;
		}
		int rc = client_json(&c->client, "GET", (char *)t.p, NULL, &r, NULL, &e);
		if (rc == KLIEG_E_NO_SERVER || rc == KLIEG_E_BUSY) {
			if (cli_interrupted)
				continue;
			if (!away) {
				away = clock_mono();
				fprintf(stderr, "%s: the server does not answer. The agents keep to what they were told last; the rollout goes on "
					"when it is back. Waiting up to %d s\n", name, PATIENCE_S);
			} else if (clock_mono() - away > PATIENCE_S * 1000000000ll) {
				err_hint(&e, "when it is back: klieg policy rollout %s", name);
				status = cli_fail(&e);
				break;
			}
		} else if (rc < 0) {
			status = cli_fail(&e);
			break;
		} else {
			if (away)
				fprintf(stderr, "%s: the server is back\n", name);
			away = 0;
			progress(name, r, &told_step, &told_evidence);
			bool over = !under_way(jstr(r, "state"));
			if (over)
				status = ended(name, r);
			if (ret_rollout) {
				json_decref(*ret_rollout);
				*ret_rollout = json_incref(r);
			}
			json_decref(r);
			if (over)
				break;
		}
		poll(NULL, 0, EVERY_MS);
	}
	buf_finish(&t);
	return status;
}
