"""The audit log: who changed what, why, from what to what, and how that went; nothing is missing and nothing is there twice."""
import json
import os
import shlex
import signal
import sqlite3
import subprocess
import threading
import time

import pytest

from conftest import Up, wait_for
from guarding import build
from test_alerts import Server, agent
from test_policies import put
from test_toggles import switch

PROGRAM = r"""
#define KLIEG_COMPONENT "work"
#include <klieg/klieg.h>
#include <poll.h>
#include <stdio.h>
int main(void)
{
	klieg_init(&(struct klieg_options){ .size = sizeof(struct klieg_options), .service = "demo" });
	puts("up");
	fflush(stdout);
	for (;;) {
		KLIEG_SPAN("outer");
		poll(NULL, 0, 1);
	}
}
"""


@pytest.fixture
def up(tmp_path, spawn, cc):
	up = Up(tmp_path / "klieg", "--budget", "0")
	p = spawn([cc(PROGRAM)], env=up.env, stdout=subprocess.PIPE)
	p.stdout.readline()
	wait_for(lambda: [x for x in up.get("/processes")["processes"] if x["state"] == "live"])
	yield up
	up.stop()


def log(up, query=""):
	return up.get("/audit" + query)["entries"]


def told(entry):
	return entry["what"], entry["who"], entry["why"], entry["outcome"]


def test_every_change_of_a_toggle_is_one_entry_with_before_and_after(up):
	t = switch(up, "demo:outer", level="count", ttl="10m", owner="ann", reason="why is it slow")
	obj = f"toggle:{t['id']}"
	assert up.cli("narrow", t["id"], "--share", "100%", "--tenant", "7")  # by whom the command line says
	status, _ = up.request("PATCH", f"/api/v1/toggles/{t['id']}", {"level": "span", "reason": "deeper", "owner": "ben"})
	assert status == 200
	up.request("DELETE", f"/api/v1/toggles/{t['id']}?reason=found&owner=ann")
	up.request("POST", "/api/v1/toggles/undo")
	up.request("DELETE", f"/api/v1/toggles/{t['id']}")
	up.request("DELETE", f"/api/v1/toggles/{t['id']}")  # again is no change
	up.request("POST", "/api/v1/toggles", {"selector": "demo:outer", "dry_run": True})  # nor is asking
	entries = log(up, f"?object={t['id']}")[::-1]
	assert [e["what"] for e in entries] == ["on", "change", "change", "off", "restore", "off"]
	assert all(e["object"] == obj for e in entries)
	assert told(entries[0]) == ("on", "ann", "why is it slow", "done")
	assert told(entries[2]) == ("change", "ben", "deeper", "done")
	assert told(entries[3]) == ("off", "ann", "found", "done")
	who = subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip()
	assert entries[1]["who"].startswith(who)
	assert entries[0]["before"] is None and entries[0]["after"]["level"] == "count"
	assert entries[2]["before"]["level"] == "count" and entries[2]["after"]["level"] == "span"
	assert ".tenant" in entries[2]["before"]["selector"] and entries[3]["before"] == entries[2]["after"] and entries[3]["after"] is None
	assert len(log(up)) == 6
	rows = up.cli("audit", t["id"]).stdout
	assert "level count -> span" in rows and "was: selector" in rows and "found" in rows
	assert up.cli("audit", "--who", "ben", json_out=True)["entries"] == [entries[2]]
	assert up.cli("audit", "--who", "nobody", check=False).returncode == 1
	switch(up, "demo:outer", ttl="1m")
	up.cli("off", "--all", "--reason", "enough")
	assert told(log(up)[0]) == ("off", who, "enough", "done")


def test_what_ends_by_itself_says_so_and_the_log_outlives_a_crash(up):
	t = switch(up, "outer", ttl="1s", owner="ann")
	entry = wait_for(lambda: (e := log(up, "?who=system:ttl")) and e[0])
	assert entry["what"] == "expire" and entry["object"] == f"toggle:{t['id']}" and entry["before"]["owner"] == "ann"
	before = log(up)
	up.kill()
	up.start()
	assert log(up) == before
	switch(up, "outer", ttl="1m", owner="ann")
	assert log(up)[0]["number"] == before[0]["number"] + 1


POLICY = 'policy: shop\nrules:\n  - name: all\n    match: \'{{ resource.service.name = "demo" }}\'\n    level: {}\n'


def test_policies_tokens_and_panic(up):
	assert put(up, POLICY.format("count"), 0, "shop", author="ann", reason="numbers")[0] == 200
	assert put(up, POLICY.format("span"), 1, "shop", author="ben", reason="and spans")[0] == 200
	assert put(up, POLICY.format("span"), 1, "shop", author="cat")[0] == 412  # was not allowed: that, too, is known
	assert up.request("POST", "/api/v1/policies/shop/rollback", {"author": "ann", "reason": "too much"})[0] == 200
	assert up.request("POST", "/api/v1/tokens", {"service": "demo", "owner": "ann", "reason": "one request"})[0] == 200
	t = switch(up, "demo:outer", owner="dan")
	assert up.request("POST", "/api/v1/panic", {"owner": "eve", "reason": "latency"})[0] == 200
	assert up.request("POST", "/api/v1/panic/undo", {"owner": "eve", "reason": "was not it"})[0] == 200
	assert up.request("DELETE", "/api/v1/policies/shop?author=ann&reason=over")[0] == 200
	entries = log(up)[::-1]
	assert [told(e) for e in entries] == [("apply", "ann", "numbers", "done"), ("apply", "ben", "and spans", "done"), ("apply", "cat", "why not", "refused"),
		("rollback", "ann", "too much", "done"), ("token", "ann", "one request", "done"), ("on", "dan", "", "done"), ("panic", "eve", "latency", "done"),
		("undo", "eve", "was not it", "done"), ("off", "ann", "over", "done")]
	assert entries[1]["before"] == {"version": 1, "in_force": 1, "state": "active"} and entries[1]["after"] == {"version": 2, "in_force": 2, "state": "active"}
	assert entries[2]["code"] == "E209" and "version 2" in entries[2]["detail"]
	assert entries[6]["before"] == {"toggles": 1, "policies": 1} and entries[6]["objects"] == [f"toggle:{t['id']}"]
	assert "v1." not in str(entries[4])  # that there is a token, not the token
	assert [e["what"] for e in log(up, f"?object={t['id']}")] == ["panic", "on"]
	assert [e["what"] for e in log(up, "?object=policy:*&who=ann")] == ["off", "rollback", "apply"]
	page = up.get("/audit?limit=4")
	rest = up.get(f"/audit?limit=100&before={page['next']}")
	assert page["entries"] + rest["entries"] == entries[::-1] and page["matched"] == 9 and page["let_go"] == 0 and "next" not in rest
	assert not log(up, f"?to={entries[0]['at_unix_nano']}") and len(log(up, f"?from={entries[8]['at_unix_nano']}")) == 1


@pytest.mark.waits
def test_a_rollout_is_told_step_by_step(up):
	text = POLICY.format("count") + "    rollout: [1 process, 100%]\n"
	assert put(up, text, 0, "shop", author="ann", soak="10m")[0] == 200
	wait_for(lambda: up.get("/policies/shop/rollout")["evidence"])
	assert up.request("POST", "/api/v1/policies/shop/rollout", {"action": "stop", "author": "ben", "reason": "wait"})[0] == 200
	assert up.request("POST", "/api/v1/policies/shop/rollout", {"action": "promote", "author": "ben", "reason": "go"})[0] == 200
	entries = log(up, "?object=policy:shop")[::-1]
	assert [told(e) for e in entries] == [("apply", "ann", "why not", "done"), ("step", "system:rollout", "", "done"), ("stop", "ben", "wait", "done"),
		("promote", "ben", "go", "done")]
	assert [(e["after"]["state"], e["after"].get("step")) for e in entries] == [("rolling_out", None), ("rolling_out", 1), ("stopped", 1), ("rolling_out", 2)]


# ---- undoing ----------------------------------------------------------------------------------------------------------------
def on_now(up):
	return {t["id"]: t for t in up.get("/toggles")["toggles"]}


def undo(up, entry, *args):
	"""With the very command that is shown."""
	shown = up.cli("audit", entry["object"]).stdout
	assert f"undo {entry['id']}" in shown and entry["revert"]["cli"] in shown, shown
	command = entry["revert"]["cli"].replace("WHY", "'was not it'")
	return up.cli(*shlex.split(command)[1:], *args)


def test_an_entry_about_a_toggle_says_how_to_undo_it_and_that_works(up):
	t = switch(up, "demo:outer", level="count", ttl="10m", owner="ann", hosts=["*"])
	assert up.request("PATCH", f"/api/v1/toggles/{t['id']}", {"level": "span", "hosts": ["*", "web-*"]})[0] == 200
	rows = up.cli("audit", t["id"], "--what", "change").stdout
	assert "level count -> span" in rows and "hosts +web-*" in rows and "selector" not in rows and "{" not in rows, rows  # only what is different
	changed, on = log(up)[:2]
	undo(up, changed)
	assert on_now(up)[t["id"]]["level"] == "count" and on_now(up)[t["id"]]["hosts"] == ["*"]
	assert "revert" not in log(up, f"?before={changed['number'] + 1}")[0]  # it is undone
	r = up.cli("revert", changed["id"], check=False)
	assert r.returncode != 0 and "has been already" in r.stderr
	undo(up, on)
	assert not on_now(up)
	off = log(up)[0]
	assert off["what"] == "off" and off["why"] == "was not it"
	undo(up, off)
	back = list(on_now(up).values())
	assert len(back) == 1 and back[0]["level"] == "count" and back[0]["selector"] == t["selector"] and back[0]["hosts"] == ["*"]
	assert 0 < back[0]["expires_unix_nano"] - t["expires_unix_nano"] + 60e9 < 120e9  # the time that was left, not all of it again
	assert up.cli("revert", "a-999", check=False).returncode != 0 and "no entry" in up.cli("revert", "a-999", check=False).stderr
	assert "like a-12" in up.cli("revert", "12x", check=False).stderr


def test_an_entry_about_a_policy_goes_back_to_what_was_in_force(up):
	def state():
		p = up.get("/policies")["policies"][0]
		return p["state"], p["rules"][0]["level"]

	assert put(up, POLICY.format("count"), 0, "shop", author="ann")[0] == 200
	assert put(up, POLICY.format("span"), 1, "shop", author="ben")[0] == 200
	second, first = log(up)
	assert second["revert"]["cli"] == "klieg policy rollback shop --to 1 --reason WHY" and first["revert"]["cli"] == "klieg policy off shop --reason WHY"
	undo(up, second)
	assert state() == ("active", "count")
	back = log(up)[0]
	assert (back["what"], back["why"]) == ("rollback", "was not it") and "revert" not in log(up, f"?before={second['number'] + 1}")[0]
	undo(up, back)
	assert state() == ("active", "span")
	undo(up, log(up, f"?before={first['number'] + 1}")[0])
	assert state()[0] == "off"
	off = log(up)[0]
	undo(up, off)
	assert state() == ("active", "span")
	assert up.request("POST", "/api/v1/panic", {"owner": "eve", "reason": "latency"})[0] == 200
	assert not [e for e in log(up, "?object=policy:*") if "revert" in e]  # all is off: first that
	undo(up, log(up)[0])
	assert not up.get("/status")["panic"] and state() == ("active", "span")


KEPT = 10_000


def test_the_log_keeps_its_newest_entries_and_says_how_many_it_let_go(up, tmp_path):
	t = switch(up, "demo:outer", level="count", ttl="10m", owner="ann", reason="numbers")
	up.kill()
	rows = lambda sql="SELECT id, version, json FROM doc WHERE kind = 'audit' ORDER BY id": sqlite3.connect(os.path.join(up.dir, "state.db")).execute(sql).fetchall()
	(first, version, text), = rows()
	with sqlite3.connect(os.path.join(up.dir, "state.db")) as db:  # as if the same had happened all day long
		for i in range(2, KEPT):
			db.execute("INSERT INTO doc VALUES ('audit', ?, ?, ?)", (f"{i:012}", version, json.dumps({**json.loads(text), "id": f"a-{i}", "number": i})))
	up.start()
	answer = up.get("/audit?limit=1")
	assert answer["total"] == answer["matched"] == KEPT - 1 and answer["let_go"] == 0 and answer["entries"][0]["number"] == KEPT - 1
	for level in ("span", "count", "span", "count"):
		assert up.request("PATCH", f"/api/v1/toggles/{t['id']}", {"level": level})[0] == 200

	def as_it_should_be():
		answer = up.get("/audit?limit=3")
		assert answer["total"] == KEPT + 3 and answer["matched"] == KEPT and answer["let_go"] == 3
		assert [(e["number"], e["outcome"], e["after"]["level"]) for e in answer["entries"]] == [(KEPT + 3 - i, "done", ("count", "span", "count")[i]) for i in range(3)]
		oldest = up.get("/audit?limit=10&before=6")
		assert [e["number"] for e in oldest["entries"]] == [5, 4] and "next" not in oldest  # 1 to 3 are gone
	as_it_should_be()
	assert "3 older entries were let go" in up.cli("audit", "--limit", "5").stderr
	up.kill()
	assert (len(rows()), rows()[0][0], rows()[-1][0]) == (KEPT, f"{4:012}", f"{KEPT + 3:012}")  # the disk has no more, and no others
	up.start()
	as_it_should_be()
	# A server that let more pile up, or that had a larger log, lets go when it starts.
	up.kill()
	with sqlite3.connect(os.path.join(up.dir, "state.db")) as db:
		for i in range(KEPT + 4, KEPT + 104):
			db.execute("INSERT INTO doc VALUES ('audit', ?, ?, ?)", (f"{i:012}", version, json.dumps({**json.loads(text), "id": f"a-{i}", "number": i})))
	up.start()
	answer = up.get("/audit?limit=1")
	assert answer["matched"] == KEPT and answer["let_go"] == 103 and answer["total"] == KEPT + 103


def test_what_was_under_way_when_the_server_ended_is_called_interrupted(tmp_path, spawn, cc):
	up = Server(tmp_path / "klieg")
	try:
		a = agent(spawn, up, tmp_path, "a")
		spawn([cc(PROGRAM)], env=dict(up.env, KLIEG_SOCKET=a.socket), stdout=subprocess.PIPE)
		wait_for(lambda: [x for x in up.get("/agents")["agents"] if x["reachable"]])
		wait_for(lambda: [x for x in up.get("/processes")["processes"] if x["state"] == "live" and x["sites"]])
		t = switch(up, "outer", level="count", owner="ann")
		os.kill(a.pid, signal.SIGSTOP)  # whether it has heard of it nobody knows

		def ask():
			try:
				up.request("POST", "/api/v1/panic", {"owner": "ben", "reason": "slow"})
			except OSError:
				pass  # the server ends before it answers
		asking = threading.Thread(target=ask)
		asking.start()
		entry = wait_for(lambda: (e := log(up)) and len(e) == 2 and e[0])
		assert told(entry) == ("panic", "ben", "slow", "pending") and entry["objects"] == [f"toggle:{t['id']}"]
		up.kill()
		asking.join()
		os.kill(a.pid, signal.SIGKILL)
		up.start()
		later, before = log(up)
		assert later == {**entry, "outcome": "interrupted", "detail": "the server ended before the agents had answered"}
		assert before["outcome"] == "done"
		assert up.get("/status")["panic"]["owner"] == "ben" and not [x for x in up.get("/toggles")["toggles"] if x["state"] == "active"]  # as asked
		assert "interrupted" in up.cli("audit").stdout
		up.kill()
		up.start()
		assert log(up)[:2] == [later, before]
	finally:
		up.stop()


@pytest.mark.waits
def test_what_the_governor_took_and_gave_back_is_one_entry_each(tmp_path, spawn):
	up = Up(tmp_path / "klieg", "--budget", "1")
	try:
		p = spawn([build(tmp_path)], env={**up.env, "OTEL_SERVICE_NAME": "shop"}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

		def tell(what, n):
			p.stdin.write(f"{what} {n}\n")
			p.stdin.flush()
			p.stdout.readline()
		wait_for(lambda: [x for x in up.get("/processes")["processes"] if x["state"] == "live" and x["sites"] == 4])
		governed = lambda: log(up, "?who=system:governor")[::-1]
		up.switch("shop:*", level="detail", ttl="30m")
		for _ in range(2):  # it begins again before there has been room for a minute: the same story
			tell("storm", 1)
			shed = wait_for(lambda: (up.get("/overhead")["processes"][0]["shed"] or None) and governed())
			tell("storm", 0)
			wait_for(lambda: not up.get("/overhead")["processes"][0]["shed"], 60)
		room = time.time_ns()
		assert len(shed) == 1 and shed[0]["what"] == "shed" and shed[0]["object"].endswith(f"/{p.pid}")
		assert shed[0]["before"] == {"site": "storm.entry", "level": "detail"} and shed[0]["measured_percent"] > shed[0]["limit_percent"] > 0
		taken, back = wait_for(lambda: len(governed()) > 1 and governed(), 120, every=1)
		assert taken == shed[0] and (back["what"], back["object"], back["outcome"]) == ("give_back", taken["object"], "done")
		assert back["after"] == {"state": "as wanted"} and back["why"] == "there has been room for everything for a minute"
		assert back["at_unix_nano"] - room > 59e9  # and so there has: the minute begins when the last was given back, not when it was taken
	finally:
		up.stop()
