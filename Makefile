# make          builds ./keelson
# make demo     three servers with one volume on this machine, in the foreground
# make test     every check; installs the Debian packages it needs
GO ?= go
FUZZ_SECONDS ?= 60
RAPID_CHECKS ?= 50000
SIM_SEEDS ?= 200
SIM_FIRST ?= 1
SIM_SECONDS ?= 0
SWITCHOVERS ?= 200
RANDOM_FOR ?= 1h
PG_ROUNDS ?= 10
KILL_MINUTES ?= 10

.PHONY: build demo test unit e2e page fmt lint vet fuzz sim properties soak bench golden tour vm-test vm-package-test vuln deb deb-test clean
build:
	$(GO) build -o keelson ./cmd/keelson

demo: build
	./keelson demo

test:
	bash tools/test.sh

unit:
	$(GO) test -race $$($(GO) list ./... | grep -v '/test/e2e\|/test/web\|/internal/sim')

e2e:
	bash tools/deps.sh
	$(GO) test -count=1 -timeout 30m -v ./test/e2e

# The page in a real browser; with SHOTS=FOLDER it leaves pictures of each view there.
page:
	bash tools/deps.sh
	$(GO) test -count=1 -v ./test/web $(if $(SHOTS),-args -shots $(abspath $(SHOTS)))

fmt:
	gofmt -w $$(git ls-files '*.go')

vet:
	$(GO) vet ./...

lint:
	$(GO) tool -modfile=tools/lint.mod golangci-lint run --timeout 8m ./...

# Every fuzz target for FUZZ_SECONDS.
fuzz:
	bash tools/fuzz.sh $(FUZZ_SECONDS)

# The cluster in one process: SIM_SEEDS histories from seed SIM_FIRST on, then fresh ones until SIM_SECONDS are over. A seed again:
# go test ./internal/sim -run TestSimulation -args -seed=N
sim:
	$(GO) test -count=1 -timeout 0 -v -run TestSimulation ./internal/sim -args -first=$(SIM_FIRST) -seeds=$(SIM_SEEDS) -fresh=0 -seconds=$(SIM_SECONDS)

# Every property, RAPID_CHECKS random histories each.
properties:
	$(GO) test -count=1 -timeout 60m $$(grep -rl --include='*_test.go' '"pgregory.net/rapid"' . | xargs -rn1 dirname | sort -u) \
		-args -rapid.checks=$(RAPID_CHECKS)

# The long form of the end-to-end tests, against a binary with the race detector.
soak:
	bash tools/deps.sh
	$(GO) test -count=1 -timeout 3h -v ./test/e2e -args -switchovers=$(SWITCHOVERS) -pg-rounds=$(PG_ROUNDS) -kill-minutes=$(KILL_MINUTES) -matrix-cells=0 -race-binary
	$(GO) test -count=1 -timeout 3h -v -run TestRandomOperations ./internal/frontend/loop -args -random-for=$(RANDOM_FOR)

# The benchmarks of the packages, and the comparison with peers if it lies beside this checkout.
bench: build
	bash tools/deps.sh
	$(GO) test -run '^$$' -bench . -benchmem ./internal/...
	if [ -f ../shared/bench/compare.py ]; then KEELSON=$$PWD/keelson python3 ../shared/bench/compare.py; fi

# Rewrites the golden files and printed states of tests. Read the difference before you commit it.
golden:
	for p in $$(grep -rl --include='*_test.go' 'flag.Bool("update"' internal cmd test | xargs -rn1 dirname | sort -u); do \
		$(GO) test ./$$p -args -update || exit 1; done

# Runs the tours of the README and of the administrator's pages and writes their output into them.
tour: build
	$(GO) test -count=1 -run 'TestReadmeTour|TestAdminPages|TestServerPages' ./test/e2e -args -update

# Known vulnerabilities in what is linked; needs the Go vulnerability database.
vuln:
	$(GO) run golang.org/x/vuln/cmd/govulncheck@latest ./...

# Debian packages for amd64 and arm64 in ./dist, the same bytes from the same commit.
deb:
	bash tools/deb.sh dist

# The package in a fresh Debian 12, and on three servers with systemd (containers) by the commands of docs/admin/package.md; needs root
# and a Debian mirror, and takes some minutes (17 on two busy processors).
deb-test:
	bash tools/deb-test.sh

# The tests in a virtual machine with Debian's kernel: the kernel's own NBD client, network namespaces, delay and loss.
vm-test:
	$(GO) run ./test/vm

# The package on two servers that are virtual machines with systemd: they boot, reboot and lose their power. Needs root.
vm-package-test:
	bash test/vm/package.sh

clean:
	rm -rf keelson dist
