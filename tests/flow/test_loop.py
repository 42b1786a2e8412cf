"""The whole loop as its users see it: a live service, a toggle, spans within a second, silence and no residue."""
import hashlib
import os
import re
import signal
import subprocess
import time

import pytest

from conftest import BUILD, KLIEG, TOP, Up, wait_for

SERVICE = r"""
#define KLIEG_COMPONENT "work"
#include <klieg/klieg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
static void inner(int i)
{
	KLIEG_SPAN("inner", KLIEG_INT("i", i), KLIEG_STR("tenant", i % 2 ? "a" : "b"), KLIEG_SENSITIVE(KLIEG_STR("secret", "hunter2")));
}
int main(int argc, char **argv)
{
	klieg_init(&(struct klieg_options){ .size = sizeof(struct klieg_options), .service = argc > 1 ? argv[1] : "demo" });
	printf("up %d\n", (int)getpid());
	fflush(stdout);
	for (int i = 0;; i++) {
		{
			KLIEG_SPAN_AS(s, "outer");
			inner(i);
			inner(i + 1);
			if (i % 10 == 0)
				KLIEG_ERROR(s, "every tenth");
			KLIEG_EVENT("tick", KLIEG_INT("i", i));
			KLIEG_COUNT("bytes", 3);
		}
		struct timespec t = { 0, 1000000 };
		nanosleep(&t, NULL);
	}
}
"""


def text_hash(pid):
	"""A hash over the executable mappings of a live process: the proof that nothing of us is left in them."""
	h = hashlib.sha256()
	with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", 0) as mem:
		for line in maps:
			m = re.match(r"([0-9a-f]+)-([0-9a-f]+) r-xp \S+ \S+ \d+\s+(/\S+)", line)
			if m:
				mem.seek(int(m[1], 16))
				h.update(mem.read(int(m[2], 16) - int(m[1], 16)))
	return h.hexdigest()


@pytest.fixture
def demo(klieg_up, spawn, cc):
	p = spawn([cc(SERVICE), "demo"], env=klieg_up.env, stdout=subprocess.PIPE)
	assert p.stdout.readline().startswith(b"up ")
	wait_for(lambda: [x for x in klieg_up.get("/processes")["processes"] if x["pid"] == p.pid and x["state"] == "live"])
	return p


def test_on_spans_within_a_second_off_without_residue(klieg_up, demo):
	before = text_hash(demo.pid)
	r = klieg_up.cli("on", "demo:*", "--level", "detail", "--ttl", "1m", "--reason", "test")
	assert re.search(r"\b[3-9]\d* sites?\b", r.stdout + r.stderr), r.stdout + r.stderr
	assert text_hash(demo.pid) != before
	doc = wait_for(lambda: (d := klieg_up.cli("query", '{ name = "inner" && .tenant = "a" }', "--since", "1m", "--limit", "50", json_out=True))["spans"] and d)
	assert doc["version"] == 1 and doc["matched"] >= len(doc["spans"]) > 0
	span = doc["spans"][0]
	assert span["service"] == "demo" and span["name"] == "inner" and span["duration_nano"] >= 0
	assert span["attributes"]["tenant"] == "a" and isinstance(span["attributes"]["i"], int)
	assert "hunter2" not in str(doc)
	trace = klieg_up.cli("trace", span["trace_id"], json_out=True)
	names = sorted(s["name"] for s in trace["spans"])
	assert names.count("outer") == 1 and names.count("inner") == 2
	outer = next(s for s in trace["spans"] if s["name"] == "outer")
	assert all(s["parent_span_id"] == outer["span_id"] for s in trace["spans"] if s["name"] == "inner")
	assert [e["name"] for e in outer["events"]] == ["tick"]
	assert klieg_up.cli("off", "--all").returncode == 0
	wait_for(lambda: text_hash(demo.pid) == before)
	assert demo.poll() is None


def test_account_balances_to_the_span(klieg_up, demo):
	klieg_up.cli("on", "*", "--level", "span", "--ttl", "1m")
	wait_for(lambda: klieg_up.cli("query", "{}", "--since", "1m", json_out=True)["matched"] > 500)
	klieg_up.cli("off", "--all")

	def balanced():
		d = klieg_up.cli("doctor", json_out=True, check=False)["account"]
		return d["made"] > 500 and d["made"] == d["stored"] + sum(d["dropped"].values()) and d
	d = wait_for(balanced)
	assert klieg_up.cli("query", "{}", "--since", "5m", json_out=True)["matched"] == d["stored"]


def test_errors_and_status_reach_the_query(klieg_up, demo):
	klieg_up.cli("on", "outer", "--level", "detail")
	spans = wait_for(lambda: klieg_up.cli("query", "{ status = error }", "--since", "1m", json_out=True)["spans"])
	assert {s["name"] for s in spans} == {"outer"} and spans[0]["status"] == "error"


def test_where_keeps_only_what_matches_and_counts_the_rest(klieg_up, demo):
	klieg_up.cli("on", "inner", "--level", "detail", "--where", '{ .tenant = "a" }')
	wait_for(lambda: klieg_up.cli("query", '{ name = "inner" }', "--since", "1m", json_out=True)["matched"] > 20)
	doc = klieg_up.cli("query", '{ name = "inner" }', "--since", "1m", "--limit", "1000", json_out=True)
	assert {s["attributes"]["tenant"] for s in doc["spans"]} == {"a"}
	assert klieg_up.cli("doctor", json_out=True, check=False)["account"]["dropped"].get("where", 0) > 0


def test_ttl_switches_off_by_itself(klieg_up, demo):
	before = text_hash(demo.pid)
	klieg_up.cli("on", "outer", "--ttl", "1s")
	assert klieg_up.get("/toggles")["toggles"]
	wait_for(lambda: not klieg_up.get("/toggles")["toggles"])
	wait_for(lambda: text_hash(demo.pid) == before)
	ended = klieg_up.get("/toggles?all=true")["toggles"]
	assert ended[0]["state"] == "expired"


def test_count_writes_no_records(klieg_up, demo):
	klieg_up.cli("on", "*", "--level", "count")

	def counted():
		return {s["name"]: s for s in klieg_up.get("/sites/stats")["sites"] if s["calls"] > 50}
	stats = wait_for(lambda: len(counted()) >= 3 and counted())
	assert stats["inner"]["calls"] > stats["outer"]["calls"]
	assert stats["outer"]["errors"] > 0
	assert stats["outer"]["p99_nano"] >= stats["outer"]["p50_nano"] > 0
	assert stats["bytes"]["value"] >= 3 * 50
	assert klieg_up.cli("query", "{}", "--since", "1m", json_out=True, check=False)["matched"] == 0


def test_keep_is_a_consistent_probability(klieg_up, demo):
	klieg_up.cli("on", "*", "--level", "span", "--keep", "25%")
	doc = wait_for(lambda: (d := klieg_up.cli("query", '{ name = "outer" }', "--since", "1m", "--limit", "1000", json_out=True))["matched"] > 100 and d)
	kept = [s for s in doc["spans"] if s["status"] != "error"]
	assert len(kept) > 20 and all(int(s["trace_id"][18:], 16) >= (1 << 56) * 3 // 4 for s in kept)
	assert all(abs(s["adjusted_count"] - 4) < 0.01 for s in kept)
	failed = [s for s in doc["spans"] if s["status"] == "error"]  # always kept, so each stands for itself
	assert all(s["adjusted_count"] == 1 for s in failed)
	assert not failed or any(int(s["trace_id"][18:], 16) < (1 << 56) * 3 // 4 for s in failed)


def test_agent_killed_service_lives_and_probes_lapse(tmp_path, spawn, cc):
	up = Up(tmp_path / "klieg")
	p = spawn([cc(SERVICE), "demo"], env=up.env, stdout=subprocess.PIPE)
	p.stdout.readline()
	wait_for(lambda: up.get("/processes")["processes"])
	before = text_hash(p.pid)
	up.cli("on", "*", "--level", "span")
	wait_for(lambda: up.cli("query", "{}", "--since", "1m", json_out=True)["matched"] > 100)
	up.kill()
	assert p.poll() is None
	again = Up(tmp_path / "klieg")
	try:
		wait_for(lambda: [x for x in again.get("/processes")["processes"] if x["pid"] == p.pid and x["state"] == "live"])
		assert again.cli("query", "{}", "--since", "5m", json_out=True)["matched"] > 100  # what was acknowledged is there
		again.cli("off", "--all", check=False)
		wait_for(lambda: text_hash(p.pid) == before)
		again.cli("on", "outer", "--level", "span")
		n = again.cli("query", "{}", "--since", "5m", json_out=True)["matched"]
		wait_for(lambda: again.cli("query", "{}", "--since", "5m", json_out=True)["matched"] > n)
	finally:
		again.stop()


def test_service_killed_keeps_its_last_spans_and_shows_what_was_open(klieg_up, spawn, cc):
	source = r"""
#include <klieg/klieg.h>
#include <stdio.h>
#include <unistd.h>
int main(void)
{
	printf("up\n"); fflush(stdout);
	char c;
	while (read(0, &c, 1) == 1) {
		KLIEG_SPAN("stuck.outer");
		for (int i = 0; i < 100; i++) { KLIEG_SPAN("quick"); }
		KLIEG_SPAN("stuck.inner");
		printf("stuck\n"); fflush(stdout);
		pause();
	}
}
"""
	p = spawn([cc(source)], env=klieg_up.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
	p.stdout.readline()
	wait_for(lambda: [x for x in klieg_up.get("/processes")["processes"] if x["pid"] == p.pid])
	klieg_up.cli("on", "*", "--level", "span")
	p.stdin.write(b"x")
	p.stdin.flush()
	assert p.stdout.readline() == b"stuck\n"
	open_now = wait_for(lambda: [s for s in klieg_up.get("/inflight")["spans"] if s["pid"] == p.pid])
	assert [s["name"] for s in open_now] == ["stuck.outer", "stuck.inner"] or {s["name"] for s in open_now} == {"stuck.outer", "stuck.inner"}
	p.send_signal(signal.SIGKILL)
	p.wait()
	wait_for(lambda: klieg_up.cli("query", '{ name = "quick" }', "--since", "1m", json_out=True, check=False)["matched"] == 100)
	gone = wait_for(lambda: [x for x in klieg_up.get("/processes")["processes"] if x["pid"] == p.pid and x["state"] == "exited"])
	assert {s["name"] for s in gone[0]["last_in_flight"]} == {"stuck.outer", "stuck.inner"}


def test_wrong_selectors_say_what_why_and_what_next(klieg_up, demo):
	r = klieg_up.cli("on", "outre", check=False)
	assert r.returncode == 1 and "error[E204]" in r.stderr and "did you mean: outer" in r.stderr and "hint:" in r.stderr
	r = klieg_up.cli("on", "{ name = }", check=False)
	assert r.returncode == 2 and "error[E201]" in r.stderr
	r = klieg_up.cli("query", "{ duration > 10parsecs }", check=False)
	assert r.returncode == 2 and "parsecs" in r.stderr
	assert klieg_up.cli("help", "E204").stdout


def test_port_in_use_and_no_server(klieg_up, tmp_path):
	port = klieg_up.http.rsplit(":", 1)[1].rstrip("/")
	r = subprocess.run([KLIEG, "up", "--dir", str(tmp_path / "other"), "--http", f"127.0.0.1:{port}", "--otlp-http", "127.0.0.1:0"], capture_output=True,
		text=True, timeout=20)
	assert r.returncode == 2 and "E302" in r.stderr and port in r.stderr
	r = subprocess.run([KLIEG, "ps"], capture_output=True, text=True, env={"PATH": os.environ["PATH"], "KLIEG_DIR": str(tmp_path / "nobody"),
		"HOME": str(tmp_path), "KLIEG_SERVER": "http://127.0.0.1:1"}, timeout=20)
	assert r.returncode == 3 and "klieg up" in r.stderr


def test_preload_lights_up_a_weakly_linked_program(klieg_up, spawn, tmp_path):
	src = tmp_path / "weak.c"
	src.write_text("#define KLIEG_WEAK\n" + SERVICE)
	exe = tmp_path / "weak"
	subprocess.run(["gcc", "-O2", f"-I{TOP}/include", str(src), "-o", str(exe)], check=True)
	p = spawn([KLIEG, "run", "--", str(exe), "weak"], env=klieg_up.env, stdout=subprocess.PIPE)
	assert p.stdout.readline().startswith(b"up")
	wait_for(lambda: klieg_up.cli("ls", "outer", json_out=True, check=False).get("sites"))
	klieg_up.cli("on", "outer", "--level", "span")
	wait_for(lambda: klieg_up.cli("query", '{ name = "outer" }', "--since", "1m", json_out=True)["spans"])


def test_the_shop_under_load_is_one_trace_across_services(klieg_up, spawn, tmp_path):
	state = str(tmp_path / "shop")
	shop = spawn([os.path.join(TOP, "examples/shop/shop"), "up", "--build", BUILD, "--state", state], env=klieg_up.env, stdout=subprocess.PIPE, text=True)
	url = re.match(r"shop ready url=(\S+)", shop.stdout.readline())[1]
	try:
		spawn([os.path.join(BUILD, "examples/shop/shop-load"), "--url", url, "--connections", "4", "--rate", "100"], stdout=subprocess.DEVNULL)
		wait_for(lambda: {"gateway", "cart", "payment", "inventory"} <= {x["service"] for x in klieg_up.get("/processes")["processes"]})
		klieg_up.cli("on", "*", "--level", "detail", "--ttl", "2m")

		def across():
			for s in klieg_up.cli("query", '{ name = "POST /checkout" }', "--since", "1m", "--limit", "5", json_out=True)["spans"]:
				t = klieg_up.cli("trace", s["trace_id"], json_out=True)
				if {x["service"] for x in t["spans"]} == {"gateway", "cart", "payment", "inventory"}:
					return t
			return None
		trace = wait_for(across, 30)
		ids = {s["span_id"] for s in trace["spans"]}
		assert sum(1 for s in trace["spans"] if s["parent_span_id"] not in ids) == 1  # one root, nothing dangling
		by_id = {s["span_id"]: s for s in trace["spans"]}
		for s in trace["spans"]:
			parent = by_id.get(s["parent_span_id"])
			if parent:  # clocks of different processes of a host line up
				assert s["start_unix_nano"] >= parent["start_unix_nano"] - 10_000, (s["name"], parent["name"])
		assert "4111 1111" not in str(trace)  # an id may have 4111
		subprocess.run([os.path.join(TOP, "examples/shop/shop"), "fault", "n+1", "on", "--state", state], check=True, stdout=subprocess.DEVNULL)
		wait_for(lambda: [f for row in klieg_up.cli("hot", "--since", "20s", json_out=True)["rows"] for f in row["findings"] if "N+1" in f["text"] or f["kind"] in ("n+1", "n_plus_one")], 40)
		klieg_up.cli("off", "--all")
	finally:
		shop.terminate()
		shop.wait(15)
