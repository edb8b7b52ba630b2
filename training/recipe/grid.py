"""Settings that are tried: keys and values as `--set` takes them, and grids of those."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

from training.errors import TrainingError

Setting = tuple[tuple[str, str], ...]
"""Keys and values, which are TOML's."""


def axis_of(text: str, option: str) -> tuple[str, list[str]]:
    """A setting and the values to try, of KEY=A,B,...

    Raises:
        TrainingError: it is not of that form.
    """
    key, _, values = text.partition("=")
    if not key or not values:
        raise TrainingError(f"{option} must be KEY=A,B,..., not {text!r}")
    return key, values.split(",")


def settings(grid: Mapping[str, Sequence[str]]) -> list[Setting]:
    """Every combination of a grid."""
    pairs = [[(key, value) for value in values] for key, values in grid.items()]
    return list(itertools.product(*pairs))


def words(setting: Setting) -> list[str]:
    """As `--set` takes them: KEY=VALUE each."""
    return [f"{key}={value}" for key, value in setting]
