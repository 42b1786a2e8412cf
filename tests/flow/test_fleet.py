"""One server, many agents: everyone gets the rules, nobody who is slow, gone, confused or hostile is in the way of the others."""
import os
import re
import resource
import signal
import subprocess
import sys
import urllib.parse

import pytest
from conftest import KLIEG, TOP, Up, wait_for
from test_loop import SERVICE, text_hash

sys.path.insert(0, os.path.join(TOP, "bench/fleet"))
from light import Fleet  # noqa: E402


class Server(Up):
	command = "server"


@pytest.fixture
def server(tmp_path):
	up = Server(tmp_path / "server")
	yield up
	up.stop()


def toggle(up, selector, **more):
	status, doc = up.request("POST", "/api/v1/toggles", {"selector": selector, "ttl": "5m", "estimate": "0s", **more})
	assert status == 201, doc
	return doc["toggle"]["id"], doc


def agents_of(up):
	status, answer = up.request("GET", "/api/v1/processes")
	return {p["host"] for p in answer["processes"]} if status == 200 else set()  # 404: there is none yet


def test_a_thousand_agents_get_a_toggle_and_lose_it_again(server):
	resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
	with Fleet(server.http, 1000) as fleet:
		id_, doc = toggle(server, "op1")
		assert doc["plan"]["processes"] == 1000 and "unreachable" not in doc["plan"]
		wait_for(lambda: all(id_ in a.rules for a in fleet.agents))
		assert len(agents_of(server)) == 1000
		sites = server.get("/sites?limit=10")
		assert len(sites["sites"]) == 4 and sites["matched"] == 4 and sites["instances"] == 1000
		assert sum(s["instances"] for s in sites["sites"]) == 1000
		server.request("DELETE", f"/api/v1/toggles/{id_}")
		wait_for(lambda: not any(a.rules for a in fleet.agents))
		assert len({a.generation for a in fleet.agents}) == 1
		assert {len(a.asked) for a in fleet.agents} == {len(fleet.agents[0].asked)}, "each was asked the same"
		assert server.get("/doctor")["account"]["balanced"]
	wait_for(lambda: server.request("GET", "/api/v1/processes")[0] != 200 or not agents_of(server), timeout=40)


def test_an_agent_that_comes_later_gets_everything_and_one_that_is_ahead_too(server):
	with Fleet(server.http, 2) as fleet:
		first, _ = toggle(server, "op0")
		second, _ = toggle(server, "op1")
		with Fleet(server.http, 1, "late{}") as late:
			wait_for(lambda: set(late.agents[0].rules) == {first, second})
			assert late.agents[0].generation == fleet.agents[0].generation
		# An agent that claims rules of another server is given ours, whole.
		odd = Fleet(server.http, 1, "odd{}")
		odd.agents[0].rules, odd.agents[0].generation = {"t-else": {}}, 10**15
		with odd:
			wait_for(lambda: set(odd.agents[0].rules) == {first, second})
	server.kill()
	server.start()
	with Fleet(server.http, 1, "after{}") as after:
		wait_for(lambda: set(after.agents[0].rules) == {first, second})


def test_one_that_is_silent_or_refuses_does_not_stop_the_others(server):
	with Fleet(server.http, 5) as fleet:
		fleet.agents[3].silent = True
		got = server.get("/processes")
		assert {p["host"] for p in got["processes"]} == {"host0", "host1", "host2", "host4"} and got["unreachable"] == ["host3"]
		assert server.get("/processes")["unreachable"] == ["host3"]
		fleet.agents[3].silent = False
		wait_for(lambda: len(agents_of(server)) == 5)
		fleet.agents[1].refuse = True
		id_, _ = toggle(server, "op2")
		wait_for(lambda: [id_ in a.rules for a in fleet.agents] == [True, False, True, True, True])
		fleet.agents[1].refuse = False
		other, _ = toggle(server, "op3")
		wait_for(lambda: all(set(a.rules) == {id_, other} for a in fleet.agents))


def test_nonsense_is_refused_clearly_and_harms_nobody(server):
	with Fleet(server.http, 2) as fleet:
		bad = [
			("/agent/v1/poll", b"", 400), ("/agent/v1/poll", b"[]", 400), ("/agent/v1/poll", b'{"agent":7}', 400), ("/agent/v1/poll", b'{"agent":"a b","host":"h"}', 400),
			("/agent/v1/poll", b'{"agent":"%s","host":"h"}' % (b"x" * 200), 400), ("/agent/v1/poll", b'{"agent":"x"}', 400), ("/agent/v1/poll", b"\xff\xfe", 400),
			("/agent/v1/answer", b'{"agent":"stranger","answers":[]}', 409), ("/agent/v1/answer", b'{"agent":"host0-0","answers":7}', 400),
			("/agent/v1/nothing", b'{"agent":"host0-0"}', 404), ("/agent/v1/poll", b"[" * 100000, 400), ("/agent/v1/poll", b'{"agent":"local","host":"h","generation":"x"}', 0),
			("/agent/v1/answer", b'{"agent":"host0-0","answers":[7,null,{},{"id":"x"},{"id":1,"rc":-99999999999},{"id":999999,"rc":0,"result":{}},{"event":7},{"event":{}}]}', 200),
		]
		for path, body, want in bad:
			if not want:
				continue
			status, doc = server.request("POST", path, body)
			assert status == want, (path, body[:60], status, doc)
			if want >= 400:
				assert doc["detail"] and doc["code"].startswith("E")
		status, doc = server.request("GET", "/agent/v1/poll")
		assert status == 400
		id_, _ = toggle(server, "op0")
		wait_for(lambda: all(id_ in a.rules for a in fleet.agents))


def test_the_same_host_restarted_takes_over(server):
	with Fleet(server.http, 1, "db7") as old:
		wait_for(lambda: agents_of(server) == {"db7"})
		new = Fleet(server.http, 2, "db7")
		new.agents = new.agents[1:]
		with new:
			wait_for(lambda: old.agents[0].state == "refused")
			assert old.agents[0].status == 409 and "taken over" in old.agents[0].problem["detail"]
			id_, _ = toggle(server, "op1")
			assert id_ in new.agents[0].rules and id_ not in old.agents[0].rules


def test_two_hosts_are_traced_attached_and_accounted_as_one(server, tmp_path, spawn, cc):
	pids, agents = {}, {}
	for host in ("north", "south"):
		a = spawn([KLIEG, "agent", "--server", server.http, "--dir", str(tmp_path / host), "--host", host], stdout=subprocess.PIPE, text=True)
		socket = re.match(r"ready server=\S+ socket=(\S+)", a.stdout.readline())[1]
		p = spawn([cc(SERVICE), host], env={**os.environ, "KLIEG_SOCKET": socket}, stdout=subprocess.PIPE)
		p.stdout.readline()
		pids[host], agents[host] = p.pid, a
	wait_for(lambda: {(x["host"], x["pid"]) for x in server.get("/processes")["processes"]} == set(pids.items()))
	before = {h: text_hash(p) for h, p in pids.items()}
	_, doc = toggle(server, "*")
	assert doc["plan"]["processes"] == 2 and set(doc["plan"]["services"]) == {"north", "south"}
	wait_for(lambda: all(server.stored('{ resource.service.name = "%s" }' % h) > 50 for h in pids))

	# A question about one process of several hosts has to say which.
	status, problem = server.request("GET", f"/api/v1/processes/{pids['north']}/callees?" + urllib.parse.urlencode({"function": "main"}))
	assert status == 400 and "host" in problem["detail"] and "north" in problem["hint"] and "south" in problem["hint"]

	server.all_off()
	wait_for(lambda: all(text_hash(p) == before[h] for h, p in pids.items()))
	wait_for(lambda: server.settled())
	made = server.get("/doctor")["account"]["made"]

	# What an agent brought stays in the account when it is gone, and what a former server took is not in that of the next.
	agents["north"].send_signal(signal.SIGTERM)
	assert agents["north"].wait(10) == 0
	wait_for(lambda: {x["host"] for x in server.get("/processes")["processes"]} == {"south"})
	account = wait_for(lambda: server.settled())
	assert account["made"] == made == account["stored"] + sum(account["dropped"].values())
	port = re.search(r":(\d+)", server.http.split("//")[1])[1]
	server.kill()
	server.listen = f"127.0.0.1:{port}"
	server.start()
	wait_for(lambda: server.request("GET", "/api/v1/processes")[0] == 200 and agents_of(server) == {"south"})
	account = wait_for(lambda: server.settled())
	assert account["made"] == account["stored"] + sum(account["dropped"].values()) < made
	toggle(server, "*")
	wait_for(lambda: (a := server.get("/doctor")["account"])["balanced"] and a["stored"] > 50)
	server.all_off()
	account = wait_for(lambda: server.settled())
	assert account["made"] == account["stored"] + sum(account["dropped"].values())


def test_klieg_up_takes_agents_of_other_hosts_and_keeps_its_own(klieg_up, tmp_path, spawn, cc, target):
	up = klieg_up
	mine = os.uname().nodename
	r = subprocess.run([KLIEG, "agent", "--server", up.http, "--dir", str(tmp_path / "same")], capture_output=True, text=True, timeout=20)
	assert r.returncode != 0 and "agent of its own" in r.stderr and "--host" in r.stderr
	a = spawn([KLIEG, "agent", "--server", up.http, "--dir", str(tmp_path / "far"), "--host", "far"], stdout=subprocess.PIPE, text=True)
	socket = re.match(r"ready server=\S+ socket=(\S+)", a.stdout.readline())[1]
	for name, path in (("near", up.socket), ("distant", socket)):
		spawn([cc(SERVICE), name], env={**os.environ, "KLIEG_SOCKET": path}, stdout=subprocess.PIPE).stdout.readline()
	wait_for(lambda: {(p["service"], p["host"]) for p in up.get("/processes")["processes"]} == {("near", mine), ("distant", "far")})
	toggle(up, "*:inner")
	wait_for(lambda: up.stored('{ resource.service.name = "near" }') and up.stored('{ resource.service.name = "distant" }'))
	agents = {x["host"]: x for x in up.get("/agents")["agents"]}
	assert agents[mine]["local"] and not agents["far"]["local"] and agents["far"]["spans"] > 0 and not any(x["behind"] for x in agents.values())

	# Attaching goes to the host that was named, else to the one we are on.
	for asked, got in ((None, mine), ("far", "far")):
		p = target("hot")
		status, doc = up.request("POST", "/api/v1/attachments", {"pid": p.pid, **({"host": asked} if asked else {})})
		assert status == 200 and doc["attachments"][0]["host"] == got, doc
		assert [x["host"] for x in up.get("/processes")["processes"] if x["pid"] == p.pid] == [got]
		status, doc = up.request("DELETE", f"/api/v1/attachments/{p.pid}" + (f"?host={asked}" if asked else ""))
		assert status == 200 and doc["text_identical"], doc
	status, doc = up.request("POST", "/api/v1/attachments", {"pid": 1, "host": "nowhere"})
	assert status == 404 and "nowhere" in doc["detail"] and "far" in doc["hint"]
	up.all_off()
	account = wait_for(up.settled)
	assert account["made"] == account["stored"] + sum(account["dropped"].values()) > 0


# As many calls a second as make a policy dear: about 2 % of a process's CPU at level detail.
BUSY = r"""
#define KLIEG_COMPONENT "work"
#include <klieg/klieg.h>
#include <stdio.h>
#include <time.h>
int main(void)
{
	klieg_init(&(struct klieg_options){ .size = sizeof(struct klieg_options), .service = "demo" });
	puts("up");
	fflush(stdout);
	for (;;) {
		for (int i = 0; i < 200; i++) {
			KLIEG_SPAN("inner");
			__asm__ volatile("" ::: "memory");
		}
		nanosleep(&(struct timespec){ 0, 2000000 }, NULL);
	}
}
"""


def test_each_host_has_the_budget_that_its_agent_was_given(tmp_path, spawn, cc, server):
	def plan(level="detail"):
		text = f"policy: all\nrules:\n  - name: inner\n    match: '{{ name = \"inner\" }}'\n    level: {level}\n"
		return text, server.request("POST", "/api/v1/policies/plan", {"text": text, "estimate": "500ms"})[1]

	def agent(host, budget):
		a = spawn([KLIEG, "agent", "--server", server.http, "--dir", str(tmp_path / host), "--host", host, "--budget", budget], stdout=subprocess.PIPE, text=True)
		socket = a.stdout.readline().split("socket=")[1].strip()
		p = spawn([cc(BUSY)], env={**server.env, "KLIEG_SOCKET": socket}, stdout=subprocess.PIPE)
		p.stdout.readline()
		wait_for(lambda: host in agents_of(server))

	agent("generous", "90%")
	_, alone = plan()
	assert alone["fits"] is True and alone["budget_percent"] == 90 and 0 < alone["predicted_percent"] < 90, alone
	agent("mean", "0.01%")
	assert {a["host"]: a["budget_percent"] for a in server.get("/agents")["agents"]} == {"generous": 90, "mean": 0.01}
	assert server.get("/status")["budget_percent"] == 0.01
	text, both = plan()
	assert both["fits"] is False and both["budget_percent"] == 0.01 and both["over_on"] == "mean", both
	body = {"text": text, "expected_version": 0, "author": "ann", "estimate": "0s"}
	status, answer = server.request("PUT", "/api/v1/policies/all", body)
	assert status == 422 and "the budget is 0.01 % on mean" in answer["detail"], answer
	assert server.request("PUT", "/api/v1/policies/all", {**body, "force": True})[0] == 200


def test_a_cost_that_nobody_knows_is_called_unknown_and_refused_by_nobody(tmp_path, server, spawn, cc):
	a = spawn([KLIEG, "agent", "--server", server.http, "--dir", str(tmp_path / "a"), "--host", "a"], stdout=subprocess.PIPE, text=True)
	p = spawn([cc(BUSY)], env={**server.env, "KLIEG_SOCKET": a.stdout.readline().split("socket=")[1].strip()}, stdout=subprocess.PIPE)
	p.stdout.readline()
	wait_for(lambda: "a" in agents_of(server))
	text = "policy: all\nrules:\n  - name: inner\n    match: '{ name = \"inner\" }'\n    level: span\n"
	status, plan = server.request("POST", "/api/v1/policies/plan", {"text": text, "estimate": "0s"})
	assert status == 200 and plan["fits"] is None and [w for w in plan["warnings"] if "not known" in w], plan
	status, answer = server.request("PUT", "/api/v1/policies/all", {"text": text, "expected_version": 0, "author": "ann", "estimate": "0s"})
	assert status == 200 and answer["plan"]["fits"] is None and answer["plan"]["warnings"]
