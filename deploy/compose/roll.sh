#!/usr/bin/env bash
# Replaces the nodes of docker-compose.yml one after the other, as a rolling update does: `up` alone would stop all of them at
# once. Each is asked to leave, waits for its clients to go, and is made anew of what image and settings are now; the next one
# follows when all are healthy and the balancer has seen that.
#   deploy/compose/roll.sh [FILE…]    # the compose files, if not docker-compose.yml alone
set -euo pipefail
cd "$(dirname "$0")/../.."

if [ -n "${COMPOSE:-}" ]; then read -ra compose <<<"$COMPOSE"
elif docker compose version >/dev/null 2>&1; then compose=(docker compose)
else compose=(docker-compose); fi
for file in "${@:-docker-compose.yml}"; do compose+=(--file "$file"); done

nodes=$("${compose[@]}" ps --quiet gateway)
[ -n "$nodes" ] || { echo "no node runs: ${compose[*]} up first" >&2; exit 1; }

for node in $nodes; do
    name=$(docker inspect --format '{{ .Name }}' "$node")
    echo "${name#/} leaves"
    docker stop "$node" >/dev/null # waits for stop_grace_period
    docker rm "$node" >/dev/null
    "${compose[@]}" up --detach --no-deps --no-recreate --no-build gateway >/dev/null
    for _ in $(seq 60); do
        # shellcheck disable=SC2046 # one word for each container
        sick=$(docker inspect --format '{{ .State.Health.Status }}' $("${compose[@]}" ps --quiet gateway) | grep -cv '^healthy$' || true)
        [ "$sick" = 0 ] && break
        sleep 1
    done
    [ "$sick" = 0 ] || { echo "$sick nodes are not healthy after a minute: the others are left as they are" >&2; exit 1; }
    sleep 3 # the balancer looks every second, and asks the DNS every two
    echo "a new node has taken its place"
done
