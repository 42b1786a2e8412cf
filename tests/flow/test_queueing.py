"""A request that waits before anybody reads it is slow for its client and quick in every span: the wait is on the first one."""
import glob
import os
import re
import signal
import socket
import struct
import subprocess
import threading
import time
import urllib.parse

import pytest

from conftest import wait_for
from test_policies import put
from test_attach_servers import free_port, needs, nginx, postgres, serve  # noqa: F401

UP_ARGS = ("--budget", "0")  # servers under full load at detail: the governor would shed what is looked at here
WAIT = 0.2
TICK = 0.02  # seconds; what the kernel's count of milliseconds may be off by, generously


def stop(pid):
	"""Returns when it stands still: until then a thread of it may go on reading."""
	os.kill(pid, signal.SIGSTOP)
	wait_for(lambda: all(open(f).read().rsplit(")", 1)[1].split()[0] == "T" for f in glob.glob(f"/proc/{pid}/task/*/stat")))


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
			stop(pid)
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


@needs("memcached")
def test_a_command_that_memcached_comes_to_late_says_how_late(klieg_up, serve):  # noqa: F811
	port = free_port()
	p = serve(["memcached", "-u", "nobody" if os.geteuid() == 0 else str(os.geteuid()), "-l", "127.0.0.1", "-p", str(port), "-U", "0", "-t", "2"])

	def there():
		try:
			return Client(port)
		except OSError:
			return None
	watch(klieg_up, "memcached", [p.pid], "memcached", "memcached.request", wait_for(there), b"get x\r\n")


def test_a_statement_that_postgresql_comes_to_late_says_how_late(klieg_up, postgres):  # noqa: F811
	def message(kind, body):
		return kind + struct.pack("!i", len(body) + 4) + body
	client = Client(postgres.tcp)
	client.socket.sendall(message(b"", struct.pack("!i", 196608) + b"user\0postgres\0database\0postgres\0\0"))
	answer = b""
	while not answer.endswith(b"Z\0\0\0\5I"):  # ready for queries; on the way it says which process it is
		answer += client.socket.recv(65536)
	pid = struct.unpack("!i", answer[answer.index(b"K\0\0\0\x0c") + 5:][:4])[0]
	watch(klieg_up, "postgres", [pid], "postgres", "postgres.query", client, message(b"Q", b"select 1\0"))


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
		stop(pid)
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


def stated(up, numbers):
	"""{job: seconds that its span says it waited}; None where it says nothing."""
	rows = up.get("/spans?since=5m&limit=1000&q=" + urllib.parse.quote('{ name = "serve" }'))["spans"]
	return {int(s["attributes"]["arg.number"]): s["attributes"].get("klieg.queue_nano") for s in rows if int(s["attributes"]["arg.number"]) in numbers}


@pytest.mark.parametrize("habits", ["-", "b", "c", "i", "w", "bc", "iw"])
def test_a_job_says_how_long_it_lay_in_the_queue_of_its_pool(klieg_up, target, habits):
	"""Whoever wrote the pool. The program knows what each job waited; no span says more than that, and where each put has its signal none says less."""
	up, t = klieg_up, target("pool")
	t.ask(f"start 2 {habits}")
	up.attach(t.pid, "--plugin", "locks", "--root", "serve")
	up.switch("pool:serve", level="detail", keep=1)
	for site in ("lock.mutex", "lock.signal", "wait.condition"):
		up.switch(f"pool:{site}", level="count")
	for _ in range(4):
		t.ask("burst 1 100")  # how it goes about it is learnt while there is nothing to do
	really = {int(n): int(ns) for n, ns in (x.split(":") for x in t.ask("burst 60 2000")[1:])}
	found = wait_for(lambda: len(f := stated(up, really)) == len(really) and f)
	said = {n: int(ns) for n, ns in found.items() if ns is not None}
	late = [(n, ns, really[n]) for n, ns in said.items() if ns > really[n] + 10e6]
	assert len(late) <= 2, (habits, late)  # a thread that lost the CPU between taking its job and beginning it
	if habits in ("-", "b", "c", "bc"):
		assert len(said) >= 55, (habits, found)
		off = sorted(abs(ns - really[n]) for n, ns in said.items())
		assert off[len(off) // 2] < 5e6, (habits, off)
		assert max(said.values()) > 4e6 and max(really.values()) > 4e6  # two workers, and eight at least were waiting
	if habits == "-":
		row = max(up.get("/spans?since=5m&limit=1000&q=" + urllib.parse.quote('{ name = "serve" }'))["spans"], key=lambda s: int(s["attributes"].get("klieg.queue_nano", 0)))
		assert row["attributes"]["klieg.queue_kind"] == "pool"
		assert re.search(r"waited [\d.]+ms before a thread took it", up.cli("trace", row["trace_id"]).stdout)
	up.all_off()
	up.detach(t.pid)
	t.end()


@needs("redis-server")
def test_what_redis_frees_in_the_background_waits_behind_what_it_freed_before(klieg_up, serve, tmp_path):  # noqa: F811
	"""redis' own pool (bio.c), which nobody wrote for us: forty jobs put there by one command, and one thread that takes them."""
	up, sock = klieg_up, str(tmp_path / "redis.sock")
	p = serve(["redis-server", "--port", "0", "--unixsocket", sock, "--save", "", "--dir", str(tmp_path)])
	wait_for(lambda: os.path.exists(sock))

	def redis(*args):
		return subprocess.run(["redis-cli", "-s", sock, *args], check=True, capture_output=True, text=True, timeout=60).stdout.strip()
	up.attach(p.pid, "--plugin", "locks", "--root", "lazyfreeFreeObject")
	up.switch("redis-server:lazyfreeFreeObject", level="detail", keep=1)
	for site in ("lock.mutex", "lock.signal", "wait.condition"):
		up.switch(f"redis-server:{site}", level="count")
	fill = "for k=1,ARGV[1] do for i=1,ARGV[2] do redis.call('SADD', 'set'..k, i..'member'..k) end end"
	for jobs in (1, 1, 40):
		redis("EVAL", fill, "0", str(jobs), "10000")
		before = up.stored('{ name = "lazyfreeFreeObject" }')
		asked = time.time_ns()
		assert redis("UNLINK", *[f"set{k}" for k in range(1, jobs + 1)]) == str(jobs)
		answered = time.time_ns()
		wait_for(lambda: up.stored('{ name = "lazyfreeFreeObject" }') == before + jobs)
	rows = up.get("/spans?since=5m&limit=100&q=" + urllib.parse.quote('{ name = "lazyfreeFreeObject" }'))["spans"]
	rows = sorted(rows, key=lambda s: s["start_unix_nano"])[-40:]
	said = [int(s["attributes"].get("klieg.queue_nano", -1)) for s in rows]
	assert min(said) >= 0, said
	# By what they say, all were put there while the client waited for its answer; the last long before it was taken.
	put = [s["start_unix_nano"] - ns for s, ns in zip(rows, said)]
	assert asked - 2e6 < min(put) and max(put) < answered + 2e6, (asked, put, answered)
	assert said[-1] > rows[-1]["start_unix_nano"] - answered and max(said) > 5e6, said
