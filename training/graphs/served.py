"""Graphs in the server's own engine: what is measured and proven is what will be served."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from server.bundle import manifest as manifests
from server.bundle.repository import Bundle
from server.engine.device import Device
from server.engine.engine import Engine
from training.graphs.form import Form
from training.graphs.whole import graphs
from training.network import Network

MAX_CHUNK = 64


def serve(network: Network, form: Form, sessions: int, device: Device) -> Engine:
    """An engine for `sessions` sessions in slots 1, 2, ...

    Raises:
        BadModel: onnxruntime cannot run the form on the device.
    """
    return Engine(_bundle(network, graphs(network, form)), device, sessions)


def _bundle(network: Network, files: Mapping[str, bytes]) -> Bundle:
    """As little of a manifest as the engine needs."""
    text = {
        "format": manifests.FORMAT,
        "name": "candidate",
        "version": 1,
        "features": [{"name": f"x{k}"} for k in range(network.inputs)],
        "outputs": [{"name": "y", "size": network.outputs, "kind": "value"}],
        "states": [{"name": n, "shape": [w], "dtype": "float32"} for n, w in network.states()],
        "max_chunk": MAX_CHUNK,
        "max_batch": 4096,
        "files": {name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
    }
    return Bundle(manifests.parse(json.dumps(text).encode(), "candidate"), dict(files))
