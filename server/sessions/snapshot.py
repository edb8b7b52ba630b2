"""A session at rest: its state, count and remembered steps; and which bundle may take it in."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from server.bundle.manifest import Manifest, State
from server.errors import BadSnapshot
from tidegate.wire import MAX_STEP

SHOWN = 100


@dataclass(frozen=True)
class Tensor:
    """One state of one session."""

    name: str
    values: NDArray[Any]


@dataclass(frozen=True)
class Snapshot:
    """What a session is. `outputs` f32 [n, O] and `prints` u64 [n] are its latest steps'; `digest`
    tells of which bundle it is, whatever that is called."""

    model: str
    version: int
    digest: bytes
    session_id: str
    steps: int
    states: Sequence[Tensor]
    outputs: NDArray[np.float32]
    prints: NDArray[np.uint64]
    taken_at: float = field(default_factory=time.time)


def shown(value: object) -> str:
    """What a caller sent, in an error's text: cut, since replies have no room for long texts."""
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def check(snapshot: Snapshot, manifest: Manifest) -> None:
    """Refuse what is not a session of this very bundle.

    Raises:
        BadSnapshot: naming what differs.
    """
    ours, theirs = (manifest.name, manifest.version), (snapshot.model, snapshot.version)
    if ours != theirs:
        raise BadSnapshot(
            f"the snapshot is of model {theirs[0]!r} version {theirs[1]}, "
            f"not of {ours[0]!r} version {ours[1]}"
        )
    if snapshot.digest != manifest.digest:
        raise BadSnapshot(
            f"the snapshot is of another bundle that was called {ours[0]!r} version {ours[1]}: "
            f"its digest is {shown(snapshot.digest.hex())}, not {manifest.digest.hex()}"
        )
    if not 0 <= snapshot.steps <= MAX_STEP:
        raise BadSnapshot(f"the snapshot has {snapshot.steps} steps, out of range")
    _check_states(snapshot.states, manifest)
    _check_remembered(snapshot, manifest)


def _check_states(tensors: Sequence[Tensor], manifest: Manifest) -> None:
    names, expected = [each.name for each in tensors], [each.name for each in manifest.states]
    if names != expected:
        raise BadSnapshot(f"the snapshot has states {shown(names)}, the model has {expected}")
    for tensor, state in zip(tensors, manifest.states, strict=True):
        _check_state(tensor.values, state)


def _check_state(values: NDArray[Any], state: State) -> None:
    if (values.dtype.name, values.shape) != (state.dtype, state.shape):
        raise BadSnapshot(
            f"state {state.name!r} of the snapshot is {values.dtype.name} "
            f"{shown(list(values.shape))}, "
            f"the model's is {state.dtype} {list(state.shape)}"
        )
    if not np.isfinite(values).all():
        raise BadSnapshot(f"state {state.name!r} of the snapshot has values that are not finite")
    if values.dtype == np.bool_ and (np.frombuffer(values.tobytes(), np.uint8) > 1).any():
        raise BadSnapshot(f"state {state.name!r} of the snapshot has bytes other than 0 and 1")


def _check_remembered(snapshot: Snapshot, manifest: Manifest) -> None:
    count, width = len(snapshot.prints), manifest.outputs_width
    if snapshot.outputs.shape != (count, width) or count > snapshot.steps:
        raise BadSnapshot(
            f"the snapshot remembers {count} of {snapshot.steps} steps with "
            f"{snapshot.outputs.size} output values; the model has {width} a step"
        )
    if not np.isfinite(snapshot.outputs).all():
        raise BadSnapshot("the snapshot has remembered outputs that are not finite")
