"""Agent and server in processes of their own: the same toggles, spans and account as with both in one."""
import os
import re
import signal
import subprocess

from conftest import KLIEG, Up, wait_for
from test_loop import SERVICE, text_hash


class Server(Up):
	command = "server"


def agent(spawn, up, directory):
	p = spawn([KLIEG, "agent", "--server", up.http, "--dir", str(directory)], stdout=subprocess.PIPE, text=True)
	m = re.match(r"ready server=\S+ socket=(\S+)", p.stdout.readline())
	assert m
	return p, m[1]


def test_a_remote_agent_is_steered_and_ships_and_the_account_balances(tmp_path, spawn, cc):
	up = Server(tmp_path / "server")
	try:
		r = up.cli("on", "*", check=False)
		assert r.returncode == 3 and "no agent" in r.stderr
		a, socket = agent(spawn, up, tmp_path / "agent")
		env = {**os.environ, "KLIEG_SOCKET": socket}
		p = spawn([cc(SERVICE), "far"], env=env, stdout=subprocess.PIPE)
		p.stdout.readline()
		wait_for(lambda: [x for x in up.cli("ps", json_out=True, check=False).get("processes", []) if x["pid"] == p.pid])
		before = text_hash(p.pid)
		up.cli("on", "far:*", "--level", "detail")
		wait_for(lambda: up.cli("query", '{ name = "inner" && .tenant = "a" }', "--since", "1m", json_out=True)["matched"] > 100)
		up.cli("off", "--all")
		wait_for(lambda: text_hash(p.pid) == before)

		def balanced():
			d = up.cli("doctor", json_out=True, check=False)["account"]
			return d["made"] > 100 and d["made"] == d["stored"] + sum(d["dropped"].values())
		wait_for(balanced)

		# The server goes away and comes back: spans made meanwhile wait at the agent, and its toggles are set again.
		up.cli("on", "outer", "--ttl", "5m")
		wait_for(lambda: up.cli("query", '{ name = "outer" }', "--since", "1m", json_out=True)["matched"] > 0)
		up.kill()
		port = re.search(r":(\d+)", up.http.split("//")[1])[1]
		again = Server(tmp_path / "server", http=f"127.0.0.1:{port}")
		up = again
		n = up.cli("query", '{ name = "outer" }', "--since", "5m", json_out=True)["matched"]
		wait_for(lambda: up.cli("query", '{ name = "outer" }', "--since", "5m", json_out=True)["matched"] > n + 50)
		wait_for(lambda: [t for t in up.get("/toggles")["toggles"] if t["selector"] == "outer"])
		a.send_signal(signal.SIGTERM)
		assert a.wait(10) == 0
		wait_for(lambda: text_hash(p.pid) == before)
		assert p.poll() is None
	finally:
		up.stop()
