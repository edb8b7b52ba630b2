"""A model that takes NaN for 0, in graphs of our own making: what a bundle may do with gaps."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import onnx
from onnx import helper

from training.bundle import write_bundle
from training.network import Network, random_network

WEIGHTS = random_network(5, 12, 2, 3, seed=7, softmax=False)
SIDES = ("left", "right")


def gappy_model(repository: Path) -> Network:
    """Write `small/1`: of its features x0..x4, x1 and x3 may be missing, and x4 has two labels."""
    features = [{"name": f"x{k}", "unit": "", "missing": k in (1, 3)} for k in range(5)]
    features[4]["labels"] = list(SIDES)
    folder = repository / "small" / "1"
    outputs = [{"name": "y", "size": 3, "kind": "value", "unit": ""}]
    write_bundle(folder, WEIGHTS, features=features, outputs=outputs)
    manifest = json.loads((folder / "model.json").read_text())
    for name in ("step.onnx", "single.onnx"):
        filled = _filled((folder / name).read_bytes())
        (folder / name).write_bytes(filled)
        manifest["files"][name] = hashlib.sha256(filled).hexdigest()
    (folder / "model.json").write_text(json.dumps(manifest))
    return WEIGHTS


def _filled(packed: bytes) -> bytes:
    """The graph with NaN in `input` replaced by 0 before anything else."""
    graph = (model := onnx.load_from_string(packed)).graph
    for node in graph.node:
        node.input[:] = ["input.filled" if name == "input" else name for name in node.input]
    zero = helper.make_tensor("input.zero", onnx.TensorProto.FLOAT, [], [0.0])
    graph.initializer.append(zero)
    graph.node.insert(0, helper.make_node("IsNaN", ["input"], ["input.gaps"]))
    names = ["input.gaps", "input.zero", "input"]
    graph.node.insert(1, helper.make_node("Where", names, ["input.filled"]))
    return bytes(model.SerializeToString())
