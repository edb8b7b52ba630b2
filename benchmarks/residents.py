"""What sessions cost that are merely there: a step's time and the server's memory, by how many.

All sessions are resident and step in turn, 512 a message, two messages in flight; the server has
one core, the load another, no store. Memory is the server's own (RSS), less what the sessions'
state and remembered replies take, which is what a deployment is sized by; what each further session
takes says it without what messages and runs of this size take anyway. `python -m
benchmarks.residents`.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import machine
from benchmarks.columns import ColumnsLoad
from benchmarks.models import H64
from benchmarks.steps import window
from server.config import Config

SESSIONS = (1_024, 10_240, 102_400)
ROWS = 512
DEPTH = max(Config.model_fields["remembered_steps"].default, H64.bundle().manifest.max_chunk)
KNOWN_BYTES = 4 * 2 * 64 + DEPTH * (4 * 32 + 8)  # state; replies and their inputs' fingerprints


@dataclass(frozen=True)
class Result:
    """Medians over the windows."""

    sessions: int
    steps_per_second: float
    server_microseconds: float
    bytes_a_session: float
    """Beyond state and replies; the first row's is mostly what is there anyway."""
    checked_steps: int


def measure(
    folder: Path, core: int, load_core: int, sessions: int, seconds: float, empty: int
) -> Result:
    """A server of its own for so many sessions; one for few, without any, takes `empty` bytes."""
    flags = ("--store", "none", "--max-sessions", str(sessions))
    with machine.serving(folder, core, *flags) as server, machine.pinned(load_core):
        load = ColumnsLoad(server.address, "s", ROWS, sessions // ROWS, in_flight=2)
        load.go()
        load.run(seconds)
        while load.steps < (DEPTH + 1) * sessions:  # all memory for replies is in use
            load.run(0.1)
        windows = [window(load, server, seconds) for _ in range(5)]
        grown = machine.resident_bytes(server.pid) - empty
        checked = load.finish()
    return Result(
        sessions,
        statistics.median(each.steps / each.seconds for each in windows),
        statistics.median(1e6 * each.cpu / each.steps for each in windows),
        grown / sessions - KNOWN_BYTES,
        checked,
    )


def run(counts: Sequence[int], seconds: float) -> list[Result]:
    """Measure at each number of sessions."""
    core, load_core = machine.choose_cores()
    with tempfile.TemporaryDirectory() as folder:
        H64.write(Path(folder))
        with machine.serving(Path(folder), core, "--store", "none", "--max-sessions", "1") as few:
            empty = machine.resident_bytes(few.pid)
        return [measure(Path(folder), core, load_core, each, seconds, empty) for each in counts]


def table(results: Sequence[Result]) -> str:
    """The results in Markdown."""
    lines = [
        "| sessions | steps/s | server CPU µs a step | bytes a session, beyond state and replies "
        "| each further session |",
        "|--:|--:|--:|--:|--:|",
    ]
    lines += [
        f"| {r.sessions:,} | {r.steps_per_second:,.0f} | {r.server_microseconds:.2f} "
        f"| {r.bytes_a_session:,.0f} | {_further(results[at - 1], r) if at else ''} |"
        for at, r in enumerate(results)
    ]
    return "\n".join(lines)


def _further(fewer: Result, more: Result) -> str:
    grown = more.sessions * more.bytes_a_session - fewer.sessions * fewer.bytes_a_session
    return f"{grown / (more.sessions - fewer.sessions):,.0f}"


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(prog="benchmarks.residents", description=__doc__)
    parser.add_argument("--sessions", type=int, nargs="*", default=SESSIONS)
    parser.add_argument("--seconds", type=float, default=2.0, help="length of a window")
    arguments = parser.parse_args()
    print(f"h64; {machine.now()}; {machine.description()}\n")
    print(table(run(arguments.sessions, arguments.seconds)))


if __name__ == "__main__":
    main()
