"""The redis of the example keeps sessions of a server with the replicated profile's settings."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator

import grpc
import numpy as np
import pytest
import redis
from grpc_health.v1 import health_pb2, health_pb2_grpc

from server.transport.rpcs.liveness import LIVE
from tests.conftest import SmallModel
from tests.deploy.manifests import FOLDER, of_kind, render, servers, settings
from tests.harness import RunningServer, running_server
from tests.server.store.redis_server import RedisServer
from tidegate import Client

PASSWORD = "a-password"
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Locked(RedisServer):
    """Asks for the password."""

    def client(self) -> redis.Redis:
        return redis.Redis.from_url(self.url, password=PASSWORD, socket_timeout=10)


@pytest.fixture
def example() -> Iterator[Locked]:
    """A redis-server as the example has it, on a socket of its own."""
    resources = render("profiles/redis")
    (command,) = [each["spec"]["template"]["spec"]["containers"][0]["command"]
                  for each in of_kind(resources, "StatefulSet")]  # fmt: skip
    assert command == [
        "redis-server", "/etc/redis/redis.conf", "--requirepass", "$(REDISCLI_AUTH)"
    ]  # fmt: skip
    (kept,) = of_kind(resources, "ConfigMap")
    assert kept["data"]["redis.conf"] == (FOLDER / "profiles/redis/redis.conf").read_text()
    lines = [line.split(" ", 1) for line in kept["data"]["redis.conf"].splitlines()
             if line and not line.startswith(("#", "dir ", "port "))]  # fmt: skip
    flags = [word for key, value in lines for word in (f"--{key}", value.strip('"'))]
    started = Locked(*flags, "--requirepass", PASSWORD)
    yield started
    started.stop()


def test_sessions_outlive_the_server_and_redis_whose_absence_ends_no_server(
    example: Locked, small: SmallModel
) -> None:
    shared = render("examples/replicated")
    given = settings(shared, servers(shared)[0])
    assert given["TIDEGATE_REDIS_URL"] and given["TIDEGATE_STORE"] == "redis"
    flags = {key.removeprefix("TIDEGATE_").lower(): value for key, value in given.items()
             if not key.startswith("TIDEGATE_TLS_")}  # fmt: skip
    flags["redis_url"] = f"unix://:{PASSWORD}@{example.socket}?db=0"
    with running_server(small.repository, **flags) as server:
        assert stepped(server, 3) == 3
        assert server.terminate() == 0
        assert "noeviction" not in server.log()  # of another policy it warns
    until(lambda: not example.client().info("persistence")["aof_pending_bio_fsync"])
    example.kill()
    example.start()
    with running_server(small.repository, **flags) as server:
        assert stepped(server, 1) == 4
        example.kill()
        until(lambda: check(server, "tidegate.store") == NOT_SERVING)
        assert check(server, "") == check(server, LIVE) == SERVING
        example.start()
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
