"""Steps a second, and the CPU that they cost, by servers behind Envoy: `make cluster-rates`.

Every session awaits each of its steps. Load, Envoy, redis and servers share this machine's cores:
so the rates do not say what as many machines would do. The CPU a step does.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from tests.cluster.envoy import Envoy
from tests.durability.service import Service, on_redis
from tests.durability.walks import PATIENT
from tests.harness import small_model
from tests.server.store.redis_server import RedisServer
from tidegate import Client, Session

TICK = os.sysconf("SC_CLK_TCK")
WARM = 1.0
LONG = ("--lease-seconds", "30", "--checkpoint-interval", "1")


@dataclass(frozen=True)
class Way:
    """How the steps go."""

    servers: int
    envoy: bool
    shards: int


WAYS = [
    Way(1, False, 1), Way(1, False, 64), Way(1, True, 1), Way(1, True, 16), Way(1, True, 64),
    Way(2, True, 64), Way(3, True, 64),
]  # fmt: skip


def cpu_seconds(pid: int) -> float:
    """What a process has used, its threads included."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


@contextmanager
def serving(repository: Path, way: Way) -> Iterator[tuple[str, list[int], int, int]]:
    """The address, and the processes: servers, Envoy (or 0), redis."""
    with ExitStack() as stack:
        redis = RedisServer()
        stack.callback(redis.stop)
        services = [Service(repository, *on_redis(redis.url), *LONG) for _ in range(way.servers)]
        for each in services:
            each.start()
            stack.callback(each.kill)
        addresses, pids = [e.address for e in services], [e.running.process.pid for e in services]
        if not way.envoy:
            yield addresses[0], pids, 0, redis.process.pid
            return
        envoy = Envoy(addresses)
        stack.callback(envoy.stop)
        envoy.await_healthy(addresses)
        yield envoy.address, pids, envoy.process.pid, redis.process.pid


async def step_on(session: Session, until: float) -> int:
    """Step until then; how many were answered."""
    loop, x, steps = asyncio.get_running_loop(), [0.5] * 5, 0
    while loop.time() < until:
        await session.step(x)
        steps += 1
    return steps


async def load(address: str, way: Way, sessions: int, seconds: float) -> tuple[int, float]:
    """Steps answered, and how long that took."""
    async with Client(address, replace(PATIENT, shards=way.shards)) as client:
        those = [client.session("small", f"rate-{k}", keep=True) for k in range(sessions)]
        await asyncio.gather(*(each.open() for each in those))
        loop = asyncio.get_running_loop()
        await asyncio.gather(*(step_on(each, loop.time() + WARM) for each in those))
        started = loop.time()
        steps = await asyncio.gather(*(step_on(each, started + seconds) for each in those))
        return sum(steps), loop.time() - started


def measure(repository: Path, way: Way, sessions: int, seconds: float) -> Sequence[str]:
    """A row of the table."""
    with serving(repository, way) as (address, servers, envoy, redis):
        pids = [*servers, *([envoy] if envoy else []), redis, os.getpid()]
        before = [cpu_seconds(pid) for pid in pids]
        mark = time.process_time()
        steps, took = asyncio.run(load(address, way, sessions, seconds))
        client = time.process_time() - mark
        used = [cpu_seconds(pid) - was for pid, was in zip(pids, before, strict=True)]
    scale = took / (took + WARM) / steps * 1e6  # the warming up costs at the same rate
    proxy = used[len(servers)] * scale if envoy else 0.0
    return (
        str(way.servers), "yes" if way.envoy else "no", str(way.shards), f"{steps / took:,.0f}",
        f"{sum(used[: len(servers)]) * scale:.1f}", f"{proxy:.1f}", f"{used[-2] * scale:.1f}",
        f"{client * scale:.1f}",
    )  # fmt: skip


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sessions", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=5.0)
    told = parser.parse_args()
    print(
        "| servers | Envoy | shards | steps/s | µs CPU a step: servers | Envoy | redis | client |"
    )
    print("|--:|---|--:|--:|--:|--:|--:|--:|")
    with tempfile.TemporaryDirectory() as folder:
        small_model(Path(folder))
        for way in WAYS:
            row = measure(Path(folder), way, told.sessions, told.seconds)
            print("|", " | ".join(row), "|", flush=True)


if __name__ == "__main__":
    main()
