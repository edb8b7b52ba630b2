"""KServe's runtime serves what KServe lays into /mnt/models, through KServe's protocol."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import yaml

from server.bundle.repository import find
from tests.conftest import SmallModel
from tests.deploy.manifests import FOLDER, Resource, of_kind, render, servers, settings
from tests.harness import RunningServer, await_ready, start
from tests.server.oip.triton import TOLERANCE, client, expected, observations, play

PROBES = ("startupProbe", "livenessProbe", "readinessProbe", "lifecycle")


def runtime() -> Resource:
    """The container that KServe starts."""
    (container,) = servers(render("kserve"))
    return container


@contextmanager
def started(mount: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunningServer]:
    """A server with the runtime's settings, but for its ports, over what stands for /mnt/models."""
    container = runtime()
    for name, value in settings(render("kserve"), container).items():
        monkeypatch.setenv(name, value)
    flags = [each.replace("/mnt/models", str(mount)) for each in container["args"]]
    process, log = start(mount, *flags, "--store=none", "--health-port=0")
    try:
        yield await_ready(process, log)
    finally:
        process.kill()
        process.wait()
        log.unlink()


def mounted(repository: Path, mount: Path) -> None:
    """As a volume that is changed in one move: links through ..data."""
    shutil.copytree(repository, mount / "..2026_01_01")
    (mount / "..data").symlink_to("..2026_01_01")
    for folder in repository.iterdir():
        (mount / folder.name).symlink_to(f"..data/{folder.name}")


def test_a_repository_in_mnt_models_is_served_to_callers_of_kserves_protocol(
    small: SmallModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounted(small.repository, tmp_path)
    xs = observations(6)
    with started(tmp_path, monkeypatch) as server, client(server) as connection:
        assert connection.is_server_ready() and connection.is_model_ready("small")
        answered = play(connection, xs, "call-1")
    np.testing.assert_allclose(answered, expected(small.weights, xs), atol=TOLERANCE)


def test_a_bundle_that_lies_in_mnt_models_itself_is_no_repository(small: SmallModel) -> None:
    """storageUri names the folder above NAME, not the bundle, nor its versions."""
    assert not find(small.repository / "small")
    assert not find(small.repository / "small" / "1")
    assert find(small.repository)


def test_the_service_asks_for_what_the_runtime_offers() -> None:
    resources = render("kserve")
    (offered,) = of_kind(resources, "ServingRuntime")
    (service,) = of_kind(resources, "InferenceService")
    model = service["spec"]["predictor"]["model"]
    assert model["runtime"] == offered["metadata"]["name"]
    assert model["modelFormat"]["name"] in [
        f["name"] for f in offered["spec"]["supportedModelFormats"]
    ]
    assert model["protocolVersion"] in offered["spec"]["protocolVersions"]
    assert offered["spec"]["multiModel"] is False
    assert service["spec"]["predictor"]["enableServiceLinks"] is False


def test_the_runtime_is_probed_and_ended_as_every_server_is() -> None:
    container = runtime()
    assert container["name"] == "kserve-container"
    patch = yaml.safe_load((FOLDER / "components/pod/pod.yaml").read_text())
    (pod,) = patch["spec"]["template"]["spec"]["containers"]
    assert {key: container[key] for key in PROBES} == {key: pod[key] for key in PROBES}
    given = settings(render("kserve"), container)
    assert [each["containerPort"] for each in container["ports"]] == [int(given["TIDEGATE_PORT"])]
    assert container["livenessProbe"]["grpc"]["port"] == int(given["TIDEGATE_HEALTH_PORT"])
    (offered,) = of_kind(render("kserve"), "ServingRuntime")
    scraped = offered["spec"]["annotations"]["prometheus.kserve.io/port"]
    assert scraped == given["TIDEGATE_METRICS_PORT"]
