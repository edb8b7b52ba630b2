"""From a recipe to a dataset: read, cut, encode, shift targets. What training begins with.

Features and targets of the ordered rows become arrays, and categories indices of labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from training.errors import TrainingError
from training.network import Floats
from training.recipe.recipe import FeatureColumn, Names, Recipe
from training.table.columns import Doubles, at, numbers, texts
from training.table.reading import Rows, read_rows
from training.table.segments import PARTS, TEST, TRAIN, VALIDATION, Parts, Segment, Segments, cut
from training.table.session import Dataset, Feature, Session, Target


def load(recipe: Recipe) -> Dataset:
    """The recipe's table as sessions in three parts.

    Raises:
        TrainingError: something about the table or its columns; it names the row, if there is one.
    """
    rows = read_rows(recipe.source, recipe.table)
    segments = cut(rows, recipe.table, recipe.split, number_columns(recipe))
    encoded = encode(segments.rows, segments.parts, recipe)
    train, validation, test = (
        tuple(session_of(segments, encoded, each) for each in segments.all if each.part == part)
        for part in (TRAIN, VALIDATION, TEST)
    )
    for part, sessions in ((TRAIN, train), (VALIDATION, validation), (TEST, test)):
        _check_targets(PARTS[part], sessions, max(encoded.target.horizons))
    return Dataset(encoded.features, encoded.target, train, validation, test, rows.source)


def number_columns(recipe: Recipe) -> set[str]:
    """The columns that are read as numbers."""
    target = recipe.target
    values = () if target.kind == "class" else target.columns
    return {*values, *(name for name, each in recipe.features.items() if not each.embedding)}


def session_of(segments: Segments, encoded: Encoded, segment: Segment) -> Session:
    """A segment's rows, each with the target that it is to say."""
    rows = slice(segment.start, segment.stop)
    y = _ahead(encoded.y[rows], encoded.target.horizons)
    order = segments.order[rows]
    return Session(segment.name, segment.group, as_floats(encoded.x[rows]), as_floats(y), order)


def _ahead(y: Doubles, horizons: Sequence[int]) -> Doubles:
    """In each column, row t holds what the row so many steps later held; the last ones have no
    target."""
    shifted = np.full_like(y, np.nan)
    for k, steps in enumerate(horizons):
        shifted[: max(0, len(y) - steps), k] = y[steps:, k]
    return shifted


def _check_targets(part: str, sessions: tuple[Session, ...], horizon: int) -> None:
    """A part with sessions has at least one step whose targets are all known."""
    if not sessions or any((~np.isnan(session.y)).all(axis=1).any() for session in sessions):
        return
    if max(len(session) for session in sessions) <= horizon:
        raise TrainingError(f"target.horizon: no session of the {part} part is longer than "
                            f"{horizon} steps, so no step has a target")  # fmt: skip
    raise TrainingError(f"target: it is missing at every step of the {part} part")


@dataclass(frozen=True)
class Terms:
    """The categories and classes that a bundle knows, by feature: another table is read in these
    terms, and may lack the target, or have one that never changes."""

    categories: Mapping[str, tuple[str, ...]]
    classes: tuple[str, ...]


@dataclass(frozen=True)
class Encoded:
    """All rows in order: x f64 [rows, F] with NaN where missing, y f64 [rows, 1 or O]."""

    features: tuple[Feature, ...]
    target: Target
    x: Doubles
    y: Doubles


def encode(rows: Rows, parts: Parts, recipe: Recipe, terms: Terms | None = None) -> Encoded:
    """Read the recipe's columns; what categories and classes there are, the training part says, or
    the `terms` of the bundle that was made of it.

    Raises:
        TrainingError: a column is missing or has a bad value, a feature is constant in the training
            part, a value to predict is, or a class is seen in another part alone.
    """
    columns = [_feature(rows, parts, *item, terms) for item in recipe.features.items()]
    features = tuple(feature for feature, _ in columns)
    x = np.stack([values for _, values in columns], axis=1)
    if terms is None:
        _check_constant(rows, parts, features, x)
    target, y = _target(rows, parts, recipe, features, terms)
    return Encoded(features, target, x, y)


def _feature(
    rows: Rows, parts: Parts, name: str, column: FeatureColumn, terms: Terms | None
) -> tuple[Feature, Doubles]:
    asked = f"features.{name}"
    if not column.embedding:
        feature = Feature(name, column.unit, missing=column.missing)
        return feature, numbers(rows, name, asked, column.missing)
    values = texts(rows, name, asked, column.missing)
    labels = terms.categories[name] if terms else _labels(values.filter(pl.Series(parts == TRAIN)))
    feature = Feature(name, column.unit, labels, column.missing)
    return feature, _indices(values, labels)


def _target(
    rows: Rows,
    parts: Parts,
    recipe: Recipe,
    features: tuple[Feature, ...],
    terms: Terms | None,
) -> tuple[Target, Doubles]:
    if recipe.target.kind == "class":
        return _classes_known(rows, recipe, terms) if terms else _classes(rows, parts, recipe)
    plain = {feature.name: k for k, feature in enumerate(features) if not feature.labels}
    columns = recipe.target.columns or tuple(plain)
    if recipe.target.difference or recipe.target.kind == "next":
        for name in columns:
            if name not in plain:
                raise TrainingError(f"target.columns: {name!r} is no feature that is a number")
    y = np.stack([_values(rows, name, recipe, terms is not None) for name in columns], axis=1)
    if terms is None:
        _check_varied(rows, parts, columns, y)
    target = _target_of_values(recipe, columns, features, plain)
    _check_names(target, features)
    return target, np.repeat(y, len(recipe.target.horizons), axis=1)


def _target_of_values(
    recipe: Recipe, columns: Names, features: Sequence[Feature], plain: Mapping[str, int]
) -> Target:
    """Each column at each horizon, the horizons of a column one behind the other."""
    told = recipe.target
    pairs = [(column, steps) for column in columns for steps in told.horizons]
    units = tuple(
        told.units.get(column, features[plain[column]].unit if column in plain else "")
        for column, _ in pairs
    )
    return Target(
        names=tuple(_name_at(*pair, told.horizons[0], told.several) for pair in pairs),
        units=units,
        horizon=told.horizons[0],
        add=tuple(plain[column] for column, _ in pairs) if told.difference else None,
        quantiles=told.quantiles or (),
        several=tuple(steps for _, steps in pairs) if told.several else (),
        columns=tuple(column for column, _ in pairs) if told.several else (),
    )


def _name_at(column: str, steps: int, nearest: int, several: bool) -> str:
    """One horizon alone has the column's name; of several the next step, which forecasts feed back
    by that name (or the present one)."""
    plain = not several or steps == nearest <= 1
    return column if plain else f"{column}_in_{steps}"


def _check_names(target: Target, features: Sequence[Feature]) -> None:
    """An output of a feature's name would be fed back as that in forecasts."""
    own = {target.column(k) for k in range(len(target.names))}
    taken = own | {feature.name for feature in features}
    names = [name for name in target.fan_names if name not in own]
    for name in names:
        if name in taken or names.count(name) > 1:
            raise TrainingError(f"target: an output would be called {name!r}, as another column or "
                                "output is; rename one (table.derive)")  # fmt: skip


def _check_varied(rows: Rows, parts: Parts, names: Sequence[str], y: Doubles) -> None:
    for k, name in enumerate(names):
        known = y[parts == TRAIN, k]
        known = known[~np.isnan(known)]
        if len(known) and known.min() == known.max():
            raise TrainingError(f"{rows.name}, column {name!r}: the target is {known[0]:g} in all "
                                "of the training part, so there is nothing to learn")  # fmt: skip


def _values(rows: Rows, name: str, recipe: Recipe, may_lack: bool) -> Doubles:
    if may_lack and name not in rows.frame.columns:
        return np.full(len(rows.frame), np.nan)
    optional = name in recipe.features and recipe.features[name].missing
    return numbers(rows, name, "target", missing=recipe.target.missing or optional)


def _classes(rows: Rows, parts: Parts, recipe: Recipe) -> tuple[Target, Doubles]:
    (name,) = recipe.target.columns
    values = texts(rows, name, "target", recipe.target.missing)
    seen = _labels(values.filter(pl.Series(parts == TRAIN)))
    for label in recipe.target.labels:
        if label not in seen:
            raise TrainingError(f"target.labels: {label!r} is not in the training part")
    labels = recipe.target.labels or seen
    unseen = ~values.is_in(list(labels)) & values.is_not_null()
    if unseen.any():
        k = int(np.argmax(unseen.to_numpy()))
        where = "target.labels" if values[k] in seen else "the training part"
        part = PARTS[parts[k]]
        raise at(rows, unseen, name, f"{values[k]!r}, in the {part} part, is not in {where}")
    if len(labels) < 2:
        raise TrainingError(f"{rows.name}, column {name!r}: there is only one class, {labels[0]!r}")
    target = Target((name,), ("",), labels, recipe.target.horizons[0])
    return target, _indices(values, labels)[:, None]


def _classes_known(rows: Rows, recipe: Recipe, terms: Terms) -> tuple[Target, Doubles]:
    (name,) = recipe.target.columns
    target = Target((name,), ("",), terms.classes, recipe.target.horizons[0])
    if name not in rows.frame.columns:
        return target, np.full((len(rows.frame), 1), np.nan)
    values = texts(rows, name, "target", missing=True)
    unseen = ~values.is_in(list(terms.classes)) & values.is_not_null()
    if unseen.any():
        raise at(rows, unseen, name, f"{values.filter(unseen)[0]!r} is no class of the bundle")
    return target, _indices(values, terms.classes)[:, None]


def _labels(values: pl.Series) -> tuple[str, ...]:
    """In order; by number where all are numbers."""
    found = values.drop_nulls().unique().to_list()
    try:
        return tuple(sorted(found, key=float))
    except ValueError:
        return tuple(sorted(found))


def _indices(values: pl.Series, labels: tuple[str, ...]) -> Doubles:
    index = values.replace_strict(list(labels), list(range(len(labels))), default=None,
                                  return_dtype=pl.Float64)  # fmt: skip
    return index.fill_null(np.nan).to_numpy().astype(np.float64)


def _check_constant(
    rows: Rows, parts: Parts, features: tuple[Feature, ...], x: NDArray[np.float64]
) -> None:
    for k, feature in enumerate(features):
        known = x[parts == TRAIN, k]
        known = known[~np.isnan(known)]
        if len(known) == 0:
            raise TrainingError(f"{rows.name}, column {feature.name!r}: every value of the "
                                "training part is missing")  # fmt: skip
        if known.min() == known.max():
            value = feature.labels[int(known[0])] if feature.labels else f"{known[0]:g}"
            raise TrainingError(f"{rows.name}, column {feature.name!r}: it is {value} in all of "
                                "the training part, so nothing can be learned from it")  # fmt: skip


def as_floats(values: Doubles) -> Floats:
    """For the network, which works in float32."""
    return values.astype(np.float32)
