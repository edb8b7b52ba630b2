"""A session that one server has let go for another, and what may befall it before that has it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from server.store.interface import Claim, Hold
from server.store.redis import RedisStore
from tests.conftest import SmallModel
from tests.durability.service import Service, on_redis, serving
from tests.durability.walks import PATIENT, check_all, step_all, until, walking
from tests.server.store.redis_server import RedisServer
from tests.server.wire.wire import observations
from tidegate import Client, errors

Play = Callable[[Service, RedisStore], Coroutine[Any, Any, None]]
KEY = "tidegate:{{small/1/{}}}"


def play_beside(small: SmallModel, redis: RedisServer, play: Play, *flags: str) -> None:
    """Play with a server, and as another one over its redis."""
    with serving(small.repository, *on_redis(redis.url), *flags) as service:
        other = redis.store()
        asyncio.run(asyncio.wait_for(play(service, other), 50))
        other.close()


async def let_go(redis: RedisServer, store: RedisStore, names: list[str]) -> None:
    """Ask whoever has the sessions for them as another server would, and do not take them."""
    claims = [Claim(name, None) for name in names]
    held = await asyncio.to_thread(store.table("small", 1).claim, claims)
    assert [each.hold for each in held] == [Hold.ELSEWHERE] * len(names)
    client = redis.client()
    await until(lambda: all(client.hget(KEY.format(name), "owner") == b"" for name in names))


def test_what_was_let_go_outlives_a_redis_that_comes_back_empty_before_anybody_took_it(
    small: SmallModel, redis: RedisServer
) -> None:
    async def play(service: Service, other: RedisStore) -> None:
        async with walking(service.address, small.weights, 5) as walks:
            await step_all(walks, 3)
            await let_go(redis, other, [f"walk-{k}" for k in range(5)])
            await asyncio.to_thread(redis.kill)
            await asyncio.to_thread(redis.start)
            await step_all(walks, 3)
            assert await check_all(walks) == (0, 0)

    play_beside(small, redis, play, "--lease-seconds", "10", "--store-timeout", "0.3")


def test_a_late_request_for_what_was_let_go_does_not_take_it_back(
    small: SmallModel, redis: RedisServer
) -> None:
    async def play(service: Service, other: RedisStore) -> None:
        async with walking(service.address, small.weights, 2) as walks:
            await step_all(walks, 3)
            client, key = redis.client(), KEY.format("walk-0")
            owner, epoch = client.hmget(key, "owner", "epoch")
            await let_go(redis, other, ["walk-0"])
            asked = f"tidegate:asked:{owner.decode()}"
            client.rpush(asked, json.dumps(["small", 1, "walk-0"]))
            await let_go(redis, other, ["walk-1"])  # behind the one above, in the same hands
            assert client.hmget(key, "owner", "epoch") == [b"", epoch]

    play_beside(small, redis, play, "--lease-seconds", "60")


def test_whoever_steps_what_was_closed_at_another_server_learns_that_it_is_no_more(
    small: SmallModel, redis: RedisServer
) -> None:
    xs = observations(8, 2)

    async def play(one: Service, other: Service) -> None:
        async with Client(one.address, PATIENT) as first, Client(other.address, PATIENT) as second:
            here, there = (each.session("small", "shared", keep=True) for each in (first, second))
            await here.open()
            await here.step(xs[0])
            await there.open()
            await there.close()
            with pytest.raises(errors.UnknownSession, match="in the store no more"):
                await here.step(xs[1])

    where: tuple[Any, ...] = on_redis(redis.url)
    with serving(small.repository, *where) as one, serving(small.repository, *where) as other:
        asyncio.run(asyncio.wait_for(play(one, other), 50))
