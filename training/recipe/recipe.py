"""A recipe: CONFIG.toml parsed and checked. Every other part of training is driven by one.

docs/training.md shows whole files; each class here is a table of them.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from training.errors import TrainingError
from training.recipe.sentences import MUST, sentence

Precision = Literal["float32", "float16", "int8"]
Some = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Amount = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, lt=1)]
Focus = Annotated[float, Field(gt=0, le=10)]
Names = tuple[str, ...]
MEDIAN, MOST_LEVELS, MOST_HORIZONS = 0.5, 99, 48
NAME = re.compile(r"\w[\w. -]{0,199}")


class Settings(BaseModel):
    """A table of settings: nothing unknown, nothing converted but a whole number to a float."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Source(Settings):
    """The file of rows: `file`, inside the installed `package` if one is named.

    A relative path without a package starts at the recipe's folder. `reader` is module:function
    that makes a polars frame of a file that is neither CSV, JSON nor Parquet.
    """

    file: str = ""
    package: str = ""
    missing: Names = ("", "NA")
    reader: str = ""


class Table(Settings):
    """Which rows make a session, and in what order.

    A session ends where its `order` (a number, or a time: then in seconds) makes a step larger than
    `gap`. One of fewer than `shortest` rows is an error, or with `drop_short` left out. `derive`
    adds columns by SQL expressions over those there are; rows for which the SQL condition `where`
    does not hold are left out. `time_format` says how `order` writes its times, as in "%m/%d/%Y".
    Of several rows of a session at one time, the first or last in the file stays, or one with the
    mean of each number; else they are refused.
    """

    session: str
    order: str
    gap: Positive | None = None
    shortest: Annotated[int, Field(ge=2)] = 2
    drop_short: bool = False
    derive: dict[str, str] = {}
    where: str = ""
    time_format: str = ""
    duplicates: Literal["refuse", "first", "last", "mean"] = "refuse"


class FeatureColumn(Settings):
    """A feature: a number, or with `embedding` a category in so many dimensions."""

    unit: str = ""
    embedding: Count = 0
    missing: bool = False
    """Whether it may be missing, in the table and in what callers send (as NaN)."""


class TargetColumns(Settings):
    """What to predict: one class, values, or with `next` features (all numbers, if none is named).

    The target of a step is read `horizon` steps later (0; for `next`, 1); a list of horizons makes
    of each value one for each. `difference` learns the change from the present value, for values
    that are features. `labels` fixes the order of the classes. Steps whose target is missing are
    passed over if `missing` says so.

    With `quantiles` a value is put out as those of its distribution, the median among them. Classes
    may be learned by the focal loss of exponent `focal`, and their probabilities are calibrated by
    a `temperature` unless that is false.
    """

    kind: Literal["class", "value", "next"] = "class"
    columns: Names = ()
    horizon: Count | tuple[Count, ...] | None = None
    difference: bool = False
    missing: bool = False
    units: dict[str, str] = {}
    labels: Names = ()
    weights: dict[str, Positive] | str = "equal"
    focal: Focus | None = None
    temperature: bool | None = None
    quantiles: tuple[float, ...] | None = None

    @field_validator("horizon")
    @classmethod
    def _ascends(cls, horizon: int | tuple[int, ...] | None) -> int | tuple[int, ...] | None:
        if isinstance(horizon, tuple):
            if not 0 < len(horizon) <= MOST_HORIZONS:
                raise PydanticCustomError(MUST, f"be 1 to {MOST_HORIZONS} whole numbers")
            if any(after <= before for before, after in pairwise(horizon)):
                raise PydanticCustomError(MUST, "ascend, each once")
        return horizon

    @field_validator("quantiles")
    @classmethod
    def _levels(cls, quantiles: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if quantiles is not None and (problem := problem_of_levels(quantiles)):
            raise PydanticCustomError(MUST, "{must}", {"must": problem})
        return quantiles

    @field_validator("weights")
    @classmethod
    def _known_words(cls, weights: dict[str, float] | str) -> dict[str, float] | str:
        if isinstance(weights, str) and weights not in ("equal", "balanced"):
            raise PydanticCustomError(MUST, 'be "equal", "balanced" or a table of labels')
        return weights

    @model_validator(mode="after")
    def _has_columns(self) -> Self:
        if self.kind == "class" and len(self.columns) != 1:
            raise ValueError("columns must name one column of classes")
        if self.kind == "value" and not self.columns:
            raise ValueError("columns must name at least one column")
        if self.kind == "next" and 0 in self.horizons:
            raise ValueError("horizon must be at least 1 where the next step is predicted")
        return self

    @model_validator(mode="after")
    def _fits_the_kind(self) -> Self:
        if self.kind == "class" and self.several:
            raise ValueError("horizon must be a whole number; lists are for values")
        if self.kind == "class" and self.quantiles is not None:
            raise ValueError("quantiles are of values; classes have probabilities")
        if self.kind != "class" and self.temperature is not None:
            raise ValueError("temperature is for classes; values have quantiles")
        if self.kind != "class" and self.focal is not None:
            raise ValueError("focal is for classes")
        if self.kind != "class" and self.weights != "equal":
            raise ValueError("weights are for classes")
        return self

    @property
    def several(self) -> bool:
        """Whether they are a list."""
        return isinstance(self.horizon, tuple)

    @property
    def horizons(self) -> tuple[int, ...]:
        """All there are, in steps."""
        if isinstance(self.horizon, tuple):
            return self.horizon
        return (self.horizon if self.horizon is not None else int(self.kind == "next"),)


class Split(Settings):
    """Which sessions (or times) are held out: a share, or the very sessions or groups."""

    by: Literal["session", "group", "time"] = "session"
    group: str = ""
    test: Share | tuple[str | int, ...] = 0.2
    validation: Share | tuple[str | int, ...] = 0.1
    seed: int = 1

    @model_validator(mode="after")
    def _has_group(self) -> Self:
        if self.by == "group" and not self.group:
            raise ValueError('group must name the column of the groups, where split.by is "group"')
        return self


class Mirror(Settings):
    """Features that change sign where feature `by` is 1."""

    by: str
    flip: Names


class NetworkShape(Settings):
    """The layers, with `norm` each normalised; and with `linear` what they add to: a linear model
    on the lags of `Baselines`, fitted before training begins."""

    cell: Literal["lstm", "gru", "rnn"] = "lstm"
    hidden: Some = 64
    layers: Some = 1
    dropout: Share = 0.0
    projection: Count = 0
    residual: bool = False
    norm: bool = False
    linear: bool = True
    clip: Positive = 10.0
    mirror: Mirror | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.projection and self.cell != "lstm":
            raise ValueError(f"projection is for cell lstm, not {self.cell}")
        if self.projection >= self.hidden:
            raise ValueError(f"projection must be below hidden, {self.hidden}")
        return self


class Variation(Settings):
    """How each epoch varies a session, for motion sensors: 0 is not at all.

    `rotate` names triples of axes that turn together, `rates` the features that grow with speed.
    """

    rotate: tuple[Names, ...] = ()
    rates: Names = ()
    rotation_degrees: Amount = 0.0
    scale: Share = 0.0
    speed: Share = 0.0
    noise: Amount = 0.0
    late_start: Share = 0.0

    @field_validator("rotate")
    @classmethod
    def _triples(cls, rotate: tuple[Names, ...]) -> tuple[Names, ...]:
        if any(len(triple) != 3 for triple in rotate):
            raise PydanticCustomError(MUST, "be lists of 3 features")
        return rotate


class Loop(Settings):
    """How to train. `window` is how many steps the gradient goes back; `batch` so many sessions lie
    side by side, or with "auto" as many as leave an epoch about 64 updates (from 4 to 64)."""

    epochs: Some = 30
    batch: Some | str = "auto"
    window: Some = 100
    rate: Annotated[float, Field(gt=0, le=1)] = 3e-3
    weight_decay: Amount = 0.01
    smoothing: Share = 0.0
    averaging: Share = 0.0
    warm_in: Count = 0
    clip_gradient: Positive = 1.0
    patience: Count = 0
    seed: Count = 1
    threads: Some = 1
    precision: str = "32-true"
    accelerator: str = "auto"
    devices: Some = 1
    machines: Some = 1
    strategy: str = "auto"

    @field_validator("batch")
    @classmethod
    def _auto(cls, batch: int | str) -> int | str:
        if isinstance(batch, str) and batch != "auto":
            raise PydanticCustomError(MUST, 'be "auto" or a whole number')
        return batch


class Baselines(Settings):
    """What the network is compared with: linear models and so many boosted `trees` (0: none) on
    `lags` steps before, learned from some `rows` rows; the value a `season` before, in steps (0:
    found by autocorrelation, where there is one); and NHITS, trained for so many steps (0: none),
    where neuralforecast is installed."""

    lags: Some = 6
    ridge: Amount = 1.0
    season: Count = 0
    trees: Count = 100
    rows: Some = 100_000
    nhits: Count = 0


def _folder_name(name: str) -> str:
    """The model's folder has its name."""
    if not NAME.fullmatch(name):
        raise PydanticCustomError(MUST, "be a folder's name of letters, digits and _ - . or spaces")
    return name


class Export(Settings):
    """The bundle's graphs."""

    precision: Precision = "float32"


class Recipe(Settings):
    """A whole CONFIG.toml."""

    name: Annotated[str, AfterValidator(_folder_name)]
    source: Source = Source()
    table: Table
    features: Annotated[dict[str, FeatureColumn], Field(min_length=1)]
    target: TargetColumns
    description: str = ""
    split: Split = Split()
    network: NetworkShape = NetworkShape()
    variation: Variation = Variation()
    loop: Loop = Loop()
    baselines: Baselines = Baselines()
    export: Export = Export()


def problem_of_levels(levels: Sequence[float]) -> str:
    """What quantiles must be and these are not; nothing where they may be asked for."""
    if not levels:
        return "name at least one"
    if len(levels) > MOST_LEVELS:
        return f"be at most {MOST_LEVELS}"
    if not all(0 < level < 1 for level in levels):
        return "each be above 0 and below 1"
    if any(after <= before for before, after in pairwise(levels)):
        return "ascend, each once"
    return "" if MEDIAN in levels else "have the median, 0.5, among them"


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
    """A recipe from plain values, as TOML and `to_mapping` have them.

    Raises:
        TrainingError: a setting is unknown, missing, or of the wrong type or range.
    """
    given = _with_tuples(raw)
    try:
        return Recipe.model_validate(given)
    except ValidationError as error:
        raise TrainingError(sentence(error, Recipe, given)) from None


def to_mapping(recipe: Recipe) -> dict[str, Any]:
    """A recipe as plain values, for the manifest; what is unset is left out."""

    mapping: dict[str, Any] = recipe.model_dump(mode="json", exclude_none=True)
    return mapping


def _with_tuples(value: Any) -> Any:
    """Lists as the tuples that settings are made of."""
    if isinstance(value, Mapping):
        return {key: _with_tuples(each) for key, each in value.items()}
    return tuple(map(_with_tuples, value)) if isinstance(value, list | tuple) else value


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
