"""OTLP/HTTP as senders see it: the real JavaScript SDK, and by hand what no SDK sends."""
import gzip
import http.client
import json
import os
import shutil
import socket
import struct
import subprocess
import time

import pytest

from conftest import TOP, wait_for

JS = os.path.join(TOP, "tests/flow/js")
PROTO, JSON = "application/x-protobuf", "application/json"


# ---- a protobuf by hand: just enough of ExportTraceServiceRequest -------------------------------------------------------
def varint(n):
	out = b""
	while n > 127:
		out += bytes([n & 127 | 128])
		n >>= 7
	return out + bytes([n])


def field(number, value):
	if isinstance(value, str):
		value = value.encode()
	return varint(number << 3 | 2) + varint(len(value)) + value if isinstance(value, bytes) else varint(number << 3) + varint(value)


def fixed64(number, n):
	return varint(number << 3 | 1) + struct.pack("<Q", n)


def attribute(key, text):
	return field(1, key) + field(2, field(1, text))


def span(trace=None, span_id=None, name="by-hand", start=None, duration=1000):
	start = start or time.time_ns()
	return field(1, os.urandom(16) if trace is None else trace) + field(2, os.urandom(8) if span_id is None else span_id) + field(5, name) + field(6, 2) + \
		fixed64(7, start) + fixed64(8, start + duration)


def request(*spans, service="hand"):
	return field(1, field(1, field(1, attribute("service.name", service))) + field(2, b"".join(field(2, s) for s in spans)))


def parse(data):
	"""Fields of one message: {number: [value]}."""
	out, i = {}, 0

	def number():
		nonlocal i
		n = shift = 0
		while True:
			b = data[i]
			i += 1
			n |= (b & 127) << shift
			shift += 7
			if b < 128:
				return n
	while i < len(data):
		tag = number()
		assert tag & 7 in (0, 2)
		v = number()
		if tag & 7 == 2:
			v, i = data[i:i + v], i + v
		out.setdefault(tag >> 3, []).append(v)
	return out


def json_request(*spans, service="hand"):
	return json.dumps({"resourceSpans": [{"resource": {"attributes": [{"key": "service.name", "value": {"stringValue": service}}]},
		"scopeSpans": [{"spans": list(spans)}]}]}).encode()


def json_span(trace=None, span_id=None, name="by-hand"):
	now = time.time_ns()
	return {"traceId": os.urandom(16).hex() if trace is None else trace, "spanId": os.urandom(8).hex() if span_id is None else span_id, "name": name, "kind": 2,
		"startTimeUnixNano": str(now), "endTimeUnixNano": str(now + 1000)}


def post(up, body, kind=PROTO, headers=None, base=None, method="POST"):
	"""(status, headers, body)"""
	c = http.client.HTTPConnection((base or up.otlp).split("//")[1], timeout=60)
	try:
		c.request(method, "/v1/traces", body, {"Content-Type": kind, **(headers or {})} if kind else headers or {})
		r = c.getresponse()
		return r.status, r.headers, r.read()
	finally:
		c.close()


def stored(up, query="{}"):
	return up.cli("query", query, "--since", "10m", json_out=True)["matched"]


def account(up):
	a = up.get("/doctor")["account"]
	assert a["balanced"]
	return a


# ---- the SDK ------------------------------------------------------------------------------------------------------------
@pytest.mark.skipif(not shutil.which("node") or not os.path.isdir(os.path.join(JS, "node_modules")), reason="tools/setup test installs the SDK")
@pytest.mark.parametrize("form,gz", [("proto", ""), ("proto", "gzip"), ("json", ""), ("json", "gzip")])
def test_the_real_sdk_arrives_exactly(klieg_up, form, gz):
	r = subprocess.run(["node", "send.mjs", klieg_up.otlp + "/v1/traces", form, gz], cwd=JS, capture_output=True, text=True, timeout=60,
		env={k: v for k, v in os.environ.items() if not k.startswith("OTEL_")})
	assert r.returncode == 0, r.stdout + r.stderr
	sent = json.loads(r.stdout)
	assert stored(klieg_up) == 1002  # answered means stored: nothing to wait for
	spans = {s["span_id"]: s for s in klieg_up.get(f"/traces/{sent['trace']}")["spans"]}
	assert set(spans) == {sent["root"], sent["child"]}
	root, child = spans[sent["root"]], spans[sent["child"]]
	assert (root["name"], root["kind"], root["service"], root["scope"], root["parent_span_id"]) == ("GET /checkout", "server", "js-shop", "js-shop-tracer", "")
	assert root["start_unix_nano"] == sent["start"] * 1000000 and root["duration_nano"] == 10000000
	assert root["attributes"] == {"http.request.method": "GET", "http.response.status_code": 500, "ratio": 0.1, "big": 2**53 - 1, "negative": -5, "yes": True, "no": False,
		"text": 'Grüße, 世界 \U0001f600 "quoted" \\ \n', "list.s": ["a", "", "ü"], "list.i": [1, -2, 3], "list.d": [0.5, 1e300], "list.b": [True, False], "empty": ""}
	assert (root["status"], root["status_message"]) == ("error", "it broke – twice")
	assert root["events"] == [
		{"name": "exception", "time_unix_nano": (sent["start"] + 2) * 1000000, "attributes": {"exception.type": "TypeError", "exception.message": "x is not a function", "n": 1}},
		{"name": "retry", "time_unix_nano": (sent["start"] + 3) * 1000000, "attributes": {}}]
	assert root["links"] == [{"trace_id": "0af7651916cd43dd8448eb211c80319c", "span_id": "b7ad6b7169203331", "attributes": {"why": "batch", "n": 7}}]
	assert {k: root["resource"][k] for k in ("service.name", "service.version", "deployment.environment.name")} == {
		"service.name": "js-shop", "service.version": "1.2.3", "deployment.environment.name": "prüfung"}
	assert (child["kind"], child["status"], child["parent_span_id"], child["duration_nano"]) == ("client", "ok", sent["root"], 3000000)
	assert stored(klieg_up, '{ name = "loop" && .i >= 990 }') == 10
	assert account(klieg_up)["made"] == account(klieg_up)["stored"] == 1002


# ---- by hand ------------------------------------------------------------------------------------------------------------
def test_bad_ids_are_a_partial_success_and_counted(klieg_up):
	good, zero, short = span(), span(trace=bytes(16)), span(span_id=b"abc")
	status, headers, body = post(klieg_up, request(good, zero, short))
	assert status == 200 and headers["Content-Type"] == PROTO
	partial = parse(parse(body)[1][0])
	assert partial[1] == [2] and b"2 spans with a bad id" in partial[2][0]
	status, headers, body = post(klieg_up, json_request(json_span(), json_span(trace="00" * 16), json_span(span_id="xyz")), JSON)
	assert status == 200 and headers["Content-Type"] == JSON
	partial = json.loads(body)["partialSuccess"]
	assert int(partial["rejectedSpans"]) == 2 and "2 spans with a bad id" in partial["errorMessage"]
	a = account(klieg_up)
	assert (a["made"], a["stored"], a["dropped"]["rejected"]) == (6, 2, 4)
	assert stored(klieg_up) == 2


def test_a_full_success_has_no_partial(klieg_up):
	status, _, body = post(klieg_up, request(span()))
	assert status == 200 and body == b""
	status, _, body = post(klieg_up, json_request(json_span()), JSON)
	assert status == 200 and json.loads(body) == {}


@pytest.mark.parametrize("kind,body", [(PROTO, b""), (JSON, b""), (JSON, b"{}"), (PROTO, request())])
def test_empty_requests_are_fine(klieg_up, kind, body):
	status, headers, _ = post(klieg_up, body, kind)
	assert status == 200 and headers["Content-Type"] == kind


def rpc_status(headers, body):
	"""Code and message of a google.rpc.Status in the answer's own form."""
	if headers["Content-Type"] == JSON:
		d = json.loads(body)
		return d["code"], d["message"]
	assert headers["Content-Type"] == PROTO
	d = parse(body)
	return d[1][0], d[2][0].decode()


def test_malformed_bodies_get_400_in_the_form_of_the_request(klieg_up):
	whole, js = request(span(), span()), json_request(json_span())
	for kind, body in [(PROTO, whole[:-5]), (PROTO, b"\xff" * 50), (JSON, js[:-3]), (JSON, b"[]"), (JSON, b"\xff")]:
		status, headers, answer = post(klieg_up, body, kind)
		assert status == 400 and headers["Content-Type"] == kind, (kind, body[:20], status, answer)
		code, message = rpc_status(headers, answer)
		assert code == 3 and message
	for body in (b"not gzip", gzip.compress(whole)[:-9]):
		status, headers, answer = post(klieg_up, body, PROTO, {"Content-Encoding": "gzip"})
		assert status == 400 and "gzip" in rpc_status(headers, answer)[1]
	assert stored(klieg_up) == 0 and account(klieg_up)["made"] == 0


def test_oversized_bodies_get_413(klieg_up):
	status, headers, answer = post(klieg_up, gzip.compress(bytes(65 << 20)), PROTO, {"Content-Encoding": "gzip"})
	assert status == 413 and "64 MiB" in rpc_status(headers, answer)[1]
	status, _, answer = post(klieg_up, bytes(65 << 20), PROTO)
	assert status == 413 and answer

	def endless():
		for _ in range(66):
			yield bytes(1 << 20)
	c = http.client.HTTPConnection(klieg_up.otlp.split("//")[1], timeout=60)
	try:
		c.request("POST", "/v1/traces", endless(), {"Content-Type": PROTO}, encode_chunked=True)
		assert c.getresponse().status == 413
	finally:
		c.close()
	assert post(klieg_up, request(span()))[0] == 200


def test_wrong_types_get_415_as_rpc_status(klieg_up):
	for kind, headers in [("text/plain", {}), (None, {}), ("application/grpc", {}), (PROTO, {"Content-Encoding": "br"}), (JSON, {"Content-Encoding": "zstd"})]:
		status, got, answer = post(klieg_up, request(span()), kind, headers)
		assert status == 415 and got["Content-Type"] == (PROTO if kind == PROTO else JSON)
		code, message = rpc_status(got, answer)
		assert code == 3 and ("application/x-protobuf" in message or "gzip" in message)
	for kind in ("application/x-protobuf; charset=utf-8", "Application/X-Protobuf"):
		assert post(klieg_up, request(span()), kind)[0] == 200
	assert post(klieg_up, gzip.compress(request(span())), PROTO, {"Content-Encoding": "gzip"})[0] == 200
	assert post(klieg_up, None, None, method="GET")[0] == 405


def test_the_main_port_takes_otlp_too_and_the_otlp_port_nothing_else(klieg_up):
	assert post(klieg_up, request(span()), base=klieg_up.http)[0] == 200
	status, answer = klieg_up.request("GET", "/api/v1/status", base=klieg_up.otlp)
	assert status == 404 and "/v1/traces" in answer["detail"]


def test_invalid_utf8_is_stored_and_shown(klieg_up):
	bad = span(name=b"\xff\xfe caf\xe9")
	assert post(klieg_up, request(bad))[0] == 200
	doc = klieg_up.cli("query", "{}", "--since", "10m", json_out=True)
	assert doc["matched"] == 1 and "caf" in doc["spans"][0]["name"]


def test_a_sender_that_leaves_before_its_answer_harms_nobody(klieg_up):
	host, port = klieg_up.otlp.split("//")[1].split(":")
	for _ in range(20):
		body = request(*(span() for _ in range(50)))
		with socket.create_connection((host, int(port))) as s:
			s.sendall(b"POST /v1/traces HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-protobuf\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
	wait_for(lambda: stored(klieg_up) == 1000)
	a = wait_for(lambda: (a := account(klieg_up))["queued"] == 0 and a)
	assert a["made"] == a["stored"] == 1000
