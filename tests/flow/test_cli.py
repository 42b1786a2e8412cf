"""The command line as scripts and people meet it: real server, real program, real terminal (tmux)."""
import csv
import io
import json
import os
import re
import shutil
import signal
import subprocess

import pytest
from conftest import KLIEG, TOP, wait_for

PROGRAM = r"""
#define KLIEG_COMPONENT "cli"
#include <klieg/klieg.h>
#include <unistd.h>
static void inner(int i) { KLIEG_SPAN("cli.inner", KLIEG_INT("n", i % 3)); usleep(500); }
int main(void) { for (int i = 0;; i++) { KLIEG_SPAN("cli.outer"); inner(i); } }
"""


@pytest.fixture
def program(klieg_up, cc, spawn):
	p = spawn([cc(PROGRAM)], env={**klieg_up.env, "OTEL_SERVICE_NAME": "cli-test"})
	wait_for(lambda: [x for x in klieg_up.cli("ps", json_out=True)["processes"] if x["pid"] == p.pid and x["sites"] >= 2])
	return p


def bare(*args, env=None):
	e = {k: v for k, v in os.environ.items() if not k.startswith("KLIEG_")}
	return subprocess.run([KLIEG, *args], env={**e, **(env or {})}, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=30)


def test_cli_without_a_server(tmp_path):
	for args in (["ps"], ["on", "x"], ["query", "{}"], ["doctor"], ["top"]):
		r = bare(*args, env={"KLIEG_DIR": str(tmp_path)})
		assert r.returncode == 3 and r.stdout == ""
		assert r.stderr.startswith("error[E300]: ") and "hint: klieg up" in r.stderr


def test_cli_usage_errors_suggest():
	r = bare("onn")
	assert r.returncode == 2 and "did you mean: klieg on" in r.stderr
	r = bare("on", "x", "--levle", "span")
	assert r.returncode == 2 and "did you mean: --level" in r.stderr
	r = bare("on", "x", "--level", "spam")
	assert r.returncode == 2 and "did you mean: --level span" in r.stderr
	assert bare("help", "E204").returncode == 0
	assert bare("help", "E999").returncode == 1


def test_cli_on_says_what_it_did(klieg_up, program):
	r = klieg_up.cli("on", "cli.*", "--dry-run")
	assert "nothing was changed" in r.stdout and klieg_up.cli("toggles", json_out=True)["toggles"] == []
	r = klieg_up.cli("on", "cli.*", "--level", "detail", "--ttl", "1m")
	assert "2 sites" in r.stdout and "acknowledged in" in r.stdout and "ends" in r.stdout
	undo = re.search(r"undo +klieg off (\S+)", r.stdout)[1]
	wait_for(lambda: klieg_up.cli("query", '{ name = "cli.inner" && .n = 1 }', json_out=True, check=False)["spans"])
	assert klieg_up.cli("off", undo).returncode == 0
	assert klieg_up.cli("toggles", json_out=True)["toggles"] == []
	assert klieg_up.cli("off", undo, check=False).returncode == 1


def test_cli_no_match_suggests(klieg_up, program):
	r = klieg_up.cli("on", "cli.outre", check=False)
	assert r.returncode == 1 and "E204" in r.stderr and "did you mean" in r.stderr and "cli.outer" in r.stderr
	assert klieg_up.cli("query", '{ name = "none such" }', check=False).returncode == 1


def test_cli_formats_agree(klieg_up, program):
	klieg_up.cli("on", "cli.*")
	wait_for(lambda: klieg_up.cli("query", "cli.*", json_out=True, check=False)["matched"] > 20)
	assert len(klieg_up.cli("query", "cli.*", "--limit", "5", json_out=True)["spans"]) == 5
	lines = klieg_up.cli("query", "cli.*", "--limit", "5", "-o", "ndjson").stdout.splitlines()
	assert [json.loads(x)["service"] for x in lines] == ["cli-test"] * 5
	rows = list(csv.DictReader(io.StringIO(klieg_up.cli("query", "cli.*", "--limit", "5", "-o", "csv").stdout)))
	assert len(rows) == 5 and rows[0]["service"] == "cli-test" and int(rows[0]["duration_nano"]) > 0
	table = klieg_up.cli("query", "cli.*", "--limit", "5")
	assert len(table.stdout.splitlines()) == 6 and "\033" not in table.stdout and "showing 5 of" in table.stderr
	trace = klieg_up.cli("trace", rows[0]["trace_id"]).stdout
	assert "cli.outer" in trace and "SELF" in trace
	assert len(klieg_up.cli("tail", "cli.*", "-n", "3", "-o", "ndjson").stdout.splitlines()) == 3


def test_cli_foreground_toggle_is_gone_after_interrupt(klieg_up, program):
	p = subprocess.Popen([KLIEG, "on", "cli.*", "--for", "60s"], env=klieg_up.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
	wait_for(lambda: klieg_up.cli("toggles", json_out=True)["toggles"])
	p.send_signal(signal.SIGINT)
	assert p.wait(20) == 130
	assert klieg_up.cli("toggles", json_out=True)["toggles"] == []


def test_cli_run_keeps_the_exit_status(klieg_up):
	assert klieg_up.cli("run", "--", "sh", "-c", "exit 7", check=False).returncode == 7
	assert klieg_up.cli("run", "--", "/no/such/program", check=False).returncode == 127
	r = klieg_up.cli("run", "--service", "x", "--", "sh", "-c", "echo $OTEL_SERVICE_NAME $LD_PRELOAD")
	assert r.stdout.startswith("x ") and "libklieg.so" in r.stdout


def test_cli_completion_knows_live_sites(klieg_up, program):
	assert "cli-test:cli.outer" in klieg_up.cli("completion", "words", "--", "on").stdout
	for shell, path in (("bash", "klieg.bash"), ("zsh", "_klieg"), ("fish", "klieg.fish")):
		assert klieg_up.cli("completion", shell).stdout == open(f"{TOP}/packaging/completions/{path}").read()


@pytest.mark.skipif(not shutil.which("tmux"), reason="tmux is not installed")
def test_cli_top_on_a_terminal(klieg_up, program, tmp_path):
	klieg_up.cli("on", "cli.*", "--level", "count", "--ttl", "2m")
	wait_for(lambda: len(klieg_up.cli("top", "--batch", json_out=True)["sites"]) == 2)
	tmux = ["tmux", "-S", str(tmp_path / "tmux")]
	env = {**klieg_up.env, "LC_ALL": "C.UTF-8", "TERM": "xterm"}
	subprocess.run([*tmux, "-f", "/dev/null", "new-session", "-d", "-x", "130", "-y", "20", f"{KLIEG} top"], env=env, check=True)

	def screen():
		return subprocess.run([*tmux, "capture-pane", "-p"], capture_output=True, text=True).stdout

	def key(*k):
		subprocess.run([*tmux, "send-keys", *k], check=True)
	try:
		wait_for(lambda: "cli-test:cli.outer" in screen() and "next off in 1m" in screen())
		key("?")
		wait_for(lambda: "next sort column" in screen())
		key("y")
		wait_for(lambda: "klieg on 'cli-test:cli." in screen())
		key("/", "inner", "Enter")
		wait_for(lambda: re.search(r"^>.*cli\.inner", screen(), re.M))
		subprocess.run([*tmux, "resize-window", "-x", "80", "-y", "10"], check=True)
		wait_for(lambda: re.search(r"^>.*cli\.inner", screen(), re.M))
		key("o")
		wait_for(lambda: "All off" in screen())
		key("y")
		wait_for(lambda: klieg_up.cli("toggles", json_out=True)["toggles"] == [])
		key("q")
		wait_for(lambda: subprocess.run([*tmux, "has-session"], capture_output=True).returncode != 0)
	finally:
		subprocess.run([*tmux, "kill-server"], capture_output=True)
