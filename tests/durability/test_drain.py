"""SIGTERM: everything is stored, however long the interval, before the server is gone."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.conftest import SmallModel
from tests.durability.service import Service, on_redis, on_sqlite, serving
from tests.durability.walks import Walk, check_all, counting_replays, step_all, walking
from tests.server.store.redis_server import RedisServer

LAZY = ("--checkpoint-interval", "60")


@pytest.mark.parametrize("store", ["sqlite", "redis"])
def test_a_drained_server_has_stored_everything_and_the_next_goes_on(
    small: SmallModel, store: str, tmp_path: Path, redis: RedisServer
) -> None:
    where = on_sqlite(tmp_path) if store == "sqlite" else on_redis(redis.url)

    async def play() -> None:
        async with walking(service.address, small.weights, 50) as walks:
            await step_all(walks, 20)
            assert not any(each.session.durable_step for each in walks)
            assert await asyncio.to_thread(service.running.terminate) == 0
            await asyncio.to_thread(service.start)
            infos = [await each.session.info() for each in walks]
            assert {(each.steps, each.durable_step) for each in infos} == {(20, 20)}
            with counting_replays() as replays:
                await step_all(walks, 5)
            assert not replays.steps
            assert await check_all(walks) == (0, 0)

    with serving(small.repository, *where, *LAZY) as service:
        asyncio.run(play())


def test_callers_of_a_drained_server_go_on_at_the_other_without_a_step_applied_again(
    small: SmallModel, redis: RedisServer
) -> None:
    async def play(one: Service, other: Service) -> None:
        target = f"ipv4:{one.address},{other.address}"
        with counting_replays() as replays:
            async with walking(target, small.weights, 50) as walks:
                stop = asyncio.Event()
                async with asyncio.TaskGroup() as tasks:
                    for each in walks:
                        tasks.create_task(each.go(stop, 0.01))
                    await asyncio.sleep(0.5)
                    assert await asyncio.to_thread(one.running.terminate) == 0
                    await _all_step(walks)
                    stop.set()
                assert await check_all(walks) == (0, 0)
        assert not replays.steps

    where = (*on_redis(redis.url), *LAZY)
    with serving(small.repository, *where) as one, serving(small.repository, *where) as other:
        asyncio.run(asyncio.wait_for(play(one, other), 60))


async def _all_step(walks: list[Walk]) -> None:
    """Wait until every session has stepped on, with somebody else stepping it."""
    stood = [each.steps for each in walks]
    while any(w.steps < at + 5 for w, at in zip(walks, stood, strict=True)):
        await asyncio.sleep(0.02)
