"""Single steps, by unary calls and on a stream of each session, beside others' under the same load:
steps/s, server CPU a step, latency.

By steps in flight: our two transports; tritonserver, where it is installed, by its `ModelInfer` and
`ModelStreamInfer`, with its C++ front and its Python backend; and a bare echo of our transport,
which is its floor. All are alive together on one core, and measured by turns, so that they meet the
same machine; the load is on another core. `make bench-singles`, or `python -m benchmarks.singles`.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from benchmarks import echo, machine
from benchmarks.calls import (
    EchoSession,
    Session,
    StepSession,
    StreamSession,
    open_all,
)
from benchmarks.http2 import Connection
from benchmarks.infer_calls import InferSession, TritonSession, TritonStream
from benchmarks.load import CYCLE
from benchmarks.models import H64
from benchmarks.triton import server as triton

SIDES: dict[str, dict[str, type[Session]]] = {
    "Step": {
        "aio": StepSession,
        "native": StepSession,
        "echo": EchoSession,
        "triton": TritonSession,
    },
    "ModelInfer": {"aio": InferSession, "native": InferSession, "triton": TritonSession},
    "StepStream": {"aio": StreamSession, "native": StreamSession, "triton": TritonStream},
}
"""By our method, what each server is asked."""
IN_FLIGHT = (1, 16, 64, 256, 1024)


class Server(Protocol):
    """Something that serves h64, or says that it does."""

    @property
    def address(self) -> str:
        """HOST:PORT."""

    def cpu_seconds(self) -> float:
        """CPU time it has used so far."""


@dataclass(frozen=True)
class Window:
    """What was seen in one window."""

    steps_per_second: float
    server_microseconds: float
    p50: float
    p99: float


@dataclass(frozen=True)
class Result:
    """Medians over the windows of one server."""

    method: str
    in_flight: int
    side: str
    steps_per_second: float
    ratio: float
    """Median over the turns, to aio in the same turn."""
    server_microseconds: float
    p50_ms: float
    p99_ms: float
    checked_steps: int


class Load:
    """Sessions of one server, each with one call under way; `numbers` are theirs alone."""

    def __init__(self, server: Server, kind: type[Session], numbers: range) -> None:
        self._server, self._connection = server, Connection(server.address)
        shape = len(numbers), CYCLE, H64.inputs
        drawn = np.random.default_rng(len(numbers)).normal(size=shape).astype(np.float32)
        pairs = zip(numbers, drawn, strict=True)
        self.sessions = [kind(self._connection, number, each) for number, each in pairs]
        self.sessions[0].followed = True
        if kind is StepSession:
            open_all(self._connection, self.sessions)

    def window(self, seconds: float) -> Window:
        """Keep every session busy for so long."""
        for session in self.sessions:
            session.running = True
            session.took.clear()
            session.go()
        before, cpu, started = self._steps(), self._server.cpu_seconds(), time.perf_counter()
        while time.perf_counter() - started < seconds:
            self._connection.turn()
        took, cpu = time.perf_counter() - started, self._server.cpu_seconds() - cpu
        steps = self._steps() - before
        self._finish()
        waits = np.concatenate([session.took for session in self.sessions]) * 1e3
        low, high = np.percentile(waits, [50, 99])
        return Window(steps / took, cpu / max(steps, 1) * 1e6, float(low), float(high))

    def turn(self, patience: float | None = None) -> None:
        """Wait for a reply, at most so long, and look at it."""
        self._connection.turn(patience)

    def close(self) -> int:
        """Leave; returns how many steps of a session were as they should be."""
        for session in self.sessions:
            session.leave()
        self._finish()
        self._connection.close()
        return self.sessions[0].check()

    def _steps(self) -> int:
        return sum(session.steps for session in self.sessions)

    def _finish(self) -> None:
        for session in self.sessions:
            session.running = False
        while any(session.waits for session in self.sessions):
            self._connection.turn()


def measure(
    servers: dict[str, Server], method: str, numbers: range, seconds: float, windows: int
) -> list[Result]:
    """Each server's result, aio's first."""
    kinds = {name: kind for name, kind in SIDES[method].items() if name in servers}
    loads = {name: Load(servers[name], kind, numbers) for name, kind in kinds.items()}
    for load in loads.values():
        load.window(seconds / 4)
    turns = [{name: load.window(seconds) for name, load in loads.items()} for _ in range(windows)]
    checked = {name: load.close() for name, load in loads.items()}
    return [
        Result(
            method,
            len(numbers),
            name,
            statistics.median(turn[name].steps_per_second for turn in turns),
            statistics.median(
                turn[name].steps_per_second / turn["aio"].steps_per_second for turn in turns
            ),
            statistics.median(turn[name].server_microseconds for turn in turns),
            statistics.median(turn[name].p50 for turn in turns),
            statistics.median(turn[name].p99 for turn in turns),
            checked[name],
        )
        for name in loads
    ]


def run(in_flight: Sequence[int], seconds: float, windows: int) -> list[Result]:
    """Measure every method at every number of calls in flight."""
    on_server, on_load = machine.choose_cores()
    results: list[Result] = []
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        servers = {name: stack.enter_context(each) for name, each in sides(Path(folder), on_server)}
        stack.enter_context(machine.pinned(on_load))
        first = 1
        for method in SIDES:
            for count in in_flight:
                numbers = range(first, first + count)
                results += measure(servers, method, numbers, seconds, windows)
                first += count
    return results


def sides(folder: Path, core: int) -> Iterator[tuple[str, AbstractContextManager[Server]]]:
    """The servers that are set side by side, not yet started, all on one core."""
    H64.write(folder)
    for name in ("aio", "native"):
        yield name, machine.serving(folder, core, "--store", "none", "--transport", name)
    yield "echo", echo.serving(core)
    if triton.ENVIRONMENT.exists():
        yield "triton", triton.serving(core)


def table(results: Sequence[Result]) -> str:
    """The results in Markdown."""
    lines = [
        "| method | in flight | server | steps/s | to aio | server CPU µs a step "
        "| p50 ms | p99 ms |",
        "|---|--:|---|--:|--:|--:|--:|--:|",
    ]
    lines += [
        f"| {r.method} | {r.in_flight:,} | {r.side} | {r.steps_per_second:,.0f} "
        f"| {r.ratio:.1f} x | {r.server_microseconds:,.0f} | {r.p50_ms:,.2f} | {r.p99_ms:,.2f} |"
        for r in results
    ]
    return "\n".join(lines)


def main() -> int:
    """Exit status 0, or a traceback where an answer is wrong."""
    parser = argparse.ArgumentParser(prog="benchmarks.singles", description=__doc__)
    parser.add_argument("--in-flight", type=int, nargs="*", default=IN_FLIGHT)
    parser.add_argument("--seconds", type=float, default=2.0, help="length of a window")
    parser.add_argument("--windows", type=int, default=5, help="the medians are printed")
    arguments = parser.parse_args()
    when, where = machine.now(), machine.description()
    results = run(arguments.in_flight, arguments.seconds, arguments.windows)
    checked = sum(result.checked_steps for result in results)
    print(
        f"h64; {when}; {where}; medians of {arguments.windows} windows of {arguments.seconds:g} s "
        f"by turns; {checked:,} steps equal to the NumPy LSTM's within 1e-5 (triton's: 1e-4)\n"
    )
    print(table(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
