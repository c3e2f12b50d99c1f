#!/usr/bin/env bash
# apt-install.sh PACKAGE…: installs Debian packages, as root or through sudo, and asks nothing.
set -euo pipefail
root=()
[ "$(id -u)" = 0 ] || root=(sudo --non-interactive)
log=$(mktemp)
# The programs are wanted, not their services: Debian's Prometheus would sit on the port of docker-compose.yml's.
policy=/usr/sbin/policy-rc.d
own_policy=
clean() {
    rm -f "$log"
    [ -z "$own_policy" ] || "${root[@]}" rm -f "$policy"
}
trap clean EXIT
if [ ! -e "$policy" ]; then
    own_policy=yes
    printf '#!/bin/sh\nexit 101\n' | "${root[@]}" tee "$policy" >/dev/null
    "${root[@]}" chmod 755 "$policy"
fi
echo "installing $*"
# A new machine has no lists, an old one lists of packages that are gone. A failed update may still leave good ones.
"${root[@]}" apt-get update -q >"$log" 2>&1 || true
"${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$@" >>"$log" 2>&1 || {
    cat "$log" >&2
    exit 1
}
