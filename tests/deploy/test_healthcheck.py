"""The image's health check tells a serving server from a silent port."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

from tests.harness import ROOT, RunningServer


def check(port: str) -> subprocess.CompletedProcess[str]:
    """Run the health check as the image does, against `port`."""
    return subprocess.run(
        [sys.executable, str(ROOT / "deploy" / "healthcheck.py")],
        env={**os.environ, "TIDEGATE_PORT": port},
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )


def test_a_serving_server_is_healthy(server: RunningServer) -> None:
    assert check(server.address.rpartition(":")[2]).returncode == 0


def test_a_port_where_nothing_listens_is_unhealthy() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
    result = check(port)
    assert result.returncode == 1
    assert f"no answer from port {port}" in result.stderr
