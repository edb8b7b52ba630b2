"""The price of keeping sessions: steps/s and server CPU a step by store and mode, beside `none`; a
step's cost and a session's memory by how many are known; how fast sessions come back.

Each server has one core, the load and redis the other. Servers of a table are alive together and
measured by turns, so that all meet the same machine. `make bench-durability`, or
`python -m benchmarks.durability [--known 1000000]`.
"""

from __future__ import annotations

import argparse
import os
import queue
import signal
import statistics
import subprocess
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np

from benchmarks import machine
from benchmarks.machine import ServerProcess, serving
from benchmarks.models import H64
from tidegate.v1 import tidegate_pb2 as pb
from tidegate.v1 import tidegate_pb2_grpc as pb_grpc

ROWS, OPENS, IN_FLIGHT = 1024, 8192, 4
WINDOWS, SECONDS = 15, 2.0
RESIDENT = 10_000


class Sessions:
    """N sessions of one server over one stream, stepped in turn, `ROWS` a message."""

    def __init__(self, server: ServerProcess, count: int) -> None:
        self.server, self.count = server, count
        options = [("grpc.max_receive_message_length", -1)]
        self._channel = grpc.insecure_channel(server.address, options)
        self._out: queue.SimpleQueue[pb.StepBatch | None] = queue.SimpleQueue()
        stub = pb_grpc.TidegateStub(self._channel)
        self._replies = stub.StepStream(iter(self._out.get, None))
        self.counts = np.zeros(count, dtype=np.int64)
        values = np.random.default_rng(0).normal(size=(ROWS, H64.inputs))
        self._features = values.astype("<f4")
        self._next = self._sent = 0
        self._rows: deque[int] = deque()

    def name(self, create: bool) -> float:
        """Name every session; returns the seconds that it took."""
        started = time.monotonic()
        for at in range(0, self.count, OPENS):
            lanes = range(at, min(self.count, at + OPENS))
            opens = [pb.LaneOpen(lane=n, session_id=f"s{n}", create=create) for n in lanes]
            self._out.put(pb.StepBatch(model=H64.name, opens=opens))
            for lane, opened in zip(lanes, next(self._replies).opened, strict=True):
                assert not opened.HasField("error"), opened
                self.counts[lane] = opened.steps
        return time.monotonic() - started

    def send(self, among: int = 0) -> None:
        """Step the next sessions, of the first `among` alone if that is given."""
        among = among or self.count
        rows = np.arange(self._next, self._next + min(ROWS, among)) % among
        self._next = int(rows[-1] + 1) % among
        self._sent += 1
        self._out.put(
            pb.StepBatch(
                id=self._sent,
                model=H64.name,
                lanes=rows.astype("<u4").tobytes(),
                first_steps=self.counts[rows].astype("<u8").tobytes(),
                features=self._features[: len(rows)].tobytes(),
            )
        )
        self.counts[rows] += 1
        self._rows.append(len(rows))

    def receive(self) -> int:
        """The next reply's rows, every one of which must have been applied."""
        rows, reply = self._rows.popleft(), next(self._replies)
        assert reply.status == bytes(rows), reply.errors[:1]
        assert np.isfinite(np.frombuffer(reply.outputs, "<f4")).all()
        return rows

    def window(self, seconds: float, among: int = 0) -> tuple[float, float]:
        """Step for so long: steps/s, and the server's CPU µs a step."""
        for _ in range(IN_FLIGHT):
            self.send(among)
        cpu, started, steps = self.server.cpu_seconds(), time.monotonic(), 0
        while time.monotonic() - started < seconds:
            steps += self.receive()
            self.send(among)
        took, cpu = time.monotonic() - started, self.server.cpu_seconds() - cpu
        while self._rows:
            self.receive()
        return steps / took, cpu / steps * 1e6

    def step_all(self) -> float:
        """Step every session once; returns the seconds that it took."""
        started, self._next, sent = time.monotonic(), 0, 0
        while sent < self.count or self._rows:
            if sent < self.count and len(self._rows) < IN_FLIGHT:
                self.send()
                sent += ROWS
            else:
                self.receive()
        return time.monotonic() - started

    def close(self) -> None:
        """End the stream; the sessions stay."""
        self._out.put(None)
        for _ in self._replies:
            pass
        self._channel.close()


@dataclass(frozen=True)
class Price:
    """One store and mode, medians; `ratio` is to `none` in the same turns."""

    sessions: int
    mode: str
    steps_per_second: float
    server_microseconds: float
    ratio: float
    naming_seconds: float


@dataclass(frozen=True)
class Known:
    """A step's cost among `known` sessions, `RESIDENT` of them resident: of a few that step all the
    time, and of all in turn, which come from the store each time."""

    known: int
    hot_microseconds: float
    churn_steps_per_second: float
    bytes_a_session: float


@dataclass(frozen=True)
class Recovery:
    """After kill -9 of a server with so many sessions."""

    sessions: int
    start_seconds: float
    naming_seconds: float
    stepping_seconds: float


@contextmanager
def redis(folder: Path) -> Iterator[str]:
    """A redis-server on the load's core; its URL."""
    socket = folder / "redis.sock"
    command = ["redis-server", "--port", "0", "--unixsocket", str(socket), "--save", ""]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while not socket.exists():
        time.sleep(0.01)
    try:
        yield f"unix://{socket}"
    finally:
        process.terminate()
        process.wait()


def price(repository: Path, folder: Path, server_core: int, sessions: int) -> list[Price]:
    """Every store and mode, measured by turns."""
    usual = ["--max-sessions", str(max(sessions, RESIDENT)), "--drift-window", "0"]
    with ExitStack() as stack:
        url = stack.enter_context(redis(folder))
        lite = ["--store", "sqlite", "--data-folder"]
        modes = {
            "none": ["--store", "none"],
            "sqlite, write-behind": [*lite, str(folder / f"behind-{sessions}")],
            "redis, write-behind": ["--store", "redis", "--redis-url", f"{url}?db=0"],
            "sqlite, sync": [*lite, str(folder / f"sync-{sessions}"), "--durability", "sync"],
            "redis, sync": [
                "--store", "redis", "--redis-url", f"{url}?db=1", "--durability", "sync"
            ],
        }  # fmt: skip
        loads = {
            mode: Sessions(
                stack.enter_context(serving(repository, server_core, *usual, *flags)), sessions
            )
            for mode, flags in modes.items()
        }
        naming = {mode: load.name(create=True) for mode, load in loads.items()}
        windows: dict[str, list[tuple[float, float]]] = {mode: [] for mode in modes}
        for _ in range(WINDOWS):
            for mode, load in loads.items():
                windows[mode].append(load.window(SECONDS))
        for load in loads.values():
            load.close()
    return [_price(sessions, mode, windows, naming[mode]) for mode in modes]


def _price(
    sessions: int, mode: str, windows: dict[str, list[tuple[float, float]]], naming: float
) -> Price:
    pairs = zip(windows[mode], windows["none"], strict=True)
    return Price(
        sessions, mode,
        statistics.median(rate for rate, _ in windows[mode]),
        statistics.median(cpu for _, cpu in windows[mode]),
        statistics.median(mine / none for (mine, _), (none, _) in pairs),
        naming,
    )  # fmt: skip


def known(repository: Path, folder: Path, core: int, sessions: int) -> Known:
    """A server that knows many sessions and holds the state of few."""
    flags = ["--max-sessions", str(sessions), "--max-resident", str(min(sessions, RESIDENT))]
    flags += ["--drift-window", "0", "--data-folder", str(folder / f"known-{sessions}")]
    with serving(repository, core, *flags) as server:
        load = Sessions(server, sessions)
        before = _resident_bytes(server.pid)
        load.name(create=True)
        load.step_all()
        size = (_resident_bytes(server.pid) - before) / sessions
        hot = [load.window(SECONDS, min(ROWS, sessions))[1] for _ in range(WINDOWS)]
        churn = [load.window(SECONDS)[0] for _ in range(WINDOWS)]
        load.close()
    return Known(sessions, statistics.median(hot), statistics.median(churn), size)


def _resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def recovery(repository: Path, folder: Path, core: int, sessions: int) -> Recovery:
    """Kill a server with all its sessions stored, and step every one of them again."""
    flags = ["--max-sessions", str(sessions), "--data-folder", str(folder / "killed")]
    with serving(repository, core, *flags) as server:
        load = Sessions(server, sessions)
        load.name(create=True)
        load.step_all()
        stood = load.counts
        time.sleep(2.0 + sessions / 50_000)  # until all is stored
        os.kill(server.pid, signal.SIGKILL)
    started = time.monotonic()
    with serving(repository, core, *flags) as server:
        up = time.monotonic() - started
        load = Sessions(server, sessions)
        naming = load.name(create=False)
        assert (load.counts == stood).all(), "sessions are not where they were"
        stepping = load.step_all()
        load.close()
    return Recovery(sessions, up, naming, stepping)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sessions", type=int, nargs="*", default=[1_000, 10_000, 100_000])
    parser.add_argument("--known", type=int, nargs="*", default=[1_000, 10_000, 100_000])
    parser.add_argument("--killed", type=int, nargs="*", default=[100_000])
    chosen = parser.parse_args(arguments)
    server_core, load_core = machine.choose_cores()
    print(f"{machine.now()}, {machine.description()}")
    with tempfile.TemporaryDirectory() as name, machine.pinned(load_core):
        folder = Path(name)
        repository = folder / "models"
        H64.write(repository)
        _table(p for n in chosen.sessions for p in price(repository, folder, server_core, n))
        _table(known(repository, folder, server_core, n) for n in chosen.known)
        _table(recovery(repository, folder, server_core, n) for n in chosen.killed)


def _table(rows: Iterator[Price] | Iterator[Known] | Iterator[Recovery]) -> None:
    for at, row in enumerate(rows):
        values = vars(row)
        if at == 0:
            print("\n| " + " | ".join(key.replace("_", " ") for key in values) + " |")
            print("|" + "--:|" * len(values))
        told = [f"{v:,.3g}" if isinstance(v, float) and v < 100 else f"{v:,.0f}"
                if not isinstance(v, str) else v for v in values.values()]  # fmt: skip
        print("| " + " | ".join(told) + " |", flush=True)


if __name__ == "__main__":
    main()
