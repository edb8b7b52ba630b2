"""A bundle's recipe as the TOML it came of, so that whoever reads the page can repeat it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

BARE = re.compile(r"[A-Za-z0-9_-]+")


def as_toml(recipe: Mapping[str, Any]) -> str:
    """A CONFIG.toml of a recipe as the manifest has it: mappings, lists, texts and numbers."""
    return "\n".join(_lines(recipe, "")).lstrip("\n") + "\n"


def _lines(table: Mapping[str, Any], path: str) -> Iterator[str]:
    plain = {key: value for key, value in table.items() if not isinstance(value, Mapping)}
    if path and (plain or not table):
        yield f"\n[{path}]"
    for key, value in plain.items():
        yield f"{_key(key)} = {_text(value)}"
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _lines(value, f"{path}.{_key(key)}" if path else _key(key))


def _key(key: str) -> str:
    return key if BARE.fullmatch(key) else _text(key)


def _text(value: Any) -> str:
    """JSON's texts, numbers, truth values and lists are TOML's, all but one control character."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
