"""Callers who give up at the worst moment, and replies that never arrive."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc import aio

from tests.client.proxy import Proxy
from tests.conftest import SmallModel
from tests.durability.service import Service, on_redis, on_sqlite, serving
from tests.durability.walks import Walk, all_stored, check_all, step_all, until, walking
from tests.server.store.redis_server import RedisServer
from tests.server.wire.wire import observations
from tidegate.v1 import tidegate_pb2 as pb
from tidegate.v1 import tidegate_pb2_grpc

SLOTS = 4


def step_request(session_id: str, first: int | None, x: np.ndarray) -> pb.StepRequest:
    """One step of a live session, numbered or not."""
    return pb.StepRequest(
        model="small", session_id=session_id, first_step=first, steps=1, features=x.tolist()
    )


async def every_slot_works(service: Service, small: SmallModel, name: str) -> None:
    """All slots can be used, by more sessions than there are, and nothing waits in the queue."""
    async with walking(service.address, small.weights, 3 * SLOTS, name) as walks:
        await step_all(walks, 5)
        assert await check_all(walks) == (0, 0)
    await until(lambda: not service.running.metric("tidegate_queue_steps"))
    assert service.running.metric("tidegate_sessions_resident") <= SLOTS


@pytest.mark.parametrize("store", ["sqlite", "redis"])
def test_steps_cancelled_as_their_sessions_expire_leave_nothing_behind(
    small: SmallModel, store: str, tmp_path: Path, redis: RedisServer
) -> None:
    where = on_sqlite(tmp_path) if store == "sqlite" else on_redis(redis.url)
    chance, x = random.Random(2), observations(1, 1)[0]

    async def live_and_die(stub: tidegate_pb2_grpc.TidegateAsyncStub, name: str) -> None:
        for _ in range(4):
            await stub.Open(pb.OpenRequest(model="small", session_id=name))
            with suppress(aio.AioRpcError):  # on a slow machine it has expired by now
                await stub.Step(step_request(name, None, x))
            await asyncio.sleep(chance.uniform(0.38, 0.56))
            step = stub.Step(step_request(name, None, x))
            await asyncio.sleep(chance.uniform(0, 0.003))
            step.cancel()

    async def play() -> None:
        async with aio.insecure_channel(service.address) as channel:
            stub: tidegate_pb2_grpc.TidegateAsyncStub = tidegate_pb2_grpc.TidegateStub(channel)
            await asyncio.gather(*(live_and_die(stub, f"brief-{k}") for k in range(40)))
        await until(lambda: not service.running.metric("tidegate_sessions_live"))
        await every_slot_works(service, small, "after")

    flags = (*where, "--session-ttl", "0.4", "--max-resident", str(SLOTS))
    with serving(small.repository, *flags) as service:
        asyncio.run(asyncio.wait_for(play(), 60))


@pytest.mark.parametrize("policy", ["refuse", "degrade"])
def test_a_session_whose_caller_gives_up_while_it_is_fetched_is_fine_afterwards(
    small: SmallModel, redis: RedisServer, policy: str
) -> None:
    async def give_up(walk: Walk, at: int) -> None:
        """Half of them with the client library, half by a call that is cancelled."""
        if at % 2:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(walk.step(), 0.2)
            return
        async with aio.insecure_channel(service.address) as channel:
            stub = tidegate_pb2_grpc.TidegateStub(channel)
            request = step_request(walk.session.session_id, walk.steps, walk.peek_next())
            with pytest.raises(grpc.RpcError):
                await stub.Step(request, timeout=0.2)

    async def play() -> None:
        async with walking(service.address, small.weights, 3 * SLOTS) as walks:
            await step_all(walks, 5)
            await all_stored(walks)
            for _ in range(3):
                await step_all(walks[SLOTS:], 1)  # the first ones are in the store alone
                await all_stored(walks)
                redis.pause()
                await asyncio.gather(*(give_up(each, at) for at, each in enumerate(walks[:SLOTS])))
                redis.resume()
                await step_all(walks, 2)
            assert await check_all(walks) == (0, 0)
        await every_slot_works(service, small, "after")

    flags = (*on_redis(redis.url), "--max-resident", str(SLOTS), "--lease-seconds", "60")
    with serving(small.repository, *flags, "--on-store-failure", policy) as service:
        asyncio.run(asyncio.wait_for(play(), 60))


@pytest.mark.parametrize("durability", ["write-behind", "sync"])
def test_steps_whose_replies_are_lost_on_the_way_are_not_applied_twice(
    small: SmallModel, tmp_path: Path, durability: str
) -> None:
    async def play() -> None:
        stop = asyncio.Event()
        with Proxy(service.address) as proxy:
            async with walking(proxy.address, small.weights, 50) as walks:
                async with asyncio.TaskGroup() as tasks:
                    for each in walks:
                        tasks.create_task(each.go(stop, 0.0))
                    for at in range(20):
                        await asyncio.sleep(0.1)
                        if at % 2:
                            proxy.cut_at_next_reply = True
                            continue
                        proxy.holding.set()
                        await asyncio.sleep(0.1)
                        proxy.cut()
                        proxy.holding.clear()
                    stop.set()
                assert await check_all(walks) == (0, 0)
                assert min(each.steps for each in walks) > 0
        assert service.running.metric("tidegate_steps_total") == sum(e.steps for e in walks)

    flags = (*on_sqlite(tmp_path), "--durability", durability)
    with serving(small.repository, *flags) as service:
        asyncio.run(asyncio.wait_for(play(), 60))
