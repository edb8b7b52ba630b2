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
import sys
import tempfile
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import cores
from benchmarks.models import H64
from benchmarks.server_process import serving as serving_tidegate
from benchmarks.sides import OURS, TRITON, Server, Side, Window, measure
from benchmarks.triton.server import serving as serving_triton

SESSIONS = (1, 64, 1000)


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
    server_core, load_core = cores.choose()
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
    when, where = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC", cores.machine()
    results = run(arguments.sessions, arguments.seconds, arguments.rounds)
    checked = sum(result.checked for result in results)
    print(f"h64 (16 features, 64 units, 32 outputs); {when}; {where}; median of "
          f"{arguments.rounds} windows of {arguments.seconds:g} s; {checked:,} outputs of followed "
          "sessions equal to the NumPy LSTM's (1e-5; 1e-4 for Triton)\n")  # fmt: skip
    print(table(results))
    if arguments.json:
        document = {"when": when, "machine": where, "results": [asdict(r) for r in results]}
        arguments.json.write_text(json.dumps(document, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
