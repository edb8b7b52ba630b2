"""Writes a bundle: graphs, checksums and `model.json`. The server reads what this writes."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from training import graph
from training.network import Network

FORMAT = 1


def write_bundle(
    folder: Path,
    weights: Network,
    *,
    features: Sequence[Mapping[str, Any]],
    outputs: Sequence[Mapping[str, Any]],
    max_chunk: int = 64,
    max_batch: int = 4096,
    description: str = "",
    training: Mapping[str, Any] | None = None,
    parity: Mapping[str, float] | None = None,
) -> None:
    """Write `folder`, named .../NAME/VERSION, whole or not at all; an older bundle is replaced.

    Args:
        features: one entry a feature: name, unit, mean, std, min, max.
        outputs: one entry a group of outputs: name, size, kind, and unit or labels.

    Raises:
        ValueError: features or outputs do not have the weights' widths.
    """
    _check_widths(weights, features, outputs)
    manifest = {
        "format": FORMAT,
        "name": folder.parent.name,
        "version": int(folder.name),
        "description": description,
        "features": [dict(feature) for feature in features],
        "outputs": [dict(output) for output in outputs],
        "states": [
            {"name": name, "shape": [width], "dtype": "float32", "initial": 0.0}
            for name, width in weights.states()
        ],
        "max_chunk": max_chunk,
        "max_batch": max_batch,
        "opset": graph.OPSET,
        "training": dict(training or {}),
        "parity": dict(parity or {}),
    }
    _write(folder, manifest, _graphs(weights))


def _check_widths(
    weights: Network,
    features: Sequence[Mapping[str, Any]],
    outputs: Sequence[Mapping[str, Any]],
) -> None:
    if len(features) != weights.inputs:
        raise ValueError(f"{len(features)} features for {weights.inputs} inputs")
    size = sum(int(output["size"]) for output in outputs)
    if size != weights.outputs:
        raise ValueError(f"outputs of {size} values for {weights.outputs}")


def _graphs(weights: Network) -> dict[str, bytes]:
    return {
        "step.onnx": graph.step_graph(weights).SerializeToString(deterministic=True),
        "single.onnx": graph.single_graph(weights).SerializeToString(deterministic=True),
        "read.onnx": graph.read_graph(weights).SerializeToString(deterministic=True),
        "write.onnx": graph.write_graph(weights).SerializeToString(deterministic=True),
    }


def _write(folder: Path, manifest: dict[str, Any], graphs: dict[str, bytes]) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".writing-") as temporary:
        new = Path(temporary) / folder.name
        new.mkdir()
        for name, content in graphs.items():
            (new / name).write_bytes(content)
        manifest["files"] = {n: hashlib.sha256(c).hexdigest() for n, c in graphs.items()}
        (new / "model.json").write_text(json.dumps(manifest, indent=1) + "\n")
        if folder.exists():
            shutil.rmtree(folder)
        new.rename(folder)


def random_bundle(folder: Path, weights: Network) -> None:
    """A bundle of weights without a story, for tests and measurements."""
    write_bundle(
        folder,
        weights,
        features=[
            {"name": f"x{k}", "unit": "", "mean": float(m), "std": float(s)}
            for k, (m, s) in enumerate(zip(weights.mean, weights.std, strict=True))
        ],
        outputs=[{"name": "y", "size": weights.outputs, "kind": "value", "unit": ""}],
        description="random weights",
    )
