"""Two servers on one redis, and callers who come through both of them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from tests.conftest import SmallModel
from tests.durability.service import Service, on_redis, serving
from tests.durability.walks import PATIENT, Floats, told, until_stored
from tests.server.store.redis_server import RedisServer
from tests.server.wire.wire import observations
from tidegate import Client, ClientOptions, RetryPolicy, Session, errors
from training.reference import NumpyNetwork

LONG = ("--lease-seconds", "60")
"""So long that nothing here waits for it to run out."""


@contextmanager
def two(small: SmallModel, redis: RedisServer, *flags: str) -> Iterator[tuple[Service, Service]]:
    """Two servers over one redis."""
    where = (*on_redis(redis.url), *flags)
    with serving(small.repository, *where) as one, serving(small.repository, *where) as other:
        yield one, other


def expected(small: SmallModel, xs: Floats) -> Floats:
    """What the equations answer."""
    lstm = NumpyNetwork(small.weights)
    return lstm.run(xs, lstm.initial())[0].astype(np.float32)


def session_of(client: Client) -> Session:
    """The session that all fight for."""
    return client.session("small", "fought-for", keep=True)


def test_a_session_goes_to_and_fro_with_every_step_and_no_lease_runs_out(
    small: SmallModel, redis: RedisServer
) -> None:
    xs = observations(3, 40)

    async def play() -> None:
        async with Client(one.address, PATIENT) as first, Client(other.address, PATIENT) as second:
            callers, got = [session_of(first), session_of(second)], []
            for at, x in enumerate(xs):
                caller = callers[at % 2]
                await caller.open()
                assert caller.steps == at
                got.append(await caller.step(x))
            np.testing.assert_allclose(got, expected(small, xs), rtol=0, atol=1e-5)

    with two(small, redis, *LONG) as (one, other):
        asyncio.run(asyncio.wait_for(play(), 50))


def test_two_callers_who_step_at_once_through_both_servers_apply_each_step_once(
    small: SmallModel, redis: RedisServer
) -> None:
    """Each looks where the session stands, and gives its next observation. Whoever comes second
    hears of another number, or is answered the same, for it gave the same."""
    xs = observations(4, 60)
    wanted = expected(small, xs)

    async def walk(client: Client) -> None:
        session = session_of(client)
        while True:
            await session.open()
            if (at := session.steps) >= len(xs):
                return
            try:
                answer = await session.step(xs[at])
            except errors.WrongStep:
                continue
            np.testing.assert_allclose(answer, wanted[at], rtol=0, atol=1e-5)

    async def play() -> None:
        async with Client(one.address, PATIENT) as first, Client(other.address, PATIENT) as second:
            await asyncio.gather(walk(first), walk(second))
            session = session_of(first)
            await session.open()
            assert session.steps == len(xs)
            (_, state) = _run(small, xs)
            np.testing.assert_allclose((await session.peek())["h1"], state, rtol=0, atol=1e-5)

    with two(small, redis, *LONG) as (one, other):
        asyncio.run(asyncio.wait_for(play(), 100))


@pytest.mark.parametrize("policy", ["refuse", "degrade"])
def test_a_server_that_stood_still_past_its_lease_uses_nothing_of_what_it_remembers(
    small: SmallModel, redis: RedisServer, policy: str
) -> None:
    """A step waits in the connection of the server that stands still, and is the first thing it
    sees. With `degrade` it may be applied to what the server remembers, and answered, before the
    server finds its lease run out; such a step is never stored, and never told to be."""
    xs, late = observations(5, 12), observations(6, 1)[0]

    async def play() -> None:
        once = ClientOptions(timeout=60.0, retry=RetryPolicy(attempts=1))
        async with Client(one.address, once) as first, Client(other.address, PATIENT) as second:
            stale, fresh = session_of(first), session_of(second)
            await stale.open()
            for x in xs[:5]:
                await stale.step(x)
            await until_stored(stale)
            one.pause()
            step = asyncio.create_task(stale.step(late))
            await fresh.open()
            assert fresh.steps == 5
            got = [await fresh.step(x) for x in xs[5:10]]
            one.resume()
            refused = await _refused(step)
            assert refused or policy == "degrade"
            got += [await fresh.step(x) for x in xs[10:]]
            np.testing.assert_allclose(got, expected(small, xs)[5:], rtol=0, atol=1e-5)
            await told(stale.open)
            assert stale.steps == len(xs)
            (_, state) = _run(small, xs)
            np.testing.assert_allclose((await stale.peek())["h1"], state, rtol=0, atol=1e-5)

    with two(small, redis, "--on-store-failure", policy) as (one, other):
        asyncio.run(asyncio.wait_for(play(), 100))


async def _refused(step: asyncio.Task[Floats]) -> bool:
    """Whether the step was refused as it must be where the session is elsewhere."""
    try:
        await step
    except (errors.SessionMoved, errors.StoreDown, errors.WrongStep):
        return True
    return False


def _run(small: SmallModel, xs: Floats) -> tuple[Floats, Floats]:
    """The answers, and the last layer's hidden state after them."""
    lstm = NumpyNetwork(small.weights)
    answers, state = lstm.run(xs, lstm.initial())
    return answers.astype(np.float32), state[-1][0].astype(np.float32)
