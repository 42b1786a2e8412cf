"""A rule raises itself when what it watches goes wrong, one step at a time, without a server; and calms down when that is over, without flapping."""
import os
import signal
import subprocess

import pytest
from conftest import Up, wait_for
from guarding import Agent, Program, build
from test_alerts import Server, agent as remote
from test_policies import put

S = 10**9


@pytest.fixture(scope="module")
def exe(tmp_path_factory):
	return build(tmp_path_factory.mktemp("escalation"))


@pytest.fixture
def run(exe, tmp_path):
	agent = Agent(str(tmp_path / "s" / "a.sock"))
	program = Program(exe, agent)
	yield agent, program
	program.stop()
	agent.stop()


def rule(when, **more):
	return {"id": "p:test/watch", "selector": '{ name =~ "request.*" }', "level": "off",
		"escalate": {"when": when, "over_nano": S // 4, "to": "detail", "decay_nano": S // 2, "cooldown_nano": S // 2, **more}}


def steps(agent):
	return [(e["what"], e["from"], e["to"]) for e in agent.told("trigger")]


UP = [("raised", "off", "count"), ("raised", "count", "span"), ("raised", "span", "detail")]
DOWN = [("lowered", "detail", "span"), ("lowered", "span", "count"), ("lowered", "count", "off")]


def test_latency_raises_a_level_step_by_step_and_calm_lowers_it(run):
	agent, program = run
	agent.rules(rule('{ name = "request" } | quantile_over_time(duration, .99) > 20ms'))
	# What the trigger measures is counted, though nobody asked for it; the rest of the rule is off.
	wait_for(lambda: agent.levels() == {"request": "count", "request.step": "off", "rare": "off", "storm.entry": "off"})
	wait_for(lambda: agent.stat("request"))
	assert not steps(agent)

	program.tell("slow_us", 40000)
	wait_for(lambda: steps(agent) == UP)
	assert agent.levels() == {"request": "detail", "request.step": "detail", "rare": "off", "storm.entry": "off"}
	e = agent.told("trigger")[0]
	assert e["service"] == "shop" and e["rule"] == "p:test/watch" and e["cause"]["value"] > 20e6 and e["cause"]["threshold"] == 20e6, e
	assert "quantile_over_time" in e["cause"]["query"] and e["cause"]["over_nano"] == S // 4 and e["at_unix_nano"] > 0

	program.tell("slow_us", 0)
	wait_for(lambda: steps(agent) == UP + DOWN, timeout=40)
	assert agent.levels()["request"] == "count"
	before = agent.stat("request")["calls"]
	wait_for(lambda: agent.stat("request", 10)["calls"] > before + 300)  # for a while
	assert steps(agent) == UP + DOWN


def test_what_nobody_measures_any_more_is_lowered_too(run):
	agent, program = run
	agent.rules(rule('{ name = "request" } | avg_over_time(duration) > 20ms', to="count"))
	program.tell("slow_us", 40000)
	wait_for(lambda: steps(agent) == UP[:1])
	program.proc.send_signal(signal.SIGSTOP)  # no requests: neither slow ones nor quick ones
	try:
		wait_for(lambda: steps(agent) == UP[:1] + DOWN[2:], timeout=40)
	finally:
		program.proc.send_signal(signal.SIGCONT)
	assert agent.told("trigger")[1]["cause"]["text"] == "nothing was measured for 500 ms"
	wait_for(lambda: steps(agent) == UP[:1] + DOWN[2:] + UP[:1])  # and when they are back, so is the trigger


def test_errors_raise_it(run):
	agent, program = run
	agent.rules(rule('{ name = "request" && status = error } | rate() > 5', to="span"))
	wait_for(lambda: agent.stat("request"))
	program.tell("failing", 1)
	wait_for(lambda: steps(agent) == UP[:2])
	program.tell("failing", 0)
	wait_for(lambda: len(steps(agent)) == 4)


def test_throughput_raises_it(run):
	agent, program = run
	agent.rules(rule('{ name = "request" } | rate() > 300', to="count"))
	wait_for(lambda: agent.stat("request"))
	program.tell("frequent", 2000)
	wait_for(lambda: steps(agent) == UP[:1])
	assert agent.told("trigger")[0]["cause"]["value"] > 300


@pytest.mark.waits
@pytest.mark.parametrize("knob, measured, level", [("slow_us", "duration", "off"), ("queued_us", "span.klieg.queue_nano", "detail")])
def test_what_differs_from_its_own_baseline_raises_it(run, knob, measured, level):
	agent, program = run
	program.tell(knob, 2000)
	agent.rules(rule(f'{{ name = "request" }} | avg_over_time({measured}) > 4 with(baseline=10s)', to="count"), {"id": "p:test/as", "selector": "request", "level": level})
	calls = lambda: (agent.stat("request", 30) or {"calls": 0})["calls"]
	wait_for(lambda: calls() > 800)  # what is usual is known by then
	assert not steps(agent)
	program.tell(knob, 30000)
	wait_for(lambda: steps(agent) == UP[:1])
	cause = agent.told("trigger")[0]["cause"]
	assert cause["value"] > 4 and cause["threshold"] == 4 and "times as usual, over 4 times as usual" in cause["text"]
	program.tell(knob, 2000)
	wait_for(lambda: steps(agent) == UP[:1] + DOWN[2:], timeout=40)


@pytest.mark.waits
def test_what_is_always_slow_is_usual_and_what_stays_becomes_it(run):
	agent, program = run
	program.tell("slow_us", 30000)
	agent.rules(rule('{ name = "request" } | avg_over_time(duration) > 2 with(baseline=10s)', to="count"))
	calls = lambda: (agent.stat("request", 60) or {"calls": 0})["calls"]
	wait_for(lambda: calls() > 300, 40)
	assert not steps(agent)  # slow, but not slower than ever
	program.tell("slow_us", 100000)
	wait_for(lambda: steps(agent) == UP[:1])
	wait_for(lambda: steps(agent) == UP[:1] + DOWN[2:], timeout=90)  # three times as slow, for so long that it is how it is
	assert agent.stat("request", 2)["mean_nano"] > 90e6
	first, last = agent.told("trigger")
	assert last["cause"]["value"] < 2 < first["cause"]["value"]


@pytest.mark.waits
def test_what_swings_around_the_threshold_does_not_make_the_level_swing(run):
	agent, program = run
	agent.rules(rule('{ name = "request" } | avg_over_time(duration) > 20ms'))
	for i in range(40):  # each way for long enough to be seen, and by times for longer than `over` and `decay`
		program.tell("slow_us", 24000 if i % 2 else 18500)
		before = (agent.stat("request", 60) or {"calls": 0})["calls"]
		wait_for(lambda: (agent.stat("request", 60) or {"calls": 0})["calls"] > before + (5, 30, 12)[i % 3])
	assert steps(agent) == UP[:len(steps(agent))] and steps(agent)  # it went up; nothing of this is calm
	program.tell("slow_us", 15000)
	wait_for(lambda: steps(agent) == UP[:len(steps(agent)) // 2] + DOWN[-(len(steps(agent)) // 2):] and len(steps(agent)) > 1, timeout=40)


def test_requests_that_wait_raise_it_and_those_that_were_kept_stand_for_the_others(run):
	agent, program = run
	when = '{ name = "request" } | avg_over_time(span.klieg.queue_nano) > 50ms'
	program.tell("queued_us", 80000)
	program.tell("frequent", 1000)
	few = {"id": "p:test/spans", "selector": "request", "keep": .125}
	watch = {**rule(when), "keep": .125}
	measured = lambda: next(t for t in agent("triggers")["triggers"] if t["rule"] == "p:test/watch")
	agent.rules(watch, {**few, "level": "span"})
	wait_for(lambda: (agent.stat("request") or {"calls": 0})["calls"] > 1000)
	assert measured()["seen"] == 0 and not steps(agent)  # no attributes, no waits: below detail nothing is known

	agent.rules(watch, {**few, "level": "detail"})
	wait_for(lambda: steps(agent) == UP and measured()["seen"] > 100)
	m = measured()
	assert m["calls"] == 8 * m["seen"] and abs(m["sum_nano"] / m["calls"] - 80e6) < 1 and m["max_nano"] == 80e6, m
	cause = agent.told("trigger")[0]["cause"]
	assert cause["text"] == "the mean of what requests waited is 80 ms, over 50 ms for 250 ms" and cause["value"] == 80e6, cause

	program.tell("queued_us", 0)  # who does not wait says nothing, and that is known by now
	wait_for(lambda: steps(agent) == UP + DOWN, timeout=40)


def test_a_trigger_measures_what_its_rule_matches_and_nothing_else(run):
	agent, program = run
	busy = rule("{ } | rate() > 1000", to="count")
	agent.rules({**busy, "selector": "storm.entry"}, {**busy, "selector": "rare", "id": "p:test/confined"})
	wait_for(lambda: agent.levels() == {"request": "off", "request.step": "off", "rare": "count", "storm.entry": "count"})
	program.tell("storm", 1)
	wait_for(lambda: agent.told("trigger", rule="p:test/watch"))
	before = agent.stat("rare", 30)["calls"]
	wait_for(lambda: agent.stat("rare", 30)["calls"] > before + 2)  # it is measured, and it is what it is
	assert not agent.told("trigger", rule="p:test/confined")


def test_a_trigger_keeps_its_level_when_its_rule_is_sent_again_and_loses_it_with_the_rule(run):
	agent, program = run
	program.tell("slow_us", 40000)
	watch = rule('{ name = "request" } | avg_over_time(duration) > 20ms', to="span")
	agent.rules(watch)
	wait_for(lambda: steps(agent) == UP[:2])
	agent.rules(watch, {"id": "p:other", "selector": "rare", "level": "count"})
	assert agent.levels()["request"] == "span"
	agent.rules()
	wait_for(lambda: set(agent.levels().values()) == {"off"})


# ---- what is told of it ------------------------------------------------------------------------------------------------------
WATCH = """policy: watch
rules:
  - name: slow
    match: '{ name = "request" }'
    level: count
    escalate:
      when: '{ } | avg_over_time(duration) > 20ms'
      over: 1s
      to: span
      decay: 1s
      cooldown: 0s
"""


class Told:
	"""A program that does as it is told, under some service's name."""

	def __init__(self, spawn, exe, up, socket, service):
		self.proc = spawn([exe], env={**up.env, "KLIEG_SOCKET": socket, "OTEL_SERVICE_NAME": service}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

	def tell(self, what, n):
		self.proc.stdin.write(f"{what} {n}\n")
		self.proc.stdin.flush()
		self.proc.stdout.readline()


def test_what_one_service_raised_is_over_when_another_is_the_worst(exe, tmp_path, spawn):
	up = Up(tmp_path / "klieg", "--budget", "0")
	try:
		one, other = [Told(spawn, exe, up, up.socket, name) for name in ("one", "other")]
		wait_for(lambda: len([p for p in up.get("/processes")["processes"] if p["state"] == "live"]) == 2)
		assert put(up, WATCH, 0, "watch")[0] == 200
		one.tell("slow_us", 40000)
		raised = wait_for(lambda: up.get("/firings")["firings"])
		assert [(f["service"], f["to"], f["state"]) for f in raised] == [("one", "span", "raised")]
		assert raised[0]["cause"]["text"].startswith("the mean of the durations is ")
		wait_for(lambda: [a for a in up.get("/alerts")["alerts"] if a["id"] == f"firing.{raised[0]['id']}" and raised[0]["cause"]["text"] in a["text"]])
		other.tell("slow_us", 5000)  # nowhere near the limit, but slower than the one that is quick again
		one.tell("slow_us", 0)
		wait_for(lambda: [f["state"] for f in up.get("/firings")["firings"]] == ["lowered"])
		wait_for(lambda: not [a for a in up.get("/alerts")["alerts"] if a["id"].startswith("firing.")])
	finally:
		up.stop()


def test_what_an_agent_raised_is_over_when_it_is_gone_and_another_has_come(exe, tmp_path, spawn):
	up = Server(tmp_path / "klieg")
	try:
		first = remote(spawn, up, tmp_path, "a")
		shop = Told(spawn, exe, up, first.socket, "shop")
		wait_for(lambda: up.request("GET", "/api/v1/processes")[1].get("processes"))
		assert put(up, WATCH, 0, "watch")[0] == 200
		shop.tell("slow_us", 40000)
		wait_for(lambda: [f["state"] for f in up.get("/firings")["firings"]] == ["raised"])
		up.kill()
		up.listen = up.http.removeprefix("http://")
		up.start()
		wait_for(lambda: [a for a in up.get("/agents")["agents"] if a["reachable"]])
		assert [f["state"] for f in up.get("/firings")["firings"]] == ["raised"]  # the server was away, what the agent raised is not
		shop.tell("slow_us", 0)
		os.kill(first.pid, signal.SIGKILL)
		first.wait()
		remote(spawn, up, tmp_path, "a")
		wait_for(lambda: [f["state"] for f in up.get("/firings")["firings"]] == ["agent_gone"])
	finally:
		up.stop()


QUEUE = """policy: queue
rules:
  - name: waits
    match: '{ name = "request" }'
    level: detail
  - name: look
    match: '{ name =~ "request.*" }'
    level: "off"
    escalate:
      when: '{ name = "request" } | sum_over_time(span.klieg.queue_nano) > 2200ms'
      over: 2s
      to: count
"""


def test_waits_that_are_too_long_over_all_hosts_together_raise_it(exe, tmp_path, spawn):
	up = Server(tmp_path / "klieg")
	try:
		programs = []
		for host in ("a", "b"):
			a = remote(spawn, up, tmp_path, host)
			programs.append(Told(spawn, exe, up, a.socket, "shop"))
			programs[-1].tell("queued_us", 10000)  # at most a hundred requests a second: at most two seconds in two seconds
		wait_for(lambda: {p["host"] for p in up.request("GET", "/api/v1/processes")[1].get("processes", []) if p["state"] == "live" and p["sites"] == 4} == {"a", "b"})
		assert put(up, QUEUE, 0, "queue")[0] == 200
		firing = wait_for(lambda: up.get("/firings")["firings"], 60)[0]
		assert (firing["host"], firing["service"], firing["from"], firing["to"]) == ("", "shop", "off", "count"), firing
		assert 2.2e9 < firing["cause"]["value"] < 4.4e9 and firing["cause"]["text"].startswith("the sum of what requests waited is ")
		assert firing["cause"]["text"].endswith("over 2.2 s for 2 s, over all hosts")
		wait_for(lambda: {s["level"] for s in up.get("/sites?sel=request.step")["sites"]} == {"count"})
	finally:
		up.stop()
