#!/bin/sh
# The C++ test again with the other compiler, at the code models that place symbols differently. $1 source root, $2 where libklieg.so is.
command -v clang++ >/dev/null || exit 77
out=$(mktemp -d) || exit 1
trap 'rm -rf "$out"' EXIT
for how in "-O0" "-O2 -fPIC" "-O2 -fno-pie -no-pie"; do
	clang++ -std=c++17 $how -Wall -Wextra -Werror -I"$1/include" -I"$1/src" -I"$1/tests/unit" "$1/tests/unit/probe_cpp_test.cc" -o "$out/t" \
		-L"$2" -lklieg -lcmocka -Wl,-rpath,"$2" || exit 1
	"$out/t" || exit 1
done
