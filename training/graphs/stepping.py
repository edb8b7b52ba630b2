"""Graphs in the server's own engine, and whole sessions stepped through it.

What is measured and proven is what will be served: by single steps side by side, in ragged chunks,
or alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from server.bundle import manifest as manifests
from server.bundle.manifest import SINGLE, SINGLE_CUDA
from server.bundle.repository import Bundle
from server.engine.device import Device
from server.engine.engine import Engine, EngineRows
from server.engine.opening import open_engine
from training.graphs.packing import apart
from training.graphs.whole import Form, graphs
from training.network import Floats, Network

MAX_CHUNK = 64
RUBBISH = (np.nan, np.inf, -1e30, 3.0)


def engine_of(
    manifest: Mapping[str, Any], files: Mapping[str, bytes], sessions: int, device: Device
) -> Engine:
    """An engine over graphs that are not on disk yet, for sessions in slots 1, 2, ...

    Raises:
        BadModel: the manifest is malformed, or onnxruntime does not load a graph.
    """
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    text = json.dumps({**manifest, "files": digests})
    parsed = manifests.parse(text.encode(), str(manifest["name"]))
    return open_engine(Bundle(parsed, dict(files)), device, sessions)


def serve(
    network: Network,
    form: Form,
    sessions: int,
    device: Device,
    files: Mapping[str, bytes] | None = None,
) -> Engine:
    """An engine for a network, with as little of a manifest as it needs; for this thread.

    Args:
        files: its graphs, where they are not those of the form.

    Raises:
        BadModel: onnxruntime cannot run the form on the device.
    """
    manifest = {
        "format": manifests.FORMAT,
        "name": "candidate",
        "version": 1,
        "features": [{"name": f"x{k}"} for k in range(network.inputs)],
        "outputs": [{"name": "y", "size": network.outputs, "kind": "value"}],
        "states": [{"name": n, "shape": [w], "dtype": "float32"} for n, w in network.states()],
        "max_chunk": MAX_CHUNK,
        "max_batch": 4096,
    }
    engine = engine_of(manifest, files or graphs(network, form), sessions, device)
    engine.begin()
    return engine


def with_single(files: Mapping[str, bytes], name: str) -> dict[str, bytes]:
    """The files of a bundle whose one graph of single steps, on any device, is that of `name`."""
    others = {each: text for each, text in files.items() if each not in (SINGLE, SINGLE_CUDA)}
    return others | {SINGLE: files[name]}


def with_cuda_single(
    files: Mapping[str, bytes], states: Iterable[tuple[str, int]], device: Device
) -> dict[str, bytes]:
    """The same of CUDA's, with these states and widths, to be run on the device."""
    alone = with_single(files, SINGLE_CUDA)
    if device.kind == "cpu":
        alone[SINGLE] = apart(alone[SINGLE], states)
    return alone


def by_single_steps(engine: Engine, signals: Sequence[Floats]) -> list[Floats]:
    """The outputs [T, O] of each signal [T, F]; all start fresh, in slots 1, 2, ..."""
    outputs = _empty(engine, signals)
    for t in range(max(map(len, signals))):
        going = [k for k, signal in enumerate(signals) if len(signal) > t]
        features = np.stack([signals[k][t] for k in going])[:, None]
        got = engine.run(rows(going, features, fresh=np.full(len(going), t == 0)))
        for k, row in zip(going, got, strict=True):
            outputs[k][t] = row[0]
    return outputs


def by_chunks(engine: Engine, signals: Sequence[Floats], rng: np.random.Generator) -> list[Floats]:
    """The same in chunks of random lengths, padded with rubbish that must not matter."""
    outputs, at = _empty(engine, signals), np.zeros(len(signals), np.int64)
    while going := [k for k, signal in enumerate(signals) if len(signal) > at[k]]:
        starts = at[going]
        parts = [signals[k][at[k] :][: rng.integers(1, _width(engine) + 1)] for k in going]
        features = _padded(parts, _width(engine), rng)
        lengths = np.array([len(part) for part in parts], np.int32)
        got = engine.run(rows(going, features, starts == 0, lengths))
        for k, start, row, length in zip(going, starts, got, lengths, strict=True):
            outputs[k][start : start + length] = row[:length]
        at[going] += lengths
    return outputs


def neighbour_difference(engine: Engine, signals: Sequence[Floats]) -> float:
    """The largest difference between a session's outputs among the others and alone."""
    together = by_single_steps(engine, signals)
    alone = [by_single_steps(engine, [signal])[0] for signal in signals]
    pairs = zip(together, alone, strict=True)
    return max(float(np.abs(ours - theirs).max()) for ours, theirs in pairs)


def rows(
    sessions: Sequence[int],
    features: Floats,
    fresh: np.ndarray,
    lengths: np.ndarray | None = None,
) -> EngineRows:
    """Rows of features [B, T, F] for sessions 0, 1, ..., whose slots are one above."""
    whole = np.full(len(sessions), features.shape[1], np.int32)
    slots = np.array(sessions, np.int64) + 1
    return EngineRows(slots, fresh, whole if lengths is None else lengths, features)


def _empty(engine: Engine, signals: Sequence[Floats]) -> list[Floats]:
    width = engine.manifest.outputs_width
    return [np.empty((len(signal), width), np.float32) for signal in signals]


def _width(engine: Engine) -> int:
    return engine.manifest.max_chunk


def _padded(parts: Sequence[Floats], width: int, rng: np.random.Generator) -> Floats:
    features = rng.choice(RUBBISH, (len(parts), width, parts[0].shape[1])).astype(np.float32)
    for row, part in zip(features, parts, strict=True):
        row[: len(part)] = part
    return features
