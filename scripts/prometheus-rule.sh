#!/usr/bin/env bash
# Writes the rules of deploy/prometheus/rules into the PrometheusRule of deploy/kubernetes and into the Helm chart.
# tests/deploy says when that was forgotten.
set -euo pipefail
cd "$(dirname "$0")/.."

made='# Made by scripts/prometheus-rule.sh from deploy/prometheus/rules: change those.'
groups() { # What stands under `groups:` in all of the files, as one list.
    local files=(deploy/prometheus/rules/*.yml)
    if ! [ -e "${files[0]}" ]; then
        echo 'groups: []'
        return
    fi
    echo 'groups:'
    awk 'FNR == 1 { inside = 0 } inside; /^groups:/ { inside = 1 }' "${files[@]}"
}
{ echo "$made"; groups; } > deploy/helm/skywave/files/rules.yaml
{
    cat <<EOF
$made
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
    name: skywave
    labels: { app.kubernetes.io/name: skywave }
spec:
EOF
    groups | sed 's/^\(.\)/    \1/'
} > deploy/kubernetes/components/prometheus-operator/prometheusrule.yaml
