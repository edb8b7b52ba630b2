"""The stand-in libraries, built once a run of the tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.standin.libraries import build


@pytest.fixture(scope="session")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Their folder; processes of tests that run at once share it."""
    mine = tmp_path_factory.getbasetemp()
    return build(mine.parent if "PYTEST_XDIST_WORKER" in os.environ else mine)
