"""Policies as code: what an operator applies is what is on, in every process, after every restart; what is wrong is refused whole and said clearly."""
import json
import subprocess
import threading
import time

import pytest

from conftest import KLIEG, Up, wait_for
from test_loop import SERVICE


def text(name="work", match='{ resource.service.name = "demo" && name = "outer" }', level="span", keep=None, more="", rule="outer"):
	keep = f"    keep: {keep}\n" if keep else ""
	return f"policy: {name}\nrules:\n  - name: {rule}\n    match: '{match}'\n    level: {level}\n{keep}{more}"


@pytest.fixture
def live(tmp_path, spawn, cc):
	up = Up(tmp_path / "klieg")
	p = spawn([cc(SERVICE), "demo"], env=up.env, stdout=subprocess.PIPE)
	p.stdout.readline()
	wait_for(lambda: on(up, p.pid) is not None)
	yield up, p.pid
	up.stop()


def on(up, pid):
	rows = [x for x in up.get("/processes")["processes"] if x["pid"] == pid and x["state"] == "live"]
	return rows[0]["on"] if rows else None


def level(up, name):
	return {s["name"]: s["level"] for s in up.get("/sites?sel=demo:*")["sites"]}[name]


def put(up, yaml, expected=0, name="work", **more):
	return up.request("PUT", f"/api/v1/policies/{name}", {"text": yaml, "expected_version": expected, "author": "ann", "reason": "why not", "estimate": "0s", **more})


def apply(up, yaml, expected=0, name="work", **more):
	status, answer = put(up, yaml, expected, name, **more)
	assert status == 200, answer
	return answer


def policy(up, name="work"):
	return {p["name"]: p for p in up.get("/policies")["policies"]}[name]


# ---- the life of a policy -------------------------------------------------------------------------------------------------
def test_applied_changed_rolled_back_and_off_each_a_version_that_stays(live):
	up, pid = live
	a = apply(up, text())
	assert a["version"] == 1 and a["state"] == "active" and a["ack_nano"] > 0 and a["plan"]["changed"] >= 1
	assert level(up, "outer") == "span" and level(up, "inner") == "off"
	wait_for(lambda: up.stored('{ name = "outer" }'))
	row = policy(up)
	assert row["state"] == "active" and row["author"] == "ann" and row["rules"][0]["sites"] == 1 and row["rules"][0]["processes"] == 1
	b = apply(up, text(level="detail", rule="outer") + "  - name: inner\n    match: '{ name = \"inner\" }'\n    level: count\n", 1)
	assert b["version"] == 2 and level(up, "outer") == "detail" and level(up, "inner") == "count"
	assert {(r["name"], r["op"]) for r in b["plan"]["rules"]} == {("outer", "~"), ("inner", "+")}
	status, c = up.request("POST", "/api/v1/policies/work/rollback", {"reason": "too much", "author": "bob"})
	assert status == 200 and c["version"] == 3 and level(up, "outer") == "span" and level(up, "inner") == "off"
	status, d = up.request("DELETE", "/api/v1/policies/work?author=bob&reason=done")
	assert status == 200 and d["version"] == 4 and d["state"] == "off" and on(up, pid) == 0
	assert up.request("DELETE", "/api/v1/policies/work")[1]["version"] == 4  # off already: nothing more to say
	history = up.get("/policies/work/versions")["versions"]
	assert [(v["version"], v["change"], v["author"]) for v in history] == [(4, "off", "bob"), (3, "rollback", "bob"), (2, "apply", "ann"), (1, "apply", "ann")]
	assert history[3]["text"] == text() == history[1]["text"]
	status, e = up.request("POST", "/api/v1/policies/work/rollback", {"to": 2})
	assert status == 200 and e["version"] == 5 and level(up, "outer") == "detail"
	old = up.get("/policies/work?version=2")
	assert old["author"] == "ann" and old["state"] == "former" and [r["name"] for r in old["policy"]["rules"]] == ["outer", "inner"]


def test_what_is_different_between_versions(live):
	up, _ = live
	apply(up, text())
	apply(up, text(level="count", keep="10%"), 1)
	d = up.get("/policies/work/diff")
	assert (d["from"], d["to"]) == (1, 2)
	assert [x["text"] for x in d["lines"] if x["op"] == "-"] == ["    level: span"] and [x["text"] for x in d["lines"] if x["op"] == "+"] == ["    level: count", "    keep: 10%"]
	assert [x["text"] for x in d["lines"] if x["op"] != "-"] == text(level="count", keep="10%").splitlines()
	assert d["rules"] == [{"op": "~", "name": "outer", "fields": [{"field": "level", "before": "span", "after": "count"}, {"field": "keep", "before": 1.0, "after": 0.1}]}]
	assert up.request("GET", "/api/v1/policies/work/diff?from=1&to=7")[0] == 404
	assert up.get("/policies/work/diff?from=0&to=1")["rules"][0]["op"] == "+"


def test_active_again_after_kill_9(live):
	up, pid = live
	apply(up, text())
	apply(up, text(name="gone", match='{ name = "inner" }'), name="gone")
	assert up.request("DELETE", "/api/v1/policies/gone")[0] == 200
	up.kill()
	up.start()
	wait_for(lambda: on(up, pid) == 1)
	assert [(p["name"], p["state"]) for p in up.get("/policies")["policies"]] == [("gone", "off"), ("work", "active")]
	assert level(up, "outer") == "span"
	n = up.stored('{ name = "outer" }')
	wait_for(lambda: up.stored('{ name = "outer" }') > n)


def test_rules_of_a_policy_reach_processes_that_start_later(live, spawn, cc):
	up, _ = live
	apply(up, text())
	p = spawn([cc(SERVICE), "demo"], env=up.env, stdout=subprocess.PIPE)
	wait_for(lambda: on(up, p.pid) == 1)


def test_limits_cap_whoever_grants(live):
	up, _ = live
	apply(up, "policy: cap\nlimits:\n  - match: '{ }'\n    level: count\n", name="cap")
	apply(up, text(level="detail"))
	up.switch("outer", level="detail")
	assert level(up, "outer") == "count"
	assert up.request("DELETE", "/api/v1/policies/cap")[0] == 200
	assert level(up, "outer") == "detail"


def test_for_ends_it(live):
	up, pid = live
	apply(up, text(more="    for: 1s\n"))
	assert on(up, pid) == 1 and up.get("/status")["next_expiry_unix_nano"]
	wait_for(lambda: on(up, pid) == 0)
	wait_for(lambda: policy(up)["state"] == "off")
	assert "run out" in policy(up)["why"] and len(up.get("/policies/work/versions")["versions"]) == 1


# ---- two operators --------------------------------------------------------------------------------------------------------
def test_a_stale_write_is_told_who_was_first(live):
	up, _ = live
	apply(up, text())
	apply(up, text(level="count"), 1, author="bob", reason="cheaper")
	status, answer = put(up, text(level="detail"), 1)
	assert status == 412 and answer["code"] == "E209" and "bob" in answer["detail"] and "cheaper" in answer["detail"] and "version 2" in answer["detail"]
	assert level(up, "outer") == "count"
	assert put(up, text(), 0)[0] == 412 and put(up, text(name="new"), 3, name="new")[0] == 412
	status, answer = up.request("PUT", "/api/v1/policies/work", {"text": text()})
	assert status == 400 and "expected_version" in answer["detail"]


def test_of_many_at_once_exactly_one_wins(live):
	up, _ = live
	for version in range(5):
		levels = ["count", "span", "detail", "count", "span", "detail", "off", "deep"]
		answers = [None] * len(levels)

		def one(i):
			answers[i] = put(up, text(level=levels[i], keep=f"{i + 1}%" if levels[i] not in ("off", "count") else None, more=f"# {version} {i}\n"), version, author=f"op{i}")
		threads = [threading.Thread(target=one, args=(i,)) for i in range(len(levels))]
		for t in threads:
			t.start()
		for t in threads:
			t.join()
		won = [i for i, (status, _) in enumerate(answers) if status == 200]
		assert len(won) == 1 and all(status in (200, 412) for status, _ in answers), [(s, a.get("detail")) for s, a in answers]
		assert policy(up)["author"] == f"op{won[0]}" and policy(up)["version"] == version + 1
	assert [v["version"] for v in up.get("/policies/work/versions")["versions"]] == [5, 4, 3, 2, 1]


def test_applying_the_same_again_is_no_new_version(live):
	up, _ = live
	apply(up, text())
	again = apply(up, text(), 1)
	assert again["version"] == 1 and again["plan"]["unchanged"] and again["plan"]["changed"] == 0
	assert len(up.get("/policies/work/versions")["versions"]) == 1


# ---- bad input ------------------------------------------------------------------------------------------------------------
def test_wrong_is_refused_whole_with_every_place(live):
	up, pid = live
	apply(up, text())
	bad = "policy: work\nrules:\n  - name: a\n    match: '{ nam = \"x\" }'\n    level: loud\n  - name: a\n    match: '{ duration > 1s }'\n"
	status, answer = put(up, bad, 1)
	assert status == 422 and answer["code"] == "E206"
	errors = [d for d in answer["diagnostics"] if d["severity"] == "error"]
	assert {d["line"] for d in errors} >= {5, 7} and all(d["code"].startswith("P") and d["message"] and d["column"] for d in errors)
	status, check = up.request("POST", "/api/v1/policies/check", {"text": bad})
	assert status == 200 and check["ok"] is False and check["diagnostics"] == answer["diagnostics"]
	assert up.request("POST", "/api/v1/policies/plan", {"text": bad})[0] == 422
	assert policy(up)["version"] == 1 and level(up, "outer") == "span"
	assert up.request("POST", "/api/v1/policies/check", {"text": text()})[1]["ok"]
	status, answer = put(up, text(name="other"))
	assert status in (400, 412)
	status, answer = put(up, text(name="other"), 1)
	assert status == 400 and "other" in answer["detail"]


@pytest.mark.parametrize("yaml", ["", "null", "[]", "\t", "policy: [", "policy: work\nrules: 5", "a" * 1000, "policy: work\n" + "- " * 5000, "&a [*a]", "rules: []"])
def test_nonsense_is_refused(klieg_up, yaml):
	status, answer = put(klieg_up, yaml)
	assert status == 422 and answer["diagnostics"], answer
	assert klieg_up.get("/policies")["policies"] == []


def test_a_megabyte_is_a_policy_and_more_is_refused(live):
	up, _ = live
	big = text() + "# " + "x" * ((1 << 20) - len(text()) - 3) + "\n"
	assert apply(up, big)["version"] == 1 and level(up, "outer") == "span"
	assert up.get("/policies/work")["text"] == big
	status, answer = put(up, big + "# one more\n" * 3, 1)
	assert status == 422 and "1 MiB" in json.dumps(answer) or "long" in json.dumps(answer), answer
	status, answer = put(up, "#" * (5 << 20), 1)
	assert status == 413 and answer["code"] == "E105"
	rules = "policy: work\nrules:\n" + "".join(f"  - name: r{i}\n    match: '{{ name = \"n{i}\" }}'\n" for i in range(1001))
	assert put(up, rules, 1)[0] == 422
	assert apply(up, rules.rsplit("  - name", 1)[0], 1)["version"] == 2
	assert level(up, "outer") == "off" and policy(up)["state"] == "active"


def test_what_matches_nothing_is_said_and_waits_for_those_to_come(live, spawn, cc):
	up, pid = live
	a = apply(up, text(match='{ resource.service.name = "later" && name = "outer" }'))
	assert a["plan"]["sites"] == 0 and "matches no site" in a["plan"]["warnings"][0] and on(up, pid) == 0
	p = spawn([cc(SERVICE), "later"], env=up.env, stdout=subprocess.PIPE)
	wait_for(lambda: on(up, p.pid) == 1)


def test_contradictions_are_settled_by_the_rules_not_by_order(live):
	up, _ = live
	both = "  - name: low\n    match: '{ name = \"outer\" }'\n    level: count\n"
	apply(up, text(level="detail") + both)
	assert level(up, "outer") == "detail"
	apply(up, "policy: work\nrules:\n" + both + "  - name: high\n    match: '{ name = \"outer\" }'\n    level: detail\nlimits:\n  - match: '{ }'\n    level: off\n", 1)
	assert level(up, "outer") == "off"


def test_unknown_policies_are_not_found_with_a_guess(live):
	up, _ = live
	apply(up, text())
	for method, path in (("GET", ""), ("GET", "/versions"), ("GET", "/diff"), ("GET", "/rollout"), ("DELETE", "")):
		status, answer = up.request(method, f"/api/v1/policies/wrok{path}")
		assert status == 404 and "work" in answer["hint"], (method, path, answer)
	assert up.request("GET", "/api/v1/policies/work?version=9")[0] == 404
	assert up.request("POST", "/api/v1/policies/work/rollback", {"to": 9})[0] == 404


def test_an_agent_that_is_not_there_gets_it_when_it_comes(tmp_path):
	class Server(Up):
		command = "server"
	up = Server(tmp_path / "klieg")
	try:
		a = apply(up, text())
		assert a["ack_nano"] is None and "no agent" in a["warning"] and policy(up)["state"] == "active"
	finally:
		up.stop()


# ---- before it is applied -------------------------------------------------------------------------------------------------
def test_plan_says_what_would_change_and_changes_nothing(live):
	up, pid = live
	status, plan = up.request("POST", "/api/v1/policies/plan", {"text": text(), "estimate": "200ms"})
	assert status == 200 and plan["ok"] and plan["fits"]
	assert [(c["op"], c["pid"], c["service"], c["name"], c["from"], c["to"]) for c in plan["changes"]] == [("+", pid, "demo", "outer", "off", "span")]
	assert plan["predicted"]["known"] and 100 < plan["predicted"]["spans_per_s"] < 2000 and plan["bytes_per_day"] > 0
	assert on(up, pid) == 0 and up.get("/policies")["policies"] == []
	apply(up, text())
	plan = up.request("POST", "/api/v1/policies/plan", {"text": text(level="count"), "estimate": "0s"})[1]
	assert [(c["op"], c["from"], c["to"]) for c in plan["changes"]] == [("~", "span", "count")] and plan["rules"][0]["op"] == "~"
	assert level(up, "outer") == "span"


def test_replay_tells_what_would_have_been_kept(live):
	up, _ = live
	up.switch("demo:*", level="detail")
	wait_for(lambda: up.stored("{}") > 3000)
	up.all_off()
	wait_for(up.settled)
	yaml = "policy: work\nrules:\n" + "".join(
		f"  - name: {n}\n    match: '{{ name = \"{m}\"{more} }}'\n    keep: {keep}\n" for n, m, more, keep in
		[("all", "outer", "", "100%"), ("tenth", "outer", "", "10%"), ("a", "inner", ' && .tenant = "a"', "100%"), ("none", "nobody", "", "100%")])
	plan = up.request("POST", "/api/v1/policies/plan", {"text": yaml, "replay": "1h", "estimate": "0s"})[1]
	r = {x["name"]: x["replay"] for x in plan["rules"]}
	outer = up.stored('{ name = "outer" }')
	assert r["all"]["kept"] == r["all"]["traces"] == r["all"]["spans"] == outer and not r["all"]["partial"] and r["all"]["window_nano"] == 3600 * 10**9
	assert 0.03 * outer < r["tenth"]["kept"] < 0.2 * outer and r["none"]["kept"] == r["none"]["bytes_per_day"] == 0
	assert r["a"]["spans"] == up.stored('{ name = "inner" && .tenant = "a" }') and r["a"]["bytes_per_day"] > 0


BUSY = r"""
#include <klieg/klieg.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>
int main(void)
{
	klieg_init(&(struct klieg_options){ .size = sizeof(struct klieg_options), .service = "busy" });
	printf("up\n");
	fflush(stdout);
	for (;;) {
		for (int i = 0; i < 20000; i++) {
			KLIEG_SPAN("hot");
		}
		struct timespec t = { 0, 5000000 };
		nanosleep(&t, NULL);
	}
}
"""


def test_what_would_blow_the_budget_is_refused_with_what_would_fit(klieg_up, spawn, cc):
	p = spawn([cc(BUSY)], env=klieg_up.env, stdout=subprocess.PIPE)
	wait_for(lambda: on(klieg_up, p.pid) is not None)
	yaml = text(match='{ name = "hot" }')
	status, answer = put(klieg_up, yaml, estimate="200ms")
	assert status == 422 and answer["code"] == "E600" and "budget" in answer["detail"], answer
	assert answer["plan"]["fits"] is False and answer["plan"]["predicted_percent"] > answer["plan"]["budget_percent"]
	assert on(klieg_up, p.pid) == 0 and klieg_up.get("/policies")["policies"] == []
	assert apply(klieg_up, yaml, estimate="200ms", force=True)["version"] == 1


# ---- triggers and alerts --------------------------------------------------------------------------------------------------
def test_a_firing_is_kept_with_its_cause_and_the_traces_that_it_caught(live):
	up, pid = live
	escalate = "    escalate:\n      when: '{ resource.service.name = \"demo\" && name = \"outer\" } | rate() > 1'\n      over: 1s\n      to: span\n"
	apply(up, text(level="count", more=escalate))
	firing = wait_for(lambda: (f := up.get("/firings?policy=work")["firings"]) and f[0], 30)
	assert (firing["policy"], firing["rule"], firing["service"], firing["from"], firing["to"], firing["state"]) == ("work", "outer", "demo", "count", "span", "raised")
	assert firing["cause"]["value"] > firing["cause"]["threshold"] == 1 and "rate()" in firing["cause"]["query"] and firing["owner"] == "ann"
	traces = wait_for(lambda: up.get("/firings?policy=work")["firings"][0]["traces"], 30)
	assert up.get("/traces/" + traces[0])["spans"][0]["name"] == "outer"
	alert = wait_for(lambda: [a for a in up.get("/alerts")["alerts"] if a["id"] == "firing." + firing["id"]])[0]
	assert "work/outer" in alert["text"] and alert["cli"] == "klieg firings" and alert["since_unix_nano"] > 0
	up.kill()
	up.start()
	assert [f["id"] for f in up.get("/firings")["firings"]][-1] == firing["id"]  # and after a restart
	assert up.request("DELETE", "/api/v1/policies/work")[0] == 200
	wait_for(lambda: all(f["state"] != "raised" for f in up.get("/firings")["firings"]))
	assert up.get("/firings?policy=nobody")["firings"] == []


@pytest.mark.waits
def test_what_no_host_sees_alone_is_raised_across_hosts(tmp_path, spawn, cc):
	class Server(Up):
		command = "server"
	up = Server(tmp_path / "klieg")
	try:
		for host in ("a", "b"):
			agent = spawn([KLIEG, "agent", "--server", up.http, "--dir", str(tmp_path / host), "--host", host], stdout=subprocess.PIPE, text=True)
			env = dict(up.env, KLIEG_SOCKET=agent.stdout.readline().split("socket=")[1].split()[0])
			spawn([cc(SERVICE), "demo"], env=env, stdout=subprocess.PIPE)
		wait_for(lambda: {p["host"] for p in up.get("/processes")["processes"] if p["state"] == "live"} == {"a", "b"})
		up.switch("outer", level="count")
		last = [0]

		def steady():
			s = [x["calls_per_s"] for x in up.get("/sites/stats?window=10s")["sites"] if x["name"] == "outer"]
			before, last[0] = last[0], len(s) == 2 and max(s)
			return before and abs(last[0] - before) < before * .02 and min(s) > last[0] * .8 and last[0]
		rate = wait_for(steady, 40, every=1)
		escalate = f"    escalate:\n      when: '{{ resource.service.name = \"demo\" && name = \"outer\" }} | rate() > {rate * 1.5:.0f}'\n      over: 2s\n      to: span\n"
		apply(up, text(level="count", more=escalate))
		firing = wait_for(lambda: (f := up.get("/firings")["firings"]) and f[0], 40)
		assert firing["host"] == "" and firing["to"] == "span" and firing["cause"]["value"] > rate * 1.4
		wait_for(lambda: policy(up)["rules"][0].get("raised") == "span" and {s["level"] for s in up.get("/sites?sel=demo:outer")["sites"]} == {"span"})
	finally:
		up.stop()
