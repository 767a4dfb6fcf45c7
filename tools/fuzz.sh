#!/usr/bin/env bash
# Runs every fuzz target for that many seconds, two at a time: fuzz.sh SECONDS
# Each package is built once; `go test -fuzz` would link it anew for each target.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:?usage: fuzz.sh SECONDS}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cache=$(go env GOCACHE)/fuzz

grep -rnoE --include='*_test.go' '^func Fuzz[A-Za-z0-9_]+' internal cmd | sed -E 's|/[^/]*:[0-9]+:func | |' >"$work/targets"
for package in $(cut -d' ' -f1 "$work/targets" | sort -u); do
	go test -c -fuzz=. -o "$work/${package//\//.}" "./$package"
done

# run PACKAGE NAME; prints only what went wrong.
run() {
	local out try
	for try in 1 2; do
		if out=$(cd "$1" && "$work/${1//\//.}" -test.run '^$' -test.fuzz "^$2\$" -test.fuzztime "${seconds}s" -test.parallel 1 \
			-test.fuzzcachedir "$cache/keelson/$1" 2>&1); then
			return 0
		fi
		# The fuzzer itself fails now and then when its time is over ("context deadline exceeded", no input written): once more then.
		[[ $out != *"Failing input"* && $out == *"context deadline exceeded"* ]] || break
	done
	printf 'fuzz %s %s\n%s\n' "$1" "$2" "$out"
	return 1
}
export -f run
export work seconds cache
xargs -P 2 -L 1 bash -c 'run "$1" "$2"' fuzz <"$work/targets"
echo "$(wc -l <"$work/targets") fuzz targets, $seconds s each"
