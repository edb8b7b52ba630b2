"""Chooses form and opset by measurement: each runs as it would be served, side by side.

CUDA's graph of single steps is chosen apart from the CPU's, and by captured runs, for eager ones
would tell how fast kernels are launched. Without a GPU it is written in the usual form.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from statistics import geometric_mean, median
from typing import Any

import numpy as np

from server.engine.device import Device
from server.engine.engine import Engine, EngineRows
from server.errors import BadModel
from training.graphs.stepping import rows, serve
from training.graphs.whole import GEMM, JOINED, OPERATOR, OPSETS, SCAN, Form, usual_form
from training.network import Network

BATCHES, CHUNK, ROUNDS = (1, 16, 128, 1024), 8, 12
SECONDS = 0.4
"""About, for one batch size of all candidates; one that would take longer is left out."""
GAIN = 0.95
"""Another form than the usual must take less than this share of the usual one's time."""

Times = dict[tuple[int, int], float]
"""Seconds a run by batch and chunk, where 1 is single.onnx: medians of interleaved runs."""


def choose_form(network: Network, device: Device) -> tuple[Form, list[dict[str, Any]]]:
    """The fastest form in float32, and what each took: on the CPU, and if `device` is CUDA, there.

    Raises:
        BadModel: onnxruntime cannot run the usual form.
    """
    usual, cpu = usual_form(network), Device("cpu")
    forms = [form for form in (usual, Form(SCAN, OPERATOR)) if form.allows(network)]
    by_form = measure(network, forms, cpu)
    single = fastest(by_form, usual, [(batch, 1) for batch in BATCHES]).single
    step = fastest(by_form, usual, [(batch, CHUNK) for batch in BATCHES]).step
    form = Form(step, single, usual.opset)
    by_opset = measure(network, [replace(form, opset=opset) for opset in OPSETS], cpu)
    chosen = fastest(by_opset, form, [(batch, t) for batch in BATCHES for t in (1, CHUNK)])
    told = [*_told("form", by_form), *_told("opset", by_opset)]
    if device.kind == "cpu":
        return chosen, told
    forms = [each for each in _for_cuda(chosen) if each.allows(network)]
    by_cuda = measure(network, forms, device, chunks=(1,))
    told += _told("cuda", by_cuda, (1,))
    return fastest(by_cuda, chosen, [(batch, 1) for batch in BATCHES]), told


def _for_cuda(form: Form) -> list[Form]:
    apart = replace(form, packed=False)
    return [*(replace(form, cuda=how) for how in (JOINED, GEMM, OPERATOR)), apart]


def measure(
    network: Network,
    forms: Sequence[Form],
    device: Device,
    batches: Sequence[int] = BATCHES,
    chunks: Sequence[int] = (1, CHUNK),
) -> dict[Form, Times]:
    """Every form's times; forms that onnxruntime cannot run, but for the first, are left out."""
    engines = {forms[0]: serve(network, forms[0], max(batches), device)}
    for form in forms[1:]:
        try:
            engines[form] = serve(network, form, max(batches), device)
        except BadModel:
            continue
    times: dict[Form, Times] = {form: {} for form in engines}
    for chunk in chunks:
        found = side_by_side(network, list(engines.values()), batches, chunk)
        for batch, seconds in found.items():
            for form, each in zip(times, seconds, strict=True):
                times[form][batch, chunk] = each
    return times


def fastest(measured: Mapping[Form, Times], usual: Form, cells: Iterable[tuple[int, int]]) -> Form:
    """By the mean ratio of times over `cells`, if it is clearly faster than the usual form."""
    base = measured[usual]
    shared = [cell for cell in cells if cell in base]

    def ratio(form: Form) -> float:
        return geometric_mean(measured[form][cell] / base[cell] for cell in shared)

    best = min(measured, key=ratio)
    return best if ratio(best) < GAIN else usual


def side_by_side(
    network: Network, engines: Sequence[Engine], batches: Sequence[int], chunk: int
) -> dict[int, list[float]]:
    """For each batch the engines' medians, as far as time allows; `network` says what features
    look like."""
    rng, found, round_took = np.random.default_rng(1), dict[int, list[float]](), 0.0
    for k, batch in enumerate(batches):
        if k and round_took * batch / batches[k - 1] > SECONDS / 2:
            break
        given = _given(network, batch, chunk, rng)
        for engine in engines:
            engine.run(given)
        started, taken = time.perf_counter(), list[list[float]]()
        while len(taken) < ROUNDS and time.perf_counter() - started < SECONDS:
            taken.append([_timed(engine, given) for engine in engines])
        found[batch] = [median(each) for each in zip(*taken, strict=True)]
        round_took = sum(found[batch])
    return found


def _given(network: Network, batch: int, chunk: int, rng: np.random.Generator) -> EngineRows:
    drawn = rng.normal(size=(batch, chunk, network.inputs)).astype(np.float32)
    features = network.mean + network.std * drawn
    return rows(range(batch), features, np.zeros(batch, np.bool_))


def _timed(engine: Engine, given: EngineRows) -> float:
    started = time.perf_counter()
    engine.run(given)
    return time.perf_counter() - started


def _told(
    compared: str, measured: Mapping[Form, Times], chunks: Sequence[int] = (1, CHUNK)
) -> list[dict[str, Any]]:
    return [
        {
            "compared": compared,
            "graph": _graph(compared, chunk),
            "form": _way(compared, form, chunk),
            "opset": form.opset,
            "chunk": chunk,
            "microseconds_by_batch": {
                str(batch): round(each * 1e6, 1) for (batch, t), each in times.items() if t == chunk
            },
        }
        for form, times in measured.items()
        for chunk in chunks
    ]


def _graph(compared: str, chunk: int) -> str:
    if chunk > 1:
        return "step"
    return "single.cuda" if compared == "cuda" else "single"


def _way(compared: str, form: Form, chunk: int) -> str:
    if chunk > 1:
        return form.step
    if compared == "cuda":
        return form.cuda + ("" if form.packed else ", states apart")
    return form.single
