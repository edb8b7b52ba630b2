"""kill -9 at random moments: no answered step is lost, and none counts twice (`make torture`: many
more)."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.conftest import SmallModel
from tests.durability.service import Service, on_redis, on_sqlite, serving
from tests.durability.torture import Tally, services, torture
from tests.durability.walks import walking
from tests.server.store.redis_server import RedisServer

SESSIONS = 200


@pytest.mark.parametrize(("store", "kills"), [("sqlite", 4), ("redis", 3)])
def test_kills_under_two_hundred_sessions_go_unnoticed(
    small: SmallModel, store: str, kills: int
) -> None:
    tally = Tally(store)
    with services(small.repository, store) as those:
        asyncio.run(torture(those, small.weights, kills, SESSIONS, tally))
    assert (tally.kills, tally.lost, tally.doubled) == (kills, 0, 0), tally
    assert tally.steps > kills * SESSIONS, "the kills came amid the load"
    assert tally.replayed > 0, "no kill took back anything: write-behind was not tried"


@pytest.mark.parametrize("durability", ["write-behind", "sync"])
def test_kills_while_two_runs_are_under_way_go_unnoticed(
    small: SmallModel, durability: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU."""
    ahead, kill = list[float](), Service.kill

    def killed(service: Service) -> None:
        ahead.append(service.running.metric("tidegate_runs_ahead_total"))
        kill(service)

    monkeypatch.setattr(Service, "kill", killed)
    monkeypatch.setattr("tests.durability.torture.LONGEST_LIFE", 3.0)  # to learn what runs take
    tally, count, flags = Tally("sqlite"), 60, ("--durability", durability)
    double = "from tests.server.engine import double; double.serve(0.02)"
    with services(small.repository, "sqlite", *flags, code=double) as those:
        asyncio.run(torture(those, small.weights, 2, count, tally))
    assert (tally.kills, tally.lost, tally.doubled) == (2, 0, 0), tally
    assert tally.steps > 2 * count
    assert max(ahead) > 0


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
