"""kill -9 at random moments under streaming sessions: `python -m tests.durability.torture`.

On SQLite the server is started again at once. On redis two servers share the store, and the one
that serves is killed each time, so that the other takes its sessions. Every reply and every final
state must be the NumPy LSTM's.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.durability.service import Service, on_redis, on_sqlite
from tests.durability.walks import Replays, Walk, check_all, counting_replays, walking
from tests.harness import small_model
from tests.server.store.redis_server import RedisServer
from training.network import Network

PAUSE = 0.01  # seconds between a session's steps, so that the load leaves the servers a core
LONGEST_LIFE = 0.6  # seconds from serving to the kill


@dataclass
class Tally:
    """What came of a torture."""

    store: str
    kills: int = 0
    steps: int = 0
    lost: int = 0
    doubled: int = 0
    replayed: int = 0
    longest_pause: float = 0.0

    def __str__(self) -> str:
        return (
            f"{self.store}: {self.kills} kills, {self.steps} steps, lost {self.lost}, "
            f"doubled {self.doubled}, replayed {self.replayed}, "
            f"longest pause {self.longest_pause:.2f} s"
        )


class Killer:
    """Kills one of the services after the other, at random moments of their lives."""

    def __init__(self, services: Sequence[Service], seed: int) -> None:
        self._services, self._chance = services, random.Random(seed)

    async def kill(self, at: int) -> None:
        """Let the next live a while, kill it, and start it again."""
        service = self._services[at % len(self._services)]
        await asyncio.sleep(self._chance.uniform(0, LONGEST_LIFE))
        await asyncio.to_thread(service.kill)
        await asyncio.to_thread(service.start)


async def torture(
    services: Sequence[Service],
    network: Network,
    kills: int,
    sessions: int,
    tally: Tally,
    seed: int = 0,
) -> None:
    """Kill services under streaming sessions, and count into the tally.

    Raises:
        AssertionError: a reply or a final state is not what the equations say.
    """
    killer, stop = Killer(services, seed), asyncio.Event()
    target = "ipv4:" + ",".join(each.address for each in services)
    with counting_replays() as replays:
        async with walking(target, network, sessions) as walks:
            async with asyncio.TaskGroup() as tasks:
                for walk in walks:
                    tasks.create_task(walk.go(stop, PAUSE))
                for at in range(kills):
                    await killer.kill(at)
                    tally.kills += 1
                    _count(walks, replays, tally)
                stop.set()
            tally.lost, tally.doubled = await check_all(walks)
            _count(walks, replays, tally)


def _count(walks: Sequence[Walk], replays: Replays, tally: Tally) -> None:
    """Check what was answered so far, and count it."""
    for each in walks:
        each.check()
    tally.steps, tally.replayed = sum(each.steps for each in walks), replays.steps
    tally.longest_pause = max(each.longest_pause for each in walks)


@contextmanager
def services(repository: Path, store: str, *flags: str, code: str = "") -> Iterator[list[Service]]:
    """A service on SQLite, or two on one redis; `code` as `harness.start` has it."""
    with ExitStack() as stack:
        found: list[Service] = []
        if store == "sqlite":
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            found = [Service(repository, *on_sqlite(Path(folder)), *flags, code=code)]
        else:
            redis = RedisServer()
            stack.callback(redis.stop)
            found = [Service(repository, *on_redis(redis.url), *flags, code=code) for _ in range(2)]
        for each in found:
            each.start()
            stack.callback(each.kill)
        yield found


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--store", choices=("sqlite", "redis", "both"), default="both")
    parser.add_argument("--sessions", type=int, default=200)
    parser.add_argument("--durability", choices=("write-behind", "sync"), default="write-behind")
    parser.add_argument("--seed", type=int, default=0)
    told = parser.parse_args()
    stores = ("sqlite", "redis") if told.store == "both" else (told.store,)
    with tempfile.TemporaryDirectory() as folder:
        network = small_model(Path(folder))
        for store in stores:
            tally = Tally(store)
            flags = ("--durability", told.durability)
            with services(Path(folder), store, *flags) as those:
                kills = told.kills // len(stores)
                try:
                    asyncio.run(torture(those, network, kills, told.sessions, tally, told.seed))
                finally:  # also of one that was interrupted, or failed
                    print(tally, flush=True)
            if tally.lost or tally.doubled:
                raise SystemExit(1)


if __name__ == "__main__":
    main()
