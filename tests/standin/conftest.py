"""The stand-in libraries, built once a run of the tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.standin.libraries import build


@pytest.fixture(scope="session")
def libraries(shared: Path) -> Path:
    """Their folder; processes of tests that run at once share it."""
    return build(shared)
