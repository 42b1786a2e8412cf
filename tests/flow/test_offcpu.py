"""Where a span's time went: on the CPU or off it; unknown rather than wrong."""
import re
import subprocess

import pytest

from conftest import Up, wait_for

PROGRAM = r"""
#include <klieg/klieg.h>
#include <stdio.h>
#include <time.h>
static void sleeps(void) { KLIEG_SPAN("sleeps"); nanosleep(&(struct timespec){ 0, 20000000 }, NULL); }
static void burns(void)
{
	KLIEG_SPAN("burns");
	struct timespec t;
	do clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t); while ((t.tv_nsec / 5000000) % 2 == 0);
	do clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t); while ((t.tv_nsec / 5000000) % 2 == 1);
}
int main(void) { printf("up\n"); fflush(stdout); for (;;) { KLIEG_SPAN("both"); sleeps(); burns(); } }
"""


@pytest.mark.parametrize("way, under", [("BPF", ()), ("perf events", ("setpriv", "--bounding-set=-bpf,-sys_admin"))])
def test_time_on_and_off_the_cpu(tmp_path, request, spawn, cc, way, under):
	"""By the kernel's program at each switch; an agent that may not load one asks for the switches of single threads."""
	if under and subprocess.run([*under, "true"], capture_output=True).returncode:
		pytest.skip("capabilities may not be given up here")
	klieg_up = Up(tmp_path / "klieg", under=under)
	request.addfinalizer(klieg_up.stop)
	p = spawn([cc(PROGRAM)], env=klieg_up.env, stdout=subprocess.PIPE)
	p.stdout.readline()
	wait_for(lambda: klieg_up.get("/processes")["processes"])
	klieg_up.cli("on", "*", "--level", "detail")

	def known(name):
		spans = klieg_up.cli("query", '{ name = "%s" && .klieg.cpu_nano != nil }' % name, "--since", "1m", json_out=True)["spans"]
		return spans[:5] if len(spans) >= 5 else None
	refused = "on- and off-CPU time of spans is not known here.*" if under else "context switches are not read by BPF here.*"

	def followed():
		said = re.search(r"at level detail \((\d+) by BPF, (\d+) by perf", str(klieg_up.get("/doctor")))
		return re.search(refused, open(klieg_up.log.name).read()) or (said and said.groups() != ("0", "0") and said)
	said = wait_for(followed)
	if said.re.groups == 0:
		pytest.skip(said[0])
	assert said.groups() == (("1", "0") if way == "BPF" else ("0", "1")), said[0]
	for s in wait_for(lambda: known("sleeps")):
		a = s["attributes"]
		assert a["klieg.cpu_nano"] + a["klieg.off_cpu_nano"] <= s["duration_nano"] + 2 and a["klieg.off_cpu_nano"] >= 19_000_000, s
	for s in wait_for(lambda: known("burns")):
		assert s["attributes"]["klieg.cpu_nano"] >= 4_000_000, s
	for s in wait_for(lambda: known("both")):
		assert s["attributes"]["klieg.off_cpu_nano"] >= 19_000_000 and s["attributes"]["klieg.cpu_nano"] >= 4_000_000, s
	klieg_up.cli("off", "--all")
	klieg_up.cli("on", "*", "--level", "span")
	wait_for(lambda: klieg_up.cli("query", '{ name = "both" && .klieg.cpu_nano = nil }', "--since", "1m", json_out=True)["spans"])
