"""Fixtures of the command's tests."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from tests.harness import ROOT, RunningServer, running_server


@pytest.fixture(scope="session")
def shipped() -> Iterator[RunningServer]:
    """A server of the shipped model, shared by tests that leave no session behind."""
    with running_server(ROOT / "models") as server:
        yield server


@pytest.fixture
def nobody() -> Iterator[str]:
    """An address at which nobody listens; it is held, so that nobody comes to."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{held.getsockname()[1]}"
