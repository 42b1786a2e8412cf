"""Rules on what a request is about: decided once a request, in the process; what does not match is not traced."""
import json
import os
import re
import subprocess
import urllib.parse

import pytest
from conftest import BUILD, TOP, wait_for
from test_agent import Agent

PROGRAM = r"""
#define KLIEG_COMPONENT "demo"
#include "klieg/klieg.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
static void inner(int depth) { KLIEG_SPAN("inner", KLIEG_INT("depth", depth)); if (depth) inner(depth - 1); }
static void scoped(const char *tenant, int size, double price) {
	KLIEG_SERVER_SPAN_AS(span, "request", KLIEG_STR("tenant", tenant), KLIEG_STR("http.route", size > 100 ? "/big/basket" : "/small"), KLIEG_INT("size", size), KLIEG_DOUBLE("price", price));
	inner(2);
}
static void batch(const char *tenant) { /* requests within one */
	KLIEG_SERVER_SPAN_AS(span, "batch", KLIEG_STR("tenant", tenant));
	for (int i = 0; i < 3; i++)
		scoped("7", 10, 1);
}
static void handed(const char *tenant) { /* an explicit span, of another kind */
	klieg_span s;
	KLIEG_BEGIN(s, "job", KLIEG_STR("customer", tenant));
	inner(1);
	KLIEG_END(s, "job");
}
static void secret(const char *of) {
	KLIEG_SPAN_AS(span, "secret", KLIEG_STR("plain", of), KLIEG_STR("user.email", of));
	KLIEG_SET(span, KLIEG_STR("user.name", of), KLIEG_STR("other", of));
}
int main(void) {
	char line[200], tenant[64], what[16];
	int size, n;
	double price;
	while (fgets(line, sizeof line, stdin)) {
		if (sscanf(line, "%15s %63s %d %lf %d", what, tenant, &size, &price, &n) == 5)
			for (int i = 0; i < n; i++)
				if (*what == 's')
					scoped(tenant, size, price);
				else if (*what == 'x')
					secret(tenant);
				else if (*what == 'b')
					batch(tenant);
				else
					handed(tenant);
		puts("done");
		fflush(stdout);
	}
}
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory):
	where = tmp_path_factory.mktemp("requests")
	source, exe = where / "t.c", str(where / "t")
	source.write_text(PROGRAM)
	lib = next(d for d in (BUILD, os.path.join(BUILD, "src", "probe")) if os.path.exists(os.path.join(d, "libklieg.so")))
	subprocess.check_call(["cc", "-O2", "-I", os.path.join(TOP, "include"), str(source), "-o", exe, "-L", lib, "-lklieg", f"-Wl,-rpath,{lib}"])
	return exe


class Service:
	def __init__(self, exe, tmp_path):
		socket = str(tmp_path / "s" / "a.sock")
		self.agent = Agent(socket)
		self.proc = subprocess.Popen([exe], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
			env={**os.environ, "KLIEG_SOCKET": socket, "OTEL_SERVICE_NAME": "shop"})
		wait_for(lambda: any(p["sites"] >= 3 for p in self.agent("ps")["processes"]))
		self.generation = 0

	def rules(self, *rules):
		answer = self.raw(rules)
		assert answer["rc"] >= 0, answer
		return answer["result"]

	def raw(self, rules):
		self.generation += 1
		params = {"generation": self.generation, "base": -1, "set": [{"id": f"p:t/{i}", "level": "detail", **r} for i, r in enumerate(rules)]}
		self.agent.proc.stdin.write(f"change {json.dumps(params)}\n")
		self.agent.proc.stdin.flush()
		return json.loads(self.agent.proc.stdout.readline())

	def made(self, what="s", tenant="7", size=10, price=1.5, n=1):
		"""How many spans n requests of that kind make."""
		before = self.agent("account")
		self.proc.stdin.write(f"{what} {tenant} {size} {price} {n}\n")
		self.proc.stdin.flush()
		assert self.proc.stdout.readline() == "done\n"
		after = self.agent("account")
		assert after["made"] == after["passed"] + after["open"] + sum(after["dropped"].values()), after
		assert after["open"] == 0
		return after["made"] - before["made"]


@pytest.fixture
def service(program, tmp_path):
	s = Service(program, tmp_path)
	yield s
	s.proc.kill()
	s.proc.wait()
	s.agent.proc.stdin.close()
	assert s.agent.proc.wait(10) == 0


def test_only_the_tenant_that_is_asked_for_is_traced(service):
	service.rules({"selector": '{ resource.service.name = "shop" && .tenant = "7" }'})
	assert service.made(tenant="7", n=100) == 400
	assert service.made(tenant="8", n=100) == 0
	assert service.made(tenant="77", n=100) == 0
	assert service.made(tenant="7", n=1) == 4  # and again


def test_the_site_that_decides_need_not_be_one_that_is_asked_for(service):
	service.rules({"selector": '{ name = "inner" && .tenant = "7" }'})
	assert service.made(tenant="7", n=10) == 30
	assert service.made(tenant="8", n=10) == 0


@pytest.mark.parametrize("condition, yes, no", [
	('.tenant != "8"', {"tenant": "7"}, {"tenant": "8"}),
	('.tenant =~ "a.*|.*z|.*mid.*|exact"', {"tenant": "xmidx"}, {"tenant": "exactly"}),
	('.tenant =~ "a.*|.*z"', {"tenant": "abc"}, {"tenant": "bc"}),
	('.tenant !~ "a.*"', {"tenant": "b"}, {"tenant": "ab"}),
	('.http.route = "/big/basket"', {"size": 200}, {"size": 5}),
	('.size > 100', {"size": 101}, {"size": 100}),
	('.size >= 99.5 && .size < 200.5', {"size": 200}, {"size": 201}),
	('.size = 5 || .tenant = "7"', {"size": 5, "tenant": "1"}, {"size": 6, "tenant": "1"}),
	('.price > 1.25', {"price": 1.26}, {"price": -3}),
	('.price < -1.5', {"price": -2}, {"price": -1}),
	('!(.tenant = "7") && .size < 50', {"tenant": "6"}, {"tenant": "7"}),
	('.nosuch = nil && .tenant = "7"', {"tenant": "7"}, {"tenant": "1"}),
])
def test_conditions(service, condition, yes, no):
	service.rules({"selector": "{ " + condition + " }"})
	assert service.made(**yes) == 4 and service.made(**no) == 0


def test_what_holds_for_all_goes_on_beside_it(service):
	service.rules({"selector": "request", "level": "span"}, {"selector": '{ .tenant = "7" }'})
	assert service.made(tenant="8", n=10) == 10
	assert service.made(tenant="7", n=10) == 40
	service.rules({"selector": "*", "level": "count"}, {"selector": '{ .tenant = "7" }'})
	assert service.made(tenant="8", n=10) == 0
	assert service.made(tenant="7", n=10) == 40
	assert sum(s["calls"] for s in service.agent("stats", selector="request")["sites"]) >= 10


def test_the_first_span_decides_for_the_whole_request(service):
	service.rules({"selector": '{ .tenant = "7" }'}, {"selector": '{ .size = 200 }'})
	assert service.made("b", "7", n=10) == 10 * 13
	assert service.made("b", "8", n=10) == 0
	assert service.made("s", "8", size=200, n=10) == 40  # the other rule has an answer of its own


def test_explicit_spans_decide_too_where_no_server_span_knows(service):
	service.rules({"selector": '{ .customer = "7" }'})
	assert service.made("j", "7", n=10) == 30
	assert service.made("j", "8", n=10) == 0
	assert service.made("s", "7", n=10) == 0


def test_of_what_matches_a_share_is_kept(service):
	service.rules({"selector": '{ .tenant = "7" }', "keep": 0.25})
	kept = service.made(tenant="7", n=4000)
	assert kept % 4 == 0 and 800 < kept / 4 < 1200


def test_when_the_rule_goes_nothing_is_left(service):
	service.rules({"selector": '{ .tenant = "7" }'})
	assert service.made(tenant="7") == 4
	service.rules()
	assert service.made(tenant="7", n=10) == 0 and service.agent("ps")["processes"][0]["on"] == 0


def region_has(pid, text):
	"""In the memory that a process shares with its agent: its first threads' rings."""
	start = next(int(line.split("-")[0], 16) for line in open(f"/proc/{pid}/maps") if "/memfd:klieg" in line)
	with open(f"/proc/{pid}/mem", "rb", buffering=0) as f:
		f.seek(start)
		return text.encode() in f.read(8 << 20)


def test_what_a_rule_hides_does_not_even_leave_the_process(service):
	def made(text):
		assert service.made("x", text) == 1
		return region_has(service.proc.pid, text)
	service.rules({"selector": "secret"})
	assert made("shown-to-all")
	hidden = {"selector": "secret", "redact": ["user.*", "plain", "o?her"]}
	service.rules(hidden)
	assert not made("hidden-from-all")
	service.rules(hidden, {"selector": "*"})  # what one rule hides stays hidden, whatever others allow
	assert not made("hidden-still")
	service.rules({"selector": "secret", "redact": ["user.*", "plain"]})
	assert made("one-is-shown")
	service.rules({"selector": "secret", "redact": ["[u]ser.*", "nothing"] + [f"name.{i}" for i in range(150)]})
	assert made("seen-as-plain")
	service.rules({"selector": "secret"}, {"selector": "inner", "redact": ["*"]})
	assert made("not-about-this-one")


def test_what_a_probe_cannot_decide_is_refused_and_said(service):
	for wrong in ('{ .tenant =~ "[0-9]+" }', '{ .tenant = "' + "x" * 60 + '" }', '{ .size + 1 > 3 }', "{ " + " || ".join(f".size = {i}" for i in range(20)) + " }"):
		answer = service.raw([{"selector": wrong}])
		assert answer["rc"] < 0 and answer["error"], wrong
	assert "attributes that a rule asks for" in service.rules({"selector": '{ .nosuch = "7" }'})["warning"]
	assert service.made(tenant="7", n=10) == 0


@pytest.fixture
def shop(klieg_up, spawn, tmp_path):
	"""The example shop under nobody's load: a function that checks out for a tenant, with headers of one's own."""
	proc = spawn([os.path.join(TOP, "examples/shop/shop"), "up", "--build", BUILD, "--state", str(tmp_path / "shop")], env=klieg_up.env, stdout=subprocess.PIPE, text=True)
	url = re.match(r"shop ready url=(\S+)", proc.stdout.readline())[1]
	wait_for(lambda: klieg_up.get("/status")["counts"]["processes"] == 4)
	def checkout(tenant, **headers):
		assert klieg_up.request("POST", f"/checkout?tenant={tenant}", {}, base=url, headers=headers)[0] == 200
	yield checkout
	proc.terminate()
	proc.wait(15)


def test_one_tenant_is_followed_through_all_services_and_no_other(klieg_up, shop):
	klieg_up.switch('{ .tenant = "7" }', level="detail")
	for tenant in (1, 7, 2, 7, 77, 3):
		shop(tenant)
	wait_for(lambda: klieg_up.stored('{ name = "POST /checkout" }') == 2 and klieg_up.settled())
	assert klieg_up.stored('{ .tenant != "7" }') == 0
	spans = klieg_up.get("/spans?" + urllib.parse.urlencode({"q": '{ name = "ledger.write" }', "since": "1h"}))["spans"]
	assert len(spans) == 2
	trace = klieg_up.get("/traces/" + spans[0]["trace_id"])["spans"]
	assert {s["service"] for s in trace} == {"gateway", "cart", "inventory", "payment"}
	ids = {s["span_id"] for s in trace}
	assert [s["name"] for s in trace if s["parent_span_id"] not in ids] == ["POST /checkout"]


def test_a_token_traces_one_request_and_a_wrong_one_none(klieg_up, shop):
	klieg_up.switch("*", level="detail", scope="marked")
	status, token = klieg_up.request("POST", "/api/v1/tokens", {"service": "gateway", "level": "detail", "ttl": "5m", "reason": "one slow order", "owner": "me"})
	assert status in (200, 201), token
	status, others = klieg_up.request("POST", "/api/v1/tokens", {"service": "cart", "level": "detail", "ttl": "5m", "reason": "x", "owner": "me"})
	wrong = [token["value"][:-1] + ("0" if token["value"][-1] != "0" else "1"), others["value"], "detail", token["value"].replace("v1.3", "v1.4")]
	for value in wrong:
		shop(1, **{token["header"]: value})
	shop(2, **{token["header"]: token["value"]})
	shop(3)
	wait_for(lambda: klieg_up.stored('{ name = "ledger.write" }') == 1 and klieg_up.settled())
	assert klieg_up.stored('{ .tenant = "2" }') >= 2 and klieg_up.stored('{ .tenant = "1" }') == klieg_up.stored('{ .tenant = "3" }') == 0
