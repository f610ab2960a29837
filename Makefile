# make run    starts a site: ./firn-data, S3 on port 9000. Needs Go and nothing else.
# make test   the whole test run. Installs what it needs (Debian packages, Go tools): as root or with sudo.
# make check  formatting, vet, staticcheck and the unit tests: the quick part of make test.

SHELL       := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := build

VERSION ?= $(shell git describe --tags --dirty 2>/dev/null || echo v0.1.0-dev)
LDFLAGS := -s -w -X firn.Version=$(VERSION)
SUDO    := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
TOOL    := go tool -modfile=tools/go.mod
FUZZTIME ?= 5s

# The binary needs no C library: one file that runs on any Linux of its architecture.
export CGO_ENABLED = 0

.PHONY: race run build test check fmt lint vuln unit setup servers clients fuzz bench clean

run: build
	exec ./firn serve

build:
	go build -trimpath -ldflags '$(LDFLAGS)' -o firn ./cmd/firn

check: lint unit

test: lint vuln unit setup servers clients
	@echo "make test: all passed"

fmt:
	$(TOOL) gofumpt -w .

lint:
	@echo "== gofumpt"; out=$$($(TOOL) gofumpt -l .); [ -z "$$out" ] || { echo "not formatted:"; echo "$$out"; exit 1; }
	@echo "== go vet"; go vet ./...
	@echo "== staticcheck"; $(TOOL) staticcheck ./...

# Whether the vulnerability database can be reached is not ours to say; what it says about us is.
VULN := golang.org/x/vuln/cmd/govulncheck@v1.1.4
vuln:
	@echo "== govulncheck"; \
	if curl -sfo /dev/null -m 10 https://vuln.go.dev/index/modules.json; then GOFLAGS= go run $(VULN) ./...; \
	else echo "skipped: the vulnerability database cannot be reached from here"; fi

unit:
	@echo "== unit tests"; go test -timeout 10m $$(go list ./... | grep -v '^firn/test/')

# The race detector needs a C compiler.
race:
	@echo "== race detector"; CGO_ENABLED=1 go test -race -timeout 40m $$(go list ./... | grep -v '^firn/test/')

# Installs what the tests below need, as root.
setup:
	go mod download
	@echo "== servers and clients to test with"; $(SUDO) env "PATH=$$PATH" test/setup.sh

# As root: some tests mount file systems or start servers that change their user. Root's own caches are used, so that no
# file of yours becomes root's.
AS_ROOT = $(SUDO) env "PATH=$$PATH" "GOMODCACHE=$$(go env GOMODCACHE)"

# Every driver against the real server of its kind.
servers:
	@echo "== drivers and their servers"; $(AS_ROOT) go test -p 1 -timeout 30m -tags servers ./blob/... ./archive/... ./keys ./cache/rediscache
	@echo "== RADOS"; $(AS_ROOT) CGO_ENABLED=1 go test -timeout 10m -tags 'servers rados' ./blob/radosblob

clients:
	@echo "== the real binary"; $(AS_ROOT) go test -p 1 -timeout 50m ./test/...

# Each fuzz target for FUZZTIME.
fuzz:
	@grep -rl --include='*_test.go' '^func Fuzz' . | while read -r file; do \
	  for target in $$(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*/\1/p' "$$file"); do \
	    echo "== $$target in $$(dirname "$$file")"; \
	    go test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) "$$(dirname "$$file")"; \
	  done; \
	done

bench:
	go run ./bench

clean:
	rm -rf firn dist
