"""kill -9 of the server, the agent and the services in turn, in each step of a rollout: what is shown is never a step that is watched by nobody, always why, and it
ends with the version in force everywhere."""
import socket
import subprocess

import pytest

from conftest import KLIEG, wait_for
from test_fleet import Server
from test_rollout import SERVER, text

pytestmark = pytest.mark.waits

HOST = "canaryhost"


class Shop:
	"""Server, agent and four services, each a process of its own."""

	def __init__(self, tmp_path, spawn, cc):
		with socket.socket() as s:  # the same port again after a restart: agents and services know it by that
			s.bind(("127.0.0.1", 0))
			port = s.getsockname()[1]
		self.up = Server(tmp_path / "server", http=f"127.0.0.1:{port}")
		self.spawn, self.program, self.where, self.services = spawn, cc(SERVER), str(tmp_path / "agent"), []
		self.start_agent()
		for _ in range(4):
			self.start_service()
		wait_for(lambda: len(self.live()) == 4)

	def start_agent(self):
		self.agent = self.spawn([KLIEG, "agent", "--server", self.up.http, "--dir", self.where, "--host", HOST, "--budget", "0"], stdout=subprocess.PIPE, text=True)
		self.socket = self.agent.stdout.readline().split("socket=")[1].strip()

	def start_service(self):
		self.services.append(self.spawn([self.program], env={**self.up.env, "KLIEG_SOCKET": self.socket}, stdout=subprocess.PIPE))

	def live(self):
		return {p["pid"] for p in self.up.get("/processes")["processes"] if p["state"] == "live"}

	def rollout(self):
		return self.up.get("/policies/shop/rollout")

	def shown(self):
		"""The rollout; what it says at any moment has to be in order."""
		r = self.rollout()
		states = [s["state"] for s in r["steps"]]
		here = states[r["step"]]
		if r["state"] == "running":
			assert here in ("running", "interrupted", "waiting", "pending"), r
			assert all(s in ("done", "skipped") for s in states[:r["step"]]) and all(s == "pending" for s in states[r["step"] + 1:]), states
			if here == "interrupted":
				assert r["steps"][r["step"]]["why"] and "until" not in r["steps"][r["step"]], r
		return r

	def at(self, step, state="running"):
		return wait_for(lambda: (r := self.shown())["step"] == step and r["steps"][step]["state"] == state and r, 90)


@pytest.fixture
def shop(tmp_path, spawn, cc):
	s = Shop(tmp_path, spawn, cc)
	yield s
	s.up.stop()


def kill(proc):
	proc.kill()
	proc.wait()


def the_server(shop, step):
	shop.up.kill()
	shop.up.start()
	return shop.shown(), "the server ended"   # the very first answer tells it


def the_agent(shop, step):
	kill(shop.agent)
	r = shop.at(step, "interrupted")
	shop.start_agent()
	return r, "agent"


def a_service(shop, step):
	pid = shop.shown()["canary"][0]["pid"]
	kill(next(s for s in shop.services if s.pid == pid))
	r = shop.at(step, "interrupted")
	shop.start_service()
	return r, str(pid)


@pytest.mark.parametrize("victim", [the_server, the_agent, a_service])
def test_killed_in_each_step(shop, victim):
	status, answer = shop.up.request("PUT", "/api/v1/policies/shop",
		{"text": text(steps="[1 process, 50%, 100%]"), "expected_version": 0, "soak": "4s", "author": "ann", "estimate": "0s"})
	assert status == 200, answer
	for step in range(3):
		shop.at(step)
		r, cause = victim(shop, step)
		assert r["step"] == step and r["steps"][step]["state"] == "interrupted" and cause in r["steps"][step]["why"], r
		assert r["why"] == r["steps"][step]["why"]
		shop.at(step)  # and it begins again: watched, with an end
		again = shop.rollout()
		assert again["step"] > step or again["state"] == "done" or ("until" in again["steps"][step] and "why" not in again["steps"][step])
	r = wait_for(lambda: (r := shop.shown())["state"] == "done" and r, 90)
	assert [s["state"] for s in r["steps"]] == ["done"] * 3 and "why" not in r
	assert [v["change"] for v in shop.up.get("/policies/shop/versions")["versions"]] == ["apply"]
	assert {p["on"] for p in shop.up.get("/processes")["processes"] if p["state"] == "live"} == {1}
	# The audit log has each interruption, with why, and that it went on.
	told = [(e["what"], e["after"]["step"]) for e in shop.up.get("/audit?object=policy:shop&limit=100")["entries"][::-1] if e["what"] in ("interrupted", "resume")]
	assert [x for k, x in enumerate(told) if not k or told[k - 1] != x] == [(what, step) for step in (1, 2, 3) for what in ("interrupted", "resume")], told


def test_command_line_says_where_it_was_cut_off(shop):
	assert shop.up.request("PUT", "/api/v1/policies/shop", {"text": text(), "expected_version": 0, "soak": "1h", "author": "ann", "estimate": "0s"})[0] == 200
	shop.at(0)
	kill(shop.agent)
	shop.at(0, "interrupted")
	for args in (("show",), ("history",), ("rollout", "--once")):
		r = shop.up.cli("policy", args[0], "shop", *args[1:])
		assert "step 1 of 3: 1 process, interrupted" in r.stdout + r.stderr and "begins again" in r.stdout + r.stderr, (args, r.stdout, r.stderr)
	# Taken back by hand while nobody watches: the steps say how far it had got.
	assert shop.up.request("POST", "/api/v1/policies/shop/rollout", {"action": "rollback", "author": "ann", "reason": "enough"})[0] == 200
	r = shop.rollout()
	assert r["state"] == "rolled_back" and [s["state"] for s in r["steps"]] == ["rolled_back", "not_reached", "not_reached"] and "ann: enough" in r["why"]
