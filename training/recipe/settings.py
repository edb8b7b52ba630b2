"""Turns a TOML table into a frozen, checked dataclass; what does not fit is named by its key."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from training.errors import TrainingError

T = TypeVar("T")


def setting(default: Any, check: Callable[[Any], bool], must: str) -> Any:
    """A field with its default and what its value must be."""
    return dataclasses.field(default=default, metadata={"check": check, "must": must})


class Checked:
    """A dataclass whose settings are checked on construction.

    Raises:
        TrainingError: a value is out of its range; the message names the field.
    """

    def __post_init__(self) -> None:
        for each in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, each.name)
            if "check" in each.metadata and not each.metadata["check"](value):
                raise TrainingError(f"{each.name} must {each.metadata['must']}, not {value!r}")


def build(kind: type[T], values: Mapping[str, Any], where: str) -> T:
    """An instance of the dataclass `kind` from a TOML table.

    Raises:
        TrainingError: a key is unknown or missing, or a value has the wrong type or range.
    """
    known = {each.name: each for each in dataclasses.fields(kind)}  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            raise TrainingError(f"{where}{key} is no setting; there are {', '.join(known)}")
    hints = get_type_hints(kind)
    given = {key: _convert(hints[key], value, where + key) for key, value in values.items()}
    for name, each in known.items():
        if name not in given and _required(each):
            raise TrainingError(f"{where}{name} is missing")
    try:
        return kind(**given)
    except TrainingError as error:
        raise TrainingError(where + str(error)) from None


def _required(each: dataclasses.Field[Any]) -> bool:
    missing = dataclasses.MISSING
    return each.default is missing and each.default_factory is missing


def _convert(hint: Any, value: Any, where: str) -> Any:
    """`value` as `hint` says: a nested dataclass, a tuple of one kind, a dict, or a plain value."""
    if dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
        return build(hint, value, where + ".")  # type: ignore[arg-type]
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return _first(get_args(hint), value, where)
    if origin is tuple and isinstance(value, list):
        return tuple(_convert(get_args(hint)[0], each, f"{where}[{k}]") for k, each in
                     enumerate(value))  # fmt: skip
    if origin is dict and isinstance(value, Mapping):
        return {key: _convert(get_args(hint)[1], each, f"{where}.{key}")
                for key, each in value.items()}  # fmt: skip
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if origin is None and isinstance(hint, type) and type(value) is hint:
        return value
    raise TrainingError(f"{where} must be {_words(hint)}, not {value!r}")


def _first(hints: tuple[Any, ...], value: Any, where: str) -> Any:
    """By the first of several kinds that fits."""
    for hint in hints:
        try:
            return _convert(hint, value, where)
        except TrainingError as error:
            if not str(error).startswith(f"{where} must be"):
                raise  # the kind fits; something inside does not
    kinds = " or ".join(_words(hint) for hint in hints if hint is not type(None))
    raise TrainingError(f"{where} must be {kinds}, not {value!r}")


def _words(hint: Any) -> str:
    plain = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}
    if hint in plain:
        return plain[hint]
    return {tuple: "a list", dict: "a table"}.get(get_origin(hint), "a table")
