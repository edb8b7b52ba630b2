"""Orders a table's rows, splits them into parts and cuts them into sessions: where the name
changes, at gaps, and at a part's border.

Nobody's rows are in two parts when split by session or group; nothing of the training part lies
after anything of the other parts when split by time.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from training.errors import TrainingError
from training.recipe.recipe import Split, Table
from training.table.columns import Doubles, numbers, texts, times
from training.table.reading import ROW, Rows

log = logging.getLogger(__name__)
RUN = "__run__"
PARTS = ("training", "validation", "test", "new")
TRAIN, VALIDATION, TEST, NEW = range(4)
Parts = NDArray[np.int8]
PartsOf = Callable[[NDArray[np.str_], Doubles], Parts]
"""The part of each row, by its group (or session) and its place in the order."""
Held = float | tuple[str | int, ...]


@dataclass(frozen=True)
class Segment:
    """Rows `start` to `stop` of the ordered table, all of one session and one part."""

    name: str
    group: str
    part: int
    start: int
    stop: int


@dataclass(frozen=True)
class Segments:
    """The table in order, its order column, and its sessions one behind the other."""

    rows: Rows
    order: Doubles
    parts: Parts
    all: tuple[Segment, ...]


def cut(
    rows: Rows,
    table: Table,
    split: Split,
    averaged: Collection[str] = (),
    parts_of: PartsOf | None = None,
) -> Segments:
    """Order the rows, assign them to parts, and find the sessions.

    Args:
        averaged: columns of numbers, for duplicates of which the mean is wanted.
        parts_of: in place of the split, where another table was split before.

    Raises:
        TrainingError: a name or time is missing, two rows of a session have the same time (and
            `duplicates` does not say which stays), a session is too short or of several groups,
            or the split leaves a part without rows.
    """
    rows, sessions, order = _ordered(rows, table, averaged)
    groups = sessions
    if split.by == "group":
        groups = texts(rows, split.group, "split.group", missing=False).to_numpy().astype(str)
        _check_groups(rows, sessions, groups)
    if parts_of is not None:
        parts = parts_of(groups, order)
    else:
        parts = by_time(order, split) if split.by == "time" else by_unit(groups, split)
    starts = _starts(sessions, order, parts, table)
    stops = np.append(starts[1:], len(order))
    kept = _long_enough(rows, sessions, starts, stops, table)
    names = _names(sessions[starts])
    found = [
        Segment(names[k], str(groups[starts[k]]), int(parts[starts[k]]),
                int(starts[k]), int(stops[k]))
        for k in kept
    ]  # fmt: skip
    if parts_of is None:
        _check_parts(found, split)
    return Segments(rows, order, parts, tuple(found))


def _ordered(
    rows: Rows, table: Table, averaged: Collection[str]
) -> tuple[Rows, NDArray[np.str_], Doubles]:
    names = texts(rows, table.session, "table.session", missing=False)
    order = times(rows, table.order, table.time_format)
    index = np.lexsort((order, names.to_numpy().astype(str)))
    rows = Rows(rows.frame[index], rows.name, rows.source)
    sessions, order = names.to_numpy().astype(str)[index], order[index]
    same = (sessions[1:] == sessions[:-1]) & (np.diff(order) == 0)
    if not same.any():
        return rows, sessions, order
    if table.duplicates == "refuse":
        first = int(np.argmax(same))
        one, two = sorted(rows.frame[ROW][first : first + 2])
        raise TrainingError(
            f"{rows.name}, rows {one} and {two}: session {str(sessions[first])!r} has two rows of "
            f"the same {table.order!r} (table.duplicates may keep the first, last or mean)"
        )
    log.info("%s: table.duplicates takes the %s of rows of one session and time: %d fewer",
             rows.name, table.duplicates, same.sum())  # fmt: skip
    begins = np.append(True, ~same)
    return _merged(rows, begins, table.duplicates, averaged), sessions[begins], order[begins]


def _merged(
    rows: Rows,
    begins: NDArray[np.bool_],
    how: Literal["first", "last", "mean"],
    averaged: Collection[str],
) -> Rows:
    """One row for each that `begins` a run of rows of one time; `mean` takes texts of the first."""
    run = pl.Series(RUN, np.cumsum(begins))
    if how != "mean":
        kept = rows.frame.with_columns(run).unique(RUN, keep=how, maintain_order=True)
        return Rows(kept.drop(RUN), rows.name, rows.source)
    there = [name for name in averaged if name in rows.frame.columns]
    values = [pl.Series(name, numbers(rows, name, "table.duplicates", True)).fill_nan(None)
              for name in there]  # fmt: skip
    others = pl.all().exclude(*there, RUN).first() if there else pl.all().exclude(RUN).first()
    runs = rows.frame.with_columns(run, *values).group_by(RUN, maintain_order=True)
    frame = runs.agg(others, *(pl.col(name).mean() for name in there)).drop(RUN)
    return Rows(frame.select(rows.frame.columns), rows.name, rows.source)


def _starts(
    sessions: NDArray[np.str_], order: Doubles, parts: Parts, table: Table
) -> NDArray[np.int64]:
    new = (sessions[1:] != sessions[:-1]) | (parts[1:] != parts[:-1])
    if table.gap is not None:
        new |= np.diff(order) > table.gap
    return np.flatnonzero(np.append(True, new))


def _names(of: NDArray[np.str_]) -> list[str]:
    """A session cut into several is numbered."""
    counted = pl.DataFrame({"name": of}).select(
        "name", k=pl.int_range(pl.len()).over("name"), n=pl.len().over("name")
    )
    return [f"{name}#{k}" if n > 1 else name for name, k, n in counted.iter_rows()]


def _long_enough(
    rows: Rows,
    sessions: NDArray[np.str_],
    starts: NDArray[np.int64],
    stops: NDArray[np.int64],
    table: Table,
) -> NDArray[np.int64]:
    short = stops - starts < table.shortest
    if short.any() and not table.drop_short:
        k = int(np.argmax(short))
        count = int(stops[k] - starts[k])
        raise TrainingError(
            f"{rows.name}, row {rows.frame[ROW][int(starts[k])]}: session "
            f"{str(sessions[starts[k]])!r} has {count} row(s), fewer than {table.shortest} "
            "(table.shortest; table.drop_short leaves such sessions out)"
        )
    return np.flatnonzero(~short)


def _check_groups(rows: Rows, sessions: NDArray[np.str_], groups: NDArray[np.str_]) -> None:
    mixed = (groups[1:] != groups[:-1]) & (sessions[1:] == sessions[:-1])
    if mixed.any():
        row = rows.frame[ROW][int(np.argmax(mixed)) + 1]
        raise TrainingError(f"{rows.name}, row {row}: the session is of more than one group")


def _check_parts(found: list[Segment], split: Split) -> None:
    wanted = {TRAIN: 1.0, VALIDATION: split.validation, TEST: split.test}
    for part, share in wanted.items():
        if share and not any(segment.part == part for segment in found):
            raise TrainingError(f"split: no session is left in the {PARTS[part]} part")


def by_unit(units: NDArray[np.str_], split: Split) -> Parts:
    """The part of each row, all rows of a unit (a session's or group's name) in the same.

    Raises:
        TrainingError: a unit named does not exist, is named twice, or no unit is left to train on.
    """
    names = np.unique(units)
    order = np.random.default_rng(split.seed).permutation(names)
    test = _chosen(split.test, names, order, "test")
    rest = order[~np.isin(order, test)]
    validation = _chosen(split.validation, names, rest, "validation")
    if twice := sorted(set(test) & set(validation)):
        raise TrainingError(f"split: {twice[0]} is both in test and in validation")
    if len(test) + len(validation) >= len(names):
        raise TrainingError(f"split: of {len(names)} {split.by}s none is left to train on")
    parts = np.zeros(len(units), np.int8)
    parts[np.isin(units, validation)] = VALIDATION
    parts[np.isin(units, test)] = TEST
    return parts


def by_time(order: Doubles, split: Split) -> Parts:
    """The part of each row: the last rows in time are the test part, those before validation.

    Raises:
        TrainingError: the shares are not numbers, or leave no rows to train on.
    """
    test, validation = split.test, split.validation
    if isinstance(test, tuple) or isinstance(validation, tuple):
        raise TrainingError("split by time takes shares, not names")
    if test + validation >= 1:
        raise TrainingError(f"split: {test} and {validation} leave nothing to train on")
    cuts = np.quantile(order, [1 - test - validation, 1 - test])
    return np.searchsorted(cuts, order, side="left").astype(np.int8)


def folds(names: list[str], count: int, seed: int | None) -> list[tuple[str, ...]]:
    """Groups in `count` parts, each to be held out once: drawn, or without a seed neighbours.

    Raises:
        TrainingError: there are fewer groups than folds.
    """
    if count > len(names):
        raise TrainingError(f"{len(names)} groups cannot make {count} folds")
    order = np.array(names)
    if seed is not None:
        order = np.random.default_rng(seed).permutation(order)
    return [tuple(map(str, part)) for part in np.array_split(order, count)]


def _chosen(held: Held, names: NDArray[np.str_], order: NDArray[np.str_], part: str) -> list[str]:
    if isinstance(held, tuple):
        chosen = [str(name) for name in held]
        for name in chosen:
            if name not in names:
                raise TrainingError(f"split.{part}: there is no {name!r} in the table")
        return chosen
    count = max(1, round(held * len(names))) if held else 0
    return [str(name) for name in order[:count]]
