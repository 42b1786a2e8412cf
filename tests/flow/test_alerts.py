"""What an operator must know is told while it is so, and not a moment longer: a disk that does not keep up, an agent that is gone, a queue that grows."""
import json
import os
import re
import signal
import subprocess
import threading
import time

import pytest

from conftest import KLIEG, Up, wait_for
from guarding import build

pytestmark = pytest.mark.waits


class Server(Up):
	command = "server"


def alerts(up):
	return {a["id"]: a for a in up.get("/alerts")["alerts"]}


def metric(up, name):
	status, text = up.request("GET", "/metrics", raw=True)
	assert status == 200
	return float(re.search(rf"^klieg_{name} (\S+)$", text.decode(), re.M)[1])


@pytest.fixture
def disk(tmp_path):
	"""A disk of its own, that can be told to stand still."""
	image, at = tmp_path / "disk", tmp_path / "mnt"
	at.mkdir()
	with open(image, "wb") as f:
		f.truncate(2 << 30)
	tried = os.geteuid() == 0 and subprocess.run(["mkfs.ext4", "-q", str(image)], capture_output=True).returncode == 0 and \
		subprocess.run(["mount", "-o", "loop", str(image), str(at)], capture_output=True).returncode == 0
	if not tried:
		pytest.skip("needs root and a loop device")
	frozen = []

	class Disk:
		path = at

		@staticmethod
		def freeze():
			subprocess.run(["fsfreeze", "-f", str(at)], check=True)
			frozen.append(True)

		@staticmethod
		def thaw():
			if frozen:
				subprocess.run(["fsfreeze", "-u", str(at)], check=True)
				frozen.clear()
	try:
		yield Disk
	finally:
		Disk.thaw()
		subprocess.run(["umount", "-l", str(at)])


def spans(n, request):
	"""A request of n spans that are large, each unlike any other."""
	now = time.time_ns()
	text = os.urandom(8192).hex()
	return json.dumps({"resourceSpans": [{"resource": {"attributes": [{"key": "service.name", "value": {"stringValue": "bulk"}}]}, "scopeSpans": [{"spans": [
		{"traceId": f"{request + 1:032x}", "spanId": f"{i + 1:016x}", "name": "bulk", "startTimeUnixNano": str(now), "endTimeUnixNano": str(now + 1000),
			"attributes": [{"key": "text", "value": {"stringValue": f"{request} {i} {text}"}}]} for i in range(n)]}]}]}).encode()


def test_a_disk_that_does_not_keep_up_is_told_until_it_does(disk, tmp_path):
	up = Up(disk.path / "klieg")
	answers = []
	try:
		wait_for(lambda: up.get("/status") and not alerts(up))
		n, requests = 500, 20

		def post(i):
			answers.append(up.request("POST", "/v1/traces", spans(n, i), base=up.otlp)[0])
		disk.freeze()
		threads = [threading.Thread(target=post, args=(0,), daemon=True)]
		threads[0].start()
		# One request is enough for it to be late: what is being written has been waiting, too.
		late = wait_for(lambda: alerts(up).get("store.age"), 30)
		assert late["severity"] == "warning" and late["value"] > late["limit"] == 5e9 and "klieg doctor" in late["cli"]
		assert metric(up, "store_queue_age_seconds") > 5 and "store.queue" not in alerts(up)
		for i in range(1, requests):
			threads.append(threading.Thread(target=post, args=(i,), daemon=True))
			threads[-1].start()
		full = wait_for(lambda: alerts(up).get("store.queue"), 60)
		assert full["severity"] == "critical" and full["value"] > full["limit"] == 128 << 20
		assert metric(up, "store_queue_bytes") > 128 << 20
		told = up.cli("alerts", check=False).stdout
		assert "spans wait to be written" in told and "spans wait long to be written" in told
		assert not answers  # nobody was told that what is not on the disk is
		disk.thaw()
		wait_for(lambda: not {"store.age", "store.queue"} & set(alerts(up)), 60)
		for t in threads:
			t.join(60)
		assert answers == [200] * requests
		assert metric(up, "store_queue_bytes") == 0 and metric(up, "store_queue_age_seconds") == 0
		assert up.stored('{ resource.service.name = "bulk" }') == n * requests
	finally:
		disk.thaw()
		up.stop()


def agent(spawn, up, tmp_path, host, *args):
	p = spawn([KLIEG, "agent", "--server", up.http, "--dir", str(tmp_path / host), "--host", host, *args], stdout=subprocess.PIPE, text=True)
	p.socket = p.stdout.readline().split("socket=")[1].split()[0]
	return p


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_an_agent_that_is_not_heard_of_is_told_until_it_is_back(tmp_path, spawn, how):
	up = Server(tmp_path / "klieg")
	try:
		agents = {host: agent(spawn, up, tmp_path, host) for host in ("a", "b")}
		wait_for(lambda: sorted(a["host"] for a in up.get("/agents")["agents"] if a["reachable"]) == ["a", "b"])
		wait_for(lambda: "agent" not in alerts(up))
		os.kill(agents["b"].pid, how)
		gone = wait_for(lambda: alerts(up).get("agent.gone.b"), 60)
		assert gone["severity"] == "critical" and gone["value"] >= gone["limit"] == 3e9 and "b" in gone["text"] and gone["since_unix_nano"] > 0
		assert "agent.gone.a" not in alerts(up)
		assert "the agent of b has not answered" in up.cli("alerts", check=False).stdout
		if how == signal.SIGSTOP:
			os.kill(agents["b"].pid, signal.SIGCONT)
		else:
			agents["b"].wait()
			agents["b"] = agent(spawn, up, tmp_path, "b")
		wait_for(lambda: "agent.gone.b" not in alerts(up), 60)
		os.kill(agents["a"].pid, signal.SIGKILL)
		os.kill(agents["b"].pid, signal.SIGKILL)
		wait_for(lambda: {"agent.gone.a", "agent.gone.b", "agent"} <= set(alerts(up)), 60)  # and nobody is left
	finally:
		up.stop()


def test_spans_that_a_queue_had_no_room_for_are_told_until_that_is_over(tmp_path, spawn):
	up = Server(tmp_path / "klieg")
	try:
		a = agent(spawn, up, tmp_path, "a", "--budget", "0")
		p = spawn([build(tmp_path)], env=dict(up.env, KLIEG_SOCKET=a.socket, OTEL_SERVICE_NAME="shop"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

		def tell(what, n):
			p.stdin.write(f"{what} {n}\n")
			p.stdin.flush()
			return int(p.stdout.readline())
		wait_for(lambda: [x for x in up.get("/agents")["agents"] if x["reachable"]] and up.get("/processes")["processes"])
		up.switch("shop:storm.entry", level="span", ttl="30m")
		wait_for(lambda: "dropped" in up.get("/doctor")["account"] and not alerts(up))
		up.proc.send_signal(signal.SIGSTOP)  # nobody takes the spans: first the agent's queue is full, then the rings
		try:
			before = tell("storm", 1)
			wait_for(lambda: tell("storm", 1) > before + 10_000_000, 120)
			tell("storm", 0)
		finally:
			up.proc.send_signal(signal.SIGCONT)
		lost = wait_for(lambda: [x for x in alerts(up).values() if x["id"].startswith("dropped.")], 60)[0]
		assert lost["severity"] == "warning" and lost["value"] > 0 and "spans were lost lately" in lost["text"] and "klieg doctor" in lost["cli"]
		account = wait_for(up.settled, 120)
		assert sum(account["dropped"].values()) >= lost["value"] and account["made"] == account["stored"] + sum(account["dropped"].values())
		wait_for(lambda: not [x for x in alerts(up) if x.startswith("dropped.")], 150, every=1)
		assert sum(up.get("/doctor")["account"]["dropped"].values()) == sum(account["dropped"].values())  # the number stays, the alarm does not
		# A server that comes when it has happened already says so, too: it is how one learns of what its absence cost.
		up.kill()
		up.listen = up.http.removeprefix("http://")
		up.start()
		# Which of the two queues had no room depends on who was quicker, program or agent.
		late = wait_for(lambda: [x for x in alerts(up).values() if x["id"].startswith("dropped.")], 60)[0]
		assert late["value"] == account["dropped"][late["id"].removeprefix("dropped.")] and "or before this server was there" in late["text"]
	finally:
		up.stop()
