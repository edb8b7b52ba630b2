"""kill -9 at random moments: no answered step is lost, and none counts twice (`make torture`: many
more)."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.conftest import SmallModel
from tests.durability.service import on_redis, on_sqlite, serving
from tests.durability.torture import Tally, services, torture
from tests.durability.walks import walking
from tests.server.store.redis_server import RedisServer

SESSIONS = 200


@pytest.mark.parametrize(("store", "kills"), [("sqlite", 5), ("redis", 3)])
def test_kills_under_two_hundred_sessions_go_unnoticed(
    small: SmallModel, store: str, kills: int
) -> None:
    tally = Tally(store)
    with services(small.repository, store) as those:
        asyncio.run(torture(those, small.weights, kills, SESSIONS, tally))
    assert (tally.kills, tally.lost, tally.doubled) == (kills, 0, 0), tally
    assert tally.steps > kills * SESSIONS, "the kills came amid the load"
    assert tally.replayed > 0, "no kill took back anything: write-behind was not tried"


@pytest.mark.parametrize("store", ["sqlite", "redis"])
def test_with_sync_no_kill_takes_anything_back(small: SmallModel, store: str) -> None:
    tally = Tally(store)
    with services(small.repository, store, "--durability", "sync") as those:
        asyncio.run(torture(those, small.weights, 2, SESSIONS, tally))
    assert (tally.lost, tally.doubled, tally.replayed) == (0, 0, 0), tally


@pytest.mark.parametrize("store", ["sqlite", "redis"])
def test_with_sync_a_step_is_stored_when_it_is_answered(
    small: SmallModel, store: str, tmp_path: Path, redis: RedisServer
) -> None:
    flags = on_sqlite(tmp_path) if store == "sqlite" else on_redis(redis.url)

    async def play() -> None:
        async with walking(service.address, small.weights, 4) as walks:
            for _ in range(20):
                await asyncio.gather(*(each.step() for each in walks))
                assert [each.session.durable_step for each in walks] == [
                    each.steps for each in walks
                ]

    with serving(small.repository, *flags, "--durability", "sync") as service:
        asyncio.run(play())
