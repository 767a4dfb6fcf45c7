#!/usr/bin/env bash
# Every check of the project, in the order in which a mistake is cheapest to find. `make test` runs it.
# Environment: FUZZ_SECONDS (3) for each fuzz target, RAPID_CHECKS (2000) for each property,
# SIM_SEEDS (12) histories of the simulator and SIM_FRESH (4) of new seeds, E2E_FLAGS for test/e2e.
set -uo pipefail
cd "$(dirname "$0")/.."
. tools/stages.sh
PATH=$PATH:/usr/sbin:/sbin
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
report() { "$work/testreport" -counts "$work/counts"; }

tools_build() { bash tools/deps.sh && go build -o "$work/testreport" ./tools/testreport; }

formatted() {
	local bad
	bad=$(find . -name '*.go' -not -path './.git/*' -exec gofmt -l {} +)
	[ -z "$bad" ] || { printf 'run make fmt:\n%s\n' "$bad"; return 1; }
}

lint() { go tool -modfile=tools/lint.mod golangci-lint run --timeout 8m ./...; }

# The simulator has a stage of its own: its checkers look at requests that are still under way.
unit() {
	go list ./... | grep -v '/test/e2e$\|/test/web$\|/internal/sim$' >"$work/packages" || return 1
	go test -json -race -p 2 -timeout 600s $(cat "$work/packages") | report
}

properties() {
	local found
	found=$(grep -rl --include='*_test.go' '"pgregory.net/rapid"' . | xargs -rn1 dirname | sort -u)
	[ -n "$found" ] || return 0
	go test -json -p 2 -timeout 600s $found -args -rapid.checks="${RAPID_CHECKS:-2000}" -rapid.nofailfile | report
}

simulation() {
	local from
	from=$(date +%s)
	echo "fresh seeds from $from on: go test ./internal/sim -run TestSimulation -args -seed=$from"
	go test -json -timeout 600s ./internal/sim -args -seeds="${SIM_SEEDS:-12}" -fresh="${SIM_FRESH:-4}" -from="$from" | report
}

# The end-to-end tests mostly wait for what agents do, so they run as two halves at a time.
e2e() {
	local tests half status=0 pids=()
	go test -c -o "$work/e2e.test" ./test/e2e && tests=$(cd test/e2e && "$work/e2e.test" -test.list '^Test') || return 1
	for half in 0 1; do
		(cd test/e2e && go tool test2json -p keelson/test/e2e "$work/e2e.test" -test.v=test2json -test.timeout 900s \
			-test.run "^($(printf '%s\n' $tests | awk -v half=$half 'NR % 2 == half' | paste -sd'|'))\$" ${E2E_FLAGS:-} | report >"$work/e2e.$half") &
		pids+=($!)
	done
	for half in 0 1; do
		wait "${pids[half]}" || status=1
		cat "$work/e2e.$half"
	done
	return $status
}

page() { go test -json -timeout 300s ./test/web | report; }

stage tools tools_build
stage format formatted
stage vet go vet ./...
stage rules go test ./test/arch
stage unit unit
stage properties properties
stage simulation simulation
stage fuzz bash tools/fuzz.sh "${FUZZ_SECONDS:-3}"
stage e2e e2e
stage page page
stage lint lint
stages_end
status=$?
awk '{ p += $1; f += $2; s += $3 } END { printf "%d passed, %d failed, %d skipped\n", p, f, s }' "$work/counts"
exit $status
