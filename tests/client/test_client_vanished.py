"""A peer that has vanished without a word is found out by pings; nobody waits for it in vain."""

import asyncio
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest

from tests.client.bundles import MODEL
from tests.client.observations import assert_close, expected, observations
from tests.client.proxy import Proxy
from tests.harness import RunningServer, freeze, running_server, thaw
from tidegate import Client, ClientOptions, RetryPolicy, errors

PINGING = ClientOptions(
    timeout=60, retry=RetryPolicy(3, 0.05, 0.1), keepalive=0.3, keepalive_timeout=0.3
)


def test_callers_of_a_frozen_server_are_told_and_it_may_wake_up(repository: Path) -> None:
    async def play(server: RunningServer) -> None:
        xs = observations(3)
        async with (
            Client(server.address, PINGING) as client,
            client.session(MODEL, f"{uuid4()}") as session,
        ):
            outputs = [await session.step(xs[0])]
            freeze(server.process)
            try:
                with pytest.raises(errors.Unavailable):
                    await session.step(xs[1])
                with pytest.raises(errors.Unavailable):
                    await client.models()
            finally:
                thaw(server.process)
            outputs += [await session.step(xs[1]), await session.step(xs[2])]
            assert_close(np.array(outputs), expected(xs))
            assert (await session.info()).steps == 3

    with running_server(repository) as server:
        asyncio.run(play(server))


def test_steps_move_to_a_new_connection_when_theirs_goes_silent(serving: RunningServer) -> None:
    async def play() -> None:
        xs = observations(4)
        with Proxy(serving.address) as proxy:
            async with (
                Client(proxy.address, PINGING) as client,
                client.session(MODEL, f"{uuid4()}") as session,
            ):
                outputs = [await session.step(xs[0])]
                proxy.silence()
                outputs += await asyncio.gather(*(session.step(x) for x in xs[1:]))
                assert_close(np.array(outputs), expected(xs))
                assert (await session.info()).steps == 4

    asyncio.run(play())
