"""Observations as the packed float32 that travels: checked for their shape, copied once."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tidegate import errors
from tidegate.model import Model

FloatArray = NDArray[np.float32]

WIRE = np.dtype("<f4")


def one(features: ArrayLike, model: Model) -> bytes:
    """One observation [I].

    Raises:
        BadInput: it is not numbers, or not as many as the model has features.
    """
    array = floats(features)
    if array.shape != (len(model.features),):
        raise errors.bad_input(f"step() of {_shape(model, '{}')}, not {_found(array)}")
    return array.tobytes()


def many(features: ArrayLike, model: Model) -> FloatArray:
    """Several observations [T, I], step after step; raises as `one`."""
    array = floats(features)
    if array.ndim != 2 or array.shape[1] != len(model.features):
        raise errors.bad_input(f"chunk() of {_shape(model, '[steps, {}]')}, not {_found(array)}")
    return array


def rows(features: ArrayLike, count: int, model: Model) -> FloatArray:
    """A step or a chunk for each of `count` sessions: [N, I] or [N, T, I], as [N, T, I]; raises
    as `one`."""
    array = floats(features)
    wide = array[:, None, :] if array.ndim == 2 else array
    if wide.ndim != 3 or len(wide) != count or wide.shape[2] != len(model.features):
        shape = _shape(model, "[sessions, {0}] or [sessions, steps, {0}]")
        raise errors.bad_input(f"step_many() of {count} sessions: {shape}, not {_found(array)}")
    if not 1 <= wide.shape[1] <= model.max_chunk:
        raise errors.bad_input(
            f"step_many() of {wide.shape[1]} steps a session; {model.name} takes 1 to "
            f"{model.max_chunk}"
        )
    return wide


def floats(features: ArrayLike) -> FloatArray:
    """An array of float32 in the wire's byte order.

    Raises:
        BadInput: `features` are not numbers.
    """
    if isinstance(features, np.ndarray) and features.dtype == WIRE:
        return features
    try:
        with np.errstate(over="ignore"):  # too large for float32 is infinite: the server's to judge
            return np.asarray(features, dtype=WIRE)
    except (TypeError, ValueError) as error:
        raise errors.bad_input(f"features are not numbers: {error}") from error


def same(packed: bytes, other: bytes) -> bool:
    """Whether observations packed in as many bytes are the same to the server, to which NaN is one
    value, whatever its bits."""
    if packed == other:
        return True
    these, those = (np.frombuffer(each, WIRE) for each in (packed, other))
    bits = these.view("<u4") == those.view("<u4")
    return bool((bits | (np.isnan(these) & np.isnan(those))).all())


def _shape(model: Model, shape: str) -> str:
    names = model.feature_names
    listed = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
    return f"{model.name} takes {shape.format(len(names))} features ({listed})"


def _found(array: FloatArray) -> str:
    return f"an array of shape {list(array.shape)}"
