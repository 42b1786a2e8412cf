"""Fixtures for the flows: real `klieg up` processes on free ports in directories of their own, real traced programs."""
import collections
import hashlib
import json
import os
import re
import signal
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request

import pytest

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.environ.get("KLIEG_BUILD", os.path.join(TOP, "build"))
KLIEG = os.environ.get("KLIEG_BIN", os.path.join(BUILD, "klieg"))


def pytest_configure(config):
	config.addinivalue_line("markers", "waits: most of its time is waiting for minutes to pass; tools/run-tests runs these side by side, after the others")


def wait_for(what, timeout=20, every=0.02):
	"""Calls what() until it returns something true; fails with its last answer after `timeout` seconds."""
	end = time.monotonic() + timeout
	last = None
	while time.monotonic() < end:
		last = what()
		if last:
			return last
		time.sleep(every)
	raise AssertionError(f"not within {timeout} s: {getattr(what, '__name__', what)}; last answer: {last!r}")


class Up:
	"""A running `klieg up`."""

	command = "up"

	def __init__(self, directory, *args, env=None, http="127.0.0.1:0", under=()):
		self.dir = str(directory)
		self.under = under  # a command that starts it
		self.args = args
		self.listen = http
		self.extra_env = env or {}
		self.proc = None
		self.start()

	@property
	def env(self):
		e = {k: v for k, v in os.environ.items() if not k.startswith(("KLIEG_", "OTEL_"))}
		e.update(KLIEG_DIR=self.dir, KLIEG_SERVER=self.http, KLIEG_SOCKET=self.socket)
		return e

	def start(self):
		env = {k: v for k, v in os.environ.items() if not k.startswith(("KLIEG_", "OTEL_"))}
		env.update(self.extra_env)
		self.log = open(os.path.join(os.path.dirname(self.dir) or "/tmp", os.path.basename(self.dir) + ".log"), "ab")
		self.proc = subprocess.Popen([*self.under, KLIEG, self.command, "--dir", self.dir, "--http", self.listen, "--otlp-http", "127.0.0.1:0", *self.args],
			stdout=subprocess.PIPE, stderr=self.log, env=env, stdin=subprocess.DEVNULL)
		line = self.ready = self.proc.stdout.readline().decode()
		m = re.match(r"ready http=(\S+) otlp-http=(\S+) socket=(\S+)", line)
		assert m, f"no ready line but {line!r}; log: {open(self.log.name).read()[-2000:]}"
		self.http, self.otlp, self.socket = m.groups()
		if not self.http.startswith("http"):
			self.http = "http://" + self.http
		if not self.otlp.startswith("http"):
			self.otlp = "http://" + self.otlp

	def kill(self):
		self.proc.send_signal(signal.SIGKILL)
		self.proc.wait()

	def stop(self):
		if self.proc.poll() is None:
			self.proc.terminate()
			try:
				self.proc.wait(15)
			except subprocess.TimeoutExpired:
				self.kill()
				raise AssertionError("klieg up did not stop within 15 s of SIGTERM")
		return self.proc.returncode

	def request(self, method, path, body=None, headers=None, base=None, raw=False):
		"""(status, answer); JSON is parsed unless raw."""
		data = None
		headers = dict(headers or {})
		if body is not None:
			data = body if isinstance(body, bytes) else json.dumps(body).encode()
			headers.setdefault("Content-Type", "application/json")
		req = urllib.request.Request((base or self.http) + path, data=data, method=method, headers=headers)
		try:
			with urllib.request.urlopen(req, timeout=30) as r:
				status, payload = r.status, r.read()
		except urllib.error.HTTPError as e:
			status, payload = e.code, e.read()
		return status, payload if raw else (json.loads(payload) if payload else None)

	def get(self, path):
		status, answer = self.request("GET", "/api/v1" + path)
		assert status == 200, (status, answer)
		return answer

	def cli(self, *args, check=True, json_out=False, timeout=60, env=None):
		"""Runs the command line against this server; CompletedProcess, or the parsed document with json_out."""
		cmd = [KLIEG, *args] + (["--json"] if json_out else [])
		r = subprocess.run(cmd, env={**self.env, **(env or {})}, capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL)
		if check:
			# A query that finds nothing says so with status 1 and still prints its document.
			assert r.returncode == 0 or (json_out and r.returncode == 1 and r.stdout), f"{cmd} -> {r.returncode}\n{r.stdout}\n{r.stderr}"
		return json.loads(r.stdout) if json_out else r


	def exact(self, count):
		"""Whether the account says that `count` spans were made and that each is stored or dropped for a reason."""
		a = self.get("/doctor")["account"]
		return a["balanced"] and a["open"] == a["queued"] == 0 and a["made"] == a["stored"] + sum(a["dropped"].values()) == count and a

	def settled(self):
		"""The account, once nothing is under way any more: None until then."""
		a = self.get("/doctor")["account"]
		return a if a["balanced"] and a["open"] == a["queued"] == 0 else None

	def stored(self, selector):
		"""How many stored spans match."""
		return self.get("/spans?" + urllib.parse.urlencode({"q": selector, "since": "1h", "limit": 1}))["matched"]

	def switch(self, selector, **more):
		"""A toggle, without looking at what it will cost first."""
		status, answer = self.request("POST", "/api/v1/toggles", {"selector": selector, "estimate": "0s", "ttl": "10m", **more})
		assert status == 201, (selector, answer)
		return answer

	def all_off(self):
		return self.request("DELETE", "/api/v1/toggles?all=true")

	def attach(self, pid, *args):
		"""klieg attach PID: its answer about that process."""
		doc = self.cli("attach", str(pid), *args, json_out=True)
		assert len(doc["attachments"]) == 1 and not doc["refused"], doc
		return doc["attachments"][0]

	def detach(self, pid):
		doc = self.cli("detach", str(pid), json_out=True)
		assert doc["pid"] == pid and doc["text_identical"], doc
		return doc


def text_of(pid):
	"""Hashes of a process's code: of each executable mapping of a file, as it is in memory now."""
	hashes = {}
	with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", 0) as mem:
		for line in maps:
			m = re.match(r"([0-9a-f]+)-([0-9a-f]+) (\S+) (\S+) \S+ \S+\s*(/.*)?", line)
			if m[5] and "x" in m[3] and not m[5].startswith("/memfd:"):
				mem.seek(int(m[1], 16))
				hashes[m[5], m[4], m[1]] = hashlib.sha256(mem.read(int(m[2], 16) - int(m[1], 16))).hexdigest()
	assert hashes
	return hashes


def changed(before, pid):
	"""Which mappings of `before` are not what they were."""
	now = text_of(pid)
	return [key for key in before if now.get(key) != before[key]]


class Target:
	"""A program of tests/targets: commands in, answers out."""

	def __init__(self, spawn, name, *args, env=None):
		path = os.path.join(BUILD, "tests/targets", name)
		if not os.path.exists(path):
			pytest.skip(f"{path} is not built here")
		self.name = name
		self.proc = spawn([path, *args], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)
		self.pid = self.proc.pid
		line = self.line()
		if line[0] == "child":  # the program proper is a child in a namespace of its own
			self.pid, line = int(line[1]), self.line()
		elif args[:1] == ("pid",):
			self.pid = int(self.line()[1])
		assert line[0] == "ready", line

	def line(self):
		line = self.proc.stdout.readline()
		assert line, f"{self.name} is gone: {self.proc.wait(5)}"
		assert not line.startswith("failed"), line
		return line.split()

	def send(self, text):
		self.proc.stdin.write(text + "\n")
		self.proc.stdin.flush()

	def ask(self, text):
		self.send(text)
		return self.line()

	def go(self, rounds):
		"""(result, {function: calls})"""
		answer = self.ask(f"go {rounds}")
		assert answer[0] == "done", answer
		return answer[1], collections.Counter({k: int(v) for k, v in (x.split("=") for x in answer[2:])})

	def end(self):
		self.proc.stdin.close()
		assert self.proc.wait(20) == 0


@pytest.fixture
def target(spawn):
	"""target(name, *args): a program of tests/targets, killed when the test ends."""
	return lambda name, *args, **kw: Target(spawn, name, *args, **kw)


@pytest.fixture
def klieg_up(tmp_path, request):
	up = Up(tmp_path / "klieg", *getattr(request.module, "UP_ARGS", ()))
	yield up
	up.stop()


@pytest.fixture
def spawn():
	"""spawn(cmd, **popen): a process that is killed when the test ends."""
	procs = []

	def start(cmd, **kw):
		kw.setdefault("stdin", subprocess.DEVNULL)
		p = subprocess.Popen(cmd, **kw)
		procs.append(p)
		return p
	yield start
	for p in procs:
		if p.poll() is None:
			p.kill()
		p.wait()


@pytest.fixture(scope="session")
def cc(tmp_path_factory):
	"""cc(source text, *flags) -> path of a program built against libklieg of this build."""
	made = {}

	def build(source, *flags, lang="c"):
		key = (source, flags, lang)
		if key not in made:
			d = tmp_path_factory.mktemp("cc")
			src = d / ("t.c" if lang == "c" else "t.cc")
			src.write_text(source)
			subprocess.run(["gcc" if lang == "c" else "g++", "-O2", "-g", f"-I{TOP}/include", str(src), "-o", str(d / "t"), f"-L{BUILD}", "-lklieg",
				f"-Wl,-rpath,{BUILD}", "-lpthread", *flags], check=True)
			made[key] = str(d / "t")
		return made[key]
	return build
