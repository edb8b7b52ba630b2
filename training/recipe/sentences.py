"""What is wrong with a recipe, in one sentence: the setting's dotted key, what it must be, and what
was given instead."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

MUST = "must"
"""The type of an error whose message goes on after "must"."""
KINDS = {
    "string_type": "text",
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "dict_type": "a table",
    "model_type": "a table",
}
BOUNDS = {
    "greater_than": "be above {gt:g}",
    "greater_than_equal": "be at least {ge:g}",
    "less_than_equal": "be at most {le:g}",
    "less_than": "be from 0 to below {lt:g}",  # what has an upper bound is a share
    "too_short": "name at least one",
    "finite_number": "be a finite number",
}
Path = tuple[str | int, ...]


def sentence(error: ValidationError, whole: type[BaseModel], given: Mapping[str, Any]) -> str:
    """The first error of `whole`, made of `given`."""
    errors = sorted(error.errors(include_url=False), key=_is_section_missing)
    path, about = _first(errors, given)
    key, first = _dotted(path), about[0]
    if first["type"] == "missing":
        return f"{key} is missing"
    if first["type"] == "extra_forbidden":
        there = ", ".join(_table_at(whole, path[:-1]).model_fields)
        return f"{key} is no setting; there are {there}"
    if first["type"] == "value_error":  # of a whole table; the message begins with its key
        return f"{key}.{first['ctx']['error']}"
    return f"{key} must {_must(about)}, not {_plain(first['input'])!r}"


def _is_section_missing(each: ErrorDetails) -> bool:
    """What is wrong in the sections that are there comes first."""
    return each["type"] == "missing" and len(each["loc"]) == 1


def _first(errors: Sequence[ErrorDetails], given: Mapping[str, Any]) -> tuple[Path, list[Any]]:
    """Where the first error is, and all that is said of the place.

    A setting of several kinds has an error for each; what lies deepest is of the kind meant.
    """
    first, kind_at = _place(errors[0], given)
    if kind_at is None:
        return first, [errors[0]]
    start = errors[0]["loc"][:kind_at]
    here = [each for each in errors if each["loc"][:kind_at] == start]
    places = [_place(each, given)[0] for each in here]
    deepest = max(places, key=len)
    return deepest, [each for each, path in zip(here, places, strict=True) if path == deepest]


def _place(error: ErrorDetails, given: Any) -> tuple[Path, int | None]:
    """Where it is, without the kinds that pydantic names there, and where the first of them was."""
    path, kind_at = list[str | int](), None
    for k, key in enumerate(error["loc"]):
        inside = isinstance(given, Mapping) and key in given
        if inside or (isinstance(given, tuple) and isinstance(key, int)):
            given = given[key]
        elif error["type"] == "missing" and k == len(error["loc"]) - 1:
            given = None
        else:
            kind_at = k if kind_at is None else kind_at
            continue
        path.append(key)
    return tuple(path), kind_at


def _must(about: Sequence[Any]) -> str:
    """What is said of the value itself comes before what kinds it might have been of."""
    for each in about:
        kind, ctx = each["type"], each.get("ctx", {})
        if kind == MUST:
            return str(each["msg"])
        if kind == "literal_error":
            return "be one of " + str(ctx["expected"]).replace("'", "").replace(" or ", ", ")
        if kind in BOUNDS:
            return BOUNDS[kind].format(**ctx)
    return "be " + " or ".join(KINDS.get(each["type"], each["msg"]) for each in about)


def _dotted(path: Path) -> str:
    parts = (f"[{key}]" if isinstance(key, int) else f".{key}" for key in path)
    return "".join(parts).lstrip(".")


def _table_at(whole: type[BaseModel], path: Path) -> type[BaseModel]:
    """The settings under a path: a table, one that may be left out, or one of a table of them."""
    kind: Any = whole
    for key in path:
        kind = kind.model_fields[key].annotation if _is_table(kind) else get_args(kind)[-1]
        if type(None) in get_args(kind):
            kind = next(each for each in get_args(kind) if _is_table(each))
    found: type[BaseModel] = kind
    return found


def _is_table(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _plain(value: Any) -> Any:
    """As the file has it."""
    return [_plain(each) for each in value] if isinstance(value, tuple) else value
