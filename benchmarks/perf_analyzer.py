"""Triton's own load generator against both transports, and against tritonserver where it is there.

Sequences of 20 steps of the same model, by unary calls and by streams; all servers are alive on one
core, perf_analyzer runs on another, one server at a time, by turns. `make perf-analyzer`.
"""

from __future__ import annotations

import argparse
import itertools
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from threading import Thread

from benchmarks import machine
from benchmarks.models import H64
from benchmarks.singles import Server, sides

TOOL = "/opt/perf/bin/perf_analyzer"
WAYS = {"unary": (), "stream": ("--async", "--streaming")}
WINDOW, SETTLED, WATCHED = 2_000, 2.5, 2.0
"""Milliseconds of a window, of which it takes three; seconds after which the server's CPU time is
looked at, and for how long."""
MANY = 1_000_000
IDS = itertools.count(1, MANY)  # a run leaves sequences open, of which tritonserver knows


@dataclass(frozen=True)
class Seen:
    """What perf_analyzer told, and what the server took meanwhile."""

    steps_per_second: float
    p50: float
    p99: float
    server_microseconds: float


def look(root: Path, core: int, server: Server, way: str, concurrency: int) -> Seen:
    """One run of perf_analyzer in the Debian at `root`.

    Raises:
        RuntimeError: it failed, or was told of an error; the message holds what it said.
    """
    first = next(IDS)
    command = [
        "taskset", "-c", str(core), "chroot", str(root), TOOL, "-m", H64.name, "-u", server.address,
        "-i", "grpc", "--sequence-length", "20", "--sequence-length-variation", "0",
        "--concurrency-range", f"{concurrency}:{concurrency}", "--measurement-interval",
        str(WINDOW), "--stability-percentage", "999", *WAYS[way],
        "--sequence-id-range", f"{first}:{first + MANY}",
    ]  # fmt: skip
    shares: list[float] = []
    watch = Thread(target=_watch, args=(server, shares))
    watch.start()
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    watch.join()
    said = done.stdout + done.stderr
    if done.returncode or re.search("error|fail", said, re.IGNORECASE):
        raise RuntimeError(said)
    rate, p50, p99 = (float(re.findall(rf"{name}: ([\d.]+)", said)[-1]) for name in
                      ("Throughput", "p50 latency", "p99 latency"))  # fmt: skip
    return Seen(rate, p50 / 1e3, p99 / 1e3, 1e6 * shares[0] / rate)


def _watch(server: Server, shares: list[float]) -> None:
    """The share of a core that the server takes while the load is steady."""
    time.sleep(SETTLED)
    used, begun = server.cpu_seconds(), time.perf_counter()
    time.sleep(WATCHED)
    shares.append((server.cpu_seconds() - used) / (time.perf_counter() - begun))


def run(root: Path, concurrencies: list[int], turns: int) -> Iterator[str]:
    """Rows of the table."""
    on_server, on_load = machine.choose_cores()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        servers = {
            name: stack.enter_context(each)
            for name, each in sides(Path(folder), on_server)
            if name != "echo"
        }
        for way in WAYS:
            for concurrency in concurrencies:
                seen: dict[str, list[Seen]] = {name: [] for name in servers}
                for _ in range(turns):
                    for name, server in servers.items():
                        seen[name].append(look(root, on_load, server, way, concurrency))
                yield from (_row(way, concurrency, *each) for each in seen.items())


def _row(way: str, concurrency: int, name: str, seen: list[Seen]) -> str:
    rate, p50, p99, cpu = (
        statistics.median(getattr(each, field) for each in seen)
        for field in ("steps_per_second", "p50", "p99", "server_microseconds")
    )
    return f"| {way} | {concurrency} | {name} | {rate:,.0f} | {cpu:,.0f} | {p50:.2f} | {p99:.2f} |"


def main() -> int:
    """Exit status 0, or a traceback where a server or perf_analyzer failed."""
    parser = argparse.ArgumentParser(prog="benchmarks.perf_analyzer", description=__doc__)
    parser.add_argument("root", type=Path, help="of a Debian with perf_analyzer")
    parser.add_argument("--concurrency", type=int, nargs="*", default=[1, 64])
    parser.add_argument("--turns", type=int, default=3, help="the medians are printed")
    arguments = parser.parse_args()
    print(f"h64; {machine.now()}; {machine.description()}; medians of {arguments.turns} turns\n")
    print("| way | concurrency | server | steps/s | server CPU µs a step | p50 ms | p99 ms |")
    print("|---|--:|---|--:|--:|--:|--:|")
    for row in run(arguments.root, arguments.concurrency, arguments.turns):
        print(row, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
