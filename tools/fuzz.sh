#!/usr/bin/env bash
# Runs every fuzz target for that many seconds: fuzz.sh SECONDS
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:?usage: fuzz.sh SECONDS}
count=0
while IFS=: read -r file name; do
	echo "fuzz $(dirname "$file") $name"
	if ! out=$(go test -run '^$' -fuzz "^$name\$" -fuzztime "${seconds}s" -parallel 2 "./$(dirname "$file")" 2>&1); then
		printf '%s\n' "$out"
		exit 1
	fi
	count=$((count + 1))
done < <(grep -rnoE --include='*_test.go' '^func Fuzz[A-Za-z0-9_]+' internal cmd 2>/dev/null | sed -E 's/:[0-9]+:func /:/')
echo "$count fuzz targets, $seconds s each"
