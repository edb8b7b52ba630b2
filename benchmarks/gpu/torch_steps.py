"""torch's own step on the same device: `nn.LSTM` (cuDNN), eager and as a captured graph.

Its states stay on the device and belong to the rows of one batch that never changes, so it neither
gathers nor scatters any: what it lacks is what a server needs. Features come from pinned memory of
the host and outputs go back there, as in a run of the engine. TF32 is off.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.gpu.options import SHAPES, Options, Say, Unusable

CUDA: Any = torch.cuda  # a part of either has no types
CUDNN: Any = torch.backends.cudnn
OUTPUTS = 32
WARM_UP_RUNS, FEWEST_RUNS = 5, 5


def run(options: Options, say: Say) -> None:
    """Say a line for each model, way and batch.

    Raises:
        Unusable: this torch knows no CUDA.
    """
    if options.device == "cuda" and not torch.cuda.is_available():
        raise Unusable(f"torch {torch.__version__} finds no CUDA")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    say("torch", version=torch.__version__, cudnn=str(CUDNN.version() or ""))
    for model in options.models:
        for batch in options.batches:
            for way, step in _steps(model, batch, options.device, say):
                times = _times(step, options.seconds)
                p50, p99 = np.percentile(times, [50, 99])
                say(
                    "steps", model=model, way=f"torch, {way}", batch=batch, runs=len(times),
                    p50=float(p50), p99=float(p99),
                    steps_per_second=batch * len(times) / sum(times),
                )  # fmt: skip


def _steps(
    model: str, batch: int, device: str, say: Say
) -> Iterator[tuple[str, Callable[[], object]]]:
    step = _Step(model, batch, device)
    yield "eager", step.eager
    if device != "cuda":
        return
    try:
        captured = step.captured()
    except RuntimeError as error:
        say("left out", part=f"torch, captured: {model}, {batch}", why=str(error).splitlines()[0])
        return
    yield "captured", captured


class _Step:
    """One step of all rows, from features on the host to outputs on the host."""

    def __init__(self, model: str, batch: int, device: str) -> None:
        layers, units, inputs = SHAPES[model]
        self._lstm = nn.LSTM(inputs, units, layers).to(device).eval()
        self._head = nn.Linear(units, OUTPUTS).to(device).eval()
        self._sent = self._on_host(batch, inputs, device).normal_()
        self._got = self._on_host(batch, OUTPUTS, device)
        self._x = torch.zeros(1, batch, inputs, device=device)
        self._states = [torch.zeros(layers, batch, units, device=device) for _ in range(2)]
        self._waits: Callable[[], object] = CUDA.synchronize if device == "cuda" else lambda: None

    @staticmethod
    def _on_host(batch: int, width: int, device: str) -> Tensor:
        return torch.zeros(batch, width, pin_memory=device == "cuda")

    @torch.no_grad()
    def eager(self) -> None:
        """Each kernel launched by itself."""
        self._x[0].copy_(self._sent, non_blocking=True)
        self._got.copy_(self._compute(), non_blocking=True)
        self._waits()

    @torch.no_grad()
    def captured(self) -> Callable[[], None]:
        """The same with all that is computed in one graph."""
        beside = CUDA.Stream()
        beside.wait_stream(CUDA.current_stream())
        with CUDA.stream(beside):
            for _ in range(3):
                self._compute()
        CUDA.current_stream().wait_stream(beside)
        graph = CUDA.CUDAGraph()
        with CUDA.graph(graph):
            outputs = self._compute()

        def step() -> None:
            with torch.no_grad():
                self._x[0].copy_(self._sent, non_blocking=True)
                graph.replay()
                self._got.copy_(outputs, non_blocking=True)
                self._waits()

        return step

    def _compute(self) -> Tensor:
        h, c = self._states
        y, (next_h, next_c) = self._lstm(self._x, (h, c))
        h.copy_(next_h)
        c.copy_(next_c)
        outputs: Tensor = self._head(y[0])
        return outputs


def _times(step: Callable[[], object], seconds: float) -> list[float]:
    for _ in range(WARM_UP_RUNS):
        step()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < FEWEST_RUNS or time.perf_counter() < end:
        started = time.perf_counter()
        step()
        times.append(time.perf_counter() - started)
    return times
