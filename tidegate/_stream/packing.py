"""What callers hand over, checked before it goes anywhere: observations, ids, names, numbers."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tidegate import errors, wire
from tidegate.model import FloatArray, Model

WIRE = np.dtype(wire.FLOAT)


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


def session_id(value: object, field: str = "session_id") -> str:
    """A session's id, as the server takes it.

    Raises:
        BadInput: it is no string of 1 to 256 bytes of UTF-8.
    """
    size = len(_utf8(value, field))
    if not 1 <= size <= wire.MAX_ID_BYTES:
        raise errors.bad_input(
            f"{field} must have 1 to {wire.MAX_ID_BYTES} bytes of UTF-8, not {size}", field
        )
    return str(value)


def bad_ids(ids: Sequence[object]) -> dict[int, errors.TidegateError]:
    """Why ids are none, by their place."""
    bad: dict[int, errors.TidegateError] = {}
    for at, each in enumerate(ids):
        try:
            session_id(each)
        except errors.BadInput as error:
            bad[at] = error
    return bad


def model_name(value: object) -> str:
    """A model's name; raises `BadInput` for what is no string."""
    _utf8(value, "model")
    return str(value)


def whole(value: object, field: str, below: int = 2**63) -> int:
    """A number from 0, such as a version; raises `BadInput` for what is none."""
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = -1
    if isinstance(value, bool) or not 0 <= number < below:
        raise errors.bad_input(f"{field} must be a whole number from 0, not {value!r:.80}", field)
    return number


def step_numbers(first_steps: ArrayLike, count: int) -> NDArray[np.uint64]:
    """Numbers of steps [count] as they travel; raises `BadInput` for what are none."""
    numbers = np.asarray(first_steps) if count else np.empty(0, np.uint64)
    if numbers.shape != (count,) or numbers.dtype.kind not in "iu" or (numbers < 0).any():
        raise errors.bad_input(
            f"first_steps must be {count} whole numbers from 0, not {numbers.dtype} "
            f"{list(numbers.shape)}", "first_steps"
        )  # fmt: skip
    if (numbers > wire.MAX_STEP).any():
        raise errors.bad_input(f"first_steps must be at most {wire.MAX_STEP}", "first_steps")
    return numbers.astype("<u8")


def seconds(timeout: float | None, usual: float) -> float:
    """The timeout of a call that asks for `timeout`; raises `BadInput` for what is no number."""
    if timeout is None:
        return usual
    try:
        if not math.isnan(timeout):
            return timeout
    except (TypeError, OverflowError):
        pass
    raise errors.bad_input(f"timeout must be a number of seconds, not {timeout!r:.80}", "timeout")


def _utf8(value: object, field: str) -> bytes:
    if not isinstance(value, str):
        raise errors.bad_input(f"{field} must be a string, not {value!r:.80}", field)
    try:
        return value.encode()
    except UnicodeEncodeError as error:
        raise errors.bad_input(
            f"{field} {value!r:.80} is no UTF-8: {error.reason}", field
        ) from None


def _shape(model: Model, shape: str) -> str:
    names = model.feature_names
    listed = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
    return f"{model.name} takes {shape.format(len(names))} features ({listed})"


def _found(array: FloatArray) -> str:
    return f"an array of shape {list(array.shape)}"
