"""Calls that come when they come: unary steps at random moments, whatever became of those before.

An open loop with Poisson arrivals at a share of the rate that a closed one reaches in the same run.
Each call counts from the moment it was due, so a server that stands still is not asked less (no
coordinated omission). The server has one core, the load another. `make bench-arrivals`.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks import machine
from benchmarks.calls import Session, StepSession
from benchmarks.machine import ServerProcess
from benchmarks.models import H64
from benchmarks.singles import Load

SHARES = (0.3, 0.5, 0.7, 0.9)
SESSIONS = 1024
REPEATS = 5  # windows, in each of which a stall of the machine's may be the slowest hundredth


@dataclass(frozen=True)
class Window:
    """What was seen in one window."""

    p50_ms: float
    p99_ms: float
    longest_ms: float
    late_ms: float
    """By which the load itself was late, at its 99th percentile; part of what is counted."""
    steps: int


@dataclass(frozen=True)
class Result:
    """Medians over the windows at one rate."""

    share: float
    """Of the closed loop's steps/s."""
    asked_per_second: float
    p50_ms: float
    p99_ms: float
    ratio: float
    worst_ratio: float
    """p99 over p50, the median and the worst of the windows."""
    longest_ms: float
    late_ms: float
    """As in `Window`."""
    steps: int
    checked_steps: int


def due(rate: float, seconds: float, seed: int) -> NDArray[np.float64]:
    """Moments of Poisson arrivals, in seconds from the start."""
    drawn = np.random.default_rng(seed).exponential(1 / rate, size=round(rate * seconds))
    moments: NDArray[np.float64] = np.cumsum(drawn)
    return moments


class Arrivals:
    """Makes calls when they are due."""

    def __init__(self, load: Load, moments: NDArray[np.float64]) -> None:
        self._load, self._moments = load, deque(moments.tolist())
        self._at = -1
        self.late: list[float] = []
        """Seconds by which each call was made later than it was due."""

    def run(self) -> NDArray[np.float64]:
        """Seconds that each call took, from when it was due."""
        sessions = self._load.sessions
        for session in sessions:
            session.running = False
            session.took.clear()
        start = time.perf_counter() + 0.05
        while self._moments or any(session.waits for session in sessions):
            self._make(start)
            left = start + self._moments[0] - time.perf_counter() if self._moments else None
            self._load.turn(None if left is None else max(0.0, left))
        return np.concatenate([session.took for session in sessions])

    def _make(self, start: float) -> None:
        while self._moments and start + self._moments[0] <= (now := time.perf_counter()):
            if (session := self._next_idle()) is None:
                return  # it is late already, and counts as such
            due = start + self._moments.popleft()
            self.late.append(now - due)
            session.go(since=due)

    def _next_idle(self) -> Session | None:
        """A session's steps go one after the other, so each is asked of one that waits for none."""
        sessions = self._load.sessions
        for _ in sessions:
            self._at = (self._at + 1) % len(sessions)
            if not sessions[self._at].waits:
                return sessions[self._at]
        return None


def measure(server: ServerProcess, share: float, seconds: float, first: int) -> Result:
    """Find the closed loop's rate, then ask for a share of it, in windows of `seconds`."""
    closed = Load(server, StepSession, range(first, first + 64))
    closed.window(seconds / 4)
    top = closed.window(seconds / 2).steps_per_second
    closed.close()
    load = Load(server, StepSession, range(first + 64, first + 64 + SESSIONS))
    load.window(0.5)  # else a hundredth of the calls would be sessions' first steps
    windows = [window(load, due(share * top, seconds, first + k)) for k in range(REPEATS)]
    return _result(share, share * top, windows, load.close())


def window(load: Load, moments: NDArray[np.float64]) -> Window:
    """Make calls at these moments."""
    arrivals = Arrivals(load, moments)
    waits = arrivals.run() * 1e3
    low, high = np.percentile(waits, [50, 99])
    late = float(np.percentile(arrivals.late, 99)) * 1e3
    return Window(float(low), float(high), float(waits.max()), late, len(waits))


def _result(share: float, rate: float, windows: Sequence[Window], checked: int) -> Result:
    ratios = [each.p99_ms / each.p50_ms for each in windows]
    return Result(
        share=share,
        asked_per_second=rate,
        p50_ms=statistics.median(each.p50_ms for each in windows),
        p99_ms=statistics.median(each.p99_ms for each in windows),
        ratio=statistics.median(ratios),
        worst_ratio=max(ratios),
        longest_ms=max(each.longest_ms for each in windows),
        late_ms=statistics.median(each.late_ms for each in windows),
        steps=sum(each.steps for each in windows),
        checked_steps=checked,
    )


def run(shares: Sequence[float], seconds: float, *flags: str) -> list[Result]:
    """Measure at each share of the top rate."""
    on_server, on_load = machine.choose_cores()
    with tempfile.TemporaryDirectory() as folder:
        H64.write(Path(folder))
        with machine.serving(Path(folder), on_server, *flags) as server, machine.pinned(on_load):
            return [
                measure(server, share, seconds, 10_000 * number)
                for number, share in enumerate(shares, start=1)
            ]


def table(results: Sequence[Result]) -> str:
    """The results in Markdown."""
    lines = [
        "| of the top rate | calls/s | p50 ms | p99 ms | p99 / p50 (worst window) | longest ms "
        "| load late, p99 ms |",
        "|--:|--:|--:|--:|--:|--:|--:|",
    ]
    lines += [
        f"| {r.share:.0%} | {r.asked_per_second:,.0f} | {r.p50_ms:.2f} | {r.p99_ms:.2f} "
        f"| {r.ratio:.1f} ({r.worst_ratio:.1f}) | {r.longest_ms:.1f} "
        f"| {r.late_ms:.2f} |"
        for r in results
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(prog="benchmarks.arrivals", description=__doc__)
    parser.add_argument("--shares", type=float, nargs="*", default=SHARES)
    parser.add_argument("--seconds", type=float, default=4.0, help="length of a window")
    arguments = parser.parse_args()
    print(f"h64; {machine.now()}; {machine.description()}; Poisson arrivals\n")
    print(table(run(arguments.shares, arguments.seconds)))


if __name__ == "__main__":
    main()
