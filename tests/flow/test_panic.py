"""The panic button over many hosts: everything is off in every process, as the process itself says; undo brings back what there was, and nothing else."""
import os
import signal
import subprocess
import time

import pytest

from conftest import changed, text_of, wait_for
from test_alerts import Server, agent
from test_policies import put

HOSTS = [f"host-{i}" for i in range(7)]
PROGRAM = r"""
#define KLIEG_COMPONENT "work"
#include <klieg/klieg.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
static void inner(void) { KLIEG_SPAN("inner"); __asm__ volatile("" ::: "memory"); }
int main(int argc, char **argv)
{
	klieg_init(&(struct klieg_options){ .size = sizeof(struct klieg_options), .service = argv[1] });
	puts("up");
	fflush(stdout);
	for (;;) {
		KLIEG_SPAN("outer", KLIEG_INT("n", 1));
		inner();
		poll(NULL, 0, 1);
	}
}
"""
POLICY = """policy: work
rules:
  - name: pay
    match: '{ resource.service.name = "pay" && name = "outer" }'
    level: detail
    keep: 50%
  - name: all
    match: '{ name = "inner" }'
    level: count
limits:
  - match: '{ resource.service.name = "shop" }'
    level: span
"""


@pytest.fixture
def hosts(tmp_path, spawn, cc):
	up, exe = Server(tmp_path / "klieg"), cc(PROGRAM)
	try:
		pids, up.agents = {}, {}
		for i, host in enumerate(HOSTS):
			a = up.agents[host] = agent(spawn, up, tmp_path, host)
			p = spawn([exe, "pay" if i % 2 else "shop"], env=dict(up.env, KLIEG_SOCKET=a.socket), stdout=subprocess.PIPE)
			p.stdout.readline()
			pids[host] = p.pid
		wait_for(lambda: {p["host"] for p in up.get("/processes")["processes"] if p["state"] == "live" and p["sites"] == 2} == set(HOSTS), 60)
		yield up, pids
	finally:
		up.stop()


def levels(up):
	return sorted((s["service"], s["name"], s["level"], s["instances"]) for s in up.get("/sites?sel=*")["sites"])


def ends(up):
	return {t["id"]: t["expires_unix_nano"] for t in up.get("/toggles")["toggles"] if t["state"] == "active"}


def told(up):
	"""The rules of policies and toggles that are in force, as an operator sees them."""
	toggles = sorted((t["id"], t["selector"], t["level"], t["owner"]) for t in up.get("/toggles")["toggles"] if t["state"] == "active")
	return toggles, [(p["name"], p["version"], p["state"], p.get("why")) for p in up.get("/policies")["policies"]]


def test_everything_is_off_everywhere_and_undo_brings_back_what_there_was(hosts):
	up, pids = hosts
	off = {host: text_of(pid) for host, pid in pids.items()}
	assert put(up, POLICY)[0] == 200
	up.switch("shop:outer", level="detail", ttl="30m", owner="ann")
	up.switch('{ resource.host.name = "host-3" && name = "inner" }', level="span", ttl="30m", owner="ben")
	wait_for(lambda: all(changed(off[h], pid) for h, pid in pids.items()))
	traced = {host: text_of(pid) for host, pid in pids.items()}
	before, ended = (levels(up), told(up)), ends(up)
	assert ("shop", "outer", "span", 4) in before[0] and len(before[1][0]) == 2

	start = time.monotonic()
	status, answer = up.request("POST", "/api/v1/panic", {"owner": "ann", "reason": "all of it"})
	took, began = time.monotonic() - start, start
	# When it answers it is so: not one byte of one process is other than before anybody looked.
	assert status == 200 and {h: changed(off[h], pid) for h, pid in pids.items()} == {h: [] for h in HOSTS}
	assert answer["agents"] == len(HOSTS) and not answer.get("unreachable") and answer["toggles"] == 2 and answer["policies"] == 1
	print(f"off in {took * 1e3:.0f} ms on {len(HOSTS)} hosts; {answer['ack_nano'] / 1e3:.0f} us of it in the slowest agent")
	assert answer["ack_nano"] <= took * 1e9
	assert {s["level"] for s in up.get("/sites?sel=*")["sites"]} == {"off"} and told(up)[0] == []

	start = time.monotonic()
	assert up.request("POST", "/api/v1/panic/undo", {"owner": "ann"})[0] == 200
	print(f"back in {(time.monotonic() - start) * 1e3:.0f} ms")
	assert {h: changed(traced[h], pid) for h, pid in pids.items()} == {h: [] for h in HOSTS}
	assert (levels(up), told(up)) == before
	# They have the time that they had left: as long as all was off did not count.
	assert all(0 < ends(up)[id] - was < (time.monotonic() - began) * 1e9 for id, was in ended.items())


@pytest.mark.waits
def test_a_host_that_is_away_when_it_happens_gets_it_when_it_is_back(hosts):
	up, pids = hosts
	off = {host: text_of(pid) for host, pid in pids.items()}
	up.switch("outer", ttl="30m")
	wait_for(lambda: all(changed(off[h], pid) for h, pid in pids.items()))
	os.kill(up.agents["host-2"].pid, signal.SIGSTOP)
	try:
		status, answer = up.request("POST", "/api/v1/panic", {"owner": "ann"})
		assert status == 200 and answer["unreachable"] == ["host-2"], answer
		assert all(not changed(off[h], pid) for h, pid in pids.items() if h != "host-2")
	finally:
		os.kill(up.agents["host-2"].pid, signal.SIGCONT)
	wait_for(lambda: not changed(off["host-2"], pids["host-2"]), 60)
