#!/usr/bin/python3
"""What a call of an intercepted function costs in instructions while it is recorded, entry and exit together: counted by valgrind over a loop of
calls, with and without. All but some (where a page of the ring ends, and those that are timed) must go the quick way (src/probe/gate.S): a compiler has no part in
it, so the bar is what it has. Argument: the built test_probe_hook."""
import os
import re
import shutil
import subprocess
import sys
import tempfile

PROGRAM = sys.argv[1]
CALLS, BAR = 500, 197


def count(hooked, out):
	r = subprocess.run(["valgrind", "--tool=callgrind", f"--callgrind-out-file={out}", "--compress-strings=no", "--toggle-collect=counted_loop", PROGRAM,
		str(CALLS), str(int(hooked))], capture_output=True, text=True, timeout=100)
	if r.returncode:
		sys.exit(f"{PROGRAM}: {r.returncode}\n{r.stderr}")
	return int(re.search(r"^summary: (\d+)", open(out).read(), re.M)[1])


if not shutil.which("valgrind"):
	sys.exit(77)
with tempfile.TemporaryDirectory() as tmp:
	without = count(False, os.path.join(tmp, "without"))
	each = (count(True, os.path.join(tmp, "with")) - without) / CALLS
print(f"{each:g} instructions a call (bar {BAR}), {without / CALLS:g} without")
sys.exit(0 if 1 <= each <= BAR else f"{each:g} instructions, not at most {BAR}")
