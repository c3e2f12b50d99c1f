"""Holds objects against the schemas of Kubernetes and of those who extend it."""

import json
import subprocess
from pathlib import Path

import kubernetes_validate
from manifests import name_of

# The oldest whose kubelet has the sleep of preStop, and the newest that there is a schema of.
VERSIONS = ["1.30", "1.37"]
# Not Kubernetes' own: the types of `models.mjs` alone know them.
EXTENSIONS = {"gateway.networking.k8s.io", "keda.sh", "monitoring.coreos.com"}


def schema(things):
    """Wrong types, unknown and missing fields, versions that are gone."""
    for thing in things:
        if thing["apiVersion"].split("/")[0] in EXTENSIONS:
            continue
        for version in VERSIONS:
            try:
                kubernetes_validate.validate(thing, version, strict=True)
            except kubernetes_validate.ValidationError as error:
                yield "schema", f"{name_of(thing)}, Kubernetes {version}: {error.message}"
            except Exception as error:  # It knows no such kind, and has a type of error for each way to find out.
                yield "schema", f"{name_of(thing)}, Kubernetes {version}: {error}"


def models(things):
    """Words that are none of those allowed, quantities, patterns; all of the extensions."""
    script = Path(__file__).with_name("models.mjs")
    done = subprocess.run(
        ["node", script], input=json.dumps(things), capture_output=True, text=True, timeout=60, check=True
    )
    for index, message in json.loads(done.stdout):
        yield "models", f"{name_of(things[index])}: {message}"
