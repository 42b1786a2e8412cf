"""The agent without a server: killed and restarted, toggles that run out, a target that is killed."""
import json
import os
import subprocess
import time

from conftest import BUILD, TOP, wait_for

DRIVER = os.path.join(BUILD, "src", "agent", "agent_driver")
PROGRAM = """
#define KLIEG_COMPONENT "demo"
#include "klieg/klieg.h"
#include <unistd.h>
int main(void) { for (int i = 0;; i++) { KLIEG_SPAN("demo.work", KLIEG_INT("i", i)); usleep(200); } }
"""


class Agent:
	def __init__(self, socket):
		self.proc = subprocess.Popen([DRIVER, socket], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
		assert "ready" in self.proc.stdout.readline()

	def __call__(self, method, **params):
		self.proc.stdin.write(f"{method} {json.dumps(params)}\n")
		self.proc.stdin.flush()
		answer = json.loads(self.proc.stdout.readline())
		assert answer["rc"] >= 0, answer
		return answer["result"]

	def process(self):
		found = self("ps")["processes"]
		return found[0] if found else None


def test_agent_restart_goes_on_and_the_account_balances(tmp_path):
	socket = str(tmp_path / "s" / "a.sock")
	source, exe = tmp_path / "t.c", str(tmp_path / "t")
	source.write_text(PROGRAM)
	lib = next(d for d in (BUILD, os.path.join(BUILD, "src", "probe")) if os.path.exists(os.path.join(d, "libklieg.so")))
	subprocess.check_call(["cc", "-O2", "-I", os.path.join(TOP, "include"), str(source), "-o", exe, "-L", lib, "-lklieg", f"-Wl,-rpath,{lib}"])
	target = subprocess.Popen([exe], env={**os.environ, "KLIEG_SOCKET": socket, "OTEL_SERVICE_NAME": "demo"})
	agent = None
	try:
		agent = Agent(socket)  # late: finds it by its mapping
		wait_for(lambda: agent.process())
		assert agent("on", toggle={"selector": "demo:*", "level": "span"})["instances"] == 1
		wait_for(lambda: agent.process()["passed"] > 100)
		instance = agent.process()["instance"]
		agent.proc.kill()
		agent.proc.wait()
		agent = Agent(socket)
		wait_for(lambda: agent.process())
		assert agent.process()["instance"] == instance  # a share of the processes is the same ones to whatever agent comes
		assert agent.process()["on"] == 0  # nobody wants it on any more
		agent("on", toggle={"selector": "*", "level": "span", "expires_unix_nano": time.time_ns() + 500_000_000})
		assert agent.process()["on"] == 1
		wait_for(lambda: agent.process()["on"] == 0)
		target.kill()
		wait_for(lambda: agent.process()["state"] == "exited")
		a = agent("account")
		assert a["made"] == a["passed"] + a["open"] + sum(a["dropped"].values()), a
	finally:
		target.kill()
		target.wait()
		if agent:
			agent.proc.stdin.close()
			assert agent.proc.wait(10) == 0


def test_the_agent_tells_which_instrumentors_there_are(tmp_path, monkeypatch):
	monkeypatch.setenv("KLIEG_PLUGIN_PATH", os.path.join(BUILD, "plugins"))
	agent = Agent(str(tmp_path / "s" / "a.sock"))
	try:
		names = {p["name"]: p["path"] for p in agent("plugins")["plugins"]}
		shipped = {d for d in os.listdir(os.path.join(TOP, "plugins")) if os.path.isdir(os.path.join(TOP, "plugins", d))}
		assert shipped and all(os.access(path, os.R_OK) for path in names.values())
		assert shipped <= set(names), shipped - set(names)
	finally:
		agent.proc.stdin.close()
		assert agent.proc.wait(10) == 0
