"""Twelve hundred sessions over a hundred slots: what the others are lies in the store."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from tests.conftest import SmallModel
from tests.durability.service import on_redis, on_sqlite, serving
from tests.durability.walks import check_all, walking
from tests.server.store.redis_server import RedisServer

SESSIONS = 1200
FLAGS = ("--max-sessions", str(SESSIONS), "--max-resident", "100")


@pytest.mark.parametrize("killed", [False, True])
@pytest.mark.parametrize("store", ["sqlite", "redis"])
def test_sessions_that_come_and_go_between_slots_and_store_answer_as_if_resident(
    small: SmallModel, store: str, killed: bool, tmp_path: Path, redis: RedisServer
) -> None:
    where = on_sqlite(tmp_path) if store == "sqlite" else on_redis(redis.url)
    chance = random.Random(1)

    async def play() -> None:
        async with walking(service.address, small.weights, SESSIONS) as walks:
            for round_ in range(3):
                some = chance.sample(walks, SESSIONS * 2 // 3)
                steps = [asyncio.create_task(each.step()) for each in some]
                if killed and round_ == 1:
                    await asyncio.wait(steps, return_when=asyncio.FIRST_COMPLETED)
                    await asyncio.to_thread(service.kill)
                    await asyncio.to_thread(service.start)
                await asyncio.gather(*steps)
            for each in walks:
                each.check()
            assert service.running.metric("tidegate_sessions_resident") <= 100
            assert await check_all(chance.sample(walks, 300)) == (0, 0)

    with serving(small.repository, *where, *FLAGS) as service:
        asyncio.run(asyncio.wait_for(play(), 120))
