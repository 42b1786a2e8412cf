"""The audit log: who changed what, why, from what to what, and how that went; nothing is missing and nothing is there twice."""
import shlex
import subprocess

import pytest

from conftest import Up, wait_for
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
