"""A service that knows OpenTelemetry and nothing of Klieg is steered by what is in force here: its SDK asks for its sampling strategy as it would ask Jaeger."""
import json
import os
import shutil
import socket
import subprocess
import urllib.parse

import pytest
from conftest import TOP, Up, wait_for

JS = os.path.join(TOP, "tests/flow/js")
needs_sdk = pytest.mark.skipif(not shutil.which("node") or not os.path.isdir(os.path.join(JS, "node_modules/@opentelemetry/sampler-jaeger-remote")),
	reason="tools/setup test installs the SDK")


class Server(Up):
	"""klieg server with all its listeners; no agent is needed to steer SDKs."""
	command = "server"

	def start(self):
		super().start()
		self.listeners = dict(x.split("=", 1) for x in self.ready.split()[1:])


@pytest.fixture
def server(tmp_path):
	up = Server(tmp_path / "server", "--otlp-grpc", "127.0.0.1:0", "--jaeger-http", "127.0.0.1:0", "--jaeger-grpc", "127.0.0.1:0")
	yield up
	up.stop()


def strategy(up, service, path="/sampling", base=None):
	status, doc = up.request("GET", f"{path}?service={urllib.parse.quote(service)}", base=base or up.listeners["jaeger-http"])
	assert status == 200, doc
	return doc


def apply(up, name, text):
	status, doc = up.request("PUT", f"/api/v1/policies/{name}", {"text": text, "expected_version": 0, "reason": "test", "author": "test", "rollout": "now"})
	assert status in (200, 201), doc


def flat(p):
	return {"strategyType": "PROBABILISTIC", "probabilisticSampling": {"samplingRate": p}}


def test_what_the_rules_in_force_mean_for_a_service(server):
	assert strategy(server, "checkout") == flat(0.0)
	apply(server, "web", """
policy: web
rules:
  - name: checkout
    match: '{ resource.service.name = "checkout" }'
    level: span
    keep: 25%
  - name: pay
    match: '{ resource.service.name = "checkout" && name = "pay" }'
    level: detail
    keep: 100%
  - name: cart
    match: '{ resource.service.name = "cart" }'
    level: span
    keep: 7/s
  - name: counted
    match: '{ resource.service.name = "counted" }'
    level: count
  - name: tenant
    match: '{ resource.service.name = "shop" && .tenant = "7" }'
    level: span
""")
	got = strategy(server, "checkout")
	assert got["strategyType"] == "PROBABILISTIC" and got["probabilisticSampling"] == {"samplingRate": 0.25}
	assert got["operationSampling"] == {"defaultSamplingProbability": 0.25, "defaultLowerBoundTracesPerSecond": 0.0, "defaultUpperBoundTracesPerSecond": 0.0,
		"perOperationStrategies": [{"operation": "pay", "probabilisticSampling": {"samplingRate": 1.0}}]}
	assert strategy(server, "cart") == {"strategyType": "RATE_LIMITING", "rateLimitingSampling": {"maxTracesPerSecond": 7}}
	assert strategy(server, "counted") == flat(0.0), "counting makes no spans"
	assert strategy(server, "shop") == flat(0.0), "an SDK cannot be told of attributes of requests"
	assert strategy(server, "nobody") == flat(0.0)
	# The same on any path of that port, and on the main address.
	assert strategy(server, "cart", "/anything/else") == strategy(server, "cart") == strategy(server, "cart", base=server.http)

	# Limits cap; a toggle of a person counts like a rule; what is switched off is off.
	apply(server, "cap", """
policy: cap
limits:
  - match: '{ resource.service.name = "checkout" }'
    level: count
  - match: '{ resource.service.name = "cart" }'
    rate: 3/s
""")
	assert strategy(server, "checkout") == flat(0.0)
	assert strategy(server, "cart")["rateLimitingSampling"] == {"maxTracesPerSecond": 3}
	for name in ("cap", "web"):
		status, _ = server.request("DELETE", f"/api/v1/policies/{name}?reason=test&author=test")
		assert status == 200
	assert strategy(server, "cart") == flat(0.0)


def test_bad_questions_are_refused(server):
	base = server.listeners["jaeger-http"]
	for query in ("", "?service=", "?service=a&service=b", "?other=1", "?service=%ff", "?service=%zz", "?service=" + "x" * 2000):
		status, doc = server.request("GET", "/sampling" + query, base=base)
		assert status == 400 and "service" in doc["detail"], query
	assert server.request("POST", "/sampling?service=a", b"", base=base, raw=True)[0] == 405


def ask(server, service, *more):
	r = subprocess.run(["node", f"{JS}/ask_sampling.mjs", server.listeners["jaeger-grpc"].replace("http://", ""), service, *more], capture_output=True, text=True, timeout=60)
	return json.loads(r.stdout)


@needs_sdk
def test_the_same_by_grpc(server):
	apply(server, "web", """
policy: web
rules:
  - name: checkout
    match: '{ resource.service.name = "checkout" }'
    level: span
    keep: 25%
  - name: pay
    match: '{ resource.service.name = "checkout" && name = "pay" }'
    level: span
  - name: cart
    match: '{ resource.service.name = "cart" }'
    level: span
    keep: 7/s
""")
	got = ask(server, "checkout")
	assert got["strategyType"] == "PROBABILISTIC" and got["probabilisticSampling"]["samplingRate"] == 0.25
	assert [(x["operation"], x["probabilisticSampling"]["samplingRate"]) for x in got["operationSampling"]["perOperationStrategies"]] == [("pay", 1)]
	got = ask(server, "cart", "GetSamplingStrategy", "gzip")
	assert got["strategyType"] == "RATE_LIMITING" and got["rateLimitingSampling"]["maxTracesPerSecond"] == 7
	assert ask(server, "")["code"] == 3
	assert ask(server, "x", "Nothing")["code"] == 12


@needs_sdk
def test_a_running_service_changes_its_rate_without_a_restart_and_its_spans_come_by_grpc(server, spawn):
	p = spawn(["node", f"{JS}/steer.mjs", server.listeners["jaeger-http"], server.listeners["otlp-grpc"], "js-steered"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
	assert p.stdout.readline() == "ready\n"
	total = 0

	def sampled(operation, n):
		nonlocal total
		p.stdin.write(f"{operation} {n}\n")
		p.stdin.flush()
		got = int(p.stdout.readline())
		total += got
		return got
	assert sampled("buy", 1000) == 0, "nothing is on"
	status, doc = server.request("POST", "/api/v1/policies/check", {"text": "policy: js\nrules:\n  - name: all\n    match: '{ resource.service.name = \"js-steered\" }'\n    keep: 100%\n"})
	assert status == 200 and doc["ok"], doc
	apply(server, "js", "policy: js\nrules:\n  - name: all\n    match: '{ resource.service.name = \"js-steered\" }'\n    level: span\n    keep: 100%\n")
	wait_for(lambda: sampled("buy", 100) == 100)
	status, doc = server.request("PUT", "/api/v1/policies/js", {"text": """
policy: js
rules:
  - name: all
    match: '{ resource.service.name = "js-steered" }'
    level: span
    keep: 10%
  - name: pay
    match: '{ resource.service.name = "js-steered" && name = "pay" }'
    level: span
""", "expected_version": 1, "reason": "less", "author": "test", "rollout": "now"})
	assert status == 200, doc
	wait_for(lambda: 20 < sampled("buy", 1000) < 250)
	assert sampled("pay", 200) == 200
	server.request("DELETE", "/api/v1/policies/js?reason=enough&author=test")
	wait_for(lambda: sampled("pay", 100) == 0)
	p.stdin.write("end\n")
	p.stdin.flush()
	assert json.loads(p.stdout.readline()) == {"failed": 0}
	assert p.wait(10) == 0
	assert server.stored('{ resource.service.name = "js-steered" && name != "inside" }') == total
	assert server.exact(2 * total)


def test_the_grpc_ports_say_what_they_are_and_outlive_nonsense(server):
	for which in ("jaeger-grpc", "otlp-grpc"):
		host, port = server.listeners[which].replace("http://", "").split(":")
		with socket.create_connection((host, int(port))) as s:
			s.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
			assert b"gRPC" in s.makefile("rb").read()
		for junk in (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 1000, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\x06\0\0\0\0\0", b"\0" * 100000):
			with socket.create_connection((host, int(port))) as s:
				s.settimeout(10)
				try:
					s.sendall(junk)
					s.shutdown(socket.SHUT_WR)
					while s.recv(65536):
						pass
				except OSError:  # it has hung up already
					pass
	assert server.request("GET", "/healthz", raw=True)[0] == 200
