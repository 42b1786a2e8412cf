"""A running program in C++: its functions are listed, chosen and shown under the names that people write, not those of the linker."""
import subprocess

import pytest

from conftest import wait_for

PROGRAM = r"""
#include <cstdio>
#include <string>
#include <vector>
#define FUNCTION __attribute__((noinline, noclone))
namespace orders {
struct Order { int id; std::string who; };
template <class T> struct Queue {
	std::vector<T> v;
	FUNCTION void push(const T &t) { v.push_back(t); if (v.size() > 100) v.clear(); }
};
struct Shop {
	Queue<Order> q;
	long placed = 0;
	FUNCTION void place(int id) { q.push(Order{id, "by number"}); placed += id; }
	FUNCTION void place(const std::string &who) { q.push(Order{0, who}); placed++; }
	FUNCTION bool operator==(const Shop &o) const { return placed == o.placed; }
};
}
extern "C" FUNCTION void as_rust_names_it(orders::Shop *s) __asm__("_RNvNtC7billing7invoice4send");
extern "C" FUNCTION void as_rust_names_it(orders::Shop *s) { s->placed ^= 1; }
int main()
{
	orders::Shop s, other;
	char line[16];
	puts("up");
	fflush(stdout);
	for (int n = 0; fgets(line, sizeof line, stdin); n++) {
		s.place(n);
		s.place(std::string("by name"));
		s.place(std::string("and again"));
		as_rust_names_it(&s);
		puts(s == other ? "same" : "other");
		fflush(stdout);
	}
}
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory):
	d = tmp_path_factory.mktemp("names")
	(d / "orders.cc").write_text(PROGRAM)
	subprocess.run(["g++", "-O1", "-o", str(d / "orders"), str(d / "orders.cc")], check=True)
	return str(d / "orders")


def test_functions_of_cpp_have_the_names_that_people_write(klieg_up, spawn, program):
	up = klieg_up
	p = spawn([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
	assert p.stdout.readline() == "up\n"
	up.attach(p.pid)
	names = {x["name"] for x in up.cli("ls", "orders:*", json_out=True)["sites"]}
	# Arguments only where the name alone is not enough.
	assert {"orders::Shop::place(int)", "orders::Shop::place(std::string const&)", "orders::Shop::operator==", "orders::Queue<orders::Order>::push",
		"billing::invoice::send", "main"} <= names
	assert not any(n.startswith(("_Z", "_R")) for n in names)
	# A colon parts service and name; those of ns::name do not.
	assert {x["name"] for x in up.cli("ls", "orders::Shop::*", json_out=True)["sites"]} == {n for n in names if n.startswith("orders::Shop::")}
	up.switch("orders:orders::Shop::place*")
	up.switch("billing::*")
	for _ in range(10):
		p.stdin.write("\n")
		p.stdin.flush()
		assert p.stdout.readline() in ("same\n", "other\n")
	wait_for(lambda: up.stored('{ name = "billing::invoice::send" }') == 10)
	assert up.stored('{ name = "orders::Shop::place(int)" }') == 10
	assert up.stored('{ name = "orders::Shop::place(std::string const&)" }') == 20
	r = up.cli("on", "orders::Shop::plac(int)", check=False)
	assert r.returncode == 1 and "did you mean: orders::Shop::place(int)" in r.stderr
	r = up.cli("attach", str(p.pid), "--root", "orders::Shop::plce(int)", check=False)
	assert r.returncode != 0 and "orders::Shop::place(int)" in r.stderr and "_ZN" not in r.stderr
	up.all_off()
	up.detach(p.pid)
