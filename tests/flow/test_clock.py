"""The clock of a host is set while things run: what was switched on lasts as long as it was to, no longer and no less, and nothing that was measured is lost."""
import mmap
import struct
import subprocess
import time
import urllib.parse

import pytest

from conftest import Up, wait_for
from test_policies import put

pytestmark = pytest.mark.waits

SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
/* The wall clock plus the nanoseconds that a file holds: what a program sees when somebody sets the clock. */
static volatile int64_t *by;
static int (*really)(clockid_t, struct timespec *);
__attribute__((constructor)) static void begin(void)
{
	really = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
	int fd = open(getenv("CLOCK_BY"), O_RDONLY | O_CLOEXEC);
	by = mmap(NULL, 8, PROT_READ, MAP_SHARED, fd, 0);
	close(fd);
}
int clock_gettime(clockid_t id, struct timespec *t)
{
	int rc = really(id, t);
	if (rc || !by || (id != CLOCK_REALTIME && id != CLOCK_REALTIME_COARSE))
		return rc;
	int64_t ns = t->tv_sec * 1000000000ll + t->tv_nsec + *by;
	t->tv_sec = ns / 1000000000;
	t->tv_nsec = ns % 1000000000;
	return 0;
}
int gettimeofday(struct timeval *restrict t, void *restrict zone)
{
	struct timespec s;
	clock_gettime(CLOCK_REALTIME, &s);
	t->tv_sec = s.tv_sec;
	t->tv_usec = s.tv_nsec / 1000;
	return 0;
}
time_t time(time_t *ret)
{
	struct timespec s;
	clock_gettime(CLOCK_REALTIME, &s);
	if (ret)
		*ret = s.tv_sec;
	return s.tv_sec;
}
"""
PROGRAM = r"""
#include <klieg/klieg.h>
#include <poll.h>
#include <stdio.h>
int main(void)
{
	klieg_init(&(struct klieg_options){ .size = sizeof(struct klieg_options), .service = "ticker" });
	puts("up");
	fflush(stdout);
	for (;;) {
		{ KLIEG_SPAN("tick"); }
		poll(NULL, 0, 5);
	}
}
"""
HOUR = 3600 * 10**9


@pytest.fixture
def up(tmp_path):
	"""klieg up whose wall clock up.set_clock(by nanoseconds) sets."""
	shim, file = tmp_path / "shim.so", tmp_path / "by"
	(tmp_path / "shim.c").write_text(SHIM)
	subprocess.run(["gcc", "-O1", "-shared", "-fPIC", "-o", str(shim), str(tmp_path / "shim.c"), "-ldl"], check=True)
	file.write_bytes(bytes(8))
	with open(file, "r+b") as f:
		shared = mmap.mmap(f.fileno(), 8)
	up = Up(tmp_path / "klieg", env={"LD_PRELOAD": str(shim), "CLOCK_BY": str(file)})
	up.by = 0

	def set_clock(by):
		shared[:8] = struct.pack("q", by)
		up.by = by
	up.set_clock = set_clock
	yield up
	up.stop()
	shared.close()


def stored(up):
	return up.get("/spans?" + urllib.parse.urlencode({"q": '{ name = "tick" }', "since": "5h", "limit": 1}))["matched"]


def minutes_left(up, ident):
	t = [x for x in up.get("/toggles")["toggles"] if x["id"] == ident]
	return (t[0]["expires_unix_nano"] - time.time_ns() - up.by) / 6e10 if t else None


def on(up, pid):
	return any(p["on"] for p in up.get("/processes")["processes"] if p["pid"] == pid)


@pytest.mark.parametrize("by", [HOUR, -HOUR], ids=["forward", "back"])
def test_what_is_on_lasts_as_long_as_it_was_to(up, spawn, cc, by):
	p = spawn([cc(PROGRAM)], env=up.env, stdout=subprocess.PIPE)
	assert p.stdout.readline() == b"up\n"
	wait_for(lambda: [x for x in up.get("/processes")["processes"] if x["pid"] == p.pid and x["state"] == "live"])
	long = up.switch("tick", ttl="10m")["toggle"]["id"]
	wait_for(lambda: stored(up) > 10)
	up.set_clock(by)
	wait_for(lambda: [a for a in up.get("/alerts")["alerts"] if a["id"] == "clock"])
	said = [a for a in up.get("/alerts")["alerts"] if a["id"] == "clock"][0]["text"]
	assert ("set forward by 3600.0 s" if by > 0 else "set back by 3600.0 s") in said or "by 3599.9 s" in said or "by 3600.1 s" in said
	assert 9 < minutes_left(up, long) <= 10 and on(up, p.pid)
	before = stored(up)
	wait_for(lambda: stored(up) > before + 10)  # and goes on being seen, at the new time; what was before is still there
	# A second is a second, whatever the clock says.
	up.request("DELETE", f"/api/v1/toggles/{long}")
	short = up.switch("tick", ttl="2s")["toggle"]["id"]
	up.set_clock(by - HOUR)
	wait_for(lambda: not on(up, p.pid))
	wait_for(lambda: minutes_left(up, short) is None)
	ended = [t for t in up.get("/toggles?all=true")["toggles"] if t["id"] == short]
	assert ended[0]["state"] == "expired" and ended[0]["ended_by"] == "system:ttl"


def test_a_clock_set_back_while_klieg_is_down_grants_no_more_time(up, spawn, cc):
	p = spawn([cc(PROGRAM)], env=up.env, stdout=subprocess.PIPE)
	assert p.stdout.readline() == b"up\n"
	wait_for(lambda: [x for x in up.get("/processes")["processes"] if x["pid"] == p.pid and x["state"] == "live"])
	ident = up.switch("tick", ttl="10m")["toggle"]["id"]
	short = up.switch("tick", ttl="4s")["toggle"]["id"]
	up.kill()
	up.set_clock(-HOUR)
	up.start()
	wait_for(lambda: on(up, p.pid))
	assert 9 < minutes_left(up, ident) <= 10
	up.kill()
	up.start()
	assert 9 < minutes_left(up, ident) <= 10  # and not once more at each start
	up.request("DELETE", f"/api/v1/toggles/{ident}")
	wait_for(lambda: minutes_left(up, short) is None and not on(up, p.pid))  # the agent holds to it, too


POLICY = 'policy: ticks\nrules:\n  - name: all\n    match: \'{ name = "tick" }\'\n    level: span\n    for: 10m\n'


def test_a_policy_is_in_force_for_as_long_as_it_says(up, spawn, cc):
	p = spawn([cc(PROGRAM)], env=up.env, stdout=subprocess.PIPE)
	assert p.stdout.readline() == b"up\n"
	wait_for(lambda: [x for x in up.get("/processes")["processes"] if x["pid"] == p.pid and x["state"] == "live"])

	def in_force():
		return [x["state"] for x in up.get("/policies")["policies"]] == ["active"] and on(up, p.pid)

	def left():
		return (up.get("/status")["next_expiry_unix_nano"] - time.time_ns() - up.by) / 6e10
	assert put(up, POLICY, 0, "ticks")[0] == 200
	wait_for(in_force)
	for by in (HOUR, -HOUR):
		up.set_clock(by)
		wait_for(lambda: [a for a in up.get("/alerts")["alerts"] if a["id"] == "clock" and (a["value"] > 0) == (by > 0)])
		assert in_force() and 9 < left() <= 10
		assert put(up, POLICY + "# again\n" * (1 + (by < 0)), 1 + (by < 0), "ticks")[0] == 200  # what is applied now begins now
		wait_for(in_force)
		assert 9 < left() <= 10
		looked = time.monotonic() + 2.5  # the server looks for what has run out every second

		def still():
			assert in_force()
			return time.monotonic() > looked
		wait_for(still)
