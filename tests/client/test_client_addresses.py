"""A client with several servers' addresses goes on to the next where one dies or drains."""

import asyncio

import grpc
import numpy as np
import pytest

from tests.client.durable import DurableServer
from tests.client.fake import NAME, detail
from tests.client.test_client_crashes import PATIENT, draws, model
from tests.client.test_client_faults import opened
from tidegate import Client, errors
from tidegate.v1 import tidegate_pb2 as pb


def both(first: DurableServer, second: DurableServer) -> str:
    return f"ipv4:{first.address},{second.address}"


def test_where_the_first_server_dies_the_second_goes_on_with_the_session() -> None:
    async def play() -> None:
        xs = draws(20)
        async with (
            asyncio.timeout(60),
            DurableServer() as first,  # type: ignore[abstract]
            DurableServer() as second,  # type: ignore[abstract]
            Client(both(first, second), PATIENT) as client,
        ):
            session = await opened(client)
            answers = [await session.step(x) for x in xs[:10]]
            assert not second.batches
            second.lives = first.lives  # their common store, a few steps behind
            second.crash()
            await first.__aexit__()
            answers += [await session.step(x) for x in xs[10:]]
            np.testing.assert_array_equal(answers, model(xs))
            assert second.lives["a"].inputs == [x.tobytes() for x in xs]

    asyncio.run(play())


def test_where_the_first_server_drains_and_goes_the_second_takes_the_calls() -> None:
    async def play() -> None:
        xs = draws(2)
        async with (
            asyncio.timeout(60),
            DurableServer() as first,  # type: ignore[abstract]
            DurableServer() as second,  # type: ignore[abstract]
            Client(both(first, second), PATIENT) as client,
        ):
            session = await opened(client)
            await session.step(xs[0])
            second.lives = first.lives
            draining = detail(pb.REASON_DRAINING)
            first.refusals = [(grpc.StatusCode.UNAVAILABLE, draining)] * 2
            first.faults = {1: "before"}
            step = asyncio.ensure_future(session.step(xs[1]))
            while first.refusals:
                await asyncio.sleep(0)
            await first.__aexit__()
            np.testing.assert_array_equal(await step, model(xs)[1])
            assert (await client.get_session(NAME, "a")).steps == 2

    asyncio.run(play())


def test_where_no_server_is_left_the_caller_is_told() -> None:
    async def play() -> None:
        async with (
            asyncio.timeout(60),
            DurableServer() as first,  # type: ignore[abstract]
            DurableServer() as second,  # type: ignore[abstract]
            Client(both(first, second), PATIENT) as client,
        ):
            session = await opened(client)
            await first.__aexit__()
            await second.__aexit__()
            with pytest.raises(errors.Unavailable):
                await session.step(draws(1)[0])

    asyncio.run(play())
