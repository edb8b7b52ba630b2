"""What peers that mean harm cost everybody else: bystanders' latency while the server is quiet and
under each attack, and the server's memory. Three bystanders make one call after the other, and
every reply is looked at. The server has one core; bystanders and attackers share another.

`make abuse`, or `python -m benchmarks.abuse`; minutes.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import re
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks import attacks, machine
from benchmarks.calls import StepSession, open_all
from benchmarks.http2 import Connection
from benchmarks.load import CYCLE
from benchmarks.models import H64

BYSTANDERS = 3


@dataclass(frozen=True)
class Result:
    """What was seen under one attack."""

    attack: str
    calls_per_second: float
    p50_ms: float
    p99_ms: float
    peak_mb: float
    after_mb: float
    """Resident a second after the attack."""


class Bystanders:
    """Callers of small steps, each on a connection of its own."""

    def __init__(self, address: str, name: str) -> None:
        self._sessions: list[StepSession] = []
        self._connections = [Connection(address) for _ in range(BYSTANDERS)]
        for number, connection in enumerate(self._connections):
            drawn = np.random.default_rng(number).normal(size=(CYCLE, H64.inputs))
            observations = drawn.astype(np.float32)
            session = StepSession(connection, number, observations, f"{name}-{number}")
            session.followed = True
            open_all(connection, [session])
            self._sessions.append(session)

    def go(self, seconds: float) -> list[float]:
        """Call for so long, and check every reply; returns the seconds that each call took."""
        until = time.perf_counter() + seconds
        for session in self._sessions:
            session.running = True
            session.go()
        while any(session.waits for session in self._sessions):
            if time.perf_counter() > until:
                for session in self._sessions:
                    session.running = False
            for connection in self._connections:
                connection.turn(0.0005)
        for session, connection in zip(self._sessions, self._connections, strict=True):
            session.check()
            connection.close()
        return [each for session in self._sessions for each in session.took]


def peak_bytes(pid: int) -> int:
    """The most a process has had resident."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def measure(server: machine.ServerProcess, name: str, seconds: float) -> Result:
    """Bystanders, with the attack of this name or none."""
    stop = multiprocessing.Event()
    attacker = multiprocessing.Process(
        target=_attack, args=(name, server.address, stop), daemon=True
    )
    Path(f"/proc/{server.pid}/clear_refs").write_text("5")  # the peak counts from now
    if name:
        attacker.start()
        time.sleep(1)
    took = np.array(Bystanders(server.address, name or str(time.time())).go(seconds)) * 1e3
    peak = peak_bytes(server.pid)
    stop.set()
    if name:
        attacker.join(10)
        attacker.kill()
    time.sleep(1)
    p50, p99 = np.percentile(took, [50, 99])
    after = machine.resident_bytes(server.pid)
    return Result(
        name or "none", len(took) / seconds, float(p50), float(p99), peak / 1e6, after / 1e6
    )


def _attack(name: str, address: str, stop: attacks.Stop) -> None:
    os.nice(19)  # on a core with the bystanders, whose time is not the server's to give
    attacks.keep_on(name, address, stop)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0, help="under each attack")
    parser.add_argument("--attack", action="append", choices=list(attacks.ATTACKS))
    parser.add_argument("--out", type=Path, help="results as JSON")
    options = parser.parse_args(arguments)
    where, when, results = machine.description(), machine.now(), list[Result]()
    print(f"{where}; {when}\n\n| attack | calls/s | p50 ms | p99 ms | peak MB | after MB |")
    print("|---|---|---|---|---|---|")
    servers, others = machine.choose_cores()
    with tempfile.TemporaryDirectory() as folder:
        H64.write(Path(folder))
        with machine.serving(Path(folder), servers) as server, machine.pinned(others):
            for name in ("", *(options.attack or attacks.ATTACKS), ""):
                seen = measure(server, name, options.seconds)
                results.append(seen)
                print(
                    f"| {seen.attack} | {seen.calls_per_second:,.0f} | {seen.p50_ms:.2f} | "
                    f"{seen.p99_ms:.2f} | {seen.peak_mb:,.0f} | {seen.after_mb:,.0f} |",
                    flush=True,
                )
    if options.out:
        machine.save(options.out, when, where, results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
