"""The dashboard in a real browser (web/tests/*.spec.mjs): real spans over OTLP, a real traced program, a fresh `klieg up` for every file."""
import glob
import os
import shutil
import subprocess

import pytest

from conftest import TOP, wait_for

CHROMIUM = "/usr/bin/chromium"
WEB = os.path.join(TOP, "web")
SPECS = sorted(os.path.basename(p) for p in glob.glob(os.path.join(WEB, "tests", "*.spec.mjs")))

PROGRAM = r"""
#define KLIEG_COMPONENT "work"
#include <klieg/klieg.h>
#include <poll.h>
#include <stdio.h>
static void inner(int i)
{
	KLIEG_SPAN("inner", KLIEG_INT("i", i), KLIEG_STR("tenant", i % 2 ? "a" : "b"));
}
int main(int argc, char **argv)
{
	klieg_init(&(struct klieg_options){ .size = sizeof(struct klieg_options), .service = argc > 1 ? argv[1] : "demo" });
	puts("up");
	fflush(stdout);
	while (argc > 1) { /* so many calls that tracing them all would be over the budget, but little work */
		for (int i = 0; i < 3000; i++) {
			KLIEG_SPAN("spin");
		}
		poll(NULL, 0, 1);
	}
	for (int i = 0;; i++) {
		{
			KLIEG_SPAN("outer");
			inner(i);
			inner(i + 1);
		}
		poll(NULL, 0, 1);
	}
}
"""

# Slow where it is traced, as if that did harm.
HARMED = r"""
#define KLIEG_COMPONENT "work"
#include <klieg/klieg.h>
#include <poll.h>
static int harmed(void)
{
	KLIEG_SPAN_AS(s, "step");
	return s.open != 0;
}
int main(void)
{
	klieg_init(&(struct klieg_options){ .size = sizeof(struct klieg_options), .service = "harm" });
	for (;;) {
		KLIEG_SERVER_SPAN_AS(r, "request");
		poll(NULL, 0, harmed() ? 20 : 1);
	}
}
"""

# Knows nothing of Klieg.
PLAIN = r"""
#include <poll.h>
#include <stdio.h>
#include <string.h>
#define FUNCTION __attribute__((noinline, noipa))
static volatile long sum;
FUNCTION static long parse_request(const char *text)
{
	long n = 0;
	for (int i = 0; i < 2000; i++)
		n += text[i % 16] * i;
	return n;
}
FUNCTION static void send_reply(long n)
{
	for (int i = 0; i < 1000; i++)
		sum += n ^ i;
}
FUNCTION static void handle_request(const char *text, void (*reply)(long))
{
	reply(parse_request(text));
	sum++;
}
int main(void)
{
	puts("up");
	fflush(stdout);
	for (;;) {
		handle_request("GET / HTTP/1.1\n", send_reply);
		poll(NULL, 0, 1);
	}
}
"""


@pytest.fixture
def plain(tmp_path, spawn):
	"""The pid of a running program without libklieg."""
	(tmp_path / "plain.c").write_text(PLAIN)
	exe = str(tmp_path / "plain-target")
	subprocess.run(["gcc", "-O2", "-g", str(tmp_path / "plain.c"), "-o", exe], check=True)
	p = spawn([exe], stdout=subprocess.PIPE)
	assert p.stdout.readline() == b"up\n"
	return p.pid


@pytest.mark.skipif(not os.path.exists(CHROMIUM), reason=f"{CHROMIUM} is not installed")
@pytest.mark.parametrize("spec", [pytest.param(s, marks=pytest.mark.waits) if s == "policies.spec.mjs" else s for s in SPECS])
def test_dashboard(klieg_up, spawn, cc, spec, request, tmp_path):
	p = spawn([cc(PROGRAM)], env=klieg_up.env, stdout=subprocess.PIPE)
	assert p.stdout.readline() == b"up\n"
	wait_for(lambda: [x for x in klieg_up.get("/processes")["processes"] if x["pid"] == p.pid and x["state"] == "live"])
	if spec == "toggles.spec.mjs":
		spawn([cc(PROGRAM), "busy"], env=klieg_up.env, stdout=subprocess.DEVNULL)
	for _ in range(2 if spec == "policies.spec.mjs" else 0):
		spawn([cc(HARMED)], env=klieg_up.env, stdout=subprocess.DEVNULL)
	env = dict(os.environ, KLIEG_HTTP=klieg_up.http, KLIEG_OTLP=klieg_up.otlp, KLIEG_PID=str(p.pid))
	if spec == "attach.spec.mjs":
		env["KLIEG_TARGET"] = str(request.getfixturevalue("plain"))
		env["KLIEG_REDIS_SOCKET"] = str(tmp_path / "redis.sock")
		server = spawn(["redis-server", "--port", "0", "--unixsocket", env["KLIEG_REDIS_SOCKET"], "--save", "", "--dir", str(tmp_path)], stdout=subprocess.DEVNULL)
		env["KLIEG_REDIS"] = str(server.pid)
		wait_for(lambda: os.path.exists(env["KLIEG_REDIS_SOCKET"]))
	r = subprocess.run([shutil.which("node"), "--test", "--test-reporter=spec", os.path.join("tests", spec)], cwd=WEB, env=env,
		capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL)
	assert r.returncode == 0, r.stdout[-6000:] + r.stderr[-2000:]
	assert p.poll() is None
