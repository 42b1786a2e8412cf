"""What somebody else's monitoring sees of Klieg: /metrics by Prometheus' own rules, /healthz, /readyz."""
import math
import os
import re
import shutil
import subprocess
import sys

import pytest

from conftest import TOP, Up, wait_for
from test_loop import SERVICE

sys.path.insert(0, os.path.join(TOP, "bench/fleet"))
from light import Fleet  # noqa: E402

SAMPLE = re.compile(r'^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{((?:[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\["\\n])*",?)*)\})? (\S+)$')
LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"')


class Server(Up):
	command = "server"


def read(up):
	"""{name: {labels: value}}, parsed strictly: HELP and TYPE before the samples, families in one piece, no sample twice."""
	status, text = up.request("GET", "/metrics", raw=True)
	assert status == 200
	text = text.decode()
	assert text.endswith("\n")
	families, samples, current = {}, {}, None
	for line in text.splitlines():
		if line.startswith("# HELP "):
			name, _, about = line[7:].partition(" ")
			assert name not in families and about.endswith("."), line
			families[name], current = None, name
		elif line.startswith("# TYPE "):
			name, kind = line[7:].split(" ")
			assert name == current and families[name] is None and kind in ("counter", "gauge", "histogram"), line
			families[name] = kind
			assert name.endswith("_total") == (kind == "counter"), line
		else:
			m = SAMPLE.match(line)
			assert m, line
			name, value = m[1], float(m[3])
			base = re.sub(r"_(bucket|sum|count)$", "", name) if families[current] == "histogram" else name
			assert base == current, f"{line} is not in its family"
			labels = tuple(LABEL.findall(m[2] or ""))
			assert labels not in samples.setdefault(name, {}), f"{line} is there twice"
			assert not math.isnan(value)
			samples[name][labels] = value
	if shutil.which("promtool"):
		r = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True)
		assert r.returncode == 0 and not r.stdout and not r.stderr, r.stdout + r.stderr
	return samples


def value(samples, name, **labels):
	found = [v for k, v in samples[name].items() if all(dict(k).get(a) == b for a, b in labels.items())]
	assert len(found) == 1, (name, labels, samples[name])
	return found[0]


def test_metrics_tell_volume_steering_and_cost_and_agree_with_the_doctor(klieg_up, cc, spawn):
	up = klieg_up
	first = read(up)
	assert value(first, "klieg_agents_connected") == 1 and value(first, "klieg_spans_made_total") == 0
	p = spawn([cc(SERVICE), 'odd "name" \\ of\nservice'], env={**os.environ, "KLIEG_SOCKET": up.socket}, stdout=subprocess.PIPE)
	p.stdout.readline()
	wait_for(lambda: [x for x in up.get("/processes")["processes"] if x["pid"] == p.pid])
	up.switch("inner")
	wait_for(lambda: value(read(up), "klieg_spans_stored_total") > 100)
	now = read(up)
	assert value(now, "klieg_toggles") == 1 and value(now, "klieg_rules") == 1 and value(now, "klieg_agents_behind") == 0
	assert value(now, "klieg_process_sites_on", pid=str(p.pid)) == 1
	assert value(now, "klieg_process_policy_generation", pid=str(p.pid)) == value(now, "klieg_policy_generation") > value(first, "klieg_policy_generation")
	assert 0 <= value(now, "klieg_process_overhead_percent", pid=str(p.pid)) < 100
	buckets = [v for _, v in sorted(now["klieg_toggle_ack_seconds_bucket"].items(), key=lambda x: float(dict(x[0])["le"]))]
	assert buckets == sorted(buckets) and buckets[-1] == value(now, "klieg_toggle_ack_seconds_count") >= 1
	up.all_off()
	account = wait_for(up.settled)
	last = read(up)
	assert value(last, "klieg_spans_made_total") == account["made"] and value(last, "klieg_spans_stored_total") == account["stored"]
	for reason, n in account["dropped"].items():
		assert value(last, "klieg_spans_dropped_total", reason=reason) == n
	assert value(last, "klieg_account_balanced") == 1 and value(last, "klieg_store_queue_bytes") < value(last, "klieg_store_queue_bytes_limit")
	for name, rows in now.items():  # counters never go back
		if name.endswith("_total"):
			assert all(last[name].get(k, 0) >= v for k, v in rows.items()), name


@pytest.mark.waits
def test_a_dead_agent_costs_its_rows_and_not_the_scrape(tmp_path):
	up = Server(tmp_path / "server")
	try:
		assert value(read(up), "klieg_agents_connected") == 0
		with Fleet(up.http, 20) as fleet:
			fleet.agents[4].silent = True
			got = read(up)
			assert value(got, "klieg_agents_connected") == 20 and value(got, "klieg_agents_unreachable") == 1
			assert len(got["klieg_process_overhead_percent"]) == 19 and len(got["klieg_agent_policy_generation"]) == 20
			assert up.request("GET", "/readyz", raw=True) == (200, b"ok\n")
		wait_for(lambda: value(read(up), "klieg_agents_unreachable") == 20)
		assert up.request("GET", "/readyz", raw=True) == (200, b"ok\n"), "a server without agents still takes spans"
		assert up.request("GET", "/healthz", raw=True) == (200, b"ok\n")
	finally:
		up.stop()
