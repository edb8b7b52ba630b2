"""What the tests of durability share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.server.store.redis_server import RedisServer


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    """A redis of the test's own, to be killed and paused."""
    server = RedisServer()
    yield server
    server.stop()
