"""The redis of deploy/kubernetes, without Kubernetes, and the settings of servers that use it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import redis

from tests.deploy.manifests import of_kind, render, servers, settings
from tests.server.store.redis_server import RedisServer

PASSWORD = "a-password"
COMMAND = ["redis-server", "/etc/redis/redis.conf", "--requirepass", "$(REDISCLI_AUTH)"]


class Locked(RedisServer):
    """Asks for the password."""

    def client(self) -> redis.Redis:
        """A client of the test's own."""
        return redis.Redis.from_url(self.url, password=PASSWORD, socket_timeout=10)

    @property
    def flags(self) -> dict[str, str]:
        """The settings of the replicated example's servers, but for TLS, over this redis."""
        shared = render("examples/replicated")
        given = settings(shared, servers(shared)[0])
        assert given["TIDEGATE_REDIS_URL"] and given["TIDEGATE_STORE"] == "redis"
        flags = {
            key.removeprefix("TIDEGATE_").lower(): value
            for key, value in given.items()
            if not key.startswith("TIDEGATE_TLS_")
        }
        return flags | {"redis_url": f"unix://:{PASSWORD}@{self.socket}?db=0"}


@contextmanager
def example_redis() -> Iterator[Locked]:
    """As its container is started, but in a folder and on a socket of its own."""
    resources = render("profiles/redis")
    (stateful,) = of_kind(resources, "StatefulSet")
    assert stateful["spec"]["template"]["spec"]["containers"][0]["command"] == COMMAND
    (kept,) = of_kind(resources, "ConfigMap")
    lines = [
        line.split(" ", 1)
        for line in kept["data"]["redis.conf"].splitlines()
        if line and not line.startswith(("#", "dir ", "port "))
    ]
    flags = [word for key, value in lines for word in (f"--{key}", value.strip('"'))]
    started = Locked(*flags, "--requirepass", PASSWORD)
    yield started
    started.stop()
