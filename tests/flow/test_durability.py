"""What was acknowledged is there: after kill -9 under load, and when the disk fills up."""
import http.client
import json
import os
import subprocess
import threading
import time

import pytest

from conftest import Up, wait_for
from test_otlp import PROTO, account, post, request, rpc_status, span, stored


class Sender(threading.Thread):
	"""Sends batches over one connection until the server goes away; remembers which span ids were acknowledged."""

	def __init__(self, up, spans):
		super().__init__()
		self.up, self.spans, self.acked, self.unsure = up, spans, [], []
		self.start()

	def run(self):
		c = http.client.HTTPConnection(self.up.otlp.split("//")[1], timeout=30)
		while True:
			ids = [os.urandom(8) for _ in range(self.spans)]
			try:
				c.request("POST", "/v1/traces", request(*(span(span_id=i, name="load") for i in ids)), {"Content-Type": PROTO})
				r = c.getresponse()
				r.read()
			except (OSError, http.client.HTTPException):
				self.unsure += ids  # sent, perhaps stored, never acknowledged
				c.close()
				return
			assert r.status == 200
			self.acked += ids


def all_ids(up):
	"""Ids of all stored spans, as often as they are stored; in time slices, since an answer is bounded."""
	ids, end = [], time.time_ns() + 10**9
	todo = [(end - 600 * 10**9, end)]
	while todo:
		a, b = todo.pop()
		d = up.get(f"/spans?from={a}&to={b}&limit=10000")
		assert not d["partial"]
		if d["matched"] > len(d["spans"]):
			todo += [(a, (a + b) // 2), ((a + b) // 2, b)]
		else:
			ids += [bytes.fromhex(s["span_id"]) for s in d["spans"]]
	return ids


def test_kill_9_under_load_loses_nothing_acknowledged_and_doubles_nothing(tmp_path):
	up = Up(tmp_path / "klieg")
	try:
		acked, unsure = set(), set()
		for round_ in range(3):
			senders = [Sender(up, n) for n in (1, 10, 100, 300)]
			wait_for(lambda: all(len(s.acked) >= 5 * s.spans for s in senders))
			up.kill()
			for s in senders:
				s.join(30)
				acked.update(s.acked)
				unsure.update(s.unsure)
			up.start()
			found = all_ids(up)
			assert len(found) == len(set(found)), "spans are doubled"
			assert acked <= set(found), f"round {round_}: {len(acked - set(found))} of {len(acked)} acknowledged spans are gone"
			assert set(found) <= acked | unsure
		assert post(up, request(span()))[0] == 200
	finally:
		up.stop()


def mount(path):
	path.mkdir()
	return os.geteuid() == 0 and subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "klieg-test", str(path)], capture_output=True).returncode == 0


def test_full_disk_is_said_counted_and_survived(tmp_path):
	disk = tmp_path / "disk"
	if not mount(disk):
		pytest.skip("needs root to mount a small tmpfs")
	up = None
	try:
		up = Up(disk / "klieg")
		acked = refused = 0
		while not refused:
			n, body = 200, request(*(span(name=os.urandom(1500).hex()) for _ in range(200)))
			status, headers, answer = post(up, body)
			assert status in (200, 503, 507), answer
			if status == 200:
				acked += n
				assert acked < 100000
			else:
				refused += n
		assert headers["Retry-After"] and headers["Content-Type"] == PROTO
		code, message = rpc_status(headers, answer)
		assert code == 14 and message
		assert up.request("GET", "/healthz", raw=True)[0] == 200 and up.request("GET", "/readyz", raw=True)[0] == 503
		a = account(up)
		assert (a["made"], a["stored"], a["dropped"]["store_failed"]) == (acked + refused, acked, refused)
		d = up.get("/doctor")
		assert not d["ok"] and [c for c in d["checks"] if c["name"] == "store.error" and not c["ok"] and c["value"]]
		assert stored(up) == acked  # it still answers, and what it acknowledged is there
		subprocess.run(["mount", "-o", "remount,size=200m", str(disk)], check=True)

		def taken():
			status, _, answer = post(up, request(span(name="again")))
			assert status in (200, 503, 507), answer
			return status == 200
		wait_for(taken)
		assert stored(up, '{ name = "again" }') == 1 and stored(up) == acked + 1
		assert up.request("GET", "/readyz", raw=True)[0] == 200 and account(up)["queued"] == 0
		up.kill()
		up.start()
		assert stored(up) == acked + 1
	finally:
		if up:
			up.kill()
		subprocess.run(["umount", "-l", str(disk)])
