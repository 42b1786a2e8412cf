#!/bin/bash
# bench/agent/run.sh BUILD: generates and compiles a program with 100,000 sites (once), then runs bench_agent.
set -euo pipefail
build=$1
here=$(cd "$(dirname "$0")" && pwd)
out=$here/../out
mkdir -p "$out"
many=$out/many
if [ ! -x "$many" ] || [ "$here/../../include/klieg/klieg.h" -nt "$many" ]; then
	echo "# compiling a program with 100,000 sites" >&2
	{
		echo '#define KLIEG_COMPONENT "many"'
		echo '#include <klieg/klieg.h>'
		echo '#include <unistd.h>'
		for f in $(seq 0 99); do
			echo "__attribute__((noinline)) static void f$f(void) {"
			for s in $(seq 0 999); do echo "KLIEG_EVENT(\"s${f}_$s\");"; done
			echo '}'
		done
		echo 'int main(void) { for (;;) {'
		for f in $(seq 0 99); do echo "f$f();"; done
		echo 'usleep(1000); } }'
	} >"$many.c"
	gcc -O1 -w -I"$here/../../include" "$many.c" -o "$many.new" -L"$build/src/probe" -lklieg -Wl,-rpath,"$(realpath "$build/src/probe")"
	mv "$many.new" "$many"
fi
exec "$build/bench/agent/bench_agent" "$build/bench/agent/producer" "$many"
