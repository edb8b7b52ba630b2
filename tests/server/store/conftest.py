"""A redis for tests: one for a module, emptied for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.server.store.redis_server import RedisServer


@pytest.fixture(scope="module")
def started() -> Iterator[RedisServer]:
    """A redis that lives as long as the module."""
    server = RedisServer()
    yield server
    server.stop()


@pytest.fixture
def server(started: RedisServer) -> RedisServer:
    """An empty redis, not to be killed."""
    started.client().flushall()
    return started


@pytest.fixture
def own_server() -> Iterator[RedisServer]:
    """A redis that the test may kill and pause."""
    server = RedisServer()
    yield server
    server.stop()
