"""The whole path: a server's process, steps over gRPC, one by one and in columns; on the GPU, and
then on the CPU of the same machine.

The load has one core, the server all others. Every reply is looked at, and a session's answers are
compared with the NumPy LSTM's.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks import machine
from benchmarks.calls import UnaryLoad
from benchmarks.columns import ColumnsLoad
from benchmarks.gpu.hardware import the_device
from benchmarks.gpu.options import Options, Say
from benchmarks.machine import ServerProcess
from benchmarks.models import H64
from benchmarks.steps import window

UNARY, COLUMNAR = "unary Step", "columnar stream"
IN_FLIGHT = 2
"""Columnar messages on the stream, with different sessions."""
NEAR = {"cpu": 1e-5, "cuda": 1e-4}
"""By device, how far an answer may be from the NumPy LSTM's."""
WINDOW = 8
"""A server is watched so many times as long as a run of an engine."""


@dataclass(frozen=True)
class Way:
    """A way in: so many calls or messages under way, of `rows` steps each."""

    name: str
    rows: int
    in_flight: int

    def load(self, address: str) -> UnaryLoad | ColumnsLoad:
        """Its load, with sessions of its own."""
        name = f"{self.name}-{self.rows}-{self.in_flight}"
        if self.name == UNARY:
            return UnaryLoad(address, name, self.in_flight)
        return ColumnsLoad(address, name, self.rows, self.in_flight)


WAYS = (
    *(Way(UNARY, 1, n) for n in (1, 64, 1024)),
    *(Way(COLUMNAR, n, IN_FLIGHT) for n in (64, 256, 1024, 4096)),
)


def run(options: Options, say: Say) -> None:
    """Say a line for each way in, on the device and on the CPU."""
    the_device(options)
    largest = max(options.batches)
    ways = [way for way in WAYS if max(way.rows, way.in_flight) <= max(64, largest)]
    with tempfile.TemporaryDirectory() as folder:
        H64.write(Path(folder))
        for device in dict.fromkeys((options.device, "cpu")):
            sessions = sum(way.rows * way.in_flight for way in ways)
            flags = ("--store", "none", "--max-sessions", str(sessions))
            with serving(Path(folder), device, *flags) as server:
                for way in ways:
                    line = _measured(way, server, device, options.seconds * WINDOW)
                    say("served", device=device, way=way.name, rows=way.rows, **line)


@contextmanager
def serving(repository: Path, device: str, *flags: str) -> Iterator[ServerProcess]:
    """A server on all cores but one, which is this process's meanwhile.

    Raises:
        ModuleNotFoundError: of a package that the server needs.
    """
    mine, *others = sorted(os.sched_getaffinity(0))
    first, *more = others or [mine]
    with ExitStack() as stack:
        server = machine.serving(repository, first, *flags, device=device, more_cores=more)
        try:
            running = stack.enter_context(server)
        except RuntimeError as error:
            if missing := re.search(r"No module named '([^']+)'", str(error)):
                raise ModuleNotFoundError(missing[0], name=missing[1]) from error
            raise
        stack.enter_context(machine.pinned(mine))
        yield running


def _measured(way: Way, server: ServerProcess, device: str, seconds: float) -> dict[str, float]:
    load = way.load(server.address)
    load.go()
    load.run(seconds / 4)
    warm = len(load.took)
    seen = window(load, server, seconds)
    p50, p99 = np.percentile(load.took[warm:], [50, 99])
    return {
        "in_flight": way.in_flight,
        "steps_per_second": seen.steps / seen.seconds,
        "p50": float(p50),
        "p99": float(p99),
        "server_microseconds": seen.cpu / max(seen.steps, 1) * 1e6,
        "checked": load.finish(NEAR[device]),
    }
