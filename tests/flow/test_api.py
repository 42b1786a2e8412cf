"""The API against its own description, and what it does with bad input."""
import http.client
import json
import re
import select
import socket
import subprocess
import urllib.parse

import pytest

from conftest import wait_for
from test_loop import SERVICE
from test_otlp import post, request, span


def valid(value, schema, doc, at="answer"):
	"""Asserts that value is what the schema (the part of JSON Schema that the API uses) says."""
	if "$ref" in schema:
		return valid(value, doc["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]], doc, at)
	if "anyOf" in schema:
		assert {"type": "null"} in schema["anyOf"]
		return value is None or valid(value, schema["anyOf"][0], doc, at)
	types = schema.get("type", [])
	types = [types] if isinstance(types, str) else types
	is_a = {"string": str, "integer": int, "number": (int, float), "boolean": bool, "array": list, "object": dict, "null": type(None)}
	assert not types or any(isinstance(value, is_a[t]) and (t == "boolean" or not isinstance(value, bool)) for t in types), f"{at}: {value!r} is not {types}"
	if isinstance(value, list) and "items" in schema:
		for i, v in enumerate(value):
			valid(v, schema["items"], doc, f"{at}[{i}]")
	if isinstance(value, dict):
		for k in schema.get("required", []):
			assert k in value, f"{at}.{k} is missing: {value}"
		for k, v in value.items():
			if k in schema.get("properties", {}):
				valid(v, schema["properties"][k], doc, f"{at}.{k}")
			elif isinstance(schema.get("additionalProperties"), dict):
				valid(v, schema["additionalProperties"], doc, f"{at}.{k}")


@pytest.fixture
def demo(klieg_up, spawn, cc):
	p = spawn([cc(SERVICE), "demo"], env=klieg_up.env, stdout=subprocess.PIPE)
	p.stdout.readline()
	wait_for(lambda: klieg_up.get("/processes")["processes"])
	return p


def address(up):
	host, port = up.http.split("//")[1].rsplit(":", 1)
	return host, int(port)


def raw(up, data, until_close=True, timeout=30):
	"""Sends bytes, returns all that comes back until the server closes (or the first read)."""
	with socket.create_connection(address(up), timeout=timeout) as s:
		try:
			s.sendall(data)
		except (BrokenPipeError, ConnectionResetError):
			pass
		out = b""
		while True:
			chunk = s.recv(65536)
			out += chunk
			if not chunk or not until_close:
				return out


def problem(up, status, code, method, path, body=None, headers=None):
	got, answer = up.request(method, path, body, headers)
	assert got == status and answer["status"] == status and answer["code"] == code, (method, path, got, answer)
	assert answer["title"] and answer["detail"]
	return answer


# ---- the description ----------------------------------------------------------------------------------------------------
def test_every_route_answers_as_it_is_described(klieg_up, demo):
	status, doc = klieg_up.request("GET", "/api/v1/openapi.json")
	assert status == 200 and doc["openapi"].startswith("3.1")
	tried = set()

	def call(method, path, body=None, expect=200, id="", pid=""):
		tried.add((method.lower(), "/api/v1" + path.split("?")[0]))
		op = doc["paths"]["/api/v1" + path.split("?")[0]][method.lower()]
		status, answer = klieg_up.request(method, "/api/v1" + path.replace("{id}", id).replace("{name}", id).replace("{pid}", str(pid)), body)
		assert status == expect, (method, path, status, answer)
		schema = op["responses"][str(expect)]["content"]["application/json"]["schema"]
		valid(answer, schema, doc, f"{method} {path}")
		return answer
	dry = call("POST", "/toggles", {"selector": "demo:*", "dry_run": True})
	assert dry["toggle"] is None and dry["plan"]["sites"] >= 4
	toggle = call("POST", "/toggles", {"selector": "demo:*", "level": "detail", "ttl": "5m", "reason": "test", "owner": "me", "where": "{ duration >= 0ns }"}, 201)["toggle"]
	wait_for(lambda: klieg_up.get("/spans?since=1m")["matched"] > 50)
	for path in ("/status", "/processes", "/sites", "/sites?sel=inner&limit=1", "/sites/stats?window=10s", "/toggles", "/toggles?all=true", "/spans?q={}&since=1m",
			"/heatmap?since=1m&columns=10", "/hot?since=1m", "/inflight", "/doctor", "/agents", "/openapi.json"):
		assert call("GET", path)
	assert klieg_up.get("/sites/stats")["sites"] and klieg_up.get("/hot?since=1m")["rows"] and klieg_up.get("/heatmap?since=1m")["exemplars"]
	spans = call("GET", "/spans")["spans"]
	trace = call("GET", "/traces/{id}", id=spans[0]["trace_id"])
	assert trace["spans"][0]["resource"]["service.name"] == "demo"
	assert call("PATCH", "/toggles/{id}", {"level": "span", "keep": 0.5, "ttl": "1m"}, id=toggle["id"])["keep"] == 0.5
	assert call("DELETE", "/toggles/{id}", id=toggle["id"])["removed"] == [toggle["id"]]
	assert call("DELETE", "/toggles/{id}", id=toggle["id"])["removed"] == []
	assert call("POST", "/toggles/undo")["toggles"][0]["id"] == toggle["id"]
	assert call("DELETE", "/toggles?sel=inner")["removed"] == [toggle["id"]]
	assert [t["state"] for t in call("GET", "/toggles?all=true")["toggles"]] == ["removed"]
	assert demo.pid in [c["pid"] for c in call("GET", "/candidates")["candidates"] if c["attachable"] and c.get("cmdline")]  # one that ends meanwhile has none
	assert call("POST", "/attachments", {"pid": demo.pid, "check": True})["attachments"][0]["attachable"] and not call("GET", "/attachments")["attachments"]
	assert call("POST", "/attachments", {"pid": demo.pid, "max_pause": "5ms", "roots": ["main"]})["attachments"][0]["functions"] > 1
	assert [a["pid"] for a in call("GET", "/attachments")["attachments"]] == [demo.pid] and call("GET", "/sites?sel=demo:main")["sites"][0]["kind"] == "function"
	assert call("GET", "/processes/{pid}/callees?function=main", pid=demo.pid)["callees"]
	assert call("GET", "/callgraph?root=demo:outer&since=5m&min_share=0")["roots"][0]["children"]
	assert call("DELETE", "/attachments/{pid}", pid=demo.pid)["text_identical"]
	assert call("DELETE", "/attachments?all=true") == {"detached": [], "refused": []}
	name = lambda method, path, *a, **k: call(method, path, *a, id="work", **k)
	yaml = "policy: work\nrules:\n  - name: outer\n    match: '{ name = \"outer\" }'\n    keep: 50%\n    rollout: [1 process]\nlimits:\n  - match: '{ }'\n    level: detail\n"
	assert call("POST", "/policies/check", {"text": yaml})["ok"] and not call("POST", "/policies/check", {"text": "policy: 5x /"})["ok"]
	assert call("POST", "/policies/plan", {"text": yaml, "replay": "1h"})["rules"][0]["replay"]["traces"]
	put = {"text": yaml, "expected_version": 0, "reason": "test", "author": "me", "soak": "1h"}
	assert name("PUT", "/policies/{name}", put)["rollout"]["steps"]
	wait_for(lambda: name("GET", "/policies/{name}/rollout")["evidence"])
	assert name("POST", "/policies/{name}/rollout", {"action": "stop"})["state"] == "stopped"
	assert [p["state"] for p in call("GET", "/policies")["policies"]] == ["stopped"]
	assert name("POST", "/policies/{name}/rollback", {"reason": "test"})["state"] == "off"
	assert name("PUT", "/policies/{name}", {**put, "expected_version": 2, "rollout": "now"})["version"] == 3
	assert name("GET", "/policies/{name}?version=1")["policy"]["rules"] and len(name("GET", "/policies/{name}/versions")["versions"]) == 3
	assert name("GET", "/policies/{name}/diff?from=1&to=3")["lines"]
	assert call("POST", "/tokens", {"service": "demo", "reason": "test"})["value"].startswith("v1.3.")
	problem(klieg_up, 400, "E200", "POST", "/api/v1/tokens", {})
	problem(klieg_up, 400, "E203", "POST", "/api/v1/tokens", {"service": "demo", "ttl": "16m"})
	for path in ("/policies", "/firings", "/alerts", "/overhead", "/policy.schema.json", "/agents", "/audit", "/plugins"):
		assert call("GET", path)
	assert call("POST", "/panic", {"reason": "test"})["policies"] == 1 and call("POST", "/panic/undo", {})["policies"] == 1
	assert name("DELETE", "/policies/{name}?reason=test")["state"] == "off"
	streams = {("get", "/api/v1/events"), ("get", "/api/v1/spans/tail")}
	described = {(m, p) for p, item in doc["paths"].items() for m in item}
	assert described - tried == streams
	for m, p in streams:
		assert "text/event-stream" in doc["paths"][p][m]["responses"]["200"]["content"]
	for m, p in described:
		op = doc["paths"][p][m]
		assert op["x-permission"] in ("view", "operate") and op["summary"]
		valid({"type": "about:blank", "title": "t", "status": 400, "detail": "d", "code": "E200"}, op["responses"]["default"]["content"]["application/problem+json"]["schema"], doc)


# ---- bad input ----------------------------------------------------------------------------------------------------------
def test_parameters_are_held_to_the_table(klieg_up):
	a = problem(klieg_up, 400, "E200", "GET", "/api/v1/spans?limt=5")
	assert "limt" in a["detail"] and a["hint"] == "did you mean: limit"
	problem(klieg_up, 400, "E200", "GET", "/api/v1/status?x=1")
	problem(klieg_up, 400, "E202", "GET", "/api/v1/spans?limit=many")
	problem(klieg_up, 400, "E203", "GET", "/api/v1/spans?limit=0")
	problem(klieg_up, 400, "E203", "GET", "/api/v1/spans?limit=10001")
	problem(klieg_up, 400, "E203", "GET", "/api/v1/spans?limit=99999999999999999999")
	problem(klieg_up, 400, "E202", "GET", "/api/v1/toggles?all=maybe")
	problem(klieg_up, 400, "E201", "GET", "/api/v1/spans?since=yesterday")
	problem(klieg_up, 400, "E200", "GET", "/api/v1/spans?from=2&to=1")
	problem(klieg_up, 400, "E200", "GET", "/api/v1/hot?by=colour")
	problem(klieg_up, 400, "E206", "GET", "/api/v1/spans?q=%ff")
	problem(klieg_up, 400, "E206", "GET", "/api/v1/spans?q=%zz")
	problem(klieg_up, 400, "E206", "GET", "/api/v1/spans?limit=1&limit=2")
	problem(klieg_up, 400, "E201", "GET", "/api/v1/callgraph?root=%7B")
	problem(klieg_up, 400, "E203", "GET", "/api/v1/callgraph?depth=65")
	problem(klieg_up, 400, "E200", "GET", "/api/v1/processes/1/callees")
	problem(klieg_up, 400, "E200", "GET", "/api/v1/processes/x/callees?function=f")
	problem(klieg_up, 404, "E205", "GET", "/api/v1/processes/1/callers")
	problem(klieg_up, 400, "E200", "DELETE", "/api/v1/attachments/abc")
	problem(klieg_up, 400, "E200", "DELETE", "/api/v1/attachments/99999999999999999999")
	problem(klieg_up, 400, "E200", "DELETE", "/api/v1/attachments")
	problem(klieg_up, 404, "E301", "DELETE", "/api/v1/attachments?name=nobody")
	a = problem(klieg_up, 400, "E201", "GET", "/api/v1/spans?q=" + urllib.parse.quote("{ name = }"))
	assert a["line"] == 1 and a["column"] > 5
	status, answer = klieg_up.request("GET", "/api/v1/traces/xyz")
	assert status == 400 and "trace id" in answer["detail"]
	problem(klieg_up, 404, "E205", "GET", "/api/v1/traces/" + "ab" * 16)


def test_bodies_are_held_to_the_table(klieg_up, demo):
	post_toggle = "/api/v1/toggles"
	problem(klieg_up, 400, "E201", "POST", post_toggle, b"{\"selector\": ")
	problem(klieg_up, 400, "E202", "POST", post_toggle, b"[]")
	problem(klieg_up, 400, "E201", "POST", post_toggle, b"")
	problem(klieg_up, 400, "E200", "POST", post_toggle, {})
	problem(klieg_up, 400, "E202", "POST", post_toggle, {"selector": 5})
	a = problem(klieg_up, 400, "E200", "POST", post_toggle, {"selector": "*", "leval": "span"})
	assert a["hint"] == "did you mean: level"
	problem(klieg_up, 400, "E200", "POST", post_toggle, {"selector": "*", "level": "loud"})
	problem(klieg_up, 400, "E203", "POST", post_toggle, {"selector": "*", "keep": 1.5})
	problem(klieg_up, 400, "E203", "POST", post_toggle, {"selector": "*", "ttl": "2d"})
	problem(klieg_up, 400, "E203", "POST", post_toggle, {"selector": "*", "reason": "x" * 501})
	problem(klieg_up, 400, "E201", "POST", post_toggle, {"selector": "{ name = "})
	problem(klieg_up, 400, "E203", "POST", post_toggle, {"selector": "*", "level": "deep", "depth": 17})
	problem(klieg_up, 400, "E203", "POST", post_toggle, {"selector": "*", "max_pause": "1ns"})
	problem(klieg_up, 400, "E201", "POST", post_toggle, {"selector": "*", "where": "arg.1 >"})
	problem(klieg_up, 400, "E201", "POST", post_toggle, {"selector": "*", "where": "{ name = "})
	attach = "/api/v1/attachments"
	problem(klieg_up, 400, "E200", "POST", attach, {})
	problem(klieg_up, 400, "E200", "POST", attach, {"pid": 1, "name": "x"})
	problem(klieg_up, 400, "E200", "POST", attach, {"name": ""})
	problem(klieg_up, 400, "E203", "POST", attach, {"pid": 0})
	problem(klieg_up, 400, "E202", "POST", attach, {"pid": "1"})
	problem(klieg_up, 400, "E202", "POST", attach, {"pid": 1, "libraries": "libc*"})
	problem(klieg_up, 400, "E202", "POST", attach, {"pid": 1, "libraries": [1]})
	problem(klieg_up, 400, "E203", "POST", attach, {"pid": 1, "plugins": ["x"] * 65})
	problem(klieg_up, 404, "E301", "POST", attach, {"pid": 4194303})
	problem(klieg_up, 404, "E301", "POST", attach, {"name": "no such name"})
	problem(klieg_up, 413, "E105", "POST", post_toggle, b"[" + b" " * (1 << 20))
	problem(klieg_up, 404, "E204", "POST", post_toggle, {"selector": "nothing:like-this"})
	problem(klieg_up, 404, "E205", "PATCH", "/api/v1/toggles/t-nobody", {"keep": 1})
	problem(klieg_up, 404, "E205", "POST", "/api/v1/toggles/undo")
	problem(klieg_up, 400, "E200", "DELETE", "/api/v1/toggles")
	problem(klieg_up, 400, "E200", "DELETE", "/api/v1/toggles?all=true&sel=x")
	assert klieg_up.get("/toggles?all=true")["toggles"] == [] and klieg_up.get("/processes")["processes"][0]["on"] == 0


def test_wrong_paths_and_methods(klieg_up):
	a = problem(klieg_up, 404, "E205", "GET", "/api/v1/nothing")
	assert "openapi.json" in a["hint"]
	c = http.client.HTTPConnection(*address(klieg_up), timeout=30)
	for method, path, allow in [("PUT", "/api/v1/toggles", {"GET", "POST", "DELETE"}), ("GET", "/api/v1/toggles/undo", {"POST"}), ("POST", "/", {"GET", "HEAD"}),
			("GET", "/v1/traces", {"POST"})]:
		c.request(method, path)
		r = c.getresponse()
		r.read()
		assert r.status == 405 and allow <= set(r.headers["Allow"].split(", ")), (method, path, r.status, r.headers["Allow"])
	c.close()


# ---- HTTP ---------------------------------------------------------------------------------------------------------------
def test_other_sites_are_refused(klieg_up):
	for headers in ({"Host": "evil.example"}, {"Host": "localhost.evil.example"}, {"Host": "127.0.0.1.evil.example"}):
		problem(klieg_up, 403, "E400", "GET", "/api/v1/status", headers=headers)
		assert post(klieg_up, request(span()), headers=headers)[0] == 403
	body = {"selector": "*"}
	for headers in ({"Origin": "http://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}):
		problem(klieg_up, 403, "E400", "POST", "/api/v1/toggles", body, headers)
	own = klieg_up.http
	assert klieg_up.request("POST", "/api/v1/toggles", body, {"Origin": own, "Sec-Fetch-Site": "same-origin"})[0] == 404  # let in; no site matches
	for host in ("localhost", "127.0.0.1:1", "[::1]:80"):
		assert klieg_up.request("GET", "/api/v1/status", headers={"Host": host})[0] == 200


def test_heads_that_are_not_http_or_too_large(klieg_up):
	assert b" 400 " in raw(klieg_up, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64) + b"\r\n\r\n")
	assert b" 400 " in raw(klieg_up, b"GET / HTTP/1.1\r\n\r\n")  # no Host
	assert b" 400 " in raw(klieg_up, b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n")
	assert b" 400 " in raw(klieg_up, b"GET nowhere HTTP/1.1\r\nHost: localhost\r\n\r\n")
	assert b" 431 " in raw(klieg_up, b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"".join(b"X-%d: 1\r\n" % i for i in range(100)) + b"\r\n")
	assert b" 431 " in raw(klieg_up, b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 40000 + b"\r\n\r\n")
	assert b" 414 " in raw(klieg_up, b"GET /" + b"a" * 20000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n")
	assert b" 400 " in raw(klieg_up, b"POST /api/v1/toggles HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
	assert klieg_up.get("/status")


@pytest.mark.waits
def test_slow_clients_are_told_and_closed(klieg_up):
	"""A head that never ends is answered 408 when its time is over; one who says nothing is closed."""
	with socket.create_connection(address(klieg_up), timeout=60) as half, socket.create_connection(address(klieg_up), timeout=60) as silent:
		half.sendall(b"GET /api/v1/status HTTP/1.1\r\nHost: local")
		out = b""
		while chunk := half.recv(65536):
			out += chunk
		assert b" 408 " in out
		assert silent.recv(1) == b""


def test_all_bodies_together_are_bounded(klieg_up):
	"""Senders who each stay below the limit of a request cannot fill the memory together: the one too many is told to come again."""
	head = b"POST /v1/traces HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-protobuf\r\nContent-Length: %d\r\n\r\n" % (60 << 20)
	conns, told = [], None
	try:
		while not told:
			assert len(conns) < 8
			s = socket.create_connection(address(klieg_up), timeout=30)
			conns.append(s)
			s.sendall(head + bytes(59 << 20))
			klieg_up.get("/status")  # what was sent before has been read
			for c in conns:
				if select.select([c], [], [], 0)[0]:
					told = c.recv(10000)
		assert b" 503 " in told and b"Retry-After" in told
	finally:
		for s in conns:
			s.close()
	wait_for(lambda: post(klieg_up, request(span()))[0] == 200)  # the memory is free again


def test_head_has_no_body_and_the_same_length(klieg_up):
	head = raw(klieg_up, b"HEAD /api/v1/openapi.json HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
	get = raw(klieg_up, b"GET /api/v1/openapi.json HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
	assert head.endswith(b"\r\n\r\n") and re.search(rb"Content-Length: (\d+)", head)[1] == re.search(rb"Content-Length: (\d+)", get)[1]
	assert len(get.split(b"\r\n\r\n", 1)[1]) == int(re.search(rb"Content-Length: (\d+)", get)[1])


def test_pipelined_requests_are_answered_in_order(klieg_up):
	paths = ["/api/v1/status", "/healthz", "/api/v1/nothing", "/api/v1/toggles", "/readyz"] * 20
	wire = b"".join(b"GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n" % p.encode() for p in paths) + b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
	out, bodies = raw(klieg_up, wire), []
	while out:
		head, out = out.split(b"\r\n\r\n", 1)
		n = int(re.search(rb"Content-Length: (\d+)", head)[1])
		bodies.append((int(head.split()[1]), out[:n]))
		out = out[n:]
	assert len(bodies) == 101
	for path, (status, body) in zip(paths, bodies):
		if path.endswith("z"):
			assert (status, body) == (200, b"ok\n")
		elif path.endswith("nothing"):
			assert status == 404
		else:
			assert status == 200 and ("uptime_nano" if path.endswith("status") else "toggles") in json.loads(body)


def test_one_connection_serves_many_requests_also_after_errors(klieg_up):
	c = http.client.HTTPConnection(*address(klieg_up), timeout=30)
	c.connect()
	port = c.sock.getsockname()
	for i in range(50):
		c.request("GET", "/api/v1/status" if i % 2 else "/api/v1/nothing")
		r = c.getresponse()
		r.read()
		assert r.status == (200 if i % 2 else 404) and c.sock and c.sock.getsockname() == port
	c.close()


def test_chunked_and_expect_100_bodies(klieg_up):
	c = http.client.HTTPConnection(*address(klieg_up), timeout=30)
	c.request("POST", "/v1/traces", iter([request(span())[:10], b""]), {"Content-Type": "application/x-protobuf"}, encode_chunked=True)
	assert c.getresponse().read() is not None
	c.close()
	body = request(span())
	with socket.create_connection(address(klieg_up), timeout=30) as s:
		s.sendall(b"POST /v1/traces HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-protobuf\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(body))
		assert s.recv(1000).startswith(b"HTTP/1.1 100 ")
		s.sendall(body)
		assert s.recv(1000).startswith(b"HTTP/1.1 200 ")


def test_health_and_metrics(klieg_up):
	assert klieg_up.request("GET", "/healthz", raw=True) == (200, b"ok\n") and klieg_up.request("GET", "/readyz", raw=True) == (200, b"ok\n")
	assert post(klieg_up, request(span(), span(trace=bytes(16))))[0] == 200
	text = klieg_up.request("GET", "/metrics", raw=True)[1].decode()
	values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
	assert float(values["klieg_spans_taken_total"]) == 2 and float(values["klieg_spans_stored_total"]) == 1
	assert float(values['klieg_spans_dropped_total{reason="rejected"}']) == 1


# ---- streams ------------------------------------------------------------------------------------------------------------
class Stream:
	"""A client of server-sent events that reads only when asked."""

	def __init__(self, up, path, rcvbuf=None):
		self.sock = socket.socket()
		if rcvbuf:
			self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
		self.sock.settimeout(30)
		self.sock.connect(address(up))
		self.sock.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
		self.wire = self.text = b""
		while b"\r\n\r\n" not in self.wire:
			self.wire += self.sock.recv(65536)
		head, self.wire = self.wire.split(b"\r\n\r\n", 1)
		self.status = int(head.split()[1])

	def ready(self):
		"""The events that have come; empty when nothing comes for a moment."""
		out = []
		while select.select([self.sock], [], [], 0.05)[0]:
			chunk = self.sock.recv(1 << 20)
			assert chunk, "the stream ended"
			self.wire += chunk
			while (at := self.wire.find(b"\r\n")) >= 0 and len(self.wire) >= at + 4 + (n := int(self.wire[:at], 16)):  # chunked: length, data
				self.text += self.wire[at + 2:at + 2 + n]
				self.wire = self.wire[at + 4 + n:]
			while b"\n\n" in self.text:
				one, self.text = self.text.split(b"\n\n", 1)
				lines = dict(line.split(b": ", 1) for line in one.split(b"\n") if not line.startswith(b":"))
				if lines:
					out.append((lines[b"event"].decode(), json.loads(lines[b"data"])))
		return out

	def events(self):
		"""(event, data), for ever."""
		while True:
			yield from wait_for(self.ready)

	def close(self):
		self.sock.close()


def test_tail_shows_what_matches_as_it_comes(klieg_up):
	t = Stream(klieg_up, "/api/v1/spans/tail?q=" + urllib.parse.quote('{ name = "wanted" }'))
	assert t.status == 200
	assert post(klieg_up, request(span(name="other"), span(name="wanted"), service="s"))[0] == 200
	event, data = next(t.events())
	assert event == "spans" and [s["name"] for s in data["spans"]] == ["wanted"] and data["spans"][0]["service"] == "s"
	t.close()
	assert klieg_up.request("GET", "/api/v1/spans/tail?q=%7B%20name")[0] == 400


def test_a_slow_tail_is_told_how_many_spans_it_missed(klieg_up):
	t = Stream(klieg_up, "/api/v1/spans/tail", rcvbuf=4096)
	body, sent = request(*(span(name="x" * 2000) for _ in range(400))), 0
	for _ in range(30):  # 24 MB: more than all the buffers between
		assert post(klieg_up, body)[0] == 200
		sent += 400
	got = dropped = 0

	def all_told():
		"""Now it reads; a new span gives the occasion to be told."""
		nonlocal sent, got, dropped
		assert post(klieg_up, request(span()))[0] == 200
		sent += 1
		for event, data in t.ready():
			if event == "dropped":
				dropped += data["dropped"]
				assert data["unexamined"] == 0
			else:
				got += len(data["spans"])
		return got + dropped == sent
	wait_for(all_told)
	assert dropped > 0 and got + dropped == sent
	t.close()
	assert klieg_up.get("/doctor")["account"]["stored"] == sent  # what a reader misses is stored all the same


def test_a_tail_is_told_of_what_was_not_looked_at(klieg_up):
	t = Stream(klieg_up, "/api/v1/spans/tail")
	assert post(klieg_up, request(*(span() for _ in range(700))))[0] == 200
	events = t.events()
	total = {"spans": 0, "dropped": 0}
	while sum(total.values()) < 700:
		event, data = next(events)
		total[event] += len(data["spans"]) if event == "spans" else data["dropped"]
	assert total == {"spans": 500, "dropped": 200}
	t.close()


def test_events_say_what_changes(klieg_up, demo):
	e = Stream(klieg_up, "/api/v1/events")
	events = e.events()
	status, answer = klieg_up.request("POST", "/api/v1/toggles", {"selector": "outer", "ttl": "1m"})
	assert status == 201
	seen = {}
	while not {"status", "toggle"} <= set(seen):
		event, data = next(events)
		if event != "toggle" or data.get("toggle", {}).get("id") == answer["toggle"]["id"]:
			seen[event] = data
	assert seen["status"]["version"] and seen["toggle"]["what"] == "active"
	klieg_up.request("DELETE", "/api/v1/toggles?all=true")
	while True:
		event, data = next(events)
		if event == "toggle" and data.get("what") == "removed":
			break
	demo.kill()
	while True:
		event, data = next(events)
		if event == "process" and data.get("state") == "exited":
			break
	e.close()


def test_streams_are_bounded(klieg_up):
	streams = [Stream(klieg_up, "/api/v1/events") for _ in range(64)]
	c = http.client.HTTPConnection(*address(klieg_up), timeout=30)
	c.request("GET", "/api/v1/events")
	r = c.getresponse()
	assert r.status == 503 and r.headers["Retry-After"] and json.loads(r.read())["code"] == "E104"
	for s in streams:
		s.close()
	wait_for(lambda: (s := Stream(klieg_up, "/api/v1/events")).status == 200 and (s.close() or True))
	c.close()
