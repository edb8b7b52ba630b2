"""Whole lives of sessions through the Python client: each is opened, stepped once and closed.

Many tasks, each with one session after the other. The server keeps its sessions in SQLite, on one
core; the client is on another. Outputs are compared with the NumPy LSTM's. `make bench-births`.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks import machine
from benchmarks.load import check_outputs
from benchmarks.models import H64, OUTPUTS
from tidegate import Client, ClientOptions

ALIVE = 20_000


@dataclass(frozen=True)
class Result:
    """What one round took; CPU in microseconds a session."""

    sessions: int
    seconds: float
    server_microseconds: float
    client_microseconds: float


async def live(client: Client, name: str, observation: np.ndarray) -> np.ndarray:
    """One session's life; its outputs."""
    async with client.session(H64.name, name) as session:
        return await session.step(observation)


async def play(server: machine.ServerProcess, count: int, seed: int) -> Result:
    """One round."""
    xs = np.random.default_rng(seed).normal(size=(count, H64.inputs)).astype(np.float32)
    outputs, left = np.empty((count, OUTPUTS), np.float32), iter(range(count))

    async def lives(client: Client) -> None:
        for k in left:
            outputs[k] = await live(client, f"{seed}-{k}", xs[k])

    async with Client(server.address, ClientOptions(timeout=120.0)) as client:
        cpu, own, started = server.cpu_seconds(), time.process_time(), time.perf_counter()
        await asyncio.gather(*(lives(client) for _ in range(ALIVE)))
        took = time.perf_counter() - started
        cpu, own = server.cpu_seconds() - cpu, time.process_time() - own
    for k in range(0, count, 997):
        check_outputs(xs[k : k + 1], outputs[k][None])
    return Result(count, took, cpu / count * 1e6, own / count * 1e6)


def run(count: int, rounds: int, *flags: str) -> list[Result]:
    """So many rounds over one server."""
    on_server, on_load = machine.choose_cores()
    with tempfile.TemporaryDirectory() as folder:
        H64.write(Path(folder) / "models")
        flags = flags or ("--data-folder", f"{folder}/data")
        flags += ("--max-sessions", str(2 * count))
        with (
            machine.serving(Path(folder) / "models", on_server, *flags) as server,
            machine.pinned(on_load),
        ):
            return [asyncio.run(play(server, count, seed)) for seed in range(rounds)]


def table(results: list[Result]) -> str:
    """Medians, in Markdown."""
    middle = [
        statistics.median(getattr(each, name) for each in results)
        for name in ("seconds", "server_microseconds", "client_microseconds")
    ]
    count = results[0].sessions
    return (
        "| sessions | seconds | server CPU a session | client CPU a session |\n"
        "|---:|---:|---:|---:|\n"
        f"| {count:,} | {middle[0]:.1f} | {middle[1]:.0f} µs | {middle[2]:.0f} µs |"
    )


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sessions", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    print(f"{machine.now()}, {machine.description()}\n")
    print(table(run(arguments.sessions, arguments.rounds)))


if __name__ == "__main__":
    main()
