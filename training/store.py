"""A network as the bytes of `network.npz`: plain arrays and one line of JSON, never pickled."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.errors import TrainingError
from training.network import Embedding, Floats, Layer, Mirror, Network

FILE = "network.npz"
ARRAYS = ("w", "r", "b", "rb", "project")


def network_to_bytes(network: Network) -> bytes:
    """The same bytes for the same network."""
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {"structure": np.array(json.dumps(_structure(network)))}
    arrays |= dict(_arrays(network))
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def network_from_bytes(content: bytes) -> Network:
    """The network of `network_to_bytes`.

    Raises:
        TrainingError: it is none.
    """
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            return _network(json.loads(str(arrays["structure"])), arrays)
    except (ValueError, KeyError, TypeError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise TrainingError(f"{FILE} does not hold a network: {error}") from error


def _structure(network: Network) -> dict[str, Any]:
    mirror = network.mirror
    return {
        "clip": network.clip,
        "softmax": network.softmax,
        "mirror": None if mirror is None else {"by": mirror.by, "flip": list(mirror.flip)},
        "missing": list(network.missing),
        "add": None if network.add is None else list(network.add),
        "layers": [{"cell": each.cell, "residual": each.residual} for each in network.layers],
        "embeddings": [embedding.feature for embedding in network.embeddings],
    }


def _arrays(network: Network) -> Iterator[tuple[str, Floats]]:
    for name in ("mean", "std", "head_w", "head_b"):
        yield name, getattr(network, name)
    for k, layer in enumerate(network.layers):
        held = ((f"{name}{k}", getattr(layer, name)) for name in ARRAYS)
        yield from ((name, array) for name, array in held if array is not None)
    for k, embedding in enumerate(network.embeddings):
        yield f"table{k}", embedding.table


def _network(structure: dict[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Network:
    mirror, add = structure["mirror"], structure["add"]
    return Network(
        mean=arrays["mean"],
        std=arrays["std"],
        clip=float(structure["clip"]),
        layers=tuple(_layer(k, each, arrays) for k, each in enumerate(structure["layers"])),
        head_w=arrays["head_w"],
        head_b=arrays["head_b"],
        softmax=bool(structure["softmax"]),
        mirror=None if mirror is None else Mirror(mirror["by"], tuple(mirror["flip"])),
        embeddings=tuple(
            Embedding(feature, arrays[f"table{k}"])
            for k, feature in enumerate(structure["embeddings"])
        ),
        missing=tuple(structure["missing"]),
        add=None if add is None else tuple(add),
    )


def _layer(k: int, told: dict[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Layer:
    held = {name: arrays[f"{name}{k}"] for name in ARRAYS if f"{name}{k}" in arrays}
    return Layer(**held, cell=told["cell"], residual=told["residual"])
