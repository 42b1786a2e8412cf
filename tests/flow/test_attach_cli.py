"""klieg attach, detach, illuminate, run --attach, and ls, on, ps of functions, as people type them: what they print, where, and with which exit status."""
import json
import os
import re
import signal
import subprocess
import time
import tempfile

import pytest

from conftest import KLIEG, changed, text_of, wait_for
from test_remote import Server, agent

PROGRAM = r"""
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#define FUNCTION __attribute__((noinline, noipa)) static
volatile long sum;
FUNCTION long parse(const char *text, long size)
{
	long n = 0;
	for (long i = 0; i < size; i++)
		n += text[i % 16] * i;
	return n;
}
FUNCTION void send_reply(long n)
{
	for (int i = 0; i < 20000; i++)
		sum += n ^ i;
}
FUNCTION void handle(const char *text, long size)
{
	send_reply(parse(text, size));
	sum++;
}
FUNCTION void never(void)
{
	sum = 0;
}
__asm__(".text\n.globl tiny\n.type tiny,@function\ntiny:\nret\n.size tiny,.-tiny\n.byte 0\n");
int main(int argc, char **argv)
{
	if (argc > 1)
		prctl(PR_SET_NAME, argv[1]);
	if (argc > 2)
		never();
	puts("up");
	fflush(stdout);
	for (long i = 0;; i++) {
		handle("GET / HTTP/1.1\n", i % 10 ? 1000 : 50000);
		poll(NULL, 0, 1);
	}
}
"""


@pytest.fixture
def program(tmp_path, spawn):
	"""program(called=None) -> a running process that knows nothing of Klieg; its executable is plain-server."""
	(tmp_path / "p.c").write_text(PROGRAM)
	exe = str(tmp_path / "plain-server")
	subprocess.run(["gcc", "-O2", "-g", str(tmp_path / "p.c"), "-o", exe], check=True)

	def start(*args):
		p = spawn([exe, *args], stdout=subprocess.PIPE)
		assert p.stdout.readline() == b"up\n"
		return p
	start.exe = exe
	return start


def fails(up, status, code, *args):
	"""The error's text; nothing on stdout."""
	r = up.cli(*args, check=False)
	assert r.returncode == status and r.stderr.startswith(f"error[{code}]: ") and r.stdout == "", (args, r.returncode, r.stdout, r.stderr)
	assert up.cli("help", code).stdout.startswith(f"{code}: ")
	return r.stderr


def test_the_way_of_an_operator(klieg_up, program):
	up, p = klieg_up, program()
	text = text_of(p.pid)
	r = up.cli("attach", str(p.pid), "--check")
	assert f"process {p.pid} can be attached to\n  1 thread\n" == r.stdout and up.get("/processes")["processes"] == []
	r = up.cli("attach", "plain-server")
	assert r.stdout.startswith(f"attached to plain-server (process {p.pid}): ") and r.stderr == ""
	for part in ("  plain-server  ", "hookable, names from symtab, arguments from DWARF\n", "  paused    for ", "klieg ls 'plain-server:*'",
			"klieg illuminate FUNC --service plain-server", f"undo      klieg detach {p.pid}\n"):
		assert part in r.stdout, (part, r.stdout)
	assert not changed(text, p.pid)
	assert up.cli("attach", str(p.pid)).stdout.startswith(f"was attached already: plain-server (process {p.pid}): ")
	row = up.cli("ps").stdout.splitlines()
	assert row[0].split()[:4] == ["PID", "SERVICE", "STATE", "ATTACHED"] and row[1].split()[:4] == [str(p.pid), "plain-server", "live", "yes"]

	r = up.cli("ls", "plain-server:*a*")
	assert r.stdout.splitlines()[0].split() == ["SERVICE", "NAME", "KIND", "LEVEL", "PLACES", "HOOKABLE", "BYTES", "SOURCE"]
	assert any(x.split()[:6] == ["plain-server", "handle", "function", "off", "1", "yes"] for x in r.stdout.splitlines()), r.stdout
	assert "no: " in up.cli("ls", "tiny").stdout
	sites = up.cli("ls", "{ name =~ \"handle|tiny\" }", json_out=True)["sites"]
	handle, tiny = sorted(sites, key=lambda s: s["name"])
	assert handle["hookable"] and handle["size"] > 5 and handle["source"] == "symtab" and int(handle["address"], 16) and "hookable_text" not in handle
	assert not tiny["hookable"] and tiny["why"]

	r = up.cli("on", "plain-server:handle", "--where", "arg.2 > 4096", "--max-pause", "5ms", "--level", "detail")
	assert ": 1 site (1 place) in 1 process of plain-server, level detail\n" in r.stdout and "  paused    the program for " in r.stdout, r.stdout
	found = wait_for(lambda: up.get("/spans?since=1m&limit=1000")["spans"])
	assert {s["name"] for s in found} == {"handle"} and {s["attributes"]["arg.size"] for s in found} == {50000}, found[0]
	assert up.cli("off", "--all").returncode == 0 and not changed(text, p.pid)

	r = up.cli("detach", "plain-server")
	assert r.stdout.startswith(f"detached from plain-server, process {p.pid}: ") and r.stdout.endswith("; its text is what it was before\n") and r.stderr == ""
	assert not changed(text, p.pid)
	assert up.cli("ps").stdout.splitlines()[1].split()[3] == "parked"
	assert "nothing was attached to" in up.cli("detach", "--all").stderr
	assert p.poll() is None


def test_a_name_that_means_several_processes(klieg_up, program):
	up, one, two = klieg_up, program(), program("worker")
	e = fails(up, 2, "E208", "attach", "plain-server")
	assert f"2 processes are called 'plain-server': {one.pid} (" in e and f"{two.pid} (" in e and "klieg attach plain-server --all" in e
	assert up.get("/processes")["processes"] == []
	assert f"process {two.pid}" in up.cli("attach", "worker").stdout             # what it calls itself
	assert up.cli("attach", "plain-server", "--check").stdout.count("can be attached to") == 2
	doc = up.cli("attach", "plain-server", "--all", json_out=True)
	assert doc["version"] == 1 and {(a["pid"], a["already"]) for a in doc["attachments"]} == {(one.pid, False), (two.pid, True)} and doc["refused"] == []
	assert up.cli("detach", str(one.pid), json_out=True)["text_identical"] is True
	assert f"process {two.pid}: " in up.cli("detach", "--all").stdout
	assert [x for x in up.get("/attachments")["attachments"]] == []


def test_what_goes_wrong_says_what_to_do(klieg_up, program):
	up, p = klieg_up, program()
	text = text_of(p.pid)
	assert "did you mean: plain-server" in fails(up, 3, "E301", "attach", "plain-servre")
	assert "4194303" in fails(up, 3, "E301", "attach", "4194303")
	fails(up, 2, "E200", "attach", "0")
	fails(up, 2, "E200", "attach")
	fails(up, 2, "E200", "attach", str(p.pid), "--max-pause", "soon")
	assert "/no/such.debug" in fails(up, 2, "E205", "attach", str(p.pid), "--debug-file", "/no/such.debug")
	assert "handel" in fails(up, 1, "E204", "attach", str(p.pid), "--root", "handel")
	assert "nosuchplugin" in up.cli("attach", str(p.pid), "--plugin", "nosuchplugin", check=False).stderr
	fails(up, 2, "E200", "detach")
	fails(up, 3, "E301", "detach", "plain-server")
	assert "did you mean: --level" in up.cli("on", "x", "--levle", "deep", check=False).stderr
	fails(up, 2, "E200", "on", "x", "--depth", "2")
	fails(up, 2, "E200", "on", "x", "--level", "deep", "--depth", "17")
	assert not changed(text, p.pid) and up.get("/attachments")["attachments"] == []
	up.cli("attach", str(p.pid))
	assert "did you mean: handle" in fails(up, 1, "E204", "illuminate", "handel")
	fails(up, 2, "E200", "illuminate", "handle", "--for", "5s")
	fails(up, 2, "E200", "illuminate", "handle", "--max-cost", "lots")
	assert "arg.nobody" in str(up.cli("on", "handle", "--where", "arg.nobody > 1", check=False))
	assert fails(up, 2, "E201", "on", "handle", "--where", "arg.2 >")
	up.cli("off", "--all")
	e = {k: v for k, v in up.env.items() if not k.startswith("KLIEG_")}
	r = subprocess.run([KLIEG, "attach", "1", "--server", "/nowhere/klieg.sock"], env=e, capture_output=True, text=True, timeout=30)
	assert r.returncode == 3 and "error[E300]" in r.stderr


def tree(doc):
	"""{path: node}"""
	out, todo = {}, [((), n) for n in doc["graph"]["roots"]]
	while todo:
		at, n = todo.pop()
		out[at + (n["name"],)] = n
		todo += [(at + (n["name"],), c) for c in n["children"]]
	return out


def test_illuminate(klieg_up, program):
	up, p = klieg_up, program()
	text = text_of(p.pid)
	up.cli("attach", str(p.pid))
	doc = up.cli("illuminate", "handle", "--once", "--for", "1s", "--min-share", "0", "--max-cost", "50%", json_out=True)
	nodes = tree(doc)
	assert set(nodes) == {("handle",), ("handle", "parse"), ("handle", "send_reply")}, nodes
	h, parse, send = nodes[("handle",)], nodes[("handle", "parse")], nodes[("handle", "send_reply")]
	assert h["calls"] > 50 and abs(h["calls"] - parse["calls"]) <= 1 and abs(h["calls"] - send["calls"]) <= 1 and h["share"] == 1
	assert 0 < h["self_nano"] <= h["total_nano"] and parse["total_nano"] + send["total_nano"] <= h["total_nano"] and 0 < parse["share"] < 1
	assert doc["plan"]["sites"] == 1 and doc["keep"] == 1 and doc["lost"] == 0
	assert up.get("/toggles")["toggles"] == [] and not changed(text, p.pid)

	r = up.cli("illuminate", "handle", "--service", "plain-server", "--pid", str(p.pid), "--once", "--for", "1s", "--max-cost", "50%", "--ascii")
	assert "off again" in r.stderr and up.get("/toggles")["toggles"] == []
	lines = r.stdout.splitlines()
	assert lines[0].startswith("handle  depth 1, ") and "calls 2 functions directly" in r.stdout
	assert any(x.endswith("plain-server:handle") for x in lines) and any(x.endswith("- send_reply") for x in lines), r.stdout
	r = up.cli("illuminate", "send_reply", "--root", "handle", "--depth", "0", "--once", "--for", "1s", "--min-share", "0", json_out=True)
	assert ("handle", "send_reply") in tree(r)
	r = up.cli("illuminate", "never", "--once", "--for", "200ms", check=False)
	assert r.returncode == 1 and "no call of never ended" in r.stderr and up.get("/toggles")["toggles"] == []


def shine(up, *args):
	"""illuminates handle() for a second: its callees, and what the answer says of those that are called through pointers."""
	doc = up.cli("illuminate", "handle", "--once", "--for", "1s", "--min-share", "0", "--max-cost", "90%", *args, json_out=True)
	return {path[1]: node for path, node in tree(doc).items() if len(path) == 2}, doc


def test_what_is_called_through_pointers_is_observed(klieg_up, target):
	up, t = klieg_up, target("pointers")
	text = text_of(t.pid)
	up.cli("attach", str(t.pid))
	plan = {c["name"]: c["kind"] for c in up.get(f"/processes/{t.pid}/callees?function=handle")["callees"]}
	assert plan == {"write_log": "variable"}  # the variable says what is called; for the others nobody calls yet
	t.ask("start 0")
	callees, doc = shine(up)
	# The commands of the table on the heap, the chain's filters, and what it jumps to at its end; not what others call through pointers.
	assert {n for n, c in callees.items() if c.get("observed")} == {"get", "set", "compress", "encrypt", "done"} == set(doc["observed"]), doc
	assert set(callees) - {"done"} == {"get", "set", "compress", "encrypt", "write_log"}
	assert doc["observing"]["functions"] >= 8 and doc["observing"]["windows"] >= 1 and not doc["observing"]["too_hot"]
	assert callees["compress"]["calls"] == callees["encrypt"]["calls"] == callees["get"]["calls"] + callees["set"]["calls"] > 100
	assert not changed(text, t.pid)
	known = up.get(f"/processes/{t.pid}/callees?function=handle")
	assert {c["name"] for c in known["callees"] if c["kind"] == "observed"} == set(doc["observed"]) and known["indirect"] == 3
	r = up.cli("illuminate", "handle", "--once", "--for", "1s", "--max-cost", "90%", "--min-share", "0", "--ascii")
	assert "through pointers in 3 places: " in r.stdout and ", as observed; " in r.stdout and "what was not called then is missing" in r.stdout, r.stdout
	assert re.search(r"- get  \(observed\)$", r.stdout, re.M) and re.search(r"- write_log$", r.stdout, re.M) and "elsewhere" not in r.stdout, r.stdout
	assert int(t.ask("stop")[1]) > 1000
	assert "its text is what it was before" in up.cli("detach", str(t.pid)).stdout and not changed(text, t.pid)


def test_what_is_called_too_often_is_not_watched_for_long(klieg_up, target):
	"""A function that is called a million times a second, by others, through pointers: watching it would cost more than allowed."""
	up, t = klieg_up, target("pointers")
	up.cli("attach", str(t.pid))
	t.ask("start 500")
	on = up.switch("pointers:handle", level="deep", max_cost=0.05)["toggle"]["id"]
	toggle = lambda: next(x for x in up.get("/toggles")["toggles"] if x["id"] == on)
	done = wait_for(lambda: (x := toggle()) and x["observing"]["too_hot"] and x["observed"] and x)
	assert done["observing"]["too_hot"] < done["observing"]["functions"] and not {"often", "elsewhere"} & set(done["observed"])
	assert int(t.ask("stop")[1]) > 0


def test_children_that_are_forked_while_functions_are_watched(klieg_up, target):
	up, t = klieg_up, target("pointers")
	text = text_of(t.pid)
	up.cli("attach", str(t.pid))
	where = int(up.cli("ls", "pointers:elsewhere", json_out=True)["sites"][0]["address"], 16)
	with open(f"/proc/{t.pid}/mem", "rb", buffering=0) as mem:
		def watched():
			mem.seek(where)
			return mem.read(1) == b"\xe9"
		up.switch("pointers:handle", level="deep", ttl="60s")
		wait_for(watched, every=0.001)
		forks = 0
		while watched():  # for at most 300 ms
			assert t.ask("fork") == ["forked"]
			forks += 1
	assert forks
	assert t.go(1000)
	up.all_off()
	assert not changed(text, t.pid)


def test_an_agent_that_is_killed_while_it_watches_leaves_nothing(klieg_up, target):
	up, t = klieg_up, target("pointers")
	text = text_of(t.pid)
	up.cli("attach", str(t.pid))
	t.ask("start 0")
	where = int(up.cli("ls", "pointers:elsewhere", json_out=True)["sites"][0]["address"], 16)
	with open(f"/proc/{t.pid}/mem", "rb", buffering=0) as mem:
		def byte():
			mem.seek(where)
			return mem.read(1)
		before = byte()
		up.switch("pointers:handle", level="deep", ttl="60s")
		wait_for(lambda: byte() != before, every=0.001)  # it is not on: it is watched
		def data():
			with open(f"/proc/{t.pid}/status") as f:
				return int(re.search(r"VmData:\s+(\d+) kB", f.read())[1])
		had = data()
		up.kill()
		assert changed(text, t.pid)
		up.start()
		wait_for(lambda: any(p["pid"] == t.pid for p in up.get("/processes")["processes"]))
		up.all_off()
		wait_for(lambda: byte() == before)
		up.switch("pointers:handle", level="deep", ttl="60s")
		wait_for(lambda: byte() != before, every=0.001)  # the next agent watches, and with what the one before left there
		assert data() - had < 128
	up.all_off()
	wait_for(lambda: not changed(text, t.pid))
	assert int(t.ask("stop")[1]) > 0
	t.go(1000)


def test_illuminate_ends_with_control_c(klieg_up, program):
	up, p = klieg_up, program()
	up.cli("attach", str(p.pid))
	live = subprocess.Popen([KLIEG, "illuminate", "handle", "--max-cost", "50%", "-o", "ndjson"], env=up.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
	first, second = json.loads(live.stdout.readline()), json.loads(live.stdout.readline())
	assert second["graph"]["calls"] > first["graph"]["calls"] > 0 and first["version"] == 1
	assert [t["level"] for t in up.get("/toggles")["toggles"]] == ["deep"]
	live.send_signal(signal.SIGINT)
	_, err = live.communicate(timeout=20)
	assert live.returncode == 130 and "off again" in err and up.get("/toggles")["toggles"] == []
	live = subprocess.Popen([KLIEG, "illuminate", "handle", "--max-cost", "50%", "-o", "ndjson"], env=up.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
	live.stdout.readline()
	p.kill()
	assert "the process has ended" in live.communicate(timeout=20)[1] and live.returncode == 0 and up.get("/toggles")["toggles"] == []
	up.cli("attach", str(program().pid))
	r = up.cli("illuminate", "handle", "--ttl", "1500ms", "--max-cost", "50%")
	assert r.stdout.count("plain-server:handle") >= 1 and "the time is over" in r.stderr and up.get("/toggles")["toggles"] == []


def test_illuminate_keeps_fewer_traces_when_all_would_cost_too_much(klieg_up, program):
	up, p = klieg_up, program()
	up.cli("attach", str(p.pid))
	doc = up.cli("illuminate", "handle", "--once", "--for", "1s", "--max-cost", "0.001%", "--min-share", "0", check=False)
	assert "of them are kept" in doc.stdout or doc.returncode in (1, 6), (doc.stdout, doc.stderr)
	assert up.get("/toggles")["toggles"] == []


def test_run_attach(klieg_up, program, spawn):
	up = klieg_up
	p = spawn([KLIEG, "run", "--service", "mine", "--attach", "--", program.exe], env=up.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
	assert p.stdout.readline() == b"up\n"
	assert wait_for(lambda: [x for x in up.get("/attachments")["attachments"] if x["pid"] == p.pid])[0]["service"] == "mine"
	assert p.stderr.readline().startswith(b"attached to mine (process %d): " % p.pid)
	assert up.get("/sites?sel=mine:handle")["sites"][0]["hookable"]
	r = up.cli("run", "--attach", "--", "true")
	assert r.returncode == 0 and r.stdout == ""
	r = up.cli("run", "--lib", "x", "--", "true", check=False)
	assert r.returncode == 2 and "--lib goes with --attach" in r.stderr


def test_a_static_program_is_traced_from_outside_unless_refused(klieg_up, program, tmp_path, spawn):
	exe = str(tmp_path / "static-server")
	subprocess.run(["gcc", "-O2", "-g", "-static", str(tmp_path / "p.c"), "-o", exe], check=True)
	p = spawn([exe], stdout=subprocess.PIPE)
	assert p.stdout.readline() == b"up\n"
	text = text_of(p.pid)
	r = klieg_up.cli("attach", str(p.pid), "--check", check=False)
	assert r.returncode == 0 and "from outside by the kernel's probes" in r.stdout and "statically linked" in r.stdout
	assert "statically linked" in fails(klieg_up, 2, "E207", "attach", str(p.pid), "--no-uprobes")
	assert not changed(text, p.pid) and klieg_up.get("/attachments")["attachments"] == []
	r = klieg_up.cli("attach", str(p.pid), check=False)
	if r.returncode:  # a kernel or container that has no uprobes for us
		assert r.stderr.startswith("error[E"), r.stderr
		return
	assert "traced from outside by the kernel's uprobes" in r.stdout
	assert ("handle",) in tree(klieg_up.cli("illuminate", "handle", "--once", "--for", "1s", "--max-cost", "100%", json_out=True))
	# A condition on arguments saves records, not the kernel's two traps: what it leaves out is in the account, and where a trap is dear over the budget.
	up = klieg_up
	up.cli("off", "--all")
	up.cli("on", "static-server:handle", "--where", "arg.2 > 1000000")
	wait_for(lambda: (lambda o: o["processes"][0]["shed"] or [s for s in o["sites"] if s["calls_per_s"] > 100])(up.get("/overhead")))
	up.cli("off", "--all")
	# Its arguments, and conditions on them, as with a program that libklieg is in; by somebody who knows what it costs.
	(tmp_path / "p.yaml").write_text("policy: dear\nlimits: [{ match: '{ }', overhead: 100%, level: deep }]\n")
	up.cli("policy", "apply", str(tmp_path / "p.yaml"), "--reason", "test")
	since = time.time_ns()
	up.cli("on", "static-server:handle", "--where", "arg.2 > 4096", "--level", "detail")
	found = wait_for(lambda: [s for s in up.get("/spans?since=1m&limit=1000")["spans"] if s["start_unix_nano"] > since])
	assert {s["name"] for s in found} == {"handle"}
	assert {(s["attributes"]["arg.size"], s["attributes"]["arg.text"]) for s in found} == {(50000, "GET / HTTP/1.1\n")}, found[0]
	up.cli("off", "--all")
	assert klieg_up.cli("detach", str(p.pid)).returncode == 0 and not changed(text, p.pid) and p.poll() is None


def test_an_instrumentor(klieg_up, program):
	up, p = klieg_up, program()
	r = up.cli("attach", str(p.pid), "--plugin", "locks")
	assert "  plugin    locks 0." in r.stdout or "  plugin    locks 1." in r.stdout, r.stdout
	assert up.cli("attach", str(p.pid), "--plugin", "locks", json_out=True)["attachments"][0]["plugins"][0]["name"] == "locks"
	up.cli("detach", str(p.pid))


def test_with_the_agent_elsewhere(program, tmp_path, spawn):
	up, p = Server(tmp_path / "server"), program()
	try:
		fails(up, 3, "E301", "attach", "plain-server")       # no agent yet
		agent(spawn, up, tmp_path / "agent")
		wait_for(lambda: up.cli("ps", check=False).returncode == 0)
		assert f"(process {p.pid})" in up.cli("attach", "plain-server").stdout
		assert ("handle", "parse") in tree(up.cli("illuminate", "handle", "--once", "--for", "1s", "--max-cost", "50%", json_out=True))
		assert f"process {p.pid}: " in up.cli("detach", "--all").stdout and p.poll() is None
	finally:
		up.stop()


def test_completion_knows_processes_and_functions(klieg_up, program):
	up, p = klieg_up, program()
	words = [x.split("\t")[0] for x in up.cli("completion", "words", "--", "attach").stdout.splitlines()]
	assert {"plain-server", str(p.pid), "--check", "--lib"} <= set(words)
	up.cli("attach", str(p.pid))
	assert str(p.pid) in up.cli("completion", "words", "--", "detach").stdout
	assert "plain-server:handle\t" in up.cli("completion", "words", "--", "illuminate").stdout
	assert "deep\t" in up.cli("completion", "words", "--", "on", "--level").stdout


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody who may not")
def test_without_permission(program, spawn):
	"""An agent of another user: refused, with the reason, and nothing is touched."""
	p = program()
	text = text_of(p.pid)
	with tempfile.TemporaryDirectory() as home:  # not pytest's, which others may not enter
		os.chown(home, 65534, 65534)
		plain = {k: v for k, v in os.environ.items() if not k.startswith("KLIEG_")}
		up = spawn(["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", KLIEG, "up", "--dir", home, "--http", "127.0.0.1:0", "--otlp-http", "127.0.0.1:0"],
			env=plain, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
		ready = up.stdout.readline()
		if not ready and "Permission denied" in up.stderr.read():
			pytest.skip(f"others may not run {KLIEG}")

		def cli(*args):
			return subprocess.run([KLIEG, *args], env={**plain, "KLIEG_SERVER": ready.split()[1].partition("=")[2]}, capture_output=True, text=True, timeout=30)
		r = cli("attach", str(p.pid))
		assert r.returncode == 4 and r.stderr.startswith("error[E400]: ") and r.stdout == "", r.stderr
		r = cli("attach", str(p.pid), "--check")
		assert r.returncode == 1 and f"process {p.pid} cannot be attached to: " in r.stdout, r.stdout
		assert not changed(text, p.pid)
		up.terminate()
		assert up.wait(15) == 0
