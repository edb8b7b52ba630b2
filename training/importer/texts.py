"""Reads what is typed: names of tensors (which may hold ':' and '='), shapes and numbers, checked
against what the graph declares.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.errors import TrainingError
from training.importer.original import KINDS, Edge

WORDS = {"true": "1", "false": "0"}
_AXIS = re.compile(r"(.*):(\d+)", re.DOTALL)


def _axis_readings(text: str) -> list[tuple[str, int | None]]:
    """The ways to read NAME[:AXIS], the last ':' before digits as an axis first."""
    found = _AXIS.fullmatch(text)
    whole = list[tuple[str, int | None]]([(text, None)])
    return [(found[1], int(found[2])), *whole] if found else whole


def tensor_of(text: str, option: str, known: Mapping[str, Edge]) -> tuple[str, int]:
    """The tensor and the batch axis that NAME[:AXIS] means: without a number, what the graph names
    so, or the first.

    Raises:
        TrainingError: there is no such tensor; it lists those that there are.
    """
    for name, axis in _axis_readings(text):
        if name in known:
            return name, known[name].batch if axis is None else axis
    raise TrainingError(f"{option} {text!r} names none of the graph's: {_listed(known)}")


def pair_of(
    text: str, inputs: Mapping[str, Edge], outputs: Collection[str]
) -> tuple[str, str, int]:
    """The input, the output and the batch axis that IN=OUT[:AXIS] means.

    Raises:
        TrainingError: no such pair, or the text can be read in several ways.
    """
    for rest, axis in _axis_readings(text):
        found = [(a, b) for a, b in _cuts(rest) if a in inputs and b in outputs]
        if len(found) > 1:
            raise TrainingError(f"--state {text!r} can be read as {found[0]} and as {found[1]}")
        if found:
            return *found[0], inputs[found[0][0]].open_axis if axis is None else axis
    raise TrainingError(
        f"--state {text!r} is not IN=OUT[:AXIS] with an input and an output of the graph: "
        f"its inputs are {_listed(inputs)}; its outputs are {_listed(outputs)}"
    )


def value_of(text: str, option: str, known: Collection[str]) -> tuple[str, str]:
    """The tensor and the value that NAME=VALUE means.

    Raises:
        TrainingError: no '=', or no such tensor.
    """
    name, equals, value = text.rpartition("=")
    if not equals:
        raise TrainingError(f"{option} {text!r} is not NAME=VALUE")
    if name not in known:
        raise TrainingError(f"{option} {text!r} names none of the graph's: {_listed(known)}")
    return name, value


def _listed(names: Collection[str]) -> str:
    """The names, for a message."""
    return ", ".join(map(repr, names)) or "none"


def _cuts(text: str) -> list[tuple[str, str]]:
    return [(text[:k], text[k + 1 :]) for k, letter in enumerate(text) if letter == "="]


def row_of(edge: Edge, axis: int, text: str | None, what: str, option: str) -> tuple[int, ...]:
    """A session's shape: as declared, and as `text` says where the graph leaves it open.

    Raises:
        TrainingError: `text` is no shape, does not fit, or is not there where it is needed.
    """
    given = None if text is None else _sizes(text, option)
    if edge.sizes is None:
        if given is None:
            raise TrainingError(f"{what} declares no shape: give a session's with {option}")
        return given
    if 0 in edge.sizes:
        raise TrainingError(f"{what} is {list(edge.sizes)}: a session would hold no value")
    if axis >= len(edge.sizes):
        raise TrainingError(f"{what} has {len(edge.sizes)} axes, and no batch axis {axis}")
    if len(edge.sizes) == 1 and edge.sizes[0] not in (None, 1) and what.startswith("state"):
        raise TrainingError(f"{what} is {edge.told()}: states of one axis are unsupported, but for "
                            f"[batch]; export it as [batch, {edge.sizes[0]}]")  # fmt: skip
    if edge.sizes[axis] not in (None, 1):
        raise TrainingError(
            f"{what} has {edge.sizes[axis]} on its batch axis {axis}: name another axis, "
            "or export the graph with a batch of 1 or an open one"
        )
    declared = [size for k, size in enumerate(edge.sizes) if k != axis]
    row = declared if given is None else list(given)
    if len(row) != len(declared) or any(
        a not in (None, b) for a, b in zip(declared, row, strict=True)
    ):
        shape = _shown(edge, axis)
        raise TrainingError(f"{option}: {what} is {shape}, which {text!r} does not fit")
    if None in row:
        raise TrainingError(f"{what} is {_shown(edge, axis)}: give a session's shape, "
                            f"without the batch axis, with {option}")  # fmt: skip
    return tuple(size for size in row if size is not None)


def _shown(edge: Edge, axis: int) -> str:
    sizes = ["?" if size is None else str(size) for size in edge.sizes or ()]
    sizes[axis] = "batch"
    return f"[{', '.join(sizes)}]"


def _sizes(text: str, option: str) -> tuple[int, ...]:
    parts = text.split(",") if text else []
    if not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise TrainingError(f"{option} {text!r} is not a list of whole numbers above 0, as 2,128")
    return tuple(map(int, parts))


def constant(edge: Edge, text: str) -> NDArray[Any]:
    """An input's value for good, of the shape that it declares; sizes left open become 1.

    Raises:
        TrainingError: the text is not of the input's type, or its values do not fit the shape.
    """
    if edge.dtype not in KINDS.values():
        raise TrainingError(f"--const {edge.name}: the input is {edge.dtype}, and no number")
    values = _numbers(text, edge.dtype, f"--const {edge.name}")
    shape = [size or 1 for size in edge.sizes or values.shape]
    try:
        return np.ascontiguousarray(np.broadcast_to(values, shape).reshape(shape))
    except ValueError as error:
        sizes = f"{values.size} values do not fit {shape}"
        raise TrainingError(f"--const {edge.name}: {sizes}") from error


def number(text: str, dtype: str, what: str) -> float:
    """A state's initial value.

    Raises:
        TrainingError: it is not one number, or not of the state's type.
    """
    values = _numbers(text, dtype, what)
    if values.size != 1:
        raise TrainingError(f"{what}: {text!r} is not one number")
    return float(values)


def _numbers(text: str, dtype: str, what: str) -> NDArray[Any]:
    """One number, or several with commas, that the type holds."""
    words = [WORDS.get(word.strip().lower(), word.strip()) for word in text.split(",")]
    try:
        kind = int if np.dtype(dtype).kind in "iub" else float
        numbers = [kind(word) for word in words]
        with np.errstate(over="ignore"):
            values = np.array(numbers[0] if len(numbers) == 1 else numbers).astype(dtype)
        if kind is int and values.astype(object).ravel().tolist() != numbers:
            raise ValueError
    except (ValueError, OverflowError, TypeError) as error:
        raise TrainingError(f"{what}: {text!r} is not {dtype}") from error
    if not np.isfinite(values).all():
        raise TrainingError(f"{what}: {text!r} is not finite in {dtype}")
    return values


def parse_span(text: str) -> tuple[float, float] | None:
    """LOW,HIGH.

    Raises:
        TrainingError: not two finite numbers in that order.
    """
    if not text:
        return None
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError as error:
        raise TrainingError(f"--range {text!r} is not LOW,HIGH") from error
    if not (np.isfinite([low, high]).all() and low < high):
        raise TrainingError(f"--range {text!r} is not LOW,HIGH with LOW below HIGH")
    return low, high
