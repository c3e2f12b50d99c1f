#!/usr/bin/env bash
# build-other.sh REVISION: builds the node of another revision of this repository, below target/other, and prints where it is.
set -euo pipefail
cd "$(dirname "$0")/.."
revision=$(git rev-parse --verify --short "$1^{commit}")
sources=target/other/$revision
if ! [ -d "$sources" ]; then
    rm -rf "$sources.new"
    mkdir -p "$sources.new"
    git archive "$revision" | tar -xf - -C "$sources.new"
    mv "$sources.new" "$sources" # whole, or not at all
fi
(cd "$sources" && CARGO_TARGET_DIR="$PWD/../target" cargo build --locked --bin skywave) >&2
# Of another name: the next revision's would take its place.
cp target/other/target/debug/skywave "$sources/skywave"
echo "$sources/skywave"
