"""Rollouts: a version reaches some processes first, goes on when nothing speaks against it, and back by itself when something does; also when klieg or a process dies.
And panic, which ends them."""
import subprocess

import pytest

from conftest import Up, wait_for
from test_policies import put

pytestmark = pytest.mark.waits

# Serves "requests" of 1 ms. Where the probe in them is on it is slower, or fails, as if tracing did harm: the argument says how.
SERVER = r"""
#define KLIEG_COMPONENT "work"
#include <klieg/klieg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
static int harmed(void)
{
	KLIEG_SPAN_AS(s, "step");
	return s.open != 0;
}
int main(int argc, char **argv)
{
	klieg_init(&(struct klieg_options){ .size = sizeof(struct klieg_options), .service = "shop" });
	printf("up\n");
	fflush(stdout);
	while (argc > 1 && !strcmp(argv[1], "no requests")) {
		harmed();
		nanosleep(&(struct timespec){ 0, 1000000 }, NULL);
	}
	for (;;) {
		KLIEG_SERVER_SPAN_AS(r, "request");
		struct timespec t = { 0, 1000000 };
		if (harmed() && argc > 1) {
			if (!strcmp(argv[1], "slow"))
				t.tv_nsec = 20000000;
			else
				KLIEG_ERROR(r, "harm");
		}
		nanosleep(&t, NULL);
	}
}
"""


def text(level="span", name="shop", steps="[1 process, 50%, 100%]"):
	return f"policy: {name}\nrules:\n  - name: step\n    match: '{{ resource.service.name = \"shop\" && name = \"step\" }}'\n    level: {level}\n    rollout: {steps}\n"


class Shop:
	def __init__(self, tmp_path, spawn, cc):
		self.up, self.spawn, self.program, self.procs = Up(tmp_path / "klieg", "--budget", "0"), spawn, cc(SERVER), []

	def start(self, n, effect=None):
		self.procs += [self.spawn([self.program] + ([effect] if effect else []), env=self.up.env, stdout=subprocess.PIPE) for _ in range(n)]
		wait_for(lambda: len(self.on()) == len(self.procs))

	def on(self):
		"""pid -> how many of its sites are on."""
		return {p["pid"]: p["on"] for p in self.up.get("/processes")["processes"] if p["state"] == "live"}

	def traced(self):
		"""The processes where the step is on: those where it would not be switched on."""
		status, plan = self.up.request("POST", "/api/v1/policies/plan", {"text": text("detail", name="nobody"), "estimate": "0s"})
		assert status == 200, plan
		return {p.pid for p in self.procs if p.poll() is None} - {c["pid"] for c in plan["changes"] if c["from"] == "off"}

	def put(self, level="span", expected=0, **more):
		status, answer = put(self.up, text(level, steps=more.pop("steps", "[1 process, 50%, 100%]")), expected, "shop", **{"soak": "1s", **more})
		assert status == 200, answer
		return answer

	def rollout(self):
		return self.up.get("/policies/shop/rollout")

	def until(self, *states):
		try:
			return wait_for(lambda: (r := self.rollout()) and r["state"] in states and r, 60)
		except AssertionError:
			raise AssertionError(self.rollout()) from None

	def policy(self):
		return self.up.get("/policies/shop")

	def act(self, action):
		return self.up.request("POST", "/api/v1/policies/shop/rollout", {"action": action, "author": "ann", "reason": "I say so"})


@pytest.fixture
def shop(tmp_path, spawn, cc):
	s = Shop(tmp_path, spawn, cc)
	yield s
	s.up.stop()


def test_one_process_then_half_then_all(shop):
	shop.start(4)
	a = shop.put(soak="1500ms")
	assert a["state"] == "rolling_out" and a["rollout"]["steps"][0]["processes"] == 1
	seen = set()

	def done():
		seen.add(len(shop.traced()))
		return shop.rollout()["state"] == "done"
	wait_for(done, 60)
	assert seen - {0} == {1, 2, 4}, seen
	assert shop.policy()["state"] == "active" and len(shop.traced()) == 4
	r = shop.rollout()
	assert [s["state"] for s in r["steps"][:2]] == ["done", "done"] and {e["verdict"] for e in r["evidence"]} <= {"ok", "waiting"}
	compared = [e for e in r["evidence"] if e["rest"] and e["rest"]["processes"]]
	assert compared and compared[0]["canary"]["processes"] == 1 and compared[0]["rest"]["processes"] == 3 and compared[-1]["rest"]["p99_nano"] > 0
	wait_for(lambda: set(shop.on().values()) == {1})  # nothing of the comparison is left behind
	assert [v["change"] for v in shop.up.get("/policies/shop/versions")["versions"]] == ["apply"]


@pytest.mark.parametrize("effect,why", [("slow", "slower"), ("fail", "requests fail")])
def test_harm_to_the_canary_rolls_back_by_itself_with_the_evidence(shop, effect, why):
	shop.start(3, effect)
	shop.put(soak="30s")
	wait_for(lambda: shop.policy()["state"] == "rolled_back", 60)
	assert shop.traced() == set()
	wait_for(lambda: set(shop.on().values()) == {0})
	newest = shop.up.get("/policies/shop/versions")["versions"][0]
	assert newest["change"] == "auto_rollback" and newest["author"] == "system:guardrail" and why in newest["reason"], newest["reason"]
	breaches = [e for e in newest["evidence"] if e["verdict"] == "breach"]
	assert len(breaches) >= 2 and why in breaches[-1]["why"] and breaches[-1]["canary"]["processes"] == 1
	assert shop.rollout()["state"] == "rolled_back"
	alert = wait_for(lambda: [a for a in shop.up.get("/alerts")["alerts"] if a["id"] == "policy.shop"])[0]
	assert alert["severity"] == "critical" and why in alert["text"] and "klieg policy history shop" in alert["cli"]


def test_who_applies_says_what_is_too_much(shop, tmp_path):
	shop.start(2, "fail")
	file = tmp_path / "shop.yaml"
	file.write_text(text(steps="[1 process, 100%]"))
	r = shop.up.cli("policy", "apply", str(file), "--yes", "--soak", "1s", "--failing", "lots", check=False)
	assert r.returncode != 0 and "--failing: 'lots' is not a percentage" in r.stderr
	shop.up.cli("policy", "apply", str(file), "--yes", "--soak", "1s", "--failing", "100%", "--slower", "50%")
	assert shop.rollout()["failing"] == 1 and shop.rollout()["slower"] == .5 and len(shop.traced()) == 2
	assert [e for e in shop.rollout()["evidence"] if e["canary"] and e["canary"]["error_share"] > .9 and e["verdict"] == "ok"]


def test_without_requests_a_step_waits_and_then_says_that_it_was_not_compared(shop):
	shop.start(2, "no requests")
	shop.put(steps="[1 process, 100%]")
	waiting = wait_for(lambda: [e for e in shop.rollout()["evidence"] if e["verdict"] == "waiting" and "not enough data: 0 requests of the canary" in e["why"]], 60)[0]
	assert waiting["canary"]["calls"] == 0 and "100 of each are needed" in waiting["why"] and "waits for more" in waiting["why"]
	assert shop.rollout()["step"] == 0 and len(shop.traced()) == 1
	r = shop.until("done")
	assert [e["verdict"] for e in r["evidence"]].count("not_compared") == 2 and all("not enough data" in s["not_compared"] for s in r["steps"])
	assert "latency and errors were not compared" in shop.up.cli("policy", "rollout", "shop", "--once").stdout


def test_back_is_the_version_before_and_one_process_is_compared_with_its_own_past(shop):
	shop.start(1, "slow")
	shop.put("off", rollout="now")
	assert shop.policy()["state"] == "active"
	before = shop.policy()["text"]
	shop.put("detail", 1, soak="30s")
	wait_for(lambda: shop.policy()["version"] == 3, 60)
	now = shop.policy()
	assert now["text"] == before and now["state"] == "rolled_back"
	assert [e for e in shop.up.get("/policies/shop/versions")["versions"][0]["evidence"] if e["rest"] and e["rest"].get("past")]
	assert shop.up.get("/policies")["policies"][0]["in_force"] == 3 and shop.traced() == set()


def test_by_hand_promote_stop_and_back(shop):
	shop.start(4)
	assert shop.act("promote")[0] == 404
	shop.put(soak="1h")
	wait_for(lambda: len(shop.traced()) == 1)
	status, answer = put(shop.up, text("count"), 1, "shop")
	assert status == 409 and "rolled out" in answer["detail"]
	assert shop.act("promote")[1]["step"] == 1
	wait_for(lambda: len(shop.traced()) == 2)
	status, answer = shop.act("stop")
	assert status == 200 and answer["state"] == "stopped" and "ann" in answer["why"] and len(shop.traced()) == 2
	assert shop.policy()["state"] == "stopped"
	shop.up.kill()   # who stopped it wants it to stay so
	shop.up.start()
	wait_for(lambda: len(shop.on()) == 4 and len(shop.traced()) == 2)
	assert shop.rollout()["state"] == "stopped"
	assert shop.act("promote")[0] == 200
	wait_for(lambda: len(shop.traced()) == 4)
	status, answer = shop.act("rollback")
	assert status == 200 and answer["state"] == "off" and shop.traced() == set()
	assert shop.act("promote")[0] == 409
	wait_for(lambda: set(shop.on().values()) == {0})


def test_a_server_killed_in_the_middle_goes_on_and_says_so(shop):
	shop.start(3)
	shop.put(soak="2s")
	wait_for(lambda: len(shop.traced()) == 1)
	shop.up.kill()
	shop.up.start()
	wait_for(lambda: len(shop.on()) == 3)
	r = shop.until("done")
	assert [e for e in r["evidence"] if e["verdict"] == "interrupted" and "the server ended" in e["why"]] and "resumed" in [e["verdict"] for e in r["evidence"]]
	assert len(shop.traced()) == 3 and shop.policy()["version"] == 1 and shop.policy()["state"] == "active"


def test_a_canary_that_dies_is_replaced_and_the_step_begins_again(shop):
	shop.start(3)
	shop.put(soak="3s")
	first = wait_for(shop.traced)
	assert len(first) == 1
	victim = [p for p in shop.procs if p.pid in first][0]
	victim.kill()
	victim.wait()
	wait_for(lambda: [e for e in shop.rollout()["evidence"] if "is gone" in e["why"] and str(victim.pid) in e["why"]])
	second = wait_for(shop.traced)
	assert len(second) == 1 and second != first
	shop.until("done")
	assert len(shop.traced()) == 2


def test_with_no_process_to_try_it_on_it_is_in_force_for_those_to_come(shop):
	shop.put()
	shop.until("done")
	assert "no process" in shop.rollout()["evidence"][-1]["why"]
	shop.start(1)
	wait_for(lambda: len(shop.traced()) == 1)


# ---- panic ----------------------------------------------------------------------------------------------------------------
def test_panic_is_everything_off_everywhere_and_undo_is_as_it_was(shop):
	shop.start(3)
	shop.put("count", rollout="now")
	toggle = shop.up.switch("shop:request")["toggle"]
	assert set(shop.on().values()) == {2}
	status, answer = shop.up.request("POST", "/api/v1/panic", {"owner": "ann", "reason": "it burns"})
	assert status == 200 and answer["ack_nano"] < 10**9 and answer["agents"] == 1 and answer["toggles"] == 1 and answer["policies"] == 1 and answer["sites"] == 6
	assert set(shop.on().values()) == {0}
	s = shop.up.get("/status")
	assert s["panic"]["owner"] == "ann" and s["panic"]["reason"] == "it burns" and s["counts"]["toggles"] == s["counts"]["policies"] == 0
	assert shop.policy()["state"] == "suspended" and "panic" in [a["id"] for a in wait_for(lambda: shop.up.get("/alerts")["alerts"])]
	shop.start(1)
	status, answer = put(shop.up, text(), 1, "shop")
	assert status == 422 and answer["code"] == "E600" and "undo" in answer["hint"]
	assert shop.up.request("POST", "/api/v1/panic", {"owner": "bob"})[1]["panic"]["owner"] == "ann"  # again is no harm
	shop.up.kill()
	shop.up.start()
	wait_for(lambda: len(shop.on()) == 4)
	assert set(shop.on().values()) == {0} and shop.up.get("/status")["panic"]
	status, answer = shop.up.request("POST", "/api/v1/panic/undo", {"owner": "ann"})
	assert status == 200 and [t["id"] for t in answer["toggles"]] == [toggle["id"]] and answer["policies"] == 1
	assert set(shop.on().values()) == {2} and shop.up.get("/status")["panic"] is None and shop.policy()["state"] == "active"
	assert shop.up.request("POST", "/api/v1/panic/undo", {})[0] == 404


def test_panic_in_the_middle_of_a_rollout_is_the_end_of_it(shop):
	shop.start(2)
	shop.put("count", rollout="now")
	shop.put("span", 1, soak="1h")
	wait_for(lambda: shop.rollout()["steps"][0]["state"] == "running")
	assert shop.up.request("POST", "/api/v1/panic", {"owner": "ann"})[0] == 200
	assert set(shop.on().values()) == {0} and shop.rollout()["state"] == "rolled_back"
	shown = lambda: shop.up.get("/policies")["policies"][0].get("why")
	assert shown() == "panic: its rollout was cut off"
	assert shop.up.request("POST", "/api/v1/panic/undo", {"owner": "ann"})[0] == 200
	assert shown() is None  # what was is over
	assert shop.rollout()["why"] == "panic: its rollout was cut off"  # but of the rollout it stays true
	assert shop.policy()["state"] == "active" and shop.policy()["version"] == 3 and "level: count" in shop.policy()["text"]
	assert {s["name"]: s["level"] for s in shop.up.get("/sites?sel=shop:*")["sites"]}["step"] == "count"
