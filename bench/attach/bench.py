#!/usr/bin/python3
"""bench/attach/bench.py BUILD: what attaching costs, beside uftrace and bpftrace in the same run, and redis under its own load. Needs root (ptrace, uprobes).
Prints `name value unit note`."""
import contextlib
import glob
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

BUILD = os.path.abspath(sys.argv[1])
KLIEG = next(p for p in (f"{BUILD}/klieg", f"{BUILD}/src/klieg") if os.path.exists(p))
SUBJECT = f"{BUILD}/bench/attach/attach_subject"
DIR = tempfile.mkdtemp(prefix="klieg-bench-")
REQUESTS = 200000
procs = []


def start(cmd, **kw):
	kw.setdefault("stdin", subprocess.DEVNULL)
	kw.setdefault("stdout", subprocess.DEVNULL)
	p = subprocess.Popen(cmd, text=True, **kw)
	procs.append(p)
	return p


def say(name, value, unit, note=""):
	print(f"{name} {value:.4g} {unit} {note}".rstrip(), flush=True)


def wait_for(what, seconds=20):
	end = time.monotonic() + seconds
	while not what():
		if time.monotonic() > end:
			sys.exit(f"bench/attach: not within {seconds} s")
		time.sleep(0.01)


def ask(method, path, body=None):
	r = urllib.request.Request(HTTP + "/api/v1" + path, data=json.dumps(body).encode() if body is not None else None, method=method,
		headers={"Content-Type": "application/json"})
	with urllib.request.urlopen(r, timeout=60) as answer:
		return json.load(answer)


def attach(pid, **more):
	return ask("POST", "/attachments", {"pid": pid, **more})["attachments"][0]


def on(selector, **more):
	answer = ask("POST", "/toggles", {"selector": selector, "estimate": "0s", "ttl": "10m", **more})
	assert not answer["plan"].get("warning"), answer["plan"]["warning"]
	return answer


def off():
	ask("DELETE", "/toggles?all=true")


def subject(path=SUBJECT):
	p = start([path], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
	p.stdout.readline()
	return p


def measure(p):
	p.stdin.write("\n")
	p.stdin.flush()
	line = p.stdout.readline()
	if not line:
		sys.exit(f"bench/attach: the measured program is gone: {p.wait()}")
	return [float(x) for x in line.split()]


def entry_and_exit():
	mine, plain = subject(), subject()
	attach(mine.pid)
	on("attach_subject:traced")
	alone = statistics.median(measure(mine)[0] for _ in range(5))
	on("attach_subject:batch")
	peers = {}
	if shutil.which("bpftrace"):
		# A copy: the kernel puts a uprobe into every process that runs the file, over whatever is there.
		other = shutil.copy(SUBJECT, f"{DIR}/attach_subject_probed")
		probed = subject(other)
		b = start(["bpftrace", "-p", str(probed.pid), "-e", f"uprobe:{other}:traced {{ @in = count(); }} uretprobe:{other}:traced {{ @out = count(); }}"],
			stderr=subprocess.DEVNULL)
		wait_for(lambda: measure(probed)[0] > 300 or b.poll() is not None, 60)
		if b.poll() is None:
			peers["uprobe_uretprobe"] = lambda: measure(probed)
	if shutil.which("uftrace"):
		def uftrace():
			r = subprocess.run(["uftrace", "record", "-P", "traced", "--no-libcall", "-d", f"{DIR}/uftrace", SUBJECT, "1"], capture_output=True, text=True)
			return [float(x) for x in r.stdout.split()[-2:]] if r.returncode == 0 else [float("nan")] * 2
		peers["uftrace_dynamic"] = uftrace
	rows = []
	for _ in range(9):  # in alternation: machines are noisy
		ns, reference = measure(mine)
		rows.append((ns, reference, measure(plain)[0], {k: v()[0] for k, v in peers.items()}))
	middle = statistics.median
	dropped = ask("GET", "/doctor")["account"]["dropped"]
	floor, ns = middle(r[1] for r in rows), middle(r[0] for r in rows)
	say("attach_function_detached", middle(r[2] for r in rows), "ns", "entry+exit,less_an_untouched_twin")
	say("attach_floor", floor, "ns", "2_rdtsc,32_B_store")
	say("attach_function_on", ns, "ns", f"entry+exit,{middle(r[0] / r[1] for r in rows):.2f}x_floor(bar<=40ns_or_2x)")
	say("attach_function_on_root", alone, "ns", "each_call_a_trace_of_its_own")
	for name in peers:
		say(f"attach_{name}", middle(r[3][name] for r in rows), "ns", "entry+exit")
		say(f"attach_cheaper_than_{name}", middle(r[3][name] / r[0] for r in rows), "x", "median_of_9_pairs(bar>=%d)" % (3 if name == "uftrace_dynamic" else 20))
	say("attach_lost_meanwhile", sum(v for v in dropped.values()), "spans")
	off()


def redis():
	if not shutil.which("redis-benchmark"):
		print("# redis is not installed: no figures for it")
		return
	attach_pause, load, toggle = [], [], []
	for i in range(4):
		sock = f"{DIR}/redis{i}.sock"
		server = start(["redis-server", "--port", "0", "--unixsocket", sock, "--save", "", "--dir", DIR])
		wait_for(lambda: os.path.exists(sock))
		background = start(["redis-benchmark", "-s", sock, "-q", "-c", "20", "-t", "set,get", "-l", "-n", "10000"])
		a = attach(server.pid)
		attach_pause.append(a["pause_nano"] / 1e6)
		load.append(a["load_nano"] / 1e6)
		for _ in range(5):
			for name in ("processCommand", "call"):
				toggle.append(on(f"redis-server:{name}", keep=0.01)["plan"]["pause_nano"] / 1e6)
			off()
		background.kill()
		background.wait()
		if i < 3:
			server.kill()
	say("attach_redis_pause", max(attach_pause), "ms", "longest_of_4,under_redis-benchmark(bar<=2)")
	say("attach_redis_pause_median", statistics.median(attach_pause), "ms")
	say("attach_redis_arm_pause", max(toggle), "ms", f"longest_of_{len(toggle)},median_{statistics.median(toggle):.3f}")
	say("attach_redis_load", statistics.median(load), "ms", "while_it_runs_on")
	throughput(server, sock, {"traced": {}, "traced_keep_10_percent": {"keep": 0.1}, "counted": {"level": "count"}}, "every_call_recorded,klieg_shares_its_core")
	throughput(server, sock, {"traced_beside": {}}, "every_call_recorded,klieg_on_a_core_of_its_own(bar>=95)", apart=True)
	server.kill()


def redis_as_delivered():
	"""The same with the budget that Klieg has unless somebody says otherwise."""
	if not shutil.which("redis-benchmark"):
		return
	sock = f"{DIR}/redis-delivered.sock"
	server = start(["redis-server", "--port", "0", "--unixsocket", sock, "--save", "", "--dir", DIR])
	wait_for(lambda: os.path.exists(sock))
	attach(server.pid)
	throughput(server, sock, {"traced_as_delivered": {}}, "budget_1_%(bar>=95)")
	server.kill()


def throughput(server, sock, modes, note, apart=False):
	"""What redis does with two of its functions switched on, each time beside a run of its own without. apart: redis and its client have the first
	core, Klieg another: what tracing costs in the process, not what is done with the records."""
	cpus = sorted(os.sched_getaffinity(0))
	apart = apart and len(cpus) > 1
	for pid, mine in ((server.pid, cpus[:1]), (UP.pid, cpus[1:])):
		subprocess.run(["taskset", "-a", "-p", "-c", ",".join(map(str, mine if apart else cpus)), str(pid)], check=True, stdout=subprocess.DEVNULL)
	bench = ["redis-benchmark", "-s", sock, "-q", "-c", "20", "-t", "get", "-n", str(REQUESTS), "--csv"]
	if apart:
		bench = ["taskset", "-c", str(cpus[0]), *bench]

	def rate():
		return float(subprocess.run(bench, capture_output=True, text=True, check=True).stdout.splitlines()[-1].split(",")[1].strip('"'))

	def made():
		return ask("GET", "/status")["account"]["made"]
	rate()
	rows, recorded = [], {mode: [] for mode in modes}
	for _ in range(7):
		row = {}
		for mode, how in modes.items():
			row["untraced"] = rate()
			on("redis-server:processCommand", **how)
			on("redis-server:call", **how)
			before = made()
			row[mode] = rate() / row["untraced"]
			recorded[mode].append(100 * (made() - before) / (2 * REQUESTS))
			off()
		rows.append(row)
	say(f"attach_redis_untraced{'_on_one_core' if apart else ''}", statistics.median(r["untraced"] for r in rows), "requests/s")
	for mode in modes:
		all = sorted(100 * r[mode] for r in rows)
		say(f"attach_redis_two_functions_{mode}", statistics.median(all), "%",
			f"of_untraced,median_of_7_pairs({all[0]:.0f}..{all[-1]:.0f}),{statistics.median(recorded[mode]):.0f}_%_of_the_calls_recorded" +
			("," + note if mode.startswith("traced") and "keep" not in mode else ""))


def thousand():
	p = start([f"{BUILD}/tests/targets/many"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
	p.stdout.readline()
	attach(p.pid)
	pauses, whole = [], []
	for _ in range(7):
		answer = on('{ resource.service.name = "many" && name =~ "f[0-9]+" }', level="count")
		assert answer["plan"]["instances"] == 1000, answer["plan"]["instances"]
		pauses.append(answer["plan"]["pause_nano"] / 1e6)
		whole.append(answer["ack_nano"] / 1e6)
		off()
	say("attach_arm_1000_functions", statistics.median(pauses), "ms", f"process_stopped(bar<=10)")
	say("attach_arm_1000_functions_whole", statistics.median(whole), "ms", f"until_acknowledged,the_first_with_stubs_{whole[0]:.1f}")


def postgres():
	bins = sorted(glob.glob("/usr/lib/postgresql/*/bin"))
	if not bins:
		print("# PostgreSQL is not installed: no figure for it")
		return
	data = f"{DIR}/pg"
	os.chmod(DIR, 0o755)
	os.mkdir(data)
	as_user = []
	if os.geteuid() == 0:
		shutil.chown(data, "postgres", "postgres")
		as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups", "--reset-env"]
	subprocess.run([*as_user, f"{bins[-1]}/initdb", "-D", f"{data}/d", "-A", "trust", "--no-sync", "--no-locale"], check=True, capture_output=True, cwd="/")
	p = start([*as_user, f"{bins[-1]}/postgres", "--single", "-D", f"{data}/d", "postgres"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd="/")
	p.stdout.readline()
	a = attach(p.pid)
	say("attach_scan_postgres", a["scan_nano"] / 1e6, "ms", f"{a['functions']}_functions,{100 * a['hookable'] / a['functions']:.2f}_%_hookable(bar<=500)")
	p.stdin.close()
	p.wait(20)


@contextlib.contextmanager
def klieg(name, *args):
	global HTTP, UP
	UP = start([KLIEG, "up", *args, "--dir", f"{DIR}/{name}", "--http", "127.0.0.1:0", "--otlp-http", "127.0.0.1:0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
	HTTP = re.search(r"http=(\S+)", UP.stdout.readline())[1]
	HTTP = HTTP if HTTP.startswith("http") else "http://" + HTTP
	yield
	UP.send_signal(signal.SIGTERM)
	with contextlib.suppress(subprocess.TimeoutExpired):
		UP.wait(15)


try:
	with klieg("free", "--budget", "0"):
		entry_and_exit()
		thousand()
		postgres()
		redis()
	with klieg("delivered"):
		redis_as_delivered()
finally:
	for p in reversed(procs):
		p.kill()
		p.wait()
	shutil.rmtree(DIR, ignore_errors=True)
