"""Steering from the command line: policies as code, toggles that reach fewer or more, everything off and back; and what the command line says when server, agent or
services are killed in the middle of a rollout."""
import glob
import json
import os
import pty
import re
import signal
import subprocess
import urllib.parse

import pytest
from conftest import KLIEG, TOP, Up, wait_for
from test_remote import Server, agent

PROGRAM = r"""
#define KLIEG_COMPONENT "pay"
#include <klieg/klieg.h>
#include <stdio.h>
#include <unistd.h>
static void book(void) { KLIEG_SPAN("pay.book"); usleep(300); }
static void charge(const char *tenant) { KLIEG_SERVER_SPAN_AS(s, "POST /charge", KLIEG_STR("http.route", "/charge"), KLIEG_STR("tenant", tenant)); book(); }
static void refund(const char *tenant) { KLIEG_SERVER_SPAN_AS(s, "POST /refund", KLIEG_STR("http.route", "/refund"), KLIEG_STR("tenant", tenant)); book(); }
int main(void)
{
	char tenant[4];
	klieg_init(0);
	puts("ready");
	fflush(stdout);
	for (int i = 0;; i++) {
		snprintf(tenant, sizeof tenant, "%d", i % 10);
		(i / 10 % 4 ? charge : refund)(tenant);
		usleep(1000);
	}
}
"""
POLICY = """policy: pay
rules:
  - name: charges
    match: '{{ resource.service.name = "pay" && name = "POST /charge" }}'
    level: {level}
"""
STEPS = POLICY + "    rollout: [1 process, 50%, 100%]\n"


def start(up, spawn, cc, n=1, socket=None):
	procs = []
	for _ in range(n):
		p = spawn([cc(PROGRAM)], env={**up.env, **({"KLIEG_SOCKET": socket} if socket else {}), "OTEL_SERVICE_NAME": "pay"}, stdout=subprocess.PIPE)
		p.stdout.readline()
		procs.append(p)
	wait_for(lambda: {p.pid for p in procs} <= {x["pid"] for x in rows(up) if x["sites"] >= 3})
	return procs


def rows(up):
	return up.cli("ps", json_out=True, check=False).get("processes", [])


def on(up):
	"""Sites that are on, per live process."""
	return {x["pid"]: x["on"] for x in rows(up) if x["state"] == "live"}


def tracing(up, procs):
	"""Which of the processes have made spans of charges during the last second."""
	def made(p):
		q = urllib.parse.urlencode({"q": f'{{ name = "POST /charge" && resource.process.pid = {p.pid} }}', "since": "1s", "limit": 1})
		return up.get("/spans?" + q)["matched"]
	return {p.pid for p in procs if made(p)}


@pytest.fixture
def write(tmp_path):
	def to(name, text):
		(tmp_path / name).write_text(text)
		return str(tmp_path / name)
	return to


@pytest.fixture
def pay(klieg_up, spawn, cc):
	start(klieg_up, spawn, cc)
	return klieg_up


def apply(up, path, *args, check=True, **kw):
	return up.cli("policy", "apply", path, "--reason", "why not", *args, check=check, **kw)


def text_of(up, name="pay"):
	return up.cli("policy", "show", name).stdout


# ---- check and plan ----


def test_check_points_at_the_place_with_the_words_of_the_server(klieg_up, write):
	bad = POLICY.format(level="spam") + "    kepe: 10%\n"
	path = write("bad.yaml", bad)
	r = klieg_up.cli("policy", "check", path, check=False)
	assert r.returncode == 1 and r.stdout == ""
	assert f"{path}:5:12: error[P140]: " in r.stderr
	assert "    5 |     level: spam\n      |            ^~~~\n" in r.stderr
	assert f"{path}:6:5: error[P111]: " in r.stderr and "keep" in r.stderr
	told = klieg_up.request("POST", "/api/v1/policies/check", {"text": bad})[1]["diagnostics"]
	assert len(told) == 2
	for d in told:
		assert f"{path}:{d['line']}:{d['column']}: {d['severity']}[{d['code']}]: {d['message']}\n" in r.stderr
		assert d["hint"] in r.stderr
	doc = klieg_up.cli("policy", "check", path, json_out=True)
	assert doc["version"] == 1 and doc["files"][0]["diagnostics"] == told and doc["files"][0]["ok"] is False
	good = klieg_up.cli("policy", "check", write("good.yaml", POLICY.format(level="span")))
	assert "pay is a policy of 1 rule and 0 limits" in good.stdout
	# The place of an error in the second document of a stream is its place in the stream.
	both = write("both.yaml", POLICY.format(level="span") + "---\n" + bad)
	assert f"{both}:11:12: error[P140]: " in klieg_up.cli("policy", "check", both, check=False).stderr


def test_check_of_hostile_files_is_an_answer(klieg_up, write, tmp_path):
	assert klieg_up.cli("policy", "check", "/no/such/file", check=False).returncode == 2
	(tmp_path / "binary").write_bytes(bytes(range(256)))
	assert "not UTF-8" in klieg_up.cli("policy", "check", str(tmp_path / "binary"), check=False).stderr
	r = klieg_up.cli("policy", "check", write("empty", ""), check=False)
	assert r.returncode == 1 and "error[P104]" in r.stderr
	r = klieg_up.cli("policy", "check", write("long", "policy: x\n#" + "x" * (1 << 20)), check=False)
	assert r.returncode in (1, 2) and re.search(r"error\[(P100|E105)\]", r.stderr)
	r = klieg_up.cli("policy", "check", write("wide", "policy: " + "é" * 100000), check=False)
	assert r.returncode == 1 and len(r.stderr) < 5000
	r = klieg_up.cli("policy", "plan", write("bad.yaml", POLICY.format(level="spam")), check=False)
	assert r.returncode == 1 and "error[P140]" in r.stderr and r.stdout == ""


def test_check_without_a_server_says_who_judges(tmp_path, write):
	r = subprocess.run([KLIEG, "policy", "check", write("x.yaml", POLICY.format(level="span"))], env={**os.environ, "KLIEG_DIR": str(tmp_path)}, capture_output=True, text=True)
	assert r.returncode == 3 and "judged by the server" in r.stderr and "klieg up" in r.stderr


def test_every_code_is_explained():
	codes = set()
	for path in glob.glob(f"{TOP}/src/policy/*.c") + glob.glob(f"{TOP}/src/server/*.c"):
		codes |= set(re.findall(r'"(P\d{3})"', open(path).read()))
	assert len(codes) > 20
	for code in sorted(codes):
		r = subprocess.run([KLIEG, "help", code], capture_output=True, text=True)
		assert r.returncode == 0 and r.stdout.startswith(code + ": "), code


def test_plan_shows_what_would_change_and_changes_nothing(pay, write):
	pay.cli("on", "pay:*", "--level", "count", "--ttl", "5m")
	pay.cli("on", "pay:*", "--ttl", "1s")
	wait_for(lambda: pay.stored('{ name = "POST /charge" }') > 50)
	wait_for(lambda: all(t["level"] == "count" for t in pay.get("/toggles")["toggles"]))
	path = write("pay.yaml", POLICY.format(level="span"))
	r = pay.cli("policy", "plan", path)
	assert re.search(r"pay:POST /charge +count -> span  in 1 process$", r.stdout, re.M), r.stdout
	m = re.search(r"would have kept ([\d,]+) of ([\d,]+) traces, .*/day", r.stdout)
	kept, of = (int(x.replace(",", "")) for x in m.groups())
	assert 0 < kept < of
	assert re.search(r"predicted: ~.* spans/s, .* CPU.*; budget 1.00 %: fits", r.stdout)
	assert "nothing was changed" in r.stdout
	assert pay.get("/policies")["policies"] == []
	doc = pay.cli("policy", "plan", path, json_out=True)
	assert doc["version"] == 1 and doc["changed"] == 1 and doc["fits"] is True


HOT = r"""
#define KLIEG_COMPONENT "hot"
#include <klieg/klieg.h>
#include <stdio.h>
int main(void)
{
	klieg_init(0);
	puts("ready");
	fflush(stdout);
	for (unsigned long i = 0;; i++) { KLIEG_SPAN("hot.inner"); }
}
"""


def test_a_plan_that_does_not_fit_the_budget_is_not_applied(klieg_up, spawn, cc, write):
	p = spawn([cc(HOT)], env={**klieg_up.env, "OTEL_SERVICE_NAME": "hot"}, stdout=subprocess.PIPE)
	p.stdout.readline()
	wait_for(lambda: [x for x in rows(klieg_up) if x["pid"] == p.pid and x["sites"]])
	path = write("hot.yaml", POLICY.format(level="detail").replace("pay", "hot").replace(' && name = "POST /charge"', ""))
	r = klieg_up.cli("policy", "plan", path, check=False)
	assert r.returncode == 6 and "budget 1.00 %: does NOT fit" in r.stdout, r.stdout
	r = apply(klieg_up, path, check=False)
	assert r.returncode == 6 and "error[E600]" in r.stderr and "--force" in r.stderr
	assert klieg_up.get("/policies")["policies"] == [] and on(klieg_up) == {p.pid: 0}
	assert apply(klieg_up, path, "--force").returncode == 0
	# The governor holds it all the same, and says what it took back.
	wait_for(lambda: "hot.inner" in klieg_up.cli("overhead").stdout.split("SHED")[1].split("CALLS/S")[0])


def test_plans_of_policies_that_say_too_little(pay, write):
	r = pay.cli("policy", "plan", write("none.yaml", POLICY.format(level="span").replace("POST /charge", "no.such")))
	assert "matches no site" in r.stdout
	both = POLICY.format(level="detail") + "limits:\n  - match: '{ }'\n    level: count\n"
	assert "warning[P202]" in pay.cli("policy", "check", write("both.yaml", both)).stderr
	every = POLICY.format(level="span").replace('{ resource.service.name = "pay" && name = "POST /charge" }', "{ }")
	assert "warning[P205]" in pay.cli("policy", "check", write("every.yaml", every)).stderr


# ---- versions ----


def test_a_policy_from_file_to_history_and_back(pay, write):
	path = write("pay.yaml", POLICY.format(level="span"))
	r = apply(pay, path)
	assert re.search(r"pay version 1 is in force: acknowledged in ", r.stdout)
	wait_for(lambda: pay.stored('{ name = "POST /charge" }') > 10)
	assert text_of(pay) == POLICY.format(level="span")
	assert "nothing was changed" in apply(pay, path).stdout
	ls = pay.cli("policy", "ls").stdout
	assert re.search(r"^pay +1 +active +1 +1 ", ls, re.M) and "why not" in ls
	assert "pay\t" in pay.cli("completion", "words", "--", "policy", "show").stdout

	second = write("pay.yaml", POLICY.format(level="detail") + "    keep: 50%\n")
	r = pay.cli("policy", "diff", second, check=False)
	assert r.returncode == 1 and "-     level: span\n+     level: detail\n+     keep: 50%\n" in r.stdout
	apply(pay, second)
	assert pay.cli("policy", "diff", second).returncode == 0
	r = pay.cli("policy", "diff", "pay", "1", "2", check=False)
	assert r.returncode == 1 and "-     level: span\n+     level: detail\n" in r.stdout and re.search(r"rule charges: .*level span -> detail", r.stdout)

	for args in (["ls"], ["show", "pay"], ["diff", "pay"], ["diff", second], ["history", "pay"], ["export"], ["export", "pay"], ["plan", second], ["check", second]):
		assert pay.cli("policy", *args, json_out=True)["version"] == 1, args  # the document's
	assert pay.cli("policy", "show", "pay", json_out=True)["policy_version"] == 2

	r = pay.cli("policy", "rollback", "pay", "--reason", "too much")
	assert "pay is rolled back: version 3" in r.stdout and text_of(pay) == POLICY.format(level="span")
	history = pay.cli("policy", "history", "pay").stdout
	assert [re.search(rf"^{v} +(\S+)", history, re.M)[1] for v in (1, 2, 3)] == ["apply", "apply", "rollback"] and "too much" in history
	pay.cli("policy", "off", "pay", "--reason", "over")
	wait_for(lambda: set(on(pay).values()) == {0})
	assert re.search(r"^pay +4 +off", pay.cli("policy", "ls").stdout, re.M)
	r = pay.cli("policy", "show", "payx", check=False)
	assert r.returncode == 1 and "did you mean: pay" in r.stderr


def test_two_operators_at_once(pay, write):
	path = write("ann.yaml", POLICY.format(level="count"))
	apply(pay, path)
	other = write("bob.yaml", POLICY.format(level="span"))
	pay.cli("policy", "apply", other, "--reason", "bob was faster")
	mine = write("ann.yaml", POLICY.format(level="detail"))
	r = apply(pay, mine, "--expect", "1", check=False)
	assert r.returncode == 2 and "error[E209]" in r.stderr, r.stderr
	assert "version 2" in r.stderr and "bob was faster" in r.stderr and "klieg policy diff pay" in r.stderr
	assert text_of(pay) == POLICY.format(level="span")
	assert apply(pay, mine, "--expect", "2").returncode == 0
	r = apply(pay, mine, "--expect", "0", check=False)
	assert r.returncode == 2 and "error[E209]" in r.stderr


def test_apply_asks_a_person(pay, write):
	path = write("pay.yaml", POLICY.format(level="span"))
	for answer, status in (("n", 1), ("y", 0)):
		person, terminal = pty.openpty()
		p = subprocess.Popen([KLIEG, "policy", "apply", path], env={**pay.env, "TERM": "xterm"}, stdin=terminal, stdout=subprocess.PIPE, stderr=terminal, text=True)
		os.close(terminal)
		asked = b""
		while b"y/n" not in asked:
			asked += os.read(person, 1000)
		assert b"apply pay as a new policy?" in asked and pay.get("/policies")["policies"] == []
		os.write(person, answer.encode() + b"\n")
		assert p.wait(20) == status and (status == 0) == bool(pay.get("/policies")["policies"])
		assert "pay:POST /charge" in p.stdout.read()
		p.stdout.close()
		os.close(person)


def test_export_and_apply_are_a_round_trip(pay, write, tmp_path):
	first, second = "# why: INC-7\n" + POLICY.format(level="span"), POLICY.format(level="count").replace("policy: pay", "policy: other")
	apply(pay, write("a.yaml", first))
	apply(pay, write("b.yaml", second))
	path = write("all.yaml", pay.cli("policy", "export").stdout)
	assert pay.cli("policy", "export", "other").stdout == second
	fresh = Up(tmp_path / "fresh")
	try:
		fresh.cli("policy", "apply", path, "--reason", "moved")
		assert text_of(fresh, "pay") == first and text_of(fresh, "other") == second
		assert fresh.cli("policy", "export").stdout == pay.cli("policy", "export").stdout
	finally:
		fresh.stop()


def test_the_schema_is_one_that_editors_take(klieg_up):
	schema = klieg_up.cli("policy", "schema")
	assert json.loads(schema.stdout)["$schema"].startswith("https://json-schema.org/")
	assert klieg_up.request("GET", "/policy.schema.json")[1] == json.loads(schema.stdout)


# ---- toggles ----


def test_a_toggle_for_a_tenant_an_endpoint_and_back(pay):
	r = pay.cli("on", "--service", "pay", "--tenant", "7", "--level", "detail", "--ttl", "5m", "--reason", "INC-7")
	ident = re.search(r"klieg off (t-\w+)", r.stdout)[1]
	wait_for(lambda: pay.stored('{ .tenant = "7" && name = "POST /refund" }') > 3)
	assert pay.stored('{ .tenant != "7" }') == 0
	r = pay.cli("narrow", ident, "--endpoint", "/charge")
	assert '.http.route = "/charge"' in r.stdout and '.tenant = "7"' in r.stdout
	wait_for(lambda: pay.stored('{ .tenant = "7" && name = "POST /charge" }') > 20)
	refunds = wait_for(lambda: (n := pay.stored('{ name = "POST /refund" }')) and n)
	before = pay.stored('{ name = "POST /charge" }')
	wait_for(lambda: pay.stored('{ name = "POST /charge" }') > before + 20)
	assert pay.stored('{ name = "POST /refund" }') <= refunds + 1
	r = pay.cli("narrow", ident, "--tenant", "*", check=False)
	assert r.returncode == 2 and f"klieg widen {ident} --tenant" in r.stderr
	pay.cli("widen", ident, "--tenant", "*")
	wait_for(lambda: pay.stored('{ .tenant = "3" && name = "POST /charge" }') > 0)
	t = pay.get("/toggles")["toggles"]
	assert len(t) == 1 and t[0]["id"] == ident and t[0]["reason"] == "INC-7" and ".tenant" not in t[0]["selector"]
	assert pay.cli("narrow", "t-nosuch", "--tenant", "7", check=False).returncode == 1


def test_a_toggle_for_a_share_of_the_processes_and_for_hosts(klieg_up, spawn, cc):
	start(klieg_up, spawn, cc, 6)
	instance = {x["pid"]: x["instance"] for x in rows(klieg_up)}
	assert len(set(instance.values())) == 6  # though they began at the same time
	share = sorted(instance.values())[2] + 1e-9  # three of the six
	r = klieg_up.cli("on", "pay:*", "--share", f"{share:.9f}", "--ttl", "5m")
	ident = re.search(r"klieg off (t-\w+)", r.stdout)[1]
	assert "in 3 processes" in r.stdout
	chosen = {p for p, i in instance.items() if i < share}
	assert {p for p, n in on(klieg_up).items() if n} == chosen
	klieg_up.cli("widen", ident, "--share", "100%")
	assert all(on(klieg_up).values())
	r = klieg_up.cli("narrow", ident, "--host", "no-such-host", check=False)  # would reach nothing: refused, and as it was
	assert r.returncode == 1 and "error[E204]" in r.stderr and "in 6 processes, none of them on those hosts" in r.stderr and all(on(klieg_up).values())
	r = klieg_up.cli("on", "pay:*", "--share", f"{min(instance.values()) * .99:.9f}", check=False)
	assert r.returncode == 1 and "in 6 processes, none of them in that share" in r.stderr and "a larger one" in r.stderr
	host = klieg_up.get("/status")["host"]
	assert f"on {host}" in klieg_up.cli("narrow", ident, "--host", host).stdout and all(on(klieg_up).values())
	assert f"on {host}" not in klieg_up.cli("widen", ident, "--host", "*").stdout.split("now")[1]
	assert klieg_up.cli("on", "pay:*", "--rate", "fast", check=False).returncode == 2
	assert klieg_up.cli("on", "pay:*", "--share", "200%", check=False).returncode == 2


def test_panic_and_undo(pay, write):
	apply(pay, write("pay.yaml", POLICY.format(level="span")))
	pay.cli("on", "pay.book", "--ttl", "5m")
	before = on(pay)
	assert set(before.values()) == {2}
	r = pay.cli("panic", "--reason", "latency is rising")
	assert "everything is off" in r.stdout and "acknowledged in" in r.stdout
	assert set(on(pay).values()) == {0}
	status = pay.cli("status").stdout
	assert "PANIC" in status and "latency is rising" in status
	assert re.search(r"^pay +1 +suspended", pay.cli("policy", "ls").stdout, re.M)
	r = apply(pay, write("pay.yaml", POLICY.format(level="detail")), check=False)
	assert r.returncode == 6 and "klieg panic --undo" in r.stderr
	assert set(on(pay).values()) == {0}
	pay.cli("panic", "--undo")
	wait_for(lambda: on(pay) == before)
	assert "PANIC" not in pay.cli("status").stdout


def test_a_token_for_one_request(pay):
	r = pay.cli("token", "--service", "pay", "--level", "detail", "--ttl", "1m")
	assert re.match(r"klieg-level: v1\.3\.[0-9a-f]+\.[0-9a-f]{32}\n$", r.stdout)
	on = pay.get("/toggles")["toggles"]
	assert [(t["selector"], t["scope"], t["level"]) for t in on] == [("*", "marked", "detail")] and on[0]["id"] in r.stderr and on[0]["expires_unix_nano"]
	r = pay.cli("token", "--service", "pay", "--ttl", "1h", check=False)
	assert r.returncode == 2 and "900s" in r.stderr
	assert pay.cli("token", check=False).returncode == 2


def test_what_there_is_to_look_at(pay):
	pay.cli("on", "pay:*", "--ttl", "5m")
	wait_for(lambda: "POST /charge" in pay.cli("overhead").stdout)
	doc = pay.cli("overhead", json_out=True)
	assert doc["budget_percent"] == 1 and doc["processes"][0]["service"] == "pay"
	assert pay.cli("alerts", json_out=True)["alerts"] == [] and "no alert" in pay.cli("alerts").stderr
	assert pay.cli("firings", json_out=True)["firings"] == []


# ---- a rollout, while things die ----


class Ended(AssertionError):
	pass


class Follower:
	"""`klieg policy apply` as an operator watches it."""

	def __init__(self, up, path, *args):
		self.proc = subprocess.Popen([KLIEG, "policy", "apply", path, "--reason", "in steps", "--yes", *args], env=up.env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
			stderr=subprocess.PIPE, text=True)
		self.lines = []

	def until(self, pattern):
		while not self.lines or not re.search(pattern, self.lines[-1]):
			line = self.proc.stderr.readline()
			if not line:
				raise Ended(f"ended without {pattern}: {self.lines}")
			self.lines.append(line)
		return self.lines[-1]

	def end(self, timeout=60):
		out, err = self.proc.communicate(timeout=timeout)
		self.lines += err.splitlines(True)
		return self.proc.returncode, "".join(self.lines)


def state(up):
	p = up.get("/policies")["policies"]
	return p and p[0]["state"]


@pytest.mark.waits
def test_a_rollout_as_it_is_shown(klieg_up, spawn, cc, write):
	procs = start(klieg_up, spawn, cc, 4)
	# On a busy machine chance may make the canary slower than the rest; then the rollout takes itself back, says so, and is tried again.
	for _ in range(4):
		f = Follower(klieg_up, write("pay.yaml", STEPS.format(level="span")), "--soak", "3s")
		try:
			for step, n in ((r"step 1 of 3: 1 process", 1), (r"step 2 of 3: 50", 2), (r"step 3 of 3: 100", 4)):
				f.until(step)
				assert len(wait_for(lambda: (t := tracing(klieg_up, procs)) and len(t) == n and t)) == n
		except Ended:
			pass
		rc, said = f.end()
		if rc == 0:
			break
		assert rc == 6 and re.search(r"rolled back: p99 is [\d.]+ ms, more than", said), said
	assert rc == 0 and "pay is in force everywhere" in said, said
	assert re.search(r"canary \(1 process\): overhead .*; the rest \(3 processes\): overhead .*: ok", said)
	assert state(klieg_up) == "active"

	# Ctrl-C leaves it running, and says how to stop it.
	f = Follower(klieg_up, write("pay.yaml", STEPS.format(level="detail")), "--soak", "5m")
	f.until(r"step 1 of 3")
	f.proc.send_signal(signal.SIGINT)
	rc, said = f.end()
	assert rc == 130 and "goes on without you" in said and "klieg policy stop pay" in said
	assert state(klieg_up) == "rolling_out"
	klieg_up.cli("policy", "stop", "pay", "--reason", "wait")
	assert state(klieg_up) == "stopped"
	assert "stopped" in klieg_up.cli("policy", "rollout", "pay", "--once").stdout
	doc = klieg_up.cli("policy", "rollout", "pay", "--once", json_out=True)
	assert doc["version"] == 1 and doc["policy_version"] > 1 and doc["state"] == "stopped"
	klieg_up.cli("policy", "rollback", "pay", "--reason", "no")
	assert state(klieg_up) == "active" and text_of(klieg_up) == STEPS.format(level="span")


@pytest.mark.waits
def test_a_service_dies_during_a_rollout(klieg_up, spawn, cc, write):
	procs = start(klieg_up, spawn, cc, 3)
	f = Follower(klieg_up, write("pay.yaml", STEPS.format(level="span")), "--soak", "3s")
	f.until(r"step 1 of 3")
	canary, = wait_for(lambda: tracing(klieg_up, procs))
	dead = next(p for p in procs if p.pid == canary)
	dead.kill()
	dead.wait()
	procs.remove(dead)
	rc, said = f.end()
	# Another process takes its place, or the rollout takes itself back: the command says which, and that is how it is.
	if rc == 0:
		assert "in force everywhere" in said
		wait_for(lambda: tracing(klieg_up, procs) == {p.pid for p in procs})
	else:
		assert rc == 6 and re.search(r"error\[E600\]: the rollout of pay was rolled back: \S", said), said
		wait_for(lambda: set(on(klieg_up).values()) == {0})
		assert re.search(r"auto_rollback", klieg_up.cli("policy", "history", "pay").stdout)


@pytest.mark.waits
def test_server_and_agent_die_during_a_rollout(tmp_path, spawn, cc, write):
	up = Server(tmp_path / "server")
	try:
		a, socket = agent(spawn, up, tmp_path / "agent")
		procs = start(up, spawn, cc, 3, socket)
		f = Follower(up, write("pay.yaml", STEPS.format(level="span")), "--soak", "3s")
		f.until(r"step 1 of 3")
		up.kill()
		f.until(r"the server does not answer.*keep to what they were told")
		up = Server(tmp_path / "server", http="127.0.0.1:" + re.search(r":(\d+)", up.http.split("//")[1])[1])
		f.until(r"the server is back")
		wait_for(lambda: rows(up))
		a.kill()
		a.wait()
		a, socket = agent(spawn, up, tmp_path / "agent")
		rc, said = f.end(90)
		if rc == 0:
			assert "in force everywhere" in said
			wait_for(lambda: tracing(up, procs) == {p.pid for p in procs})
		else:
			assert rc in (5, 6) and re.search(r"error\[E[56]00\]: the rollout of pay was (rolled back|stopped where it is): \S", said), said
			if rc == 6:
				wait_for(lambda: len(on(up)) == 3 and set(on(up).values()) == {0})
			assert re.search(r"auto_rollback|stopped", up.cli("policy", "history", "pay").stdout + up.cli("policy", "ls").stdout)
	finally:
		up.stop()
