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
