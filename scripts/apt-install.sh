#!/usr/bin/env bash
# apt-install.sh PACKAGE…: installs Debian packages, as root or through sudo, and asks nothing.
set -euo pipefail
root=()
[ "$(id -u)" = 0 ] || root=(sudo --non-interactive)
log=$(mktemp)
trap 'rm -f "$log"' EXIT
echo "installing $*"
# A new machine has no lists, an old one lists of packages that are gone. A failed update may still leave good ones.
"${root[@]}" apt-get update -q >"$log" 2>&1 || true
"${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$@" >>"$log" 2>&1 || {
    cat "$log" >&2
    exit 1
}
