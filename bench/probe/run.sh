#!/bin/sh
# What a probe costs, against the clock's own floor and against LTTng-UST with a real session. $1: the build directory.
here=$(cd "$(dirname "$0")" && pwd) || exit 1
build=${1:-build}
ninja -C "$build" bench/probe/bench_probe >/dev/null || exit 1
mine=$("$build/bench/probe/bench_probe"); status=$?
echo "$mine"
command -v lttng >/dev/null && command -v lttng-sessiond >/dev/null && echo '#include <lttng/tracepoint.h>' | cc -E - >/dev/null 2>&1 || {
	echo "# LTTng is not installed: no comparison"
	exit $status
}
tmp=$(mktemp -d) || exit 1
export LTTNG_HOME="$tmp" HOME="$tmp" LTTNG_UST_REGISTER_TIMEOUT=5000
daemon=
finish() {
	[ -n "$daemon" ] && { lttng destroy -a >/dev/null 2>&1; kill "$daemon"; wait "$daemon"; } 2>/dev/null
	rm -rf "$tmp"
}
trap finish EXIT
cc -O2 -I"$here/lttng_peer" "$here/lttng_peer/peer.c" -o "$tmp/peer" -llttng-ust -ldl || exit 1
off=$("$tmp/peer") || exit 1
lttng-sessiond --no-kernel >/dev/null 2>"$tmp/log" &
daemon=$!
i=0
until lttng list >/dev/null 2>&1; do
	i=$((i + 1))
	[ $i -lt 100 ] && kill -0 $daemon 2>/dev/null || { cat "$tmp/log" >&2; echo "lttng-sessiond did not come up" >&2; exit 1; }
	sleep 0.1
done
{ lttng create peer --output="$tmp/trace" && lttng enable-channel -u -s peer --subbuf-size=1M --num-subbuf=8 c && lttng enable-event -u -s peer -c c 'klieg_peer:*' && lttng start peer; } >"$tmp/out" 2>&1 ||
	{ cat "$tmp/out" >&2; exit 1; }
i=0
while [ $i -lt 5 ]; do # in alternation: machines are noisy
	i=$((i + 1))
	on=$("$tmp/peer") || exit 1
	span=$("$build/bench/probe/bench_probe" | sed -n 's/^probe_span_on \([0-9.]*\).*/\1/p')
	echo "$on $span" >>"$tmp/pairs"
done
lttng stop peer >/dev/null 2>&1
bytes=$(du -sb "$tmp/trace" | cut -f1)
[ "$bytes" -gt 100000 ] || { echo "LTTng recorded nothing" >&2; exit 1; }
echo "lttng_span_off $off ns entry+exit,no_session"
echo "lttng_span_on $(sort -n "$tmp/pairs" | awk 'NR == 3 { print $1 }') ns entry+exit,median_of_5"
awk '{ print $1 / $2 }' "$tmp/pairs" | sort -n | awk 'NR == 3 { printf "probe_span_faster_than_lttng %.2f x median_of_5_pairs(bar>=5)\n", $1 }'
exit $status
