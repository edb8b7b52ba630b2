"""From a trained model to a proven bundle: four ways to compute each output must agree first.

PyTorch over the whole session, the single-step graph stepped one observation at a time, the ragged
graph in chunks of random lengths, and the NumPy reference.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch

from training import graph
from training.bundle import write_bundle
from training.data import FEATURES, LABELS, UNITS, Recording
from training.model import StreamingLstm
from training.network import Floats, Network
from training.reference import NumpyNetwork

TOLERANCE = 1e-5
MAX_CHUNK = 64


class ParityError(RuntimeError):
    """The exported graphs do not compute what was trained; nothing was written."""


def export(
    folder: Path,
    model: StreamingLstm,
    train: Sequence[Recording],
    held_out: Sequence[Recording],
    story: Mapping[str, Any],
) -> dict[str, float]:
    """Prove the export on whole held-out sessions, then write the bundle; returns the errors.

    Raises:
        ParityError: an implementation differs by more than 1e-5 anywhere.
    """
    weights = model.weights()
    errors = prove(model, weights, held_out)
    write_bundle(
        folder,
        weights,
        features=_features(weights, train),
        outputs=[
            {
                "name": "exercise",
                "size": len(LABELS),
                "kind": "probability",
                "labels": list(LABELS),
            }
        ],
        max_chunk=MAX_CHUNK,
        description="Names the physiotherapy exercise from a watch's motion, after every sample.",
        training={**story, "versions": versions()},
        parity=errors,
    )
    return errors


def prove(
    model: StreamingLstm, weights: Network, sessions: Sequence[Recording]
) -> dict[str, float]:
    """The largest difference of each implementation from the NumPy reference in float64.

    Raises:
        ParityError: one is above 1e-5.
    """
    single, step = _open(graph.single_graph(weights)), _open(graph.step_graph(weights))
    errors = {"torch": 0.0, "single_steps": 0.0, "ragged_chunks": 0.0}
    reference = NumpyNetwork(weights, np.float64)
    for session in sessions:
        expected, _ = reference.run(session.signal, reference.initial())
        got = {
            "torch": _by_torch(model, session.signal),
            "single_steps": _by_single_steps(single, weights, session.signal),
            "ragged_chunks": _by_chunks(step, weights, session.signal),
        }
        for name, outputs in got.items():
            errors[name] = max(errors[name], float(np.abs(outputs - expected).max()))
    for name, error in errors.items():
        if not error <= TOLERANCE:
            raise ParityError(f"{name} differs from the reference by {error:.2e}")
    return errors


def versions() -> dict[str, str]:
    """What trained and exported."""
    packages = ("numpy", "onnx", "onnxruntime-gpu", "torch")
    return {"python": platform.python_version()} | {name: version(name) for name in packages}


def _features(weights: Network, train: Sequence[Recording]) -> list[dict[str, Any]]:
    """Means and deviations are those of the mirrored signals, ranges those of the raw ones."""
    every = np.concatenate([recording.signal for recording in train])
    return [
        {
            "name": name,
            "unit": unit,
            "mean": float(weights.mean[k]),
            "std": float(weights.std[k]),
            "min": float(every[:, k].min()),
            "max": float(every[:, k].max()),
        }
        for k, (name, unit) in enumerate(zip(FEATURES, UNITS, strict=True))
    ]


def _open(model: Any) -> onnxruntime.InferenceSession:
    content = model.SerializeToString()
    return onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])


def _by_torch(model: StreamingLstm, signal: Floats) -> Floats:
    with torch.no_grad():
        logits, _ = model.eval()(torch.from_numpy(signal)[None])
        outputs: Floats = torch.softmax(logits[0], -1).numpy()
        return outputs


def _by_single_steps(
    session: onnxruntime.InferenceSession, weights: Network, signal: Floats
) -> Floats:
    stepper = _Stepper(session, weights)
    return np.concatenate([stepper.step(row[None], {}) for row in signal])


def _by_chunks(session: onnxruntime.InferenceSession, weights: Network, signal: Floats) -> Floats:
    """Chunks of random length, padded behind with rubbish that must not matter."""
    rng = np.random.default_rng(0)
    stepper = _Stepper(session, weights)
    outputs = []
    for start, stop in _chunks(len(signal), rng):
        padded = rng.normal(size=(1, MAX_CHUNK, signal.shape[1])).astype(np.float32)
        padded[0, : stop - start] = signal[start:stop]
        lengths = np.array([stop - start], np.int32)
        outputs.append(stepper.step(padded, {"lengths": lengths})[0, : stop - start])
    return np.concatenate(outputs)


def _chunks(steps: int, rng: np.random.Generator) -> Iterator[tuple[int, int]]:
    start = 0
    while start < steps:
        stop = min(steps, start + int(rng.integers(1, MAX_CHUNK + 1)))
        yield start, stop
        start = stop


class _Stepper:
    """Steps slot 1 of arenas of two rows, from a fresh start."""

    def __init__(self, session: onnxruntime.InferenceSession, weights: Network) -> None:
        self._session, self._fresh = session, True
        self._arenas: dict[str, Floats] = {
            f"state.{name}": np.full((2, width), 9.0, np.float32)
            for name, width in weights.states()
        }

    def step(self, rows: Floats, more: dict[str, Any]) -> Floats:
        """One run; returns its output."""
        feeds = {"input": rows, "slots": np.array([1]), "fresh": np.array([self._fresh])}
        results = self._session.run(None, feeds | more | self._arenas)
        self._arenas = dict(zip(self._arenas, results[1:], strict=True))
        self._fresh = False
        output: Floats = results[0]
        return output
