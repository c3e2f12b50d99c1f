"""strict_schemas.py KUBERNETES DIRECTORY CRD…: writes JSON schemas, for kubeconform, that refuse unknown fields: those of
Kubernetes from the package kubernetes-validate, those of extensions from their CustomResourceDefinitions."""

import json
import sys
from pathlib import Path

import kubernetes_validate
import yaml

version, directory, *definitions = sys.argv[1:]
target = Path(directory)
target.mkdir(parents=True)


def without_addresses(schema):
    """References stay in the directory, instead of the network."""
    if isinstance(schema, dict):
        return {key: without_addresses(value) for key, value in schema.items() if key != "$id" or not isinstance(value, str)}
    if isinstance(schema, list):
        return [without_addresses(value) for value in schema]
    return schema.replace("/api/_definitions.json#", "_definitions.json#") if isinstance(schema, str) else schema


def strict(schema):
    if isinstance(schema, dict):
        schema = {key: strict(value) for key, value in schema.items()}
        if "properties" in schema and isinstance(schema["properties"], dict):
            if not schema.get("x-kubernetes-preserve-unknown-fields"):
                schema.setdefault("additionalProperties", False)
    return [strict(value) for value in schema] if isinstance(schema, list) else schema


source = Path(kubernetes_validate.__file__).parent / f"kubernetes-json-schema/v{version}-local-strict"
for file in source.glob("*.json"):
    (target / file.name).write_text(json.dumps(without_addresses(json.loads(file.read_text()))))
for file in definitions:
    definition = yaml.safe_load(Path(file).read_text())["spec"]
    for one in definition["versions"]:
        name = f"{definition['names']['singular']}-{definition['group'].split('.')[0]}-{one['name']}.json"
        schema = one["schema"]["openAPIV3Schema"]
        # What every object may have in it, and the definition does not say.
        schema["properties"]["metadata"] = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
        (target / name).write_text(json.dumps(strict(schema)))
