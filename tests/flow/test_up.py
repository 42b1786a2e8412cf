"""Starting and stopping: what is wrong is said at once, nothing is left behind, a second Ctrl-C means it."""
import glob
import os
import signal
import socket
import stat
import subprocess

import pytest

from conftest import KLIEG, Up, wait_for
from test_otlp import post, request, span, stored


def start(directory, *args, command="up", **kw):
	return subprocess.run([KLIEG, command, "--dir", str(directory), "--http", "127.0.0.1:0", "--otlp-http", "127.0.0.1:0", *args], capture_output=True, text=True,
		timeout=30, stdin=subprocess.DEVNULL, **kw)


def refused(r, code, *texts):
	assert r.returncode == 2 and f"error[{code}]" in r.stderr and "ready" not in r.stdout, (r.returncode, r.stdout, r.stderr)
	assert "runtime error" not in r.stderr and "Sanitizer" not in r.stderr, r.stderr
	for t in texts:
		assert t in r.stderr


def test_what_cannot_start_says_why(tmp_path, klieg_up):
	port = klieg_up.otlp.rsplit(":", 1)[1]
	refused(start(tmp_path / "a", "--otlp-http", f"127.0.0.1:{port}"), "E302", port)
	refused(start(tmp_path / "a", "--http", "127.0.0.1"), "E200", "HOST:PORT")
	refused(start(tmp_path / "a", "--http", "nowhere:80"), "E200", "nowhere")
	refused(start(tmp_path / "a", "--http", "127.0.0.1:70000"), "E200", "70000")
	refused(start(tmp_path / "a", "--retain", "soon"), "E200", "soon")
	(tmp_path / "file").write_text("")
	r = start(tmp_path / "file" / "sub")
	assert r.returncode == 2 and "error[" in r.stderr and "file" in r.stderr
	long = tmp_path / ("x" * 120)
	r = start(long)
	assert r.returncode == 2 and "socket" in r.stderr


def test_one_directory_serves_one_klieg(klieg_up):
	r = start(klieg_up.dir)
	assert r.returncode == 2 and "error[" in r.stderr and klieg_up.dir in r.stderr
	assert klieg_up.get("/status")["mode"] == "up"  # the first one goes on
	assert klieg_up.cli("ps", check=False).returncode in (0, 1)


def test_a_stale_socket_is_replaced(tmp_path):
	d = tmp_path / "klieg"
	d.mkdir()
	for name in ("klieg.sock", "agent.sock"):
		with socket.socket(socket.AF_UNIX) as s:
			s.bind(str(d / name))
	up = Up(d)
	assert stat.S_IMODE(os.stat(d / "klieg.sock").st_mode) == 0o600 and stat.S_IMODE(os.stat(d / "state.db").st_mode) == 0o600
	assert up.stop() == 0
	assert not (d / "klieg.sock").exists()


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_and_keeps_everything(tmp_path, sig):
	up = Up(tmp_path / "klieg")
	assert post(up, request(span()))[0] == 200
	up.proc.send_signal(sig)
	assert up.proc.wait(15) == 0
	up.start()
	assert stored(up) == 1
	for _ in range(2):
		up.proc.send_signal(signal.SIGINT)
	assert up.proc.wait(15) in (0, 130, -signal.SIGINT)


BUSY = r"""
#include <klieg/klieg.h>
#include <poll.h>
int main(void)
{
	klieg_init(&(struct klieg_options){ .size = sizeof(struct klieg_options), .service = "busy" });
	for (;;) {
		for (int i = 0; i < 500; i++) {
			KLIEG_SPAN("spin");
		}
		poll(NULL, 0, 1);
	}
}
"""


@pytest.mark.parametrize("args", [(), ("--nice", "0")])
def test_what_is_observed_runs_before_what_is_done_with_it(tmp_path, cc, spawn, args):
	"""Threads with much to do take the CPU from no running one; the host's owner may say otherwise. With little to do they answer as quickly as anybody."""
	usual = (0, os.getpriority(os.PRIO_PROCESS, 0))
	background = (3, 10 if os.geteuid() == 0 else usual[1])

	def threads():
		found = set()
		for f in glob.glob(f"/proc/{up.proc.pid}/task/*/stat"):
			row = open(f).read()
			fields = row.rsplit(")", 1)[1].split()
			found.add((row.split("(")[1].split(")")[0], (int(fields[38]), int(fields[16]))))  # policy (3 = SCHED_BATCH), nice value
		return found
	up = Up(tmp_path / "a", "--budget", "0", *args)
	try:
		assert ("klieg-agent", usual) in threads()
		p = spawn([cc(BUSY)], env=up.env)
		wait_for(lambda: [x for x in up.get("/processes")["processes"] if x["pid"] == p.pid and x["state"] == "live"])
		up.switch("spin")
		wait_for(lambda: up.stored('{ name = "spin" }') > 1000)
		if args:
			wait_for(lambda: up.get("/status")["account"]["made"] > 2500000, timeout=60)  # 500 a millisecond at most: busy for longer than it takes
			assert {x for _, x in threads()} == {usual}
		else:
			wait_for(lambda: ("klieg-agent", background) in threads() and ("klieg", background) in threads())
			looking = lambda: up.get("/callgraph?root=spin&since=1s")
			wait_for(lambda: looking() and background not in {x for _, x in threads()})  # they want to see what happens now
			wait_for(lambda: ("klieg-agent", background) in threads())  # they have gone
			up.all_off()
			wait_for(lambda: ("klieg-agent", usual) in threads())
	finally:
		up.stop()


def test_server_without_agent_says_so(tmp_path):
	class Server(Up):
		command = "server"
	up = Server(tmp_path / "server")
	try:
		status, answer = up.request("POST", "/api/v1/toggles", {"selector": "*"})
		assert status == 404 and answer["code"] == "E301" and "no agent" in answer["detail"]
		assert up.get("/toggles") == {"toggles": []} and up.get("/status")["mode"] == "server"
		assert post(up, request(span()))[0] == 200 and stored(up) == 1
		assert up.request("GET", "/readyz", raw=True)[0] == 200  # its work is to store
		doctor = up.get("/doctor")
		assert not doctor["ok"] and [c["name"] for c in doctor["checks"] if not c["ok"]] == ["agent"] and doctor["account"]["balanced"]
	finally:
		up.stop()
