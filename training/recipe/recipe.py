"""A recipe: CONFIG.toml parsed and checked. Every other part of training is driven by one.

docs/training.md shows whole files; each class here is a table of them.
"""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from training.errors import TrainingError
from training.recipe.settings import Checked, build, setting

CELLS = ("lstm", "gru", "rnn")
KINDS = ("class", "value", "next")
SPLITS = ("session", "group", "time")
PRECISIONS = ("float32", "float16", "int8")


def _positive(value: float) -> bool:
    return value > 0


def _share(value: float) -> bool:
    return 0 <= value < 1


@dataclass(frozen=True)
class Source(Checked):
    """The file of rows: `file`, inside the installed `package` if one is named.

    A relative path without a package starts at the recipe's folder. `reader` is module:function
    that makes a polars frame of a file that is neither CSV, JSON nor Parquet.
    """

    file: str
    package: str = ""
    missing: tuple[str, ...] = ("", "NA")
    reader: str = ""


@dataclass(frozen=True)
class Table(Checked):
    """Which rows make a session, and in what order.

    A session ends where its `order` (a number, or a time: then in seconds) makes a step larger than
    `gap`. One of fewer than `shortest` rows is an error, or with `drop_short` left out. `derive`
    adds columns by SQL expressions over those there are.
    """

    session: str
    order: str
    gap: float | None = setting(None, lambda g: g is None or g > 0, "be above 0")
    shortest: int = setting(2, lambda n: n >= 2, "be at least 2")
    drop_short: bool = False
    derive: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class FeatureColumn(Checked):
    """A feature: a number, or with `embedding` a category in so many dimensions."""

    unit: str = ""
    embedding: int = setting(0, lambda n: n >= 0, "be at least 0")
    missing: bool = False
    """Whether it may be missing, in the table and in what callers send (as NaN)."""


@dataclass(frozen=True)
class TargetColumns(Checked):
    """What to predict: one class, values, or with `next` features (all numbers, if none is named).

    The target of a step is read `horizon` steps later (0; for `next`, 1). `difference` learns the
    change from the present value, for values that are features. `labels` fixes the order of the
    classes. Steps whose target is missing are passed over if `missing` says so.
    """

    kind: str = setting("class", lambda k: k in KINDS, f"be one of {', '.join(KINDS)}")
    columns: tuple[str, ...] = ()
    horizon: int | None = setting(None, lambda h: h is None or h >= 0, "be at least 0")
    difference: bool = False
    missing: bool = False
    units: dict[str, str] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    weights: dict[str, float] | str = setting(
        "equal",
        lambda w: isinstance(w, dict) or w in ("equal", "balanced"),
        'be "equal", "balanced" or a table of labels',
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kind == "class" and len(self.columns) != 1:
            raise TrainingError("columns must name one column of classes")
        if self.kind == "value" and not self.columns:
            raise TrainingError("columns must name at least one column")
        if self.kind == "next" and self.horizon == 0:
            raise TrainingError("horizon must be at least 1 where the next step is predicted")

    @property
    def ahead(self) -> int:
        """The horizon, in steps."""
        return self.horizon if self.horizon is not None else int(self.kind == "next")


@dataclass(frozen=True)
class Split(Checked):
    """Which sessions (or times) are held out: a share, or the very sessions or groups."""

    by: str = setting("session", lambda b: b in SPLITS, f"be one of {', '.join(SPLITS)}")
    group: str = ""
    test: float | tuple[str | int, ...] = setting(
        0.2, lambda t: isinstance(t, tuple) or _share(t), "be from 0 to below 1"
    )
    validation: float | tuple[str | int, ...] = setting(
        0.1, lambda t: isinstance(t, tuple) or _share(t), "be from 0 to below 1"
    )
    seed: int = 1


@dataclass(frozen=True)
class Mirror(Checked):
    """Features that change sign where feature `by` is 1."""

    by: str
    flip: tuple[str, ...]


@dataclass(frozen=True)
class NetworkShape(Checked):
    """The layers."""

    cell: str = setting("lstm", lambda c: c in CELLS, f"be one of {', '.join(CELLS)}")
    hidden: int = setting(64, _positive, "be at least 1")
    layers: int = setting(1, _positive, "be at least 1")
    dropout: float = setting(0.0, _share, "be from 0 to below 1")
    projection: int = setting(0, lambda p: p >= 0, "be at least 0")
    residual: bool = False
    clip: float = setting(10.0, _positive, "be above 0")
    mirror: Mirror | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.projection and self.cell != "lstm":
            raise TrainingError(f"projection is for cell lstm, not {self.cell}")
        if self.projection >= self.hidden:
            raise TrainingError(f"projection must be below hidden, {self.hidden}")


@dataclass(frozen=True)
class Variation(Checked):
    """How each epoch varies a session, for motion sensors: 0 is not at all.

    `rotate` names triples of axes that turn together, `rates` the features that grow with speed.
    """

    rotate: tuple[tuple[str, ...], ...] = setting(
        (), lambda r: all(len(triple) == 3 for triple in r), "be lists of 3 features"
    )
    rates: tuple[str, ...] = ()
    rotation_degrees: float = setting(0.0, lambda v: v >= 0, "be at least 0")
    scale: float = setting(0.0, _share, "be from 0 to below 1")
    speed: float = setting(0.0, _share, "be from 0 to below 1")
    noise: float = setting(0.0, lambda v: v >= 0, "be at least 0")
    late_start: float = setting(0.0, _share, "be from 0 to below 1")


@dataclass(frozen=True)
class Loop(Checked):
    """How to train. `window` is how many steps the gradient goes back."""

    epochs: int = setting(30, _positive, "be at least 1")
    batch: int = setting(64, _positive, "be at least 1")
    window: int = setting(100, _positive, "be at least 1")
    rate: float = setting(3e-3, _positive, "be above 0")
    weight_decay: float = setting(0.01, lambda v: v >= 0, "be at least 0")
    smoothing: float = setting(0.0, _share, "be from 0 to below 1")
    averaging: float = setting(0.0, _share, "be from 0 to below 1")
    warm_in: int = setting(0, lambda v: v >= 0, "be at least 0")
    clip_gradient: float = setting(1.0, _positive, "be above 0")
    patience: int = setting(0, lambda v: v >= 0, "be at least 0")
    seed: int = setting(1, lambda v: v >= 0, "be at least 0")
    threads: int = setting(1, _positive, "be at least 1")
    precision: str = "32-true"
    accelerator: str = "auto"
    devices: int = setting(1, _positive, "be at least 1")
    machines: int = setting(1, _positive, "be at least 1")
    strategy: str = "auto"


@dataclass(frozen=True)
class Baselines(Checked):
    """What a forecast is compared with: a ridge on so many steps before."""

    lags: int = setting(6, _positive, "be at least 1")
    ridge: float = setting(1.0, lambda v: v >= 0, "be at least 0")


@dataclass(frozen=True)
class Export(Checked):
    """The bundle's graphs."""

    precision: str = setting("float32", lambda p: p in PRECISIONS, f"be one of {PRECISIONS}")


@dataclass(frozen=True)
class Recipe(Checked):
    """A whole CONFIG.toml."""

    name: str
    source: Source
    table: Table
    features: dict[str, FeatureColumn] = setting(dataclasses.MISSING, bool, "name at least one")
    target: TargetColumns = setting(dataclasses.MISSING, lambda t: True, "")
    description: str = ""
    split: Split = Split()
    network: NetworkShape = NetworkShape()
    variation: Variation = Variation()
    loop: Loop = Loop()
    baselines: Baselines = Baselines()
    export: Export = Export()


def read_recipe(file: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a CONFIG.toml; an override is section.key=VALUE, VALUE as TOML writes it.

    Raises:
        TrainingError: the file cannot be read, is no TOML, or a setting does not fit.
    """
    try:
        raw = tomllib.loads(file.read_text())
    except OSError as error:
        raise TrainingError(f"{file} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise TrainingError(f"{file} is no TOML: {error}") from None
    for override in overrides:
        _override(raw, override)
    source = raw.get("source")
    if (
        isinstance(source, dict)
        and not source.get("package")
        and isinstance(source.get("file"), str)
    ):
        source["file"] = str(file.parent.resolve() / source["file"])
    return from_mapping(raw)


def from_mapping(raw: Mapping[str, Any]) -> Recipe:
    """A recipe from the mapping that `to_mapping` made."""
    return build(Recipe, raw, "")


def to_mapping(recipe: Recipe) -> dict[str, Any]:
    """A recipe as plain values, for the manifest; what is unset is left out."""

    def present(items: list[tuple[str, Any]]) -> dict[str, Any]:
        return {key: _plain(value) for key, value in items if value is not None}

    return dataclasses.asdict(recipe, dict_factory=present)


def _anchor(source: Any, folder: Path) -> None:
    """A file outside any package is named from the recipe's folder."""
    if not isinstance(source, dict) or source.get("package"):
        return
    if isinstance(source.get("file"), str):
        source["file"] = str(folder / source["file"])


def _plain(value: Any) -> Any:
    return [_plain(each) for each in value] if isinstance(value, tuple | list) else value


def _override(raw: dict[str, Any], text: str) -> None:
    path, _, value = text.partition("=")
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value  # text needs no quotes here
    *sections, key = path.strip().split(".")
    for section in sections:
        raw = raw.setdefault(section, {})
        if not isinstance(raw, dict):
            raise TrainingError(f"{path} is no setting: {section} is no table")
    raw[key] = parsed
