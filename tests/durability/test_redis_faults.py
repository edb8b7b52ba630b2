"""A redis that stands still, dies, comes back empty or with older data, under steps."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.conftest import SmallModel
from tests.durability.service import Service, on_redis, serving
from tests.durability.walks import Walk, all_stored, check_all, step_all, until, walking
from tests.server.store.redis_server import RedisServer
from tidegate import Client, ClientOptions, RetryPolicy, errors

QUICK = ("--store-timeout", "0.3")
DEGRADE = ("--on-store-failure", "degrade")


@asynccontextmanager
async def streaming(walks: list[Walk]) -> AsyncIterator[None]:
    """All sessions step while the block runs."""
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        for each in walks:
            tasks.create_task(each.go(stop, 0.01))
        yield
        stop.set()


async def more_steps(walks: list[Walk], more: int) -> None:
    """Wait until every session has so many steps more, which it streams."""
    wanted = [each.steps + more for each in walks]
    await until(lambda: all(w.steps >= n for w, n in zip(walks, wanted, strict=True)))


def test_steps_are_refused_while_redis_stands_still_and_go_on_by_themselves(
    small: SmallModel, redis: RedisServer
) -> None:
    async def play() -> None:
        async with walking(service.address, small.weights, 20) as walks:
            async with streaming(walks):
                await more_steps(walks, 10)
                redis.pause()
                await until(lambda: not service.running.metric("tidegate_store_up"))
                stands = [each.steps for each in walks]
                with pytest.raises(errors.StoreDown):
                    await _bare_step(service)
                await asyncio.sleep(0.5)
                assert [each.steps for each in walks] == stands
                redis.resume()
                await more_steps(walks, 10)
            assert await check_all(walks) == (0, 0)

    with serving(small.repository, *on_redis(redis.url), *QUICK) as service:
        asyncio.run(play())


def test_steps_go_on_while_redis_stands_still_where_they_may(
    small: SmallModel, redis: RedisServer
) -> None:
    async def play() -> None:
        async with walking(service.address, small.weights, 20) as walks:
            async with streaming(walks):
                await more_steps(walks, 10)
                redis.pause()
                await until(lambda: not service.running.metric("tidegate_store_up"))
                await more_steps(walks, 20)
                redis.resume()
                await more_steps(walks, 5)
            await all_stored(walks)
            assert await check_all(walks) == (0, 0)

    flags = (*on_redis(redis.url), *QUICK, *DEGRADE, "--lease-seconds", "60")
    with serving(small.repository, *flags) as service:
        asyncio.run(play())


def test_steps_of_a_server_whose_lease_ran_out_are_applied_again(
    small: SmallModel, redis: RedisServer
) -> None:
    """Redis stands still for longer than the lease. The server cannot know whether others have
    taken its sessions since: it lets go of them all, and takes each from its record again. What it
    applied after that record was written, the client applies again."""

    async def play() -> None:
        async with walking(service.address, small.weights, 20) as walks:
            async with streaming(walks):
                await more_steps(walks, 10)
                redis.pause()
                await asyncio.sleep(1.5)
                redis.resume()
                await until(lambda: "the lease had run out" in service.running.log())
                await more_steps(walks, 5)
            await all_stored(walks)
            assert await check_all(walks) == (0, 0)

    with serving(small.repository, *on_redis(redis.url), *QUICK, *DEGRADE) as service:
        asyncio.run(play())


@pytest.mark.parametrize("policy", ["refuse", "degrade"])
def test_a_redis_that_comes_back_empty_is_filled_again(
    small: SmallModel, redis: RedisServer, policy: str
) -> None:
    async def play() -> None:
        async with walking(service.address, small.weights, 20) as walks:
            async with streaming(walks):
                await more_steps(walks, 10)
                await asyncio.to_thread(redis.kill)
                await asyncio.sleep(0.3)
                await asyncio.to_thread(redis.start)
                await more_steps(walks, 10)
            await all_stored(walks)
            await asyncio.to_thread(service.kill)
            await asyncio.to_thread(service.start)
            async with streaming(walks):
                await more_steps(walks, 5)
            assert await check_all(walks) == (0, 0)

    flags = (*on_redis(redis.url), *QUICK, "--on-store-failure", policy)
    with serving(small.repository, *flags) as service:
        asyncio.run(play())


def test_after_a_failover_to_older_data_a_live_server_goes_on_and_writes_its_sessions_again(
    small: SmallModel, redis: RedisServer
) -> None:
    """What holds after a failover to a copy that lacks the last writes: the server that has the
    sessions goes on with what is in its memory, nothing is lost or doubled, and its next writes
    replace the older records.
    """

    async def play() -> None:
        async with walking(service.address, small.weights, 20) as walks:
            await step_all(walks, 10)
            await all_stored(walks)
            await _fail_over(redis, lambda: step_all(walks, 10))
            await step_all(walks, 10)
            await all_stored(walks)
            await asyncio.to_thread(service.kill)
            await asyncio.to_thread(service.start)
            await step_all(walks, 5)
            assert await check_all(walks) == (0, 0)

    with serving(small.repository, *on_redis(redis.url), *QUICK) as service:
        asyncio.run(play())


def test_a_failover_to_older_data_and_the_servers_death_at_once_is_told_as_steps_lost(
    small: SmallModel, redis: RedisServer
) -> None:
    """What does not hold: where redis falls back to older data and the server dies before it has
    written again, steps that were told to be durable are gone. The client has let go of their
    inputs, so it cannot apply them again. It says so: `StepsLost`, with the step to go on from.
    No step is applied that does not follow the one before. `redis_durability` replicated, with
    as many replicas as may take over, narrows this down to the failovers that ignore them.
    """

    async def play() -> None:
        async with walking(service.address, small.weights, 5) as walks:
            await step_all(walks, 10)
            await all_stored(walks)

            async def meanwhile() -> None:
                await step_all(walks, 10)
                await all_stored(walks)
                await step_all(walks, 1)  # whose reply tells that those before are stored
                await all_stored(walks)
                await asyncio.to_thread(service.kill)

            await _fail_over(redis, meanwhile)
            await asyncio.to_thread(service.start)
            for each in walks:
                with pytest.raises(errors.StepsLost) as caught:
                    await each.step()
                assert caught.value.expected_step == 10
                await each.session.open()
                assert each.session.steps == 10

    with serving(small.repository, *on_redis(redis.url), *QUICK) as service:
        asyncio.run(play())


async def _fail_over(redis: RedisServer, meanwhile: object) -> None:
    """Do something that the copy which takes over has not got."""
    assert callable(meanwhile)
    dump, copy = redis.folder / "dump.rdb", redis.folder / "older.rdb"
    await asyncio.to_thread(redis.client().save)
    shutil.copy(dump, copy)
    await meanwhile()
    await asyncio.to_thread(redis.kill)
    shutil.copy(copy, dump)
    await asyncio.to_thread(redis.start)


async def _bare_step(service: Service) -> None:
    """A step of a client that does not try again."""
    options = ClientOptions(timeout=20.0, retry=RetryPolicy(attempts=1))
    async with Client(service.address, options) as client:
        session = client.session("small", "walk-0", keep=True)
        await session.open()
        await session.step([0.0] * 5)
