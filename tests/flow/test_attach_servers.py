"""Attaching to real servers from the distribution, unmodified, stripped, under their own load: every call is a span, by the server's own statistics; what the
server answers is what it was; its text is what it was when we go, twenty times over."""
import contextlib
import glob
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import urllib.request

import pytest

from conftest import changed, text_of, wait_for

CYCLES = 20
UP_ARGS = ("--budget", "0")  # every call of servers under full load is counted here: the governor would shed most


def needs(*programs):
	missing = [p for p in programs if not shutil.which(p) and not os.path.exists(p)]
	return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


@pytest.fixture
def serve():
	"""serve(cmd): a server in a session of its own; asked to end, then killed, with all it started."""
	started = []

	def start(cmd, stop=signal.SIGTERM, **kw):
		kw.setdefault("stdin", subprocess.DEVNULL)
		kw.setdefault("stdout", subprocess.DEVNULL)
		p = subprocess.Popen(cmd, start_new_session=True, **kw)
		started.append((p, stop))
		return p
	yield start
	for p, stop in reversed(started):
		if p.poll() is None:
			p.send_signal(stop)
			with contextlib.suppress(subprocess.TimeoutExpired):
				p.wait(10)
		with contextlib.suppress(ProcessLookupError):
			os.killpg(p.pid, signal.SIGKILL)
		p.wait()


def run(*cmd, **kw):
	r = subprocess.run(cmd, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL if "input" not in kw else None, **kw)
	assert r.returncode == 0, (cmd, r.stdout[-1000:], r.stderr[-1000:])
	return r.stdout


def open_to_others(path):
	"""What servers run as somebody else can reach."""
	while os.geteuid() == 0 and path != path.parent and str(path).startswith("/tmp/"):
		os.chmod(path, os.stat(path).st_mode | 0o011)
		path = path.parent


def free_port():
	with socket.socket() as s:
		s.bind(("127.0.0.1", 0))
		return s.getsockname()[1]


def spans(up, service, name):
	return up.stored(f'{{ resource.service.name = "{service}" && name = "{name}" }}')


def on(up, service, *names, **more):
	"""Every call from now on is counted: it is not put off because the server, on a busy machine, could not be stopped within the usual 10 ms."""
	for name in names:
		plan = up.switch(f"{service}:{name}", max_pause="2s", **more)["plan"]
		assert plan["sites"] == 1 and not plan.get("warning"), plan


def counted(up, service, expected):
	"""The spans of these functions, once they are as many as expected; nothing is lost and nothing is left over."""
	account = wait_for(lambda: (a := up.settled()) and a["made"] >= sum(expected.values()) and a)
	lost = {k: v for k, v in account["dropped"].items() if v}
	assert set(lost) <= {"ring_full"}, lost
	made = {name: spans(up, service, name) for name in expected}
	assert account["made"] == sum(expected.values()), (account, expected, made)
	assert sum(made.values()) + lost.get("ring_full", 0) == account["made"]
	if not lost:
		assert made == expected
	return account


def cycles(up, pid, service, names, before, alive):
	"""Attach, arm, detach, again and again; the server is under load meanwhile."""
	for _ in range(CYCLES):
		a = up.attach(pid)
		assert a["service"] == service and a["hookable"] > 0
		plans = [up.switch(f"{service}:{names[0]}", keep=0.01)["plan"], up.switch(f"{service}:{names[-1]}", level="count")["plan"]]
		assert changed(before, pid) or any(p.get("warning") for p in plans), plans  # a function may be put off, which is said
		wait_for(lambda: changed(before, pid))
		assert up.detach(pid)["restored"] <= 2
		assert not changed(before, pid)
		up.all_off()
		assert alive()


def lit(up, function, seen, *args, depth=2):
	"""What klieg illuminate shows of it, and what seen(graph, names) finds there. It keeps a share of what is dear, switches off what has little time, and looks for calls
	through pointers level by level, a third of a second at a time: on a busy machine one illumination may not see all."""
	for _ in range(5):
		doc = up.cli("illuminate", function, "--once", "--depth", str(depth), *args, json_out=True)
		names = set(re.findall(r'"name": ?"([^"]+)"', json.dumps(doc["graph"])))
		if function in names and (found := seen(doc["graph"], names)):
			return doc, found
	raise AssertionError(doc)


ALL = ("--for", "3s", "--min-share", "0", "--max-cost", "90%")


# ---- redis ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def redis(tmp_path, serve):
	sock = str(tmp_path / "redis.sock")
	p = serve(["redis-server", "--port", "0", "--unixsocket", sock, "--save", "", "--dir", str(tmp_path)])
	wait_for(lambda: os.path.exists(sock) and subprocess.run(["redis-cli", "-s", sock, "ping"], capture_output=True, text=True).stdout == "PONG\n")

	class Redis:
		pid = p.pid
		cli = staticmethod(lambda *a: run("redis-cli", "-s", sock, *a))
		bench = ["redis-benchmark", "-s", sock, "-q", "-c", "20"]

		@staticmethod
		def calls(command):
			m = re.search(rf"cmdstat_{command}:calls=(\d+)", run("redis-cli", "-s", sock, "info", "commandstats"))
			return int(m[1]) if m else 0
	return Redis


@needs("redis-server", "redis-benchmark")
def test_redis(klieg_up, redis, serve):
	up = klieg_up
	load = [*redis.bench, "-t", "set,get,lpush", "-n", "3000", "-r", "100"]
	run(*load)
	before = text_of(redis.pid)
	background = serve([*redis.bench, "-t", "set,get", "-l", "-n", "10000"])
	a = up.attach(redis.pid)
	assert a["service"] == "redis-server" and a["hookable"] > 2000, a
	on(up, "redis-server", "getCommand", "setCommand", keep=0.01)
	lit(up, "call", lambda graph, names: {"getCommand", "setCommand"} & names, "--for", "1s")
	background.kill()
	background.wait()
	up.detach(redis.pid)
	up.all_off()
	# Counted, against the server's own statistics.
	wait_for(up.settled)
	made, had = up.settled()["made"], {n: spans(up, "redis-server", n) for n in ("getCommand", "setCommand", "lpushCommand")}
	up.attach(redis.pid)
	was = {c: redis.calls(c) for c in ("get", "set", "lpush")}
	on(up, "redis-server", "getCommand", "setCommand", "lpushCommand")
	run(*load)
	redis.cli("set", "klieg", "was here")
	assert redis.cli("get", "klieg") == "was here\n"
	now = {c: redis.calls(c) - was[c] for c in was}
	assert now["get"] == 3001 and now["set"] == 3001 and now["lpush"] >= 3000
	account = wait_for(lambda: up.exact(made + sum(now.values())))
	if not account["dropped"].get("ring_full"):
		assert {n: spans(up, "redis-server", n) - had[n] for n in had} == {c + "Command": n for c, n in now.items()}
	up.detach(redis.pid)
	up.all_off()
	assert not changed(before, redis.pid)
	# Twenty times, under load.
	background = serve([*redis.bench, "-t", "set,get", "-l", "-n", "10000"])
	cycles(up, redis.pid, "redis-server", ["processCommand", "call", "getCommand"], before, lambda: background.poll() is None)
	background.kill()
	assert redis.cli("get", "klieg") == "was here\n"
	assert not re.search("crash|signal", redis.cli("info", "errorstats"))


@needs("redis-server", "redis-benchmark")
def test_redis_commands_that_only_a_table_knows(klieg_up, redis, serve):
	"""call() reaches commands through pointers on the heap: those that clients send are seen, those that nobody sends are not."""
	up = klieg_up
	before = text_of(redis.pid)
	background = serve([*redis.bench, "-t", "set,get", "-l", "-n", "10000"])
	up.attach(redis.pid)

	def seen(graph, names):
		callees = {c["name"]: c for c in graph["roots"][0]["children"]}
		observed = {n for n, c in callees.items() if c.get("observed")}
		assert observed <= {"setCommand", "getCommand"}, graph
		return len(observed) == 2 and callees
	doc, callees = lit(up, "call", seen, *ALL, depth=1)
	assert set(doc["observed"]) == {"setCommand", "getCommand"}
	assert callees["setCommand"]["calls"] > 100 and callees["getCommand"]["calls"] > 100 and doc["observing"]["functions"] > 500, doc["observing"]
	assert not changed(before, redis.pid) and background.poll() is None
	up.detach(redis.pid)
	assert not changed(before, redis.pid)


# ---- nginx ------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def nginx(tmp_path, serve):
	port = free_port()
	(tmp_path / "www").mkdir()
	(tmp_path / "www/index.html").write_text("Lux in tenebris\n" * 100)
	os.chmod(tmp_path / "www/index.html", 0o644)
	(tmp_path / "nginx.conf").write_text(f"""
daemon off; worker_processes 2; pid {tmp_path}/nginx.pid; error_log {tmp_path}/error.log;
events {{ worker_connections 256; }}
http {{
	access_log {tmp_path}/access.log;
	client_body_temp_path {tmp_path}/body; proxy_temp_path {tmp_path}/proxy; fastcgi_temp_path {tmp_path}/fastcgi; uwsgi_temp_path {tmp_path}/uwsgi; scgi_temp_path {tmp_path}/scgi;
	server {{ listen 127.0.0.1:{port}; root {tmp_path}/www; location /status {{ stub_status; }} }}
}}
""")
	open_to_others(tmp_path)
	p = serve(["nginx", "-c", str(tmp_path / "nginx.conf"), "-e", str(tmp_path / "error.log")], stop=signal.SIGQUIT)

	class Nginx:
		master = p.pid
		url = f"http://127.0.0.1:{port}/"

		@staticmethod
		def workers():
			with open(f"/proc/{p.pid}/task/{p.pid}/children") as f:
				return [int(x) for x in f.read().split()]

		@staticmethod
		def get(path=""):
			with urllib.request.urlopen(Nginx.url + path, timeout=10) as r:
				return r.read().decode()

		@staticmethod
		def idle():
			"""There is no connection but the one that asks."""
			return "Active connections: 1 " in Nginx.get("status")

		@staticmethod
		def requests():
			"""So far, this question included."""
			return int(re.search(r"requests\s+\d+ \d+ (\d+)", Nginx.get("status"))[1])

	def up():
		with contextlib.suppress(OSError):
			return len(Nginx.workers()) == 2 and Nginx.get()
	wait_for(up)
	return Nginx


@needs("nginx", "wrk")
def test_nginx(klieg_up, nginx, serve):
	up = klieg_up
	page = nginx.get()
	processes = [nginx.master, *nginx.workers()]
	before = {pid: text_of(pid) for pid in processes}
	load = serve(["wrk", "-t1", "-c8", "-d60", nginx.url])
	for pid in processes:
		a = up.attach(pid)
		assert a["service"] == "nginx" and a["hookable"] > 500, a
	lit(up, "ngx_http_process_request", lambda graph, names: "ngx_http_handler" in names, "--for", "1s")
	load.kill()
	load.wait()
	up.all_off()
	wait_for(nginx.idle)  # what wrk had asked for is answered: it is counted when it comes, and would be traced or not
	made = wait_for(up.settled)["made"]
	first = nginx.requests()
	on(up, "nginx", "ngx_http_process_request")
	n = 300
	assert all(nginx.get() == page for _ in range(n))
	wrk = run("wrk", "-t1", "-c4", "-d1", nginx.url)
	assert "Non-2xx" not in wrk and int(re.search(r"(\d+) requests in", wrk)[1]) > 0
	last = nginx.requests()
	account = wait_for(lambda: up.exact(made + last - first))  # the question of before is out, that of after is in
	assert account["made"] - made > n
	for pid in processes:
		up.detach(pid)
		assert not changed(before[pid], pid)
	up.all_off()
	load = serve(["wrk", "-t1", "-c8", "-d60", nginx.url])
	for pid in processes[:2]:
		cycles(up, pid, "nginx", ["ngx_http_process_request", "ngx_http_finalize_request"], before[pid], lambda: load.poll() is None)
	load.kill()
	assert nginx.get() == page and nginx.workers() == processes[1:]


@needs("nginx", "wrk")
def test_nginx_phases_that_only_a_table_knows(klieg_up, nginx, serve):
	up, page = klieg_up, nginx.get()
	workers = nginx.workers()
	before = {pid: text_of(pid) for pid in workers}
	load = serve(["wrk", "-t1", "-c8", "-d60", nginx.url])
	for pid in workers:
		up.attach(pid)

	def seen(graph, names):
		"""Each phase has a checker, and that calls the handlers of modules: two calls through pointers, one below the other."""
		phases = {c["name"]: c for c in graph["roots"][0]["children"] if c.get("observed")}
		return "ngx_http_core_generic_phase" in phases and any(c.get("observed") for c in phases.get("ngx_http_core_content_phase", {"children": []})["children"])
	lit(up, "ngx_http_core_run_phases", seen, *ALL)
	assert load.poll() is None and nginx.get() == page
	for pid in workers:
		up.detach(pid)
		assert not changed(before[pid], pid)


# ---- memcached ----------------------------------------------------------------------------------------------------------------------


class Memcache:
	def __init__(self, path):
		self.sock = socket.socket(socket.AF_UNIX)
		self.sock.connect(path)
		self.file = self.sock.makefile("rwb")

	def ask(self, text, end):
		self.file.write(text.encode())
		self.file.flush()
		lines = []
		while not lines or lines[-1] not in end:
			line = self.file.readline().decode().rstrip("\r\n")
			assert line or lines
			lines.append(line)
		return lines

	def stats(self):
		return {k: v for _, k, v in (x.split(" ", 2) for x in self.ask("stats\r\n", ("END",))[:-1])}


@needs("memcached")
def test_memcached(klieg_up, tmp_path, serve):
	"""No names at all in this one: its functions go by address."""
	up, path = klieg_up, str(tmp_path / "memcached.sock")
	os.chmod(tmp_path, 0o777)
	open_to_others(tmp_path.parent)
	p = serve(["memcached", "-u", "nobody" if os.geteuid() == 0 else str(os.geteuid()), "-s", path, "-a", "0777", "-t", "4", "-U", "0"])
	wait_for(lambda: os.path.exists(path) and Memcache(path).stats())
	before = text_of(p.pid)
	client = Memcache(path)

	def work(n):
		for i in range(n):
			assert client.ask(f"set k{i % 10} 0 0 5\r\nv{i:04}\r\n", ("STORED",)) == ["STORED"]
			assert client.ask(f"get k{i % 10}\r\n", ("END",)) == [f"VALUE k{i % 10} 0 5", f"v{i:04}", "END"]
			if i % 3 == 0:
				assert client.ask("get nothing\r\n", ("END",)) == ["END"]
	work(10)
	stop, others = threading.Event(), []

	def hammer():
		c = Memcache(path)
		while not stop.is_set():
			assert c.ask("get k1\r\n", ("END",))[-1] == "END"
		others.append(True)
	thread = threading.Thread(target=hammer)
	thread.start()
	try:
		a = up.attach(p.pid)
		assert a["service"] == "memcached" and a["hookable"] > 150 and any("strip" in n for n in a["notes"]), a
		names = [s["name"] for s in up.get("/sites?sel=memcached:*&limit=1000")["sites"] if s["hookable"]]
		up.switch("memcached:memcached*", level="count")
		wait_for(lambda: any(s["calls"] for s in up.get("/sites/stats?sel=memcached:*&window=10s")["sites"]))
		up.detach(p.pid)
		assert not changed(before, p.pid)
		up.all_off()
		cycles(up, p.pid, "memcached", [names[0], names[-1]], before, lambda: not others)
	finally:
		stop.set()
		thread.join()
	assert others
	# Quiet now: what is called as often as the server itself counts gets and sets.
	up.attach(p.pid)
	made = wait_for(up.settled)["made"]
	up.switch('{ resource.service.name = "memcached" && name =~ "memcached.*" }')
	was = client.stats()
	work(150)
	now = client.stats()
	gets, sets = (int(now[k]) - int(was[k]) for k in ("cmd_get", "cmd_set"))
	assert (gets, sets) == (200, 150)
	up.all_off()
	account = wait_for(up.settled)
	assert account["made"] > made
	counts = {name: up.stored(f'{{ resource.service.name = "memcached" && name = "{name}" }}') for name in names}
	assert sets in counts.values() and gets in counts.values(), counts
	up.detach(p.pid)
	assert not changed(before, p.pid)
	work(10)


# ---- PostgreSQL -------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def postgres(tmp_path_factory, serve):
	bins = sorted(glob.glob("/usr/lib/postgresql/*/bin"))
	if not bins:
		pytest.skip("not installed: postgresql")
	bin_, where = bins[-1], tmp_path_factory.mktemp("pg")
	as_user = []
	if os.geteuid() == 0:  # it refuses root
		as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups", "--reset-env"]
		shutil.chown(where, "postgres", "postgres")
		open_to_others(where.parent)
	data, port = str(where / "data"), free_port()
	run(*as_user, f"{bin_}/initdb", "-D", data, "-A", "trust", "-U", "postgres", "--no-sync", "--no-locale", "-E", "UTF8")
	p = serve([*as_user, f"{bin_}/postgres", "-D", data, "-c", "listen_addresses=127.0.0.1", "-c", f"port={port}", "-c", f"unix_socket_directories={where}", "-c", "fsync=off", "-c", "autovacuum=off",
		"-c", "shared_buffers=16MB"], stop=signal.SIGQUIT, stderr=subprocess.DEVNULL)
	psql = [f"{bin_}/psql", "-h", str(where), "-p", str(port), "-U", "postgres", "-X", "-q", "-A", "-t", "postgres"]
	wait_for(lambda: subprocess.run([*psql, "-c", "select 1"], capture_output=True, text=True).stdout == "1\n")

	class Postgres:
		postmaster = p.pid
		uri, tcp = f"postgresql:///postgres?host={where}&port={port}&user=postgres", port
		pgbench = [f"{bin_}/pgbench", "-h", str(where), "-p", str(port), "-U", "postgres", "-n"]

		class Session:
			"""One backend, and what it answers."""

			def __init__(self):
				self.proc = serve(psql, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
				self.pid = int(self.ask("select pg_backend_pid()"))

			def ask(self, sql):
				self.proc.stdin.write(sql + ";\n")
				self.proc.stdin.flush()
				return self.proc.stdout.readline().rstrip("\n")

		@staticmethod
		def sql(text):
			return run(*psql, "-c", text).strip()
	return Postgres


def test_postgresql_backends(klieg_up, postgres, serve, tmp_path):
	up = klieg_up
	run(*postgres.pgbench, "-i", "-s", "1", "postgres")
	s = postgres.Session()
	before = text_of(s.pid)
	a = up.attach(s.pid)
	assert a["service"] == "postgres" and a["hookable"] > 9000, a
	on(up, "postgres", "pg_parse_query", "PortalRun")
	for i in range(300):
		assert s.ask(f"select {i} * count(*) from pg_class where relname = 'pg_class'") == str(i)
	account = counted(up, "postgres", {"pg_parse_query": 300, "PortalRun": 300})
	doc = None
	asking = threading.Event()

	def load():
		while not asking.is_set():
			s.ask("select sum(abalance) from pgbench_accounts")
	thread = threading.Thread(target=load)
	thread.start()
	try:
		lit(up, "PortalRun", lambda graph, names: [n for n in names if ("Executor" in n or "Portal" in n) and n != "PortalRun"], "--for", "1s")
	finally:
		asking.set()
		thread.join()
	up.detach(s.pid)
	up.all_off()
	assert not changed(before, s.pid)
	assert s.ask("select 6 * 7") == "42"
	# A backend in the middle of pgbench's transactions.
	(tmp_path / "script.sql").write_text("update pgbench_accounts set abalance = abalance + 1 where aid = 1;\n")
	bench = serve([*postgres.pgbench, "-f", str(tmp_path / "script.sql"), "-t", "1000000", "postgres"])
	pid = int(wait_for(lambda: postgres.sql("select pid from pg_stat_activity where application_name = 'pgbench'")))
	before = text_of(pid)
	cycles(up, pid, "postgres", ["PortalRun", "standard_ExecutorRun"], before, lambda: bench.poll() is None)
	up.attach(pid)
	on(up, "postgres", "PortalRun", keep=0.01)
	value = lambda: int(postgres.sql("select abalance from pgbench_accounts where aid = 1"))
	n = value()
	wait_for(lambda: value() > n + 50)
	up.all_off()
	up.detach(pid)
	assert not changed(before, pid) and bench.poll() is None
	bench.terminate()


def test_a_postmaster_and_the_backends_it_starts(klieg_up, postgres, serve):
	up = klieg_up
	before = text_of(postgres.postmaster)
	up.attach(postgres.postmaster)
	on(up, "postgres", "PortalRun")
	sessions = [postgres.Session() for _ in range(3)]
	for s in sessions:  # forked from an armed process: each is its own, and known before long
		wait_for(lambda: s.ask("select 1") == "1" and [p for p in up.get("/processes")["processes"] if p["pid"] == s.pid and p["on"]])
	wait_for(up.settled)
	n = spans(up, "postgres", "PortalRun")
	for s in sessions:
		for i in range(50):
			assert s.ask(f"select {i} + 1") == str(i + 1)
	wait_for(lambda: spans(up, "postgres", "PortalRun") == n + 150)
	up.all_off()
	for s in sessions:
		up.detach(s.pid)
		assert not changed(before, s.pid)
		assert s.ask("select 2") == "2"
	up.detach(postgres.postmaster)
	assert not changed(before, postgres.postmaster)
	assert postgres.Session().ask("select 3") == "3"


# ---- Python ---------------------------------------------------------------------------------------------------------------------------------


SCRIPT = """
import os, sys
print("ready", flush=True)
for line in sys.stdin:
	n = len(line) * 100
	total = 0
	for i in range(n):
		total += int(str(i)) + len(str(i)) + (os.getpid() > 0)
	print(n, total, flush=True)
"""


@needs("/usr/bin/python3")
def test_python(klieg_up, spawn):
	up = klieg_up
	p = spawn(["/usr/bin/python3", "-S", "-c", SCRIPT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
	assert p.stdout.readline() == "ready\n"

	def ask(line):
		p.stdin.write(line + "\n")
		p.stdin.flush()
		return p.stdout.readline()
	plain = ask("xxxx")
	before = text_of(p.pid)
	service = os.path.basename(os.readlink(f"/proc/{p.pid}/exe"))
	a = up.attach(p.pid)
	service = a["service"]
	assert service.startswith("python3") and a["hookable"] > 1000, a
	on(up, service, "PyLong_FromUnicodeObject", "PyLong_FromString")
	assert ask("xxxx") == plain
	n = int(plain.split()[0])
	counted(up, service, {"PyLong_FromUnicodeObject": n, "PyLong_FromString": n})
	up.all_off()
	stop, wrong = threading.Event(), []

	def load():
		while not stop.is_set():
			if ask("xxxx") != plain:
				wrong.append(True)
	thread = threading.Thread(target=load)
	thread.start()
	try:
		lit(up, "PyNumber_Long", lambda graph, names: "PyLong_FromUnicodeObject" in names, "--for", "1s")
		up.detach(p.pid)
		assert not changed(before, p.pid)
		cycles(up, p.pid, service, ["_PyEval_EvalFrameDefault", "PyLong_FromString"], before, lambda: p.poll() is None)
	finally:
		stop.set()
		thread.join()
	assert not wrong and ask("xxxx") == plain
	p.stdin.close()
	assert p.wait(20) == 0
