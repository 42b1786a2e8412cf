#!/usr/bin/python3
"""How long a change of rules takes to reach 1,000 agents and be acknowledged by each, over a connection each, beside the floor: a bare HTTP round trip on the same
connections, all at once, in the same run. `bench.py BUILD [N]`. Prints `name value unit note`."""
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
import urllib.request

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from light import Fleet  # noqa: E402


def quantile(values, q):
	values = sorted(values)
	return values[min(len(values) - 1, int(q * len(values)))]


def main():
	build, n = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 1000
	resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
	with tempfile.TemporaryDirectory() as d:
		p = subprocess.Popen([f"{build}/klieg", "server", "--dir", d, "--http", "127.0.0.1:0", "--otlp-http", "127.0.0.1:0"], stdout=subprocess.PIPE,
			stderr=subprocess.DEVNULL, text=True)
		try:
			http = re.search(r"http=(http://\S+)", p.stdout.readline())[1]
			measure(http, n)
		finally:
			p.terminate()
			p.wait(10)


def call(http, method, path, body=None):
	r = urllib.request.Request(http + "/api/v1" + path, method=method, data=json.dumps(body).encode() if body is not None else None, headers={"Content-Type": "application/json"})
	with urllib.request.urlopen(r, timeout=60) as f:
		return json.loads(f.read())


def rounds(http, fleet, times):
	"""Per agent, the time from the request that changes the rules to the server's receipt of the acknowledgement; and of each request as a whole."""
	acks, whole = [], []
	for _ in range(times):
		toggle = call(http, "POST", "/toggles", {"selector": "op1", "ttl": "5m", "estimate": "0s"})["toggle"]["id"]
		before = {a: len(a.acked) for a in fleet.agents}
		start = time.monotonic()
		call(http, "DELETE", f"/toggles/{toggle}")
		whole.append(time.monotonic() - start)
		end = time.monotonic() + 20
		while any(len(a.acked) == before[a] for a in fleet.agents):
			if time.monotonic() > end:
				sys.exit("not every agent acknowledged within 20 s")
			time.sleep(.005)
		acks += [max(a.acked.values()) - start for a in fleet.agents]
	return acks, whole


def measure(http, n):
	fleet = Fleet(http, n)
	with fleet:
		floor = list(fleet.bare)
		acks, whole = rounds(http, fleet, 5)
	for name, values in (("bare_round_trip", floor), ("change_acknowledged", acks), ("request", whole)):
		for q in (.5, .99):
			ratio = f"{quantile(values, q) / quantile(floor, q):.1f} x the floor" if values is not floor else f"{n} connections at once"
			print(f"{name}_p{int(q * 100)} {quantile(values, q) * 1e3:.1f} ms {ratio}")


if __name__ == "__main__":
	main()
