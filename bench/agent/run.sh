#!/bin/bash
# bench/agent/run.sh BUILD: generates and compiles a program with 100,000 sites (once), then runs bench_agent.
set -euo pipefail
build=$1
here=$(cd "$(dirname "$0")" && pwd)
out=$here/../out
mkdir -p "$out"
generate() { # NAME FUNCTIONS: a program with a thousand sites in each
	local exe=$out/$1
	if [ ! -x "$exe" ] || [ "$here/../../include/klieg/klieg.h" -nt "$exe" ]; then
		echo "# compiling a program with $2,000 sites" >&2
		{
			echo '#define KLIEG_COMPONENT "many"'
			echo '#include <klieg/klieg.h>'
			echo '#include <unistd.h>'
			for f in $(seq 0 $(($2 - 1))); do
				echo "__attribute__((noinline)) static void f$f(void) {"
				for s in $(seq 0 999); do echo "KLIEG_EVENT(\"s${f}_$s\");"; done
				echo '}'
			done
			echo 'int main(void) { for (;;) {'
			for f in $(seq 0 $(($2 - 1))); do echo "f$f();"; done
			echo 'usleep(100000); } }'
		} >"$exe.c"
		gcc -O1 -w -I"$here/../../include" "$exe.c" -o "$exe.new" -L"$build/src/probe" -lklieg -Wl,-rpath,"$(realpath "$build/src/probe")"
		mv "$exe.new" "$exe"
	fi
}
generate many 100
generate ten 10
exec "$build/bench/agent/bench_agent" "$build/bench/agent/producer" "$out/many" "$out/ten"
