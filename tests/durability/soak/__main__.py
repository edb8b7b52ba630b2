"""Servers under a mixed load with churn, for minutes or hours: `make soak`.

    python -m tests.durability.soak [--minutes 20] [--store sqlite] [--kill-every 20]

Callers of the client library, of unary steps and of the Open Inference Protocol open sessions,
step them, branch them, move them, leave in the middle and leave them behind, at two servers: one
is killed (SIGKILL) and drained (SIGTERM) by turns, the other lives through it all and is watched.
Every answer is compared with NumPy's LSTM, every session's count with its caller's. Exit status 1
where a step was lost, doubled or wrong, a caller met an error that it should not meet, a server
logged one, file descriptors or sessions stayed, or memory grew past the bounds of `report`.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.durability.soak import callers, stubs
from tests.durability.soak.callers import Load
from tests.durability.soak.places import Places, Sufferings, drain, places, stopped
from tests.durability.soak.report import Table, Verdict
from tests.durability.soak.samples import Sample, Watch, growth, look
from tests.durability.soak.tally import Tally, Times
from tests.harness import RunningServer, small_model
from tidegate.cli.bench.record import Latencies
from training.network import Network

WARM_UP = 0.25  # of the time, in which memory may grow


@dataclass(frozen=True)
class Plan:
    """What the command was told."""

    seconds: float = 1200.0
    store: str = "sqlite"
    kill_every: float = 20.0
    callers: int = 60
    """At each of the two servers: so many of the client library, a sixth as many of each other."""
    pause: float = 0.05
    time_to_live: float = 20.0
    fill: int = 100_000
    """Sessions that are opened and closed first: so many ended ones a server remembers."""
    resident: int = 48
    line_seconds: float = 60.0
    sample_seconds: float = 2.0
    flags: tuple[str, ...] = ()

    @property
    def server_flags(self) -> tuple[str, ...]:
        """Common settings, except that sessions expire soon and few are resident."""
        return (
            "--checkpoint-interval", "1", "--lease-seconds", "5",
            "--session-ttl", str(self.time_to_live), "--max-resident", str(self.resident),
            *self.flags,
        )  # fmt: skip


class Soak:
    """One soak over servers that serve."""

    def __init__(self, plan: Plan, where: Places, network: Network) -> None:
        self._plan, self._places = plan, where
        self._tally, self._stop = Tally(), asyncio.Event()
        self._times, self._others = Times(), Times()
        self._first = Latencies()
        self._loads = [self._load(at, network) for at in (0, 1)]
        self._sufferings = Sufferings(where.suffering, plan.kill_every, self._tally)
        self._watch = Watch(where.steady.running, plan.sample_seconds)

    def _load(self, at: int, network: Network) -> Load:
        label, times = (("steady", self._times), ("suffering", self._others))[at]
        target, plan = self._places.targets[at], self._plan
        return Load(
            label, target, network, self._tally, times, plan.pause, plan.time_to_live, self._stop
        )

    async def run(self, tell: Callable[[str], None]) -> Verdict:
        """All of it; lines of the table are told as they come."""
        running = self._places.steady.running
        await callers.fill(self._places.steady.address, self._plan.fill)
        before, started = await _idle(running, looks=5), time.monotonic()
        async with asyncio.TaskGroup() as tasks:
            self._begin(tasks)
            tasks.create_task(self._thirds())
            await self._tell_lines(tell)
            self._stop.set()
        warm = started + WARM_UP * self._plan.seconds
        grown = growth(self._watch.since(warm))
        left = await self._sessions_left(running)
        after = await _idle(running, looks=50, fds=before.fds)
        for service in (self._places.steady, self._places.suffering):
            await asyncio.to_thread(drain, service, self._tally)
        suffered = self._sufferings
        return Verdict(
            self._tally, suffered.kills, suffered.drains, grown, (before.fds, after.fds),
            (before.threads, after.threads), left, (self._first, self._times.third),
        )  # fmt: skip

    def _begin(self, tasks: asyncio.TaskGroup) -> None:
        few = max(1, self._plan.callers // 6)
        for load in self._loads:
            for _ in range(few):
                tasks.create_task(callers.streamed(load, self._plan.callers // few))
                tasks.create_task(stubs.numbered(load))
                tasks.create_task(callers.left_behind(load))
        for _ in range(few):
            tasks.create_task(stubs.sequences(self._loads[0]))
        tasks.create_task(self._sufferings.go(self._stop))
        tasks.create_task(self._watch.go(self._stop))

    async def _thirds(self) -> None:
        """Keep the times of the first third, and begin anew with the last."""
        third = self._plan.seconds / 3
        await stopped(self._stop, third)
        self._first, self._times.third = self._times.third, Latencies()
        await stopped(self._stop, third)
        self._times.third = Latencies()

    async def _tell_lines(self, tell: Callable[[str], None]) -> None:
        table = Table(self._tally, self._times, self._sufferings, self._places)
        tell(table.head())
        ends = time.monotonic() + self._plan.seconds
        while (now := time.monotonic()) < ends:
            await asyncio.sleep(min(self._plan.line_seconds, ends - now))
            if samples := self._watch.since(now):
                tell(table.line(samples))
        while not (self._sufferings.kills and self._sufferings.drains):  # a short soak
            await asyncio.sleep(0.1)

    async def _sessions_left(self, running: RunningServer) -> int:
        """Those that are live once everything has had the time to expire."""
        ends = time.monotonic() + 2 * self._plan.time_to_live + 5
        while time.monotonic() < ends:
            left = int(await asyncio.to_thread(running.metric, "tidegate_sessions_live"))
            if not left:
                return 0
            await asyncio.sleep(0.2)
        return left


async def _idle(running: RunningServer, looks: int, fds: int = 0) -> Sample:
    """Look at a server whose callers have gone, until their connections have: at most so often, or
    until it has so few file descriptors."""
    least = look(running, lag=False)
    for _ in range(looks):
        if least.fds <= fds:
            break
        await asyncio.sleep(0.1)
        least = min(least, look(running, lag=False), key=lambda each: each.fds)
    return least


def soak(plan: Plan, tell: Callable[[str], None]) -> Verdict:
    """Soak servers of a small model."""
    with tempfile.TemporaryDirectory() as folder:
        network = small_model(Path(folder))
        with places(Path(folder), plan.store, plan.server_flags) as where:
            return asyncio.run(Soak(plan, where, network).run(tell))


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--store", choices=("sqlite", "redis"), default="sqlite")
    parser.add_argument("--durability", choices=("write-behind", "sync"), default="write-behind")
    parser.add_argument("--kill-every", type=float, default=20.0, help="seconds")
    parser.add_argument("--callers", type=int, default=60, help="at each server")
    parser.add_argument(
        "--fill", type=int, default=100_000, help="sessions to open and close first"
    )
    told = parser.parse_args()
    plan = Plan(
        told.minutes * 60, told.store, told.kill_every, told.callers, fill=told.fill,
        flags=("--durability", told.durability),
    )  # fmt: skip
    verdict = soak(plan, lambda text: print(text, flush=True))
    print(verdict)
    sys.exit(bool(verdict.faults))


if __name__ == "__main__":
    main()
