"""A request that waits before anybody reads it is slow for its client and quick in every span: the wait is on the first one."""
import os
import re
import signal
import socket
import threading
import time

from conftest import wait_for
from test_policies import put
from test_attach_servers import free_port, needs, nginx, serve  # noqa: F401

WAIT = 0.2
TICK = 0.02  # seconds; what the kernel's count of milliseconds may be off by, generously


class Client:
	"""One connection; it measures what it had to wait."""

	def __init__(self, port):
		self.socket = socket.create_connection(("127.0.0.1", port), timeout=20)

	def ask(self, request):
		self.socket.sendall(request)
		assert self.socket.recv(65536)

	def ask_while_nobody_reads(self, request, *pids):
		"""The server stands still for a while after the request has come. Returns what the client waited, in seconds."""
		mine = self.socket.getsockname()[1]

		def come():
			with open("/proc/net/tcp") as f:  # bytes of ours that the server has not read
				return [x for x in (line.split() for line in f) if x[2].endswith(f":{mine:04X}") and int(x[4].split(":")[1], 16) > 0]
		for pid in pids:
			os.kill(pid, signal.SIGSTOP)
		try:
			start = time.monotonic()
			self.socket.sendall(request)
			wait_for(lambda: come() and time.monotonic() - start > WAIT)
		finally:
			for pid in pids:
				os.kill(pid, signal.SIGCONT)
		assert self.socket.recv(65536)
		return time.monotonic() - start


def waits(up, name):
	"""Of the spans of that name, in order: what they say they waited, in seconds."""
	rows = up.get(f"/spans?since=5m&limit=100&q=%7B%20name%20%3D%20%22{name}%22%20%7D")["spans"]
	found = [s["attributes"].get("klieg.queue_nano") for s in sorted(rows, key=lambda s: s["start_unix_nano"])]
	return [int(x) / 1e9 if x is not None else None for x in found]


def watch(up, service, pids, plugin, request, client, payload):
	for pid in pids:
		up.attach(pid, "--plugin", plugin)
	up.switch(f"{service}:{plugin.split('-')[0]}.*", level="detail")
	client.ask(payload)
	took = client.ask_while_nobody_reads(payload, *pids)
	client.ask(payload)
	wait_for(lambda: len(waits(up, request)) == 3)
	first, stalled, last = waits(up, request)
	assert WAIT - TICK <= stalled <= took + TICK
	spans = up.get(f"/spans?since=5m&limit=100&q=%7B%20name%20%3D%20%22{request}%22%20%7D")["spans"]
	late = max(spans, key=lambda s: int(s["attributes"].get("klieg.queue_nano", 0)))
	assert re.search(r"waited [\d.]+ms before it was read", up.cli("trace", late["trace_id"]).stdout)
	# Who was read at once did not wait; or the thread was there before the request, and nothing is said.
	assert all(x is None or x < WAIT - TICK for x in (first, last))
	up.all_off()
	for pid in pids:
		up.detach(pid)


@needs("redis-server")
def test_a_command_that_redis_comes_to_late_says_how_late(klieg_up, serve, tmp_path):  # noqa: F811
	port = free_port()
	p = serve(["redis-server", "--port", str(port), "--save", "", "--dir", str(tmp_path)])

	def there():
		try:
			return Client(port)
		except OSError:
			return None
	client = wait_for(there)
	watch(klieg_up, "redis-server", [p.pid], "redis-server", "redis.command", client, b"PING\r\n")
	# And when it goes on like that, it is what is wrong.
	klieg_up.attach(p.pid, "--plugin", "redis-server")
	klieg_up.switch("redis-server:redis.*", level="detail")
	for _ in range(6):
		client.ask_while_nobody_reads(b"PING\r\n", p.pid)
	wait_for(lambda: len(waits(klieg_up, "redis.command")) == 9)
	row = [x for x in klieg_up.get("/hot?since=5m")["rows"] if x["name"] == "redis.command"][0]
	assert [f for f in row["findings"] if f["kind"] == "queue" and "before redis.command begins" in f["text"]], row


@needs("nginx")
def test_a_request_that_nginx_comes_to_late_says_how_late(klieg_up, nginx):  # noqa: F811
	client = Client(int(re.search(r":(\d+)/", nginx.url)[1]))
	watch(klieg_up, "nginx", nginx.workers(), "nginx", "nginx.request", client, b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n")


class Load:
	"""Clients that ask one after the other, each as soon as it has its answer; while the server stands still all of them wait."""

	def __init__(self, port, n=20):
		self.over, self.answers = False, [0] * n
		self.threads = [threading.Thread(target=self.run, args=(port, i), daemon=True) for i in range(n)]
		for t in self.threads:
			t.start()

	def run(self, port, i):
		client = Client(port)
		while not self.over:
			client.ask(b"PING\r\n")
			self.answers[i] += 1
			time.sleep(.02)  # they are no flood: what they wait for is the server, not each other

	def stall(self, pid):
		"""The server stands still until everybody has waited; then everybody is answered."""
		os.kill(pid, signal.SIGSTOP)
		try:
			start, before = time.monotonic(), list(self.answers)
			wait_for(lambda: time.monotonic() - start > WAIT)
		finally:
			os.kill(pid, signal.SIGCONT)
		wait_for(lambda: all(now > was + 1 for now, was in zip(self.answers, before)))

	def stop(self):
		self.over = True
		for t in self.threads:
			t.join(20)


BACKLOG = """policy: backlog
rules:
  - name: waits
    match: '{ resource.service.name = "redis-server" && name =~ "redis.(read|command)" }'
    level: detail
    keep: 50%
  - name: look
    match: '{ resource.service.name = "redis-server" && name =~ "redis.*" }'
    level: "off"
    escalate:
      when: '{ name = "redis.command" } | quantile_over_time(span.klieg.queue_nano, .9) > 50ms'
      over: 1s
      to: span
      decay: 2s
      cooldown: 1s
"""


@needs("redis-server")
def test_requests_that_queue_raise_the_level_and_it_comes_down_when_they_do_not(klieg_up, serve, tmp_path):  # noqa: F811
	up, port = klieg_up, free_port()
	p = serve(["redis-server", "--port", str(port), "--save", "", "--dir", str(tmp_path)])
	wait_for(lambda: socket.socket().connect_ex(("127.0.0.1", port)) == 0)
	up.attach(p.pid, "--plugin", "redis-server")
	status, answer = put(up, BACKLOG, 0, "backlog")
	assert status == 200
	# Its own rule records no waits; that another one does cannot be known, so it is said.
	assert [d["code"] for d in answer["plan"]["diagnostics"]] == ["P212"]
	levels = lambda: {s["name"]: s["level"] for s in up.get("/sites?sel=redis-server:redis.*")["sites"]}
	load = Load(port)
	try:
		wait_for(lambda: len(waits(up, "redis.command")) > 50)
		assert levels()["redis.call"] in ("off", "count") and not up.get("/firings")["firings"]

		def queued():
			load.stall(p.pid)
			return [f for f in up.get("/firings")["firings"] if f["to"] == "span"]
		firing = wait_for(queued, 60, every=0)[0]
		assert levels()["redis.call"] == "span"
		cause = firing["cause"]
		assert cause["value"] > 100e6 and cause["threshold"] == 50e6 and firing["rule"] == "look" and firing["service"] == "redis-server"
		assert re.match(r"the p90 of what requests waited is [\d.]+ m?s, over 50 ms for 1 s", cause["text"]), cause
		assert "what requests waited" in up.cli("firings").stdout
		# The server keeps up again, and the level comes down step by step.
		wait_for(lambda: levels()["redis.call"] in ("off", "count") and all(f["state"] == "lowered" for f in up.get("/firings")["firings"]), 60)
	finally:
		load.stop()
