"""Gives a bundle the graph that later versions write beside those it has, and leaves the rest.

What it holds of sessions is not touched: its digest is the same, so that they go on. The graph is
made of network.npz, proven against `single.onnx`, and written before model.json names it: whoever
is interrupted leaves the bundle as it was, or as it is to be.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

from server.bundle.manifest import SINGLE, SINGLE_CUDA
from server.bundle.repository import MANIFEST
from training.errors import TrainingError
from training.graphs.whole import OPSETS, PRECISIONS, Form, single_graph, usual_form
from training.network import FILE
from training.verify import Opened, cuda_parity


def upgraded(opened: Opened) -> tuple[bytes, str] | None:
    """CUDA's graph of single steps, and how near it is to the CPU's; None if the bundle has one.

    Raises:
        TrainingError: it cannot have one, or the graph does not answer what `single.onnx` does.
    """
    if SINGLE_CUDA in opened.bundle.graphs:
        return None
    form = form_of(opened)
    assert opened.network is not None
    model = single_graph(opened.network, form, for_cuda=True)
    graph = model.SerializeToString(deterministic=True)
    graphs = opened.bundle.graphs | {SINGLE_CUDA: graph}
    return graph, cuda_parity(replace(opened, bundle=replace(opened.bundle, graphs=graphs)))


def form_of(opened: Opened) -> Form:
    """How the bundle's graph for CUDA is to be written.

    Raises:
        TrainingError: it cannot have one; the message says why.
    """
    if opened.precision == "int8":
        raise TrainingError("the bundle is in int8, which is for the CPU alone")
    if opened.network is None:
        raise TrainingError(f"the bundle has no {FILE}, of which graphs are made")
    if SINGLE not in opened.bundle.graphs:
        raise TrainingError(f"the bundle has no {SINGLE} to prove the new graph by")
    opset = opened.raw.get("opset")
    if opened.precision not in PRECISIONS or opset not in OPSETS:
        known = f"{', '.join(PRECISIONS)}; opset {', '.join(map(str, OPSETS))}"
        raise TrainingError(f"the bundle is in {opened.precision}, opset {opset}, not in {known}")
    return replace(usual_form(opened.network, opened.precision), opset=opset)


def put(folder: Path, opened: Opened, graph: bytes) -> None:
    """Write the graph, and the manifest that names it.

    Raises:
        OSError: the folder cannot be written to.
    """
    raw = json.loads(opened.bundle.text)
    raw["files"][SINGLE_CUDA] = hashlib.sha256(graph).hexdigest()
    if "form" in raw.get("export", {}):
        form = form_of(opened)
        raw["export"]["form"] |= {"cuda": form.cuda, "packed": form.packed}
    text = json.dumps(raw, indent=1, allow_nan=False) + "\n"
    for name, content in ((SINGLE_CUDA, graph), (MANIFEST, text.encode())):
        temporary = folder / f".{name}.writing"
        temporary.write_bytes(content)
        temporary.rename(folder / name)
