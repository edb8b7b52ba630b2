"""Fixtures of the command's tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.harness import ROOT, RunningServer, running_server


@pytest.fixture(scope="session")
def shipped() -> Iterator[RunningServer]:
    """A server of the shipped model, shared by tests that leave no session behind."""
    with running_server(ROOT / "models") as server:
        yield server
