"""All of it in one command: tables in Markdown and plots, with the machine, versions and seeds.

Writes `benchmarks/MEASURED.md` and `benchmarks/plots/*.svg`; some ten minutes. tritonserver is
measured where it is installed (`benchmarks/triton/install.sh`). `make bench`.
"""

from __future__ import annotations

import argparse
import platform
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")
import matplotlib.pyplot as plt  # the backend first
from matplotlib.ticker import NullFormatter, StrMethodFormatter

from benchmarks import arrivals, births, machine, residents, singles, steps
from benchmarks.triton import server as triton

FOLDER = Path(__file__).resolve().parent
PACKAGES = ("onnxruntime-gpu", "numpy", "protobuf", "grpcio", "hpack")
COLOURS = {
    "native": "#0b6e4f", "aio": "#a63d40", "triton": "#5f7fbf", "echo": "#999999",
    "the engine alone": "#999999", "ONNX's LSTM alone": "#5f7fbf",
}  # fmt: skip

Point = tuple[float, float]


def plot(
    file: Path,
    title: str,
    x: str,
    y: str,
    lines: Sequence[tuple[str, Sequence[Point]]],
    scales: tuple[str, str] = ("log", "log"),
) -> None:
    """One figure, a line a side; a linear axis begins at 0."""
    figure, axes = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
    for label, points in lines:
        axes.plot(*zip(*points, strict=True), marker="o", label=label, color=COLOURS.get(label))
    axes.set(title=title, xlabel=x, ylabel=y, xscale=scales[0], yscale=scales[1])
    limits = (axes.set_xlim, axes.set_ylim)
    for at, axis in enumerate((axes.xaxis, axes.yaxis)):
        axis.set_major_formatter(StrMethodFormatter("{x:,.10g}"))
        axis.set_minor_formatter(NullFormatter())
        if scales[at] == "linear":
            highest = max(point[at] for _, points in lines for point in points)
            limits[at](0, 1.05 * highest)
    axes.grid(visible=True, which="both", alpha=0.2)
    axes.legend(frameon=False)
    figure.savefig(file, metadata={"Date": None})
    plt.close(figure)


def by_side(results: Sequence[singles.Result], method: str, value: str) -> list[tuple[str, Any]]:
    """Lines of a method: a value by calls in flight, for each server."""
    mine = [result for result in results if result.method == method]
    sides = dict.fromkeys(result.side for result in mine)
    return [
        (side, [(r.in_flight, getattr(r, value)) for r in mine if r.side == side]) for side in sides
    ]


def plots(
    folder: Path,
    calls: Sequence[singles.Result],
    ways: Sequence[steps.Result],
    offered: Sequence[arrivals.Result],
    resident: Sequence[residents.Result],
) -> None:
    """All figures."""
    plot(
        folder / "cpu-by-in-flight.svg", "Server CPU a unary Step", "calls in flight", "µs",
        by_side(calls, "Step", "server_microseconds"),
    )  # fmt: skip
    plot(
        folder / "rate-by-in-flight.svg", "Unary Steps a second", "calls in flight", "steps/s",
        by_side(calls, "Step", "steps_per_second"),
    )  # fmt: skip
    plot(
        folder / "latency-by-load.svg", "Unary Steps at random moments", "calls/s", "ms",
        [
            ("p50", [(r.asked_per_second, r.p50_ms) for r in offered]),
            ("p99", [(r.asked_per_second, r.p99_ms) for r in offered]),
        ],
        ("linear", "log"),
    )  # fmt: skip
    alone = [way for way in ways if way.rows > 1 and way.connections == 1]
    columns = [way for way in alone if way.in_flight == steps.COLUMNAR_IN_FLIGHT]
    plot(
        folder / "rate-by-batch.svg", "Columnar stream", "rows a message", "steps/s",
        [
            ("native", [(way.rows, way.steps_per_second) for way in columns]),
            ("the engine alone", [(way.batch, way.engine_steps_per_second) for way in columns]),
            ("ONNX's LSTM alone", [(way.batch, way.plain_steps_per_second) for way in columns]),
        ],
        ("log", "linear"),
    )  # fmt: skip
    plot(
        folder / "cost-by-sessions.svg", "Server CPU a step", "sessions there are", "µs",
        [("native", [(r.sessions, r.server_microseconds) for r in resident])],
        ("log", "linear"),
    )  # fmt: skip


def main() -> int:
    """Exit status 0, or a traceback where an answer is wrong."""
    parser = argparse.ArgumentParser(prog="benchmarks.everything", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="short windows, few points")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder to write to")
    given = parser.parse_args()
    quick, folder = given.quick, given.out
    (folder / "plots").mkdir(parents=True, exist_ok=True)  # or all would be measured in vain
    when, where = machine.now(), machine.description()
    _say("ways in")
    ways = steps.run(0.15 if quick else 2.0, 1 if quick else 5)
    _say("single steps")
    in_flight = (1, 64) if quick else singles.IN_FLIGHT
    calls = singles.run(in_flight, 0.1 if quick else 1.0, 1 if quick else 5)
    _say("calls at random moments")
    offered = arrivals.run((0.3, 0.7) if quick else arrivals.SHARES, 0.3 if quick else 4.0)
    _say("sessions that are there")
    resident = residents.run((1_024, 2_048) if quick else residents.SESSIONS, 0.1 if quick else 2.0)
    _say("whole lives")
    lives = births.run(500 if quick else 100_000, 1 if quick else 3)
    plots(folder / "plots", calls, ways, offered, resident)
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    if triton.ENVIRONMENT.exists():
        versions += ", tritonserver 2.51"
    (folder / "MEASURED.md").write_text(
        f"# Measured by `make bench`\n\n"
        f"h64 (16 features, 64 units, 32 outputs); {when}; {where}; Python "
        f"{platform.python_version()}, {versions}. Seeds are fixed. The server has one core, the "
        f"load the other; medians of windows; every reply is looked at, followed sessions equal "
        f"the NumPy LSTM's. Compare within a table: the machine is shared.\n\n"
        f"## Ways in\n\n{steps.table(ways)}\n\n![](plots/rate-by-batch.svg)\n\n"
        f"## Single steps, by turns\n\n{singles.table(calls)}\n\n"
        f"![](plots/rate-by-in-flight.svg)\n![](plots/cpu-by-in-flight.svg)\n\n"
        f"## Calls at random moments\n\n{arrivals.table(offered)}\n\n"
        f"![](plots/latency-by-load.svg)\n\n"
        f"## Sessions that are there\n\n{residents.table(resident)}\n\n"
        f"![](plots/cost-by-sessions.svg)\n\n"
        f"## Whole lives\n\n{births.table(lives)}\n"
    )
    return 0


def _say(what: str) -> None:
    print(f"measuring {what}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
