"""The agent and its rules: what the server says is what is on, once, and nothing is half done."""
import os
import subprocess
import time

import pytest
from conftest import BUILD, TOP, wait_for
from test_agent import Agent

PROGRAM = """
#define KLIEG_COMPONENT "demo"
#include "klieg/klieg.h"
#include <unistd.h>
static void charge(void) { KLIEG_SPAN("pay.charge", KLIEG_STR("tenant", "7"), KLIEG_STR("user.name", "Alice")); usleep(100); }
static void refund(void) { KLIEG_SPAN("pay.refund"); usleep(100); }
int main(void) { for (;;) { KLIEG_SPAN("request"); charge(); refund(); } }
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory):
	where = tmp_path_factory.mktemp("rules")
	source, exe = where / "t.c", str(where / "t")
	source.write_text(PROGRAM)
	lib = next(d for d in (BUILD, os.path.join(BUILD, "src", "probe")) if os.path.exists(os.path.join(d, "libklieg.so")))
	subprocess.check_call(["cc", "-O2", "-I", os.path.join(TOP, "include"), str(source), "-o", exe, "-L", lib, "-lklieg", f"-Wl,-rpath,{lib}"])
	return exe


class Host:
	"""An agent, and programs of one service each."""

	def __init__(self, exe, tmp_path):
		self.exe, self.socket = exe, str(tmp_path / "s" / "a.sock")
		self.agent, self.programs = Agent(self.socket), []

	def start(self, service):
		self.programs.append(subprocess.Popen([self.exe], env={**os.environ, "KLIEG_SOCKET": self.socket, "OTEL_SERVICE_NAME": service}))
		pid = self.programs[-1].pid
		wait_for(lambda: any(p["pid"] == pid and p["sites"] == 3 for p in self.agent("ps")["processes"]))
		return pid

	def raw(self, method, **params):
		import json
		self.agent.proc.stdin.write(f"{method} {json.dumps(params)}\n")
		self.agent.proc.stdin.flush()
		return json.loads(self.agent.proc.stdout.readline())

	def levels(self, service=None):
		sites = self.agent("ls", **({"selector": f'{{ resource.service.name = "{service}" }}'} if service else {}))["sites"]
		return {s["name"]: s["level"] for s in sites}

	def on(self):
		return {p["pid"]: p["on"] for p in self.agent("ps")["processes"]}


@pytest.fixture
def host(program, tmp_path):
	h = Host(program, tmp_path)
	yield h
	for p in h.programs:
		p.kill()
		p.wait()
	h.agent.proc.stdin.close()
	assert h.agent.proc.wait(10) == 0


def rule(name, selector, **more):
	return {"id": f"p:test/{name}", "selector": selector, "level": "span", "policy": "test", "rule": name, **more}


def test_grants_take_the_highest_limits_the_lowest_in_any_order(host):
	host.start("shop")
	rules = [rule("a", "pay.*", level="detail"), rule("b", "pay.charge", level="count"), rule("c", "*", level="count"),
		{"id": "l:test/1", "kind": "limit", "selector": "pay.refund", "level": "span"}, {"id": "l:test/2", "kind": "limit", "selector": "*", "level": "detail"}]
	for order in (rules, rules[::-1], rules[2:] + rules[:2]):
		host.agent("change", generation=1, base=-1, set=[])
		for i, r in enumerate(order):
			host.agent("change", generation=i + 2, base=i + 1, set=[r])
		assert host.levels() == {"pay.charge": "detail", "pay.refund": "span", "request": "count"}
	host.agent("change", generation=10, base=6, remove=["l:test/1", "p:test/c"])
	assert host.levels() == {"pay.charge": "detail", "pay.refund": "detail", "request": "off"}


def test_an_agent_that_is_behind_says_so_and_takes_the_complete_set(host):
	host.start("shop")
	host.agent("change", generation=5, base=-1, set=[rule("old", "request")])
	late = host.raw("change", generation=17, base=16, set=[rule("new", "pay.*")])
	assert late["rc"] < 0 and "generation 5" in late["error"]
	assert host.levels()["pay.charge"] == "off" and host.agent("ps")["generation"] == 5
	done = host.agent("change", generation=17, base=-1, set=[rule("new", "pay.*")])
	assert done["changed"] == 3 and {c["op"] for c in done["changes"]} == {"+", "-"}
	assert host.levels() == {"pay.charge": "span", "pay.refund": "span", "request": "off"}
	assert host.agent("ps")["generation"] == 17


def test_a_wrong_rule_among_good_ones_changes_nothing(host):
	host.start("shop")
	host.agent("change", generation=1, base=-1, set=[rule("good", "request")])
	for wrong in ({"selector": "{ nme = 1 }"}, {"selector": "*", "level": "loud"}, {"selector": "*", "keep": 7}, {"selector": "*", "share": -1}, {"selector": "*", "kind": "wish"},
			{"selector": "*", "escalate": {"when": "{ } | rate()"}}, 7):
		answer = host.raw("change", generation=2, base=1, set=[rule("x", "pay.*"), wrong], remove=["p:test/good"])
		assert answer["rc"] < 0 and answer["error"], wrong
	assert host.levels() == {"pay.charge": "off", "pay.refund": "off", "request": "span"}
	assert host.agent("ps")["generation"] == 1


def test_a_dry_run_tells_what_would_change_and_changes_nothing(host):
	host.start("shop")
	host.agent("change", generation=1, base=-1, set=[rule("a", "pay.*"), rule("b", "request", level="count")])
	before = host.levels()
	plan = host.agent("change", base=1, generation=2, dry_run=True, set=[rule("a", "pay.charge", level="detail")], remove=["p:test/b"], estimate_nano=200_000_000)
	assert {(c["op"], c["name"], c["from"], c["to"]) for c in plan["changes"]} == {("~", "pay.charge", "span", "detail"), ("-", "pay.refund", "span", "off"),
		("-", "request", "count", "off")}
	assert plan["applied"] is False and plan["predicted"]["known"] and plan["predicted"]["spans_per_s"] > 100
	many = host.agent("change", base=1, generation=2, dry_run=True, set=[rule(f"n{i}", "pay.refund", level="detail") for i in range(40)])
	assert [(c["op"], c["name"], c["to"]) for c in many["changes"]] == [("~", "pay.refund", "detail")] and len(many["rules"]) == 40
	assert host.levels() == before and host.agent("ps")["generation"] == 1
	assert {t["id"] for t in host.agent("toggles")["toggles"]} == {"p:test/a", "p:test/b"}
	host.agent("change", base=1, generation=2, remove=["p:test/a", "p:test/b"])
	assert set(host.levels().values()) == {"off"} and set(host.on().values()) == {0}


def test_a_share_of_the_processes_is_always_the_same_ones(host):
	pids = [host.start("shop") for _ in range(6)]
	instance = {p["pid"]: p["instance"] for p in host.agent("ps")["processes"]}
	assert set(instance) == set(pids) and all(0 <= x < 1 for x in instance.values())
	for k, share in enumerate((0.2, 0.5, 0.8, 1)):
		host.agent("change", generation=k + 1, base=-1, set=[rule("a", "*", share=share)])
		assert {pid for pid, n in host.on().items() if n} == {pid for pid in pids if instance[pid] < share}
	name = host.agent("ps")["host"]
	host.agent("change", generation=9, base=-1, set=[rule("a", "*", only=[{"host": name, "pid": pids[3]}]), rule("b", "*", hosts=["no-such-*"])])
	assert {pid for pid, n in host.on().items() if n} == {pids[3]}


def test_a_process_that_comes_later_gets_what_holds_for_it(host):
	host.agent("change", generation=1, base=-1, set=[rule("a", "cart:pay.*"), rule("b", "shop:request")])
	host.start("shop")
	host.start("cart")
	assert host.levels("shop") == {"pay.charge": "off", "pay.refund": "off", "request": "span"}
	assert host.levels("cart") == {"pay.charge": "span", "pay.refund": "span", "request": "off"}


def test_rules_run_out_and_policies_do_not(host):
	host.start("shop")
	host.agent("change", generation=1, base=-1, set=[rule("a", "pay.*"), {"id": "t-1", "selector": "request", "expires_unix_nano": time.time_ns() + 300_000_000}])
	assert host.levels()["request"] == "span"
	wait_for(lambda: host.levels()["request"] == "off")
	assert host.levels()["pay.charge"] == "span"


def test_the_same_set_again_leaves_what_is_on_alone(host):
	pid = host.start("shop")
	rules = [rule("a", "pay.*"), rule("b", "request", level="count")]
	host.agent("change", generation=1, base=-1, set=rules)
	wait_for(lambda: host.agent("account")["made"] > 100)
	again = host.agent("change", generation=2, base=-1, set=rules)
	assert again["changed"] == 0 and host.on() == {pid: 3}


def test_ten_thousand_rules_find_their_sites(host):
	host.start("shop")
	rules = [rule(f"r{i}", f'{{ resource.service.name = "s{i % 100}" && name =~ "op{i}.*" }}') for i in range(9_999)] + [rule("mine", "shop:pay.charge")]
	done = host.agent("change", generation=1, base=-1, set=rules)
	assert done["instances"] == 1 and done["changed"] == 1
	one = host.agent("change", generation=2, base=1, set=[rule("r5", "shop:request")])
	assert [(c["op"], c["name"]) for c in one["changes"]] == [("+", "request")]
	assert host.agent("change", generation=3, base=-1, set=[])["changed"] == 2
