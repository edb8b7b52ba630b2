"""Tidegate's client beside Triton's official one, each against its own server.

N sessions, each awaiting one step at a time, in one Python process on one core; the server on the
other core; h64 on both. The sides take turns, so that both meet the same machine.
`make bench-clients`.

tritonserver runs its sequence batcher (strategy `oldest`, no delay) over a Python-backend model
that steps whole batches in numpy: the package that brings the binary has no other backend.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from benchmarks import machine
from benchmarks.load import check_outputs
from benchmarks.machine import ROOT, pinned
from benchmarks.machine import serving as serving_tidegate
from benchmarks.models import H64
from benchmarks.triton.server import ENVIRONMENT
from benchmarks.triton.server import serving as serving_triton

SESSIONS = (1, 64, 1000)
MORE_SECONDS = 60.0


class Server(Protocol):
    """Something that serves h64."""

    @property
    def address(self) -> str:
        """HOST:PORT."""

    def cpu_seconds(self) -> float:
        """CPU time it has used so far."""


@dataclass(frozen=True)
class Side:
    """A client library against the server it is made for."""

    name: str
    backend: str
    command: tuple[str, ...]
    """The load's process; ADDRESS, SESSIONS, SECONDS and SEED follow, after `way`."""
    way: tuple[str, ...]
    tolerance: float


OURS = Side("tidegate.Client", "onnxruntime", (sys.executable, "-m", "benchmarks.driver"), (), 1e-5)
TRITON = tuple(
    Side(
        f"tritonclient.grpc.aio, {way}",
        "Python (numpy)",
        (str(ENVIRONMENT / "bin/python"), "-m", "benchmarks.triton.driver"),
        (way,),
        1e-4,
    )
    for way in ("unary", "stream")
)


@dataclass(frozen=True)
class Window:
    """What one window showed. Times are in microseconds."""

    rate: float
    p50: float
    p99: float
    client_cpu: float
    server_cpu: float
    checked: int


def measure(
    side: Side, server: Server, sessions: int, seconds: float, seed: int, core: int
) -> Window:
    """One window with a client process of its own on `core`, its answers checked.

    Raises:
        WrongAnswer: an output of the followed session is not the NumPy LSTM's.
        RuntimeError: the load failed.
    """
    words = [*side.command, server.address, *side.way, str(sessions), str(seconds), str(seed)]
    with pinned(core):
        process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    with process:
        try:
            _await(process, "begin")
            used = server.cpu_seconds()
            _await(process, "end")
            used = server.cpu_seconds() - used
            output, _ = process.communicate(timeout=MORE_SECONDS)
        finally:
            process.kill()
    if process.returncode:
        raise RuntimeError(f"{side.name} with {sessions} sessions failed")
    return _window(json.loads(output), used, side.tolerance)


def _await(process: subprocess.Popen[str], word: str) -> None:
    assert process.stdout is not None
    if process.stdout.readline().strip() != word:
        raise RuntimeError(f"the load ended before its window's {word}: {process.args!r}")


def _window(report: dict[str, Any], used: float, tolerance: float) -> Window:
    steps = report["steps"]
    inputs, outputs = (np.array(report[name], np.float32) for name in ("inputs", "outputs"))
    p50, p99 = np.percentile(report["latencies"], [50, 99]) * 1e6
    return Window(
        rate=steps / report["seconds"],
        p50=float(p50),
        p99=float(p99),
        client_cpu=1e6 * report["cpu"] / steps,
        server_cpu=1e6 * used / steps,
        checked=check_outputs(inputs, outputs, tolerance),
    )


@dataclass(frozen=True)
class Result:
    """Medians over one side's windows at one number of sessions. Times are in microseconds."""

    side: str
    backend: str
    sessions: int
    rate: float
    slowest: float
    fastest: float
    p50: float
    p99: float
    client_cpu: float
    server_cpu: float
    checked: int


def summary(side: Side, sessions: int, windows: list[Window]) -> Result:
    """The windows' medians."""

    def median(name: str) -> float:
        return float(statistics.median(getattr(window, name) for window in windows))

    rates = [window.rate for window in windows]
    return Result(
        side.name, side.backend, sessions, median("rate"), min(rates), max(rates),
        median("p50"), median("p99"), median("client_cpu"), median("server_cpu"),
        sum(window.checked for window in windows),
    )  # fmt: skip


def run(sessions: list[int], seconds: float, rounds: int) -> list[Result]:
    """Measure every side at every number of sessions."""
    server_core, load_core = machine.choose_cores()
    results = []
    with (
        tempfile.TemporaryDirectory() as folder,
        serving_triton(server_core) as triton,
    ):
        H64.write(Path(folder))
        with serving_tidegate(Path(folder), server_core) as ours:
            servers: list[tuple[Side, Server]] = [(OURS, ours), *((s, triton) for s in TRITON)]
            seed = 0
            for count in sessions:
                windows: dict[str, list[Window]] = {side.name: [] for side, _ in servers}
                for _ in range(rounds):
                    for side, server in servers:
                        seed += 1
                        window = measure(side, server, count, seconds, seed, load_core)
                        windows[side.name].append(window)
                results += [summary(s, count, windows[s.name]) for s, _ in servers]
                print(f"measured {count} sessions", file=sys.stderr)
    return results


def table(results: list[Result]) -> str:
    """The results in Markdown; each side's ratio is Tidegate's steps/s to its own."""
    lines = [
        "| sessions | client | server's backend | steps/s (slowest to fastest) | p50 µs | p99 µs "
        "| client CPU µs a step | server CPU µs a step | Tidegate's steps/s to these |",
        "|--:|---|---|--:|--:|--:|--:|--:|--:|",
    ]
    ours = {each.sessions: each.rate for each in results if each.side == OURS.name}
    for r in results:
        ratio = "" if r.side == OURS.name else f"{ours[r.sessions] / r.rate:,.1f} x"
        lines.append(
            f"| {r.sessions:,} | {r.side} | {r.backend} "
            f"| {r.rate:,.0f} ({r.slowest:,.0f} to {r.fastest:,.0f}) | {r.p50:,.0f} | {r.p99:,.0f} "
            f"| {r.client_cpu:,.1f} | {r.server_cpu:,.1f} | {ratio} |"
        )
    return "\n".join(lines)


def main() -> int:
    """Exit status 0, or a traceback where a side fails or answers wrongly."""
    parser = argparse.ArgumentParser(prog="benchmarks.clients", description=__doc__)
    parser.add_argument("--seconds", type=float, default=2.0, help="length of a window")
    parser.add_argument("--rounds", type=int, default=5, help="windows a side; medians are printed")
    parser.add_argument("--sessions", type=int, nargs="+", default=list(SESSIONS))
    parser.add_argument("--json", type=Path, help="write the results here too")
    arguments = parser.parse_args()
    when, where = machine.now(), machine.description()
    results = run(arguments.sessions, arguments.seconds, arguments.rounds)
    checked = sum(result.checked for result in results)
    print(f"h64 (16 features, 64 units, 32 outputs); {when}; {where}; median of "
          f"{arguments.rounds} windows of {arguments.seconds:g} s; {checked:,} outputs of followed "
          "sessions equal to the NumPy LSTM's (1e-5; 1e-4 for Triton)\n")  # fmt: skip
    print(table(results))
    if arguments.json:
        machine.save(arguments.json, when, where, results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
