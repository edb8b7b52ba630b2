"""A server that is cut off from redis while others are not, and while callers still reach it."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from tests.client.proxy import Proxy
from tests.conftest import SmallModel
from tests.durability.service import Service, free_port, on_redis, serving
from tests.durability.walks import PATIENT, told, until
from tests.server.store.redis_server import RedisServer
from tests.server.wire.wire import observations
from tidegate import Client, ClientOptions, RetryPolicy, Session, errors
from training.reference import NumpyNetwork

ONCE = ClientOptions(timeout=20.0, retry=RetryPolicy(attempts=1))
MOST = 100_000


async def step_on(session: Session, xs: np.ndarray, sent: list[float]) -> errors.TidegateError:
    """Step until it is refused; notes when each step that was answered was sent. Why it was."""
    loop = asyncio.get_running_loop()
    for x in xs[session.steps :]:
        now = loop.time()
        try:
            await session.step(x)
        except errors.TidegateError as error:
            return error
        sent.append(now)
        await asyncio.sleep(0.005)
    raise AssertionError("it was never refused")


def test_a_server_cut_off_from_redis_stops_to_step_before_another_begins(
    small: SmallModel,
) -> None:
    """With `degrade` it goes on without redis, but not for longer than its lease; the other, who
    waits for that lease, goes on from what redis has."""
    xs, port = observations(9, MOST), free_port()
    lstm = NumpyNetwork(small.weights)

    async def play(near: Service, far: Service, cut: Proxy) -> None:
        loop, sent = asyncio.get_running_loop(), list[float]()
        async with Client(near.address, ONCE) as here, Client(far.address, PATIENT) as there:
            stale = here.session("small", "fought-for", keep=True)
            fresh = there.session("small", "fought-for", keep=True)
            await stale.open()
            stepping = asyncio.create_task(step_on(stale, xs, sent))
            await until(lambda: stale.durable_step > 5)
            cut.partition()
            severed = loop.time()
            await fresh.open()
            begun = loop.time()
            stood = fresh.steps
            got = [await fresh.step(x) for x in xs[stood : stood + 5]]
            assert isinstance(await stepping, errors.StoreDown | errors.SessionMoved)
            assert any(severed < each for each in sent), "it went on for a while"
            assert all(each < begun for each in sent), "and not once the other had begun"
            assert 5 < stood <= len(sent)
            wanted, _ = lstm.run(xs[: stood + 5], lstm.initial())
            np.testing.assert_allclose(got, wanted[stood:], rtol=0, atol=1e-5)
            for look in (stale.open, stale.peek, stale.info):
                with pytest.raises(errors.StoreDown):  # what it remembers is not told either
                    await look()
            cut.mend()
            await until(lambda: "the lease had run out" in near.running.log())
            await told(stale.open)
            assert stale.steps == stood + 5

    redis = RedisServer("--port", str(port), "--bind", "127.0.0.1")
    flags = ("--on-store-failure", "degrade", "--store-timeout", "0.3", "--lease-seconds", "2")
    try:
        with Proxy(f"127.0.0.1:{port}") as cut:
            through = on_redis(f"redis://{cut.address}/0")
            with (
                serving(small.repository, *through, *flags) as near,
                serving(small.repository, *on_redis(redis.url), *flags) as far,
            ):
                asyncio.run(asyncio.wait_for(play(near, far, cut), 50))
    finally:
        redis.stop()
