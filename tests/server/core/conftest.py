"""A bundle of the small model, for tests that make models of their own."""

from __future__ import annotations

from pathlib import Path

import pytest

from server.bundle.repository import Bundle
from tests.server.core.parts import make_bundle


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository of `bundle`."""
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def bundle(folder: Path) -> Bundle:
    """`small/1`, verified."""
    return make_bundle(folder)
