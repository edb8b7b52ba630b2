"""Sessions that go from one server to another, over a redis that loses everything when it likes.

The leases are renewed, and requests passed on, by hand: what follows is the keepers' own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest

from server.bundle.repository import Bundle
from server.serving.assembly import Keeping
from server.store.health import Health
from server.store.interface import RENEWALS, StoreUnreachable
from server.store.redis_table import RedisTable
from tests.server.core.parts import Caller, Floats, expected, make_model
from tests.server.store.redis_server import RedisServer

XS = np.random.default_rng(6).normal(size=(20, 5)).astype(np.float32)


class Server:
    """One of those over the redis."""

    def __init__(self, bundle: Bundle, folder: Path, redis: RedisServer, **more: Any) -> None:
        self.store, self._client = redis.store(), redis.client()
        usual: dict[str, Any] = {"max_sessions": 10, "checkpoint_interval": 0.02}
        self.model = make_model(
            bundle, folder, keeping=Keeping(self.store, Health(False)), **(usual | more)
        )
        assert self.model.keeper is not None
        self.keeper, self.caller = self.model.keeper, Caller(self.model)
        self.model.start()

    def name(self, create: bool = False) -> None:
        """Have the session here."""
        if (sought := self.model.seek({"a": create})) is not None:
            assert sought.result(20) == {}
        if create:
            self.model.attach("a", create=True)

    def step(self, first: int, stop: int) -> Floats:
        done = self.caller.step([("a", first, XS[first:stop])])
        assert done.errors == {}
        return done.room(3)

    def let_go(self) -> None:
        """Another asks for the session."""
        self.keeper.hand_over(["a"])
        wait(lambda: self.owner() == b"")

    def renew(self, times: int = 1) -> None:
        """The lease is renewed."""
        for _ in range(times):
            if self.store.renew().emptied:
                self.keeper.emptied()
            else:
                self.keeper.renewed()

    def turn(self) -> None:
        """Wait until the keeper has looked at everything once more."""
        for _ in range(2):
            self.keeper.forgotten().result(20)

    def owner(self) -> bytes | None:
        """Who has the session by the redis; empty: nobody, None: there is none."""
        owner: bytes | None = self._client.hget("tidegate:{small/1/a}", "owner")
        return owner

    def has_it(self) -> bool:
        return self.owner() == self.store.owner.encode()

    def stop(self) -> None:
        self.model.stop()
        self.store.close()
        self._client.close()


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    server = RedisServer()
    yield server
    server.stop()


@pytest.fixture
def two(bundle: Bundle, tmp_path: Path, redis: RedisServer) -> Iterator[tuple[Server, Server]]:
    """The first has the session, at step 3. Nothing is stored unasked."""
    redis.client().flushall()
    with ExitStack() as stack:
        both = [Server(bundle, tmp_path, redis, checkpoint_interval=1000) for _ in range(2)]
        for each in both:
            stack.callback(each.stop)
        both[0].name(create=True)
        both[0].step(0, 3)
        yield both[0], both[1]


def take_up(one: Server, other: Server) -> None:
    """The session goes from the one to the other, and is stepped there."""
    one.let_go()
    other.name()
    other.step(3, 5)


def wait(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_what_was_let_go_is_written_again_once_others_had_a_leases_time(
    two: tuple[Server, Server], redis: RedisServer
) -> None:
    one, other = two
    one.let_go()
    redis.client().flushall()
    one.renew(RENEWALS)
    one.turn()
    assert one.owner() is None
    one.renew()
    wait(lambda: one.owner() == b"")
    other.name()
    assert np.allclose(other.step(3, 6), expected(XS[:6])[3:], atol=1e-5)


def test_what_another_took_up_is_not_put_back(
    two: tuple[Server, Server], redis: RedisServer
) -> None:
    one, other = two
    take_up(one, other)
    redis.client().flushall()
    one.renew()
    other.renew()
    assert other.keeper.flush(time.monotonic() + 20)
    assert other.has_it()
    one.renew(RENEWALS)
    assert one.keeper.flush(time.monotonic() + 20)
    assert other.has_it()
    assert np.allclose(other.step(5, 7), expected(XS[:7])[5:], atol=1e-5)


def test_of_two_who_let_it_go_the_latter_writes_it_again(
    two: tuple[Server, Server], redis: RedisServer
) -> None:
    one, other = two
    take_up(one, other)
    one.renew(2)
    other.let_go()
    redis.client().flushall()
    one.renew(1 + RENEWALS)
    assert one.keeper.flush(time.monotonic() + 20)
    assert one.owner() is None
    other.renew(1 + RENEWALS)
    wait(lambda: other.owner() == b"")
    one.name()
    assert np.allclose(one.step(5, 7), expected(XS[:7])[5:], atol=1e-5)


def test_a_second_request_does_not_take_the_last_steps_from_a_session_that_is_being_handed(
    two: tuple[Server, Server],
) -> None:
    one, other = two
    write, failed = RedisTable.write, list[bool]()

    def fail_once(table: RedisTable, writes: Any) -> Any:
        if not failed:
            failed.append(True)
            raise StoreUnreachable("told not to answer")
        return write(table, writes)

    with patch.object(RedisTable, "write", fail_once):
        one.keeper.hand_over(["a"])
        wait(lambda: bool(failed))
        one.let_go()
    other.name()
    assert np.allclose(other.step(3, 6), expected(XS[:6])[3:], atol=1e-5)
