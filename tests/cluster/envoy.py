"""A real Envoy over `deploy/cluster/envoy.yaml`, of which ports and folders alone are replaced."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.durability.service import free_port
from tests.harness import ROOT

CONFIG = ROOT / "deploy" / "cluster" / "envoy.yaml"
SERVERS = CONFIG.with_name("endpoints.yaml")
SECRETS = CONFIG.with_name("secrets")
PROGRAM = Path(sys.executable).with_name("envoy")


class Envoy:
    """One Envoy in front of servers. Use `stop` when done.

    Args:
        servers: their addresses, HOST:PORT.
        tls: a folder of certificates by the names in the configuration; None: in clear.
    """

    def __init__(self, servers: Sequence[str], tls: Path | None = None) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="envoy-"))
        self._port, self._admin = free_port(), free_port()
        self.address = f"127.0.0.1:{self._port}"
        self._config = self.folder / "envoy.yaml"
        self._config.write_text(self._configured(CONFIG.read_text(), tls))
        self.route_to(servers)
        self.start()

    def route_to(self, servers: Sequence[str]) -> None:
        """Tell Envoy which servers there are, as an operator would: by a file that is renamed."""
        head, mark, rest = SERVERS.read_text().partition("          - endpoint:")
        example = mark + rest.splitlines()[0]
        told = [head]
        for host, _, port in (each.rpartition(":") for each in servers):
            told.append(example.replace("10.0.0.1", host).replace("50051", port) + "\n")
        new = self.folder / "endpoints.new"
        new.write_text("".join(told))
        new.rename(self.folder / "endpoints.yaml")

    def start(self) -> None:
        """Start it, and wait until it has looked at its servers."""
        command = [str(PROGRAM), "--config-path", str(self._config), "--disable-hot-restart"]
        command += ["--concurrency", "1", "--log-level", "warning"]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stderr=log)
        self.await_that(lambda: self._ask("ready").strip() == "LIVE")

    def kill(self) -> None:
        """End it at once."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        self.kill()
        shutil.rmtree(self.folder)

    def healthy(self) -> set[str]:
        """The servers to which it routes new streams."""
        told = json.loads(self._ask("clusters?format=json"))
        hosts = [
            host for each in told["cluster_statuses"] for host in each.get("host_statuses", ())
        ]
        return {_address(host) for host in hosts if _well(host["health_status"])}

    def await_healthy(self, servers: Sequence[str]) -> None:
        """Wait until it routes to these servers and no others."""
        self.await_that(lambda: self.healthy() == set(servers))

    def await_that(self, holds: Any) -> None:
        """Wait until it holds; Envoy may not answer meanwhile."""
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                if holds():
                    return
            except OSError:
                pass
            time.sleep(0.02)
        raise AssertionError((self.folder / "log").read_text())

    def _ask(self, path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self._admin}/{path}", timeout=5) as page:
            text: str = page.read().decode()
        return text

    def _write_secrets(self, tls: Path) -> None:
        folder = self.folder / "secrets"
        folder.mkdir()
        for file in SECRETS.iterdir():
            told = file.read_text().replace("/etc/tidegate/tls", str(tls))
            (folder / file.name).write_text(told)

    def _configured(self, text: str, tls: Path | None) -> str:
        replaced = {
            "address: 0.0.0.0, port_value: 50050": f"address: 127.0.0.1, port_value: {self._port}",
            "port_value: 9901": f"port_value: {self._admin}",
            "path: /etc/tidegate": f"path: {self.folder}",
        }
        if tls is not None:
            text = re.sub("#tls ", "", text)
            self._write_secrets(tls)
        for old, new in replaced.items():
            assert old in text, f"the configuration has no {old!r} any more"
            text = text.replace(old, new)
        return text


def _well(status: dict[str, Any]) -> bool:
    """Neither failing its health checks nor left out for refused connections."""
    faults = {"failed_active_health_check", "failed_outlier_check", "pending_active_hc"}
    return not any(status.get(each) for each in faults)


def _address(host: dict[str, Any]) -> str:
    told = host["address"]["socket_address"]
    return f"{told['address']}:{told['port_value']}"
