"""Attaching to programs that know nothing of Klieg and have habits that break tracers (tests/targets): what they answer stays what it was, every call is a span
or counted as lost, and their text is what it was when we go."""
import os
import random
import re
import signal
import subprocess
import threading
import time

import pytest

from conftest import BUILD, KLIEG, TOP, Target, Up, changed, text_of, wait_for

UP_ARGS = ("--budget", "0")  # these programs do nothing but call: the governor would shed what is to be counted


def functions_on(up, target, names, **more):
	"""Switches exactly these functions on."""
	for name in names:
		answer = up.switch(f"{target.name}:{name}", **more)
		assert answer["plan"]["instances"] == 1, answer


def check_counts(up, target, calls, before=0, lost=()):
	"""Every one of these calls is stored under its function's name, or dropped for one of the reasons."""
	total = sum(calls.values())
	account = wait_for(lambda: (a := up.settled()) and a["made"] >= before + total and a)
	assert account["made"] == before + total, (account, before, calls)
	dropped = {k: v for k, v in account["dropped"].items() if v}
	assert set(dropped) <= set(lost), (dropped, calls)
	return account


def per_name(up, target, calls):
	return {name: up.stored(f'{{ resource.service.name = "{target.name}" && name = "{name}" }}') for name in calls}


# What each program does that may cost records, but never more than is counted: spans whose function never returned (an exception or longjmp over it, the
# thread's end: abandoned), calls deeper than the shadow stack or on a stack that is not the thread's (depth), calls in a handler that interrupted a probe.
@pytest.mark.parametrize("name, rounds, lost", [
	("abi", 200, ()),
	("backtraces", 20, ()),
	("hot", 1500, ()),
	("recursion", 2, ("depth",)),
	("tailcalls", 40, ("depth",)),
	("exceptions", 100, ("abandoned",)),
	("jumps", 60, ("abandoned", "depth")),
	("coroutines", 2, ("abandoned", "depth")),
	("signals", 10, ("reentrant", "no_slot", "abandoned", "depth", "ring_full")),
	("threads", 10, ("abandoned", "depth")),
])
def test_calls_are_counted_and_results_are_what_they_were(klieg_up, target, name, rounds, lost):
	up, t = klieg_up, target(name)
	plain, counts = t.go(rounds)
	assert t.go(rounds)[0] == plain
	before = text_of(t.pid)
	total = 0
	for attempt in range(2):  # and again, after a detach
		a = up.attach(t.pid)
		assert a["service"] == name and a["hookable"] >= len(counts), a
		functions_on(up, t, counts)
		assert changed(before, t.pid), "nothing was armed"
		for _ in range(3):
			result, calls = t.go(rounds)
			assert result == plain
			assert name == "signals" or calls == counts
			total += sum(calls.values())
			account = check_counts(up, t, calls, total - sum(calls.values()), lost)
		if not lost:
			assert per_name(up, t, counts) == {k: v * 3 * (attempt + 1) for k, v in counts.items()}
		up.all_off()
		assert not changed(before, t.pid)  # off is off: not a byte is left
		assert t.go(rounds)[0] == plain
		functions_on(up, t, counts)
		d = up.detach(t.pid)
		assert d["restored"] == len(counts) and not changed(before, t.pid)
		assert t.go(rounds)[0] == plain
		assert up.settled()["made"] == total, account
		up.all_off()
	t.end()


def test_spans_have_the_parents_that_called_them(klieg_up, target):
	up, t = klieg_up, target("backtraces")
	up.attach(t.pid)
	functions_on(up, t, ["looks", "down", "jumps"])
	t.go(1)
	wait_for(lambda: up.exact(23))
	spans = up.get("/spans?q=%7B%20%7D&since=1h&limit=100")["spans"]
	by_id = {s["span_id"]: s for s in spans}
	leaf, = [s for s in spans if s["name"] == "looks"]
	chain = []
	while leaf:
		chain.append(leaf["name"])
		leaf = by_id.get(leaf["parent_span_id"])
	assert chain == ["looks"] + ["down"] * 21 + ["jumps"]  # the caller that jumped is its callee's parent


def test_a_stripped_program_is_followed_by_address(klieg_up, target):
	up, t = klieg_up, target("abi_stripped")
	plain, counts = t.go(50)
	before = text_of(t.pid)
	a = up.attach(t.pid)
	exe, = [m for m in a["modules"] if m["path"].endswith("/abi_stripped")]
	assert exe["hookable"] >= len(counts) and any("strip" in n for n in a["notes"]), a
	sites = up.get("/sites?sel=abi_stripped:*&limit=1000")["sites"]
	assert {s["source"] for s in sites} <= {"eh_frame", "dynsym"} and all(re.match(r"abi_stripped\+0x[0-9a-f]+$", s["name"]) for s in sites if s["source"] == "eh_frame")
	up.switch('{ resource.service.name = "abi_stripped" && name =~ "abi_stripped.*" }')
	result, calls = t.go(50)
	assert result == plain and calls == counts
	account = wait_for(up.settled)
	assert account["made"] >= sum(counts.values()) and not any(account["dropped"].values())
	rows = [up.stored(f'{{ name = "{s["name"]}" }}') for s in sites]
	for n in counts.values():  # each of the program's own counts is some function's
		assert n in rows, (n, sorted(rows))
	up.detach(t.pid)
	assert not changed(before, t.pid) and t.go(50)[0] == plain


def test_a_process_that_cannot_be_stopped_is_tried_again(klieg_up, target):
	"""What is asked for meanwhile is put off, which is said, and comes when it can: also the first function of all, for which memory has to be made."""
	up, t = klieg_up, target("forks")
	before = text_of(t.pid)
	up.attach(t.pid)
	assert t.ask("hold") == ["held"]
	plan = up.switch("forks:work")["plan"]
	assert plan["sites"] == 1 and "threads were known to have stopped" in plan["warning"], plan
	assert not changed(before, t.pid)
	assert t.ask("go on") == ["released"]
	wait_for(lambda: changed(before, t.pid))
	assert t.go(1)
	wait_for(lambda: up.stored('{ name = "work" }'))
	assert t.ask("hold") == ["held"]
	up.all_off()
	assert changed(before, t.pid)
	assert t.ask("go on") == ["released"]
	wait_for(lambda: not changed(before, t.pid))


def test_both_sides_of_a_fork_return_through_hooked_frames(klieg_up, target):
	up, t = klieg_up, target("forks")
	plain, counts = t.go(5)
	before = text_of(t.pid)
	up.attach(t.pid)
	functions_on(up, t, counts)
	for _ in range(3):
		result, calls = t.go(5)
		assert result == plain and calls == counts
	mine = lambda: [p for p in up.get("/processes")["processes"] if p["pid"] == t.pid][0]
	wait_for(lambda: mine()["open"] == 0 and mine()["made"] == mine()["passed"] + sum(mine()["dropped"].values()) == 3 * sum(counts.values()))
	assert not any(mine()["dropped"].values())
	account = wait_for(up.settled)  # the children's, too, which are gone before anybody has met them
	assert account["made"] > 2 * 3 * sum(counts.values()) and not any(account["dropped"].values()), account
	up.detach(t.pid)
	assert not changed(before, t.pid) and t.go(5)[0] == plain
	t.end()


def counted(target):
	line = target.ask("count")
	assert line[0] == "count" and line[2] == "0", line
	return int(line[1])


def runs_on(target):
	n = counted(target)
	wait_for(lambda: counted(target) > n)


CYCLES = int(os.environ.get("KLIEG_TEST_CYCLES", 3000))


def test_thousands_of_cycles_under_load_lose_nothing(klieg_up, target):
	"""Armed and taken away 3,000 times while threads go in and out: entries equal exits."""
	up, t = klieg_up, target("hot")
	plain, _ = t.go(100)
	before = text_of(t.pid)
	up.attach(t.pid)
	assert t.ask("start 2") == ["started"]
	both = "{ resource.service.name = \"hot\" && name =~ \"inner|outer\" }"
	for i in range(CYCLES):
		selector, sites = ("hot:inner", 1) if i % 3 == 0 else ("hot:outer", 1) if i % 3 == 1 else (both, 2)
		plan = up.switch(selector, level=("count", "span")[i % 2], keep=0.01, max_pause="5s")["plan"]
		assert plan["instances"] == sites and not plan.get("warning"), plan
		status, answer = up.all_off()
		assert status == 200 and answer["sites"] == sites, answer
	assert not changed(before, t.pid)
	runs_on(t)
	assert t.ask("stop") == ["stopped", "0"]
	account = wait_for(up.settled)
	assert not account["dropped"].get("abandoned") and not account["dropped"].get("depth"), account
	up.switch(both)  # in order as on the first day
	made = account["made"]
	assert t.go(100)[0] == plain
	wait_for(lambda: up.exact(made + 800))
	up.detach(t.pid)
	assert not changed(before, t.pid)
	t.end()


def test_calls_under_way_return_after_a_detach(klieg_up, target):
	up, t = klieg_up, target("hot")
	before = text_of(t.pid)
	t.send("park")
	assert t.line() == ["parked"]
	t.send("")
	expected = t.line()
	for _ in range(3):
		up.attach(t.pid)
		functions_on(up, t, ["parks"])
		t.send("park")
		assert t.line() == ["parked"]
		wait_for(lambda: up.get("/doctor")["account"]["open"] == 21)
		up.detach(t.pid)
		assert not changed(before, t.pid)
		t.send("")
		assert t.line() == expected
		plain, _ = t.go(10)
		up.attach(t.pid)
		functions_on(up, t, ["inner", "outer"])
		assert t.go(10)[0] == plain  # what the shadow stack had left over is gone
		up.detach(t.pid)
		up.all_off()
		assert wait_for(up.settled)
	t.end()


# ---- the agent dies ---------------------------------------------------------------------------------------------------------


def test_the_agent_is_killed_and_the_next_one_detaches(klieg_up, target):
	up, t = klieg_up, target("hot")
	plain, _ = t.go(200)
	before = text_of(t.pid)
	up.attach(t.pid)
	functions_on(up, t, ["inner", "outer", "parks"])
	t.send("park")
	assert t.line() == ["parked"]
	up.kill()
	t.send("")
	assert t.line()[0] == "unparked"
	assert t.go(200)[0] == plain
	up.start()
	row = wait_for(lambda: [p for p in up.get("/processes")["processes"] if p["pid"] == t.pid])[0]
	assert row["state"] == "live"
	assert up.get("/sites?sel=hot:inner")["matched"] == 1
	wait_for(lambda: [p for p in up.get("/processes")["processes"] if p["pid"] == t.pid and p["on"] == 3])  # the toggles are in force again
	wait_for(up.settled)
	n = up.stored('{ name = "inner" }')
	t.go(10)
	wait_for(lambda: up.stored('{ name = "inner" }') == n + 40)
	up.detach(t.pid)
	assert not changed(before, t.pid)
	assert t.go(200)[0] == plain
	t.end()


def test_the_agent_may_die_at_any_moment(tmp_path, target):
	"""Killed while it attaches, arms, drains, detaches: the program lives, answers right, and the agent after it can take everything away."""
	t = target("hot")
	plain, _ = t.go(50)
	before = text_of(t.pid)
	t.ask("start")
	rng = random.Random(20261123)
	up = Up(tmp_path / "klieg", *UP_ARGS)
	try:
		for _ in range(12):
			killer = threading.Timer(rng.uniform(0, 0.25), up.kill)
			killer.start()
			try:  # whatever is under way when it dies ends with an error
				for _ in range(50):
					up.request("POST", "/api/v1/attachments", {"pid": t.pid})
					up.request("POST", "/api/v1/toggles", {"selector": "hot:*", "estimate": "0s", "ttl": "1m", "keep": 0.001})
					up.all_off()
					up.request("DELETE", f"/api/v1/attachments/{t.pid}")
			except OSError:
				pass
			killer.join()
			runs_on(t)
			up.start()
			runs_on(t)
		assert t.ask("stop") == ["stopped", "0"]
		up.attach(t.pid)
		up.all_off()
		up.detach(t.pid)
		assert not changed(before, t.pid)
		assert t.go(50)[0] == plain
	finally:
		up.stop()
	t.end()


def test_when_the_agent_stops_nothing_is_left(klieg_up, target):
	up, t = klieg_up, target("hot")
	plain, _ = t.go(50)
	before = text_of(t.pid)
	up.attach(t.pid)
	functions_on(up, t, ["inner", "outer"])
	assert changed(before, t.pid)
	up.stop()
	assert not changed(before, t.pid) and t.go(50)[0] == plain


# ---- programs that are hard to get into ------------------------------------------------------------------------------------


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: another user, chroot, namespaces")
@pytest.mark.parametrize("how", ["seccomp", "user", "nodump", "chroot", "mount", "pid", "threads"])
def test_confined_programs(klieg_up, target, tmp_path, how):
	up = klieg_up
	(tmp_path / "empty").mkdir()
	t = target("confined", how, *([str(tmp_path / "empty")] if how == "chroot" else []))
	plain, counts = t.go(100)
	before = text_of(t.pid)
	for n in (1, 2):
		up.attach(t.pid)
		functions_on(up, t, counts)
		assert t.go(100) == (plain, counts)
		wait_for(lambda: up.exact(n * 200))
		up.detach(t.pid)
		up.all_off()
		assert not changed(before, t.pid)
	assert t.go(100) == (plain, counts)
	t.end()


# ---- what is refused ------------------------------------------------------------------------------------------------------------


def refusal(up, *args, status=None):
	r = up.cli(*args, check=False)
	assert r.returncode not in (0, -signal.SIGSEGV, -signal.SIGABRT), (args, r.stdout)
	assert status is None or r.returncode == status, (r.returncode, r.stderr)
	assert "Traceback" not in r.stderr and r.stderr.strip(), args
	return r.stderr


def test_no_such_process(klieg_up, spawn):
	gone = spawn(["true"])
	gone.wait()
	assert str(gone.pid) in refusal(klieg_up, "attach", str(gone.pid), status=3)
	assert "no-such-program" in refusal(klieg_up, "attach", "no-such-program", status=3)
	refusal(klieg_up, "attach", "99999999999999999999", status=2)
	refusal(klieg_up, "detach", str(gone.pid))
	assert "this agent" in refusal(klieg_up, "attach", str(klieg_up.proc.pid))


def test_no_such_function_has_suggestions(klieg_up, target):
	up, t = klieg_up, target("hot")
	assert "inner" in refusal(up, "attach", str(t.pid), "--root", "iner")
	up.attach(t.pid)
	status, problem = up.request("POST", "/api/v1/toggles", {"selector": "hot:iner"})
	assert status == 404 and "inner" in problem["hint"], problem
	up.detach(t.pid)


def test_a_function_that_cannot_be_intercepted_says_why(klieg_up, target):
	up, t = klieg_up, target("refused")
	plain, counts = t.go(10)
	before = text_of(t.pid)
	up.attach(t.pid)
	sites = {s["name"]: s for s in up.get("/sites?sel=refused:*&limit=1000")["sites"]}
	for name in ("too_short", "too_short_next", "loops_into_window"):
		if sites[name]["hookable"]:
			continue
		assert sites[name]["why"], sites[name]
		status, answer = up.request("POST", "/api/v1/toggles", {"selector": f"refused:{name}", "estimate": "0s"})
		assert status != 201 or name in str(answer) or sites[name]["why"] in str(answer), answer
	assert not sites["loops_into_window"]["hookable"] and not sites["too_short"]["hookable"]
	assert sites["fine"]["hookable"] and not sites["fine"]["why"]
	up.all_off()
	up.switch("refused:*")
	assert t.go(10) == (plain, counts)
	up.detach(t.pid)
	assert not changed(before, t.pid) and t.go(10) == (plain, counts)
	refusal(up, "attach", str(t.pid), "--root", "too_short")


def test_two_tracers(klieg_up, target, spawn):
	up, t = klieg_up, target("hot")
	plain, _ = t.go(10)
	other = spawn([os.path.join(BUILD, "tests/targets/tracer"), str(t.pid)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
	assert other.stdout.readline() == f"ready {t.pid}\n"
	text = refusal(up, "attach", str(t.pid))
	assert "tracer" in text and str(other.pid) in text
	assert t.go(10)[0] == plain
	other.stdin.close()
	other.wait()
	before = text_of(t.pid)
	up.attach(t.pid)  # and when it is gone, it works
	second = spawn([os.path.join(BUILD, "tests/targets/tracer"), str(t.pid)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
	assert second.stdout.readline() == f"ready {t.pid}\n"
	status, answer = up.request("POST", "/api/v1/toggles", {"selector": "hot:inner", "estimate": "0s"})
	assert "trace" in str(answer), answer  # said, not passed over in silence
	assert t.go(10)[0] == plain and not changed(before, t.pid)
	second.stdin.close()
	second.wait()
	up.detach(t.pid)
	assert t.go(10)[0] == plain and not changed(before, t.pid)


@pytest.mark.skipif(os.geteuid() != 0, reason="uprobes need root")
@pytest.mark.parametrize("name", ["hot_static", "hot_musl"])
def test_what_cannot_be_injected_into_is_traced_from_outside(klieg_up, target, name):
	"""By the kernel's uprobes: the same sites, the same account, dearer."""
	up, t = klieg_up, target(name)
	plain, counts = t.go(200)
	before, maps = text_of(t.pid), open(f"/proc/{t.pid}/maps").read()
	a = up.attach(t.pid)
	assert a["mechanism"] == "uprobe" and a["notes"], a
	assert not changed(before, t.pid)
	assert up.switch(f"{name}:outer")["plan"]["instances"] == 1
	assert t.go(200) == (plain, counts)
	account = wait_for(lambda: up.exact(counts["outer"]))
	if not any(account["dropped"].values()):
		assert up.stored('{ name = "outer" }') == counts["outer"]
	up.all_off()
	up.detach(t.pid)
	assert not changed(before, t.pid)
	assert [x for x in maps.splitlines() if x not in open(f"/proc/{t.pid}/maps").read().splitlines()] == []
	assert t.go(200) == (plain, counts)
	t.end()


@pytest.mark.skipif(os.geteuid() != 0, reason="uprobes need root")
def test_a_static_program_that_unwinds_its_stacks_is_timed_too(klieg_up, target):
	"""C++ exceptions cannot pass a function whose return address was replaced: its ends are seen at its return instructions."""
	up, t = klieg_up, target("exceptions_static")
	rounds = 20
	plain, counts = t.go(rounds)
	before = text_of(t.pid)
	a = up.attach(t.pid)
	assert a["mechanism"] == "uprobe", a
	del counts["checked"]  # it begins with an instruction that the kernel cannot execute on its own
	plans = [up.switch(f"exceptions_static:{name}")["plan"] for name in counts]
	assert all(p["sites"] == 1 and "not timed" not in p.get("warning", "") for p in plans), plans
	for _ in range(3):
		result, calls = t.go(rounds)
		assert result == plain and {k: calls[k] for k in counts} == counts
	account = wait_for(lambda: up.exact(3 * sum(counts.values())))
	assert not [k for k, v in account["dropped"].items() if v and k != "abandoned"], account
	assert account["dropped"]["abandoned"] and account["stored"] == 3 * (20 + 8 + 8 + 8 + 16)  # of five kinds, two return all the way: 4 of depth, and 3 that call them
	assert up.stored('{ name = "collects" && duration > 0s && duration < 10s }') == 3 * counts["collects"]  # it catches all: never left in another way
	up.all_off()
	up.detach(t.pid)
	assert not changed(before, t.pid) and t.go(rounds)[0] == plain


@pytest.mark.skipif(os.geteuid() != 0, reason="uprobes need root")
def test_a_static_program_with_handlers_on_a_stack_of_their_own(klieg_up, target):
	"""The kernel's return probes would end it. Each call is counted: stored, or left open by a call on the other stack."""
	up, t = klieg_up, target("signals_static")
	plain, counts = t.go(3)
	before = text_of(t.pid)
	assert up.attach(t.pid)["mechanism"] == "uprobe"
	names = ("outer", "on_usr", "on_alarm")  # the others begin with an instruction that the kernel cannot execute on its own
	plans = [up.switch(f"signals_static:{name}")["plan"] for name in names]
	assert not [p for p in plans if p["sites"] != 1 or p.get("warning")], plans
	total = 0
	for _ in range(2):
		result, calls = t.go(3)
		assert result == plain
		total += sum(calls[name] for name in names)
	account = wait_for(lambda: up.exact(total))
	assert {k for k, v in account["dropped"].items() if v} <= {"abandoned", "ring_full", "no_slot", "depth"} and account["stored"] > account["dropped"]["abandoned"], account
	up.all_off()
	up.detach(t.pid)
	assert not changed(before, t.pid) and t.go(3)[0] == plain


def test_targets_that_die_in_the_middle(klieg_up, spawn):
	"""Whenever the program ends, the answer is an error that says so or a success from before; the agent goes on."""
	up = klieg_up
	rng = random.Random(7)
	outcomes = set()
	for i in range(25):
		t = Target(spawn, "hot")
		t.ask("start")
		killer = threading.Timer(rng.uniform(0, 0.08), t.proc.kill)
		killer.start()
		status, answer = up.request("POST", "/api/v1/attachments", {"pid": t.pid})
		outcomes.add(status)
		assert status in (200, 201) or answer["detail"], answer
		status, answer = up.request("POST", "/api/v1/toggles", {"selector": "hot:*", "estimate": "0s", "keep": 0.001})
		status, answer = up.request("DELETE", f"/api/v1/attachments/{t.pid}")
		killer.join()
		t.proc.wait()
		up.all_off()
	assert up.get("/status")["version"]
	t = Target(spawn, "hot")  # and works as before
	up.attach(t.pid)
	functions_on(up, t, ["inner"])
	n = up.stored('{ name = "inner" }')
	t.go(10)
	wait_for(lambda: up.stored('{ name = "inner" }') == n + 40)


def test_attaching_twice_is_attaching_once(klieg_up, target):
	up, t = klieg_up, target("hot")
	before = text_of(t.pid)
	answers = []
	both = [threading.Thread(target=lambda: answers.append(up.request("POST", "/api/v1/attachments", {"pid": t.pid}))) for _ in range(2)]
	for b in both:
		b.start()
	for b in both:
		b.join()
	assert any(status in (200, 201) for status, _ in answers), answers
	assert up.attach(t.pid)["already"]
	functions_on(up, t, ["inner"])
	t.go(10)
	wait_for(lambda: up.exact(40))
	up.detach(t.pid)
	assert not changed(before, t.pid)
	refusal(up, "detach", str(t.pid))
