"""Unary calls on both transports: steps/s, server CPU a step, latency, by calls in flight.

Both servers are alive together on one core, and measured by turns, so that both meet the same
machine; the load is on another core. `make bench-unary`, or `python -m benchmarks.unary`.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np

from benchmarks import machine
from benchmarks.calls import Connection, InferSession, Session, StepSession
from benchmarks.load import CYCLE
from benchmarks.machine import ServerProcess, serving
from benchmarks.models import H64
from tidegate.v1 import tidegate_pb2 as pb
from tidegate.v1 import tidegate_pb2_grpc as pb_grpc

TRANSPORTS = ("aio", "cq")
METHODS: dict[str, type[Session]] = {"Step": StepSession, "ModelInfer": InferSession}
IN_FLIGHT = (1, 16, 64, 256, 1024)


@dataclass(frozen=True)
class Window:
    """What was seen in one window."""

    steps_per_second: float
    server_microseconds: float
    p50: float
    p99: float


@dataclass(frozen=True)
class Result:
    """Medians over the windows of one transport."""

    method: str
    in_flight: int
    transport: str
    steps_per_second: float
    ratio: float
    """Median over the turns, to aio in the same turn."""
    server_microseconds: float
    p50_ms: float
    p99_ms: float
    checked_steps: int


class Load:
    """Sessions of one server, each with one call under way."""

    def __init__(self, server: ServerProcess, kind: type[Session], in_flight: int) -> None:
        self._server, self._connection = server, Connection(server.address, kind.method)
        drawn = np.random.default_rng(in_flight).normal(size=(in_flight, CYCLE, H64.inputs))
        names = [f"{kind.__name__}-{in_flight}-{k}" for k in range(in_flight)]
        with grpc.insecure_channel(server.address) as channel:
            stub = pb_grpc.TidegateStub(channel)
            for name in names:
                stub.Open(pb.OpenRequest(model=H64.name, session_id=name))
        pairs = zip(names, drawn.astype(np.float32), strict=True)
        self.sessions = [kind(self._connection, name, each) for name, each in pairs]

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

    def close(self) -> int:
        """Leave; returns how many steps were equal to the NumPy LSTM's."""
        self._connection.close()
        return self.sessions[0].followed.check()

    def _steps(self) -> int:
        return sum(session.steps for session in self.sessions)

    def _finish(self) -> None:
        for session in self.sessions:
            session.running = False
        while any(session.waits for session in self.sessions):
            self._connection.turn()


def measure(
    servers: dict[str, ServerProcess], method: str, in_flight: int, seconds: float, windows: int
) -> list[Result]:
    """Each transport's result, aio's first."""
    loads = {name: Load(server, METHODS[method], in_flight) for name, server in servers.items()}
    for load in loads.values():
        load.window(seconds / 4)
    turns = [{name: load.window(seconds) for name, load in loads.items()} for _ in range(windows)]
    checked = {name: load.close() for name, load in loads.items()}
    return [
        Result(
            method,
            in_flight,
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
        for name in servers
    ]


def run(in_flight: Sequence[int], seconds: float, windows: int) -> list[Result]:
    """Measure every method at every number of calls in flight."""
    server_core, load_core = machine.choose_cores()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        H64.write(Path(folder))
        servers = {
            name: stack.enter_context(
                serving(Path(folder), server_core, "--store", "none", "--transport", name)
            )
            for name in TRANSPORTS
        }
        stack.enter_context(machine.pinned(load_core))
        return [
            result
            for method in METHODS
            for count in in_flight
            for result in measure(servers, method, count, seconds, windows)
        ]


def table(results: Sequence[Result]) -> str:
    """The results in Markdown."""
    lines = [
        "| method | in flight | transport | steps/s | to aio | server CPU µs a step "
        "| p50 ms | p99 ms |",
        "|---|--:|---|--:|--:|--:|--:|--:|",
    ]
    lines += [
        f"| {r.method} | {r.in_flight:,} | {r.transport} | {r.steps_per_second:,.0f} "
        f"| {r.ratio:.1f} x | {r.server_microseconds:,.0f} | {r.p50_ms:,.2f} | {r.p99_ms:,.2f} |"
        for r in results
    ]
    return "\n".join(lines)


def main() -> int:
    """Exit status 0, or a traceback where an answer is wrong."""
    parser = argparse.ArgumentParser(prog="benchmarks.unary", description=__doc__)
    parser.add_argument("--in-flight", type=int, nargs="*", default=IN_FLIGHT)
    parser.add_argument("--seconds", type=float, default=2.0, help="length of a window")
    parser.add_argument("--windows", type=int, default=5, help="the medians are printed")
    arguments = parser.parse_args()
    when, where = machine.now(), machine.description()
    results = run(arguments.in_flight, arguments.seconds, arguments.windows)
    checked = sum(result.checked_steps for result in results)
    print(f"h64; {when}; {where}; medians of {arguments.windows} windows of {arguments.seconds:g} "
          f"s by turns; {checked:,} steps equal to the NumPy LSTM's within 1e-5\n")  # fmt: skip
    print(table(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
