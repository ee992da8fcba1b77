# Targets are one line each; what is longer is in scripts/.
GO      ?= go
LABCTL  := bin/labctl
VERSION := $(shell git describe --always --dirty 2>/dev/null || echo unknown)
export CGO_ENABLED := 0

.PHONY: test-all test-uml bench-report stress soak build test race tools bench bench-backends gate claims lint demo fuzz clean help bench-iperf bench-bgp bench-scale bench-routed
.DEFAULT_GOAL := build

build: ## build the one static binary, bin/labctl
	$(GO) build -trimpath -ldflags "-s -w -funcalign=16 -X main.version=$(VERSION)" -o $(LABCTL) ./cmd/labctl

test: tools build ## run all tests; as root also what only root can
	scripts/test

test-all: build bin/uml/linux ## run all labs and commands as root, as an ordinary user and in UML; WRITE=1 writes README's table
	$(GO) build -o bin/ ./scripts/matrix && bin/matrix -labctl $(LABCTL) $(if $(WRITE),-write)

test-uml: build bin/uml/linux ## run the conformance suites, the faults and all labs in a kernel of their own, user-mode Linux
	scripts/uml/test

bin/uml/linux: scripts/uml/config ## build that kernel
	scripts/tools bc:bc gcc:gcc gcc:libc6-dev ld:binutils perl:perl xz:xz-utils && scripts/uml/kernel

race: ## run the tests under the race detector (needs a C compiler)
	CGO_ENABLED=1 $(GO) test -race -short ./...

tools: ## install the programs that tests compare with, where that is possible
	scripts/tools

bench: build ## measure up, converged, first packet, down; compare with mininet
	scripts/tools mn:mininet brctl:bridge-utils && $(GO) run ./scripts/bench -labctl $(LABCTL)

bench-bgp: build ## measure how soon BGP brings routes and takes them away
	$(GO) run ./scripts/bench -labctl $(LABCTL) -bgp

bench-routed: build ## measure calico-routed: up, and a stream beside the same path made by ip commands, with what costs what
	scripts/tools && $(GO) run ./scripts/bench -labctl $(LABCTL) -routed

bench-scale: SIZES ?= 3,20,50,100,200
bench-scale: build ## measure how labs grow from 3 to 200 nodes (SIZES=500 for others), and with which exponent
	$(GO) run ./scripts/bench -labctl $(LABCTL) -scale -sizes $(SIZES)

bench-backends: build ## compare udp, vxlan and host-gw: streams, packets, latency, CPU, memory
	scripts/tools && $(GO) run ./scripts/bench -labctl $(LABCTL) -backends

bench-report: build ## labctl bench with its default settings: the tables of README, and bin/bench.html
	$(LABCTL) bench -o markdown --html bin/bench.html --save bin/bench.json

gate: build ## fail when backends are not in the order, and the proportion, that they always are in
	scripts/gate $(LABCTL)

claims: build ## run the checks of all labs (as root) and write README's table of claims from the result
	$(LABCTL) test --all -o json | $(GO) run ./scripts/claims

bench-iperf: build ## fail when labctl iperf and iperf3 differ by more than 5 %, or UDP has loss or another rate
	scripts/tools && $(GO) run ./scripts/bench -labctl $(LABCTL) -iperf -iperf-gate 0.05

stress: build ## kill labctl 300 times (KILLS=) at all moments, and look for leaks and foreign changes
	$(GO) build -o bin/ ./scripts/crash && bin/crash -labctl $(LABCTL) -kills $(or $(KILLS),300)

soak: build ## keep a lab busy for SECONDS= (30) with joins, faults and kills; fail on a lost entry or growth
	$(GO) build -o bin/ ./scripts/soak && bin/soak -labctl $(LABCTL) -time $(or $(SECONDS),30)s

lint: ## gofmt, vet, and a diff of go.mod against what is used
	scripts/lint

demo: build ## build, bring up flannel-vxlan, ping everything, take it down
	scripts/demo $(LABCTL)

fuzz: ## fuzz every parser of files, sockets and the store for FUZZTIME= (20s) each
	scripts/fuzz

clean: ## remove what was built
	rm -rf bin

help: ## this text
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
