"""A redis, and what else a cluster needs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.server.store.redis_server import RedisServer


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    """A redis that the module's servers share."""
    server = RedisServer()
    yield server
    server.stop()
