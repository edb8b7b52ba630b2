"""A server of the models in `bundles`, shared by the client's tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.client.bundles import write_repository
from tests.harness import RunningServer, running_server


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The models' folder."""
    return write_repository(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def serving(repository: Path) -> Iterator[RunningServer]:
    """A server with default settings."""
    with running_server(repository) as running:
        yield running
