#!/bin/sh
# The probes under the ways that programs are built: compilers, optimization, position independence, LTO, section garbage collection, CET.
# Each program finds every site of its own in the section (a missing one fails its count), and switches them. $1 source root, $2 libklieg's directory.
root=$1 lib=$2
[ "$(uname -m)" = x86_64 ] || exit 77
out=$(mktemp -d) || exit 1
trap 'rm -rf "$out"' EXIT
cat >"$out/p.c" <<'END'
#define PROBE_HARNESS_PLAIN
#define KLIEG_COMPONENT "matrix"
#include "klieg/klieg.h"
#include "probe_harness.h"
#include <sys/syscall.h>
static inline void small(int i) { KLIEG_COUNT("count", i); }
static inline void inlined(int i) { KLIEG_SPAN("inlined", KLIEG_INT("i", i)); small(i); }
__attribute__((noinline)) static void body(int i) { KLIEG_SPAN_AS(s, "body"); inlined(i); inlined(i + 1); KLIEG_EVENT("event"); KLIEG_ERROR(s, "x"); }
__attribute__((noinline)) static void handed(void) { klieg_span s; KLIEG_BEGIN(s, "handed"); body(1); KLIEG_END(s, "handed"); }
#ifdef __cplusplus
template <class T> __attribute__((noinline)) void generic(T) { KLIEG_SPAN("generic"); }
#endif
static int spans(void)
{
	static struct any_record r;
	struct kw_thread *t = slot_of((unsigned)syscall(SYS_gettid));
	int n = 0;
	while (t && next_record(t, &r))
		n += r.r.type == KW_REC_SPAN;
	return n;
}
static int run_all(void)
{
	handed();
#ifdef __cplusplus
	generic(1), generic('c');
#endif
	return spans();
}
#ifdef __cplusplus
extern "C"
#endif
__attribute__((visibility("default"))) int run_tests(void);
int run_tests(void)
{
	static const char *const names[] = { "inlined", "count", "body", "event", "handed" };
	harness_find();
	for (unsigned i = 0; i < sizeof names / sizeof *names; i++)
		assert_true(sites_named(names[i], NULL, NULL) >= (i == 4 ? 2 : 1)); /* an optimizer may copy a site */
	assert_int_equal(run_all(), 0);
	for (unsigned i = 0; i < sizeof names / sizeof *names; i++)
		switch_site(names[i], KW_DETAIL);
	int want = 4;
#ifdef __cplusplus
	assert_true(sites_named("generic", NULL, NULL) >= 2);
	switch_site("generic", KW_SPAN);
	want += 2;
#endif
	for (int i = 0; i < 100; i++)
		assert_int_equal(run_all(), want);
	for (unsigned i = 0; i < sizeof names / sizeof *names; i++)
		switch_site(names[i], KW_OFF);
#ifdef __cplusplus
	switch_site("generic", KW_OFF);
#endif
	assert_int_equal(run_all(), 0);
	return 0;
}
END
cp "$out/p.c" "$out/p.cc"
echo 'int run_tests(void); int main(void) { return run_tests(); }' >"$out/main.c"
cp "$out/main.c" "$out/main.cc" && sed -i 's/^int/extern "C" int/' "$out/main.cc"
warn="-Wall -Wextra -Werror -Wno-unused-parameter -Wno-missing-field-initializers"
n=0
fail() { echo "failed: $*"; cat "$out/log"; exit 1; }
for cc in ${COMPILERS:-gcc clang g++ clang++}; do
	command -v $cc >/dev/null || { echo "no $cc: not tested"; continue; }
	case $cc in *++) src=cc opts="-O0 -O2" std="-std=gnu++17 -D_Static_assert=static_assert";; *) src=c opts="-O0 -O2 -O3" std="-std=gnu11";; esac
	lto="-flto"
	case $cc in clang*) command -v ld.lld >/dev/null && lto="-flto -fuse-ld=lld";; esac
	for opt in $opts; do
		for how in no-pie pie so static; do
			for extra in "" "$lto" "-ffunction-sections -fdata-sections -Wl,--gc-sections" "-fcf-protection=full"; do
				case $opt$how$extra in # the corners once, not every product of them
				-O0*-Wl,--gc-sections*|-O3no-pie-fcf*|-O0static*fcf*|-O3pie*) continue;;
				esac
				case $how in no-pie) flags="-fno-pie -no-pie";; pie) flags="-fPIE -pie";; so) flags="-fPIC -shared";; static) flags="-fno-pie -static";; esac
				where="-L$lib -lklieg -pthread -Wl,-rpath,$lib"
				set -- $std -D_GNU_SOURCE -I"$root/include" -I"$root/src" -I"$root/tests/unit" $warn $opt $flags $extra
				if [ $how = so ]; then
					$cc "$@" "$out/p.$src" -o "$out/libp.so" $where >"$out/log" 2>&1 &&
						$cc $std "$out/main.$src" -o "$out/t" -L"$out" -lp -Wl,-rpath,"$out:$lib" $where >>"$out/log" 2>&1
				else
					$cc "$@" "$out/p.$src" "$out/main.$src" -o "$out/t" $where >"$out/log" 2>&1
				fi || fail "$cc $opt $how $extra (build)"
				timeout 20 "$out/t" >"$out/log" 2>&1 || fail "$cc $opt $how $extra"
				n=$((n + 1))
			done
		done
	done
done
echo "$n ways to build"
