"""Whatever somebody switches on, the service is not slowed down: what is too dear goes off at once, and comes back when there is room."""
import pytest
from conftest import wait_for
from guarding import Agent, Program, build


@pytest.fixture(scope="module")
def exe(tmp_path_factory):
	return build(tmp_path_factory.mktemp("guard"))


@pytest.fixture
def run(exe, tmp_path):
	agent = Agent(str(tmp_path / "s" / "a.sock"), "-b", "1")
	program = Program(exe, agent)
	yield agent, program
	program.stop()
	agent.stop()


def within_limit(agent):
	o = agent.overhead()
	return o["measured_percent"] <= o["limit_percent"] and o


def test_a_storm_is_shed_and_comes_back_when_it_is_over(run):
	agent, program = run
	agent.rules({"id": "p:a", "selector": "*", "level": "detail"})
	assert agent.levels() == dict.fromkeys(("storm.entry", "request", "request.step", "rare"), "detail")
	wait_for(lambda: agent.stat("request"))
	assert not agent.told("guard")

	program.tell("storm", 1)
	shed = wait_for(lambda: agent.told("guard", what="shed", name="storm.entry"))
	assert shed[0]["from"] == "detail" and shed[0]["measured_percent"] > shed[0]["limit_percent"] and shed[0]["service"] == "shop"
	wait_for(lambda: within_limit(agent))
	before = program.tell("storm", 1)
	wait_for(lambda: program.tell("storm", 1) > before + 1_000_000)  # it goes on
	o = wait_for(lambda: within_limit(agent))
	assert [(s["name"], s["from"]) for s in o["shed"]] == [("storm.entry", "detail")]
	assert agent.levels()["request"] == agent.levels()["request.step"] == "detail"  # only what is dear
	account = agent("account")
	assert account["made"] == account["passed"] + account["open"] + sum(account["dropped"].values()), account
	assert not agent.told("guard", what="restored")

	program.tell("storm", 0)
	wait_for(lambda: agent.levels()["storm.entry"] == "detail", timeout=60)
	assert agent.told("guard", what="restored", name="storm.entry")
	assert within_limit(agent) and not agent.overhead()["shed"]
	assert len(agent.told("guard")) <= 4, agent.events  # it did not flap


def test_what_is_shed_is_forgotten_with_its_rule(run):
	agent, program = run
	agent.rules({"id": "p:a", "selector": "*", "level": "span"})
	program.tell("storm", 1)
	wait_for(lambda: agent.overhead()["shed"])
	agent.rules()
	wait_for(lambda: not agent.overhead()["shed"])
	program.tell("storm", 0)
	agent.rules({"id": "p:b", "selector": "storm.entry", "level": "span"})
	assert agent.levels()["storm.entry"] == "span"


def test_what_is_switched_on_anew_is_not_judged_by_what_it_cost_before(run):
	"""Somebody looks at all calls under a high limit, then switches the same function on for a few: that must not be shed for what the first look cost."""
	agent, program = run
	program.tell("storm", 1)
	agent.rules({"id": "p:a", "selector": "storm.entry", "level": "span"}, {"id": "l:a", "kind": "limit", "selector": "*", "level": "deep", "overhead": 100})
	wait_for(lambda: agent.overhead()["measured_percent"] > 2)
	program.tell("storm", 0)
	agent.rules()
	agent.rules({"id": "p:b", "selector": "storm.entry", "level": "span"})
	wait_for(lambda: agent.overhead()["measured_percent"] < .1)
	assert not agent.told("guard"), agent.events
	assert agent.levels()["storm.entry"] == "span"


def test_a_limit_rule_is_the_limit(run):
	agent, program = run
	agent.rules({"id": "p:a", "selector": "*", "level": "span"}, {"id": "l:a", "kind": "limit", "selector": "*", "level": "deep", "overhead": 100})
	program.tell("storm", 1)
	o = wait_for(lambda: (lambda o: o["measured_percent"] > 2 and o)(agent.overhead()))
	assert o["limit_percent"] in (100, 50)  # half of it on a host that has no CPU left
	agent.rules({"id": "p:a", "selector": "*", "level": "span"}, {"id": "l:a", "kind": "limit", "selector": "*", "level": "deep", "overhead": 0.5})
	wait_for(lambda: agent.told("guard", what="shed", name="storm.entry"))
	o = wait_for(lambda: within_limit(agent))
	assert o["limit_percent"] in (.5, .25)


def test_what_it_costs_is_told_by_site_rule_and_process(run):
	agent, program = run
	program.tell("frequent", 2000)
	agent.rules({"id": "p:requests", "selector": "request*", "level": "span"}, {"id": "p:rare", "selector": "rare", "level": "count"})

	def told():
		o = agent("overhead")
		sites = {s["name"]: s for s in o["sites"]}
		rules = {r["id"]: r for r in o["rules"]}
		return "request" in sites and rules["p:requests"]["measured_percent"] > rules["p:rare"]["measured_percent"] and o
	o = wait_for(told)
	sites = {s["name"]: s for s in o["sites"]}
	assert o["budget_percent"] == 1 and o["agent"]["rss_bytes"] > 0
	assert sites["request"]["calls_per_s"] > 100 and 1 < sites["request"]["ns_per_call"] < 10000
	assert o["processes"][0]["measured_percent"] > 0
	# Not what it would cost in a loop: the program waits in between, and what the library timed there says so.
	wait_for(lambda: agent.overhead()["times_warm"] > 1.05)
	v = agent("vitals", selector="request", window_nano=5 * 10**9)["processes"][0]
	assert v["service"] == "shop" and v["calls"] > 0 and v["errors_per_s"] == 0 and 0 <= v["instance"] < 1 and v["p99_nano"] >= v["p50_nano"] > 0
	program.tell("failing", 1)
	wait_for(lambda: agent("vitals", selector="request", window_nano=2 * 10**9)["processes"][0]["error_share"] > .9)
