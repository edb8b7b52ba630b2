"""The replicated profile, without Kubernetes: its redis, its servers, and a rolling upgrade."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from server.transport.rpcs.liveness import LIVE
from tests.client.proxy import Proxy
from tests.conftest import SmallModel
from tests.deploy.example_redis import PASSWORD, Locked, example_redis
from tests.durability.walks import Walk, step_all
from tests.harness import RunningServer, running_server
from tidegate import Client

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture
def redis() -> Iterator[Locked]:
    with example_redis() as started:
        yield started


class Service(Proxy):
    """Stands for a Service of Kubernetes': where new connections go may change, open ones stay."""

    def lead_to(self, server: RunningServer) -> None:
        host, _, port = server.address.rpartition(":")
        self._target = (host, int(port))


def test_callers_with_default_options_see_nothing_of_a_rolling_upgrade(
    redis: Locked, small: SmallModel
) -> None:
    """The old server's address goes, as preStop waits for; then it gets SIGTERM."""

    async def play(old: RunningServer, new: RunningServer, service: Service) -> None:
        async with Client(service.address) as client:
            sessions = [client.session("small", f"rolled-{k}", keep=True) for k in range(20)]
            await asyncio.gather(*(each.open() for each in sessions))
            walks = [Walk(each, small.weights, seed) for seed, each in enumerate(sessions)]
            await step_all(walks, 5)
            service.lead_to(new)
            await step_all(walks, 5)
            assert not new.metric("tidegate_steps_total")  # connections stay where they are
            going, stop = asyncio.to_thread(old.terminate), asyncio.Event()
            async with asyncio.TaskGroup() as tasks:
                for each in walks:
                    tasks.create_task(each.go(stop, 0.01))
                assert await going == 0
                at = [each.steps for each in walks]
                while any(each.steps < one + 5 for each, one in zip(walks, at, strict=True)):
                    await asyncio.sleep(0.02)
                stop.set()
            assert {await each.check_all() for each in walks} == {0}
        assert new.metric("tidegate_sessions_taken_up_total") == len(walks)

    with (
        running_server(small.repository, **redis.flags) as old,
        running_server(small.repository, **redis.flags) as new,
        Service(old.address) as service,
    ):
        asyncio.run(asyncio.wait_for(play(old, new, service), 60))


def test_sessions_outlive_the_server_and_redis_whose_absence_ends_no_server(
    redis: Locked, small: SmallModel
) -> None:
    with running_server(small.repository, **redis.flags) as server:
        assert stepped(server, 3) == 3
        assert server.terminate() == 0
        assert "noeviction" not in server.log()  # of another policy it warns
    redis.kill()
    redis.start()
    with running_server(small.repository, **redis.flags) as server:
        assert stepped(server, 1) == 4
        redis.kill()
        until(lambda: check(server, "tidegate.store") == NOT_SERVING)
        assert check(server, "") == check(server, LIVE) == SERVING
        redis.start()
        until(lambda: check(server, "tidegate.store") == SERVING)
        assert PASSWORD not in server.log()


def stepped(server: RunningServer, steps: int) -> int:
    """Step one session that many times; returns its steps in all."""

    async def play() -> int:
        async with (
            Client(server.address) as client,
            client.session("small", "kept", keep=True) as session,
        ):
            for _ in range(steps):
                await session.step(np.zeros(5, np.float32))
            return session.steps

    return asyncio.run(play())


def check(server: RunningServer, service: str) -> int:
    with grpc.insecure_channel(server.address) as channel:
        request = health_pb2.HealthCheckRequest(service=service)
        return int(health_pb2_grpc.HealthStub(channel).Check(request, timeout=20).status)


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)
