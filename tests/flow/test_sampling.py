"""Adaptive sampling: a rate is kept whatever the traffic does, rare operations do not starve, and the numbers that are shown stay what they were."""
import json
import os
import re
import subprocess
import urllib.parse

import pytest
from conftest import BUILD, TOP, wait_for
from guarding import Agent, Program, build

S = 10**9


@pytest.fixture(scope="module")
def exe(tmp_path_factory):
	return build(tmp_path_factory.mktemp("sampling"))


@pytest.fixture
def run(exe, tmp_path):
	agent = Agent(str(tmp_path / "s" / "a.sock"))
	program = Program(exe, agent)
	yield agent, program
	program.stop()
	agent.stop()


class Kept:
	"""Spans passed on, a second, between two looks by the clock of the statistics: calls of a span whose true rate is known stand for time."""

	def __init__(self, agent):
		self.agent, self.at = agent, None

	def since_last(self):
		p = self.agent("account")
		now = {"passed": p["passed"], "unsampled": p["unsampled"]}
		was, self.at = self.at or now, now
		return {k: now[k] - was[k] for k in now}


def test_a_rate_holds_through_more_traffic_and_less(run):
	agent, program = run
	program.tell("frequent", 4000)
	agent.rules({"id": "p:paced", "selector": "{ name =~ \"request.*|rare\" }", "level": "span", "rate": 100})
	kept = Kept(agent)

	def share():
		"""Of what was begun since the last look, how much was kept."""
		d = kept.since_last()
		return d["passed"] / (d["passed"] + d["unsampled"]) if d["passed"] + d["unsampled"] > 2000 else None
	busy = wait_for(lambda: (lambda s: s is not None and s < .1 and s)(share()), timeout=40, every=1)
	assert busy > 0
	program.tell("frequent", 40)
	wait_for(lambda: (agent.stat("request", 2) or {"calls_per_s": 100})["calls_per_s"] < 100)  # nothing is known of a moment without calls
	# There are fewer than the rate now: all are kept again.
	kept.since_last()

	def all_kept():
		d = kept.since_last()
		return d["passed"] > 20 and d["unsampled"] == 0
	wait_for(all_kept, timeout=40, every=1)


def test_rare_operations_are_kept_while_frequent_ones_are_thinned(run):
	agent, program = run
	program.tell("frequent", 4000)
	agent.rules({"id": "p:paced", "selector": "{ name =~ \"request.*|rare\" }", "level": "span", "rate": 100, "floor_per_s": 5})

	def thinned():
		d = agent("overhead")["sites"]
		return next((s for s in d if s["name"] == "request"), None)
	wait_for(thinned)
	account = Kept(agent)

	def settled():
		d = account.since_last()
		return d["unsampled"] > 500 and d["passed"] < d["unsampled"] / 5
	wait_for(settled, timeout=40, every=1)
	# What is shown of both is what there is: adjusted counts make up for what is not kept, whatever the share of each.
	request, rare = agent.stat("request", 10), agent.stat("rare", 10)
	assert rare and rare["calls"] > 0
	assert 20 < request["calls"] / rare["calls"] < 200, (request["calls"], rare["calls"])  # one of 64 in truth


def test_statistics_do_not_move_when_the_share_changes(run):
	"""The same traffic at three shares: the calls shown agree with those that were made."""
	agent, program = run
	program.tell("frequent", 1000)
	for i, keep in enumerate((1, .1, .3)):
		agent.rules({"id": "p:share", "selector": "{ name =~ \"request.*\" }", "level": "span", "keep": keep})

		def balanced():
			a = agent("account")
			return a["made"] == a["passed"] + a["open"] + sum(a["dropped"].values()) and a
		a = wait_for(balanced)
		start = agent("stats", window_nano=60 * S)["sites"]
		begun = a["made"] + a["unsampled"]
		wait_for(lambda: (lambda a: a["made"] + a["unsampled"] > begun + 4000)(agent("account")), timeout=40)
		b = wait_for(balanced)
		end = agent("stats", window_nano=60 * S)["sites"]
		shown = sum(s["calls"] for s in end) - sum(s["calls"] for s in start)
		true = b["made"] + b["unsampled"] - begun
		sigma = (true / 2 * (1 - keep) / keep) ** .5 * 2  # two spans a trace come and go together
		assert abs(shown - true) < 4 * sigma + 50, (keep, shown, true, sigma)


def test_what_fails_is_kept_with_what_it_is_in_and_counts_once(run):
	agent, program = run
	keep = .05
	program.tell("frequent", 2000)
	program.tell("failing", 2)  # the inner span, not the request's own
	agent.rules({"id": "p:share", "selector": "{ name =~ \"request.*\" }", "level": "span", "keep": keep})
	kept = Kept(agent)
	wait_for(lambda: kept.at or kept.since_last())
	was = kept.at
	wait_for(lambda: (lambda a: a["unsampled"] > was["unsampled"] + 4000)(agent("account")), timeout=40)
	program.tell("failing", 0)
	d = kept.since_last()
	# Of all that were begun nearly all are kept: more than those that chance alone would have.
	assert d["passed"] > d["unsampled"] * .95, d
	step, request = agent.stat("request.step", 10), agent.stat("request", 10)
	assert step["errors"] > 1000 and request["errors"] == 0
	# Both are in the same traces: what they stand for agrees, also while most fail and some do not any more.
	assert abs(step["calls"] - request["calls"]) < request["calls"] * .01 + 40, (step, request)


def test_a_limit_of_spans_a_second_holds_for_all_rules_together(run):
	agent, program = run
	program.tell("frequent", 4000)
	agent.rules({"id": "p:a", "selector": "request*", "level": "span"}, {"id": "p:b", "selector": "rare", "level": "span"},
		{"id": "l:all", "kind": "limit", "selector": "*", "level": "deep", "spans_per_s": 50})
	kept = Kept(agent)

	def thinned():
		d = kept.since_last()
		return d["passed"] + d["unsampled"] > 2000 and d["passed"] < d["unsampled"] / 10
	wait_for(thinned, timeout=40, every=1)
	agent.rules({"id": "p:a", "selector": "request*", "level": "span"}, {"id": "p:b", "selector": "rare", "level": "span"})

	def whole():
		d = kept.since_last()
		return d["passed"] > 100 and d["unsampled"] == 0
	wait_for(whole, timeout=40, every=1)


def test_the_shop_shows_as_many_requests_as_were_made_whatever_share_is_kept(klieg_up, spawn, tmp_path):
	"""Hotspots over stored spans of several services, the share changed while requests come: calls agree with what the load made."""
	up, state = klieg_up, str(tmp_path / "shop")
	shop = spawn([os.path.join(TOP, "examples/shop/shop"), "up", "--build", BUILD, "--state", state], env=up.env, stdout=subprocess.PIPE, text=True)
	try:
		url = re.match(r"shop ready url=(\S+)", shop.stdout.readline())[1]
		made, variance = 0, 0.0
		for keep in (.5, .1, .25):
			up.switch("*", level="span", keep=keep, reason="sampling")
			load = spawn([os.path.join(BUILD, "examples/shop/shop-load"), "--url", url, "--connections", "4", "--rate", "400", "--seconds", "5"], stdout=subprocess.PIPE, text=True)
			doc = json.loads(load.communicate(timeout=60)[0])
			assert doc["errors"] == 0
			made += doc["requests"]
			variance += doc["requests"] * (1 - keep) / keep
			up.all_off()
		wait_for(up.settled)
		rows = {(r["service"], r["name"]): r for r in up.get("/hot?since=10m&limit=200")["rows"]}
		checkouts = rows["gateway", "POST /checkout"]["calls"]
		shown = checkouts + rows["gateway", "GET /cart"]["calls"]
		assert abs(shown - made) < 4 * variance ** .5, (shown, made, variance ** .5)
		# The decision and its weight travel with the request: what payment shows agrees with the gateway.
		assert abs(rows["payment", "POST /charge"]["calls"] - checkouts) < 2
		cells = up.get("/heatmap?q=" + urllib.parse.quote('{ resource.service.name = "gateway" && (name = "POST /checkout" || name = "GET /cart") }') + "&since=10m")
		assert abs(sum(map(sum, cells["columns"])) - shown) < shown * .02  # each cell is rounded
	finally:
		shop.terminate()
		shop.wait(15)


def test_a_service_shows_all_its_requests_behind_one_that_keeps_a_tenth(klieg_up, spawn, tmp_path):
	up, keep = klieg_up, .1
	shop = spawn([os.path.join(TOP, "examples/shop/shop"), "up", "--build", BUILD, "--state", str(tmp_path / "shop")], env=up.env, stdout=subprocess.PIPE, text=True)
	try:
		url = re.match(r"shop ready url=(\S+)", shop.stdout.readline())[1]
		up.switch('{ resource.service.name = "gateway" }', level="span", keep=keep, reason="sampling")
		up.switch('{ resource.service.name = "payment" }', level="span", reason="sampling")
		load = spawn([os.path.join(BUILD, "examples/shop/shop-load"), "--url", url, "--connections", "4", "--rate", "400", "--seconds", "5"], stdout=subprocess.PIPE, text=True)
		assert json.loads(load.communicate(timeout=60)[0])["errors"] == 0
		up.all_off()
		wait_for(up.settled)
		rows = {(r["service"], r["name"]): r for r in up.get("/hot?since=10m&limit=200")["rows"]}
		charges, checkouts = rows["payment", "POST /charge"]["calls"], rows["gateway", "POST /checkout"]["calls"]
		assert charges == up.stored('{ name = "POST /charge" }')  # each is there, and stands for itself
		assert abs(checkouts - charges) < 4 * (charges * (1 - keep) / keep) ** .5, (charges, checkouts)
	finally:
		shop.terminate()
		shop.wait(15)
