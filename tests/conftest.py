"""Fixtures shared by all tests: one small model, and a server that most tests can share."""

from __future__ import annotations

import gc
import os
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from tests.harness import RunningServer, running_server, small_model
from training.network import Network

LONG = re.compile(
    "^tests/(training/commands|benchmarks|durability|examples|standin|server/wire|test_)"
)


def pytest_configure(config: pytest.Config) -> None:
    """Processes of tests that run at once ignore SIGINT, and what they start would do so too."""
    if hasattr(config, "workerinput"):
        signal.signal(signal.SIGINT, signal.default_int_handler)
    gc.disable()  # until all is collected: most of what is made by then stays


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take long go first: they would be left for last, and for one process alone."""
    items.sort(key=lambda item: not LONG.search(item.nodeid))


def pytest_collection_finish() -> None:
    """Or the collector would look through all that the tests import, again and again."""
    gc.freeze()
    gc.enable()


@dataclass(frozen=True)
class SmallModel:
    """A repository with the model `small/1`, and that model's weights."""

    repository: Path
    weights: Network


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of this run of tests, which all its processes share."""
    mine = tmp_path_factory.getbasetemp()
    return mine.parent if "PYTEST_XDIST_WORKER" in os.environ else mine


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> SmallModel:
    """The model `small/1`: 5 features, 3 outputs."""
    repository = tmp_path_factory.mktemp("models")
    return SmallModel(repository, small_model(repository))


@pytest.fixture(scope="session")
def server_over(small: SmallModel) -> Iterator[Callable[[str], RunningServer]]:
    """A server of `small/1` for each transport, else with default settings, shared by tests that
    leave it as it was."""
    with ExitStack() as running:

        @cache
        def over(transport: str) -> RunningServer:
            return running.enter_context(running_server(small.repository, transport=transport))

        yield over


@pytest.fixture(scope="session")
def server(server_over: Callable[[str], RunningServer]) -> RunningServer:
    """The shared server of the usual transport."""
    return server_over("native")
