"""Fixtures for the flows: real `klieg up` processes on free ports in directories of their own, real traced programs."""
import json
import os
import re
import signal
import subprocess
import time
import urllib.error
import urllib.request

import pytest

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.environ.get("KLIEG_BUILD", os.path.join(TOP, "build"))
KLIEG = os.environ.get("KLIEG_BIN", os.path.join(BUILD, "klieg"))


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

	def __init__(self, directory, *args, env=None, http="127.0.0.1:0"):
		self.dir = str(directory)
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
		self.proc = subprocess.Popen([KLIEG, self.command, "--dir", self.dir, "--http", self.listen, "--otlp-http", "127.0.0.1:0", *self.args],
			stdout=subprocess.PIPE, stderr=self.log, env=env, stdin=subprocess.DEVNULL)
		line = self.proc.stdout.readline().decode()
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


@pytest.fixture
def klieg_up(tmp_path):
	up = Up(tmp_path / "klieg")
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
