"""The connection to redis: set up and checked once, its errors and its durability told."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final, Literal

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from server.store import scripts
from server.store.interface import StoreUnreachable, StoreUnusable

log = logging.getLogger(__name__)

CHUNK: Final = 512
"""Sessions in one script, which keeps redis from others that long: a few milliseconds."""
SLICE: Final = 1.0
"""Seconds that one request may wait within redis."""
SPARE: Final = 3600.0
"""Seconds that a record stays beyond the time to live, and that a tombstone stays at all."""
OLDEST, WAITS_FOR_DISK = (6, 2), (7, 2)

Durability = Literal["memory", "fsync", "replicated"]


@dataclass(frozen=True)
class RedisSettings:
    """How redis is used; times in seconds. The `url` holds the password, and is never logged."""

    url: str
    durability: Durability
    replicas: int
    timeout: float
    lease: float
    time_to_live: float


class Link:
    """Clients of one redis, for any thread.

    Raises:
        StoreUnreachable: nothing answers.
        StoreUnusable: it refuses the password, is too old, or cannot be as durable as asked.
    """

    def __init__(self, settings: RedisSettings) -> None:
        self.settings: Final = settings
        self.client: Final = _connect(settings, settings.timeout)
        self.waiting: Final = _connect(settings, settings.timeout + SLICE)
        self.place: Final = _place(self.client)
        self._scripts: dict[str, Any] = {}
        self._confirm: tuple[Any, ...] = ()
        try:
            self._begin()
        except (StoreUnreachable, StoreUnusable):
            self.close()
            raise

    @contextmanager
    def answering(self) -> Iterator[None]:
        """Turns redis's errors into `StoreUnreachable`."""
        try:
            yield
        except redis.RedisError as error:
            raise StoreUnreachable(f"redis at {self.place}: {error}") from error

    def send(self, *commands: tuple[Any, ...]) -> list[Any]:
        """The answers to commands sent together, in one round trip."""
        with self.answering():
            pipe = self.client.pipeline(transaction=False)
            for command in commands:
                pipe.execute_command(*command)
            answers: list[Any] = pipe.execute()
        return answers

    def run(
        self,
        script: str,
        keys: Sequence[str],
        arguments: Sequence[Any],
        shared: Sequence[Any] = (),
    ) -> list[Any]:
        """Run a script over sessions, chunk by chunk, and wait until the changes are durable. What
        they share goes before their own arguments."""
        width, answers = len(arguments) // max(len(keys), 1), list[Any]()
        for at in range(0, len(keys), CHUNK):
            here, there = keys[at : at + CHUNK], arguments[at * width : (at + CHUNK) * width]
            with self.answering():
                pipe = self.client.pipeline(transaction=False)
                self._scripts[script](keys=here, args=[*shared, *there], client=pipe)
                if self._confirm:
                    pipe.execute_command(*self._confirm)
                answer, *confirmed = pipe.execute()
            self._check_confirmed(confirmed)
            answers += answer
        return answers

    def stays(self, used_at: float) -> int:
        """Milliseconds until a record is to vanish by itself. Not a time of day: redis's clock need
        not agree with this one."""
        return max(1, self.left(used_at))

    def left(self, used_at: float) -> int:
        """Likewise, below 0 for one that should have vanished."""
        return int((used_at - time.time() + self.settings.time_to_live + SPARE) * 1000)

    def close(self) -> None:
        """Close what is open."""
        for client in (self.client, self.waiting):
            with suppress(redis.RedisError):
                client.close()

    def _begin(self) -> None:
        try:
            info = self.client.info()
            self._check_version(info)
            self._confirm = self._confirmation(info)
        except (redis.AuthenticationError, redis.ResponseError) as error:
            raise StoreUnusable(f"redis at {self.place} refuses this server: {error}") from error
        except redis.RedisError as error:
            raise StoreUnreachable(f"redis at {self.place}: {error}") from error
        policy = info.get("maxmemory_policy")
        if int(info.get("maxmemory", 0)) and policy != "noeviction":
            log.warning("redis at %s evicts (%s): sessions may be lost", self.place, policy)
        for text in scripts.ALL:
            self._scripts[text] = self.client.register_script(text)

    def _check_version(self, info: dict[str, Any]) -> None:
        if _version(info) < OLDEST:
            raise StoreUnusable(
                f"redis at {self.place} is version {info['redis_version']}; 6.2 or newer is needed"
            )
        if info.get("cluster_enabled"):
            raise StoreUnusable(f"redis at {self.place} is a cluster, which is not supported")

    def _confirmation(self, info: dict[str, Any]) -> tuple[Any, ...]:
        """The command after a change, which waits until it is as durable as asked. It waits half
        the timeout, so that its answer is there within it."""
        patience = max(1, int(self.settings.timeout * 500))
        if self.settings.durability == "replicated":
            return ("WAIT", self.settings.replicas, patience)
        if self.settings.durability == "memory":
            return ()
        if not info.get("aof_enabled"):
            raise StoreUnusable(
                f"redis at {self.place} has no file to sync: for durability fsync, set its "
                "appendonly to yes"
            )
        if _version(info) >= WAITS_FOR_DISK:
            return ("WAITAOF", 1, 0, patience)
        if self.client.config_get("appendfsync").get("appendfsync") != "always":
            raise StoreUnusable(
                f"redis at {self.place} is older than 7.2: for durability fsync, set its "
                "appendfsync to always"
            )
        return ()

    def _check_confirmed(self, answers: list[Any]) -> None:
        for answer in answers:
            if self.settings.durability == "replicated" and answer < self.settings.replicas:
                raise StoreUnreachable(
                    f"redis at {self.place}: {answer} of {self.settings.replicas} replicas "
                    "confirmed the change"
                )
            if self.settings.durability == "fsync" and answer[0] < 1:
                raise StoreUnreachable(f"redis at {self.place} did not sync the change in time")


def _connect(settings: RedisSettings, timeout: float) -> Any:
    """Typed as anything: redis's own types are those of its asynchronous client as well."""
    if _is_torn(settings.url):
        raise StoreUnusable(
            "the address of redis is malformed: signs in its password have to be percent-encoded"
        )
    try:
        return redis.Redis.from_url(
            settings.url,
            socket_timeout=timeout,
            socket_connect_timeout=settings.timeout,
            retry=Retry(NoBackoff(), 0),
        )
    except ValueError:  # whose words may hold a part of the password
        raise StoreUnusable("the address of redis is malformed") from None


def _is_torn(url: str) -> bool:
    """Whether a sign within the password ends the address: what stands before it would be taken
    for a host and port, and told as such."""
    scheme, _, rest = url.partition("://")
    address = re.split("[/?#]", rest, maxsplit=1)[0]
    return scheme != "unix" and "@" in rest and "@" not in address


def _place(client: Any) -> str:
    known = client.connection_pool.connection_kwargs
    host = known.get("path") or f"{known.get('host', 'localhost')}:{known.get('port', 6379)}"
    return f"{host}/{known.get('db') or 0}"


def _version(info: dict[str, Any]) -> tuple[int, ...]:
    return tuple(map(int, str(info["redis_version"]).split(".")[:2]))
