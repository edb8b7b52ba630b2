"""CUDA beside the CPU: the same outputs, arenas updated in place, and how fast steps are.

`make gpu-proof`, or `python -m benchmarks.gpu_proof`; needs onnxruntime-gpu, onnx and numpy alone.
`--device cpu` runs the same on the CPU. Exit status: 0 all is well, 1 a check failed, 2 no CUDA.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from benchmarks import device_checks as checks
from benchmarks import machine
from benchmarks.models import DEVICE_SHAPES, Shape, rows_of
from server.engine.device import Device, DeviceError, choose
from server.engine.engine import Engine, EngineRows
from server.engine.opening import open_engine

WARM_UP_RUNS, FEWEST_RUNS = 5, 5


def main(arguments: Sequence[str] | None = None) -> int:
    """Check and measure, printing as it goes."""
    options = _options(arguments)
    try:
        device = choose(options.device)
    except DeviceError as error:
        print(f"gpu-proof: {error}", file=sys.stderr)
        return 2
    shapes = [shape for shape in DEVICE_SHAPES if shape.name in options.models]
    print(f"{_hardware(device)}; onnxruntime {onnxruntime.__version__}; "
          f"{machine.now()}; float32 throughout, TF32 off\n")  # fmt: skip
    document: dict[str, Any] = {"device": _hardware(device)}
    good = _prove_parity(shapes, device, document)
    good &= _prove_in_place(shapes, device, options.capacities, document)
    _measure(shapes, device, options, document)
    if options.json:
        options.json.write_text(json.dumps(document, indent=1) + "\n")
    print("\nall checks passed" if good else "\nCHECKS FAILED; see above")
    return 0 if good else 1


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    names = [shape.name for shape in DEVICE_SHAPES]
    parser = argparse.ArgumentParser(prog="benchmarks.gpu_proof", description=__doc__)
    add = parser.add_argument
    add("--device", choices=("cuda", "cpu"), default="cuda")
    add("--models", nargs="+", choices=names, default=names)
    add("--batches", nargs="+", type=int, default=[1, 4, 16, 64, 256, 1024, 4096])
    add("--widths", nargs="+", type=int, default=[1, 16], help="steps a row")
    add("--capacities", nargs="+", type=int, default=[1_000, 100_000, 1_000_000])
    add("--seconds", type=float, default=0.5, help="for each line of the last table")
    add("--json", type=Path, help="write the figures here too")
    return parser.parse_args(arguments)


def _hardware(device: Device) -> str:
    tool = shutil.which("nvidia-smi")
    if device.kind == "cpu" or tool is None:
        return f"{device.name}: {machine.description()}"
    query = [tool, "--query-gpu=name,driver_version", "--format=csv,noheader"]
    answer = subprocess.run(query, capture_output=True, text=True, check=False)
    return f"{device.name}: {answer.stdout.strip()}; host {machine.description()}"


def _prove_parity(shapes: list[Shape], device: Device, document: dict[str, Any]) -> bool:
    results = [result for shape in shapes for result in checks.compare_with_cpu(shape, device)]
    document["parity"] = [asdict(result) for result in results]
    print(f"## {device.name} against the CPU\n\nThe largest difference of an output or a final "
          "state over the CPU's largest value; "
          f"{checks.SESSIONS} sessions in shuffled batches; at most {checks.TOLERANCE:g}.\n\n"
          "| model | graph | steps | outputs | states | |\n|---|---|--:|--:|--:|---|")  # fmt: skip
    for r in results:
        verdict = "same" if r.good else "DIFFERENT"
        print(f"| {r.model} | {r.graph} | {r.steps:,} | {r.outputs:.1e} | {r.states:.1e} "
              f"| {verdict} |")  # fmt: skip
    return all(result.good for result in results)


def _prove_in_place(
    shapes: list[Shape], device: Device, capacities: list[int], document: dict[str, Any]
) -> bool:
    rows = checks.check_in_place(shapes[0], device, sorted(capacities))
    document["in_place"] = [asdict(row) for row in rows]
    print(f"\n## Arenas in place\n\nThe server's probe at each capacity; runs of "
          f"{checks.BATCH} rows (ragged: 16 steps each), median of {checks.ROUNDS}.\n\n"
          "| model | graph | slots | arenas, MiB | a run, µs | probe |\n"
          "|---|---|--:|--:|--:|---|")  # fmt: skip
    for r in rows:
        print(f"| {r.model} | {r.graph} | {r.capacity:,} | {r.state_bytes / 2**20:,.1f} "
              f"| {r.step_seconds * 1e6:,.0f} | {r.problem or 'passed'} |")  # fmt: skip
    flat = checks.is_flat(rows)
    print(f"\nEvery arena kept its address; the cost is {'flat' if flat else 'NOT FLAT'}.")
    return flat and not any(row.problem for row in rows)


def _measure(
    shapes: list[Shape], device: Device, options: argparse.Namespace, document: dict[str, Any]
) -> None:
    print("\n## Latency of a run, features to outputs on the host\n\nOne step a row takes the "
          "single-step graph, more the ragged one.\n\n"
          "| model | steps a row | batch | runs | p50 µs | p99 µs | steps/s |\n"
          "|---|--:|--:|--:|--:|--:|--:|")  # fmt: skip
    lines = document["latency"] = []
    for shape in shapes:
        for r in measure_latency(shape, device, options.batches, options.widths, options.seconds):
            lines.append(asdict(r))
            print(f"| {r.model} | {r.width} | {r.batch:,} | {r.runs:,} | {r.p50 * 1e6:,.0f} "
                  f"| {r.p99 * 1e6:,.0f} | {r.steps_per_second:,.0f} |", flush=True)  # fmt: skip


@dataclass(frozen=True)
class Latency:
    """Runs of `batch` rows of `width` steps: from features on the host to outputs on the host."""

    model: str
    width: int
    batch: int
    runs: int
    p50: float
    p99: float
    steps_per_second: float


def measure_latency(
    shape: Shape, device: Device, batches: list[int], widths: list[int], seconds: float
) -> Iterator[Latency]:
    """Run each width and batch for about `seconds`."""
    engine = open_engine(shape.bundle(), device, max(batches))
    engine.begin()
    for width in widths:
        for batch in batches:
            features = np.random.default_rng(batch).normal(size=(batch, width, shape.inputs))
            times = _times(engine, rows_of(features.astype(np.float32)), seconds)
            p50, p99 = np.percentile(times, [50, 99])
            rate = batch * width * len(times) / sum(times)
            yield Latency(shape.name, width, batch, len(times), float(p50), float(p99), float(rate))


def _times(engine: Engine, rows: EngineRows, seconds: float) -> list[float]:
    for _ in range(WARM_UP_RUNS):
        engine.run(rows)
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < FEWEST_RUNS or time.perf_counter() < end:
        started = time.perf_counter()
        engine.run(rows)
        times.append(time.perf_counter() - started)
    return times


if __name__ == "__main__":
    sys.exit(main())
