"""What deploy/kubernetes comes to: rendered by kubectl, checked against Kubernetes' own schemas."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from tests.deploy import crds
from tests.harness import ROOT

KUBERNETES = ("1.30", "1.37")  # the oldest and the newest that the manifests are for
FOLDER = ROOT / "deploy" / "kubernetes"
KUBECTL = Path(sys.executable).with_name("kubectl")
OPERATORS = ("monitoring.coreos.com/", "serving.kserve.io/")

Resource: TypeAlias = dict[str, Any]

RENDERED = [
    *(f"examples/{each.name}" for each in sorted((FOLDER / "examples").iterdir())),
    "profiles/sqlite", "profiles/replicated", "profiles/redis", "kserve",
]  # fmt: skip


@cache
def render(folder: str | Path) -> list[Resource]:
    """The resources of a kustomization, by its path or its name under deploy/kubernetes; everybody
    gets the same ones, to look at."""
    command = [str(KUBECTL), "kustomize", str(FOLDER / folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and not done.stderr, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def combine(folder: Path, profile: str, *components: str) -> list[Resource]:
    """A kustomization of one's own, written to an empty folder: a profile with components."""
    where = Path(os.path.relpath(FOLDER, folder))
    folder.mkdir()
    own = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [str(where / "profiles" / profile)],
        "components": [str(where / "components" / each) for each in components],
    }
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(own))
    return render(folder)


def problems(resource: Resource) -> list[str]:
    """What an API server would find wrong with a resource, as far as its schema tells."""
    if resource["apiVersion"].startswith(OPERATORS):
        return crds.problems(resource)
    return _core_problems(json.dumps(resource))


@cache
def _core_problems(resource: str) -> list[str]:
    import kubernetes_validate  # three seconds, to those who need it alone

    found = []
    for version in KUBERNETES:
        try:
            kubernetes_validate.validate(json.loads(resource), version, strict=True)
        except kubernetes_validate.ValidationError as error:
            found.append(f"{version}: {error.json_path}: {error.message}")
    return found


def of_kind(resources: list[Resource], *kinds: str) -> list[Resource]:
    """Those of these kinds."""
    return [each for each in resources if each["kind"] in kinds]


def pods(resources: list[Resource]) -> list[Resource]:
    """The pods' specs and labels, as in templates: {"metadata": ..., "spec": ...}."""
    return [each["spec"]["template"] for each in of_kind(resources, "Deployment", "StatefulSet")]


def containers(resources: list[Resource]) -> Iterator[Resource]:
    """All of the pods' and runtimes' containers."""
    for pod in pods(resources):
        yield from pod["spec"].get("initContainers", [])
        yield from pod["spec"]["containers"]
    for runtime in of_kind(resources, "ServingRuntime"):
        yield from runtime["spec"]["containers"]


def servers(resources: list[Resource]) -> list[Resource]:
    """The containers that run Tidegate."""
    return [
        each for each in containers(resources) if each["name"] in ("tidegate", "kserve-container")
    ]


def settings(resources: list[Resource], server: Resource) -> dict[str, str]:
    """The environment that a server is given; of secrets a word in their place."""
    given: dict[str, str] = {}
    maps = {each["metadata"]["name"]: each["data"] for each in of_kind(resources, "ConfigMap")}
    for source in server.get("envFrom", []):
        given |= maps[source["configMapRef"]["name"]]
    for each in server.get("env", []):
        given[each["name"]] = each.get("value", "redis://:word@tidegate-redis:6379/0")
    return given
