"""Steps/s and server CPU a step for each way in, beside onnxruntime alone on the same batches: the
server's engine, over its arenas, in a loop; and ONNX's LSTM with nothing of ours around it.

The server runs on one core, the load on another, over loopback; onnxruntime alone runs on the
server's core just before each load, while the other core is kept busy too: on many machines the two
share what makes them fast. `make bench`, or `python -m benchmarks.steps`.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from benchmarks import machine
from benchmarks.calls import UnaryLoad
from benchmarks.columns import ColumnsLoad
from benchmarks.machine import ServerProcess, serving
from benchmarks.models import H64, rows_of
from benchmarks.plain import PlainLstm
from server.engine.device import Device
from server.engine.engine import Engine

# Columnar messages under way on a stream, with different sessions: the server decodes one while it
# runs the other.
COLUMNAR_IN_FLIGHT = 2


class Load(Protocol):
    """Sessions kept busy."""

    @property
    def steps(self) -> int:
        """Steps answered so far."""

    def go(self) -> None:
        """Begin."""

    def run(self, seconds: float) -> None:
        """Go on for so long. Raises WrongAnswer."""

    def finish(self) -> int:
        """Come to an end; returns how many steps were compared with the NumPy LSTM's."""


@dataclass(frozen=True)
class Way:
    """A way in: on each connection `in_flight` calls or messages at once, of `rows` rows each."""

    name: str
    rows: int
    in_flight: int
    connections: int = 1

    @property
    def batch(self) -> int:
        """Rows that may be ready at once, of which onnxruntime alone gets as many."""
        return self.rows if self.rows > 1 else self.in_flight

    def load(self, address: str) -> Load:
        """Its load."""
        name = f"{self.name}-{self.rows}-{self.in_flight}-{self.connections}"
        if self.name == UNARY:
            return UnaryLoad(address, name, self.in_flight)
        return ColumnsLoad(address, name, self.rows, self.in_flight, self.connections)


UNARY = "unary Step"
WAYS = (
    *(Way(UNARY, 1, n) for n in (1, 16, 64)),
    *(Way("stream, single steps", 1, n) for n in (1, 64)),
    *(Way("stream, columnar", n, COLUMNAR_IN_FLIGHT) for n in (64, 256, 1024)),
    Way("stream, columnar", 64, 8),  # which enter one run
    Way("stream, columnar", 256, COLUMNAR_IN_FLIGHT, connections=4),
)


@dataclass(frozen=True)
class Result:
    """Medians over the repeats of one way in, and onnxruntime alone on batches of `batch`."""

    way: str
    rows: int
    in_flight: int
    connections: int
    batch: int
    steps_per_second: float
    slowest: float
    fastest: float
    server_microseconds: float
    server_busy: float
    engine_steps_per_second: float
    engine_microseconds: float
    plain_steps_per_second: float
    checked_steps: int


@dataclass(frozen=True)
class Alone:
    """onnxruntime with no server around it, in a loop, at one batch size on one core."""

    steps_per_second: float
    cpu_microseconds: float


def measure_alone(batch: int, seconds: float, repeats: int) -> tuple[Alone, Alone]:
    """The server's engine, and ONNX's LSTM: medians of `repeats` rounds of `seconds`, by turns."""
    engine, plain = Engine(H64.bundle(), Device("cpu"), batch), PlainLstm(H64, batch)
    features = np.random.default_rng(batch).normal(size=(batch, H64.inputs)).astype(np.float32)
    rows = rows_of(features[:, None])
    ways = lambda: engine.run(rows), lambda: plain.step(features)
    for way in ways:
        _round(way, batch, seconds / 4)
    rounds = [[_round(way, batch, seconds) for way in ways] for _ in range(repeats)]
    ours, theirs = (_median(each) for each in zip(*rounds, strict=True))
    return ours, theirs


def _round(run: Callable[[], object], batch: int, seconds: float) -> Alone:
    steps, started, used = 0, time.perf_counter(), time.process_time()
    while (took := time.perf_counter() - started) < seconds:
        run()
        steps += batch
    return Alone(steps / took, (time.process_time() - used) / steps * 1e6)


def _median(rounds: Sequence[Alone]) -> Alone:
    return Alone(
        statistics.median(each.steps_per_second for each in rounds),
        statistics.median(each.cpu_microseconds for each in rounds),
    )


@dataclass(frozen=True)
class Window:
    """What was seen in one window."""

    seconds: float
    steps: int
    cpu: float


def _measure(
    way: Way, server: ServerProcess, seconds: float, repeats: int
) -> tuple[list[Window], int]:
    """Windows of `seconds` over one load that runs through, and steps checked against NumPy."""
    load = way.load(server.address)
    load.go()
    load.run(seconds / 2)
    windows = [window(load, server, seconds) for _ in range(repeats)]
    return windows, load.finish()


def window(load: Load, server: ServerProcess, seconds: float) -> Window:
    """Let a load that runs go on for so long."""
    started, steps, cpu = time.perf_counter(), load.steps, server.cpu_seconds()
    load.run(seconds)
    now, count, used = time.perf_counter(), load.steps, server.cpu_seconds()
    return Window(now - started, count - steps, used - cpu)


def _result(way: Way, windows: list[Window], checked: int, engine: Alone, plain: Alone) -> Result:
    rates = [window.steps / window.seconds for window in windows]
    return Result(
        way=way.name,
        rows=way.rows,
        in_flight=way.in_flight,
        connections=way.connections,
        batch=way.batch,
        steps_per_second=statistics.median(rates),
        slowest=min(rates),
        fastest=max(rates),
        server_microseconds=statistics.median(1e6 * w.cpu / max(w.steps, 1) for w in windows),
        server_busy=statistics.median(w.cpu / w.seconds for w in windows),
        engine_steps_per_second=engine.steps_per_second,
        engine_microseconds=engine.cpu_microseconds,
        plain_steps_per_second=plain.steps_per_second,
        checked_steps=checked,
    )


def run(seconds: float, repeats: int) -> list[Result]:
    """Measure every way in."""
    server_core, load_core = machine.choose_cores()
    results = []
    with tempfile.TemporaryDirectory() as folder:
        H64.write(Path(folder))
        with serving(Path(folder), server_core) as server, machine.pinned(load_core):
            for way in WAYS:
                with machine.pinned(server_core), machine.kept_busy(load_core):
                    beside = measure_alone(way.batch, seconds / 3, repeats)
                windows, checked = _measure(way, server, seconds, repeats)
                results.append(_result(way, windows, checked, *beside))
                print(f"measured {way}", file=sys.stderr)
    return results


def table(results: list[Result]) -> str:
    """The results in Markdown."""
    lines = [
        "| way in | connections | rows a message | in flight | steps/s (slowest to fastest) "
        "| server CPU µs a step | server core busy | onnxruntime alone, batch "
        "| the engine's steps/s | steps/s over its | server CPU / its "
        "| ONNX's LSTM's steps/s | steps/s over its |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for r in results:
        times = r.server_microseconds / r.engine_microseconds
        lines.append(
            f"| {r.way} | {r.connections} | {r.rows:,} | {r.in_flight} "
            f"| {r.steps_per_second:,.0f} ({r.slowest:,.0f} to {r.fastest:,.0f}) "
            f"| {r.server_microseconds:,.2f} | {r.server_busy:.0%} | {r.batch:,} "
            f"| {r.engine_steps_per_second:,.0f} "
            f"| {r.steps_per_second / r.engine_steps_per_second:.2f} | {times:,.1f} x "
            f"| {r.plain_steps_per_second:,.0f} "
            f"| {r.steps_per_second / r.plain_steps_per_second:.2f} |"
        )
    return "\n".join(lines)


def main() -> int:
    """Exit status 0, or a traceback where an answer is wrong."""
    parser = argparse.ArgumentParser(prog="benchmarks.steps", description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0, help="length of a window")
    parser.add_argument("--repeats", type=int, default=3, help="windows; the median is printed")
    parser.add_argument("--json", type=Path, help="write the results here too")
    arguments = parser.parse_args()
    when, where = machine.now(), machine.description()
    results = run(arguments.seconds, arguments.repeats)
    checked = sum(result.checked_steps for result in results)
    print(f"h64 (16 features, 64 units, 32 outputs); {when}; {where}; median of "
          f"{arguments.repeats} windows of {arguments.seconds:g} s; every reply's status and step "
          f"number checked, {checked:,} steps equal to the NumPy LSTM's within 1e-5\n")  # fmt: skip
    print(table(results))
    if arguments.json:
        machine.save(arguments.json, when, where, results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
