"""Holds objects against the schemas of Kubernetes and of those who extend it."""

import json
import subprocess
from functools import cache
from pathlib import Path

import kubernetes_validate
from manifests import name_of

# The oldest whose kubelet has the sleep of preStop, and the newest that there is a schema of.
VERSIONS = ["1.30", "1.37"]
# Not Kubernetes' own: the types of `models.mjs` alone know them.
EXTENSIONS = {"gateway.networking.k8s.io", "keda.sh", "monitoring.coreos.com"}


# A fault changes one object of a deployment: the others are not asked about again.
@cache
def schema_of(text):
    thing, found = json.loads(text), []
    if thing["apiVersion"].split("/")[0] in EXTENSIONS:
        return found
    for version in VERSIONS:
        try:
            kubernetes_validate.validate(thing, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            found.append(f"{name_of(thing)}, Kubernetes {version}: {error.message}")
        except Exception as error:  # It knows no such kind, and has a type of error for each way to find out.
            found.append(f"{name_of(thing)}, Kubernetes {version}: {error}")
    return found


def schema(things):
    """Wrong types, unknown and missing fields, versions that are gone."""
    for thing in things:
        for message in schema_of(json.dumps(thing)):
            yield "schema", message


# What was said of an object, by its text.
asked = {}


def models_of(texts):
    script = Path(__file__).with_name("models.mjs")
    done = subprocess.run(
        ["node", script], input=f"[{','.join(texts)}]", capture_output=True, text=True, timeout=60, check=True
    )
    return json.loads(done.stdout)


def models(things):
    """Words that are none of those allowed, quantities, patterns; all of the extensions."""
    texts = [json.dumps(thing) for thing in things]
    unasked = tuple(text for text in texts if text not in asked)
    if unasked:
        asked.update((text, []) for text in unasked)
        for index, message in models_of(unasked):
            asked[unasked[index]].append(message)
    for thing, text in zip(things, texts):
        for message in asked[text]:
            yield "models", f"{name_of(thing)}: {message}"
