"""Schemas of what operators add to Kubernetes, as strict as an API server that is asked to be.

They are taken out of the operators' own definitions, without descriptions:
    python -m tests.deploy.crds DEFINITION.yaml ...
Rules in CEL (x-kubernetes-validations) are left out: nothing here runs them.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import yaml

SCHEMAS = Path(__file__).with_name("schemas")
LEFT_OUT = ("description", "example", "x-kubernetes-validations")
PREDICTOR = (
    "automountServiceAccountToken", "enableServiceLinks", "maxReplicas", "minReplicas", "model",
    "nodeSelector", "securityContext", "serviceAccountName", "terminationGracePeriodSeconds",
    "tolerations",
)  # fmt: skip
"""What is kept of KServe's predictors: the whole of an InferenceService has 600 kB."""


def problems(resource: dict[str, Any]) -> list[str]:
    """What is wrong with a custom resource, by its path. Raises KeyError: of no known kind."""
    from jsonschema import Draft202012Validator  # three seconds, to those who need it alone

    known = {schema["kind"]: schema for schema in map(_read, sorted(SCHEMAS.glob("*.json")))}
    schema = known[f"{resource['apiVersion']}/{resource['kind']}"]["schema"]
    errors = Draft202012Validator(_strict(schema)).iter_errors(resource)
    return [f"{error.json_path}: {error.message}" for error in errors]


def _read(file: Path) -> Any:
    return json.loads(file.read_text())


def _strict(schema: Any) -> Any:
    """Fields that are not named are refused, but where the definition lets any be."""
    if isinstance(schema, list):
        return [_strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    strict = {
        key: {name: _strict(each) for name, each in value.items()}
        if key == "properties"
        else _strict(value)
        for key, value in schema.items()
    }
    if "properties" in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
        strict.setdefault("additionalProperties", False)
    return strict


def _bare(schema: Any) -> Any:
    """Without what only people read."""
    if isinstance(schema, list):
        return [_bare(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: {name: _bare(each) for name, each in value.items()}
        if key == "properties"
        else _bare(value)
        for key, value in schema.items()
        if key not in LEFT_OUT
    }


def extract(definition: dict[str, Any]) -> dict[str, Any]:
    """The kind and the schema of a CustomResourceDefinition's first version."""
    spec = definition["spec"]
    version, kind = spec["versions"][0], spec["names"]["kind"]
    schema = _bare(version["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {"type": "object"}
    schema["properties"].pop("status", None)
    if kind == "InferenceService":
        parts = schema["properties"]["spec"]["properties"]
        parts["predictor"]["properties"] = {
            name: parts["predictor"]["properties"][name] for name in PREDICTOR
        }
        schema["properties"]["spec"]["properties"] = {"predictor": parts["predictor"]}
    return {"kind": f"{spec['group']}/{version['name']}/{kind}", "schema": schema}


if __name__ == "__main__":
    for name in sys.argv[1:]:
        found = extract(yaml.safe_load(Path(name).read_text()))
        file = SCHEMAS / f"{found['kind'].rpartition('/')[2].lower()}.json"
        file.write_text(json.dumps(found, separators=(",", ":"), sort_keys=True) + "\n")
