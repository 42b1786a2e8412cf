"""The playbook is true: its commands run in order, in one shell, against real processes, and print what its text promises.

Between the blocks stand comments: `<!-- expect: REGEX -->` must be found in what the block prints; `<!-- until: REGEX -->` as well, and the block (which only
looks) is run again until it is; `<!-- status: N -->` is the exit status of its last command, 0 when it is not said."""
import os
import queue
import re
import signal
import subprocess
import threading
import time

from conftest import BUILD, TOP

BLOCK = re.compile(r"((?:^<!-- (?:expect|until|status): [^\n]* -->\n)*)^```sh\n(.*?)^```$", re.M | re.S)
MARK = "\x1eplaybook"


def blocks(text):
	for m in BLOCK.finditer(text):
		wants = re.findall(r"<!-- (expect|until|status): (.*) -->", m[1])
		status = next((int(v) for k, v in wants if k == "status"), 0)
		yield text[:m.start(2)].count("\n") + 1, m[2], [v for k, v in wants if k == "expect"], [v for k, v in wants if k == "until"], status


class Shell:
	"""One bash for all blocks: variables and background jobs stay, as in the reader's terminal."""

	def __init__(self, env):
		self.proc = subprocess.Popen(["bash", "--norc"], cwd=TOP, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
			start_new_session=True)
		self.lines = queue.Queue()
		threading.Thread(target=self.read, daemon=True).start()
		self.run("set +m", 10)

	def read(self):
		for line in self.proc.stdout:
			self.lines.put(line.decode(errors="replace"))
		self.lines.put(None)

	def run(self, text, timeout=120):
		"""(exit status, output); commands see no terminal and no input."""
		self.proc.stdin.write(f"{{\n{text}\n}} </dev/null\necho '{MARK}' $?\n".encode())
		self.proc.stdin.flush()
		out, end = [], time.monotonic() + timeout
		while True:
			try:
				line = self.lines.get(timeout=max(0.01, end - time.monotonic()))
			except queue.Empty:
				raise AssertionError(f"not done within {timeout} s:\n{text}\nso far:\n{''.join(out)}")
			assert line is not None, f"the shell ended:\n{text}\n{''.join(out)}"
			if MARK in line:
				before, after = line.split(MARK)
				return int(after), "".join(out) + before
			out.append(line)

	def close(self):
		for sig in (signal.SIGTERM, signal.SIGKILL):
			try:
				os.killpg(self.proc.pid, sig)
				self.proc.wait(10)
			except (ProcessLookupError, subprocess.TimeoutExpired):
				continue


def follow(shell, line, text, expect, until, status, timeout=60):
	end = time.monotonic() + timeout
	while True:
		rc, out = shell.run(text)
		missing = [w for w in until if not re.search(w, out, re.M)]
		if not missing or time.monotonic() > end:
			break
		time.sleep(0.25)  # between two looks, with a bound
	said = f"docs/playbook.md:{line}\n{text}printed, with exit status {rc}:\n{out}"
	assert not missing, f"{said}\nnot within {timeout} s: {missing}"
	assert rc == status, said
	for want in expect:
		assert re.search(want, out, re.M), f"{said}\nwithout: {want}"
	return out


def test_the_playbook_is_true(tmp_path):
	text = open(os.path.join(TOP, "docs/playbook.md")).read()
	found = list(blocks(text))
	assert len(found) == text.count("```sh\n") and len(found) >= 10
	assert len(re.findall(r"^<!--", text, re.M)) == sum(len(e) + len(u) for _, _, e, u, _ in found) + len(re.findall("<!-- status", text))
	env = {k: v for k, v in os.environ.items() if not k.startswith(("KLIEG_", "OTEL_"))}
	shell = Shell({**env, "BUILD": BUILD, "TMPDIR": str(tmp_path), "NO_COLOR": "1", "LC_ALL": "C.UTF-8"})
	try:
		for line, block, expect, until, status in found:
			follow(shell, line, block, expect, until, status)
	finally:
		shell.close()
