"""How long runs of single steps take: on the GPU captured and eager, in both graphs; on the CPU.

From features on the host to outputs on the host. Sessions of a batch are strewn over the arena, as
in a server, and others in each run.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from benchmarks.gpu.hardware import the_device
from benchmarks.gpu.options import Options, Say
from benchmarks.gpu.subjects import CPU, WAYS, Subject, opened, single_rows
from server.bundle.manifest import SINGLE, SINGLE_CUDA
from server.engine.device import Device
from server.engine.engine import Engine, EngineRows
from server.errors import BadModel

FEWEST_RUNS, WARM_UP, LONGEST = 5, 1.0, 3.0
"""Runs of a line; seconds after which warming up ends, and the line itself with fewer runs."""
BATCHES = 8  # different ones of a size


def run(options: Options, say: Say) -> None:
    """Say a line for each batch; the ways that serve come first, in case that time runs out."""
    device = the_device(options)
    for way, subject, where, threads in _ways(options.models, device):
        try:
            for line in _lines(subject, where, threads, options):
                say("steps", model=subject.model, way=way, **line)
        except BadModel as error:
            say("left out", part=f"steps of {subject.model}, {way}", why=str(error))


Way = tuple[str, Subject, Device, int]


def _ways(models: Sequence[str], device: Device) -> Iterator[Way]:
    cores = len(os.sched_getaffinity(0))
    on_gpu = device.kind == "cuda"
    for graph in WAYS if on_gpu else ():
        for model in models:
            yield f"captured, {WAYS[graph]}", Subject(model, graph), device, 1
    for model in models:
        yield "CPU, 1 thread", Subject(model), CPU, 1
    for graph in (SINGLE_CUDA, SINGLE) if on_gpu else ():
        for model in models:
            eager = replace(device, captures=False)
            yield f"eager, {WAYS[graph]}", Subject(model, graph), eager, 1
    for model in models if cores > 1 else ():
        yield f"CPU, {cores} threads", Subject(model), CPU, cores


def _lines(
    subject: Subject, device: Device, threads: int, options: Options
) -> Iterator[dict[str, float]]:
    slots, most = max(options.table_slots, *options.batches), max(options.batches)
    with opened(subject.bundle(most), device, slots, threads) as engine:
        for batch in options.batches:
            times = _times(engine, _batches(subject, slots, batch), options.seconds)
            p50, p99 = np.percentile(times, [50, 99])
            rate = batch * len(times) / sum(times)
            yield {
                "batch": batch, "runs": len(times), "p50": float(p50), "p99": float(p99),
                "steps_per_second": rate,
            }  # fmt: skip


def _batches(subject: Subject, slots: int, batch: int) -> list[EngineRows]:
    rng = np.random.default_rng(batch)
    return [
        single_rows(rng, rng.permutation(slots)[:batch] + 1, subject.inputs) for _ in range(BATCHES)
    ]


def _times(engine: Engine, batches: Sequence[EngineRows], seconds: float) -> list[float]:
    begun = time.perf_counter()
    for each in batches:  # all, so that their rows of the arenas were touched
        engine.run(each)
        if time.perf_counter() - begun > WARM_UP:
            break
    times: list[float] = []
    begun = time.perf_counter()
    while (took := time.perf_counter() - begun) < seconds or (
        len(times) < FEWEST_RUNS and took < LONGEST
    ):
        started = time.perf_counter()
        engine.run(batches[len(times) % BATCHES])
        times.append(time.perf_counter() - started)
    return times
