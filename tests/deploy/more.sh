#!/usr/bin/env bash
# The deployment before judges that come as Go modules: kubeconform, kube-score, and the strict schemas of the Prometheus
# Operator and of the Gateway API. Not part of `make test`, which asks nobody for Go. `make setup` comes before.
set -euo pipefail
cd "$(dirname "$0")/../.."

command -v go >/dev/null || { echo "wants Go" >&2; exit 1; }
python=target/venv/deploy/bin/python
tools=$PWD/target/tools/go
kubernetes=1.36.0

install() { # install NAME MODULE VERSION
    if ! [ -e "$tools/$1-$3" ]; then
        GOBIN=$tools go install "$2@$3"
        touch "$tools/$1-$3"
    fi
}
install kubeconform github.com/yannh/kubeconform/cmd/kubeconform v0.8.0
install kube-score github.com/zegl/kube-score/cmd/kube-score v1.20.0
module() { # module PATH VERSION: its directory
    go mod download -json "$1@$2" | "$python" -c 'import json, sys; print(json.load(sys.stdin)["Dir"])'
}
operator=$(module github.com/prometheus-operator/prometheus-operator v0.85.0)
gateway=$(module sigs.k8s.io/gateway-api v1.4.1)

schemas=target/kubernetes-schemas
rm -rf "$schemas"
"$python" tests/deploy/strict_schemas.py "$kubernetes" "$schemas" \
    "$operator"/example/prometheus-operator-crd/monitoring.coreos.com_{podmonitors,prometheusrules}.yaml \
    "$gateway"/config/crd/standard/gateway.networking.k8s.io_{gateways,httproutes}.yaml

# Opinions that we do not share, and why:
#   container-image-pull-policy       a tag is one image for ever, so that a pod starts without the registry
#   container-resources               wants a limit of CPU: a throttled node answers pings too late
#   container-security-context-user-group-id   wants ids above 10000; redis:7-alpine has 999 and 1000 (dev only)
#   deployment-has-poddisruptionbudget, deployment-replicas, deployment-has-host-podantiaffinity, deployment-strategy
#                                     of the one Redis for a machine of one's own; nodes spread by topologySpreadConstraints
#   pod-probes                        wants two different probes of every container; Redis for dev has one
ignored=(container-image-pull-policy container-resources container-security-context-user-group-id
    deployment-has-poddisruptionbudget deployment-replicas deployment-has-host-podantiaffinity deployment-strategy
    pod-probes)
complaints() { # Its exit code is 1 for what it calls critical: here the words count.
    local said
    said=$("$tools/kube-score" score --kubernetes-version v1.30 --output-format ci "${ignored[@]/#/--ignore-test=}" "$1") || true
    [ -n "$said" ] || { echo "kube-score said nothing" >&2; exit 1; }
    grep '^\[\(WARNING\|CRITICAL\)\]' <<<"$said" || true
}
for overlay in deploy/kubernetes/overlays/* tests/deploy/variants/*; do
    echo "$overlay"
    objects=$schemas/objects.yaml
    target/venv/deploy/bin/kubectl kustomize "$overlay" >"$objects"
    "$tools/kubeconform" -strict -summary -kubernetes-version "$kubernetes" -skip ScaledObject \
        -schema-location "$schemas/{{ .ResourceKind }}{{ .KindSuffix }}.json" "$objects"
    complaints "$objects" >"$schemas/complaints"
    if [ -s "$schemas/complaints" ]; then
        cat "$schemas/complaints" >&2
        exit 1
    fi
    # Neither of them is asleep.
    sed 's/podMetricsEndpoints:/podMetricsEndpoint:/; s/type: PathPrefix/typ: PathPrefix/; s/pathType:/pathTyp:/
        s/minReadySeconds:/minReadySecond:/' "$objects" >"$schemas/broken.yaml"
    if "$tools/kubeconform" -strict -kubernetes-version "$kubernetes" -skip ScaledObject \
        -schema-location "$schemas/{{ .ResourceKind }}{{ .KindSuffix }}.json" "$schemas/broken.yaml" >/dev/null; then
        echo "kubeconform takes unknown fields" >&2
        exit 1
    fi
    sed '/^  selector:$/{n;s/name: skywave/name: nobody/}' "$objects" >"$schemas/broken.yaml"
    complaints "$schemas/broken.yaml" >"$schemas/complaints"
    if ! [ -s "$schemas/complaints" ]; then
        echo "kube-score takes a Service that leads nowhere" >&2
        exit 1
    fi
done
