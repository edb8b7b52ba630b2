"""A real Envoy before servers on one redis that are killed, drained and added, under load."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tritonclient import grpc as triton

from tests.cluster.envoy import Envoy
from tests.conftest import SmallModel
from tests.durability.service import Service, on_redis
from tests.durability.walks import PATIENT, Walk, check_all, step_all, until, walking
from tests.server.oip.triton import expected, play
from tests.server.store.redis_server import RedisServer
from tests.server.wire.wire import observations
from tidegate import Client, ClientOptions, shard_of

SHARDED = replace(PATIENT, shards=64)
PAUSE = 0.02


class Cluster:
    """Servers on one redis, and an Envoy before them."""

    def __init__(self, small: SmallModel, redis: RedisServer, stack: ExitStack) -> None:
        self._repository, self._flags, self._stack = small.repository, on_redis(redis.url), stack
        self.services: list[Service] = []
        self.add(2)
        self.envoy = Envoy(self.addresses)
        stack.callback(self.envoy.stop)
        self.envoy.await_healthy(self.addresses)

    @property
    def addresses(self) -> list[str]:
        return [each.address for each in self.services]

    def add(self, count: int = 1) -> None:
        """Start more servers, side by side."""
        more = [Service(self._repository, *self._flags) for _ in range(count)]
        for each in more:
            each.begin()
            self._stack.callback(each.kill)
        for each in more:
            each.await_ready()
        self.services += more

    def metrics(self, name: str) -> list[float]:
        """A metric of each server."""
        return [each.running.metric(name) for each in self.services]


async def more_steps(walks: Sequence[Walk], more: int) -> None:
    """Wait until every session has so many steps more, which it streams."""
    wanted = [each.steps + more for each in walks]
    await until(lambda: all(w.steps >= n for w, n in zip(walks, wanted, strict=True)))


@pytest.fixture(scope="module")
def those(small: SmallModel, redis: RedisServer) -> Iterator[Cluster]:
    """Two servers behind Envoy."""
    with ExitStack() as stack:
        yield Cluster(small, redis, stack)


def test_all_calls_for_a_session_go_to_the_server_of_its_stream(
    those: Cluster, small: SmallModel
) -> None:
    """So nothing moves while nothing changes, although each call is routed by itself."""

    async def play() -> None:
        async with walking(those.envoy.address, small.weights, 40, "calm", SHARDED) as walks:
            await step_all(walks, 3)
            for each in walks:
                await each.session.peek()
                await each.session.info()
            await step_all(walks, 3)
            assert await check_all(walks) == (0, 0)
            live = those.metrics("tidegate_sessions_live")
            assert sum(live) == len(walks) and min(live) >= 5
            for each in walks:
                assert await each.session.close() == 6
        assert those.metrics("tidegate_sessions_moved_total") == [0, 0]
        assert those.metrics("tidegate_sessions_live") == [0, 0]

    asyncio.run(asyncio.wait_for(play(), 60))


def test_a_fork_into_another_shard_goes_on_wherever_that_is_routed(
    those: Cluster, small: SmallModel
) -> None:
    xs = observations(8, 6)

    async def play() -> None:
        async with (
            Client(those.envoy.address, SHARDED) as client,
            client.session("small", "trunk") as trunk,
        ):
            await trunk.chunk(xs[:3])
            wanted = await trunk.forecast(3, xs[3:])
            names = [f"branch-{k}" for k in range(12)]
            assert len({shard_of(each, 64) for each in names}) > 8
            for name in names:
                async with await trunk.fork(name) as branch:
                    np.testing.assert_allclose(await branch.chunk(xs[3:]), wanted, atol=1e-5)
            assert trunk.steps == 3
            np.testing.assert_allclose(await trunk.chunk(xs[3:]), wanted, atol=1e-5)

    asyncio.run(asyncio.wait_for(play(), 60))


def test_callers_who_tell_no_shard_stay_with_one_server(those: Cluster) -> None:
    async def play() -> None:
        async with Client(those.envoy.address, ClientOptions()) as client:
            for k in range(10):
                async with client.session("small", f"plain-{k}", keep=True) as session:
                    await session.chunk(observations(k, 2))
                    await session.peek()
            live = those.metrics("tidegate_sessions_live")
            assert sorted(live) == [0, 10]
            for k in range(10):
                await client.close_session("small", f"plain-{k}")

    asyncio.run(asyncio.wait_for(play(), 60))


def test_tritons_client_says_a_sequences_shard_in_a_header(
    those: Cluster, small: SmallModel
) -> None:
    """As docs/oip.md has it. Each call is routed by itself, and every one to the same server."""
    xs = observations(10, 5)

    class Told:
        """Triton's client, which adds the header."""

        def infer(self, model: str, inputs: Any, sequence_id: Any, **more: Any) -> Any:
            shard = zlib.crc32(str(sequence_id).encode()) % 64
            return connection.infer(
                model,
                inputs,
                sequence_id=sequence_id,
                headers={"tidegate-shard": str(shard)},
                **more,
            )

    stepped = those.metrics("tidegate_steps_total")
    with triton.InferenceServerClient(those.envoy.address) as connection:
        for sequence in [*range(1, 9), *(f"call-{k}" for k in range(8))]:
            got = play(Told(), xs, sequence)
            np.testing.assert_allclose(got, expected(small.weights, xs), rtol=0, atol=1e-5)
    more = np.subtract(those.metrics("tidegate_steps_total"), stepped)
    assert sum(more) == 16 * len(xs) and min(more) > 0


def test_no_step_is_lost_or_doubled_while_servers_are_killed_drained_and_added(
    those: Cluster, small: SmallModel
) -> None:
    """The last, for it leaves one server of three."""

    async def play() -> None:
        one, other = those.services
        options = replace(SHARDED, stream_age=0.5)
        async with walking(those.envoy.address, small.weights, 60, "all", options) as walks:
            stop = asyncio.Event()
            async with asyncio.TaskGroup() as tasks:
                for each in walks:
                    tasks.create_task(each.go(stop, PAUSE))
                await more_steps(walks, 5)
                await asyncio.to_thread(one.kill)
                await more_steps(walks, 5)
                await asyncio.to_thread(those.add)
                added = those.services.pop()
                those.envoy.route_to([other.address, added.address])
                await until(lambda: added.running.metric("tidegate_sessions_live") >= 10)
                await more_steps(walks, 5)
                assert await asyncio.to_thread(other.running.terminate) == 0
                await more_steps(walks, 5)
                stop.set()
            assert await check_all(walks) == (0, 0)
            assert added.running.metric("tidegate_sessions_live") == len(walks)

    asyncio.run(asyncio.wait_for(play(), 60))
