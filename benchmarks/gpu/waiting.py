"""What a server loses by waiting for its GPU: all that could be gained by doing more meanwhile.

Servers whose engine computes nothing: it lays a run's rows where a GPU would fetch them, waits as
long as a GPU would take, without Python's lock, and answers zeros. Beside each other on one core,
the load on another, by turns: `python -m benchmarks.gpu.waiting`.
"""

from __future__ import annotations

import argparse
import ctypes
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np

from benchmarks.columns import ColumnsLoad
from benchmarks.gpu.tables import table
from benchmarks.machine import choose_cores, pinned, started
from benchmarks.models import H64
from server.engine.engine import Asked, Engine, EngineRows, Floats

SLACK = 29  # PR_SET_TIMERSLACK: else the kernel wakes a thread up to 50 us late


@dataclass(frozen=True)
class Gpu:
    """What a run takes of it, in microseconds: at least, and a row."""

    name: str
    least: float
    row: float

    @property
    def words(self) -> list[str]:
        """For the server's command."""
        return [str(self.least), str(self.row)]


NONE = Gpu("no wait", 0, 0)
GPUS = (NONE, Gpu("2x128", 50, 0.06), Gpu("3x480", 80, 0.4), Gpu("2x1024", 100, 1.2))
"""As runs of these networks are reckoned: 30 TFLOP/s in float32, behind the chain of kernels."""
AHEAD, ALONE = "ahead", "alone"
"""Whether the next run is asked for while one is under way."""
WAYS = ((NONE, ALONE), *((gpu, how) for gpu in GPUS[1:] for how in (ALONE, AHEAD)))
LOADS = ((64, 8), (256, 8), (1024, 2), (1024, 4))
"""Rows of a message, and messages under way."""


class Waiting(Engine):
    """Takes time alone, in one thread, one run behind the other, as the engine on CUDA does."""

    any_thread = False
    gpu = NONE
    ahead = True

    def begin(self) -> None:
        """Wake up in time, in this thread."""
        self._libc = ctypes.CDLL(None)
        self._libc.prctl(SLACK, 1, 0, 0, 0)
        most = self.manifest.max_batch
        self._input = np.zeros((most, self.manifest.inputs_width), np.float32)
        self._output = np.zeros((most, self.manifest.outputs_width), np.float32)
        self._free_at = 0.0

    def overlaps(self, rows: EngineRows) -> bool:
        """As on CUDA, if it is to be so here."""
        return self.ahead

    def ask(self, rows: EngineRows) -> Asked:
        """Zeros, when it is time."""
        count = len(rows.slots)
        self._input[:count] = rows.features.reshape(count, -1)
        takes = 1e-6 * (self.gpu.least + self.gpu.row * count) if self.gpu.least else 0.0
        self._free_at = max(time.monotonic(), self._free_at) + takes
        return Timed(self, self._free_at, count)

    def run(self, rows: EngineRows) -> Floats:
        """The same at once."""
        return self.ask(rows).outputs()

    def wait(self, until: float, count: int) -> Floats:
        """Zeros, then."""
        if (left := until - time.monotonic()) > 0:
            self._libc.nanosleep((ctypes.c_long * 2)(*divmod(int(1e9 * left), 10**9)), None)
        return self._output[:count, None].copy()


@dataclass(frozen=True)
class Timed:
    """A run that takes until some moment."""

    engine: Waiting
    until: float
    count: int

    def over(self) -> bool:
        """Whether it has come."""
        return time.monotonic() >= self.until

    def outputs(self) -> Floats:
        """When it has."""
        return self.engine.wait(self.until, self.count)


def serve(words: Sequence[str]) -> None:
    """A server's process: what its GPU takes, whether a run is asked for while one is under way,
    and the server's own flags."""
    Waiting.gpu, Waiting.ahead = Gpu("", float(words[0]), float(words[1])), words[2] == AHEAD
    sys.argv[1:] = words[3:]
    from server.serving import loader

    with (
        mock.patch.object(loader, "open_engine", Waiting),
        mock.patch.object(loader, "probe", lambda *_: None),
    ):
        from server.__main__ import main

        sys.exit(main())


def measure(rounds: int, seconds: float) -> list[tuple[str, ...]]:
    """For each load, steps a second without a wait, and what share of it each GPU leaves."""
    server_core, load_core = choose_cores()
    with ExitStack() as stack:
        repository = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        H64.write(repository)
        flags = ["--model-repository", str(repository), "--store", "none", "--device", "cpu"]
        flags += ["--port", "0", "--metrics-port", "0"]
        command = [sys.executable, "-m", "benchmarks.gpu.waiting", "serve"]
        servers = [
            stack.enter_context(started([*command, *gpu.words, how, *flags], server_core))
            for gpu, how in WAYS
        ]
        stack.enter_context(pinned(load_core))
        addresses = [server.address for server in servers]
        return [_row(addresses, *load, rounds, seconds) for load in LOADS]


def _row(
    addresses: Sequence[str], rows: int, in_flight: int, rounds: int, seconds: float
) -> tuple[str, ...]:
    loads = [ColumnsLoad(each, f"{rows}-{in_flight}", rows, in_flight) for each in addresses]
    rates = [[_rate(load, seconds) for load in loads] for _ in range(rounds)]
    for load in loads:
        load.leave()
    plain = statistics.median(turn[0] for turn in rates)
    shares = [[turn[at] / turn[0] for turn in rates] for at in range(1, len(loads))]
    return f"{rows:,}", str(in_flight), f"{plain:,.0f}", *map(_spread, shares)


def _spread(shares: Sequence[float]) -> str:
    low, middle, high = statistics.quantiles(shares, n=4)
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def _rate(load: ColumnsLoad, seconds: float) -> float:
    load.go()
    load.run(seconds / 4)
    before = load.steps
    load.run(seconds)
    rate = (load.steps - before) / seconds
    load.rest()
    return rate


def main() -> None:
    """Print the table."""
    if sys.argv[1:2] == ["serve"]:
        serve(sys.argv[2:])
    parser = argparse.ArgumentParser(prog="benchmarks.gpu.waiting", description=__doc__)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--seconds", type=float, default=0.5, help="of each load in each round")
    given = parser.parse_args()
    heads = [
        "rows a message:",
        "under way:",
        "steps/s, no wait:",
        *(f"{gpu.name}, {how}:" for gpu, how in WAYS[1:]),
    ]
    print(table("|".join(heads), measure(given.rounds, given.seconds)))


if __name__ == "__main__":
    main()
