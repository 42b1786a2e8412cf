#!/bin/sh
# The library and its header on the other architecture: built with both compilers, the ways that distributions build, run under the emulator.
root=$1
command -v aarch64-linux-gnu-gcc >/dev/null && command -v qemu-aarch64-static >/dev/null || exit 77
out=$(mktemp -d) || exit 1
trap 'rm -rf "$out"' EXIT
flags="-std=gnu11 -D_GNU_SOURCE -Wall -Wextra -Wno-unused-parameter -Wno-missing-field-initializers -Werror -I$root/include -I$root/src -I$root/tests/unit"
test_c=$root/tests/unit/probe_plain_test.c
run() { QEMU_LD_PREFIX=/usr/aarch64-linux-gnu LD_LIBRARY_PATH=$out timeout 60 qemu-aarch64-static "$1" || { echo "failed: $2"; exit 1; }; }

aarch64-linux-gnu-gcc $flags -O2 -fPIC -shared -fvisibility=hidden -ftls-model=initial-exec -Wl,--version-script="$root/src/probe/klieg.map" \
	"$root"/src/probe/*.c -o "$out/libklieg.so" -pthread || exit 1
for how in "-O2" "-O0" "-O2 -fPIC" "-O2 -fno-pie -no-pie"; do
	aarch64-linux-gnu-gcc $flags $how "$test_c" -o "$out/t" -L"$out" -lklieg -pthread || exit 1
	run "$out/t" "gcc $how"
	command -v clang >/dev/null || continue
	clang --target=aarch64-linux-gnu $flags ${how%-no-pie} -c "$test_c" -o "$out/t.o" &&
		aarch64-linux-gnu-gcc $(case $how in *-no-pie) echo -no-pie;; esac) "$out/t.o" -o "$out/t" -L"$out" -lklieg -pthread || exit 1
	run "$out/t" "clang $how"
done
