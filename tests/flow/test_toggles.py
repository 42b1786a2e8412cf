"""Toggles outlive klieg: what was on before a crash is on again, with the time that was left."""
import subprocess
import time

import pytest

from conftest import Up, wait_for
from test_loop import SERVICE


@pytest.fixture
def live(tmp_path, spawn, cc):
	up = Up(tmp_path / "klieg")
	p = spawn([cc(SERVICE), "demo"], env=up.env, stdout=subprocess.PIPE)
	p.stdout.readline()
	wait_for(lambda: up.get("/processes")["processes"])
	yield up, p.pid
	up.stop()


def on(up, pid):
	"""How many sites of the process are on; None while the agent does not have it."""
	rows = [x for x in up.get("/processes")["processes"] if x["pid"] == pid and x["state"] == "live"]
	return rows[0]["on"] if rows else None


def switch(up, selector, **more):
	status, answer = up.request("POST", "/api/v1/toggles", {"selector": selector, "estimate": "0s", **more})
	assert status == 201, answer
	return answer["toggle"]


def test_toggles_survive_kill_9_with_the_ttl_that_was_left(live):
	up, pid = live
	a = switch(up, "outer", level="detail", ttl="10m", owner="ann", reason="why is it slow")
	b = switch(up, "inner", ttl="1s")
	c = switch(up, "tick", ttl="10m")
	up.request("DELETE", f"/api/v1/toggles/{c['id']}")
	before = on(up, pid)
	assert before
	wait_for(lambda: not [t for t in up.get("/toggles")["toggles"] if t["id"] == b["id"]])
	d = switch(up, "inner", ttl="1s")
	up.kill()
	wait_for(lambda: time.time_ns() > d["expires_unix_nano"])
	up.start()
	wait_for(lambda: on(up, pid))
	rows = up.get("/toggles")["toggles"]
	assert [t["id"] for t in rows] == [a["id"]]
	for key in ("selector", "level", "keep", "owner", "reason", "expires_unix_nano", "created_unix_nano"):
		assert rows[0][key] == a[key], key
	assert up.get("/status")["counts"]["toggles"] == 1 and up.get("/status")["next_expiry_unix_nano"] == a["expires_unix_nano"]
	ended = {t["id"]: t for t in up.get("/toggles?all=true")["toggles"] if t["state"] != "active"}
	assert ended[b["id"]]["state"] == "expired" and ended[c["id"]]["state"] == "removed"
	assert ended[d["id"]]["state"] == "expired" and ended[d["id"]]["ended_unix_nano"] == d["expires_unix_nano"]
	n = up.cli("query", '{ name = "outer" }', "--since", "5m", json_out=True)["matched"]
	wait_for(lambda: up.cli("query", '{ name = "outer" }', "--since", "5m", json_out=True)["matched"] > n)  # and spans come


def test_undo_survives_kill_9(live):
	up, pid = live
	a = switch(up, "outer", ttl="10m")
	assert up.request("DELETE", "/api/v1/toggles?all=true")[1]["removed"] == [a["id"]]
	up.kill()
	up.start()
	wait_for(lambda: on(up, pid) is not None)
	assert not up.get("/toggles")["toggles"] and on(up, pid) == 0
	status, answer = up.request("POST", "/api/v1/toggles/undo")
	assert status == 200 and [t["id"] for t in answer["toggles"]] == [a["id"]]
	assert on(up, pid) > 0
	assert [t["state"] for t in up.get("/toggles?all=true")["toggles"]] == ["active"]  # not among the ended any more
	assert up.request("POST", "/api/v1/toggles/undo")[0] == 404
	up.kill()
	up.start()
	wait_for(lambda: on(up, pid))


def test_account_balances_after_a_restart_and_with_events_outside_spans(tmp_path, spawn, cc):
	source = r"""
#include <klieg/klieg.h>
#include <stdio.h>
#include <unistd.h>
int main(void)
{
	printf("up\n"); fflush(stdout);
	char c;
	while (read(0, &c, 1) == 1) {
		for (int i = 0; i < 100; i++) { KLIEG_SPAN("work"); KLIEG_EVENT("inside"); }
		for (int i = 0; i < 10; i++) KLIEG_EVENT("outside");
		printf("done\n"); fflush(stdout);
	}
}
"""
	up = Up(tmp_path / "klieg")
	try:
		p = spawn([cc(source)], env=up.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
		p.stdout.readline()

		def batch():
			p.stdin.write(b"x")
			p.stdin.flush()
			assert p.stdout.readline() == b"done\n"

		def exact(n):
			a = up.get("/doctor")["account"]
			return a["balanced"] and a["open"] == a["queued"] == 0 and a["made"] == a["stored"] + sum(a["dropped"].values()) == n and a
		wait_for(lambda: up.get("/processes")["processes"])
		switch(up, "*", ttl="5m")
		batch()
		wait_for(lambda: exact(110))
		up.kill()
		up.start()
		wait_for(lambda: on(up, p.pid))
		assert exact(0), up.get("/doctor")["account"]  # this run's account, not the former's
		batch()
		wait_for(lambda: exact(110))
		assert up.get("/spans?since=1h&limit=1")["matched"] == 220
	finally:
		up.stop()


def test_a_toggle_is_narrowed_and_widened_in_one_step_and_never_to_nothing(live, spawn, cc):
	up, pid = live
	other = spawn([cc(SERVICE), "other"], env=up.env, stdout=subprocess.PIPE).pid
	wait_for(lambda: on(up, other) is not None)
	t = switch(up, "*:outer", ttl="10m", rate=5)
	assert t["rate"] == 5 and on(up, pid) == on(up, other) == 1
	path = f"/api/v1/toggles/{t['id']}"

	def patch(**body):
		status, answer = up.request("PATCH", path, body)
		assert status == 200, answer
		assert answer["id"] == t["id"] and answer["expires_unix_nano"] == t["expires_unix_nano"]
		return answer
	assert patch(selector="demo:outer")["processes"] == 1 and (on(up, pid), on(up, other)) == (1, 0)
	assert patch(selector="*:*er")["processes"] == 2 and (on(up, pid), on(up, other)) == (2, 2)
	status, answer = up.request("PATCH", path, {"selector": "nobody:*"})
	assert status == 404 and answer["code"] == "E204" and (on(up, pid), on(up, other)) == (2, 2)
	status, answer = up.request("PATCH", path, {"hosts": ["elsewhere"]})
	assert status == 404 and (on(up, pid), on(up, other)) == (2, 2)
	assert patch(hosts=["*"], rate=None)["hosts"] == ["*"] and (on(up, pid), on(up, other)) == (2, 2)
	assert "hosts" not in patch(hosts=[]) and "rate" not in up.get("/toggles")["toggles"][0]
	up.kill()
	up.start()
	wait_for(lambda: (on(up, pid), on(up, other)) == (2, 2))
	assert up.get("/toggles")["toggles"][0]["selector"] == "*:*er"


REQUESTS = r"""
#include <klieg/klieg.h>
#include <stdio.h>
#include <string.h>
static const char *header(void *arg, const char *name) { return !strcmp(name, "klieg-level") ? arg : NULL; }
int main(void)
{
	char line[200];
	klieg_init(&(struct klieg_options){ .size = sizeof(struct klieg_options), .service = "demo" });
	printf("up\n");
	fflush(stdout);
	while (fgets(line, sizeof line, stdin)) {
		struct klieg_ctx ctx, previous;
		line[strcspn(line, "\n")] = 0;
		klieg_extract(header, line, &ctx);
		klieg_set_current(&ctx, &previous);
		{
			KLIEG_SERVER_SPAN_AS(s, "request");
		}
		klieg_restore(&previous);
		printf("done\n");
		fflush(stdout);
	}
}
"""


def test_a_token_has_one_request_traced_and_nothing_else_does(klieg_up, spawn, cc):
	p = spawn([cc(REQUESTS)], env=klieg_up.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
	p.stdout.readline()
	wait_for(lambda: on(klieg_up, p.pid) is not None)
	switch(klieg_up, "demo:request", scope="marked", ttl="10m")

	def request(header):
		p.stdin.write(header + "\n")
		p.stdin.flush()
		assert p.stdout.readline() == "done\n"
	token, other, short = (klieg_up.request("POST", "/api/v1/tokens", {"service": s, "ttl": ttl, "reason": "a test"})[1] for s, ttl in
		(("demo", "5m"), ("other", "5m"), ("demo", "1s")))
	assert token["header"] == "klieg-level" and token["value"] in token["curl"]
	for header in ("", "span", other["value"], token["value"][:-1] + ("0" if token["value"][-1] != "0" else "1"), "v1.4" + token["value"][4:]):
		request(header)
	request(token["value"])
	wait_for(lambda: time.time_ns() > short["expires_unix_nano"] + 10**9)
	request(short["value"])
	request(token["value"])
	wait_for(lambda: klieg_up.stored('{ name = "request" }') >= 2)
	wait_for(klieg_up.settled)
	assert klieg_up.stored('{ name = "request" }') == 2
