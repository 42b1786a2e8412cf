#!/usr/bin/python3
"""The shop's throughput: built without probes, with all probes off, and with everything at `span`; in turn, several rounds, ratios pair by pair.

Prints `name value unit [ratio against the build without probes]` lines for bench/run."""
import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def main():
	p = argparse.ArgumentParser(description=__doc__)
	p.add_argument("--build", default=os.path.join(TOP, "build"))
	p.add_argument("--rounds", type=int, default=5)
	p.add_argument("--seconds", type=int, default=3)
	a = p.parse_args()
	klieg = os.path.join(a.build, "klieg")
	with tempfile.TemporaryDirectory() as tmp:
		env = {k: v for k, v in os.environ.items() if not k.startswith("KLIEG_")}
		env["KLIEG_DIR"] = os.path.join(tmp, "klieg")
		procs = []

		def start(cmd, ready):
			q = subprocess.Popen(cmd, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL, env=env, text=True)
			procs.append(q)
			m = re.match(ready, q.stdout.readline())
			if not m:
				sys.exit(f"{cmd[0]} did not start")
			return m
		try:
			start([klieg, "up", "--dir", env["KLIEG_DIR"], "--http", "127.0.0.1:0", "--otlp-http", "127.0.0.1:0"], r"ready (http=\S+)")
			shop = os.path.join(TOP, "examples/shop/shop")
			bare = start([shop, "up", "--build", a.build, "--state", tmp + "/bare", "--bare"], r"shop ready url=(\S+)")[1]
			full = start([shop, "up", "--build", a.build, "--state", tmp + "/full"], r"shop ready url=(\S+)")[1]

			def load(url):
				r = subprocess.run([os.path.join(a.build, "examples/shop/shop-load"), "--url", url, "--connections", "4", "--seconds", str(a.seconds)],
					capture_output=True, text=True, check=True)
				doc = json.loads(r.stdout)
				if doc["errors"]:
					sys.exit(f"the shop answered {doc['errors']} of {doc['requests']} requests with an error")
				return doc["per_second"]

			def cli(*args):
				subprocess.run([klieg, *args], env=env, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
			load(bare), load(full)
			got = {"bare": [], "off": [], "span": [], "detail": []}
			for _ in range(a.rounds):
				got["bare"].append(load(bare))
				got["off"].append(load(full))
				for level in ("span", "detail"):
					cli("on", "*", "--level", level, "--ttl", "5m", "--reason", "bench")
					got[level].append(load(full))
					cli("off", "--all")
			base = statistics.median(got["bare"])
			print(f"shop_without_probes {base:.0f} requests/s")
			for level in ("off", "span", "detail"):
				ratios = [x / y for x, y in zip(got[level], got["bare"])]
				print(f"shop_probes_{level} {statistics.median(got[level]):.0f} requests/s {statistics.median(ratios):.3f}")
			spread = [x / base for x in got["bare"]]
			print(f"shop_noise {min(spread):.3f}..{max(spread):.3f} spread of the build without probes")
		finally:
			for q in reversed(procs):
				q.terminate()
			for q in procs:
				q.wait()


main()
