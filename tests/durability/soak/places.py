"""The soak's servers, and what befalls them: one that lives through it all, and one that is killed
and drained by turns. On sqlite each has sessions of its own; on redis they share them."""

from __future__ import annotations

import asyncio
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.durability.service import Service, on_redis, on_sqlite
from tests.durability.soak.tally import Tally
from tests.server.store.redis_server import RedisServer

GRAVE = re.compile(r"^\S+ ERROR |^\s*Traceback")
DRAIN_SECONDS = 60.0


@dataclass
class Places:
    """A steady server and one that suffers, with the targets under which callers know them."""

    steady: Service
    suffering: Service
    targets: tuple[str, str]
    stored: Callable[[], int]
    """Bytes that the store has, in its file or in redis."""


@contextmanager
def places(repository: Path, store: str, flags: Sequence[str]) -> Iterator[Places]:
    """Both servers, which serve; at the end they are killed if they still run."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        if store == "sqlite":
            each = [on_sqlite(folder / "steady"), on_sqlite(folder / "suffering")]
        else:
            redis = RedisServer()
            stack.callback(redis.stop)
            each = [on_redis(redis.url)] * 2
        steady, suffering = (Service(repository, *where, *flags) for where in each)
        for service in (steady, suffering):
            service.begin()
            stack.callback(service.kill)
        for service in (steady, suffering):
            service.await_ready()
        if store == "sqlite":
            targets = steady.address, suffering.address
            yield Places(steady, suffering, targets, lambda: _bytes(folder / "steady"))
        else:
            targets = _either(steady, suffering), _either(suffering, steady)
            client = redis.client()
            yield Places(steady, suffering, targets, lambda: client.info("memory")["used_memory"])


def _either(first: Service, second: Service) -> str:
    return f"ipv4:{first.address},{second.address}"


def _bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("sessions.db*"))


class Sufferings:
    """Kills and drains a server by turns, and starts it again."""

    def __init__(self, service: Service, every: float, tally: Tally) -> None:
        self._service, self._every, self._tally = service, every, tally
        self.kills = self.drains = 0

    async def go(self, stop: asyncio.Event) -> None:
        """Until told to stop."""
        while not await stopped(stop, self._every):
            if self.kills <= self.drains:
                await asyncio.to_thread(kill, self._service, self._tally)
                self.kills += 1
            else:
                await asyncio.to_thread(drain, self._service, self._tally)
                self.drains += 1
            await asyncio.to_thread(self._service.start)


def kill(service: Service, tally: Tally) -> None:
    """SIGKILL."""
    service.running.process.kill()
    service.running.process.wait()
    _close_log(service, tally)


def drain(service: Service, tally: Tally) -> None:
    """SIGTERM; it must have stored everything."""
    if status := service.running.terminate(DRAIN_SECONDS):
        tally.failures[f"a drain ended with {status}"] += 1
        tally.show(service.running.log()[-2000:])
    _close_log(service, tally)


def _close_log(service: Service, tally: Tally) -> None:
    """A server must have logged no error, whatever its callers did."""
    for line in service.running.log().splitlines():
        if GRAVE.search(line):
            tally.failures["an error in a server's log"] += 1
            tally.show(line)
    service.running.log_file.unlink()


async def stopped(stop: asyncio.Event, within: float) -> bool:
    """Wait so long; whether it was told to stop meanwhile."""
    try:
        async with asyncio.timeout(within):
            await stop.wait()
    except TimeoutError:
        pass
    return stop.is_set()
