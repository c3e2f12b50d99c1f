"""What is deployed, as objects: the overlays by `kubectl kustomize`, the chart by Helm's own library."""

import base64
import json
import subprocess
import sys
import tomllib
from pathlib import Path

import helm_python
import yaml

ROOT = Path(__file__).resolve().parents[2]
KUBERNETES = ROOT / "deploy/kubernetes"
CHART = ROOT / "deploy/helm/skywave"
VARIANTS = ROOT / "tests/deploy/variants"
KUBECTL = Path(sys.executable).parent / "kubectl"

# Each with the values that make the same of the chart.
SETS = {
    "dev": (KUBERNETES / "overlays/dev", CHART / "values-dev.yaml"),
    "production": (KUBERNETES / "overlays/production", CHART / "values-production.yaml"),
    "redis-cluster": (KUBERNETES / "overlays/redis-cluster", CHART / "values-redis-cluster.yaml"),
    "keda": (VARIANTS / "keda", VARIANTS / "keda/values.yaml"),
}


def name_of(thing):
    return f"{thing.get('kind')}/{thing.get('metadata', {}).get('name')}"


def parse(text):
    return [thing for thing in yaml.safe_load_all(text) if thing]


def kustomize(folder):
    done = subprocess.run([KUBECTL, "kustomize", folder], capture_output=True, text=True, timeout=60)
    if done.returncode != 0:
        raise AssertionError(f"kubectl kustomize {folder}: {done.stderr}")
    return parse(done.stdout)


def helm(values):
    with helm_python.Chart.load(str(CHART)) as chart:
        files = chart.render(values, name="skywave", namespace="skywave")
    return [thing for path, text in files.items() if not path.endswith("NOTES.txt") for thing in parse(text)]


def settings_of(things):
    """The settings file in the ConfigMap, as text and parsed."""
    for thing in things:
        if name_of(thing) == "ConfigMap/skywave":
            text = thing["data"]["skywave.toml"]
            return text, tomllib.loads(text)
    raise AssertionError("no ConfigMap/skywave")


def comparable(things):
    """By name, without what only one of the two tools writes, and with one spelling for what has several."""
    result = {}
    for thing in json.loads(json.dumps(things)):
        # Helm is given a namespace, it does not make one.
        if thing["kind"] == "Namespace":
            continue
        thing["metadata"].get("labels", {}).pop("app.kubernetes.io/managed-by", None)
        if thing["kind"] == "ConfigMap":
            thing["data"] = {key: tomllib.loads(text) for key, text in thing["data"].items()}
        if thing["kind"] == "Secret":
            secrets = {key: base64.b64decode(value).decode() for key, value in thing.pop("data", {}).items()}
            thing["stringData"] = secrets | thing.get("stringData", {})
        result[name_of(thing)] = thing
    return result
