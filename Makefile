# What a person or CI does here; `make` lists it. A machine needs Debian and a Rust toolchain: `make setup` adds the rest.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
# Where `make setup` puts what the machine does not have.
export PATH := $(CURDIR)/target/tools/bin:$(CURDIR)/target/node:$(PATH)

# The binary that the tests start: the dev profile, which `cargo test` has built anyway.
export SKYWAVE_BIN ?= target/debug/skywave

# One version, as for the tools in scripts/setup.sh.
CARGO_FUZZ := 0.13.2

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: run
run: ## Start one node in development mode: http://localhost:8000/
	cargo run --release --locked --bin skywave

.PHONY: setup
setup: ## Install what the tests need (apt, npm, pip, cargo-deny)
	scripts/setup.sh

# In this order: what fails fast comes first.
.PHONY: test
test: ## Install what is missing, then check and test everything
	$(MAKE) setup
	$(MAKE) check
	$(MAKE) check-deploy
	$(MAKE) test-rust
	$(MAKE) test-js
	$(MAKE) test-clients
	$(MAKE) test-api
	$(MAKE) test-load
	$(MAKE) test-cluster
	$(MAKE) test-balancers
	$(MAKE) test-compose
	$(MAKE) test-monitoring

.PHONY: check
check: ## Formatting, lints, documentation, licences
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked
	cargo deny --log-level error check licenses bans sources

.PHONY: reference
reference: ## Write docs/CONFIGURATION.md anew, from the settings
	cargo run --quiet --locked --bin skywave -- config reference > docs/CONFIGURATION.md.new
	mv docs/CONFIGURATION.md.new docs/CONFIGURATION.md

.PHONY: check-deploy
check-deploy: build ## The files of the deployment, as their own programs and the node read them
	haproxy -c -q -f deploy/haproxy/haproxy.cfg
	promtool check rules --lint=all --lint-fatal deploy/prometheus/rules/*.yml
	promtool test rules deploy/prometheus/tests/*.yml
	node deploy/grafana/build.mjs --check
	node --test tests/monitoring/files.test.mjs
	scripts/check-compose.sh
	scripts/check-dockerfile.sh
	cd tests/deploy && ../../target/venv/deploy/bin/python -m unittest

.PHONY: check-deploy-more
check-deploy-more: ## The same with what only Go modules hold: kubeconform, kube-score, the strict schemas of extensions
	tests/deploy/more.sh

.PHONY: test-rust
test-rust: ## Unit and integration tests
	cargo test --workspace --locked

.PHONY: faults
faults: ## What clients see while Redis, the network or a node fails: all of it (VALKEY_SERVER=… runs it on that)
	cargo test -p skywave-gateway --test faults --locked -- --include-ignored --test-threads 2

# Without a sanitizer: there is no unsafe code to find out, and so it runs on a stable toolchain.
.PHONY: fuzz
fuzz: ## Any bytes into the WebSocket layer for a minute; what breaks it is left in gateway/fuzz/artifacts
	command -v c++ >/dev/null || scripts/apt-install.sh g++
	test "$$(cargo fuzz --version 2>/dev/null)" = "cargo-fuzz $(CARGO_FUZZ)" || \
		cargo install --quiet --locked --root target/tools --version $(CARGO_FUZZ) cargo-fuzz
	for target in decode deflate; do \
		cargo fuzz run --sanitizer none --fuzz-dir gateway/fuzz --target-dir target/fuzz "$$target" -- -max_total_time=30; \
	done

# With the tests, so that the features of their dependencies are the same as in `test-rust`: else all is built twice.
.PHONY: build
build:
	cargo build --workspace --bins --tests --locked

.PHONY: test-clients
test-clients: build ## Browsers, ws, Python, HTTP/2 and Autobahn's cases against a node
	node scripts/with-node.mjs node --test tests/clients/*.test.mjs
	node scripts/with-node.mjs target/venv/clients/bin/python tests/clients/python/test_websockets.py
	node --test tests/tls/*.test.mjs
	node scripts/autobahn.mjs quick

.PHONY: test-js
test-js: build ## The JavaScript client: its types, its tests against nodes and stand-ins, and three nodes killed under it
	cd clients/js && node_modules/.bin/tsc --noEmit && node_modules/.bin/vitest run
	node --test clients/js/chaos/roll.test.mjs

.PHONY: client-js
client-js: ## Build the JavaScript client, and write gateway/demo/skywave.js, which is a copy of it
	node clients/js/build.mjs --demo

.PHONY: chaos-js
chaos-js: build ## 200 of it while three nodes behind HAProxy are restarted and killed one after another (half a minute)
	node clients/js/build.mjs
	CHAOS_CLIENTS=$${CHAOS_CLIENTS:-200} node --test clients/js/chaos/roll.test.mjs

.PHONY: test-api
test-api: build ## schemathesis and Python's gRPC against the server API
	node tests/api/run.mjs

.PHONY: autobahn
autobahn: setup ## The 517 cases of the Autobahn test suite, report in target/autobahn (5 to 10 minutes)
	cargo build --release --locked --bin skywave
	SKYWAVE_BIN=target/release/skywave node scripts/autobahn.mjs

.PHONY: test-load
test-load: build ## The load tool: what it notices, and a short run against one node
	target/debug/loadtest selftest
	node scripts/with-node.mjs bash -c 'target/debug/loadtest fanout --url "$${SKYWAVE_PUBLIC/#http/ws}/ws" \
		--clients 100 --rate 50 --duration 5s --max-p99 1s'

# Each file has a cluster of its own; one after the other, for they count on their share of the machine.
.PHONY: test-cluster
test-cluster: build ## Two nodes, Redis and HAProxy as plain processes
	for file in tests/cluster/*.test.mjs; do node --test "$$file"; done

.PHONY: test-balancers
test-balancers: build ## HAProxy, nginx and Envoy with the settings of deploy/, before three nodes
	node --test tests/deploy/balancers.test.mjs

# Longer than most have patience for, and what CI has no time for: a machine with nothing else to do.
.PHONY: test-roll
test-roll: ## Three nodes are replaced under 5,000 clients, at the pace that is set; one is killed (SKYWAVE_BIN_OTHER: from another version, and back)
	cargo build --release --locked --bin skywave --bin loadtest
	ROLL_CLIENTS=$${ROLL_CLIENTS:-5000} SKYWAVE_BIN=target/release/skywave LOADTEST_BIN=target/release/loadtest \
		node --test tests/cluster/loadtest-roll.test.mjs

.PHONY: test-upgrade
test-upgrade: ## Another revision of this repository beside this one, and rolled to this one and back: OTHER=REVISION (default: the one before)
	cargo build --locked --bin skywave
	other=$$(scripts/build-other.sh "$${OTHER:-HEAD~1}"); \
		SKYWAVE_BIN_OTHER=$$other node --test tests/cluster/upgrade.test.mjs; \
		SKYWAVE_BIN_OTHER=$$other node --test --test-name-pattern 'another version' tests/cluster/roll.test.mjs

.PHONY: test-compose
test-compose: build ## docker-compose.yml on a Docker engine of its own, where one can be started (1 minute; deploy/test/compose alone does more)
	deploy/test/compose --quick

.PHONY: test-monitoring
test-monitoring: build ## Dashboards and rules against a Prometheus that scrapes real nodes
	node --test tests/monitoring/truth.test.mjs

.PHONY: drill
drill: build ## Each alert whose fault can be made here, made and waited for
	node --test tests/monitoring/drill.test.mjs

.PHONY: dashboard-pictures
dashboard-pictures: build ## docs/images/dashboard-*.png anew: the dashboards as Grafana's components draw them (npm gets 600 MB)
	npm ci --prefix tests/dashboards --no-audit --no-fund --no-update-notifier --loglevel=error
	node tests/dashboards/pictures.mjs

.PHONY: bench-backplane
bench-backplane: ## What the backplane costs, as ratios to redis-benchmark in the same run (10 minutes, a quiet machine)
	cargo bench --locked -p skywave-backplane --bench backplane
	cargo build --release --locked --bins
	SKYWAVE_BIN=target/release/skywave node scripts/bench-two-nodes.mjs

.PHONY: bench
bench: ## What a node costs, as ratios to bare loops and to µWebSockets in the same run (15 minutes, a quiet machine)
	npm ci --prefix tests/bench --omit=optional --no-audit --no-fund --no-update-notifier
	cargo build --release --locked --bins
	node scripts/bench.mjs

.PHONY: profile
profile: ## Where a node's CPU goes while it fans out, function by function (wants perf)
	cargo build --release --locked --bins
	node scripts/bench-profile.mjs

.PHONY: demo-cluster
demo-cluster: ## The whole cluster in containers: http://localhost:8000/
	if docker compose version >/dev/null 2>&1; then docker compose up --build; else docker-compose up --build; fi
