"""Replies that never arrive: no step is lost, none is applied twice, over a real lossy network."""

import asyncio
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
from grpc import aio

from tests.client.bundles import CHUNK, MODEL
from tests.client.observations import assert_close, expected, observations
from tests.client.proxy import Proxy
from tests.client.rough import play_roughly
from tests.harness import RunningServer
from tidegate import Client, ClientOptions, Session, SyncClient, errors
from tidegate._stream import stream
from tidegate._stream.stream import Stream
from tidegate.model import FloatArray


@pytest.fixture
def proxy(serving: RunningServer) -> Iterator[Proxy]:
    with Proxy(serving.address) as proxy:
        yield proxy


def name() -> str:
    return f"watch-{uuid4()}"


def test_a_connection_cut_before_the_reply_goes_unnoticed(
    serving: RunningServer, proxy: Proxy
) -> None:
    async def play() -> None:
        xs = observations(40)
        async with Client(proxy.address) as client, client.session(MODEL, name()) as session:
            outputs = []
            for at, x in enumerate(xs):
                proxy.cut_at_next_reply = at % 10 == 5
                outputs.append(await session.step(x))
            assert_close(np.array(outputs), expected(xs))
            assert (await session.info()).steps == len(xs)

    before = serving.metric("tidegate_replies_remembered_total")
    asyncio.run(play())
    assert serving.metric("tidegate_replies_remembered_total") - before >= 1


def test_a_connection_that_breaks_just_as_it_is_left_for_another_goes_unnoticed(
    serving: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    part, parted = Stream._part, []

    async def broken() -> None:
        raise aio.InternalError('Failed "execute_batch"')  # as gRPC has it, once in a while

    async def breaks(self: Stream, call: Any, reader: Any) -> None:
        parted.append(reader.done())
        call.done_writing = broken
        await part(self, call, reader)

    monkeypatch.setattr(Stream, "_part", breaks)

    async def play() -> None:
        xs = observations(20)
        options = ClientOptions(stream_age=0.01)
        async with (
            Client(serving.address, options) as client,
            client.session(MODEL, name()) as session,
        ):
            assert_close(np.array([await session.step(x) for x in xs]), expected(xs))

    asyncio.run(play())
    assert parted.count(False) > 1, "but for the last, which is closed"


def test_once_a_stream_has_told_why_it_ends_the_next_is_written_to_at_once(
    serving: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = Stream._read
    endings = [errors.MessageTooLarge("large"), errors.EndedUnread("no word of why")]

    async def ends(self: Stream, call: Any) -> errors.TidegateError:
        if not endings:
            return await read(self, call)
        self._wake.set()
        return endings.pop()

    monkeypatch.setattr(Stream, "_read", ends)
    monkeypatch.setattr(stream, "ASKING_SECONDS", 3_600.0)

    async def play() -> None:
        async with Client(serving.address) as client, client.session(MODEL, name()) as session:
            await asyncio.wait_for(session.step(observations(1)[0]), 20)

    asyncio.run(play())
    assert not endings


def test_the_synchronous_client_does_not_notice_either(proxy: Proxy) -> None:
    xs = observations(20)
    with SyncClient(proxy.address) as client, client.session(MODEL, name()) as session:
        outputs = []
        for at, x in enumerate(xs):
            proxy.cut_at_next_reply = at % 10 == 5
            outputs.append(session.step(x))
        assert_close(np.array(outputs), expected(xs))


async def lose(session: Session, proxy: Proxy, steps: FloatArray) -> None:
    """A call that reaches the server and whose reply never comes back."""
    number = session.steps
    proxy.holding.set()
    with pytest.raises(errors.DeadlineExceeded):
        await session.chunk(steps, timeout=0.3)
    proxy.cut()  # the connection is broken anyhow: bytes are missing from it
    proxy.holding.clear()
    assert session.steps == number


@pytest.mark.parametrize("length", [1, CHUNK])
def test_a_lost_call_made_again_is_not_applied_again(proxy: Proxy, length: int) -> None:
    async def play() -> None:
        xs = observations(2 + 2 * length)
        async with Client(proxy.address) as client, client.session(MODEL, name()) as session:
            outputs = [await session.chunk(xs[:2])]
            await lose(session, proxy, xs[2 : 2 + length])
            assert (await session.info()).steps == 2 + length
            outputs.append(await session.chunk(xs[2 : 2 + length]))
            outputs.append(await session.chunk(xs[2 + length :]))
            assert_close(np.concatenate(outputs), expected(xs))
            assert (await session.info()).steps == session.steps == len(xs)

    asyncio.run(play())


@pytest.mark.parametrize("length", [1, CHUNK])
def test_after_a_lost_call_another_observation_takes_its_place_in_the_count(
    proxy: Proxy, length: int
) -> None:
    async def play() -> None:
        xs = observations(length + 3)
        async with Client(proxy.address) as client, client.session(MODEL, name()) as session:
            await lose(session, proxy, xs[:length])
            outputs = np.array([await session.step(x) for x in xs[length:]])
            assert_close(outputs, expected(xs)[length:])
            assert (await session.info()).steps == session.steps == len(xs)

    asyncio.run(play())


def test_a_long_chunk_lost_halfway_is_made_again_from_where_it_was(proxy: Proxy) -> None:
    async def play() -> None:
        xs = observations(6 * CHUNK)
        async with Client(proxy.address) as client, client.session(MODEL, name()) as session:
            task = asyncio.create_task(session.chunk(xs))
            while session.steps < 2 * CHUNK:
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert 2 * CHUNK <= session.steps < len(xs)
            assert_close(await session.chunk(xs), expected(xs))
            assert (await session.info()).steps == session.steps == len(xs)

    asyncio.run(play())


def test_steps_given_up_midway_are_applied_once_or_never(serving: RunningServer) -> None:
    """Which steps are caught midway is up to the machine: play until some were applied."""

    async def play(seeds: range) -> list[tuple[int, int]]:
        async with Client(serving.address) as client:
            return await asyncio.gather(*(play_roughly(client, seed) for seed in seeds))

    failures = strays = 0
    for attempt in range(8):
        played = asyncio.run(play(range(24 * attempt, 24 * attempt + 24)))
        failures += sum(each[0] for each in played)
        strays += sum(each[1] for each in played)
        if failures > 100 and strays > 0:
            return
    raise AssertionError(f"{failures} given up, {strays} of them applied: the test shows nothing")
