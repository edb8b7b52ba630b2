"""The manifests are what Kubernetes takes, and what this server takes."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from server.config import Config, ConfigError, from_arguments
from server.transport.rpcs.liveness import LIVE
from tests.deploy.manifests import (
    FOLDER,
    RENDERED,
    Resource,
    combine,
    containers,
    of_kind,
    pods,
    problems,
    render,
    servers,
    settings,
)
from tests.harness import ROOT

DOCKERFILE = (ROOT / "Dockerfile").read_text()
DOC = (ROOT / "docs" / "kubernetes.md").read_text()
COMPONENTS = sorted(each.name for each in (FOLDER / "components").iterdir())
DEPLOYED = [each for each in RENDERED if each not in ("profiles/redis", "kserve")]
SPARE_SECONDS = 5
"""What is left of the grace period when preStop and the drain have taken all of theirs."""


@pytest.mark.parametrize("folder", RENDERED)
def test_every_resource_is_valid(folder: str) -> None:
    resources = render(folder)
    assert resources
    assert {name(each): found for each in resources if (found := problems(each))} == {}


CHOICES = (
    ["plaintext", "models-image"],
    ["tls", "models-volume"],
    ["tls", "mtls", "access", "gpu", "models-image", "monitoring"],
    ["tls", "mtls", "envoy", "models-volume"],
)


@pytest.mark.parametrize("profile", ["sqlite", "replicated"])
def test_every_component_fits_either_profile(tmp_path: Path, profile: str) -> None:
    assert {each for chosen in CHOICES for each in chosen} == {*COMPONENTS} - {"pod", "autoscaling"}
    for chosen in CHOICES:
        resources = combine(tmp_path / "-".join(chosen), profile, *chosen)
        assert {name(each): found for each in resources if (found := problems(each))} == {}
        (server,) = servers(resources)
        assert "/models" in {each["mountPath"] for each in server["volumeMounts"]}


MISSPELT = [
    ("Deployment", ["spec", "template", "spec", "containers", 0, "readinesProbe"]),
    ("Deployment", ["spec", "template", "spec", "containers", 0, "lifecycle", "prestop"]),
    ("Deployment", ["spec", "strategy", "rollingUpdate", "maxUnavailible"]),
    ("StatefulSet", ["spec", "volumeClaimTemplate"]),
    ("StatefulSet", ["spec", "template", "spec", "securityContext", "runAsNonroot"]),
    ("Service", ["spec", "ports", 0, "targetport"]),
    ("ServiceAccount", ["automountServiceAccountTokens"]),
    ("NetworkPolicy", ["spec", "ingress", 0, "form"]),
    ("PodDisruptionBudget", ["spec", "maxUnavailble"]),
    ("HorizontalPodAutoscaler", ["spec", "metrics", 0, "pods", "metrics"]),
    ("ServiceMonitor", ["spec", "endpoints", 0, "intervall"]),
    ("PrometheusRule", ["spec", "groups", 0, "rules", 0, "expression"]),
    ("ServingRuntime", ["spec", "containers", 0, "livenessprobe"]),
    ("InferenceService", ["spec", "predictor", "model", "storageURI"]),
]


@pytest.mark.parametrize(("kind", "path"), MISSPELT)
def test_a_misspelt_field_is_found(kind: str, path: list[Any]) -> None:
    everything = [*render("examples/single"), *render("examples/replicated"), *render("kserve")]
    spoiled = copy.deepcopy(of_kind(everything, kind)[0])
    inner = spoiled
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = {}
    assert any(path[-1] in found for found in problems(spoiled))


def test_a_value_of_the_wrong_type_is_found() -> None:
    spoiled = copy.deepcopy(of_kind(render("examples/replicated"), "Deployment")[0])
    spoiled["spec"]["replicas"] = "two"
    assert problems(spoiled)


@pytest.mark.parametrize("folder", [*DEPLOYED, "kserve"])
def test_every_setting_is_one_of_the_servers_and_together_they_fit(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What one alone lacks (profiles have neither certificates nor leave to do without) is said."""
    resources = render(folder)
    (server,) = servers(resources)
    given = settings(resources, server)
    known = {f"TIDEGATE_{field.upper()}" for field in Config.model_fields}
    assert set(given) <= known
    for variable, value in {**image(), **given}.items():
        monkeypatch.setenv(variable, here(value, variable, tmp_path))
    arguments = [here(each, each, tmp_path) for each in server.get("args", [])]
    if folder.startswith("profiles/"):
        arguments.append("--insecure")
    config = from_arguments(arguments)
    assert config.host == "0.0.0.0" and config.health_port == 50050


def test_the_server_refuses_what_kubernetes_would_set_for_a_service_named_tidegate(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TIDEGATE_PORT", "tcp://10.96.0.7:50051")
    with pytest.raises(ConfigError, match="port must be a valid integer"):
        from_arguments([])
    for folder in RENDERED:
        assert all(pod["spec"]["enableServiceLinks"] is False for pod in pods(render(folder)))


@pytest.mark.parametrize("folder", DEPLOYED)
def test_ports_are_the_images_and_names_of_ports_are_known(folder: str) -> None:
    resources = render(folder)
    (server,) = servers(resources)
    ports = {each["name"]: each["containerPort"] for each in server["ports"]}
    served = {"grpc": "PORT", "metrics": "METRICS_PORT", "health": "HEALTH_PORT"}
    assert ports == {key: int(image()[f"TIDEGATE_{name}"]) for key, name in served.items()}
    exposed = re.search(r"^EXPOSE (.*)$", DOCKERFILE, re.MULTILINE)
    assert exposed and set(ports.values()) == set(map(int, exposed[1].split()))
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert server[probe]["grpc"]["port"] == ports["health"]
    for service in of_kind(resources, "Service"):
        if selects(service["spec"]["selector"], "tidegate"):
            assert all(
                ports[each["targetPort"]] == each["port"] for each in service["spec"]["ports"]
            )
    for policy in of_kind(resources, "NetworkPolicy"):
        if selects(policy["spec"]["podSelector"]["matchLabels"], "tidegate"):
            let_in = [p["port"] for rule in policy["spec"]["ingress"] for p in rule["ports"]]
            assert let_in == ["grpc", "metrics"]  # health: from the pod's node alone


@pytest.mark.parametrize("folder", [*DEPLOYED, "kserve"])
def test_probes_end_a_server_that_hangs_and_no_other(folder: str) -> None:
    (server,) = servers(render(folder))
    assert server["livenessProbe"]["grpc"]["service"] == LIVE
    assert server["startupProbe"]["grpc"]["service"] == LIVE
    assert "service" not in server["readinessProbe"]["grpc"]


@pytest.mark.parametrize("folder", [*DEPLOYED, "kserve"])
def test_the_grace_period_holds_what_comes_before_the_end(folder: str) -> None:
    resources = render(folder)
    (server,) = servers(resources)
    drain = float(settings(resources, server)["TIDEGATE_DRAIN_SECONDS"])
    before = server["lifecycle"]["preStop"]["sleep"]["seconds"]
    specs = [pod["spec"] for pod in pods(resources) if server in pod["spec"]["containers"]]
    specs += [each["spec"]["predictor"] for each in of_kind(resources, "InferenceService")]
    (grace,) = [each["terminationGracePeriodSeconds"] for each in specs]
    assert grace >= before + drain + SPARE_SECONDS


@pytest.mark.parametrize("folder", RENDERED)
def test_pods_keep_to_the_restricted_standard(folder: str) -> None:
    resources = render(folder)
    for pod in pods(resources):
        spec, context = pod["spec"], pod["spec"]["securityContext"]
        assert spec["automountServiceAccountToken"] is False
        assert context["runAsNonRoot"] is True and context["runAsUser"] > 0
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
        assert all("hostPath" not in volume for volume in spec.get("volumes", []))
    for container in containers(resources):
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["readOnlyRootFilesystem"] is True
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert container["resources"]["requests"] and container["resources"]["limits"]["memory"]
    assert "USER 10001:10001" in DOCKERFILE
    assert all(pod["spec"]["securityContext"]["fsGroup"] for pod in pods(resources))


@pytest.mark.parametrize("folder", [*DEPLOYED, "profiles/redis"])
def test_whatever_names_another_part_names_one_that_is_there(folder: str) -> None:
    resources = render(folder)
    labels = [pod["metadata"]["labels"] for pod in pods(resources)]
    for selector in selectors(resources):
        assert any(selector.items() <= each.items() for each in labels), selector
    named = {(each["kind"], each["metadata"]["name"]) for each in resources}
    for scaler in of_kind(resources, "HorizontalPodAutoscaler"):
        target = scaler["spec"]["scaleTargetRef"]
        assert (target["kind"], target["name"]) in named
        (scaled,) = of_kind(resources, target["kind"])[:1]
        assert "replicas" not in scaled["spec"]  # each apply would set it back
    for pod in pods(resources):
        volumes = {each["name"] for each in pod["spec"].get("volumes", [])}
        owner = next(e for e in of_kind(resources, "Deployment", "StatefulSet")
                     if e["spec"]["template"] is pod)  # fmt: skip
        claims = owner["spec"].get("volumeClaimTemplates", [])
        volumes |= {each["metadata"]["name"] for each in claims}
        for container in [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]:
            assert {each["name"] for each in container["volumeMounts"]} <= volumes


def test_certificates_and_tokens_are_mounted_where_the_settings_say() -> None:
    resources = render("examples/replicated-gpu")
    (server,) = servers(resources)
    given = settings(resources, server)
    mounts = {each["mountPath"]: each for each in server["volumeMounts"]}
    for setting in ("TLS_CERT", "TLS_KEY", "TLS_CLIENT_CA", "ACCESS"):
        mount = mounts[str(Path(given[f"TIDEGATE_{setting}"]).parent)]
        assert mount["readOnly"] and "subPath" not in mount  # which would never be swapped


def test_a_gpu_is_asked_for_and_the_cpus_image_is_not_taken() -> None:
    resources = render("examples/replicated-gpu")
    (server,) = servers(resources)
    assert server["image"] == "registry.example/tidegate:gpu"
    assert server["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert settings(resources, server)["TIDEGATE_DEVICE"] == "cuda"


def test_sessions_are_on_a_volume_or_in_redis() -> None:
    (alone,) = of_kind(render("profiles/sqlite"), "StatefulSet")
    (server,) = alone["spec"]["template"]["spec"]["containers"]
    (claim,) = alone["spec"]["volumeClaimTemplates"]
    mounted = {each["mountPath"]: each["name"] for each in server["volumeMounts"]}
    assert mounted[image()["TIDEGATE_DATA_FOLDER"]] == claim["metadata"]["name"]
    shared = render("profiles/replicated")
    assert settings(shared, servers(shared)[0])["TIDEGATE_STORE"] == "redis"
    assert settings(shared, servers(shared)[0])["TIDEGATE_REDIS_URL"]


def test_the_page_tells_of_every_part_and_every_secret() -> None:
    parts = [*COMPONENTS, *(each.name for each in (FOLDER / "examples").iterdir())]
    assert [each for each in parts if f"`{each}`" not in DOC] == []
    text = yaml.safe_dump_all([each for folder in RENDERED for each in render(folder)])
    secrets = set(re.findall(r"secretName: (\S+)|secretKeyRef:\n\s+key: \S+\n\s+name: (\S+)", text))
    names = {one or other for one, other in secrets}
    assert names == {"tidegate-redis", "tidegate-tls", "tidegate-clients", "tidegate-access"}
    assert all(each in DOC for each in names)


def name(resource: Resource) -> str:
    return f"{resource['kind']}/{resource['metadata']['name']}"


def image() -> dict[str, str]:
    """The settings that the image brings."""
    return dict(re.findall(r"^\s*(?:ENV )?(TIDEGATE_\w+)=(\S+)", DOCKERFILE, re.MULTILINE)[::-1])


def here(value: str, about: str, folder: Path) -> str:
    """A path of the container's, as one that exists."""
    flag, _, path = value.rpartition("=") if value.startswith("--") else ("", "", value)
    if not path.startswith("/"):
        return value
    own = folder / path.lstrip("/")
    if "TLS" in about or "ACCESS" in about:
        own.parent.mkdir(parents=True, exist_ok=True)
        own.touch()
    else:
        own.mkdir(parents=True, exist_ok=True)
    return f"{flag}={own}" if flag else str(own)


def selects(labels: dict[str, str], of: str) -> bool:
    return labels["app.kubernetes.io/name"] == of


def selectors(resources: list[Resource]) -> list[dict[str, str]]:
    """By which labels pods are looked for."""
    found = [each["spec"]["selector"] for each in of_kind(resources, "Service")]
    for kinds, key in ((("Deployment", "StatefulSet", "PodDisruptionBudget"), "selector"),
                       (("NetworkPolicy",), "podSelector")):  # fmt: skip
        found += [each["spec"][key]["matchLabels"] for each in of_kind(resources, *kinds)]
    for pod in pods(resources):
        spread = pod["spec"].get("topologySpreadConstraints", [])
        found += [each["labelSelector"]["matchLabels"] for each in spread]
    return found
