"""Rules on what a request is about: decided once a request, in the process; what does not match is not traced."""
import json
import os
import subprocess

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
static void handed(const char *tenant) { /* an explicit span, of another kind */
	klieg_span s;
	KLIEG_BEGIN(s, "job", KLIEG_STR("customer", tenant));
	inner(1);
	KLIEG_END(s, "job");
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


def test_what_a_probe_cannot_decide_is_refused_and_said(service):
	for wrong in ('{ .tenant =~ "[0-9]+" }', '{ .tenant = "' + "x" * 60 + '" }', '{ .size + 1 > 3 }', "{ " + " || ".join(f".size = {i}" for i in range(20)) + " }"):
		answer = service.raw([{"selector": wrong}])
		assert answer["rc"] < 0 and answer["error"], wrong
	assert "attributes that a rule asks for" in service.rules({"selector": '{ .nosuch = "7" }'})["warning"]
	assert service.made(tenant="7", n=10) == 0
