# Everything is built into bin/ and build/, which git ignores. `make help` lists the targets.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

GO       ?= go
PKG      ?= ./...
FUZZTIME ?= 10s
LDFLAGS  := -s -w

TOOLS := build/tools
GO_FILES = git ls-files --cached --others --exclude-standard '*.go'

##@ Start here

.PHONY: help
help: ## Show this list
	@awk 'BEGIN {FS = ":.*## "} \
	  /^##@/ {printf "\n%s\n", substr($$0, 5)} \
	  /^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@printf '\nVariables: PKG=./fsm/... narrows test, race and microbench; FUZZTIME=1m; RACE=1 for test; GO=/path/to/go\n'

.PHONY: demo
demo: build ## Three nodes, a credential, a training job, a killed leader, the audit trail (under two minutes)
	@tools/install-deps.sh softhsm2 python3 postgresql
	@deploy/demo/demo.sh

# The race detector makes building and running many times slower, and processes are not built with it anyway. RACE=1 has it
# on for the packages in which goroutines meet on data of their own, for those tests of a whole cluster in which most of its
# goroutines do, and for the tests of the state machine in which readers meet its one writer. `make race` has it everywhere.
RACE_PKG     = ./cluster/lease ./cluster/meter ./cluster/logstore ./cluster/clustertest ./transport ./api/client/... ./api/auth ./crypto/...
RACE_CLUSTER = TestSim$$|TestConcurrentRecords|TestGroupCommit|TestProposalOutcomes|TestHolding|TestShutdownAnswers|TestKillLeader|TestTransferUnderLoad|TestForwardedRecords|TestColdRestart$$
RACE_FSM     = TestReadersDuringSwap|TestUnderRaft
PLAIN_PKG = ./cluster ./api ./api/apitest ./api/audit ./api/auth/... ./api/bootstrap ./api/inject ./api/name ./api/observe ./api/policy ./api/seal \
	./cluster/rotate/... ./cluster/backup/... ./fsm/... ./chaos/... ./cmd/... ./deploy/...

.PHONY: test
test: ## Run every test (installs SoftHSM2 and the database servers when missing and possible); RACE=1: race detector
	@tools/install-deps.sh gcc softhsm2 python3 postgresql mariadb-server redis-server
ifdef RACE
	$(GO) test -race -timeout 10m $(RACE_PKG)
	$(GO) test -race -timeout 10m ./cluster -run '$(RACE_CLUSTER)'
	$(GO) test -race -timeout 10m ./fsm -run '$(RACE_FSM)'
	$(GO) test -p 4 -parallel 4 -timeout 10m $(PLAIN_PKG) # most of them wait for processes, elections and servers: more at a time than processors
else
	$(GO) test -timeout 10m $(PKG)
endif
	$(GO) -C tools test ./...
	$(GO) -C tools/bench test ./...
	$(GO) -C tools/manifests test -count=1 ./... # what it reads lies outside of its module, which the cache of results does not see

.PHONY: test-compose
test-compose: build ## Build base image, image and a cluster of containers, kill a node (root; installs podman); under two minutes
	@tools/install-deps.sh --require softhsm2 debootstrap podman runc podman-compose netavark aardvark-dns iptables
	HIZO_TEST_COMPOSE=1 $(GO) test ./deploy/compose -count=1 -timeout 10m -v

##@ Build

.PHONY: build
build: hizo hizod ## Build bin/hizo (static, no cgo) and bin/hizod (cgo, for PKCS#11)

.PHONY: hizo
hizo: ## Build the client alone; needs no C compiler
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/hizo ./cmd/hizo

.PHONY: hizod
hizod: ## Build the server alone
	@tools/install-deps.sh gcc
	CGO_ENABLED=1 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/hizod ./cmd/hizod

.PHONY: deb
deb: build ## Build the Debian packages hizo and hizod into build/deb
	@deploy/debian/build.sh

.PHONY: image
image: build ## Build the container image localhost/hizo:local with podman or docker; BASE=IMAGE, ENGINE=docker
	BASE='$(BASE)' deploy/compose/build

.PHONY: generate
generate: tools ## Regenerate Go code from api/**/*.proto (installs protoc when missing)
	@tools/install-deps.sh --require protobuf-compiler
	tools/generate.sh $(TOOLS)

.PHONY: tools
tools: ## Build the pinned development tools into build/tools
	@mkdir -p $(TOOLS)
	@$(GO) -C tools build -o ../$(TOOLS)/ tool ./importrule

# About 90 s of processor time when nothing is cached, so CI does not build it: the test says that it is skipped.
.PHONY: s3
s3: ## Build the pinned S3 server into build/tools and test backups to a bucket against it
	@mkdir -p $(TOOLS)
	$(GO) -C tools/s3 build -trimpath -o ../../$(TOOLS)/versitygw github.com/versity/versitygw/cmd/versitygw
	$(GO) test -count=1 ./cluster/backup/s3

.PHONY: clean
clean: ## Remove bin/ and build/
	rm -rf bin build

##@ Check

.PHONY: lint
lint: fmt-check imports generated vet staticcheck ## All of the checks below

.PHONY: fmt-check
fmt-check: ## gofmt would change nothing
	@unformatted=$$($(GO_FILES) | xargs -r gofmt -l); \
	if [ -n "$$unformatted" ]; then echo "not formatted (run gofmt -w):"; echo "$$unformatted"; exit 1; fi

.PHONY: imports
imports: tools ## Packages import each other in one direction only
	@$(TOOLS)/importrule .

.PHONY: generated
generated: tools ## Generated code matches the .proto files
	@tools/install-deps.sh --require protobuf-compiler
	@tools/generate.sh --check $(TOOLS)

.PHONY: tested
tested: ## Every package with tests is among those that RACE=1 runs
	@left=$$(comm -23 <($(GO) list -f '{{if or .TestGoFiles .XTestGoFiles}}{{.ImportPath}}{{end}}' ./... | sort -u) \
	  <($(GO) list $(RACE_PKG) $(PLAIN_PKG) | sort -u)); \
	if [ -n "$$left" ]; then echo "in neither RACE_PKG nor PLAIN_PKG: $$left"; exit 1; fi

.PHONY: vet
vet: ## go vet, in every module
	$(GO) vet ./...
	$(GO) -C tools vet ./...
	$(GO) -C tools/bench vet ./...
	$(GO) -C tools/manifests vet ./...

.PHONY: staticcheck
staticcheck: tools ## staticcheck, in every module
	$(TOOLS)/staticcheck ./...
	cd tools && ../$(TOOLS)/staticcheck ./...
	cd tools/bench && ../../$(TOOLS)/staticcheck ./...
	cd tools/manifests && ../../$(TOOLS)/staticcheck ./...

.PHONY: race
race: ## Run every test under the race detector (slow; RACE=1 of test has it where callers meet)
	$(GO) test -race -timeout 30m $(PKG)

.PHONY: chaos
chaos: hizod ## Ten minutes of faults on real clusters in network namespaces, and their checks; CHAOSFLAGS='-seed 7 -seeds 1 -keep'
	@tools/install-deps.sh softhsm2 iproute2 nftables redis-server
	@mkdir -p $(TOOLS)
	$(GO) build -o $(TOOLS)/chaos ./chaos/run
	$(GO) run ./chaos/probed -o $(TOOLS)/hizod-probed
	$(TOOLS)/chaos -hizod bin/hizod -probed $(TOOLS)/hizod-probed -dir build/chaos -for 10m $(CHAOSFLAGS)

.PHONY: chaos-smoke
chaos-smoke: hizod ## The same for two seeds, under two minutes
	@tools/install-deps.sh softhsm2 iproute2 nftables redis-server
	@mkdir -p $(TOOLS)
	$(GO) build -o $(TOOLS)/chaos ./chaos/run
	$(GO) run ./chaos/probed -o $(TOOLS)/hizod-probed
	$(TOOLS)/chaos -hizod bin/hizod -probed $(TOOLS)/hizod-probed -dir build/chaos-smoke -seed 1 -seeds 2 -duration 10s $(CHAOSFLAGS)

.PHONY: chaos-fast
chaos-fast: ## Raft, proposer and state machine in virtual time, 10,000 seeds; SIMFLAGS='-sim.seed 5 -sim.seeds 1'
	$(GO) test ./cluster -run 'TestSim$$' -count=1 -timeout 60m -v -sim.seeds 10000 $(SIMFLAGS) | grep -v '^ *\(---\|===\) .*\(PASS\|RUN\|CONT\|PAUSE\|NAME\)'

.PHONY: chaos-bugs
chaos-bugs: ## Break one promise after the other on purpose, and demand that a run notices (chaos/BUGS.md)
	@tools/install-deps.sh softhsm2 iproute2 nftables redis-server
	@mkdir -p $(TOOLS)
	$(GO) build -o $(TOOLS)/bugs ./chaos/bugs
	$(TOOLS)/bugs -dir build/bugs

.PHONY: deb-test
deb-test: deb ## Install, start, upgrade and purge the Debian packages on a machine made of namespaces that boots systemd (root)
	@tools/install-deps.sh --require systemd iproute2
	deploy/debian/test.sh

.PHONY: deploy-systemd
deploy-systemd: deb ## Five such machines, set up by deploy/systemd/README.md; two lose their power while jobs go on (root)
	@tools/install-deps.sh --require systemd iproute2 softhsm2
	deploy/systemd/five.sh

.PHONY: runbooks
runbooks: deb ## Follow docs/runbooks on these machines after that, and write what is printed into them
	@tools/install-deps.sh --require systemd iproute2 softhsm2
	deploy/debian/next.sh
	deploy/systemd/five.sh --record docs/runbooks/upgrade.md docs/runbooks/disaster-recovery.md

.PHONY: fuzz
fuzz: ## Run each fuzz target for FUZZTIME
	@GO='$(GO)' tools/fuzz.sh $(FUZZTIME)

.PHONY: bench
bench: hizod ## Measure three nodes beside etcd (installs etcd-server) into docs/bench.md; BENCHFLAGS='-rounds 1'
	@tools/install-deps.sh --require etcd-server softhsm2
	@mkdir -p $(TOOLS) docs
	@$(GO) -C tools/bench build -o ../../$(TOOLS)/bench .
	$(TOOLS)/bench -hizod bin/hizod -dir build/bench -out docs/bench.md $(BENCHFLAGS)

.PHONY: bench-failover
bench-failover: hizod ## Kill and hand over the leader under load, 20 times each, into docs/failover.md; BENCHFLAGS='-trials 5'
	@tools/install-deps.sh softhsm2
	@mkdir -p $(TOOLS) docs
	@$(GO) -C tools/bench build -o ../../$(TOOLS)/failover ./failover
	$(TOOLS)/failover -hizod bin/hizod -dir build/failover -out docs/failover.md $(BENCHFLAGS)

.PHONY: bench-leases
bench-leases: ## 100,000 leases: start of a node with and without them, latency of others while all expire at once
	$(GO) test ./fsm -run '^$$' -bench OpenWithLeases -benchtime 100x
	$(GO) test ./cluster/lease -run '^$$' -bench LeasesExpire -benchtime 1x -timeout 30m

.PHONY: bench-sizing
bench-sizing: ## Disk and memory of a node for 1,000,000 secrets and 10,000,000 audit records; BENCHFLAGS='-secrets 100000'
	@mkdir -p $(TOOLS)
	@$(GO) -C tools/bench build -o ../../$(TOOLS)/sizing ./sizing
	$(TOOLS)/sizing -dir build/sizing $(BENCHFLAGS)

.PHONY: microbench
microbench: ## Run the Go benchmarks (memory per reveal, state-machine cost per record)
	$(GO) test -run '^$$' -bench . -benchmem $(PKG)
