#!/usr/bin/python3
"""What a probe costs while it is off, in instructions, counted by valgrind: each function below is built with and without -DKLIEG_DISABLE, and the
difference is the probe. Nothing of libklieg may be entered by them (so no shared memory is touched: its mapping is private to the library).
Arguments: the source root, the directory of libklieg.so."""
import os
import re
import shutil
import subprocess
import sys
import tempfile

ROOT, LIB = sys.argv[1:3]
CALLS = 1000
SOURCE = r"""
#define KLIEG_COMPONENT "cg"
#include <klieg/klieg.h>
#define FN __attribute__((noinline)) void
klieg_span handle;
int x;
__attribute__((noinline, weak)) void other(void) { __asm__ volatile("incl %0" : "+m"(x)); }
#define AROUND(probe) { other(); probe other(); __asm__ volatile("incl %0" : "+m"(x)); }
FN cg_count(void) AROUND(KLIEG_COUNT("count", 1);)
FN cg_event(void) AROUND(KLIEG_EVENT("event");)
FN cg_begin(void) AROUND(KLIEG_BEGIN(handle, "explicit");)
FN cg_end(void) AROUND(KLIEG_END(handle, "explicit");)
FN cg_span(void) AROUND(KLIEG_SPAN("span");)
FN cg_attributes(void) AROUND(KLIEG_EVENT("attributes", KLIEG_INT("x", x * 3), KLIEG_STR("s", getenv("HOME")));)
FN cg_leaf(void) { KLIEG_COUNT("leaf", 1); __asm__ volatile("incl %0" : "+m"(x)); }
int main(void) { for (int i = 0; i < CALLS; i++) { cg_count(); cg_event(); cg_begin(); cg_end(); cg_span(); cg_attributes(); cg_leaf(); } return x != 19 * CALLS; }
"""
# (the probe itself, what the compiler may add to the function's frame for the path that is off the way). A function that calls others has
# a frame anyway; in one that calls nothing, the call on the cold path makes it align the stack. Attributes' cold path may want saved registers.
BARS = {"cg_count": (1, 0), "cg_event": (1, 0), "cg_begin": (1, 0), "cg_end": (1, 0), "cg_span": (4, 0), "cg_attributes": (1, 4), "cg_leaf": (1, 2)}


def count(program, out):
	"""{function: (instructions a call, functions of libklieg that it called)} by callgrind."""
	env = dict(os.environ, LD_LIBRARY_PATH=LIB)
	r = subprocess.run(["valgrind", "--tool=callgrind", f"--callgrind-out-file={out}", "--compress-strings=no", "--compress-pos=no",
		*(f"--toggle-collect={f}" for f in BARS), program], env=env, capture_output=True, text=True, timeout=100)
	if r.returncode:
		sys.exit(f"{program}: {r.returncode}\n{r.stderr}")
	costs, entered, fn, skip = {}, set(), None, False
	for line in open(out):
		if m := re.match(r"fn=(\S+)", line):
			fn = m[1]
			entered.add(fn)
		elif line.startswith("calls="):
			skip = True
		elif re.match(r"[0-9+*-]", line):
			if not skip:
				costs[fn] = costs.get(fn, 0) + int(line.split()[1])
			skip = False
	return {f: costs.get(f, 0) / CALLS for f in BARS}, {f for f in entered if f.startswith("klieg_")}


def main():
	if not shutil.which("valgrind"):
		sys.exit(77)
	bad = []
	with tempfile.TemporaryDirectory() as tmp:
		with open(f"{tmp}/p.c", "w") as f:
			f.write("#include <stdlib.h>\n" + SOURCE)
		for cc in filter(shutil.which, ["gcc", "clang"]):
			result = []
			for name, flags in (("with", []), ("without", ["-DKLIEG_DISABLE"])):
				exe = f"{tmp}/{cc}-{name}"
				subprocess.run([cc, "-std=gnu11", "-O2", f"-DCALLS={CALLS}", "-Wall", f"-I{ROOT}/include", *flags, f"{tmp}/p.c", "-o", exe, f"-L{LIB}", "-lklieg"],
					check=True)
				result.append(count(exe, f"{exe}.out"))
			(on, entered), (off, _) = result
			for fn, (bar, frame) in BARS.items():
				more = on[fn] - off[fn]
				print(f"{cc} {fn}: {more:g} instructions (bar {bar}{', frame %d' % frame if frame else ''}), {off[fn]:g} without it")
				if off[fn] == 0 or not 1 <= more <= bar + frame:
					bad.append(f"{cc} {fn}: {more:g}")
			if entered:
				bad.append(f"{cc}: entered {sorted(entered)}")
	sys.exit("not within the bar: " + ", ".join(bad) if bad else 0)


main()
