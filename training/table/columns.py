"""Takes columns out of a table as numbers, times or texts; what does not fit has a name and a row.

The rows named are the file's own, counted from 1 without its header.
"""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

from training.errors import TrainingError
from training.table.reading import ROW, Rows

Doubles = NDArray[np.float64]


def require(rows: Rows, name: str, asked_by: str) -> pl.Series:
    """A column.

    Raises:
        TrainingError: there is none of that name.
    """
    if name not in rows.frame.columns:
        there = ", ".join(column for column in rows.frame.columns if column != ROW)
        raise TrainingError(f"{rows.name} has no column {name!r} ({asked_by}); it has {there}")
    return rows.frame[name]


def numbers(rows: Rows, name: str, asked_by: str, missing: bool) -> Doubles:
    """A column of finite numbers, NaN where missing; true is 1 and false is 0.

    Raises:
        TrainingError: a value is no number, is infinite, or is missing and may not be.
    """
    column = require(rows, name, asked_by)
    values = _truths(column).cast(pl.Float64, strict=False)
    bad = values.is_null() & column.is_not_null()
    if bad.any():
        raise at(rows, bad, name, f"{column.filter(bad)[0]!r} is no number")
    found = values.fill_null(np.nan).to_numpy().astype(np.float64)
    _refuse(rows, np.isinf(found), name, "the value is infinite")
    if not missing:
        _refuse(rows, np.isnan(found), name, f"the value is missing; {asked_by} does not allow it")
    return found


def texts(rows: Rows, name: str, asked_by: str, missing: bool) -> pl.Series:
    """A column as texts, null where missing.

    Raises:
        TrainingError: a value is missing and may not be.
    """
    column = require(rows, name, asked_by)
    if column.dtype.is_float() and column.drop_nulls().round().eq(column.drop_nulls()).all():
        column = column.cast(pl.Int64)  # 3.0 is the label 3
    column = column.cast(pl.String)
    if not missing and column.has_nulls():
        gone = column.is_null()
        raise at(rows, gone, name, f"the value is missing; {asked_by} does not allow it")
    return column


def times(rows: Rows, name: str) -> Doubles:
    """The order column: numbers as they are, dates and times as seconds since 1970.

    Raises:
        TrainingError: a value is neither, or missing.
    """
    column = require(rows, name, "table.order")
    if column.dtype == pl.String:
        column = _numbers_or_times(rows, column, name)
    if column.dtype.is_temporal():
        rows = Rows(rows.frame.with_columns(column.dt.epoch("us") / 1e6), rows.name, rows.source)
    return numbers(rows, name, "table.order", missing=False)


def at(rows: Rows, where: pl.Series, column: str, what: str) -> TrainingError:
    """The error for the first row that `where` marks."""
    row = rows.frame[ROW].filter(where)[0]
    return TrainingError(f"{rows.name}, row {row}, column {column!r}: {what}")


def _truths(column: pl.Series) -> pl.Series:
    if column.dtype != pl.String:
        return column
    return column.replace({"true": "1", "True": "1", "false": "0", "False": "0"})


def _numbers_or_times(rows: Rows, column: pl.Series, name: str) -> pl.Series:
    """Whichever more of the texts are; a text that is neither is refused."""
    as_numbers = column.cast(pl.Float64, strict=False)
    if as_numbers.null_count() == column.null_count():
        return as_numbers
    try:
        parsed = column.str.to_datetime(strict=False, time_zone="UTC", ambiguous="earliest")
    except pl.exceptions.PolarsError:  # it finds no format at all
        parsed = as_numbers
    best = min(parsed, as_numbers, key=lambda each: each.null_count())
    bad = best.is_null() & column.is_not_null()
    if bad.any():
        raise at(rows, bad, name, f"{column.filter(bad)[0]!r} is neither a number nor a time")
    return best


def _refuse(rows: Rows, where: NDArray[np.bool_], column: str, what: str) -> None:
    if where.any():
        raise at(rows, pl.Series(where), column, what)
