"""What `--state`, `--input`, `--output` and their like name. Names may hold ':' and '='."""

from __future__ import annotations

import re
from collections.abc import Collection

from training.errors import TrainingError

_AXIS = re.compile(r"(.*):(\d+)", re.DOTALL)


def axis_readings(text: str) -> list[tuple[str, int]]:
    """The ways to read NAME[:AXIS], the last ':' before digits as an axis first."""
    found = _AXIS.fullmatch(text)
    whole = [(text, 0)]
    return [(found[1], int(found[2])), *whole] if found else whole


def one(text: str, option: str, known: Collection[str]) -> tuple[str, int]:
    """The tensor and the batch axis that NAME[:AXIS] means.

    Raises:
        TrainingError: there is no such tensor; it lists those that there are.
    """
    for name, axis in axis_readings(text):
        if name in known:
            return name, axis
    raise TrainingError(f"{option} {text!r} names none of the graph's: {listed(known)}")


def pair(text: str, inputs: Collection[str], outputs: Collection[str]) -> tuple[str, str, int]:
    """The input, the output and the batch axis that IN=OUT[:AXIS] means.

    Raises:
        TrainingError: no such pair, or the text can be read in several ways.
    """
    for rest, axis in axis_readings(text):
        found = [(a, b) for a, b in _cuts(rest) if a in inputs and b in outputs]
        if len(found) > 1:
            raise TrainingError(f"--state {text!r} can be read as {found[0]} and as {found[1]}")
        if found:
            return *found[0], axis
    raise TrainingError(
        f"--state {text!r} is not IN=OUT[:AXIS] with an input and an output of the graph: "
        f"its inputs are {listed(inputs)}; its outputs are {listed(outputs)}"
    )


def valued(text: str, option: str, known: Collection[str]) -> tuple[str, str]:
    """The tensor and the value that NAME=VALUE means.

    Raises:
        TrainingError: no '=', or no such tensor.
    """
    name, equals, value = text.rpartition("=")
    if not equals:
        raise TrainingError(f"{option} {text!r} is not NAME=VALUE")
    if name not in known:
        raise TrainingError(f"{option} {text!r} names none of the graph's: {listed(known)}")
    return name, value


def listed(names: Collection[str]) -> str:
    """The names, for a message."""
    return ", ".join(map(repr, names)) or "none"


def _cuts(text: str) -> list[tuple[str, str]]:
    return [(text[:k], text[k + 1 :]) for k, letter in enumerate(text) if letter == "="]
