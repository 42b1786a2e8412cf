#!/usr/bin/python3
"""A storm: everything of the shop is switched on at `detail` while a loop in payment passes a probe ten million times a second.

How long until the measured overhead is under its limit for good, what requests then take when that is over, beside the same with nothing switched on (in turn, so that each has the other's weather: a side's quantile is of
all its requests, its ratio has an interval by drawing pairs again, the bootstrap of Efron), whether anything is uncounted. Prints `name value unit [ratio, note]` lines for bench/run. Usage: bench.py BUILD [PAIRS]."""
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = sys.argv[1] if len(sys.argv) > 1 else os.path.join(TOP, "build")
PAIRS = int(sys.argv[2]) if len(sys.argv) > 2 else 25
RATE = 700         # requests/s, three of four are charges, each passes LEDGER_ENTRIES probes (examples/shop/payment.c)
ENTRIES = 20000
PATIENCE = 30
WINDOW = 4         # seconds, of each half of a pair
SETTLE = 3         # before it: the storm is shed


def quantile(histograms, q):
	total = {}
	for h in histograms:
		for us, n in h:
			total[us] = total.get(us, 0) + n
	left = q * sum(total.values())
	for us in sorted(total):
		left -= total[us]
		if left <= 0:
			return us


def main():
	procs = []
	with tempfile.TemporaryDirectory() as tmp:
		env = {k: v for k, v in os.environ.items() if not k.startswith(("KLIEG_", "OTEL_"))}
		env["KLIEG_DIR"] = os.path.join(tmp, "klieg")
		shop = os.path.join(TOP, "examples/shop/shop")

		def start(cmd, ready):
			q = subprocess.Popen(cmd, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL, env=env, text=True)
			procs.append(q)
			m = re.match(ready, q.stdout.readline())
			if not m:
				sys.exit(f"{cmd[0]} did not start")
			return m[1]

		def load(url, seconds=None):
			cmd = [os.path.join(BUILD, "examples/shop/shop-load"), "--url", url, "--connections", "8", "--rate", str(RATE), "--histogram", "1"]
			return subprocess.Popen(cmd + (["--seconds", str(seconds)] if seconds else []), stdout=subprocess.PIPE, text=True)

		def finished(q):
			out, _ = q.communicate()
			return json.loads(out)
		try:
			http = start([os.path.join(BUILD, "klieg"), "up", "--dir", env["KLIEG_DIR"], "--http", "127.0.0.1:0", "--otlp-http", "127.0.0.1:0"], r"ready http=(\S+)")
			url = start([shop, "up", "--build", BUILD, "--state", tmp + "/shop"], r"shop ready url=(\S+)")
			subprocess.run([shop, "fault", "audit", "on", "--state", f"{tmp}/shop"], check=True, stdout=subprocess.DEVNULL)

			def api(method, path, body=None):
				r = urllib.request.Request(http + "/api/v1" + path, data=json.dumps(body).encode() if body else None, method=method, headers={"Content-Type": "application/json"})
				with urllib.request.urlopen(r, timeout=30) as f:
					return json.loads(f.read())

			def overhead():
				rows = api("GET", "/overhead")["processes"]
				return max(rows, key=lambda r: r["measured_percent"] / (r["limit_percent"] or 1))
			switch_on = lambda: api("POST", "/toggles", {"selector": "*", "level": "detail", "ttl": "10m", "estimate": "0s", "reason": "bench"})
			finished(load(url, 2))
			load_now = load(url)
			time.sleep(1)
			begun = time.monotonic()
			switch_on()
			over_at, over, highest = begun, True, 0.0
			while time.monotonic() < begun + 8:
				worst = overhead()
				over = worst["measured_percent"] > worst["limit_percent"]
				highest = max(highest, worst["measured_percent"])
				over_at = time.monotonic() if over else over_at
				time.sleep(.02)
			load_now.terminate()
			done = finished(load_now)
			print(f"storm_offered {done['per_second'] * .75 * ENTRIES / 1e6:.1f} Mhits/s")
			print(f"storm_highest_overhead {highest:.1f} % of payment's CPU time, over a second")
			print(f"storm_until_under_limit {over_at - begun:.2f} s bar<=2.0")
			shed = [(s["name"], s["from"], s["to"]) for p in api("GET", "/overhead")["processes"] for s in p["shed"]]
			print(f"storm_shed {len(shed)} sites {','.join(sorted({s[0] for s in shed}))}")
			pairs, after = [], []
			for _ in range(PAIRS):
				pair = {}
				for which in ("on", "off"):
					finished(load(url, SETTLE))
					pair[which] = finished(load(url, WINDOW))["histogram_us"]
					after.append(overhead())
					switch_on() if which == "off" else api("DELETE", "/toggles?all=true")
				pairs.append(pair)
			measured = [x["measured_percent"] for x in after[::2]]
			print(f"storm_overhead_after {statistics.median(measured):.2f} % limit={after[-2]['limit_percent']:.2f},highest_{max(measured):.2f}")
			again = random.Random(1)
			for name, q in (("p50", .5), ("p99", .99)):
				ratio = lambda drawn: quantile([p["on"] for p in drawn], q) / quantile([p["off"] for p in drawn], q)
				drawn = sorted(ratio(again.choices(pairs, k=PAIRS)) for _ in range(1000))
				print(f"storm_shop_{name} {quantile([p['on'] for p in pairs], q):.0f} us {ratio(pairs):.3f}x_untraced(95_%_{drawn[25]:.2f}..{drawn[974]:.2f},{PAIRS}_pairs_of_{WINDOW}_s)")
			until = time.monotonic() + PATIENCE
			while True:
				a = api("GET", "/doctor")["account"]
				if (a["balanced"] and a["open"] == a["queued"] == 0) or time.monotonic() > until:
					break
				time.sleep(.1)
			dropped = sum(a["dropped"].values())
			print(f"storm_uncounted {a['made'] - a['stored'] - dropped - a['open'] - a['queued']} spans of_{a['made']}_made:_{a['stored']}_stored,_{dropped}_dropped_for_a_reason")
			api("DELETE", "/toggles?all=true")
		finally:
			for q in reversed(procs):
				q.terminate()
			for q in procs:
				q.wait()


main()
