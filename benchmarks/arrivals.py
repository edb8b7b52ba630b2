"""Calls that come when they come: unary steps at random moments, whatever became of those before.

An open loop with Poisson arrivals at a share of the rate that a closed one reaches in the same run.
Each call counts from the moment it was due, so a server that stands still is not asked less (no
coordinated omission). The server has one core, the load another. `make bench-arrivals`.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks import machine
from benchmarks.calls import Session, StepSession
from benchmarks.machine import ServerProcess
from benchmarks.models import H64
from benchmarks.unary import Load

SHARES = (0.3, 0.5, 0.7, 0.9)
SESSIONS = 1024


@dataclass(frozen=True)
class Result:
    """What was seen at one rate."""

    share: float
    """Of the closed loop's steps/s."""
    asked_per_second: float
    p50_ms: float
    p99_ms: float
    longest_ms: float
    steps: int
    checked_steps: int


def due(rate: float, seconds: float, seed: int) -> NDArray[np.float64]:
    """Moments of Poisson arrivals, in seconds from the start."""
    drawn = np.random.default_rng(seed).exponential(1 / rate, size=round(rate * seconds))
    moments: NDArray[np.float64] = np.cumsum(drawn)
    return moments


class Arrivals:
    """Begins calls on time in a thread of its own, while the caller's takes the replies."""

    def __init__(self, load: Load, moments: NDArray[np.float64]) -> None:
        self._load, self._moments = load, moments.tolist()
        self._thread = threading.Thread(target=self._send, daemon=True)

    def run(self) -> NDArray[np.float64]:
        """Seconds that each call took, from when it was due."""
        for session in self._load.sessions:
            session.running = False
            session.took.clear()
        self._start = time.perf_counter() + 0.05
        self._thread.start()
        for _ in self._moments:
            self._load.turn()
        self._thread.join()
        return np.concatenate([session.took for session in self._load.sessions])

    def _send(self) -> None:
        at = -1
        for moment in self._moments:
            if (early := self._start + moment - time.perf_counter()) > 0:
                time.sleep(early)
            at = self._next_idle(at)
            self._load.sessions[at].go(since=self._start + moment)

    def _next_idle(self, at: int) -> int:
        """A session's steps go one after the other, so each is asked of one that waits for none."""
        sessions: Sequence[Session] = self._load.sessions
        while True:
            at = (at + 1) % len(sessions)
            if not sessions[at].waits:
                return at


def measure(server: ServerProcess, share: float, seconds: float, first: int) -> Result:
    """Find the closed loop's rate, then ask for a share of it."""
    closed = Load(server, StepSession, range(first, first + 64))
    closed.window(seconds / 4)
    top = closed.window(seconds / 2).steps_per_second
    closed.close()
    load = Load(server, StepSession, range(first + 64, first + 64 + SESSIONS))
    waits = Arrivals(load, due(share * top, seconds, first)).run() * 1e3
    checked = load.close()
    low, high = np.percentile(waits, [50, 99])
    return Result(
        share, share * top, float(low), float(high), float(waits.max()), len(waits), checked
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
        "| of the top rate | calls/s | p50 ms | p99 ms | p99 / p50 | longest ms |",
        "|--:|--:|--:|--:|--:|--:|",
    ]
    lines += [
        f"| {r.share:.0%} | {r.asked_per_second:,.0f} | {r.p50_ms:.2f} | {r.p99_ms:.2f} "
        f"| {r.p99_ms / r.p50_ms:.1f} | {r.longest_ms:.1f} |"
        for r in results
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(prog="benchmarks.arrivals", description=__doc__)
    parser.add_argument("--shares", type=float, nargs="*", default=SHARES)
    parser.add_argument("--seconds", type=float, default=10.0)
    arguments = parser.parse_args()
    print(f"h64; {machine.now()}; {machine.description()}; Poisson arrivals\n")
    print(table(run(arguments.shares, arguments.seconds)))


if __name__ == "__main__":
    main()
