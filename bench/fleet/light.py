"""Many light agents on one thread: each has a connection of its own and speaks docs/agent-protocol.md "Over a wire", with one process and one site to tell of.
Used by bench/fleet/bench.py and tests/flow/test_fleet.py."""
import json
import selectors
import socket
import threading
import time


class Light:
	"""One agent. What it was asked is in `asked`; what it has in `rules` and `generation`, and when a generation was acknowledged by the server in `acked`."""

	def __init__(self, fleet, n, host):
		self.fleet, self.n, self.host, self.id = fleet, n, host, f"{host}-{n}"
		self.rules, self.generation, self.acked, self.asked, self.pending = {}, 0, {}, [], None
		self.refuse = self.silent = False
		self.inbox, self.state, self.status = b"", "new", 0
		self.sock = None

	def connect(self):
		self.sock = socket.create_connection(self.fleet.address)
		self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
		self.sock.setblocking(False)
		self.fleet.selector.register(self.sock, selectors.EVENT_READ, self)

	def close(self):
		if self.sock:
			self.fleet.selector.unregister(self.sock)
			self.sock.close()
			self.sock = None

	def post(self, path, body):
		data = json.dumps(body).encode()
		self.sock.setblocking(True)
		self.sock.sendall(b"POST " + path.encode() + b" HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(data) + data)
		self.sock.setblocking(False)

	def poll(self):
		self.state = "poll"
		self.post("/agent/v1/poll", {"agent": self.id, "host": self.host, "generation": self.generation})

	def readable(self):
		try:
			data = self.sock.recv(1 << 20)
		except BlockingIOError:
			return
		if not data:
			self.state = "closed"
			self.close()
			return
		self.inbox += data
		head, sep, rest = self.inbox.partition(b"\r\n\r\n")
		if not sep:
			return
		length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
		if len(rest) < length:
			return
		body, self.inbox, self.status = rest[:length], rest[length:], int(head.split()[1])
		self.arrived(body)

	def arrived(self, body):
		if self.state == "bare":
			self.fleet.bare.append(time.monotonic() - self.fleet.started)
			self.state = "idle"
		elif self.state == "answer":
			if self.pending is not None:
				self.acked[self.pending] = time.monotonic()
				self.pending = None
			self.poll()
		elif self.status != 200:
			self.state = "refused"
			self.problem = json.loads(body)
		else:
			answers = [self.answer(q) for q in json.loads(body)["requests"]]
			if self.silent:
				return self.poll()
			if not answers:
				return self.poll()
			self.state = "answer"
			self.post("/agent/v1/answer", {"agent": self.id, "answers": answers})

	def answer(self, q):
		method, p = q["method"], q["params"] or {}
		self.asked.append(method)
		site = {"id": "00000000000000%02x" % (self.n % 4), "name": f"op{self.n % 4}", "service": "light", "level": "off", "kind": "span", "instances": 1, "pids": [100 + self.n]}
		result = {}
		if method == "change":
			if p["base"] not in (-1, self.generation):
				return {"id": q["id"], "rc": -208, "error": {"message": "another generation", "hint": ""}}
			if self.refuse:
				return {"id": q["id"], "rc": -206, "error": {"message": "I do not like these rules", "hint": ""}}
			if not p.get("dry_run"):
				if p["base"] == -1:
					self.rules = {}
				for r in p.get("set", []):
					self.rules[r["id"]] = r
				for r in p.get("remove", []):
					self.rules.pop(r, None)
				self.generation = self.pending = p["generation"]
			result = {"generation": self.generation, "applied": True, "ack_nano": 1000, "instances": 1, "processes": 1, "changed": 1, "changes": [], "rules": [
				{"id": r["id"], "sites": 1, "instances": 1, "processes": 1, "predicted": self.cost()} for r in p.get("set", [])], "predicted": self.cost(), "warnings": []}
		elif method == "on":
			result = {"sites": 1, "instances": 1, "processes": 1, "services": ["light"], "sample": [site], "predicted": self.cost(), "applied": False, "ack_nano": 0}
		elif method == "ls":
			result = {"sites": [site], "matched": 1, "instances": 1, "processes": 1}
		elif method == "ps":
			result = {"processes": [{"pid": 100 + self.n, "service": "light", "exe": "/bin/light", "cmdline": "light", "user": "root", "state": "live", "sites": 4, "on": 0,
				"threads": 1, "rings": 1, "modules": 1, "made": 10, "passed": 10, "open": 0, "dropped": {}, "overhead_percent": .1, "instance": (self.n % 100) / 100}],
				"agent": {"cpu_percent": .1}, "generation": self.generation, "host": self.host}
		elif method == "account":
			result = {"made": 0, "passed": 0, "carried": 0, "open": 0, "dropped": {}, "processes": []}
		elif method == "health":
			result = {"clock": {"ok": True, "value": 5, "limit": 10000, "what": "ns"}}
		elif method == "toggles":
			result = {"toggles": []}
		return {"id": q["id"], "rc": 0, "result": result}

	@staticmethod
	def cost():
		return {"known": True, "calls_per_s": 1.0, "spans_per_s": 1.0, "bytes_per_s": 60.0, "cpu_percent": .01, "basis": "measured 1 s"}


class Fleet:
	"""n agents on a thread. `with Fleet(address, 1000) as f`."""

	def __init__(self, address, n, hosts="host{}"):
		host, _, port = address.replace("http://", "").rpartition(":")
		self.address = (host, int(port))
		self.selector = selectors.EpollSelector()
		self.agents = [Light(self, i, hosts.format(i)) for i in range(n)]
		self.bare, self.started, self.lock, self.ending = [], 0, threading.Lock(), False

	def __enter__(self):
		for a in self.agents:
			a.connect()
		self.round_trip()
		for a in self.agents:
			a.poll()
		self.thread = threading.Thread(target=self.run, daemon=True)
		self.thread.start()
		return self

	def round_trip(self):
		"""The floor: a request of no work on every connection at once."""
		self.bare = []
		self.started = time.monotonic()
		for a in self.agents:
			a.state = "bare"
			a.sock.send(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
		while len(self.bare) < len(self.agents):
			self.turn()

	def turn(self):
		for key, _ in self.selector.select(.1):
			key.data.readable()

	def run(self):
		while not self.ending:
			with self.lock:
				self.turn()

	def __exit__(self, *_):
		self.ending = True
		self.thread.join()
		for a in self.agents:
			a.close()
